package lists

import (
	_ "embed"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strings"
	"sync"

	"github.com/dmguard/dmguard/hashdb"
)

// canaries are hashes of pictures and files that everybody sends, drawn by this package's tests: a name a line, then
// hashes as kind:hexadecimal. PDQ hashes are those of all orientations of a picture.
//
//go:embed canaries.txt
var canaries string

// Screen refuses hashes that would match what everybody sends: blank pages, gradients, checkerboards, test charts,
// simple drawings, pages of text, near-empty files, and placeholders that stand where no hash was known. Any number of
// goroutines may use it.
//
// A perceptual hash is refused where it would match a canary in any orientation at the largest threshold of its kind,
// a digest where it is that of a canary. A PDQ hash takes about 5 µs.
//
// It knows examples, not kinds: half of the PDQ bits of a drawing that is symmetric come from how its edges fall on
// pixels, so that the same drawing in another size may pass. No canary that comes with the program is a perception hash,
// whose matches ask a person in any case. What passes is held to account by [Governor].
type Screen struct {
	exact map[hashdb.Hash]string // names by digest
	pdq   []screened[[4]uint64]
	phash []screened[uint64]
}

// screened is a perceptual hash that entries must not come near to.
type screened[T any] struct {
	words T
	name  string
}

// bundled is the screen of what comes with the program.
var bundled = sync.OnceValue(func() *Screen {
	s := &Screen{exact: make(map[hashdb.Hash]string)}
	for line := range strings.Lines(canaries) {
		fields := strings.Fields(line)
		for _, field := range fields[1:] {
			kind, digits, _ := strings.Cut(field, ":")
			k, err := hashdb.ParseKind(kind)
			if err != nil {
				panic("canaries.txt: " + err.Error())
			}
			h, err := hashdb.ParseHash(k, digits)
			if err != nil {
				panic("canaries.txt: " + err.Error())
			}
			s.add(h, strings.ReplaceAll(fields[0], "_", " "))
		}
	}
	return s
})

// NewScreen returns the screen of the canaries that come with the program, and of more hashes of pictures and files
// that no list may match, such as a platform's own stickers.
func NewScreen(extra ...hashdb.Hash) *Screen {
	all := bundled()
	s := &Screen{exact: maps.Clone(all.exact), pdq: slices.Clip(all.pdq), phash: slices.Clip(all.phash)}
	for _, h := range extra {
		s.add(h, "one of this platform's own")
	}
	return s
}

func (s *Screen) add(h hashdb.Hash, name string) {
	switch b := h.Bytes(); h.Kind() {
	case hashdb.PDQ:
		s.pdq = append(s.pdq, screened[[4]uint64]{quarters(b), name})
	case hashdb.PHash:
		s.phash = append(s.phash, screened[uint64]{binary.BigEndian.Uint64(b), name})
	default:
		s.exact[h] = name
	}
}

func quarters(b []byte) (w [4]uint64) {
	for i := range w {
		w[i] = binary.BigEndian.Uint64(b[8*i:])
	}
	return w
}

// Refuse says whether a hash must not stand in a list, and why. Among these reasons are those of [hashdb.Hash.Unfit].
func (s *Screen) Refuse(h hashdb.Hash) (why string, refused bool) {
	if h == (hashdb.Hash{}) {
		return "no hash", true
	}
	if why := h.Unfit(); why != "" {
		return why, true
	}
	b := h.Bytes()
	if n := period(b); n > 0 {
		return fmt.Sprintf("a placeholder: %s over and over", hex.EncodeToString(b[:n])), true
	}
	switch most := h.Kind().Threshold(); h.Kind() {
	case hashdb.PDQ:
		w := quarters(b)
		for i := range s.pdq {
			c := &s.pdq[i].words
			d := bits.OnesCount64(w[0]^c[0]) + bits.OnesCount64(w[1]^c[1])
			if d > most {
				continue // nearly all, by then
			}
			if d += bits.OnesCount64(w[2]^c[2]) + bits.OnesCount64(w[3]^c[3]); d <= most {
				return near(s.pdq[i].name, d), true
			}
		}
	case hashdb.PHash:
		w := binary.BigEndian.Uint64(b)
		for i := range s.phash {
			if d := bits.OnesCount64(w ^ s.phash[i].words); d <= most {
				return near(s.phash[i].name, d), true
			}
		}
	default:
		if name, known := s.exact[h]; known {
			return "digest of a file that everybody has: " + name, true
		}
	}
	return "", false
}

func near(name string, distance int) string {
	return fmt.Sprintf("%d bits from a picture that everybody sends: %s", distance, name)
}

// period returns the length in bytes of what a hash consists of, over and over, or 0. No hash function gives such
// a value in the lifetime of the universe, but people write them where they know none.
func period(b []byte) int {
	for n := 1; n <= len(b)/4; n *= 2 {
		same := true
		for i := n; i < len(b) && same; i++ {
			same = b[i] == b[i-n]
		}
		if same {
			return n
		}
	}
	return 0
}
