package admin

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// Node is what a node's local API shows and steers. obelisk.Node is one.
type Node interface {
	Status() overlay.NodeStatus
	// Resolve turns what a person writes after "to" into an account: an account,
	// a contact link, or the name of a local contact.
	Resolve(to string) (identity.AccountID, error)
	Messages
	NodeNetwork
	Contacts
}

// Messages is what was sent and received.
type Messages interface {
	// SendMessage puts a message into the outbox and returns when it is on disk.
	SendMessage(ctx context.Context, m overlay.Outgoing) (overlay.OutMessage, error)
	// Wait returns when the message has reached want or a final state, or with
	// the state it has when ctx ends and ctx's error.
	Wait(ctx context.Context, h overlay.Handle, want overlay.State) (overlay.OutMessage, error)
	// Message finds a message by record ID or handle in hex.
	Message(id string) (Message, error)
	// Ack tells that the app has these messages; twice is fine.
	Ack(ids ...overlay.RecordID) error
	MessageLists
}

// MessageLists are pages, oldest first; next is 0 after the last.
type MessageLists interface {
	InboxPage(after uint64, limit int, unackedOnly bool) (page []overlay.InMessage, next uint64, err error)
	OutboxPage(after uint64, limit int) (page []overlay.OutMessage, next uint64, err error)
	// Subscribe calls fn for every event after the one numbered after, in order,
	// until ctx ends or fn fails. Where they are not all there any more, and for
	// after = 0, it begins with a resync event.
	Subscribe(ctx context.Context, after uint64, fn func(overlay.Event) error) error
}

// NodeNetwork is whom a node knows.
type NodeNetwork interface {
	Nodes(after identity.AccountID, limit int) (nodes []overlay.NodeEntry, next identity.AccountID, err error)
	Pillars() []overlay.NodePillar
	AddPillar(ctx context.Context, addr string) error
	// Convergence asks the pillars it is connected to for everybody's newest
	// summaries, verifies and compares them.
	Convergence(ctx context.Context) ([]overlay.Statement, error)
	// Netcheck finds out how it reaches others. It takes some seconds.
	Netcheck(ctx context.Context) (overlay.Netcheck, error)
}

// Contacts are a node's local contacts. Where it says who, a name or an account
// is taken.
type Contacts interface {
	Contacts() ([]overlay.Contact, error)
	AddContact(name string, a identity.AccountID) error
	RenameContact(old, name string) error
	RemoveContact(name string) error
	ContactMarks
}

// ContactMarks are what a user says of a contact.
type ContactMarks interface {
	BlockContact(who string, on bool) error
	VerifyContact(who string, on bool) error
}

// Bounds of how long POST /v1/messages waits.
const (
	defaultWait = 30 * time.Second
	maxWait     = 10 * time.Minute
)

// netcheckTime bounds one GET /v1/netcheck.
const netcheckTime = time.Minute

// maxTTL is the longest life of a message in seconds.
const maxTTL = int64(30 * 24 * time.Hour / time.Second)

// NewNodeHandler returns the local API of n.
func NewNodeHandler(n Node, cfg Config) http.Handler {
	m := newMux(cfg.Logger)
	a := &nodeAPI{n: n, events: newEventStreams()}
	handleNodePages(m, n)
	m.handle("GET", "/v1/status", answer(func(*http.Request) (overlay.NodeStatus, error) { return n.Status(), nil }))
	m.handle("POST", "/v1/messages", a.send)
	m.handle("GET", "/v1/messages", a.list)
	m.handle("GET", "/v1/messages/{id}", a.message)
	m.handle("POST", "/v1/messages/{id}/ack", a.ack)
	m.handle("GET", "/v1/nodes", answer(func(r *http.Request) (NodePage, error) { return nodePage(r, n.Nodes) }))
	m.handle("GET", "/v1/pillars", answer(func(*http.Request) ([]NodePillarEntry, error) { return nodePillars(n.Pillars()), nil }))
	m.handle("POST", "/v1/pillars", func(w http.ResponseWriter, r *http.Request) error {
		return addPillar(w, r, n.AddPillar)
	})
	m.handle("GET", "/v1/convergence", answer(func(r *http.Request) ([]ConvergenceEntry, error) {
		list, err := n.Convergence(r.Context())
		return NewConvergence(list, time.Now()), err
	}))
	m.handle("GET", "/v1/netcheck", func(w http.ResponseWriter, r *http.Request) error {
		allow(w, netcheckTime)
		c, err := n.Netcheck(r.Context())
		if err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, c)
		return nil
	})
	m.handle("GET", "/v1/contacts", answer(func(*http.Request) ([]overlay.Contact, error) {
		list, err := n.Contacts()
		return listed(list), err
	}))
	m.handle("POST", "/v1/contacts", a.addContact)
	m.handle("PATCH", "/v1/contacts/{name}", a.changeContact)
	m.handle("DELETE", "/v1/contacts/{name}", a.removeContact)
	m.handle("GET", "/v1/events", a.streamEvents)
	m.describes("Obelisk node", nodeOps)
	return newGuard(cfg, false, m)
}

type nodeAPI struct {
	n      Node
	events *eventStreams
}

func (a *nodeAPI) send(w http.ResponseWriter, r *http.Request) error {
	var req struct {
		SendRequest
		TTLS *int64 `json:"ttl_s"` // a life of 0 is a mistake, none means the default
	}
	if err := readJSON(r, &req); err != nil {
		return err
	}
	if req.TTLS != nil {
		if req.SendRequest.TTLS = *req.TTLS; *req.TTLS == 0 {
			return overlay.Refuse(overlay.CodeBadRequest, "ttl_s=0: want 1 to %d, 30 days, or leave it out", maxTTL)
		}
	}
	out, err := a.outgoing(&req.SendRequest)
	if err != nil {
		return err
	}
	wait := defaultWait
	if req.TimeoutMS < 0 || req.TimeoutMS > maxWait.Milliseconds() {
		return overlay.Refuse(overlay.CodeBadRequest, "timeout_ms: want 0 to %d", maxWait.Milliseconds())
	} else if req.TimeoutMS > 0 {
		wait = time.Duration(req.TimeoutMS) * time.Millisecond
	}
	allow(w, wait+requestTime)
	m, err := a.n.SendMessage(r.Context(), out)
	if err != nil {
		return err
	}
	if req.Wait != "" && !m.State.Reached(req.Wait) {
		ctx, cancel := context.WithTimeout(r.Context(), wait)
		defer cancel()
		later, err := a.n.Wait(ctx, m.Handle, req.Wait)
		switch {
		case err == nil:
			m = later
		case !errors.Is(err, context.DeadlineExceeded):
			return err
		case later.Handle == m.Handle:
			m = later // as far as it came; the caller sees the state
		}
	}
	writeJSON(w, http.StatusOK, NewSendResult(&m))
	return nil
}

func (a *nodeAPI) outgoing(req *SendRequest) (overlay.Outgoing, error) {
	var out overlay.Outgoing
	if len(req.To) == 0 || len(req.To) > overlay.MaxTo {
		return out, overlay.Refuse(overlay.CodeBadRequest, "to: want 1 to %d recipients", overlay.MaxTo)
	}
	if (req.Text == nil) == (req.Body == nil) {
		return out, overlay.Refuse(overlay.CodeBadRequest, "want either text or body_base64")
	}
	switch req.Wait {
	case "", overlay.StateQueued, overlay.StateStored, overlay.StateReplicated, overlay.StateDelivered:
	default:
		return out, overlay.Refuse(overlay.CodeBadRequest, "wait=%q: want queued, stored, replicated or delivered", req.Wait)
	}
	if req.TTLS < 0 || req.TTLS > maxTTL {
		return out, overlay.Refuse(overlay.CodeBadRequest, "ttl_s=%d: want 1 to %d, 30 days", req.TTLS, maxTTL)
	}
	for _, to := range req.To {
		account, err := a.n.Resolve(to)
		if err != nil {
			return out, err
		}
		out.To = append(out.To, account)
	}
	out.TTL = time.Duration(req.TTLS) * time.Second
	out.ClientID = req.ClientID
	if req.Text != nil {
		out.Type, out.Body = overlay.BodyText, []byte(*req.Text)
	} else {
		out.Type, out.Body = overlay.BodyBytes, req.Body
	}
	return out, nil
}

func (a *nodeAPI) list(w http.ResponseWriter, r *http.Request) error {
	after, err := afterOf(r)
	if err != nil {
		return err
	}
	limit, err := limitOf(r)
	if err != nil {
		return err
	}
	switch d := r.URL.Query().Get("direction"); d {
	case DirectionIn:
		page, next, err := a.n.InboxPage(after, limit, r.URL.Query().Get("unacked") == "true")
		if err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, InboxPage{listed(page), next})
	case DirectionOut:
		page, next, err := a.n.OutboxPage(after, limit)
		if err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, OutboxPage{listed(page), next})
	default:
		return overlay.Refuse(overlay.CodeBadRequest, "direction=%q: want in or out", d)
	}
	return nil
}

func (a *nodeAPI) message(w http.ResponseWriter, r *http.Request) error {
	m, err := a.n.Message(r.PathValue("id"))
	if err != nil {
		return err
	}
	if m.In != nil {
		writeJSON(w, http.StatusOK, directedIn{DirectionIn, *m.In})
	} else {
		writeJSON(w, http.StatusOK, directedOut{DirectionOut, *m.Out})
	}
	return nil
}

func (a *nodeAPI) ack(w http.ResponseWriter, r *http.Request) error {
	var id overlay.RecordID
	if err := id.UnmarshalText([]byte(r.PathValue("id"))); err != nil {
		return err
	}
	if err := a.n.Ack(id); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, ackAnswer{id, true})
	return nil
}

type ackAnswer struct {
	ID    overlay.RecordID `json:"id"`
	Acked bool             `json:"acked"`
}

func (a *nodeAPI) addContact(w http.ResponseWriter, r *http.Request) error {
	var req ContactRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	account, claimed, isLink, err := overlay.ParseContactLink(req.Account)
	if err == nil && !isLink {
		account, err = identity.ParseAccount(req.Account)
	}
	if err != nil {
		return err
	}
	name := claimed // what the link calls it, unless the user says otherwise
	if req.Name != nil {
		name = *req.Name
	}
	if name == "" {
		return overlay.Refuse(overlay.CodeBadRequest, "the contact needs a name")
	}
	if err := a.n.AddContact(name, account); err != nil {
		return err
	}
	return a.mark(w, http.StatusCreated, name, &req)
}

func (a *nodeAPI) changeContact(w http.ResponseWriter, r *http.Request) error {
	var req ContactRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	if req.Account != "" {
		return overlay.Refuse(overlay.CodeBadRequest, "a contact's account never changes: remove it and add another")
	}
	name := r.PathValue("name")
	if req.Name != nil && *req.Name != name {
		if err := a.n.RenameContact(name, *req.Name); err != nil {
			return err
		}
		name = *req.Name
	}
	return a.mark(w, http.StatusOK, name, &req)
}

// mark applies the marks of req and answers with the contact.
func (a *nodeAPI) mark(w http.ResponseWriter, status int, who string, req *ContactRequest) error {
	if req.Blocked != nil {
		if err := a.n.BlockContact(who, *req.Blocked); err != nil {
			return err
		}
	}
	if req.Verified != nil {
		if err := a.n.VerifyContact(who, *req.Verified); err != nil {
			return err
		}
	}
	list, err := a.n.Contacts()
	if err != nil {
		return err
	}
	for _, c := range list {
		if c.Name == who || c.Account.String() == who {
			writeJSON(w, status, c)
			return nil
		}
	}
	return overlay.Refuse(overlay.CodeNotFound, "no contact %q", who)
}

func (a *nodeAPI) removeContact(w http.ResponseWriter, r *http.Request) error {
	if err := a.n.RemoveContact(r.PathValue("name")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
