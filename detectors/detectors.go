package detectors

import (
	"errors"
	"fmt"

	"github.com/dmguard/dmguard/detectors/grooming"
	"github.com/dmguard/dmguard/detectors/hashmatch"
	"github.com/dmguard/dmguard/hashdb"
	"github.com/dmguard/dmguard/hashdb/lists"
	"github.com/dmguard/dmguard/pipeline"
)

// Config holds the settings of every detector. One whose section is absent or
// empty is off; "canary: {}" turns on one that has no settings.
type Config struct {
	Canary    *CanaryConfig     `yaml:"canary"`
	Hashmatch *hashmatch.Config `yaml:"hashmatch"`
	Grooming  *grooming.Config  `yaml:"grooming"`
}

// Deps are what detectors work with beside their settings. All of it is read
// only from here on.
type Deps struct {
	// Canary is the string that the canary looks for, drawn at random for each
	// deployment: at least 16 bytes.
	Canary string

	// Lists are the hash lists in force; nil for none. Governance says how far
	// their matches are acted upon; nil lets every one stand.
	Lists      *hashdb.Set
	Governance *lists.Governance

	// RulePacks are the files of grooming's rule packs, by name.
	RulePacks map[string][]byte

	// Grooming is the grooming detector in force so far, of which the next takes
	// over what has not changed; nil for none.
	Grooming *grooming.Detector

	// MessageModel is grooming's model; nil for none.
	MessageModel *grooming.MessageModel
}

// Build returns the detectors that cfg turns on, or every fault of their
// settings. It is the catalogue: nothing registers itself, so what is here is
// all there is.
func Build(cfg Config, deps Deps) ([]pipeline.Detector, error) {
	var b builder
	add(&b, "canary", cfg.Canary, func(CanaryConfig) (*canary, error) { return newCanary(deps.Canary) })
	add(&b, "hashmatch", cfg.Hashmatch, func(c hashmatch.Config) (*hashmatch.Detector, error) {
		return hashmatch.New(c, deps.Lists, deps.Governance)
	})
	add(&b, "grooming", cfg.Grooming, func(c grooming.Config) (*grooming.Detector, error) {
		d, err := deps.Grooming.Renew(c, deps.RulePacks)
		if err != nil {
			return nil, err
		}
		return d.With(deps.MessageModel), nil
	})
	return b.detectors, errors.Join(b.errs...)
}

type builder struct {
	detectors []pipeline.Detector
	errs      []error
}

func add[C any, D pipeline.Detector](b *builder, name string, cfg *C, build func(C) (D, error)) {
	if cfg == nil {
		return
	}
	d, err := build(*cfg)
	if err != nil {
		b.errs = append(b.errs, fmt.Errorf("detector %s: %w", name, err))
		return
	}
	b.detectors = append(b.detectors, d)
}
