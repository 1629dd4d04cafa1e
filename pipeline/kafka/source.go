package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	kgo "github.com/segmentio/kafka-go"
	"go.uber.org/zap"

	"github.com/dmguard/dmguard/pipeline"
)

// SourceConfig says what to read. Group, Topic and OnGap are needed; a zero in
// the others takes the default.
type SourceConfig struct {
	Group string
	Topic string

	// OnGap is told of offsets that retention deleted before they were delivered.
	// It stores that durably and returns nil; until it does, the partition waits
	// and OnGap is called again. The same gap may be reported again after a crash.
	OnGap func(context.Context, pipeline.Gap) error

	// OnAssign, where set, is called when a partition is assigned, before any of it
	// is fetched, with the offset at which reading goes on, -1 where the group is
	// new to it. Until it returns nil the partition waits and it is called again.
	OnAssign func(ctx context.Context, partition, epoch int32, committed int64) error

	MaxInFlight      int           // records of one partition; 20,000
	MaxInFlightBytes int64         // keys and values of one partition, records not done; 64 MiB
	MaxBatch         int           // records that one Receive returns; 1,000
	FetchBytes       int           // that one request asks for; 4 MiB
	FetchWait        time.Duration // how long a broker waits for records; 500 ms
	Linger           time.Duration // pause after a fetch of little, so that the next is worth its cost; 10 ms
	CommitInterval   time.Duration // 150 ms
	DrainTimeout     time.Duration // how long a lost partition may take to finish; 10 s
	SessionTimeout   time.Duration // after which the group gives a silent member up; 30 s
	RebalanceTimeout time.Duration // that the group gives its members to join again; 60 s
	Heartbeat        time.Duration // 1 s
}

// withDefaults fills in what is not set and reports every fault at once.
func (c *SourceConfig) withDefaults() (SourceConfig, error) {
	out := *c
	var errs []error
	fail := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("kafka: source: "+format, args...))
	}
	if out.Group == "" {
		fail("no consumer group is named")
	}
	if out.Topic == "" {
		fail("no topic is named")
	}
	if out.OnGap == nil {
		fail("nobody takes reports of gaps")
	}
	for _, d := range []struct {
		name     string
		v        *time.Duration
		fallback time.Duration
	}{
		{"fetch wait", &out.FetchWait, 500 * time.Millisecond},
		{"linger", &out.Linger, 10 * time.Millisecond},
		{"commit interval", &out.CommitInterval, 150 * time.Millisecond},
		{"drain timeout", &out.DrainTimeout, 10 * time.Second},
		{"session timeout", &out.SessionTimeout, 30 * time.Second},
		{"rebalance timeout", &out.RebalanceTimeout, time.Minute},
		{"heartbeat", &out.Heartbeat, time.Second},
	} {
		switch {
		case *d.v == 0:
			*d.v = d.fallback
		case *d.v < time.Millisecond:
			fail("the %s of %v is too short", d.name, *d.v)
		}
	}
	for _, n := range []struct {
		name     string
		v        *int
		fallback int
	}{
		{"records in flight", &out.MaxInFlight, 20_000},
		{"records a batch", &out.MaxBatch, 1_000},
		{"bytes a fetch", &out.FetchBytes, 4 << 20},
	} {
		switch {
		case *n.v == 0:
			*n.v = n.fallback
		case *n.v < 0 || *n.v > 1<<30:
			fail("%d %s is out of range", *n.v, n.name)
		}
	}
	switch {
	case out.MaxInFlightBytes == 0:
		out.MaxInFlightBytes = 64 << 20
	case out.MaxInFlightBytes < 0:
		fail("a negative number of bytes in flight")
	}
	// No heartbeat is sent while a lost generation drains.
	if out.DrainTimeout >= out.RebalanceTimeout || out.DrainTimeout >= out.SessionTimeout {
		fail("the drain timeout (%v) must be below the rebalance timeout (%v) and the session timeout (%v)",
			out.DrainTimeout, out.RebalanceTimeout, out.SessionTimeout)
	}
	if out.Heartbeat*3 > out.SessionTimeout {
		fail("the session timeout (%v) must be at least three heartbeats (%v)", out.SessionTimeout, out.Heartbeat)
	}
	return out, errors.Join(errs...)
}

// A Source delivers a consumer group's share of a topic. It implements
// [pipeline.Source].
//
// For each partition it knows which deliveries are done, and commits the offset
// below which all are. Where the group takes a partition away, no more of it is
// fetched, what is in flight gets DrainTimeout to be done, the position is
// committed for the last time, and only then the member joins again. Reports of
// deliveries from before that are ignored: whoever has the partition now gets
// those records again.
type Source struct {
	cfg    SourceConfig
	client *client
	log    *zap.Logger
	out    chan []*pipeline.Delivery
	cancel context.CancelFunc
	abort  chan struct{} // closed when Close may wait no longer
	done   chan struct{} // closed when the supervisor has returned

	epoch  atomic.Int32
	counts struct {
		delivered, bytes, gaps, missed, commits, commitErrors, fetchErrors, corrupt, late, undone atomic.Int64
	}

	mu      sync.Mutex
	shares  []*share         // of the current generation
	stopped map[int32]string // partitions that must not be read on, and why

	closeOnce sync.Once
	closeErr  error
}

var _ pipeline.Source = (*Source)(nil)

// OpenSource joins the group and starts to fetch. It returns before the group
// has let it in: an outage then is ridden out like any later.
func OpenSource(conn Connection, cfg SourceConfig, log *zap.Logger) (*Source, error) {
	full, err := cfg.withDefaults()
	c, connErr := conn.client()
	if err := errors.Join(err, connErr); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Source{
		cfg: full, client: c, log: log,
		out:     make(chan []*pipeline.Delivery),
		cancel:  cancel,
		abort:   make(chan struct{}),
		done:    make(chan struct{}),
		stopped: map[int32]string{},
	}
	go s.supervise(ctx)
	return s, nil
}

var errClosed = errors.New("kafka: source is closed")

// Receive returns the next deliveries, all of one partition, in offset order. Its
// only errors are those of ctx, and that the source was closed.
func (s *Source) Receive(ctx context.Context) ([]*pipeline.Delivery, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case batch := <-s.out:
		return batch, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.done:
		return nil, errClosed
	}
}

// Close stops fetching, waits until what is in flight is done, commits and leaves
// the group. What is not done when ctx ends, or after DrainTimeout, is delivered
// again, to whoever reads the partition next; the error says how many those are.
func (s *Source) Close(ctx context.Context) error {
	s.closeOnce.Do(func() {
		s.cancel()
		select {
		case <-s.done:
		case <-ctx.Done():
			close(s.abort)
			<-s.done // bounded by the timeouts of its last requests
		}
		s.client.close()
		if n := s.counts.undone.Load(); n > 0 {
			s.closeErr = fmt.Errorf("closing the source: %d deliveries were not done and will come again", n)
		}
	})
	return s.closeErr
}

// join makes the group, once the topic exists: kafka-go would join an empty
// group over and over until it does.
func (s *Source) join(ctx context.Context) (*kgo.ConsumerGroup, error) {
	var wait backoff
	var rare seldom
	for {
		_, err := s.client.partitions(ctx, s.cfg.Topic)
		if err == nil {
			break
		}
		if n, ok := rare.ok(); ok && ctx.Err() == nil {
			s.log.Warn("finding the topic fails, trying again", zap.String("topic", s.cfg.Topic), zap.Error(err), zap.Int("unlogged", n))
		}
		if err := wait.wait(ctx); err != nil {
			return nil, err
		}
	}
	debug := kgo.LoggerFunc(func(format string, args ...any) {
		s.log.Debug("kafka group: " + fmt.Sprintf(format, args...))
	})
	return kgo.NewConsumerGroup(kgo.ConsumerGroupConfig{
		ID:                     s.cfg.Group,
		Brokers:                s.client.brokers,
		Dialer:                 s.client.dialer,
		Topics:                 []string{s.cfg.Topic},
		HeartbeatInterval:      s.cfg.Heartbeat,
		SessionTimeout:         s.cfg.SessionTimeout,
		RebalanceTimeout:       s.cfg.RebalanceTimeout,
		JoinGroupBackoff:       time.Second,
		WatchPartitionChanges:  true,
		PartitionWatchInterval: 5 * time.Second,
		StartOffset:            kgo.FirstOffset,
		Timeout:                s.client.timeout,
		ErrorLogger:            debug,
	})
}

// supervise runs one generation after the other.
func (s *Source) supervise(ctx context.Context) {
	defer close(s.done)
	group, err := s.join(ctx)
	if err != nil {
		if ctx.Err() == nil {
			s.log.Error("the consumer group cannot be joined", zap.String("group", s.cfg.Group), zap.Error(err))
		}
		return
	}
	// Closing the group ends the generation, waits for its function (which
	// drains) and tells the coordinator that this member is gone.
	stop := context.AfterFunc(ctx, func() { _ = group.Close() })
	defer func() {
		stop()
		_ = group.Close() // waits, whoever closed it first
	}()
	var rare seldom
	for {
		gen, err := group.Next(ctx)
		switch {
		case ctx.Err() != nil && gen == nil:
			return
		case errors.Is(err, kgo.ErrGroupClosed):
			return
		case err != nil:
			// The group backs off by itself before it tries again.
			if n, ok := rare.ok(); ok {
				s.log.Warn("joining the consumer group fails, trying again",
					zap.String("group", s.cfg.Group), zap.Error(err), zap.Int("unlogged", n))
			}
			continue
		}
		over := make(chan struct{})
		gen.Start(func(genCtx context.Context) {
			defer close(over)
			s.generation(genCtx, gen)
		})
		<-over
	}
}

// A share is one partition in one generation.
type share struct {
	partition int32
	epoch     int32
	tracker   *tracker
	committed int64 // by the generation's goroutine alone

	position atomic.Int64 // next to fetch
	end      atomic.Int64
	logStart atomic.Int64
	newest   atomic.Int64 // time of the last record delivered, ms
}

// generation runs one generation to its end, and then drains it.
func (s *Source) generation(ctx context.Context, gen *kgo.Generation) {
	epoch := s.epoch.Add(1)
	var partitions []int
	offsets := map[int]int64{}
	for _, a := range gen.Assignments[s.cfg.Topic] {
		partitions = append(partitions, a.ID)
		offsets[a.ID] = max(a.Offset, -1) // negative: nothing was ever committed
	}
	slices.Sort(partitions)
	if len(partitions) == 0 {
		// A topic that is gone ends generations as fast as they begin.
		defer func() { _ = pause(context.WithoutCancel(ctx), time.Second) }()
	}
	s.log.Info("joined the consumer group", zap.String("group", s.cfg.Group), zap.String("topic", s.cfg.Topic),
		zap.Int32("generation", gen.ID), zap.Int32("epoch", epoch), zap.Ints("partitions", partitions))

	fetching, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	var shares []*share
	for _, id := range partitions {
		at := offsets[id]
		sh := &share{partition: int32(id), epoch: epoch, tracker: newTracker(at), committed: at}
		sh.position.Store(at)
		sh.logStart.Store(-1)
		sh.end.Store(-1)
		shares = append(shares, sh)
		wg.Go(func() { s.read(fetching, sh) })
	}
	wg.Go(func() { s.watch(fetching, shares) })
	s.mu.Lock()
	s.shares = shares
	s.mu.Unlock()

	s.commitUntil(ctx, gen, shares)
	stop()
	wg.Wait()
	s.drain(gen, shares)
}

// maxCommitFailures in a row end the generation: joining again finds a
// coordinator that answers.
const maxCommitFailures = 10

// commitUntil commits progress until the generation ends.
func (s *Source) commitUntil(ctx context.Context, gen *kgo.Generation, shares []*share) {
	tick := time.NewTicker(s.cfg.CommitInterval)
	defer tick.Stop()
	failures := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := s.commit(gen, shares)
		if err == nil {
			failures = 0
			continue
		}
		failures++
		var code kgo.Error
		if !errors.As(err, &code) || !code.Temporary() || code == kgo.RebalanceInProgress || failures >= maxCommitFailures {
			s.log.Info("committing fails, joining the group again", zap.String("group", s.cfg.Group), zap.Error(err))
			return
		}
	}
}

// commit commits the positions that have moved.
func (s *Source) commit(gen *kgo.Generation, shares []*share) error {
	moved := map[int]int64{}
	for _, sh := range shares {
		if pos := sh.tracker.position(); pos >= 0 && pos > sh.committed {
			moved[int(sh.partition)] = pos
		}
	}
	if len(moved) == 0 {
		return nil
	}
	if err := gen.CommitOffsets(map[string]map[int]int64{s.cfg.Topic: moved}); err != nil {
		s.counts.commitErrors.Add(1)
		return fmt.Errorf("committing offsets: %w", err)
	}
	s.counts.commits.Add(1)
	for _, sh := range shares {
		if pos, ok := moved[int(sh.partition)]; ok {
			sh.committed = pos
		}
	}
	return nil
}

// drain waits until nothing is in flight, at most DrainTimeout and, when closing,
// as long as the caller of Close does, and commits for the last time.
func (s *Source) drain(gen *kgo.Generation, shares []*share) {
	limit := time.NewTimer(s.cfg.DrainTimeout)
	defer limit.Stop()
	undone := 0
	for _, sh := range shares {
		for waiting := true; waiting; {
			live, _, _ := sh.tracker.load()
			if live == 0 {
				break
			}
			select {
			case <-sh.tracker.freed:
			case <-limit.C:
				limit.Reset(0) // for the partitions that follow
				waiting = false
			case <-s.abort:
				waiting = false
			}
		}
		sh.tracker.close()
		live, _, _ := sh.tracker.load()
		undone += live
	}
	err := s.commit(gen, shares)
	s.counts.undone.Store(int64(undone))
	s.log.Info("left the generation", zap.String("group", s.cfg.Group), zap.Int32("generation", gen.ID),
		zap.Int("undone", undone), zap.Error(err))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shares = nil
	for _, sh := range shares {
		s.counts.late.Add(sh.tracker.lateReports())
	}
}

// read fetches one partition until ctx ends.
func (s *Source) read(ctx context.Context, sh *share) {
	s.mu.Lock()
	reason := s.stopped[sh.partition]
	s.mu.Unlock()
	if reason != "" {
		return
	}
	var rare seldom
	complain := func(message string, err error) {
		s.counts.fetchErrors.Add(1)
		s.client.noteError(err)
		if n, ok := rare.ok(); ok {
			s.log.Warn(message, zap.String("topic", s.cfg.Topic), zap.Int32("partition", sh.partition),
				zap.Int64("offset", sh.position.Load()), zap.Error(err), zap.Int("unlogged", n))
		}
	}
	var wait backoff
	located, assigned := false, s.cfg.OnAssign == nil
	for ctx.Err() == nil {
		if !located {
			ok, err := s.locate(ctx, sh)
			if errors.Is(err, errStopped) {
				return
			}
			if err != nil {
				complain("finding the position fails, trying again", err)
				if wait.wait(ctx) != nil {
					return
				}
				continue
			}
			located = ok
		}
		if !assigned {
			if err := s.cfg.OnAssign(ctx, sh.partition, sh.epoch, sh.committed); err != nil {
				complain("preparing an assigned partition fails, trying again", err)
				if wait.wait(ctx) != nil {
					return
				}
				continue
			}
			assigned = true
		}
		if s.await(ctx, sh) != nil {
			return
		}
		pos := sh.position.Load()
		res, err := s.client.fetch(ctx, &fetchRequest{
			topic: s.cfg.Topic, partition: sh.partition, offset: pos,
			maxBytes: int32(s.cfg.FetchBytes), minBytes: 1, maxWait: s.cfg.FetchWait,
		})
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
		case res.code == kgo.OffsetOutOfRange:
			located = false
			err = res.code
		case res.code != 0:
			err = res.code
		default:
			sh.end.Store(res.end)
			if res.logStart >= 0 {
				sh.logStart.Store(res.logStart)
			}
			err = s.deliver(ctx, sh, res)
		}
		if err == nil {
			wait.reset()
			if len(res.records) > 0 && len(res.records) < s.cfg.FetchBytes/16 && pause(ctx, s.cfg.Linger) != nil {
				return
			}
			continue
		}
		if ctx.Err() != nil {
			return
		}
		if _, ok := errors.AsType[*CorruptError](err); ok {
			s.counts.corrupt.Add(1)
		}
		complain("fetching fails, trying again", err)
		if wait.wait(ctx) != nil {
			return
		}
	}
}

var errStopped = errors.New("the partition is stopped")

// locate compares the position with what the log holds, and settles what lies
// between them: a gap, or an end that is nearer than the position. It reports
// whether the position can be fetched from.
func (s *Source) locate(ctx context.Context, sh *share) (bool, error) {
	first, end, err := s.client.bounds(ctx, s.cfg.Topic, sh.partition)
	if err != nil {
		return false, err
	}
	sh.logStart.Store(first)
	sh.end.Store(end)
	fields := []zap.Field{
		zap.String("topic", s.cfg.Topic), zap.Int32("partition", sh.partition),
		zap.Int64("position", sh.position.Load()), zap.Int64("first", first), zap.Int64("end", end),
	}
	switch pos := sh.position.Load(); {
	case pos < 0: // nothing was ever committed
		if first > 0 {
			s.log.Warn("the group is new to a partition whose beginning is gone: starting at what is left", fields...)
		}
		sh.position.Store(first)
		sh.tracker.skip(first)
	case pos > end:
		s.stop(sh, fmt.Sprintf("committed offset %d lies beyond the end %d: the log was truncated or the topic created again", pos, end), fields)
		return false, errStopped
	case pos < first:
		return true, s.gap(ctx, sh, pos, first)
	}
	return true, nil
}

// stop leaves a partition alone until the process is started again. Going back
// to the end would skip what was written between the two silently.
func (s *Source) stop(sh *share, reason string, fields []zap.Field) {
	s.mu.Lock()
	s.stopped[sh.partition] = reason
	s.mu.Unlock()
	s.log.Error("PARTITION STOPPED: its messages are not being scanned. "+
		"Find out what happened to the topic, set the group's offset to where scanning must go on "+
		"(kafka-consumer-groups.sh --reset-offsets, all members stopped), and start again",
		append(fields, zap.String("group", s.cfg.Group), zap.String("reason", reason))...)
}

// gap reports that [from, to) is gone, until somebody has taken the report, and
// goes on at to.
func (s *Source) gap(ctx context.Context, sh *share, from, to int64) error {
	g := pipeline.Gap{
		Topic: s.cfg.Topic, Partition: sh.partition, From: from, To: to, Group: s.cfg.Group,
		Reason:     "retention deleted the records before they were delivered",
		DetectedAt: time.Now().UTC(),
	}
	s.counts.gaps.Add(1)
	s.counts.missed.Add(to - from)
	s.log.Error("RETENTION GAP: messages were deleted before they were scanned",
		zap.String("topic", g.Topic), zap.Int32("partition", g.Partition), zap.Int64("from", from), zap.Int64("to", to))
	var wait backoff
	var rare seldom
	for {
		err := s.cfg.OnGap(ctx, g)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if n, ok := rare.ok(); ok {
			s.log.Warn("recording a gap fails, the partition waits", zap.String("topic", g.Topic),
				zap.Int32("partition", g.Partition), zap.Error(err), zap.Int("unlogged", n))
		}
		if err := wait.wait(ctx); err != nil {
			return err
		}
	}
	sh.tracker.skip(to)
	sh.position.Store(to)
	return nil
}

// await waits until the partition has room for more in flight.
func (s *Source) await(ctx context.Context, sh *share) error {
	for {
		if _, bytes, held := sh.tracker.load(); held < s.cfg.MaxInFlight && bytes < s.cfg.MaxInFlightBytes {
			return nil
		}
		select {
		case <-sh.tracker.freed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// deliver hands the records of a response on, in order and in pieces, and moves
// the position past each piece.
func (s *Source) deliver(ctx context.Context, sh *share, res *fetchResponse) error {
	if pos := sh.position.Load(); res.logStart > pos {
		// Retention passed between the answer before and this one.
		if err := s.gap(ctx, sh, pos, res.logStart); err != nil {
			return err
		}
	}
	var slab []pipeline.Delivery
	for data := res.records; len(data) > 0; {
		from := sh.position.Load()
		b, rest, ok, err := nextBatch(data, from)
		if err != nil {
			return err
		}
		if !ok {
			return nil // cut off: the next fetch brings it whole
		}
		data = rest
		if b.last < from {
			continue
		}
		// One batch is taken apart before any of it is delivered: a damaged one
		// is fetched again, and nothing of it twice.
		slab = make([]pipeline.Delivery, 0, b.count)
		if b.records != nil {
			err = b.each(from, func(offset int64, at time.Time, key, value []byte, headers []pipeline.Header) {
				slab = append(slab, pipeline.Delivery{
					Record: pipeline.Record{
						Position: pipeline.Position{Topic: s.cfg.Topic, Partition: sh.partition, Offset: offset},
						Key:      key, Value: value, Headers: headers, Time: at,
					},
					Epoch: sh.epoch,
				})
			})
			if err != nil {
				return err
			}
		}
		for len(slab) > 0 {
			if err := s.await(ctx, sh); err != nil {
				return err
			}
			n := min(len(slab), s.cfg.MaxBatch)
			if err := s.hand(ctx, sh, slab[:n]); err != nil {
				return err
			}
			slab = slab[n:]
		}
		sh.tracker.skip(b.last + 1)
		sh.position.Store(b.last + 1)
	}
	return nil
}

// hand puts records in flight and waits for somebody to receive them.
func (s *Source) hand(ctx context.Context, sh *share, records []pipeline.Delivery) error {
	batch := make([]*pipeline.Delivery, len(records))
	var first uint64
	var size int64
	t := sh.tracker
	for i := range records {
		d := &records[i]
		n := len(d.Key) + len(d.Value)
		size += int64(n)
		seq := t.add(d.Offset, n)
		if i == 0 {
			first = seq
		}
		d.Done = func() { t.done(seq) }
		batch[i] = d
	}
	// It may be somebody else's to change as soon as it is received.
	last := records[len(records)-1].Record
	select {
	case s.out <- batch:
	case <-ctx.Done():
		t.retract(first)
		return ctx.Err()
	}
	sh.position.Store(last.Offset + 1)
	sh.newest.Store(last.Time.UnixMilli())
	s.counts.delivered.Add(int64(len(records)))
	s.counts.bytes.Add(size)
	return nil
}

// watchInterval is how often the bounds of each partition are asked for: a
// partition that waits for room fetches nothing that would tell.
const watchInterval = 10 * time.Second

// watch keeps the bounds of the partitions fresh.
func (s *Source) watch(ctx context.Context, shares []*share) {
	for pause(ctx, watchInterval) == nil {
		for _, sh := range shares {
			first, end, err := s.client.bounds(ctx, s.cfg.Topic, sh.partition)
			if err != nil {
				continue // the fetch loop complains
			}
			sh.logStart.Store(first)
			sh.end.Store(end)
		}
	}
}

// PartitionStats says where one partition stands. Offsets are -1 where unknown.
type PartitionStats struct {
	Partition int32
	Epoch     int32
	Done      int64 // everything below is done
	Position  int64 // next to be fetched
	LogStart  int64 // first offset that the log still holds
	End       int64 // next offset to be written
	InFlight  int   // deliveries not done
	Held      int   // deliveries not done, and those that wait for one of them to be committed
	Bytes     int64 // of the deliveries not done

	// Newest is the time of the last record delivered: where it is older than the
	// retention of the topic, records are about to be lost.
	Newest time.Time

	// Stopped says why the partition is not read; "" where it is.
	Stopped string
}

// Lag is how many records are not done, or 0 where that is unknown.
func (p *PartitionStats) Lag() int64 { return max(0, p.End-max(p.Done, 0)) }

// Margin is how many records retention can still delete before it takes one that
// is not done, or 0 where that is unknown.
func (p *PartitionStats) Margin() int64 {
	if p.LogStart < 0 {
		return 0
	}
	return max(0, p.Done-p.LogStart)
}

// SourceStats are plain numbers for metrics. The counts are since the start.
type SourceStats struct {
	Generations   int64
	Delivered     int64
	Bytes         int64 // of keys and values delivered
	Gaps          int64
	Missed        int64 // offsets in gaps
	Commits       int64
	CommitErrors  int64
	FetchErrors   int64
	Corrupt       int64 // batches that failed their checksum or could not be read
	Late          int64 // deliveries done after their partition was lost
	Partitions    []PartitionStats
	StoppedTotal  int // partitions that are not read, whoever has them now
	MaxHeldBehind int // most deliveries that are done but wait for one that is not
}

// Stats returns where the source stands.
func (s *Source) Stats() SourceStats {
	c := &s.counts
	out := SourceStats{
		Generations: int64(s.epoch.Load()), Delivered: c.delivered.Load(), Bytes: c.bytes.Load(), Gaps: c.gaps.Load(),
		Missed: c.missed.Load(), Commits: c.commits.Load(), CommitErrors: c.commitErrors.Load(),
		FetchErrors: c.fetchErrors.Load(), Corrupt: c.corrupt.Load(), Late: c.late.Load(),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out.StoppedTotal = len(s.stopped)
	for _, sh := range s.shares {
		p := PartitionStats{
			Partition: sh.partition, Epoch: sh.epoch, Done: sh.tracker.position(), Position: sh.position.Load(),
			LogStart: sh.logStart.Load(), End: sh.end.Load(), Stopped: s.stopped[sh.partition],
		}
		p.InFlight, p.Bytes, p.Held = sh.tracker.load()
		if ms := sh.newest.Load(); ms != 0 {
			p.Newest = time.UnixMilli(ms).UTC()
		}
		out.MaxHeldBehind = max(out.MaxHeldBehind, p.Held-p.InFlight)
		out.Partitions = append(out.Partitions, p)
	}
	slices.SortFunc(out.Partitions, func(a, b PartitionStats) int { return cmp.Compare(a.Partition, b.Partition) })
	return out
}
