package lists

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dmguard/dmguard/hashdb"
)

func held(name EntryName) Standing {
	return Standing{name, Held, ByHand, "looks like a sticker", "alice", noon}
}

func changed(t *testing.T, dir string, change func(*Standings) error) *Standings {
	t.Helper()
	s, err := ChangeStandings(dir, change)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStandingsAreReadAsTheyWereWritten(t *testing.T) {
	dir := t.TempDir()
	if s, err := ReadStandings(dir); err != nil || s.Version() != "" || len(s.All()) != 0 {
		t.Fatalf("without a file: %+v, %v", s, err)
	}
	b := EntryName{"known", "b, \"quoted\" ü"}
	first := changed(t, dir, func(s *Standings) error {
		return errors.Join(s.Set(held(b), noon.Add(time.Minute)), s.Set(held(entryA), noon.Add(time.Minute)))
	})
	second := changed(t, dir, func(s *Standings) error {
		st := held(entryA)
		st.State, st.By = Withdrawn, "bob"
		return s.Set(st, noon.Add(time.Hour))
	})
	read, err := ReadStandings(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(second, read, cmp.AllowUnexported(Standings{})); diff != "" {
		t.Error(diff)
	}
	if first.Version() == second.Version() || !strings.HasPrefix(second.Version(), "2-") {
		t.Errorf("versions %s and %s", first.Version(), second.Version())
	}
	if st, ok := read.Of("known", "a"); !ok || st.State != Withdrawn {
		t.Errorf("%+v", st)
	}
	history := read.History()
	if len(history) != 3 || history[2].Was != Held || history[2].By != "bob" || !history[2].At.Equal(noon.Add(time.Hour)) {
		t.Errorf("history %+v", history)
	}
	if again := changed(t, dir, func(*Standings) error { return nil }); again.Version() != second.Version() {
		t.Error("a change of nothing makes a version")
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 {
		t.Errorf("%v are left, %v", left, err)
	}
}

func TestAFailedChangeLeavesTheFileAsItWas(t *testing.T) {
	dir := t.TempDir()
	changed(t, dir, func(s *Standings) error { return s.Set(held(entryA), noon) })
	before, err := os.ReadFile(filepath.Join(dir, StandingFile))
	if err != nil {
		t.Fatal(err)
	}
	_, err = ChangeStandings(dir, func(s *Standings) error {
		if err := s.Set(held(EntryName{"known", "b"}), noon); err != nil {
			return err
		}
		return s.Set(Standing{Reason: "two\nlines"}, noon)
	})
	for _, part := range []string{"list is missing", "entry is missing", "by is missing", "reason is not one line", "state", "cause", "since"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("nothing is said of %q: %v", part, err)
		}
	}
	after, err := os.ReadFile(filepath.Join(dir, StandingFile))
	if err != nil || string(before) != string(after) {
		t.Errorf("the file has changed: %v", err)
	}
}

func TestADamagedFileOfStandingsIsRefusedAndNotOverwritten(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, StandingFile)
	good := `{"format":1,"version":1,"standings":[{"list":"l","entry":"e","state":"held","cause":"hand","reason":"r","by":"a","since":"2026-03-01T12:00:00Z"}],"history":[]}`
	for _, bad := range []string{
		"", "{", `{"format":2}`, `{"format":1,"version":-1}`, `{"format":1,"version":1,"surprise":1}`,
		strings.Replace(good, `"held"`, `"free"`, 1), strings.Replace(good, `"r"`, `"\u0007"`, 1), strings.Replace(good, `"e"`, `""`, 1),
		strings.Replace(good, `]`, `,{"list":"l","entry":"e","state":"held","cause":"hand","reason":"r","by":"a","since":"2026-03-01T12:00:00Z"}]`, 1),
	} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadStandings(dir); err == nil {
			t.Errorf("%s is read", bad)
		}
		if _, err := ChangeStandings(dir, func(s *Standings) error { return s.Set(held(entryA), noon) }); err == nil {
			t.Errorf("%s is changed", bad)
		}
		if now, _ := os.ReadFile(path); string(now) != bad {
			t.Errorf("%s is overwritten", bad)
		}
	}
	if err := os.WriteFile(path, []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadStandings(dir); err != nil {
		t.Errorf("the good one is refused: %v", err)
	}
}

func TestNoChangeIsLostAmongMany(t *testing.T) {
	dir := t.TempDir()
	var all sync.WaitGroup
	const n = 20
	for i := range n {
		all.Go(func() {
			if _, err := ChangeStandings(dir, func(s *Standings) error { return s.Set(held(EntryName{"l", fmt.Sprint(i)}), noon) }); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	s, err := ReadStandings(dir)
	if err != nil || len(s.All()) != n || !strings.HasPrefix(s.Version(), fmt.Sprint(n, "-")) {
		t.Errorf("%d standings, version %s, %v", len(s.All()), s.Version(), err)
	}
}

func TestTheHistoryIsBounded(t *testing.T) {
	var s Standings
	for i := range mostHistory + 7 {
		st := held(entryA)
		st.Reason = fmt.Sprint("change ", i)
		if err := s.Set(st, noon); err != nil {
			t.Fatal(err)
		}
	}
	if h := s.History(); len(h) != mostHistory || h[0].Reason != "change 7" {
		t.Errorf("%d changes, the first %+v", len(h), h[0])
	}
}

func TestTheGovernorHoldsAndReleasesAndLeavesToPeopleWhatIsTheirs(t *testing.T) {
	g := newTestGovernor(t)
	names := map[string]EntryName{}
	for _, n := range []string{"flooded", "dismissed", "confirmed", "released", "by hand", "withdrawn"} {
		names[n] = EntryName{"known", n}
	}
	var s Standings
	govern := func(at time.Duration, want ...string) {
		t.Helper()
		made, err := s.Govern(g, noon.Add(at))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range made {
			got = append(got, c.Entry+" "+string(c.State)+" "+string(c.Cause)+" by "+c.By)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("after %v (-want +got):\n%s", at, diff)
		}
	}
	for _, n := range []string{"by hand", "withdrawn"} {
		st := held(names[n])
		if n == "withdrawn" {
			st.State = Withdrawn
		}
		if err := s.Set(st, noon); err != nil {
			t.Fatal(err)
		}
	}
	for n, name := range names {
		if n == "flooded" {
			sights(g, name, 100, noon.Add(time.Hour))
			continue
		}
		rules(g, name, 1, Dismissed, "alice", noon.Add(time.Hour))
		rules(g, name, 2, Dismissed, "bob", noon.Add(2*time.Hour))
	}
	govern(3*time.Hour, "confirmed held review by governor", "dismissed held review by governor", "flooded held flood by governor", "released held review by governor")
	govern(3 * time.Hour)

	// A person releases one; reviewers confirm others, and what a person holds.
	if err := s.Set(Standing{names["released"], Released, ByHand, "it is right", "carol", noon.Add(4 * time.Hour)}, noon); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"confirmed", "by hand", "withdrawn", "flooded"} {
		rules(g, names[n], 3, Confirmed, "alice", noon.Add(5*time.Hour))
	}
	govern(6*time.Hour, "confirmed released review by governor", "flooded released review by governor")
	govern(6 * time.Hour)
	if st, _ := s.Of("known", "by hand"); st.State != Held {
		t.Error("the governor has released what a person holds")
	}
	if st, _ := s.Of("known", "withdrawn"); st.State != Withdrawn {
		t.Error("the governor has released what a person withdrew")
	}

	// What speaks against an entry again holds it again.
	rules(g, names["released"], 4, Dismissed, "alice", noon.Add(7*time.Hour))
	govern(8 * time.Hour)
	rules(g, names["released"], 5, Dismissed, "bob", noon.Add(8*time.Hour))
	govern(9*time.Hour, "released held review by governor")
}

func TestAStaleListAsksAPerson(t *testing.T) {
	day := 24 * time.Hour
	for name, test := range map[string]struct {
		settings Settings
		updated  time.Time
		want     string
	}{
		"nothing is said":       {Settings{}, time.Time{}, ""},
		"not expired":           {Settings{Expires: noon.Add(1)}, time.Time{}, ""},
		"expired":               {Settings{Expires: noon}, noon, "the list expired on 2026-03-01"},
		"updated lately":        {Settings{MaxAge: day}, noon.Add(-day), ""},
		"not updated":           {Settings{MaxAge: day}, noon.Add(-day - 1), "the list was last updated on 2026-02-28, more than 24h0m0s ago"},
		"nobody knows":          {Settings{MaxAge: day}, time.Time{}, "nobody knows when the list was last updated"},
		"expired and as stale":  {Settings{Expires: noon.Add(-day), MaxAge: day}, time.Time{}, "the list expired on 2026-02-28"},
		"updated in the future": {Settings{MaxAge: day}, noon.Add(day), ""},
	} {
		if got := test.settings.Stale(test.updated, noon); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

func TestGovernanceHoldsBackByListAndByEntry(t *testing.T) {
	var s Standings
	withdrawn := held(EntryName{"known", "w"})
	withdrawn.State = Withdrawn
	released := held(EntryName{"known", "r"})
	released.State = Released
	for _, st := range []Standing{held(entryA), withdrawn, released, held(EntryName{"benign", "a"})} {
		if err := s.Set(st, noon); err != nil {
			t.Fatal(err)
		}
	}
	g := NewGovernance(map[string]Governed{
		"known":  {},
		"old":    {Settings: Settings{MaxAge: time.Hour}, Updated: noon.Add(-2 * time.Hour)},
		"benign": {Settings: Settings{Negative: true}},
		"narrow": {Settings: Settings{Negative: true, Thresholds: map[hashdb.Kind]int{hashdb.PDQ: 3}}},
		"gone":   {Settings: Settings{Negative: true, Expires: noon}},
	}, &s, noon)
	match := func(list, entry string, kind hashdb.Kind, distance int) *hashdb.Match {
		return &hashdb.Match{List: list, Entry: entry, Kind: kind, Distance: distance}
	}
	for _, test := range []struct {
		match *hashdb.Match
		want  []Caution
	}{
		{match("known", "x", hashdb.PDQ, 0), nil},
		{match("known", "r", hashdb.PDQ, 0), nil},
		{match("unheard", "a", hashdb.PDQ, 0), nil},
		{match("known", "a", hashdb.SHA256, 0), []Caution{{false, "the entry is held by alice since 2026-03-01: looks like a sticker"}}},
		{match("known", "w", hashdb.SHA256, 0), []Caution{{true, "the entry is withdrawn by alice since 2026-03-01: looks like a sticker"}}},
		{match("old", "x", hashdb.PDQ, 0), []Caution{{false, "the list was last updated on 2026-03-01, more than 1h0m0s ago"}}},
	} {
		if diff := cmp.Diff(test.want, g.Cautions(test.match)); diff != "" {
			t.Errorf("%s/%s: %s", test.match.List, test.match.Entry, diff)
		}
	}
	for _, test := range []struct {
		match *hashdb.Match
		want  bool
	}{
		{match("benign", "x", hashdb.SHA256, 0), true},
		{match("benign", "x", hashdb.PDQ, 10), true},
		{match("benign", "x", hashdb.PDQ, 11), false},
		{match("benign", "x", hashdb.PHash, 2), true},
		{match("benign", "x", hashdb.PHash, 3), false},
		{match("benign", "a", hashdb.SHA256, 0), false}, // held
		{match("narrow", "x", hashdb.PDQ, 3), true},
		{match("narrow", "x", hashdb.PDQ, 4), false},
		{match("gone", "x", hashdb.SHA256, 0), false},
		{match("known", "x", hashdb.SHA256, 0), false},
	} {
		if _, got := g.Negates(test.match); got != test.want {
			t.Errorf("%s/%s %s at %d: %v", test.match.List, test.match.Entry, test.match.Kind, test.match.Distance, got)
		}
	}
	if diff := cmp.Diff(map[string]string{"old": "the list was last updated on 2026-03-01, more than 1h0m0s ago", "gone": "the list expired on 2026-03-01"}, g.Stale()); diff != "" {
		t.Error(diff)
	}
	var none *Governance
	if _, negates := none.Negates(match("l", "e", hashdb.PDQ, 0)); negates || none.Negative("l") || none.Cautions(match("l", "e", hashdb.PDQ, 0)) != nil {
		t.Error("no governance holds something back")
	}
}

func FuzzParseStandings(f *testing.F) {
	f.Add([]byte(`{"format":1,"version":1,"standings":[{"list":"l","entry":"e","state":"held","cause":"hand","reason":"r","by":"a","since":"2026-03-01T12:00:00Z"}],"history":[]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseStandings(b)
		if err != nil {
			return
		}
		for _, st := range s.All() {
			if err := st.check(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
