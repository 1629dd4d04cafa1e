package training

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/dmguard/dmguard/detectors/grooming"
)

// Summary says what came of a training. Its figures are of the texts of the test
// split, which are made up where the training texts are: they tell one model
// from another, not how well one does in the field.
type Summary struct {
	File     int `json:"bytes"`
	Rows     int `json:"rows"`
	Messages int `json:"trained_on"`

	// Leaked is how many texts of the test split read, folded or not, like one of
	// the training split.
	Leaked int `json:"test_texts_seen_in_training"`

	Labels  []LabelSummary  `json:"labels"`
	Authors []AuthorSummary `json:"authors"`
	Benign  []CorpusSummary `json:"benign"`
}

// AuthorSummary is how many test texts with a label, of one author, have evidence
// for one of their own labels.
type AuthorSummary struct {
	Author string  `json:"author"`
	Texts  int     `json:"texts"`
	Bans2  float64 `json:"share_with_2_bans"`
	Bans3  float64 `json:"share_with_3_bans"`
}

// LabelSummary is how many test texts of a label have evidence for it.
type LabelSummary struct {
	Label string  `json:"label"`
	Texts int     `json:"texts"`
	Bans2 float64 `json:"share_with_2_bans"`
	Bans3 float64 `json:"share_with_3_bans"`

	// Others is how many labels that a text does not have have 3 bans, on average.
	Others float64 `json:"other_labels_with_3_bans"`
}

// CorpusSummary is how many test texts without a label have evidence for any.
type CorpusSummary struct {
	Name  string  `json:"name"`
	Texts int     `json:"texts"`
	Bans2 float64 `json:"share_with_2_bans_of_any_label"`
	Bans3 float64 `json:"share_with_3_bans_of_any_label"`
}

func summarise(ctx context.Context, m *grooming.MessageModel, rules *grooming.Detector, corpora []*Corpus) (*Summary, error) {
	s := &Summary{Labels: make([]LabelSummary, labels)}
	seen := map[string]bool{}
	authors := map[string]*AuthorSummary{}
	plain := func(text string) string { return strings.Join(strings.Fields(strings.ToLower(text)), " ") }
	for _, c := range corpora {
		for i := range c.Texts {
			if t := &c.Texts[i]; t.Split == Train && !c.Everyday {
				seen[plain(t.Text)] = true
			}
		}
	}
	for l, name := range grooming.Labels() {
		s.Labels[l].Label = name
	}
	for _, c := range corpora {
		b, near := CorpusSummary{Name: c.Name}, CorpusSummary{Name: c.Name + ", " + grooming.HarmlessLabel}
		for i := range c.Texts {
			t := &c.Texts[i]
			if t.Split != Test {
				continue
			}
			if i%1024 == 0 && ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if !c.Everyday && seen[plain(t.Text)] {
				s.Leaked++
			}
			most := 0.
			evidence := m.Evidence(t.Text, rules)
			others, own := 0., 0.
			for l, bans := range evidence {
				if bans >= 3 && t.Labels>>l&1 == 0 {
					others++
				}
			}
			for l, bans := range evidence {
				most = max(most, bans)
				if t.Labels>>l&1 == 1 {
					own = max(own, bans)
					count(&s.Labels[l].Texts, &s.Labels[l].Bans2, &s.Labels[l].Bans3, bans)
					s.Labels[l].Others += others
				}
			}
			switch t.Labels {
			case 0:
				count(&b.Texts, &b.Bans2, &b.Bans3, most)
			case 1 << labels:
				count(&near.Texts, &near.Bans2, &near.Bans3, most)
			default:
				a := authors[t.Author]
				if a == nil {
					a = &AuthorSummary{Author: t.Author}
					authors[t.Author] = a
				}
				count(&a.Texts, &a.Bans2, &a.Bans3, own)
			}
		}
		for _, b := range []CorpusSummary{b, near} {
			if b.Texts > 0 {
				b.Bans2, b.Bans3 = b.Bans2/float64(b.Texts), b.Bans3/float64(b.Texts)
				s.Benign = append(s.Benign, b)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(authors)) {
		a := authors[name]
		a.Bans2, a.Bans3 = a.Bans2/float64(a.Texts), a.Bans3/float64(a.Texts)
		s.Authors = append(s.Authors, *a)
	}
	for l := range s.Labels {
		if n := float64(s.Labels[l].Texts); n > 0 {
			s.Labels[l].Bans2 /= n
			s.Labels[l].Bans3 /= n
			s.Labels[l].Others /= n
		}
	}
	return s, nil
}

func count(texts *int, two, three *float64, bans float64) {
	*texts++
	if bans >= 2 {
		*two++
	}
	if bans >= 3 {
		*three++
	}
}
