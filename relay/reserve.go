package relay

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/pb"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/proto"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/util"

	"github.com/obelisk-network/obelisk/overlay"
)

// A reservation lets others reach this host by a circuit through a pillar. It
// ends with the connection to the pillar.

const (
	reserveTimeout = 15 * time.Second
	reservePoll    = 5 * time.Second // how often KeepReserved looks at its list at least
	// For eagerFor after a connection came or went the list is looked at every
	// eagerPoll: what is connected comes on it when its owner has got to know it,
	// and until there is a reservation nobody reaches this host.
	eagerFor       = 5 * time.Second
	eagerPoll      = 100 * time.Millisecond
	backoffFirst   = time.Second
	backoffMax     = time.Minute
	reservationMax = 2 * time.Hour
	// maxReserving is how many pillars are asked at once: one that does not answer
	// must not keep the others waiting.
	maxReserving = 8
)

// Reservation is what came of asking a connected pillar to relay for this host.
type Reservation struct {
	Pillar peer.ID
	// Until is when it ends unless it is renewed; zero: there is none.
	Until time.Time
	// Err is what became of the last request, as Reserve returns it: ErrFull
	// means that another pillar should be used. nil: it was granted.
	Err error
	// Asked is when that was.
	Asked time.Time
}

// slots are the reservations held or refused, of connected pillars.
type slots struct {
	mu     sync.Mutex
	all    map[peer.ID]Reservation // guarded by mu
	asking map[peer.ID]int         // guarded by mu; requests that are not answered
}

// expect reports whether p may hand this host circuits: it keeps a place for it,
// or is being asked to and may have granted it, which this host does not know yet.
func (s *slots) expect(p peer.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asking[p] > 0 || s.all[p].Until.After(time.Now())
}

// ask notes that p is asked, until the returned function is called.
func (s *slots) ask(p peer.ID) (end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asking == nil {
		s.asking = make(map[peer.ID]int)
	}
	s.asking[p]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.asking[p]--; s.asking[p] == 0 {
			delete(s.asking, p)
		}
	}
}

// Reserve asks a pillar, which must be connected, to relay for this host, for
// an hour as a rule. ErrProtocol if it does not relay, ErrFull if it refuses,
// ErrUnreachable if it cannot be asked.
func (h *Host) Reserve(ctx context.Context, pillar peer.ID) error {
	defer h.slots.ask(pillar)()
	until, err := h.reserve(ctx, pillar)
	if err != nil {
		err = fmt.Errorf("reserve at %s: %w", pillar, err)
		h.slots.failed(pillar, err)
		return err
	}
	h.slots.granted(pillar, until)
	if _, ok := h.Info(pillar); !ok {
		h.slots.forget(pillar) // it went with the connection meanwhile
	}
	return nil
}

// reserve is libp2p's client.Reserve, except that it ends with ctx: that one
// waits for a silent relay for a minute.
func (h *Host) reserve(ctx context.Context, pillar peer.ID) (time.Time, error) {
	if info, ok := h.Info(pillar); ok && info.Path == overlay.PathRelayed {
		return time.Time{}, fmt.Errorf("%w: it is reached by a circuit only", overlay.ErrUnreachable)
	}
	ctx, cancel := context.WithTimeout(ctx, reserveTimeout)
	defer cancel()
	s, err := h.host.NewStream(ctx, pillar, proto.ProtoIDv2Hop)
	if err != nil {
		return time.Time{}, h.dialError(err)
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	defer stop()
	until, err := exchangeReservation(s)
	if err != nil {
		_ = s.Reset()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		if errors.Is(err, overlay.ErrFull) {
			return time.Time{}, err
		}
		return time.Time{}, h.dialError(err)
	}
	_ = s.Close()
	return until, nil
}

func exchangeReservation(s network.Stream) (time.Time, error) {
	if err := util.NewDelimitedWriter(s).WriteMsg(&pb.HopMessage{Type: pb.HopMessage_RESERVE.Enum()}); err != nil {
		return time.Time{}, err
	}
	var answer pb.HopMessage
	r := util.NewDelimitedReader(s, maxHopMessage)
	defer r.Close()
	if err := r.ReadMsg(&answer); err != nil {
		return time.Time{}, err
	}
	switch status := answer.GetStatus(); {
	case answer.GetType() != pb.HopMessage_STATUS:
		return time.Time{}, fmt.Errorf("%w: %s", errExchanged, answer.GetType())
	case status == pb.Status_RESERVATION_REFUSED || status == pb.Status_RESOURCE_LIMIT_EXCEEDED || status == pb.Status_PERMISSION_DENIED:
		return time.Time{}, fmt.Errorf("%w (%s)", overlay.ErrFull, status)
	case status != pb.Status_OK:
		return time.Time{}, fmt.Errorf("the relay says %s", status)
	}
	now := time.Now()
	until := time.Unix(int64(min(answer.GetReservation().GetExpire(), math.MaxInt32<<8)), 0)
	if !until.After(now) {
		return time.Time{}, errors.New("the reservation has ended already")
	}
	// It is renewed at half life; a pillar's clock must not put that off for long.
	return minTime(until, now.Add(reservationMax)), nil
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// ReservedUntil is when the reservation at pillar ends unless it is renewed;
// the zero time if there is none.
func (h *Host) ReservedUntil(pillar peer.ID) time.Time {
	h.slots.mu.Lock()
	defer h.slots.mu.Unlock()
	return h.slots.all[pillar].Until
}

// Reservations is what the connected pillars that were asked said last, in the
// order of their IDs.
func (h *Host) Reservations() []Reservation {
	h.slots.mu.Lock()
	defer h.slots.mu.Unlock()
	out := make([]Reservation, 0, len(h.slots.all))
	for _, r := range h.slots.all {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b Reservation) int {
		switch {
		case a.Pillar < b.Pillar:
			return -1
		case a.Pillar > b.Pillar:
			return 1
		}
		return 0
	})
	return out
}

func (s *slots) granted(p peer.ID, until time.Time) {
	s.set(Reservation{Pillar: p, Until: until, Asked: time.Now()})
}

// failed keeps a reservation that could not be renewed, unless the pillar said
// no.
func (s *slots) failed(p peer.ID, err error) {
	s.set(Reservation{Pillar: p, Err: err, Asked: time.Now()})
}

func (s *slots) set(r Reservation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = make(map[peer.ID]Reservation)
	}
	if r.Err != nil && !errors.Is(r.Err, overlay.ErrFull) && !errors.Is(r.Err, overlay.ErrProtocol) {
		if until := s.all[r.Pillar].Until; until.After(r.Asked) {
			r.Until = until
		}
	}
	s.all[r.Pillar] = r
}

// forget is for a pillar that is not connected any more.
func (s *slots) forget(p peer.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, p)
}

// slot is KeepReserved's view of one connected pillar.
type slot struct {
	next  time.Time // when to renew, or to try again
	tries int       // failures in a row
	busy  bool      // it is being asked
}

// reserveResult is the end of a request.
type reserveResult struct {
	pillar peer.ID
	err    error
}

// KeepReserved holds a reservation at every pillar of the list that is
// directly connected: it reserves as soon as it sees the connection, renews at
// half life, and after a refusal waits from a second up to a minute. It asks
// several pillars at once and connects to nobody. pillars is called often and
// must not block; Reconsider says that its list is another one. Reservations
// tells how it stands. It returns when ctx ends.
func (h *Host) KeepReserved(ctx context.Context, pillars func() []peer.ID) error {
	changed := make(chan struct{}, 1)
	results := make(chan reserveResult, maxReserving)
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() {
		h.table.Watch(ctx, func(overlay.PeerEvent) {
			select {
			case changed <- struct{}{}:
			default:
			}
		})
	})
	state := make(map[peer.ID]*slot)
	running := 0
	var eager time.Time
	due := time.NewTimer(0)
	defer due.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-h.choose:
			eager = time.Now().Add(eagerFor)
		case <-due.C:
		case r := <-results:
			running--
			if s := state[r.pillar]; s != nil {
				h.reserved(s, r)
			}
		}
		wait := h.cfg.reservePoll
		if time.Now().Before(eager) {
			wait = eagerPoll
		}
		for p, s := range h.reserveState(pillars(), state) {
			left := time.Until(s.next)
			gone := s.tries == 0 && h.ReservedUntil(p).IsZero() // with an earlier connection
			switch {
			case s.busy || running == maxReserving:
			case left > 0 && !gone:
				wait = min(wait, left)
			default:
				s.busy = true
				running++
				work.Go(func() { results <- reserveResult{p, h.Reserve(ctx, p)} })
			}
		}
		due.Reset(wait)
	}
}

// Reconsider has KeepReserved look at its list now. It does not block.
func (h *Host) Reconsider() {
	select {
	case h.choose <- struct{}{}:
	default: // it is about to
	}
}

// reserveState brings state in line with the list: there is no reserving over a
// circuit, and one that is being asked stays until it has answered.
func (h *Host) reserveState(list []peer.ID, state map[peer.ID]*slot) map[peer.ID]*slot {
	for _, p := range list {
		if info, ok := h.Info(p); ok && info.Path == overlay.PathDirect && state[p] == nil {
			state[p] = &slot{}
		}
	}
	for p, s := range state {
		if info, ok := h.Info(p); !s.busy && (!ok || info.Path != overlay.PathDirect || !slices.Contains(list, p)) {
			delete(state, p)
		}
	}
	return state
}

// reserved takes the end of a request.
func (h *Host) reserved(s *slot, r reserveResult) {
	s.busy = false
	if r.err != nil {
		wait := min(backoffFirst<<min(s.tries, 6), backoffMax)
		s.tries++
		s.next = time.Now().Add(wait/2 + rand.N(wait))
		h.log.Debug("no reservation", "pillar", r.pillar, "err", r.err)
		return
	}
	s.tries = 0
	s.next = time.Now().Add(time.Until(h.ReservedUntil(r.pillar)) / 2)
}
