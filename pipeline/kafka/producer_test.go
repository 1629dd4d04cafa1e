package kafka

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	kgo "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/dmguard/dmguard/pipeline"
)

func readAll(t *testing.T, b *testbed, topic string) []pipeline.Record {
	t.Helper()
	var out []pipeline.Record
	must(t, b.history(t).Scan(t.Context(), topic, ScanOptions{}, func(r pipeline.Record) error {
		out = append(out, r)
		return nil
	}))
	return out
}

func TestEverythingIsWrittenWhereTheJavaClientWouldPutIt(t *testing.T) {
	everywhere(t, func(t *testing.T, b *testbed) {
		for _, compression := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
			one, two := b.topic(t, 3), b.topic(t, 5)
			p := b.producer(t, ProducerConfig{Compression: compression})
			records := append(numbered(one, 0, 500), numbered(two, 500, 500)...)
			must(t, p.Produce(t.Context(), records))
			seen := map[string]bool{}
			for topic, n := range map[string]int{one: 3, two: 5} {
				for _, r := range readAll(t, b, topic) {
					seen[string(r.Value)] = true
					if want := int32(javaMurmur2(r.Key)&0x7fffffff) % int32(n); r.Partition != want {
						t.Errorf("key %s is in partition %d, want %d", r.Key, r.Partition, want)
					}
				}
			}
			if len(seen) != 1000 || p.Stats().Written != 1000 {
				t.Errorf("%s: %d of 1000 found, stats %+v", compression, len(seen), p.Stats())
			}
		}
	})
}

// javaMurmur2 is written from the description of MurmurHash2 with Kafka's seed,
// apart from the library's.
func javaMurmur2(data []byte) uint32 {
	h := uint32(0x9747b28c) ^ uint32(len(data))
	for ; len(data) >= 4; data = data[4:] {
		k := uint32(data[0]) | uint32(data[1])<<8 | uint32(data[2])<<16 | uint32(data[3])<<24
		k *= 0x5bd1e995
		k ^= k >> 24
		h = h*0x5bd1e995 ^ k*0x5bd1e995
	}
	for i, b := range slices.Backward(data) {
		h ^= uint32(b) << (8 * i)
		if i == 0 {
			h *= 0x5bd1e995
		}
	}
	h ^= h >> 13
	h *= 0x5bd1e995
	return h ^ h>>15
}

// TestMurmur2EqualsJavasVectors uses the values of Kafka's own UtilsTest.
func TestMurmur2EqualsJavasVectors(t *testing.T) {
	all := make([]int, 1<<20)
	for i := range all {
		all[i] = i
	}
	for key, want := range map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536,
		"a-little-bit-longer-string": -1486304829, "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
		"abc": 479470107,
	} {
		if got := int32(javaMurmur2([]byte(key))); got != want {
			t.Errorf("our own hash of %q is %d, want %d", key, got, want)
		}
		if got := (kgo.Murmur2Balancer{}).Balance(kgo.Message{Key: []byte(key)}, all...); got != int(uint32(want)&0x7fffffff)%len(all) {
			t.Errorf("%q goes to %d of %d", key, got, len(all))
		}
	}
}

func TestRecordsOfOnePartitionKeepTheirOrderOverManyBatches(t *testing.T) {
	everywhere(t, func(t *testing.T, b *testbed) {
		topic := b.topic(t, 2)
		p := b.producer(t, ProducerConfig{MaxBatchBytes: 1024})
		must(t, p.Produce(t.Context(), numbered(topic, 0, 300)))
		last := map[int32]string{}
		all := readAll(t, b, topic)
		for _, r := range all {
			if string(r.Value) <= last[r.Partition] {
				t.Fatalf("%s after %s", r.Value, last[r.Partition])
			}
			last[r.Partition] = string(r.Value)
		}
		if len(all) != 300 {
			t.Errorf("%d records, want 300", len(all))
		}
	})
}

func TestRecordsWithoutAKeyAreSpread(t *testing.T) {
	everywhere(t, func(t *testing.T, b *testbed) {
		topic := b.topic(t, 4)
		p := b.producer(t, ProducerConfig{})
		for range 8 {
			must(t, p.Produce(t.Context(), []pipeline.Record{{Position: pipeline.Position{Topic: topic}, Value: []byte("x")}}))
		}
		count := map[int32]int{}
		for _, r := range readAll(t, b, topic) {
			count[r.Partition]++
		}
		if len(count) != 4 || count[0] != 2 {
			t.Errorf("spread is %v", count)
		}
	})
}

func TestProduceOneSaysWhereTheRecordLies(t *testing.T) {
	everywhere(t, func(t *testing.T, b *testbed) {
		topic := b.topic(t, 3)
		p := b.producer(t, ProducerConfig{})
		h := b.history(t)
		for i := range 10 {
			r := numbered(topic, i, 1)[0]
			at, err := p.ProduceOne(t.Context(), r)
			must(t, err)
			got, missing, err := h.Read(t.Context(), at.Topic, at.Partition, []int64{at.Offset})
			if err != nil || len(missing) != 0 || len(got) != 1 || string(got[0].Value) != string(r.Value) || got[0].Position != at {
				t.Fatalf("at %+v lies %+v (missing %v): %v", at, got, missing, err)
			}
		}
	})
}

func TestOnlyThePartThatFailedIsWrittenAgain(t *testing.T) {
	b := inProcess(t)
	topic := b.topic(t, 2)
	var refused atomic.Int32
	b.fake.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		b.fake.KeepControl()
		pr, ok := req.(*kmsg.ProduceRequest)
		// One partition at a time: take a failing one out, and answer for it alone.
		if !ok || len(pr.Topics) != 1 || len(pr.Topics[0].Partitions) != 1 || pr.Topics[0].Partitions[0].Partition != 1 || refused.Add(1) > 3 {
			return nil, nil, false
		}
		res, _ := pr.ResponseKind().(*kmsg.ProduceResponse)
		rt := kmsg.NewProduceResponseTopic()
		rt.Topic = topic
		rp := kmsg.NewProduceResponseTopicPartition()
		rp.Partition, rp.ErrorCode = 1, int16(kgo.NotEnoughReplicas)
		rt.Partitions = append(rt.Partitions, rp)
		res.Topics = append(res.Topics, rt)
		return res, nil, true
	})
	// The two partitions on two brokers, so that each gets a request of its own.
	must(t, b.fake.MoveTopicPartition(topic, 0, 0))
	must(t, b.fake.MoveTopicPartition(topic, 1, 1))
	p := b.producer(t, ProducerConfig{})
	must(t, p.Produce(t.Context(), numbered(topic, 0, 100)))
	if n := len(readAll(t, b, topic)); n != 100 {
		t.Errorf("%d records, want 100: each once", n)
	}
	if p.Stats().Retries != 3 {
		t.Errorf("%d retries, want 3", p.Stats().Retries)
	}
}

func TestALostLeaderIsFoundAgain(t *testing.T) {
	b := inProcess(t)
	topic := b.topic(t, 1)
	p := b.producer(t, ProducerConfig{})
	s := b.source(t, SourceConfig{Group: topic, Topic: topic})
	for i := range 4 {
		must(t, b.fake.MoveTopicPartition(topic, 0, int32(i%2)))
		must(t, p.Produce(t.Context(), numbered(topic, i, 1)))
		d := take(t, s, 1)[0]
		if d.Offset != int64(i) {
			t.Fatalf("offset %d, want %d", d.Offset, i)
		}
		d.Done()
	}
}

func TestARecordOverTheLimitIsNamed(t *testing.T) {
	everywhere(t, func(t *testing.T, b *testbed) {
		roomy := b.topic(t, 1)
		small := b.topic(t, 1, kgo.ConfigEntry{ConfigName: "max.message.bytes", ConfigValue: "2000"})
		p := b.producer(t, ProducerConfig{Compression: "none"})
		for _, c := range []struct {
			topic string
			size  int
		}{{roomy, 1_000_000}, {small, 3000}} {
			records := numbered(c.topic, 0, 5)
			records[3].Value = make([]byte, c.size)
			err := p.Produce(t.Context(), records)
			large, ok := errors.AsType[*pipeline.TooLargeError](err)
			if !ok || large.Index != 3 || large.Topic != c.topic || !pipeline.IsPermanent(err) {
				t.Errorf("writing %d bytes to %s: %v", c.size, c.topic, err)
			}
		}
		// Together more than the broker takes at once, but each may be written.
		must(t, p.Produce(t.Context(), numbered(small, 10, 200)))
		found := 0
		for _, r := range readAll(t, b, small) {
			if string(r.Value) >= "000010" {
				found++
			}
		}
		if found != 200 {
			t.Errorf("%d found, want 200", found)
		}
	})
}

func TestAnOutageIsRiddenOutUntilTheCallerGivesUp(t *testing.T) {
	everywhere(t, func(t *testing.T, b *testbed) {
		topic := b.topic(t, 1)
		p := b.producer(t, ProducerConfig{})
		must(t, p.Produce(t.Context(), numbered(topic, 0, 1)))
		b.cut(true)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if err := p.Produce(ctx, numbered(topic, 1, 1)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("writing to nowhere: %v", err)
		}
		done := make(chan error, 1)
		go func() { done <- p.Produce(t.Context(), numbered(topic, 2, 1)) }()
		eventually(t, "it was tried again", func() bool { return p.Stats().Retries > 3 })
		b.cut(false)
		must(t, <-done)
		if all := readAll(t, b, topic); string(all[len(all)-1].Value) != "000002" {
			t.Errorf("found %d records", len(all))
		}
	})
}

func TestProducerFaultsAreReportedAtOnce(t *testing.T) {
	_, err := NewProducer(Connection{}, ProducerConfig{Compression: "best", MaxBatchBytes: 5, AckTimeout: -1}, logger(t))
	for _, want := range []string{"best", "5 bytes", "negative", "no brokers"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("nothing says %q in: %v", want, err)
		}
	}
}
