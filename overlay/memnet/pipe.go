package memnet

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"
)

// errReset is what a stream's operations return once either side has reset it
// or its connection is gone.
var errReset = errors.New("stream reset")

// pipe is one direction of a stream: at most limit bytes between writer and
// reader, readable delay after they were written.
type pipe struct {
	limit int
	delay time.Duration

	mu         sync.Mutex
	changed    sync.Cond // of anything below; uses mu
	segments   []segment // oldest first
	size       int       // bytes in segments
	eof        bool      // the writer has ended its direction …
	eofAt      time.Time // … and the reader may know from here on
	readClosed bool      // the reader wants no more: bytes are thrown away
	err        error     // set once, by reset
	muted      bool      // what is written never arrives, and neither end learns of the other …
	readErr    error     // … so each is reset alone
	writeErr   error
	alarm      *time.Timer
	alarmSet   bool // alarm will broadcast when the next segment is due
	read       deadline
	write      deadline
}

// segment is a run of bytes that become readable together.
type segment struct {
	due  time.Time
	data []byte
}

// deadline is one direction's time limit. Guarded by pipe.mu.
type deadline struct {
	timer  *time.Timer
	set    int // counts set calls, so that a timer of an older one is ignored
	passed bool
}

func newPipe(limit int, delay time.Duration) *pipe {
	p := &pipe{limit: limit, delay: delay}
	p.changed.L = &p.mu
	return p
}

func (p *pipe) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.err != nil:
			return 0, p.err
		case p.readErr != nil:
			return 0, p.readErr
		case p.readClosed:
			return 0, io.ErrClosedPipe
		case p.read.passed:
			return 0, os.ErrDeadlineExceeded
		case len(b) == 0:
			return 0, nil
		case p.muted:
		case len(p.segments) > 0:
			if p.due(p.segments[0].due) {
				return p.takeLocked(b), nil
			}
		case p.eof && p.due(p.eofAt):
			return 0, io.EOF
		}
		p.changed.Wait()
	}
}

// due reports whether t has come; if not, readers are woken when it does.
func (p *pipe) due(t time.Time) bool {
	if p.delay == 0 {
		return true
	}
	wait := time.Until(t)
	if wait <= 0 {
		return true
	}
	if !p.alarmSet {
		p.alarmSet = true
		p.alarm = time.AfterFunc(wait, func() {
			p.mu.Lock()
			p.alarmSet = false
			p.changed.Broadcast()
			p.mu.Unlock()
		})
	}
	return false
}

func (p *pipe) takeLocked(b []byte) int {
	if p.size >= p.limit {
		p.changed.Broadcast()
	}
	var n int
	for n < len(b) && len(p.segments) > 0 {
		s := &p.segments[0]
		if n > 0 && p.delay > 0 && time.Until(s.due) > 0 {
			break
		}
		m := copy(b[n:], s.data)
		n += m
		s.data = s.data[m:]
		if len(s.data) == 0 {
			*s = segment{}
			p.segments = p.segments[1:]
		}
	}
	if len(p.segments) == 0 {
		p.segments = nil
	}
	p.size -= n
	return n
}

func (p *pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var n int
	for {
		switch {
		case p.err != nil:
			return n, p.err
		case p.writeErr != nil:
			return n, p.writeErr
		case p.eof:
			return n, io.ErrClosedPipe
		case p.write.passed:
			return n, os.ErrDeadlineExceeded
		case n == len(b):
			return n, nil
		case p.readClosed && !p.muted:
			return len(b), nil
		}
		if space := p.limit - p.size; space > 0 {
			m := min(space, len(b)-n)
			p.putLocked(b[n : n+m])
			n += m
			continue
		}
		p.changed.Wait()
	}
}

func (p *pipe) putLocked(b []byte) {
	p.size += len(b)
	if p.delay > 0 {
		data := append(make([]byte, 0, len(b)), b...)
		p.segments = append(p.segments, segment{due: time.Now().Add(p.delay), data: data})
	} else if last := len(p.segments) - 1; last >= 0 && cap(p.segments[last].data)-len(p.segments[last].data) >= len(b) {
		p.segments[last].data = append(p.segments[last].data, b...)
	} else {
		data := append(make([]byte, 0, max(len(b), 1024)), b...)
		p.segments = append(p.segments, segment{data: data})
	}
	p.changed.Broadcast()
}

// closeWrite ends the direction after what has been written.
func (p *pipe) closeWrite() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.eof || p.err != nil {
		return
	}
	p.eof = true
	if p.delay > 0 {
		p.eofAt = time.Now().Add(p.delay)
	}
	p.write.stop()
	p.changed.Broadcast()
}

// closeRead throws away what was not read and what still comes.
func (p *pipe) closeRead() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.readClosed {
		return
	}
	p.readClosed = true
	if !p.muted {
		p.dropLocked()
	}
	p.read.stop()
	p.changed.Broadcast()
}

// reset makes every operation on both ends fail with err.
func (p *pipe) reset(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return
	}
	p.err = err
	p.dropLocked()
	p.read.stop()
	p.write.stop()
	p.changed.Broadcast()
}

// mute makes the pipe swallow what is on its way and what is written from now
// on, as much as fits.
func (p *pipe) mute() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.muted = true
	p.changed.Broadcast()
}

// resetRead is reset for the reader alone, resetWrite for the writer.
func (p *pipe) resetRead(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.readErr == nil {
		p.readErr = err
	}
	p.read.stop()
	p.changed.Broadcast()
}

func (p *pipe) resetWrite(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.writeErr == nil {
		p.writeErr = err
	}
	p.write.stop()
	p.changed.Broadcast()
}

func (p *pipe) dropLocked() {
	p.segments, p.size = nil, 0
	if p.alarm != nil {
		p.alarm.Stop()
	}
}

func (p *pipe) setRead(t time.Time)  { p.setDeadline(&p.read, t) }
func (p *pipe) setWrite(t time.Time) { p.setDeadline(&p.write, t) }

func (p *pipe) setDeadline(d *deadline, t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d.stop()
	d.set++
	d.passed = false
	if t.IsZero() || p.err != nil {
		return
	}
	if wait := time.Until(t); wait > 0 {
		set := d.set
		d.timer = time.AfterFunc(wait, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			if d.set == set {
				d.passed = true
				p.changed.Broadcast()
			}
		})
		return
	}
	d.passed = true
	p.changed.Broadcast()
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}
