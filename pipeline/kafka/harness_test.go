package kafka

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	franz "github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	kgo "github.com/segmentio/kafka-go"

	"github.com/dmguard/dmguard/pipeline"
)

const brokersVariable = "DMGUARD_TEST_BROKERS"

// A testbed is a cluster, and ways to be unkind to it.
type testbed struct {
	brokers []string
	fake    *kfake.Cluster // nil on a real cluster

	mu    sync.Mutex
	conns map[net.Conn]bool
	down  bool
}

// everywhere runs f against an in-process broker, and against a real cluster
// where one is named.
func everywhere(t *testing.T, f func(t *testing.T, b *testbed)) {
	t.Helper()
	t.Run("kfake", func(t *testing.T) { f(t, inProcess(t)) })
	if v := os.Getenv(brokersVariable); v != "" {
		t.Run("kafka", func(t *testing.T) {
			f(t, &testbed{brokers: strings.Split(v, ","), conns: map[net.Conn]bool{}})
		})
	}
}

func inProcess(t *testing.T, opts ...kfake.Opt) *testbed {
	t.Helper()
	opts = append([]kfake.Opt{kfake.NumBrokers(2)}, opts...)
	c, err := kfake.NewCluster(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return &testbed{brokers: c.ListenAddrs(), fake: c, conns: map[net.Conn]bool{}}
}

// TestARealKafkaIsTestedInCI fails where the tests would pass without ever having
// met a real broker.
func TestARealKafkaIsTestedInCI(t *testing.T) {
	if os.Getenv("CI") == "true" && os.Getenv(brokersVariable) == "" {
		t.Fatalf("%s is not set: `make test` starts a Kafka and sets it", brokersVariable)
	}
}

// conn returns a connection whose sockets the testbed can cut.
func (b *testbed) conn() Connection {
	var d net.Dialer
	return Connection{
		Brokers: b.brokers, RequestTimeout: 5 * time.Second, DialTimeout: 2 * time.Second,
		DialFunc: func(ctx context.Context, network, address string) (net.Conn, error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			if b.down {
				return nil, errors.New("cut by the test")
			}
			c, err := d.DialContext(ctx, network, address)
			if err == nil {
				b.conns[c] = true
			}
			return c, err
		},
	}
}

// cut closes every connection, and refuses new ones while down.
func (b *testbed) cut(down bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = down
	for c := range b.conns {
		_ = c.Close()
	}
	clear(b.conns)
}

func (b *testbed) admin(t *testing.T) *franz.Client {
	t.Helper()
	c, err := franz.NewClient(franz.SeedBrokers(b.brokers...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// topic makes a topic with a new name and deletes it at the end.
func (b *testbed) topic(t *testing.T, partitions int, configs ...kgo.ConfigEntry) string {
	t.Helper()
	name := "test-" + strings.ToLower(rand.Text())
	conn := b.conn()
	c, err := conn.client()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	res, err := c.api.CreateTopics(t.Context(), &kgo.CreateTopicsRequest{Topics: []kgo.TopicConfig{{
		Topic: name, NumPartitions: partitions, ReplicationFactor: 1, ConfigEntries: configs,
	}}})
	if err == nil {
		err = res.Errors[name]
	}
	if err != nil {
		t.Fatal(err)
	}
	admin := b.admin(t)
	t.Cleanup(func() {
		req := kmsg.NewPtrDeleteTopicsRequest()
		req.TopicNames = []string{name}
		rt := kmsg.NewDeleteTopicsRequestTopic()
		rt.Topic = new(name)
		req.Topics = append(req.Topics, rt)
		_, _ = req.RequestWith(context.Background(), admin)
	})
	return name
}

// deleteBefore does what retention does, to partition 0.
func (b *testbed) deleteBefore(t *testing.T, topic string, offset int64) {
	t.Helper()
	req := kmsg.NewPtrDeleteRecordsRequest()
	req.TimeoutMillis = 5000
	rt := kmsg.NewDeleteRecordsRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewDeleteRecordsRequestTopicPartition()
	rp.Offset = offset
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	res, err := req.RequestWith(t.Context(), b.admin(t))
	if err != nil {
		t.Fatal(err)
	}
	if code := res.Topics[0].Partitions[0].ErrorCode; code != 0 {
		t.Fatalf("deleting records: %v", kgo.Error(code))
	}
}

// committed returns the group's offset of a partition, -1 for none.
func (b *testbed) committed(t *testing.T, group, topic string, partition int) int64 {
	t.Helper()
	conn := b.conn()
	c, err := conn.client()
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	res, err := c.api.OffsetFetch(t.Context(), &kgo.OffsetFetchRequest{GroupID: group, Topics: map[string][]int{topic: {partition}}})
	if err != nil || len(res.Topics[topic]) != 1 || res.Topics[topic][0].Error != nil {
		t.Fatalf("asking for the committed offset: %v %+v", err, res)
	}
	return res.Topics[topic][0].CommittedOffset
}

// setCommitted sets the offset of a group that has no members.
func (b *testbed) setCommitted(t *testing.T, group, topic string, partition int, offset int64) {
	t.Helper()
	conn := b.conn()
	c, err := conn.client()
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	eventually(t, "the offset is set", func() bool {
		res, err := c.api.OffsetCommit(t.Context(), &kgo.OffsetCommitRequest{
			GroupID: group, GenerationID: -1,
			Topics: map[string][]kgo.OffsetCommit{topic: {{Partition: partition, Offset: offset}}},
		})
		return err == nil && res.Topics[topic][0].Error == nil
	})
}

func (b *testbed) producer(t *testing.T, cfg ProducerConfig) *Producer {
	t.Helper()
	p, err := NewProducer(b.conn(), cfg, logger(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func (b *testbed) history(t *testing.T) *History {
	t.Helper()
	h, err := NewHistory(b.conn(), logger(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// source opens a source with short times.
func (b *testbed) source(t *testing.T, cfg SourceConfig) *Source {
	t.Helper()
	if cfg.OnGap == nil {
		cfg.OnGap = func(_ context.Context, g pipeline.Gap) error {
			t.Errorf("unexpected gap %+v", g)
			return nil
		}
	}
	cfg.CommitInterval = 20 * time.Millisecond
	cfg.FetchWait = 100 * time.Millisecond
	cfg.Heartbeat = 200 * time.Millisecond
	cfg.SessionTimeout = 6 * time.Second
	cfg.RebalanceTimeout = 6 * time.Second
	if cfg.DrainTimeout == 0 {
		cfg.DrainTimeout = 3 * time.Second
	}
	s, err := OpenSource(b.conn(), cfg, logger(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		_ = s.Close(ctx)
	})
	return s
}

// logger logs into the test for as long as that runs.
func logger(t *testing.T) *zap.Logger {
	return zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel))
}

// take receives until n deliveries have come.
func take(t *testing.T, s *Source, n int) []*pipeline.Delivery {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var out []*pipeline.Delivery
	for len(out) < n {
		batch, err := s.Receive(ctx)
		if err != nil {
			t.Fatalf("%d of %d deliveries came: %v", len(out), n, err)
		}
		out = append(out, batch...)
	}
	return out
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	// For what never comes. A member that is gone keeps its partitions for a
	// session, and one that comes back may wait for several of them in turn.
	limit := time.After(3 * time.Minute)
	for !f() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("in vain waited until %s", what)
		}
	}
}

// numbered makes records whose value is their number.
func numbered(topic string, from, n int) []pipeline.Record {
	out := make([]pipeline.Record, n)
	for i := range out {
		id := fmt.Sprintf("%06d", from+i)
		out[i] = pipeline.Record{
			Position: pipeline.Position{Topic: topic}, Key: []byte("k" + id), Value: []byte(id),
			Headers: []pipeline.Header{{Key: "schema", Value: []byte(pipeline.SchemaMessage)}},
		}
	}
	return out
}

// noGap takes reports of gaps where there are none.
func noGap(context.Context, pipeline.Gap) error { return nil }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
