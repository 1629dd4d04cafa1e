package evaluation

import (
	"context"
	"hash/fnv"
	"iter"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/dmguard/dmguard/detectors/grooming"
	"github.com/dmguard/dmguard/pipeline"
)

// Outcome is what the detector made of a conversation.
type Outcome struct {
	Labels
	Corpus   string // file or source that it comes from; "" for generated ones
	Messages int
	Risky    int // messages that belong to risk turns

	// Alert is the first message that asked for action, counted from 1; 0 for
	// none. AlertRisk is how many risk turns had been begun by then.
	Alert, AlertRisk int

	// Spans is how many places in messages the alert pointed to.
	Spans int

	// noticed says of every risk turn whether its intent was found in it.
	noticed []bool

	// steps are the messages at which the risk rose above all before.
	steps []step
}

type step struct {
	message, riskTurns int
	risk               float64
}

// Score is the highest risk that the conversation reached.
func (o *Outcome) Score() float64 {
	if len(o.steps) == 0 {
		return 0
	}
	return o.steps[len(o.steps)-1].risk
}

// Reached returns at which message, counted from 1, the risk first reached the
// threshold, and how many risk turns had been begun by then.
func (o *Outcome) Reached(threshold float64) (message, riskTurns int, ok bool) {
	for _, s := range o.steps {
		if s.risk >= threshold {
			return s.message, s.riskTurns, true
		}
	}
	return 0, 0, false
}

// follower hands the messages of one conversation to a detector as the pipeline
// does.
type follower struct {
	outcome Outcome
	turnOf  map[string]int // risk turn by message id
	begun   int
	state   []byte
	recent  []int64
	ids     []string // the latest, as many as the pipeline remembers
	offset  int64
}

// rememberedIDs is how many message ids the pipeline remembers of a
// conversation; a test holds it to the pipeline's.
const rememberedIDs = 8

func follow(l *Labels, corpus string) *follower {
	f := &follower{outcome: Outcome{Labels: *l, Corpus: corpus, noticed: make([]bool, len(l.RiskTurns))}, turnOf: map[string]int{}}
	for i, t := range l.RiskTurns {
		for _, id := range t.Messages {
			f.turnOf[id] = i + 1
		}
	}
	return f
}

func (f *follower) see(ctx context.Context, d pipeline.Detector, m *pipeline.Message) error {
	it := &pipeline.Item{Message: m, Recent: f.recent}
	it.Position.Offset = f.offset
	for _, id := range f.ids {
		it.Repeat = it.Repeat || id == m.ID
	}
	it.SetState(grooming.Name, f.state)
	a, err := d.Detect(ctx, it)
	if err != nil {
		return err
	}
	if a.State != nil {
		f.state = a.State
	}
	f.recent = lastOf(f.recent, f.offset, pipeline.RecentMessages)
	f.ids = lastOf(f.ids, m.ID, rememberedIDs)
	f.offset++

	o := &f.outcome
	o.Messages++
	if n := f.turnOf[m.ID]; n > 0 {
		o.Risky++
		f.begun = max(f.begun, n)
		for i := range a.Findings {
			if a.Findings[i].Label == o.RiskTurns[n-1].Intent && a.Findings[i].MessageID == "" {
				o.noticed[n-1] = true
			}
		}
	}
	if a.Risk > o.Score() {
		o.steps = append(o.steps, step{o.Messages, f.begun, a.Risk})
	}
	if o.Alert == 0 {
		spans, asks := 0, false
		for i := range a.Findings {
			spans += len(a.Findings[i].Spans)
			asks = asks || !a.Findings[i].Supports
		}
		if asks {
			o.Alert, o.AlertRisk, o.Spans = o.Messages, f.begun, spans
		}
	}
	return nil
}

// lastOf returns a new slice of the last n with v at its end: what a detector
// was handed stays as it was.
func lastOf[T any](s []T, v T, n int) []T {
	out := append(make([]T, 0, n), s[max(0, len(s)-n+1):]...)
	return append(out, v)
}

// withoutAccounts returns the message without what is known of accounts.
func withoutAccounts(m *pipeline.Message) *pipeline.Message {
	c := *m
	c.Sender = pipeline.Party{ID: m.Sender.ID}
	c.Recipients = make([]pipeline.Party, len(m.Recipients))
	for i := range m.Recipients {
		c.Recipients[i].ID = m.Recipients[i].ID
	}
	return &c
}

// judge runs the detector over n conversations, on all processors, and returns
// the outcomes in their order.
func judge(ctx context.Context, d pipeline.Detector, n int, conversation func(int) *Conversation, accounts bool, done func(int)) ([]*Outcome, error) {
	out := make([]*Outcome, n)
	var next, finished atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return nil
				}
				if err := ctx.Err(); err != nil {
					return err
				}
				c := conversation(i)
				f := follow(&c.Labels, "")
				for _, m := range c.Messages {
					if !accounts {
						m = withoutAccounts(m)
					}
					if err := f.see(ctx, d, m); err != nil {
						return err
					}
				}
				out[i] = &f.outcome
				done(int(finished.Add(1)))
			}
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return out, nil
}

// judgeStream runs the detector over the messages of a corpus, in their order
// within each conversation, on all processors. labels may be nil: then the
// conversations are benign.
func judgeStream(ctx context.Context, d pipeline.Detector, corpus string, messages iter.Seq2[*pipeline.Message, error], labels map[string]*Labels, done func(int)) ([]*Outcome, error) {
	const batch = 256
	workers := runtime.GOMAXPROCS(0)
	group, ctx := errgroup.WithContext(ctx)
	inputs := make([]chan []*pipeline.Message, workers)
	var mu sync.Mutex
	found := map[string]*Outcome{}
	for i := range inputs {
		inputs[i] = make(chan []*pipeline.Message, 4)
		group.Go(func() error {
			own := map[string]*follower{}
			for ms := range inputs[i] {
				for _, m := range ms {
					f := own[m.ConversationID]
					if f == nil {
						l := labels[m.ConversationID]
						if l == nil {
							l = &Labels{Conversation: m.ConversationID, Kind: Benign}
						}
						f = follow(l, corpus)
						own[m.ConversationID] = f
					}
					if err := f.see(ctx, d, m); err != nil {
						return err
					}
				}
			}
			mu.Lock()
			defer mu.Unlock()
			for id, f := range own {
				found[id] = &f.outcome
			}
			return nil
		})
	}
	group.Go(func() error {
		defer func() {
			for _, in := range inputs {
				close(in)
			}
		}()
		waiting := make([][]*pipeline.Message, workers)
		send := func(i int) error {
			select {
			case inputs[i] <- waiting[i]:
				waiting[i] = nil
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		n := 0
		for m, err := range messages {
			if err != nil {
				return err
			}
			h := fnv.New32a()
			_, _ = h.Write([]byte(m.ConversationID)) // never fails
			i := int(h.Sum32() % uint32(workers))
			if waiting[i] = append(waiting[i], m); len(waiting[i]) == batch {
				if err := send(i); err != nil {
					return err
				}
			}
			n++
			done(n)
		}
		for i := range waiting {
			if err := send(i); err != nil {
				return err
			}
		}
		return nil
	})
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var out []*Outcome
	for _, id := range sortedKeys(found) {
		out = append(out, found[id])
	}
	return out, nil
}
