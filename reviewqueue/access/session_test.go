package access

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestALinkIsRedeemedOnce(t *testing.T) {
	var v Invites
	secret := v.New("alice", InviteTTL)
	if v.Open("wrong") || !v.Open(secret) || !v.Open(secret) {
		t.Error("looking at a link uses it up")
	}
	var won atomic.Int32
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if id, ok := v.Redeem(secret); ok && id == "alice" {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("redeemed %d times", won.Load())
	}
	if v.Open(secret) {
		t.Error("open after its use")
	}
}

func TestALinkExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var v Invites
		short, long := v.New("alice", InviteTTL), v.New("bob", FirstInviteTTL)
		time.Sleep(InviteTTL) //nolint:forbidigo // the clock of a synctest bubble
		if _, ok := v.Redeem(short); ok || v.Open(short) {
			t.Error("redeemed after its time")
		}
		if id, ok := v.Redeem(long); !ok || id != "bob" {
			t.Error("the longer one is gone too")
		}
	})
}

func TestASessionEndsWhenIdleAndAfterAShift(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Sessions
		idle, busy := s.New("alice"), s.New("bob")
		for range int(SessionAbsolute/(20*time.Minute)) - 1 {
			time.Sleep(20 * time.Minute) //nolint:forbidigo // the clock of a synctest bubble
			if id, ok := s.ReviewerID(busy); !ok || id != "bob" {
				t.Fatal("a session in use ended early")
			}
		}
		if _, ok := s.ReviewerID(idle); ok {
			t.Error("an idle session lives")
		}
		time.Sleep(20 * time.Minute) //nolint:forbidigo // the clock of a synctest bubble
		if _, ok := s.ReviewerID(busy); ok {
			t.Error("a session outlives its shift")
		}
	})
}

func TestARevokedSessionIsOver(t *testing.T) {
	var s Sessions
	a, b, c := s.New("alice"), s.New("alice"), s.New("bob")
	s.Revoke(a)
	if _, ok := s.ReviewerID(a); ok {
		t.Error("a revoked session lives")
	}
	if n := s.RevokeReviewer("alice"); n != 1 {
		t.Errorf("revoked %d sessions", n)
	}
	if _, ok := s.ReviewerID(b); ok {
		t.Error("a revoked reviewer's session lives")
	}
	if id, ok := s.ReviewerID(c); !ok || id != "bob" {
		t.Error("another reviewer's session ended")
	}
}

func TestSessionsAreKeptAsSumsAndBounded(t *testing.T) {
	var s Sessions
	first := s.New("alice")
	for key := range s.live {
		if strings.Contains(first, string(key[:])) || key != sumOf(first) {
			t.Error("the id itself is kept")
		}
	}
	for range maxSecrets {
		s.New("bob")
	}
	if n := len(s.live); n > maxSecrets {
		t.Errorf("%d sessions", n)
	}
}
