package hashdb

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

func TestAFileStaysMappedAsLongAsASetOfItIsInUseAndNotLonger(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mapped-segment")
	if err := os.WriteFile(path, segmentBytes(t, 5, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	set, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	mapped := func() bool {
		maps, err := os.ReadFile("/proc/self/maps")
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Contains(maps, []byte("mapped-segment"))
	}
	joined, err := Join(set, mustSet(t, List{Name: "l"}))
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		runtime.GC()
	}
	if !mapped() {
		t.Fatal("unmapped while a set made of it is in use")
	}
	h := Digests([]byte("x"))
	joined.Match(Query{Hashes: h[:]})
	for range 1000 {
		if runtime.GC(); !mapped() {
			return
		}
	}
	t.Error("still mapped")
}
