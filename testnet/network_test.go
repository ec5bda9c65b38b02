package testnet_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/obelisk-network/obelisk/admin"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/testnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// build returns the binary of this tree.
func build(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("starts real processes; not with -short")
	}
	binary := filepath.Join(t.TempDir(), "obelisk")
	out, err := exec.Command("go", "build", "-o", binary, "github.com/obelisk-network/obelisk/cmd/obelisk").CombinedOutput()
	if err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return binary
}

// create begins a network whose processes end with the test.
func create(t *testing.T) *testnet.Network {
	t.Helper()
	binary := build(t)
	dir, err := os.MkdirTemp("", "testnet-") // shorter than t.TempDir, for the sockets
	if err != nil {
		t.Fatal(err)
	}
	n, err := testnet.Create(dir, binary, testnet.Options{Memory: "32MiB", NodeMemory: "32MiB"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, p := range n.Processes() {
				t.Logf("%s:\n%s", p.Name, p.LogTail())
			}
		}
		n.KillAll()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return n
}

// patience is what a test may take, on however slow a machine.
const patience = 5 * time.Minute

func patiently(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// TestSmallNetwork is the demo in small: three pillars, two nodes, a death and
// a return.
func TestSmallNetwork(t *testing.T) {
	n := create(t)
	ctx := patiently(t)
	for _, name := range []string{"pillar-1", "pillar-2", "pillar-3"} {
		if _, err := n.StartPillar(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	pillars := n.Pillars()
	alice, err := n.StartNode(ctx, "alice", pillars[0])
	if err != nil {
		t.Fatal(err)
	}
	bob, err := n.StartNode(ctx, "bob", pillars[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := testnet.WaitTogether(ctx, pillars, 3); err != nil {
		t.Fatal(err)
	}
	if err := testnet.WaitConnected(ctx, n.Nodes(), 3); err != nil {
		t.Fatal(err)
	}
	send(ctx, t, alice, bob, "before")
	send(ctx, t, bob, alice, "before, too")

	st, err := alice.NodeStatus(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var victim *testnet.Process
	for _, p := range pillars {
		if p.ID == st.Pillar {
			victim = p
		}
	}
	if victim == nil {
		t.Fatalf("alice uses pillar %q, which is none of the network", st.Pillar)
	}
	if err := victim.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	if victim.Alive() {
		t.Fatalf("%s is alive after kill -9", victim.Name)
	}
	send(ctx, t, alice, bob, "after")
	send(ctx, t, bob, alice, "after, too")

	if err := victim.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := testnet.WaitEqual(ctx, pillars); err != nil {
		t.Fatal(err)
	}
	expect(ctx, t, bob, "before", "after")
	expect(ctx, t, alice, "before, too", "after, too")

	// Another process sees the same network, and ends it.
	again, err := testnet.Open(n.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range again.Processes() {
		if !p.Alive() {
			t.Errorf("%s is not alive as testnet.json has it", p.Name)
		}
	}
	if _, err := testnet.Create(n.Dir, "obelisk", testnet.Options{}); !errors.Is(err, testnet.ErrInUse) {
		t.Errorf("a second network in the directory: %v, want ErrInUse", err)
	}
	if err := again.Down(ctx); err != nil {
		t.Fatal(err)
	}
	for _, p := range again.Processes() {
		if p.Alive() {
			t.Errorf("%s is alive after Down", p.Name)
		}
	}
}

func send(ctx context.Context, t *testing.T, from, to *testnet.Process, text string) {
	t.Helper()
	c, err := from.Node()
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.Send(ctx, admin.SendRequest{To: []string{to.Account}, Text: &text, Wait: overlay.StateDelivered, TimeoutMS: 120_000})
	if err != nil {
		t.Fatalf("%s to %s: %v", from.Name, to.Name, err)
	}
	if r.State != overlay.StateDelivered {
		t.Fatalf("%s to %s: %q is %s (%s), want delivered", from.Name, to.Name, text, r.State, r.Reason)
	}
}

func expect(ctx context.Context, t *testing.T, n *testnet.Process, want ...string) {
	t.Helper()
	inbox, err := n.Inbox(ctx)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]int)
	for _, m := range inbox {
		if m.Text != nil {
			got[*m.Text]++
		}
	}
	for _, text := range want {
		if got[text] != 1 {
			t.Errorf("%s has %q %d times, want once", n.Name, text, got[text])
		}
	}
	if len(inbox) != len(want) {
		t.Errorf("%s has %d messages, want %d", n.Name, len(inbox), len(want))
	}
}

// A pid in testnet.json may be somebody else's by now: down must not touch it.
func TestForeignPID(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	sleeper := exec.Command("sleep", "60")
	if err := sleeper.Start(); err != nil {
		t.Skip("needs the sleep command:", err)
	}
	t.Cleanup(func() {
		if err := sleeper.Process.Kill(); err != nil {
			t.Error("the foreign process was ended:", err)
		}
		_ = sleeper.Wait()
	})
	list := `[{"role":"pillar","name":"pillar-1","id":"x","pid":` + strconv.Itoa(sleeper.Process.Pid) + `,"data":"` + filepath.Join(dir, "pillar-1") + `"}]`
	if err := os.WriteFile(filepath.Join(dir, "testnet.json"), []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
	n, err := testnet.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	p := n.Processes()[0]
	if p.Alive() {
		t.Error("a process that does not hold the data directory counts as alive")
	}
	if err := n.Down(patiently(t)); err != nil {
		t.Error(err)
	}
	if err := sleeper.Process.Signal(syscall.Signal(0)); err != nil {
		t.Error("the foreign process is gone:", err)
	}
}

func TestOpenNothing(t *testing.T) {
	t.Parallel()
	if _, err := testnet.Open(t.TempDir()); !errors.Is(err, testnet.ErrNoNetwork) {
		t.Errorf("got %v, want ErrNoNetwork", err)
	}
}
