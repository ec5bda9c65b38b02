package overlay

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"

	"github.com/obelisk-network/obelisk/identity"
)

// A bundle is a pillar's records as one file, for a pillar that no network
// reaches:
//
//	magic "OBKBNDL1" ‖ network ID (32)
//	‖ for each record: its length (4, big-endian, not 0) ‖ its bytes
//	‖ 0 (4) ‖ SHA-256 of everything before
//
// Roster records come first. Bodies are as sealed as anywhere, and every record
// is judged on import as if another pillar had sent it, so the hash only tells
// whether a file is whole.
const bundleMagic = "OBKBNDL1"

// Bounds of reading a bundle.
const (
	bundlePage  = 512     // records read from the disk or taken at once
	bundleBytes = 4 << 20 // and their bytes
)

// ErrBundle is wrapped by errors about files that are no bundle, or not whole.
var ErrBundle = errors.New("not a whole bundle")

// BundleCounts says what became of a bundle's records.
type BundleCounts struct {
	Records uint64 `json:"records"` // in the file, as far as it was read
	Taken   uint64 `json:"taken"`   // held now, those that were before too
	Refused uint64 `json:"refused"` // expired, invalid, or of somebody who is none of ours
	Bytes   uint64 `json:"bytes"`
}

// WriteBundle writes all unexpired records held, and the roster, to w. Records
// that come meanwhile may be in it or not.
func (p *Pillar) WriteBundle(ctx context.Context, w io.Writer) (BundleCounts, error) {
	var counts BundleCounts
	sum := sha256.New()
	out := bufio.NewWriterSize(io.MultiWriter(w, sum), 256<<10)
	out.WriteString(bundleMagic)
	out.Write(p.cfg.Network[:])
	write := func(raw []byte) {
		out.Write(binary.BigEndian.AppendUint32(nil, uint32(len(raw))))
		out.Write(raw)
		counts.Records++
		counts.Bytes += uint64(len(raw))
	}
	for _, raw := range p.roster.Records() {
		write(raw)
	}
	days, err := p.bundleDays()
	if err != nil {
		return counts, err
	}
	for _, day := range days {
		for after := (RecordID{}); ; {
			if err := ctx.Err(); err != nil {
				return counts, err
			}
			n, last, err := p.bundlePage(day, after, write)
			if err != nil {
				return counts, err
			}
			if n < bundlePage {
				break
			}
			after = last
		}
	}
	out.Write(make([]byte, 4))
	if err := out.Flush(); err != nil {
		return counts, fmt.Errorf("write bundle: %w", err)
	}
	if _, err := w.Write(sum.Sum(nil)); err != nil {
		return counts, fmt.Errorf("write bundle: %w", err)
	}
	return counts, nil
}

func (p *Pillar) bundleDays() ([]Day, error) {
	view := p.cfg.Store.View()
	defer view.Close()
	days, err := view.Parts().Days()
	if err != nil {
		return nil, fmt.Errorf("read days: %w", err)
	}
	return days, nil
}

// bundlePage writes the next records of a day and says how many it looked at.
func (p *Pillar) bundlePage(day Day, after RecordID, write func([]byte)) (n int, last RecordID, err error) {
	now := p.past()
	view := p.cfg.Store.View()
	defer view.Close()
	var refs []Ref
	err = view.Parts().Heads(day, after, func(r StoredRecord) bool {
		n, last = n+1, r.ID
		if r.Expires > now {
			refs = append(refs, Ref{ID: r.ID, Day: day})
		}
		return n < bundlePage
	})
	if err == nil {
		err = view.Get(refs, func(_ int, r StoredRecord) bool {
			write(r.Raw)
			return true
		})
	}
	if err != nil {
		return n, last, fmt.Errorf("read records: %w", err)
	}
	return n, last, nil
}

// ReadBundle takes the records of a bundle, each judged as if another pillar had
// sent it. What was taken before an error stays. Errors wrap ErrBundle for a file
// that is none or ends early, or are an *Error: wrong_network, full.
func (p *Pillar) ReadBundle(ctx context.Context, r io.Reader) (BundleCounts, error) {
	b := bundleReader{sum: sha256.New(), r: bufio.NewReaderSize(r, 256<<10)}
	var counts BundleCounts
	if network, err := b.begin(); err != nil {
		return counts, err
	} else if network != p.cfg.Network {
		return counts, Refuse(CodeWrongNetwork, "the bundle is of network %s, this pillar is of %s", network, p.cfg.Network)
	}
	var page [][]byte
	size := 0
	take := func() error {
		taken, err := p.takeBundled(ctx, page)
		counts.Taken += uint64(taken)
		counts.Refused += uint64(len(page) - taken)
		page, size = page[:0], 0
		return err
	}
	for {
		raw, err := b.next()
		if err != nil {
			return counts, errors.Join(err, take())
		}
		if raw == nil {
			break
		}
		counts.Records++
		counts.Bytes += uint64(len(raw))
		page, size = append(page, raw), size+len(raw)
		if len(page) == bundlePage || size >= bundleBytes {
			if err := take(); err != nil {
				return counts, err
			}
		}
	}
	return counts, errors.Join(take(), b.end())
}

// takeBundled takes some records and returns how many are held now.
func (p *Pillar) takeBundled(ctx context.Context, raws [][]byte) (held int, err error) {
	now := p.now()
	var others [][]byte
	for _, raw := range raws {
		rec, err := p.verifier.Parse(raw)
		if err != nil {
			continue
		}
		if rec.Kind != KindPillar && rec.Kind != KindRevocation {
			others = append(others, raw)
			continue
		}
		if _, err := p.roster.Add(now, false, raw); err == nil {
			held++
		}
	}
	taken, err := p.Take(ctx, ViaBundle, others)
	for _, ok := range taken {
		held += btoi(ok)
	}
	return held, err
}

// bundleReader reads a bundle and hashes what it reads.
type bundleReader struct {
	r   *bufio.Reader
	sum hash.Hash
}

// full reads len(b) bytes.
func (b *bundleReader) full(buf []byte) error {
	if _, err := io.ReadFull(b.r, buf); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("%w: it ends early", ErrBundle)
		}
		return fmt.Errorf("read bundle: %w", err)
	}
	b.sum.Write(buf)
	return nil
}

func (b *bundleReader) begin() (network identity.NetworkID, err error) {
	magic := make([]byte, len(bundleMagic))
	if err := b.full(magic); err != nil || string(magic) != bundleMagic {
		return network, firstError(err, fmt.Errorf("%w: it does not begin like one", ErrBundle))
	}
	return network, b.full(network[:])
}

// next returns a record's bytes, nil at the end.
func (b *bundleReader) next() ([]byte, error) {
	var head [4]byte
	if err := b.full(head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 {
		return nil, nil
	}
	if n > MaxRecord {
		return nil, fmt.Errorf("%w: a record of %d bytes", ErrBundle, n)
	}
	raw := make([]byte, n)
	if err := b.full(raw); err != nil {
		return nil, err
	}
	return slices.Clip(raw), nil
}

// end checks the hash, behind which nothing may come.
func (b *bundleReader) end() error {
	want := b.sum.Sum(nil)
	got := make([]byte, len(want))
	if err := b.full(got); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%w: its hash is another", ErrBundle)
	}
	if _, err := b.r.ReadByte(); err != io.EOF {
		return fmt.Errorf("%w: something follows its end", ErrBundle)
	}
	return nil
}
