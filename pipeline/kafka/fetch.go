package kafka

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	kgo "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// maxResponse bounds a fetch response: a broker returns one whole batch, however
// large, and no broker is set to take batches beyond this.
const maxResponse = 256 << 20

// A fetchRequest asks for the records of one partition. It writes and reads
// itself ([protocol.RawExchanger]) because kafka-go's own decoder hides where a
// batch ends: after a compacted tail or a control record the next position could
// not be told.
type fetchRequest struct {
	topic     string
	partition int32
	offset    int64
	maxBytes  int32
	minBytes  int32
	maxWait   time.Duration
	clientID  string

	version int16
}

// A fetchResponse holds whole record batches, to be read with nextBatch.
type fetchResponse struct {
	code     kgo.Error
	end      int64 // the high watermark: first offset not readable yet
	logStart int64 // first offset kept; -1 where the broker does not say
	records  []byte
}

var (
	_ protocol.BrokerMessage   = (*fetchRequest)(nil)
	_ protocol.PreparedMessage = (*fetchRequest)(nil)
	_ protocol.RawExchanger    = (*fetchRequest)(nil)

	fetchIDs atomic.Int32 // correlation ids, to tell a stray answer
)

func (r *fetchRequest) ApiKey() protocol.ApiKey { return protocol.Fetch } //nolint:revive // kafka-go's name
func (r *fetchResponse) ApiKey() protocol.ApiKey { //nolint:revive // kafka-go's name
	return protocol.Fetch
}

// Prepare is called with the version agreed with the broker.
func (r *fetchRequest) Prepare(version int16) { r.version = version }

// Required says that the request always writes itself.
func (r *fetchRequest) Required(map[protocol.ApiKey]int16) bool { return true }

// Broker names the leader of the partition.
func (r *fetchRequest) Broker(cluster protocol.Cluster) (protocol.Broker, error) {
	p, ok := cluster.Topics[r.topic].Partitions[r.partition]
	if !ok {
		return protocol.Broker{ID: -1}, kgo.UnknownTopicOrPartition
	}
	b, ok := cluster.Brokers[p.Leader]
	if !ok {
		return protocol.Broker{ID: -1}, kgo.LeaderNotAvailable
	}
	return b, nil
}

// RawExchange sends the request and reads its response.
func (r *fetchRequest) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	if r.version < 4 || r.version > 11 {
		return nil, fmt.Errorf("broker speaks version %d of fetch: Kafka 0.11 or later is needed", r.version)
	}
	id := fetchIDs.Add(1)
	if _, err := rw.Write(r.encode(id)); err != nil {
		return nil, fmt.Errorf("sending a fetch: %w", err)
	}
	var size [4]byte
	if _, err := io.ReadFull(rw, size[:]); err != nil {
		return nil, fmt.Errorf("reading a fetch response: %w", err)
	}
	n := int64(int32(binary.BigEndian.Uint32(size[:])))
	if n < 4 || n > maxResponse {
		return nil, fmt.Errorf("fetch response of %d bytes: at most %d are taken", n, maxResponse)
	}
	buf := make([]byte, n)
	if _, err := io.ReadFull(rw, buf); err != nil {
		return nil, fmt.Errorf("reading a fetch response: %w", err)
	}
	if got := int32(binary.BigEndian.Uint32(buf)); got != id {
		return nil, fmt.Errorf("answer to request %d where %d was sent", got, id)
	}
	return r.decode(buf[4:])
}

func (r *fetchRequest) encode(id int32) []byte {
	be := binary.BigEndian
	b := make([]byte, 4, 128+len(r.topic)+len(r.clientID))
	str := func(s string) { b = append(be.AppendUint16(b, uint16(len(s))), s...) }
	b = be.AppendUint16(b, uint16(protocol.Fetch))
	b = be.AppendUint16(b, uint16(r.version))
	b = be.AppendUint32(b, uint32(id))
	str(r.clientID)
	b = be.AppendUint32(b, 0xffffffff) // replica -1: a consumer
	b = be.AppendUint32(b, uint32(r.maxWait.Milliseconds()))
	b = be.AppendUint32(b, uint32(r.minBytes))
	b = be.AppendUint32(b, uint32(r.maxBytes))
	b = append(b, 0) // read uncommitted
	if r.version >= 7 {
		b = be.AppendUint32(b, 0)          // no session
		b = be.AppendUint32(b, 0xffffffff) // and none wanted
	}
	b = be.AppendUint32(b, 1)
	str(r.topic)
	b = be.AppendUint32(b, 1)
	b = be.AppendUint32(b, uint32(r.partition))
	if r.version >= 9 {
		b = be.AppendUint32(b, 0xffffffff) // leader epoch unknown
	}
	b = be.AppendUint64(b, uint64(r.offset))
	if r.version >= 5 {
		b = be.AppendUint64(b, ^uint64(0)) // log start: followers only
	}
	b = be.AppendUint32(b, uint32(r.maxBytes))
	if r.version >= 7 {
		b = be.AppendUint32(b, 0) // no forgotten topics
	}
	if r.version >= 11 {
		str("") // no rack
	}
	be.PutUint32(b, uint32(len(b)-4))
	return b
}

var errFetchResponse = errors.New("fetch response cannot be read")

func (r *fetchRequest) decode(data []byte) (*fetchResponse, error) {
	d := bigReader{data: data}
	out := &fetchResponse{logStart: -1}
	d.skip(4) // throttle time: the broker delays by itself
	if r.version >= 7 {
		out.code = kgo.Error(int16(d.uint16()))
		if out.code != 0 {
			return out, nil //nolint:nilerr // the code is part of an answer, not a failure to read it
		}
		d.skip(4)
	}
	if d.uint32() != 1 {
		return nil, errFetchResponse
	}
	topic := string(d.bytes(int(d.uint16())))
	if d.uint32() != 1 || topic != r.topic {
		return nil, errFetchResponse
	}
	partition := int32(d.uint32())
	out.code = kgo.Error(int16(d.uint16()))
	out.end = int64(d.uint64())
	d.skip(8) // last stable offset
	if r.version >= 5 {
		out.logStart = int64(d.uint64())
	}
	if aborted := int32(d.uint32()); aborted > 0 {
		d.skip(int(aborted) * 16)
	}
	if r.version >= 11 {
		d.skip(4) // preferred replica
	}
	if size := int32(d.uint32()); size > 0 {
		out.records = d.bytes(int(size))
	}
	if d.bad || partition != r.partition {
		return nil, errFetchResponse
	}
	return out, nil
}

type bigReader struct {
	data []byte
	bad  bool
}

func (d *bigReader) bytes(n int) []byte {
	if n < 0 || n > len(d.data) {
		d.bad, d.data = true, nil
		return nil
	}
	out := d.data[:n:n]
	d.data = d.data[n:]
	return out
}

func (d *bigReader) skip(n int) { d.bytes(n) }

func (d *bigReader) uint16() uint16 {
	if b := d.bytes(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (d *bigReader) uint32() uint32 {
	if b := d.bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (d *bigReader) uint64() uint64 {
	if b := d.bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}
