// Package reviewqueue hands what the machine found to people, one case at a
// time, and keeps what they decide.
//
// Kafka is the truth and Redis is a view of it: a [Projector] folds dm.hits and
// dm.decisions into cases, and the view can be thrown away at any moment. The
// next offsets are kept beside what they cover, in the same script, so an
// emptied Redis fills itself again. Folding is idempotent and does not depend
// on how the two topics interleave.
//
// A [Case] is one conversation or one matched entry of a hash list. Further
// hits merge into it. It is queued once per case and message: the same message
// found again, by a newer ruleset too, updates the evidence, and only a new
// message reopens what was decided. [Queue.Claim] leases the case with the
// nearest deadline, critical ones first, under a fencing token; a lease that
// runs out is found at the next claim. [Queue.Decide] logs the decision before
// it tells Redis, and for a case and revision the lowest offset in dm.decisions
// is in force.
//
// A case is masked. [Queue.Reveal] alone shows content: role, lease, purpose and
// basis are checked, an audit entry is on the disk, and only then is anything
// read and unsealed. The private key lies in [evidence.Opener], which a queue
// does not hand out.
//
// The package does not know HTTP, sessions or detectors, does not route cases
// by skill or language, does not ask for a second opinion, and does not forget:
// decided cases stay in the view until it is rebuilt without their hits.
package reviewqueue
