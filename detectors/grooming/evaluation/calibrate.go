package evaluation

import (
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Budget is what a queue can take, and what comes in.
type Budget struct {
	ReviewsPerDay       float64 `json:"reviews_per_day"`
	ConversationsPerDay float64 `json:"conversations_per_day"`

	// Prevalence is the share of conversations that are risky: nobody knows it,
	// and everything depends on it.
	Prevalence float64 `json:"prevalence"`
}

func (b Budget) validate() error {
	switch {
	case !(b.ReviewsPerDay > 0 && b.ReviewsPerDay <= 1e9), !(b.ConversationsPerDay > 0 && b.ConversationsPerDay <= 1e15):
		return errors.New("reviews and conversations a day are more than 0, within reason")
	case !(b.Prevalence >= 0 && b.Prevalence < 1):
		return errors.New("the prevalence is at least 0 and below 1")
	}
	return nil
}

// Expectation is what a threshold would lead to.
type Expectation struct {
	Threshold    float64 `json:"threshold"`
	AlertsPerDay float64 `json:"alerts_per_day"`

	// AlertsPerDayHigh is the same at the upper 95 % bound of the rate of false
	// alarms: what cannot be ruled out with the conversations at hand.
	AlertsPerDayHigh float64 `json:"alerts_per_day_high"`

	Precision    float64 `json:"precision"`     // share of alerts that are risky
	PrecisionLow float64 `json:"precision_low"` // with both rates at their worse bounds
	Recall       Rate    `json:"recall"`
	FPR          Rate    `json:"fpr"`

	// FPRExpected is what is reckoned with: the rate seen, or that of a tail
	// fitted to the highest harmless scores where too few lie beyond the
	// threshold to be counted.
	FPRExpected  float64 `json:"fpr_expected"`
	Extrapolated bool    `json:"extrapolated"`

	Fits       bool `json:"fits"`        // the queue, as expected
	FitsSurely bool `json:"fits_surely"` // the queue, at the upper bound
}

// Proposal is the lowest threshold that fits a budget, beside others.
type Proposal struct {
	Budget Budget        `json:"budget"`
	Chosen *Expectation  `json:"chosen,omitempty"` // nil where none fits
	Grid   []Expectation `json:"grid"`
	Benign int           `json:"benign"` // conversations that the rate of false alarms rests on
	Risk   int           `json:"risk"`
	From   string        `json:"from"`
}

var grid = []float64{0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99}

// ProposeFromScores chooses a threshold from the scores of an evaluation. The
// rate of false alarms is that of the benign corpora, or of made-up small talk
// where there were none; hard negatives are far too many in an evaluation to
// stand for everyday talk.
func ProposeFromScores(scores []Score, b Budget) (*Proposal, error) {
	if err := b.validate(); err != nil {
		return nil, err
	}
	by := map[Kind][]float64{}
	for _, s := range scores {
		if !(s.Score >= 0 && s.Score <= 1) {
			return nil, errors.New("a score is outside 0 to 1")
		}
		by[s.Kind] = append(by[s.Kind], s.Score)
	}
	p := &Proposal{Budget: b, From: "benign corpora"}
	benign := by[Benign]
	if len(benign) == 0 {
		benign, p.From = by[Talk], "made-up small talk"
	}
	p.Benign, p.Risk = len(benign), len(by[Risk])
	if p.Benign == 0 || p.Risk == 0 {
		return nil, errors.New("there are no scores of risky, or none of harmless conversations")
	}
	slices.Sort(benign)
	slices.Sort(by[Risk])
	tail := fitTail(benign)
	expect := func(threshold float64) Expectation { return expectation(threshold, by[Risk], benign, tail, b) }
	for _, t := range grid {
		p.Grid = append(p.Grid, expect(t))
	}
	// Alerts fall as the threshold rises, so the lowest that fits is found by
	// halving; a threshold between two scores acts like the upper one.
	candidates := slices.Compact(slices.Sorted(slices.Values(slices.Concat(benign, by[Risk]))))
	candidates = slices.DeleteFunc(candidates, func(t float64) bool { return t == 0 })
	candidates = append(candidates, 1)
	i, _ := slices.BinarySearchFunc(candidates, true, func(t float64, _ bool) int {
		if expect(t).Fits {
			return 0
		}
		return -1
	})
	if i < len(candidates) {
		e := expect(candidates[i])
		p.Chosen = &e
	}
	return p, nil
}

// tail is an exponential tail of log-odds beyond a point, fitted by the mean
// excess (peaks over threshold with shape 0; Coles 2001, chapter 4). It carries
// on what was seen and can be wrong by an order of magnitude.
type tail struct {
	from  float64 // log-odds
	mean  float64 // excess beyond
	share float64 // of scores beyond
}

const (
	tailScores = 50 // that a tail is fitted to at most
	countable  = 10 // scores from which a rate is counted and not extrapolated
)

func logit(p float64) float64 {
	p = min(max(p, 1e-9), 1-1e-9)
	return math.Log(p / (1 - p))
}

// fitTail fits to sorted scores; there is none where hardly any is above 0.
func fitTail(sorted []float64) *tail {
	n := min(tailScores, len(sorted)/10)
	if n < countable || sorted[len(sorted)-n-1] <= 0 {
		return nil
	}
	t := &tail{from: logit(sorted[len(sorted)-n-1]), share: float64(n) / float64(len(sorted))}
	for _, s := range sorted[len(sorted)-n:] {
		t.mean += (logit(s) - t.from) / float64(n)
	}
	if t.mean <= 0 {
		return nil
	}
	return t
}

func (t *tail) beyond(threshold float64) float64 {
	return t.share * math.Exp(-max(0, logit(threshold)-t.from)/t.mean)
}

func expectation(threshold float64, risk, benign []float64, t *tail, b Budget) Expectation {
	reached := func(sorted []float64) Rate {
		i, _ := slices.BinarySearch(sorted, threshold)
		return rate(len(sorted)-i, len(sorted))
	}
	e := Expectation{Threshold: threshold, Recall: reached(risk), FPR: reached(benign)}
	e.FPRExpected = e.FPR.Value
	if t != nil && e.FPR.Hits < countable {
		e.FPRExpected, e.Extrapolated = t.beyond(threshold), true
	}
	e.AlertsPerDay, e.Precision = flow(b, e.Recall.Value, e.FPRExpected)
	high := upper95(e.FPR.Hits, e.FPR.Of)
	e.AlertsPerDayHigh, _ = flow(b, e.Recall.Value, high)
	_, e.PrecisionLow = flow(b, e.Recall.Low, high)
	e.Fits, e.FitsSurely = e.AlertsPerDay <= b.ReviewsPerDay, e.AlertsPerDayHigh <= b.ReviewsPerDay
	return e
}

// flow returns alerts a day and the share of them that are risky.
func flow(b Budget, recall, fpr float64) (alerts, precision float64) {
	good, bad := b.Prevalence*recall, (1-b.Prevalence)*fpr
	if good+bad == 0 {
		return 0, 0
	}
	return b.ConversationsPerDay * (good + bad), good / (good + bad)
}

// Reviewed is the score of one case and what a reviewer decided.
type Reviewed struct {
	Score     float64
	Confirmed bool
}

// maxReviewed bounds what is read of reviewed cases.
const maxReviewed = 10_000_000

// ReadReviewed reads CSV with the columns score and decision: confirm or
// dismiss, 1 or 0, true or false. Others are ignored.
func ReadReviewed(r io.Reader) ([]Reviewed, error) {
	in, columns, err := csvColumns(r, "score", "decision")
	if err != nil {
		return nil, err
	}
	var out []Reviewed
	for {
		record, err := in.read()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		if len(out) == maxReviewed {
			return nil, fmt.Errorf("more than %d reviewed cases", maxReviewed)
		}
		score, err := strconv.ParseFloat(strings.TrimSpace(record[columns["score"]]), 64)
		if err != nil || !(score >= 0 && score <= 1) {
			return nil, fmt.Errorf("line %d: the score is no number from 0 to 1", in.line())
		}
		var confirmed bool
		switch strings.ToLower(strings.TrimSpace(record[columns["decision"]])) {
		case "confirm", "1", "true", "escalate":
			confirmed = true
		case "dismiss", "0", "false":
		default:
			return nil, fmt.Errorf("line %d: the decision is neither confirm nor dismiss", in.line())
		}
		out = append(out, Reviewed{score, confirmed})
	}
}

// ProposeFromReviews chooses the lowest threshold at which cases would have come
// no faster than the budget, from all cases that were reviewed in some days. What
// the threshold of those days kept out cannot be known from them.
func ProposeFromReviews(cases []Reviewed, days, reviewsPerDay float64) (*Proposal, error) {
	if len(cases) == 0 || !(days > 0) || !(reviewsPerDay > 0) {
		return nil, errors.New("reviewed cases, days and reviews a day are needed")
	}
	p := &Proposal{Budget: Budget{ReviewsPerDay: reviewsPerDay}, From: "reviewed cases"}
	sorted := slices.Clone(cases)
	slices.SortFunc(sorted, func(a, b Reviewed) int { return cmp.Compare(b.Score, a.Score) })
	confirmed := make([]int, len(sorted)+1) // among the first n
	for i, c := range sorted {
		confirmed[i+1] = confirmed[i]
		if c.Confirmed {
			confirmed[i+1]++
		}
	}
	p.Risk = confirmed[len(sorted)]
	p.Benign = len(sorted) - p.Risk
	expect := func(threshold float64) Expectation {
		n, _ := slices.BinarySearchFunc(sorted, threshold, func(c Reviewed, t float64) int {
			if c.Score >= t {
				return -1
			}
			return 1
		})
		precision := rate(confirmed[n], n)
		perDay := float64(n) / days
		return Expectation{
			Threshold: threshold, AlertsPerDay: perDay, AlertsPerDayHigh: (float64(n) + 1.645*math.Sqrt(float64(n)+1) + 1) / days,
			Precision: precision.Value, PrecisionLow: precision.Low,
			Recall: rate(confirmed[n], p.Risk), FPR: rate(n-confirmed[n], p.Benign),
			Fits: perDay <= reviewsPerDay, FitsSurely: (float64(n)+1.645*math.Sqrt(float64(n)+1)+1)/days <= reviewsPerDay,
		}
	}
	for _, t := range grid {
		p.Grid = append(p.Grid, expect(t))
	}
	for _, c := range slices.Backward(sorted) { // from the lowest score on
		if e := expect(c.Score); e.Fits {
			p.Chosen = &e
			break
		}
	}
	return p, nil
}

// Print writes the proposal as a table.
func (p *Proposal) Print(w io.Writer) {
	fmt.Fprintf(w, "false alarms from %s: %d harmless, %d risky\n", p.From, p.Benign, p.Risk)
	fmt.Fprintf(w, "  %-9s  %14s  %14s  %9s  %9s  %s\n", "THRESHOLD", "ALERTS/DAY", "AT THE BOUND", "PRECISION", "AT LEAST", "RECALL")
	row := func(mark string, e *Expectation) {
		fmt.Fprintf(w, "%s %-9.4f  %14.1f  %14.1f  %9.4f  %9.4f  %s\n", mark, e.Threshold, e.AlertsPerDay, e.AlertsPerDayHigh, e.Precision, e.PrecisionLow, e.Recall)
	}
	for i := range p.Grid {
		row(" ", &p.Grid[i])
	}
	if p.Chosen == nil {
		fmt.Fprintf(w, "no threshold brings fewer than %g a day\n", p.Budget.ReviewsPerDay)
		return
	}
	row(">", p.Chosen)
	fmt.Fprintf(w, "%.4f is the lowest that is expected to bring no more than %g a day.\n", p.Chosen.Threshold, p.Budget.ReviewsPerDay)
	if p.Chosen.Extrapolated {
		fmt.Fprintln(w, "Too few harmless conversations reach it to count: the rate of false alarms carries on the tail of those below, and may be off tenfold.")
	}
	if !p.Chosen.FitsSurely {
		fmt.Fprintf(w, "That it does not bring %.0f a day cannot be ruled out with so few harmless conversations.\n", p.Chosen.AlertsPerDayHigh)
	}
}

// csvReader reads records with limits.
type csvReader struct {
	*csv.Reader
	limit *limited
}

// maxRecord bounds one record of CSV, and one piece of XML, in bytes.
const maxRecord = 1 << 20

// csvColumns reads the head and finds the columns that are needed.
func csvColumns(r io.Reader, needed ...string) (*csvReader, map[string]int, error) {
	l := &limited{r: r, left: maxRecord}
	in := &csvReader{csv.NewReader(l), l}
	in.ReuseRecord = true
	head, err := in.Read()
	if err != nil {
		return nil, nil, errors.New("the file has no line of column names")
	}
	columns := map[string]int{}
	for i, name := range head {
		name = strings.ToLower(strings.TrimSpace(strings.TrimPrefix(name, "\ufeff")))
		if _, twice := columns[name]; twice {
			return nil, nil, errors.New("a column name stands there twice")
		}
		columns[name] = i
	}
	for _, name := range needed {
		if _, ok := columns[name]; !ok {
			return nil, nil, fmt.Errorf("there is no column %s", name)
		}
	}
	return in, columns, nil
}

func (c *csvReader) read() ([]string, error) {
	c.limit.left = maxRecord
	record, err := c.Read()
	if p, ok := errors.AsType[*csv.ParseError](err); ok {
		return nil, fmt.Errorf("line %d: not CSV", p.Line)
	}
	return record, err
}

func (c *csvReader) line() int {
	n, _ := c.FieldPos(0)
	return n
}

// limited reads no more than left bytes until left is set again. Its reader
// reads ahead, so that the limit is one of kind and not of the byte.
type limited struct {
	r    io.Reader
	left int
}

var errTooLarge = fmt.Errorf("a record is larger than %d bytes", maxRecord)

func (l *limited) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, errTooLarge
	}
	n, err := l.r.Read(p[:min(len(p), l.left)])
	l.left -= n
	return n, err
}
