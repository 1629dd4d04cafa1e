package lists

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newTestGovernor(t *testing.T) *Governor {
	t.Helper()
	g, err := NewGovernor(DefaultGovernorRules())
	if err != nil {
		t.Fatal(err)
	}
	return g
}

var entryA = EntryName{"known", "a"}

// sights has an entry match n messages that were sent and found at a time.
func sights(g *Governor, name EntryName, n int, at time.Time) {
	for i := range n {
		g.See(&Sighting{name, fmt.Sprint(at.Unix(), "/", i), at, at})
	}
}

func rules(g *Governor, name EntryName, revision int, o Opinion, who string, at time.Time) {
	g.Rule(&Ruling{name, revision, 0, int64(revision), o, who, at})
}

func TestDismissalsByTwoReviewersHoldAnEntryUntilOneConfirms(t *testing.T) {
	g := newTestGovernor(t)
	rules(g, entryA, 1, Dismissed, "alice", noon)
	rules(g, entryA, 2, Dismissed, "alice", noon.Add(time.Hour))
	if h := g.Holds(nil); len(h) != 0 {
		t.Errorf("one reviewer alone holds: %+v", h)
	}
	rules(g, entryA, 3, "escalate", "carol", noon.Add(2*time.Hour))
	if h := g.Holds(nil); len(h) != 0 {
		t.Errorf("what was passed on holds: %+v", h)
	}
	rules(g, entryA, 4, Dismissed, "bob", noon.Add(3*time.Hour))
	want := []Hold{{entryA, ByReview, noon.Add(3 * time.Hour), "3 cases dismissed by 2 reviewers, with none confirmed since"}}
	if diff := cmp.Diff(want, g.Holds(nil)); diff != "" {
		t.Error(diff)
	}
	if h := g.Holds(func(EntryName) time.Time { return noon.Add(2 * time.Hour) }); len(h) != 0 {
		t.Errorf("dismissals before a release hold: %+v", h)
	}
	rules(g, entryA, 5, Confirmed, "carol", noon.Add(4*time.Hour))
	if h := g.Holds(nil); len(h) != 0 {
		t.Errorf("a confirmed entry is held: %+v", h)
	}
	rules(g, entryA, 6, Dismissed, "alice", noon.Add(5*time.Hour))
	if h := g.Holds(nil); len(h) != 0 {
		t.Errorf("one dismissal after a confirmation holds: %+v", h)
	}
	rules(g, entryA, 7, Dismissed, "bob", noon.Add(6*time.Hour))
	if h := g.Holds(nil); len(h) != 1 {
		t.Error("two dismissals after a confirmation do not hold")
	}
	if diff := cmp.Diff([]Counts{{entryA, 1, 5, 3, 0}}, g.Counts()); diff != "" {
		t.Error(diff)
	}
}

func TestOfOneRevisionTheDecisionWithTheLowestOffsetCounts(t *testing.T) {
	g := newTestGovernor(t)
	for _, offset := range []int64{7, 3, 5} {
		g.Rule(&Ruling{entryA, 1, 0, offset, map[int64]Opinion{3: Confirmed}[offset], "alice", noon})
	}
	if c := g.Counts(); c[0].Confirmed != 1 {
		t.Errorf("%+v", c)
	}
	for revision := range 300 {
		rules(g, entryA, revision+1, Dismissed, "bob", noon)
	}
	if n := len(g.entries[entryA].rulings); n != mostRulings {
		t.Errorf("%d rulings are kept", n)
	}
}

func TestAnEntryThatSuddenlyMatchesMuchIsHeld(t *testing.T) {
	for name, test := range map[string]struct {
		hours []int // messages of each
		held  int   // the hour that holds it, or -1
	}{
		"a new entry below the floor":        {[]int{49}, -1},
		"a new entry at the floor":           {[]int{50}, 0},
		"the floor in two hours":             {[]int{30, 30, 30}, -1},
		"as much as ever":                    {append(slices.Repeat([]int{20}, 100), 60), -1},
		"ten times as much as ever":          {append(slices.Repeat([]int{20}, 300), 200), 300},
		"growing slowly":                     {[]int{5, 10, 20, 30, 40, 45, 49, 45, 45, 45, 45, 45, 45, 49, 48, 47}, -1},
		"after a long silence":               {append(append(slices.Repeat([]int{40}, 100), slices.Repeat([]int{0}, 130)...), 60), 230},
		"again, when a person knows nothing": {[]int{0, 60, 60}, 1},
	} {
		g := newTestGovernor(t)
		for i, n := range test.hours {
			sights(g, entryA, n, noon.Add(time.Duration(i)*time.Hour))
		}
		holds := g.Holds(nil)
		switch {
		case test.held < 0 && len(holds) > 0:
			t.Errorf("%s: held: %+v", name, holds)
		case test.held >= 0 && (len(holds) != 1 || holds[0].Cause != ByFlood || !holds[0].Since.Equal(noon.Add(time.Duration(test.held)*time.Hour))):
			t.Errorf("%s: %+v", name, holds)
		}
	}
}

func TestAfterAConfirmationAFloodIsTenTimesWhatWasKnown(t *testing.T) {
	g := newTestGovernor(t)
	sights(g, entryA, 60, noon)
	rules(g, entryA, 1, Confirmed, "alice", noon.Add(30*time.Minute))
	sights(g, entryA, 599, noon.Add(time.Hour))
	if h := g.Holds(nil); len(h) != 0 {
		t.Errorf("a confirmed entry is held for more of the same: %+v", h)
	}
	sights(g, entryA, 600, noon.Add(2*time.Hour))
	if h := g.Holds(nil); len(h) != 1 {
		t.Error("ten times what was known holds nothing")
	}
	// A release by hand is taken in the same way.
	if h := g.Holds(func(EntryName) time.Time { return noon.Add(150 * time.Minute) }); len(h) != 0 {
		t.Errorf("held after a release: %+v", h)
	}
}

func TestAMessageCountsOnceAndInNoHourThatCannotBe(t *testing.T) {
	g := newTestGovernor(t)
	for range 3 {
		sights(g, entryA, 49, noon)
	}
	g.See(&Sighting{entryA, "future", noon.Add(90 * time.Minute), noon})
	g.See(&Sighting{entryA, "past", noon.Add(-15 * 24 * time.Hour), noon})
	if c := g.Counts(); len(c) != 1 || c[0].Messages != 49 {
		t.Errorf("%+v", c)
	}
	// A look back through old messages is no flood.
	for i := range 1000 {
		g.See(&Sighting{entryA, fmt.Sprint("old ", i), noon.Add(-time.Duration(i%300) * time.Hour), noon})
	}
	if h := g.Holds(nil); len(h) != 1 || h[0].Since != noon { // 49 and four more
		t.Errorf("%+v", h)
	}
	g.See(&Sighting{EntryName{"known", "b"}, "m", noon.Add(30 * 24 * time.Hour), noon.Add(30 * 24 * time.Hour)})
	if c := g.Counts(); len(c) != 1 || c[0].Entry != "b" {
		t.Errorf("what is over is not forgotten: %+v", c)
	}
}

func TestTheMemoryOfAnHourIsBounded(t *testing.T) {
	forward, backward := newTestGovernor(t), newTestGovernor(t)
	const n = mostAnHour + 500
	for i := range n {
		forward.See(&Sighting{entryA, fmt.Sprint(i), noon, noon})
		backward.See(&Sighting{entryA, fmt.Sprint(n - 1 - i), noon, noon})
	}
	if forward.sightings != mostAnHour || !slices.Equal(forward.entries[entryA].hours[hourOf(noon)], backward.entries[entryA].hours[hourOf(noon)]) {
		t.Errorf("%d messages are kept, or others in another order", forward.sightings)
	}
	if h := forward.Holds(nil); !strings.Contains(h[0].Reason, "4096 or more") {
		t.Errorf("%+v", h)
	}
}

// naive is what a governor says, worked out from all that it was ever given.
type naive struct {
	rules   GovernorRules
	sights  []Sighting
	rulings []Ruling
}

func (m *naive) say(after func(EntryName) time.Time) ([]Hold, []Counts) {
	names := map[EntryName]bool{}
	latest := int64(math.MinInt64)
	for _, s := range m.sights {
		latest = max(latest, hourOf(s.Found))
	}
	window := int64(m.rules.Window / time.Hour)
	messages := map[EntryName]map[int64]map[string]bool{}
	for _, s := range m.sights {
		if hourOf(s.Sent) < latest-window || s.Sent.After(s.Found.Add(time.Hour)) {
			continue
		}
		if messages[s.EntryName] == nil {
			messages[s.EntryName] = map[int64]map[string]bool{}
		}
		if messages[s.EntryName][hourOf(s.Sent)] == nil {
			messages[s.EntryName][hourOf(s.Sent)] = map[string]bool{}
		}
		messages[s.EntryName][hourOf(s.Sent)][s.Message] = true
		names[s.EntryName] = true
	}
	inForce := map[EntryName]map[int]Ruling{}
	for _, r := range m.rulings {
		if inForce[r.EntryName] == nil {
			inForce[r.EntryName] = map[int]Ruling{}
		}
		if was, ok := inForce[r.EntryName][r.Revision]; !ok || r.Offset < was.Offset {
			inForce[r.EntryName][r.Revision] = r
		}
		names[r.EntryName] = true
	}
	var holds []Hold
	counts := []Counts{}
	for _, name := range slices.SortedFunc(maps.Keys(names), EntryName.compare) {
		c := Counts{EntryName: name}
		said := map[string]bool{}
		lastYes, yesAt := 0, time.Time{}
		for _, r := range inForce[name] {
			switch r.Opinion {
			case Confirmed:
				c.Confirmed++
				lastYes = max(lastYes, r.Revision)
				if r.At.After(yesAt) {
					yesAt = r.At
				}
			case Dismissed:
				c.Dismissed++
			default:
				continue
			}
			said[r.Reviewer] = true
		}
		c.Reviewers = len(said)
		total := 0
		for _, h := range messages[name] {
			total += len(h)
		}
		c.Messages = total
		counts = append(counts, c)

		from := after(name)
		no, who, last := 0, map[string]bool{}, time.Time{}
		for _, r := range inForce[name] {
			if r.Opinion == Dismissed && r.Revision > lastYes && r.At.After(from) {
				no++
				who[r.Reviewer] = true
				if r.At.After(last) {
					last = r.At
				}
			}
		}
		if no >= m.rules.Dismissals && len(who) >= m.rules.Reviewers {
			holds = append(holds, Hold{EntryName: name, Cause: ByReview, Since: last})
			continue
		}
		if yesAt.After(from) {
			from = yesAt
		}
		mean, known := 0.0, 0
		decay := math.Pow(0.5, 1/m.rules.HalfLife.Hours())
		for h := latest - window; h <= latest+1; h++ {
			n := len(messages[name][h])
			if !startOf(h).After(from) {
				known = max(known, n)
			} else if n >= m.rules.FloodFloor && float64(n) >= m.rules.FloodFactor*mean && float64(n) >= m.rules.FloodFactor*float64(known) {
				holds = append(holds, Hold{EntryName: name, Cause: ByFlood, Since: startOf(h)})
				break
			}
			mean = decay*mean + (1-decay)*float64(n)
		}
	}
	return holds, counts
}

func TestTheGovernorSaysWhatANaiveModelSaysInAnyOrder(t *testing.T) {
	floods, reviews, nothing := 0, 0, 0
	for seed := range uint64(400) {
		rng := rand.New(rand.NewPCG(seed, 7))
		r := GovernorRules{
			Dismissals: 1 + rng.IntN(3), FloodFloor: 2 + rng.IntN(6), FloodFactor: 1 + 4*rng.Float64(),
			HalfLife: time.Duration(1+rng.IntN(20)) * time.Hour, Window: time.Duration(5+rng.IntN(60)) * time.Hour,
		}
		r.Reviewers = 1 + rng.IntN(r.Dismissals)
		model := naive{rules: r}
		var feed []func(*Governor)
		at := func() time.Time { return noon.Add(time.Duration(rng.IntN(80*60)) * time.Minute) }
		name := func() EntryName { return EntryName{"l" + fmt.Sprint(rng.IntN(2)), fmt.Sprint(rng.IntN(3))} }
		for i := range 20 + rng.IntN(120) {
			s := Sighting{EntryName: name(), Message: fmt.Sprint(rng.IntN(100)), Found: at()}
			// A platform gives a message one time, however often it was found.
			s.Sent = noon.Add(time.Duration(len(s.Message)*7+i%3*11) * time.Hour).Add(time.Duration(rng.IntN(50)) * time.Minute)
			model.sights = append(model.sights, s)
			feed = append(feed, func(g *Governor) { g.See(&s) })
		}
		for range rng.IntN(25) {
			d := Ruling{
				EntryName: name(), Revision: 1 + rng.IntN(6), Offset: int64(rng.IntN(1 << 30)), Reviewer: fmt.Sprint(rng.IntN(3)), At: at(),
				Opinion: []Opinion{Confirmed, Dismissed, Dismissed, Dismissed, "escalate"}[rng.IntN(5)],
			}
			model.rulings = append(model.rulings, d)
			feed = append(feed, func(g *Governor) { g.Rule(&d) })
		}
		released := map[EntryName]time.Time{name(): at()}
		after := func(n EntryName) time.Time { return released[n] }
		wantHolds, wantCounts := model.say(after)
		var first []byte
		for run := range 3 {
			// Any order, some of it again, with a restart in between.
			g, err := NewGovernor(r)
			if err != nil {
				t.Fatal(err)
			}
			order := append(rng.Perm(len(feed)), rng.Perm(len(feed))[:len(feed)/3]...)
			rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
			restart := rng.IntN(len(order))
			for i, n := range order {
				if i == restart {
					b, err := g.Snapshot()
					if err != nil {
						t.Fatal(err)
					}
					if g, err = ResumeGovernor(r, b); err != nil {
						t.Fatal(err)
					}
				}
				feed[n](g)
			}
			holds := g.Holds(after)
			for i := range holds {
				holds[i].Reason = ""
			}
			if diff := cmp.Diff(wantHolds, holds); diff != "" {
				t.Fatalf("seed %d, run %d: holds (-model +got):\n%s", seed, run, diff)
			}
			if diff := cmp.Diff(wantCounts, g.Counts()); diff != "" {
				t.Fatalf("seed %d, run %d: counts (-model +got):\n%s", seed, run, diff)
			}
			b, err := g.Snapshot()
			if err != nil {
				t.Fatal(err)
			}
			if first == nil {
				first = b
			} else if !bytes.Equal(first, b) {
				t.Fatalf("seed %d: another order leaves another state", seed)
			}
		}
		for _, h := range wantHolds {
			if h.Cause == ByFlood {
				floods++
			} else {
				reviews++
			}
		}
		if len(wantHolds) == 0 {
			nothing++
		}
	}
	if floods < 50 || reviews < 50 || nothing < 20 {
		t.Errorf("the model is hardly put to the test: %d floods, %d reviews, nothing in %d", floods, reviews, nothing)
	}
}

func TestPositionsAreKeptWithWhatWasFolded(t *testing.T) {
	g := newTestGovernor(t)
	g.Passed("dm.hits", 3, 17)
	g.Passed("dm.hits", 3, 9)
	g.Passed("dm.decisions", 0, 1)
	b, err := g.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ResumeGovernor(DefaultGovernorRules(), b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[int32]int64{3: 17}, again.Positions("dm.hits")); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{
		"", "{}", `{"format":2}`, `{"format":1,"entries":[{"list":"l","entry":"e","hours":{"1":"AAAA"}}]}`,
		`{"format":1,"entries":[{"list":"l","entry":"e"},{"list":"l","entry":"e"}]}`, `{"format":1,"positions":{"t":{"0":-1}}}`,
		`{"format":1,"entries":[{"list":"l","entry":"e","hours":{"1":"AAAAAAAAAAAAAAAAAAAAAA=="}}]}`,
	} {
		if _, err := ResumeGovernor(DefaultGovernorRules(), []byte(bad)); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}

func TestRulesOfTheGovernorAreHeldToTheirRanges(t *testing.T) {
	_, err := NewGovernor(GovernorRules{})
	for _, part := range []string{"dismissals", "reviewers", "floor", "factor", "half-life", "window"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("nothing is said of the %s: %v", part, err)
		}
	}
}

func FuzzResumeGovernor(f *testing.F) {
	g, _ := NewGovernor(DefaultGovernorRules())
	sights(g, entryA, 3, noon)
	rules(g, entryA, 1, Dismissed, "alice", noon)
	g.Passed("dm.hits", 0, 4)
	b, err := g.Snapshot()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := ResumeGovernor(DefaultGovernorRules(), b)
		if err != nil {
			return
		}
		first, err := g.Snapshot()
		if err != nil {
			return // a time that no JSON can hold, or text
		}
		again, err := ResumeGovernor(DefaultGovernorRules(), first)
		if err != nil {
			t.Fatal(err)
		}
		second, err := again.Snapshot()
		if err != nil || !bytes.Equal(first, second) {
			t.Fatalf("%s\n%s\n%v", first, second, err)
		}
		g.Holds(nil)
		g.See(&Sighting{entryA, "m", noon, noon})
	})
}
