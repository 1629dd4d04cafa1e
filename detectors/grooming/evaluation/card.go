package evaluation

import (
	"cmp"
	"fmt"
	"io"
	"strings"
)

// WriteCard writes a model card in Markdown: what the detector is for, what was
// measured and, first of all, what was not. curve is the name of the picture
// that [Report.WriteCurve] wrote beside it.
func (r *Report) WriteCard(w io.Writer, curve string) error {
	c := &card{}
	c.line("# Model card: the grooming detector of dmguard")
	c.line("")
	c.line("Detector version `%s`, alerting from a risk of %g. Test data `%.16s`, seed %d.", cmp.Or(r.Detector, "unknown"), r.Threshold, r.TestDigest, r.Seed)
	c.line("")
	c.line("## What was not shown")
	c.line("")
	for _, s := range r.caveats() {
		c.line("- %s", s)
	}
	c.line("")
	c.line("## What it is for")
	c.line("")
	c.line("It orders conversations so that people look at the likelier ones first. It finds wordings that go with grooming, adds them up")
	c.line("per sender, and puts a conversation before a reviewer with the places that speak for it. It must not be used to act on a person")
	c.line("without one, to decide who is a child or an adult, or to search for people.")
	c.line("")
	c.line("## Wordings that were held out")
	c.line("")
	c.line("%d risk conversations out of %d phrases of %d authors on whose phrases nothing was trained, %d hard negatives, %d of small talk.",
		r.Conversations[Risk], r.Wordings, len(r.Authors), r.Conversations[Negative], r.Conversations[Talk])
	c.line("Intervals of recall are over wordings: what other phrases might have given.")
	c.side(&r.HeldOut)
	c.line("## Wordings that were known")
	c.line("")
	c.line("The same over phrases that tuning may have seen. How much less is found above is how much it knows by heart.")
	c.side(&r.Known)

	c.line("## Disguised writing, known wordings")
	c.line("")
	c.head("family", "plain", "disguised", "lost")
	for _, e := range r.Evasion {
		c.row(e.Family, e.Plain.String(), e.Evaded.String(), fmt.Sprintf("%.3f", e.Loss))
	}
	c.line("")
	c.line("## Everyday conversations")
	c.line("")
	if len(r.Corpora) == 0 {
		c.line("None were given: thresholds above rest on made-up small talk, and say little.")
	} else {
		c.head("corpus", "conversations", "messages", "alerted", "95 % bound (3/n where none)")
		for _, p := range r.Corpora {
			c.row(p.Name, fmt.Sprint(p.Conversations), fmt.Sprint(p.Messages), p.Alerted.String(), fmt.Sprintf("%.2g", p.Bound))
		}
	}
	c.line("")
	if len(r.Data) > 0 {
		c.line("## Data of your own")
		c.line("")
		c.head("file", "recall", "false alarms", "latency-F1", "without label")
		for _, d := range r.Data {
			c.row(d.Name, d.Recall.String(), d.FPR.String(), fmt.Sprintf("%.3f", d.Latency.LatencyF1), fmt.Sprint(d.Unlabeled))
		}
		c.line("")
	}
	c.line("## Calibration")
	c.line("")
	c.line("![Score beside the share of risk conversations](%s)", curve)
	c.line("")
	c.line("In a mixture with %.0f %% risk conversations the score is off by %.3f on average. In the field, where hardly any conversation is risky, the",
		100*r.Calibration.Share, r.Calibration.ExpectedError)
	c.line("same score means far less: it is no probability. `dmguard model calibrate` says what a threshold would lead to at a prevalence.")
	c.line("")
	c.head("score", "conversations", "mean", "share of risk")
	for _, b := range r.Calibration.Bins {
		if b.N > 0 {
			c.row(fmt.Sprintf("%.1f to %.1f", b.From, b.To), fmt.Sprint(b.N), fmt.Sprintf("%.3f", b.Mean), fmt.Sprintf("%.3f (%.3f to %.3f)", b.Observed, b.Low, b.High))
		}
	}
	c.line("")
	c.line("## GroomCheck")
	c.line("")
	c.line("Pairs of short lines that differ in one respect. One passes where the risky line is noticed and its twin is not, or less than half as much.")
	c.line("")
	c.head("functionality", "what it shows", "split", "passed")
	for _, k := range r.Checks {
		c.row(k.Name, k.Says, string(k.Split), fmt.Sprintf("%d of %d", k.Passed.Hits, k.Passed.Of))
	}
	_, err := io.WriteString(w, c.b.String())
	if err != nil {
		return fmt.Errorf("writing the model card: %w", err)
	}
	return nil
}

// caveats is what the figures do not show, in plain words.
func (r *Report) caveats() []string {
	out := []string{
		"Nothing here is evidence of how it does in the field. No real case, and no message that an offender wrote, was looked at; every risk conversation was made up out of short, mild phrases.",
		"Those who wrote the phrases, the rules and the harmless conversations wrote for the same project. People who groom write otherwise, and change how they write.",
		"Risky turns were set into small talk by a random walk. In real conversations what comes before and after belongs together, and the other side is no list of neutral replies.",
		"Rates of false alarms hold for the corpora below, which are not direct messages between people who know each other. None of them can show a rate as low as a large platform needs.",
		"Accounts (ages, connections, behaviour) were drawn from distributions that nobody measured. What they add or cost is an assumption; the figures without them are beside.",
		"Phrases that are known came from the same hands as the rules. What is found of them shows that the machinery works, and nothing more.",
		"Languages other than English have few phrases and few harmless conversations; a figure that is missing below was not measured.",
		"Couples of the same age are compared by who the two are in made-up lines of one kind. That those come out alike does not show that no group of people is treated worse.",
		"Phrases of the test side were kept from training and from the search for weights. But the figures below have been looked at many times while the detector was built: elsewhere they would be a little worse.",
		"Weights and threshold were chosen with Ubuntu IRC, SGD and the parts of XPersona and Topical-Chat that were kept from training in view. How rarely those are alerted is no test: other talk will be alerted more often.",
		"Disguise was of six kinds, each over a whole turn. Whoever tries will find a seventh.",
		"Pictures, voice and what is said elsewhere are not looked at.",
	}
	if r.Leaked > 0 {
		out = append(out, fmt.Sprintf("%.2f %% of the test side's words in a row stand on the train side too.", 100*r.Leaked))
	}
	for _, a := range r.Authors {
		if strings.HasPrefix(a, "placeholder") {
			out = append(out, "The risk side was a placeholder taken from the rules themselves: the figures of recall mean nothing.")
			break
		}
	}
	return out
}

type card struct{ b strings.Builder }

func (c *card) line(format string, args ...any) { fmt.Fprintf(&c.b, format+"\n", args...) }

func (c *card) row(cells ...string) { c.line("| %s |", strings.Join(cells, " | ")) }

func (c *card) head(cells ...string) {
	c.row(cells...)
	c.line("%s|", strings.Repeat("|---", len(cells)))
}

func (c *card) side(s *Side) {
	c.line("")
	c.head("at", "accounts", "threshold", "recall", "hard negatives", "benign FPR", "latency-F1", "median message", "median risk turns", "ERDE5", "ERDE50")
	settings := []struct {
		name string
		*Setting
	}{{"known", &s.Accounts}, {"unknown", &s.TextOnly}}
	for _, set := range settings {
		for _, p := range set.Points {
			fpr := fmt.Sprintf("%.2g of %d", p.FPR, p.Benign)
			if !p.Shown {
				fpr += ", too few to show it"
			}
			c.row(p.Name, set.name, fmt.Sprintf("%.3f", p.Threshold), p.Recall.String(), p.Negatives.String(), fpr, fmt.Sprintf("%.3f", p.F.LatencyF1),
				fmt.Sprintf("%.0f", p.F.MedianTurn), fmt.Sprintf("%.0f", p.F.MedianRiskTurns), fmt.Sprintf("%.3f", p.F.ERDE5), fmt.Sprintf("%.3f", p.F.ERDE50))
		}
	}
	c.line("")
	c.head(append([]string{"recall at", "accounts"}, names(s.Accounts.Points[0].Turns)...)...)
	for _, set := range settings {
		for _, p := range set.Points {
			c.row(append([]string{p.Name, set.name}, rates(p.Turns)...)...)
		}
	}
	c.line("")
	c.line("Columns are by how many risk turns there are to find.")
	c.line("")
	c.pairs("risk turns noticed for what they are, by intent", s, func(s *Setting) []Group { return s.Intents })
	c.pairs("author, recall", s, func(s *Setting) []Group { return s.Authors })
	c.pairs("hard negatives alerted, by scenario", s, func(s *Setting) []Group { return s.Scenarios })
	c.pairs("couples of the same age alerted", s, func(s *Setting) []Group { return s.Cohorts })
	c.pairs("harmless alerted, by language", s, func(s *Setting) []Group { return s.Languages })
	c.line("Alerts that point to two places or more: %s.", s.Accounts.Spans)
	c.line("")
}

func (c *card) pairs(title string, s *Side, of func(*Setting) []Group) {
	groups, texts := of(&s.Accounts), of(&s.TextOnly)
	if len(groups) == 0 {
		return
	}
	c.head(title, "with accounts", "text only")
	for i, g := range groups {
		c.row(g.Name, g.Rate.String(), texts[i].Rate.String())
	}
	c.line("")
}

// WriteCurve writes the calibration curve as SVG: score to the right, share of
// risk conversations upwards, intervals as bars, the diagonal for comparison.
func (r *Report) WriteCurve(w io.Writer) error {
	const size, margin = 320, 40
	x := func(v float64) float64 { return margin + v*size }
	y := func(v float64) float64 { return margin/2 + (1-v)*size }
	var b strings.Builder
	whole := size + 2*margin
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="11">`+"\n", whole, whole, whole, whole)
	fmt.Fprintf(&b, `<title>Score beside the share of risk conversations</title><rect width="%d" height="%d" fill="#fff"/>`+"\n", whole, whole)
	for i := range 6 {
		v := float64(i) / 5
		fmt.Fprintf(&b, `<path d="M%.1f %.1fH%.1fM%.1f %.1fV%.1f" stroke="#ddd"/><text x="%.1f" y="%.1f" text-anchor="middle">%.1f</text><text x="%.1f" y="%.1f" text-anchor="end">%.1f</text>`+"\n",
			x(0), y(v), x(1), x(v), y(0), y(1), x(v), y(0)+14, v, x(0)-5, y(v)+4, v)
	}
	fmt.Fprintf(&b, `<path d="M%.1f %.1fL%.1f %.1f" stroke="#999" stroke-dasharray="4 4"/>`+"\n", x(0), y(0), x(1), y(1))
	var path []string
	for _, bin := range r.Calibration.Bins {
		if bin.N == 0 {
			continue
		}
		fmt.Fprintf(&b, `<path d="M%.1f %.1fV%.1f" stroke="#8aa"/><circle cx="%.1f" cy="%.1f" r="3.5" fill="#245"/>`+"\n",
			x(bin.Mean), y(bin.Low), y(bin.High), x(bin.Mean), y(bin.Observed))
		path = append(path, fmt.Sprintf("%.1f %.1f", x(bin.Mean), y(bin.Observed)))
	}
	fmt.Fprintf(&b, `<path d="%s" fill="none" stroke="#245" stroke-width="1.5"/>`+"\n", "M"+strings.Join(path, "L"))
	fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" text-anchor="middle">score, mean of a tenth</text>`+"\n", x(0.5), y(0)+30)
	fmt.Fprintf(&b, `<text transform="translate(12 %.1f) rotate(-90)" text-anchor="middle">share of risk conversations</text>`+"\n</svg>\n", y(0.5))
	_, err := io.WriteString(w, b.String())
	if err != nil {
		return fmt.Errorf("writing the calibration curve: %w", err)
	}
	return nil
}
