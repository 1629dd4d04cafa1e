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
	ids        chunks
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
	switch {
	case last < 0:
		r.chunks = append(r.chunks, nil) // which grows, since most sets are small
		last++
	case len(r.chunks[last]) == rowChunk:
		r.chunks = append(r.chunks, make([]row, 0, rowChunk))
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
		if err := Printable(text); err != nil {
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
		if err := Printable(text); err != nil {
			b.fault(fmt.Errorf("list %s: entry %d: %q: %w", info.Name, b.entry, clip(text), err))
			return
		}
	}
	if why := e.Hash.Unfit(); why != "" {
		info.refuse(e, why)
		return
	}
	b.add(e.Hash.kind, e.Hash.index(), n, category, e.ID)
}

func (i *Info) refuse(e Entry, why string) {
	i.Refused++
	if len(i.Refusals) < MostRefusals {
		i.Refusals = append(i.Refusals, Refusal{Entry: e.ID, Hash: e.Hash, Reason: why})
	}
}

func (b *Builder) add(kind Kind, words [4]uint64, list int, category, id string) {
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
	at := b.ids.add(id)
	b.rows[kind].add(row{words: words, id: at, length: uint16(len(id)), list: uint16(list), category: number})
}

// chunks are bytes that grow without being copied. No piece runs over the end of a chunk.
type chunks [][]byte

func (c *chunks) add(piece string) (at uint64) {
	last := len(*c) - 1
	switch {
	case last < 0:
		*c = append(*c, nil)
		last++
	case len((*c)[last])+len(piece) > idChunk:
		*c = append(*c, make([]byte, 0, idChunk))
		last++
	}
	to := &(*c)[last]
	at = uint64(last)*idChunk + uint64(len(*to))
	*to = append(*to, piece...)
	return at
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

// sorted is the entries of a segment in its order.
type sorted struct {
	tables  [PHash + 1]sortedTable
	records []uint32 // three for each: where its ID begins, the low half first, and its list and category
	ids     chunks
	idBytes uint64
}

type sortedTable struct {
	hashes int
	words  []uint64
	first  []uint32
}

func (in *sorted) record(id []byte, list, category uint16) {
	in.records = append(in.records, uint32(in.idBytes), uint32(in.idBytes>>32), uint32(list)<<16|uint32(category))
	in.ids.add(string(id))
	in.idBytes += uint64(len(id))
}

// sort moves the rows of a kind to where they belong, without duplicates.
func (b *Builder) sort(kind Kind, out *sorted) {
	entries := &b.rows[kind]
	if entries.n == 0 {
		return
	}
	// By the first bits into buckets that the cache holds, then each by comparison.
	type keyed struct {
		word uint64
		row  uint32
	}
	shift := 64 - min(14, logTwo(entries.n))
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
	t := &out.tables[kind]
	stride := kind.stride()
	t.words = make([]uint64, 0, entries.n*stride)
	t.first = make([]uint32, 0, entries.n+1)
	var bucket []row
	for i := range ends[1:] {
		part := all[ends[i]:ends[i+1]]
		slices.SortFunc(part, func(x, y keyed) int {
			if x.word != y.word {
				return cmp.Compare(x.word, y.word)
			}
			return b.compare(entries.at(x.row), entries.at(y.row))
		})
		last := (*row)(nil) // equal hashes are in one bucket
		// The copies do not wait for each other, as comparing neighbours would.
		bucket = bucket[:0]
		for _, k := range part {
			bucket = append(bucket, *entries.at(k.row))
		}
		for i := range bucket {
			r := &bucket[i]
			id := b.id(r)
			if last == nil || last.words != r.words {
				t.first = append(t.first, uint32(len(out.records)/3))
				t.words = append(t.words, r.words[:stride]...)
			} else if last.list == r.list && last.length == r.length && bytes.Equal(b.id(last), id) {
				if last.category == r.category {
					b.infos[r.list].Duplicates++
					continue
				}
				b.fault(twoCategories(b.lists[r.list].name, string(id), kind, b.known[last.category], b.known[r.category]))
			}
			last = r
			b.infos[r.list].Entries[kind]++
			out.record(id, r.list, r.category)
		}
	}
	t.hashes = len(t.first)
	t.first = append(t.first, uint32(len(out.records)/3))
	large := entries.n > 1<<24
	b.rows[kind] = rows{}
	if large {
		debug.FreeOSMemory() // or what follows would come on top of gigabytes that nobody uses
	}
}

func twoCategories(list, id string, kind Kind, one, other string) error {
	return fmt.Errorf("list %s: entry %s has one %s hash under two categories, %q and %q", list, id, kind, one, other)
}

// plan puts everything in order and returns what the segment will be.
func (b *Builder) plan() (h header, in *sorted, lists []byte, err error) {
	h = header{Magic: segmentMagic, Version: segmentVersion, Kinds: uint32(len(h.Tables))}
	total := 0
	for _, k := range Kinds() {
		total += b.rows[k].n
	}
	if total > mostRecords {
		b.fault(fmt.Errorf("%d entries, at most %d fit into one segment", total, uint32(mostRecords)))
	} else {
		in = &sorted{records: make([]uint32, 0, 3*total+3)}
		for _, k := range Kinds() {
			b.sort(k, in)
			hashes := in.tables[k].hashes
			p, forced := b.force[k]
			if !forced {
				p = planFor(k, hashes)
			}
			h.Tables[k-1] = tableHeader{Hashes: uint64(hashes), Plan: p}
		}
		b.ids = nil
		h.Records, h.IDs = uint64(len(in.records)/3), in.idBytes
		in.record(nil, 0, 0) // where the last ID ends
	}
	if err := errors.Join(b.errs...); err != nil {
		return h, nil, nil, err
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
		return h, nil, nil, fmt.Errorf("lists: %w", err)
	}
	h.Lists = uint64(len(lists))
	return h, in, lists, nil
}

// assemble hands the parts of the segment to the sink.
func (in *sorted) assemble(l *layout, lists []byte, out *sink) error {
	out.seek(l.lists)
	out.append(lists)
	out.seek(l.ids)
	for _, part := range in.ids {
		out.append(part)
	}
	in.ids = nil
	out.seek(l.records)
	out.append(bytesOf(in.records))
	in.records = nil
	var work []valued
	for _, k := range Kinds() {
		tl, t := &l.tables[k], table{kind: k}
		if tl.hashes == 0 {
			continue
		}
		t.setWords(in.tables[k].words)
		out.seek(tl.first)
		out.append(bytesOf(in.tables[k].first))
		out.seek(tl.words)
		out.append(bytesOf(t.words))
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
		in.tables[k] = sortedTable{}
	}
	return out.err
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
	h, in, lists, err := b.plan()
	if err != nil {
		return nil, err
	}
	l, err := h.layout()
	if err != nil {
		return nil, err
	}
	data, keep, err := memory(l.size)
	if err != nil {
		return nil, err
	}
	out := &sink{memory: data}
	out.append(encodeHeader(&h))
	if err := in.assemble(&l, lists, out); err != nil {
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
	h, in, lists, err := b.plan()
	if err != nil {
		return err
	}
	l, err := h.layout()
	if err != nil {
		return err
	}
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
	if err := in.assemble(&l, lists, out); err != nil {
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
