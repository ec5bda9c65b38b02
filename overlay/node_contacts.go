package overlay

import (
	"cmp"
	"slices"
	"sync"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/internal/canon"
)

// maxContacts bounds the contacts of a node: what a session can watch.
const maxContacts = MaxWatched

// nodeContacts are the accounts that the user gave names to. They are local.
type nodeContacts struct {
	n  *Node
	mu sync.Mutex
	by map[identity.AccountID]*Contact // guarded by mu
}

func newNodeContacts(n *Node) *nodeContacts {
	return &nodeContacts{n: n, by: map[identity.AccountID]*Contact{}}
}

func (c *nodeContacts) load() error {
	return c.n.disk.table.Scan([]byte(keyContact), nil, func(key, data []byte) bool {
		r := canon.NewReader(data)
		r.Array(3)
		e := &Contact{Account: identity.AccountID(key[len(keyContact):])}
		e.Name, e.Blocked, e.Verified = string(r.Bin(MaxName)), r.UintMax(1) == 1, r.UintMax(1) == 1
		if r.End() == nil {
			c.by[e.Account] = e
		}
		return true
	})
}

// write is the contact's change of the table.
func (e *Contact) write() Write {
	b := canon.AppendArray(nil, 3)
	b = canon.AppendBin(b, e.Name)
	b = canon.AppendUint(b, uint64(btoi(e.Blocked)))
	b = canon.AppendUint(b, uint64(btoi(e.Verified)))
	return Write{nodeKey(keyContact, e.Account), b}
}

// blocked reports whether messages of a are refused.
func (c *nodeContacts) blocked(a identity.AccountID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.by[a]
	return e != nil && e.Blocked
}

// name is the local name of a, "" if it is no contact.
func (c *nodeContacts) name(a identity.AccountID) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.by[a]; e != nil {
		return e.Name
	}
	return ""
}

// has reports whether a is a contact.
func (c *nodeContacts) has(a identity.AccountID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.by[a] != nil
}

// accounts lists all contacts' accounts.
func (c *nodeContacts) accounts() []identity.AccountID {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]identity.AccountID, 0, len(c.by))
	for a := range c.by {
		list = append(list, a)
	}
	return list
}

// find returns the contact with that name or account. c.mu is held.
func (c *nodeContacts) find(who string) (*Contact, error) {
	if a, err := identity.ParseAccount(who); err == nil {
		if e := c.by[a]; e != nil {
			return e, nil
		}
		return nil, Refuse(CodeNotFound, "account %s is no contact", who)
	}
	for _, e := range c.by {
		if e.Name == who {
			return e, nil
		}
	}
	return nil, Refuse(CodeNotFound, "there is no contact named %q", who)
}

// taken refuses a name that cannot be used for account. c.mu is held.
func (c *nodeContacts) taken(name string, account identity.AccountID) error {
	if name == "" {
		return Refuse(CodeBadRequest, "a contact needs a name")
	}
	if err := CheckName(name); err != nil {
		return err
	}
	if _, err := identity.ParseAccount(name); err == nil {
		return Refuse(CodeBadRequest, "the name %q is an account ID", name)
	}
	for _, e := range c.by {
		if e.Name == name && e.Account != account {
			return Refuse(CodeBadRequest, "there is a contact named %q already: %s", name, e.Account)
		}
	}
	return nil
}

// change applies fn to a copy of the contact and keeps that.
func (c *nodeContacts) change(who string, fn func(*Contact) error) error {
	c.mu.Lock()
	e, err := c.find(who)
	if err != nil {
		c.mu.Unlock()
		return err
	}
	fresh := *e
	if err := fn(&fresh); err != nil {
		c.mu.Unlock()
		return err
	}
	c.by[e.Account] = &fresh
	g := c.n.disk.stage(fresh.write())
	c.mu.Unlock()
	c.n.direct.part(e.Account)
	return c.n.disk.commit(g)
}

// Contacts lists the contacts by name.
func (n *Node) Contacts() []Contact {
	n.contacts.mu.Lock()
	defer n.contacts.mu.Unlock()
	list := make([]Contact, 0, len(n.contacts.by))
	for _, e := range n.contacts.by {
		list = append(list, *e)
	}
	slices.SortFunc(list, func(a, b Contact) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// AddContact gives an account a name on this node. Adding it again with the
// same name changes nothing; another name, or a name in use, is CodeBadRequest.
func (n *Node) AddContact(name string, account identity.AccountID) error {
	if _, err := identity.AccountFromBytes([]byte(account)); err != nil {
		return Refuse(CodeBadRequest, "%v", err)
	}
	c := n.contacts
	c.mu.Lock()
	err := c.taken(name, account)
	if old := c.by[account]; err == nil && old != nil && old.Name != name {
		err = Refuse(CodeBadRequest, "account %s is the contact %q already: rename it", account, old.Name)
	} else if err == nil && old == nil && len(c.by) >= maxContacts {
		err = Refuse(CodeFull, "there are %d contacts already", len(c.by))
	}
	if err != nil || c.by[account] != nil {
		c.mu.Unlock()
		return err
	}
	e := &Contact{Name: name, Account: account}
	c.by[account] = e
	g := n.disk.stage(e.write())
	c.mu.Unlock()
	n.dir.want(account)
	return n.disk.commit(g)
}

// RenameContact gives a contact, named by its name or account, another name.
func (n *Node) RenameContact(who, name string) error {
	return n.contacts.change(who, func(e *Contact) error {
		e.Name = name
		return n.contacts.taken(name, e.Account)
	})
}

// RemoveContact forgets a contact, named by its name or account.
func (n *Node) RemoveContact(who string) error {
	c := n.contacts
	c.mu.Lock()
	e, err := c.find(who)
	if err != nil {
		c.mu.Unlock()
		return err
	}
	delete(c.by, e.Account)
	g := n.disk.stage(Write{Key: nodeKey(keyContact, e.Account)})
	c.mu.Unlock()
	n.direct.part(e.Account)
	return n.disk.commit(g)
}

// BlockContact says whether messages of a contact are refused: not shown, and
// answered with a receipt that says so.
func (n *Node) BlockContact(who string, on bool) error {
	return n.contacts.change(who, func(e *Contact) error { e.Blocked = on; return nil })
}

// VerifyContact notes whether the user compared the contact's account with its
// owner over another channel.
func (n *Node) VerifyContact(who string, on bool) error {
	return n.contacts.change(who, func(e *Contact) error { e.Verified = on; return nil })
}

// Resolve returns the account that to means: an account ID, a contact link, or
// a local contact's name, never a name that somebody only claims.
func (n *Node) Resolve(to string) (identity.AccountID, error) {
	if a, _, ok, err := ParseContactLink(to); ok {
		return a, err
	}
	if a, err := identity.ParseAccount(to); err == nil {
		return a, nil
	}
	n.contacts.mu.Lock()
	defer n.contacts.mu.Unlock()
	e, err := n.contacts.find(to)
	if err != nil {
		return "", Refuse(CodeNotFound, "%q is neither an account ID nor a contact link nor the name of a contact here", to)
	}
	return e.Account, nil
}
