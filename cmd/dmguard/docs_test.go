package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// testNames returns the tests, fuzz targets and examples of the module.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	decl := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Example)\w+)\(`)
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		data, err := os.ReadFile(path)
		for _, m := range decl.FindAllSubmatch(data, -1) {
			names[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestEveryInvariantNamesTestsThatExist(t *testing.T) {
	page, err := os.ReadFile("../../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(page), "## Invariants")
	if !ok {
		t.Fatal("ARCHITECTURE.md has no invariants")
	}
	table, _, _ = strings.Cut(table, "\n## ")
	exist := testNames(t)
	mentioned := regexp.MustCompile("`((?:Test|Fuzz|Example)\\w+)`")
	rows := 0
	for line := range strings.Lines(table) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| #") {
			continue
		}
		rows++
		found := mentioned.FindAllStringSubmatch(line, -1)
		if len(found) == 0 {
			t.Errorf("an invariant names no test: %s", line)
		}
		for _, m := range found {
			if !exist[m[1]] {
				t.Errorf("there is no %s", m[1])
			}
		}
	}
	if rows != 9 {
		t.Errorf("%d invariants, want 9", rows)
	}
}

func TestThePagesStayShort(t *testing.T) {
	page, err := os.ReadFile("../../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(page), "\n"); n > 220 {
		t.Errorf("ARCHITECTURE.md has %d lines, more than 220", n)
	}
}
