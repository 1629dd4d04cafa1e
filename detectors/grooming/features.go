package grooming

import (
	"cmp"
	"encoding/binary"
	"slices"
	"unicode/utf8"

	"github.com/dmguard/dmguard/pipeline"
)

// What the message model sees of a text are hashes of the words of the folded
// text, of neighbouring words, of three to five characters in a row within a
// word, its edges counted as one each, and of the ideas that the rule packs know
// it by, alone and two in a row: they are the same in every language. A letter
// that follows itself counts once, since who stretches words does so anywhere.
// Numbers of this file are part of the format of a model: featureVersion changes
// with them.
const (
	featureVersion = 3

	shortestGram, longestGram = 3, 5

	// maxWordBytes cuts what has no spaces into pieces.
	maxWordBytes = 40

	// A block ends with this many words, or with the word that reaches this many
	// bytes. Two blocks in a row are a window: what the model judges as one.
	blockWords = 16
	blockBytes = 112

	// Two ideas are a pair where at most this many words lie from the one to the
	// other, and of the ideas before one so many are looked at.
	ideaReach, ideaLooks = 4, 24
	// maxWordIdeas is how many ideas that end in one word are looked at.
	maxWordIdeas = 6

	// maxBlockFeatures is more than a block can have: a word of n characters has
	// at most 3n of them and two more, and its ideas with those before them.
	maxBlockFeatures = 3*(blockBytes+maxWordBytes) + blockWords*(2+maxWordIdeas*(1+ideaLooks))

	// maxModelChars is how many characters of the folded text are looked at. Only a
	// text that grew in folding has more; then samples are, evenly spread.
	maxModelChars = pipeline.MaxTextLength
	samples       = 64
)

// block is a run of words and its features.
type block struct {
	n      int // features
	words  int
	hashes [maxBlockFeatures]uint64
	word   [maxBlockFeatures]uint8 // that the feature ends in
	back   [maxBlockFeatures]uint8 // how many words before this one lies another that the feature is of too; 0 for none
	spans  [blockWords]span        // of words, in the folded text
}

// An idea is something that the rule packs know by name, and where it is said:
// one of their concepts or classes of words.
type idea struct {
	name        uint32 // hash of it
	first, last int32  // words, by number
	end         int32  // in the folded text
}

// extractor reads a folded text block by block.
type extractor struct {
	text     []byte
	at       int
	previous uint64 // hash of the word before, 0 for none
	ideas    []idea // of the whole text, by their ends
	from     int    // where text begins in the whole text
	idea     int    // the next to come
	block    block
}

// reset begins with a text, or with the part of one that begins at from, and the
// ideas of the whole.
func (x *extractor) reset(text []byte, from int, ideas []idea) {
	x.text, x.at, x.previous, x.ideas, x.from = text, 0, 0, ideas, from
	x.skip(from)
}

// skip passes over the ideas that end up to a place in the whole text.
func (x *extractor) skip(to int) {
	x.idea, _ = slices.BinarySearchFunc(x.ideas, int32(to)+1, func(i idea, end int32) int { return cmp.Compare(i.end, end) })
}

// next reads the next block and reports whether there was one.
func (x *extractor) next() bool {
	b := &x.block
	b.n, b.words = 0, 0
	text, at, bytes := x.text, x.at, 0
	for b.words < blockWords && bytes < blockBytes {
		for at < len(text) && kind[text[at]] != inWord {
			at++
		}
		if at == len(text) {
			break
		}
		start := at
		high := byte(0)
		for at < len(text) && kind[text[at]] == inWord {
			if at-start >= maxWordBytes-utf8.UTFMax && utf8.RuneStart(text[at]) {
				break
			}
			high |= text[at]
			at++
		}
		bytes += at - start
		x.add(start, at, high >= utf8.RuneSelf)
	}
	x.at = at
	return b.words > 0
}

// add takes in a word.
func (x *extractor) add(start, end int, multibyte bool) {
	b := &x.block
	nth := uint8(b.words)
	b.spans[b.words] = span{start, end}
	b.words++

	// The word with its edges, and room to read eight bytes anywhere in it.
	var w [maxWordBytes + 2 + 8]byte
	w[0] = ' '
	n := 1
	for _, c := range x.text[start:end] {
		if c != w[n-1] || c < 'a' || c > 'z' {
			w[n] = c
			n++
		}
	}
	w[n] = ' '
	n++

	h := uint64(fnvOffset)
	for _, c := range w[1 : n-1] {
		h = (h ^ uint64(c)) * fnvPrime
	}
	h = mix(h ^ wordSalt)
	at := x.addIdeas(end, b.n, nth)
	b.hashes[at], b.word[at], b.back[at] = h, nth, 0
	at++
	if x.previous != 0 {
		b.hashes[at], b.word[at], b.back[at] = mix(x.previous*fnvPrime+h), nth, 1
		at++
	}
	x.previous = h

	if multibyte {
		b.n = x.grams(w[:], n, at, nth)
		return
	}
	for i := 0; i+shortestGram <= n; i++ {
		key := binary.LittleEndian.Uint64(w[i:])
		b.hashes[at], b.word[at], b.back[at] = mix(key&(1<<24-1)|3<<56), nth, 0
		at++
		if i+4 <= n {
			b.hashes[at], b.word[at], b.back[at] = mix(key&(1<<32-1)|4<<56), nth, 0
			at++
		}
		if i+5 <= n {
			b.hashes[at], b.word[at], b.back[at] = mix(key&(1<<40-1)|5<<56), nth, 0
			at++
		}
	}
	b.n = at
}

// addIdeas adds those that end in the word that ends at end, alone and each
// behind those before it, and returns the number of features.
func (x *extractor) addIdeas(end, at int, nth uint8) int {
	b := &x.block
	for n := 0; x.idea < len(x.ideas) && int(x.ideas[x.idea].end) <= x.from+end; x.idea++ {
		if n++; n > maxWordIdeas {
			continue
		}
		i := &x.ideas[x.idea]
		b.hashes[at], b.word[at], b.back[at] = mix(uint64(i.name)^ideaSalt), nth, 0
		at++
		for j := x.idea - 1; j >= max(0, x.idea-ideaLooks); j-- {
			p := &x.ideas[j]
			if p.last < i.first-ideaReach {
				break
			}
			if p.last >= i.first {
				continue // the same words
			}
			b.hashes[at], b.word[at], b.back[at] = mix(uint64(p.name)<<32|uint64(i.name)), nth, uint8(i.last-p.last)
			at++
		}
	}
	return at
}

// grams adds the runs of characters of a word of n bytes that is not only ASCII;
// w has room to read eight bytes anywhere in it.
func (x *extractor) grams(w []byte, n, at int, nth uint8) int {
	b := &x.block
	for i := range n {
		if !utf8.RuneStart(w[i]) {
			continue
		}
		h := uint64(fnvOffset)
		for end, chars := i, 1; end < n && chars <= longestGram; chars++ {
			h = (h ^ uint64(w[end])) * fnvPrime
			for end++; end < n && !utf8.RuneStart(w[end]); end++ {
				h = (h ^ uint64(w[end])) * fnvPrime
			}
			if chars < shortestGram {
				continue
			}
			key := h
			if l := end - i; l < 8 { // as add does it at once
				key = binary.LittleEndian.Uint64(w[i:])&(1<<(8*l)-1) | uint64(l)<<56
			}
			b.hashes[at], b.word[at], b.back[at] = mix(key), nth, 0
			at++
		}
	}
	return at
}

const (
	fnvOffset = 14695981039346656037
	fnvPrime  = 1099511628211
	wordSalt  = 0x5bd1e9955bd1e995
	ideaSalt  = 0xc2b2ae3d27d4eb4f
)

// mix spreads a key over all bits.
func mix(h uint64) uint64 {
	h *= 0x9e3779b97f4a7c15
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	return h ^ h>>29
}

// slot returns the row that a feature has in a table of 1<<bits rows, and the
// number, never 0, by which the row is known to be that feature's.
func slot(hash uint64, bits int) (row uint32, check uint16) {
	return uint32(hash >> (64 - bits)), uint16(hash) | b2u16(uint16(hash) == 0)
}

func b2u16(b bool) uint16 {
	if b {
		return 1
	}
	return 0
}

// stretches calls look with the parts of a folded text that the model looks at:
// all of it, or of one that has more than maxModelChars characters samples of
// it, evenly spread.
func stretches(text []byte, look func(text []byte, from int)) {
	chars := 0
	if len(text) > maxModelChars {
		for _, c := range text {
			if utf8.RuneStart(c) {
				chars++
			}
		}
	}
	if chars <= maxModelChars {
		look(text, 0)
		return
	}
	for i := range samples {
		from := len(text) / samples * i
		for from < len(text) && !utf8.RuneStart(text[from]) {
			from++
		}
		to := from
		for range maxModelChars / samples {
			_, n := utf8.DecodeRune(text[to:])
			to += n
		}
		look(text[from:to], from)
	}
}

// Extractor gives the features of texts to whoever trains a model. The zero
// value is ready and knows no ideas; see [Detector.Extractor]. It is not safe for
// concurrent use.
type Extractor struct {
	lexicon *lexicon
	s       scratch
	x       extractor
}

// Extractor returns one that knows the ideas of the detector's rule packs.
func (d *Detector) Extractor() *Extractor { return &Extractor{lexicon: d.lexicon} }

// Blocks calls yield with the hashes of the features of one block of words after
// another; what yield gets is valid until it returns. A model judges two blocks
// in a row at once. [Slot] says which row of a table is a feature's.
func (e *Extractor) Blocks(text string, yield func(hashes []uint64)) {
	e.lexicon.read(text, &e.s)
	stretches(e.s.reading.b, func(text []byte, from int) {
		e.x.reset(text, from, e.s.ideas)
		for e.x.next() {
			yield(e.x.block.hashes[:e.x.block.n])
		}
	})
}

// read makes the reading of a text that the message model sees, and finds its
// ideas. Without packs that is the folded text, and there are none.
func (l *lexicon) read(text string, s *scratch) {
	if l == nil {
		s.folded.fold(text)
		s.reading, s.ideas = &s.folded, s.ideas[:0]
		return
	}
	l.scan(text, s)
}

// Slot returns the row that a feature has in a table of 1<<bits rows, and the
// number, never 0, by which the row is known to be that feature's and not that
// of another that falls into it.
func Slot(hash uint64, bits int) (row uint32, check uint16) { return slot(hash, bits) }
