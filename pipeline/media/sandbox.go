package media

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"
)

const (
	// startTime is how long a process may take until it is locked in.
	startTime = 30 * time.Second

	// killGrace is how long a process may overrun [Config.DecodeTime]: it looks
	// at the clock itself, and living on is cheaper than starting again.
	killGrace = 500 * time.Millisecond

	// maxBusy is how long a process is used before another takes its place, so
	// that what a picture did to it does not last.
	maxBusy = 5 * time.Minute
)

// Sandbox decodes pictures in processes of their own: this program, started
// again, which then gives up files, network, other programs and memory beyond a
// limit before it sees the first picture. Each has one picture at a time. Any
// number of goroutines may use a Sandbox.
//
// A process that runs over its time is killed; one that dies or answers nonsense
// is replaced. The picture that it had in hand is then at fault, by an error
// marked by [pipeline.Permanent]: at once if time ran out while it was decoded or
// if some of its frames were seen, else after a second process failed at it too,
// because what happened to the first may have been another's doing. That there is
// no process to be had at all is an error that may pass.
//
// Videos are decoded by ffmpeg, one in each process, which is locked in before
// it runs: it can open nothing but itself and its libraries. Its frames come as
// bytes of known number and are looked at here.
//
// A process that a picture took over can lie about that picture and about those
// it is given later, until it is replaced after five minutes of work. It cannot
// write texts, use memory of the service, or reach anything.
type Sandbox struct {
	cfg     Config
	log     *zap.Logger
	slots   *semaphore.Weighted // processes at work
	films   *films
	reserve func(ctx context.Context, need int64) (func(), error)
	life    context.Context // of the processes, which outlive every call
	kill    context.CancelFunc
	alive   sync.WaitGroup

	mu     sync.Mutex
	idle   []*process
	closed bool
}

// StartSandbox starts the first of so many processes at most, 0 for one a
// processor, and fails with what to do about it where the kernel cannot lock it
// in. The others follow when they are needed.
func StartSandbox(ctx context.Context, cfg Config, processes int, log *zap.Logger) (*Sandbox, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if served.Load() == nil {
		return nil, errors.New("starting the decoder sandbox: this program does not call media.ServeSandbox")
	}
	if os.Getenv(decoderVariable) != "" {
		return nil, errors.New("starting the decoder sandbox: this is a decoder itself")
	}
	if err := sandboxSupport(); err != nil {
		return nil, err
	}
	if processes == 0 {
		processes = runtime.GOMAXPROCS(0)
	}
	s := &Sandbox{cfg: cfg, log: log, slots: semaphore.NewWeighted(int64(max(1, processes))), reserve: reserveOf(cfg.MaxMemory)}
	s.life, s.kill = context.WithCancel(context.WithoutCancel(ctx))
	s.films = newFilms(&cfg, true, processes, s.reserve)
	p, err := s.start(ctx)
	if err != nil {
		s.Close()
		return nil, err
	}
	s.idle = append(s.idle, p)
	return s, nil
}

// Close kills all processes and waits for their end. Closed again, it does nothing. Calls of Examine that are
// still under way fail.
func (s *Sandbox) Close() {
	s.mu.Lock()
	again := s.closed
	s.closed = true
	s.mu.Unlock()
	if again {
		return
	}
	s.kill()
	s.alive.Wait()
	s.films.close()
}

// Examine does what [InProcess.Examine] does.
func (s *Sandbox) Examine(ctx context.Context, data []byte, want uint8, each func(frame int, seen []byte) error) (Result, error) {
	format, codec, err := s.cfg.codec(data)
	result := Result{Format: format}
	if err == nil && format.Kind == Video {
		inside := InProcess{Decoder: &Decoder{cfg: s.cfg, films: s.films}, Look: *served.Load()}
		return inside.Examine(ctx, data, want, each)
	}
	if codec == nil {
		return result, err
	}
	if err := s.slots.Acquire(ctx, 1); err != nil {
		return result, fmt.Errorf("waiting to decode: %w", err)
	}
	defer s.slots.Release(1)
	for again := false; ; again = true {
		p, err := s.take(ctx)
		if err != nil {
			return result, err
		}
		job := job{sandbox: s, process: p, want: want, each: each, format: format}
		result, err = job.run(ctx, data)
		if job.kept {
			s.put(p)
			return result, err
		}
		p.end()
		switch {
		case ctx.Err() != nil:
			return result, fmt.Errorf("decoding: %w", context.Cause(ctx))
		case s.life.Err() != nil:
			return result, errClosed
		case job.consumer:
			return result, err
		case job.late:
			err = faulty(faultTime, format.Name, int64(s.cfg.DecodeTime))
		default:
			err = faulty(p.fault(err), format.Name, p.status())
		}
		s.log.Warn("a decoder process was lost", zap.Int("pid", p.cmd.Process.Pid), zap.Error(err), zap.Bool("again", again))
		if again || job.late && job.begun || result.Frames > 0 {
			return result, err
		}
	}
}

var errClosed = errors.New("decoding: the sandbox is closed")

// take returns a process that is not at work.
func (s *Sandbox) take(ctx context.Context) (*process, error) {
	for {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return nil, errClosed
		}
		if len(s.idle) == 0 {
			s.mu.Unlock()
			return s.start(ctx)
		}
		last := len(s.idle) - 1
		p := s.idle[last]
		s.idle = s.idle[:last]
		s.mu.Unlock()
		if p.busy < maxBusy && p.quiet() {
			return p, nil
		}
		p.end()
	}
}

func (s *Sandbox) put(p *process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idle = append(s.idle, p)
}

// process is a decoder, seen from the service.
type process struct {
	cmd    *exec.Cmd
	in     *os.File // what it reads
	out    *os.File // what it writes
	read   *bufio.Reader
	stderr stderrText    // to be read once exited is closed
	exited chan struct{} // closed at its end, which cmd.ProcessState then tells
	busy   time.Duration
}

// start starts a process and waits until it is locked in.
func (s *Sandbox) start(ctx context.Context) (*process, error) {
	p, err := s.launch()
	if err != nil {
		return nil, fmt.Errorf("starting a decoder process: %w", err)
	}
	stop := context.AfterFunc(ctx, p.kill)
	defer stop()
	if err := p.ready(s.cfg.limits()); err != nil {
		p.end()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("starting a decoder process: %w", err)
	}
	return p, nil
}

func (s *Sandbox) launch() (*process, error) {
	inChild, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer inChild.Close()
	out, outChild, err := os.Pipe()
	if err != nil {
		in.Close()
		return nil, err
	}
	defer outChild.Close()
	p := &process{in: in, out: out, read: bufio.NewReader(out), exited: make(chan struct{})}
	p.cmd = exec.CommandContext(s.life, selfPath(), decoderArgument) //nolint:gosec // both are constants
	p.cmd.Args[0] = os.Args[0]                                       // which some programs tell their role by
	p.cmd.Env = []string{decoderVariable + "=1", "GOMAXPROCS=1", "GOTRACEBACK=none", "GODEBUG=updatemaxprocs=0,containermaxprocs=0"}
	p.cmd.Dir = "/"
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = inChild, outChild, &p.stderr
	p.cmd.WaitDelay = time.Second
	p.cmd.SysProcAttr = childAttributes()
	widen(in)
	started := make(chan error, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		in.Close()
		out.Close()
		return nil, errClosed
	}
	s.alive.Go(func() {
		// A child whose parent thread ends is killed (childAttributes), so this
		// thread is kept until the child's end.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // p.cmd.ProcessState says it
		}
		in.Close()
		out.Close()
		close(p.exited)
	})
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// ready tells a process its limits and waits until it is locked in.
func (p *process) ready(l limits) error {
	p.deadline(time.Now().Add(startTime))
	if err := binary.Write(p.in, binary.BigEndian, &l); err != nil {
		return fmt.Errorf("telling it its limits: %w", err)
	}
	kind, payload, err := readMessage(p.read)
	switch {
	case err != nil:
		return fmt.Errorf("waiting until it is locked in: %w", err)
	case kind == msgRefused:
		return errors.New(strconv.Quote(string(payload)))
	case kind != msgReady:
		return errNonsense
	}
	return nil
}

func (p *process) deadline(t time.Time) {
	// A pipe that has no deadlines is one that is closed: reading tells.
	_ = p.in.SetDeadline(t)
	_ = p.out.SetDeadline(t)
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill() // one that has ended already is fine
}

// end kills p and waits until nothing is left of it.
func (p *process) end() {
	p.kill()
	<-p.exited
}

// quiet reports whether p lives and has not said anything unasked.
func (p *process) quiet() bool {
	select {
	case <-p.exited:
		return false
	default:
	}
	return p.read.Buffered() == 0
}

// fault says what became of p, which has ended, when err came up.
func (p *process) fault(err error) faultKind {
	status, _ := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case errors.Is(err, errNonsense):
		return faultProcessAnswer
	case bytes.Contains(p.stderr.b, []byte("out of memory")), bytes.Contains(p.stderr.b, []byte("cannot allocate memory")):
		return faultProcessMemory
	case status.Signaled() && status.Signal() == syscall.SIGSYS:
		return faultProcessForbidden
	case status.Signaled():
		return faultProcessSignal
	}
	return faultProcessExit
}

// status returns the signal or the exit status that p ended with.
func (p *process) status() int64 {
	status, _ := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return int64(status.Signal())
	}
	return int64(status.ExitStatus())
}

// job is one picture in one process.
type job struct {
	sandbox *Sandbox
	process *process
	want    uint8
	each    func(frame int, seen []byte) error
	format  Format

	begun    bool // the process has read it
	kept     bool // the process can go on
	late     bool // it cannot because time ran out
	consumer bool // it cannot because each failed
}

// run returns what the process makes of data. Where the job is not kept, the
// error is that of the pipes or of each.
func (j *job) run(ctx context.Context, data []byte) (Result, error) {
	started := time.Now()
	defer func() { j.process.busy += time.Since(started) }()
	result := Result{Format: j.format}
	stop := context.AfterFunc(ctx, j.process.kill)
	defer stop()
	err := j.exchange(ctx, data, &result)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		j.late = true
	}
	// Whoever killed it for the end of ctx must not meet the next picture.
	if !stop() {
		j.kept = false
	}
	return result, err
}

func (j *job) exchange(ctx context.Context, data []byte, result *Result) error {
	p, cfg := j.process, &j.sandbox.cfg
	p.deadline(time.Now().Add(cfg.DecodeTime + killGrace))
	request := binary.BigEndian.AppendUint32([]byte{j.want}, uint32(len(data)))
	if _, err := p.in.Write(request); err != nil {
		return err
	}
	if _, err := p.in.Write(data); err != nil {
		return err
	}
	last := -1
	for {
		kind, payload, err := readMessage(p.read)
		if err != nil {
			return err
		}
		switch {
		case kind == msgNeed && !j.begun:
			j.begun = true
			need := int64(binary.BigEndian.Uint64(payload))
			if need < 0 || need > cfg.MaxMemory {
				return errNonsense
			}
			release, err := j.sandbox.reserve(ctx, need)
			if err != nil {
				return err
			}
			defer release()
			p.deadline(time.Now().Add(cfg.DecodeTime + killGrace))
			if _, err := p.in.Write([]byte{memoryGranted}); err != nil {
				return err
			}
		case kind == msgFrame && j.begun:
			index := int(binary.BigEndian.Uint32(payload))
			if index <= last || index > int(cfg.MaxBytes) || result.Frames == cfg.MaxFrames {
				return errNonsense
			}
			last = index
			if err := j.each(index, payload[4:]); err != nil {
				j.consumer = true
				return err
			}
			result.Frames++
		case kind == msgEnd:
			return j.end(payload, result)
		default:
			return errNonsense
		}
	}
}

// end takes over the last message. Behind it there is nothing to be read.
func (j *job) end(payload []byte, result *Result) error {
	var e end
	if err := e.decode(payload); err != nil {
		return err
	}
	if e.fault == noFault && result.Frames == 0 || j.process.read.Buffered() > 0 {
		return errNonsense
	}
	j.kept = true
	result.skipped, result.Skipped = e.skipped, e.skipped.text(j.format.Name, [3]int64{})
	if e.fault != noFault {
		return faulty(e.fault, j.format.Name, e.n[:]...)
	}
	return nil
}

// stderrText keeps the beginning of what a process says when it dies. Only
// whether certain words are in it is ever used.
type stderrText struct{ b []byte }

// Write implements [io.Writer].
func (s *stderrText) Write(p []byte) (int, error) {
	const most = 4 << 10
	s.b = append(s.b, p[:min(len(p), most-len(s.b))]...)
	return len(p), nil
}

// ProcessorTime is what the processes that are not at work have used of the
// processors since each of them started; 0 where the system does not tell.
func (s *Sandbox) ProcessorTime() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	var sum time.Duration
	for _, p := range s.idle {
		sum += processorTime(p.cmd.Process.Pid)
	}
	return sum
}
