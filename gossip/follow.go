package gossip

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// Bounds of following.
const (
	runQueue     = 8       // linked runs waiting to be applied
	applyEntries = 8192    // entries of one Apply, about
	applyBytes   = 4 << 20 // bytes of one Apply, about
	maxLogsOf    = 4096    // logs held of one pillar; further ones are not begun
)

// follow is one log being followed from one provider.
type follow struct {
	m        *Mesh
	log      overlay.LogID
	provider *session
	cancel   context.CancelCauseFunc

	reached atomic.Uint64 // last entry received
	moved   atomic.Int64  // when bytes came last, Unix ns of time.Now
	reading atomic.Bool   // waiting for the provider, not for ourselves

	behind time.Time // since when others have more; only the supervisor uses it
}

// busyError is a provider's refusal.
type busyError struct{ refusal *overlay.Error }

func (e busyError) Error() string { return "provider refused: " + e.refusal.Error() }

// applyError is the Replica's refusal: nobody else's fault.
type applyError struct{ err error }

func (e applyError) Error() string { return "apply: " + e.err.Error() }
func (e applyError) Unwrap() error { return e.err }

// run follows until ctx ends, the stream does, or the provider is at fault.
func (f *follow) run(ctx context.Context) error {
	start := f.m.logs.position(f.log)
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
	req := &overlay.Follow{Log: f.log, From: start.Seq + 1, Before: start.Hash}
	if _, err := stream.Write(overlay.AppendFrame(nil, req)); err != nil {
		return fmt.Errorf("ask to follow: %w", err)
	}
	runs := make(chan linked, runQueue)
	var reader sync.WaitGroup
	var readErr error
	reader.Go(func() {
		defer close(runs)
		readErr = f.read(ctx, stream, start, runs)
	})
	err = f.apply(ctx, stream, runs)
	stop()
	reader.Wait()
	if err != nil {
		return err
	}
	return readErr
}

// read checks what the provider sends and hands on what links to signed heads.
func (f *follow) read(ctx context.Context, stream overlay.Stream, start overlay.Position, runs chan<- linked) error {
	known := func(p identity.PillarID) bool {
		return f.m.knows(p) && (start.Seq > 0 || f.m.logs.written(p) < maxLogsOf)
	}
	c := &chain{network: f.m.cfg.Network, log: f.log, known: known, next: start.Seq + 1, hash: start.Hash}
	frames := overlay.NewFrameReader(&moving{stream, &f.moved})
	frames.Accept()
	now := f.m.now
	for {
		f.reading.Store(true)
		msg, err := frames.Next()
		f.reading.Store(false)
		if err != nil {
			if errors.Is(err, overlay.ErrFrame) && !errors.Is(err, io.ErrUnexpectedEOF) && ctx.Err() == nil {
				return faulty(faultFrame, "%v", err)
			}
			return err
		}
		var batch *overlay.Batch
		switch msg := msg.(type) {
		case *overlay.Batch:
			batch = msg
		case *overlay.Busy:
			if msg.Err == nil {
				return faulty(faultFrame, "a refusal without reason")
			}
			return busyError{msg.Err}
		case *overlay.Elsewhere:
			return busyError{overlay.Refuse(overlay.CodeBusy, "try %s", msg.Peer)}
		default:
			return faulty(faultFrame, "message type %d", msg.Type())
		}
		void := c.void
		run, err := c.take(batch)
		f.m.met.batchesReceived.Inc()
		f.m.met.entriesReceived.Add(float64(len(batch.Entries)))
		if c.void > void {
			f.m.met.void.Add(float64(c.void - void))
		}
		if err != nil {
			return err
		}
		// A head kept for history tells when what lies before it died; only at the
		// end of what the provider has does it speak of the whole log.
		if batch.Head.Dies <= now() && batch.Head.Seq >= f.provider.holds(f.log) {
			return errDied
		}
		f.reached.Store(c.next - 1)
		if run == nil {
			continue
		}
		select {
		case runs <- linked{run, c.hole}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// linked is a run that links to a signed head.
type linked struct {
	*overlay.LogRun
	hole uint64 // first entry of the stream that came without its body; 0: none
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

// apply stores runs, all that wait as one, and acks them. What came without its
// body is never acked, nor is what follows it.
func (f *follow) apply(ctx context.Context, stream overlay.Stream, runs <-chan linked) error {
	var frame []byte
	var acked uint64
	for run := range runs {
		run = gather(run, runs)
		before := f.m.logs.position(f.log).Seq
		state, err := f.m.cfg.Replica.Apply(ctx, *run.LogRun)
		if err != nil {
			return applyError{err}
		}
		if last := run.State.Seq; last > before {
			f.m.met.entriesNew.Add(float64(last - max(before, run.From-1)))
		}
		upTo := min(state.Seq, run.State.Seq)
		if run.hole > 0 {
			upTo = min(upTo, run.hole-1)
		}
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

// gather joins run with those that wait behind it, up to about what one commit
// should take.
func gather(run linked, runs <-chan linked) linked {
	bytes := runBytes(run.LogRun)
	for joined := false; len(run.Entries) < applyEntries && bytes < applyBytes; joined = true {
		select {
		case next, ok := <-runs:
			if !ok {
				return run
			}
			bytes += runBytes(next.LogRun)
			if !joined {
				entries := make([]overlay.BatchEntry, 0, len(run.Entries)+4*len(next.Entries))
				run.LogRun = &overlay.LogRun{From: run.From, Before: run.Before, Entries: append(entries, run.Entries...)}
			}
			run.State, run.Entries, run.hole = next.State, append(run.Entries, next.Entries...), next.hole
		default:
			return run
		}
	}
	return run
}

func runBytes(run *overlay.LogRun) (n int) {
	for i := range run.Entries {
		n += entrySize(&run.Entries[i])
	}
	return n
}

// provides reports whether the follow's provider is p.
func (f *follow) provides(p peer.ID) bool { return f.provider.peer == p }
