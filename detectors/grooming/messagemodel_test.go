package grooming

import (
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"
)

// madeModel returns a model of random numbers that knows about half of what texts hold.
func madeModel(t testing.TB, seed uint64, texts ...string) *MessageModel {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 3))
	const bits = 17
	rows := map[uint32]ModelRow{}
	var x Extractor
	for _, text := range texts {
		x.Blocks(text, func(hashes []uint64) {
			for _, h := range hashes {
				if rng.IntN(2) == 0 {
					continue
				}
				r := ModelRow{}
				r.Row, r.Check = Slot(h, bits)
				for l := range labels {
					r.Weights[l] = int8(rng.IntN(256) - 128)
				}
				rows[r.Row] = r
			}
		})
	}
	var sorted []ModelRow
	for row := range uint32(1 << bits) {
		if r, ok := rows[row]; ok {
			sorted = append(sorted, r)
		}
	}
	h := ModelHeader{Bits: bits, Least: 20}
	h.Calibration.Tails = make([][]float32, labels)
	for l := range labels {
		h.Bias[l], h.Scale[l] = rng.Float32()-0.5, rng.Float32()
		for i := range maxBans * tailsPerBan {
			h.Calibration.Tails[l] = append(h.Calibration.Tails[l], 100+float32(i))
		}
	}
	file, err := h.Encode(sorted)
	if err != nil {
		t.Fatal(err)
	}
	m, err := LoadModel(file)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

const everydayText = "yeah I think we should just leave at seven, the bus is too late"

func BenchmarkModelScore(b *testing.B) {
	n := 65536
	for name, text := range map[string]string{
		"63 bytes": everydayText, "64 KiB": strings.Repeat("the quick brown fox ", n/20)[:n-16], "64 KiB one word": strings.Repeat("abcdefgh", n/8),
		"ligatures": strings.Repeat("\ufdfa", n), "math": strings.Repeat("𝐝", n), "single letters": strings.Repeat("d o n t ", n/8),
	} {
		b.Run(name, func(b *testing.B) {
			m := madeModel(b, 1, text)
			var v view
			var r reading
			v.fold(text)
			b.ReportAllocs()
			for b.Loop() {
				m.score(v.b, &r)
			}
			b.ReportMetric(float64(utf8.RuneCountInString(text)), "chars")
		})
	}
}
