package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/pipeline/envelope"
	"github.com/dmguard/dmguard/pipeline/kafka"
	"github.com/dmguard/dmguard/reviewqueue/evidence"
)

func benchCommand() *command {
	return &command{
		name:    "bench",
		summary: "measure: sealed text messages in a topic, verdicts out, end to end",
		example: "dmguard bench --brokers 127.0.0.1:9092 --redis 127.0.0.1:6379",
		run:     runBench,
		group:   []*command{benchIndexCommand(), benchHashCommand(), benchTextCommand()},
	}
}

// benchOptions say how much is measured.
type benchOptions struct {
	messages      int
	conversations int
	partitions    int
	cues          float64
}

func runBench(ctx context.Context, cl *commandLine) error {
	var kf kafkaFlags
	var rf redisFlags
	var rules rulesetOptions
	var opt benchOptions
	kf.add(cl)
	rf.add(cl)
	rules.add(cl)
	cl.IntVar(&opt.messages, "messages", 400_000, "how many messages")
	cl.IntVar(&opt.conversations, "conversations", 50_000, "how many conversations they belong to")
	cl.IntVar(&opt.partitions, "partitions", 8, "partitions of the topics")
	cl.Float64Var(&opt.cues, "cues", 0.02, "share of messages with a mild sign of risk")
	asJSON := cl.Bool("json", false, "print JSON")
	if err := cl.parse(0, 0); err != nil {
		return err
	}
	if opt.messages < 1 || opt.conversations < 1 || opt.partitions < 1 {
		return errors.New("--messages, --conversations and --partitions are at least 1")
	}
	log, err := (&logFlags{level: "warn"}).logger(cl.err)
	if err != nil {
		return err
	}
	conn, err := kf.connection("dmguard-bench")
	if err != nil {
		return err
	}
	rdb, err := rf.client(ctx, log)
	if err != nil {
		return err
	}
	defer rdb.Close()
	loaded, err := rules.load(ctx, log)
	if err != nil {
		return err
	}
	b := &bench{opt: opt, conn: conn, redis: rdb, rules: loaded, log: log, bar: func(unit string) *progress { return newProgress(cl.err, unit) }}
	result, err := b.run(ctx)
	if err != nil {
		return err
	}
	if *asJSON {
		return json.MarshalWrite(cl.out, result, jsontext.WithIndent("  "))
	}
	return result.print(cl.out)
}

// bench measures one run of a worker.
type bench struct {
	opt   benchOptions
	conn  kafka.Connection
	redis redis.UniversalClient
	rules *rules
	log   *zap.Logger
	bar   func(unit string) *progress
}

// benchResult is what a run took. Times a message are wall times of all lanes
// together unless they say CPU.
type benchResult struct {
	Messages      int          `json:"messages"`
	Conversations int          `json:"conversations"`
	Partitions    int          `json:"partitions"`
	Processors    int          `json:"processors"`
	MessageBytes  float64      `json:"message_bytes"` // sealed, mean
	Seconds       float64      `json:"seconds"`       // from joining the group to the last commit
	PerSecond     float64      `json:"messages_per_second"`
	CPUMicros     float64      `json:"cpu_microseconds_per_message"` // of our process, user and system
	CPUShare      float64      `json:"cpu_share"`                    // of all processors, ours
	Verdicts      int          `json:"verdicts"`                     // read back from the log
	Hits          int          `json:"hits"`
	PeakRSS       int64        `json:"peak_rss_bytes"`
	Stages        []benchStage `json:"stages"`
}

type benchStage struct {
	Name   string  `json:"name"`
	Micros float64 `json:"microseconds_per_message"` // of lanes, waiting included
}

func (b *bench) run(ctx context.Context) (_ *benchResult, err error) {
	prefix := "dmguard-bench-" + strings.ToLower(rand.Text()[:8]) + "."
	topics, err := kafka.NewTopics(b.conn, kafka.TopicsConfig{Prefix: prefix, Partitions: b.opt.partitions, Replication: 1})
	if err != nil {
		return nil, err
	}
	defer topics.Close()
	if _, err := topics.Create(ctx); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, topics.Delete(context.WithoutCancel(ctx))) }()
	dir, err := os.MkdirTemp("", "dmguard-bench")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	keys, err := benchKeys(filepath.Join(dir, "keys"))
	if err != nil {
		return nil, err
	}
	bytes, err := b.produce(ctx, keys, prefix+pipeline.TopicMessages)
	if err != nil {
		return nil, err
	}

	if _, err := evidence.NewKeyPair(filepath.Join(dir, "pub"), filepath.Join(dir, "key")); err != nil {
		return nil, err
	}
	sealer, err := evidence.OpenSealer(filepath.Join(dir, "pub"))
	if err != nil {
		return nil, err
	}
	b.rules.config.Topics.Prefix = prefix
	b.rules.config.Worker.StateTTL = 10 * time.Minute // what is left in Redis goes by itself
	reg := prometheus.NewRegistry()
	w := &worker{
		conn: b.conn, redis: b.redis, rules: b.rules, sealer: sealer, group: prefix + "worker", journal: dir, log: b.log, registry: reg,
		open: openerWith(keys, false),
	}
	runtime.GC()
	working, stop := context.WithCancel(ctx)
	defer stop()
	cpu, started := cpuTime(), time.Now()
	ended := make(chan error, 1)
	go func() { ended <- w.run(working) }()
	err = b.await(ctx, w, ended)
	took, used := time.Since(started), cpuTime()-cpu
	stop()
	if err != nil {
		return nil, err
	}
	if err := <-ended; err != nil {
		return nil, err
	}
	r := &benchResult{
		Messages: b.opt.messages, Conversations: b.opt.conversations, Partitions: b.opt.partitions, Processors: runtime.GOMAXPROCS(0),
		MessageBytes: float64(bytes) / float64(b.opt.messages), Seconds: took.Seconds(),
		PerSecond: float64(b.opt.messages) / took.Seconds(), CPUMicros: used.Seconds() * 1e6 / float64(b.opt.messages),
		CPUShare: used.Seconds() / took.Seconds() / float64(runtime.GOMAXPROCS(0)), PeakRSS: peakRSS(),
	}
	if r.Stages, err = stageTimes(reg, b.opt.messages); err != nil {
		return nil, err
	}
	return r, b.count(ctx, prefix, r)
}

func benchKeys(path string) (*envelope.Reloader, error) {
	k, err := envelope.New()
	if err != nil {
		return nil, err
	}
	file := envelope.File{Path: path}
	if err := file.Create(k); err != nil {
		return nil, err
	}
	keys, _, err := envelope.NewReloader(file)
	return keys, err
}

// produce writes the messages and returns how many bytes they have.
func (b *bench) produce(ctx context.Context, keys *envelope.Reloader, topic string) (bytes int64, err error) {
	producer, err := kafka.NewProducer(b.conn, kafka.ProducerConfig{}, b.log)
	if err != nil {
		return 0, err
	}
	defer producer.Close()
	bar := b.bar("messages sent")
	s := &sender{log: producer, topic: topic}
	gen := newChatter(b.opt)
	for i := range b.opt.messages {
		sealed, err := keys.Seal(gen.message(i))
		if err != nil {
			return 0, err
		}
		bytes += int64(len(sealed))
		if err := s.add(ctx, sealed); err != nil {
			return 0, err
		}
		bar.set(int64(i), int64(b.opt.messages))
	}
	bar.end()
	return bytes, s.flush(ctx)
}

// await waits until every message is judged, written and committed.
func (b *bench) await(ctx context.Context, w *worker, ended <-chan error) error {
	bar := b.bar("messages judged")
	defer bar.end()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-ended:
			return errors.Join(errors.New("the worker ended too early"), err)
		case <-tick.C:
		}
		done := int64(0)
		if at, err := w.positions(); err == nil {
			for _, offset := range at {
				done += max(offset, 0)
			}
		}
		bar.set(done, int64(b.opt.messages))
		if done >= int64(b.opt.messages) {
			return nil
		}
	}
}

// count reads the verdicts and hits back, so that nothing is measured that was
// not done.
func (b *bench) count(ctx context.Context, prefix string, r *benchResult) error {
	h, err := kafka.NewHistory(b.conn, b.log)
	if err != nil {
		return err
	}
	defer h.Close()
	err = h.Scan(ctx, prefix+pipeline.TopicVerdicts, kafka.ScanOptions{}, func(rec pipeline.Record) error {
		if rec.Header("schema") != pipeline.SchemaVerdicts {
			r.Verdicts++
			return nil
		}
		var shared []jsontext.Value
		if err := json.Unmarshal(rec.Value, &shared); err != nil {
			return fmt.Errorf("reading verdicts: %w", err)
		}
		r.Verdicts += len(shared)
		return nil
	})
	if err != nil {
		return err
	}
	err = h.Scan(ctx, prefix+pipeline.TopicHits, kafka.ScanOptions{}, func(pipeline.Record) error {
		r.Hits++
		return nil
	})
	if err == nil && r.Verdicts != r.Messages {
		err = fmt.Errorf("%d messages and %d verdicts: the run is worth nothing", r.Messages, r.Verdicts)
	}
	return err
}

func (r *benchResult) print(w interface{ Write([]byte) (int, error) }) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(tw, "%s\t%s\t\n", name, fmt.Sprintf(format, args...))
	}
	row("messages", "%d in %d conversations, %d partitions, %.0f bytes each", r.Messages, r.Conversations, r.Partitions, r.MessageBytes)
	row("end to end", "%.2f s, %.0f messages/s", r.Seconds, r.PerSecond)
	row("our CPU", "%.1f µs a message, %.0f%% of %d processors", r.CPUMicros, 100*r.CPUShare, r.Processors)
	row("verdicts read back", "%d, hits %d", r.Verdicts, r.Hits)
	row("peak memory", "%.0f MiB", float64(r.PeakRSS)/(1<<20))
	fmt.Fprintf(tw, "\t\t\nSTAGE\tµs A MESSAGE (lanes, waiting included)\t\n")
	for _, s := range r.Stages {
		row(s.Name, "%.2f", s.Micros)
	}
	return tw.Flush()
}

func stageTimes(reg *prometheus.Registry, messages int) ([]benchStage, error) {
	families, err := reg.Gather()
	if err != nil {
		return nil, err
	}
	seconds := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "dmguard_stage_seconds_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			seconds[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
		}
	}
	var out []benchStage
	for _, name := range pipeline.StageNames() {
		out = append(out, benchStage{name, seconds[name] * 1e6 / float64(messages)})
	}
	return out, nil
}

// cpuTime is what this process has used of the processors so far.
func cpuTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func peakRSS() int64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return u.Maxrss << 10
}

// chatter makes up everyday messages of about sixty bytes.
type chatter struct {
	opt benchOptions
	rng *mathrand.Rand
	buf []byte
}

func newChatter(opt benchOptions) *chatter {
	return &chatter{opt: opt, rng: mathrand.New(mathrand.NewPCG(1, 2))} //nolint:gosec // the same messages every time
}

var (
	chatOpenings = []string{"hey", "ok so", "lol", "yes", "not sure but", "wait", "haha", "good morning,", "hm", "thanks!", "honestly", "by the way"}
	chatMiddles  = []string{
		"the bus was late again this morning", "I finished the second chapter yesterday", "can you send me the notes from tuesday",
		"we are having pasta tonight", "the game got moved to the other field", "my sister is learning the trumpet",
		"I think the blue one looks better", "there is a sale on the running shoes", "the weather is awful here",
		"did you see the match last night", "I still need to water the plants", "let's ask Priya what she thinks",
	}
	chatEnds = []string{"", " :)", " tbh", ", see you later", " and then home", " or maybe on friday?", "!!", " I guess"}
	chatCues = []string{"how old are you?", "it stays our secret ok", "add me on the other app instead", "are your parents home?"}
)

// message returns the JSON of the i-th message.
func (c *chatter) message(i int) []byte {
	pick := func(s []string) string { return s[c.rng.IntN(len(s))] }
	text := pick(chatOpenings) + " " + pick(chatMiddles) + pick(chatEnds)
	if c.rng.Float64() < c.opt.cues {
		text = pick(chatCues)
	}
	conversation := c.rng.IntN(c.opt.conversations)
	sender := i % 2
	c.buf = fmt.Appendf(c.buf[:0], `{"id":"m-%09d","conversation_id":"c-%07d","sent_at":%q,"sender":{"id":"u-%d-%d"},"recipients":[{"id":"u-%d-%d"}],"text":%q}`,
		i, conversation, time.Unix(1770000000+int64(i), 0).UTC().Format(time.RFC3339), conversation, sender, conversation, 1-sender, text)
	return c.buf
}
