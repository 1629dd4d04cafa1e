package pipeline

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

// Ruleset is everything that a reload replaces, as one value that is never
// modified. A batch is judged by the one that was in force when it was picked
// up, whole.
type Ruleset struct {
	Detectors []Detector
	Policy    Policy

	// Prepare makes the attachments of an item ready: it fills Item.Media, an
	// entry for each attachment. An error is an outage and the call is
	// repeated; what cannot be looked at for good is said in Media.Err.
	Prepare func(context.Context, *Item) error

	// Versions name the policy, the ruleset, the lists and the model: enough to
	// repeat a verdict.
	Versions map[string]string
}

// Config holds what a Pipeline needs. Every field without a stated default is
// required.
type Config struct {
	Source  Source
	Open    func(*Record) (*Message, error) // opens and parses; see [OpenPlain]
	Ruleset *Ruleset
	Memory  Memory
	Sinks   []Sink
	Log     *zap.Logger

	Journal *Journal // of suspects; none if nil
	Metrics *Metrics // none if nil

	Lanes           int           // 4 for each processor if zero
	Batch           int           // messages that a lane takes at once, 256 if zero
	DetectorTimeout time.Duration // for one detector and message, 2 s if zero
	PrepareTimeout  time.Duration // for one attempt at the attachments of a message, 30 s if zero
	DrainTimeout    time.Duration // from the end of Run's context, 8 s if zero
	StuckAfter      time.Duration // a message that takes longer ends Run, 2 min if zero
}

// Pipeline runs messages from a source through detectors to sinks.
type Pipeline struct {
	cfg     Config
	ruleset atomic.Pointer[Ruleset]
	seed    maphash.Seed

	// single is held for reading while a lane has messages in its hands, and
	// for writing while a suspect is looked at, so that nothing else can be
	// blamed if it kills the process.
	single sync.RWMutex
}

// New returns a pipeline, or an error that names every field missing from cfg.
func New(cfg Config) (*Pipeline, error) {
	var errs []error
	for _, f := range []struct {
		name    string
		missing bool
	}{
		{"Source", cfg.Source == nil},
		{"Open", cfg.Open == nil},
		{"Ruleset", cfg.Ruleset == nil},
		{"Memory", cfg.Memory == nil},
		{"Sinks", len(cfg.Sinks) == 0},
		{"Log", cfg.Log == nil},
	} {
		if f.missing {
			errs = append(errs, fmt.Errorf("pipeline: Config.%s is required", f.name))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if cfg.Lanes == 0 {
		cfg.Lanes = 4 * runtime.GOMAXPROCS(0)
	}
	if cfg.Batch == 0 {
		cfg.Batch = 256
	}
	if cfg.DetectorTimeout == 0 {
		cfg.DetectorTimeout = 2 * time.Second
	}
	if cfg.PrepareTimeout == 0 {
		cfg.PrepareTimeout = 30 * time.Second
	}
	if cfg.DrainTimeout == 0 {
		cfg.DrainTimeout = 8 * time.Second
	}
	if cfg.StuckAfter == 0 {
		cfg.StuckAfter = 2 * time.Minute
	}
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics(nil)
	}
	p := &Pipeline{cfg: cfg, seed: maphash.MakeSeed()}
	p.ruleset.Store(cfg.Ruleset)
	return p, nil
}

// Reload puts r in force for every batch picked up from now on.
func (p *Pipeline) Reload(r *Ruleset) { p.ruleset.Store(r) }

// ErrStuck is returned by [Pipeline.Run] where a message has been in a
// detector's or decoder's hands for longer than Config.StuckAfter. The process
// should end: the journal then counts this as a kill by that message.
var ErrStuck = errors.New("a message is stuck")

// errDrain is returned where the deadline for draining passed: what was left is
// not committed and comes again.
var errDrain = errors.New("not everything in flight was finished before the drain timeout")

// Run processes messages until ctx ends or the source is exhausted, and then
// finishes what it has picked up, for at most Config.DrainTimeout. It returns
// nil where everything picked up is done.
//
// Messages of one conversation are processed in order, those of different
// conversations side by side.
func (p *Pipeline) Run(ctx context.Context) error {
	work, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	defer context.AfterFunc(ctx, func() {
		t := time.AfterFunc(p.cfg.DrainTimeout, func() { stop(errDrain) })
		context.AfterFunc(work, func() { t.Stop() })
	})()

	g, gctx := errgroup.WithContext(work)
	lanes := make([]*lane, p.cfg.Lanes)
	var busy sync.WaitGroup
	for i := range lanes {
		l := &lane{p: p, in: make(chan *Delivery, p.cfg.Batch), slot: p.cfg.Journal.slot()}
		lanes[i] = l
		busy.Add(1)
		g.Go(func() error {
			defer busy.Done()
			return l.run(gctx)
		})
	}
	idle := make(chan struct{})
	go func() { busy.Wait(); close(idle) }()
	stuck := make(chan error, 1)
	g.Go(func() error {
		err := p.watch(gctx, lanes, idle)
		if err != nil {
			stuck <- err
		}
		return err
	})
	g.Go(func() error {
		defer func() {
			for _, l := range lanes {
				close(l.in)
			}
		}()
		// What is received belongs to ctx, so that a shutdown ends it, but also
		// to the group, so that a lane that fails ends it.
		receive, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(gctx, cancel)()
		return p.dispatch(receive, lanes)
	})
	ended := make(chan error, 1)
	go func() { ended <- g.Wait() }()
	var err error
	select {
	case err = <-ended:
	case err = <-stuck:
		return err // without waiting for the lane that will never return
	}
	for _, l := range lanes {
		l.slot.free()
	}
	if err == nil || errors.Is(err, context.Canceled) {
		if cause := context.Cause(work); cause != nil && !errors.Is(cause, context.Canceled) {
			return cause
		}
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return errDrain
	}
	return err
}

// dispatch hands each delivery to the lane of its conversation.
func (p *Pipeline) dispatch(ctx context.Context, lanes []*lane) error {
	for {
		batch, err := p.cfg.Source.Receive(ctx)
		switch {
		case errors.Is(err, io.EOF) || ctx.Err() != nil:
			return nil //nolint:nilerr // the end of the input, or of our time
		case err != nil:
			return fmt.Errorf("receiving: %w", err)
		}
		for _, d := range batch {
			i := maphash.String(p.seed, PeekConversation(d.Value)) % uint64(len(lanes))
			select {
			case lanes[i].in <- d:
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// watch ends the run where a lane has been on one message for too long.
func (p *Pipeline) watch(ctx context.Context, lanes []*lane, idle <-chan struct{}) error {
	tick := time.NewTicker(p.cfg.StuckAfter / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-idle:
			return nil
		case now := <-tick.C:
			for _, l := range lanes {
				if since := l.since.Load(); since != 0 && now.Sub(time.Unix(0, since)) > p.cfg.StuckAfter {
					pos := *l.at.Load()
					p.cfg.Log.Error("a message is stuck; ending the process so that it is isolated",
						zap.String("topic", pos.Topic), zap.Int32("partition", pos.Partition), zap.Int64("offset", pos.Offset),
						zap.Duration("for", now.Sub(time.Unix(0, since))))
					return fmt.Errorf("%w: %s/%d offset %d", ErrStuck, pos.Topic, pos.Partition, pos.Offset)
				}
			}
		}
	}
}

// lane processes the messages of some conversations, batch by batch.
type lane struct {
	p    *Pipeline
	in   chan *Delivery
	slot *journalSlot

	since atomic.Int64             // when the message at was picked up, unix ns; 0 for none
	at    atomic.Pointer[Position] // valid while since is not 0
}

func (l *lane) run(ctx context.Context) error {
	for {
		batch := l.collect(ctx)
		if len(batch) == 0 {
			return context.Cause(ctx)
		}
		for part := range l.p.split(batch) {
			if err := l.p.process(ctx, l, part); err != nil {
				return err
			}
		}
	}
}

// collect blocks for one delivery and takes what else is there. It returns
// nothing where the lane is closed or ctx ends.
func (l *lane) collect(ctx context.Context) []*Delivery {
	var batch []*Delivery
	select {
	case d, ok := <-l.in:
		if !ok || ctx.Err() != nil {
			return nil
		}
		batch = append(batch, d)
	case <-ctx.Done():
		return nil
	}
	for len(batch) < l.p.cfg.Batch {
		select {
		case d, ok := <-l.in:
			if !ok {
				return batch
			}
			batch = append(batch, d)
		default:
			return batch
		}
	}
	return batch
}

// split cuts a batch so that each suspect is alone in its part.
func (p *Pipeline) split(batch []*Delivery) func(yield func([]*Delivery) bool) {
	return func(yield func([]*Delivery) bool) {
		start := 0
		for i, d := range batch {
			if p.cfg.Journal.Kills(d.Position) == 0 {
				continue
			}
			if i > start && !yield(batch[start:i]) {
				return
			}
			if !yield(batch[i : i+1]) {
				return
			}
			start = i + 1
		}
		if start < len(batch) {
			yield(batch[start:])
		}
	}
}

// touch notes which message the lane is about to look at: for the journal, in
// case it kills the process, and for the watch, in case it never returns.
// letGo says that it looks at none.
func (l *lane) touch(d *Delivery) {
	l.at.Store(&d.Position)
	l.since.Store(time.Now().UnixNano())
	l.slot.set(d.Position)
}

func (l *lane) letGo() {
	l.since.Store(0)
	l.slot.clear()
}

// process takes a batch to its end: judged, accepted by every sink, remembered,
// done, in this order. An error stops the pipeline: nothing of the batch is
// done and it comes again.
func (p *Pipeline) process(ctx context.Context, l *lane, batch []*Delivery) error {
	started := time.Now()
	rules := p.ruleset.Load()
	clock := p.cfg.Metrics.stages(started)

	suspect := p.cfg.Journal.Kills(batch[0].Position)
	if suspect > 0 {
		p.single.Lock()
	} else {
		p.single.RLock()
	}
	outcomes, keys, states, err := p.judge(ctx, l, rules, batch, suspect, &clock)
	l.letGo()
	if suspect > 0 {
		p.single.Unlock()
	} else {
		p.single.RUnlock()
	}
	if err != nil {
		return err
	}

	if len(outcomes) > 0 {
		for _, s := range p.cfg.Sinks {
			if err := p.retry(ctx, "writing verdicts", func() error { return s.Accept(ctx, outcomes) }); err != nil {
				return err
			}
		}
	}
	clock.lap(stageSink)
	if len(keys) > 0 {
		if err := p.retry(ctx, "saving conversation state", func() error { return p.cfg.Memory.Save(ctx, keys, states) }); err != nil {
			return err
		}
	}
	clock.lap(stageSave)
	for _, d := range batch {
		if suspect > 0 {
			p.cfg.Journal.Forget(d.Position)
		}
		d.Done()
	}
	p.report(outcomes, len(batch), time.Since(started))
	return nil
}

// judge opens, prepares and judges a batch. It returns an outcome for every
// delivery that was not judged before, and the states of the conversations that
// they moved on.
func (p *Pipeline) judge(ctx context.Context, l *lane, rules *Ruleset, batch []*Delivery, suspect int, clock *stageClock) (outcomes []*Outcome, keys []ConversationKey, states []Conversation, err error) {
	all := make([]Outcome, len(batch))
	items := make([]Item, len(batch))
	media := false
	for i, d := range batch {
		o := &all[i]
		o.Delivery = d
		if suspect >= MaxKills {
			o.DeadLetter = fmt.Sprintf("quarantined: the process died %d times with this message in its hands", suspect)
			continue
		}
		l.touch(d)
		m, err := p.open(d)
		if err != nil && !IsPermanent(err) {
			l.letGo()
			err = p.retry(ctx, "opening a message", func() error {
				m, err = p.open(d)
				return err
			})
			if err != nil && !IsPermanent(err) {
				return nil, nil, nil, err
			}
		}
		if err != nil {
			o.DeadLetter = strings.ReplaceAll(err.Error(), "\n", "; ") // of joined faults
			continue
		}
		items[i] = Item{Message: m, Position: d.Position}
		o.Item = &items[i]
		media = media || len(m.Attachments) > 0 && !rules.Policy.skips(m)
	}
	clock.lap(stageOpen)

	// What follows waits for others. Were the process killed meanwhile, no
	// message of this batch would be to blame.
	l.letGo()
	if media {
		if err := p.prepare(ctx, rules, all); err != nil {
			return nil, nil, nil, err
		}
	}
	clock.lap(stagePrepare)

	index := make(map[string]int, len(batch))
	for i := range all {
		if it := all[i].Item; it != nil {
			if _, known := index[it.Message.ConversationID]; !known {
				index[it.Message.ConversationID] = len(keys)
				keys = append(keys, ConversationKey{ID: it.Message.ConversationID, Partition: it.Position.Partition, Epoch: all[i].Delivery.Epoch})
			}
		}
	}
	if len(keys) > 0 {
		err := p.retry(ctx, "loading conversation state", func() (err error) {
			states, err = p.cfg.Memory.Load(ctx, keys)
			return err
		})
		if err != nil {
			return nil, nil, nil, err
		}
	}
	clock.lap(stageLoad)

	now := time.Now().UTC().Truncate(time.Millisecond)
	moved := make([]bool, len(keys))
	outcomes = make([]*Outcome, 0, len(batch))
	for i := range all {
		o := &all[i]
		if o.Item == nil {
			o.Verdict = deadLetterVerdict(rules, o, now)
			outcomes = append(outcomes, o)
			continue
		}
		k := index[o.Item.Message.ConversationID]
		if states[k].Includes(o.Item.Position) {
			continue // judged and written before a crash or a rebalance
		}
		l.touch(o.Delivery)
		states[k].begin(o.Item)
		verdict, remembered := p.detect(ctx, rules, o.Item)
		if ctx.Err() != nil {
			// Detectors fail when we stop. That says nothing about the message,
			// so it gets no verdict now and comes again.
			return nil, nil, nil, context.Cause(ctx)
		}
		verdict.DecidedAt = now
		o.Verdict = verdict
		states[k] = states[k].advance(o.Item, remembered)
		moved[k] = true
		outcomes = append(outcomes, o)
	}
	keys, states = kept(keys, moved), kept(states, moved)
	clock.lap(stageDetect)
	return outcomes, keys, states, nil
}

// Rebuild folds records into the state of their conversations and does nothing
// else with them: they were judged before, and the memory has lost what they
// left there. The records are of one partition, in order. Run must not be
// judging the same partition meanwhile.
func (p *Pipeline) Rebuild(ctx context.Context, records []Record, epoch int32) error {
	rules := *p.ruleset.Load()
	rules.Prepare = nil // attachments leave nothing in a conversation's state
	batch := make([]*Delivery, len(records))
	for i := range records {
		batch[i] = &Delivery{Record: records[i], Epoch: epoch, Done: func() {}}
	}
	clock := NewMetrics(nil).stages(time.Now())
	_, keys, states, err := p.judge(ctx, &lane{p: p}, &rules, batch, 0, &clock)
	if err != nil || len(keys) == 0 {
		return err
	}
	return p.retry(ctx, "saving conversation state", func() error { return p.cfg.Memory.Save(ctx, keys, states) })
}

// kept returns what of s is marked in keep, in place.
func kept[T any](s []T, keep []bool) []T {
	n := 0
	for i, k := range keep {
		if k {
			s[n] = s[i]
			n++
		}
	}
	return s[:n]
}

// open reads one delivery; a panic on it is its own fault and permanent.
func (p *Pipeline) open(d *Delivery) (m *Message, err error) {
	if d.Err != nil {
		return nil, Permanent(d.Err)
	}
	defer func() {
		if r := recover(); r != nil {
			err = Permanent(fmt.Errorf("opening: %w", p.panicked("opening", d.Position, r)))
		}
	}()
	return p.cfg.Open(&d.Record)
}

// prepare makes the attachments of a batch ready, side by side within the
// number of processors.
func (p *Pipeline) prepare(ctx context.Context, rules *Ruleset, all []Outcome) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range all {
		it := all[i].Item
		if it == nil || len(it.Message.Attachments) == 0 || rules.Policy.skips(it.Message) {
			continue
		}
		g.Go(func() error {
			slot := p.cfg.Journal.slot()
			defer slot.free()
			return p.retry(ctx, "preparing attachments", func() (err error) {
				slot.set(it.Position)
				defer slot.clear()
				attempt, cancel := context.WithTimeout(ctx, p.cfg.PrepareTimeout)
				defer cancel()
				defer func() {
					if r := recover(); r != nil {
						it.Media = unprepared(it.Message, p.panicked("preparing", it.Position, r).Error())
						err = nil
					}
				}()
				if rules.Prepare == nil {
					it.Media = unprepared(it.Message, "attachments are not looked at in this configuration")
					return nil
				}
				return rules.Prepare(attempt, it)
			})
		})
	}
	return g.Wait()
}

func unprepared(m *Message, reason string) []Media {
	media := make([]Media, len(m.Attachments))
	for i := range media {
		media[i] = Media{AttachmentID: m.Attachments[i].ID, Err: reason}
	}
	return media
}

// detect asks every detector. One that fails, panics or runs late costs its own
// answer and nobody else's.
//
// They run one after another: they only compute, and what runs side by side are
// the lanes. Starting goroutines for a text would cost more than judging it.
func (p *Pipeline) detect(ctx context.Context, rules *Ruleset, it *Item) (v *Verdict, remembered map[string][]byte) {
	v = &Verdict{
		MessageID:      it.Message.ID,
		ConversationID: it.Message.ConversationID,
		Findings:       []Finding{},
		Versions:       rules.Versions,
	}
	if rules.Policy.skips(it.Message) {
		v.Status, v.SkipReason = Skipped, "scanning is off in region "+it.Message.Region
		return v, nil
	}
	var failures []string
	for _, d := range rules.Detectors {
		answer, err := p.ask(ctx, d, it)
		if err == nil && len(answer.State) > maxState {
			// It could not be saved, and would stop the partition.
			answer.State, err = nil, fmt.Errorf("its state of %d bytes is larger than %d", len(answer.State), maxState)
		}
		if err != nil {
			v.FailedDetectors = append(v.FailedDetectors, d.Name())
			failures = append(failures, d.Name()+": "+err.Error())
		}
		for i := range answer.Findings {
			f := &answer.Findings[i]
			f.Detector = d.Name()
			f.bound(it.Message)
		}
		v.Findings = append(v.Findings, answer.Findings...)
		v.Risk = max(v.Risk, unit(answer.Risk))
		if answer.State != nil {
			if remembered == nil {
				remembered = make(map[string][]byte, 1)
			}
			remembered[d.Name()] = answer.State
		}
	}
	if len(failures) > 0 {
		v.Status, v.Error = Partial, truncate(strings.Join(failures, "; "), 2048)
		slices.Sort(v.FailedDetectors)
	}
	v.Action, v.Severity = rules.Policy.Decide(v.Findings, v.Status == Partial)
	return v, remembered
}

// ask turns a panic in d into an error: detectors read hostile input, and one
// bad message must not stop the messages behind it.
func (p *Pipeline) ask(ctx context.Context, d Detector, it *Item) (answer Answer, err error) {
	limit := deadline{Context: ctx, at: time.Now().Add(p.cfg.DetectorTimeout)}
	defer limit.release()
	defer func() {
		if r := recover(); r != nil {
			answer, err = Answer{}, p.panicked(d.Name(), it.Position, r)
		} else if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("gave no answer within %v", p.cfg.DetectorTimeout)
		}
	}()
	return d.Detect(&limit, it) //nolint:contextcheck // limit is made of ctx
}

// panicked logs a panic and returns it as an error. The value of a panic may
// quote a message, so only that of a run-time error, which cannot, is shown.
func (p *Pipeline) panicked(where string, at Position, r any) error {
	err, ok := r.(runtime.Error)
	if !ok {
		err = nil
	}
	p.cfg.Log.Error("panic", zap.String("in", where), zap.String("topic", at.Topic), zap.Int32("partition", at.Partition),
		zap.Int64("offset", at.Offset), zap.String("type", fmt.Sprintf("%T", r)), zap.NamedError("cause", err), zap.ByteString("stack", debug.Stack()))
	return errors.New("panicked")
}

// bound keeps a finding within what its schema allows.
func (f *Finding) bound(m *Message) {
	f.Score = unit(f.Score)
	if f.MessageID == m.ID {
		f.MessageID = ""
	}
	if f.MessageID == "" {
		f.Spans = slices.DeleteFunc(f.Spans, func(s Span) bool {
			return s.Start < 0 || s.End < s.Start || s.End > m.Text.Len()
		})
	}
}

// unit returns x within 0 to 1; what is no number is the greatest risk.
func unit(x float64) float64 {
	if x != x {
		return 1
	}
	return min(max(x, 0), 1)
}

func truncate(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

func deadLetterVerdict(rules *Ruleset, o *Outcome, now time.Time) *Verdict {
	id, conversation := PeekIDs(o.Delivery.Value)
	return &Verdict{
		MessageID:      id,
		ConversationID: conversation,
		Status:         Failed,
		Action:         rules.Policy.OnFailed,
		Findings:       []Finding{},
		Error:          truncate(o.DeadLetter, 2048),
		Versions:       rules.Versions,
		DecidedAt:      now,
	}
}

// retry calls f until it succeeds, fails for good, or ctx ends, ever more
// slowly. Nothing is committed meanwhile, so an outage stops progress and loses
// nothing.
func (p *Pipeline) retry(ctx context.Context, what string, f func() error) error {
	const longest = 10 * time.Second
	wait := 50 * time.Millisecond
	for {
		err := f()
		if err == nil || IsPermanent(err) {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		p.cfg.Metrics.retries.Inc()
		p.cfg.Log.Warn("retrying; nothing is committed meanwhile", zap.String("what", what), zap.Duration("in", wait), zap.Error(err))
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
		wait = min(2*wait, longest)
	}
}

// report logs and counts: one line a batch, one line a message at debug.
func (p *Pipeline) report(outcomes []*Outcome, delivered int, took time.Duration) {
	var hits, failed, partial int
	debugging := p.cfg.Log.Core().Enabled(zap.DebugLevel)
	for _, o := range outcomes {
		v := o.Verdict
		p.cfg.Metrics.count(v)
		switch v.Status {
		case Failed:
			failed++
		case Partial:
			partial++
		case Scanned, Skipped:
		}
		if v.Action > Allow {
			hits++
		}
		if debugging {
			p.cfg.Log.Debug("message", zap.String("message_id", v.MessageID), zap.String("conversation_id", v.ConversationID),
				zap.Int32("partition", o.Delivery.Partition), zap.Int64("offset", o.Delivery.Offset),
				zap.Stringer("status", v.Status), zap.Stringer("action", v.Action), zap.Stringer("severity", v.Severity),
				zap.Float64("risk", v.Risk), zap.Int("findings", len(v.Findings)), zap.Strings("failed_detectors", v.FailedDetectors),
				zap.String("error", v.Error))
		}
	}
	p.cfg.Metrics.repeats.Add(float64(delivered - len(outcomes)))
	p.cfg.Log.Info("batch", zap.Int("messages", delivered), zap.Int("judged", len(outcomes)), zap.Int("hits", hits),
		zap.Int("partial", partial), zap.Int("dead_letters", failed), zap.Duration("took", took))
}

// OpenPlain reads a record that is not sealed.
func OpenPlain(r *Record) (*Message, error) { return ParseMessage(r.Value) }
