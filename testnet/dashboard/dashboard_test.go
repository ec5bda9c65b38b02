package dashboard_test

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// Records of one pillar are deleted by hand: the dashboard of another shows
// that they differ, lists them, mends it at the press of a button, and says that
// all is well, without being loaded anew. How others are connected is on its map.
func TestDashboard(t *testing.T) {
	if testing.Short() {
		t.Skip("five pillars and a browser; not with -short")
	}
	path := chromium(t)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel) // after the browser and the pillars have ended
	const here, hurt, deleted = 0, 3, 6
	w := newPillars(t, ctx, 240)
	w.write(0, 1, 20)
	w.stop(hurt)
	w.forget(hurt, w.records[:deleted])
	w.start(hurt)
	w.until("all pillars see each other", func() bool {
		for _, p := range w.running {
			if p.Status().PillarsAlive != len(names) {
				return false
			}
		}
		return true
	})

	b := openBrowser(t, ctx, path, w.open(here))
	b.see(`performance.getEntriesByName("first-contentful-paint").length`)
	t.Logf("first paint after %d ms", ask[int](b, `Math.round(performance.getEntriesByName("first-contentful-paint")[0].startTime)`))
	if text := ask[string](b, `document.querySelector("#pillars").innerText`); !strings.Contains(text, names[hurt]) {
		t.Fatalf("the pillars: %q", text)
	}

	// By keyboard: the first stop leads past the head.
	b.do(chromedp.KeyEvent(kb.Tab))
	if class := ask[string](b, `document.activeElement.className`); class != "skip" {
		t.Errorf("the first stop is %q, want the skip link", class)
	}
	b.do(chromedp.KeyEvent(kb.Enter))
	b.see(`document.activeElement.id === "main"`)

	// The script shows it as it is found out: nobody loads the page again.
	ask[bool](b, `window.same = true`)
	b.seeLinks(here)
	cells := `[...document.querySelectorAll("#matrix td.differs a, #matrix td.traffic a")]`
	if os.Getenv(screenshotDir) != "" { // a divergence is three in a row; the test has no need to wait for it
		cells = `[...document.querySelectorAll("#matrix td.differs a")]`
	}
	// Of the hurt one with every other, both ways, and of no others.
	b.see(cells + `.length === 8 && ` + cells + `.every(a => a.getAttribute("aria-label").includes("` + names[hurt] + `"))`)
	if !ask[bool](b, `window.same === true`) {
		t.Error("the page was loaded again")
	}
	b.shoot("overview-differs")

	// A cell leads to the differences, each with its reason.
	ask[bool](b, cells+`.find(a => a.getAttribute("aria-label").includes("`+names[here]+`")).click() ?? true`)
	b.see(`document.querySelector("#differences table")`)
	html, list := ask[string](b, `document.querySelector("#differences").innerHTML`), ask[string](b, `document.querySelector("#differences").innerText`)
	for _, r := range w.records[:deleted] {
		if !strings.Contains(html, "/trace/"+r.ID.String()) {
			t.Errorf("record %s is not listed", r.ID)
		}
	}
	if !strings.Contains(list, "Missing at "+names[hurt]) || !strings.Contains(list, "never arrived") {
		t.Errorf("the differences: %s", list)
	}
	b.shoot("pillar-differs")

	// A record leads to what every pillar says of it.
	b.find(w.records[0].ID.String(), `document.querySelector("#h-trace")`)
	if h := ask[string](b, `document.querySelector("h1").innerText`); h != "4 of 5 pillars hold it." {
		t.Errorf("the trace says %q", h)
	}
	b.shoot("trace")

	// The button mends it.
	b.find(names[hurt], `document.querySelector("#differences")`)
	b.click(`form[action$="/repair"] button`, `document.querySelector("#done .note")`)
	if text := ask[string](b, `document.querySelector("#done").innerText`); !strings.Contains(text, "6 sent") {
		t.Errorf("the repair says %q", text)
	}
	b.click(`#differences form:not([method]) button`, `document.querySelector("#differences > .note")`)
	if text := ask[string](b, `document.querySelector("#differences > .note").innerText`); !strings.Contains(text, "No differences") {
		t.Errorf("after the repair: %q", text)
	}
	b.click(`.brand`, `document.querySelector("#verdict h1")?.innerText.includes("All 5 pillars hold the same records")`)
	b.see(`document.querySelectorAll("#matrix td.equal").length === 20`)
	b.click(`.warnings form button`, `document.querySelector("#warnings") && !document.querySelector(".warnings")`)
	if text := ask[string](b, `document.querySelector("#warnings").innerText`); !strings.Contains(text, "no warnings") {
		t.Errorf("when all is well the page says %q", text)
	}
	b.shoot("overview-converged")
	b.check()

	if n := w.running[hurt].Status().Records; n != w.running[here].Status().Records {
		t.Errorf("%d records at %s, %d at %s", n, names[hurt], w.running[here].Status().Records, names[here])
	}
	// When one ends, its connections with the others leave the map.
	ended := w.running[hurt].ID().String()
	w.stop(hurt)
	b.see(arcs + `.length === 3 && !document.querySelector('#map-arcs title').textContent.includes("` + names[hurt] + `")`)
	b.see(`document.querySelector("#map-say").innerText.includes("` + names[hurt] + ` did not answer")`)
	b.see(`document.querySelector('#map-pillars a[href="/pillar/` + ended + `"] .away')`)
	b.shoot("overview-one-gone")
	b.check()

	// What was pressed stands in the audit log.
	written, err := os.ReadFile(filepath.Join(w.dirs[here], "audit.log"))
	if err != nil || !strings.Contains(string(written), "POST /pillar/"+ended+"/repair") {
		t.Errorf("the audit log: %v: %s", err, written)
	}
}

// arcs are the connections between other pillars on the map.
const arcs = `[...document.querySelectorAll("#map-arcs [data-ends]")]`

// seeLinks sees how the other pillars are connected with each other: on the map
// and in the table, with path and round trip, and in words when one is pointed at.
func (b *browser) seeLinks(here int) {
	b.t.Helper()
	var others []string
	for i, name := range names {
		if i != here {
			others = append(others, name)
		}
	}
	pair := `(?:` + strings.Join(others, "|") + `)`
	line := `/^` + pair + ` – ` + pair + `: direct over (QUIC|TCP), \d[\d.]* ms$/`
	b.see(arcs + `.length === 6 && ` + arcs + `.every(a => ` + line + `.test(a.querySelector("title").textContent))`)
	b.see(`document.querySelectorAll("#trips td.direct").length === 20`)
	cell := ask[string](b, `document.querySelector("#trips tbody tr:nth-child(3) td:nth-child(3)").title`) // the second row's pillar says it of the first
	if !regexp.MustCompile(`^` + names[2] + ` – ` + names[1] + `: direct over (QUIC|TCP)`).MatchString(cell) {
		b.t.Errorf("the table says %q", cell)
	}
	if say := ask[string](b, `document.querySelector("#map-say").innerText`); say != "Every one of 5 pillars is connected with every other, directly." {
		b.t.Errorf("the map says %q", say)
	}

	// Pointed at, it is told below in words, and a pillar lights what it has.
	point := func(selector, event string) {
		b.t.Helper()
		ask[bool](b, `document.querySelector('`+selector+`').dispatchEvent(new PointerEvent("`+event+`", {bubbles: true}))`)
	}
	shows := func() string { return ask[string](b, `document.querySelector("#map-point").innerText`) }
	point("#map-arcs [data-ends]", "pointerover")
	if text := shows(); !strings.Contains(text, ": direct over ") || ask[int](b, `document.querySelectorAll(".edge.on").length`) != 1 {
		b.t.Errorf("pointed at a connection, the page says %q", text)
	}
	point("#map-pillars [data-number]", "pointerover")
	if text := shows(); !strings.HasSuffix(text, ": alive, connected with 4 pillars") || ask[int](b, `document.querySelectorAll(".edge.on").length`) != 4 {
		b.t.Errorf("pointed at a pillar, the page says %q", text)
	}
	if os.Getenv(screenshotDir) != "" {
		b.shoot("overview-pointed")
	}
	point("svg.map", "pointerleave")
	if text := shows(); text != "" || ask[int](b, `document.querySelectorAll(".lit, .on").length`) != 0 {
		b.t.Errorf("pointed at nothing, the page says %q", text)
	}
}
