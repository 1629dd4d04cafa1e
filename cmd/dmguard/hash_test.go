package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sharedVectors returns the folder of the reference program's hashes, or ""
// where this checkout stands alone.
func sharedVectors(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("DMGUARD_SHARED")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared")
	}
	dir = filepath.Join(dir, "data", "pdq")
	if _, err := os.Stat(filepath.Join(dir, "golden.tsv")); err != nil {
		t.Logf("NOT LOOKED AT: the reference program's hashes: %v", err)
		return ""
	}
	return dir
}

func TestHashPrintsTheColumnsOfTheReferenceVectors(t *testing.T) {
	dir := sharedVectors(t)
	if dir == "" {
		return
	}
	golden, err := os.ReadFile(filepath.Join(dir, "golden.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	for line := range strings.Lines(string(golden)) {
		name, want, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if !strings.HasSuffix(name, ".png") {
			continue
		}
		lines++
		path := filepath.Join(dir, name)
		var out, errs bytes.Buffer
		if status := run(t.Context(), []string{"hash", "--kind", "pdq", "--dihedral", path}, streams{nil, &out, &errs}); status != 0 {
			t.Fatalf("status %d: %s", status, errs.String())
		}
		if got := out.String(); got != path+"\tpdq\t"+want+"\n" {
			t.Errorf("%s:\n got %s\nwant %s", name, got, want)
		}
	}
	if lines == 0 {
		t.Error("the vectors name no PNG file")
	}
}
