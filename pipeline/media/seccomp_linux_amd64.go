package media

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_X86_64

var (
	callsOfArch        = []uintptr{unix.SYS_EPOLL_WAIT, unix.SYS_TIME}
	programCallsOfArch = []uintptr{unix.SYS_ARCH_PRCTL, unix.SYS_NEWFSTATAT, unix.SYS_POLL}
	failingCallsOfArch = []uintptr{
		unix.SYS_OPEN, unix.SYS_STAT, unix.SYS_LSTAT, unix.SYS_ACCESS, unix.SYS_READLINK, unix.SYS_NEWFSTATAT, unix.SYS_GETRLIMIT,
	}
)
