package kafka

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	kgo "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"

	"github.com/dmguard/dmguard/pipeline"
)

func samples() []*pipeline.Record {
	at := time.UnixMilli(1_767_000_000_000).UTC()
	return []*pipeline.Record{
		{Key: []byte("a"), Value: []byte("one"), Time: at, Headers: []pipeline.Header{{Key: "schema", Value: []byte("x/v1")}}},
		{Key: nil, Value: nil, Time: at.Add(-time.Second)},
		{Key: []byte{}, Value: []byte{}, Time: at.Add(time.Hour), Headers: []pipeline.Header{{Key: "empty", Value: nil}, {Key: "", Value: []byte{0}}}},
		{Key: []byte("b"), Value: bytes.Repeat([]byte("compressible "), 100), Time: at},
	}
}

func decodeAll(t testing.TB, data []byte, from int64) ([]pipeline.Record, int64, error) {
	t.Helper()
	var out []pipeline.Record
	next := from
	for len(data) > 0 {
		b, rest, ok, err := nextBatch(data, from)
		if err != nil || !ok {
			return out, next, err
		}
		if b.records != nil {
			if err := b.each(from, func(offset int64, at time.Time, key, value []byte, headers []pipeline.Header) {
				out = append(out, pipeline.Record{Position: pipeline.Position{Offset: offset}, Time: at, Key: key, Value: value, Headers: headers})
			}); err != nil {
				return nil, next, err
			}
		}
		data, next = rest, b.last+1
	}
	return out, next, nil
}

func TestABatchReadsBackAsItWasWritten(t *testing.T) {
	for c := range kgo.Compression(5) {
		t.Run(fmt.Sprint(int(c)), func(t *testing.T) {
			data, err := appendBatch(nil, samples(), c, time.Now())
			must(t, err)
			got, next, err := decodeAll(t, data, 0)
			must(t, err)
			var want []pipeline.Record
			for i, r := range samples() {
				w := *r
				w.Offset = int64(i)
				want = append(want, w)
			}
			if diff := cmp.Diff(want, got); diff != "" || next != 4 {
				t.Errorf("next %d, -want +got\n%s", next, diff)
			}
		})
	}
}

// TestKafkaGoReadsOurBatches has another implementation check the format.
func TestKafkaGoReadsOurBatches(t *testing.T) {
	for c := range kgo.Compression(5) {
		data, err := appendBatch(nil, samples(), c, time.Now())
		must(t, err)
		framed := append(binary.BigEndian.AppendUint32(nil, uint32(len(data))), data...)
		var rs protocol.RecordSet
		if _, err := rs.ReadFrom(bytes.NewReader(framed)); err != nil {
			t.Fatal(err)
		}
		for i, want := range samples() {
			r, err := rs.Records.ReadRecord()
			must(t, err)
			key, _ := protocol.ReadAll(r.Key)
			value, _ := protocol.ReadAll(r.Value)
			if !bytes.Equal(key, want.Key) || !bytes.Equal(value, want.Value) || !r.Time.Equal(want.Time) || r.Offset != int64(i) || len(r.Headers) != len(want.Headers) {
				t.Errorf("record %d differs with compression %d", i, c)
			}
		}
	}
}

func TestAFlippedBitIsNoticed(t *testing.T) {
	data, err := appendBatch(nil, samples()[:2], 0, time.Now())
	must(t, err)
	for i := 16; i < len(data); i++ {
		for bit := range 8 {
			bad := bytes.Clone(data)
			bad[i] ^= 1 << bit
			_, _, err := decodeAll(t, bad, 0)
			if _, ok := errors.AsType[*CorruptError](err); !ok {
				t.Fatalf("bit %d of byte %d flipped: %v", bit, i, err)
			}
		}
	}
}

func TestACutOffBatchIsLeftForTheNextFetch(t *testing.T) {
	one, err := appendBatch(nil, samples(), 0, time.Now())
	must(t, err)
	two := append(bytes.Clone(one), one...)
	binary.BigEndian.PutUint64(two[len(one):], 4) // its base offset, which the checksum does not cover
	for n := range one {
		got, next, err := decodeAll(t, two[:len(one)+n], 0)
		if err != nil || len(got) != 4 || next != 4 {
			t.Fatalf("cut after %d: %d records, next %d: %v", n, len(got), next, err)
		}
	}
}

// rewrite changes a batch's header and makes its checksum right again.
func rewrite(data []byte, f func(b []byte)) []byte {
	b := bytes.Clone(data)
	f(b)
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[batchCRCStart:], castagnoli))
	return b
}

func TestTheEndOfABatchIsKnownWhereCompactionTookItsTail(t *testing.T) {
	data, err := appendBatch(nil, samples(), 0, time.Now())
	must(t, err)
	data = rewrite(data, func(b []byte) { binary.BigEndian.PutUint32(b[23:], 9) })
	got, next, err := decodeAll(t, data, 2)
	if err != nil || len(got) != 2 || next != 10 {
		t.Errorf("%d records, next %d: %v; want 2 and 10", len(got), next, err)
	}
}

func TestControlRecordsAreNotDelivered(t *testing.T) {
	data, err := appendBatch(nil, samples()[:1], 0, time.Now())
	must(t, err)
	data = rewrite(data, func(b []byte) { b[22] |= attrControl })
	got, next, err := decodeAll(t, data, 0)
	if err != nil || len(got) != 0 || next != 1 {
		t.Errorf("%d records, next %d: %v; want 0 and 1", len(got), next, err)
	}
}

func TestADecompressionBombIsRefused(t *testing.T) {
	data, err := appendBatch(nil, []*pipeline.Record{{Value: make([]byte, maxInflated+1)}}, kgo.Zstd, time.Now())
	must(t, err)
	_, _, err = decodeAll(t, data, 0)
	if _, ok := errors.AsType[*CorruptError](err); !ok {
		t.Errorf("%d bytes: %v", len(data), err)
	}
}

func TestMoreRecordsClaimedThanBytesIsRefused(t *testing.T) {
	data, err := appendBatch(nil, samples(), 0, time.Now())
	must(t, err)
	for _, n := range []uint32{5, 1 << 30, 0xffffffff} {
		_, _, err := decodeAll(t, rewrite(data, func(b []byte) { binary.BigEndian.PutUint32(b[57:], n) }), 0)
		if _, ok := errors.AsType[*CorruptError](err); !ok {
			t.Errorf("%d records claimed: %v", n, err)
		}
	}
}

// TestAKnownBatch holds the encoding to bytes worked out by hand from the
// description of the format.
func TestAKnownBatch(t *testing.T) {
	data, err := appendBatch(nil, []*pipeline.Record{{Key: []byte("k"), Value: []byte("v"), Time: time.UnixMilli(1)}}, 0, time.Now())
	must(t, err)
	want := "0000000000000000" + "0000003a" + "ffffffff" + "02" + "CRC" + "0000" + "00000000" +
		"0000000000000001" + "0000000000000001" + "ffffffffffffffff" + "ffff" + "ffffffff" + "00000001" +
		"10" + "00" + "00" + "00" + "02" + "6b" + "02" + "76" + "00"
	got := hex.EncodeToString(data)
	got = got[:34] + "CRC" + got[42:]
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// FuzzBatch reads what a hostile or damaged broker may send.
func FuzzBatch(f *testing.F) {
	for c := range kgo.Compression(5) {
		data, err := appendBatch(nil, samples(), c, time.UnixMilli(0))
		must2(f, err)
		f.Add(data[batchCRCStart:], int64(0))
		f.Add(data[batchCRCStart:len(data)-3], int64(2))
	}
	f.Fuzz(func(t *testing.T, body []byte, from int64) {
		// The fuzzer need not find checksums.
		data := make([]byte, batchCRCStart, batchCRCStart+len(body))
		data = append(data, body...)
		binary.BigEndian.PutUint32(data[8:], uint32(len(data)-batchPrefix))
		data[16] = 2
		binary.BigEndian.PutUint32(data[17:], crc32.Checksum(body, castagnoli))
		records, next, err := decodeAll(t, data, from)
		prev := from - 1
		for _, r := range records {
			if r.Offset <= prev || (err == nil && r.Offset >= next) {
				t.Fatalf("offset %d after %d, next %d", r.Offset, prev, next)
			}
			prev = r.Offset
		}
	})
}

// FuzzResponses decodes what a hostile or damaged broker may answer.
func FuzzResponses(f *testing.F) {
	f.Add([]byte{}, int16(4))
	f.Add(bytes.Repeat([]byte{0, 0, 0, 1}, 30), int16(11))
	f.Fuzz(func(_ *testing.T, data []byte, version int16) {
		fr := &fetchRequest{topic: "t", version: version}
		_, _ = fr.decode(data)
		pr := &produceRequest{batches: []*pendingBatch{{topic: "t"}}, version: version}
		_, _ = pr.decode(data)
	})
}

func must2(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func BenchmarkDecodeBatch(b *testing.B) {
	var records []*pipeline.Record
	for range 1000 {
		records = append(records, &pipeline.Record{Key: []byte("conversation-1234"), Value: make([]byte, 1024), Headers: []pipeline.Header{{Key: "schema", Value: []byte("message/v1")}}})
	}
	data, err := appendBatch(nil, records, 0, time.Now())
	must2(b, err)
	b.ReportAllocs()
	for b.Loop() {
		_, _, _ = decodeAll(b, data, 0)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/record")
}

// BenchmarkEncodeBatch shows what compression costs and saves, for verdicts as
// they are (JSON) and for sealed evidence (which nothing compresses).
func BenchmarkEncodeBatch(b *testing.B) {
	rnd := rand.NewChaCha8([32]byte{})
	var verdicts, sealed []*pipeline.Record
	for i := range 1000 {
		key := fmt.Appendf(nil, "c-%x", rnd.Uint64())
		headers := []pipeline.Header{{Key: "schema", Value: []byte("verdict/v1")}}
		verdicts = append(verdicts, &pipeline.Record{Key: key, Headers: headers, Value: fmt.Appendf(nil,
			`{"message_id":"m-%x","conversation_id":"%s","status":"scanned","action":"allow","severity":"none","risk":0.%d,`+
				`"findings":[],"versions":{"policy":"1","ruleset":"r1"},"decided_at":"2026-11-23T03:00:%02dZ"}`,
			rnd.Uint64(), key, i, i%60)})
		value := make([]byte, 1024)
		_, _ = rnd.Read(value)
		sealed = append(sealed, &pipeline.Record{Key: key, Headers: headers, Value: value})
	}
	for kind, records := range map[string][]*pipeline.Record{"verdicts": verdicts, "sealed": sealed} {
		for _, c := range []kgo.Compression{0, kgo.Lz4, kgo.Zstd} {
			name := "none"
			if c != 0 {
				name = c.String()
			}
			b.Run(kind+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				n := 0
				for b.Loop() {
					data, err := appendBatch(nil, records, c, time.Now())
					must2(b, err)
					n = len(data)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/record")
				b.ReportMetric(float64(n)/1000, "B/record")
			})
		}
	}
}
