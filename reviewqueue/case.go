package reviewqueue

import (
	"fmt"
	"slices"
	"time"

	"github.com/dmguard/dmguard/pipeline"
)

// State is where a case stands. Every case is in exactly one.
type State string

// States of a case.
const (
	Pending State = "pending" // waits for a reviewer
	Leased  State = "leased"  // a reviewer holds it
	Decided State = "decided" // until a new message reopens it
	Dead    State = "dead"    // leases ran out too often: waits in the queue DeadQueue
)

// States returns all states.
func States() []State { return []State{Pending, Leased, Decided, Dead} }

// ParseState returns the state with this name.
func ParseState(s string) (State, error) {
	if st := State(s); slices.Contains(States(), st) {
		return st, nil
	}
	return "", fmt.Errorf("unknown state: it is one of %q", States())
}

// Names of the queues that a reviewer can claim from. Dead cases are offered
// only to who asks for them by name.
const (
	ConversationQueue = string(pipeline.ConversationCase)
	MediaQueue        = string(pipeline.MediaCase)
	DeadQueue         = "dead"
)

// Queues returns the names of all queues.
func Queues() []string { return []string{ConversationQueue, MediaQueue, DeadQueue} }

// Case is what a person must decide, masked: it holds no content and no id of
// a user or conversation.
type Case struct {
	ID       string            `json:"id"`
	Kind     pipeline.CaseKind `json:"kind"`
	Queue    string            `json:"queue"`
	State    State             `json:"state"`
	Severity pipeline.Severity `json:"severity"` // the gravest of what is open; of everything where nothing is
	Labels   []string          `json:"labels"`   // categories and labels found, sorted
	OpenedAt time.Time         `json:"opened_at"`
	Deadline time.Time         `json:"deadline"` // by which it should be decided

	// Revision counts the times the case was opened. A decision is about one
	// revision.
	Revision int `json:"revision"`
	Attempts int `json:"attempts"` // leases of this revision that ran out
	Messages int `json:"messages"` // how many messages have hits
	Omitted  int `json:"omitted"`  // how many of them are counted and not in Timeline

	// Findings are those of the gravest message that is open, or else of the
	// gravest of all.
	Findings []pipeline.Finding `json:"findings"`
	Timeline []Event            `json:"timeline"` // by time sent

	LeaseExpiresAt *time.Time `json:"lease_expires_at,omitempty"`
	Decisions      []Past     `json:"decisions,omitempty"` // in force, by revision
}

// Event is one message of a case, masked.
type Event struct {
	MessageID     string                   `json:"message_id"`
	SentAt        time.Time                `json:"sent_at"`
	FoundAt       time.Time                `json:"found_at"` // when the first hit on it was logged
	Status        pipeline.Status          `json:"status"`
	Action        pipeline.Action          `json:"action"`
	Severity      pipeline.Severity        `json:"severity"`
	Risk          float64                  `json:"risk"`
	Findings      []pipeline.Finding       `json:"findings"`
	SenderAge     *int                     `json:"sender_age,omitempty"`
	RecipientAges []int                    `json:"recipient_ages,omitempty"`
	TextBytes     int                      `json:"text_bytes"`
	Attachments   []pipeline.HitAttachment `json:"attachments,omitempty"`
	UserReports   []string                 `json:"user_reports,omitempty"` // each a basis for a reveal
	Failed        []string                 `json:"failed_detectors,omitempty"`
	Missing       []string                 `json:"missing,omitempty"` // what is not in the evidence, and why
	Versions      map[string]string        `json:"versions,omitempty"`
	Open          bool                     `json:"open"` // no decision covers it yet
}

// Past is a decision in force, without its note.
type Past struct {
	Revision  int       `json:"revision"`
	Choice    Choice    `json:"decision"`
	Label     string    `json:"label,omitempty"`
	Reviewer  string    `json:"reviewer"`
	DecidedAt time.Time `json:"decided_at"`
}

// Lease is a case in one reviewer's hands until ExpiresAt.
type Lease struct {
	Case      *Case
	Token     string // opaque; whoever holds the case proves it with this
	ExpiresAt time.Time
}

// Stats counts the cases.
type Stats struct {
	Pending int64 `json:"pending"`
	Leased  int64 `json:"leased"`
	Decided int64 `json:"decided"`
	Dead    int64 `json:"dead"`

	BySeverity    map[string]int64 `json:"by_severity"`    // of the cases not decided
	OldestSeconds int64            `json:"oldest_seconds"` // age of the oldest case not decided
}

// Filter narrows a list of cases. Zero fields match everything.
type Filter struct {
	State State
	Queue string
}
