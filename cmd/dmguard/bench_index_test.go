package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/dmguard/dmguard/hashdb"
)

func TestBenchIndexMeasuresWhatTheIndexIsHeldTo(t *testing.T) {
	var out, fault bytes.Buffer
	args := []string{"bench", "index", "--entries", "20000", "--time", "20ms", "--dir", t.TempDir(), "--json"}
	if code := run(t.Context(), args, streams{nil, &out, &fault}); code != 0 {
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
	if err := r.print(&out); err != nil || !strings.Contains(out.String(), "≤ 0.5") {
		t.Errorf("%v, table without a bar: %s", err, out.String())
	}
}

func TestBenchIndexChangesWhatItLooksUpHoweverShortItsTime(t *testing.T) {
	const n = 100
	b := &indexBench{dir: t.TempDir(), bar: func(unit string) *progress { return newProgress(io.Discard, unit) }}
	path, _, _, err := b.build(t.Context(), hashdb.PDQ, n)
	if err != nil {
		t.Fatal(err)
	}
	set, _, err := b.open(path)
	if err != nil {
		t.Fatal(err)
	}
	var db hashdb.DB
	db.Replace(set)
	made := 0
	if times, err := b.lookUps(t.Context(), &db, n, 0, func(int) error { made++; return nil }); err != nil || made < fewestChanges || len(times) == 0 {
		t.Errorf("%d changes, %d look-ups, %v", made, len(times), err)
	}
	fault := errors.New("no")
	if _, err := b.lookUps(t.Context(), &db, n, time.Hour, func(int) error { return fault }); !errors.Is(err, fault) {
		t.Errorf("a change that failed: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := b.lookUps(ctx, &db, n, time.Hour, func(int) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := b.lookUps(ctx, &db, n, time.Hour, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled, without changes: %v", err)
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
