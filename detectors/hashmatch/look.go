package hashmatch

import (
	"errors"
	"fmt"
	"image"
	"sync"

	"github.com/dmguard/dmguard/hashdb"
	"github.com/dmguard/dmguard/hashdb/pdq"
	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/pipeline/media"
)

// wantPHash asks [NewLook]'s function for the perception hash as well.
const wantPHash uint8 = 1 << 0

// What is seen of a frame: the quality, the PDQ hashes of its orientations, and
// the perception hash if it was asked for. Of a frame of a video it is quality and
// hashes twice, by [pdq.NN512] for lists of pictures and by [pdq.Native] for those
// of videos.
const (
	qualityAt = 0
	pdqAt     = 1
	phashAt   = pdqAt + pdq.Orientations*pdq.Size
	phashSize = 8
	nativeAt  = phashAt
	videoSize = 2 * phashAt

	maxQuality = 100
)

// NewLook returns the function that computes the perceptual hashes of a frame,
// for the [Examiner] of a [Preparer]. It needs nothing but the frame, so that it
// can run where there is nothing else.
func NewLook() media.Look {
	hashers := sync.Pool{New: func() any { return new(pdq.Hasher) }}
	return func(f media.Frame, want uint8) ([]byte, error) {
		hasher, _ := hashers.Get().(*pdq.Hasher)
		seen := appendPDQ(make([]byte, 0, videoSize), hasher, f.Image, pdq.NN512)
		if f.Video {
			seen = appendPDQ(seen, hasher, f.Image, pdq.Native)
		}
		hashers.Put(hasher) // not deferred: one that panicked is not used again
		if f.Video {
			return seen, nil
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

func appendPDQ(seen []byte, hasher *pdq.Hasher, img image.Image, mode pdq.Mode) []byte {
	dihedral, quality := hasher.Dihedral(img, mode)
	seen = append(seen, uint8(quality))
	for i := range dihedral {
		seen = append(seen, dihedral[i][:]...)
	}
	return seen
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
	hashes := []pipeline.Hash{pdqOf(frame, seen, hashdb.PDQ)}
	if want&wantPHash != 0 {
		hashes = append(hashes, pipeline.Hash{
			Kind: hashdb.PHash.String(), Algorithm: hashdb.PHash.Algorithm(), Value: fmt.Sprintf("%x", seen[phashAt:]), Frame: frame,
		})
	}
	return hashes, nil
}

// pdqOf reads a quality and the hashes behind it.
func pdqOf(frame int, seen []byte, kind hashdb.Kind) pipeline.Hash {
	quality := int(seen[qualityAt])
	h := pipeline.Hash{Kind: kind.String(), Algorithm: kind.Algorithm(), Quality: &quality, Frame: frame}
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
	return h
}

// film gathers the hashes of a video's frames, of equal ones the first.
type film struct {
	hashes []pipeline.Hash
	seen   map[[2]string]bool
}

// add takes over what was seen of a frame, which is its first of that second. Frames with
// too little structure are left out, of which a video has many.
func (v *film) add(second int, seen []byte) error {
	if len(seen) != videoSize || seen[qualityAt] > maxQuality || seen[nativeAt+qualityAt] > maxQuality {
		return errSeen
	}
	if v.seen == nil {
		v.seen = make(map[[2]string]bool)
	}
	for _, h := range []pipeline.Hash{pdqOf(second, seen[nativeAt:], hashdb.VPDQ), pdqOf(second, seen, hashdb.PDQ)} {
		if key := [2]string{h.Kind, h.Value}; *h.Quality >= pdq.MinQuality && !v.seen[key] {
			v.seen[key] = true
			v.hashes = append(v.hashes, h)
		}
	}
	return nil
}
