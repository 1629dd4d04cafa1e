package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"

	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/pipeline/state"
)

// recordsOnce is a source of some records.
type recordsOnce struct {
	batches [][]*pipeline.Delivery
}

// Receive implements [pipeline.Source].
func (s *recordsOnce) Receive(context.Context) ([]*pipeline.Delivery, error) {
	if len(s.batches) == 0 {
		return nil, io.EOF
	}
	b := s.batches[0]
	s.batches = s.batches[1:]
	return b, nil
}

// verdictsByOffset is a sink that holds every verdict about a record to the
// first one.
type verdictsByOffset struct {
	mu  sync.Mutex
	all map[int64]string
	err error
}

// Accept implements [pipeline.Sink].
func (v *verdictsByOffset) Accept(_ context.Context, batch []*pipeline.Outcome) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, o := range batch {
		verdict := *o.Verdict
		verdict.DecidedAt = time.Time{}
		b, err := json.Marshal(verdict, json.Deterministic(true))
		if err != nil {
			return pipeline.Permanent(err)
		}
		if before, again := v.all[o.Delivery.Offset]; again && before != string(b) {
			v.err = fmt.Errorf("offset %d: %s, and again %s", o.Delivery.Offset, before, b)
		}
		v.all[o.Delivery.Offset] = string(b)
	}
	return nil
}

// parityRecords make up the log of one partition.
func parityRecords(t *testing.T, rng *rand.Rand, n int) []pipeline.Record {
	t.Helper()
	texts := []string{
		"hello", "how old are you?", "im 13", "are you home alone right now?", "dont tell your parents", "see you at practice", "add me on snap @kit_99",
		"send me a selfie", "you are so mature for your age", "i can pick you up after school", "ok", "d0nt t3ll y0ur m0m", "what should i do",
	}
	var out []pipeline.Record
	for i := range n {
		c := rng.IntN(4)
		value, err := json.Marshal(map[string]any{
			"id": fmt.Sprint("m-", i-rng.IntN(2)), "conversation_id": fmt.Sprint("c-", c), "sent_at": time.Unix(1770000000+int64(60*i), 0).UTC(),
			"sender": map[string]any{"id": fmt.Sprint("u-", rng.IntN(3)), "age": 12 + rng.IntN(30)}, "text": texts[rng.IntN(len(texts))],
		}, json.Deterministic(true))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, pipeline.Record{Position: pipeline.Position{Topic: "input", Partition: 3, Offset: int64(i)}, Value: value})
	}
	return out
}

// parityPipeline judges records with the rules of the reference.
func parityPipeline(t *testing.T, rules *rules, memory pipeline.Memory, sink pipeline.Sink, rng *rand.Rand, records []pipeline.Record) *pipeline.Pipeline {
	t.Helper()
	src := &recordsOnce{}
	for len(records) > 0 {
		n := 1 + rng.IntN(len(records))
		var batch []*pipeline.Delivery
		for _, r := range records[:n] {
			batch = append(batch, &pipeline.Delivery{Record: r, Done: func() {}})
		}
		src.batches, records = append(src.batches, batch), records[n:]
	}
	p, err := pipeline.New(pipeline.Config{
		Source: src, Open: pipeline.OpenPlain, Ruleset: rules.ruleset, Memory: memory, Sinks: []pipeline.Sink{sink}, Log: zap.NewNop(),
		Lanes: 1 + rng.IntN(4), Batch: 1 + rng.IntN(20),
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestWhatIsRebuiltJudgesAsIfNothingWasLost judges a log, and judges it again in
// parts: some of it folded into an emptied memory, in chunks that overlap, and
// the rest delivered from anywhere, with other lanes and batches. Every verdict
// and every state is the same.
func TestWhatIsRebuiltJudgesAsIfNothingWasLost(t *testing.T) {
	rules, err := (&rulesetOptions{}).load(t.Context(), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	defer rules.close()
	var keys []pipeline.ConversationKey
	for c := range 4 {
		keys = append(keys, pipeline.ConversationKey{ID: fmt.Sprint("c-", c), Partition: 3})
	}
	states := func(m pipeline.Memory) (out [][]byte) {
		loaded, err := m.Load(t.Context(), keys)
		if err != nil {
			t.Fatal(err)
		}
		for i := range loaded {
			if loaded[i].IsZero() {
				out = append(out, nil)
				continue
			}
			b, err := loaded[i].AppendBinary(nil)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, b)
		}
		return out
	}
	alerted := 0
	for seed := range uint64(15) {
		rng := rand.New(rand.NewPCG(seed, 5))
		records := parityRecords(t, rng, 120)
		verdicts := &verdictsByOffset{all: map[int64]string{}}
		whole := state.NewLocal(state.LocalOptions{})
		if err := parityPipeline(t, rules, whole, verdicts, rng, records).Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(verdicts.all) != len(records) {
			t.Fatalf("%d verdicts of %d", len(verdicts.all), len(records))
		}
		for _, v := range verdicts.all {
			if alert(v) {
				alerted++
			}
		}

		committed := rng.IntN(len(records))
		again := state.NewLocal(state.LocalOptions{})
		from := max(0, committed-rng.IntN(30)) // what is delivered once more
		p := parityPipeline(t, rules, again, verdicts, rng, records[from:])
		for at := 0; at < committed; {
			to := min(committed, at+1+rng.IntN(40))
			if err := p.Rebuild(t.Context(), records[at:to], 0); err != nil {
				t.Fatal(err)
			}
			if at = to; at < committed {
				at = max(0, at-rng.IntN(10))
				if rng.IntN(3) > 0 {
					at = to
				}
			}
		}
		if err := p.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if verdicts.err != nil {
			t.Fatalf("seed %d: %v", seed, verdicts.err)
		}
		if diff := cmp.Diff(states(whole), states(again)); diff != "" {
			t.Fatalf("seed %d: %s", seed, diff)
		}
		if err := whole.Close(); err != nil {
			t.Error(err)
		}
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	}
	if alerted < 10 {
		t.Errorf("%d alerts: nothing much was compared", alerted)
	}
}

func alert(verdict string) bool {
	var v pipeline.Verdict
	return json.Unmarshal([]byte(verdict), &v) == nil && v.Action > pipeline.Allow
}
