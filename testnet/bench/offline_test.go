package main

import (
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/store"
	"github.com/obelisk-network/obelisk/testnet"
)

// What is deleted by hand is gone, and nothing else.
func TestDeleteByHand(t *testing.T) {
	t.Parallel()
	network := identity.NewNetworkKey().ID()
	dir := t.TempDir()
	ring, key, err := newRing(filepath.Join(dir, "sealing"))
	if err != nil {
		t.Fatal(err)
	}
	d, err := newDevice(network, ring, key)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	pillars := []*testnet.Process{
		{Entry: testnet.Entry{Name: "one", Data: filepath.Join(dir, "one")}},
		{Entry: testnet.Entry{Name: "two", Data: filepath.Join(dir, "two")}},
	}
	var disks []*store.Pebble
	for _, p := range pillars {
		if err := os.MkdirAll(p.Data, 0o700); err != nil {
			t.Fatal(err)
		}
		disk, err := openStore(p)
		if err != nil {
			t.Fatal(err)
		}
		disks = append(disks, disk)
	}
	b := &bench{settings: &settings{size: 64}}
	const total = fillBatch + 100
	stubs, err := b.fillDisks(t.Context(), d, total, disks)
	if err != nil {
		t.Fatal(err)
	}
	for _, disk := range disks {
		if err := disk.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := sameRecords(pillars); err != nil || n != total {
		t.Fatalf("%d records, %v; want %d", n, err, total)
	}
	lost := pick(stubs, 10, true)
	if lost[0] != stubs[total-10] {
		t.Error("the newest are not the last that were created")
	}
	if err := deleteByHand(pillars[1], lost); err != nil {
		t.Fatal(err)
	}
	if _, err := sameRecords(pillars); err == nil {
		t.Error("two disks with different records pass for equal")
	}
	held, err := unexpired(pillars[1], millis(time.Now()))
	if err != nil || len(held) != total-10 {
		t.Fatalf("%d records are left, %v; want %d", len(held), err, total-10)
	}
	for i := range lost {
		if _, ok := held[lost[i].id]; ok {
			t.Fatalf("record %s is still there", lost[i].id)
		}
	}
}

// A cut drops packets from one half to the other, and only those, until it ends.
func TestProxies(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/net/udp"); err != nil {
		t.Skip("no /proc")
	}
	x := newProxies()
	defer x.close()
	x.place(&testnet.Process{Entry: testnet.Entry{PID: os.Getpid()}}, 0)
	for half, crosses := range []bool{false, true} {
		pillar, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		defer pillar.Close()
		if _, err := x.announce(pillar.LocalAddr().(*net.UDPAddr).Port, half); err != nil {
			t.Fatal(err)
		}
		peer, err := net.DialUDP("udp4", nil, x.open[half].LocalAddr().(*net.UDPAddr))
		if err != nil {
			t.Fatal(err)
		}
		defer peer.Close()
		buf := make([]byte, 16)
		echoed := func(wait time.Duration) bool {
			peer.Write([]byte("there?"))
			pillar.SetReadDeadline(time.Now().Add(wait))
			_, from, err := pillar.ReadFromUDP(buf)
			if err != nil {
				return false
			}
			pillar.WriteToUDP([]byte("yes"), from)
			peer.SetReadDeadline(time.Now().Add(wait))
			n, err := peer.Read(buf)
			return err == nil && string(buf[:n]) == "yes"
		}
		if !echoed(time.Minute) {
			t.Errorf("half %d: nothing passes", half)
		}
		x.cut.Store(true)
		if crosses && echoed(50*time.Millisecond) {
			t.Errorf("half %d: packets pass a cut", half)
		}
		if !crosses && !echoed(time.Minute) {
			t.Errorf("half %d: packets within a half do not pass a cut", half)
		}
		x.cut.Store(false)
		if !echoed(time.Minute) {
			t.Errorf("half %d: nothing passes after the cut", half)
		}
	}
}
