package hashdb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/metrics"
	"slices"
	"strings"
	"testing"
	"unsafe"
)

// segmentBytes returns a file with some entries of every kind.
func segmentBytes(t testing.TB, entries int, force map[Kind]plan) []byte {
	t.Helper()
	r := rand.New(rand.NewPCG(1, uint64(entries)))
	b := Builder{force: force}
	for _, name := range []string{"one", "two"} {
		b.Begin(List{Name: name, Version: "v1", Category: "csam"})
		for i := range entries {
			for _, k := range Kinds() {
				b.Add(Entry{Hash: random(r, k), ID: fmt.Sprint("e", i, name)})
			}
		}
		b.Add(Entry{Hash: Hash{kind: MD5}, ID: "zero"})
	}
	path := filepath.Join(t.TempDir(), "segment")
	if err := b.Write(path); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return append(aligned(0), data...)
}

// sign puts the right digest into what only looks like a segment.
func sign(data []byte) []byte {
	out := aligned(int64(len(data)))
	copy(out, data)
	if len(out) >= headerSize {
		var h header
		sum := digest(out)
		copy(out[unsafe.Offsetof(h.Digest):], sum[:])
	}
	return out
}

func TestASegmentWithAnyByteChangedIsRefused(t *testing.T) {
	data := segmentBytes(t, 5, nil)
	if _, err := readSegment(data, true); err != nil {
		t.Fatal(err)
	}
	for i := range data {
		data[i] ^= 0x10
		if _, err := readSegment(data, true); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("byte %d of %d: %v", i, len(data), err)
		}
		data[i] ^= 0x10
	}
}

func TestASegmentThatIsCutOrGrownIsRefused(t *testing.T) {
	data := segmentBytes(t, 3, nil)
	path := filepath.Join(t.TempDir(), "segment")
	for _, n := range []int{0, 1, headerSize - 1, headerSize, len(data) / 2, len(data) - 1, len(data) + 1} {
		cut := append(bytes.Clone(data), 0)[:n]
		if err := os.WriteFile(path, cut, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), path) {
			t.Errorf("%d of %d bytes: %v", n, len(data), err)
		}
		// Even where the header was made to fit.
		if _, err := readSegment(sign(cut), true); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%d of %d bytes, signed: %v", n, len(data), err)
		}
	}
	if _, err := Open(t.TempDir()); err == nil {
		t.Error("a folder is opened")
	}
	if _, err := Open(filepath.Join(t.TempDir(), "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func TestASegmentOfAnotherVersionSaysSo(t *testing.T) {
	data := segmentBytes(t, 1, nil)
	var h header
	data[unsafe.Offsetof(h.Version)]++
	if _, err := readSegment(sign(data), true); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "version 2") {
		t.Errorf("got %v", err)
	}
}

// The digest does not help against whoever can compute one.
func TestDirectoriesThatLeadAstrayAreRefusedThoughTheDigestIsRight(t *testing.T) {
	force := map[Kind]plan{PDQ: planSixteen, PHash: planQuarters}
	whole := segmentBytes(t, 20, force)
	s, err := readSegment(whole, true)
	if err != nil {
		t.Fatal(err)
	}
	l := s.size
	number := func(at int64, value uint32) func([]byte) {
		return func(b []byte) { binary.LittleEndian.PutUint32(b[at:], value) }
	}
	pdq, md5 := l.tables[PDQ], l.tables[MD5]
	dir := int64(4 * (1<<16 + 1))
	for name, change := range map[string]func([]byte){
		"directory of the order beyond": number(pdq.bands[0].at+4*100, 41),
		"directory of the order off":    number(pdq.bands[0].at+dir-8, 0),
		"directory beyond":              number(pdq.bands[3].at+4*100, 41),
		"directory falls":               number(pdq.bands[3].at+dir-8, 0),
		"directory does not begin":      number(pdq.bands[3].at, 1),
		"directory does not end":        number(pdq.bands[3].at+dir-4, 39),
		"directory ends beyond":         number(pdq.bands[3].at+dir-4, 41),
		"id beyond":                     number(pdq.bands[3].at+dir+4*7, 40),
		"records fall":                  number(pdq.first.at+4*5, 3),
		"records beyond":                number(pdq.first.at+4*40, 1000),
		"records of another kind":       number(pdq.first.at, 0),
		"digests out of order":          func(b []byte) { b[md5.words.at+7] = 0xff },
		"the same hash twice": func(b []byte) {
			t := &s.tables[MD5]
			for i := range int64(t.len() - 1) { // two that begin alike, so that the directory stays right
				if t.bands[0].value(t.at(int(i))) == t.bands[0].value(t.at(int(i+1))) {
					at := md5.words.at + 16*i
					copy(b[at:], b[at+16:at+32])
					return
				}
			}
		},
		"ID ends before it begins": number(l.records.at+12, 0),
		"ID beyond":                number(l.records.at+12*20+4, 1),
		"last ID beyond, one not ASCII": func(b []byte) {
			copy(b[l.ids.at+1:], "é")
			number(l.records.at+l.records.size-12, uint32(l.ids.size+50))(b)
		},
		"last ID ends early":         number(l.records.at+l.records.size-12, uint32(l.ids.size-1)),
		"no such category":           number(l.records.at+8, 1),
		"no such list":               number(l.records.at+8, 2<<16),
		"an entry of the other list": number(l.records.at+8, 1<<16),
		"ID with a line break":       func(b []byte) { b[l.ids.at] = '\n' },
		"list without name": func(b []byte) {
			copy(b[l.lists.at+1:], bytes.Replace(l.lists.of(b), []byte(`"one"`), []byte(`""  `), 1)[1:])
		},
		"list with another threshold": func(b []byte) {
			copy(l.lists.of(b), bytes.Replace(l.lists.of(b), []byte(`"pdq":31`), []byte(`"pdq":32`), 1))
		},
		"no JSON": func(b []byte) { b[l.lists.at] = '[' },
	} {
		bad := bytes.Clone(whole)
		change(bad)
		if bytes.Equal(bad, whole) {
			t.Errorf("%s: nothing was changed", name)
		}
		if _, err := readSegment(sign(bad), true); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := readSegment(sign(whole), true); err != nil {
		t.Errorf("unchanged: %v", err)
	}
}

func TestASegmentIsInPlaceWholeOrNotAtAll(t *testing.T) {
	dir := t.TempDir()
	var b Builder
	b.Begin(List{Name: "l", Entries: []Entry{{Hash: Digests([]byte("x"))[0], ID: "e"}}})
	if err := b.Write(filepath.Join(dir, "absent", "segment")); err == nil {
		t.Error("written into a folder that is not there")
	}
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	b.Begin(List{Name: "l"})
	if err := b.Write(filepath.Join(dir, "folder")); err == nil {
		t.Error("written over a folder")
	}
	b.Begin(List{})
	if err := b.Write(filepath.Join(dir, "segment")); err == nil {
		t.Error("a list without name is written")
	}
	if found, err := os.ReadDir(dir); err != nil || len(found) != 1 {
		t.Errorf("left behind: %v %v", found, err)
	}
}

func TestTheSameListsMakeTheSameFile(t *testing.T) {
	if !bytes.Equal(segmentBytes(t, 30, nil), segmentBytes(t, 30, nil)) {
		t.Error("two files differ")
	}
}

// Segments are changed in places rather than made of nothing, and may be signed again, so that more is reached
// than the check of the digest. An edit is three bytes of place and two of value.
func FuzzSegment(f *testing.F) {
	bases := [][]byte{segmentBytes(f, 0, nil), segmentBytes(f, 2, nil), segmentBytes(f, 9, nil)}
	f.Add(uint8(0), []byte{}, uint16(0), false)
	f.Add(uint8(1), []byte{0, 0, 0, 1, 2}, uint16(1), false)
	f.Add(uint8(2), []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, uint16(0), true)
	for i := range bases {
		for at := range uint8(16) { // the numbers of the header
			f.Add(uint8(i), []byte{64 + 8*at, 0, 0, 7, 0}, uint16(0), true)
		}
	}
	r := rand.New(rand.NewPCG(6, 6))
	q := Query{Quality: 100}
	for _, k := range Kinds() {
		for range 4 {
			q.Hashes = append(q.Hashes, random(r, k))
		}
	}
	allocated := func() uint64 {
		s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
		metrics.Read(s)
		return s[0].Value.Uint64()
	}
	f.Fuzz(func(t *testing.T, base uint8, edits []byte, cut uint16, signed bool) {
		data := append(aligned(0), bases[int(base)%len(bases)]...)
		for edit := range slices.Chunk(edits, 5) {
			if len(edit) == 5 {
				at := (int(edit[0]) | int(edit[1])<<8 | int(edit[2])<<16) % (len(data) - 1)
				copy(data[at:], edit[3:])
			}
		}
		data = data[:len(data)-min(int(cut), len(data))]
		if signed {
			data = sign(data)
		}
		before := allocated()
		s, err := readSegment(data, true)
		if grown := allocated() - before; grown > 1<<20 {
			t.Errorf("%d bytes of memory for %d of segment", grown, len(data))
		}
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("another error: %v", err)
			}
			return
		}
		set := newSet(part{segment: s})
		set.Match(q)
		for _, k := range Kinds() {
			table := &s.tables[k]
			for place := range table.len() {
				w := table.full(place)
				if table.find(&w) != place {
					t.Fatalf("%s hash %d does not find itself", k, place)
				}
				start, end := table.records(uint32(place))
				for r := start; r < end; r++ {
					s.record(r)
				}
			}
		}
	})
}
