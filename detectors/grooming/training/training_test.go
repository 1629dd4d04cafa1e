package training

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dmguard/dmguard/detectors/grooming"
)

// toyDigest names the model that the toy data give, on every processor. It
// changes with the features, the training and the format, and with nothing else.
const toyDigest = "b6c641922af0c99f0c14a7e8804ec3a437cd4941a293ec0abbaa17292c3c0765"

func train(t *testing.T, cfg Config, corpora []*Corpus) ([]byte, *grooming.MessageModel, *Summary) {
	t.Helper()
	file, s, err := Model(t.Context(), cfg, corpora)
	if err != nil {
		t.Fatal(err)
	}
	m, err := grooming.LoadModel(file)
	if err != nil {
		t.Fatal(err)
	}
	return file, m, s
}

func TestTheSameSeedGivesTheSameBytes(t *testing.T) {
	c := toyConfig()
	a, m, _ := train(t, c, toy(1, 200))
	b, _, _ := train(t, c, toy(1, 200))
	if !bytes.Equal(a, b) {
		t.Error("two trainings differ")
	}
	if m.Digest() != toyDigest {
		t.Errorf("digest %s, not the one that is written down", m.Digest())
	}
	_, small, _ := train(t, c, toy(1, 40))
	for name, other := range map[string]func(*Config){
		"seed": func(c *Config) { c.Seed++ }, "bits": func(c *Config) { c.Bits-- }, "decay": func(c *Config) { c.Decay = 0.01 },
		"epochs": func(c *Config) { c.Epochs++ }, "rate": func(c *Config) { c.LearningRate /= 2 }, "least": func(c *Config) { c.Least++ },
		"count": func(c *Config) { c.MinCount += 40 }, "mixed": func(c *Config) { c.Mixed = 0 }, "dropped": func(c *Config) { c.Dropped = 0.3 },
	} {
		c := c
		other(&c)
		_, n, _ := train(t, c, toy(1, 40))
		n.Header().Training = small.Header().Training
		if cmp.Equal(n.Header(), small.Header()) {
			t.Errorf("%s: changes nothing", name)
		}
	}
	h := m.Header()
	want := []grooming.DataSource{
		{Name: "topics", Licence: "none", SHA256: strings.Repeat("0", 64), Texts: 1000},
		{Name: "talk", Licence: "none", SHA256: strings.Repeat("1", 64), Texts: 1600},
	}
	if diff := cmp.Diff(want, h.Data); diff != "" || h.Training.Seed != 1 {
		t.Errorf("seed %d, data %s", h.Training.Seed, diff)
	}
}

// TestNothingIsFused holds the arithmetic to one rounding an operation where the
// processor could do two at once, which would give other bits there.
func TestNothingIsFused(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "build", "-gcflags=-S", ".", "..")
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=arm64", "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out[max(0, len(out)-2000):])
	}
	fused := regexp.MustCompile(`\((\S+/(?:training/\w+|grooming/messagemodel|grooming/evidence)\.go:\d+)\).*\sFN?M(?:ADD|SUB)[SD]\s`)
	for line := range strings.Lines(string(out)) {
		if m := fused.FindStringSubmatch(line); m != nil {
			t.Errorf("%s multiplies and adds at once", m[1])
		}
	}
	if !regexp.MustCompile(`training/\w+\.go:\d+\).*\sFMULS\s`).Match(out) {
		t.Error("no multiplication was seen: this test looks at nothing")
	}
}

// TestTheTableSaysWhatTheNetworkSays: each weight is rounded by half a step at
// most, and so is their mean.
func TestTheTableSaysWhatTheNetworkSays(t *testing.T) {
	cfg := toyConfig()
	corpora := toy(2, 150)
	n, err := fit(t.Context(), cfg, corpora)
	if err != nil {
		t.Fatal(err)
	}
	var h grooming.ModelHeader
	rows := n.flatten(&h)
	h.Calibration.Tails = make([][]float32, labels)
	file, err := h.Encode(rows)
	if err != nil {
		t.Fatal(err)
	}
	m, err := grooming.LoadModel(file)
	if err != nil {
		t.Fatal(err)
	}
	var x grooming.Extractor
	bias := together(&n.bias)
	exact := 0
	for _, c := range corpora {
		for _, text := range c.Texts {
			var sums [anyLabel]float64
			known := 0
			x.Blocks(text.Text, func(hashes []uint64) {
				for _, f := range hashes {
					row, check := grooming.Slot(f, cfg.Bits)
					if n.checks[row] != check {
						continue
					}
					known++
					for l, x := range n.table(row) {
						sums[l] += float64(x)
					}
				}
			})
			length := math.Sqrt(float64(max(known, cfg.Least)))
			for l, got := range m.Scores(text.Text, nil) {
				want := float64(bias[l]) + sums[l]/length
				if limit := float64(h.Scale[l])/2*float64(known)/length + 1e-3; math.Abs(float64(got)-want) > limit {
					t.Fatalf("label %d: the table says %v, the network %v, more than %v apart", l, got, want, limit)
				} else if limit > 1e-3 {
					exact++
				}
			}
		}
	}
	if exact == 0 {
		t.Error("nothing was compared")
	}
}

func TestALongBenignTextIsLearnedAsItIsJudged(t *testing.T) {
	long := strings.Repeat("some words to read here ", 20) // 100 words: seven blocks
	n := &network{cfg: toyConfig()}
	n.cfg.MinCount = 1
	corpora := []*Corpus{{Texts: []Text{{Text: long}, {Text: long, Labels: 1}, {Text: "short"}, {Text: long, Split: Test}}}}
	n.choose(corpora)
	n.gather(corpora)
	var got []uint16
	last := 0
	for _, e := range n.examples {
		got = append(got, e.labels)
		if e.first != last || e.last <= e.first {
			t.Errorf("features %d to %d after %d", e.first, e.last, last)
		}
		last = e.last
	}
	if diff := cmp.Diff([]uint16{0, 0, 0, 0, 1 | 1<<anyLabel, 0}, got); diff != "" || last != len(n.features) || len(n.benign) != 5 {
		t.Error(diff)
	}
}

func TestTheToyTopicsAreLearned(t *testing.T) {
	_, m, s := train(t, toyConfig(), toy(3, 300))
	right, wrong := 0, 0
	for _, c := range toy(3, 300) {
		for _, text := range c.Texts {
			if text.Split != Train || text.Labels == 0 {
				continue
			}
			// What a text says for its label it says a little for the others too; the
			// detector takes the one with the greatest score.
			e, scores := m.Evidence(text.Text, nil), m.Scores(text.Text, nil)
			best := 0
			for l := range e {
				if scores[l] > scores[best] {
					best = l
				}
			}
			if text.Labels>>best&1 == 1 && e[best] >= 2 {
				right++
			} else {
				wrong++
			}
		}
	}
	if share := float64(right) / float64(right+wrong); share < 0.98 {
		t.Errorf("%.3f of the texts that it learned from are known again", share)
	}
	for l := range toyTopics {
		if got := s.Labels[l]; got.Texts == 0 || got.Bans2 < 0.6 {
			t.Errorf("held-out wording: %+v", got)
		}
	}
}

func TestWhatIsRepeatedIsSeenSoOften(t *testing.T) {
	n := &network{cfg: toyConfig()}
	n.cfg.MinCount = 1
	corpora := []*Corpus{{Texts: []Text{{Text: "one two"}}}, {Repeat: 3, Texts: []Text{{Text: "three four", Labels: 2}, {Text: "five", Split: Test}}}}
	n.choose(corpora)
	n.gather(corpora)
	var got []uint16
	for _, e := range n.examples {
		got = append(got, e.labels)
	}
	if diff := cmp.Diff([]uint16{0, 2 | 1<<anyLabel, 2 | 1<<anyLabel, 2 | 1<<anyLabel}, got); diff != "" || n.examples[1] != n.examples[3] {
		t.Errorf("%s %v", diff, n.examples)
	}
}

// TestHarmlessTextsAreToldFromThoseWithLabels trains on texts that share their
// words but for one.
func TestHarmlessTextsAreToldFromThoseWithLabels(t *testing.T) {
	corpora := toy(8, 60)
	for i := range 200 {
		corpora[0].Texts = append(corpora[0].Texts,
			Text{Text: fmt.Sprintf("do not tell anybody about the cake %d", i%7), Labels: 1 << labels},
			Text{Text: fmt.Sprintf("do not tell anybody about the letters %d", i%7), Labels: 1 << 5})
	}
	_, m, s := train(t, toyConfig(), corpora)
	cake, letters := m.Scores("do not tell anybody about the cake", nil), m.Scores("do not tell anybody about the letters", nil)
	if cake[labels] < 1 || letters[labels] > -1 || cake[5] > -1 || letters[5] < 1 {
		t.Errorf("harmless %v and %v, the label %v and %v", cake[labels], letters[labels], cake[5], letters[5])
	}
	if len(s.Labels) != labels {
		t.Errorf("%d labels in the summary", len(s.Labels))
	}
}

// TestWhatIsTaughtInOneLanguageIsKnownInAnother trains on texts of one made-up
// language, and asks in another whose words are of the same classes. The same
// words in another order were taught as everyday talk.
func TestWhatIsTaughtInOneLanguageIsKnownInAnother(t *testing.T) {
	rules, err := grooming.New(grooming.DefaultConfig(), map[string][]byte{
		"a.yaml": []byte("version: 1\nlanguage: aa\nwords: {fetch: holla hollu, water: akko akki, river: rivo rivi}\n"),
		"b.yaml": []byte("version: 1\nlanguage: bb\nwords: {fetch: zumt, water: pelz, river: quint}\n"),
	})
	if err != nil {
		t.Fatal(err)
	}
	corpora := toy(8, 60)
	one := func(i int, list ...string) string { return list[i%len(list)] }
	for i := range 400 {
		fetch, water, river := one(i, "holla", "hollu"), one(i/2, "akko", "akki"), one(i/4, "rivo", "rivi")
		corpora[0].Texts = append(corpora[0].Texts, Text{Text: fmt.Sprintf("%s %s %s %d", fetch, water, river, i%7), Labels: 1 << 6})
		corpora[1].Texts = append(corpora[1].Texts, Text{Text: fmt.Sprintf("%s %s %s %d", river, water, fetch, i%7)})
	}
	const said, other = "zumt pelz quint", "quint pelz zumt"
	cfg := toyConfig()
	_, m, _ := train(t, cfg, corpora)
	if a, b := m.Scores(said, rules)[6], m.Scores(other, rules)[6]; a > 0 || b > 0 {
		t.Errorf("without ideas: %v and %v", a, b)
	}
	cfg.Rules = rules
	_, m, _ = train(t, cfg, corpora)
	if a, b := m.Scores(said, rules)[6], m.Scores(other, rules)[6]; a < 0.5 || b > -0.5 {
		t.Errorf("what was taught in another language: %v, its words in another order: %v", a, b)
	}
	if diff := cmp.Diff([]string{"words/fetch", "words/river", "words/water"}, m.Header().Ideas); diff != "" {
		t.Error(diff)
	}
}

func TestCalibrationIsOfTheCorpusThatReachesMostAndOfNoTrainingText(t *testing.T) {
	corpora := toy(4, 1000)
	other := &Corpus{Name: "other", Licence: "none", SHA256: strings.Repeat("2", 64), Everyday: true}
	for i, text := range corpora[1].Texts { // a corpus where people talk of the weather a lot
		if i%7 == 0 {
			text.Text = "the forecast says rain tomorrow"
		}
		other.Texts = append(other.Texts, text)
	}
	corpora = append(corpora, other)
	_, m, _ := train(t, toyConfig(), corpora)
	h := m.Header()
	for _, c := range []*Corpus{corpora[1], other} {
		n := 0
		reached := map[int]int{}
		for _, text := range c.Texts {
			if text.Split != Calibration {
				continue
			}
			n++
			scores := m.Scores(text.Text, nil)
			for l, s := range scores[:labels] {
				for i, tail := range h.Calibration.Tails[l] {
					if s >= tail {
						reached[l*100+i]++
					}
				}
			}
		}
		if !slices.Contains(h.Calibration.Messages, grooming.CorpusSize{Name: c.Name, Messages: n}) {
			t.Errorf("%s has %d messages for calibration, the header says %v", c.Name, n, h.Calibration.Messages)
		}
		for at, k := range reached {
			if p := math.Pow(10, -0.1*float64(at%100+1)); float64(k+1)/float64(n+1) > p*(1+1e-9) {
				t.Errorf("%s, label %d: %d of %d reach a score that a share of %.5f may", c.Name, at/100, k, n, p)
			}
		}
	}
	if e := m.Evidence("the forecast says rain tomorrow", nil)[0]; e > 1 {
		t.Errorf("%v bans for what one in seven messages of a corpus says", e)
	}
	for l, tails := range h.Calibration.Tails {
		if most := len(tails); most > 34 { // 1,600 messages do not show what one in 2,500 does
			t.Errorf("label %d: %d tenths of a ban from so few messages", l, most)
		}
	}
}

func TestNoConversationIsInTwoSplits(t *testing.T) {
	var b strings.Builder
	for i := range 3000 {
		b.WriteString(`{"id":"m` + string(rune('a'+i%26)) + `","conversation_id":"c-` + string(rune('0'+i%10)) + string(rune('0'+i/10%10)) + `","sent_at":"2026-03-01T16:00:00Z","sender":{"id":"u"},"text":"c-` + string(rune('0'+i%10)) + string(rune('0'+i/10%10)) + `"}` + "\n")
	}
	path := filepath.Join(t.TempDir(), "every.day.ndjson")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := ReadBenign(path, "none")
	if err != nil {
		t.Fatal(err)
	}
	splits, sizes := map[string]Split{}, map[Split]int{}
	for _, text := range c.Texts {
		if s, ok := splits[text.Text]; ok && s != text.Split {
			t.Errorf("a conversation is in %v and %v", s, text.Split)
		}
		splits[text.Text] = text.Split
		sizes[text.Split]++
	}
	if len(sizes) != 3 || sizes[Train] < 1500 || c.Name != "every" || !c.Everyday {
		t.Errorf("%v of %s", sizes, c.Name)
	}
	sum := sha256.Sum256([]byte(b.String()))
	if c.SHA256 != hex.EncodeToString(sum[:]) {
		t.Error("another digest than that of the file")
	}
}

func TestBadTrainingDataIsRefusedWithItsLine(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct{ data, want string }{
		"label":    {`{"text":"a","labels":["gift"]}` + "\n" + `{"text":"zanzibar","labels":["what"]}`, `:2: unknown label "what"`},
		"reserved": {`{"text":"a","labels":["reserved"]}`, `:1: unknown label "reserved"`},
		"split":    {`{"text":"a","split":"dev"}`, `:1: unknown split "dev"`},
		"text":     {`{"text":" "}`, ":1: its text is empty"},
		"json":     {"\n" + `{"text":zanzibar`, ":2: not an object"},
		"type":     {`{"text":"zanzibar","labels":"gift"}`, ":1: not an object"},
	} {
		path := filepath.Join(dir, name+".ndjson")
		if err := os.WriteFile(path, []byte(c.data), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadLabelled(path, "none"); err == nil || !strings.Contains(err.Error(), path+c.want) || strings.Contains(err.Error(), "zanzibar") {
			t.Errorf("%s: %v", name, err)
		}
	}
	path := filepath.Join(dir, "good.ndjson")
	if err := os.WriteFile(path, []byte(`{"text":"a","labels":["age_probe","gift"],"author":"x","more":1}`+"\n\n"+`{"text":"b","split":"test"}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := ReadLabelled(path, "none")
	if err != nil {
		t.Fatal(err)
	}
	want := []Text{{Text: "a", Labels: 1 | 1<<7, Author: "x"}, {Text: "b", Split: Test}}
	if diff := cmp.Diff(want, c.Texts); diff != "" {
		t.Error(diff)
	}
	if _, err := ReadLabelled(path, " "); err == nil || !strings.Contains(err.Error(), "licence") {
		t.Errorf("without a licence: %v", err)
	}
	if _, err := ReadBenign(path, "none"); err == nil || !strings.Contains(err.Error(), path+":1: ") {
		t.Errorf("read as messages: %v", err)
	}
}

func TestBadSettingsAndTooLittleDataAreRefused(t *testing.T) {
	if _, _, err := Model(t.Context(), Config{Mixed: math.NaN(), Decay: -1}, toy(1, 10)); err == nil {
		t.Error("no settings were taken")
	} else {
		for _, want := range []string{"bits", "decay", "epochs", "least", "min count", "learning rate", "mixed"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("nothing is said of %s: %v", want, err)
			}
		}
	}
	corpora := toy(1, 10)
	for name, c := range map[string][]*Corpus{"nothing": nil, "no labels": corpora[1:], "nothing benign": corpora[:1]} {
		if _, _, err := Model(t.Context(), toyConfig(), c); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := Model(ctx, toyConfig(), corpora); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end: %v", err)
	}
}

func TestArithmeticIsCloseToThatOfTheLibrary(t *testing.T) {
	for i := range 2000 {
		x := float64(i-1000) / 125
		if got, want := exponential(x), math.Exp(x); math.Abs(got-want) > 1e-11*want {
			t.Errorf("e^%v is %v, not %v", x, got, want)
		}
		if got, want := float64(sigmoid(float32(2*x))), 1/(1+math.Exp(-2*x)); math.Abs(got-want) > 0.003 {
			t.Errorf("sigmoid of %v is %v, not %v", 2*x, got, want)
		}
	}
	for x, want := range map[float32]int8{0: 0, 0.5: 1, -0.5: -1, 0.49: 0, 126.6: 127, -127: -127} {
		if got := nearest(x); got != want {
			t.Errorf("%v rounds to %d", x, got)
		}
	}
	for i, p := range tails {
		if want := math.Pow(10, -0.1*float64(i+1)); math.Abs(p-want) > 1e-12*want {
			t.Errorf("tail %d is %v, not %v", i, p, want)
		}
	}
}

func TestTheSummaryIsOfTheTestSplit(t *testing.T) {
	corpora := toy(6, 100)
	_, m, s := train(t, toyConfig(), corpora)
	var want AuthorSummary
	want.Author = "b"
	benign := 0
	for _, c := range corpora {
		for _, text := range c.Texts {
			if text.Split != Test {
				continue
			}
			if text.Labels == 0 {
				benign++
				continue
			}
			want.Texts++
			e := m.Evidence(text.Text, nil)
			for l := range labels {
				if text.Labels>>l&1 == 1 && e[l] >= 2 {
					want.Bans2++
				}
			}
		}
	}
	want.Bans2 /= float64(want.Texts)
	if diff := cmp.Diff([]AuthorSummary{want}, s.Authors); diff != "" {
		t.Error(diff)
	}
	if len(s.Benign) != 1 || s.Benign[0].Texts != benign || s.Messages == 0 || s.Rows == 0 || s.File == 0 {
		t.Errorf("%+v", s)
	}
}

func TestTextsOfTheTestThatWereLearnedFromAreCounted(t *testing.T) {
	corpora := toy(5, 50)
	leaked := corpora[0].Texts[0]
	leaked.Split, leaked.Text = Test, "  "+strings.ToUpper(leaked.Text)
	corpora[0].Texts = append(corpora[0].Texts, leaked)
	if _, _, s := train(t, toyConfig(), corpora); s.Leaked != 1 {
		t.Errorf("%d", s.Leaked)
	}
}
