// Package pdq computes PDQ hashes of pictures: 256 bits that stay close, in
// Hamming distance, when a picture is scaled, recompressed or lightly edited.
//
// Given the same pixels, the hash and the quality equal those of the reference
// program bit for bit, in all eight orientations, and are the same on every
// architecture: no product is fused into a sum. Two programs call themselves
// the reference and differ by a few bits; [NN512] and [Native] name them.
//
// Colour becomes luma by 0.299 R + 0.587 G + 0.114 B. Of a JPEG the stored Y
// plane is taken as it is, which moves a hash by 0.24 bits on average and
// saves the conversion.
//
// Alpha is ignored, as the reference does: the colour under a transparent
// pixel counts. Premultiplied colour is divided by its alpha first, and what
// is wholly transparent there is black. A picture drawn in the alpha channel
// alone is therefore invisible here; whoever fears that hashes the picture
// blended over a background as well.
//
// The package does not decode files, does not turn pictures by their EXIF
// orientation (the eight orientations cover that), sets no limit on the number
// of pixels, and does not judge distances: at 31 bits or less with a quality
// of at least 50 two pictures are the same for practical purposes, which is
// evidence and not a verdict.
package pdq

import (
	"fmt"
	"image"
)

// Mode says at which size a picture is filtered.
type Mode uint8

const (
	// NN512 first brings a picture with a side longer than 512 pixels to
	// 512×512 by nearest neighbour, whatever its shape, as the reference command does.
	NN512 Mode = iota
	// Native filters at the picture's own size, as pdqhash for Python,
	// Hasher-Matcher-Actioner and vPDQ do.
	Native
)

// ParseMode reads a name that [Mode.String] writes.
func ParseMode(name string) (Mode, error) {
	for _, m := range []Mode{NN512, Native} {
		if name == m.String() {
			return m, nil
		}
	}
	return 0, fmt.Errorf("unknown pdq mode %q: want %s or %s", name, NN512, Native)
}

// String returns nn512 or native.
func (m Mode) String() string {
	if m == Native {
		return "native"
	}
	return "nn512"
}

// Algorithm names what was computed, for records that outlive the program.
func (m Mode) Algorithm() string { return "pdq-" + m.String() + "-v1" }

// MinQuality is the lowest quality at which a hash may be matched: under it
// a picture has too little structure, and its hash moves with the decoder.
const MinQuality = 50

// Orientations counts the ways to turn and mirror a picture.
const Orientations = 8

// orientations is in the order in which [Hasher.Dihedral] answers.
var orientations = [Orientations]struct {
	name      string
	flip      flip
	transpose bool
}{
	{"original", flipNone, false},
	{"rotate90", flipOddColumns, true},
	{"rotate180", flipChequered, false},
	{"rotate270", flipOddRows, true},
	{"flipx", flipOddRows, false},
	{"flipy", flipOddColumns, false},
	{"flip_plus1", flipNone, true},
	{"flip_minus1", flipChequered, true},
}

// OrientationName names an index into the answer of [Hasher.Dihedral]:
// original, rotate90, rotate180, rotate270, flipx, flipy, flip_plus1, flip_minus1.
func OrientationName(i int) string { return orientations[i].name }

const (
	side       = 64  // of the filtered and thinned picture
	size512    = 512 // of the picture under NN512
	smallest   = 5   // a shorter side has no hash
	lanes      = 4   // rows that go through the filter together
	hashSide   = 16  // coefficients a side
	hashPixels = hashSide * hashSide
)

// quad holds one column of [lanes] neighbouring rows: sums of different rows do not
// wait for each other, which they would do along one row.
type quad = [lanes]float32

// Hasher computes hashes and keeps its buffers from one picture to the next,
// about 4 bytes × width × (height/128 + 17) of them. The zero value is ready.
// It must not be used by two goroutines at once.
type Hasher struct {
	xs, ys []int // source column and row of every pixel that is read

	luma       []quad    // rows as they are read
	once       columnBox // first box along columns
	twice      columnBox // second, over the 64 sampled columns only
	blurred    []quad    // rows that left the first box along columns
	sampleCols [side]int
	sampleRows [side]int
	small      [side]sixty // what the filter leaves
	palette    [256]float32
	coeffs     [hashPixels]float32
	half       [hashSide]sixty
}

type sixty = [side]float32

// Hash returns the hash of a picture and its quality, 0 to 100. A picture with
// a side under 5 pixels has the all-zero hash and quality 0.
func (h *Hasher) Hash(img image.Image, mode Mode) (Hash, int) {
	quality, ok := h.transform(img, mode)
	if !ok {
		return Hash{}, 0
	}
	var out Hash
	signs := h.signed(flipNone)
	cut := lowerMedian(signs)
	for i := range hashSide {
		for j := range hashSide {
			if h.coeffs[i*hashSide+j] > cut {
				out.set(i, j)
			}
		}
	}
	return out, quality
}

// Dihedral returns the hashes of a picture in its eight orientations, in the
// order of [OrientationName], and its quality. It costs little more than [Hasher.Hash],
// since turning a picture only changes signs and places of its coefficients.
func (h *Hasher) Dihedral(img image.Image, mode Mode) ([Orientations]Hash, int) {
	var out [Orientations]Hash
	quality, ok := h.transform(img, mode)
	if !ok {
		return out, 0
	}
	for f := range flips {
		signed := h.signed(f)
		cut := lowerMedian(signed) // reorders its own copy
		for o, orientation := range orientations {
			if orientation.flip != f {
				continue
			}
			for i := range hashSide {
				for j := range hashSide {
					if f.sign(i, j)*h.coeffs[i*hashSide+j] <= cut {
						continue
					}
					if orientation.transpose {
						out[o].set(j, i)
					} else {
						out[o].set(i, j)
					}
				}
			}
		}
	}
	return out, quality
}

// transform leaves the 16×16 coefficients in h, or false where the picture is too small.
func (h *Hasher) transform(img image.Image, mode Mode) (quality int, ok bool) {
	bounds := img.Bounds()
	width, height := bounds.Dx(), bounds.Dy()
	cols, rows := width, height
	if mode == NN512 && (width > size512 || height > size512) {
		cols, rows = size512, size512
	}
	if cols < smallest || rows < smallest || width < 1 || height < 1 {
		return 0, false
	}
	h.xs = spread(h.xs, cols, width)
	h.ys = spread(h.ys, rows, height)
	h.filter(img, cols, rows)
	h.dct()
	return h.quality(), true
}

// spread fills list with the n source positions, out of total, that nearest neighbour takes.
func spread(list []int, n, total int) []int {
	list = resize(list, n)
	for i := range list {
		list[i] = int(int64(i) * int64(total) / int64(n))
	}
	return list
}

// resize returns a slice of length n that reuses what it can; its content is arbitrary.
func resize[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}
