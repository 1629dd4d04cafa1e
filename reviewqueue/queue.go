package reviewqueue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/reviewqueue/audit"
	"github.com/dmguard/dmguard/reviewqueue/evidence"
)

// Errors that a caller decides by. Every other error is an outage.
var (
	ErrEmpty            = errors.New("no case waits")
	ErrLeaseLost        = errors.New("the lease on this case is not, or no longer, held with this token")
	ErrNotFound         = errors.New("no such case")
	ErrAuditUnavailable = errors.New("the audit log cannot be written, so nothing is shown")
	ErrBasis            = errors.New("the basis does not exist for this purpose and case")
	ErrInvalid          = errors.New("invalid request") // the wrapping error says what, for the caller
)

// Config says how a queue works. [DefaultConfig] is where to start from.
type Config struct {
	// Prefix is what the keys in Redis start with; TopicPrefix what the topics
	// do.
	Prefix      string
	TopicPrefix string

	// Shards is over how many hash slots the cases are spread. Every process
	// must use the same number; after a change the queue is rebuilt.
	Shards int

	Lease       time.Duration // how long a claim lasts without a heartbeat
	MaxAttempts int           // leases of a revision that run out before a case is Dead

	// SLA is how long after its first hit a case of this severity should be
	// decided: cases are handed out by that deadline, the critical ones first.
	SLA map[pipeline.Severity]time.Duration

	// Labels may be put on a decision.
	Labels []string

	// AttachmentLimit is how much of an attachment is fetched from the store,
	// in bytes.
	AttachmentLimit int64
}

// DefaultConfig returns the reference configuration.
func DefaultConfig() Config {
	return Config{
		Prefix:      "dmguard:",
		TopicPrefix: "dm.",
		Shards:      1,
		Lease:       10 * time.Minute,
		MaxAttempts: 5,
		SLA: map[pipeline.Severity]time.Duration{
			pipeline.None:     7 * 24 * time.Hour,
			pipeline.Low:      72 * time.Hour,
			pipeline.Medium:   24 * time.Hour,
			pipeline.High:     4 * time.Hour,
			pipeline.Critical: time.Hour,
		},
		Labels:          []string{"csam", "grooming", "ncii", "terrorism", "other_harm", "not_harmful"},
		AttachmentLimit: 32 << 20,
	}
}

func (c *Config) validate() error {
	var errs []error
	if strings.ContainsAny(c.Prefix, "{}") {
		errs = append(errs, fmt.Errorf("prefix %q: braces would move the keys to another slot", c.Prefix))
	}
	if c.Shards < 1 || c.Shards > 1024 {
		errs = append(errs, fmt.Errorf("shards %d: want 1 to 1024", c.Shards))
	}
	if c.Lease < time.Second || c.Lease > 24*time.Hour {
		errs = append(errs, fmt.Errorf("lease %s: want 1s to 24h", c.Lease))
	}
	if c.MaxAttempts < 1 {
		errs = append(errs, fmt.Errorf("max attempts %d: want 1 or more", c.MaxAttempts))
	}
	for s := pipeline.None; s <= pipeline.Critical; s++ {
		if d, ok := c.SLA[s]; !ok || d < time.Second || d > 10*365*24*time.Hour {
			errs = append(errs, fmt.Errorf("sla of severity %s: want 1s to 10 years, have %s", s, d))
		}
	}
	if c.AttachmentLimit < 1 {
		errs = append(errs, fmt.Errorf("attachment limit %d: want 1 or more bytes", c.AttachmentLimit))
	}
	return errors.Join(errs...)
}

// Log is what the queue reads of Kafka.
type Log interface {
	// Ends returns the first offset kept of each partition and the next to be
	// written.
	Ends(ctx context.Context, topic string) (first, end map[int32]int64, err error)

	// Scan hands over the records of a topic one at a time, those of one
	// partition in their order, from the offsets given, or from the start of a
	// partition where none is. Records that are gone are passed over. It ends
	// with the first error of handle, or at what was the end when it began, or,
	// where it follows, with ctx.
	Scan(ctx context.Context, topic string, from map[int32]int64, follow bool, handle func(pipeline.Record) error) error

	// Read returns the records at offsets of one partition, and those offsets
	// that hold none any more.
	Read(ctx context.Context, topic string, partition int32, offsets []int64) (records []pipeline.Record, missing []int64, err error)
}

// Deps are what a queue works with. All but LegalRequest, Fetch and Logger are
// needed.
type Deps struct {
	Redis redis.UniversalClient
	Log   Log

	// Append writes one record durably and says where.
	Append func(context.Context, pipeline.Record) (pipeline.Position, error)

	Opener *evidence.Opener
	Sealer *evidence.Sealer // for notes of decisions
	Audit  *audit.Log

	// LegalRequest reports whether a law-enforcement request with this
	// reference exists and covers the case. None exists where it is nil.
	LegalRequest func(ctx context.Context, reference, caseID string) (bool, error)

	// Fetch reads an attachment of at most limit bytes from the store.
	Fetch func(ctx context.Context, uri string, limit int64) ([]byte, error)

	Logger *zap.Logger
}

// Queue is the review queue: cases in Redis, which is a view of dm.hits and
// dm.decisions. It is safe for concurrent use, by several processes too.
type Queue struct {
	config Config
	deps   Deps
	log    *zap.Logger
	open   opener
	audit  auditor
	skew   func() time.Duration // for tests: added to Redis's time

	mu          sync.Mutex
	generations []string // by shard, as last seen; guarded by mu
}

// opener and auditor are implemented a second time by tests, which count.
type (
	opener interface {
		Open(pipeline.SealedEvidence, string, string) (*pipeline.Evidence, error)
	}
	auditor interface {
		Append(context.Context, audit.Entry) (audit.Receipt, error)
	}
)

// New returns a queue. It does not connect: see [Queue.Ping].
func New(config Config, deps Deps) (*Queue, error) {
	err := config.validate()
	if deps.Redis == nil || deps.Log == nil || deps.Append == nil || deps.Opener == nil || deps.Sealer == nil || deps.Audit == nil {
		err = errors.Join(err, errors.New("a queue needs Redis, Log, Append, Opener, Sealer and Audit"))
	}
	if err != nil {
		return nil, fmt.Errorf("review queue: %w", err)
	}
	q := newQueue(config, deps)
	q.open, q.audit = deps.Opener, deps.Audit
	return q, nil
}

// NewView returns a queue that can be projected into and counted, and nothing
// else: it has no keys, no audit log and no way to write a decision.
func NewView(config Config, rdb redis.UniversalClient, log Log, logger *zap.Logger) (*Queue, error) {
	if err := config.validate(); err != nil {
		return nil, fmt.Errorf("review queue: %w", err)
	}
	return newQueue(config, Deps{Redis: rdb, Log: log, Logger: logger}), nil
}

func newQueue(config Config, deps Deps) *Queue {
	q := &Queue{
		config: config, deps: deps, log: deps.Logger,
		skew:        func() time.Duration { return 0 },
		generations: slices.Repeat([]string{"0"}, config.Shards),
	}
	if q.log == nil {
		q.log = zap.NewNop()
	}
	return q
}

// Labels returns the labels that may be put on a decision.
func (q *Queue) Labels() []string { return slices.Clone(q.config.Labels) }

func (q *Queue) topic(name string) string { return q.config.TopicPrefix + name }
