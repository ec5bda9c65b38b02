package replicatest

import (
	"crypto/rand"
	"slices"
	"testing"
	"time"

	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// Author writes valid records for one account and device.
type Author struct {
	network identity.NetworkID
	account *identity.AccountKey
	device  *identity.DeviceKey
	cert    []byte
	now     func() time.Time
	seq     uint64
}

// NewAuthor returns a fresh author. now is the clock of its records.
func NewAuthor(t testing.TB, network identity.NetworkID, now func() time.Time) *Author {
	t.Helper()
	account, err := identity.NewAccountKey(identity.KeyEd25519, 0)
	if err != nil {
		t.Fatal(err)
	}
	device := identity.NewDeviceKey()
	ms := uint64(now().UnixMilli())
	cert, err := account.Certify(network, device.ID(), 1, ms-3_600_000, ms+40*overlay.DayMillis)
	if err != nil {
		t.Fatal(err)
	}
	return &Author{network: network, account: account, device: device, cert: cert.Append(nil), now: now}
}

// Message returns a valid message record of about size bytes to the author
// itself that lives for life.
func (a *Author) Message(t testing.TB, size int, life time.Duration) []byte {
	t.Helper()
	a.seq++
	bin := make([]byte, size)
	rand.Read(bin)
	created := uint64(a.now().UnixMilli())
	d := overlay.Draft{Kind: overlay.KindMessage, Author: string(a.account.ID()), Signer: a.cert,
		To: []identity.AccountID{a.account.ID()}, Sequences: []overlay.Sequence{{Seq: a.seq, Prev: a.seq - 1}},
		Created: created, Expires: created + uint64(life.Milliseconds()), Bin: bin}
	rec, err := d.Sign(a.network, a.device)
	if err != nil {
		t.Fatal(err)
	}
	return rec.Raw
}

// Messages returns n valid small messages that live for a day.
func (a *Author) Messages(t testing.TB, n int) [][]byte {
	t.Helper()
	raws := make([][]byte, n)
	for i := range raws {
		raws[i] = a.Message(t, 64, 24*time.Hour)
	}
	return raws
}

// PillarRecord returns the record of a pillar that network admits for life.
func PillarRecord(t testing.TB, network *identity.NetworkKey, key *identity.PillarKey, now time.Time, life time.Duration, addrs ...multiaddr.Multiaddr) *overlay.Record {
	t.Helper()
	ms := uint64(now.UnixMilli())
	info := overlay.PillarInfo{Name: "p", Addrs: addrs,
		Admission: network.Admit(key.ID(), 1, ms+uint64(life.Milliseconds()))}
	d := overlay.Draft{Kind: overlay.KindPillar, Author: string(key.ID()), Created: ms,
		Expires: ms + uint64((24 * time.Hour).Milliseconds()), Bin: info.Append(nil)}
	rec, err := d.Sign(network.ID(), key)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// Log is a pillar's log made by hand, so that it can be wrong in any way.
type Log struct {
	Network identity.NetworkID
	Key     *identity.PillarKey
	ID      overlay.LogID
	Nonce   [overlay.LogNonceLen]byte
	Entries []overlay.BatchEntry
	hashes  []overlay.Hash // h(0), h(1), …
	dies    uint64
}

// NewLog returns an empty log of the pillar.
func NewLog(network identity.NetworkID, key *identity.PillarKey) *Log {
	l := &Log{Network: network, Key: key}
	rand.Read(l.Nonce[:])
	l.ID = overlay.MakeLogID(network, key.ID(), l.Nonce)
	l.hashes = []overlay.Hash{overlay.ChainStart(l.ID)}
	return l
}

// Add appends records that parse.
func (l *Log) Add(t testing.TB, raws ...[]byte) {
	t.Helper()
	for _, raw := range raws {
		rec, err := overlay.ParseRecord(l.Network, raw)
		if err != nil {
			t.Fatal(err)
		}
		l.AddEntry(overlay.BatchEntry{Raw: raw, Expires: rec.Expires, ID: rec.ID})
	}
}

// AddEntry appends any entry.
func (l *Log) AddEntry(e overlay.BatchEntry) {
	l.Entries = append(l.Entries, e)
	l.hashes = append(l.hashes, overlay.Chain(l.hashes[len(l.hashes)-1], e.Expires, e.ID))
	l.dies = max(l.dies, e.Expires)
}

// Head returns the signed head at seq.
func (l *Log) Head(seq uint64) *overlay.Head {
	h := &overlay.Head{Pillar: l.Key.ID(), Nonce: l.Nonce, Seq: seq, Hash: l.hashes[seq],
		BaseHash: l.hashes[0], Dies: l.dies}
	h.Sign(l.Network, l.Key)
	return h
}

// Position is the log's end.
func (l *Log) Position() overlay.Position {
	n := uint64(len(l.Entries))
	return overlay.Position{Log: l.ID, Seq: n, Hash: l.hashes[n]}
}

// Batch returns entries from..to under a head at to.
func (l *Log) Batch(from, to uint64) *overlay.Batch {
	return &overlay.Batch{Log: l.ID, From: from, Entries: l.Entries[from-1 : to : to], Head: l.Head(to)}
}

// Run returns entries from..to as Replica.Apply takes them.
func (l *Log) Run(from, to uint64) overlay.LogRun {
	b := l.Batch(from, to)
	return l.run(from, to, b.Entries)
}

// RunOf returns a run from from on of these entries, which may be gone runs of
// the log's.
func (l *Log) RunOf(from uint64, entries ...overlay.BatchEntry) overlay.LogRun {
	to := from - 1
	for i := range entries {
		to += entries[i].Len()
	}
	return l.run(from, to, entries)
}

func (l *Log) run(from, to uint64, entries []overlay.BatchEntry) overlay.LogRun {
	return overlay.LogRun{From: from, Before: l.hashes[from-1], Entries: entries, State: overlay.LogState{
		Pillar: l.Key.ID(), Nonce: l.Nonce, Head: l.Head(to),
		Position: overlay.Position{Log: l.ID, Seq: to, Hash: l.hashes[to]}}}
}

// Gone returns what stands for entries from..to once all of them are expired.
func (l *Log) Gone(from, to uint64) overlay.BatchEntry {
	e := overlay.BatchEntry{Why: overlay.WhyGone, Count: to - from + 1, ID: overlay.RecordID(l.hashes[to])}
	for i := from; i <= to; i++ {
		e.Expires = max(e.Expires, l.Entries[i-1].Expires)
	}
	return e
}

// Bare returns entry seq without its body.
func (l *Log) Bare(seq uint64) overlay.BatchEntry {
	e := l.Entries[seq-1]
	return overlay.BatchEntry{Expires: e.Expires, ID: e.ID, Why: overlay.WhyTrimmed}
}

// Mark is the log's chain at seq.
func (l *Log) Mark(seq uint64) overlay.Mark { return overlay.Mark{Seq: seq, Hash: l.hashes[seq]} }

// Fork returns another history of the log: the same up to seq, then nothing.
func (l *Log) Fork(seq uint64) *Log {
	f := &Log{Network: l.Network, Key: l.Key, ID: l.ID, Nonce: l.Nonce}
	f.hashes = slices.Clone(l.hashes[:seq+1])
	f.Entries = slices.Clone(l.Entries[:seq])
	for i := range f.Entries {
		f.dies = max(f.dies, f.Entries[i].Expires)
	}
	return f
}

// Restart empties a log whose Nonce or ID was set.
func (l *Log) Restart() {
	l.Entries, l.hashes, l.dies = nil, []overlay.Hash{overlay.ChainStart(l.ID)}, 0
}

// Unmendable returns bytes that are in shape and no valid record, whatever their
// signature were: their certificate is of another network.
func Unmendable(t testing.TB, network identity.NetworkID) []byte {
	author := NewAuthor(t, identity.NewNetworkKey().ID(), time.Now)
	author.network = network
	return author.Message(t, 64, time.Hour)
}
