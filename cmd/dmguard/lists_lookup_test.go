package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
)

// lookedUpIn returns what "lists lookup" finds of a file, and what it says beside that.
func lookedUpIn(t *testing.T, folder, path string) (r lookupResult, said string) {
	t.Helper()
	var out, errs bytes.Buffer
	if status := run(t.Context(), []string{"lists", "lookup", "--lists", folder, "--json", path}, streams{nil, &out, &errs}); status != 0 {
		t.Fatalf("status %d: %s", status, errs.String())
	}
	if err := json.Unmarshal(out.Bytes(), &r, json.RejectUnknownMembers(true)); err != nil {
		t.Fatal(err)
	}
	return r, errs.String()
}

// asked counts the hashes that were looked up, by kind.
func (r *lookupResult) asked() string {
	kinds := map[string]int{}
	for _, h := range r.Hashes {
		kinds[h.Kind.String()]++
	}
	return fmt.Sprint(kinds)
}

func TestAPictureIsLookedUpAsScannersDoAndAsAFrame(t *testing.T) {
	dir, folder := t.TempDir(), t.TempDir()
	data, err := patternPNG(4711, 700) // so large that PDQ's modes differ
	if err != nil {
		t.Fatal(err)
	}
	picture, cut := filepath.Join(dir, "picture.png"), filepath.Join(dir, "cut.png")
	for path, content := range map[string][]byte{picture: data, cut: data[:len(data)/2]} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	hash := func(path string, arguments ...string) string {
		var out, errs bytes.Buffer
		if status := run(t.Context(), append(append([]string{"hash"}, arguments...), path), streams{nil, &out, &errs}); status != 0 {
			t.Fatalf("status %d: %s", status, errs.String())
		}
		fields := strings.Split(strings.TrimSpace(out.String()), "\t")
		return fields[len(fields)-1]
	}
	native, nn512 := hash(picture, "--kind", "pdq", "--mode", "native"), hash(picture, "--kind", "pdq")
	if native == nn512 {
		t.Fatal("PDQ's modes do not differ")
	}
	list := "kind,hash,entry,category\n"
	list += "vpdq," + native + ",film,csam\n"
	list += "pdq," + nn512 + ",picture,csam\n"
	list += "phash," + hash(picture, "--kind", "phash") + ",picture,csam\n"
	list += "sha1," + hash(picture, "--kind", "sha1") + ",picture,csam\n"
	list += "sha256," + hash(cut, "--kind", "sha256") + ",cut,csam\n"
	if err := os.WriteFile(filepath.Join(folder, "mixed.csv"), []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
	r, said := lookedUpIn(t, folder, picture)
	found := map[string]string{}
	for _, e := range r.Entries {
		if e.Matches && e.Distance == 0 {
			found[e.Kind.String()] = e.Entry
		}
	}
	if want := "map[pdq:picture phash:picture sha1:picture vpdq:film]"; fmt.Sprint(found) != want {
		t.Errorf("found %v, want %s", found, want)
	}
	if want := "map[md5:1 pdq:8 phash:1 sha1:1 sha256:1 vpdq:1]"; r.asked() != want || strings.Contains(said, "looked up") {
		t.Errorf("looked up %s, want %s: %s", r.asked(), want, said)
	}

	r, said = lookedUpIn(t, folder, cut)
	if len(r.Entries) != 1 || r.Entries[0].Entry != "cut" || r.asked() != "map[md5:1 sha1:1 sha256:1]" || !strings.Contains(said, "digests alone: ") {
		t.Errorf("half a picture: %+v: %s", r, said)
	}
}
