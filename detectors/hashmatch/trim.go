package hashmatch

import (
	"image"
	"image/color"
)

const (
	// borderShade is how much the pixels of a border may differ in luma: as
	// much as compression makes of one colour.
	borderShade = 24
	// borderSamples are looked at along each row and column.
	borderSamples = 128
	// leastLeft of the picture's side, in pixels and as one part of so many, is
	// left by trimming: what has more border than that is a drawing on paper.
	leastLeft     = 64
	leastLeftPart = 4
)

// trimmed returns the part of a picture inside of a border of one colour a side,
// such as the bars that make a picture fit a screen, and false where there is
// none.
func trimmed(img image.Image) (image.Image, bool) {
	part, ok := img.(interface {
		SubImage(image.Rectangle) image.Image
	})
	if !ok {
		return nil, false
	}
	bounds := img.Bounds()
	leastX, leastY := max(leastLeft, bounds.Dx()/leastLeftPart), max(leastLeft, bounds.Dy()/leastLeftPart)
	if bounds.Dx() <= leastX || bounds.Dy() <= leastY {
		return nil, false
	}
	shade := shadeOf(img)
	inner := bounds
	row := func(y int) func(i, n int) int {
		return func(i, n int) int { return shade(inner.Min.X+i*(inner.Dx()-1)/n, y) }
	}
	column := func(x int) func(i, n int) int {
		return func(i, n int) int { return shade(x, inner.Min.Y+i*(inner.Dy()-1)/n) }
	}
	for edge := plain(row(inner.Min.Y)); inner.Dy() > leastY && edge.takes(row(inner.Min.Y)); inner.Min.Y++ {
	}
	for edge := plain(row(inner.Max.Y - 1)); inner.Dy() > leastY && edge.takes(row(inner.Max.Y-1)); inner.Max.Y-- {
	}
	for edge := plain(column(inner.Min.X)); inner.Dx() > leastX && edge.takes(column(inner.Min.X)); inner.Min.X++ {
	}
	for edge := plain(column(inner.Max.X - 1)); inner.Dx() > leastX && edge.takes(column(inner.Max.X-1)); inner.Max.X-- {
	}
	if inner == bounds || inner.Dx() <= leastX || inner.Dy() <= leastY {
		return nil, false
	}
	return part.SubImage(inner), true
}

// edge is the colour of a border on one side, as its luma.
type edge int

// plain returns the colour that a border beginning with this line would have.
func plain(line func(i, n int) int) edge { return edge(line(borderSamples/2, borderSamples)) }

// takes says whether a line belongs to the border.
func (e edge) takes(line func(i, n int) int) bool {
	for i := range borderSamples + 1 {
		if d := line(i, borderSamples) - int(e); d > borderShade || d < -borderShade {
			return false
		}
	}
	return true
}

// shadeOf returns the luma of a picture's pixels, 0 to 255.
func shadeOf(img image.Image) func(x, y int) int {
	switch p := img.(type) {
	case *image.YCbCr:
		return func(x, y int) int { return int(p.Y[p.YOffset(x, y)]) }
	case *image.Gray:
		return func(x, y int) int { return int(p.Pix[p.PixOffset(x, y)]) }
	case *image.RGBA:
		return func(x, y int) int { return colourShade(p.Pix[p.PixOffset(x, y):]) }
	case *image.NRGBA:
		return func(x, y int) int { return colourShade(p.Pix[p.PixOffset(x, y):]) }
	}
	return func(x, y int) int {
		grey, _ := color.GrayModel.Convert(img.At(x, y)).(color.Gray)
		return int(grey.Y)
	}
}

func colourShade(p []uint8) int { return (299*int(p[0]) + 587*int(p[1]) + 114*int(p[2])) / 1000 }
