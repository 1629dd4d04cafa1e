package training

import "math"

// tails are 10^-0.1, 10^-0.2, … to 10^-4: what the steps of a calibration stand
// for. They are written down so that they are the same everywhere.
var tails = func() []float64 {
	steps := [10]float64{
		7.943282347242815e-1, 6.309573444801932e-1, 5.011872336272722e-1, 3.981071705534972e-1, 3.162277660168379e-1,
		2.511886431509580e-1, 1.995262314968880e-1, 1.584893192461113e-1, 1.258925411794167e-1, 1e-1,
	}
	var t []float64
	for _, decade := range [4]float64{1, 10, 100, 1000} {
		for _, s := range steps {
			t = append(t, s/decade)
		}
	}
	return t
}()

// tail returns the smallest score that at most a share p of the messages reach,
// by the estimate (k+1)/(n+1), or false where there are too few to tell. scores
// rise.
func tail(scores []float32, p float64) (float32, bool) {
	n := len(scores)
	k := int(math.Floor(float64(p*float64(n+1)))) - 1 // may reach it
	if k < 0 {
		return 0, false
	}
	if k >= n {
		return scores[0], true
	}
	return math.Nextafter32(scores[n-1-k], math.MaxFloat32), true
}
