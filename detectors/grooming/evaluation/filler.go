package evaluation

import (
	"math/rand/v2"

	"github.com/dmguard/dmguard/pipeline"
)

// Filler is talk of corpora that generated conversations are filled with. A
// conversation of a corpus serves one split only.
type Filler struct {
	runs map[Split][][]turn
	open map[string][]turn // by conversation, as long as it grows
	who  map[string]string // who is "a" there
}

// The most that is kept of corpora for filling.
const (
	maxFillerTurns  = 400
	maxFillerTalks  = 20_000
	maxFillerLetter = 300
)

// NewFiller returns one that holds nothing.
func NewFiller() *Filler {
	return &Filler{runs: map[Split][][]turn{}, open: map[string][]turn{}, who: map[string]string{}}
}

// Add takes in a message of a corpus.
func (f *Filler) Add(m *pipeline.Message) {
	text, id := m.Text.Reveal(), m.ConversationID
	if text == "" || len(text) > maxFillerLetter {
		return
	}
	talk, ok := f.open[id]
	if !ok {
		if len(f.open) >= maxFillerTalks {
			return
		}
		f.who[id] = m.Sender.ID
	}
	if len(talk) < maxFillerTurns {
		f.open[id] = append(talk, turn{byB: m.Sender.ID != f.who[id], text: text})
	}
}

// Close deals the conversations out to the splits. Nothing is added afterwards.
func (f *Filler) Close() {
	for i, id := range sortedKeys(f.open) {
		split := []Split{Train, Test}[i%2]
		f.runs[split] = append(f.runs[split], f.open[id])
	}
	f.open, f.who = nil, nil
}

// run returns up to n turns that follow one another in a corpus.
func (f *Filler) run(r *rand.Rand, split Split, n int) []turn {
	if len(f.runs[split]) == 0 {
		return nil
	}
	talk := one(r, f.runs[split])
	from := r.IntN(max(1, len(talk)-n+1))
	return talk[from:min(len(talk), from+n)]
}
