package obelisk

import (
	"context"

	"github.com/obelisk-network/obelisk/overlay"
)

// Nodes is a page of the directory as far as the node has read it, after an
// account; next is "" at its end.
func (n *Node) Nodes(after AccountID, limit int) (page []NodeEntry, next AccountID, err error) {
	return n.core().Nodes(after, limit)
}

// Pillars is who is a pillar of the network.
func (n *Node) Pillars() []overlay.NodePillar { return n.core().Pillars() }

// AddPillar tells the node of a pillar, a multiaddr with /p2p or a join link.
func (n *Node) AddPillar(ctx context.Context, addr string) error {
	inv, err := overlay.ParseInvitation(addr)
	if err != nil {
		return err
	}
	if err := n.core().AddPillar(ctx, inv); err != nil {
		return err
	}
	_, err = n.dir.remember([]string{addr})
	return err
}

// Resolve returns the account that to means: an account ID, a contact link, or
// the name of a local contact.
func (n *Node) Resolve(to string) (AccountID, error) { return n.core().Resolve(to) }

// Contacts are the accounts that were given names here.
func (n *Node) Contacts() ([]Contact, error) { return n.core().Contacts(), nil }

// AddContact gives an account a local name.
func (n *Node) AddContact(name string, a AccountID) error { return n.core().AddContact(name, a) }

// RenameContact gives a contact another name.
func (n *Node) RenameContact(who, name string) error { return n.core().RenameContact(who, name) }

// RemoveContact forgets a contact.
func (n *Node) RemoveContact(who string) error { return n.core().RemoveContact(who) }

// BlockContact says whether messages of a contact are refused.
func (n *Node) BlockContact(who string, on bool) error { return n.core().BlockContact(who, on) }

// VerifyContact notes that the user has compared the contact's ID.
func (n *Node) VerifyContact(who string, on bool) error { return n.core().VerifyContact(who, on) }
