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

	"github.com/obelisk-network/obelisk/overlay"
)

// Bounds of following.
const (
	runQueue     = 8       // linked runs waiting to be applied
	applyEntries = 8192    // entries of one Apply, about
	applyBytes   = 4 << 20 // bytes of one Apply, about
)

// follow is one log being followed from one provider.
type follow struct {
	m        *Mesh
	log      overlay.LogID
	provider *session
	cancel   context.CancelCauseFunc

	reached atomic.Uint64 // last entry received
	moved   atomic.Int64  // when, Unix ns of time.Now
	reading atomic.Bool   // waiting for the provider, not for ourselves

	behind time.Time // since when others have more; only the supervisor uses it
}

// errBusy wraps a provider's refusal.
type errBusy struct{ refusal *overlay.Error }

func (e errBusy) Error() string { return "provider refused: " + e.refusal.Error() }

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
	runs := make(chan *overlay.LogRun, runQueue)
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
func (f *follow) read(ctx context.Context, stream overlay.Stream, start overlay.Position, runs chan<- *overlay.LogRun) error {
	c := &chain{network: f.m.cfg.Network, log: f.log, known: f.m.knows, next: start.Seq + 1, hash: start.Hash}
	frames := overlay.NewFrameReader(stream)
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
			return errBusy{msg.Err}
		case *overlay.Elsewhere:
			return errBusy{overlay.Refuse(overlay.CodeBusy, "try %s", msg.Peer)}
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
		if batch.Head.Dies <= now() {
			return errDied
		}
		f.reached.Store(c.next - 1)
		f.moved.Store(time.Now().UnixNano())
		if run == nil {
			continue
		}
		select {
		case runs <- run:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// apply stores runs, all that wait as one, and acks them.
func (f *follow) apply(ctx context.Context, stream overlay.Stream, runs <-chan *overlay.LogRun) error {
	var frame []byte
	for run := range runs {
		run = gather(run, runs)
		before := f.m.logs.position(f.log).Seq
		state, err := f.m.cfg.Replica.Apply(ctx, *run)
		if err != nil {
			return fmt.Errorf("apply: %w", err)
		}
		if last := run.State.Seq; last > before {
			f.m.met.entriesNew.Add(float64(last - max(before, run.From-1)))
		}
		frame = overlay.AppendFrame(frame[:0], &overlay.Ack{Log: f.log, Seq: min(state.Seq, run.State.Seq)})
		stream.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err := stream.Write(frame); err != nil {
			return fmt.Errorf("ack: %w", err)
		}
	}
	return nil
}

// gather joins run with those that wait behind it, up to about what one commit
// should take.
func gather(run *overlay.LogRun, runs <-chan *overlay.LogRun) *overlay.LogRun {
	bytes := runBytes(run)
	for joined := false; len(run.Entries) < applyEntries && bytes < applyBytes; joined = true {
		select {
		case next, ok := <-runs:
			if !ok {
				return run
			}
			bytes += runBytes(next)
			if !joined {
				entries := make([]overlay.BatchEntry, 0, len(run.Entries)+4*len(next.Entries))
				run = &overlay.LogRun{From: run.From, Entries: append(entries, run.Entries...)}
			}
			run.State, run.Entries = next.State, append(run.Entries, next.Entries...)
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
