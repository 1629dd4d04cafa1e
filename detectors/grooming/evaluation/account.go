package evaluation

import (
	"math"
	"math/rand/v2"
	"time"

	"github.com/dmguard/dmguard/pipeline"
)

// Accounts are drawn so that harmless and risky ones overlap in every fact, and
// every fact may be missing: a coach writes to many minors too, and an offender
// may claim to be twelve. Nothing here was measured; the evaluation is therefore
// also done without any of it.

// account is how one side's facts are drawn.
type account struct {
	connected          float64 // probability
	days               float64 // median age of the account
	minors, strangers  float64 // means
	blocked, reported  float64 // means
	unknownAge, hidden float64 // probabilities that age, behaviour are unknown
}

func (a account) party(r *rand.Rand, age int) pipeline.Party {
	var p pipeline.Party
	if r.Float64() >= a.unknownAge {
		p.Age = &age
	}
	if r.Float64() >= 0.2 {
		connected := r.Float64() < a.connected
		p.Connected = &connected
	}
	if days := a.days * math.Exp(r.NormFloat64()*1.6); r.Float64() >= 0.2 {
		created := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(-time.Duration(min(days, 6000)*24) * time.Hour)
		p.AccountCreatedAt = &created
	}
	if r.Float64() >= a.hidden {
		p.Behaviour = &pipeline.Behaviour{
			MinorsContacted: count(r, a.minors), StrangersContacted: count(r, a.strangers), RepliesReceived: count(r, 3),
			BlockedBy: count(r, a.blocked), ReportedBy: count(r, a.reported),
		}
	}
	return p
}

// count draws from a geometric distribution.
func count(r *rand.Rand, mean float64) *int {
	n := 0
	if mean > 0 {
		n = int(math.Log(1-r.Float64()) / math.Log(mean/(1+mean)))
	}
	n = min(n, 200)
	return &n
}

func riskParties(r *rand.Rand) (a, b pipeline.Party) {
	child := 9 + r.IntN(8)
	adult := 17 + int(math.Abs(r.NormFloat64())*14)
	if r.Float64() < 0.25 {
		adult = child + r.IntN(4) // what the account claims
	}
	a = account{connected: 0.4, days: 120, minors: 3, strangers: 3, blocked: 0.5, reported: 0.2, unknownAge: 0.25, hidden: 0.4}.party(r, min(adult, 90))
	b = account{connected: 0.5, days: 300, minors: 2, strangers: 1, unknownAge: 0.15, hidden: 0.4}.party(r, child)
	return a, b
}

func sceneParties(r *rand.Rand, s *scene) (a, b pipeline.Party) {
	age := func(role string) int {
		span, ok := s.ages[role]
		if !ok {
			span = [2]int{12, 60}
		}
		return span[0] + r.IntN(span[1]-span[0]+1)
	}
	first, second := age("a"), age("b")
	if s.gap != nil {
		low, high := s.ages["b"][0], s.ages["b"][1]
		if high == 0 {
			low, high = 6, 95
		}
		second = max(low, min(high, first-*s.gap+r.IntN(2**s.gap+1)))
	}
	a = account{connected: s.connected, days: 400, minors: s.minors, strangers: 2, blocked: 0.2, reported: 0.05, unknownAge: 0.25, hidden: 0.4}.party(r, first)
	b = account{connected: s.connected, days: 300, minors: 2, strangers: 1, blocked: 0.1, reported: 0.05, unknownAge: 0.15, hidden: 0.4}.party(r, second)
	return a, b
}

func talkParties(r *rand.Rand) (a, b pipeline.Party) {
	first := 10 + r.IntN(50)
	second := max(9, min(90, first+int(r.NormFloat64()*8)))
	either := account{connected: 0.7, days: 400, minors: 1.5, strangers: 2, blocked: 0.2, reported: 0.05, unknownAge: 0.3, hidden: 0.4}
	return either.party(r, first), either.party(r, second)
}

// couple is who the two of a romance of the same age are. A detector must not
// treat one kind of couple otherwise than another.
type couple struct {
	name string
	me   gender // who is "a"
	you  gender // who is "b"
}

type gender int

const (
	boy gender = iota
	girl
)

// coupleScenario is the scenario whose scripts couples talk in.
const coupleScenario = "same_age_romance"

var couples = []couple{
	{"boy and girl", boy, girl}, {"girl and boy", girl, boy}, {"girl and girl", girl, girl}, {"boy and boy", boy, boy},
}

var coupleWords = map[string]map[string][2]string{
	"partner": {
		"en": {"boyfriend", "girlfriend"}, "de": {"freund", "freundin"}, "es": {"novio", "novia"},
		"fr": {"copain", "copine"}, "it": {"ragazzo", "ragazza"}, "pt": {"namorado", "namorada"},
	},
	"me": {
		"en": {"boy", "girl"}, "de": {"junge", "mädchen"}, "es": {"chico", "chica"},
		"fr": {"garçon", "fille"}, "it": {"ragazzo", "ragazza"}, "pt": {"menino", "menina"},
	},
}

// word returns what {partner}, {me} or {you} stands for: what b is to a, and
// what a and b are.
func (c *couple) word(slot, language string) string {
	of, words := c.you, coupleWords["me"][language]
	switch slot {
	case "partner":
		words = coupleWords["partner"][language]
	case "me":
		of = c.me
	}
	return words[of]
}
