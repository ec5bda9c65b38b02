package admin

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"sync"
	"time"
)

const (
	// codeLife is how long a one-time code lets somebody in.
	codeLife = 2 * time.Minute
	// sessionLife is how long a browser stays in.
	sessionLife = 12 * time.Hour
	// openPath is where a browser shows its code.
	openPath = "/open"
)

// session lets one browser in: whoever shows the one-time code gets a cookie,
// and whoever has the cookie may ask. The code works once.
type session struct {
	cookieName string
	now        func() time.Time

	mu        sync.Mutex
	code      string    // guarded by mu; "" once it was used
	codeEnds  time.Time // guarded by mu
	cookie    string    // guarded by mu; "" before the code was used
	cookieEnd time.Time // guarded by mu
}

// newSession makes a session with a fresh code. name is its cookie's: browsers
// send a cookie to every port of a host, so each server needs its own.
func newSession(name string, now func() time.Time) *session {
	return &session{cookieName: name, now: now, code: secret(), codeEnds: now().Add(codeLife)}
}

// secret is 32 random bytes in hex.
func secret() string {
	var b [tokenBytes]byte
	rand.Read(b[:]) // never fails since Go 1.24
	return hex.EncodeToString(b[:])
}

// open is GET /open?code=…: it trades the code for a cookie and leads to the
// page. The address is left out of the browser's history by the redirect.
func (s *session) open(w http.ResponseWriter, r *http.Request) {
	cookie, ok := s.trade(r.URL.Query().Get("code"))
	if !ok {
		refuse(w, CodeForbidden, "this link was used already or is too old: run `obelisk open` again")
		return
	}
	http.SetCookie(w, &http.Cookie{Name: s.cookieName, Value: cookie, Path: "/", MaxAge: int(sessionLife / time.Second),
		HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteStrictMode})
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// trade gives a cookie for the code, once.
func (s *session) trade(code string) (cookie string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.code == "" || !equalTokens(code, s.code) {
		return "", false
	}
	s.code = ""
	if s.now().After(s.codeEnds) {
		return "", false
	}
	s.cookie, s.cookieEnd = secret(), s.now().Add(sessionLife)
	return s.cookie, true
}

// has reports whether r comes from the browser that was let in.
func (s *session) has(r *http.Request) bool {
	c, err := r.Cookie(s.cookieName)
	if err != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cookie != "" && equalTokens(c.Value, s.cookie) && s.now().Before(s.cookieEnd)
}
