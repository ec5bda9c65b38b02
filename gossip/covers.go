package gossip

import (
	"slices"

	"github.com/obelisk-network/obelisk/internal/canon"
	"github.com/obelisk-network/obelisk/overlay"
)

// maxCovers bounds the covers of one log. Honest pillars need two or three.
const maxCovers = 16

// cover is a head that says of gone entries of a log that they have expired. It may
// be past what is held, so nothing else is proven by it.
type cover struct {
	*lead
	// dies: it is needed for all entries up to where it stands, which were over when
	// it was taken; else only for those in its base.
	dies    bool
	durable bool // the disk has it
}

// needed is the last entry that c may be needed for.
func (c *cover) needed() uint64 {
	if c.dies {
		return max(c.pos.Seq, c.baseSeq())
	}
	return c.baseSeq()
}

// covers are the heads that the gone entries of one log are passed on under.
// Without one a gone run is of no use to anybody else. So each is on the disk
// before what relies on it, or in the same commit, and stays as long as the log or
// until another one says as much.
type covers struct {
	list   []cover
	unsaid bool // changed since it was stored
}

// vouch adds l, which says that everything up to seq has expired, unless another
// one says so.
func (c *covers) vouch(l *lead, seq uint64, durable bool) {
	for i := range c.list {
		if x := &c.list[i]; seq <= x.needed() && (x.durable || !durable) {
			return
		}
	}
	if len(c.list) >= maxCovers {
		c.list = slices.Delete(c.list, 0, 1)
	}
	c.list = append(c.list, cover{l, seq > l.baseSeq(), durable})
	c.unsaid = c.unsaid || !durable
	c.prune()
}

// stored notes that the disk has these.
func (c *covers) stored(written []cover) {
	for _, w := range written {
		for i := range c.list {
			if x := &c.list[i]; x.lead == w.lead {
				x.durable = true
			}
		}
	}
	c.prune()
}

// prune forgets those of which another one, on disk, says all that they are needed
// for.
func (c *covers) prune() {
	for i := 0; i < len(c.list); {
		x := &c.list[i]
		spare := false
		for k := range c.list {
			y := &c.list[k]
			spare = spare || k != i && y.durable && x.baseSeq() <= y.baseSeq() && x.needed() <= y.needed()
		}
		if !spare {
			i++
			continue
		}
		c.list = slices.Delete(c.list, i, i+1)
	}
}

// over is the last entry up to which those on disk say that everything has expired
// by now.
func (c *covers) over(now uint64) (seq uint64) {
	for i := range c.list {
		x := &c.list[i]
		if !x.durable {
			continue
		}
		if seq = max(seq, x.baseSeq()); x.over(x.pos.Seq, now) {
			seq = max(seq, x.pos.Seq)
		}
	}
	return seq
}

// A log's covers are stored as a list of [dies, head].

func (m *Mesh) encodeCovers(list []cover) ([]byte, error) {
	b := canon.AppendArray(nil, len(list))
	for i := range list {
		h := list[i].get(m.signHead)
		if h == nil {
			return nil, errNoHead
		}
		dies := uint64(0)
		if list[i].dies {
			dies = 1
		}
		b = h.Append(canon.AppendUint(canon.AppendArray(b, 2), dies))
	}
	return b, nil
}

func decodeCovers(log overlay.LogID, data []byte) ([]cover, error) {
	r := canon.NewReader(data)
	n := r.ArrayMax(3 * maxCovers)
	list := make([]cover, 0, n)
	for range n {
		r.Array(2)
		dies := r.Uint() == 1
		h := overlay.ReadHead(r)
		list = append(list, cover{headLead(log, &h), dies, true})
	}
	return list, r.End()
}
