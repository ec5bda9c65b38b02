package sim

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// history is what happened, in order, by virtual time.
type history struct {
	began time.Time

	mu    sync.Mutex
	lines []string // guarded by mu
}

func (h *history) add(format string, args ...any) {
	line := fmt.Sprintf("%9.3fs  %s", time.Since(h.began).Seconds(), fmt.Sprintf(format, args...))
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lines = append(h.lines, line)
}

func (h *history) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.lines, "\n")
}
