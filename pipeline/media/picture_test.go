package media

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"testing"

	"golang.org/x/image/bmp"
)

// pattern is a generated picture with structure at every scale.
func pattern(w, h, seed int) *image.NRGBA {
	img := image.NewNRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			v := uint8((x*x/7 + y*seed + x*y/(3+seed)) & 0xff)
			img.SetNRGBA(x, y, color.NRGBA{v, uint8(y * 255 / h), uint8(x * 255 / w), 0xff})
		}
	}
	return img
}

func pngFile(tb testing.TB, img image.Image) []byte {
	tb.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func jpegFile(tb testing.TB, img image.Image) []byte {
	tb.Helper()
	var b bytes.Buffer
	if err := jpeg.Encode(&b, img, &jpeg.Options{Quality: 85}); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func bmpFile(tb testing.TB, img image.Image) []byte {
	tb.Helper()
	var b bytes.Buffer
	if err := bmp.Encode(&b, img); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

var testPalette = color.Palette{
	color.NRGBA{0, 0, 0, 0}, color.NRGBA{0, 0, 0, 255}, color.NRGBA{255, 255, 255, 255}, color.NRGBA{200, 40, 40, 255},
}

// paletted is a frame filled with one colour of testPalette.
func paletted(r image.Rectangle, index uint8) *image.Paletted {
	p := image.NewPaletted(r, testPalette)
	for i := range p.Pix {
		p.Pix[i] = index
	}
	return p
}

func gifFile(tb testing.TB, canvas image.Point, frames []*image.Paletted, disposal []byte) []byte {
	tb.Helper()
	g := gif.GIF{Image: frames, Delay: make([]int, len(frames)), Disposal: disposal}
	g.Config = image.Config{Width: canvas.X, Height: canvas.Y, ColorModel: testPalette}
	var b bytes.Buffer
	if err := gif.EncodeAll(&b, &g); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// checkers is a frame of squares, at a place that depends on n.
func checkers(w, h, n int) *image.Paletted {
	p := image.NewPaletted(image.Rect(0, 0, w, h), testPalette)
	for y := range h {
		for x := range w {
			p.Pix[y*p.Stride+x] = uint8(1 + (x/(2+n%13)+y/(2+n/13))%2)
		}
	}
	return p
}

// webpFile is a lossless WebP of one colour: its Huffman codes have one symbol each and take no bits.
func webpFile(w, h int) []byte {
	var bits uint64
	n := 0
	put := func(v uint64, count int) { bits |= v << n; n += count }
	put(0, 1) // no transform
	put(0, 1) // no colour cache
	put(0, 1) // one group of codes
	for range 4 {
		put(1, 1)   // simple code
		put(0, 1)   // of one symbol
		put(1, 1)   // of eight bits
		put(120, 8) // the symbol
	}
	put(1, 1)
	put(0, 1)
	put(0, 1) // of one bit
	put(0, 1)
	var stream [8]byte
	binary.LittleEndian.PutUint64(stream[:], bits)
	chunk := []byte{0x2f}
	chunk = binary.LittleEndian.AppendUint32(chunk, uint32(w-1)|uint32(h-1)<<14)
	chunk = append(chunk, stream[:(n+7)/8]...)
	if len(chunk)%2 == 1 {
		chunk = append(chunk, 0)
	}
	out := append([]byte("RIFF"), 0, 0, 0, 0)
	out = append(out, "WEBPVP8L"...)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(chunk)))
	out = append(out, chunk...)
	binary.LittleEndian.PutUint32(out[4:], uint32(len(out)-8))
	return out
}

// tinyJPEG is a grey 8×8 JPEG of so many components, whose Huffman codes have one
// symbol each; transform is that of an Adobe marker, or -1 for no such marker.
func tinyJPEG(components, precision, transform int) []byte {
	out := []byte{0xff, 0xd8}
	segment := func(marker byte, body ...byte) {
		out = append(binary.BigEndian.AppendUint16(append(out, 0xff, marker), uint16(len(body)+2)), body...)
	}
	if transform >= 0 {
		segment(0xee, 'A', 'd', 'o', 'b', 'e', 0, 100, 0, 0, 0, 0, byte(transform))
	}
	segment(0xdb, append([]byte{0}, bytes.Repeat([]byte{1}, 64)...)...)
	start := byte(0xc0)
	if precision > 8 {
		start = 0xc1
	}
	frame, scan := []byte{byte(precision), 0, 8, 0, 8, byte(components)}, []byte{byte(components)}
	for i := range byte(components) {
		frame, scan = append(frame, i+1, 0x11, 0), append(scan, i+1, 0)
	}
	segment(start, frame...)
	for _, class := range []byte{0x00, 0x10} { // one code of one bit, for 0
		segment(0xc4, append([]byte{class, 1}, make([]byte, 16)...)...)
	}
	segment(0xda, append(scan, 0, 63, 0)...)
	data := byte(0xff) >> (2 * components) // a bit for each DC, one for the end of the block
	return append(out, data, 0xff, 0xd9)
}

func pngChunk(name string, body []byte) []byte {
	out := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	out = append(append(out, name...), body...)
	return binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(out[4:]))
}

// withAnimation puts an acTL chunk for n frames behind the header of a PNG.
func withAnimation(file []byte, n uint32) []byte {
	body := binary.BigEndian.AppendUint32(nil, n)
	body = binary.BigEndian.AppendUint32(body, 0)
	const header = 8 + 25
	out := bytes.Clone(file[:header])
	out = append(out, pngChunk("acTL", body)...)
	return append(out, file[header:]...)
}

// samples is one small file of each format.
func samples(tb testing.TB) map[string][]byte {
	tb.Helper()
	img := pattern(24, 17, 3)
	frames := []*image.Paletted{checkers(24, 17, 1), checkers(24, 17, 5), paletted(image.Rect(3, 3, 9, 9), 3)}
	return map[string][]byte{
		"jpeg": jpegFile(tb, img),
		"png":  pngFile(tb, img),
		"bmp":  bmpFile(tb, img),
		"gif":  gifFile(tb, image.Pt(24, 17), frames, []byte{gif.DisposalNone, gif.DisposalBackground, gif.DisposalPrevious}),
		"webp": webpFile(24, 17),
	}
}
