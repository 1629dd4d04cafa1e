package grooming

import (
	"hash/fnv"
	"slices"
)

// A thesaurus says which classes of words a word is of: words of one class mean
// much the same, in whatever language. It is a table of hashes, so that ten
// thousands of words cost no more than a few.
type thesaurus struct {
	slots []entry // a power of two of them, or none
	shift int
}

// maxClasses is how many classes a word can be of, in all languages together.
const maxClasses = 2

// entry is a word; one whose first name is 0 is empty.
type entry struct {
	check uint32
	names [maxClasses]uint32 // 0 behind the last
}

// stretchHash returns the hash of a folded word in which no letter follows
// itself, as the message model reads it.
func stretchHash(word []byte) uint64 {
	h, last := uint64(fnvOffset), byte(0)
	for _, c := range word {
		if c != last || c < 'a' || c > 'z' {
			h = phraseHash(h, c)
		}
		last = c
	}
	return h
}

// ideaName returns the hash of the name of an idea, never 0.
func ideaName(name string) uint32 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // never fails
	return max(1, uint32(mix(h.Sum64())>>32))
}

// newThesaurus makes a table of the classes of words, which are by hash. Of a
// word that is of too many the first count.
func newThesaurus(classes map[uint64][]uint32) thesaurus {
	v := thesaurus{shift: 64}
	if len(classes) == 0 {
		return v
	}
	size := 1
	for size < 2*len(classes) {
		size, v.shift = 2*size, v.shift-1
	}
	v.slots = make([]entry, size)
	hashes := make([]uint64, 0, len(classes))
	for h := range classes {
		hashes = append(hashes, h)
	}
	slices.Sort(hashes)
	for _, h := range hashes {
		m := mix(h)
		at := m >> v.shift
		for v.slots[at].names[0] != 0 {
			at = (at + 1) & uint64(size-1)
		}
		v.slots[at].check = uint32(m)
		copy(v.slots[at].names[:], classes[h])
	}
	return v
}

// tell adds the classes of a word to the ideas of a text.
func (v *thesaurus) tell(s *scratch, hash uint64, word int32, end int) {
	if len(v.slots) == 0 {
		return
	}
	m := mix(hash)
	for at := m >> v.shift; v.slots[at].names[0] != 0; at = (at + 1) & uint64(len(v.slots)-1) {
		e := &v.slots[at]
		if e.check != uint32(m) {
			continue
		}
		for _, name := range e.names {
			if name == 0 {
				return
			}
			s.think(idea{name: name, first: word, last: word, end: int32(end)})
		}
		return
	}
}
