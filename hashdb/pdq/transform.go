package pdq

import "math"

// basis holds the cosines of frequencies 1 to 16; the mean, frequency 0, is left out.
var basis = newBasis()

func newBasis() *[hashSide]sixty {
	var d [hashSide]sixty
	scale := float64(float32(math.Sqrt(2.0 / side)))
	for i := range d {
		for j := range d[i] {
			angle := float64(math.Pi / (2 * side) * float64(i+1) * float64(2*j+1))
			d[i][j] = float32(scale * math.Cos(angle))
		}
	}
	return &d
}

// dct leaves basis × small × basisᵀ in h.coeffs. Every sum runs upwards over its index.
func (h *Hasher) dct() {
	for i := 0; i < hashSide; i += lanes {
		b0, b1, b2, b3 := &basis[i], &basis[i+1], &basis[i+2], &basis[i+3]
		for j := range side {
			var s0, s1, s2, s3 float32
			for k := range side {
				v := h.small[k][j]
				s0 += float32(b0[k] * v)
				s1 += float32(b1[k] * v)
				s2 += float32(b2[k] * v)
				s3 += float32(b3[k] * v)
			}
			h.half[i][j], h.half[i+1][j], h.half[i+2][j], h.half[i+3][j] = s0, s1, s2, s3
		}
	}
	for i := range hashSide {
		row := &h.half[i]
		for j := 0; j < hashSide; j += lanes {
			b0, b1, b2, b3 := &basis[j], &basis[j+1], &basis[j+2], &basis[j+3]
			var s0, s1, s2, s3 float32
			for k, v := range row {
				s0 += float32(v * b0[k])
				s1 += float32(v * b1[k])
				s2 += float32(v * b2[k])
				s3 += float32(v * b3[k])
			}
			copy(h.coeffs[i*hashSide+j:], []float32{s0, s1, s2, s3})
		}
	}
}

// quality measures how much neighbours in h.small differ, 0 to 100.
func (h *Hasher) quality() int {
	sum := 0
	for i := range side {
		row := &h.small[i]
		for j := range side - 1 {
			sum += gradient(row[j], row[j+1])
		}
		if i == side-1 {
			break
		}
		below := &h.small[i+1]
		for j := range side {
			sum += gradient(row[j], below[j])
		}
	}
	return min(sum/90, 100)
}

func gradient(u, v float32) int {
	d := int(float32((u-v)*100) / 255)
	if d < 0 {
		return -d
	}
	return d
}

// flip says which coefficients change sign when a picture is mirrored. Index 0 is
// frequency 1, so that even indices are the odd, antisymmetric frequencies.
type flip uint8

const (
	flipNone flip = iota
	flipOddRows
	flipOddColumns
	flipChequered
	flips
)

func (f flip) sign(i, j int) float32 {
	negative := false
	switch f {
	case flipOddRows:
		negative = i%2 == 0
	case flipOddColumns:
		negative = j%2 == 0
	case flipChequered:
		negative = (i+j)%2 == 1
	default:
	}
	if negative {
		return -1
	}
	return 1
}

// signed returns a copy of the coefficients with the signs of one flip.
func (h *Hasher) signed(f flip) [hashPixels]float32 {
	out := h.coeffs
	if f == flipNone {
		return out
	}
	for i := range hashSide {
		for j := range hashSide {
			out[i*hashSide+j] *= f.sign(i, j)
		}
	}
	return out
}

// lowerMedian returns the 128th smallest of 256 values, by selection.
func lowerMedian(values [hashPixels]float32) float32 {
	const want = hashPixels/2 - 1
	lo, hi := 0, hashPixels-1
	for lo < hi {
		pivot := values[(lo+hi)/2]
		i, j := lo, hi
		for i <= j {
			for values[i] < pivot {
				i++
			}
			for values[j] > pivot {
				j--
			}
			if i <= j {
				values[i], values[j] = values[j], values[i]
				i++
				j--
			}
		}
		switch {
		case want <= j:
			hi = j
		case want >= i:
			lo = i
		default:
			return values[want]
		}
	}
	return values[want]
}
