package grooming

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
	contact   capture        // that makes it stronger
	read      bool           // the message model says more than the rules
	bans      float64        // then, how rare that is among everyday messages
	spans     [maxSpans]span // of the original
	weights   [maxSpans]float32
	n         int
}

// scratch is the memory of one scan, reused.
type scratch struct {
	folded, squashed view
	repaired         view  // where the text looks disguised
	reading          *view // the one of both that words are looked for in, and behind a scan the one to read
	text             string
	cues             [labels]cue
	allowed          [maxAllowed]allowed
	allows           int
	cueEnd           int // greatest end of a cue of words so far, in the original
	gaps             gaps
	heard            heard
	ideas            []idea // of the reading, by their ends, for the message model
	work             work
	suspect          bool            // the words that were looked at may be disguised
	factor           [labels]float32 // that the allow-cues leave of cues
	opinion          opinion
}

// work counts what a scan did, so that tests can hold it to the length of the
// text.
type work struct {
	folded     int // bytes of the folded text
	steps      int // of the automata
	candidates int // patterns that ended somewhere, each looked at once
	frames     int // frames that could begin somewhere, and places that were looked at for them
	trimmed    int // bytes of the original that were passed over at the end of a span
}

// maxAllowed is how many allow-cues of one message are looked at, those apart
// that are part of a cue.
const maxAllowed = 16

// allowed is one allow-cue and where it stands.
type allowed struct {
	rule uint32
	span span // of the original
}

// gap says where the part of a phrase before a gap was seen, the last few times
// in this sentence: the part behind it may hold words that look like it again.
type gap struct {
	sentence uint32 // that it was seen in
	n        uint32
	seen     [8]sighting
}

type sighting struct {
	word  int32 // number of the last word
	start int32 // of the phrase, in the folded text
}

// gaps are those of the sentence that is being read.
type gaps struct {
	all      []gap // by slot
	sentence uint32
	some     uint64 // a bit for every 64th slot: one of them was seen
}

// forget is for the end of a sentence, and before anything is read.
func (g *gaps) forget(slots int) {
	if len(g.all) != slots {
		g.all, g.sentence = make([]gap, slots), 0
	}
	if g.sentence++; g.sentence == 0 {
		clear(g.all)
		g.sentence = 1
	}
	g.some = 0
}

// before returns where the phrase starts whose part before ends at most most
// words before the word first, or -1.
func (g *gaps) before(slot uint32, first, most int32) int {
	o := &g.all[slot]
	if o.sentence != g.sentence {
		return -1
	}
	for i := range min(o.n, uint32(len(o.seen))) {
		s := o.seen[(o.n-1-i)%uint32(len(o.seen))]
		if between := first - s.word - 1; between >= 0 && between <= most {
			return int(s.start)
		}
	}
	return -1
}

func (g *gaps) saw(slot uint32, s sighting) {
	o := &g.all[slot]
	if o.sentence != g.sentence {
		o.sentence, o.n = g.sentence, 0
	}
	o.seen[o.n%uint32(len(o.seen))] = s
	o.n++
	g.some |= 1 << (slot % 64)
}

// scan finds the cues of text, and weakens them by its allow-cues.
func (l *lexicon) scan(text string, s *scratch) {
	s.cues = [labels]cue{}
	s.allows = 0
	s.folded.fold(text)
	s.work = work{folded: len(s.folded.b)}
	s.text, s.reading = text, &s.folded
	l.scanWords(s)
	if s.suspect && s.folded.disguised() || s.folded.stretched {
		s.repaired.repair(&s.folded)
		s.reading = &s.repaired
		l.scanWords(s)
		s.squashed.squash(&s.folded)
		l.scanSquashed(text, s)
	}
	l.weaken(s)
}

// maxIdeas is how many ideas of a text are kept. The message model reads what is
// behind them by its words and letters.
const maxIdeas = 1 << 15

// think takes in an idea, in the order of their ends.
func (s *scratch) think(i idea) {
	if len(s.ideas) < maxIdeas {
		s.ideas = append(s.ideas, i)
	}
}

// weaken applies the allow-cues that are left.
func (l *lexicon) weaken(s *scratch) {
	factor := &s.factor
	for i := range factor {
		factor[i] = 1
	}
	for _, a := range s.allowed[:s.allows] {
		for i, f := range l.rules[a.rule].factor {
			factor[i] = min(factor[i], f)
		}
	}
	for i := range s.cues {
		c := &s.cues[i]
		if c.n == 0 {
			continue
		}
		if c.weight *= factor[i]; c.disguised {
			c.weight = min(maxWeight, c.weight*hidden)
		}
		if c.weight < minCue {
			*c = cue{}
		}
	}
}

// hidden is how much more is said by a cue that was disguised.
const hidden = 1.6

// allow keeps an allow-cue, unless it is part of a cue: "don't tell your mom"
// holds "tell your mom". Cues come in the order of their ends.
func (s *scratch) allow(rule uint32, sp span) {
	if s.allows < maxAllowed && sp.start >= s.cueEnd {
		s.allowed[s.allows] = allowed{rule, sp}
		s.allows++
	}
}

// cover drops the allow-cues that are part of a cue. Every cue is asked, not
// only those that are shown: said often enough, one would hide itself.
func (s *scratch) cover(sp span) {
	n := 0
	for _, a := range s.allowed[:s.allows] {
		if sp.start >= a.span.end || a.span.start >= sp.end {
			s.allowed[n] = a
			n++
		}
	}
	s.allows = n
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

// scanWords looks for phrases, frames and ideas in the words of the reading, and
// says whether it may be disguised: where it says no, disguised would, too.
func (l *lexicon) scanWords(s *scratch) {
	b, n := s.reading.padded(), len(s.reading.b)
	s.work.steps += n
	s.suspect, s.cueEnd, s.ideas = false, 0, s.ideas[:0]
	s.gaps.forget(l.slots)
	state := uint32(0)
	var starts [maxPhraseWords * 2]int // of the latest words, by number
	word, singles := int32(0), 0
	at := 0
	for at < n && kind[b[at]] != inWord {
		at++
	}
	for at < n {
		start := at
		end, hash, seen := wordAt(b, start)
		word++
		starts[word%int32(len(starts))] = start

		known := l.vocabulary.find(hash)
		if known == nil || known.id == 0 {
			state = 0
		} else {
			var hit bool
			if state, hit = l.phrases.step(state, known.id, &s.work.steps); hit {
				l.emit(s, state, word, end, &starts)
			}
		}
		if known == nil && seen&doubled != 0 {
			known = l.vocabulary.find(stretchHash(b[start:end]))
		}
		if known != nil {
			for _, name := range known.names {
				if name == 0 {
					break
				}
				s.think(idea{name: name, first: word, last: word, end: int32(end)})
			}
		}

		if end-start == 1 {
			singles++
		}
		for at = end; at < n && kind[b[at]] != inWord; at++ {
			// A dot inside a word hides it, and several are a pause.
			if c := b[at]; kind[c] == sentenceEnd && (at+1 == n || b[at+1] == ' ') && b[at-1] != c {
				l.frames(s)
				s.heard.forget()
				s.gaps.forget(l.slots)
				state = 0
			}
		}
		if seen&mixed != 0 || at == end+1 && b[end] != ' ' && at < n {
			s.suspect = true
		}
	}
	s.suspect = s.suspect || singles > 2
	l.frames(s)
	s.heard.forget()
}

// emit takes in what ends in the word that ends at end.
func (l *lexicon) emit(s *scratch, state uint32, word int32, end int, starts *[maxPhraseWords * 2]int) {
	ended := l.phrases.outputs(state)
	s.work.candidates += len(ended)
	for len(ended) > 0 && ended[0]&conceptOutput != 0 {
		first := word - int32(ended[0]&^conceptOutput>>conceptBits) + 1
		l.hear(s, place{concept: uint16(ended[0]), first: first, last: word, start: int32(starts[first%int32(len(starts))]), end: int32(end)})
		ended = ended[1:]
	}
	for _, v := range ended {
		if v&laterOutput != 0 && s.gaps.some>>(v>>partBits%64)&1 == 0 {
			continue
		}
		p := &l.parts[v%(1<<partBits)]
		first := word - int32(p.words) + 1
		start := starts[first%int32(len(starts))]
		if !p.first {
			if start = s.gaps.before(p.slot-1, first, int32(p.gap)); start < 0 {
				continue
			}
		}
		if !p.last {
			s.gaps.saw(p.slot, sighting{word, int32(start)})
			continue
		}
		if r := &l.rules[p.rule]; r.isConcept {
			l.hear(s, place{concept: r.concept, first: first, last: word, start: int32(start), end: int32(end)})
			continue
		}
		r := &l.rules[p.rule]
		from, to := s.reading.original(start, end)
		if r.allow {
			s.allow(p.rule, span{from, to})
			continue
		}
		s.cueEnd = max(s.cueEnd, to)
		s.cover(span{from, to})
		s.cues[r.label].add(p.rule, r.weight, span{from, to}, s.hides(from, to))
	}
}

// maxHiding is how much of a cue is looked at for what it hides, in bytes: the
// words of many cues may have the same padding between them.
const maxHiding = 256

// hides reports whether a part of the original was repaired: it has stand-ins
// beside letters, or more separators than words have.
func (s *scratch) hides(from, to int) bool {
	if s.reading != &s.repaired {
		return false
	}
	to = min(to, from+maxHiding)
	singles := 0
	for i := from; i < to; i++ {
		letter := func(at int) bool { return at >= from && at < to && wordByte(s.text[at]|0x20) >= 'a' }
		if standIns[s.text[i]] != 0 && (letter(i-1) || letter(i+1)) {
			return true
		}
		if letter(i) && !letter(i-1) && !letter(i+1) {
			singles++
		}
	}
	return singles > 2
}

func (l *lexicon) scanSquashed(text string, s *scratch) {
	row := uint32(0)
	var hit bool
	s.work.steps += len(s.squashed.b)
	for i, c := range s.squashed.b {
		if row, hit = l.squashed.step(row, c); !hit {
			continue
		}
		ended := l.squashed.outputs(row)
		s.work.candidates += len(ended)
		for _, v := range ended {
			id, length := v>>8, int(v&0xff)
			r := &l.rules[id]
			c := &s.cues[r.label]
			if c.weight >= r.weight && s.allows == 0 {
				continue
			}
			from, to := s.squashed.original(i+1-length, i+1)
			for to > from+1 && wordByte(text[to-1]) == ' ' {
				to-- // what was squeezed out behind it
				s.work.trimmed++
			}
			s.cover(span{from, to})
			if c.weight < r.weight {
				c.add(id, r.weight, span{from, to}, true)
			}
		}
	}
}

// add takes in one more place.
func (c *cue) add(id uint32, weight float32, sp span, disguised bool) {
	if weight > c.weight {
		c.weight, c.rule, c.disguised = weight, id, disguised
	}
	c.place(weight, sp)
}

// place takes in where a cue stands, keeping the strongest places in order.
func (c *cue) place(weight float32, sp span) {
	for i := range c.n {
		if o := &c.spans[i]; sp.start < o.end && o.start < sp.end {
			o.start, o.end = min(o.start, sp.start), max(o.end, sp.end)
			c.weights[i] = max(c.weights[i], weight)
			return
		}
	}
	if c.n == maxSpans {
		weakest := 0
		for i, w := range c.weights {
			if w < c.weights[weakest] {
				weakest = i
			}
		}
		if weight <= c.weights[weakest] {
			return
		}
		copy(c.spans[weakest:], c.spans[weakest+1:])
		copy(c.weights[weakest:], c.weights[weakest+1:])
		c.n--
	}
	at := c.n
	for at > 0 && c.spans[at-1].start > sp.start {
		c.spans[at], c.weights[at] = c.spans[at-1], c.weights[at-1]
		at--
	}
	c.spans[at], c.weights[at] = sp, weight
	c.n++
}
