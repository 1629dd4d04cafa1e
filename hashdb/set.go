// Package hashdb finds known pictures and files: it holds lists of hashes that others supply
// and answers which entries a message's attachment matches.
//
// Digests match exactly, PDQ hashes within 31 bits, goimagehash's perception hashes within 6; a list may
// ask for less, never for more. No entry within its threshold is missed. Before a list takes effect,
// entries are left out, and reported, that would match what nobody listed: the digest of
// the empty file, hashes that are all zero or nearly so. The set of lists in force is one immutable
// value behind an atomic pointer.
//
// [LoadDir] and [NewSet] keep lists in memory, up to some millions of entries. For more, a [Builder] writes them to
// a file once and [Open] maps it, which several processes then share. [DB.Apply] adds and withdraws entries from one look-up
// to the next, without building anything again, and [Join] puts sets together of which each can be replaced alone.
//
// The package does not decode pictures or compute PDQ hashes (package pdq does), does not
// fetch lists, and does not decide what follows from a match, which is evidence and
// not a verdict: unrelated pictures can be made to collide on purpose. It does not sign files: their
// digest tells of accidents, not of enemies, against whom it only does not crash.
package hashdb

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// Entry is one hash of a list. Several entries may share an ID: hashes of one file by different kinds.
type Entry struct {
	Hash     Hash
	ID       string // the list owner's name for it
	Category string // kind of harm; the list's where empty
}

// List is a set of known hashes from one source.
type List struct {
	Name       string
	Version    string
	Category   string       // of entries that name none
	Thresholds map[Kind]int // bits; [Kind.Threshold] where absent, and never more
	Entries    []Entry
}

// Match says that a hash that was asked for is near an entry of a list.
type Match struct {
	List        string
	ListVersion string
	Entry       string
	Category    string
	Kind        Kind
	Distance    int // bits; 0 for digests
	Threshold   int // bits, the list's at the time
	Query       int // index of the nearest hash in [Query.Hashes]
}

// Query asks for one picture or file.
type Query struct {
	// Hashes are of any kinds; several PDQ hashes are the orientations of one picture.
	Hashes []Hash
	// Quality is that of the PDQ hashes, 0 to 100, or [UnknownQuality]. Under
	// 50 they are not looked up, and the result says so.
	Quality int
}

// UnknownQuality is the quality of PDQ hashes that somebody else computed and did not say. They are looked up.
const UnknownQuality = -1

// minQuality equals pdq.MinQuality, which this package does not import.
const minQuality = 50

// MostMatches is how many matches a result holds at most.
const MostMatches = 64

// Result is the answer to a [Query].
type Result struct {
	// Matches holds one match per list and entry, that of the most certain kind and then the nearest,
	// ordered by kind, distance, list and entry.
	Matches []Match
	// More counts the matches beyond [MostMatches].
	More int
	// LowQuality says that the query's PDQ hashes were not looked up, though there are some to match,
	// because their quality is too low.
	LowQuality bool
}

// Refusal is an entry that was left out because it would match what nobody listed.
type Refusal struct {
	Entry  string
	Hash   Hash
	Reason string
}

// Info describes one list of a set.
type Info struct {
	Name       string
	Version    string
	Entries    map[Kind]int // that can match
	Duplicates int          // left out, being the same in hash, ID and category
	Refused    int          // left out as unfit
	Refusals   []Refusal    // the first [MostRefusals] of these
	Ignored    []string     // columns of the file that nothing reads
}

// MostRefusals is how many refusals are kept per list.
const MostRefusals = 100

// Set is the lists in force together. It never changes; a nil set holds no lists. Any number of goroutines may use it.
//
// It consists of segments, each searched as its size asks for, and of the newest entries, which are
// gone through. Eight PDQ hashes are looked up among ten million in about 1.5 ms, among 8,192 in 0.1 ms.
type Set struct {
	infos  []Info
	lists  []listFacts
	parts  []part
	recent recent
	radius [PHash + 1]int // the largest threshold among lists with entries of the kind; -1 where there are none
}

type listFacts struct {
	name, version string
	category      string // of entries that name none
	thresholds    map[Kind]int
}

// part is a segment and what has been withdrawn from it since.
type part struct {
	*segment
	renumber []int    // the set's number of each of the segment's lists; nil where it is the same
	dead     []uint64 // a bit for each record that was withdrawn; nil where none was
	sealed   bool     // made of recent entries
}

func (p *part) list(record uint32) int {
	n := int(p.entries[record].list)
	if p.renumber != nil {
		n = p.renumber[n]
	}
	return n
}

func (p *part) alive(record uint32) bool {
	return p.dead == nil || p.dead[record/64]>>(record%64)&1 == 0
}

// NewSet puts lists together. Unfit entries are refused and counted in [Set.Lists]; what is wrong
// with a list itself is an error, and then there is no set: names that are empty or taken, thresholds out of
// range, entries without hash or ID, text that does not print, an entry with one hash under two categories.
func NewSet(lists ...List) (*Set, error) {
	var b Builder
	for _, list := range lists {
		b.Begin(list)
	}
	return b.Set()
}

// newSet returns the set of a segment that stands alone.
func newSet(p part) *Set {
	s := &Set{lists: p.lists, infos: p.infos, parts: []part{p}}
	s.measure()
	return s
}

// measure finds the radius to search in, for every kind.
func (s *Set) measure() {
	for i := range s.radius {
		s.radius[i] = -1
	}
	for i, info := range s.infos {
		for k, n := range info.Entries {
			if n > 0 {
				s.radius[k] = max(s.radius[k], s.lists[i].thresholds[k])
			}
		}
	}
}

// Join puts the lists of several sets into one, which shares their memory. It is an error
// if two lists have the same name.
func Join(sets ...*Set) (*Set, error) {
	out := new(Set)
	names := make(map[string]bool)
	for _, s := range sets {
		if s == nil {
			continue
		}
		base := len(out.lists)
		for _, l := range s.lists {
			if names[l.name] {
				return nil, fmt.Errorf("join sets: two lists are named %s", l.name)
			}
			names[l.name] = true
		}
		s, err := s.settle()
		if err != nil {
			return nil, fmt.Errorf("join sets: %w", err)
		}
		out.lists = append(out.lists, s.lists...)
		out.infos = append(out.infos, s.Lists()...)
		for _, p := range s.parts {
			moved := make([]int, len(p.lists))
			for i := range moved {
				moved[i] = base + i
				if p.renumber != nil {
					moved[i] = base + p.renumber[i]
				}
			}
			p.renumber = moved
			out.parts = append(out.parts, p)
		}
	}
	if len(out.lists) > maxNumbered {
		return nil, fmt.Errorf("join sets: over %d lists", maxNumbered)
	}
	out.measure()
	return out, nil
}

// Size returns how many bytes the search works on, and how many say what it finds. Recent
// entries are not counted.
func (s *Set) Size() (index, entries int64) {
	if s == nil {
		return 0, 0
	}
	for _, p := range s.parts {
		i, e := p.size.bytes()
		index, entries = index+i, entries+e
	}
	return index, entries
}

// Has says whether a list holds hashes of a kind, so that a caller need not compute what nothing can match.
func (s *Set) Has(kind Kind) bool {
	if s == nil {
		return false
	}
	for _, info := range s.infos {
		if info.Entries[kind] > 0 {
			return true
		}
	}
	return false
}

// Versions returns the version of every list by its name.
func (s *Set) Versions() map[string]string {
	out := make(map[string]string)
	if s != nil {
		for _, list := range s.lists {
			out[list.name] = list.version
		}
	}
	return out
}

// Lists describes the lists in the order in which they were given.
func (s *Set) Lists() []Info {
	if s == nil {
		return nil
	}
	out := slices.Clone(s.infos)
	for i := range out {
		out[i].Entries = maps.Clone(out[i].Entries)
		out[i].Refusals = slices.Clone(out[i].Refusals)
		out[i].Ignored = slices.Clone(out[i].Ignored)
	}
	return out
}

// hit is a match before it is given names.
type hit struct {
	part     int // or recently
	record   uint32
	kind     Kind
	distance int
	query    int
}

// recently is the part of a hit among the recent entries.
const recently = -1

// Match returns the entries that the hashes of a query match, each within its list's threshold. The same
// query on the same set gives the same result.
func (s *Set) Match(q Query) Result {
	var result Result
	if s == nil {
		return result
	}
	gated := q.Quality != UnknownQuality && q.Quality < minQuality
	work := scratches.Get().(*scratch)
	defer scratches.Put(work)
	work.hits = work.hits[:0]
	for i := range q.Hashes {
		h := &q.Hashes[i]
		switch {
		case h.kind == 0 || s.radius[h.kind] < 0:
		case h.kind == PDQ && gated:
			result.LowQuality = true
		case h.kind == PDQ || h.kind == PHash:
			s.near(h, i, work)
		default:
			s.exact(h, i, work)
		}
	}
	if len(work.hits) > 0 {
		s.name(&result, work.hits)
	}
	runtime.KeepAlive(s) // and so the mapped memory that was read
	return result
}

// exact gathers the entries with a hash.
func (s *Set) exact(h *Hash, query int, work *scratch) {
	words := h.index()
	for i := range s.parts {
		p := &s.parts[i]
		t := &p.tables[h.kind]
		if place := t.find(&words); place >= 0 {
			s.take(hit{part: i, kind: h.kind, query: query}, t, uint32(place), work)
		}
	}
	for row := range s.recent.with(h) {
		work.hits = append(work.hits, hit{part: recently, record: row, kind: h.kind, query: query})
	}
}

// near gathers the entries within their lists' thresholds of a hash.
func (s *Set) near(h *Hash, query int, work *scratch) {
	words := h.index()
	radius := s.radius[h.kind]
	for i := range s.parts {
		p := &s.parts[i]
		t := &p.tables[h.kind]
		for _, n := range t.near(&words, radius, work) {
			s.take(hit{part: i, kind: h.kind, distance: n.distance, query: query}, t, n.place, work)
		}
	}
	for i := range s.recent.near[h.kind] {
		r := &s.recent.near[h.kind][i]
		if d := apart(&r.words, &words, radius); d <= s.lists[s.recent.rows[r.row].list].thresholds[h.kind] {
			work.hits = append(work.hits, hit{part: recently, record: r.row, kind: h.kind, distance: d, query: query})
		}
	}
}

// take gathers those records of a hash that were not withdrawn and whose list goes so far.
func (s *Set) take(found hit, t *table, place uint32, work *scratch) {
	p := &s.parts[found.part]
	start, end := t.records(place)
	for r := start; r < end; r++ {
		if p.alive(r) && found.distance <= s.lists[p.list(r)].thresholds[found.kind] {
			found.record = r
			work.hits = append(work.hits, found)
		}
	}
}

// named is the entry of a hit.
type named struct {
	list     int
	id       []byte // in a segment
	category string
}

func (s *Set) entry(h *hit) named {
	if h.part == recently {
		r := &s.recent.rows[h.record]
		return named{r.list, []byte(r.id), r.category}
	}
	p := &s.parts[h.part]
	id, category := p.record(h.record)
	return named{p.list(h.record), id, category}
}

// match returns what is told of a hit.
func (s *Set) match(h *hit, e *named) Match {
	list := &s.lists[e.list]
	return Match{
		List: list.name, ListVersion: list.version, Entry: string(e.id), Category: cmp.Or(e.category, list.category),
		Kind: h.kind, Distance: h.distance, Threshold: list.thresholds[h.kind], Query: h.query,
	}
}

// name orders hits, keeps the first per list and entry ID, and fills the result with them.
func (s *Set) name(result *Result, hits []hit) {
	if len(hits) == 1 {
		e := s.entry(&hits[0])
		result.Matches = []Match{s.match(&hits[0], &e)}
		return
	}
	type candidate struct {
		hit
		named
	}
	all := make([]candidate, len(hits))
	for i := range hits {
		all[i] = candidate{hits[i], s.entry(&hits[i])}
	}
	slices.SortFunc(all, func(a, b candidate) int {
		if c := cmp.Or(
			cmp.Compare(a.kind, b.kind), cmp.Compare(a.distance, b.distance),
			cmp.Compare(s.lists[a.list].name, s.lists[b.list].name), bytes.Compare(a.id, b.id),
		); c != 0 {
			return c
		}
		return cmp.Or(cmp.Compare(a.query, b.query), cmp.Compare(a.category, b.category), cmp.Compare(a.part, b.part), cmp.Compare(a.record, b.record))
	})
	type key struct {
		list int
		id   string
	}
	seen := make(map[key]bool, len(hits))
	for i := range all {
		c := &all[i]
		k := key{c.list, string(c.id)}
		if seen[k] {
			continue
		}
		seen[k] = true
		if len(result.Matches) == MostMatches {
			result.More++
			continue
		}
		result.Matches = append(result.Matches, s.match(&c.hit, &c.named))
	}
}

// DB holds the set in force. The zero value holds none and is ready; any number of
// goroutines may look up while others change the set.
type DB struct {
	set     atomic.Pointer[Set]
	writing sync.Mutex
}

// Set returns the set in force, or nil: one message is judged by one set.
func (db *DB) Set() *Set { return db.set.Load() }

// Replace puts another set in force for whoever asks from now on, and returns the one before.
func (db *DB) Replace(set *Set) *Set {
	db.writing.Lock()
	defer db.writing.Unlock()
	return db.set.Swap(set)
}

// Apply puts the set in force that [Set.Apply] makes of the one before. With an error that one stays.
func (db *DB) Apply(changes ...Change) error {
	db.writing.Lock()
	defer db.writing.Unlock()
	set, err := db.Set().Apply(changes...)
	if err != nil {
		return err
	}
	db.set.Store(set)
	return nil
}

// Match asks the set in force.
func (db *DB) Match(q Query) Result { return db.Set().Match(q) }
