package dashboard_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/obelisk-network/obelisk"
	"github.com/obelisk-network/obelisk/admin"
)

// A node was told a wrong address, then the right one, then its only pillar ends:
// its page says each time how it stands, and why.
func TestNodePage(t *testing.T) {
	if testing.Short() {
		t.Skip("a pillar, a node and a browser; not with -short")
	}
	path := chromium(t)
	ctx, cancel := context.WithTimeout(context.Background(), 150*time.Second)
	t.Cleanup(cancel)
	pillar, err := obelisk.OpenPillar(ctx, obelisk.PillarConfig{Dir: filepath.Join(t.TempDir(), "pillar"), Name: "ceres", Memory: 16 << 20,
		Admin: "off", Listen: []string{"/ip4/127.0.0.1/tcp/0"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pillar.Close() })
	const nowhere = "/ip4/127.0.0.1/tcp/1"
	dir := filepath.Join(t.TempDir(), "node")
	node, err := obelisk.OpenNode(ctx, obelisk.NodeConfig{Dir: dir, Name: "carol", Memory: 8 << 20, API: "127.0.0.1:0",
		Join: []string{nowhere + "/p2p/" + pillar.ID().String()}, Listen: []string{"/ip4/127.0.0.1/tcp/0"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { node.Close() })
	token, err := admin.LoadToken(obelisk.TokenFile(dir, obelisk.RoleNode))
	if err != nil {
		t.Fatal(err)
	}
	b := openBrowser(t, ctx, path, openFront(t, admin.Target{Addr: node.APIAddr(), Token: token}))
	// The page has no script: it is loaded until it says so.
	reload := func(expression string) {
		t.Helper()
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			b.do(chromedp.Reload())
			if ask[bool](b, "!!("+expression+")") {
				return
			}
			select {
			case <-ctx.Done():
				t.Fatalf("never came true: %s: %s", expression, ask[string](b, `document.body.innerText`))
			case <-tick.C:
			}
		}
	}
	const why = `document.querySelector("#why")?.innerText`
	reload(why + `?.includes("connection refused over TCP")`)
	if h := ask[string](b, `document.querySelector("h1").innerText`); !strings.Contains(h, "No network yet") {
		t.Errorf("without a network: %q", h)
	}
	reload(`[...document.querySelectorAll("tr.alert td")].some((d) => d.innerText === "dead")`)
	if text := ask[string](b, why); !strings.Contains(text, nowhere) {
		t.Errorf("the address is not named: %q", text)
	}
	b.shoot("node-dead")
	b.click(`a[href="/netcheck"]`, `document.querySelector("#h-ways")`)
	if text := ask[string](b, `document.querySelector("main").innerText`); !strings.Contains(text, nowhere) || !strings.Contains(text, "connection refused") || !strings.Contains(text, "no pillar answers") {
		t.Errorf("netcheck: %q", text)
	}
	b.shoot("node-netcheck")

	if err := node.AddPillar(ctx, pillar.JoinLink()); err != nil {
		t.Fatal(err)
	}
	b.click(`.brand`, `document.querySelector("h1").innerText.includes("Connected, with no second pillar")`)
	if ask[bool](b, `!!document.querySelector("#why, tr.alert")`) {
		t.Errorf("connected, and still: %q", ask[string](b, `document.querySelector("main").innerText`))
	}
	b.shoot("node-connected")

	if err := pillar.Close(); err != nil {
		t.Fatal(err)
	}
	reload(why + `?.includes("connection refused over TCP")`)
	if h := ask[string](b, `document.querySelector("h1").innerText`); !strings.Contains(h, "No pillar answers") {
		t.Errorf("without a pillar: %q", h)
	}
	b.check()
}
