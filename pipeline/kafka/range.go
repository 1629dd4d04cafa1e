package kafka

import (
	"context"
	"fmt"
	"time"

	kgo "github.com/segmentio/kafka-go"

	"github.com/dmguard/dmguard/pipeline"
)

// Range calls handle with the records of one partition from offset from up to,
// and not including, offset to, in order and several at a time. Offsets that
// the log no longer holds are passed over. A record's bytes are shared with
// others of the same fetch.
func (h *History) Range(ctx context.Context, topic string, partition int32, from, to int64, handle func([]pipeline.Record) error) error {
	first, end, err := h.bounds(ctx, topic, partition)
	if err != nil {
		return err
	}
	for next, to := max(from, first), min(to, end); next < to; {
		var records []pipeline.Record
		at := next
		err := h.patiently(ctx, "reading a range", topic, func() (err error) {
			records, next, err = h.fetch(ctx, topic, partition, at, to-1, scanBytes, scanWait)
			return err
		})
		if err != nil {
			return err
		}
		for len(records) > 0 && records[len(records)-1].Offset >= to {
			records = records[:len(records)-1]
		}
		if len(records) == 0 {
			if next <= at {
				return fmt.Errorf("reading a range of %s/%d: nothing at offset %d, before its end %d", topic, partition, at, to)
			}
			continue
		}
		if err := handle(records); err != nil {
			return err
		}
		next = max(next, records[len(records)-1].Offset+1)
	}
	return nil
}

func (h *History) bounds(ctx context.Context, topic string, partition int32) (first, end int64, err error) {
	err = h.patiently(ctx, "finding the ends of a partition", topic, func() (err error) {
		first, end, err = h.client.bounds(ctx, topic, partition)
		return err
	})
	return first, end, err
}

// OffsetAt returns the offset of the first record of a partition that was
// written at t or later, and the end of the partition where there is none.
func (h *History) OffsetAt(ctx context.Context, topic string, partition int32, t time.Time) (int64, error) {
	var offset int64
	err := h.patiently(ctx, "finding a time", topic, func() error {
		res, err := h.client.api.ListOffsets(ctx, &kgo.ListOffsetsRequest{
			Topics: map[string][]kgo.OffsetRequest{topic: {kgo.TimeOffsetOf(int(partition), t)}},
		})
		if err != nil {
			return err
		}
		for _, p := range res.Topics[topic] {
			if p.Partition != int(partition) {
				continue
			}
			if p.Error != nil {
				return p.Error
			}
			for o := range p.Offsets {
				offset = o
				if o >= 0 {
					return nil
				}
			}
		}
		_, offset, err = h.client.bounds(ctx, topic, partition)
		return err
	})
	return offset, err
}
