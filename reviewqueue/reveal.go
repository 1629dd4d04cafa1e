package reviewqueue

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/reviewqueue/access"
	"github.com/dmguard/dmguard/reviewqueue/audit"
)

// Request is what a reviewer asks to be shown, and why.
type Request struct {
	Purpose access.Purpose
	Basis   string

	// Fields are text (of the latest of the gravest messages, of the open ones
	// if any is), text:<message id>, context (of the same message as text) and
	// attachment:<id>.
	Fields []string

	RequestID string // in the audit log; one is made up where it is empty
}

// ContextMessage is one earlier message, as a reveal answers it. Parties have
// pseudonyms that hold within one answer.
type ContextMessage struct {
	MessageID string    `json:"message_id"`
	SentAt    time.Time `json:"sent_at"`
	Sender    string    `json:"sender"` // A, B, … by first appearance
	Text      string    `json:"text"`
	Named     bool      `json:"named,omitempty"` // a finding names it
}

// Attachment is an attachment, as a reveal answers it.
type Attachment struct {
	MediaType string `json:"media_type"`
	Data      []byte `json:"data"` // base64 in JSON
}

// Limits of a request to reveal.
const (
	maxFields     = 32
	maxFieldBytes = 4*pipeline.MaxIDLength + 16
	maxBasisBytes = 4 * pipeline.MaxIDLength
)

// Names of fields, and the prefixes of those that name something.
const (
	fieldText        = "text"
	fieldTextOf      = "text:"
	fieldContext     = "context"
	fieldAttachment  = "attachment:"
	actionReveal     = "reveal"
	resultRevealed   = "revealed"
	resultFailed     = "failed"
	maxRevealTimeout = 2 * time.Minute
)

// Reveal returns the content asked for, nil for what is absent: a string, a
// []ContextMessage or an [Attachment] by field.
//
// Before anything is read or unsealed, the reviewer's role allows the purpose,
// the lease is held, the basis exists, and an audit entry is on the disk; an
// entry with the outcome follows before the content is returned. Without either
// entry there is [ErrAuditUnavailable] and no content.
func (q *Queue) Reveal(ctx context.Context, r access.Reviewer, caseID, token string, req Request) (map[string]any, error) {
	ctx, cancel := context.WithTimeout(ctx, maxRevealTimeout)
	defer cancel()
	if _, err := access.ParsePurpose(string(req.Purpose)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if err := access.Allow(r, access.Reveal(req.Purpose)); err != nil {
		return nil, err
	}
	if err := checkFields(&req); err != nil {
		return nil, err
	}
	if _, err := q.onLease(ctx, opCheck, r, caseID, token, ""); err != nil {
		return nil, err
	}
	v, err := q.read(ctx, caseID)
	if err != nil {
		return nil, err
	}
	if err := q.checkBasis(ctx, v, &req); err != nil {
		return nil, err
	}

	entry := audit.Entry{
		Phase: audit.Intent, Actor: r.ID, Roles: roleNames(r), Action: actionReveal, CaseID: caseID,
		Purpose: string(req.Purpose), Basis: req.Basis, Fields: req.Fields, RequestID: cmp.Or(req.RequestID, rand.Text()),
	}
	if _, err := q.audit.Append(ctx, entry); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAuditUnavailable, err)
	}
	fields, err := q.unsealed(ctx, v, req.Fields)
	entry.Phase, entry.Result = audit.Outcome, resultRevealed
	if err != nil {
		entry.Result = resultFailed
	}
	// The outcome is recorded also for a caller who has gone meanwhile.
	if _, auditErr := q.audit.Append(context.WithoutCancel(ctx), entry); auditErr != nil {
		return nil, errors.Join(err, fmt.Errorf("%w: %w", ErrAuditUnavailable, auditErr))
	}
	if err != nil {
		return nil, fmt.Errorf("revealing case %s: %w", caseID, err)
	}
	return fields, nil
}

func roleNames(r access.Reviewer) []string {
	names := make([]string, len(r.Roles))
	for i, role := range r.Roles {
		names[i] = string(role)
	}
	return names
}

func checkFields(req *Request) error {
	if len(req.Fields) == 0 || len(req.Fields) > maxFields {
		return fmt.Errorf("%w: ask for 1 to %d fields", ErrInvalid, maxFields)
	}
	if len(req.Basis) > maxBasisBytes || len(req.RequestID) > maxRequestID {
		return fmt.Errorf("%w: the basis or the request id is too long", ErrInvalid)
	}
	for _, f := range req.Fields {
		known := f == fieldText || f == fieldContext
		for _, prefix := range []string{fieldTextOf, fieldAttachment} {
			known = known || strings.HasPrefix(f, prefix) && len(f) > len(prefix)
		}
		if !known || len(f) > maxFieldBytes {
			return fmt.Errorf("%w: unknown field: it is text, text:<message id>, context or attachment:<id>", ErrInvalid)
		}
	}
	return nil
}

func (q *Queue) checkBasis(ctx context.Context, v *view, req *Request) error {
	exists := false
	switch req.Purpose {
	case access.SafetyReview:
		exists = req.Basis == v.ID
	case access.UserReport:
		for _, e := range v.messages {
			exists = exists || req.Basis != "" && slices.Contains(e.Reports, req.Basis)
		}
	case access.LegalRequest:
		if q.deps.LegalRequest != nil && req.Basis != "" {
			var err error
			if exists, err = q.deps.LegalRequest(ctx, req.Basis, v.ID); err != nil {
				return fmt.Errorf("looking up the legal request: %w", err)
			}
		}
	}
	if !exists {
		return ErrBasis
	}
	return nil
}

// unsealed reads and opens what the fields ask for.
func (q *Queue) unsealed(ctx context.Context, v *view, fields []string) (map[string]any, error) {
	opened := map[string]*pipeline.Evidence{} // by message id; nil for what is gone
	evidenceOf := func(id string) (*pipeline.Evidence, error) {
		m := v.messages[id]
		if m == nil {
			return nil, nil //nolint:nilnil // absent is an answer here
		}
		e, done := opened[id]
		if done {
			return e, nil
		}
		e, err := q.evidence(ctx, v.ID, id, m)
		opened[id] = e
		return e, err
	}

	out := make(map[string]any, len(fields))
	for _, field := range fields {
		id := v.gravest(func(string) bool { return true })
		attachment, isAttachment := strings.CutPrefix(field, fieldAttachment)
		switch {
		case isAttachment:
			id = v.gravest(func(id string) bool { return v.events[id].has(attachment) })
		case field != fieldContext && field != fieldText:
			id = strings.TrimPrefix(field, fieldTextOf)
		}
		out[field] = nil
		e, err := evidenceOf(id)
		if err != nil {
			return nil, err
		}
		switch {
		case e == nil:
		case isAttachment:
			if out[field], err = q.attachment(ctx, e, attachment); err != nil {
				return nil, err
			}
		case field == fieldContext:
			if len(e.Context) > 0 {
				out[field] = pseudonymous(e)
			}
		case e.Text != "":
			out[field] = e.Text
		}
	}
	return out, nil
}

// has reports whether the message had an attachment with this id.
func (e *Event) has(attachment string) bool {
	return e != nil && slices.ContainsFunc(e.Attachments, func(a pipeline.HitAttachment) bool { return a.ID == attachment })
}

// evidence reads the latest hit on a message and opens its evidence; nil where
// retention has taken it.
func (q *Queue) evidence(ctx context.Context, caseID, messageID string, m *entry) (*pipeline.Evidence, error) {
	records, _, err := q.deps.Log.Read(ctx, q.topic(pipeline.TopicHits), m.Partition, []int64{m.Offset})
	if err != nil {
		return nil, fmt.Errorf("reading the hit on message %s: %w", messageID, err)
	}
	for i := range records {
		if records[i].Offset != m.Offset || records[i].Partition != m.Partition {
			continue
		}
		h, err := ParseHit(records[i].Value)
		if err != nil {
			return nil, fmt.Errorf("reading the hit on message %s: %w", messageID, err)
		}
		// The ids asked for, not those of the record: what was moved to another
		// case does not open.
		e, err := q.open.Open(h.Evidence, caseID, messageID)
		if err != nil {
			return nil, fmt.Errorf("the hit on message %s: %w", messageID, err)
		}
		return e, nil
	}
	return nil, nil //nolint:nilnil // absent is an answer here
}

// attachment returns the attachment with this id, nil where there is none.
func (q *Queue) attachment(ctx context.Context, e *pipeline.Evidence, id string) (any, error) {
	i := slices.IndexFunc(e.Attachments, func(a pipeline.EvidenceAttachment) bool { return a.ID == id })
	if i < 0 {
		return nil, nil //nolint:nilnil // absent is an answer here
	}
	a := e.Attachments[i]
	data := a.Data
	if len(data) == 0 && a.URI != "" {
		if q.deps.Fetch == nil {
			return nil, errors.New("the attachment lies in the store, and this service was given none")
		}
		var err error
		if data, err = q.deps.Fetch(ctx, a.URI, q.config.AttachmentLimit); err != nil {
			return nil, errors.New("the attachment cannot be fetched from the store") // the cause may name the uri, which the platform wrote
		}
	}
	if len(data) == 0 {
		return nil, nil //nolint:nilnil // absent is an answer here
	}
	if int64(len(data)) > q.config.AttachmentLimit {
		return nil, fmt.Errorf("the attachment is over the limit of %d bytes", q.config.AttachmentLimit)
	}
	return Attachment{a.MediaType, data}, nil
}

// pseudonymous returns the context of a message with letters for ids.
func pseudonymous(e *pipeline.Evidence) []ContextMessage {
	names := map[string]string{}
	out := make([]ContextMessage, len(e.Context))
	for i, m := range e.Context {
		if names[m.SenderID] == "" {
			names[m.SenderID] = letters(len(names))
		}
		out[i] = ContextMessage{m.MessageID, m.SentAt, names[m.SenderID], m.Text, m.Named}
	}
	return out
}

// letters returns A to Z, then AA and so on.
func letters(i int) string {
	name := ""
	for ; i >= 0; i = i/26 - 1 {
		name = string(rune('A'+i%26)) + name
	}
	return name
}
