//go:build linux && (amd64 || arm64)

package media

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/landlock-lsm/go-landlock/landlock"
	"golang.org/x/sys/unix"
)

// selfPath is this program, also if its file was replaced since it started.
func selfPath() string { return "/proc/self/exe" }

// childAttributes let no process outlive the thread that started it, and keep
// the signals of a terminal from it.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// widen makes a pipe hold a small picture whole, where that is allowed.
func widen(pipe *os.File) {
	conn, err := pipe.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, 1<<20) })
}

// processorTime is what another process has used of the processors.
func processorTime(pid int) time.Duration {
	const ofProcess = 2 // CPUCLOCK_SCHED
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|ofProcess), &t); err != nil { // see clock_getcpuclockid(3)
		return 0
	}
	return time.Duration(t.Nano())
}

// sandboxSupport says what the kernel lacks.
func sandboxSupport() error {
	abi, _, landlockErrno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	action := uint32(unix.SECCOMP_RET_KILL_PROCESS)
	_, _, seccompErrno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action))) //nolint:gosec // the kernel reads four bytes
	var missing []error
	if landlockErrno != 0 || abi < 1 {
		missing = append(missing, fmt.Errorf("no Landlock (%w): it takes Linux 5.13 with landlock among the lsm= of the kernel's "+
			"command line, and a container runtime that lets landlock_create_ruleset through", landlockErrno))
	}
	if seccompErrno != 0 {
		missing = append(missing, fmt.Errorf("no seccomp filters (%w): they take a kernel with CONFIG_SECCOMP_FILTER, "+
			"and a container runtime that lets seccomp through", seccompErrno))
	}
	if len(missing) > 0 {
		return fmt.Errorf("this kernel cannot lock decoders in: %w", errors.Join(missing...))
	}
	return nil
}

// lockIn takes everything from the process but its pipes, memory and time, for
// good. What was not locked is an error: there is no half.
func lockIn(maxMemory int64, cpu time.Duration) error {
	if err := denyThings(maxMemory, cpu); err != nil {
		return err
	}
	return denyCalls()
}

// denyThings is all of lockIn but the filter of calls, behind which nothing of
// this could be seen any more.
func denyThings(maxMemory int64, cpu time.Duration) error {
	<-time.After(1) // the runtime opens its poller for the first timer
	if err := closeFiles(); err != nil {
		return err
	}
	// Where memory runs out the kernel is to end a decoder, not the service.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("500"), 0o600)
	if err := limitSelf(maxMemory, cpu); err != nil {
		return err
	}
	if err := denyFiles(); err != nil {
		return err
	}
	if err := limit(unix.RLIMIT_NOFILE, 0); err != nil { // Landlock needed one
		return fmt.Errorf("limiting open files: %w", err)
	}
	return nil
}

// closeFiles closes what was inherited or opened at the start; the poller of the
// runtime stays.
func closeFiles() error {
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("listing open files: %w", err)
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			return fmt.Errorf("listing open files: %w", err)
		}
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil || fd <= 2 || target == "anon_inode:[eventpoll]" || target == "anon_inode:[eventfd]" {
			continue // the listing's own is gone already
		}
		if err := unix.Close(fd); err != nil {
			return fmt.Errorf("closing an inherited file: %w", err)
		}
	}
	return nil
}

// limitSelf sets limits that cannot be raised again. The address space may grow
// by twice what pictures may take, as rubbish lies beside what is in use, and by
// no less than the 2 GiB below which Go does not run.
func limitSelf(maxMemory int64, cpu time.Duration) error {
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return fmt.Errorf("measuring the address space: %w", err)
	}
	first, _, _ := strings.Cut(string(statm), " ")
	pages, err := strconv.ParseUint(first, 10, 64)
	if err != nil {
		return fmt.Errorf("measuring the address space: %w", err)
	}
	room := max(2<<30, 2*maxMemory+1<<30)
	debug.SetMemoryLimit(room * 3 / 4)
	for _, l := range []struct {
		name     string
		resource int
		value    uint64
	}{
		{"address space", unix.RLIMIT_AS, pages*uint64(os.Getpagesize()) + uint64(room)},
		{"processor time", unix.RLIMIT_CPU, uint64(cpu/time.Second) + 60},
		{"core files", unix.RLIMIT_CORE, 0},
		{"file size", unix.RLIMIT_FSIZE, 0},
	} {
		if err := limit(l.resource, l.value); err != nil {
			return fmt.Errorf("limiting %s: %w", l.name, err)
		}
	}
	return nil
}

func limit(resource int, value uint64) error {
	return unix.Setrlimit(resource, &unix.Rlimit{Cur: value, Max: value})
}

// denyFiles denies every file, and what else Landlock of this kernel knows, to
// all threads.
func denyFiles() error {
	if err := sandboxSupport(); err != nil {
		return err
	}
	// The first version denies files, which is what is asked of it; that later
	// ones deny more is welcome, the filter of calls denies that too.
	if err := landlock.V11.BestEffort().Restrict(); err != nil {
		return fmt.Errorf("landlock: %w", err)
	}
	return opens("landlock", unix.EACCES)
}

// opens reports whether the root folder still opens, and not as it should.
func opens(layer string, want error) error {
	fd, err := unix.Open("/", unix.O_RDONLY, 0)
	switch {
	case err == nil:
		_ = unix.Close(fd)
		return fmt.Errorf("%s does not hold: the root folder opens", layer)
	case !errors.Is(err, want):
		return fmt.Errorf("%s does not hold: opening the root folder: %w", layer, err)
	}
	return nil
}
