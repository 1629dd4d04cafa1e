package hashdb

import (
	"bytes"
	"crypto/md5"  //nolint:gosec // clearing houses list known files by MD5
	"crypto/sha1" //nolint:gosec // and by SHA-1
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"image"
	"math/bits"
	"strings"

	"github.com/corona10/goimagehash"
)

// Kind says by which function a hash was made. The set is closed, and its order is
// that of certainty: a match by an earlier kind is the stronger evidence.
type Kind uint8

const (
	// SHA256 is a digest of a file's bytes and matches exactly.
	SHA256 Kind = iota + 1
	// SHA1 is a digest too.
	SHA1
	// MD5 is a digest too, and the easiest to make collide.
	MD5
	// PDQ is the 256-bit hash of package pdq and matches within 31 bits.
	PDQ
	// PHash is goimagehash's 64-bit perception hash. It matches within 6 bits, and a match is
	// only a hint for a person: 64 bits tell pictures apart far less surely than 256.
	PHash
)

type kindFacts struct {
	name      string
	algorithm string
	size      int // bytes
	threshold int // bits: the default, and the most a list may ask for
}

var kinds = [...]kindFacts{
	SHA256: {"sha256", "sha256-fips180-4", sha256.Size, 0},
	SHA1:   {"sha1", "sha1-fips180-4", sha1.Size, 0},
	MD5:    {"md5", "md5-rfc1321", md5.Size, 0},
	PDQ:    {"pdq", "pdq-nn512-v1", 32, 31},
	PHash:  {"phash", "goimagehash-v1.1.0", 8, 6},
}

func (k Kind) facts() (kindFacts, bool) {
	if k == 0 || int(k) >= len(kinds) {
		return kindFacts{}, false
	}
	return kinds[k], true
}

// Kinds returns every kind, the most certain first.
func Kinds() []Kind { return []Kind{SHA256, SHA1, MD5, PDQ, PHash} }

// ParseKind reads a name that [Kind.String] writes.
func ParseKind(name string) (Kind, error) {
	for _, k := range Kinds() {
		if kinds[k].name == name {
			return k, nil
		}
	}
	return 0, fmt.Errorf("unknown hash kind %q: want one of md5, sha1, sha256, pdq, phash", clip(name))
}

// String returns md5, sha1, sha256, pdq or phash.
func (k Kind) String() string {
	if f, ok := k.facts(); ok {
		return f.name
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// MarshalText writes the kind's name.
func (k Kind) MarshalText() ([]byte, error) {
	f, ok := k.facts()
	if !ok {
		return nil, fmt.Errorf("no hash kind has number %d", uint8(k))
	}
	return []byte(f.name), nil
}

// UnmarshalText reads the kind's name.
func (k *Kind) UnmarshalText(text []byte) error {
	parsed, err := ParseKind(string(text))
	if err != nil {
		return err
	}
	*k = parsed
	return nil
}

// Algorithm names the function and its version, for hashes that outlive the program:
// hashes of one kind but different algorithms must not be compared. A PDQ hash is
// taken to be made in mode nn512; other modes name themselves.
func (k Kind) Algorithm() string {
	f, _ := k.facts()
	return f.algorithm
}

// Size returns the length of a hash in bytes.
func (k Kind) Size() int {
	if int(k) >= len(kinds) {
		return 0
	}
	return kinds[k].size
}

// Threshold returns the largest distance in bits at which two hashes of the kind
// match: what lists get by default and at most.
func (k Kind) Threshold() int {
	f, _ := k.facts()
	return f.threshold
}

// Hash is a hash of any kind. It is comparable; the zero value is no hash.
type Hash struct {
	kind  Kind
	bytes [32]byte // the kind's size of them, then zeros
}

// NewHash takes the bytes of a hash in the order of its hexadecimal form; of a
// pdq.Hash h they are h[:].
func NewHash(kind Kind, b []byte) (Hash, error) {
	f, ok := kind.facts()
	if !ok {
		return Hash{}, fmt.Errorf("no hash kind has number %d", uint8(kind))
	}
	if len(b) != f.size {
		return Hash{}, fmt.Errorf("%s hash: %d bytes, want %d", kind, len(b), f.size)
	}
	h := Hash{kind: kind}
	copy(h.bytes[:], b)
	return h, nil
}

// ParseHash reads hexadecimal digits in either case, of exactly the kind's size.
func ParseHash(kind Kind, text string) (Hash, error) {
	f, ok := kind.facts()
	if !ok {
		return Hash{}, fmt.Errorf("no hash kind has number %d", uint8(kind))
	}
	if len(text) != hex.EncodedLen(f.size) {
		return Hash{}, fmt.Errorf("%s hash: %d characters, want %d hexadecimal digits", kind, len(text), hex.EncodedLen(f.size))
	}
	h := Hash{kind: kind}
	if _, err := hex.Decode(h.bytes[:], []byte(text)); err != nil {
		return Hash{}, fmt.Errorf("%s hash: %w", kind, err)
	}
	return h, nil
}

// Kind returns the hash's kind.
func (h Hash) Kind() Kind { return h.kind }

// Bytes returns a copy of the hash's bytes.
func (h Hash) Bytes() []byte { return bytes.Clone(h.bytes[:h.kind.Size()]) }

// String returns lower-case hexadecimal digits.
func (h Hash) String() string { return hex.EncodeToString(h.bytes[:h.kind.Size()]) }

// words returns the hash as machine words; only their bits matter, not their order.
func (h *Hash) words() [4]uint64 {
	var w [4]uint64
	for i := range w {
		w[i] = binary.LittleEndian.Uint64(h.bytes[8*i:])
	}
	return w
}

func (h *Hash) weight() int {
	n := 0
	for _, w := range h.words() {
		n += bits.OnesCount64(w)
	}
	return n
}

// Unfit says why a hash must not stand in a list, or "". Entries mostly come without
// the quality of the picture they were made from, so blank pictures and empty files have to
// be told by the hash: they would match everyone's.
func (h Hash) Unfit() string {
	if h.bytes == ([32]byte{}) {
		return "all zero"
	}
	switch h {
	case emptySHA256, emptySHA1, emptyMD5:
		return "digest of the empty file"
	}
	switch h.kind {
	case PDQ:
		if w := h.weight(); w < 96 || w > 160 {
			return fmt.Sprintf("%d of 256 bits set, far from the 128 of a real picture", w)
		}
	case PHash:
		if w := h.weight(); w < 16 || w > 48 {
			return fmt.Sprintf("%d of 64 bits set, far from the 32 of a real picture", w)
		}
	default: // every value of a digest is as likely as any other
	}
	return ""
}

var (
	empty       = Digests(nil)
	emptySHA256 = empty[0]
	emptySHA1   = empty[1]
	emptyMD5    = empty[2]
)

// Digests returns the SHA-256, SHA-1 and MD5 digests of a file, in this order, in one pass.
func Digests(data []byte) [3]Hash {
	// A part stays in the first cache while three functions read it.
	const chunk = 16 << 10
	s256, s1, m5 := sha256.New(), sha1.New(), md5.New() //nolint:gosec // see the imports
	for part := data; len(part) > 0; {
		n := min(chunk, len(part))
		s256.Write(part[:n])
		s1.Write(part[:n])
		m5.Write(part[:n])
		part = part[n:]
	}
	out := [3]Hash{{kind: SHA256}, {kind: SHA1}, {kind: MD5}}
	s256.Sum(out[0].bytes[:0])
	s1.Sum(out[1].bytes[:0])
	m5.Sum(out[2].bytes[:0])
	return out
}

// Perception returns the 64-bit perception hash of a picture. It is dear (0.1 s of CPU for
// 12 megapixels), so compute it only where [Set.Has] says that a list holds such hashes.
func Perception(img image.Image) (Hash, error) {
	if img == nil || img.Bounds().Empty() {
		return Hash{}, errors.New("perception hash: the picture is empty")
	}
	p, err := goimagehash.PerceptionHash(img)
	if err != nil {
		return Hash{}, fmt.Errorf("perception hash: %w", err)
	}
	h := Hash{kind: PHash}
	binary.BigEndian.PutUint64(h.bytes[:], p.GetHash())
	return h, nil
}

// clip shortens foreign text for an error message.
func clip(s string) string {
	const most = 40
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
