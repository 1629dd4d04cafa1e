package exchange

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// text is a string that some write as a number or a boolean.
type text string

// UnmarshalJSONFrom takes any scalar; null is the empty text.
func (t *text) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	s, err := scalar(dec)
	*t = text(s)
	return err
}

// boolean is one that some write as a string or a number.
type boolean bool

// UnmarshalJSONFrom takes true, "True", 1, "1" and their opposites; null and "" are false.
func (f *boolean) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	s, err := scalar(dec)
	if err != nil {
		return err
	}
	*f, err = parseFlag(s)
	return err
}

func parseFlag(s string) (boolean, error) {
	switch strings.ToLower(strings.TrimSpace(s)) {
	case "", "false", "0", "no":
		return false, nil
	case "true", "1", "yes":
		return true, nil
	}
	return false, errors.New("neither true nor false")
}

// moment is a time that some write in seconds and some as a date. What is neither is no time.
type moment struct{ time.Time }

// UnmarshalJSONFrom takes whatever comes.
func (m *moment) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	if k := dec.PeekKind(); k == '{' || k == '[' {
		return dec.SkipValue()
	}
	s, err := scalar(dec)
	m.Time = parseTime(s)
	return err
}

// parseTime reads seconds since 1970 or a date of ISO 8601; UTC where it names no zone, zero where it is neither.
func parseTime(s string) time.Time {
	s = strings.TrimSpace(s)
	if seconds, err := strconv.ParseFloat(s, 64); err == nil {
		if !(seconds > 0 && seconds < 1e11) { // the year 5138
			return time.Time{}
		}
		whole, part := math.Modf(seconds)
		return time.Unix(int64(whole), int64(part*1e6)*1000).UTC()
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04:05Z0700", time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC()
		}
	}
	return time.Time{}
}

func scalar(dec *jsontext.Decoder) (string, error) {
	switch k := dec.PeekKind(); k {
	case '{', '[':
		if err := dec.SkipValue(); err != nil {
			return "", err
		}
		return "", fmt.Errorf("%s where a text was expected", k)
	case 'n':
		return "", dec.SkipValue()
	default:
		t, err := dec.ReadToken()
		return t.String(), err
	}
}

// clip makes foreign text fit to be kept: what prints of it, up to so many bytes.
func clip(s string, most int) string {
	s = strings.TrimSpace(s)
	if len(s) <= most && printable(s) {
		return s
	}
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r) || r == utf8.RuneError:
			return -1
		}
		return r
	}, s)
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most-len("…")], "") + "…"
	}
	return strings.TrimSpace(s)
}

func printable(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' {
			return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError })
		}
	}
	return true
}
