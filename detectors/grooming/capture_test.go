package grooming

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dmguard/dmguard/pipeline"
)

// found is what contactAt recognises in a text.
func contacts(v *view, text string) (out []string) {
	v.fold(text)
	for i := 0; i < len(v.b); {
		kind, start, end := v.contactAt(i)
		if kind == noCapture {
			i++
			continue
		}
		from, to := v.original(start, end)
		out = append(out, captureNames[kind]+": "+text[from:to])
		i = max(end, i+1)
	}
	return out
}

func TestContactsAreKnownByTheirForm(t *testing.T) {
	var v view
	for text, want := range map[string][]string{
		"write @cool_kit99, ok":                        {"a user name: @cool_kit99"},
		"＠ｃｏｏｌ":                                        {"a user name: ＠ｃｏｏｌ"},
		"see https://example.org/a?b=1 now":            {"a link: https://example.org/a?b=1"},
		"see www.example.org":                          {"a link: www.example.org"},
		"on example.com/x":                             {"a link: example.com"},
		"mail me: a.b@example.org!":                    {"an e-mail address: a.b@example.org"},
		"call +43 660 123 45 67 x":                     {"a phone number: 43 660 123 45 67"},
		"(0660) 1234567":                               {"a phone number: 0660) 1234567"},
		"nothing. really, at 10:30 on 2.5. for 20 eur": nil,
		"3.14 and e.g. this":                           nil,
		"@ 5, a@b, @":                                  nil,
		"1234567890123456":                             nil,
		"ok.com e on":                                  {"a link: ok.com"},
	} {
		if diff := cmp.Diff(want, contacts(&v, text)); diff != "" {
			t.Errorf("%q: %s", text, diff)
		}
	}
}

func TestAContactMakesTheWishToGoElsewhereStronger(t *testing.T) {
	var s scratch
	l := detector(t).lexicon
	scan := func(text string) cue {
		l.scan(text, &s)
		s.strengthen()
		return s.cues[platformMove]
	}
	plain := scan("add me on snap")
	if plain.n == 0 || plain.contact != noCapture {
		t.Fatalf("%+v", plain)
	}
	for text, want := range map[string]struct {
		kind capture
		what string
	}{
		"add me on snap @cool_kit":                           {userName, "@cool_kit"},
		"add me on snap, my snap is cool.cat99":              {userName, "cool.cat99"},
		"add me on snap: coolcat":                            {userName, "coolcat"},
		"add me on snap https://example.org/x":               {link, "https://example.org/x"},
		"add me on snap or 0660 1234567":                     {phoneNumber, "0660 1234567"},
		"add me on snap or me@example.org":                   {mailAddress, "me@example.org"},
		"add me on snap" + strings.Repeat(" ", 40) + "@cool": {userName, "@cool"},
	} {
		c := scan(text)
		shown := false
		for _, sp := range c.spans[:c.n] {
			shown = shown || strings.Contains(text[sp.start:sp.end], want.what)
		}
		if c.contact != want.kind || c.weight != plain.weight+contactWeight || !shown {
			t.Errorf("%q: %+v", text, c)
		}
	}
	for _, text := range []string{
		"add me on snap, snap is great", "add me on snap" + strings.Repeat(" and so on", 10) + " @cool",
		"add me on snap at 10:30", "add me on snap. really",
	} {
		if c := scan(text); c.contact != noCapture || c.weight != plain.weight {
			t.Errorf("%q: %+v", text, c)
		}
	}
	for _, text := range []string{"my snap is cool_99", "@cool_kit", "see https://example.org", "call 0660 1234567"} {
		if c := scan(text); c.n != 0 {
			t.Errorf("%q: a contact alone is taken for a cue", text)
		}
	}
}

func TestAContactIsNamedByItsKindAlone(t *testing.T) {
	a := say(t, newReplay(detector(t)), "add me on snap @zanzibar_99")[0]
	if len(a.Findings) != 1 || !strings.HasSuffix(a.Findings[0].Reason, ", with a user name") || strings.Contains(a.Findings[0].Reason, "zanz") {
		t.Errorf("%+v", a.Findings)
	}
}

func TestStatedAgesAreRead(t *testing.T) {
	var v view
	for text, want := range map[string]uint8{
		"im 13": 13, "I'm 13!": 13, "i am 15 years old": 15, "hi i am 16, you?": 16, "IM １２ lol": 12, "ich bin 14 jahre alt": 14, "j'ai 12 ans": 12,
		"im 13yo": 13, "im 13f": 13, "tengo 11 anos": 11,
		"13": 0, "im 13 minutes late": 0, "im 20": 0, "im 130": 0, "im 1": 0, "he is 13": 0, "im 13%": 0, "im 13:30": 0, "im 13th": 0, "": 0, "im ": 0,
	} {
		v.fold(text)
		age, start, end := v.statedAge()
		if age != want {
			t.Errorf("%q: %d, want %d", text, age, want)
		}
		if want > 0 {
			if from, to := v.original(start, end); from < 0 || to > len(text) || from >= to {
				t.Errorf("%q: %d to %d", text, from, to)
			}
		}
	}
}

func TestStatedAgesAreWeakMonotoneAndNeverAlone(t *testing.T) {
	d := detector(t)
	// Alone it is nothing, and nothing is kept of it.
	if a := say(t, newReplay(d), "im 13", "i am 12")[1]; a.Risk != 0 || a.State != nil || len(a.Findings) != 0 {
		t.Errorf("%+v", a)
	}
	risk := func(stated string, sender int, known bool) float64 {
		r := newReplay(d)
		last := pipeline.Answer{}
		for i, line := range []struct{ who, text string }{
			{"a", "how old are you?"}, {"b", stated}, {"a", "dont tell your parents"}, {"a", "are you home alone right now?"},
		} {
			m := message(fmt.Sprint("m", i), line.who, line.text, i)
			if line.who == "a" {
				if sender > 0 {
					m.Sender.Age = &sender
				}
				if age := 13; known {
					m.Recipients = []pipeline.Party{{ID: "b", Age: &age}}
				}
			}
			last = r.judge(t, m)
		}
		return last.Risk
	}
	silent, adultSilent, knownSilent := risk("ok", 0, false), risk("ok", 40, false), risk("ok", 40, true)
	last := 1.
	for age := 8; age < 18; age++ {
		r := risk(fmt.Sprintf("im %d", age), 20, false)
		if r > last || r < risk("ok", 20, false) {
			t.Errorf("stated %d: risk %v after %v", age, r, last)
		}
		last = r
	}
	logit := func(p float64) float64 { return math.Log(p / (1 - p)) }
	if r := risk("im 13", 0, false); r <= silent || logit(r) > logit(silent)+0.25 {
		t.Errorf("risk %v, with a stated age %v", silent, r)
	}
	if r := risk("im 13", 40, false); r <= adultSilent || r >= knownSilent {
		t.Errorf("risk %v, with a stated age %v, with a known age %v", adultSilent, r, knownSilent)
	}
	if r := risk("im 13", 40, true); r != knownSilent {
		t.Errorf("a stated age counts beside a known one: %v, %v", knownSilent, r)
	}
	// What a sender says of itself changes nothing for it, not even after another.
	var s state
	s.states(1, 14)
	s.states(2, 9)
	s.states(2, 8)
	s.states(1, 16)
	if a, b, c := s.youngestBut(1), s.youngestBut(2), s.youngestBut(3); a != 8 || b != 14 || c != 8 {
		t.Errorf("%d, %d, %d", a, b, c)
	}
}

func FuzzCaptures(f *testing.F) {
	for _, s := range []string{"@a.b", "a@b.c", "http://x", "www.a.com", "im 13", "+1 234 567 890", "my snap is x_1", "snap:::", "@", "im 1", "．＠", "1 1 1 1 1"} {
		f.Add(s)
	}
	l := detector(f).lexicon
	var sc scratch
	f.Fuzz(func(t *testing.T, s string) {
		text := "add me on snap " + s
		l.scan(text, &sc)
		sc.strengthen()
		for i := range sc.cues {
			c := &sc.cues[i]
			if c.weight < 0 || c.weight > maxWeight {
				t.Fatalf("weight %v", c.weight)
			}
			for _, sp := range c.spans[:c.n] {
				if sp.start < 0 || sp.start >= sp.end || sp.end > len(text) {
					t.Fatalf("span %v of %d", sp, len(text))
				}
			}
		}
		v := &sc.folded
		for i := range v.b {
			if kind, start, end := v.contactAt(i); kind != noCapture && (start < 0 || start > i || end <= i || end > len(v.b) || end-start > 2*maxToken+3) {
				t.Fatalf("%d to %d of %d, seen at %d", start, end, len(v.b), i)
			}
		}
		if age, start, end := v.statedAge(); age > 0 && (age < minStated || age >= adult || start >= end || end > len(v.b)) {
			t.Fatalf("age %d at %d to %d", age, start, end)
		}
	})
}
