package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/pipeline/envelope"
	"github.com/dmguard/dmguard/pipeline/kafka"
	"github.com/dmguard/dmguard/pipeline/secondlook"
	"github.com/dmguard/dmguard/pipeline/state"
	"github.com/dmguard/dmguard/reviewqueue/evidence"
)

func workerCommand() *command {
	return &command{
		name:    "worker",
		summary: "judge messages as they arrive in Kafka",
		example: "dmguard worker --brokers kafka:9092 --redis redis:6379 --keys messages.json --review-key review.pub.json",
		run:     runWorker,
	}
}

func runWorker(ctx context.Context, cl *commandLine) error {
	var (
		opt   rulesetOptions
		keys  keyFlags
		kf    kafkaFlags
		rf    redisFlags
		logs  logFlags
		admin adminFlags
	)
	opt.add(cl)
	opt.addDecode(cl, decodeSandbox)
	keys.add(cl)
	kf.add(cl)
	rf.add(cl)
	logs.add(cl, "info")
	admin.add(cl, "127.0.0.1:9464")
	group := cl.String("group", "dmguard-worker", "consumer group that shares the work")
	plain := cl.Bool("allow-plaintext", false, "also take messages that are not sealed")
	canary := cl.String("canary", "", "file with the deployment's canary string; made where there is none")
	var reviewKey, journal string
	cl.env(&reviewKey, "review-key", "DMGUARD_REVIEW_KEY", "", "public review key that evidence is sealed to, a `file` (see \"dmguard keys review\")")
	cl.env(&journal, "journal", "DMGUARD_JOURNAL", filepath.Join(defaultData(), "worker"), "`folder` that tells the next process which messages killed this one")
	if err := cl.parse(0, 0); err != nil {
		return err
	}
	log, err := logs.logger(cl.err)
	if err != nil {
		return err
	}
	conn, err := kf.connection("dmguard-worker")
	if err != nil {
		return err
	}
	if reviewKey == "" {
		return errors.New("name the public review key with --review-key; \"dmguard keys review\" makes a pair")
	}
	sealer, err := evidence.OpenSealer(reviewKey)
	if err != nil {
		return err
	}
	if keys.file.Path == "" && !*plain {
		return errors.New("name the keyset that opens messages with --keys, or allow plain ones with --allow-plaintext")
	}
	keyset, err := keys.open(log)
	if err != nil {
		return err
	}
	if *canary != "" {
		if opt.canary, err = ensureCanary(*canary); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(journal, 0o700); err != nil {
		return fmt.Errorf("making the folder of the journal: %w", err)
	}
	opt.seen = filepath.Join(journal, "lists.seen")
	rules, err := opt.load(ctx, log)
	if err != nil {
		return err
	}
	defer rules.close()
	var looker secondlook.Looker
	if look := rules.config.SecondLook; look.URL != "" {
		if looker, err = secondlook.Open(look, os.Getenv("DMGUARD_SECOND_LOOK_TOKEN")); err != nil {
			return err
		}
	}
	rdb, err := rf.client(ctx, log)
	if err != nil {
		return err
	}
	defer rdb.Close()
	if err := checkTopics(ctx, conn, rules.config.Topics, log); err != nil {
		return err
	}
	reg := newRegistry()
	w := &worker{
		conn: conn, redis: rdb, rules: rules, open: openerWith(keyset, *plain), keys: keyset, sealer: sealer, looker: looker, group: *group,
		journal: filepath.Join(journal, rules.config.Topics.Prefix+*group), log: log, registry: reg,
	}
	return admin.serve(ctx, log, reg, w.ready, w.run)
}

// worker is one member of the group that judges messages.
type worker struct {
	conn     kafka.Connection
	redis    redis.UniversalClient
	rules    *rules
	open     func(*pipeline.Record) (*pipeline.Message, error)
	keys     *envelope.Reloader // followed for rotations; nil for none
	sealer   *evidence.Sealer
	group    string
	looker   secondlook.Looker // of second looks; nil for none
	journal  string            // folder
	log      *zap.Logger
	registry prometheus.Registerer

	source atomic.Pointer[kafka.Source]
	latest atomic.Pointer[pipeline.Ruleset] // what was reloaded last, nil before the first time
}

// run judges messages until ctx ends, and then finishes those it has in hand.
// Where Redis was emptied meanwhile it starts over, as after a crash: what is
// committed is folded into the state again, and what is not comes again.
func (w *worker) run(ctx context.Context) error {
	for {
		metrics := prometheus.NewRegistry()
		err := w.member(ctx, metrics)
		if !errors.Is(err, errEmptied) || ctx.Err() != nil {
			return err
		}
		w.registry.Unregister(metrics) // the next member has its own
		w.log.Warn("joining the group again to rebuild the state of conversations", zap.Error(err))
	}
}

// member takes part in the group until ctx ends.
func (w *worker) member(ctx context.Context, metrics *prometheus.Registry) (err error) {
	cfg := w.rules.config
	in := cfg.Topics.Prefix + pipeline.TopicMessages
	journal, err := pipeline.OpenJournal(w.journal)
	if err != nil {
		return err
	}
	producer, err := kafka.NewProducer(w.conn, kafka.ProducerConfig{}, w.log)
	if err != nil {
		return err
	}
	defer producer.Close()
	history, err := kafka.NewHistory(w.conn, w.log)
	if err != nil {
		return err
	}
	defer history.Close()
	memory := &builtMemory{Redis: state.NewRedis(w.redis, w.log, state.RedisOptions{Prefix: in + ":", TTL: cfg.Worker.StateTTL})}

	gaps := newGapRecorder(producer, cfg.Topics.Prefix, w.log, metrics)
	built := make(chan struct{})
	var p *pipeline.Pipeline
	source, err := kafka.OpenSource(w.conn, kafka.SourceConfig{ //nolint:contextcheck // it lives until Close, to commit what the drain finished
		Group: w.group, Topic: in, OnGap: gaps.record,
		OnAssign: func(ctx context.Context, partition, epoch int32, committed int64) error {
			select {
			case <-built:
			case <-ctx.Done():
				return ctx.Err()
			}
			return w.rebuild(ctx, p, memory, history, partition, epoch, committed)
		},
		MaxInFlight: cfg.Worker.InFlight, DrainTimeout: cfg.Worker.DrainTimeout, SessionTimeout: cfg.Worker.SessionTimeout,
	}, w.log)
	if err != nil {
		return err
	}
	defer func() {
		// The drain had its time; what is left is the last commit.
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		err = errors.Join(err, source.Close(closing))
	}()
	w.source.Store(source)
	registerSource(metrics, source, memory.Redis)

	publisher := &pipeline.Publisher{
		Log: producer, Prefix: cfg.Topics.Prefix, MaxRecord: producer.MaxRecordBytes(),
		Seal: w.sealer.Seal, History: history.Read, Open: w.open,
	}
	sinks := []pipeline.Sink{publisher}
	var desk *secondlook.Desk
	if w.looker != nil {
		if desk, err = secondlook.NewDesk(cfg.SecondLook, w.looker, publisher.Annotate, w.log, metrics); err != nil {
			return err
		}
		sinks = append(sinks, desk)
	}
	p, err = pipeline.New(pipeline.Config{
		Source:  source,
		Open:    w.open,
		Ruleset: cmp.Or(w.latest.Load(), w.rules.ruleset),
		Memory:  memory,
		Sinks:   sinks,
		Log:     w.log, Journal: journal, Metrics: pipeline.NewMetrics(metrics),
		Lanes: cfg.Worker.Lanes, Batch: cfg.Worker.Batch,
		DetectorTimeout: cfg.Worker.DetectorTimeout, PrepareTimeout: cfg.Worker.PrepareTimeout,
		DrainTimeout: cfg.Worker.DrainTimeout, StuckAfter: cfg.Worker.StuckAfter,
	})
	if err != nil {
		return err
	}
	close(built)
	if err := w.registry.Register(metrics); err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	if n := journal.Suspects(); n > 0 {
		w.log.Warn("a process died with messages in hand; they are looked at one by one", zap.Int("messages", n))
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return w.rules.watch(gctx, w.log, func(r *pipeline.Ruleset) {
			w.latest.Store(r)
			p.Reload(r)
		})
	})
	g.Go(func() error { return w.watchKeys(gctx) })
	if desk != nil {
		g.Go(func() error { return desk.Run(gctx) })
	}
	g.Go(func() error {
		err := p.Run(gctx)
		if !errors.Is(err, pipeline.ErrStuck) {
			// Where a message is stuck the journal must go on to name it.
			err = errors.Join(err, journal.Close())
		}
		if err == nil && ctx.Err() == nil {
			err = errors.New("the source ended")
		}
		return err
	})
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// watchKeys takes over rotations of the keyset.
func (w *worker) watchKeys(ctx context.Context) error {
	if w.keys == nil {
		return nil
	}
	tick := time.NewTicker(reloadEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		changed, warning, err := w.keys.Reload()
		switch {
		case err != nil:
			w.log.Error("the keyset cannot be read; the last good one stays in force", zap.Error(err))
		case changed:
			w.log.Info("keyset taken over", zap.Stringer("keys", w.keys.Keyset()), zap.String("warning", warning))
		}
	}
}

// rebuild folds the log into the state of conversations again where the memory
// has nothing of a partition: it was emptied, or the partition is new to it.
func (w *worker) rebuild(ctx context.Context, p *pipeline.Pipeline, memory *builtMemory, history *kafka.History, partition, epoch int32, committed int64) error {
	there, err := memory.Built(ctx, partition)
	if there || err != nil {
		return err
	}
	if committed > 0 && w.rules.config.Worker.RebuildWindow > 0 {
		topic := w.rules.config.Topics.Prefix + pipeline.TopicMessages
		from, err := history.OffsetAt(ctx, topic, partition, time.Now().Add(-w.rules.config.Worker.RebuildWindow))
		if err != nil {
			return err
		}
		started, n := time.Now(), 0
		err = history.Range(ctx, topic, partition, from, committed, func(records []pipeline.Record) error {
			n += len(records)
			return p.Rebuild(ctx, records, epoch)
		})
		if err != nil {
			return fmt.Errorf("rebuilding the state of conversations: %w", err)
		}
		w.log.Info("the state of conversations was rebuilt from the log", zap.Int32("partition", partition),
			zap.Int("messages", n), zap.Duration("took", time.Since(started)))
	}
	return memory.MarkBuilt(ctx, partition)
}

// errEmptied ends a member of the group; running again helps.
var errEmptied = errors.New("the state of conversations is gone from Redis")

// builtMemory refuses to take what Redis has lost for conversations that are
// new: those would go on without their past, and nobody would notice.
type builtMemory struct {
	*state.Redis
	built sync.Map // partitions that this process has seen marked as built
}

// Built reports whether Redis has the state of a partition.
func (m *builtMemory) Built(ctx context.Context, partition int32) (bool, error) {
	there, err := m.Redis.Built(ctx, partition)
	if there {
		m.built.Store(partition, true)
	}
	return there, err
}

// MarkBuilt marks a partition once its state is in Redis.
func (m *builtMemory) MarkBuilt(ctx context.Context, partition int32) error {
	err := m.Redis.MarkBuilt(ctx, partition)
	if err == nil {
		m.built.Store(partition, true)
	}
	return err
}

// Load implements [pipeline.Memory]. Where the cache did not have everything it
// looks, after Redis has answered, whether the mark of the partition is still
// there.
func (m *builtMemory) Load(ctx context.Context, keys []pipeline.ConversationKey) ([]pipeline.Conversation, error) {
	misses := m.Stats().Misses
	states, err := m.Redis.Load(ctx, keys)
	if err != nil || m.Stats().Misses == misses {
		return states, err
	}
	asked := map[int32]bool{}
	for i := range keys {
		partition := keys[i].Partition
		if _, built := m.built.Load(partition); !built || asked[partition] {
			continue
		}
		asked[partition] = true
		there, err := m.Redis.Built(ctx, partition)
		if err != nil {
			return nil, err
		}
		if !there {
			return nil, pipeline.Permanent(fmt.Errorf("%w of partition %d", errEmptied, partition))
		}
	}
	return states, nil
}

// ready reports whether the worker takes part in its group.
func (w *worker) ready(context.Context) error {
	if w.source.Load() == nil {
		return errors.New("starting")
	}
	return nil
}

// gapRecorder writes down offsets that were deleted before they were judged.
type gapRecorder struct {
	log    pipeline.Log
	prefix string
	zap    *zap.Logger
	missed prometheus.Counter
}

func newGapRecorder(log pipeline.Log, prefix string, logger *zap.Logger, reg prometheus.Registerer) *gapRecorder {
	g := &gapRecorder{log: log, prefix: prefix, zap: logger, missed: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "dmguard_unjudged_messages_total", Help: "Messages that the log deleted before they were judged. Alarm on any.",
	})}
	reg.MustRegister(g.missed)
	return g
}

func (g *gapRecorder) record(ctx context.Context, gap pipeline.Gap) error {
	value, err := json.Marshal(gap)
	if err != nil {
		return fmt.Errorf("encoding a gap: %w", err)
	}
	err = g.log.Produce(ctx, []pipeline.Record{{
		Position: pipeline.Position{Topic: g.prefix + pipeline.TopicGaps},
		Key:      strconv.AppendInt(nil, int64(gap.Partition), 10),
		Value:    value,
		Headers:  []pipeline.Header{{Key: "schema", Value: []byte(pipeline.SchemaGap)}},
	}})
	if err != nil {
		return fmt.Errorf("writing down a gap: %w", err)
	}
	g.missed.Add(float64(gap.To - gap.From))
	g.zap.Error("messages were deleted before they were judged: the retention is shorter than the lag",
		zap.String("topic", gap.Topic), zap.Int32("partition", gap.Partition), zap.Int64("from", gap.From), zap.Int64("to", gap.To))
	return nil
}

// newRegistry returns a registry with the metrics of the process.
func newRegistry() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return reg
}

// registerSource shows how far behind the worker is.
func registerSource(reg prometheus.Registerer, src *kafka.Source, memory *state.Redis) {
	gauge := func(name, help string, value func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	partitions := func(pick func(*kafka.PartitionStats) int64) func() float64 {
		return func() float64 {
			var sum int64
			stats := src.Stats()
			for i := range stats.Partitions {
				sum += pick(&stats.Partitions[i])
			}
			return float64(sum)
		}
	}
	gauge("dmguard_lag_messages", "Messages in our partitions that are not judged yet.", partitions((*kafka.PartitionStats).Lag))
	gauge("dmguard_retention_margin_messages", "Messages between the start of the log and the one judged last, least of our partitions. Alarm when it shrinks.",
		func() float64 {
			least := int64(-1)
			stats := src.Stats()
			for i := range stats.Partitions {
				if m := stats.Partitions[i].Margin(); least < 0 || m < least {
					least = m
				}
			}
			return float64(least)
		})
	gauge("dmguard_state_cache_hits", "Conversation states that the cache had, since the start.", func() float64 { return float64(memory.Stats().Hits) })
	gauge("dmguard_state_cache_misses", "Conversation states that the cache did not have, since the start.", func() float64 { return float64(memory.Stats().Misses) })
}

// adminFlags are where a service without an API shows metrics and health.
type adminFlags struct{ listen string }

func (a *adminFlags) add(cl *commandLine, listen string) {
	cl.StringVar(&a.listen, "admin-listen", listen, "`address` of /metrics, /healthz and /readyz; none if empty")
}

// serve runs the service with its metrics beside it.
func (a *adminFlags) serve(ctx context.Context, log *zap.Logger, reg *prometheus.Registry, ready func(context.Context) error, service func(context.Context) error) error {
	if a.listen == "" {
		return service(ctx)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := ready(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ready\n"))
	})
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return serveHTTP(ctx, a.listen, mux, log, nil) })
	g.Go(func() error {
		err := service(ctx)
		if err == nil {
			return errDone // ends the listener too
		}
		return err
	})
	if err := g.Wait(); !errors.Is(err, errDone) {
		return err
	}
	return nil
}

var errDone = errors.New("done")

// defaultData is where dmguard keeps what it must not lose, outside of any
// checkout.
func defaultData() string {
	if dir := os.Getenv("XDG_DATA_HOME"); dir != "" {
		return filepath.Join(dir, "dmguard")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return filepath.Join(os.TempDir(), "dmguard")
	}
	return filepath.Join(home, ".local", "share", "dmguard")
}

func dataFlag(cl *commandLine) *string {
	dir := new(string)
	cl.env(dir, "data", "DMGUARD_DATA", defaultData(), "`folder` where everything is kept")
	return dir
}

// positions returns for each partition the offset below which everything is
// judged.
func (w *worker) positions() (map[int32]int64, error) {
	src := w.source.Load()
	if src == nil {
		return nil, errors.New("the worker is starting")
	}
	out := map[int32]int64{}
	stats := src.Stats()
	for i := range stats.Partitions {
		out[stats.Partitions[i].Partition] = stats.Partitions[i].Done
	}
	return out, nil
}
