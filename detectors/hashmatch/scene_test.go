package hashmatch

import (
	"image"
	"image/color"
	"math"
	"math/rand/v2"
)

// scene is a generated picture that hashes as photographs do: light that falls off, things in
// front of each other, texture and a little noise. It is the same for ever and on every machine.
func scene(seed uint64, w, h int) *image.RGBA {
	random := rand.New(rand.NewPCG(seed, 77))
	type thing struct {
		x, y, rx, ry, r, g, b, grain int
		disc                         bool
	}
	var things []thing
	for range 14 + random.IntN(20) {
		things = append(things, thing{
			x: random.IntN(w), y: random.IntN(h), rx: w/30 + random.IntN(w/4), ry: h/30 + random.IntN(h/4),
			r: random.IntN(256), g: random.IntN(256), b: random.IntN(256), grain: 1 + random.IntN(6), disc: random.IntN(3) > 0,
		})
	}
	lightX, lightY := random.IntN(w), random.IntN(h)
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	state := uint32(seed)
	for y := range h {
		for x := range w {
			r, g, b, grain := 70+90*y/h, 90+60*y/h, 120-50*y/h, 3
			for i := len(things) - 1; i >= 0; i-- {
				t := &things[i]
				dx, dy := x-t.x, y-t.y
				if dx > t.rx || dx < -t.rx || dy > t.ry || dy < -t.ry {
					continue
				}
				if t.disc && dx*dx*t.ry*t.ry+dy*dy*t.rx*t.rx > t.rx*t.rx*t.ry*t.ry {
					continue
				}
				r, g, b, grain = t.r, t.g, t.b, t.grain
				break
			}
			light := 255 - 160*(max(x-lightX, lightX-x)+max(y-lightY, lightY-y))/(w+h)
			state = state*1664525 + 1013904223
			noise := (x*7/(grain*3)+y*5/(grain*2))%(4*grain) - 2*grain + int(state>>28)/2 - 4
			img.SetRGBA(x, y, color.RGBA{shaded(r, light, noise), shaded(g, light, noise), shaded(b, light, noise), 255})
		}
	}
	return img
}

func shaded(v, light, noise int) uint8 { return clamp(v*light/255 + noise) }

func clamp(v int) uint8 { return uint8(min(max(v, 0), 255)) }

// scaled is a picture at another size: each new pixel the mean of those under it, or between
// the nearest four.
func scaled(src *image.RGBA, w, h int) *image.RGBA {
	out := image.NewRGBA(image.Rect(0, 0, w, h))
	sw, sh := src.Rect.Dx(), src.Rect.Dy()
	for y := range h {
		for x := range w {
			var c [3]uint8
			if w < sw {
				x0, x1, y0, y1 := x*sw/w, max((x+1)*sw/w, x*sw/w+1), y*sh/h, max((y+1)*sh/h, y*sh/h+1)
				var sum [3]int
				for yy := y0; yy < y1; yy++ {
					for xx := x0; xx < x1; xx++ {
						at := yy*src.Stride + 4*xx
						for i := range sum {
							sum[i] += int(src.Pix[at+i])
						}
					}
				}
				for i := range c {
					c[i] = uint8(sum[i] / ((x1 - x0) * (y1 - y0)))
				}
			} else {
				const one = 1 << 8
				fx, fy := max(0, (2*x+1)*sw*one/(2*w)-one/2), max(0, (2*y+1)*sh*one/(2*h)-one/2)
				x0, y0 := min(fx/one, sw-1), min(fy/one, sh-1)
				x1, y1 := min(x0+1, sw-1), min(y0+1, sh-1)
				fx, fy = fx%one, fy%one
				for i := range c {
					at := func(x, y int) int { return int(src.Pix[y*src.Stride+4*x+i]) }
					top, bottom := at(x0, y0)*(one-fx)+at(x1, y0)*fx, at(x0, y1)*(one-fx)+at(x1, y1)*fx
					c[i] = uint8((top*(one-fy) + bottom*fy) >> 16)
				}
			}
			out.SetRGBA(x, y, color.RGBA{c[0], c[1], c[2], 255})
		}
	}
	return out
}

// each is a picture of which every channel value is changed by a table.
func each(src *image.RGBA, f func(v float64) float64) *image.RGBA {
	var table [256]uint8
	for i := range table {
		table[i] = clamp(int(math.Round(f(float64(i)))))
	}
	out := image.NewRGBA(src.Rect)
	for i, v := range src.Pix {
		if i%4 == 3 {
			out.Pix[i] = 255
		} else {
			out.Pix[i] = table[v]
		}
	}
	return out
}

// mapped is a picture of w×h whose pixel at (x, y) is that of src at from(x, y), or fill outside of it.
func mapped(src *image.RGBA, w, h int, fill color.RGBA, from func(x, y int) (int, int)) *image.RGBA {
	out := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			if p := image.Pt(from(x, y)); p.In(src.Rect) {
				out.SetRGBA(x, y, src.RGBAAt(p.X, p.Y))
			} else {
				out.SetRGBA(x, y, fill)
			}
		}
	}
	return out
}
