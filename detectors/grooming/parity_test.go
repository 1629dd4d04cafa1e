package grooming

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"

	"github.com/dmguard/dmguard/pipeline"
)

// everyText is what the texts of made-up conversations are drawn from.
var everyText = append([]string{
	"im 13", "ok", "i am 15 years old", "add me on snap @kit_99", "what should i do", "d0nt t3ll y0ur m0m", "lol", "",
	"dont tell your mom, its a surprise party", "are you home alone rn? dont tell anyone", "my snap is kit.99",
}, developing...)

// traffic makes up messages of some conversations in the order in which they
// were sent, some of them sent twice.
func traffic(rng *rand.Rand, conversations, n int) []*pipeline.Message {
	var out []*pipeline.Message
	for i := range n {
		c := rng.IntN(conversations)
		m := message(fmt.Sprint("m", i), fmt.Sprint("s", rng.IntN(6)), everyText[rng.IntN(len(everyText))], i*rng.IntN(500))
		m.ConversationID = fmt.Sprint("c", c)
		if age := 8 + rng.IntN(40); age%3 == 0 {
			m.Sender.Age = &age
		}
		out = append(out, m)
		if rng.IntN(8) == 0 {
			out = append(out, m)
		}
	}
	return out
}

// log judges one message after the other and keeps what the pipeline keeps:
// states, the offsets of each conversation, and the offset of the latest message
// that is in them.
type log struct {
	replay *replay
	at     map[string]int64 // offset of the latest message in the state
}

// deliver judges the messages of a partition from an offset on, as far as they
// are not in the state yet, and returns what was answered by offset.
func (l *log) deliver(t testing.TB, partition []*pipeline.Message, from, to int, answers map[int]string) {
	t.Helper()
	for offset := from; offset < to; offset++ {
		m := partition[offset]
		if at, there := l.at[m.ConversationID]; there && int64(offset) <= at {
			continue
		}
		l.replay.offset = int64(offset)
		a := l.replay.judge(t, m)
		l.at[m.ConversationID] = int64(offset)
		b, err := json.Marshal(struct {
			Findings []pipeline.Finding
			Context  [][]int64
			Risk     float64
			State    []byte
		}{a.Findings, contextsOf(a), a.Risk, a.State}, json.Deterministic(true))
		if err != nil {
			t.Fatal(err)
		}
		if before, again := answers[offset]; again && before != string(b) {
			t.Fatalf("offset %d was answered differently:\n%s\n%s", offset, before, b)
		}
		answers[offset] = string(b)
	}
}

func contextsOf(a pipeline.Answer) (out [][]int64) {
	for i := range a.Findings {
		out = append(out, a.Findings[i].Context)
	}
	return out
}

func newLog(d *Detector) *log { return &log{newReplay(d), map[string]int64{}} }

// snapshot is a copy of what is kept: what a crash leaves.
func (l *log) snapshot() *log {
	c := newLog(l.replay.d)
	for k, v := range l.replay.states {
		c.replay.states[k] = bytes.Clone(v)
	}
	for k, v := range l.replay.recent {
		c.replay.recent[k] = slices.Clone(v)
	}
	maps.Copy(c.replay.seen, l.replay.seen)
	maps.Copy(c.at, l.at)
	return c
}

func (l *log) same(t testing.TB, other *log) {
	t.Helper()
	if diff := cmp.Diff(l.replay.states, other.replay.states); diff != "" {
		t.Fatal(diff)
	}
}

// TestAnySuffixDeliveredAgainChangesNothing ends a worker anywhere, with any of
// the latest states saved or not, and delivers from anywhere before: answers and
// states are those of a run without a break.
func TestAnySuffixDeliveredAgainChangesNothing(t *testing.T) {
	d := detector(t)
	for seed := range uint64(12) {
		rng := rand.New(rand.NewPCG(seed, 2))
		partition := traffic(rng, 3, 60)
		whole := map[int]string{}
		straight := newLog(d)
		straight.deliver(t, partition, 0, len(partition), whole)

		broken := newLog(d)
		answers := map[int]string{}
		for at := 0; at < len(partition); {
			saved := broken.snapshot()
			to := min(len(partition), at+1+rng.IntN(20))
			broken.deliver(t, partition, at, to, answers)
			at = to
			if rng.IntN(2) == 0 {
				broken = saved // it died before the states were saved
			}
			at = max(0, at-rng.IntN(30)) // of what was not committed
			if broken == saved {
				at = min(at, earliestMissing(partition, broken))
			}
			if rng.IntN(6) == 0 {
				break
			}
		}
		broken.deliver(t, partition, 0, len(partition), answers)
		if diff := cmp.Diff(whole, answers); diff != "" {
			t.Fatalf("seed %d: %s", seed, diff)
		}
		broken.same(t, straight)
	}
}

// earliestMissing is where the committed offset stands at most: before the first
// message that no state includes.
func earliestMissing(partition []*pipeline.Message, l *log) int {
	for i, m := range partition {
		if at, there := l.at[m.ConversationID]; !there || at < int64(i) {
			return i
		}
	}
	return len(partition)
}

// TestConversationsMayBeMixedInAnyOrder judges the same partition with the
// conversations in any order that keeps each in its own: answers and states are
// the same, bit by bit.
func TestConversationsMayBeMixedInAnyOrder(t *testing.T) {
	d := detector(t)
	for seed := range uint64(12) {
		rng := rand.New(rand.NewPCG(seed, 3))
		partition := traffic(rng, 5, 80)
		whole := map[int]string{}
		straight := newLog(d)
		straight.deliver(t, partition, 0, len(partition), whole)

		queues := map[string][]int{}
		var ids []string
		for i, m := range partition {
			if queues[m.ConversationID] == nil {
				ids = append(ids, m.ConversationID)
			}
			queues[m.ConversationID] = append(queues[m.ConversationID], i)
		}
		mixed, answers := newLog(d), map[int]string{}
		for len(ids) > 0 {
			i := rng.IntN(len(ids))
			offset := queues[ids[i]][0]
			mixed.deliver(t, partition, offset, offset+1, answers)
			if queues[ids[i]] = queues[ids[i]][1:]; len(queues[ids[i]]) == 0 {
				ids = slices.Delete(ids, i, i+1)
			}
		}
		if diff := cmp.Diff(whole, answers); diff != "" {
			t.Fatalf("seed %d: %s", seed, diff)
		}
		mixed.same(t, straight)
	}
}

// TestTwoCopiesOfADetectorAnswerTheSame compiles the packs again: nothing
// depends on the order of a map or on what was judged before.
func TestTwoCopiesOfADetectorAnswerTheSame(t *testing.T) {
	again, err := New(DefaultConfig(), packs(t))
	if err != nil {
		t.Fatal(err)
	}
	partition := traffic(rand.New(rand.NewPCG(4, 4)), 3, 200)
	one, two := map[int]string{}, map[int]string{}
	a, b := newLog(detector(t)), newLog(again)
	a.deliver(t, partition, 0, len(partition), one)
	b.deliver(t, partition, 0, len(partition), two)
	if diff := cmp.Diff(one, two); diff != "" {
		t.Error(diff)
	}
	b.same(t, a)
}
