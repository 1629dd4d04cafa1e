package pipeline

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Text is what a person wrote. It prints and encodes as its length, under every
// fmt verb, in zap and in JSON, also as an unexported field of another type, so
// that no log line, error or failed test shows a message by accident. Code that
// needs the words calls [Text.Reveal]; a search for that name finds all of it.
//
// The words lie inside a function because fmt cannot call methods of unexported
// fields and would print a string there, and because whatever prints by
// reflection, such as a failed comparison in a test, follows every pointer.
type Text struct{ reveal func() string }

// NewText returns s as content that cannot be printed.
func NewText(s string) Text {
	if s == "" {
		return Text{}
	}
	return Text{func() string { return s }}
}

// Reveal returns the words themselves.
func (t Text) Reveal() string {
	if t.reveal == nil {
		return ""
	}
	return t.reveal()
}

// Len returns the length in bytes.
func (t Text) Len() int { return len(t.Reveal()) }

// Equal reports whether both hold the same words.
func (t Text) Equal(u Text) bool { return t.Reveal() == u.Reveal() }

// String implements [fmt.Stringer].
func (t Text) String() string { return "[text, " + strconv.Itoa(t.Len()) + " bytes]" }

// Format implements [fmt.Formatter] for every verb.
func (t Text) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(t.String())) }

// MarshalText implements [encoding.TextMarshaler], which zap and JSON use.
func (t Text) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalJSONFrom implements [json.UnmarshalerFrom].
func (t *Text) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	var s string
	if err := json.UnmarshalDecode(dec, &s); err != nil {
		return err
	}
	*t = NewText(s)
	return nil
}

// Blob is the content of an attachment. Like [Text], it never prints itself.
type Blob struct{ reveal func() []byte }

// NewBlob returns b as content that cannot be printed. It keeps b.
func NewBlob(b []byte) Blob {
	if len(b) == 0 {
		return Blob{}
	}
	return Blob{func() []byte { return b }}
}

// Reveal returns the bytes themselves, which must not be modified.
func (b Blob) Reveal() []byte {
	if b.reveal == nil {
		return nil
	}
	return b.reveal()
}

// Len returns the length in bytes.
func (b Blob) Len() int { return len(b.Reveal()) }

// Equal reports whether both hold the same bytes.
func (b Blob) Equal(c Blob) bool { return string(b.Reveal()) == string(c.Reveal()) }

// String implements [fmt.Stringer].
func (b Blob) String() string { return "[blob, " + strconv.Itoa(b.Len()) + " bytes]" }

// Format implements [fmt.Formatter] for every verb.
func (b Blob) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(b.String())) }

// MarshalText implements [encoding.TextMarshaler], which zap and JSON use.
func (b Blob) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalJSONFrom implements [json.UnmarshalerFrom]: standard base64, in
// which line breaks count for nothing, as in MIME.
func (b *Blob) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	value, err := dec.ReadValue()
	if err != nil {
		return err
	}
	if value.Kind() != '"' {
		return errors.New("attachment data is not a string")
	}
	text, err := jsontext.AppendUnquote(make([]byte, 0, len(value)), value)
	if err != nil {
		return err
	}
	raw := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(raw, text)
	if err != nil {
		return err
	}
	*b = NewBlob(raw[:n])
	return nil
}
