package access

import (
	"sync"
	"time"
)

// How long links and sessions last.
const (
	InviteTTL       = 10 * time.Minute
	FirstInviteTTL  = 24 * time.Hour // of the link that a fresh start prints
	SessionIdle     = 30 * time.Minute
	SessionAbsolute = 8 * time.Hour // a shift
)

// maxSecrets bounds the links and the sessions kept at a time: the oldest give
// way.
const maxSecrets = 10_000

// Invites are one-time sign-in links. The zero value is ready; it is safe for
// concurrent use.
type Invites struct {
	mu   sync.Mutex
	open map[sum]invite // guarded by mu
}

type invite struct {
	reviewerID string
	expires    time.Time
}

// New returns the secret of a new link for the reviewer, which can be redeemed
// once within ttl.
func (v *Invites) New(reviewerID string, ttl time.Duration) string {
	secret, now := NewSecret(), time.Now()
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.open == nil {
		v.open = map[sum]invite{}
	}
	makeRoom(v.open, func(i invite) time.Time { return i.expires }, now)
	v.open[sumOf(secret)] = invite{reviewerID, now.Add(ttl)}
	return secret
}

// Open reports whether the link can still be redeemed.
func (v *Invites) Open(secret string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	i, ok := v.open[sumOf(secret)]
	return ok && time.Now().Before(i.expires)
}

// Redeem uses the link up and returns whom it was made for.
func (v *Invites) Redeem(secret string) (reviewerID string, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := sumOf(secret)
	i, ok := v.open[s]
	delete(v.open, s)
	if !ok || !time.Now().Before(i.expires) {
		return "", false
	}
	return i.reviewerID, true
}

// Sessions are the browser sessions of this process. The zero value is ready,
// with the usual timeouts; it is safe for concurrent use.
type Sessions struct {
	Idle     time.Duration // without a request; SessionIdle where zero
	Absolute time.Duration // since sign-in; SessionAbsolute where zero

	mu   sync.Mutex
	live map[sum]session // guarded by mu
}

type session struct {
	reviewerID      string
	used, startedAt time.Time
}

// New starts a session and returns its id, which only the browser keeps.
func (s *Sessions) New(reviewerID string) string {
	id, now := NewSecret(), time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live == nil {
		s.live = map[sum]session{}
	}
	makeRoom(s.live, s.ends, now)
	s.live[sumOf(id)] = session{reviewerID, now, now}
	return id
}

// ReviewerID returns whose session it is and counts as a use of it.
func (s *Sessions) ReviewerID(id string) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key, now := sumOf(id), time.Now()
	one, ok := s.live[key]
	if !ok {
		return "", false
	}
	if !now.Before(s.ends(one)) {
		delete(s.live, key)
		return "", false
	}
	one.used = now
	s.live[key] = one
	return one.reviewerID, true
}

// Revoke ends a session.
func (s *Sessions) Revoke(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.live, sumOf(id))
}

// RevokeReviewer ends all sessions of a reviewer and returns how many there
// were.
func (s *Sessions) RevokeReviewer(reviewerID string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for key, one := range s.live {
		if one.reviewerID == reviewerID {
			delete(s.live, key)
			n++
		}
	}
	return n
}

func (s *Sessions) ends(one session) time.Time {
	idle, absolute := s.Idle, s.Absolute
	if idle == 0 {
		idle = SessionIdle
	}
	if absolute == 0 {
		absolute = SessionAbsolute
	}
	end := one.startedAt.Add(absolute)
	if quiet := one.used.Add(idle); quiet.Before(end) {
		return quiet
	}
	return end
}

// makeRoom drops what has ended and, where that is not enough, what ends first.
func makeRoom[V any](m map[sum]V, ends func(V) time.Time, now time.Time) {
	for key, v := range m {
		if !now.Before(ends(v)) {
			delete(m, key)
		}
	}
	for len(m) >= maxSecrets {
		var first sum
		var at time.Time
		for key, v := range m {
			if e := ends(v); at.IsZero() || e.Before(at) {
				first, at = key, e
			}
		}
		delete(m, first)
	}
}
