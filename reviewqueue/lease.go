package reviewqueue

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"go.uber.org/zap"

	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/reviewqueue/access"
)

const (
	// maxExpired is how many leases that ran out one claim gives back, in each
	// shard.
	maxExpired = 64

	// A decision in the making has appendTimeout to be logged, and the lease
	// lasts decideGrace, which must be longer.
	appendTimeout = time.Minute
	decideGrace   = 2 * time.Minute

	// maxRequestID bounds an idempotency key, in bytes.
	maxRequestID = 256
)

// Claim leases the case with the nearest deadline, critical ones first, or
// returns [ErrEmpty]. An empty queue stands for all but the dead cases. The
// same requestID of the same reviewer gives the same lease again for as long as
// it lives; it should not be guessable.
func (q *Queue) Claim(ctx context.Context, r access.Reviewer, queue, requestID string) (*Lease, error) {
	if err := access.Allow(r, access.Claim); err != nil {
		return nil, err
	}
	if err := checkQueue(queue); err != nil {
		return nil, err
	}
	if len(requestID) > maxRequestID {
		return nil, fmt.Errorf("%w: an idempotency key has at most %d bytes", ErrInvalid, maxRequestID)
	}
	if requestID == "" {
		requestID = rand.Text()
	}
	shards, err := q.claimOrder(ctx, r, queue, requestID)
	if err != nil {
		return nil, err
	}
	for _, shard := range shards {
		answer, err := q.claim(ctx, shard, r, queue, requestID, false)
		if err != nil {
			return nil, err
		}
		if answer[0] == scriptOK {
			return q.lease(ctx, r, requestID, answer)
		}
	}
	return nil, ErrEmpty
}

// claimOrder returns the shards in the order in which to claim from them: the
// one that holds the lease of this request, or else by the urgency of their
// heads.
func (q *Queue) claimOrder(ctx context.Context, r access.Reviewer, queue, requestID string) ([]int, error) {
	if q.config.Shards == 1 {
		return []int{0}, nil
	}
	type head struct {
		shard int
		score float64
	}
	var heads []head
	for shard := range q.config.Shards {
		answer, err := q.claim(ctx, shard, r, queue, requestID, true)
		if err != nil {
			return nil, err
		}
		switch answer[0] {
		case scriptOK:
			return []int{shard}, nil
		case scriptHead:
			score, err := strconv.ParseFloat(answer[1], 64)
			if err != nil {
				return nil, fmt.Errorf("claiming: %w", err)
			}
			heads = append(heads, head{shard, score})
		}
	}
	slices.SortFunc(heads, func(a, b head) int { return cmp.Compare(a.score, b.score) })
	var shards []int
	for _, h := range heads {
		shards = append(shards, h.shard)
	}
	return shards, nil
}

func (q *Queue) claim(ctx context.Context, shard int, r access.Reviewer, queue, requestID string, look bool) ([]string, error) {
	nonce := rand.Text()
	_, digest := leaseSecret(requestID, r.ID, nonce)
	lookOnly := "0"
	if look {
		lookOnly = "1"
	}
	answer, err := q.run(ctx, claimScript, shard, nil,
		queue, requestDigest(requestID, r.ID), r.ID, nonce, digest, q.config.Lease.Milliseconds(), q.config.MaxAttempts, maxExpired, lookOnly)
	if err != nil {
		return nil, fmt.Errorf("claiming: %w", err)
	}
	return answer, nil
}

func (q *Queue) lease(ctx context.Context, r access.Reviewer, requestID string, answer []string) (*Lease, error) {
	caseID, fence, nonce := answer[1], answer[2], answer[3]
	expires, err := strconv.ParseInt(answer[4], 10, 64)
	if err != nil {
		return nil, fmt.Errorf("claiming: %w", err)
	}
	v, err := q.read(ctx, caseID)
	if err != nil {
		return nil, err
	}
	secret, _ := leaseSecret(requestID, r.ID, nonce)
	return &Lease{v.masked(), fence + "." + secret, milli(expires)}, nil
}

// leaseSecret returns the secret of a lease and its digest. Redis keeps the
// digest and the nonce, from which nobody learns the secret who does not know
// the request: so a repeated request gets the same secret, which lies nowhere.
func leaseSecret(requestID, reviewerID, nonce string) (secret, digest string) {
	mac := hmac.New(sha256.New, []byte("dmguard lease\x00"+requestID))
	_, _ = mac.Write(pipeline.EvidenceContext(reviewerID, nonce)) // two strings, told apart
	secret = base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	return secret, digestOf(secret)
}

func digestOf(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

func requestDigest(requestID, reviewerID string) string {
	return digestOf(string(pipeline.EvidenceContext(reviewerID, requestID)))
}

// held is a lease that a script found to be held.
type held struct {
	expires  time.Time
	revision int
	high     map[string]int64 // by partition of dm.hits, the last offset at the claim
	caseKey  string
}

// Operations of lease.lua.
const (
	opCheck     = "check"
	opHeartbeat = "heartbeat"
	opRelease   = "release"
	opDecide    = "decide"
	opUndecide  = "undecide"
)

func (q *Queue) onLease(ctx context.Context, op string, r access.Reviewer, caseID, token, decision string) (*held, error) {
	fence, secret, ok := strings.Cut(token, ".")
	if !ok || len(token) > 128 {
		return nil, ErrLeaseLost
	}
	lasts := q.config.Lease
	if op == opDecide {
		lasts = decideGrace
	}
	answer, err := q.run(ctx, leaseScript, q.shard(caseID), nil,
		op, caseID, fence, digestOf(secret), r.ID, lasts.Milliseconds(), q.config.MaxAttempts, decision)
	if err != nil {
		return nil, fmt.Errorf("%s of case %s: %w", op, caseID, err)
	}
	switch answer[0] {
	case scriptNone:
		return nil, ErrNotFound
	case scriptLost:
		return nil, ErrLeaseLost
	}
	expires, err := strconv.ParseInt(answer[1], 10, 64)
	revision, err2 := strconv.Atoi(answer[2])
	h := &held{expires: milli(expires), revision: revision, caseKey: answer[4]}
	if err := errors.Join(err, err2, json.Unmarshal([]byte(answer[3]), &h.high)); err != nil {
		return nil, fmt.Errorf("%s of case %s: %w", op, caseID, err)
	}
	return h, nil
}

// Heartbeat makes the lease last for its full time from now and returns when
// it ends.
func (q *Queue) Heartbeat(ctx context.Context, r access.Reviewer, caseID, token string) (time.Time, error) {
	if err := access.Allow(r, access.Claim); err != nil {
		return time.Time{}, err
	}
	h, err := q.onLease(ctx, opHeartbeat, r, caseID, token, "")
	if err != nil {
		return time.Time{}, err
	}
	return h.expires, nil
}

// Release gives the case back, undecided and with its deadline.
func (q *Queue) Release(ctx context.Context, r access.Reviewer, caseID, token string) error {
	if err := access.Allow(r, access.Claim); err != nil {
		return err
	}
	_, err := q.onLease(ctx, opRelease, r, caseID, token, "")
	return err
}

// Decide decides the case of a lease: the decision is logged first, and then
// Redis told. It covers the hits that were there at the claim; one that came
// later opens the next revision. Where another decision on the same revision
// was logged first, that one is in force and [ErrLeaseLost] is returned.
func (q *Queue) Decide(ctx context.Context, r access.Reviewer, caseID, token string, d Decision) error {
	if err := access.Allow(r, access.Decide); err != nil {
		return err
	}
	if err := q.checkDecision(&d); err != nil {
		return err
	}
	id := rand.Text()
	h, err := q.onLease(ctx, opDecide, r, caseID, token, id)
	if err != nil {
		return err
	}
	pos, value, err := q.logDecision(ctx, r, caseID, h, &d)
	if err != nil {
		// The reviewer may try again. If this fails too, the lease runs out.
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if _, undoErr := q.onLease(undo, opUndecide, r, caseID, token, id); undoErr != nil {
			err = errors.Join(err, undoErr)
		}
		return err
	}

	rec := pipeline.Record{Position: pos, Value: value}
	f, err := q.prepare(&rec)
	if err != nil {
		return fmt.Errorf("deciding case %s: %w", caseID, err)
	}
	// The caller may be gone by now; the decision is not.
	finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	inForce, err := q.fold(finish, q.shard(caseID), []folded{f}, "", 0, 0)
	if err != nil {
		// It is in the log, which the projector follows.
		q.log.Warn("decision logged, queue not told", zap.String("case", caseID), zap.Int64("offset", pos.Offset), zap.Error(err))
		return nil
	}
	if len(inForce) == 1 && !inForce[0] {
		return ErrLeaseLost
	}
	return nil
}

func (q *Queue) checkDecision(d *Decision) error {
	switch {
	case !slices.Contains(Choices(), d.Choice):
		return fmt.Errorf("%w: unknown decision: it is one of %q", ErrInvalid, Choices())
	case d.Label != "" && !slices.Contains(q.config.Labels, d.Label):
		return fmt.Errorf("%w: unknown label: it is one of %q", ErrInvalid, q.config.Labels)
	case d.Note.Len() > MaxNoteBytes:
		return fmt.Errorf("%w: a note has at most %d bytes", ErrInvalid, MaxNoteBytes)
	}
	return nil
}

// logDecision appends the decision to dm.decisions.
func (q *Queue) logDecision(ctx context.Context, r access.Reviewer, caseID string, h *held, d *Decision) (pipeline.Position, []byte, error) {
	v, err := q.read(ctx, caseID)
	if err != nil {
		return pipeline.Position{}, nil, err
	}
	rec := DecisionRecord{
		CaseID: caseID, CaseKey: h.caseKey, Kind: v.Kind, Queue: string(v.Kind), Revision: h.revision,
		Choice: d.Choice, Label: d.Label, Reviewer: r.ID, DecidedAt: time.Now().UTC(),
		Through: make(map[int32]int64, len(h.high)),
	}
	for p, o := range h.high {
		partition, err := strconv.ParseInt(p, 10, 32)
		if err != nil {
			return pipeline.Position{}, nil, fmt.Errorf("deciding case %s: %w", caseID, err)
		}
		rec.Through[int32(partition)] = o
	}
	for id, e := range v.messages {
		if e.open && e.through(h.high) {
			rec.MessageIDs = append(rec.MessageIDs, id)
		}
	}
	slices.Sort(rec.MessageIDs)
	rec.MessageIDs = rec.MessageIDs[:min(len(rec.MessageIDs), MaxDecisionMessages)]
	if d.Note.Len() > 0 {
		note, err := q.deps.Sealer.SealBytes([]byte(d.Note.Reveal()), NoteContext(caseID, h.revision))
		if err != nil {
			return pipeline.Position{}, nil, err
		}
		rec.Note = &note
	}
	value, err := json.Marshal(rec, json.Deterministic(true))
	if err != nil {
		return pipeline.Position{}, nil, fmt.Errorf("encoding the decision on case %s: %w", caseID, err)
	}
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	pos, err := q.deps.Append(ctx, pipeline.Record{
		Position: pipeline.Position{Topic: q.topic(pipeline.TopicDecisions)},
		Key:      []byte(h.caseKey), Value: value,
		Headers: []pipeline.Header{{Key: "schema", Value: []byte(pipeline.SchemaDecision)}},
		Time:    rec.DecidedAt,
	})
	if err != nil {
		return pipeline.Position{}, nil, fmt.Errorf("logging the decision on case %s: %w", caseID, err)
	}
	pos.Topic = q.topic(pipeline.TopicDecisions)
	return pos, value, nil
}

// Ping reports whether Redis answers and keeps what it is given: a Redis that
// evicts keys would lose cases in silence.
func (q *Queue) Ping(ctx context.Context) error {
	if err := q.deps.Redis.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("review queue: redis: %w", err)
	}
	policy, err := q.deps.Redis.ConfigGet(ctx, "maxmemory-policy").Result()
	if err != nil {
		// The in-process Redis and managed ones refuse the command.
		q.log.Debug("redis does not tell its eviction policy", zap.Error(err))
		return nil
	}
	if p := policy["maxmemory-policy"]; strings.HasPrefix(p, "allkeys-") {
		return fmt.Errorf("review queue: redis has maxmemory-policy %s, which drops cases when memory is short: set noeviction", p)
	}
	return nil
}
