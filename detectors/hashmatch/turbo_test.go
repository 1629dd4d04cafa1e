//go:build turbo

package hashmatch

import (
	"fmt"
	"image"
	"testing"

	"go.uber.org/zap"

	"github.com/dmguard/dmguard/hashdb/pdq"
	"github.com/dmguard/dmguard/pipeline/media"
)

// TestShrunkPicturesHashNearTheWholeOnes holds what libjpeg-turbo leaves of a large JPEG to the hash
// that Go's decoder gives of all of it.
func TestShrunkPicturesHashNearTheWholeOnes(t *testing.T) {
	sandbox, err := media.StartSandbox(t.Context(), media.DefaultConfig(), 1, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sandbox.Close)
	here := newTestPreparer(t, nil).For(nil, nil)
	there := NewPreparer(here.fetcher, sandbox).For(nil, nil)
	sum, worst, n := 0, 0, 0
	for i, size := range []image.Point{{1024, 1024}, {1600, 1100}, {1030, 2200}, {2048, 2048}} {
		for seed := range uint64(2) {
			name := fmt.Sprintf("%d×%d", size.X, size.Y)
			// Drawn small, so that a pixel is no detail of its own: so it is in photographs of this size.
			picture := scaled(scene(10*uint64(i)+seed, size.X/2, size.Y/2), size.X, size.Y)
			a := inline("a", "image/jpeg", jpegFile(t, picture))
			whole, shrunk := prepared(t, here, a).Media[0].Hashes, prepared(t, there, a).Media[0].Hashes
			last := len(whole) - 1
			if *whole[last].Quality < 80 {
				continue
			}
			want, err := pdq.Parse(whole[last].Value)
			if err != nil {
				t.Fatal(err)
			}
			got, err := pdq.Parse(shrunk[last].Value)
			if err != nil {
				t.Fatal(err)
			}
			d := want.Distance(got)
			sum, worst, n = sum+d, max(worst, d), n+1
			if d > 8 {
				t.Errorf("%s: %d bits", name, d)
			}
		}
	}
	t.Logf("%d pictures: mean %.1f bits, most %d", n, float64(sum)/float64(n), worst)
	if n < 5 || sum > 3*n {
		t.Errorf("mean of %d pictures %.1f bits, want at most 3", n, float64(sum)/float64(n))
	}
}
