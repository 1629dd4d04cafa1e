// Package pipeline carries a direct message from a [Source] to a [Verdict] and
// decides when it may be committed.
//
// The path of a batch is one function, [Pipeline.process]:
//
//	Receive → lane → Open → Prepare → load state → Detect → Decide → Sinks → save state → Done
//
// Delivery is at least once. Nothing is done before every sink has accepted
// it, so a crash repeats work and never loses it: sinks, conversation state
// and queue are idempotent by message id. Messages of one conversation are
// judged in the order in which they arrive, those of different conversations
// side by side.
//
// What a person wrote travels as [Text] and [Blob], which no way of printing
// or encoding shows.
//
// The package does not know any detector, hash list, broker, Redis or review
// queue: all of these are handed to [New]. It does not decrypt, fetch or
// decode by itself, and it promises no exactly-once delivery.
package pipeline
