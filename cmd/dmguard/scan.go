package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"

	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/pipeline/state"
)

func scanCommand() *command {
	return &command{
		name:    "scan",
		args:    "[FILE...]",
		summary: "judge messages from files or standard input, one verdict a line",
		example: `printf '%s\n' '{"id":"m-1","conversation_id":"c-1","sent_at":"2026-03-01T16:00:00Z","sender":{"id":"u-1"},"text":"hello"}' | dmguard scan`,
		run:     runScan,
	}
}

// maxLine is the longest line that scan reads, in bytes.
const maxLine = 8 << 20

// maxHeld bounds the input that scan has read and not answered yet, in bytes.
const maxHeld = 128 << 20

func runScan(ctx context.Context, cl *commandLine) error {
	var opt rulesetOptions
	var keys keyFlags
	var logs logFlags
	opt.add(cl)
	opt.addDecode(cl, decodeAuto)
	keys.add(cl)
	logs.add(cl, "warn")
	canary := cl.String("canary", "", "file with the deployment's canary string; without it no canary is looked for")
	files := cl.String("files", "/", "folder below which file:// attachments may lie; empty for none")
	conversations := cl.Int("conversations", 100_000, "conversations whose state is kept in memory; the others' is kept in a temporary file")
	if err := cl.parse(0, -1); err != nil {
		return err
	}
	log, err := logs.logger(cl.err)
	if err != nil {
		return err
	}
	inputs, err := openInputs(cl.args(), cl.in)
	if err != nil {
		return err
	}
	defer inputs.close()
	keyset, err := keys.open(log)
	if err != nil {
		return err
	}
	if *files != "" {
		opt.fileRoots = append(opt.fileRoots, *files)
	}
	if *canary != "" {
		if opt.canary, err = readCanary(*canary); err != nil {
			return err
		}
	}
	rules, err := opt.load(ctx, log)
	if err != nil {
		return err
	}
	defer rules.close()
	sc := &scan{rules: rules, open: openerWith(keyset, true), conversations: *conversations, log: log}
	if !isTerminal(cl.out) { // verdicts and a bar would not share one
		sc.bar = newProgress(cl.err, "messages")
	}
	return sc.run(ctx, inputs, cl.out, cl.err)
}

// scan judges lines.
type scan struct {
	rules         *rules
	open          func(*pipeline.Record) (*pipeline.Message, error)
	conversations int // whose state is kept in memory
	log           *zap.Logger
	bar           *progress // nil for none
}

// run writes a verdict for each line, in their order, and a summary at the end.
func (sc *scan) run(ctx context.Context, in *inputs, verdicts, summary io.Writer) (err error) {
	memory := state.NewLocal(state.LocalOptions{CacheEntries: sc.conversations})
	defer func() { err = errors.Join(err, memory.Close()) }()
	out := newVerdictWriter(verdicts)
	if sc.bar != nil {
		out.bar = sc.bar
	}
	src := newLineSource(ctx, in, out)
	p, err := pipeline.New(pipeline.Config{
		Source: src,
		Open: func(r *pipeline.Record) (*pipeline.Message, error) {
			m, err := sc.open(r)
			if err != nil {
				return nil, pipeline.Permanent(fmt.Errorf("%s: %w", r.Header(lineHeader), err))
			}
			return m, nil
		},
		Ruleset:         sc.rules.ruleset,
		Memory:          memory,
		Sinks:           []pipeline.Sink{out},
		Log:             sc.log,
		DetectorTimeout: sc.rules.config.Worker.DetectorTimeout,
		PrepareTimeout:  sc.rules.config.Worker.PrepareTimeout,
		StuckAfter:      sc.rules.config.Worker.StuckAfter,
	})
	if err != nil {
		return err
	}
	started := time.Now()
	err = p.Run(ctx)
	out.bar.end()
	if err != nil {
		return err
	}
	if err := errors.Join(out.flushed(), src.failed()); err != nil {
		return err
	}
	out.summary(summary, time.Since(started))
	if ctx.Err() != nil {
		return errors.New("interrupted: the input was not read to its end")
	}
	if out.count.failed > 0 {
		return exitError(3)
	}
	return nil
}

// lineHeader carries where a line stands, for errors.
const lineHeader = "line"

// inputs are the files of a scan, one after another.
type inputs struct {
	names   []string
	readers []io.ReadCloser
}

// openInputs opens all files before any is read, so that a wrong name costs no
// half a run.
func openInputs(names []string, in io.Reader) (*inputs, error) {
	if len(names) == 0 {
		return &inputs{names: []string{""}, readers: []io.ReadCloser{io.NopCloser(in)}}, nil
	}
	all := &inputs{names: names}
	var errs []error
	for _, name := range names {
		if name == "-" {
			all.readers = append(all.readers, io.NopCloser(in))
			continue
		}
		f, err := os.Open(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		all.readers = append(all.readers, f)
	}
	if err := errors.Join(errs...); err != nil {
		all.close()
		return nil, err
	}
	return all, nil
}

func (in *inputs) close() {
	for _, r := range in.readers {
		r.Close()
	}
}

// lineSource delivers the lines of its inputs. It reads ahead of what was
// answered by no more than maxHeld bytes.
type lineSource struct {
	batches chan []*pipeline.Delivery
	held    *semaphore.Weighted

	mu  sync.Mutex
	err error
}

func newLineSource(ctx context.Context, in *inputs, out *verdictWriter) *lineSource {
	s := &lineSource{batches: make(chan []*pipeline.Delivery), held: semaphore.NewWeighted(maxHeld)}
	out.release = s.held.Release
	go s.read(ctx, in)
	return s
}

// Receive implements [pipeline.Source].
func (s *lineSource) Receive(ctx context.Context) ([]*pipeline.Delivery, error) {
	select {
	case b, ok := <-s.batches:
		if !ok {
			return nil, io.EOF
		}
		return b, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// failed returns the error that ended the reading before the end of input.
func (s *lineSource) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// read runs until the end of the input or of ctx; a read from a terminal that
// waits goes on until the process ends.
func (s *lineSource) read(ctx context.Context, in *inputs) {
	defer close(s.batches)
	var offset int64
	for i, r := range in.readers {
		br := bufio.NewReaderSize(r, 256<<10)
		if head, err := br.Peek(3); err == nil && bytes.Equal(head, []byte("\xef\xbb\xbf")) {
			_, _ = br.Discard(3)
		}
		var batch []*pipeline.Delivery
		for number := 1; ; number++ {
			line, tooLong, err := readLine(br)
			if len(bytes.TrimSpace(line)) > 0 || tooLong {
				where := fmt.Sprintf("line %d", number)
				if in.names[i] != "" && len(in.names) > 1 {
					where = fmt.Sprintf("%s, line %d", in.names[i], number)
				}
				d := newLine(line, offset, where, tooLong)
				offset++
				size := heldBytes(d)
				// What is in the batch must be on its way before this waits
				// for room that only its answers can make.
				if !s.held.TryAcquire(size) {
					if !s.send(ctx, batch) || s.held.Acquire(ctx, size) != nil {
						return
					}
					batch = nil
				}
				batch = append(batch, d)
			}
			if len(batch) > 0 && (err != nil || len(batch) == 256 || br.Buffered() == 0) {
				if !s.send(ctx, batch) {
					return
				}
				batch = nil
			}
			if err != nil {
				if !errors.Is(err, io.EOF) {
					s.mu.Lock()
					s.err = fmt.Errorf("reading %s after line %d: %w", in.names[i], number, err)
					s.mu.Unlock()
					return
				}
				break
			}
		}
	}
}

// send hands a batch on and reports whether there is still somebody to take it.
func (s *lineSource) send(ctx context.Context, batch []*pipeline.Delivery) bool {
	if len(batch) == 0 {
		return true
	}
	select {
	case s.batches <- batch:
		return true
	case <-ctx.Done():
		return false
	}
}

func newLine(line []byte, offset int64, where string, tooLong bool) *pipeline.Delivery {
	d := &pipeline.Delivery{
		Record: pipeline.Record{
			Position: pipeline.Position{Topic: "input", Offset: offset},
			Value:    line,
			Headers:  []pipeline.Header{{Key: lineHeader, Value: []byte(where)}},
		},
		Done: func() {}, // what counts is that the verdict was written
	}
	if tooLong {
		d.Err = fmt.Errorf("%s: longer than %d bytes", where, maxLine)
	}
	return d
}

// heldBytes is what a line costs while it waits for its answer.
func heldBytes(d *pipeline.Delivery) int64 { return int64(len(d.Value)) + 1024 }

// readLine returns the next line without its end. One that is longer than
// maxLine is read over and reported, with none of its bytes kept.
func readLine(br *bufio.Reader) (line []byte, tooLong bool, err error) {
	for {
		part, err := br.ReadSlice('\n')
		full := errors.Is(err, bufio.ErrBufferFull)
		if !tooLong {
			line = append(line, part...)
		}
		if n := len(bytes.TrimRight(line, "\r\n")); n > maxLine {
			line, tooLong = nil, true
		}
		if full {
			continue
		}
		return bytes.TrimRight(line, "\r\n"), tooLong, err
	}
}

// verdictWriter is the sink of a scan: it writes verdicts in the order of their
// lines and lets the source read on.
type verdictWriter struct {
	release func(int64)
	bar     *progress

	mu      sync.Mutex
	w       *bufio.Writer
	next    int64
	waiting map[int64]waiting
	err     error
	count   struct{ lines, review, block, partial, failed, skipped int }
}

type waiting struct {
	verdict []byte
	held    int64
}

func newVerdictWriter(w io.Writer) *verdictWriter {
	return &verdictWriter{w: bufio.NewWriterSize(w, 256<<10), waiting: map[int64]waiting{}, bar: newProgress(nil, "")}
}

// Accept implements [pipeline.Sink].
func (w *verdictWriter) Accept(_ context.Context, batch []*pipeline.Outcome) error {
	encoded := make([][]byte, len(batch))
	for i, o := range batch {
		b, err := json.Marshal(o.Verdict, json.Deterministic(true))
		if err != nil {
			return pipeline.Permanent(fmt.Errorf("encoding a verdict: %w", err))
		}
		encoded[i] = append(b, '\n')
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, o := range batch {
		w.waiting[o.Delivery.Offset] = waiting{encoded[i], heldBytes(o.Delivery)}
		w.tally(o.Verdict)
	}
	for {
		v, ok := w.waiting[w.next]
		if !ok {
			break
		}
		delete(w.waiting, w.next)
		w.next++
		if _, err := w.w.Write(v.verdict); err != nil {
			w.err = fmt.Errorf("writing verdicts: %w", err)
		}
		w.release(v.held)
	}
	w.bar.set(w.next, 0)
	if err := w.w.Flush(); err != nil && w.err == nil {
		w.err = fmt.Errorf("writing verdicts: %w", err)
	}
	return pipeline.Permanent(w.err)
}

func (w *verdictWriter) tally(v *pipeline.Verdict) {
	c := &w.count
	c.lines++
	switch v.Action {
	case pipeline.Review:
		c.review++
	case pipeline.Block:
		c.block++
	case pipeline.Allow:
	}
	switch v.Status {
	case pipeline.Partial:
		c.partial++
	case pipeline.Failed:
		c.failed++
	case pipeline.Skipped:
		c.skipped++
	case pipeline.Scanned:
	}
}

func (w *verdictWriter) flushed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return errors.Join(w.err, w.w.Flush())
}

func (w *verdictWriter) summary(to io.Writer, took time.Duration) {
	c := w.count
	fmt.Fprintf(to, "%d messages in %s: %d to review, %d blocked, %d looked at in part, %d skipped, %d failed\n",
		c.lines, took.Round(time.Millisecond), c.review, c.block, c.partial, c.skipped, c.failed)
}
