package access

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

// allActions is every verb with every purpose, also those that make no sense.
func allActions() []Action {
	var all []Action
	for _, v := range append(Verbs(), "", "export") {
		for _, p := range append(Purposes(), "", "curiosity") {
			all = append(all, Action{v, p})
		}
	}
	return all
}

// roleSets are all subsets of the roles.
func roleSets() [][]Role {
	var sets [][]Role
	for bits := range 1 << len(Roles()) {
		var set []Role
		for i, r := range Roles() {
			if bits&(1<<i) != 0 {
				set = append(set, r)
			}
		}
		sets = append(sets, set)
	}
	return sets
}

// TestEveryRightIsInTheMatrix holds the whole policy, role × verb × purpose, to
// a file that a person can read: nothing becomes allowed without a line that
// says so.
func TestEveryRightIsInTheMatrix(t *testing.T) {
	var b strings.Builder
	for _, roles := range roleSets() {
		for _, a := range allActions() {
			answer := "no"
			if Allow(Reviewer{"r", roles}, a) == nil {
				answer = "YES"
			}
			names := make([]string, 0, len(roles))
			for _, r := range roles {
				names = append(names, string(r))
			}
			fmt.Fprintf(&b, "%-40s %-8q %-26q %s\n", "["+strings.Join(names, " ")+"]", a.Verb, a.Purpose, answer)
		}
	}
	const golden = "testdata/matrix.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("the policy changed; if that is meant, run go test -update and review the file (-want +got):\n%s", diff)
	}
}

func TestWhoRunsOrAuditsTheServiceNeverReadsContent(t *testing.T) {
	for _, roles := range roleSets() {
		r := Reviewer{"r", roles}
		if !r.Has(Admin) && !r.Has(Auditor) {
			continue
		}
		for _, p := range Purposes() {
			if Allow(r, Reveal(p)) == nil {
				t.Errorf("%v may reveal for %s", roles, p)
			}
		}
	}
}

func TestALegalRequestNeedsTheLiaison(t *testing.T) {
	for _, roles := range roleSets() {
		r := Reviewer{"r", roles}
		if Allow(r, Reveal(LegalRequest)) == nil && !r.Has(Liaison) {
			t.Errorf("%v may reveal for a legal request", roles)
		}
	}
	err := Allow(Reviewer{"r", []Role{Review}}, Reveal(LegalRequest))
	if !errors.Is(err, ErrForbidden) || !strings.Contains(err.Error(), string(Liaison)) {
		t.Errorf("the refusal does not say what is missing: %v", err)
	}
}

func TestNobodyMayDoAnything(t *testing.T) {
	for _, a := range allActions() {
		for _, r := range []Reviewer{{}, {ID: "r"}, {"", []Role{Review}}, {"r", []Role{"root"}}, {"r", []Role{""}}} {
			if Allow(r, a) == nil {
				t.Errorf("%+v may %s", r, a)
			}
		}
	}
}

func TestPurposesAreAClosedSet(t *testing.T) {
	for _, p := range Purposes() {
		if got, err := ParsePurpose(string(p)); err != nil || got != p {
			t.Errorf("ParsePurpose(%q) = %q, %v", p, got, err)
		}
	}
	for _, s := range []string{"", "other", "Safety_Review", "safety_review ", "user_report\n"} {
		if got, err := ParsePurpose(s); err == nil || got != "" {
			t.Errorf("ParsePurpose(%q) = %q, %v", s, got, err)
		}
	}
}

func TestAReviewerIsValidatedWithEveryFaultAtOnce(t *testing.T) {
	good := Reviewer{"alice@example.org", []Role{Review, Liaison}}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	bad := Reviewer{"a b", []Role{Review, Review, Admin, "root"}}
	err := bad.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{`id "a b"`, `unknown role "root"`, "twice", "different people"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error misses %q: %v", want, err)
		}
	}
	for _, id := range []string{"", "a\n", "é", strings.Repeat("a", MaxIDLength+1)} {
		if (Reviewer{id, []Role{Review}}).Validate() == nil {
			t.Errorf("id %q accepted", id)
		}
	}
	if (Reviewer{"a", nil}).Validate() == nil {
		t.Error("no roles accepted")
	}
}
