// Package console serves the review queue to people and programs: the HTTP API
// under /api/v1, the pages of the console, and the probes of the service.
//
// openapi.yaml describes the API, and a test holds the handlers to it. Errors
// are problem details (RFC 9457); errors of the queue become status codes in
// one place. The pages work without JavaScript, except for pictures, and load
// nothing from elsewhere: the policy of every response forbids it. What a
// person wrote reaches a page only in the answer to a reveal, and only as text.
//
// The package decides nothing by itself. Who may do what is settled by package
// access, and cases, leases, audit entries and content are the queue's: what it
// refuses is refused here. There is no address that searches, or that lists
// messages or users, and none that shows content without a lease on its case.
package console
