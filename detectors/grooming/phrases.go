package grooming

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// phraseAutomaton finds all of many runs of words in one pass (Aho and Corasick
// 1975). Its letters are words: one look-up a word says whether any phrase holds
// it, and most words end there. Words are known by a hash of 64 bits. It is
// immutable.
type phraseAutomaton struct {
	words []knownWord // a power of two of slots, never full
	shift int

	// nodes are by state, one more than there are: the edges of state s are from
	// nodes[s].edges up to nodes[s+1].edges, by word. State 0 is the root, whose
	// edges are in words.
	nodes []phraseNode
	edges []phraseEdge

	outs []uint32 // values of patterns
}

// knownWord is a word that a phrase holds.
type knownWord struct {
	hash uint64
	id   uint32 // 0 in an empty slot
	root uint32 // the state behind it at the root, with accepting
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

// step returns the state after a word, and whether patterns end there. steps
// counts the states that were looked at.
func (a *phraseAutomaton) step(state uint32, hash uint64, steps *int) (uint32, bool) {
	var w *knownWord
	for at := mix(hash) >> a.shift; ; at = (at + 1) & uint64(len(a.words)-1) {
		if w = &a.words[at]; w.hash == hash {
			break
		}
		if w.id == 0 {
			return 0, false
		}
	}
	if w.id == 0 {
		return 0, false
	}
	for state != 0 {
		*steps++
		if to, ok := a.child(state, w.id); ok {
			return to &^ accepting, to&accepting != 0
		}
		state = a.nodes[state].fail
	}
	return w.root &^ accepting, w.root&accepting != 0
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

// phraseHash continues the hash of a word, which begins with fnvOffset.
func phraseHash(h uint64, c byte) uint64 { return (h ^ uint64(c)) * fnvPrime }

// phraseBuilder is the tree of all beginnings of patterns.
type phraseBuilder struct {
	ids   map[string]uint32 // of words, from 1
	tree  map[uint64]uint32 // state<<32 | word → state
	nodes []builtNode
	outs  [][]uint32 // by state
}

type builtNode struct{ parent, word, depth, fail uint32 }

// newPhraseAutomaton makes one from patterns: folded words with spaces between
// them.
func newPhraseAutomaton(patterns []string, values []uint32) (*phraseAutomaton, error) {
	b := phraseBuilder{ids: map[string]uint32{}, tree: map[uint64]uint32{}, nodes: make([]builtNode, 1), outs: make([][]uint32, 1)}
	for i, p := range patterns {
		if err := b.add(p, values[i]); err != nil {
			return nil, err
		}
	}
	b.link()
	return b.flatten()
}

func (b *phraseBuilder) add(pattern string, value uint32) error {
	state := uint32(0)
	for word := range strings.SplitSeq(pattern, " ") {
		if word == "" {
			continue
		}
		id, ok := b.ids[word]
		if !ok {
			id = uint32(len(b.ids) + 1)
			b.ids[strings.Clone(word)] = id
		}
		key := uint64(state)<<32 | uint64(id)
		child, ok := b.tree[key]
		if !ok {
			if len(b.nodes) >= maxStates {
				return fmt.Errorf("phrases need more than %d states: use fewer alternatives", maxStates)
			}
			child = uint32(len(b.nodes))
			b.tree[key] = child
			b.nodes = append(b.nodes, builtNode{parent: state, word: id, depth: b.nodes[state].depth + 1})
			b.outs = append(b.outs, nil)
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
			if to, ok := b.tree[uint64(f)<<32|uint64(n.word)]; ok {
				n.fail = to
				break
			}
			if f == 0 {
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

func (b *phraseBuilder) flatten() (*phraseAutomaton, error) {
	mark := func(s uint32) uint32 {
		if len(b.outs[s]) > 0 {
			return s | accepting
		}
		return s
	}
	a := &phraseAutomaton{shift: 63}
	for 1<<(64-a.shift) < 2*len(b.ids) {
		a.shift--
	}
	a.words = make([]knownWord, 1<<(64-a.shift))
	for word, id := range b.ids {
		hash := uint64(fnvOffset)
		for i := range len(word) {
			hash = phraseHash(hash, word[i])
		}
		at := mix(hash) >> a.shift
		for ; a.words[at].id != 0; at = (at + 1) & uint64(len(a.words)-1) {
			if a.words[at].hash == hash {
				return nil, fmt.Errorf("the words %q and one other have the same hash", word)
			}
		}
		a.words[at] = knownWord{hash: hash, id: id, root: mark(b.tree[uint64(id)])}
	}
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
		for ; len(inner) > 0 && b.nodes[inner[0]].parent == uint32(s); inner = inner[1:] {
			a.edges = append(a.edges, phraseEdge{word: b.nodes[inner[0]].word, to: mark(inner[0])})
		}
	}
	a.nodes[len(b.nodes)] = phraseNode{edges: uint32(len(a.edges)), outs: uint32(len(a.outs))}
	return a, nil
}
