package overlay

import (
	"bytes"
	"math"
	"slices"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/internal/canon"
)

// storedFields is what lookups need of a record in the store. It was checked
// before it was stored, so this only takes it apart.
type storedFields struct {
	kind             Kind
	author           []byte
	deviceKey        []byte // 32 bytes; nil if the author's own key signed it
	serial           uint64 // of the certificate
	isTo             bool   // addressed to the account asked about
	to               [][]byte
	created, expires uint64
	bin              []byte
}

// readStored takes a stored record apart, but for f.to. The slices share raw's
// memory.
func readStored(raw []byte, account identity.AccountID) (f storedFields, err error) {
	return readStoredTo(raw, account, nil)
}

// readStoredTo is readStored with f.to, which is written into to's memory; not
// if to is nil.
func readStoredTo(raw []byte, account identity.AccountID, to [][]byte) (f storedFields, err error) {
	f.to = to[:0]
	outer := canon.MakeReader(raw)
	outer.Array(2)
	r := canon.MakeReader(outer.Bin(MaxRecord))
	r.Array(9)
	r.Uint()
	f.kind = Kind(r.Uint())
	f.author = r.Bin(identity.Ed25519IDLen)
	signer := r.Bin(identity.MaxCertificate)
	for range r.ArrayMax(MaxTo) {
		a := r.Bin(identity.Ed25519IDLen)
		if string(a) == string(account) {
			f.isTo = true
		}
		if to != nil {
			f.to = append(f.to, a)
		}
	}
	for range r.ArrayMax(MaxTo) {
		r.Array(2)
		r.Uint()
		r.Uint()
	}
	f.created, f.expires = r.Uint(), r.Uint()
	f.bin = r.Bin(MaxRecord)
	if err := r.End(); err != nil {
		return f, err
	}
	if isCertificate(signer) {
		c := canon.MakeReader(signer)
		c.Array(6)
		f.deviceKey, f.serial = c.BinExact(32), c.Uint()
		err = c.Err()
	}
	return f, err
}

// accountKeys are an account's newest records.
type accountKeys struct {
	info    *AccountInfo     // of the highest counter, expired or not; nil if there is none
	account []byte           // its record; nil if that is expired
	created uint64           // of that record
	id      RecordID         // of that record
	devices []deviceKeys     // of every device, removed ones too
	index   map[[32]byte]int // in devices, by key
}

type deviceKeys struct {
	key     [32]byte
	serial  uint64
	id      RecordID
	created uint64
	bin     []byte
	raw     []byte
}

// removed reports whether the account's newest record removed the device.
func (k *accountKeys) removed(d *deviceKeys) bool {
	if k.info == nil {
		return false
	}
	for _, r := range k.info.Removed {
		if r.Serial >= d.serial && bytes.Equal(r.Device.Ed25519Key(), d.key[:]) {
			return true
		}
	}
	return false
}

// readKeys reads the newest records of an account. Device records that are
// expired at now are passed over.
func readKeys(view View, a identity.AccountID, now uint64) (*accountKeys, error) {
	keys := new(accountKeys)
	var bad error
	err := view.Box(KeyBox(a), 0, math.MaxUint64, 0, true, func(e BoxEntry) bool {
		f, err := readStored(e.Raw, "")
		if err != nil {
			bad = err
			return false
		}
		keys.add(&f, &e, now)
		return true
	})
	return keys, firstError(err, bad)
}

// newerAccount reports whether an account record counts instead of the one k
// has: the highest (counter, created, ID).
func (k *accountKeys) newerAccount(counter, created uint64, id RecordID) bool {
	switch {
	case counter != k.info.Counter:
		return counter > k.info.Counter
	case created != k.created:
		return created > k.created
	default:
		return bytes.Compare(id[:], k.id[:]) > 0
	}
}

func (k *accountKeys) add(f *storedFields, e *BoxEntry, now uint64) {
	switch f.kind {
	case KindAccount:
		info, err := ParseAccountInfo(f.bin)
		if err != nil || k.info != nil && !k.newerAccount(info.Counter, f.created, e.ID) {
			return
		}
		k.info, k.account, k.created, k.id = info, nil, f.created, e.ID
		if f.expires > now {
			k.account = bytes.Clone(e.Raw)
		}
	case KindDevice:
		if f.expires <= now || len(f.deviceKey) != 32 {
			return
		}
		d := deviceKeys{key: [32]byte(f.deviceKey), serial: f.serial, id: e.ID, created: f.created}
		i, ok := k.index[d.key]
		if ok {
			if o := &k.devices[i]; d.created < o.created || d.created == o.created && bytes.Compare(d.id[:], o.id[:]) < 0 {
				return
			}
		} else {
			if k.index == nil {
				k.index = map[[32]byte]int{}
			}
			i = len(k.devices)
			k.index[d.key] = i
			k.devices = append(k.devices, d)
		}
		d.raw = bytes.Clone(e.Raw)
		d.bin = d.raw[len(d.raw):]
		if f, err := readStored(d.raw, ""); err == nil {
			d.bin = f.bin
		}
		k.devices[i] = d
	}
}

// find answers a Find.
func (s *pillarSession) find(m *Find) *Error {
	p := s.p
	if m.Watch && !s.watch(m.Accounts) {
		s.send(&Found{N: m.N, Err: Refuse(CodeQuota, "at most %d accounts are watched in a session", MaxWatched)})
		return nil
	}
	out := foundWriter{s: s, n: m.N}
	err := s.findAccounts(m.Accounts, &out)
	switch {
	case err != nil:
	case m.OnlyHeld:
		err = s.findHeld(m.IDs, &out)
	default:
		err = s.findRecords(m.IDs, &out)
	}
	if err != nil {
		p.log.Error("lookup failed", "err", err)
		out.msg = Found{Err: errReading}
	}
	out.flush(false)
	return nil
}

// findAccounts collects the newest account record and the newest record of
// every device that is not removed. No view is open while the answer waits for
// room.
func (s *pillarSession) findAccounts(accounts []identity.AccountID, out *foundWriter) error {
	now := s.p.past()
	found := make(map[identity.AccountID]struct{}, len(accounts))
	for _, a := range accounts {
		if _, twice := found[a]; twice {
			continue
		}
		found[a] = struct{}{}
		view := s.p.cfg.Store.View()
		keys, err := readKeys(view, a, now)
		view.Close()
		if err != nil {
			return err
		}
		if keys.account != nil {
			out.add(keys.account)
		}
		for i := range keys.devices {
			if d := &keys.devices[i]; !keys.removed(d) {
				out.add(d.raw)
			}
		}
	}
	return nil
}

// findRecords collects records by ID: public ones, and of others those the
// session's account wrote or was sent. No view is open while the answer waits
// for room.
func (s *pillarSession) findRecords(ids []RecordID, out *foundWriter) error {
	for len(ids) > 0 {
		n, err := s.fillRecords(ids, out)
		if err != nil {
			return err
		}
		if ids = ids[n:]; len(ids) > 0 {
			out.flush(true)
		}
	}
	return nil
}

// fillRecords collects records as far as one frame goes and returns how many of
// ids are done with.
func (s *pillarSession) fillRecords(ids []RecordID, out *foundWriter) (n int, err error) {
	now := s.p.past()
	n = len(ids)
	view := s.p.cfg.Store.View()
	defer view.Close()
	var bad error
	err = view.Get(refsOf(ids), func(i int, r StoredRecord) bool {
		f, err := readStored(r.Raw, s.account)
		if err != nil {
			bad = err
			return false
		}
		public := f.kind == KindAccount || f.kind == KindDevice
		if f.expires <= now || !public && !f.isTo && string(f.author) != string(s.account) {
			return true
		}
		if out.full(r.Raw) {
			n = i
			return false
		}
		out.add(bytes.Clone(r.Raw))
		return true
	})
	return n, firstError(err, bad)
}

func (s *pillarSession) findHeld(ids []RecordID, out *foundWriter) error {
	view := s.p.cfg.Store.View()
	defer view.Close()
	held, err := view.Has(refsOf(ids))
	if err == nil {
		out.msg.Held = PackBits(held)
	}
	return err
}

func refsOf(ids []RecordID) []Ref {
	refs := make([]Ref, len(ids))
	for i := range ids {
		refs[i].ID = ids[i]
	}
	return refs
}

// foundWriter cuts the answer to a Find into frames.
type foundWriter struct {
	s     *pillarSession
	n     uint64
	msg   Found
	bytes int
}

// full reports whether raw does not go into the frame any more.
func (w *foundWriter) full(raw []byte) bool {
	k := len(w.msg.Records)
	return k > 0 && (k >= MaxPage || w.bytes+len(raw) > FrameTarget)
}

func (w *foundWriter) add(raw []byte) {
	if w.full(raw) {
		w.flush(true)
	}
	w.msg.Records = append(w.msg.Records, raw)
	w.bytes += len(raw)
}

func (w *foundWriter) flush(more bool) {
	w.msg.N, w.msg.More = w.n, more
	w.s.send(&w.msg)
	w.msg, w.bytes = Found{}, 0
	w.s.waitSpace()
}

// check answers a mailbox check: which expiry days differ from the device's
// tallies, and what the mailbox holds in them.
func (s *pillarSession) check(m *Check) *Error {
	differ, err := s.compare(m)
	if err != nil {
		s.p.log.Error("mailbox check failed", "err", err)
		return errReading
	}
	s.sendChecked(m.N, differ)
	return nil
}

// compare returns the days that differ with the IDs the mailbox holds in them.
func (s *pillarSession) compare(m *Check) (map[Day][]RecordID, error) {
	view := s.p.cfg.Store.View()
	defer view.Close()
	tallies := map[Day]Tally{}
	err := s.eachChecked(view, m, func(e *BoxEntry) {
		day := DayOf(e.Expires)
		tallies[day] = tallies[day].Add(Tally{Count: 1, Sum: m.Key.Term(e.ID)})
	})
	if err != nil {
		return nil, err
	}
	theirs := map[Day]Tally{}
	for _, d := range m.Days {
		theirs[d.Day] = d.Tally
	}
	differ := map[Day][]RecordID{}
	for day, t := range tallies {
		if theirs[day] != t {
			differ[day] = nil
		}
	}
	for day, t := range theirs {
		if tallies[day] != t {
			differ[day] = nil
		}
	}
	if len(differ) > 0 {
		err = s.eachChecked(view, m, func(e *BoxEntry) {
			day := DayOf(e.Expires)
			if _, ok := differ[day]; ok {
				differ[day] = append(differ[day], e.ID)
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return differ, nil
}

// eachChecked calls fn for the mailbox's records that a check is about.
func (s *pillarSession) eachChecked(view View, m *Check, fn func(e *BoxEntry)) error {
	return view.Box(Mailbox(s.account), 0, math.MaxUint64, DayOf(m.Front), false, func(e BoxEntry) bool {
		if e.Created < m.Before && e.Expires >= m.Front {
			fn(&e)
		}
		return true
	})
}

// sendChecked sends the answer: the days in the first frame, the IDs by (day,
// ID) over as many as they take.
func (s *pillarSession) sendChecked(n uint64, differ map[Day][]RecordID) {
	msg := Checked{N: n}
	for day := range differ {
		msg.Days = append(msg.Days, day)
	}
	slices.Sort(msg.Days)
	days := msg.Days
	if len(msg.Days) > MaxDays {
		msg.Days, days = msg.Days[:MaxDays], days[:MaxDays]
	}
	for _, day := range days {
		ids := differ[day]
		slices.SortFunc(ids, func(a, b RecordID) int { return bytes.Compare(a[:], b[:]) })
		for _, id := range ids {
			if len(msg.IDs) == MaxIDs {
				msg.More = true
				s.send(&msg)
				s.waitSpace()
				msg = Checked{N: n}
			}
			msg.IDs = append(msg.IDs, id)
		}
	}
	s.send(&msg)
}
