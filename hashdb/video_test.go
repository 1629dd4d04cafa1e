package hashdb

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

// bruteForceVideo is what MatchVideo promises, in the plainest words.
func bruteForceVideo(lists []List, frames []Query) VideoResult {
	var result VideoResult
	for _, list := range lists {
		threshold, ok := list.Thresholds[VPDQ]
		if !ok {
			threshold = 31
		}
		share := cmp.Or(list.VideoShare, 80)
		videos := make(map[string][]Entry)
		for _, e := range list.Entries {
			same := func(x Entry) bool { return x.Hash == e.Hash }
			if e.Hash.kind == VPDQ && !slices.ContainsFunc(videos[e.ID], same) {
				videos[e.ID] = append(videos[e.ID], e)
			}
		}
		for id, known := range videos {
			m := VideoMatch{
				List: list.Name, ListVersion: list.Version, Entry: id, Category: cmp.Or(known[0].Category, list.Category),
				Frames: len(known), Share: share, Distance: 256, Threshold: threshold, Query: len(frames),
			}
			for _, k := range known {
				met := false
				for i, q := range frames {
					for _, h := range q.Hashes {
						if d := distance(h, k.Hash); h.kind == VPDQ && d <= threshold && (q.Quality == UnknownQuality || q.Quality >= 50) {
							met = true
							m.Distance, m.Query = min(m.Distance, d), min(m.Query, i)
						}
					}
				}
				if met {
					m.Met++
				}
			}
			if m.Met > 0 && 100*m.Met >= share*m.Frames {
				result.Matches = append(result.Matches, m)
			}
		}
	}
	slices.SortFunc(result.Matches, func(a, b VideoMatch) int {
		return cmp.Or(cmp.Compare(b.Met*a.Frames, a.Met*b.Frames), strings.Compare(a.List, b.List), strings.Compare(a.Entry, b.Entry))
	})
	if n := len(result.Matches); n > MostMatches {
		result.Matches, result.More = result.Matches[:MostMatches], n-MostMatches
	}
	return result
}

func TestVideosAreFoundAsBruteForceFindsThem(t *testing.T) {
	found, none := 0, 0
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 2))
		var pool []Hash
		for range 20 + r.IntN(60) {
			pool = append(pool, random(r, VPDQ))
		}
		var lists []List
		for i := range 1 + r.IntN(3) {
			list := List{Name: fmt.Sprint("list-", 9-i), Version: "1", Category: "csam", Thresholds: map[Kind]int{}}
			if r.IntN(2) == 0 {
				list.Thresholds[VPDQ] = r.IntN(32)
			}
			if r.IntN(2) == 0 {
				list.VideoShare = 1 + r.IntN(100)
			}
			for v := range r.IntN(90) {
				for range 1 + r.IntN(12) {
					h := pool[r.IntN(len(pool))]
					if r.IntN(3) == 0 {
						h = perturb(r, h, r.IntN(6))
					}
					list.Entries = append(list.Entries, Entry{Hash: h, ID: fmt.Sprint("v", v)})
				}
			}
			// A picture and a file with the ID of a video are no frames of it.
			list.Entries = append(list.Entries, Entry{Hash: random(r, PDQ), ID: "v0"}, Entry{Hash: random(r, MD5), ID: "v0"})
			lists = append(lists, list)
		}
		sets := everyWay(t, r, lists)
		for range 12 {
			var frames []Query
			for range r.IntN(40) {
				q := Query{Quality: []int{UnknownQuality, 49, 50, 100}[r.IntN(4)]}
				for range 1 + r.IntN(3) {
					q.Hashes = append(q.Hashes, perturb(r, pool[r.IntN(len(pool))], []int{0, 25, 31, 32}[r.IntN(4)]))
				}
				frames = append(frames, q)
			}
			want := bruteForceVideo(lists, frames)
			if len(want.Matches) > 0 {
				found++
			} else {
				none++
			}
			for way, set := range sets {
				if diff := gocmp.Diff(want, set.MatchVideo(frames)); diff != "" {
					t.Fatalf("seed %d, %s (-brute force +match):\n%s", seed, way, diff)
				}
			}
		}
	}
	if found < 50 || none < 50 {
		t.Errorf("%d queries with matches and %d without are no test", found, none)
	}
}

func TestAVideoThatIsWithdrawnAndAddedAnewCountsItsNewFrames(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	var old, fresh []Entry
	for range 10 {
		old = append(old, Entry{Hash: random(r, VPDQ), ID: "v"})
		fresh = append(fresh, Entry{Hash: random(r, VPDQ), ID: "v"})
	}
	ask := func(entries []Entry) (frames []Query) {
		for _, e := range entries {
			frames = append(frames, Query{Hashes: []Hash{e.Hash}, Quality: UnknownQuality})
		}
		return frames
	}
	set := mustSet(t, List{Name: "l", Entries: old})
	if got := set.MatchVideo(ask(old[:8])).Matches; len(got) != 1 || got[0].Met != 8 || got[0].Frames != 10 {
		t.Errorf("eight of ten: %+v", got)
	}
	if got := set.MatchVideo(ask(old[:7])).Matches; len(got) != 0 {
		t.Errorf("seven of ten: %+v", got)
	}
	set = mustApply(t, set, Change{List: "l", Withdraw: []string{"v"}, Add: fresh[:5]})
	if got := set.MatchVideo(ask(old)).Matches; len(got) != 0 {
		t.Errorf("withdrawn: %+v", got)
	}
	if got := set.MatchVideo(ask(fresh[:4])).Matches; len(got) != 1 || got[0].Met != 4 || got[0].Frames != 5 {
		t.Errorf("four of five new ones: %+v", got)
	}
	set = mustApply(t, set, Change{List: "l", Add: fresh[5:]})
	if got := set.MatchVideo(ask(fresh[:8])).Matches; len(got) != 1 || got[0].Frames != 10 {
		t.Errorf("eight of ten new ones: %+v", got)
	}
	joined, err := Join(mustSet(t, List{Name: "other", Entries: old}), set)
	if err != nil {
		t.Fatal(err)
	}
	if got := joined.MatchVideo(ask(fresh)).Matches; len(got) != 1 || got[0].List != "l" || got[0].Frames != 10 || got[0].Met != 10 {
		t.Errorf("joined: %+v", got)
	}
	if err := func() error { _, err := NewSet(List{Name: "l", VideoShare: 101}); return err }(); err == nil {
		t.Error("more than all frames are asked for")
	}
}

func TestALookUpOfAVideoIsBounded(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	common := make([]Hash, 16)
	for i := range common {
		common[i] = random(r, VPDQ)
	}
	list := List{Name: "l"}
	for v := range mostFrameHits/len(common) + 1 { // an opening that many share
		for _, h := range common {
			list.Entries = append(list.Entries, Entry{Hash: h, ID: fmt.Sprint("v", v)})
		}
	}
	set := mustSet(t, list)
	var frames []Query
	for _, h := range common {
		frames = append(frames, Query{Hashes: []Hash{h}, Quality: 100})
	}
	if got := set.MatchVideo(frames); !got.Incomplete || len(got.Matches) != MostMatches || got.More == 0 {
		t.Errorf("incomplete %v, %d matches and %d more", got.Incomplete, len(got.Matches), got.More)
	}
	if got := set.MatchVideo(frames[:4]); got.Incomplete || len(got.Matches) != 0 {
		t.Errorf("four frames of sixteen: %v", got.Incomplete)
	}
	if got := set.MatchVideo(slices.Repeat(frames[:1], mostFrames+1)); !got.Incomplete {
		t.Error("too many frames were not said to be")
	}
}
