package grooming

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/dmguard/dmguard/pipeline"
)

// first returns what lies in the first n characters of s.
func first(s string, n int) string {
	for i := range s {
		if n == 0 {
			return s[:i]
		}
		n--
	}
	return s
}

// paddings are texts of n characters that cost as much as a text can.
func paddings(n int) map[string]string {
	fill := func(unit string) string {
		return first(strings.Repeat(unit, n/utf8.RuneCountInString(unit)+1), n)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	var everything, rare, letters strings.Builder
	for range n {
		for {
			if r := rune(rng.IntN(utf8.MaxRune)); utf8.ValidRune(r) {
				everything.WriteRune(r)
				break
			}
		}
		rare.WriteRune([]rune("\ufdfa\u0301\u1100𝐝ßﬁ①ᴅ\u200fא🙂\u200b가ㆎ㍿")[rng.IntN(15)])
		letters.WriteByte("etaoin shrdlu .!'0@-"[rng.IntN(20)])
	}
	return map[string]string{
		"letters": fill("the quick brown fox "), "random letters": letters.String(), "random characters": everything.String(),
		"rare characters": rare.String(), "capitals": fill("THE QUICK BROWN FOX "),
		"emoji": fill("🙂"), "flags": fill("🇦🇧"), "joined emoji": fill("👩\u200d👩\u200d👧"), "marks": fill("\u0301"),
		"zalgo in capitals": fill("Z\u0322\u0338\u0301A\u0337L\u0335\u0301G\u0334O\u0336 "),
		"ligatures":         fill("\ufdfa"), "ligatures and spaces": fill("\ufdfa "), "right to left": fill("שלום "), "bidi controls": fill("\u202e\u2066a "),
		"hangul": fill("한국어 "), "hangul without spaces": fill("각"), "jamo": fill("\u1112\u1161\u11ab"), "squared words": fill("㍿㌖"),
		"stretched": fill("a"), "stretched words": fill("so" + strings.Repeat("o", 200) + " "), "mathematical": fill("𝐝"),
		"spelt out": fill("d o n t "), "leet": fill("d0nt t3ll y0ur "), "dots": fill("."), "spaces": fill(" \t\n"), "single letters": fill("a b "),
		"digits": fill("0123456789"), "hyphens": fill("a-"), "halves of phrases": fill("dont tell your "), "questions": fill("?!"),
		"handles": fill("@a "), "addresses": fill("a@b.c "), "links": fill("http://a.bc/ "), "ages": fill("im 13 "),
	}
}

// workPerByte is how much work of each kind a byte of a text makes at most. A
// character of two bytes gives at most eleven; a step ends as many patterns as
// there are ways to say one thing, which is far less.
const (
	foldedPerByte     = 6
	stepsPerByte      = 2 * foldedPerByte // plain and squashed
	candidatesPerByte = 16
	framesPerByte     = 24
	trimmedPerByte    = 4

	// widest is how much of the padding a frame may take in whose words the padding holds too.
	widest = 40
)

// TestWorkIsLinearInTheText counts the work, so that it holds on any machine.
func TestWorkIsLinearInTheText(t *testing.T) {
	l := detector(t).lexicon
	texts := paddings(pipeline.MaxTextLength)
	texts["cues"] = strings.Repeat("dont tell your mom ", pipeline.MaxTextLength/19)
	texts["cues in disguise"] = strings.Repeat("d0nt t3ll y0ur m0m ", pipeline.MaxTextLength/19)
	texts["cues and spaces"] = strings.Repeat("d0nt t3ll y0ur m0m"+strings.Repeat(" ", 1000), pipeline.MaxTextLength/1018)
	texts["cues in disguise beside advice"] = "its a surprise party. " + strings.Repeat("d0nt t3ll y0ur m0m ", pipeline.MaxTextLength/20)
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		text := texts[name]
		var s scratch
		l.scan(text, &s)
		w, n := s.work, len(text)
		if w.folded > foldedPerByte*n || w.steps > stepsPerByte*n || w.candidates > candidatesPerByte*n || w.trimmed > trimmedPerByte*n || w.frames > framesPerByte*n {
			t.Errorf("%s, %d bytes: %+v", name, n, w)
		}
		if w.steps < w.folded || w.folded != len(s.folded.b) {
			t.Errorf("%s: %d bytes were folded and %d steps taken: something was not looked at", name, w.folded, w.steps)
		}
		if end := s.folded.at[len(s.folded.b)]; int(end) != n {
			t.Errorf("%s: folded up to %d of %d", name, end, n)
		}
		// And twice the text is twice the work, give or take what its end says.
		l.scan(first(text, pipeline.MaxTextLength/2), &s)
		if h := s.work; w.folded > 3*h.folded+64 || w.steps > 3*h.steps+64 || w.candidates > 3*h.candidates+64 || w.trimmed > 3*h.trimmed+1024 || w.frames > 3*h.frames+4096 {
			t.Errorf("%s: half of the text %+v, all of it %+v", name, h, w)
		}
	}
}

// TestNoPatternSaysTooMuchAtOnce bounds the candidates of one step for the packs
// that come with the program.
func TestNoPatternSaysTooMuchAtOnce(t *testing.T) {
	l := detector(t).lexicon
	for s := range len(l.squashed.first) - 1 {
		if n := l.squashed.first[s+1] - l.squashed.first[s]; n > candidatesPerByte {
			t.Fatalf("squashed: %d patterns end in one place", n)
		}
	}
	for s := range len(l.phrases.nodes) - 1 {
		if n := l.phrases.nodes[s+1].outs - l.phrases.nodes[s].outs; n > candidatesPerByte {
			t.Fatalf("%d phrases end in one place", n)
		}
	}
}

// TestPaddingHidesNoCue looks for a cue at the start, in the middle and at the
// end of as much of everything as a text holds.
func TestPaddingHidesNoCue(t *testing.T) {
	l := detector(t).lexicon
	for _, c := range []struct{ name, cue string }{
		{"plain", "dont tell your mom"},
		{"capitals", "DON'T TELL YOUR MOM"},
		{"look-alikes", "dоnt tеll yоur mоm"},
		{"zalgo", "D\u0322\u0338O\u0337N\u0335\u0301T TELL YOUR M\u0336OM"},
		{"leet", "d0nt t3ll y0ur m0m"},
		{"stretched", "donttttt tellllll your mommmmm"},
		{"spelt out", "d o n t  t e l l  y o u r  m o m"},
		{"bidi", "d\u202eont te\u2066ll your mom"},
	} {
		size := pipeline.MaxTextLength - utf8.RuneCountInString(c.cue) - 2
		for name, padding := range paddings(size) {
			middle := first(padding, size/2)
			for where, text := range map[string]string{
				"start": c.cue + " " + padding, "end": padding + " " + c.cue, "middle": middle + " " + c.cue + " " + padding[len(middle):],
			} {
				var s scratch
				l.scan(text, &s)
				found := &s.cues[secrecy]
				if found.weight < 1.9 || found.n == 0 {
					t.Errorf("%s at the %s of %s: weight %v", c.name, where, name, found.weight)
					continue
				}
				if !slices.ContainsFunc(found.spans[:found.n], func(sp span) bool {
					// A frame may take in words of the padding that it knows too.
					i := strings.Index(text[sp.start:], c.cue)
					return sp.end <= len(text) && i >= 0 && i <= widest && sp.start+i < sp.end
				}) {
					t.Errorf("%s at the %s of %s: span %v", c.name, where, name, found.spans[:found.n])
				}
			}
		}
	}
}

func BenchmarkWorstCases(b *testing.B) {
	d := detector(b)
	texts := paddings(pipeline.MaxTextLength)
	texts["cues"] = strings.Repeat("dont tell your mom ", pipeline.MaxTextLength/19)
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		b.Run(name, func(b *testing.B) {
			it := &pipeline.Item{Message: message("m", "a", texts[name], 0)}
			b.SetBytes(int64(len(texts[name])))
			b.ReportAllocs()
			for b.Loop() {
				_, _ = d.Detect(b.Context(), it)
			}
		})
	}
}
