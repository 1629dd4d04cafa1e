package grooming

// How the message model and the rules make one cue of a label.
//
// What the model says of a label is a log-odds. That becomes a weight, as phrases
// of the rule packs have one: 0 at telling, growing by modelGrowth with each
// log-odds. Of the model's weight and that of the strongest rule the greater
// counts, since both read the same words and neither may take away from the
// other. Allow-cues lower both alike. What reads harmless lowers the model's alone:
// it was also trained on what uses the words of the labels to a harmless end, by
// a parent, a coach, a friend of the same age.
const (
	telling     = -1.75 // log-odds
	modelGrowth = 0.7
	maxModel    = 7 // as much as a message counts for a label at most

	// Harmless wording lowers the log-odds of a label by harmlessGrowth for each
	// log-odds beyond harmlessFrom.
	harmlessFrom   = -0.9
	harmlessGrowth = 2.0

	// The model knows the concepts of the rules, and more of what is around them:
	// where there is one a rule counts so much of its weight, and all of it where
	// what it found was disguised.
	ruleShare = 0.85

	// besides is what counts of the weight of a label that is not the strongest of
	// its message.
	besides = 0.5
)

// noRule is the rule of a cue that the model alone found.
const noRule = ^uint32(0)

// read weighs the cues of a message that was scanned by what the model says of
// it, and adds what the rules have not found.
func (m *MessageModel) read(s *scratch) {
	r := &s.opinion
	m.score(s.reading.b, s.ideas, r)
	if !r.words {
		return
	}
	var weights [labels]float32
	for l := range labels {
		excuse := float32(harmlessGrowth * max(0, r.beside[l]-harmlessFrom))
		weights[l] = modelWeight(r.scores[l] - excuse)
		c := &s.cues[l]
		if c.n == 0 || c.disguised {
			continue
		}
		if c.weight *= ruleShare; c.weight < minCue {
			*c = cue{}
		}
	}
	best := ageProbe
	for l := range labels {
		if weights[l] > weights[best] || weights[l] == weights[best] && r.scores[l] > r.scores[best] {
			best = l
		}
	}
	m.cue(s, best, weights[best])
}

// single makes what a message says beside its strongest label count less: one
// sentence is one thing said, whatever else its words are used for.
func (s *scratch) single() {
	best := ageProbe
	for l := range labels {
		if s.cues[l].weight > s.cues[best].weight {
			best = l
		}
	}
	for l := range labels {
		if c := &s.cues[l]; l != best && c.n > 0 {
			if c.weight *= besides; c.weight < minCue {
				*c = cue{}
			}
		}
	}
}

// cue adds what the model says of one label.
func (m *MessageModel) cue(s *scratch, l label, weight float32) {
	weight *= s.factor[l]
	c := &s.cues[l]
	if weight < minCue || weight <= c.weight {
		return
	}
	words, _ := m.shares(s.reading.b, s.ideas, s.opinion.windows[l], l, &s.opinion.x)
	at := strongest(words)
	from, to := s.reading.original(at.start, at.end)
	if s.hides(from, to) {
		weight = min(maxModel, weight*hidden)
	}
	if c.n == 0 {
		c.rule = noRule
	}
	c.weight, c.read, c.bans = weight, true, m.bans(l, s.opinion.scores[l])
	c.place(weight, span{from, to})
}

// modelWeight is 0 up to telling, and grows with the log-odds from there.
func modelWeight(logOdds float32) float32 {
	return min(maxModel, modelGrowth*max(0, logOdds-telling))
}
