package evaluation

import (
	"bytes"
	"io/fs"
	"maps"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

func data(t testing.TB) *Data {
	t.Helper()
	d, err := LoadData()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func generator(t testing.TB, opt Options) *Generator {
	t.Helper()
	g, err := NewGenerator(data(t), opt)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// written is a conversation as it leaves the program.
func written(t testing.TB, c *Conversation) string {
	t.Helper()
	var b bytes.Buffer
	if err := WriteLabels(&b, &c.Labels); err != nil {
		t.Fatal(err)
	}
	for _, m := range c.Messages {
		l, err := EncodeMessage(m)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(l)
	}
	return b.String()
}

func TestEqualSeedsGiveEqualConversations(t *testing.T) {
	one := generator(t, Options{Seed: 7, Split: Train, Obfuscation: Mixed})
	two := generator(t, Options{Seed: 7, Split: Train, Obfuscation: Mixed})
	other := generator(t, Options{Seed: 8, Split: Train, Obfuscation: Mixed})
	differ := 0
	for i := 59; i >= 0; i-- { // in any order
		a := written(t, one.Conversation(i))
		if b := written(t, two.Conversation(i)); a != b {
			t.Fatalf("conversation %d differs", i)
		}
		if a != written(t, other.Conversation(i)) {
			differ++
		}
	}
	if differ < 60 {
		t.Errorf("another seed changed only %d of 60 conversations", differ)
	}
}

// frozen is the digest of the test side. Whoever changes a word of it changes
// what all earlier figures were about: say so where figures are kept.
const frozen = "678a7a2142e167969821650160ac5b56bbfbbe2ea979f15fdaa02c9176364d9b"

func TestTheTestSideIsFrozen(t *testing.T) {
	if got := data(t).TestDigest(); got != frozen {
		t.Errorf("the test side of the data has changed: its digest is\n%s, not\n%s", got, frozen)
	}
}

func TestTheDigestIsOfTheTestSideAndAllOfIt(t *testing.T) {
	base := fstest.MapFS{}
	names, err := fs.Glob(embedded, "data/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		b, err := embedded.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		base[strings.TrimPrefix(name, "data/")] = &fstest.MapFile{Data: b}
	}
	digest := func(file, from, to string) string {
		t.Helper()
		files := maps.Clone(base)
		if file != "" {
			changed := bytes.Replace(base[file].Data, []byte(from), []byte(to), 1)
			if bytes.Equal(changed, base[file].Data) {
				t.Fatalf("%s does not hold %q", file, from)
			}
			files[file] = &fstest.MapFile{Data: changed}
		}
		d, err := readData(files)
		if err != nil {
			t.Fatal(err)
		}
		return d.TestDigest()
	}
	was := digest("", "", "")
	for _, c := range []struct {
		file, from, to string
		moves          bool
	}{
		{"slots.yaml", "console, headphones", "console, earphones", true},
		{"slots.yaml", "phone, gift card", "phone, voucher", false},
		{"talk.yaml", "save me one", "save me two", true},
		{"talk.yaml", "what show", "which show", false},
		{"talk.yaml", "wdym", "wdum", true},
		{"negative-ines.yaml", "yes coach", "sure coach", true},
		{"negative-ines.yaml", "# Harmless", "# Quite harmless", false},
		{"negative-otto.yaml", "do we wear white", "do we wear blue", false},
		{"check-en.yaml", "how old is she", "how old is he", true},
		{"check-en.yaml", "how old is your dog", "how old is your cat", false},
	} {
		if moved := digest(c.file, c.from, c.to) != was; moved != c.moves {
			t.Errorf("%s, %q for %q: the digest moves: %v, want %v", c.file, c.to, c.from, moved, c.moves)
		}
	}
}

func TestTrainAndTestShareNoWords(t *testing.T) {
	l, err := leak(data(t), 3, 1200)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d of %d (%.4f %%)", l.Shared, l.Grams, 100*l.Share)
	if l.Grams < 500 {
		t.Errorf("only %d grams were compared", l.Grams)
	}
	if l.Share >= 0.001 {
		t.Errorf("%.2f %% of what the test side says is on the train side too, 0.1 %% or more", 100*l.Share)
	}
}

func TestALeakIsNoticed(t *testing.T) {
	a := map[string]bool{}
	addGrams(a, "Keep this, between us!")
	addGrams(a, "one two three four five six seven eight nine")
	addGrams(a, "too short")
	want := map[string]bool{"keep this between us": true, "one two three four five six seven eight": true, "two three four five six seven eight nine": true}
	if diff := cmp.Diff(want, a); diff != "" {
		t.Errorf("grams (-want +got):\n%s", diff)
	}
}

func TestASplitUsesItsOwnDataAlone(t *testing.T) {
	d := data(t)
	for _, split := range []Split{Train, Test} {
		other := Test
		if split == Test {
			other = Train
		}
		g := generator(t, Options{Seed: 5, Split: split})
		ids, texts := map[string]bool{}, map[string]bool{}
		for i := range 900 {
			for _, turn := range g.draft(i).turns {
				ids[turn.wording] = true
				if turn.wording == "" {
					texts[turn.text] = true
				}
			}
		}
		for _, a := range d.risk {
			for _, ws := range a.wordings {
				for _, w := range ws {
					if a.split == other && ids[w.id] {
						t.Errorf("%s uses %s", split, w.id)
					}
				}
			}
		}
		for _, s := range d.negatives {
			if s.split == other && ids[s.id] {
				t.Errorf("%s uses %s", split, s.id)
			}
		}
		for language, talk := range d.talk {
			own := map[string]bool{}
			for _, e := range talk.small(split) {
				for _, l := range e {
					own[l] = true
				}
			}
			for _, e := range talk.small(other) {
				for _, l := range e {
					if texts[l] && !own[l] && strings.Count(l, " ") > 2 { // shorter ones everybody says
						t.Errorf("%s uses small talk of %s in %s: %q", split, other, language, l)
					}
				}
			}
		}
	}
}

func TestEveryScenarioHasEnoughScripts(t *testing.T) {
	n, languages := map[string]int{}, map[string]bool{}
	for _, s := range data(t).negatives {
		if s.language == "en" {
			n[s.scenario]++
		}
		languages[s.language] = true
		if len(s.lines) < 3 {
			t.Errorf("%s has %d lines", s.id, len(s.lines))
		}
	}
	if len(n) != 13 || len(languages) != 6 {
		t.Errorf("%d scenarios in %d languages, want 13 in 6", len(n), len(languages))
	}
	for scenario, scripts := range n {
		if scripts < 12 {
			t.Errorf("%s has %d scripts, fewer than 12", scenario, scripts)
		}
	}
}

func TestBadDataIsRefusedWithEveryFault(t *testing.T) {
	_, err := readData(fstest.MapFS{
		"risk-x.yaml":     {Data: []byte("author: x\nlanguage: xx\nsplit: both\nlabels: {secrecy: [\"(a\", \"b {nothing}\"], other: [c]}\n")},
		"negative-x.yaml": {Data: []byte("author: x\nsplit: test\nscenarios: [{name: n, language: xx, scripts: [\"c: hello\"], couple: true}]\n")},
		"check-x.yaml":    {Data: []byte("functionalities: [{name: n, split: test, says: s, pairs: [{label: secrecy, risk: r}]}]\n")},
		"slots.yaml":      {Data: []byte("a: {en: {train: [x], test: [x]}}\n")},
		"talk.yaml":       {Data: []byte("en: {openers: {train: [a], test: []}}\n")},
		"other.yaml":      {Data: []byte("a: b\n")},
		"risk-y.yaml":     {Data: []byte("author: y\nunknown: 1\n")},
	})
	if err == nil {
		t.Fatal("it was taken")
	}
	for _, want := range []string{
		"split (train or test)", "is not closed", `unknown label "other"`, "{nothing}", "the role a or b", "couple is true", "needs label, risk and benign",
		"is on both sides", "no small talk for test", "is neither risk-", "field unknown not found",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q: %v", want, err)
		}
	}
}

func TestPhrasesStandForWhatTheirSyntaxSays(t *testing.T) {
	p, err := parseTemplate("(a|b[c]) [d] {x}e")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	r := generator(t, Options{Split: Train}).random(1, "x")
	for range 500 {
		got[p.render(r, func(slot string) string { return "<" + slot + ">" })] = true
	}
	want := map[string]bool{
		"a <x>e": true, "b <x>e": true, "bc <x>e": true, "a d <x>e": true, "b d <x>e": true, "bc d <x>e": true,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, bad := range []string{"", " ", "(a", "a)", "a|b", "(a]", "{", "{}", "{a b}", "a * b", "}", strings.Repeat("(", 20)} {
		if _, err := parseTemplate(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
