// Command testservers runs another command with real servers beside it: one Apache Kafka (KRaft, one node), one Redis, one
// Redis Cluster of two masters, all on free loopback ports, all with data in a fresh temporary folder. It exports
//
//	DMGUARD_TEST_BROKERS=host:port               Kafka
//	DMGUARD_TEST_REDIS=host:port                 Redis
//	DMGUARD_TEST_REDIS_CLUSTER=host:port,host:port
//	DMGUARD_TEST_CHROMIUM=path                   a Chromium for the console's tests
//
// into the command's environment and returns its exit status. A variable that is set already is left as it is, and that
// server is not started. When the command ends, or a signal arrives, or the parent process dies, or testservers itself is
// killed, every process started here is killed with all that it started in its process group, and the folder is removed.
//
// The tests also need an ffmpeg, in PATH. What is missing on the machine is installed from Debian's packages when that is
// allowed (root, or CI=true); otherwise the commands to type are printed and nothing runs. Kafka's jars come from Maven
// Central, once, into the user's cache folder.
//
// It is not a way to run dmguard: nothing here survives, is secured or is tuned. It does not look at what Debian's packages
// may have started on their default ports.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9/logging"
	"golang.org/x/sync/errgroup"
)

// The variables that tests read.
const (
	envBrokers  = "DMGUARD_TEST_BROKERS"
	envRedis    = "DMGUARD_TEST_REDIS"
	envCluster  = "DMGUARD_TEST_REDIS_CLUSTER"
	envChromium = "DMGUARD_TEST_CHROMIUM"
)

// Exit statuses of our own, as a shell gives them.
const (
	statusFailed   = 1
	statusUsage    = 2
	statusNotFound = 127
	statusSignal   = 128 // plus the signal's number
)

// grace is how long the command may take to end after a signal.
const grace = 10 * time.Second

const usage = `usage: testservers -- COMMAND [ARGUMENT...]

Starts a real Apache Kafka ` + kafkaVersion + `, a real Redis and a real Redis Cluster on free loopback ports, runs COMMAND with
` + envBrokers + `, ` + envRedis + `, ` + envCluster + ` and ` + envChromium + `
set, stops the servers, and returns COMMAND's exit status. Variables that are set already are used as they are.
COMMAND's standard input is empty.

Example:
  go run ./cmd/testservers -- go test ./...
`

func main() {
	if len(os.Args) == 2 && os.Args[1] == guardFlag {
		os.Exit(keepGuard(os.Stdin, os.Stderr))
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// stopped is why a run ends before its command did.
type stopped struct {
	signal syscall.Signal
	reason string
}

func (s stopped) Error() string { return s.reason }

// run is main without the exit. Its outputs are files because the command and the guard write to them too.
func run(args []string, stdout, stderr *os.File) int {
	command, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "testservers: %v\n\n%s", err, usage)
		return statusUsage
	}

	logging.Disable() // go-redis would report every try to reach a server that is still starting
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	go watch(ctx, signals, cancel)

	status, err := runWithServers(ctx, command, stdout, stderr)
	if why, ok := errors.AsType[stopped](context.Cause(ctx)); ok {
		fmt.Fprintf(stderr, "testservers: %v; everything that was started is gone\n", why)
		return statusSignal + int(why.signal)
	}
	if err != nil {
		fmt.Fprintf(stderr, "testservers: %v\n", err)
		return cmp.Or(status, statusFailed)
	}
	return status
}

// parse returns the command to run.
func parse(args []string, stderr io.Writer) ([]string, error) {
	flags := flag.NewFlagSet("testservers", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprint(stderr, usage)
		}
		return nil, err
	}
	if flags.NArg() == 0 {
		return nil, errors.New("no command given")
	}
	return flags.Args(), nil
}

// watch cancels with the reason when a signal arrives or the parent dies. The parent's death is seen by being given another
// parent, since `go run` and make can be killed without passing anything on.
func watch(ctx context.Context, signals <-chan os.Signal, cancel context.CancelCauseFunc) {
	parent := os.Getppid()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case s := <-signals:
			number, _ := s.(syscall.Signal)
			cancel(stopped{signal: number, reason: "stopped by signal: " + s.String()})
			return
		case <-tick.C:
			if os.Getppid() != parent {
				cancel(stopped{signal: syscall.SIGHUP, reason: "stopped: the parent process is gone"})
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// runWithServers starts what plan asks for, runs command and takes everything down again. The status counts where the error
// is nil, and beside an error where it is not 0.
func runWithServers(ctx context.Context, command []string, stdout, stderr *os.File) (status int, err error) {
	p := planFor(os.Getenv)
	t, err := findTools(ctx, p, command, stderr)
	if err != nil {
		return statusFailed, err
	}
	dir, err := os.MkdirTemp("", "dmguard-testservers-")
	if err != nil {
		return statusFailed, fmt.Errorf("making the data folder: %w", err)
	}
	g, err := startGuard(ctx, dir, stderr)
	if err != nil {
		return statusFailed, errors.Join(err, os.RemoveAll(dir))
	}
	defer func() {
		if stopErr := g.stop(); stopErr != nil {
			err = errors.Join(err, stopErr)
		}
	}()

	env, servers, err := startServers(ctx, g, p, t, stderr)
	if err != nil {
		return statusFailed, err
	}
	status, err = runCommand(ctx, g, command, append(os.Environ(), env...), stdout, stderr)
	if err != nil || ctx.Err() != nil {
		return status, err
	}
	for _, s := range servers {
		if s.ended() {
			err = errors.Join(err, s.failure("ended while the command ran"))
		}
	}
	return status, err
}

// startServers starts all servers of the plan at once and returns what to add to the environment.
func startServers(ctx context.Context, g *guard, p plan, t tools, stderr *os.File) (env []string, servers []*process, err error) {
	var kafka, redis, cluster started
	begun := time.Now()
	group, groupCtx := errgroup.WithContext(ctx)
	if p.kafka {
		group.Go(func() (err error) { kafka, err = startKafka(groupCtx, g, t, stderr); return err })
	}
	if p.redis {
		group.Go(func() (err error) { redis, err = startRedis(groupCtx, g, t.redis); return err })
	}
	if p.cluster {
		group.Go(func() (err error) { cluster, err = startCluster(groupCtx, g, t.redis); return err })
	}
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	for _, one := range []struct {
		name, variable, given string
		started
	}{
		{"Kafka " + kafkaVersion, envBrokers, os.Getenv(envBrokers), kafka},
		{"Redis", envRedis, os.Getenv(envRedis), redis},
		{"Redis Cluster", envCluster, os.Getenv(envCluster), cluster},
	} {
		if one.given != "" {
			fmt.Fprintf(stderr, "testservers: %s: the one that %s names is used: %s\n", one.name, one.variable, one.given)
			continue
		}
		address := strings.Join(one.addresses, ",")
		fmt.Fprintf(stderr, "testservers: %s started at %s\n", one.name, address)
		env = append(env, one.variable+"="+address)
		servers = append(servers, one.processes...)
	}
	fmt.Fprintf(stderr, "testservers: Chromium: %s\n", t.chromium)
	env = append(env, envChromium+"="+t.chromium)
	fmt.Fprintf(stderr, "testservers: ready after %.1fs\n", time.Since(begun).Seconds())
	return env, servers, nil
}

// started is a server, or a set of them, that answers.
type started struct {
	addresses []string
	processes []*process
}

// runCommand runs command to its end, or until ctx ends: then the command's whole process group is sent the signal, and what
// is left after the grace is left to the guard.
func runCommand(ctx context.Context, g *guard, command, env []string, stdout, stderr *os.File) (int, error) {
	cmd := exec.CommandContext(context.WithoutCancel(ctx), command[0], command[1:]...) //nolint:gosec // running the given command is the purpose
	cmd.Env, cmd.Stdout, cmd.Stderr = env, stdout, stderr
	p, err := g.start(cmd, command[0], "")
	if err != nil {
		return statusNotFound, err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		number := syscall.SIGTERM
		if why, ok := errors.AsType[stopped](context.Cause(ctx)); ok {
			number = why.signal
		}
		if err := syscall.Kill(-p.pid, number); err != nil && !errors.Is(err, syscall.ESRCH) {
			return statusFailed, fmt.Errorf("stopping %s: %w", command[0], err)
		}
		select {
		case <-p.done:
		case <-time.After(grace):
			fmt.Fprintf(stderr, "testservers: %s did not end within %s and is killed\n", command[0], grace)
		}
		return statusFailed, nil
	}
	var exit *exec.ExitError
	switch {
	case p.err == nil:
		return 0, nil
	case errors.As(p.err, &exit):
		return exitStatus(exit.ProcessState), nil
	default:
		return statusFailed, fmt.Errorf("running %s: %w", command[0], p.err)
	}
}

// exitStatus is the status a shell would report for s.
func exitStatus(s *os.ProcessState) int {
	if w, ok := s.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return statusSignal + int(w.Signal())
	}
	return s.ExitCode()
}
