//go:build linux && (amd64 || arm64)

package media

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dmguard/dmguard/pipeline"
)

// makeFilm has ffmpeg make a video; the name says by its extension of what kind.
func makeFilm(tb testing.TB, name string, arguments ...string) []byte {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), name)
	cmd := exec.CommandContext(context.Background(), "ffmpeg", append(append([]string{"-nostdin", "-y", "-loglevel", "error"}, arguments...), path)...)
	if said, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("ffmpeg, which the tests need: %v\n%s", err, said)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

func source(text string) []string { return []string{"-f", "lavfi", "-i", text, "-pix_fmt", "yuv420p"} }

// fakeFolder is where fakeFFmpeg put it, or "".
var fakeFolder string

// fakeFFmpeg returns a program that does what its input says: see testdata/fakeffmpeg.
var fakeFFmpeg = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "fakeffmpeg-")
	if err != nil {
		return "", err
	}
	fakeFolder = dir
	path := filepath.Join(dir, "ffmpeg")
	cmd := exec.CommandContext(context.Background(), "go", "build", "-o", path, "./testdata/fakeffmpeg")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if said, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, said)
	}
	return path, nil
})

func fakeProgram(tb testing.TB) string {
	tb.Helper()
	path, err := fakeFFmpeg()
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

// asks is a file that looks like a video and tells a fakeFFmpeg what to do.
func asks(role string) []byte {
	return append([]byte("\x00\x00\x00\x18ftypisom\x00\x00\x00\x00isomisom"), role...)
}

func unlocked(tb testing.TB, change func(*Config)) *InProcess {
	tb.Helper()
	d := newTestDecoder(tb, change)
	d.films.locked = false
	return &InProcess{Decoder: d, Look: testLook}
}

func TestVideosOfEveryContainerGiveOneFrameASecond(t *testing.T) {
	s := newTestSandbox(t, 2, nil)
	plain := unlocked(t, nil)
	for name, arguments := range map[string][]string{
		"a.mp4":      {},
		"front.mp4":  {"-movflags", "+faststart"},
		"parts.mp4":  {"-movflags", "frag_keyframe+empty_moov"},
		"a.mov":      {"-c:v", "mpeg4"},
		"a.webm":     {"-c:v", "libvpx"},
		"vp9.webm":   {"-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8"},
		"a.mkv":      {"-c:v", "libx264", "-preset", "ultrafast"},
		"hevc.mp4":   {"-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=error"},
		"av1.mp4":    {"-c:v", "libaom-av1", "-cpu-used", "8"},
		"10bit.mp4":  {"-pix_fmt", "yuv420p10le", "-preset", "ultrafast"},
		"sparse.mp4": {"-r", "1/2", "-preset", "ultrafast"},
	} {
		data := makeFilm(t, name, append(source("testsrc2=s=160x120:r=8:d=4"), arguments...)...)
		got, err := examineWith(t.Context(), s, data, pixelsOf)
		want := []int{0, 1, 2, 3}
		if name == "sparse.mp4" {
			want = []int{0, 2, 4, 6}
		}
		var seconds []int
		for _, f := range got.Frames {
			seconds = append(seconds, f.Index)
			if !strings.HasPrefix(f.Seen, "*image.Gray (0,0)-(160,120) ") {
				t.Errorf("%s: %s", name, f.Seen)
			}
		}
		if err != nil || fmt.Sprint(seconds) != fmt.Sprint(want) || !strings.Contains(got.Result, "Skipped: ") {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if here, _ := examineWith(t.Context(), plain, data, pixelsOf); fmt.Sprint(here) != fmt.Sprint(got) {
			t.Errorf("%s: with limits alone %+v", name, here)
		}
	}
}

func TestAVoiceMessageIsNoVideo(t *testing.T) {
	s := newTestSandbox(t, 1, nil)
	for _, name := range []string{"a.webm", "a.mp4"} {
		data := makeFilm(t, name, "-f", "lavfi", "-i", "sine=d=1")
		got, err := s.Examine(t.Context(), data, pixelsOf, func(int, []byte) error { return nil })
		if err != nil || got.Frames != 0 || got.Skipped != "" || got.Format.Kind != Other {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestAllVideoTracksAreLookedAt(t *testing.T) {
	s := newTestSandbox(t, 1, nil)
	data := makeFilm(t, "two.mp4", "-f", "lavfi", "-i", "testsrc2=s=160x120:r=4:d=2", "-f", "lavfi", "-i", "smptebars=s=64x48:r=4:d=2",
		"-map", "0:v", "-map", "1:v", "-pix_fmt", "yuv420p")
	got, err := examineWith(t.Context(), s, data, pixelsOf)
	if err != nil || len(got.Frames) != 4 || !strings.Contains(fmt.Sprint(got), "(64,48)") || !strings.Contains(fmt.Sprint(got), "(160,120)") {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestAPictureThatTurnsInTheMiddleIsSaid(t *testing.T) {
	s := newTestSandbox(t, 1, nil)
	dir := t.TempDir()
	for name, size := range map[string]string{"1.webm": "160x120", "2.webm": "120x160"} {
		data := makeFilm(t, name, append(source("testsrc2=s="+size+":r=4:d=2"), "-c:v", "libvpx")...)
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list := filepath.Join(dir, "list")
	if err := os.WriteFile(list, []byte("file 1.webm\nfile 2.webm\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	data := makeFilm(t, "turned.webm", "-f", "concat", "-i", list, "-c", "copy")
	got, err := examineWith(t.Context(), s, data, pixelsOf)
	if err != nil || len(got.Frames) != 4 || !strings.Contains(got.Result, "the picture of the webm video changes its size") {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestTheFramesOfAVideoAreBounded(t *testing.T) {
	s := newTestSandbox(t, 1, func(c *Config) { c.MaxVideoFrames = 3 })
	data := makeFilm(t, "a.mp4", source("testsrc2=s=64x48:r=4:d=6")...)
	got, err := examineWith(t.Context(), s, data, pixelsOf)
	if err != nil || len(got.Frames) != 3 || !strings.Contains(got.Result, "the frames of the mp4 video from second 3 on were not looked at: there are more than 3") {
		t.Errorf("%+v, %v", got, err)
	}
	data = makeFilm(t, "b.mp4", source("testsrc2=s=64x48:r=4:d=3")...)
	if got, err := examineWith(t.Context(), s, data, pixelsOf); err != nil || len(got.Frames) != 3 || !strings.Contains(got.Result, "Skipped: skipped") {
		t.Errorf("just as many as may be: %+v, %v", got, err)
	}
	small := newTestSandbox(t, 1, func(c *Config) { c.MaxVideoBytes = int64(len(data)) - 1 })
	if _, err := examineWith(t.Context(), small, data, pixelsOf); err == nil || !strings.Contains(err.Error(), "it is larger than") {
		t.Errorf("too large: %v", err)
	}
}

func TestVideosThatAreCutShortOrTooMuchAreNeverClean(t *testing.T) {
	s := newTestSandbox(t, 2, nil)
	for _, name := range []string{"a.mp4", "front.mp4", "a.webm"} {
		arguments := source("testsrc2=s=160x120:r=8:d=3")
		if name == "front.mp4" {
			arguments = append(arguments, "-movflags", "+faststart")
		}
		whole := makeFilm(t, name, arguments...)
		for part := 1; part < 12; part++ {
			got, err := examineWith(t.Context(), s, whole[:len(whole)*part/12], pixelsOf)
			if clean := err == nil && strings.Contains(got.Result, "Skipped: skipped"); clean || err != nil && !pipeline.IsPermanent(err) {
				t.Errorf("%s: %d of 12 parts: %+v, %v", name, part, got, err)
			}
		}
	}
	huge := makeFilm(t, "huge.mov", "-f", "lavfi", "-i", "color=s=6000x6000:r=1:d=1", "-c:v", "mjpeg", "-pix_fmt", "yuvj420p")
	if got, err := examineWith(t.Context(), s, huge, pixelsOf); err == nil || len(got.Frames) != 0 {
		t.Errorf("of 36 megapixels: %+v, %v", got, err)
	}
	fast := makeFilm(t, "fast.mp4", append(source("testsrc2=s=32x32:r=10000:d=2"), "-preset", "ultrafast")...)
	if got, err := examineWith(t.Context(), s, fast, pixelsOf); err != nil || len(got.Frames) != 2 {
		t.Errorf("10,000 frames a second: %+v, %v", got, err)
	}
}

// TestWhateverFFmpegDoesTheNextVideoIsDecoded has a program in its place do what a video that took it
// over might.
func TestWhateverFFmpegDoesTheNextVideoIsDecoded(t *testing.T) {
	const (
		forbidden = "the process that decoded it tried what it may not do and was killed"
		nonsense  = "the process that decoded it gave an answer that makes no sense"
		late      = "decoding it took longer than 3s"
		clean     = ""
	)
	t.Setenv("SECRET", "of the service")
	change := func(c *Config) { c.FFmpeg = fakeProgram(t); c.VideoTime = 3 * time.Second }
	s := newTestSandbox(t, 2, change)
	cases := map[string]struct {
		frames int
		err    string
	}{
		"good":                                {1, clean},
		"spins":                               {0, late},
		"sees a frame and spins":              {1, late},
		"closes its output and spins":         {0, late},
		"endless frames":                      {120, "Skipped:the frames of the mp4 video from second 120 on were not looked at"},
		"endless rubbish that is passed over": {0, late},
		"endless complaints":                  {0, late},
		"garbage":                             {0, nonsense},
		"a frame of a terabyte":               {0, nonsense},
		"an element of a terabyte":            {0, nonsense},
		"a picture of 60000 pixels a side":    {0, "a side of its picture is 60001 pixels long, more than 16384"},
		"a picture of 16000 by 16000":         {0, "its 16000 by 16000 pixels are more than 50000000"},
		"no size":                             {0, nonsense},
		"a thousand tracks":                   {0, nonsense},
		"another size every time":             {1, nonsense},
		"dies within a frame":                 {0, "the mp4 video has no frame that can be decoded"},
		"says it was never started":           {0, "the mp4 video was not looked at: ffmpeg could not be started"},
		"allocates 6 GiB":                     {0, "the process that decoded it ran out of memory"},
		"opens a file":                        {1, clean},
		"lists a folder":                      {1, clean},
		"creates a file":                      {1, clean},
		"changes its input":                   {0, forbidden},
		"raises a limit":                      {1, clean},
		"looks at its environment":            {1, clean},
		"looks for open files":                {1, clean},
		"opens a socket":                      {0, forbidden},
		"forks":                               {0, forbidden},
		"forks and spins":                     {0, forbidden},
		"runs itself":                         {0, forbidden},
		"signals others":                      {0, forbidden},
		"traces":                              {0, forbidden},
		"makes memory executable":             {0, forbidden},
		"makes its stack executable":          {0, forbidden},
	}
	for role, c := range cases {
		t.Run(role, func(t *testing.T) {
			runtime.GC()
			residentPeak(t)
			before := residentPeak(t)
			got, err := examineWith(t.Context(), s, asks(role), pixelsOf)
			said := got.Err
			if err == nil && !strings.Contains(got.Result, "Skipped: skipped") {
				said = got.Result
			}
			if len(got.Frames) != c.frames || (said == "") != (c.err == "") || !strings.Contains(said, c.err) || err != nil && !pipeline.IsPermanent(err) {
				t.Errorf("%d frames, %q, want %d, %q", len(got.Frames), said, c.frames, c.err)
			}
			if next, err := examineWith(t.Context(), s, asks("good"), pixelsOf); err != nil || len(next.Frames) != 1 {
				t.Errorf("the next video: %+v, %v", next, err)
			}
			if grown := residentPeak(t) - before; grown > 64<<20 {
				t.Errorf("the service grew by %d MiB", grown>>20)
			}
		})
	}
	t.Run("endless large frames at one time", func(t *testing.T) {
		runtime.GC()
		residentPeak(t)
		before := residentPeak(t)
		_, err := s.Examine(t.Context(), asks("endless large frames at one time"), nothing, func(int, []byte) error { return nil })
		if err != nil && !strings.Contains(err.Error(), late) {
			t.Error(err)
		}
		if grown := residentPeak(t) - before; grown > 64<<20 {
			t.Errorf("the service grew by %d MiB", grown>>20)
		}
	})
	here := unlocked(t, change)
	for role, want := range map[string]string{
		"good": "", "spins": late, "allocates 6 GiB": cases["allocates 6 GiB"].err, "forks and spins": late, "raises a limit": "",
		"looks at its environment": "",
	} {
		if role == "raises a limit" && os.Geteuid() == 0 {
			continue // root may, and has itself to blame
		}
		if got, err := examineWith(t.Context(), here, asks(role), pixelsOf); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("with limits alone, %s: %+v, %v", role, got, err)
		}
	}
}

func TestWithoutFFmpegAVideoIsNotCleanAndPicturesAre(t *testing.T) {
	for _, name := range []string{"", "no-such-ffmpeg", "/no/such/ffmpeg"} {
		s := newTestSandbox(t, 1, func(c *Config) { c.FFmpeg = name })
		if _, err := examineWith(t.Context(), s, asks("good"), pixelsOf); !pipeline.IsPermanent(err) || err.Error() != "videos are not looked at: there is no ffmpeg" {
			t.Errorf("%q: %v", name, err)
		}
		if _, err := examineWith(t.Context(), s, samples(t)["png"], pixelsOf); err != nil {
			t.Error(err)
		}
	}
	s := newTestSandbox(t, 1, func(c *Config) { c.FFmpeg = "/etc/passwd" })
	s.films.program, s.films.why = "/etc/passwd", noFault
	if _, err := examineWith(t.Context(), s, asks("good"), pixelsOf); !pipeline.IsPermanent(err) {
		t.Errorf("a file that is no program: %v", err)
	}
}

func TestTheVideosOfAMessageShareItsTime(t *testing.T) {
	s := newTestSandbox(t, 4, func(c *Config) { c.FFmpeg = fakeProgram(t); c.VideoTime = 2 * time.Second })
	ctx := ShareVideoTime(t.Context())
	if _, err := examineWith(ctx, s, asks("spins"), pixelsOf); err == nil || !strings.Contains(err.Error(), "longer than 2s") {
		t.Error(err)
	}
	if _, err := examineWith(ctx, s, asks("good"), pixelsOf); !pipeline.IsPermanent(err) || err.Error() != "the videos of its message took longer than 2s together" {
		t.Error(err)
	}
	if _, err := examineWith(t.Context(), s, asks("good"), pixelsOf); err != nil {
		t.Errorf("of another message: %v", err)
	}
}

func TestTheEndOfTheContextIsNoFaultOfAVideo(t *testing.T) {
	s := newTestSandbox(t, 1, func(c *Config) { c.FFmpeg = fakeProgram(t); c.VideoTime = time.Hour })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := examineWith(ctx, s, asks("spins"), pixelsOf); !errors.Is(err, context.DeadlineExceeded) || pipeline.IsPermanent(err) {
		t.Error(err)
	}
	stop := errors.New("stop")
	if _, err := s.Examine(t.Context(), asks("endless frames"), pixelsOf, func(int, []byte) error { return stop }); !errors.Is(err, stop) {
		t.Error(err)
	}
}

func TestCloseEndsVideos(t *testing.T) {
	s := newTestSandbox(t, 1, func(c *Config) { c.FFmpeg = fakeProgram(t); c.VideoTime = time.Hour })
	seen, failed := make(chan struct{}), make(chan error)
	go func() {
		_, err := s.Examine(t.Context(), asks("sees a frame and spins"), pixelsOf, func(int, []byte) error { close(seen); return nil })
		failed <- err
	}()
	<-seen
	s.Close()
	if err := <-failed; !errors.Is(err, errClosed) || pipeline.IsPermanent(err) {
		t.Error(err)
	}
}

func TestNoFFmpegOutlivesAServiceThatIsKilled(t *testing.T) {
	t.Setenv("MEDIA_TEST_FFMPEG", fakeProgram(t))
	cmd, out := actor(t, "film service")
	if !out.Scan() {
		t.Fatal("no service")
	}
	var pid int
	if _, err := fmt.Sscan(out.Text(), &pid); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	ends := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := 0, error(unix.EINTR)
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Poll(ends, 20_000)
	}
	if n != 1 || err != nil {
		t.Errorf("ffmpeg lives on, %v", err)
	}
}

// filmService decodes a video for ever and says in which process.
func filmService() {
	cfg := DefaultConfig()
	cfg.FFmpeg, cfg.VideoTime = os.Getenv("MEDIA_TEST_FFMPEG"), time.Hour
	d, err := NewDecoder(cfg)
	if err != nil {
		panic(err)
	}
	p, err := d.films.launch(context.Background(), asks("sees a frame and spins"), d.films.arguments("mp4", false))
	if err != nil {
		panic(err)
	}
	if _, err := p.out.Read(make([]byte, 1)); err != nil { // it runs
		panic(err)
	}
	fmt.Fprintln(os.Stdout, p.cmd.Process.Pid)
	select {}
}

// matroskaFile is what ffmpeg writes of a small video.
func matroskaFile(tb testing.TB) []byte {
	tb.Helper()
	d := newTestDecoder(tb, nil)
	data := makeFilm(tb, "a.mp4", source("testsrc2=s=16x16:r=4:d=3")...)
	p, err := d.films.launch(context.Background(), data, d.films.arguments("mp4", false))
	if err != nil {
		tb.Fatal(err)
	}
	defer p.end()
	out, err := io.ReadAll(p.out)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

func FuzzBlockReader(f *testing.F) {
	f.Add(matroskaFile(f))
	f.Add([]byte{idTrackEntry, 0x80, idTrackNumber, 0x81, 1, idSimpleBlock, 0x85, 0x81, 0, 0, 0, 7})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := blockReader{r: bufio.NewReader(bytes.NewReader(data))}
		for {
			b, err := r.next()
			if err != nil {
				return
			}
			if b.size < 0 || b.time < 0 || b.track < 0 || b.track >= len(r.tracks) || len(r.tracks) > maxTracks {
				t.Fatalf("%+v of %+v", b, r.tracks)
			}
			for _, track := range r.tracks {
				if track.width < 0 || track.height < 0 || track.width > maxSide+1 || track.height > maxSide+1 {
					t.Fatalf("%+v", track)
				}
			}
			if _, err := r.r.Discard(int(min(b.size, 1<<20))); err != nil {
				return
			}
		}
	})
}

func TestWhatFFmpegWritesIsReadToTheLastByte(t *testing.T) {
	whole := matroskaFile(t)
	read := func(data []byte) (frames int, err error) {
		r := blockReader{r: bufio.NewReader(bytes.NewReader(data))}
		for {
			b, err := r.next()
			if err != nil {
				return frames, err
			}
			if b.size != 17*16 || b.time != int64(1000*frames) {
				t.Errorf("frame %d: %+v", frames, b)
			}
			if _, err := r.r.Discard(int(b.size)); err != nil {
				return frames, cut(err)
			}
			frames++
		}
	}
	if n, err := read(whole); n != 3 || !errors.Is(err, io.EOF) {
		t.Errorf("%d frames, %v", n, err)
	}
	for n := range whole[:600] {
		if _, err := read(whole[:n]); err == nil {
			t.Errorf("no end after %d bytes", n)
		}
	}
}
