package grooming

import (
	"sync"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// maxExpansion is how many bytes of what a character stands for are read, and
// the rest of the character that they end in: a single Arabic ligature stands
// for a sentence of 33 bytes, which is read as its beginning. Packs are read in
// the same way, so this hides nothing from them.
const maxExpansion = 8

// reading is what a character outside of ASCII is read as.
type reading struct {
	n uint8
	b [maxExpansion + utf8.UTFMax - 1]byte
}

// readingTable holds the reading of every character, so that a text of the
// rarest ones costs no more than any other.
type readingTable struct {
	pages [(unicode.MaxRune + 1) >> 8]*[256]reading
}

func (t *readingTable) of(r rune) *reading { return &t.pages[r>>8][r&0xff] }

// readings returns the table. It is made once, in some 20 ms.
var readings = sync.OnceValue(func() *readingTable {
	t := &readingTable{}
	separators := &[256]reading{}
	for i := range separators {
		separators[i] = reading{n: 1, b: [11]byte{' '}}
	}
	for p := range t.pages {
		if t.pages[p] = separators; !assigned(rune(p) << 8) {
			continue
		}
		page := &[256]reading{}
		for i := range page {
			page[i] = newReading(rune(p)<<8 | rune(i))
		}
		if *page != *separators {
			t.pages[p] = page
		}
	}
	return t
})

// assigned reports whether Unicode has characters near r that are not for
// private use.
func assigned(r rune) bool { return r < 0x40000 || r>>12 == 0xe0 }

func newReading(r rune) (d reading) {
	if invisible(r) {
		return d
	}
	if plain, ok := lookalikes[r]; ok {
		d.add(plain)
		return d
	}
	var buf [utf8.UTFMax]byte
	parts := norm.NFKD.Properties(buf[:utf8.EncodeRune(buf[:], r)]).Decomposition()
	if parts == nil {
		d.plain(r)
		return d
	}
	for len(parts) > 0 && d.n < maxExpansion {
		r, n := utf8.DecodeRune(parts)
		parts = parts[n:]
		if invisible(r) {
			continue
		}
		if plain, ok := lookalikes[r]; ok {
			d.add(plain)
		} else {
			d.plain(r)
		}
	}
	return d
}

// add takes in ASCII.
func (d *reading) add(plain string) {
	for i := range len(plain) {
		if c := asciiFold[plain[i]]; c != 0 {
			d.b[d.n] = c
			d.n++
		}
	}
}

// plain adds a character that has no decomposition.
func (d *reading) plain(r rune) {
	if r < utf8.RuneSelf {
		d.add(string(r))
		return
	}
	if !unicode.IsLetter(r) && !unicode.IsDigit(r) || r == utf8.RuneError {
		d.add(" ")
		return
	}
	l := unicode.ToLower(r)
	if p, ok := lookalikes[l]; ok {
		d.add(p)
		return
	}
	d.n += uint8(utf8.EncodeRune(d.b[d.n:], l))
}

// invisible reports whether r is a combining mark, a variation selector or
// another character that shows nothing by itself.
func invisible(r rune) bool {
	switch {
	case r < 0x300:
		return r == 0xad
	case r >= 0x200b && r <= 0x200f, r >= 0x202a && r <= 0x202e, r >= 0x2060 && r <= 0x206f:
		return true
	case r >= 0xfe00 && r <= 0xfe0f, r == 0xfeff, r >= 0xe0000 && r <= 0xe0fff:
		return true
	case r == 0x115f, r == 0x1160, r == 0x3164, r == 0xffa0, r == 0x17b4, r == 0x17b5, r == 0x2800:
		return true
	}
	return unicode.In(r, unicode.Mn, unicode.Me)
}
