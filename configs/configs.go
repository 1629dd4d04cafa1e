// Package configs holds the reference configuration, the rule packs, the message
// model and the schemas of a configuration file's sections, embedded in the binary, and reads
// configuration strictly: an unknown key is a fault, and every fault is
// reported at once, with its line.
//
// It does not know what the settings mean: whoever reads them says what they
// are and checks them.
package configs

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"

	"go.yaml.in/yaml/v3"
)

// Reference is the configuration with every key at its default.
//
//go:embed dmguard.yaml
var Reference []byte

//go:embed rules
var rules embed.FS

// Rules returns the rule packs that come with the program, by file name.
func Rules() fs.FS {
	sub, err := fs.Sub(rules, "rules")
	if err != nil {
		panic(err) // the name is a constant
	}
	return sub
}

//go:embed models
var models embed.FS

// MessageModel returns the message model that comes with the program, as its
// file, or nil where none does.
func MessageModel() []byte {
	data, err := models.ReadFile("models/grooming.model")
	if err != nil {
		return nil
	}
	return data
}

// unknownKey matches how the YAML package says that a key is not known: with
// the name of a Go type, which is no concern of who writes the file.
var unknownKey = regexp.MustCompile(`field (.*) not found in type \S+`)

// MaxBytes is the size of the largest configuration file that is read.
const MaxBytes = 16 << 20

// Decode reads YAML strictly into what into points to: unknown and repeated
// keys and wrong types are errors, all of them reported with their lines. Keys
// that are absent leave what stands there, so defaults are decoded first. name
// is for the errors.
func Decode(name string, data []byte, into any) error {
	if len(data) > MaxBytes {
		return fmt.Errorf("%s: %d bytes, more than %d", name, len(data), MaxBytes)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	err := dec.Decode(into)
	if errors.Is(err, io.EOF) {
		return nil // an empty file changes nothing
	}
	if err != nil {
		if typed, ok := errors.AsType[*yaml.TypeError](err); ok {
			var faults []error
			for _, e := range typed.Errors {
				faults = append(faults, fmt.Errorf("%s: %s", name, unknownKey.ReplaceAllString(e, "unknown key $1")))
			}
			return errors.Join(faults...)
		}
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := dec.Decode(new(any)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: more than one document", name)
	}
	return nil
}
