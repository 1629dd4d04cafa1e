package reviewqueue

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/redis/go-redis/v9"

	"github.com/dmguard/dmguard/pipeline"
)

func marshal(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// running starts a projector and stops it with the test.
func running(t *testing.T, p *Projector) {
	t.Helper()
	p.CheckEvery, p.RetryAfter = 5*time.Millisecond, 5*time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// until waits for a condition that another goroutine brings about.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	timeout := time.NewTimer(3 * time.Minute) // for what never comes; nothing here takes long
	defer timeout.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-timeout.C:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func (e *env) write(rec pipeline.Record) {
	e.t.Helper()
	if _, err := e.log.Append(e.t.Context(), rec); err != nil {
		e.t.Fatal(err)
	}
}

func (e *env) stats() Stats {
	e.t.Helper()
	s, err := e.Stats(e.t.Context(), alice)
	if err != nil {
		e.t.Fatal(err)
	}
	return s
}

func TestTheProjectorFollowsPassesBadRecordsAndRefillsAnEmptiedRedis(t *testing.T) {
	onEvery(t, func(t *testing.T, e *env) {
		ctx := t.Context()
		e.write(e.hit("c-1", "m-1", pipeline.High, nil))
		for _, bad := range []string{"", "{", `{"case_id":"c-x"}`, "null", "[]", `{"kind":"conversation","case_key":"a","case_id":"c-b"}`} {
			for _, topic := range []string{"dm.hits", "dm.decisions"} {
				e.write(pipeline.Record{Position: pipeline.Position{Topic: topic}, Key: []byte("c-1"), Value: []byte(bad)})
			}
		}
		e.write(e.hit("c-1", "m-2", pipeline.High, nil))
		p, second := NewProjector(e.Queue, e.log), NewProjector(e.Queue, e.log)
		running(t, p)
		running(t, second)
		until(t, "both caught up", func() bool { return p.CaughtUp() && second.CaughtUp() })
		if c := e.wantState(convCase("c-1"), Pending, 1); c.Messages != 2 {
			t.Errorf("%d messages", c.Messages)
		}
		if p.BadRecords()+second.BadRecords() < 12 {
			t.Errorf("%d and %d bad records were counted", p.BadRecords(), second.BadRecords())
		}

		e.write(e.hit("c-2", "m-1", pipeline.High, nil))
		until(t, "the new hit is queued", func() bool { return e.stats().Pending == 2 })
		l := e.claim(alice)
		if err := e.Decide(ctx, alice, l.Case.ID, l.Token, Decision{Choice: Confirm}); err != nil {
			t.Fatal(err)
		}

		// Everything is lost, the generation as well.
		for shard := range e.config.Shards {
			generation := e.generation(shard)
			if err := e.unlink(ctx, shard, generation); err != nil {
				t.Fatal(err)
			}
			if err := e.deps.Redis.Del(ctx, e.keys(shard, generation)[keyGeneration]).Err(); err != nil {
				t.Fatal(err)
			}
		}
		until(t, "Redis is filled again", func() bool { s := e.stats(); return s.Pending == 1 && s.Decided == 1 })

		if err := p.Rebuild(ctx, nil); err != nil {
			t.Fatal(err)
		}
		if s := e.stats(); s.Pending != 1 || s.Decided != 1 {
			t.Errorf("after a rebuild: %+v", s)
		}
		e.write(e.hit("c-3", "m-1", pipeline.High, nil))
		until(t, "it follows after the rebuild", func() bool { return e.stats().Pending == 2 })
	})
}

// TestWhatOutlivedALossDoesNotKeepACaseAway loses the keys of shards while those
// of single cases stay.
func TestWhatOutlivedALossDoesNotKeepACaseAway(t *testing.T) {
	onEvery(t, func(t *testing.T, e *env) {
		for i := range 12 {
			e.add(e.hit(fmt.Sprint("c-", i), "m-1", pipeline.High, nil))
			if i%2 == 0 {
				l := e.claim(alice)
				if err := e.Decide(t.Context(), alice, l.Case.ID, l.Token, Decision{Choice: Dismiss}); err != nil {
					t.Fatal(err)
				}
			}
		}
		want := e.stats()
		for shard := range e.config.Shards {
			if err := e.deps.Redis.Unlink(t.Context(), e.keys(shard, e.generation(shard))[keyPositions:]...).Err(); err != nil {
				t.Fatal(err)
			}
		}
		if err := (&run{Projector: NewProjector(e.Queue, e.log)}).toEnds(t.Context()); err != nil {
			t.Fatal(err)
		}
		// Its age goes on.
		if diff := cmp.Diff(want, e.stats(), cmpopts.IgnoreFields(Stats{}, "OldestSeconds")); diff != "" {
			t.Errorf("after the refill (-before +after):\n%s", diff)
		}
	})
}

func TestWhatWasDecidedNeverShowsAsWaitingWhileRedisFills(t *testing.T) {
	e := inProcess(t)
	for i := range 150 {
		e.add(e.hit(fmt.Sprint("c-", i), "m-1", pipeline.High, nil))
		l := e.claim(alice)
		if err := e.Decide(t.Context(), alice, l.Case.ID, l.Token, Decision{Choice: Dismiss}); err != nil {
			t.Fatal(err)
		}
	}
	calls, last := 0, int64(0)
	err := NewProjector(e.Queue, e.log).Rebuild(t.Context(), func(done, total int64) {
		calls++
		if total != 300 || done < last || done > total {
			t.Errorf("progress %d of %d after %d", done, total, last)
		}
		last = done
		if s := e.stats(); s.Pending != 0 {
			t.Fatalf("%d decided cases wait", s.Pending)
		}
	})
	if err != nil || last != 300 || calls < 4 {
		t.Errorf("%v, %d calls, %d done", err, calls, last)
	}
	if s := e.stats(); s.Decided != 150 {
		t.Errorf("%+v", s)
	}
}

func TestABatchThatDoesNotFollowWhatWasFoldedIsRefused(t *testing.T) {
	onEvery(t, func(t *testing.T, e *env) {
		rec := e.hit("c-1", "m-1", pipeline.High, nil)
		rec.Offset = 7
		f, err := e.prepare(&rec)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.fold(t.Context(), e.shard(f.caseID), []folded{f}, "hits/0", 7, 8); err != errGap { //nolint:errorlint // it is returned as it is
			t.Fatalf("a gap was folded over: %v", err)
		}
		if _, err := e.Case(t.Context(), alice, f.caseID); err == nil {
			t.Error("the refused batch changed something")
		}
	})
}

func TestARebuildKeepsFencesRisingAndEndsLeases(t *testing.T) {
	onEvery(t, func(t *testing.T, e *env) {
		e.add(e.hit("c-1", "m-1", pipeline.High, nil))
		before := e.claim(alice)
		e.rebuild()
		if _, err := e.Heartbeat(t.Context(), alice, before.Case.ID, before.Token); err == nil {
			t.Error("a lease outlived the rebuild")
		}
		fence := func(token string) int64 {
			text, _, _ := strings.Cut(token, ".")
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		if before, after := fence(before.Token), fence(e.claim(alice).Token); after <= before {
			t.Errorf("fence %d after %d", after, before)
		}
	})
}

// TestTwoQueuesOnOneRedisSeeTheSame uses two processes' worth of queues, one of
// which rebuilds.
func TestTwoQueuesOnOneRedisSeeTheSame(t *testing.T) {
	server := miniredis.RunT(t)
	dial := func() redis.UniversalClient {
		return connect(t, &redis.UniversalOptions{Addrs: []string{server.Addr()}})
	}
	a, b := newEnv(t, dial(), nil), newEnv(t, dial(), nil)
	b.config.Prefix, b.log, b.deps = a.config.Prefix, a.log, a.deps
	a.add(a.hit("c-1", "m-1", pipeline.High, nil))
	a.add(a.hit("c-2", "m-1", pipeline.Low, nil))
	a.rebuild()
	a.rebuild()
	l := b.claim(bob) // b has to learn of the generation
	if err := b.Decide(t.Context(), bob, l.Case.ID, l.Token, Decision{Choice: Confirm}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(a.stats(), b.stats()); diff != "" {
		t.Error(diff)
	}
}

func TestNothingIsLeftOfAnEarlierGeneration(t *testing.T) {
	server := miniredis.RunT(t)
	e := newEnv(t, connect(t, &redis.UniversalOptions{Addrs: []string{server.Addr()}}), nil)
	for i := range 600 {
		e.write(e.hit(fmt.Sprint("c-", i), "m-1", pipeline.High, nil))
	}
	e.rebuild()
	if err := e.wipe(t.Context()); err != nil {
		t.Fatal(err)
	}
	if keys := server.Keys(); len(keys) != e.config.Shards { // the generations
		t.Errorf("%d keys are left, such as %s", len(keys), keys[0])
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		wait(ctx, time.Hour)
		if time.Since(start) != time.Second {
			t.Error("it did not end")
		}
	})
}

func TestConfigurationIsCheckedWithEveryFaultAtOnce(t *testing.T) {
	c := Config{Prefix: "{x}", SLA: map[pipeline.Severity]time.Duration{}}
	err := c.validate()
	if err == nil {
		t.Fatal("accepted")
	}
	if n := len(err.(interface{ Unwrap() []error }).Unwrap()); n != 10 {
		t.Errorf("%d faults: %v", n, err)
	}
	good := DefaultConfig()
	if err := good.validate(); err != nil {
		t.Error(err)
	}
}
