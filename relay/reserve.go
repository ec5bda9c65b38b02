package relay

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/pb"

	"github.com/obelisk-network/obelisk/overlay"
)

// A reservation lets others reach this host by a circuit through a pillar. It
// ends with the connection to the pillar.

const (
	reserveTimeout = 15 * time.Second
	reservePoll    = 5 * time.Second // how often KeepReserved looks at its list at least
	backoffFirst   = time.Second
	backoffMax     = time.Minute
)

// slots are the reservations held, by pillar.
type slots struct {
	mu   sync.Mutex
	held map[peer.ID]time.Time // guarded by mu; when they end
}

// Reserve asks a pillar, which must be connected, to relay for this host, for
// an hour as a rule. ErrProtocol if it does not relay, ErrFull if it refuses,
// ErrUnreachable if it cannot be asked.
func (h *Host) Reserve(ctx context.Context, pillar peer.ID) error {
	ctx, cancel := context.WithTimeout(ctx, reserveTimeout)
	defer cancel()
	r, err := client.Reserve(ctx, h.host, peer.AddrInfo{ID: pillar})
	if err != nil {
		h.slots.set(pillar, time.Time{})
		return fmt.Errorf("reserve at %s: %w", pillar, h.reserveError(err))
	}
	h.slots.set(pillar, r.Expiration)
	return nil
}

func (h *Host) reserveError(err error) error {
	var re client.ReservationError
	if !errors.As(err, &re) {
		return h.dialError(err)
	}
	switch re.Status {
	case pb.Status_RESERVATION_REFUSED, pb.Status_RESOURCE_LIMIT_EXCEEDED, pb.Status_PERMISSION_DENIED:
		return fmt.Errorf("%w (%s)", overlay.ErrFull, re.Status)
	}
	if cause := re.Unwrap(); cause != nil {
		return h.dialError(cause)
	}
	return fmt.Errorf("%w: %w", overlay.ErrUnreachable, re)
}

// ReservedUntil is when the reservation at pillar ends unless it is renewed;
// the zero time if there is none.
func (h *Host) ReservedUntil(pillar peer.ID) time.Time {
	h.slots.mu.Lock()
	defer h.slots.mu.Unlock()
	return h.slots.held[pillar]
}

func (s *slots) set(p peer.ID, until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if until.IsZero() {
		delete(s.held, p)
		return
	}
	if s.held == nil {
		s.held = make(map[peer.ID]time.Time)
	}
	s.held[p] = until
}

// slot is KeepReserved's view of one connected pillar.
type slot struct {
	next  time.Time // when to renew, or to try again
	tries int       // failures in a row
}

// KeepReserved holds a reservation at every pillar of the list that is
// directly connected: it reserves as soon as it sees the connection, renews at
// half life, and after a refusal waits from a second up to a minute. It
// connects to nobody. pillars is called often and must not block. It returns
// when ctx ends.
func (h *Host) KeepReserved(ctx context.Context, pillars func() []peer.ID) error {
	changed := make(chan struct{}, 1)
	var watch sync.WaitGroup
	defer watch.Wait()
	watch.Go(func() {
		h.table.Watch(ctx, func(overlay.PeerEvent) {
			select {
			case changed <- struct{}{}:
			default:
			}
		})
	})
	state := make(map[peer.ID]*slot)
	due := time.NewTimer(0)
	defer due.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-due.C:
		}
		due.Reset(h.reserveDue(ctx, pillars(), state))
	}
}

// reserveDue asks the pillars whose time has come, one after the other, and
// returns when to look again.
func (h *Host) reserveDue(ctx context.Context, list []peer.ID, state map[peer.ID]*slot) time.Duration {
	kept := make(map[peer.ID]bool, len(list))
	for _, p := range list {
		info, ok := h.Info(p)
		if !ok || info.Path != overlay.PathDirect {
			continue // there is no reserving over a circuit
		}
		kept[p] = true
		s := state[p]
		if s == nil {
			s = &slot{}
			state[p] = s
		}
		gone := s.tries == 0 && h.ReservedUntil(p).IsZero() // with an earlier connection
		if ctx.Err() != nil || !gone && time.Now().Before(s.next) {
			continue
		}
		if err := h.Reserve(ctx, p); err != nil {
			wait := min(backoffFirst<<min(s.tries, 6), backoffMax)
			s.tries++
			s.next = time.Now().Add(wait/2 + rand.N(wait))
			h.log.Debug("no reservation", "pillar", p, "err", err)
			continue
		}
		s.tries = 0
		s.next = time.Now().Add(time.Until(h.ReservedUntil(p)) / 2)
	}
	wait := reservePoll
	for p, s := range state {
		if !kept[p] {
			delete(state, p)
			continue
		}
		wait = min(wait, max(0, time.Until(s.next)))
	}
	return wait
}
