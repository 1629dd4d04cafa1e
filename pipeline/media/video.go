package media

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/semaphore"
)

// demuxers are those of ffmpeg by the formats of videos that are decoded. The
// one that is named reads the file; ffmpeg does not look for another.
var demuxers = map[string]string{"mp4": "mov", "mov": "mov", "webm": "matroska", "matroska": "matroska"}

const (
	// maxSide bounds the buffers of whoever looks at a frame.
	maxSide = 16384

	// filmMemory is what a video takes of [Config.MaxMemory], in bytes, and
	// pixelMemory what it may need at most for each pixel of its picture.
	filmMemory  = 256 << 20
	pixelMemory = 32
)

// FindFFmpeg returns the program that decodes videos, or why there is none.
func (c *Config) FindFFmpeg() (string, error) {
	if c.FFmpeg == "" {
		return "", errors.New("no ffmpeg is configured")
	}
	path, err := exec.LookPath(c.FFmpeg)
	if err != nil {
		return "", fmt.Errorf("looking for ffmpeg: %w", err)
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return "", fmt.Errorf("looking for ffmpeg: %w", err)
	}
	if path, err = filepath.Abs(path); err != nil {
		return "", fmt.Errorf("looking for ffmpeg: %w", err)
	}
	return path, nil
}

// films decodes videos with ffmpeg, each in a process of its own that sees the
// file as a sealed piece of memory and writes raw frames. Of its error output
// only whether certain words are in it is used.
type films struct {
	cfg     Config
	program string    // "" where videos are not decoded
	why     faultKind // then
	locked  bool
	slots   *semaphore.Weighted
	reserve func(ctx context.Context, need int64) (func(), error)
	closed  chan struct{} // when nothing is to go on
	alive   sync.WaitGroup
}

// newFilms returns what decodes as many videos at one time as half of processes.
func newFilms(cfg *Config, locked bool, processes int, reserve func(context.Context, int64) (func(), error)) *films {
	f := &films{cfg: *cfg, locked: locked, slots: semaphore.NewWeighted(int64(max(1, processes/2))), reserve: reserve, closed: make(chan struct{})}
	if served.Load() == nil || !programSupport {
		f.why = faultVideoSystem
		return f
	}
	var err error
	if f.program, err = cfg.FindFFmpeg(); err != nil {
		f.why = faultVideoProgram
	}
	return f
}

// close ends everything that is under way and waits until no process is left.
func (f *films) close() {
	close(f.closed)
	f.alive.Wait()
}

func (f *films) isClosed() bool {
	select {
	case <-f.closed:
		return true
	default:
		return false
	}
}

// videoTime is what is left of [Config.VideoTime] for the videos of one message.
type videoTime struct {
	mu    sync.Mutex
	spent time.Duration
}

type videoTimeKey struct{}

// ShareVideoTime returns a context in which all videos together take no longer
// than [Config.VideoTime]: they are decoded one after the other, and what is left
// over is at fault. Without it the videos of one message could take longer than
// anybody waits for the message.
func ShareVideoTime(ctx context.Context) context.Context {
	return context.WithValue(ctx, videoTimeKey{}, new(videoTime))
}

// decode is [Decoder.Decode] for a video.
func (f *films) decode(ctx context.Context, data []byte, format Format, yield func(Frame) error) (Result, error) {
	job := film{films: f, format: format, data: data, yield: yield, result: Result{Format: format}}
	if f == nil {
		return job.result, faulty(faultVideoSystem, format.Name)
	}
	if f.why != noFault {
		return job.result, faulty(f.why, format.Name)
	}
	limit := f.cfg.VideoTime
	if shared, ok := ctx.Value(videoTimeKey{}).(*videoTime); ok {
		shared.mu.Lock()
		defer shared.mu.Unlock()
		if limit -= shared.spent; limit <= 0 {
			return job.result, faulty(faultVideoTogether, format.Name, int64(f.cfg.VideoTime))
		}
		defer func() { shared.spent += job.took }()
	}
	if err := f.slots.Acquire(ctx, 1); err != nil {
		return job.result, fmt.Errorf("waiting to decode: %w", err)
	}
	defer f.slots.Release(1)
	release, err := f.reserve(ctx, min(filmMemory, f.cfg.MaxMemory))
	if err != nil {
		return job.result, err
	}
	defer release()
	started := time.Now()
	err = job.run(ctx, limit)
	job.took = time.Since(started)
	return job.result, err
}

// film is one video being decoded.
type film struct {
	films  *films
	format Format
	data   []byte
	yield  func(Frame) error
	result Result
	took   time.Duration

	pixels   []byte // of the frame in hand
	frames   int    // read in this run
	consumer error  // of yield
	skipped  []string
}

// errResized says that a frame is not as large as the first one.
var errResized = errors.New("a frame of another size")

func (j *film) run(ctx context.Context, limit time.Duration) error {
	timed, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	go func() {
		select {
		case <-j.films.closed:
			cancel()
		case <-timed.Done():
		}
	}()
	p, err := j.once(timed, false)
	if errors.Is(err, errResized) {
		j.skip(faultVideoResized)
		p, err = j.once(timed, true)
	}
	defer func() { j.result.Skipped = strings.Join(j.skipped, "; ") }()
	name := j.format.Name
	switch {
	case j.consumer != nil:
		return j.consumer
	case j.films.isClosed():
		return errClosed
	case ctx.Err() != nil:
		return fmt.Errorf("decoding: %w", context.Cause(ctx))
	case timed.Err() != nil:
		if limit < j.films.cfg.VideoTime {
			return faulty(faultVideoTogether, name, int64(j.films.cfg.VideoTime))
		}
		return faulty(faultTime, name, int64(limit))
	case p == nil:
		return err // which may pass
	}
	if f, ok := errors.AsType[*fault](err); ok {
		return faulty(f.kind, name, f.n[:]...)
	}
	said := p.stderr.b
	status, _ := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	kind := (&process{cmd: p.cmd, stderr: p.stderr}).fault(err)
	switch {
	case errors.Is(err, errNonsense), errors.Is(err, errResized):
		return faulty(faultProcessAnswer, name)
	case j.ended(): // by us, having seen enough
		return nil
	case status.Exited() && (status.ExitStatus() == statusLock || status.ExitStatus() == statusLimits):
		return faulty(faultVideoLock, name)
	case status.Exited() && status.ExitStatus() == statusStart:
		return faulty(faultVideoStart, name)
	case status.Signaled(), kind == faultProcessMemory:
		return faulty(kind, name, (&process{cmd: p.cmd}).status())
	case bytes.HasPrefix(said, []byte("Stream map '0:v' matches no streams")):
		j.result.Format.Kind = Other // there is nothing to be seen in it: a voice message
		return nil
	case j.result.Frames == 0:
		return faulty(faultVideoEmpty, name)
	case err != nil, status.ExitStatus() != 0, len(said) > 0:
		j.skip(faultVideoDamaged)
	}
	return nil
}

func (j *film) skip(kind faultKind, n ...int64) {
	f := fault{kind: kind, format: j.format.Name}
	copy(f.n[:], n)
	j.skipped = append(j.skipped, f.Error())
}

// ended reports whether there are more frames than are looked at.
func (j *film) ended() bool { return j.frames > j.films.cfg.MaxVideoFrames }

// once runs ffmpeg over the file and hands frames on, those after the ones that
// were handed on before. The process has ended when it returns; it is nil where
// none could be started.
func (j *film) once(ctx context.Context, scaled bool) (*ffmpeg, error) {
	p, err := j.films.launch(ctx, j.data, j.films.arguments(j.format.Name, scaled))
	if err != nil {
		return nil, fmt.Errorf("starting ffmpeg: %w", err)
	}
	defer p.end()
	j.frames = 0
	r := blockReader{r: bufio.NewReaderSize(p.out, 64<<10)}
	for {
		b, err := r.next()
		if errors.Is(err, io.EOF) {
			p.wait(ctx)
			return p, nil
		}
		if err == nil {
			err = j.frame(&r, b)
		}
		if err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) {
				p.wait(ctx) // it died, and how is what counts
			}
			return p, err
		}
		if j.ended() {
			return p, nil
		}
	}
}

// frame reads a frame and hands it on. Behind each row is a pixel that tells
// pictures of 4×3 from those of 3×4: see [films.arguments].
func (j *film) frame(r *blockReader, b block) error {
	cfg, t := &j.films.cfg, &r.tracks[b.track]
	width, height := t.width-1, t.height
	switch {
	case width < 1 || height < 1:
		return errNonsense
	case int64(width)*int64(height) > cfg.MaxPixels:
		return faulty(faultPixels, "", int64(width), int64(height), cfg.MaxPixels)
	case int64(width)*int64(height) > cfg.MaxMemory/pixelMemory:
		return faulty(faultMemory, "", int64(width), int64(height), cfg.MaxMemory)
	case b.size != int64(t.width)*int64(t.height):
		return errResized
	}
	second := (b.time + 500) / 1000
	if second >= maxSeconds {
		return errNonsense
	}
	j.frames++
	if j.ended() {
		j.skip(faultVideoFrames, second, int64(cfg.MaxVideoFrames))
		return nil
	}
	if int64(cap(j.pixels)) < b.size {
		j.pixels = make([]byte, b.size)
	}
	pixels := j.pixels[:b.size]
	if _, err := io.ReadFull(r.r, pixels); err != nil {
		j.frames--
		return cut(err)
	}
	if j.frames <= j.result.Frames {
		return nil
	}
	picture := &image.Gray{Pix: pixels, Stride: t.width, Rect: image.Rect(0, 0, width, height)}
	if j.consumer = j.yield(Frame{Image: picture, Index: int(second), Video: true}); j.consumer != nil {
		return j.consumer
	}
	j.result.Frames++
	return nil
}

// arguments are those that ffmpeg 5.1 and newer take. The first frame of each
// second is kept, at its own size and as it is stored, grey, with its second for a
// time. A column is added because frames of raw bytes tell their size by their
// length alone, and a picture that turns in the middle would keep that. With
// scaled, later frames are brought to the size of the first.
func (f *films) arguments(format string, scaled bool) []string {
	autoscale := "0"
	if scaled {
		autoscale = "1"
	}
	demuxer := demuxers[format]
	return []string{
		"ffmpeg", "-nostdin", "-hide_banner", "-nostats", "-loglevel", "error",
		"-protocol_whitelist", "file,pipe", "-format_whitelist", "mov,matroska",
		"-threads", "1", "-filter_threads", "1", "-an", "-sn", "-dn", "-noautorotate",
		"-max_pixels", strconv.FormatInt(min(f.cfg.MaxPixels, f.cfg.MaxMemory/pixelMemory), 10),
		"-f", demuxer, "-i", "file:/proc/self/fd/0",
		"-map", "0:v", "-vf", "select='isnan(prev_selected_t)+gt(floor(t-start_t),floor(prev_selected_t-start_t))'," +
			"setpts='floor(T-STARTT)/TB',format=gray,pad=w=iw+1",
		"-fps_mode", "passthrough", "-autoscale", autoscale, "-frames:v", strconv.Itoa(f.cfg.MaxVideoFrames + 1),
		"-c:v", "rawvideo", "-map_metadata", "-1", "-map_chapters", "-1", "-fflags", "+bitexact", "-flush_packets", "1",
		"-f", "matroska", "pipe:1",
	}
}

// programArgument is the first argument of a process that is to become ffmpeg;
// the second is an order. See decoderArgument.
const programArgument = "run-ffmpeg"

// order says what a process is to do to itself before it becomes a program.
type order struct {
	Locked    bool     // by Landlock and seccomp, not by limits alone
	Memory    int64    // bytes of address space
	CPU       int64    // seconds
	Program   string   // an absolute path without links
	Arguments []string // the first is its name
}

// With these a process ends that could not become a program.
const (
	statusLimits = 121
	statusLock   = 122
	statusStart  = 123
)

// ffmpeg is a process, seen from the service.
type ffmpeg struct {
	cmd    *exec.Cmd
	out    *os.File
	stderr stderrText    // to be read once exited is closed
	exited chan struct{} // closed at its end
}

// launch starts a process that becomes ffmpeg. The end of ctx kills it.
func (f *films) launch(ctx context.Context, data []byte, arguments []string) (*ffmpeg, error) {
	o := order{
		Locked: f.locked, Memory: max(2<<30, 2*f.cfg.MaxMemory+1<<30), CPU: int64(f.cfg.VideoTime/time.Second) + 10,
		Program: f.program, Arguments: arguments,
	}
	text, err := json.Marshal(&o)
	if err != nil {
		return nil, err
	}
	in, err := sealedFile(data)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	out, outChild, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer outChild.Close()
	p := &ffmpeg{out: out, exited: make(chan struct{})}
	p.cmd = exec.CommandContext(ctx, selfPath(), programArgument, string(text)) //nolint:gosec // ourselves, with the order above
	p.cmd.Args[0] = os.Args[0]                                                  // which some programs tell their role by
	p.cmd.Env = []string{decoderVariable + "=1", "GOMAXPROCS=1", "GOTRACEBACK=none", "GODEBUG=updatemaxprocs=0,containermaxprocs=0"}
	p.cmd.Dir = "/"
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = in, outChild, &p.stderr
	p.cmd.WaitDelay = time.Second
	p.cmd.SysProcAttr = childAttributes()
	p.cmd.Cancel = func() error {
		// What it may have started could hold the pipe open.
		_ = out.SetReadDeadline(time.Now().Add(killGrace))
		return killGroup(p.cmd.Process)
	}
	widen(outChild)
	started := make(chan error, 1)
	f.alive.Go(func() {
		// A child whose parent thread ends is killed (childAttributes), so this
		// thread is kept until the child's end.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // p.cmd.ProcessState says it
		}
		close(p.exited)
	})
	if err := <-started; err != nil {
		out.Close()
		return nil, err
	}
	return p, nil
}

// wait waits until p has ended by itself, or was killed at the end of ctx.
func (p *ffmpeg) wait(ctx context.Context) {
	select {
	case <-p.exited:
	case <-ctx.Done():
	}
}

// end kills p and waits until nothing is left of it.
func (p *ffmpeg) end() {
	select {
	case <-p.exited: // its number may be another's by now
	default:
		_ = killGroup(p.cmd.Process) // one that has ended meanwhile is fine
	}
	<-p.exited
	p.out.Close()
}
