//go:build amd64 || arm64

package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// withoutLandlock is dmguard on a kernel that cannot lock decoders in: the call that asks for
// Landlock fails as it does where there is none.
func withoutLandlock() {
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_LANDLOCK_CREATE_RULESET, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	// Every thread, also those that were there before.
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program))); errno != 0 {
		panic(errno)
	}
	main()
}

func init() { programs["dmguard-without-landlock"] = withoutLandlock }

const (
	cannotLockIn = "this kernel cannot lock decoders in: no Landlock"
	decodedHere  = "pictures are decoded in this process, where a flaw of a decoder reaches everything"
)

// TestWhereKernelsCannotLockDecodersInCommandsSaySo runs each command on a kernel that has
// Landlock and on one that has not.
func TestWhereKernelsCannotLockDecodersInCommandsSaySo(t *testing.T) {
	dir := t.TempDir()
	picture, err := patternPNG(1, 96)
	if err != nil {
		t.Fatal(err)
	}
	messages := filepath.Join(dir, "messages.ndjson")
	line := simple("m-1", "c-1", fmt.Sprintf(`,"attachments":[{"id":"a-1","media_type":"image/png","data":%q}]`, base64.StdEncoding.EncodeToString(picture)))
	if err := os.WriteFile(messages, []byte(line+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	public := filepath.Join(dir, "review.pub.json")
	mustRun(t, "keys", "review", public, filepath.Join(dir, "review.key.json"))
	worker := []string{
		"worker", "--brokers", "127.0.0.1:1", "--redis", "127.0.0.1:1", "--review-key", public, "--allow-plaintext", "--journal", filepath.Join(dir, "journal"), "--admin-listen", "127.0.0.1:0",
	}
	for _, c := range []struct {
		program string
		args    []string
		status  int
		judged  bool
		says    []string
		silent  []string
	}{
		{"dmguard", []string{"scan", messages}, 0, true, nil, []string{"decoded in this process"}},
		{"dmguard", []string{"scan", "--decode=sandbox", messages}, 0, true, nil, []string{"decoded in this process"}},
		{"dmguard", []string{"scan", "--decode=in-process", messages}, 0, true, []string{decodedHere}, nil},
		{"dmguard", []string{"scan", "--decode=cellar", messages}, 1, false, []string{`flag -decode: "cellar" is none of sandbox, in-process, auto`}, nil},
		{"dmguard-without-landlock", []string{"scan", messages}, 0, true, []string{decodedHere, cannotLockIn}, nil},
		{"dmguard-without-landlock", []string{"scan", "--decode=auto", messages}, 0, true, []string{decodedHere, cannotLockIn}, nil},
		{"dmguard-without-landlock", []string{"scan", "--decode=in-process", messages}, 0, true, []string{decodedHere}, []string{cannotLockIn}},
		{"dmguard-without-landlock", []string{"scan", "--decode=sandbox", messages}, 1, false, []string{cannotLockIn, "--decode=in-process"}, nil},
		{"dmguard-without-landlock", worker, 1, false, []string{cannotLockIn, "--decode=in-process"}, []string{decodedHere}},
		// These get as far as the servers, which are not there.
		{"dmguard-without-landlock", append(slices.Clip(worker), "--decode=in-process"), 1, false, []string{decodedHere, "127.0.0.1:1"}, []string{cannotLockIn}},
		{"dmguard-without-landlock", append(slices.Clip(worker), "--decode=auto"), 1, false, []string{decodedHere, cannotLockIn, "127.0.0.1:1"}, nil},
		{"dmguard", worker, 1, false, []string{"127.0.0.1:1"}, []string{cannotLockIn, "decoded in this process"}},
	} {
		var out, errs bytes.Buffer
		cmd := exec.CommandContext(t.Context(), c.program, c.args...)
		cmd.Env = append(os.Environ(), "HOME="+dir)
		cmd.Stdout, cmd.Stderr = &out, &errs
		err := cmd.Run()
		name := fmt.Sprintf("%s %s", c.program, strings.Join(c.args, " "))
		if got := cmd.ProcessState.ExitCode(); got != c.status {
			t.Errorf("%s: status %d, %v: %s", name, got, err, errs.String())
		}
		if judged := strings.Contains(out.String(), `"status":"scanned"`); judged != c.judged {
			t.Errorf("%s: judged %v: %s", name, judged, out.String())
		}
		for _, s := range c.says {
			if !strings.Contains(errs.String(), s) {
				t.Errorf("%s does not say %q: %s", name, s, errs.String())
			}
		}
		for _, s := range c.silent {
			if strings.Contains(errs.String(), s) {
				t.Errorf("%s says %q: %s", name, s, errs.String())
			}
		}
	}
}

func TestUpWarnsWhereKernelsCannotLockDecodersIn(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "dmguard-without-landlock", "up", "--data", t.TempDir(), "--listen", "127.0.0.1:0", "--no-seed")
	errs, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	warned := false
	for lines := bufio.NewScanner(errs); !warned && lines.Scan(); {
		warned = strings.Contains(lines.Text(), decodedHere) && strings.Contains(lines.Text(), cannotLockIn)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // killed
	if !warned {
		t.Error("up ended without a warning")
	}
}
