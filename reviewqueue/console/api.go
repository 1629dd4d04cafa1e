package console

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"
	jsonv1 "github.com/go-json-experiment/json/v1"
	"go.uber.org/zap"

	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/reviewqueue"
	"github.com/dmguard/dmguard/reviewqueue/access"
)

// Limits on what a request may carry; the queue has its own on what it asks for.
const (
	maxTokenLength = 512
	maxKeyLength   = 256 // of an Idempotency-Key
)

// problemOf is the one place where errors become codes. Only errors whose text
// is meant for the caller are quoted; everything else is an outage, which the
// log describes.
func (s *server) problemOf(err error) *problem {
	switch {
	case errors.Is(err, access.ErrForbidden):
		return newProblem(http.StatusForbidden, "forbidden", err.Error())
	case errors.Is(err, reviewqueue.ErrBasis):
		return newProblem(http.StatusForbidden, "basis", "The basis does not exist for this purpose.")
	case errors.Is(err, reviewqueue.ErrNotFound):
		return newProblem(http.StatusNotFound, "no_such_case", "There is no such case.")
	case errors.Is(err, reviewqueue.ErrLeaseLost):
		return newProblem(http.StatusConflict, "lease_lost", "The lease has run out, was used up or is somebody else's. Claim again.")
	case errors.Is(err, reviewqueue.ErrInvalid):
		return newProblem(http.StatusUnprocessableEntity, "invalid", err.Error())
	case errors.Is(err, reviewqueue.ErrAuditUnavailable):
		s.Logger.Error("content refused: the audit log cannot be written", zap.Error(err))
		return newProblem(http.StatusServiceUnavailable, "audit_unavailable", "The audit log cannot be written, so nothing is shown. Try again.")
	default:
		if !errors.Is(err, context.Canceled) {
			s.Logger.Error("the queue did not answer", zap.Error(err))
		}
		return newProblem(http.StatusServiceUnavailable, "unavailable", "The queue cannot be reached. Try again.")
	}
}

// failed answers with the problem that err is.
func (s *server) failed(w http.ResponseWriter, r *http.Request, err error) {
	s.fail(w, r, s.problemOf(err))
}

// Bodies of answers.
type (
	claimAnswer struct {
		Case           *reviewqueue.Case `json:"case"`
		LeaseToken     string            `json:"lease_token"`
		LeaseExpiresAt time.Time         `json:"lease_expires_at"`
	}
	heartbeatAnswer struct {
		LeaseExpiresAt time.Time `json:"lease_expires_at"`
	}
	revealAnswer struct {
		Fields map[string]any `json:"fields"`
	}
	decisionAnswer struct {
		ID       string             `json:"id"`
		State    reviewqueue.State  `json:"state"`
		Decision reviewqueue.Choice `json:"decision"`
	}
)

func (s *server) claim(w http.ResponseWriter, r *http.Request, who caller) {
	var req claimRequest
	if p := decode(w, r, &req); p != nil {
		p.write(w)
		return
	}
	key := r.Header.Get("Idempotency-Key")
	if len(key) > maxKeyLength || len(r.Header.Values("Idempotency-Key")) > 1 {
		newProblem(http.StatusUnprocessableEntity, "invalid", "Send one Idempotency-Key of at most 256 bytes.").write(w)
		return
	}
	lease, err := s.queue.Claim(r.Context(), who.reviewer, req.Queue, key)
	if errors.Is(err, reviewqueue.ErrEmpty) {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if err != nil {
		s.failed(w, r, err)
		return
	}
	answer(w, claimAnswer{lease.Case, lease.Token, lease.ExpiresAt.UTC()})
}

func (s *server) heartbeat(w http.ResponseWriter, r *http.Request, who caller) {
	var req leaseRequest
	if p := or(decode(w, r, &req), func() *problem { return checkToken(req.LeaseToken) }); p != nil {
		p.write(w)
		return
	}
	expires, err := s.queue.Heartbeat(r.Context(), who.reviewer, r.PathValue("id"), req.LeaseToken)
	if err != nil {
		s.failed(w, r, err)
		return
	}
	answer(w, heartbeatAnswer{expires.UTC()})
}

func (s *server) release(w http.ResponseWriter, r *http.Request, who caller) {
	var req leaseRequest
	if p := or(decode(w, r, &req), func() *problem { return checkToken(req.LeaseToken) }); p != nil {
		p.write(w)
		return
	}
	if err := s.queue.Release(r.Context(), who.reviewer, r.PathValue("id"), req.LeaseToken); err != nil {
		s.failed(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *server) reveal(w http.ResponseWriter, r *http.Request, who caller) {
	var req revealRequest
	if p := decode(w, r, &req); p != nil {
		p.write(w)
		return
	}
	fields, p := s.doReveal(r, who, req)
	if p != nil {
		p.write(w)
		return
	}
	answer(w, revealAnswer{fields})
}

// doReveal asks the queue for content, for the API and the pages alike.
func (s *server) doReveal(r *http.Request, who caller, req revealRequest) (map[string]any, *problem) {
	if p := checkToken(req.LeaseToken); p != nil {
		return nil, p
	}
	purpose, err := access.ParsePurpose(req.Purpose)
	if err != nil {
		return nil, newProblem(http.StatusForbidden, "purpose", "No lawful reason was given. The purpose is one of safety_review, user_report, law_enforcement_request.")
	}
	if req.Basis == "" {
		return nil, newProblem(http.StatusForbidden, "basis", "No basis was given: the id of the case, of a report, or the reference of a legal request.")
	}
	fields, err := s.queue.Reveal(r.Context(), who.reviewer, r.PathValue("id"), req.LeaseToken,
		reviewqueue.Request{Purpose: purpose, Basis: req.Basis, Fields: req.Fields})
	if err != nil {
		return nil, s.problemOf(err)
	}
	return fields, nil
}

func (s *server) decide(w http.ResponseWriter, r *http.Request, who caller) {
	var req decisionRequest
	if p := decode(w, r, &req); p != nil {
		p.write(w)
		return
	}
	choice, p := s.doDecide(r, who, req)
	if p != nil {
		p.write(w)
		return
	}
	answer(w, decisionAnswer{r.PathValue("id"), reviewqueue.Decided, choice})
}

// doDecide hands a decision to the queue, for the API and the pages alike.
func (s *server) doDecide(r *http.Request, who caller, req decisionRequest) (reviewqueue.Choice, *problem) {
	if p := checkToken(req.LeaseToken); p != nil {
		return "", p
	}
	choice, err := reviewqueue.ParseChoice(req.Decision)
	if err != nil {
		return "", newProblem(http.StatusUnprocessableEntity, "invalid", "The decision is one of confirm, dismiss, escalate.")
	}
	err = s.queue.Decide(r.Context(), who.reviewer, r.PathValue("id"), req.LeaseToken,
		reviewqueue.Decision{Choice: choice, Label: req.Label, Note: pipeline.NewText(req.Note)})
	if err != nil {
		return "", s.problemOf(err)
	}
	return choice, nil
}

func (s *server) stats(w http.ResponseWriter, r *http.Request, who caller) {
	stats, err := s.queue.Stats(r.Context(), who.reviewer)
	if err != nil {
		s.failed(w, r, err)
		return
	}
	answer(w, stats)
}

func checkToken(token string) *problem {
	if token == "" || len(token) > maxTokenLength {
		return newProblem(http.StatusUnprocessableEntity, "invalid", "The lease_token that the claim gave is missing.")
	}
	return nil
}

// or returns p, or where there is none what next says.
func or(p *problem, next func() *problem) *problem {
	if p != nil {
		return p
	}
	return next()
}

// answer writes v as JSON. Fields that are omitted when empty are omitted when
// zero, as the types say for the standard library, but no list is ever null.
func answer(w http.ResponseWriter, v any) {
	body, err := json.Marshal(v, json.Deterministic(true), jsonv1.OmitEmptyWithLegacySemantics(true))
	if err != nil {
		panic(err) // every answer is of types that encode
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body) // the client is gone: nobody to tell
}
