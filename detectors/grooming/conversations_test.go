package grooming

import (
	"bufio"
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/dmguard/dmguard/pipeline"
)

// expectation says how a made-up conversation should end. Held-out ones use
// wordings that the rule packs were not written for; they are counted, and no
// rule may be added to catch them.
type expectation struct {
	ConversationID string `json:"conversation_id"`
	Scenario       string `json:"scenario"`
	Alert          bool   `json:"alert"`
	HeldOut        bool   `json:"held_out"`
}

func lines(t testing.TB, name string) [][]byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	var out [][]byte
	for in := bufio.NewScanner(bytes.NewReader(b)); in.Scan(); {
		out = append(out, bytes.Clone(in.Bytes()))
	}
	return out
}

func conversations(t testing.TB) (map[string]expectation, []*pipeline.Message) {
	t.Helper()
	expected := map[string]expectation{}
	for _, l := range lines(t, "conversations.expected.ndjson") {
		var e expectation
		if err := json.Unmarshal(l, &e); err != nil {
			t.Fatal(err)
		}
		expected[e.ConversationID] = e
	}
	var messages []*pipeline.Message
	for _, l := range lines(t, "conversations.messages.ndjson") {
		m, err := pipeline.ParseMessage(l)
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, m)
	}
	return expected, messages
}

func TestMadeUpConversationsEndAsExpected(t *testing.T) {
	for name, d := range detectors(t) {
		t.Run(name, func(t *testing.T) { endAsExpected(t, d) })
	}
}

// detectors returns the detector with the rules alone, and as it is shipped.
func detectors(t testing.TB) map[string]*Detector {
	t.Helper()
	d := detector(t)
	all := map[string]*Detector{"rules": d}
	data, err := os.ReadFile("../../configs/models/grooming.model")
	switch {
	case err == nil:
		all["rules and model"] = d.With(loaded(t, data))
	case !os.IsNotExist(err):
		t.Fatal(err)
	}
	return all
}

func endAsExpected(t *testing.T, d *Detector) {
	t.Helper()
	expected, messages := conversations(t)
	r := newReplay(d)
	alerted, risk := map[string]bool{}, map[string]float64{}
	for _, m := range messages {
		a := r.judge(t, m)
		alerted[m.ConversationID] = alerted[m.ConversationID] || alerts(a)
		risk[m.ConversationID] = a.Risk
	}
	type count struct{ n, alerted int }
	table := map[string]*count{}
	for _, id := range slices.Sorted(maps.Keys(expected)) {
		e := expected[id]
		name := e.Scenario
		if e.Alert && e.HeldOut {
			name += ", held-out wording"
		}
		if table[name] == nil {
			table[name] = &count{}
		}
		table[name].n++
		if alerted[id] {
			table[name].alerted++
		}
		if alerted[id] != e.Alert {
			t.Logf("%-16s risk %.2f, alerted %v", id, risk[id], alerted[id])
		}
		if alerted[id] && !e.Alert {
			t.Errorf("%s is a hard negative and was alerted", id)
		}
		if e.Alert && !e.HeldOut && !alerted[id] {
			t.Errorf("%s uses known wordings and was not alerted", id)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(table)) {
		t.Logf("%-26s %2d of %2d alerted", name, table[name].alerted, table[name].n)
	}
}
