package hashmatch

import (
	"encoding/hex"
	"errors"
	"image"
	"sync"

	"github.com/dmguard/dmguard/hashdb"
	"github.com/dmguard/dmguard/hashdb/pdq"
	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/pipeline/media"
)

// What [NewLook]'s function is asked for beside the PDQ hashes of a frame.
const (
	wantNative  uint8 = 1 << iota // those of [pdq.Native]
	wantTrimmed                   // those of the frame without its border
	wantPHash                     // the perception hash
)

// views are what PDQ hashes are computed of, in the order in which they are
// seen: for each its quality and the hashes of its orientations, or a byte that
// says there is none, as it would be one of those before it.
var views = [...]struct {
	want      uint8 // 0 for always
	algorithm string
	of        func(image.Image) (image.Image, pdq.Mode, bool)
}{
	{0, pdq.NN512.Algorithm(), func(img image.Image) (image.Image, pdq.Mode, bool) { return img, pdq.NN512, true }},
	{wantNative, pdq.Native.Algorithm(), func(img image.Image) (image.Image, pdq.Mode, bool) {
		b := img.Bounds()
		return img, pdq.Native, max(b.Dx(), b.Dy()) > 512 // else it is nn512
	}},
	{wantTrimmed, trimmedAlgorithm, func(img image.Image) (image.Image, pdq.Mode, bool) {
		part, ok := trimmed(img)
		return part, pdq.NN512, ok
	}},
}

// trimmedAlgorithm names PDQ hashes of pictures without their border.
const trimmedAlgorithm = "pdq-nn512-trimmed-v1"

const (
	maxQuality = 100
	noView     = 0xff // in the place of a quality
	viewSize   = 1 + pdq.Orientations*pdq.Size
	phashSize  = 8

	// Of a frame of a video two views are seen, by [pdq.NN512] for lists of pictures
	// and by [pdq.Native] for those of videos.
	videoSize = 2 * viewSize
)

// NewLook returns the function that computes the perceptual hashes of a frame,
// for the [Examiner] of a [Preparer]. It needs nothing but the frame, so that it
// can run where there is nothing else.
func NewLook() media.Look {
	hashers := sync.Pool{New: func() any { return new(pdq.Hasher) }}
	return func(f media.Frame, want uint8) ([]byte, error) {
		hasher, _ := hashers.Get().(*pdq.Hasher)
		seen := make([]byte, 0, len(views)*viewSize+phashSize)
		if f.Video {
			seen = appendView(seen, hasher, f.Image, pdq.NN512)
			seen = appendView(seen, hasher, f.Image, pdq.Native)
			hashers.Put(hasher)
			return seen, nil
		}
		for _, v := range views {
			if v.want&want != v.want {
				continue
			}
			img, mode, ok := v.of(f.Image)
			if !ok {
				seen = append(seen, noView)
				continue
			}
			seen = appendView(seen, hasher, img, mode)
		}
		hashers.Put(hasher) // not deferred: one that panicked is not used again
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

// appendView appends a quality and the hashes of the orientations.
func appendView(seen []byte, hasher *pdq.Hasher, img image.Image, mode pdq.Mode) []byte {
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
	var hashes []pipeline.Hash
	for _, v := range views {
		if v.want&want != v.want {
			continue
		}
		if v.want != 0 && len(seen) > 0 && seen[0] == noView {
			seen = seen[1:]
			continue
		}
		if len(seen) < viewSize || seen[0] > maxQuality {
			return nil, errSeen
		}
		hashes = append(hashes, pdqHash(frame, hashdb.PDQ, v.algorithm, seen[:viewSize]))
		seen = seen[viewSize:]
	}
	if want&wantPHash != 0 {
		if len(seen) < phashSize {
			return nil, errSeen
		}
		hashes = append(hashes, pipeline.Hash{
			Kind: hashdb.PHash.String(), Algorithm: hashdb.PHash.Algorithm(), Value: hex.EncodeToString(seen[:phashSize]), Frame: frame,
		})
		seen = seen[phashSize:]
	}
	if len(seen) > 0 {
		return nil, errSeen
	}
	return hashes, nil
}

// pdqHash reads one view.
func pdqHash(frame int, kind hashdb.Kind, algorithm string, view []byte) pipeline.Hash {
	quality := int(view[0])
	h := pipeline.Hash{Kind: kind.String(), Algorithm: algorithm, Quality: &quality, Frame: frame}
	for i := range pdq.Orientations {
		at := 1 + i*pdq.Size
		text := pdq.Hash(view[at : at+pdq.Size]).String()
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
	if len(seen) != videoSize || seen[0] > maxQuality || seen[viewSize] > maxQuality {
		return errSeen
	}
	if v.seen == nil {
		v.seen = make(map[[2]string]bool)
	}
	for _, h := range []pipeline.Hash{
		pdqHash(second, hashdb.VPDQ, hashdb.VPDQ.Algorithm(), seen[viewSize:]),
		pdqHash(second, hashdb.PDQ, hashdb.PDQ.Algorithm(), seen[:viewSize]),
	} {
		if key := [2]string{h.Kind, h.Value}; *h.Quality >= pdq.MinQuality && !v.seen[key] {
			v.seen[key] = true
			v.hashes = append(v.hashes, h)
		}
	}
	return nil
}
