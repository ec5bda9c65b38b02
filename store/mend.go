package store

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	iofs "io/fs"
	"log/slog"
	"math/big"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// How a damaged table is mended. Pebble checks a block each time it reads it, and
// has no way to go on without one: every read, scan and compaction that meets it
// fails, for ever. So while the database is closed, all of the table that can be read
// is written into a file of the same name and, since Pebble compares that with what
// its MANIFEST says, the same size. What lay in unreadable blocks is not in it, and
// nothing else has changed: the store holds what it would hold had somebody deleted
// these keys by hand, which the scrub knows how to deal with. If a tombstone was among
// them, what it hid is there again, as in a store restored from a backup; the scrub,
// follows and the audit deal with that too.
//
// Cutting the keys out of the open database instead (Pebble's Excise) takes them out
// of all tables: a block of a young, small table reaches over as much as thousands
// of an old one.

// maxGaps bounds how often a table is read on behind what cannot be read.
const maxGaps = 1 << 12

// mendTable writes the table at path anew without what of it cannot be read, all or
// nothing. It returns how many keys were kept, and at how many places some are
// missing.
func mendTable(fs vfs.FS, dir, path string, format sstable.TableFormat, log *slog.Logger) (kept, gaps int, err error) {
	st, err := fs.Stat(path)
	if err != nil {
		return 0, 0, err
	}
	o := options(minMemory, newRot(log))
	o.EnsureDefaults()
	to := o.MakeWriterOptions(0, format)
	tmp := fs.PathJoin(dir, mendName)
	write := func() error {
		file, err := fs.Create(tmp, vfs.WriteCategoryUnspecified)
		if err != nil {
			return err
		}
		out := &padded{file: file, buf: bufio.NewWriter(file), footer: format.FooterSize(), room: st.Size()}
		kept, gaps, err = salvage(fs, path, sstable.NewRawWriter(out, to), o.MakeReaderOptions())
		return err
	}
	if err = write(); errors.Is(err, errTooLarge) {
		to.FilterPolicy = nil // without a filter it is 1 % smaller
		err = write()
	}
	if err != nil {
		return 0, 0, errors.Join(err, ignoreGone(fs.Remove(tmp)))
	}
	if err := fs.Rename(tmp, path); err != nil {
		return 0, 0, err
	}
	d, err := fs.OpenDir(dir)
	if err != nil {
		return 0, 0, err
	}
	return kept, gaps, errors.Join(d.Sync(), d.Close())
}

// mendName is what a table is called while it is written.
const mendName = "mend.tmp"

// salvage copies what can be read of a table.
func salvage(fs vfs.FS, path string, w sstable.RawWriter, o sstable.ReaderOptions) (kept, gaps int, err error) {
	defer func() { err = errors.Join(err, w.Close()) }()
	file, err := openChecked(fs, path)
	if err != nil {
		return 0, 0, err
	}
	readable, err := sstable.NewSimpleReadable(file)
	if err != nil {
		return 0, 0, errors.Join(err, file.Close())
	}
	r, err := sstable.NewReader(context.Background(), readable, o)
	if err != nil {
		return 0, 1, unlessDamaged(err) // it has closed the file
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	kept, gaps, err = salvageKeys(r, w)
	if err != nil {
		return 0, 0, err
	}
	hidden, err := salvageRanges(r, w)
	return kept, gaps + hidden, err
}

// unlessDamaged is err unless it says that a table is damaged.
func unlessDamaged(err error) error {
	if isDamage(err) {
		return nil
	}
	return err
}

func isDamage(err error) bool { return errors.Is(err, errBlock) || pebble.IsCorruptionError(err) }

// errBlock: a block is not what was written.
var errBlock = errors.New("checksum mismatch")

// checked is a table to be read, that checks blocks itself. Pebble looks for the bit
// that turned over in each one that is damaged, which takes seconds for a large one,
// each time that it is read.
type checked struct {
	vfs.File
	footer int64 // where it begins at most: what follows is no block
}

func openChecked(fs vfs.FS, path string) (*checked, error) {
	file, err := fs.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &checked{file, st.Size() - maxFooter}, nil
}

// maxFooter is more than a footer takes.
const maxFooter = 128

// ReadAt implements sstable.ReadableFile. Pebble reads a block as one, with the trailer
// [type, checksum 4 bytes little-endian].
func (f *checked) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	if errors.Is(err, syscall.EIO) {
		return 0, errBlock
	}
	if err != nil || len(p) < 5 || off+int64(n) > f.footer {
		return n, err
	}
	// As LevelDB masks it.
	sum := crc32.Checksum(p[:n-4], castagnoli)
	if sum = (sum>>15 | sum<<17) + 0xa282ead8; sum != binary.LittleEndian.Uint32(p[n-4:]) {
		return 0, errBlock
	}
	return n, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func salvageKeys(r *sstable.Reader, w sstable.RawWriter) (kept, gaps int, err error) {
	it, err := r.NewIter(sstable.NoTransforms, nil, nil, sstable.AssertNoBlobHandles)
	if err != nil {
		return 0, 1, unlessDamaged(err)
	}
	defer it.Close() // says again what it met
	var last []byte
	kv := it.First()
	for {
		if kv == nil {
			if err := it.Error(); err == nil || !isDamage(err) {
				return kept, gaps, err
			}
			if gaps++; gaps == maxGaps {
				return kept, gaps, nil
			}
			at := leap(it, last)
			if at == nil {
				return kept, gaps, nil
			}
			kv = it.SeekGE(at, 0)
			continue
		}
		value, _, err := kv.Value(nil)
		if err != nil {
			return kept, gaps, err
		}
		if err := w.Add(kv.K, value, false); err != nil {
			return kept, gaps, err
		}
		kept++
		last = append(last[:0], kv.K.UserKey...)
		kv = it.Next()
	}
}

// salvageRanges copies the range deletions of a table. They lie in one block.
func salvageRanges(r *sstable.Reader, w sstable.RawWriter) (gaps int, err error) {
	it, err := r.NewRawRangeDelIter(context.Background(), sstable.NoFragmentTransforms, sstable.NoReadEnv)
	if err != nil {
		return 1, unlessDamaged(err)
	}
	if it == nil {
		return 0, nil
	}
	defer it.Close()
	for span, err := it.First(); span != nil || err != nil; span, err = it.Next() {
		if err != nil {
			return 1, unlessDamaged(err)
		}
		if err := w.EncodeSpan(*span); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// keyDigits is to how many bytes leap tells keys apart. All are shorter.
const keyDigits = 80

// leap returns a place behind a key, behind which reading failed, from where on it can
// be read again; nil if there is none. Nothing says where an unreadable block ends:
// the place is searched for, in steps that grow, and then between the last two.
func leap(it sstable.Iterator, behind []byte) []byte {
	number := func(key []byte) *big.Int {
		digits := make([]byte, keyDigits)
		copy(digits, key)
		return new(big.Int).SetBytes(digits)
	}
	key := func(n *big.Int) []byte { return n.FillBytes(make([]byte, keyDigits)) }
	fails := func(n *big.Int) bool { return it.SeekGE(key(n), 0) == nil && it.Error() != nil }
	end := number(bytes.Repeat([]byte{0xff}, keyDigits))
	bad, good := number(behind), new(big.Int)
	for step := big.NewInt(1); ; step.Lsh(step, 1) {
		if good.Add(bad, step); good.Cmp(end) >= 0 {
			return nil // the index ends before, and says that there is nothing
		}
		if !fails(good) {
			break
		}
		bad.Set(good)
	}
	for mid := new(big.Int); mid.Add(bad, good).Rsh(mid, 1).Cmp(bad) != 0; {
		if fails(mid) {
			bad.Set(mid)
		} else {
			good.Set(mid)
		}
	}
	return key(good)
}

// errTooLarge: a table needs more bytes than it may have.
var errTooLarge = errors.New("what can be read of it needs more room than it has")

// padded is a file that a table is written to so that it has a certain size. A table
// is read from its end, where the footer says where all else is: the room that is left
// goes before that.
type padded struct {
	file   vfs.File
	buf    *bufio.Writer
	footer int    // size of the footer, the last that is written
	last   []byte // what may be of the footer
	room   int64  // left
}

// Write implements objstorage.Writable.
func (p *padded) Write(b []byte) error {
	p.last = append(p.last, b...)
	n := max(0, len(p.last)-p.footer)
	p.room -= int64(len(b))
	_, err := p.buf.Write(p.last[:n])
	p.last = append(p.last[:0], p.last[n:]...)
	return err
}

// Finish implements objstorage.Writable.
func (p *padded) Finish() error {
	if p.room < 0 {
		return errors.Join(errTooLarge, p.file.Close())
	}
	_, err := p.buf.Write(make([]byte, p.room))
	if err == nil {
		_, err = p.buf.Write(p.last)
	}
	if err == nil {
		err = p.buf.Flush()
	}
	if err == nil {
		err = p.file.Sync()
	}
	return errors.Join(err, p.file.Close())
}

// Abort implements objstorage.Writable.
func (p *padded) Abort() { p.file.Close() }

// ignoreGone is err unless it says that a file is not there.
func ignoreGone(err error) error {
	if errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	return err
}
