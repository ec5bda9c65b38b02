package obelisk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/obelisk-network/obelisk/overlay"
)

// BundleDir is where the pillar of a data directory writes bundles, and where
// those lie that it is to read.
func BundleDir(dir string) string { return filepath.Join(dir, dirBundles) }

// ExportBundle writes all records held, and the roster, as one file into
// BundleDir and returns its path: for a pillar of the network that no network
// reaches. Bodies in it are sealed; who writes to whom can be read.
func (p *Pillar) ExportBundle(ctx context.Context) (path string, counts overlay.BundleCounts, err error) {
	dir := BundleDir(p.dir.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", counts, fmt.Errorf("bundle: %w", err)
	}
	path = filepath.Join(dir, time.Now().UTC().Format("20060102T150405.000Z")+".bundle")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", counts, fmt.Errorf("bundle: %w", err)
	}
	counts, err = p.core.WriteBundle(ctx, f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", counts, errors.Join(err, os.Remove(path))
	}
	p.log.Info("bundle written", "path", path, "records", counts.Records, "bytes", counts.Bytes)
	return path, counts, nil
}

// ImportBundle takes the records of a file in BundleDir, each judged as if
// another pillar had sent it. What was taken before an error stays.
func (p *Pillar) ImportBundle(ctx context.Context, name string) (overlay.BundleCounts, error) {
	if name == "" || name != filepath.Base(name) || !filepath.IsLocal(name) {
		return overlay.BundleCounts{}, overlay.Refuse(overlay.CodeBadRequest, "%q is no name of a file in %s", name, BundleDir(p.dir.path))
	}
	f, err := os.Open(filepath.Join(BundleDir(p.dir.path), name))
	if errors.Is(err, fs.ErrNotExist) {
		return overlay.BundleCounts{}, overlay.Refuse(overlay.CodeNotFound, "there is no %s in %s", name, BundleDir(p.dir.path))
	}
	if err != nil {
		return overlay.BundleCounts{}, fmt.Errorf("bundle: %w", err)
	}
	defer f.Close()
	counts, err := p.core.ReadBundle(ctx, f)
	if errors.Is(err, overlay.ErrBundle) {
		err = overlay.Refuse(overlay.CodeInvalid, "%s: %v: %d of its records are held now", name, err, counts.Taken)
	}
	p.log.Info("bundle read", "name", name, "records", counts.Records, "taken", counts.Taken, "refused", counts.Refused, "err", err)
	return counts, err
}
