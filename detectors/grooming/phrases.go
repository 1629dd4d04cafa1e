package grooming

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// phraseAutomaton finds all of many runs of words in one pass (Aho and Corasick
// 1975). Its letters are the words of a vocabulary, and the state behind a word
// at the root, 0, has the number of the word. It is immutable.
type phraseAutomaton struct {
	// nodes are by state, one more than there are: the edges of state s are from
	// nodes[s].edges up to nodes[s+1].edges, by word. The root has none.
	nodes []phraseNode
	edges []phraseEdge

	outs []uint32 // values of patterns, of each state those with conceptOutput first, then those with laterOutput
}

type phraseNode struct {
	edges uint32
	outs  uint32 // where its outputs begin, up to those of the next
	fail  uint32 // the longest other state that the text read so far ends with
}

type phraseEdge struct {
	word uint32
	to   uint32 // state, with accepting
}

// step returns the state after a word of phrases, and whether patterns end there.
// steps counts the states that were looked at. Words and states have accepting
// where patterns end.
func (a *phraseAutomaton) step(state, word uint32, steps *int) (uint32, bool) {
	for state != 0 {
		*steps++
		if to, ok := a.child(state, word&^accepting); ok {
			return to &^ accepting, to&accepting != 0
		}
		state = a.nodes[state].fail
	}
	return word &^ accepting, word&accepting != 0
}

// child returns the state behind a word, with accepting.
func (a *phraseAutomaton) child(state, word uint32) (uint32, bool) {
	edges := a.edges[a.nodes[state].edges:a.nodes[state+1].edges]
	for len(edges) > 8 {
		if half := len(edges) / 2; edges[half].word <= word {
			edges = edges[half:]
		} else {
			edges = edges[:half]
		}
	}
	for _, e := range edges {
		if e.word == word {
			return e.to, true
		}
	}
	return 0, false
}

// outputs returns the values of the patterns that end at a state.
func (a *phraseAutomaton) outputs(state uint32) []uint32 {
	return a.outs[a.nodes[state].outs:a.nodes[state+1].outs]
}

// phraseBuilder is the tree of all beginnings of patterns. Behind the root come
// the states of all words, whether a pattern begins with them or not.
type phraseBuilder struct {
	ids   map[string]uint32 // of words, from 1
	tree  map[uint64]uint32 // state<<32 | word → state, but for those of the root
	nodes []builtNode
	outs  [][]uint32 // by state
}

type builtNode struct{ parent, word, depth, fail uint32 }

// newPhraseAutomaton makes one from patterns, folded words with spaces between
// them, and returns the numbers of these words, with accepting.
func newPhraseAutomaton(patterns []string, values []uint32) (*phraseAutomaton, map[string]uint32, error) {
	b := phraseBuilder{ids: map[string]uint32{}, tree: map[uint64]uint32{}, nodes: make([]builtNode, 1), outs: make([][]uint32, 1)}
	for _, p := range patterns {
		for word := range strings.SplitSeq(p, " ") {
			if _, ok := b.ids[word]; !ok && word != "" {
				id := uint32(len(b.nodes))
				b.ids[strings.Clone(word)] = id
				b.grow(0, id)
			}
		}
	}
	for i, p := range patterns {
		if err := b.add(p, values[i]); err != nil {
			return nil, nil, err
		}
	}
	b.link()
	a := b.flatten()
	for word, id := range b.ids {
		b.ids[word] = b.mark(id)
	}
	return a, b.ids, nil
}

// grow adds a state behind another.
func (b *phraseBuilder) grow(state, word uint32) {
	b.nodes = append(b.nodes, builtNode{parent: state, word: word, depth: b.nodes[state].depth + 1})
	b.outs = append(b.outs, nil)
}

// child returns the state behind a word.
func (b *phraseBuilder) child(state, word uint32) (uint32, bool) {
	if state == 0 {
		return word, true
	}
	to, ok := b.tree[uint64(state)<<32|uint64(word)]
	return to, ok
}

func (b *phraseBuilder) add(pattern string, value uint32) error {
	state := uint32(0)
	for word := range strings.SplitSeq(pattern, " ") {
		if word == "" {
			continue
		}
		id := b.ids[word]
		child, ok := b.child(state, id)
		if !ok {
			if len(b.nodes) >= maxStates {
				return fmt.Errorf("phrases need more than %d states: use fewer alternatives", maxStates)
			}
			child = uint32(len(b.nodes))
			b.tree[uint64(state)<<32|uint64(id)] = child
			b.grow(state, id)
		}
		state = child
	}
	b.output(state, value)
	return nil
}

func (b *phraseBuilder) output(state, value uint32) {
	if !slices.Contains(b.outs[state], value) {
		b.outs[state] = append(b.outs[state], value)
	}
}

// link finds where each state fails to, from the root outwards, and what ends
// there with it.
func (b *phraseBuilder) link() {
	order := make([]uint32, len(b.nodes)-1)
	for i := range order {
		order[i] = uint32(i + 1)
	}
	slices.SortStableFunc(order, func(x, y uint32) int { return cmp.Compare(b.nodes[x].depth, b.nodes[y].depth) })
	for _, s := range order {
		n := &b.nodes[s]
		if n.parent == 0 {
			continue
		}
		for f := b.nodes[n.parent].fail; ; f = b.nodes[f].fail {
			if to, ok := b.child(f, n.word); ok {
				n.fail = to
				break
			}
		}
		if len(b.outs[s]) == 0 {
			b.outs[s] = b.outs[n.fail]
			continue
		}
		for _, v := range b.outs[n.fail] {
			b.output(s, v)
		}
	}
}

// mark returns a state with accepting where patterns end there.
func (b *phraseBuilder) mark(s uint32) uint32 {
	if len(b.outs[s]) > 0 {
		return s | accepting
	}
	return s
}

func (b *phraseBuilder) flatten() *phraseAutomaton {
	a := &phraseAutomaton{}
	inner := make([]uint32, 0, len(b.nodes))
	for s := 1; s < len(b.nodes); s++ {
		if b.nodes[s].parent != 0 {
			inner = append(inner, uint32(s))
		}
	}
	slices.SortFunc(inner, func(x, y uint32) int {
		p, q := &b.nodes[x], &b.nodes[y]
		return cmp.Or(cmp.Compare(p.parent, q.parent), cmp.Compare(p.word, q.word))
	})
	a.nodes = make([]phraseNode, len(b.nodes)+1)
	for s := range b.nodes {
		a.nodes[s] = phraseNode{edges: uint32(len(a.edges)), outs: uint32(len(a.outs)), fail: b.nodes[s].fail}
		a.outs = append(a.outs, b.outs[s]...)
		slices.SortStableFunc(a.outs[a.nodes[s].outs:], func(x, y uint32) int { return cmp.Compare(y>>30, x>>30) })
		for ; len(inner) > 0 && b.nodes[inner[0]].parent == uint32(s); inner = inner[1:] {
			a.edges = append(a.edges, phraseEdge{word: b.nodes[inner[0]].word, to: b.mark(inner[0])})
		}
	}
	a.nodes[len(b.nodes)] = phraseNode{edges: uint32(len(a.edges)), outs: uint32(len(a.outs))}
	return a
}
