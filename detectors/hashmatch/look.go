package hashmatch

import (
	"errors"
	"fmt"
	"sync"

	"github.com/dmguard/dmguard/hashdb"
	"github.com/dmguard/dmguard/hashdb/pdq"
	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/pipeline/media"
)

// wantPHash asks [NewLook]'s function for the perception hash as well.
const wantPHash uint8 = 1 << 0

// What is seen of a frame: the quality, the PDQ hashes of its orientations, and
// the perception hash if it was asked for.
const (
	qualityAt = 0
	pdqAt     = 1
	phashAt   = pdqAt + pdq.Orientations*pdq.Size
	phashSize = 8

	maxQuality = 100
)

// NewLook returns the function that computes the perceptual hashes of a frame,
// for the [Examiner] of a [Preparer]. It needs nothing but the frame, so that it
// can run where there is nothing else.
func NewLook() media.Look {
	hashers := sync.Pool{New: func() any { return new(pdq.Hasher) }}
	return func(f media.Frame, want uint8) ([]byte, error) {
		hasher, _ := hashers.Get().(*pdq.Hasher)
		dihedral, quality := hasher.Dihedral(f.Image, pdq.NN512)
		hashers.Put(hasher) // not deferred: one that panicked is not used again
		seen := make([]byte, pdqAt, phashAt+phashSize)
		seen[qualityAt] = uint8(quality)
		for i := range dihedral {
			seen = append(seen, dihedral[i][:]...)
		}
		if want&wantPHash != 0 {
			perception, err := hashdb.Perception(f.Image)
			if err != nil {
				return nil, err
			}
			seen = append(seen, perception.Bytes()...)
		}
		return seen, nil
	}
}

// errSeen is for what no [NewLook] function returns.
var errSeen = pipeline.Permanent(errors.New("what was seen of it makes no sense"))

// hashesOf reads what was seen of a frame. It may come from a process that a
// picture took over, so nothing is believed that cannot be.
func hashesOf(frame int, seen []byte, want uint8) ([]pipeline.Hash, error) {
	size := phashAt
	if want&wantPHash != 0 {
		size += phashSize
	}
	if len(seen) != size || seen[qualityAt] > maxQuality {
		return nil, errSeen
	}
	quality := int(seen[qualityAt])
	h := pipeline.Hash{Kind: hashdb.PDQ.String(), Algorithm: pdq.NN512.Algorithm(), Quality: &quality, Frame: frame}
	for i := range pdq.Orientations {
		at := pdqAt + i*pdq.Size
		text := pdq.Hash(seen[at : at+pdq.Size]).String()
		switch {
		case i == 0:
			h.Value = text
		case quality >= pdq.MinQuality:
			h.Variants = append(h.Variants, text)
		}
	}
	hashes := []pipeline.Hash{h}
	if want&wantPHash != 0 {
		hashes = append(hashes, pipeline.Hash{
			Kind: hashdb.PHash.String(), Algorithm: hashdb.PHash.Algorithm(), Value: fmt.Sprintf("%x", seen[phashAt:]), Frame: frame,
		})
	}
	return hashes, nil
}
