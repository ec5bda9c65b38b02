package obelisk_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/obelisk-network/obelisk"
)

// The examples run on this machine alone: one pillar on loopback and free
// ports. A real pillar listens on the default ports of a public address.
func startPillar(ctx context.Context, dir string) *obelisk.Pillar {
	pillar, err := obelisk.OpenPillar(ctx, obelisk.PillarConfig{
		Dir:    filepath.Join(dir, "pillar"),
		Listen: []string{"/ip4/127.0.0.1/tcp/0"},
		Memory: 16 << 20, StoreLimit: 1 << 30,
	})
	if err != nil {
		log.Fatal(err)
	}
	return pillar
}

func tempDir() (dir string, remove func()) {
	dir, err := os.MkdirTemp("", "obelisk-example")
	if err != nil {
		log.Fatal(err)
	}
	return dir, func() { os.RemoveAll(dir) }
}

// A pillar without a network key, an admission or somebody to join founds a
// network. Its join link is all that others need.
func ExampleOpenPillar() {
	dir, remove := tempDir()
	defer remove()
	pillar, err := obelisk.OpenPillar(context.Background(), obelisk.PillarConfig{
		Dir:    dir,
		Listen: []string{"/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"},
		Memory: 16 << 20, StoreLimit: 1 << 30,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer pillar.Close()
	status := pillar.Status()
	fmt.Println("pillars alive:", status.PillarsAlive)
	fmt.Println("addresses:", len(status.Listen))
	fmt.Println("join link:", pillar.JoinLink()[:len("obelisk://join/")])
	// Output:
	// pillars alive: 1
	// addresses: 2
	// join link: obelisk://join/
}

// A node needs a directory and, at its first start, one pillar.
func ExampleOpenNode() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	dir, remove := tempDir()
	defer remove()
	pillar := startPillar(ctx, dir)
	defer pillar.Close()

	node, err := obelisk.OpenNode(ctx, obelisk.NodeConfig{
		Dir:    filepath.Join(dir, "node"),
		Join:   []string{pillar.JoinLink()},
		Listen: []string{"/ip4/127.0.0.1/tcp/0"},
		Name:   "alice",
	})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close()
	fmt.Println(node.Status().Name, "belongs to the pillar's network:", node.Network() == pillar.Network())
	// Output:
	// alice belongs to the pillar's network: true
}

// Send returns when the message is on this disk; Wait when it is as far as one
// wants to know.
func ExampleNode_Send() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	dir, remove := tempDir()
	defer remove()
	pillar := startPillar(ctx, dir)
	defer pillar.Close()
	alice, bob := startNode(ctx, dir, "alice", pillar), startNode(ctx, dir, "bob", pillar)
	defer alice.Close()
	defer bob.Close()

	sent, err := alice.Send(ctx, bob.Account(), "hello", obelisk.WithTTL(24*time.Hour))
	if err != nil {
		log.Fatal(err)
	}
	sent, err = alice.Wait(ctx, sent.Handle, obelisk.Delivered)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(sent.State)
	// Output:
	// delivered
}

func startNode(ctx context.Context, dir, name string, pillar *obelisk.Pillar) *obelisk.Node {
	node, err := obelisk.OpenNode(ctx, obelisk.NodeConfig{
		Dir:    filepath.Join(dir, name),
		Join:   []string{pillar.JoinLink()},
		Listen: []string{"/ip4/127.0.0.1/tcp/0"},
		Name:   name,
	})
	if err != nil {
		log.Fatal(err)
	}
	return node
}

// Inbox yields what is not acknowledged, and then what comes. A message that
// was acknowledged is never yielded again, whatever happens to the process.
func ExampleNode_Inbox() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	dir, remove := tempDir()
	defer remove()
	pillar := startPillar(ctx, dir)
	defer pillar.Close()
	alice, bob := startNode(ctx, dir, "alice", pillar), startNode(ctx, dir, "bob", pillar)
	defer alice.Close()
	defer bob.Close()

	for _, text := range []string{"one", "two"} {
		sent, err := alice.Send(ctx, bob.Account(), text)
		if err == nil {
			_, err = alice.Wait(ctx, sent.Handle, obelisk.Stored) // on the pillar's disk, too
		}
		if err != nil {
			log.Fatal(err)
		}
	}
	for m, err := range bob.Inbox(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(*m.Text)
		if err := bob.Ack(m.ID); err != nil { // what was done with it is on disk, too
			log.Fatal(err)
		}
		if *m.Text == "two" {
			break
		}
	}
	fmt.Println("unacknowledged:", bob.Status().Inbox.Unacked)
	// Output:
	// one
	// two
	// unacknowledged: 0
}
