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

// Instructions of a filter, and what becomes of a call.
const (
	opLoad   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	opEqual  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	opLeast  = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	opAnd    = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	opResult = unix.BPF_RET | unix.BPF_K

	callAllowed = unix.SECCOMP_RET_ALLOW
	callKills   = unix.SECCOMP_RET_KILL_PROCESS
	callFails   = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	callPasses  = unix.SECCOMP_RET_ERRNO // 0: not done, and said to be
	callMissing = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
)

// filter is a program that is being written. What is said of a call first holds.
type filter []unix.SockFilter

func newFilter() filter {
	return filter{
		{Code: opLoad, K: offsetArch},
		{Code: opEqual, K: auditArch, Jt: 1},
		{Code: opResult, K: callKills},
		{Code: opLoad, K: offsetCall},
		{Code: opLeast, K: 1 << 30, Jf: 1}, // calls of x32
		{Code: opResult, K: callKills},
	}
}

func (f *filter) always(what uint32, calls ...uintptr) {
	for _, call := range calls {
		*f = append(*f, unix.SockFilter{Code: opEqual, K: uint32(call), Jf: 1}, unix.SockFilter{Code: opResult, K: what})
	}
}

// condition holds where a half of an argument, masked, is want.
type condition struct {
	offset, mask, want uint32
}

// low is a condition of the lower half of an argument, all that there is of an int.
func low(argument, mask, want uint32) condition {
	return condition{offsetArgument(argument), mask, want}
}

// whole are the conditions that an argument is want.
func whole(argument uint32, want uint64) []condition {
	at := offsetArgument(argument)
	return []condition{{at, math.MaxUint32, uint32(want)}, {at + 4, math.MaxUint32, uint32(want >> 32)}}
}

// where lets a call through if all conditions hold, and otherwise goes on to what
// is said of it next.
func (f *filter) where(call uintptr, conditions ...condition) {
	left := 3*len(conditions) + 2 // instructions to come
	*f = append(*f, unix.SockFilter{Code: opEqual, K: uint32(call), Jf: uint8(left)})
	for _, c := range conditions {
		left -= 3
		*f = append(
			*f,
			unix.SockFilter{Code: opLoad, K: c.offset},
			unix.SockFilter{Code: opAnd, K: c.mask},
			unix.SockFilter{Code: opEqual, K: c.want, Jf: uint8(left - 1)}, // to the last one
		)
	}
	*f = append(*f, unix.SockFilter{Code: opResult, K: callAllowed}, unix.SockFilter{Code: opLoad, K: offsetCall})
}

// threads are the calls that make and signal threads of the process pid alone.
func (f *filter) threads(pid int) {
	f.where(unix.SYS_TGKILL, low(0, math.MaxUint32, uint32(pid)))
	f.where(unix.SYS_CLONE, low(0, threadFlag|processFlags, threadFlag))
	f.always(callMissing, unix.SYS_CLONE3) // C libraries then take clone, whose flags can be seen
}

// end kills for everything that nothing was said of.
func (f *filter) end() []unix.SockFilter {
	return append(*f, unix.SockFilter{Code: opResult, K: callKills})
}

// callFilter is the filter for the process pid.
func callFilter(pid int) []unix.SockFilter {
	f := newFilter()
	f.always(callAllowed, allowedCalls...)
	f.always(callAllowed, callsOfArch...)
	f.where(unix.SYS_MMAP, low(2, unix.PROT_EXEC, 0))
	f.where(unix.SYS_MPROTECT, low(2, unix.PROT_EXEC, 0))
	f.threads(pid)
	f.always(callFails, failingCalls...)
	f.always(callFails, failingCallsOfArch...)
	return f.end()
}

// programCalls are what a program in C needs besides, to be loaded and to read the
// files that Landlock leaves it.
var programCalls = []uintptr{
	unix.SYS_FSTAT, unix.SYS_LSEEK, unix.SYS_PREAD64, unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_GETUID, unix.SYS_GETEUID, unix.SYS_GETGID,
	unix.SYS_GETEGID, unix.SYS_GETRUSAGE, unix.SYS_PPOLL, unix.SYS_CLOCK_GETRES,
}

// failingProgramCalls fail with EPERM: libraries try them when they are loaded.
var failingProgramCalls = []uintptr{
	unix.SYS_STATFS, unix.SYS_GETDENTS64, unix.SYS_GET_MEMPOLICY, unix.SYS_SET_MEMPOLICY, unix.SYS_MBIND,
	unix.SYS_SCHED_SETAFFINITY, unix.SYS_FACCESSAT2, unix.SYS_GETCPU, unix.SYS_MEMBARRIER, unix.SYS_SETRLIMIT, unix.SYS_GETPPID,
}

// programFilter is the filter for the process pid that is to become a program, by
// the one execve whose path lies at the address path.
func programFilter(pid int, path uint64) []unix.SockFilter {
	f := newFilter()
	f.always(callAllowed, allowedCalls...)
	f.always(callAllowed, callsOfArch...)
	f.always(callAllowed, programCalls...)
	f.always(callAllowed, programCallsOfArch...)
	f.where(unix.SYS_EXECVE, whole(0, path)...)
	f.where(unix.SYS_OPENAT, low(2, unix.O_ACCMODE|unix.O_CREAT|unix.O_TRUNC, unix.O_RDONLY))
	f.where(unix.SYS_MMAP, low(2, unix.PROT_EXEC, 0))
	f.where(unix.SYS_MMAP, low(3, unix.MAP_ANONYMOUS, 0)) // code comes from files
	f.where(unix.SYS_MPROTECT, low(2, unix.PROT_EXEC, 0))
	f.where(unix.SYS_FCNTL, low(1, math.MaxUint32, unix.F_GETFD))
	f.where(unix.SYS_FCNTL, low(1, math.MaxUint32, unix.F_SETFD))
	f.where(unix.SYS_FCNTL, low(1, math.MaxUint32, unix.F_GETFL))
	f.where(unix.SYS_PRLIMIT64, whole(2, 0)...) // which only asks
	f.threads(pid)
	f.always(callPasses, unix.SYS_MLOCK) // libraries complain where it fails
	f.always(callFails, failingCalls...)
	f.always(callFails, failingCallsOfArch...)
	f.always(callFails, failingProgramCalls...)
	return f.end()
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
