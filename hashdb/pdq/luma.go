package pdq

import (
	"image"
	"image/color"
)

// Weights of the channels, as products of every channel value: a product is rounded
// to float32 before it is added, which a fused multiply-add would not do.
var redLuma, greenLuma, blueLuma = lumaTable(0.299), lumaTable(0.587), lumaTable(0.114)

func lumaTable(weight float32) *[256]float32 {
	var t [256]float32
	for v := range t {
		t[v] = float32(weight * float32(v))
	}
	return &t
}

func lumaOf(r, g, b uint8) float32 {
	return redLuma[r] + greenLuma[g] + blueLuma[b]
}

// lumaReader reads luma out of one picture.
type lumaReader struct {
	img    image.Image
	origin image.Point
	pix    []uint8 // of all kinds but pixelAny
	stride int
	kind   pixelKind
	table  *[256]float32 // luma of a one-byte pixel
}

type pixelKind uint8

const (
	pixelAny pixelKind = iota
	pixelByte
	pixelNRGBA // four bytes, the first three of them plain colour
	pixelRGBA  // four bytes, premultiplied
)

// plain is the luma of a byte that is luma already.
var plain = lumaTable(1)

// newLuma may use table until the picture is read.
func newLuma(img image.Image, table *[256]float32) lumaReader {
	l := lumaReader{img: img, origin: img.Bounds().Min}
	switch p := img.(type) {
	case *image.YCbCr:
		l.kind, l.table = pixelByte, plain
		l.pix, l.stride = p.Y[p.YOffset(l.origin.X, l.origin.Y):], p.YStride
	case *image.NYCbCrA:
		l.kind, l.table = pixelByte, plain
		l.pix, l.stride = p.Y[p.YOffset(l.origin.X, l.origin.Y):], p.YStride
	case *image.Gray:
		l.kind, l.table = pixelByte, plain
		l.pix, l.stride = p.Pix[p.PixOffset(l.origin.X, l.origin.Y):], p.Stride
	case *image.Paletted:
		fillPalette(table, p.Palette)
		l.kind, l.table = pixelByte, table
		l.pix, l.stride = p.Pix[p.PixOffset(l.origin.X, l.origin.Y):], p.Stride
	case *image.NRGBA:
		l.kind = pixelNRGBA
		l.pix, l.stride = p.Pix[p.PixOffset(l.origin.X, l.origin.Y):], p.Stride
	case *image.RGBA:
		l.kind = pixelRGBA
		l.pix, l.stride = p.Pix[p.PixOffset(l.origin.X, l.origin.Y):], p.Stride
	}
	return l
}

func fillPalette(t *[256]float32, palette color.Palette) {
	clear(t[:])
	for i, c := range palette {
		if i == len(t) {
			break
		}
		r, g, b, a := c.RGBA()
		t[i] = lumaOf(straight(r, a), straight(g, a), straight(b, a))
	}
}

// straight undoes a 16-bit premultiplication, down to 8 bits.
func straight(v, alpha uint32) uint8 {
	switch {
	case alpha == 0:
		return 0
	case alpha >= 0xffff:
		return uint8(v >> 8)
	default:
		return uint8(min(v*0xffff/alpha, 0xffff) >> 8)
	}
}

// read fills one lane of dst for every row in ys.
func (l *lumaReader) read(dst []quad, xs, ys []int) {
	dst = dst[:len(xs)]
	for lane, y := range ys {
		lane &= lanes - 1
		switch l.kind {
		case pixelByte:
			row := l.pix[y*l.stride:]
			for j, x := range xs {
				dst[j][lane] = l.table[row[x]]
			}
		case pixelNRGBA:
			row := l.pix[y*l.stride:]
			for j, x := range xs {
				p := row[4*x : 4*x+4 : 4*x+4]
				dst[j][lane] = redLuma[p[0]] + greenLuma[p[1]] + blueLuma[p[2]]
			}
		case pixelRGBA:
			row := l.pix[y*l.stride:]
			for j, x := range xs {
				p := row[4*x : 4*x+4 : 4*x+4]
				if p[3] == 0xff {
					dst[j][lane] = redLuma[p[0]] + greenLuma[p[1]] + blueLuma[p[2]]
					continue
				}
				a := uint32(p[3]) * 0x101
				dst[j][lane] = lumaOf(straight(uint32(p[0])*0x101, a), straight(uint32(p[1])*0x101, a), straight(uint32(p[2])*0x101, a))
			}
		case pixelAny:
			l.readAny(dst, lane, xs, l.origin.Y+y)
		}
	}
}

func (l *lumaReader) readAny(dst []quad, lane int, xs []int, y int) {
	switch p := l.img.(type) {
	case *image.Gray16: // grey is luma, without weights
		for j, x := range xs {
			dst[j][lane] = float32(p.Gray16At(l.origin.X+x, y).Y >> 8)
		}
	case image.RGBA64Image:
		for j, x := range xs {
			c := p.RGBA64At(l.origin.X+x, y)
			a := uint32(c.A)
			dst[j][lane] = lumaOf(straight(uint32(c.R), a), straight(uint32(c.G), a), straight(uint32(c.B), a))
		}
	default:
		for j, x := range xs {
			r, g, b, a := l.img.At(l.origin.X+x, y).RGBA()
			dst[j][lane] = lumaOf(straight(r, a), straight(g, a), straight(b, a))
		}
	}
}
