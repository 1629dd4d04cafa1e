package evaluation

import (
	"math/rand/v2"
	"strings"
	"unicode"
)

// family is one way to disguise writing.
type family struct {
	name  string
	apply func(r *rand.Rand, s string) string
}

var families = []family{
	{"lookalikes", func(r *rand.Rand, s string) string { return substitute(r, s, 0.6, cyrillic) }},
	{"zero_width", zeroWidth},
	{"math_bold", func(r *rand.Rand, s string) string { return substitute(r, s, 1, mathBold) }},
	{"leet", func(r *rand.Rand, s string) string { return substitute(r, s, 0.8, leetspeak) }},
	{"spacing", func(_ *rand.Rand, s string) string { return spaced(s) }},
	{"repeats", repeats},
}

// Families names the ways of disguised writing that are measured.
func Families() []string {
	names := make([]string, len(families))
	for i, f := range families {
		names[i] = f.name
	}
	return names
}

func familyOf(name string) *family {
	for i := range families {
		if families[i].name == name {
			return &families[i]
		}
	}
	return nil
}

func substitute(r *rand.Rand, s string, share float64, with func(rune) rune) string {
	return strings.Map(func(c rune) rune {
		if r.Float64() < share {
			return with(c)
		}
		return c
	}, s)
}

func cyrillic(c rune) rune {
	if i := strings.IndexRune("aceopxyiABCEHKMOPTX", c); i >= 0 {
		return []rune("асеорхуіАВСЕНКМОРТХ")[i]
	}
	return c
}

func mathBold(c rune) rune {
	switch {
	case c >= 'a' && c <= 'z':
		return 0x1d41a + c - 'a'
	case c >= 'A' && c <= 'Z':
		return 0x1d400 + c - 'A'
	}
	return c
}

func leetspeak(c rune) rune {
	if i := strings.IndexRune("aeiost", c); i >= 0 {
		return []rune("4310$7")[i]
	}
	return c
}

func zeroWidth(r *rand.Rand, s string) string {
	var b strings.Builder
	for _, c := range s {
		b.WriteRune(c)
		if unicode.IsLetter(c) && r.Float64() < 0.4 {
			b.WriteRune([]rune{0x200b, 0x200c, 0x2060, 0xad}[r.IntN(4)])
		}
	}
	return b.String()
}

// spaced spells words out letter by letter, with two spaces between words.
func spaced(s string) string {
	var words []string
	for w := range strings.FieldsSeq(s) {
		words = append(words, strings.Join(strings.Split(w, ""), " "))
	}
	return strings.Join(words, "  ")
}

func repeats(r *rand.Rand, s string) string {
	var b strings.Builder
	for _, c := range s {
		b.WriteRune(c)
		if unicode.IsLetter(c) && r.Float64() < 0.25 {
			for range 2 + r.IntN(3) {
				b.WriteRune(c)
			}
		}
	}
	return b.String()
}
