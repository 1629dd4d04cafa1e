package evaluation

import (
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/dmguard/dmguard/pipeline"
)

// Kind is what a conversation is.
type Kind string

// The kinds of conversations.
const (
	Risk     Kind = "risk"     // made up from the wordings of a risk author
	Negative Kind = "negative" // harmless, and close in words: see its scenario
	Talk     Kind = "talk"     // small talk
	Benign   Kind = "benign"   // from a corpus of everyday conversations
)

// Labels is what is known of a conversation.
type Labels struct {
	Conversation string     `json:"conversation"`
	Kind         Kind       `json:"kind"`
	Split        Split      `json:"split,omitempty"`
	Scenario     string     `json:"scenario,omitempty"` // of a harmless one
	Cohort       string     `json:"cohort,omitempty"`   // whom figures are told apart by
	Language     string     `json:"language,omitempty"`
	Switched     string     `json:"switched,omitempty"` // the other language that is mixed in
	Author       string     `json:"author,omitempty"`
	Persona      string     `json:"persona,omitempty"`  // how the other one answers
	Intents      []string   `json:"intents,omitempty"`  // in the order of their first turns
	Wordings     []string   `json:"wordings,omitempty"` // ids of phrases or scripts
	RiskTurns    []RiskTurn `json:"risk_turns,omitempty"`
	Obfuscation  string     `json:"obfuscation,omitempty"` // family, where risk turns are disguised
}

// RiskTurn is one turn that speaks for an intent. It may have been sent in parts.
type RiskTurn struct {
	Messages []string `json:"messages"` // ids
	Intent   string   `json:"intent"`
	Wording  string   `json:"wording"`
}

// Conversation is a sequence of messages and what is known of it.
type Conversation struct {
	Labels
	Messages []*pipeline.Message
}

// Mixed as [Options.Obfuscation] disguises some conversations, each in a family
// drawn for it.
const Mixed = "mixed"

// Options say what is generated. Equal options and data give equal conversations.
type Options struct {
	Seed      uint64
	Split     Split
	Languages []string // those of risk authors and scripts; empty for all
	Authors   []string // of the risk side; empty for all of the split

	// Obfuscation is "" for none, a family for every risk turn, or Mixed. All
	// else is as it is without: conversations can be compared one by one.
	Obfuscation string

	// Filler is talk from corpora, mixed in beside the small talk.
	Filler *Filler
}

// Generator makes conversations. It is immutable: any goroutine may ask it for
// any conversation.
type Generator struct {
	data    *Data
	opt     Options
	authors []*riskAuthor
	scenes  map[string]map[string][]*scene // by language, by scenario
	prefix  string
}

// NewGenerator checks that there is something to generate from.
func NewGenerator(d *Data, opt Options) (*Generator, error) {
	g := &Generator{data: d, opt: opt, scenes: map[string]map[string][]*scene{}, prefix: fmt.Sprintf("gen-%s-%d", opt.Split, opt.Seed)}
	if !opt.Split.valid() {
		return nil, fmt.Errorf("split is %q: it is train or test", opt.Split)
	}
	if opt.Obfuscation != "" && opt.Obfuscation != Mixed && !slices.Contains(Families(), opt.Obfuscation) {
		return nil, fmt.Errorf("obfuscation is %q: it is %s or one of %s", opt.Obfuscation, Mixed, strings.Join(Families(), ", "))
	}
	for _, l := range opt.Languages {
		if d.talk[l] == nil {
			return nil, fmt.Errorf("language is %q: there are %s", l, strings.Join(d.Languages(), ", "))
		}
	}
	wanted := func(language string) bool { return len(opt.Languages) == 0 || slices.Contains(opt.Languages, language) }
	for _, a := range d.risk {
		if a.split == opt.Split && wanted(a.language) && (len(opt.Authors) == 0 || slices.Contains(opt.Authors, a.name)) {
			g.authors = append(g.authors, a)
		}
	}
	slices.SortFunc(g.authors, func(a, b *riskAuthor) int { return cmp.Compare(a.name, b.name) })
	for _, s := range d.negatives {
		if s.split == opt.Split && wanted(s.language) {
			if g.scenes[s.language] == nil {
				g.scenes[s.language] = map[string][]*scene{}
			}
			g.scenes[s.language][s.scenario] = append(g.scenes[s.language][s.scenario], s)
		}
	}
	if len(g.authors) == 0 {
		return nil, errors.New("no risk author of that split and language")
	}
	if len(g.scenes) == 0 {
		return nil, errors.New("no scripts of that split and language")
	}
	return g, nil
}

// random returns the source of one concern of one conversation: what one draws
// changes nothing for the others.
func (g *Generator) random(number int, concern string) *rand.Rand {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%s %d %s", g.opt.Split, number, concern) // never fails
	return rand.New(rand.NewPCG(g.opt.Seed, h.Sum64()))             //nolint:gosec // made-up data that must be the same again
}

// Conversation makes the conversation of a number. Three in a row, of risk,
// negative and talk, have the same length, pace and language.
func (g *Generator) Conversation(number int) *Conversation {
	return g.conversation(number, kindOf(number), number/len(kinds), nil)
}

var kinds = []Kind{Risk, Negative, Talk}

func kindOf(number int) Kind { return kinds[number%len(kinds)] }

// Risk makes the first, third and so on of the risk conversations.
func (g *Generator) Risk(nth int) *Conversation { return g.conversation(3*nth, Risk, nth, nil) }

// Couple makes a conversation of a couple of the same age. Four in a row differ
// in nothing but who the two are. It is nil where nobody wrote any of that split.
func (g *Generator) Couple(number int) *Conversation {
	if !g.hasCouples() {
		return nil
	}
	nth := number / len(couples)
	return g.conversation(3*nth+1, Negative, nth, &couples[number%len(couples)])
}

func (g *Generator) hasCouples() bool {
	for _, scenarios := range g.scenes {
		if len(scenarios[coupleScenario]) > 0 {
			return true
		}
	}
	return false
}

// draft is a conversation in the making: turns without times and ids.
type draft struct {
	labels   Labels
	turns    []turn
	a, b     pipeline.Party
	shape    shape
	talkers  *rand.Rand
	language string
	said     map[string]int // small talk, by its first line
}

// turn is what one of the two says in one go.
type turn struct {
	byB     bool
	text    string
	intent  string
	wording string // of the phrase or script; "" for small talk
}

// shape is what twins have in common.
type shape struct {
	language string
	author   *riskAuthor
	turns    int
	marked   int // turns with a cue
	span     time.Duration
	start    time.Time
	noise    float64
	switched string
}

// firstDay is when made-up conversations begin.
var firstDay = time.Date(2026, 1, 5, 8, 0, 0, 0, time.UTC)

func (g *Generator) shape(number int) shape {
	r := g.random(number, "shape")
	s := shape{
		author: g.authors[r.IntN(len(g.authors))],
		turns:  int(math.Round(logUniform(r, 10, 200))),
		span:   time.Duration(logUniform(r, 2, 6*7*24) * float64(time.Hour)),
		start:  firstDay.Add(time.Duration(r.Int64N(int64(120 * 24 * time.Hour)))).Truncate(time.Second),
		noise:  r.Float64() * 0.3,
	}
	s.language = s.author.language
	s.marked = max(3, int(math.Round(logUniform(r, 0.03, 0.3)*float64(s.turns))))
	if others := g.data.Languages(); r.Float64() < 0.1 && len(others) > 1 {
		if l := others[r.IntN(len(others))]; l != s.language {
			s.switched = l
		}
	}
	return s
}

func logUniform(r *rand.Rand, low, high float64) float64 {
	return low * math.Pow(high/low, r.Float64())
}

func (g *Generator) conversation(number int, kind Kind, twin int, pair *couple) *Conversation {
	d := g.sketch(number, kind, twin, pair)
	family := g.family(d, g.random(number, "family"))
	return g.write(d, family, g.random(number, "noise"), g.random(number, "disguise"), g.random(number, "time"))
}

// draft makes what [Generator.Conversation] writes down.
func (g *Generator) draft(number int) *draft {
	return g.sketch(number, kindOf(number), number/len(kinds), nil)
}

func (g *Generator) sketch(number int, kind Kind, twin int, pair *couple) *draft {
	d := &draft{shape: g.shape(twin), talkers: g.random(number, "talk"), said: map[string]int{}}
	d.language = d.shape.language
	meta := g.random(number, "account")
	if kind != Risk && meta.Float64() < 0.3 { // harmless ones come in every language
		d.language = one(meta, sortedKeys(g.scenes))
	}
	if d.shape.switched == d.language {
		d.shape.switched = ""
	}
	d.labels = Labels{
		Conversation: fmt.Sprintf("%s-%d", g.prefix, number), Kind: kind, Split: g.opt.Split,
		Language: d.language, Switched: d.shape.switched,
	}
	switch kind {
	case Risk:
		g.plan(d, g.random(number, "plan"))
		d.a, d.b = riskParties(meta)
	case Negative:
		first := g.script(d, g.random(number, "plan"), pair)
		d.a, d.b = sceneParties(meta, first)
	default:
		g.chat(d, d.shape.turns)
		d.a, d.b = talkParties(meta)
	}
	return d
}

// family draws how risk turns are disguised, where they are.
func (g *Generator) family(d *draft, r *rand.Rand) *family {
	if d.labels.Kind != Risk || g.opt.Obfuscation == "" {
		return nil
	}
	f := g.opt.Obfuscation
	if f == Mixed {
		if r.Float64() >= 0.15 {
			return nil
		}
		f = Families()[r.IntN(len(families))]
	}
	d.labels.Obfuscation = f
	return familyOf(f)
}

// plan makes a risk conversation: turns of intents among small talk.
func (g *Generator) plan(d *draft, r *rand.Rand) {
	a := d.shape.author
	d.labels.Author = a.name
	d.labels.Persona = personas[r.IntN(len(personas))]
	intents := walkIntents(r, a, d.shape.marked)
	places := places(r, len(intents), d.shape.turns-len(intents)*2)
	used := map[*wording]int{}
	at := 0
	for i, intent := range intents {
		g.chat(d, places[i]-at)
		at = places[i]
		w := pick(r, a.wordings[intent], used)
		text := w.render(r, g.filler(r, a.language, nil))
		d.turns = append(d.turns, turn{text: text, intent: intent, wording: w.id})
		if !slices.Contains(d.labels.Intents, intent) {
			d.labels.Intents = append(d.labels.Intents, intent)
		}
		if !slices.Contains(d.labels.Wordings, w.id) {
			d.labels.Wordings = append(d.labels.Wordings, w.id)
		}
		if r.Float64() < 0.85 { // or no answer at all
			d.turns = append(d.turns, turn{byB: true, text: g.reply(r, d)})
		}
	}
	g.chat(d, d.shape.turns-len(d.turns))
}

// pick draws one of the wordings used least so far.
func pick[T comparable](r *rand.Rand, from []T, used map[T]int) T {
	least := math.MaxInt
	for _, w := range from {
		least = min(least, used[w])
	}
	var fresh []T
	for _, w := range from {
		if used[w] == least {
			fresh = append(fresh, w)
		}
	}
	w := fresh[r.IntN(len(fresh))]
	used[w]++
	return w
}

// places returns n rising numbers of turns, 0 to most, spread at random.
func places(r *rand.Rand, n, most int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = r.IntN(max(1, most+1))
	}
	slices.Sort(out)
	return out
}

func (g *Generator) reply(r *rand.Rand, d *draft) string {
	return one(r, g.data.talk[d.language].Replies[d.labels.Persona].of(g.opt.Split))
}

func one[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

// mostScenes is how many scripts one conversation holds at most: more of one
// scenario in a row is a life that nobody leads.
const mostScenes = 4

// script makes a harmless conversation of scripts of one scenario among small
// talk, and returns the first of them. A pair asks for a couple.
func (g *Generator) script(d *draft, r *rand.Rand, pair *couple) *scene {
	languages := sortedKeys(g.scenes)
	if pair != nil {
		languages = slices.DeleteFunc(languages, func(l string) bool { return len(g.scenes[l][coupleScenario]) == 0 })
	}
	if !slices.Contains(languages, d.language) { // nobody has written any in this language
		d.language = one(r, languages)
		d.labels.Language = d.language
	}
	from := g.scenes[d.language]
	scenario := one(r, sortedKeys(from))
	if pair != nil {
		scenario = coupleScenario
	}
	var picked []*scene
	used, lines := map[*scene]int{}, 0
	for len(picked) == 0 || lines < d.shape.marked && len(picked) < min(mostScenes, len(from[scenario])) {
		s := pick(r, from[scenario], used)
		picked = append(picked, s)
		lines += len(s.lines)
	}
	first := picked[0]
	d.labels.Scenario, d.labels.Author, d.labels.Persona = scenario, first.author, "scripted"
	if drawn := one(r, couples); first.couple && pair == nil {
		pair = &drawn
	}
	if first.couple {
		d.labels.Cohort = pair.name
	}
	places := places(r, len(picked), d.shape.turns-lines)
	at := 0
	for i, s := range picked {
		g.chat(d, places[i]-at)
		at = places[i]
		d.labels.Wordings = append(d.labels.Wordings, s.id)
		fill := g.filler(r, d.language, pair)
		for _, l := range s.lines {
			d.turns = append(d.turns, turn{byB: l.role == "b", text: l.render(r, fill), wording: s.id})
		}
	}
	g.chat(d, d.shape.turns-lines-at)
	return first
}

// filler returns what fills slots. Within one script or phrase a slot is always
// filled alike.
func (g *Generator) filler(r *rand.Rand, language string, pair *couple) func(string) string {
	return g.data.filler(r, language, g.opt.Split, pair)
}

func (d *Data) filler(r *rand.Rand, language string, split Split, pair *couple) func(string) string {
	filled := map[string]string{}
	return func(slot string) string {
		if v, ok := filled[slot]; ok {
			return v
		}
		var v string
		if pair != nil && slices.Contains(coupleSlots, slot) {
			v = pair.word(slot, language)
		} else {
			v = one(r, d.slots[slot][language].of(split))
		}
		filled[slot] = v
		return v
	}
}

// chat adds n turns of small talk, or a run of a corpus where there is one.
func (g *Generator) chat(d *draft, n int) {
	r := d.talkers
	for n > 0 {
		if g.opt.Filler != nil && d.language == "en" && r.Float64() < 0.5 {
			run := g.opt.Filler.run(r, g.opt.Split, min(n, 3+r.IntN(8)))
			d.turns = append(d.turns, run...)
			if n -= len(run); len(run) > 0 {
				continue
			}
		}
		language := d.language
		if d.shape.switched != "" && r.Float64() < 0.3 {
			language = d.shape.switched
		}
		t := g.data.talk[language]
		if r.Float64() < 0.15 {
			d.turns = append(d.turns, turn{byB: r.IntN(2) == 0, text: one(r, t.Openers.of(g.opt.Split))})
			n--
			continue
		}
		byB := r.IntN(2) == 0
		for _, line := range d.fresh(r, t.small(g.opt.Split)) {
			if n--; n < 0 {
				break
			}
			d.turns = append(d.turns, turn{byB: byB, text: line})
			byB = !byB
		}
	}
}

// fresh draws one of the exchanges that were had least often so far.
func (d *draft) fresh(r *rand.Rand, from [][]string) []string {
	firsts := make([]string, len(from))
	for i := range from {
		firsts[i] = from[i][0]
	}
	first := pick(r, firsts, d.said)
	return from[slices.Index(firsts, first)]
}

// write makes messages of turns: noise, disguise, splits, times and ids.
func (g *Generator) write(d *draft, f *family, noise, disguise, clock *rand.Rand) *Conversation {
	c := &Conversation{Labels: d.labels}
	w := &writer{noise: noise, level: d.shape.noise, short: g.data.talk[d.language].Short}
	times := newClock(clock, d.shape.start, d.shape.span, len(d.turns))
	a, b := d.a, d.b
	a.ID, b.ID = c.Conversation+"/a", c.Conversation+"/b"
	for i := 0; i < len(d.turns); i++ {
		t := d.turns[i]
		from, to := a, b
		if t.byB {
			from, to = b, a
		}
		pieces := w.pieces(w.text(t.text))
		if f != nil && t.intent != "" {
			for i := range pieces {
				pieces[i] = f.apply(disguise, pieces[i])
			}
		}
		if next := i + 1; next < len(d.turns) && d.turns[next].byB == t.byB && t.intent == "" && d.turns[next].intent == "" && noise.Float64() < w.level*0.2 {
			pieces[len(pieces)-1] += ". " + w.text(d.turns[next].text)
			i++
		}
		var ids []string
		for _, piece := range pieces {
			m := &pipeline.Message{
				ID: fmt.Sprintf("%s/%d", c.Conversation, len(c.Messages)), ConversationID: c.Conversation, SentAt: times.next(len(ids) > 0),
				Sender: from, Recipients: []pipeline.Party{{ID: to.ID, Age: to.Age}}, Text: pipeline.NewText(piece),
			}
			ids = append(ids, m.ID)
			c.Messages = append(c.Messages, m)
		}
		if t.intent != "" {
			c.RiskTurns = append(c.RiskTurns, RiskTurn{ids, t.intent, t.wording})
		}
	}
	return c
}

// clock gives the times of messages: sessions of quick turns with long pauses.
type clock struct {
	r     *rand.Rand
	at    time.Time
	pause time.Duration // between sessions, on average
	left  int           // turns of this session
}

func newClock(r *rand.Rand, start time.Time, span time.Duration, turns int) *clock {
	sessions := max(1, turns/12)
	return &clock{r: r, at: start, pause: span / time.Duration(sessions), left: 1 + r.IntN(24)}
}

func (c *clock) next(soon bool) time.Time {
	switch {
	case soon:
		c.at = c.at.Add(time.Duration(1+c.r.IntN(5)) * time.Second)
	case c.left > 0:
		c.left--
		c.at = c.at.Add(time.Duration(5+c.r.ExpFloat64()*40) * time.Second)
	default:
		c.left = 1 + c.r.IntN(24)
		c.at = c.at.Add(time.Duration((0.3 + c.r.Float64()*1.4) * float64(c.pause))).Truncate(time.Second)
	}
	return c.at
}
