package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dmguard/dmguard/pipeline"
)

func TestOneBadDetectorCostsOnlyItsOwnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, out := &source{records: records(message("m-1", "c-1"), message("m-2", "c-1"))}, &sink{}
		err := run(t, config(src, out,
			finds("finds", 0.9),
			detector{"panics", func(context.Context, *pipeline.Item) (pipeline.Answer, error) { panic(secret) }},
			detector{"fails", func(context.Context, *pipeline.Item) (pipeline.Answer, error) {
				return pipeline.Answer{}, errors.New("no model")
			}},
			detector{"late", func(ctx context.Context, _ *pipeline.Item) (pipeline.Answer, error) {
				<-ctx.Done()
				return pipeline.Answer{}, ctx.Err()
			}},
		))
		if err != nil {
			t.Fatal(err)
		}
		got := out.verdict(t, "m-2")
		want := &pipeline.Verdict{
			MessageID: "m-2", ConversationID: "c-1", Status: pipeline.Partial, Action: pipeline.Block, Severity: pipeline.High,
			Findings:        []pipeline.Finding{{Detector: "finds", Category: "spam", Score: 0.9, Reason: "found"}},
			FailedDetectors: []string{"fails", "late", "panics"},
			Error:           "panics: panicked; fails: no model; late: gave no answer within 2s",
			Versions:        map[string]string{"policy": "test"}, DecidedAt: got.DecidedAt,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("verdict (-want +got):\n%s", diff)
		}
		if len(src.done) != 2 {
			t.Errorf("done = %v, want both", src.done)
		}
	})
}

func TestNothingIsDoneBeforeEverySinkAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &source{records: records(message("m-1", "c-1"))}
		mem := &memory{}
		first := &sink{}
		second := &sink{fail: func(attempt int) error {
			if len(src.done) != 0 || len(mem.states) != 0 {
				t.Errorf("done %v, states %d before the sink accepted", src.done, len(mem.states))
			}
			if attempt < 5 {
				return errors.New("the broker is down")
			}
			return nil
		}}
		cfg := config(src, first, counts)
		cfg.Sinks, cfg.Memory = append(cfg.Sinks, second), mem
		if err := run(t, cfg); err != nil {
			t.Fatal(err)
		}
		if second.attempts != 5 || len(src.done) != 1 || len(mem.states) != 1 {
			t.Errorf("%d attempts, done %v, %d states; want 5, one, one", second.attempts, src.done, len(mem.states))
		}
	})
}

func TestASinkThatNeverAcceptsLeavesEverythingUncommitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &source{records: records(message("m-1", "c-1"))}
		mem := &memory{}
		cfg := config(src, &sink{fail: func(int) error { return errors.New("the broker is down") }}, counts)
		cfg.Memory = mem
		p, err := pipeline.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		started := time.Now()
		if err := p.Run(ctx); err == nil {
			t.Error("Run says that all was finished")
		}
		if took := time.Since(started); took != time.Minute+8*time.Second {
			t.Errorf("the drain ended after %v, want one minute and the drain timeout", took)
		}
		if len(src.done) != 0 || len(mem.states) != 0 {
			t.Errorf("done %v, %d states; want none", src.done, len(mem.states))
		}
	})
}

func TestAShutdownGivesNoVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		src, out := &source{records: records(message("m-1", "c-1"))}, &sink{}
		cfg := config(src, out, detector{"waits", func(ctx context.Context, _ *pipeline.Item) (pipeline.Answer, error) {
			cancel()
			<-ctx.Done()
			return pipeline.Answer{}, ctx.Err()
		}})
		cfg.DetectorTimeout = time.Hour
		cfg.StuckAfter = 24 * time.Hour
		p, err := pipeline.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Run(ctx); err == nil {
			t.Error("Run says that all was finished")
		}
		if len(out.outcomes) != 0 || len(src.done) != 0 {
			t.Errorf("%d verdicts, done %v; want none", len(out.outcomes), src.done)
		}
	})
}

func TestAShutdownFinishesWhatIsInHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		src, out := &source{records: records(message("m-1", "c-1"))}, &sink{}
		cfg := config(src, out, detector{"slow", func(context.Context, *pipeline.Item) (pipeline.Answer, error) {
			cancel()
			<-time.After(time.Second)
			return pipeline.Answer{}, nil
		}})
		p, err := pipeline.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Run(ctx); err != nil {
			t.Error(err)
		}
		if len(out.outcomes) != 1 || len(src.done) != 1 {
			t.Errorf("%d verdicts, done %v; want one of each", len(out.outcomes), src.done)
		}
	})
}

func TestMessagesOfOneConversationAreJudgedInOrder(t *testing.T) {
	var values []string
	for i := range 300 {
		values = append(values, message(fmt.Sprintf("m-%d", i), fmt.Sprintf("c-%d", i%7)))
	}
	src, out := &source{records: records(values...)}, &sink{}
	cfg := config(src, out, counts)
	cfg.Batch = 5
	if err := run(t, cfg); err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		want := float64(i/7+1) / 100
		if got := out.verdict(t, fmt.Sprintf("m-%d", i)).Risk; got != want {
			t.Fatalf("m-%d is message %v of its conversation, judged as %v", i, want*100, got*100)
		}
	}
}

func TestWhatWasJudgedBeforeACrashIsOnlyCommitted(t *testing.T) {
	all := records(message("m-1", "c-1"), message("m-2", "c-1"), message("m-3", "c-1"))
	mem := &memory{}
	first := config(&source{records: all[:2]}, &sink{}, counts)
	first.Memory = mem
	if err := run(t, first); err != nil {
		t.Fatal(err)
	}
	// The same partition once more from its start, as after a lost commit.
	src, out := &source{records: all, epoch: 1}, &sink{}
	second := config(src, out, counts)
	second.Memory = mem
	if err := run(t, second); err != nil {
		t.Fatal(err)
	}
	if len(out.outcomes) != 1 || out.verdict(t, "m-3").Risk != 0.03 {
		t.Errorf("%d verdicts; want only that on m-3, as the third message", len(out.outcomes))
	}
	slices.Sort(src.done)
	if !slices.Equal(src.done, []int64{0, 1, 2}) {
		t.Errorf("done = %v, want all three", src.done)
	}
}

func TestARepeatedMessageCountsOnce(t *testing.T) {
	src, out := &source{records: records(message("m-1", "c-1"), message("m-1", "c-1"), message("m-2", "c-1"))}, &sink{}
	if err := run(t, config(src, out, counts)); err != nil {
		t.Fatal(err)
	}
	if got := out.verdict(t, "m-2").Risk; got != 0.02 {
		t.Errorf("risk = %v, want that of two messages", got)
	}
	if len(out.outcomes) != 3 {
		t.Errorf("%d verdicts, want one for each record", len(out.outcomes))
	}
}

func TestABadRecordIsDeadLetteredAndTheNextOneJudged(t *testing.T) {
	for name, value := range map[string]string{
		"no JSON": `{"id":"m-1"`, "wrong type": `{"id":"m-1","conversation_id":7}`, "empty": ``,
		"missing sender": `{"id":"m-1","conversation_id":"c-1","sent_at":"2026-03-01T16:00:00Z"}`,
	} {
		t.Run(name, func(t *testing.T) {
			src, out := &source{records: records(value, message("m-2", "c-1"))}, &sink{}
			if err := run(t, config(src, out, counts)); err != nil {
				t.Fatal(err)
			}
			if len(src.done) != 2 || out.verdict(t, "m-2").Status != pipeline.Scanned {
				t.Errorf("done %v; want both", src.done)
			}
			for _, o := range out.outcomes {
				if o.Item == nil && (o.DeadLetter == "" || o.Verdict.Status != pipeline.Failed || o.Verdict.Error == "") {
					t.Errorf("outcome %+v; want a dead letter with a reason and a failed verdict", o)
				}
			}
		})
	}
}

func TestAPanicWhileOpeningIsADeadLetter(t *testing.T) {
	src, out := &source{records: records(message("m-1", "c-1"))}, &sink{}
	cfg := config(src, out)
	cfg.Open = func(*pipeline.Record) (*pipeline.Message, error) { panic(secret) }
	if err := run(t, cfg); err != nil {
		t.Fatal(err)
	}
	if v := out.verdict(t, "m-1"); v.Status != pipeline.Failed || strings.Contains(v.Error, secret) {
		t.Errorf("verdict %+v; want failed, without what the panic said", v)
	}
}

func TestAnOutageWhileOpeningIsNoDeadLetter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, out := &source{records: records(message("m-1", "c-1"))}, &sink{}
		cfg := config(src, out)
		attempts := 0
		cfg.Open = func(r *pipeline.Record) (*pipeline.Message, error) {
			if attempts++; attempts < 4 {
				return nil, errors.New("the key server does not answer")
			}
			return pipeline.OpenPlain(r)
		}
		if err := run(t, cfg); err != nil {
			t.Fatal(err)
		}
		if v := out.verdict(t, "m-1"); v.Status != pipeline.Scanned || attempts != 4 {
			t.Errorf("status %v after %d attempts; want scanned after 4", v.Status, attempts)
		}
	})
}

func TestARegionThatIsOffIsSkippedAndSaidSo(t *testing.T) {
	src, out := &source{records: records(
		`{"id":"m-1","conversation_id":"c-1","sent_at":"2026-03-01T16:00:00Z","sender":{"id":"u-1"},"region":"ZZ"}`)}, &sink{}
	if err := run(t, config(src, out, finds("finds", 1))); err != nil {
		t.Fatal(err)
	}
	v := out.verdict(t, "m-1")
	if v.Status != pipeline.Skipped || v.SkipReason == "" || v.Action != pipeline.Allow || len(v.Findings) != 0 {
		t.Errorf("verdict %+v; want skipped with a reason and nothing found", v)
	}
}

func TestAttachmentsArePreparedAgainAfterAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, out := &source{records: records(
			`{"id":"m-1","conversation_id":"c-1","sent_at":"2026-03-01T16:00:00Z","sender":{"id":"u-1"},"attachments":[{"id":"a-1","media_type":"image/png"}]}`)}, &sink{}
		cfg := config(src, out, detector{"looks", func(_ context.Context, it *pipeline.Item) (pipeline.Answer, error) {
			if it.Media[0].Err != "" {
				return pipeline.Answer{}, errors.New(it.Media[0].Err)
			}
			return pipeline.Answer{}, nil
		}})
		attempts := 0
		cfg.Ruleset.Prepare = func(_ context.Context, it *pipeline.Item) error {
			if attempts++; attempts < 3 {
				return errors.New("the store does not answer")
			}
			it.Media = []pipeline.Media{{AttachmentID: "a-1"}}
			return nil
		}
		if err := run(t, cfg); err != nil {
			t.Fatal(err)
		}
		if v := out.verdict(t, "m-1"); v.Status != pipeline.Scanned || attempts != 3 {
			t.Errorf("status %v after %d attempts; want scanned after 3", v.Status, attempts)
		}

		cfg.Ruleset.Prepare = func(context.Context, *pipeline.Item) error { panic(secret) }
		src.sent, out.outcomes, cfg.Memory = 0, nil, &memory{}
		if err := run(t, cfg); err != nil {
			t.Fatal(err)
		}
		if v := out.verdict(t, "m-1"); v.Status != pipeline.Partial || strings.Contains(v.Error, secret) {
			t.Errorf("verdict after a panicking decoder %+v; want partial", v)
		}
	})
}

func TestAStuckMessageEndsTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		defer close(release) // the process would end; here the hanging lane must
		src := &source{records: records(message("m-1", "c-1"))}
		err := run(t, config(src, &sink{}, detector{"hangs", func(context.Context, *pipeline.Item) (pipeline.Answer, error) {
			<-release
			return pipeline.Answer{}, nil
		}}))
		if !errors.Is(err, pipeline.ErrStuck) {
			t.Errorf("Run() = %v, want ErrStuck", err)
		}
		if len(src.done) != 0 {
			t.Errorf("done = %v, want none", src.done)
		}
	})
}

// forgetful is a Memory that does not answer until a time.
type forgetful struct {
	memory
	until time.Time
}

func (f *forgetful) Load(ctx context.Context, keys []pipeline.ConversationKey) ([]pipeline.Conversation, error) {
	if time.Now().Before(f.until) {
		return nil, errors.New("redis is down")
	}
	return f.memory.Load(ctx, keys)
}

func TestAnOutageIsNoMessagesFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &source{records: records(message("m-1", "c-1"))}
		cfg := config(src, &sink{}, counts)
		cfg.Memory = &forgetful{until: time.Now().Add(5 * time.Minute)} // longer than StuckAfter
		if err := run(t, cfg); err != nil {
			t.Error(err)
		}
		if len(src.done) != 1 {
			t.Errorf("done = %v, want the message", src.done)
		}
	})
}

func TestNothingIsFetchedInARegionThatIsOff(t *testing.T) {
	src, out := &source{records: records(
		`{"id":"m-1","conversation_id":"c-1","sent_at":"2026-03-01T16:00:00Z","sender":{"id":"u-1"},"region":"ZZ","attachments":[{"id":"a-1","media_type":"image/png"}]}`)}, &sink{}
	cfg := config(src, out)
	cfg.Ruleset.Prepare = func(context.Context, *pipeline.Item) error {
		t.Error("an attachment was prepared")
		return nil
	}
	if err := run(t, cfg); err != nil {
		t.Fatal(err)
	}
	if v := out.verdict(t, "m-1"); v.Status != pipeline.Skipped {
		t.Errorf("status %v, want skipped", v.Status)
	}
}

func TestAStateThatCannotBeSavedIsItsDetectorsFailure(t *testing.T) {
	src, out, mem := &source{records: records(message("m-1", "c-1"))}, &sink{}, &memory{}
	cfg := config(src, out, detector{"hoards", func(context.Context, *pipeline.Item) (pipeline.Answer, error) {
		return pipeline.Answer{State: make([]byte, 2<<20)}, nil
	}})
	cfg.Memory = mem
	if err := run(t, cfg); err != nil {
		t.Fatal(err)
	}
	if v := out.verdict(t, "m-1"); v.Status != pipeline.Partial || !slices.Equal(v.FailedDetectors, []string{"hoards"}) {
		t.Errorf("verdict %+v, want a partial one that names the detector", v)
	}
	c := mem.states["c-1"]
	if _, err := c.AppendBinary(nil); err != nil {
		t.Errorf("what was remembered cannot be saved: %v", err)
	}
}

func TestAReloadIsTakenOverByTheNextBatch(t *testing.T) {
	src, out := &source{records: records(message("m-1", "c-1"))}, &sink{}
	cfg := config(src, out, finds("old", 1))
	p, err := pipeline.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	p.Reload(&pipeline.Ruleset{Detectors: []pipeline.Detector{finds("new", 1)}, Versions: map[string]string{"policy": "2"}})
	if err := p.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	v := out.verdict(t, "m-1")
	if v.Findings[0].Detector != "new" || v.Versions["policy"] != "2" {
		t.Errorf("verdict %+v; want that of the new ruleset", v)
	}
}

func TestNewNamesEveryMissingField(t *testing.T) {
	_, err := pipeline.New(pipeline.Config{})
	for _, f := range []string{"Source", "Open", "Ruleset", "Memory", "Sinks", "Log"} {
		if err == nil || !strings.Contains(err.Error(), f) {
			t.Errorf("New() = %v, want it to name %s", err, f)
		}
	}
}

func ExamplePolicy_Decide() {
	p := pipeline.Policy{
		OnPartial:  pipeline.Review,
		Thresholds: []pipeline.Threshold{{Category: "scam", Min: 0.8, Action: pipeline.Block, Severity: pipeline.High}},
	}
	fmt.Println(p.Decide(nil, false))
	fmt.Println(p.Decide(nil, true))
	fmt.Println(p.Decide([]pipeline.Finding{{Category: "scam", Score: 0.9}}, false))
	// Output:
	// allow none
	// review none
	// block high
}

func TestAListActsByItsOwnRuleAndNoFindingBeyondItsBound(t *testing.T) {
	policy := pipeline.Policy{
		OnUnlisted: pipeline.Review,
		Thresholds: []pipeline.Threshold{
			{Category: "csam", Min: 0, Action: pipeline.Block, Severity: pipeline.Critical},
			{Category: "csam", Min: 0.9, Action: pipeline.Review, Severity: pipeline.Low},
		},
		Lists: map[string]pipeline.ListRule{
			"strict": {Action: pipeline.Block, Severity: pipeline.High},
			"trial":  {Action: pipeline.Allow, Severity: pipeline.None},
		},
	}
	match := func(list string, category pipeline.Category, bounds ...pipeline.Action) pipeline.Finding {
		f := pipeline.Finding{Category: category, Score: 0.75, Reason: "a match", Match: &pipeline.Match{List: list}}
		for _, b := range bounds {
			f.Bound(b, "bounded")
		}
		return f
	}
	text := pipeline.Finding{Category: "csam", Score: 0.5}
	for name, test := range map[string]struct {
		findings []pipeline.Finding
		action   pipeline.Action
		severity pipeline.Severity
	}{
		"a list without a rule goes by category":        {[]pipeline.Finding{match("other", "csam")}, pipeline.Block, pipeline.Critical},
		"a rule in place of no threshold":               {[]pipeline.Finding{match("strict", "unheard")}, pipeline.Block, pipeline.High},
		"a rule in place of a graver threshold":         {[]pipeline.Finding{match("trial", "csam")}, pipeline.Allow, pipeline.None},
		"a rule speaks for its list only":               {[]pipeline.Finding{match("trial", "csam"), text}, pipeline.Block, pipeline.Critical},
		"review at most":                                {[]pipeline.Finding{match("strict", "csam", pipeline.Review)}, pipeline.Review, pipeline.High},
		"a bound does not raise":                        {[]pipeline.Finding{match("trial", "csam", pipeline.Review)}, pipeline.Allow, pipeline.None},
		"suppressed":                                    {[]pipeline.Finding{match("strict", "csam", pipeline.Allow)}, pipeline.Allow, pipeline.None},
		"the least bound holds":                         {[]pipeline.Finding{match("strict", "csam", pipeline.Allow, pipeline.Review)}, pipeline.Allow, pipeline.None},
		"the least bound holds in any order":            {[]pipeline.Finding{match("strict", "csam", pipeline.Review, pipeline.Allow)}, pipeline.Allow, pipeline.None},
		"what is not bounded acts beside what is":       {[]pipeline.Finding{match("strict", "csam", pipeline.Allow), match("other", "csam", pipeline.Review), match("strict", "csam")}, pipeline.Block, pipeline.Critical},
		"a suppressed finding of an unlisted category ": {[]pipeline.Finding{match("other", "unheard", pipeline.Allow)}, pipeline.Allow, pipeline.None},
	} {
		action, severity := policy.Decide(test.findings, false)
		if action != test.action || severity != test.severity {
			t.Errorf("%s: %v %v, want %v %v", name, action, severity, test.action, test.severity)
		}
	}
	if f := match("strict", "csam", pipeline.Review); f.Suppressed() || f.Score != 0.75 || f.Reason != "a match; bounded" {
		t.Errorf("bounded: %+v", f)
	}
	if f := match("strict", "csam", pipeline.Allow); !f.Suppressed() || f.Score != 0 {
		t.Errorf("suppressed: %+v", f)
	}
}
