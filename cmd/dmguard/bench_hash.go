package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"image/color/palette"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"math"
	"math/bits"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"go.uber.org/zap"

	"github.com/dmguard/dmguard/hashdb"
	"github.com/dmguard/dmguard/hashdb/pdq"
	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/pipeline/media"
)

func benchHashCommand() *command {
	return &command{
		name:    "hash",
		summary: "measure hashing and decoding of pictures, up to the verdict, beside what is asked of it",
		example: "dmguard bench hash --time 50ms --large=false",
		run:     runBenchHash,
	}
}

// What is asked of hashing, on one core.
const (
	barPDQ       = 800 * time.Microsecond // 512×512, of colour
	barLarge     = 200 * time.Millisecond // 12 megapixels of JPEG to the verdict, in Go
	barTurbo     = 40 * time.Millisecond  // the same by libjpeg-turbo
	smallSide    = 512
	fewestRuns   = 5
	pythonMillis = 500 // how long Python is measured
)

func runBenchHash(ctx context.Context, cl *commandLine) error {
	long := cl.Duration("time", time.Second, "how long to measure each figure; the quickest run counts")
	large := cl.Bool("large", true, "measure 12 megapixels as well")
	asJSON := cl.Bool("json", false, "print JSON")
	if err := cl.parse(0, 0); err != nil {
		return err
	}
	log, err := (&logFlags{level: "error"}).logger(cl.err)
	if err != nil {
		return err
	}
	b := &hashBench{long: *long, large: *large, log: log, bar: newProgress(cl.err, "figures")}
	r := &hashResult{Go: runtime.Version(), Processors: runtime.GOMAXPROCS(0), Turbo: media.Turbo}
	err = b.measureAll(ctx, r)
	b.bar.end()
	if err != nil {
		return err
	}
	if *asJSON {
		return json.MarshalWrite(cl.out, r, jsontext.WithIndent("  "))
	}
	return r.print(cl.out)
}

// hashResult is what was measured. Every figure is that of the quickest run.
type hashResult struct {
	Go         string       `json:"go"`
	Processors int          `json:"processors"`
	Turbo      bool         `json:"turbo"` // JPEG by libjpeg-turbo in the sandbox
	Figures    []hashFigure `json:"figures"`
	Notes      []string     `json:"notes"` // what was not measured, and what a figure hides
}

type hashFigure struct {
	Name    string   `json:"name"`
	Picture string   `json:"picture"`
	Value   float64  `json:"value"`         // processor time where the unit is one of time
	Wall    float64  `json:"wall,omitzero"` // in the same unit
	Unit    string   `json:"unit"`
	Bar     *float64 `json:"bar,omitempty"` // the most that is asked for
	Met     *bool    `json:"met,omitempty"`
}

func (r *hashResult) add(f hashFigure) {
	if f.Bar != nil {
		met := f.Value <= *f.Bar
		f.Met = &met
	}
	r.Figures = append(r.Figures, f)
}

// took adds a figure of time; a bar of 0 is none.
func (r *hashResult) took(name, picture string, t spent, bar time.Duration) {
	f := hashFigure{Name: name, Picture: picture, Value: millis(t.cpu), Wall: millis(t.wall), Unit: "ms"}
	if bar > 0 {
		ms := millis(bar)
		f.Bar = &ms
	}
	r.add(f)
}

func millis(d time.Duration) float64 { return d.Seconds() * 1e3 }

func (r *hashResult) print(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "PICTURE\tMEASURED\tCPU\tWALL\t\tBAR\t\t")
	number := func(v float64) string { return strconv.FormatFloat(v, 'g', 4, 64) }
	for _, f := range r.Figures {
		bar, met, wall := "", "", ""
		if f.Met != nil {
			bar = "≤ " + strconv.FormatFloat(*f.Bar, 'g', 3, 64)
			met = map[bool]string{true: "met", false: "MISSED"}[*f.Met]
		}
		if f.Wall > 0 {
			wall = number(f.Wall)
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", f.Picture, f.Name, number(f.Value), wall, f.Unit, bar, met)
	}
	jpegs := "JPEG by Go"
	if r.Turbo {
		jpegs = "JPEG by libjpeg-turbo in the sandbox"
	}
	fmt.Fprintf(tw, "\t%s, %d processors, %s\t\t\t\t\t\t\n", r.Go, r.Processors, jpegs)
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, note := range r.Notes {
		fmt.Fprintln(w, note)
	}
	return nil
}

type hashBench struct {
	long  time.Duration
	large bool
	log   *zap.Logger
	bar   *progress
	done  int64
}

// spent is what one run took.
type spent struct{ wall, cpu time.Duration }

// quickest runs f for as long as asked and at least a few times; cpu reads what was used so far.
// The quickest run is the one that the rest of the machine disturbed least.
func (b *hashBench) quickest(ctx context.Context, cpu func() time.Duration, f func() error) (spent, error) {
	b.bar.set(b.done, 0)
	b.done++
	best := spent{math.MaxInt64, math.MaxInt64}
	for end, runs := time.Now().Add(b.long), 0; runs < fewestRuns || time.Now().Before(end); runs++ {
		if err := ctx.Err(); err != nil {
			return best, err
		}
		started, used := time.Now(), cpu()
		if err := f(); err != nil {
			return best, err
		}
		best.cpu, best.wall = min(best.cpu, cpu()-used), min(best.wall, time.Since(started))
	}
	return best, nil
}

func (b *hashBench) measureAll(ctx context.Context, r *hashResult) error {
	small := benchPicture(smallSide, smallSide)
	middle := grey(benchPicture(1600, 1000))
	var large *image.NRGBA
	var largeGrey *image.YCbCr
	if b.large {
		large = benchPicture(4000, 3000)
		largeGrey = grey(large)
	}
	if err := b.hashes(ctx, r, small, middle, largeGrey); err != nil {
		return err
	}
	if err := b.python(ctx, r, small); err != nil {
		return err
	}
	return b.verdicts(ctx, r, small, large)
}

// hashes measures hashing alone.
func (b *hashBench) hashes(ctx context.Context, r *hashResult, small *image.NRGBA, middle, large *image.YCbCr) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var h pdq.Hasher
	hash := func(name, picture string, img image.Image, mode pdq.Mode, bar time.Duration) error {
		t, err := b.quickest(ctx, threadTime, func() error { h.Hash(img, mode); return nil })
		r.took(name, picture, t, bar)
		return err
	}
	err := errors.Join(
		hash("PDQ of luma, as of a JPEG", "512×512", grey(small), pdq.NN512, barPDQ),
		hash("PDQ of colour", "512×512", small, pdq.NN512, barPDQ),
		hash("PDQ, nn512", "1.6 MP", middle, pdq.NN512, 0),
		hash("PDQ, native", "1.6 MP", middle, pdq.Native, 0),
	)
	if large != nil {
		err = errors.Join(
			err, hash("PDQ, nn512", "12 MP", large, pdq.NN512, 0),
			hash("PDQ, native", "12 MP", large, pdq.Native, 0),
		)
	}
	if err != nil {
		return err
	}
	t, err := b.quickest(ctx, threadTime, func() error { h.Dihedral(small, pdq.NN512); return nil })
	if err != nil {
		return err
	}
	r.took("PDQ of colour in eight orientations", "512×512", t, barPDQ)
	none := 0.0
	r.add(hashFigure{Name: "allocations a picture", Picture: "512×512", Value: allocations(100, func() { h.Dihedral(small, pdq.NN512) }), Bar: &none})
	for _, p := range []struct {
		name string
		img  image.Image
	}{{"512×512", small}, {"1.6 MP", middle}} {
		t, err := b.quickest(ctx, cpuTime, func() error { _, err := hashdb.Perception(p.img); return err }) // it takes several threads
		if err != nil {
			return err
		}
		r.took("perception hash (pHash)", p.name, t, 0)
	}
	file := bytes.Repeat([]byte("0123456789abcdef"), 1<<20/16)
	t, err = b.quickest(ctx, threadTime, func() error { hashdb.Digests(file); return nil })
	r.took("MD5, SHA-1 and SHA-256, in one pass", "1 MiB", t, 0)
	return err
}

// allocations is how often f allocates, on average.
func allocations(runs int, f func()) float64 {
	f()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range runs {
		f()
	}
	runtime.ReadMemStats(&after)
	return float64((after.Mallocs - before.Mallocs) / uint64(runs)) // whole ones: the rest is the runtime's own
}

// pythonPDQ reads a picture of so many pixels a side, hashes it for so many milliseconds, and
// prints the least processor and wall times in nanoseconds, the quality and the bits of the hash.
const pythonPDQ = `
import sys, time
import numpy, pdqhash
side, millis = int(sys.argv[1]), int(sys.argv[2])
picture = numpy.frombuffer(sys.stdin.buffer.read(), numpy.uint8).reshape(side, side, 3)
best, wall, end = 1 << 62, 1 << 62, time.monotonic() + millis / 1e3
while time.monotonic() < end:
    t, w = time.thread_time_ns(), time.monotonic_ns()
    bits, quality = pdqhash.compute(picture)
    best, wall = min(best, time.thread_time_ns() - t), min(wall, time.monotonic_ns() - w)
print(best, wall, quality, "".join(str(int(b)) for b in bits))
`

// python measures the Python package of the reference's code on the same pixels, where there is one.
func (b *hashBench) python(ctx context.Context, r *hashResult, img *image.NRGBA) error {
	var rgb []byte
	for i := 0; i < len(img.Pix); i += 4 {
		rgb = append(rgb, img.Pix[i:i+3]...)
	}
	if err := exec.CommandContext(ctx, "python3", "-c", "import numpy, pdqhash").Run(); err != nil {
		r.Notes = append(r.Notes, "The Python package pdqhash is not present (python3 -c \"import pdqhash\"): nothing to compare with.")
		return ctx.Err()
	}
	cmd := exec.CommandContext(ctx, "python3", "-c", pythonPDQ, strconv.Itoa(smallSide), strconv.Itoa(pythonMillis)) //nolint:gosec // constants
	cmd.Stdin = bytes.NewReader(rgb)
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("running the Python package pdqhash: %w", err)
	}
	var cpu, wall time.Duration
	var quality int
	var text string
	if _, err := fmt.Sscan(string(out), &cpu, &wall, &quality, &text); err != nil {
		return fmt.Errorf("reading what the Python package pdqhash says: %w", err)
	}
	r.took("PDQ of colour, Python package pdqhash", "512×512", spent{wall, cpu}, 0)
	var h pdq.Hasher
	ours, _ := h.Hash(img, pdq.Native)
	r.Notes = append(r.Notes, fmt.Sprintf("Of these pixels the hash of the Python package pdqhash differs from ours in %d of 256 bits.", differing(ours, text)))
	return nil
}

// differing counts the bits in which a hash is not what text says, the most significant first.
func differing(h pdq.Hash, text string) int {
	n := 0
	for i, x := range h {
		var other byte
		for k := range 8 {
			other <<= 1
			if at := 8*i + k; at < len(text) && text[at] == '1' {
				other |= 1
			}
		}
		n += bits.OnesCount8(x ^ other)
	}
	return n
}

// verdicts measures files up to the verdict, in processes of their own and in this one.
func (b *hashBench) verdicts(ctx context.Context, r *hashResult, small, large *image.NRGBA) error {
	type file struct {
		name, picture string
		data          []byte
		large         bool
	}
	var files []file
	for _, format := range []string{"JPEG", "PNG", "WebP, lossless", "GIF"} {
		data, err := encodePicture(format, small)
		if err != nil {
			return err
		}
		files = append(files, file{name: format, picture: "512×512", data: data})
	}
	if large != nil {
		data, err := encodePicture("JPEG", large)
		if err != nil {
			return err
		}
		files = append(files, file{name: "JPEG", picture: "12 MP", data: data, large: true})
	}
	for _, where := range []string{decodeInProcess, decodeSandbox} {
		rules, err := (&rulesetOptions{decode: where}).load(ctx, b.log)
		if err != nil && where == decodeSandbox {
			r.Notes = append(r.Notes, "Not measured in the sandbox: "+strings.ReplaceAll(err.Error(), "\n", "; "))
			return nil
		}
		if err != nil {
			return err
		}
		cpu := cpuTime
		if rules.sandbox != nil {
			cpu = func() time.Duration { return cpuTime() + rules.sandbox.ProcessorTime() }
		}
		for _, f := range files {
			bar := time.Duration(0)
			switch {
			case f.large && where == decodeSandbox && media.Turbo:
				bar = barTurbo
			case f.large:
				bar = barLarge
			}
			t, err := b.quickest(ctx, cpu, func() error { return benchVerdict(ctx, rules, f.data) })
			if err != nil {
				rules.close()
				return fmt.Errorf("%s, %s: %w", f.name, where, err)
			}
			r.took(fmt.Sprintf("%s of %d kB to the verdict, %s", f.name, len(f.data)/1000, where), f.picture, t, bar)
		}
		rules.close()
	}
	return nil
}

// benchVerdict judges a message with one attachment.
func benchVerdict(ctx context.Context, r *rules, file []byte) error {
	item := &pipeline.Item{Message: &pipeline.Message{Attachments: []pipeline.Attachment{{ID: "a-1", Data: pipeline.NewBlob(file)}}}}
	if err := r.ruleset.Prepare(ctx, item); err != nil {
		return err
	}
	var findings []pipeline.Finding
	for _, d := range r.ruleset.Detectors {
		answer, err := d.Detect(ctx, item)
		if err != nil {
			return err // nothing is wrong with the picture
		}
		findings = append(findings, answer.Findings...)
	}
	r.ruleset.Policy.Decide(findings, false)
	return nil
}

// benchPicture makes up a picture that is about as hard to decode as a photograph: smooth
// areas with edges, and a little noise on all of it.
func benchPicture(w, h int) *image.NRGBA {
	img := image.NewNRGBA(image.Rect(0, 0, w, h))
	state := uint64(7)
	next := func() int {
		state = state*6364136223846793005 + 1442695040888963407
		return int(state >> 58)
	}
	for y := range h {
		for x := range w {
			smooth := 96 + 100*x/w - 60*y/h
			if (x*x/w+y*y/h)/(1+min(w, h)/9)%2 == 0 {
				smooth += 40
			}
			noise := (next() + next() - 63) / 4
			p := img.Pix[img.PixOffset(x, y):]
			p[0] = uint8(min(max(smooth+noise, 0), 255))
			p[1] = uint8(min(max(smooth+noise+20*y/h, 0), 255))
			p[2] = uint8(min(max(200-smooth/2+noise, 0), 255))
			p[3] = 255
		}
	}
	return img
}

// grey is a picture as a decoder of JPEG gives it, of which only the luma counts.
func grey(img *image.NRGBA) *image.YCbCr {
	out := image.NewYCbCr(img.Rect, image.YCbCrSubsampleRatio420)
	for i := range out.Y {
		out.Y[i] = img.Pix[4*i+1]
	}
	for i := range out.Cb {
		out.Cb[i], out.Cr[i] = uint8(120+i%5), uint8(130+i%7)
	}
	return out
}

func encodePicture(format string, img image.Image) ([]byte, error) {
	var b bytes.Buffer
	var err error
	switch format {
	case "JPEG":
		err = jpeg.Encode(&b, img, &jpeg.Options{Quality: 85})
	case "PNG":
		err = png.Encode(&b, img)
	case "GIF":
		p := image.NewPaletted(img.Bounds(), palette.Plan9)
		for y := range img.Bounds().Dy() {
			for x := range img.Bounds().Dx() {
				p.Set(x, y, img.At(x, y))
			}
		}
		err = gif.Encode(&b, p, nil)
	default:
		return plainWebP(img), nil
	}
	return b.Bytes(), err
}

// plainWebP writes a lossless WebP whose channels are eight bits a pixel each: what it takes a
// decoder of WebP to read, without the art of an encoder.
// See RFC 9649, section 3.
func plainWebP(img image.Image) []byte {
	w, h := img.Bounds().Dx(), img.Bounds().Dy()
	chunk := binary.LittleEndian.AppendUint32([]byte{0x2f}, uint32(w-1)|uint32(h-1)<<14)
	var held uint64
	n := 0
	put := func(v uint64, count int) {
		held |= v << n
		for n += count; n >= 8; n -= 8 {
			chunk = append(chunk, byte(held))
			held >>= 8
		}
	}
	put(0, 3) // no transform, no colour cache, one group of codes
	single := func(symbol uint64) { put(0b101, 3); put(symbol, 8) }
	uniform := func(unused int) {
		put(0, 1)    // not a simple code
		put(12-4, 4) // lengths of codes for lengths, in the order 17 18 0 1 2 3 4 5 16 6 7 8
		for i := range 12 {
			length := uint64(0)
			if i == 2 || i == 11 { // for the lengths 0 and 8
				length = 1
			}
			put(length, 3)
		}
		put(0, 1) // as many lengths as there are symbols
		for range 256 {
			put(1, 1)
		}
		put(0, unused)
	}
	uniform(24) // green, and the lengths of copies
	uniform(0)  // red
	uniform(0)  // blue
	single(255) // alpha
	single(0)   // distance
	for y := range h {
		for x := range w {
			r, g, b, _ := img.At(x, y).RGBA()
			for _, v := range []uint32{g, r, b} {
				put(uint64(bits.Reverse8(uint8(v>>8))), 8)
			}
		}
	}
	put(0, 16)
	if len(chunk)%2 == 1 {
		chunk = append(chunk, 0)
	}
	out := binary.LittleEndian.AppendUint32([]byte("RIFF"), uint32(12+len(chunk)))
	out = binary.LittleEndian.AppendUint32(append(out, "WEBPVP8L"...), uint32(len(chunk)))
	return append(out, chunk...)
}
