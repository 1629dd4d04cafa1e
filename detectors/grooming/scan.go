package grooming

import "slices"

// span is a half-open range of bytes.
type span struct{ start, end int }

// maxSpans is how many places in a message are shown for one label.
const maxSpans = 3

// cue is what a message says for one label: its strongest phrase, or what the
// message model says where that is more, and where.
type cue struct {
	weight    float32
	rule      uint32
	disguised bool
	bans      float64        // of the message model, where it says more than the rules
	spans     [maxSpans]span // of the original
	n         int
}

// scratch is the memory of one scan, reused.
type scratch struct {
	folded, squashed view
	cues             [labels]cue
	allowed          [maxAllowed]allowed
	allows           int
	gaps             []gap
	generation       uint32
	factor           [labels]float32 // that the allow-cues leave of cues
	reading          reading
}

// maxAllowed is how many allow-cues of one message are looked at.
const maxAllowed = 16

// allowed is one allow-cue and where it stands.
type allowed struct {
	rule uint32
	span span // of the original
}

// gap says where the part of a phrase before a gap was seen, the last few times
// in this sentence: the part behind it may hold words that look like it again.
type gap struct {
	generation uint32
	sentence   int32
	n          uint32
	seen       [8]sighting
}

type sighting struct {
	word  int32 // number of the last word
	start int32 // of the phrase, in the folded text
}

// before returns where the phrase starts whose part before ends at most most
// words before the word first, or -1.
func (g *gap) before(generation uint32, sentence, first, most int32) int {
	if g.generation != generation || g.sentence != sentence {
		return -1
	}
	for i := range min(g.n, uint32(len(g.seen))) {
		s := g.seen[(g.n-1-i)%uint32(len(g.seen))]
		if between := first - s.word - 1; between >= 0 && between <= most {
			return int(s.start)
		}
	}
	return -1
}

func (g *gap) saw(generation uint32, sentence int32, s sighting) {
	if g.generation != generation || g.sentence != sentence {
		g.generation, g.sentence, g.n = generation, sentence, 0
	}
	g.seen[g.n%uint32(len(g.seen))] = s
	g.n++
}

// scan finds the cues of text, and weakens them by its allow-cues.
func (l *lexicon) scan(text string, s *scratch) {
	s.cues = [labels]cue{}
	s.allows = 0
	if len(s.gaps) < l.slots {
		s.gaps = make([]gap, l.slots)
	}
	if s.generation++; s.generation == 0 {
		clear(s.gaps)
		s.generation = 1
	}
	s.folded.fold(text)
	l.scanWords(s)
	if s.folded.disguised() {
		s.squashed.squash(&s.folded)
		l.scanSquashed(text, s)
	}
	l.weaken(s)
}

// weaken applies the allow-cues that are not part of a cue: "don't tell your
// mom" holds "tell your mom".
func (l *lexicon) weaken(s *scratch) {
	factor := &s.factor
	for i := range factor {
		factor[i] = 1
	}
	for _, a := range s.allowed[:s.allows] {
		if !s.covered(a.span) {
			for i, f := range l.rules[a.rule].factor {
				factor[i] = min(factor[i], f)
			}
		}
	}
	for i := range s.cues {
		if s.cues[i].weight *= factor[i]; s.cues[i].weight < minCue {
			s.cues[i] = cue{}
		}
	}
}

// covered reports whether a cue overlaps sp.
func (s *scratch) covered(sp span) bool {
	for i := range s.cues {
		for _, o := range s.cues[i].spans[:s.cues[i].n] {
			if sp.start < o.end && o.start < sp.end {
				return true
			}
		}
	}
	return false
}

// minCue is the weight below which nothing is said.
const minCue = 0.2

const (
	inWord = iota
	between
	sentenceEnd
)

var kind = func() (t [256]uint8) {
	for c := range t {
		switch {
		case wordByte(byte(c)) != ' ':
			t[c] = inWord
		case c == '.' || c == '!' || c == '?':
			t[c] = sentenceEnd
		default:
			t[c] = between
		}
	}
	return t
}()

func (l *lexicon) scanWords(s *scratch) {
	b := s.folded.b
	root, _ := l.words.step(0, ' ')
	row := root
	var hit bool
	var starts [maxPhraseWords * 2]int // of the latest words, by number
	word, sentence := int32(0), int32(0)
	after := true // a separator has just been read
	for i, c := range b {
		k := kind[c]
		if k == inWord {
			if after {
				after = false
				word++
				starts[word%int32(len(starts))] = i
			}
			row, _ = l.words.step(row, c)
			continue
		}
		if !after {
			after = true
			if row, hit = l.words.step(row, ' '); hit {
				l.emit(s, row, word, sentence, i, &starts)
			}
		}
		// A dot inside a word hides it, and several are a pause.
		if k == sentenceEnd && (i+1 == len(b) || b[i+1] == ' ') && (i == 0 || b[i-1] != c) {
			sentence++
			row = root
		}
	}
	if !after {
		if row, hit = l.words.step(row, ' '); hit {
			l.emit(s, row, word, sentence, len(b), &starts)
		}
	}
}

func (l *lexicon) emit(s *scratch, row uint32, word, sentence int32, end int, starts *[maxPhraseWords * 2]int) {
	for _, id := range l.words.outputs(row) {
		p := &l.parts[id]
		first := word - p.words + 1
		start := starts[first%int32(len(starts))]
		if !p.first {
			if start = s.gaps[p.slot-1].before(s.generation, sentence, first, p.gap); start < 0 {
				continue
			}
		}
		if !p.last {
			s.gaps[p.slot].saw(s.generation, sentence, sighting{word, int32(start)})
			continue
		}
		from, to := s.folded.original(start, end)
		r := &l.rules[p.rule]
		if r.allow {
			if s.allows < maxAllowed {
				s.allowed[s.allows] = allowed{p.rule, span{from, to}}
				s.allows++
			}
			continue
		}
		s.cues[r.label].add(p.rule, r.weight, span{from, to}, false)
	}
}

func (l *lexicon) scanSquashed(text string, s *scratch) {
	row := uint32(0)
	var hit bool
	for i, c := range s.squashed.b {
		if row, hit = l.squashed.step(row, c); !hit {
			continue
		}
		for _, v := range l.squashed.outputs(row) {
			id, length := v>>8, int(v&0xff)
			r := &l.rules[id]
			if c := &s.cues[r.label]; c.weight < r.weight {
				from, to := s.squashed.original(i+1-length, i+1)
				for to > from+1 && wordByte(text[to-1]) == ' ' {
					to-- // what was squeezed out behind it
				}
				c.add(id, r.weight, span{from, to}, true)
			}
		}
	}
}

// add takes in one more place that a rule found.
func (c *cue) add(id uint32, weight float32, sp span, disguised bool) {
	if weight > c.weight {
		c.weight, c.rule, c.disguised = weight, id, disguised
	}
	c.place(sp)
}

// place takes in where a cue stands, keeping the first places in order.
func (c *cue) place(sp span) {
	for i := range c.n {
		if o := &c.spans[i]; sp.start < o.end && o.start < sp.end {
			o.start, o.end = min(o.start, sp.start), max(o.end, sp.end)
			return
		}
	}
	if c.n < maxSpans {
		c.spans[c.n] = sp
		c.n++
		slices.SortFunc(c.spans[:c.n], func(a, b span) int { return a.start - b.start })
	}
}
