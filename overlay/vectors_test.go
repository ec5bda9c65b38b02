package overlay_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"slices"
	"testing"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

var update = flag.Bool("update", false, "write the test vectors anew")

// recordVector is one entry of testdata/records.json.
type recordVector struct {
	Name   string        `json:"name"`
	Raw    string        `json:"raw"` // hex
	Valid  bool          `json:"valid"`
	ID     string        `json:"id,omitempty"`
	Code   string        `json:"code,omitempty"`   // of the refusal
	Reason string        `json:"reason,omitempty"` // which rule, as in docs/protocol.md
	Fields *vectorFields `json:"fields,omitempty"`
}

type vectorFields struct {
	Format    uint64      `json:"format"`
	Kind      uint64      `json:"kind"`
	Author    string      `json:"author"`
	Signer    string      `json:"signer"`
	To        []string    `json:"to"`
	Sequences [][2]uint64 `json:"sequences"`
	Created   uint64      `json:"created"`
	Expires   uint64      `json:"expires"`
	Bin       string      `json:"bin"`
}

type recordVectors struct {
	Comment string         `json:"comment"`
	Network string         `json:"network"`
	Vectors []recordVector `json:"vectors"`
}

const vectorsFile = "testdata/records.json"

var reasons = map[string]error{
	"size": overlay.ErrSize, "shape": overlay.ErrShape, "signature": overlay.ErrSignature,
	"certificate": overlay.ErrCertificate, "life": overlay.ErrLife,
}

// TestRecordVectors holds the code against the published vectors, which an
// encoder and a signer of another library made.
func TestRecordVectors(t *testing.T) {
	if *update {
		writeRecordVectors(t)
	}
	data, err := os.ReadFile(vectorsFile)
	if err != nil {
		t.Fatal(err)
	}
	var file recordVectors
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	network, err := identity.ParseNetwork(file.Network)
	if err != nil {
		t.Fatal(err)
	}
	verifier := overlay.NewVerifier(network)
	for _, v := range file.Vectors {
		t.Run(v.Name, func(t *testing.T) {
			raw, err := hex.DecodeString(v.Raw)
			if err != nil {
				t.Fatal(err)
			}
			rec, err := verifier.Parse(raw)
			if err == nil {
				err = verifier.VerifyOne(rec)
			}
			if !v.Valid {
				checkRefusal(t, err, v)
				return
			}
			if err != nil {
				t.Fatalf("a valid record was refused: %v", err)
			}
			checkFields(t, rec, v)
		})
	}
	verifyTogether(t, verifier, file.Vectors)
}

func checkRefusal(t *testing.T, err error, v recordVector) {
	t.Helper()
	want, ok := reasons[v.Reason]
	if !ok {
		t.Fatalf("unknown reason %q", v.Reason)
	}
	var inv *overlay.Invalid
	if !asInvalid(err, &inv) || inv.Reason != want || string(inv.Code) != v.Code {
		t.Fatalf("got %v, want reason %s with code %s", err, v.Reason, v.Code)
	}
}

func asInvalid(err error, target **overlay.Invalid) bool {
	inv, ok := err.(*overlay.Invalid)
	*target = inv
	return ok
}

func checkFields(t *testing.T, rec *overlay.Record, v recordVector) {
	t.Helper()
	if rec.ID.String() != v.ID {
		t.Errorf("ID %s, want %s", rec.ID, v.ID)
	}
	got := vectorFields{Format: rec.Format, Kind: uint64(rec.Kind), Author: rec.Account().String(),
		Signer: hex.EncodeToString(rec.Signer), Created: rec.Created, Expires: rec.Expires, Bin: hex.EncodeToString(rec.Bin),
		To: []string{}, Sequences: [][2]uint64{}}
	for _, a := range rec.To {
		got.To = append(got.To, a.String())
	}
	for _, s := range rec.Sequences {
		got.Sequences = append(got.Sequences, [2]uint64{s.Seq, s.Prev})
	}
	a, _ := json.Marshal(got)
	b, _ := json.Marshal(v.Fields)
	if !bytes.Equal(a, b) {
		t.Errorf("fields\n%s, want\n%s", a, b)
	}
}

// verifyTogether checks everything in one batch: neighbours do not matter.
func verifyTogether(t *testing.T, verifier *overlay.Verifier, vectors []recordVector) {
	t.Helper()
	var recs []*overlay.Record
	var want []bool
	for _, v := range vectors {
		raw, _ := hex.DecodeString(v.Raw)
		if rec, err := verifier.Parse(raw); err == nil {
			recs = append(recs, rec)
			want = append(want, v.Valid)
		}
	}
	errs := make([]error, len(recs))
	verifier.Verify(recs, errs)
	for i := range recs {
		if (errs[i] == nil) != want[i] {
			t.Errorf("in a batch record %s is %v, want valid %v", recs[i].ID, errs[i], want[i])
		}
	}
}

// TestTooLarge is no vector because of its size.
func TestTooLarge(t *testing.T) {
	w := newVectorWriter(t)
	fits := w.payload(with(w.message(), func(r *rawRecord) { r.bin = make([]byte, overlay.MaxRecord-1024) }))
	if _, err := overlay.ParseRecord(w.network, w.sign(w.device, fits)); err != nil {
		t.Errorf("a record under the limit: %v", err)
	}
	over := w.payload(with(w.message(), func(r *rawRecord) { r.bin = make([]byte, overlay.MaxRecord) }))
	_, err := overlay.ParseRecord(w.network, w.sign(w.device, over))
	if !errors.Is(err, overlay.ErrSize) || overlay.CodeOf(err) != overlay.CodeTooLarge {
		t.Errorf("a record over the limit: %v", err)
	}
}

// TestFlippedBits alters every bit of a valid record in turn: none of the
// results may be valid.
func TestFlippedBits(t *testing.T) {
	w := newVectorWriter(t)
	raw := w.sign(w.device, w.payload(w.message()))
	verifier := overlay.NewVerifier(w.network)
	if rec, err := verifier.Parse(raw); err != nil || verifier.VerifyOne(rec) != nil {
		t.Fatal("the record is not valid to begin with")
	}
	for i := range raw {
		for bit := range 8 {
			bad := slices.Clone(raw)
			bad[i] ^= 1 << bit
			if rec, err := verifier.Parse(bad); err == nil && verifier.VerifyOne(rec) == nil {
				t.Fatalf("valid with bit %d of byte %d flipped", bit, i)
			}
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	data, err := os.ReadFile(vectorsFile)
	if err != nil {
		f.Fatal(err)
	}
	var file recordVectors
	if err := json.Unmarshal(data, &file); err != nil {
		f.Fatal(err)
	}
	network, _ := identity.ParseNetwork(file.Network)
	for _, v := range file.Vectors {
		if raw, _ := hex.DecodeString(v.Raw); len(raw) < 8192 {
			f.Add(raw)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		rec, err := overlay.ParseRecord(network, raw)
		if err != nil {
			return
		}
		d := overlay.Draft{Kind: rec.Kind, Author: rec.Author, Signer: rec.Signer, To: rec.To,
			Sequences: rec.Sequences, Created: rec.Created, Expires: rec.Expires}
		if rec.Format == overlay.Format {
			again := append(d.AppendPrefix(nil, len(rec.Bin)), rec.Bin...)
			if !bytes.Equal(again, rec.Payload()) {
				t.Fatalf("a record with two encodings: %x and %x", rec.Payload(), again)
			}
		}
	})
}
