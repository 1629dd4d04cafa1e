package evaluation

import (
	"cmp"
	"maps"
	"math/rand/v2"
	"slices"
)

// stages order the intents as accounts of grooming do (O'Connell 2003; Olson and
// others 2007): getting to know, trust, isolation, approach. They interleave in
// real cases, so the walk below skips, goes back and repeats.
var stages = [][]string{
	{"age_probe", "place_probe"},
	{"maturity_flattery", "gift", "isolation"},
	{"supervision_probe", "secrecy", "platform_move"},
	{"image_request", "meet_up", "pressure"},
}

// walkIntents draws n intents, as a Markov chain over those that the author has
// wordings for.
func walkIntents(r *rand.Rand, a *riskAuthor, n int) []string {
	var by [][]string
	for _, stage := range stages {
		var have []string
		for _, intent := range stage {
			if len(a.wordings[intent]) > 0 {
				have = append(have, intent)
			}
		}
		if len(have) > 0 {
			by = append(by, have)
		}
	}
	if len(by) == 0 {
		return nil
	}
	stage := 0
	if r.Float64() < 0.3 { // some come to the point at once
		stage = r.IntN(len(by))
	}
	intent := one(r, by[stage])
	out := []string{intent}
	for len(out) < n {
		switch p := r.Float64(); {
		case p < 0.12: // the same again
			out = append(out, intent)
			continue
		case p < 0.40:
		case p < 0.72:
			stage++
		case p < 0.82:
			stage += 2
		default:
			stage--
		}
		switch {
		case stage >= len(by): // and from the beginning
			stage = r.IntN(len(by))
		case stage < 0:
			stage = 0
		}
		intent = one(r, by[stage])
		out = append(out, intent)
	}
	return out
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
