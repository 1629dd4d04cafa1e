package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/pipeline/kafka"
	"github.com/dmguard/dmguard/pipeline/media"
	"github.com/dmguard/dmguard/reviewqueue"
	"github.com/dmguard/dmguard/reviewqueue/access"
	"github.com/dmguard/dmguard/reviewqueue/audit"
	"github.com/dmguard/dmguard/reviewqueue/console"
	"github.com/dmguard/dmguard/reviewqueue/evidence"
)

func queueCommand() *command {
	return &command{
		name:    "queue",
		summary: "serve the review queue: API, console and the projection of hits into Redis",
		example: "dmguard queue --brokers kafka:9092 --redis redis:6379 --review-private-key review.key.json --review-key review.pub.json --tokens reviewers.yaml",
		run:     runQueue,
		group: []*command{
			{
				name: "rebuild", summary: "throw the queue in Redis away and build it again from the log",
				example: "dmguard queue rebuild --brokers kafka:9092 --redis redis:6379", run: runQueueRebuild,
			},
			{
				name: "token", args: "REVIEWER", summary: "make a bearer token: prints it, and the line for the file of reviewers",
				example: "dmguard queue token alice", run: runQueueToken,
			},
		},
	}
}

// queueFlags are what serving and rebuilding the queue share.
type queueFlags struct {
	config string
	kafkaFlags
	redisFlags
	logFlags
}

func (q *queueFlags) add(cl *commandLine) {
	cl.env(&q.config, "config", "DMGUARD_CONFIG", "", "configuration `file`; what it does not name is as in \"dmguard config reference\"")
	q.kafkaFlags.add(cl)
	q.redisFlags.add(cl)
	q.logFlags.add(cl, "info")
}

func runQueue(ctx context.Context, cl *commandLine) error {
	var flags queueFlags
	flags.add(cl)
	var private, public, tokens, auditPath, cert, key string
	cl.env(&private, "review-private-key", "DMGUARD_REVIEW_PRIVATE_KEY", "", "private review keys, `files` separated by commas, of which any may open evidence")
	cl.env(&public, "review-key", "DMGUARD_REVIEW_KEY", "", "public review key that notes of decisions are sealed to, a `file`")
	cl.env(&tokens, "tokens", "DMGUARD_TOKENS", "", "`file` of reviewers, their roles and the SHA-256 of their tokens")
	cl.env(&auditPath, "audit", "DMGUARD_AUDIT", filepath.Join(defaultData(), "audit.ndjson"), "audit log, a `file` on a local disk")
	cl.StringVar(&cert, "tls-cert", "", "PEM `file` of the certificate to serve the API with; plain HTTP if empty")
	cl.StringVar(&key, "tls-key", "", "PEM `file` of its key")
	address := cl.String("listen", "127.0.0.1:8080", "`address` of the API and the console")
	behindTLS := cl.Bool("behind-tls", false, "browsers reach this through a proxy with TLS")
	var admin adminFlags
	admin.add(cl, "127.0.0.1:9465")
	if err := cl.parse(0, 0); err != nil {
		return err
	}
	log, err := flags.logger(cl.err)
	if err != nil {
		return err
	}
	cfg, err := loadConfig(flags.config)
	if err != nil {
		return err
	}
	var missing []error
	for _, f := range []struct{ flag, value string }{{"--review-private-key", private}, {"--review-key", public}, {"--tokens", tokens}} {
		if f.value == "" {
			missing = append(missing, fmt.Errorf("%s is missing", f.flag))
		}
	}
	if err := errors.Join(missing...); err != nil {
		return err
	}
	conn, err := flags.connection("dmguard-queue")
	if err != nil {
		return err
	}
	if err := checkTopics(ctx, conn, cfg.Topics, log); err != nil {
		return err
	}
	rdb, err := flags.client(ctx, log)
	if err != nil {
		return err
	}
	defer rdb.Close()
	reviewers, err := access.OpenTokens(tokens)
	if err != nil {
		return err
	}
	opener, err := evidence.OpenKeys(splitList(private)...)
	if err != nil {
		return err
	}
	sealer, err := evidence.OpenSealer(public)
	if err != nil {
		return err
	}
	reg := newRegistry()
	s, err := openReview(ctx, reviewOptions{
		config: cfg, conn: conn, redis: rdb, opener: opener, sealer: sealer, tokens: reviewers, audit: auditPath, log: log,
		registry: reg, tls: cert != "" || *behindTLS,
	})
	if err != nil {
		return err
	}
	defer s.close()
	l, err := listen(ctx, *address)
	if err != nil {
		return err
	}
	log.Info("serving the review queue", zap.Stringer("address", l.Addr()))
	return admin.serve(ctx, log, reg, s.ready, func(ctx context.Context) error {
		g, ctx := errgroup.WithContext(ctx)
		g.Go(func() error { return s.run(ctx) })
		g.Go(func() error {
			return serveOn(ctx, l, console.New(s.console), log, &certificate{cert, key})
		})
		g.Go(func() error { return s.watch(ctx, flags.config) })
		return g.Wait()
	})
}

// reviewOptions are what the review service works with.
type reviewOptions struct {
	config   *Config
	conn     kafka.Connection
	redis    redis.UniversalClient
	opener   *evidence.Opener
	sealer   *evidence.Sealer
	tokens   *access.Tokens
	audit    string // path
	log      *zap.Logger
	registry prometheus.Registerer
	tls      bool
	fileRoot string // folder below which attachments may lie, beside the configuration's
}

// review is the review service: queue, projector, console.
type review struct {
	reviewOptions
	queue     *reviewqueue.Queue
	projector *reviewqueue.Projector
	console   console.Config
	legal     atomic.Pointer[[]string] // references of legal requests in force
	closers   []func()
}

func openReview(ctx context.Context, opt reviewOptions) (_ *review, err error) {
	s := &review{reviewOptions: opt}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	s.legal.Store(&opt.config.Access.LegalRequests)
	producer, err := kafka.NewProducer(opt.conn, kafka.ProducerConfig{}, opt.log)
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, producer.Close)
	history, err := kafka.NewHistory(opt.conn, opt.log)
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, history.Close)
	log, torn, err := audit.Open(opt.audit)
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, func() {
		if err := log.Close(); err != nil {
			opt.log.Error("closing the audit log", zap.Error(err))
		}
	})
	if torn.Bytes > 0 {
		opt.log.Warn("a crash left the last line of the audit log unfinished; it was cut off, and was never acknowledged", zap.Int64("bytes", torn.Bytes))
	}
	mediaConfig := opt.config.Media
	if opt.fileRoot != "" {
		mediaConfig.FileRoots = append(slices.Clone(mediaConfig.FileRoots), opt.fileRoot)
	}
	fetcher, err := media.Open(ctx, mediaConfig)
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, func() {
		if err := fetcher.Close(); err != nil {
			opt.log.Warn("closing the stores of attachments", zap.Error(err))
		}
	})
	qc := queueConfig(opt.config)
	s.queue, err = reviewqueue.New(qc, reviewqueue.Deps{
		Redis: opt.redis, Log: queueLog{history}, Append: producer.ProduceOne,
		Opener: opt.opener, Sealer: opt.sealer, Audit: log, Logger: opt.log,
		LegalRequest: func(_ context.Context, reference, _ string) (bool, error) {
			return slices.Contains(*s.legal.Load(), reference), nil
		},
		Fetch: func(ctx context.Context, uri string, limit int64) ([]byte, error) {
			data, err := fetcher.Fetch(ctx, uri)
			if err == nil && int64(len(data)) > limit {
				return nil, pipeline.Permanent(fmt.Errorf("the attachment has %d bytes, more than %d", len(data), limit))
			}
			return data, err
		},
	})
	if err != nil {
		return nil, err
	}
	s.projector = reviewqueue.NewProjector(s.queue, queueLog{history})
	s.console = console.Config{
		Queue: s.queue, Tokens: opt.tokens, Invites: new(access.Invites), Sessions: new(access.Sessions),
		Logger: opt.log, Ready: s.ready, TLS: opt.tls,
	}
	s.register()
	return s, nil
}

func queueConfig(c *Config) reviewqueue.Config {
	qc := reviewqueue.DefaultConfig()
	qc.Prefix = c.Topics.Prefix + "queue:"
	qc.TopicPrefix = c.Topics.Prefix
	qc.Shards = c.Queue.Shards
	qc.Lease = c.Queue.Lease
	qc.MaxAttempts = c.Queue.MaxAttempts
	qc.SLA = maps.Clone(c.Queue.SLA)
	qc.Labels = c.Queue.Labels
	qc.AttachmentLimit = c.Media.MaxBytes
	return qc
}

func (s *review) close() {
	for _, c := range slices.Backward(s.closers) {
		c()
	}
}

// run projects hits and decisions into Redis until ctx ends.
func (s *review) run(ctx context.Context) error {
	if err := s.projector.Run(ctx); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// ready reports what keeps cases from being claimed.
func (s *review) ready(ctx context.Context) error {
	if err := s.queue.Ping(ctx); err != nil {
		return err
	}
	if !s.projector.CaughtUp() {
		return errors.New("still projecting the log into the queue")
	}
	return nil
}

// watch takes over changes of the reviewers and of the legal requests.
func (s *review) watch(ctx context.Context, config string) error {
	tick := time.NewTicker(reloadEvery)
	defer tick.Stop()
	last := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		fault := ""
		if err := s.tokens.Reload(); err != nil {
			fault = err.Error()
		}
		if cfg, err := loadConfig(config); err != nil {
			fault += err.Error()
		} else {
			s.legal.Store(&cfg.Access.LegalRequests)
		}
		if fault != last && fault != "" {
			s.log.Error("a change is refused; the last good one stays in force", zap.String("fault", fault))
		}
		last = fault
	}
}

func (s *review) register() {
	if s.registry == nil {
		return
	}
	s.registry.MustRegister(&queueCollector{
		queue:  s.queue,
		cases:  prometheus.NewDesc("dmguard_cases", "Cases, by state.", []string{"state"}, nil),
		oldest: prometheus.NewDesc("dmguard_oldest_case_seconds", "Age of the oldest case that is not decided.", nil, nil),
	})
}

// counter may count cases and nothing else.
var counter = access.Reviewer{ID: "metrics", Roles: []access.Role{access.Auditor}}

// queueCollector counts the cases when metrics are read.
type queueCollector struct {
	queue  *reviewqueue.Queue
	cases  *prometheus.Desc
	oldest *prometheus.Desc
}

// Describe implements [prometheus.Collector].
func (c *queueCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.cases; ch <- c.oldest }

// Collect implements [prometheus.Collector].
func (c *queueCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	s, err := c.queue.Stats(ctx, counter)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.cases, err)
		return
	}
	for state, n := range map[reviewqueue.State]int64{
		reviewqueue.Pending: s.Pending, reviewqueue.Leased: s.Leased, reviewqueue.Decided: s.Decided, reviewqueue.Dead: s.Dead,
	} {
		ch <- prometheus.MustNewConstMetric(c.cases, prometheus.GaugeValue, float64(n), string(state))
	}
	ch <- prometheus.MustNewConstMetric(c.oldest, prometheus.GaugeValue, float64(s.OldestSeconds))
}

// queueLog is what the review queue reads of Kafka.
type queueLog struct{ *kafka.History }

// Scan implements [reviewqueue.Log].
func (l queueLog) Scan(ctx context.Context, topic string, from map[int32]int64, follow bool, handle func(pipeline.Record) error) error {
	return l.History.Scan(ctx, topic, kafka.ScanOptions{
		From: from, Follow: follow, OnGap: func(context.Context, pipeline.Gap) error { return nil },
	}, handle)
}

func runQueueToken(_ context.Context, cl *commandLine) error {
	roles := cl.String("roles", string(access.Review), "roles, separated by commas")
	if err := cl.parse(1, 1); err != nil {
		return err
	}
	r := access.Reviewer{ID: cl.args()[0]}
	for _, role := range splitList(*roles) {
		r.Roles = append(r.Roles, access.Role(role))
	}
	if err := r.Validate(); err != nil {
		return err
	}
	token := access.NewSecret()
	fmt.Fprintf(cl.err, "the token, shown only once: %s\n", token)
	fmt.Fprintf(cl.out, "- {id: %q, roles: [%s], token_sha256: [%x]}\n", r.ID, joinList(splitList(*roles)), sha256.Sum256([]byte(token)))
	return nil
}

func runQueueRebuild(ctx context.Context, cl *commandLine) error {
	var flags queueFlags
	flags.add(cl)
	if err := cl.parse(0, 0); err != nil {
		return err
	}
	log, err := flags.logger(cl.err)
	if err != nil {
		return err
	}
	cfg, err := loadConfig(flags.config)
	if err != nil {
		return err
	}
	conn, err := flags.connection("dmguard-queue-rebuild")
	if err != nil {
		return err
	}
	rdb, err := flags.client(ctx, log)
	if err != nil {
		return err
	}
	defer rdb.Close()
	history, err := kafka.NewHistory(conn, log)
	if err != nil {
		return err
	}
	defer history.Close()
	// Projecting reads no content: the keys, the audit log and the store are not
	// needed for it.
	q, err := reviewqueue.NewView(queueConfig(cfg), rdb, queueLog{history}, log)
	if err != nil {
		return err
	}
	bar := newProgress(cl.err, "records")
	started := time.Now()
	if err := reviewqueue.NewProjector(q, queueLog{history}).Rebuild(ctx, bar.set); err != nil {
		return err
	}
	bar.end()
	s, err := q.Stats(ctx, counter)
	if err != nil {
		return err
	}
	fmt.Fprintf(cl.out, "rebuilt in %s: %d pending, %d leased, %d decided, %d dead\n", time.Since(started).Round(time.Millisecond), s.Pending, s.Leased, s.Decided, s.Dead)
	return nil
}
