package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/dmguard/dmguard/detectors/grooming/evaluation"
	"github.com/dmguard/dmguard/pipeline"
)

func modelImportCommand() *command {
	return &command{
		name:    "import",
		args:    "FILE",
		summary: "turn conversations with labels, from CSV or the XML of PAN 2012, into what \"model eval --data\" reads",
		example: "dmguard model import --format csv --out imported conversations.csv",
		run:     runModelImport,
	}
}

func runModelImport(ctx context.Context, cl *commandLine) error {
	format := cl.String("format", "csv", "csv, with the columns conversation, sender, time, text and label; or pan12")
	predators := cl.String("predators", "", "with pan12: `file` with the ids of predators, one a line")
	lines := cl.String("lines", "", "with pan12: `file` with the telling messages, conversation and line, tab-separated")
	out := cl.String("out", "", "`folder` for messages.ndjson and labels.ndjson")
	if err := cl.parse(1, 1); err != nil {
		return err
	}
	if *out == "" {
		return errors.New("--out is needed: what is imported may be read by nobody else")
	}
	bar := newProgress(cl.err, "messages")
	defer bar.end()
	var read func(io.Reader, func(*pipeline.Message) error) ([]*evaluation.Labels, evaluation.Imported, error)
	switch *format {
	case "csv":
		if *predators != "" || *lines != "" {
			return errors.New("--predators and --lines go with pan12")
		}
		read = evaluation.ImportCSV
	case "pan12":
		var known evaluation.PAN12
		var err error
		if known.Predators, err = readIDs(*predators); err != nil {
			return err
		}
		if len(known.Predators) == 0 {
			return errors.New("--predators is needed: without it every conversation would pass for benign")
		}
		if known.Lines, err = readIDs(*lines); err != nil {
			return err
		}
		read = func(r io.Reader, write func(*pipeline.Message) error) ([]*evaluation.Labels, evaluation.Imported, error) {
			return evaluation.ImportPAN12(r, known, write)
		}
	default:
		return fmt.Errorf("--format is %q: it is csv or pan12", *format)
	}
	in, err := openPacked(cl.args()[0])
	if err != nil {
		return err
	}
	defer in.Close()
	if err := os.MkdirAll(*out, 0o700); err != nil {
		return err
	}
	var labels []*evaluation.Labels
	var count evaluation.Imported
	n := int64(0)
	err = writeFile(filepath.Join(*out, "messages.ndjson"), func(w io.Writer) error {
		var err error
		labels, count, err = read(in, func(m *pipeline.Message) error {
			if err := ctx.Err(); err != nil {
				return errors.New("interrupted: not all was imported")
			}
			b, err := evaluation.EncodeMessage(m)
			if err != nil {
				return err
			}
			if _, err := w.Write(b); err != nil {
				return fmt.Errorf("writing messages: %w", err)
			}
			n++
			bar.set(n, 0)
			return nil
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", cl.args()[0], err)
	}
	err = writeFile(filepath.Join(*out, "labels.ndjson"), func(w io.Writer) error { return evaluation.WriteLabels(w, labels...) })
	if err != nil {
		return err
	}
	bar.end()
	fmt.Fprintf(cl.err, "%d messages in %d conversations, %d of them risky; %d texts were too long and cut\n", count.Messages, count.Conversations, count.Risk, count.Cut)
	return nil
}

func readIDs(name string) (map[string]bool, error) {
	if name == "" {
		return nil, nil
	}
	f, err := openPacked(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	ids, err := evaluation.ReadIDs(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return ids, nil
}
