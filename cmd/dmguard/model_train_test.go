package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dmguard/dmguard/pipeline"
)

// trainedModel trains a model of two texts, in dir.
func trainedModel(t *testing.T, dir, name string, seed int) string {
	t.Helper()
	put := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	texts := put("texts.ndjson", `{"text":"what a storm","labels":["gift"]}`+"\n")
	benign := put("everyday.ndjson", everyday(100))
	out := filepath.Join(dir, name)
	mustRun(t, "model", "train", "--data", texts, "--benign", benign, "--licence", "texts=none", "--licence", "everyday=none", "--bits", "8",
		"--seed", fmt.Sprint(seed), "--out", out)
	return out
}

func TestABadModelLeavesTheLastGoodOneInForce(t *testing.T) {
	dir := t.TempDir()
	path, model := filepath.Join(dir, "dmguard.yaml"), filepath.Join(dir, "live.model")
	move := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	move(trainedModel(t, dir, "one.model", 1), model)
	if err := os.WriteFile(path, fmt.Appendf(nil, "detectors: {grooming: {model: %q}}\n", model), 0o600); err != nil {
		t.Fatal(err)
	}
	r, w := watchRules(t, rulesetOptions{config: path})
	defer w.stop()
	first := r.ruleset

	damaged, err := os.ReadFile(model)
	if err != nil {
		t.Fatal(err)
	}
	damaged[len(damaged)-1] ^= 0xff
	bad := filepath.Join(dir, "bad.model")
	if err := os.WriteFile(bad, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	move(bad, model)
	if fault := awaitOne(t, "a refusal", w.refused); !strings.Contains(fault, "last good one stays") || !strings.Contains(fault, "detectors.grooming.model: "+model) {
		t.Errorf("refused with %q", fault)
	}
	select {
	case rs := <-w.applied:
		t.Errorf("a damaged model was taken over: %v", rs.Versions)
	default:
	}

	move(trainedModel(t, dir, "two.model", 2), model)
	var second *pipeline.Ruleset
	for second == nil || second.Versions["ruleset"] == first.Versions["ruleset"] {
		second = awaitOne(t, "a good model", w.applied)
	}
}

func TestConfigCheckRefusesAWrongModel(t *testing.T) {
	dir := t.TempDir()
	check := func(model string) (int, string) {
		path := filepath.Join(dir, "dmguard.yaml")
		if err := os.WriteFile(path, fmt.Appendf(nil, "detectors: {grooming: {model: %q}}\n", model), 0o600); err != nil {
			t.Fatal(err)
		}
		var out, errs bytes.Buffer
		status := run(t.Context(), []string{"config", "check", path}, streams{strings.NewReader(""), &out, &errs})
		return status, out.String() + errs.String()
	}
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	for model, want := range map[string]string{text: "not a message model", filepath.Join(dir, "absent"): "no such file", dir: "detectors.grooming.model"} {
		if status, said := check(model); status != 1 || !strings.Contains(said, want) || !strings.Contains(said, "detectors.grooming.model") {
			t.Errorf("%s: status %d: %s", model, status, said)
		}
	}
	seen := map[string]bool{}
	for _, model := range []string{"none", trainedModel(t, dir, "a.model", 1)} {
		status, said := check(model)
		if status != 0 || seen[said] {
			t.Errorf("%s: status %d: %s", model, status, said)
		}
		seen[said] = true
	}
}
