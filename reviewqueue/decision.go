package reviewqueue

import (
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/dmguard/dmguard/pipeline"
)

// DecisionSchema is the JSON Schema (2020-12) of the records of dm.decisions.
//
//go:embed decision.schema.json
var DecisionSchema []byte

// Choice is what a reviewer decided.
type Choice string

// Choices.
const (
	Confirm  Choice = "confirm"  // it is what the machine took it for
	Dismiss  Choice = "dismiss"  // it is not
	Escalate Choice = "escalate" // somebody with more rights must look
)

// Choices returns all choices.
func Choices() []Choice { return []Choice{Confirm, Dismiss, Escalate} }

// ParseChoice returns the choice with this name.
func ParseChoice(s string) (Choice, error) {
	if c := Choice(s); slices.Contains(Choices(), c) {
		return c, nil
	}
	return "", fmt.Errorf("unknown decision: it is one of %q", Choices())
}

// Decision is what a reviewer says about a case.
type Decision struct {
	Choice Choice
	Label  string        // one of the configured labels, or ""
	Note   pipeline.Text // free words, sealed before they are stored
}

// MaxNoteBytes is how long the note of a decision may be.
const MaxNoteBytes = 8 << 10

// DecisionRecord is one record of dm.decisions. For a case and revision the one
// with the lowest offset is in force, whatever Redis was told in between. It
// holds no content but the note, which is sealed. Its JSON is
// decision.schema.json.
type DecisionRecord struct {
	CaseID   string            `json:"case_id"`
	CaseKey  string            `json:"case_key"` // also the key of the record
	Kind     pipeline.CaseKind `json:"kind"`
	Queue    string            `json:"queue"`
	Revision int               `json:"revision"`

	Choice    Choice    `json:"decision"`
	Label     string    `json:"label,omitempty"`
	Reviewer  string    `json:"reviewer"`
	DecidedAt time.Time `json:"decided_at"`

	// Through says, by partition of dm.hits, up to which offset (inclusive) the
	// reviewer was shown the hits on the case: those are decided by this.
	Through map[int32]int64 `json:"through"`

	// MessageIDs are the messages shown, at most [MaxDecisionMessages]: they
	// stay decided after retention has taken their hits and a re-scan has found
	// them again.
	MessageIDs []string `json:"message_ids,omitempty"`

	// Note is sealed to the review key with [NoteContext].
	Note *pipeline.SealedEvidence `json:"note,omitempty"`
}

// MaxDecisionMessages is how many message ids a decision lists.
const MaxDecisionMessages = 200

// NoteContext is the additional data that the note of a decision is sealed
// with.
func NoteContext(caseID string, revision int) []byte {
	return pipeline.EvidenceContext(caseID, fmt.Sprintf("decision note, revision %d", revision))
}

// ParseDecision reads a record of dm.decisions and holds it to its schema. The
// errors quote nothing of the record.
func ParseDecision(value []byte) (*DecisionRecord, error) {
	var d DecisionRecord
	if err := json.Unmarshal(value, &d); err != nil {
		return nil, errors.New("not a decision: wrong JSON or types")
	}
	switch {
	case d.Kind != pipeline.ConversationCase && d.Kind != pipeline.MediaCase:
		return nil, errors.New("not a decision: unknown kind")
	case d.CaseKey == "" || d.CaseID != pipeline.CaseID(d.Kind, d.CaseKey):
		return nil, errors.New("not a decision: the case id is not that of the case key")
	case d.Revision < 1 || d.Revision > maxRevision:
		return nil, errors.New("not a decision: revision out of range")
	case !slices.Contains(Choices(), d.Choice):
		return nil, errors.New("not a decision: unknown choice")
	case d.Reviewer == "" || d.DecidedAt.IsZero():
		return nil, errors.New("not a decision: no reviewer or time")
	case len(d.MessageIDs) > MaxDecisionMessages || len(d.Through) > maxPartitions:
		return nil, errors.New("not a decision: too many messages or partitions")
	}
	for p, o := range d.Through {
		if p < 0 || o < 0 || o > maxOffset {
			return nil, errors.New("not a decision: offset out of range")
		}
	}
	return &d, nil
}

// Bounds on numbers that scripts keep as Lua's floating-point numbers and cjson
// prints with 14 digits.
const (
	maxOffset     = 1e14 - 1
	maxRevision   = 1 << 30
	maxPartitions = 1 << 16
)
