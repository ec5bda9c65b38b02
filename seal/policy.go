package seal

import (
	"bytes"
	"fmt"
	"slices"
	"time"
)

// How long an epoch is used for sealing.
const (
	// EpochLife is how long an epoch is sealed with. Its record lives longer.
	EpochLife = 24 * time.Hour
	// AdditionEvery is how often devices that an account adds end an epoch: an
	// account must not be able to make its correspondents pay for a new epoch
	// with every message.
	AdditionEvery = time.Hour
)

// Verdict says whether an epoch can be sealed with.
type Verdict int

// Verdicts.
const (
	Keep          Verdict = iota // seal with it
	EndedAge                     // it is EpochLife old, or expired
	EndedClock                   // it was made after now: the clock went back
	EndedRemoval                 // it is sealed to a device that is none of the recipients' any more
	EndedAddition                // a device is to be added
)

func (v Verdict) String() string {
	switch v {
	case Keep:
		return "keep"
	case EndedAge:
		return "age"
	case EndedClock:
		return "clock"
	case EndedRemoval:
		return "removal"
	case EndedAddition:
		return "addition"
	default:
		return fmt.Sprintf("verdict-%d", int(v))
	}
}

// EpochPolicy decides when the epoch for one list of recipients ends. The
// caller keeps one beside each such list's epoch, for as long as the process
// runs. The zero value is ready; it is for one goroutine at a time.
type EpochPolicy struct {
	added []addition // accounts whose additions ended an epoch less than AdditionEvery ago
}

type addition struct {
	account string
	at      uint64
}

// Check says whether a message to devices, the same list that NewEpoch would
// get, can be sealed with e now. The set of devices counts, not their keys:
//
//   - A device that e is sealed to and that is not in the list, whatever its
//     key, ends e at once.
//   - A device with a usable key that e is not sealed to, new or until now
//     without a key, ends e unless additions of its account did so within the
//     last AdditionEvery. That is noted in p when it happens.
//   - A key that was replaced ends nothing: the old private key lives on for
//     longer than e is used.
//
// An ended epoch must not be sealed with; the caller erases it.
func (p *EpochPolicy) Check(e *Epoch, now uint64, devices []Device) Verdict {
	switch {
	case now < e.Created():
		return EndedClock
	case now-e.Created() >= millis(EpochLife), now >= e.Expires():
		return EndedAge
	}
	var seen [MaxDevices]bool
	found := 0
	several := len(e.binding.To) > 1
	due := false
	for _, d := range devices {
		if i, ok := slices.BinarySearchFunc(e.sealed, d.Device, bytes.Compare); ok {
			if !seen[i] {
				seen[i] = true
				found++
			}
		} else if !due && UsableKey(d.Key, now, several) && !e.refused(d) && p.allows(d.Account, now) {
			due = true
		}
	}
	if found < len(e.sealed) {
		return EndedRemoval
	}
	if !due {
		return Keep
	}
	p.added = slices.DeleteFunc(p.added, func(a addition) bool { return !a.recent(now) })
	for _, d := range devices {
		if !e.Has(d.Device) && UsableKey(d.Key, now, several) && !e.refused(d) && p.allows(d.Account, now) {
			p.added = append(p.added, addition{string(d.Account), now})
		}
	}
	return EndedAddition
}

// allows reports whether an addition of the account may end an epoch now.
func (p *EpochPolicy) allows(account []byte, now uint64) bool {
	return !slices.ContainsFunc(p.added, func(a addition) bool {
		return a.account == string(account) && a.recent(now)
	})
}

// recent is false for a time ahead of now: after a clock that was wrong an
// addition waits for nothing.
func (a addition) recent(now uint64) bool {
	return a.at <= now && now-a.at < millis(AdditionEvery)
}
