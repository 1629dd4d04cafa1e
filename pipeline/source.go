package pipeline

import (
	"context"
	"time"
)

// Position is where a record lies in a log.
type Position struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
}

// Header is one header of a record. Headers carry schema names, trace context
// and, on dead letters, the reason: never content.
type Header struct {
	Key   string
	Value []byte
}

// Record is one record of a log, read or to be written.
type Record struct {
	Position // where it lies; for a record to be written only the topic counts
	Key      []byte
	Value    []byte
	Headers  []Header
	Time     time.Time
}

// Header returns the value of the first header named key.
func (r *Record) Header(key string) string {
	for _, h := range r.Headers {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return ""
}

// Source is where records come from: Kafka or a file.
type Source interface {
	// Receive blocks for the next deliveries, in the order in which they lie in
	// their partition. It returns io.EOF once the source is exhausted, and any
	// other error only where it cannot go on: outages it rides out by itself.
	// It bounds how many deliveries are in flight.
	Receive(ctx context.Context) ([]*Delivery, error)
}

// Delivery is one record in flight.
//
// Done must be called once, when the record needs no more work. There is no
// opposite: a delivery that is never done is delivered again after a restart.
type Delivery struct {
	Record

	// Epoch changes whenever the partition may have been in other hands. State
	// kept from an earlier epoch is stale.
	Epoch int32

	// Err is set by a source for input it could not deliver whole, such as a
	// line over the limit. It is permanent.
	Err error

	// Done reports that the record needs no more work.
	Done func()
}

// Outcome is what became of one delivery: a verdict, always.
type Outcome struct {
	Delivery *Delivery
	Item     *Item // nil where the record could not be read
	Verdict  *Verdict

	// DeadLetter says why the record goes to the dead letters; "" where it
	// does not.
	DeadLetter string
}

// Sink accepts outcomes: the output topics, a file.
type Sink interface {
	// Accept stores the outcomes durably before it returns. It sees the same
	// outcome more than once and must then change nothing that counts. An
	// error is an outage: the same batch is offered again.
	Accept(ctx context.Context, batch []*Outcome) error
}

// Memory keeps the state of conversations between their messages. It is a view:
// it can be lost and built again from the log.
type Memory interface {
	// Load returns the state of each conversation named in keys, the zero value
	// where there is none.
	Load(ctx context.Context, keys []ConversationKey) ([]Conversation, error)

	// Save stores states. One that is older than what is stored, by offset in
	// the same partition, is dropped silently: its worker has lost the
	// partition.
	Save(ctx context.Context, keys []ConversationKey, states []Conversation) error
}

// ConversationKey names a conversation and the hands its partition is in.
type ConversationKey struct {
	ID        string
	Partition int32
	Epoch     int32 // what was cached under another epoch is stale
}
