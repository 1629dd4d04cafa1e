package grooming

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// thoughts returns the ideas of a text as "name@first-last", by their ends.
func thoughts(t testing.TB, d *Detector, text string) (out []string) {
	t.Helper()
	names := map[uint32]string{}
	for _, name := range d.Ideas() {
		names[ideaName(name)] = name
	}
	if len(names) != len(d.Ideas()) {
		t.Fatal("two ideas have the same hash")
	}
	var s scratch
	d.lexicon.read(text, &s)
	for i, idea := range s.ideas {
		if i > 0 && idea.end < s.ideas[i-1].end {
			t.Errorf("%q: idea %d ends before the one before it", text, i)
		}
		out = append(out, fmt.Sprintf("%s@%d-%d", names[idea.name], idea.first, idea.last))
	}
	return out
}

func TestWordsOfAClassAreOneIdeaInEveryLanguage(t *testing.T) {
	d, err := New(DefaultConfig(), map[string][]byte{
		"a.yaml": []byte("version: 1\nlanguage: aa\nwords:\n  tell: tell tells\n  mother: mother mum\n"),
		"b.yaml": []byte("version: 1\nlanguage: bb\nwords:\n  tell: sagst sagen Müller\n  mother: mutter mamá mum\nconcepts:\n  quiet: [\"(leise|ganz still)\"]\n"),
	})
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"Tell your MUM!":                     "words/tell@1-1 words/mother@3-3",
		"tellll":                             "words/tell@1-1",
		"ＴＥＬＬ":                               "words/tell@1-1",
		"sagen... mama":                      "words/tell@1-1 words/mother@2-2",
		"muller":                             "words/tell@1-1",
		"ganz still, mutter":                 "quiet@1-2 words/mother@3-3",
		"t e l l":                            "words/tell@1-1", // spelt out
		"teller mumm":                        "words/mother@2-2",
		"":                                   "",
		strings.Repeat("on ", 40) + "mother": "words/mother@41-41",
	} {
		if got := strings.Join(thoughts(t, d, text), " "); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

func TestAWordHasTheClassesThatComeFirst(t *testing.T) {
	d, err := New(DefaultConfig(), map[string][]byte{"a.yaml": []byte("version: 1\nlanguage: aa\nwords: {a: same, b: same same, c: same}\n")})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := thoughts(t, d, "same"), []string{"words/a@1-1", "words/b@1-1"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestIdeasAreFeaturesAloneAndTwoInARow counts what ideas add to the features of
// a text: themselves, and pairs of those that are near each other and apart.
func TestIdeasAreFeaturesAloneAndTwoInARow(t *testing.T) {
	d, err := New(DefaultConfig(), map[string][]byte{"a.yaml": []byte("version: 1\nlanguage: aa\nwords: {one: p, two: q}\n")})
	if err != nil {
		t.Fatal(err)
	}
	far := "p" + strings.Repeat(" on", ideaReach) + " q" // one word too far
	near := "p" + strings.Repeat(" on", ideaReach-1) + " q"
	for text, want := range map[string]int{
		"p": 1, "p q": 3, "q p": 3, "p on q": 3, far: 2, near: 3, "p p q": 6, "x": 0,
		strings.Repeat("on ", blockWords-1) + "p q": 3, // in two blocks
	} {
		with, without := 0, 0
		d.Extractor().Blocks(text, func(h []uint64) { with += len(h) })
		new(Extractor).Blocks(text, func(h []uint64) { without += len(h) })
		if with-without != want {
			t.Errorf("%q: %d features of ideas, want %d", text, with-without, want)
		}
	}
	order := func(text string) (all []uint64) { // features of ideas only
		plain := map[uint64]bool{}
		new(Extractor).Blocks(text, func(h []uint64) {
			for _, f := range h {
				plain[f] = true
			}
		})
		d.Extractor().Blocks(text, func(h []uint64) {
			all = append(all, slices.DeleteFunc(slices.Clone(h), func(f uint64) bool { return plain[f] })...)
		})
		slices.Sort(all)
		return all
	}
	if slices.Equal(order("p q"), order("q p")) {
		t.Error("their order is not seen")
	}
}

func TestFaultsOfWordClassesAreNamedWithTheLine(t *testing.T) {
	_, err := New(DefaultConfig(), map[string][]byte{"a.yaml": []byte("version: 1\nlanguage: aa\nwords:\n  good: fine\n  two: fine two-parts\n  Bad Name: x\n  empty: \"  \"\n  mark: \"!\"\n")})
	if err == nil {
		t.Fatal("nothing was at fault")
	}
	for _, want := range []string{"a.yaml: line 5: \"two-parts\"", "a.yaml: line 6: the name of word class \"Bad Name\"", "a.yaml: line 7:", "a.yaml: line 8: \"!\""} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %s", err, want)
		}
	}
}

func TestAModelSaysWhichIdeasItLacks(t *testing.T) {
	h := ModelHeader{Bits: 8, Least: 1, Ideas: []string{"quiet", "words/a"}}
	h.Calibration.Tails = make([][]float32, labels)
	file, err := h.Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(DefaultConfig(), map[string][]byte{"a.yaml": []byte("version: 1\nlanguage: aa\nwords: {a: x}\n")})
	if err != nil {
		t.Fatal(err)
	}
	if got := d.With(loaded(t, file)).Lacks(); !slices.Equal(got, []string{"quiet"}) {
		t.Errorf("%v", got)
	}
	if got := d.Lacks(); got != nil {
		t.Errorf("without a model: %v", got)
	}
}

// FuzzIdeasAgainstNaiveSearch looks words up one by one.
func FuzzIdeasAgainstNaiveSearch(f *testing.F) {
	d, err := New(DefaultConfig(), map[string][]byte{"a.yaml": []byte("version: 1\nlanguage: aa\nwords: {a: x xy über, b: y xy 12, c: hello hellos}\n")})
	if err != nil {
		f.Fatal(err)
	}
	classes := map[string][]string{"x": {"a"}, "xy": {"a", "b"}, "uber": {"a"}, "y": {"b"}, "12": {"b"}, "helo": {"c"}, "helos": {"c"}}
	for _, text := range texts {
		f.Add(text)
	}
	f.Add("x y. xy! ÜBER 12 hellos 12.x")
	f.Fuzz(func(t *testing.T, text string) {
		var v view
		v.fold(text)
		if v.disguised() {
			return // read a second time, repaired
		}
		var want []string
		words := strings.FieldsFunc(string(v.b), func(r rune) bool { return r < 0x80 && wordByte(byte(r)) == ' ' })
		for i, w := range words {
			var once []rune
			for _, c := range w {
				if n := len(once); n == 0 || once[n-1] != c || c < 'a' || c > 'z' {
					once = append(once, c)
				}
			}
			for _, c := range classes[string(once)] {
				want = append(want, fmt.Sprintf("words/%s@%d-%d", c, i+1, i+1))
			}
		}
		if got := thoughts(t, d, text); len(got) < maxIdeas && !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	})
}

// FuzzWordsAreReadEightBytesAtATime holds that to reading them byte by byte, and
// what is seen in passing to what it is a short cut for.
func FuzzWordsAreReadEightBytesAtATime(f *testing.F) {
	for _, s := range []string{"", "a", "a b", "seven7s", "exactly8 ninechars", "aa book 0oo0 bookkeeper's", "привет, мир", "h3llo w.o.r.l.d", "d o n t", "so-so"} {
		f.Add(s)
	}
	l := detector(f).lexicon
	f.Fuzz(func(t *testing.T, text string) {
		var s scratch
		s.folded.fold(text)
		b, n := s.folded.padded(), len(s.folded.b)
		for at := 0; at < n; at++ {
			if kind[b[at]] != inWord {
				continue
			}
			end, hash, seen := wordAt(b, at)
			word := s.folded.b[at:]
			if i := slices.IndexFunc(word, func(c byte) bool { return kind[c] != inWord }); i >= 0 {
				word = word[:i]
			}
			if end != at+len(word) || hash != wordHash(word) {
				t.Fatalf("%q: read up to %d, hash %x, want %x", word, end-at, hash, wordHash(word))
			}
			if seen&doubled == 0 && stretchHash(word) != hash {
				t.Errorf("%q was not seen to double a letter", word)
			}
			letters, others := 0, 0
			for _, c := range word {
				if c >= 'a' && c <= 'z' {
					letters++
				} else {
					others++
				}
			}
			if (seen&mixed != 0) != (letters > 0 && others > 0) {
				t.Errorf("%q: %v", word, seen)
			}
			at = end
		}
		l.scan(text, &s)
		s.reading = &s.folded
		l.scanWords(&s)
		if s.folded.disguised() && !s.suspect && !s.folded.stretched {
			t.Errorf("%q looks disguised and was not suspected", text)
		}
	})
}
