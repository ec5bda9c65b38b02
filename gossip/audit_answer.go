package gossip

import (
	"context"
	"time"

	"github.com/obelisk-network/obelisk/gossip/sketch"
	"github.com/obelisk-network/obelisk/overlay"
)

// maxRoundCells bounds the cells that one round gets here.
const maxRoundCells = 1 << 22

// host answers the questions of one session's rounds. Only its goroutine uses
// it.
type host struct {
	m *Mesh
	s *session
	hosted
	noted *overlay.Round // what was noted of the round
	last  uint64         // the newest round's number, also when it was dropped
}

// hosted is the other side's round.
type hosted struct {
	round          overlay.Round
	n              uint64
	key            overlay.ShortKey
	under          overlay.ShortKey // in place of key, what records are named under in a deep round
	settled, front uint64
	apart          bool // the sets differed
	tally          overlay.Tally
	sketch         *sketch.Sketch // nil until cells are needed, or if too many others are kept
	cells          int            // given so far
	deep           *deepSet       // nil until the round is deep
	young, lost    int
}

// drop forgets the round.
func (h *host) drop() {
	if h.sketch != nil {
		<-h.m.audit.hosted
	}
	if h.deep != nil {
		<-h.m.audit.joined
	}
	h.hosted, h.noted = hosted{}, nil
}

// answer returns what to say to a question, nil for nothing.
func (h *host) answer(ctx context.Context, q heard) overlay.Message {
	start := time.Now()
	var reply overlay.Message
	if root, ok := q.msg.(*overlay.Root); ok {
		reply = h.answerRoot(root)
	} else if n, _ := roundOf(q.msg); h.noted == nil || n != h.n {
		if n != h.last { // else it was forgotten, because it went on too slowly
			h.m.scores.offend(h.s.peer, faultRound)
		}
		return nil
	} else if !h.m.confirmed() {
		reply = h.notNow(n)
	} else {
		switch msg := q.msg.(type) {
		case *overlay.Cells:
			reply = h.answerCells(msg)
		case *overlay.Buckets:
			reply = h.answerBuckets(msg)
		case *overlay.IDs:
			reply = h.answerIDs(ctx, msg)
		case *overlay.Stubs:
			reply = h.answerStubs(msg)
		}
	}
	if reply == nil {
		return nil
	}
	r := &h.round
	r.BytesReceived += uint64(q.size)
	r.BytesSent += uint64(overlay.FrameLen(reply))
	for _, m := range []overlay.Message{q.msg, reply} {
		if ids, ok := m.(*overlay.IDs); ok {
			n := recordBytes(ids.Records)
			r.RecordBytes += n
			if m == reply {
				r.BytesSent -= n
			} else {
				r.BytesReceived -= n
			}
		}
	}
	r.RoundTrips++
	r.Took += time.Since(start)
	h.m.audit.note(h.s.peer, r, h.noted)
	before := *r
	h.noted = &before
	return reply
}

// allow takes a round off what the pillar may begin.
func (a *audit) allow(h *host) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.track(h.s.peer).rounds.Take(time.Now(), roundsBurst, roundsRate) == 0
}

func (h *host) answerRoot(msg *overlay.Root) overlay.Message {
	h.drop()
	h.last = msg.N
	if !h.m.audit.allow(h) {
		h.m.scores.offend(h.s.peer, faultRounds)
		return nil
	}
	h.round = overlay.Round{Pillar: h.s.id, At: h.m.cfg.Now(), Result: overlay.RoundUnsettled}
	if !h.m.confirmed() {
		h.n = msg.N
		return h.notNow(msg.N)
	}
	st := h.m.holdings.state()
	h.hosted = hosted{round: h.round, n: msg.N, key: st.key, under: st.key, settled: min(st.settled, msg.Settled), front: max(st.front, msg.Front)}
	reply := &overlay.Root{N: msg.N, Answer: true, Settled: h.settled, Front: h.front, Key: keyName(st.key)}
	if msg.Key != reply.Key {
		h.round.Result = overlay.RoundOtherKey
		return reply
	}
	var ok bool
	if h.tally, ok = h.m.holdings.at(h.key, h.settled, h.front); !ok {
		return reply
	}
	reply.Tally = h.tally
	same := h.settled == msg.Settled && h.front == msg.Front
	switch {
	case h.tally == msg.Tally:
		h.round.Result = overlay.RoundEqual
	case same:
		h.round.Result, h.apart = overlay.RoundDiffers, true
		want := sketch.CellsFor(countsApart(h.tally.Count, msg.Tally.Count))
		run := overlay.CellRun{Count: uint64(max(firstCells, want))}
		if h.fill(&run) {
			return &overlay.Cells{N: h.n, Answer: true, Runs: []overlay.CellRun{run}}
		}
	}
	h.answerSpot(msg.Spot, reply, same)
	return reply
}

// notNow ends a round because this side's clock is in doubt: what it takes for
// settled or expired may not be.
func (h *host) notNow(n uint64) overlay.Message {
	h.round.Result = overlay.RoundNotNow
	return &overlay.Root{N: n, Answer: true}
}

// answerSpot reads the sample of a Root and, if it was taken of the same set,
// compares.
func (h *host) answerSpot(spot *overlay.Spot, reply *overlay.Root, same bool) {
	if spot == nil || h.m.holdings.onDay(spot.Day)>>spot.Bits > 4*spotRecords {
		return
	}
	mine := *spot
	var err error
	if mine.Digest, err = h.m.readSpot(&mine, h.key, h.settled, h.front); err != nil {
		h.m.log.Warn("answer a spot check", "err", err)
		return
	}
	reply.Spot = &mine
	if same && h.round.Result == overlay.RoundEqual && mine.Digest != spot.Digest {
		if _, err := h.m.checkMemory(&mine); err != nil {
			h.m.log.Warn("check the ledger", "err", err)
		}
	}
}

// fill puts the cells asked for in a run; false if there are none to give.
func (h *host) fill(run *overlay.CellRun) bool {
	from, want := int(run.From), int(min(run.Count, overlay.MaxAuditCells))
	var cells []sketch.Cell
	if h.deep != nil {
		part := h.deep.parts[run.Part]
		if len(part) == 0 && !h.deep.differs[run.Part] {
			return false
		}
		cells = h.deep.sketch(run.Part, from+want).Cells(from, from+want)
		run.Count = uint64(len(part))
	} else {
		if run.Part != 0 || !h.keep() {
			return false
		}
		cells = h.sketch.Cells(from, from+want)
		run.Count = h.tally.Count
	}
	if len(cells) == 0 {
		return false
	}
	h.cells += len(cells)
	h.m.met.cells.WithLabelValues("sent").Add(float64(len(cells)))
	run.Cells = sketch.AppendCells(nil, cells, from, uint32(run.Count))
	return true
}

// keep has the sketch of the round's set at hand.
func (h *host) keep() bool {
	if h.sketch != nil {
		return true
	}
	select {
	case h.m.audit.hosted <- struct{}{}:
	default:
		return false // the other side comes again
	}
	tally, s, ok := h.m.holdings.sketchAt(h.key, h.settled, h.front)
	if !ok {
		<-h.m.audit.hosted
		return false
	}
	h.tally, h.sketch = tally, s
	return true
}

func (h *host) answerCells(msg *overlay.Cells) overlay.Message {
	reply := &overlay.Cells{N: h.n, Answer: true}
	if h.cells >= maxRoundCells {
		h.m.scores.offend(h.s.peer, faultCells)
		return nil
	}
	if h.round.Result == overlay.RoundUnsettled {
		h.round.Result = overlay.RoundDiffers
	}
	size := 0
	for _, run := range msg.Runs {
		if size >= overlay.FrameTarget || run.Count > overlay.MaxAuditCells || run.From+run.Count > overlay.MaxAuditCells || !h.fill(&run) {
			break
		}
		size += len(run.Cells)
		reply.Runs = append(reply.Runs, run)
	}
	return reply
}

// answerIDs takes the records given, then looks up those asked for.
func (h *host) answerIDs(ctx context.Context, msg *overlay.IDs) overlay.Message {
	r := &h.round
	reply := &overlay.IDs{N: h.n, Answer: true, Next: uint64(len(msg.Shorts))}
	patience, cancel := context.WithTimeout(ctx, askTimeout) // the other side waits no longer
	given, err := h.m.take(patience, h.s, msg.Records)
	cancel()
	if err != nil { // full, say: that does not keep the other side from what it asks for
		h.m.log.Debug("records of an audit are not taken", "pillar", h.s.id, "err", err)
		h.lost += len(msg.Records)
	}
	r.Fetched += given
	r.Differences += len(msg.Records)
	if len(msg.Parts) > 0 {
		if reply.Items = h.listParts(msg.Parts); reply.Items == nil {
			h.m.scores.offend(h.s.peer, faultRound)
			return nil
		}
	}
	if err := h.give(msg.Shorts, reply); err != nil {
		h.m.log.Warn("look up records for an audit", "err", err)
		return nil
	}
	r.Differences += int(reply.Next)
	r.Sent += len(reply.Records)
	switch {
	case h.young > 0:
		r.Result = overlay.RoundWaits
	case h.lost > 0:
		r.Result = overlay.RoundDiffers
	default:
		r.Result = overlay.RoundRepaired
	}
	return reply
}

// give answers with the records of the short IDs, or as many as fit.
func (h *host) give(shorts []uint64, reply *overlay.IDs) error {
	names := naming{network: h.m.hashing(h.under)}
	if h.deep != nil {
		names.deep = &h.deep.key
	}
	found := map[uint64][]place{}
	for _, p := range h.locate(shorts) {
		name := names.item(p.short, p.prefix)
		found[name] = append(found[name], p)
	}
	size := uint64(0)
	for i, s := range shorts {
		if size >= overlay.FrameTarget || len(reply.Records) >= overlay.MaxIDs {
			reply.Next = uint64(i)
			return nil
		}
		places := found[s]
		got, err := h.m.load(h.under, &places)
		if err != nil {
			return err
		}
		h.young += got.young
		h.lost += len(got.lost)
		if len(got.records) == 0 {
			reply.Shorts = append(reply.Shorts, s)
			continue
		}
		reply.Records = append(reply.Records, got.records...)
		size += got.bytes
	}
	return nil
}

// locate finds the places of records named in the round.
func (h *host) locate(shorts []uint64) []place {
	if h.deep == nil {
		return h.m.holdings.find(h.key, shorts)
	}
	return h.deep.find(shorts)
}
