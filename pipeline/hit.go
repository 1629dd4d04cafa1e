package pipeline

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"strings"
	"time"
)

// Hit is one record of dm.hits: what a person must see about one message, for
// one case. It is clear but for its evidence, which is sealed to the review
// key. Its JSON is schemas/hit.schema.json.
type Hit struct {
	CaseID  string   `json:"case_id"`
	CaseKey string   `json:"case_key"` // also the key of the record
	Kind    CaseKind `json:"kind"`

	Verdict  Verdict   `json:"verdict"`
	Position Position  `json:"position"` // of the message that was judged
	SentAt   time.Time `json:"sent_at"`

	// SenderAge and RecipientAges are years, where the platform knows them.
	SenderAge     *int  `json:"sender_age,omitempty"`
	RecipientAges []int `json:"recipient_ages,omitempty"`

	TextBytes   int             `json:"text_bytes"` // length of the text, which spans point into
	Attachments []HitAttachment `json:"attachments,omitempty"`

	// UserReports are the ids of users' reports about the message: each is a
	// lawful basis to read it.
	UserReports []string `json:"user_reports,omitempty"`

	Evidence SealedEvidence `json:"evidence"`
}

// HitAttachment says that there was an attachment, not what it shows.
type HitAttachment struct {
	ID        string `json:"id"`
	MediaType string `json:"media_type"`
	Bytes     int64  `json:"bytes,omitempty"`
}

// SealedEvidence is [Evidence], sealed.
type SealedEvidence struct {
	KeyID  string `json:"kid"`
	Sealed []byte `json:"sealed"` // HPKE (RFC 9180) encapsulated key and ciphertext, of the JSON of Evidence

	// Missing says in plain words what could not be put into the evidence,
	// such as context that retention took.
	Missing []string `json:"missing,omitempty"`
}

// Evidence is the content that a reviewer may be shown of a hit, field by field
// and after an audit entry each time. Unlike everything else here it encodes
// what was written: it exists in the clear only between assembling and sealing
// in the scanner, and between unsealing and answering in the review service.
type Evidence struct {
	Text        string               `json:"text"`
	SenderID    string               `json:"sender_id"`
	Context     []ContextMessage     `json:"context,omitempty"`
	Attachments []EvidenceAttachment `json:"attachments,omitempty"`
}

// ContextMessage is an earlier message that a finding names, or one of the five
// before it.
type ContextMessage struct {
	MessageID string    `json:"message_id"`
	SentAt    time.Time `json:"sent_at"`
	SenderID  string    `json:"sender_id"`
	Text      string    `json:"text"`
	Named     bool      `json:"named,omitempty"` // a finding names it
}

// EvidenceAttachment carries the bytes of a small attachment, or where they lie.
type EvidenceAttachment struct {
	ID        string `json:"id"`
	MediaType string `json:"media_type"`
	Data      []byte `json:"data,omitempty"`
	URI       string `json:"uri,omitempty"`
}

// CaseKind is what the messages of a case have in common.
type CaseKind string

// Kinds of cases.
const (
	ConversationCase CaseKind = "conversation" // one conversation
	MediaCase        CaseKind = "media"        // one matched entry of a hash list
)

// CaseID returns the id of the case with this key: what URLs, logs and the
// audit log name instead of a conversation. It is c- or m- and 26 characters.
func CaseID(kind CaseKind, key string) string {
	sum := sha256.Sum256([]byte("dmguard case\x00" + key))
	return string(kind[:1]) + "-" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:16]))
}

// EvidenceContext is the additional data that evidence is sealed with, so that
// it cannot be moved to another case or message: for each of the case id and
// the message id its length in bytes as uint32 big-endian and its bytes.
func EvidenceContext(caseID, messageID string) []byte {
	var b []byte
	for _, s := range []string{caseID, messageID} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	return b
}

// Features is one record of dm.features: the hashes of one attachment, so that
// history can be matched against a new list without decoding anything again.
// Its key is the attachment's id.
type Features struct {
	AttachmentID   string    `json:"attachment_id"`
	MessageID      string    `json:"message_id"`
	ConversationID string    `json:"conversation_id"`
	SentAt         time.Time `json:"sent_at"`
	Hashes         []Hash    `json:"hashes"`
	Error          string    `json:"error,omitempty"` // what could not be looked at
}

// Gap is one record of dm.gaps: offsets that could not be judged, and why.
type Gap struct {
	Topic      string    `json:"topic"`
	Partition  int32     `json:"partition"`
	From       int64     `json:"from"` // first offset missed
	To         int64     `json:"to"`   // first offset after the gap
	Reason     string    `json:"reason"`
	Group      string    `json:"group"`
	DetectedAt time.Time `json:"detected_at"`
}

// Reference stands for a record that was too large to be written again.
type Reference struct {
	Position
	Bytes  int    `json:"bytes"`
	SHA256 string `json:"sha256"` // of the value, lower-case hex
}

// Names of the schemas, as the header "schema" of a record says them.
const (
	SchemaMessage    = "message/v1"
	SchemaEnvelope   = "envelope/v1"
	SchemaVerdict    = "verdict/v1"
	SchemaVerdicts   = "verdicts/v1" // an array of verdicts
	SchemaHit        = "hit/v1"
	SchemaDecision   = "decision/v1"
	SchemaFeatures   = "features/v1"
	SchemaDeadLetter = "deadletter/v1"
	SchemaGap        = "gap/v1"
)

// Topics are the names of the logs, without the deployment's prefix.
const (
	TopicMessages    = "messages"
	TopicHits        = "hits"
	TopicVerdicts    = "verdicts"
	TopicDecisions   = "decisions"
	TopicFeatures    = "features"
	TopicDeadLetters = "deadletters"
	TopicGaps        = "gaps"
)
