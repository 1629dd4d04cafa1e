package evaluation

import (
	"bytes"
	"math"
	"strings"
	"testing"
)

func TestTheThresholdIsTheLowestThatFitsTheQueue(t *testing.T) {
	var scores []Score
	for i := range 1000 { // harmless ones at 0.000 to 0.999
		scores = append(scores, Score{Benign, float64(i) / 1000})
	}
	for i := range 100 {
		scores = append(scores, Score{Risk, 0.5 + float64(i)/200}, Score{Negative, 0.99})
	}
	// Of 10,000 conversations a day 100 are risky. From 0.7 on 60 % of those
	// and 30 % of the 9,900 others are alerted: 60 and 2,970.
	p, err := ProposeFromScores(scores, Budget{ReviewsPerDay: 3030, ConversationsPerDay: 10_000, Prevalence: 0.01})
	if err != nil {
		t.Fatal(err)
	}
	e := p.Chosen
	if e == nil || math.Abs(e.Threshold-0.7) > 1e-9 || math.Abs(e.AlertsPerDay-3030) > 1e-6 || math.Abs(e.Precision-60./3030) > 1e-9 {
		t.Fatalf("chosen %+v", e)
	}
	if e.FPR.Hits != 300 || e.Recall.Hits != 60 || e.Extrapolated || !e.Fits || e.FitsSurely {
		t.Errorf("chosen %+v", e)
	}
	if !(e.PrecisionLow > 0.01 && e.PrecisionLow < e.Precision) || !(e.AlertsPerDayHigh > 3100 && e.AlertsPerDayHigh < 3400) {
		t.Errorf("bounds %v and %v", e.PrecisionLow, e.AlertsPerDayHigh)
	}
	if p.Benign != 1000 || p.Risk != 100 || p.From != "benign corpora" {
		t.Errorf("%+v", p)
	}
	last := math.Inf(1)
	for _, g := range p.Grid {
		if g.AlertsPerDay > last {
			t.Errorf("alerts rise at %v", g.Threshold)
		}
		last = g.AlertsPerDay
	}
}

func TestATailIsCarriedOnWhereNothingCanBeCounted(t *testing.T) {
	// The log-odds of the top tenth are exponential with a mean of 0.5 from −2 on.
	var benign []float64
	const n = 400
	for i := range n {
		share := (float64(i) + 0.5) / n
		x := -4 + 2*share/0.9
		if share > 0.9 {
			x = -2 - 0.5*math.Log((1-share)/0.1)
		}
		benign = append(benign, 1/(1+math.Exp(-x)))
	}
	fitted := fitTail(benign)
	if fitted == nil || math.Abs(fitted.mean-0.5) > 0.05 || fitted.share != 0.1 {
		t.Fatalf("%+v", fitted)
	}
	near, far := fitted.beyond(0.7), fitted.beyond(0.9)
	if want := math.Exp(-(logit(0.9) - logit(0.7)) / fitted.mean); math.Abs(far/near-want) > 1e-9 || near <= 0 || near > 0.1 {
		t.Errorf("%v and %v, a ratio of %v is wanted", near, far, want)
	}
	if fitTail(make([]float64, 1000)) != nil || fitTail(benign[:50]) != nil {
		t.Error("a tail was fitted to nothing")
	}
}

func TestReviewedCasesSetTheThreshold(t *testing.T) {
	in := "case,score,decision\n1,0.95,confirm\n2,0.90,dismiss\n3,0.85,confirm\n4,0.80,1\n5,0.75,0\n6,0.72,dismiss\n"
	cases, err := ReadReviewed(strings.NewReader(in))
	if err != nil || len(cases) != 6 {
		t.Fatalf("%v, %v", cases, err)
	}
	p, err := ProposeFromReviews(cases, 2, 2) // four cases in two days
	if err != nil {
		t.Fatal(err)
	}
	if e := p.Chosen; e == nil || e.Threshold != 0.80 || e.AlertsPerDay != 2 || e.Precision != 0.75 || e.Recall.Hits != 3 || e.Recall.Of != 3 {
		t.Errorf("chosen %+v", p.Chosen)
	}
	var out bytes.Buffer
	p.Print(&out)
	if !strings.Contains(out.String(), "> 0.8000") || !strings.Contains(out.String(), "cannot be ruled out") {
		t.Error(out.String())
	}
	for _, bad := range []string{"", "score\n", "score,decision\n2,confirm\n", "score,decision\nx,confirm\n", "score,decision\n0.5,maybe\n", "score,decision\nNaN,confirm\n"} {
		if _, err := ReadReviewed(strings.NewReader(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestABudgetThatMakesNoSenseIsRefused(t *testing.T) {
	scores := []Score{{Benign, 0.1}, {Risk, 0.9}}
	for _, b := range []Budget{{}, {1, -1, 0.1}, {1, 1, 1}, {math.NaN(), 1, 0.1}, {1, math.Inf(1), 0.1}, {1, 1, math.NaN()}} {
		if _, err := ProposeFromScores(scores, b); err == nil {
			t.Errorf("%+v was taken", b)
		}
	}
	good := Budget{1, 1, 0.1}
	for _, s := range [][]Score{nil, scores[:1], {{Benign, 2}, {Risk, 1}}} {
		if _, err := ProposeFromScores(s, good); err == nil {
			t.Errorf("%v was taken", s)
		}
	}
}
