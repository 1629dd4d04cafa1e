package main

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestMain lets this test binary be testservers too, in both of its roles.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == guardFlag {
		os.Exit(keepGuard(os.Stdin, os.Stderr))
	}
	if os.Getenv("TESTSERVERS_TEST_AS_COMMAND") != "" {
		os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
	}
	// The race detector makes every process that ends wait a second, and here one waits for another.
	os.Setenv("GORACE", os.Getenv("GORACE")+" atexit_sleep_ms=0")
	os.Exit(m.Run())
}

// given are variables that leave nothing to start.
var given = map[string]string{
	envBrokers:  "127.0.0.1:1",
	envRedis:    "127.0.0.1:2",
	envCluster:  "127.0.0.1:3,127.0.0.1:4",
	envChromium: "/opt/chromium",
}

func setGiven(t *testing.T) {
	t.Helper()
	for name, value := range given {
		t.Setenv(name, value)
	}
	t.Setenv("TMPDIR", t.TempDir())
}

// runHere runs testservers in this process and returns its status and outputs.
func runHere(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	dir := t.TempDir()
	var files [2]*os.File
	for i, name := range []string{"stdout", "stderr"} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files[i] = f
	}
	status = run(args, files[0], files[1])
	for i, text := range []*string{&stdout, &stderr} {
		data, err := os.ReadFile(files[i].Name())
		if err != nil {
			t.Fatal(err)
		}
		*text = string(data)
	}
	return status, stdout, stderr
}

func TestArguments(t *testing.T) {
	for name, test := range map[string]struct {
		args    []string
		command []string
		status  int // of run, when there is no command
		says    string
	}{
		"dashes":         {args: []string{"--", "go", "test", "-race"}, command: []string{"go", "test", "-race"}},
		"no dashes":      {args: []string{"go", "test", "-race"}, command: []string{"go", "test", "-race"}},
		"nothing":        {status: statusUsage, says: "no command given"},
		"only dashes":    {args: []string{"--"}, status: statusUsage, says: "no command given"},
		"unknown flag":   {args: []string{"-brokers", "3", "--", "true"}, status: statusUsage, says: "-brokers"},
		"help":           {args: []string{"-h"}, says: "usage: testservers"},
		"guard and more": {args: []string{guardFlag, "x"}, status: statusUsage, says: guardFlag},
	} {
		t.Run(name, func(t *testing.T) {
			command, err := parse(test.args, &bytes.Buffer{})
			if diff := cmp.Diff(test.command, command); diff != "" {
				t.Errorf("command (-want +got):\n%s", diff)
			}
			if (err == nil) != (test.command != nil) {
				t.Errorf("error = %v", err)
			}
			if test.command != nil {
				return
			}
			status, _, stderr := runHere(t, test.args...)
			if status != test.status {
				t.Errorf("status = %d, want %d", status, test.status)
			}
			if !strings.Contains(stderr, test.says) {
				t.Errorf("%q does not say %q", stderr, test.says)
			}
		})
	}
}

func TestWhatTheEnvironmentNamesIsNotStarted(t *testing.T) {
	all := plan{kafka: true, redis: true, cluster: true, chromium: true}
	for name, test := range map[string]struct {
		set  []string
		want plan
	}{
		"nothing":  {nil, all},
		"brokers":  {[]string{envBrokers}, plan{redis: true, cluster: true, chromium: true}},
		"redis":    {[]string{envRedis}, plan{kafka: true, cluster: true, chromium: true}},
		"cluster":  {[]string{envCluster}, plan{kafka: true, redis: true, chromium: true}},
		"chromium": {[]string{envChromium}, plan{kafka: true, redis: true, cluster: true}},
	} {
		t.Run(name, func(t *testing.T) {
			getenv := func(key string) string {
				if slices.Contains(test.set, key) {
					return "set"
				}
				return ""
			}
			if got := planFor(getenv); got != test.want {
				t.Errorf("plan = %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestTheCommandGetsTheVariablesAndItsStatusIsReturned(t *testing.T) {
	setGiven(t)
	status, stdout, stderr := runHere(t, "--", "sh", "-c", "env; exit 7")
	if status != 7 {
		t.Errorf("status = %d, want 7", status)
	}
	for name, value := range given {
		if !strings.Contains(stdout, name+"="+value+"\n") {
			t.Errorf("%s is not in the command's environment", name)
		}
		if !strings.Contains(stderr, value) {
			t.Errorf("nothing says that %s is used", value)
		}
	}
	leftNothing(t)
}

func TestACommandThatCannotRunOrIsKilledSaysSoInItsStatus(t *testing.T) {
	setGiven(t)
	for name, test := range map[string]struct {
		command []string
		want    int
	}{
		"missing": {[]string{"no-such-program"}, statusNotFound},
		"killed":  {[]string{"sh", "-c", "kill -TERM $$"}, statusSignal + int(syscall.SIGTERM)},
	} {
		t.Run(name, func(t *testing.T) {
			if status, _, stderr := runHere(t, test.command...); status != test.want {
				t.Errorf("status = %d, want %d: %s", status, test.want, stderr)
			}
		})
	}
	leftNothing(t)
}

// leftNothing fails when a run left something in the folder for temporary files that setGiven made.
func leftNothing(t *testing.T) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestNothingSurvivesTheEndOfARunHoweverItEnds(t *testing.T) {
	// A command that leaves a child behind which ignores what can be ignored.
	const command = `(trap "" TERM INT HUP; exec sleep 600) & echo $!; `
	for name, test := range map[string]struct {
		then   string // what the command does next
		signal syscall.Signal
		status int // -1: none, it is killed itself
	}{
		"the command ends":         {then: "exit 3", status: 3},
		"interrupted":              {then: "wait", signal: syscall.SIGINT, status: statusSignal + int(syscall.SIGINT)},
		"terminated":               {then: "wait", signal: syscall.SIGTERM, status: statusSignal + int(syscall.SIGTERM)},
		"killed without a warning": {then: "wait", signal: syscall.SIGKILL, status: -1},
	} {
		t.Run(name, func(t *testing.T) {
			setGiven(t)
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(self, "--", "sh", "-c", command+test.then)
			cmd.Env = append(os.Environ(), "TESTSERVERS_TEST_AS_COMMAND=1")
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			line, err := bufio.NewReader(stdout).ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			child, err := strconv.Atoi(strings.TrimSpace(line))
			if err != nil {
				t.Fatal(err)
			}
			if test.signal != 0 {
				if err := cmd.Process.Signal(test.signal); err != nil {
					t.Fatal(err)
				}
			}
			if cmd.Wait(); cmd.ProcessState.ExitCode() != test.status {
				t.Errorf("status = %v, want %d", cmd.ProcessState, test.status)
			}
			if test.status >= 0 {
				// It waited for its guard.
				if running(t, child) {
					t.Errorf("process %d survives", child)
				}
				leftNothing(t)
				return
			}
			eventually(t, "the child is gone", func() bool { return !running(t, child) })
			eventually(t, "the folder is gone", func() bool {
				left, _ := filepath.Glob(filepath.Join(os.TempDir(), "*"))
				return len(left) == 0
			})
		})
	}
}

// running reports whether a process exists and is more than a dead entry that nobody has collected.
func running(t *testing.T, pid int) bool {
	t.Helper()
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return false
	}
	state, err := exec.Command("ps", "-o", "stat=", "-p", strconv.Itoa(pid)).Output()
	return err == nil && !strings.HasPrefix(string(state), "Z")
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); <-tick.C {
		if holds() {
			return
		}
	}
	t.Fatalf("not within 30 s: %s", what)
}

func TestARunEndsWithItsParent(t *testing.T) {
	setGiven(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The shell is the parent and dies at once without passing anything on.
	cmd := exec.Command("sh", "-c", `"$0" -- sh -c 'echo $$; exec sleep 600' & read -r _; kill -KILL $$`, self)
	cmd.Env = append(os.Environ(), "TESTSERVERS_TEST_AS_COMMAND=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	stdin.Close()
	cmd.Wait()
	eventually(t, "the command is gone", func() bool { return !running(t, child) })
}
