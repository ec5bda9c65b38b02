package overlay_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/memnet"
)

// A fakeCluster is a network of pillars that share one memory: what one takes
// all have. It believes everything and does what the test tells it to.
type fakeCluster struct {
	*testNetwork
	net *memnet.Network
	log overlay.LogID

	order sync.Mutex // held from taking a record to pushing it

	mu      sync.Mutex
	pillars []*fakePillar
	records []*overlay.Record // in order; position i has sequence i+1
	known   map[overlay.RecordID]int
	copies  func() uint64                                             // of every answer
	judge   func(p *fakePillar, rec *overlay.Record) *overlay.Error   // of every submission
	serve   func(p *fakePillar, rec *overlay.Record, how string) bool // whether to give it to its recipient
	seen    func(p *fakePillar, s *fakeSession, m overlay.Message) (handled bool)
	submits map[overlay.RecordID]int
}

type fakePillar struct {
	c    *fakeCluster
	key  *identity.PillarKey
	host *memnet.Host
	rec  *overlay.Record

	mu       sync.Mutex
	mute     bool // takes everything, says nothing
	clock    time.Duration
	sessions map[*fakeSession]struct{}
}

type fakeSession struct {
	p       *fakePillar
	stream  overlay.Stream
	account identity.AccountID
	write   sync.Mutex

	mu    sync.Mutex
	live  bool
	nudge bool
	drain [2]int
	asked map[identity.AccountID]bool
}

func newFakeCluster(t testing.TB, pillars int, opts ...memnet.Option) *fakeCluster {
	c := &fakeCluster{testNetwork: newTestNetwork(t), net: memnet.New(opts...), known: map[overlay.RecordID]int{}, submits: map[overlay.RecordID]int{}}
	c.log = overlay.LogID{1}
	c.copies = func() uint64 { return uint64(pillars) }
	for range pillars {
		c.add()
	}
	return c
}

func (c *fakeCluster) add() *fakePillar {
	p := &fakePillar{c: c, key: identity.NewPillarKey(), sessions: map[*fakeSession]struct{}{}}
	p.listen()
	p.rec = c.pillarRecord(p.key, millis(time.Now()), func(i *overlay.PillarInfo, _ *overlay.Draft) { i.Addrs = p.host.Addrs() })
	c.mu.Lock()
	c.pillars = append(c.pillars, p)
	c.mu.Unlock()
	c.t.Cleanup(func() { p.kill() })
	return p
}

func (p *fakePillar) listen() {
	addr := ""
	if p.host != nil {
		addr = p.host.Addrs()[0].String()
	}
	p.host = p.c.net.Host(peer.ID(p.key.ID()), addr)
	p.host.Handle(overlay.ProtoNode, p.accept)
}

func (p *fakePillar) kill() { p.host.Shutdown() }

func (p *fakePillar) id() string { return p.key.ID().String() }

func (p *fakePillar) setMute(on bool) {
	p.mu.Lock()
	p.mute = on
	p.mu.Unlock()
}

// of lists the account's sessions.
func (p *fakePillar) of(a identity.AccountID) (list []*fakeSession) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for s := range p.sessions {
		if s.account == a {
			list = append(list, s)
		}
	}
	return list
}

func (p *fakePillar) addr() []overlay.PillarAddr {
	return []overlay.PillarAddr{{Pillar: p.key.ID(), Addr: p.host.Addrs()[0]}}
}

// pillar returns the pillar with that ID in text.
func (c *fakeCluster) pillar(id string) *fakePillar {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.pillars {
		if p.id() == id {
			return p
		}
	}
	c.t.Fatalf("no pillar %q", id)
	return nil
}

func (c *fakeCluster) addrs() (all []overlay.PillarAddr) {
	for _, p := range c.pillars {
		all = append(all, p.addr()...)
	}
	return all
}

func (s *fakeSession) send(m overlay.Message) {
	s.p.mu.Lock()
	mute := s.p.mute
	s.p.mu.Unlock()
	if mute {
		return
	}
	s.write.Lock()
	defer s.write.Unlock()
	_, _ = s.stream.Write(overlay.AppendFrame(nil, m))
}

func (p *fakePillar) accept(stream overlay.Stream) {
	s := &fakeSession{p: p, stream: stream, asked: map[identity.AccountID]bool{}}
	defer stream.Close()
	p.mu.Lock()
	clock := p.clock
	p.mu.Unlock()
	s.send(&overlay.Hello{Role: overlay.RolePillar, Formats: overlay.Format, Network: p.c.id, Time: millis(time.Now().Add(clock)), Credential: p.rec.Raw})
	frames := overlay.NewFrameReader(stream)
	frames.Accept()
	m, err := frames.Next()
	h, ok := m.(*overlay.Hello)
	if err != nil || !ok || h.Network != p.c.id {
		return
	}
	s.account = h.Account
	defer func() {
		p.mu.Lock()
		delete(p.sessions, s)
		p.mu.Unlock()
	}()
	for {
		m, err := frames.Next()
		if err != nil {
			return
		}
		p.c.mu.Lock()
		seen := p.c.seen
		p.c.mu.Unlock()
		if seen != nil && seen(p, s, m) {
			continue
		}
		s.handle(m)
	}
}

func (s *fakeSession) handle(m overlay.Message) {
	c := s.p.c
	switch m := m.(type) {
	case *overlay.Register:
		if len(m.Account) == 0 && len(c.keys(s.account)) == 0 {
			s.send(&overlay.Registered{Err: overlay.Refuse(overlay.CodeNotFound, "unknown")})
			return
		}
		for _, raw := range [][]byte{m.Account, m.Device} {
			if len(raw) > 0 {
				c.take(s.p, raw)
			}
		}
		var roster [][]byte
		c.mu.Lock()
		for _, p := range c.pillars {
			roster = append(roster, p.rec.Raw)
		}
		c.mu.Unlock()
		s.p.mu.Lock()
		s.p.sessions[s] = struct{}{}
		s.p.mu.Unlock()
		s.send(&overlay.Registered{Roster: roster, Run: 1, MaxBody: overlay.DefaultMaxBody})
	case *overlay.Submit:
		r := &overlay.Result{}
		for i, raw := range m.Records {
			r.Lines = append(r.Lines, c.submit(s.p, m.First+uint64(i), raw))
		}
		s.send(r)
	case *overlay.Resume:
		s.resume(m)
	case *overlay.Saved:
		s.saved(m)
	case *overlay.Find:
		s.find(m)
	case *overlay.Check:
		s.check(m)
	case *overlay.Nudge:
		s.mu.Lock()
		s.nudge = true
		s.mu.Unlock()
	}
}

// submit takes a record and answers.
func (c *fakeCluster) submit(p *fakePillar, n uint64, raw []byte) overlay.ResultLine {
	rec, err := overlay.ParseRecord(c.id, raw)
	if err != nil {
		return overlay.ResultLine{N: n, Err: overlay.Refuse(overlay.CodeInvalid, "%v", err)}
	}
	c.mu.Lock()
	judge, copies := c.judge, c.copies
	c.submits[rec.ID]++
	c.mu.Unlock()
	if judge != nil {
		if err := judge(p, rec); err != nil {
			return overlay.ResultLine{N: n, Err: err}
		}
	}
	return overlay.ResultLine{N: n, Dot: overlay.Dot{Log: c.log, Seq: uint64(c.take(p, raw))}, Copies: copies()}
}

// take keeps a record and pushes it.
func (c *fakeCluster) take(p *fakePillar, raw []byte) int {
	rec, err := overlay.ParseRecord(c.id, slices.Clone(raw))
	if err != nil {
		return 0
	}
	c.order.Lock()
	defer c.order.Unlock()
	c.mu.Lock()
	if seq, ok := c.known[rec.ID]; ok {
		c.mu.Unlock()
		return seq
	}
	c.records = append(c.records, rec)
	seq := len(c.records)
	c.known[rec.ID] = seq
	pillars := slices.Clone(c.pillars)
	c.mu.Unlock()
	for _, p := range pillars {
		p.mu.Lock()
		sessions := make([]*fakeSession, 0, len(p.sessions))
		for s := range p.sessions {
			sessions = append(sessions, s)
		}
		p.mu.Unlock()
		for _, s := range sessions {
			s.offer(rec, seq)
		}
	}
	return seq
}

func (c *fakeCluster) gives(p *fakePillar, rec *overlay.Record, how string) bool {
	c.mu.Lock()
	serve := c.serve
	c.mu.Unlock()
	return serve == nil || serve(p, rec, how)
}

func (s *fakeSession) offer(rec *overlay.Record, seq int) {
	s.mu.Lock()
	live, nudge, watched := s.live, s.nudge && !s.live, s.asked[rec.Account()]
	s.mu.Unlock()
	switch {
	case live && rec.IsTo(s.account) && s.p.c.gives(s.p, rec, "push"):
		s.send(&overlay.Push{To: uint64(seq), Records: [][]byte{rec.Raw}})
	case nudge && rec.IsTo(s.account):
		s.send(&overlay.Nudge{})
	case watched && (rec.Kind == overlay.KindAccount || rec.Kind == overlay.KindDevice):
		s.send(&overlay.Push{Records: [][]byte{rec.Raw}})
	}
}

func (s *fakeSession) resume(m *overlay.Resume) {
	s.p.c.order.Lock()
	defer s.p.c.order.Unlock()
	from := 0
	if p, ok := m.Cursor.Find(s.p.c.log); ok {
		from = int(p.Seq)
	}
	s.p.c.mu.Lock()
	end := len(s.p.c.records)
	list := slices.Clone(s.p.c.records[min(from, end):])
	s.p.c.mu.Unlock()
	var raws [][]byte
	for _, rec := range list {
		dir := rec.Kind == overlay.KindAccount || rec.Kind == overlay.KindDevice
		if m.Box == overlay.BoxDirectory && dir || m.Box == overlay.BoxMail && rec.IsTo(s.account) && s.p.c.gives(s.p, rec, "page") {
			raws = append(raws, rec.Raw)
		}
	}
	s.mu.Lock()
	s.drain[m.Box] = end
	if m.Box == overlay.BoxMail {
		s.live = m.Live
	}
	s.mu.Unlock()
	for chunk := range slices.Chunk(raws, 100) {
		s.send(&overlay.Page{Box: m.Box, To: 0, Records: chunk})
	}
	s.send(&overlay.Page{Box: m.Box, To: uint64(end), Last: true})
}

func (s *fakeSession) saved(m *overlay.Saved) {
	s.mu.Lock()
	done := m.To > 0 && int(m.To) >= s.drain[m.Box]
	s.mu.Unlock()
	if done {
		s.send(&overlay.CursorMsg{Box: m.Box, Cursor: overlay.Vector{{Log: s.p.c.log, Seq: m.To}}})
	}
}

// keys lists the account and device records of an account.
func (c *fakeCluster) keys(a identity.AccountID) (raws [][]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rec := range c.records {
		if rec.Account() == a && (rec.Kind == overlay.KindAccount || rec.Kind == overlay.KindDevice) {
			raws = append(raws, rec.Raw)
		}
	}
	return raws
}

func (s *fakeSession) find(m *overlay.Find) {
	f := &overlay.Found{N: m.N}
	s.mu.Lock()
	for _, a := range m.Accounts {
		s.asked[a] = s.asked[a] || m.Watch
	}
	s.mu.Unlock()
	for _, a := range m.Accounts {
		f.Records = append(f.Records, s.p.c.keys(a)...)
	}
	held := make([]bool, len(m.IDs))
	s.p.c.mu.Lock()
	for i, id := range m.IDs {
		seq, ok := s.p.c.known[id]
		if held[i] = ok; ok && !m.OnlyHeld {
			f.Records = append(f.Records, s.p.c.records[seq-1].Raw)
		}
	}
	s.p.c.mu.Unlock()
	if m.OnlyHeld {
		f.Held = overlay.PackBits(held)
	}
	s.send(f)
}

func (s *fakeSession) check(m *overlay.Check) {
	mine := map[overlay.Day]overlay.Tally{}
	ids := map[overlay.Day][]overlay.RecordID{}
	s.p.c.mu.Lock()
	records := slices.Clone(s.p.c.records)
	s.p.c.mu.Unlock()
	for _, rec := range records {
		if rec.IsTo(s.account) && rec.Created < m.Before && rec.Expires >= m.Front && s.p.c.gives(s.p, rec, "check") {
			mine[rec.Day()] = mine[rec.Day()].Add(overlay.Tally{Count: 1, Sum: m.Key.Term(rec.ID)})
			ids[rec.Day()] = append(ids[rec.Day()], rec.ID)
		}
	}
	theirs := map[overlay.Day]overlay.Tally{}
	for _, d := range m.Days {
		theirs[d.Day] = d.Tally
	}
	a := &overlay.Checked{N: m.N}
	for day, t := range mine {
		if theirs[day] != t {
			a.Days = append(a.Days, day)
			a.IDs = append(a.IDs, ids[day]...)
		}
	}
	for day := range theirs {
		if _, ok := mine[day]; !ok {
			a.Days = append(a.Days, day)
		}
	}
	s.send(a)
}
