package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/dmguard/dmguard/configs"
	"github.com/dmguard/dmguard/detectors/grooming"
	"github.com/dmguard/dmguard/detectors/grooming/training"
)

func modelTrainCommand() *command {
	return &command{
		name:    "train",
		summary: "make a message model of texts with labels and of everyday messages",
		example: "dmguard model train --data texts.ndjson --benign everyday.ndjson --licence texts=Apache-2.0 --licence everyday=CC-BY-4.0 --seed 1 --out grooming.model",
		run:     runModelTrain,
	}
}

func modelShowCommand() *command {
	return &command{
		name: "show", args: "[FILE]", summary: "print what a message model was made from, and its digest; without FILE of the one that comes with the program",
		example: "dmguard model show grooming.model", run: runModelShow,
	}
}

// list is a flag that may be given several times.
func (cl *commandLine) list(name, usage string) *[]string {
	var values []string
	cl.Func(name, usage, func(v string) error {
		values = append(values, v)
		return nil
	})
	return &values
}

func runModelTrain(ctx context.Context, cl *commandLine) error {
	cfg := training.DefaultConfig()
	data := cl.list("data", "`file` of texts with labels, or folder of such files (*.ndjson, *.ndjson.zst); may be repeated")
	benign := cl.list("benign", "`file` of everyday messages, in the format that scan reads, also packed (.zst); may be repeated")
	licences := cl.list("licence", "`NAME=LICENCE` of a file or folder, named without what follows the first dot; wanted for each")
	repeats := cl.list("repeat", "`NAME=N` for a file or folder whose texts are seen so often in an epoch; once without")
	out := cl.String("out", "", "`file` to write the model to")
	config := cl.String("config", os.Getenv("DMGUARD_CONFIG"), "configuration `file`, for the rule packs, which say what ideas texts have (environment: DMGUARD_CONFIG)")
	asJSON := cl.Bool("json", false, "write the summary as JSON")
	cl.Uint64Var(&cfg.Seed, "seed", cfg.Seed, "the same seed and data give the same file")
	cl.IntVar(&cfg.Bits, "bits", cfg.Bits, "the table has 2 to the power of this many rows")
	cl.Float64Var(&cfg.Decay, "decay", cfg.Decay, "how strongly weights are drawn to nothing")
	cl.IntVar(&cfg.Least, "least", cfg.Least, "a text counts as having this many features at least")
	cl.IntVar(&cfg.Epochs, "epochs", cfg.Epochs, "how often each text is seen")
	cl.Float64Var(&cfg.LearningRate, "learning-rate", cfg.LearningRate, "how far a text moves the model at the start; it falls to nothing")
	cl.Float64Var(&cfg.Mixed, "mixed", cfg.Mixed, "share of the texts with a label that are seen together with a benign one")
	cl.Float64Var(&cfg.Dropped, "dropped", cfg.Dropped, "share of a text's features that are left out each time it is seen")
	cl.IntVar(&cfg.MinCount, "min-count", cfg.MinCount, "features seen less often are left out")
	if err := cl.parse(0, 0); err != nil {
		return err
	}
	var errs []error
	for name, given := range map[string]bool{"data": len(*data) > 0, "benign": len(*benign) > 0, "out": *out != ""} {
		if !given {
			errs = append(errs, fmt.Errorf("flag -%s is missing", name))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	var err error
	if cfg.Rules, _, err = groomingRules(*config); err != nil {
		return err
	}
	corpora, err := readCorpora(*data, *benign, *licences, *repeats)
	if err != nil {
		return err
	}
	bar := newProgress(cl.err, "texts")
	cfg.Progress = bar.set
	file, summary, err := training.Model(ctx, cfg, corpora)
	bar.end()
	if err != nil {
		return err
	}
	if err := os.WriteFile(*out+".new", file, 0o644); err != nil { //nolint:gosec // a model is no secret
		return err
	}
	if err := os.Rename(*out+".new", *out); err != nil {
		return err
	}
	if *asJSON {
		return writeIndented(cl.out, summary)
	}
	return printSummary(cl.out, *out, summary)
}

// maxRepeat is how often a text is seen in an epoch at most.
const maxRepeat = 1000

// readCorpora reads all training data, and reports every fault.
func readCorpora(data, benign, licences, repeats []string) ([]*training.Corpus, error) {
	var errs []error
	licence := map[string]string{}
	for _, l := range licences {
		name, text, ok := strings.Cut(l, "=")
		if !ok {
			errs = append(errs, fmt.Errorf("flag -licence: %q is not NAME=LICENCE", l))
		}
		licence[name] = text
	}
	repeat := map[string]int{}
	for _, r := range repeats {
		name, text, _ := strings.Cut(r, "=")
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > maxRepeat {
			errs = append(errs, fmt.Errorf("flag -repeat: %q is not NAME=N with N from 1 to %d", r, maxRepeat))
		}
		repeat[name] = n
	}
	var corpora []*training.Corpus
	read := func(path, name string, how func(path, licence string) (*training.Corpus, error)) {
		c, err := how(path, licence[name])
		if err != nil {
			errs = append(errs, err)
			return
		}
		c.Repeat = repeat[name]
		corpora = append(corpora, c)
	}
	for _, d := range data {
		info, err := os.Stat(d)
		switch {
		case err != nil:
			errs = append(errs, err)
		case info.IsDir():
			files, err := ndjson(d)
			if err != nil {
				errs = append(errs, err)
			}
			for _, f := range files {
				name := training.Name(f)
				if _, own := licence[name]; !own {
					name = training.Name(filepath.Clean(d))
				}
				read(f, name, training.ReadLabelled)
			}
		default:
			read(d, training.Name(d), training.ReadLabelled)
		}
	}
	for _, b := range benign {
		read(b, training.Name(b), training.ReadBenign)
	}
	return corpora, errors.Join(errs...)
}

// ndjson returns the training files of a folder, sorted: their order is a part
// of what a model is made from.
func ndjson(dir string) ([]string, error) {
	entries, err := fs.ReadDir(os.DirFS(dir), ".")
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		if n := e.Name(); !e.IsDir() && (strings.HasSuffix(n, ".ndjson") || strings.HasSuffix(n, ".ndjson.zst")) {
			files = append(files, filepath.Join(dir, n))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s: no *.ndjson or *.ndjson.zst in it", dir)
	}
	slices.Sort(files)
	return files, nil
}

func writeIndented(w io.Writer, v any) error {
	if err := json.MarshalWrite(w, v, json.Deterministic(true), jsontext.WithIndent("  ")); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w)
	return err
}

func printSummary(w io.Writer, name string, s *training.Summary) error {
	fmt.Fprintf(w, "%s: %d bytes, %d rows, trained on %d texts; %d test texts are also in training\n\n", name, s.File, s.Rows, s.Messages, s.Leaked)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "test texts of\thow many\twith 2 bans\twith 3 bans\tother labels with 3 bans\t")
	for _, l := range s.Labels {
		if l.Texts > 0 {
			fmt.Fprintf(tw, "%s\t%d\t%.3f\t%.3f\t%.3f\t\n", l.Label, l.Texts, l.Bans2, l.Bans3, l.Others)
		}
	}
	for _, a := range s.Authors {
		fmt.Fprintf(tw, "author %s\t%d\t%.3f\t%.3f\t\t\n", a.Author, a.Texts, a.Bans2, a.Bans3)
	}
	for _, b := range s.Benign {
		fmt.Fprintf(tw, "%s, without a label\t%d\t%.5f\t%.5f\t\t\n", b.Name, b.Texts, b.Bans2, b.Bans3)
	}
	return tw.Flush()
}

func runModelShow(_ context.Context, cl *commandLine) error {
	if err := cl.parse(0, 1); err != nil {
		return err
	}
	data := configs.MessageModel()
	if len(cl.args()) == 1 {
		f, err := os.Open(cl.args()[0])
		if err != nil {
			return err
		}
		defer f.Close()
		if data, err = io.ReadAll(io.LimitReader(f, grooming.MaxModelBytes+1)); err != nil {
			return err
		}
	} else if data == nil {
		return errors.New("no message model comes with this program: name a file")
	}
	m, err := grooming.LoadModel(data)
	if err != nil {
		return err
	}
	return writeIndented(cl.out, struct {
		Digest string `json:"digest"`
		*grooming.ModelHeader
	}{m.Digest(), m.Header()})
}
