package reviewqueue

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/reviewqueue/access"
	"github.com/dmguard/dmguard/reviewqueue/audit"
	"github.com/dmguard/dmguard/reviewqueue/evidence"
)

// inProcess returns an env on the in-process Redis, for what does not depend on
// Redis.
func inProcess(t *testing.T) *env {
	t.Helper()
	return newEnv(t, connect(t, &redis.UniversalOptions{Addrs: []string{miniredis.RunT(t).Addr()}}), nil)
}

// withContent logs a case with all kinds of content and returns alice's lease.
func withContent(e *env) *Lease {
	e.t.Helper()
	e.add(e.hit("c-1", "m-1", pipeline.Critical, func(h *pipeline.Hit, ev *pipeline.Evidence) {
		h.SentAt = begin.Add(-time.Minute)
		h.UserReports = []string{"report-1"}
		h.Attachments = []pipeline.HitAttachment{{ID: "a-1", MediaType: "image/png"}, {ID: "a-2", MediaType: "image/png"}}
		ev.Context = []pipeline.ContextMessage{
			{MessageID: "m-0a", SentAt: begin, SenderID: "user-1", Text: "how old are you", Named: true},
			{MessageID: "m-0b", SentAt: begin, SenderID: "user-2", Text: "fine thanks"},
			{MessageID: "m-0c", SentAt: begin, SenderID: "user-1", Text: "keep it between us"},
		}
		ev.Attachments = []pipeline.EvidenceAttachment{
			{ID: "a-1", MediaType: "image/png", Data: []byte("pattern")},
			{ID: "a-2", MediaType: "image/png", URI: "mem://store/a-2"},
		}
	}))
	e.add(e.hit("c-1", "m-2", pipeline.Low, func(_ *pipeline.Hit, ev *pipeline.Evidence) { ev.Text = "later and milder" }))
	return e.claim(alice)
}

func review(id string, fields ...string) Request {
	return Request{Purpose: access.SafetyReview, Basis: id, Fields: fields, RequestID: "r-1"}
}

func TestRevealShowsWhatIsAskedForAndNothingElse(t *testing.T) {
	onEvery(t, func(t *testing.T, e *env) {
		l := withContent(e)
		var fetched []string
		e.deps.Fetch = func(_ context.Context, uri string, limit int64) ([]byte, error) {
			fetched = append(fetched, uri)
			e.journal = append(e.journal, "fetch")
			if limit != e.config.AttachmentLimit {
				t.Errorf("limit %d", limit)
			}
			return []byte("from the store"), nil
		}
		got, err := e.Reveal(t.Context(), alice, l.Case.ID, l.Token,
			review(l.Case.ID, "text", "text:m-2", "text:m-9", "context", "attachment:a-1", "attachment:a-2", "attachment:a-3"))
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]any{
			"text": "words of m-1", "text:m-2": "later and milder", "text:m-9": nil,
			"context": []ContextMessage{
				{"m-0a", begin, "A", "how old are you", true}, {"m-0b", begin, "B", "fine thanks", false}, {"m-0c", begin, "A", "keep it between us", false},
			},
			"attachment:a-1": Attachment{"image/png", []byte("pattern")},
			"attachment:a-2": Attachment{"image/png", []byte("from the store")},
			"attachment:a-3": nil,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]string{"intent", "open", "open", "fetch", "outcome"}, e.journal); diff != "" {
			t.Errorf("order of effects: %s", diff)
		}
		intent := audit.Entry{
			Phase: audit.Intent, Actor: "alice", Roles: []string{"reviewer"}, Action: "reveal", CaseID: l.Case.ID, Purpose: "safety_review",
			Basis: l.Case.ID, RequestID: "r-1",
			Fields: []string{"text", "text:m-2", "text:m-9", "context", "attachment:a-1", "attachment:a-2", "attachment:a-3"},
		}
		outcome := intent
		outcome.Phase, outcome.Result = audit.Outcome, "revealed"
		if diff := cmp.Diff([]audit.Entry{intent, outcome}, e.audit.entries); diff != "" {
			t.Error(diff)
		}

		e.journal = nil
		if _, err := e.Reveal(t.Context(), alice, l.Case.ID, l.Token, review(l.Case.ID, "text:m-2")); err != nil || len(fetched) != 1 {
			t.Errorf("%v, fetched %v", err, fetched)
		}
	})
}

// TestWithoutAReceiptNothingIsDecrypted is invariant 4: no receipt, no content.
func TestWithoutAReceiptNothingIsDecrypted(t *testing.T) {
	e := inProcess(t)
	l := withContent(e)
	full := errors.New("no space left on device")
	for phase, opens := range map[audit.Phase]int{audit.Intent: 0, audit.Outcome: 1} {
		e.opens.calls = 0
		e.audit.fail = func(entry audit.Entry) error {
			if entry.Phase == phase {
				return full
			}
			return nil
		}
		got, err := e.Reveal(t.Context(), alice, l.Case.ID, l.Token, review(l.Case.ID, "text"))
		if !errors.Is(err, ErrAuditUnavailable) || got != nil || e.opens.calls != opens {
			t.Errorf("%s fails: %v, %v, %d decryptions", phase, got, err, e.opens.calls)
		}
	}
}

func TestEveryRefusalComesBeforeTheAuditEntryAndAnyDecryption(t *testing.T) {
	e := inProcess(t)
	l := withContent(e)
	e.deps.LegalRequest = func(_ context.Context, ref, caseID string) (bool, error) {
		return ref == "LE-1" && caseID == l.Case.ID, nil
	}
	id := l.Case.ID
	ask := func(purpose access.Purpose, basis string, fields ...string) Request {
		return Request{Purpose: purpose, Basis: basis, Fields: fields}
	}
	for name, c := range map[string]struct {
		who   access.Reviewer
		token string
		req   Request
		want  error
	}{
		"unknown purpose":         {alice, l.Token, ask("curiosity", id, "text"), ErrInvalid},
		"no purpose":              {alice, l.Token, ask("", id, "text"), ErrInvalid},
		"role lacks the purpose":  {alice, l.Token, ask(access.LegalRequest, "LE-1", "text"), access.ErrForbidden},
		"liaison reviews":         {lea, l.Token, ask(access.SafetyReview, id, "text"), access.ErrForbidden},
		"another's lease":         {bob, l.Token, ask(access.SafetyReview, id, "text"), ErrLeaseLost},
		"no lease":                {alice, "", ask(access.SafetyReview, id, "text"), ErrLeaseLost},
		"forged token":            {alice, strings.TrimRight(l.Token, "abc") + "x", ask(access.SafetyReview, id, "text"), ErrLeaseLost},
		"basis is another case":   {alice, l.Token, ask(access.SafetyReview, convCase("c-2"), "text"), ErrBasis},
		"no basis":                {alice, l.Token, ask(access.SafetyReview, "", "text"), ErrBasis},
		"report of another case":  {alice, l.Token, ask(access.UserReport, "report-2", "text"), ErrBasis},
		"empty report":            {alice, l.Token, ask(access.UserReport, "", "text"), ErrBasis},
		"no field":                {alice, l.Token, ask(access.SafetyReview, id), ErrInvalid},
		"unknown field":           {alice, l.Token, ask(access.SafetyReview, id, "sender"), ErrInvalid},
		"field that names nobody": {alice, l.Token, ask(access.SafetyReview, id, "text:"), ErrInvalid},
	} {
		got, err := e.Reveal(t.Context(), c.who, id, c.token, c.req)
		if !errors.Is(err, c.want) || got != nil {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if len(e.journal) != 0 {
		t.Errorf("effects of refused requests: %v", e.journal)
	}
	e.advance(e.config.Lease + time.Second)
	if _, err := e.Reveal(t.Context(), alice, id, l.Token, review(id, "text")); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("revealed under an expired lease: %v", err)
	}
	if len(e.journal) != 0 {
		t.Errorf("effects of refused requests: %v", e.journal)
	}
}

func TestAReportAndALegalRequestAreBasesToRead(t *testing.T) {
	e := inProcess(t)
	l := withContent(e)
	id := l.Case.ID
	if _, err := e.Reveal(t.Context(), alice, id, l.Token, Request{Purpose: access.UserReport, Basis: "report-1", Fields: []string{"text"}}); err != nil {
		t.Error(err)
	}
	if err := e.Release(t.Context(), alice, id, l.Token); err != nil {
		t.Fatal(err)
	}
	l = e.claim(lea)
	legal := Request{Purpose: access.LegalRequest, Basis: "LE-1", Fields: []string{"text"}}
	if _, err := e.Reveal(t.Context(), lea, id, l.Token, legal); !errors.Is(err, ErrBasis) {
		t.Errorf("a request that nobody knows: %v", err)
	}
	e.deps.LegalRequest = func(_ context.Context, ref, caseID string) (bool, error) { return ref == "LE-1" && caseID == id, nil }
	if _, err := e.Reveal(t.Context(), lea, id, l.Token, legal); err != nil {
		t.Error(err)
	}
	e.deps.LegalRequest = func(context.Context, string, string) (bool, error) { return true, errors.New("register away") }
	if _, err := e.Reveal(t.Context(), lea, id, l.Token, legal); err == nil || errors.Is(err, ErrBasis) {
		t.Errorf("an outage of the register: %v", err)
	}
}

func TestEvidenceOfAnotherCaseOrMessageDoesNotOpen(t *testing.T) {
	for name, move := range map[string]func(e *env) pipeline.SealedEvidence{
		"another case": func(e *env) pipeline.SealedEvidence {
			s, err := e.sealer.Seal(&pipeline.Evidence{Text: "of c-2"}, convCase("c-2"), "m-1")
			if err != nil {
				t.Fatal(err)
			}
			return s
		},
		"another message": func(e *env) pipeline.SealedEvidence {
			s, err := e.sealer.Seal(&pipeline.Evidence{Text: "of m-2"}, convCase("c-1"), "m-2")
			if err != nil {
				t.Fatal(err)
			}
			return s
		},
	} {
		e := inProcess(t)
		e.add(e.hit("c-1", "m-1", pipeline.High, func(h *pipeline.Hit, _ *pipeline.Evidence) { h.Evidence = move(e) }))
		l := e.claim(alice)
		got, err := e.Reveal(t.Context(), alice, l.Case.ID, l.Token, review(l.Case.ID, "text"))
		if !errors.Is(err, evidence.ErrTampered) || got != nil {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		if last := e.audit.entries[len(e.audit.entries)-1]; last.Phase != audit.Outcome || last.Result != "failed" {
			t.Errorf("%s: the failure is not in the audit log: %+v", name, last)
		}
	}
}

func TestAnAttachmentOverTheLimitOrOutOfReachIsAnErrorAndNeverSilent(t *testing.T) {
	for name, fetch := range map[string]func(context.Context, string, int64) ([]byte, error){
		"no store":   nil,
		"too large":  func(_ context.Context, _ string, limit int64) ([]byte, error) { return make([]byte, limit+1), nil },
		"store away": func(context.Context, string, int64) ([]byte, error) { return nil, errors.New("dial secret-bucket") },
	} {
		e := inProcess(t)
		e.config.AttachmentLimit = 100
		l := withContent(e)
		e.deps.Fetch = fetch
		got, err := e.Reveal(t.Context(), alice, l.Case.ID, l.Token, review(l.Case.ID, "attachment:a-2"))
		if err == nil || got != nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func TestWhatRetentionTookIsNull(t *testing.T) {
	e := inProcess(t)
	l := withContent(e)
	for _, p := range e.log.topics["dm.hits"] {
		for i := range p {
			p[i].Value = nil
		}
	}
	got, err := e.Reveal(t.Context(), alice, l.Case.ID, l.Token, review(l.Case.ID, "text", "context", "attachment:a-1"))
	if diff := cmp.Diff(map[string]any{"text": nil, "context": nil, "attachment:a-1": nil}, got); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
}

func TestPseudonymsGoOnAfterZ(t *testing.T) {
	for i, want := range map[int]string{0: "A", 25: "Z", 26: "AA", 27: "AB", 701: "ZZ", 702: "AAA"} {
		if got := letters(i); got != want {
			t.Errorf("letters(%d) = %s, want %s", i, got, want)
		}
	}
}

func TestAMaskedCaseHoldsNoContentAndNoIdsOfPeople(t *testing.T) {
	e := inProcess(t)
	l := withContent(e)
	list, err := e.List(t.Context(), alice, Filter{}, 10)
	if err != nil || len(list) != 1 {
		t.Fatal(err)
	}
	for _, v := range []any{l.Case, list[0]} {
		text := marshal(t, v)
		for _, secret := range []string{"words of", "how old", "user-1", "u-1", `"c-1"`, "mem://", "milder"} {
			if strings.Contains(text, secret) {
				t.Errorf("%q is in the masked case: %s", secret, text)
			}
		}
	}
}
