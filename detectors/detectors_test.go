package detectors

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"github.com/dmguard/dmguard/detectors/grooming"
	"github.com/dmguard/dmguard/detectors/hashmatch"
	"github.com/dmguard/dmguard/hashdb"
	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/pipeline/media"
)

// corpusCanary is the canary of testdata.
const corpusCanary = "corpus-canary-0123456789"

// everything turns on every detector there is.
func everything(tb testing.TB) (Config, Deps) {
	tb.Helper()
	match, groom := hashmatch.DefaultConfig(), grooming.DefaultConfig()
	entries := []hashdb.Entry{{Hash: hashdb.Digests([]byte("a known file"))[0], ID: "1", Category: "csam"}}
	lists, err := hashdb.NewSet(hashdb.List{Name: "corpus", Entries: entries})
	if err != nil {
		tb.Fatal(err)
	}
	packs := map[string][]byte{}
	names, err := filepath.Glob("../configs/rules/*.yaml")
	if err != nil || len(names) == 0 {
		tb.Fatalf("no rule packs: %v", err)
	}
	for _, name := range names {
		if packs[filepath.Base(name)], err = os.ReadFile(name); err != nil {
			tb.Fatal(err)
		}
	}
	return Config{Canary: &CanaryConfig{}, Hashmatch: &match, Grooming: &groom}, Deps{Canary: corpusCanary, Lists: lists, RulePacks: packs}
}

// expected is what a line of the corpus says of a finding.
type expected struct {
	Category pipeline.Category `json:"category"`
	Label    string            `json:"label"`
	Score    *float64          `json:"score"` // nil: any
	Spans    []pipeline.Span   `json:"spans"` // nil: any
}

// TestCorpus runs testdata/NAME.ndjson through every detector NAME: the findings of each
// message are those that stand beside it. Conversations keep their state from line to line.
func TestCorpus(t *testing.T) {
	cfg, deps := everything(t)
	all, err := Build(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	fetcher, err := media.Open(t.Context(), media.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer fetcher.Close()
	decoder, err := media.NewDecoder(media.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	preparer := hashmatch.NewPreparer(fetcher, &media.InProcess{Decoder: decoder, Look: hashmatch.NewLook()}).For(deps.Lists, nil)

	files := map[string]bool{}
	for _, d := range all {
		name := filepath.Join("testdata", d.Name()+".ndjson")
		files[name] = true
		t.Run(d.Name(), func(t *testing.T) {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			states := map[string][]byte{}
			lines := bufio.NewScanner(bytes.NewReader(data))
			for n := 1; lines.Scan(); n++ {
				var line struct {
					Message  jsontext.Value `json:"message"`
					Findings []expected     `json:"findings"`
					Partial  bool           `json:"partial"`
				}
				if err := json.Unmarshal(lines.Bytes(), &line, json.RejectUnknownMembers(true)); err != nil {
					t.Fatalf("line %d: %v", n, err)
				}
				m, err := pipeline.ParseMessage(line.Message)
				if err != nil {
					t.Fatalf("line %d: %v", n, err)
				}
				item := &pipeline.Item{Message: m, Position: pipeline.Position{Offset: int64(n)}}
				item.SetState(d.Name(), states[m.ConversationID])
				if err := preparer.Prepare(t.Context(), item); err != nil {
					t.Fatalf("line %d: %v", n, err)
				}
				answer, err := d.Detect(t.Context(), item)
				if (err != nil) != line.Partial {
					t.Errorf("line %d: partial %v, error %v", n, line.Partial, err)
				}
				if answer.State != nil {
					states[m.ConversationID] = answer.State
				}
				if diff := cmp.Diff(line.Findings, asExpected(answer.Findings, line.Findings)); diff != "" {
					t.Errorf("line %d (-want +got):\n%s", n, diff)
				}
				for _, f := range answer.Findings {
					if f.Reason == "" || f.Category == "" || f.Score < 0 || f.Score > 1 {
						t.Errorf("line %d: a finding outside the schema: %+v", n, f)
					}
				}
			}
			if err := lines.Err(); err != nil {
				t.Fatal(err)
			}
		})
	}
	found, err := filepath.Glob("testdata/*.ndjson")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range found {
		if !files[name] {
			t.Errorf("%s belongs to no detector", name)
		}
	}
}

// asExpected leaves out of findings what the corpus does not say of them.
func asExpected(findings []pipeline.Finding, want []expected) []expected {
	var out []expected
	for i, f := range findings {
		e := expected{Category: f.Category, Label: f.Label}
		if i < len(want) && want[i].Score != nil {
			e.Score = &f.Score
		}
		if i < len(want) && want[i].Spans != nil {
			e.Spans = f.Spans
		}
		out = append(out, e)
	}
	return out
}

func TestAnAbsentSectionIsOff(t *testing.T) {
	all, err := Build(Config{}, Deps{})
	if err != nil || len(all) != 0 {
		t.Errorf("%d detectors, %v", len(all), err)
	}
}

func TestEveryFaultIsReported(t *testing.T) {
	_, err := Build(Config{Canary: &CanaryConfig{}, Hashmatch: &hashmatch.Config{}, Grooming: &grooming.Config{}}, Deps{})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"detector canary: no canary", "detector hashmatch: missing category", "max_findings", "detector grooming: "} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
}

func TestNamesAreUnique(t *testing.T) {
	cfg, deps := everything(t)
	all, err := Build(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, d := range all {
		if seen[d.Name()] || d.Name() != strings.ToLower(d.Name()) {
			t.Errorf("name %q", d.Name())
		}
		seen[d.Name()] = true
	}
}

func TestACanaryThatCouldBeMetByChanceIsRefused(t *testing.T) {
	for _, secret := range []string{"", "short", strings.Repeat("x", 257), " 0123456789abcdef", "0123456789abcde\xff"} {
		if _, err := newCanary(secret); err == nil || (secret != "" && strings.Contains(err.Error(), secret)) {
			t.Errorf("%d bytes: %v", len(secret), err)
		}
	}
}

func TestTheCanaryIsBounded(t *testing.T) {
	c, err := newCanary(corpusCanary)
	if err != nil {
		t.Fatal(err)
	}
	item := &pipeline.Item{Message: &pipeline.Message{
		ConversationID: CanaryConversations + "1", Text: pipeline.NewText(strings.Repeat(corpusCanary, 1000)),
	}}
	answer, err := c.Detect(t.Context(), item)
	if err != nil || len(answer.Findings) != 1 || len(answer.Findings[0].Spans) != maxCanarySpans {
		t.Errorf("%+v, %v", answer, err)
	}
	if strings.Contains(fmt.Sprintf("%+v", answer), corpusCanary) {
		t.Error("the finding quotes the canary")
	}
}
