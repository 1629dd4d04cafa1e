package pipeline

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"slices"
)

// RecentMessages is how many earlier messages a conversation keeps the offsets
// of: what a reviewer may see before a piece of evidence.
const RecentMessages = 5

// seenIDs is how many message ids a conversation remembers, so that a message
// that the platform sent twice counts once.
const seenIDs = 8

// Conversation is what is remembered of one conversation: offsets, hashes of
// message ids, and what each detector keeps, never a text. The zero value
// remembers nothing. It is a value: nothing that it refers to is modified.
type Conversation struct {
	// Partition and Offset tag the state with the last record that it includes.
	// A record at or below the tag was judged already.
	Partition int32
	Offset    int64
	tagged    bool

	recent    []int64
	seen      []uint64
	detectors map[string][]byte
}

// Includes reports whether the record at p was judged into this state.
func (c *Conversation) Includes(p Position) bool {
	return c.tagged && c.Partition == p.Partition && p.Offset <= c.Offset
}

// IsZero reports whether nothing is remembered.
func (c *Conversation) IsZero() bool { return !c.tagged }

// begin returns what an item gets to see of the conversation.
func (c *Conversation) begin(it *Item) {
	if c.Partition == it.Position.Partition {
		it.Recent = c.recent
	}
	it.Repeat = slices.Contains(c.seen, idHash(it.Message.ID))
	it.state = c.detectors
}

// advance returns the state after item, with the new states of its detectors.
func (c Conversation) advance(it *Item, states map[string][]byte) Conversation {
	if c.Partition != it.Position.Partition {
		c.recent = nil
	}
	c.Partition, c.Offset, c.tagged = it.Position.Partition, it.Position.Offset, true
	c.recent = lastN(c.recent, it.Position.Offset, RecentMessages)
	if !it.Repeat {
		c.seen = lastN(c.seen, idHash(it.Message.ID), seenIDs)
	}
	if len(states) > 0 {
		c.detectors = maps.Clone(c.detectors)
		if c.detectors == nil {
			c.detectors = make(map[string][]byte, len(states))
		}
		for name, s := range states {
			if len(s) == 0 {
				delete(c.detectors, name)
			} else {
				c.detectors[name] = s
			}
		}
	}
	return c
}

// lastN returns a new slice of the last n values of s and v.
func lastN[T any](s []T, v T, n int) []T {
	if len(s) >= n {
		s = s[len(s)-n+1:]
	}
	out := make([]T, len(s)+1, n)
	copy(out, s)
	out[len(s)] = v
	return out
}

func idHash(id string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(id))
	return h.Sum64()
}

const conversationFormat = 1

// Limits of an encoded conversation.
const (
	maxDetectors    = 255
	maxDetectorName = 64
	maxState        = 1 << 20 // bytes that one detector remembers
)

// AppendBinary implements [encoding.BinaryAppender]: a format byte, partition,
// offset, recent offsets as differences from it, hashes of ids, and the states
// of detectors by name in order.
func (c *Conversation) AppendBinary(b []byte) ([]byte, error) {
	if c.Partition < 0 || c.Offset < 0 || len(c.detectors) > maxDetectors {
		return nil, fmt.Errorf("conversation state of %d detectors at partition %d, offset %d cannot be encoded", len(c.detectors), c.Partition, c.Offset)
	}
	b = append(b, conversationFormat)
	b = binary.AppendUvarint(b, uint64(uint32(c.Partition)))
	b = binary.AppendUvarint(b, uint64(c.Offset))
	b = append(b, byte(len(c.recent)))
	for _, o := range c.recent {
		b = binary.AppendUvarint(b, uint64(c.Offset-o))
	}
	b = append(b, byte(len(c.seen)))
	for _, s := range c.seen {
		b = binary.LittleEndian.AppendUint64(b, s)
	}
	b = append(b, byte(len(c.detectors)))
	for _, name := range slices.Sorted(maps.Keys(c.detectors)) {
		state := c.detectors[name]
		if len(name) > maxDetectorName || len(state) > maxState {
			return nil, fmt.Errorf("state of %d bytes of the detector %.64s cannot be encoded: at most %d bytes, and %d for its name", len(state), name, maxState, maxDetectorName)
		}
		b = binary.AppendUvarint(b, uint64(len(name)))
		b = append(b, name...)
		b = binary.AppendUvarint(b, uint64(len(state)))
		b = append(b, state...)
	}
	return b, nil
}

var errConversation = errors.New("conversation state is damaged or of another version")

// UnmarshalBinary implements [encoding.BinaryUnmarshaler]. It takes exactly
// what AppendBinary writes, and copies data.
func (c *Conversation) UnmarshalBinary(data []byte) error {
	r := stateReader{data: bytes.Clone(data)}
	if r.count(conversationFormat) != conversationFormat {
		return errConversation
	}
	out := Conversation{tagged: true}
	out.Partition = int32(uint32(r.uvarint(math.MaxInt32)))
	out.Offset = int64(r.uvarint(math.MaxInt64))
	for range r.count(RecentMessages) {
		out.recent = append(out.recent, out.Offset-int64(r.uvarint(uint64(out.Offset))))
	}
	for range r.count(seenIDs) {
		if s := r.bytes(8); s != nil {
			out.seen = append(out.seen, binary.LittleEndian.Uint64(s))
		}
	}
	if n := r.count(maxDetectors); n > 0 {
		out.detectors = make(map[string][]byte, n)
		last := ""
		for i := range n {
			name := string(r.bytes(int(r.uvarint(maxDetectorName))))
			if i > 0 && name <= last {
				return errConversation
			}
			last = name
			out.detectors[name] = r.bytes(int(r.uvarint(maxState)))
		}
	}
	if r.bad || len(r.data) != 0 {
		return errConversation
	}
	*c = out
	return nil
}

type stateReader struct {
	data []byte
	bad  bool
}

func (r *stateReader) bytes(n int) []byte {
	if r.bad || n > len(r.data) {
		r.bad = true
		return nil
	}
	out := r.data[:n:n]
	r.data = r.data[n:]
	return out
}

// count reads one byte that is at most limit.
func (r *stateReader) count(limit int) int {
	b := r.bytes(1)
	if b == nil || int(b[0]) > limit {
		r.bad = true
		return 0
	}
	return int(b[0])
}

func (r *stateReader) uvarint(limit uint64) uint64 {
	v, n := binary.Uvarint(r.data)
	if r.bad || n <= 0 || v > limit || n > 1 && r.data[n-1] == 0 {
		r.bad = true
		return 0
	}
	r.data = r.data[n:]
	return v
}
