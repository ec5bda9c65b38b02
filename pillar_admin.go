package obelisk

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"github.com/obelisk-network/obelisk/admin"
	"github.com/obelisk-network/obelisk/overlay"
)

// listenAdmin opens the admin port, which says until startAdmin that the pillar
// is alive and not ready.
func (p *Pillar) listenAdmin() error {
	if p.cfg.Admin == "" {
		return nil
	}
	token, err := admin.LoadOrCreateToken(p.dir.file(fileToken))
	if err != nil {
		return err
	}
	actions, err := admin.OpenActionLog(p.dir.file(fileActions))
	if err != nil {
		return err
	}
	p.life.onStop("audit log", actions.Close)
	ln, err := admin.Listen(p.cfg.Admin)
	if err != nil {
		return err
	}
	p.admin = admin.ListenAddr(ln)
	host, _, _ := net.SplitHostPort(p.cfg.Admin)
	if p.cfg.AdminTLSCert != "" {
		cert, err := tls.LoadX509KeyPair(p.cfg.AdminTLSCert, p.cfg.AdminTLSKey)
		if err != nil {
			ln.Close()
			return fmt.Errorf("admin certificate: %w", err)
		}
		ln = tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
		p.admin = "https://" + p.admin
	}
	p.access = admin.Config{Token: token, Hosts: []string{host}, Actions: actions, Logger: p.log.With("component", "admin")}
	p.opening = admin.NewOpening(p.access)
	p.life.run("admin port", func(ctx context.Context) error { return admin.Serve(ctx, ln, p.opening, p.log) })
	return nil
}

// startAdmin has the admin port show and steer the pillar, until it stops.
func (p *Pillar) startAdmin() {
	if p.opening == nil {
		return
	}
	p.access.Watch = admin.NewWatch(p, p.cfg.Registry)
	p.life.run("watch", p.access.Watch.Run)
	p.opening.Open(admin.NewPillarHandler(p, p.cfg.Registry, p.access))
	p.life.onStop("admin", func() error {
		p.opening.Shut()
		return nil
	})
}

// Checks is what /healthz and /readyz answer.
func (p *Pillar) Checks() (health, ready []admin.Check) {
	s := p.core.Status()
	broken := s.Failed
	if broken == nil {
		broken = s.Damaged
	}
	health = []admin.Check{{Name: "store", OK: broken == nil, Detail: textOf(broken)}}
	skewOK := s.ClockSkew.Abs() <= 30*time.Second
	standing := s.Standing == overlay.StandingAdmitted
	alone := p.core.Roster().Living(uint64(time.Now().UnixMilli())) > 1 && !p.hasAny()
	reachable := p.home == nil || len(p.cfg.Announce) > 0 || len(p.home.relays()) > 0
	clock := s.ClockText
	if clock == "" {
		clock = when(!skewOK, fmt.Sprintf("%s off its peers", s.ClockSkew))
	}
	ready = append(append([]admin.Check(nil), health...),
		admin.Check{Name: "space", OK: !s.Full, Detail: when(s.Full, "the disk or the store's limit is reached")},
		admin.Check{Name: "accepting", OK: !s.Draining, Detail: when(s.Draining, "draining")},
		admin.Check{Name: "clock", OK: skewOK, Detail: clock},
		admin.Check{Name: "admitted", OK: standing, Detail: when(!standing, string(s.Standing))},
		admin.Check{Name: "peers", OK: !alone, Detail: when(alone, "other pillars are known and none is connected")},
		admin.Check{Name: "reachable", OK: alone || reachable, Detail: when(!reachable && !alone, "a home pillar, and no public pillar relays for it")},
		admin.Check{Name: "caught_up", OK: alone || !s.CatchingUp, Detail: when(s.CatchingUp && !alone, "what the other pillars had at the start is still coming")},
	)
	return health, ready
}

func textOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func when(is bool, text string) string {
	if is {
		return text
	}
	return ""
}

func (p *Pillar) hasAny() bool {
	for _, o := range p.mesh.Pillars() {
		if present(&o) {
			return true
		}
	}
	return false
}
