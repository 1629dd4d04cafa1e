package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/klauspost/compress/zstd"

	"github.com/dmguard/dmguard/detectors/grooming"
	"github.com/dmguard/dmguard/pipeline"
)

func benchTextCommand() *command {
	return &command{
		name:    "text",
		summary: "measure what a text costs: folding, scanning, judging, the worst that anybody can send, beside what is asked of it",
		example: "dmguard bench text --messages 200000",
		run:     runBenchText,
	}
}

// What is asked of the text path, on one core.
const (
	barFold      = 0.6    // µs
	barScan      = 0.5    // µs
	barJudge     = 10     // µs
	barPerSecond = 80_000 // messages
	barWorst     = 5      // ms
	barState     = 512    // bytes
)

func runBenchText(ctx context.Context, cl *commandLine) error {
	var rules rulesetOptions
	cl.env(&rules.config, "config", "DMGUARD_CONFIG", "", "configuration `file`")
	messages := cl.Int("messages", 200_000, "how many messages of everyday chat")
	benign := cl.String("benign", "", "messages of your own, instead of made-up ones: NDJSON, `file` or file.zst")
	rounds := cl.Int("rounds", 5, "how often everything is measured; the median counts")
	asJSON := cl.Bool("json", false, "print JSON")
	if err := cl.parse(0, 0); err != nil {
		return err
	}
	if *messages < 1 || *rounds < 1 {
		return errors.New("--messages and --rounds are at least 1")
	}
	log, err := (&logFlags{level: "warn"}).logger(cl.err)
	if err != nil {
		return err
	}
	loaded, err := rules.load(ctx, log)
	if err != nil {
		return err
	}
	defer loaded.close()
	b := &textBench{rounds: *rounds, bar: func(unit string) *progress { return newProgress(cl.err, unit) }}
	for _, d := range loaded.ruleset.Detectors {
		if g, ok := d.(*grooming.Detector); ok {
			b.detector = g
		}
	}
	if b.detector == nil {
		return errors.New("the configuration turns the detector of grooming off")
	}
	r := &textResult{Go: runtime.Version(), Processors: runtime.GOMAXPROCS(0), Source: "made-up chat"}
	if *benign != "" {
		r.Source = *benign
		err = b.read(*benign, *messages)
	} else {
		err = b.makeUp(*messages)
	}
	if err != nil {
		return err
	}
	if err := b.run(ctx, r); err != nil {
		return err
	}
	if *asJSON {
		return json.MarshalWrite(cl.out, r, jsontext.WithIndent("  "))
	}
	return r.print(cl.out)
}

// textResult is what was measured. Times are of the processor, on one thread.
type textResult struct {
	Go           string       `json:"go"`
	Processors   int          `json:"processors"`
	Source       string       `json:"source"`
	Messages     int          `json:"messages"`
	MessageBytes float64      `json:"message_bytes"` // of their texts, mean
	Figures      []textFigure `json:"figures"`
}

type textFigure struct {
	Name    string  `json:"name"`
	Value   float64 `json:"value"`
	Unit    string  `json:"unit"`
	Bar     float64 `json:"bar,omitzero"`      // the most that is asked for
	AtLeast bool    `json:"at_least,omitzero"` // the bar is the least
	Met     *bool   `json:"met,omitzero"`
}

func (r *textResult) add(f textFigure) {
	if f.Bar > 0 {
		met := f.Value <= f.Bar
		if f.AtLeast {
			met = f.Value >= f.Bar
		}
		f.Met = &met
	}
	r.Figures = append(r.Figures, f)
}

func (r *textResult) print(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "MEASURED\tFIGURE\t\tBAR\t\t")
	for _, f := range r.Figures {
		bar, met := "", ""
		if f.Met != nil {
			bar = map[bool]string{true: "≥ ", false: "≤ "}[f.AtLeast] + strconv.FormatFloat(f.Bar, 'f', -1, 64)
			met = map[bool]string{true: "met", false: "MISSED"}[*f.Met]
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t\n", f.Name, shortFloat(f.Value), f.Unit, bar, met)
	}
	fmt.Fprintf(tw, "%d messages of %.0f bytes (%s), %s, %d processors\t\t\t\t\t\n", r.Messages, r.MessageBytes, r.Source, r.Go, r.Processors)
	return tw.Flush()
}

// shortFloat writes large numbers in full and small ones with four digits.
func shortFloat(x float64) string {
	if x >= 1e4 {
		return strconv.FormatFloat(x, 'f', 0, 64)
	}
	return strconv.FormatFloat(x, 'g', 4, 64)
}

// textBench measures one detector on one thread.
type textBench struct {
	detector *grooming.Detector
	messages []*pipeline.Message
	rounds   int
	bar      func(unit string) *progress
}

func (b *textBench) makeUp(n int) error {
	gen := newChatter(benchOptions{messages: n, conversations: max(1, n/8), cues: 0.02})
	for i := range n {
		m, err := pipeline.ParseMessage(gen.message(i))
		if err != nil {
			return err
		}
		b.messages = append(b.messages, m)
	}
	return nil
}

// read takes at most n messages from a file.
func (b *textBench) read(name string, n int) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	var in io.Reader = f
	if strings.HasSuffix(name, ".zst") {
		z, err := zstd.NewReader(f, zstd.WithDecoderMaxMemory(256<<20))
		if err != nil {
			return fmt.Errorf("reading %s: %w", name, err)
		}
		defer z.Close()
		in = z
	}
	lines := bufio.NewReaderSize(in, 256<<10)
	for number := 1; len(b.messages) < n; number++ {
		line, tooLong, err := readLine(lines)
		if tooLong {
			return fmt.Errorf("%s, line %d: longer than %d bytes", name, number, maxLine)
		}
		if len(line) > 0 {
			m, err := pipeline.ParseMessage(line)
			if err != nil {
				return fmt.Errorf("%s, line %d: %w", name, number, err)
			}
			b.messages = append(b.messages, m)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", name, err)
		}
	}
	if len(b.messages) == 0 {
		return fmt.Errorf("%s holds no messages", name)
	}
	return nil
}

func (b *textBench) run(ctx context.Context, r *textResult) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	texts := make([]string, len(b.messages))
	bytes := 0
	for i, m := range b.messages {
		texts[i] = m.Text.Reveal()
		bytes += len(texts[i])
	}
	r.Messages, r.MessageBytes = len(texts), float64(bytes)/float64(len(texts))

	bar := b.bar("messages")
	defer bar.end()
	done := 0
	tick := func() error {
		done += len(texts)
		bar.set(int64(done), int64(3*b.rounds*len(texts)))
		return ctx.Err()
	}
	probe := b.detector.Probe()
	var folds, scans, judges []float64
	var state, stored, allocs float64
	cued := 0
	for range b.rounds {
		cpu := threadTime()
		for _, t := range texts {
			probe.Fold(t)
		}
		folds = append(folds, micros(threadTime()-cpu, len(texts)))
		if err := tick(); err != nil {
			return err
		}
		cpu, cued = threadTime(), 0
		for _, t := range texts {
			cued += min(1, probe.Scan(t))
		}
		scans = append(scans, micros(threadTime()-cpu, len(texts)))
		if err := tick(); err != nil {
			return err
		}
		took, round, err := b.judge(ctx)
		if err != nil {
			return err
		}
		judges = append(judges, micros(took, len(texts)))
		state, stored, allocs = float64(round.state), float64(round.kept), float64(round.allocs)/float64(len(texts))
		if err := tick(); err != nil {
			return err
		}
	}
	fold, scan, judge := median(folds), median(scans), median(judges)
	r.add(textFigure{Name: "fold", Value: fold, Unit: "µs a message", Bar: barFold})
	r.add(textFigure{Name: "scan", Value: max(0, scan-fold), Unit: "µs a message", Bar: barScan})
	r.add(textFigure{Name: "judge: fold, scan, state and all else of the detector", Value: judge, Unit: "µs a message", Bar: barJudge})
	r.add(textFigure{Name: "messages on one core", Value: 1e6 / judge, Unit: "a second", Bar: barPerSecond, AtLeast: true})
	r.add(textFigure{Name: "allocations", Value: allocs, Unit: "a message"})
	r.add(textFigure{Name: "messages with a cue", Value: 100 * float64(cued) / float64(len(texts)), Unit: "%"})
	r.add(textFigure{Name: "conversations with a state", Value: stored, Unit: ""})
	r.add(textFigure{Name: "largest state of the chat", Value: state, Unit: "bytes", Bar: barState})
	largest, err := b.largestState(ctx)
	if err != nil {
		return err
	}
	r.add(textFigure{Name: "largest state that four senders could make, ids of 36 bytes", Value: float64(largest), Unit: "bytes", Bar: barState})
	return b.worst(ctx, r)
}

func micros(d time.Duration, n int) float64 { return d.Seconds() * 1e6 / float64(n) }

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// textRound is what one round of judging left.
type textRound struct {
	state  int // bytes of the largest state
	kept   int // conversations with a state
	allocs uint64
}

// judge judges every message, with the state of its conversation.
func (b *textBench) judge(ctx context.Context) (took time.Duration, r textRound, err error) {
	states := make(map[string][]byte, len(b.messages)/8)
	it := &pipeline.Item{}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	cpu := threadTime()
	for i, m := range b.messages {
		it.Message, it.Position.Offset = m, int64(i)
		it.SetState(grooming.Name, states[m.ConversationID])
		a, err := b.detector.Detect(ctx, it)
		if err != nil {
			return 0, r, err
		}
		if a.State != nil {
			states[m.ConversationID] = a.State
			r.state = max(r.state, len(a.State))
		}
	}
	took = threadTime() - cpu
	runtime.ReadMemStats(&after)
	r.kept, r.allocs = len(states), after.Mallocs-before.Mallocs
	return took, r, nil
}

// largestState has four senders say everything, far apart in the log and at the
// end of long texts, and returns the bytes of the largest state that this made.
func (b *textBench) largestState(ctx context.Context) (largest int, err error) {
	var state []byte
	rng := mathrand.New(mathrand.NewPCG(1, 2)) //nolint:gosec // the same messages every time
	offset := int64(1) << 40
	padding := strings.Repeat("🙂", pipeline.MaxTextLength-400) + " "
	for i := range 400 {
		var text strings.Builder
		text.WriteString(padding)
		for range 5 {
			text.WriteString(benchEverything[rng.IntN(len(benchEverything))] + ". ")
		}
		it := &pipeline.Item{Message: &pipeline.Message{
			ID: fmt.Sprintf("%036d", i), ConversationID: "c", SentAt: time.Unix(1770000000+int64(i), 0), Text: pipeline.NewText(text.String()),
			Sender: pipeline.Party{ID: fmt.Sprint("u-", i%4)},
		}}
		for range pipeline.RecentMessages {
			offset += 1 << 30
			it.Recent = append(it.Recent, offset)
		}
		offset += 1 << 30
		it.Position = pipeline.Position{Partition: 1 << 30, Offset: offset}
		it.SetState(grooming.Name, state)
		a, err := b.detector.Detect(ctx, it)
		if err != nil {
			return 0, err
		}
		if a.State != nil {
			state = a.State
			largest = max(largest, len(state))
		}
	}
	return largest, nil
}

// benchEverything has a mild sign of each kind.
var benchEverything = []string{
	"how old are you", "where do you live", "are you home alone right now", "dont tell your parents", "nobody understands you like i do",
	"you are so mature for your age", "add me on telegram", "i can buy you a gift card", "send me a selfie", "i can pick you up after school",
	"if you really liked me", "im 13", "im 12",
}

// benchWorst are units of texts that cost as much as a text can.
var benchWorst = []struct{ name, unit string }{
	{"words", "the quick brown fox "},
	{"capitals", "THE QUICK BROWN FOX "},
	{"emoji", "🙂"},
	{"joined emoji", "👩\u200d👩\u200d👧"},
	{"combining marks", "\u0301"},
	{"marks on capitals", "Z\u0322\u0338\u0301A\u0337L\u0335\u0301G\u0334O\u0336 "},
	{"ligatures of 18 letters", "\ufdfa"},
	{"squared words", "㍿㌖"},
	{"right to left", "שלום "},
	{"Hangul", "각"},
	{"Hangul jamo", "\u1112\u1161\u11ab"},
	{"mathematical letters", "𝐝"},
	{"one letter", "a"},
	{"stretched words", "so" + strings.Repeat("o", 200) + " "},
	{"letter by letter", "d o n t "},
	{"stand-ins", "d0nt t3ll y0ur "},
	{"halves of phrases", "dont tell your "},
	{"cues", "dont tell your mom "},
	{"places to go on", "add me on snap 1 2 3 "},
	{"digits", "1 "},
	{"handles", "@a "},
	{"links", "http://a.bc/ "},
	{"stated ages", "im 13 "},
}

// worst measures the longest text of each kind.
func (b *textBench) worst(ctx context.Context, r *textResult) error {
	for _, w := range benchWorst {
		text := strings.Repeat(w.unit, pipeline.MaxTextLength/utf8.RuneCountInString(w.unit))
		it := &pipeline.Item{Message: &pipeline.Message{
			ID: "m", ConversationID: "c", SentAt: time.Unix(1770000000, 0), Text: pipeline.NewText(text), Sender: pipeline.Party{ID: "u"},
		}}
		var took []float64
		for range 2*b.rounds + 1 {
			cpu := threadTime()
			if _, err := b.detector.Detect(ctx, it); err != nil {
				return err
			}
			took = append(took, (threadTime()-cpu).Seconds()*1e3)
		}
		r.add(textFigure{Name: fmt.Sprintf("%d characters of %s", pipeline.MaxTextLength, w.name), Value: median(took), Unit: "ms", Bar: barWorst})
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}
