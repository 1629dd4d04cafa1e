package hashdb

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

func mustApply(t testing.TB, s *Set, changes ...Change) *Set {
	t.Helper()
	next, err := s.Apply(changes...)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

// ids returns what a hash matches.
func ids(s *Set, h Hash) []string {
	var out []string
	for _, m := range s.Match(Query{Hashes: []Hash{h}, Quality: 100}).Matches {
		out = append(out, m.List+"/"+m.Entry+"@"+m.ListVersion)
	}
	return out
}

func TestANewEntryMatchesAtOnceAndAWithdrawnOneNoMore(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	for _, kind := range Kinds() {
		a, b := random(r, kind), random(r, kind)
		old := mustSet(t, List{Name: "l", Version: "1", Entries: []Entry{{Hash: a, ID: "a"}, {Hash: a, ID: "ab"}}}, List{Name: "other", Version: "1", Entries: []Entry{{Hash: a, ID: "a"}}})
		added := mustApply(t, old, Change{List: "l", Version: "2", Add: []Entry{{Hash: b, ID: "b"}, {Hash: perturb(r, a, kind.Threshold()), ID: "near"}}})
		gone := mustApply(t, added, Change{List: "l", Version: "3", Withdraw: []string{"a", "b", "unknown"}})
		less := mustApply(t, gone, Change{List: "l", Version: "4", Withdraw: []string{"ab"}})
		back := mustApply(t, gone, Change{List: "l", Version: "4", Withdraw: []string{"near"}, Add: []Entry{{Hash: a, ID: "a"}, {Hash: a, ID: "near"}}})
		for i, c := range []struct {
			set  *Set
			hash Hash
			want []string
		}{
			{old, b, nil},
			{old, a, []string{"l/a@1", "l/ab@1", "other/a@1"}},
			{added, b, []string{"l/b@2"}},
			{added, a, []string{"l/a@2", "l/ab@2", "l/near@2", "other/a@1"}},
			{gone, b, nil},
			{gone, a, []string{"l/ab@3", "l/near@3", "other/a@1"}},
			{less, a, []string{"l/near@4", "other/a@1"}},
			{back, a, []string{"l/a@4", "l/ab@4", "l/near@4", "other/a@1"}},
		} {
			got := ids(c.set, c.hash)
			slices.Sort(got)
			if diff := gocmp.Diff(c.want, got); diff != "" {
				t.Errorf("%s, case %d (-want +got):\n%s", kind, i, diff)
			}
		}
		if n := gone.Lists()[0].Entries[kind]; n != 2 {
			t.Errorf("%s: %d entries, want 2", kind, n)
		}
	}
}

func TestTwoChangesOfOneSetDoNotSeeEachOther(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	base := mustSet(t, List{Name: "l"})
	for i := range 5 { // so that there is room behind them that both could take
		base = mustApply(t, base, Change{List: "l", Add: []Entry{{Hash: random(r, PDQ), ID: fmt.Sprint(i)}, {Hash: random(r, SHA256), ID: fmt.Sprint(i)}}})
	}
	a, b := random(r, PDQ), random(r, PDQ)
	x, y := Digests([]byte("x"))[0], Digests([]byte("y"))[0]
	left := mustApply(t, base, Change{List: "l", Add: []Entry{{Hash: a, ID: "a"}, {Hash: x, ID: "x"}}})
	right := mustApply(t, base, Change{List: "l", Add: []Entry{{Hash: b, ID: "b"}, {Hash: y, ID: "y"}}})
	for _, c := range []struct {
		set  *Set
		hash Hash
		want int
	}{
		{base, a, 0},
		{base, b, 0},
		{base, x, 0},
		{left, a, 1},
		{left, b, 0},
		{left, x, 1},
		{left, y, 0},
		{right, a, 0},
		{right, b, 1},
		{right, x, 0},
		{right, y, 1},
	} {
		if got := ids(c.set, c.hash); len(got) != c.want {
			t.Errorf("%s matches %v, want %d", c.hash, got, c.want)
		}
	}
}

func TestAChangeThatIsWrongChangesNothing(t *testing.T) {
	h := Digests([]byte("x"))
	var db DB
	db.Replace(mustSet(t, List{Name: "l", Version: "1", Entries: []Entry{{Hash: h[0], ID: "e", Category: "csam"}}}))
	for want, changes := range map[string][]Change{
		"list absent is not in the set":      {{List: "absent"}},
		"list l is changed twice":            {{List: "l", Version: "2"}, {List: "l", Version: "3"}},
		"list l: entry 1: no hash or no ID":  {{List: "l", Version: "2", Add: []Entry{{Hash: h[1]}}}},
		"does not print":                     {{List: "l", Version: "2", Add: []Entry{{Hash: h[1], ID: "a\nb"}}}},
		"version or category":                {{List: "l", Version: "2\x00"}},
		"under two categories, \"csam\" and": {{List: "l", Version: "2", Add: []Entry{{Hash: h[1], ID: "new"}, {Hash: h[0], ID: "e", Category: "ncii"}}}},
		"under two categories, \"a\" and":    {{List: "l", Version: "2", Add: []Entry{{Hash: h[1], ID: "new", Category: "a"}, {Hash: h[1], ID: "new", Category: "b"}}}},
	} {
		if err := db.Apply(changes...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	if v := db.Set().Versions()["l"]; v != "1" || len(ids(db.Set(), h[1])) != 0 || len(ids(db.Set(), h[0])) != 1 {
		t.Error("something changed")
	}
	if err := db.Apply(Change{List: "l", Version: "2", Add: []Entry{{Hash: h[1], ID: "new"}}}); err != nil || len(ids(db.Set(), h[1])) != 1 {
		t.Errorf("a right change after wrong ones: %v", err)
	}
}

func TestAddedEntriesAreCountedRefusedAndLeftOutLikeThoseOfLists(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 9))
	a, b := random(r, PDQ), random(r, PDQ)
	for _, more := range []int{0, mostRecent} { // in few and in many
		s := mustSet(t, List{Name: "l", Entries: []Entry{{Hash: a, ID: "a"}}})
		c := Change{List: "l", Add: []Entry{{Hash: a, ID: "a"}, {Hash: b, ID: "b"}, {Hash: b, ID: "b"}, {Hash: Hash{kind: PDQ}, ID: "zero"}}}
		for i := range more {
			c.Add = append(c.Add, Entry{Hash: random(r, PDQ), ID: fmt.Sprint(i)})
		}
		info := mustApply(t, s, c).Lists()[0]
		want := Info{
			Name: "l", Entries: map[Kind]int{PDQ: 2 + more}, Duplicates: 2, Refused: 1,
			Refusals: []Refusal{{Entry: "zero", Hash: Hash{kind: PDQ}, Reason: "all zero"}},
		}
		if diff := gocmp.Diff(want, info, gocmp.AllowUnexported(Hash{})); diff != "" {
			t.Errorf("%d more (-want +got):\n%s", more, diff)
		}
	}
}

// In steps of different sizes, over the size at which recent entries become a segment.
func TestThousandsOfNewEntriesAllMatchAndThoseThatAreWithdrawnDoNot(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 3))
	set := mustSet(t, List{Name: "l"}, List{Name: "m"})
	type listed struct {
		list int
		hash Hash
		id   string
	}
	alive := map[string]listed{}
	var order, gone []listed
	for len(order) < 3*mostRecent {
		c := []Change{{List: "l", Category: "csam"}, {List: "m", Category: "ncii"}}
		for range 1 + r.IntN(3000) {
			e := listed{r.IntN(2), random(r, Kinds()[r.IntN(len(Kinds()))]), fmt.Sprint("e", len(order))}
			order = append(order, e)
			alive[e.id] = e
			c[e.list].Add = append(c[e.list].Add, Entry{Hash: e.hash, ID: e.id})
		}
		for range 20 {
			e := order[r.IntN(len(order))]
			if slices.ContainsFunc(c[e.list].Add, func(x Entry) bool { return x.ID == e.id }) {
				continue // withdrawn first and then added anew
			}
			c[e.list].Withdraw = append(c[e.list].Withdraw, e.id)
			delete(alive, e.id)
			gone = append(gone, e)
		}
		set = mustApply(t, set, c...)
	}
	if len(set.parts) < 2 || len(set.recent.rows) > mostRecent {
		t.Fatalf("%d segments and %d recent entries", len(set.parts), len(set.recent.rows))
	}
	for _, e := range alive {
		asked := perturb(r, e.hash, e.hash.kind.Threshold())
		want := []string{[]string{"l/", "m/"}[e.list] + e.id + "@"}
		if got := ids(set, asked); e.hash.kind != PHash && !slices.Equal(got, want) || !slices.Contains(got, want[0]) {
			t.Fatalf("%s entry %s: %v", e.hash.kind, e.id, got)
		}
	}
	for _, e := range gone {
		if got := ids(set, e.hash); slices.Contains(got, []string{"l/", "m/"}[e.list]+e.id+"@") {
			t.Fatalf("%s was withdrawn and matches", e.id)
		}
	}
	n := 0
	for _, info := range set.Lists() {
		for _, k := range info.Entries {
			n += k
		}
	}
	if n != len(alive) {
		t.Errorf("%d entries are counted, %d are there", n, len(alive))
	}
}

func TestSetsWithListsOfOneNameAreNotJoined(t *testing.T) {
	a, b := mustSet(t, List{Name: "a"}), mustSet(t, List{Name: "a"}, List{Name: "b"})
	if _, err := Join(a, b); err == nil || !strings.Contains(err.Error(), "named a") {
		t.Errorf("got %v", err)
	}
	if s, err := Join(nil, a); err != nil || len(s.Lists()) != 1 {
		t.Errorf("got %v", err)
	}
	h := Digests([]byte("x"))
	x := mustApply(t, mustSet(t, List{Name: "x"}), Change{List: "x", Version: "2", Add: []Entry{{Hash: h[0], ID: "x"}}})
	y := mustApply(t, mustSet(t, List{Name: "y"}), Change{List: "y", Version: "2", Add: []Entry{{Hash: h[0], ID: "y"}}})
	s, err := Join(x, y)
	if err != nil {
		t.Fatal(err)
	}
	if s, err = Join(mustSet(t, List{Name: "first"}), s); err != nil { // lists are numbered anew twice
		t.Fatal(err)
	}
	s = mustApply(t, s, Change{List: "y", Version: "3", Add: []Entry{{Hash: h[1], ID: "z"}}})
	if got := ids(s, h[0]); !slices.Equal(got, []string{"x/x@2", "y/y@3"}) || len(ids(s, h[1])) != 1 {
		t.Errorf("got %v", got)
	}
}

// Who has been told that an entry was added finds it, whatever others look up and change meanwhile.
func TestEntriesAddedSideBySideAllMatchOnceAdded(t *testing.T) {
	var db DB
	db.Replace(mustSet(t, List{Name: "0"}, List{Name: "1"}))
	var wg sync.WaitGroup
	for g := range 2 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 1))
			list := fmt.Sprint(g)
			for i := range 300 {
				h, d := random(r, PDQ), random(r, SHA256)
				if err := db.Apply(Change{List: list, Add: []Entry{{Hash: h, ID: fmt.Sprint(i)}, {Hash: d, ID: fmt.Sprint(i)}}}); err != nil {
					t.Error(err)
					return
				}
				if len(ids(db.Set(), perturb(r, h, 31))) != 1 || len(ids(db.Set(), d)) != 1 {
					t.Errorf("entry %d of list %s does not match", i, list)
					return
				}
			}
		})
	}
	wg.Wait()
	if n := db.Set().Lists()[1].Entries[PDQ]; n != 300 {
		t.Errorf("%d entries", n)
	}
}

func TestABuilderRefusesWhatAListMayNotHold(t *testing.T) {
	h := Digests([]byte("x"))[0]
	for want, fill := range map[string]func(*Builder){
		"before any list":                  func(b *Builder) { b.Add(Entry{Hash: h, ID: "e"}) },
		"list 1: name, version":            func(b *Builder) { b.Begin(List{Name: "a\tb"}) },
		"list l: entry 1: \"e\\n\"":        func(b *Builder) { b.Begin(List{Name: "l"}); b.Add(Entry{Hash: h, ID: "e\n"}) },
		"257 bytes, at most 256 are taken": func(b *Builder) { b.Begin(List{Name: "l"}); b.Add(Entry{Hash: h, ID: strings.Repeat("e", 257)}) },
	} {
		var b Builder
		fill(&b)
		if s, err := b.Set(); s != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
		b.Begin(List{Name: "l"})
		if _, err := b.Set(); err != nil {
			t.Errorf("a builder remembers: %v", err)
		}
	}
}
