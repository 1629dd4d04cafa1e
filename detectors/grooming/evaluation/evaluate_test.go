package evaluation

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"io"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"

	"github.com/dmguard/dmguard/configs"
	"github.com/dmguard/dmguard/detectors/grooming"
	"github.com/dmguard/dmguard/pipeline"
)

func rulePacks(t testing.TB) map[string][]byte {
	t.Helper()
	packs := map[string][]byte{}
	names, err := fs.Glob(configs.Rules(), "*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if packs[name], err = fs.ReadFile(configs.Rules(), name); err != nil {
			t.Fatal(err)
		}
	}
	return packs
}

func realDetector(t testing.TB) *grooming.Detector {
	t.Helper()
	d, err := grooming.New(grooming.DefaultConfig(), rulePacks(t))
	if err != nil {
		t.Fatal(err)
	}
	m, err := grooming.LoadModel(configs.MessageModel())
	if err != nil {
		t.Fatal(err)
	}
	return d.With(m)
}

func corpusOf(messages ...*pipeline.Message) iter.Seq2[*pipeline.Message, error] {
	return func(yield func(*pipeline.Message, error) bool) {
		for _, m := range messages {
			if !yield(m, nil) {
				return
			}
		}
	}
}

// stream hands conversations out message by message, in turns.
func stream(conversations []*Conversation) iter.Seq2[*pipeline.Message, error] {
	var all []*pipeline.Message
	for i := 0; ; i++ {
		some := false
		for _, c := range conversations {
			if i < len(c.Messages) {
				all, some = append(all, c.Messages[i]), true
			}
		}
		if !some {
			return corpusOf(all...)
		}
	}
}

func TestAConversationIsJudgedAlikeWholeAndInAStream(t *testing.T) {
	d := realDetector(t)
	g := generator(t, Options{Seed: 5, Split: Train, Obfuscation: Mixed})
	const n = 90
	whole, err := judge(t.Context(), d, n, g.Conversation, true, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	var conversations []*Conversation
	labels := map[string]*Labels{}
	for i := range n {
		c := g.Conversation(i)
		conversations = append(conversations, c)
		labels[c.Conversation] = &c.Labels
	}
	streamed, err := judgeStream(t.Context(), d, "", stream(conversations), labels, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	by := map[string]*Outcome{}
	alerts := 0
	for _, o := range streamed {
		by[o.Conversation] = o
	}
	for _, o := range whole {
		if diff := cmp.Diff(o, by[o.Conversation], cmp.AllowUnexported(Outcome{}, step{})); diff != "" {
			t.Errorf("%s (-whole +streamed):\n%s", o.Conversation, diff)
		}
		// What is alerted is what reaches the threshold that is configured.
		message, _, reached := o.Reached(grooming.DefaultConfig().Review)
		if reached != (o.Alert > 0) || reached && message != o.Alert {
			t.Errorf("%s: alerted at %d, but reaches the threshold at %d", o.Conversation, o.Alert, message)
		}
		if o.Alert > 0 {
			alerts++
		}
	}
	if alerts < 10 {
		t.Errorf("only %d alerts: this compared hardly anything", alerts)
	}
}

func TestAnEvaluationIsTheSameAgain(t *testing.T) {
	run := Run{
		Data: data(t), Detector: realDetector(t), Threshold: grooming.DefaultConfig().Review, Seed: 3, Conversations: 30,
		Corpora: []Corpus{
			{Name: "talk", Messages: stream([]*Conversation{generator(t, Options{Seed: 1, Split: Test}).Conversation(2)})},
			{
				Name: "own", Messages: stream([]*Conversation{generator(t, Options{Seed: 1, Split: Test}).Conversation(0)}),
				Labels: map[string]*Labels{"gen-test-1-0": {Conversation: "gen-test-1-0", Kind: Risk}},
			},
		},
	}
	var last []byte
	for range 2 {
		r, err := Evaluate(t.Context(), run)
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(r, json.Deterministic(true))
		if err != nil {
			t.Fatal(err)
		}
		if last != nil && !bytes.Equal(last, b) {
			t.Fatal("two evaluations with one seed differ")
		}
		last = b
		if len(r.Corpora) != 1 || r.Corpora[0].Conversations != 1 || len(r.Data) != 1 || r.Data[0].Recall.Of != 1 || r.Data[0].Unlabeled != 0 {
			t.Errorf("corpora %+v, data %+v", r.Corpora, r.Data)
		}
		if len(r.HeldOut.Accounts.Points) != 3 || len(r.Evasion) != len(Families()) || len(r.Checks) < 25 || len(r.Scores) != 91 {
			t.Errorf("%d points, %d families, %d checks, %d scores", len(r.HeldOut.Accounts.Points), len(r.Evasion), len(r.Checks), len(r.Scores))
		}
		for _, p := range slices.Concat(r.HeldOut.Accounts.Points, r.Known.TextOnly.Points) {
			hits, of := 0, 0
			for _, g := range p.Turns {
				hits, of = hits+g.Rate.Hits, of+g.Rate.Of
			}
			if len(p.Turns) != 4 || hits != p.Recall.Hits || of != p.Recall.Of {
				t.Errorf("%s: by risk turns %d of %d, in all %d of %d", p.Name, hits, of, p.Recall.Hits, p.Recall.Of)
			}
		}
		for _, w := range r.KnownWordings {
			if author, _, _ := strings.Cut(w.Name, "/"); slices.Contains(r.Authors, author) {
				t.Errorf("%s is held out, and told of", w.Name)
			}
		}
		if r.Conversations[Risk] != 30 || r.HeldOut.Accounts.Points[0].Shown { // on 31 benign ones nothing is shown at 1e-2
			t.Errorf("%+v", r.HeldOut.Accounts.Points[0])
		}
	}
}

func TestTheCardSaysWhatWasNotShown(t *testing.T) {
	r, err := Evaluate(t.Context(), Run{Data: data(t), Detector: realDetector(t), Threshold: 0.7, Seed: 3, Conversations: 10})
	if err != nil {
		t.Fatal(err)
	}
	var card, curve, tables bytes.Buffer
	if err := errors.Join(r.WriteCard(&card, "x.svg"), r.WriteCurve(&curve), r.Print(&tables)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"## What was not shown", "no evidence", "made up", "(x.svg)", "None were given", r.Detector, r.TestDigest[:16]} {
		if want == "no evidence" {
			want = "Nothing here is evidence of how it does in the field"
		}
		if !strings.Contains(card.String(), want) {
			t.Errorf("the card does not say %q", want)
		}
	}
	if strings.Index(card.String(), "## What was not shown") > strings.Index(card.String(), "recall") {
		t.Error("figures come before what they do not show")
	}
	if !strings.Contains(tables.String(), "too few") {
		t.Error("a rate of 1e-3 that rests on ten conversations is not marked")
	}
	for dec := xml.NewDecoder(&curve); ; {
		if _, err := dec.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("the curve is no XML: %v", err)
		}
	}
}

type stub struct {
	cue  string
	fail error
}

func (stub) Name() string { return "grooming" }

func (s stub) Detect(_ context.Context, it *pipeline.Item) (pipeline.Answer, error) {
	if s.fail != nil || !strings.Contains(it.Message.Text.Reveal(), s.cue) {
		return pipeline.Answer{}, s.fail
	}
	return pipeline.Answer{Findings: []pipeline.Finding{{Label: "secrecy", Score: 0.5}}}, nil
}

func TestADetectorThatFailsEndsTheEvaluation(t *testing.T) {
	broken := errors.New("broken")
	_, err := Evaluate(t.Context(), Run{Data: data(t), Detector: stub{fail: broken}, Conversations: 3})
	if !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Evaluate(ctx, Run{Data: data(t), Detector: stub{cue: "x"}, Conversations: 3}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled evaluation: %v", err)
	}
	_, err = Evaluate(t.Context(), Run{Data: data(t), Detector: stub{cue: "x"}, Conversations: 3, Corpora: []Corpus{{Name: "bad", Messages: func(yield func(*pipeline.Message, error) bool) { yield(nil, broken) }}}})
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "bad") {
		t.Errorf("a corpus that cannot be read: %v", err)
	}
}

func TestAPairPassesWhereItsTwoLinesAreToldApart(t *testing.T) {
	d := &Data{checks: []*functionality{{name: "f", says: "s", split: Train, pairs: []checkPair{
		{Label: "secrecy", Risk: "a cue", Benign: "none"},
		{Label: "secrecy", Risk: "a cue", Benign: "a cue too"},
		{Label: "secrecy", Risk: "none", Benign: "none"},
		{Label: "gift", Risk: "a cue", Benign: "none"},
	}}}}
	got, err := groomCheck(t.Context(), stub{cue: "cue"}, d, 1)
	if err != nil {
		t.Fatal(err)
	}
	if c := got[0]; c.Passed.Hits != 1 || c.Noticed.Hits != 2 || c.Left.Hits != 3 || c.Passed.Of != 4 {
		t.Errorf("%+v", c)
	}
}

func TestAccountsAreTakenAwayWhole(t *testing.T) {
	age, yes := 14, true
	m := &pipeline.Message{
		ID: "m", Sender: pipeline.Party{ID: "a", Age: &age, Connected: &yes, Behaviour: &pipeline.Behaviour{BlockedBy: &age}},
		Recipients: []pipeline.Party{{ID: "b", Age: &age}}, Text: pipeline.NewText("hello"),
	}
	got := withoutAccounts(m)
	want := &pipeline.Message{ID: "m", Sender: pipeline.Party{ID: "a"}, Recipients: []pipeline.Party{{ID: "b"}}, Text: m.Text}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if m.Sender.Age == nil || m.Recipients[0].Age == nil {
		t.Error("the message itself was changed")
	}
}
