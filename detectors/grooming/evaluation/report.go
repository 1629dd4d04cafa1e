package evaluation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/dmguard/dmguard/pipeline"
)

// Corpus is conversations from elsewhere, told of message by message. Those of
// one conversation come in their order.
type Corpus struct {
	Name     string
	Messages iter.Seq2[*pipeline.Message, error]

	// Labels says what the conversations are, by id. Those it does not name
	// are benign.
	Labels map[string]*Labels
}

// Run says what is evaluated.
type Run struct {
	Data     *Data
	Detector pipeline.Detector

	// Threshold is the risk from which the detector alerts as it is configured.
	Threshold float64

	Seed          uint64
	Conversations int      // made up, of each kind and split
	Languages     []string // of generated conversations; empty for all

	// Filler is mixed into generated conversations; nil for none.
	Filler  *Filler
	Corpora []Corpus

	// Progress is told how much of which part is done; total is 0 where nobody
	// knows it. Nil for nobody.
	Progress func(part string, done, total int)
}

// Report is what an evaluation found. Every figure is about made-up
// conversations and the corpora that were given, and none about real grooming.
type Report struct {
	Detector   string  `json:"detector"`
	TestDigest string  `json:"test_digest"`
	Seed       uint64  `json:"seed"`
	Threshold  float64 `json:"threshold"`
	Leaked     float64 `json:"leaked"` // share of the test side's words that the train side has
	Filled     bool    `json:"filled"` // small talk of corpora was mixed in

	Conversations map[Kind]int `json:"conversations"` // held out
	Authors       []string     `json:"authors"`       // whose wordings are held out
	Wordings      int          `json:"wordings"`      // held out, in the conversations

	HeldOut Side `json:"held_out"`
	Known   Side `json:"known"` // wordings of the train split

	// KnownWordings are those of the train split by how often the intent was
	// noticed in their turns: what tuning may look at. There is none for test.
	KnownWordings []Group `json:"known_wordings"`

	Evasion     []Evasion   `json:"evasion"`
	Calibration Calibration `json:"calibration"`
	Corpora     []CorpusFPR `json:"corpora"`
	Data        []DataSet   `json:"data,omitempty"`
	Checks      []Check     `json:"groomcheck"`

	// Scores are what a threshold can be chosen from.
	Scores []Score `json:"scores,omitempty"`
}

// Side are the figures of one split.
type Side struct {
	Accounts Setting `json:"with_accounts"`
	TextOnly Setting `json:"text_only"`
}

// Setting are figures with, or without, what is known of accounts.
type Setting struct {
	Points    []Point `json:"points"`
	Authors   []Group `json:"authors"`
	Intents   []Group `json:"intents"`   // risk turns whose intent was noticed
	Negatives Rate    `json:"negatives"` // hard negatives alerted
	Scenarios []Group `json:"scenarios"`
	Cohorts   []Group `json:"cohorts"`
	Languages []Group `json:"languages"` // harmless ones alerted
	Talk      Rate    `json:"talk"`      // made-up small talk alerted
	Latency   Latency `json:"latency"`
	Spans     Rate    `json:"spans"` // alerts that point to two places or more
}

// Point is how many risk conversations are found at a threshold.
type Point struct {
	Name      string  `json:"name"`
	Threshold float64 `json:"threshold"`
	FPR       float64 `json:"fpr"`           // of benign conversations, reached
	Benign    int     `json:"benign"`        // that it rests on
	Shown     bool    `json:"shown"`         // whether there are enough of them
	Recall    Rate    `json:"recall"`        // interval over wordings
	Negatives Rate    `json:"negatives"`     // hard negatives at or above it
	F         Latency `json:"earliness"`     // of all generated conversations
	Turns     []Group `json:"by_risk_turns"` // recall by how many risk turns there are to find
}

// Group is a rate by name.
type Group struct {
	Name string `json:"name"`
	Rate Rate   `json:"rate"`
}

// Evasion is what one way of disguise costs, on wordings that are known, over
// the same conversations.
type Evasion struct {
	Family string  `json:"family"`
	Plain  Rate    `json:"plain"`
	Evaded Rate    `json:"evaded"`
	Loss   float64 `json:"loss"`
}

// Calibration sets scores beside the share of risk conversations.
type Calibration struct {
	Bins          []Bin   `json:"bins"`
	ExpectedError float64 `json:"expected_error"`
	Share         float64 `json:"share"` // of risk conversations in the mixture
}

// CorpusFPR is what was alerted in a corpus of everyday conversations.
type CorpusFPR struct {
	Name          string  `json:"name"`
	Conversations int     `json:"conversations"`
	Messages      int     `json:"messages"`
	Alerted       Rate    `json:"alerted"`
	Bound         float64 `json:"bound"` // one-sided, 95 %: 3/n where nothing was alerted
}

// DataSet is what was found in conversations with labels from elsewhere.
type DataSet struct {
	Name      string  `json:"name"`
	Recall    Rate    `json:"recall"`
	FPR       Rate    `json:"fpr"`
	Latency   Latency `json:"latency"`
	Unlabeled int     `json:"unlabeled"` // counted as benign
}

// Score is the highest risk of one conversation.
type Score struct {
	Kind  Kind    `json:"kind"`
	Score float64 `json:"score"`
}

// Evaluate runs the detector over everything and reports. It takes all
// processors.
func Evaluate(ctx context.Context, run Run) (*Report, error) {
	if run.Conversations < 1 || run.Conversations > 1_000_000 {
		return nil, errors.New("the number of conversations is 1 to 1000000")
	}
	e := &evaluation{Run: run}
	if e.Progress == nil {
		e.Progress = func(string, int, int) {}
	}
	r := &Report{
		TestDigest: run.Data.TestDigest(), Seed: run.Seed, Threshold: run.Threshold, Filled: run.Filler != nil,
		Conversations: map[Kind]int{}, Authors: run.Data.Authors(Test),
	}
	leaked, err := leak(run.Data, run.Seed, 3*leakShapes)
	if err != nil {
		return nil, err
	}
	r.Leaked = leaked.Share
	if v, ok := run.Detector.(interface{ Version() string }); ok {
		r.Detector = v.Version()
	}
	for _, part := range []func(context.Context, *Report) error{e.corpora, e.heldOut, e.known, e.checks} {
		if err := part(ctx, r); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// leakShapes is how many conversations of each kind are searched for words that
// both sides have.
const leakShapes = 200

type evaluation struct {
	Run
	benign []*Outcome // of corpora
}

func (e *evaluation) corpora(ctx context.Context, r *Report) error {
	for _, c := range e.Corpora {
		out, err := judgeStream(ctx, e.Detector, c.Name, c.Messages, c.Labels, func(n int) { e.Progress(c.Name, n, 0) })
		if err != nil {
			return fmt.Errorf("%s: %w", c.Name, err)
		}
		if c.Labels != nil {
			r.Data = append(r.Data, dataSet(c, out))
			continue
		}
		messages := 0
		for _, o := range out {
			messages += o.Messages
		}
		f := CorpusFPR{Name: c.Name, Conversations: len(out), Messages: messages, Alerted: share(out, alerted), Bound: ruleOfThree(len(out))}
		if f.Alerted.Hits > 0 {
			f.Bound = upper95(f.Alerted.Hits, f.Alerted.Of)
		}
		r.Corpora = append(r.Corpora, f)
		e.benign = append(e.benign, out...)
	}
	return nil
}

// upper95 is the one-sided upper bound on a rate at 95 %.
func upper95(hits, of int) float64 {
	return solve(func(p float64) bool { return binomial(hits, of, p) <= 0.05 })
}

func dataSet(c Corpus, out []*Outcome) DataSet {
	risk, rest := ofKind(out, Risk), slices.DeleteFunc(slices.Clone(out), func(o *Outcome) bool { return o.Kind == Risk })
	d := DataSet{Name: c.Name, Recall: share(risk, alerted), FPR: share(rest, alerted), Latency: latency(out, atAlert)}
	for _, o := range out {
		if c.Labels[o.Conversation] == nil {
			d.Unlabeled++
		}
	}
	return d
}

func alerted(o *Outcome) bool { return o.Alert > 0 }

func atAlert(o *Outcome) (message, riskTurns int, ok bool) { return o.Alert, o.AlertRisk, o.Alert > 0 }

func ofKind(outcomes []*Outcome, kinds ...Kind) []*Outcome {
	var out []*Outcome
	for _, o := range outcomes {
		if slices.Contains(kinds, o.Kind) {
			out = append(out, o)
		}
	}
	return out
}

func share(outcomes []*Outcome, is func(*Outcome) bool) Rate {
	n := 0
	for _, o := range outcomes {
		if is(o) {
			n++
		}
	}
	return rate(n, len(outcomes))
}

// groups tells rates apart by name, those without one left out.
func groups(outcomes []*Outcome, name func(*Outcome) string, rated func([]*Outcome) Rate) []Group {
	by := map[string][]*Outcome{}
	for _, o := range outcomes {
		if n := name(o); n != "" {
			by[n] = append(by[n], o)
		}
	}
	out := []Group{}
	for _, n := range sortedKeys(by) {
		out = append(out, Group{n, rated(by[n])})
	}
	return out
}

// byTurns tells conversations apart by how many risk turns they have.
func byTurns(outcomes []*Outcome, rated func([]*Outcome) Rate) []Group {
	var out []Group
	from := 1
	for _, to := range []int{3, 5, 9, math.MaxInt} {
		within := slices.DeleteFunc(slices.Clone(outcomes), func(o *Outcome) bool { return len(o.RiskTurns) < from || len(o.RiskTurns) > to })
		name := fmt.Sprintf("%d to %d", from, to)
		if to == math.MaxInt {
			name = fmt.Sprintf("%d or more", from)
		}
		out = append(out, Group{name, rated(within)})
		from = to + 1
	}
	return out
}

func names(groups []Group) (out []string) {
	for _, g := range groups {
		out = append(out, g.Name)
	}
	return out
}

func rates(groups []Group) (out []string) {
	for _, g := range groups {
		out = append(out, g.Rate.String())
	}
	return out
}

// turnGroups tells apart how many risk turns were noticed, by what name says.
func turnGroups(outcomes []*Outcome, name func(*RiskTurn) string) []Group {
	hits, of := map[string]int{}, map[string]int{}
	for _, o := range outcomes {
		for i := range o.RiskTurns {
			n := name(&o.RiskTurns[i])
			of[n]++
			if o.noticed[i] {
				hits[n]++
			}
		}
	}
	out := []Group{}
	for _, n := range sortedKeys(of) {
		out = append(out, Group{n, rate(hits[n], of[n])})
	}
	return out
}

// side judges the conversations of one split, with and without accounts.
func (e *evaluation) side(ctx context.Context, split Split, name string) (Side, []*Outcome, error) {
	var s Side
	g, err := NewGenerator(e.Data, Options{Seed: e.Seed, Split: split, Languages: e.Languages, Filler: e.Filler})
	if err != nil {
		return s, nil, err
	}
	n := 3 * e.Conversations
	with, err := judge(ctx, e.Detector, n, g.Conversation, true, func(i int) { e.Progress(name, i, 2*n) })
	if err != nil {
		return s, nil, err
	}
	without, err := judge(ctx, e.Detector, n, g.Conversation, false, func(i int) { e.Progress(name, n+i, 2*n) })
	if err != nil {
		return s, nil, err
	}
	s.Accounts, s.TextOnly = e.setting(with), e.setting(without)
	for _, set := range []*Setting{&s.Accounts, &s.TextOnly} {
		if !g.hasCouples() {
			continue
		}
		n := len(couples) * max(50, e.Conversations/4)
		out, err := judge(ctx, e.Detector, n, g.Couple, set == &s.Accounts, func(i int) { e.Progress("couples", i, n) })
		if err != nil {
			return s, nil, err
		}
		set.Cohorts = groups(out, func(o *Outcome) string { return o.Cohort }, func(os []*Outcome) Rate { return share(os, alerted) })
	}
	return s, with, nil
}

func (e *evaluation) setting(outcomes []*Outcome) Setting {
	risk, negatives, talk := ofKind(outcomes, Risk), ofKind(outcomes, Negative), ofKind(outcomes, Talk)
	plain := func(os []*Outcome) Rate { return share(os, alerted) }
	s := Setting{
		Intents:   turnGroups(risk, func(t *RiskTurn) string { return t.Intent }),
		Authors:   groups(risk, func(o *Outcome) string { return o.Author }, func(os []*Outcome) Rate { return recallByWording(os, alerted, e.Seed) }),
		Negatives: plain(negatives), Talk: plain(talk),
		Scenarios: groups(negatives, func(o *Outcome) string { return o.Scenario }, plain),
		Languages: groups(append(slices.Clone(negatives), talk...), func(o *Outcome) string { return o.Language }, plain),
		Latency:   latency(outcomes, atAlert),
		Spans: share(slices.DeleteFunc(slices.Clone(risk), func(o *Outcome) bool { return o.Alert == 0 }),
			func(o *Outcome) bool { return o.Spans >= 2 }),
	}
	// Thresholds come from what is plainly benign: the hard negatives are what
	// they are held against.
	var scores []float64
	for _, o := range append(slices.Clone(talk), e.benign...) {
		scores = append(scores, o.Score())
	}
	for _, at := range []float64{1e-2, 1e-3} {
		threshold, reached := thresholdAt(scores, at)
		p := e.point(fmt.Sprintf("FPR %g", at), threshold, outcomes)
		p.FPR, p.Benign, p.Shown = reached, len(scores), float64(len(scores))*at >= 1
		s.Points = append(s.Points, p)
	}
	p := e.point("configured", e.Threshold, outcomes)
	p.Benign, p.Shown = len(scores), true
	for _, v := range scores {
		if v >= e.Threshold {
			p.FPR += 1 / float64(len(scores))
		}
	}
	s.Points = append(s.Points, p)
	return s
}

func (e *evaluation) point(name string, threshold float64, outcomes []*Outcome) Point {
	reached := func(o *Outcome) (int, int, bool) { return o.Reached(threshold) }
	is := func(o *Outcome) bool { _, _, ok := reached(o); return ok }
	risk, recall := ofKind(outcomes, Risk), func(os []*Outcome) Rate { return recallByWording(os, is, e.Seed) }
	return Point{
		Name: name, Threshold: threshold, Recall: recall(risk), Turns: byTurns(risk, recall),
		Negatives: share(ofKind(outcomes, Negative), is), F: latency(outcomes, reached),
	}
}

func (e *evaluation) heldOut(ctx context.Context, r *Report) error {
	side, outcomes, err := e.side(ctx, Test, "held-out wordings")
	if err != nil {
		return err
	}
	r.HeldOut = side
	wordings := map[string]bool{}
	for _, o := range outcomes {
		r.Conversations[o.Kind]++
		r.Scores = append(r.Scores, Score{o.Kind, o.Score()})
		if o.Kind == Risk {
			for _, w := range o.Wordings {
				wordings[w] = true
			}
		}
	}
	for _, o := range e.benign {
		r.Scores = append(r.Scores, Score{Benign, o.Score()})
	}
	r.Wordings = len(wordings)
	r.Calibration.Bins, r.Calibration.ExpectedError = calibration(outcomes)
	r.Calibration.Share = float64(r.Conversations[Risk]) / float64(max(1, len(outcomes)))
	return nil
}

func (e *evaluation) known(ctx context.Context, r *Report) error {
	side, outcomes, err := e.side(ctx, Train, "known wordings")
	if err != nil {
		return err
	}
	r.Known = side
	r.KnownWordings = turnGroups(outcomes, func(t *RiskTurn) string { return t.Wording })
	slices.SortStableFunc(r.KnownWordings, func(a, b Group) int { return cmp.Compare(a.Rate.Value, b.Rate.Value) })
	shown := 0
	recall := func(family string) (Rate, error) {
		g, err := NewGenerator(e.Data, Options{Seed: e.Seed, Split: Train, Languages: e.Languages, Filler: e.Filler, Obfuscation: family})
		if err != nil {
			return Rate{}, err
		}
		out, err := judge(ctx, e.Detector, e.Conversations, g.Risk, true, func(i int) {
			e.Progress("disguised writing", shown+i, (len(families)+1)*e.Conversations)
		})
		shown += e.Conversations
		return recallByWording(out, alerted, e.Seed), err
	}
	plain, err := recall("")
	if err != nil {
		return err
	}
	for _, f := range Families() {
		evaded, err := recall(f)
		if err != nil {
			return err
		}
		r.Evasion = append(r.Evasion, Evasion{f, plain, evaded, plain.Value - evaded.Value})
	}
	return nil
}

func (e *evaluation) checks(ctx context.Context, r *Report) (err error) {
	r.Checks, err = groomCheck(ctx, e.Detector, e.Data, e.Seed)
	return err
}

// Print writes the report as tables.
func (r *Report) Print(w io.Writer) error {
	p := &printer{w: tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	p.line("detector %s, test data %.12s, seed %d; made-up conversations, held out: %d risk in %d wordings of %s, %d hard negatives, %d small talk",
		cmp.Or(r.Detector, "unknown"), r.TestDigest, r.Seed, r.Conversations[Risk], r.Wordings, strings.Join(r.Authors, " and "),
		r.Conversations[Negative], r.Conversations[Talk])
	p.line("words shared by train and test: %.2f %%", 100*r.Leaked)
	p.line("Intervals of recall are over wordings, others exact. None of this is evidence of how it does in the field.")
	p.side("HELD-OUT WORDINGS", &r.HeldOut)
	p.side("KNOWN WORDINGS", &r.Known)

	p.table("DISGUISED WRITING, KNOWN WORDINGS", "FAMILY\tPLAIN\tDISGUISED\tLOST")
	for _, v := range r.Evasion {
		p.row("%s\t%s\t%s\t%.3f", v.Family, v.Plain, v.Evaded, v.Loss)
	}
	p.table("BENIGN CORPORA", "CORPUS\tCONVERSATIONS\tMESSAGES\tALERTED\tBOUND (95 %)")
	for _, c := range r.Corpora {
		p.row("%s\t%d\t%d\t%s\t%.2g", c.Name, c.Conversations, c.Messages, c.Alerted, c.Bound)
	}
	if len(r.Corpora) == 0 {
		p.row("none given: thresholds rest on made-up small talk, which says little; use --benign")
	}
	if len(r.Data) > 0 {
		p.table("YOUR DATA", "FILE\tRECALL\tFALSE ALARMS\tLATENCY-F1\tMEDIAN TURN\tWITHOUT LABEL")
		for _, d := range r.Data {
			p.row("%s\t%s\t%s\t%.3f\t%.0f\t%d", d.Name, d.Recall, d.FPR, d.Latency.LatencyF1, d.Latency.MedianTurn, d.Unlabeled)
		}
	}
	p.table(fmt.Sprintf("CALIBRATION (mixture with %.0f %% risk, expected error %.3f)", 100*r.Calibration.Share, r.Calibration.ExpectedError), "SCORE\tN\tMEAN\tSHARE RISK")
	for _, b := range r.Calibration.Bins {
		if b.N > 0 {
			p.row("%.1f to %.1f\t%d\t%.3f\t%.3f (%.3f to %.3f)", b.From, b.To, b.N, b.Mean, b.Observed, b.Low, b.High)
		}
	}
	p.table("GROOMCHECK", "FUNCTIONALITY\tSPLIT\tPASSED\tRISK NOTICED\tTWIN LEFT ALONE")
	for _, c := range r.Checks {
		p.row("%s\t%s\t%d of %d\t%d of %d\t%d of %d", c.Name, c.Split, c.Passed.Hits, c.Passed.Of, c.Noticed.Hits, c.Noticed.Of, c.Left.Hits, c.Left.Of)
	}
	return p.w.Flush()
}

// PrintWordings writes how often each wording of the train split was noticed,
// the least first.
func (r *Report) PrintWordings(w io.Writer) error {
	p := &printer{w: tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	p.table("KNOWN WORDINGS, risk turns noticed for what they are", "WORDING\tNOTICED")
	for _, g := range r.KnownWordings {
		p.row("%s\t%d of %d", g.Name, g.Rate.Hits, g.Rate.Of)
	}
	return p.w.Flush()
}

// String shows the share, its interval and the numbers.
func (r Rate) String() string {
	if r.Of == 0 {
		return "none"
	}
	return fmt.Sprintf("%.3f (%.3f to %.3f; %d of %d)", r.Value, r.Low, r.High, r.Hits, r.Of)
}

type printer struct{ w *tabwriter.Writer }

func (p *printer) line(format string, args ...any) { fmt.Fprintf(p.w, format+"\n", args...) }

func (p *printer) row(format string, args ...any) { fmt.Fprintf(p.w, "  "+format+"\n", args...) }

func (p *printer) table(title, head string) {
	_ = p.w.Flush() // columns of one table do not widen those of another
	p.line("\n%s", title)
	p.row("%s", head)
}

func (p *printer) side(title string, s *Side) {
	settings := []struct {
		name string
		*Setting
	}{{"with accounts", &s.Accounts}, {"text only", &s.TextOnly}}
	p.table(title, "AT\tTHRESHOLD\tRECALL\tHARD NEGATIVES\tBENIGN FPR\tLATENCY-F1\tTURN\tRISK TURNS\tERDE5\tERDE50")
	for _, set := range settings {
		for _, pt := range set.Points {
			note := ""
			if !pt.Shown {
				note = " (too few)"
			}
			p.row("%s, %s\t%.3f\t%s\t%s\t%.2g of %d%s\t%.3f\t%.0f\t%.0f\t%.3f\t%.3f", pt.Name, set.name, pt.Threshold, pt.Recall, pt.Negatives,
				pt.FPR, pt.Benign, note, pt.F.LatencyF1, pt.F.MedianTurn, pt.F.MedianRiskTurns, pt.F.ERDE5, pt.F.ERDE50)
		}
	}
	p.table(title+", recall by how many risk turns there are", "AT\t"+strings.Join(names(s.Accounts.Points[0].Turns), "\t"))
	for _, set := range settings {
		for _, pt := range set.Points {
			p.row("%s, %s\t%s", pt.Name, set.name, strings.Join(rates(pt.Turns), "\t"))
		}
	}
	pairs := func(name string, of func(*Setting) []Group) {
		p.table(title+", "+name, "\tWITH ACCOUNTS\tTEXT ONLY")
		texts := of(&s.TextOnly)
		for i, g := range of(&s.Accounts) {
			p.row("%s\t%s\t%s", g.Name, g.Rate, texts[i].Rate)
		}
	}
	pairs("risk turns noticed for what they are, by intent", func(s *Setting) []Group { return s.Intents })
	pairs("recall by author", func(s *Setting) []Group { return s.Authors })
	pairs("hard negatives alerted, by scenario", func(s *Setting) []Group {
		return append(slices.Clone(s.Scenarios), Group{"all", s.Negatives}, Group{"made-up small talk", s.Talk})
	})
	pairs("couples of the same age alerted, in conversations that differ in nothing else", func(s *Setting) []Group { return s.Cohorts })
	pairs("harmless alerted, by language", func(s *Setting) []Group { return s.Languages })
	pairs("alerts that point to two places or more", func(s *Setting) []Group { return []Group{{"risk conversations", s.Spans}} })
}
