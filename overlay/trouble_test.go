package overlay_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

const (
	atQUIC = "/ip4/203.0.113.7/udp/4001/quic-v1"
	atTCP  = "/ip4/203.0.113.7/tcp/4001"
	atWS   = "/ip4/203.0.113.7/tcp/443/ws"
	atName = "/dns4/pillar.example/tcp/4001"
)

func attempts(pairs ...string) error {
	e := &overlay.DialError{}
	for i := 0; i < len(pairs); i += 2 {
		e.Attempts = append(e.Attempts, overlay.DialAttempt{Addr: multiaddr.StringCast(pairs[i]), Fault: overlay.Fault(pairs[i+1]), Detail: "dial: went wrong"})
	}
	return fmt.Errorf("connect: %w", e)
}

func TestTroubleWords(t *testing.T) {
	relay := "/ip4/203.0.113.8/tcp/4001/p2p/" + identity.NewPillarKey().ID().String() + "/p2p-circuit"
	refused := func(code overlay.Code, text string) error {
		return fmt.Errorf("session: %w", overlay.Refuse(code, "%s", text))
	}
	for _, tt := range []struct {
		err  error
		code overlay.Code
		want string
	}{
		{attempts(atTCP, "refused"), overlay.CodeUnreachable, "connection refused over TCP"},
		{attempts(atTCP, "refused", atQUIC, "timeout"), overlay.CodeUnreachable, "connection refused over TCP, timed out over UDP"},
		{attempts(atWS, "timeout", atTCP, "timeout", atQUIC, "timeout"), overlay.CodeUnreachable, "timed out over UDP, TCP and WebSocket"},
		{attempts(atTCP, "wrong_peer", atQUIC, "timeout"), overlay.CodeWrongPeer, "somebody else answers there over TCP, timed out over UDP"},
		{attempts(atTCP, "turned_away"), overlay.CodeUnreachable,
			"it is there and turns this machine away over TCP: it has too many connections, or too many from this address"},
		{attempts(atQUIC, "no_route", atTCP, "no_route"), overlay.CodeUnreachable, "this machine has no way there over UDP and TCP"},
		{attempts(atName, "no_name"), overlay.CodeUnreachable, "the name is not known"},
		{attempts(relay, "no_relay"), overlay.CodeUnreachable, "the pillar in between does not reach it"},
		{attempts(relay, "timeout", atTCP, "refused"), overlay.CodeUnreachable, "connection refused over TCP, timed out through a relay"},
		{attempts(atTCP, "failed"), overlay.CodeUnreachable, "fails over TCP: dial: went wrong"},
		{&overlay.DialError{Cause: overlay.ErrNoAddress}, overlay.CodeUnreachable, "no address of it is known that may be dialled"},
		{&overlay.DialError{Cause: context.DeadlineExceeded}, overlay.CodeUnreachable, "no connection in time"},
		{refused(overlay.CodeRegistrationClosed, "x"), overlay.CodeRegistrationClosed, "registration is closed there, and this account is not allowed in"},
		{refused(overlay.CodeWrongNetwork, "x"), overlay.CodeWrongNetwork, "it belongs to another network"},
		{refused(overlay.CodeNotAdmitted, "pillar 12D3: its admission is revoked"), overlay.CodeNotAdmitted, "not admitted: its admission is revoked"},
		{refused("new\x1bcode", "a\r\ntext\x1b[2J"), `new\x1bcode`, `refused (new\x1bcode): a\x0d\x0atext\x1b[2J`},
		{overlay.DoubtClock(refused(overlay.CodeNotAdmitted, "expired"), 90*time.Minute), overlay.CodeClockWrong,
			"the clocks differ: this machine's is 1h30m0s behind that pillar's, and an admission is in force by one only"},
		{overlay.DoubtClock(refused(overlay.CodeNotAdmitted, "expired"), time.Second), overlay.CodeNotAdmitted, "not admitted: expired"},
		{overlay.DoubtClock(refused(overlay.CodeWrongNetwork, "x"), time.Hour), overlay.CodeWrongNetwork, "it belongs to another network"},
		{overlay.ErrProtocol, overlay.CodeNotAdmitted, "it is there and does not speak as a pillar does"},
		{fmt.Errorf("read: %w", io.EOF), overlay.CodeUnreachable, "the connection broke off"},
	} {
		var trouble overlay.Trouble
		trouble.Failed(tt.err, time.Now())
		if trouble.Error != tt.want || trouble.ErrorCode != tt.code {
			t.Errorf("%v:\n%q, %q, want\n%q, %q", tt.err, trouble.Error, trouble.ErrorCode, tt.want, tt.code)
		}
	}
}

// TestTroubleSince: it begins with the first failure and is of the newest.
func TestTroubleSince(t *testing.T) {
	first := time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	var trouble overlay.Trouble
	trouble.Failed(attempts(atTCP, "refused"), first)
	trouble.Failed(attempts(atTCP, "timeout", atQUIC, "timeout"), first.Add(time.Minute))
	if !trouble.ErrorSince.Equal(first) || !trouble.ErrorAt.Equal(first.Add(time.Minute)) || trouble.ErrorAt.Location() != time.UTC {
		t.Errorf("since %v, at %v", trouble.ErrorSince, trouble.ErrorAt)
	}
	want := []overlay.AddrTrouble{{Addr: atQUIC, Transport: "quic", Fault: "timeout", Error: "timed out"}, {Addr: atTCP, Transport: "tcp", Fault: "timeout", Error: "timed out"}}
	if len(trouble.Attempts) != 2 || trouble.Attempts[0] != want[0] || trouble.Attempts[1] != want[1] {
		t.Errorf("%+v", trouble.Attempts)
	}
	trouble.Failed(overlay.ErrProtocol, first.Add(time.Hour))
	if len(trouble.Attempts) != 0 || !trouble.ErrorSince.Equal(first) {
		t.Errorf("%+v", trouble)
	}
}

// TestTroubleBounded: however much there is, and whatever it is, little is shown.
func TestTroubleBounded(t *testing.T) {
	long := strings.Repeat("\x1b]0;\u202e\xff", 10_000)
	e := &overlay.DialError{}
	for range 1000 {
		e.Attempts = append(e.Attempts, overlay.DialAttempt{Addr: multiaddr.StringCast(atTCP), Fault: overlay.FaultFailed, Detail: long})
	}
	for _, err := range []error{e, &overlay.DialError{Cause: errors.New(long)}, overlay.Refuse(overlay.Code(long), "%s", long),
		overlay.Refuse(overlay.CodeNotAdmitted, "%s", long), fmt.Errorf("%w: %s", overlay.ErrFrame, long)} {
		var trouble overlay.Trouble
		trouble.Failed(err, time.Now())
		if !safe(trouble.Error, 400) || !safe(string(trouble.ErrorCode), 40) || len(trouble.Attempts) > 16 {
			t.Errorf("%d bytes, %d attempts: %.100q", len(trouble.Error), len(trouble.Attempts), trouble.Error)
		}
		for _, a := range trouble.Attempts {
			if !safe(a.Error, 200) {
				t.Errorf("%d bytes: %.100q", len(a.Error), a.Error)
			}
		}
	}
}

func safe(s string, limit int) bool {
	return s != "" && len(s) <= limit && utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

func FuzzPlain(f *testing.F) {
	f.Add("plain", 100)
	f.Add("a\x1b[2J\u202eb\xff\U000e0001", 12)
	f.Add(strings.Repeat("é", 40), 33)
	f.Fuzz(func(t *testing.T, s string, limit int) {
		limit = 3 + (limit&0x3ff)%200
		got := overlay.Plain(s, limit)
		if s != "" && !safe(got, limit) {
			t.Errorf("%q at most %d: %q", s, limit, got)
		}
		if safe(s, limit) && got != s {
			t.Errorf("%q at most %d: %q, and it was plain", s, limit, got)
		}
	})
}

// TestNodeWhyDead: a node says why the pillar that it was told is not used, since
// when, and when it tries next; and nothing once it works.
func TestNodeWhyDead(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *fakeCluster) {
		addrs := c.addrs()
		began := time.Now()
		nowhere := overlay.PillarAddr{Pillar: addrs[0].Pillar, Addr: multiaddr.StringCast("/ip4/192.0.2.99/tcp/4001")}
		n := newNodeHome(t, c.net).start([]overlay.PillarAddr{nowhere})
		time.Sleep(10 * time.Minute) // virtual
		synctest.Wait()
		p := n.Pillars()[0]
		if p.State != overlay.PillarDead || p.Error != "connection refused over TCP" || p.ErrorCode != overlay.CodeUnreachable {
			t.Fatalf("%s: %q (%s)", p.State, p.Error, p.ErrorCode)
		}
		if len(p.Attempts) != 1 || p.Attempts[0].Addr != nowhere.Addr.String() || p.Attempts[0].Fault != overlay.FaultRefused {
			t.Errorf("%+v", p.Attempts)
		}
		if p.ErrorSince.Sub(began) > time.Second || time.Since(*p.ErrorAt) > 2*time.Minute || p.ErrorAt.Sub(*p.ErrorSince) < 5*time.Minute {
			t.Errorf("since %v, at %v, now it is %v", p.ErrorSince, p.ErrorAt, time.Now())
		}
		if p.Trying || p.NextTry == nil || time.Until(*p.NextTry) < 0 || time.Until(*p.NextTry) > 2*time.Minute {
			t.Fatalf("next try %v, now it is %v", p.NextTry, time.Now())
		}
		time.Sleep(time.Until(*p.NextTry) + time.Second) // and it keeps its word
		if q := n.Pillars()[0]; !q.ErrorAt.After(*p.ErrorAt) {
			t.Errorf("not tried at %v", p.NextTry)
		}

		// The other pillar's address, for this one.
		if err := n.AddPillar(t.Context(), overlay.Invitation{Pillars: []overlay.PillarAddr{{Pillar: addrs[0].Pillar, Addr: addrs[1].Addr}}}); !errors.Is(err, overlay.ErrWrongPeer) {
			t.Errorf("another pillar's address: %v", err)
		}
		if p := n.Pillars()[0]; p.ErrorCode != overlay.CodeWrongPeer || !strings.HasPrefix(p.Error, "somebody else answers there over TCP") {
			t.Errorf("%q (%s)", p.Error, p.ErrorCode)
		}
		if err := n.AddPillar(t.Context(), overlay.Invitation{Pillars: addrs[:1]}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		for _, p := range n.Pillars() {
			if !p.Active && !p.Standby || p.Error != "" || p.ErrorSince != nil || p.NextTry != nil || p.Trying || len(p.Attempts) != 0 {
				t.Errorf("%s: active %t, standby %t, %+v", p.ID, p.Active, p.Standby, p.Trouble)
			}
		}

		// Lost: since then, and for that reason.
		at := time.Now()
		c.pillars[0].host.Kill()
		time.Sleep(time.Minute)
		for _, p := range n.Pillars() {
			if p.ID == addrs[0].Pillar && (p.Error == "" || p.ErrorSince.Before(at) || p.NextTry == nil && !p.Trying) {
				t.Errorf("after the loss: %+v", p.Trouble)
			}
		}
	})
}
