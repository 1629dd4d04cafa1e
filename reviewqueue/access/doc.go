// Package access says who may do what in the review queue, and for which
// purpose.
//
// A [Reviewer] is an id with roles. [Allow] is the only place that decides: it
// knows no exceptions and refuses what no role was given. A [Purpose] is the
// lawful reason for reading content, from a closed set. [Tokens] recognises
// bearer tokens, [Invites] one-time sign-in links and [Sessions] browser
// sessions; all three keep SHA-256 sums only, so neither a memory dump nor the
// token file lets anyone in. Roles are read from [Tokens] on every request: who
// is removed there is out with the next request.
//
// The package does not know cases, leases, budgets or HTTP. It does not check
// that a basis exists, that a lease is held or that an audit entry was written:
// the queue does. Sessions and links live in one process's memory and end with
// it. There are no passwords.
package access
