package kafka

import (
	"math/rand/v2"
	"testing"
)

func TestThePositionMovesOnlyOverWhatIsDone(t *testing.T) {
	tr := newTracker(10)
	a, b, c := tr.add(10, 1), tr.add(11, 2), tr.add(15, 4) // 12 to 14 do not exist
	for _, step := range []struct {
		name string
		do   func()
		pos  int64
		live int
		size int64
		held int
	}{
		{"nothing done", func() {}, 10, 3, 7, 3},
		{"the second is done", func() { tr.done(b) }, 10, 2, 5, 3},
		{"the second is done again", func() { tr.done(b) }, 10, 2, 5, 3},
		{"the first is done", func() { tr.done(a) }, 12, 1, 4, 1},
		{"the first is done again", func() { tr.done(a) }, 12, 1, 4, 1},
		{"one that was never added is done", func() { tr.done(c + 1) }, 12, 1, 4, 1},
		{"nothing lies up to 20", func() { tr.skip(20) }, 12, 1, 4, 1},
		{"the third is done", func() { tr.done(c) }, 20, 0, 0, 0},
		{"nothing lies up to 30", func() { tr.skip(30) }, 30, 0, 0, 0},
		{"nothing lies up to 25", func() { tr.skip(25) }, 30, 0, 0, 0},
	} {
		step.do()
		live, size, held := tr.load()
		if pos := tr.position(); pos != step.pos || live != step.live || size != step.size || held != step.held {
			t.Errorf("%s: position %d, %d live, %d bytes, %d held; want %d, %d, %d, %d",
				step.name, pos, live, size, held, step.pos, step.live, step.size, step.held)
		}
	}
}

func TestAReportAfterTheEndOfItsGenerationIsIgnored(t *testing.T) {
	tr := newTracker(0)
	seq := tr.add(0, 1)
	if pos := tr.close(); pos != 0 {
		t.Fatalf("position %d", pos)
	}
	tr.done(seq)
	if pos, late := tr.position(), tr.lateReports(); pos != 0 || late != 1 {
		t.Errorf("position %d and %d late reports, want 0 and 1", pos, late)
	}
}

func TestWhatWasNeverHandedOutIsTakenBack(t *testing.T) {
	tr := newTracker(0)
	a := tr.add(0, 1)
	b := tr.add(1, 1)
	tr.add(2, 1)
	tr.retract(b)
	if live, size, held := tr.load(); live != 1 || size != 1 || held != 1 {
		t.Errorf("%d live, %d bytes, %d held", live, size, held)
	}
	tr.done(a)
	if pos := tr.position(); pos != 1 {
		t.Errorf("position %d, want 1", pos)
	}
}

// FuzzTrackerAgainstAModel runs random histories beside the simplest thing that
// could be right.
func FuzzTrackerAgainstAModel(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(seed, 200)
	}
	f.Fuzz(func(t *testing.T, seed uint64, steps int) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		start := rnd.Int64N(100)
		tr := newTracker(start)
		type record struct {
			seq          uint64
			offset, next int64
			bytes        int
			done         bool
		}
		var model []record
		next := start
		for range min(max(steps, 0), 2000) {
			switch rnd.IntN(8) {
			case 0, 1, 2:
				next += rnd.Int64N(3)
				n := rnd.IntN(100)
				model = append(model, record{seq: tr.add(next, n), offset: next, next: next + 1, bytes: n})
				next++
			case 3, 4, 5:
				if len(model) > 0 {
					i := rnd.IntN(len(model))
					model[i].done = true
					tr.done(model[i].seq)
				}
			case 6:
				next += rnd.Int64N(5)
				tr.skip(next)
				if n := len(model); n > 0 {
					model[n-1].next = next
				}
			case 7:
				if n := len(model); n > 0 && !model[n-1].done {
					next = model[n-1].offset
					tr.retract(model[n-1].seq)
					model = model[:n-1]
				}
			}
			pos := start
			live, size := 0, int64(0)
			contiguous := true
			for _, r := range model {
				if !r.done {
					live++
					size += int64(r.bytes)
					contiguous = false
				}
				if contiguous {
					pos = r.next
				}
			}
			if len(model) == 0 {
				pos = tr.position() // skips before the first record are tested elsewhere
				if pos > next {
					t.Fatalf("position %d is beyond %d", pos, next)
				}
				start = pos
			}
			gotLive, gotSize, _ := tr.load()
			if tr.position() != pos || gotLive != live || gotSize != size {
				t.Fatalf("position %d, %d live, %d bytes; want %d, %d, %d", tr.position(), gotLive, gotSize, pos, live, size)
			}
		}
	})
}
