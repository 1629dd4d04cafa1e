package access

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Role is a set of rights that a reviewer holds.
type Role string

// Roles. [Admin] and [Auditor] never see content, and nobody who does may hold
// them: see [Reviewer.Validate].
const (
	Review  Role = "reviewer"   // works the queue
	Liaison Role = "le_liaison" // answers valid law-enforcement requests
	Auditor Role = "auditor"    // watches the numbers
	Admin   Role = "admin"      // runs the service
)

// Roles returns all roles.
func Roles() []Role { return []Role{Review, Liaison, Auditor, Admin} }

// MaxIDLength is how long the id of a reviewer may be, in bytes.
const MaxIDLength = 64

// Reviewer is a person, or a program acting for one.
type Reviewer struct {
	ID    string
	Roles []Role
}

// Has reports whether the reviewer holds the role.
func (r Reviewer) Has(role Role) bool { return slices.Contains(r.Roles, role) }

// Validate reports every fault at once: an id that is empty, long or not made
// of letters, digits and "._@-", no roles or unknown ones, and roles that one
// person must not hold together.
func (r Reviewer) Validate() error {
	var errs []error
	if !validID(r.ID) {
		errs = append(errs, fmt.Errorf("reviewer id %q: want 1 to %d letters, digits or any of ._@-", r.ID, MaxIDLength))
	}
	if len(r.Roles) == 0 {
		errs = append(errs, fmt.Errorf("reviewer %q has no roles: want some of %s", r.ID, roleNames()))
	}
	for i, role := range r.Roles {
		if !slices.Contains(Roles(), role) {
			errs = append(errs, fmt.Errorf("reviewer %q has the unknown role %q: it is one of %s", r.ID, role, roleNames()))
		}
		if slices.Contains(r.Roles[:i], role) {
			errs = append(errs, fmt.Errorf("reviewer %q has the role %q twice", r.ID, role))
		}
	}
	if r.conflicted() {
		errs = append(errs, fmt.Errorf("reviewer %q reads content and also holds %q or %q: give these to different people", r.ID, Auditor, Admin))
	}
	return errors.Join(errs...)
}

// conflicted reports whether someone who reads content also runs or audits the
// service: the people who could hide a misuse must not be able to commit it.
func (r Reviewer) conflicted() bool {
	return (r.Has(Review) || r.Has(Liaison)) && (r.Has(Auditor) || r.Has(Admin))
}

func validID(id string) bool {
	return id != "" && len(id) <= MaxIDLength && strings.IndexFunc(id, func(c rune) bool {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.ContainsRune("._@-", c):
			return false
		}
		return true
	}) < 0
}

func roleNames() string {
	names := make([]string, 0, len(Roles()))
	for _, r := range Roles() {
		names = append(names, string(r))
	}
	return strings.Join(names, ", ")
}

// Purpose is the lawful reason for reading content.
type Purpose string

// Purposes.
const (
	SafetyReview Purpose = "safety_review"           // the basis is the id of the case
	UserReport   Purpose = "user_report"             // the basis is the id of a user's report
	LegalRequest Purpose = "law_enforcement_request" // the basis is the reference of the request
)

// Purposes returns all purposes.
func Purposes() []Purpose { return []Purpose{SafetyReview, UserReport, LegalRequest} }

// ParsePurpose returns the purpose with this name. The set is closed: there is
// no "other".
func ParsePurpose(s string) (Purpose, error) {
	if p := Purpose(s); slices.Contains(Purposes(), p) {
		return p, nil
	}
	return "", fmt.Errorf("unknown purpose: it is one of %q", Purposes())
}

// Action is something a reviewer wants to do. The zero Action is allowed to
// nobody.
type Action struct {
	Verb    Verb
	Purpose Purpose // of a reveal, "" otherwise
}

func (a Action) String() string {
	if a.Purpose == "" {
		return string(a.Verb)
	}
	return string(a.Verb) + " for " + string(a.Purpose)
}

// Verb is what an action does.
type Verb string

// Verbs.
const (
	VerbClaim  Verb = "claim"  // take the next case, keep it, give it back, see it masked
	VerbReveal Verb = "reveal" // read content of a case
	VerbDecide Verb = "decide" // decide a case
	VerbCount  Verb = "count"  // see how many cases there are
)

// Verbs returns all verbs.
func Verbs() []Verb { return []Verb{VerbClaim, VerbReveal, VerbDecide, VerbCount} }

// Actions that need no purpose.
var (
	Claim  = Action{Verb: VerbClaim}
	Decide = Action{Verb: VerbDecide}
	Count  = Action{Verb: VerbCount}
)

// Reveal is the action of reading content for a purpose.
func Reveal(p Purpose) Action { return Action{VerbReveal, p} }

// ErrForbidden is wrapped by every refusal of [Allow].
var ErrForbidden = errors.New("not allowed")

// rights are all there are.
var rights = map[Role][]Action{
	Review:  {Claim, Decide, Count, Reveal(SafetyReview), Reveal(UserReport)},
	Liaison: {Claim, Count, Reveal(LegalRequest)},
	Auditor: {Count},
	Admin:   {Count},
}

// Allow returns nil where a role of the reviewer holds the right to the action,
// and otherwise an error that wraps [ErrForbidden] and says what is missing.
// Somebody who holds roles that exclude each other may do nothing.
func Allow(r Reviewer, a Action) error {
	if r.ID == "" || r.conflicted() {
		return fmt.Errorf("%w: %s: the roles of this reviewer exclude each other", ErrForbidden, a)
	}
	var need []string
	for _, role := range Roles() {
		if !slices.Contains(rights[role], a) {
			continue
		}
		if r.Has(role) {
			return nil
		}
		need = append(need, string(role))
	}
	if need == nil {
		return fmt.Errorf("%w: %s: nobody may", ErrForbidden, a)
	}
	return fmt.Errorf("%w: %s needs the role %s", ErrForbidden, a, strings.Join(need, " or "))
}
