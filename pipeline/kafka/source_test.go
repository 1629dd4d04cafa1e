package kafka

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	kgo "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/dmguard/dmguard/pipeline"
)

func TestOnlyContiguousPositionsAreCommitted(t *testing.T) {
	everywhere(t, func(t *testing.T, b *testbed) {
		topic := b.topic(t, 1)
		must(t, b.producer(t, ProducerConfig{}).Produce(t.Context(), numbered(topic, 0, 10)))
		s := b.source(t, SourceConfig{Group: topic, Topic: topic})
		ds := take(t, s, 10)
		for i, d := range ds {
			if d.Offset != int64(i) || d.Partition != 0 || d.Topic != topic || string(d.Value) != fmt.Sprintf("%06d", i) ||
				string(d.Key) != "k"+string(d.Value) || d.Header("schema") != pipeline.SchemaMessage || d.Time.IsZero() {
				t.Fatalf("delivery %d is %+v", i, d.Record)
			}
		}
		for _, i := range []int{1, 2, 5, 9} {
			ds[i].Done()
		}
		// Done in this order, a commit of the highest offset would be seen by now.
		ds[0].Done()
		eventually(t, "3 is committed", func() bool { return b.committed(t, topic, topic, 0) == 3 })
		ds[3].Done()
		eventually(t, "4 is committed", func() bool { return b.committed(t, topic, topic, 0) == 4 })
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Close(ctx); err == nil || !strings.Contains(err.Error(), "4 deliveries") {
			t.Errorf("closing with 4 in flight says: %v", err)
		}
		if at := b.committed(t, topic, topic, 0); at != 4 {
			t.Errorf("%d is committed after closing, want 4", at)
		}
		ds[4].Done() // late
		s2 := b.source(t, SourceConfig{Group: topic, Topic: topic})
		if again := take(t, s2, 6); again[0].Offset != 4 {
			t.Errorf("delivered again from %d, want 4", again[0].Offset)
		}
	})
}

func TestClosingWaitsForWhatIsInFlightAndCommitsIt(t *testing.T) {
	everywhere(t, func(t *testing.T, b *testbed) {
		topic := b.topic(t, 2)
		must(t, b.producer(t, ProducerConfig{}).Produce(t.Context(), numbered(topic, 0, 100)))
		s := b.source(t, SourceConfig{Group: topic, Topic: topic})
		ds := take(t, s, 100)
		closed := make(chan error, 1)
		go func() { closed <- s.Close(t.Context()) }()
		eventually(t, "nothing more is received", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			_, err := s.Receive(ctx)
			return err != nil
		})
		select {
		case err := <-closed:
			t.Fatalf("closed with 100 in flight: %v", err)
		default:
		}
		for _, d := range ds {
			d.Done()
		}
		must(t, <-closed)
		if sum := b.committed(t, topic, topic, 0) + b.committed(t, topic, topic, 1); sum != 100 {
			t.Errorf("%d are committed, want 100", sum)
		}
		if _, err := s.Receive(t.Context()); !errors.Is(err, errClosed) {
			t.Errorf("receiving from a closed source: %v", err)
		}
	})
}

func TestARetentionGapIsRecordedBeforeAnythingAfterItIsDelivered(t *testing.T) {
	everywhere(t, func(t *testing.T, b *testbed) {
		topic := b.topic(t, 1)
		p := b.producer(t, ProducerConfig{})
		must(t, p.Produce(t.Context(), numbered(topic, 0, 100)))
		s := b.source(t, SourceConfig{Group: topic, Topic: topic})
		for _, d := range take(t, s, 100)[:40] {
			d.Done()
		}
		eventually(t, "40 is committed", func() bool { return b.committed(t, topic, topic, 0) == 40 })
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_ = s.Close(ctx)
		b.deleteBefore(t, topic, 70)

		var tries atomic.Int32
		gaps := make(chan pipeline.Gap, 10)
		s = b.source(t, SourceConfig{Group: topic, Topic: topic, OnGap: func(_ context.Context, g pipeline.Gap) error {
			if tries.Add(1) < 3 {
				return errors.New("the log of gaps cannot be written")
			}
			gaps <- g
			return nil
		}})
		ds := take(t, s, 30)
		select {
		case g := <-gaps:
			if g.From != 40 || g.To != 70 || g.Partition != 0 || g.Topic != topic || g.Group != topic || g.Reason == "" || g.DetectedAt.IsZero() {
				t.Errorf("the gap is %+v, want [40, 70)", g)
			}
		default:
			t.Error("records after the gap came before its record")
		}
		if ds[0].Offset != 70 {
			t.Errorf("went on at %d, want 70", ds[0].Offset)
		}
		if st := s.Stats(); st.Gaps != 1 || st.Missed != 30 {
			t.Errorf("%d gaps of %d records counted, want 1 of 30", st.Gaps, st.Missed)
		}
		for _, d := range ds {
			d.Done()
		}
		eventually(t, "100 is committed", func() bool { return b.committed(t, topic, topic, 0) == 100 })
	})
}

func TestRetentionOvertakingARunningSourceIsAGap(t *testing.T) {
	everywhere(t, func(t *testing.T, b *testbed) {
		topic := b.topic(t, 1)
		p := b.producer(t, ProducerConfig{})
		must(t, p.Produce(t.Context(), numbered(topic, 0, 10)))
		gaps := make(chan pipeline.Gap, 10)
		s := b.source(t, SourceConfig{Group: topic, Topic: topic, MaxInFlight: 10, MaxBatch: 5, OnGap: func(_ context.Context, g pipeline.Gap) error {
			gaps <- g
			return nil
		}})
		ds := take(t, s, 10) // nothing more is fetched while these are in flight
		must(t, p.Produce(t.Context(), numbered(topic, 10, 50)))
		b.deleteBefore(t, topic, 30)
		for _, d := range ds {
			d.Done()
		}
		next := take(t, s, 5)
		g := <-gaps
		if next[0].Offset != 30 || g.To != 30 || g.From > 11 {
			t.Errorf("went on at %d after the gap [%d, %d), want 30 after [10, 30)", next[0].Offset, g.From, g.To)
		}
	})
}

func TestAGroupThatIsNewToALogWithoutItsBeginningSeesNoGap(t *testing.T) {
	everywhere(t, func(t *testing.T, b *testbed) {
		topic := b.topic(t, 1)
		must(t, b.producer(t, ProducerConfig{}).Produce(t.Context(), numbered(topic, 0, 10)))
		b.deleteBefore(t, topic, 4)
		s := b.source(t, SourceConfig{Group: topic, Topic: topic})
		if ds := take(t, s, 6); ds[0].Offset != 4 {
			t.Errorf("began at %d, want 4", ds[0].Offset)
		}
		// What it has seen of the log counts from now on.
		eventually(t, "its beginning is committed", func() bool { return b.committed(t, topic, topic, 0) == 4 })
	})
}

func TestAnOffsetBeyondTheEndStopsItsPartitionAlone(t *testing.T) {
	everywhere(t, func(t *testing.T, b *testbed) {
		topic := b.topic(t, 2)
		must(t, b.producer(t, ProducerConfig{}).Produce(t.Context(), numbered(topic, 0, 100)))
		_, end, err := b.history(t).Ends(t.Context(), topic)
		must(t, err)
		b.setCommitted(t, topic, topic, 0, 1000)
		s := b.source(t, SourceConfig{Group: topic, Topic: topic})
		for _, d := range take(t, s, int(end[1])) {
			if d.Partition != 1 {
				t.Fatalf("partition %d was read at %d", d.Partition, d.Offset)
			}
			d.Done()
		}
		eventually(t, "the other partition is committed", func() bool { return b.committed(t, topic, topic, 1) == end[1] })
		if at := b.committed(t, topic, topic, 0); at != 1000 {
			t.Errorf("the offset was moved to %d", at)
		}
		st := s.Stats()
		if st.StoppedTotal != 1 || st.Partitions[0].Stopped == "" || st.Partitions[1].Stopped != "" {
			t.Errorf("stats are %+v", st)
		}
	})
}

func TestBackPressureHoldsAPartitionThatIsNotWorkedOff(t *testing.T) {
	everywhere(t, func(t *testing.T, b *testbed) {
		for _, c := range []struct {
			name string
			cfg  SourceConfig
			most int
		}{
			{"by records", SourceConfig{MaxInFlight: 20, MaxBatch: 5}, 25},
			{"by bytes", SourceConfig{MaxInFlightBytes: 13 * 20, MaxBatch: 5}, 25},
		} {
			t.Run(c.name, func(t *testing.T) {
				topic := b.topic(t, 1)
				must(t, b.producer(t, ProducerConfig{}).Produce(t.Context(), numbered(topic, 0, 200)))
				c.cfg.Group, c.cfg.Topic = topic, topic
				s := b.source(t, c.cfg)
				ds := take(t, s, 20)
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				defer cancel()
				more, err := s.Receive(ctx)
				if len(ds)+len(more) > c.most || err == nil {
					t.Fatalf("%d deliveries in flight, at most %d wanted", len(ds)+len(more), c.most)
				}
				// One that is stuck holds what is done after it, and so more of it.
				for _, d := range ds[1:] {
					d.Done()
				}
				ds[0].Done()
				for seen := len(ds); seen < 200; {
					for _, d := range take(t, s, 1) {
						d.Done()
						seen++
					}
				}
				eventually(t, "200 is committed", func() bool { return b.committed(t, topic, topic, 0) == 200 })
			})
		}
	})
}

// A ledger counts what a set of members delivered.
type ledger struct {
	mu    sync.Mutex
	seen  map[string]int
	total int
}

func (l *ledger) add(ds []*pipeline.Delivery) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range ds {
		l.seen[string(d.Value)]++
		l.total++
	}
}

func (l *ledger) counts() (distinct, total int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.seen), l.total
}

// work receives and finishes until the source closes.
func (l *ledger) work(s *Source) {
	for {
		ds, err := s.Receive(context.Background())
		if err != nil {
			return
		}
		l.add(ds)
		for _, d := range ds {
			d.Done()
		}
	}
}

func TestMembersComingAndGoingLoseNothing(t *testing.T) {
	everywhere(t, func(t *testing.T, b *testbed) {
		topic := b.topic(t, 4)
		p := b.producer(t, ProducerConfig{})
		l := &ledger{seen: map[string]int{}}
		const n = 20_000
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() {
			for i := 0; i < n; i += 100 {
				if err := p.Produce(context.Background(), numbered(topic, i, 100)); err != nil {
					t.Error(err)
				}
				_ = pause(context.Background(), 2*time.Millisecond)
			}
		})
		reached := func(k int) func() bool {
			return func() bool { d, _ := l.counts(); return d >= k }
		}
		a := b.source(t, SourceConfig{Group: topic, Topic: topic, MaxBatch: 100})
		go l.work(a)
		eventually(t, "the first member has read some", reached(500))
		c := b.source(t, SourceConfig{Group: topic, Topic: topic, MaxBatch: 100})
		go l.work(c)
		eventually(t, "the second has a share", func() bool { return len(c.Stats().Partitions) == 2 })
		must(t, a.Close(t.Context()))
		eventually(t, "the second has everything", func() bool { return len(c.Stats().Partitions) == 4 })
		eventually(t, "everything is read", reached(n))
		must(t, c.Close(t.Context()))
		distinct, total := l.counts()
		// Both members drained whenever they lost partitions, so that nothing
		// need come twice but what was in one member's hands.
		if distinct != n || total-distinct > 4*100*4 {
			t.Errorf("%d of %d read, %d twice", distinct, n, total-distinct)
		}
	})
}

func TestLateReportsOfAnOldGenerationCommitNothing(t *testing.T) {
	everywhere(t, func(t *testing.T, b *testbed) {
		topic := b.topic(t, 1)
		must(t, b.producer(t, ProducerConfig{}).Produce(t.Context(), numbered(topic, 0, 10)))
		a := b.source(t, SourceConfig{Group: topic, Topic: topic, DrainTimeout: 50 * time.Millisecond})
		old := take(t, a, 10)
		c := b.source(t, SourceConfig{Group: topic, Topic: topic}) // makes a new generation
		eventually(t, "the first member is in a new generation", func() bool { return a.Stats().Generations >= 2 })
		got := make(chan []*pipeline.Delivery, 100)
		for _, s := range []*Source{a, c} {
			go func() {
				for {
					ds, err := s.Receive(context.Background())
					if err != nil {
						return
					}
					got <- ds
				}
			}()
		}
		ds := <-got
		if ds[0].Offset != 0 {
			t.Fatalf("offset %d came first, want 0 again", ds[0].Offset)
		}
		for _, d := range old {
			d.Done()
		}
		ds[0].Done()
		eventually(t, "1 is committed", func() bool { return b.committed(t, topic, topic, 0) == 1 })
	})
}

func TestTheEpochRisesWithEveryGeneration(t *testing.T) {
	everywhere(t, func(t *testing.T, b *testbed) {
		topic := b.topic(t, 1)
		must(t, b.producer(t, ProducerConfig{}).Produce(t.Context(), numbered(topic, 0, 1)))
		s := b.source(t, SourceConfig{Group: topic, Topic: topic, DrainTimeout: 50 * time.Millisecond})
		last := int32(0)
		for range 3 {
			d := take(t, s, 1)[0]
			if d.Epoch <= last || d.Offset != 0 {
				t.Fatalf("offset %d in epoch %d after epoch %d", d.Offset, d.Epoch, last)
			}
			last = d.Epoch
			b.cut(false) // ends the generation
		}
	})
}

func TestARestartedBrokerLosesNothing(t *testing.T) {
	dir := t.TempDir()
	start := func(ports ...int) *kfake.Cluster {
		opts := []kfake.Opt{kfake.NumBrokers(1), kfake.DataDir(dir), kfake.SyncWrites()}
		if len(ports) > 0 {
			opts = append(opts, kfake.Ports(ports...))
		}
		c, err := kfake.NewCluster(opts...)
		must(t, err)
		return c
	}
	c := start()
	b := &testbed{brokers: c.ListenAddrs(), conns: map[net.Conn]bool{}}
	_, port, err := net.SplitHostPort(b.brokers[0])
	must(t, err)
	n, err := strconv.Atoi(port)
	must(t, err)

	tp := b.topics(t, TopicsConfig{Partitions: 3, Embedded: true})
	_, err = tp.Create(t.Context())
	must(t, err)
	topic := tp.Name(pipeline.TopicMessages)
	p := b.producer(t, ProducerConfig{})
	l := &ledger{seen: map[string]int{}}
	s := b.source(t, SourceConfig{Group: "g", Topic: topic, MaxBatch: 50})
	go l.work(s)
	for i := 0; i < 3000; i += 100 {
		must(t, p.Produce(t.Context(), numbered(topic, i, 100)))
		if i%1000 == 500 {
			c.Close()
			c = start(n)
		}
	}
	defer func() { c.Close() }()
	eventually(t, "everything is read", func() bool { d, _ := l.counts(); return d == 3000 })
	must(t, s.Close(t.Context()))
}

func TestClosingLeavesNoGoroutineBehind(t *testing.T) {
	b := inProcess(t)
	topic := b.topic(t, 2)
	before := runtime.NumGoroutine()
	p, err := NewProducer(b.conn(), ProducerConfig{}, logger(t))
	must(t, err)
	must(t, p.Produce(t.Context(), numbered(topic, 0, 10)))
	s, err := OpenSource(b.conn(), SourceConfig{Group: "g", Topic: topic, OnGap: noGap}, logger(t))
	must(t, err)
	for _, d := range take(t, s, 10) {
		d.Done()
	}
	must(t, s.Close(t.Context()))
	p.Close()
	eventually(t, "no goroutine is left", func() bool {
		// Each connection costs the broker some, which end soon after ours.
		return runtime.NumGoroutine() <= before
	})
}

func TestCutConnectionsLoseNothing(t *testing.T) {
	everywhere(t, func(t *testing.T, b *testbed) {
		topic := b.topic(t, 3)
		p := b.producer(t, ProducerConfig{})
		l := &ledger{seen: map[string]int{}}
		s := b.source(t, SourceConfig{Group: topic, Topic: topic, MaxBatch: 100})
		go l.work(s)
		const n = 6_000
		for i := 0; i < n; i += 100 {
			must(t, p.Produce(t.Context(), numbered(topic, i, 100)))
			if i%1000 == 500 {
				b.cut(true)
				_ = pause(t.Context(), 50*time.Millisecond)
				b.cut(false)
			}
		}
		eventually(t, "everything is read", func() bool { d, _ := l.counts(); return d == n })
		must(t, s.Close(t.Context()))
		var sum, ends int64
		_, end, err := b.history(t).Ends(t.Context(), topic)
		must(t, err)
		for id, e := range end {
			ends += e
			sum += b.committed(t, topic, topic, int(id))
		}
		if sum != ends {
			t.Errorf("%d of %d committed", sum, ends)
		}
	})
}

func TestACorruptBatchIsFetchedAgainAndNotSkipped(t *testing.T) {
	b := inProcess(t)
	topic := b.topic(t, 1)
	good, err := appendBatch(nil, samples()[:1], 0, time.Now())
	must(t, err)
	bad := slices.Clone(good)
	bad[len(bad)-1] ^= 1
	var fetches atomic.Int32
	b.fake.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		b.fake.KeepControl()
		fr, ok := req.(*kmsg.FetchRequest)
		if !ok || len(fr.Topics) == 0 || fr.Topics[0].Topic != topic || fetches.Add(1) > 3 {
			return nil, nil, false
		}
		res, _ := fr.ResponseKind().(*kmsg.FetchResponse)
		rt := kmsg.NewFetchResponseTopic()
		rt.Topic = topic
		rp := kmsg.NewFetchResponseTopicPartition()
		rp.HighWatermark, rp.RecordBatches = 1, bad
		rt.Partitions = append(rt.Partitions, rp)
		res.Topics = append(res.Topics, rt)
		return res, nil, true
	})
	p := b.producer(t, ProducerConfig{})
	must(t, p.Produce(t.Context(), numbered(topic, 0, 1)))
	s := b.source(t, SourceConfig{Group: topic, Topic: topic})
	if ds := take(t, s, 1); ds[0].Offset != 0 || string(ds[0].Value) != "000000" {
		t.Errorf("delivered %+v", ds[0].Position)
	}
	if st := s.Stats(); st.Corrupt != 3 {
		t.Errorf("%d corrupt batches counted, want 3", st.Corrupt)
	}
}

// TestACompactedTailAndControlRecordsDoNotStall answers the first fetch with a
// batch of which only a part is left, and with a transaction's marker.
func TestACompactedTailAndControlRecordsDoNotStall(t *testing.T) {
	b := inProcess(t)
	topic := b.topic(t, 1)
	must(t, b.producer(t, ProducerConfig{}).Produce(t.Context(), numbered(topic, 0, 8)))
	one, err := appendBatch(nil, samples()[:1], 0, time.Now())
	must(t, err)
	tail := rewrite(one, func(b []byte) { binary.BigEndian.PutUint32(b[23:], 4) }) // 0 of 0 to 4
	marker := rewrite(one, func(b []byte) { b[22] |= attrControl })
	binary.BigEndian.PutUint64(marker, 5)
	var fetches atomic.Int32
	b.fake.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		b.fake.KeepControl()
		fr, ok := req.(*kmsg.FetchRequest)
		if !ok || len(fr.Topics) == 0 || fr.Topics[0].Topic != topic || fetches.Add(1) > 1 {
			return nil, nil, false
		}
		res, _ := fr.ResponseKind().(*kmsg.FetchResponse)
		rt := kmsg.NewFetchResponseTopic()
		rt.Topic = topic
		rp := kmsg.NewFetchResponseTopicPartition()
		rp.HighWatermark, rp.RecordBatches = 8, append(slices.Clone(tail), marker...)
		rt.Partitions = append(rt.Partitions, rp)
		res.Topics = append(res.Topics, rt)
		return res, nil, true
	})
	s := b.source(t, SourceConfig{Group: topic, Topic: topic})
	ds := take(t, s, 3)
	var offsets []int64
	for _, d := range ds {
		offsets = append(offsets, d.Offset)
		d.Done()
	}
	if !slices.Equal(offsets, []int64{0, 6, 7}) {
		t.Errorf("offsets %v, want 0, 6 and 7", offsets)
	}
	eventually(t, "8 is committed", func() bool { return b.committed(t, topic, topic, 0) == 8 })
}

func TestALargeRecordDoesNotStallAPartition(t *testing.T) {
	everywhere(t, func(t *testing.T, b *testbed) {
		topic := b.topic(t, 1)
		p := b.producer(t, ProducerConfig{})
		records := numbered(topic, 0, 3)
		records[1].Value = make([]byte, 900<<10)
		for i := range records {
			must(t, p.Produce(t.Context(), records[i:i+1]))
		}
		s := b.source(t, SourceConfig{Group: topic, Topic: topic, FetchBytes: 16 << 10, MaxInFlightBytes: 1 << 10})
		for i := range 3 {
			d := take(t, s, 1)[0]
			if d.Offset != int64(i) || len(d.Value) != len(records[i].Value) {
				t.Fatalf("delivery %d is offset %d with %d bytes", i, d.Offset, len(d.Value))
			}
			d.Done()
		}
	})
}

// TestAFailedOffsetFetchIsNotTakenForANewGroup holds the source to the group's
// offset where the coordinator answers with an error at first.
func TestAFailedOffsetFetchIsNotTakenForANewGroup(t *testing.T) {
	b := inProcess(t)
	topic := b.topic(t, 1)
	must(t, b.producer(t, ProducerConfig{}).Produce(t.Context(), numbered(topic, 0, 10)))
	b.setCommitted(t, topic, topic, 0, 7)
	var asked atomic.Int32
	b.fake.ControlKey(int16(kmsg.OffsetFetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		b.fake.KeepControl()
		fr, ok := req.(*kmsg.OffsetFetchRequest)
		if !ok || len(fr.Topics) == 0 || asked.Add(1) > 3 {
			return nil, nil, false
		}
		res, _ := fr.ResponseKind().(*kmsg.OffsetFetchResponse)
		rt := kmsg.NewOffsetFetchResponseTopic()
		rt.Topic = topic
		rp := kmsg.NewOffsetFetchResponseTopicPartition()
		rp.Offset, rp.ErrorCode = -1, int16(kgo.GroupLoadInProgress)
		rt.Partitions = append(rt.Partitions, rp)
		res.Topics = append(res.Topics, rt)
		return res, nil, true
	})
	s := b.source(t, SourceConfig{Group: topic, Topic: topic})
	if d := take(t, s, 3)[0]; d.Offset != 7 || asked.Load() < 3 {
		t.Errorf("began at %d after %d questions, want 7", d.Offset, asked.Load())
	}
}

func TestATopicThatIsMissingIsWaitedFor(t *testing.T) {
	b := inProcess(t)
	s := b.source(t, SourceConfig{Group: "g", Topic: "late"})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := s.Receive(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	conn := b.conn()
	c, err := conn.client()
	must(t, err)
	defer c.close()
	_, err = c.api.CreateTopics(t.Context(), &kgo.CreateTopicsRequest{Topics: []kgo.TopicConfig{{Topic: "late", NumPartitions: 1, ReplicationFactor: 1}}})
	must(t, err)
	must(t, b.producer(t, ProducerConfig{}).Produce(t.Context(), numbered("late", 0, 1)))
	take(t, s, 1)[0].Done()
}

func TestStatsSayHowFarBehindASourceIs(t *testing.T) {
	everywhere(t, func(t *testing.T, b *testbed) {
		topic := b.topic(t, 1)
		must(t, b.producer(t, ProducerConfig{}).Produce(t.Context(), numbered(topic, 0, 30)))
		b.deleteBefore(t, topic, 5)
		s := b.source(t, SourceConfig{Group: topic, Topic: topic})
		ds := take(t, s, 25)
		for _, d := range ds[:10] {
			d.Done()
		}
		ds[12].Done()
		// What was delivered is counted after it was taken.
		eventually(t, "the deliveries are counted", func() bool { return s.Stats().Delivered == 25 })
		st := s.Stats()
		p := st.Partitions[0]
		if p.Done != 15 || p.Lag() != 15 || p.Margin() != 10 || p.InFlight != 14 || p.Held != 15 || p.LogStart != 5 || p.End != 30 ||
			p.Newest.IsZero() || st.Delivered != 25 || st.MaxHeldBehind != 1 {
			t.Errorf("stats are %+v", st)
		}
	})
}

func TestConfigurationFaultsAreReportedAtOnce(t *testing.T) {
	_, err := OpenSource(Connection{Brokers: []string{"nonsense"}}, SourceConfig{
		DrainTimeout: time.Minute, MaxInFlight: -1, Linger: time.Microsecond,
	}, logger(t))
	if err == nil {
		t.Fatal("no fault was found")
	}
	for _, want := range []string{"consumer group", "topic", "gaps", "drain timeout", "in flight", "linger", `"nonsense" is not host:port`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("nothing says %q in:\n%v", want, err)
		}
	}
}
