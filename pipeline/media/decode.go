package media

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"io"
	"runtime"

	"golang.org/x/image/bmp"
	"golang.org/x/image/webp"
	"golang.org/x/sync/semaphore"

	"github.com/dmguard/dmguard/pipeline"
)

// Frame is one picture: a still, or a frame of an animation.
type Frame struct {
	// Image is valid until the function that it was handed to returns.
	Image image.Image
	// Index counts the frames of the file from 0. Of a video it is the second that
	// the frame is the first of, and where there are several tracks, so may others be.
	Index int
	// Video says that it is a frame of a video.
	Video bool
}

// Result says what [Decoder.Decode] made of a file.
type Result struct {
	Format Format
	Frames int // that were handed on

	// Skipped says what was not looked at though the rest was: "" for nothing.
	Skipped string
	skipped faultKind // the same
}

// Decoder decodes pictures. Any number of goroutines may use it; those whose
// pictures do not fit into [Config.MaxMemory] together wait for each other.
type Decoder struct {
	cfg Config
	// reserve waits until need bytes are free, and returns what frees them again.
	reserve func(ctx context.Context, need int64) (release func(), err error)
	films   *films // nil where there are no videos to be decoded
	// jpeg decodes a JPEG of a known size before Go's decoder is asked, and
	// returns nil where that is to be asked after all; nil for none.
	jpeg func(data []byte, size image.Point, shrink bool) image.Image
}

// NewDecoder returns a decoder with the limits of cfg. Videos are decoded by
// ffmpeg in processes of their own, which are locked in where the kernel can do
// so, and have limits of memory and time in any case.
func NewDecoder(cfg Config) (*Decoder, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	reserve := reserveOf(cfg.MaxMemory)
	lock := sandboxSupport() == nil
	return &Decoder{cfg: cfg, reserve: reserve, films: newFilms(&cfg, lock, runtime.GOMAXPROCS(0), reserve)}, nil
}

// reserveOf shares out n bytes.
func reserveOf(n int64) func(context.Context, int64) (func(), error) {
	memory := semaphore.NewWeighted(n)
	return func(ctx context.Context, need int64) (func(), error) {
		if err := memory.Acquire(ctx, need); err != nil {
			return nil, fmt.Errorf("waiting to decode: %w", err)
		}
		return func() { memory.Release(need) }, nil
	}
}

// Decode hands each distinct frame of a picture, or the first frame of each second
// of a video, to yield, one at a time, and stops at its first error, which it
// returns as it is.
//
// A file that is neither picture nor video has no frames and is no error. An
// error marked by [pipeline.Permanent] says why a picture or video is not looked
// at, though some of its frames may have been handed on before; every other
// error is that of yield or of ctx.
func (d *Decoder) Decode(ctx context.Context, data []byte, yield func(Frame) error) (Result, error) {
	return d.decode(ctx, data, false, yield)
}

func (d *Decoder) decode(ctx context.Context, data []byte, shrink bool, yield func(Frame) error) (Result, error) {
	format, c, err := d.cfg.codec(data)
	result := Result{Format: format}
	if err == nil && format.Kind == Video {
		return d.films.decode(ctx, data, format, yield)
	}
	if c == nil {
		return result, err
	}
	w, h, need, err := c.measure(data)
	if err != nil {
		return result, damaged(result.Format, err)
	}
	if w < 1 || h < 1 {
		return result, damaged(result.Format, errEmpty)
	}
	if int64(w) > d.cfg.MaxPixels/int64(h) {
		return result, faulty(faultPixels, format.Name, int64(w), int64(h), d.cfg.MaxPixels)
	}
	if need > d.cfg.MaxMemory {
		return result, faulty(faultMemory, format.Name, int64(w), int64(h), d.cfg.MaxMemory)
	}
	release, err := d.reserve(ctx, need)
	if err != nil {
		return result, err
	}
	defer release()

	timed, cancel := context.WithTimeout(ctx, d.cfg.DecodeTime)
	defer cancel()
	var consumer error // tells yield's errors from the decoder's
	handOn := func(f Frame) error {
		consumer = yield(f)
		if consumer == nil {
			result.Frames++
		}
		return consumer
	}
	if img := d.first(format, data, image.Pt(w, h), shrink); img != nil {
		err = handOn(Frame{Image: img})
	} else {
		result.skipped, err = c.run(timed, data, d.cfg, handOn)
	}
	result.Skipped = result.skipped.text(format.Name, [3]int64{})
	switch {
	case err == nil:
		return result, nil
	case consumer != nil:
		return result, consumer
	case ctx.Err() != nil:
		return result, fmt.Errorf("decoding: %w", context.Cause(ctx))
	case timed.Err() != nil:
		return result, faulty(faultTime, format.Name, int64(d.cfg.DecodeTime))
	}
	return result, damaged(result.Format, err)
}

// first is what d.jpeg makes of a picture.
func (d *Decoder) first(format Format, data []byte, size image.Point, shrink bool) image.Image {
	if d.jpeg == nil || format.Name != "jpeg" {
		return nil
	}
	return d.jpeg(data, size, shrink)
}

// codec tells by its first bytes how a picture is decoded; nil with an error says
// why it is not, nil without one that it is a video or nothing to look at.
func (c *Config) codec(data []byte) (Format, *codec, error) {
	format := Sniff(data)
	switch format.Kind {
	case Other:
		return format, nil, nil
	case Video:
		switch {
		case demuxers[format.Name] == "":
			return format, nil, faulty(faultVideo, format.Name)
		case int64(len(data)) > c.MaxVideoBytes:
			return format, nil, faulty(faultBytes, format.Name, c.MaxVideoBytes)
		}
		return format, nil, nil
	case Image:
	}
	if int64(len(data)) > c.MaxBytes {
		return format, nil, faulty(faultBytes, format.Name, c.MaxBytes)
	}
	codec, ok := codecs[format.Name]
	if !ok {
		return format, nil, faulty(faultFormat, format.Name)
	}
	return format, &codec, nil
}

var (
	errEmpty = errors.New("it has no pixels")
	errPanic = errors.New("the decoder panicked")
	errSize  = errors.New("its size is not what its header said")
)

// damaged says what is wrong with a picture in words of ours: those of decoders quote it.
func damaged(f Format, err error) error {
	if pipeline.IsPermanent(err) {
		return err
	}
	_, jpegUnsupported := errors.AsType[jpeg.UnsupportedError](err)
	_, pngUnsupported := errors.AsType[png.UnsupportedError](err)
	kind := faultDamaged
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		kind = faultCutShort
	case errors.Is(err, errEmpty):
		kind = faultEmpty
	case errors.Is(err, errPanic):
		kind = faultPanic
	case errors.Is(err, errSize):
		kind = faultSize
	case jpegUnsupported, pngUnsupported, errors.Is(err, bmp.ErrUnsupported):
		kind = faultUnsupported
	}
	return faulty(kind, f.Name)
}

// codec is how one format is decoded.
type codec struct {
	config func(data []byte) (image.Config, error)
	decode func(io.Reader) (image.Image, error)
	memory func(data []byte, cfg image.Config) int64 // bytes that decoding needs at most
	// check refuses what the decoder cannot be trusted with, and says what it leaves out.
	check func(data []byte) (skipped faultKind, err error)
	all   func(ctx context.Context, data []byte, cfg Config, yield func(Frame) error) (skipped faultKind, err error)
}

var codecs = map[string]codec{
	"jpeg": {config: reading(jpeg.DecodeConfig), decode: jpeg.Decode, memory: jpegMemory},
	"png":  {config: reading(png.DecodeConfig), decode: png.Decode, memory: pngMemory, check: checkPNG},
	"webp": {config: reading(webp.DecodeConfig), decode: webp.Decode, memory: webpMemory, check: checkWebP},
	"bmp":  {config: reading(bmp.DecodeConfig), decode: bmp.Decode, memory: perPixel(4)},
	"gif":  {config: gifConfig, all: decodeGIF, memory: perPixel(gifMemory)},
}

func reading(config func(io.Reader) (image.Config, error)) func([]byte) (image.Config, error) {
	return func(data []byte) (image.Config, error) { return config(bytes.NewReader(data)) }
}

func perPixel(n int64) func([]byte, image.Config) int64 {
	return func(_ []byte, cfg image.Config) int64 { return n * pixels(cfg) }
}

func pixels(cfg image.Config) int64 { return int64(cfg.Width) * int64(cfg.Height) }

func (c *codec) measure(data []byte) (w, h int, need int64, err error) {
	defer recovered(&err)
	cfg, err := c.config(data)
	if err != nil {
		return 0, 0, 0, err
	}
	return cfg.Width, cfg.Height, c.memory(data, cfg), nil
}

func (c *codec) run(ctx context.Context, data []byte, cfg Config, yield func(Frame) error) (skipped faultKind, err error) {
	if c.all != nil {
		defer recovered(&err)
		return c.all(ctx, data, cfg, yield)
	}
	img, skipped, err := c.still(ctx, data, cfg)
	if err != nil {
		return noFault, err
	}
	return skipped, yield(Frame{Image: img}) // outside of recovered: its panics are not the decoder's
}

func (c *codec) still(ctx context.Context, data []byte, cfg Config) (img image.Image, skipped faultKind, err error) {
	defer recovered(&err)
	if c.check != nil {
		if skipped, err = c.check(data); err != nil {
			return nil, noFault, err
		}
	}
	img, err = c.decode(&reader{ctx, bytes.NewReader(data)})
	if err != nil {
		return nil, noFault, err
	}
	if b := img.Bounds(); int64(b.Dx())*int64(b.Dy()) > cfg.MaxPixels {
		return nil, noFault, errSize
	}
	return img, skipped, nil
}

func recovered(err *error) {
	if recover() != nil { // the value may quote the picture
		*err = errPanic
	}
}

// jpegMemory counts the planes, a conversion of colours, and the coefficients that
// a progressive picture keeps, at four bytes each.
func jpegMemory(data []byte, cfg image.Config) int64 {
	worst := (4 + 8 + 4*4) * pixels(cfg)
	frame := startOfFrame(data)
	if len(frame) < 9 {
		return worst
	}
	height, width, n := int(binary.BigEndian.Uint16(frame[4:])), int(binary.BigEndian.Uint16(frame[6:])), int(frame[8])
	bytesPerPixel := map[int]int64{1: 1, 3: 3 + 4, 4: 4 + 8}[n]
	if width != cfg.Width || height != cfg.Height || bytesPerPixel == 0 || len(frame) < 9+3*n {
		return worst
	}
	if progressive := frame[0] == 0xc2; !progressive {
		return bytesPerPixel * pixels(cfg)
	}
	var samples, most int64
	for i := range n {
		s := int64(frame[10+3*i]>>4) * int64(frame[10+3*i]&15)
		samples, most = samples+s, max(most, s)
	}
	if most == 0 {
		return worst
	}
	return (bytesPerPixel + (4*samples+most-1)/most) * pixels(cfg)
}

// startOfFrame returns a JPEG from the second byte of its first start-of-frame
// marker on, or nil.
func startOfFrame(data []byte) []byte {
	for i := 2; i+4 <= len(data); {
		marker := data[i+1]
		switch {
		case data[i] != 0xff || marker == 0xff:
			i++
		case marker >= 0xc0 && marker <= 0xc2:
			return data[i+1:]
		case marker == 0x00 || marker == 0x01 || marker >= 0xd0 && marker <= 0xd8:
			i += 2
		default:
			i += 2 + int(binary.BigEndian.Uint16(data[i+2:]))
		}
	}
	return nil
}

func pngMemory(data []byte, cfg image.Config) int64 {
	n := int64(4)
	switch cfg.ColorModel {
	case color.RGBA64Model, color.NRGBA64Model:
		n = 8
	case color.Gray16Model:
		n = 2
	case color.GrayModel:
		n = 1
	default: // a palette or four bytes
	}
	if len(data) > 28 && data[28] != 0 { // interlaced: each pass is a picture of its own first
		n *= 2
	}
	return n * pixels(cfg)
}

// webpMemory counts what a lossless picture may ask for beside its pixels: a group of
// Huffman tables of 5.6 kB for every 4×4 pixels, if the file has a byte to spend on each.
func webpMemory(data []byte, cfg image.Config) int64 {
	if len(data) > 16 && string(data[12:16]) == "VP8 " {
		return 3 * pixels(cfg)
	}
	groups := min(pixels(cfg)/16+1, 1<<16, int64(len(data)))
	return 9*pixels(cfg) + 5600*groups
}

// checkPNG notices an animation, of which only the first picture is decoded.
func checkPNG(data []byte) (faultKind, error) {
	for rest := data[8:]; len(rest) >= 12; {
		n, name := binary.BigEndian.Uint32(rest), string(rest[4:8])
		switch {
		case name == "acTL" && n == 8 && len(rest) >= 12 && binary.BigEndian.Uint32(rest[8:]) > 1:
			return faultAnimatedPNG, nil
		case name == "IDAT" || int64(n)+12 > int64(len(rest)):
			return noFault, nil
		}
		rest = rest[12+int(n):]
	}
	return noFault, nil
}

// checkWebP refuses a file that claims more bytes than it has, because the decoder
// allocates what is claimed, and an animation, which it cannot decode.
func checkWebP(data []byte) (faultKind, error) {
	if uint64(binary.LittleEndian.Uint32(data[4:]))+8 > uint64(len(data)) {
		return noFault, io.ErrUnexpectedEOF
	}
	const animation = 1 << 1
	if len(data) > 20 && string(data[12:16]) == "VP8X" && data[20]&animation != 0 {
		return noFault, faulty(faultAnimatedWebP, "webp")
	}
	return noFault, nil
}
