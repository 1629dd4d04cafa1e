// Package hashdb finds known pictures and files: it holds lists of hashes that others supply
// and answers which entries a message's attachment matches.
//
// Digests match exactly, PDQ hashes within 31 bits, goimagehash's perception hashes within 6; a list may
// ask for less, never for more. No entry within its threshold is missed. Before a list takes effect,
// entries are left out, and reported, that would match what nobody listed: the digest of
// the empty file, hashes that are all zero or nearly so. The set of lists in force is one immutable
// value behind an atomic pointer.
//
// The package does not decode pictures or compute PDQ hashes (package pdq does), does not
// fetch lists, and does not decide what follows from a match, which is evidence and
// not a verdict: unrelated pictures can be made to collide on purpose.
package hashdb

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"slices"
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
// Perceptual hashes are found by going through all of them, about 1 ns per entry and
// hash asked for. The answer does not depend on that.
type Set struct {
	infos   []Info
	lists   []listFacts
	entries []entryFacts // sorted by hash, list, ID
	exact   map[Hash]span
	pdq     scan
	phash   scan
}

type listFacts struct {
	name, version string
	thresholds    map[Kind]int
}

type entryFacts struct {
	list         int
	id, category string
}

// span is the entries that share a hash.
type span struct{ start, end int }

// scan holds hashes for a search by distance.
type scan struct {
	words  [][4]uint64
	spans  []span
	radius int // the largest threshold among the lists
}

// NewSet puts lists together. Unfit entries are refused and counted in [Set.Lists]; what is wrong
// with a list itself is an error, and then there is no set: names that are empty or taken, thresholds out of
// range, entries without hash or ID, an entry with one hash under two categories.
func NewSet(lists ...List) (*Set, error) {
	s := &Set{exact: make(map[Hash]span)}
	type row struct {
		hash Hash
		entryFacts
	}
	var rows []row
	var errs []error
	names := make(map[string]bool)
	for n, list := range lists {
		if list.Name == "" {
			errs = append(errs, fmt.Errorf("list %d has no name", n+1))
		}
		if names[list.Name] {
			errs = append(errs, fmt.Errorf("list %s: the name is taken by another list", list.Name))
		}
		names[list.Name] = true
		facts := listFacts{name: list.Name, version: list.Version, thresholds: make(map[Kind]int)}
		for _, k := range Kinds() {
			facts.thresholds[k] = k.Threshold()
		}
		for k, t := range list.Thresholds {
			if t < 0 || t > k.Threshold() {
				errs = append(errs, fmt.Errorf("list %s: threshold %d for %s, want 0 to %d", list.Name, t, k, k.Threshold()))
			}
			facts.thresholds[k] = t
		}
		s.lists = append(s.lists, facts)
		info := Info{Name: list.Name, Version: list.Version, Entries: make(map[Kind]int)}
		for i, e := range list.Entries {
			if e.Hash.kind == 0 || e.ID == "" {
				errs = append(errs, fmt.Errorf("list %s: entry %d has no hash or no ID", list.Name, i+1))
				break // a program's mistake, and the rest will be like it
			}
			if why := e.Hash.unfit(); why != "" {
				info.Refused++
				if len(info.Refusals) < MostRefusals {
					info.Refusals = append(info.Refusals, Refusal{Entry: e.ID, Hash: e.Hash, Reason: why})
				}
				continue
			}
			rows = append(rows, row{e.Hash, entryFacts{list: n, id: e.ID, category: cmp.Or(e.Category, list.Category)}})
		}
		s.infos = append(s.infos, info)
	}

	slices.SortFunc(rows, func(a, b row) int {
		return cmp.Or(compareHashes(&a.hash, &b.hash), cmp.Compare(a.list, b.list), cmp.Compare(a.id, b.id), cmp.Compare(a.category, b.category))
	})
	start := 0 // of the entries that share the hash
	for i, r := range rows {
		if i > 0 {
			switch last := rows[i-1]; {
			case last == r:
				s.infos[r.list].Duplicates++
				continue
			case last.hash == r.hash && last.list == r.list && last.id == r.id:
				errs = append(errs, fmt.Errorf("list %s: entry %s has one %s hash under two categories, %q and %q", s.lists[r.list].name, r.id, r.hash.kind, last.category, r.category))
			}
		}
		if i > 0 && rows[i-1].hash != r.hash {
			s.add(rows[i-1].hash, start)
			start = len(s.entries)
		}
		s.entries = append(s.entries, r.entryFacts)
		s.infos[r.list].Entries[r.hash.kind]++
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if len(rows) > 0 {
		s.add(rows[len(rows)-1].hash, start)
	}
	for i, list := range s.lists {
		if s.infos[i].Entries[PDQ] > 0 {
			s.pdq.radius = max(s.pdq.radius, list.thresholds[PDQ])
		}
		if s.infos[i].Entries[PHash] > 0 {
			s.phash.radius = max(s.phash.radius, list.thresholds[PHash])
		}
	}
	return s, nil
}

func compareHashes(a, b *Hash) int {
	if c := cmp.Compare(a.kind, b.kind); c != 0 {
		return c
	}
	for i := 0; i < len(a.bytes); i += 8 {
		if c := cmp.Compare(binary.BigEndian.Uint64(a.bytes[i:]), binary.BigEndian.Uint64(b.bytes[i:])); c != 0 {
			return c
		}
	}
	return 0
}

// byDistance returns the scan for hashes of a kind, or nil where they match exactly.
func (s *Set) byDistance(kind Kind) *scan {
	switch kind {
	case PDQ:
		return &s.pdq
	case PHash:
		return &s.phash
	default:
		return nil
	}
}

// add gives a hash the entries from start to the last one.
func (s *Set) add(h Hash, start int) {
	at := span{start, len(s.entries)}
	if scan := s.byDistance(h.kind); scan != nil {
		scan.words = append(scan.words, h.words())
		scan.spans = append(scan.spans, at)
		return
	}
	s.exact[h] = at
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
	entry    int
	kind     Kind
	distance int
	query    int
}

// Match returns the entries that the hashes of a query match, each within its list's threshold. The same
// query on the same set gives the same result.
func (s *Set) Match(q Query) Result {
	var result Result
	if s == nil {
		return result
	}
	gated := q.Quality != UnknownQuality && q.Quality < minQuality
	var hits []hit
	var needles [PHash + 1][]needle
	for i := range q.Hashes {
		h := &q.Hashes[i]
		if h.kind == PDQ && gated {
			result.LowQuality = s.Has(PDQ)
			continue
		}
		if s.byDistance(h.kind) != nil {
			needles[h.kind] = append(needles[h.kind], needle{h.words(), i})
			continue
		}
		at := s.exact[*h]
		for e := at.start; e < at.end; e++ {
			hits = append(hits, hit{e, h.kind, 0, i})
		}
	}
	for _, kind := range []Kind{PDQ, PHash} {
		hits = s.near(hits, kind, needles[kind])
	}
	if len(hits) > 0 {
		s.name(&result, hits)
	}
	return result
}

type needle struct {
	words [4]uint64
	query int
}

// near appends the entries within their lists' thresholds of any needle.
func (s *Set) near(hits []hit, kind Kind, needles []needle) []hit {
	scan := s.byDistance(kind)
	if len(needles) == 0 {
		return hits
	}
	for i := range scan.words {
		w := &scan.words[i]
		for n := range needles {
			v := &needles[n].words
			// Half of the bits tell nearly every stranger.
			d := bits.OnesCount64(w[0]^v[0]) + bits.OnesCount64(w[1]^v[1])
			if d > scan.radius {
				continue
			}
			d += bits.OnesCount64(w[2]^v[2]) + bits.OnesCount64(w[3]^v[3])
			if d > scan.radius {
				continue
			}
			for e := scan.spans[i].start; e < scan.spans[i].end; e++ {
				if d <= s.lists[s.entries[e].list].thresholds[kind] {
					hits = append(hits, hit{e, kind, d, needles[n].query})
				}
			}
		}
	}
	return hits
}

// name orders hits, keeps the first per list and entry ID, and fills the result with them.
func (s *Set) name(result *Result, hits []hit) {
	slices.SortFunc(hits, func(a, b hit) int {
		ea, eb := &s.entries[a.entry], &s.entries[b.entry]
		return cmp.Or(
			cmp.Compare(a.kind, b.kind), cmp.Compare(a.distance, b.distance),
			cmp.Compare(s.lists[ea.list].name, s.lists[eb.list].name), cmp.Compare(ea.id, eb.id),
			cmp.Compare(a.query, b.query), cmp.Compare(a.entry, b.entry),
		)
	})
	type key struct {
		list int
		id   string
	}
	seen := make(map[key]bool, len(hits))
	for _, h := range hits {
		e := &s.entries[h.entry]
		if k := (key{e.list, e.id}); seen[k] {
			continue
		} else {
			seen[k] = true
		}
		if len(result.Matches) == MostMatches {
			result.More++
			continue
		}
		list := &s.lists[e.list]
		result.Matches = append(result.Matches, Match{
			List: list.name, ListVersion: list.version, Entry: e.id, Category: e.category,
			Kind: h.kind, Distance: h.distance, Threshold: list.thresholds[h.kind], Query: h.query,
		})
	}
}

// DB holds the set in force. The zero value holds none and is ready; any number of
// goroutines may look up while another replaces the set.
type DB struct {
	set atomic.Pointer[Set]
}

// Set returns the set in force, or nil: one message is judged by one set.
func (db *DB) Set() *Set { return db.set.Load() }

// Replace puts another set in force for whoever asks from now on, and returns the one before.
func (db *DB) Replace(set *Set) *Set { return db.set.Swap(set) }

// Match asks the set in force.
func (db *DB) Match(q Query) Result { return db.Set().Match(q) }
