package state

import "github.com/dmguard/dmguard/pipeline"

// lru keeps the conversations used last, within a number of entries and of
// bytes. It is not safe for concurrent use.
type lru struct {
	maxEntries int
	maxBytes   int64

	entries map[string]*entry
	bytes   int64
	head    entry // of a ring: head.next was used last, head.prev longest ago
}

// entry is one conversation. Its fields beyond the ring's are its user's.
type entry struct {
	prev, next *entry

	id    string
	epoch int32
	dirty bool // not written anywhere else
	size  int64
	state pipeline.Conversation
}

// entryOverhead is what an entry takes beside its id and encoded state: the
// entry, its slot in the map, and the decoded form's headers.
const entryOverhead = 400

func newLRU(maxEntries int, maxBytes int64) *lru {
	l := &lru{maxEntries: maxEntries, maxBytes: maxBytes, entries: map[string]*entry{}}
	l.head.prev, l.head.next = &l.head, &l.head
	return l
}

func unlink(e *entry) {
	e.prev.next, e.next.prev = e.next, e.prev
}

func (l *lru) toFront(e *entry) {
	e.prev, e.next = &l.head, l.head.next
	e.prev.next, e.next.prev = e, e
}

// find returns the entry of id, now the last used, or nil.
func (l *lru) find(id string) *entry {
	e := l.entries[id]
	if e != nil && l.head.next != e {
		unlink(e)
		l.toFront(e)
	}
	return e
}

// put sets the state of id, whose encoding takes size bytes.
func (l *lru) put(id string, state pipeline.Conversation, size int) *entry {
	e := l.find(id)
	if e == nil {
		e = &entry{id: id}
		l.entries[id] = e
		l.toFront(e)
	}
	l.bytes -= e.size
	e.size = int64(size+len(id)) + entryOverhead
	l.bytes += e.size
	e.state = state
	return e
}

func (l *lru) remove(e *entry) {
	unlink(e)
	delete(l.entries, e.id)
	l.bytes -= e.size
}

// evict removes and returns the entry used longest ago, or nil while all fit.
func (l *lru) evict() *entry {
	if len(l.entries) <= l.maxEntries && l.bytes <= l.maxBytes {
		return nil
	}
	e := l.head.prev
	if e == &l.head {
		return nil
	}
	l.remove(e)
	return e
}

// later reports whether a replaces b: unless both are of one partition, where
// the greater offset stays.
func later(a, b *pipeline.Conversation) bool {
	return b.IsZero() || a.Partition != b.Partition || a.Offset >= b.Offset
}
