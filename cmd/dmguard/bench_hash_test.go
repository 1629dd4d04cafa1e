package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
)

func TestBenchHashMeasuresWhatHashingIsHeldTo(t *testing.T) {
	var out, fault bytes.Buffer
	if code := run(t.Context(), []string{"bench", "hash", "--time", "1ms", "--large=false", "--json"}, streams{nil, &out, &fault}); code != 0 {
		t.Fatalf("exit status %d: %s", code, fault.String())
	}
	var r hashResult
	if err := json.Unmarshal(out.Bytes(), &r, json.RejectUnknownMembers(true)); err != nil {
		t.Fatal(err)
	}
	if r.Go == "" || r.Processors < 1 {
		t.Errorf("of what machine: %q, %d processors", r.Go, r.Processors)
	}
	for _, want := range []string{
		"PDQ of luma", "PDQ of colour", "PDQ, nn512", "PDQ, native", "PDQ of colour in eight orientations", "perception hash", "MD5, SHA-1 and SHA-256",
		"JPEG of ", "PNG of ", "WebP, lossless of ", "GIF of ",
	} {
		if !slices.ContainsFunc(r.Figures, func(f hashFigure) bool {
			return strings.HasPrefix(f.Name, want) && f.Value > 0 && f.Wall > 0 && f.Unit == "ms" && f.Picture != ""
		}) {
			t.Errorf("nothing measured for %q", want)
		}
	}
	for _, where := range []string{decodeInProcess, decodeSandbox} {
		if !slices.ContainsFunc(r.Figures, func(f hashFigure) bool { return strings.HasSuffix(f.Name, where) }) && len(r.Notes) < 2 {
			t.Errorf("nothing measured %s, and nothing said of it", where)
		}
	}
	python := slices.ContainsFunc(r.Figures, func(f hashFigure) bool { return strings.Contains(f.Name, "Python") })
	if said := slices.ContainsFunc(r.Notes, func(s string) bool { return strings.Contains(s, "not present") }); python == said {
		t.Errorf("the Python package is measured: %v, and said to be missing: %v", python, said)
	}
	for _, f := range r.Figures {
		if (f.Bar == nil) != (f.Met == nil) {
			t.Errorf("%s: a bar without an answer", f.Name)
		}
		if f.Name == "allocations a picture" && (f.Bar == nil || f.Value != 0) {
			t.Errorf("%v allocations a picture", f.Value)
		}
	}
	out.Reset()
	if err := r.print(&out); err != nil || !strings.Contains(out.String(), "≤ 0.8") {
		t.Errorf("%v, table without a bar: %s", err, out.String())
	}
}
