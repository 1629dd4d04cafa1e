package hashdb

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"unsafe"
)

// Builder gathers lists of any size and makes a set of them, or a file that [Open] maps. The zero value is
// ready. It keeps about 50 bytes and the ID for each entry, and takes one goroutine.
type Builder struct {
	lists      []listFacts
	infos      []Info
	names      map[string]bool
	category   string // of the current list
	entry      int    // of the current list
	broken     bool   // the current list
	categories map[string]uint16
	known      []string // categories by number
	rows       [PHash + 1]rows
	ids        [][]byte
	errs       []error
	force      map[Kind]plan // for tests
}

// maxNumbered is how many lists or categories there can be.
const maxNumbered = 1 << 16

// row is one entry.
type row struct {
	words          [4]uint64
	id             uint64 // the chunk of ids, and where in it
	length         uint16
	list, category uint16
}

// rows grow without being copied.
type rows struct {
	chunks [][]row
	n      int
}

const (
	rowChunk = 1 << 14
	idChunk  = 1 << 20
)

func (r *rows) add(x row) {
	last := len(r.chunks) - 1
	if last < 0 || len(r.chunks[last]) == rowChunk {
		r.chunks = append(r.chunks, nil)
		last++
	}
	r.chunks[last] = append(r.chunks[last], x)
	r.n++
}

func (r *rows) at(i uint32) *row { return &r.chunks[i/rowChunk][i%rowChunk] }

// Begin begins a list, to which its own entries are added and those of later calls of [Builder.Add].
func (b *Builder) Begin(list List) {
	n := len(b.lists)
	if b.names == nil {
		b.names = make(map[string]bool)
		b.categories = make(map[string]uint16)
	}
	if list.Name == "" {
		b.fault(fmt.Errorf("list %d has no name", n+1))
	}
	if b.names[list.Name] {
		b.fault(fmt.Errorf("list %s: the name is taken by another list", list.Name))
	}
	if n == maxNumbered {
		b.fault(fmt.Errorf("over %d lists", maxNumbered))
	}
	for _, text := range []string{list.Name, list.Version, list.Category} {
		if err := printable(text); err != nil {
			b.fault(fmt.Errorf("list %d: name, version or category %q: %w", n+1, clip(text), err))
		}
	}
	b.names[list.Name] = true
	facts := listFacts{name: list.Name, version: list.Version, thresholds: make(map[Kind]int)}
	for _, k := range Kinds() {
		facts.thresholds[k] = k.Threshold()
	}
	for k, t := range list.Thresholds {
		if t < 0 || t > k.Threshold() {
			b.fault(fmt.Errorf("list %s: threshold %d for %s, want 0 to %d", list.Name, t, k, k.Threshold()))
		}
		facts.thresholds[k] = t
	}
	b.lists = append(b.lists, facts)
	b.infos = append(b.infos, Info{Name: list.Name, Version: list.Version, Entries: make(map[Kind]int)})
	b.category, b.entry, b.broken = list.Category, 0, n >= maxNumbered
	for _, e := range list.Entries {
		b.Add(e)
	}
}

// fault keeps what is wrong, until there is more than anybody reads.
func (b *Builder) fault(err error) {
	if len(b.errs) < maxFaults {
		b.errs = append(b.errs, err)
	}
}

// Add adds an entry to the list that was begun last. What is wrong with it is told at the end.
func (b *Builder) Add(e Entry) {
	if len(b.lists) == 0 {
		b.fault(errors.New("an entry before any list was begun"))
		return
	}
	if b.broken {
		return
	}
	n := len(b.lists) - 1
	info := &b.infos[n]
	b.entry++
	if e.Hash.kind == 0 || e.ID == "" {
		b.fault(fmt.Errorf("list %s: entry %d has no hash or no ID", info.Name, b.entry))
		b.broken = true // a program's mistake, and the rest will be like it
		return
	}
	category := cmp.Or(e.Category, b.category)
	for _, text := range []string{e.ID, category} {
		if err := printable(text); err != nil {
			b.fault(fmt.Errorf("list %s: entry %d: %q: %w", info.Name, b.entry, clip(text), err))
			return
		}
	}
	if why := e.Hash.unfit(); why != "" {
		info.refuse(e, why)
		return
	}
	b.add(e.Hash.kind, e.Hash.index(), n, category, []byte(e.ID))
}

func (i *Info) refuse(e Entry, why string) {
	i.Refused++
	if len(i.Refusals) < MostRefusals {
		i.Refusals = append(i.Refusals, Refusal{Entry: e.ID, Hash: e.Hash, Reason: why})
	}
}

func (b *Builder) add(kind Kind, words [4]uint64, list int, category string, id []byte) {
	number, ok := b.categories[category]
	if !ok {
		if len(b.known) == maxNumbered {
			b.fault(fmt.Errorf("over %d categories", maxNumbered))
			return
		}
		number = uint16(len(b.known))
		b.categories[category] = number
		b.known = append(b.known, category)
	}
	if b.rows[kind].n == mostRecords {
		b.fault(fmt.Errorf("over %d %s entries", uint32(mostRecords), kind))
		return
	}
	last := len(b.ids) - 1
	if last < 0 || len(b.ids[last])+len(id) > idChunk {
		b.ids = append(b.ids, nil)
		last++
	}
	at := uint64(last)*idChunk + uint64(len(b.ids[last]))
	b.ids[last] = append(b.ids[last], id...)
	b.rows[kind].add(row{words: words, id: at, length: uint16(len(id)), list: uint16(list), category: number})
}

func (b *Builder) id(r *row) []byte {
	at := r.id % idChunk
	return b.ids[r.id/idChunk][at : at+uint64(r.length)]
}

func (b *Builder) compare(x, y *row) int {
	if c := cmp.Or(compareWords(&x.words, &y.words), cmp.Compare(x.list, y.list)); c != 0 {
		return c
	}
	return cmp.Or(bytes.Compare(b.id(x), b.id(y)), cmp.Compare(x.category, y.category))
}

// order returns the rows of a kind in ascending order, without duplicates, and how many distinct hashes they have.
func (b *Builder) order(kind Kind) (order []uint32, hashes int) {
	entries := &b.rows[kind]
	if entries.n == 0 {
		return nil, 0
	}
	// By the first bits into buckets that the cache holds, then each by comparison.
	type keyed struct {
		word uint64
		row  uint32
	}
	shift := 64 - min(12, logTwo(entries.n))
	ends := make([]uint32, 1<<(64-shift)+1)
	for _, chunk := range entries.chunks {
		for i := range chunk {
			ends[chunk[i].words[0]>>shift+1]++
		}
	}
	for i := range ends[1:] {
		ends[i+1] += ends[i]
	}
	starts := slices.Clone(ends)
	all := make([]keyed, entries.n)
	n := uint32(0)
	for _, chunk := range entries.chunks {
		for i := range chunk {
			w := chunk[i].words[0]
			all[starts[w>>shift]] = keyed{w, n}
			starts[w>>shift]++
			n++
		}
	}
	for i := range ends[1:] {
		slices.SortFunc(all[ends[i]:ends[i+1]], func(x, y keyed) int {
			if x.word != y.word {
				return cmp.Compare(x.word, y.word)
			}
			return b.compare(entries.at(x.row), entries.at(y.row))
		})
	}
	order = make([]uint32, 0, entries.n)
	var last *row
	for _, k := range all {
		r := entries.at(k.row)
		if last == nil || last.words != r.words {
			hashes++
		} else if last.list == r.list && last.length == r.length && bytes.Equal(b.id(last), b.id(r)) {
			if last.category == r.category {
				b.infos[r.list].Duplicates++
				continue
			}
			b.fault(twoCategories(b.lists[r.list].name, string(b.id(r)), kind, b.known[last.category], b.known[r.category]))
		}
		last = r
		b.infos[r.list].Entries[kind]++
		order = append(order, k.row)
	}
	return order, hashes
}

func twoCategories(list, id string, kind Kind, one, other string) error {
	return fmt.Errorf("list %s: entry %s has one %s hash under two categories, %q and %q", list, id, kind, one, other)
}

// plan puts everything in order and returns what the segment will be.
func (b *Builder) plan() (h header, orders [PHash + 1][]uint32, lists []byte, err error) {
	h = header{Magic: segmentMagic, Version: segmentVersion, Kinds: uint32(len(h.Tables))}
	for _, k := range Kinds() {
		var hashes int
		orders[k], hashes = b.order(k)
		p, forced := b.force[k]
		if !forced {
			p = planFor(k, hashes)
		}
		h.Tables[k-1] = tableHeader{Hashes: uint64(hashes), Plan: p}
		h.Records += uint64(len(orders[k]))
		for _, r := range orders[k] {
			h.IDs += uint64(b.rows[k].at(r).length)
		}
	}
	if h.Records > mostRecords {
		b.fault(fmt.Errorf("%d entries, at most %d fit into one segment", h.Records, uint32(mostRecords)))
	}
	if err := errors.Join(b.errs...); err != nil {
		return h, orders, nil, err
	}
	section := listsSection{Categories: b.known}
	for i, info := range b.infos {
		l := listSection{
			Name: info.Name, Version: info.Version, Thresholds: b.lists[i].thresholds, Entries: info.Entries,
			Duplicates: info.Duplicates, Refused: info.Refused, Ignored: info.Ignored,
		}
		for _, r := range info.Refusals {
			l.Refusals = append(l.Refusals, refusalSection{Entry: r.Entry, Kind: r.Hash.kind, Hash: r.Hash.String(), Reason: r.Reason})
		}
		section.Lists = append(section.Lists, l)
	}
	if lists, err = section.encode(); err != nil {
		return h, orders, nil, fmt.Errorf("lists: %w", err)
	}
	h.Lists = uint64(len(lists))
	return h, orders, lists, nil
}

// assemble hands the parts of the segment to the sink. The rows are gone after it.
func (b *Builder) assemble(l *layout, orders [PHash + 1][]uint32, lists []byte, out *sink) error {
	out.seek(l.lists)
	out.append(lists)
	out.seek(l.ids)
	for _, k := range Kinds() {
		for _, r := range orders[k] {
			out.append(b.id(b.rows[k].at(r)))
		}
	}
	out.seek(l.starts)
	var number [8]byte
	start := uint64(0)
	for _, k := range Kinds() {
		for _, r := range orders[k] {
			out.append(put(&number, start))
			start += uint64(b.rows[k].at(r).length)
		}
	}
	out.append(put(&number, start))
	out.seek(l.facts)
	for _, k := range Kinds() {
		for _, r := range orders[k] {
			x := b.rows[k].at(r)
			out.append(put(&number, uint64(x.list)<<16|uint64(x.category))[:4])
		}
	}
	b.ids = nil
	var work []valued
	record := uint32(0)
	for _, k := range Kinds() {
		tl := &l.tables[k]
		if tl.hashes == 0 {
			continue
		}
		entries := &b.rows[k]
		first := out.space(tl.first)
		firsts := view[uint32](first)
		// The bands are made from the hashes, so these stay where they are put.
		var words []byte
		if out.memory != nil {
			words = tl.words.of(out.memory)
		} else {
			words = aligned(tl.words.size)
		}
		t := table{kind: k}
		t.setWords(view[uint64](words))
		n := -1
		var last *row
		for _, r := range orders[k] {
			x := entries.at(r)
			if last == nil || x.words != last.words {
				n++
				firsts[n] = record
				copy(t.at(n), x.words[:])
			}
			last = x
			record++
		}
		firsts[n+1] = record
		out.done(first)
		out.seek(tl.words)
		out.done(words)
		large := entries.n > 1<<24
		b.rows[k], orders[k] = rows{}, nil
		if large {
			debug.FreeOSMemory() // or the bands would come on top of gigabytes that nobody uses
		}
		t.bands = newBands(tl.plan, tl.hashes)
		for j, e := range tl.bands {
			space := out.space(e)
			all := view[uint32](space)
			end := 1<<t.bands[j].width + 1
			if j == 0 {
				t.fill(&t.bands[j], all[:end], nil, nil)
			} else {
				t.fill(&t.bands[j], all[:end], all[end:], &work)
			}
			out.done(space)
		}
	}
	return out.err
}

func put(to *[8]byte, v uint64) []byte {
	for i := range to {
		to[i] = byte(v >> (8 * i))
	}
	return to[:]
}

// Set makes a set in memory. The builder is empty after it, whatever it returns.
func (b *Builder) Set() (*Set, error) {
	defer func() { *b = Builder{} }()
	s, err := b.segment()
	if err != nil {
		return nil, err
	}
	return newSet(part{segment: s}), nil
}

func (b *Builder) segment() (*segment, error) {
	h, orders, lists, err := b.plan()
	if err != nil {
		return nil, err
	}
	l, err := h.layout()
	if err != nil {
		return nil, err
	}
	h.Size = uint64(l.size)
	data, keep, err := memory(l.size)
	if err != nil {
		return nil, err
	}
	out := &sink{memory: data}
	out.append(encodeHeader(&h))
	if err := b.assemble(&l, orders, lists, out); err != nil {
		return nil, err
	}
	s, err := readSegment(data, false)
	if err != nil {
		return nil, err
	}
	keep(s)
	return s, nil
}

// Write makes a file for [Open] and puts it in place by renaming, whole and on disk or not at all. The builder is
// empty after it, whatever it returns.
func (b *Builder) Write(path string) (err error) {
	defer func() {
		*b = Builder{}
		if err != nil {
			err = fmt.Errorf("write segment %s: %w", path, err)
		}
	}()
	h, orders, lists, err := b.plan()
	if err != nil {
		return err
	}
	l, err := h.layout()
	if err != nil {
		return err
	}
	h.Size = uint64(l.size)
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		f.Close()
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	sum := sha256.New()
	w := bufio.NewWriterSize(io.MultiWriter(f, sum), 1<<20)
	out := &sink{w: w}
	out.append(encodeHeader(&h))
	if err := b.assemble(&l, orders, lists, out); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if _, err := f.WriteAt(sum.Sum(nil), int64(unsafe.Offsetof(h.Digest))); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
