package hashdb

import (
	"cmp"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

// tableOf builds a segment of hashes with a plan and returns its table for the kind.
func tableOf(t testing.TB, p plan, kind Kind, hashes []Hash) *table {
	t.Helper()
	b := Builder{force: map[Kind]plan{kind: p}}
	b.Begin(List{Name: "l"})
	for i, h := range hashes {
		b.add(kind, h.index(), 0, "", fmt.Sprint(i))
	}
	s, err := b.segment()
	if err != nil {
		t.Fatal(err)
	}
	return &s.tables[kind]
}

// nearByForce is what near promises.
func nearByForce(t *table, w *[4]uint64, radius int) []neighbour {
	var out []neighbour
	for i := range t.len() {
		d := 0
		x := t.full(i)
		for k := range x {
			d += bits.OnesCount64(x[k] ^ w[k])
		}
		if d <= radius {
			out = append(out, neighbour{uint32(i), d})
		}
	}
	return out
}

func sortedNear(t *table, w *[4]uint64, radius int, s *scratch) []neighbour {
	var out []neighbour
	out = append(out, t.near(w, radius, s)...)
	slices.SortFunc(out, func(a, b neighbour) int { return cmp.Compare(a.place, b.place) })
	return out
}

func TestScatteringMovesEveryBitAndKeepsDistances(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	for _, kind := range []Kind{PDQ, PHash} {
		size := 8 * kind.Size()
		for range 200 {
			a, b := raw(r, kind), raw(r, kind)
			wa, wb := a.index(), b.index()
			plainA := a.words()
			var want [4]uint64
			for k := range size {
				to := 37 * k % size
				want[to/64] |= plainA[k/64] >> (k % 64) & 1 << (to % 64)
			}
			if wa != want {
				t.Fatalf("%s: scattered to %x, want %x", kind, wa, want)
			}
			d := 0
			for k := range wa {
				d += bits.OnesCount64(wa[k] ^ wb[k])
			}
			if d != distance(a, b) {
				t.Fatalf("%s: distance %d became %d", kind, distance(a, b), d)
			}
		}
	}
}

func TestBandsCoverEveryBitOnceAndTheirFlipsTheRadius(t *testing.T) {
	for _, c := range []struct {
		p       plan
		kind    Kind
		largest int
	}{{planSixteen, PDQ, 31}, {planEleven, PDQ, 31}, {planQuarters, PHash, 10}} {
		bands := newBands(c.p, 1)
		seen := make([]int, 8*c.kind.Size())
		r := rand.New(rand.NewPCG(1, uint64(c.p)))
		w := []uint64{r.Uint64(), r.Uint64(), r.Uint64(), r.Uint64()}
		for _, b := range bands {
			want := uint32(0)
			for at := b.offset; at < b.offset+b.width; at++ {
				want = want<<1 | uint32(w[at/64]>>(63-at%64)&1)
			}
			if got := b.value(w); got != want {
				t.Errorf("plan %d: the band at %d has the value %b, want %b", c.p, b.offset, got, want)
			}
			for bit := range b.width {
				seen[b.offset+bit]++
			}
			all := map[uint32]bool{}
			for _, m := range b.masks {
				all[m] = true
				if bits.OnesCount32(m) > maxFlips || m>>b.width != 0 {
					t.Fatalf("plan %d: mask %b of a band of %d bits", c.p, m, b.width)
				}
			}
			if want := 1 + b.width + b.width*(b.width-1)/2; len(all) != want {
				t.Errorf("plan %d: %d masks, want %d", c.p, len(all), want)
			}
		}
		if slices.Min(seen) != 1 || slices.Max(seen) != 1 {
			t.Errorf("plan %d covers bits %v", c.p, seen)
		}
		if c.largest+1 > len(bands)*(maxFlips+1) {
			t.Errorf("plan %d cannot search at radius %d without going through everything", c.p, c.largest)
		}
	}
}

// Hashes crowd together, so that some are near in several bands and some only in one.
func TestEveryPlanFindsWhatGoingThroughEverythingFinds(t *testing.T) {
	for _, c := range []struct {
		p       plan
		kind    Kind
		hashes  int
		largest int
	}{
		{planOrder, PDQ, 1000, 31},
		{planSixteen, PDQ, 20_000, 31},
		{planEleven, PDQ, 20_000, 31},
		{planOrder, PHash, 1000, 10},
		{planQuarters, PHash, 20_000, 10},
	} {
		t.Run(fmt.Sprintf("%s/plan %d", c.kind, c.p), func(t *testing.T) {
			r := rand.New(rand.NewPCG(uint64(c.p), uint64(c.kind)))
			var hashes []Hash
			for len(hashes) < c.hashes {
				h := raw(r, c.kind)
				hashes = append(hashes, h)
				for r.IntN(3) > 0 {
					hashes = append(hashes, perturb(r, h, r.IntN(c.largest+2)))
				}
			}
			table := tableOf(t, c.p, c.kind, hashes)
			var s scratch
			check := func(what string, w *[4]uint64, radius int) {
				t.Helper()
				if diff := gocmp.Diff(nearByForce(table, w, radius), sortedNear(table, w, radius, &s), gocmp.AllowUnexported(neighbour{})); diff != "" {
					t.Fatalf("%s, radius %d (-everything +near):\n%s", what, radius, diff)
				}
			}
			for range 150 {
				h := hashes[r.IntN(len(hashes))]
				for _, d := range []int{0, c.largest, c.largest + 1, r.IntN(c.largest)} {
					asked := perturb(r, h, d)
					w := asked.index()
					check("perturbed", &w, c.largest)
				}
				asked := perturb(r, h, r.IntN(c.largest+1))
				w := asked.index()
				check("perturbed", &w, r.IntN(c.largest+1))
			}
			stranger := raw(r, c.kind)
			w := stranger.index()
			for _, radius := range []int{-1, 0, 8 * c.kind.Size()} {
				check("stranger", &w, radius)
			}
		})
	}
}

// The bits are changed so that all bands but one are just beyond what is looked up: the search is exact only
// if that one is looked up as far as it must be.
func TestAHashIsFoundThoughASingleBandGivesItAway(t *testing.T) {
	for _, c := range []struct {
		p       plan
		kind    Kind
		largest int
	}{{planSixteen, PDQ, 31}, {planEleven, PDQ, 31}, {planQuarters, PHash, 10}} {
		t.Run(fmt.Sprintf("%s/plan %d", c.kind, c.p), func(t *testing.T) {
			r := rand.New(rand.NewPCG(uint64(c.p), 9))
			var hashes []Hash
			for range 3000 {
				hashes = append(hashes, raw(r, c.kind))
			}
			table := tableOf(t, c.p, c.kind, hashes)
			var s scratch
			for radius := range c.largest + 1 {
				n := len(table.bands)
				for lone := range n {
					for range 3 {
						place := r.IntN(table.len())
						w := table.full(place)
						changed := 0
						for j, b := range table.bands {
							flips := (radius + 1) / n // to be just beyond
							if j < (radius+1)%n {
								flips++
							}
							if j == lone {
								flips--
							}
							for _, bit := range r.Perm(b.width)[:max(flips, 0)] {
								at := b.offset + bit
								w[at/64] ^= 1 << (63 - at%64)
								changed++
							}
						}
						if changed > radius { // the lone band is not looked up at this radius
							continue
						}
						if changed != radius {
							t.Fatalf("%d bits changed, want %d", changed, radius)
						}
						if got := table.near(&w, radius, &s); !slices.Contains(got, neighbour{uint32(place), radius}) {
							t.Fatalf("radius %d: missed where only band %d is near enough", radius, lone)
						}
					}
				}
			}
		})
	}
}

func TestEqualHashesAreKeptOnceAndAllTheirEntriesMatch(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 8))
	h := random(r, PDQ)
	var b Builder
	b.Begin(List{Name: "l"})
	for i := range 40 {
		b.Add(Entry{Hash: h, ID: fmt.Sprint(i)})
	}
	s, err := b.Set()
	if err != nil {
		t.Fatal(err)
	}
	if n := s.parts[0].tables[PDQ].len(); n != 1 {
		t.Errorf("%d hashes", n)
	}
	if got := s.Match(Query{Hashes: []Hash{perturb(r, h, 31)}, Quality: 100}); len(got.Matches) != 40 {
		t.Errorf("%d matches", len(got.Matches))
	}
}

func TestDigestsThatBeginAlikeAreFoundOneByOne(t *testing.T) {
	for _, kind := range []Kind{SHA256, SHA1, MD5} {
		r := rand.New(rand.NewPCG(4, uint64(kind)))
		var hashes []Hash
		common := raw(r, kind)
		for i := range 3000 {
			h := raw(r, kind)
			if i%2 == 0 { // as somebody might make them who wants a search to be slow
				copy(h.bytes[:8], common.bytes[:8])
			}
			hashes = append(hashes, h)
		}
		table := tableOf(t, planOrder, kind, hashes)
		for _, h := range hashes {
			w := h.index()
			if at := table.find(&w); at < 0 || table.full(at) != w {
				t.Fatalf("%s %s is at %d", kind, h, at)
			}
			h.bytes[kind.Size()-1] ^= 1
			w = h.index()
			if at := table.find(&w); at >= 0 {
				t.Fatalf("%s %s is nowhere, and was found at %d", kind, h, at)
			}
		}
	}
}
