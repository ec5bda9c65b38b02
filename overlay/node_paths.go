package overlay

import (
	"cmp"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
)

// maxPaths is how many devices' paths a node remembers; beyond, one that is not
// connected is forgotten.
const maxPaths = 4096

// directContact is another account's device that said who it is. Guarded by
// nodeDirect's mu.
type directContact struct {
	account        identity.AccountID
	path           Path
	since          time.Time
	sent, received uint64
}

// ContactPath is how a device of another account is reached at the moment. Only
// devices are listed that messages were, or were to be, exchanged with directly
// in this run.
type ContactPath struct {
	Account identity.AccountID `json:"account"`
	Device  identity.DeviceID  `json:"device"`
	Path    Path               `json:"path"`   // direct or relayed; "" while it is not connected
	Since   time.Time          `json:"since"`  // of that path
	RTTMS   float64            `json:"rtt_ms"` // 0 while unknown
	// Sent and Received count messages that went over some such path.
	Sent     uint64 `json:"sent"`
	Received uint64 `json:"received"`
}

// ContactPaths lists the devices that the node delivers to, or takes from,
// directly, by account and device.
func (n *Node) ContactPaths() []ContactPath {
	d := n.direct
	d.mu.Lock()
	list := make([]ContactPath, 0, len(d.known))
	for dev, c := range d.known {
		list = append(list, ContactPath{Account: c.account, Device: dev, Path: c.path, Since: c.since.UTC(), Sent: c.sent, Received: c.received})
	}
	d.mu.Unlock()
	for i := range list {
		if info, ok := n.cfg.Peers.Info(peer.ID(list[i].Device)); ok {
			list[i].RTTMS = float64(info.RTT) / float64(time.Millisecond)
		}
	}
	slices.SortFunc(list, func(a, b ContactPath) int {
		return cmp.Or(cmp.Compare(a.Account, b.Account), cmp.Compare(a.Device, b.Device))
	})
	return list
}

// met notes that a device said whose it is.
func (d *nodeDirect) met(a identity.AccountID, dev identity.DeviceID) {
	d.mu.Lock()
	if d.known[dev] == nil {
		if len(d.known) >= maxPaths {
			for other, c := range d.known {
				if c.path == PathNone {
					delete(d.known, other)
					break
				}
			}
		}
		if len(d.known) < maxPaths {
			d.known[dev] = &directContact{account: a}
		}
	}
	d.mu.Unlock()
	d.pathOf(dev)
}

// pathOf notes how a device is reached now and tells if that changed.
func (d *nodeDirect) pathOf(dev identity.DeviceID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.known[dev]
	if c == nil {
		return
	}
	info, _ := d.n.cfg.Peers.Info(peer.ID(dev)) // under mu: of two changes the later one counts
	if info.Path == c.path {
		return
	}
	c.path, c.since = info.Path, d.n.cfg.Now()
	d.n.events.add(Event{Kind: EventPath, Path: &PathEvent{Account: c.account, Device: dev, Path: c.path}})
}

// devicesOf lists the account's devices that said so.
func (d *nodeDirect) devicesOf(a identity.AccountID) (list []identity.DeviceID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for dev, c := range d.known {
		if c.account == a {
			list = append(list, dev)
		}
	}
	return list
}

// peerChanged takes note of a change of somebody's connections: a lane whose
// device is reached directly now moves there.
func (d *nodeDirect) peerChanged(e PeerEvent) {
	if d.off() {
		return
	}
	dev := identity.DeviceID(e.Peer)
	d.pathOf(dev)
	if e.What == PeerLost {
		return // its streams end by themselves
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.known[dev]
	if c == nil || c.path != PathDirect {
		return
	}
	if p := d.accounts[c.account]; p != nil && p.lanes[dev] != nil {
		l := p.lanes[dev]
		l.better = true
		wakeUp(l.wake)
	}
}
