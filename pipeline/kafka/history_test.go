package kafka

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dmguard/dmguard/pipeline"
)

func TestSingleRecordsAreReadAgainAndWhatIsGoneIsNamed(t *testing.T) {
	everywhere(t, func(t *testing.T, b *testbed) {
		topic := b.topic(t, 1)
		p := b.producer(t, ProducerConfig{MaxBatchBytes: 1024})
		must(t, p.Produce(t.Context(), numbered(topic, 0, 100)))
		b.deleteBefore(t, topic, 20)
		got, missing, err := b.history(t).Read(t.Context(), topic, 0, []int64{99, 50, 50, 5, 21, 22, -1, 100, 5000})
		must(t, err)
		var values []string
		for _, r := range got {
			values = append(values, string(r.Value)+"@"+r.Topic)
		}
		want := []string{"000021@" + topic, "000022@" + topic, "000050@" + topic, "000099@" + topic}
		if diff := cmp.Diff(want, values); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
		if diff := cmp.Diff([]int64{-1, 5, 100, 5000}, missing); diff != "" {
			t.Errorf("missing: -want +got\n%s", diff)
		}
	})
}

func TestAScanReadsEverythingInOrderAndEndsAtTheEndOfThen(t *testing.T) {
	everywhere(t, func(t *testing.T, b *testbed) {
		topic := b.topic(t, 3)
		p := b.producer(t, ProducerConfig{})
		must(t, p.Produce(t.Context(), numbered(topic, 0, 1000)))
		next := map[int32]int64{}
		var steps [][2]int64
		n := 0
		err := b.history(t).Scan(t.Context(), topic, ScanOptions{
			Progress: func(done, total int64) { steps = append(steps, [2]int64{done, total}) },
		}, func(r pipeline.Record) error {
			if n == 0 { // what comes after the call is not part of it
				must(t, p.Produce(t.Context(), numbered(topic, 1000, 100)))
			}
			if r.Offset != next[r.Partition] {
				t.Fatalf("offset %d in partition %d, want %d", r.Offset, r.Partition, next[r.Partition])
			}
			next[r.Partition]++
			n++
			return nil
		})
		if err != nil || n != 1000 || len(steps) == 0 || steps[len(steps)-1] != [2]int64{1000, 1000} {
			t.Errorf("%d records, progress %v: %v", n, steps, err)
		}
		_, end, err := b.history(t).Ends(t.Context(), topic)
		must(t, err)
		var rest int
		must(t, b.history(t).Scan(t.Context(), topic, ScanOptions{From: next}, func(pipeline.Record) error { rest++; return nil }))
		if rest != 100 {
			t.Errorf("%d records after the first scan, want 100", rest)
		}
		must(t, b.history(t).Scan(t.Context(), topic, ScanOptions{From: end}, func(pipeline.Record) error {
			t.Error("a record after the end")
			return nil
		}))
	})
}

func TestAScanThatFollowsGoesOn(t *testing.T) {
	everywhere(t, func(t *testing.T, b *testbed) {
		topic := b.topic(t, 2)
		p := b.producer(t, ProducerConfig{})
		must(t, p.Produce(t.Context(), numbered(topic, 0, 10)))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		n := 0
		err := b.history(t).Scan(ctx, topic, ScanOptions{Follow: true}, func(pipeline.Record) error {
			switch n++; n {
			case 10:
				b.cut(false)
				must(t, p.Produce(t.Context(), numbered(topic, 10, 10)))
			case 20:
				cancel()
			}
			return nil
		})
		if !errors.Is(err, context.Canceled) || n != 20 {
			t.Errorf("%d records: %v", n, err)
		}
	})
}

func TestAScanSaysWhereItsBeginningIsGone(t *testing.T) {
	everywhere(t, func(t *testing.T, b *testbed) {
		topic := b.topic(t, 1)
		must(t, b.producer(t, ProducerConfig{}).Produce(t.Context(), numbered(topic, 0, 10)))
		b.deleteBefore(t, topic, 6)
		from := map[int32]int64{0: 2}
		err := b.history(t).Scan(t.Context(), topic, ScanOptions{From: from}, func(pipeline.Record) error { return nil })
		if gap, ok := errors.AsType[*GapError](err); !ok || gap.From != 2 || gap.To != 6 {
			t.Errorf("without anybody to tell: %v", err)
		}
		var offsets []int64
		var told pipeline.Gap
		must(t, b.history(t).Scan(t.Context(), topic, ScanOptions{From: from, OnGap: func(_ context.Context, g pipeline.Gap) error {
			told = g
			return nil
		}}, func(r pipeline.Record) error { offsets = append(offsets, r.Offset); return nil }))
		if told.From != 2 || told.To != 6 || !slices.Equal(offsets, []int64{6, 7, 8, 9}) {
			t.Errorf("gap %+v, then %v", told, offsets)
		}
		err = b.history(t).Scan(t.Context(), topic, ScanOptions{From: map[int32]int64{0: 50}, Follow: true}, func(pipeline.Record) error { return nil })
		if err == nil {
			t.Error("an offset beyond the end was taken")
		}
	})
}

func TestAScanEndsAtTheFirstErrorOfItsHandler(t *testing.T) {
	b := inProcess(t)
	topic := b.topic(t, 2)
	must(t, b.producer(t, ProducerConfig{}).Produce(t.Context(), numbered(topic, 0, 100)))
	bad := errors.New("bad")
	n := 0
	err := b.history(t).Scan(t.Context(), topic, ScanOptions{Follow: true}, func(pipeline.Record) error {
		if n++; n == 3 {
			return bad
		}
		return nil
	})
	if !errors.Is(err, bad) || n != 3 {
		t.Errorf("%d records: %v", n, err)
	}
}

func TestACallEndsWithItsContext(t *testing.T) {
	b := inProcess(t)
	b.cut(true)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, _, err := b.history(t).Ends(ctx, "t"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ends: %v", err)
	}
	if _, _, err := b.history(t).Read(ctx, "t", 0, []int64{1}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
}
