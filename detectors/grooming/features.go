package grooming

import (
	"encoding/binary"
	"unicode/utf8"

	"github.com/dmguard/dmguard/pipeline"
)

// What the message model sees of a text are hashes of the words of the folded
// text, of neighbouring words, and of three to five characters in a row within
// a word, its edges counted as one each. A letter that follows itself counts
// once, since who stretches words does so anywhere. Numbers of this file are part
// of the format of a model: featureVersion changes with them.
const (
	featureVersion = 2

	shortestGram, longestGram = 3, 5

	// maxWordBytes cuts what has no spaces into pieces.
	maxWordBytes = 40

	// A block ends with this many words, or with the word that reaches this many
	// bytes. Two blocks in a row are a window: what the model judges as one.
	blockWords = 16
	blockBytes = 112

	// maxBlockFeatures is more than a block can have: a word of n characters has
	// at most 3n of them and two more.
	maxBlockFeatures = 3*(blockBytes+maxWordBytes) + 2*blockWords

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
	pair   [maxBlockFeatures]bool  // the feature is of this word and the one before it
	spans  [blockWords]span        // of words, in the folded text
}

// extractor reads a folded text block by block.
type extractor struct {
	text     []byte
	at       int
	previous uint64 // hash of the word before, 0 for none
	block    block
}

func (x *extractor) reset(text []byte) {
	x.text, x.at, x.previous = text, 0, 0
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
	at := b.n
	b.hashes[at], b.word[at], b.pair[at] = h, nth, false
	at++
	if x.previous != 0 {
		b.hashes[at], b.word[at], b.pair[at] = mix(x.previous*fnvPrime+h), nth, true
		at++
	}
	x.previous = h

	if multibyte {
		b.n = x.grams(w[:n], at, nth)
		return
	}
	for i := 0; i+shortestGram <= n; i++ {
		key := binary.LittleEndian.Uint64(w[i:])
		b.hashes[at], b.word[at], b.pair[at] = mix(key&(1<<24-1)|3<<56), nth, false
		at++
		if i+4 <= n {
			b.hashes[at], b.word[at], b.pair[at] = mix(key&(1<<32-1)|4<<56), nth, false
			at++
		}
		if i+5 <= n {
			b.hashes[at], b.word[at], b.pair[at] = mix(key&(1<<40-1)|5<<56), nth, false
			at++
		}
	}
	b.n = at
}

// grams adds the runs of characters of a word that is not only ASCII.
func (x *extractor) grams(w []byte, at int, nth uint8) int {
	b := &x.block
	for i := range w {
		if !utf8.RuneStart(w[i]) {
			continue
		}
		end, chars := i, 0
		for end < len(w) && chars < longestGram {
			end++
			for end < len(w) && !utf8.RuneStart(w[end]) {
				end++
			}
			if chars++; chars >= shortestGram {
				b.hashes[at], b.word[at], b.pair[at] = gramHash(w[i:end]), nth, false
				at++
			}
		}
	}
	return at
}

// gramHash hashes a run of characters, a short one as add does it at once.
func gramHash(g []byte) uint64 {
	if len(g) < 8 {
		key := uint64(len(g)) << 56
		for i, c := range g {
			key |= uint64(c) << (8 * i)
		}
		return mix(key)
	}
	h := uint64(fnvOffset)
	for _, c := range g {
		h = (h ^ uint64(c)) * fnvPrime
	}
	return mix(h)
}

const (
	fnvOffset = 14695981039346656037
	fnvPrime  = 1099511628211
	wordSalt  = 0x5bd1e9955bd1e995
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
// value is ready. It is not safe for concurrent use.
type Extractor struct {
	view view
	x    extractor
}

// Blocks calls yield with the hashes of the features of one block of words after
// another; what yield gets is valid until it returns. A model judges two blocks
// in a row at once. [Slot] says which row of a table is a feature's.
func (e *Extractor) Blocks(text string, yield func(hashes []uint64)) {
	e.view.fold(text)
	stretches(e.view.b, func(text []byte, _ int) {
		e.x.reset(text)
		for e.x.next() {
			yield(e.x.block.hashes[:e.x.block.n])
		}
	})
}

// Slot returns the row that a feature has in a table of 1<<bits rows, and the
// number, never 0, by which the row is known to be that feature's and not that
// of another that falls into it.
func Slot(hash uint64, bits int) (row uint32, check uint16) { return slot(hash, bits) }
