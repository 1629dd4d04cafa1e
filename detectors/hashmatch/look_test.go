package hashmatch

import (
	"bytes"
	"encoding/hex"
	"image"
	"image/color/palette"
	"image/draw"
	"image/gif"
	"image/jpeg"
	"math/bits"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"

	"github.com/dmguard/dmguard/hashdb"
	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/pipeline/media"
)

func TestMain(m *testing.M) {
	if media.ServeSandbox(NewLook()) {
		return
	}
	m.Run()
}

func jpegFile(tb testing.TB, img image.Image) []byte {
	tb.Helper()
	var b bytes.Buffer
	if err := jpeg.Encode(&b, img, &jpeg.Options{Quality: 80}); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func gifFile(tb testing.TB, pictures ...image.Image) []byte {
	tb.Helper()
	g := &gif.GIF{}
	for _, img := range pictures {
		p := image.NewPaletted(img.Bounds(), palette.Plan9)
		draw.Draw(p, p.Rect, img, img.Bounds().Min, draw.Src)
		g.Image, g.Delay = append(g.Image, p), append(g.Delay, 10)
	}
	var b bytes.Buffer
	if err := gif.EncodeAll(&b, g); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func grey(img image.Image) image.Image {
	out := image.NewGray(img.Bounds())
	draw.Draw(out, out.Rect, img, img.Bounds().Min, draw.Src)
	return out
}

func pictures(tb testing.TB) []pipeline.Attachment {
	tb.Helper()
	png := file(tb, picture(4))
	return []pipeline.Attachment{
		inline("png", "image/png", png),
		inline("grey png", "image/png", file(tb, grey(picture(5)))),
		inline("blank png", "image/png", file(tb, image.NewGray(image.Rect(0, 0, 90, 90)))),
		inline("jpeg", "image/jpeg", jpegFile(tb, picture(6))),
		inline("grey jpeg", "image/jpeg", jpegFile(tb, grey(picture(7)))),
		inline("gif", "image/gif", gifFile(tb, picture(1), picture(9), mirrored(picture(3)))),
		inline("cut short", "image/png", png[:len(png)/2]),
		inline("text", "text/plain", []byte("a shopping list")),
		inline("no picture", "image/png", []byte("a shopping list")),
		inline("video", "video/mp4", []byte("\x00\x00\x00\x18ftypisom\x00\x00\x00\x00")),
	}
}

func TestHashesFromTheSandboxAreThoseOfTheService(t *testing.T) {
	sandbox, err := media.StartSandbox(t.Context(), media.DefaultConfig(), 2, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sandbox.Close)
	here := newTestPreparer(t, nil)
	there := NewPreparer(here.fetcher, sandbox)
	someHash := hashdb.Entry{ID: "e", Category: "known_media"}
	if someHash.Hash, err = hashdb.ParseHash(hashdb.PHash, "0123456789abcdef"); err != nil {
		t.Fatal(err)
	}
	withPHash := set(t, hashdb.List{Name: "l", Entries: []hashdb.Entry{someHash}})
	for name, s := range map[string]*hashdb.Set{"without lists": nil, "with perception hashes": withPHash} {
		want := prepared(t, here.For(s, nil), pictures(t)...).Media
		if diff := cmp.Diff(want, prepared(t, there.For(s, nil), pictures(t)...).Media, likeness); diff != "" {
			t.Errorf("%s: -service +sandbox\n%s", name, diff)
		}
		if n := len(want[5].Hashes); n < 3+3 {
			t.Errorf("the gif has %d hashes", n)
		}
	}
}

// likeness takes hashes of pictures for equal as far as decoders of JPEG agree: to the bit, but
// libjpeg-turbo gives the luma alone and rounds otherwise.
var likeness = cmp.Comparer(func(a, b pipeline.Hash) bool {
	if !media.Turbo || a.Quality == nil && a.Kind != hashdb.PHash.String() {
		return cmp.Equal(a, b)
	}
	x, y := append([]string{a.Value}, a.Variants...), append([]string{b.Value}, b.Variants...)
	if a.Kind != b.Kind || a.Algorithm != b.Algorithm || a.Frame != b.Frame || len(x) != len(y) {
		return false
	}
	for i := range x {
		p, err1 := hex.DecodeString(x[i])
		q, err2 := hex.DecodeString(y[i])
		if err1 != nil || err2 != nil || len(p) != len(q) {
			return false
		}
		d := 0
		for k := range p {
			d += bits.OnesCount8(p[k] ^ q[k])
		}
		if d > 8 {
			return false
		}
	}
	return true
})

func TestNothingIsBelievedThatNoFrameGives(t *testing.T) {
	seen, err := NewLook()(media.Frame{Image: picture(1)}, wantPHash)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := hashesOf(0, seen, wantPHash); err != nil {
		t.Error(err)
	}
	for name, bad := range map[string][]byte{
		"nothing": nil, "too short": seen[:len(seen)-1], "too long": append(bytes.Clone(seen), 0),
		"a quality beyond 100": append([]byte{101}, seen[1:]...), "no perception hash": seen[:viewSize],
		"no view": append([]byte{noView}, seen[viewSize:]...),
	} {
		if hashes, err := hashesOf(0, bad, wantPHash); len(hashes) != 0 || !pipeline.IsPermanent(err) {
			t.Errorf("%s: %d hashes, %v", name, len(hashes), err)
		}
	}
}

func BenchmarkPrepare(b *testing.B) {
	sandbox, err := media.StartSandbox(b.Context(), media.DefaultConfig(), 1, zap.NewNop())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(sandbox.Close)
	here := newTestPreparer(b, nil)
	there := NewPreparer(here.fetcher, sandbox)
	large := func(w, h int) image.Image {
		img, tile := image.NewNRGBA(image.Rect(0, 0, w, h)), picture(2)
		for y := 0; y < h; y += tile.Rect.Dy() {
			for x := 0; x < w; x += tile.Rect.Dx() {
				draw.Draw(img, tile.Rect.Add(image.Pt(x, y)), tile, image.Point{}, draw.Src)
			}
		}
		return img
	}
	for _, c := range []struct {
		name string
		data []byte
	}{
		{"512x512.jpeg", jpegFile(b, large(512, 512))}, {"512x512.png", file(b, large(512, 512))}, {"12MP.jpeg", jpegFile(b, large(4000, 3000))},
	} {
		for _, where := range []struct {
			name string
			p    *Preparer
		}{{"service", here}, {"sandbox", there}} {
			b.Run(c.name+"/"+where.name, func(b *testing.B) {
				for b.Loop() {
					prepared(b, where.p, inline("a", "image/jpeg", c.data))
				}
			})
		}
	}
}
