// Package dashboard_test opens the dashboard of a real network in a real
// browser: five pillars in this process, and headless Chromium.
package dashboard_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk"
	"github.com/obelisk-network/obelisk/admin"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/store"
)

// pillars are five of them with names, and the records that all of them were given.
type pillars struct {
	t       *testing.T
	ctx     context.Context
	key     *identity.NetworkKey
	keyFile string
	dirs    []string
	running []*obelisk.Pillar // nil: it does not
	records []*overlay.Record
}

var names = []string{"ceres", "hygiea", "juno", "pallas", "vesta"}

// newPillars starts a pillar for every name, each with the same n records on its
// disk, which came by no log.
func newPillars(t *testing.T, ctx context.Context, n int) *pillars {
	t.Helper()
	w := &pillars{t: t, ctx: ctx, keyFile: filepath.Join(t.TempDir(), "network.key"), running: make([]*obelisk.Pillar, len(names))}
	var err error
	if w.key, _, err = identity.LoadOrCreateNetworkKey(w.keyFile); err != nil {
		t.Fatal(err)
	}
	w.records = w.sign(n)
	for i := range names {
		w.dirs = append(w.dirs, filepath.Join(t.TempDir(), "pillar"))
		if err := os.MkdirAll(w.dirs[i], 0o700); err != nil {
			t.Fatal(err)
		}
		c := &overlay.Commit{Time: time.Now()}
		for _, r := range w.records {
			c.Records = append(c.Records, overlay.Arrival{ID: r.ID, Created: r.Created, Expires: r.Expires, Raw: r.Raw,
				Boxes: overlay.BoxesOf(r), Via: overlay.ViaBundle})
		}
		w.onDisk(i, func(s *store.Pebble) error {
			_, err := s.Commit(c)
			return err
		})
	}
	for i := range names {
		w.start(i)
	}
	return w
}

// sign makes n messages of an account to itself, some minutes old: pillars have
// to agree on them.
func (w *pillars) sign(n int) []*overlay.Record {
	w.t.Helper()
	account, err := identity.NewAccountKey(identity.KeyEd25519, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	device := identity.NewDeviceKey()
	now := uint64(time.Now().UnixMilli())
	cert, err := account.Certify(w.key.ID(), device.ID(), 1, now-3_600_000, now+30*24*3_600_000)
	if err != nil {
		w.t.Fatal(err)
	}
	recs, errs := make([]*overlay.Record, n), make([]error, n)
	verifier := overlay.NewVerifier(w.key.ID())
	for i := range recs {
		created := now - 10*60_000 - uint64(i)*1000
		d := overlay.Draft{Kind: overlay.KindMessage, Author: string(account.ID()), Signer: cert.Append(nil), Created: created,
			Expires: created + 24*3_600_000, To: []identity.AccountID{account.ID()},
			Sequences: []overlay.Sequence{{Seq: uint64(n - i)}}, Bin: fmt.Appendf(nil, "message %d", i)}
		rec, err := d.Sign(w.key.ID(), device)
		if err == nil {
			recs[i], err = verifier.Parse(rec.Raw)
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
	verifier.Verify(recs, errs)
	for _, err := range errs {
		if err != nil {
			w.t.Fatal(err)
		}
	}
	return recs
}

// onDisk does something to the store of a pillar that does not run.
func (w *pillars) onDisk(i int, do func(s *store.Pebble) error) {
	w.t.Helper()
	s, err := store.OpenPebble(store.PebbleConfig{Dir: filepath.Join(w.dirs[i], "store"), Memory: 8 << 20})
	if err != nil {
		w.t.Fatal(err)
	}
	err = do(s)
	if e := s.Close(); err == nil {
		err = e
	}
	if err != nil {
		w.t.Fatalf("the disk of %s: %v", names[i], err)
	}
}

// start starts a pillar, the first that runs being the one to join, with its
// audit paused.
func (w *pillars) start(i int) {
	w.t.Helper()
	cfg := obelisk.PillarConfig{Dir: w.dirs[i], NetworkKey: w.keyFile, Name: names[i], Memory: 16 << 20, Admin: "127.0.0.1:0",
		Listen: []string{"/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"}}
	for _, p := range w.running {
		if p != nil {
			cfg.Join = []string{p.JoinLink()}
			break
		}
	}
	p, err := obelisk.OpenPillar(w.ctx, cfg)
	if err != nil {
		w.t.Fatalf("%s: %v", names[i], err)
	}
	w.running[i] = p
	w.t.Cleanup(func() { p.Close() })
	if err := w.client(i).PauseRounds(w.ctx, true); err != nil {
		w.t.Fatal(err)
	}
}

func (w *pillars) stop(i int) {
	w.t.Helper()
	if err := w.running[i].Close(); err != nil {
		w.t.Fatalf("%s: %v", names[i], err)
	}
	w.running[i] = nil
}

// target is the admin port of a pillar, with its token.
func (w *pillars) target(i int) admin.Target {
	w.t.Helper()
	token, err := admin.LoadToken(obelisk.TokenFile(w.dirs[i], obelisk.RolePillar))
	if err != nil {
		w.t.Fatal(err)
	}
	return admin.Target{Addr: w.running[i].AdminAddr(), Token: token}
}

func (w *pillars) client(i int) *admin.PillarClient {
	w.t.Helper()
	c, err := admin.NewPillarClient(w.target(i))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(c.Close)
	return c
}

// forget deletes records from the disk of a pillar that does not run.
func (w *pillars) forget(i int, records []*overlay.Record) {
	w.t.Helper()
	w.onDisk(i, func(s *store.Pebble) error {
		v := s.View()
		defer v.Close()
		c := &overlay.Commit{Time: time.Now()}
		for _, r := range records {
			ref := overlay.Ref{ID: r.ID, Day: overlay.DayOf(r.Expires)}
			if err := v.Get([]overlay.Ref{ref}, func(_ int, held overlay.StoredRecord) bool {
				c.Forget = append(c.Forget, overlay.Forgotten{ID: r.ID, Day: ref.Day, Local: held.Local, Boxes: overlay.BoxesOf(r)})
				return true
			}); err != nil {
				return err
			}
		}
		if len(c.Forget) != len(records) {
			return fmt.Errorf("%d of %d records are there to be deleted", len(c.Forget), len(records))
		}
		_, err := s.Commit(c)
		return err
	})
}

// write has a node at one pillar send n messages to a node at another, and
// returns when they were delivered.
func (w *pillars) write(from, to, n int) {
	w.t.Helper()
	open := func(i int, name string) *obelisk.Node {
		node, err := obelisk.OpenNode(w.ctx, obelisk.NodeConfig{Dir: filepath.Join(w.t.TempDir(), "node"), Name: name,
			Join: []string{w.running[i].JoinLink()}, Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Memory: 8 << 20})
		if err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(func() { node.Close() })
		return node
	}
	alice, bob := open(from, "alice"), open(to, "bob")
	var last obelisk.Sent
	for i := range n {
		var err error
		if last, err = alice.Send(w.ctx, bob.Account(), fmt.Sprintf("hello %d", i)); err != nil {
			w.t.Fatal(err)
		}
	}
	if s, err := alice.Wait(w.ctx, last.Handle, obelisk.Delivered); err != nil {
		w.t.Fatalf("the last of %d messages is %s (%s): %v", n, s.State, s.Reason, err)
	}
}

// until waits for a condition about the network, which nothing signals.
func (w *pillars) until(what string, holds func() bool) {
	w.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-w.ctx.Done():
			w.t.Fatalf("never came true: %s", what)
		case <-tick.C:
		}
	}
}

// open serves the dashboard of a pillar to one browser, as `obelisk open` does,
// and returns the link that lets it in.
func (w *pillars) open(i int) string {
	w.t.Helper()
	return openFront(w.t, w.target(i))
}

// openFront serves the pages of a target to one browser.
func openFront(t *testing.T, at admin.Target) string {
	t.Helper()
	front, err := admin.OpenFront(at, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- front.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return front.URL()
}
