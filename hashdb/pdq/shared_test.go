package pdq

import (
	"encoding/csv"
	"errors"
	"image"
	_ "image/jpeg" // the vectors' formats
	_ "image/png"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// sharedDir returns the folder of vectors made with the reference program, or
// "" where this machine has none; the golden pictures in this package do without.
func sharedDir(t *testing.T) string {
	t.Helper()
	root := os.Getenv("DMGUARD_SHARED")
	named := root != ""
	if !named {
		root = filepath.Join("..", "..", "..", "shared")
	}
	dir := filepath.Join(root, "data", "pdq")
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) && !named {
		t.Logf("NOT LOOKED AT: the reference program's vectors are not at %s; DMGUARD_SHARED names another folder", dir)
		return ""
	} else if err != nil {
		t.Fatal(err)
	}
	return dir
}

type vector struct {
	file    string
	quality int
	hashes  [Orientations]Hash
}

func readVectors(t *testing.T, path string) []vector {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := csv.NewReader(f)
	r.Comma = '\t'
	rows, err := r.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for i := range Orientations {
		if got := rows[0][2+i]; got != OrientationName(i) {
			t.Fatalf("%s: column %d is %s, want %s", path, 2+i, got, OrientationName(i))
		}
	}
	var out []vector
	for _, row := range rows[1:] {
		v := vector{file: filepath.Join(filepath.Dir(path), row[0])}
		if v.quality, err = strconv.Atoi(row[1]); err != nil {
			t.Fatal(err)
		}
		for i := range v.hashes {
			if v.hashes[i], err = Parse(row[2+i]); err != nil {
				t.Fatal(err)
			}
		}
		out = append(out, v)
	}
	if len(out) == 0 {
		t.Fatalf("%s holds no vectors", path)
	}
	return out
}

func decode(t testing.TB, path string) image.Image {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, _, err := image.Decode(f)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return img
}

func TestPNGFilesHashExactlyAsTheReferenceProgramDoes(t *testing.T) {
	dir := sharedDir(t)
	if dir == "" {
		return
	}
	var h Hasher
	for _, v := range readVectors(t, filepath.Join(dir, "golden.tsv")) {
		hashes, quality := h.Dihedral(decode(t, v.file), NN512)
		if quality != v.quality {
			t.Errorf("%s: quality %d, want %d", v.file, quality, v.quality)
		}
		for i := range hashes {
			if hashes[i] != v.hashes[i] {
				t.Errorf("%s %s: %d bits off\n got %s\nwant %s", v.file, OrientationName(i), hashes[i].Distance(v.hashes[i]), hashes[i], v.hashes[i])
			}
		}
	}
}

func TestJPEGFilesHashWithinTenBitsOfTheReferenceProgram(t *testing.T) {
	dir := sharedDir(t)
	if dir == "" {
		return
	}
	var h Hasher
	for _, v := range readVectors(t, filepath.Join(dir, "golden-jpeg.tsv")) {
		if v.quality < 80 {
			continue
		}
		hashes, _ := h.Dihedral(decode(t, v.file), NN512)
		for i := range hashes {
			if d := hashes[i].Distance(v.hashes[i]); d > 10 {
				t.Errorf("%s %s: %d bits off, want at most 10", v.file, OrientationName(i), d)
			}
		}
	}
}
