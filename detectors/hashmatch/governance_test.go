package hashmatch

import (
	"context"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dmguard/dmguard/hashdb"
	"github.com/dmguard/dmguard/hashdb/lists"
	"github.com/dmguard/dmguard/pipeline"
)

// drawn is a hash of a kind that is like no other.
func drawn(t *testing.T, kind hashdb.Kind, seed uint64) hashdb.Hash {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, uint64(kind)))
	for {
		b := make([]byte, kind.Size())
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		h, err := hashdb.NewHash(kind, b)
		if err != nil {
			t.Fatal(err)
		}
		if h.Unfit() == "" {
			return h
		}
	}
}

// away is a hash with the first n bits from bit from on changed.
func away(t *testing.T, h hashdb.Hash, from, n int) hashdb.Hash {
	t.Helper()
	b := h.Bytes()
	for i := from; i < from+n; i++ {
		b[i/8] ^= 1 << (i % 8)
	}
	out, err := hashdb.NewHash(h.Kind(), b)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func seen(frame int, algorithm string, hashes ...hashdb.Hash) []pipeline.Hash {
	var out []pipeline.Hash
	for _, h := range hashes {
		out = append(out, pipeline.Hash{Kind: h.Kind().String(), Algorithm: algorithm, Value: h.String(), Frame: frame})
	}
	return out
}

func listed(name string, hashes ...hashdb.Hash) hashdb.List {
	l := hashdb.List{Name: name, Version: "1", Category: "ncii"}
	for i, h := range hashes {
		l.Entries = append(l.Entries, hashdb.Entry{Hash: h, ID: fmt.Sprint(name, "-", i)})
	}
	return l
}

// governed looks up hashes of one attachment and says what of each finding may follow.
func governed(t *testing.T, g *lists.Governance, sets []hashdb.List, hashes ...[]pipeline.Hash) ([]string, []pipeline.Finding) {
	t.Helper()
	d, err := New(DefaultConfig(), set(t, sets...), g)
	if err != nil {
		t.Fatal(err)
	}
	item := &pipeline.Item{
		Message: &pipeline.Message{Attachments: []pipeline.Attachment{{ID: "a-1"}}},
		Media:   []pipeline.Media{{AttachmentID: "a-1", Hashes: slices.Concat(hashes...)}},
	}
	answer, err := d.Detect(context.Background(), item)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for i := range answer.Findings {
		f := &answer.Findings[i]
		most := "any"
		if f.AtMost != nil {
			most = f.AtMost.String()
		}
		if f.Suppressed() != (f.Score == 0) {
			t.Errorf("%s scores %v", most, f.Score)
		}
		out = append(out, f.Match.Entry+" "+f.Label+" "+most)
	}
	return out, answer.Findings
}

var (
	noon    = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	benign  = map[string]lists.Governed{"benign": {Settings: lists.Settings{Negative: true}}}
	ourHash = "ours"
)

func TestAKnownFalsePositiveSuppressesWhatIsNoMoreCertain(t *testing.T) {
	kinds := hashdb.Kinds()
	for _, positive := range kinds {
		for _, negative := range kinds {
			p, n := drawn(t, positive, 1), drawn(t, negative, 1)
			got, findings := governed(t, lists.NewGovernance(benign, nil, noon),
				[]hashdb.List{listed("known", p), listed("benign", n)}, seen(0, ourHash, p, n))
			suppressed := slices.Equal(got, []string{"known-0 " + positive.String() + " allow"})
			if want := slices.Index(kinds, negative) <= slices.Index(kinds, positive); suppressed != want || len(got) != 1 {
				t.Errorf("%s against %s: %q", negative, positive, got)
			}
			if suppressed && !strings.Contains(findings[0].Reason, "suppressed, since a known false positive matches: list benign, entry benign-0, ") {
				t.Errorf("the reason does not name it: %s", findings[0].Reason)
			}
		}
	}
}

func TestALikenessSpeaksAgainstAMatchOnlyWhereItIsNearer(t *testing.T) {
	picture := drawn(t, hashdb.PDQ, 1)
	for _, test := range []struct {
		negative, positive int // bits from the picture
		want               string
	}{
		{0, 20, "allow"},
		{10, 20, "allow"},
		{10, 10, "allow"},
		{0, 0, "allow"},
		{11, 20, "any"}, // beyond the threshold of negatives
		{10, 9, "any"},  // the listed picture is nearer
		{4, 0, "any"},
	} {
		got, findings := governed(t, lists.NewGovernance(benign, nil, noon), []hashdb.List{
			listed("benign", away(t, picture, 0, test.negative)), listed("known", away(t, picture, 64, test.positive)),
		}, seen(0, ourHash, picture))
		if diff := cmp.Diff([]string{"known-0 pdq " + test.want}, got); diff != "" {
			t.Errorf("%+v: %s", test, diff)
		}
		if reason := fmt.Sprintf("entry benign-0, pdq distance %d of 10", test.negative); test.want == "allow" && !strings.Contains(findings[0].Reason, reason) {
			t.Errorf("reason %q does not have %q", findings[0].Reason, reason)
		}
	}
}

func TestAHarmlessFrameDoesNotExcuseAnother(t *testing.T) {
	harmless, known := drawn(t, hashdb.PDQ, 1), drawn(t, hashdb.PDQ, 2)
	g := lists.NewGovernance(benign, nil, noon)
	all := []hashdb.List{listed("benign", harmless, known), listed("known", harmless, known)}
	// Here the negative list is wrong about both pictures, each in its own frame.
	got, _ := governed(t, g, all, seen(0, ourHash, harmless), seen(1, ourHash, known))
	if diff := cmp.Diff([]string{"known-0 pdq allow", "known-1 pdq allow"}, got); diff != "" {
		t.Error(diff)
	}
	got, _ = governed(t, g, []hashdb.List{listed("benign", harmless), listed("known", known)}, seen(0, ourHash, harmless), seen(1, ourHash, known))
	if diff := cmp.Diff([]string{"known-0 pdq any"}, got); diff != "" {
		t.Error(diff)
	}
	// The same entry in a frame that is excused and in one that is not.
	near := away(t, known, 0, 8)
	got, findings := governed(t, g, []hashdb.List{listed("benign", near), listed("known", away(t, known, 0, 16))}, seen(0, ourHash, near), seen(1, ourHash, away(t, known, 0, 28)))
	if diff := cmp.Diff([]string{"known-0 pdq any"}, got); diff != "" || findings[0].Match.Frame != 1 {
		t.Errorf("frame %d: %s", findings[0].Match.Frame, diff)
	}
	// A digest is that of the whole file.
	file := drawn(t, hashdb.SHA256, 1)
	got, _ = governed(t, g, []hashdb.List{listed("benign", file), listed("known", known)}, seen(0, ourHash, file), seen(1, ourHash, known))
	if diff := cmp.Diff([]string{"known-0 pdq allow"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestWhatThePlatformSaysDoesNotSpeakAgainstWhatWasSeen(t *testing.T) {
	harmless, known := drawn(t, hashdb.PDQ, 1), drawn(t, hashdb.PDQ, 2)
	file := drawn(t, hashdb.SHA256, 1)
	all := []hashdb.List{listed("benign", harmless, file), listed("known", known)}
	g := lists.NewGovernance(benign, nil, noon)
	got, _ := governed(t, g, all, seen(0, platform, file, harmless), seen(0, ourHash, known))
	if diff := cmp.Diff([]string{"known-0 pdq any"}, got); diff != "" {
		t.Error(diff)
	}
	got, _ = governed(t, g, all, seen(0, platform, file, known))
	if diff := cmp.Diff([]string{"known-0 pdq allow"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestAMatchWithANegativeListAloneIsNothing(t *testing.T) {
	h := drawn(t, hashdb.SHA256, 1)
	if got, _ := governed(t, lists.NewGovernance(benign, nil, noon), []hashdb.List{listed("benign", h)}, seen(0, ourHash, h)); got != nil {
		t.Errorf("%q", got)
	}
	stale := map[string]lists.Governed{"benign": {Settings: lists.Settings{Negative: true, Expires: noon}}}
	got, _ := governed(t, lists.NewGovernance(stale, nil, noon), []hashdb.List{listed("benign", h), listed("known", h)}, seen(0, ourHash, h))
	if diff := cmp.Diff([]string{"known-0 sha256 any"}, got); diff != "" {
		t.Errorf("a negative list that has expired: %s", diff)
	}
}

func TestEntriesListsAndKindsInDoubtAskAPerson(t *testing.T) {
	dir := t.TempDir()
	standings, err := lists.ChangeStandings(dir, func(s *lists.Standings) error {
		for entry, state := range map[string]lists.State{"known-0": lists.Held, "known-1": lists.Withdrawn, "known-2": lists.Released} {
			err := s.Set(lists.Standing{EntryName: lists.EntryName{List: "known", Entry: entry}, State: state, Cause: lists.ByHand, Reason: "a cartoon", By: "alice", Since: noon}, noon)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	g := lists.NewGovernance(map[string]lists.Governed{"old": {Settings: lists.Settings{Expires: noon}}}, standings, noon)
	var hashes []hashdb.Hash
	for seed := range uint64(4) {
		hashes = append(hashes, drawn(t, hashdb.SHA256, seed))
	}
	perception := drawn(t, hashdb.PHash, 1)
	got, findings := governed(t, g, []hashdb.List{listed("known", hashes...), listed("old", hashes[3]), listed("phashes", perception)},
		seen(0, ourHash, append(hashes, perception)...))
	want := []string{"known-0 sha256 review", "known-1 sha256 allow", "known-2 sha256 any", "known-3 sha256 any", "old-0 sha256 review", "phashes-0 phash review"}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for i := range findings {
		for entry, reason := range map[string]string{
			"known-0": "; review at most, since the entry is held by alice since 2026-03-01: a cartoon", "known-1": "; suppressed, since the entry is withdrawn by alice since 2026-03-01: a cartoon",
			"old-0": "; review at most, since the list expired on 2026-03-01", "phashes-0": "; review at most, since strangers' pictures may be as near",
		} {
			if f := &findings[i]; f.Match.Entry == entry && !strings.HasSuffix(f.Reason, reason) {
				t.Errorf("%s: reason %q", entry, f.Reason)
			}
		}
	}
}

// TestSuppressionFollowsItsRule compares with the rule as the page states it, for random attachments.
func TestSuppressionFollowsItsRule(t *testing.T) {
	suppressions := 0
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 3))
		base := []hashdb.Hash{drawn(t, hashdb.PDQ, seed), drawn(t, hashdb.PDQ, seed+1000)}
		file := []hashdb.Hash{drawn(t, hashdb.SHA256, seed), drawn(t, hashdb.MD5, seed)}
		entries := func(name string) hashdb.List {
			var hs []hashdb.Hash
			for range 1 + rng.IntN(3) {
				hs = append(hs, away(t, base[rng.IntN(2)], rng.IntN(200), rng.IntN(20)))
			}
			for _, f := range file {
				if rng.IntN(4) == 0 {
					hs = append(hs, f)
				}
			}
			return listed(name, hs...)
		}
		negative, positive := entries("benign"), entries("known")
		frames := []hashdb.Hash{away(t, base[0], rng.IntN(200), rng.IntN(12)), away(t, base[1], rng.IntN(200), rng.IntN(12))}
		got, _ := governed(t, lists.NewGovernance(benign, nil, noon), []hashdb.List{negative, positive},
			seen(0, ourHash, file...), seen(0, ourHash, frames[0]), seen(1, ourHash, frames[1]))

		distance := func(a, b hashdb.Hash) int {
			n := 0
			x, y := a.Bytes(), b.Bytes()
			for i := range x {
				for bit := range 8 {
					n += int((x[i] ^ y[i]) >> bit & 1)
				}
			}
			return n
		}
		var want []string
		for i, e := range positive.Entries {
			var reasons, excused int
			label := e.Hash.Kind().String()
			if e.Hash.Kind() == hashdb.PDQ {
				for _, f := range frames {
					d := distance(e.Hash, f)
					if d > 31 {
						continue
					}
					reasons++
					excuse := false
					for _, n := range negative.Entries {
						excuse = excuse || n.Hash.Kind() != hashdb.PDQ || distance(n.Hash, f) <= min(10, d)
					}
					if excuse {
						excused++
					}
				}
			} else {
				reasons++
				for _, n := range negative.Entries {
					if n.Hash.Kind() == e.Hash.Kind() || n.Hash.Kind() == hashdb.SHA256 {
						excused = 1
					}
				}
			}
			switch {
			case reasons == 0:
			case excused == reasons:
				want = append(want, fmt.Sprintf("known-%d %s allow", i, label))
				suppressions++
			default:
				want = append(want, fmt.Sprintf("known-%d %s any", i, label))
			}
		}
		slices.Sort(want)
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("seed %d (-rule +got):\n%s", seed, diff)
		}
	}
	if suppressions < 50 {
		t.Errorf("only %d suppressions", suppressions)
	}
}

func TestAnEntryIDIsNoHash(t *testing.T) {
	// The reasons name lists and entries and never the hash that matched.
	h := drawn(t, hashdb.SHA256, 9)
	_, findings := governed(t, lists.NewGovernance(benign, nil, noon), []hashdb.List{listed("benign", h), listed("known", h)}, seen(0, ourHash, h))
	if strings.Contains(findings[0].Reason, hex.EncodeToString(h.Bytes())[:16]) {
		t.Error(findings[0].Reason)
	}
}
