package grooming

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// framePack is a pack whose concepts are single words, a to h, so that an oracle can tell what a text holds.
func framePack(frames string) map[string][]byte {
	var b strings.Builder
	b.WriteString("version: 1\nlanguage: xx\nconcepts:\n")
	for c := 'a'; c <= 'h'; c++ {
		fmt.Fprintf(&b, "  %c: [\"word%c\"]\n", c, c)
	}
	b.WriteString("frames:\n" + frames)
	return map[string][]byte{"xx.yaml": []byte(b.String())}
}

// oracle says whether a sentence of words holds a frame, by trying every choice of words.
func oracle(words []string, all [][]byte, none []byte, within int, ordered bool) bool {
	var try func(part int, chosen []int) bool
	is := func(w string, set []byte) bool {
		return strings.HasPrefix(w, "word") && strings.Contains(string(set), w[4:])
	}
	try = func(part int, chosen []int) bool {
		if part == len(all) {
			lo, hi := chosen[0], chosen[0]
			for _, c := range chosen {
				lo, hi = min(lo, c), max(hi, c)
			}
			for i := max(0, lo-1); i <= min(len(words)-1, hi+1); i++ {
				if is(words[i], none) {
					return false
				}
			}
			return true
		}
		for i, w := range words {
			if !is(w, all[part]) {
				continue
			}
			if part > 0 {
				if ordered {
					if last := chosen[part-1]; i < last || i-last-1 > within {
						continue
					}
				} else {
					d := max(i-chosen[0], chosen[0]-i)
					if d-1 > within || i == chosen[0] {
						continue
					}
				}
			}
			if try(part+1, append(chosen[:part:part], i)) {
				return true
			}
		}
		return false
	}
	return try(0, nil)
}

func TestFramesAreFoundWhereverTheirConceptsStandTogether(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	found := 0
	for range 400 {
		ordered, within := r.IntN(2) == 0, r.IntN(5)
		parts := 1 + r.IntN(4)
		var all [][]byte
		var names []string
		for i := range parts {
			// Parts do not share concepts, so that no word can be two of them.
			set := []byte{byte('a' + i)}
			if r.IntN(3) == 0 && i < 3 {
				set = append(set, byte('e'+i))
			}
			all = append(all, set)
			names = append(names, strings.Join(strings.Split(string(set), ""), "|"))
		}
		pack := framePack(fmt.Sprintf("  - {label: secrecy, weight: 1, within: %d, ordered: %v, all: [%s]}\n", within, ordered, strings.Join(names, ", ")))
		l, err := loadPacks(pack)
		if err != nil {
			t.Fatal(err)
		}
		for range 40 {
			words := make([]string, 1+r.IntN(24))
			for i := range words {
				words[i] = "xy"
				if r.IntN(2) == 0 {
					words[i] = "word" + string(rune('a'+r.IntN(8)))
				}
			}
			var s scratch
			text := strings.Join(words, " ")
			l.scan(text, &s)
			got, want := s.cues[secrecy].n > 0, oracle(words, all, nil, within, ordered)
			if got != want {
				t.Fatalf("all %v, within %d, ordered %v in %q: found %v, should be %v", names, within, ordered, text, got, want)
			}
			if got {
				found++
			}
		}
	}
	if found < 1000 {
		t.Fatalf("only %d texts held a frame: the test says little", found)
	}
}

func TestAFrameDoesNotReachOverTheEndOfASentence(t *testing.T) {
	l, err := loadPacks(framePack("  - {label: secrecy, weight: 1, within: 5, all: [a, b]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{
		"worda wordb": true, "wordb xy xy xy xy xy worda": true, "wordb xy xy xy xy xy xy worda": false,
		"worda. wordb": false, "worda! x wordb": false, "worda, wordb": true,
	} {
		var s scratch
		l.scan(text, &s)
		if got := s.cues[secrecy].n > 0; got != want {
			t.Errorf("%q: found %v", text, got)
		}
	}
}

func TestAForbiddenConceptBesideAFrameStopsIt(t *testing.T) {
	l, err := loadPacks(framePack("  - {label: secrecy, weight: 1, within: 5, all: [a, b], none: [c]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{
		"worda wordb": true, "worda wordc wordb": false, "wordc worda wordb": false, "worda wordb wordc": false,
		"wordc x worda wordb": true, "worda wordb. wordc": true,
	} {
		var s scratch
		l.scan(text, &s)
		if got := s.cues[secrecy].n > 0; got != want {
			t.Errorf("%q: found %v", text, got)
		}
	}
}

// A sentence without end is no way to hide a frame.
func TestAFrameIsFoundAmongAnyNumberOfOtherConcepts(t *testing.T) {
	l, err := loadPacks(framePack("  - {label: secrecy, weight: 1, within: 3, ordered: true, all: [a, b, c]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, padding := range []int{0, 10, maxHeard - 1, maxHeard, maxHeard + 1, 1000} {
		text := strings.Repeat("wordd ", padding) + "worda wordd wordb wordd wordd wordc " + strings.Repeat("wordd ", padding)
		var s scratch
		l.scan(text, &s)
		c := &s.cues[secrecy]
		if c.n != 1 {
			t.Fatalf("between twice %d others it is found %d times", padding, c.n)
		}
		if got := text[c.spans[0].start:c.spans[0].end]; strings.TrimSpace(got) != "worda wordd wordb wordd wordd wordc" {
			t.Errorf("the span is %q", got)
		}
	}
}

func TestFaultsOfFramesAndConceptsNameTheLine(t *testing.T) {
	for frames, want := range map[string]string{
		"  - {label: secrecy, weight: 1, within: 3, all: [a, nothing]}\n":       `xx.yaml: line 13: no pack says by which words concept "nothing" is known`,
		"  - {label: secrecy, weight: 9, within: 3, all: [a]}\n":                "xx.yaml: line 13: weight of frame xx/secrecy/1 is not above 0",
		"  - {label: secrecy, weight: 1, within: 99, all: [a]}\n":               "xx.yaml: line 13: within of frame xx/secrecy/1 is not 0 to 12",
		"  - {label: secrecy, weight: 1, within: 3, all: []}\n":                 "xx.yaml: line 13: frame xx/secrecy/1 joins 0 concepts",
		"  - {label: secrecy, weight: 1, within: 3, al: [a]}\n":                 `line 13: unknown key "al" of a frame`,
		"  - {label: nothing, weight: 1, within: 3, all: [a]}\n":                `unknown label "nothing"`,
		"  - {label: secrecy, weight: 1, within: 3, all: [a, b, c, d, e, f]}\n": "joins 6 concepts, and 1 to 5 can be joined",
	} {
		_, err := loadPacks(framePack(frames))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, should name %q", frames, err, want)
		}
	}
}
