package console

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	cdp "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/dmguard/dmguard/reviewqueue/access"
)

// chromium returns the browser that the tests drive.
func chromium(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("DMGUARD_TEST_CHROMIUM"); path != "" {
		return path
	}
	const install = "run: apt-get update && apt-get install -y chromium"
	if os.Getenv("CI") == "true" {
		t.Fatal("DMGUARD_TEST_CHROMIUM names no browser; make test sets it. To have one, " + install)
	}
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("this test drives Chromium, and there is none in PATH. Set DMGUARD_TEST_CHROMIUM, or " + install)
	}
	return path
}

// watch notes what a page must not do.
type watch struct {
	mu        sync.Mutex
	paths     []string // requested
	security  []string // told in the browser's log
	exception []string
}

func (w *watch) requested(path string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Contains(w.paths, path)
}

// openBrowser serves the rig and opens a fresh browser.
func openBrowser(t *testing.T, g *rig) (ctx context.Context, origin string, w *watch) {
	t.Helper()
	path := chromium(t)
	w = new(watch)
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.paths = append(w.paths, r.URL.Path)
		w.mu.Unlock()
		g.mux.ServeHTTP(rw, r)
	}))
	t.Cleanup(srv.Close)
	// Not t.TempDir: the browser's processes write there a little longer than
	// the test lasts.
	profile, err := os.MkdirTemp("", "dmguard-chromium-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(profile) })
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx,
		chromedp.ExecPath(path), chromedp.UserDataDir(profile), chromedp.WindowSize(1280, 900), chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck,
		chromedp.NoSandbox, chromedp.Headless, chromedp.DisableGPU, chromedp.WSURLReadTimeout(time.Minute),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true), chromedp.Flag("disable-dev-shm-usage", true), chromedp.Flag("disable-extensions", true),
	)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx, chromedp.WithErrorf(func(string, ...any) {})) // it does not know every event of a newer browser
	t.Cleanup(cancel)
	t.Cleanup(func() { _ = chromedp.Cancel(ctx) }) // waits for the browser; first of the cleanups
	chromedp.ListenTarget(ctx, func(ev any) {
		w.mu.Lock()
		defer w.mu.Unlock()
		switch ev := ev.(type) {
		case *log.EventEntryAdded:
			if ev.Entry.Source == log.SourceSecurity || strings.Contains(ev.Entry.Text, "Content Security Policy") {
				w.security = append(w.security, ev.Entry.Text)
			}
		case *cdp.EventJavascriptDialogOpening:
			w.exception = append(w.exception, "a dialog: "+ev.Message)
		}
	})
	// The page's own policy does not bind what the debugger adds.
	const count = `window.violations = []; addEventListener("securitypolicyviolation", (e) => window.violations.push(e.violatedDirective), true);
		addEventListener("error", (e) => window.violations.push("error: " + e.message)); addEventListener("unhandledrejection", (e) => window.violations.push("rejection: " + e.reason));`
	run(t, ctx, log.Enable(), chromedp.ActionFunc(func(ctx context.Context) error {
		_, err := cdp.AddScriptToEvaluateOnNewDocument(count).Do(ctx)
		return err
	}))
	return ctx, srv.URL, w
}

func run(t *testing.T, ctx context.Context, actions ...chromedp.Action) { //nolint:revive // a test helper takes t first
	t.Helper()
	if err := chromedp.Run(ctx, actions...); err != nil {
		t.Fatal(err)
	}
}

// eventually waits for a condition in the page.
func eventually(t *testing.T, ctx context.Context, js string) { //nolint:revive // a test helper takes t first
	t.Helper()
	var ok bool
	if err := chromedp.Run(ctx, chromedp.Poll(js, &ok, chromedp.WithPollingTimeout(20*time.Second))); err != nil {
		var html string
		_ = chromedp.Run(ctx, chromedp.OuterHTML("main", &html))
		t.Fatalf("never true: %s: %v\n%s", js, err, html)
	}
}

// shot keeps a picture of the page where DMGUARD_TEST_SCREENSHOTS names a folder.
func shot(t *testing.T, ctx context.Context, name string) { //nolint:revive // a test helper takes t first
	t.Helper()
	dir := os.Getenv("DMGUARD_TEST_SCREENSHOTS")
	if dir == "" {
		return
	}
	var png []byte
	run(t, ctx, chromedp.FullScreenshot(&png, 100))
	if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o600); err != nil {
		t.Fatal(err)
	}
}

func clean(t *testing.T, ctx context.Context, w *watch) { //nolint:revive // a test helper takes t first
	t.Helper()
	var violations []string
	run(t, ctx, chromedp.Evaluate(`window.violations`, &violations))
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(violations)+len(w.security)+len(w.exception) > 0 {
		t.Errorf("the page did what its policy forbids, or failed: %q %q %q", violations, w.security, w.exception)
	}
}

// TestAReviewerTakesACaseToItsDecisionInABrowser walks the way of a shift: link,
// claim, reveal, hide, decide, with the keyboard where there are keys.
func TestAReviewerTakesACaseToItsDecisionInABrowser(t *testing.T) {
	g := newRig(t, 4)
	ctx, origin, w := openBrowser(t, g)
	link := origin + "/signin?t=" + g.server.Invites.New("alice", access.InviteTTL)

	run(t, ctx, chromedp.Navigate(link), chromedp.WaitVisible(`form[action="/signin"] button`))
	shot(t, ctx, "1-signin")
	clean(t, ctx, w)
	run(t, ctx, chromedp.Click(`form[action="/signin"] button`), chromedp.WaitVisible(`#claim`))
	shot(t, ctx, "2-cases")
	run(t, ctx, chromedp.KeyEvent("jj"))
	eventually(t, ctx, `document.querySelectorAll("tr.at").length === 1 && document.activeElement.closest("tr.at") !== null`)
	clean(t, ctx, w)

	run(t, ctx, chromedp.KeyEvent("c"), chromedp.WaitVisible(`#case`))
	shot(t, ctx, "3-case-masked")
	var html string
	run(t, ctx, chromedp.OuterHTML("html", &html))
	if strings.Contains(html, canary) {
		t.Error("the masked page holds content")
	}

	// Without a purpose, nothing is asked for.
	run(t, ctx, chromedp.KeyEvent("r"))
	eventually(t, ctx, `document.querySelector("#purpose:invalid") !== null`)
	if w.requested("/api/v1/cases/" + g.q.cases[0].ID + "/reveal") {
		t.Error("a reveal without a purpose was sent")
	}
	run(t, ctx, chromedp.SetValue(`#purpose`, "safety_review"))
	run(t, ctx, chromedp.Focus(`main`), chromedp.KeyEvent("j"), chromedp.KeyEvent("r"))
	eventually(t, ctx, `document.querySelectorAll(".words").length === 1`)
	shot(t, ctx, "4-revealed")
	var text string
	run(t, ctx, chromedp.Text(`.words p`, &text))
	if !strings.Contains(text, canary) || !strings.Contains(text, "<script>") {
		t.Errorf("the words are not shown as they were written: %q", text)
	}

	// One thing at a time; hidden characters are visible; a picture is grey and blurred.
	run(t, ctx, chromedp.KeyEvent("j"), chromedp.KeyEvent("r"))
	eventually(t, ctx, `document.querySelectorAll(".words").length === 1 && document.querySelector(".odd")?.textContent === "⟨U+202E⟩"`)
	run(t, ctx, chromedp.Click(`button[value="attachment:a-1"]`))
	eventually(t, ctx, `document.querySelectorAll(".words").length === 0 && document.querySelector(".frame img.grey.blur")?.naturalWidth === 96`)
	shot(t, ctx, "5-picture")
	run(t, ctx, chromedp.Click(`button[value="context"]`))
	eventually(t, ctx, `document.querySelectorAll(".words").length === 2 && document.querySelector(".frame") === null`)
	shot(t, ctx, "6-context")

	run(t, ctx, chromedp.KeyEvent(kb.Escape))
	eventually(t, ctx, `document.querySelector(".words") === null`)
	run(t, ctx, chromedp.OuterHTML("html", &html))
	if strings.Contains(html, canary) {
		t.Error("Esc left content on the page")
	}
	clean(t, ctx, w)
	if w.requested("/stolen") || w.requested("/x") {
		t.Error("a message reached the network")
	}
	if n := len(g.q.audited); n != 4 {
		t.Errorf("%d reveals, want 4 with one field each", n)
	}

	// A key chooses, and only Enter sends.
	run(t, ctx, chromedp.KeyEvent("?"), chromedp.WaitVisible(`#help`))
	shot(t, ctx, "7-help")
	run(t, ctx, chromedp.KeyEvent(kb.Escape), chromedp.WaitNotVisible(`#help`))
	run(t, ctx, chromedp.KeyEvent("1"))
	eventually(t, ctx, `document.activeElement.matches("[data-send]") && document.activeElement.textContent.includes("confirm")`)
	if len(g.q.decided) != 0 {
		t.Error("a key alone decided")
	}
	shot(t, ctx, "8-armed")
	run(t, ctx, chromedp.KeyEvent(kb.Enter), chromedp.WaitVisible(`.notice`))
	shot(t, ctx, "9-decided")
	clean(t, ctx, w)
	if len(g.q.decided) != 1 || g.q.decided[0].Choice != "confirm" {
		t.Errorf("decided %v", g.q.decided)
	}

	// The link is used up.
	run(t, ctx, chromedp.Navigate(link), chromedp.WaitVisible(`h1`), chromedp.Text("h1", &text))
	shot(t, ctx, "10-used-link")
	if text != "This link is used up" {
		t.Errorf("the second use of the link: %q", text)
	}

	// That nothing was forbidden above means something only if this is.
	var refused bool
	run(t, ctx, chromedp.Evaluate(`(() => { try { document.body.innerHTML = "x"; return false } catch { return true } })()`, &refused))
	var violations []string
	run(t, ctx, chromedp.Evaluate(`window.violations`, &violations))
	if !refused || len(violations) == 0 {
		t.Error("the policy does not forbid HTML from strings, or nobody notices")
	}
}

// TestWhatIsRevealedHidesItself holds the 30 seconds (here: one) and the end of
// a lease, and shows the dark page.
func TestWhatIsRevealedHidesItself(t *testing.T) {
	g := newRig(t, 2)
	ctx, origin, w := openBrowser(t, g)
	run(t, ctx, emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}}))
	run(t, ctx, chromedp.Navigate(origin+"/signin?t="+g.server.Invites.New("alice", access.InviteTTL)), chromedp.Click(`form[action="/signin"] button`), chromedp.WaitVisible(`#claim`))
	shot(t, ctx, "20-dark-cases")
	run(t, ctx, chromedp.KeyEvent("c"), chromedp.WaitVisible(`#case`))
	run(t, ctx, chromedp.Evaluate(`document.querySelector("#case").dataset.hide = "1"`, nil), chromedp.SetValue(`#purpose`, "safety_review"))
	run(t, ctx, chromedp.Click(`button[value="context"]`))
	eventually(t, ctx, `document.querySelector(".words") !== null`)
	shot(t, ctx, "21-dark-revealed")
	eventually(t, ctx, `document.querySelector(".words") === null`)

	// The lease ends elsewhere: the next reveal says so and takes the controls away.
	g.q.mu.Lock()
	for _, c := range g.q.cases {
		c.token = "taken"
	}
	g.q.mu.Unlock()
	run(t, ctx, chromedp.Click(`button[value="context"]`))
	eventually(t, ctx, `document.querySelector("[data-problem]").textContent.includes("no longer hold") && [...document.querySelectorAll(".desk button, .slot button, .lease button")].every((b) => b.disabled)`)
	shot(t, ctx, "22-dark-lost")
	clean(t, ctx, w)
}

// TestAVisiblePageKeepsItsLease holds the heartbeat: a short lease outlives its
// first length while somebody is there.
func TestAVisiblePageKeepsItsLease(t *testing.T) {
	g := newRig(t, 1)
	ctx, origin, w := openBrowser(t, g)
	run(t, ctx, chromedp.Navigate(origin+"/signin?t="+g.server.Invites.New("alice", access.InviteTTL)), chromedp.Click(`form[action="/signin"] button`), chromedp.WaitVisible(`#claim`))
	g.q.lease = 20 * time.Second
	run(t, ctx, chromedp.KeyEvent("c"), chromedp.WaitVisible(`#case`))
	eventually(t, ctx, `performance.getEntriesByType("resource").some((r) => r.name.endsWith("/heartbeat"))`)
	clean(t, ctx, w)
}
