//go:build linux && (amd64 || arm64)

package media

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The filter lets through what the Go runtime, and a C library under it, needs
// to compute and to use the pipes that are open. What a program tries without
// meaning harm, such as to open a file for a time zone, fails. All else kills
// the process.

// allowedCalls, the frequent ones first; callsOfArch adds to them.
var allowedCalls = []uintptr{
	unix.SYS_READ, unix.SYS_WRITE, unix.SYS_FUTEX, unix.SYS_NANOSLEEP, unix.SYS_MADVISE, unix.SYS_MUNMAP,
	unix.SYS_EPOLL_PWAIT, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SCHED_YIELD, unix.SYS_CLOCK_GETTIME,
	unix.SYS_CLOCK_NANOSLEEP, unix.SYS_GETTID, unix.SYS_GETPID, unix.SYS_SIGALTSTACK, unix.SYS_RT_SIGACTION, unix.SYS_MREMAP,
	unix.SYS_BRK, unix.SYS_SCHED_GETAFFINITY, unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ, unix.SYS_SET_TID_ADDRESS, unix.SYS_GETTIMEOFDAY,
	unix.SYS_GETRANDOM, unix.SYS_RESTART_SYSCALL, unix.SYS_CLOSE, unix.SYS_EXIT, unix.SYS_EXIT_GROUP,
}

// failingCalls fail with EPERM.
var failingCalls = []uintptr{
	unix.SYS_OPENAT, unix.SYS_OPENAT2, unix.SYS_FSTAT, unix.SYS_STATX, unix.SYS_READLINKAT, unix.SYS_FACCESSAT, unix.SYS_PRCTL,
	unix.SYS_FCNTL, unix.SYS_IOCTL, unix.SYS_PRLIMIT64, unix.SYS_GETCWD, unix.SYS_UNAME, unix.SYS_SYSINFO,
}

// threadFlags are those of clone that matter: a new thread has the first and
// none of the others, which make processes, traces or namespaces.
const (
	threadFlag   = unix.CLONE_THREAD
	processFlags = unix.CLONE_VFORK | unix.CLONE_PTRACE | unix.CLONE_PARENT | unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS |
		unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWTIME | unix.CLONE_IO | unix.CLONE_PIDFD
)

// Offsets in struct seccomp_data, of the lower half of arguments on machines
// that are little-endian.
const (
	offsetCall = 0
	offsetArch = 4
)

func offsetArgument(n uint32) uint32 { return 16 + 8*n }

// callFilter is the program for the process pid.
func callFilter(pid int) []unix.SockFilter {
	const (
		load   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		least  = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
		and    = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
		result = unix.BPF_RET | unix.BPF_K

		allow = unix.SECCOMP_RET_ALLOW
		kill  = unix.SECCOMP_RET_KILL_PROCESS
		fail  = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	)
	program := []unix.SockFilter{
		{Code: load, K: offsetArch},
		{Code: equal, K: auditArch, Jt: 1},
		{Code: result, K: kill},
		{Code: load, K: offsetCall},
		{Code: least, K: 1 << 30, Jf: 1}, // calls of x32
		{Code: result, K: kill},
	}
	always := func(call uintptr, what uint32) {
		program = append(program, unix.SockFilter{Code: equal, K: uint32(call), Jf: 1}, unix.SockFilter{Code: result, K: what})
	}
	// where lets a call through if an argument, masked, is want.
	where := func(call uintptr, argument, mask, want uint32) {
		program = append(
			program,
			unix.SockFilter{Code: equal, K: uint32(call), Jf: 5},
			unix.SockFilter{Code: load, K: offsetArgument(argument)},
			unix.SockFilter{Code: and, K: mask},
			unix.SockFilter{Code: equal, K: want, Jf: 1},
			unix.SockFilter{Code: result, K: allow},
			unix.SockFilter{Code: result, K: kill},
		)
	}
	for _, call := range append(allowedCalls, callsOfArch...) {
		always(call, allow)
	}
	where(unix.SYS_MMAP, 2, unix.PROT_EXEC, 0)
	where(unix.SYS_MPROTECT, 1, unix.PROT_EXEC, 0)
	where(unix.SYS_TGKILL, 0, math.MaxUint32, uint32(pid))
	where(unix.SYS_CLONE, 0, threadFlag|processFlags, threadFlag)
	always(unix.SYS_CLONE3, unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS)) // C libraries then take clone, whose flags can be seen
	for _, call := range append(failingCalls, failingCallsOfArch...) {
		always(call, fail)
	}
	return append(program, unix.SockFilter{Code: result, K: kill})
}

// denyCalls lays the filter on all threads.
func denyCalls() error {
	runtime.LockOSThread() // no_new_privs is the thread's
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("giving up privileges: %w", err)
	}
	if err := applyFilter(callFilter(os.Getpid())); err != nil {
		return err
	}
	return opens("the seccomp filter", unix.EPERM)
}

func applyFilter(filter []unix.SockFilter) error {
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program))) //nolint:gosec // the kernel reads the program
	runtime.KeepAlive(filter)
	if errno != 0 {
		return fmt.Errorf("installing the seccomp filter: %w", errno)
	}
	if thread != 0 {
		return fmt.Errorf("installing the seccomp filter: thread %d cannot have it", thread)
	}
	return nil
}
