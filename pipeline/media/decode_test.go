package media

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"image/gif"
	"image/png"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dmguard/dmguard/pipeline"
)

func newTestDecoder(tb testing.TB, change func(*Config)) *Decoder {
	tb.Helper()
	cfg := DefaultConfig()
	if change != nil {
		change(&cfg)
	}
	d, err := NewDecoder(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// frames decodes data and returns copies of what was handed on.
func frames(d *Decoder, data []byte) (images []image.Image, indices []int, result Result, err error) {
	result, err = d.Decode(context.Background(), data, func(f Frame) error {
		img := f.Image
		if p, ok := img.(*image.NRGBA); ok {
			img = &image.NRGBA{Pix: bytes.Clone(p.Pix), Stride: p.Stride, Rect: p.Rect}
		}
		images, indices = append(images, img), append(indices, f.Index)
		return nil
	})
	return images, indices, result, err
}

func TestEveryFormatIsKnownByItsContentAndDecoded(t *testing.T) {
	d := newTestDecoder(t, nil)
	for name, data := range samples(t) {
		images, _, result, err := frames(d, data)
		if err != nil || result.Format != (Format{name, Image}) || len(images) == 0 || result.Frames != len(images) || result.Skipped != "" {
			t.Errorf("%s: %d frames, %+v, %v", name, len(images), result, err)
			continue
		}
		if got := images[0].Bounds().Size(); got != image.Pt(24, 17) {
			t.Errorf("%s: size %v", name, got)
		}
	}
}

func TestBombsAreRefusedWithoutAllocating(t *testing.T) {
	header := binary.BigEndian.AppendUint32(nil, 30000)
	header = binary.BigEndian.AppendUint32(header, 30000)
	header = append(header, 8, 6, 0, 0, 0)
	hugePNG := append([]byte("\x89PNG\r\n\x1a\n"), pngChunk("IHDR", header)...)
	hugePNG = append(hugePNG, pngChunk("IDAT", make([]byte, 1<<20))...)

	hugeGIF := gifFile(t, image.Pt(8, 8), []*image.Paletted{checkers(8, 8, 0)}, nil)
	binary.LittleEndian.PutUint16(hugeGIF[6:], 0xffff)
	binary.LittleEndian.PutUint16(hugeGIF[8:], 0xffff)

	hugeJPEG := jpegFile(t, pattern(16, 16, 1))
	sof := len(hugeJPEG) - len(startOfFrame(hugeJPEG))
	binary.BigEndian.PutUint16(hugeJPEG[sof+4:], 0xffff)
	binary.BigEndian.PutUint16(hugeJPEG[sof+6:], 0xffff)

	hugeBMP := bmpFile(t, pattern(16, 16, 1))
	binary.LittleEndian.PutUint32(hugeBMP[18:], 1<<20)
	binary.LittleEndian.PutUint32(hugeBMP[22:], 1<<20)

	tiny := webpFile(16384, 16384)
	if len(tiny) > 32 {
		t.Fatalf("the WebP has %d bytes", len(tiny))
	}
	// Claims a chunk of 1 GiB that is not there.
	claims := []byte("RIFF\x00\x00\x00\x40WEBPVP8 \xf0\xff\xff\x3f\x10\x02\x00\x9d\x01\x2a\x10\x00\x10\x00" + strings.Repeat("\x00", 64))

	d := newTestDecoder(t, nil)
	for name, data := range map[string][]byte{
		"png 30000x30000": hugePNG, "gif 65535x65535": hugeGIF, "jpeg 65535x65535": hugeJPEG,
		"bmp 1Mx1M": hugeBMP, "webp 16384x16384": tiny, "webp that claims 1 GiB": claims,
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		images, _, _, err := frames(d, data)
		runtime.ReadMemStats(&after)
		if !pipeline.IsPermanent(err) || len(images) != 0 {
			t.Errorf("%s: %d frames, %v", name, len(images), err)
		}
		if name != "webp that claims 1 GiB" && err != nil && !strings.Contains(err.Error(), "pixels are more than") {
			t.Errorf("%s: %v", name, err)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > 4<<20 {
			t.Errorf("%s: allocated %d bytes", name, got)
		}
	}
}

func TestLosslessWebPIsChargedForItsHuffmanTables(t *testing.T) {
	data := append(webpFile(1024, 1024), make([]byte, 1<<20)...)
	cfg := image.Config{Width: 1024, Height: 1024}
	if got := webpMemory(data, cfg); got < 300<<20 {
		t.Errorf("charged %d bytes for 65,536 groups of tables", got)
	}
	if got := webpMemory(data[:64], cfg); got > 16<<20 {
		t.Errorf("charged %d bytes for a file of 64", got)
	}
}

func TestAGIFOfTenThousandFramesIsNotDecodedWhole(t *testing.T) {
	one := gifFile(t, image.Pt(600, 600), []*image.Paletted{checkers(600, 600, 1), paletted(image.Rect(0, 0, 600, 600), 3)}, nil)
	g := gifReader{data: one}
	if err := g.header(); err != nil {
		t.Fatal(err)
	}
	start := g.at
	for range 2 {
		if _, _, err := g.next(); err != nil {
			t.Fatal(err)
		}
	}
	many := bytes.Clone(one[:start])
	for range 5000 {
		many = append(many, one[start:g.at]...)
	}
	many = append(many, gifTrailer)

	d := newTestDecoder(t, func(c *Config) { c.MaxPixels = 1_000_000; c.MaxBytes = 1 << 30 })
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	images, _, result, err := frames(d, many)
	runtime.ReadMemStats(&after)
	if !pipeline.IsPermanent(err) || !strings.Contains(err.Error(), "too many") {
		t.Errorf("error %v", err)
	}
	if len(images) != 2 || result.Frames != 2 {
		t.Errorf("%d frames, want the two that differ", len(images))
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > 16<<20 {
		t.Errorf("allocated %d bytes", got)
	}
}

func TestSmallRepeatingAnimationsAreLookedAtWhole(t *testing.T) {
	var list []*image.Paletted
	for i := range 300 {
		list = append(list, checkers(40, 40, i%3))
	}
	images, indices, _, err := frames(newTestDecoder(t, nil), gifFile(t, image.Pt(40, 40), list, nil))
	if err != nil || len(images) != 3 || !cmp.Equal(indices, []int{0, 1, 2}) {
		t.Errorf("frames %v, %v", indices, err)
	}
}

func TestOneFrameAmongManyIsFound(t *testing.T) {
	var list []*image.Paletted
	for range 200 {
		list = append(list, checkers(64, 64, 1))
	}
	list[137] = paletted(image.Rect(0, 0, 64, 64), 3)
	_, indices, _, err := frames(newTestDecoder(t, nil), gifFile(t, image.Pt(64, 64), list, nil))
	if err != nil || !cmp.Equal(indices, []int{0, 137}) {
		t.Errorf("frames %v, %v", indices, err)
	}
}

func TestFramesBeyondTheLimitAreReported(t *testing.T) {
	var list []*image.Paletted
	for i := range 40 {
		list = append(list, checkers(64, 64, i))
	}
	images, _, _, err := frames(newTestDecoder(t, nil), gifFile(t, image.Pt(64, 64), list, nil))
	if len(images) != DefaultConfig().MaxFrames || !pipeline.IsPermanent(err) || !strings.Contains(err.Error(), "more than 16 differ") {
		t.Errorf("%d frames, %v", len(images), err)
	}
}

// TestGIFFramesAreComposed draws by the disposal of each frame and compares pixels.
func TestGIFFramesAreComposed(t *testing.T) {
	const black, white, red = 1, 2, 3
	list := []*image.Paletted{
		paletted(image.Rect(0, 0, 40, 40), white),
		paletted(image.Rect(0, 0, 20, 20), black),  // put back afterwards
		paletted(image.Rect(20, 20, 40, 40), red),  // cleared afterwards
		paletted(image.Rect(0, 20, 20, 40), black), // stays
		paletted(image.Rect(0, 0, 40, 40), 0),      // wholly transparent: like the frame before
	}
	disposal := []byte{gif.DisposalNone, gif.DisposalPrevious, gif.DisposalBackground, gif.DisposalNone, gif.DisposalNone}
	images, indices, _, err := frames(newTestDecoder(t, nil), gifFile(t, image.Pt(40, 40), list, disposal))
	if err != nil || !cmp.Equal(indices, []int{0, 1, 2, 3}) {
		t.Fatalf("frames %v, %v", indices, err)
	}
	at := func(frame, x, y int) string {
		r, g, _, a := images[frame].At(x, y).RGBA()
		switch {
		case a == 0:
			return "-"
		case r > 0xf000 && g > 0xf000:
			return "w"
		case r > 0x8000:
			return "r"
		}
		return "b"
	}
	var got []string
	for f := range images {
		got = append(got, at(f, 5, 5)+at(f, 35, 5)+at(f, 5, 35)+at(f, 35, 35))
	}
	if diff := cmp.Diff([]string{"wwww", "bwww", "wwwr", "wwb-"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestASingleGIFFrameHasThePixelsOfTheStandardDecoder(t *testing.T) {
	data := gifFile(t, image.Pt(61, 47), []*image.Paletted{checkers(61, 47, 7)}, nil)
	want, err := gif.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	images, _, _, err := frames(newTestDecoder(t, nil), data)
	if err != nil {
		t.Fatal(err)
	}
	for y := range 47 {
		for x := range 61 {
			wr, wg, wb, wa := want.At(x, y).RGBA()
			gr, gg, gb, ga := images[0].At(x, y).RGBA()
			if wr != gr || wg != gg || wb != gb || wa != ga {
				t.Fatalf("pixel %d,%d differs", x, y)
			}
		}
	}
}

func TestInterlacedRowsLandInTheirPlaces(t *testing.T) {
	var got []int
	for y := range rows(11, true) {
		got = append(got, y)
	}
	if diff := cmp.Diff([]int{0, 8, 4, 2, 6, 10, 1, 3, 5, 7, 9}, got); diff != "" {
		t.Error(diff)
	}
}

// TestTruncationsAreNeverSilent cuts every format at every byte: what is cut short is
// refused, but for the few formats and places where nothing of the picture is missing.
func TestTruncationsAreNeverSilent(t *testing.T) {
	d := newTestDecoder(t, nil)
	for name, data := range samples(t) {
		_, _, whole, err := frames(d, data)
		if err != nil {
			t.Fatal(err)
		}
		for n := range data {
			_, _, result, err := frames(d, data[:n])
			switch {
			case err != nil && !pipeline.IsPermanent(err):
				t.Errorf("%s cut at %d: %v", name, n, err)
			case err != nil || result.Format.Kind == Other:
			case name == "jpeg" && n >= len(data)-2, name == "png" && n > len(data)-12:
				// the end marker alone is missing
			default:
				t.Errorf("%s cut at %d of %d: no error, %d of %d frames", name, n, len(data), result.Frames, whole.Frames)
			}
		}
	}
}

func TestMutatedFilesNeverPanicOrStall(t *testing.T) {
	d := newTestDecoder(t, func(c *Config) { c.MaxPixels = 1 << 20; c.MaxMemory = 64 << 20 })
	random := rand.New(rand.NewPCG(1, 2))
	for name, data := range samples(t) {
		for range 1000 {
			mutant := bytes.Clone(data)
			for range 1 + random.IntN(6) {
				mutant[random.IntN(len(mutant))] = byte(random.Uint32())
			}
			if _, _, _, err := frames(d, mutant); err != nil && !pipeline.IsPermanent(err) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestWhatIsNotDecodedSaysSo(t *testing.T) {
	d := newTestDecoder(t, nil)
	small := pngFile(t, pattern(8, 8, 1))
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"tiff":           {[]byte("II*\x00\x08\x00\x00\x00"), "format tiff are not decoded"},
		"heif":           {[]byte("\x00\x00\x00\x18ftypheic\x00\x00\x00\x00"), "format heif are not decoded"},
		"avif":           {[]byte("\x00\x00\x00\x18ftypavif\x00\x00\x00\x00"), "format avif are not decoded"},
		"svg":            {[]byte(`<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>`), "format svg are not decoded"},
		"mp4":            {[]byte("\x00\x00\x00\x18ftypisom\x00\x00\x00\x00"), "the mp4 video has no frame that can be decoded"},
		"mov":            {[]byte("\x00\x00\x00\x18ftypqt  \x00\x00\x00\x00"), "the mov video has no frame that can be decoded"},
		"webm":           {[]byte("\x1aE\xdf\xa3\x00\x00"), "the webm video has no frame that can be decoded"},
		"avi":            {[]byte("RIFF\x00\x00\x00\x00AVI LIST"), "videos in the format avi are not looked at"},
		"animated webp":  {animatedWebP(), "animated webp"},
		"png of 0 width": {zeroWidth(small), "damaged"},
	} {
		images, _, _, err := frames(d, c.data)
		if !pipeline.IsPermanent(err) || !strings.Contains(err.Error(), c.want) || len(images) != 0 {
			t.Errorf("%s: %d frames, %v", name, len(images), err)
		}
	}
	for name, data := range map[string][]byte{
		"nothing": nil, "text": []byte("a shopping list"), "pdf": []byte("%PDF-1.7\n"), "zip": []byte("PK\x03\x04"),
		"ogg": []byte("OggS\x00\x02"), "m4a": []byte("\x00\x00\x00\x18ftypM4A \x00\x00\x00\x00"), "BM text": []byte("BMW is a maker of cars, and more"),
	} {
		images, _, result, err := frames(d, data)
		if err != nil || result.Format.Kind != Other || len(images) != 0 {
			t.Errorf("%s: %+v, %v", name, result, err)
		}
	}
	images, _, result, err := frames(d, withAnimation(small, 5))
	if err != nil || len(images) != 1 || !strings.Contains(result.Skipped, "later frames") {
		t.Errorf("animated png: %d frames, %+v, %v", len(images), result, err)
	}
	if _, _, result, err := frames(d, withAnimation(small, 1)); err != nil || result.Skipped != "" {
		t.Errorf("png with an animation of one frame: %+v, %v", result, err)
	}
}

func animatedWebP() []byte {
	b := []byte("RIFF\x00\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x02\x00\x00\x00\x0f\x00\x00\x0f\x00\x00")
	binary.LittleEndian.PutUint32(b[4:], uint32(len(b)-8))
	return b
}

func zeroWidth(file []byte) []byte {
	body := bytes.Clone(file[16:29])
	binary.BigEndian.PutUint32(body, 0)
	return append(append(bytes.Clone(file[:8]), pngChunk("IHDR", body)...), file[33:]...)
}

func TestErrorsQuoteNothingOfTheFile(t *testing.T) {
	const secret = "quoteme"
	for _, data := range [][]byte{
		[]byte("GIF89a" + secret + secret), []byte("\x89PNG\r\n\x1a\n" + secret + secret), []byte("\xff\xd8\xff" + secret + secret),
		[]byte("RIFF\x08\x00\x00\x00WEBPVP8" + secret + secret),
	} {
		if _, _, _, err := frames(newTestDecoder(t, nil), data); err == nil || strings.Contains(err.Error(), secret) ||
			!strings.HasSuffix(err.Error(), "picture is damaged") && !strings.HasSuffix(err.Error(), "picture is cut short") {
			t.Errorf("error %v", err)
		}
	}
}

func TestMemoryIsChargedForWhatDecodersAllocate(t *testing.T) {
	sample := jpegFile(t, pattern(64, 64, 2))
	progressive := bytes.Clone(sample)
	progressive[len(sample)-len(startOfFrame(sample))] = 0xc2
	cfg := image.Config{Width: 64, Height: 64}
	if got := jpegMemory(sample, cfg) / (64 * 64); got != 7 {
		t.Errorf("baseline: %d bytes a pixel", got)
	}
	if got := jpegMemory(progressive, cfg) / (64 * 64); got != 13 { // 4:2:0 keeps 1.5 coefficients a pixel
		t.Errorf("progressive: %d bytes a pixel", got)
	}
	if got := jpegMemory([]byte("\xff\xd8\xff"), cfg) / (64 * 64); got != 28 {
		t.Errorf("unknown: %d bytes a pixel", got)
	}
	d := newTestDecoder(t, func(c *Config) { c.MaxMemory = 1 << 20 })
	if _, _, _, err := frames(d, pngFile(t, image.NewNRGBA(image.Rect(0, 0, 600, 600)))); !pipeline.IsPermanent(err) {
		t.Errorf("a picture that needs 1.4 MB was decoded within 1 MiB: %v", err)
	}
}

func TestPicturesThatDoNotFitTogetherWait(t *testing.T) {
	d := newTestDecoder(t, func(c *Config) { c.MaxMemory = 1 << 20 })
	data := pngFile(t, image.NewNRGBA(image.Rect(0, 0, 400, 400))) // 640 kB
	synctest.Test(t, func(t *testing.T) {
		entered, leave := make(chan int, 2), make(chan struct{})
		for i := range 2 {
			go func() {
				_, err := d.Decode(t.Context(), data, func(Frame) error {
					entered <- i
					<-leave
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}()
		}
		synctest.Wait()
		if len(entered) != 1 {
			t.Errorf("%d pictures are in memory", len(entered))
		}
		leave <- struct{}{}
		leave <- struct{}{}
		synctest.Wait()
		if len(entered) != 2 {
			t.Errorf("%d pictures were decoded", len(entered))
		}
	})
}

func TestTheEndOfTheContextIsNoFaultOfThePicture(t *testing.T) {
	data := pngFile(t, pattern(300, 300, 1))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := newTestDecoder(t, nil).Decode(ctx, data, func(Frame) error { return nil })
	if !errors.Is(err, context.Canceled) || pipeline.IsPermanent(err) {
		t.Errorf("error %v", err)
	}
	synctest.Test(t, func(t *testing.T) {
		list := []*image.Paletted{checkers(64, 64, 1), checkers(64, 64, 2)}
		d := newTestDecoder(t, nil)
		_, err := d.Decode(t.Context(), gifFile(t, image.Pt(64, 64), list, nil), func(Frame) error {
			timer := time.NewTimer(DefaultConfig().DecodeTime + time.Second)
			<-timer.C
			return nil
		})
		if !pipeline.IsPermanent(err) || !strings.Contains(err.Error(), "took longer") {
			t.Errorf("past the deadline: %v", err)
		}
	})
}

func TestAnErrorOfTheConsumerIsReturnedAsItIs(t *testing.T) {
	stop := errors.New("stop")
	for name, data := range samples(t) {
		if _, err := newTestDecoder(t, nil).Decode(t.Context(), data, func(Frame) error { return stop }); !errors.Is(err, stop) || pipeline.IsPermanent(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAPanickingDecoderIsAnError(t *testing.T) {
	codec := codec{
		config: reading(png.DecodeConfig),
		memory: perPixel(1),
		decode: nil, // calling it panics
	}
	if _, err := codec.run(t.Context(), pngFile(t, pattern(4, 4, 1)), DefaultConfig(), func(Frame) error { return nil }); !errors.Is(err, errPanic) {
		t.Errorf("error %v", err)
	}
}

func TestLimitsAreValidated(t *testing.T) {
	if _, err := NewDecoder(Config{}); err == nil || strings.Count(err.Error(), "\n") != 8 {
		t.Errorf("want every fault at once, got %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, data := range samples(f) {
		f.Add(data)
	}
	f.Add(animatedWebP())
	d := newTestDecoder(f, func(c *Config) { c.MaxPixels = 1 << 16; c.MaxMemory = 32 << 20; c.MaxBytes = 1 << 20 })
	f.Fuzz(func(t *testing.T, data []byte) {
		n := 0
		result, err := d.Decode(t.Context(), data, func(frame Frame) error {
			n++
			if s := frame.Image.Bounds().Size(); s.X < 1 || s.Y < 1 || s.X*s.Y > 1<<16 {
				t.Errorf("a frame of %v", s)
			}
			return nil
		})
		if err != nil && !pipeline.IsPermanent(err) {
			t.Error(err)
		}
		if n > d.cfg.MaxFrames || n != result.Frames {
			t.Error(fmt.Sprint(n, " frames, result says ", result.Frames))
		}
		if err == nil && result.Format.Kind == Image && n == 0 {
			t.Error("a picture without frames and without a fault")
		}
	})
}
