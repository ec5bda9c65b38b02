package dashboard_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// screenshotDir is the variable that names where screenshots go; without it none
// are made.
const screenshotDir = "OBELISK_SCREENSHOTS"

// browser is one page in headless Chromium.
type browser struct {
	t    *testing.T
	ctx  context.Context
	host string // the only one that it may ask

	mu     sync.Mutex
	wrongs []string // guarded by mu; what it asked elsewhere, and what the page did wrong
}

func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Skip("no Chromium here: the dashboard is tested where Debian's chromium is installed")
	return ""
}

// openBrowser opens link, whose host is the only one that the page may ask.
func openBrowser(t *testing.T, ctx context.Context, path, link string) *browser {
	t.Helper()
	u, err := url.Parse(link)
	if err != nil {
		t.Fatal(err)
	}
	b := &browser{t: t, host: u.Host}
	alloc, cancel := chromedp.NewExecAllocator(ctx, append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.WSURLReadTimeout(2*time.Minute), chromedp.NoSandbox, chromedp.UserDataDir(t.TempDir()), chromedp.Flag("disable-gpu", true),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true))...)
	t.Cleanup(cancel)
	b.ctx, cancel = chromedp.NewContext(alloc, chromedp.WithListener(b.listen))
	t.Cleanup(func() {
		if err := chromedp.Cancel(b.ctx); err != nil { // waits until it is gone
			t.Logf("end of the browser: %v", err)
		}
		cancel()
	})
	b.do(chromedp.Navigate("about:blank"))
	call(b, network.Enable, network.EnableParams{})
	call(b, cdplog.Enable, cdp.Empty{})
	b.do(chromedp.EmulateViewport(1000, 900), chromedp.Navigate(link))
	return b
}

// listen notes what the page does wrong.
func (b *browser) listen(ev any) {
	switch ev := ev.(type) {
	case *network.EventRequestWillBeSent:
		if u, err := url.Parse(ev.Request.URL); err != nil || u.Scheme != "data" && u.Scheme != "about" && u.Host != b.host {
			b.wrong("asked " + ev.Request.URL)
		}
	case *cdplog.EventEntryAdded:
		if ev.Entry.Level == cdplog.EntryLevelError {
			b.wrong(ev.Entry.Text + " " + ev.Entry.URL)
		}
	case *runtime.EventExceptionThrown:
		b.wrong(ev.ExceptionDetails.Text)
	}
}

func (b *browser) wrong(what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wrongs = append(b.wrongs, what)
}

// check fails the test for what the page did wrong so far.
func (b *browser) check() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.wrongs) > 0 {
		b.t.Errorf("the page did wrong:\n%s", strings.Join(b.wrongs, "\n"))
	}
	b.wrongs = nil
}

func (b *browser) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, actions...); err != nil {
		b.t.Fatal(err)
	}
}

// call runs a command of the protocol.
func call[P, R any](b *browser, cmd cdp.Command[P, R], params P) {
	b.t.Helper()
	if _, err := chromedp.Call(b.ctx, cmd, params); err != nil {
		b.t.Fatal(err)
	}
}

// ask evaluates an expression in the page.
func ask[T any](b *browser, expression string) T {
	b.t.Helper()
	answer, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
	return answer
}

// see waits until an expression is true in the page, whatever pages come
// meanwhile.
func (b *browser) see(expression string) {
	b.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		is, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool]("!!("+expression+")"))
		if is && err == nil { // an error: the page is being left
			return
		}
		select {
		case <-b.ctx.Done():
			b.t.Fatalf("never came true: %s (%v)", expression, err)
		case <-tick.C:
		}
	}
}

// click presses what a selector finds, and waits until an expression is true.
func (b *browser) click(selector, expression string) {
	b.t.Helper()
	b.do(chromedp.Click(selector))
	b.see(expression)
}

// find searches for what somebody would type.
func (b *browser) find(text, expression string) {
	b.t.Helper()
	b.do(chromedp.SetValue("#q", text))
	b.click(".search button", expression)
}

// faint lists texts whose contrast to what is behind them is less than the 4.5
// of WCAG AA. What is disabled is exempt there too.
const faint = `(() => {
	const rgba = (s) => { const n = s.match(/[\d.]+/g)?.map(Number); return n && s.startsWith("rgb") ? n : [0, 0, 0, 0]; };
	const light = (c) => { const f = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
		return 0.2126 * f(c[0]) + 0.7152 * f(c[1]) + 0.0722 * f(c[2]); };
	const behind = (e) => { for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] === 1) return c; }
		return [255, 255, 255]; };
	const found = [];
	for (const e of document.querySelectorAll("body *")) {
		const text = [...e.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data.trim()).join("");
		if (!text || e.closest(".hidden, .skip, :disabled") || !e.getClientRects().length) continue;
		const style = getComputedStyle(e), fore = rgba(e instanceof SVGElement ? style.fill : style.color);
		const [a, b] = [light(fore), light(behind(e))].sort((x, y) => y - x);
		const ratio = (a + 0.05) / (b + 0.05);
		if (ratio < 4.5) found.push(text.slice(0, 40) + ": " + ratio.toFixed(2));
	}
	return found;
})()`

// shoot makes screenshots of the page, narrow, usual and wide, light and dark,
// and checks that none of them is wider than the screen, and that all can be
// read.
func (b *browser) shoot(name string) {
	b.t.Helper()
	dir := os.Getenv(screenshotDir)
	if dir != "" {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			b.t.Fatal(err)
		}
	}
	for _, width := range []int64{400, 1000, 1600} {
		b.do(chromedp.EmulateViewport(width, 900))
		if over := ask[int](b, `document.documentElement.scrollWidth - document.documentElement.clientWidth`); over > 0 {
			b.t.Errorf("%s at %d px: %d px too wide", name, width, over)
		}
		for _, scheme := range []string{"light", "dark"} {
			call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
				Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
			if texts := ask[[]string](b, faint); len(texts) > 0 {
				b.t.Errorf("%s at %d px, %s: hard to read: %q", name, width, scheme, texts)
			}
			if dir == "" {
				continue
			}
			png, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
			if err != nil {
				b.t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s-%d-%s.png", name, width, scheme)), png, 0o644); err != nil {
				b.t.Fatal(err)
			}
		}
	}
	call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{})
	b.do(chromedp.EmulateViewport(1000, 900))
}
