package grooming

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"maps"
	"math/bits"
	"slices"
)

// A vocabulary is every word that the rule packs have: those that phrases hold,
// and those of a class, which mean much the same in whatever language. It is one
// table by a hash, so that a word of a text costs one look-up, and most words end
// there. It is immutable.
type vocabulary struct {
	slots []knownWord // a power of two of them, never full
	shift int
}

// maxClasses is how many classes a word can be of, in all languages together.
const maxClasses = 2

// knownWord is a word of the vocabulary. In an empty slot all is 0.
type knownWord struct {
	check uint32             // the half of its hash that the slot does not tell
	id    uint32             // of a word that phrases hold, with accepting; 0 for none
	names [maxClasses]uint32 // of the classes of the word as it is stretched; 0 behind the last
}

// newVocabulary makes one of the words of phrases, and of the classes of words,
// which are by the hash of the word as it is stretched.
func newVocabulary(ids map[string]uint32, classes map[uint64][]uint32) (*vocabulary, error) {
	v := &vocabulary{shift: 63}
	for 3<<(64-v.shift) < 4*(len(ids)+len(classes)) {
		v.shift--
	}
	v.slots = make([]knownWord, 1<<(64-v.shift))
	for _, word := range slices.Sorted(maps.Keys(ids)) {
		hash, stretched := wordHash([]byte(word)), stretchHash([]byte(word))
		if v.find(hash) != nil {
			return nil, fmt.Errorf("the word %q and one other have the same hash", word)
		}
		w := knownWord{id: ids[word]}
		copy(w.names[:], classes[stretched])
		v.insert(hash, w)
	}
	for _, hash := range slices.Sorted(maps.Keys(classes)) {
		if v.find(hash) == nil {
			var w knownWord
			copy(w.names[:], classes[hash])
			v.insert(hash, w)
		}
	}
	return v, nil
}

// insert adds a word that is not there and has an id or a class.
func (v *vocabulary) insert(hash uint64, w knownWord) {
	at := hash >> v.shift
	for v.slots[at] != (knownWord{}) {
		at = (at + 1) & uint64(len(v.slots)-1)
	}
	w.check = uint32(hash)
	v.slots[at] = w
}

// find returns the word with a hash, or nil.
func (v *vocabulary) find(hash uint64) *knownWord {
	slots := v.slots
	for at := hash >> v.shift; ; at++ {
		w := &slots[at&uint64(len(slots)-1)]
		if w.id|w.names[0] == 0 {
			return nil
		}
		if w.check == uint32(hash) {
			return w
		}
	}
}

// wordHasher makes the hash of a word, eight bytes at a time.
type wordHasher struct {
	h, chunk uint64
	n        int // bits of chunk
}

func (w *wordHasher) add(c byte) {
	w.chunk |= uint64(c) << w.n
	if w.n += 8; w.n == 64 {
		w.h = mix(w.h ^ w.chunk)
		w.chunk, w.n = 0, 0
	}
}

func (w *wordHasher) sum() uint64 {
	if w.n > 0 {
		w.h = mix(w.h ^ w.chunk)
	}
	return w.h
}

// wordHash returns the hash of a folded word, which holds no byte 0.
func wordHash(word []byte) uint64 {
	var w wordHasher
	for _, c := range word {
		w.add(c)
	}
	return w.sum()
}

// stretchHash returns the hash of a folded word in which no letter follows
// itself, as the message model reads it.
func stretchHash(word []byte) uint64 {
	var w wordHasher
	last := byte(0)
	for _, c := range word {
		if c != last || c < 'a' || c > 'z' {
			w.add(c)
		}
		last = c
	}
	return w.sum()
}

// ideaName returns the hash of the name of an idea, never 0.
func ideaName(name string) uint32 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // never fails
	return max(1, uint32(mix(h.Sum64())>>32))
}

// look is what was seen of a word of a text in passing.
type look uint8

const (
	// doubled: perhaps a letter follows itself, so that stretchHash is another hash.
	doubled look = 1 << iota
	// mixed: it has letters of the Latin alphabet, and something else.
	mixed
)

// Masks of eight bytes at once, one bit of each set: 0x80 in bytes that are what
// the name says.
const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// letters8 returns the bytes of x that are a to z, and words8 those that are
// part of a word: digits and what is not ASCII, too.
func letters8(x uint64) uint64 {
	y := x &^ highs
	return (y + (0x80-'a')*ones) &^ (y + (0x80-'z'-1)*ones) &^ x & highs
}

func words8(x, letters uint64) uint64 {
	y := x &^ highs
	return letters | x&highs | (y+(0x80-'0')*ones)&^(y+(0x80-'9'-1)*ones)&highs
}

// wordAt reads the word that begins at start, and returns where it ends and its
// wordHash. b is a text and eight bytes more, of which the first is a space.
func wordAt(b []byte, start int) (end int, hash uint64, seen look) {
	var last, letters, others, same uint64 // the byte before those that are read; what was seen of bytes, at their highest bits
	for end = start; ; end += 8 {
		x := binary.LittleEndian.Uint64(b[end:])
		l := letters8(x)
		n := bits.TrailingZeros64(words8(x, l)^highs) &^ 7 // bits of x that are of the word
		if n == 0 {
			break
		}
		in := uint64(1)<<n - 1 // all where n is 64
		x &= in
		letters |= l & in
		others |= ^l & in
		// A byte that equals the one before it gives a zero, which is seen where
		// another zero lies below it, too: that costs a second look and no more.
		equal := x ^ (x<<8 | last)
		same |= (equal - ones) &^ equal & in
		hash = mix(hash ^ x)
		if last = x >> 56; n < 64 {
			end += n / 8
			break
		}
	}
	if same&highs != 0 {
		seen = doubled
	}
	if letters != 0 && others&highs != 0 {
		seen |= mixed
	}
	return end, hash, seen
}
