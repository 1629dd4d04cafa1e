package lists

import (
	"flag"
	"image"
	"maps"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/dmguard/dmguard/hashdb"
	"github.com/dmguard/dmguard/hashdb/pdq"
)

var update = flag.Bool("update", false, "write canaries.txt again")

// hashesOf returns the PDQ hashes of a picture in all orientations.
func hashesOf(img image.Image) []hashdb.Hash {
	var hasher pdq.Hasher
	all, _ := hasher.Dihedral(img, pdq.NN512)
	var out []hashdb.Hash
	for i := range all {
		h, err := hashdb.NewHash(hashdb.PDQ, all[i][:])
		if err != nil {
			panic(err)
		}
		out = append(out, h)
	}
	return out
}

// drawCanaries draws all canaries and returns the lines that say what they hash to.
func drawCanaries(t *testing.T) (lines []string, pictures int) {
	t.Helper()
	seen := map[string]bool{}
	add := func(line []string, h hashdb.Hash) []string {
		text := h.Kind().String() + ":" + h.String()
		if seen[text] {
			return line
		}
		seen[text] = true
		return append(line, text)
	}
	at := 0
	for name, paint := range drawings() {
		for range sizesEach {
			size := sizes[at*5%len(sizes)]
			at++
			pictures++
			img := &drawn{size[0], size[1], paint}
			line := []string{name}
			for _, h := range hashesOf(img) {
				line = add(line, h)
			}
			if len(line) > 1 {
				lines = append(lines, strings.Join(line, " "))
			}
		}
	}
	for name, data := range trivialFiles() {
		line := []string{name}
		for _, h := range hashdb.Digests(data) {
			line = add(line, h)
		}
		lines = append(lines, strings.Join(line, " "))
	}
	return lines, pictures
}

func TestTheBundledCanariesAreThoseThatAreDrawn(t *testing.T) {
	lines, pictures := drawCanaries(t)
	if pictures < 200 {
		t.Errorf("only %d pictures", pictures)
	}
	want := strings.Join(lines, "\n") + "\n"
	if *update {
		if err := os.WriteFile("canaries.txt", []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Logf("%d pictures, %d lines, %d hashes, %d bytes", pictures, len(lines), strings.Count(want, ":"), len(want))
		return
	}
	if want == canaries {
		return
	}
	got := strings.Split(strings.TrimSpace(canaries), "\n")
	if len(got) != len(lines) {
		t.Fatalf("%d lines, drawn are %d: go test ./hashdb/lists -run %s -update", len(got), len(lines), t.Name())
	}
	for i := range lines {
		if lines[i] != got[i] {
			t.Fatalf("line %d is\n%s\nand drawn is\n%s", i+1, got[i], lines[i])
		}
	}
}

func parsed(t *testing.T, kind hashdb.Kind, digits string) hashdb.Hash {
	t.Helper()
	h, err := hashdb.ParseHash(kind, digits)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// flipped returns a hash with n of its bits changed.
func flipped(t *testing.T, h hashdb.Hash, n int, rng *rand.Rand) hashdb.Hash {
	t.Helper()
	b := h.Bytes()
	for _, i := range rng.Perm(8 * len(b))[:n] {
		b[i/8] ^= 1 << (i % 8)
	}
	out, err := hashdb.NewHash(h.Kind(), b)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestWhatEverybodySendsIsRefusedAsAnEntryInAnyOrientation(t *testing.T) {
	screen := NewScreen()
	rng := rand.New(rand.NewPCG(1, 1))
	for _, paint := range []paint{waves(1), waves(2)} { // of an operator
		own := hashesOf(&drawn{200, 150, paint})
		for i, h := range hashesOf(&drawn{300, 280, paint}) {
			if _, refused := NewScreen(own...).Refuse(h); !refused {
				t.Errorf("another size of an own canary passes as %s", pdq.OrientationName(i))
			}
		}
	}
	for line := range strings.Lines(canaries) {
		for _, field := range strings.Fields(line)[1:] {
			kind, digits, _ := strings.Cut(field, ":")
			if kind != "pdq" {
				continue
			}
			h := parsed(t, hashdb.PDQ, digits)
			for _, d := range []int{0, 1, 31} {
				if why, refused := screen.Refuse(flipped(t, h, d, rng)); !refused || why == "" {
					t.Fatalf("a hash %d bits from %s passes", d, field)
				}
			}
		}
	}
}

func TestAHashBeyondTheThresholdOfEveryCanaryPasses(t *testing.T) {
	screen := NewScreen()
	rng := rand.New(rand.NewPCG(2, 1))
	base := parsed(t, hashdb.PDQ, strings.Repeat("0f", 32))
	for passed := 0; passed < 20; {
		own := flipped(t, base, 128, rng)
		if _, refused := screen.Refuse(own); refused {
			t.Fatalf("a random hash is refused: %s", own)
		}
		s := NewScreen(own)
		at31, at32 := flipped(t, own, 31, rng), flipped(t, own, 32, rng)
		if at31.Unfit() != "" || at32.Unfit() != "" {
			continue
		}
		passed++
		if why, refused := s.Refuse(at31); !refused || !strings.Contains(why, "31 bits") || !strings.Contains(why, "platform's own") {
			t.Errorf("31 bits from an own canary: %q", why)
		}
		if why, refused := s.Refuse(at32); refused {
			t.Errorf("32 bits from an own canary: %q", why)
		}
	}
	if _, refused := screen.Refuse(base); !refused {
		t.Error("a placeholder passes")
	}
}

func TestOrdinaryPicturesPassTheScreen(t *testing.T) {
	// Smooth random waves, as structured as photographs and like nothing that is drawn.
	screen := NewScreen()
	for seed := range 300 {
		for i, h := range hashesOf(&drawn{120, 90, waves(seed)}) {
			if why, refused := screen.Refuse(h); refused {
				t.Errorf("picture %d in orientation %d: %s", seed, i, why)
			}
		}
	}
	rng := rand.New(rand.NewPCG(3, 1))
	for range 2000 {
		for _, kind := range []hashdb.Kind{hashdb.SHA256, hashdb.SHA1, hashdb.MD5} {
			b := make([]byte, kind.Size())
			for i := range b {
				b[i] = byte(rng.Uint32())
			}
			h, err := hashdb.NewHash(kind, b)
			if err != nil {
				t.Fatal(err)
			}
			if why, refused := screen.Refuse(h); refused {
				t.Errorf("%s %s: %s", kind, h, why)
			}
		}
	}
}

// waves is a picture of blurred random cells.
func waves(seed int) paint {
	const cells = 12
	return func(x, y int) uint32 {
		cx, cy, fx, fy := x*cells/unit, y*cells/unit, x*cells%unit, y*cells%unit
		at := func(dx, dy int) int { return int(noise(seed+1000, cx+dx, cy+dy) & 255) }
		top, bottom := at(0, 0)*(unit-fx)+at(1, 0)*fx, at(0, 1)*(unit-fx)+at(1, 1)*fx
		return grey((top*(unit-fy) + bottom*fy) / unit / unit)
	}
}

func TestTheScreenSaysWhyItRefuses(t *testing.T) {
	files := maps.Collect(trivialFiles())
	digests := hashdb.Digests(files["a_line_feed"])
	own := parsed(t, hashdb.SHA256, strings.Repeat("0123456789abcdef01", 4)[:64])
	screen := NewScreen(own, parsed(t, hashdb.PHash, "0123456789abcdef"))
	for _, test := range []struct {
		hash hashdb.Hash
		why  string
	}{
		{hashdb.Hash{}, "no hash"},
		{parsed(t, hashdb.MD5, strings.Repeat("0", 32)), "all zero"},
		{hashdb.Digests(nil)[0], "digest of the empty file"},
		{parsed(t, hashdb.PDQ, strings.Repeat("0001", 16)), "16 of 256 bits set, far from the 128 of a real picture"},
		{parsed(t, hashdb.SHA1, strings.Repeat("f", 40)), "a placeholder: ff over and over"},
		{parsed(t, hashdb.SHA256, strings.Repeat("0123456789abcdef", 4)), "a placeholder: 0123456789abcdef over and over"},
		{parsed(t, hashdb.PHash, "a55aa55aa55aa55a"), "a placeholder: a55a over and over"},
		{digests[0], "digest of a file that everybody has: a line feed"},
		{digests[1], "digest of a file that everybody has: a line feed"},
		{digests[2], "digest of a file that everybody has: a line feed"},
		{own, "digest of a file that everybody has: one of this platform's own"},
		{parsed(t, hashdb.PHash, "0123456789abcde0"), "4 bits from a picture that everybody sends: one of this platform's own"},
	} {
		why, refused := screen.Refuse(test.hash)
		if !refused || why != test.why {
			t.Errorf("%s %s: %v %q, want %q", test.hash.Kind(), test.hash, refused, why, test.why)
		}
	}
	if why, refused := NewScreen().Refuse(own); refused {
		t.Errorf("another screen's own canary: %s", why)
	}
}

func BenchmarkScreen(b *testing.B) {
	screen := NewScreen()
	h := hashesOf(&drawn{120, 90, waves(1)})[0]
	for b.Loop() {
		if _, refused := screen.Refuse(h); refused {
			b.Fatal("refused")
		}
	}
}
