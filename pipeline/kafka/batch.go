package kafka

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"
	"time"

	"github.com/pierrec/lz4/v4"
	kgo "github.com/segmentio/kafka-go"

	"github.com/dmguard/dmguard/pipeline"
)

// The record batch of Kafka 0.11 and later (KIP-98; "RecordBatch" in Kafka's
// implementation notes): a header of 61 bytes, then the records, compressed as a
// whole or not.
const (
	batchHeader   = 61
	batchPrefix   = 12 // base offset and length, which the length does not count
	batchCRCStart = 21 // the checksum covers everything from the attributes on

	attrCompression = 0x07
	attrLogTime     = 0x08
	attrControl     = 0x20

	// minRecord is the size of a record that holds nothing.
	minRecord = 7

	// maxInflated bounds what one compressed batch may become.
	maxInflated = 128 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A CorruptError says that a batch of records cannot be read. Nothing of it was
// delivered.
type CorruptError struct {
	Offset int64 // first offset of the batch, as far as it can be trusted
	Reason string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("record batch at offset %d is corrupt: %s", e.Offset, e.Reason)
}

// A batch is one record batch, its checksum verified.
type batch struct {
	base    int64 // offset of its first record as it was written
	last    int64 // offset of its last record as it was written
	time    int64 // of its first record, ms
	maxTime int64
	attrs   int16
	count   int
	records []byte // decompressed
}

func (b *batch) control() bool { return b.attrs&attrControl != 0 }

// nextBatch reads the batch at the start of data and returns what follows it. ok
// is false where data ends before the batch does: a broker cuts the last one off.
// A batch that ends before from is not decompressed.
func nextBatch(data []byte, from int64) (b batch, rest []byte, ok bool, err error) {
	if len(data) < batchPrefix+5 {
		return b, nil, false, nil
	}
	b.base = int64(binary.BigEndian.Uint64(data))
	corrupt := func(format string, args ...any) (batch, []byte, bool, error) {
		return batch{}, nil, false, &CorruptError{b.base, fmt.Sprintf(format, args...)}
	}
	length := int64(int32(binary.BigEndian.Uint32(data[8:])))
	if magic := data[16]; magic != 2 {
		return corrupt("message format %d, which brokers before 0.11 wrote, is not supported", magic)
	}
	if length < batchHeader-batchPrefix {
		return corrupt("length %d", length)
	}
	if length > int64(len(data)-batchPrefix) {
		return b, nil, false, nil
	}
	whole, rest := data[:batchPrefix+length], data[batchPrefix+length:]
	if sum, want := crc32.Checksum(whole[batchCRCStart:], castagnoli), binary.BigEndian.Uint32(whole[17:]); sum != want {
		return corrupt("checksum %08x, %08x expected", sum, want)
	}
	b.attrs = int16(binary.BigEndian.Uint16(whole[21:]))
	delta := int32(binary.BigEndian.Uint32(whole[23:]))
	b.last = b.base + int64(delta)
	b.time = int64(binary.BigEndian.Uint64(whole[27:]))
	b.maxTime = int64(binary.BigEndian.Uint64(whole[35:]))
	b.count = int(int32(binary.BigEndian.Uint32(whole[57:])))
	if b.base < 0 || delta < 0 || b.last < b.base || b.count < 0 {
		return corrupt("%d records, last offset delta %d", b.count, delta)
	}
	if b.last < from || b.control() {
		return b, rest, true, nil
	}
	b.records = whole[batchHeader:]
	if c := kgo.Compression(b.attrs & attrCompression); c != 0 {
		if b.records, err = inflate(b.records, c); err != nil {
			return corrupt("%v", err)
		}
	}
	if b.count > len(b.records)/minRecord {
		return corrupt("%d records in %d bytes", b.count, len(b.records))
	}
	return b, rest, true, nil
}

func inflate(data []byte, c kgo.Compression) ([]byte, error) {
	codec := c.Codec()
	if codec == nil {
		return nil, fmt.Errorf("unknown compression %d", c)
	}
	r := codec.NewReader(bytes.NewReader(data))
	defer r.Close()
	var out bytes.Buffer
	out.Grow(min(4*len(data), 8<<20))
	if _, err := out.ReadFrom(io.LimitReader(r, maxInflated+1)); err != nil {
		return nil, fmt.Errorf("decompressing: %w", err)
	}
	if out.Len() > maxInflated {
		return nil, fmt.Errorf("it decompresses to more than %d bytes", maxInflated)
	}
	return out.Bytes(), nil
}

// each calls f with each record from offset from on. The record's key, value and
// header values are parts of the batch, not copies.
func (b *batch) each(from int64, f func(offset int64, at time.Time, key, value []byte, headers []pipeline.Header)) error {
	r := varReader{data: b.records}
	prev := b.base - 1
	for i := range b.count {
		rec := varReader{data: r.bytes(r.varint())}
		_ = rec.bytes(1) // attributes, unused
		ms, offset := b.time+rec.varint(), b.base+rec.varint()
		key, value := rec.nullable(), rec.nullable()
		n := rec.varint()
		if r.bad || rec.bad || n < 0 || n > int64(len(rec.data)/2) || offset <= prev || offset > b.last {
			return &CorruptError{b.base, fmt.Sprintf("record %d of %d cannot be read", i, b.count)}
		}
		prev = offset
		if offset < from {
			continue
		}
		var headers []pipeline.Header
		if n > 0 {
			headers = make([]pipeline.Header, n)
			for j := range headers {
				headers[j] = pipeline.Header{Key: headerName(rec.bytes(rec.varint())), Value: rec.nullable()}
			}
			if rec.bad {
				return &CorruptError{b.base, fmt.Sprintf("headers of record %d of %d cannot be read", i, b.count)}
			}
		}
		if b.attrs&attrLogTime != 0 {
			ms = b.maxTime
		}
		var at time.Time
		if ms >= 0 {
			at = time.UnixMilli(ms).UTC()
		}
		f(offset, at, key, value, headers)
	}
	return nil
}

// headerName spares an allocation for the one header that every record has.
func headerName(b []byte) string {
	if string(b) == "schema" {
		return "schema"
	}
	return string(b)
}

type varReader struct {
	data []byte
	bad  bool
}

func (r *varReader) varint() int64 {
	v, n := binary.Varint(r.data)
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.data = r.data[n:]
	return v
}

func (r *varReader) bytes(n int64) []byte {
	if n < 0 || n > int64(len(r.data)) {
		r.bad = true
		return nil
	}
	out := r.data[:n:n]
	r.data = r.data[n:]
	return out
}

// nullable reads bytes with their length before them, -1 for none.
func (r *varReader) nullable() []byte {
	n := r.varint()
	if n == -1 {
		return nil
	}
	return r.bytes(n)
}

// recordOverhead bounds what a record takes beyond its key, value and headers.
const recordOverhead = 40

// encodedSize is an upper bound of what r takes in an uncompressed batch.
func encodedSize(r *pipeline.Record) int {
	n := recordOverhead + len(r.Key) + len(r.Value)
	for i := range r.Headers {
		n += 10 + len(r.Headers[i].Key) + len(r.Headers[i].Value)
	}
	return n
}

// appendBatch appends records as one batch. A record without a time gets now.
func appendBatch(dst []byte, records []*pipeline.Record, c kgo.Compression, now time.Time) ([]byte, error) {
	if len(records) == 0 {
		return dst, errors.New("encoding a batch of no records")
	}
	ms := func(r *pipeline.Record) int64 {
		if r.Time.IsZero() {
			return now.UnixMilli()
		}
		return r.Time.UnixMilli()
	}
	start := len(dst)
	first, latest := ms(records[0]), ms(records[0])
	dst = append(dst, make([]byte, batchHeader)...)
	var scratch, tail []byte
	for i, r := range records {
		t := ms(r)
		latest = max(latest, t)
		scratch = append(scratch[:0], 0)
		scratch = binary.AppendVarint(scratch, t-first)
		scratch = binary.AppendVarint(scratch, int64(i))
		scratch = appendNullable(scratch, r.Key)
		tail = binary.AppendVarint(tail[:0], int64(len(r.Headers)))
		for _, h := range r.Headers {
			tail = binary.AppendVarint(tail, int64(len(h.Key)))
			tail = append(tail, h.Key...)
			tail = appendNullable(tail, h.Value)
		}
		valueLen := int64(-1)
		if r.Value != nil {
			valueLen = int64(len(r.Value))
		}
		scratch = binary.AppendVarint(scratch, valueLen)
		dst = binary.AppendVarint(dst, int64(len(scratch)+len(r.Value)+len(tail)))
		dst = append(dst, scratch...)
		dst = append(dst, r.Value...)
		dst = append(dst, tail...)
	}
	if c != 0 {
		deflated, err := deflate(dst[start+batchHeader:], c)
		if err != nil {
			return nil, err
		}
		if len(deflated) < len(dst)-start-batchHeader {
			dst = append(dst[:start+batchHeader], deflated...)
		} else {
			c = 0
		}
	}
	h := dst[start:]
	binary.BigEndian.PutUint32(h[8:], uint32(len(h)-batchPrefix))
	binary.BigEndian.PutUint32(h[12:], 0xffffffff) // leader epoch: the broker's to set
	h[16] = 2
	binary.BigEndian.PutUint16(h[21:], uint16(c))
	binary.BigEndian.PutUint32(h[23:], uint32(len(records)-1))
	binary.BigEndian.PutUint64(h[27:], uint64(first))
	binary.BigEndian.PutUint64(h[35:], uint64(latest))
	for i := 43; i < 57; i++ {
		h[i] = 0xff // no producer id, epoch or sequence: not idempotent
	}
	binary.BigEndian.PutUint32(h[57:], uint32(len(records)))
	binary.BigEndian.PutUint32(h[17:], crc32.Checksum(h[batchCRCStart:], castagnoli))
	return dst, nil
}

func appendNullable(dst, b []byte) []byte {
	if b == nil {
		return binary.AppendVarint(dst, -1)
	}
	return append(binary.AppendVarint(dst, int64(len(b))), b...)
}

// lz4Writers make frames of 64 KiB blocks, as the Java client does. kafka-go's
// blocks are of 4 MiB, and whoever reads a batch has buffers of that size for it,
// however small it is.
var lz4Writers = sync.Pool{New: func() any {
	w := lz4.NewWriter(nil)
	if err := w.Apply(lz4.BlockSizeOption(lz4.Block64Kb), lz4.ChecksumOption(false)); err != nil {
		panic(err) // the options are constants
	}
	return w
}}

func deflate(data []byte, c kgo.Compression) ([]byte, error) {
	var out bytes.Buffer
	out.Grow(len(data) / 2)
	var w io.WriteCloser
	if c == kgo.Lz4 {
		z := lz4Writers.Get().(*lz4.Writer)
		defer lz4Writers.Put(z)
		z.Reset(&out)
		w = z
	} else if codec := c.Codec(); codec != nil {
		w = codec.NewWriter(&out)
	} else {
		return nil, fmt.Errorf("unknown compression %d", c)
	}
	if _, err := w.Write(data); err != nil {
		return nil, fmt.Errorf("compressing a batch: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("compressing a batch: %w", err)
	}
	return out.Bytes(), nil
}
