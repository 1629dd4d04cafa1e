package lists

import (
	"errors"
	"fmt"
)

// Bound is how much of a list one update may change without a person: so many entries, or that share of those that were
// there, whichever is more. An owner's mistake, or somebody in the owner's place, then neither empties a list nor floods it.
type Bound struct {
	Share float64 `yaml:"share"` // 0 to 1
	Floor int     `yaml:"floor"` // entries
}

// Validate reports every fault at once.
func (b Bound) Validate() error {
	var errs []error
	if !(b.Share >= 0 && b.Share <= 1) {
		errs = append(errs, errors.New("share is outside 0 to 1"))
	}
	if b.Floor < 0 {
		errs = append(errs, errors.New("floor is negative"))
	}
	return errors.Join(errs...)
}

// ErrTooLarge says that an update changes more than the bound allows and nobody has approved it.
var ErrTooLarge = errors.New("too large a change")

func (b Bound) check(c Change) error {
	if c.Leave == "" && c.Entries > b.Floor && float64(c.Entries) > b.Share*float64(c.Of) {
		return fmt.Errorf("%w: %d of %d entries come or go, allowed are %d or a share of %g", ErrTooLarge, c.Entries, c.Of, b.Floor, b.Share)
	}
	return nil
}
