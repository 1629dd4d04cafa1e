package evaluation

import (
	"strings"
)

// gramWords is how many words in a row count as the same words again.
const gramWords = 8

// Leak is how much of what one side says the other says as well.
type Leak struct {
	Grams  int     // of the test side
	Shared int     // that the train side has too
	Share  float64 // of Grams
}

// leak compares the risk turns and scripts of generated conversations, without
// noise: eight words in a row, or a whole line that has four to seven. Shorter
// ones everybody says.
func leak(d *Data, seed uint64, conversations int) (Leak, error) {
	grams := map[Split]map[string]bool{}
	for _, split := range []Split{Train, Test} {
		g, err := NewGenerator(d, Options{Seed: seed, Split: split})
		if err != nil {
			return Leak{}, err
		}
		grams[split] = map[string]bool{}
		for i := range conversations {
			for _, t := range g.draft(i).turns {
				if t.wording != "" {
					addGrams(grams[split], t.text)
				}
			}
		}
	}
	l := Leak{Grams: len(grams[Test])}
	for gram := range grams[Test] {
		if grams[Train][gram] {
			l.Shared++
		}
	}
	l.Share = float64(l.Shared) / float64(max(1, l.Grams))
	return l, nil
}

func addGrams(to map[string]bool, text string) {
	words := strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return strings.ContainsRune(" .,!?;:\"'’", r) })
	if len(words) >= gramWords/2 && len(words) < gramWords {
		to[strings.Join(words, " ")] = true
	}
	for i := 0; i+gramWords <= len(words); i++ {
		to[strings.Join(words[i:i+gramWords], " ")] = true
	}
}
