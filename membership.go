package obelisk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// admissionLife is how long a pillar that holds the network key admits itself
// for; it leaves a day for clocks that are behind. The pillar renews well
// before.
const admissionLife = identity.MaxAdmissionLife - 24*time.Hour

// selfSerial is the serial of what a pillar with the network key signs for
// itself. It does not rise: a revocation, whose serial is a time, ends it for
// good, and only an admission that somebody made afterwards undoes that.
const selfSerial = 1

// membership is by what right a pillar belongs to a network: it holds the
// network key, or an admission by it.
type membership struct {
	pillar  identity.PillarID
	network identity.NetworkID // zero: to be learned from a pillar of the invitations
	key     *identity.NetworkKey
	file    string // the admission's; if key is nil
	started identity.Admission
}

// findMembership applies the rules of --network-key and --admission. The error
// is ErrNotAdmitted if there is neither.
func (d *dataDir) findMembership(cfg *PillarConfig, pillar identity.PillarID, invitations []overlay.Invitation) (*membership, error) {
	m := &membership{pillar: pillar, file: cfg.Admission}
	var err error
	if m.network, err = d.network(); err != nil {
		return nil, err
	}
	for _, inv := range invitations {
		switch {
		case inv.Network.IsZero() || inv.Network == m.network:
		case m.network.IsZero():
			m.network = inv.Network
		default:
			return nil, overlay.Refuse(overlay.CodeWrongNetwork,
				"the join link leads into network %s, this pillar belongs to %s: use another data directory", inv.Network, m.network)
		}
	}
	if m.file == "" {
		m.file = d.file(fileAdmission)
	}
	if err := m.findKey(cfg, d, len(invitations) > 0); err != nil {
		return nil, err
	}
	if m.key != nil {
		if !m.network.IsZero() && m.network != m.key.ID() {
			return nil, overlay.Refuse(overlay.CodeWrongNetwork,
				"the network key is of network %s, this pillar belongs to %s", m.key.ID(), m.network)
		}
		m.network = m.key.ID()
		return m, nil
	}
	m.started, err = m.read()
	if err != nil {
		return nil, err
	}
	if m.network.IsZero() && len(invitations) == 0 {
		return nil, fmt.Errorf("%w: an admission does not say where the network is: name a pillar of it once with --join", ErrConfig)
	}
	return m, nil
}

// findKey loads the network key, or makes it where that founds a network.
func (m *membership) findKey(cfg *PillarConfig, d *dataDir, invited bool) error {
	path := cfg.NetworkKey
	if path == "" {
		path = d.file(fileNetKey)
	}
	key, err := identity.LoadNetworkKey(path)
	if err == nil {
		m.key = key
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_, ferr := os.Stat(m.file)
	joins := invited || cfg.Admission != "" || ferr == nil || !m.network.IsZero()
	switch {
	case joins && cfg.NetworkKey != "":
		return fmt.Errorf("%w (with --join or --admission no network key is made)", err)
	case joins:
		return nil
	}
	m.key, _, err = identity.LoadOrCreateNetworkKey(path)
	return err
}

// read reads the admission file.
func (m *membership) read() (identity.Admission, error) {
	a, err := identity.ReadAdmission(m.file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return a, m.missing("there is no network key here and no admission")
	case err != nil:
		return a, m.missing("%v", err)
	case a.Pillar != m.pillar:
		return a, m.missing("the admission in %s is for pillar %s", m.file, a.Pillar)
	}
	return a, nil
}

func (m *membership) missing(format string, args ...any) error {
	return &NotAdmittedError{Pillar: m.pillar, File: m.file, Reason: fmt.Sprintf(format, args...)}
}

// admit returns an admission in force at now (Unix ms): what the file holds now,
// so that a renewed one counts without a restart, or, with the network key and
// no such file, one signed here.
func (m *membership) admit(now uint64) (identity.Admission, error) {
	a, err := m.read()
	if m.key != nil && (err != nil || a.Valid(m.network, now) != nil) {
		return m.key.Admit(m.pillar, selfSerial, now+uint64(admissionLife.Milliseconds())), nil
	}
	if err != nil {
		return a, err
	}
	if err := a.Valid(m.network, now); err != nil {
		return a, m.missing("%v", err)
	}
	return a, nil
}

// learnPause is how long learnNetwork waits between two rounds.
const learnPause = time.Second

// learnNetwork asks the pillars of bare addresses for their network until one
// answers or ctx ends, and returns what it tells of its addresses beside it. What
// one of them says is believed because the operator named exactly that pillar,
// and its admission is checked.
//
// Nothing stays connected: of all addresses, which are known only now, the best
// is to be dialled, and not the one that the operator happened to name. Whom a
// home pillar sees over TCP alone it cannot tell where its UDP port is reached.
func learnNetwork(ctx context.Context, links overlay.Links, self identity.PillarID, invitations []overlay.Invitation) (identity.NetworkID, []overlay.PillarAddr, error) {
	for {
		var err error
		for _, inv := range invitations {
			for _, p := range inv.Pillars {
				if p.Pillar == self {
					continue
				}
				var info *overlay.PillarInfo
				var n identity.NetworkID
				if n, info, err = askNetwork(ctx, links, p); err != nil {
					continue
				}
				_ = links.Close(peer.ID(p.Pillar)) // another is made
				var addrs []overlay.PillarAddr
				for _, a := range info.Addrs {
					if !overlay.IsCircuit(a) {
						addrs = append(addrs, overlay.PillarAddr{Pillar: p.Pillar, Addr: a})
					}
				}
				return n, addrs, nil
			}
		}
		if err == nil {
			err = fmt.Errorf("%w: --join names no other pillar", ErrConfig)
			return identity.NetworkID{}, nil, err
		}
		select {
		case <-ctx.Done():
			return identity.NetworkID{}, nil, fmt.Errorf("which network this is could not be asked: %w", err)
		case <-time.After(learnPause):
		}
	}
}

// askNetwork reads the Hello that a pillar sends first on every session.
func askNetwork(ctx context.Context, links overlay.Links, p overlay.PillarAddr) (identity.NetworkID, *overlay.PillarInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	id := peer.ID(p.Pillar)
	if err := links.Connect(ctx, id, []multiaddr.Multiaddr{p.Addr}); err != nil {
		return identity.NetworkID{}, nil, err
	}
	s, err := links.Open(ctx, id, overlay.ProtoNode)
	if err != nil {
		return identity.NetworkID{}, nil, err
	}
	defer s.Reset()
	deadline, _ := ctx.Deadline()
	_ = errors.Join(s.SetReadDeadline(deadline), s.SetWriteDeadline(deadline)) // a dead stream fails below
	now := uint64(time.Now().UnixMilli())
	own := &overlay.Hello{Role: overlay.RoleNode, Formats: overlay.Format, Time: now}
	if _, err := s.Write(overlay.AppendFrame(nil, own)); err != nil {
		return identity.NetworkID{}, nil, err
	}
	m, err := overlay.NewFrameReader(s).Next()
	if err != nil {
		return identity.NetworkID{}, nil, fmt.Errorf("ask %s: %w", p, err)
	}
	h, ok := m.(*overlay.Hello)
	if !ok {
		return identity.NetworkID{}, nil, overlay.Refuse(overlay.CodeInvalid, "%s does not say Hello", p)
	}
	_, info, err := overlay.CheckPillarHello(h, p.Pillar, identity.NetworkID{}, now)
	if err != nil {
		return identity.NetworkID{}, nil, err
	}
	return h.Network, info, nil
}
