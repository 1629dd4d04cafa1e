// Package kafka reads from and writes to Apache Kafka, or to whatever speaks its
// protocol, by way of kafka-go. No other package imports that library.
//
//   - [Source] delivers a consumer group's share of a topic and commits a
//     position only once everything before it is done.
//   - [Producer] writes records and returns once every in-sync replica has them.
//   - [History] reads records again, without a group: by position, or whole topics.
//   - [Topics] creates and checks the topics that the system writes.
//
// It promises at-least-once delivery. Nothing is skipped in silence: where
// retention has deleted records that were never delivered, a gap is reported
// before the first record after it; a batch that fails its checksum is fetched
// again until it passes; a committed offset beyond the end of the log stops the
// partition.
//
// It does not promise exactly-once: a record is delivered again after a crash or
// a rebalance, and a write whose acknowledgement was lost is written twice. It
// does not hide aborted transactions (they are delivered: what somebody wrote is
// looked at, whatever became of the transaction), and it cannot tell that a topic
// was deleted and created again once the new one has outgrown the committed offset.
//
// kafka-go's Reader and Writer are not used. The Reader skips in silence where
// retention overtakes it, commits positions of partitions that it has lost and
// does not check checksums. So groups are joined through kafka-go's
// ConsumerGroup, and record batches are encoded and decoded here: that is where
// checksums, compacted tails, control records and limits are settled.
package kafka
