package overlay_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

func sameRecords(t *testing.T, what string, got, want [][]byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d records, want %d", what, len(got), len(want))
	}
	for i := range got {
		if !bytes.Equal(got[i], want[i]) {
			t.Fatalf("%s: record %d is another one", what, i)
		}
	}
}

func TestPillarSession(t *testing.T) {
	rig := newPillarRig(t, nil)
	alice, bob := rig.device(nil), rig.device(nil)
	c := alice.open()
	c.send(c.hello())
	h := expect[*overlay.Hello](c)
	rec, _, err := overlay.CheckPillarHello(h, identity.PillarID(rig.host.Self()), rig.id, millis(time.Now()))
	if err != nil || rec.ID != rig.pillar.Record().ID {
		t.Fatalf("the pillar's Hello: %v", err)
	}
	reg := c.register()
	if len(reg.Roster) != 1 || reg.Run == 0 || reg.Place < 2 || reg.MaxBody != overlay.DefaultMaxBody {
		t.Fatalf("registered: %+v", reg)
	}

	// Submitted, answered, in the mailbox, pushed.
	sent := [][]byte{alice.message(bob.id()), alice.message(bob.id()), alice.message(bob.id())}
	first := c.submit(2, sent...)
	lines := c.results(3)
	for i := range sent {
		l := lines[first+uint64(i)]
		if l.Err != nil || l.Copies != 1 || l.Dot.Seq != uint64(3+i) {
			t.Fatalf("line %d: %+v", i, l)
		}
	}
	b := bob.session()
	got, cursor := b.resume(overlay.BoxMail, nil, true)
	sameRecords(t, "mailbox", got, sent)
	live := alice.message(bob.id())
	if l := c.one(live); l.Err != nil {
		t.Fatal(l.Err)
	}
	sameRecords(t, "push", b.pushes(1), [][]byte{live})

	// By cursor only what came after it.
	again := bob.open2(t).greet()
	again.register()
	got, cursor = again.resume(overlay.BoxMail, cursor, false)
	sameRecords(t, "after the cursor", got, [][]byte{live})
	if got, _ = again.resume(overlay.BoxMail, cursor, false); len(got) != 0 {
		t.Fatalf("%d records after the newest cursor", len(got))
	}
	if got, _ = again.resume(overlay.BoxDirectory, nil, false); len(got) < 4 {
		t.Fatalf("%d records in the directory", len(got))
	}

	st := rig.pillar.Status()
	if st.NodesConnected != 3 || st.Mailboxes != 1 || st.Log.Seq == 0 || st.Failed != nil || st.ID != identity.PillarID(rig.host.Self()) {
		t.Fatalf("status: %+v", st)
	}
	nodes, next, err := rig.pillar.Nodes("", 1)
	if err != nil || len(nodes) != 1 || next == "" {
		t.Fatalf("nodes: %v %v %v", nodes, next, err)
	}
	more, next, err := rig.pillar.Nodes(next, 10)
	if err != nil || len(more) != 1 || next != "" || more[0].Name != "dev" || !more[0].Devices[0].Online {
		t.Fatalf("nodes: %+v %v %v", more, next, err)
	}
}

// open2 opens a second stream over the device's host.
func (d *testDevice) open2(t *testing.T) *testClient {
	twin := *d
	twin.key = identity.NewDeviceKey()
	twin.certify(d.rig.id, 1, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	return twin.open()
}

// TestPillarHelloRefusals: whoever is not who it says, or belongs elsewhere,
// gets no session, and a reason.
func TestPillarHelloRefusals(t *testing.T) {
	rig := newPillarRig(t, nil)
	other := newTestNetwork(t)
	now := time.Now()
	for _, tt := range []struct {
		name   string
		change func(c *testClient, h *overlay.Hello)
		code   overlay.Code
		text   string
	}{
		{"another network", func(c *testClient, h *overlay.Hello) { h.Network = other.id }, overlay.CodeWrongNetwork, other.id.String()},
		{"no network", func(c *testClient, h *overlay.Hello) { h.Network = identity.NetworkID{} }, overlay.CodeWrongNetwork, rig.id.String()},
		{"a pillar", func(c *testClient, h *overlay.Hello) { h.Role = overlay.RolePillar }, overlay.CodeInvalid, "only nodes"},
		{"certificate of another network", func(c *testClient, h *overlay.Hello) {
			c.certify(other.id, 1, now.Add(-time.Hour), now.Add(time.Hour))
			h.Credential = c.cert
		}, overlay.CodeInvalid, "not signed by account"},
		{"certificate of another account", func(c *testClient, h *overlay.Hello) { h.Account = rig.device(nil).id() }, overlay.CodeInvalid, "not signed by account"},
		{"certificate of another device", func(c *testClient, h *overlay.Hello) {
			c.key = identity.NewDeviceKey()
			c.certify(rig.id, 1, now.Add(-time.Hour), now.Add(time.Hour))
			h.Credential = c.cert
		}, overlay.CodeInvalid, "it is for device"},
		{"certificate out of date", func(c *testClient, h *overlay.Hello) {
			c.certify(rig.id, 1, now.Add(-48*time.Hour), now.Add(-24*time.Hour))
			h.Credential = c.cert
		}, overlay.CodeInvalid, "out of date"},
		{"certificate not yet valid", func(c *testClient, h *overlay.Hello) {
			c.certify(rig.id, 1, now.Add(time.Hour), now.Add(2*time.Hour))
			h.Credential = c.cert
		}, overlay.CodeInvalid, "out of date"},
		{"no certificate", func(c *testClient, h *overlay.Hello) { h.Credential = nil }, overlay.CodeInvalid, "certificate"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := rig.device(nil).open()
			h := c.hello()
			tt.change(c, h)
			c.send(h)
			expect[*overlay.Hello](c)
			b := expect[*overlay.Busy](c)
			if b.Err.Code != tt.code || !strings.Contains(b.Err.Text, tt.text) {
				t.Fatalf("refused with %v, want %s …%s…", b.Err, tt.code, tt.text)
			}
			c.ended()
		})
	}
}

// TestPillarBadFrames: what is no frame of a node ends the session with a
// reason; others do not notice.
func TestPillarBadFrames(t *testing.T) {
	rig := newPillarRig(t, nil)
	bystander := rig.device(nil).session()
	for _, tt := range []struct {
		name  string
		bytes []byte
		early bool // before the Hello
	}{
		{"empty frame", []byte{0, 0, 0, 0}, false},
		{"frame over the limit", []byte{0xff, 0xff, 0xff, 0xff}, false},
		{"early frame over the Hello's limit", []byte{0, 1, 0, 0, 0x98}, true},
		{"early frame that is no Hello", overlay.AppendFrame(nil, &overlay.Submit{}), true},
		{"unknown type", []byte{0, 0, 0, 3, 0x91, 0xcc, 0xff}, false},
		{"a pillar's message", overlay.AppendFrame(nil, &overlay.Get{}), false},
		{"a list of billions", []byte{0, 0, 0, 9, 0x94, 42, 1, 1, 0xdd, 0xff, 0xff, 0xff, 0xff}, false},
		{"nesting without end", append([]byte{0, 0, 0, 64}, bytes.Repeat([]byte{0x91}, 64)...), false},
		{"not minimal", []byte{0, 0, 0, 6, 0x94, 42, 0xcc, 1, 1, 0x90}, false},
		{"trailing bytes", []byte{0, 0, 0, 6, 0x94, 42, 1, 1, 0x90, 0}, false},
		{"text where bytes belong", []byte{0, 0, 0, 6, 0x93, 40, 0xa1, 'x', 0xa1, 'y'}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := rig.device(nil).open()
			if tt.early {
				expect[*overlay.Hello](c)
			} else {
				c.greet().register()
			}
			if _, err := c.stream.Write(tt.bytes); err != nil {
				t.Fatal(err)
			}
			b := expect[*overlay.Busy](c)
			if b.Err.Code != overlay.CodeInvalid || b.Err.Text == "" {
				t.Fatalf("ended with %v", b.Err)
			}
			c.ended()
		})
	}
	if l := bystander.one(bystander.message(bystander.id())); l.Err != nil {
		t.Fatal(l.Err)
	}
}

func TestPillarRegisterRefusals(t *testing.T) {
	rig := newPillarRig(t, nil)
	somebody := rig.device(nil)
	for _, tt := range []struct {
		name string
		reg  func(d *testDevice) *overlay.Register
		code overlay.Code
		text string
	}{
		{"somebody else's account", func(d *testDevice) *overlay.Register {
			return &overlay.Register{Account: somebody.accountRecord(1), Device: d.deviceRecord("x")}
		}, overlay.CodeInvalid, "somebody else's account"},
		{"somebody else's device", func(d *testDevice) *overlay.Register {
			twin := rig.device(d.account)
			return &overlay.Register{Account: d.accountRecord(1), Device: twin.deviceRecord("x")}
		}, overlay.CodeInvalid, "another device"},
		{"swapped", func(d *testDevice) *overlay.Register {
			return &overlay.Register{Account: d.deviceRecord("x"), Device: d.accountRecord(1)}
		}, overlay.CodeInvalid, "belongs"},
		{"wrong signature", func(d *testDevice) *overlay.Register {
			dev := d.deviceRecord("x")
			dev[len(dev)-1] ^= 1
			return &overlay.Register{Account: d.accountRecord(1), Device: dev}
		}, overlay.CodeInvalid, "wrong signature"},
		{"account unknown", func(d *testDevice) *overlay.Register {
			return &overlay.Register{Device: d.deviceRecord("x")}
		}, overlay.CodeNotFound, "no record of account"},
		{"removed device", func(d *testDevice) *overlay.Register {
			return &overlay.Register{Account: d.accountRecord(2, overlay.DeviceSerial{Device: d.key.ID(), Serial: 1}), Device: d.deviceRecord("x")}
		}, overlay.CodeRemovedDevice, "removed"},
		{"from the future", func(d *testDevice) *overlay.Register {
			dev := d.sign(overlay.KindDevice, nil, (&overlay.DeviceInfo{}).Append(nil), func(dr *overlay.Draft) {
				dr.Created += 120_000
			})
			return &overlay.Register{Account: d.accountRecord(1), Device: dev}
		}, overlay.CodeClockWrong, "future"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := rig.device(nil).open().greet()
			c.send(tt.reg(c.testDevice))
			r := expect[*overlay.Registered](c)
			if r.Err == nil || r.Err.Code != tt.code || !strings.Contains(r.Err.Text, tt.text) {
				t.Fatalf("registered: %v, want %s …%s…", r.Err, tt.code, tt.text)
			}
			c.ended()
		})
	}
	t.Run("submit before", func(t *testing.T) {
		c := rig.device(nil).open().greet()
		c.submit(1, c.message(c.id()))
		if b := expect[*overlay.Busy](c); b.Err.Code != overlay.CodeBadRequest {
			t.Fatal(b.Err)
		}
		c.ended()
	})
}

// TestPillarClosedRegistration also shows that Allow survives a restart.
func TestPillarClosedRegistration(t *testing.T) {
	closed := func(c *overlay.PillarConfig) { c.Registration = overlay.RegistrationClosed }
	rig := newPillarRig(t, nil, closed)
	d := rig.device(nil)
	c := d.open().greet()
	c.send(&overlay.Register{Account: d.accountRecord(1), Device: d.deviceRecord("x")})
	if r := expect[*overlay.Registered](c); r.Err == nil || r.Err.Code != overlay.CodeRegistrationClosed {
		t.Fatalf("registered: %v", r.Err)
	}
	c.ended()
	if err := rig.pillar.Allow(d.id()); err != nil {
		t.Fatal(err)
	}
	if err := rig.pillar.Allow("nobody"); overlay.CodeOf(err) != overlay.CodeBadRequest {
		t.Fatalf("allow nobody: %v", err)
	}
	rig.stop()
	rig.start(nil, identity.NewPillarKey(), closed)
	rig.device(d.account).session()
}

// TestPillarRSA: an account with an RSA key works like any other.
func TestPillarRSA(t *testing.T) {
	rig := newPillarRig(t, nil)
	key, err := identity.NewAccountKey(identity.KeyRSA, 2048)
	c := rig.device(must(t, key, err)).session()
	if l := c.one(c.message(c.id())); l.Err != nil {
		t.Fatal(l.Err)
	}
}

// TestPillarSubmitRefusals: each bad record gets its own answer; its
// neighbours in the same frame are stored.
func TestPillarSubmitRefusals(t *testing.T) {
	rig := newPillarRig(t, nil)
	other := newTestNetwork(t)
	c := rig.device(nil).session()
	to := []identity.AccountID{c.id()}
	day := uint64(overlay.DayMillis)
	resign := func(change func(*overlay.Draft)) []byte {
		return c.sign(overlay.KindMessage, to, []byte("x"), change)
	}
	flip := func(raw []byte, at int) []byte {
		raw = bytes.Clone(raw)
		raw[at] ^= 1
		return raw
	}
	good := c.message(c.id())
	removed := rig.device(nil)
	rs := removed.session()
	if l := rs.one(removed.message(removed.id())); l.Err != nil {
		t.Fatal(l.Err)
	}
	if l := rs.one(removed.accountRecord(2, overlay.DeviceSerial{Device: removed.key.ID(), Serial: 1})); l.Err != nil {
		t.Fatal(l.Err)
	}
	for _, tt := range []struct {
		name string
		raw  []byte
		code overlay.Code
		text string
	}{
		{"wrong signature", flip(good, len(good)-1), overlay.CodeInvalid, "signature"},
		{"altered body", flip(good, len(good)-80), overlay.CodeInvalid, "signature"},
		{"wrong device key", func() []byte {
			d := *c.testDevice
			d.key = identity.NewDeviceKey()
			return d.message(c.id())
		}(), overlay.CodeInvalid, "signature"},
		{"of another network", func() []byte {
			d := *c.testDevice
			r := *rig
			r.testNetwork, d.rig = other, &r
			return d.message(c.id())
		}(), overlay.CodeInvalid, ""},
		{"small-order author", func() []byte {
			raw := bytes.Clone(good)
			at := bytes.Index(raw, []byte(c.id()))
			copy(raw[at+6:], make([]byte, 32))
			return raw
		}(), overlay.CodeInvalid, "small order"},
		{"certificate of another account", resign(func(d *overlay.Draft) { d.Signer = rig.device(nil).cert }), overlay.CodeInvalid, "certificate"},
		{"certificate does not cover it", resign(func(d *overlay.Draft) {
			d.Created -= 5 * day
			d.Expires = d.Created + 29*day
		}), overlay.CodeInvalid, "certificate"},
		{"certificate out of date", func() []byte {
			d := *c.testDevice
			d.certify(rig.id, 2, time.Now().Add(-72*time.Hour), time.Now().Add(-time.Hour))
			return d.sign(overlay.KindMessage, to, []byte("x"), func(dr *overlay.Draft) {
				dr.Created -= day
				dr.Expires += day
			})
		}(), overlay.CodeInvalid, "out of date"},
		{"expired", resign(func(d *overlay.Draft) { d.Created, d.Expires = d.Created-2000, d.Created-1000 }), overlay.CodeClockWrong, "expired"},
		{"from the future", resign(func(d *overlay.Draft) { d.Created += 60_000; d.Expires += 60_000 }), overlay.CodeClockWrong, "future"},
		{"too large", c.sign(overlay.KindMessage, to, make([]byte, 80<<10), nil), overlay.CodeTooLarge, "bodies of at most"},
		{"a revocation", other.revocation("", 0, 0).Raw, overlay.CodeInvalid, ""},
		{"a pillar record", rig.pillar.Record().Raw, overlay.CodeInvalid, "not submitted"},
		{"no record", []byte{0x92, 0xc4, 1, 0, 0xc4, 0}, overlay.CodeInvalid, "malformed"},
		{"removed device", removed.message(c.id()), overlay.CodeRemovedDevice, "removed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before, after := c.message(c.id()), c.message(c.id())
			n := c.submit(1, before, tt.raw, after)
			lines := c.results(3)
			if lines[n].Err != nil || lines[n+2].Err != nil {
				t.Fatalf("neighbours: %v, %v", lines[n].Err, lines[n+2].Err)
			}
			err := lines[n+1].Err
			if err == nil || err.Code != tt.code || !strings.Contains(err.Text, tt.text) {
				t.Fatalf("refused with %v, want %s …%s…", err, tt.code, tt.text)
			}
		})
	}
	t.Run("life too long", func(t *testing.T) {
		raw := longLived(t, c.testDevice)
		if err := c.one(raw).Err; err == nil || err.Code != overlay.CodeTooLongLived {
			t.Fatal(err)
		}
	})
	t.Run("unknown kind and format", func(t *testing.T) {
		raw := c.sign(77, to, []byte("from a later version"), nil)
		if l := c.one(raw); l.Err != nil {
			t.Fatal(l.Err)
		}
		raw = newerFormat(t, c.testDevice)
		if l := c.one(raw); l.Err != nil {
			t.Fatal(l.Err)
		}
	})
	if !errors.Is(rig.pillar.Status().Failed, nil) {
		t.Fatal("the pillar failed")
	}
}
