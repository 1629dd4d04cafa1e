package hashdb

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"os"
	"runtime"
	"slices"
	"unsafe"

	"github.com/go-json-experiment/json"
	"golang.org/x/sys/unix"
)

// ErrCorrupt says that a file is no segment, or not the one that was written: another format, another length,
// another digest, or directories that lead astray.
var ErrCorrupt = errors.New("not a whole segment file")

// A segment is lists in a form that is searched where it lies, in a file that is mapped or in memory.
// It never changes.
//
// The layout follows from the header's numbers alone; everything is little-endian and begins at a multiple of 64
// bytes: the lists as JSON; the IDs of all records, one behind the other; where each begins, its category and its
// list; and for each kind its first records by hash, its hashes in ascending order, and its bands. Records
// are in the order of kind, hash, list, ID. The digest is that of the whole file with zeros in its place.
type segment struct {
	lists      []listFacts
	infos      []Info
	categories []string
	ids        []byte
	entries    []segmentRecord // and one more, for the end of the last ID
	tables     [PHash + 1]table
	size       layout
}

// segmentRecord is an entry. Its numbers lie together because a match reads them all.
type segmentRecord struct {
	low, high      uint32 // where its ID begins
	category, list uint16
}

func (r *segmentRecord) start() uint64 { return uint64(r.high)<<32 | uint64(r.low) }

const (
	segmentVersion = 1
	headerSize     = 256
	sectionAlign   = 64
	mostListBytes  = 16 << 20 // of JSON
	mostIDBytes    = 1 << 40
	mostRecords    = math.MaxUint32 - 1
	recordSize     = 12
)

var segmentMagic = [16]byte([]byte("dmguard segment\n"))

type header struct {
	Magic   [16]byte
	Version uint32
	Kinds   uint32
	Digest  [sha256.Size]byte
	Lists   uint64 // bytes
	IDs     uint64 // bytes
	Records uint64
	Tables  [PHash]tableHeader
}

type tableHeader struct {
	Hashes uint64
	Plan   plan
	_      uint32
}

// listsSection is what a segment tells of its lists.
type listsSection struct {
	Categories []string
	Lists      []listSection
}

type listSection struct {
	Name       string
	Version    string
	Thresholds map[Kind]int
	Entries    map[Kind]int
	Duplicates int
	Refused    int
	Refusals   []refusalSection
	Ignored    []string
}

type refusalSection struct {
	Entry  string
	Kind   Kind
	Hash   string
	Reason string
}

// layout is where the parts of a segment lie.
type layout struct {
	lists, ids, records extent
	tables              [PHash + 1]tableLayout
	size                int64
}

type tableLayout struct {
	plan         plan
	hashes       int
	first, words extent
	bands        []extent // directory, then ids
}

type extent struct{ at, size int64 }

func (e extent) of(b []byte) []byte { return b[e.at : e.at+e.size : e.at+e.size] }

func (h *header) layout() (layout, error) {
	var l layout
	if h.Lists > mostListBytes || h.IDs > mostIDBytes || h.Records > mostRecords {
		return l, fmt.Errorf("%w: %d bytes of lists, %d bytes of IDs, %d records", ErrCorrupt, h.Lists, h.IDs, h.Records)
	}
	l.size = headerSize
	next := func(size int64) extent {
		at := (l.size + sectionAlign - 1) / sectionAlign * sectionAlign
		l.size = at + size
		return extent{at, size}
	}
	l.lists = next(int64(h.Lists))
	l.ids = next(int64(h.IDs))
	l.records = next(recordSize * (int64(h.Records) + 1))
	for i, th := range h.Tables {
		kind := Kind(i + 1)
		if th.Hashes > h.Records || !th.Plan.fits(kind) {
			return l, fmt.Errorf("%w: %d %s hashes of %d records, plan %d", ErrCorrupt, th.Hashes, kind, h.Records, th.Plan)
		}
		if th.Hashes == 0 {
			continue
		}
		n := int64(th.Hashes)
		t := &l.tables[kind]
		t.plan, t.hashes = th.Plan, int(n)
		t.first = next(4 * (n + 1))
		t.words = next(8 * n * int64(kind.stride()))
		for j, width := range th.Plan.widths(int(n)) {
			size := 4 * (int64(1)<<width + 1)
			if j > 0 {
				size += 4 * n
			}
			t.bands = append(t.bands, next(size))
		}
	}
	return l, nil
}

// bytes returns how much of a segment is searched, and how much says what is found.
func (l *layout) bytes() (index, entries int64) {
	entries = l.lists.size + l.ids.size + l.records.size
	for i := range l.tables {
		t := &l.tables[i]
		entries += t.first.size
		index += t.words.size
		for _, b := range t.bands {
			index += b.size
		}
	}
	return index, entries
}

// view returns bytes as numbers of the machine, without a copy.
func view[T uint32 | uint64 | [4]uint64 | segmentRecord](b []byte) []T {
	size := int(unsafe.Sizeof(*new(T)))
	if len(b) < size {
		return nil
	}
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/size) //nolint:gosec // aligned to 64 bytes by the layout, and to pages or words by who allocates
}

// bytesOf is the inverse of view.
func bytesOf[T uint32 | uint64](v []T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(v))), len(v)*int(unsafe.Sizeof(*new(T)))) //nolint:gosec // fewer requirements on alignment
}

// aligned returns memory for numbers, all zero.
func aligned(size int64) []byte { return bytesOf(make([]uint64, (size+7)/8))[:size] }

var bigEndian = binary.NativeEndian.Uint16([]byte{0, 1}) == 1

// tablesOf returns the tables of a segment without looking at their content.
func (l *layout) tablesOf(data []byte) (tables [PHash + 1]table) {
	for kind, tl := range l.tables {
		if tl.hashes == 0 {
			continue
		}
		t := &tables[kind]
		t.kind = Kind(kind)
		t.first = view[uint32](tl.first.of(data))
		t.setWords(view[uint64](tl.words.of(data)))
		t.bands = newBands(tl.plan, tl.hashes)
		for j, e := range tl.bands {
			all := view[uint32](e.of(data))
			end := 1<<t.bands[j].width + 1
			t.bands[j].dir = all[:end:end]
			if j > 0 {
				t.bands[j].ids = all[end:]
			}
		}
	}
	return tables
}

func (t *table) setWords(words []uint64) {
	t.words, t.each = words, t.kind.stride()
	if t.each == 4 {
		t.wide = view[[4]uint64](bytesOf(words))
	}
}

// readSegment returns the segment that lies in data and stays there. With check it believes nothing: whatever data
// holds, the answer is an error or a segment that can be searched.
func readSegment(data []byte, check bool) (*segment, error) {
	if bigEndian {
		return nil, errors.New("segments are not read on big-endian machines")
	}
	var h header
	if len(data) < headerSize {
		return nil, fmt.Errorf("%w: %d bytes", ErrCorrupt, len(data))
	}
	if _, err := binary.Decode(data, binary.LittleEndian, &h); err != nil {
		return nil, err
	}
	switch {
	case h.Magic != segmentMagic:
		return nil, fmt.Errorf("%w: it does not begin like one", ErrCorrupt)
	case h.Version != segmentVersion || int(h.Kinds) != len(h.Tables):
		return nil, fmt.Errorf("%w: version %d with %d kinds of hashes, this program reads version %d with %d; build it again", ErrCorrupt, h.Version, h.Kinds, segmentVersion, len(h.Tables))
	}
	l, err := h.layout()
	if err != nil {
		return nil, err
	}
	if l.size != int64(len(data)) {
		return nil, fmt.Errorf("%w: %d bytes, and %d were written", ErrCorrupt, len(data), l.size)
	}
	if check {
		if sum := digest(data); sum != h.Digest {
			return nil, fmt.Errorf("%w: SHA-256 is %x, and %x was written", ErrCorrupt, sum, h.Digest)
		}
	}
	s := &segment{
		size: l, tables: l.tablesOf(data), ids: l.ids.of(data), entries: view[segmentRecord](l.records.of(data)),
	}
	if err := s.readLists(l.lists.of(data)); err != nil {
		return nil, err
	}
	if check {
		if err := s.check(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// digest returns that of a segment with zeros in the place of the digest.
func digest(data []byte) (sum [sha256.Size]byte) {
	var h header
	at := int(unsafe.Offsetof(h.Digest))
	d := sha256.New()
	d.Write(data[:at])
	d.Write(make([]byte, sha256.Size))
	d.Write(data[at+sha256.Size:])
	d.Sum(sum[:0])
	return sum
}

func (s *segment) readLists(text []byte) error {
	var in listsSection
	if err := json.Unmarshal(text, &in); err != nil {
		return fmt.Errorf("%w: lists: %w", ErrCorrupt, err)
	}
	if len(in.Lists) > maxNumbered || len(in.Categories) > maxNumbered {
		return fmt.Errorf("%w: %d lists, %d categories", ErrCorrupt, len(in.Lists), len(in.Categories))
	}
	s.categories = in.Categories
	names := make(map[string]bool)
	for _, l := range in.Lists {
		if l.Name == "" || names[l.Name] || Printable(l.Name) != nil || Printable(l.Version) != nil {
			return fmt.Errorf("%w: a list's name %q or version %q", ErrCorrupt, clip(l.Name), clip(l.Version))
		}
		names[l.Name] = true
		for _, k := range Kinds() {
			if t, ok := l.Thresholds[k]; !ok || t < 0 || t > k.Threshold() {
				return fmt.Errorf("%w: list %s: threshold %d for %s", ErrCorrupt, l.Name, t, k)
			}
		}
		s.lists = append(s.lists, listFacts{name: l.Name, version: l.Version, thresholds: l.Thresholds})
		info := Info{Name: l.Name, Version: l.Version, Entries: l.Entries, Duplicates: l.Duplicates, Refused: l.Refused}
		if info.Entries == nil {
			info.Entries = make(map[Kind]int)
		}
		if len(l.Ignored) > 0 {
			info.Ignored = l.Ignored
		}
		for _, r := range l.Refusals {
			h, err := ParseHash(r.Kind, r.Hash)
			if err != nil {
				return fmt.Errorf("%w: refusals: %w", ErrCorrupt, err)
			}
			info.Refusals = append(info.Refusals, Refusal{Entry: r.Entry, Hash: h, Reason: r.Reason})
		}
		s.infos = append(s.infos, info)
	}
	for _, c := range s.categories {
		if Printable(c) != nil {
			return fmt.Errorf("%w: category %q", ErrCorrupt, clip(c))
		}
	}
	return nil
}

// check goes through everything that a search relies on.
func (s *segment) check() error {
	fault := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrCorrupt}, args...)...)
	}
	plain := !slices.ContainsFunc(s.ids, func(c byte) bool { return c < '!' || c > '~' })
	for i := range s.len() {
		start, end := s.entries[i].start(), s.entries[i+1].start()
		if start >= end || end > uint64(len(s.ids)) || end-start > maxField {
			return fault("ID of record %d", i)
		}
		if !plain && Printable(string(s.ids[start:end])) != nil {
			return fault("ID of record %d", i)
		}
		if e := &s.entries[i]; int(e.list) >= len(s.lists) || int(e.category) >= len(s.categories) {
			return fault("list or category of record %d", i)
		}
	}
	if s.entries[0].start() != 0 || s.entries[s.len()].start() != uint64(len(s.ids)) {
		return fault("IDs")
	}
	records := uint32(0)
	counts := make([][PHash + 1]int, len(s.lists))
	for kind := range s.tables {
		t := &s.tables[kind]
		if t.len() == 0 {
			continue
		}
		if t.first[0] != records {
			return fault("records of %s hashes", t.kind)
		}
		for i, first := range t.first[:t.len()] {
			next := t.first[i+1]
			if first >= next || int(next) > s.len() {
				return fault("records of %s hash %d", t.kind, i)
			}
			for _, e := range s.entries[first:next] {
				counts[e.list][kind]++
			}
		}
		records = t.first[t.len()]
		if err := t.check(); err != nil {
			return fault("%s hashes: %w", t.kind, err)
		}
	}
	if int(records) != s.len() {
		return fault("%d records have a hash, of %d", records, s.len())
	}
	for i, info := range s.infos {
		for _, k := range Kinds() {
			if info.Entries[k] != counts[i][k] {
				return fault("list %s has %d %s entries, and tells of %d", info.Name, counts[i][k], k, info.Entries[k])
			}
		}
	}
	return nil
}

// check makes sure that a search cannot leave the table and that exact ones find what is there.
func (t *table) check() error {
	n := t.len()
	for i := 1; i < n; i++ {
		if slices.Compare(t.at(i-1), t.at(i)) >= 0 {
			return fmt.Errorf("not in order at %d", i)
		}
	}
	// The first band is compared value by value, since exact searches hang on it; of the others a
	// random read for each id and band would make opening ten times as long. The digest holds them.
	first := &t.bands[0]
	at := 0
	for v, d := range first.dir {
		for at < n && int(first.value(t.at(at))) < v {
			at++
		}
		if int(d) != at {
			return fmt.Errorf("directory of the order at %d", v)
		}
	}
	for j := 1; j < len(t.bands); j++ {
		b := &t.bands[j]
		last := uint32(0)
		for _, d := range b.dir {
			if d < last {
				return fmt.Errorf("directory of band %d", j)
			}
			last = d
		}
		if b.dir[0] != 0 || last != uint32(n) {
			return fmt.Errorf("directory of band %d", j)
		}
		if most := slices.Max(b.ids); int(most) >= n {
			return fmt.Errorf("ids of band %d", j)
		}
	}
	return nil
}

// record returns the ID and category of a record. The ID lies in the segment: who hands it out clones it.
func (s *segment) record(i uint32) (id []byte, category string) {
	e := s.entries[i : i+2]
	return s.ids[e[0].start():e[1].start()], s.categories[e[0].category]
}

// len is how many records there are.
func (s *segment) len() int { return len(s.entries) - 1 }

// records returns the range of records that have a hash of the table.
func (t *table) records(place uint32) (start, end uint32) { return t.first[place], t.first[place+1] }

// kindOf returns the kind of a record.
func (s *segment) kindOf(record uint32) Kind {
	for _, k := range Kinds() {
		if t := &s.tables[k]; t.len() > 0 && record < t.first[t.len()] {
			return k
		}
	}
	return 0
}

// Open maps a file that [Builder.Write] wrote as a set. It reads the file once from end to end, to see that it is what
// was written and that no search can be led astray; anything else is [ErrCorrupt]. The file stays mapped as long as the set,
// or another made from it, is in use. Replace it by renaming, never in place: a mapped file that is cut
// short kills the process that reads it.
func Open(path string) (*Set, error) { return open(path, nil) }

// OpenVerified is [Open] of a file that is refused unless its SHA-256 is sum, which somebody has signed.
func OpenVerified(path string, sum [sha256.Size]byte) (*Set, error) { return open(path, &sum) }

func open(path string, sum *[sha256.Size]byte) (*Set, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open segment: %w", err)
	}
	defer f.Close()
	stat, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open segment: %w", err)
	}
	if !stat.Mode().IsRegular() {
		return nil, fmt.Errorf("open segment %s: not a regular file", path)
	}
	if stat.Size() < headerSize || stat.Size() > math.MaxInt {
		return nil, fmt.Errorf("open segment %s: %w: %d bytes", path, ErrCorrupt, stat.Size())
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(stat.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("open segment %s: map: %w", path, err)
	}
	adviseHuge(data)
	s, err := readVerified(data, sum)
	if err != nil {
		_ = unix.Munmap(data) // it was mapped
		return nil, fmt.Errorf("open segment %s: %w", path, err)
	}
	unmapWith(s, data)
	return newSet(part{segment: s}), nil
}

func readVerified(data []byte, sum *[sha256.Size]byte) (*segment, error) {
	if sum != nil {
		if got := sha256.Sum256(data); got != *sum {
			return nil, fmt.Errorf("%w: SHA-256 is %x, want %x", ErrCorrupt, got, *sum)
		}
	}
	return readSegment(data, true)
}

// unmapWith gives memory back when nothing refers to the segment any more.
func unmapWith(s *segment, data []byte) {
	runtime.AddCleanup(s, func(data []byte) { _ = unix.Munmap(data) }, data)
}

// memory returns zeros for a segment, outside of the heap where it is large, and a function that gives it to the segment.
func memory(size int64) ([]byte, func(*segment), error) {
	const large = 1 << 20
	if size < large {
		return aligned(size), func(*segment) {}, nil
	}
	data, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, nil, fmt.Errorf("memory for %d bytes of index: %w", size, err)
	}
	adviseHuge(data)
	return data, func(s *segment) { unmapWith(s, data) }, nil
}

// sink takes the parts of a segment in their order, in memory or for a file.
type sink struct {
	memory []byte
	w      io.Writer
	at     int64
	spare  []byte
	err    error
}

// seek pads with zeros to where a part begins.
func (s *sink) seek(e extent) {
	if gap := e.at - s.at; gap > 0 {
		s.append(make([]byte, gap))
	}
}

func (s *sink) append(b []byte) {
	if s.memory != nil {
		copy(s.memory[s.at:], b)
	} else if s.err == nil {
		_, s.err = s.w.Write(b)
	}
	s.at += int64(len(b))
}

// space returns where to make a part. It is valid until the next call.
func (s *sink) space(e extent) []byte {
	s.seek(e)
	if s.memory != nil {
		return e.of(s.memory)
	}
	if int64(cap(s.spare)) < e.size {
		s.spare = aligned(e.size)
	}
	return s.spare[:e.size]
}

// done takes the part that was made in a space.
func (s *sink) done(b []byte) {
	if s.memory != nil {
		s.at += int64(len(b))
		return
	}
	s.append(b)
}

// logTwo is at least 0.
func logTwo(n int) int { return max(0, bits.Len(uint(n))-1) }

func encodeHeader(h *header) []byte {
	out := make([]byte, headerSize)
	if _, err := binary.Encode(out, binary.LittleEndian, h); err != nil {
		panic(err) // all fields have a fixed size
	}
	return out
}

func (s *listsSection) encode() ([]byte, error) {
	var b bytes.Buffer
	err := json.MarshalWrite(&b, s, json.Deterministic(true))
	return b.Bytes(), err
}
