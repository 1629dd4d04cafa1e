package media

import "context"

// MaxSeen is how many bytes a [Look] may return.
const MaxSeen = 4 << 10

// MayShrink is the one bit of want that means something to this package: the
// pictures may come halved, or halved again, if that saves decoding, as long as
// the smaller side keeps [ShrunkSide] pixels. Whoever looks at every pixel does
// not set it.
const MayShrink uint8 = 1 << 7

// ShrunkSide is the least that [MayShrink] leaves of the smaller side, in pixels.
const ShrunkSide = 512

// Look returns what is to be known of a frame, in at most [MaxSeen] bytes. Want
// says what that is, in bits that mean nothing to this package but [MayShrink].
//
// A [Sandbox] calls it in a process that has no files, no network and no
// configuration, so it depends on its arguments alone. Several goroutines may
// call it.
type Look func(f Frame, want uint8) ([]byte, error)

// InProcess decodes in the calling process, always by decoders written in Go. It
// does what [Sandbox] does, to the bit unless that has libjpeg-turbo ([Turbo]), and
// holds nothing back that a decoder does wrong but panics.
type InProcess struct {
	Decoder *Decoder
	Look    Look
}

// Examine decodes a file as [Decoder.Decode] does and hands what was seen in
// each frame to each, whose error it returns as it is. What is handed on is the
// receiver's to keep.
func (p *InProcess) Examine(ctx context.Context, data []byte, want uint8, each func(frame int, seen []byte) error) (Result, error) {
	format := Sniff(data).Name
	return p.Decoder.decode(ctx, data, want&MayShrink != 0, func(f Frame) error {
		seen, ok := p.look(f, want)
		if !ok {
			return faulty(faultLook, format)
		}
		return each(f.Index, seen)
	})
}

// look keeps a panic of [Look] from what it was called by: the value may quote
// the picture, and so may the text of its error.
func (p *InProcess) look(f Frame, want uint8) (seen []byte, ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	seen, err := p.Look(f, want)
	return seen, err == nil && len(seen) <= MaxSeen
}
