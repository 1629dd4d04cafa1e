package hashmatch

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/jpeg"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/dmguard/dmguard/hashdb"
	"github.com/dmguard/dmguard/hashdb/pdq"
	"github.com/dmguard/dmguard/pipeline/media"
)

var update = flag.Bool("update", false, "record the recall by transform anew")

// transforms is what happens to pictures on their way.
var transforms = []struct {
	name string
	of   func(src *image.RGBA) image.Image
}{
	{"as it is", func(src *image.RGBA) image.Image { return src }},
	{"jpeg 95", compressed(95)},
	{"jpeg 75", compressed(75)},
	{"jpeg 50", compressed(50)},
	{"jpeg 30", compressed(30)},
	{"resize to 25 %", resized(25)},
	{"resize to 50 %", resized(50)},
	{"resize to 75 %", resized(75)},
	{"resize to 200 %", resized(200)},
	{"resize to 50 % wide", func(src *image.RGBA) image.Image { return scaled(src, src.Rect.Dx()/2, src.Rect.Dy()) }},
	{"blur", func(src *image.RGBA) image.Image {
		return scaled(scaled(src, src.Rect.Dx()/3, src.Rect.Dy()/3), src.Rect.Dx(), src.Rect.Dy())
	}},
	{"gamma 0.7", func(src *image.RGBA) image.Image {
		return each(src, func(v float64) float64 { return 255 * math.Pow(v/255, 0.7) })
	}},
	{"gamma 1.5", func(src *image.RGBA) image.Image {
		return each(src, func(v float64) float64 { return 255 * math.Pow(v/255, 1.5) })
	}},
	{"brighter, less contrast", func(src *image.RGBA) image.Image {
		return each(src, func(v float64) float64 { return 60 + 0.7*v })
	}},
	{"noise", func(src *image.RGBA) image.Image {
		random := rand.New(rand.NewPCG(9, 9))
		out := image.NewRGBA(src.Rect)
		for i, v := range src.Pix {
			out.Pix[i] = v
			if i%4 != 3 {
				out.Pix[i] = clamp(int(v) + random.IntN(161) - 80)
			}
		}
		return out
	}},
	{"mirrored", func(src *image.RGBA) image.Image {
		w, h := src.Rect.Dx(), src.Rect.Dy()
		return mapped(src, w, h, color.RGBA{}, func(x, y int) (int, int) { return w - 1 - x, y })
	}},
	{"rotated by 90°", func(src *image.RGBA) image.Image {
		w, h := src.Rect.Dx(), src.Rect.Dy()
		return mapped(src, h, w, color.RGBA{}, func(x, y int) (int, int) { return y, h - 1 - x })
	}},
	{"rotated by 180°", func(src *image.RGBA) image.Image {
		w, h := src.Rect.Dx(), src.Rect.Dy()
		return mapped(src, w, h, color.RGBA{}, func(x, y int) (int, int) { return w - 1 - x, h - 1 - y })
	}},
	{"rotated by 2°", func(src *image.RGBA) image.Image {
		w, h := src.Rect.Dx(), src.Rect.Dy()
		const one, sine = 10000, 349
		return mapped(src, w, h, color.RGBA{0, 0, 0, 255}, func(x, y int) (int, int) {
			dx, dy := x-w/2, y-h/2
			return w/2 + dx - dy*sine/one, h/2 + dy + dx*sine/one
		})
	}},
	{"black pad 5 % all round", func(src *image.RGBA) image.Image { return padded(5, 5, color.RGBA{0, 0, 0, 255})(src) }},
	{"white pad 2 % all round", func(src *image.RGBA) image.Image { return padded(2, 2, color.RGBA{255, 255, 255, 255})(src) }},
	{"bars above and below", func(src *image.RGBA) image.Image { return padded(0, 30, color.RGBA{0, 0, 0, 255})(src) }},
	{"bars, jpeg 75", func(src *image.RGBA) image.Image {
		return compressed(75)(padded(20, 0, color.RGBA{0, 0, 0, 255})(src))
	}},
	{"bars, mirrored, resize to 50 %", func(src *image.RGBA) image.Image {
		w, h := src.Rect.Dx(), src.Rect.Dy()
		bars := mapped(src, w, 2*h, color.RGBA{16, 16, 16, 255}, func(x, y int) (int, int) { return w - 1 - x, y - h/2 })
		return scaled(bars, w/2, h)
	}},
	{"crop 1 % a side", cropped(10)},
	{"crop 2.5 % a side", cropped(25)},
	{"crop 5 % a side", cropped(50)},
	{"watermark", func(src *image.RGBA) image.Image { return lettered(src, 12, 3) }},
	{"line of text", func(src *image.RGBA) image.Image { return lettered(src, 24, 1) }},
	{"line of large text", func(src *image.RGBA) image.Image { return lettered(src, 8, 1) }},
}

func compressed(quality int) func(*image.RGBA) image.Image {
	return func(src *image.RGBA) image.Image {
		var b bytes.Buffer
		if err := jpeg.Encode(&b, src, &jpeg.Options{Quality: quality}); err != nil {
			panic(err)
		}
		img, err := jpeg.Decode(&b)
		if err != nil {
			panic(err)
		}
		return img
	}
}

func resized(percent int) func(*image.RGBA) image.Image {
	return func(src *image.RGBA) image.Image {
		return scaled(src, src.Rect.Dx()*percent/100, src.Rect.Dy()*percent/100)
	}
}

// padded adds so many percent of the width on the left and right, and of the height above and below.
func padded(x, y int, c color.RGBA) func(*image.RGBA) *image.RGBA {
	return func(src *image.RGBA) *image.RGBA {
		w, h := src.Rect.Dx(), src.Rect.Dy()
		return mapped(src, w+2*w*x/100, h+2*h*y/100, c, func(px, py int) (int, int) { return px - w*x/100, py - h*y/100 })
	}
}

// cropped takes so many thousandths away on each side.
func cropped(permille int) func(*image.RGBA) image.Image {
	return func(src *image.RGBA) image.Image {
		w, h := src.Rect.Dx(), src.Rect.Dy()
		return src.SubImage(image.Rect(w*permille/1000, h*permille/1000, w-w*permille/1000, h-h*permille/1000))
	}
}

// lettered writes strokes like letters over a picture, as high as the n-th part of it, and lets one part of
// so many of them be seen.
func lettered(src *image.RGBA, n, opacity int) *image.RGBA {
	out := image.NewRGBA(src.Rect)
	draw.Draw(out, out.Rect, src, image.Point{}, draw.Src)
	w, h := src.Rect.Dx(), src.Rect.Dy()
	size := h / n
	for letter := range 14 {
		left, top := w/10+letter*w*8/10/14, h*3/4
		for y := range size {
			for x := range size / 2 {
				stroke := size / 6
				if x >= stroke && y >= stroke && (letter%2 == 0 || x < size/2-stroke) && (letter%3 == 0 || y < size-stroke) {
					continue
				}
				p := out.Pix[out.PixOffset(left+x, top+y):]
				for i := range 3 {
					p[i] = uint8(int(p[i]) + (255-int(p[i]))/opacity)
				}
			}
		}
	}
	return out
}

// scenes are the known pictures, by seed and size.
var scenes = []struct {
	seed uint64
	size image.Point
}{
	{1, image.Pt(560, 400)}, {2, image.Pt(300, 400)}, {3, image.Pt(600, 360)}, {4, image.Pt(400, 300)}, {7, image.Pt(256, 320)},
}

// ways are how a picture is looked up, each with all that comes before.
var ways = []string{"as it is", "+ turned", "+ trimmed", "+ native"}

// TestRecallByTransformIsAsRecorded looks pictures up that were changed, at the distance and quality at which
// lists match, and holds the share that is found, in percent, to the recorded one. More may be found: -update records it.
func TestRecallByTransformIsAsRecorded(t *testing.T) {
	found := make([][]int, len(transforms)) // by transform and way
	for i := range found {
		found[i] = make([]int, len(ways))
	}
	var mu sync.Mutex
	var group sync.WaitGroup
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	look := NewLook()
	for _, s := range scenes {
		group.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			src := scene(s.seed, s.size.X, s.size.Y)
			known := viewsOf(t, look, src, 0)[0].hashes[0]
			for i, transform := range transforms {
				v := viewsOf(t, look, transform.of(src), wantNative|wantTrimmed)
				mu.Lock()
				for way := range ways {
					if within(known, v, way) {
						found[i][way]++
					}
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()

	var table strings.Builder
	fmt.Fprintf(&table, "%-32s", "recall in % by transform")
	for _, way := range ways {
		fmt.Fprintf(&table, "%11s", way)
	}
	table.WriteString("\n")
	total := make([]int, len(ways))
	line := func(name string, counts []int, of int) {
		fmt.Fprintf(&table, "%-32s", name)
		for _, n := range counts {
			fmt.Fprintf(&table, "%11d", (100*n+of/2)/of)
		}
		table.WriteString("\n")
	}
	for i, transform := range transforms {
		line(transform.name, found[i], len(scenes))
		for way, n := range found[i] {
			total[way] += n
		}
	}
	line("all", total, len(scenes)*len(transforms))
	t.Logf("\n%s", table.String())

	path := filepath.Join("testdata", "recall.txt")
	if *update {
		if err := os.WriteFile(path, []byte(table.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	was, is := strings.Split(string(golden), "\n"), strings.Split(table.String(), "\n")
	if len(was) != len(is) || was[0] != is[0] {
		t.Fatalf("%s is not of these transforms; -update records it anew", path)
	}
	for i := 1; i < len(was)-1; i++ {
		before, now := strings.Fields(was[i]), strings.Fields(is[i])
		for way := range ways {
			b, n := before[len(before)-len(ways)+way], now[len(now)-len(ways)+way]
			switch cmp.Or(cmp.Compare(len(n), len(b)), cmp.Compare(n, b)) {
			case -1:
				t.Errorf("%s, %s: %s %% is found, it was %s %%", strings.TrimSpace(is[i][:32]), ways[way], n, b)
			case 1:
				t.Logf("%s, %s: %s %% is found, more than the recorded %s %%", strings.TrimSpace(is[i][:32]), ways[way], n, b)
			}
		}
	}
}

// view is what was seen in one of the ways of [views]; quality 0 where it was not.
type view struct {
	quality int
	hashes  [pdq.Orientations]pdq.Hash
}

func viewsOf(t *testing.T, look media.Look, img image.Image, want uint8) []view {
	t.Helper()
	seen, err := look(media.Frame{Image: img}, want)
	if err != nil {
		t.Error(err)
		return make([]view, len(views))
	}
	var out []view
	for len(seen) > 0 {
		if seen[0] == noView {
			out, seen = append(out, view{}), seen[1:]
			continue
		}
		v := view{quality: int(seen[0])}
		for i := range v.hashes {
			v.hashes[i] = pdq.Hash(seen[1+i*pdq.Size:])
		}
		out, seen = append(out, v), seen[viewSize:]
	}
	return out
}

// within says whether a picture is found in one of the ways.
func within(known pdq.Hash, seen []view, way int) bool {
	near := func(v view, orientations int) bool {
		if v.quality < pdq.MinQuality {
			return false
		}
		for _, h := range v.hashes[:orientations] {
			if h.Distance(known) <= hashdb.PDQ.Threshold() {
				return true
			}
		}
		return false
	}
	return near(seen[0], 1) || way >= 1 && near(seen[0], pdq.Orientations) ||
		way >= 2 && near(seen[2], pdq.Orientations) || way >= 3 && near(seen[1], pdq.Orientations)
}
