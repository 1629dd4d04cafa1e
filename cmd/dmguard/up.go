package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/go-json-experiment/json"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/pipeline/envelope"
	"github.com/dmguard/dmguard/pipeline/kafka"
	"github.com/dmguard/dmguard/reviewqueue/access"
	"github.com/dmguard/dmguard/reviewqueue/console"
	"github.com/dmguard/dmguard/reviewqueue/evidence"
)

func upCommand() *command {
	return &command{
		name:    "up",
		summary: "run everything in one process on this machine: broker, worker, queue, console",
		example: "dmguard up --data ./data --listen 127.0.0.1:8080",
		run:     runUp,
	}
}

// embeddedPartitions is how many partitions the topics of "up" have.
const embeddedPartitions = 4

func runUp(ctx context.Context, cl *commandLine) error {
	var opt rulesetOptions
	opt.add(cl)
	opt.addDecode(cl, decodeAuto)
	var logs logFlags
	logs.add(cl, "warn")
	data := dataFlag(cl)
	address := cl.String("listen", "127.0.0.1:8080", "`address` of the API and the console")
	noSeed := cl.Bool("no-seed", false, "start without made-up messages")
	if err := cl.parse(0, 0); err != nil {
		return err
	}
	log, err := logs.logger(cl.err)
	if err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(*address)
	if err != nil {
		return fmt.Errorf("flag -listen: %w", err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("\"up\" serves this machine only, not %s: its one reviewer signs in without a password. Run \"dmguard queue\" for others", host)
	}
	dir, unlock, err := lockData(*data)
	if err != nil {
		return err
	}
	defer unlock()
	l, err := listen(ctx, *address)
	if err != nil {
		return err
	}
	defer l.Close()
	u := &up{dir: dir, log: log, out: cl.out, listener: l}
	if err := u.open(ctx, opt); err != nil {
		return err
	}
	defer u.close()
	return u.run(ctx, !*noSeed)
}

// lockData makes the data folder and keeps other processes out of it.
func lockData(data string) (dir string, unlock func(), err error) {
	dir, err = filepath.Abs(data)
	if err != nil {
		return "", nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", nil, fmt.Errorf("making the data folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return "", nil, fmt.Errorf("locking the data folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return "", nil, fmt.Errorf("another dmguard runs on %s: stop it, or choose another folder with --data", dir)
	}
	return dir, func() { f.Close() }, nil
}

// up is the whole system in one process.
type up struct {
	dir      string
	log      *zap.Logger
	out      io.Writer
	listener net.Listener

	rules    *rules
	keys     *envelope.Reloader
	broker   *kfake.Cluster
	conn     kafka.Connection
	mini     *miniredis.Miniredis
	redis    redis.UniversalClient
	producer *kafka.Producer
	review   *review
	worker   *worker

	settled atomic.Bool // what was there at the start is judged and in the queue
	closers []func()
}

func (u *up) path(name ...string) string {
	return filepath.Join(append([]string{u.dir}, name...)...)
}

// running is what DATA/up.json tells "dmguard send" of the running system.
type running struct {
	Brokers []string `json:"brokers"`
	HTTP    string   `json:"http"`
	Prefix  string   `json:"prefix"`
	PID     int      `json:"pid"`
}

func (u *up) open(ctx context.Context, opt rulesetOptions) (err error) {
	defer func() {
		if err != nil {
			u.close()
		}
	}()
	for _, d := range []string{"broker", "keys", "lists", "attachments", "journal"} {
		if err := os.MkdirAll(u.path(d), 0o700); err != nil {
			return fmt.Errorf("making the data folder: %w", err)
		}
	}
	if opt.lists == "" {
		opt.lists = u.path("lists")
	}
	opt.seen = u.path("lists.seen")
	if err := writeSeedLists(u.path("lists")); err != nil {
		return err
	}
	if opt.canary, err = ensureCanary(u.path("canary")); err != nil {
		return err
	}
	opt.fileRoots = append(opt.fileRoots, u.path("attachments"))
	if u.rules, err = opt.load(ctx, u.log); err != nil {
		return err
	}
	u.closers = append(u.closers, u.rules.close)
	// The process must be gone within ten seconds of a signal.
	u.rules.config.Worker.DrainTimeout = min(u.rules.config.Worker.DrainTimeout, 5*time.Second)
	if err := u.openKeys(); err != nil {
		return err
	}
	if err := u.openServers(ctx); err != nil {
		return err
	}
	return u.openServices(ctx)
}

func (u *up) openKeys() error {
	file := envelope.File{Path: u.path("keys", "messages.json")}
	if _, err := os.Stat(file.Path); errors.Is(err, os.ErrNotExist) {
		k, err := envelope.New()
		if err != nil {
			return err
		}
		if err := file.Create(k); err != nil {
			return err
		}
	}
	var err error
	u.keys, _, err = envelope.NewReloader(file)
	if err != nil {
		return err
	}
	if _, err := os.Stat(u.path("keys", "review.key.json")); errors.Is(err, os.ErrNotExist) {
		_, err := evidence.NewKeyPair(u.path("keys", "review.pub.json"), u.path("keys", "review.key.json"))
		return err
	}
	return nil
}

// openServers starts the broker, whose log on the disk is the truth, and the
// Redis in memory, which is a view of it.
func (u *up) openServers(ctx context.Context) error {
	var err error
	u.broker, err = kfake.NewCluster(
		kfake.NumBrokers(1), kfake.DataDir(u.path("broker")), kfake.SyncWrites(),
		kfake.BrokerConfigs(map[string]string{
			// Nothing is ever forgotten: not the records, not what was judged.
			"log.retention.ms": "-1", "log.retention.bytes": "-1", "offsets.retention.minutes": "2147483647",
			"group.initial.rebalance.delay.ms": "0",
		}),
	)
	if err != nil {
		return fmt.Errorf("starting the broker on %s: %w", u.path("broker"), err)
	}
	u.closers = append(u.closers, u.broker.Close)
	u.conn = kafka.Connection{Brokers: u.broker.ListenAddrs(), ClientID: "dmguard-up"}
	u.mini = miniredis.NewMiniRedis()
	u.mini.ClockTTL(true)
	if err := u.mini.StartAddr("127.0.0.1:0"); err != nil {
		return fmt.Errorf("starting Redis: %w", err)
	}
	u.closers = append(u.closers, u.mini.Close)
	u.redis = redis.NewClient(&redis.Options{Addr: u.mini.Addr()})
	u.closers = append(u.closers, func() { u.redis.Close() })

	t, err := kafka.NewTopics(u.conn, kafka.TopicsConfig{Prefix: u.rules.config.Topics.Prefix, Partitions: embeddedPartitions, Embedded: true})
	if err != nil {
		return err
	}
	defer t.Close()
	_, err = t.Create(ctx)
	return err
}

func (u *up) openServices(ctx context.Context) error {
	opener, err := evidence.OpenKeys(u.path("keys", "review.key.json"))
	if err != nil {
		return err
	}
	sealer, err := evidence.OpenSealer(u.path("keys", "review.pub.json"))
	if err != nil {
		return err
	}
	token, err := access.OpenSecretFile(u.path("dev-token"))
	if err != nil {
		return err
	}
	tokens, err := access.OneToken(token, access.Reviewer{ID: "dev", Roles: []access.Role{access.Review, access.Liaison}})
	if err != nil {
		return err
	}
	u.producer, err = kafka.NewProducer(u.conn, kafka.ProducerConfig{}, u.log)
	if err != nil {
		return err
	}
	u.closers = append(u.closers, u.producer.Close)
	reg := newRegistry()
	u.review, err = openReview(ctx, reviewOptions{
		config: u.rules.config, conn: u.conn, redis: u.redis, opener: opener, sealer: sealer, tokens: tokens,
		audit: u.path("audit.ndjson"), log: u.log, registry: reg, fileRoot: u.path("attachments"),
	})
	if err != nil {
		return err
	}
	u.closers = append(u.closers, u.review.close)
	u.review.console.Metrics = promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
	u.review.console.Ready = u.ready
	u.worker = &worker{
		conn: u.conn, redis: u.redis, rules: u.rules, open: openerWith(u.keys, true), keys: u.keys, sealer: sealer,
		group: "dmguard-worker", journal: u.path("journal"), log: u.log, registry: reg,
	}
	return nil
}

func (u *up) close() {
	for len(u.closers) > 0 {
		last := u.closers[len(u.closers)-1]
		u.closers = u.closers[:len(u.closers)-1]
		last()
	}
}

// run serves until ctx ends.
func (u *up) run(ctx context.Context, seed bool) (err error) {
	if err := u.describe(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(u.path("up.json"))) }()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return u.worker.run(gctx) })
	g.Go(func() error { return u.review.run(gctx) })
	g.Go(func() error { return serveOn(gctx, u.listener, console.New(u.review.console), u.log, nil) })
	g.Go(func() error {
		if seed {
			if err := u.seed(gctx); err != nil {
				return fmt.Errorf("sending the first messages: %w", err)
			}
		}
		if u.settle(gctx) {
			u.greet()
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return err
	}
	fmt.Fprintln(u.out, "stopped; everything is kept in", u.dir)
	return nil
}

func (u *up) describe() error {
	data, err := json.Marshal(running{
		Brokers: u.conn.Brokers, HTTP: u.listener.Addr().String(), Prefix: u.rules.config.Topics.Prefix, PID: os.Getpid(),
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(u.path("up.json"), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("describing the running system: %w", err)
	}
	return nil
}

// settle waits until every message that is there is judged and its case is in
// the queue. It reports whether that came before the end of ctx.
func (u *up) settle(ctx context.Context) bool {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		done, err := u.caughtUp(ctx)
		if err != nil && ctx.Err() == nil {
			u.log.Debug("waiting for the queue", zap.Error(err))
		}
		if done {
			u.settled.Store(true)
			return true
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
}

// caughtUp compares what the log holds with what is judged and projected.
func (u *up) caughtUp(ctx context.Context) (bool, error) {
	h, err := kafka.NewHistory(u.conn, u.log)
	if err != nil {
		return false, err
	}
	defer h.Close()
	prefix := u.rules.config.Topics.Prefix
	_, ends, err := h.Ends(ctx, prefix+pipeline.TopicMessages)
	if err != nil {
		return false, err
	}
	judged, err := u.worker.positions()
	if err != nil {
		return false, err
	}
	for p, end := range ends {
		if end > 0 && judged[p] < end {
			return false, nil
		}
	}
	behind, err := u.review.projector.Behind(ctx)
	return behind == 0, err
}

// ready reports what keeps the first case from being claimed.
func (u *up) ready(ctx context.Context) error {
	if !u.settled.Load() {
		return errors.New("the messages that are there are still being judged")
	}
	return u.review.ready(ctx)
}

func (u *up) greet() {
	base := "http://" + u.listener.Addr().String()
	invite := u.review.console.Invites.New("dev", access.FirstInviteTTL)
	exe := "dmguard"
	if len(os.Args) > 0 && filepath.Base(os.Args[0]) == "dmguard" && filepath.IsAbs(os.Args[0]) {
		exe = "go run ./cmd/dmguard"
	}
	fmt.Fprintf(u.out, `
dmguard is running on this machine only. Its data is in %[1]s

  open this to review cases (it works once):
    %[2]s/signin?t=%[3]s

  or take one by hand:
    curl -s -X POST %[2]s/api/v1/claims -H "Authorization: Bearer $(cat %[1]s/dev-token)" -d '{}'
    curl -s %[2]s/api/v1/stats -H "Authorization: Bearer $(cat %[1]s/dev-token)"

  put your own messages in, one JSON object a line:
    %[4]s send --data %[1]s messages.ndjson

  the API is described at %[2]s/api/v1/openapi.yaml; Ctrl-C stops.
`, u.dir, base, invite, exe)
}
