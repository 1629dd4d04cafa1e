package reviewqueue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/dmguard/dmguard/pipeline"
)

func TestACaseGoesFromHitToDecision(t *testing.T) {
	onEvery(t, func(t *testing.T, e *env) {
		ctx := t.Context()
		if _, err := e.Claim(ctx, alice, "", ""); !errors.Is(err, ErrEmpty) {
			t.Fatalf("claim of nothing: %v", err)
		}
		e.add(e.hit("c-1", "m-1", pipeline.High, nil))
		e.add(e.hit("c-1", "m-2", pipeline.Medium, nil))
		l := e.claim(alice)
		if l.Case.ID != convCase("c-1") || l.Case.State != Leased || l.Case.Severity != pipeline.High || len(l.Case.Timeline) != 2 {
			t.Fatalf("claimed %+v", l.Case)
		}
		if _, err := e.Claim(ctx, bob, "", ""); !errors.Is(err, ErrEmpty) {
			t.Fatalf("the same case twice: %v", err)
		}
		until, err := e.Heartbeat(ctx, alice, l.Case.ID, l.Token)
		if err != nil || until.Before(l.ExpiresAt) {
			t.Fatalf("heartbeat: %v, %v", until, err)
		}
		if _, err := e.Heartbeat(ctx, bob, l.Case.ID, l.Token); !errors.Is(err, ErrLeaseLost) {
			t.Fatalf("bob keeps alice's lease: %v", err)
		}
		d := Decision{Choice: Confirm, Label: "grooming", Note: pipeline.NewText("looks like it")}
		if err := e.Decide(ctx, alice, l.Case.ID, l.Token, d); err != nil {
			t.Fatal(err)
		}
		c := e.wantState(l.Case.ID, Decided, 1)
		if len(c.Decisions) != 1 || c.Decisions[0].Choice != Confirm || c.Decisions[0].Reviewer != "alice" {
			t.Fatalf("decisions %+v", c.Decisions)
		}
		if err := e.Decide(ctx, alice, l.Case.ID, l.Token, d); !errors.Is(err, ErrLeaseLost) {
			t.Fatalf("a replayed decision: %v", err)
		}
		s, err := e.Stats(ctx, alice)
		if err != nil {
			t.Fatal(err)
		}
		want := Stats{Decided: 1, BySeverity: map[string]int64{"none": 0, "low": 0, "medium": 0, "high": 0, "critical": 0}}
		if diff := cmp.Diff(want, s); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestCriticalFirstThenByDeadline(t *testing.T) {
	onEvery(t, func(t *testing.T, e *env) {
		at := func(d time.Duration, rec pipeline.Record) { rec.Time = begin.Add(d); e.add(rec) }
		at(-71*time.Hour, e.hit("old and low", "m", pipeline.Low, nil))           // due in 1 h
		at(0, e.hit("new and high", "m", pipeline.High, nil))                     // in 4 h
		at(0, e.hit("new and medium", "m", pipeline.Medium, nil))                 // in 24 h
		at(5*time.Hour, e.hit("later and critical", "m", pipeline.Critical, nil)) // in 6 h
		for _, want := range []string{"later and critical", "old and low", "new and high", "new and medium"} {
			if got := e.claim(alice).Case.ID; got != convCase(want) {
				t.Errorf("wanted the %s case next", want)
			}
		}
	})
}

func TestAQueueIsClaimedByName(t *testing.T) {
	onEvery(t, func(t *testing.T, e *env) {
		e.add(e.hit("c-1", "m-1", pipeline.High, nil))
		media := e.hit("x", "m-1", pipeline.Low, func(h *pipeline.Hit, _ *pipeline.Evidence) {
			h.Kind, h.CaseKey, h.CaseID = pipeline.MediaCase, "list/1", pipeline.CaseID(pipeline.MediaCase, "list/1")
		})
		e.add(media)
		l, err := e.Claim(t.Context(), alice, MediaQueue, "")
		if err != nil || l.Case.Kind != pipeline.MediaCase {
			t.Fatalf("%+v, %v", l, err)
		}
		if _, err := e.Claim(t.Context(), alice, MediaQueue, ""); !errors.Is(err, ErrEmpty) {
			t.Error(err)
		}
		if _, err := e.Claim(t.Context(), alice, "nonsense", ""); !errors.Is(err, ErrInvalid) {
			t.Error(err)
		}
		if l, err = e.Claim(t.Context(), alice, ConversationQueue, ""); err != nil || l.Case.ID != convCase("c-1") {
			t.Error(err)
		}
	})
}

func TestTheSameRequestGetsTheSameLease(t *testing.T) {
	onEvery(t, func(t *testing.T, e *env) {
		ctx := t.Context()
		for i := range 5 {
			e.add(e.hit(fmt.Sprint("c-", i), "m", pipeline.High, nil))
		}
		first, err := e.Claim(ctx, alice, "", "key-1")
		if err != nil {
			t.Fatal(err)
		}
		again, err := e.Claim(ctx, alice, "", "key-1")
		if err != nil || again.Token != first.Token || again.Case.ID != first.Case.ID || !again.ExpiresAt.Equal(first.ExpiresAt) {
			t.Fatalf("another lease: %v", err)
		}
		other, err := e.Claim(ctx, bob, "", "key-1")
		if err != nil || other.Case.ID == first.Case.ID {
			t.Fatalf("bob got alice's case with her key: %v", err)
		}
		if err := e.Release(ctx, alice, first.Case.ID, first.Token); err != nil {
			t.Fatal(err)
		}
		after, err := e.Claim(ctx, alice, "", "key-1")
		if err != nil || after.Token == first.Token {
			t.Fatalf("a released lease came back: %v", err)
		}
	})
}

func TestAnExpiredLeaseIsFoundAtTheNextClaimAndItsTokenIsDead(t *testing.T) {
	onEvery(t, func(t *testing.T, e *env) {
		ctx := t.Context()
		e.add(e.hit("c-1", "m-1", pipeline.High, nil))
		first := e.claim(alice)
		e.advance(e.config.Lease + time.Second)
		if err := e.Decide(ctx, alice, first.Case.ID, first.Token, Decision{Choice: Dismiss}); !errors.Is(err, ErrLeaseLost) {
			t.Fatalf("decided with an expired lease: %v", err)
		}
		second := e.claim(bob)
		if second.Case.ID != first.Case.ID || second.Case.Attempts != 1 || !second.Case.Deadline.Equal(first.Case.Deadline) {
			t.Fatalf("%+v", second.Case)
		}
		for _, err := range []error{
			e.Release(ctx, alice, first.Case.ID, first.Token),
			e.Decide(ctx, alice, first.Case.ID, first.Token, Decision{Choice: Dismiss}),
		} {
			if !errors.Is(err, ErrLeaseLost) {
				t.Errorf("the old token works: %v", err)
			}
		}
		if err := e.Decide(ctx, bob, second.Case.ID, second.Token, Decision{Choice: Dismiss}); err != nil {
			t.Fatal(err)
		}
	})
}

func TestACaseThatNobodyFinishesBecomesDeadAndStaysVisible(t *testing.T) {
	onEvery(t, func(t *testing.T, e *env) {
		ctx := t.Context()
		e.add(e.hit("c-1", "m-1", pipeline.High, nil))
		for range e.config.MaxAttempts {
			e.claim(alice)
			e.advance(e.config.Lease + time.Second)
		}
		if _, err := e.Claim(ctx, alice, "", ""); !errors.Is(err, ErrEmpty) {
			t.Fatalf("a dead case was handed out: %v", err)
		}
		e.wantState(convCase("c-1"), Dead, 1)
		if s, err := e.Stats(ctx, alice); err != nil || s.Dead != 1 || s.BySeverity["high"] != 1 {
			t.Fatalf("%+v, %v", s, err)
		}
		if list, err := e.List(ctx, alice, Filter{Queue: DeadQueue}, 10); err != nil || len(list) != 1 {
			t.Fatalf("%v, %v", list, err)
		}
		l, err := e.Claim(ctx, alice, DeadQueue, "")
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Decide(ctx, alice, l.Case.ID, l.Token, Decision{Choice: Escalate}); err != nil {
			t.Fatal(err)
		}
		e.add(e.hit("c-1", "m-2", pipeline.High, nil))
		if c := e.wantState(convCase("c-1"), Pending, 2); c.Attempts != 0 {
			t.Errorf("the new revision starts with %d attempts", c.Attempts)
		}
	})
}

func TestReleasingIsNoAttemptAndCanBeRepeated(t *testing.T) {
	onEvery(t, func(t *testing.T, e *env) {
		e.add(e.hit("c-1", "m-1", pipeline.High, nil))
		for range e.config.MaxAttempts + 1 {
			l := e.claim(alice)
			for range 2 { // the answer to the first was lost
				if err := e.Release(t.Context(), alice, l.Case.ID, l.Token); err != nil {
					t.Fatal(err)
				}
			}
		}
		if c := e.wantState(convCase("c-1"), Pending, 1); c.Attempts != 0 {
			t.Errorf("%d attempts", c.Attempts)
		}
	})
}

func TestOnlyANewMessageReopensADecidedCase(t *testing.T) {
	onEvery(t, func(t *testing.T, e *env) {
		ctx, id := t.Context(), convCase("c-1")
		decide := func() {
			l, err := e.Claim(ctx, alice, "", "")
			if err != nil {
				t.Fatal(err)
			}
			if err := e.Decide(ctx, alice, id, l.Token, Decision{Choice: Dismiss}); err != nil {
				t.Fatal(err)
			}
		}
		e.add(e.hit("c-1", "m-1", pipeline.Medium, nil))
		decide()
		e.add(e.hit("c-1", "m-1", pipeline.High, func(h *pipeline.Hit, _ *pipeline.Evidence) {
			h.Verdict.Versions["ruleset"] = "2"
			h.Verdict.Findings[0].Label = "isolation"
		}))
		c := e.wantState(id, Decided, 1)
		if c.Severity != pipeline.High || c.Timeline[0].Versions["ruleset"] != "2" || !slices.Equal(c.Labels, []string{"grooming", "isolation"}) {
			t.Errorf("the evidence was not updated: %+v", c)
		}
		e.add(e.hit("c-1", "m-2", pipeline.Low, nil))
		c = e.wantState(id, Pending, 2)
		if c.Severity != pipeline.Low {
			t.Errorf("severity %s: what is decided counts for what is open", c.Severity)
		}
		if open := []bool{c.Timeline[0].Open, c.Timeline[1].Open}; !slices.Equal(open, []bool{false, true}) {
			t.Errorf("open: %v", open)
		}
		decide()
		e.wantState(id, Decided, 2)
		e.rebuild()
		e.wantState(id, Decided, 2)
	})
}

// TestAnOpinionAddedLaterIsShownAndTakesNothingFromAnybody adds what a second
// look says: a further hit on a message that the case has.
func TestAnOpinionAddedLaterIsShownAndTakesNothingFromAnybody(t *testing.T) {
	onEvery(t, func(t *testing.T, e *env) {
		id := convCase("c-1")
		e.add(e.hit("c-1", "m-1", pipeline.High, nil))
		l := e.claim(alice)
		e.add(e.hit("c-1", "m-1", pipeline.Critical, func(h *pipeline.Hit, _ *pipeline.Evidence) {
			h.Verdict.Findings = append(h.Verdict.Findings, pipeline.Finding{Detector: "second_look", Category: "second_look", Label: "raise", Score: 0.9, Reason: "so it is"})
		}))
		c := e.wantState(id, Leased, 1)
		if c.Severity != pipeline.Critical || len(c.Timeline) != 1 || len(c.Timeline[0].Findings) != 2 || !slices.Contains(c.Labels, "second_look") {
			t.Errorf("the opinion is not shown: %+v", c)
		}
		if err := e.Decide(t.Context(), alice, id, l.Token, Decision{Choice: Dismiss}); err != nil {
			t.Errorf("the lease was lost: %v", err)
		}
		e.wantState(id, Decided, 1)
	})
}

func TestAHitDuringALeaseOpensTheNextRevision(t *testing.T) {
	onEvery(t, func(t *testing.T, e *env) {
		e.add(e.hit("c-1", "m-1", pipeline.Medium, nil))
		l := e.claim(alice)
		e.add(e.hit("c-1", "m-2", pipeline.Critical, nil))
		e.wantState(l.Case.ID, Leased, 1)
		if err := e.Decide(t.Context(), alice, l.Case.ID, l.Token, Decision{Choice: Dismiss}); err != nil {
			t.Fatal(err)
		}
		c := e.wantState(l.Case.ID, Pending, 2)
		if c.Severity != pipeline.Critical {
			t.Errorf("severity %s", c.Severity)
		}
	})
}

func TestADecisionSurvivesTheRetentionOfItsHits(t *testing.T) {
	onEvery(t, func(t *testing.T, e *env) {
		e.add(e.hit("c-1", "m-1", pipeline.Medium, nil))
		l := e.claim(alice)
		if err := e.Decide(t.Context(), alice, l.Case.ID, l.Token, Decision{Choice: Confirm}); err != nil {
			t.Fatal(err)
		}
		for _, p := range e.log.topics["dm.hits"] {
			for i := range p {
				p[i].Value = []byte("gone") // cannot be folded any more
			}
		}
		e.rebuild()
		e.wantState(l.Case.ID, Decided, 1)
		e.add(e.hit("c-1", "m-1", pipeline.Medium, nil)) // a re-scan finds it again
		e.wantState(l.Case.ID, Decided, 1)
		e.add(e.hit("c-1", "m-2", pipeline.Medium, nil))
		e.wantState(l.Case.ID, Pending, 2)
	})
}

func TestOfTwoDecidersOneWins(t *testing.T) {
	onEvery(t, func(t *testing.T, e *env) {
		for i := range 5 {
			conv := fmt.Sprint("c-", i)
			e.add(e.hit(conv, "m-1", pipeline.High, nil))
			l := e.claim(alice)
			errs := make([]error, 4)
			var wg sync.WaitGroup
			for j := range errs {
				wg.Go(func() { errs[j] = e.Decide(context.Background(), alice, l.Case.ID, l.Token, Decision{Choice: Confirm}) })
			}
			wg.Wait()
			won := 0
			for _, err := range errs {
				switch {
				case err == nil:
					won++
				case !errors.Is(err, ErrLeaseLost):
					t.Fatal(err)
				}
			}
			logged := 0
			for _, p := range e.log.topics["dm.decisions"] {
				logged += len(p)
			}
			if won != 1 || logged != i+1 {
				t.Fatalf("%d decisions won, %d are logged", won, logged-i)
			}
		}
	})
}

func TestTheLowestOffsetIsInForceWhateverRedisWasTold(t *testing.T) {
	onEvery(t, func(t *testing.T, e *env) {
		ctx := t.Context()
		e.add(e.hit("c-1", "m-1", pipeline.High, nil))
		l := e.claim(alice)
		// Another process, whose Redis was lost, logs first.
		first := DecisionRecord{
			CaseID: l.Case.ID, CaseKey: "c-1", Kind: pipeline.ConversationCase, Queue: ConversationQueue, Revision: 1,
			Choice: Dismiss, Reviewer: "bob", DecidedAt: begin, Through: map[int32]int64{},
		}
		for p, records := range e.log.topics["dm.hits"] {
			if len(records) > 0 {
				first.Through[int32(p)] = int64(len(records) - 1)
			}
		}
		value, err := json.Marshal(first)
		if err != nil {
			t.Fatal(err)
		}
		rec := pipeline.Record{Position: pipeline.Position{Topic: "dm.decisions"}, Key: []byte("c-1"), Value: value}
		if rec.Position, err = e.log.Append(ctx, rec); err != nil {
			t.Fatal(err)
		}
		if err := e.Decide(ctx, alice, l.Case.ID, l.Token, Decision{Choice: Confirm}); err != nil {
			t.Fatal(err)
		}
		if c := e.wantState(l.Case.ID, Decided, 1); c.Decisions[0].Reviewer != "alice" {
			t.Fatal("the queue knows of bob already")
		}
		if err := e.Ingest(ctx, rec); err != nil {
			t.Fatal(err)
		}
		if c := e.wantState(l.Case.ID, Decided, 1); len(c.Decisions) != 1 || c.Decisions[0].Reviewer != "bob" || c.Decisions[0].Choice != Dismiss {
			t.Errorf("in force: %+v", c.Decisions)
		}
	})
}

func TestADecisionThatCannotBeLoggedChangesNothing(t *testing.T) {
	onEvery(t, func(t *testing.T, e *env) {
		ctx := t.Context()
		e.add(e.hit("c-1", "m-1", pipeline.High, nil))
		l := e.claim(alice)
		e.log.fail = errors.New("broker away")
		err := e.Decide(ctx, alice, l.Case.ID, l.Token, Decision{Choice: Confirm})
		if !errors.Is(err, e.log.fail) {
			t.Fatal(err)
		}
		e.wantState(l.Case.ID, Leased, 1)
		e.log.fail = nil
		if err := e.Decide(ctx, alice, l.Case.ID, l.Token, Decision{Choice: Confirm}); err != nil {
			t.Errorf("the reviewer cannot try again: %v", err)
		}
	})
}

func TestACrashBetweenLogAndQueueIsHealedByTheProjector(t *testing.T) {
	onEvery(t, func(t *testing.T, e *env) {
		ctx := t.Context()
		e.add(e.hit("c-1", "m-1", pipeline.High, nil))
		l := e.claim(alice)
		crash := errors.New("crash")
		write := e.deps.Append
		e.deps.Append = func(ctx context.Context, rec pipeline.Record) (pipeline.Position, error) {
			if _, err := write(ctx, rec); err != nil {
				t.Fatal(err)
			}
			return pipeline.Position{}, crash
		}
		if err := e.Decide(ctx, alice, l.Case.ID, l.Token, Decision{Choice: Confirm}); !errors.Is(err, crash) {
			t.Fatal(err)
		}
		e.wantState(l.Case.ID, Leased, 1)
		if err := (&run{Projector: NewProjector(e.Queue, e.log)}).toEnds(ctx); err != nil {
			t.Fatal(err)
		}
		e.wantState(l.Case.ID, Decided, 1)
		if _, err := e.Heartbeat(ctx, alice, l.Case.ID, l.Token); !errors.Is(err, ErrLeaseLost) {
			t.Errorf("the lease outlives the decision: %v", err)
		}
	})
}

func TestALeaseDoesNotExpireWhileItsDecisionIsLogged(t *testing.T) {
	onEvery(t, func(t *testing.T, e *env) {
		e.add(e.hit("c-1", "m-1", pipeline.High, nil))
		l := e.claim(alice)
		e.advance(e.config.Lease - time.Second)
		e.log.onWrite = func() {
			e.log.onWrite = nil
			e.advance(appendTimeout)
			if _, err := e.Claim(t.Context(), bob, "", ""); !errors.Is(err, ErrEmpty) {
				t.Errorf("claimed while being decided: %v", err)
			}
			if err := e.Release(t.Context(), alice, l.Case.ID, l.Token); !errors.Is(err, ErrLeaseLost) {
				t.Errorf("released while being decided: %v", err)
			}
		}
		if err := e.Decide(t.Context(), alice, l.Case.ID, l.Token, Decision{Choice: Confirm}); err != nil {
			t.Fatal(err)
		}
		e.wantState(l.Case.ID, Decided, 1)
	})
}

func TestDecisionsAreHeldToConfigurationAndSchema(t *testing.T) {
	onEvery(t, func(t *testing.T, e *env) {
		ctx := t.Context()
		e.add(e.hit("c-1", "m-1", pipeline.High, nil))
		l := e.claim(alice)
		for name, d := range map[string]Decision{
			"no choice":      {},
			"unknown choice": {Choice: "delete"},
			"unknown label":  {Choice: Confirm, Label: "whatever"},
			"long note":      {Choice: Confirm, Note: pipeline.NewText(string(make([]byte, MaxNoteBytes+1)))},
		} {
			if err := e.Decide(ctx, alice, l.Case.ID, l.Token, d); !errors.Is(err, ErrInvalid) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := e.Decide(ctx, lea, l.Case.ID, l.Token, Decision{Choice: Confirm}); err == nil || errors.Is(err, ErrLeaseLost) {
			t.Errorf("a liaison decides: %v", err)
		}
		const note = "a note that may quote"
		if err := e.Decide(ctx, alice, l.Case.ID, l.Token, Decision{Choice: Confirm, Label: "grooming", Note: pipeline.NewText(note)}); err != nil {
			t.Fatal(err)
		}
		for _, p := range e.log.topics["dm.decisions"] {
			for _, rec := range p {
				checkSchema(t, rec.Value)
				var d DecisionRecord
				if err := json.Unmarshal(rec.Value, &d); err != nil {
					t.Fatal(err)
				}
				if rec.Header("schema") != pipeline.SchemaDecision || string(rec.Key) != "c-1" || !slices.Equal(d.MessageIDs, []string{"m-1"}) {
					t.Errorf("%+v", d)
				}
				plain, err := e.opens.OpenBytes(*d.Note, NoteContext(d.CaseID, 1))
				if err != nil || string(plain) != note {
					t.Errorf("note: %v", err)
				}
				if _, err := e.opens.OpenBytes(*d.Note, NoteContext(d.CaseID, 2)); err == nil {
					t.Error("the note opens under another revision")
				}
			}
		}
	})
}

func checkSchema(t *testing.T, value []byte) {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	doc, err := jsonschema.UnmarshalJSON(bytesReader(DecisionSchema))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.AddResource("decision.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("decision.json")
	if err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(bytesReader(value))
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(v); err != nil {
		t.Errorf("%s: %v", value, err)
	}
}

func TestACaseOverItsLimitsCountsTheRest(t *testing.T) {
	onEvery(t, func(t *testing.T, e *env) {
		var batch []pipeline.Record
		sealed := e.hit("c-1", "m", pipeline.Low, nil)
		var h pipeline.Hit
		if err := json.Unmarshal(sealed.Value, &h); err != nil {
			t.Fatal(err)
		}
		const extra = 3
		for i := range maxIndexed + extra {
			h.Verdict.MessageID = fmt.Sprint("m-", i)
			if i == maxIndexed {
				h.Verdict.Severity = pipeline.Critical
			}
			rec := sealed
			rec.Value, _ = json.Marshal(h)
			rec.Position, _ = e.log.Append(t.Context(), rec)
			batch = append(batch, rec)
		}
		for range 2 {
			if err := (&run{Projector: NewProjector(e.Queue, e.log)}).toEnds(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if err := e.Ingest(t.Context(), batch[maxIndexed:]...); err != nil { // again
			t.Fatal(err)
		}
		c := e.wantState(h.CaseID, Pending, 1)
		if c.Messages != maxIndexed+extra || len(c.Timeline) != maxFull || c.Omitted != c.Messages-maxFull || c.Severity != pipeline.Critical {
			t.Errorf("%d messages, %d shown, %d omitted, %s", c.Messages, len(c.Timeline), c.Omitted, c.Severity)
		}
		l := e.claim(alice)
		if err := e.Decide(t.Context(), alice, l.Case.ID, l.Token, Decision{Choice: Dismiss}); err != nil {
			t.Fatal(err)
		}
		e.wantState(h.CaseID, Decided, 1)
		h.Verdict.MessageID = "m-new"
		rec := sealed
		rec.Value, _ = json.Marshal(h)
		e.add(rec)
		e.wantState(h.CaseID, Pending, 2)
	})
}
