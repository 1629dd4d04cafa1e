package envelope

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/dmguard/dmguard/pipeline"
)

// MaxRecord is the size of the largest envelope that is opened or sealed, in
// bytes. It lies well above the limits of lines and records.
const MaxRecord = 16 << 20

const (
	algorithm = "A256GCM"

	prefixSize = 5 // Tink: 0x01 and the key id, big-endian
	nonceSize  = 12
	tagSize    = 16
	overhead   = prefixSize + nonceSize + tagSize

	// pooledBuffer is the largest buffer that is kept for the next message.
	pooledBuffer = 64 << 10
)

// Header is what an envelope says of its message without being opened. Opening
// proves it: the ids are authenticated with the content.
type Header struct {
	ID             string
	ConversationID string
	KeyID          uint32
}

// strict refuses bits that padding leaves over, so that one ciphertext has one
// spelling.
var strict = base64.StdEncoding.Strict()

var decoders = sync.Pool{New: func() any { return jsontext.NewDecoder(new(bytes.Buffer)) }}

type scratch struct{ text, ct, aad []byte }

var scratches = sync.Pool{New: func() any { return new(scratch) }}

func (s *scratch) free() {
	if cap(s.text)+cap(s.ct)+cap(s.aad) <= pooledBuffer {
		scratches.Put(s)
	}
}

// Open opens a sealed record and returns the JSON of its message, which the
// caller owns. Every error is permanent and names ids and keys, never content.
// The header is filled as far as it could be read, also beside an error.
//
// The caller parses the message and holds its ids to the header's with
// [CheckIDs].
func (k *Keyset) Open(record []byte) (plain []byte, env Header, err error) {
	s, _ := scratches.Get().(*scratch)
	defer s.free()
	if err := s.parse(record, &env); err != nil {
		return nil, env, pipeline.Permanent(fmt.Errorf("reading envelope: %w", err))
	}
	opener, err := k.key(env.KeyID)
	if err != nil {
		return nil, env, pipeline.Permanent(fmt.Errorf("opening envelope: %w", err))
	}
	s.aad = appendAAD(s.aad[:0], env.ID, env.ConversationID)
	plain, err = opener.Decrypt(s.ct, s.aad)
	if err != nil {
		// The primitive's own error says less and is not ours to word.
		return nil, env, pipeline.Permanent(fmt.Errorf(
			"opening envelope: the ciphertext does not open under key %d: wrong key, altered, or moved to another message", env.KeyID))
	}
	return plain, env, nil
}

// field is one name of an envelope.
type field uint8

const (
	fieldV field = 1 << iota
	fieldKID
	fieldAlg
	fieldID
	fieldConversation
	fieldCT

	unknownField field = 0
)

var fieldNames = []struct {
	field field
	name  string
}{
	{fieldV, "v"},
	{fieldKID, "kid"},
	{fieldAlg, "alg"},
	{fieldID, "id"},
	{fieldConversation, "conversation_id"},
	{fieldCT, "ct"},
}

// fieldOf does not allocate for a token that points into the input.
func fieldOf(name jsontext.Token) field {
	switch name.String() {
	case "v":
		return fieldV
	case "kid":
		return fieldKID
	case "alg":
		return fieldAlg
	case "id":
		return fieldID
	case "conversation_id":
		return fieldConversation
	case "ct":
		return fieldCT
	}
	return unknownField
}

// parse reads the envelope into env and s.ct.
func (s *scratch) parse(record []byte, env *Header) error {
	if len(record) > MaxRecord {
		return fmt.Errorf("%d bytes, more than %d", len(record), MaxRecord)
	}
	dec, _ := decoders.Get().(*jsontext.Decoder)
	defer func() {
		dec.Reset(new(bytes.Buffer)) // do not hold on to the record
		decoders.Put(dec)
	}()
	// A bytes.Buffer is read in place, without a copy. A duplicate name is an
	// error of the decoder.
	dec.Reset(bytes.NewBuffer(record))
	if tok, err := dec.ReadToken(); err != nil {
		return redactJSON(err)
	} else if tok.Kind() != '{' {
		return errors.New("not a JSON object")
	}
	var (
		seen    field
		faults  []error
		kid     string
		ctFault error
	)
	fail := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	for {
		name, err := dec.ReadToken()
		if err != nil {
			return redactJSON(err)
		}
		if name.Kind() == '}' {
			break
		}
		f := fieldOf(name)
		seen |= f
		v, err := dec.ReadValue()
		if err != nil {
			return redactJSON(err)
		}
		if f == unknownField {
			continue
		}
		if f == fieldV {
			if string(v) != "1" {
				fail("v is not 1: made for a version that this one does not read")
			}
			continue
		}
		if v.Kind() != '"' {
			fail("%s is not a string", nameOf(f))
			continue
		}
		if s.text, err = jsontext.AppendUnquote(s.text[:0], v); err != nil {
			return redactJSON(err)
		}
		switch f { //nolint:exhaustive // the others are settled above
		case fieldKID:
			kid = string(s.text)
		case fieldAlg:
			if string(s.text) != algorithm {
				fail("alg is not %s", algorithm)
			}
		case fieldID:
			env.ID = checkedID("id", s.text, fail)
		case fieldConversation:
			env.ConversationID = checkedID("conversation_id", s.text, fail)
		case fieldCT:
			ctFault = s.decode()
		}
	}
	if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the envelope")
	}
	for _, f := range fieldNames {
		if seen&f.field == 0 {
			fail("missing %s", f.name)
		}
	}
	if ctFault != nil {
		fail("%w", ctFault)
	}
	if len(faults) > 0 {
		return errors.Join(faults...)
	}
	id, err := parseKeyID(kid)
	if err != nil {
		return err
	}
	env.KeyID = id
	if s.ct[0] != 1 || binary.BigEndian.Uint32(s.ct[1:]) != id {
		return fmt.Errorf("kid %d is not the key that ct begins with", id)
	}
	return nil
}

// decode reads the base64 in s.text into s.ct.
func (s *scratch) decode() error {
	// The decoder of the standard library skips line breaks.
	if bytes.ContainsAny(s.text, "\r\n") {
		return errors.New("ct is not standard base64")
	}
	n := strict.DecodedLen(len(s.text))
	if cap(s.ct) < n {
		s.ct = make([]byte, n)
	}
	n, err := strict.Decode(s.ct[:n], s.text)
	s.ct = s.ct[:n]
	switch {
	case err != nil:
		return errors.New("ct is not standard base64")
	case n < overhead:
		return fmt.Errorf("ct is %d bytes, shorter than an empty message's %d", n, overhead)
	}
	return nil
}

func nameOf(f field) string {
	for _, n := range fieldNames {
		if n.field == f {
			return n.name
		}
	}
	return "an unknown field"
}

func checkedID(name string, id []byte, fail func(string, ...any)) string {
	switch {
	case len(id) == 0:
		fail("%s is empty", name)
		return ""
	case len(id) > pipeline.MaxIDLength && utf8.RuneCount(id) > pipeline.MaxIDLength:
		fail("%s is longer than %d characters", name, pipeline.MaxIDLength)
		return ""
	}
	return string(id)
}

// parseKeyID takes the one decimal spelling of a key id.
func parseKeyID(kid string) (uint32, error) {
	id, err := strconv.ParseUint(kid, 10, 32)
	if err != nil || (kid[0] == '0' && len(kid) > 1) {
		return 0, errors.New("kid is not a key id in decimal")
	}
	return uint32(id), nil
}

// appendAAD appends the associated data: for each of the strings "1", id and
// conversation, its length in bytes as uint32, big-endian, and its bytes.
// Without the lengths, a byte could move from one id to the other.
func appendAAD(b []byte, id, conversation string) []byte {
	for _, s := range [...]string{"1", id, conversation} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	return b
}

// redactJSON keeps what is wrong and where: the errors of the JSON package
// quote names and values.
func redactJSON(err error) error {
	syntactic, ok := errors.AsType[*jsontext.SyntacticError](err)
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the JSON ends early")
	case !ok:
		return errors.New("not valid JSON")
	case errors.Is(err, jsontext.ErrDuplicateName):
		return fmt.Errorf("duplicate field name at byte %d", syntactic.ByteOffset)
	case strings.Contains(syntactic.Err.Error(), "UTF-8"):
		return fmt.Errorf("invalid UTF-8 at byte %d", syntactic.ByteOffset)
	}
	return fmt.Errorf("not valid JSON at byte %d", syntactic.ByteOffset)
}

// CheckIDs reports, as a permanent error, where the ids inside an envelope are
// not those outside: the record claims to be another message.
func CheckIDs(env Header, m *pipeline.Message) error {
	var errs []error
	if m.ID != env.ID {
		errs = append(errs, fmt.Errorf("the sealed id %q is not the envelope's %q", m.ID, env.ID))
	}
	if m.ConversationID != env.ConversationID {
		errs = append(errs, fmt.Errorf("the sealed conversation_id %q is not the envelope's %q", m.ConversationID, env.ConversationID))
	}
	if len(errs) == 0 {
		return nil
	}
	return pipeline.Permanent(fmt.Errorf("opening envelope: %w", errors.Join(errs...)))
}

// IsEnvelope reports whether a line without a schema header is an envelope
// rather than a plain message, by its top-level names: an envelope has v, alg
// and ct. It does not say that the envelope is whole.
func IsEnvelope(record []byte) bool {
	// Most lines are settled here: inside a string the quotes are escaped.
	if !bytes.Contains(record, []byte(`"alg"`)) || !bytes.Contains(record, []byte(`"ct"`)) {
		return false
	}
	dec, _ := decoders.Get().(*jsontext.Decoder)
	defer func() {
		dec.Reset(new(bytes.Buffer))
		decoders.Put(dec)
	}()
	dec.Reset(bytes.NewBuffer(record), jsontext.AllowDuplicateNames(true))
	if tok, err := dec.ReadToken(); err != nil || tok.Kind() != '{' {
		return false
	}
	const all = fieldV | fieldAlg | fieldCT
	var seen field
	for dec.PeekKind() == '"' {
		name, err := dec.ReadToken()
		if err != nil {
			return false
		}
		seen |= fieldOf(name)
		if seen&all == all {
			return true
		}
		if err := dec.SkipValue(); err != nil {
			return false
		}
	}
	return false
}

// Seal seals the JSON of one message with the primary key. It needs the
// message's ids and leaves the rest unread: what is inside is judged when it is
// opened.
func (k *Keyset) Seal(message []byte) ([]byte, error) {
	if n := strict.EncodedLen(len(message) + overhead); n > MaxRecord-4096 {
		return nil, fmt.Errorf("sealing message: %d bytes are too many for an envelope of %d", len(message), MaxRecord)
	}
	id, conversation := pipeline.PeekIDs(message)
	if id == "" || conversation == "" {
		return nil, fmt.Errorf("sealing message: it needs an id and a conversation_id of 1 to %d characters", pipeline.MaxIDLength)
	}
	s, _ := scratches.Get().(*scratch)
	defer s.free()
	s.aad = appendAAD(s.aad[:0], id, conversation)
	primary := k.keys[k.primary]
	ct, err := primary.aead.Encrypt(message, s.aad)
	if err != nil {
		return nil, fmt.Errorf("sealing message %q: %w", id, err)
	}
	out := make([]byte, 0, 96+2*(len(id)+len(conversation))+strict.EncodedLen(len(ct)))
	out = append(out, `{"v":1,"kid":"`...)
	out = strconv.AppendUint(out, uint64(k.primary), 10)
	out = append(out, `","alg":"`+algorithm+`","id":`...)
	if out, err = jsontext.AppendQuote(out, id); err != nil {
		return nil, fmt.Errorf("sealing message: id: %w", err)
	}
	out = append(out, `,"conversation_id":`...)
	if out, err = jsontext.AppendQuote(out, conversation); err != nil {
		return nil, fmt.Errorf("sealing message: conversation_id: %w", err)
	}
	out = append(out, `,"ct":"`...)
	out = strict.AppendEncode(out, ct)
	return append(out, `"}`...), nil
}
