package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/dmguard/dmguard/detectors/grooming/evaluation"
)

func modelCalibrateCommand() *command {
	return &command{
		name:    "calibrate",
		summary: "which threshold fills a review queue and no more, and what share of it would be right",
		example: "dmguard model calibrate --reviews-per-day 1800 --messages-per-day 1e9 --prevalence 4e-6 --scores eval.json",
		run:     runModelCalibrate,
	}
}

func runModelCalibrate(_ context.Context, cl *commandLine) error {
	var b evaluation.Budget
	cl.Float64Var(&b.ReviewsPerDay, "reviews-per-day", 0, "conversations that reviewers can look at in a day")
	messages := cl.Float64("messages-per-day", 0, "messages that come in in a day")
	each := cl.Float64("messages-per-conversation", 20, "of them that belong to one conversation, on average")
	cl.Float64Var(&b.Prevalence, "prevalence", 1e-5, "share of conversations of a day that are risky: nobody knows it, so try several")
	scores := cl.String("scores", "", "`file` that \"model eval --json\" printed")
	reviewed := cl.String("reviewed", "", "CSV `file` of all cases that were reviewed in some days, with the columns score and decision (confirm or dismiss)")
	days := cl.Float64("days", 0, "with --reviewed: how many days")
	asJSON := cl.Bool("json", false, "print JSON")
	if err := cl.parse(0, 0); err != nil {
		return err
	}
	if (*scores == "") == (*reviewed == "") {
		return errors.New("either --scores or --reviewed is needed")
	}
	p, err := propose(b, *scores, *reviewed, *messages, *each, *days)
	if err != nil {
		return err
	}
	if *asJSON {
		return json.MarshalWrite(cl.out, p, json.Deterministic(true), jsontext.WithIndent("  "))
	}
	p.Print(cl.out)
	return nil
}

func propose(b evaluation.Budget, scores, reviewed string, messages, each, days float64) (*evaluation.Proposal, error) {
	name := scores + reviewed
	f, err := openPacked(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if reviewed != "" {
		cases, err := evaluation.ReadReviewed(f)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return evaluation.ProposeFromReviews(cases, days, b.ReviewsPerDay)
	}
	if !(messages > 0) || !(each >= 1) {
		return nil, errors.New("--messages-per-day is more than 0, and --messages-per-conversation at least 1")
	}
	b.ConversationsPerDay = messages / each
	var report evaluation.Report
	if err := json.UnmarshalRead(f, &report); err != nil {
		return nil, fmt.Errorf("%s: not what \"model eval --json\" prints", name)
	}
	return evaluation.ProposeFromScores(report.Scores, b)
}
