package pdq

import (
	"bufio"
	"flag"
	"fmt"
	"hash/fnv"
	"image"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "record the golden hashes anew")

// lcg is a fixed generator, so that the pictures are the same for ever.
type lcg uint64

func (l *lcg) next(n int) int {
	*l = *l*6364136223846793005 + 1442695040888963407
	return int(uint64(*l) >> 33 % uint64(n))
}

// Pictures in whole numbers only; the recorded hashes stand for these pixels.
var pictures = []struct {
	name string
	make func() image.Image
}{
	{"gradient-300x200", func() image.Image { return paint(300, 200, gradientAt) }},
	{"shapes-512x512", func() image.Image { return paint(512, 512, shapes(1, 512, 512)) }},
	{"shapes-64x64", func() image.Image { return paint(64, 64, shapes(2, 64, 64)) }},
	{"shapes-700x341", func() image.Image { return paint(700, 341, shapes(3, 700, 341)) }},
	{"shapes-5x9", func() image.Image { return paint(5, 9, shapes(4, 5, 9)) }},
	{"shapes-1500x20", func() image.Image { return paint(1500, 20, shapes(5, 1500, 20)) }},
	{"noise-256x256", func() image.Image { l := lcg(7); return paint(256, 256, noise(&l)) }},
	{"noise-129x1025", func() image.Image { l := lcg(8); return paint(129, 1025, noise(&l)) }},
	{"flat-200x200", func() image.Image {
		return paint(200, 200, func(int, int) color.NRGBA { return color.NRGBA{R: 90, G: 90, B: 90, A: 255} })
	}},
	{"grey-333x333", func() image.Image {
		at := shapes(6, 333, 333)
		img := image.NewGray(image.Rect(0, 0, 333, 333))
		for y := range 333 {
			for x := range 333 {
				img.SetGray(x, y, color.Gray{Y: at(x, y).G})
			}
		}
		return img
	}},
	{"too-small-4x100", func() image.Image { return paint(4, 100, gradientAt) }},
}

func paint(w, h int, at func(x, y int) color.NRGBA) *image.NRGBA {
	img := image.NewNRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			img.SetNRGBA(x, y, at(x, y))
		}
	}
	return img
}

func gradientAt(x, y int) color.NRGBA {
	return color.NRGBA{R: uint8(x * 255 / 300), G: uint8(y * 255 / 200), B: uint8((x + 2*y) % 256), A: 255}
}

func noise(l *lcg) func(x, y int) color.NRGBA {
	return func(int, int) color.NRGBA {
		return color.NRGBA{R: uint8(l.next(256)), G: uint8(l.next(256)), B: uint8(l.next(256)), A: 255}
	}
}

// shapes lays 24 discs and boxes of random colours over each other.
func shapes(seed lcg, w, h int) func(x, y int) color.NRGBA {
	type shape struct {
		x, y, rx, ry int
		disc         bool
		c            color.NRGBA
	}
	var all []shape
	for range 24 {
		all = append(all, shape{
			x: seed.next(w), y: seed.next(h), rx: 1 + seed.next(w/3+1), ry: 1 + seed.next(h/3+1), disc: seed.next(2) == 0,
			c: color.NRGBA{R: uint8(seed.next(256)), G: uint8(seed.next(256)), B: uint8(seed.next(256)), A: 255},
		})
	}
	return func(x, y int) color.NRGBA {
		c := color.NRGBA{R: 30, G: 60, B: 90, A: 255}
		for _, s := range all {
			dx, dy := x-s.x, y-s.y
			if s.disc && dx*dx*s.ry*s.ry+dy*dy*s.rx*s.rx <= s.rx*s.rx*s.ry*s.ry || !s.disc && max(dx, -dx) <= s.rx && max(dy, -dy) <= s.ry {
				c = s.c
			}
		}
		return c
	}
}

func goldenLine(name string, mode Mode, hashes [Orientations]Hash, quality int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\t%s\t%d", name, mode, quality)
	for _, h := range hashes {
		fmt.Fprintf(&b, "\t%s", h)
	}
	return b.String()
}

func TestGeneratedPicturesKeepTheirRecordedHashes(t *testing.T) {
	path := filepath.Join("testdata", "golden.tsv")
	var got []string
	var h Hasher
	for _, p := range pictures {
		for _, mode := range []Mode{NN512, Native} {
			hashes, quality := h.Dihedral(p.make(), mode)
			got = append(got, goldenLine(p.name, mode, hashes, quality))
		}
	}
	if *update {
		if err := os.WriteFile(path, []byte(strings.Join(got, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var want []string
	for s := bufio.NewScanner(f); s.Scan(); {
		want = append(want, s.Text())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("hashes of generated pictures changed (-recorded +computed):\n%s", diff)
	}
}

// specified computes coefficients and quality as the algorithm is written down: whole
// pictures, one pass after the other, no streaming, sampling or interleaving.
func specified(luma [][]float32) (coeffs [hashPixels]float32, quality int) {
	rows, cols := len(luma), len(luma[0])
	var small [side]sixty
	if rows == side && cols == side {
		for i := range small {
			copy(small[i][:], luma[i])
		}
	} else {
		for range 2 {
			for _, row := range luma {
				copy(row, specifiedBox(row, (cols+127)/128))
			}
			for j := range cols {
				column := make([]float32, rows)
				for i := range column {
					column[i] = luma[i][j]
				}
				for i, v := range specifiedBox(column, (rows+127)/128) {
					luma[i][j] = v
				}
			}
		}
		for i := range small {
			for j := range small[i] {
				small[i][j] = luma[int((float64(i)+.5)*float64(rows)/64)][int((float64(j)+.5)*float64(cols)/64)]
			}
		}
	}
	sum := 0
	for i := range side {
		for j := range side {
			if i+1 < side {
				d := (small[i][j] - small[i+1][j]) * 100 / 255
				sum += int(math.Abs(float64(int(d))))
			}
			if j+1 < side {
				d := (small[i][j] - small[i][j+1]) * 100 / 255
				sum += int(math.Abs(float64(int(d))))
			}
		}
	}
	for i := range hashSide {
		for j := range hashSide {
			var s float32
			for k := range side {
				var inner float32
				for l := range side {
					inner += float32(basis[i][l] * small[l][k])
				}
				s += float32(inner * basis[j][k])
			}
			coeffs[i*hashSide+j] = s
		}
	}
	return coeffs, min(sum/90, 100)
}

func specifiedBox(in []float32, w int) []float32 {
	half := (w + 2) / 2
	var out []float32
	var sum float32
	right, left, n := 0, 0, 0
	for range half - 1 {
		sum += in[right]
		right, n = right+1, n+1
	}
	for range w - half + 1 {
		sum += in[right]
		right, n = right+1, n+1
		out = append(out, sum/float32(n))
	}
	for range len(in) - w {
		sum += in[right]
		sum -= in[left]
		right, left = right+1, left+1
		out = append(out, sum/float32(n))
	}
	for range half - 1 {
		sum -= in[left]
		left, n = left+1, n-1
		out = append(out, sum/float32(n))
	}
	return out
}

func TestStreamingFilterEqualsTheAlgorithmAsWritten(t *testing.T) {
	l := lcg(99)
	sizes := [][2]int{{5, 5}, {6, 7}, {63, 64}, {64, 64}, {64, 65}, {127, 128}, {128, 129}, {129, 257}, {255, 1}, {512, 512}, {513, 5}, {1000, 700}, {70, 600}, {90, 850}}
	for range 60 {
		sizes = append(sizes, [2]int{5 + l.next(400), 5 + l.next(400)})
	}
	var h Hasher // one for all: what a picture leaves behind must not matter
	for _, s := range sizes {
		w, ht := s[0], max(s[1], smallest)
		img := paint(w, ht, noise(&l))
		luma := make([][]float32, ht)
		for y := range luma {
			for x := range w {
				p := img.NRGBAAt(x, y)
				luma[y] = append(luma[y], float32(float32(0.299*float32(p.R))+float32(0.587*float32(p.G)))+float32(0.114*float32(p.B)))
			}
		}
		coeffs, quality := specified(luma)
		got, ok := h.transform(img, Native)
		if !ok || got != quality {
			t.Errorf("%d×%d: quality %d, want %d", w, ht, got, quality)
		}
		if h.coeffs != coeffs {
			t.Errorf("%d×%d: coefficients differ", w, ht)
		}
	}
}

func TestHashIsTheFirstOfTheEightOrientations(t *testing.T) {
	var h Hasher
	for _, p := range pictures {
		one, q1 := h.Hash(p.make(), NN512)
		all, q8 := h.Dihedral(p.make(), NN512)
		if one != all[0] || q1 != q8 {
			t.Errorf("%s: %s (%d) alone, %s (%d) among eight", p.name, one, q1, all[0], q8)
		}
	}
}

func TestOrientationsAreThoseOfTheTurnedPicture(t *testing.T) {
	const n = side // which is not filtered: the filter of even windows is not symmetric
	at := shapes(11, n, n)
	turned := [Orientations]func(x, y int) (int, int){
		func(x, y int) (int, int) { return x, y },
		func(x, y int) (int, int) { return n - 1 - y, x }, // counter-clockwise
		func(x, y int) (int, int) { return n - 1 - x, n - 1 - y },
		func(x, y int) (int, int) { return y, n - 1 - x },
		func(x, y int) (int, int) { return x, n - 1 - y },
		func(x, y int) (int, int) { return n - 1 - x, y },
		func(x, y int) (int, int) { return y, x },
		func(x, y int) (int, int) { return n - 1 - y, n - 1 - x },
	}
	var h Hasher
	all, _ := h.Dihedral(paint(n, n, at), Native)
	for i, turn := range turned {
		alone, _ := h.Hash(paint(n, n, func(x, y int) color.NRGBA { return at(turn(x, y)) }), Native)
		if d := alone.Distance(all[i]); d > 2 { // sums run in another order
			t.Errorf("%s: %d bits from the hash of the turned picture", OrientationName(i), d)
		}
	}
}

func TestEveryKindOfPictureGivesTheHashOfItsPixels(t *testing.T) {
	const w, ht = 600, 90
	at := shapes(21, w, ht)
	opaque := paint(w, ht, at)
	bounds := image.Rect(-7, 13, w-7, ht+13) // pictures need not begin at zero
	rgba, rgba64, gray, gray16 := image.NewRGBA(bounds), image.NewRGBA64(bounds), image.NewGray(bounds), image.NewGray16(bounds)
	ycc, nycca := image.NewYCbCr(bounds, image.YCbCrSubsampleRatio420), image.NewNYCbCrA(bounds, image.YCbCrSubsampleRatio420)
	for y := range ht {
		for x := range w {
			c := at(x, y)
			rgba.Set(x-7, y+13, c)
			rgba64.Set(x-7, y+13, c)
			gray.SetGray(x-7, y+13, color.Gray{Y: c.G})
			gray16.SetGray16(x-7, y+13, color.Gray16{Y: uint16(c.G)<<8 | 0x77})
			ycc.Y[ycc.YOffset(x-7, y+13)] = c.G
			nycca.Y[nycca.YOffset(x-7, y+13)] = c.G
		}
	}
	palette := color.Palette{}
	paletted := image.NewPaletted(bounds, nil)
	for y := range ht {
		for x := range w {
			c := at(x, y)
			i := slices.Index(palette, color.Color(c))
			if i < 0 {
				i = len(palette)
				palette = append(palette, c)
			}
			paletted.Pix[paletted.PixOffset(x-7, y+13)] = uint8(i)
		}
	}
	paletted.Palette = palette

	var h Hasher
	for _, mode := range []Mode{NN512, Native} {
		colour, _ := h.Hash(opaque, mode)
		grey, _ := h.Hash(gray, mode)
		if colour == grey {
			t.Fatal("the test picture tells grey and colour not apart")
		}
		for name, c := range map[string]struct {
			img  image.Image
			want Hash
		}{
			"RGBA": {rgba, colour}, "RGBA64": {rgba64, colour}, "Paletted": {paletted, colour}, "any": {struct{ image.Image }{rgba}, colour},
			"Gray16": {gray16, grey}, "YCbCr": {ycc, grey}, "NYCbCrA": {nycca, grey},
			"part of a larger one": {biggerAround(opaque), colour},
		} {
			if got, _ := h.Hash(c.img, mode); got != c.want {
				t.Errorf("%s %s: %d bits off", mode, name, got.Distance(c.want))
			}
		}
	}
}

func biggerAround(img *image.NRGBA) image.Image {
	b := img.Bounds()
	big := image.NewNRGBA(image.Rect(0, 0, b.Dx()+20, b.Dy()+30))
	for y := range b.Dy() {
		for x := range b.Dx() {
			big.SetNRGBA(x+11, y+17, img.NRGBAAt(x, y))
		}
	}
	return big.SubImage(image.Rect(11, 17, 11+b.Dx(), 17+b.Dy()))
}

func TestAlphaIsIgnored(t *testing.T) {
	at := shapes(31, 100, 100)
	var h Hasher
	want, _ := h.Hash(paint(100, 100, at), NN512)
	half := paint(100, 100, func(x, y int) color.NRGBA {
		c := at(x, y)
		c.A = uint8(x)
		return c
	})
	if got, _ := h.Hash(half, NN512); got != want {
		t.Errorf("plain colour under alpha: %d bits off", got.Distance(want))
	}
	premultiplied := image.NewRGBA(half.Rect)
	for y := range 100 {
		for x := range 100 {
			c := at(x, y)
			if c.A = uint8(100 + x); y%4 != 3 {
				c.A = 255 // rows that are read together differ
			}
			premultiplied.Set(x, y, c)
		}
	}
	got, _ := h.Hash(premultiplied, NN512)
	if got.Distance(want) > 8 { // premultiplying loses a little
		t.Errorf("premultiplied colour: %d bits off", got.Distance(want))
	}
	if slow, _ := h.Hash(struct{ image.Image }{premultiplied}, NN512); slow != got {
		t.Errorf("premultiplied colour, pixel by pixel: %d bits off", slow.Distance(got))
	}
}

func TestBasisIsTheSameOnEveryMachine(t *testing.T) {
	sum := fnv.New64a()
	for _, row := range basis {
		for _, v := range row {
			fmt.Fprintf(sum, "%08x", math.Float32bits(v))
		}
	}
	if got, want := sum.Sum64(), uint64(0x1cd29798ac6323d5); got != want {
		t.Errorf("basis sums to %#x, want %#x: this machine computes other cosines and therefore other hashes", got, want)
	}
}

func TestLowerMedianIsThe128thSmallest(t *testing.T) {
	l := lcg(5)
	for _, distinct := range []int{1, 2, 3, 100, 1 << 20} {
		for range 200 {
			var v [hashPixels]float32
			for i := range v {
				v[i] = float32(l.next(distinct) - distinct/2)
			}
			got := lowerMedian(v)
			slices.Sort(v[:])
			if got != v[127] {
				t.Fatalf("%d distinct values: got %v, want %v", distinct, got, v[127])
			}
		}
	}
}

func TestSteadyStateAllocatesNothing(t *testing.T) {
	img := paint(700, 500, shapes(41, 700, 500))
	var h Hasher
	for _, mode := range []Mode{NN512, Native} {
		h.Dihedral(img, mode)
		if n := testing.AllocsPerRun(5, func() { h.Dihedral(img, mode) }); n != 0 {
			t.Errorf("%s: %v allocations a picture", mode, n)
		}
	}
}

func TestDistanceAndTextOfAHash(t *testing.T) {
	a, err := Parse("D8F8f0cec0f4a84f0637022a278f67f0b36e2ed596621e1d33e6339c4e9c9b22")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := a.String(), "d8f8f0cec0f4a84f0637022a278f67f0b36e2ed596621e1d33e6339c4e9c9b22"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	b := a
	b[0] ^= 0x81
	b[31] ^= 0x07
	if d := a.Distance(b); d != 5 {
		t.Errorf("distance %d, want 5", d)
	}
	var none Hash
	none.set(0, 0)
	none.set(15, 15)
	if got, want := none.String(), "8"+strings.Repeat("0", 62)+"1"; got != want {
		t.Errorf("first and last bit: got %s, want %s", got, want)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("")
	f.Add(strings.Repeat("0", 64))
	f.Add(strings.Repeat("fF", 32))
	f.Add(strings.Repeat("g", 64))
	f.Fuzz(func(t *testing.T, text string) {
		h, err := Parse(text)
		if err == nil && !strings.EqualFold(h.String(), text) {
			t.Errorf("%q became %s", text, h)
		}
	})
}

func FuzzHashNeverPanics(f *testing.F) {
	f.Add(uint16(5), uint16(5), []byte{1, 2, 3}, false)
	f.Add(uint16(700), uint16(3), []byte{0xff}, true)
	f.Fuzz(func(t *testing.T, w, ht uint16, pix []byte, native bool) {
		img := image.NewGray(image.Rect(0, 0, int(w%700), int(ht%700)))
		copy(img.Pix, pix)
		mode := NN512
		if native {
			mode = Native
		}
		var h Hasher
		if _, q := h.Dihedral(img, mode); q < 0 || q > 100 {
			t.Errorf("quality %d", q)
		}
	})
}

func BenchmarkHash(b *testing.B) {
	for _, size := range [][2]int{{256, 256}, {512, 512}, {1600, 1000}} {
		rgb := paint(size[0], size[1], shapes(51, size[0], size[1]))
		luma := image.NewYCbCr(rgb.Rect, image.YCbCrSubsampleRatio420)
		for i := range luma.Y {
			luma.Y[i] = rgb.Pix[4*i+1]
		}
		for _, img := range []image.Image{rgb, luma} {
			for _, mode := range []Mode{NN512, Native} {
				b.Run(fmt.Sprintf("%T/%dx%d/%s", img, size[0], size[1], mode), func(b *testing.B) {
					var h Hasher
					b.ReportAllocs()
					for b.Loop() {
						h.Dihedral(img, mode)
					}
				})
			}
		}
	}
}
