package evaluation

import (
	"context"
	"errors"
	"fmt"

	"github.com/dmguard/dmguard/pipeline"
)

// checkFile holds functional tests: pairs that differ in one respect, of which
// one speaks for its label and the other does not.
type checkFile struct {
	Functionalities []struct {
		Name  string      `yaml:"name"`
		Split Split       `yaml:"split"`
		Says  string      `yaml:"says"` // what it shows, in a sentence
		Pairs []checkPair `yaml:"pairs"`
	} `yaml:"functionalities"`
}

// checkPair is a short line that must be noticed and its twin that must not be.
type checkPair struct {
	Label  string `yaml:"label"`
	Risk   string `yaml:"risk"`
	Benign string `yaml:"benign"`
	Family string `yaml:"family"` // how the risky line is disguised
}

type functionality struct {
	name, says string
	split      Split
	pairs      []checkPair
}

func (d *Data) addChecks(f *checkFile) error {
	var errs []error
	for _, c := range f.Functionalities {
		if c.Name == "" || !c.Split.valid() || c.Says == "" || len(c.Pairs) == 0 {
			errs = append(errs, fmt.Errorf("functionality %q needs name, split, says and pairs", c.Name))
		}
		for i, p := range c.Pairs {
			if p.Label == "" || p.Risk == "" || p.Benign == "" || p.Family != "" && familyOf(p.Family) == nil {
				errs = append(errs, fmt.Errorf("functionality %q: pair %d needs label, risk and benign, and a family that exists if any", c.Name, i+1))
			}
		}
		d.checks = append(d.checks, &functionality{c.Name, c.Says, c.Split, c.Pairs})
	}
	return errors.Join(errs...)
}

// Check is how one functionality came out.
type Check struct {
	Name    string `json:"name"`
	Says    string `json:"says"`
	Split   Split  `json:"split"`
	Noticed Rate   `json:"noticed"` // risky lines in which the label was found
	Left    Rate   `json:"left"`    // harmless twins in which it was not, or less than half as strongly
	Passed  Rate   `json:"passed"`  // pairs with both
}

// groomCheck runs every functional test. It is about single lines: whether the
// detector tells the two of a pair apart, not whether it alerts.
func groomCheck(ctx context.Context, det pipeline.Detector, d *Data, seed uint64) ([]Check, error) {
	var out []Check
	for _, f := range d.checks {
		noticed, left, passed := 0, 0, 0
		for i, p := range f.pairs {
			risk := p.Risk
			if fam := familyOf(p.Family); fam != nil {
				g := Generator{opt: Options{Seed: seed}}
				risk = fam.apply(g.random(i, f.name), risk)
			}
			hit, err := cue(ctx, det, risk, p.Label)
			if err != nil {
				return nil, err
			}
			twin, err := cue(ctx, det, p.Benign, p.Label)
			if err != nil {
				return nil, err
			}
			if hit > 0 {
				noticed++
			}
			if twin == 0 || twin < hit/2 {
				left++
				if hit > 0 {
					passed++
				}
			}
		}
		n := len(f.pairs)
		out = append(out, Check{f.name, f.says, f.split, rate(noticed, n), rate(left, n), rate(passed, n)})
	}
	return out, nil
}

// cue returns how strongly the detector finds the label in a line by itself.
func cue(ctx context.Context, det pipeline.Detector, text, label string) (float64, error) {
	a, err := det.Detect(ctx, &pipeline.Item{Message: &pipeline.Message{
		ID: "m", ConversationID: "c", Sender: pipeline.Party{ID: "a"}, Recipients: []pipeline.Party{{ID: "b"}}, Text: pipeline.NewText(text),
	}})
	strongest := 0.
	for i := range a.Findings {
		if a.Findings[i].Label == label {
			strongest = max(strongest, a.Findings[i].Score)
		}
	}
	return strongest, err
}
