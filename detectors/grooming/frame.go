package grooming

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// A phrase says a thing in one way. A frame says which ideas make a cue when they stand together in a sentence, in
// whatever words a language has for them: that somebody is not to tell, and a parent. The packs of the languages say
// by which words a concept is known, in any number of languages at once; frames join concepts.

// packFrame is the file format of a frame.
type packFrame struct {
	Label   label    `yaml:"label"`
	Weight  float64  `yaml:"weight"`
	All     []string `yaml:"all"`     // concepts, each "a" or "a|b" for one of several; the most telling first
	None    []string `yaml:"none"`    // concepts that must not stand in between or near
	Ordered bool     `yaml:"ordered"` // in the order of All
	Within  int32    `yaml:"within"`  // words that may stand between two of them
	line    int
}

// UnmarshalYAML keeps the line for later complaints.
func (f *packFrame) UnmarshalYAML(n *yaml.Node) error {
	for i := 0; i+1 < len(n.Content); i += 2 {
		switch n.Content[i].Value {
		case "label", "weight", "all", "none", "ordered", "within":
		default:
			return fmt.Errorf("line %d: unknown key %q of a frame", n.Content[i].Line, n.Content[i].Value)
		}
	}
	type plain packFrame
	if err := n.Decode((*plain)(f)); err != nil {
		return err
	}
	f.line = n.Line
	return nil
}

const (
	maxConcepts = 512
	maxWithin   = 12  // words
	maxParts    = 5   // concepts of a frame
	maxHeard    = 128 // places of concepts in one sentence that are kept in mind
)

// concepts is a set of concepts by number.
type concepts [maxConcepts / 64]uint64

func (c *concepts) add(n uint16)      { c[n/64] |= 1 << (n % 64) }
func (c *concepts) has(n uint16) bool { return c[n/64]>>(n%64)&1 == 1 }
func (c *concepts) meets(o *concepts) bool {
	for i := range c {
		if c[i]&o[i] != 0 {
			return true
		}
	}
	return false
}

// folded returns the set in one word: what two sets share, their words do.
func (c *concepts) folded() (w uint64) {
	for i := range c {
		w |= c[i]
	}
	return w
}

func (c *concepts) union(o *concepts) {
	for i := range c {
		c[i] |= o[i]
	}
}

// frame is a frame, ready to be looked for.
type frame struct {
	rule    uint32
	all     []concepts // one of each
	none    concepts
	ordered bool
	within  int32
}

// opening is a frame that may begin with a concept, and its second part, folded:
// few frames have that in a sentence. All bits are set where there is none.
type opening struct {
	second uint64
	frame  uint16
}

// place is where a concept stands.
type place struct {
	concept     uint16
	first, last int32 // words, by number
	start, end  int32 // in the folded text
}

// heard is the concepts of the sentence that is being read.
type heard struct {
	seen   concepts
	places []place
}

func (h *heard) forget() {
	h.seen, h.places = concepts{}, h.places[:0]
}

// hear takes in one concept, in the order of their ends: it is an idea, and may be part of a frame. Where a sentence holds
// more places than are kept, what was heard so far is judged and only what is near enough to matter to the next words stays.
func (l *lexicon) hear(s *scratch, p place) {
	s.think(idea{name: l.names[p.concept], first: p.first, last: p.last, end: p.end})
	h := &s.heard
	if len(h.places) == maxHeard {
		l.frames(s)
		kept := h.places[:0]
		for _, old := range h.places[len(h.places)/4:] {
			if p.first-old.last <= l.reach {
				kept = append(kept, old)
			}
		}
		h.places = kept
	}
	h.seen.add(p.concept)
	h.places = append(h.places, p)
}

// frames makes cues of the frames that the sentence so far holds.
func (l *lexicon) frames(s *scratch) {
	h := &s.heard
	if len(h.places) < 1 {
		return
	}
	seen := h.seen.folded()
	for i := range h.places {
		p := &h.places[i]
		for _, o := range l.framesOf[p.concept] {
			s.work.frames++
			if o.second&seen == 0 {
				continue
			}
			f := &l.allFrames[o.frame]
			if !f.possible(&h.seen) {
				continue
			}
			var from, to int32
			var ok bool
			if f.ordered {
				from, to, ok = f.follow(h.places, i, &s.work)
			} else {
				from, to, ok = f.gather(h.places, i, &s.work)
			}
			if !ok || f.forbidden(h.places, from, to) {
				continue
			}
			r := &l.rules[f.rule]
			a, b := s.reading.original(int(from), int(to))
			s.within(span{a, b})
			s.cues[r.label].add(f.rule, r.weight, span{a, b}, s.hides(a, b))
		}
	}
}

// within drops the allow-cues that a frame begins before and ends after: not to tell one's mother holds telling her. One
// that only touches a frame, whose words lie far apart, stays.
func (s *scratch) within(sp span) {
	s.allows = len(slices.DeleteFunc(s.allowed[:s.allows], func(a allowed) bool {
		return sp.start < a.span.start && a.span.end <= sp.end
	}))
}

// possible says whether every part was seen somewhere in the sentence.
func (f *frame) possible(seen *concepts) bool {
	for i := range f.all {
		if !f.all[i].meets(seen) {
			return false
		}
	}
	return true
}

// between is how many words stand between two places, 0 where they touch or overlap.
func (p *place) between(o *place) int32 {
	return max(0, p.first-o.last-1, o.first-p.last-1)
}

// gather takes places[anchor] as the first part and of each other part the place that is nearest to it.
func (f *frame) gather(places []place, anchor int, w *work) (from, to int32, ok bool) {
	a := &places[anchor]
	from, to = a.start, a.end
	begin, end := anchor, anchor+1
	for begin > 0 && a.first-places[begin-1].last-1 <= f.within {
		begin--
	}
	for end < len(places) && places[end].last-maxPhraseWords-a.last <= f.within {
		end++
	}
	w.frames += (end - begin) * len(f.all)
	for i := 1; i < len(f.all); i++ {
		best, near := -1, f.within+1
		for j := begin; j < end; j++ {
			if p := &places[j]; j != anchor && f.all[i].has(p.concept) {
				if d := p.between(a); d < near {
					best, near = j, d
				}
			}
		}
		if best < 0 {
			return 0, 0, false
		}
		from, to = min(from, places[best].start), max(to, places[best].end)
	}
	return from, to, true
}

// follow takes places[anchor] as the first part and looks for the others behind it, each within reach of the one before.
// Of two places that could be a part the later one reaches further.
func (f *frame) follow(places []place, anchor int, w *work) (from, to int32, ok bool) {
	var latest [maxParts]int32 // the last word of the best chain up to a part
	var ends [maxParts]int32
	a := &places[anchor]
	latest[0], ends[0] = a.last, a.end
	if len(f.all) == 1 {
		return a.start, a.end, true
	}
	reached := 1
	// A longer phrase may begin where the anchor does and have ended after it: it comes behind it all the same.
	begin := anchor
	for begin > 0 && places[begin-1].last >= a.first {
		begin--
	}
	for j := begin; j < len(places); j++ {
		p := &places[j]
		if j == anchor || p.first < a.first {
			continue
		}
		if w.frames++; p.last-maxPhraseWords-latest[reached-1]-1 > f.within {
			break
		}
		for i := min(reached, len(f.all)-1); i > 0; i-- {
			if !f.all[i].has(p.concept) || p.last < latest[i-1] || p.first-latest[i-1]-1 > f.within || i < reached && p.last < latest[i] {
				continue
			}
			latest[i], ends[i] = p.last, max(p.end, ends[i-1])
			if reached = max(reached, i+1); reached == len(f.all) {
				return a.start, ends[i], true
			}
		}
	}
	return 0, 0, false
}

// forbidden says whether one of the concepts that must not be there is: within the words of the cue, or next to them.
func (f *frame) forbidden(places []place, from, to int32) bool {
	if f.none == (concepts{}) {
		return false
	}
	for i := range places {
		if p := &places[i]; f.none.has(p.concept) && p.end >= from-2 && p.start <= to+2 {
			return true
		}
	}
	return false
}

// concept returns the number of a concept, a new one where it is not known yet.
func (c *compiler) concept(name string, line int) uint16 {
	n, ok := c.concepts[name]
	if !ok {
		if len(c.concepts) == maxConcepts {
			c.fail(line, "more than %d concepts", maxConcepts)
			return 0
		}
		n = uint16(len(c.concepts))
		c.concepts[name] = n
		c.ideas[name] = true
		c.lex.names = append(c.lex.names, ideaName(name))
	}
	return n
}

// frame checks a frame and puts it off until all packs were read: concepts may stand in a later one.
func (c *compiler) frame(f *packFrame, id string) {
	if !(f.Weight > 0 && f.Weight <= maxWeight) {
		c.fail(f.line, "weight of frame %s is not above 0 and at most %d", id, maxWeight)
	}
	if f.Within < 0 || f.Within > maxWithin {
		c.fail(f.line, "within of frame %s is not 0 to %d", id, maxWithin)
	}
	if len(f.All) == 0 || len(f.All) > maxParts {
		c.fail(f.line, "frame %s joins %d concepts, and 1 to %d can be joined", id, len(f.All), maxParts)
	}
	rule := rule{id: id, label: f.Label, weight: float32(f.Weight)}
	at := uint32(len(c.lex.rules))
	c.lex.rules = append(c.lex.rules, rule)
	c.pending = append(c.pending, pendingFrame{frame: f, rule: at, pack: c.name})
}

type pendingFrame struct {
	frame *packFrame
	rule  uint32
	pack  string
}

// resolve makes the frames of all packs.
func (c *compiler) resolve() {
	c.lex.framesOf = make([][]opening, len(c.concepts))
	for _, p := range c.pending {
		c.name = p.pack
		set := func(names string) (out concepts) {
			for name := range strings.SplitSeq(names, "|") {
				n, ok := c.concepts[strings.TrimSpace(name)]
				if !ok {
					c.fail(p.frame.line, "no pack says by which words concept %q is known", name)
					continue
				}
				out.add(n)
			}
			return out
		}
		f := frame{rule: p.rule, ordered: p.frame.Ordered, within: p.frame.Within}
		for _, names := range p.frame.All {
			f.all = append(f.all, set(names))
		}
		for _, name := range p.frame.None {
			n := set(name)
			f.none.union(&n)
		}
		if len(f.all) == 0 {
			continue
		}
		c.lex.reach = max(c.lex.reach, int32(len(f.all))*(f.within+1+maxPhraseWords))
		o := opening{second: math.MaxUint64, frame: uint16(len(c.lex.allFrames))}
		if len(f.all) > 1 {
			o.second = f.all[1].folded()
		}
		c.lex.allFrames = append(c.lex.allFrames, f)
		for n := range c.lex.framesOf {
			if f.all[0].has(uint16(n)) {
				c.lex.framesOf[n] = append(c.lex.framesOf[n], o)
			}
		}
	}
}
