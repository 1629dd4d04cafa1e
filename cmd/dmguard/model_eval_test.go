package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dmguard/dmguard/detectors/grooming/evaluation"
)

// TestEvalAlertsWhatScanAlerts holds the short way that eval takes to the
// detector to the long one of everything else.
func TestEvalAlertsWhatScanAlerts(t *testing.T) {
	dir := t.TempDir()
	messages := filepath.Join(dir, "messages.ndjson")
	mustRun(t, "model", "generate", "--seed", "5", "--conversations", "150", "--split", "train", "--out", dir)
	f, err := os.Open(filepath.Join(dir, "labels.ndjson"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	labels, err := evaluation.ReadLabels(f)
	if err != nil {
		t.Fatal(err)
	}

	var verdicts, errs bytes.Buffer
	if status := run(t.Context(), []string{"scan", messages}, streams{strings.NewReader(""), &verdicts, &errs}); status != 0 {
		t.Fatalf("scan: status %d: %s", status, &errs)
	}
	alerted := map[string]bool{}
	for line := range bytes.Lines(verdicts.Bytes()) {
		var v struct {
			Conversation string `json:"conversation_id"`
			Action       string `json:"action"`
		}
		if err := json.Unmarshal(line, &v); err != nil {
			t.Fatal(err)
		}
		if v.Action != "allow" {
			alerted[v.Conversation] = true
		}
	}
	want := map[bool]int{}
	for id := range alerted {
		want[labels[id].Kind == evaluation.Risk]++
	}

	var out bytes.Buffer
	if status := run(t.Context(), []string{"model", "eval", "--conversations", "1", "--data", messages, "--json"}, streams{strings.NewReader(""), &out, &errs}); status != 0 {
		t.Fatalf("eval: status %d: %s", status, &errs)
	}
	var r evaluation.Report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	if got := map[bool]int{true: r.Data[0].Recall.Hits, false: r.Data[0].FPR.Hits}; got[true] != want[true] || got[false] != want[false] || want[true] < 10 {
		t.Errorf("scan alerts %d risky and %d harmless conversations, eval %d and %d", want[true], want[false], got[true], got[false])
	}
}
