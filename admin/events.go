package admin

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/obelisk-network/obelisk/overlay"
)

const (
	// heartbeat is how often a silent stream sends a comment, so that both ends
	// notice when the other is gone.
	heartbeat = 15 * time.Second
	// maxStreams bounds the event streams of one server.
	maxStreams = 64
)

// eventStreams serves events. Their numbers count within one run of the
// process only, so the IDs that clients see name the run as well: one of an
// earlier run cannot be resumed and is answered with resync.
type eventStreams struct {
	run   string
	slots chan struct{}
}

func newEventStreams() *eventStreams {
	var b [6]byte
	rand.Read(b[:]) // never fails since Go 1.24
	return &eventStreams{run: hex.EncodeToString(b[:]), slots: make(chan struct{}, maxStreams)}
}

// after reads a Last-Event-ID, 0 if it is none of this run.
func (e *eventStreams) after(id string) uint64 {
	run, seq, ok := strings.Cut(id, ".")
	if !ok || run != e.run {
		return 0
	}
	n, err := strconv.ParseUint(seq, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// beginEvents answers with a stream of server-sent events. write sends whole
// ones, and gives the stream time for the next; it may be called from several
// goroutines.
func beginEvents(w http.ResponseWriter) (write func(text string) error, err error) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	var mu sync.Mutex // one event or comment at a time
	flush := http.NewResponseController(w)
	write = func(text string) error {
		mu.Lock()
		defer mu.Unlock()
		allow(w, requestTime)
		if _, err := fmt.Fprint(w, text); err != nil {
			return err
		}
		return flush.Flush()
	}
	return write, write(": obelisk\n\n")
}

// streamEvents is GET /v1/events, server-sent events: "id: <run>.<seq>",
// "event: <kind>", "data: <Event as JSON>". A stream that cannot go on exactly
// after Last-Event-ID begins with a resync event: whoever reads it reads
// everything anew and misses nothing after that.
func (a *nodeAPI) streamEvents(w http.ResponseWriter, r *http.Request) error {
	select {
	case a.events.slots <- struct{}{}:
		defer func() { <-a.events.slots }()
	default:
		return overlay.Refuse(overlay.CodeBusy, "%d streams of events are open already", maxStreams)
	}
	write, err := beginEvents(w)
	if err != nil {
		return nil // it went away
	}
	beats := make(chan struct{})
	defer func() { <-beats }()
	ctx := r.Context()
	done := make(chan struct{})
	defer close(done)
	go func() {
		defer close(beats)
		t := time.NewTicker(heartbeat)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				if write(": \n\n") != nil {
					return
				}
			case <-ctx.Done():
				return
			case <-done:
				return
			}
		}
	}()
	// An error after the first byte cannot be told any more; the client comes
	// back with the last ID it has.
	_ = a.n.Subscribe(ctx, a.events.after(r.Header.Get("Last-Event-ID")), func(ev overlay.Event) error {
		data, err := json.Marshal(ev)
		if err != nil {
			return err
		}
		return write(fmt.Sprintf("id: %s.%d\nevent: %s\ndata: %s\n\n", a.events.run, ev.Seq, ev.Kind, data))
	})
	return nil
}
