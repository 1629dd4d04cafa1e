package grooming

import (
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// view is one reading of a text: its bytes, and where each of them comes from.
type view struct {
	b []byte

	// at has one entry more than b: at[i] is where the character that gave b[i]
	// begins in the original, the last entry the original's length. It never
	// falls.
	at []uint32

	// stretched says that a letter was repeated three times or more.
	stretched bool
}

// maxExpansion bounds the bytes that one character of the original becomes: a
// single Arabic ligature stands for eighteen.
const maxExpansion = 8

// asciiFold maps ASCII to what it is read as; 0 drops it. Apostrophes are
// dropped because half of all people leave them out.
var asciiFold = func() (t [utf8.RuneSelf]byte) {
	for c := range t {
		switch {
		case c >= 'A' && c <= 'Z':
			t[c] = byte(c) + 'a' - 'A'
		case c == '\'' || c == '`':
			t[c] = 0
		case c <= ' ' || c == 0x7f:
			t[c] = ' '
		default:
			t[c] = byte(c)
		}
	}
	return t
}()

// fold reads s as a person would who does not mind how it is typed: lower case,
// compatibility characters and look-alikes as plain letters, no combining
// marks, nothing invisible, single spaces, no letter more than twice in a row.
// It replaces what v held.
func (v *view) fold(s string) {
	v.b, v.at, v.stretched = v.b[:0], v.at[:0], false
	for i := 0; i < len(s); {
		if c := s[i]; c < utf8.RuneSelf {
			v.ascii(c, i)
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		v.rune(r, s[i:i+n], i)
		i += n
	}
	v.at = append(v.at, uint32(len(s)))
}

func (v *view) ascii(c byte, from int) {
	c = asciiFold[c]
	if c == 0 {
		return
	}
	if n := len(v.b); n > 0 && v.b[n-1] == c {
		if c == ' ' {
			return
		}
		if n > 1 && v.b[n-2] == c && (c < '0' || c > '9') {
			v.stretched = v.stretched || c >= 'a'
			return
		}
	}
	v.b = append(v.b, c)
	v.at = append(v.at, uint32(from))
}

func (v *view) rune(r rune, s string, from int) {
	if invisible(r) {
		return
	}
	if plain, ok := lookalikes[r]; ok {
		for i := range len(plain) {
			v.ascii(plain[i], from)
		}
		return
	}
	d := norm.NFKD.PropertiesString(s).Decomposition()
	if d == nil {
		v.plain(r, from)
		return
	}
	for len(d) > 0 {
		r, n := utf8.DecodeRune(d)
		d = d[n:]
		if invisible(r) {
			continue
		}
		if plain, ok := lookalikes[r]; ok {
			for i := range len(plain) {
				v.ascii(plain[i], from)
			}
		} else {
			v.plain(r, from)
		}
		if v.grown(from) >= maxExpansion {
			return
		}
	}
}

// grown returns how many bytes the character at from has given so far, as far
// as maxExpansion.
func (v *view) grown(from int) int {
	n := 0
	for i := len(v.at) - 1; i >= 0 && v.at[i] == uint32(from) && n < maxExpansion; i-- {
		n++
	}
	return n
}

// plain adds a character that has no decomposition.
func (v *view) plain(r rune, from int) {
	if r < utf8.RuneSelf {
		v.ascii(byte(r), from)
		return
	}
	if !unicode.IsLetter(r) && !unicode.IsDigit(r) || r == utf8.RuneError {
		v.ascii(' ', from)
		return
	}
	l := unicode.ToLower(r)
	if p, ok := lookalikes[l]; ok {
		for i := range len(p) {
			v.ascii(p[i], from)
		}
		return
	}
	n := len(v.b)
	v.b = utf8.AppendRune(v.b, l)
	for range len(v.b) - n {
		v.at = append(v.at, uint32(from))
	}
}

// invisible reports whether r is a combining mark, a variation selector or
// another character that shows nothing by itself.
func invisible(r rune) bool {
	switch {
	case r < 0x300:
		return r == 0xad
	case r <= 0x36f:
		return true
	case r >= 0x200b && r <= 0x200f, r >= 0x202a && r <= 0x202e, r >= 0x2060 && r <= 0x206f:
		return true
	case r >= 0xfe00 && r <= 0xfe0f, r == 0xfeff, r >= 0xe0000 && r <= 0xe0fff:
		return true
	case r == 0x115f, r == 0x1160, r == 0x3164, r == 0xffa0, r == 0x17b4, r == 0x17b5, r == 0x2800:
		return true
	case r >= 0x2190 && r <= 0x2fff, r >= 0x3041 && r <= 0x3098, r >= 0x309b && r <= 0xa66e, r >= 0xac00 && r <= 0xd7a3, r >= 0x1f000:
		return false // nothing to look up among symbols, CJK and emoji
	}
	return unicode.In(r, unicode.Mn, unicode.Me)
}

// original returns the range of the original that v.b[start:end] was read from,
// together with what was dropped inside it and behind it.
func (v *view) original(start, end int) (from, to int) {
	from = int(v.at[start])
	for end < len(v.b) && v.at[end] == v.at[end-1] {
		end++ // never half of a character
	}
	return from, int(v.at[end])
}

// leet maps what stands in for a letter in disguised writing. i, l, 1, ! and |
// are one letter because they are exchanged freely; 0 drops.
var leet = func() (t [256]byte) {
	for c := 'a'; c <= 'z'; c++ {
		t[c] = byte(c)
	}
	t['i'] = 'l'
	for i, c := range []byte("01345789@$!|+") {
		t[c] = "oleastbgasllt"[i]
	}
	return t
}()

// squash makes v the reading of u for disguised writing: stand-ins are letters,
// everything else is dropped, and no letter follows itself.
func (v *view) squash(u *view) {
	v.b, v.at, v.stretched = v.b[:0], v.at[:0], u.stretched
	for i, c := range u.b {
		l := leet[c]
		if l == 0 || len(v.b) > 0 && v.b[len(v.b)-1] == l {
			continue
		}
		v.b = append(v.b, l)
		v.at = append(v.at, u.at[i])
	}
	v.at = append(v.at, u.at[len(u.b)])
}

// disguised reports whether the text looks as if it were written to hide from a
// filter: stand-ins inside words, words spelt out letter by letter, or letters
// repeated. Only then is the squashed view consulted, since it sees no words
// and would find phrases that nobody wrote.
func (v *view) disguised() bool {
	if v.stretched {
		return true
	}
	singles, length := 0, 0
	for i, c := range v.b {
		if c >= 'a' && c <= 'z' {
			length++
			continue
		}
		if length > 0 && i+1 < len(v.b) && leet[c] != 0 && c != '+' && c != '|' {
			if next := v.b[i+1]; next >= 'a' && next <= 'z' {
				return true
			}
		}
		switch length {
		case 0:
		case 1:
			if singles++; singles >= 4 {
				return true
			}
		default:
			singles = 0
		}
		length = 0
	}
	return length == 1 && singles >= 3
}
