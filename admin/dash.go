package admin

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// The dashboard: pages of a pillar that say what it sees of its network and what
// is wrong, rendered here, useful without script, and loading nothing from
// elsewhere. assets/live.js replaces sections of an open page as events come.

//go:embed assets
var assets embed.FS

// dashboard renders the pages of one pillar.
type dashboard struct {
	p     Pillar
	watch *Watch // nil: no charts, no events
	pages *template.Template
	notes notes

	linksViews linksViews
}

// assetKinds are the files that pages load, and their types.
var assetKinds = map[string]string{"style.css": "text/css; charset=utf-8", "live.js": "text/javascript; charset=utf-8"}

// handleDashboard registers the pages and GET /v1/events.
func handleDashboard(m *mux, p Pillar, watch *Watch) {
	d := &dashboard{p: p, watch: watch}
	files := handleAssets(m, "style.css", "live.js")
	d.pages = template.Must(template.New("").Funcs(pageFuncs(files)).ParseFS(assets, "assets/frame.html", "assets/overview.html", "assets/pillar.html", "assets/trace.html"))

	m.handle("GET", "/{$}", d.page(d.overviewPage))
	m.handle("GET", "/fragments/overview", d.page(d.overviewFragment))
	m.handle("GET", "/search", d.page(d.search))
	m.handle("GET", "/pillar/{id}", d.page(d.pillarPage))
	m.handle("POST", "/pillar/{id}/repair", d.page(d.repair))
	m.handle("POST", "/pillar/{id}/round", d.page(d.round))
	m.handle("POST", "/resume", d.page(d.resume))
	m.handle("GET", "/trace/{id}", d.page(d.tracePage))
	m.handle("GET", "/v1/events", watch.stream)
}

// handleAssets serves files that pages load and returns their addresses.
func handleAssets(m *mux, names ...string) map[string]string {
	files := map[string]string{}
	for _, name := range names {
		kind := assetKinds[name]
		b, err := assets.ReadFile("assets/" + name)
		if err != nil {
			panic("admin: " + err.Error()) // embedded
		}
		sum := sha256.Sum256(b)
		files[name] = "/assets/" + name + "?v=" + hex.EncodeToString(sum[:6])
		m.handle("GET", "/assets/"+name, func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("Content-Type", kind)
			w.Header().Set("Cache-Control", "public, max-age=31536000, immutable") // the address changes with it
			_, _ = w.Write(b)
			return nil
		})
	}
	return files
}

// pageFuncs are what templates format with.
func pageFuncs(files map[string]string) template.FuncMap {
	return template.FuncMap{
		"asset":   func(name string) string { return files[name] },
		"clock":   func(t time.Time) string { return t.UTC().Format("15:04:05") },
		"instant": func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
		"iso":     func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"count":   countText,
		"bytes":   bytesText,
		"ms":      msText,
		"rate":    rateText,
		"tail":    tailText,
		"plural":  plural,
		"absence": absenceText,
	}
}

// frame is what every page has around its content.
type frame struct {
	Title     string
	Self      pillarName
	Network   string
	Version   string
	MayChange bool
	Live      bool // the script keeps it up to date
	Query     string
}

func (d *dashboard) frame(r *http.Request, title string) frame {
	s := d.p.Status()
	return frame{Title: title, Self: selfName(&s), Network: s.Network, Version: s.Version, MayChange: mayChange(r)}
}

// pillarName is how pages call a pillar: by the name it claims, which is not its
// own alone, with the end of its ID, which is.
type pillarName struct {
	ID   identity.PillarID
	Text string
	Tail string
	Self bool
}

func nameOf(id identity.PillarID, name string) pillarName {
	n := pillarName{ID: id, Text: name, Tail: tailText(id.String())}
	if n.Text == "" {
		n.Text = n.Tail
	}
	return n
}

func selfName(s *PillarStatus) pillarName {
	id, err := identity.ParsePillar(s.ID)
	if err != nil {
		id = identity.PillarID("")
	}
	n := nameOf(id, s.Name)
	n.Self = true
	return n
}

// page is a handler whose errors are pages too.
func (d *dashboard) page(fn handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		err := fn(w, r)
		if err == nil {
			return nil
		}
		detail := detailOf(err)
		return d.render(w, statusOf(detail.Code), "error", struct {
			frame
			Code    overlay.Code
			Message string
		}{d.frame(r, "Not done"), detail.Code, strings.TrimPrefix(detail.Message, string(detail.Code)+": ")})
	}
}

// render answers with a page, or, where it cannot be made, with an error.
func (d *dashboard) render(w http.ResponseWriter, status int, name string, data any) error {
	var b bytes.Buffer
	if err := d.pages.ExecuteTemplate(&b, name, data); err != nil {
		return fmt.Errorf("page %s: %w", name, err)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
	return nil
}

// search leads to what somebody typed: a record, or a pillar by its ID, the end
// of it, or its name.
func (d *dashboard) search(w http.ResponseWriter, r *http.Request) error {
	q := strings.TrimSpace(r.URL.Query().Get("q"))
	var record overlay.RecordID
	if record.UnmarshalText([]byte(q)) == nil {
		http.Redirect(w, r, "/trace/"+record.String(), http.StatusSeeOther)
		return nil
	}
	var found []pillarName
	s := d.p.Status()
	names := []pillarName{selfName(&s)}
	for _, p := range d.p.Pillars() {
		names = append(names, nameOf(p.ID, p.Name))
	}
	for _, n := range names {
		id := n.ID.String()
		if q != "" && (id == q || strings.EqualFold(n.Text, q) || len(q) >= 4 && strings.HasSuffix(id, q)) {
			found = append(found, n)
		}
	}
	if len(found) == 1 {
		http.Redirect(w, r, "/pillar/"+found[0].ID.String(), http.StatusSeeOther)
		return nil
	}
	f := d.frame(r, "Search")
	f.Query = q
	status := http.StatusOK
	if len(found) == 0 {
		status = http.StatusNotFound
	}
	return d.render(w, status, "search", struct {
		frame
		Found []pillarName
	}{f, found})
}

// countText is 1,234,567.
func countText(v any) string {
	var s string
	switch n := v.(type) {
	case uint64:
		s = strconv.FormatUint(n, 10)
	case int64:
		s = strconv.FormatInt(n, 10)
	case int:
		s = strconv.Itoa(n)
	default:
		return fmt.Sprint(v)
	}
	sign := ""
	if strings.HasPrefix(s, "-") {
		sign, s = "−", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

// bytesText is a size in three digits.
func bytesText(n uint64) string {
	v, unit := float64(n), 0
	units := []string{"B", "KB", "MB", "GB", "TB", "PB", "EB"}
	for v >= 1000 && unit < len(units)-1 {
		v, unit = v/1000, unit+1
	}
	if unit == 0 || v >= 100 {
		return fmt.Sprintf("%.0f %s", v, units[unit])
	}
	return fmt.Sprintf("%.1f %s", v, units[unit])
}

func msText(ms float64) string {
	switch {
	case ms >= 10_000:
		return fmt.Sprintf("%.0f s", ms/1000)
	case ms >= 100:
		return fmt.Sprintf("%.0f ms", ms)
	case ms >= 1:
		return fmt.Sprintf("%.1f ms", ms)
	default:
		return fmt.Sprintf("%.2f ms", ms)
	}
}

func rateText(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v >= 100:
		return countText(int64(v + 0.5))
	default:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0")
	}
}

// tailText is the end of an ID: its beginning is the same for many.
func tailText(id string) string { return "…" + id[max(0, len(id)-8):] }

func plural(n any, one, many string) string {
	if countText(n) == "1" {
		return one
	}
	return many
}
