package grooming

// Probe repeats single stages of what a detector does with a text, so that they
// can be measured apart. It is not safe for concurrent use.
type Probe struct {
	lexicon *lexicon
	scratch scratch
}

// Probe returns a probe of d.
func (d *Detector) Probe() *Probe { return &Probe{lexicon: d.lexicon} }

// Fold reads a text as the detector does, and returns the bytes that it was
// folded to.
func (p *Probe) Fold(text string) int {
	p.scratch.folded.fold(text)
	return len(p.scratch.folded.b)
}

// Scan folds a text and looks for cues in it, and returns the kinds that it
// found.
func (p *Probe) Scan(text string) int {
	p.lexicon.scan(text, &p.scratch)
	p.scratch.strengthen()
	n := 0
	for l := range p.scratch.cues {
		n += min(1, p.scratch.cues[l].n)
	}
	return n
}
