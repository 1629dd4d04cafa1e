package kafka

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	kgo "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"go.uber.org/zap"

	"github.com/dmguard/dmguard/pipeline"
)

// ProducerConfig says how to write. The zero value holds the defaults.
type ProducerConfig struct {
	// Compression of batches: "lz4" (the default), "none", "zstd", "gzip" or
	// "snappy". lz4 makes verdicts, which are most of what is written, four times
	// smaller and costs no more than the bytes that it saves; zstd halves them
	// again at twice the cost. Sealed records do not get smaller.
	Compression string

	// MaxBatchBytes bounds one batch, uncompressed, and so one record: 1,000,000
	// by default, which any broker takes that was not set lower
	// (message.max.bytes is 1,048,588).
	MaxBatchBytes int

	// AckTimeout is how long a broker may wait for the in-sync replicas; 10 s by
	// default.
	AckTimeout time.Duration
}

// maxRequestBytes keeps one request far below what a broker takes
// (socket.request.max.bytes, 100 MiB).
const maxRequestBytes = 16 << 20

// A Producer writes records. It is safe for concurrent use, and keeps no
// records: a call holds what it writes until it returns.
type Producer struct {
	client      *client
	cfg         ProducerConfig
	compression kgo.Compression
	log         *zap.Logger
	turn        atomic.Uint32 // spreads records without a key

	retries atomic.Int64
	written atomic.Int64

	mu     sync.Mutex
	seldom seldom
}

// NewProducer returns a producer. It does not connect before the first record.
func NewProducer(conn Connection, cfg ProducerConfig, log *zap.Logger) (*Producer, error) {
	var errs []error
	compression := kgo.Lz4
	switch cfg.Compression {
	case "", "lz4":
	case "none":
		compression = 0
	default:
		if err := compression.UnmarshalText([]byte(cfg.Compression)); err != nil {
			errs = append(errs, fmt.Errorf("kafka: producer: %w", err))
		}
	}
	if cfg.MaxBatchBytes == 0 {
		cfg.MaxBatchBytes = 1_000_000
	}
	if cfg.MaxBatchBytes < 1024 || cfg.MaxBatchBytes > maxRequestBytes {
		errs = append(errs, fmt.Errorf("kafka: producer: a limit of %d bytes for a batch is outside 1,024 to %d", cfg.MaxBatchBytes, maxRequestBytes))
	}
	if cfg.AckTimeout == 0 {
		cfg.AckTimeout = 10 * time.Second
	}
	if cfg.AckTimeout < 0 {
		errs = append(errs, errors.New("kafka: producer: the acknowledgement timeout is negative"))
	}
	c, err := conn.client()
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	return &Producer{client: c, cfg: cfg, compression: compression, log: log}, nil
}

// Close lets go of the connections.
func (p *Producer) Close() {
	p.client.close()
}

// ProducerStats are counts since the start.
type ProducerStats struct {
	Written int64 // records acknowledged
	Retries int64 // requests, or parts of one, sent again
}

// Stats returns counts for metrics.
func (p *Producer) Stats() ProducerStats {
	return ProducerStats{Written: p.written.Load(), Retries: p.retries.Load()}
}

// MaxRecordBytes is the most that key, value and headers of a record may take
// together with their overhead, 10 bytes for each header and 40 for the record.
func (p *Producer) MaxRecordBytes() int { return p.cfg.MaxBatchBytes - batchHeader }

// Produce writes records and returns once all in-sync replicas have every one.
// Records of one partition keep their order. A record with a key goes to the
// partition that the Java client would choose (murmur2); those without a key of
// one call and topic go to one partition, the next call's to the next.
//
// Outages are ridden out until ctx ends; only what was not acknowledged is sent
// again. A record that can never be written is a [*pipeline.TooLargeError], which names
// one; others of the call may have been written then, and the rest not.
func (p *Producer) Produce(ctx context.Context, records []pipeline.Record) error {
	refs := make([]*pipeline.Record, len(records))
	for i := range records {
		refs[i] = &records[i]
	}
	_, err := p.produce(ctx, refs)
	return err
}

// ProduceOne writes one record like [Producer.Produce], and returns where it lies.
func (p *Producer) ProduceOne(ctx context.Context, r pipeline.Record) (pipeline.Position, error) {
	at, err := p.produce(ctx, []*pipeline.Record{&r})
	if err != nil {
		return pipeline.Position{}, err
	}
	return at[0], nil
}

// A pending batch is on its way to one partition.
type pendingBatch struct {
	topic     string
	partition int32
	records   []*pipeline.Record
	index     []int // of each record in the call
	encoded   []byte
}

type topicPartition struct {
	topic     string
	partition int32
}

func (p *Producer) produce(ctx context.Context, records []*pipeline.Record) ([]pipeline.Position, error) {
	for i, r := range records {
		if n := encodedSize(r); n > p.MaxRecordBytes() {
			return nil, pipeline.Permanent(&pipeline.TooLargeError{Index: i, Topic: r.Topic, Bytes: n, Limit: p.MaxRecordBytes()})
		}
	}
	at := make([]pipeline.Position, len(records))
	queues, err := p.split(ctx, records)
	if err != nil {
		return nil, err
	}
	var wait backoff
	failed := 0
	for len(queues) > 0 {
		before := len(queues)
		done, err := p.round(ctx, queues, at)
		if _, tooLarge := errors.AsType[*pipeline.TooLargeError](err); tooLarge {
			return nil, pipeline.Permanent(err)
		}
		if err == nil {
			continue
		}
		p.retries.Add(1)
		p.client.noteError(err)
		// A leader that has moved costs one attempt: that is no news.
		if failed++; failed > 1 {
			p.complain(err, before)
		}
		if done {
			wait.reset()
		}
		if waitErr := wait.wait(ctx); waitErr != nil {
			return nil, fmt.Errorf("writing %d records: %w (last: %w)", len(records), waitErr, err)
		}
	}
	p.written.Add(int64(len(records)))
	return at, nil
}

func (p *Producer) complain(err error, partitions int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n, ok := p.seldom.ok(); ok {
		p.log.Warn("writing to Kafka fails, trying again", zap.Error(err), zap.Int("partitions", partitions), zap.Int("unlogged", n))
	}
}

// split chooses a partition for each record and cuts each partition's records
// into batches.
func (p *Producer) split(ctx context.Context, records []*pipeline.Record) (map[topicPartition][]*pendingBatch, error) {
	counts := map[string][]int{} // topic → its partitions
	var wait backoff
	for _, r := range records {
		for counts[r.Topic] == nil {
			ids, err := p.client.partitions(ctx, r.Topic)
			if err == nil {
				for _, id := range ids {
					counts[r.Topic] = append(counts[r.Topic], int(id))
				}
				break
			}
			p.complain(err, 0)
			p.retries.Add(1)
			if waitErr := wait.wait(ctx); waitErr != nil {
				return nil, fmt.Errorf("%w (last: %w)", waitErr, err)
			}
		}
	}
	turn := int(p.turn.Add(1) & 0x7fffffff)
	queues := map[topicPartition][]*pendingBatch{}
	sizes := map[topicPartition]int{}
	for i, r := range records {
		ids := counts[r.Topic]
		tp := topicPartition{r.Topic, int32(ids[turn%len(ids)])}
		if r.Key != nil {
			tp.partition = int32(kgo.Murmur2Balancer{}.Balance(kgo.Message{Key: r.Key}, ids...))
		}
		q, n := queues[tp], encodedSize(r)
		if len(q) == 0 || sizes[tp]+n > p.cfg.MaxBatchBytes {
			q = append(q, &pendingBatch{topic: tp.topic, partition: tp.partition})
			queues[tp], sizes[tp] = q, batchHeader
		}
		b := q[len(q)-1]
		b.records, b.index = append(b.records, r), append(b.index, i)
		sizes[tp] += n
	}
	return queues, nil
}

// round sends the first batch of every partition, one request a broker, and takes
// out of queues what was acknowledged. It reports whether anything was.
func (p *Producer) round(ctx context.Context, queues map[topicPartition][]*pendingBatch, at []pipeline.Position) (bool, error) {
	byLeader, err := p.assemble(ctx, queues)
	if err != nil && len(byLeader) == 0 {
		return false, err
	}
	var (
		mu   sync.Mutex
		wg   sync.WaitGroup
		done bool
		errs = []error{err}
	)
	send := func(req *produceRequest) {
		results, err := p.send(ctx, req)
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			errs = append(errs, err)
			return
		}
		for i, b := range req.batches {
			tp := topicPartition{b.topic, b.partition}
			switch code := results[i].code; {
			case code == 0:
				for j, idx := range b.index {
					at[idx] = pipeline.Position{Topic: b.topic, Partition: b.partition, Offset: results[i].base + int64(j)}
				}
				done = true
				if queues[tp] = queues[tp][1:]; len(queues[tp]) == 0 {
					delete(queues, tp)
				}
			case (code == kgo.MessageSizeTooLarge || code == kgo.RecordListTooLarge) && len(b.records) > 1:
				// The broker's limit is lower than ours: smaller batches may pass.
				half := len(b.records) / 2
				queues[tp] = append([]*pendingBatch{
					{topic: b.topic, partition: b.partition, records: b.records[:half], index: b.index[:half]},
					{topic: b.topic, partition: b.partition, records: b.records[half:], index: b.index[half:]},
				}, queues[tp][1:]...)
			case code == kgo.MessageSizeTooLarge || code == kgo.RecordListTooLarge:
				errs = append([]error{&pipeline.TooLargeError{Index: b.index[0], Topic: b.topic, Bytes: encodedSize(b.records[0])}}, errs...)
			default:
				errs = append(errs, fmt.Errorf("writing to %s/%d: %w", b.topic, b.partition, code))
			}
		}
	}
	for _, req := range byLeader {
		if len(byLeader) == 1 {
			send(req)
			continue
		}
		wg.Go(func() { send(req) })
	}
	wg.Wait()
	return done, errors.Join(errs...)
}

// assemble makes one request for each broker that leads a partition with
// something to write.
func (p *Producer) assemble(ctx context.Context, queues map[topicPartition][]*pendingBatch) (map[int32]*produceRequest, error) {
	var names []string
	for tp := range queues {
		if !slices.Contains(names, tp.topic) {
			names = append(names, tp.topic)
		}
	}
	topics, err := p.client.topics(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("asking who leads the partitions: %w", err)
	}
	out := map[int32]*produceRequest{}
	sizes := map[int32]int{}
	var errs []error
	for tp, q := range queues {
		leader := int32(-1)
		if t := topics[tp.topic]; t != nil {
			for i := range t.Partitions {
				if t.Partitions[i].PartitionIndex == tp.partition {
					leader = t.Partitions[i].LeaderID
				}
			}
		}
		if leader < 0 {
			errs = append(errs, fmt.Errorf("writing to %s/%d: %w", tp.topic, tp.partition, kgo.LeaderNotAvailable))
			continue
		}
		b := q[0]
		if b.encoded == nil {
			size := batchHeader
			for _, r := range b.records {
				size += encodedSize(r)
			}
			if b.encoded, err = appendBatch(make([]byte, 0, size), b.records, p.compression, time.Now()); err != nil {
				return nil, err
			}
		}
		if out[leader] == nil {
			out[leader] = &produceRequest{leader: leader, clientID: p.client.id, timeout: p.cfg.AckTimeout}
		}
		if sizes[leader] > 0 && sizes[leader]+len(b.encoded) > maxRequestBytes {
			continue // the next round's
		}
		sizes[leader] += len(b.encoded)
		out[leader].batches = append(out[leader].batches, b)
	}
	return out, errors.Join(errs...)
}

func (p *Producer) send(ctx context.Context, req *produceRequest) ([]produceResult, error) {
	m, err := p.client.roundTrip(ctx, p.cfg.AckTimeout, req)
	if err != nil {
		return nil, fmt.Errorf("writing to broker %d: %w", req.leader, err)
	}
	res, ok := m.(*produceResponse)
	if !ok {
		return nil, errProduceResponse
	}
	return res.results, nil
}

// A produceRequest holds one batch for each of several partitions with one
// leader. Like fetchRequest it writes and reads itself: the batches are encoded
// already, and kafka-go would encode each record by reflection.
type produceRequest struct {
	leader   int32
	batches  []*pendingBatch
	clientID string
	timeout  time.Duration

	version int16
}

type produceResult struct {
	code kgo.Error
	base int64 // offset of the first record
}

type produceResponse struct{ results []produceResult }

var (
	_ protocol.BrokerMessage   = (*produceRequest)(nil)
	_ protocol.PreparedMessage = (*produceRequest)(nil)
	_ protocol.RawExchanger    = (*produceRequest)(nil)

	errProduceResponse = errors.New("produce response cannot be read")
)

func (r *produceRequest) ApiKey() protocol.ApiKey { return protocol.Produce } //nolint:revive // kafka-go's name
func (r *produceResponse) ApiKey() protocol.ApiKey { //nolint:revive // kafka-go's name
	return protocol.Produce
}

// Prepare is called with the version agreed with the broker.
func (r *produceRequest) Prepare(version int16) { r.version = version }

// Required says that the request always writes itself.
func (r *produceRequest) Required(map[protocol.ApiKey]int16) bool { return true }

// Broker names the broker to write to.
func (r *produceRequest) Broker(cluster protocol.Cluster) (protocol.Broker, error) {
	if b, ok := cluster.Brokers[r.leader]; ok {
		return b, nil
	}
	return protocol.Broker{ID: -1}, kgo.LeaderNotAvailable
}

// RawExchange sends the request and reads its response.
func (r *produceRequest) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	if r.version < 3 || r.version > 8 {
		return nil, fmt.Errorf("broker speaks version %d of produce: Kafka 0.11 or later is needed", r.version)
	}
	id := fetchIDs.Add(1)
	if _, err := rw.Write(r.encode(id)); err != nil {
		return nil, fmt.Errorf("sending records: %w", err)
	}
	var size [4]byte
	if _, err := io.ReadFull(rw, size[:]); err != nil {
		return nil, fmt.Errorf("reading an acknowledgement: %w", err)
	}
	n := int64(int32(binary.BigEndian.Uint32(size[:])))
	if n < 4 || n > maxRequestBytes {
		return nil, fmt.Errorf("acknowledgement of %d bytes", n)
	}
	buf := make([]byte, n)
	if _, err := io.ReadFull(rw, buf); err != nil {
		return nil, fmt.Errorf("reading an acknowledgement: %w", err)
	}
	if got := int32(binary.BigEndian.Uint32(buf)); got != id {
		return nil, fmt.Errorf("answer to request %d where %d was sent", got, id)
	}
	return r.decode(buf[4:])
}

func (r *produceRequest) encode(id int32) []byte {
	be := binary.BigEndian
	size := 128 + len(r.clientID)
	for _, b := range r.batches {
		size += len(b.encoded) + len(b.topic) + 32
	}
	b := make([]byte, 4, size)
	str := func(s string) { b = append(be.AppendUint16(b, uint16(len(s))), s...) }
	b = be.AppendUint16(b, uint16(protocol.Produce))
	b = be.AppendUint16(b, uint16(r.version))
	b = be.AppendUint32(b, uint32(id))
	str(r.clientID)
	b = be.AppendUint16(b, 0xffff) // no transaction
	b = be.AppendUint16(b, 0xffff) // acks: all
	b = be.AppendUint32(b, uint32(r.timeout.Milliseconds()))
	slices.SortStableFunc(r.batches, func(x, y *pendingBatch) int {
		switch {
		case x.topic < y.topic:
			return -1
		case x.topic > y.topic:
			return 1
		}
		return int(x.partition - y.partition)
	})
	topics := 0
	for i, p := range r.batches {
		if i == 0 || p.topic != r.batches[i-1].topic {
			topics++
		}
	}
	b = be.AppendUint32(b, uint32(topics))
	for i := 0; i < len(r.batches); {
		n := i
		for n < len(r.batches) && r.batches[n].topic == r.batches[i].topic {
			n++
		}
		str(r.batches[i].topic)
		b = be.AppendUint32(b, uint32(n-i))
		for ; i < n; i++ {
			b = be.AppendUint32(b, uint32(r.batches[i].partition))
			b = be.AppendUint32(b, uint32(len(r.batches[i].encoded)))
			b = append(b, r.batches[i].encoded...)
		}
	}
	be.PutUint32(b, uint32(len(b)-4))
	return b
}

func (r *produceRequest) decode(data []byte) (*produceResponse, error) {
	d := bigReader{data: data}
	out := &produceResponse{results: make([]produceResult, len(r.batches))}
	answered := make([]bool, len(r.batches))
	str := func() string {
		n := int16(d.uint16())
		if n < 0 {
			return ""
		}
		return string(d.bytes(int(n)))
	}
	for range int32(d.uint32()) {
		topic := str()
		if d.bad {
			return nil, errProduceResponse
		}
		for range int32(d.uint32()) {
			partition := int32(d.uint32())
			res := produceResult{code: kgo.Error(int16(d.uint16())), base: int64(d.uint64())}
			d.skip(8) // append time
			if r.version >= 5 {
				d.skip(8) // log start
			}
			if r.version >= 8 {
				for range int32(d.uint32()) {
					d.skip(4)
					if str(); d.bad {
						return nil, errProduceResponse
					}
				}
				_ = str()
			}
			if d.bad {
				return nil, errProduceResponse
			}
			for i, b := range r.batches {
				if b.topic == topic && b.partition == partition {
					out.results[i], answered[i] = res, true
				}
			}
		}
	}
	if d.bad || slices.Contains(answered, false) {
		return nil, errProduceResponse
	}
	return out, nil
}
