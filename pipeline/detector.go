package pipeline

import (
	"context"
)

// Detector looks at one item and reports what it finds.
//
// A Detector is safe for concurrent use and is a pure function of the item and
// of its own configuration: it fetches nothing and remembers nothing. What it
// has to remember of a conversation it returns as state and is handed back
// with the conversation's next item. That is what lets a re-scan repeat the
// verdicts of the stream.
type Detector interface {
	// Name identifies the detector in configuration, metrics, verdicts and
	// state. It is lower case and never changes once released.
	Name() string

	// Detect returns its findings, none for an item it has nothing to say
	// about. An error means that it could not look, or not at everything,
	// which is not the same as finding nothing: the verdict says so and the
	// policy decides what becomes of the item; findings returned beside an
	// error count. The text of the error goes into the verdict and so must not
	// quote the message. Detect returns soon after ctx ends.
	Detect(ctx context.Context, item *Item) (Answer, error)
}

// Answer is what a detector says of one item.
type Answer struct {
	Findings []Finding

	// Risk is the risk of the conversation after this item, 0 to 1, from a
	// detector that follows conversations. The greatest one is in the verdict.
	Risk float64

	// State replaces what the detector remembers of the conversation; nil
	// leaves it as it is, an empty non-nil slice forgets it.
	State []byte
}

// Category names the kind of harm that a finding speaks of, such as "csam".
type Category string

// Finding is one thing that one detector found. It holds nothing of what the
// message says.
type Finding struct {
	Detector string   `json:"detector"` // set by the pipeline
	Category Category `json:"category"`
	Label    string   `json:"label,omitempty"`
	Score    float64  `json:"score"` // 0 to 1

	// Reason tells a reviewer why, in words that quote nothing of the message:
	// "list ncii-2026-11, entry 4711, distance 3".
	Reason string `json:"reason"`

	// MessageID names the earlier message that this evidence lies in, where it
	// is not the one being judged.
	MessageID string `json:"message_id,omitempty"`
	Spans     []Span `json:"spans,omitempty"`
	Match     *Match `json:"match,omitempty"`

	// AtMost is the gravest action that may follow from this finding, whatever
	// policy says, nil where nothing bounds it. Reason says why. A finding from
	// which nothing may follow is suppressed: it is shown, with a score of 0.
	AtMost *Action `json:"-"`

	// Supports marks evidence that explains another finding of the same answer
	// and asks for no action by itself.
	Supports bool `json:"-"`

	// Context says where the message of MessageID and those before it lie in
	// the partition of the item, oldest first, the message itself last: from
	// there the reviewer's evidence is read again.
	Context []int64 `json:"-"`
}

// Bound keeps what follows from the finding to an action at most; the least
// bound holds. The text says why, and becomes a part of the reason.
func (f *Finding) Bound(a Action, why string) {
	if f.AtMost == nil || a < *f.AtMost {
		f.AtMost = &a
	}
	if a == Allow {
		f.Score = 0
	}
	f.Reason += "; " + why
}

// Suppressed reports whether nothing may follow from the finding.
func (f *Finding) Suppressed() bool { return f.AtMost != nil && *f.AtMost == Allow }

// Span is a half-open range of byte offsets into the original text.
type Span struct {
	Start int `json:"start"`
	End   int `json:"end"`
}

// Match says which entry of which hash list an attachment matched, and how.
type Match struct {
	AttachmentID string `json:"attachment_id,omitempty"`
	Frame        int    `json:"frame,omitempty"`
	Kind         string `json:"kind,omitempty"`
	List         string `json:"list,omitempty"`
	ListVersion  string `json:"list_version,omitempty"`
	Entry        string `json:"entry,omitempty"`
	Distance     int    `json:"distance"`
	Threshold    int    `json:"threshold"`
	Quality      int    `json:"quality,omitempty"`
}

// Item is a message made ready for detection. Detectors share it and must not
// modify it.
type Item struct {
	Message  *Message
	Position Position

	// Media holds one entry for each attachment, in their order.
	Media []Media

	// Recent are the offsets of the messages of this conversation that came
	// before, oldest first, at most [RecentMessages], in the item's partition.
	Recent []int64

	// Repeat says that this message id was judged in this conversation before:
	// the platform sent it twice. It must not count twice.
	Repeat bool

	state map[string][]byte
}

// State returns what the named detector remembered of the conversation before
// this item, nil where it remembered nothing. It must not be modified.
func (it *Item) State(detector string) []byte { return it.state[detector] }

// SetState is for tests of detectors: it sets what [Item.State] returns.
func (it *Item) SetState(detector string, state []byte) {
	if it.state == nil {
		it.state = map[string][]byte{}
	}
	it.state[detector] = state
}

// Media is what preparation made of one attachment: its hashes, or why there
// are none.
type Media struct {
	AttachmentID string
	Hashes       []Hash

	// Err says what could not be looked at, in words that quote nothing of the
	// message; "" where everything was.
	Err string
}

// Hash is one hash of an attachment or of one of its frames.
type Hash struct {
	Kind      string `json:"kind"`      // md5, sha1, sha256, vpdq, pdq, phash
	Algorithm string `json:"algorithm"` // the version that computed it, or "platform"
	Value     string `json:"value"`     // lower-case hex
	Quality   *int   `json:"quality,omitempty"`
	Frame     int    `json:"frame,omitempty"` // its number; of a video its second

	// Variants are the hashes of the rotated and mirrored picture, where the
	// kind has them: query side only, not recorded.
	Variants []string `json:"-"`
}
