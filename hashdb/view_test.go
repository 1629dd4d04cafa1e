package hashdb

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// viewed returns a set of two segments and recent entries, and what is in it.
func viewed(t *testing.T, n int) (*Set, map[string]Entry) {
	t.Helper()
	r := rand.New(rand.NewPCG(3, uint64(n)))
	want := make(map[string]Entry)
	entry := func(list, id string, kind Kind) Entry {
		e := Entry{Hash: random(r, kind), ID: id, Category: []string{"", "csam"}[r.IntN(2)]}
		for e.Hash.Unfit() != "" {
			e.Hash = random(r, kind)
		}
		want[list+"/"+id] = e
		return e
	}
	var sets []*Set
	for _, list := range []string{"one", "two"} {
		l := List{Name: list, Version: "1"}
		for i := range n {
			l.Entries = append(l.Entries, entry(list, fmt.Sprint("e", i), Kinds()[i%len(Kinds())]))
		}
		sets = append(sets, mustSet(t, l))
	}
	set, err := Join(sets...)
	if err != nil {
		t.Fatal(err)
	}
	c := Change{List: "two", Version: "2"}
	for i := range n / 10 {
		id := fmt.Sprint("e", 10*i)
		delete(want, "two/"+id)
		c.Withdraw = append(c.Withdraw, id)
		c.Add = append(c.Add, entry("two", fmt.Sprint("n", i), Kinds()[i%len(Kinds())]))
	}
	if set, err = set.Apply(c); err != nil {
		t.Fatal(err)
	}
	return set, want
}

func TestEntriesAreThoseThatMatch(t *testing.T) {
	set, want := viewed(t, 500)
	got := make(map[string]Entry)
	for list, e := range set.Entries() {
		got[list+"/"+e.ID] = e
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(Hash{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	restated, err := set.Restate(List{Name: "one", Version: "9", Category: "ncii"})
	if err != nil {
		t.Fatal(err)
	}
	for list, e := range restated.Entries() {
		was := want[list+"/"+e.ID]
		if was.Category == "" && list == "one" {
			was.Category = "ncii"
		}
		if e != was {
			t.Errorf("%s: %v, want %v", list, e, was)
		}
	}
	for range set.Entries() {
		break
	}
}

func TestRestatedListsMatchByWhatIsSaidOfThem(t *testing.T) {
	base := List{Name: "l", Version: "1", Entries: []Entry{{Hash: mustHash(t, PDQ, 1), ID: "a"}, {Hash: mustHash(t, PDQ, 2), ID: "b", Category: "csam"}}}
	set := mustSet(t, base, List{Name: "other", Version: "1"})
	restated, err := set.Restate(List{Name: "l", Version: "2", Category: "ncii", Thresholds: map[Kind]int{PDQ: 3}})
	if err != nil {
		t.Fatal(err)
	}
	near := base.Entries[0].Hash
	near.bytes[0] ^= 0xf0 // four bits
	if got := set.Match(Query{Hashes: []Hash{near}, Quality: 100}).Matches; len(got) != 1 || got[0].Distance != 4 {
		t.Errorf("before: %v", got)
	}
	if got := restated.Match(Query{Hashes: []Hash{near}, Quality: 100}).Matches; len(got) != 0 {
		t.Errorf("beyond the threshold: %v", got)
	}
	got := restated.Match(Query{Hashes: []Hash{base.Entries[0].Hash, base.Entries[1].Hash}, Quality: 100}).Matches
	want := []Match{
		{List: "l", ListVersion: "2", Entry: "a", Category: "ncii", Kind: PDQ, Threshold: 3, Query: 0},
		{List: "l", ListVersion: "2", Entry: "b", Category: "csam", Kind: PDQ, Threshold: 3, Query: 1},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"l": "2", "other": "1"}, restated.Versions()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// What is added later is matched so too, also once it becomes a segment.
	more := Change{List: "l", Version: "3"}
	for i := range mostRecent + 1 {
		more.Add = append(more.Add, Entry{Hash: mustHash(t, MD5, i), ID: fmt.Sprint("m", i)})
	}
	added, err := restated.Apply(more)
	if err != nil {
		t.Fatal(err)
	}
	if got := added.Match(Query{Hashes: []Hash{more.Add[7].Hash}}).Matches; len(got) != 1 || got[0].Category != "ncii" || got[0].ListVersion != "3" {
		t.Errorf("an entry that came later: %v", got)
	}
	for _, bad := range []List{
		{Name: "nobody"},
		{Name: "l", Version: "a\nb"},
		{Name: "l", Category: " "},
		{Name: "l", Thresholds: map[Kind]int{PDQ: 32}},
		{Name: "l", Thresholds: map[Kind]int{PDQ: -1}},
		{Name: "l", Thresholds: map[Kind]int{99: 0}},
	} {
		if _, err := set.Restate(bad); err == nil {
			t.Errorf("taken: %v", bad)
		}
	}
	if _, err := (*Set)(nil).Restate(base); err == nil {
		t.Error("a set of no lists was restated")
	}
}

func mustHash(t *testing.T, kind Kind, n int) Hash {
	t.Helper()
	sum := sha256.Sum256([]byte{byte(n), byte(n >> 8), byte(kind)})
	h, err := NewHash(kind, sum[:kind.Size()])
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestTheNearestAreThoseThatGoingThroughAllFinds(t *testing.T) {
	set, want := viewed(t, 2000)
	r := rand.New(rand.NewPCG(5, 5))
	for _, most := range []int{1, 3, 40} {
		for turn := range 20 {
			query := []Hash{random(r, PDQ), random(r, PDQ), random(r, VPDQ), random(r, PHash), random(r, SHA256)}
			if turn%2 == 0 {
				keys := slices.Sorted(maps.Keys(want))
				query = append(query, want[keys[r.IntN(len(keys))]].Hash)
			}
			var expected []Match
			for _, k := range Kinds() {
				var of []Match
				for key, e := range want {
					if e.Hash.kind != k {
						continue
					}
					nearest := -1
					for i := range query {
						if query[i].kind != k {
							continue
						}
						a, b := e.Hash.words(), query[i].words()
						d := apart(&a, &b, 256)
						if d > 0 && k != VPDQ && k != PDQ && k != PHash {
							continue
						}
						if len(of) == 0 || nearest < 0 || d < of[nearest].Distance {
							m := Match{List: key[:3], Entry: e.ID, Category: e.Category, Kind: k, Distance: d, Threshold: k.Threshold(), Query: i}
							m.ListVersion = set.Versions()[m.List]
							if nearest < 0 {
								of, nearest = append(of, m), len(of)
							} else {
								of[nearest] = m
							}
						}
					}
				}
				slices.SortFunc(of, func(a, b Match) int {
					if a.Distance != b.Distance {
						return a.Distance - b.Distance
					}
					return slices.Compare([]string{a.List, a.Entry}, []string{b.List, b.Entry})
				})
				expected = append(expected, of[:min(most, len(of))]...)
			}
			got := set.Nearest(query, most)
			distances := func(all []Match) (out []string) {
				for _, m := range all {
					out = append(out, fmt.Sprint(m.Kind, " ", m.Distance))
				}
				return out
			}
			// Of several at the last distance any may be told.
			if diff := cmp.Diff(distances(expected), distances(got)); diff != "" {
				t.Fatalf("most %d (-want +got):\n%s", most, diff)
			}
			for _, m := range got {
				e := want[m.List+"/"+m.Entry]
				a, b := e.Hash.words(), query[m.Query].words()
				if apart(&a, &b, 256) != m.Distance || e.Category != m.Category {
					t.Fatalf("told %+v of %v", m, e)
				}
			}
		}
	}
	if got := (*Set)(nil).Nearest([]Hash{random(r, PDQ)}, 3); got != nil {
		t.Errorf("of no lists: %v", got)
	}
}

func TestOfAVideoTheNearestFrameIsToldOnceHoweverFarItIs(t *testing.T) {
	frame := mustHash(t, VPDQ, 1)
	off := func(kind Kind, bytes int) Hash { // by eight bits each
		h := frame
		h.kind = kind
		for i := range bytes {
			h.bytes[i] ^= 0xff
		}
		return h
	}
	set := mustSet(t, List{Name: "l", Version: "1", Category: "csam", Entries: []Entry{
		{Hash: off(VPDQ, 9), ID: "film"},
		{Hash: off(VPDQ, 5), ID: "film"},
		{Hash: off(VPDQ, 7), ID: "film"},
		{Hash: off(VPDQ, 6), ID: "other film"},
		{Hash: off(PDQ, 1), ID: "film"},
	}})
	told := func(kind Kind, id string, distance int) Match {
		return Match{List: "l", ListVersion: "1", Entry: id, Category: "csam", Kind: kind, Distance: distance, Threshold: kind.Threshold()}
	}
	film := told(VPDQ, "film", 40)
	for most, want := range map[int][]Match{1: {film}, 3: {film, told(VPDQ, "other film", 48)}} {
		if diff := cmp.Diff(want, set.Nearest([]Hash{frame}, most)); diff != "" {
			t.Errorf("most %d (-want +got):\n%s", most, diff)
		}
	}
	if diff := cmp.Diff([]Match{told(PDQ, "film", 8)}, set.Nearest([]Hash{off(PDQ, 0)}, 3)); diff != "" {
		t.Errorf("as a picture (-want +got):\n%s", diff)
	}
}

func TestAFileThatIsNotTheOneThatWasMeantIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "segment")
	data := segmentBytes(t, 5, nil)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenVerified(path, sha256.Sum256(data)); err != nil {
		t.Error(err)
	}
	if _, err := OpenVerified(path, sha256.Sum256(data[1:])); !errors.Is(err, ErrCorrupt) {
		t.Errorf("error %v", err)
	}
}
