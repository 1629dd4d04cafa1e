package lists

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dmguard/dmguard/hashdb"
)

// Settings are what a platform says of a list that it uses.
type Settings struct {
	// Category is the kind of harm of records that name none.
	Category string `yaml:"category,omitempty"`
	// Thresholds are distances in bits up to which entries match, by kind; [hashdb.Kind.Threshold] where absent, and never more.
	Thresholds map[hashdb.Kind]int `yaml:"thresholds,omitempty"`
	// Negative says that the list names known false positives: a match with it suppresses others, visibly.
	Negative bool `yaml:"negative,omitempty"`
	// Expires is when the list is no longer to be acted upon without a person, or zero; MaxAge is how old its last
	// update may be until then, or zero.
	Expires time.Time     `yaml:"expires,omitempty"`
	MaxAge  time.Duration `yaml:"max_age,omitempty"`
	// Contact is whom to ask about the list.
	Contact string `yaml:"contact,omitempty"`
}

// Validate reports every fault at once.
func (s *Settings) Validate() error {
	var errs []error
	for what, text := range map[string]string{"category": s.Category, "contact": s.Contact} {
		if err := hashdb.Printable(text); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	for k, t := range s.Thresholds {
		if t < 0 || t > k.Threshold() {
			errs = append(errs, fmt.Errorf("thresholds: %d for %s, want 0 to %d", t, k, k.Threshold()))
		}
	}
	if s.MaxAge < 0 {
		errs = append(errs, errors.New("max_age is negative"))
	}
	return errors.Join(errs...)
}

// Digest names the settings: equal ones have the same, and those that say nothing have "".
func (s *Settings) Digest() string {
	var b strings.Builder
	if s.Category != "" {
		fmt.Fprintf(&b, "category %q\n", s.Category)
	}
	for _, k := range hashdb.Kinds() {
		if t, ok := s.Thresholds[k]; ok {
			fmt.Fprintf(&b, "threshold %s %d\n", k, t)
		}
	}
	if s.Negative {
		fmt.Fprintln(&b, "negative")
	}
	if !s.Expires.IsZero() {
		fmt.Fprintf(&b, "expires %s\n", s.Expires.UTC().Format(time.RFC3339Nano))
	}
	if s.MaxAge != 0 {
		fmt.Fprintf(&b, "max_age %s\n", s.MaxAge)
	}
	if s.Contact != "" {
		fmt.Fprintf(&b, "contact %q\n", s.Contact)
	}
	if b.Len() == 0 {
		return ""
	}
	return textDigest(b.String())
}
