package hashdb

import (
	"cmp"
	"math/bits"
	"slices"
	"sync"
)

// A table finds hashes of one kind, distinct and in ascending order, each known by its place. The order and a
// directory over the first bits find a hash exactly. By distance, a small table is gone through from
// one end to the other; a larger one is cut into bands (multi-index hashing, Norouzi, Punjani, Fleet: Fast
// Exact Search in Hamming Space with Multi-Index Hashing, 2014): of two hashes at distance r
// at most, one band of m differs by so few bits that all values so near can be looked up. Nothing is missed:
// were every band i further apart than t[i] bits, then the hashes were apart by the sum of t[i]+1, and that is
// chosen to be r+1.
//
// Pictures do not fill the space evenly; neighbours in a hash agree more often than chance. Bits are therefore
// scattered before they are cut into bands, k to 37k modulo the size, which distances do not notice.
type table struct {
	kind  Kind
	words []uint64    // some for each hash
	wide  [][4]uint64 // the same where there are 4 for each
	each  int         // how many, 0 if the table is empty
	bands []band      // the first needs no ids: the table is in its order
	first []uint32    // of the records of a hash; one more than hashes
	plain bool        // every hash has one record: first need not be asked, which saves a wait for memory
}

// A band is some consecutive bits of the scattered hash.
type band struct {
	offset, width int
	dir           []uint32 // of ids, by the value of the band: ids[dir[v]:dir[v+1]]
	ids           []uint32
	masks         []uint32 // what to flip, the fewest bits first
	within        [maxFlips + 1]int
}

// maxFlips is how many bits of a band are flipped at most; beyond, going through everything is faster.
const maxFlips = 2

// plan is how wide the bands of a table are.
type plan uint32

const (
	planOrder    plan = iota // the directory over the order alone
	planSixteen              // of 256 bits: 4 MiB of directory, 0.4% of the hashes compared
	planEleven               // of 256 bits: 516 MiB of directory, 0.03% of the hashes compared
	planQuarters             // of 64 bits
	plans
)

// Up to fewLinear hashes are gone through, up to fewSixteen are in sixteen bands.
const (
	fewLinear  = 1 << 13
	fewSixteen = 1 << 21
)

func planFor(kind Kind, n int) plan {
	switch {
	case !kind.isNear(), n <= fewLinear:
		return planOrder
	case kind == PHash:
		return planQuarters
	case n <= fewSixteen:
		return planSixteen
	default:
		return planEleven
	}
}

// fits says whether tables of a kind may have the plan.
func (p plan) fits(kind Kind) bool {
	switch p {
	case planOrder:
		return true
	case planSixteen, planEleven:
		return kind.isPDQ()
	case planQuarters:
		return kind == PHash
	default:
		return false
	}
}

// widths returns the bits of each band of a table of n hashes. The last band of the eleven is narrow because at
// radius 31 it is the one in which a single bit is flipped.
func (p plan) widths(n int) []int {
	switch p {
	case planSixteen:
		return slices.Repeat([]int{16}, 16)
	case planEleven:
		return []int{24, 24, 24, 24, 24, 24, 23, 23, 23, 23, 20}
	case planQuarters:
		return slices.Repeat([]int{16}, 4)
	default:
		return []int{max(1, min(bits.Len(uint(n)), 26))}
	}
}

// stride is how many words a hash of the kind takes.
func (k Kind) stride() int { return (k.Size() + 7) / 8 }

// index returns the words that a table holds for a hash.
func (h *Hash) index() [4]uint64 {
	w := h.words()
	switch h.kind {
	case PDQ, VPDQ:
		return scatter256(&w)
	case PHash:
		return [4]uint64{scatter64(w[0])}
	default:
		return w
	}
}

// nibbles returns where every value of every four bits goes.
var nibbles = sync.OnceValue(func() *[64][16][4]uint64 {
	var t [64][16][4]uint64
	for n := range t {
		for v := range t[n] {
			for b := range 4 {
				if v>>b&1 == 1 {
					to := 37 * (4*n + b) % 256
					t[n][v][to/64] |= 1 << (to % 64)
				}
			}
		}
	}
	return &t
})

func scatter256(w *[4]uint64) [4]uint64 {
	t := nibbles()
	var out [4]uint64
	for i, x := range w {
		for n := range 16 {
			part := &t[16*i+n][x>>(4*n)&15]
			out[0] |= part[0]
			out[1] |= part[1]
			out[2] |= part[2]
			out[3] |= part[3]
		}
	}
	return out
}

func scatter64(w uint64) uint64 {
	var out uint64
	for ; w != 0; w &= w - 1 {
		out |= 1 << (37 * bits.TrailingZeros64(w) % 64)
	}
	return out
}

// newBands returns bands with masks and without directories.
func newBands(p plan, n int) []band {
	var out []band
	offset := 0
	for _, width := range p.widths(n) {
		b := band{offset: offset, width: width}
		if p != planOrder {
			b.masks, b.within = masks(width)
		}
		out = append(out, b)
		offset += width
	}
	return out
}

// masks returns all numbers of width bits of which at most maxFlips are set, the fewest first,
// and how many there are up to each number of bits.
func masks(width int) (all []uint32, within [maxFlips + 1]int) {
	all = append(all, 0)
	within[0] = 1
	for a := range width {
		all = append(all, 1<<a)
	}
	within[1] = len(all)
	for a := range width {
		for b := range a {
			all = append(all, 1<<a|1<<b)
		}
	}
	within[2] = len(all)
	return all, within
}

// value returns the band's bits of words, counted from the highest bit of the first.
func (b *band) value(w []uint64) uint32 {
	i, s := b.offset/64, b.offset%64
	v := w[i] << s
	if s+b.width > 64 {
		v |= w[i+1] >> (64 - s)
	}
	return uint32(v >> (64 - b.width))
}

func (t *table) len() int {
	if t.each == 0 {
		return 0
	}
	return len(t.words) / t.each
}

func (t *table) at(i int) []uint64 { return t.words[i*t.each : (i+1)*t.each : (i+1)*t.each] }

// full returns the words of a hash, those that its kind does not have being 0.
func (t *table) full(i int) (w [4]uint64) {
	copy(w[:], t.at(i))
	return w
}

// find returns the place of a hash, or -1.
func (t *table) find(w *[4]uint64) int {
	if t.len() == 0 {
		return -1
	}
	b := &t.bands[0]
	v := b.value(w[:])
	lo, hi := int(b.dir[v]), int(b.dir[v+1])
	want := w[:t.each]
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		// Most differ in the first word.
		c := cmp.Compare(t.words[mid*t.each], w[0])
		if c == 0 {
			c = slices.Compare(t.at(mid), want)
		}
		switch {
		case c == 0:
			return mid
		case c < 0:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return -1
}

// neighbour is a hash of a table that is near another.
type neighbour struct {
	place    uint32
	distance int
}

// scratch is what a search works in, so that it need not allocate.
type scratch struct {
	spans      []bucket
	candidates []uint32
	near       []neighbour
	hits       []hit
}

type bucket struct{ start, end uint32 }

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// near returns every hash within radius of w, once each. The answer is valid until the next search with the scratch.
func (t *table) near(w *[4]uint64, radius int, s *scratch) []neighbour {
	s.near = s.near[:0]
	n := len(t.bands)
	if n == 0 || radius < 0 {
		return nil
	}
	// Bands before extra are searched with share flips, the others with one less; the sum of
	// flips+1 over all is radius+1.
	share, extra := (radius+1)/n, (radius+1)%n
	if n == 1 || share > maxFlips+1 || share == maxFlips+1 && extra > 0 {
		t.scan(w, radius, s)
		return s.near
	}
	for j := range t.bands {
		flips := share - 1
		if j < extra {
			flips++
		}
		if flips < 0 {
			break
		}
		// Three loops and no branch that waits for memory, so that the processor
		// has many loads under way at once.
		b := &t.bands[j]
		probes := b.masks[:b.within[flips]]
		if cap(s.spans) < len(probes) {
			s.spans = make([]bucket, len(probes))
		}
		spans := s.spans[:len(probes)]
		value, filled := b.value(w[:]), 0
		for _, mask := range probes {
			at := b.dir[value^mask:]
			start, end := at[0], at[1]
			spans[filled] = bucket{start, end}
			if start < end {
				filled++
			}
		}
		s.candidates = s.candidates[:0]
		for _, at := range spans[:filled] {
			if b.ids == nil {
				for i := at.start; i < at.end; i++ {
					s.candidates = append(s.candidates, i)
				}
			} else {
				for _, id := range b.ids[at.start:at.end] { //nolint:staticcheck // mostly one or two, for which a call to copy them takes longer
					s.candidates = append(s.candidates, id)
				}
			}
		}
		t.compare(w, radius, j, share, extra, s)
	}
	return s.near
}

// compare keeps the candidates of band j that are near and were no candidates of an earlier band.
func (t *table) compare(w *[4]uint64, radius, j, share, extra int, s *scratch) {
	if t.wide == nil {
		for _, id := range s.candidates {
			if d := bits.OnesCount64(t.words[id] ^ w[0]); d <= radius && !t.earlier(w, id, j, share, extra) {
				s.near = append(s.near, neighbour{id, d})
			}
		}
		return
	}
	w0, w1, w2, w3 := w[0], w[1], w[2], w[3]
	for _, id := range s.candidates {
		x := &t.wide[id]
		d := bits.OnesCount64(x[0]^w0) + bits.OnesCount64(x[1]^w1) + bits.OnesCount64(x[2]^w2) + bits.OnesCount64(x[3]^w3)
		if d <= radius && !t.earlier(w, id, j, share, extra) {
			s.near = append(s.near, neighbour{id, d})
		}
	}
}

// earlier says whether a band before j found the hash too.
func (t *table) earlier(w *[4]uint64, id uint32, j, share, extra int) bool {
	for i := range t.bands[:j] {
		flips := share - 1
		if i < extra {
			flips++
		}
		b := &t.bands[i]
		if bits.OnesCount32(b.value(w[:])^b.value(t.at(int(id)))) <= flips {
			return true
		}
	}
	return false
}

// scan goes through all hashes.
func (t *table) scan(w *[4]uint64, radius int, s *scratch) {
	if t.wide == nil {
		for i := range t.len() {
			x := t.at(i)
			d := 0
			for k := range x {
				d += bits.OnesCount64(x[k] ^ w[k])
			}
			if d <= radius {
				s.near = append(s.near, neighbour{uint32(i), d})
			}
		}
		return
	}
	for i := range t.wide {
		if d := apart(&t.wide[i], w, radius); d <= radius {
			s.near = append(s.near, neighbour{uint32(i), d})
		}
	}
}

// apart returns the distance of two hashes, or something above radius where that is further.
func apart(a, b *[4]uint64, radius int) int {
	// Half of the bits tell nearly every stranger.
	d := bits.OnesCount64(a[0]^b[0]) + bits.OnesCount64(a[1]^b[1])
	if d > radius {
		return d
	}
	return d + bits.OnesCount64(a[2]^b[2]) + bits.OnesCount64(a[3]^b[3])
}

// fill makes the directory over a band of the table's hashes, and the ids unless they are nil. dir has
// a place for each value and one more. The work is cut into values that the second cache can hold; otherwise
// every one of n steps would wait for memory.
func (t *table) fill(b *band, dir, ids []uint32, work *[]valued) {
	n, stride := t.len(), t.each
	if ids == nil { // in order already
		at := 0
		for v := range dir {
			for at < n && int(b.value(t.words[at*stride:])) < v {
				at++
			}
			dir[v] = uint32(at)
		}
		return
	}
	const cached = 14 // bits
	shift := min(b.width, cached)
	var ends [1 << (24 - cached)]uint32
	for i := 0; i < n*stride; i += stride {
		ends[b.value(t.words[i:])>>shift]++
	}
	sum := uint32(0)
	for p := range ends {
		sum, ends[p] = sum+ends[p], sum
	}
	if cap(*work) < n {
		*work = make([]valued, n)
	}
	rows := (*work)[:n]
	for i := range n {
		v := b.value(t.words[i*stride:])
		p := v >> shift
		rows[ends[p]] = valued{v, uint32(i)}
		ends[p]++
	}
	clear(dir)
	start := uint32(0)
	for p := range 1 << (b.width - shift) {
		part := rows[start:ends[p]]
		for _, r := range part {
			dir[r.value]++
		}
		end := start
		for v := p << shift; v < (p+1)<<shift; v++ {
			end += dir[v]
			dir[v] = end
		}
		for _, r := range slices.Backward(part) {
			dir[r.value]--
			ids[dir[r.value]] = r.id
		}
		start = end
	}
	dir[len(dir)-1] = uint32(n)
}

// valued is a hash by its place and the value of a band.
type valued struct{ value, id uint32 }

func compareWords(a, b *[4]uint64) int {
	return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1]), cmp.Compare(a[2], b[2]), cmp.Compare(a[3], b[3]))
}
