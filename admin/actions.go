package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// Action is a line of the audit log: somebody who may changed something, or
// tried to.
type Action struct {
	Time    time.Time `json:"time"`
	Caller  string    `json:"caller"`  // by what right: token, page or socket
	From    string    `json:"from"`    // the address it came from; "" on a socket
	Agent   string    `json:"agent"`   // what the caller calls itself, cut at 128 bytes; not trusted
	Request string    `json:"request"` // method, path and query
	Status  int       `json:"status"`  // of the answer; 0: it broke off before one
	TookMS  float64   `json:"took_ms"`
}

// ActionLog writes down the requests that may change something, once they were
// let in, in a file that is only ever appended to: a JSON object a line, on the
// disk when it was served. Who was not let in is not written down: anybody could
// fill the disk. At 16 MiB the file is renamed to NAME.1, in the place of an
// older one, and begun anew.
type ActionLog struct {
	path string

	mu   sync.Mutex
	file *os.File // guarded by mu; nil once closed
	size int64    // guarded by mu
}

// maxActions is when a log is begun anew, in bytes.
const maxActions = 16 << 20

// OpenActionLog opens or makes the log at path, mode 0600.
func OpenActionLog(path string) (*ActionLog, error) {
	l := &ActionLog{path: path}
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	return l, nil
}

// open opens the file. l.mu is held, or l not yet shared.
func (l *ActionLog) open() error {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if l.size, err = f.Seek(0, io.SeekEnd); err != nil {
		f.Close()
		return err
	}
	l.file = f
	return nil
}

// Add appends a line and returns when it is on the disk.
func (l *ActionLog) Add(a Action) error {
	line, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	line = append(line, '\n')
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return fmt.Errorf("audit log: %w", os.ErrClosed)
	}
	if l.size > 0 && l.size+int64(len(line)) > maxActions {
		if err := l.turn(); err != nil && l.file == nil { // else it goes on growing
			return fmt.Errorf("audit log: %w", err)
		}
	}
	n, err := l.file.Write(line)
	l.size += int64(n)
	if err == nil {
		err = l.file.Sync()
	}
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	return nil
}

// turn puts the full file aside. l.mu is held.
func (l *ActionLog) turn() error {
	if err := l.file.Close(); err != nil {
		return err
	}
	l.file = nil
	return errors.Join(os.Rename(l.path, l.path+".1"), l.open())
}

// Close closes the file. Add fails from then on.
func (l *ActionLog) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}

// Rights by which a request is let in.
const (
	byNone   = ""
	byRead   = "read" // over loopback, by anybody on this machine
	byToken  = "token"
	byPage   = "page"
	bySocket = "socket"
)

// written serves a request and writes it down if it may change something. A
// line that cannot be written undoes nothing: the operator hears of it.
func (g *guard) written(w http.ResponseWriter, r *http.Request, right string) {
	if g.cfg.Actions == nil || isRead(r) {
		g.next.ServeHTTP(w, r)
		return
	}
	began := time.Now()
	noted := &notedAnswer{ResponseWriter: w}
	defer func() { // also when the handler panics
		action := Action{Time: began.UTC(), Caller: right, Agent: cut(r.UserAgent(), 128),
			Request: r.Method + " " + cut(r.URL.RequestURI(), 512), Status: noted.status, TookMS: tookMS(time.Since(began))}
		if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
			action.From = host
		}
		if err := g.cfg.Actions.Add(action); err != nil && g.cfg.Logger != nil {
			g.cfg.Logger.Error("an action is missing in the audit log", "request", action.Request, "err", err)
		}
	}()
	g.next.ServeHTTP(noted, r)
}

func isRead(r *http.Request) bool {
	return r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions
}

// notedAnswer notes the status of an answer: 0 while there is none.
type notedAnswer struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (a *notedAnswer) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (a *notedAnswer) Write(b []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	return a.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController find the connection.
func (a *notedAnswer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func cut(s string, n int) string { return s[:min(len(s), n)] }
