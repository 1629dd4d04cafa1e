package hashdb

import (
	"bytes"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"image"
	"image/color"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

func TestKindsAreAClosedSetWithText(t *testing.T) {
	for _, k := range Kinds() {
		text, err := k.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var back Kind
		if err := back.UnmarshalText(text); err != nil || back != k || string(text) != k.String() {
			t.Errorf("%s came back as %s: %v", k, back, err)
		}
		if k.Algorithm() == "" || k.Size() == 0 {
			t.Errorf("%s has no algorithm or size", k)
		}
	}
	if _, err := Kind(0).MarshalText(); err == nil {
		t.Error("the zero kind has a name")
	}
	for _, bad := range []string{"", "MD5", "photodna", "sha512"} {
		if _, err := ParseKind(bad); err == nil {
			t.Errorf("%q is taken for a kind", bad)
		}
	}
}

func TestDigestsAreThoseOfTheStandardLibrary(t *testing.T) {
	for _, n := range []int{0, 1, 16<<10 - 1, 16 << 10, 16<<10 + 1, 100_000} {
		data := bytes.Repeat([]byte("abcdefg"), n/7+1)[:n]
		s256, s1, m5 := sha256.Sum256(data), sha1.Sum(data), md5.Sum(data)
		got := Digests(data)
		for i, want := range [][]byte{s256[:], s1[:], m5[:]} {
			if !bytes.Equal(got[i].Bytes(), want) || got[i].Kind() != Kinds()[i] || got[i].String() != hex.EncodeToString(want) {
				t.Errorf("%d bytes: %s is %s, want %x", n, got[i].Kind(), got[i], want)
			}
		}
	}
}

func TestHashesOfAWrongSizeAreRefused(t *testing.T) {
	for _, k := range Kinds() {
		for _, n := range []int{0, k.Size() - 1, k.Size() + 1} {
			if _, err := NewHash(k, make([]byte, n)); err == nil {
				t.Errorf("%s of %d bytes is taken", k, n)
			}
			if _, err := ParseHash(k, strings.Repeat("00", n)); err == nil {
				t.Errorf("%s of %d digits is taken", k, 2*n)
			}
		}
		if _, err := ParseHash(k, strings.Repeat("0g", k.Size())); err == nil {
			t.Errorf("%s takes a g for a digit", k)
		}
	}
	if _, err := NewHash(0, nil); err == nil {
		t.Error("a hash without a kind is taken")
	}
}

// Pixels and not a file, so that a new JPEG decoder in Go does not change it.
func TestPerceptionHashOfFixedPixelsStaysAsRecorded(t *testing.T) {
	img := image.NewRGBA(image.Rect(0, 0, 120, 90))
	for y := range 90 {
		for x := range 120 {
			img.SetRGBA(x, y, color.RGBA{R: uint8(x * y / 43), G: uint8(2 * x), B: uint8((x/30*60 + y/30*70) % 256), A: 255})
		}
	}
	got, err := Perception(img)
	if err != nil {
		t.Fatal(err)
	}
	if want := "aa734c57b16cd431"; got.String() != want {
		t.Errorf("got %s, want %s: the algorithm's version must change with its hashes", got, want)
	}
	if _, err := Perception(image.NewGray(image.Rectangle{})); err == nil {
		t.Error("an empty picture has a hash")
	}
	if _, err := Perception(image.NewGray(image.Rect(0, 0, 1, 1))); err != nil {
		t.Errorf("one pixel: %v", err)
	}
}

func FuzzParseHash(f *testing.F) {
	f.Add("md5", "d41d8cd98f00b204e9800998ecf8427e")
	f.Add("pdq", strings.Repeat("fF", 32))
	f.Add("phash", "p:0123456789abcdef")
	f.Fuzz(func(t *testing.T, kind, text string) {
		k, err := ParseKind(kind)
		if err != nil {
			return
		}
		h, err := ParseHash(k, text)
		if err != nil {
			return
		}
		again, err := NewHash(h.Kind(), h.Bytes())
		if diff := gocmp.Diff(strings.ToLower(text), again.String()); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
	})
}
