package overlay_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/memnet"
)

// TestBundle carries a pillar's records to another as a file: all are held
// there, sealed as they were, and reach their mailboxes.
func TestBundle(t *testing.T) {
	rig := newPillarRig(t, nil)
	alice, bob := rig.device(nil), rig.device(nil)
	bob.session()
	c := alice.session()
	var ids []overlay.RecordID
	for range 700 { // more than a page
		raw := alice.message(bob.id())
		rec, err := overlay.ParseRecord(rig.id, raw)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, rec.ID)
		if l := c.one(raw); l.Err != nil {
			t.Fatal(l.Err)
		}
	}
	var file bytes.Buffer
	wrote, err := rig.pillar.WriteBundle(t.Context(), &file)
	if err != nil || wrote.Records < 704 {
		t.Fatalf("%+v, %v", wrote, err)
	}

	other := &pillarRig{testNetwork: rig.testNetwork, net: memnet.New(), store: newWatchedStore()}
	other.start(nil, identity.NewPillarKey())
	for range 2 { // twice is as good as once
		read, err := other.pillar.ReadBundle(t.Context(), bytes.NewReader(file.Bytes()))
		if err != nil || read.Records != wrote.Records || read.Taken != wrote.Records || read.Refused != 0 || read.Bytes != wrote.Bytes {
			t.Fatalf("%+v, %v; wrote %+v", read, err, wrote)
		}
	}
	if has, err := other.pillar.Has(ids); err != nil || slices.Contains(has, false) {
		t.Fatalf("not all are held, %v", err)
	}
	info, ok, err := other.pillar.Describe(ids[0])
	if err != nil || !ok || info.Via != overlay.ViaBundle {
		t.Errorf("%+v, %v, %v", info, ok, err)
	}

	for name, bad := range map[string][]byte{
		"empty":              {},
		"another file":       []byte("PK\x03\x04 something else that is long enough to be read"),
		"cut in a record":    file.Bytes()[:file.Len()/2],
		"cut before its end": file.Bytes()[:file.Len()-40],
		"cut in the hash":    file.Bytes()[:file.Len()-1],
		"a wrong hash":       append(bytes.Clone(file.Bytes()[:file.Len()-1]), file.Bytes()[file.Len()-1]^1),
		"longer":             append(bytes.Clone(file.Bytes()), 0),
		"a huge record":      append(bytes.Clone(file.Bytes()[:40]), 0xff, 0xff, 0xff, 0xff),
	} {
		if _, err := other.pillar.ReadBundle(t.Context(), bytes.NewReader(bad)); !errors.Is(err, overlay.ErrBundle) {
			t.Errorf("%s: %v", name, err)
		}
	}
	foreign := bytes.Clone(file.Bytes())
	foreign[8] ^= 1
	if _, err := other.pillar.ReadBundle(t.Context(), bytes.NewReader(foreign)); overlay.CodeOf(err) != overlay.CodeWrongNetwork {
		t.Errorf("of another network: %v", err)
	}
	garbage := append(bytes.Clone(file.Bytes()[:40]), 0, 0, 0, 3, 1, 2, 3)
	if got, err := other.pillar.ReadBundle(t.Context(), bytes.NewReader(garbage)); !errors.Is(err, overlay.ErrBundle) || got.Refused != 1 || got.Taken != 0 {
		t.Errorf("no record: %+v, %v", got, err)
	}
}
