package grooming

import (
	"bufio"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/dmguard/dmguard/pipeline"
)

// sharedData is where the benign corpora lie: they are not ours to ship.
func sharedData() string {
	if dir := os.Getenv("DMGUARD_SHARED"); dir != "" {
		return dir
	}
	return filepath.Join("..", "..", "..", "shared")
}

// replay judges messages one after the other as the pipeline does.
type replay struct {
	d      *Detector
	states map[string][]byte
	recent map[string][]int64
	seen   map[string]bool
	offset int64
}

func newReplay(d *Detector) *replay {
	return &replay{d: d, states: map[string][]byte{}, recent: map[string][]int64{}, seen: map[string]bool{}}
}

func (r *replay) judge(t testing.TB, m *pipeline.Message) pipeline.Answer {
	t.Helper()
	c := m.ConversationID
	it := &pipeline.Item{Message: m, Recent: r.recent[c], Repeat: r.seen[c+"\x00"+m.ID]}
	it.Position.Offset = r.offset
	it.SetState(Name, r.states[c])
	a, err := r.d.Detect(t.Context(), it)
	if err != nil {
		t.Fatal(err)
	}
	if a.State != nil {
		r.states[c] = a.State
	}
	r.recent[c] = append(r.recent[c], r.offset)
	if n := len(r.recent[c]); n > pipeline.RecentMessages {
		r.recent[c] = r.recent[c][n-pipeline.RecentMessages:]
	}
	r.seen[c+"\x00"+m.ID] = true
	r.offset++
	return a
}

// alerts reports whether the answer asks for action.
func alerts(a pipeline.Answer) bool {
	for _, f := range a.Findings {
		if !f.Supports {
			return true
		}
	}
	return false
}

func TestEverydayConversationsAreNotAlerted(t *testing.T) {
	for name, d := range detectors(t) {
		t.Run(name, func(t *testing.T) { notAlerted(t, d) })
	}
}

func notAlerted(t *testing.T, d *Detector) {
	t.Helper()
	for _, corpus := range []struct {
		file string
		most int
	}{{"irc", 0}, {"sgd", 6}} {
		t.Run(corpus.file, func(t *testing.T) {
			path := filepath.Join(sharedData(), "data", "benign", corpus.file+".messages.ndjson.zst")
			f, err := os.Open(path)
			if os.IsNotExist(err) {
				t.Logf("NOT LOOKED AT: the corpus is not here; set DMGUARD_SHARED to the folder that holds data/benign")
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			z, err := zstd.NewReader(f)
			if err != nil {
				t.Fatal(err)
			}
			defer z.Close()
			r := newReplay(d)
			messages, cued := 0, 0
			alerted, labelled := map[string]bool{}, map[string]int{}
			highest := map[string]float64{}
			in := bufio.NewScanner(z)
			in.Buffer(nil, 8<<20)
			for in.Scan() {
				m, err := pipeline.ParseMessage(in.Bytes())
				if err != nil {
					t.Fatal(err)
				}
				a := r.judge(t, m)
				messages++
				if len(a.Findings) > 0 {
					cued++
				}
				for _, f := range a.Findings {
					labelled[f.Label]++
				}
				highest[m.ConversationID] = max(highest[m.ConversationID], a.Risk)
				if alerts(a) {
					alerted[m.ConversationID] = true
					t.Logf("alerted %s at %.2f", m.ConversationID, a.Risk)
					for _, f := range a.Findings {
						t.Logf("   %s: %s", f.Label, f.Reason)
					}
				}
			}
			if err := in.Err(); err != nil {
				t.Fatal(err)
			}
			above := [4]int{}
			for _, r := range highest {
				for i, x := range []float64{0.1, 0.3, 0.5, 0.7} {
					if r >= x {
						above[i]++
					}
				}
			}
			t.Logf("%d messages, %d with a cue, in %d conversations; state kept of %d; risk ≥ 0.1, 0.3, 0.5, 0.7: %v; alerted %d (bound 3/n %.2g); labels %v",
				messages, cued, len(highest), len(r.states), above, len(alerted), 3/float64(len(highest)), labelled)
			if len(alerted) > corpus.most {
				t.Errorf("%d conversations alerted, more than %d", len(alerted), corpus.most)
			}
		})
	}
}
