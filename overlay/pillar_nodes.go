package overlay

import (
	"bytes"
	"math"
	"math/bits"
	"slices"
	"strings"
	"sync"

	"github.com/obelisk-network/obelisk/identity"
)

// What operators see of accounts.

// Nodes returns the accounts of the directory after one, ascending, at most
// limit of them, and the account to go on after, empty at the end. It reads the
// whole directory: it is for people, not for traffic.
func (p *Pillar) Nodes(after identity.AccountID, limit int) ([]NodeEntry, identity.AccountID, error) {
	accounts, err := p.readDirectory(after)
	if err != nil {
		return nil, "", err
	}
	names := make([]identity.AccountID, 0, len(accounts))
	for a := range accounts {
		names = append(names, a)
	}
	slices.Sort(names)
	next := identity.AccountID("")
	if limit > 0 && len(names) > limit {
		names = names[:limit]
		next = names[limit-1]
	}
	entries := make([]NodeEntry, len(names))
	for i, a := range names {
		entries[i] = p.nodeEntry(a, accounts[a])
	}
	return entries, next, nil
}

// readDirectory reads the newest records of all accounts after one.
func (p *Pillar) readDirectory(after identity.AccountID) (map[identity.AccountID]*accountKeys, error) {
	view := p.cfg.Store.View()
	defer view.Close()
	now := p.now()
	accounts := map[identity.AccountID]*accountKeys{}
	var bad error
	err := view.Box(Directory, 0, math.MaxUint64, DayOf(now), true, func(e BoxEntry) bool {
		f, err := readStored(e.Raw, "")
		if err != nil {
			bad = err
			return false
		}
		if e.Expires <= now || string(f.author) <= string(after) {
			return true
		}
		a := identity.AccountID(f.author)
		if accounts[a] == nil {
			accounts[a] = new(accountKeys)
		}
		accounts[a].add(&f, &e, now)
		return true
	})
	return accounts, firstError(err, bad)
}

// nodeEntry describes an account. Its name is what its newest device claims.
func (p *Pillar) nodeEntry(a identity.AccountID, keys *accountKeys) NodeEntry {
	entry := NodeEntry{Account: a, Devices: []DeviceEntry{}}
	online := map[identity.DeviceID]bool{}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.live[a] {
		online[s.cert.Device] = true
	}
	named := uint64(0)
	for i := range keys.devices {
		d := &keys.devices[i]
		id, err := identity.DeviceFromKey(d.key[:])
		if err != nil || keys.removed(d) {
			continue
		}
		if info, err := ParseDeviceInfo(d.bin); err == nil && info.Name != "" && d.created >= named {
			entry.Name, named = info.Name, d.created
		}
		device := DeviceEntry{Device: id, Online: online[id], Pillars: []identity.PillarID{}}
		switch seen, ok := p.lastSeen[id]; {
		case device.Online:
			device.Pillars = append(device.Pillars, p.id)
			device.LastSeen = p.cfg.Now().UTC()
		case ok:
			device.LastSeen = seen.UTC()
		default:
			device.LastSeen = PlainTime(d.created)
		}
		entry.Devices = append(entry.Devices, device)
	}
	slices.SortFunc(entry.Devices, func(x, y DeviceEntry) int {
		return strings.Compare(string(x.Device), string(y.Device))
	})
	return entry
}

// mailboxCounter counts the accounts that were ever sent something, by linear
// counting: a bit for every value of a hash. It is exact for few and a percent
// off for a hundred thousand.
type mailboxCounter struct {
	mu    sync.Mutex
	bits  []byte // guarded by mu
	dirty bool   // guarded by mu
}

const (
	mailboxesKey = "pillar/mailboxes"
	mailboxBits  = 1 << 18
)

func (c *mailboxCounter) load(view View) error {
	c.bits = make([]byte, mailboxBits/8)
	return view.Values(mailboxesKey, func(_ string, data []byte) bool {
		copy(c.bits, data)
		return false
	})
}

// note counts the recipients of a record.
func (c *mailboxCounter) note(rec *Record) {
	if len(rec.To) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range rec.To {
		box := Mailbox(a)
		bit := (uint32(box[0])<<16 | uint32(box[1])<<8 | uint32(box[2])) % mailboxBits
		if mask := byte(1) << (bit % 8); c.bits[bit/8]&mask == 0 {
			c.bits[bit/8] |= mask
			c.dirty = true
		}
	}
}

func (c *mailboxCounter) count() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	set := 0
	for _, b := range c.bits {
		set += bits.OnesCount8(b)
	}
	free := max(1, mailboxBits-set)
	return uint64(math.Round(mailboxBits * math.Log(mailboxBits/float64(free))))
}

// values returns what is to be saved.
func (c *mailboxCounter) values() []Value {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.dirty {
		return nil
	}
	c.dirty = false
	return []Value{{Key: mailboxesKey, Data: bytes.Clone(c.bits)}}
}
