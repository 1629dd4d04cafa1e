package pipeline

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Limits of a message, those of its schema (schemas/message.schema.json).
// Lengths of strings are in characters, as JSON Schema counts them.
const (
	MaxIDLength     = 256
	MaxTextLength   = 65536
	MaxRecipients   = 1024
	MaxAttachments  = 64
	MaxUserReports  = 64
	MaxReasonLength = 4096
	MaxAge          = 130
)

// Message is one direct message as the platform stored it. It is never modified.
type Message struct {
	ID             string       `json:"id"`
	ConversationID string       `json:"conversation_id"`
	SentAt         time.Time    `json:"sent_at"`
	Sender         Party        `json:"sender"`
	Recipients     []Party      `json:"recipients,omitempty"`
	Text           Text         `json:"text,omitzero"`
	Lang           string       `json:"lang,omitempty"` // BCP 47, where the platform knows
	Attachments    []Attachment `json:"attachments,omitempty"`
	UserReports    []UserReport `json:"user_reports,omitempty"`
	Region         string       `json:"region,omitempty"` // ISO 3166-1 alpha-2 of the conversation
}

// Party is a sender or a recipient. All but the id may be unknown.
type Party struct {
	ID               string     `json:"id"`
	Age              *int       `json:"age,omitempty"` // years
	AccountCreatedAt *time.Time `json:"account_created_at,omitempty"`
	Connected        *bool      `json:"connected,omitempty"` // follows or is a friend of the other party
	Behaviour        *Behaviour `json:"behaviour,omitempty"`
}

// Behaviour is what the platform counted of a party over the last 24 hours.
type Behaviour struct {
	MinorsContacted    *int `json:"minors_contacted,omitempty"`
	StrangersContacted *int `json:"strangers_contacted,omitempty"`
	RepliesReceived    *int `json:"replies_received,omitempty"`
	BlockedBy          *int `json:"blocked_by,omitempty"`
	ReportedBy         *int `json:"reported_by,omitempty"`
}

// Attachment is a file sent with a message: its bytes, or where they lie.
type Attachment struct {
	ID        string            `json:"id"`
	MediaType string            `json:"media_type"`
	Size      *int64            `json:"size,omitempty"` // bytes, as the platform says
	URI       string            `json:"uri,omitempty"`
	Data      Blob              `json:"data,omitzero"`
	Hashes    map[string]string `json:"hashes,omitempty"` // by kind, as the platform computed them
}

// UserReport is a user's report about the message, one of the lawful reasons to
// read it.
type UserReport struct {
	ID         string    `json:"id"`
	ReporterID string    `json:"reporter_id"`
	ReportedAt time.Time `json:"reported_at"`
	Reason     Text      `json:"reason,omitzero"`
}

// presence finds fields that a zero value cannot tell from absent ones.
type presence struct {
	SentAt      jsontext.Value `json:"sent_at"`
	Attachments []struct {
		MediaType jsontext.Value `json:"media_type"`
		URI       jsontext.Value `json:"uri"`
		Data      jsontext.Value `json:"data"`
	} `json:"attachments"`
	UserReports []struct {
		ID         jsontext.Value `json:"id"`
		ReporterID jsontext.Value `json:"reporter_id"`
		ReportedAt jsontext.Value `json:"reported_at"`
	} `json:"user_reports"`
}

// ParseMessage reads a message from JSON (RFC 8259, strictly: duplicate names
// and invalid UTF-8 are errors) and holds it to its schema. Unknown fields are
// ignored. Every error is permanent, and none quotes what the message says.
func ParseMessage(data []byte) (*Message, error) {
	var m Message
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, Permanent(fmt.Errorf("reading message: %w", redactJSON(err)))
	}
	if err := rejectNulls(data); err != nil {
		return nil, Permanent(fmt.Errorf("invalid message: %w", err))
	}
	if err := m.validate(data); err != nil {
		return nil, Permanent(fmt.Errorf("invalid message: %w", err))
	}
	return &m, nil
}

// redactJSON keeps what is wrong and where, and drops what the input said: the
// errors of the JSON package quote names and values.
func redactJSON(err error) error {
	if semantic, ok := errors.AsType[*json.SemanticError](err); ok {
		where := knownPointer(semantic.JSONPointer)
		if semantic.GoType != nil {
			return fmt.Errorf("wrong type or value at %s, byte %d", where, semantic.ByteOffset)
		}
		return fmt.Errorf("unexpected value at %s, byte %d", where, semantic.ByteOffset)
	}
	if syntactic, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		reason := "not valid JSON"
		switch {
		case errors.Is(err, jsontext.ErrDuplicateName):
			reason = "duplicate field name"
		case strings.Contains(syntactic.Err.Error(), "UTF-8"):
			reason = "invalid UTF-8"
		}
		return fmt.Errorf("%s at byte %d", reason, syntactic.ByteOffset)
	}
	return errors.New("not valid JSON")
}

// knownPointer returns a JSON pointer with every name that the schema does not
// know replaced, because such a name is the sender's.
func knownPointer(p jsontext.Pointer) string {
	if p == "" {
		return "the top"
	}
	var out, path strings.Builder
	for token := range p.Tokens() {
		out.WriteByte('/')
		if strings.Trim(token, "0123456789") == "" {
			out.WriteString(token)
			continue
		}
		path.WriteByte('/')
		path.WriteString(token)
		if !schemaPaths[path.String()] {
			out.WriteByte('?')
			break
		}
		out.WriteString(token)
	}
	return out.String()
}

// schemaPaths are the fields of a message, array indices left out.
var schemaPaths = func() map[string]bool {
	paths := map[string]bool{}
	add := func(prefix string, names ...string) {
		for _, n := range names {
			paths[prefix+"/"+n] = true
		}
	}
	add("", "id", "conversation_id", "sent_at", "sender", "recipients", "text", "lang", "attachments", "user_reports", "region")
	for _, p := range []string{"/sender", "/recipients"} {
		add(p, "id", "age", "account_created_at", "connected", "behaviour")
		add(p+"/behaviour", "minors_contacted", "strangers_contacted", "replies_received", "blocked_by", "reported_by")
	}
	add("/attachments", "id", "media_type", "size", "uri", "data", "hashes")
	add("/user_reports", "id", "reporter_id", "reported_at", "reason")
	return paths
}()

// rejectNulls finds a null where the schema wants a value: the decoder takes it
// for an absent field.
func rejectNulls(data []byte) error {
	if !bytes.Contains(data, []byte("null")) {
		return nil
	}
	dec := jsontext.NewDecoder(bytes.NewBuffer(data))
	for {
		tok, err := dec.ReadToken()
		if err != nil {
			return nil //nolint:nilerr // the end, or what the full parse has settled before
		}
		if tok.Kind() != 'n' {
			continue
		}
		p := dec.StackPointer()
		if where := knownPointer(p); !strings.HasSuffix(where, "?") || hashOf(p) {
			return fmt.Errorf("null at %s", where)
		}
	}
}

// hashOf reports whether p points at a value of attachments[n].hashes, whose
// names are free.
func hashOf(p jsontext.Pointer) bool {
	var tokens []string
	for t := range p.Tokens() {
		tokens = append(tokens, t)
	}
	return len(tokens) == 4 && tokens[0] == "attachments" && tokens[2] == "hashes"
}

// validate reports every fault at once.
func (m *Message) validate(data []byte) error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	id := func(name, v string) {
		switch {
		case v == "":
			fail("missing %s", name)
		case len(v) > MaxIDLength && utf8.RuneCountInString(v) > MaxIDLength:
			fail("%s is longer than %d characters", name, MaxIDLength)
		}
	}
	id("id", m.ID)
	id("conversation_id", m.ConversationID)
	m.Sender.validate("sender", id, fail)
	if n := len(m.Recipients); n > MaxRecipients {
		fail("%d recipients, more than %d", n, MaxRecipients)
	} else {
		for i := range m.Recipients {
			m.Recipients[i].validate("recipients", id, fail)
		}
	}
	if m.Text.Len() > MaxTextLength && utf8.RuneCountInString(m.Text.Reveal()) > MaxTextLength {
		fail("text is longer than %d characters", MaxTextLength)
	}
	if n := len(m.Attachments); n > MaxAttachments {
		fail("%d attachments, more than %d", n, MaxAttachments)
	}
	for i := range m.Attachments {
		a := &m.Attachments[i]
		if a.ID == "" {
			fail("missing attachments[%d].id", i)
		}
		if a.Size != nil && *a.Size < 0 {
			fail("attachments[%d].size is negative", i)
		}
	}
	if n := len(m.UserReports); n > MaxUserReports {
		fail("%d user reports, more than %d", n, MaxUserReports)
	}
	for i := range m.UserReports {
		r := &m.UserReports[i]
		if r.Reason.Len() > MaxReasonLength && utf8.RuneCountInString(r.Reason.Reveal()) > MaxReasonLength {
			fail("user_reports[%d].reason is longer than %d characters", i, MaxReasonLength)
		}
	}
	// The second pass is for the rare shapes in which a zero value may mean
	// an absent field; the others are settled above.
	if m.SentAt.IsZero() || len(m.Attachments) > 0 || len(m.UserReports) > 0 {
		var p presence
		if err := json.Unmarshal(data, &p); err != nil {
			return errors.Join(append(errs, redactJSON(err))...)
		}
		if p.SentAt == nil {
			fail("missing sent_at")
		}
		for i, a := range p.Attachments {
			if a.MediaType == nil {
				fail("missing attachments[%d].media_type", i)
			}
			if a.URI != nil && a.Data != nil {
				fail("attachments[%d] has both uri and data", i)
			}
		}
		for i, r := range p.UserReports {
			for name, v := range map[string]jsontext.Value{"id": r.ID, "reporter_id": r.ReporterID, "reported_at": r.ReportedAt} {
				if v == nil {
					fail("missing user_reports[%d].%s", i, name)
				}
			}
		}
	}
	return errors.Join(errs...)
}

func (p *Party) validate(name string, id func(string, string), fail func(string, ...any)) {
	id(name+".id", p.ID)
	if p.Age != nil && (*p.Age < 0 || *p.Age > MaxAge) {
		fail("%s.age is outside 0 to %d", name, MaxAge)
	}
	if b := p.Behaviour; b != nil {
		for _, n := range []*int{b.MinorsContacted, b.StrangersContacted, b.RepliesReceived, b.BlockedBy, b.ReportedBy} {
			if n != nil && *n < 0 {
				fail("%s.behaviour has a negative count", name)
			}
		}
	}
}

// PeekConversation returns the top-level conversation_id of a message or an
// envelope, reading no further than it must, or "" where there is none. It
// picks the lane of a record that has not been opened yet.
func PeekConversation(data []byte) string {
	_, conversation := peekIDs(data, false)
	return conversation
}

// PeekIDs returns the top-level id and conversation_id of a record that may be
// broken further on, "" for what cannot be read: a verdict on a dead letter
// names the message where it can.
func PeekIDs(data []byte) (id, conversation string) { return peekIDs(data, true) }

var peekers = sync.Pool{New: func() any { return jsontext.NewDecoder(new(bytes.Buffer)) }}

func peekIDs(data []byte, both bool) (id, conversation string) {
	dec, _ := peekers.Get().(*jsontext.Decoder)
	defer peekers.Put(dec)
	// A bytes.Buffer is read in place, without a copy.
	dec.Reset(bytes.NewBuffer(data), jsontext.AllowDuplicateNames(true))
	if tok, err := dec.ReadToken(); err != nil || tok.Kind() != '{' {
		return "", ""
	}
	for dec.PeekKind() == '"' {
		name, err := dec.ReadToken()
		if err != nil {
			return id, conversation
		}
		key := name.String()
		if (key != "id" && key != "conversation_id") || dec.PeekKind() != '"' {
			if err := dec.SkipValue(); err != nil {
				return id, conversation
			}
			continue
		}
		val, err := dec.ReadToken()
		if err != nil {
			return id, conversation
		}
		if s := val.String(); utf8.RuneCountInString(s) <= MaxIDLength {
			if key == "id" {
				id = s
			} else {
				conversation = s
			}
		}
		if conversation != "" && (!both || id != "") {
			return id, conversation
		}
	}
	return id, conversation
}
