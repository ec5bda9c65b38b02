package overlay_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"math"
	"os"
	"slices"
	"testing"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/vmihailenco/msgpack/v5"
)

// The writer shares no encoding or signing code with the project: it
// uses vmihailenco/msgpack and crypto/ed25519.

type vectorWriter struct {
	t       *testing.T
	network identity.NetworkID
	netKey  ed25519.PrivateKey
	account ed25519.PrivateKey
	device  ed25519.PrivateKey
	other   ed25519.PrivateKey
	rsa     *rsa.PrivateKey
}

type rawRecord struct {
	format, kind     any
	author, signer   any
	to, sequences    any
	created, expires any
	bin              any
}

func seedKey(name string) ed25519.PrivateKey {
	sum := sha256.Sum256([]byte("obelisk test vector key: " + name))
	return ed25519.NewKeyFromSeed(sum[:])
}

const rsaKeyFile = "testdata/rsa2048.pem"

func newVectorWriter(t *testing.T) *vectorWriter {
	w := &vectorWriter{t: t, netKey: seedKey("network"), account: seedKey("account"),
		device: seedKey("device"), other: seedKey("other")}
	copy(w.network[:], w.netKey.Public().(ed25519.PublicKey))
	data, err := os.ReadFile(rsaKeyFile)
	if os.IsNotExist(err) && *update {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		data = pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
		if err := os.WriteFile(rsaKeyFile, data, 0o644); err != nil {
			t.Fatal(err)
		}
	} else if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	if w.rsa, err = x509.ParsePKCS1PrivateKey(block.Bytes); err != nil {
		t.Fatal(err)
	}
	return w
}

func edID(k ed25519.PrivateKey) []byte {
	return append([]byte{0x00, 0x24, 0x08, 0x01, 0x12, 0x20}, k.Public().(ed25519.PublicKey)...)
}

// rsaPublic is the libp2p protobuf {1: RSA = 0, 2: PKIX}.
func (w *vectorWriter) rsaPublic() []byte {
	der, err := x509.MarshalPKIXPublicKey(&w.rsa.PublicKey)
	if err != nil {
		w.t.Fatal(err)
	}
	return append([]byte{0x08, 0x00, 0x12, byte(len(der)) | 0x80, byte(len(der) >> 7)}, der...)
}

func (w *vectorWriter) rsaID() []byte {
	sum := sha256.Sum256(w.rsaPublic())
	return append([]byte{0x12, 0x20}, sum[:]...)
}

func encode(vs ...any) []byte {
	var buf bytes.Buffer
	e := msgpack.NewEncoder(&buf)
	e.UseCompactInts(true)
	for _, v := range vs {
		if err := e.Encode(v); err != nil {
			panic(err)
		}
	}
	return buf.Bytes()
}

func tagged(tag string, network []byte, message []byte) []byte {
	b := make([]byte, 16, 16+len(network)+len(message))
	copy(b, tag)
	return append(append(b, network...), message...)
}

func (w *vectorWriter) sign(key ed25519.PrivateKey, payload []byte) []byte {
	return encode([]any{payload, ed25519.Sign(key, tagged("obk1 record", w.network[:], payload))})
}

func (w *vectorWriter) signRSA(payload []byte) []byte {
	sum := sha256.Sum256(tagged("obk1 record", w.network[:], payload))
	sig, err := rsa.SignPKCS1v15(nil, w.rsa, crypto.SHA256, sum[:])
	if err != nil {
		w.t.Fatal(err)
	}
	return encode([]any{payload, sig})
}

func (w *vectorWriter) payload(r rawRecord) []byte {
	return encode([]any{r.format, r.kind, r.author, r.signer, r.to, r.sequences, r.created, r.expires, r.bin})
}

const (
	vectorCreated = uint64(1_790_000_000_000) // 2026-09-21
	vectorDay     = uint64(24 * 60 * 60 * 1000)
)

// certificate is [device key, serial, not before, not after, account key, signature].
func (w *vectorWriter) certificate(network []byte, accountID []byte, device ed25519.PublicKey, from, to uint64, sign func([]byte) []byte, accountKey []byte) []byte {
	signed := encode([]any{accountID, []byte(device), uint64(7), from, to})
	return encode([]any{[]byte(device), uint64(7), from, to, accountKey, sign(tagged("obk1 certificate", network, signed))})
}

func (w *vectorWriter) edCertificate() []byte {
	return w.certificate(w.network[:], edID(w.account), w.device.Public().(ed25519.PublicKey),
		vectorCreated-vectorDay, vectorCreated+300*vectorDay, w.edSigner(w.account), []byte{})
}

func (w *vectorWriter) edSigner(k ed25519.PrivateKey) func([]byte) []byte {
	return func(m []byte) []byte { return ed25519.Sign(k, m) }
}

func (w *vectorWriter) rsaSigner() func([]byte) []byte {
	return func(m []byte) []byte {
		sum := sha256.Sum256(m)
		sig, err := rsa.SignPKCS1v15(nil, w.rsa, crypto.SHA256, sum[:])
		if err != nil {
			w.t.Fatal(err)
		}
		return sig
	}
}

func (w *vectorWriter) message() rawRecord {
	return rawRecord{format: uint64(1), kind: uint64(4), author: edID(w.account), signer: w.edCertificate(),
		to: [][]byte{edID(w.other)}, sequences: []any{[]any{vectorCreated * 1000, uint64(0)}},
		created: vectorCreated, expires: vectorCreated + 3*vectorDay, bin: []byte("sealed body")}
}

// own is a record that its author's own key signs.
func (w *vectorWriter) own(kind uint64, author []byte) rawRecord {
	r := w.message()
	r.kind, r.author, r.signer, r.to, r.sequences = kind, author, []byte{}, []any{}, []any{}
	return r
}

func (w *vectorWriter) bare(kind uint64) rawRecord {
	r := w.message()
	r.kind, r.to, r.sequences = kind, []any{}, []any{}
	return r
}

func with(r rawRecord, change func(*rawRecord)) rawRecord {
	change(&r)
	return r
}

func writeRecordVectors(t *testing.T) {
	if err := os.MkdirAll("testdata", 0o755); err != nil {
		t.Fatal(err)
	}
	w := newVectorWriter(t)
	file := recordVectors{Network: w.network.String(), Comment: "Every record is raw bytes in hex. valid: it parses and its signatures are right; id and fields are what it says. Otherwise code and reason of the refusal: size, shape, signature, certificate or life. Made by go test ./overlay -run TestRecordVectors -update."}
	good := func(name string, raw []byte) {
		rec, err := overlay.ParseRecord(w.network, raw)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		payload := decodePayload(t, raw)
		id := sha256.Sum256(tagged("obk1 record id", w.network[:], payload))
		f := &vectorFields{Format: rec.Format, Kind: uint64(rec.Kind), Author: rec.Account().String(), Signer: hex.EncodeToString(rec.Signer),
			To: []string{}, Sequences: [][2]uint64{}, Created: rec.Created, Expires: rec.Expires, Bin: hex.EncodeToString(rec.Bin)}
		for _, a := range rec.To {
			f.To = append(f.To, a.String())
		}
		for _, s := range rec.Sequences {
			f.Sequences = append(f.Sequences, [2]uint64{s.Seq, s.Prev})
		}
		file.Vectors = append(file.Vectors, recordVector{Name: name, Raw: hex.EncodeToString(raw), Valid: true, ID: hex.EncodeToString(id[:]), Fields: f})
	}
	bad := func(name, reason string, raw []byte) {
		code := "invalid"
		if reason == "size" {
			code = "too_large"
		}
		if reason == "life-long" {
			reason, code = "life", "too_long_lived"
		}
		file.Vectors = append(file.Vectors, recordVector{Name: name, Raw: hex.EncodeToString(raw), Code: code, Reason: reason})
	}
	w.goodVectors(good)
	w.badShapes(bad)
	w.badFields(bad)
	w.badSignatures(bad)
	out, err := json.MarshalIndent(file, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vectorsFile, append(out, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

func decodePayload(t *testing.T, raw []byte) []byte {
	var outer [][]byte
	if err := msgpack.Unmarshal(raw, &outer); err != nil {
		t.Fatal(err)
	}
	return outer[0]
}

func (w *vectorWriter) goodVectors(good func(string, []byte)) {
	msg := w.message()
	good("message", w.sign(w.device, w.payload(msg)))
	two := [][]byte{edID(w.other), edID(w.account)}
	slices.SortFunc(two, bytes.Compare)
	good("message to two, one of them the author", w.sign(w.device, w.payload(with(msg, func(r *rawRecord) {
		r.to = two
		r.sequences = []any{[]any{uint64(5), uint64(4)}, []any{uint64(math.MaxUint64), uint64(0)}}
	}))))
	good("message to an RSA account", w.sign(w.device, w.payload(with(msg, func(r *rawRecord) { r.to = [][]byte{w.rsaID()} }))))
	good("message that lives as long as it can", w.sign(w.device, w.payload(with(msg, func(r *rawRecord) { r.expires = vectorCreated + 30*vectorDay }))))
	good("message with an empty bin", w.sign(w.device, w.payload(with(msg, func(r *rawRecord) { r.bin = []byte{} }))))
	good("message with a bin of 256 bytes", w.sign(w.device, w.payload(with(msg, func(r *rawRecord) { r.bin = bytes.Repeat([]byte{1}, 256) }))))
	good("epoch", w.sign(w.device, w.payload(with(msg, func(r *rawRecord) {
		r.kind, r.sequences, r.expires = uint64(3), []any{}, vectorCreated+32*vectorDay
	}))))
	good("receipt", w.sign(w.device, w.payload(with(msg, func(r *rawRecord) { r.kind, r.sequences = uint64(5), []any{} }))))
	good("device", w.sign(w.device, w.payload(with(w.bare(2), func(r *rawRecord) { r.expires = vectorCreated + 32*vectorDay }))))
	good("account", w.sign(w.account, w.payload(with(w.own(1, edID(w.account)), func(r *rawRecord) { r.expires = vectorCreated + 32*vectorDay }))))
	good("account that expires at the end of time", w.sign(w.account, w.payload(with(w.own(1, edID(w.account)), func(r *rawRecord) {
		r.created, r.expires = overlay.MaxTime-1, overlay.MaxTime
	}))))
	good("account with an RSA key", w.signRSA(w.payload(with(w.own(1, w.rsaID()), func(r *rawRecord) { r.signer = w.rsaPublic() }))))
	good("message of a device of an RSA account", w.sign(w.device, w.payload(with(msg, func(r *rawRecord) {
		r.author = w.rsaID()
		r.signer = w.certificate(w.network[:], w.rsaID(), w.device.Public().(ed25519.PublicKey), vectorCreated, vectorCreated+400*vectorDay, w.rsaSigner(), w.rsaPublic())
	}))))
	good("pillar", w.sign(w.other, w.payload(w.own(6, edID(w.other)))))
	good("revocation", w.sign(w.netKey, w.payload(w.own(7, edID(w.netKey)))))
	good("unknown kind under a certificate", w.sign(w.device, w.payload(with(msg, func(r *rawRecord) { r.kind, r.sequences = uint64(99), []any{} }))))
	good("unknown kind by the author's own key, not addressed", w.sign(w.account, w.payload(w.own(1000, edID(w.account)))))
	good("message of format 2", w.sign(w.device, w.payload(with(msg, func(r *rawRecord) { r.format = uint64(2) }))))
}

func (w *vectorWriter) badShapes(bad func(string, string, []byte)) {
	msg := w.message()
	raw := w.sign(w.device, w.payload(msg))
	payload := w.payload(msg)
	sig := ed25519.Sign(w.device, tagged("obk1 record", w.network[:], payload))
	resign := func(p []byte) []byte { return w.sign(w.device, p) }
	bad("nothing", "shape", nil)
	bad("cut in the signature", "shape", raw[:len(raw)-1])
	bad("cut in the payload", "shape", raw[:20])
	bad("a byte too many", "shape", append(slices.Clone(raw), 0))
	bad("payload with a byte too many", "shape", resign(append(slices.Clone(payload), 0)))
	bad("three values instead of two", "shape", encode([]any{payload, sig, []byte{}}))
	bad("one value instead of two", "shape", encode([]any{payload}))
	bad("map instead of an array", "shape", append([]byte{0x82}, raw[1:]...))
	bad("signature as text", "shape", encode([]any{payload, string(sig)}))
	bad("signature nil", "shape", encode([]any{payload, nil}))
	bad("eight values in the payload", "shape", resign(encode([]any{uint64(1), uint64(4), edID(w.account), w.edCertificate(), [][]byte{edID(w.other)}, []any{}, uint64(1), uint64(2)})))
	bad("ten values in the payload", "shape", resign(encode([]any{uint64(1), uint64(4), edID(w.account), w.edCertificate(), [][]byte{edID(w.other)}, []any{}, uint64(1), uint64(2), []byte{}, []byte{}})))
	bad("outer array with a length of two bytes", "shape", append([]byte{0xdc, 0, 2}, raw[1:]...))
	bad("outer array with a length of four bytes", "shape", append([]byte{0xdd, 0, 0, 0, 2}, raw[1:]...))
	bad("payload array with a length of two bytes", "shape", resign(append([]byte{0xdc, 0, 9}, payload[1:]...)))
	bad("array that announces four billion values", "shape", []byte{0xdd, 0xff, 0xff, 0xff, 0xff, 0xc4, 0})
	bad("bin that announces four gigabytes", "shape", []byte{0x92, 0xc6, 0xff, 0xff, 0xff, 0xff, 0})
	bad("recipients that announce four billion", "shape", resign(w.patched(msg, func(b []byte) []byte {
		return append(b, 0xdd, 0xff, 0xff, 0xff, 0xff)
	})))
	bad("nesting without end", "shape", bytes.Repeat([]byte{0x91}, 4096))
	bad("nesting in the recipients", "shape", resign(w.patched(msg, func(b []byte) []byte { return append(b, bytes.Repeat([]byte{0x91}, 4096)...) })))
	bad("format in two bytes", "shape", resign(append([]byte{0x99, 0xcc, 1}, payload[2:]...)))
	bad("format in nine bytes", "shape", resign(append([]byte{0x99, 0xcf, 0, 0, 0, 0, 0, 0, 0, 1}, payload[2:]...)))
	bad("format as signed integer", "shape", resign(append([]byte{0x99, 0xd0, 1}, payload[2:]...)))
	bad("format negative", "shape", resign(append([]byte{0x99, 0xff}, payload[2:]...)))
	bad("format as float", "shape", resign(encode([]any{float64(1), uint64(4), edID(w.account), w.edCertificate(), [][]byte{edID(w.other)}, []any{}, uint64(1), uint64(2), []byte{}})))
	bad("bin with a length of two bytes", "shape", resign(longBin(payload, 11, 2)))
	bad("bin with a length of four bytes", "shape", resign(longBin(payload, 11, 4)))
	bad("bin as text", "shape", resign(w.payload(with(msg, func(r *rawRecord) { r.bin = "sealed body" }))))
	bad("bin nil", "shape", resign(w.payload(with(msg, func(r *rawRecord) { r.bin = nil }))))
	bad("created true", "shape", resign(w.payload(with(msg, func(r *rawRecord) { r.created = true }))))
	bad("extension type as bin", "shape", resign(append(payload[:len(payload)-13:len(payload)-13], 0xd4, 1, 0)))
	bad("signature too long", "shape", encode([]any{payload, make([]byte, 1025)}))
}

// patched returns the payload of r up to the recipients, continued by add.
func (w *vectorWriter) patched(r rawRecord, add func([]byte) []byte) []byte {
	head := encode(r.format, r.kind, r.author, r.signer)
	return add(append([]byte{0x99}, head...))
}

// longBin rewrites the header of the payload's last bin of n bytes with a
// length of size bytes.
func longBin(payload []byte, n, size int) []byte {
	body := payload[len(payload)-n:]
	b := slices.Clone(payload[:len(payload)-n-2])
	if size == 2 {
		b = binary.BigEndian.AppendUint16(append(b, 0xc5), uint16(n))
	} else {
		b = binary.BigEndian.AppendUint32(append(b, 0xc6), uint32(n))
	}
	return append(b, body...)
}

func (w *vectorWriter) badFields(bad func(string, string, []byte)) {
	msg := w.message()
	variant := func(change func(*rawRecord)) []byte { return w.sign(w.device, w.payload(with(msg, change))) }
	pair := [][]byte{edID(w.other), edID(w.account)}
	slices.SortFunc(pair, bytes.Compare)
	seq := []any{uint64(5), uint64(4)}
	bad("format 0", "shape", variant(func(r *rawRecord) { r.format = uint64(0) }))
	bad("kind 0", "shape", variant(func(r *rawRecord) { r.kind = uint64(0) }))
	bad("no author", "shape", variant(func(r *rawRecord) { r.author = []byte{} }))
	bad("author that is no peer ID", "shape", variant(func(r *rawRecord) { r.author = bytes.Repeat([]byte{7}, 38) }))
	bad("recipient that is no peer ID", "shape", variant(func(r *rawRecord) { r.to = [][]byte{[]byte("somebody")} }))
	bad("recipients descending", "shape", variant(func(r *rawRecord) { r.to, r.sequences = [][]byte{pair[1], pair[0]}, []any{seq, seq} }))
	bad("a recipient twice", "shape", variant(func(r *rawRecord) { r.to, r.sequences = [][]byte{pair[0], pair[0]}, []any{seq, seq} }))
	bad("message to nobody", "shape", variant(func(r *rawRecord) { r.to, r.sequences = []any{}, []any{} }))
	bad("message to 257", "shape", variant(func(r *rawRecord) { r.to, r.sequences = manyAccounts(257) }))
	bad("message without sequences", "shape", variant(func(r *rawRecord) { r.sequences = []any{} }))
	bad("more sequences than recipients", "shape", variant(func(r *rawRecord) { r.sequences = []any{seq, seq} }))
	bad("sequence of three values", "shape", variant(func(r *rawRecord) { r.sequences = []any{[]any{uint64(5), uint64(4), uint64(3)}} }))
	bad("sequence 0", "shape", variant(func(r *rawRecord) { r.sequences = []any{[]any{uint64(0), uint64(0)}} }))
	bad("sequence before its predecessor", "shape", variant(func(r *rawRecord) { r.sequences = []any{[]any{uint64(4), uint64(4)}} }))
	bad("epoch with sequences", "shape", variant(func(r *rawRecord) { r.kind = uint64(3) }))
	bad("epoch to nobody", "shape", variant(func(r *rawRecord) { r.kind, r.to, r.sequences = uint64(3), []any{}, []any{} }))
	bad("device record to somebody", "shape", variant(func(r *rawRecord) { r.kind, r.sequences = uint64(2), []any{} }))
	bad("pillar with an RSA key", "shape", w.signRSA(w.payload(with(w.own(6, w.rsaID()), func(r *rawRecord) { r.signer = w.rsaPublic() }))))
	bad("expires when it is created", "life", variant(func(r *rawRecord) { r.expires = vectorCreated }))
	bad("expires before it is created", "life", variant(func(r *rawRecord) { r.expires = vectorCreated - 1 }))
	bad("message that lives too long", "life-long", variant(func(r *rawRecord) { r.expires = vectorCreated + 30*vectorDay + 1 }))
	bad("device record that lives too long", "life-long", w.sign(w.device, w.payload(with(w.bare(2), func(r *rawRecord) { r.expires = vectorCreated + 32*vectorDay + 1 }))))
	bad("life for ever", "life-long", variant(func(r *rawRecord) { r.expires = uint64(math.MaxUint64) }))
	bad("expires after the year 9999", "life", w.sign(w.account, w.payload(with(w.own(1, edID(w.account)), func(r *rawRecord) {
		r.created, r.expires = overlay.MaxTime, overlay.MaxTime+1
	}))))
}

func manyAccounts(n int) (to, sequences any) {
	var ids [][]byte
	var seqs []any
	for i := range n {
		ids = append(ids, append([]byte{0x12, 0x20}, binary.BigEndian.AppendUint32(make([]byte, 28), uint32(i))...))
		seqs = append(seqs, []any{uint64(1), uint64(0)})
	}
	return ids, seqs
}

func (w *vectorWriter) badSignatures(bad func(string, string, []byte)) {
	msg := w.message()
	payload := w.payload(msg)
	certified := func(cert []byte) []byte {
		return w.sign(w.device, w.payload(with(msg, func(r *rawRecord) { r.signer = cert })))
	}
	device := w.device.Public().(ed25519.PublicKey)
	from, to := vectorCreated-vectorDay, vectorCreated+300*vectorDay
	accountSigns := w.edSigner(w.account)
	cert := func(network, account []byte, dev ed25519.PublicKey, from, to uint64, sign func([]byte) []byte, key []byte) []byte {
		return certified(w.certificate(network, account, dev, from, to, sign, key))
	}
	altered := w.sign(w.device, payload)
	altered[bytes.Index(altered, []byte("sealed body"))] ^= 1
	otherNetwork := seedKey("another network").Public().(ed25519.PublicKey)

	bad("signature of all zeros", "signature", encode([]any{payload, make([]byte, 64)}))
	bad("signature empty", "signature", encode([]any{payload, []byte{}}))
	bad("signature by another key", "signature", w.sign(w.other, payload))
	bad("signature by the account instead of the device", "signature", w.sign(w.account, payload))
	bad("signature without a tag", "signature", encode([]any{payload, ed25519.Sign(w.device, payload)}))
	bad("signature under another tag", "signature", encode([]any{payload, ed25519.Sign(w.device, tagged("obk1 head", w.network[:], payload))}))
	bad("signature for another network", "signature", encode([]any{payload, ed25519.Sign(w.device, tagged("obk1 record", otherNetwork, payload))}))
	bad("body altered", "signature", altered)
	bad("account record by another key", "signature", w.sign(w.other, w.payload(w.own(1, edID(w.account)))))
	bad("account record with a key its ID holds already", "shape", w.sign(w.account, w.payload(with(w.own(1, edID(w.account)), func(r *rawRecord) {
		r.signer = append([]byte{0x08, 0x01, 0x12, 0x20}, w.account.Public().(ed25519.PublicKey)...)
	}))))
	bad("account record whose RSA key is another's", "signature", w.signRSA(w.payload(with(w.own(1, append([]byte{0x12, 0x20}, make([]byte, 32)...)), func(r *rawRecord) { r.signer = w.rsaPublic() }))))
	bad("account record of an RSA account without the key", "signature", w.signRSA(w.payload(w.own(1, w.rsaID()))))
	bad("author whose key is of small order", "signature", smallOrderRecord(w))
	bad("revocation by a pillar", "signature", w.sign(w.other, w.payload(w.own(7, edID(w.other)))))

	bad("message without a certificate", "certificate", w.sign(w.account, w.payload(with(msg, func(r *rawRecord) { r.signer = []byte{} }))))
	bad("account record under a certificate", "certificate", w.sign(w.device, w.payload(w.bare(1))))
	bad("certificate for another network", "certificate", cert(otherNetwork, edID(w.account), device, from, to, accountSigns, []byte{}))
	bad("certificate of another account", "certificate", cert(w.network[:], edID(w.other), device, from, to, w.edSigner(w.other), []byte{}))
	bad("certificate signed by another account", "certificate", cert(w.network[:], edID(w.account), device, from, to, w.edSigner(w.other), []byte{}))
	bad("certificate that does not cover the time yet", "certificate", cert(w.network[:], edID(w.account), device, vectorCreated+1, to, accountSigns, []byte{}))
	bad("certificate that covers the time no more", "certificate", cert(w.network[:], edID(w.account), device, from, vectorCreated-1, accountSigns, []byte{}))
	bad("certificate for over 400 days", "certificate", cert(w.network[:], edID(w.account), device, from, from+400*vectorDay+1, accountSigns, []byte{}))
	bad("certificate that ends before it starts", "certificate", cert(w.network[:], edID(w.account), device, to, from, accountSigns, []byte{}))
	bad("certificate with an RSA key for an Ed25519 account", "certificate", cert(w.network[:], edID(w.account), device, from, to, accountSigns, w.rsaPublic()))
	bad("certificate for a device key of small order", "certificate", cert(w.network[:], edID(w.account), make([]byte, 32), from, to, accountSigns, []byte{}))
	bad("certificate with a byte too many", "certificate", certified(append(w.edCertificate(), 0)))
	bad("certificate cut", "certificate", certified(w.edCertificate()[:40]))
}

// smallOrderRecord is signed by nobody: for an author key of order 1 (y = 1)
// R = B·s with any s satisfies the equation.
func smallOrderRecord(w *vectorWriter) []byte {
	point := make([]byte, 32)
	point[0] = 1
	author := append([]byte{0x00, 0x24, 0x08, 0x01, 0x12, 0x20}, point...)
	payload := w.payload(w.own(1, author))
	base, _ := hex.DecodeString("5866666666666666666666666666666666666666666666666666666666666666")
	sig := append(base, append([]byte{1}, make([]byte, 31)...)...)
	return encode([]any{payload, sig})
}
