package evaluation

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/dmguard/dmguard/detectors/grooming"
	"github.com/dmguard/dmguard/pipeline"
)

// typed is how much of what is written to train on has slips and short spellings.
const typed = 0.25

// Lines returns what there is of a split to train on, each line by itself: the
// phrases of the risk side with their labels, and what uses the same words to a
// harmless end, phrases and lines of scripts. Each is written variants times,
// the first time without slips; what has no variants is then often the same.
func (d *Data) Lines(seed uint64, split Split, variants int) []TrainingLine {
	var out []TrainingLine
	write := func(t *template, language, author, id, label string) {
		h := fnv.New64a()
		_, _ = fmt.Fprintf(h, "line %s %s", split, id) // never fails
		r := rand.New(rand.NewPCG(seed, h.Sum64()))    //nolint:gosec // made-up data that must be the same again
		w := &writer{noise: r, level: typed, short: d.talk[language].Short}
		for i := range variants {
			text := t.render(r, d.filler(r, language, split, &couples[r.IntN(len(couples))]))
			if i > 0 {
				text = w.text(text)
			}
			out = append(out, TrainingLine{Text: text, Labels: []string{label}, Author: author, Split: split, Language: language})
		}
	}
	for _, a := range d.risk {
		for _, label := range grooming.Labels() {
			for _, w := range a.wordings[label] {
				if a.split == split {
					write(w.template, a.language, a.name, w.id, label)
				}
			}
		}
	}
	for _, a := range d.harmless {
		for _, label := range grooming.Labels() {
			for _, w := range a.wordings[label] {
				if a.split == split {
					write(w.template, a.language, a.name, "harmless "+w.id, grooming.HarmlessLabel)
				}
			}
		}
	}
	for _, s := range d.negatives {
		for i, l := range s.lines {
			if s.split == split {
				write(l.template, s.language, s.author, fmt.Sprintf("%s/%d", s.id, i), grooming.HarmlessLabel)
			}
		}
	}
	return out
}

// ruleWritten is how often a phrase of a rule is written at most.
const ruleWritten = 6

// RuleLines returns wordings that the rules of packs know, by file name, with
// their labels: the plainest there are, which authors who are to differ hardly
// write. Frames, allow-cues and concepts are no wordings, and packs of no language
// that there is small talk in have none.
func (d *Data) RuleLines(seed uint64, packs map[string][]byte) ([]TrainingLine, error) {
	var out []TrainingLine
	for _, name := range sortedKeys(packs) {
		var pack struct {
			Language string `yaml:"language"`
			Rules    []struct {
				Label   string   `yaml:"label"`
				Phrases []string `yaml:"phrases"`
			} `yaml:"rules"`
		}
		if err := yaml.Unmarshal(packs[name], &pack); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		talk := d.talk[pack.Language]
		if talk == nil {
			continue
		}
		for _, rule := range pack.Rules {
			for _, phrase := range rule.Phrases {
				t, err := parseTemplate(strings.ReplaceAll(phrase, "*", ""))
				if err == nil && len(t.slots()) > 0 {
					err = fmt.Errorf("phrase %q: rules have no slots", phrase)
				}
				if err != nil {
					return nil, fmt.Errorf("%s: %w", name, err)
				}
				h := fnv.New64a()
				_, _ = fmt.Fprintf(h, "rule %s %s", name, phrase) // never fails
				r := rand.New(rand.NewPCG(seed, h.Sum64()))       //nolint:gosec // made-up data that must be the same again
				w := &writer{noise: r, level: typed, short: talk.Short}
				written := map[string]bool{}
				for i := range ruleWritten {
					text := t.render(r, nil)
					if i >= ruleWritten/2 {
						text = w.text(text)
					}
					if written[text] {
						continue
					}
					written[text] = true
					out = append(out, TrainingLine{Text: text, Labels: []string{rule.Label}, Author: "rules", Split: Train, Language: pack.Language})
				}
			}
		}
	}
	return out, nil
}

// TalkMessages returns the small talk of a split as messages, each exchange a
// conversation of its own: everyday messages to train on, in every language.
func (d *Data) TalkMessages(split Split) []*pipeline.Message {
	var out []*pipeline.Message
	n := 0
	add := func(language string, lines []string) {
		id := fmt.Sprintf("talk-%s-%s-%d", split, language, n)
		n++
		for i, line := range lines {
			from, to := "a", "b"
			if i%2 == 1 {
				from, to = to, from
			}
			out = append(out, &pipeline.Message{
				ID: fmt.Sprintf("%s/%d", id, i), ConversationID: id, SentAt: firstDay.Add(time.Duration(n)*time.Hour + time.Duration(i)*time.Minute),
				Sender: pipeline.Party{ID: id + "/" + from}, Recipients: []pipeline.Party{{ID: id + "/" + to}}, Text: pipeline.NewText(line),
			})
		}
	}
	for _, language := range d.Languages() {
		t := d.talk[language]
		for _, lines := range t.small(split) {
			add(language, lines)
		}
		for _, line := range t.Openers.of(split) {
			add(language, []string{line})
		}
		for _, persona := range personas {
			for _, line := range t.Replies[persona].of(split) {
				add(language, []string{line})
			}
		}
	}
	for _, f := range d.everyday {
		for _, lines := range f.Small {
			if f.Split == split {
				add(f.Language, lines)
			}
		}
	}
	return out
}
