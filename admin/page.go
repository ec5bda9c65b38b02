package admin

import (
	"bytes"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// nodePages are a node's pages: what it is doing, and how it reaches the others.
// They run no script.
type nodePages struct {
	n     Node
	pages *template.Template
}

// lastShown is how many messages each way the page shows.
const lastShown = 20

// handleNodePages registers the pages.
func handleNodePages(m *mux, n Node) {
	files := handleAssets(m, "style.css")
	funcs := pageFuncs(files)
	funcs["words"] = func(v overlay.NATBehaviour) string { return strings.ReplaceAll(string(v), "_", " ") }
	p := &nodePages{n: n, pages: template.Must(template.New("").Funcs(funcs).ParseFS(assets, "assets/node.html"))}
	m.handle("GET", "/{$}", p.overview)
	m.handle("GET", "/netcheck", p.netcheck)
}

// nodeFrame is what every page has around its content.
type nodeFrame struct {
	Title  string
	Status overlay.NodeStatus
}

// shownMessage is a line of a table.
type shownMessage struct {
	Received, Sent time.Time
	From, To       string
	Text           string
	Path           overlay.Path
	Gap            bool
	State          overlay.State
	Reason         overlay.Code
}

func (p *nodePages) overview(w http.ResponseWriter, _ *http.Request) error {
	st := p.n.Status()
	in, err := p.lastIn()
	if err != nil {
		return err
	}
	out, err := p.lastOut()
	if err != nil {
		return err
	}
	pillars := nodePillars(p.n.Pillars())
	var unused []NodePillarEntry
	for i := range pillars {
		if pillars[i].Error != "" {
			unused = append(unused, pillars[i])
		}
	}
	return p.render(w, "node", struct {
		nodeFrame
		Sending int
		In, Out []shownMessage
		Pillars []NodePillarEntry
		Unused  []NodePillarEntry // those of them that were tried, or used, and are not
	}{nodeFrame{"Node", st}, st.Outbox.Queued + st.Outbox.Stored + st.Outbox.Replicated, in, out, pillars, unused})
}

// lastIn are the newest messages received, newest first.
func (p *nodePages) lastIn() (shown []shownMessage, err error) {
	var last []overlay.InMessage
	for after := uint64(0); ; {
		page, next, err := p.n.InboxPage(after, maxLimit, false)
		if err != nil {
			return nil, err
		}
		last = append(last, page...)
		last = last[max(0, len(last)-lastShown):]
		if after = next; next == 0 {
			break
		}
	}
	for _, m := range slices.Backward(last) {
		s := shownMessage{Received: m.Received, From: m.FromContact, Path: m.Path, Gap: m.Gap, Text: fmt.Sprintf("%d bytes", len(m.Body))}
		if s.From == "" {
			s.From = tailText(m.From.String())
		}
		if m.Text != nil {
			s.Text = *m.Text
		}
		shown = append(shown, s)
	}
	return shown, nil
}

// lastOut are the newest messages sent, newest first.
func (p *nodePages) lastOut() (shown []shownMessage, err error) {
	names := map[identity.AccountID]string{}
	contacts, err := p.n.Contacts()
	if err != nil {
		return nil, err
	}
	for _, c := range contacts {
		names[c.Account] = c.Name
	}
	var last []overlay.OutMessage
	for after := uint64(0); ; {
		page, next, err := p.n.OutboxPage(after, maxLimit)
		if err != nil {
			return nil, err
		}
		last = append(last, page...)
		last = last[max(0, len(last)-lastShown):]
		if after = next; next == 0 {
			break
		}
	}
	for _, m := range slices.Backward(last) {
		to := make([]string, len(m.To))
		for i, a := range m.To {
			if to[i] = names[a]; to[i] == "" {
				to[i] = tailText(a.String())
			}
		}
		shown = append(shown, shownMessage{Sent: m.Sent, To: strings.Join(to, ", "), State: m.State, Reason: m.Reason})
	}
	return shown, nil
}

func (p *nodePages) netcheck(w http.ResponseWriter, r *http.Request) error {
	allow(w, netcheckTime)
	c, err := p.n.Netcheck(r.Context())
	if err != nil {
		return err
	}
	return p.render(w, "netcheck", struct {
		nodeFrame
		Check overlay.Netcheck
	}{nodeFrame{"Netcheck", p.n.Status()}, c})
}

func (p *nodePages) render(w http.ResponseWriter, name string, data any) error {
	var b bytes.Buffer
	if err := p.pages.ExecuteTemplate(&b, name, data); err != nil {
		return fmt.Errorf("page %s: %w", name, err)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(b.Bytes())
	return nil
}
