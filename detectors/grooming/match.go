package grooming

import (
	"fmt"
	"slices"
)

// automaton finds all of many byte strings in one pass (Aho and Corasick 1975),
// as a flat table: one row a state, one column a class of bytes that no pattern
// tells apart. It is immutable.
type automaton struct {
	class [256]uint8
	width uint32

	// next holds for row+class the row to go to, with accepting set where
	// patterns end there.
	next []uint32

	first []uint32 // by state: where its outputs begin in outs; one entry more
	outs  []uint32 // values of patterns
}

const (
	accepting = 1 << 31

	// maxStates bounds the table of one automaton to some 60 MiB.
	maxStates = 400_000
)

// newAutomaton makes an automaton from patterns that have been passed through
// fold, a function that maps bytes to the letters of the patterns. Bytes that
// no pattern holds are one class.
func newAutomaton(patterns []string, values []uint32, fold func(byte) byte) (*automaton, error) {
	a := &automaton{}
	var letters [256]uint8
	a.width = 1
	for _, p := range patterns {
		for i := range len(p) {
			if letters[p[i]] == 0 {
				letters[p[i]] = uint8(a.width)
				a.width++
			}
		}
	}
	for c := range a.class {
		a.class[c] = letters[fold(byte(c))]
	}

	states := uint32(1)
	a.next = make([]uint32, a.width)
	own := map[uint32][]uint32{}
	for i, p := range patterns {
		s := uint32(0)
		for j := range len(p) {
			at := s*a.width + uint32(letters[p[j]])
			if a.next[at] == 0 {
				if states >= maxStates {
					return nil, fmt.Errorf("phrases need more than %d states: use fewer alternatives", maxStates)
				}
				a.next[at] = states
				states++
				a.next = append(a.next, make([]uint32, a.width)...)
			}
			s = a.next[at]
		}
		if !slices.Contains(own[s], values[i]) {
			own[s] = append(own[s], values[i])
		}
	}

	fail := make([]uint32, states)
	queue := make([]uint32, 0, states)
	for c := range a.width {
		if s := a.next[c]; s != 0 {
			queue = append(queue, s)
		}
	}
	for i := 0; i < len(queue); i++ {
		s := queue[i]
		f := fail[s]
		for _, v := range own[f] {
			if !slices.Contains(own[s], v) {
				own[s] = append(own[s], v)
			}
		}
		for c := range a.width {
			at := s*a.width + c
			if t := a.next[at]; t != 0 {
				fail[t] = a.next[f*a.width+c]
				queue = append(queue, t)
			} else {
				a.next[at] = a.next[f*a.width+c]
			}
		}
	}
	a.first = make([]uint32, states+1)
	for s := range states {
		a.first[s] = uint32(len(a.outs))
		a.outs = append(a.outs, own[s]...)
	}
	a.first[states] = uint32(len(a.outs))
	for i, s := range a.next {
		a.next[i] = s * a.width
		if a.first[s] != a.first[s+1] {
			a.next[i] |= accepting
		}
	}
	return a, nil
}

// step returns the row after reading c in row, and whether patterns end there.
func (a *automaton) step(row uint32, c byte) (uint32, bool) {
	n := a.next[row+uint32(a.class[c])]
	return n &^ accepting, n&accepting != 0
}

// outputs returns the values of the patterns that end at row.
func (a *automaton) outputs(row uint32) []uint32 {
	s := row / a.width
	return a.outs[a.first[s]:a.first[s+1]]
}
