package obelisk_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/obelisk-network/obelisk"
	"github.com/obelisk-network/obelisk/overlay"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

var loopback = []string{"/ip4/127.0.0.1/tcp/0"}

// pillarConfig is of a pillar with a small limit: how full this machine's disk is
// matters to no test.
func pillarConfig(t *testing.T) obelisk.PillarConfig {
	return obelisk.PillarConfig{Dir: filepath.Join(t.TempDir(), "pillar"), Listen: loopback, Memory: 16 << 20, StoreLimit: 1 << 30}
}

func openPillar(t *testing.T, cfg obelisk.PillarConfig) *obelisk.Pillar {
	t.Helper()
	p, err := obelisk.OpenPillar(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return p
}

func nodeConfig(t *testing.T, join ...string) obelisk.NodeConfig {
	return obelisk.NodeConfig{Dir: filepath.Join(t.TempDir(), "node"), Listen: loopback, Join: join}
}

func openNode(t *testing.T, cfg obelisk.NodeConfig) *obelisk.Node {
	t.Helper()
	n, err := obelisk.OpenNode(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return n
}

// patience is what anything here may take, on however slow a machine: waits end
// as soon as what they are for has happened.
const patience = 2 * time.Minute

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never came true: %s", what)
		}
	}
}

func TestDataDirectory(t *testing.T) {
	t.Parallel()
	cfg := pillarConfig(t)
	cfg.Admin = "127.0.0.1:0"
	p := openPillar(t, cfg)
	node := openNode(t, nodeConfig(t, p.JoinLink()))

	want := map[string]os.FileMode{".": 0o700, "pillar.key": 0o600, "network.key": 0o600, "admin.token": 0o600, "run.json": 0o600, "lock": 0o600, "network": 0o600}
	checkModes(t, cfg.Dir, want)
	if _, err := os.Stat(filepath.Join(cfg.Dir, "account.key")); err == nil {
		t.Error("a pillar has an account")
	}
	info, err := obelisk.ReadRun(cfg.Dir)
	if err != nil || info.Role != "pillar" || info.ID != p.ID().String() || info.PID != os.Getpid() || info.Admin != p.AdminAddr() {
		t.Errorf("run.json: %+v, %v", info, err)
	}
	if len(info.Listen) != 1 || !strings.HasSuffix(info.Listen[0], "/p2p/"+info.ID) || info.JoinLink != p.JoinLink() {
		t.Errorf("run.json: %+v", info)
	}
	id, err := obelisk.ReadIdentity(cfg.Dir)
	if err != nil || id.Role != obelisk.RolePillar || id.Pillar != p.ID() || id.Network != p.Network() {
		t.Errorf("identity: %+v, %v", id, err)
	}
	if node.Network() != p.Network() {
		t.Error("a join link did not pin the network")
	}

	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := obelisk.ReadRun(cfg.Dir); !errors.Is(err, obelisk.ErrNotRunning) {
		t.Errorf("after the end: %v", err)
	}
	if link := obelisk.LastJoinLink(cfg.Dir); link != info.JoinLink {
		t.Errorf("last join link: %q", link)
	}
	// The next start is the same pillar in the same network.
	again := openPillar(t, cfg)
	if again.ID() != p.ID() || again.Network() != p.Network() {
		t.Error("a restart changed who it is")
	}
}

func checkModes(t *testing.T, dir string, want map[string]os.FileMode) {
	t.Helper()
	if runtime.GOOS == "windows" {
		return
	}
	for name, mode := range want {
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v %v, want %v", name, info, err, mode)
		}
	}
}

func TestNodeDirectory(t *testing.T) {
	t.Parallel()
	cfg := nodeConfig(t)
	cfg.API = obelisk.APISocket(cfg.Dir)
	cfg.KeyType, cfg.RSABits = obelisk.KeyRSA, 2048
	n := openNode(t, cfg) // without a network: it waits for one
	checkModes(t, cfg.Dir, map[string]os.FileMode{".": 0o700, "account.key": 0o600, "device.key": 0o600, "sealing": 0o700, "api.token": 0o600})
	info, err := obelisk.ReadRun(cfg.Dir)
	if err != nil || info.Role != "node" || info.ID != n.Device().String() || info.Account != n.Account().String() || info.Network != "" || info.API != cfg.API {
		t.Errorf("run.json: %+v, %v", info, err)
	}
	id, err := obelisk.ReadIdentity(cfg.Dir)
	if err != nil || id.KeyType != obelisk.KeyRSA || id.Account != n.Account() || id.Device != n.Device() || !id.Network.IsZero() {
		t.Errorf("identity: %+v, %v", id, err)
	}
	sent, err := n.Send(t.Context(), n.Account(), "to myself, one day")
	if err != nil || sent.State != obelisk.Queued || sent.ID != nil {
		t.Errorf("sent without a network: %+v, %v", sent, err)
	}
}

func TestLocked(t *testing.T) {
	t.Parallel()
	cfg := pillarConfig(t)
	openPillar(t, cfg)
	_, err := obelisk.OpenPillar(t.Context(), cfg)
	var locked *obelisk.LockedError
	if !errors.Is(err, obelisk.ErrLocked) || !errors.As(err, &locked) || locked.PID != os.Getpid() || locked.Dir != cfg.Dir {
		t.Errorf("a second one: %v", err)
	}
	_, err = obelisk.OpenNode(t.Context(), obelisk.NodeConfig{Dir: cfg.Dir})
	if !errors.Is(err, obelisk.ErrConfig) {
		t.Errorf("a node in a pillar's directory: %v", err)
	}
}

// A run.json that a killed process left behind means nothing.
func TestStaleRunFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b, _ := json.Marshal(obelisk.RunInfo{Role: "node", PID: os.Getpid()})
	if err := os.WriteFile(filepath.Join(dir, "run.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := obelisk.ReadRun(dir); !errors.Is(err, obelisk.ErrNotRunning) {
		t.Errorf("%v", err)
	}
}

func TestForeignDirectory(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("no modes on Windows")
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "thesis.tex"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := obelisk.OpenNode(t.Context(), obelisk.NodeConfig{Dir: dir, Listen: loopback}); err == nil || !strings.Contains(err.Error(), "chmod") {
		t.Errorf("somebody else's directory: %v", err)
	}
}

func TestConfigErrors(t *testing.T) {
	t.Parallel()
	tests := map[string]obelisk.PillarConfig{
		"no directory":   {},
		"little memory":  {Dir: "x", Memory: 1},
		"open admin":     {Dir: "x", Admin: "0.0.0.0:4080"},
		"half a TLS":     {Dir: "x", AdminTLSCert: "cert.pem"},
		"admin nonsense": {Dir: "x", Admin: "nonsense"},
		"registration":   {Dir: "x", Registration: "perhaps"},
		"concern":        {Dir: "x", Concern: -1},
		"listen":         {Dir: "x", Listen: []string{"nonsense"}},
		"listen on p2p":  {Dir: "x", Listen: []string{"/ip4/127.0.0.1/tcp/0/p2p/12D3KooWLiDWkR5GQSMfigeH1ZsGXUJKcGEQecxZ8ZHogNRPtcqa"}},
	}
	for name, cfg := range tests {
		if _, err := obelisk.OpenPillar(t.Context(), cfg); !errors.Is(err, obelisk.ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, cfg := range map[string]obelisk.NodeConfig{
		"no directory": {},
		"open API":     {Dir: "x", API: "0.0.0.0:1"},
		"key type":     {Dir: "x", KeyType: "dsa"},
		"RSA size":     {Dir: "x", KeyType: obelisk.KeyRSA, RSABits: 1024},
		"direct":       {Dir: "x", Direct: "maybe"},
		"name":         {Dir: "x", Name: "\xff"},
	} {
		if _, err := obelisk.OpenNode(t.Context(), cfg); !errors.Is(err, obelisk.ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Stat("x"); err == nil {
		t.Error("a wrong configuration made a directory")
	}
}

// send sends a text and waits until it is delivered and acknowledged.
func send(t *testing.T, from, to *obelisk.Node, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	m, err := from.Send(ctx, to.Account(), text)
	if err == nil {
		m, err = from.Wait(ctx, m.Handle, obelisk.Delivered)
	}
	if err != nil || m.State != obelisk.Delivered {
		t.Fatalf("%s: %+v, %v", text, m, err)
	}
	for got, err := range to.Inbox(ctx) {
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if err := to.Ack(got.ID); err != nil {
			t.Fatal(err)
		}
		if *got.Text == text {
			return
		}
		t.Errorf("received %q", *got.Text)
	}
}

// Inbox yields each message once, whoever acknowledges, and the rest again to
// the next one.
func TestInbox(t *testing.T) {
	t.Parallel()
	p := openPillar(t, pillarConfig(t))
	alice, bob := openNode(t, nodeConfig(t, p.JoinLink())), openNode(t, nodeConfig(t, p.JoinLink()))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for i := range 3 {
		m, err := alice.Send(ctx, bob.Account(), fmt.Sprint(i))
		if err == nil {
			m, err = alice.Wait(ctx, m.Handle, obelisk.Stored)
		}
		if err != nil {
			t.Fatalf("message %d is %s (%s): %v", i, m.State, m.Reason, err)
		}
	}
	read := func(ack bool) (texts []string) {
		for m, err := range bob.Inbox(ctx) {
			if err != nil {
				t.Fatal(err)
			}
			texts = append(texts, *m.Text)
			if ack && *m.Text != "1" {
				if err := bob.Ack(m.ID, m.ID); err != nil {
					t.Fatal(err)
				}
			}
			if *m.Text == "2" {
				break
			}
		}
		return texts
	}
	for range 2 {
		if got := read(false); strings.Join(got, " ") != "0 1 2" {
			t.Fatalf("read %v", got)
		}
	}
	read(true)
	for m, err := range bob.Inbox(ctx) {
		if err != nil || *m.Text != "1" {
			t.Errorf("left: %+v, %v", m, err)
		}
		break
	}
	// A loop ends with its context, or with the node.
	short, stop := context.WithCancel(ctx)
	for _, err := range bob.Inbox(short) {
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("end: %v", err)
			}
			break
		}
		stop()
	}
	stop()
	var last error
	for _, err := range bob.Inbox(ctx) {
		if last = err; err == nil {
			go bob.Close()
		}
	}
	if !errors.Is(last, obelisk.ErrClosed) {
		t.Errorf("after Close: %v", last)
	}
}

// The same client ID sends once.
func TestClientID(t *testing.T) {
	t.Parallel()
	n := openNode(t, nodeConfig(t))
	first, err := n.Send(t.Context(), n.Account(), "a", obelisk.WithClientID("x"), obelisk.WithTTL(time.Hour), obelisk.WithConcern(1))
	if err != nil {
		t.Fatal(err)
	}
	second, err := n.Send(t.Context(), n.Account(), "b", obelisk.WithClientID("x"))
	if err != nil || second.Handle != first.Handle {
		t.Errorf("%+v, %v", second, err)
	}
	m, err := n.Message(first.Handle.String())
	if err != nil || m.Out == nil || *m.Out.Text != "a" {
		t.Errorf("%+v, %v", m, err)
	}
	if _, err := n.Message(strings.Repeat("0", 64)); overlay.CodeOf(err) != overlay.CodeNotFound {
		t.Errorf("%v", err)
	}
	if _, err := n.Message("zz"); overlay.CodeOf(err) != overlay.CodeBadRequest {
		t.Errorf("%v", err)
	}
}

// A body that no pillar takes is refused at once.
func TestBodyLimit(t *testing.T) {
	t.Parallel()
	n := openNode(t, nodeConfig(t))
	if _, err := n.Send(t.Context(), n.Account(), strings.Repeat("a", 64<<10)); err != nil {
		t.Errorf("64 KiB: %v", err)
	}
	if _, err := n.Send(t.Context(), n.Account(), strings.Repeat("a", 64<<10+1)); overlay.CodeOf(err) != overlay.CodeTooLarge {
		t.Errorf("a byte more: %v", err)
	}
}

// The status says what the store takes now, not what it took once.
func TestStoreBytes(t *testing.T) {
	t.Parallel()
	p := openPillar(t, pillarConfig(t))
	n := openNode(t, nodeConfig(t, p.JoinLink()))
	before := p.Status().StoreBytes
	m, err := n.Send(t.Context(), n.Account(), strings.Repeat("a", 60<<10))
	if err == nil {
		m, err = n.Wait(t.Context(), m.Handle, obelisk.Stored)
	}
	if err != nil || !m.State.Reached(obelisk.Stored) {
		t.Fatalf("%+v, %v", m, err)
	}
	if after := p.Status().StoreBytes; after < before+60<<10 {
		t.Errorf("%d bytes, and %d before a message of 60 KiB", after, before)
	}
}

// A store over its limit takes no more messages to send.
func TestStoreLimit(t *testing.T) {
	t.Parallel()
	cfg := nodeConfig(t)
	cfg.StoreLimit = 1
	n := openNode(t, cfg)
	if _, err := n.Send(t.Context(), n.Account(), "x"); overlay.CodeOf(err) != overlay.CodeFull {
		t.Errorf("%v", err)
	}
}

// A copied data directory becomes a device of its own.
func TestClone(t *testing.T) {
	t.Parallel()
	p := openPillar(t, pillarConfig(t))
	cfg := nodeConfig(t, p.JoinLink())
	cfg.Name = "one"
	n := openNode(t, cfg)
	eventually(t, "registered", func() bool { return n.Status().Pillar != "" })
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	backup := filepath.Join(t.TempDir(), "backup")
	if err := os.CopyFS(backup, os.DirFS(cfg.Dir)); err != nil {
		t.Fatal(err)
	}
	chmodPrivate(t, backup)
	cfg.Name = "two" // makes a newer device record
	n = openNode(t, cfg)
	eventually(t, "registered again", func() bool {
		page, _, err := p.Nodes("", 10)
		return err == nil && len(page) == 1 && page[0].Name == "two"
	})
	device := n.Device()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	restored := cfg
	restored.Dir, restored.Name = backup, "one"
	r := openNode(t, restored)
	eventually(t, "a new device key", func() bool { return r.Device() != device && r.Status().Pillar != "" })
	if r.Account() != n.Account() {
		t.Error("another account")
	}
	eventually(t, "run.json names it", func() bool {
		info, err := obelisk.ReadRun(backup)
		return err == nil && info.ID == r.Device().String()
	})
}

// chmodPrivate undoes what os.CopyFS does to modes.
func chmodPrivate(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return os.Chmod(path, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}
