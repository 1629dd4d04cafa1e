package exchange

import (
	"bytes"
	"testing"

	"github.com/dmguard/dmguard/hashdb/lists"
)

// holds is what every update promises, whatever was read.
func holds(t *testing.T, u lists.Update, replace bool) {
	ended := false
	for b, err := range u {
		if ended {
			t.Fatal("a batch after an error")
		}
		ended = err != nil
		if b.Replace != replace {
			t.Fatalf("replace is %t", b.Replace)
		}
		if n := len(b.Put) + len(b.Delete) + len(b.Skipped); n > perBatch {
			t.Fatalf("a batch of %d", n)
		}
		for _, r := range b.Put {
			if checkID(r.ID) != nil || len(r.Hashes)+len(r.Unmatched) == 0 || len(r.Hashes) > maxHashes || len(r.Labels) > maxLabels || len(r.Opinions) > maxOpinions {
				t.Fatalf("a record that nobody can keep: %q, %d hashes, %d labels, %d opinions", r.ID, len(r.Hashes), len(r.Labels), len(r.Opinions))
			}
			for who, what := range r.Opinions {
				if len(who) > maxText || len(what) > maxText || !printable(who+what) {
					t.Fatalf("opinion of %q: %q", who, what)
				}
			}
			for _, l := range append(append(r.Labels, r.Unmatched...), r.Category) {
				if len(l) > maxText || !printable(l) {
					t.Fatalf("text %q", l)
				}
			}
		}
		for _, id := range b.Delete {
			if checkID(id) != nil {
				t.Fatalf("the ID %q is withdrawn", id)
			}
		}
		for _, s := range b.Skipped {
			if s.Reason == "" || len(s.ID) > maxID || len(s.Reason) > maxText || !printable(s.ID+s.Reason) {
				t.Fatalf("skipped %q: %q", s.ID, s.Reason)
			}
		}
	}
}

func fuzz(f *testing.F, format Format, more ...string) {
	for _, s := range samples {
		if s.format == format {
			f.Add(sample(f, s.file))
		}
	}
	for _, text := range more {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, extent := range []Extent{Whole, Changes} {
			holds(t, read(t, format, bytes.NewReader(data), Options{Extent: extent}), extent == Whole)
		}
	})
}

func FuzzCSV(f *testing.F)            { fuzz(f, CSV, "md5;id;labels\n;;\n", "kind\thash\n\t\n") }
func FuzzJSON(f *testing.F)           { fuzz(f, JSON, "[{}]", "{}\n\n{", `[[["a"]]]`) }
func FuzzNCMEC(f *testing.F)          { fuzz(f, NCMEC, "<queryResult/><queryResult/>") }
func FuzzStopNCII(f *testing.F)       { fuzz(f, StopNCII, `{"hashRecords":null}`) }
func FuzzThreatExchange(f *testing.F) { fuzz(f, ThreatExchange, `{"data":[{"id":1}]}{"data":[]}`) }
func FuzzTAT(f *testing.F)            { fuzz(f, TAT, `{"results":[{"id":1e9}]}`) }
func FuzzVICS(f *testing.F)           { fuzz(f, VICS, `{"value":[{"Media":[{"Media":[]}]}]}`) }

func FuzzCheckpoint(f *testing.F) {
	c, err := newClient("https://example.org/x", nil, Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(position{Format: NCMEC, Source: "https://example.org/x", Until: 5, Next: "/v2/entries?x", End: 9}.String())
	f.Fuzz(func(t *testing.T, text string) {
		p, err := c.resume(NCMEC, text)
		if err != nil {
			return
		}
		again, err := c.resume(NCMEC, p.String())
		if err != nil || again != p {
			t.Fatalf("%v is read as %v: %v", p, again, err)
		}
	})
}
