package media

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"sync/atomic"
	"syscall"
)

// decoderArgument is the first argument of a process that decodes, and
// decoderVariable is in its environment: both, so that nobody ends up there by
// a file of that name.
const (
	decoderArgument = "decode-pictures"
	decoderVariable = "DMGUARD_DECODER_PROCESS"
)

// served is what this program calls [ServeSandbox] with, by which it may be
// started again as a decoder; nil if it does not.
var served atomic.Pointer[Look]

// ServeSandbox turns the process into a decoder if a [Sandbox] started it as
// such, and returns true when its work is done: the program then ends. A program
// that uses a Sandbox calls it before everything else in main, the tests of such
// a program in TestMain. Nothing that look touches may need a file, a new
// connection or a new process.
func ServeSandbox(look Look) bool {
	served.Store(&look)
	if len(os.Args) == 3 && os.Args[1] == programArgument && os.Getenv(decoderVariable) != "" {
		runProgram(os.Args[2]) // ends the process
		return true
	}
	if len(os.Args) != 2 || os.Args[1] != decoderArgument || os.Getenv(decoderVariable) == "" {
		return false
	}
	// The service decides when its decoders end, or its end does; a signal to
	// the whole group must not take them from a service that drains.
	signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	if err := serve(os.Stdin, os.Stdout, look); err != nil {
		fmt.Fprintln(os.Stderr, "decoder:", err) // of the pipes: no content
	}
	return true
}

func serve(in io.Reader, out io.Writer, look Look) error {
	var l limits
	if err := binary.Read(in, binary.BigEndian, &l); err != nil {
		return fmt.Errorf("reading the limits: %w", err)
	}
	cfg := l.config()
	if err := lockIn(cfg.MaxMemory, maxBusy+2*cfg.DecodeTime); err != nil {
		text := err.Error()
		return writeMessage(out, msgRefused, []byte(text[:min(len(text), 1<<10)]))
	}
	d := decoderProcess{in: in, out: out}
	d.examiner = InProcess{Decoder: &Decoder{cfg: cfg, reserve: d.reserve}, Look: look}
	if Turbo {
		d.examiner.Decoder.jpeg = sandboxedJPEG
	}
	if err := writeMessage(out, msgReady, nil); err != nil {
		return err
	}
	for {
		if err := d.one(); err != nil {
			if errors.Is(err, io.EOF) {
				return nil // the service has no more use for us
			}
			return err
		}
	}
}

// decoderProcess is the inside of a sandbox.
type decoderProcess struct {
	in       io.Reader
	out      io.Writer
	examiner InProcess
	reserved int64 // for the picture in hand
	err      error // of the pipes: there is no going on
}

// one examines one picture.
func (d *decoderProcess) one() error {
	var header [requestHeader]byte
	if _, err := io.ReadFull(d.in, header[:]); err != nil {
		return err
	}
	data := make([]byte, binary.BigEndian.Uint32(header[1:]))
	if _, err := io.ReadFull(d.in, data); err != nil {
		return fmt.Errorf("reading a picture: %w", err)
	}
	d.reserved = 0
	var frame []byte
	result, err := d.examiner.Examine(context.Background(), data, header[0], func(index int, seen []byte) error {
		frame = append(binary.BigEndian.AppendUint32(frame[:0], uint32(index)), seen...)
		d.err = writeMessage(d.out, msgFrame, frame)
		return d.err
	})
	if d.err != nil {
		return d.err
	}
	e := end{skipped: result.skipped}
	if err != nil {
		f, ok := errors.AsType[*fault](err)
		if !ok {
			return fmt.Errorf("an error that has no number: %w", err)
		}
		e.fault, e.n = f.kind, f.n
	}
	if err := writeMessage(d.out, msgEnd, e.encode()); err != nil {
		return err
	}
	if d.reserved > large {
		debug.FreeOSMemory() // the next large picture may be another process's
	}
	return nil
}

// large is the need of memory, in bytes, from which on it is given back at once.
const large = 256 << 20

// reserve asks the service, which shares memory out among all its processes.
func (d *decoderProcess) reserve(_ context.Context, need int64) (func(), error) {
	d.reserved = need
	if d.err = writeMessage(d.out, msgNeed, binary.BigEndian.AppendUint64(nil, uint64(need))); d.err != nil {
		return nil, d.err
	}
	var granted [1]byte
	if _, d.err = io.ReadFull(d.in, granted[:]); d.err != nil {
		return nil, d.err
	}
	return func() {}, nil
}
