package overlay_test

import (
	"bytes"
	"crypto/ed25519"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// locate is the question of device, which belongs to asker, signed by the
// writer's own means.
func (w *vectorWriter) locate(asker, target identity.AccountID) *overlay.Locate {
	signed := encode([]any{[]byte(target), edID(w.device), vectorCreated})
	return &overlay.Locate{N: 6, Target: target, Asker: asker, Time: vectorCreated, Certificate: w.deviceCertificate(),
		Signature: ed25519.Sign(w.device, tagged("obk1 locate", w.network[:], signed))}
}

func (w *vectorWriter) deviceCertificate() []byte {
	return w.certificate(w.network[:], edID(w.account), w.device.Public().(ed25519.PublicKey), vectorCreated-1, vectorCreated+vectorDay,
		func(m []byte) []byte { return ed25519.Sign(w.account, m) }, []byte{})
}

// presence is the word of other to device.
func (w *vectorWriter) presence(pillars ...identity.PillarID) overlay.Presence {
	list := []any{}
	for _, p := range pillars {
		list = append(list, []byte(p))
	}
	signed := encode([]any{edID(w.other), edID(w.device), list, vectorCreated})
	return overlay.Presence{Device: identity.DeviceID(edID(w.other)), Asker: identity.DeviceID(edID(w.device)), Pillars: pillars,
		Time: vectorCreated, Signature: ed25519.Sign(w.other, tagged("obk1 presence", w.network[:], signed))}
}

func (w *vectorWriter) locateMessages(account, other identity.AccountID, pillar identity.PillarID, refusal *overlay.Error) map[string]overlay.Message {
	return map[string]overlay.Message{
		"locate":           w.locate(account, other),
		"located":          &overlay.Located{N: 6, More: true, Presences: []overlay.Presence{w.presence(pillar)}},
		"located, refused": &overlay.Located{N: 6, Err: refusal},
	}
}

func presenceWriter() *vectorWriter {
	w := &vectorWriter{netKey: seedKey("network"), account: seedKey("account"), device: seedKey("device"), other: seedKey("other")}
	copy(w.network[:], w.netKey.Public().(ed25519.PublicKey))
	return w
}

func TestPresenceForged(t *testing.T) {
	w := presenceWriter()
	pillar := func(name string) identity.PillarID { return identity.PillarID(edID(seedKey(name))) }
	asker := identity.DeviceID(edID(w.device))
	limit := uint64(overlay.MaxPresenceAge / time.Millisecond)
	cases := []struct {
		name   string
		change func(p *overlay.Presence)
		asker  identity.DeviceID
		now    uint64
		other  bool // network
		ok     bool
		shape  bool // that nobody reads from the wire
	}{
		{name: "as it was signed", ok: true},
		{name: "a clock behind", now: vectorCreated - limit, ok: true},
		{name: "a clock ahead", now: vectorCreated + limit, ok: true},
		{name: "old", now: vectorCreated + limit + 1},
		{name: "of the future", now: vectorCreated - limit - 1},
		{name: "to another asker", asker: identity.DeviceID(edID(w.account))},
		{name: "told on", change: func(p *overlay.Presence) { p.Asker = identity.DeviceID(edID(w.account)) }, asker: identity.DeviceID(edID(w.account))},
		{name: "in another network", other: true},
		{name: "for somebody else's device", change: func(p *overlay.Presence) { p.Device = identity.DeviceID(edID(w.account)) }},
		{name: "another pillar", change: func(p *overlay.Presence) { p.Pillars = []identity.PillarID{pillar("x")} }},
		{name: "a pillar more", change: func(p *overlay.Presence) { p.Pillars = append(p.Pillars, pillar("x")) }},
		{name: "pillars in another order", change: func(p *overlay.Presence) { p.Pillars[0], p.Pillars[1] = p.Pillars[1], p.Pillars[0] }},
		{name: "another time", change: func(p *overlay.Presence) { p.Time++ }},
		{name: "another signature", change: func(p *overlay.Presence) { p.Signature[5] ^= 1 }},
		{name: "no signature", change: func(p *overlay.Presence) { p.Signature = nil }, shape: true},
		{name: "no pillar, signed", change: func(p *overlay.Presence) { *p = w.presence() }, shape: true},
		{name: "a pillar twice, signed", change: func(p *overlay.Presence) { *p = w.presence(pillar("x"), pillar("y"), pillar("x")) }, shape: true},
		{name: "too many pillars, signed", change: func(p *overlay.Presence) {
			*p = w.presence(pillar("a"), pillar("b"), pillar("c"), pillar("d"), pillar("e"))
		}, shape: true},
		{name: "as many as may be", change: func(p *overlay.Presence) { *p = w.presence(pillar("a"), pillar("b"), pillar("c"), pillar("d")) }, ok: true},
		{name: "to itself, signed", change: func(p *overlay.Presence) {
			self := *w
			self.device = w.other
			*p = self.presence(pillar("a"))
		}, asker: identity.DeviceID(edID(w.other)), shape: true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p := w.presence(pillar("one"), pillar("two"))
			if c.change != nil {
				c.change(&p)
			}
			network, by, now := w.network, asker, vectorCreated
			if c.other {
				network[0] ^= 1
			}
			if c.asker != "" {
				by = c.asker
			}
			if c.now != 0 {
				now = c.now
			}
			if err := p.Verify(network, by, now); (err == nil) != c.ok {
				t.Errorf("verified: %v", err)
			}
			m, err := overlay.DecodeMessage(overlay.EncodeMessage(&overlay.Located{Presences: []overlay.Presence{p}}))
			if (err != nil) != c.shape {
				t.Errorf("read from the wire: %v", err)
			}
			if err == nil && !bytes.Equal(m.(*overlay.Located).Presences[0].Signature, p.Signature) {
				t.Errorf("read back as %+v", m)
			}
		})
	}
}

func TestPresenceSign(t *testing.T) {
	network, device, asker := identity.NewNetworkKey().ID(), identity.NewDeviceKey(), identity.NewDeviceKey()
	p := overlay.Presence{Device: device.ID(), Asker: asker.ID(), Pillars: []identity.PillarID{identity.NewPillarKey().ID()}, Time: 5}
	p.Sign(network, device)
	if err := p.Verify(network, asker.ID(), 6); err != nil {
		t.Error(err)
	}
}

func TestLocateForged(t *testing.T) {
	w := presenceWriter()
	account, other := identity.AccountID(edID(w.account)), identity.AccountID(edID(w.other))
	limit := uint64(overlay.MaxPresenceAge / time.Millisecond)
	cases := []struct {
		name   string
		change func(q *overlay.Locate)
		now    uint64
		ok     bool
	}{
		{name: "as it was signed", ok: true},
		{name: "a clock ahead", now: vectorCreated + limit, ok: true},
		{name: "old", now: vectorCreated + limit + 1},
		{name: "of the future", now: vectorCreated - limit - 1},
		{name: "a number of its own on each hop", change: func(q *overlay.Locate) { q.N = 99 }, ok: true},
		{name: "about somebody else", change: func(q *overlay.Locate) { q.Target = account }},
		{name: "another time", change: func(q *overlay.Locate) { q.Time++ }},
		{name: "another account", change: func(q *overlay.Locate) { q.Asker = other }},
		{name: "another signature", change: func(q *overlay.Locate) { q.Signature[7] ^= 1 }},
		{name: "no certificate", change: func(q *overlay.Locate) { q.Certificate = nil }},
		{name: "a certificate nobody signed", change: func(q *overlay.Locate) { q.Certificate[len(q.Certificate)-1] ^= 1 }},
		{name: "the certificate of another device", change: func(q *overlay.Locate) {
			thief := *w
			thief.device = w.other
			q.Certificate = thief.deviceCertificate()
		}},
		{name: "a certificate out of date", now: vectorCreated + limit, change: func(q *overlay.Locate) {
			q.Certificate = w.certificate(w.network[:], edID(w.account), w.device.Public().(ed25519.PublicKey), vectorCreated-5, vectorCreated+1,
				func(m []byte) []byte { return ed25519.Sign(w.account, m) }, []byte{})
		}},
		{name: "of another network", change: func(q *overlay.Locate) {
			elsewhere := *w
			elsewhere.network[3] ^= 1
			*q = *elsewhere.locate(account, other)
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			q := w.locate(account, other)
			if c.change != nil {
				c.change(q)
			}
			now := vectorCreated
			if c.now != 0 {
				now = c.now
			}
			cert, err := q.Verify(overlay.NewVerifier(w.network), now)
			if (err == nil) != c.ok {
				t.Errorf("verified: %v", err)
			}
			if err == nil && (cert.Device != identity.DeviceID(edID(w.device)) || q.Device() != cert.Device) {
				t.Errorf("asked by %s", cert.Device)
			}
		})
	}
}

// TestCheckCertificateTwice: what was wrong once is not remembered as right.
func TestCheckCertificateTwice(t *testing.T) {
	w := presenceWriter()
	v := overlay.NewVerifier(w.network)
	bad := w.deviceCertificate()
	bad[len(bad)-1] ^= 1
	for range 2 {
		if _, err := v.CheckCertificate(identity.AccountID(edID(w.account)), bad); err == nil {
			t.Error("a certificate that nobody signed was taken")
		}
		if _, err := v.CheckCertificate(identity.AccountID(edID(w.account)), w.deviceCertificate()); err != nil {
			t.Error(err)
		}
		if _, err := v.CheckCertificate(identity.AccountID(edID(w.other)), w.deviceCertificate()); err == nil {
			t.Error("somebody else's certificate was taken")
		}
	}
}

func TestTokens(t *testing.T) {
	var k overlay.Tokens
	now := time.Unix(1_800_000_000, 0)
	for i := range 5 {
		if wait := k.Take(now, 5, 2); wait != 0 {
			t.Fatalf("token %d: wait %v", i, wait)
		}
	}
	if wait := k.Take(now, 5, 2); wait != 500*time.Millisecond {
		t.Errorf("a sixth: wait %v", wait)
	}
	if wait := k.Take(now.Add(-time.Hour), 5, 2); wait == 0 {
		t.Error("a clock that goes back gives a token")
	}
	now = now.Add(time.Second)
	for i, want := range []bool{true, true, false} {
		if got := k.Take(now, 5, 2) == 0; got != want {
			t.Errorf("a second later, token %d: %v", i, got)
		}
	}
}
