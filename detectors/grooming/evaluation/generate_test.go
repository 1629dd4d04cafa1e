package evaluation

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dmguard/dmguard/detectors/grooming"
	"github.com/dmguard/dmguard/pipeline"
)

func TestConversationsKeepToTheirLimits(t *testing.T) {
	g := generator(t, Options{Seed: 11, Split: Train, Obfuscation: Mixed})
	stages := map[string]bool{}
	for i := range 600 {
		c := g.Conversation(i)
		seen := map[string]bool{}
		var last time.Time
		for _, m := range c.Messages {
			b, err := EncodeMessage(m)
			if err != nil {
				t.Fatal(err)
			}
			back, err := pipeline.ParseMessage(b)
			if err != nil {
				t.Fatalf("%s: %v", m.ID, err)
			}
			if !back.Text.Equal(m.Text) || back.ConversationID != c.Conversation || back.Text.Len() == 0 {
				t.Fatalf("%s does not come back as it went", m.ID)
			}
			if seen[m.ID] || m.SentAt.Before(last) {
				t.Fatalf("%s stands there twice, or was sent before the one before it", m.ID)
			}
			seen[m.ID], last = true, m.SentAt
		}
		turns := len(g.draft(i).turns)
		if turns < 9 || turns > 215 {
			t.Errorf("%s has %d turns", c.Conversation, turns)
		}
		if span := last.Sub(c.Messages[0].SentAt); span > 100*24*time.Hour {
			t.Errorf("%s lasts %v", c.Conversation, span)
		}
		if (c.Kind == Risk) != (len(c.RiskTurns) > 0) {
			t.Errorf("%s is %s and has %d risk turns", c.Conversation, c.Kind, len(c.RiskTurns))
		}
		if share := float64(len(c.RiskTurns)) / float64(turns); c.Kind == Risk && (share < 0.02 || share > 0.36 || len(c.RiskTurns) < 3) {
			t.Errorf("%s: %d risk turns of %d", c.Conversation, len(c.RiskTurns), turns)
		}
		for _, r := range c.RiskTurns {
			stages[r.Intent] = true
			for _, id := range r.Messages {
				if !seen[id] {
					t.Errorf("%s names %s, which was not sent", c.Conversation, id)
				}
				if n := slices.IndexFunc(c.Messages, func(m *pipeline.Message) bool { return m.ID == id }); n >= 0 && !strings.HasSuffix(c.Messages[n].Sender.ID, "/a") {
					t.Errorf("%s: the other side wrote a risk turn", c.Conversation)
				}
			}
		}
	}
	if len(stages) != len(grooming.Labels()) {
		t.Errorf("%d intents were drawn, of %d", len(stages), len(grooming.Labels()))
	}
}

func TestTwinsHaveTheSameShape(t *testing.T) {
	g := generator(t, Options{Seed: 2, Split: Test})
	for i := range 40 {
		risk, twin := g.draft(3*i), g.draft(3*i+1)
		risk.shape.switched, twin.shape.switched = "", "" // each mixes what is not its own language
		if risk.shape != twin.shape || risk.labels.Kind != Risk || twin.labels.Kind != Negative {
			t.Errorf("%d: %+v and %+v", i, risk.shape, twin.shape)
		}
		if d := len(risk.turns) - len(twin.turns); d < -14 || d > 14 {
			t.Errorf("%d: %d and %d turns", i, len(risk.turns), len(twin.turns))
		}
	}
}

func TestDisguiseChangesRiskTurnsAndNothingElse(t *testing.T) {
	plain := generator(t, Options{Seed: 4, Split: Train})
	for _, name := range Families() {
		g := generator(t, Options{Seed: 4, Split: Train, Obfuscation: name})
		changed := 0
		for i := range 20 {
			a, b := plain.Risk(i), g.Risk(i)
			if b.Obfuscation != name || len(a.Messages) != len(b.Messages) {
				t.Fatalf("%s: %d and %d messages, said to be %q", name, len(a.Messages), len(b.Messages), b.Obfuscation)
			}
			risky := map[string]bool{}
			for _, r := range b.RiskTurns {
				for _, id := range r.Messages {
					risky[id] = true
				}
			}
			for j, m := range a.Messages {
				o := b.Messages[j]
				if !risky[m.ID] && !m.Text.Equal(o.Text) || m.ID != o.ID || !m.SentAt.Equal(o.SentAt) {
					t.Fatalf("%s: message %s differs", name, m.ID)
				}
				if risky[m.ID] && !m.Text.Equal(o.Text) {
					changed++
				}
			}
		}
		if changed < 60 {
			t.Errorf("%s changed only %d messages", name, changed)
		}
	}
}

func TestDisguiseIsWhatItSays(t *testing.T) {
	r := generator(t, Options{Split: Train}).random(1, "x")
	for name, want := range map[string]string{"math_bold": "𝐚 𝐁𝐜 1", "spacing": "a  B c  1"} {
		if got := familyOf(name).apply(r, "a Bc 1"); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	for _, name := range []string{"lookalikes", "zero_width", "leet", "repeats"} {
		if got := familyOf(name).apply(r, "see you soon at the station please"); got == "see you soon at the station please" {
			t.Errorf("%s changed nothing", name)
		}
	}
}

func TestCouplesDifferInNothingButWhoTheyAre(t *testing.T) {
	g := generator(t, Options{Seed: 9, Split: Test})
	names := map[string]bool{}
	for i := 0; i < 80; i += 4 {
		first := g.Couple(i)
		names[first.Cohort] = true
		for j := 1; j < 4; j++ {
			c := g.Couple(i + j)
			names[c.Cohort] = true
			if len(c.Messages) != len(first.Messages) {
				t.Fatalf("couple %d: %d messages and %d", i+j, len(c.Messages), len(first.Messages))
			}
			different := 0
			for k, m := range c.Messages {
				if diff := cmp.Diff(m.Sender, first.Messages[k].Sender); diff != "" || !m.SentAt.Equal(first.Messages[k].SentAt) {
					t.Fatalf("couple %d, message %d differs in more than words", i+j, k)
				}
				if !m.Text.Equal(first.Messages[k].Text) {
					different++
				}
			}
			if different > 4 {
				t.Errorf("couple %d: %d messages differ", i+j, different)
			}
		}
	}
	if len(names) != len(couples) {
		t.Errorf("couples %v", names)
	}
}

// TestNoFactOfAnAccountGivesTheLabelAway holds the made-up accounts to
// overlapping: the best threshold on one fact alone is right little more often
// than a coin.
func TestNoFactOfAnAccountGivesTheLabelAway(t *testing.T) {
	g := generator(t, Options{Seed: 3, Split: Train})
	facts := map[string]func(*pipeline.Message) (float64, bool){
		"age of the sender": func(m *pipeline.Message) (float64, bool) {
			if m.Sender.Age == nil {
				return 0, false
			}
			return float64(*m.Sender.Age), true
		},
		"age of the recipient": func(m *pipeline.Message) (float64, bool) {
			if m.Recipients[0].Age == nil {
				return 0, false
			}
			return float64(*m.Recipients[0].Age), true
		},
		"connected": func(m *pipeline.Message) (float64, bool) {
			if m.Sender.Connected == nil || !*m.Sender.Connected {
				return 0, m.Sender.Connected != nil
			}
			return 1, true
		},
		"age of the account": func(m *pipeline.Message) (float64, bool) {
			if m.Sender.AccountCreatedAt == nil {
				return 0, false
			}
			return m.SentAt.Sub(*m.Sender.AccountCreatedAt).Hours(), true
		},
		"minors contacted": func(m *pipeline.Message) (float64, bool) {
			if m.Sender.Behaviour == nil {
				return 0, false
			}
			return float64(*m.Sender.Behaviour.MinorsContacted), true
		},
		"blocked": func(m *pipeline.Message) (float64, bool) {
			if m.Sender.Behaviour == nil {
				return 0, false
			}
			return float64(*m.Sender.Behaviour.BlockedBy), true
		},
	}
	const n = 700
	openings := map[Kind][]*pipeline.Message{}
	for i := range 3 * n {
		c := g.Conversation(i)
		first := slices.IndexFunc(c.Messages, func(m *pipeline.Message) bool { return strings.HasSuffix(m.Sender.ID, "/a") })
		if first >= 0 {
			openings[c.Kind] = append(openings[c.Kind], c.Messages[first])
		}
	}
	for name, fact := range facts {
		values := map[Kind][]float64{}
		for kind, messages := range openings {
			for _, m := range messages {
				if v, known := fact(m); known {
					values[kind] = append(values[kind], v)
				}
			}
		}
		best := 0.
		for _, threshold := range append(values[Risk], values[Negative]...) {
			above := func(vs []float64) float64 {
				k := 0
				for _, v := range vs {
					if v >= threshold {
						k++
					}
				}
				return float64(k) / float64(len(vs))
			}
			best = max(best, 0.5+math.Abs(above(values[Risk])-above(values[Negative]))/2)
		}
		if known := len(values[Risk]); best > 0.75 || known < n/2 || known == n {
			t.Errorf("%s alone is right %.2f of the time, known of %d", name, best, known)
		}
	}
}

func TestACorpusServesOneSplitOnly(t *testing.T) {
	f := NewFiller()
	for _, c := range []string{"c-1", "c-2", "c-3", "c-4"} {
		for i := range 10 {
			f.Add(&pipeline.Message{ID: "m", ConversationID: c, Sender: pipeline.Party{ID: []string{"x", "y"}[i%2]}, Text: pipeline.NewText("from corpus " + c)})
		}
	}
	f.Close()
	texts := map[Split]map[string]bool{Train: {}, Test: {}}
	for _, split := range []Split{Train, Test} {
		g := generator(t, Options{Seed: 1, Split: split, Filler: f})
		for i := range 60 {
			for _, turn := range g.draft(i).turns {
				if strings.HasPrefix(turn.text, "from corpus ") {
					texts[split][turn.text] = true
				}
			}
		}
	}
	want := map[Split]map[string]bool{
		Train: {"from corpus c-1": true, "from corpus c-3": true}, Test: {"from corpus c-2": true, "from corpus c-4": true},
	}
	if diff := cmp.Diff(want, texts); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestLinesAreAllOfASplitAndNothingElse(t *testing.T) {
	d := data(t)
	for _, split := range []Split{Train, Test} {
		want := map[string]int{} // by author and label
		for _, a := range d.risk {
			for label, ws := range a.wordings {
				if a.split == split {
					want[a.name+" "+label] += 3 * len(ws)
				}
			}
		}
		for _, a := range d.harmless {
			for _, ws := range a.wordings {
				if a.split == split {
					want[a.name+" "+grooming.HarmlessLabel] += 3 * len(ws)
				}
			}
		}
		for _, s := range d.negatives {
			if s.split == split {
				want[s.author+" "+grooming.HarmlessLabel] += 3 * len(s.lines)
			}
		}
		got := map[string]int{}
		lines := d.Lines(1, split, 3)
		for _, l := range lines {
			got[l.Author+" "+strings.Join(l.Labels, " ")]++
			if l.Split != split || l.Text == "" || strings.ContainsAny(l.Text, "{}|") {
				t.Errorf("%+v", l)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", split, diff)
		}
		if diff := cmp.Diff(lines, d.Lines(1, split, 3)); diff != "" {
			t.Errorf("the same seed gives other lines:\n%s", diff)
		}
	}
}

// TestWordingsOfRulesAreLinesToTrainOn asks the rules themselves: most of what is
// written from a rule they find, for its label. Some has slips, and what a frame
// or a gap wants is not written.
func TestWordingsOfRulesAreLinesToTrainOn(t *testing.T) {
	d, packs := data(t), rulePacks(t)
	rules := realDetector(t).With(nil)
	lines, err := d.RuleLines(1, packs)
	if err != nil {
		t.Fatal(err)
	}
	found, languages, labels := 0, map[string]bool{}, map[string]bool{}
	for i, l := range lines {
		if l.Split != Train || l.Text == "" || strings.ContainsAny(l.Text, "()[]{}|*") {
			t.Errorf("%+v", l)
		}
		languages[l.Language], labels[l.Labels[0]] = true, true
		a, err := rules.Detect(t.Context(), &pipeline.Item{Message: &pipeline.Message{ID: fmt.Sprint(i), Text: pipeline.NewText(l.Text)}})
		if err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(a.Findings, func(f pipeline.Finding) bool { return f.Label == l.Labels[0] }) {
			found++
		}
	}
	if n := len(lines); n < 2000 || found < n*4/5 {
		t.Errorf("%d of %d lines are found", found, n)
	}
	if len(languages) != 6 || len(labels) != len(grooming.Labels()) {
		t.Errorf("languages %v, labels %v", languages, labels)
	}
	again, err := d.RuleLines(1, packs)
	if diff := cmp.Diff(lines, again); diff != "" || err != nil {
		t.Errorf("the same seed gives other lines: %v\n%s", err, diff)
	}
	for _, bad := range []string{"rules: 1", "language: en\nrules: [{label: secrecy, phrases: [\"(a\"]}]", "language: en\nrules: [{label: secrecy, phrases: [\"a {kin}\"]}]"} {
		if _, err := d.RuleLines(1, map[string][]byte{"bad.yaml": []byte(bad)}); err == nil || !strings.Contains(err.Error(), "bad.yaml") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestTalkToTrainOnIsOfOneSplit(t *testing.T) {
	d := data(t)
	said := map[Split]map[string]bool{}
	for _, split := range []Split{Train, Test} {
		said[split] = map[string]bool{}
		for _, m := range d.TalkMessages(split) {
			said[split][m.Text.Reveal()] = true
			b, err := EncodeMessage(m)
			if err == nil {
				_, err = pipeline.ParseMessage(b)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for line := range said[Test] {
		if said[Train][line] && strings.Count(line, " ") > 4 {
			t.Errorf("%q is on both sides", line)
		}
	}
	if len(said[Train]) < 10_000 || len(said[Test]) < 1000 {
		t.Errorf("%d and %d lines", len(said[Train]), len(said[Test]))
	}
}

func TestAGeneratorWithNothingToGenerateFromIsAnError(t *testing.T) {
	for _, opt := range []Options{
		{Split: "both"}, {Split: Test, Languages: []string{"xx"}}, {Split: Test, Authors: []string{"nobody"}}, {Split: Test, Obfuscation: "smoke"},
	} {
		if _, err := NewGenerator(data(t), opt); err == nil {
			t.Errorf("%+v was taken", opt)
		}
	}
}
