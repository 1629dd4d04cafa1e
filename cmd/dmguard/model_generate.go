package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/dmguard/dmguard/detectors/grooming/evaluation"
)

func modelGenerateCommand() *command {
	return &command{
		name:    "generate",
		summary: "make conversations up from short phrases: risky ones, harmless ones close to them, small talk",
		example: "dmguard model generate --seed 7 --conversations 30 --split train --out made-up",
		run:     runModelGenerate,
	}
}

// maxGenerated bounds what one run writes.
const maxGenerated = 10_000_000

func runModelGenerate(ctx context.Context, cl *commandLine) error {
	var opt evaluation.Options
	var benign fileList
	cl.Uint64Var(&opt.Seed, "seed", 1, "equal seeds give equal conversations")
	n := cl.Int("conversations", 300, "how many: a third risky, a third harmless and close to them, a third small talk")
	split := cl.String("split", string(evaluation.Train), "train or test: which phrases, scripts and fillers are used; nothing that learns may see test")
	languages := cl.String("language", "", "languages, separated by commas; all without")
	authors := cl.String("authors", "", "authors of risky phrases, separated by commas; all without")
	cl.StringVar(&opt.Obfuscation, "obfuscation", evaluation.Mixed, "how risky turns are disguised: empty for not at all, mixed for some of the conversations, or one of "+joinList(evaluation.Families()))
	cl.Var(&benign, "benign", "`file` of everyday messages to mix in (NDJSON, also .zst and .gz); may be given several times")
	lines := cl.Int("lines", 0, "write texts to train on instead of conversations: each phrase and line of a script so often, those of the other split once to test, wordings of the rules, a file a language, and everyday talk")
	out := cl.String("out", "-", "`folder` for messages.ndjson and labels.ndjson (lines-LANGUAGE.ndjson and talk.messages.ndjson with --lines), or - for the messages alone on standard output")
	if err := cl.parse(0, 0); err != nil {
		return err
	}
	if *n < 1 || *n > maxGenerated {
		return fmt.Errorf("--conversations is 1 to %d", maxGenerated)
	}
	opt.Split, opt.Languages, opt.Authors = evaluation.Split(*split), splitList(*languages), splitList(*authors)
	data, err := evaluation.LoadData()
	if err != nil {
		return err
	}
	if *lines != 0 {
		if *lines < 1 || *lines > maxLines || *out == "-" {
			return fmt.Errorf("--lines is 1 to %d and needs a folder for --out", maxLines)
		}
		return writeLines(data, opt.Seed, *lines, *out)
	}
	bar := newProgress(cl.err, "messages read")
	if opt.Filler, err = readFiller(ctx, benign, bar); err != nil {
		return err
	}
	g, err := evaluation.NewGenerator(data, opt)
	if err != nil {
		return err
	}
	w := &generated{generator: g}
	bar = newProgress(cl.err, "conversations")
	defer bar.end()
	if *out == "-" {
		b := bufio.NewWriter(cl.out)
		return errors.Join(w.write(ctx, *n, b, io.Discard, bar), b.Flush())
	}
	if err := os.MkdirAll(*out, 0o750); err != nil {
		return err
	}
	return writeFile(filepath.Join(*out, "labels.ndjson"), func(labels io.Writer) error {
		return writeFile(filepath.Join(*out, "messages.ndjson"), func(b io.Writer) error { return w.write(ctx, *n, b, labels, bar) })
	})
}

// maxLines is how often a phrase is written to train on at most.
const maxLines = 100

// writeLines writes what a message model is trained on: the train side so often,
// the wordings of the rules, the test side once, and everyday talk of the train
// side.
func writeLines(data *evaluation.Data, seed uint64, variants int, out string) error {
	if err := os.MkdirAll(out, 0o750); err != nil {
		return err
	}
	packs, err := rulePacks(&Config{})
	if err != nil {
		return err
	}
	rules, err := data.RuleLines(seed, packs)
	if err != nil {
		return err
	}
	by := map[string][]evaluation.TrainingLine{}
	for _, l := range slices.Concat(data.Lines(seed, evaluation.Train, variants), rules, data.Lines(seed, evaluation.Test, 1)) {
		by[l.Language] = append(by[l.Language], l)
	}
	for language, lines := range by {
		err := writeFile(filepath.Join(out, "lines-"+language+".ndjson"), func(w io.Writer) error {
			for i := range lines {
				b, err := lines[i].Encode()
				if err == nil {
					_, err = w.Write(b)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return writeFile(filepath.Join(out, "talk.messages.ndjson"), func(w io.Writer) error {
		for _, m := range data.TalkMessages(evaluation.Train) {
			b, err := evaluation.EncodeMessage(m)
			if err == nil {
				_, err = w.Write(b)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// writeFile writes a file that nobody else may read, as made-up as it is: it
// may hold what --benign named.
func writeFile(name string, write func(io.Writer) error) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	b := bufio.NewWriterSize(f, 256<<10)
	return errors.Join(write(b), b.Flush(), f.Close())
}

type generated struct {
	generator *evaluation.Generator
}

func (g *generated) write(ctx context.Context, n int, messages, labels io.Writer, bar *progress) error {
	for i := range n {
		if err := ctx.Err(); err != nil {
			return errors.New("interrupted: not all was written")
		}
		c := g.generator.Conversation(i)
		for _, m := range c.Messages {
			b, err := evaluation.EncodeMessage(m)
			if err != nil {
				return err
			}
			if _, err := messages.Write(b); err != nil {
				return fmt.Errorf("writing messages: %w", err)
			}
		}
		if err := evaluation.WriteLabels(labels, &c.Labels); err != nil {
			return err
		}
		bar.set(int64(i+1), int64(n))
	}
	return nil
}
