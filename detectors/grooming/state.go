package grooming

import (
	"encoding/binary"
	"math"
)

// state is what is kept of one conversation. It holds labels, numbers, message
// ids and offsets, never a text, and nothing at all (zero directions) until the
// first cue.
type state struct {
	alerted    uint8 // the highest band that was alerted
	quiet      uint8 // messages of the conversation since the tallies were last decayed
	partition  int32 // that the offsets of evidence lie in
	directions []direction
	evidence   []evidence

	// stated are the least ages under 18 that members stated, the least first,
	// of two members: for each sender the first that is not the sender's own
	// counts. Zero where there are none.
	stated [2]statedAge
}

// statedAge is an age that a member of the conversation stated.
type statedAge struct {
	member uint64 // hash of the id
	years  uint8
}

// states takes in an age that a member stated.
func (s *state) states(member uint64, years uint8) {
	a := &s.stated
	for i := range a {
		switch {
		case a[i].years == 0 || years < a[i].years:
			if i == 0 && a[0].member != member {
				a[1] = a[0]
			}
			a[i] = statedAge{member, years}
			return
		case a[i].member == member:
			return
		}
	}
}

// youngestBut returns the least age that another member stated, or 0.
func (s *state) youngestBut(sender uint64) uint8 {
	if a := s.stated[0]; a.member != sender {
		return a.years
	}
	return s.stated[1].years
}

const (
	maxDirections = 4 // senders followed in one conversation
	maxEvidence   = 6 // messages kept as evidence
	maxItems      = 3 // labels kept of one message
	maxContext    = 6 // offsets kept of one message: five before it and its own
)

// direction is the evidence about one sender.
type direction struct {
	sender   uint64 // hash of the id
	at       int64  // seconds since 1970 of the latest cue
	prior    int8   // log-odds from account data at the latest cue, in priorUnit
	messages uint8  // with a cue
	labels   [labels]tally
}

// tally is the evidence for one label, decayed to direction.at.
type tally struct {
	sum   uint16 // cumulative sum of cues over drift (Page 1954), in weightUnit
	count uint8  // messages with a cue, at most maxCount
}

// evidence is one message and what was found in it.
type evidence struct {
	id        []byte // of the message
	direction uint8  // index of its sender
	items     [maxItems]item
	n         uint8
	context   [maxContext]int64 // offsets, oldest first, its own last
	offsets   uint8
}

type item struct {
	label label
	score uint8 // of 255
	span  span
}

const (
	weightUnit = 1. / 1024
	priorUnit  = 1. / 16
	drift      = 0.1 // taken off a sum at every message with a cue
	maxSum     = 10
	maxCount   = 63
)

// event is one message with at least one cue, as far as the state is concerned.
type event struct {
	id        string
	sender    uint64
	at        int64 // seconds since 1970
	prior     float64
	weights   [labels]float32
	evidence  evidence
	partition int32
}

// step folds one event into the state. It is pure but for that it reuses the
// memory of s. A message that is already evidence changes nothing.
func step(s *state, e *event, m *model) {
	if s.partition != e.partition {
		s.partition = e.partition
		for i := range s.evidence {
			s.evidence[i].offsets = 0 // they mean nothing in another partition
		}
	}
	s.pass()
	s.fade()
	i := s.direction(e.sender, e.at, m)
	d := &s.directions[i]
	d.decay(e.at, m)
	d.prior = int8(math.Round(max(-127, min(127, e.prior/priorUnit))))
	d.messages += b2i(d.messages < math.MaxUint8)
	for l, w := range e.weights {
		t := &d.labels[l]
		sum := max(0, float64(t.sum)*weightUnit-drift)
		if w > 0 {
			sum = min(maxSum, sum+float64(w))
			t.count += b2i(t.count < maxCount)
		}
		t.set(sum / weightUnit)
	}
	e.evidence.direction = uint8(i)
	s.keep(e.evidence)
}

// pass counts one more message of the conversation.
func (s *state) pass() {
	if s.quiet++; s.quiet == math.MaxUint8 {
		s.fade()
	}
}

// fade takes off of all evidence what the messages since have taken.
func (s *state) fade() {
	if s.quiet == 0 {
		return
	}
	for i := range s.directions {
		s.directions[i].fade(faded(s.quiet))
	}
	s.quiet = 0
}

func (d *direction) fade(f float64) {
	for i := range d.labels {
		t := &d.labels[i]
		t.set(float64(t.sum) * f)
	}
}

// set gives a tally another sum, in weightUnit. One of nothing is empty.
func (t *tally) set(sum float64) {
	if t.sum = uint16(math.Round(sum)); t.sum == 0 {
		*t = tally{}
	}
}

func b2i(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// direction returns the index of the sender, making room where there is none:
// the sender with the least risk is forgotten.
func (s *state) direction(sender uint64, at int64, m *model) int {
	least, risk := 0, math.Inf(1)
	for i := range s.directions {
		if s.directions[i].sender == sender {
			return i
		}
		if r := m.of(&s.directions[i], at, s.quiet); r < risk {
			least, risk = i, r
		}
	}
	fresh := direction{sender: sender, at: plausible(at)}
	if len(s.directions) < maxDirections {
		s.directions = append(s.directions, fresh)
		return len(s.directions) - 1
	}
	s.directions[least] = fresh
	kept := s.evidence[:0]
	for _, e := range s.evidence {
		if int(e.direction) != least {
			kept = append(kept, e)
		}
	}
	s.evidence = kept
	return least
}

// Times outside these are mistakes of a clock or of a format; they neither age
// the evidence nor stop its ageing.
const (
	earliest = 946684800  // 2000-01-01
	latest   = 4102444800 // 2100-01-01
)

// plausible returns at, or 0 for a time that says nothing.
func plausible(at int64) int64 {
	if at < earliest || at > latest {
		return 0
	}
	return at
}

// decay ages the evidence to at. Time never goes backwards.
func (d *direction) decay(at int64, m *model) {
	if at = plausible(at); at <= d.at {
		return
	}
	f := m.decay(d.at, at)
	d.at = at
	if f < 1 {
		d.fade(f)
	}
}

// keep adds evidence, and drops what adds least where there is too much.
func (s *state) keep(e evidence) {
	if s.evidence = append(s.evidence, e); len(s.evidence) > maxEvidence {
		s.dropLeast()
	}
}

// dropLeast drops the message that adds least: what it scores, counted in full
// only where no other message of its sender scores more for the label.
func (s *state) dropLeast() {
	least, worth := 0, math.MaxInt
	for i := range s.evidence {
		c, sum := &s.evidence[i], 0
		for _, it := range c.items[:c.n] {
			v := 4 * int(it.score)
			for j := range s.evidence {
				if o := &s.evidence[j]; j != i && o.direction == c.direction && o.best(it.label) >= it.score {
					v = int(it.score)
				}
			}
			sum += v
		}
		if sum < worth {
			least, worth = i, sum
		}
	}
	s.evidence = append(s.evidence[:least], s.evidence[least+1:]...)
}

// best returns the score of the evidence for a label.
func (e *evidence) best(l label) uint8 {
	for _, it := range e.items[:e.n] {
		if it.label == l {
			return it.score
		}
	}
	return 0
}

// holds reports whether the message is evidence already.
func (s *state) holds(id string) bool {
	for i := range s.evidence {
		if string(s.evidence[i].id) == id {
			return true
		}
	}
	return false
}

const stateFormat = 5

// maxStateBytes bounds a state whose message ids have at most 36 bytes, as long
// as a UUID is. Evidence gives way: with four senders who did everything, and
// offsets far apart, there is room for two messages of it.
const maxStateBytes = 512

// encode returns the encoded state, without the evidence for which there is no
// room. One message of it stays however long its id is.
func (s *state) encode() []byte {
	b := s.append(make([]byte, 0, maxStateBytes))
	for len(b) > maxStateBytes && len(s.evidence) > 1 {
		s.dropLeast()
		b = s.append(b[:0])
	}
	return b
}

// append encodes the state behind b.
func (s *state) append(b []byte) []byte {
	b = append(b, stateFormat, s.alerted, s.quiet)
	b = binary.AppendUvarint(b, uint64(uint32(s.partition)))
	for _, a := range s.stated {
		b = append(b, a.years)
		if a.years > 0 {
			b = binary.LittleEndian.AppendUint64(b, a.member)
		}
	}
	b = append(b, byte(len(s.directions)))
	for i := range s.directions {
		d := &s.directions[i]
		b = binary.LittleEndian.AppendUint64(b, d.sender)
		b = binary.AppendUvarint(b, uint64(d.at))
		b = append(b, byte(d.prior), d.messages)
		at, mask := len(b), uint16(0)
		b = append(b, 0, 0)
		for l, t := range d.labels {
			if t != (tally{}) {
				mask |= 1 << l
				b = append(binary.LittleEndian.AppendUint16(b, t.sum), t.count)
			}
		}
		binary.LittleEndian.PutUint16(b[at:], mask)
	}
	b = append(b, byte(len(s.evidence)))
	for i := range s.evidence {
		e := &s.evidence[i]
		b = binary.AppendUvarint(b, uint64(len(e.id)))
		b = append(b, e.id...)
		b = append(b, e.direction<<5|e.n<<3|e.offsets)
		for _, it := range e.items[:e.n] {
			b = append(b, byte(it.label), it.score)
			b = binary.AppendUvarint(b, uint64(it.span.start))
			b = binary.AppendUvarint(b, uint64(it.span.end-it.span.start))
		}
		last := int64(0)
		for _, o := range e.context[:e.offsets] {
			b = binary.AppendUvarint(b, uint64(o-last))
			last = o
		}
	}
	return b
}

// decode reads a state. It refers to data. Damaged data, or data of another
// format, is an empty state: evidence gathers again.
func (s *state) decode(data []byte) {
	directions, kept := s.directions[:0], s.evidence[:0]
	*s = state{directions: directions, evidence: kept}
	if len(data) == 0 {
		return
	}
	r := reader{data: data}
	if r.byte(stateFormat) != stateFormat {
		r.bad = true
	}
	s.alerted = r.byte(bands)
	s.quiet = r.byte(math.MaxUint8 - 1)
	s.partition = int32(uint32(r.uvarint(math.MaxInt32)))
	for i := range s.stated {
		if s.stated[i].years = r.byte(adult - 1); s.stated[i].years > 0 {
			s.stated[i].member = r.uint64()
		}
	}
	if a := s.stated; a[1].years > 0 && (a[0].years == 0 || a[0].years > a[1].years || a[0].member == a[1].member) {
		r.bad = true
	}
	for range r.byte(maxDirections) {
		var d direction
		d.sender = r.uint64()
		d.at = int64(r.uvarint(latest))
		d.prior = int8(r.byte(math.MaxUint8))
		d.messages = r.byte(math.MaxUint8)
		mask := r.uint16()
		if mask>>labels != 0 {
			r.bad = true
		}
		for l := range d.labels {
			if mask&(1<<l) != 0 {
				t := tally{r.uint16(), r.byte(maxCount)}
				d.labels[l] = t
				r.bad = r.bad || t.sum == 0 || t.sum > maxSum/weightUnit || t.count == 0
			}
		}
		s.directions = append(s.directions, d)
	}
	for range r.byte(maxEvidence) {
		var e evidence
		e.id = r.bytes(int(r.uvarint(1 << 12)))
		counts := r.byte(math.MaxUint8)
		e.direction, e.n, e.offsets = counts>>5, counts>>3&3, counts&7
		if int(e.direction) >= len(s.directions) || e.n > maxItems || e.offsets > maxContext || r.bad {
			r.bad = true
			break
		}
		for i := range e.items[:e.n] {
			it := item{label: label(r.byte(uint8(labels - 1))), score: r.byte(math.MaxUint8)}
			it.span.start = int(r.uvarint(1 << 20))
			it.span.end = it.span.start + int(r.uvarint(1<<20))
			e.items[i] = it
		}
		last := int64(0)
		for i := range e.context[:e.offsets] {
			last += int64(r.uvarint(uint64(math.MaxInt64 - last)))
			e.context[i] = last
		}
		s.evidence = append(s.evidence, e)
	}
	if r.bad || len(r.data) > 0 {
		*s = state{directions: directions[:0], evidence: kept[:0]}
	}
}

// reader reads with limits and remembers whether one was passed.
type reader struct {
	data []byte
	bad  bool
}

func (r *reader) bytes(n int) []byte {
	if r.bad || n > len(r.data) {
		r.bad = true
		return nil
	}
	b := r.data[:n:n]
	r.data = r.data[n:]
	return b
}

func (r *reader) byte(limit uint8) uint8 {
	b := r.bytes(1)
	if b == nil || b[0] > limit {
		r.bad = true
		return 0
	}
	return b[0]
}

func (r *reader) uint16() uint16 {
	if b := r.bytes(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if b := r.bytes(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (r *reader) uvarint(limit uint64) uint64 {
	v, n := binary.Uvarint(r.data)
	if r.bad || n <= 0 || v > limit {
		r.bad = true
		return 0
	}
	r.data = r.data[n:]
	return v
}
