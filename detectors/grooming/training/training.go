// Package training makes the message model of the grooming detector from texts
// with labels and from everyday messages.
//
// The model is a bag of hashed features, words, pairs of them and runs of
// characters as in Joulin and others 2016 ("Bag of Tricks for Efficient Text
// Classification"), with the ideas of the rule packs beside them, which are the
// same in every language, and a logistic regression over them for each label,
// made by AdaGrad (Duchi and others 2011). Weights are drawn to nothing and
// features left out at random, so that what many wordings share counts and what
// one has does not. Beside the labels one column learns what uses their words to
// a harmless end, and one what speaks for any label. After training the weights
// are rounded into the table that [grooming.MessageModel] is, and how rare a
// score is is measured on benign messages that were not trained on.
//
// The same data, settings and seed give the same file, bit for bit, on every
// processor: one thread, no iteration over maps, each product rounded before it
// is added, no function of package math whose last bit may differ.
//
// What it does not do: it has no texts of its own, makes none, and cannot tell
// whether those it is given are like what people write. What it reports on
// made-up texts says nothing about real ones.
package training

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/dmguard/dmguard/detectors/grooming"
)

// Config are the settings of a training.
type Config struct {
	// Rules is a detector whose rule packs say which ideas texts have; nil for
	// none. The model is to be read with the same packs.
	Rules *grooming.Detector

	Seed         uint64
	Bits         int     // the table has 1<<Bits rows
	Epochs       int     // how often each text is seen
	LearningRate float64 // at the start; it falls to nothing
	Decay        float64 // how strongly weights are drawn to nothing
	Least        int     // a text counts as having this many features at least
	MinCount     int     // a feature that is seen less often has no row

	// Mixed is the share of texts with a label that are seen together with a
	// benign one, as they would stand in a longer message.
	Mixed float64

	// Dropped is the share of the features of a text that are left out each time
	// it is seen.
	Dropped float64

	// Progress, where it is set, is called now and then with the texts that were
	// seen of how many.
	Progress func(done, total int64)
}

// DefaultConfig returns the settings that knew most phrases of authors that were
// held out of training on the others.
func DefaultConfig() Config {
	return Config{Seed: 1, Bits: 18, Epochs: 4, LearningRate: 0.3, Decay: 0.001, Least: 100, MinCount: 3, Mixed: 0.3, Dropped: 0.1}
}

func (c *Config) validate() error {
	var errs []error
	within := func(name string, v, low, high int) {
		if v < low || v > high {
			errs = append(errs, fmt.Errorf("%s is %d: it is %d to %d", name, v, low, high))
		}
	}
	within("bits", c.Bits, 8, 18)
	within("epochs", c.Epochs, 1, 1000)
	within("least", c.Least, 1, 1024)
	within("min count", c.MinCount, 1, 1<<20)
	if !(c.LearningRate > 0 && c.LearningRate <= 100) {
		errs = append(errs, fmt.Errorf("learning rate is %v: it is above 0 and at most 100", c.LearningRate))
	}
	if !(c.Decay >= 0 && c.Decay <= 1) {
		errs = append(errs, fmt.Errorf("decay is %v: it is 0 to 1", c.Decay))
	}
	if !(c.Mixed >= 0 && c.Mixed <= 1) {
		errs = append(errs, fmt.Errorf("mixed is %v: it is 0 to 1", c.Mixed))
	}
	if !(c.Dropped >= 0 && c.Dropped < 1) {
		errs = append(errs, fmt.Errorf("dropped is %v: it is at least 0 and below 1", c.Dropped))
	}
	return errors.Join(errs...)
}

// columns is how many columns are trained: the labels, harmless texts, and texts
// with any label. Which one it is is often harder to say than that it is one:
// what is learnt of the last counts beside each label, in the same table.
const (
	labels   = grooming.ModelColumns - 2
	harmless = labels
	anyLabel = labels + 1
	columns  = labels + 2
)

// example is one text to learn from, as features that have a row.
type example struct {
	first, last int    // in network.features
	labels      uint16 // of the text, and anyLabel where it has one
}

// network is the model while it is trained.
type network struct {
	cfg      Config
	rng      *rand.PCG
	checks   []uint16 // by row; 0 where it is not used
	features []uint32 // rows of all examples, one after the other
	examples []example
	benign   []int // indices of examples without a label

	weights []float32 // columns of them for each row
	speed   []float32 // how far each was moved so far, squared (AdaGrad, Duchi and others 2011)
	bias    [columns]float32

	mixed, left []uint32
}

// fit trains on the texts of the training split.
func fit(ctx context.Context, cfg Config, corpora []*Corpus) (*network, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("settings of training: %w", err)
	}
	n := &network{cfg: cfg, rng: rand.NewPCG(cfg.Seed, 0x6d6f64656c)}
	n.choose(corpora)
	n.gather(corpora)
	if len(n.examples) == len(n.benign) || len(n.benign) == 0 {
		return nil, errors.New("training needs texts with labels and texts without")
	}
	n.weights = make([]float32, len(n.checks)*columns)
	n.speed = make([]float32, len(n.weights))
	for i := range n.speed {
		n.speed[i] = firstSpeed
	}

	order := make([]int, len(n.examples))
	for i := range order {
		order[i] = i
	}
	total := int64(len(order)) * int64(cfg.Epochs)
	done := int64(0)
	for range cfg.Epochs {
		for i := len(order) - 1; i > 0; i-- {
			j := n.intn(i + 1)
			order[i], order[j] = order[j], order[i]
		}
		for _, i := range order {
			if done%1024 == 0 {
				if err := ctx.Err(); err != nil {
					return nil, err
				}
				if cfg.Progress != nil {
					cfg.Progress(done, total)
				}
			}
			rate := float32(cfg.LearningRate) * float32(float32(total-done)/float32(total))
			n.learn(&n.examples[i], rate)
			done++
		}
	}
	return n, nil
}

// intn returns a number below n. The tiny bias of the remainder does not matter,
// that it never changes does.
func (n *network) intn(limit int) int { return int(n.rng.Uint64() % uint64(limit)) }

// choose gives rows to features: of those that fall into one row to that which
// is seen most often, texts with labels counting as much in all as those without.
func (n *network) choose(corpora []*Corpus) {
	counts := map[uint64]uint32{}
	with, without := 0, 0
	n.each(corpora, func(t *Text, _ []uint64, first bool) {
		switch {
		case !first:
		case t.Labels != 0:
			with++
		default:
			without++
		}
	})
	weight := uint32(max(1, min(64, without/max(1, with))))
	n.each(corpora, func(t *Text, hashes []uint64, _ bool) {
		for _, h := range hashes {
			if t.Labels != 0 {
				counts[h] += weight
			} else {
				counts[h]++
			}
		}
	})
	type holder struct {
		hash  uint64
		count uint32
	}
	rows := make([]holder, 1<<n.cfg.Bits)
	n.checks = make([]uint16, len(rows))
	n.each(corpora, func(_ *Text, hashes []uint64, _ bool) {
		for _, h := range hashes {
			c := counts[h]
			row, check := grooming.Slot(h, n.cfg.Bits)
			if o := &rows[row]; int(c) >= n.cfg.MinCount && (c > o.count || c == o.count && h < o.hash) {
				*o = holder{h, c}
				n.checks[row] = check
			}
		}
	})
}

// gather reads the training texts as rows. A long text without a label is one
// example for every two blocks, as the model will judge it; of one with labels
// nobody knows where they are meant, so it is one.
func (n *network) gather(corpora []*Corpus) {
	for _, c := range corpora {
		from := len(n.examples)
		var at *Text
		blocks := 0
		n.each([]*Corpus{c}, func(t *Text, hashes []uint64, first bool) {
			if first || t != at {
				at, blocks = t, 0
			}
			if blocks == 0 || t.Labels == 0 && blocks%2 == 0 {
				wanted := t.Labels
				if t.Labels&(1<<labels-1) != 0 {
					wanted |= 1 << anyLabel
				}
				n.examples = append(n.examples, example{len(n.features), len(n.features), wanted})
				if t.Labels == 0 {
					n.benign = append(n.benign, len(n.examples)-1)
				}
			}
			blocks++
			for _, h := range hashes {
				if row, check := grooming.Slot(h, n.cfg.Bits); n.checks[row] == check {
					n.features = append(n.features, row)
				}
			}
			n.examples[len(n.examples)-1].last = len(n.features)
		})
		once := n.examples[from:]
		for range c.Repeat - 1 {
			n.examples = append(n.examples, once...)
		}
	}
}

// each calls f with every block of the training texts, in order.
func (n *network) each(corpora []*Corpus, f func(t *Text, hashes []uint64, first bool)) {
	x := &grooming.Extractor{}
	if n.cfg.Rules != nil {
		x = n.cfg.Rules.Extractor()
	}
	for _, c := range corpora {
		for i := range c.Texts {
			t := &c.Texts[i]
			if t.Split != Train {
				continue
			}
			first := true
			x.Blocks(t.Text, func(hashes []uint64) {
				f(t, hashes, first)
				first = false
			})
		}
	}
}

// seen returns the rows of an example, now and then with those of a benign one.
// Without that a text would be told by how short it is, and by what it lacks.
func (n *network) seen(e *example) []uint32 {
	rows := n.features[e.first:e.last]
	if e.labels == 0 || float64(n.intn(1<<20)) >= n.cfg.Mixed*(1<<20) {
		return n.drop(rows)
	}
	b := &n.examples[n.benign[n.intn(len(n.benign))]]
	n.mixed = append(append(n.mixed[:0], rows...), n.features[b.first:b.last]...)
	return n.drop(n.mixed)
}

// drop leaves out some of the rows, so that no feature is relied on alone.
func (n *network) drop(rows []uint32) []uint32 {
	if n.cfg.Dropped == 0 {
		return rows
	}
	n.left = n.left[:0]
	limit := uint32(n.cfg.Dropped * (1 << 16))
	var bits uint64
	for i, r := range rows {
		if i%4 == 0 {
			bits = n.rng.Uint64()
		}
		if uint32(uint16(bits)) >= limit {
			n.left = append(n.left, r)
		}
		bits >>= 16
	}
	return n.left
}

const (
	// firstSpeed keeps the first text that has a feature from deciding about it.
	firstSpeed = 1e-2
	// settled is an error so small that nothing is learnt from it.
	settled = 1.0 / 512
)

// learn makes one step towards what an example says.
func (n *network) learn(e *example, rate float32) {
	rows := n.seen(e)
	if len(rows) == 0 {
		return
	}
	var sums, missing [columns]float32
	for _, r := range rows {
		w := (*[columns]float32)(n.weights[int(r)*columns:])
		for l, x := range w {
			sums[l] += x
		}
	}
	length := 1 / root(float32(max(len(rows), n.cfg.Least)))
	decay := float32(n.cfg.Decay)
	var wrong [columns]int
	k := 0
	for l := range columns {
		want := float32(e.labels >> l & 1)
		missing[l] = want - sigmoid(n.bias[l]+float32(sums[l]*length))
		if missing[l] < settled && missing[l] > -settled {
			continue
		}
		n.bias[l] += float32(float32(rate*biasRate) * missing[l])
		missing[l] *= length
		wrong[k] = l
		k++
	}
	for _, r := range rows {
		w, v := (*[columns]float32)(n.weights[int(r)*columns:]), (*[columns]float32)(n.speed[int(r)*columns:])
		for _, l := range wrong[:k] {
			g := missing[l] - float32(decay*w[l])
			v[l] += float32(g * g)
			w[l] += float32(float32(rate*g) / root(v[l]))
		}
	}
}

// biasRate is how much slower a bias moves than weights.
const biasRate = 0.05

// table returns what the row of a feature adds to each label and to harmless.
func (n *network) table(row uint32) [anyLabel]float32 {
	return together((*[columns]float32)(n.weights[int(row)*columns:]))
}

// together adds what speaks for any label to what speaks for each.
func together(w *[columns]float32) (out [anyLabel]float32) {
	copy(out[:], w[:])
	for l := range labels {
		out[l] += w[anyLabel]
	}
	return out
}

// flatten makes rows of one byte a label of the network.
func (n *network) flatten(h *grooming.ModelHeader) []grooming.ModelRow {
	h.Bits, h.Least = n.cfg.Bits, n.cfg.Least
	bias := together(&n.bias)
	copy(h.Bias[:], bias[:])
	for row, check := range n.checks {
		if check == 0 {
			continue
		}
		for l, x := range n.table(uint32(row)) {
			h.Scale[l] = max(h.Scale[l], x, -x)
		}
	}
	for l := range anyLabel {
		h.Scale[l] /= 127
	}
	var rows []grooming.ModelRow
	for row, check := range n.checks {
		if check == 0 {
			continue
		}
		r := grooming.ModelRow{Row: uint32(row), Check: check}
		for l, x := range n.table(uint32(row)) {
			if h.Scale[l] > 0 {
				r.Weights[l] = nearest(x / h.Scale[l])
			}
		}
		if r.Weights != ([grooming.ModelColumns]int8{}) {
			rows = append(rows, r)
		}
	}
	return slices.Clip(rows)
}
