package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/dmguard/dmguard/detectors/grooming/evaluation"
)

func modelEvalCommand() *command {
	return &command{
		name:    "eval",
		summary: "measure the grooming detector: what it finds, how early, what it alerts wrongly, what disguise costs",
		example: "dmguard model eval --conversations 20 --json",
		run:     runModelEval,
	}
}

func runModelEval(ctx context.Context, cl *commandLine) error {
	var run evaluation.Run
	var benign, data fileList
	config := cl.String("config", os.Getenv("DMGUARD_CONFIG"), "configuration `file`, for the detector's settings (environment: DMGUARD_CONFIG)")
	cl.Uint64Var(&run.Seed, "seed", 1, "equal seeds give equal conversations")
	cl.IntVar(&run.Conversations, "conversations", 500, "how many made-up conversations of each kind, risky, close to risky, small talk, and of each split")
	languages := cl.String("language", "", "languages of made-up conversations, separated by commas; all without")
	cl.Var(&benign, "benign", "`file` of everyday conversations (NDJSON, also .zst and .gz); may be given several times")
	cl.Var(&data, "data", "`file` of conversations with labels beside it in FILE.labels.ndjson, or labels.ndjson in its folder; may be given several times")
	fill := cl.Bool("fill", false, "also mix the benign files into the made-up conversations")
	card := cl.String("card", "", "`file` for a model card in Markdown; its calibration curve is written beside it as SVG")
	wordings := cl.Bool("wordings", false, "also list how often each phrase of the train split was noticed")
	asJSON := cl.Bool("json", false, "print JSON, with the scores that \"model calibrate\" takes")
	if err := cl.parse(0, 0); err != nil {
		return err
	}
	run.Languages = splitList(*languages)
	det, cfg, err := groomingDetector(*config)
	if err != nil {
		return err
	}
	run.Detector, run.Threshold = det, cfg.Review
	if run.Data, err = evaluation.LoadData(); err != nil {
		return err
	}
	if *fill {
		if run.Filler, err = readFiller(ctx, benign, newProgress(cl.err, "messages read")); err != nil {
			return err
		}
	}
	for _, name := range benign {
		run.Corpora = append(run.Corpora, evaluation.Corpus{Name: corpusName(name), Messages: fileMessages(name)})
	}
	for _, name := range data {
		labels, err := fileLabels(name)
		if err != nil {
			return err
		}
		run.Corpora = append(run.Corpora, evaluation.Corpus{Name: corpusName(name), Messages: fileMessages(name), Labels: labels})
	}
	bar := &partProgress{make: func(part string) *progress { return newProgress(cl.err, part) }}
	run.Progress = bar.set
	report, err := evaluation.Evaluate(ctx, run)
	bar.end()
	if err != nil {
		return err
	}
	if *card != "" {
		if err := writeCard(report, *card); err != nil {
			return err
		}
	}
	if *asJSON {
		return json.MarshalWrite(cl.out, report, json.Deterministic(true), jsontext.WithIndent("  "))
	}
	if err := report.Print(cl.out); err != nil || !*wordings {
		return err
	}
	return report.PrintWordings(cl.out)
}

// writeCard writes the model card and the picture that it shows.
func writeCard(r *evaluation.Report, name string) error {
	curve := strings.TrimSuffix(name, filepath.Ext(name)) + ".calibration.svg"
	return errors.Join(
		writeFile(name, func(w io.Writer) error { return r.WriteCard(w, filepath.Base(curve)) }),
		writeFile(curve, r.WriteCurve),
	)
}

// corpusName is the name of a file without what says how it is packed.
func corpusName(name string) string {
	base := filepath.Base(name)
	for _, ext := range []string{".zst", ".gz", ".ndjson", ".messages"} {
		base = strings.TrimSuffix(base, ext)
	}
	return base
}

// fileLabels reads the labels that lie beside a file of messages.
func fileLabels(name string) (map[string]*evaluation.Labels, error) {
	beside := []string{name + ".labels.ndjson", filepath.Join(filepath.Dir(name), "labels.ndjson")}
	for _, labels := range beside {
		f, err := os.Open(labels)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		defer f.Close()
		l, err := evaluation.ReadLabels(f)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", labels, err)
		}
		return l, nil
	}
	return nil, fmt.Errorf("%s: its labels are neither in %s nor in %s", name, beside[0], beside[1])
}
