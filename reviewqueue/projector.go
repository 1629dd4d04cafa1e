package reviewqueue

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/dmguard/dmguard/pipeline"
)

// Projector folds dm.hits and dm.decisions into the queue. Several may run,
// also in several processes: they repeat each other's work and change nothing.
type Projector struct {
	queue *Queue
	log   Log

	// CheckEvery is how often Run looks whether Redis still holds what was
	// folded; RetryAfter how long it waits after an outage.
	CheckEvery time.Duration
	RetryAfter time.Duration

	caughtUp atomic.Bool
	bad      atomic.Int64
}

// NewProjector returns a projector of log into q.
func NewProjector(q *Queue, log Log) *Projector {
	return &Projector{queue: q, log: log, CheckEvery: 2 * time.Second, RetryAfter: time.Second}
}

// CaughtUp reports whether everything was folded that was in the log when Run
// last started or found Redis emptied.
func (p *Projector) CaughtUp() bool { return p.caughtUp.Load() }

// BadRecords returns how many records could not be folded, because they are not
// what their topic holds. Each was logged by its position.
func (p *Projector) BadRecords() int64 { return p.bad.Load() }

// Run follows the log from where the queue stands until ctx ends. It rides out
// outages, and starts again where Redis was emptied.
func (p *Projector) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := p.follow(ctx)
		p.caughtUp.Store(false)
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, errGap):
			p.queue.log.Info("the review queue was emptied or rebuilt: projecting again from where it stands")
		default:
			p.queue.log.Warn("projecting into the review queue", zap.Error(err))
			wait(ctx, p.RetryAfter)
		}
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// Rebuild throws the view away and projects the log again up to where it ends
// now, while services run: leases are lost, decisions are not. progress may be
// nil and is told how many of the records have been passed.
func (p *Projector) Rebuild(ctx context.Context, progress func(done, total int64)) error {
	if err := p.queue.wipe(ctx); err != nil {
		return err
	}
	for {
		err := (&run{Projector: p, progress: progress}).toEnds(ctx)
		if !errors.Is(err, errGap) {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("rebuilding the review queue: %w", ctx.Err())
		}
	}
}

// wipe starts a new generation of every shard and deletes the one before.
func (q *Queue) wipe(ctx context.Context) error {
	for shard := range q.config.Shards {
		if _, err := q.positions(ctx, shard); err != nil { // learns the generation
			return err
		}
		old := q.generation(shard)
		keys := q.keys(shard, old)
		answer, err := texts(wipeScript.Run(ctx, q.deps.Redis, keys, old, q.skew().Milliseconds()))
		if err != nil {
			return fmt.Errorf("emptying the review queue: %w", err)
		}
		q.setGeneration(shard, answer[1])
		if err := q.unlink(ctx, shard, old); err != nil {
			return fmt.Errorf("emptying the review queue: %w", err)
		}
	}
	return nil
}

// unlink deletes the keys of a generation that is no longer current.
func (q *Queue) unlink(ctx context.Context, shard int, generation string) error {
	keys := q.keys(shard, generation)
	var cursor uint64
	for {
		page, next, err := q.deps.Redis.HScan(ctx, keys[keyCases], cursor, "", 256).Result()
		if err != nil {
			return err
		}
		var own []string
		for i := 0; i < len(page); i += 2 {
			own = append(own, q.caseKeys(shard, generation, page[i])...)
		}
		if len(own) > 0 {
			if err := q.deps.Redis.Unlink(ctx, own...).Err(); err != nil {
				return err
			}
		}
		if cursor = next; cursor == 0 {
			break
		}
	}
	return q.deps.Redis.Unlink(ctx, keys[keyPositions:]...).Err()
}

// positions returns the next offset to fold by topic and partition, as a shard
// has them.
func (q *Queue) positions(ctx context.Context, shard int) (map[string]int64, error) {
	for range maxGenerations {
		generation := q.generation(shard)
		keys := q.keys(shard, generation)
		var now *redis.StringCmd
		var fields *redis.MapStringStringCmd
		_, err := q.deps.Redis.TxPipelined(ctx, func(p redis.Pipeliner) error {
			now, fields = p.Get(ctx, keys[keyGeneration]), p.HGetAll(ctx, keys[keyPositions])
			return nil
		})
		if err != nil && !errors.Is(err, redis.Nil) {
			return nil, fmt.Errorf("reading the position of the review queue: %w", err)
		}
		if current := orZero(now); current != generation {
			q.setGeneration(shard, current)
			continue
		}
		out := map[string]int64{}
		for field, text := range fields.Val() {
			if field == fieldFence {
				continue
			}
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("reading the position of the review queue: %w", err)
			}
			out[field] = n
		}
		return out, nil
	}
	return nil, errUnsettled
}

// Behind returns how many records of the log the queue does not show yet.
func (p *Projector) Behind(ctx context.Context) (int64, error) {
	at, err := p.queue.lowest(ctx)
	if err != nil {
		return 0, err
	}
	var n int64
	for _, topic := range topics() {
		first, end, err := p.log.Ends(ctx, p.queue.topic(topic))
		if err != nil {
			return 0, fmt.Errorf("reading the ends of %s: %w", p.queue.topic(topic), err)
		}
		for partition, offset := range end {
			n += max(0, offset-max(first[partition], at[field(topic, partition)]))
		}
	}
	return n, nil
}

// lowest returns the next offset of a partition that not every shard has.
func (q *Queue) lowest(ctx context.Context) (map[string]int64, error) {
	var out map[string]int64
	for shard := range q.config.Shards {
		at, err := q.positions(ctx, shard)
		if err != nil {
			return nil, err
		}
		if out == nil {
			out = at
			continue
		}
		for field := range out {
			out[field] = min(out[field], at[field])
		}
	}
	return out, nil
}

// fieldFence lies beside the positions: see claim.lua.
const fieldFence = "fence"

func field(topic string, partition int32) string {
	return topic + "/" + strconv.Itoa(int(partition))
}

// run is one projection from where the queue stands.
type run struct {
	*Projector
	progress func(done, total int64)

	total int64 // records to the ends

	mu   sync.Mutex
	at   map[string]int64 // next offset by field; guarded by mu
	done int64            // of total; guarded by mu
}

// topics are what is projected: the decisions first, so that what was decided
// never shows as waiting.
func topics() []string { return []string{pipeline.TopicDecisions, pipeline.TopicHits} }

// follow projects until something fails.
func (p *Projector) follow(ctx context.Context) error {
	r := &run{Projector: p}
	if err := r.toEnds(ctx); err != nil {
		return err
	}
	p.caughtUp.Store(true)
	group, ctx := errgroup.WithContext(ctx)
	for _, topic := range topics() {
		group.Go(func() error { return r.scan(ctx, topic, true, 1) })
	}
	group.Go(func() error { return r.watch(ctx) })
	return group.Wait()
}

// toEnds projects up to where the log ends now.
func (r *run) toEnds(ctx context.Context) error {
	at, err := r.queue.lowest(ctx)
	if err != nil {
		return err
	}
	r.at = at
	ends := map[string]map[int32]int64{}
	for _, topic := range topics() {
		first, end, err := r.log.Ends(ctx, r.queue.topic(topic))
		if err != nil {
			return fmt.Errorf("reading the ends of %s: %w", r.queue.topic(topic), err)
		}
		for partition, offset := range end {
			r.total += max(0, offset-max(first[partition], r.at[field(topic, partition)]))
		}
		ends[topic] = end
	}
	for _, topic := range topics() {
		if err := r.scan(ctx, topic, false, maxFoldBatch); err != nil {
			return err
		}
		// Also past what retention has taken from the end of a partition.
		for partition, end := range ends[topic] {
			b := r.newBatch(field(topic, partition))
			b.to = max(b.from, end)
			if err := r.flush(ctx, b); err != nil {
				return err
			}
		}
	}
	return nil
}

// batch is consecutive records of one partition that are folded together.
type batch struct {
	field    string
	from, to int64
	shards   [][]folded
	records  int
}

func (r *run) newBatch(field string) *batch {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := r.at[field]
	return &batch{field: field, from: at, to: at, shards: make([][]folded, r.queue.config.Shards)}
}

// scan folds a topic from where the run stands, size records at a time.
func (r *run) scan(ctx context.Context, topic string, follow bool, size int) error {
	prefix, from := topic+"/", map[int32]int64{}
	r.mu.Lock()
	for f, offset := range r.at {
		if partition, ok := strings.CutPrefix(f, prefix); ok {
			n, err := strconv.ParseInt(partition, 10, 32)
			if err != nil {
				r.mu.Unlock()
				return fmt.Errorf("reading the position of the review queue: %w", err)
			}
			from[int32(n)] = offset
		}
	}
	r.mu.Unlock()
	batches := map[int32]*batch{}
	err := r.log.Scan(ctx, r.queue.topic(topic), from, follow, func(rec pipeline.Record) error {
		b := batches[rec.Partition]
		if b == nil {
			b = r.newBatch(field(topic, rec.Partition))
			batches[rec.Partition] = b
		}
		r.add(b, &rec)
		if b.records < size {
			return nil
		}
		delete(batches, rec.Partition)
		return r.flush(ctx, b)
	})
	if err != nil {
		return err
	}
	if follow {
		return fmt.Errorf("reading %s ended by itself", r.queue.topic(topic))
	}
	for _, b := range batches {
		if err := r.flush(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) add(b *batch, rec *pipeline.Record) {
	b.to = max(b.to, rec.Offset+1)
	b.records++
	one, err := r.queue.prepare(rec)
	if err != nil {
		r.bad.Add(1)
		r.queue.log.Error("record left out of the review queue", zap.String("topic", rec.Topic),
			zap.Int32("partition", rec.Partition), zap.Int64("offset", rec.Offset), zap.Error(err))
		return
	}
	shard := r.queue.shard(one.caseID)
	b.shards[shard] = append(b.shards[shard], one)
}

// flush folds a batch into every shard and moves their positions.
func (r *run) flush(ctx context.Context, b *batch) error {
	if b.to == b.from {
		return nil
	}
	for shard, records := range b.shards {
		if _, err := r.queue.fold(ctx, shard, records, b.field, b.from, b.to); err != nil {
			return err
		}
	}
	r.mu.Lock()
	r.at[b.field] = b.to
	r.done = min(r.done+int64(b.records), r.total)
	done := r.done
	r.mu.Unlock()
	if r.progress != nil {
		r.progress(done, r.total)
	}
	return nil
}

// watch returns errGap once Redis no longer holds what the run has folded: with
// no new records, nothing else would notice.
func (r *run) watch(ctx context.Context) error {
	tick := time.NewTicker(r.CheckEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		r.mu.Lock()
		folded := maps.Clone(r.at)
		r.mu.Unlock()
		stored, err := r.queue.lowest(ctx)
		if err != nil {
			return err
		}
		for f, offset := range folded {
			if stored[f] < offset {
				return errGap
			}
		}
	}
}
