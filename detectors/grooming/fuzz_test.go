package grooming

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func FuzzFold(f *testing.F) {
	for _, s := range []string{"", "Hello  World", "dоn't t\u200bell", "𝐝𝐨𝐧𝐭 ｔｅｌｌ", "\ufdfa\ufdfa", "e\u0301\u0301", "ﬁne", "aaaa!!!!   ", "\xff\xfe", "🙂🇦🇧", "ß…’"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var v, q view
		v.fold(s)
		check := func(v *view) {
			if len(v.at) != len(v.b)+1 || int(v.at[len(v.b)]) != len(s) || !slices.IsSorted(v.at) {
				t.Fatalf("%d bytes with %d offsets of %d, sorted %v", len(v.b), len(v.at), len(s), slices.IsSorted(v.at))
			}
			for _, o := range v.at[:len(v.b)] {
				if utf8.ValidString(s) && !utf8.RuneStart(s[o]) {
					t.Fatalf("offset %d is inside of a character", o)
				}
			}
			for i := range v.b {
				from, to := v.original(i, i+1)
				if from >= to || to > len(s) {
					t.Fatalf("byte %d lies at %d to %d of %d", i, from, to, len(s))
				}
			}
		}
		check(&v)
		if len(v.b) > maxExpansion*2*utf8.RuneCountInString(s) {
			t.Fatalf("%d characters became %d bytes", utf8.RuneCountInString(s), len(v.b))
		}
		if !utf8.Valid(v.b) {
			t.Fatal("folded text is not UTF-8")
		}
		q.squash(&v)
		check(&q)
		for i := range q.b {
			if c := q.b[i]; c < 'a' || c > 'z' || i > 0 && q.b[i-1] == c {
				t.Fatalf("squashed to %q", q.b)
			}
		}
		v.disguised()
	})
}

func TestWhatIsWrittenDifferentlyFoldsToTheSame(t *testing.T) {
	var v view
	for _, s := range []string{"secret", "SECRET", "ѕесrеt", "ｓｅｃｒｅｔ", "𝓼𝓮𝓬𝓻𝓮𝓽", "s\u200be\u2060c\u00adret", "sécrèt", "s̶e̶c̶r̶e̶t̶", "ⓢⓔⓒⓡⓔⓣ", "🅂🄴🄲🅁🄴🅃", "ꜱᴇᴄʀᴇᴛ"} {
		if v.fold(s); string(v.b) != "secret" {
			t.Errorf("%+q folds to %q", s, v.b)
		}
	}
	for s, want := range map[string]string{"sooooo  good\n": "soo good ", "1000000": "1000000", "don’t": "dont", "Straße": "strasse", "rn m 0 1": "rn m 0 1", "привет": "привет"} {
		if v.fold(s); s != "привет" && string(v.b) != want {
			t.Errorf("%q folds to %q, want %q", s, v.b, want)
		}
	}
}

func TestOnlyTheOddLooksDisguised(t *testing.T) {
	var v view
	for s, want := range map[string]bool{
		"see you at 10:30, bring 2 pens!": false, "i a m ok": false, "plan b or c": false, "the 2nd of may, 5pm": false,
		"s3cret": true, "s e c r e t": true, "s.e.c.r.e.t": true, "secrettttt": true, "m@m": true,
	} {
		if v.fold(s); v.disguised() != want {
			t.Errorf("%q: %v", s, !want)
		}
	}
}

func TestDisguisedWordsAreRepairedForTheModel(t *testing.T) {
	var u, v view
	for s, want := range map[string]string{
		"d0nt t3ll y0ur m0m": "dont tell your mom", "h3y, wh4t t1me at 5?": "hey, what time at 5?", "s e c r e t": "secret",
		"d o n t  t e l l": "dont tell", "k.e.e.p it": "keep it", "plan b or c": "plan b or c", "m@m & p@pa!": "mam & papa!", "k1d$ l1v3 here": "kids live here", "heyyyy you're sooo good": "hey youre so good", "": "", "1 2 3": "1 2 3",
	} {
		u.fold(s)
		v.repair(&u)
		if string(v.b) != want {
			t.Errorf("%q is repaired to %q, want %q", s, v.b, want)
		}
	}
}

func FuzzRepairKeepsPlaces(f *testing.F) {
	f.Add("d0nt  t e l l y@ur ｍ0m!")
	f.Fuzz(func(t *testing.T, s string) {
		var u, v view
		u.fold(s)
		v.repair(&u)
		if len(v.at) != len(v.b)+1 || len(v.b) > len(u.b) || !slices.IsSorted(v.at) || int(v.at[len(v.b)]) != len(s) {
			t.Fatalf("%q: %d places of %d bytes", s, len(v.at), len(v.b))
		}
		for i := range v.b {
			if from, to := v.original(i, i+1); from < 0 || from >= to || to > len(s) {
				t.Fatalf("%q: byte %d comes from %d to %d", s, i, from, to)
			}
		}
	})
}

func FuzzAutomatonAgainstNaiveSearch(f *testing.F) {
	f.Add("a\nab\nbab\nbc\nbca\nc\ncaa", "abccab")
	f.Add("he\nshe\nhis\nhers", "ushers")
	f.Add("aa\naaa\na", "aaaaaa")
	f.Add("\xff\x00\nq", "qq\xff\x00")
	f.Fuzz(func(t *testing.T, list, text string) {
		if len(list) > 2000 || len(text) > 2000 {
			return
		}
		var patterns []string
		var values []uint32
		for p := range strings.SplitSeq(list, "\n") {
			if p != "" && !slices.Contains(patterns, p) {
				patterns, values = append(patterns, p), append(values, uint32(len(values)))
			}
		}
		a, err := newAutomaton(patterns, values)
		if err != nil {
			t.Fatal(err)
		}
		type match struct {
			end   int
			value uint32
		}
		var got, want []match
		row := uint32(0)
		var hit bool
		for i := range len(text) {
			if row, hit = a.step(row, text[i]); hit {
				for _, v := range a.outputs(row) {
					got = append(got, match{i + 1, v})
				}
			}
			for j, p := range patterns {
				if strings.HasSuffix(text[:i+1], p) {
					want = append(want, match{i + 1, values[j]})
				}
			}
		}
		order := func(a, b match) int {
			if a.end != b.end {
				return a.end - b.end
			}
			return int(a.value) - int(b.value)
		}
		slices.SortFunc(got, order)
		slices.SortFunc(want, order)
		if !slices.Equal(got, want) {
			t.Fatalf("%q in %q: got %v, want %v", patterns, text, got, want)
		}
	})
}

func FuzzPhrasesAgainstNaiveSearch(f *testing.F) {
	f.Add("a b\nb\nb a b\nb c\nb c a\nc\nc a a", "a b c c a b")
	f.Add("he\nshe is\nis his\nis his hers", "she is his hers is his")
	f.Add("a a\na a a\na", "a a a a a a")
	f.Add("x a\nx b\nx c\nx d\nx e\nx f\nx g\nx h\nx i\nx j\nx k", "x a x k x z x j")
	f.Fuzz(func(t *testing.T, list, text string) {
		if len(list) > 2000 || len(text) > 2000 {
			return
		}
		words := func(s string) []string { return strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == 0 }) } // no word of a text holds a 0
		var patterns []string
		var values []uint32
		for p := range strings.SplitSeq(list, "\n") {
			if p = strings.Join(words(p), " "); p != "" && !slices.Contains(patterns, p) {
				patterns, values = append(patterns, p), append(values, uint32(len(values)))
			}
		}
		a, known, err := newPhraseAutomaton(patterns, values)
		if err != nil {
			t.Fatal(err)
		}
		v, err := newVocabulary(known, nil)
		if err != nil {
			t.Fatal(err)
		}
		state, steps, read := uint32(0), 0, words(text)
		var hit bool
		for i, w := range read {
			var got, want []uint32
			if k := v.find(wordHash([]byte(w))); k == nil {
				state = 0
			} else if state, hit = a.step(state, k.id, &steps); hit {
				got = slices.Sorted(slices.Values(a.outputs(state)))
			}
			for j, p := range patterns {
				if strings.HasSuffix(" "+strings.Join(read[:i+1], " "), " "+p) {
					want = append(want, values[j])
				}
			}
			if !slices.Equal(got, want) {
				t.Fatalf("%q in %q, at %d: got %v, want %v", patterns, read, i, got, want)
			}
		}
		if steps > 2*len(read) {
			t.Fatalf("%d steps for %d words", steps, len(read))
		}
	})
}

// FuzzWordsAgainstNaiveSearch holds the whole path (parts, gaps excepted) to
// looking for each phrase between word boundaries.
func FuzzWordsAgainstNaiveSearch(f *testing.F) {
	const yaml = "version: 1\nlanguage: xx\nrules:\n- {label: secrecy, weight: 1, phrases: [\"ab [c] (a|b)\", \"c\"]}\n- {label: gift, weight: 1, phrases: [\"a b\"]}\n"
	l, err := loadPacks(map[string][]byte{"x": []byte(yaml)})
	if err != nil {
		f.Fatal(err)
	}
	phrases := map[label][]string{secrecy: {" ab a ", " ab b ", " ab c a ", " ab c b ", " c "}, gift: {" a b "}}
	for _, s := range []string{"ab c a", "ab, b", "xab b", "a b. a", "ab. b", "c", "cab c"} {
		f.Add(s)
	}
	var sc scratch
	f.Fuzz(func(t *testing.T, text string) {
		for i := range len(text) {
			if !strings.ContainsRune("abc ,", rune(text[i])) {
				return
			}
		}
		if strings.Contains(text, "aaa") || strings.Contains(text, "bbb") || strings.Contains(text, "ccc") {
			return // stretched
		}
		l.scan(text, &sc)
		norm := " " + strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == ',' }), " ") + " "
		for lab, list := range phrases {
			want := slices.ContainsFunc(list, func(p string) bool { return strings.Contains(norm, p) })
			if got := sc.cues[lab].n > 0; got != want {
				t.Fatalf("%v in %q: %v", lab, text, got)
			}
		}
	})
}

func FuzzDamagedStateIsEmptyOrReadsBackTheSame(f *testing.F) {
	d := detector(f)
	r := newReplay(d)
	f.Add([]byte{})
	for i, a := range say(f, r, developing...) {
		if a.State != nil {
			f.Add(a.State)
			f.Add(a.State[:len(a.State)-i-1])
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var s state
		s.decode(data)
		if risk := d.model.conversation(&s, start.Unix()); risk < 0 || risk > 1 {
			t.Fatalf("risk %v", risk)
		}
		var again state
		encoded := s.append(nil)
		again.decode(encoded)
		if !bytes.Equal(again.append(nil), encoded) {
			t.Fatal("does not read back")
		}
		r := newReplay(d)
		r.states["c"] = data
		for _, a := range say(t, r, "dont tell your parents", "hello", "are you home alone") {
			if a.Risk < 0 || a.Risk > 1 {
				t.Fatalf("risk %v", a.Risk)
			}
		}
	})
}

func TestStateReadsBack(t *testing.T) {
	r := newReplay(detector(t))
	say(t, r, developing...)
	data := r.states["c"]
	var s state
	s.decode(data)
	if got := s.append(nil); !bytes.Equal(got, data) {
		t.Error("does not read back")
	}
	for i := range data {
		s.decode(data[:i])
		if len(s.directions)+len(s.evidence) != 0 {
			t.Errorf("%d of %d bytes were taken for a state", i, len(data))
		}
	}
	if len(s.evidence) > 0 {
		t.Error("a cut state left evidence")
	}
}

func TestPhrasesStandForAllTheirWordings(t *testing.T) {
	for pattern, want := range map[string][]string{
		"a": {"a"}, "(a|b) c": {"a c", "b c"}, "[a] b": {" b", "a b"}, "x[s|es]": {"x", "xs", "xes"}, "(a[b]|(c|d))e": {"ae", "abe", "ce", "de"},
	} {
		got, err := expand(pattern)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", pattern, diff)
		}
	}
}

func TestLongPhrasesAreCutAndStillMean(t *testing.T) {
	words := "(a|b|c|d|e|f|g|h|i|j|k|l|m|n|o|p|q|r|s|t|u|v)"
	yaml := "version: 1\nlanguage: xx\nrules:\n- {label: secrecy, weight: 1, phrases: [\"" + strings.Repeat(words+" ", 4) + "end\"]}\n- {label: gift, weight: 1, phrases: [\"one * two\"]}\n"
	l, err := loadPacks(map[string][]byte{"x": []byte(yaml)})
	if err != nil {
		t.Fatal(err)
	}
	var s scratch
	for text, want := range map[string]bool{
		"a b c d end": true, "x v v u u end x": true, "a b c d x end": false, "a b c end": false, "a b. c d end": false, "a b c d e end": true,
		"one two": true, "one x y z two": true, "one we xe ye ze two": false, "one. two": false, "two one": false,
	} {
		l.scan(text, &s)
		if got := s.cues[secrecy].n+s.cues[gift].n > 0; got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestEveryFaultOfAPackIsReportedWithItsLine(t *testing.T) {
	const bad = `version: 2
language: xx
rules:
  - label: secrecy
    weight: 9
    phrases:
      - "(a|b"
      - "a) b"
      - "..."
      - "a * * b"
  - label: gift
    weight: 1
    phrases: ["[a|(b]"]
allow:
  - name: x
    factor: 1
    phrases: ["a|b"]
  - {name: "No Name", factor: 0.5, phrases: [a], what: 1}
  - {name: y, factor: high, phrases: [""]}
`
	_, err := loadPacks(map[string][]byte{"p.yaml": []byte(bad)})
	if err == nil {
		t.Fatal("taken")
	}
	for _, line := range []string{
		"line 1:", "line 7:", "line 8:", "line 9:", "line 10:", "line 5: weight of rule xx/secrecy/1", "line 13:", "line 16: factor of xx/x", "line 17:", "line 18: unknown key what\n",
		"line 18: the name of allow entry 2", "line 19: a phrase is",
	} {
		if !strings.Contains(err.Error(), "p.yaml: "+line) {
			t.Errorf("no complaint about %s in\n%v", line, err)
		}
	}
	for _, doc := range []string{
		"", "version: 1\nlanguage: X x\n", "version: 1\nlanguage: xx\nrules:\n- {label: gift, weight: 1}\n", "version: [1]\nlanguage: xx\n", "version: 1\nlanguage: xx\nwhat: 1\n", "version: 1\nversion: 1\n", "version: 1\nlanguage: xx\nrules:\n- {label: nope, weight: 1, phrases: [a]}\n",
		"version: 1\nlanguage: xx\nrules:\n- {label: gift, weight: .nan, phrases: [a]}\n", "version: 1\nlanguage: xx\n---\nversion: 1\n",
		"version: 1\nlanguage: xx\nrules:\n- {label: gift, weight: 1, phrases: [[a]]}\n",
		"version: 1\nlanguage: xx\nrules:\n- {label: gift, weight: 1, phrases: [\"" + strings.Repeat("(a|b)", 20) + "\"]}\n",
	} {
		if _, err := loadPacks(map[string][]byte{"p.yaml": []byte(doc)}); err == nil || !strings.Contains(err.Error(), "p.yaml: ") {
			t.Errorf("%q: %v", doc, err)
		}
	}
}

func TestEveryFaultOfEveryPackIsReportedAtOnce(t *testing.T) {
	_, err := loadPacks(map[string][]byte{
		"a.yaml": []byte("version: 1\nlanguage: xx\nrules:\n- {label: nope, weight: 1, phrases: [a]}\n- {label: neither, weight: x, phrases: [\"(\"]}\n"),
		"b.yaml": []byte("version: 1\nlanguage: xx\nrules:\n- {label: gift, weight: -1, phrases: [a]}\n"),
		"c.yaml": []byte("version: 1\nlanguage: [\n"),
	})
	if err == nil {
		t.Fatal("taken")
	}
	for _, want := range []string{
		"a.yaml: line 4: unknown label \"nope\"", "a.yaml: line 5: unknown label \"neither\"", "a.yaml: line 5: weight", "a.yaml: line 5: '(' is not closed",
		"b.yaml: line 1: language xx is that of a.yaml", "b.yaml: line 4: weight", "c.yaml: yaml: line 2:",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no complaint %q in\n%v", want, err)
		}
	}
}

func FuzzPacks(f *testing.F) {
	f.Add("how (are|r) [you] * x")
	f.Add("((((")
	f.Fuzz(func(_ *testing.T, p string) {
		for s := range strings.SplitSeq(p, "*") {
			_, _ = split(s)
		}
	})
}
