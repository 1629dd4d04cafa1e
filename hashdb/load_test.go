package hashdb

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

const (
	md5X    = "9dd4e461268c8034f5c8564e155c67a6"
	pdqX    = "d8f8f0cec0f4a84f0637022a278f67f0b36e2ed596621e1d33e6339c4e9c9b22"
	phashX  = "a1b2c3d4e5f60718"
	head    = "kind,hash,entry,category\n"
	oneLine = "md5," + md5X + ",e-1,csam\n"
)

// folder writes files by name and returns their folder.
func folder(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestEveryCSVOfAFolderIsAList(t *testing.T) {
	dir := folder(t, map[string]string{
		"known.csv":  "\ufeff" + head + oneLine + "pdq," + strings.ToUpper(pdqX) + ",e-1,csam\r\n\r\n" + oneLine + "\"phash\"," + phashX + ",\"e, 2\",\n",
		"other.CSV":  "note,category,entry,hash,kind,source\nhello,ncii,o-1," + md5X + ",md5,someone\nzero,ncii,o-2," + strings.Repeat("0", 32) + ",md5,\n",
		"empty.csv":  head,
		"notes.txt":  "not a list",
		".known.csv": "an editor's leavings",
	})
	if err := os.Mkdir(filepath.Join(dir, "folder.csv"), 0o755); err != nil {
		t.Fatal(err)
	}
	set, err := LoadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	versions := set.Versions()
	want := []Info{
		{Name: "empty", Version: versions["empty"], Entries: map[Kind]int{}},
		{Name: "known", Version: versions["known"], Entries: map[Kind]int{MD5: 1, PDQ: 1, PHash: 1}, Duplicates: 1},
		{
			Name: "other", Version: versions["other"], Entries: map[Kind]int{MD5: 1}, Refused: 1,
			Refusals: []Refusal{{Entry: "o-2", Hash: Hash{kind: MD5}, Reason: "all zero"}}, Ignored: []string{"note", "source"},
		},
	}
	if diff := gocmp.Diff(want, set.Lists(), gocmp.AllowUnexported(Hash{})); diff != "" {
		t.Errorf("lists (-want +got):\n%s", diff)
	}
	for name, v := range versions {
		if len(v) != 12 {
			t.Errorf("list %s has version %q", name, v)
		}
	}
	h, err := ParseHash(MD5, md5X)
	if err != nil {
		t.Fatal(err)
	}
	got := set.Match(Query{Hashes: []Hash{h}}).Matches
	wantMatches := []Match{
		{List: "known", ListVersion: versions["known"], Entry: "e-1", Category: "csam", Kind: MD5},
		{List: "other", ListVersion: versions["other"], Entry: "o-1", Category: "ncii", Kind: MD5},
	}
	if diff := gocmp.Diff(wantMatches, got); diff != "" {
		t.Errorf("matches (-want +got):\n%s", diff)
	}
}

func TestALongListOfShortLinesIsRead(t *testing.T) {
	var b strings.Builder
	b.WriteString(head)
	for i := range 20_000 {
		fmt.Fprintf(&b, "md5,%032x,\"e %d\",csam\n", i+1, i)
	}
	set, err := LoadDir(folder(t, map[string]string{"a.csv": b.String()}))
	if err != nil {
		t.Fatal(err)
	}
	if n := set.Lists()[0].Entries[MD5]; n != 20_000 {
		t.Errorf("%d entries", n)
	}
}

func TestVersionChangesWithTheContentAndOnlyThen(t *testing.T) {
	dir := folder(t, map[string]string{"a.csv": head + oneLine, "b.csv": head + oneLine, "c.csv": head + strings.Replace(oneLine, "e-1", "e-2", 1)})
	set, err := LoadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	v := set.Versions()
	if v["a"] != v["b"] || v["a"] == v["c"] {
		t.Errorf("versions %v", v)
	}
}

func TestEveryFaultOfEveryFileIsToldWithItsLine(t *testing.T) {
	dir := folder(t, map[string]string{
		"good.csv": head + oneLine,
		"bad.csv": head +
			"md4," + md5X + ",e,csam\n" + // 2
			"md5,123,e,csam\n" + // 3
			oneLine + // 4
			"\n" + // 5
			"md5," + md5X + ",,csam\n" + // 6
			"md5," + md5X + ",e\n" + // 7
			"md5,\"" + md5X + "\"x\",e\",csam\n" + // 8, quotes within
			"md5," + md5X + ",e,c\x00am\n" + // 9
			"md5," + md5X + ",\xff,csam\n" + // 10
			"md5," + md5X + ", e,csam\n" + // 11
			"md5," + md5X + "," + strings.Repeat("e", maxField+1) + ",csam\n" + // 12
			"md5," + strings.Repeat("g", 32) + ",e,csam\n", // 13
		"columns.csv": "kind,hash,entry\n" + oneLine,
		"twice.csv":   head[:len(head)-1] + ",kind\n",
		"nothing.csv": "",
		"long.csv":    head + "md5,1,e,csam\n" + oneLine + strings.Repeat("x", maxLine+1) + "\n",
		"quote.csv":   head + "md5,2,e,csam\n" + "md5,\"" + md5X + ",e,csam\n" + oneLine,
	})
	set, err := LoadDir(dir)
	if err == nil || set != nil {
		t.Fatal("a bad folder gave a set")
	}
	for _, want := range []string{
		"bad.csv:2: unknown hash kind", "bad.csv:3: md5 hash: 3 characters", "bad.csv:6: the entry has no ID", "bad.csv:7: 3 columns",
		"bad.csv:8: ", "bad.csv:9: category", "bad.csv:10: entry: not UTF-8", "bad.csv:11: entry: begins", "bad.csv:12: entry: 257 bytes", "bad.csv:13: md5 hash",
		"columns.csv:1: no column \"category\"", "twice.csv:1: column \"kind\" comes twice", "nothing.csv:1: the file is empty",
		"long.csv:2: md5 hash", "long.csv:4: the line is over", "quote.csv:2: md5 hash", "quote.csv:3: an odd number of quotes",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("not told: %s", want)
		}
	}
	for file, n := range map[string]int{"bad.csv:": 10, "long.csv:": 2, "quote.csv:": 2} {
		if got := strings.Count(err.Error(), file); got != n {
			t.Errorf("%d faults of %s, want %d", got, file, n)
		}
	}
	for _, line := range []string{"good.csv", "bad.csv:4", "bad.csv:5", "long.csv:3"} {
		if strings.Contains(err.Error(), line) {
			t.Errorf("told of %s, where nothing is wrong", line)
		}
	}
	if t.Failed() {
		t.Log(err)
	}
}

func TestAHashUnderTwoCategoriesIsAFault(t *testing.T) {
	dir := folder(t, map[string]string{"a.csv": head + oneLine + strings.Replace(oneLine, "csam", "ncii", 1)})
	if _, err := LoadDir(dir); err == nil || !strings.Contains(err.Error(), "two categories") {
		t.Errorf("got %v", err)
	}
}

func TestAFolderWithoutListsIsSaidToBeOne(t *testing.T) {
	if _, err := LoadDir(t.TempDir()); !errors.Is(err, ErrNoLists) {
		t.Errorf("empty folder: %v", err)
	}
	if _, err := LoadDir(filepath.Join(t.TempDir(), "absent")); err == nil || errors.Is(err, ErrNoLists) {
		t.Errorf("no folder: %v", err)
	}
}

func TestReadingStopsAtItsLimits(t *testing.T) {
	if _, _, err := ReadCSV("f", strings.NewReader(head+oneLine+oneLine), 1); err == nil || !strings.Contains(err.Error(), "f:3: over") {
		t.Errorf("entries: %v", err)
	}
	two := folder(t, map[string]string{"a.csv": head + oneLine, "b.csv": head + oneLine})
	if _, err := loadDir(two, 1); err == nil || !strings.Contains(err.Error(), "b.csv:2: over") {
		t.Errorf("entries of two files: %v", err)
	}
	if _, err := loadDir(two, 2); err != nil {
		t.Errorf("as many as there is room for: %v", err)
	}
	_, _, err := ReadCSV("f", strings.NewReader(head+strings.Repeat("x,,,\n", 10*maxFaults)), 10)
	if n := strings.Count(err.Error(), "\n"); n != maxFaults || !strings.Contains(err.Error(), "stopped after 100 faults") {
		t.Errorf("%d lines of error", n)
	}
	files := make(map[string]string)
	for i := range maxFiles + 1 {
		files[fmt.Sprint(i, ".csv")] = head
	}
	if _, err := LoadDir(folder(t, files)); err == nil || !strings.Contains(err.Error(), "257 lists") {
		t.Errorf("files: %v", err)
	}
	device := t.TempDir()
	if err := os.Symlink(os.DevNull, filepath.Join(device, "null.csv")); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadDir(device); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("device: %v", err)
	}
	dir := folder(t, map[string]string{"big.csv": head})
	if err := os.Truncate(filepath.Join(dir, "big.csv"), maxFileSize+1); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadDir(dir); err == nil || !strings.Contains(err.Error(), "at most 268435456") {
		t.Errorf("size: %v", err)
	}
}

func FuzzReadCSV(f *testing.F) {
	f.Add([]byte(head + oneLine))
	f.Add([]byte("\ufeff" + head + "pdq," + pdqX + ",\"e\"\"x\",\r\n"))
	f.Add([]byte("a,category,entry,hash,kind\n,c,e," + md5X + ",md5"))
	f.Add([]byte(head + "md5,\"" + md5X + ",e,csam\n" + oneLine))
	f.Add([]byte(head + strings.Repeat("x", maxLine+1)))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, _, err := ReadCSV("f", strings.NewReader(string(data)), 1000)
		if err != nil {
			if entries != nil {
				t.Error("entries beside an error")
			}
			for line := range strings.Lines(err.Error()) {
				if !strings.HasPrefix(line, "f:") {
					t.Errorf("a fault without its place: %q", line)
				}
			}
			return
		}
		set, err := NewSet(List{Name: "f", Entries: entries})
		if err != nil {
			return
		}
		info := set.Lists()[0]
		n := info.Duplicates + info.Refused
		for _, k := range info.Entries {
			n += k
		}
		if n != len(entries) {
			t.Errorf("%d entries read, %d accounted for", len(entries), n)
		}
		for _, e := range entries {
			got := set.Match(Query{Hashes: []Hash{e.Hash}, Quality: 100})
			if e.Hash.Unfit() == "" && len(got.Matches) == 0 {
				t.Errorf("entry %+v does not match itself", e)
			}
		}
	})
}
