package grooming

import (
	"fmt"
	"slices"
)

// automaton finds all of many byte strings in one pass (Aho and Corasick 1975),
// as a flat table: one row a state, one column a class of bytes that no pattern
// tells apart. It looks for what is disguised, where there are no words. It is
// immutable.
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

// newAutomaton makes an automaton from patterns. Bytes that no pattern holds are
// one class.
func newAutomaton(patterns []string, values []uint32) (*automaton, error) {
	a := &automaton{width: 1}
	letters := &a.class
	for _, p := range patterns {
		for i := range len(p) {
			if letters[p[i]] == 0 {
				letters[p[i]] = uint8(a.width)
				a.width++
			}
		}
	}
	t := newTrie()
	for i, p := range patterns {
		if err := t.add(p, letters, values[i]); err != nil {
			return nil, err
		}
	}

	// From the root outwards a state's row is that of the longest other state that its text ends with, but for
	// its own children. All that it ends with lies nearer to the root and is done.
	states := uint32(len(t.nodes))
	a.next = make([]uint32, states*a.width)
	if len(t.outs[0]) > 0 {
		for c := range a.width {
			a.next[c] = accepting
		}
	}
	fail := make([]uint32, states) // by state: the row of that other state
	queue := make([]uint32, 1, states)
	for i := 0; i < len(queue); i++ {
		s := queue[i]
		row := a.next[s*a.width : (s+1)*a.width]
		if s != 0 {
			copy(row, a.next[fail[s]:fail[s]+a.width])
		}
		for child := t.nodes[s].child; child != 0; child = t.nodes[child].sibling {
			at := &row[t.nodes[child].letter]
			f := *at &^ accepting
			fail[child] = f
			t.inherit(child, f/a.width)
			*at = child * a.width
			if len(t.outs[child]) > 0 {
				*at |= accepting
			}
			queue = append(queue, child)
		}
	}

	a.first = make([]uint32, 1, states+1)
	total := 0
	for _, outs := range t.outs {
		total += len(outs)
		a.first = append(a.first, uint32(total))
	}
	a.outs = make([]uint32, 0, total)
	for _, outs := range t.outs {
		a.outs = append(a.outs, outs...)
	}
	return a, nil
}

// trie is the tree of all beginnings of patterns. Node 0 is the root.
type trie struct {
	nodes []node
	outs  [][]uint32 // by node: the values of patterns that end there, each once

	last string   // the pattern that was added last
	path []uint32 // and the nodes of its beginnings
}

// node is a state. Its children are a list from the one that was added last; 0 ends it.
type node struct {
	child, sibling uint32
	letter         uint8
}

func newTrie() *trie {
	return &trie{nodes: make([]node, 1), outs: make([][]uint32, 1), path: []uint32{0}}
}

func (t *trie) add(p string, letters *[256]uint8, value uint32) error {
	// Variants of a phrase follow each other and share how they begin.
	n := 0
	for n < min(len(p), len(t.last)) && p[n] == t.last[n] {
		n++
	}
	t.last, t.path = p, t.path[:n+1]
	for _, b := range []byte(p[n:]) {
		s, letter := t.path[len(t.path)-1], letters[b]
		child := t.nodes[s].child
		for child != 0 && t.nodes[child].letter != letter {
			child = t.nodes[child].sibling
		}
		if child == 0 {
			if len(t.nodes) >= maxStates {
				return fmt.Errorf("phrases need more than %d states: use fewer alternatives", maxStates)
			}
			child = uint32(len(t.nodes))
			t.nodes = append(t.nodes, node{sibling: t.nodes[s].child, letter: letter})
			t.nodes[s].child = child
			t.outs = append(t.outs, nil)
		}
		t.path = append(t.path, child)
	}
	t.output(t.path[len(p)], value)
	return nil
}

func (t *trie) output(s, value uint32) {
	if !slices.Contains(t.outs[s], value) {
		t.outs[s] = append(t.outs[s], value)
	}
}

// inherit adds to the values of s those of from, which are complete.
func (t *trie) inherit(s, from uint32) {
	if len(t.outs[s]) == 0 {
		t.outs[s] = t.outs[from]
		return
	}
	for _, v := range t.outs[from] {
		t.output(s, v)
	}
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
