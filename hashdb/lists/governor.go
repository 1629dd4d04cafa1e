package lists

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
)

// GovernorRules say what makes a [Governor] hold an entry.
type GovernorRules struct {
	// Dismissals by so many different Reviewers at least, with no confirmation after them, hold the entry that the
	// cases were about.
	Dismissals int `yaml:"dismissals"`
	Reviewers  int `yaml:"reviewers"`

	// FloodFloor and FloodFactor hold an entry that matches, in one hour, as many messages as the floor and as the
	// factor times its mean of the hours before. The mean is decayed, with HalfLife.
	FloodFloor  int           `yaml:"flood_floor"`
	FloodFactor float64       `yaml:"flood_factor"`
	HalfLife    time.Duration `yaml:"half_life"`

	// Window is how far back sightings are remembered.
	Window time.Duration `yaml:"window"`
}

// DefaultGovernorRules returns rules to start from.
func DefaultGovernorRules() GovernorRules {
	return GovernorRules{Dismissals: 2, Reviewers: 2, FloodFloor: 50, FloodFactor: 10, HalfLife: 24 * time.Hour, Window: 14 * 24 * time.Hour}
}

// Validate reports every fault at once.
func (r *GovernorRules) Validate() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if r.Dismissals < 1 || r.Dismissals > mostRulings {
		fail("dismissals is %d, want 1 to %d", r.Dismissals, mostRulings)
	}
	if r.Reviewers < 1 || r.Reviewers > r.Dismissals {
		fail("reviewers is %d, want 1 to the number of dismissals", r.Reviewers)
	}
	if r.FloodFloor < 2 || r.FloodFloor > mostAnHour {
		fail("the floor of a flood is %d, want 2 to %d messages an hour", r.FloodFloor, mostAnHour)
	}
	if !(r.FloodFactor >= 1 && r.FloodFactor <= 1e6) {
		fail("the factor of a flood is %v, want 1 to a million", r.FloodFactor)
	}
	if r.HalfLife < time.Hour || r.HalfLife > 365*24*time.Hour {
		fail("the half-life is %v, want an hour to a year", r.HalfLife)
	}
	if r.Window < time.Hour || r.Window > 365*24*time.Hour {
		fail("the window is %v, want an hour to a year", r.Window)
	}
	return errors.Join(errs...)
}

// Limits of what a governor remembers.
const (
	mostAnHour    = 4096    // messages of one entry; it matched no fewer
	mostRulings   = 64      // of one entry, the latest revisions
	mostSightings = 4 << 20 // of all entries; beyond that the oldest hours are forgotten
	maxRevision   = 1 << 30
)

// Sighting says that an entry matched a message.
type Sighting struct {
	EntryName
	// Message names the message among all of a platform.
	Message string
	// Sent is when the platform says that it was sent, Found when the match was noted.
	Sent, Found time.Time
}

// Opinion is what a reviewer said about a case.
type Opinion string

// Opinions of a reviewer. Others, such as passing a case on, say nothing about an entry.
const (
	Confirmed Opinion = "confirm"
	Dismissed Opinion = "dismiss"
)

// Ruling says what a reviewer decided about one revision of the case of an entry. Where there are several of one
// revision, that with the lowest offset counts.
type Ruling struct {
	EntryName
	Revision  int
	Partition int32
	Offset    int64
	Opinion   Opinion
	Reviewer  string
	At        time.Time
}

// Governor folds matches and decisions into what speaks against entries of lists.
//
// What it says depends on which records it was given and not on their order, nor on how often it was given one: it
// may be fed from several partitions, and again after a crash. Sightings are counted by the hour in which messages
// were sent, so that a look back through old messages is no flood. Only where it has to forget for want of memory does
// order matter. It is not safe for concurrent use.
type Governor struct {
	rules     GovernorRules
	entries   map[EntryName]*governed
	latest    int64 // hour of the latest Found
	horizon   int64 // hours before it are forgotten
	sightings int
	positions map[string]map[int32]int64
}

// governed is what is known of an entry.
type governed struct {
	hours   map[int64][]uint64 // digests of messages, sorted, the least mostAnHour of them
	rulings map[int]Ruling     // by revision
}

// NewGovernor returns a governor that knows nothing yet.
func NewGovernor(rules GovernorRules) (*Governor, error) {
	if err := rules.Validate(); err != nil {
		return nil, fmt.Errorf("rules of match governance: %w", err)
	}
	return &Governor{rules: rules, entries: map[EntryName]*governed{}, horizon: math.MinInt64, latest: math.MinInt64, positions: map[string]map[int32]int64{}}, nil
}

// hourOf counts hours since 1970.
func hourOf(t time.Time) int64 { return int64(math.Floor(float64(t.Unix()) / 3600)) }

func startOf(hour int64) time.Time { return time.Unix(hour*3600, 0).UTC() }

func (g *Governor) entry(name EntryName) *governed {
	e := g.entries[name]
	if e == nil {
		e = &governed{hours: map[int64][]uint64{}, rulings: map[int]Ruling{}}
		g.entries[name] = e
	}
	return e
}

// See notes that an entry matched a message. A message that was sent an hour or more after it was found has no time
// that could be believed and is not counted.
func (g *Governor) See(s *Sighting) {
	if found := hourOf(s.Found); found > g.latest {
		g.latest = found
		g.forgetBefore(found - int64(g.rules.Window/time.Hour))
	}
	hour := hourOf(s.Sent)
	if hour < g.horizon || s.Sent.Sub(s.Found) > time.Hour {
		return
	}
	sum := sha256.Sum256([]byte(s.Message))
	id := binary.BigEndian.Uint64(sum[:])
	e := g.entry(s.EntryName)
	ids := e.hours[hour]
	at, known := slices.BinarySearch(ids, id)
	if known || at == mostAnHour {
		return
	}
	ids = slices.Insert(ids, at, id)
	g.sightings++
	if len(ids) > mostAnHour {
		ids = ids[:mostAnHour]
		g.sightings--
	}
	e.hours[hour] = ids
	for g.sightings > mostSightings {
		oldest := int64(math.MaxInt64)
		for _, e := range g.entries {
			for h := range e.hours {
				oldest = min(oldest, h)
			}
		}
		g.forgetBefore(oldest + 1)
	}
}

func (g *Governor) forgetBefore(hour int64) {
	if hour <= g.horizon {
		return
	}
	g.horizon = hour
	for name, e := range g.entries {
		for h, ids := range e.hours {
			if h < hour {
				g.sightings -= len(ids)
				delete(e.hours, h)
			}
		}
		if len(e.hours) == 0 && len(e.rulings) == 0 {
			delete(g.entries, name)
		}
	}
}

// Rule notes a decision. One that says neither yes nor no still counts for its revision, so that no later one does.
func (g *Governor) Rule(r *Ruling) {
	if r.Revision < 1 || r.Revision > maxRevision {
		return
	}
	e := g.entry(r.EntryName)
	was, known := e.rulings[r.Revision]
	if known && cmp.Or(cmp.Compare(was.Offset, r.Offset), cmp.Compare(was.Partition, r.Partition)) <= 0 {
		return
	}
	kept := *r
	kept.At = r.At.UTC()
	e.rulings[r.Revision] = kept
	if len(e.rulings) > mostRulings {
		delete(e.rulings, slices.Min(slices.Collect(maps.Keys(e.rulings))))
	}
}

// Hold is an entry against which enough speaks to ask a person wherever it matches.
type Hold struct {
	EntryName
	Cause  Cause
	Since  time.Time // of what speaks against it
	Reason string
}

// Holds returns what speaks against entries, in the order of lists and entries. What was known of one before a time
// that after returns counts no more; after may be nil.
//
// A confirmation takes back the dismissals of earlier revisions, and the floods up to its hour. After it, or after
// that time, a flood is FloodFactor times the most that was seen in an hour until then.
func (g *Governor) Holds(after func(EntryName) time.Time) []Hold {
	if after == nil {
		after = func(EntryName) time.Time { return time.Time{} }
	}
	var out []Hold
	for name, e := range g.entries {
		from := after(name)
		if h, ok := e.dismissed(&g.rules, from); ok {
			h.EntryName = name
			out = append(out, h)
		} else if h, ok := e.flooded(&g.rules, from); ok {
			h.EntryName = name
			out = append(out, h)
		}
	}
	slices.SortFunc(out, func(a, b Hold) int { return a.compare(b.EntryName) })
	return out
}

func (e *governed) dismissed(rules *GovernorRules, from time.Time) (Hold, bool) {
	dismissals, reviewers, last := 0, map[string]bool{}, time.Time{}
	for _, revision := range slices.Backward(slices.Sorted(maps.Keys(e.rulings))) {
		r := e.rulings[revision]
		if r.Opinion == Confirmed {
			break
		}
		if r.Opinion != Dismissed || !r.At.After(from) {
			continue
		}
		dismissals++
		reviewers[r.Reviewer] = true
		if r.At.After(last) {
			last = r.At
		}
	}
	if dismissals < rules.Dismissals || len(reviewers) < rules.Reviewers {
		return Hold{}, false
	}
	return Hold{
		Cause: ByReview, Since: last,
		Reason: fmt.Sprintf("%d cases dismissed by %d reviewers, with none confirmed since", dismissals, len(reviewers)),
	}, true
}

// confirmed returns the latest confirmation.
func (e *governed) confirmed() (latest Ruling, ok bool) {
	for _, r := range e.rulings {
		if r.Opinion == Confirmed && (!ok || r.At.After(latest.At) || r.At.Equal(latest.At) && r.Revision > latest.Revision) {
			latest, ok = r, true
		}
	}
	return latest, ok
}

func (e *governed) flooded(rules *GovernorRules, from time.Time) (Hold, bool) {
	if r, ok := e.confirmed(); ok && r.At.After(from) {
		from = r.At
	}
	keep := math.Exp2(-float64(time.Hour) / float64(rules.HalfLife)) // of the mean, each hour
	mean, known, last := 0.0, 0, int64(0)
	for i, hour := range slices.Sorted(maps.Keys(e.hours)) {
		n := len(e.hours[hour])
		if i > 0 {
			mean = math.Pow(keep, float64(hour-last-1)) * (keep*mean + (1-keep)*float64(len(e.hours[last])))
		}
		last = hour
		if !startOf(hour).After(from) {
			known = max(known, n)
			continue
		}
		if base := max(mean, float64(known)); n >= rules.FloodFloor && float64(n) >= rules.FloodFactor*base {
			return Hold{
				Cause: ByFlood, Since: startOf(hour),
				Reason: fmt.Sprintf("it matched %s messages in an hour, %.1f an hour before", atLeast(n), mean),
			}, true
		}
	}
	return Hold{}, false
}

func atLeast(n int) string {
	if n >= mostAnHour {
		return fmt.Sprintf("%d or more", n)
	}
	return fmt.Sprint(n)
}

// Counts is what is known of one entry.
type Counts struct {
	EntryName
	Confirmed int `json:"confirmed"` // revisions of its case, of the latest 64
	Dismissed int `json:"dismissed"`
	Reviewers int `json:"reviewers"` // who confirmed or dismissed
	Messages  int `json:"messages"`  // that it matched, as far back as is remembered
}

// Counts returns what is known of all entries, in the order of lists and entries.
func (g *Governor) Counts() []Counts {
	out := make([]Counts, 0, len(g.entries))
	for name, e := range g.entries {
		c := Counts{EntryName: name}
		reviewers := map[string]bool{}
		for _, r := range e.rulings {
			switch r.Opinion {
			case Confirmed:
				c.Confirmed++
			case Dismissed:
				c.Dismissed++
			default:
				continue
			}
			reviewers[r.Reviewer] = true
		}
		c.Reviewers = len(reviewers)
		for _, ids := range e.hours {
			c.Messages += len(ids)
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Counts) int { return a.compare(b.EntryName) })
	return out
}

// Govern sets the standings that follow from what a governor knows, for use within [ChangeStandings], and returns the
// changes: it holds entries, and it releases those that it held itself and that a reviewer has confirmed since. What
// a person has held or withdrawn stays as it is, and nothing is ever withdrawn without a person.
func (s *Standings) Govern(g *Governor, now time.Time) ([]StandingChange, error) {
	var made []StandingChange
	set := func(st Standing) error {
		st.By = governedBy
		if err := s.Set(st, now); err != nil {
			return err
		}
		made = append(made, s.history[len(s.history)-1])
		return nil
	}
	for _, st := range s.All() {
		if st.State != Held || st.Cause == ByHand {
			continue
		}
		e := g.entries[st.EntryName]
		if e == nil {
			continue
		}
		if r, ok := e.confirmed(); ok && r.At.After(st.Since) {
			if err := set(Standing{EntryName: st.EntryName, State: Released, Cause: ByReview, Reason: "a reviewer confirmed what it matched", Since: r.At}); err != nil {
				return made, err
			}
		}
	}
	for _, h := range g.Holds(func(name EntryName) time.Time { return s.entries[name].Since }) {
		if st := s.entries[h.EntryName]; st.State == Held || st.State == Withdrawn {
			continue
		}
		if err := set(Standing{EntryName: h.EntryName, State: Held, Cause: h.Cause, Reason: h.Reason, Since: h.Since}); err != nil {
			return made, err
		}
	}
	return made, nil
}

// Passed notes that the records of a partition before an offset were folded.
func (g *Governor) Passed(topic string, partition int32, next int64) {
	if g.positions[topic] == nil {
		g.positions[topic] = map[int32]int64{}
	}
	g.positions[topic][partition] = max(next, g.positions[topic][partition])
}

// Positions returns the next offset to fold of each partition of a topic that was read.
func (g *Governor) Positions(topic string) map[int32]int64 { return maps.Clone(g.positions[topic]) }

// governorJSON is a snapshot.
type governorJSON struct {
	Format    int                        `json:"format"`
	Latest    int64                      `json:"latest"`
	Horizon   int64                      `json:"horizon"`
	Positions map[string]map[int32]int64 `json:"positions"`
	Entries   []governedJSON             `json:"entries"`
}

type governedJSON struct {
	EntryName
	Hours   map[int64][]byte `json:"hours,omitempty"` // eight bytes a message
	Rulings []rulingJSON     `json:"rulings,omitempty"`
}

type rulingJSON struct {
	Revision  int       `json:"revision"`
	Partition int32     `json:"partition"`
	Offset    int64     `json:"offset"`
	Opinion   Opinion   `json:"opinion"`
	Reviewer  string    `json:"reviewer"`
	At        time.Time `json:"at"`
}

// Snapshot returns everything that the governor knows, to go on from with [ResumeGovernor]. It holds no content and
// no ID of a message.
func (g *Governor) Snapshot() ([]byte, error) {
	out := governorJSON{Format: 1, Latest: g.latest, Horizon: g.horizon, Positions: g.positions}
	for name, e := range g.entries {
		one := governedJSON{EntryName: name, Hours: make(map[int64][]byte, len(e.hours))}
		for h, ids := range e.hours {
			b := make([]byte, 0, 8*len(ids))
			for _, id := range ids {
				b = binary.BigEndian.AppendUint64(b, id)
			}
			one.Hours[h] = b
		}
		for _, revision := range slices.Sorted(maps.Keys(e.rulings)) {
			r := e.rulings[revision]
			one.Rulings = append(one.Rulings, rulingJSON{r.Revision, r.Partition, r.Offset, r.Opinion, r.Reviewer, r.At})
		}
		out.Entries = append(out.Entries, one)
	}
	slices.SortFunc(out.Entries, func(a, b governedJSON) int { return a.compare(b.EntryName) })
	return json.Marshal(out, json.Deterministic(true))
}

// ResumeGovernor returns a governor that knows what a snapshot says. The rules may be others than before.
func ResumeGovernor(rules GovernorRules, snapshot []byte) (*Governor, error) {
	g, err := NewGovernor(rules)
	if err != nil {
		return nil, err
	}
	var in governorJSON
	if err := json.Unmarshal(snapshot, &in, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("state of match governance: wrong JSON: %w", err)
	}
	if in.Format != 1 {
		return nil, fmt.Errorf("state of match governance: format %d, this program knows 1", in.Format)
	}
	for topic, positions := range in.Positions {
		for p, next := range positions {
			if p < 0 || next < 0 {
				return nil, fmt.Errorf("state of match governance: position %d of partition %d", next, p)
			}
			g.Passed(topic, p, next)
		}
	}
	for i := range in.Entries {
		one := &in.Entries[i]
		if _, again := g.entries[one.EntryName]; again {
			return nil, errors.New("state of match governance: an entry comes twice")
		}
		e := g.entry(one.EntryName)
		for h, b := range one.Hours {
			ids := make([]uint64, len(b)/8)
			for i := range ids {
				ids[i] = binary.BigEndian.Uint64(b[8*i:])
			}
			if len(b)%8 != 0 || len(ids) == 0 || len(ids) > mostAnHour || !slices.IsSorted(ids) || len(slices.Compact(slices.Clone(ids))) < len(ids) {
				return nil, errors.New("state of match governance: messages of an hour that make no sense")
			}
			e.hours[h] = ids
			g.sightings += len(ids)
		}
		if len(one.Rulings) > mostRulings {
			return nil, errors.New("state of match governance: too many rulings")
		}
		for _, r := range one.Rulings {
			g.Rule(&Ruling{one.EntryName, r.Revision, r.Partition, r.Offset, r.Opinion, r.Reviewer, r.At})
		}
	}
	g.latest = in.Latest
	g.forgetBefore(in.Horizon)
	if g.latest != math.MinInt64 {
		g.forgetBefore(max(g.latest-int64(rules.Window/time.Hour), g.horizon))
	}
	if g.sightings > mostSightings {
		return nil, errors.New("state of match governance: too many messages")
	}
	return g, nil
}
