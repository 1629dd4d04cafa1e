package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	kgo "github.com/segmentio/kafka-go"
	"go.uber.org/zap"

	"github.com/dmguard/dmguard/pipeline"
)

// History reads logs without a consumer group: single records again, or whole
// topics from start to end. It commits nothing. It is safe for concurrent use.
//
// Outages are ridden out until ctx ends.
type History struct {
	client *client
	log    *zap.Logger
}

// NewHistory returns a reader. It does not connect before the first call.
func NewHistory(conn Connection, log *zap.Logger) (*History, error) {
	c, err := conn.client()
	if err != nil {
		return nil, err
	}
	return &History{client: c, log: log}, nil
}

// Close lets go of the connections.
func (h *History) Close() {
	h.client.close()
}

// A GapError says that records asked for are gone.
type GapError struct {
	Topic     string
	Partition int32
	From, To  int64 // [From, To) is gone
}

func (e *GapError) Error() string {
	return fmt.Sprintf("%s/%d: the records from %d to before %d are gone", e.Topic, e.Partition, e.From, e.To)
}

const (
	readBytes = 64 << 10 // single records: a broker sends the first batch whole in any case
	scanBytes = 4 << 20
	scanWait  = 500 * time.Millisecond
)

// Ends returns the first offset kept of each partition of a topic, and the next
// offset to be written.
func (h *History) Ends(ctx context.Context, topic string) (first, end map[int32]int64, err error) {
	err = h.patiently(ctx, "finding the ends of a topic", topic, func() error {
		ids, err := h.client.partitions(ctx, topic)
		if err != nil {
			return err
		}
		first, end = make(map[int32]int64, len(ids)), make(map[int32]int64, len(ids))
		for _, id := range ids {
			if first[id], end[id], err = h.client.bounds(ctx, topic, id); err != nil {
				return err
			}
		}
		return nil
	})
	return first, end, err
}

// patiently calls f until it succeeds or ctx ends.
func (h *History) patiently(ctx context.Context, doing, topic string, f func() error) error {
	var wait backoff
	var rare seldom
	for {
		err := f()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s (%s): %w", doing, topic, ctx.Err())
		}
		h.client.noteError(err)
		if n, ok := rare.ok(); ok {
			h.log.Warn(doing+" fails, trying again", zap.String("topic", topic), zap.Error(err), zap.Int("unlogged", n))
		}
		if waitErr := wait.wait(ctx); waitErr != nil {
			return fmt.Errorf("%s (%s): %w (last: %w)", doing, topic, waitErr, err)
		}
	}
}

// Read reads the records at the given offsets of one partition again, and returns
// them in offset order, with the offsets that hold no record: deleted, compacted
// away or not written yet.
func (h *History) Read(ctx context.Context, topic string, partition int32, offsets []int64) (records []pipeline.Record, missing []int64, err error) {
	want := slices.Clone(offsets)
	slices.Sort(want)
	want = slices.Compact(want)
	for len(want) > 0 && want[0] < 0 {
		missing, want = append(missing, want[0]), want[1:]
	}
	for len(want) > 0 {
		var found []pipeline.Record
		next := want[0]
		err := h.patiently(ctx, "reading records again", topic, func() error {
			var err error
			found, next, err = h.fetch(ctx, topic, partition, want[0], want[len(want)-1], readBytes, 0)
			if !errors.Is(err, kgo.OffsetOutOfRange) {
				return err
			}
			first, end, err := h.client.bounds(ctx, topic, partition)
			switch {
			case err != nil:
				return err
			case want[0] < first:
				next = first
			case want[0] > end:
				next = want[len(want)-1] + 1 // past all that is asked for
			default:
				return fmt.Errorf("offset %d of %s/%d: %w", want[0], topic, partition, kgo.OffsetOutOfRange)
			}
			return nil
		})
		if err != nil {
			return nil, nil, err
		}
		if next == want[0] { // the end
			missing = append(missing, want...)
			break
		}
		i := 0
		for ; len(want) > 0 && want[0] < next; want = want[1:] {
			for i < len(found) && found[i].Offset < want[0] {
				i++
			}
			if i < len(found) && found[i].Offset == want[0] {
				r := found[i]
				// The caller keeps single records: they must not hold on to the rest.
				r.Key, r.Value = slices.Clone(r.Key), slices.Clone(r.Value)
				for j := range r.Headers {
					r.Headers[j].Value = slices.Clone(r.Headers[j].Value)
				}
				records = append(records, r)
			} else {
				missing = append(missing, want[0])
			}
		}
	}
	return records, missing, nil
}

// fetch returns the records of one response from offset on, and the next offset.
// Batches that begin after last are not decoded.
func (h *History) fetch(ctx context.Context, topic string, partition int32, offset, last int64, limit int32, wait time.Duration) ([]pipeline.Record, int64, error) {
	res, err := h.client.fetch(ctx, &fetchRequest{
		topic: topic, partition: partition, offset: offset, maxBytes: limit, minBytes: 1, maxWait: wait,
	})
	if err != nil {
		return nil, offset, fmt.Errorf("fetching %s/%d at %d: %w", topic, partition, offset, err)
	}
	if res.code != 0 {
		return nil, offset, fmt.Errorf("fetching %s/%d at %d: %w", topic, partition, offset, res.code)
	}
	var out []pipeline.Record
	next := offset
	for data := res.records; len(data) > 0 && next <= last; {
		b, rest, ok, err := nextBatch(data, next)
		if err == nil && ok && b.records != nil {
			err = b.each(next, func(offset int64, at time.Time, key, value []byte, headers []pipeline.Header) {
				out = append(out, pipeline.Record{
					Position: pipeline.Position{Topic: topic, Partition: partition, Offset: offset},
					Key:      key, Value: value, Headers: headers, Time: at,
				})
			})
		}
		if err != nil {
			if next > offset {
				break // what came before it is sound
			}
			return nil, offset, fmt.Errorf("fetching %s/%d at %d: %w", topic, partition, offset, err)
		}
		if !ok {
			break
		}
		next, data = max(next, b.last+1), rest
	}
	// A batch may have been damaged after some of its records.
	for len(out) > 0 && out[len(out)-1].Offset >= next {
		out = out[:len(out)-1]
	}
	return out, next, nil
}

// ScanOptions say which part of a topic to scan.
type ScanOptions struct {
	// From holds the first offset to read of each partition; one that it does not
	// name is read from its start.
	From map[int32]int64

	// Follow goes on after the end, also into partitions that are added later,
	// until ctx ends. Otherwise the scan ends at what was the end when it began.
	Follow bool

	// OnGap is told where the first offset asked for is gone already. If it
	// returns nil the scan goes on after the gap; without it the scan ends with a
	// [*GapError].
	OnGap func(context.Context, pipeline.Gap) error

	// Progress, where set, is told now and then how many offsets are done, of how
	// many, and once at the end. It is not used with Follow.
	Progress func(done, total int64)
}

// Scan calls handle with every record of a topic, one at a time: those of one
// partition in their order, partitions interleaved. It ends at the first error of
// handle and returns it. A record's bytes are shared with others of the same
// fetch: copy what is kept for long.
func (h *History) Scan(ctx context.Context, topic string, opts ScanOptions, handle func(pipeline.Record) error) error {
	first, end, err := h.Ends(ctx, topic)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()

	s := &scan{h: h, topic: topic, opts: opts, pieces: make(chan piece)}
	var total, done int64
	positions := map[int32]int64{}
	start := func(id int32, first, end int64) {
		from, ok := opts.From[id]
		if !ok {
			from = first
		}
		if opts.Follow {
			end = -1
		} else {
			total += max(0, end-from)
		}
		positions[id] = from
		wg.Go(func() { s.partition(ctx, id, from, end) })
	}
	for _, id := range slices.Sorted(maps.Keys(end)) {
		start(id, first[id], end[id])
	}
	active := len(positions)
	var grown <-chan time.Time
	if opts.Follow {
		t := time.NewTicker(watchInterval)
		defer t.Stop()
		grown = t.C
	}
	for active > 0 {
		select {
		case <-ctx.Done():
			return fmt.Errorf("scanning %s: %w", topic, ctx.Err())
		case <-grown:
			ids, err := h.client.partitions(ctx, topic)
			if err != nil {
				continue // those that are being read complain
			}
			for _, id := range ids {
				if _, ok := positions[id]; !ok {
					start(id, 0, -1)
					active++
				}
			}
		case p := <-s.pieces:
			for _, r := range p.records {
				if err := ctx.Err(); err != nil {
					return fmt.Errorf("scanning %s: %w", topic, err)
				}
				if err := handle(r); err != nil {
					return err
				}
			}
			if p.err != nil {
				return p.err
			}
			done += p.next - positions[p.partition]
			positions[p.partition] = p.next
			if p.last {
				active--
			}
			if opts.Progress != nil && !opts.Follow {
				opts.Progress(min(done, total), total)
			}
		}
	}
	return nil
}

type scan struct {
	h      *History
	topic  string
	opts   ScanOptions
	pieces chan piece
}

// A piece is what one fetch of a scan brought.
type piece struct {
	partition int32
	records   []pipeline.Record
	next      int64
	last      bool
	err       error
}

// partition sends the records from from to end, or for ever where end is -1.
func (s *scan) partition(ctx context.Context, id int32, from, end int64) {
	send := func(p piece) bool {
		p.partition = id
		select {
		case s.pieces <- p:
			return true
		case <-ctx.Done():
			return false
		}
	}
	for end < 0 || from < end {
		var records []pipeline.Record
		next := from
		var fatal error
		err := s.h.patiently(ctx, "scanning a topic", s.topic, func() error {
			var err error
			records, next, err = s.h.fetch(ctx, s.topic, id, from, math.MaxInt64, scanBytes, scanWait)
			if errors.Is(err, kgo.OffsetOutOfRange) {
				next, fatal, err = s.outOfRange(ctx, id, from)
			}
			return err
		})
		if err == nil {
			err = fatal
		}
		if err != nil {
			send(piece{next: from, err: err})
			return
		}
		if next == from {
			continue // the broker waited, and nothing came
		}
		if end >= 0 {
			for len(records) > 0 && records[len(records)-1].Offset >= end {
				records = records[:len(records)-1]
			}
			next = min(next, end)
		}
		from = next
		if !send(piece{records: records, next: next, last: end >= 0 && from >= end}) || (end >= 0 && from >= end) {
			return
		}
	}
	send(piece{next: from, last: true})
}

// outOfRange settles what is wrong with an offset: it returns where to go on, or
// a fatal error, or one that trying again may cure.
func (s *scan) outOfRange(ctx context.Context, id int32, from int64) (next int64, fatal, err error) {
	first, end, err := s.h.client.bounds(ctx, s.topic, id)
	switch {
	case err != nil:
		return from, nil, err
	case from > end:
		return from, fmt.Errorf("%s/%d: offset %d lies beyond the end %d: the log was truncated or the topic created again", s.topic, id, from, end), nil
	case from >= first:
		return from, nil, kgo.OffsetOutOfRange
	case s.opts.OnGap == nil:
		return from, &GapError{s.topic, id, from, first}, nil
	}
	g := pipeline.Gap{
		Topic: s.topic, Partition: id, From: from, To: first,
		Reason: "the records were deleted before they were read", DetectedAt: time.Now().UTC(),
	}
	if err := s.opts.OnGap(ctx, g); err != nil {
		return from, fmt.Errorf("recording a gap in %s/%d: %w", s.topic, id, err), nil
	}
	return first, nil, nil
}
