package overlay

import (
	"time"

	"github.com/obelisk-network/obelisk/identity"
)

// Absence says why a pillar does not hold a record, as far as can be known.
type Absence string

// Reasons for not holding a record. Where several hold, the first counts.
const (
	AbsentNot       Absence = ""              // it holds it
	AbsentUnsettled Absence = "unsettled"     // so new, or so old, that pillars need not agree on it yet
	AbsentExpired   Absence = "expired"       // its life is over by that pillar's clock
	AbsentVoid      Absence = "void"          // its bytes are no valid record
	AbsentFull      Absence = "full"          // the pillar takes nothing for want of disk
	AbsentDeleted   Absence = "deleted"       // an entry of a log names it, and its bytes are gone from the disk
	AbsentDeadLog   Absence = "dead_log"      // it is in a log that forked, and audits have not brought it yet
	AbsentPaused    Absence = "paused"        // the log it is in has used up its share of the disk
	AbsentComing    Absence = "coming"        // it is in a part of a log that is still to come
	AbsentRefused   Absence = "refused"       // a node submitted it here lately and it was not taken; the detail says why
	AbsentNever     Absence = "never_arrived" // nothing here ever named it
	AbsentUnknown   Absence = "unknown"       // the pillar could not be asked
)

// Trace is what one pillar says about one record.
type Trace struct {
	Pillar   identity.PillarID
	Answered bool // the rest means something
	Has      bool
	// Of a record that it has:
	Kind     Kind
	Created  uint64 // Unix ms
	Expires  uint64 // Unix ms
	Size     uint64 // bytes of payload and signature
	Received time.Time
	Via      Via
	Dots     []Dot
	// Recipients, of a message and if they were asked for: one for each account
	// whose receipt its author waits for, in the message's order. The author's own
	// account is none of them unless nobody else is.
	Recipients []RecipientTrace
	// Of one that it has not:
	Why    Absence
	Detail string // in words: which check it failed, since when; at most 256 bytes
}

// Bounds of what is told of one recipient.
const (
	MaxReceiptsTold = 4
	MaxDevicesTold  = 8
)

// RecipientTrace is what a pillar sees of what became of a message at one
// recipient. Receipts are sealed to the message's author: of which messages one
// speaks no pillar can read. It sees who wrote it to whom, and when.
type RecipientTrace struct {
	Account identity.AccountID
	// Receipts are those that the account wrote to the message's author since the
	// message was created, the earliest first: each may speak of it.
	Receipts []ReceiptSeen
	// More: there may be more of them than are listed. If there are none and no
	// more, the pillar holds nothing by which the account confirms the message.
	More bool
	// Devices are the account's that are connected to the pillar.
	Devices []DeviceDelivery
}

// ReceiptSeen is a receipt record as a pillar sees it.
type ReceiptSeen struct {
	ID       RecordID
	Created  uint64 // Unix ms
	Received time.Time
}

// DeviceDelivery is how far a pillar is with giving a message to a device that is
// connected to it.
type DeviceDelivery struct {
	Device identity.DeviceID
	State  DeliveryState
}

// DeliveryState says how far a pillar is with giving a record to a device.
type DeliveryState string

// Delivery states.
const (
	DeliverySaved   DeliveryState = "saved"   // the device said that it is on its disk
	DeliveryPushed  DeliveryState = "pushed"  // it was sent, and the device has not said so yet
	DeliveryWaiting DeliveryState = "waiting" // it is to be sent
	DeliveryStandby DeliveryState = "standby" // the device gets its mail at another pillar
)

// Difference is a record that one of two pillars holds and the other does not.
type Difference struct {
	ID      RecordID
	Kind    Kind
	Created uint64  // Unix ms
	Expires uint64  // Unix ms
	Why     Absence // the side that lacks it says why
	Detail  string
}

// Diff is what two pillars hold differently, found without moving a record.
type Diff struct {
	Here, There         identity.PillarID
	Equal               bool
	Settled, Front      uint64 // compared is what was created before the one and expires from the other on; Unix ms
	OnlyHere, OnlyThere []Difference
	// More: there are more differences than were listed.
	More bool
	// Bytes of our protocol both ways, and how long it took.
	Bytes      uint64
	RoundTrips int
	Took       time.Duration
}

// Repaired is what a repair did.
type Repaired struct {
	Fetched, Sent int    // records taken and given
	Bytes         uint64 // both ways, the records' too
	Took          time.Duration
}
