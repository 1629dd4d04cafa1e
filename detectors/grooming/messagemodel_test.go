package grooming

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/go-json-experiment/json"

	"github.com/dmguard/dmguard/pipeline"
)

// madeFile returns a model of random numbers that knows about half of what texts
// hold.
func madeFile(t testing.TB, seed uint64, bits int, texts ...string) []byte {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 3))
	rows := map[uint32]ModelRow{}
	x := detector(t).Extractor()
	for _, text := range texts {
		x.Blocks(text, func(hashes []uint64) {
			for _, h := range hashes {
				if rng.IntN(2) == 0 {
					continue
				}
				r := ModelRow{}
				r.Row, r.Check = Slot(h, bits)
				for l := range trained {
					r.Weights[l] = int8(rng.IntN(256) - 128)
				}
				rows[r.Row] = r
			}
		})
	}
	var sorted []ModelRow
	for row := range uint32(1) << bits {
		if r, ok := rows[row]; ok {
			sorted = append(sorted, r)
		}
	}
	h := ModelHeader{Bits: bits, Least: 20}
	h.Calibration.Tails = make([][]float32, labels)
	for l := range trained {
		h.Bias[l], h.Scale[l] = rng.Float32()-0.5, rng.Float32()/8
	}
	for l := range labels {
		for i := range maxBans * tailsPerBan {
			h.Calibration.Tails[l] = append(h.Calibration.Tails[l], 100+float32(i))
		}
	}
	file, err := h.Encode(sorted)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func loaded(t testing.TB, file []byte) *MessageModel {
	t.Helper()
	m, err := LoadModel(file)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func madeModel(t testing.TB, seed uint64, texts ...string) *MessageModel {
	t.Helper()
	return loaded(t, madeFile(t, seed, 12, texts...))
}

// phraseModel knows one phrase, as the labels say, the more the later, and
// nothing else: every message that has it has the most evidence for them.
func phraseModel(t testing.TB, phrase string, of ...label) *MessageModel {
	t.Helper()
	const bits = 16
	rows := map[uint32]ModelRow{}
	var x Extractor
	x.Blocks(phrase, func(hashes []uint64) {
		for _, h := range hashes {
			r := ModelRow{}
			r.Row, r.Check = Slot(h, bits)
			for i, l := range of {
				r.Weights[l] = int8(100 + i)
			}
			rows[r.Row] = r
		}
	})
	var sorted []ModelRow
	for row := range uint32(1 << bits) {
		if r, ok := rows[row]; ok {
			sorted = append(sorted, r)
		}
	}
	h := ModelHeader{Bits: bits, Least: 4}
	h.Calibration.Tails = make([][]float32, labels)
	for i := range h.Scale {
		h.Scale[i], h.Bias[i] = 1, -5
	}
	for i := range labels {
		h.Calibration.Tails[i] = slices.Repeat([]float32{50}, maxBans*tailsPerBan)
	}
	file, err := h.Encode(sorted)
	if err != nil {
		t.Fatal(err)
	}
	return loaded(t, file)
}

// texts are of all kinds that the extractor treats in its own way.
var texts = []string{
	"", " ", "!?", "a", "ok", everydayText, strings.Repeat(everydayText+" ", 40), strings.Repeat("x", 300), strings.Repeat("日本語テキスト", 50),
	"привет как дела сегодня", "ｄｏｎｔ wоrry 𝐛𝐞 happy", "d o n t w o r r y", strings.Repeat("a b c ", 100), "über straße 12 ünïcödé", "\xff\xfe bad",
	strings.Repeat("\ufdfa", 9000), strings.Repeat("🙂 hello ", 30), strings.Repeat("é", 77) + " " + strings.Repeat("aé", 77),
}

func TestWhatWordsAddedIsExactlyTheScore(t *testing.T) {
	m := madeModel(t, 2, texts...)
	rules := detector(t).lexicon
	var s scratch
	var again opinion
	ideas := 0
	for _, text := range texts {
		rules.read(text, &s)
		v, r := s.reading, &s.opinion
		m.score(v.b, s.ideas, r)
		ideas += len(s.ideas)
		for l := range labels {
			w := r.windows[l]
			if w.to == 0 {
				if slices.ContainsFunc(v.b, func(b byte) bool { return kind[b] == inWord }) {
					t.Errorf("%.20q: no window", text)
				}
				continue
			}
			words, known := m.shares(v.b, s.ideas, w, l, &again.x)
			sum := int32(0)
			for i, word := range words {
				sum += word.twice
				if word.span.start < w.from || word.span.end > w.to || word.span.start >= word.span.end || i > 0 && word.span.start < words[i-1].span.end {
					t.Errorf("%.20q: word %v of window %v", text, word.span, w)
				}
			}
			if sum%2 != 0 {
				t.Errorf("%.20q: %d halves", text, sum)
			}
			if got := m.logit(int(l), sum/2, length(known, m.header.Least)); got != r.scores[l] {
				t.Errorf("%.20q, %v: the words add up to %v, the score is %v", text, l, got, r.scores[l])
			}
		}
	}
	if ideas < 20 {
		t.Errorf("%d ideas: nothing is shown of them", ideas)
	}
}

func TestAPairOfWordsCountsHalfForEach(t *testing.T) {
	const bits, weight = 12, 20
	var x extractor
	x.reset([]byte("red car and red car"), 0, nil)
	x.next()
	var row ModelRow
	for i, back := range x.block.back[:x.block.n] {
		if back == 1 && x.block.word[i] == 1 {
			row.Row, row.Check = Slot(x.block.hashes[i], bits)
			row.Weights[gift] = weight
		}
	}
	h := ModelHeader{Bits: bits, Least: 1}
	h.Calibration.Tails = make([][]float32, labels)
	file, err := h.Encode([]ModelRow{row})
	if err != nil {
		t.Fatal(err)
	}
	m := loaded(t, file)
	text := []byte("red car and red car")
	var got []int32
	words, _ := m.shares(text, nil, window{0, len(text), 0}, gift, &x)
	for _, w := range words {
		got = append(got, w.twice)
	}
	if want := []int32{weight, weight, 0, weight, weight}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	// The window may begin between the two.
	x.reset(text[:3], 0, nil)
	x.next()
	words, _ = m.shares(text, nil, window{4, 7, x.previous}, gift, &x)
	if len(words) != 1 || words[0].twice != 2*weight {
		t.Errorf("%v", words)
	}
}

// naive scores a text with plain arithmetic, window by window.
func naive(m *MessageModel, x *Extractor, text string) (out [trained]float32) {
	type sum struct {
		sums  [trained]int
		known int
	}
	var blocks []sum
	x.Blocks(text, func(hashes []uint64) {
		var s sum
		for _, h := range hashes {
			row, check := Slot(h, m.header.Bits)
			var b [16]byte
			binary.LittleEndian.PutUint64(b[:], m.rows[row][0])
			binary.LittleEndian.PutUint64(b[8:], m.rows[row][1])
			if m.checks[row] != check {
				continue
			}
			s.known++
			for l := range trained {
				s.sums[l] += int(b[l]) - 128
			}
		}
		blocks = append(blocks, s)
	})
	for l := range trained {
		out[l] = m.header.Bias[l]
		for i := range max(1, len(blocks)-1) {
			if len(blocks) == 0 {
				break
			}
			all := blocks[i]
			if i+1 < len(blocks) {
				all.known += blocks[i+1].known
				all.sums[l] += blocks[i+1].sums[l]
			}
			s := m.logit(l, int32(all.sums[l]), length(int32(all.known), m.header.Least))
			if i == 0 || l < harmless && s > out[l] || l == harmless && s < out[l] {
				out[l] = s
			}
		}
	}
	return out
}

func FuzzScoresAreThoseOfPlainArithmetic(f *testing.F) {
	m := madeModel(f, 3, texts...)
	for _, text := range texts {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 1<<14 {
			return // by itself one stretch, which Blocks and score see alike
		}
		if got, want := m.Scores(text, detector(t)), naive(m, detector(t).Extractor(), text); got != want {
			t.Fatalf("got %v, want %v", got, want)
		}
	})
}

func FuzzBlocksHoldAllWords(f *testing.F) {
	for _, text := range texts {
		f.Add(text)
	}
	var v view
	var x extractor
	f.Fuzz(func(t *testing.T, text string) {
		v.fold(text)
		x.reset(v.b, 0, nil)
		at := 0
		for x.next() {
			if x.block.n > maxBlockFeatures || x.block.words > blockWords || x.block.words == 0 {
				t.Fatalf("%d features of %d words", x.block.n, x.block.words)
			}
			for _, sp := range x.block.spans[:x.block.words] {
				for _, c := range v.b[at:sp.start] {
					if kind[c] == inWord {
						t.Fatal("a word is left out")
					}
				}
				if sp.end-sp.start > maxWordBytes || sp.start >= sp.end {
					t.Fatalf("a word of %d bytes", sp.end-sp.start)
				}
				at = sp.end
			}
		}
		for _, c := range v.b[at:] {
			if kind[c] == inWord {
				t.Fatal("a word is left out at the end")
			}
		}
	})
}

func TestPaddingDoesNotHide(t *testing.T) {
	const phrase = "the purple elephant plays chess"
	m := phraseModel(t, phrase, gift)
	plain := m.Evidence(phrase, nil)[gift]
	if plain < 3 {
		t.Fatalf("%v bans without padding", plain)
	}
	filler := strings.Repeat("something else entirely and on it goes ", pipeline.MaxTextLength/80)
	for name, text := range map[string]string{
		"before": filler + filler + phrase, "behind": phrase + " " + filler + filler, "around": filler + phrase + " " + filler,
		"letters": strings.Repeat("q ", 20000) + phrase + strings.Repeat(" q", 10000), "no spaces": strings.Repeat("q", 30000) + " " + phrase + " " + strings.Repeat("q", 30000),
	} {
		if len(text) > pipeline.MaxTextLength+len(phrase)+100 {
			t.Fatalf("%s: %d", name, len(text))
		}
		if got := m.Evidence(text, nil)[gift]; got < plain {
			t.Errorf("%s: %v bans, %v without padding", name, got, plain)
		}
	}
	for offset := range 64 { // wherever it falls within blocks
		if got := m.Evidence(strings.Repeat("or ", offset)+phrase+strings.Repeat(" or", 50), nil)[gift]; got < plain {
			t.Errorf("%d words before: %v bans", offset, got)
		}
	}
}

func TestTheWorkIsBoundedAlsoWhereTextGrows(t *testing.T) {
	chars := 0
	var v view
	v.fold(strings.Repeat("\ufdfa", pipeline.MaxTextLength))
	stretches(v.b, func(text []byte, from int) {
		chars += utf8.RuneCount(text)
		if !bytes.Equal(text, v.b[from:from+len(text)]) || !utf8.Valid(text) {
			t.Error("a stretch is not where it says, or cuts a character")
		}
	})
	if chars > maxModelChars || chars < maxModelChars/2 {
		t.Errorf("%d characters of %d", chars, utf8.RuneCount(v.b))
	}
}

func TestScoringAllocatesNothing(t *testing.T) {
	m := madeModel(t, 4, everydayText)
	rules := detector(t).lexicon
	var s scratch
	for _, text := range texts {
		rules.read(text, &s)
		if n := testing.AllocsPerRun(10, func() { m.score(s.reading.b, s.ideas, &s.opinion) }); n != 0 {
			t.Errorf("%.20q: %v", text, n)
		}
	}
}

func TestAWrongModelIsRefused(t *testing.T) {
	good := madeFile(t, 5, 12, texts...)
	change := func(f func(*ModelHeader)) []byte {
		m := loaded(t, good)
		h := m.header
		h.Calibration.Tails = slices.Clone(h.Calibration.Tails)
		h.Labels = slices.Clone(h.Labels)
		f(&h)
		header, err := json.Marshal(&h)
		if err != nil {
			t.Fatal(err)
		}
		return assemble(t, header, body(t, good))
	}
	flip := func(at int) []byte {
		b := bytes.Clone(good)
		b[at] ^= 1
		return b
	}
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"empty":           {nil, "not a message model"},
		"something else":  {[]byte("version: 1\n"), "not a message model"},
		"another version": {bytes.Replace(bytes.Clone(good), []byte("model 3\n"), []byte("model 4\n"), 1), "version"},
		"cut short":       {good[:len(modelMagic)+10], "cut short"},
		"half":            {good[:len(good)/2], ""},
		"digest":          {flip(len(modelMagic)), "damaged"},
		"header":          {flip(len(modelMagic) + 36 + 20), "damaged"},
		"too large":       {append(bytes.Clone(good), make([]byte, MaxModelBytes)...), "more than"},
		"label order":     {change(func(h *ModelHeader) { h.Labels[0], h.Labels[1] = h.Labels[1], h.Labels[0] }), "labels"},
		"labels missing":  {change(func(h *ModelHeader) { h.Labels = h.Labels[1:] }), "labels"},
		"other features":  {change(func(h *ModelHeader) { h.Features++ }), "features"},
		"bits":            {change(func(h *ModelHeader) { h.Bits = 40 }), "bits"},
		"fewer rows":      {change(func(h *ModelHeader) { h.Rows-- }), "rows"},
		"least":           {change(func(h *ModelHeader) { h.Least = 0 }), "least"},
		"scale":           {change(func(h *ModelHeader) { h.Scale[0] = -1 }), "scale"},
		"not calibrated":  {change(func(h *ModelHeader) { h.Calibration.Tails = nil }), "calibrated"},
		"falling tails":   {change(func(h *ModelHeader) { h.Calibration.Tails[3] = []float32{2, 1} }), "calibration"},
		"too much":        {change(func(h *ModelHeader) { h.Calibration.Tails[3] = make([]float32, 100) }), "calibration"},
		"small table":     {change(func(h *ModelHeader) { h.Bits = 8 }), "rows"},
		"unknown member":  {assemble(t, []byte(`{"what":1}`), nil), "header"},
	} {
		if _, err := LoadModel(c.data); err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "message model: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for at := range good {
		if at%29 == 0 || at < len(modelMagic)+40 {
			if _, err := LoadModel(flip(at)); err == nil {
				t.Errorf("byte %d of %d was changed unseen", at, len(good))
			}
		}
	}
}

// body returns the table of a file.
func body(t testing.TB, file []byte) []byte {
	t.Helper()
	at := len(modelMagic) + 32
	at += 4 + int(binary.LittleEndian.Uint32(file[at:]))
	b, err := io.ReadAll(flate.NewReader(bytes.NewReader(file[at:])))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// assemble makes a file whose digest is right.
func assemble(t testing.TB, header, body []byte) []byte {
	t.Helper()
	digest := modelDigest(header, body)
	b := append([]byte(modelMagic), digest[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(header)))
	b = append(b, header...)
	var packed bytes.Buffer
	z, err := flate.NewWriter(&packed, flate.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = z.Write(body)
	_ = z.Close()
	return append(b, packed.Bytes()...)
}

// FuzzLoadModel gives hostile files with a right digest, and as they come.
func FuzzLoadModel(f *testing.F) {
	good := madeFile(f, 6, 12, everydayText)
	header, err := json.Marshal(loaded(f, good).Header())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(header, body(f, good), true)
	f.Add(good, []byte{}, false)
	f.Add([]byte(`{}`), []byte{}, true)
	f.Fuzz(func(t *testing.T, a, b []byte, right bool) {
		if right {
			a = assemble(t, a, b)
		}
		m, err := LoadModel(a)
		if err != nil {
			return
		}
		for _, text := range texts[:8] {
			for l, s := range m.Scores(text, nil) {
				if math.IsNaN(float64(s)) || math.IsInf(float64(s), 0) {
					t.Fatalf("score %v", s)
				}
				if l == harmless {
					continue
				}
				if e := m.bans(label(l), s); e < 0 || e > maxBans {
					t.Fatalf("%v bans", e)
				}
			}
		}
	})
}

func TestOfRuleAndModelTheOneThatSaysMoreCounts(t *testing.T) {
	rulesOnly := detector(t)
	_, messages := conversations(t)
	var all []string
	for _, m := range messages {
		all = append(all, m.Text.Reveal())
	}
	both := rulesOnly.With(madeModel(t, 7, all...)) // which finds something in nearly everything
	var a, b scratch
	found, excused := 0, 0
	for _, m := range messages {
		text := m.Text.Reveal()
		rulesOnly.lexicon.scan(text, &a)
		both.lexicon.scan(text, &b)
		both.reader.read(&b)
		b.single()
		var want [labels]float32
		strongest := ageProbe
		for l := range labels {
			ca, cb := &a.cues[l], &b.cues[l]
			excuse := harmlessGrowth * max(0, b.opinion.beside[l]-harmlessFrom)
			rule := ca.weight
			if !ca.disguised {
				rule *= ruleShare
			}
			if rule < minCue {
				rule = 0
			}
			excused += int(b2i(excuse > 0))
			model := min(maxModel, modelGrowth*max(0, b.opinion.scores[l]-excuse-telling)) * b.factor[l]
			if want[l] = rule; cb.read {
				if slices.ContainsFunc(cb.spans[:cb.n], func(sp span) bool { return b.hides(sp.start, sp.end) }) {
					model = min(maxModel, model*hidden)
				}
				if want[l] = model; model <= rule {
					t.Fatalf("%v: the model says %v, the rule %v", l, model, rule)
				}
			}
			if want[l] > want[strongest] {
				strongest = l
			}
		}
		for l := range labels {
			cb := &b.cues[l]
			if l != strongest {
				if want[l] *= besides; want[l] < minCue {
					want[l] = 0
				}
			}
			if cb.weight != want[l] {
				t.Fatalf("%v: %+v became %+v, and %v was wanted", l, &a.cues[l], cb, want[l])
			}
			if !cb.read {
				continue
			}
			found++
			if cb.n == 0 {
				t.Fatalf("%v: no place", l)
			}
			for _, sp := range cb.spans[:cb.n] {
				if sp.start < 0 || sp.start >= sp.end || sp.end > len(text) || !utf8.ValidString(text[sp.start:sp.end]) {
					t.Fatalf("%v: span %v of %d bytes", l, sp, len(text))
				}
			}
		}
	}
	if found == 0 || excused == 0 {
		t.Errorf("the model found %d cues and excused %d", found, excused)
	}
}

// TestHarmlessWordingExcusesTheModelAndNoRule judges one message by models that
// differ in how harmless they call it.
func TestHarmlessWordingExcusesTheModelAndNoRule(t *testing.T) {
	const text = "do not tell your mom about us"
	last, plain := math.Inf(1), 0.
	for _, h := range []float32{-30, -1.4, -1, -0.9, -0.7, -0.5, 30} {
		m := phraseModel(t, "about us", gift)
		m.header.Bias[harmless], m.header.Scale[gift] = h, 0.015
		scores := map[string]float64{}
		for _, f := range say(t, newReplay(detector(t).With(m)), text)[0].Findings {
			scores[f.Label] = f.Score
		}
		if sum := scores["gift"] + scores["secrecy"]; sum > last || h > harmlessFrom && h <= 0 && sum == last {
			t.Errorf("harmless by %v: %v after %v", h, scores, last)
		} else {
			last = sum
		}
		switch {
		case h < harmlessFrom && (scores["gift"] == 0 || scores["secrecy"] == 0):
			t.Errorf("harmless by %v: %v", h, scores)
		case h < harmlessFrom:
			plain = scores["secrecy"]
		case scores["secrecy"] < plain || h == 30 && scores["gift"] > 0:
			t.Errorf("harmless by %v: %v, and %v without", h, scores, plain)
		}
	}
}

func TestWhatIsDisguisedIsNotExcused(t *testing.T) {
	m := phraseModel(t, "x", gift)
	m.header.Bias[harmless] = 30
	open, hidden := "do not tell your mom about us", "d0 n0t t3ll y0ur m0m ab0ut us"
	score := func(d *Detector, text string) float64 {
		for _, f := range say(t, newReplay(d), text)[0].Findings {
			if f.Label == "secrecy" {
				return f.Score
			}
		}
		return 0
	}
	rules := detector(t)
	both := rules.With(m)
	if score(both, open) >= score(rules, open) || score(both, hidden) != score(rules, hidden) || score(rules, hidden) <= score(rules, open) {
		t.Errorf("open %v and %v, hidden %v and %v", score(rules, open), score(both, open), score(rules, hidden), score(both, hidden))
	}
}

func TestModelEvidenceIsFoundInTheOriginalAndSaysWhy(t *testing.T) {
	d := detector(t).With(phraseModel(t, "purple elephant plays chess", gift))
	for text, want := range map[string]string{
		"ok. My purple ELEPHANT plays chess, you know?":                             "purple ELEPHANT plays chess",
		"xx рurрlе elephant plауs chess xx":                                         "рurрlе elephant plауs chess",
		"so 𝐩𝐮𝐫𝐩𝐥𝐞 elep\u200bhant plays chess it was " + strings.Repeat("la ", 500): "𝐩𝐮𝐫𝐩𝐥𝐞 elep\u200bhant plays chess",
	} {
		a := say(t, newReplay(d), text)[0]
		if len(a.Findings) != 1 || a.Findings[0].Label != "gift" {
			t.Fatalf("%q: %+v", text, a.Findings)
		}
		f := a.Findings[0]
		if got := text[f.Spans[0].Start:f.Spans[0].End]; got != want {
			t.Errorf("%q, want %q", got, want)
		}
		if !strings.Contains(f.Reason, "message model: at most one in 10000 everyday messages") || strings.Contains(f.Reason, "rule ") || a.Risk == 0 || a.State == nil {
			t.Errorf("risk %v: %s", a.Risk, f.Reason)
		}
	}
	if a := say(t, newReplay(d), "the weather is grey"); len(a[0].Findings) != 0 {
		t.Errorf("%+v", a[0].Findings)
	}
}

func TestAllowCuesLowerTheModelToo(t *testing.T) {
	d := detector(t).With(phraseModel(t, "purple elephant plays chess", secrecy))
	score := func(text string) float64 {
		for _, f := range say(t, newReplay(d), text)[0].Findings {
			if f.Label == "secrecy" {
				return f.Score
			}
		}
		return 0
	}
	if plain, lowered := score("purple elephant plays chess"), score("its a surprise party, purple elephant plays chess"); plain == 0 || lowered > plain/2 {
		t.Errorf("%v, and %v beside an allow-cue", plain, lowered)
	}
}

func TestRuleAndModelAreBothNamed(t *testing.T) {
	d := detector(t).With(phraseModel(t, "where do you live", placeProbe))
	f := say(t, newReplay(d), "where do you live")[0].Findings
	if len(f) != 1 || !strings.Contains(f[0].Reason, "(rule en/place_probe/1; message model: ") || f[0].Score != score(maxModel) {
		t.Errorf("%+v", f)
	}
}

func TestTheModelSpeaksForOneLabelOfAMessage(t *testing.T) {
	d := detector(t).With(phraseModel(t, "purple elephant plays chess", pressure, gift, placeProbe, meetUp, imageRequest))
	r := newReplay(d)
	var got []string
	for _, f := range say(t, r, "purple elephant plays chess")[0].Findings {
		got = append(got, f.Label)
	}
	if want := []string{"image_request"}; !slices.Equal(got, want) { // of which it is surest
		t.Errorf("%v, want %v", got, want)
	}
}

func TestModelWeightIsMonotoneAndBounded(t *testing.T) {
	last := float32(0)
	for i := range 200 {
		logOdds := float32(i-100) / 10
		w := modelWeight(logOdds)
		if w < last || w > maxModel || (w > 0) != (logOdds > telling) {
			t.Errorf("weight %v at %v, after %v", w, logOdds, last)
		}
		last = w
	}
	if last != maxModel {
		t.Errorf("at most %v", last)
	}
}

func TestTheVersionNamesTheModel(t *testing.T) {
	d := detector(t)
	a, b := d.With(madeModel(t, 8, everydayText)), d.With(madeModel(t, 9, everydayText))
	if a.Version() == b.Version() || a.Version() == d.Version() || a.With(nil).Version() != d.Version() || a.With(b.reader).Version() != b.Version() {
		t.Errorf("%s, %s, %s", d.Version(), a.Version(), b.Version())
	}
}

func TestEvidenceIsWhatTheCalibrationSays(t *testing.T) {
	m := phraseModel(t, "x", gift)
	m.tails[gift] = []float32{-1, 0, 0, 2}
	for score, want := range map[float32]float64{-2: 0, -1: 0.1, -0.5: 0.1, 0: 0.3, 1: 0.3, 2: 0.4, 99: 0.4} {
		if got := m.bans(gift, score); got != want {
			t.Errorf("%v: %v bans, want %v", score, got, want)
		}
	}
}

const everydayText = "yeah I think we should just leave at seven, the bus is too late"

func BenchmarkModelScore(b *testing.B) {
	n := 65536
	for name, text := range map[string]string{
		"63 bytes": everydayText, "64 KiB": strings.Repeat("the quick brown fox ", n/20)[:n-16], "64 KiB one word": strings.Repeat("abcdefgh", n/8),
		"ligatures": strings.Repeat("\ufdfa", n), "math": strings.Repeat("𝐝", n), "single letters": strings.Repeat("d o n t ", n/8),
	} {
		b.Run(name, func(b *testing.B) {
			m := loaded(b, madeFile(b, 1, 17, text))
			var s scratch
			detector(b).lexicon.read(text, &s)
			b.ReportAllocs()
			for b.Loop() {
				m.score(s.reading.b, s.ideas, &s.opinion)
			}
			b.ReportMetric(float64(utf8.RuneCountInString(text)), "chars")
		})
	}
}
