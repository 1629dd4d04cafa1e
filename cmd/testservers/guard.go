package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// guardFlag is the only argument of a guard process.
const guardFlag = "-guard"

// sweepLimit is how long killed processes may take to disappear.
const sweepLimit = 10 * time.Second

// guard is a second process of this program, in a session of its own, which clears up when our end of its standard input
// closes: because stop was called, or because this process died in whatever way. It is told the data folder and the process
// group of everything that is started.
type guard struct {
	dir string
	cmd *exec.Cmd

	mu     sync.Mutex // over both
	in     io.WriteCloser
	groups []int
}

// startGuard starts a guard over dir. The guard ignores the signals that end this process.
func startGuard(ctx context.Context, dir string, stderr *os.File) (*guard, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), self, guardFlag) //nolint:gosec // this very program
	cmd.Stderr = stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("starting the guard: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the guard: %w", err)
	}
	if _, err := fmt.Fprintln(in, dir); err != nil {
		return nil, errors.Join(fmt.Errorf("instructing the guard: %w", err), cmd.Wait())
	}
	return &guard{dir: dir, cmd: cmd, in: in}, nil
}

// process is something that was started, in a process group of its own.
type process struct {
	name    string
	logFile string // "" when its output goes elsewhere
	pid     int
	done    chan struct{}
	err     error // from Wait; to be read after done
}

// start hands the guard a process group of its own and runs cmd in it. cmd's standard input is empty.
func (g *guard) start(cmd *exec.Cmd, name, logFile string) (*process, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// What a command leaves behind may hold its output open; the guard ends those, so Wait need not wait for them.
	cmd.WaitDelay = time.Second
	if cmd.Err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, cmd.Err)
	}
	// A shell stands at the gate until the guard knows the group: there is no moment at which our death leaves it running.
	cmd.Args = append([]string{"sh", "-c", `read -r _ && exec "$@"`, "sh", cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
	gate, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	p := &process{name: name, logFile: logFile, pid: cmd.Process.Pid, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	g.groups = append(g.groups, p.pid)
	if _, err := fmt.Fprintln(g.in, p.pid); err != nil {
		return nil, errors.Join(fmt.Errorf("instructing the guard: %w", err), gate.Close())
	}
	if _, err := fmt.Fprintln(gate); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	gate.Close() // the rest of its standard input is empty
	return p, nil
}

// stop lets the guard clear up and returns when it has.
func (g *guard) stop() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.in.Close()
	if err := g.cmd.Wait(); err != nil {
		// Somebody ended the guard: its work is done here.
		return sweep(g.dir, g.groups)
	}
	return nil
}

// keepGuard is the guard process. It reads the folder, then process groups, one a line, until the end of in.
func keepGuard(in io.Reader, stderr io.Writer) int {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	lines := bufio.NewScanner(in)
	if !lines.Scan() {
		return 0
	}
	dir := lines.Text()
	var groups []int
	for lines.Scan() {
		if pid, err := strconv.Atoi(lines.Text()); err == nil && pid > 1 {
			groups = append(groups, pid)
		}
	}
	if err := sweep(dir, groups); err != nil {
		fmt.Fprintf(stderr, "testservers: %v\n", err)
		return statusFailed
	}
	return 0
}

// sweep kills the process groups, waits until they are gone and removes dir.
func sweep(dir string, groups []int) error {
	left := slices.Clone(groups)
	deadline := time.Now().Add(sweepLimit)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		left = slices.DeleteFunc(left, func(group int) bool {
			return errors.Is(syscall.Kill(-group, syscall.SIGKILL), syscall.ESRCH) || !alive(group)
		})
		if len(left) == 0 || time.Now().After(deadline) {
			break
		}
		<-tick.C
	}
	var err error
	if len(left) > 0 {
		err = fmt.Errorf("process groups %v are still there after %s", left, sweepLimit)
	}
	if rmErr := os.RemoveAll(dir); rmErr != nil {
		err = errors.Join(err, fmt.Errorf("removing the data folder: %w", rmErr))
	}
	return err
}

// alive reports whether a process group has a member that is more than a dead entry. A container's first process may never
// collect the dead, so waiting for their entries to go could take for ever.
func alive(group int) bool {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(stats) == 0 {
		return true // not Linux: the entry is all there is to see
	}
	for _, stat := range stats {
		data, err := os.ReadFile(stat)
		if err != nil {
			continue // gone meanwhile
		}
		// pid (name) state parent group …, where the name may hold anything.
		fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
		if len(fields) > 2 && fields[2] == strconv.Itoa(group) && fields[0] != "Z" && fields[0] != "X" {
			return true
		}
	}
	return false
}

// ended reports whether the process has ended.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// failure is an error that says what happened to p and how its log ends.
func (p *process) failure(what string) error {
	status := ""
	if p.ended() && p.err != nil {
		status = ": " + p.err.Error()
	}
	return fmt.Errorf("%s %s%s; its log ends:\n%s", p.name, what, status, tail(p.logFile, 20))
}

// tail is the last lines of a file.
func tail(file string, lines int) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	all := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-lines):], []byte("\n")))
}

// await tries ready until it succeeds, p ends, or the limit is over.
func await(ctx context.Context, p *process, limit time.Duration, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return endedEarlyError{p.failure("ended before it answered")}
		case <-ctx.Done():
			return p.failure(fmt.Sprintf("did not answer within %s (%v)", limit, err))
		case <-tick.C:
		}
	}
}

// endedEarlyError marks a server that ended while it started. Another program may have taken its port between our choosing
// it and the server's binding it, so it is worth another try with other ports.
type endedEarlyError struct{ error }

// tryAgain calls start up to three times while servers end early.
func tryAgain(start func() (started, error)) (started, error) {
	var s started
	var err error
	for range 3 {
		s, err = start()
		if _, early := errors.AsType[endedEarlyError](err); !early {
			break
		}
	}
	return s, err
}
