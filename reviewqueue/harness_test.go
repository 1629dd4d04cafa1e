package reviewqueue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/go-json-experiment/json"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/reviewqueue/access"
	"github.com/dmguard/dmguard/reviewqueue/audit"
	"github.com/dmguard/dmguard/reviewqueue/evidence"
)

// memLog is a log in memory with three partitions a topic.
type memLog struct {
	mu      sync.Mutex
	grown   chan struct{} // closed and replaced when a record is added; guarded by mu
	topics  map[string][][]pipeline.Record
	fail    error // of Append and Read; guarded by mu
	onWrite func()
}

const testPartitions = 3

func newMemLog() *memLog {
	return &memLog{grown: make(chan struct{}), topics: map[string][][]pipeline.Record{}}
}

func (l *memLog) partitions(topic string) [][]pipeline.Record {
	if l.topics[topic] == nil {
		l.topics[topic] = make([][]pipeline.Record, testPartitions)
	}
	return l.topics[topic]
}

func (l *memLog) Append(_ context.Context, rec pipeline.Record) (pipeline.Position, error) {
	h := fnv.New32a()
	_, _ = h.Write(rec.Key)
	return l.appendTo(int(h.Sum32()%testPartitions), rec)
}

func (l *memLog) appendTo(partition int, rec pipeline.Record) (pipeline.Position, error) {
	if l.onWrite != nil {
		l.onWrite()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return pipeline.Position{}, l.fail
	}
	p := l.partitions(rec.Topic)
	rec.Partition, rec.Offset = int32(partition), int64(len(p[partition]))
	p[partition] = append(p[partition], rec)
	close(l.grown)
	l.grown = make(chan struct{})
	return rec.Position, nil
}

func (l *memLog) Ends(_ context.Context, topic string) (first, end map[int32]int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first, end = map[int32]int64{}, map[int32]int64{}
	for i, p := range l.partitions(topic) {
		first[int32(i)], end[int32(i)] = 0, int64(len(p))
	}
	return first, end, nil
}

func (l *memLog) Scan(ctx context.Context, topic string, from map[int32]int64, follow bool, handle func(pipeline.Record) error) error {
	at := maps.Clone(from)
	_, end, _ := l.Ends(ctx, topic)
	for {
		l.mu.Lock()
		grown := l.grown
		var batch []pipeline.Record
		for i, p := range l.partitions(topic) {
			to := int64(len(p))
			if !follow {
				to = end[int32(i)]
			}
			if at[int32(i)] < to {
				batch = append(batch, p[at[int32(i)]:to]...)
				at[int32(i)] = to
			}
		}
		l.mu.Unlock()
		for _, rec := range batch {
			if err := handle(rec); err != nil {
				return err
			}
		}
		if !follow {
			return nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l *memLog) Read(_ context.Context, topic string, partition int32, offsets []int64) (records []pipeline.Record, missing []int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return nil, nil, l.fail
	}
	p := l.partitions(topic)[partition]
	for _, o := range offsets {
		if o < int64(len(p)) && p[o].Value != nil {
			records = append(records, p[o])
		} else {
			missing = append(missing, o)
		}
	}
	return records, missing, nil
}

// backend is a Redis to test against.
type backend struct {
	name   string
	client func(*testing.T) redis.UniversalClient
}

// backends are the in-process Redis and those that the environment names. On
// the build server all must be there.
func backends(t *testing.T) []backend {
	t.Helper()
	all := []backend{{"miniredis", func(t *testing.T) redis.UniversalClient {
		return connect(t, &redis.UniversalOptions{Addrs: []string{miniredis.RunT(t).Addr()}})
	}}}
	for _, env := range []string{"DMGUARD_TEST_REDIS", "DMGUARD_TEST_REDIS_CLUSTER"} {
		addrs := os.Getenv(env)
		if addrs == "" {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is not set: run the tests with make test, which starts the servers", env)
			}
			t.Logf("%s is not set: make test starts a server and runs this against it too", env)
			continue
		}
		all = append(all, backend{env, func(t *testing.T) redis.UniversalClient {
			return connect(t, &redis.UniversalOptions{Addrs: strings.Split(addrs, ","), IsClusterMode: env == "DMGUARD_TEST_REDIS_CLUSTER"})
		}})
	}
	return all
}

func connect(t *testing.T, o *redis.UniversalOptions) redis.UniversalClient {
	c := redis.NewUniversalClient(o)
	t.Cleanup(func() { c.Close() })
	return c
}

// onEvery runs a test against every Redis there is.
func onEvery(t *testing.T, test func(t *testing.T, e *env)) {
	t.Helper()
	for _, b := range backends(t) {
		t.Run(b.name, func(t *testing.T) { test(t, newEnv(t, b.client(t), nil)) })
	}
}

// env is a queue with what it works on.
type env struct {
	*Queue
	t       *testing.T
	log     *memLog
	sealer  *evidence.Sealer
	opens   *countingOpener
	audit   *fakeAudit
	skewed  atomic.Int64 // milliseconds
	journal []string     // order of effects
}

type countingOpener struct {
	*evidence.Opener
	env   *env
	calls int
}

func (o *countingOpener) Open(s pipeline.SealedEvidence, caseID, messageID string) (*pipeline.Evidence, error) {
	o.calls++
	o.env.journal = append(o.env.journal, "open")
	return o.Opener.Open(s, caseID, messageID)
}

type fakeAudit struct {
	env     *env
	entries []audit.Entry
	fail    func(audit.Entry) error
}

func (a *fakeAudit) Append(_ context.Context, e audit.Entry) (audit.Receipt, error) {
	if a.fail != nil {
		if err := a.fail(e); err != nil {
			return audit.Receipt{}, err
		}
	}
	a.entries = append(a.entries, e)
	a.env.journal = append(a.env.journal, string(e.Phase))
	return audit.Receipt{Index: int64(len(a.entries) - 1)}, nil
}

// testKeys is made once: making a key is slow under the race detector.
var testKeys = sync.OnceValues(func() (*evidence.Sealer, *evidence.Opener) {
	dir, err := os.MkdirTemp("", "dmguard-keys-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	public, private := filepath.Join(dir, "pub"), filepath.Join(dir, "priv")
	_, err = evidence.NewKeyPair(public, private)
	sealer, err2 := evidence.OpenSealer(public)
	opener, err3 := evidence.OpenKeys(private)
	if err := errors.Join(err, err2, err3); err != nil {
		panic(err)
	}
	return sealer, opener
})

var prefixes atomic.Int64

func newEnv(t *testing.T, client redis.UniversalClient, change func(*Config)) *env {
	t.Helper()
	config := DefaultConfig()
	config.Prefix = fmt.Sprintf("test-%d-%d:", os.Getpid(), prefixes.Add(1))
	config.Shards = 3
	if change != nil {
		change(&config)
	}
	e := &env{t: t, log: newMemLog()}
	sealer, opener := testKeys()
	e.sealer, e.opens = sealer, &countingOpener{opener, e, 0}
	auditLog, _, err := audit.Open(filepath.Join(t.TempDir(), "audit.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { auditLog.Close() })
	e.audit = &fakeAudit{env: e}
	e.Queue, err = New(config, Deps{
		Redis: client, Log: e.log, Append: e.log.Append, Opener: opener, Sealer: sealer, Audit: auditLog, Logger: zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	e.open, e.Queue.audit = e.opens, e.audit
	e.skew = func() time.Duration { return time.Duration(e.skewed.Load()) * time.Millisecond }
	t.Cleanup(func() { // it may be a user's own server
		e.wipe(context.Background())
		for shard := range config.Shards {
			e.deps.Redis.Del(context.Background(), e.keys(shard, "")[keyGeneration])
		}
	})
	return e
}

func (e *env) advance(d time.Duration) { e.skewed.Add(d.Milliseconds()) }

var (
	alice = access.Reviewer{ID: "alice", Roles: []access.Role{access.Review}}
	bob   = access.Reviewer{ID: "bob", Roles: []access.Role{access.Review}}
	lea   = access.Reviewer{ID: "lea", Roles: []access.Role{access.Liaison}}
)

// begin is the time that tests start from.
var begin = time.Now().UTC().Truncate(time.Second)

// hit returns a hit on a message, sealed to the test's key.
func (e *env) hit(conversation, message string, severity pipeline.Severity, change func(*pipeline.Hit, *pipeline.Evidence)) pipeline.Record {
	e.t.Helper()
	h := pipeline.Hit{
		CaseID: pipeline.CaseID(pipeline.ConversationCase, conversation), CaseKey: conversation, Kind: pipeline.ConversationCase,
		Verdict: pipeline.Verdict{
			MessageID: message, ConversationID: conversation, Action: pipeline.Review, Severity: severity,
			Findings:  []pipeline.Finding{{Detector: "grooming", Category: "grooming", Label: "secrecy", Score: 0.8, Reason: "asks to keep it between the two"}},
			Versions:  map[string]string{"ruleset": "1"},
			DecidedAt: begin,
		},
		SentAt: begin.Add(-time.Hour),
	}
	ev := pipeline.Evidence{Text: "words of " + message, SenderID: "u-1"}
	if change != nil {
		change(&h, &ev)
	}
	h.TextBytes = len(ev.Text)
	sealed, err := e.sealer.Seal(&ev, h.CaseID, message)
	if err != nil {
		e.t.Fatal(err)
	}
	if h.Evidence.Sealed == nil {
		h.Evidence = sealed
	}
	value, err := json.Marshal(h)
	if err != nil {
		e.t.Fatal(err)
	}
	return pipeline.Record{Position: pipeline.Position{Topic: "dm.hits"}, Key: []byte(h.CaseKey), Value: value, Time: begin}
}

// add logs a hit and folds it.
func (e *env) add(rec pipeline.Record) {
	e.t.Helper()
	pos, err := e.log.Append(e.t.Context(), rec)
	if err != nil {
		e.t.Fatal(err)
	}
	rec.Position = pos
	if err := e.Ingest(e.t.Context(), rec); err != nil {
		e.t.Fatal(err)
	}
}

func (e *env) claim(r access.Reviewer) *Lease {
	e.t.Helper()
	l, err := e.Claim(e.t.Context(), r, "", "")
	if err != nil {
		e.t.Fatalf("claim: %v", err)
	}
	return l
}

func (e *env) wantState(caseID string, want State, revision int) *Case {
	e.t.Helper()
	c, err := e.Case(e.t.Context(), alice, caseID)
	if err != nil {
		e.t.Fatal(err)
	}
	if c.State != want || c.Revision != revision {
		e.t.Fatalf("the case is %s at revision %d, want %s at %d", c.State, c.Revision, want, revision)
	}
	return c
}

func convCase(conversation string) string {
	return pipeline.CaseID(pipeline.ConversationCase, conversation)
}

// rebuild throws the view away and projects the log again.
func (e *env) rebuild() {
	e.t.Helper()
	if err := NewProjector(e.Queue, e.log).Rebuild(e.t.Context(), nil); err != nil {
		e.t.Fatal(err)
	}
}

func bytesReader(b []byte) io.Reader { return bytes.NewReader(b) }
