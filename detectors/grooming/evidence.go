package grooming

// How the message model and the rules make one cue of a label. Evidence is
// counted in bans: 3 say that at most one in 1,000 benign messages reads so much
// like the label. It becomes a weight, as phrases of the rule packs have one: 0
// at leastBans, modelWeights at maxBans, in proportion between; people write
// hundreds of messages to each other, so what one in a hundred says is nothing.
// Of the model's
// weight and that of the strongest rule the greater counts, since both read the
// same words and neither may take away from the other. Allow-cues lower both
// alike.
const leastBans = 3

// modelWeights are what the model says at most, below the strongest rules for
// the label: it has read more wordings, but nobody chose them one by one.
var modelWeights = [labels]float32{
	ageProbe:         0.9,
	placeProbe:       0.9,
	supervisionProbe: 1.5,
	secrecy:          1.8,
	isolation:        1.5,
	maturityFlattery: 1.6,
	platformMove:     1.0,
	gift:             1.2,
	imageRequest:     1.3,
	meetUp:           1.1,
	pressure:         1.3,
}

// modelCues is for how many labels at most the model adds to what a message
// says, those with the most evidence: no single message is to look like a whole
// conversation to it.
const modelCues = 2

// noRule is the rule of a cue that the model alone found.
const noRule = ^uint32(0)

// read adds to the cues of a message that was scanned what the model says.
func (m *MessageModel) read(s *scratch) {
	r := &s.opinion
	m.score(s.folded.b, r)
	if r.windows[0].to == 0 {
		return // not a word
	}
	var bans [labels]float64
	var beyond [labels]float32 // the last step of the calibration, where bans are alike
	found := false
	for l := range labels {
		if r.scores[l] >= m.telling[l] {
			bans[l], beyond[l] = m.bans(l, r.scores[l]), r.scores[l]-m.tails[l][len(m.tails[l])-1]
			found = true
		}
	}
	if !found {
		return
	}
	for range modelCues {
		best := ageProbe
		for l := range labels {
			if bans[l] > bans[best] || bans[l] == bans[best] && beyond[l] > beyond[best] {
				best = l
			}
		}
		if bans[best] == 0 {
			return
		}
		m.cue(s, best, bans[best])
		bans[best] = 0
	}
}

// cue adds what the model says of one label.
func (m *MessageModel) cue(s *scratch, l label, bans float64) {
	weight := modelWeight(l, bans) * s.factor[l]
	c := &s.cues[l]
	if weight < minCue || weight <= c.weight {
		return
	}
	if c.n == 0 {
		c.rule = noRule
	}
	c.weight, c.bans = weight, bans
	words, _ := m.shares(s.folded.b, s.opinion.windows[l], l, &s.opinion.x)
	at := strongest(words)
	from, to := s.folded.original(at.start, at.end)
	c.place(weight, span{from, to})
}

// modelWeight is 0 below leastBans and never falls with bans.
func modelWeight(l label, bans float64) float32 {
	return modelWeights[l] * float32(max(0, min(1, (bans-leastBans)/(maxBans-leastBans))))
}
