package overlay

import (
	"context"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
)

// How a device is found by others.
const (
	// admitFor is how long who was told where the device is may connect to it.
	admitFor = 10 * time.Minute
	// askedQueue is how many questions wait to be judged; more are dropped.
	askedQueue = 64
	// judgeBurst and judgeRate bound how many questions of one session are
	// verified: what a pillar that floods costs this device.
	judgeBurst, judgeRate = 100, 50
	// answerBurst and answerRate bound the answers that one account gets.
	answerBurst, answerRate = 20, 0.5
	// presenceKept bounds the askers, and the asking accounts, that are
	// remembered.
	presenceKept = 4096
)

// nodePresence decides who learns where this device is. The question comes by
// the pillars, which know where the device is but tell nobody; this device
// verifies who asks, holds it against the node's rule, lets the asker connect,
// and answers, signed for that asker. Who is refused hears nothing, as if the
// device were not there.
type nodePresence struct {
	n     *Node
	queue chan heard

	// run's; bounded by presenceKept:
	told     map[identity.DeviceID]telling
	accounts map[identity.AccountID]*Tokens
}

// heard is a question that came on a session.
type heard struct {
	session  *nodeSession
	question *Locate
}

// telling is what a device was told.
type telling struct {
	asked    uint64    // time of the newest question that was answered
	admitted time.Time // until when it may connect
}

func newNodePresence(n *Node) *nodePresence {
	return &nodePresence{n: n, queue: make(chan heard, askedQueue),
		told: map[identity.DeviceID]telling{}, accounts: map[identity.AccountID]*Tokens{}}
}

// hear takes a question. It does not wait.
func (p *nodePresence) hear(s *nodeSession, m *Locate) {
	select {
	case p.queue <- heard{s, m}:
	default:
		p.count("busy")
	}
}

func (p *nodePresence) count(answer string) { p.n.metrics.asked.WithLabelValues(answer).Inc() }

// run judges questions until ctx ends.
func (p *nodePresence) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case h := <-p.queue:
			p.count(p.judge(h.session, h.question))
		}
	}
}

// judge answers a question, or not, and returns what it did.
func (p *nodePresence) judge(s *nodeSession, q *Locate) string {
	n, now := p.n, time.Now()
	if n.cfg.Traversal == nil || n.cfg.Direct == "off" || n.cfg.Presence == "nobody" {
		return "off"
	}
	if q.Target != n.account() {
		return "invalid"
	}
	if s.judged.Take(now, judgeBurst, judgeRate) > 0 {
		return "busy"
	}
	cert, err := q.Verify(n.verify(), n.now())
	if err != nil || cert.Device == n.device() {
		return "invalid"
	}
	if t, ok := p.told[cert.Device]; ok && q.Time <= t.asked {
		return "again" // by way of the other pillar, or played back
	}
	if !p.may(q.Asker, cert) {
		return "refused"
	}
	if !p.pay(q.Asker, now) || !p.note(cert.Device, q.Time, now) {
		return "busy"
	}
	answer := &Presence{Device: n.device(), Asker: cert.Device, Pillars: n.sessions.reachedAt(), Time: n.now()}
	if len(answer.Pillars) == 0 {
		return "nowhere" // the session the question came by is over, or all are at home pillars
	}
	answer.Sign(n.network(), n.cfg.Device)
	n.cfg.Traversal.Admit(peer.ID(cert.Device), now.Add(admitFor))
	select {
	case s.out <- &Located{N: q.N, Presences: []Presence{*answer}}:
		return "answered"
	default: // the pillar does not read
		return "busy"
	}
}

// may reports whether the account's device may find this one: whom the node's
// rule lets deliver here, by a device that the account has not removed.
func (p *nodePresence) may(a identity.AccountID, cert *identity.Certificate) bool {
	if !p.n.direct.welcomes(a) {
		return false
	}
	acc, err := p.n.dir.account(a)
	return err == nil && (acc.info == nil || !acc.info.IsRemoved(cert.Device, cert.Serial))
}

// pay uses one of the answers that an account can get.
func (p *nodePresence) pay(a identity.AccountID, now time.Time) bool {
	t := p.accounts[a]
	if t == nil {
		if len(p.accounts) >= presenceKept {
			for b, o := range p.accounts {
				if o.idle(now, answerRate) {
					delete(p.accounts, b)
				}
			}
		}
		if len(p.accounts) >= presenceKept {
			return false
		}
		t = new(Tokens)
		p.accounts[a] = t
	}
	return t.Take(now, answerBurst, answerRate) == 0
}

// note remembers that a question was answered, and so that its device may
// connect; false if too many may already.
func (p *nodePresence) note(d identity.DeviceID, asked uint64, now time.Time) bool {
	if _, again := p.told[d]; !again && len(p.told) >= presenceKept {
		for e, t := range p.told {
			if !now.Before(t.admitted) {
				delete(p.told, e)
			}
		}
		if len(p.told) >= presenceKept {
			return false
		}
	}
	p.told[d] = telling{asked, now.Add(admitFor)}
	return true
}
