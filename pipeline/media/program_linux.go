//go:build linux && (amd64 || arm64)

package media

import (
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"unsafe"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// programSupport says that [runProgram] works here.
const programSupport = true

// libraryFolders are where the dynamic loader looks, and loaderFiles what it reads
// besides.
var (
	libraryFolders = []string{"/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/local/lib"}
	loaderFiles    = []string{"/etc/ld.so.cache"}
)

// sealedFile returns a file in memory that nobody can change.
func sealedFile(data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("video", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "video")
	if _, err := f.Write(data); err != nil {
		f.Close()
		return nil, fmt.Errorf("a file in memory: %w", err)
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL); err != nil {
		f.Close()
		return nil, fmt.Errorf("sealing a file in memory: %w", err)
	}
	return f, nil
}

// killGroup kills a process that leads a group, and the group.
func killGroup(p *os.Process) error { return unix.Kill(-p.Pid, unix.SIGKILL) }

// runProgram makes the process another program, after it has given up everything
// that the program does not need. It does not return: what fails ends the process.
func runProgram(text string) {
	status, err := becomeProgram(text)
	fmt.Fprintln(os.Stderr, "starting a program:", err) // before it has seen any content
	unix.Exit(status)
}

func becomeProgram(text string) (status int, err error) {
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return statusStart, err
	}
	// Nothing is collected, and no thread started for it, while the process changes.
	debug.SetGCPercent(-1)
	runtime.LockOSThread()
	call, err := newExecution(&o)
	if err != nil {
		return statusStart, err
	}
	if err := closeFiles(); err != nil {
		return statusLimits, err
	}
	// Where memory runs out the kernel is to end this one, not the service.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("500"), 0o600)
	if o.Locked {
		if err := allowProgram(o.Program); err != nil {
			return statusLock, err
		}
	}
	for _, l := range []struct {
		name     string
		resource int
		value    uint64
	}{
		{"processor time", unix.RLIMIT_CPU, uint64(o.CPU)},
		{"core files", unix.RLIMIT_CORE, 0},
		{"file size", unix.RLIMIT_FSIZE, 0},
		{"open files", unix.RLIMIT_NOFILE, 16},
	} {
		if err := limit(l.resource, l.value); err != nil {
			return statusLimits, fmt.Errorf("limiting %s: %w", l.name, err)
		}
	}
	filter := programFilter(os.Getpid(), uint64(call.path))
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return statusLock, fmt.Errorf("giving up privileges: %w", err)
	}
	// Last, as this process may have more than the program is to have.
	if err := limit(unix.RLIMIT_AS, uint64(o.Memory)); err != nil {
		return statusLimits, fmt.Errorf("limiting address space: %w", err)
	}
	if o.Locked {
		if err := applyFilter(filter); err != nil {
			return statusLock, err
		}
	}
	return statusStart, fmt.Errorf("running it: %w", call.run())
}

// allowProgram denies every file to all threads but a program, its loader and its
// libraries, which it may read.
func allowProgram(program string) error {
	if err := sandboxSupport(); err != nil {
		return err
	}
	run := []string{program}
	loader, err := loaderOf(program)
	if err != nil {
		return err
	}
	if loader != "" {
		run = append(run, loader)
	}
	// Later versions of Landlock deny more than the first; see denyFiles.
	err = landlock.V11.BestEffort().Restrict(
		landlock.PathAccess(ll.AccessFSReadFile|ll.AccessFSExecute, run...),
		landlock.PathAccess(ll.AccessFSReadFile, libraryFolders...).IgnoreIfMissing(),
		landlock.PathAccess(ll.AccessFSReadFile, loaderFiles...).IgnoreIfMissing(),
	)
	if err != nil {
		return fmt.Errorf("landlock: %w", err)
	}
	return opens("landlock", unix.EACCES)
}

// loaderOf returns the program that loads the libraries of another, or "" for one that
// has none.
func loaderOf(program string) (string, error) {
	file, err := elf.Open(program)
	if err != nil {
		return "", fmt.Errorf("reading the program: %w", err)
	}
	defer func() { _ = file.Close() }() // nothing was written
	for _, p := range file.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		name := make([]byte, min(p.Filesz, unix.PathMax))
		if _, err := p.ReadAt(name, 0); err != nil {
			return "", fmt.Errorf("reading the program: %w", err)
		}
		loader, err := filepath.EvalSymlinks(strings.TrimRight(string(name), "\x00"))
		if err != nil {
			return "", fmt.Errorf("looking for its loader: %w", err)
		}
		return loader, nil
	}
	return "", nil
}

// execution is a call of execve whose path lies where nobody can guess: the filter
// knows a call by that address, so that the program cannot make another.
type execution struct {
	path               uintptr
	arguments, environ []*byte
	memory             []byte
}

func newExecution(o *order) (*execution, error) {
	const room = 1 << 24
	memory, err := unix.Mmap(-1, 0, room, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		return nil, err
	}
	var random [8]byte
	if _, err := unix.Getrandom(random[:], 0); err != nil {
		return nil, err
	}
	at := *(*uint64)(unsafe.Pointer(&random)) % (room - unix.PathMax) //nolint:gosec // eight bytes, whatever their order
	if len(o.Program) >= unix.PathMax || !filepath.IsAbs(o.Program) {
		return nil, unix.ENAMETOOLONG
	}
	copy(memory[at:], o.Program)
	e := &execution{path: uintptr(unsafe.Pointer(&memory[at])), memory: memory} //nolint:gosec // memory is not the collector's and stays
	if e.arguments, err = syscall.SlicePtrFromStrings(o.Arguments); err != nil {
		return nil, err
	}
	e.environ, err = syscall.SlicePtrFromStrings([]string{"LC_ALL=C", "HOME=/", "AV_LOG_FORCE_NOCOLOR=1"})
	return e, err
}

// run returns only if it failed.
func (e *execution) run() error {
	_, _, errno := unix.RawSyscall(unix.SYS_EXECVE, e.path, uintptr(unsafe.Pointer(&e.arguments[0])), uintptr(unsafe.Pointer(&e.environ[0]))) //nolint:gosec // the kernel reads them
	runtime.KeepAlive(e)
	return errno
}
