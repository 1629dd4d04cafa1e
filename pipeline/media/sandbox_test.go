//go:build linux && (amd64 || arm64)

package media

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/dmguard/dmguard/pipeline"
)

func TestMain(m *testing.M) {
	if ServeSandbox(testLook) {
		return
	}
	if role := os.Getenv("MEDIA_TEST_ROLE"); role != "" {
		play(role)
		return
	}
	m.Run()
	_ = os.RemoveAll(fakeFolder)
}

// What testLook is asked for: to do its work, or to misbehave inside of the sandbox.
const (
	pixelsOf uint8 = iota
	spin
	wait
	showAndWait
	allocate
	openFile
	createFile
	openSocket
	execute
	fork
	forkAsGoDoes
	signalOthers
	trace
	readOthers
	executableMemory
	makeExecutable
	raiseLimit
	forgiveDeath
	garbage
	tooLong
	tooMany
	backwards
	anotherEnd
	stays
	babbles
	unknownFault
	negative
	noFrames
	dieHalfway
	dieAtSecond
	fail
	panics
	tooWordy
	nothing
)

// testLook describes a frame to the last byte, or misbehaves.
func testLook(f Frame, want uint8) ([]byte, error) {
	send := func(kind byte, payload []byte) { _ = writeMessage(os.Stdout, kind, payload) }
	frame := func(index uint32) []byte { return binary.BigEndian.AppendUint32(nil, index) }
	switch want &^ MayShrink {
	case spin:
		for n := uint64(1); n != 0; n += 2 {
		}
	case wait, showAndWait:
		if want == showAndWait {
			send(msgFrame, frame(0))
		}
		<-time.After(time.Hour)
	case allocate:
		var held [][]byte
		for range 96 {
			b := make([]byte, 64<<20)
			for i := 0; i < len(b); i += 1 << 20 {
				b[i] = 1
			}
			held = append(held, b)
		}
		runtime.KeepAlive(held)
	case openFile:
		_, err := os.Open("/etc/passwd")
		return fmt.Append(nil, errors.Is(err, unix.EPERM)), nil
	case createFile:
		_, err := os.Create("/tmp/dmguard-decoder-was-here")
		return fmt.Append(nil, errors.Is(err, unix.EPERM)), nil
	case openSocket:
		_, _ = unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	case execute:
		_ = unix.Exec("/proc/self/exe", []string{"again"}, nil)
	case fork:
		_, _, _ = unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	case forkAsGoDoes:
		_, _ = os.StartProcess("/proc/self/exe", []string{"again"}, &os.ProcAttr{})
	case signalOthers:
		_ = unix.Tgkill(1, 1, 0)
	case trace:
		_ = unix.PtraceAttach(1)
	case readOthers:
		_, _ = unix.ProcessVMReadv(1, nil, nil, 0)
	case executableMemory:
		_, _ = unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
	case makeExecutable:
		page, _ := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		_ = unix.Mprotect(page, unix.PROT_READ|unix.PROT_EXEC)
	case raiseLimit:
		err := unix.Setrlimit(unix.RLIMIT_AS, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
		return fmt.Append(nil, errors.Is(err, unix.EPERM)), nil
	case forgiveDeath:
		err := unix.Prctl(unix.PR_SET_PDEATHSIG, 0, 0, 0, 0)
		return fmt.Append(nil, errors.Is(err, unix.EPERM)), nil
	case garbage:
		_, _ = os.Stdout.Write(bytes.Repeat([]byte("garbage"), 1000))
	case tooLong:
		_, _ = os.Stdout.Write([]byte{msgFrame, 0x7f, 0xff, 0xff, 0xff})
		_, _ = io.CopyN(os.Stdout, endless{}, 1<<30)
	case tooMany:
		for i := range uint32(1 << 20) {
			send(msgFrame, frame(i))
		}
	case backwards:
		send(msgFrame, frame(7))
		send(msgFrame, frame(7))
	case anotherEnd:
		var all bytes.Buffer
		_ = writeMessage(&all, msgFrame, frame(0))
		_ = writeMessage(&all, msgEnd, (&end{}).encode())
		_, _ = os.Stdout.Write(append(all.Bytes(), all.Bytes()...))
	case stays, babbles:
		send(msgFrame, frame(0))
		send(msgEnd, (&end{}).encode())
		if want == babbles {
			_, _ = os.Stdout.WriteString("babble")
		}
		<-time.After(time.Hour)
	case unknownFault:
		send(msgEnd, (&end{fault: firstOfProcess}).encode())
	case negative:
		send(msgEnd, (&end{fault: faultBytes, n: [3]int64{-1}}).encode())
	case noFrames:
		send(msgEnd, (&end{}).encode())
	case dieHalfway:
		_, _ = os.Stdout.Write([]byte{msgFrame, 0})
		syscall.Exit(3)
	case dieAtSecond:
		if f.Index > 0 {
			syscall.Exit(3)
		}
	case fail:
		return nil, errors.New("quoteme")
	case panics:
		panic("quoteme")
	case tooWordy:
		return make([]byte, MaxSeen+1), nil
	case nothing:
		return make([]byte, 257), nil
	default:
	}
	return describe(f.Image), nil
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// describe tells pictures apart by type, geometry and every byte of them.
func describe(img image.Image) []byte {
	sum := sha256.New()
	switch p := img.(type) {
	case *image.YCbCr:
		fmt.Fprint(sum, p.YStride, p.CStride, p.SubsampleRatio)
		sum.Write(p.Y)
		sum.Write(p.Cb)
		sum.Write(p.Cr)
	case *image.NRGBA:
		sum.Write(p.Pix)
	case *image.Gray:
		sum.Write(p.Pix)
	default:
		fmt.Fprintf(sum, "%v", img)
	}
	return fmt.Appendf(nil, "%T %v %x", img, img.Bounds(), sum.Sum(nil))
}

// seenFrame is what was seen of a frame.
type seenFrame struct {
	Index int
	Seen  string
}

type examination struct {
	Frames []seenFrame
	Result string
	Err    string
}

func examineWith(ctx context.Context, by interface {
	Examine(context.Context, []byte, uint8, func(int, []byte) error) (Result, error)
}, data []byte, want uint8,
) (x examination, err error) {
	result, err := by.Examine(ctx, data, want, func(index int, seen []byte) error {
		x.Frames = append(x.Frames, seenFrame{index, string(seen)})
		return nil
	})
	if x.Result = fmt.Sprintf("%+v", result); err != nil {
		x.Err = err.Error()
	}
	return x, err
}

// likeness is what two examinations of one file have in common wherever it is
// decoded: libjpeg-turbo gives the luma alone, and not to the bit what Go's decoder gives.
func likeness(x examination) examination {
	if !Turbo || !strings.Contains(x.Result, "Name:jpeg ") {
		return x
	}
	x.Frames = slices.Clone(x.Frames)
	for i, f := range x.Frames {
		for _, kind := range []string{"*image.YCbCr ", "*image.Gray "} {
			if rest, ok := strings.CutPrefix(f.Seen, kind); ok {
				x.Frames[i].Seen, _, _ = strings.Cut(rest, " ")
			}
		}
	}
	return x
}

func newTestSandbox(tb testing.TB, processes int, change func(*Config)) *Sandbox {
	tb.Helper()
	cfg := DefaultConfig()
	if change != nil {
		change(&cfg)
	}
	s, err := StartSandbox(tb.Context(), cfg, processes, zap.NewNop())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Close)
	return s
}

// corpus is pictures of every kind that decoders give, whole and at fault.
func corpus(tb testing.TB) map[string][]byte {
	tb.Helper()
	files := samples(tb)
	grey, deep := image.NewGray(image.Rect(0, 0, 70, 50)), image.NewNRGBA64(image.Rect(0, 0, 31, 33))
	for i := range grey.Pix {
		grey.Pix[i] = uint8(i * i / 91)
	}
	for i := range deep.Pix {
		deep.Pix[i] = uint8(i * 7)
	}
	files["large jpeg"] = jpegFile(tb, pattern(1200, 900, 5))
	files["grey jpeg"] = jpegFile(tb, grey)
	for name, file := range map[string][]byte{
		"tiny jpeg": tinyJPEG(3, 8, -1), "tiny grey jpeg": tinyJPEG(1, 8, -1), "cmyk jpeg": tinyJPEG(4, 8, 0), "ycck jpeg": tinyJPEG(4, 8, 2),
		"rgb jpeg": tinyJPEG(3, 8, 0), "12-bit jpeg": tinyJPEG(3, 12, -1), "jpeg of two components": tinyJPEG(2, 8, -1),
	} {
		files[name] = file
		files[name+" without its end"] = file[:len(file)-2]
	}
	files["grey png"] = pngFile(tb, grey)
	files["deep png"] = pngFile(tb, deep)
	files["paletted png"] = pngFile(tb, checkers(50, 40, 3))
	files["large png"] = pngFile(tb, pattern(700, 800, 9))
	files["animated png"] = withAnimation(pngFile(tb, pattern(8, 8, 1)), 5)
	files["animated webp"] = animatedWebP()
	files["text"] = []byte("a shopping list")
	files["nothing"] = nil
	files["tiff"] = []byte("II*\x00\x08\x00\x00\x00")
	files["mp4"] = []byte("\x00\x00\x00\x18ftypisom\x00\x00\x00\x00")
	var many []*image.Paletted
	for i := range 40 {
		many = append(many, checkers(64, 64, i))
	}
	files["gif of many frames"] = gifFile(tb, image.Pt(64, 64), many, nil)
	files["huge png"] = hugePNG()
	files["huge webp"] = webpFile(16384, 16384)
	for _, name := range slices.Sorted(mapKeys(samples(tb))) {
		files[name+" cut short"] = files[name][:2*len(files[name])/3]
	}
	return files
}

func mapKeys(m map[string][]byte) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// hugePNG declares 30,000 × 30,000 pixels.
func hugePNG() []byte {
	header := binary.BigEndian.AppendUint32(nil, 30000)
	header = append(binary.BigEndian.AppendUint32(header, 30000), 8, 6, 0, 0, 0)
	file := append([]byte("\x89PNG\r\n\x1a\n"), pngChunk("IHDR", header)...)
	return append(file, pngChunk("IDAT", make([]byte, 1<<20))...)
}

func TestTheSandboxSeesWhatTheServiceWouldHaveSeen(t *testing.T) {
	s := newTestSandbox(t, 2, nil)
	here := &InProcess{newTestDecoder(t, nil), testLook}
	for name, data := range corpus(t) {
		want, _ := examineWith(t.Context(), here, data, pixelsOf)
		got, err := examineWith(t.Context(), s, data, pixelsOf)
		if diff := cmp.Diff(likeness(want), likeness(got)); diff != "" {
			t.Errorf("%s: -in process +in sandbox\n%s", name, diff)
		}
		if err != nil && !pipeline.IsPermanent(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, want := range []uint8{fail, panics, tooWordy} {
		there, err := examineWith(t.Context(), s, samples(t)["png"], want)
		inside, _ := examineWith(t.Context(), here, samples(t)["png"], want)
		if diff := cmp.Diff(inside, there); diff != "" || there.Err != "looking at the png picture failed" || !pipeline.IsPermanent(err) {
			t.Errorf("look %d: %v\n%s", want, err, diff)
		}
	}
}

func TestOnlyWhoeverMaySeeASmallerPictureDoes(t *testing.T) {
	s := newTestSandbox(t, 1, nil)
	here := &InProcess{newTestDecoder(t, nil), testLook}
	for _, c := range []struct {
		w, h   int
		shrunk string // in a build with libjpeg-turbo
	}{
		{1023, 1500, "(0,0)-(512,750)"}, {1022, 1500, "(0,0)-(1022,1500)"}, {500, 2000, "(0,0)-(500,2000)"}, {2050, 2047, "(0,0)-(513,512)"},
	} {
		data := jpegFile(t, image.NewGray(image.Rect(0, 0, c.w, c.h)))
		whole := fmt.Sprintf("(0,0)-(%d,%d)", c.w, c.h)
		for name, by := range map[string]interface {
			Examine(context.Context, []byte, uint8, func(int, []byte) error) (Result, error)
		}{"in process": here, "in sandbox": s} {
			for _, may := range []bool{false, true} {
				look, want := pixelsOf, whole
				if may {
					look |= MayShrink
				}
				if may && Turbo && name == "in sandbox" {
					want = c.shrunk
				}
				x, err := examineWith(t.Context(), by, data, look)
				if err != nil || len(x.Frames) != 1 || !strings.Contains(x.Frames[0].Seen, " "+want+" ") {
					t.Errorf("%s, may shrink: %v: %+v, want %s", name, may, x, want)
				}
			}
		}
	}
}

func TestAThousandMutantsAFormatComeBackFromTheSandboxAsFromTheService(t *testing.T) {
	small := func(c *Config) { c.MaxPixels = 1 << 20; c.MaxMemory = 64 << 20 }
	s := newTestSandbox(t, 1, small)
	first := s.idle[0]
	here := &InProcess{newTestDecoder(t, small), testLook}
	random := rand.New(rand.NewPCG(3, 4))
	more := 0 // JPEGs that Go's decoder calls damaged and libjpeg-turbo does not
	for name, data := range samples(t) {
		for range 1000 {
			mutant := bytes.Clone(data)
			for range 1 + random.IntN(6) {
				mutant[random.IntN(len(mutant))] = byte(random.Uint32())
			}
			want, _ := examineWith(t.Context(), here, mutant, pixelsOf)
			got, _ := examineWith(t.Context(), s, mutant, pixelsOf)
			if Turbo && name == "jpeg" && want.Err != "" && got.Err == "" {
				more++
				continue
			}
			if diff := cmp.Diff(likeness(want), likeness(got)); diff != "" {
				t.Fatalf("%s: -in process +in sandbox\n%s", name, diff)
			}
		}
	}
	if more > 10 {
		t.Errorf("libjpeg-turbo finds nothing wrong with %d of 1000 mutants that are damaged", more)
	}
	if len(s.idle) != 1 || s.idle[0] != first {
		t.Error("a mutant cost a process")
	}
}

// residentPeak returns the most memory that this process had since the last call, in bytes.
func residentPeak(tb testing.TB) int64 {
	tb.Helper()
	n := statusField(tb, "/proc/self/status", "VmHWM")
	kB, err := strconv.ParseInt(strings.TrimSuffix(n, " kB"), 10, 64)
	if err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0o600); err != nil {
		tb.Fatal(err)
	}
	return kB << 10
}

func statusField(tb testing.TB, file, name string) string {
	tb.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if key, value, _ := strings.Cut(line, ":"); key == name {
			return strings.TrimSpace(value)
		}
	}
	tb.Fatalf("%s has no %s", file, name)
	return ""
}

// TestWhateverADecoderDoesTheNextPictureIsDecoded lets the inside of the sandbox do what a
// picture that took it over might, and looks at what became of the service.
func TestWhateverADecoderDoesTheNextPictureIsDecoded(t *testing.T) {
	const (
		forbidden = "the process that decoded it tried what it may not do and was killed"
		nonsense  = "the process that decoded it gave an answer that makes no sense"
	)
	s := newTestSandbox(t, 1, func(c *Config) { c.DecodeTime = 2 * time.Second })
	good := pngFile(t, pattern(300, 200, 1))
	want, err := examineWith(t.Context(), s, good, pixelsOf)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		want uint8
		err  string // "" where a frame says "true": the call failed and the process lives
	}{
		"spins":                   {spin, "decoding it took longer than 2s"},
		"waits":                   {wait, "decoding it took longer than 2s"},
		"allocates 6 GiB":         {allocate, "the process that decoded it ran out of memory"},
		"opens a file":            {openFile, ""},
		"creates a file":          {createFile, ""},
		"raises a limit":          {raiseLimit, ""},
		"wants to outlive us":     {forgiveDeath, ""},
		"opens a socket":          {openSocket, forbidden},
		"runs a program":          {execute, forbidden},
		"forks":                   {fork, forbidden},
		"starts a process":        {forkAsGoDoes, forbidden},
		"signals the service":     {signalOthers, forbidden},
		"traces a process":        {trace, forbidden},
		"reads a process":         {readOthers, forbidden},
		"maps executable memory":  {executableMemory, forbidden},
		"makes memory executable": {makeExecutable, forbidden},
		"answers garbage":         {garbage, nonsense},
		"answers a gigabyte":      {tooLong, nonsense},
		"answers a million times": {tooMany, nonsense},
		"answers backwards":       {backwards, nonsense},
		"ends twice":              {anotherEnd, nonsense},
		"blames its own death":    {unknownFault, nonsense},
		"counts below zero":       {negative, nonsense},
		"ends without a frame":    {noFrames, nonsense},
		"dies halfway":            {dieHalfway, "the process that decoded it ended with status 3"},
	} {
		t.Run(name, func(t *testing.T) {
			runtime.GC()
			residentPeak(t)
			before := residentPeak(t)
			got, err := examineWith(t.Context(), s, good, c.want)
			switch {
			case c.err == "" && (err != nil || len(got.Frames) != 1 || got.Frames[0].Seen != "true"):
				t.Errorf("%+v", got)
			case c.want == allocate && strings.HasSuffix(got.Err, "ended with status 66"): // so the race detector dies of it
			case c.err != "" && (got.Err != c.err || !pipeline.IsPermanent(err)):
				t.Errorf("error %q, want %q", got.Err, c.err)
			}
			next, err := examineWith(t.Context(), s, good, pixelsOf)
			if diff := cmp.Diff(want, next); err != nil || diff != "" {
				t.Errorf("the next picture: %v\n%s", err, diff)
			}
			if grown := residentPeak(t) - before; grown > 64<<20 {
				t.Errorf("the service grew by %d MiB", grown>>20)
			}
		})
	}
}

func TestBombsGrowTheServiceByNothing(t *testing.T) {
	s := newTestSandbox(t, 1, nil)
	var many []*image.Paletted
	for i := range 10_000 {
		many = append(many, checkers(16, 16, i%3))
	}
	bombs := map[string][]byte{
		"png of 30000x30000": hugePNG(), "webp of 28 bytes": webpFile(16384, 16384), "gif of 10000 frames": gifFile(t, image.Pt(16, 16), many, nil),
		"png of 49 megapixels": pngFile(t, image.NewGray(image.Rect(0, 0, 7000, 7000))),
	}
	runtime.GC()
	residentPeak(t)
	before := residentPeak(t)
	for name, data := range bombs {
		x, err := examineWith(t.Context(), s, data, openFile)
		if refused := pipeline.IsPermanent(err); refused != (len(x.Frames) == 0) {
			t.Errorf("%s: %d frames, %v", name, len(x.Frames), err)
		}
	}
	if grown := residentPeak(t) - before; grown > 64<<20 {
		t.Errorf("the service grew by %d MiB", grown>>20)
	}
}

func TestWhatWasSeenBeforeADeathIsKept(t *testing.T) {
	s := newTestSandbox(t, 1, nil)
	data := gifFile(t, image.Pt(64, 64), []*image.Paletted{checkers(64, 64, 1), checkers(64, 64, 9)}, nil)
	x, err := examineWith(t.Context(), s, data, dieAtSecond)
	if len(x.Frames) != 1 || x.Err != "the process that decoded it ended with status 3" || !pipeline.IsPermanent(err) {
		t.Errorf("%+v", x)
	}
}

func TestAPictureIsNotBlamedForAnothersDoing(t *testing.T) {
	s := newTestSandbox(t, 1, func(c *Config) { c.DecodeTime = 2 * time.Second })
	good := pngFile(t, pattern(30, 20, 1))
	// Killed while it had nothing to do, as the kernel does where memory runs out.
	victim := s.idle[0]
	victim.kill()
	if _, err := examineWith(t.Context(), s, good, pixelsOf); err != nil {
		t.Errorf("after a death: %v", err)
	}
	<-victim.exited
	want, _ := examineWith(t.Context(), &InProcess{newTestDecoder(t, nil), testLook}, good, pixelsOf)
	for name, before := range map[string]uint8{"answered and then went on for ever": stays, "answered and then babbled": babbles} {
		if _, err := examineWith(t.Context(), s, good, before); err != nil && before == stays {
			t.Fatal(err)
		}
		got, _ := examineWith(t.Context(), s, good, pixelsOf)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("after one that %s:\n%s", name, diff)
		}
	}
}

func TestManyAtOnceGetTheirOwnAnswers(t *testing.T) {
	s := newTestSandbox(t, 3, func(c *Config) { c.MaxMemory = 4 << 20 })
	here := &InProcess{newTestDecoder(t, nil), testLook}
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			data := pngFile(t, pattern(200+10*i, 300, i+1))
			want, _ := examineWith(t.Context(), here, data, pixelsOf)
			for n := range 12 {
				if i == 0 && n%4 == 1 {
					if x, _ := examineWith(t.Context(), s, data, dieHalfway); x.Err == "" {
						t.Error("a death went unnoticed")
					}
				}
				got, _ := examineWith(t.Context(), s, data, pixelsOf)
				if diff := cmp.Diff(want, got); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
	group.Wait()
	if len(s.idle) > 3 {
		t.Errorf("%d processes", len(s.idle))
	}
}

func TestTheEndOfTheContextIsNoFaultOfAPictureInTheSandbox(t *testing.T) {
	s := newTestSandbox(t, 1, func(c *Config) { c.DecodeTime = time.Hour })
	good := pngFile(t, pattern(30, 20, 1))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := examineWith(ctx, s, good, wait); !errors.Is(err, context.DeadlineExceeded) || pipeline.IsPermanent(err) {
		t.Errorf("at the end of the context: %v", err)
	}
	stop := errors.New("stop")
	if _, err := s.Examine(t.Context(), good, pixelsOf, func(int, []byte) error { return stop }); !errors.Is(err, stop) || pipeline.IsPermanent(err) {
		t.Errorf("of the consumer: %v", err)
	}
	if _, err := examineWith(t.Context(), s, good, pixelsOf); err != nil {
		t.Error(err)
	}
}

func TestProcessesAreReplacedWithAge(t *testing.T) {
	s := newTestSandbox(t, 1, nil)
	old := s.idle[0]
	old.busy = maxBusy
	if _, err := examineWith(t.Context(), s, pngFile(t, pattern(8, 8, 1)), pixelsOf); err != nil {
		t.Fatal(err)
	}
	if s.idle[0] == old {
		t.Error("the same process")
	}
	<-old.exited
}

func TestAProcessHasNothingButItsPipes(t *testing.T) {
	t.Setenv("SECRET", "of the service")
	inherited, err := os.Open("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	defer inherited.Close()
	if _, err := unix.FcntlInt(inherited.Fd(), unix.F_SETFD, 0); err != nil { // as a shell might leave one open
		t.Fatal(err)
	}
	s := newTestSandbox(t, 1, nil)
	if _, err := examineWith(t.Context(), s, jpegFile(t, pattern(600, 600, 1)), pixelsOf); err != nil {
		t.Fatal(err)
	}
	dir := fmt.Sprint("/proc/", s.idle[0].cmd.Process.Pid)
	environment, err := os.ReadFile(dir + "/environ")
	if err != nil || bytes.Contains(environment, []byte("SECRET")) {
		t.Errorf("environment %q, %v", environment, err)
	}
	files, err := filepath.Glob(dir + "/fd/*")
	if err != nil || len(files) < 3 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		target, err := os.Readlink(file)
		if err != nil || !strings.HasPrefix(target, "pipe:") && !strings.HasPrefix(target, "anon_inode:[event") {
			t.Errorf("it has %s open, %v", target, err)
		}
	}
	threads, err := filepath.Glob(dir + "/task/*/status")
	if err != nil || len(threads) < 2 {
		t.Fatal(threads, err)
	}
	for _, thread := range threads {
		if mode, privileges := statusField(t, thread, "Seccomp"), statusField(t, thread, "NoNewPrivs"); mode != "2" || privileges != "1" {
			t.Errorf("a thread with Seccomp %s, NoNewPrivs %s", mode, privileges)
		}
	}
	limits, err := os.ReadFile(dir + "/limits")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for line := range strings.Lines(string(limits)) {
		if len(line) > 45 {
			got[strings.TrimSpace(line[:26])] = strings.Join(strings.Fields(line[26:])[:2], " ")
		}
	}
	for _, name := range []string{"Max open files", "Max file size", "Max core file size"} {
		if got[name] != "0 0" {
			t.Errorf("%s: %s", name, got[name])
		}
	}
	for _, name := range []string{"Max address space", "Max cpu time"} {
		if soft, hard, _ := strings.Cut(got[name], " "); soft != hard || soft == "unlimited" || soft == "" {
			t.Errorf("%s: %s", name, got[name])
		}
	}
}

func TestCloseLeavesNoProcess(t *testing.T) {
	s := newTestSandbox(t, 2, nil)
	good := pngFile(t, pattern(30, 20, 1))
	pids := []int{s.idle[0].cmd.Process.Pid}
	failed := make(chan error)
	for range 2 { // both at work
		go func() {
			_, err := examineWith(t.Context(), s, good, wait)
			failed <- err
		}()
	}
	for n := 0; n < 2; runtime.Gosched() {
		children, err := filepath.Glob("/proc/self/task/*/children")
		if err != nil || len(children) == 0 {
			t.Fatal("no list of children", err)
		}
		n, pids = 0, nil
		for _, file := range children {
			text, err := os.ReadFile(file)
			if err != nil {
				continue // the thread ended
			}
			for field := range strings.FieldsSeq(string(text)) {
				pid, err := strconv.Atoi(field)
				if err != nil {
					t.Fatal(err)
				}
				n, pids = n+1, append(pids, pid)
			}
		}
	}
	s.Close()
	for range 2 {
		if err := <-failed; err == nil || pipeline.IsPermanent(err) {
			t.Errorf("at work: %v", err)
		}
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
			t.Errorf("process %d: %v", pid, err)
		}
	}
	if _, err := examineWith(t.Context(), s, good, pixelsOf); !errors.Is(err, errClosed) {
		t.Errorf("after Close: %v", err)
	}
	s = newTestSandbox(t, 1, nil)
	s.Close()
	select {
	case <-s.idle[0].exited:
	default:
		t.Error("Close did not wait")
	}
}

// actor starts this program in another role and returns what it says.
func actor(t *testing.T, role string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), selfPath())
	cmd.Env = append(os.Environ(), "MEDIA_TEST_ROLE="+role)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(out)
}

// play is what this program does in another role.
func play(role string) {
	refuse := func(call uintptr, errno unix.Errno) {
		filter := []unix.SockFilter{
			{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offsetCall},
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(call), Jf: 1},
			{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)},
			{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		}
		runtime.LockOSThread()
		if err := errors.Join(unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), applyFilter(filter)); err != nil {
			panic(err)
		}
	}
	patient := DefaultConfig()
	patient.DecodeTime = time.Hour
	switch role {
	case "service":
		s, err := StartSandbox(context.Background(), patient, 2, zap.NewNop())
		if err != nil {
			panic(err)
		}
		idle := s.idle[0]
		busy, err := s.start(context.Background())
		if err != nil {
			panic(err)
		}
		s.idle = []*process{busy}
		working := make(chan struct{})
		go func() {
			_, _ = s.Examine(context.Background(), webpFile(24, 17), showAndWait, func(int, []byte) error {
				close(working)
				return nil
			})
		}()
		<-working
		fmt.Fprintln(os.Stdout, idle.cmd.Process.Pid)
		fmt.Fprintln(os.Stdout, busy.cmd.Process.Pid)
		select {}
	case "film service":
		filmService()
	case "without landlock":
		refuse(unix.SYS_LANDLOCK_CREATE_RULESET, unix.ENOSYS)
		_, err := StartSandbox(context.Background(), DefaultConfig(), 1, zap.NewNop())
		fmt.Fprintln(os.Stdout, err)
	case "without seccomp":
		refuse(unix.SYS_SECCOMP, unix.EINVAL)
		_, err := StartSandbox(context.Background(), DefaultConfig(), 1, zap.NewNop())
		fmt.Fprintln(os.Stdout, err)
	case "all but seccomp":
		lock := func() error { return denyThings(DefaultConfig().MaxMemory, time.Minute) }
		tryOnThreads(lock, unix.EACCES, func() error {
			dir, err := os.MkdirTemp("", "decoder-")
			if err == nil {
				_ = os.Remove(dir)
			}
			return err
		})
	case "seccomp alone":
		tryOnThreads(denyCalls, unix.EPERM, func() error { return unix.Access("/etc/passwd", unix.R_OK) })
	default:
	}
}

// tryOnThreads locks in and then tries something on threads that were there before.
func tryOnThreads(lock func() error, want error, try func() error) {
	locked, answers := make(chan struct{}), make(chan error)
	var ready sync.WaitGroup
	for range 4 {
		ready.Add(1)
		go func() {
			runtime.LockOSThread()
			ready.Done()
			<-locked
			answers <- try()
		}()
	}
	ready.Wait()
	if err := lock(); err != nil {
		panic(err)
	}
	close(locked)
	for range 4 {
		err := <-answers
		fmt.Fprintln(os.Stdout, errors.Is(err, want), err)
	}
}

func TestEachLayerAloneDeniesFilesToEveryThread(t *testing.T) {
	for _, role := range []string{"all but seccomp", "seccomp alone"} {
		cmd, out := actor(t, role)
		n := 0
		for ; out.Scan(); n++ {
			if !strings.HasPrefix(out.Text(), "true") {
				t.Errorf("%s: %s", role, out.Text())
			}
		}
		if err := cmd.Wait(); err != nil || n != 4 {
			t.Errorf("%s: %d threads, %v", role, n, err)
		}
	}
}

func TestAKernelThatCannotLockInIsRefusedWithWhatToDo(t *testing.T) {
	for role, want := range map[string]string{
		"without landlock": "no Landlock (function not implemented): it takes Linux 5.13",
		"without seccomp":  "no seccomp filters (invalid argument): they take a kernel with CONFIG_SECCOMP_FILTER",
	} {
		cmd, out := actor(t, role)
		if !out.Scan() || !strings.HasPrefix(out.Text(), "this kernel cannot lock decoders in: "+want) {
			t.Errorf("%s: %s", role, out.Text())
		}
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
}

// TestNoProcessOutlivesAServiceThatIsKilled holds for one that waits for work and for one that
// would never notice by itself.
func TestNoProcessOutlivesAServiceThatIsKilled(t *testing.T) {
	cmd, out := actor(t, "service")
	var ends []unix.PollFd
	for range 2 {
		if !out.Scan() {
			t.Fatal("no service")
		}
		pid, err := strconv.Atoi(out.Text())
		if err != nil {
			t.Fatal(err)
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		ends = append(ends, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	for i := range ends {
		n, err := 0, error(unix.EINTR)
		for errors.Is(err, unix.EINTR) {
			n, err = unix.Poll(ends[i:i+1], 20_000)
		}
		if n != 1 || err != nil {
			t.Errorf("decoder %d lives on, %v", i, err)
		}
	}
}

// TestConversationsThatMakeNoSenseEnd speaks for processes that were taken over before they
// looked at their picture.
func TestConversationsThatMakeNoSenseEnd(t *testing.T) {
	message := func(kind byte, payload []byte) []byte {
		var b bytes.Buffer
		_ = writeMessage(&b, kind, payload)
		return b.Bytes()
	}
	need := func(n uint64) []byte { return message(msgNeed, binary.BigEndian.AppendUint64(nil, n)) }
	frame := func(n uint32) []byte { return message(msgFrame, binary.BigEndian.AppendUint32(nil, n)) }
	good, bad := message(msgEnd, (&end{}).encode()), message(msgEnd, (&end{fault: faultDamaged}).encode())
	s := &Sandbox{cfg: DefaultConfig(), reserve: reserveOf(DefaultConfig().MaxMemory)}
	for name, c := range map[string]struct {
		says []byte
		ok   bool
	}{
		"a good one":              {slices.Concat(need(8), frame(0), frame(4), good), true},
		"a fault at once":         {bad, true},
		"needs too much":          {slices.Concat(need(1<<40), frame(0), good), false},
		"needs less than nothing": {slices.Concat(need(1<<63), frame(0), good), false},
		"needs twice":             {slices.Concat(need(8), need(8), frame(0), good), false},
		"a frame without need":    {slices.Concat(frame(0), good), false},
		"one frame twice":         {slices.Concat(need(8), frame(3), frame(3), good), false},
		"a frame far away":        {slices.Concat(need(8), frame(1<<31), good), false},
		"no frame":                {slices.Concat(need(8), good), false},
		"ready again":             {message(msgReady, nil), false},
		"refused":                 {message(msgRefused, []byte("no")), false},
		"more behind the end":     {slices.Concat(need(8), frame(0), good, good), false},
	} {
		in, requests, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		p := &process{in: requests, out: in, read: bufio.NewReader(bytes.NewReader(c.says))}
		j := job{sandbox: s, process: p, each: func(int, []byte) error { return nil }}
		err = j.exchange(t.Context(), []byte("picture"), &Result{})
		if c.ok != j.kept || !c.ok && !errors.Is(err, errNonsense) {
			t.Errorf("%s: kept %v, %v", name, j.kept, err)
		}
		in.Close()
		requests.Close()
	}
}

func TestEveryFaultHasItsText(t *testing.T) {
	for kind := noFault + 1; kind < faultKinds; kind++ {
		text := faulty(kind, "png", 1, 2, 3).Error()
		if text == "" || strings.ContainsAny(text, "{}%") {
			t.Errorf("fault %d: %q", kind, text)
		}
	}
}

func FuzzAnswers(f *testing.F) {
	var good bytes.Buffer
	_ = writeMessage(&good, msgNeed, make([]byte, 8))
	_ = writeMessage(&good, msgFrame, make([]byte, 40))
	_ = writeMessage(&good, msgEnd, (&end{}).encode())
	f.Add(good.Bytes())
	f.Add([]byte{msgFrame, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		for {
			kind, payload, err := readMessage(r)
			if err != nil {
				return
			}
			if len(payload) > maxMessage {
				t.Fatalf("%d bytes", len(payload))
			}
			var e end
			if kind == msgEnd && e.decode(payload) == nil && e.fault.text("png", e.n) == "" != (e.fault == noFault) {
				t.Errorf("fault %d has no text", e.fault)
			}
		}
	})
}

func BenchmarkExamine(b *testing.B) {
	s := newTestSandbox(b, 1, nil)
	here := &InProcess{newTestDecoder(b, nil), testLook}
	for name, data := range map[string][]byte{
		"512x512.jpeg": jpegFile(b, pattern(512, 512, 1)), "512x512.png": pngFile(b, pattern(512, 512, 1)), "12MP.jpeg": jpegFile(b, pattern(4000, 3000, 1)),
	} {
		for where, by := range map[string]interface {
			Examine(context.Context, []byte, uint8, func(int, []byte) error) (Result, error)
		}{"process": here, "sandbox": s} {
			b.Run(name+"/"+where, func(b *testing.B) {
				before := processorTimes(b, s)
				for b.Loop() {
					if _, err := by.Examine(b.Context(), data, nothing, func(int, []byte) error { return nil }); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(processorTimes(b, s)-before)/float64(b.N)/1e6, "cpu-ms/op")
			})
		}
	}
}

// processorTimes is what this process and the one that s has took, in nanoseconds. Unlike the
// time of the clock it says something on a machine that others use too.
func processorTimes(b *testing.B, s *Sandbox) int64 {
	b.Helper()
	return int64(processorTime(os.Getpid()) + s.ProcessorTime())
}

func BenchmarkStart(b *testing.B) {
	s := newTestSandbox(b, 1, nil)
	for b.Loop() {
		p, err := s.start(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		p.end()
	}
}
