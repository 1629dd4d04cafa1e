package console

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.uber.org/zap"

	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/reviewqueue"
	"github.com/dmguard/dmguard/reviewqueue/access"
	"github.com/dmguard/dmguard/reviewqueue/audit"
	"github.com/dmguard/dmguard/reviewqueue/evidence"
)

// onePartition is a log in memory.
type onePartition struct {
	mu      sync.Mutex
	records map[string][]pipeline.Record // by topic; guarded by mu
}

func (l *onePartition) Append(_ context.Context, rec pipeline.Record) (pipeline.Position, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	rec.Partition, rec.Offset = 0, int64(len(l.records[rec.Topic]))
	l.records[rec.Topic] = append(l.records[rec.Topic], rec)
	return rec.Position, nil
}

func (l *onePartition) Ends(_ context.Context, topic string) (first, end map[int32]int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return map[int32]int64{0: 0}, map[int32]int64{0: int64(len(l.records[topic]))}, nil
}

func (l *onePartition) Scan(_ context.Context, topic string, from map[int32]int64, _ bool, handle func(pipeline.Record) error) error {
	l.mu.Lock()
	records := l.records[topic]
	l.mu.Unlock()
	for _, rec := range records[from[0]:] {
		if err := handle(rec); err != nil {
			return err
		}
	}
	return nil
}

func (l *onePartition) Read(_ context.Context, topic string, _ int32, offsets []int64) (records []pipeline.Record, missing []int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range offsets {
		if o < int64(len(l.records[topic])) {
			records = append(records, l.records[topic][o])
		} else {
			missing = append(missing, o)
		}
	}
	return records, missing, nil
}

// realQueue is a rig in front of a real queue with one case, whose audit log it
// returns.
func realQueue(t *testing.T) (*rig, *audit.Log, string) {
	t.Helper()
	dir := t.TempDir()
	if _, err := evidence.NewKeyPair(filepath.Join(dir, "public"), filepath.Join(dir, "private")); err != nil {
		t.Fatal(err)
	}
	sealer, err := evidence.OpenSealer(filepath.Join(dir, "public"))
	if err != nil {
		t.Fatal(err)
	}
	opener, err := evidence.OpenKeys(filepath.Join(dir, "private"))
	if err != nil {
		t.Fatal(err)
	}
	trail := filepath.Join(dir, "audit.jsonl")
	auditLog, _, err := audit.Open(trail)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { auditLog.Close() })
	client := redis.NewUniversalClient(&redis.UniversalOptions{Addrs: []string{miniredis.RunT(t).Addr()}})
	t.Cleanup(func() { client.Close() })
	records := &onePartition{records: map[string][]pipeline.Record{}}
	q, err := reviewqueue.New(reviewqueue.DefaultConfig(), reviewqueue.Deps{
		Redis: client, Log: records, Append: records.Append, Opener: opener, Sealer: sealer, Audit: auditLog, Logger: zap.NewNop(),
		LegalRequest: func(_ context.Context, reference, _ string) (bool, error) { return reference == "warrant-1", nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, message := range []string{"m-1", "m-2"} {
		hit := pipeline.Hit{
			CaseID: pipeline.CaseID(pipeline.ConversationCase, "c-1"), CaseKey: "c-1", Kind: pipeline.ConversationCase,
			Verdict: pipeline.Verdict{
				MessageID: message, ConversationID: "c-1", Action: pipeline.Review, Severity: pipeline.High, Risk: .8,
				Findings:  []pipeline.Finding{{Detector: "grooming", Category: "grooming", Label: "secrecy", Score: .8, Reason: "asks to keep it secret", Spans: []pipeline.Span{{Start: 0, End: 5}}}},
				Versions:  map[string]string{"policy": "1"},
				DecidedAt: time.Now().UTC(),
			},
			SentAt: time.Now().UTC().Add(-time.Hour), TextBytes: 40, UserReports: []string{"report-0"},
			Attachments: []pipeline.HitAttachment{{ID: "a-1", MediaType: "image/png"}},
		}
		e := &pipeline.Evidence{
			Text: "our secret " + canary, SenderID: "u-1",
			Context:     []pipeline.ContextMessage{{MessageID: "m-0", SentAt: hit.SentAt, SenderID: "u-2", Text: "hello " + canary}},
			Attachments: []pipeline.EvidenceAttachment{{ID: "a-1", MediaType: "image/png", Data: picture()}},
		}
		if hit.Evidence, err = sealer.Seal(e, hit.CaseID, message); err != nil {
			t.Fatal(err)
		}
		value, err := json.Marshal(hit)
		if err != nil {
			t.Fatal(err)
		}
		rec := pipeline.Record{Position: pipeline.Position{Topic: "dm.hits"}, Key: []byte(hit.CaseKey), Value: value, Time: time.Now()}
		if rec.Position, err = records.Append(t.Context(), rec); err != nil {
			t.Fatal(err)
		}
		if err := q.Ingest(t.Context(), rec); err != nil {
			t.Fatal(err)
		}
	}
	g := newRig(t, 0)
	g.server = newServer(g.server.Config, q)
	g.mux = g.server.mux()
	return g, auditLog, trail
}

// TestTheRealQueueAnswersAsDocumented takes a case through the API in front of
// the queue itself, and holds what it answers to openapi.yaml.
func TestTheRealQueueAnswersAsDocumented(t *testing.T) {
	g, _, trail := realQueue(t)
	_, compiler := specification(t)
	fits := func(name string, body []byte) {
		t.Helper()
		schema, err := compiler.Compile("openapi.json#/components/schemas/" + name)
		if err != nil {
			t.Fatal(err)
		}
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(string(body)))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(v); err != nil {
			t.Errorf("%v", err)
		}
	}
	fits("Stats", g.call("alice", http.MethodGet, "/api/v1/stats", "").Body.Bytes())
	w := g.call("alice", http.MethodPost, "/api/v1/claims", `{"queue":"conversation"}`, "Idempotency-Key", "k")
	fits("Claim", w.Body.Bytes())
	if strings.Contains(w.Body.String(), canary) || strings.Contains(w.Body.String(), "u-1") {
		t.Error("a claim shows content or a user")
	}
	c := g.claim("alice", "Idempotency-Key", "k")
	if !strings.Contains(w.Body.String(), c.LeaseToken) {
		t.Error("the same key gave another lease")
	}
	fits("Heartbeat", g.call("alice", http.MethodPost, c.path("heartbeat"), `{"lease_token":"`+c.LeaseToken+`"}`).Body.Bytes())
	g.problem(g.call("bob", http.MethodPost, c.path("heartbeat"), `{"lease_token":"`+c.LeaseToken+`"}`), http.StatusConflict, "lease_lost")
	g.problem(g.call("alice", http.MethodPost, "/api/v1/cases/c-none/heartbeat", `{"lease_token":"`+c.LeaseToken+`"}`), http.StatusNotFound, "no_such_case")
	g.problem(g.call("alice", http.MethodPost, "/api/v1/cases/"+pipeline.CaseID(pipeline.ConversationCase, "c-9")+"/heartbeat", `{"lease_token":"`+c.LeaseToken+`"}`), http.StatusNotFound, "no_such_case")
	g.problem(g.call("alice", http.MethodPost, "/api/v1/claims", `{"queue":"nonsense"}`), http.StatusUnprocessableEntity, "invalid")
	if w := g.call("bob", http.MethodPost, "/api/v1/claims", ""); w.Code != http.StatusNoContent {
		t.Errorf("nothing waits: %d", w.Code)
	}

	g.problem(g.call("alice", http.MethodPost, c.path("reveal"), revealBody(c.LeaseToken, "safety_review", "c-1", "text")), http.StatusForbidden, "basis")
	g.problem(g.call("alice", http.MethodPost, c.path("reveal"), revealBody(c.LeaseToken, "law_enforcement_request", "warrant-1", "text")), http.StatusForbidden, "forbidden")
	g.problem(g.call("alice", http.MethodPost, c.path("reveal"), revealBody(c.LeaseToken, "safety_review", c.Case.ID, "everything")), http.StatusUnprocessableEntity, "invalid")
	g.problem(g.call("alice", http.MethodPost, c.path("reveal"), revealBody(c.LeaseToken, "safety_review", c.Case.ID)), http.StatusUnprocessableEntity, "invalid")
	g.problem(g.call("alice", http.MethodPost, c.path("reveal"), revealBody("wrong", "safety_review", c.Case.ID, "text")), http.StatusConflict, "lease_lost")
	if log, _ := os.ReadFile(trail); len(log) > 0 {
		t.Error("a refused reveal is in the audit log as an access")
	}
	for purpose, basis := range map[string]string{"safety_review": c.Case.ID, "user_report": "report-0"} {
		w = g.call("alice", http.MethodPost, c.path("reveal"), revealBody(c.LeaseToken, purpose, basis, "text", "text:m-1", "context", "attachment:a-1", "attachment:none"))
		fits("Reveal", w.Body.Bytes())
		if w.Code != http.StatusOK || strings.Count(w.Body.String(), canary) != 3 || !strings.Contains(w.Body.String(), `"attachment:none":null`) {
			t.Errorf("%s: %d, %d pieces of content", purpose, w.Code, strings.Count(w.Body.String(), canary))
		}
	}
	if log, _ := os.ReadFile(trail); strings.Count(string(log), "\n") != 4 || strings.Contains(string(log), canary) {
		t.Error("two reveals are not four lines in the audit log, without content")
	}

	decision := `{"lease_token":"` + c.LeaseToken + `","decision":"confirm","label":"grooming","note":"n"}`
	g.problem(g.call("alice", http.MethodPost, c.path("decision"), strings.Replace(decision, "grooming", "nonsense", 1)), http.StatusUnprocessableEntity, "invalid")
	w = g.call("alice", http.MethodPost, c.path("decision"), decision)
	fits("Decision", w.Body.Bytes())
	if w.Code != http.StatusOK {
		t.Fatalf("decision: %d %s", w.Code, w.Body)
	}
	g.problem(g.call("alice", http.MethodPost, c.path("decision"), decision), http.StatusConflict, "lease_lost")

	// On the audit log rests everything: without it there is no content.
	g, auditLog, _ := realQueue(t)
	c = g.claim("alice")
	auditLog.Close()
	w = g.call("alice", http.MethodPost, c.path("reveal"), revealBody(c.LeaseToken, "safety_review", c.Case.ID, "text"))
	g.problem(w, http.StatusServiceUnavailable, "audit_unavailable")
}

// TestThePagesWorkOnTheRealQueue goes the way of the forms.
func TestThePagesWorkOnTheRealQueue(t *testing.T) {
	g, _, _ := realQueue(t)
	b := browse(g, "alice")
	if w := b.get("/"); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), pipeline.CaseID(pipeline.ConversationCase, "c-1")) {
		t.Errorf("the first page: %d", w.Code)
	}
	path, token := b.take()
	form := url.Values{"lease_token": {token}, "purpose": {string(access.SafetyReview)}, "basis": {strings.TrimPrefix(path, "/cases/")}, "field": {"text:m-2"}}
	if w := b.post(path+"/reveal", form); w.Code != http.StatusOK || strings.Count(w.Body.String(), canary) != 1 {
		t.Errorf("reveal: %d", w.Code)
	}
	if w := b.post(path+"/keep", form); !strings.HasSuffix(w.Header().Get("Location"), "said=kept") {
		t.Errorf("keep: %d", w.Code)
	}
	form.Set("decision", "dismiss")
	if w := b.post(path+"/decision", form); w.Header().Get("Location") != "/?said=dismiss" {
		t.Errorf("decision: %d %s", w.Code, w.Body)
	}
	if w := b.get("/"); !strings.Contains(w.Body.String(), "Decided lately (1)") {
		t.Error("the decided case is not listed as such")
	}
	if w := b.get(path); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "<b>dismiss</b>") {
		t.Errorf("the page of the decided case: %d", w.Code)
	}
}
