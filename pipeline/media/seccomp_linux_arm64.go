package media

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_AARCH64

var (
	callsOfArch        []uintptr
	programCallsOfArch = []uintptr{unix.SYS_NEWFSTATAT}
	failingCallsOfArch = []uintptr{unix.SYS_NEWFSTATAT, unix.SYS_GETRLIMIT}
)
