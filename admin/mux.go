package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/obelisk-network/obelisk/overlay"
)

// Bounds of a page.
const (
	defaultLimit = 100
	maxLimit     = 1000
)

// handler answers a request or returns why not.
type handler func(w http.ResponseWriter, r *http.Request) error

// mux is http.ServeMux whose handlers return their error, and whose own errors
// are JSON too.
type mux struct {
	inner *http.ServeMux
	log   *slog.Logger
	paths map[string]map[string]handler // by path and method; complete before it serves

	described []operation // what openapi.json tells of
}

func newMux(log *slog.Logger) *mux {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	m := &mux{inner: http.NewServeMux(), log: log, paths: make(map[string]map[string]handler)}
	m.inner.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, overlay.CodeNotFound, "there is no %s here", r.URL.Path)
	})
	return m
}

// handle registers fn for a method and a path; a GET serves HEAD as well.
func (m *mux) handle(method, path string, fn handler) {
	methods := m.paths[path]
	if methods == nil {
		methods = make(map[string]handler)
		m.paths[path] = methods
		m.inner.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) { m.dispatch(methods, w, r) })
	}
	methods[method] = fn
}

func (m *mux) dispatch(methods map[string]handler, w http.ResponseWriter, r *http.Request) {
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	fn := methods[method]
	if fn == nil {
		w.Header().Set("Allow", strings.Join(slices.Sorted(maps.Keys(methods)), ", "))
		refuse(w, CodeMethod, "%s does not take %s", r.URL.Path, r.Method)
		return
	}
	if err := fn(w, r); err != nil {
		writeError(w, m.log, err)
	}
}

func (m *mux) ServeHTTP(w http.ResponseWriter, r *http.Request) { m.inner.ServeHTTP(w, r) }

// answer is a handler that reads nothing but the URL.
func answer[T any](fn func(r *http.Request) (T, error)) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		v, err := fn(r)
		if err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, v)
		return nil
	}
}

// readJSON decodes a request's body, one object without unknown fields.
func readJSON(r *http.Request, v any) error {
	if t := r.Header.Get("Content-Type"); t != "" {
		if kind, _, err := mime.ParseMediaType(t); err != nil || kind != "application/json" {
			return overlay.Refuse(overlay.CodeBadRequest, "the body must be application/json, not %q", t)
		}
	}
	body, err := io.ReadAll(r.Body) // bounded by the guard
	if err != nil {
		var size *http.MaxBytesError
		if errors.As(err, &size) {
			return err
		}
		return overlay.Refuse(overlay.CodeBadRequest, "the body cannot be read: %v", err)
	}
	if !utf8.Valid(body) { // encoding/json would put something else in its place
		return overlay.Refuse(overlay.CodeBadRequest, "the body is no UTF-8: send other bytes as base64")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return overlay.Refuse(overlay.CodeBadRequest, "the body is not what is wanted here: %v", err)
	}
	if d.More() {
		return overlay.Refuse(overlay.CodeBadRequest, "the body goes on after its JSON object")
	}
	return nil
}

// limitOf reads ?limit=.
func limitOf(r *http.Request) (int, error) {
	s := r.URL.Query().Get("limit")
	if s == "" {
		return defaultLimit, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return 0, overlay.Refuse(overlay.CodeBadRequest, "limit=%q: want a number from 1 to %d", s, maxLimit)
	}
	return min(n, maxLimit), nil
}

// afterOf reads ?after= of a page of messages.
func afterOf(r *http.Request) (uint64, error) {
	s := r.URL.Query().Get("after")
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, overlay.Refuse(overlay.CodeBadRequest, "after=%q: want the next of the page before", s)
	}
	return n, nil
}
