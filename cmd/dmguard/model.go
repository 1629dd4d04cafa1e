package main

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/dmguard/dmguard/detectors/grooming"
	"github.com/dmguard/dmguard/detectors/grooming/evaluation"
	"github.com/dmguard/dmguard/pipeline"
)

func modelCommand() *command {
	return &command{
		name:    "model",
		summary: "the grooming detector: conversations made up, its message model, its errors",
		group: []*command{
			modelGenerateCommand(), modelImportCommand(), modelTrainCommand(), modelShowCommand(), modelEvalCommand(), modelCalibrateCommand(),
		},
	}
}

// groomingRules builds the grooming detector as scan and the worker would, but
// for its message model, and returns the configuration.
func groomingRules(path string) (*grooming.Detector, *Config, error) {
	cfg, err := loadConfig(path)
	if err != nil {
		return nil, nil, err
	}
	if cfg.Detectors.Grooming == nil {
		return nil, nil, errors.New("the configuration turns the grooming detector off")
	}
	packs, err := rulePacks(cfg)
	if err != nil {
		return nil, nil, err
	}
	d, err := grooming.New(*cfg.Detectors.Grooming, packs)
	return d, cfg, err
}

// groomingDetector is groomingRules with the message model, and returns the
// settings of the detector.
func groomingDetector(path string) (*grooming.Detector, *grooming.Config, error) {
	d, cfg, err := groomingRules(path)
	if err != nil {
		return nil, nil, err
	}
	reader, err := messageModel(cfg)
	if err != nil {
		return nil, nil, err
	}
	return d.With(reader), cfg.Detectors.Grooming, nil
}

// openPacked opens a file, and unpacks it where its name ends in .zst or .gz.
func openPacked(name string) (io.ReadCloser, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	switch filepath.Ext(name) {
	case ".zst":
		z, err := zstd.NewReader(f, zstd.WithDecoderMaxMemory(256<<20))
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return &packed{z, f, z.Close}, nil
	case ".gz":
		z, err := gzip.NewReader(f)
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return &packed{z, f, func() {}}, nil
	}
	return f, nil
}

type packed struct {
	io.Reader
	file *os.File
	free func()
}

func (p *packed) Close() error {
	p.free()
	return p.file.Close()
}

// fileMessages yields the messages of a file.
func fileMessages(name string) func(yield func(*pipeline.Message, error) bool) {
	return func(yield func(*pipeline.Message, error) bool) {
		f, err := openPacked(name)
		if err != nil {
			yield(nil, err)
			return
		}
		defer f.Close()
		for m, err := range evaluation.ReadMessages(f) {
			if !yield(m, err) || err != nil {
				return
			}
		}
	}
}

// readFiller takes the messages of files in to fill conversations with.
func readFiller(ctx context.Context, files []string, bar *progress) (*evaluation.Filler, error) {
	if len(files) == 0 {
		return nil, nil
	}
	filler := evaluation.NewFiller()
	n := int64(0)
	for _, name := range files {
		for m, err := range fileMessages(name) {
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			filler.Add(m)
			n++
			bar.set(n, 0)
		}
	}
	bar.end()
	filler.Close()
	return filler, nil
}

// fileList is a flag that may be given several times.
type fileList []string

func (l *fileList) String() string { return strings.Join(*l, ",") }

func (l *fileList) Set(v string) error {
	*l = append(*l, v)
	return nil
}
