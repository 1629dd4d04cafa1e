package grooming

import (
	"slices"
	"unicode/utf8"
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
			if c = asciiFold[c]; c != 0 {
				v.add(c, i)
			}
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		v.rune(r, i)
		i += n
	}
	v.at = append(v.at, uint32(len(s)))
}

// add takes in what asciiFold made.
func (v *view) add(c byte, from int) {
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

func (v *view) rune(r rune, from int) {
	d := readings().of(r)
	for _, c := range d.b[:d.n] {
		if c < utf8.RuneSelf {
			v.add(c, from)
			continue
		}
		v.b = append(v.b, c)
		v.at = append(v.at, uint32(from))
	}
}

// padded returns v.b, a space behind it and seven bytes more, so that eight can
// be read anywhere in it at once.
func (v *view) padded() []byte {
	n := len(v.b)
	v.b = slices.Grow(v.b, 8)
	b := v.b[:n+8]
	b[n] = ' '
	return b
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
// everything else is dropped, and no letter follows itself. A letter that is
// repeated behind what was dropped lies where it stands last, so that a phrase
// does not begin with the end of what was written before it.
func (v *view) squash(u *view) {
	v.b, v.at, v.stretched = v.b[:0], v.at[:0], u.stretched
	apart := false
	for i, c := range u.b {
		l := leet[c]
		switch last := len(v.b) - 1; {
		case l == 0:
			apart = true
			continue
		case last < 0 || v.b[last] != l:
			v.b = append(v.b, l)
			v.at = append(v.at, u.at[i])
		case apart:
			v.at[last] = u.at[i]
		}
		apart = false
	}
	v.at = append(v.at, u.at[len(u.b)])
}

// standIns maps what stands in for a letter to the likeliest one, in words that
// are read one by one.
var standIns = func() (t [256]byte) {
	for i, c := range []byte("01345789@$!|+") {
		t[c] = "oieastbgasiit"[i]
	}
	return t
}()

// repair makes v the reading of u, which looks disguised, that the message model
// is given: words with stand-ins have their letters, a letter that was stretched
// stands once, and words that are spelt out letter by letter are joined, up to
// where the gap is wider.
func (v *view) repair(u *view) {
	v.b, v.at, v.stretched = v.b[:0], v.at[:0], u.stretched
	for i := 0; i < len(u.b); {
		end, letters := i, false
		for end < len(u.b) && (wordByte(u.b[end]) != ' ' || u.inWord(i, end)) {
			letters = letters || u.b[end] >= 'a'
			end++
		}
		if end == i { // no word
			v.b, v.at = append(v.b, u.b[i]), append(v.at, u.at[i])
			i++
			continue
		}
		for ; i < end; i++ {
			c := u.b[i]
			if l := standIns[c]; letters && l != 0 {
				c = l
			}
			if i > 0 && c == u.b[i-1] && c >= 'a' && u.at[i+1]-u.at[i] > 1 {
				continue // others like it were dropped behind it
			}
			v.b, v.at = append(v.b, c), append(v.at, u.at[i])
		}
		if u.spelt(end) {
			i++ // what stands between two letters of a word
		}
	}
	v.at = append(v.at, u.at[len(u.b)])
}

// inWord reports whether what stands at is a stand-in that is no letter or
// digit, in a word that begins at from: before another letter, or, where it is
// not what sentences end with, behind one.
func (v *view) inWord(from, at int) bool {
	c := v.b[at]
	return standIns[c] != 0 && (at+1 < len(v.b) && wordByte(v.b[at+1]) != ' ' || at > from && (c == '$' || c == '@'))
}

// spelt reports whether a single letter ends at end, and after one separator
// follows another.
func (v *view) spelt(end int) bool {
	single := func(i int) bool {
		return i >= 0 && i < len(v.b) && v.b[i] >= 'a' &&
			(i == 0 || wordByte(v.b[i-1]) == ' ') && (i+1 == len(v.b) || wordByte(v.b[i+1]) == ' ')
	}
	return end < len(v.b) && single(end-1) && single(end+1) && v.at[end+1]-v.at[end] == 1
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
