// Package state keeps what is remembered of conversations between their
// messages: [Redis] for workers, [Local] for one process that reads a file. Both
// are a [pipeline.Memory].
//
// State is a view of the log. It may be lost, wholly or in part, and is built
// again by folding the log; so nothing here is durable by promise, and a value
// that cannot be read is reported and taken for absent. What holds is that a
// conversation never goes back: a value is replaced only by one that includes a
// later record of the same partition.
//
// The package keeps no text and no ids: keys are digests of conversation ids.
// It does not decide when state is to be built again, and it judges nothing.
package state
