package replicatest

import (
	"context"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// Node is a node's session with a pillar, as thin as can be: it registers and
// submits.
type Node struct {
	t      testing.TB
	stream overlay.Stream
	frames *overlay.FrameReader
	next   uint64
}

// Register opens the author's session with a pillar, through links, whose
// identity must be the author's Peer.
func (a *Author) Register(t testing.TB, links overlay.Links, pillar peer.ID, addrs []multiaddr.Multiaddr) *Node {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := links.Connect(ctx, pillar, addrs); err != nil {
		t.Fatal(err)
	}
	s, err := links.Open(ctx, pillar, overlay.ProtoNode)
	if err != nil {
		t.Fatal(err)
	}
	n := &Node{t: t, stream: s, frames: overlay.NewFrameReader(s), next: 1}
	n.frames.Accept()
	now := uint64(a.now().UnixMilli())
	n.send(&overlay.Hello{Role: overlay.RoleNode, Formats: overlay.Format, Network: a.network, Time: now,
		Account: a.account.ID(), Credential: a.cert})
	n.read(func(m overlay.Message) bool { _, ok := m.(*overlay.Hello); return ok })
	account := overlay.AccountInfo{Counter: 1, Devices: []overlay.DeviceSerial{{Device: a.device.ID(), Serial: 1}}}
	device := overlay.DeviceInfo{Name: "test"}
	n.send(&overlay.Register{
		Account: a.sign(t, &overlay.Draft{Kind: overlay.KindAccount, Bin: account.Append(nil)}, a.account),
		Device:  a.sign(t, &overlay.Draft{Kind: overlay.KindDevice, Signer: a.cert, Bin: device.Append(nil)}, a.device),
	})
	n.read(func(m overlay.Message) bool {
		r, ok := m.(*overlay.Registered)
		if ok && r.Err != nil {
			t.Fatalf("register: %v", r.Err)
		}
		return ok
	})
	return n
}

// Account is whom the author writes for.
func (a *Author) Account() identity.AccountID { return a.account.ID() }

// Device is what the author writes with.
func (a *Author) Device() identity.DeviceID { return a.device.ID() }

// Question is the author's, where an account's devices are.
func (a *Author) Question(target identity.AccountID) *overlay.Locate {
	q := &overlay.Locate{Target: target, Asker: a.account.ID(), Certificate: a.cert, Time: uint64(a.now().UnixMilli())}
	q.Sign(a.network, a.device)
	return q
}

// Presence is what the author's device answers to another device.
func (a *Author) Presence(asker identity.DeviceID, pillars ...identity.PillarID) overlay.Presence {
	p := overlay.Presence{Device: a.device.ID(), Asker: asker, Pillars: pillars, Time: uint64(a.now().UnixMilli())}
	p.Sign(a.network, a.device)
	return p
}

// Locate asks a question and returns all answers.
func (n *Node) Locate(q *overlay.Locate) (found []overlay.Presence) {
	n.t.Helper()
	n.send(q)
	n.read(func(m overlay.Message) bool {
		a, ok := m.(*overlay.Located)
		if !ok {
			return false
		}
		if a.Err != nil {
			n.t.Fatalf("locate: %v", a.Err)
		}
		found = append(found, a.Presences...)
		return !a.More
	})
	return found
}

// Peer is the author's device as a peer.
func (a *Author) Peer() peer.ID { return peer.ID(a.device.ID()) }

func (a *Author) sign(t testing.TB, d *overlay.Draft, key overlay.Signer) []byte {
	t.Helper()
	d.Author = string(a.account.ID())
	d.Created = uint64(a.now().UnixMilli())
	d.Expires = d.Created + 30*overlay.DayMillis
	rec, err := d.Sign(a.network, key)
	if err != nil {
		t.Fatal(err)
	}
	return rec.Raw
}

func (n *Node) send(m overlay.Message) {
	n.t.Helper()
	if _, err := n.stream.Write(overlay.AppendFrame(nil, m)); err != nil {
		n.t.Fatal(err)
	}
}

// read passes messages over until one is what was waited for.
func (n *Node) read(want func(overlay.Message) bool) {
	n.t.Helper()
	for {
		n.stream.SetReadDeadline(time.Now().Add(2 * time.Minute))
		m, err := n.frames.Next()
		if err != nil {
			n.t.Fatalf("node's session: %v", err)
		}
		if busy, ok := m.(*overlay.Busy); ok {
			n.t.Fatalf("node's session: %v", busy.Err)
		}
		if want(m) {
			return
		}
	}
}

// Submit hands over records and returns when each is on that many pillars.
func (n *Node) Submit(copies uint64, raws ...[]byte) {
	n.t.Helper()
	for len(raws) > 0 {
		part := raws[:min(len(raws), overlay.MaxSubmit)]
		raws = raws[len(part):]
		n.send(&overlay.Submit{First: n.next, Concern: copies, Records: part})
		n.next += uint64(len(part))
		n.await(copies, len(part))
	}
}

// await reads answers until count records are on that many pillars.
func (n *Node) await(copies uint64, count int) {
	n.t.Helper()
	waiting := map[overlay.Dot]bool{}
	n.read(func(m overlay.Message) bool {
		switch m := m.(type) {
		case *overlay.Result:
			for _, l := range m.Lines {
				if l.Err != nil {
					n.t.Fatalf("submission refused: %v", l.Err)
				}
				if count--; l.Copies < copies {
					waiting[l.Dot] = true
				}
			}
		case *overlay.Watermark:
			for dot := range waiting {
				if dot.Log == m.Log && dot.Seq >= m.From && dot.Seq <= m.To && m.Copies >= copies {
					delete(waiting, dot)
				}
			}
		}
		return count == 0 && len(waiting) == 0
	})
}
