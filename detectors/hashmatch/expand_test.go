package hashmatch

import (
	"image"
	"image/color"
	"slices"
	"strings"
	"testing"

	"github.com/dmguard/dmguard/hashdb"
	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/pipeline/media"
)

func TestTrimmingTakesABorderAndNothingElse(t *testing.T) {
	src := scene(21, 300, 220)
	grey := color.RGBA{90, 91, 92, 255}
	noisy := padded(10, 10, grey)(src)
	for y := range 22 {
		for x := range 360 {
			v := uint8(90 + (x*7+y)%12 - 6)
			noisy.SetRGBA(x, y, color.RGBA{v, v, v, 255})
		}
	}
	for name, c := range map[string]struct {
		img  image.Image
		want image.Rectangle // empty for none
	}{
		"no border":             {src, image.Rectangle{}},
		"all round":             {padded(10, 10, grey)(src), image.Rect(30, 22, 330, 242)},
		"a noisy border":        {noisy, image.Rect(30, 22, 330, 242)},
		"above and below":       {padded(0, 50, grey)(src), image.Rect(0, 110, 300, 330)},
		"part of a larger one":  {padded(20, 0, grey)(src).SubImage(image.Rect(20, 0, 420, 220)), image.Rect(60, 0, 360, 220)},
		"of one colour":         {image.NewGray(image.Rect(0, 0, 300, 300)), image.Rectangle{}},
		"nearly all of it":      {padded(300, 300, grey)(src), image.Rectangle{}},
		"less than is left":     {padded(20, 20, grey)(scene(22, 60, 60)), image.Rectangle{}},
		"one pixel":             {image.NewGray(image.Rect(0, 0, 1, 1)), image.Rectangle{}},
		"nothing":               {image.NewGray(image.Rectangle{}), image.Rectangle{}},
		"it cannot be cut from": {struct{ image.Image }{padded(10, 10, grey)(src)}, image.Rectangle{}},
	} {
		got, ok := trimmed(c.img)
		if ok != !c.want.Empty() {
			t.Errorf("%s: trimmed %v", name, ok)
			continue
		}
		if ok && got.Bounds() != c.want {
			t.Errorf("%s: %v is left, want %v", name, got.Bounds(), c.want)
		}
	}
}

// TestExpansionsRunWhereTheSettingAsks also holds their hashes to names of their own, under which they are recorded.
func TestExpansionsRunWhereTheSettingAsks(t *testing.T) {
	src := scene(23, 600, 420)
	h, _ := hashdb.ParseHash(hashdb.PDQ, viewsOf(t, NewLook(), src, 0)[0].hashes[0].String())
	lists := set(t, hashdb.List{Name: "l", Entries: []hashdb.Entry{{Hash: h, ID: "e"}}})
	bordered := file(t, padded(10, 20, color.RGBA{0, 0, 0, 255})(src))
	p := newTestPreparer(t, nil)
	for name, c := range map[string]struct {
		expand     []Expansion
		algorithms []string
		reason     string
	}{
		"nothing": {nil, []string{"pdq-nn512-v1"}, ""},
		"native":  {[]Expansion{ExpandNative}, []string{"pdq-nn512-v1", "pdq-native-v1"}, ""},
		"trimmed": {[]Expansion{ExpandTrimmed}, []string{"pdq-nn512-v1", "pdq-nn512-trimmed-v1"}, "of 31, without its border"},
		"both": {
			expand:     []Expansion{ExpandTrimmed, ExpandNative},
			algorithms: []string{"pdq-nn512-v1", "pdq-native-v1", "pdq-nn512-trimmed-v1"}, reason: "of 31, without its border",
		},
	} {
		item := prepared(t, p.For(lists, c.expand), inline("a", "image/png", bordered))
		var algorithms []string
		for _, h := range item.Media[0].Hashes {
			if h.Kind == "pdq" {
				algorithms = append(algorithms, h.Algorithm)
			}
		}
		if !slices.Equal(algorithms, c.algorithms) {
			t.Errorf("%s: hashes %v, want %v", name, algorithms, c.algorithms)
		}
		d, err := New(DefaultConfig(), lists, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := d.Detect(t.Context(), item)
		if err != nil {
			t.Fatal(err)
		}
		if found := len(answer.Findings) > 0; found != (c.reason != "") || found && !strings.HasSuffix(answer.Findings[0].Reason, c.reason) {
			t.Errorf("%s: findings %+v", name, answer.Findings)
		}
	}
	// A small picture without a border has nothing to add.
	item := prepared(t, p.For(lists, []Expansion{ExpandTrimmed, ExpandNative}), inline("a", "image/png", file(t, scene(24, 300, 200))))
	if n := slices.IndexFunc(item.Media[0].Hashes, func(h pipeline.Hash) bool { return h.Kind == "pdq" && h.Algorithm != "pdq-nn512-v1" }); n >= 0 {
		t.Errorf("hashes that add nothing: %+v", item.Media[0].Hashes)
	}
}

func TestOnlyNN512AloneMayShrinkPictures(t *testing.T) {
	p := newTestPreparer(t, nil)
	phash, _ := hashdb.ParseHash(hashdb.PHash, "0123456789abcdef")
	withPHash := set(t, hashdb.List{Name: "l", Entries: []hashdb.Entry{{Hash: phash, ID: "e"}}})
	for name, c := range map[string]struct {
		p    *Preparer
		want bool
	}{
		"as made": {p, true}, "nothing more": {p.For(nil, nil), true}, "trimmed": {p.For(nil, []Expansion{ExpandTrimmed}), true},
		"native": {p.For(nil, []Expansion{ExpandNative}), false}, "perception hashes": {p.For(withPHash, nil), false},
		"native no more": {p.For(nil, []Expansion{ExpandNative}).For(nil, nil), true},
	} {
		if got := c.p.want&media.MayShrink != 0; got != c.want {
			t.Errorf("%s: may shrink %v", name, got)
		}
	}
}

func TestExpansionsThatAreNoneAreRefused(t *testing.T) {
	for _, expand := range [][]Expansion{{"sideways"}, {""}, {ExpandNative, ExpandNative}} {
		cfg := DefaultConfig()
		cfg.Expand = expand
		if _, err := New(cfg, nil, nil); err == nil {
			t.Errorf("%q is taken", expand)
		}
	}
}

func BenchmarkExpansions(b *testing.B) {
	look := NewLook()
	src := scene(3, 512, 512)
	for name, img := range map[string]image.Image{"512x512": src, "1600x1000": scaled(src, 1600, 1000), "512x512 with bars": padded(0, 20, color.RGBA{})(src)} {
		for expansion, want := range map[string]uint8{"none": 0, "trimmed": wantTrimmed, "native": wantNative} {
			b.Run(name+"/"+expansion, func(b *testing.B) {
				for b.Loop() {
					if _, err := look(media.Frame{Image: img}, want); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
