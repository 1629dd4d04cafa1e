package hashdb

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"math/bits"
	"runtime"
	"slices"
)

// Restate returns the set, whose memory it shares, with what is said of one of its lists in place of what was: the
// version, the category of entries that name none, and the thresholds, [Kind.Threshold] where absent. The list's entries
// stay what they are; those of the argument are not read.
func (s *Set) Restate(list List) (*Set, error) {
	var at int
	if s == nil {
		at = -1
	} else {
		at = slices.IndexFunc(s.lists, func(l listFacts) bool { return l.name == list.Name })
	}
	if at < 0 {
		return nil, fmt.Errorf("restate: list %s is not in the set", clip(list.Name))
	}
	for _, text := range []string{list.Version, list.Category} {
		if err := Printable(text); err != nil {
			return nil, fmt.Errorf("restate list %s: version or category %q: %w", list.Name, clip(text), err)
		}
	}
	facts := listFacts{name: list.Name, version: list.Version, category: list.Category, thresholds: make(map[Kind]int)}
	for _, k := range Kinds() {
		facts.thresholds[k] = k.Threshold()
	}
	for k, t := range list.Thresholds {
		if _, known := k.facts(); !known || t < 0 || t > k.Threshold() {
			return nil, fmt.Errorf("restate list %s: threshold %d for %s, want 0 to %d", list.Name, t, k, k.Threshold())
		}
		facts.thresholds[k] = t
	}
	out := &Set{lists: slices.Clone(s.lists), infos: s.Lists(), parts: s.parts, recent: s.recent}
	out.lists[at] = facts
	out.infos[at].Version = list.Version
	out.measure()
	return out, nil
}

// Entries yields every entry of the set with the name of its list, in no order that means anything.
func (s *Set) Entries() iter.Seq2[string, Entry] {
	return func(yield func(string, Entry) bool) {
		if s == nil {
			return
		}
		defer runtime.KeepAlive(s) // and so the mapped memory that is read
		for i := range s.parts {
			p := &s.parts[i]
			for kind := range p.tables {
				t := &p.tables[kind]
				for place := range t.len() {
					start, end := t.records(uint32(place))
					for r := start; r < end; r++ {
						if !p.alive(r) {
							continue
						}
						id, category := p.record(r)
						list := &s.lists[p.list(r)]
						e := Entry{Hash: unindex(t.kind, t.full(place)), ID: string(id), Category: cmp.Or(category, list.category)}
						if !yield(list.name, e) {
							return
						}
					}
				}
			}
		}
		for _, r := range s.recent.rows {
			list := &s.lists[r.list]
			if !yield(list.name, Entry{Hash: r.hash, ID: r.id, Category: cmp.Or(r.category, list.category)}) {
				return
			}
		}
	}
}

// unindex returns the hash whose index is w.
func unindex(kind Kind, w [4]uint64) Hash {
	switch kind {
	case PDQ, VPDQ:
		w = permuted(w, 256, 173)
	case PHash:
		w = permuted(w, 64, 45)
	default:
	}
	h := Hash{kind: kind}
	for i, x := range w {
		for b := range 8 {
			h.bytes[8*i+b] = byte(x >> (8 * b))
		}
	}
	return h
}

// permuted moves bit k to factor*k modulo size.
func permuted(w [4]uint64, size, factor int) (out [4]uint64) {
	for i, x := range w {
		for ; x != 0; x &= x - 1 {
			to := factor * (64*i + bits.TrailingZeros64(x)) % size
			out[to/64] |= 1 << (to % 64)
		}
	}
	return out
}

// Nearest returns the most entries that are nearest to any of the hashes, one for each list, entry and kind, ordered by kind, distance,
// list and entry, whether or not they are within their list's threshold; digests have to be equal. It goes through every
// entry, about 10 ns for each, and is meant for people who look into a list.
func (s *Set) Nearest(hashes []Hash, most int) []Match {
	if s == nil || most <= 0 {
		return nil
	}
	var all []Match
	for _, k := range Kinds() {
		var near []nearest
		worst := k.Size() * 8
		if !k.isNear() {
			worst = 0
		}
		for q := range hashes {
			if hashes[q].kind == k {
				near = s.sweep(near, &hashes[q], q, &worst, most)
			}
		}
		all = append(all, s.told(k, near, most)...)
	}
	runtime.KeepAlive(s) // and so the mapped memory that was read
	return all
}

// nearest is an entry before it is given names.
type nearest struct {
	hit
	list int
	id   string
}

// sweep gathers what is no further than worst, which shrinks once there are enough.
func (s *Set) sweep(near []nearest, h *Hash, query int, worst *int, most int) []nearest {
	words := h.index()
	take := func(n nearest) {
		near = append(near, n)
		if len(near) >= 64*most {
			near = sifted(near, most)
			if len(near) == most {
				*worst = near[most-1].distance
			}
		}
	}
	for i := range s.parts {
		p := &s.parts[i]
		t := &p.tables[h.kind]
		for place := range t.len() {
			w := t.full(place)
			d := apart(&w, &words, *worst)
			if d > *worst {
				continue
			}
			start, end := t.records(uint32(place))
			for r := start; r < end; r++ {
				if p.alive(r) {
					id, _ := p.record(r)
					take(nearest{hit{part: i, record: r, kind: h.kind, distance: d, query: query}, p.list(r), string(id)})
				}
			}
		}
	}
	for row := range s.recent.rows {
		r := &s.recent.rows[row]
		if r.hash.kind != h.kind {
			continue
		}
		w := r.hash.index()
		if d := apart(&w, &words, *worst); d <= *worst {
			take(nearest{hit{part: recently, record: uint32(row), kind: h.kind, distance: d, query: query}, r.list, r.id})
		}
	}
	return near
}

// sifted keeps the nearest, each list and entry once.
func sifted(near []nearest, most int) []nearest {
	slices.SortFunc(near, func(a, b nearest) int {
		return cmp.Or(cmp.Compare(a.distance, b.distance), cmp.Compare(a.list, b.list), cmp.Compare(a.id, b.id), cmp.Compare(a.query, b.query))
	})
	type key struct {
		list int
		id   string
	}
	seen := make(map[key]bool)
	near = slices.DeleteFunc(near, func(n nearest) bool {
		k := key{n.list, n.id}
		again := seen[k]
		seen[k] = true
		return again
	})
	return near[:min(len(near), most)]
}

func (s *Set) told(kind Kind, near []nearest, most int) []Match {
	var out []Match
	for _, n := range sifted(near, most) {
		e := s.entry(&n.hit)
		m := s.match(&n.hit, &e)
		m.Kind = kind
		out = append(out, m)
	}
	slices.SortStableFunc(out, func(a, b Match) int {
		return cmp.Or(cmp.Compare(a.Distance, b.Distance), cmp.Compare(a.List, b.List), cmp.Compare(a.Entry, b.Entry))
	})
	return out
}

// Thresholds returns the distances in bits up to which entries of a list match, by kind, or nil where there is no such list.
func (s *Set) Thresholds(list string) map[Kind]int {
	if s != nil {
		for _, l := range s.lists {
			if l.name == list {
				return maps.Clone(l.thresholds)
			}
		}
	}
	return nil
}
