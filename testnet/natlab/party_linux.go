package natlab

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/obelisk-network/obelisk/admin"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/testnet"
)

// party is one of two that talk: a node, and what it has received.
type party struct {
	name string
	node *testnet.Process
	api  *admin.NodeClient

	listening sync.WaitGroup

	mu      sync.Mutex
	heard   map[string]heard // guarded by mu; by text
	trouble error            // guarded by mu; why it listens no more
}

// heard is a message at its receiver.
type heard struct {
	at    time.Time
	path  overlay.Path
	times int
}

// join makes a party of a node, which listens until ctx ends.
func join(ctx context.Context, name string, node *testnet.Process) (*party, error) {
	api, err := node.Node()
	if err != nil {
		return nil, err
	}
	p := &party{name: name, node: node, api: api, heard: make(map[string]heard)}
	p.listening.Go(func() {
		err := api.Events(ctx, "", p.hear)
		p.mu.Lock()
		p.trouble = err
		p.mu.Unlock()
	})
	return p, nil
}

// hear notes what the node says has happened.
func (p *party) hear(e admin.StreamEvent) error {
	if e.Kind == overlay.EventResync {
		return nil // inbox has what was missed, without the times
	}
	if e.Kind != overlay.EventMessage || e.Message == nil || e.Message.Text == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.heard[*e.Message.Text]
	if h.times == 0 {
		h.at, h.path = time.Now(), e.Message.Path
	}
	h.times++
	p.heard[*e.Message.Text] = h
	return nil
}

// has returns how a text arrived, if it did.
func (p *party) has(text string) (heard, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h, ok := p.heard[text]
	return h, ok
}

// said is a message that one party sent the other.
type said struct {
	from, to *party
	text     string
	at       time.Time
}

// arrived is whether and how a message arrived.
func (s said) arrived() (after time.Duration, path overlay.Path, ok bool) {
	h, ok := s.to.has(s.text)
	return h.at.Sub(s.at), h.path, ok
}

// say sends a message and does not wait for anything.
func (p *party) say(ctx context.Context, to *party, text string) (said, error) {
	s := said{from: p, to: to, text: text, at: time.Now()}
	if _, err := p.api.Send(ctx, admin.SendRequest{To: []string{to.node.Account}, Text: &text}); err != nil {
		return s, fmt.Errorf("%s sends %q: %w", p.name, text, err)
	}
	return s, nil
}
