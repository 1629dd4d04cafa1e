package console

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"slices"
	"sync"
	"time"

	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/reviewqueue"
	"github.com/dmguard/dmguard/reviewqueue/access"
)

// canary stands in every text of the fake queue: where it shows up, content
// did.
const canary = "canary-7f3a91"

// fakeQueue is a queue in memory that can be broken on purpose.
type fakeQueue struct {
	mu        sync.Mutex
	cases     []*fakeCase
	err       error // what every call answers
	auditDown bool
	panics    bool
	lease     time.Duration
	audited   []reviewqueue.Request
	decided   []reviewqueue.Decision
	tokens    int
}

type fakeCase struct {
	reviewqueue.Case
	content        map[string]any
	reports        []string
	holder, token  string
	idempotencyKey string
}

func (q *fakeQueue) begin(r access.Reviewer, a access.Action) error {
	if q.panics {
		panic("a fault that quotes " + canary)
	}
	return errors.Join(access.Allow(r, a), q.err)
}

func (q *fakeQueue) find(id string) (*fakeCase, error) {
	for _, c := range q.cases {
		if c.ID == id {
			return c, nil
		}
	}
	return nil, reviewqueue.ErrNotFound
}

func (q *fakeQueue) leased(r access.Reviewer, id, token string) (*fakeCase, error) {
	c, err := q.find(id)
	if err != nil {
		return nil, err
	}
	if c.State != reviewqueue.Leased || c.holder != r.ID || c.token != token || !time.Now().Before(*c.LeaseExpiresAt) {
		return nil, fmt.Errorf("case %s: %w", id, reviewqueue.ErrLeaseLost)
	}
	return c, nil
}

func (q *fakeQueue) Claim(_ context.Context, r access.Reviewer, queue, requestID string) (*reviewqueue.Lease, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.begin(r, access.Claim); err != nil {
		return nil, err
	}
	if queue != "" && !slices.Contains(reviewqueue.Queues(), queue) {
		return nil, fmt.Errorf("%w: unknown queue", reviewqueue.ErrInvalid)
	}
	for _, c := range q.cases {
		again := requestID != "" && c.State == reviewqueue.Leased && c.idempotencyKey == r.ID+requestID
		if !again && (c.State != reviewqueue.Pending || (queue != "" && c.Queue != queue)) {
			continue
		}
		if !again {
			q.tokens++
			ends := time.Now().Add(q.lease)
			c.State, c.holder, c.token, c.LeaseExpiresAt = reviewqueue.Leased, r.ID, fmt.Sprintf("lease-%d", q.tokens), &ends
			c.idempotencyKey = r.ID + requestID
		}
		masked := c.Case
		return &reviewqueue.Lease{Case: &masked, Token: c.token, ExpiresAt: *c.LeaseExpiresAt}, nil
	}
	return nil, reviewqueue.ErrEmpty
}

func (q *fakeQueue) Heartbeat(_ context.Context, r access.Reviewer, id, token string) (time.Time, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.begin(r, access.Claim); err != nil {
		return time.Time{}, err
	}
	c, err := q.leased(r, id, token)
	if err != nil {
		return time.Time{}, err
	}
	ends := time.Now().Add(q.lease)
	c.LeaseExpiresAt = &ends
	return ends, nil
}

func (q *fakeQueue) Release(_ context.Context, r access.Reviewer, id, token string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.begin(r, access.Claim); err != nil {
		return err
	}
	c, err := q.leased(r, id, token)
	if err != nil {
		return err
	}
	c.State, c.LeaseExpiresAt = reviewqueue.Pending, nil
	return nil
}

func (q *fakeQueue) Decide(_ context.Context, r access.Reviewer, id, token string, d reviewqueue.Decision) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.begin(r, access.Decide); err != nil {
		return err
	}
	if d.Note.Len() > reviewqueue.MaxNoteBytes {
		return fmt.Errorf("%w: the note is too long", reviewqueue.ErrInvalid)
	}
	if d.Label != "" && !slices.Contains(q.Labels(), d.Label) {
		return fmt.Errorf("%w: the label is not one of %q", reviewqueue.ErrInvalid, q.Labels())
	}
	c, err := q.leased(r, id, token)
	if err != nil {
		return err
	}
	c.State, c.LeaseExpiresAt = reviewqueue.Decided, nil
	c.Decisions = append(c.Decisions, reviewqueue.Past{Revision: c.Revision, Choice: d.Choice, Label: d.Label, Reviewer: r.ID, DecidedAt: time.Now().UTC()})
	q.decided = append(q.decided, d)
	return nil
}

func (q *fakeQueue) Reveal(_ context.Context, r access.Reviewer, id, token string, req reviewqueue.Request) (map[string]any, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.begin(r, access.Reveal(req.Purpose)); err != nil {
		return nil, err
	}
	if len(req.Fields) == 0 {
		return nil, fmt.Errorf("%w: no fields", reviewqueue.ErrInvalid)
	}
	c, err := q.leased(r, id, token)
	if err != nil {
		return nil, err
	}
	bases := map[access.Purpose][]string{access.SafetyReview: {id}, access.UserReport: c.reports, access.LegalRequest: {"warrant-1"}}
	if !slices.Contains(bases[req.Purpose], req.Basis) {
		return nil, reviewqueue.ErrBasis
	}
	if q.auditDown {
		return nil, fmt.Errorf("%w: no space left", reviewqueue.ErrAuditUnavailable)
	}
	q.audited = append(q.audited, req)
	fields := map[string]any{}
	for _, f := range req.Fields {
		fields[f] = c.content[f]
	}
	return fields, nil
}

func (q *fakeQueue) Case(_ context.Context, r access.Reviewer, id string) (*reviewqueue.Case, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.begin(r, access.Claim); err != nil {
		return nil, err
	}
	c, err := q.find(id)
	if err != nil {
		return nil, err
	}
	masked := c.Case
	return &masked, nil
}

func (q *fakeQueue) List(_ context.Context, r access.Reviewer, f reviewqueue.Filter, limit int) ([]*reviewqueue.Case, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.begin(r, access.Claim); err != nil {
		return nil, err
	}
	var all []*reviewqueue.Case
	for _, c := range q.cases {
		if c.State == f.State && len(all) < limit {
			masked := c.Case
			all = append(all, &masked)
		}
	}
	return all, nil
}

func (q *fakeQueue) Stats(_ context.Context, r access.Reviewer) (reviewqueue.Stats, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.begin(r, access.Count); err != nil {
		return reviewqueue.Stats{}, err
	}
	s := reviewqueue.Stats{BySeverity: map[string]int64{}}
	for _, c := range q.cases {
		switch c.State {
		case reviewqueue.Pending:
			s.Pending++
		case reviewqueue.Leased:
			s.Leased++
		case reviewqueue.Decided:
			s.Decided++
		case reviewqueue.Dead:
			s.Dead++
		}
		if c.State != reviewqueue.Decided {
			s.BySeverity[c.Severity.String()]++
			s.OldestSeconds = max(s.OldestSeconds, int64(time.Since(c.OpenedAt).Seconds()))
		}
	}
	return s, nil
}

func (q *fakeQueue) Labels() []string { return []string{"grooming", "ncii", "not_harmful"} }

// seeded is a queue with n cases; the first is a conversation that grows
// riskier, whose words try to be markup and hide characters.
func seeded(n int) *fakeQueue {
	q := &fakeQueue{lease: 10 * time.Minute}
	for i := range n {
		q.cases = append(q.cases, conversation(i))
	}
	return q
}

func conversation(i int) *fakeCase {
	key := fmt.Sprintf("c-%d", i)
	opened := time.Now().UTC().Add(-time.Duration(i*37+4) * time.Minute)
	sent := opened.Add(-26 * time.Hour)
	severities := []pipeline.Severity{pipeline.Critical, pipeline.High, pipeline.High, pipeline.Medium, pipeline.Low}
	c := &fakeCase{content: map[string]any{}, reports: []string{fmt.Sprintf("report-%d", i)}}
	c.Case = reviewqueue.Case{
		ID: pipeline.CaseID(pipeline.ConversationCase, key), Kind: pipeline.ConversationCase, Queue: reviewqueue.ConversationQueue,
		State: reviewqueue.Pending, Severity: severities[i%len(severities)], Labels: []string{"grooming", "age_probe", "secrecy", "platform_move"},
		OpenedAt: opened, Deadline: opened.Add(time.Duration(i*i) * 40 * time.Minute), Revision: 1,
	}
	adult, child := 34, 13
	steps := []struct {
		label, text, reason string
		score               float64
		after               time.Duration
	}{
		{"age_probe", "so how old are you? you seem very grown up", "asks for the age, third message of the conversation", .31, 0},
		{"secrecy", "let us keep this between us ok <img src=x onerror=\"fetch('/stolen')\"><script>fetch('/stolen')</script>", "asks to keep the talk a secret", .62, 3 * time.Minute},
		{"platform_move", "do you have another app \u202eereht em dda\u202c we can write there\u200b", "moves to another platform after asking for secrecy", .84, 22 * time.Hour},
	}
	for n, step := range steps {
		sent = sent.Add(step.after)
		id := fmt.Sprintf("m-%d-%d", i, n)
		text := step.text + " " + canary
		e := reviewqueue.Event{
			MessageID: id, SentAt: sent, FoundAt: opened, Status: pipeline.Scanned, Action: pipeline.Review, Severity: pipeline.Severity(n + 1), Risk: step.score,
			Findings:  []pipeline.Finding{{Detector: "grooming", Category: "grooming", Label: step.label, Score: step.score, Reason: step.reason, Spans: []pipeline.Span{{Start: 3, End: 24}}}},
			SenderAge: &adult, RecipientAges: []int{child}, TextBytes: len(text), Open: true, Versions: map[string]string{"policy": "1"},
		}
		if n == 1 {
			e.UserReports = c.reports
			e.Status, e.Failed = pipeline.Partial, []string{"hashmatch"}
			e.Missing = []string{"context before offset 41: retention took it"}
		}
		if n == 2 {
			e.Attachments = []pipeline.HitAttachment{{ID: "a-1", MediaType: "image/png", Bytes: 2048}}
			c.content["attachment:a-1"] = reviewqueue.Attachment{MediaType: "image/png", Data: picture()}
			c.content["text"] = text
		}
		c.content["text:"+id] = text
		c.Timeline = append(c.Timeline, e)
	}
	c.Messages = len(steps)
	c.Findings = c.Timeline[2].Findings
	c.content["context"] = []reviewqueue.ContextMessage{
		{MessageID: "x-1", SentAt: sent.Add(-time.Minute), Sender: "A", Text: "hi, saw you at the game " + canary, Named: true},
		{MessageID: "x-2", SentAt: sent, Sender: "B", Text: "yes it was fun " + canary},
	}
	return c
}

// picture is a generated pattern.
func picture() []byte {
	img := image.NewRGBA(image.Rect(0, 0, 96, 64))
	for y := range 64 {
		for x := range 96 {
			img.Set(x, y, color.RGBA{uint8(x * 2), uint8(y * 3), uint8((x ^ y) * 2), 255})
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		panic(err)
	}
	return b.Bytes()
}
