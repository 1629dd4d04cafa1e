package evaluation

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// template is a short phrase with alternatives and slots: (a|b) is one of both,
// [a|b] one of both or nothing, {slot} a filler. Groups nest and may be part of
// a word. It is the syntax of the rule packs with slots and without gaps.
type template struct {
	source string
	root   sequence
}

// sequence is what follows one another; choice is what excludes one another.
type (
	sequence []part
	choice   []sequence
)

// part is one piece of a sequence: a text, a slot or a choice.
type part struct {
	text   string
	slot   string
	choice choice
}

const maxDepth = 8

func parseTemplate(s string) (*template, error) {
	p := templateParser{rest: s}
	root, err := p.sequence(0)
	if err == nil && p.rest != "" {
		err = fmt.Errorf("%q closes nothing", p.rest[:1])
	}
	if err == nil && strings.TrimSpace(s) == "" {
		err = errors.New("a phrase is empty")
	}
	if err != nil {
		return nil, fmt.Errorf("phrase %q: %w", s, err)
	}
	return &template{source: s, root: root}, nil
}

type templateParser struct{ rest string }

func (p *templateParser) sequence(depth int) (sequence, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("groups are nested more than %d deep", maxDepth)
	}
	var out sequence
	for p.rest != "" {
		n := strings.IndexAny(p.rest, "()[]{}|*")
		if n != 0 {
			if n < 0 {
				n = len(p.rest)
			}
			out = append(out, part{text: p.rest[:n]})
			p.rest = p.rest[n:]
			continue
		}
		switch open := p.rest[0]; open {
		case '(', '[':
			p.rest = p.rest[1:]
			c, err := p.choice(open, depth)
			if err != nil {
				return nil, err
			}
			out = append(out, part{choice: c})
		case '{':
			name, rest, ok := strings.Cut(p.rest[1:], "}")
			if !ok || name == "" || strings.ContainsAny(name, "()[]{|* ") {
				return nil, errors.New("a slot is written {name}")
			}
			out = append(out, part{slot: name})
			p.rest = rest
		case '|':
			if depth == 0 {
				return nil, errors.New("| stands outside of a group")
			}
			return out, nil
		case '*':
			return nil, errors.New("* is for phrases that are looked for, not for those that are written")
		default:
			if depth == 0 {
				return nil, fmt.Errorf("%q closes nothing", open)
			}
			return out, nil
		}
	}
	return out, nil
}

func (p *templateParser) choice(open byte, depth int) (choice, error) {
	var out choice
	if open == '[' {
		out = append(out, nil)
	}
	for {
		s, err := p.sequence(depth + 1)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
		if p.rest == "" {
			return nil, fmt.Errorf("%q is not closed", open)
		}
		end := p.rest[0]
		p.rest = p.rest[1:]
		switch {
		case end == '|':
		case open == '(' && end == ')', open == '[' && end == ']':
			return out, nil
		default:
			return nil, fmt.Errorf("%q is closed by %q", open, end)
		}
	}
}

// slots returns the names of its slots.
func (t *template) slots() []string {
	var names []string
	t.root.walk(func(slot string) { names = append(names, slot) })
	slices.Sort(names)
	return slices.Compact(names)
}

func (s sequence) walk(f func(slot string)) {
	for _, p := range s {
		if p.slot != "" {
			f(p.slot)
		}
		for _, c := range p.choice {
			c.walk(f)
		}
	}
}

// render writes one of the things that the template may stand for.
func (t *template) render(r *rand.Rand, fill func(slot string) string) string {
	var b strings.Builder
	t.root.render(&b, r, fill)
	return strings.Join(strings.Fields(b.String()), " ")
}

func (s sequence) render(b *strings.Builder, r *rand.Rand, fill func(slot string) string) {
	for _, p := range s {
		switch {
		case p.slot != "":
			b.WriteString(fill(p.slot))
		case p.choice != nil:
			p.choice[r.IntN(len(p.choice))].render(b, r, fill)
		default:
			b.WriteString(p.text)
		}
	}
}
