// Package grooming follows how a conversation develops and tells when one of
// its members behaves as people do who groom children: asking about age, school
// and supervision, asking for secrecy, setting a child apart, flattering it as
// mature, moving to another platform, offering gifts, asking for pictures or to
// meet, pressing.
//
// A message is folded ([view]: look-alikes, invisible characters, stretched and
// disguised writing), searched in one pass for the wordings of the rule packs and
// for the ideas that their frames join whatever the words (in a second one where
// it looks disguised, with its words repaired), read by a trained [MessageModel]
// where there is one, for wordings that no rule has and for how harmless they
// read, and what it says is added to the conversation's state, per sender, where
// it fades with time and with messages. The risk of a conversation is the greatest
// of its senders'. No single cue raises an
// alert, and account data never do by themselves. User names, links, addresses
// and numbers are known by their form and make a wish to go on elsewhere
// stronger; an age under 18 that somebody states counts a little where the
// platform knows none. Both are named by their kind and never shown.
//
// Every cue is a finding that supports; when the risk rises into a higher band
// than was alerted before, one finding without a label asks for action. Nothing
// is kept of a conversation in which nothing was found, and never a text.
//
// What it does not do: it knows the wordings of its packs and of the texts that
// its model was trained on, and variants of them, not what was meant; weights and
// thresholds are set by hand and were
// held to made-up conversations and everyday chat, not to real cases; it does
// not look at pictures, and not at who is a child beyond the ages that a
// platform supplies.
package grooming

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dmguard/dmguard/pipeline"
)

// Name is the name of the detector, and the category of its findings.
const Name = "grooming"

// Config are the settings of the detector.
type Config struct {
	// Review and High are the risks, above 0 and below 1, from which a
	// conversation is alerted, and alerted again.
	Review float64 `yaml:"review"`
	High   float64 `yaml:"high"`

	// HalfLife is how long evidence takes to count half, in the time of the
	// conversation.
	HalfLife time.Duration `yaml:"half_life"`

	// Packs are files of rule packs beside those that come with the program.
	// Whoever calls [New] has read them.
	Packs []string `yaml:"packs"`

	// Model is the file of the message model: "" for the one that comes with the
	// program, if there is one, and "none" for the rules alone. Who calls [New]
	// reads it.
	Model string `yaml:"model"`
}

// NoModel is the value of [Config.Model] for the rules alone.
const NoModel = "none"

// DefaultConfig returns the settings that the tests hold.
func DefaultConfig() Config {
	return Config{Review: 0.7, High: 0.9, HalfLife: 30 * 24 * time.Hour}
}

func (c *Config) validate() error {
	var errs []error
	if !(c.Review > 0 && c.Review < c.High && c.High < 1) {
		errs = append(errs, fmt.Errorf("review (%v) and high (%v) must rise between 0 and 1", c.Review, c.High))
	}
	if c.HalfLife < time.Hour || c.HalfLife > 10*365*24*time.Hour {
		errs = append(errs, fmt.Errorf("half_life is %v: it is 1h to 87600h", c.HalfLife))
	}
	return errors.Join(errs...)
}

// Detector implements [pipeline.Detector]. It is immutable.
type Detector struct {
	lexicon *lexicon
	packs   string        // names and digests of what the lexicon was made of
	reader  *MessageModel // nil for none
	model   model
	version string
	memory  sync.Pool // of *memory
}

// memory is what one Detect needs, reused.
type memory struct {
	scratch scratch
	state   state
}

// New compiles rule packs, by file name, and reports every fault in them with
// its line. The order of packs does not matter. The detector has no message
// model: see [Detector.With].
func New(cfg Config, packs map[string][]byte) (*Detector, error) {
	return (*Detector)(nil).Renew(cfg, packs)
}

// Renew is [New] for who has a detector already, d, or nil: where its packs are
// these, they are not compiled again, which takes a third of a second.
func (d *Detector) Renew(cfg Config, packs map[string][]byte) (*Detector, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("grooming: %w", err)
	}
	if len(packs) == 0 {
		return nil, errors.New("grooming: no rule pack")
	}
	readings() // so that no message waits for it
	n := &Detector{
		packs: namesAndDigests(packs),
		model: model{bias: rulesBias, halfLife: cfg.HalfLife.Seconds(), bands: [bands]float64{cfg.Review, cfg.High}},
	}
	n.version = version(cfg, n.packs)
	n.memory.New = func() any { return new(memory) }
	if d != nil && d.packs == n.packs {
		n.lexicon = d.lexicon
		return n, nil
	}
	var err error
	if n.lexicon, err = loadPacks(packs); err != nil {
		return nil, fmt.Errorf("grooming: reading rule packs: %w", err)
	}
	return n, nil
}

// With returns the same detector with a message model, nil for none.
func (d *Detector) With(m *MessageModel) *Detector {
	n := &Detector{lexicon: d.lexicon, packs: d.packs, reader: m, model: d.model, version: d.version}
	n.memory.New = func() any { return new(memory) }
	n.version, _, _ = strings.Cut(d.version, "+")
	n.model.bias = rulesBias
	if m != nil {
		n.version += "+" + m.Digest()[:16]
		n.model.bias = readBias
	}
	return n
}

// Ideas returns the names of what the rule packs know by name, concepts and
// classes of words, sorted: what a message model can learn from beside words and
// letters.
func (d *Detector) Ideas() []string { return slices.Clone(d.lexicon.ideas) }

// Lacks returns the names of the ideas that the message model was trained with
// and the rule packs do not have: without them it sees less.
func (d *Detector) Lacks() (names []string) {
	if d.reader == nil {
		return nil
	}
	for _, name := range d.reader.header.Ideas {
		if _, ok := slices.BinarySearch(d.lexicon.ideas, name); !ok {
			names = append(names, name)
		}
	}
	return names
}

// engine changes with what is built in and changes verdicts: the folding, the
// constants of the model, the state.
const engine = "6"

func version(cfg Config, packs string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %v %v %v\n%s", engine, cfg.Review, cfg.High, cfg.HalfLife, packs))
	return engine + "-" + hex.EncodeToString(sum[:8])
}

func namesAndDigests(packs map[string][]byte) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(packs)) {
		fmt.Fprintf(&b, "%q %x\n", name, sha256.Sum256(packs[name]))
	}
	return b.String()
}

// Version names packs, settings and built-in constants: equal versions give
// equal answers.
func (d *Detector) Version() string { return d.version }

// Name implements [pipeline.Detector].
func (*Detector) Name() string { return Name }

// Detect implements [pipeline.Detector]. Its work is bounded by the length of
// the text. It never fails.
func (d *Detector) Detect(_ context.Context, it *pipeline.Item) (pipeline.Answer, error) {
	mem, _ := d.memory.Get().(*memory)
	defer d.memory.Put(mem)
	s, m := &mem.state, it.Message
	s.decode(it.State(Name))
	at := m.SentAt.Unix()

	text := m.Text.Reveal()
	d.lexicon.scan(text, &mem.scratch)
	if d.reader != nil {
		d.reader.read(&mem.scratch)
	}
	mem.scratch.single()
	mem.scratch.strengthen()
	cues := &mem.scratch.cues
	found := 0
	for l := range cues {
		found += min(1, cues[l].n)
	}
	if found == 0 && len(s.directions) == 0 {
		return pipeline.Answer{Risk: d.model.conversation(s, at)}, nil
	}
	if age, _, _ := mem.scratch.folded.statedAge(); age > 0 && !it.Repeat {
		s.states(hashID(m.Sender.ID), age)
	}
	if found == 0 {
		if it.Repeat {
			return pipeline.Answer{Risk: d.model.conversation(s, at)}, nil
		}
		s.pass()
		return pipeline.Answer{Risk: d.model.conversation(s, at), State: s.encode()}, nil
	}

	findings := make([]pipeline.Finding, 0, found+1)
	for l := range cues {
		if c := &cues[l]; c.n > 0 {
			findings = append(findings, d.cueFinding(label(l), c))
		}
	}
	if it.Repeat || s.holds(m.ID) {
		return pipeline.Answer{Findings: findings, Risk: d.model.conversation(s, at)}, nil
	}

	e := d.event(it, s, cues, at)
	step(s, &e, &d.model)
	risk := d.model.conversation(s, at)
	if band := d.model.band(risk); band > s.alerted {
		s.alerted = band
		findings = d.alert(findings, s, at, m.ID)
	}
	return pipeline.Answer{Findings: findings, Risk: risk, State: s.encode()}, nil
}

// event makes of a message what the state takes in.
func (d *Detector) event(it *pipeline.Item, s *state, cues *[labels]cue, at int64) event {
	m := it.Message
	e := event{id: m.ID, sender: hashID(m.Sender.ID), at: at, partition: it.Position.Partition}
	e.prior = prior(m, s.youngestBut(e.sender))
	e.evidence.id = []byte(m.ID)
	var order [labels]label
	for l := range cues {
		e.weights[l] = cues[l].weight
		order[l] = label(l)
	}
	slices.SortStableFunc(order[:], func(a, b label) int {
		return cmp.Compare(cues[b].weight, cues[a].weight)
	})
	for _, l := range order[:maxItems] {
		if c := &cues[l]; c.n > 0 {
			e.evidence.items[e.evidence.n] = item{l, uint8(math.Round(score(c.weight) * 255)), c.spans[0]}
			e.evidence.n++
		}
	}
	recent := it.Recent[max(0, len(it.Recent)-pipeline.RecentMessages):]
	e.evidence.offsets = uint8(copy(e.evidence.context[:], recent))
	e.evidence.context[e.evidence.offsets] = it.Position.Offset
	e.evidence.offsets++
	return e
}

// score maps the weight of a cue to 0…1: how telling the wording is, not how
// probable anything.
func score(weight float32) float64 { return min(1, float64(weight)/maxWeight) }

func (d *Detector) cueFinding(l label, c *cue) pipeline.Finding {
	var because []string
	if c.rule != noRule {
		because = append(because, "rule "+d.lexicon.rules[c.rule].id)
	}
	switch {
	case c.read && c.bans > 0:
		because = append(because, fmt.Sprintf("message model: at most one in %.0f everyday messages reads so much like it", math.Floor(math.Pow(10, c.bans)+1e-6)))
	case c.read:
		because = append(because, "message model")
	}
	reason := labelReasons[l] + " (" + strings.Join(because, "; ") + ")"
	if c.disguised {
		reason += ", in disguised writing"
	}
	if c.contact != noCapture {
		reason += ", with " + captureNames[c.contact]
	}
	f := pipeline.Finding{
		Category: Name, Label: l.String(), Score: score(c.weight), Reason: reason,
		Spans: make([]pipeline.Span, c.n), Supports: true,
	}
	for i, sp := range c.spans[:c.n] {
		f.Spans[i] = pipeline.Span{Start: sp.start, End: sp.end}
	}
	return f
}

// maxSupports is how many pieces of earlier evidence an alert carries.
const maxSupports = 8

// alert adds the finding that asks for action, and the earlier evidence that
// speaks for it.
func (d *Detector) alert(findings []pipeline.Finding, s *state, at int64, id string) []pipeline.Finding {
	who, risk := 0, -1.
	for i := range s.directions {
		if r := d.model.of(&s.directions[i], at, s.quiet); r > risk {
			who, risk = i, r
		}
	}
	findings = append(findings, pipeline.Finding{Category: Name, Score: risk, Reason: d.reason(s, &s.directions[who], at)})
	added := 0
	for i := range s.evidence {
		e := &s.evidence[i]
		if int(e.direction) != who || string(e.id) == id {
			continue
		}
		for _, it := range e.items[:e.n] {
			if added == maxSupports {
				return findings
			}
			added++
			findings = append(findings, pipeline.Finding{
				Category: Name, Label: it.label.String(), Score: float64(it.score) / 255,
				Reason:    labelReasons[it.label] + ", earlier",
				MessageID: string(e.id), Spans: []pipeline.Span{{Start: it.span.start, End: it.span.end}},
				Supports: true, Context: slices.Clone(e.context[:e.offsets]),
			})
		}
	}
	return findings
}

// reason says what the risk is made of, the strongest label first, and what it
// would be without that one.
func (d *Detector) reason(s *state, dir *direction, at int64) string {
	a := d.model.account(dir, at, s.quiet, labels)
	var found []label
	for l := range a.labels {
		if a.labels[l] > 0 {
			found = append(found, label(l))
		}
	}
	slices.SortStableFunc(found, func(x, y label) int { return cmp.Compare(a.labels[y], a.labels[x]) })
	messages := "1 message"
	if dir.messages != 1 {
		messages = fmt.Sprintf("%d messages", dir.messages)
	}
	without := d.model.account(dir, at, s.quiet, found[0])
	r := fmt.Sprintf("one sender, %s; log-odds %s; without %s the risk would be %.2f", messages, a.describe(found), found[0], d.model.risk(&without))
	if s.youngestBut(dir.sender) > 0 {
		r += "; another member stated an age under 18"
	}
	return r
}

// describe writes the entries of an account in tenths that add up: each is
// rounded together with those before it.
func (a *account) describe(found []label) string {
	sum, shown := 0., 0
	var parts []string
	add := func(what string, v float64) {
		sum += v
		before := shown
		shown = int(math.Round(sum * 10))
		if v != 0 {
			parts = append(parts, fmt.Sprintf("%s %+.1f", what, float64(shown-before)/10))
		}
	}
	add("to begin with", a.start)
	for _, l := range found {
		add(l.String(), a.labels[l])
	}
	add("in one message only", a.alone)
	add("nothing that strangers do not ask", a.everyday)
	add("account data", a.data)
	add("few messages", a.hasty)
	return fmt.Sprintf("%s, together %+.1f", strings.Join(parts, ", "), float64(shown)/10)
}

// hashID is FNV-1a, finished so that close ids differ in all bits.
func hashID(id string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(id) {
		h = (h ^ uint64(id[i])) * 1099511628211
	}
	h ^= h >> 32
	return h
}
