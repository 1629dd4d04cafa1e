package hashdb

import (
	"cmp"
	"fmt"
	"image"
	"image/color"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/dmguard/dmguard/hashdb/pdq"
)

func random(r *rand.Rand, k Kind) Hash {
	for {
		b := make([]byte, k.Size())
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		h, err := NewHash(k, b)
		if err != nil {
			panic(err)
		}
		if h.Unfit() == "" {
			return h
		}
	}
}

// perturb flips exactly n bits.
func perturb(r *rand.Rand, h Hash, n int) Hash {
	for _, bit := range r.Perm(8 * h.kind.Size())[:n] {
		h.bytes[bit/8] ^= 1 << (bit % 8)
	}
	return h
}

func distance(a, b Hash) int {
	d := 0
	for i := range a.bytes {
		for x := a.bytes[i] ^ b.bytes[i]; x != 0; x &= x - 1 {
			d++
		}
	}
	return d
}

func mustSet(t testing.TB, lists ...List) *Set {
	t.Helper()
	s, err := NewSet(lists...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// bruteForce is what Match promises, in the plainest words.
func bruteForce(lists []List, q Query) Result {
	var result Result
	gated := q.Quality != UnknownQuality && q.Quality < 50
	best := make(map[[2]string]Match)
	better := func(a, b Match) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Distance, b.Distance), strings.Compare(a.List, b.List), strings.Compare(a.Entry, b.Entry), cmp.Compare(a.Query, b.Query))
	}
	for _, list := range lists {
		for _, e := range list.Entries {
			if gated && e.Hash.kind == PDQ && slices.ContainsFunc(q.Hashes, func(h Hash) bool { return h.kind == PDQ }) {
				result.LowQuality = true
			}
			for i, h := range q.Hashes {
				if h.kind != e.Hash.kind || h.kind == PDQ && gated {
					continue
				}
				threshold, set := list.Thresholds[h.kind]
				if !set {
					threshold = map[Kind]int{PDQ: 31, PHash: 6}[h.kind]
				}
				d := distance(h, e.Hash)
				if d > threshold {
					continue
				}
				m := Match{
					List: list.Name, ListVersion: list.Version, Entry: e.ID, Category: cmp.Or(e.Category, list.Category),
					Kind: h.kind, Distance: d, Threshold: threshold, Query: i,
				}
				key := [2]string{list.Name, e.ID}
				if old, ok := best[key]; !ok || better(m, old) < 0 {
					best[key] = m
				}
			}
		}
	}
	for _, m := range best {
		result.Matches = append(result.Matches, m)
	}
	slices.SortFunc(result.Matches, better)
	if n := len(result.Matches); n > MostMatches {
		result.Matches, result.More = result.Matches[:MostMatches], n-MostMatches
	}
	return result
}

// everyWay makes sets of the same lists in every way there is.
func everyWay(t *testing.T, r *rand.Rand, lists []List) map[string]*Set {
	t.Helper()
	sets := map[string]*Set{"memory": mustSet(t, lists...)}

	path := filepath.Join(t.TempDir(), "segment")
	var b Builder
	var joined []*Set
	empty := slices.Clone(lists)
	for i, list := range lists {
		b.Begin(list)
		joined = append(joined, mustSet(t, list))
		empty[i].Entries = nil
	}
	if err := b.Write(path); err != nil {
		t.Fatal(err)
	}
	var err error
	if sets["file"], err = Open(path); err != nil {
		t.Fatal(err)
	}
	if sets["joined"], err = Join(joined...); err != nil {
		t.Fatal(err)
	}

	// A little at a time, with entries that go again.
	set := mustSet(t, empty...)
	apply := func(c Change) {
		if set, err = set.Apply(c); err != nil {
			t.Fatal(err)
		}
	}
	for _, list := range lists {
		for part := range slices.Chunk(list.Entries, 1+r.IntN(20)) {
			c := Change{List: list.Name, Version: list.Version, Category: list.Category, Add: slices.Clone(part)}
			var gone []string
			for i := range part {
				if e := part[i]; r.IntN(4) == 0 {
					e.ID = fmt.Sprint("gone-", i)
					c.Add = append(c.Add, e)
					gone = append(gone, e.ID)
				}
			}
			apply(c)
			apply(Change{List: list.Name, Version: list.Version, Withdraw: gone})
		}
		if r.IntN(2) == 0 {
			if set, err = set.settle(); err != nil {
				t.Fatal(err)
			}
		}
	}
	sets["applied"] = set
	for way, set := range sets {
		want := sets["memory"].Lists()
		got := set.Lists()
		if way == "applied" { // whose duplicates are counted against what has gone meanwhile, too
			for i := range want {
				want[i].Duplicates, got[i].Duplicates = 0, 0
				maps.DeleteFunc(got[i].Entries, func(_ Kind, n int) bool { return n == 0 })
			}
		}
		if diff := gocmp.Diff(want, got, gocmp.AllowUnexported(Hash{})); diff != "" {
			t.Fatalf("%s: lists (-memory +this):\n%s", way, diff)
		}
	}
	return sets
}

func TestMatchFindsWhatBruteForceFinds(t *testing.T) {
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 1))
		var pool []Hash // few hashes for many entries, so that lists and entries share them
		for range 1 + r.IntN(30) {
			pool = append(pool, random(r, Kinds()[r.IntN(5)]))
		}
		var lists []List
		for i := range 1 + r.IntN(4) {
			list := List{Name: fmt.Sprint("list-", 9-i), Version: fmt.Sprint(r.IntN(9)), Category: "csam", Thresholds: map[Kind]int{}}
			if r.IntN(2) == 0 {
				list.Thresholds[PDQ] = r.IntN(32)
			}
			if r.IntN(2) == 0 {
				list.Thresholds[PHash] = r.IntN(7)
			}
			taken := make(map[Entry]bool)
			for range r.IntN(120) {
				h := pool[r.IntN(len(pool))]
				if h.kind.Threshold() > 0 && r.IntN(2) == 0 {
					h = perturb(r, h, r.IntN(4))
				}
				e := Entry{Hash: h, ID: fmt.Sprint("e", r.IntN(90))}
				if !taken[e] {
					taken[e] = true
					e.Category = []string{"", "terrorism"}[r.IntN(2)]
					list.Entries = append(list.Entries, e)
				}
			}
			lists = append(lists, list)
		}
		// One category per entry: which of its hashes matched does not say which category wins a tie.
		for i := range lists {
			for j := range lists[i].Entries {
				e := &lists[i].Entries[j]
				e.Category = []string{"", "terrorism"}[len(e.ID)%2]
			}
		}
		sets := everyWay(t, r, lists)
		for range 40 {
			q := Query{Quality: []int{UnknownQuality, 0, 49, 50, 100}[r.IntN(5)]}
			for range r.IntN(10) {
				h := pool[r.IntN(len(pool))]
				switch h.kind {
				case PDQ: // at the radius, one beyond, and about the lists' own thresholds
					h = perturb(r, h, []int{31, 32, 33, r.IntN(34)}[r.IntN(4)])
				case PHash:
					h = perturb(r, h, r.IntN(9))
				default:
				}
				q.Hashes = append(q.Hashes, h)
			}
			want := bruteForce(lists, q)
			for way, set := range sets {
				if diff := gocmp.Diff(want, set.Match(q)); diff != "" {
					t.Fatalf("seed %d, %s (-brute force +match):\n%s", seed, way, diff)
				}
			}
		}
	}
}

func TestANeedleAtExactlyTheThresholdMatchesAndOneBeyondDoesNot(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, k := range []Kind{PDQ, PHash} {
		for range 300 {
			h := random(r, k)
			set := mustSet(t, List{Name: "l", Entries: []Entry{{Hash: h, ID: "e"}}})
			at, beyond := perturb(r, h, k.Threshold()), perturb(r, h, k.Threshold()+1)
			if got := set.Match(Query{Hashes: []Hash{at}, Quality: 100}); len(got.Matches) != 1 || got.Matches[0].Distance != k.Threshold() {
				t.Fatalf("%s: at the threshold: %+v", k, got)
			}
			if got := set.Match(Query{Hashes: []Hash{beyond}, Quality: 100}); len(got.Matches) != 0 {
				t.Fatalf("%s: beyond the threshold: %+v", k, got)
			}
		}
	}
}

func TestAPictureIsFoundInEveryOrientation(t *testing.T) {
	img := image.NewGray(image.Rect(0, 0, 64, 64))
	turned := image.NewGray(img.Rect)
	for y := range 64 {
		for x := range 64 {
			v := color.Gray{Y: uint8((x/13*97 + y/13*53 + x/13*(y/13)*71) % 256)}
			img.SetGray(x, y, v)
			turned.SetGray(y, 63-x, v)
		}
	}
	var hasher pdq.Hasher
	listed, _ := hasher.Hash(img, pdq.NN512)
	entry, err := NewHash(PDQ, listed[:])
	if err != nil {
		t.Fatal(err)
	}
	hashes, quality := hasher.Dihedral(turned, pdq.NN512)
	q := Query{Quality: quality}
	for _, h := range hashes {
		asked, err := NewHash(PDQ, h[:])
		if err != nil {
			t.Fatal(err)
		}
		q.Hashes = append(q.Hashes, asked)
	}
	got := mustSet(t, List{Name: "l", Entries: []Entry{{Hash: entry, ID: "e"}}}).Match(q)
	if len(got.Matches) != 1 || got.Matches[0].Query == 0 {
		t.Errorf("want one match by a turned hash, got %+v", got)
	}
}

func TestQualityGateAndAlgorithmAreThoseOfPackagePDQ(t *testing.T) {
	if minQuality != pdq.MinQuality {
		t.Errorf("matches from quality %d, pdq says %d", minQuality, pdq.MinQuality)
	}
	if got, want := PDQ.Algorithm(), pdq.NN512.Algorithm(); got != want {
		t.Errorf("algorithm %s, pdq says %s", got, want)
	}
}

func TestMatchesBeyondTheMostAreCounted(t *testing.T) {
	h := Digests([]byte("x"))[0]
	list := List{Name: "l"}
	for i := range 100 {
		list.Entries = append(list.Entries, Entry{Hash: h, ID: fmt.Sprintf("%03d", i)})
	}
	got := mustSet(t, list).Match(Query{Hashes: []Hash{h}})
	if len(got.Matches) != MostMatches || got.More != 36 || got.Matches[63].Entry != "063" {
		t.Errorf("%d matches and %d more, last %s", len(got.Matches), got.More, got.Matches[len(got.Matches)-1].Entry)
	}
}

func TestUnfitEntriesAreRefusedAndReported(t *testing.T) {
	parse := func(k Kind, text string) Hash {
		h, err := ParseHash(k, text)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	weighing := func(n int) Hash { // PDQ with n bits set
		return perturb(rand.New(rand.NewPCG(1, uint64(n))), Hash{kind: PDQ}, n)
	}
	unfit := map[string]Hash{
		"empty md5": parse(MD5, "d41d8cd98f00b204e9800998ecf8427e"), "empty sha1": parse(SHA1, "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
		"empty sha256": parse(SHA256, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
		"zero pdq":     parse(PDQ, strings.Repeat("0", 64)), "zero md5": parse(MD5, strings.Repeat("0", 32)),
		"light": weighing(95), "heavy": weighing(161), "full": weighing(256),
		"flat phash": parse(PHash, "8000000000000000"), "heavy phash": parse(PHash, "ffffffffffff7fff"),
	}
	list := List{Name: "l"}
	for id, h := range unfit {
		list.Entries = append(list.Entries, Entry{Hash: h, ID: id})
	}
	for n, h := range []Hash{weighing(96), weighing(160), Digests([]byte("x"))[2]} {
		list.Entries = append(list.Entries, Entry{Hash: h, ID: fmt.Sprint("fit ", n)})
	}
	set := mustSet(t, list)
	info := set.Lists()[0]
	if info.Refused != len(unfit) || len(info.Refusals) != len(unfit) {
		t.Errorf("%d refused, %d told, want %d", info.Refused, len(info.Refusals), len(unfit))
	}
	for _, r := range info.Refusals {
		if unfit[r.Entry] != r.Hash || r.Reason == "" {
			t.Errorf("refused %+v", r)
		}
		if got := set.Match(Query{Hashes: []Hash{r.Hash}, Quality: 100}); slices.ContainsFunc(got.Matches, func(m Match) bool { return m.Entry == r.Entry }) {
			t.Errorf("%s was refused and matches", r.Entry)
		}
	}
	if diff := gocmp.Diff(map[Kind]int{PDQ: 2, MD5: 1}, info.Entries); diff != "" {
		t.Errorf("entries that can match (-want +got):\n%s", diff)
	}
}

func TestRefusalsAreCountedBeyondThoseKept(t *testing.T) {
	list := List{Name: "l"}
	for i := range MostRefusals + 50 {
		list.Entries = append(list.Entries, Entry{Hash: Hash{kind: MD5}, ID: fmt.Sprint(i)})
	}
	if info := mustSet(t, list).Lists()[0]; info.Refused != MostRefusals+50 || len(info.Refusals) != MostRefusals {
		t.Errorf("%d refused, %d kept", info.Refused, len(info.Refusals))
	}
}

func TestWhatIsWrongWithListsIsToldTogether(t *testing.T) {
	h := Digests([]byte("x"))[0]
	_, err := NewSet(
		List{Name: "a", Thresholds: map[Kind]int{PDQ: 32}}, List{Name: "a"}, List{},
		List{Name: "b", Thresholds: map[Kind]int{MD5: 1}, Entries: []Entry{{Hash: h, ID: "e", Category: "csam"}, {Hash: h, ID: "e", Category: "ncii"}}},
		List{Name: "c", Entries: []Entry{{ID: "no hash"}}}, List{Name: "d", Entries: []Entry{{Hash: h}}},
	)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"threshold 32 for pdq", "taken", "list 3 has no name", "threshold 1 for md5", "two categories", "list c: entry 1", "list d: entry 1"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error does not tell %q:\n%v", want, err)
		}
	}
}

func TestASetCannotBeChangedThroughItsAnswers(t *testing.T) {
	set := mustSet(t, List{Name: "l", Version: "1", Entries: []Entry{{Hash: Digests([]byte("x"))[0], ID: "e"}, {Hash: Hash{kind: MD5}, ID: "z"}}})
	set.Versions()["l"] = "2"
	info := set.Lists()
	info[0].Entries[SHA256] = 0
	info[0].Refusals[0].Entry = "?"
	if set.Versions()["l"] != "1" || !set.Has(SHA256) || set.Lists()[0].Refusals[0].Entry != "z" {
		t.Error("the set changed")
	}
}

func TestNoListsMatchNothing(t *testing.T) {
	var db DB
	h := Digests([]byte("x"))
	if got := db.Match(Query{Hashes: h[:]}); len(got.Matches) != 0 || db.Set().Has(MD5) || len(db.Set().Versions()) != 0 || db.Set().Lists() != nil {
		t.Errorf("an empty DB answered %+v", got)
	}
	if got := mustSet(t).Match(Query{Hashes: h[:]}); len(got.Matches) != 0 {
		t.Errorf("an empty set answered %+v", got)
	}
}

func TestEveryLookUpSeesOneWholeSetWhileSetsAreReplaced(t *testing.T) {
	h := Digests([]byte("x"))
	version := func(v string) *Set {
		return mustSet(t,
			List{Name: "a", Version: v, Entries: []Entry{{Hash: h[0], ID: "e"}}},
			List{Name: "b", Version: v, Entries: []Entry{{Hash: h[0], ID: "e"}}})
	}
	sets := []*Set{version("1"), version("2")}
	var db DB
	db.Replace(sets[0])
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for range 5000 {
				if m := db.Match(Query{Hashes: h[:]}).Matches; len(m) != 2 || m[0].ListVersion != m[1].ListVersion {
					t.Errorf("mixed: %+v", m)
					return
				}
			}
		})
	}
	for i := range 5000 {
		db.Replace(sets[i%2])
	}
	wg.Wait()
}

func BenchmarkMatch(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, n := range []int{10_000, 1_000_000} {
		list := List{Name: "l", Entries: make([]Entry, n)}
		for i := range list.Entries {
			list.Entries[i] = Entry{Hash: random(r, PDQ), ID: "e"}
		}
		digest := Digests([]byte("x"))[0]
		list.Entries = append(list.Entries, Entry{Hash: digest, ID: "d"})
		set := mustSet(b, list)
		for _, needles := range []int{1, 8} {
			q := Query{Quality: 100}
			for range needles {
				q.Hashes = append(q.Hashes, random(r, PDQ))
			}
			b.Run(fmt.Sprintf("pdq/%d/%d", n, needles), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					set.Match(q)
				}
			})
		}
		q := Query{Hashes: []Hash{Digests([]byte("y"))[0]}}
		b.Run(fmt.Sprintf("digest/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				set.Match(q)
			}
		})
	}
}
