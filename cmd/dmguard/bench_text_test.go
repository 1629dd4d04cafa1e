package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/klauspost/compress/zstd"
)

func TestBenchTextMeasuresWhatTheTextPathIsHeldTo(t *testing.T) {
	var out, fault bytes.Buffer
	if code := run(t.Context(), []string{"bench", "text", "--messages", "2000", "--rounds", "1", "--json"}, streams{nil, &out, &fault}); code != 0 {
		t.Fatalf("exit status %d: %s", code, fault.String())
	}
	var r textResult
	if err := json.Unmarshal(out.Bytes(), &r, json.RejectUnknownMembers(true)); err != nil {
		t.Fatal(err)
	}
	if r.Messages != 2000 || r.MessageBytes < 20 || r.Go == "" || r.Processors < 1 || r.Source == "" {
		t.Errorf("%+v", r)
	}
	bars := map[string]float64{
		"fold": 0.6, "scan": 0.5, "judge": 10, "messages on one core": 80_000, "largest state of the chat": 512, "largest state that four": 512,
		"65536 characters of emoji": 5, "65536 characters of ligatures": 5, "65536 characters of combining marks": 5, "65536 characters of Hangul jamo": 5,
	}
	for name, bar := range bars {
		i := slices.IndexFunc(r.Figures, func(f textFigure) bool { return strings.HasPrefix(f.Name, name) })
		if i < 0 {
			t.Errorf("nothing measured for %q", name)
			continue
		}
		if f := r.Figures[i]; f.Value <= 0 || f.Unit == "" || f.Bar != bar || f.Met == nil || f.AtLeast != (name == "messages on one core") {
			t.Errorf("%+v", f)
		}
		// What does not depend on the machine is held to its bar.
		if f := r.Figures[i]; strings.HasPrefix(name, "largest") && !*f.Met {
			t.Errorf("%+v", f)
		}
	}
}

func TestBenchTextTakesMessagesOfOnesOwn(t *testing.T) {
	dir := t.TempDir()
	const lines = `{"id":"m-1","conversation_id":"c-1","sent_at":"2026-03-01T16:00:00Z","sender":{"id":"u-1"},"text":"hello there"}

{"id":"m-2","conversation_id":"c-1","sent_at":"2026-03-01T16:00:00Z","sender":{"id":"u-1"},"text":"how old are you?"}`
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	packed := filepath.Join(dir, "a.ndjson.zst")
	for path, data := range map[string][]byte{filepath.Join(dir, "a.ndjson"): []byte(lines), packed: enc.EncodeAll([]byte(lines), nil)} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		var b textBench
		if err := b.read(path, 10); err != nil || len(b.messages) != 2 || b.messages[1].Text.Reveal() != "how old are you?" {
			t.Errorf("%s: %d messages, %v", path, len(b.messages), err)
		}
	}
	var out, fault bytes.Buffer
	if code := run(t.Context(), []string{"bench", "text", "--benign", packed, "--rounds", "1"}, streams{nil, &out, &fault}); code != 0 {
		t.Fatalf("exit status %d: %s", code, fault.String())
	}
	for _, want := range []string{"2 messages of 14 bytes", "≤ 0.6", "≥ 80000", "ligatures"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	path := filepath.Join(dir, "bad.ndjson")
	if err := os.WriteFile(path, []byte("{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	fault.Reset()
	if code := run(t.Context(), []string{"bench", "text", "--benign", path, "--rounds", "1"}, streams{nil, &out, &fault}); code != 1 || !strings.Contains(fault.String(), "bad.ndjson, line 1") {
		t.Errorf("exit status %d: %s", code, fault.String())
	}
}
