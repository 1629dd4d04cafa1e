package lists

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dmguard/dmguard/hashdb"
)

// negativeThresholds are the distances in bits up to which entries of a negative list speak against a match, unless
// its settings say otherwise. A negative must know the very picture, not one like it: implementations of PDQ may
// differ by ten bits on one picture, which recompressing it seldom exceeds, while thirty-one bits are for what was
// edited. A third of the threshold of perception hashes is two.
var negativeThresholds = map[hashdb.Kind]int{hashdb.PDQ: 10, hashdb.PHash: 2}

// Threshold returns the distance in bits up to which entries of a kind match, or, in a negative list, speak against
// matches of others.
func (s *Settings) Threshold(kind hashdb.Kind) int {
	if t, ok := s.Thresholds[kind]; ok {
		return t
	}
	if s.Negative {
		return negativeThresholds[kind]
	}
	return kind.Threshold()
}

// Stale says why a list that was updated last at a time is no longer acted upon without a person, or "". A list of
// which nobody knows when it was updated is as old as can be.
func (s *Settings) Stale(updated, now time.Time) string {
	switch {
	case !s.Expires.IsZero() && !now.Before(s.Expires):
		return "the list expired on " + s.Expires.UTC().Format(time.DateOnly)
	case s.MaxAge <= 0:
	case updated.IsZero():
		return "nobody knows when the list was last updated"
	case now.Sub(updated) > s.MaxAge:
		return fmt.Sprintf("the list was last updated on %s, more than %v ago", updated.UTC().Format(time.DateOnly), s.MaxAge)
	}
	return ""
}

// Governed is what there is to say of one list.
type Governed struct {
	Settings Settings
	Updated  time.Time // last, or zero
}

// Governance says how far matches are acted upon, by the settings of their lists and the standings of their
// entries at one time. It never changes; nil lets every match stand.
type Governance struct {
	lists     map[string]governedList
	standings *Standings
}

type governedList struct {
	Settings
	updated time.Time
	stale   string
}

// NewGovernance returns what holds at a time for the lists that are named; others have no settings.
func NewGovernance(named map[string]Governed, standings *Standings, now time.Time) *Governance {
	g := &Governance{lists: make(map[string]governedList, len(named)), standings: standings}
	for name, l := range named {
		g.lists[name] = governedList{l.Settings, l.Updated, l.Settings.Stale(l.Updated, now)}
	}
	return g
}

// Governance reads the standings of the folder that the lists were loaded from, and returns what holds at a time. A snapshot was
// updated when it was made, a CSV file when it was last written.
func (l *Loaded) Governance(dir string, now time.Time) (*Governance, error) {
	standings, err := ReadStandings(dir)
	if err != nil {
		return nil, err
	}
	named := make(map[string]Governed)
	for i := range l.Lists {
		t := &l.Lists[i]
		named[t.Name] = Governed{Settings: t.Settings, Updated: Updated(dir, t.Name, t.Manifest)}
	}
	return NewGovernance(named, standings, now), nil
}

// Updated returns when a list of a folder was updated last, or zero where nobody knows; m is nil for a CSV file.
func Updated(dir, name string, m *Manifest) time.Time {
	if m != nil {
		return m.Made
	}
	info, err := os.Stat(filepath.Join(dir, name+".csv"))
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// Stale returns why lists are no longer acted upon without a person, by their names.
func (g *Governance) Stale() map[string]string {
	out := map[string]string{}
	if g != nil {
		for name, l := range g.lists {
			if l.stale != "" {
				out[name] = l.stale
			}
		}
	}
	return out
}

// Changed reports whether something else holds at another time, because a list has become stale since, or is no longer.
func (g *Governance) Changed(now time.Time) bool {
	if g == nil {
		return false
	}
	for _, l := range g.lists {
		if (l.stale != "") != (l.Stale(l.updated, now) != "") {
			return true
		}
	}
	return false
}

// Version names what holds beside the settings: the version of the standings, and the lists that are stale, or "".
func (g *Governance) Version() string {
	parts := []string{}
	if v := g.Standings().Version(); v != "" {
		parts = append(parts, v)
	}
	for _, name := range slices.Sorted(maps.Keys(g.Stale())) {
		parts = append(parts, "stale:"+name)
	}
	return strings.Join(parts, ",")
}

// Standings are those that it goes by.
func (g *Governance) Standings() *Standings {
	if g == nil {
		return nil
	}
	return g.standings
}

// Negative reports whether a list names known false positives: its matches are never findings.
func (g *Governance) Negative(list string) bool {
	return g != nil && g.lists[list].Negative
}

// Negates reports whether a match with a negative list counts, and up to which distance: it is near enough, the list
// is not stale, and the entry is in good standing. What is in doubt does not speak against others.
func (g *Governance) Negates(m *hashdb.Match) (threshold int, ok bool) {
	if !g.Negative(m.List) {
		return 0, false
	}
	l := g.lists[m.List]
	st, _ := g.standings.Of(m.List, m.Entry)
	threshold = l.Threshold(m.Kind)
	return threshold, l.stale == "" && st.State != Held && st.State != Withdrawn && m.Distance <= threshold
}

// Caution is a reason not to act upon a match as policy says.
type Caution struct {
	// Suppress says that nothing follows from the match; otherwise a person may be asked, and no more.
	Suppress bool
	Because  string
}

// Cautions returns what holds a match with a list back.
func (g *Governance) Cautions(m *hashdb.Match) []Caution {
	if g == nil {
		return nil
	}
	var out []Caution
	if l := g.lists[m.List]; l.stale != "" {
		out = append(out, Caution{false, l.stale})
	}
	st, _ := g.standings.Of(m.List, m.Entry)
	if st.State == Held || st.State == Withdrawn {
		out = append(out, Caution{st.State == Withdrawn, fmt.Sprintf("the entry is %s by %s since %s: %s", st.State, st.By, st.Since.UTC().Format(time.DateOnly), st.Reason)})
	}
	return out
}
