package pipeline

import (
	"fmt"
	"slices"
	"time"
)

// Action is what becomes of a message. Actions are ordered: the gravest wins.
type Action int

// Actions, from least to gravest.
const (
	Allow  Action = iota // deliver, tell nobody
	Review               // deliver, and open a case
	Block                // withhold, and open a case
)

var actionNames = []string{"allow", "review", "block"}

func (a Action) String() string { return enumName(actionNames, int(a)) }

// MarshalText implements [encoding.TextMarshaler].
func (a Action) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (a *Action) UnmarshalText(b []byte) error {
	return enumValue("action", actionNames, b, (*int)(a))
}

// Severity is how grave a verdict is: it orders the review queue.
type Severity int

// Severities, from least to gravest.
const (
	None Severity = iota
	Low
	Medium
	High
	Critical
)

var severityNames = []string{"none", "low", "medium", "high", "critical"}

func (s Severity) String() string { return enumName(severityNames, int(s)) }

// MarshalText implements [encoding.TextMarshaler].
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (s *Severity) UnmarshalText(b []byte) error {
	return enumValue("severity", severityNames, b, (*int)(s))
}

// Status says how much of a message was looked at. Nothing is ever silently
// clean.
type Status int

// Statuses of a verdict.
const (
	Scanned Status = iota // every detector answered
	Partial               // some could not look: see Verdict.FailedDetectors
	Failed                // dead-lettered: see Verdict.Error
	Skipped               // not scanned on purpose: see Verdict.SkipReason
)

var statusNames = []string{"scanned", "partial", "failed", "skipped"}

func (s Status) String() string { return enumName(statusNames, int(s)) }

// MarshalText implements [encoding.TextMarshaler].
func (s Status) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (s *Status) UnmarshalText(b []byte) error {
	return enumValue("status", statusNames, b, (*int)(s))
}

func enumName(names []string, i int) string {
	if i < 0 || i >= len(names) {
		return fmt.Sprintf("unknown(%d)", i)
	}
	return names[i]
}

func enumValue(what string, names []string, b []byte, to *int) error {
	i := slices.Index(names, string(b))
	if i < 0 {
		return fmt.Errorf("unknown %s %q: it is one of %q", what, b, names)
	}
	*to = i
	return nil
}

// Verdict is what the pipeline concluded about one message. It holds no
// content of the message. Its JSON is schemas/verdict.schema.json.
type Verdict struct {
	MessageID       string            `json:"message_id"`
	ConversationID  string            `json:"conversation_id"`
	Status          Status            `json:"status"`
	Action          Action            `json:"action"`
	Severity        Severity          `json:"severity"`
	Risk            float64           `json:"risk"` // of the conversation, after this message
	Findings        []Finding         `json:"findings"`
	FailedDetectors []string          `json:"failed_detectors,omitempty"`
	SkipReason      string            `json:"skip_reason,omitempty"`
	Error           string            `json:"error,omitempty"`
	Versions        map[string]string `json:"versions"` // policy, ruleset, lists, model
	DecidedAt       time.Time         `json:"decided_at"`
}

// Clean reports whether the verdict says only that everything was looked at and
// nothing was found.
func (v *Verdict) Clean() bool {
	return v.Status == Scanned && v.Action == Allow && len(v.Findings) == 0
}

// Policy maps findings and failures to an action and a severity.
type Policy struct {
	Version    string      `yaml:"version"`
	Thresholds []Threshold `yaml:"thresholds"`

	// Lists say what follows from a match with a list, by its name, in place of
	// the thresholds of the category.
	Lists map[string]ListRule `yaml:"lists,omitempty"`

	// OnUnlisted is the action on a finding in a category that no threshold
	// names, with severity Medium: a list that nobody wrote a rule for is not
	// silently ignored.
	OnUnlisted Action `yaml:"on_unlisted"`

	// OnPartial is the action on a message that some detector could not look
	// at, OnFailed on one that went to the dead letters.
	OnPartial Action `yaml:"on_partial"`
	OnFailed  Action `yaml:"on_failed"`

	// SkipRegions are not scanned at all (ISO 3166-1 alpha-2): the
	// jurisdiction gate.
	SkipRegions []string `yaml:"skip_regions"`
}

// skips reports whether a message lies where nothing is scanned.
func (p *Policy) skips(m *Message) bool { return slices.Contains(p.SkipRegions, m.Region) }

// Threshold asks for an action and a severity where a finding in Category, and
// with Label where one is named, scores Min or more.
type Threshold struct {
	Category Category `yaml:"category"`
	Label    string   `yaml:"label,omitempty"`
	Min      float64  `yaml:"min"`
	Action   Action   `yaml:"action"`
	Severity Severity `yaml:"severity"`
}

// ListRule is what follows from a match with a list, whatever its score.
type ListRule struct {
	Action   Action   `yaml:"action"`
	Severity Severity `yaml:"severity"`
}

// Decide returns the gravest action and severity that any finding asks for, and
// the action that a partial look asks for.
func (p *Policy) Decide(findings []Finding, partial bool) (Action, Severity) {
	action, severity := Allow, None
	if partial {
		action = p.OnPartial
	}
	for i := range findings {
		f := &findings[i]
		if f.Supports || f.Suppressed() {
			continue
		}
		asked, grave := p.asks(f)
		if f.AtMost != nil {
			asked = min(asked, *f.AtMost)
		}
		action, severity = max(action, asked), max(severity, grave)
	}
	return action, severity
}

// asks returns what policy says of one finding.
func (p *Policy) asks(f *Finding) (action Action, severity Severity) {
	if f.Match != nil {
		if rule, ok := p.Lists[f.Match.List]; ok {
			return rule.Action, rule.Severity
		}
	}
	listed := false
	for _, t := range p.Thresholds {
		if t.Category != f.Category {
			continue
		}
		listed = true
		if (t.Label == "" || t.Label == f.Label) && f.Score >= t.Min {
			action, severity = max(action, t.Action), max(severity, t.Severity)
		}
	}
	if !listed && p.OnUnlisted > Allow {
		return p.OnUnlisted, Medium
	}
	return action, severity
}
