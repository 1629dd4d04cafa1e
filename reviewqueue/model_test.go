package reviewqueue

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/dmguard/dmguard/pipeline"
)

// The model says what the queue must hold, from all that was folded, in the
// simplest way there is: it keeps every record and looks at all of them.
type model struct {
	config *Config
	now    func() time.Time
	cases  map[string]*modelCase
}

type modelCase struct {
	hits      map[string]modelHit              // by position
	decisions map[int]map[int64]DecisionRecord // by revision and position

	revision int
	attempts int
	lease    *modelLease
}

type modelHit struct {
	partition int32
	offset    int64
	message   string
	time      time.Time
	severity  pipeline.Severity
}

type modelLease struct {
	token   string
	expires time.Time
	by      string
}

type modelView struct {
	State    State
	Severity pipeline.Severity
	Revision int
	Attempts int
	Deadline time.Time
	Open     []string
	Messages []string
	Deciders []string
}

func (m *model) at(id string) *modelCase {
	if m.cases[id] == nil {
		m.cases[id] = &modelCase{hits: map[string]modelHit{}, decisions: map[int]map[int64]DecisionRecord{}}
	}
	return m.cases[id]
}

func order(partition int32, offset int64) int64 { return int64(partition)<<40 | offset }

func (m *model) fold(rec pipeline.Record) {
	if rec.Topic == "dm.hits" {
		h, err := ParseHit(rec.Value)
		if err != nil {
			panic(err)
		}
		c := m.at(h.CaseID)
		c.hits[fmt.Sprint(rec.Partition, "/", rec.Offset)] = modelHit{rec.Partition, rec.Offset, h.Verdict.MessageID, rec.Time, h.Verdict.Severity}
		m.settle(c)
		return
	}
	d, err := ParseDecision(rec.Value)
	if err != nil {
		panic(err)
	}
	c := m.at(d.CaseID)
	if c.decisions[d.Revision] == nil {
		c.decisions[d.Revision] = map[int64]DecisionRecord{}
	}
	c.decisions[d.Revision][order(rec.Partition, rec.Offset)] = *d
	m.settle(c)
}

// settle ends the lease and counts attempts anew where the revision is another.
func (m *model) settle(c *modelCase) {
	v := m.view(c)
	if v.Revision != c.revision || len(v.Open) == 0 {
		c.lease = nil
	}
	if v.Revision != c.revision {
		c.revision, c.attempts = v.Revision, 0
	}
}

func (m *model) view(c *modelCase) modelView {
	var v modelView
	var through []map[int32]int64
	ids := map[string]bool{}
	last := 0
	for _, revision := range slices.Sorted(maps.Keys(c.decisions)) {
		all := c.decisions[revision]
		d := all[slices.Min(slices.Collect(maps.Keys(all)))]
		through = append(through, d.Through)
		for _, id := range d.MessageIDs {
			ids[id] = true
		}
		last = revision
		v.Deciders = append(v.Deciders, d.Reviewer)
	}
	byMessage := map[string][]modelHit{}
	for _, h := range c.hits {
		byMessage[h.message] = append(byMessage[h.message], h)
	}
	v.Messages = slices.Sorted(maps.Keys(byMessage))
	severity := map[string]pipeline.Severity{}
	due := map[string]time.Time{}
	for id, hits := range byMessage {
		latest, first, covered := hits[0], hits[0].time, ids[id]
		for _, h := range hits {
			if order(h.partition, h.offset) > order(latest.partition, latest.offset) {
				latest = h
			}
			if h.time.Before(first) {
				first = h.time
			}
			for _, t := range through {
				if o, ok := t[h.partition]; ok && h.offset <= o {
					covered = true
				}
			}
		}
		severity[id], due[id] = latest.severity, first.Add(m.config.SLA[latest.severity])
		if !covered {
			v.Open = append(v.Open, id)
		}
	}
	slices.Sort(v.Open)
	of := v.Open
	if len(of) == 0 {
		of = v.Messages
	}
	for _, id := range of {
		v.Severity = max(v.Severity, severity[id])
		if v.Deadline.IsZero() || due[id].Before(v.Deadline) {
			v.Deadline = due[id]
		}
	}
	v.Revision, v.Attempts = last, c.attempts
	if len(v.Open) > 0 {
		v.Revision++
	}
	if v.Revision != c.revision {
		v.Attempts = 0
	}
	switch {
	case len(v.Open) == 0:
		v.State = Decided
	case c.lease != nil:
		v.State = Leased
	case c.attempts >= m.config.MaxAttempts:
		v.State = Dead
	default:
		v.State = Pending
	}
	return v
}

// expire gives back what a claim finds expired.
func (m *model) expire() {
	for _, c := range m.cases {
		if c.lease != nil && !c.lease.expires.After(m.now()) {
			c.lease = nil
			c.attempts++
		}
	}
}

// next returns the ids of the cases that may be handed out next: several where
// nothing tells them apart.
func (m *model) next() []string {
	var best []string
	urgency := func(id string) int64 {
		v := m.view(m.cases[id])
		u := v.Deadline.UnixMilli()
		if v.Severity == pipeline.Critical {
			u -= 1e13
		}
		return u
	}
	for _, id := range slices.Sorted(maps.Keys(m.cases)) {
		if m.view(m.cases[id]).State != Pending {
			continue
		}
		if len(best) == 0 || urgency(id) < urgency(best[0]) {
			best = []string{id}
		} else if urgency(id) == urgency(best[0]) {
			best = append(best, id)
		}
	}
	return best
}

// check compares all cases and the counts, and holds the invariants.
func (m *model) check(t *testing.T, e *env) {
	t.Helper()
	want := Stats{BySeverity: map[string]int64{"none": 0, "low": 0, "medium": 0, "high": 0, "critical": 0}}
	for id, c := range m.cases {
		v := m.view(c)
		switch v.State {
		case Pending:
			want.Pending++
		case Leased:
			want.Leased++
		case Decided:
			want.Decided++
		case Dead:
			want.Dead++
		}
		if v.State != Decided {
			want.BySeverity[v.Severity.String()]++
		}
		stored, err := e.read(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		got := modelView{State: stored.State, Severity: pipeline.Severity(stored.Severity), Revision: stored.Revision, Attempts: stored.Attempts}
		if stored.Deadline != 0 {
			got.Deadline = milli(stored.Deadline)
		}
		got.Messages = slices.Sorted(maps.Keys(stored.messages))
		for _, id := range got.Messages {
			if stored.messages[id].open {
				got.Open = append(got.Open, id)
			}
			if stored.events[id] == nil {
				t.Fatalf("message %s has no event", id)
			}
		}
		for _, d := range stored.decisions {
			got.Deciders = append(got.Deciders, d.Reviewer)
		}
		if diff := cmp.Diff(v, got); diff != "" {
			t.Fatalf("case %s (-want +got):\n%s", id, diff)
		}
	}
	got, err := e.Stats(t.Context(), alice)
	if err != nil {
		t.Fatal(err)
	}
	got.OldestSeconds = 0
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	m.invariants(t, e)
}

// invariants holds, on the keys themselves, that every case is in exactly one
// of the sets of states.
func (m *model) invariants(t *testing.T, e *env) {
	t.Helper()
	total := int64(0)
	for shard := range e.config.Shards {
		keys := e.keys(shard, e.generation(shard))
		n := e.deps.Redis.HLen(t.Context(), keys[keyCases]).Val()
		total += n
		sets, seen := int64(0), map[string]bool{}
		for k := keyPendingConversation; k <= keyDecided; k++ {
			for _, id := range e.deps.Redis.ZRange(t.Context(), keys[k], 0, -1).Val() {
				sets++
				if seen[id] {
					t.Fatalf("case %s is in two states", id)
				}
				seen[id] = true
			}
		}
		if sets != n {
			t.Fatalf("%d cases, %d in a state", n, sets)
		}
		leased, requests := e.deps.Redis.ZCard(t.Context(), keys[keyLeases]).Val(), e.deps.Redis.HLen(t.Context(), keys[keyRequests]).Val()
		if requests != leased {
			t.Fatalf("%d leases, %d requests remembered", leased, requests)
		}
	}
	if total != int64(len(m.cases)) {
		t.Fatalf("%d cases, want %d", total, len(m.cases))
	}
}

// step does one random thing to the queue and to the model.
type walk struct {
	*env
	m       *model
	rng     *rand.Rand
	folded  map[string]int // by topic and partition
	request int
}

var reviewers = []string{"alice", "bob"}

func (w *walk) step() {
	ctx, t := w.t.Context(), w.t
	w.clear()
	switch w.rng.IntN(12) {
	case 0, 1, 2: // a hit, new or again
		conversation := fmt.Sprint("c-", w.rng.IntN(5))
		rec := w.hit(conversation, fmt.Sprint("m-", w.rng.IntN(12)), pipeline.Severity(w.rng.IntN(5)), nil)
		rec.Time = begin.Add(time.Duration(w.rng.IntN(1000)) * time.Minute)
		if _, err := w.log.Append(ctx, rec); err != nil {
			t.Fatal(err)
		}
	case 3, 4, 5: // fold some of what is logged
		for range 1 + w.rng.IntN(4) {
			w.project()
		}
	case 6, 7:
		w.doClaim()
	case 8: // keep or give back
		if id, c := w.leased(); c != nil {
			alive := c.lease.expires.After(w.m.now())
			r := alice
			r.ID = c.lease.by
			var err error
			if w.rng.IntN(2) == 0 {
				var until time.Time
				until, err = w.Heartbeat(ctx, r, id, c.lease.token)
				if alive && err == nil {
					c.lease.expires = until
				}
			} else if err = w.Release(ctx, r, id, c.lease.token); alive && err == nil {
				c.lease = nil
			}
			if (err == nil) != alive || err != nil && !errors.Is(err, ErrLeaseLost) {
				t.Fatalf("alive %v: %v", alive, err)
			}
		}
	case 9:
		w.doDecide()
	case 10:
		w.advance(time.Duration(w.rng.IntN(int(w.config.Lease))))
	case 11:
		switch w.rng.IntN(6) {
		case 0: // wipe and rebuild: everything logged is folded, leases are gone
			w.rebuild()
			w.m.cases = map[string]*modelCase{}
			w.folded = map[string]int{}
			for w.project() {
			}
		case 1: // another process decides on an old view
			w.foreignDecision()
		}
	}
}

// clear moves the time on until no lease is about to run out. The clock of a
// real server goes on between what the model does and what the queue does, and
// a lease that ran out in between would be alive for one and not for the other.
func (w *walk) clear() {
	const about = time.Minute // more than a step takes
	for now := w.m.now(); ; now = w.m.now() {
		until := now
		for _, c := range w.m.cases {
			if c.lease != nil && c.lease.expires.Before(now.Add(about)) && c.lease.expires.After(until) {
				until = c.lease.expires
			}
		}
		if until.Equal(now) {
			return
		}
		w.advance(until.Sub(now) + time.Millisecond)
	}
}

// project folds one record of a random partition, and reports whether there was
// any.
func (w *walk) project() bool {
	var behind []string
	for _, topic := range []string{"dm.hits", "dm.decisions"} {
		for p, records := range w.log.partitions(topic) {
			if k := topic + "/" + strconv.Itoa(p); w.folded[k] < len(records) {
				behind = append(behind, k)
			}
		}
	}
	if len(behind) == 0 {
		return false
	}
	k := behind[w.rng.IntN(len(behind))]
	topic, partition := k[:len(k)-2], int(k[len(k)-1]-'0')
	rec := w.log.partitions(topic)[partition][w.folded[k]]
	w.folded[k]++
	if err := w.Ingest(w.t.Context(), rec); err != nil {
		w.t.Fatal(err)
	}
	w.m.fold(rec)
	return true
}

func (w *walk) leased() (string, *modelCase) {
	for _, id := range slices.Sorted(maps.Keys(w.m.cases)) {
		if c := w.m.cases[id]; c.lease != nil && w.rng.IntN(2) == 0 {
			return id, c
		}
	}
	return "", nil
}

func (w *walk) doClaim() {
	w.request++
	r := alice
	r.ID = reviewers[w.rng.IntN(len(reviewers))]
	w.m.expire()
	want := w.m.next()
	l, err := w.Claim(w.t.Context(), r, "", fmt.Sprint("request-", w.request))
	if len(want) == 0 {
		if !errors.Is(err, ErrEmpty) {
			w.t.Fatalf("claimed although nothing waits: %v", err)
		}
		return
	}
	if err != nil || !slices.Contains(want, l.Case.ID) {
		w.t.Fatalf("claimed %+v, %v; want one of %v", l, err, want)
	}
	again, err := w.Claim(w.t.Context(), r, "", fmt.Sprint("request-", w.request))
	if err != nil || again.Token != l.Token {
		w.t.Fatalf("the same request got another lease: %v", err)
	}
	w.m.cases[l.Case.ID].lease = &modelLease{l.Token, l.ExpiresAt, r.ID}
}

func (w *walk) doDecide() {
	id, c := w.leased()
	if c == nil {
		return
	}
	alive := c.lease.expires.After(w.m.now())
	r := alice
	r.ID = c.lease.by
	before := w.logged()
	token := c.lease.token
	err := w.Decide(w.t.Context(), r, id, token, Decision{Choice: Confirm})
	if !alive {
		if !errors.Is(err, ErrLeaseLost) {
			w.t.Fatalf("decided with an expired lease: %v", err)
		}
		return
	}
	if err != nil {
		w.t.Fatal(err)
	}
	for k, records := range w.logged() {
		for _, rec := range records[len(before[k]):] {
			w.m.fold(rec)
		}
	}
	if err := w.Decide(w.t.Context(), r, id, token, Decision{Choice: Confirm}); !errors.Is(err, ErrLeaseLost) {
		w.t.Fatalf("a replayed decision: %v", err)
	}
}

func (w *walk) logged() map[int][]pipeline.Record {
	return maps.Collect(slices.All(slices.Clone(w.log.partitions("dm.decisions"))))
}

func (w *walk) foreignDecision() {
	conversation := fmt.Sprint("c-", w.rng.IntN(5))
	hits := w.log.partitions("dm.hits")
	d := DecisionRecord{
		CaseID: convCase(conversation), CaseKey: conversation, Kind: pipeline.ConversationCase, Queue: ConversationQueue,
		Revision: 1 + w.rng.IntN(3), Choice: Dismiss, Reviewer: "zoe", DecidedAt: begin, Through: map[int32]int64{},
	}
	for p := range hits {
		if n := len(hits[p]); n > 0 {
			d.Through[int32(p)] = int64(w.rng.IntN(n))
		}
	}
	value, err := json.Marshal(d)
	if err != nil {
		w.t.Fatal(err)
	}
	rec := pipeline.Record{Position: pipeline.Position{Topic: "dm.decisions"}, Key: []byte(conversation), Value: value}
	if _, err := w.log.Append(w.t.Context(), rec); err != nil {
		w.t.Fatal(err)
	}
}

func newWalk(e *env, seed uint64) *walk {
	return &walk{
		env: e, rng: rand.New(rand.NewPCG(seed, 0)), folded: map[string]int{},
		m: &model{config: &e.config, cases: map[string]*modelCase{}, now: func() time.Time {
			now, err := e.deps.Redis.Time(e.t.Context()).Result()
			if err != nil {
				e.t.Fatal(err)
			}
			return now.Add(e.skew())
		}},
	}
}

// TestTheQueueFollowsTheModel walks at random and compares everything with the
// model after each step.
func TestTheQueueFollowsTheModel(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			onEvery(t, func(t *testing.T, e *env) {
				e.config.MaxAttempts = 2
				w := newWalk(e, seed)
				for range 250 {
					w.step()
					w.m.check(t, e)
				}
			})
		})
	}
}

// twice runs every script twice, as go-redis does where an answer was lost, and
// holds that the second run changes nothing.
type twice struct {
	t      *testing.T
	server *miniredis.Miniredis
	runs   int
}

func (h *twice) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h *twice) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (h *twice) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if name := cmd.Name(); err != nil || name != "evalsha" && name != "eval" {
			return err
		}
		h.runs++
		first := h.server.Dump()
		again := redis.NewCmd(ctx, cmd.Args()...)
		if err := next(ctx, again); err != nil {
			h.t.Errorf("the second run failed: %v", err)
		}
		if diff := cmp.Diff(first, h.server.Dump()); diff != "" {
			h.t.Errorf("the second run changed (-first +second):\n%s", diff)
		}
		a, _ := cmd.(*redis.Cmd).Slice()
		b, _ := again.Slice()
		if fmt.Sprint(a[0]) != fmt.Sprint(b[0]) {
			h.t.Errorf("the second run answered %v, the first %v", b, a)
		}
		return nil
	}
}

// TestScriptsThatRunTwiceChangeNothing walks the model with every script run
// twice.
func TestScriptsThatRunTwiceChangeNothing(t *testing.T) {
	server := miniredis.RunT(t)
	server.SetTime(begin)
	hook := &twice{t: t, server: server}
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	t.Cleanup(func() { client.Close() })
	client.AddHook(hook)
	e := newEnv(t, client, func(c *Config) { c.MaxAttempts = 2 })
	w := newWalk(e, 42)
	for range 400 {
		w.step()
		w.m.check(t, e)
		if t.Failed() {
			return
		}
	}
	// Through the projector as well, with its positions.
	if err := (&run{Projector: NewProjector(e.Queue, e.log)}).toEnds(t.Context()); err != nil {
		t.Fatal(err)
	}
	if hook.runs < 400 {
		t.Errorf("only %d scripts were run twice", hook.runs)
	}
}

// TestTheOrderOfTheTopicsDoesNotMatter folds the same records in many
// interleavings, with repetitions, and always gets the same view.
func TestTheOrderOfTheTopicsDoesNotMatter(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			onEvery(t, func(t *testing.T, e *env) {
				rng := rand.New(rand.NewPCG(seed, 1))
				w := newWalk(e, seed)
				for range 30 { // a case's hits lie in several partitions: their number was changed
					rec := e.hit(fmt.Sprint("c-", rng.IntN(5)), fmt.Sprint("m-", rng.IntN(12)), pipeline.Severity(rng.IntN(5)), nil)
					rec.Time = begin.Add(time.Duration(rng.IntN(1000)) * time.Minute)
					if _, err := e.log.appendTo(rng.IntN(testPartitions), rec); err != nil {
						t.Fatal(err)
					}
				}
				for range 10 {
					w.foreignDecision()
				}
				for w.project() {
				}
				w.m.check(t, e)
				for range 4 {
					if err := e.wipe(t.Context()); err != nil {
						t.Fatal(err)
					}
					at := map[string]int{}
					for {
						var behind []pipeline.Record
						for _, topic := range []string{"dm.hits", "dm.decisions"} {
							for p, records := range e.log.partitions(topic) {
								if n := at[topic+strconv.Itoa(p)]; n < len(records) {
									behind = append(behind, records[n])
								}
							}
						}
						if len(behind) == 0 {
							break
						}
						rec := behind[rng.IntN(len(behind))]
						if err := e.Ingest(t.Context(), rec); err != nil {
							t.Fatal(err)
						}
						if rng.IntN(3) > 0 { // or again
							at[rec.Topic+strconv.Itoa(int(rec.Partition))]++
						}
					}
					w.m.check(t, e)
				}
			})
		})
	}
}
