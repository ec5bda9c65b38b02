package admin

import (
	"fmt"
	"net/http"
	"runtime/pprof"
	"runtime/trace"
	"strconv"
	"time"

	"github.com/obelisk-network/obelisk/overlay"
)

// maxProfile bounds a CPU profile or a trace.
const maxProfile = 2 * time.Minute

// handleProfiles serves /debug/pprof/ as `go tool pprof` expects it. It does
// not use net/http/pprof: importing that puts the handlers into
// http.DefaultServeMux of whoever embeds a pillar.
func handleProfiles(m *mux) {
	m.handle("GET", "/debug/pprof/{$}", func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, "<!doctype html><title>profiles</title><ul><li><a href=\"profile?seconds=10\">profile</a> (CPU)</li><li><a href=\"trace?seconds=1\">trace</a></li>")
		for _, p := range pprof.Profiles() {
			fmt.Fprintf(w, "<li><a href=\"%s?debug=1\">%s</a>: %d</li>", p.Name(), p.Name(), p.Count())
		}
		fmt.Fprint(w, "</ul>")
		return nil
	})
	m.handle("GET", "/debug/pprof/profile", func(w http.ResponseWriter, r *http.Request) error {
		return record(w, r, 30*time.Second, func() error { return pprof.StartCPUProfile(w) }, pprof.StopCPUProfile)
	})
	m.handle("GET", "/debug/pprof/trace", func(w http.ResponseWriter, r *http.Request) error {
		return record(w, r, time.Second, func() error { return trace.Start(w) }, trace.Stop)
	})
	m.handle("GET", "/debug/pprof/{name}", func(w http.ResponseWriter, r *http.Request) error {
		p := pprof.Lookup(r.PathValue("name"))
		if p == nil {
			return overlay.Refuse(overlay.CodeNotFound, "there is no profile %q", r.PathValue("name"))
		}
		debug, _ := strconv.Atoi(r.URL.Query().Get("debug"))
		w.Header().Set("Content-Type", "application/octet-stream")
		if debug > 0 {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		}
		return p.WriteTo(w, debug)
	})
}

// record runs a profile for ?seconds=. Only one of each kind runs at a time in
// a process.
func record(w http.ResponseWriter, r *http.Request, usual time.Duration, start func() error, stop func()) error {
	d := usual
	if s := r.URL.Query().Get("seconds"); s != "" {
		n, err := strconv.ParseFloat(s, 64)
		if err != nil || n <= 0 || n > maxProfile.Seconds() {
			return overlay.Refuse(overlay.CodeBadRequest, "seconds=%q: want up to %d", s, int(maxProfile.Seconds()))
		}
		d = time.Duration(n * float64(time.Second))
	}
	allow(w, d+requestTime)
	w.Header().Set("Content-Type", "application/octet-stream")
	if err := start(); err != nil {
		return overlay.Refuse(overlay.CodeBusy, "%v", err)
	}
	defer stop()
	select {
	case <-time.After(d):
	case <-r.Context().Done():
	}
	return nil
}
