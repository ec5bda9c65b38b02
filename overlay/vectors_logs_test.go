package overlay_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/internal/canon"
	"github.com/obelisk-network/obelisk/overlay"
)

// The vectors of what records.json and wire.json do not reach: certificates and
// admissions by themselves, logs, heads, vectors, digests, summaries, the meta
// of members, and the content of bins. Everything expected is made with
// crypto/ed25519, crypto/sha256 and vmihailenco/msgpack alone, see vectorWriter;
// all of it is deterministic, so the file is compared byte for byte too.

const logsFile = "testdata/logs.json"

// hexBytes stands in JSON as hex.
type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }
func (h *hexBytes) UnmarshalText(b []byte) (err error) {
	*h, err = hex.DecodeString(string(b))
	return err
}

type logVectors struct {
	Comment      string              `json:"comment"`
	Network      hexBytes            `json:"network"`
	Certificates []certificateVector `json:"certificates"`
	Admissions   []admissionVector   `json:"admissions"`
	Log          logVector           `json:"log"`
	Gone         goneVector          `json:"gone"`
	Forks        []forkVector        `json:"forks"`
	Vectors      []vectorVector      `json:"vectors"`
	Digest       digestVector        `json:"digest"`
	Summaries    []signedVector      `json:"summaries"`
	Member       memberVector        `json:"member"`
	Bins         []binVector         `json:"bins"`
}

type certificateVector struct {
	Name    string   `json:"name"`
	Account hexBytes `json:"account"`
	Raw     hexBytes `json:"raw"`
	Valid   bool     `json:"valid"`
}

type admissionVector struct {
	Name  string   `json:"name"`
	Now   uint64   `json:"now"`
	Raw   hexBytes `json:"raw"`
	Valid bool     `json:"valid"`
}

type logVector struct {
	Pillar  hexBytes       `json:"pillar"`
	Nonce   hexBytes       `json:"nonce"`
	ID      hexBytes       `json:"id"`
	Start   hexBytes       `json:"h0"`
	Entries []entryVector  `json:"entries"`
	Heads   []signedVector `json:"heads"`
}

type entryVector struct {
	Expires uint64   `json:"expires"`
	ID      hexBytes `json:"id"`
	Hash    hexBytes `json:"hash"` // h(n)
}

// signedVector is a head or a summary. Log is where a head's preimage leads.
type signedVector struct {
	Name  string   `json:"name"`
	Raw   hexBytes `json:"raw"`
	Log   hexBytes `json:"log,omitempty"`
	Valid bool     `json:"valid"`
}

type vectorVector struct {
	Name string   `json:"name"`
	Raw  hexBytes `json:"raw"`
	Hash hexBytes `json:"hash"` // empty: it is no vector
}

type digestVector struct {
	Key     hexBytes   `json:"key"`
	KeyName hexBytes   `json:"key_name"`
	IDs     []hexBytes `json:"ids"`
	Terms   []hexBytes `json:"terms"`
	Sum     hexBytes   `json:"sum"`
}

type memberVector struct {
	Pillar      hexBytes `json:"pillar"`
	Name        string   `json:"name"`
	RecordID    hexBytes `json:"record_id"`
	Created     uint64   `json:"created"`
	Incarnation uint32   `json:"incarnation"`
	Address     hexBytes `json:"address"`
	Meta        hexBytes `json:"meta"`
}

type binVector struct {
	Name  string   `json:"name"`
	Kind  string   `json:"kind"`
	Raw   hexBytes `json:"raw"`
	Valid bool     `json:"valid"`
}

// TestLogVectors holds the code against testdata/logs.json.
func TestLogVectors(t *testing.T) {
	want := makeLogVectors(t)
	text, err := json.MarshalIndent(want, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, '\n')
	if *update {
		if err := os.WriteFile(logsFile, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(logsFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(data, text) {
		t.Errorf("%s is not what its writer writes: run with -update and look at the difference", logsFile)
	}
	var file logVectors
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	network := identity.NetworkID(file.Network)
	t.Run("certificates", func(t *testing.T) { checkCertificates(t, network, file.Certificates) })
	t.Run("admissions", func(t *testing.T) { checkAdmissions(t, network, file.Admissions) })
	t.Run("log", func(t *testing.T) { checkLog(t, network, &file.Log) })
	t.Run("gone", func(t *testing.T) { checkGone(t, network, &file.Gone) })
	t.Run("forks", func(t *testing.T) { checkForks(t, network, file.Forks) })
	t.Run("vectors", func(t *testing.T) { checkVectors(t, file.Vectors) })
	t.Run("digest", func(t *testing.T) { checkDigest(t, &file.Digest) })
	t.Run("summaries", func(t *testing.T) { checkSummaries(t, network, file.Summaries) })
	t.Run("member", func(t *testing.T) { checkMember(t, network, &file.Member) })
	t.Run("bins", func(t *testing.T) { checkBins(t, file.Bins) })
}

func checkCertificates(t *testing.T, network identity.NetworkID, vectors []certificateVector) {
	for _, v := range vectors {
		cert, err := identity.ParseCertificate(identity.AccountID(v.Account), v.Raw)
		valid := err == nil
		if valid {
			check, err := cert.Check(network)
			valid = err == nil && identity.Verify(&check)
			if !bytes.Equal(cert.Append(nil), v.Raw) {
				t.Errorf("%s: written back it is %x", v.Name, cert.Append(nil))
			}
		}
		if valid != v.Valid {
			t.Errorf("%s: valid is %v, want %v (%v)", v.Name, valid, v.Valid, err)
		}
	}
}

func checkAdmissions(t *testing.T, network identity.NetworkID, vectors []admissionVector) {
	for _, v := range vectors {
		a, err := identity.ParseAdmission(v.Raw)
		if err == nil {
			err = a.Valid(network, v.Now)
			if !bytes.Equal(a.Append(nil), v.Raw) {
				t.Errorf("%s: written back it is %x", v.Name, a.Append(nil))
			}
		}
		if (err == nil) != v.Valid {
			t.Errorf("%s: got %v, want valid %v", v.Name, err, v.Valid)
		}
	}
}

func checkLog(t *testing.T, network identity.NetworkID, v *logVector) {
	id := overlay.MakeLogID(network, identity.PillarID(v.Pillar), [16]byte(v.Nonce))
	if id != overlay.LogID(v.ID) {
		t.Fatalf("log ID %s, want %x", id, v.ID)
	}
	h := overlay.ChainStart(id)
	if h != overlay.Hash(v.Start) {
		t.Fatalf("h(0) %s, want %x", h, v.Start)
	}
	for i, e := range v.Entries {
		if h = overlay.Chain(h, e.Expires, overlay.RecordID(e.ID)); h != overlay.Hash(e.Hash) {
			t.Fatalf("h(%d) %s, want %x", i+1, h, e.Hash)
		}
	}
	for _, hv := range v.Heads {
		r := canon.NewReader(hv.Raw)
		head := overlay.ReadHead(r)
		if r.End() == nil && !bytes.Equal(head.Append(nil), hv.Raw) {
			t.Errorf("head %s: written back it is %x", hv.Name, head.Append(nil))
		}
		if valid := r.End() == nil && head.Verify(network); valid != hv.Valid {
			t.Errorf("head %s: valid is %v, want %v", hv.Name, valid, hv.Valid)
		}
		if pos := head.Position(network); len(hv.Log) > 0 && pos.Log != overlay.LogID(hv.Log) {
			t.Errorf("head %s: it is of log %s, want %x", hv.Name, pos.Log, hv.Log)
		}
	}
}

func checkVectors(t *testing.T, vectors []vectorVector) {
	for _, v := range vectors {
		r := canon.NewReader(v.Raw)
		got := overlay.ReadVector(r)
		if err := r.End(); (err == nil) != (len(v.Hash) > 0) {
			t.Errorf("%s: got %v", v.Name, err)
			continue
		}
		if len(v.Hash) > 0 && (got.Hash() != overlay.Hash(v.Hash) || !bytes.Equal(overlay.AppendVector(nil, got), v.Raw)) {
			t.Errorf("%s: hash %s, want %x", v.Name, got.Hash(), v.Hash)
		}
	}
}

func checkDigest(t *testing.T, v *digestVector) {
	key := overlay.ShortKey(v.Key)
	if key.Name() != overlay.Hash(v.KeyName) {
		t.Errorf("the key's name is %s, want %x", key.Name(), v.KeyName)
	}
	var sum overlay.Sum
	for i, id := range v.IDs {
		term := key.Term(overlay.RecordID(id))
		if b := term.Bytes(); !bytes.Equal(b[:], v.Terms[i]) {
			t.Errorf("term %d is %x, want %x", i, b, v.Terms[i])
		}
		sum = sum.Add(term)
	}
	if b := sum.Bytes(); !bytes.Equal(b[:], v.Sum) {
		t.Errorf("sum %x, want %x", b, v.Sum)
	}
}

func checkSummaries(t *testing.T, network identity.NetworkID, vectors []signedVector) {
	for _, v := range vectors {
		r := canon.NewReader(v.Raw)
		s := overlay.ReadSummary(r)
		if r.End() == nil && !bytes.Equal(s.Append(nil), v.Raw) {
			t.Errorf("%s: written back it is %x", v.Name, s.Append(nil))
		}
		if valid := r.End() == nil && s.Verify(network); valid != v.Valid {
			t.Errorf("%s: valid is %v, want %v", v.Name, valid, v.Valid)
		}
	}
}

// checkMember checks the signature; the layout is package gossip's.
func checkMember(t *testing.T, network identity.NetworkID, v *memberVector) {
	key, err := identity.Ed25519Public(identity.PillarID(v.Pillar).Ed25519Key())
	if err != nil {
		t.Fatal(err)
	}
	signed := append(binary.BigEndian.AppendUint32(slices.Clone(v.Meta[:40]), v.Incarnation), v.Name...)
	if !identity.Verify(&identity.Check{Key: key, Tag: identity.TagMember, Network: network, Message: signed, Signature: v.Meta[40:]}) {
		t.Error("the signature of the meta is wrong")
	}
}

func checkBins(t *testing.T, vectors []binVector) {
	for _, v := range vectors {
		var again []byte
		var err error
		switch v.Kind {
		case "account":
			var a *overlay.AccountInfo
			if a, err = overlay.ParseAccountInfo(v.Raw); err == nil {
				again = a.Append(nil)
			}
		case "device":
			var d *overlay.DeviceInfo
			if d, err = overlay.ParseDeviceInfo(v.Raw); err == nil {
				again = d.Append(nil)
			}
		case "pillar":
			var p *overlay.PillarInfo
			if p, err = overlay.ParsePillarInfo(v.Raw); err == nil {
				again = p.Append(nil)
			}
		case "revocation":
			var r *overlay.RevocationInfo
			if r, err = overlay.ParseRevocationInfo(v.Raw); err == nil {
				again = r.Append(nil)
			}
		case "receipt":
			var lines []overlay.ReceiptLine
			if lines, err = overlay.ParseReceipt(v.Raw); err == nil {
				again = overlay.AppendReceipt(nil, lines)
			}
		case "message":
			var typ overlay.BodyType
			var body []byte
			if typ, body, err = overlay.ParseBody(v.Raw); err == nil {
				again = overlay.AppendBody(nil, typ, body)
			}
		default:
			t.Fatalf("unknown kind %q", v.Kind)
		}
		if (err == nil) != v.Valid || err == nil && !bytes.Equal(again, v.Raw) {
			t.Errorf("%s: got %v and written back %x, want valid %v", v.Name, err, again, v.Valid)
		}
	}
}

// The writer.

func hashOf(tag string, parts ...[]byte) []byte {
	h := sha256.New()
	h.Write(tagged(tag, nil, nil))
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

func u64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// counting is n bytes that count up from first.
func counting(first byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}

func (w *vectorWriter) signed(key ed25519.PrivateKey, tag string, fields ...any) []byte {
	signed := encode(fields)
	return append(append([]byte{0x92}, signed...), encode(ed25519.Sign(key, tagged(tag, w.network[:], signed)))...)
}

func makeLogVectors(t *testing.T) *logVectors {
	w := newVectorWriter(t)
	log := w.log()
	return &logVectors{
		Comment: "Bytes are hex. The log's entries are three messages of records.json: the first, the one that lives as long as it can, " +
			"the one with an empty bin. valid: it decodes, and its signatures are right for the network; an admission at now too. " +
			"Made by go test ./overlay -run TestLogVectors -update.",
		Network:      w.network[:],
		Certificates: w.certificates(),
		Admissions:   w.admissions(),
		Log:          log,
		Gone:         w.gone(&log),
		Forks:        w.forks(&log),
		Vectors:      w.vectors(),
		Digest:       w.digest(),
		Summaries:    w.summaries(),
		Member:       w.member(),
		Bins:         w.bins(),
	}
}

func (w *vectorWriter) certificates() []certificateVector {
	device := w.device.Public().(ed25519.PublicKey)
	from, day := vectorCreated-vectorDay, vectorDay
	other := seedKey("another network").Public().(ed25519.PublicKey)
	ed := func(network []byte, from, to uint64) []byte {
		return w.certificate(network, edID(w.account), device, from, to, w.edSigner(w.account), []byte{})
	}
	good := ed(w.network[:], from, from+400*day)
	long := slices.Clone(good)
	long[len(long)-65]++ // the signature's length
	return []certificateVector{
		{"Ed25519 account, 400 days", edID(w.account), good, true},
		{"RSA account", w.rsaID(), w.certificate(w.network[:], w.rsaID(), device, from, from+day, w.rsaSigner(), w.rsaPublic()), true},
		{"Ed25519 account, 400 days and 1 ms", edID(w.account), ed(w.network[:], from, from+400*day+1), false},
		{"no span", edID(w.account), ed(w.network[:], from, from), false},
		{"another network", edID(w.account), ed(other, from, from+day), false},
		{"another account", edID(w.other), good, false},
		{"RSA account without its key", w.rsaID(), w.certificate(w.network[:], w.rsaID(), device, from, from+day, w.rsaSigner(), []byte{}), false},
		{"signature of 65 bytes", edID(w.account), append(long, 0), false},
	}
}

func (w *vectorWriter) admissions() []admissionVector {
	pillar := edID(w.other)
	admit := func(key ed25519.PrivateKey, network []byte, notAfter uint64) []byte {
		sig := ed25519.Sign(key, tagged("obk1 admission", network, encode([]any{pillar, uint64(7), notAfter})))
		return encode([]any{pillar, uint64(7), notAfter, sig})
	}
	now := vectorCreated
	other := seedKey("another network")
	return []admissionVector{
		{"30 days ahead", now, admit(w.netKey, w.network[:], now+30*vectorDay), true},
		{"ends now", now, admit(w.netKey, w.network[:], now), true},
		{"30 days and 1 ms ahead", now, admit(w.netKey, w.network[:], now+30*vectorDay+1), false},
		{"ended 1 ms ago", now, admit(w.netKey, w.network[:], now-1), false},
		{"by another key", now, admit(other, w.network[:], now+vectorDay), false},
		{"for another network", now, admit(w.netKey, other.Public().(ed25519.PublicKey), now+vectorDay), false},
	}
}

func (w *vectorWriter) logID(nonce []byte) []byte {
	return hashOf("obk1 log id", w.network[:], edID(w.other), nonce)[:16]
}

func (w *vectorWriter) log() logVector {
	v := logVector{Pillar: edID(w.other), Nonce: counting(1, 16)}
	v.ID = w.logID(v.Nonce)
	v.Start = hashOf("obk1 log chain", v.ID)
	payloads := [][]byte{w.payload(w.message()), w.payload(with(w.message(), func(r *rawRecord) { r.expires = vectorCreated + 30*vectorDay })),
		w.payload(with(w.message(), func(r *rawRecord) { r.bin = []byte{} }))}
	expires := []uint64{vectorCreated + 3*vectorDay, vectorCreated + 30*vectorDay, vectorCreated + 3*vectorDay}
	h := []byte(v.Start)
	for i, p := range payloads {
		id := hashOf("obk1 record id", w.network[:], p)
		h = hashOf("obk1 log chain", h, u64(expires[i]), id)
		v.Entries = append(v.Entries, entryVector{expires[i], id, h})
	}
	dies := vectorCreated + 30*vectorDay
	head := func(key ed25519.PrivateKey, tag string, pillar []byte, seq, base uint64, baseHash []byte) []byte {
		return w.signed(key, tag, pillar, []byte(v.Nonce), seq, h, base, baseHash, dies)
	}
	stranger := edID(w.account)
	cut := head(w.other, "obk1 head", v.Pillar, 3, 0, v.Start)
	v.Heads = []signedVector{
		{"of all three", cut, v.ID, true},
		{"with the first expired", head(w.other, "obk1 head", v.Pillar, 3, 1, v.Entries[0].Hash), v.ID, true},
		{"of no entry", head(w.other, "obk1 head", v.Pillar, 0, 0, v.Start), nil, false},
		{"with a base past it", head(w.other, "obk1 head", v.Pillar, 3, 4, h), nil, false},
		{"signed by another", head(w.account, "obk1 head", v.Pillar, 3, 0, v.Start), nil, false},
		{"under another tag", head(w.other, "obk1 summary", v.Pillar, 3, 0, v.Start), nil, false},
		{"of another pillar with the same nonce: another log", head(w.account, "obk1 head", stranger, 3, 0, v.Start),
			hashOf("obk1 log id", w.network[:], stranger, v.Nonce)[:16], true},
	}
	return v
}

func (w *vectorWriter) vectors() []vectorVector {
	type position struct {
		log  []byte
		seq  uint64
		hash []byte
	}
	logs := [][]byte{w.logID(counting(1, 16)), w.logID(counting(2, 16)), w.logID(counting(3, 16))}
	slices.SortFunc(logs, bytes.Compare)
	positions := []position{{logs[0], 1, counting(10, 32)}, {logs[1], 127, counting(20, 32)}, {logs[2], 1 << 40, counting(30, 32)}}
	raw := func(ps ...position) []byte {
		list := []any{}
		for _, p := range ps {
			list = append(list, []any{p.log, p.seq, p.hash})
		}
		return encode(list)
	}
	hash := func(ps ...position) []byte {
		var b []byte
		for _, p := range ps {
			b = slices.Concat(b, p.log, u64(p.seq), p.hash)
		}
		return hashOf("obk1 vector", b)
	}
	return []vectorVector{
		{"empty", raw(), hash()},
		{"three logs", raw(positions...), hash(positions...)},
		{"descending", raw(positions[1], positions[0]), []byte{}},
		{"a log twice", raw(positions[0], positions[0]), []byte{}},
	}
}

func (w *vectorWriter) digest() digestVector {
	v := digestVector{Key: counting(0x40, 32)}
	v.KeyName = hashOf("obk1 short key", []byte("name"), v.Key)
	sum := new(big.Int)
	for i := range 5 {
		id := counting(byte(50*i), 32)
		term := hashOf("obk1 short key", v.Key, id)[:16]
		v.IDs, v.Terms = append(v.IDs, id), append(v.Terms, term)
		sum.Add(sum, new(big.Int).SetBytes(term))
	}
	sum.Mod(sum, new(big.Int).Lsh(big.NewInt(1), 128))
	v.Sum = sum.FillBytes(make([]byte, 16))
	return v
}

func (w *vectorWriter) summaries() []signedVector {
	d, log := w.digest(), w.log()
	at := vectorCreated - vectorCreated%10_000 + 3
	instant := at - at%10_000
	summary := func(key ed25519.PrivateKey, position []any, vector []byte, full uint64) []byte {
		return w.signed(key, "obk1 summary", edID(w.other), position, vector, instant-10_000, instant+10_000,
			uint64(len(d.IDs)), []byte(d.Sum), []byte(d.KeyName), at, full)
	}
	held := []any{[]byte(log.ID), uint64(3), []byte(log.Entries[2].Hash)}
	none := []any{make([]byte, 16), uint64(0), make([]byte, 32)}
	vector := hashOf("obk1 vector", log.ID, u64(3), log.Entries[2].Hash)
	return []signedVector{
		{"one log, three entries", summary(w.other, held, vector, 0), nil, true},
		{"no own log yet", summary(w.other, none, hashOf("obk1 vector"), 0), nil, true},
		{"full", summary(w.other, held, vector, 1), nil, true},
		{"full neither 0 nor 1", summary(w.other, held, vector, 2), nil, false},
		{"signed by another", summary(w.account, held, vector, 0), nil, false},
	}
}

func (w *vectorWriter) member() memberVector {
	v := memberVector{Pillar: edID(w.other), RecordID: counting(7, 32), Created: vectorCreated, Incarnation: 70_000}
	v.Name = identity.PillarID(v.Pillar).String() + "." + strconv.FormatUint(vectorCreated, 36)
	sum := sha256.Sum256(append([]byte("obelisk member address\x00"), v.Pillar...))
	v.Address = append([]byte{0xfd}, sum[:15]...)
	meta := slices.Concat(v.RecordID, u64(v.Created))
	v.Meta = append(meta, ed25519.Sign(w.other, tagged("obk1 member", w.network[:], append(binary.BigEndian.AppendUint32(slices.Clone(meta), v.Incarnation), v.Name...)))...)
	return v
}

func (w *vectorWriter) bins() []binVector {
	device, other := edID(w.device), edID(w.other)
	key := func(scheme uint64, n int) []any { return []any{scheme, counting(1, n), vectorCreated + 32*vectorDay} }
	admission := w.admissions()[0].Raw
	addr := []byte{4, 192, 0, 2, 1, 0x91, 2, 0x11, 0x51, 0xcd, 3} // /ip4/192.0.2.1/udp/4433/quic-v1
	line := func(code uint64) []any { return []any{counting(byte(code), 32), code} }
	many := make([]any, 41)
	for i := range many {
		many[i] = []any{device, uint64(i)}
	}
	return []binVector{
		{"account", "account", encode([]any{vectorCreated, []any{[]any{device, uint64(5)}}, []any{[]any{other, uint64(4)}}}), true},
		{"account with 41 devices", "account", encode([]any{vectorCreated, many, []any{}}), false},
		{"device", "device", encode([]any{[]byte("phone"), []any{key(1, 1216)}}), true},
		{"device with a key of an unknown scheme", "device", encode([]any{[]byte(""), []any{key(1, 1216), key(2, 100)}}), true},
		{"device with a key of the wrong size", "device", encode([]any{[]byte(""), []any{key(1, 1215)}}), false},
		{"device with a key of scheme 0", "device", encode([]any{[]byte(""), []any{key(0, 32)}}), false},
		{"device whose name is not UTF-8", "device", encode([]any{[]byte{0xff}, []any{}}), false},
		{"pillar", "pillar", encode([]any{uint64(0), uint64(1), []byte("north"), [][]byte{addr}, []byte(admission)}), true},
		{"pillar with nine addresses", "pillar", encode([]any{uint64(0), uint64(0), []byte(""), slices.Repeat([][]byte{addr}, 9), []byte(admission)}), false},
		{"revocation", "revocation", encode([]any{other, uint64(7)}), true},
		{"receipt", "receipt", encode([]any{line(1), line(2), line(3), line(9)}), true},
		{"receipt of nothing", "receipt", encode([]any{}), true},
		{"text", "message", encode([]any{uint64(1), []byte("hello")}), true},
		{"body of an unknown type", "message", encode([]any{uint64(77), []byte{1, 2}}), true},
	}
}
