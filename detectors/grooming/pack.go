package grooming

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// pack is the file format of a rule pack: the wordings of one language.
type pack struct {
	Version  int         `yaml:"version"`
	Language string      `yaml:"language"`
	Rules    []packRule  `yaml:"rules"`
	Allow    []packAllow `yaml:"allow"`

	// Concepts are ideas by name, with the words of this language for them. Frames join concepts of all packs.
	Concepts map[string][]phrase `yaml:"concepts"`
	Frames   []packFrame         `yaml:"frames"`

	// Words are classes of words by name, with those of this language, single ones with spaces between them. They are ideas
	// for the message model to learn from; no rule and no frame is made of them.
	Words map[string]phrase `yaml:"words"`
}

// packRule says that each of the phrases is a cue for a label, and how strong.
type packRule struct {
	Label   label    `yaml:"label"`
	Weight  number   `yaml:"weight"`
	Phrases []phrase `yaml:"phrases"`
}

// packAllow says that cues mean less in a message that holds one of the phrases.
type packAllow struct {
	Name    string   `yaml:"name"`
	Factor  number   `yaml:"factor"`
	Labels  []label  `yaml:"labels"` // empty: all
	Phrases []phrase `yaml:"phrases"`
}

// phrase is a pattern and the line it stands in.
type phrase struct {
	text string
	line int
}

// UnmarshalYAML keeps the line for later complaints.
func (p *phrase) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode || strings.TrimSpace(n.Value) == "" {
		return faultAt(n, "a phrase is a text that is not empty")
	}
	p.text, p.line = n.Value, n.Line
	return nil
}

// number is a weight or factor and the line it stands in.
type number struct {
	value float64
	line  int
}

// UnmarshalYAML keeps the line for later complaints.
func (f *number) UnmarshalYAML(n *yaml.Node) error {
	f.line = n.Line
	if err := n.Decode(&f.value); err != nil {
		f.value = math.NaN()
	}
	return nil
}

// faultAt returns an error beside which the YAML package goes on to look for
// others.
func faultAt(n *yaml.Node, format string, args ...any) error {
	return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: ", n.Line) + fmt.Sprintf(format, args...)}}
}

// unknownKey matches how the YAML package says that a key is not known: with
// the name of a Go type.
var unknownKey = regexp.MustCompile(`field (.*) not found in type \S+`)

// packName is what languages and the names of allow-cues look like: they stand
// in reasons.
var packName = regexp.MustCompile(`^[a-z0-9]+([_-][a-z0-9]+)*$`)

const maxPackName = 32

const (
	maxPackBytes   = 1 << 20
	maxThesaurus   = 200_000 // words of all packs
	maxWeight      = 3
	maxExpansions  = 4096    // of one group of a phrase
	maxVariants    = 200     // of one run of words, before it is cut in two
	maxPatterns    = 200_000 // of all packs
	maxPhraseWords = 16      // of one segment
	maxGap         = 3       // words that a * may stand for
	minSquashed    = 10      // letters of a phrase that is looked for without word boundaries
	minDisguise    = 0.9     // weight from which a phrase is looked for in disguise
	maxDisguised   = 600     // wordings of a phrase that are looked for in disguise; phrases with more are not
)

// lexicon is all packs, ready to be looked for.
type lexicon struct {
	rules    []rule
	phrases  *phraseAutomaton // over the words of the folded text
	parts    []part
	slots    int        // of parts that go on after a gap
	squashed *automaton // over the squashed text; outputs are rule<<8 | length

	vocabulary *vocabulary
	names      []uint32 // by concept: the hash of its name
	ideas      []string // names of all concepts and classes, sorted

	allFrames []frame
	framesOf  [][]opening // by concept: the frames whose first part it can be
	reach     int32       // words within which every frame lies
}

// rule is one entry of a pack.
type rule struct {
	id     string  // "en/secrecy/2", for reasons
	label  label   // of a cue
	weight float32 // of a cue
	allow  bool
	factor [labels]float32 // of an allow-cue: 1 where it says nothing

	isConcept bool // no cue by itself
	concept   uint16
}

// part is one run of words of a phrase: all of it, or what lies between gaps.
type part struct {
	rule        uint32
	slot        uint32 // of this part in the scratch; the part before has slot-1
	words       uint8
	gap         uint8 // words that may lie before it
	first, last bool
}

// The outputs of the automaton are numbers of parts, and more where that saves
// time. A run of words that stands for a concept, of which a text holds most, is
// no part but conceptOutput, the number of words and that of the concept. A part
// behind a gap has laterOutput and six bits of the slot that it waits for.
const (
	conceptOutput = 1 << 31
	conceptBits   = 16

	laterOutput = 1 << 30
	partBits    = 24
)

// loadPacks compiles packs, by name, and reports every fault with pack and line.
func loadPacks(packs map[string][]byte) (*lexicon, error) {
	c := compiler{lex: &lexicon{}, known: map[string]uint32{}, squashedKnown: map[string]uint32{}, languages: map[string]string{}, concepts: map[string]uint16{}, classes: map[uint64][]uint32{}, ideas: map[string]bool{}}
	for _, name := range slices.Sorted(maps.Keys(packs)) {
		c.pack(name, packs[name])
	}
	c.resolve()
	c.lex.ideas = slices.Sorted(maps.Keys(c.ideas))
	if len(c.errs) > 0 {
		return nil, errors.Join(c.errs...)
	}
	var err error
	var words map[string]uint32
	if c.lex.phrases, words, err = newPhraseAutomaton(c.patterns, c.values); err != nil {
		return nil, err
	}
	if c.lex.vocabulary, err = newVocabulary(words, c.classes); err != nil {
		return nil, err
	}
	if c.lex.squashed, err = newAutomaton(c.squashed, c.squashedValues); err != nil {
		return nil, err
	}
	return c.lex, nil
}

type compiler struct {
	lex                    *lexicon
	errs                   []error
	patterns, squashed     []string
	values, squashedValues []uint32
	known                  map[string]uint32 // pattern of a whole phrase → rule
	squashedKnown          map[string]uint32
	languages              map[string]string // language → name of its pack
	folded, squashedView   view
	name                   string
	concepts               map[string]uint16
	pending                []pendingFrame
	classes                map[uint64][]uint32 // of a word, by its hash
	ideas                  map[string]bool
}

func (c *compiler) fail(line int, format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf("%s: line %d: %w", c.name, line, fmt.Errorf(format, args...)))
}

func (c *compiler) pack(name string, data []byte) {
	c.name = name
	if len(data) > maxPackBytes {
		c.errs = append(c.errs, fmt.Errorf("%s: larger than %d bytes", name, maxPackBytes))
		return
	}
	var p pack
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(&p); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("line 1: empty")
		}
		typed, ok := errors.AsType[*yaml.TypeError](err)
		if !ok {
			c.errs = append(c.errs, fmt.Errorf("%s: %w", name, err))
			return
		}
		// What could be read is looked at all the same.
		for _, fault := range typed.Errors {
			c.errs = append(c.errs, fmt.Errorf("%s: %s", name, unknownKey.ReplaceAllString(fault, "unknown key $1")))
		}
	}
	if err := d.Decode(new(pack)); !errors.Is(err, io.EOF) {
		c.errs = append(c.errs, fmt.Errorf("%s: more than one document", name))
	}
	if p.Version != 1 {
		c.fail(1, "version is %d, this program reads 1", p.Version)
	}
	switch other, taken := c.languages[p.Language]; {
	case p.Language == "":
		c.fail(1, "missing language")
	case !packName.MatchString(p.Language) || len(p.Language) > maxPackName:
		c.fail(1, "language is not made of small letters, digits and hyphens")
	case taken:
		c.fail(1, "language %s is that of %s: reasons name rules by it, so take another, such as %s-2", p.Language, other, p.Language)
	default:
		c.languages[p.Language] = name
	}
	var nth [labels]int
	for i := range p.Rules {
		r := &p.Rules[i]
		nth[r.Label]++
		id := fmt.Sprintf("%s/%s/%d", p.Language, r.Label, nth[r.Label])
		if len(r.Phrases) == 0 {
			c.fail(max(1, r.Weight.line), "rule %s has no phrases", id)
			continue
		}
		if w := r.Weight; !(w.value > 0 && w.value <= maxWeight) {
			c.fail(cmp.Or(w.line, r.Phrases[0].line, 1), "weight of rule %s is not a number above 0 and at most %d", id, maxWeight)
		}
		c.phrases(rule{id: id, label: r.Label, weight: float32(r.Weight.value)}, r.Phrases)
	}
	for i := range p.Allow {
		a := &p.Allow[i]
		r := rule{id: p.Language + "/" + a.Name, allow: true}
		if a.Name == "" || len(a.Phrases) == 0 {
			c.fail(max(1, a.Factor.line), "allow entry %d needs a name and phrases", i+1)
			continue
		}
		if !packName.MatchString(a.Name) || len(a.Name) > maxPackName {
			c.fail(cmp.Or(a.Factor.line, a.Phrases[0].line, 1), "the name of allow entry %d is not made of small letters, digits and underscores", i+1)
		}
		if f := a.Factor; !(f.value >= 0 && f.value < 1) {
			c.fail(cmp.Or(f.line, a.Phrases[0].line, 1), "factor of %s is not a number of at least 0 and below 1", r.id)
		}
		for l := range labels {
			r.factor[l] = 1
			if len(a.Labels) == 0 || slices.Contains(a.Labels, l) {
				r.factor[l] = float32(a.Factor.value)
			}
		}
		c.phrases(r, a.Phrases)
	}
	for _, name := range slices.Sorted(maps.Keys(p.Concepts)) {
		phrases := p.Concepts[name]
		if name == "" || strings.Contains(name, "|") || len(phrases) == 0 {
			c.fail(1, "concept %q needs a name without | and phrases", name)
			continue
		}
		for _, phrase := range phrases {
			if strings.Contains(phrase.text, "*") {
				c.fail(phrase.line, "a concept is said in consecutive words, without *")
			}
		}
		c.phrases(rule{id: p.Language + "/" + name, isConcept: true, concept: c.concept(name, phrases[0].line)}, phrases)
	}
	for _, name := range slices.Sorted(maps.Keys(p.Words)) {
		if !packName.MatchString(name) || len(name) > maxPackName {
			c.fail(p.Words[name].line, "the name of word class %q is not made of small letters, digits and underscores", name)
			continue
		}
		c.words(name, p.Words[name])
	}
	for i := range p.Frames {
		f := &p.Frames[i]
		nth[f.Label]++
		c.frame(f, fmt.Sprintf("%s/%s/%d", p.Language, f.Label, nth[f.Label]))
	}
}

// words adds words to a class.
func (c *compiler) words(class string, words phrase) {
	// A concept of the same name is another idea.
	class = "words/" + class
	c.ideas[class] = true
	name := ideaName(class)
	for word := range strings.FieldsSeq(words.text) {
		c.folded.fold(word)
		if len(c.folded.b) == 0 || slices.ContainsFunc(c.folded.b, func(b byte) bool { return wordByte(b) == ' ' }) {
			c.fail(words.line, "%q of word class %s is not one word", word, class)
			continue
		}
		h := stretchHash(c.folded.b)
		if len(c.classes) == maxThesaurus {
			c.fail(words.line, "more than %d words in all", maxThesaurus)
			return
		}
		if of := c.classes[h]; len(of) < maxClasses && !slices.Contains(of, name) {
			c.classes[h] = append(of, name)
		}
	}
}

// phrases adds a rule with its phrases. Of two rules that say the same the first counts.
func (c *compiler) phrases(r rule, phrases []phrase) {
	at := uint32(len(c.lex.rules))
	c.lex.rules = append(c.lex.rules, r)
	for _, p := range phrases {
		if err := c.phrase(at, p.text); err != nil {
			c.fail(p.line, "%w", err)
		}
	}
}

func (c *compiler) phrase(at uint32, text string) error {
	type segment struct {
		variants []string
		gap      uint8
	}
	var segments []segment
	for i, s := range strings.Split(text, "*") {
		pieces, err := split(s)
		if err != nil {
			return err
		}
		for j, variants := range pieces {
			seg := segment{variants: variants}
			if i > 0 && j == 0 {
				seg.gap = maxGap
			}
			segments = append(segments, seg)
		}
	}
	single := len(segments) == 1
	if r := &c.lex.rules[at]; !r.allow && !r.isConcept && r.weight >= minDisguise && !strings.Contains(text, "*") {
		all := make([][]string, len(segments))
		for i, s := range segments {
			all[i] = s.variants
		}
		if product(all) <= maxDisguised {
			for _, v := range join(all) {
				c.disguise(at, v)
			}
		}
	}
	for i, s := range segments {
		parts := map[int32]uint32{}
		for _, v := range s.variants {
			pattern, words := c.pattern(v)
			switch {
			case words == 0:
				return errors.New("a phrase, an alternative of it or what stands beside a * has no letters")
			case words > maxPhraseWords:
				return fmt.Errorf("more than %d words in a row", maxPhraseWords)
			case len(c.patterns) >= maxPatterns:
				return fmt.Errorf("more than %d wordings in all", maxPatterns)
			}
			if single {
				// The words of a concept may be a phrase too, and those of another concept.
				key := pattern
				if r := &c.lex.rules[at]; r.isConcept {
					key = string([]byte{0, byte(r.concept >> 8), byte(r.concept)}) + pattern
				}
				if _, ok := c.known[key]; ok {
					continue
				}
				c.known[key] = at
			}
			value, ok := parts[words]
			switch r := &c.lex.rules[at]; {
			case ok:
			case single && r.isConcept:
				value = conceptOutput | uint32(words)<<conceptBits | uint32(r.concept)
			default:
				value = uint32(len(c.lex.parts))
				if i > 0 {
					value |= laterOutput | uint32(c.lex.slots+i-1)%64<<partBits
				}
				c.lex.parts = append(c.lex.parts, part{
					rule: at, words: uint8(words), gap: s.gap, slot: uint32(c.lex.slots + i), first: i == 0, last: i == len(segments)-1,
				})
			}
			parts[words] = value
			c.patterns, c.values = append(c.patterns, pattern), append(c.values, value)
		}
	}
	if !single {
		c.lex.slots += len(segments)
	}
	return nil
}

// disguise adds the squashed form of a variant.
func (c *compiler) disguise(at uint32, variant string) {
	c.folded.fold(variant)
	c.squashedView.squash(&c.folded)
	s := string(c.squashedView.b)
	if _, ok := c.squashedKnown[s]; ok || len(s) < minSquashed || len(s) > 255 {
		return
	}
	c.squashedKnown[s] = at
	c.squashed, c.squashedValues = append(c.squashed, s), append(c.squashedValues, at<<8|uint32(len(s)))
}

// pattern returns the words that are read where a variant is written, with
// spaces between them, and how many they are.
func (c *compiler) pattern(variant string) (string, int32) {
	c.folded.fold(variant)
	b := []byte{' '}
	words := int32(0)
	for _, x := range c.folded.b {
		if x = wordByte(x); x == ' ' && b[len(b)-1] == ' ' {
			continue
		}
		if b[len(b)-1] == ' ' {
			words++
		}
		b = append(b, x)
	}
	if b[len(b)-1] != ' ' {
		b = append(b, ' ')
	}
	return string(b), words
}

// wordByte maps what separates words to a space.
func wordByte(b byte) byte {
	if b >= 'a' && b <= 'z' || b >= '0' && b <= '9' || b >= 0x80 {
		return b
	}
	return ' '
}

// split expands a run of words into everything that it may stand for. A run
// with very many variants is cut into several, each of which follows the one
// before it: that costs their sum and not their product.
func split(run string) ([][]string, error) {
	var items [][]string
	depth := 0
	for _, word := range strings.FieldsFunc(run, func(r rune) bool {
		switch r {
		case '(', '[':
			depth++
		case ')', ']':
			depth--
		}
		return r == ' ' && depth <= 0
	}) {
		v, err := expand(word)
		if err != nil {
			return nil, err
		}
		items = append(items, v)
	}
	if len(items) == 0 {
		return nil, errors.New("a phrase, or what stands beside a *, is empty")
	}
	return cut(items)
}

func cut(items [][]string) ([][]string, error) {
	whole := product(items)
	at, least := 0, whole
	if whole > maxVariants {
		for i := 1; i < len(items); i++ {
			if !mayBeEmpty(items[:i]) && !mayBeEmpty(items[i:i+1]) {
				if sum := product(items[:i]) + product(items[i:]); sum < least {
					at, least = i, sum
				}
			}
		}
	}
	if at == 0 {
		if whole > maxExpansions {
			return nil, errTooMany
		}
		return [][]string{join(items)}, nil
	}
	left, err := cut(items[:at])
	if err != nil {
		return nil, err
	}
	right, err := cut(items[at:])
	return append(left, right...), err
}

// join returns every way to say items one after the other.
func join(items [][]string) []string {
	out := []string{""}
	for _, item := range items {
		longer := make([]string, 0, len(out)*len(item))
		for _, o := range out {
			for _, v := range item {
				longer = append(longer, o+" "+v)
			}
		}
		out = longer
	}
	return out
}

func product(items [][]string) int {
	n := 1
	for _, i := range items {
		n = min(n*len(i), 1<<30)
	}
	return n
}

// mayBeEmpty reports whether all items may be left out.
func mayBeEmpty(items [][]string) bool {
	for _, i := range items {
		if !slices.Contains(i, "") {
			return false
		}
	}
	return true
}

// expand returns everything that a pattern may stand for: (a|b) is one of both,
// [a|b] one of both or nothing. Groups nest and may be part of a word.
func expand(pattern string) ([]string, error) {
	e := expander{rest: pattern}
	out, err := e.sequence(0)
	if err == nil && e.rest != "" {
		err = fmt.Errorf("%q closes nothing", e.rest[:1])
	}
	return out, err
}

type expander struct{ rest string }

var errTooMany = fmt.Errorf("a phrase stands for more than %d wordings: split it", maxExpansions)

func (e *expander) sequence(depth int) ([]string, error) {
	if depth > 8 {
		return nil, errors.New("groups are nested more than 8 deep")
	}
	out := []string{""}
	for e.rest != "" {
		n := strings.IndexAny(e.rest, "()[]|")
		if n != 0 {
			if n < 0 {
				n = len(e.rest)
			}
			for i := range out {
				out[i] += e.rest[:n]
			}
			e.rest = e.rest[n:]
			continue
		}
		open := e.rest[0]
		if open != '(' && open != '[' {
			if depth == 0 && open == '|' {
				return nil, errors.New("| stands outside of a group")
			}
			return out, nil
		}
		e.rest = e.rest[1:]
		group, err := e.group(open, depth)
		if err != nil {
			return nil, err
		}
		if len(out)*len(group) > maxExpansions {
			return nil, errTooMany
		}
		product := make([]string, 0, len(out)*len(group))
		for _, o := range out {
			for _, g := range group {
				product = append(product, o+g)
			}
		}
		out = product
	}
	return out, nil
}

func (e *expander) group(open byte, depth int) ([]string, error) {
	var out []string
	if open == '[' {
		out = append(out, "")
	}
	for {
		alternatives, err := e.sequence(depth + 1)
		if err != nil {
			return nil, err
		}
		if out = append(out, alternatives...); len(out) > maxExpansions {
			return nil, errTooMany
		}
		if e.rest == "" {
			return nil, fmt.Errorf("%q is not closed", open)
		}
		end := e.rest[0]
		e.rest = e.rest[1:]
		switch {
		case end == '|':
		case open == '(' && end == ')', open == '[' && end == ']':
			return out, nil
		default:
			return nil, fmt.Errorf("%q is closed by %q", open, end)
		}
	}
}
