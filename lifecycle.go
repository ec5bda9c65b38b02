package obelisk

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// lifecycle owns what a running Pillar or Node is made of: resources to close
// and goroutines to end, stopped in the reverse order of their start. One
// failure stops all.
type lifecycle struct {
	ask  chan struct{} // closed when it is to stop
	done chan struct{} // closed when all has stopped

	mu    sync.Mutex
	stops []func() error // guarded by mu; last one first
	err   error          // guarded by mu; why it stopped by itself, or what went wrong stopping
	asked bool           // guarded by mu
}

func newLifecycle() *lifecycle {
	return &lifecycle{ask: make(chan struct{}), done: make(chan struct{})}
}

// onStop has fn called when everything started later has stopped.
func (l *lifecycle) onStop(name string, fn func() error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stops = append(l.stops, func() error {
		if err := fn(); err != nil {
			return fmt.Errorf("stop %s: %w", name, err)
		}
		return nil
	})
}

// run starts long-lived work. It is stopped by ending its context; if it ends
// earlier, everything stops.
func (l *lifecycle) run(name string, work func(ctx context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err := work(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("ended by itself")
		}
		l.fail(fmt.Errorf("%s: %w", name, err))
	}()
	l.onStop(name, func() error {
		cancel()
		<-ended
		return nil
	})
}

// supervise starts the goroutine that stops everything once asked. It is
// called once, when everything runs.
func (l *lifecycle) supervise() {
	go func() {
		<-l.ask
		l.stop()
	}()
}

// fail asks for the stop because of err; the first reason counts.
func (l *lifecycle) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil && !l.asked {
		l.err = err
	}
	if !l.asked {
		l.asked = true
		close(l.ask)
	}
}

// shut asks for the stop, waits for its end and returns why it stopped.
func (l *lifecycle) shut() error {
	l.fail(nil)
	<-l.done
	return l.reason()
}

func (l *lifecycle) reason() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// stop stops everything in the caller's goroutine.
func (l *lifecycle) stop() {
	for {
		l.mu.Lock()
		if len(l.stops) == 0 {
			l.mu.Unlock()
			break
		}
		fn := l.stops[len(l.stops)-1]
		l.stops = l.stops[:len(l.stops)-1]
		l.mu.Unlock()
		if err := fn(); err != nil {
			l.mu.Lock()
			l.err = errors.Join(l.err, err)
			l.mu.Unlock()
		}
	}
	close(l.done)
}

// abandon is stop for something that never got to run: it returns cause.
func (l *lifecycle) abandon(cause error) error {
	l.mu.Lock()
	l.asked = true
	l.mu.Unlock()
	l.stop()
	return errors.Join(cause, l.reason())
}
