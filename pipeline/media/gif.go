package media

import (
	"compress/lzw"
	"context"
	"encoding/binary"
	"errors"
	"image"
	"image/color"
	"io"
)

// gifMemory is what a pixel of the canvas needs: itself, what was there before,
// and the frame's indices.
const gifMemory = 4 + 4 + 1

// gifWork bounds how many times the pixels of the largest allowed picture all frames of an
// animation together may have.
const gifWork = 4

var errGIF = errors.New("gif: damaged")

const (
	gifExtension = 0x21
	gifImage     = 0x2c
	gifTrailer   = 0x3b
	gifControl   = 0xf9
)

// gifConfig returns the size of the canvas: that of the header, or of the first
// frame where that is larger, as browsers show it.
func gifConfig(data []byte) (image.Config, error) {
	g := gifReader{data: data}
	if err := g.header(); err != nil {
		return image.Config{}, err
	}
	f, ok, err := g.next()
	if err != nil {
		return image.Config{}, err
	}
	if !ok {
		return image.Config{}, errEmpty
	}
	size := g.size.Union(f.rect)
	return image.Config{Width: size.Dx(), Height: size.Dy()}, nil
}

// gifReader walks the blocks of a GIF without decoding anything.
type gifReader struct {
	data    []byte
	at      int
	size    image.Rectangle
	palette []byte
}

// gifFrame is one frame, as it lies in the file.
type gifFrame struct {
	rect        image.Rectangle
	palette     []byte // three bytes a colour
	transparent int    // index, or -1
	disposal    byte
	interlaced  bool
	codeSize    int
	blocks      []byte // the compressed indices, in blocks of a length byte and so many bytes
}

func (g *gifReader) take(n int) ([]byte, error) {
	if n > len(g.data)-g.at {
		g.at = len(g.data)
		return nil, io.ErrUnexpectedEOF
	}
	b := g.data[g.at : g.at+n]
	g.at += n
	return b, nil
}

func (g *gifReader) header() error {
	h, err := g.take(13)
	if err != nil {
		return err
	}
	g.size = image.Rect(0, 0, int(binary.LittleEndian.Uint16(h[6:])), int(binary.LittleEndian.Uint16(h[8:])))
	g.palette, err = g.colours(h[10])
	return err
}

// colours reads the table of colours that flags announce.
func (g *gifReader) colours(flags byte) ([]byte, error) {
	if flags&0x80 == 0 {
		return nil, nil
	}
	return g.take(3 << (1 + flags&7))
}

// skipBlocks returns the data blocks from here to their terminator.
func (g *gifReader) skipBlocks() ([]byte, error) {
	start := g.at
	for {
		n, err := g.take(1)
		if err != nil {
			return nil, err
		}
		if n[0] == 0 {
			return g.data[start:g.at], nil
		}
		if _, err := g.take(int(n[0])); err != nil {
			return nil, err
		}
	}
}

// next returns the next frame, or false after the last.
func (g *gifReader) next() (gifFrame, bool, error) {
	f := gifFrame{transparent: -1}
	for {
		kind, err := g.take(1)
		if err != nil {
			return f, false, err
		}
		switch kind[0] {
		case gifTrailer:
			return f, false, nil
		case gifExtension:
			label, err := g.take(1)
			if err != nil {
				return f, false, err
			}
			blocks, err := g.skipBlocks()
			if err != nil {
				return f, false, err
			}
			if label[0] == gifControl && len(blocks) > 4 {
				f.disposal = blocks[1] >> 2 & 7
				f.transparent = -1
				if blocks[1]&1 != 0 {
					f.transparent = int(blocks[4])
				}
			}
		case gifImage:
			err := g.frame(&f)
			return f, err == nil, err
		default:
			return f, false, errGIF
		}
	}
}

func (g *gifReader) frame(f *gifFrame) error {
	h, err := g.take(9)
	if err != nil {
		return err
	}
	x, y := int(binary.LittleEndian.Uint16(h)), int(binary.LittleEndian.Uint16(h[2:]))
	f.rect = image.Rect(x, y, x+int(binary.LittleEndian.Uint16(h[4:])), y+int(binary.LittleEndian.Uint16(h[6:])))
	f.interlaced = h[8]&0x40 != 0
	if f.palette, err = g.colours(h[8]); err != nil {
		return err
	}
	if f.palette == nil {
		f.palette = g.palette
	}
	size, err := g.take(1)
	if err != nil {
		return err
	}
	f.codeSize = int(size[0])
	if f.codeSize < 2 || f.codeSize > 8 || f.palette == nil {
		return errGIF
	}
	f.blocks, err = g.skipBlocks()
	return err
}

// blockBytes reads the bytes inside data blocks.
type blockBytes struct {
	blocks []byte
	left   int // of the block that is being read
}

func (b *blockBytes) ReadByte() (byte, error) {
	for b.left == 0 {
		if len(b.blocks) == 0 || b.blocks[0] == 0 {
			return 0, io.EOF
		}
		b.left, b.blocks = int(b.blocks[0]), b.blocks[1:]
	}
	c := b.blocks[0]
	b.blocks, b.left = b.blocks[1:], b.left-1
	return c, nil
}

// Read makes blockBytes a reader, as package lzw asks; it reads by byte.
func (b *blockBytes) Read(p []byte) (int, error) {
	for i := range p {
		c, err := b.ReadByte()
		if err != nil {
			return i, err
		}
		p[i] = c
	}
	return len(p), nil
}

// gifCanvas is what an animation has drawn so far.
type gifCanvas struct {
	img     *image.NRGBA
	indices []byte
	codes   lzw.Reader

	disposal byte // of the frame drawn last
	last     image.Rectangle
	before   []byte // what lay under it, where it is to be put back
}

// decodeGIF draws one frame after the other and hands on those that differ.
func decodeGIF(ctx context.Context, data []byte, cfg Config, yield func(Frame) error) (faultKind, error) {
	g := gifReader{data: data}
	if err := g.header(); err != nil {
		return noFault, err
	}
	var canvas gifCanvas
	var seen []*thumbnail
	work := gifWork * cfg.MaxPixels
	for index := 0; ; index++ {
		f, more, err := g.next()
		if err == nil && !more {
			return noFault, nil
		}
		if err := ctx.Err(); err != nil {
			return noFault, err
		}
		if err == nil {
			if canvas.img == nil {
				canvas.img = image.NewNRGBA(g.size.Union(f.rect))
			}
			size := canvas.img.Rect.Size()
			work -= int64(f.rect.Dx())*int64(f.rect.Dy()) + int64(size.X)*int64(size.Y)
			if work < 0 || !f.rect.In(canvas.img.Rect) && f.rect.Dx()*f.rect.Dy() > size.X*size.Y {
				return noFault, faulty(faultGIFWork, "gif", int64(index))
			}
			err = canvas.draw(&f)
		}
		if err != nil {
			if index > 0 {
				return noFault, faulty(faultGIFDamaged, "gif", int64(index))
			}
			return noFault, err
		}
		t := newThumbnail(canvas.img)
		if t.isLikeAny(seen) {
			continue
		}
		if len(seen) == cfg.MaxFrames {
			return noFault, faulty(faultGIFFrames, "gif", int64(index), int64(cfg.MaxFrames))
		}
		seen = append(seen, t)
		if err := yield(Frame{Image: canvas.img, Index: index}); err != nil {
			return noFault, err
		}
	}
}

// draw draws f over what the frame before it left.
func (c *gifCanvas) draw(f *gifFrame) error {
	n := f.rect.Dx() * f.rect.Dy()
	if cap(c.indices) < n {
		c.indices = make([]byte, n)
	}
	indices := c.indices[:n]
	c.codes.Reset(&blockBytes{blocks: f.blocks}, lzw.LSB, f.codeSize)
	if _, err := io.ReadFull(&c.codes, indices); err != nil {
		if errors.Is(err, io.EOF) {
			return io.ErrUnexpectedEOF
		}
		return err
	}

	const toBackground, toPrevious = 2, 3
	switch c.disposal {
	case toBackground:
		eachRow(c.img, c.last, func(row []byte) { clear(row) })
	case toPrevious:
		before := c.before
		eachRow(c.img, c.last, func(row []byte) { before = before[copy(row, before):] })
	}
	c.disposal, c.last = f.disposal, f.rect.Intersect(c.img.Rect)
	if f.disposal == toPrevious {
		c.before = c.before[:0]
		eachRow(c.img, c.last, func(row []byte) { c.before = append(c.before, row...) })
	}

	var colours [256]color.NRGBA // those beyond the palette stay transparent
	for i := range len(f.palette) / 3 {
		p := f.palette[3*i:]
		colours[i] = color.NRGBA{p[0], p[1], p[2], 0xff}
	}
	if f.transparent >= 0 {
		colours[f.transparent] = color.NRGBA{}
	}
	width := f.rect.Dx()
	for row := range rows(f.rect.Dy(), f.interlaced) {
		y := f.rect.Min.Y + row
		for x, index := range indices[:width] {
			if p := (image.Point{X: f.rect.Min.X + x, Y: y}); colours[index].A != 0 && p.In(c.img.Rect) {
				at := c.img.PixOffset(p.X, p.Y)
				colour := colours[index]
				pix := c.img.Pix[at : at+4 : at+4]
				pix[0], pix[1], pix[2], pix[3] = colour.R, colour.G, colour.B, colour.A
			}
		}
		indices = indices[width:]
	}
	return nil
}

func eachRow(img *image.NRGBA, r image.Rectangle, do func(row []byte)) {
	for y := r.Min.Y; y < r.Max.Y; y++ {
		do(img.Pix[img.PixOffset(r.Min.X, y):img.PixOffset(r.Max.X, y)])
	}
}

// rows yields the rows of a frame in the order in which they are stored.
func rows(height int, interlaced bool) func(func(int) bool) {
	passes := [][2]int{{0, 1}}
	if interlaced {
		passes = [][2]int{{0, 8}, {4, 8}, {2, 4}, {1, 2}}
	}
	return func(yield func(int) bool) {
		for _, pass := range passes {
			for y := pass[0]; y < height; y += pass[1] {
				if !yield(y) {
					return
				}
			}
		}
	}
}

// thumbnailSide is how many blocks a thumbnail has a side.
const thumbnailSide = 32

// thumbnail holds the mean brightness of the blocks of a picture, every pixel
// counted, so that no choice of pixels hides a frame. What two pictures with like
// thumbnails differ in, a perceptual hash does not see either.
type thumbnail [thumbnailSide * thumbnailSide]uint8

func newThumbnail(img *image.NRGBA) *thumbnail {
	var sums, counts [thumbnailSide * thumbnailSide]uint64
	size := img.Rect.Size()
	for y := range size.Y {
		block := y * thumbnailSide / size.Y * thumbnailSide
		row := img.Pix[y*img.Stride : y*img.Stride+4*size.X]
		for x := range size.X {
			p := row[4*x : 4*x+4 : 4*x+4]
			at := block + x*thumbnailSide/size.X
			sums[at] += uint64(p[0])*299 + uint64(p[1])*587 + uint64(p[2])*114
			counts[at]++
		}
	}
	var t thumbnail
	for i := range t {
		if counts[i] > 0 {
			t[i] = uint8(sums[i] / (1000 * counts[i]))
		}
	}
	return &t
}

// isLikeAny reports whether t is, to the eye, one of seen: by one level of
// brightness on average at most, and nowhere by 16.
func (t *thumbnail) isLikeAny(seen []*thumbnail) bool {
	for _, s := range seen {
		sum, most := 0, 0
		for i := range t {
			d := int(t[i]) - int(s[i])
			d = max(d, -d)
			sum, most = sum+d, max(most, d)
		}
		if sum <= len(t) && most < 16 {
			return true
		}
	}
	return false
}
