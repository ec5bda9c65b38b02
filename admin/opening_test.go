package admin_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/obelisk-network/obelisk/admin"
	"github.com/obelisk-network/obelisk/overlay"
)

// TestOpening: before there is a pillar and after it the port is alive, not
// ready, and as guarded as ever; and requests with the pillar end before Shut
// returns.
func TestOpening(t *testing.T) {
	cfg := admin.Config{Token: testToken}
	o := admin.NewOpening(cfg)
	addr := serve(t, "127.0.0.1:0", o)
	c, err := admin.NewPillarClient(admin.Target{Addr: addr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	notThere := func(when string) {
		t.Helper()
		if checks, ok, err := c.Health(t.Context()); err != nil || !ok {
			t.Errorf("%s: alive: %v, %v, %v", when, checks, ok, err)
		}
		if checks, ok, err := c.Ready(t.Context()); err != nil || ok || len(checks) != 1 || checks[0].Name != "store" || checks[0].Detail == "" {
			t.Errorf("%s: ready: %v, %v, %v", when, checks, ok, err)
		}
		if _, err := c.Status(t.Context()); overlay.CodeOf(err) != overlay.CodeBusy {
			t.Errorf("%s: status: %v", when, err)
		}
		if a := ask(t, "GET", "http://"+addr+"/readyz", "", map[string]string{"Host": "evil.example"}); a.status != http.StatusMisdirectedRequest {
			t.Errorf("%s: by another name: %d", when, a.status)
		}
	}
	o.Shut() // without one it is nothing
	notThere("before")

	sound := []admin.Check{{Name: "store", OK: true}}
	pillar := admin.NewPillarHandler(&fakePillar{health: sound, ready: sound}, nil, cfg)
	asked, ended := make(chan struct{}), make(chan struct{})
	o.Open(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/nodes" {
			close(asked)
			<-r.Context().Done()
			close(ended)
			return
		}
		pillar.ServeHTTP(w, r)
	}))
	if checks, ok, err := c.Ready(t.Context()); err != nil || !ok {
		t.Errorf("ready: %v, %v, %v", checks, ok, err)
	}
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		_, _ = c.Nodes(context.WithoutCancel(t.Context()), "", 1)
	}()
	<-asked
	o.Shut()
	select {
	case <-ended:
	default:
		t.Error("a request is still with the pillar")
	}
	<-answered
	notThere("after")
}
