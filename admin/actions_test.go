package admin_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/admin"
)

// TestActionsAreWritten: what is changed stands in the log with who and when;
// reads and those who may not ask leave nothing.
func TestActionsAreWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	for run := range 2 { // what is there stays
		log, err := admin.OpenActionLog(path)
		if err != nil {
			t.Fatal(err)
		}
		p := &fakePillar{}
		base := "http://" + serve(t, "127.0.0.1:0", admin.NewPillarHandler(p, nil, admin.Config{Token: testToken, Actions: log}))
		auth := map[string]string{"Authorization": "Bearer " + testToken, "User-Agent": "tester"}
		before := time.Now()
		ask(t, "GET", base+"/v1/status", "", auth)
		ask(t, "POST", base+"/v1/sync/pause", "", nil)
		ask(t, "POST", base+"/v1/sync/pause", "", auth)
		ask(t, "POST", base+"/v1/sync/round?peer=nobody", "", auth)
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		if len(lines) != 2*(run+1) {
			t.Fatalf("%d lines, want %d:\n%s", len(lines), 2*(run+1), b)
		}
		for i, want := range []admin.Action{
			{Caller: "token", From: "127.0.0.1", Agent: "tester", Request: "POST /v1/sync/pause", Status: http.StatusOK},
			{Caller: "token", From: "127.0.0.1", Agent: "tester", Request: "POST /v1/sync/round?peer=nobody", Status: http.StatusBadRequest},
		} {
			var got admin.Action
			if err := json.Unmarshal([]byte(lines[2*run+i]), &got); err != nil {
				t.Fatal(err)
			}
			if got.Time.Before(before.Add(-time.Second)) || got.TookMS < 0 {
				t.Errorf("line %d: at %s for %g ms", i, got.Time, got.TookMS)
			}
			got.Time, got.TookMS = time.Time{}, 0
			if got != want {
				t.Errorf("line %d: %+v, want %+v", i, got, want)
			}
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, err %v; want 0600", info.Mode(), err)
	}
}

// TestActionLogTurns: the file is bounded, and what was written last is kept.
func TestActionLogTurns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	if err := os.WriteFile(path, []byte(strings.Repeat("x", 16<<20-10)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := admin.OpenActionLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if err := log.Add(admin.Action{Request: "POST /v1/drain"}); err != nil {
		t.Fatal(err)
	}
	old, err := os.Stat(path + ".1")
	if err != nil || old.Size() != 16<<20-9 {
		t.Errorf("put aside: %v, err %v", old, err)
	}
	b, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(b), "POST /v1/drain") || strings.Count(string(b), "\n") != 1 {
		t.Errorf("begun anew: %q, err %v", b, err)
	}
}

// TestActionLogGoesOn: where the full file cannot be put aside, nothing is lost.
func TestActionLogGoesOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	if err := os.WriteFile(path, []byte(strings.Repeat("x", 16<<20)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(path+".1", "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	log, err := admin.OpenActionLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	for range 2 {
		if err := log.Add(admin.Action{Request: "POST /v1/drain"}); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(path); err != nil || strings.Count(string(b), "POST /v1/drain") != 2 {
		t.Errorf("%d bytes, %v: lines are lost", len(b), err)
	}
}

// panickyPillar breaks off what it is asked to change.
type panickyPillar struct{ *fakePillar }

func (panickyPillar) SetDrain(context.Context, bool) (int, error) { panic(http.ErrAbortHandler) }

// TestActionLogOfPanics: what broke off is written down too.
func TestActionLogOfPanics(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	log, err := admin.OpenActionLog(path)
	if err != nil {
		t.Fatal(err)
	}
	h := admin.NewPillarHandler(panickyPillar{&fakePillar{}}, nil, admin.Config{Token: testToken, Actions: log})
	func() {
		defer func() { recover() }()
		r := httptest.NewRequest("POST", "http://localhost/v1/drain", nil)
		r.Header.Set("Authorization", "Bearer "+testToken)
		h.ServeHTTP(httptest.NewRecorder(), r)
		t.Error("no panic")
	}()
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := `"request":"POST /v1/drain","status":0,`; !strings.Contains(string(b), want) {
		t.Errorf("the log is %q, want %s in it", b, want)
	}
}
