package pipeline

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
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
//
// What the schema calls an integer may be written as 14.0 or 1e3, one that is
// too large counts as the largest, and a leap second as the second before it.
func ParseMessage(data []byte) (*Message, error) {
	if len(data) > largeMessage {
		// Before memory is spent on lists far over their limits.
		if err := walk(data, func(string, *field, jsontext.Value, int64) error { return nil }); err != nil {
			return nil, Permanent(fmt.Errorf("invalid message: %w", err))
		}
	}
	var m Message
	if err := json.Unmarshal(data, &m); err != nil {
		rewritten := rewrite(data)
		if rewritten == nil {
			return nil, Permanent(fmt.Errorf("reading message: %w", redactJSON(err)))
		}
		data, m = rewritten, Message{}
		if err := json.Unmarshal(data, &m); err != nil {
			return nil, Permanent(fmt.Errorf("reading message: %w", redactJSON(err)))
		}
	}
	if err := rejectNulls(data); err != nil {
		return nil, Permanent(fmt.Errorf("invalid message: %w", err))
	}
	if err := m.validate(data); err != nil {
		return nil, Permanent(fmt.Errorf("invalid message: %w", err))
	}
	return &m, nil
}

const largeMessage = 64 << 10

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
		case errors.Is(err, io.ErrUnexpectedEOF):
			reason = "the JSON ends too early"
		case strings.Contains(syntactic.Err.Error(), "UTF-8"):
			reason = "invalid UTF-8"
		case strings.Contains(syntactic.Err.Error(), "max depth"):
			reason = "nested too deeply"
		}
		return fmt.Errorf("%s at byte %d", reason, syntactic.ByteOffset)
	}
	return errors.New("not valid JSON")
}

// field is what the schema says of one place in a message: enough to walk
// through one and to name a place in it.
type field struct {
	form   form
	fields map[string]*field // of an object
	any    *field            // of an object whose names are free
	items  *field            // of an array
	limit  int               // of items
	plural string            // what the items are
}

type form int

const (
	otherForm form = iota
	integerForm
	timeForm
)

var schemaFields = func() *field {
	value, integer, date := &field{}, &field{form: integerForm}, &field{form: timeForm}
	party := &field{fields: map[string]*field{
		"id": value, "age": integer, "account_created_at": date, "connected": value,
		"behaviour": {fields: map[string]*field{
			"minors_contacted": integer, "strangers_contacted": integer, "replies_received": integer,
			"blocked_by": integer, "reported_by": integer,
		}},
	}}
	attachment := &field{fields: map[string]*field{
		"id": value, "media_type": value, "size": integer, "uri": value, "data": value, "hashes": {any: value},
	}}
	report := &field{fields: map[string]*field{"id": value, "reporter_id": value, "reported_at": date, "reason": value}}
	return &field{fields: map[string]*field{
		"id": value, "conversation_id": value, "sent_at": date, "sender": party,
		"recipients": {items: party, limit: MaxRecipients, plural: "recipients"},
		"text":       value, "lang": value,
		"attachments":  {items: attachment, limit: MaxAttachments, plural: "attachments"},
		"user_reports": {items: report, limit: MaxUserReports, plural: "user reports"},
		"region":       value,
	}}
}()

// child returns the place that token leads to, and how an error names it:
// without the token where that is the sender's word. It is nil where the schema
// knows no such place.
func (f *field) child(token string) (*field, string) {
	switch {
	case f.items != nil:
		return f.items, token
	case f.any != nil:
		return f.any, "?"
	default:
		return f.fields[token], token
	}
}

// knownPointer returns a JSON pointer up to the first name that the schema does
// not know, because such a name is the sender's.
func knownPointer(p jsontext.Pointer) string {
	if p == "" {
		return "the top"
	}
	var out strings.Builder
	at := schemaFields
	for token := range p.Tokens() {
		next, shown := at.child(token)
		if next == nil {
			out.WriteString("/?")
			break
		}
		out.WriteString("/" + shown)
		at = next
	}
	return out.String()
}

// walk calls visit for every value in data that the schema knows and that is
// neither an object nor an array, with its place and the offset of its end. It
// returns the first error of visit, or that of a list over its limit. Where the
// JSON is broken it ends without an error: that is for the decoder to say.
func walk(data []byte, visit func(where string, f *field, v jsontext.Value, end int64) error) error {
	dec := jsontext.NewDecoder(bytes.NewBuffer(data))
	err := schemaFields.walk(dec, "", visit)
	if _, ok := errors.AsType[*jsontext.SyntacticError](err); ok || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

func (f *field) walk(dec *jsontext.Decoder, where string, visit func(string, *field, jsontext.Value, int64) error) error {
	switch kind := dec.PeekKind(); {
	case kind == '{' && (f.fields != nil || f.any != nil):
		if _, err := dec.ReadToken(); err != nil {
			return err
		}
		for dec.PeekKind() == '"' {
			name, err := dec.ReadToken()
			if err != nil {
				return err
			}
			next, shown := f.child(name.String())
			if next == nil {
				err = dec.SkipValue()
			} else {
				err = next.walk(dec, where+"/"+shown, visit)
			}
			if err != nil {
				return err
			}
		}
	case kind == '[' && f.items != nil:
		if _, err := dec.ReadToken(); err != nil {
			return err
		}
		for n := 0; dec.PeekKind() != ']'; n++ {
			if n == f.limit {
				return fmt.Errorf("more than %d %s", f.limit, f.plural)
			}
			if err := f.items.walk(dec, where+"/"+strconv.Itoa(n), visit); err != nil {
				return err
			}
		}
	case kind == '{' || kind == '[':
		return dec.SkipValue()
	default:
		v, err := dec.ReadValue()
		if err != nil {
			return err
		}
		return visit(where, f, v, dec.InputOffset())
	}
	_, err := dec.ReadToken() // the end of the object or array, or what is wrong there
	return err
}

// rewrite returns data with what the schema allows and the decoder does not
// take written as the decoder takes it, or nil where there is no such thing.
func rewrite(data []byte) []byte {
	var out []byte
	done := int64(0)
	err := walk(data, func(_ string, f *field, v jsontext.Value, end int64) error {
		var as []byte
		switch {
		case f.form == integerForm && v.Kind() == '0':
			as = wholeNumber(v)
		case f.form == timeForm && v.Kind() == '"':
			as = dateTime(v)
		}
		if as != nil && !bytes.Equal(as, v) {
			out = append(append(out, data[done:end-int64(len(v))]...), as...)
			done = end
		}
		return nil
	})
	if err != nil || out == nil {
		return nil
	}
	return append(out, data[done:]...)
}

// wholeNumber returns a JSON number in digits alone, kept within an int64, or
// nil where it is not whole.
func wholeNumber(v []byte) []byte {
	s, negative := strings.CutPrefix(string(v), "-")
	mantissa, exponent := s, 0
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		mantissa = s[:i]
		var err error
		if exponent, err = strconv.Atoi(s[i+1:]); err != nil {
			exponent = 1 << 31
			if s[i+1] == '-' {
				exponent = -exponent
			}
		}
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits := strings.TrimLeft(whole+fraction, "0")
	exponent -= len(fraction)
	if trimmed := strings.TrimRight(digits, "0"); trimmed != digits {
		exponent += len(digits) - len(trimmed)
		digits = trimmed
	}
	switch {
	case digits == "":
		return []byte("0")
	case exponent < 0:
		return nil
	case len(digits)+exponent > 18 && negative:
		return strconv.AppendInt(nil, math.MinInt64, 10)
	case len(digits)+exponent > 18:
		return strconv.AppendInt(nil, math.MaxInt64, 10)
	}
	digits += strings.Repeat("0", exponent)
	if negative {
		digits = "-" + digits
	}
	return []byte(digits)
}

// dateTime returns a time of RFC 3339 that is written in lower case, or that
// lies in a leap second, as the time package reads it; nil for anything else.
func dateTime(v []byte) []byte {
	text, err := jsontext.AppendUnquote(nil, v)
	if err != nil || len(text) < len("2006-01-02T15:04:05Z") {
		return nil
	}
	s := strings.ToUpper(string(text))
	leap := s[17:19] == "60"
	if leap {
		s = s[:17] + "59" + s[19:]
	}
	var t time.Time
	if err := t.UnmarshalText([]byte(s)); err != nil {
		return nil
	}
	if u := t.UTC(); leap && (u.Hour() != 23 || u.Minute() != 59) {
		return nil
	}
	return []byte(`"` + s + `"`)
}

// rejectNulls finds a null where the schema wants a value: the decoder takes it
// for an absent field.
func rejectNulls(data []byte) error {
	if !bytes.Contains(data, []byte("null")) {
		return nil
	}
	return walk(data, func(where string, _ *field, v jsontext.Value, _ int64) error {
		if v.Kind() != 'n' {
			return nil
		}
		if where == "" {
			where = "the top"
		}
		return fmt.Errorf("null at %s", where)
	})
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
		return errors.Join(append(errs, fmt.Errorf("%d attachments, more than %d", n, MaxAttachments))...)
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
		return errors.Join(append(errs, fmt.Errorf("%d user reports, more than %d", n, MaxUserReports))...)
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
			if r.ID == nil {
				fail("missing user_reports[%d].id", i)
			}
			if r.ReporterID == nil {
				fail("missing user_reports[%d].reporter_id", i)
			}
			if r.ReportedAt == nil {
				fail("missing user_reports[%d].reported_at", i)
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
