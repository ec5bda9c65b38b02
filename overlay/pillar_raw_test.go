package overlay_test

import (
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/internal/canon"
	"github.com/obelisk-network/obelisk/overlay"
)

// signRaw signs a payload that SignPayload may refuse.
func signRaw(d *testDevice, payload []byte) []byte {
	raw := canon.AppendArray(nil, 2)
	raw = canon.AppendBin(raw, payload)
	return canon.AppendBin(raw, d.key.Sign(identity.TagRecord, d.rig.id, payload))
}

func messageDraft(d *testDevice) *overlay.Draft {
	now := millis(time.Now())
	return &overlay.Draft{Kind: overlay.KindMessage, Author: string(d.id()), Signer: d.cert,
		To: []identity.AccountID{d.id()}, Sequences: []overlay.Sequence{{Seq: 1}},
		Created: now, Expires: now + overlay.DayMillis, Bin: []byte("x")}
}

func longLived(t *testing.T, d *testDevice) []byte {
	t.Helper()
	dr := messageDraft(d)
	dr.Expires = dr.Created + overlay.MaxLife + 1
	return signRaw(d, append(dr.AppendPrefix(nil, len(dr.Bin)), dr.Bin...))
}

// newerFormat is a record of format 2, whose second byte is the format.
func newerFormat(t *testing.T, d *testDevice) []byte {
	t.Helper()
	dr := messageDraft(d)
	payload := append(dr.AppendPrefix(nil, len(dr.Bin)), dr.Bin...)
	payload[1] = overlay.Format + 1
	return signRaw(d, payload)
}
