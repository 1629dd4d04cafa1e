package secondlook

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"

	"github.com/dmguard/dmguard/pipeline"
)

func settings() Config {
	return Config{URL: "https://model.invalid/", MinRisk: 0.9, Share: MaxShare, Timeout: time.Second, Send: []string{SendRisk, SendLabels}}
}

// alerted is an outcome that waits for a person.
func alerted(id string) *pipeline.Outcome {
	sender, recipient := 40, 13
	return &pipeline.Outcome{
		Delivery: &pipeline.Delivery{Record: pipeline.Record{Position: pipeline.Position{Topic: "in", Partition: 1, Offset: 7}, Value: []byte("sealed")}},
		Item: &pipeline.Item{Message: &pipeline.Message{
			ID: "m-" + id, ConversationID: "c-" + id, Text: pipeline.NewText("what was said"),
			Sender: pipeline.Party{ID: "u-1", Age: &sender}, Recipients: []pipeline.Party{{ID: "u-2", Age: &recipient}, {ID: "u-3"}},
		}, Recent: []int64{1}},
		Verdict: &pipeline.Verdict{
			MessageID: "m-" + id, ConversationID: "c-" + id, Action: pipeline.Review, Severity: pipeline.High, Risk: 0.95,
			Findings: []pipeline.Finding{
				{Detector: "grooming", Category: "grooming", Label: "secrecy", Score: 0.6, Supports: true},
				{Detector: "grooming", Category: "grooming", Score: 0.95, Reason: "because"},
				{Detector: "grooming", Category: "grooming", Label: "age_probe", Score: 0.3, MessageID: "m-0", Supports: true},
			},
		},
	}
}

type lookerFunc func(context.Context, Question) (Answer, error)

func (f lookerFunc) Look(ctx context.Context, q Question) (Answer, error) { return f(ctx, q) }

// notes collects what is annotated.
type notes struct {
	mu  sync.Mutex
	all []*pipeline.Outcome
	err error
}

func (n *notes) annotate(_ context.Context, o *pipeline.Outcome) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = append(n.all, o)
	return n.err
}

func desk(t *testing.T, cfg Config, l Looker) (*Desk, *notes) {
	t.Helper()
	n := &notes{}
	d, err := NewDesk(cfg, l, n.annotate, zap.NewNop(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	return d, n
}

// begin has n conversations begin.
func begin(t *testing.T, d *Desk, n int) {
	t.Helper()
	for i := range n {
		o := alerted(fmt.Sprint(i))
		o.Item.Recent, o.Verdict = nil, &pipeline.Verdict{}
		if err := d.Accept(t.Context(), []*pipeline.Outcome{o, {Verdict: &pipeline.Verdict{}}}); err != nil {
			t.Fatal(err)
		}
	}
}

func always(o Opinion, confidence float64) lookerFunc {
	return func(context.Context, Question) (Answer, error) { return Answer{o, confidence}, nil }
}

func TestAnOpinionIsAFindingBesideAVerdictThatStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, n := desk(t, settings(), always(Raise, 0.8))
		ctx, stop := context.WithCancel(t.Context())
		go func() { _ = d.Run(ctx) }()
		begin(t, d, 200)
		o, before := alerted("x"), alerted("x")
		_ = d.Accept(ctx, []*pipeline.Outcome{o})
		synctest.Wait()
		stop()
		if diff := cmp.Diff(before.Verdict, o.Verdict); diff != "" {
			t.Errorf("the verdict was changed: %s", diff)
		}
		if len(n.all) != 1 {
			t.Fatalf("%d annotations", len(n.all))
		}
		got := n.all[0]
		want := append(before.Verdict.Findings, pipeline.Finding{
			Detector: "second_look", Category: "second_look", Label: "raise", Score: 0.8, Supports: true,
			Reason: "the operator's model would raise it, with confidence 0.80; the severity is one step higher",
		})
		if diff := cmp.Diff(want, got.Verdict.Findings); diff != "" {
			t.Error(diff)
		}
		if got.Verdict.Severity != pipeline.Critical || got.Verdict.Action != pipeline.Review || got.Verdict.Risk != 0.95 || got.Delivery.Offset != 7 {
			t.Errorf("%+v", got.Verdict)
		}
		if got.Delivery.Value != nil {
			t.Error("the record is kept while a look waits")
		}
	})
}

func TestAnOpinionMovesTheSeverityByOneStepAtMost(t *testing.T) {
	for severity := pipeline.None; severity <= pipeline.Critical; severity++ {
		for _, opinion := range []Opinion{Raise, Keep, Lower} {
			for _, confidence := range []float64{0, 0.69, 0.7, 1} {
				o := alerted("x")
				o.Verdict.Severity = severity
				v := annotated(o, Answer{opinion, confidence}).Verdict
				step := v.Severity - severity
				switch {
				case v.Action != pipeline.Review:
					t.Errorf("action %v", v.Action)
				case confidence < minConfidence || opinion == Keep:
					if step != 0 {
						t.Errorf("%v %v at %v: %v", opinion, confidence, severity, v.Severity)
					}
				case opinion == Raise && v.Severity != min(severity+1, pipeline.Critical),
					opinion == Lower && severity > pipeline.Low && step != -1, opinion == Lower && severity <= pipeline.Low && step != 0:
					t.Errorf("%v at %v: %v", opinion, severity, v.Severity)
				}
			}
		}
	}
}

// TestTheBudgetIsAShareOfConversations counts looks against conversations at
// every moment.
func TestTheBudgetIsAShareOfConversations(t *testing.T) {
	d, _ := desk(t, settings(), always(Keep, 1))
	for i := range 3000 {
		begin(t, d, 1)
		_ = d.Accept(t.Context(), []*pipeline.Outcome{alerted("x"), alerted("y")})
		looks := len(d.waiting) + int(testutil.ToFloat64(d.looks.WithLabelValues("busy")))
		if float64(looks) > MaxShare*float64(i+1) {
			t.Fatalf("%d looks after %d conversations", looks, i+1)
		}
		if want := int(float64(i+1)*MaxShare + 1e-9); looks < want-1 {
			t.Fatalf("%d looks after %d conversations: the budget is not used", looks, i+1)
		}
	}
	if n := testutil.ToFloat64(d.conversations); n != 3000 {
		t.Errorf("%v conversations counted", n)
	}
	if n := testutil.ToFloat64(d.looks.WithLabelValues("over_budget")); n < 5900 {
		t.Errorf("%v over budget", n)
	}
}

func TestALookThatHangsDelaysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, n := desk(t, settings(), lookerFunc(func(ctx context.Context, _ Question) (Answer, error) {
			<-ctx.Done()
			return Answer{}, ctx.Err()
		}))
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- d.Run(ctx) }()
		started := time.Now()
		for range 2 * maxWaiting {
			begin(t, d, 200)
			_ = d.Accept(ctx, []*pipeline.Outcome{alerted("x")})
		}
		if took := time.Since(started); took != 0 {
			t.Errorf("accepting waited for %v", took)
		}
		synctest.Wait()
		busy := testutil.ToFloat64(d.looks.WithLabelValues("busy"))
		if busy < maxWaiting-1 || busy > maxWaiting {
			t.Errorf("%v were turned away", busy)
		}
		<-time.After(3*settings().Timeout + time.Millisecond)
		synctest.Wait()
		if failures := testutil.ToFloat64(d.looks.WithLabelValues(failed)); failures != 3 || len(n.all) != 0 {
			t.Errorf("%v failures, %d annotations", failures, len(n.all))
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestOnlyAlertsThatAPersonWaitsForAreLookedAt(t *testing.T) {
	d, _ := desk(t, settings(), always(Keep, 1))
	for name, change := range map[string]func(v *pipeline.Verdict){
		"low risk":     func(v *pipeline.Verdict) { v.Risk = 0.89 },
		"allowed":      func(v *pipeline.Verdict) { v.Action = pipeline.Allow },
		"blocked":      func(v *pipeline.Verdict) { v.Action = pipeline.Block },
		"a match":      func(v *pipeline.Verdict) { v.Findings[0].Match = &pipeline.Match{List: "l"} },
		"support only": func(v *pipeline.Verdict) { v.Findings[1].Supports = true },
	} {
		o := alerted("x")
		if !d.eligible(o.Verdict) {
			t.Fatal("the alert itself is not")
		}
		if change(o.Verdict); d.eligible(o.Verdict) {
			t.Errorf("%s is looked at", name)
		}
	}
}

func TestOnlyWhatIsAllowedIsAsked(t *testing.T) {
	for _, c := range []struct {
		send []string
		want string
	}{
		{nil, `{"case":"CASE"}`},
		{[]string{SendRisk}, `{"case":"CASE","risk":0.95}`},
		{[]string{SendLabels}, `{"case":"CASE","labels":[{"label":"secrecy","score":0.6},{"label":"age_probe","score":0.3,"earlier":true}]}`},
		{[]string{SendAges}, `{"case":"CASE","sender_age":40,"recipient_ages":[13]}`},
		{[]string{SendText}, `{"case":"CASE","text":"what was said"}`},
	} {
		cfg := settings()
		cfg.Send = c.send
		d, _ := desk(t, cfg, always(Keep, 1))
		b, err := json.Marshal(d.question(alerted("x")), json.Deterministic(true))
		if err != nil {
			t.Fatal(err)
		}
		want := strings.Replace(c.want, "CASE", pipeline.CaseID(pipeline.ConversationCase, "conversation/c-x"), 1)
		if diff := cmp.Diff(want, string(b)); diff != "" {
			t.Errorf("%v: %s", c.send, diff)
		}
	}
}

func TestWhatIsOutsideOfTheSchemaOrCannotBeWrittenIsAFailure(t *testing.T) {
	for name, l := range map[string]lookerFunc{
		"opinion":    always("delete", 1),
		"confidence": always(Keep, 1.01),
		"negative":   always(Keep, -0.1),
		"no number":  always(Keep, math.NaN()),
		"error":      func(context.Context, Question) (Answer, error) { return Answer{}, errors.New("down") },
	} {
		d, n := desk(t, settings(), l)
		if result, err := d.look(t.Context(), alerted("x")); result != failed || err == nil || len(n.all) != 0 {
			t.Errorf("%s: %s, %v, %d annotations", name, result, err, len(n.all))
		}
	}
	d, n := desk(t, settings(), always(Keep, 1))
	n.err = errors.New("broker down")
	if result, err := d.look(t.Context(), alerted("x")); result != failed || !errors.Is(err, n.err) {
		t.Errorf("%s, %v", result, err)
	}
}

func TestEveryFaultOfTheSettingsIsReported(t *testing.T) {
	cfg := Config{URL: "http://model.invalid/", MinRisk: 1.1, Share: 0.006, Timeout: -1, Send: []string{"everything"}}
	err := cfg.Validate()
	if err == nil {
		t.Fatal("taken")
	}
	for _, want := range []string{"second_look.url", "second_look.min_risk", "second_look.share", "second_look.timeout", "second_look.send[0]"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("nothing is said of %s: %v", want, err)
		}
	}
	for text, good := range map[string]bool{
		"https://model.example.org/v1": true, "http://127.0.0.1:9000/": true, "http://[::1]/": true,
		"http://10.0.0.1/": false, "http://localhost.example.org/": false, "http://localhost/": false, "ftp://127.0.0.1/": false, "https:///x": false,
		"https://u:p@model.example.org/": false, "//x": false, "https://%zz/": false,
	} {
		if err := checkURL(text); (err == nil) != good {
			t.Errorf("%s: %v", text, err)
		}
	}
}
