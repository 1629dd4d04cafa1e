package training

import (
	"context"
	"fmt"
	"slices"

	"github.com/dmguard/dmguard/detectors/grooming"
)

// Model trains a model, calibrates it and returns its file, and how it does on
// the texts of the test split.
func Model(ctx context.Context, cfg Config, corpora []*Corpus) ([]byte, *Summary, error) {
	n, err := fit(ctx, cfg, corpora)
	if err != nil {
		return nil, nil, err
	}
	h := &grooming.ModelHeader{Training: grooming.Training{
		Seed: cfg.Seed, Epochs: cfg.Epochs, LearningRate: cfg.LearningRate, Decay: cfg.Decay,
		MinCount: cfg.MinCount, Mixed: cfg.Mixed, Dropped: cfg.Dropped, Messages: len(n.examples),
	}}
	if cfg.Rules != nil {
		h.Ideas = cfg.Rules.Ideas()
	}
	for _, c := range corpora {
		h.Data = append(h.Data, grooming.DataSource{Name: c.Name, Licence: c.Licence, SHA256: c.SHA256, Texts: len(c.Texts)})
	}
	rows := n.flatten(h)
	h.Calibration.Tails = make([][]float32, labels)
	file, err := h.Encode(rows)
	if err != nil {
		return nil, nil, err
	}
	m, err := grooming.LoadModel(file)
	if err != nil {
		return nil, nil, err
	}
	if err := calibrate(ctx, m, cfg.Rules, corpora, &h.Calibration); err != nil {
		return nil, nil, err
	}
	if file, err = h.Encode(rows); err != nil {
		return nil, nil, err
	}
	if m, err = grooming.LoadModel(file); err != nil {
		return nil, nil, err
	}
	s, err := summarise(ctx, m, cfg.Rules, corpora)
	if err != nil {
		return nil, nil, err
	}
	s.File, s.Rows, s.Messages = len(file), len(rows), len(n.examples)
	return file, s, nil
}

// minCalibration is how many messages a corpus needs to speak for itself. What
// smaller ones hold counts together.
const minCalibration = 1000

// calibrate measures how often benign messages of the calibration split reach a
// score. Each corpus is measured by itself and the one that reaches a score most
// often counts, since traffic may be like any of them. A tail of one in n needs
// n messages at least: (k+1)/(n+1) is the estimate where k of n reach a score.
func calibrate(ctx context.Context, m *grooming.MessageModel, rules *grooming.Detector, corpora []*Corpus, c *grooming.Calibration) error {
	type group struct {
		name   string
		scores [labels][]float32
	}
	rest := &group{name: "others"}
	var groups []*group
	for _, corpus := range corpora {
		if !corpus.Everyday {
			continue
		}
		g := &group{name: corpus.Name}
		for i := range corpus.Texts {
			t := &corpus.Texts[i]
			if t.Split != Calibration {
				continue
			}
			if i%1024 == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			for l, s := range m.Scores(t.Text, rules) {
				if l < labels {
					g.scores[l] = append(g.scores[l], s)
				}
			}
		}
		if len(g.scores[0]) >= minCalibration {
			groups = append(groups, g)
			continue
		}
		for l := range rest.scores {
			rest.scores[l] = append(rest.scores[l], g.scores[l]...)
		}
	}
	if n := len(rest.scores[0]); n >= minCalibration || len(groups) == 0 && n > 0 {
		groups = append(groups, rest)
	}
	if len(groups) == 0 {
		return fmt.Errorf("no benign messages to calibrate on: training needs everyday messages")
	}
	for _, g := range groups {
		c.Messages = append(c.Messages, grooming.CorpusSize{Name: g.name, Messages: len(g.scores[0])})
		for l := range g.scores {
			slices.Sort(g.scores[l])
		}
	}
	for l := range labels {
		c.Tails[l] = []float32{}
		for _, p := range tails {
			threshold, ok := float32(0), true
			for i, g := range groups {
				t, attained := tail(g.scores[l], p)
				if ok = ok && attained; !ok {
					break
				}
				if i == 0 || t > threshold {
					threshold = t
				}
			}
			if !ok {
				break
			}
			if n := len(c.Tails[l]); n > 0 {
				threshold = max(threshold, c.Tails[l][n-1])
			}
			c.Tails[l] = append(c.Tails[l], threshold)
		}
	}
	return nil
}
