package overlay

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/seal"
)

// Bounds of what the node keeps of the directory in memory.
const (
	dirCached = 4096 // accounts whose keys are in memory; also what a session watches
	dirAsk    = 20 * time.Second
)

// How long the node waits before it reads on in the directory: it doubles while
// nothing is new, up to directoryMax, and starts anew when something was. The
// more nodes there are, the longer it is at least, so that a crowd does not ask
// its pillars all day for each newcomer.
const (
	directoryMin     = time.Second
	directoryPerNode = 10 * time.Millisecond
	directoryMax     = time.Minute
)

// nodeDirectory is who is who: the newest account and device records of
// everybody, on disk, and in memory those of the accounts that are written to.
type nodeDirectory struct {
	n    *Node
	work chan boxWork
	ask  chan struct{}
	read chan struct{} // the directory was read to its end

	mu      sync.Mutex
	rest    time.Duration                      // guarded by mu; the last pause
	seen    uint64                             // guarded by mu; gen when it was last read to its end
	gen     uint64                             // guarded by mu; counts changes
	cache   map[identity.AccountID]*dirAccount // guarded by mu
	known   map[identity.AccountID]struct{}    // guarded by mu
	wanted  map[identity.AccountID]struct{}    // guarded by mu; to be asked for
	asked   map[identity.AccountID]time.Time   // guarded by mu; in the present session
	reading *nodeSession                       // guarded by mu; sends the directory at the moment
}

// dirAccount is what is known of one account. It never changes.
type dirAccount struct {
	info    *AccountInfo // nil: no account record seen
	devices []dirDevice
}

type dirDevice struct {
	device identity.DeviceID
	cert   *identity.Certificate
	info   *DeviceInfo
}

func newNodeDirectory(n *Node) *nodeDirectory {
	return &nodeDirectory{n: n, work: make(chan boxWork, 4), ask: make(chan struct{}, 1), read: make(chan struct{}, 1),
		cache: map[identity.AccountID]*dirAccount{}, known: map[identity.AccountID]struct{}{},
		wanted: map[identity.AccountID]struct{}{}, asked: map[identity.AccountID]time.Time{}}
}

func (d *nodeDirectory) load() error {
	return d.n.disk.table.Scan([]byte(keyDirAcc), nil, func(key, _ []byte) bool {
		d.known[identity.AccountID(key[len(keyDirAcc):])] = struct{}{}
		return true
	})
}

// generation changes whenever what is known of any account does.
func (d *nodeDirectory) generation() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.gen
}

// want asks the active pillar for accounts, now or as soon as there is one, and
// to be told when they change.
func (d *nodeDirectory) want(accounts ...identity.AccountID) {
	d.mu.Lock()
	now := time.Now()
	for _, a := range accounts {
		if at, again := d.asked[a]; (!again || now.Sub(at) > dirAsk) && len(d.wanted) < 4*dirCached {
			d.wanted[a] = struct{}{}
		}
	}
	d.mu.Unlock()
	wakeUp(d.ask)
}

// connected reads the directory from a new active pillar, and has it watch
// whom the node writes to.
func (d *nodeDirectory) connected(s *nodeSession) {
	contacts := d.n.contacts.accounts()
	d.mu.Lock()
	clear(d.asked)
	d.reading = nil
	d.wanted[d.n.account()] = struct{}{}
	for _, a := range contacts {
		d.wanted[a] = struct{}{}
	}
	for a := range d.cache {
		d.wanted[a] = struct{}{}
	}
	d.mu.Unlock()
	wakeUp(d.ask)
	d.resume(s)
}

// resume asks for what is new in the directory, unless that is under way.
func (d *nodeDirectory) resume(s *nodeSession) {
	d.mu.Lock()
	if d.reading != nil && !d.reading.ended() {
		d.mu.Unlock()
		return
	}
	d.reading = s
	d.mu.Unlock()
	cursor, err := d.n.readCursor(BoxDirectory)
	if err != nil {
		d.n.giveUp(err)
		return
	}
	s.send(&Resume{Box: BoxDirectory, Cursor: cursor})
}

// run takes records of the directory from pages and pushes, and asks for
// accounts, until ctx ends.
func (d *nodeDirectory) run(ctx context.Context) {
	var asking sync.WaitGroup
	defer asking.Wait()
	asking.Go(func() { d.askRun(ctx) })
	for {
		select {
		case <-ctx.Done():
			return
		case w := <-d.work:
			if err := d.takeWork(w); err != nil {
				d.n.giveUp(err)
				return
			}
		}
	}
}

func (d *nodeDirectory) takeWork(w boxWork) error {
	if w.isCursor {
		return d.n.disk.apply(cursorWrite(BoxDirectory, w.cursor))
	}
	if err := d.take(d.n.verified(w.records)); err != nil {
		return err
	}
	if w.page {
		w.session.send(&Saved{Box: BoxDirectory, To: w.to})
	}
	if w.last {
		d.mu.Lock()
		if d.reading == w.session {
			d.reading = nil
		}
		d.mu.Unlock()
		wakeUp(d.read)
	}
	return nil
}

// pause says how long to wait after the directory was read to its end.
func (d *nodeDirectory) pause() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	least := max(directoryMin, time.Duration(len(d.known))*directoryPerNode)
	if d.gen != d.seen {
		d.seen, d.rest = d.gen, least
	} else {
		d.rest = max(least, 2*d.rest)
	}
	d.rest = min(d.rest, directoryMax)
	return jitter(d.rest)
}

// askRun asks for wanted accounts.
func (d *nodeDirectory) askRun(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.ask:
		}
		for ctx.Err() == nil {
			s := d.n.sessions.activeSession()
			accounts := d.nextWanted(s != nil)
			if len(accounts) == 0 {
				break
			}
			raws, _, err := s.find(ctx, &Find{Watch: true, Accounts: accounts})
			if err != nil {
				d.n.log.Debug("cannot ask for accounts", "err", err)
				if s.ended() { // the next session asks again
					d.mu.Lock()
					for _, a := range accounts {
						d.wanted[a] = struct{}{}
						delete(d.asked, a)
					}
					d.mu.Unlock()
				}
				break
			}
			if err := d.take(d.n.verified(raws)); err != nil {
				d.n.giveUp(err)
				return
			}
		}
	}
}

// nextWanted takes up to MaxFind accounts to ask for.
func (d *nodeDirectory) nextWanted(online bool) []identity.AccountID {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !online {
		return nil
	}
	var list []identity.AccountID
	for a := range d.wanted {
		if len(list) == MaxFind {
			break
		}
		list = append(list, a)
		delete(d.wanted, a)
		if len(d.asked) > 4*dirCached {
			clear(d.asked)
		}
		d.asked[a] = time.Now()
	}
	return list
}

// take keeps the account and device records among recs, which are verified,
// that are newer than what is known. Those of the own account may be another
// device's work: an error is ErrCloned or the disk's.
func (d *nodeDirectory) take(recs []*Record) error {
	newest := map[string]*Record{}
	for _, rec := range recs {
		key, ok := dirKey(rec)
		if !ok {
			continue
		}
		old := newest[key]
		if old == nil {
			raw, err := d.n.disk.get([]byte(key))
			if err != nil {
				return err
			}
			if raw != nil {
				old, _ = d.n.verify().Parse(raw)
			}
		}
		if old == nil || counts(rec, old) {
			newest[key] = rec
		}
	}
	if len(newest) == 0 {
		return nil
	}
	ws := make([]Write, 0, len(newest))
	for key, rec := range newest {
		ws = append(ws, Write{[]byte(key), rec.Raw})
	}
	if err := d.n.disk.apply(ws...); err != nil {
		return err
	}
	d.mu.Lock()
	for _, rec := range newest {
		d.known[rec.Account()] = struct{}{}
		delete(d.cache, rec.Account())
	}
	d.gen++
	d.mu.Unlock()
	d.n.outbox.retrySealing()
	wakeUp(d.n.receipts.wake)
	var own []*Record
	for _, rec := range newest {
		if rec.Account() == d.n.account() {
			own = append(own, rec)
		}
	}
	if len(own) == 0 {
		return nil
	}
	return d.n.self.compare(own)
}

// dirKey is where a directory record is kept; false if it is none.
func dirKey(rec *Record) (string, bool) {
	switch rec.Kind {
	case KindAccount:
		return keyDirAcc + rec.Author, true
	case KindDevice:
		device := rec.Device()
		return keyDirDev + rec.Author + string(device), device != ""
	default:
		return "", false
	}
}

// counts reports whether rec counts instead of old: an account record by its
// counter, a device record by its time.
func counts(rec, old *Record) bool {
	if rec.ID == old.ID {
		return false
	}
	if rec.Kind == KindAccount {
		a, aerr := ParseAccountInfo(rec.Bin)
		b, berr := ParseAccountInfo(old.Bin)
		switch {
		case aerr != nil:
			return false
		case berr != nil:
			return true
		case a.Counter != b.Counter:
			return a.Counter > b.Counter
		}
	}
	return newer(rec, old)
}

// account returns what is known of a.
func (d *nodeDirectory) account(a identity.AccountID) (*dirAccount, error) {
	d.mu.Lock()
	acc, gen := d.cache[a], d.gen
	d.mu.Unlock()
	if acc != nil {
		return acc, nil
	}
	acc, err := d.lookup(a)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gen == gen {
		if len(d.cache) >= dirCached {
			for other := range d.cache {
				delete(d.cache, other)
				break
			}
		}
		d.cache[a] = acc
	}
	return acc, nil
}

// lookup reads what the disk has of a.
func (d *nodeDirectory) lookup(a identity.AccountID) (*dirAccount, error) {
	acc := &dirAccount{}
	v := d.n.verify()
	raw, err := d.n.disk.get(nodeKey(keyDirAcc, a))
	if err != nil {
		return nil, err
	}
	if raw != nil {
		if rec, err := v.Parse(raw); err == nil {
			acc.info, _ = ParseAccountInfo(rec.Bin)
		}
	}
	err = d.n.disk.table.Scan(nodeKey(keyDirDev, a), nil, func(key, data []byte) bool {
		rec, err := v.Parse(bytes.Clone(data))
		if err != nil {
			return true
		}
		cert, cerr := identity.ParseCertificate(a, rec.Signer)
		info, ierr := ParseDeviceInfo(rec.Bin)
		if cerr == nil && ierr == nil {
			acc.devices = append(acc.devices, dirDevice{cert.Device, cert, info})
		}
		return true
	})
	return acc, err
}

// sealingDevices lists the devices of accounts that a message is sealed to:
// those that each account lists, or, of an account that was never seen to list
// any, all with a certificate. Of the own account, this device only if it has
// no other.
func (d *nodeDirectory) sealingDevices(to []identity.AccountID, now uint64) ([]seal.Device, error) {
	var list []seal.Device
	several := len(to) > 1
	for _, a := range to {
		acc, err := d.account(a)
		if err != nil {
			return nil, err
		}
		devices := acc.sealing(a, now, several)
		if a == d.n.account() {
			others := slices.DeleteFunc(slices.Clone(devices), func(x seal.Device) bool { return string(x.Device) == string(d.n.device()) })
			if len(others) > 0 {
				devices = others
			}
		}
		list = append(list, devices...)
	}
	return list, nil
}

// sealing lists the account's devices and their keys.
func (acc *dirAccount) sealing(a identity.AccountID, now uint64, several bool) []seal.Device {
	var list []seal.Device
	for _, dev := range acc.devices {
		if acc.info != nil && !acc.info.Has(dev.device, dev.cert.Serial) || !dev.cert.Covers(now) {
			continue
		}
		list = append(list, seal.Device{Account: []byte(a), Device: []byte(dev.device), Key: seal.ChooseKey(dev.info.Keys, now, several)})
	}
	if acc.info == nil {
		return list
	}
	for _, x := range acc.info.Devices { // listed and without a usable record: missing
		if !acc.info.IsRemoved(x.Device, x.Serial) && !slices.ContainsFunc(list, func(s seal.Device) bool { return string(s.Device) == string(x.Device) }) {
			list = append(list, seal.Device{Account: []byte(a), Device: []byte(x.Device)})
		}
	}
	return list
}

// valid lists the devices that speak for the account: those it lists, or, if it
// was never seen to list any, all with a certificate.
func (acc *dirAccount) valid(now uint64) []identity.DeviceID {
	var list []identity.DeviceID
	for _, dev := range acc.devices {
		if dev.cert.Covers(now) && (acc.info == nil || acc.info.Has(dev.device, dev.cert.Serial)) {
			list = append(list, dev.device)
		}
	}
	return list
}

// claims returns the name that an account's newest device claims.
func (d *nodeDirectory) claims(a identity.AccountID, device identity.DeviceID) string {
	acc, err := d.account(a)
	if err != nil {
		return ""
	}
	for _, dev := range acc.devices {
		if dev.device == device {
			return dev.info.Name
		}
	}
	return ""
}

// Nodes lists the accounts of the network by their ID, after the one given; at
// most limit, and never more than 1,000. next is where to go on, "" at the
// end. Names are what the accounts claim; whether a device is online a node does
// not know.
func (n *Node) Nodes(after identity.AccountID, limit int) (list []NodeEntry, next identity.AccountID, err error) {
	v := n.verify()
	list = []NodeEntry{}
	if v == nil {
		return list, "", nil
	}
	limit = pageLimit(limit)
	var from []byte
	if after != "" {
		from = append(nodeKey(keyDirDev, after), bytes.Repeat([]byte{0xff}, identity.Ed25519IDLen)...)
	}
	err = n.disk.table.Scan([]byte(keyDirDev), from, func(key, data []byte) bool {
		a := identity.AccountID(key[len(keyDirDev) : len(key)-identity.Ed25519IDLen])
		if len(list) == 0 || list[len(list)-1].Account != a {
			if len(list) == limit {
				next = list[limit-1].Account
				return false
			}
			list = append(list, NodeEntry{Account: a, Devices: []DeviceEntry{}})
		}
		e := &list[len(list)-1]
		rec, err := v.Parse(bytes.Clone(data))
		if err != nil {
			return true
		}
		seen := PlainTime(rec.Created)
		if info, err := ParseDeviceInfo(rec.Bin); err == nil && (e.Name == "" || len(e.Devices) == 0 || seen.After(e.Devices[len(e.Devices)-1].LastSeen)) {
			e.Name = info.Name
		}
		e.Devices = append(e.Devices, DeviceEntry{Device: identity.DeviceID(key[len(key)-identity.Ed25519IDLen:]), Pillars: []identity.PillarID{}, LastSeen: seen})
		return true
	})
	return list, next, err
}
