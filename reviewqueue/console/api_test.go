package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"go.yaml.in/yaml/v3"

	"github.com/dmguard/dmguard/reviewqueue/access"
)

// rig is a console with three reviewers, in front of a fake queue.
type rig struct {
	t       *testing.T
	q       *fakeQueue
	server  *server
	mux     *http.ServeMux
	logs    *observer.ObservedLogs
	secrets map[string]string // reviewer → token
}

func newRig(t *testing.T, cases int) *rig {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	g := &rig{t: t, q: seeded(cases), logs: logs, secrets: map[string]string{}}
	var file strings.Builder
	for id, roles := range map[string]string{"alice": "reviewer", "bob": "reviewer", "lee": "le_liaison, reviewer", "audrey": "auditor"} {
		g.secrets[id] = access.NewSecret()
		fmt.Fprintf(&file, "- {id: %s, roles: [%s], token_sha256: [%s]}\n", id, roles, sha256Hex(g.secrets[id]))
	}
	tokens, err := access.OpenTokens(writeTemp(t, file.String()))
	if err != nil {
		t.Fatal(err)
	}
	g.server = newServer(Config{Tokens: tokens, Invites: new(access.Invites), Sessions: new(access.Sessions), Logger: zap.New(core)}, g.q)
	g.mux = g.server.mux()
	return g
}

// call sends one request with a reviewer's token; headers come in pairs.
func (g *rig) call(who, method, path, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if who != "" {
		r.Header.Set("Authorization", "Bearer "+g.secrets[who])
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	g.mux.ServeHTTP(w, r)
	return w
}

type claimed struct {
	Case struct {
		ID, State string
	}
	LeaseToken     string    `json:"lease_token"`
	LeaseExpiresAt time.Time `json:"lease_expires_at"`
}

// claim takes the next case.
func (g *rig) claim(who string, headers ...string) claimed {
	g.t.Helper()
	w := g.call(who, http.MethodPost, "/api/v1/claims", "{}", headers...)
	if w.Code != http.StatusOK {
		g.t.Fatalf("claim: %d %s", w.Code, w.Body)
	}
	var c claimed
	if err := json.Unmarshal(w.Body.Bytes(), &c); err != nil {
		g.t.Fatal(err)
	}
	return c
}

func (c claimed) path(what string) string { return "/api/v1/cases/" + c.Case.ID + "/" + what }

func revealBody(token, purpose, basis string, fields ...string) string {
	b, _ := json.Marshal(map[string]any{"lease_token": token, "purpose": purpose, "basis": basis, "fields": fields})
	return string(b)
}

// specification is openapi.yaml, and a compiler that knows its schemas.
func specification(t *testing.T) (map[string]any, *jsonschema.Compiler) {
	t.Helper()
	var doc map[string]any
	if err := yaml.Unmarshal(openAPI, &doc); err != nil {
		t.Fatal(err)
	}
	// Through JSON, so that numbers are what the compiler wants.
	raw, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := jsonschema.UnmarshalJSON(strings.NewReader(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("openapi.json", parsed); err != nil {
		t.Fatal(err)
	}
	spec, ok := parsed.(map[string]any)
	if !ok {
		t.Fatal("openapi.yaml is not an object")
	}
	return spec, c
}

func at(v any, path ...string) any {
	for _, p := range path {
		m, _ := v.(map[string]any)
		v = m[p]
	}
	return v
}

// documented are the operations as "POST /api/v1/claims", with the pointers to
// the schemas of their answers by status, "" where there is no body.
func documented(t *testing.T, spec map[string]any) map[string]map[string]string {
	t.Helper()
	all := map[string]map[string]string{}
	paths, _ := spec["paths"].(map[string]any)
	for path, item := range paths {
		operations, _ := item.(map[string]any)
		for method, op := range operations {
			if method == "parameters" {
				continue
			}
			name := strings.ToUpper(method) + " /api/v1" + path
			all[name] = map[string]string{}
			responses, _ := at(op, "responses").(map[string]any)
			for code, resp := range responses {
				pointer := "/paths/" + strings.ReplaceAll(path, "/", "~1") + "/" + method + "/responses/" + code
				if ref, ok := at(resp, "$ref").(string); ok {
					pointer = strings.TrimPrefix(ref, "#")
					resp = at(spec, strings.Split(pointer, "/")[1:]...)
				}
				content, _ := at(resp, "content").(map[string]any)
				all[name][code] = ""
				for mediaType := range content {
					all[name][code] = mediaType + " " + pointer + "/content/" + strings.ReplaceAll(mediaType, "/", "~1") + "/schema"
				}
			}
		}
	}
	return all
}

func TestEveryRouteOfTheAPIIsDocumentedAndEveryDocumentedOneExists(t *testing.T) {
	spec, _ := specification(t)
	want := slices.Sorted(maps.Keys(documented(t, spec)))
	var got []string
	for _, rt := range newRig(t, 0).server.routes {
		if isAPI(rt.path) {
			got = append(got, rt.method+" "+rt.path)
			if rt.admission != api {
				t.Errorf("%s %s lets everyone in", rt.method, rt.path)
			}
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("openapi.yaml and the routes differ (-documented +served):\n%s", diff)
	}
}

// TestEveryDocumentedAnswerCanBeProvokedAndFitsItsSchema holds openapi.yaml and
// the handlers to each other, status by status, both ways.
func TestEveryDocumentedAnswerCanBeProvokedAndFitsItsSchema(t *testing.T) {
	spec, compiler := specification(t)
	want := documented(t, spec)
	type answers map[string]*httptest.ResponseRecorder
	got := map[string]answers{}
	record := func(op string, w *httptest.ResponseRecorder) {
		if got[op] == nil {
			got[op] = answers{}
		}
		got[op][strconv.Itoa(w.Code)] = w
	}
	for op := range want {
		method, path, _ := strings.Cut(op, " ")
		fresh := func() (*rig, string, func(body string, who string, headers ...string)) {
			g := newRig(t, 2)
			p := path
			token := ""
			if strings.Contains(path, "{id}") {
				c := g.claim("alice")
				p, token = strings.Replace(path, "{id}", c.Case.ID, 1), c.LeaseToken
			}
			return g, token, func(body, who string, headers ...string) { record(op, g.call(who, method, p, body, headers...)) }
		}
		body := func(token string) string {
			switch {
			case strings.HasSuffix(path, "/reveal"):
				return revealBody(token, "safety_review", seeded(1).cases[0].ID, "text", "context", "attachment:a-1", "attachment:none")
			case strings.HasSuffix(path, "/decision"):
				return `{"lease_token":"` + token + `","decision":"confirm","label":"grooming","note":"n"}`
			default:
				return `{"lease_token":"` + token + `"}`
			}
		}
		g, token, send := fresh()
		send(body(token), "alice") // 200 or 204
		send(body(token), "")      // 401
		if strings.HasSuffix(path, "/claims") {
			g.q.cases = nil
			send("{}", "alice") // 204
			send(`{"queue":"nonsense"}`, "alice")
		}
		if method == http.MethodPost {
			_, _, send = fresh()
			send("{", "alice")
			send(body(""), "alice")
			send(`{"x":"`+strings.Repeat("x", maxBody)+`"}`, "alice")
			g, token, send = fresh()
			send(body(token), "audrey")
			if strings.Contains(path, "{id}") {
				send(body("wrong"), "alice")
				record(op, g.call("alice", method, strings.Replace(path, "{id}", "c-none", 1), body(token)))
			}
		} else if !strings.HasSuffix(path, "openapi.yaml") {
			// Every role may count: the queue says no by itself.
			g, _, send = fresh()
			g.q.err = access.ErrForbidden
			send("", "alice")
		}
		if !strings.HasSuffix(path, "openapi.yaml") {
			g, token, send = fresh()
			g.q.err = errors.New("redis: connection refused")
			send(body(token), "alice")
			g.q.panics = true
			send(body(token), "alice")
		}
		g, _, _ = fresh()
		record(op, g.call("alice", http.MethodDelete, strings.Replace(path, "{id}", "c-none", 1), ""))
	}
	for op, codes := range want {
		var provoked []string
		for code := range got[op] {
			provoked = append(provoked, code)
		}
		slices.Sort(provoked)
		if diff := cmp.Diff(slices.Sorted(maps.Keys(codes)), provoked); diff != "" {
			t.Errorf("%s: statuses (-documented +provoked):\n%s", op, diff)
		}
		for code, w := range got[op] {
			mediaType, pointer, hasBody := strings.Cut(codes[code], " ")
			if !hasBody {
				if w.Body.Len() > 0 {
					t.Errorf("%s %s: a body where none is documented", op, code)
				}
				continue
			}
			if ct := w.Header().Get("Content-Type"); ct != mediaType {
				t.Errorf("%s %s: content type %q, documented is %q", op, code, ct, mediaType)
			}
			if mediaType == "application/yaml" {
				continue
			}
			schema, err := compiler.Compile("openapi.json#" + pointer)
			if err != nil {
				t.Fatal(err)
			}
			value, err := jsonschema.UnmarshalJSON(w.Body)
			if err != nil {
				t.Errorf("%s %s: %v", op, code, err)
				continue
			}
			if err := schema.Validate(value); err != nil {
				t.Errorf("%s %s: %v", op, code, err)
			}
		}
	}
}

func (g *rig) problem(w *httptest.ResponseRecorder, status int, code string) {
	g.t.Helper()
	var p problem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		g.t.Errorf("%d %q: %v", w.Code, w.Body, err)
		return
	}
	if w.Code != status || p.Status != status || p.Code != code || w.Header().Get("Content-Type") != "application/problem+json" {
		g.t.Errorf("got %d %s (%s), want %d %s", w.Code, p.Code, w.Header().Get("Content-Type"), status, code)
	}
	if w.Header().Get("Cache-Control") != "no-store" {
		g.t.Error("the answer may be stored")
	}
}

func TestNobodyGetsUnderTheAPIWithoutAToken(t *testing.T) {
	g := newRig(t, 1)
	for _, path := range []string{"/api/v1/claims", "/api/v1/stats", "/api/v1/openapi.yaml", "/api/", "/api/v1/nothing", "/api/v2/claims", "/api/v1/cases/x/reveal"} {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodDelete, http.MethodOptions, "BREW"} {
			for _, auth := range []string{"", "Bearer", "Bearer ", "Bearer wrong", "Basic " + g.secrets["alice"], g.secrets["alice"], "Bearer " + g.secrets["alice"] + "x"} {
				r := httptest.NewRequest(method, path, nil)
				if auth != "" {
					r.Header.Set("Authorization", auth)
				}
				w := httptest.NewRecorder()
				g.mux.ServeHTTP(w, r)
				g.problem(w, http.StatusUnauthorized, "unauthenticated")
				if w.Header().Get("WWW-Authenticate") == "" {
					t.Error("no WWW-Authenticate")
				}
			}
		}
	}
	r := httptest.NewRequest(http.MethodGet, "/api/v1/stats", nil)
	r.Header["Authorization"] = []string{"Bearer " + g.secrets["alice"], "Bearer wrong"}
	w := httptest.NewRecorder()
	g.mux.ServeHTTP(w, r)
	g.problem(w, http.StatusUnauthorized, "unauthenticated")
}

func TestWhatIsNotThereIsAProblemUnderTheAPI(t *testing.T) {
	g := newRig(t, 1)
	g.problem(g.call("alice", http.MethodGet, "/api/v1/nothing", ""), http.StatusNotFound, "not_found")
	g.problem(g.call("alice", http.MethodGet, "/api/", ""), http.StatusNotFound, "not_found")
	w := g.call("alice", http.MethodGet, "/api/v1/claims", "")
	g.problem(w, http.StatusMethodNotAllowed, "method_not_allowed")
	if allow := w.Header().Get("Allow"); allow != "POST" {
		t.Errorf("Allow: %q", allow)
	}
	w = g.call("alice", http.MethodPost, "/api/v1/stats", "")
	if allow := w.Header().Get("Allow"); allow != "GET, HEAD" || w.Code != http.StatusMethodNotAllowed {
		t.Errorf("%d, Allow: %q", w.Code, allow)
	}
}

func TestACaseGoesFromClaimToDecision(t *testing.T) {
	g := newRig(t, 2)
	c := g.claim("alice", "Idempotency-Key", "k1")
	if again := g.claim("alice", "Idempotency-Key", "k1"); again != c {
		t.Errorf("the same key gave another lease: %v, %v", c, again)
	}
	if c.Case.State != "leased" || !strings.HasPrefix(c.Case.ID, "c-") {
		t.Errorf("claimed %+v", c)
	}
	w := g.call("alice", http.MethodPost, c.path("reveal"), revealBody(c.LeaseToken, "safety_review", c.Case.ID, "text", "context", "attachment:a-1", "nothing"))
	var revealed struct{ Fields map[string]any }
	if err := json.Unmarshal(w.Body.Bytes(), &revealed); err != nil || w.Code != http.StatusOK {
		t.Fatal(w.Code, err)
	}
	if text, _ := revealed.Fields["text"].(string); !strings.Contains(text, canary) {
		t.Error("the text was not revealed")
	}
	if v, there := revealed.Fields["nothing"]; !there || v != nil {
		t.Error("an absent field is not null")
	}
	decision := `{"lease_token":"` + c.LeaseToken + `","decision":"dismiss","label":"not_harmful","note":"two friends","more":1}`
	if w := g.call("alice", http.MethodPost, c.path("decision"), decision); w.Code != http.StatusOK {
		t.Fatal(w.Code, w.Body)
	}
	if d := g.q.decided[0]; d.Choice != "dismiss" || d.Label != "not_harmful" || d.Note.Reveal() != "two friends" {
		t.Errorf("decided %v", d)
	}
	g.problem(g.call("alice", http.MethodPost, c.path("decision"), decision), http.StatusConflict, "lease_lost")
	next := g.claim("alice")
	if w := g.call("alice", http.MethodPost, next.path("release"), `{"lease_token":"`+next.LeaseToken+`"}`); w.Code != http.StatusNoContent {
		t.Errorf("release: %d", w.Code)
	}
	if after := g.claim("bob"); after.Case.ID != next.Case.ID {
		t.Error("what was given back does not wait")
	}
	if w := g.call("bob", http.MethodPost, "/api/v1/claims", ""); w.Code != http.StatusNoContent || w.Body.Len() > 0 {
		t.Errorf("an empty queue: %d", w.Code)
	}
}

func TestAReviewerCannotUseAnothersLease(t *testing.T) {
	g := newRig(t, 2)
	c := g.claim("alice")
	for what, body := range map[string]string{
		"heartbeat": `{"lease_token":"` + c.LeaseToken + `"}`,
		"release":   `{"lease_token":"` + c.LeaseToken + `"}`,
		"reveal":    revealBody(c.LeaseToken, "safety_review", c.Case.ID, "text"),
		"decision":  `{"lease_token":"` + c.LeaseToken + `","decision":"confirm"}`,
	} {
		w := g.call("bob", http.MethodPost, c.path(what), body)
		g.problem(w, http.StatusConflict, "lease_lost")
		if strings.Contains(w.Body.String(), canary) {
			t.Errorf("%s shows content", what)
		}
	}
	if len(g.q.audited)+len(g.q.decided) > 0 {
		t.Error("it had an effect")
	}
}

func TestARevealNeedsALawfulReason(t *testing.T) {
	g := newRig(t, 1)
	c := g.claim("lee")
	for _, test := range []struct {
		who, purpose, basis string
		status              int
		code                string
	}{
		{"lee", "", c.Case.ID, 403, "purpose"},
		{"lee", "curiosity", c.Case.ID, 403, "purpose"},
		{"lee", "safety_review", "", 403, "basis"},
		{"lee", "safety_review", "c-other", 403, "basis"},
		{"lee", "user_report", "report-9", 403, "basis"},
		{"lee", "law_enforcement_request", "warrant-9", 403, "basis"},
		{"alice", "law_enforcement_request", "warrant-1", 403, "forbidden"},
		{"audrey", "safety_review", c.Case.ID, 403, "forbidden"},
	} {
		g.problem(g.call(test.who, http.MethodPost, c.path("reveal"), revealBody(c.LeaseToken, test.purpose, test.basis, "text")), test.status, test.code)
	}
	if len(g.q.audited) > 0 {
		t.Error("something was revealed")
	}
	for purpose, basis := range map[string]string{"user_report": "report-0", "law_enforcement_request": "warrant-1"} {
		if w := g.call("lee", http.MethodPost, c.path("reveal"), revealBody(c.LeaseToken, purpose, basis, "text")); w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", purpose, w.Code, w.Body)
		}
	}
}

func TestWithoutTheAuditLogNothingIsShown(t *testing.T) {
	g := newRig(t, 1)
	c := g.claim("alice")
	g.q.auditDown = true
	w := g.call("alice", http.MethodPost, c.path("reveal"), revealBody(c.LeaseToken, "safety_review", c.Case.ID, "text"))
	g.problem(w, http.StatusServiceUnavailable, "audit_unavailable")
	if w.Header().Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
}

func TestMalformedBodiesAreRefused(t *testing.T) {
	g := newRig(t, 1)
	c := g.claim("alice")
	tok := `"lease_token":"` + c.LeaseToken + `"`
	for _, test := range []struct {
		what, body string
		status     int
		code       string
	}{
		{"decision", `{`, 400, "malformed"},
		{"decision", `[]`, 400, "malformed"},
		{"decision", `null`, 400, "malformed"},
		{"decision", `{"a":1}{"b":2}`, 400, "malformed"},
		{"decision", `{` + tok + `,` + tok + `,"decision":"confirm"}`, 400, "malformed"},
		{"decision", `{"lease_token":7,"decision":"confirm"}`, 400, "malformed"},
		{"decision", `{` + tok + `,"decision":["confirm"]}`, 400, "malformed"},
		{"decision", "{" + tok + `,"decision":"confirm","note":"` + "\xff" + `"}`, 400, "malformed"},
		{"decision", strings.Repeat(`{"a":`, 20000), 413, "body_too_large"},
		{"decision", strings.Repeat(`{"a":`, 12000), 400, "malformed"},
		{"decision", ``, 422, "invalid"},
		{"decision", `{` + tok + `}`, 422, "invalid"},
		{"decision", `{` + tok + `,"decision":"Confirm"}`, 422, "invalid"},
		{"decision", `{` + tok + `,"decision":"confirm","label":"nonsense"}`, 422, "invalid"},
		{"decision", `{` + tok + `,"decision":"confirm","note":"` + strings.Repeat("x", 8<<10+1) + `"}`, 422, "invalid"},
		{"decision", `{"LEASE_TOKEN":"` + c.LeaseToken + `","decision":"confirm"}`, 422, "invalid"},
		{"reveal", `{` + tok + `,"purpose":"safety_review","basis":"x"}`, 422, "invalid"},
		{"reveal", `{` + tok + `,"purpose":"safety_review","basis":"x","fields":"text"}`, 400, "malformed"},
		{"reveal", revealBody("", "safety_review", "x", "text"), 422, "invalid"},
		{"heartbeat", `{"lease_token":"` + strings.Repeat("x", 513) + `"}`, 422, "invalid"},
	} {
		g.problem(g.call("alice", http.MethodPost, c.path(test.what), test.body), test.status, test.code)
	}
	w := g.call("alice", http.MethodPost, c.path("decision"), `{"`+canary+`":{"`+canary+`":1},"decision":[]}`)
	if strings.Contains(w.Body.String(), canary) {
		t.Error("a problem quotes the body")
	}
	w = g.call("alice", http.MethodPost, "/api/v1/claims", "{}", "Idempotency-Key", strings.Repeat("k", 257))
	g.problem(w, http.StatusUnprocessableEntity, "invalid")
	if len(g.q.audited)+len(g.q.decided) > 0 {
		t.Error("a refused body had an effect")
	}
}

func TestNoAnswerBeforeARevealHoldsContent(t *testing.T) {
	g := newRig(t, 3)
	b := browse(g, "alice")
	var all []*httptest.ResponseRecorder
	take := func(w *httptest.ResponseRecorder) *httptest.ResponseRecorder {
		all = append(all, w)
		return w
	}
	c := g.claim("alice")
	take(g.call("alice", http.MethodPost, "/api/v1/claims", "{}"))
	take(g.call("alice", http.MethodPost, c.path("heartbeat"), `{"lease_token":"`+c.LeaseToken+`"}`))
	take(g.call("alice", http.MethodGet, "/api/v1/stats", ""))
	take(g.call("alice", http.MethodPost, c.path("reveal"), revealBody("wrong", "safety_review", c.Case.ID, "text")))
	take(g.call("alice", http.MethodPost, c.path("decision"), `{"lease_token":"`+c.LeaseToken+`","decision":"confirm"}`))
	take(b.get("/"))
	take(b.get("/cases/" + c.Case.ID))
	claimed := take(b.post("/claim", url.Values{}))
	take(b.get(claimed.Header().Get("Location")))
	take(b.post(claimed.Header().Get("Location")+"/reveal", url.Values{"field": {"text"}, "purpose": {"safety_review"}, "basis": {"none"}, "lease_token": {"lease-3"}}))
	g.q.panics = true
	take(b.get("/"))
	for _, w := range all {
		if strings.Contains(w.Body.String(), canary) {
			t.Errorf("content in an answer of status %d", w.Code)
		}
		if cc := w.Header().Get("Cache-Control"); cc != "no-store" {
			t.Errorf("Cache-Control %q", cc)
		}
	}
	if len(g.q.audited) > 0 {
		t.Error("something was revealed after all")
	}
}

func TestTheLogNamesRoutesAndReviewersAndNothingElse(t *testing.T) {
	g := newRig(t, 1)
	c := g.claim("alice")
	g.call("alice", http.MethodPost, c.path("reveal")+"?q="+canary, revealBody(c.LeaseToken, "safety_review", c.Case.ID, "text"))
	g.call("", canary, "/api/v1/"+canary, canary)
	g.q.panics = true
	w := g.call("alice", http.MethodGet, "/api/v1/stats", "")
	g.problem(w, http.StatusInternalServerError, "internal")
	entries := g.logs.All()
	if len(entries) != 5 {
		t.Fatalf("%d lines", len(entries))
	}
	for _, e := range entries {
		line := fmt.Sprint(e.Message, e.ContextMap())
		for _, secret := range []string{canary, c.LeaseToken, g.secrets["alice"], c.Case.ID} {
			if strings.Contains(line, secret) {
				t.Errorf("the log says %q: %s", secret, line)
			}
		}
	}
	got := entries[1].ContextMap()
	delete(got, "ms")
	want := map[string]any{"method": "POST", "route": "/api/v1/cases/{id}/reveal", "status": int64(200), "reviewer": "alice"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestProbes(t *testing.T) {
	g := newRig(t, 0)
	if w := g.call("", http.MethodGet, "/healthz", ""); w.Code != http.StatusOK {
		t.Error(w.Code)
	}
	if w := g.call("", http.MethodGet, "/readyz", ""); w.Code != http.StatusOK {
		t.Error(w.Code)
	}
	g.server.Ready = func(context.Context) error { return errors.New("redis at 10.0.0.1 is away") }
	w := g.call("", http.MethodGet, "/readyz", "")
	if w.Code != http.StatusServiceUnavailable || strings.Contains(w.Body.String(), "10.0.0.1") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := g.call("", http.MethodGet, "/metrics", ""); w.Code != http.StatusNotFound {
		t.Errorf("metrics without metrics: %d", w.Code)
	}
	cfg := g.server.Config
	cfg.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "up 1\n") })
	g.mux = newServer(cfg, g.q).mux()
	if w := g.call("", http.MethodGet, "/metrics", ""); w.Code != http.StatusOK || w.Body.String() != "up 1\n" {
		t.Errorf("metrics: %d", w.Code)
	}
}

func TestTheServerHasLimits(t *testing.T) {
	s := Server("127.0.0.1:0", http.NotFoundHandler(), zap.NewNop())
	if s.ReadHeaderTimeout == 0 || s.ReadTimeout == 0 || s.WriteTimeout == 0 || s.IdleTimeout == 0 || s.MaxHeaderBytes == 0 || s.ErrorLog == nil {
		t.Errorf("%+v", s)
	}
}

var wrongType = regexp.MustCompile(`^The field /(queue|lease_token|purpose|basis|fields(/[0-9]+)?|decision|label|note) of the body has the wrong type\.$`)

// FuzzRequestBody holds that a body is refused with a client's error, or fills
// the request, and that a problem quotes nothing of it.
func FuzzRequestBody(f *testing.F) {
	f.Add([]byte(`{"lease_token":"t","decision":"confirm","label":"grooming","note":"n"}`))
	f.Add([]byte(`{"lease_token":"t","purpose":"user_report","basis":"r","fields":["text","context"]}`))
	f.Add([]byte(`{"lease_token":"a","lease_token":"b"}`))
	f.Add([]byte(`{"fields":{"x":1}}`))
	f.Add([]byte("{\"note\":\"\xff\"}"))
	f.Add([]byte(` null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var claim claimRequest
		var lease leaseRequest
		var reveal revealRequest
		var decision decisionRequest
		for _, v := range []any{&claim, &lease, &reveal, &decision} {
			p := decodeBytes(data, v)
			if p == nil {
				continue
			}
			if p.Status != http.StatusBadRequest || p.Code != "malformed" {
				t.Errorf("%+v", p)
			}
			if !strings.HasPrefix(p.Detail, "The body is not") && !wrongType.MatchString(p.Detail) {
				t.Errorf("%+v", p)
			}
		}
	})
}
