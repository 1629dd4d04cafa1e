package hashdb

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
)

// raw returns a hash of any weight, quickly.
func raw(r *rand.Rand, k Kind) Hash {
	h := Hash{kind: k}
	for i := 0; i < k.Size(); i += 8 {
		x := r.Uint64()
		for j := range min(8, k.Size()-i) {
			h.bytes[i+j] = byte(x >> (8 * j))
		}
	}
	return h
}

func BenchmarkBuild(b *testing.B) {
	const n = 3_000_000
	for _, k := range []Kind{PDQ, SHA256} {
		b.Run(fmt.Sprint(k, "/", n), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "segment")
			for b.Loop() {
				r := rand.New(rand.NewPCG(1, 1))
				var builder Builder
				builder.Begin(List{Name: "l"})
				for range n {
					builder.Add(Entry{Hash: raw(r, k), ID: "an entry"})
				}
				if err := builder.Write(path); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/entry")
		})
	}
}

func BenchmarkApplyOneEntry(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	list := List{Name: "l"}
	for i := range 1_000_000 {
		list.Entries = append(list.Entries, Entry{Hash: raw(r, PDQ), ID: fmt.Sprint(i)})
	}
	set := mustSet(b, list)
	b.ReportAllocs()
	for b.Loop() {
		next, err := set.Apply(Change{List: "l", Add: []Entry{{Hash: random(r, PDQ), ID: "new"}}})
		if err != nil {
			b.Fatal(err)
		}
		set = next
	}
}

func BenchmarkWithdraw(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	list := List{Name: "l"}
	for i := range 1_000_000 {
		list.Entries = append(list.Entries, Entry{Hash: raw(r, PDQ), ID: fmt.Sprint(i)})
	}
	set := mustSet(b, list)
	for b.Loop() {
		if _, err := set.Apply(Change{List: "l", Withdraw: []string{"17"}}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDigest(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	list := List{Name: "l"}
	var queries []Query
	for i := range 1_000_000 {
		h := raw(r, SHA256)
		list.Entries = append(list.Entries, Entry{Hash: h, ID: fmt.Sprint(i)})
		if i%50 == 0 {
			queries = append(queries, Query{Hashes: []Hash{h}}, Query{Hashes: []Hash{raw(r, SHA256)}})
		}
	}
	set := mustSet(b, list)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		set.Match(queries[i%len(queries)])
		i++
	}
}
