package pdq

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/bits"
)

// Size is the length of a hash in bytes.
const Size = 32

// Hash is a PDQ hash: 256 bits, the most significant first, in the order of
// its hexadecimal form. Bit 16*i+j, counted from the least significant, says
// whether the coefficient in row i and column j lies above the median.
type Hash [Size]byte

// Parse reads the 64 hexadecimal digits that [Hash.String] writes, in either case.
func Parse(text string) (Hash, error) {
	var h Hash
	if len(text) != hex.EncodedLen(Size) {
		return Hash{}, fmt.Errorf("parse pdq hash: %d characters, want %d hexadecimal digits", len(text), hex.EncodedLen(Size))
	}
	if _, err := hex.Decode(h[:], []byte(text)); err != nil {
		return Hash{}, fmt.Errorf("parse pdq hash: %w", err)
	}
	return h, nil
}

// String returns 64 lower-case hexadecimal digits.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// Distance returns the number of bits, 0 to 256, in which two hashes differ.
func (h Hash) Distance(other Hash) int {
	d := 0
	for i := 0; i < Size; i += 8 {
		d += bits.OnesCount64(binary.LittleEndian.Uint64(h[i:]) ^ binary.LittleEndian.Uint64(other[i:]))
	}
	return d
}

// set turns on the bit for the coefficient in row i and column j.
func (h *Hash) set(i, j int) {
	k := 16*i + j
	h[Size-1-k/8] |= 1 << (k % 8)
}
