package pdq

import (
	"encoding/binary"
	"image"
	"image/color"
)

// Weights of the channels, as products of every channel value: a product is rounded
// to float32 before it is added, which a fused multiply-add would not do.
var redLuma, greenLuma, blueLuma = lumaTable(0.299), lumaTable(0.587), lumaTable(0.114)

func lumaTable(weight float32) (t [256]float32) {
	for v := range t {
		t[v] = float32(weight * float32(v))
	}
	return t
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
		l.kind, l.table = pixelByte, &plain
		l.pix, l.stride = p.Y[p.YOffset(l.origin.X, l.origin.Y):], p.YStride
	case *image.NYCbCrA:
		l.kind, l.table = pixelByte, &plain
		l.pix, l.stride = p.Y[p.YOffset(l.origin.X, l.origin.Y):], p.YStride
	case *image.Gray:
		l.kind, l.table = pixelByte, &plain
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

// read fills a lane of dst for each of the rows ys.
func (l *lumaReader) read(dst []quad, xs []int, ys *[lanes]int) {
	dst = dst[:len(xs)]
	if l.kind == pixelAny {
		for lane, y := range ys {
			l.readAny(dst, lane, xs, l.origin.Y+y)
		}
		return
	}
	var rows [lanes][]uint8
	for lane := range rows {
		rows[lane] = l.pix[ys[lane]*l.stride:]
	}
	bytes := 4
	if l.kind == pixelByte {
		bytes = 1
	}
	size := bytes * (xs[len(xs)-1] + 1)
	r0, r1, r2, r3 := rows[0][:size], rows[1][:size], rows[2][:size], rows[3][:size]
	r1, r2, r3 = r1[:len(r0)], r2[:len(r0)], r3[:len(r0)]
	if l.kind == pixelByte {
		table := l.table
		for j, x := range xs {
			d := &dst[j]
			d[0], d[1], d[2], d[3] = table[r0[x]], table[r1[x]], table[r2[x]], table[r3[x]]
		}
		return
	}
	premultiplied := l.kind == pixelRGBA
	for j, x := range xs {
		d := &dst[j]
		v0 := binary.LittleEndian.Uint32(r0[4*x : 4*x+4 : 4*x+4])
		v1 := binary.LittleEndian.Uint32(r1[4*x : 4*x+4 : 4*x+4])
		v2 := binary.LittleEndian.Uint32(r2[4*x : 4*x+4 : 4*x+4])
		v3 := binary.LittleEndian.Uint32(r3[4*x : 4*x+4 : 4*x+4])
		if premultiplied && v0&v1&v2&v3 < 0xff<<24 {
			v0, v1, v2, v3 = straightPixel(v0), straightPixel(v1), straightPixel(v2), straightPixel(v3)
		}
		d[0] = redLuma[uint8(v0)] + greenLuma[uint8(v0>>8)] + blueLuma[uint8(v0>>16)]
		d[1] = redLuma[uint8(v1)] + greenLuma[uint8(v1>>8)] + blueLuma[uint8(v1>>16)]
		d[2] = redLuma[uint8(v2)] + greenLuma[uint8(v2>>8)] + blueLuma[uint8(v2>>16)]
		d[3] = redLuma[uint8(v3)] + greenLuma[uint8(v3>>8)] + blueLuma[uint8(v3>>16)]
	}
}

// straightPixel undoes the premultiplication of four bytes.
func straightPixel(v uint32) uint32 {
	a := v >> 24 * 0x101
	return uint32(straight(v&0xff*0x101, a)) | uint32(straight(v>>8&0xff*0x101, a))<<8 | uint32(straight(v>>16&0xff*0x101, a))<<16
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
