package admin

import (
	"context"
	"net/http"
	"time"

	"github.com/obelisk-network/obelisk/overlay"
)

// PillarBundles moves records as files. They hold sealed bodies, so no answer
// carries one: they lie in the pillar's data directory.
type PillarBundles interface {
	// ExportBundle writes all that is held into a new file and returns its path.
	ExportBundle(ctx context.Context) (path string, counts overlay.BundleCounts, err error)
	// ImportBundle takes what is in a file of the bundle directory, by its name.
	ImportBundle(ctx context.Context, name string) (overlay.BundleCounts, error)
}

// BundleAnswer is POST /v1/bundles and /v1/bundles/import.
type BundleAnswer struct {
	Path string `json:"path"` // on the pillar's machine; "" of an import
	overlay.BundleCounts
}

type bundleRequest struct {
	Name string `json:"name"`
}

const bundleTime = time.Hour

func handleBundles(m *mux, p PillarBundles) {
	m.handle("POST", "/v1/bundles", func(w http.ResponseWriter, r *http.Request) error {
		allow(w, bundleTime+requestTime)
		ctx, cancel := context.WithTimeout(r.Context(), bundleTime)
		defer cancel()
		path, counts, err := p.ExportBundle(ctx)
		if err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, BundleAnswer{path, counts})
		return nil
	})
	m.handle("POST", "/v1/bundles/import", func(w http.ResponseWriter, r *http.Request) error {
		var req bundleRequest
		if err := readJSON(r, &req); err != nil {
			return err
		}
		allow(w, bundleTime+requestTime)
		ctx, cancel := context.WithTimeout(r.Context(), bundleTime)
		defer cancel()
		counts, err := p.ImportBundle(ctx, req.Name)
		if err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, BundleAnswer{"", counts})
		return nil
	})
}
