package console

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/dmguard/dmguard/reviewqueue"
	"github.com/dmguard/dmguard/reviewqueue/access"
)

func sha256Hex(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:])
}

func writeTemp(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "reviewers.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// browser is as much of one as forms need.
type browser struct {
	g      *rig
	cookie *http.Cookie
}

// browse signs a reviewer in by a link.
func browse(g *rig, who string) *browser {
	g.t.Helper()
	b := &browser{g: g}
	w := b.post("/signin", url.Values{"t": {g.server.Invites.New(who, access.InviteTTL)}})
	if w.Code != http.StatusSeeOther || b.cookie == nil {
		g.t.Fatalf("sign-in: %d", w.Code)
	}
	return b
}

func (b *browser) do(r *http.Request) *httptest.ResponseRecorder {
	if b.cookie != nil {
		r.AddCookie(b.cookie)
	}
	w := httptest.NewRecorder()
	b.g.mux.ServeHTTP(w, r)
	for _, c := range w.Result().Cookies() {
		b.cookie = c
	}
	return w
}

func (b *browser) get(path string) *httptest.ResponseRecorder {
	return b.do(httptest.NewRequest(http.MethodGet, path, nil))
}

func (b *browser) post(path string, form url.Values) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	return b.do(r)
}

// take claims a case and returns its page's address and the lease token in it.
func (b *browser) take() (path, token string) {
	b.g.t.Helper()
	w := b.post("/claim", url.Values{"key": {"k"}})
	path = w.Header().Get("Location")
	if w.Code != http.StatusSeeOther || !strings.HasPrefix(path, "/cases/") {
		b.g.t.Fatalf("claim: %d, to %q", w.Code, path)
	}
	m := regexp.MustCompile(`name="lease_token" value="([^"]+)"`).FindStringSubmatch(b.get(path).Body.String())
	if m == nil {
		b.g.t.Fatal("the page of a claimed case has no lease")
	}
	return path, m[1]
}

func TestALinkSignsInOnceAndLookingAtItDoesNotUseItUp(t *testing.T) {
	g := newRig(t, 1)
	link := "/signin?t=" + g.server.Invites.New("alice", access.InviteTTL)
	for range 3 {
		if w := (&browser{g: g}).get(link); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "Sign in") {
			t.Fatalf("looking at the link: %d", w.Code)
		}
	}
	form := url.Values{"t": {strings.TrimPrefix(link, "/signin?t=")}}
	b := &browser{g: g}
	if w := b.post("/signin", form); w.Code != http.StatusSeeOther || b.get("/").Code != http.StatusOK {
		t.Fatalf("the link does not sign in: %d", w.Code)
	}
	second := &browser{g: g}
	if w := second.post("/signin", form); w.Code != http.StatusGone || second.cookie != nil {
		t.Errorf("the second use: %d", w.Code)
	}
	if w := second.get(link); w.Code != http.StatusGone || !strings.Contains(w.Body.String(), "used up") {
		t.Errorf("looking at a used link: %d", w.Code)
	}
}

func TestATokenSignsInToo(t *testing.T) {
	g := newRig(t, 1)
	b := &browser{g: g}
	if w := b.post("/signin", url.Values{"token": {"wrong"}}); w.Code != http.StatusForbidden || b.cookie != nil {
		t.Errorf("a wrong token: %d", w.Code)
	}
	if w := b.post("/signin?token="+g.secrets["alice"], url.Values{}); w.Code != http.StatusForbidden || b.cookie != nil {
		t.Errorf("a token in the address: %d", w.Code)
	}
	if w := b.post("/signin", url.Values{"token": {g.secrets["alice"] + "\n"}}); w.Code != http.StatusSeeOther {
		t.Errorf("the token: %d", w.Code)
	}
	if w := b.get("/"); w.Code != http.StatusOK {
		t.Errorf("signed in: %d", w.Code)
	}
}

func TestTheCookieIsKeptFromScriptsAndOtherSites(t *testing.T) {
	g := newRig(t, 0)
	c := browse(g, "alice").cookie
	if c.Name != "dmguard_session" || !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" || c.Secure {
		t.Errorf("%+v", c)
	}
	g.server.TLS = true
	c = browse(g, "alice").cookie
	if c.Name != "__Host-dmguard_session" || !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" || !c.Secure {
		t.Errorf("over TLS: %+v", c)
	}
	if g.call("", http.MethodGet, "/signin", "").Header().Get("Strict-Transport-Security") == "" {
		t.Error("no HSTS over TLS")
	}
}

func TestWhatAnotherSiteSendsIsRefused(t *testing.T) {
	g := newRig(t, 2)
	b := browse(g, "alice")
	path, token := b.take()
	form := url.Values{"lease_token": {token}, "decision": {"confirm"}}
	for name, headers := range map[string]map[string]string{
		"cross-site":        {"Sec-Fetch-Site": "cross-site", "Origin": "http://evil.example"},
		"same-site":         {"Sec-Fetch-Site": "same-site"},
		"another origin":    {"Origin": "http://evil.example"},
		"the null origin":   {"Origin": "null"},
		"no origin at all":  {},
		"origin of a port":  {"Origin": "http://example.com:81"},
		"an unknown answer": {"Sec-Fetch-Site": "perhaps"},
	} {
		for _, target := range []string{path + "/decision", "/claim", "/signout", "/api/v1/claims"} {
			r := httptest.NewRequest(http.MethodPost, target, strings.NewReader(form.Encode()))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			for k, v := range headers {
				r.Header.Set(k, v)
			}
			r.AddCookie(b.cookie)
			w := httptest.NewRecorder()
			g.mux.ServeHTTP(w, r)
			if w.Code != http.StatusForbidden {
				t.Errorf("%s to %s: %d", name, target, w.Code)
			}
		}
	}
	if len(g.q.decided) > 0 {
		t.Error("it had an effect")
	}
	if w := b.post(path+"/decision", form); w.Code != http.StatusSeeOther || len(g.q.decided) != 1 {
		t.Errorf("the site's own form: %d", w.Code)
	}
}

func TestASessionEndsWithSigningOutAndWithItsReviewer(t *testing.T) {
	g := newRig(t, 1)
	b := browse(g, "alice")
	old := *b.cookie
	if w := b.post("/signout", nil); w.Code != http.StatusSeeOther || b.cookie.MaxAge >= 0 {
		t.Errorf("sign-out: %d %+v", w.Code, b.cookie)
	}
	b.cookie = &old
	if w := b.get("/"); w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/signin" {
		t.Errorf("the old cookie: %d", w.Code)
	}
	b = browse(g, "alice")
	tokens, err := access.OneToken(g.secrets["bob"], access.Reviewer{ID: "bob", Roles: []access.Role{access.Review}})
	if err != nil {
		t.Fatal(err)
	}
	g.server.Tokens = tokens
	if w := b.get("/"); w.Code != http.StatusSeeOther {
		t.Errorf("a reviewer who was removed: %d", w.Code)
	}
	r := httptest.NewRequest(http.MethodGet, "/api/v1/stats", nil)
	if w := b.do(r); w.Code != http.StatusUnauthorized {
		t.Errorf("a reviewer who was removed, at the API: %d", w.Code)
	}
}

func TestTheFormsWorkWithoutAScript(t *testing.T) {
	g := newRig(t, 2)
	b := browse(g, "alice")
	if w := b.get("/"); !strings.Contains(w.Body.String(), g.q.cases[0].ID) || !strings.Contains(w.Body.String(), "Claim the next case") {
		t.Error("the first page lists no case")
	}
	path, token := b.take()
	if again := b.post("/claim", url.Values{"key": {"k"}}).Header().Get("Location"); again != path {
		t.Error("a form sent twice takes two cases")
	}
	field := "text:" + g.q.cases[0].Timeline[1].MessageID
	form := url.Values{"lease_token": {token}, "purpose": {"safety_review"}, "basis": {g.q.cases[0].ID}, "field": {field, "context"}}
	w := b.post(path+"/reveal", form)
	page := w.Body.String()
	if w.Code != http.StatusOK || strings.Count(page, canary) != 1 {
		t.Errorf("reveal: %d, %d pieces of content", w.Code, strings.Count(page, canary))
	}
	if strings.Contains(page, "<script>fetch") || strings.Contains(page, "<img src=x") {
		t.Error("a message became markup")
	}
	if refresh := w.Header().Get("Refresh"); refresh != "30;url="+path {
		t.Errorf("Refresh: %q", refresh)
	}
	form.Set("field", "text")
	form.Set("basis", "none")
	if w := b.post(path+"/reveal", form); w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), "basis does not exist") {
		t.Errorf("a basis that is not there: %d", w.Code)
	}
	if w := b.post(path+"/decision", url.Values{"lease_token": {token}}); w.Code != http.StatusUnprocessableEntity {
		t.Errorf("no choice: %d", w.Code)
	}
	if w := b.post(path+"/keep", url.Values{"lease_token": {token}}); w.Header().Get("Location") != path+"?said=kept" {
		t.Errorf("keep: %d", w.Code)
	}
	if w := b.post(path+"/decision", url.Values{"lease_token": {token}, "decision": {"escalate"}}); w.Header().Get("Location") != "/?said=escalate" {
		t.Errorf("decision: %d", w.Code)
	}
	for _, what := range []string{"decision", "release", "keep", "reveal"} {
		form := url.Values{"lease_token": {token}, "decision": {"confirm"}, "field": {"text"}, "purpose": {"safety_review"}, "basis": {g.q.cases[0].ID}}
		if w := b.post(path+"/"+what, form); w.Header().Get("Location") != "/?said=lost" {
			t.Errorf("%s after the lease: %d", what, w.Code)
		}
	}
	path, token = b.take()
	if w := b.post(path+"/release", url.Values{"lease_token": {token}}); w.Header().Get("Location") != "/?said=released" {
		t.Errorf("release: %d", w.Code)
	}
	b.take()
	if w := b.post("/claim", url.Values{"key": {"other"}}); w.Header().Get("Location") != "/?said=empty" {
		t.Errorf("an empty queue: %q", w.Header().Get("Location"))
	}
}

func TestAnothersCaseIsShownMaskedAndWithoutControls(t *testing.T) {
	g := newRig(t, 1)
	path, token := browse(g, "alice").take()
	w := browse(g, "bob").get(path)
	if w.Code != http.StatusOK || strings.Contains(w.Body.String(), token) || strings.Contains(w.Body.String(), "/reveal") || strings.Contains(w.Body.String(), canary) {
		t.Errorf("bob sees alice's case with controls: %d", w.Code)
	}
}

func TestPagesForPeopleAreFriendlyAndTight(t *testing.T) {
	g := newRig(t, 1)
	b := browse(g, "alice")
	audrey := browse(g, "audrey")
	for _, test := range []struct {
		w      *httptest.ResponseRecorder
		status int
		says   string
	}{
		{b.get("/"), 200, "Waiting, most urgent first"},
		{b.get("/nothing"), 404, "Nothing here"},
		{b.get("/cases/c-none"), 404, "Nothing here"},
		{b.get("/static/nothing.js"), 404, "Nothing here"},
		{b.get("/claim"), 405, "Method Not Allowed"},
		{b.get("/signin"), 200, "Access token"},
		{b.get("/signin?t=none"), 410, "used up"},
		{audrey.get("/"), 200, "numbers, not cases"},
		{audrey.get("/cases/" + g.q.cases[0].ID), 403, "Not allowed"},
		{(&browser{g: g}).get("/cases/x"), 303, ""},
		{(&browser{g: g}).get("/static/console.css"), 200, "--ground"},
	} {
		if test.w.Code != test.status || !strings.Contains(test.w.Body.String(), test.says) {
			t.Errorf("got %d, want %d and %q", test.w.Code, test.status, test.says)
		}
		h := test.w.Header()
		if h.Get("Content-Security-Policy") != contentSecurityPolicy || h.Get("X-Content-Type-Options") != "nosniff" ||
			h.Get("Referrer-Policy") != "no-referrer" || h.Get("Cross-Origin-Opener-Policy") != "same-origin" {
			t.Errorf("%d: headers %v", test.status, h)
		}
		if body := test.w.Body.String(); regexp.MustCompile(`(?i)<script>|\sstyle=|\son[a-z]+=|javascript:`).MatchString(body) {
			t.Errorf("%d: inline code or style", test.status)
		}
	}
	g.q.err = http.ErrServerClosed
	if w := b.get("/"); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "Nothing is lost") {
		t.Errorf("an outage: %d", w.Code)
	}
	g.q.panics = true
	if w := b.get("/"); w.Code != http.StatusInternalServerError || !strings.Contains(w.Body.String(), "Something broke") {
		t.Errorf("a fault: %d", w.Code)
	}
}

func TestHiddenCharactersAreMadeVisible(t *testing.T) {
	got := visible("a\u202eb\u200b\x00\n\tü\u2028")
	if want := "a⟨U+202E⟩b⟨U+200B⟩⟨U+0000⟩\n\tü⟨U+2028⟩"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestSpansStayInsideTheirBar(t *testing.T) {
	e := conversation(0).Timeline[0]
	e.TextBytes = 10
	e.Findings[0].Spans = append(e.Findings[0].Spans, e.Findings[0].Spans[0])
	e.Findings[0].Spans[0].Start, e.Findings[0].Spans[0].End = -5, 3
	e.Findings[0].Spans[1].Start, e.Findings[0].Spans[1].End = 9, 99
	got := bars(e)
	if len(got) != 2 || got[0] != (bar{0, 300}) || got[1] != (bar{900, 100}) {
		t.Errorf("%v", got)
	}
	e.Findings[0].MessageID = "another"
	if bars(e) != nil {
		t.Error("a span of another message is drawn")
	}
	if bars(reviewqueue.Event{}) != nil {
		t.Error("a bar without a text")
	}
}

// TestNoAddressSearchesOrListsPeople is the whole surface: who adds a route must
// come here and say why.
func TestNoAddressSearchesOrListsPeople(t *testing.T) {
	want := map[string]bool{
		"GET /healthz": true, "GET /readyz": true,
		"POST /api/v1/claims": true, "POST /api/v1/cases/{id}/heartbeat": true, "POST /api/v1/cases/{id}/release": true,
		"POST /api/v1/cases/{id}/reveal": true, "POST /api/v1/cases/{id}/decision": true, "GET /api/v1/stats": true, "GET /api/v1/openapi.yaml": true,
		"GET /signin": true, "POST /signin": true, "POST /signout": true, "GET /{$}": true, "POST /claim": true, "GET /cases/{id}": true,
		"POST /cases/{id}/reveal": true, "POST /cases/{id}/decision": true, "POST /cases/{id}/keep": true, "POST /cases/{id}/release": true,
		"GET /static/{name}": true,
	}
	routes := newRig(t, 0).server.routes
	for _, rt := range routes {
		if !want[rt.method+" "+rt.path] {
			t.Errorf("unexpected %s %s", rt.method, rt.path)
		}
	}
	if len(routes) != len(want) {
		t.Errorf("%d routes, want %d", len(routes), len(want))
	}
}

func TestAWrongTokenIsNotMadeGoodByASession(t *testing.T) {
	g := newRig(t, 0)
	b := browse(g, "alice")
	r := httptest.NewRequest(http.MethodGet, "/api/v1/stats", nil)
	if w := b.do(r); w.Code != http.StatusOK {
		t.Fatalf("the session alone: %d", w.Code)
	}
	r = httptest.NewRequest(http.MethodGet, "/api/v1/stats", nil)
	r.Header.Set("Authorization", "Bearer wrong")
	g.problem(b.do(r), http.StatusUnauthorized, "unauthenticated")
}
