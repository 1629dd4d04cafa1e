package reviewqueue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/dmguard/dmguard/pipeline"
)

// Limits of what a case keeps in Redis. Messages over maxIndexed are counted;
// each of their hits reopens a decided case, because nothing says any more
// which of them were seen.
const (
	maxIndexed      = 2000 // messages known by id and position
	maxFull         = 200  // messages kept with their masked summary
	maxFindings     = 64   // findings kept of one message
	maxFoldBatch    = 64   // records folded by one script
	maxSummaryBytes = 64 << 10
)

// hitFold is a record of dm.hits as fold.lua takes it.
type hitFold struct {
	Case      string            `json:"case"`
	Key       string            `json:"key"`
	Kind      pipeline.CaseKind `json:"kind"`
	Partition int32             `json:"p"`
	Offset    int64             `json:"o"`
	Message   string            `json:"message"`
	Time      int64             `json:"time"` // ms, when the hit was logged
	Sent      int64             `json:"sent"` // ms
	SLA       int64             `json:"sla"`  // ms
	Severity  int               `json:"sev"`
	Labels    []string          `json:"labels,omitempty"`
	Reports   []string          `json:"reports,omitempty"`
	Summary   string            `json:"summary"` // JSON of an Event
}

// decisionFold is a record of dm.decisions as fold.lua takes and keeps it.
// Empty lists are left out: Lua cannot tell them from empty objects.
type decisionFold struct {
	Case      string            `json:"case"`
	Key       string            `json:"key"`
	Kind      pipeline.CaseKind `json:"kind"`
	Partition int32             `json:"p"`
	Offset    int64             `json:"o"`
	Revision  int               `json:"revision"`
	Through   map[int32]int64   `json:"through,omitempty"`
	Messages  []string          `json:"messages,omitempty"`
	At        int64             `json:"at"` // ms
	Choice    Choice            `json:"choice"`
	Label     string            `json:"label,omitempty"`
	Reviewer  string            `json:"reviewer"`
}

// folded is one record, ready for fold.lua.
type folded struct {
	caseID  string
	payload string
}

// errBadRecord marks a record that can never be folded.
var errBadRecord = errors.New("not a record of the review queue")

// prepare turns a record into what fold.lua takes. An error wraps errBadRecord
// and quotes nothing of the record.
func (q *Queue) prepare(rec *pipeline.Record) (folded, error) {
	if rec.Partition < 0 || rec.Offset < 0 || rec.Offset > maxOffset {
		return folded{}, fmt.Errorf("%w: offset out of range", errBadRecord)
	}
	var f folded
	var payload any
	var err error
	switch rec.Topic {
	case q.topic(pipeline.TopicHits):
		f.caseID, payload, err = q.prepareHit(rec)
	case q.topic(pipeline.TopicDecisions):
		f.caseID, payload, err = prepareDecision(rec)
	default:
		err = errors.New("it is of another topic")
	}
	if err != nil {
		return folded{}, fmt.Errorf("%w: %w", errBadRecord, err)
	}
	data, err := json.Marshal(payload, json.Deterministic(true))
	if err != nil {
		return folded{}, fmt.Errorf("%w: it cannot be encoded", errBadRecord)
	}
	f.payload = string(data)
	return f, nil
}

// ParseHit reads a record of dm.hits. The errors quote nothing of it.
func ParseHit(value []byte) (*pipeline.Hit, error) {
	var h pipeline.Hit
	if err := json.Unmarshal(value, &h); err != nil {
		return nil, errors.New("not a hit: wrong JSON or types")
	}
	switch {
	case h.Kind != pipeline.ConversationCase && h.Kind != pipeline.MediaCase:
		return nil, errors.New("not a hit: unknown kind")
	case h.CaseKey == "" || h.CaseID != pipeline.CaseID(h.Kind, h.CaseKey):
		return nil, errors.New("not a hit: the case id is not that of the case key")
	case h.Verdict.MessageID == "" || len(h.Verdict.MessageID) > 4*pipeline.MaxIDLength:
		return nil, errors.New("not a hit: no message id, or an over-long one")
	}
	return &h, nil
}

func (q *Queue) prepareHit(rec *pipeline.Record) (string, *hitFold, error) {
	h, err := ParseHit(rec.Value)
	if err != nil {
		return "", nil, err
	}
	found := rec.Time
	if found.IsZero() {
		found = h.Verdict.DecidedAt
	}
	found = clampTime(found)
	summary, err := summarise(h, found)
	if err != nil {
		return "", nil, err
	}
	labels := map[string]bool{}
	for i := range h.Verdict.Findings {
		f := &h.Verdict.Findings[i]
		labels[string(f.Category)] = true
		labels[f.Label] = true
		if len(labels) > maxFindings {
			break
		}
	}
	delete(labels, "")
	return h.CaseID, &hitFold{
		Case: h.CaseID, Key: h.CaseKey, Kind: h.Kind,
		Partition: rec.Partition, Offset: rec.Offset,
		Message: h.Verdict.MessageID, Time: found.UnixMilli(), Sent: clampTime(h.SentAt).UnixMilli(),
		SLA: q.config.SLA[h.Verdict.Severity].Milliseconds(), Severity: int(h.Verdict.Severity),
		Labels:  slices.Sorted(maps.Keys(labels)),
		Reports: h.UserReports[:min(len(h.UserReports), pipeline.MaxUserReports)],
		Summary: summary,
	}, nil
}

// clampTime keeps what the platform or a broken clock said within what orders
// sensibly: 1970 to 2200.
func clampTime(t time.Time) time.Time {
	earliest, latest := time.Unix(0, 0).UTC(), time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
	switch t = t.UTC(); {
	case t.Before(earliest):
		return earliest
	case t.After(latest):
		return latest
	}
	return t
}

// summarise returns the JSON of the masked event of a hit.
func summarise(h *pipeline.Hit, found time.Time) (string, error) {
	v := &h.Verdict
	findings := v.Findings
	for limit := maxFindings; ; limit /= 4 {
		if len(findings) > limit {
			// The gravest ones stay.
			findings = slices.Clone(v.Findings)
			slices.SortStableFunc(findings, func(a, b pipeline.Finding) int { return cmp.Compare(b.Score, a.Score) })
			findings = findings[:limit]
		}
		data, err := json.Marshal(Event{
			MessageID: v.MessageID, SentAt: h.SentAt, FoundAt: found,
			Status: v.Status, Action: v.Action, Severity: v.Severity, Risk: v.Risk, Findings: findings,
			SenderAge: h.SenderAge, RecipientAges: h.RecipientAges, TextBytes: h.TextBytes,
			Attachments: h.Attachments, UserReports: h.UserReports, Failed: v.FailedDetectors,
			Missing: h.Evidence.Missing, Versions: v.Versions,
		}, json.Deterministic(true))
		switch {
		case err != nil:
			return "", errors.New("not a hit: its verdict cannot be encoded")
		case len(data) <= maxSummaryBytes:
			return string(data), nil
		case limit == 0:
			return "", errors.New("not a hit: its verdict is too large")
		}
	}
}

func prepareDecision(rec *pipeline.Record) (string, *decisionFold, error) {
	d, err := ParseDecision(rec.Value)
	if err != nil {
		return "", nil, err
	}
	return d.CaseID, &decisionFold{
		Case: d.CaseID, Key: d.CaseKey, Kind: d.Kind,
		Partition: rec.Partition, Offset: rec.Offset, Revision: d.Revision,
		Through: d.Through, Messages: d.MessageIDs, At: clampTime(d.DecidedAt).UnixMilli(),
		Choice: d.Choice, Label: d.Label, Reviewer: d.Reviewer,
	}, nil
}

// errGap means that the view lacks records before those being folded: it was
// emptied or rebuilt meanwhile.
var errGap = errors.New("the view is behind what is being folded")

// Ingest folds records of dm.hits and dm.decisions without moving the position
// of the projection. Records of one partition must come in their order and
// without gaps; how the partitions and topics interleave does not matter, and a
// record that was folded before changes nothing. A record that is not what its
// topic holds is an error, after those before it were folded.
func (q *Queue) Ingest(ctx context.Context, records ...pipeline.Record) error {
	for i := range records {
		f, err := q.prepare(&records[i])
		if err != nil {
			return fmt.Errorf("folding %s/%d@%d: %w", records[i].Topic, records[i].Partition, records[i].Offset, err)
		}
		if _, err := q.fold(ctx, q.shard(f.caseID), []folded{f}, "", 0, 0); err != nil {
			return err
		}
	}
	return nil
}

// fold folds records of one shard. With a field it also moves that position,
// from from to to. It returns for each record whether it is in force.
func (q *Queue) fold(ctx context.Context, shard int, batch []folded, field string, from, to int64) ([]bool, error) {
	args := []any{field, from, to, q.config.MaxAttempts, maxIndexed, maxFull}
	ids := make([]string, len(batch))
	for i, f := range batch {
		ids[i] = f.caseID
		args = append(args, f.payload)
	}
	answer, err := q.run(ctx, foldScript, shard, ids, args...)
	if err != nil {
		return nil, fmt.Errorf("folding into the review queue: %w", err)
	}
	if answer[0] == scriptGap {
		return nil, errGap
	}
	inForce := make([]bool, len(answer)-1)
	for i, a := range answer[1:] {
		inForce[i] = a == "1"
	}
	return inForce, nil
}
