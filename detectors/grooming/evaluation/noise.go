package evaluation

import (
	"math/rand/v2"
	"strings"
	"unicode"
	"unicode/utf8"
)

// writer types what was drawn as people type: with slips, short spellings, odd
// casing, emoji, and in pieces.
type writer struct {
	noise *rand.Rand
	level float64 // 0 to 1
	short map[string]string
}

var emoji = []string{"🙂", "😂", "😅", "👍", "🎉", "😴", "🙈", "🔥", "😎", "🤷", "💀", "✨"}

// text applies noise to one turn.
func (w *writer) text(s string) string {
	r := w.noise
	if len(w.short) > 0 && r.Float64() < w.level*1.5 {
		s = w.shorten(s)
	}
	if r.Float64() < w.level {
		s = typo(r, s)
	}
	switch p := r.Float64(); {
	case p < w.level*0.2:
		s = strings.ToUpper(s)
	case p < w.level*0.9:
		s = capital(s)
	}
	if r.Float64() < w.level*0.8 {
		s += " " + one(r, emoji)
	}
	return s
}

// pieces cuts a turn in two sometimes, between words.
func (w *writer) pieces(s string) []string {
	cut, at := w.noise.Float64() < w.level*0.25, w.noise.Float64()
	words := strings.Fields(s)
	if !cut || len(words) < 6 {
		return []string{s}
	}
	n := 3 + int(at*float64(len(words)-5))
	return []string{strings.Join(words[:n], " "), strings.Join(words[n:], " ")}
}

func (w *writer) shorten(s string) string {
	words := strings.Split(s, " ")
	for i, word := range words {
		bare := strings.TrimRight(strings.ToLower(word), ".,!?")
		if short, ok := w.short[bare]; ok && w.noise.Float64() < 0.6 {
			words[i] = short + word[len(bare):]
		}
	}
	return strings.Join(words, " ")
}

func capital(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToUpper(r)) + s[n:]
}

var keyboard = [...]string{"qwertyuiop", "asdfghjkl", "zxcvbnm"}

// typo makes one slip: a neighbouring key, a letter left out or two exchanged.
func typo(r *rand.Rand, s string) string {
	var at []int
	for i := 1; i+1 < len(s); i++ {
		if lower(s[i-1]) && lower(s[i]) && lower(s[i+1]) {
			at = append(at, i)
		}
	}
	if len(at) == 0 {
		return s
	}
	b := []byte(s)
	i := at[r.IntN(len(at))]
	switch r.IntN(3) {
	case 0:
		for _, row := range keyboard {
			if k := strings.IndexByte(row, b[i]); k >= 0 {
				if k == 0 || k+1 < len(row) && r.IntN(2) == 0 {
					k++
				} else {
					k--
				}
				b[i] = row[k]
				break
			}
		}
	case 1:
		b = append(b[:i], b[i+1:]...)
	default:
		b[i], b[i+1] = b[i+1], b[i]
	}
	return string(b)
}

func lower(c byte) bool { return c >= 'a' && c <= 'z' }
