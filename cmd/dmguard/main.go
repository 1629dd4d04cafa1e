// Command dmguard scans the direct messages of a platform that holds the keys
// and queues what a person must decide. One binary, a subcommand for each job:
// see "dmguard help".
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/dmguard/dmguard/detectors/hashmatch"
	"github.com/dmguard/dmguard/pipeline/media"
)

func main() {
	if media.ServeSandbox(hashmatch.NewLook()) {
		return // this was a process that decodes pictures
	}
	// The first signal drains; a second one ends the process as usual.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr}))
}

// streams are where a command reads and writes, so that tests can be there.
type streams struct {
	in  io.Reader
	out io.Writer
	err io.Writer
}

// command is one subcommand, or a group of them.
type command struct {
	name    string
	args    string // after the flags, for the usage line
	summary string // one line
	example string // a command line that works, run by a test where it can be
	run     func(ctx context.Context, cl *commandLine) error
	group   []*command
}

// commands is the table of everything that dmguard does.
func commands() []*command {
	return []*command{
		upCommand(), sendCommand(), scanCommand(), workerCommand(), queueCommand(), topicsCommand(),
		keysCommand(), sealCommand(), deadLettersCommand(), canaryCommand(), configCommand(), hashCommand(), listsCommand(), benchCommand(),
	}
}

// exitError carries an exit status other than 1. Its text was printed already.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// errUsage is returned for a command line that cannot be understood, after it
// was explained: exit status 2.
const errUsage = exitError(2)

func run(ctx context.Context, args []string, std streams) int {
	err := dispatch(ctx, "dmguard", commands(), args, std)
	var code exitError
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.As(err, &code):
		return int(code)
	default:
		fmt.Fprintln(std.err, "dmguard:", err)
		return 1
	}
}

func dispatch(ctx context.Context, path string, table []*command, args []string, std streams) error {
	if len(args) == 0 {
		printTable(std.err, path, table)
		return errUsage
	}
	if slices.Contains([]string{"help", "-h", "-help", "--help"}, args[0]) {
		printTable(std.out, path, table)
		return nil
	}
	i := slices.IndexFunc(table, func(c *command) bool { return c.name == args[0] })
	if i < 0 {
		fmt.Fprintf(std.err, "%s: there is no command %q\n", path, args[0])
		printTable(std.err, path, table)
		return errUsage
	}
	c := table[i]
	if c.group != nil && (c.run == nil || len(args) > 1 && slices.ContainsFunc(c.group, func(g *command) bool { return g.name == args[1] })) {
		return dispatch(ctx, path+" "+c.name, c.group, args[1:], std)
	}
	cl := newCommandLine(path+" "+c.name, c, args[1:], std)
	return c.run(ctx, cl)
}

func printTable(w io.Writer, path string, table []*command) {
	fmt.Fprintf(w, "Usage: %s COMMAND [FLAGS] [ARGS]\n\n", path)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, c := range table {
		fmt.Fprintf(tw, "  %s\t%s\n", c.name, c.summary)
	}
	_ = tw.Flush() // to a terminal or buffer
	fmt.Fprintf(w, "\n%s COMMAND -h explains one.\n", path)
}

// commandLine is what a subcommand was called with.
type commandLine struct {
	streams
	*flag.FlagSet
	raw []string
	cmd *command
}

func newCommandLine(path string, c *command, args []string, std streams) *commandLine {
	cl := &commandLine{streams: std, FlagSet: flag.NewFlagSet(path, flag.ContinueOnError), raw: args, cmd: c}
	cl.SetOutput(std.err)
	if len(args) > 0 && slices.Contains([]string{"-h", "-help", "--help"}, args[0]) {
		cl.SetOutput(std.out) // asked for, so no error
	}
	cl.Usage = func() {
		w := cl.Output()
		fmt.Fprintf(w, "%s: %s\n\nUsage: %s [FLAGS] %s\n", path, c.summary, path, c.args)
		some := false
		cl.VisitAll(func(*flag.Flag) { some = true })
		if some {
			fmt.Fprintln(w, "\nFlags:")
			cl.PrintDefaults()
		}
		if c.group != nil {
			fmt.Fprintf(w, "\n")
			printTable(w, path, c.group)
		}
		if c.example != "" {
			fmt.Fprintf(w, "\nExample:\n  %s\n", c.example)
		}
	}
	return cl
}

// parse reads the flags, which may also stand behind the arguments, and checks
// the number of arguments; most < 0 means any.
func (cl *commandLine) parse(least, most int) error {
	var rest []string
	args := cl.raw
	for {
		if err := cl.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return err
			}
			return errUsage // explained by the flag package
		}
		if cl.NArg() == 0 {
			break
		}
		if stopped := len(args) - cl.NArg() - 1; stopped >= 0 && args[stopped] == "--" {
			rest = append(rest, cl.Args()...)
			break
		}
		rest = append(rest, cl.Arg(0))
		args = cl.Args()[1:]
	}
	cl.raw = rest
	if len(rest) < least || (most >= 0 && len(rest) > most) {
		fmt.Fprintf(cl.err, "%s takes %s, not %d arguments\n", cl.Name(), cmp.Or(cl.cmd.args, "none"), len(rest))
		cl.Usage()
		return errUsage
	}
	return nil
}

// args returns the arguments behind the flags, once they are parsed.
func (cl *commandLine) args() []string { return cl.raw }

// env adds a flag that an environment variable may set as well.
func (cl *commandLine) env(p *string, name, variable, value, usage string) {
	if v, ok := os.LookupEnv(variable); ok {
		value = v
	}
	cl.StringVar(p, name, value, usage+" (environment: "+variable+")")
}

// logFlags are the flags of every command that logs.
type logFlags struct {
	level string
	json  bool
}

func (l *logFlags) add(cl *commandLine, level string) {
	cl.StringVar(&l.level, "log-level", level, "debug, info, warn or error; debug writes a line for each message, without content")
	cl.BoolVar(&l.json, "log-json", false, "write the log as JSON")
}

func (l *logFlags) logger(w io.Writer) (*zap.Logger, error) {
	level, err := zapcore.ParseLevel(l.level)
	if err != nil {
		return nil, fmt.Errorf("flag -log-level: %w", err)
	}
	cfg := zap.NewProductionEncoderConfig()
	cfg.EncodeTime = zapcore.ISO8601TimeEncoder
	cfg.EncodeDuration = zapcore.StringDurationEncoder
	enc := zapcore.NewConsoleEncoder(cfg)
	if l.json {
		enc = zapcore.NewJSONEncoder(cfg)
	}
	return zap.New(zapcore.NewCore(enc, zapcore.Lock(zapcore.AddSync(w)), level)), nil
}

// splitList reads a comma-separated list.
func splitList(s string) []string {
	var out []string
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

func joinList(parts []string) string { return strings.Join(parts, ",") }
