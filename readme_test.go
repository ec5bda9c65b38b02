package obelisk_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/obelisk-network/obelisk"
)

// embed is what README.md shows: TestReadme compares the two, and runs it.
func embed(ctx context.Context, dir, link string, friend obelisk.AccountID, show func(obelisk.Sent, obelisk.Message, error)) error {
	node, err := obelisk.OpenNode(ctx, obelisk.NodeConfig{Dir: dir, Join: []string{link}})
	if err != nil {
		return err
	}
	defer node.Close()
	sent, err := node.Send(ctx, friend, "hi") // on this disk, on its way; node.Wait tells how far it came
	for m, err := range node.Inbox(ctx) {     // each until it is acknowledged; ends with ctx, or with an error
		show(sent, m, err)
		node.Ack(m.ID)
	}
	return err
}

func TestReadme(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("readme_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(readme), "```go\n")
	block, _, ok := strings.Cut(rest, "```\n")
	indented := "\t" + strings.ReplaceAll(strings.TrimSuffix(block, "\n"), "\n", "\n\t")
	if !ok || !strings.Contains(string(source), indented) {
		t.Errorf("README.md shows other code than embed:\n%s", block)
	}

	pillar := openPillar(t, pillarConfig(t))
	bob := openNode(t, nodeConfig(t, pillar.JoinLink()))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got []string
	var last error
	ended := make(chan error, 1)
	go func() {
		ended <- embed(ctx, filepath.Join(t.TempDir(), "state"), pillar.JoinLink(), bob.Account(), func(_ obelisk.Sent, m obelisk.Message, err error) {
			if last = err; err == nil {
				got = append(got, *m.Text)
			}
			cancel()
		})
	}()
	for m, err := range bob.Inbox(t.Context()) {
		if err != nil || *m.Text != "hi" {
			t.Fatalf("%+v, %v", m, err)
		}
		if _, err := bob.Send(t.Context(), m.From, "hello"); err != nil {
			t.Fatal(err)
		}
		break
	}
	if err := <-ended; err != nil || !slices.Equal(got, []string{"hello"}) || !errors.Is(last, context.Canceled) {
		t.Errorf("%q, then %v; %v", got, last, err)
	}
}
