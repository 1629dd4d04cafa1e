package grooming

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"github.com/dmguard/dmguard/pipeline"
)

// sayings matches everything that a reason may say: words that stand in the
// program, names that stand in the rule packs, and numbers.
func sayings(l *lexicon) *regexp.Regexp {
	alternatives := func(words []string) string {
		quoted := make([]string, len(words))
		for i, w := range words {
			quoted[i] = regexp.QuoteMeta(w)
		}
		return "(?:" + strings.Join(quoted, "|") + ")"
	}
	var rules []string
	for _, r := range l.rules {
		rules = append(rules, r.id)
	}
	label, number := alternatives(labelNames[:]), `[0-9]{1,3}`
	cue := alternatives(labelReasons[:]) + `(?:, earlier| \(rule ` + alternatives(rules) + `\)(?:, in disguised writing)?(?:, with ` + alternatives(captureNames[1:]) + `)?)`
	amount := ` [+-][0-9]{1,2}\.[0-9]`
	alert := `one sender, ` + number + ` messages?; log-odds to begin with` + amount + `(?:, ` + label + amount + `)+` +
		`(?:, in one message only` + amount + `)?(?:, nothing that strangers do not ask` + amount + `)?(?:, account data` + amount + `)?(?:, few messages` + amount + `)?` +
		`, together` + amount + `; without ` + label + ` the risk would be [01]\.[0-9]{2}(?:; another member stated an age under 18)?`
	return regexp.MustCompile(`^(?:` + cue + `|` + alert + `)$`)
}

// TestNoFindingQuotesTheMessage makes up messages of cues and of words that
// nobody uses, in every disguise, and reads what is said of them.
func TestNoFindingQuotesTheMessage(t *testing.T) {
	d := detector(t)
	allowed := sayings(d.lexicon)
	rng := rand.New(rand.NewPCG(7, 7))
	pick := func(s []string) string { return s[rng.IntN(len(s))] }
	word := func() string {
		const letters = "bcdfghjkqvwxz0123456789_ẞжשü"
		var b strings.Builder
		for range 4 + rng.IntN(8) {
			r := []rune(letters)
			b.WriteRune(r[rng.IntN(len(r))])
		}
		return b.String()
	}
	disguises := []func(string) string{
		func(s string) string { return s }, strings.ToUpper,
		func(s string) string { return strings.NewReplacer("o", "0", "e", "3").Replace(s) },
		func(s string) string { return strings.Join(strings.Split(s, ""), " ") },
		func(s string) string { return strings.ReplaceAll(s, "e", "е\u0301\u200b") },
	}
	alerted, contacts := 0, 0
	for range 400 {
		r := newReplay(d)
		var said []string
		for i := range 12 {
			var parts []string
			for range 1 + rng.IntN(4) {
				switch rng.IntN(4) {
				case 0:
					parts = append(parts, disguises[rng.IntN(len(disguises))](pick(developing)))
				case 1:
					parts = append(parts, "add me on snap "+pick([]string{"@", "https://", "my snap is ", "0660 1234"})+word())
				case 2:
					parts = append(parts, fmt.Sprint("im ", rng.IntN(30)))
				default:
					parts = append(parts, word())
				}
			}
			m := message(word(), pick([]string{"a", "b"}), strings.Join(parts, " "), i)
			said = append(said, m.Text.Reveal())
			for _, f := range r.judge(t, m).Findings {
				if !allowed.MatchString(f.Reason) {
					t.Fatalf("a reason that may not be said: %q", f.Reason)
				}
				if f.Label != "" && !strings.Contains(strings.Join(labelNames[:], " "), f.Label) || f.Category != Name || f.Match != nil {
					t.Fatalf("a finding that may not be said: %+v", f)
				}
				// And by itself: no four bytes of what nobody uses.
				for _, text := range said {
					for w := range strings.FieldsSeq(text) {
						for j := 0; strings.ContainsAny(w, "bcdfghjkqvwxz_жש") && !strings.ContainsAny(w, "aeiouAEIOU") && j+4 <= len(w); j++ {
							if strings.Contains(f.Reason, w[j:j+4]) {
								t.Fatalf("%q quotes %q", f.Reason, w[j:j+4])
							}
						}
					}
				}
				if !f.Supports {
					alerted++
				}
				if strings.Contains(f.Reason, ", with ") {
					contacts++
				}
				for _, sp := range f.Spans {
					if f.MessageID == "" && (sp.Start < 0 || sp.Start >= sp.End || sp.End > m.Text.Len()) {
						t.Fatalf("span %v of %d", sp, m.Text.Len())
					}
				}
			}
		}
	}
	if alerted < 100 || contacts < 100 {
		t.Errorf("%d alerts and %d contacts: nothing much was read", alerted, contacts)
	}
}

// FuzzReasonsComeFromTheVocabulary holds any text to the same.
func FuzzReasonsComeFromTheVocabulary(f *testing.F) {
	d := detector(f)
	allowed := sayings(d.lexicon)
	for _, s := range developing {
		f.Add(s, s)
	}
	f.Add("add me on snap @x_y", "im 13 dont tell your mom")
	f.Fuzz(func(t *testing.T, one, two string) {
		r := newReplay(d)
		for i, text := range []string{one, two, one + " " + two} {
			if len(text) > pipeline.MaxTextLength {
				return
			}
			for _, f := range r.judge(t, message(fmt.Sprint("m", i), "a", text, i)).Findings {
				if !allowed.MatchString(f.Reason) {
					t.Fatalf("a reason that may not be said: %q", f.Reason)
				}
			}
		}
	})
}
