package gossip

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// Bounds of following.
const (
	runQueue     = 4       // linked runs waiting to be applied
	applyEntries = 8192    // entries of one Apply, about
	applyBytes   = 4 << 20 // bytes of one Apply, about
	maxLogsOf    = 4096    // logs held of one pillar; further ones are not begun

	// History is applied in chunks of half a commit, two of them at a time: while
	// one is verified the other is written, and what is fresh waits for at most
	// one commit.
	historyEntries = 2048
	historyBytes   = 2 << 20
	historyApplies = 2
	// freshWithin is how close to the end of what its provider tells a run of a
	// live follow counts as fresh.
	freshWithin = 256
)

// follow is one log being followed from one provider: live, or a range of its
// history.
type follow struct {
	m        *Mesh
	log      overlay.LogID
	provider *session
	cancel   context.CancelCauseFunc
	live     bool
	probes   bool // a range that is asked for to see whose history is told
	ask      overlay.Follow

	begins  atomic.Uint64        // first entry the stream brings; 0 until that is known
	opening atomic.Pointer[lead] // behind which it begins, if the provider chose that
	reached atomic.Uint64        // last entry received
	top     atomic.Uint64        // of the log here, when something was stored last
	brought atomic.Uint64        // entries that were new here
	since   time.Time            // when it was started
	moved   atomic.Int64         // when bytes came last, Unix ns of time.Now
	reading atomic.Bool          // waiting for the provider, not for ourselves
	queued  atomic.Int64         // bytes of the provider's room that it has

	behind time.Time // since when others have more; only the supervisor uses it
}

// nowOn reports whether the provider chooses where the stream begins.
func (f *follow) nowOn() bool { return f.live && f.ask.From == beginning }

// busyError is a provider's refusal.
type busyError struct{ refusal *overlay.Error }

func (e busyError) Error() string { return "provider refused: " + e.refusal.Error() }

// elsewhereError is a provider without room for another live follower.
type elsewhereError struct{ to peer.ID }

func (e elsewhereError) Error() string { return "provider names " + e.to.String() }

// applyError is the Replica's refusal: nobody else's fault.
type applyError struct{ err error }

func (e applyError) Error() string { return "apply: " + e.err.Error() }
func (e applyError) Unwrap() error { return e.err }

// run follows until ctx ends, the stream does, or the provider is at fault. nil
// is the end of a range.
func (f *follow) run(ctx context.Context) error {
	open, cancel := context.WithTimeout(ctx, openTimeout)
	stream, err := f.m.cfg.Links.Open(open, f.provider.peer, overlay.ProtoFollow)
	cancel()
	if err != nil {
		return fmt.Errorf("open follow: %w", err)
	}
	defer stream.Reset()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(ctx, func() { stream.Reset() })()

	stream.SetWriteDeadline(time.Now().Add(openTimeout))
	if _, err := stream.Write(overlay.AppendFrame(nil, &f.ask)); err != nil {
		return fmt.Errorf("ask to follow: %w", err)
	}
	runs := make(chan *taken, runQueue)
	var reader sync.WaitGroup
	var readErr error
	reader.Go(func() {
		defer close(runs)
		readErr = f.read(ctx, stream, runs)
	})
	err = f.apply(ctx, stream, runs)
	stop()
	reader.Wait()
	f.provider.room.give(&f.queued, int(f.queued.Load()))
	if err != nil {
		return err
	}
	return readErr
}

// chain returns what checks the stream.
func (f *follow) chain() *chain {
	m := f.m
	c := &chain{network: m.cfg.Network, log: f.log, provider: f.provider.id, now: m.now,
		known: func(p identity.PillarID) bool {
			return m.knows(p) && (m.logs.holdsAny(f.log) || m.logs.written(p) < maxLogsOf && !m.forks.tooMany(p))
		}}
	c.apart = func() bool {
		skew, known := m.clocks.skew(f.provider.id)
		return known && skew.Abs() > clocksApart
	}
	if !f.live {
		c.limit = func(next uint64) *lead { return m.follows.ahead(f, next) }
	}
	if c.opening = f.ask.Before == (overlay.Hash{}); !c.opening {
		c.start(f.ask.From-1, f.ask.Before)
		f.begins.Store(f.ask.From)
	}
	return c
}

// read checks what the provider sends and hands on what links to signed heads.
func (f *follow) read(ctx context.Context, stream overlay.Stream, runs chan<- *taken) error {
	c := f.chain()
	frames := overlay.NewFrameReader(&moving{stream, &f.moved})
	frames.Accept()
	counted := 0 // bytes pending, as the provider is charged with
	defer func() { f.provider.pending.Add(-int64(counted)) }()
	for {
		f.reading.Store(true)
		msg, err := frames.Next()
		f.reading.Store(false)
		switch {
		case err == nil:
		case misframed(err) && ctx.Err() == nil:
			return faulty(faultFrame, "%v", err)
		case errors.Is(err, io.EOF) && !errors.Is(err, overlay.ErrCut) && !f.live && ctx.Err() == nil:
			return f.ended(c)
		default:
			return err
		}
		batch, ok := msg.(*overlay.Batch)
		if !ok {
			return f.refused(msg)
		}
		f.m.met.batchesReceived.Inc()
		if c.opening {
			if err := c.open(batch); err != nil {
				return err
			}
			f.opening.Store(headLead(f.log, batch.Head))
			f.reached.Store(c.next - 1)
			f.begins.Store(c.next)
			f.m.follows.opened(f, batch.Head)
			continue
		}
		void := c.void
		run, err := c.take(batch)
		f.m.met.entriesReceived.Add(float64(len(batch.Entries)))
		if c.void > void {
			f.m.met.void.Add(float64(c.void - void))
		}
		if err != nil {
			return err
		}
		if f.provider.pending.Add(int64(c.bytes-counted)) > maxPendingOf && c.bytes > maxPendingBytes/8 {
			counted = c.bytes
			return faulty(faultHead, "too much without heads, of all its logs")
		}
		counted = c.bytes
		// A head kept for history tells when what lies before it died; only at the
		// end of what the provider has does it speak of the whole log.
		if f.live && batch.Head.Dies <= f.m.now() && batch.Head.Seq >= f.provider.told(f.log).runs.top() {
			return errDied
		}
		f.reached.Store(c.next - 1)
		if run == nil {
			continue
		}
		if run.bytes > smallRun {
			run.counted = run.bytes
		}
		if err := f.provider.room.take(ctx, &f.queued, run.counted); err != nil {
			return err
		}
		select {
		case runs <- run:
		case <-ctx.Done():
			return ctx.Err()
		}
		if run.met {
			return nil
		}
	}
}

// refused is what an answer that is no Batch means.
func (f *follow) refused(msg overlay.Message) error {
	switch msg := msg.(type) {
	case *overlay.Busy:
		if msg.Err != nil {
			return busyError{msg.Err}
		}
	case *overlay.Elsewhere:
		return elsewhereError{peer.ID(msg.Peer)}
	case *overlay.Forked:
		return f.m.forks.answered(f.log, overlay.Mark{Seq: f.ask.From - 1, Hash: f.ask.Before}, msg)
	}
	return faulty(faultFrame, "message type %d", msg.Type())
}

// ended judges the graceful end of a range.
func (f *follow) ended(c *chain) error {
	switch {
	case c.opening:
		return faulty(faultOrder, "an end without a beginning")
	case len(c.pending) > 0:
		return faulty(faultHead, "an end without a head")
	case c.next == f.begins.Load() && c.next <= f.ask.To:
		if _, claims := f.provider.told(f.log).runs.find(c.next); claims {
			return faulty(faultClaim, "it says it holds entry %d, and does not send it", c.next)
		}
	}
	return nil
}

// moving notes when bytes come: a provider that sends a large frame over a slow
// path is not silent.
type moving struct {
	r  io.Reader
	at *atomic.Int64
}

func (m *moving) Read(b []byte) (int, error) {
	n, err := m.r.Read(b)
	m.at.Store(time.Now().UnixNano())
	return n, err
}

// apply stores runs, all that wait as one, and acks them.
func (f *follow) apply(ctx context.Context, stream overlay.Stream, runs <-chan *taken) error {
	var frame []byte
	var acked uint64
	for run := range runs {
		history := !f.live || run.last+freshWithin < f.provider.told(f.log).runs.top()
		relayed := run.State.Pillar != f.provider.id
		if history || relayed {
			run = gather(run, runs, historyEntries/8, historyBytes/8)
		} else {
			run = gather(run, runs, applyEntries, applyBytes)
		}
		// Who is not the log's pillar may be catching up itself, and have history
		// follow what it tells at once.
		history = history || relayed && len(run.Entries) > freshWithin
		state, err := f.store(ctx, run, history)
		f.provider.room.give(&f.queued, run.counted)
		if err != nil {
			return err
		}
		upTo := ackable(&state, f.begins.Load(), run.last)
		if upTo <= acked {
			continue
		}
		acked = upTo
		frame = overlay.AppendFrame(frame[:0], &overlay.Ack{Log: f.log, Seq: upTo})
		stream.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err := stream.Write(frame); err != nil {
			return fmt.Errorf("ack: %w", err)
		}
	}
	return nil
}

// store has the Replica take a run; history waits for its turn.
func (f *follow) store(ctx context.Context, run *taken, history bool) (state overlay.LogState, err error) {
	m := f.m
	if history {
		select {
		case m.follows.slots <- struct{}{}:
			defer func() { <-m.follows.slots }()
		case <-ctx.Done():
			return overlay.LogState{}, ctx.Err()
		}
	}
	if m.logs.isDead(f.log) {
		return overlay.LogState{}, errForked
	}
	held, _ := m.logs.state(f.log)
	fresh := spans{{run.From, run.last}}.minus(heldSpans(&held)).count()
	run.Notes = func() ([]overlay.Value, error) { return m.runNotes(f.log, run) }
	defer m.logs.settled(f.log, run)
	state, err = m.cfg.Replica.Apply(ctx, *run.LogRun)
	switch {
	case err == nil:
	case errors.Is(err, overlay.ErrConflict) && vague(run.Entries):
		return state, errVague
	case errors.Is(err, overlay.ErrIslands), errors.Is(err, overlay.ErrLacks), errors.Is(err, overlay.ErrConflict):
		return state, err
	default:
		return state, applyError{err}
	}
	f.top.Store(state.Top().Seq)
	m.logs.keepHeads(f.log, run.reached)
	m.met.entriesNew.Add(float64(fresh))
	f.brought.Add(fresh)
	if history {
		m.follows.history.Add(fresh)
	}
	return state, nil
}

// vague reports whether hashes in a run are its provider's word only: what gone
// entries were made of cannot be checked, but at the signed head behind them.
func vague(entries []overlay.BatchEntry) bool {
	return slices.ContainsFunc(entries, func(e overlay.BatchEntry) bool { return e.Why == overlay.WhyGone })
}

// ackable is how far everything from entry from on is durable, records and all,
// up to last; 0 if not even from is.
func ackable(s *overlay.LogState, from, last uint64) uint64 {
	held, ok := heldSpans(s).find(last)
	if !ok || held.from > from {
		return 0
	}
	i := sort.Search(len(s.Lacks), func(i int) bool { return s.Lacks[i].Seq >= from })
	if i < len(s.Lacks) && s.Lacks[i].Seq <= last {
		return s.Lacks[i].Seq - 1
	}
	return last
}

// gather joins run with those that wait behind it, up to about what one commit
// should take.
func gather(run *taken, runs <-chan *taken, maxEntries, maxBytes int) *taken {
	for joined := false; len(run.Entries) < maxEntries && run.bytes < maxBytes; joined = true {
		select {
		case next, ok := <-runs:
			if !ok {
				return run
			}
			if !joined {
				entries := make([]overlay.BatchEntry, 0, len(run.Entries)+4*len(next.Entries))
				all := *run
				all.LogRun = &overlay.LogRun{From: run.From, Before: run.Before, Entries: append(entries, run.Entries...)}
				run = &all
			}
			run.State, run.Entries = next.State, append(run.Entries, next.Entries...)
			run.reached = append(run.reached, next.reached...)
			run.bytes, run.last, run.met = run.bytes+next.bytes, next.last, next.met
			run.counted += next.counted
		default:
			return run
		}
	}
	return run
}

// told reports whether the provider says still that it has what it was asked for.
func (f *follow) told() bool {
	runs := f.provider.told(f.log).runs
	if f.ask.From == beginning {
		return len(runs) > 0
	}
	_, ok := runs.find(f.ask.From)
	return ok
}

// provides reports whether the follow's provider is p.
func (f *follow) provides(p peer.ID) bool { return f.provider.peer == p }
