package evaluation

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
)

// Rate is a share with a 95 % interval.
type Rate struct {
	Hits  int     `json:"hits"`
	Of    int     `json:"of"`
	Value float64 `json:"value"`
	Low   float64 `json:"low"`
	High  float64 `json:"high"`
}

// rate returns a share with its exact interval (Clopper and Pearson 1934). Of
// none found in n the upper end is close to 3.7/n; the one-sided bound that is
// quoted as 3/n is [ruleOfThree].
func rate(hits, of int) Rate {
	r := Rate{Hits: hits, Of: of, High: 1}
	if of == 0 {
		return r
	}
	r.Value = float64(hits) / float64(of)
	if hits > 0 {
		r.Low = solve(func(p float64) bool { return 1-binomial(hits-1, of, p) >= 0.025 })
	}
	if hits < of {
		r.High = solve(func(p float64) bool { return binomial(hits, of, p) <= 0.025 })
	}
	return r
}

// solve returns the least p in 0…1 for which f, false at first, is true.
func solve(f func(float64) bool) float64 {
	low, high := 0., 1.
	for range 60 {
		if mid := (low + high) / 2; f(mid) {
			high = mid
		} else {
			low = mid
		}
	}
	return high
}

// binomial returns the probability of at most k of n.
func binomial(k, n int, p float64) float64 {
	switch {
	case p <= 0:
		return 1
	case p >= 1:
		return float64(min(1, max(0, k-n+1)))
	}
	all, _ := math.Lgamma(float64(n + 1))
	sum := 0.
	for i := k; i >= 0; i-- {
		a, _ := math.Lgamma(float64(i + 1))
		b, _ := math.Lgamma(float64(n - i + 1))
		term := math.Exp(all - a - b + float64(i)*math.Log(p) + float64(n-i)*math.Log1p(-p))
		sum += term
		if float64(i) < float64(n)*p && term < 1e-18 {
			break
		}
	}
	return min(1, sum)
}

// ruleOfThree is the 95 % upper bound on a rate of which nothing was seen in n.
func ruleOfThree(n int) float64 {
	if n == 0 {
		return 1
	}
	return min(1, 3/float64(n))
}

// thresholdAt returns the lowest threshold that at most a share rate of scores
// reaches, and the share that does.
func thresholdAt(scores []float64, share float64) (threshold, reached float64) {
	if len(scores) == 0 {
		return 0, 0
	}
	s := slices.Clone(scores)
	slices.SortFunc(s, func(a, b float64) int { return cmp.Compare(b, a) })
	allowed := int(math.Floor(share*float64(len(s)) + 1e-9))
	if allowed >= len(s) {
		return 0, 1
	}
	threshold = math.Nextafter(s[allowed], 2) // just above the first that may not reach it
	n := 0
	for n < len(s) && s[n] >= threshold {
		n++
	}
	return threshold, float64(n) / float64(len(s))
}

const resamples = 1000

// recallByWording returns the share of conversations that were found, with a
// bootstrap interval over wordings: what would have come out with other phrases,
// not with more conversations of the same ones. A conversation is made of
// several wordings, so they are no partition of the conversations; each wording
// counts by its first-order pull on the share, the mean of (found − share) over
// its conversations, and the pulls are drawn with replacement (the linearised
// cluster bootstrap; see Davison and Hinkley 1997, section 2.7).
func recallByWording(outcomes []*Outcome, found func(*Outcome) bool, seed uint64) Rate {
	r := Rate{Of: len(outcomes), High: 1}
	if len(outcomes) == 0 {
		return r
	}
	for _, o := range outcomes {
		if found(o) {
			r.Hits++
		}
	}
	r.Value = float64(r.Hits) / float64(r.Of)
	pulls := map[string]float64{}
	for _, o := range outcomes {
		pull := -r.Value
		if found(o) {
			pull++
		}
		for _, w := range o.Wordings {
			pulls[w] += pull / float64(r.Of)
		}
	}
	var values []float64
	for _, w := range sortedKeys(pulls) {
		values = append(values, pulls[w])
	}
	if len(values) == 0 {
		return rate(r.Hits, r.Of)
	}
	mean := 0.
	for _, v := range values {
		mean += v / float64(len(values))
	}
	random := rand.New(rand.NewPCG(seed, 0x626f6f74)) //nolint:gosec // an interval that must come out the same again
	drawn := make([]float64, resamples)
	for i := range drawn {
		drawn[i] = r.Value
		for range values {
			drawn[i] += values[random.IntN(len(values))] - mean
		}
	}
	slices.Sort(drawn)
	r.Low, r.High = max(0, quantile(drawn, 0.025)), min(1, quantile(drawn, 0.975))
	// Where all or none were found nothing pulls; what is known then is how many
	// wordings it rests on.
	switch r.Hits {
	case 0:
		r.High = ruleOfThree(len(values))
	case r.Of:
		r.Low = 1 - ruleOfThree(len(values))
	}
	return r
}

// quantile of sorted values, between them where it falls between.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	at := q * float64(len(sorted)-1)
	i := int(at)
	if i+1 == len(sorted) {
		return sorted[i]
	}
	return sorted[i] + (at-float64(i))*(sorted[i+1]-sorted[i])
}

func median(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	return quantile(s, 0.5)
}

// Latency says how early alerts came.
type Latency struct {
	Precision float64 `json:"precision"`
	Recall    float64 `json:"recall"`
	F1        float64 `json:"f1"`
	Speed     float64 `json:"speed"`

	// LatencyF1 is F1 times speed (Sadeque and others 2018; as F-latency in Vogt
	// and others 2021).
	LatencyF1 float64 `json:"latency_f1"`

	MedianTurn      float64 `json:"median_turn"`       // messages at the alert
	MedianRiskTurns float64 `json:"median_risk_turns"` // risk turns begun by then
	ERDE5           float64 `json:"erde5"`
	ERDE50          float64 `json:"erde50"`
	ERDE5Risk       float64 `json:"erde5_of_risk"` // over risk conversations alone
	ERDE50Risk      float64 `json:"erde50_of_risk"`
}

// latency measures alerts at a threshold. The penalty of an alert at message k
// is −1 + 2/(1+exp(−p(k−1))), with p such that it is a half at the median length
// of a risk conversation; speed is 1 less the median penalty of those found.
func latency(outcomes []*Outcome, reached func(*Outcome) (message, riskTurns int, ok bool)) Latency {
	var l Latency
	var lengths, turns, risky []float64
	found, wrong, risk := 0, 0, 0
	for _, o := range outcomes {
		message, riskTurns, ok := reached(o)
		if o.Kind != Risk {
			if ok {
				wrong++
			}
			continue
		}
		risk++
		lengths = append(lengths, float64(o.Messages))
		if ok {
			found++
			turns, risky = append(turns, float64(message)), append(risky, float64(riskTurns))
		}
	}
	share := 0.
	if len(outcomes) > 0 {
		share = float64(risk) / float64(len(outcomes))
	}
	l.ERDE5, l.ERDE5Risk = erde(outcomes, reached, 5, share)
	l.ERDE50, l.ERDE50Risk = erde(outcomes, reached, 50, share)
	if found == 0 {
		return l
	}
	l.Precision, l.Recall = float64(found)/float64(found+wrong), float64(found)/float64(risk)
	l.F1 = 2 * l.Precision * l.Recall / (l.Precision + l.Recall)
	p := math.Log(3) / max(1, median(lengths)-1)
	l.MedianTurn, l.MedianRiskTurns = median(turns), median(risky)
	// The penalty rises with k, so its median is that of the median k.
	l.Speed = 1 - (-1 + 2/(1+math.Exp(-p*(l.MedianTurn-1))))
	l.LatencyF1 = l.F1 * l.Speed
	return l
}

// erde is the early risk detection error (Losada and Crestani 2016) over all
// outcomes, and over risk conversations alone: a false alarm costs their share,
// a miss 1, and an alert at message k 1 − 1/(1+exp(k−o)).
func erde(outcomes []*Outcome, reached func(*Outcome) (message, riskTurns int, ok bool), o, falseAlarm float64) (all, ofRisk float64) {
	sum, sumRisk, risk := 0., 0., 0
	for _, out := range outcomes {
		k, _, ok := reached(out)
		cost := 0.
		switch {
		case out.Kind == Risk && ok:
			cost = 1 - 1/(1+math.Exp(float64(k)-o))
		case out.Kind == Risk:
			cost = 1
		case ok:
			cost = falseAlarm
		}
		sum += cost
		if out.Kind == Risk {
			sumRisk += cost
			risk++
		}
	}
	return sum / float64(max(1, len(outcomes))), sumRisk / float64(max(1, risk))
}

// Bin is one part of the calibration curve.
type Bin struct {
	From     float64 `json:"from"`
	To       float64 `json:"to"`
	N        int     `json:"n"`
	Mean     float64 `json:"mean_score"`
	Observed float64 `json:"observed"` // share of risk conversations
	Low      float64 `json:"low"`
	High     float64 `json:"high"`
}

// calibration sorts conversations by score into tenths. The mean distance
// between score and share, weighted by numbers, is the expected calibration
// error. Both hold for the mixture of conversations that was judged, and no other.
func calibration(outcomes []*Outcome) (bins []Bin, expectedError float64) {
	const parts = 10
	hits := [parts]int{}
	bins = make([]Bin, parts)
	for _, o := range outcomes {
		i := min(parts-1, int(o.Score()*parts))
		bins[i].N++
		bins[i].Mean += o.Score()
		if o.Kind == Risk {
			hits[i]++
		}
	}
	for i := range bins {
		b := &bins[i]
		b.From, b.To = float64(i)/parts, float64(i+1)/parts
		if b.N == 0 {
			continue
		}
		b.Mean /= float64(b.N)
		r := rate(hits[i], b.N)
		b.Observed, b.Low, b.High = r.Value, r.Low, r.High
		expectedError += math.Abs(b.Observed-b.Mean) * float64(b.N) / float64(len(outcomes))
	}
	return bins, expectedError
}
