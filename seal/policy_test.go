package seal_test

import (
	"testing"

	"github.com/obelisk-network/obelisk/seal"
)

func TestEpochPolicy(t *testing.T) {
	alice, laptop := newParty(t, "alice", "1", start), newParty(t, "alice", "laptop", start)
	bob, phone, carol := newParty(t, "bob", "1", start), newParty(t, "bob", "phone", start), newParty(t, "carol", "1", start)
	e := newEpoch(t, alice, start, bob, carol, laptop)
	rotated := bob.as()
	rotated.Key = rotate(t, bob.ring, start)
	keyless := bob.as()
	keyless.Key = seal.PublicKey{}
	newcomer := phone.as()
	newcomer.Key = seal.PublicKey{}
	all := devicesOf(bob, carol, laptop)
	plus := func(d ...seal.Device) []seal.Device { return append(d, all...) }

	for _, c := range []struct {
		name    string
		now     uint64
		devices []seal.Device
		want    seal.Verdict
	}{
		{"at once", start, all, seal.Keep},
		{"just before its end", start + day - 1, all, seal.Keep},
		{"24 h old", start + day, all, seal.EndedAge},
		{"clock went back", start - 1, all, seal.EndedClock},
		{"key rotated", start + hour, []seal.Device{carol.as(), rotated, laptop.as()}, seal.Keep},
		{"key gone, device not", start + hour, []seal.Device{keyless, carol.as(), laptop.as()}, seal.Keep},
		{"listed twice", start + hour, plus(bob.as()), seal.Keep},
		{"twice does not hide a removal", start + hour, []seal.Device{bob.as(), bob.as(), carol.as()}, seal.EndedRemoval},
		{"removed", start + 1, devicesOf(bob, carol), seal.EndedRemoval},
		{"all removed", start + 1, nil, seal.EndedRemoval},
		{"added", start + 1, plus(phone.as()), seal.EndedAddition},
		{"added without a key", start + 1, plus(newcomer), seal.Keep},
		{"added and removed", start + 1, devicesOf(bob, carol, phone), seal.EndedRemoval},
	} {
		t.Run(c.name, func(t *testing.T) {
			var p seal.EpochPolicy
			if got := p.Check(e, c.now, c.devices); got != c.want {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}

	t.Run("epoch expires first", func(t *testing.T) {
		short, err := seal.NewEpoch(network, alice.sender(), accountsOf(bob), devicesOf(bob), start, hour)
		if err != nil {
			t.Fatal(err)
		}
		var p seal.EpochPolicy
		if got := p.Check(short, start+hour-1, devicesOf(bob)); got != seal.Keep {
			t.Error(got)
		}
		if got := p.Check(short, start+hour, devicesOf(bob)); got != seal.EndedAge {
			t.Error(got)
		}
	})
}

func TestAdditionsAreLimitedByAccountAndHour(t *testing.T) {
	alice, bob, carol := newParty(t, "alice", "1", start), newParty(t, "bob", "1", start), newParty(t, "carol", "1", start)
	var p seal.EpochPolicy
	devices := devicesOf(bob, carol)
	e := newEpoch(t, alice, start, bob, carol)
	renew := func(now uint64) {
		t.Helper()
		var err error
		if e, err = seal.NewEpoch(network, alice.sender(), accountsOf(bob, carol), devices, now, day); err != nil {
			t.Fatal(err)
		}
	}
	check := func(now uint64, want seal.Verdict) {
		t.Helper()
		if got := p.Check(e, now, devices); got != want {
			t.Fatalf("at start+%d s: %v, want %v", (now-start)/second, got, want)
		}
		if want != seal.Keep {
			renew(now)
		}
	}
	grow := func(account *party, name string) {
		devices = append(devices, seal.Device{Account: account.account, Device: peerID("device %s", name), Key: account.key})
	}
	check(start, seal.Keep)
	grow(bob, "b2")
	check(start+second, seal.EndedAddition)
	grow(bob, "b3")
	check(start+2*second, seal.Keep) // bob's hour has begun
	check(start+hour, seal.Keep)
	grow(carol, "c2")
	check(start+hour, seal.EndedAddition) // carol's has not, and b3 comes along
	if !e.Has(peerID("device b3")) {
		t.Error("a new epoch leaves a device out")
	}
	grow(bob, "b4")
	grow(carol, "c3")
	check(start+hour+second, seal.EndedAddition) // bob's hour is over
	if e.Missing() != nil || !e.Has(peerID("device c3")) {
		t.Error("a new epoch leaves a device out")
	}
	grow(carol, "c4")
	check(start+hour+2*second, seal.Keep)
	devices = devices[1:] // a removal does not wait
	check(start+hour+3*second, seal.EndedRemoval)
	check(start+hour+4*second, seal.Keep)

	// A clock that goes back ends the epoch and forgets hours that lie ahead.
	check(start+second, seal.EndedClock)
	grow(carol, "c5")
	check(start+2*second, seal.EndedAddition)
}

// A device whose key is none must not end the epoch with every message.
func TestBadKeyIsNoAddition(t *testing.T) {
	alice, bob, phone := newParty(t, "alice", "1", start), newParty(t, "bob", "1", start), newParty(t, "bob", "phone", start)
	bad := phone.as()
	bad.Key.Public = append(bad.Key.Public[:1184:1184], make([]byte, 32)...)
	devices := []seal.Device{bob.as(), bad}
	e, err := seal.NewEpoch(network, alice.sender(), accountsOf(bob), devices, start, day)
	if err != nil || len(e.Missing()) != 1 {
		t.Fatal(err)
	}
	var p seal.EpochPolicy
	if got := p.Check(e, start+1, devices); got != seal.Keep {
		t.Error(got)
	}
	devices[1] = phone.as() // the device publishes a better one
	if got := p.Check(e, start+2, devices); got != seal.EndedAddition {
		t.Error(got)
	}
}
