package kafka

import "sync"

// A tracker knows which records of one partition are in flight in one
// generation, and how far everything is done without a hole.
//
// Only the partition's fetch loop adds; anybody may report a record done.
type tracker struct {
	mu      sync.Mutex
	entries []entry // in flight and, after a record in flight, done; a ring
	head    int     // index of the oldest entry
	count   int     // entries in use
	first   uint64  // sequence number of the oldest entry
	pos     int64   // everything below is done
	live    int     // entries not done
	bytes   int64   // of the entries not done
	closed  bool
	late    int64         // reports that came after close
	freed   chan struct{} // holds a token after something was done
}

type entry struct {
	next  int64 // position once this and all before it are done
	bytes int32
	done  bool
}

// newTracker tracks from pos on.
func newTracker(pos int64) *tracker {
	return &tracker{pos: pos, freed: make(chan struct{}, 1)}
}

func (t *tracker) at(i int) *entry {
	i += t.head
	if i >= len(t.entries) {
		i -= len(t.entries)
	}
	return &t.entries[i]
}

// add puts the record at offset in flight and returns its sequence number for
// [tracker.done]. Offsets rise, but may have holes.
func (t *tracker) add(offset int64, bytes int) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.count == len(t.entries) {
		grown := make([]entry, max(64, 2*len(t.entries)))
		for i := range t.count {
			grown[i] = *t.at(i)
		}
		t.entries, t.head = grown, 0
	}
	t.count++
	*t.at(t.count - 1) = entry{next: offset + 1, bytes: int32(bytes)}
	t.live++
	t.bytes += int64(bytes)
	return t.first + uint64(t.count-1)
}

// skip says that nothing lies between the last record added and next.
func (t *tracker) skip(next int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.count == 0 {
		t.pos = max(t.pos, next)
	} else if e := t.at(t.count - 1); e.next < next {
		e.next = next
	}
}

// done reports that a record needs no more work. A second report, and one after
// close, change nothing.
func (t *tracker) done(seq uint64) {
	t.mu.Lock()
	if t.closed {
		t.late++
		t.mu.Unlock()
		return
	}
	if seq < t.first || seq-t.first >= uint64(t.count) || t.at(int(seq-t.first)).done {
		t.mu.Unlock()
		return
	}
	e := t.at(int(seq - t.first))
	e.done = true
	t.live--
	t.bytes -= int64(e.bytes)
	for t.count > 0 && t.at(0).done {
		t.pos = t.at(0).next
		t.head++
		if t.head == len(t.entries) {
			t.head = 0
		}
		t.first++
		t.count--
	}
	t.mu.Unlock()
	select {
	case t.freed <- struct{}{}:
	default:
	}
}

// retract takes back the records from seq on: they were added but never handed
// to anybody.
func (t *tracker) retract(seq uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.count > 0 && t.first+uint64(t.count-1) >= seq {
		if e := t.at(t.count - 1); !e.done {
			t.live--
			t.bytes -= int64(e.bytes)
		}
		t.count--
	}
}

// close makes the position final and returns it.
func (t *tracker) close() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	return t.pos
}

// position returns the offset below which everything is done.
func (t *tracker) position() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pos
}

// load returns how many records are not done, their bytes, and how many entries
// wait, done or not, for the oldest one.
func (t *tracker) load() (live int, bytes int64, held int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.live, t.bytes, t.count
}

func (t *tracker) lateReports() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.late
}
