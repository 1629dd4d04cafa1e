// Command fakeffmpeg stands in for an ffmpeg that a video has taken over. What it does, the file on its standard input
// says behind its first bytes. It ends with status 9 where it could do what it must not.
package main

import (
	"encoding/binary"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
	"unsafe"
)

func write(b []byte) {
	for len(b) > 0 {
		n, err := syscall.Write(1, b)
		if err != nil {
			syscall.Exit(8)
		}
		b = b[n:]
	}
}

func element(id []byte, body []byte) []byte {
	b := append([]byte{}, id...)
	b = binary.BigEndian.AppendUint64(b, uint64(len(body))|1<<56)
	return append(b, body...)
}

// head declares a track whose frames have so many pixels, one of each row being for the size alone.
func head(width, height uint16) []byte {
	number := element([]byte{0xd7}, []byte{1})
	size := append(element([]byte{0xb0}, binary.BigEndian.AppendUint16(nil, width)), element([]byte{0xba}, binary.BigEndian.AppendUint16(nil, height))...)
	entry := element([]byte{0xae}, append(number, element([]byte{0xe0}, size)...))
	out := element([]byte{0x1a, 0x45, 0xdf, 0xa3}, nil)
	out = append(out, 0x18, 0x53, 0x80, 0x67, 0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
	return append(out, element([]byte{0x16, 0x54, 0xae, 0x6b}, entry)...)
}

func frame(second uint32, size int) []byte {
	cluster := element([]byte{0xe7}, binary.BigEndian.AppendUint32(nil, 1000*second))
	pixels := make([]byte, 4+size)
	pixels[0] = 0x81
	for i := range pixels[4:] {
		pixels[4+i] = byte(i*i>>6 ^ i/33*7)
	}
	return element([]byte{0x1f, 0x43, 0xb6, 0x75}, append(cluster, element([]byte{0xa3}, pixels)...))
}

// good is a video of one frame, and what there is to be seen where something was denied.
func good() {
	write(head(65, 64))
	write(frame(0, 65*64))
	syscall.Exit(0)
}

// denied ends well if a call failed.
func denied(err error) {
	if err == nil {
		syscall.Exit(9)
	}
	good()
}

func hang() {
	for {
		_, _ = syscall.Select(0, nil, nil, nil, nil)
	}
}

var held [][]byte

func main() {
	debug.SetGCPercent(-1) // the collector's timers need what is forbidden
	data := make([]byte, 1<<16)
	n, err := syscall.Pread(0, data, 0)
	if err != nil || n < 24 {
		syscall.Exit(7)
	}
	role := strings.TrimRight(string(data[24:n]), "\x00")
	switch role {
	case "good":
		good()
	case "spins":
		for i := uint64(1); i != 0; i += 2 {
		}
	case "sees a frame and spins":
		write(head(65, 64))
		write(frame(0, 65*64))
		for i := uint64(1); i != 0; i += 2 {
		}
	case "closes its output and spins":
		_ = syscall.Close(1)
		for i := uint64(1); i != 0; i += 2 {
		}
	case "endless frames":
		write(head(65, 64))
		for i := uint32(0); ; i++ {
			write(frame(i, 65*64))
		}
	case "endless large frames at one time":
		write(head(4001, 4000))
		for f := frame(0, 4001*4000); ; {
			write(f)
		}
	case "endless rubbish that is passed over":
		rubbish := element([]byte{0xec}, make([]byte, 1<<19))
		for {
			write(rubbish)
		}
	case "endless complaints":
		for {
			_, _ = syscall.Write(2, make([]byte, 1<<16))
		}
	case "garbage":
		write([]byte(strings.Repeat("\x00garbage", 1000)))
	case "a frame of a terabyte":
		write(head(65, 64))
		write([]byte{0xa3, 0x01, 0x00, 0x01, 0, 0, 0, 0, 0, 0x81, 0, 0, 0})
		hang()
	case "an element of a terabyte":
		write([]byte{0xec, 0x01, 0x00, 0x01, 0, 0, 0, 0, 0})
		hang()
	case "a picture of 60000 pixels a side":
		write(head(60001, 60000))
		write(frame(0, 10))
	case "a picture of 16000 by 16000":
		write(head(16001, 16000))
		write(frame(0, 10))
	case "no size":
		write(head(1, 0))
		write(frame(0, 0))
	case "a thousand tracks":
		write(head(65, 64))
		for range 1000 {
			write(element([]byte{0xae}, nil))
		}
		hang()
	case "another size every time":
		write(head(65, 64))
		write(frame(0, 65*64))
		write(frame(1, 33*64))
	case "dies within a frame":
		write(head(65, 64))
		write(frame(0, 65*64)[:1000])
		syscall.Exit(3)
	case "says it was never started":
		syscall.Exit(123)
	case "allocates 6 GiB":
		for range 96 {
			b := make([]byte, 64<<20)
			for i := 0; i < len(b); i += 1 << 20 {
				b[i] = 1
			}
			held = append(held, b)
		}
		syscall.Exit(9)
	case "opens a file":
		_, err := syscall.Open("/etc/passwd", syscall.O_RDONLY, 0)
		denied(err)
	case "lists a folder":
		fd, err := syscall.Open("/usr/lib", syscall.O_RDONLY|syscall.O_DIRECTORY, 0)
		if err == nil {
			_, err = syscall.ReadDirent(fd, data)
		}
		denied(err)
	case "creates a file":
		_, err := syscall.Open("/tmp/dmguard-fake-ffmpeg-was-here", syscall.O_CREAT|syscall.O_WRONLY, 0o600)
		denied(err)
	case "changes its input":
		_, err := syscall.Pwrite(0, []byte("x"), 0)
		denied(err)
	case "raises a limit":
		denied(syscall.Setrlimit(syscall.RLIMIT_AS, &syscall.Rlimit{Cur: 1 << 40, Max: 1 << 40}))
	case "looks at its environment":
		for _, v := range os.Environ() {
			if strings.Contains(v, "SECRET") {
				syscall.Exit(9)
			}
		}
		good()
	case "looks for open files":
		for fd := uintptr(3); fd < 64; fd++ {
			if _, _, errno := syscall.Syscall(syscall.SYS_FCNTL, fd, syscall.F_GETFD, 0); errno == 0 {
				syscall.Exit(9)
			}
		}
		good()
	case "opens a socket":
		_, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
		denied(err)
	case "forks":
		_, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
		if errno == 0 {
			syscall.Exit(9)
		}
		good()
	case "forks and spins":
		_, _, _ = syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
		for i := uint64(1); i != 0; i += 2 {
		}
	case "runs itself":
		denied(syscall.Exec(os.Args[len(os.Args)-1], []string{"again"}, nil))
	case "signals others":
		denied(syscall.Kill(1, 0))
	case "traces":
		denied(syscall.PtraceAttach(1))
	case "makes memory executable":
		_, err := syscall.Mmap(-1, 0, 4096, syscall.PROT_READ|syscall.PROT_EXEC, syscall.MAP_ANON|syscall.MAP_PRIVATE)
		denied(err)
	case "makes its stack executable":
		page := uintptr(unsafe.Pointer(&data[0])) &^ 4095
		_, _, errno := syscall.Syscall(syscall.SYS_MPROTECT, page, 4096, syscall.PROT_READ|syscall.PROT_WRITE|syscall.PROT_EXEC)
		if errno == 0 {
			syscall.Exit(9)
		}
		good()
	default:
		syscall.Exit(7)
	}
}
