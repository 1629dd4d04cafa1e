package training

import "math"

// Everything here gives the same bits on every processor. A conversion after
// each product keeps the compiler from fusing it with the sum that it goes into.

// root is exact to the last bit, as IEEE 754 wants it.
func root(x float32) float32 { return float32(math.Sqrt(float64(x))) }

// nearest rounds to a byte, halves away from nothing.
func nearest(x float32) int8 {
	if x < 0 {
		return int8(-math.Floor(float64(-x) + 0.5))
	}
	return int8(math.Floor(float64(x) + 0.5))
}

const (
	sigmoidRange = 8
	sigmoidSteps = 64 // for each 1
)

// sigmoids are values of the logistic function from -sigmoidRange to sigmoidRange.
var sigmoids = func() (t [2*sigmoidRange*sigmoidSteps + 1]float32) {
	for i := range t {
		x := float64(i-sigmoidRange*sigmoidSteps) / sigmoidSteps
		t[i] = float32(1 / (1 + exponential(-x)))
	}
	return t
}()

func sigmoid(x float32) float32 {
	switch {
	case x <= -sigmoidRange:
		return sigmoids[0]
	case x >= sigmoidRange:
		return sigmoids[len(sigmoids)-1]
	}
	return sigmoids[int(float32((x+sigmoidRange)*sigmoidSteps)+0.5)]
}

// exponential is e to the x, for x no larger than sigmoidRange: a few terms of
// the series at x/256, squared eight times.
func exponential(x float64) float64 {
	x /= 256
	sum, term := 1., 1.
	for i := 1; i < 12; i++ {
		term = float64(term*x) / float64(i)
		sum += term
	}
	for range 8 {
		sum = float64(sum * sum)
	}
	return sum
}
