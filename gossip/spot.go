package gossip

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/overlay"
)

// Rules of spot checks.
const (
	spotRecords   = 256             // read in one, on average at most
	distrustEvery = 5 * time.Minute // least time between recounts because memory and disk differ
)

// Each round both sides read a sample from their disks, hash it anew and
// compare: what the ledger has in memory must be there. Where samples differ and
// the sums did not, each side holds its memory against its disk; if both are
// right, a sample of the same place is compared again in the next round, and if
// that differs too, a deep round finds out.

// doubt returns the place to look at again with p, nil if there is none.
func (a *audit) doubt(p peer.ID) *overlay.Spot {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.track(p)
	s := t.doubt
	t.doubt = nil
	return s
}

// takeSpot chooses a sample, that of doubt if there is one, and reads it. It is
// nil if nothing is held.
func (m *Mesh) takeSpot(st *state, doubt *overlay.Spot) (*overlay.Spot, error) {
	spot := &overlay.Spot{}
	rand.Read(spot.Seed[:])
	if doubt != nil {
		spot.Day, spot.Bits = doubt.Day, doubt.Bits
		seed, old := binary.BigEndian.Uint64(spot.Seed[:]), binary.BigEndian.Uint64(doubt.Seed[:])
		binary.BigEndian.PutUint64(spot.Seed[:], old&^(^uint64(0)>>spot.Bits)|seed&(^uint64(0)>>spot.Bits))
	} else {
		day, n := m.holdings.anyDay()
		if n == 0 {
			return nil, nil
		}
		for spot.Day = day; n>>spot.Bits > spotRecords; spot.Bits += 4 {
		}
	}
	var err error
	spot.Digest, err = m.readSpot(spot, st.key, st.settled, st.front)
	return spot, err
}

// readSpot reads a sample of the records of S from the disk and returns its
// digest: the beginning of the sum of their terms under the sample's own key.
func (m *Mesh) readSpot(spot *overlay.Spot, key overlay.ShortKey, settled, front uint64) (digest [8]byte, err error) {
	fresh := key.SpotKey(spot.Seed)
	var sum overlay.Sum
	err = m.nearBits(spot, func(r *overlay.StoredRecord) {
		if r.Created/stepMillis < settled && r.Expires/stepMillis >= front && m.intact(r) {
			sum = sum.Add(fresh.Term(r.ID))
		}
	})
	b := sum.Bytes()
	return [8]byte(b[8:]), err
}

// intact reports whether a stored record's bytes are what its ID says.
func (m *Mesh) intact(r *overlay.StoredRecord) bool {
	if rec, err := overlay.ParseRecord(m.cfg.Network, r.Raw); err == nil && rec.ID == r.ID {
		return true
	}
	m.met.corrections.WithLabelValues("damaged").Inc()
	m.log.Error("a stored record is damaged", "record", r.ID)
	return false
}

// nearBits calls fn for the stored records of a sample's place. Near takes whole
// bytes, so half a byte makes sixteen calls.
func (m *Mesh) nearBits(spot *overlay.Spot, fn func(r *overlay.StoredRecord)) error {
	prefix, calls := spot.Seed[:spot.Bits/8], 1
	if spot.Bits%8 != 0 {
		prefix, calls = spot.Seed[:spot.Bits/8+1], 16
	}
	for i := range calls {
		p := prefix
		if calls > 1 {
			p = append([]byte(nil), prefix...)
			p[len(p)-1] = p[len(p)-1]&0xf0 | byte(i)
		}
		err := m.cfg.Records.Near(spot.Day, p, func(r overlay.StoredRecord) bool {
			fn(&r)
			return true
		})
		if err != nil {
			return fmt.Errorf("read a sample: %w", err)
		}
	}
	return nil
}

// compareSpots compares our sample with the other side's, after equal Roots.
func (r *round) compareSpots(ctx context.Context, mine, theirs *overlay.Spot, moved, doubted bool) error {
	if mine == nil || theirs == nil {
		return nil
	}
	digest := mine.Digest
	if moved {
		var err error
		if digest, err = r.m.readSpot(mine, r.key, r.settled, r.front); err != nil {
			return err
		}
	}
	if digest == theirs.Digest {
		return nil
	}
	if wrong, err := r.m.checkMemory(mine); err != nil || wrong > 0 {
		return err
	}
	if doubted {
		r.Result = overlay.RoundDiffers
		return r.goDeep(ctx)
	}
	r.m.audit.mu.Lock()
	r.m.audit.track(r.s.peer).doubt = mine
	r.m.audit.mu.Unlock()
	return nil
}

// checkMemory holds the ledger against the disk in a sample's place, and has
// everything counted anew if they differ. Records that came or went in the last
// seconds, and may be on their way between the two, are passed over.
func (m *Mesh) checkMemory(spot *overlay.Spot) (wrong int, err error) {
	seed := binary.BigEndian.Uint64(spot.Seed[:])
	key, before := m.holdings.within(spot.Day, spot.Bits, seed)
	now := m.cfg.Now()
	front := uint64(now.UnixMilli())/stepMillis + 2 // nothing that expires while we look
	hash := m.hashing(key)
	disk, young := map[place]bool{}, map[place]bool{}
	err = m.nearBits(spot, func(r *overlay.StoredRecord) {
		p := place{ledgerItem{hash.short(&r.ID), prefixOf(&r.ID)}, r.Expires / stepMillis}
		disk[p] = true
		if now.Sub(r.Received) < freshFor {
			young[p] = true
		}
	})
	if err != nil {
		return 0, err
	}
	again, after := m.holdings.within(spot.Day, spot.Bits, seed)
	if again != key {
		return 0, nil
	}
	held := map[place]bool{}
	for _, p := range after {
		held[p] = true
	}
	lost := 0
	for _, p := range before {
		if held[p] && !disk[p] && p.expires >= front {
			lost++
		}
		delete(disk, p)
	}
	unknown := 0
	for p := range disk {
		if !held[p] && !young[p] && p.expires >= front {
			unknown++
		}
	}
	if lost+unknown == 0 {
		return 0, nil
	}
	m.met.corrections.WithLabelValues("lost").Add(float64(lost))
	m.met.corrections.WithLabelValues("unknown").Add(float64(unknown))
	m.holdings.distrust(lost, unknown)
	return lost + unknown, nil
}
