package grooming

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dmguard/dmguard/pipeline"
)

func packs(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("../../configs/rules/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no rule packs: %v", err)
	}
	m := map[string][]byte{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		m[filepath.Base(f)] = b
	}
	return m
}

// shared is compiled once: it is immutable and takes a moment.
var shared struct {
	once sync.Once
	d    *Detector
	err  error
}

func detector(t testing.TB) *Detector {
	t.Helper()
	p := packs(t)
	shared.once.Do(func() { shared.d, shared.err = New(DefaultConfig(), p) })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.d
}

var start = time.Date(2026, 3, 2, 15, 0, 0, 0, time.UTC)

func message(id, sender, text string, minutes int) *pipeline.Message {
	return &pipeline.Message{
		ID: id, ConversationID: "c", SentAt: start.Add(time.Duration(minutes) * time.Minute),
		Sender: pipeline.Party{ID: sender}, Text: pipeline.NewText(text),
	}
}

// say judges texts of one sender, a minute apart.
func say(t testing.TB, r *replay, texts ...string) []pipeline.Answer {
	t.Helper()
	var out []pipeline.Answer
	for i, text := range texts {
		out = append(out, r.judge(t, message(fmt.Sprint("m", i), "a", text, i)))
	}
	return out
}

func TestNothingIsKeptWhereNothingWasFound(t *testing.T) {
	for _, a := range say(t, newReplay(detector(t)), "hello", "did you see the game?", "") {
		if a.State != nil || a.Risk != 0 || len(a.Findings) != 0 {
			t.Errorf("got %d bytes of state, risk %v, %d findings", len(a.State), a.Risk, len(a.Findings))
		}
	}
}

func TestNoSingleCueAlerts(t *testing.T) {
	d := detector(t)
	worst := 100
	young, old, no := 12, 60, false
	for l := range labels {
		var m pipeline.Message
		m.SentAt = start
		m.Sender = pipeline.Party{
			Age: &old, Connected: &no, AccountCreatedAt: &start,
			Behaviour: &pipeline.Behaviour{MinorsContacted: &worst, StrangersContacted: &worst, BlockedBy: &worst, ReportedBy: &worst},
		}
		m.Recipients = []pipeline.Party{{Age: &young}}
		var s state
		e := event{at: start.Unix(), prior: prior(&m, 0)}
		e.weights[l] = maxWeight
		step(&s, &e, &d.model)
		if r := d.model.conversation(&s, start.Unix()); r >= d.model.bands[0] {
			t.Errorf("a single cue for %v has risk %v", l, r)
		}
	}
}

func TestAccountDataAreNeverTheSoleReason(t *testing.T) {
	d := detector(t)
	worst, young, old, no := 1000, 10, 60, false
	r := newReplay(d)
	for i := range 20 {
		m := message(fmt.Sprint(i), "a", "hello again", i)
		m.Sender.Age, m.Sender.Connected = &old, &no
		m.Sender.Behaviour = &pipeline.Behaviour{MinorsContacted: &worst, BlockedBy: &worst, ReportedBy: &worst}
		m.Recipients = []pipeline.Party{{ID: "b", Age: &young}}
		if a := r.judge(t, m); a.Risk != 0 || a.State != nil {
			t.Fatalf("risk %v without a word", a.Risk)
		}
	}
}

func TestPriorIsMonotoneBoundedAndNeutralWhereAbsent(t *testing.T) {
	if p := prior(message("m", "a", "", 0), 0); p != 0 {
		t.Errorf("without account data the prior is %v", p)
	}
	young := 12
	last := math.Inf(-1)
	for age := 12; age < 130; age++ {
		m := message("m", "a", "", 0)
		m.Sender.Age, m.Recipients = &age, []pipeline.Party{{Age: &young}}
		p := prior(m, 0)
		if p < last || math.Abs(p) > maxPrior {
			t.Errorf("age %d: %v after %v", age, p, last)
		}
		last = p
	}
	for name, set := range map[string]func(*pipeline.Behaviour, *int){
		"minors":    func(b *pipeline.Behaviour, n *int) { b.MinorsContacted = n },
		"strangers": func(b *pipeline.Behaviour, n *int) { b.StrangersContacted = n },
		"blocked":   func(b *pipeline.Behaviour, n *int) { b.BlockedBy = n },
		"reported":  func(b *pipeline.Behaviour, n *int) { b.ReportedBy = n },
	} {
		last := 0.
		for n := range 200 {
			m := message("m", "a", "", 0)
			m.Sender.Behaviour = &pipeline.Behaviour{}
			set(m.Sender.Behaviour, &n)
			if p := prior(m, 0); p < last || p > maxPrior {
				t.Errorf("%s %d: %v after %v", name, n, p, last)
			} else {
				last = p
			}
		}
	}
}

var developing = []string{
	"how old are you?", "nice weather", "are you home alone right now?", "dont tell your parents", "ok",
	"you are so mature for your age", "add me on telegram", "send me a selfie", "i can pick you up after school",
}

func TestAnAlertComesOncePerBandWithEarlierEvidence(t *testing.T) {
	r := newReplay(detector(t))
	band := uint8(0)
	count := 0
	for i, a := range say(t, r, developing...) {
		var drive []pipeline.Finding
		earlier := 0
		for _, f := range a.Findings {
			if !f.Supports {
				drive = append(drive, f)
			}
			if f.MessageID != "" {
				earlier++
				if n := len(f.Context); n == 0 || n > pipeline.RecentMessages+1 || !slices.IsSorted(f.Context) {
					t.Errorf("context %v", f.Context)
				}
				var at int
				if _, err := fmt.Sscanf(f.MessageID, "m%d", &at); err != nil || f.Context[len(f.Context)-1] != int64(at) {
					t.Errorf("context %v does not end at the offset of %s", f.Context, f.MessageID)
				}
				if len(f.Context) != min(at, pipeline.RecentMessages)+1 {
					t.Errorf("%s has context %v", f.MessageID, f.Context)
				}
				text := developing[at]
				if s := f.Spans[0]; s.Start < 0 || s.End > len(text) || s.Start >= s.End {
					t.Errorf("span %v of %q", s, text)
				}
			}
			if f.Score < 0 || f.Score > 1 || f.Category != Name {
				t.Errorf("finding %+v", f)
			}
		}
		now := r.d.model.band(a.Risk)
		switch {
		case now > band && (len(drive) != 1 || drive[0].Label != "" || drive[0].Score != a.Risk || earlier < 2 || earlier > maxSupports):
			t.Errorf("message %d: band rises to %d with %d driving and %d earlier findings", i, now, len(drive), earlier)
		case now <= band && len(drive) != 0:
			t.Errorf("message %d: alerted again in the same band", i)
		}
		band = max(band, now)
		count += len(drive)
	}
	if count != bands {
		t.Errorf("%d alerts, want one a band", count)
	}
}

// TestEvidenceFadesWithTheMessages sends what says nothing after cues: the risk
// falls by as much as the messages say, however they were counted.
func TestEvidenceFadesWithTheMessages(t *testing.T) {
	r := newReplay(detector(t))
	say(t, r, developing...)
	risk := r.judge(t, message("x0", "b", "ok", 0)).Risk
	for i := range 700 {
		a := r.judge(t, message(fmt.Sprint("y", i), "b", "the weather is grey", 0))
		if a.Risk > risk || a.State == nil {
			t.Fatalf("message %d: risk %v after %v", i, a.Risk, risk)
		}
		risk = a.Risk
	}
	if risk > 0.05 {
		t.Errorf("risk %v after 700 messages", risk)
	}
}

func TestFewMessagesHoweverFullOfCuesSayLess(t *testing.T) {
	all := strings.Join(developing, ". ")
	one := say(t, newReplay(detector(t)), all)
	more := say(t, newReplay(detector(t)), developing...)
	if one[0].Risk >= more[len(more)-1].Risk {
		t.Errorf("risk %v in one message, %v in %d", one[0].Risk, more[len(more)-1].Risk, len(more))
	}
}

func TestARepeatedMessageCountsOnce(t *testing.T) {
	d := detector(t)
	once, twice := newReplay(d), newReplay(d)
	for i, text := range developing {
		m := message(fmt.Sprint(i), "a", text, i)
		first := once.judge(t, m)
		twice.judge(t, m)
		again := twice.judge(t, m)
		if again.State != nil || alerts(again) || again.Risk != first.Risk {
			t.Errorf("message %d said twice: state %d bytes, alert %v, risk %v and %v", i, len(again.State), alerts(again), again.Risk, first.Risk)
		}
	}
	// Offsets differ, so compare what the evidence amounts to.
	var a, b state
	a.decode(once.states["c"])
	b.decode(twice.states["c"])
	if diff := cmp.Diff(a.directions, b.directions, cmp.AllowUnexported(direction{}, tally{})); diff != "" {
		t.Error(diff)
	}
}

func TestEvidenceIsNotCountedTwiceAlsoWhereTheRepeatIsNotMarked(t *testing.T) {
	r := newReplay(detector(t))
	m := message("m", "a", "dont tell your parents", 0)
	a := r.judge(t, m)
	clear(r.seen)
	if b := r.judge(t, m); b.State != nil || b.Risk != a.Risk {
		t.Errorf("risk %v, then %v", a.Risk, b.Risk)
	}
}

func TestConversationsDoNotTouchEachOther(t *testing.T) {
	d := detector(t)
	_, messages := conversations(t)
	alone := map[string][]float64{}
	r := newReplay(d)
	for _, m := range messages {
		alone[m.ConversationID] = append(alone[m.ConversationID], r.judge(t, m).Risk)
	}
	directions := func(r *replay, c string) []direction {
		var s state
		s.decode(r.states[c])
		return s.directions
	}
	for seed := range uint64(5) {
		rng := rand.New(rand.NewPCG(seed, 1))
		queues := map[string][]*pipeline.Message{}
		var ids []string
		for _, m := range messages {
			if queues[m.ConversationID] == nil {
				ids = append(ids, m.ConversationID)
			}
			queues[m.ConversationID] = append(queues[m.ConversationID], m)
		}
		mixed := newReplay(d)
		got := map[string][]float64{}
		for len(ids) > 0 {
			i := rng.IntN(len(ids))
			c := ids[i]
			got[c] = append(got[c], mixed.judge(t, queues[c][0]).Risk)
			if queues[c] = queues[c][1:]; len(queues[c]) == 0 {
				ids = slices.Delete(ids, i, i+1)
			}
		}
		if diff := cmp.Diff(alone, got); diff != "" {
			t.Fatalf("seed %d: %s", seed, diff)
		}
		for c := range alone {
			if diff := cmp.Diff(directions(r, c), directions(mixed, c), cmp.AllowUnexported(direction{}, tally{})); diff != "" {
				t.Fatalf("seed %d, %s: %s", seed, c, diff)
			}
		}
	}
}

func TestSendersAreJudgedApart(t *testing.T) {
	d := detector(t)
	one, two := newReplay(d), newReplay(d)
	var a, b float64
	for i, text := range developing {
		a = max(a, one.judge(t, message(fmt.Sprint(i), "a", text, i)).Risk)
		b = max(b, two.judge(t, message(fmt.Sprint(i), fmt.Sprint("s", i%3), text, i)).Risk)
	}
	if a <= b {
		t.Errorf("risk %v of one sender, %v where three share it", a, b)
	}
}

func TestEvidenceFades(t *testing.T) {
	d := detector(t)
	r := newReplay(d)
	answers := say(t, r, developing...)
	before := answers[len(answers)-1].Risk
	later := r.judge(t, message("later", "b", "hello", 60*24*90))
	if later.Risk >= before/2 {
		t.Errorf("risk %v, and %v three months later", before, later.Risk)
	}
}

func TestImpossibleTimesNeitherAgeNorFreezeTheEvidence(t *testing.T) {
	d := detector(t)
	plain, odd := newReplay(d), newReplay(d)
	years := []int{1, 9999, 1969, 2101}
	var a, b pipeline.Answer
	for i, text := range developing {
		a = plain.judge(t, message(fmt.Sprint(i), "a", text, 0))
		m := message(fmt.Sprint(i), "a", text, 0)
		if i%2 == 1 {
			m.SentAt = time.Date(years[i/2%4], 12, 31, 23, 59, 59, 0, time.UTC)
		}
		b = odd.judge(t, m)
	}
	if a.Risk != b.Risk {
		t.Errorf("risk %v, with impossible times %v", a.Risk, b.Risk)
	}
	if later := odd.judge(t, message("x", "b", "hello", 60*24*90)); later.Risk >= b.Risk {
		t.Errorf("evidence no longer fades: %v, %v", b.Risk, later.Risk)
	}
}

// TestStateStaysSmall gives a conversation all that a state holds: four senders
// who do everything at weights of their own, ids as long as UUIDs, texts of the
// greatest length, offsets far apart.
func TestStateStaysSmall(t *testing.T) {
	m := &detector(t).model
	largest, most := 0, 0
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var data []byte
		offset := int64(1) << 40
		for i := range 300 {
			var s state
			s.decode(data)
			e := event{id: fmt.Sprintf("%036d", i), sender: rng.Uint64N(1 + seed%7), at: start.Unix() + int64(i), prior: rng.Float64(), partition: math.MaxInt32}
			e.evidence = evidence{id: []byte(e.id), n: maxItems, offsets: maxContext}
			for l := range e.weights {
				e.weights[l] = rng.Float32() * maxWeight
			}
			for j := range e.evidence.items {
				e.evidence.items[j] = item{label(rng.IntN(int(labels))), uint8(rng.IntN(256)), span{4*pipeline.MaxTextLength - 20_000, 4 * pipeline.MaxTextLength}}
			}
			for j := range e.evidence.context {
				offset += 1 << 30
				e.evidence.context[j] = offset
			}
			s.states(e.sender, uint8(minStated+rng.IntN(11)))
			step(&s, &e, m)
			data = s.encode()
			largest, most = max(largest, len(data)), max(most, len(s.evidence))
			if len(s.evidence) == 0 {
				t.Fatal("no evidence is left")
			}
			var again state
			if again.decode(data); !bytes.Equal(again.append(nil), data) {
				t.Fatal("does not read back")
			}
		}
	}
	t.Logf("at most %d bytes", largest)
	if largest > 512 || largest < 450 || most < 3 {
		t.Errorf("%d bytes of state for ids of 36 bytes, %d messages of evidence", largest, most)
	}
	// A conversation of two keeps all of its evidence.
	r := newReplay(detector(t))
	r.offset = 1 << 33
	for i := range 200 {
		r.judge(t, message(fmt.Sprintf("%036d", i), fmt.Sprint("member", i%9/8), developing[i%len(developing)], i))
	}
	var s state
	if s.decode(r.states["c"]); len(s.evidence) != maxEvidence || len(r.states["c"]) > 512 {
		t.Errorf("%d messages of evidence in %d bytes", len(s.evidence), len(r.states["c"]))
	}
}

func TestStateHoldsNoText(t *testing.T) {
	r := newReplay(detector(t))
	say(t, r, developing...)
	for _, text := range developing {
		for word := range strings.FieldsSeq(text) {
			if len(word) > 3 && strings.Contains(string(r.states["c"]), word) {
				t.Errorf("the state holds a word of the message")
			}
		}
	}
}

func TestReasonsQuoteNothing(t *testing.T) {
	r := newReplay(detector(t))
	for _, a := range say(t, r, "my dog is called zanzibar, dont tell your parents zanzibar", "are you home alone zanzibar", "you are so mature for your age zanzibar") {
		for _, f := range a.Findings {
			if strings.Contains(f.Reason, "zanzibar") || strings.Contains(f.Reason, "tell") {
				t.Errorf("reason quotes the message: %s", f.Reason)
			}
		}
	}
}

func TestEvidenceOfAnotherPartitionHasNoContext(t *testing.T) {
	d := detector(t)
	r := newReplay(d)
	say(t, r, "dont tell your parents", "how old are you")
	it := &pipeline.Item{Message: message("x", "a", "are you home alone? send me a selfie", 9), Position: pipeline.Position{Partition: 3, Offset: 7}}
	it.SetState(Name, r.states["c"])
	a, err := d.Detect(t.Context(), it)
	if err != nil || !alerts(a) {
		t.Fatalf("no alert: %v", err)
	}
	for _, f := range a.Findings {
		if len(f.Context) != 0 {
			t.Errorf("context %v lies in another partition", f.Context)
		}
	}
}

func TestSpansPointAtTheOriginal(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"plain":       {"ok. DON'T tell your mom!", "DON'T tell your mom"},
		"cyrillic":    {"ok dоn't tеll yоur mоm pls", "dоn't tеll yоur mоm"},
		"zero width":  {"x d\u200bon't te\u200bll your m\u200bom x", "d\u200bon't te\u200bll your m\u200bom"},
		"math bold":   {"x 𝐝𝐨𝐧𝐭 𝐭𝐞𝐥𝐥 𝐲𝐨𝐮𝐫 𝐦𝐨𝐦 x", "𝐝𝐨𝐧𝐭 𝐭𝐞𝐥𝐥 𝐲𝐨𝐮𝐫 𝐦𝐨𝐦"},
		"full width":  {"ｄｏｎｔ　ｔｅｌｌ　ｙｏｕｒ　ｍｏｍ", "ｄｏｎｔ　ｔｅｌｌ　ｙｏｕｒ　ｍｏｍ"},
		"marks":       {"x dön̈t téll yóur móm x", "dön̈t téll yóur móm"},
		"leet":        {"x d0nt t3ll y0ur m0m x", "d0nt t3ll y0ur m0m"},
		"spaced":      {"x, d o n t  t e l l  y o u r  m o m", "d o n t  t e l l  y o u r  m o m"},
		"dotted":      {"hm d.o.n.t t.e.l.l y.o.u.r m.o.m", "d.o.n.t t.e.l.l y.o.u.r m.o.m"},
		"stretched":   {"hm donttt telll youuur mommm", "donttt telll youuur mommm"},
		"small caps":  {"x ᴅᴏɴᴛ ᴛᴇʟʟ ʏᴏᴜʀ ᴍᴏᴍ x", "ᴅᴏɴᴛ ᴛᴇʟʟ ʏᴏᴜʀ ᴍᴏᴍ"},
		"punctuation": {"dont -- tell... your, mom", "dont -- tell... your, mom"},
	} {
		t.Run(name, func(t *testing.T) {
			a := say(t, newReplay(detector(t)), c.text)[0]
			for _, f := range a.Findings {
				if f.Label == "secrecy" {
					if got := c.text[f.Spans[0].Start:f.Spans[0].End]; got != c.want {
						t.Errorf("span %q, want %q", got, c.want)
					}
					return
				}
			}
			t.Errorf("not found: %v", a.Findings)
		})
	}
}

func TestAllowCuesLowerAndAreNotPartOfCues(t *testing.T) {
	score := func(text string) float64 {
		for _, f := range say(t, newReplay(detector(t)), text)[0].Findings {
			if f.Label == "secrecy" {
				return f.Score
			}
		}
		return 0
	}
	if score("dont tell your mom") == 0 {
		t.Error("part of the cue was taken for advice to tell")
	}
	for _, text := range []string{
		"he said dont tell your mom, what should i do", "if someone says dont tell your parents, tell a trusted adult",
		"dont tell your sister, its a surprise party",
	} {
		if s := score(text); s > 0.2 {
			t.Errorf("%q has score %v", text, s)
		}
	}
}

func TestACueSaidOftenDoesNotHideItself(t *testing.T) {
	d := detector(t)
	var s scratch
	for _, text := range []string{
		strings.Repeat("dont tell your mom. ", 4), strings.Repeat("dont tell your mom. ", 3000),
		"dont tell your mom. d0nt tell your mom", "d0nt tell your mom, " + strings.Repeat("dont tell your mom, ", 20),
	} {
		if d.lexicon.scan(text, &s); s.cues[secrecy].weight < 1.9 {
			t.Errorf("%.40q… has weight %v", text, s.cues[secrecy].weight)
		}
	}
	// Whichever of the two is found first.
	own, err := loadPacks(map[string][]byte{"x": []byte("version: 1\nlanguage: xx\nrules:\n- {label: secrecy, weight: 2, phrases: [a b c]}\nallow:\n" +
		"- {name: end, factor: 0, phrases: [b c]}\n- {name: behind, factor: 0, phrases: [c d]}\n- {name: before, factor: 0, phrases: [x a]}\n- {name: apart, factor: 0, phrases: [e]}\n")})
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]float32{"a b c": 2, "a b c d": 2, "x a b c": 2, "x a b c d": 2, "a b c, b c": 0, "e a b c": 0, "a b c e": 0, "x a, a b c": 0} {
		if own.scan(text, &s); s.cues[secrecy].weight != want {
			t.Errorf("%q has weight %v, want %v", text, s.cues[secrecy].weight, want)
		}
	}
	for _, text := range []string{"dont tell your mom. tell your mom", strings.Repeat("dont tell your mom. ", 20) + "tell your mom"} {
		if d.lexicon.scan(text, &s); s.cues[secrecy].weight > 1 {
			t.Errorf("%.40q… has weight %v: advice beside the cue no longer counts", text, s.cues[secrecy].weight)
		}
	}
}

func TestVersionNamesPacksAndSettings(t *testing.T) {
	p := packs(t)
	cfg := DefaultConfig()
	a := version(cfg, namesAndDigests(p))
	cfg.High = 0.95
	if version(cfg, namesAndDigests(p)) == a {
		t.Error("settings are not in the version")
	}
	p["grooming-en.yaml"] = append(p["grooming-en.yaml"], ' ')
	if version(DefaultConfig(), namesAndDigests(p)) == a {
		t.Error("packs are not in the version")
	}
	if got := detector(t).Version(); got != a {
		t.Errorf("version %s, then %s", got, a)
	}
}

func TestBadSettingsAreRefused(t *testing.T) {
	for _, cfg := range []Config{{}, {Review: 0.9, High: 0.7, HalfLife: time.Hour}, {Review: 0.7, High: 1, HalfLife: time.Hour}, {Review: math.NaN(), High: 0.9, HalfLife: time.Hour}, {Review: 0.7, High: 0.9}} {
		if _, err := New(cfg, packs(t)); err == nil {
			t.Errorf("%+v was taken", cfg)
		}
	}
	if _, err := New(DefaultConfig(), nil); err == nil {
		t.Error("no packs were taken")
	}
}

func BenchmarkDetectBenign(b *testing.B) {
	d := detector(b)
	it := &pipeline.Item{Message: message("m", "a", "yeah I think we should just leave at seven, the bus is too late", 0)}
	b.ReportAllocs()
	for b.Loop() {
		_, _ = d.Detect(b.Context(), it)
	}
}

func BenchmarkDetectBenignWithModel(b *testing.B) {
	d := detector(b).With(loaded(b, madeFile(b, 1, 17, everydayText)))
	it := &pipeline.Item{Message: message("m", "a", everydayText, 0)}
	b.ReportAllocs()
	for b.Loop() {
		_, _ = d.Detect(b.Context(), it)
	}
}

func BenchmarkDetectCueWithState(b *testing.B) {
	d := detector(b)
	r := newReplay(d)
	say(b, r, developing...)
	it := &pipeline.Item{Message: message("new", "a", "are you alone right now? dont tell your mom about me pls", 20)}
	it.SetState(Name, r.states["c"])
	b.ReportAllocs()
	for b.Loop() {
		_, _ = d.Detect(b.Context(), it)
	}
}

func BenchmarkFold(b *testing.B) {
	var v view
	b.ReportAllocs()
	for b.Loop() {
		v.fold("yeah I think we should just leave at seven, the bus is too late")
	}
}

func BenchmarkStateDecodeEncode(b *testing.B) {
	r := newReplay(detector(b))
	say(b, r, developing...)
	data := r.states["c"]
	var s state
	var out []byte
	b.ReportAllocs()
	for b.Loop() {
		s.decode(data)
		out = s.append(out[:0])
	}
}

func TestAMarkedRepeatIsNotCountedAlsoWhereItIsNoLongerEvidence(t *testing.T) {
	r := newReplay(detector(t))
	r.seen["c\x00m"] = true
	if a := r.judge(t, message("m", "a", "dont tell your parents", 0)); a.State != nil || a.Risk != 0 || len(a.Findings) == 0 {
		t.Errorf("%d bytes of state, risk %v, %d findings", len(a.State), a.Risk, len(a.Findings))
	}
}

func TestBytesBehindAStateAreDamage(t *testing.T) {
	r := newReplay(detector(t))
	say(t, r, developing...)
	var s state
	if s.decode(append(r.states["c"], 0)); len(s.directions) != 0 {
		t.Error("taken for a state")
	}
}

func TestAnAlertCitesItsOwnSenderOnly(t *testing.T) {
	r := newReplay(detector(t))
	r.judge(t, message("other", "b", "dont tell your parents", 0))
	cited := false
	for i, text := range developing {
		for _, f := range r.judge(t, message(fmt.Sprint(i), "a", text, i)).Findings {
			if f.MessageID == "other" {
				t.Fatal("the evidence is another sender's")
			}
			cited = cited || f.MessageID != ""
		}
	}
	if !cited {
		t.Error("no earlier evidence of the sender")
	}
}

func TestNoSingleCueAlertsWhateverTheThresholds(t *testing.T) {
	m := detector(t).model
	m.bands = [bands]float64{0.1, 0.9}
	var s state
	e := event{at: start.Unix(), prior: maxPrior}
	e.weights[secrecy] = maxWeight
	step(&s, &e, &m)
	if r := m.conversation(&s, start.Unix()); r >= m.bands[0] {
		t.Errorf("risk %v", r)
	}
}

// TestWhatOneMessageSaidDoesNotOutweighAllElse adds to a strong cue, and then to
// the weak one beside it.
func TestWhatOneMessageSaidDoesNotOutweighAllElse(t *testing.T) {
	m := detector(t).model
	risk := func(strong, weak float64, times int) float64 {
		var s state
		for i := range 3 {
			e := event{at: start.Unix() + int64(60*i)}
			if i < times {
				e.weights[secrecy] = float32(strong)
			}
			if i == 2 {
				e.weights[isolation] = float32(weak)
			}
			step(&s, &e, &m)
		}
		return m.conversation(&s, start.Unix()+120)
	}
	if a, b := risk(3.5, 0.5, 1), risk(maxModel, 0.5, 1); a != b {
		t.Errorf("beside a weak cue the strong one counts without bound: %v, %v", a, b)
	}
	if a, b := risk(maxModel, 0.5, 1), risk(maxModel, 1, 1); b <= a {
		t.Errorf("more beside it does not count: %v, %v", a, b)
	}
	if a, b := risk(maxModel, 0.5, 1), risk(maxModel, 0.5, 2); b <= a {
		t.Errorf("said twice it does not count: %v, %v", a, b)
	}
}

// TestWhatAReasonNamesAddsUp reads the reasons of alerts: what labels, account
// data and bounds count adds up to the log-odds of the risk that it says.
func TestWhatAReasonNamesAddsUp(t *testing.T) {
	amounts := regexp.MustCompile(`[+-][0-9]+\.[0-9]`)
	d := detectors(t)["rules and model"]
	alerts, bounded := 0, 0
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 1))
		r := newReplay(d)
		for i := range 12 {
			m := message(fmt.Sprint("m", i), "a", developing[rng.IntN(len(developing))], i)
			if rng.IntN(3) == 0 {
				young, old := 9+rng.IntN(8), 30
				m.Sender.Age, m.Recipients = &old, []pipeline.Party{{ID: "b", Age: &young}}
			}
			for _, f := range r.judge(t, m).Findings {
				if f.Supports {
					continue
				}
				sum, total := 0., 0.
				parts := amounts.FindAllString(f.Reason, -1)
				for j, p := range parts {
					v, err := strconv.ParseFloat(p, 64)
					if err != nil {
						t.Fatal(err)
					}
					if j == len(parts)-1 {
						total = v
					} else {
						sum += v
					}
				}
				alerts++
				if strings.Contains(f.Reason, "few messages") || strings.Contains(f.Reason, "in one message only") {
					bounded++
				}
				if logit := math.Log(f.Score / (1 - f.Score)); math.Abs(sum-total) > 1e-9 || math.Abs(logit-total) > 0.051 {
					t.Errorf("%q: the entries are %.1f, the risk %.4f is %.2f", f.Reason, sum, f.Score, logit)
				}
			}
		}
	}
	if alerts < 20 || bounded == 0 {
		t.Errorf("%d alerts, %d of them with a bound: this showed hardly anything", alerts, bounded)
	}
}

func TestAllAccountDataTogetherAreBounded(t *testing.T) {
	n, young, old, no := 1000, 8, 90, false
	m := message("m", "a", "", 0)
	m.Sender.Age, m.Sender.Connected, m.Sender.AccountCreatedAt = &old, &no, &start
	m.Sender.Behaviour = &pipeline.Behaviour{MinorsContacted: &n, StrangersContacted: &n, BlockedBy: &n, ReportedBy: &n}
	m.Recipients = []pipeline.Party{{Age: &young}}
	if p := prior(m, 0); p != maxPrior {
		t.Errorf("prior %v", p)
	}
}

func TestPacksAreCompiledAgainOnlyWhereTheyChanged(t *testing.T) {
	d := detector(t)
	cfg := DefaultConfig()
	cfg.Review = 0.6
	same, err := d.Renew(cfg, packs(t))
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := New(cfg, packs(t))
	if err != nil {
		t.Fatal(err)
	}
	if same.lexicon != d.lexicon || same.Version() != fresh.Version() || same.Version() == d.Version() || same.model != fresh.model {
		t.Errorf("the same packs: compiled again %v, version %s, want %s", same.lexicon != d.lexicon, same.Version(), fresh.Version())
	}
	for name := range packs(t) {
		changed := maps.Clone(packs(t))
		changed[name] = append(slices.Clone(changed[name]), '\n')
		other, err := d.Renew(cfg, changed)
		if err != nil {
			t.Fatal(err)
		}
		if other.lexicon == d.lexicon || other.Version() == fresh.Version() {
			t.Errorf("a change of %s was not taken over", name)
		}
		break
	}
}
