package evaluation

import (
	"fmt"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var near = cmpopts.EquateApprox(0, 1e-3)

func TestIntervalsAreThoseOfTheTables(t *testing.T) {
	// Clopper and Pearson, as in any table of exact binomial limits.
	for _, c := range []struct {
		hits, of  int
		low, high float64
	}{
		{0, 10, 0, 0.3085},
		{10, 10, 0.6915, 1},
		{5, 10, 0.1871, 0.8129},
		{1, 100, 0.000253, 0.0545},
		{0, 100, 0, 0.0362},
		{0, 0, 0, 1},
		{999, 1000, 0.99444, 0.999975},
	} {
		r := rate(c.hits, c.of)
		if math.Abs(r.Low-c.low) > 2e-4 || math.Abs(r.High-c.high) > 2e-4 {
			t.Errorf("%d of %d: %.4f to %.4f, want %.4f to %.4f", c.hits, c.of, r.Low, r.High, c.low, c.high)
		}
	}
	if got := ruleOfThree(300); got != 0.01 {
		t.Errorf("nothing in 300 is bounded by %v, want 0.01", got)
	}
	if got, exact := upper95(0, 300), 1-math.Pow(0.05, 1./300); math.Abs(got-exact) > 1e-6 {
		t.Errorf("the exact bound is %v, want %v", got, exact)
	}
}

func TestAThresholdIsReachedByNoMoreThanItsShare(t *testing.T) {
	scores := make([]float64, 0, 100)
	for i := range 100 {
		scores = append(scores, float64(i)/100)
	}
	for _, c := range []struct {
		share, above, reached float64
	}{{0.05, 0.94, 0.05}, {0.01, 0.98, 0.01}, {0.001, 0.99, 0}, {0.015, 0.98, 0.01}} {
		at, reached := thresholdAt(scores, c.share)
		if at <= c.above || at > c.above+1e-9 || math.Abs(reached-c.reached) > 1e-12 {
			t.Errorf("share %v: threshold %v reached by %v, want just above %v and %v", c.share, at, reached, c.above, c.reached)
		}
	}
	if at, reached := thresholdAt([]float64{0.5, 0.5, 0.5, 0}, 0.5); at <= 0.5 || reached != 0 {
		t.Errorf("among ties: %v reached by %v, want above them and 0", at, reached)
	}
}

// made is an outcome with the risk that it reaches at messages.
func made(kind Kind, messages int, steps ...step) *Outcome {
	return &Outcome{Labels: Labels{Kind: kind}, Messages: messages, steps: steps}
}

func TestLatencyIsWhatAHandComputes(t *testing.T) {
	outcomes := []*Outcome{
		made(Risk, 11, step{3, 1, 0.8}),
		made(Risk, 11, step{2, 1, 0.5}, step{7, 3, 0.9}),
		made(Risk, 21, step{2, 1, 0.6}),
		made(Talk, 30, step{4, 0, 0.75}),
		made(Negative, 30), made(Benign, 30),
	}
	at := func(o *Outcome) (int, int, bool) { return o.Reached(0.7) }
	// Two of three are found, at messages 3 and 7, and one of three harmless ones
	// is: precision, recall and F1 are 2/3. The median length is 11, so that
	// p = ln(3)/10; at the median alert, message 5, the penalty is
	// −1 + 2/(1+3^−0.4) = 0.21631.
	speed := 1 - (-1 + 2/(1+math.Pow(3, -0.4)))
	third := 2. / 3
	sigmoid := func(k, o float64) float64 { return 1 - 1/(1+math.Exp(k-o)) }
	// A false alarm costs the share of risk, 1/2; a miss 1.
	early5 := sigmoid(3, 5) + sigmoid(7, 5) + 1
	early50 := sigmoid(3, 50) + sigmoid(7, 50) + 1
	want := Latency{
		Precision: third, Recall: third, F1: third, Speed: speed, LatencyF1: third * speed, MedianTurn: 5, MedianRiskTurns: 2,
		ERDE5: (early5 + 0.5) / 6, ERDE50: (early50 + 0.5) / 6, ERDE5Risk: early5 / 3, ERDE50Risk: early50 / 3,
	}
	if diff := cmp.Diff(want, latency(outcomes, at), cmpopts.EquateApprox(0, 1e-12)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if math.Abs(speed-0.7837) > 1e-4 || math.Abs(early5-(0.11920+0.88080+1)) > 1e-4 {
		t.Errorf("speed %v and the sum %v are not those of the hand", speed, early5)
	}
	if got := latency(nil, at); got != (Latency{}) {
		t.Errorf("of nothing: %+v", got)
	}
}

func TestThePenaltyIsAHalfAtTheMedianLength(t *testing.T) {
	l := latency([]*Outcome{made(Risk, 41, step{41, 1, 1})}, func(o *Outcome) (int, int, bool) { return o.Reached(0.5) })
	if math.Abs(l.Speed-0.5) > 1e-12 {
		t.Errorf("an alert at the median length has speed %v, want 0.5", l.Speed)
	}
	l = latency([]*Outcome{made(Risk, 41, step{1, 1, 1})}, func(o *Outcome) (int, int, bool) { return o.Reached(0.5) })
	if l.Speed != 1 {
		t.Errorf("an alert at the first message has speed %v, want 1", l.Speed)
	}
}

func TestIntervalsOfRecallAreOverWordingsAndNotConversations(t *testing.T) {
	// A hundred conversations of each of ten wordings: five are always found.
	var outcomes []*Outcome
	for i := range 1000 {
		o := made(Risk, 10)
		o.Wordings = []string{fmt.Sprint(i % 10)}
		if i%10 < 5 {
			o.steps = []step{{1, 1, 1}}
		}
		outcomes = append(outcomes, o)
	}
	found := func(o *Outcome) bool { return o.Score() > 0 }
	r := recallByWording(outcomes, found, 1)
	// The deviation of a mean of ten coins is 0.158: the interval is about
	// 0.5 ± 0.31, and not the ± 0.03 of a thousand conversations.
	if diff := cmp.Diff(Rate{Hits: 500, Of: 1000, Value: 0.5, Low: 0.19, High: 0.81}, r, cmpopts.EquateApprox(0, 0.03)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	all := recallByWording(outcomes, func(*Outcome) bool { return true }, 1)
	if all.Low != 0.7 || all.High != 1 {
		t.Errorf("all found, in ten wordings: %v, want from 0.7 to 1", all)
	}
	if again := recallByWording(outcomes, found, 1); again != r {
		t.Errorf("%v and then %v", r, again)
	}
}

func TestTheCalibrationCurveComparesScoresWithShares(t *testing.T) {
	outcomes := []*Outcome{
		made(Risk, 5, step{1, 1, 0.92}), made(Risk, 5, step{1, 1, 0.98}), made(Talk, 5, step{1, 0, 0.95}), made(Talk, 5), made(Benign, 5, step{1, 0, 0.05}),
	}
	bins, wrong := calibration(outcomes)
	if bins[9].N != 3 || bins[0].N != 2 || math.Abs(bins[9].Mean-0.95) > 1e-12 || math.Abs(bins[9].Observed-2./3) > 1e-12 || bins[0].Observed != 0 {
		t.Errorf("bins %+v", bins)
	}
	if want := (0.95-2./3)*3/5 + 0.025*2/5; math.Abs(wrong-want) > 1e-12 {
		t.Errorf("expected error %v, want %v", wrong, want)
	}
}

func TestMediansLieBetween(t *testing.T) {
	if diff := cmp.Diff([]float64{2, 2.5, 0}, []float64{median([]float64{3, 1, 2}), median([]float64{4, 1, 3, 2}), median(nil)}, near); diff != "" {
		t.Error(diff)
	}
}
