package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
)

func TestBenchIndexMeasuresWhatTheIndexIsHeldTo(t *testing.T) {
	var out, fault bytes.Buffer
	args := []string{"bench", "index", "--entries", "20000", "--time", "20ms", "--dir", t.TempDir()}
	if code := run(t.Context(), append(slices.Clone(args), "--json"), streams{nil, &out, &fault}); code != 0 {
		t.Fatalf("exit status %d: %s", code, fault.String())
	}
	var r indexResult
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"build a file", "index", "entries", "eight PDQ hashes, median", "p99 while sets are swapped", "from a new entry", "digest that is not there", "reload: p99 while quiet", "reload: p99 while snapshots are swapped", "reload: snapshots swapped"} {
		if !slices.ContainsFunc(r.Figures, func(f indexFigure) bool { return strings.HasPrefix(f.Name, want) && f.Value > 0 }) {
			t.Errorf("nothing measured for %q", want)
		}
	}
	out.Reset()
	if code := run(t.Context(), args, streams{nil, &out, &fault}); code != 0 || !strings.Contains(out.String(), "≤ 0.5") {
		t.Errorf("exit status %d, table without a bar: %s", code, out.String())
	}
}

func TestBenchItselfIsStillTheRunFromEndToEnd(t *testing.T) {
	var out, fault bytes.Buffer
	if code := run(t.Context(), []string{"bench", "-h"}, streams{nil, &out, &fault}); code != 0 {
		t.Fatalf("exit status %d", code)
	}
	for _, want := range []string{"end to end", "-messages", "index"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the help does not tell of %q:\n%s", want, out.String())
		}
	}
}
