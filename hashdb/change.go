package hashdb

import (
	"cmp"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
)

// Change is what becomes of one list of a set.
type Change struct {
	List     string
	Version  string   // of the list from then on
	Category string   // of added entries that name none
	Withdraw []string // IDs, each with all its hashes; first, so that an entry can be added anew
	Add      []Entry  // refused, or left out as duplicates, like those of a [List]
}

// Apply returns the set with changes, in microseconds to milliseconds: the segments are shared, what is new is gone through
// until there are 8,192 of it and then becomes a segment in memory, and what is withdrawn is marked. Segments that were made so are
// put together up to 131,072 entries, not beyond; whoever adds millions builds the list again with a [Builder].
//
// A withdrawal reads the IDs of the whole list, about 10 ns for each. An ID that is not there is not an error.
// With an error nothing changes: a list that is not in the set or comes twice, and what [NewSet] refuses.
func (s *Set) Apply(changes ...Change) (*Set, error) {
	if s == nil {
		s = new(Set)
		s.measure()
	}
	next := &Set{lists: slices.Clone(s.lists), infos: s.Lists(), parts: slices.Clone(s.parts), recent: s.recent}
	numbers := make(map[string]int, len(s.lists))
	for i, l := range s.lists {
		numbers[l.name] = i
	}
	var errs []error
	withdrawn := make(map[int]map[string]bool)
	var added []recentEntry
	seen := make(map[string]bool)
	for _, c := range changes {
		n, ok := numbers[c.List]
		switch {
		case !ok:
			errs = append(errs, fmt.Errorf("list %s is not in the set", clip(c.List)))
			continue
		case seen[c.List]:
			errs = append(errs, fmt.Errorf("list %s is changed twice", c.List))
			continue
		}
		seen[c.List] = true
		for _, text := range []string{c.Version, c.Category} {
			if err := Printable(text); err != nil {
				errs = append(errs, fmt.Errorf("list %s: version or category %q: %w", c.List, clip(text), err))
			}
		}
		next.lists[n].version, next.infos[n].Version = c.Version, c.Version
		if len(c.Withdraw) > 0 {
			withdrawn[n] = make(map[string]bool, len(c.Withdraw))
			for _, id := range c.Withdraw {
				withdrawn[n][id] = true
			}
		}
		for i, e := range c.Add {
			if err := e.check(); err != nil {
				errs = append(errs, fmt.Errorf("list %s: entry %d: %w", c.List, i+1, err))
				break
			}
			if why := e.Hash.Unfit(); why != "" {
				next.infos[n].refuse(e, why)
				continue
			}
			added = append(added, recentEntry{hash: e.Hash, list: n, id: e.ID, category: cmp.Or(e.Category, c.Category)})
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("change lists: %w", err)
	}
	if len(withdrawn) > 0 {
		next.withdraw(withdrawn)
	}
	if err := next.add(added); err != nil {
		return nil, fmt.Errorf("change lists: %w", err)
	}
	next.measure()
	return next, nil
}

func (e *Entry) check() error {
	if e.Hash.kind == 0 || e.ID == "" {
		return errors.New("no hash or no ID")
	}
	for _, text := range []string{e.ID, e.Category} {
		if err := Printable(text); err != nil {
			return fmt.Errorf("%q: %w", clip(text), err)
		}
	}
	return nil
}

// withdraw marks the records of IDs by list.
func (s *Set) withdraw(ids map[int]map[string]bool) {
	for i := range s.parts {
		p := &s.parts[i]
		owned := false
		for r := range uint32(p.len()) {
			list := p.list(r)
			gone := ids[list]
			if gone == nil || !p.alive(r) {
				continue
			}
			if id, _ := p.record(r); !gone[string(id)] {
				continue
			}
			if !owned {
				p.dead, owned = append(make([]uint64, 0, p.len()/64+1), p.dead...), true
				p.dead = p.dead[:cap(p.dead)]
			}
			p.dead[r/64] |= 1 << (r % 64)
			s.infos[list].Entries[p.kindOf(r)]--
		}
	}
	kept := make([]recentEntry, 0, len(s.recent.rows))
	for _, r := range s.recent.rows {
		if ids[r.list][r.id] {
			s.infos[r.list].Entries[r.hash.kind]--
			continue
		}
		kept = append(kept, r)
	}
	if len(kept) < len(s.recent.rows) {
		s.recent = recent{}.add(kept)
	}
}

// add puts entries behind the recent ones.
func (s *Set) add(entries []recentEntry) error {
	var errs []error
	var fresh []recentEntry
	for _, e := range entries {
		switch category, found := s.category(&e); {
		case !found:
			fresh = append(fresh, e)
		case category == e.category:
			s.infos[e.list].Duplicates++
		case len(errs) < maxFaults:
			errs = append(errs, twoCategories(s.lists[e.list].name, e.id, e.hash.kind, category, e.category))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if len(s.recent.rows)+len(fresh) > mostRecent {
		return s.seal(fresh)
	}
	// One after the other, so that a later one is compared with an earlier.
	for i, e := range fresh {
		if category, found := s.recent.category(&fresh[i]); found {
			if category != e.category {
				return twoCategories(s.lists[e.list].name, e.id, e.hash.kind, category, e.category)
			}
			s.infos[e.list].Duplicates++
			continue
		}
		s.infos[e.list].Entries[e.hash.kind]++
		s.recent = s.recent.add(fresh[i : i+1])
	}
	return nil
}

// category returns that of an entry with the same hash, list and ID, if there is one.
func (s *Set) category(e *recentEntry) (string, bool) {
	words := e.hash.index()
	for i := range s.parts {
		p := &s.parts[i]
		t := &p.tables[e.hash.kind]
		place := t.find(&words)
		if place < 0 {
			continue
		}
		start, end := t.records(uint32(place))
		for r := start; r < end; r++ {
			if id, category := p.record(r); p.alive(r) && p.list(r) == e.list && string(id) == e.id {
				return category, true
			}
		}
	}
	return s.recent.category(e)
}

// mostSealed is how many records the segments that are made of recent entries have at most, when they are put together.
const mostSealed = 1 << 17

// settle returns a set without recent entries.
func (s *Set) settle() (*Set, error) {
	if len(s.recent.rows) == 0 {
		return s, nil
	}
	out := &Set{lists: s.lists, infos: s.Lists(), parts: slices.Clone(s.parts), recent: s.recent, radius: s.radius}
	return out, out.seal(nil)
}

// seal makes a segment of the recent entries, of fresh ones, and of the sealed segments before while they are small.
func (s *Set) seal(fresh []recentEntry) error {
	var b Builder
	for _, l := range s.lists {
		b.Begin(List{Name: l.name, Version: l.version, Thresholds: l.thresholds})
	}
	counted := make([][PHash + 1]int, len(s.lists)) // of the segment's entries, by the set
	total := len(s.recent.rows) + len(fresh)
	parts := s.parts
	for len(parts) > 0 {
		p := &parts[len(parts)-1]
		if !p.sealed || total+p.len() > mostSealed {
			break
		}
		total += p.len()
		for _, k := range Kinds() {
			t := &p.tables[k]
			for place := range t.len() {
				start, end := t.records(uint32(place))
				for r := start; r < end; r++ {
					if p.alive(r) {
						id, category := p.record(r)
						b.add(k, t.full(place), p.list(r), category, string(id))
						counted[p.list(r)][k]++
					}
				}
			}
		}
		parts = parts[:len(parts)-1]
	}
	for _, r := range s.recent.rows {
		b.add(r.hash.kind, r.hash.index(), r.list, r.category, r.id)
		counted[r.list][r.hash.kind]++
	}
	for _, r := range fresh {
		b.add(r.hash.kind, r.hash.index(), r.list, r.category, r.id)
	}
	made, err := b.segment()
	if err != nil {
		return err
	}
	for i, info := range made.infos {
		s.infos[i].Duplicates += info.Duplicates
		for k, n := range info.Entries {
			s.infos[i].Entries[k] += n - counted[i][k]
		}
	}
	s.parts = append(slices.Clone(parts), part{segment: made, sealed: true})
	s.recent = recent{}
	return nil
}

// recent is the entries that came last. Values share memory: each sees the rows that it counts,
// and add puts more behind them without touching these.
type recent struct {
	rows   []recentEntry
	near   [PHash + 1][]recentHash
	shared *recentShared
}

type recentEntry struct {
	hash     Hash
	list     int
	id       string
	category string
}

// recentHash is a hash that is found by distance.
type recentHash struct {
	words [4]uint64
	row   uint32
}

// mostRecent is how many recent entries are gone through in about 0.1 ms for eight hashes.
const mostRecent = 1 << 13

type recentShared struct {
	mu   sync.Mutex
	used int // rows in memory; only the value that sees them all may put more behind
	// slots is a hash table of row numbers, plus one. A value passes over rows that it does not count.
	slots [4 * mostRecent]atomic.Uint32
	seed  maphash.Seed
}

func (s *recentShared) slot(h *Hash) int {
	return int(maphash.Comparable(s.seed, *h) % uint64(len(s.slots)))
}

// add returns a value with entries behind those of r, together mostRecent at most.
func (r recent) add(entries []recentEntry) recent {
	if len(entries) == 0 {
		return r
	}
	if r.shared != nil {
		r.shared.mu.Lock()
		defer r.shared.mu.Unlock()
	}
	if r.shared == nil || r.shared.used != len(r.rows) {
		// Somebody else has put rows behind these.
		entries = append(slices.Clone(r.rows), entries...)
		r = recent{shared: &recentShared{seed: maphash.MakeSeed()}}
	}
	for _, e := range entries {
		row := uint32(len(r.rows))
		r.rows = append(r.rows, e)
		if e.hash.kind == PDQ || e.hash.kind == PHash {
			r.near[e.hash.kind] = append(r.near[e.hash.kind], recentHash{e.hash.index(), row})
		}
		i := r.shared.slot(&e.hash)
		for r.shared.slots[i].Load() != 0 {
			i = (i + 1) % len(r.shared.slots)
		}
		r.shared.slots[i].Store(row + 1)
	}
	r.shared.used = len(r.rows)
	return r
}

// with yields the rows that have a hash.
func (r *recent) with(h *Hash) iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		if r.shared == nil {
			return
		}
		for i := r.shared.slot(h); ; i = (i + 1) % len(r.shared.slots) {
			n := r.shared.slots[i].Load()
			if n == 0 {
				return
			}
			if int(n) <= len(r.rows) && r.rows[n-1].hash == *h && !yield(n-1) {
				return
			}
		}
	}
}

func (r *recent) category(e *recentEntry) (string, bool) {
	for row := range r.with(&e.hash) {
		if x := &r.rows[row]; x.list == e.list && x.id == e.id {
			return x.category, true
		}
	}
	return "", false
}
