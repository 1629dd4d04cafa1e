package reviewqueue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/redis/go-redis/v9"

	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/reviewqueue/access"
)

// stored is a case as the scripts keep it.
type stored struct {
	ID        string            `json:"id"`
	Key       string            `json:"key"`
	Kind      pipeline.CaseKind `json:"kind"`
	State     State             `json:"state"`
	Severity  int               `json:"sev"`
	Opened    int64             `json:"opened"`
	Deadline  int64             `json:"deadline"`
	DecidedAt int64             `json:"decided_at"`
	Revision  int               `json:"revision"`
	Attempts  int               `json:"attempts"`
	Indexed   int               `json:"indexed"`
	More      *struct {
		Count int `json:"count"`
	} `json:"more"`
	Lease *struct {
		Expires int64 `json:"expires"`
	} `json:"lease"`
}

// entry is what the scripts keep of every message of a case.
type entry struct {
	Partition int32            `json:"p"` // of the latest hit on it, as Offset is
	Offset    int64            `json:"o"`
	First     map[string]int64 `json:"first"` // by partition, the first hit on it
	Time      int64            `json:"time"`
	Severity  int              `json:"sev"`
	Sent      int64            `json:"sent"`
	Labels    []string         `json:"labels"`
	Reports   []string         `json:"reports"`

	open bool // no decision in force covers it
}

// through reports whether the first hit on the message lies at or before these
// offsets.
func (e *entry) through(high map[string]int64) bool {
	for p, o := range e.First {
		if last, ok := high[p]; ok && o <= last {
			return true
		}
	}
	return false
}

// view is all that Redis keeps of one case.
type view struct {
	stored
	messages  map[string]*entry
	events    map[string]*Event
	decisions []decisionFold // in force, by revision
}

// read returns what Redis keeps of a case, at one moment.
func (q *Queue) read(ctx context.Context, caseID string) (*view, error) {
	shard := q.shard(caseID)
	for range maxGenerations {
		generation := q.generation(shard)
		keys, own := q.keys(shard, generation), q.caseKeys(shard, generation, caseID)
		var now, meta *redis.StringCmd
		var messages, summaries, decisions *redis.MapStringStringCmd
		_, err := q.deps.Redis.TxPipelined(ctx, func(p redis.Pipeliner) error {
			now = p.Get(ctx, keys[keyGeneration])
			meta = p.HGet(ctx, keys[keyCases], caseID)
			messages, summaries, decisions = p.HGetAll(ctx, own[0]), p.HGetAll(ctx, own[1]), p.HGetAll(ctx, own[2])
			return nil
		})
		if err != nil && !errors.Is(err, redis.Nil) {
			return nil, fmt.Errorf("reading case %s: %w", caseID, err)
		}
		if current := orZero(now); current != generation {
			q.setGeneration(shard, current)
			continue
		}
		if errors.Is(meta.Err(), redis.Nil) {
			return nil, ErrNotFound
		}
		return parseView(meta.Val(), messages.Val(), summaries.Val(), decisions.Val())
	}
	return nil, errUnsettled
}

// orZero returns the value of a counter, "0" where it does not exist.
func orZero(cmd *redis.StringCmd) string {
	if errors.Is(cmd.Err(), redis.Nil) {
		return "0"
	}
	return cmd.Val()
}

func parseView(meta string, messages, summaries, decisions map[string]string) (*view, error) {
	v := &view{messages: map[string]*entry{}, events: map[string]*Event{}}
	err := json.Unmarshal([]byte(meta), &v.stored)
	through, ids := map[string]int64{}, map[string]bool{}
	for _, raw := range decisions {
		var d decisionFold
		err = errors.Join(err, json.Unmarshal([]byte(raw), &d))
		v.decisions = append(v.decisions, d)
		for p, o := range d.Through {
			k := strconv.Itoa(int(p))
			if last, ok := through[k]; !ok || o > last {
				through[k] = o
			}
		}
		for _, id := range d.Messages {
			ids[id] = true
		}
	}
	slices.SortFunc(v.decisions, func(a, b decisionFold) int { return cmp.Compare(a.Revision, b.Revision) })
	for id, raw := range messages {
		e := &entry{}
		err = errors.Join(err, json.Unmarshal([]byte(raw), e))
		e.open = !ids[id] && !e.through(through)
		v.messages[id] = e
	}
	for id, raw := range summaries {
		e := &Event{}
		err = errors.Join(err, json.Unmarshal([]byte(raw), e))
		v.events[id] = e
	}
	if err != nil {
		return nil, fmt.Errorf("reading a case: %w", err)
	}
	return v, nil
}

// gravest returns the id of the latest of the gravest messages that keep
// returns true for, of the open ones if any is; "" where there is none.
func (v *view) gravest(keep func(id string) bool) string {
	best := ""
	for id, e := range v.messages {
		if !keep(id) {
			continue
		}
		if best == "" || cmp.Or(
			compareBool(e.open, v.messages[best].open),
			cmp.Compare(e.Severity, v.messages[best].Severity),
			cmp.Compare(e.Sent, v.messages[best].Sent),
			cmp.Compare(id, best),
		) > 0 {
			best = id
		}
	}
	return best
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

func (v *view) masked() *Case {
	c := &Case{
		ID: v.ID, Kind: v.Kind, Queue: string(v.Kind), State: v.State, Severity: pipeline.Severity(v.Severity),
		Labels: []string{}, OpenedAt: milli(cmp.Or(v.Opened, v.DecidedAt)), Deadline: milli(cmp.Or(v.Deadline, v.DecidedAt)),
		Revision: v.Revision, Attempts: v.Attempts, Messages: v.Indexed,
		Findings: []pipeline.Finding{}, Timeline: make([]Event, 0, len(v.events)),
	}
	if v.State == Dead {
		c.Queue = DeadQueue
	}
	if v.More != nil {
		c.Messages += v.More.Count
	}
	c.Omitted = c.Messages - len(v.events)
	if v.Lease != nil {
		t := milli(v.Lease.Expires)
		c.LeaseExpiresAt = &t
	}
	for _, e := range v.messages {
		c.Labels = append(c.Labels, e.Labels...)
	}
	slices.Sort(c.Labels)
	c.Labels = slices.Compact(c.Labels)
	for id, e := range v.events {
		event := *e
		if m := v.messages[id]; m != nil {
			event.Open, event.FoundAt = m.open, milli(m.Time)
		}
		c.Timeline = append(c.Timeline, event)
	}
	slices.SortFunc(c.Timeline, func(a, b Event) int {
		return cmp.Or(a.SentAt.Compare(b.SentAt), cmp.Compare(a.MessageID, b.MessageID))
	})
	if id := v.gravest(func(id string) bool { return v.events[id] != nil }); id != "" {
		c.Findings = v.events[id].Findings
	}
	for _, d := range v.decisions {
		c.Decisions = append(c.Decisions, Past{d.Revision, d.Choice, d.Label, d.Reviewer, milli(d.At)})
	}
	return c
}

func milli(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

// Case returns one case, masked.
func (q *Queue) Case(ctx context.Context, r access.Reviewer, caseID string) (*Case, error) {
	if err := access.Allow(r, access.Claim); err != nil {
		return nil, err
	}
	v, err := q.read(ctx, caseID)
	if err != nil {
		return nil, err
	}
	return v.masked(), nil
}

// maxList is how many cases a list holds at most.
const maxList = 200

// List returns cases, masked: those not decided by deadline, critical ones
// first, and then those decided, newest first. At most limit, and 200, are
// returned.
func (q *Queue) List(ctx context.Context, r access.Reviewer, f Filter, limit int) ([]*Case, error) {
	if err := access.Allow(r, access.Claim); err != nil {
		return nil, err
	}
	if f.State != "" && !slices.Contains(States(), f.State) {
		return nil, fmt.Errorf("%w: unknown state", ErrInvalid)
	}
	if err := checkQueue(f.Queue); err != nil {
		return nil, err
	}
	limit = min(limit, maxList)
	cases := []*Case{}
	for shard := range q.config.Shards {
		ids, err := q.listed(ctx, shard, f, limit)
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			v, err := q.read(ctx, id)
			if errors.Is(err, ErrNotFound) {
				continue // a rebuild is under way
			}
			if err != nil {
				return nil, err
			}
			c := v.masked()
			if (f.State == "" || c.State == f.State) && (f.Queue == "" || c.Queue == f.Queue) {
				cases = append(cases, c)
			}
		}
	}
	slices.SortStableFunc(cases, byUrgency)
	return cases[:min(len(cases), max(limit, 0))], nil
}

func byUrgency(a, b *Case) int {
	if a.State == Decided && b.State == Decided {
		return cmp.Or(b.Decisions[len(b.Decisions)-1].DecidedAt.Compare(a.Decisions[len(a.Decisions)-1].DecidedAt), cmp.Compare(a.ID, b.ID))
	}
	return cmp.Or(
		compareBool(a.State == Decided, b.State == Decided),
		-compareBool(a.Severity == pipeline.Critical, b.Severity == pipeline.Critical),
		a.Deadline.Compare(b.Deadline),
		cmp.Compare(a.ID, b.ID),
	)
}

// listed returns the ids in a shard that may pass the filter, a little more
// than needed.
func (q *Queue) listed(ctx context.Context, shard int, f Filter, limit int) ([]string, error) {
	if limit < 1 {
		return nil, nil
	}
	sets := map[State][]int{
		Pending: {keyPendingConversation, keyPendingMedia}, Dead: {keyDead}, Leased: {keyLeases}, Decided: {keyDecided},
	}
	for range maxGenerations {
		generation := q.generation(shard)
		keys := q.keys(shard, generation)
		var now *redis.StringCmd
		var ranges []*redis.StringSliceCmd
		_, err := q.deps.Redis.TxPipelined(ctx, func(p redis.Pipeliner) error {
			now = p.Get(ctx, keys[keyGeneration])
			for _, state := range States() {
				if f.State != "" && f.State != state {
					continue
				}
				for _, k := range sets[state] {
					if state == Decided {
						ranges = append(ranges, p.ZRevRange(ctx, keys[k], 0, int64(limit-1)))
					} else {
						ranges = append(ranges, p.ZRange(ctx, keys[k], 0, int64(limit-1)))
					}
				}
			}
			return nil
		})
		if err != nil && !errors.Is(err, redis.Nil) {
			return nil, fmt.Errorf("listing cases: %w", err)
		}
		if current := orZero(now); current != generation {
			q.setGeneration(shard, current)
			continue
		}
		var ids []string
		for _, r := range ranges {
			ids = append(ids, r.Val()...)
		}
		return ids, nil
	}
	return nil, errUnsettled
}

// Stats counts the cases, each shard at one moment. A lease that ran out counts
// as leased until a claim finds it.
func (q *Queue) Stats(ctx context.Context, r access.Reviewer) (Stats, error) {
	if err := access.Allow(r, access.Count); err != nil {
		return Stats{}, err
	}
	s := Stats{BySeverity: map[string]int64{}}
	for sev := pipeline.None; sev <= pipeline.Critical; sev++ {
		s.BySeverity[sev.String()] = 0
	}
	for shard := range q.config.Shards {
		if err := q.addStats(ctx, shard, &s); err != nil {
			return Stats{}, fmt.Errorf("counting cases: %w", err)
		}
	}
	return s, nil
}

func (q *Queue) addStats(ctx context.Context, shard int, s *Stats) error {
	for range maxGenerations {
		generation := q.generation(shard)
		keys := q.keys(shard, generation)
		var now *redis.StringCmd
		counts := map[int]*redis.IntCmd{}
		var severities *redis.MapStringStringCmd
		var oldest *redis.ZSliceCmd
		_, err := q.deps.Redis.TxPipelined(ctx, func(p redis.Pipeliner) error {
			now = p.Get(ctx, keys[keyGeneration])
			for k := keyPendingConversation; k <= keyDecided; k++ {
				counts[k] = p.ZCard(ctx, keys[k])
			}
			severities = p.HGetAll(ctx, keys[keySeverities])
			oldest = p.ZRangeWithScores(ctx, keys[keyOpen], 0, 0)
			return nil
		})
		if err != nil && !errors.Is(err, redis.Nil) {
			return err
		}
		if current := orZero(now); current != generation {
			q.setGeneration(shard, current)
			continue
		}
		s.Pending += counts[keyPendingConversation].Val() + counts[keyPendingMedia].Val()
		s.Leased += counts[keyLeases].Val()
		s.Decided += counts[keyDecided].Val()
		s.Dead += counts[keyDead].Val()
		for sev, n := range severities.Val() {
			i, err := strconv.Atoi(sev)
			if err != nil {
				return err
			}
			count, err := strconv.ParseInt(n, 10, 64)
			if err != nil {
				return err
			}
			s.BySeverity[pipeline.Severity(i).String()] += count
		}
		if first := oldest.Val(); len(first) > 0 {
			clock, err := q.deps.Redis.Time(ctx).Result()
			if err != nil {
				return err
			}
			age := clock.Add(q.skew()).Sub(milli(int64(first[0].Score)))
			s.OldestSeconds = max(s.OldestSeconds, int64(age/time.Second))
		}
		return nil
	}
	return errUnsettled
}

func checkQueue(queue string) error {
	if queue != "" && !slices.Contains(Queues(), queue) {
		return fmt.Errorf("%w: unknown queue: it is one of %q", ErrInvalid, Queues())
	}
	return nil
}
