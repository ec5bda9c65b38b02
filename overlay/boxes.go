package overlay

import (
	"crypto/sha256"

	"github.com/obelisk-network/obelisk/identity"
)

// A box is a list of records in local commit order. Every record is filed in
// boxes that follow from its own bytes, so all pillars hold the same boxes;
// only the order inside them is local.

// Mailbox is the box of the records addressed to an account.
func Mailbox(a identity.AccountID) BoxID { return boxID("mail", string(a)) }

// KeyBox is the box of an account's own account and device records.
func KeyBox(a identity.AccountID) BoxID { return boxID("keys", string(a)) }

// Directory is the box of all account and device records.
var Directory = boxID("directory", "")

func boxID(use, name string) BoxID {
	sum := sha256.Sum256([]byte(use + "\x00" + name))
	return BoxID(sum[:16])
}

// BoxesOf returns the boxes r is filed in.
func BoxesOf(r *Record) []BoxID {
	switch r.Kind {
	case KindAccount, KindDevice:
		return []BoxID{Directory, KeyBox(r.Account())}
	case KindPillar, KindRevocation:
		return nil // the roster's, never a log's or a box's
	default:
		boxes := make([]BoxID, len(r.To))
		for i, a := range r.To {
			boxes[i] = Mailbox(a)
		}
		return boxes
	}
}
