package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/obelisk-network/obelisk/overlay"
)

// NodeClient asks a node's local API. Errors are *overlay.Error with the code
// that the node gave, or wrap ErrNotRunning.
type NodeClient struct{ c *client }

// NewNodeClient returns a client; it connects with the first request.
func NewNodeClient(t Target) (*NodeClient, error) {
	c, err := newClient(t)
	if err != nil {
		return nil, err
	}
	return &NodeClient{c}, nil
}

// Close gives idle connections back.
func (n *NodeClient) Close() { n.c.close() }

// Status is GET /v1/status.
func (n *NodeClient) Status(ctx context.Context) (s overlay.NodeStatus, err error) {
	err = n.c.do(ctx, "GET", "/v1/status", nil, nil, &s)
	return s, err
}

// Convergence is GET /v1/convergence: the node asks its pillars and checks what
// they say.
func (n *NodeClient) Convergence(ctx context.Context) ([]ConvergenceEntry, error) {
	return convergence(ctx, n.c)
}

// Send is POST /v1/messages. It returns when the message is in the state
// req.Wait, or in whatever state it is at the end of req.TimeoutMS.
func (n *NodeClient) Send(ctx context.Context, req SendRequest) (r SendResult, err error) {
	err = n.c.do(ctx, "POST", "/v1/messages", nil, req, &r)
	return r, err
}

// Inbox is GET /v1/messages?direction=in.
func (n *NodeClient) Inbox(ctx context.Context, after uint64, limit int, unackedOnly bool) (page InboxPage, err error) {
	q := messageQuery(DirectionIn, after, limit)
	if unackedOnly {
		q.Set("unacked", "true")
	}
	err = n.c.do(ctx, "GET", "/v1/messages", q, nil, &page)
	return page, err
}

// Outbox is GET /v1/messages?direction=out.
func (n *NodeClient) Outbox(ctx context.Context, after uint64, limit int) (page OutboxPage, err error) {
	err = n.c.do(ctx, "GET", "/v1/messages", messageQuery(DirectionOut, after, limit), nil, &page)
	return page, err
}

func messageQuery(direction string, after uint64, limit int) url.Values {
	q := url.Values{"direction": {direction}}
	if after > 0 {
		q.Set("after", strconv.FormatUint(after, 10))
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	return q
}

// Message is GET /v1/messages/{id}: a record ID or a handle.
func (n *NodeClient) Message(ctx context.Context, id string) (Message, error) {
	var raw json.RawMessage
	if err := n.c.do(ctx, "GET", "/v1/messages/"+url.PathEscape(id), nil, nil, &raw); err != nil {
		return Message{}, err
	}
	var m Message
	var head struct {
		Direction string `json:"direction"`
	}
	err := json.Unmarshal(raw, &head)
	if err == nil && head.Direction == DirectionIn {
		err = json.Unmarshal(raw, &m.In)
	} else if err == nil {
		err = json.Unmarshal(raw, &m.Out)
	}
	if err != nil {
		return Message{}, fmt.Errorf("message %s: answer: %w", id, err)
	}
	return m, nil
}

// Ack is POST /v1/messages/{id}/ack.
func (n *NodeClient) Ack(ctx context.Context, id overlay.RecordID) error {
	return n.c.do(ctx, "POST", "/v1/messages/"+id.String()+"/ack", nil, nil, nil)
}

// Nodes is GET /v1/nodes: a page after an account, "" for the first.
func (n *NodeClient) Nodes(ctx context.Context, after string, limit int) (NodePage, error) {
	return nodes(ctx, n.c, after, limit)
}

// Pillars is GET /v1/pillars.
func (n *NodeClient) Pillars(ctx context.Context) (list []NodePillarEntry, err error) {
	err = n.c.do(ctx, "GET", "/v1/pillars", nil, nil, &list)
	return list, err
}

// AddPillar is POST /v1/pillars: addr is a multiaddr with /p2p or a join link.
func (n *NodeClient) AddPillar(ctx context.Context, addr string) error {
	return n.c.do(ctx, "POST", "/v1/pillars", nil, addrRequest{addr}, nil)
}

// Netcheck is GET /v1/netcheck. It takes some seconds.
func (n *NodeClient) Netcheck(ctx context.Context) (c overlay.Netcheck, err error) {
	err = n.c.do(ctx, "GET", "/v1/netcheck", nil, nil, &c)
	return c, err
}

// Contacts is GET /v1/contacts.
func (n *NodeClient) Contacts(ctx context.Context) (list []overlay.Contact, err error) {
	err = n.c.do(ctx, "GET", "/v1/contacts", nil, nil, &list)
	return list, err
}

// AddContact is POST /v1/contacts. account is an account or a contact link;
// name may be "" if the link has one.
func (n *NodeClient) AddContact(ctx context.Context, name, account string) (c overlay.Contact, err error) {
	req := ContactRequest{Account: account}
	if name != "" {
		req.Name = &name
	}
	err = n.c.do(ctx, "POST", "/v1/contacts", nil, req, &c)
	return c, err
}

// ChangeContact is PATCH /v1/contacts/{name}: renames, blocks, verifies.
func (n *NodeClient) ChangeContact(ctx context.Context, name string, change ContactRequest) (c overlay.Contact, err error) {
	err = n.c.do(ctx, "PATCH", "/v1/contacts/"+url.PathEscape(name), nil, change, &c)
	return c, err
}

// RemoveContact is DELETE /v1/contacts/{name}.
func (n *NodeClient) RemoveContact(ctx context.Context, name string) error {
	return n.c.do(ctx, "DELETE", "/v1/contacts/"+url.PathEscape(name), nil, nil, nil)
}

// StreamEvent is an event with the ID that Events resumes after.
type StreamEvent struct {
	ID string
	overlay.Event
}

// Events is GET /v1/events: it calls fn for every event after lastID until ctx
// ends, fn fails or the connection breaks, and returns why. With lastID "" or
// one that cannot be resumed the first event is a resync.
func (n *NodeClient) Events(ctx context.Context, lastID string, fn func(StreamEvent) error) error {
	header := http.Header{"Accept": {"text/event-stream"}}
	if lastID != "" {
		header.Set("Last-Event-ID", lastID)
	}
	resp, err := n.c.start(ctx, "GET", "/v1/events", nil, nil, header)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20) // the largest message in base64 fits
	var ev StreamEvent
	var data string
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "id":
			ev.ID = value
		case "data":
			data = value
		case "":
			if lines.Text() != "" || data == "" { // a comment, or nothing yet
				continue
			}
			if err := json.Unmarshal([]byte(data), &ev.Event); err != nil {
				return fmt.Errorf("event: %w", err)
			}
			if err := fn(ev); err != nil {
				return err
			}
			ev, data = StreamEvent{}, ""
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	err = lines.Err()
	if err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return fmt.Errorf("%w: %s: the stream of events ended: %w", ErrNotRunning, n.c.target.Addr, err)
}
