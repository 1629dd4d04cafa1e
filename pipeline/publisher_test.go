package pipeline_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dmguard/dmguard/pipeline"
)

// keptLog is a Log that keeps what it accepts.
type keptLog struct {
	refuse  func(records []pipeline.Record) error
	offered int
	records []pipeline.Record
}

func (l *keptLog) Produce(_ context.Context, records []pipeline.Record) error {
	l.offered++
	if l.refuse != nil {
		if err := l.refuse(records); err != nil {
			return err
		}
	}
	l.records = append(l.records, slices.Clone(records)...)
	return nil
}

func (l *keptLog) topic(name string) []pipeline.Record {
	return slices.DeleteFunc(slices.Clone(l.records), func(r pipeline.Record) bool { return r.Topic != "test."+name })
}

// seals pretends to seal: its ciphertext is the evidence with every bit flipped.
func seals(e *pipeline.Evidence, caseID, messageID string) (pipeline.SealedEvidence, error) {
	plain, err := json.Marshal(struct {
		Context  []byte
		Evidence *pipeline.Evidence
	}{pipeline.EvidenceContext(caseID, messageID), e})
	for i := range plain {
		plain[i] ^= 0xff
	}
	return pipeline.SealedEvidence{KeyID: "k-1", Sealed: plain}, err
}

func unseal(t *testing.T, h *pipeline.Hit) pipeline.Evidence {
	t.Helper()
	plain := bytes.Clone(h.Evidence.Sealed)
	for i := range plain {
		plain[i] ^= 0xff
	}
	var v struct {
		Context  []byte
		Evidence pipeline.Evidence
	}
	if err := json.Unmarshal(plain, &v); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(v.Context, pipeline.EvidenceContext(h.CaseID, h.Verdict.MessageID)) {
		t.Errorf("the evidence of %s is bound to another case or message", h.CaseID)
	}
	return v.Evidence
}

func newPublisher(log pipeline.Log) *pipeline.Publisher {
	return &pipeline.Publisher{Log: log, Prefix: "test.", Seal: seals, Open: pipeline.OpenPlain}
}

// outcome returns an outcome of a message at an offset with a verdict.
func outcome(t *testing.T, offset int64, doc string, v pipeline.Verdict) *pipeline.Outcome {
	t.Helper()
	m, err := pipeline.ParseMessage([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	v.MessageID, v.ConversationID = m.ID, m.ConversationID
	if v.Findings == nil {
		v.Findings = []pipeline.Finding{}
	}
	v.Versions, v.DecidedAt = map[string]string{"policy": "7", "lists": "a"}, time.Date(2026, 3, 1, 17, 0, 0, 1e6, time.UTC)
	pos := pipeline.Position{Topic: "in.messages", Partition: 3, Offset: offset}
	return &pipeline.Outcome{
		Delivery: &pipeline.Delivery{Record: pipeline.Record{Position: pos, Key: []byte(m.ConversationID), Value: []byte(doc)}},
		Item:     &pipeline.Item{Message: m, Position: pos},
		Verdict:  &v,
	}
}

func publish(t *testing.T, p *pipeline.Publisher, batch ...*pipeline.Outcome) {
	t.Helper()
	if err := p.Accept(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
}

func hitsOf(t *testing.T, l *keptLog) []pipeline.Hit {
	t.Helper()
	var out []pipeline.Hit
	for _, r := range l.topic("hits") {
		var h pipeline.Hit
		if err := json.Unmarshal(r.Value, &h); err != nil {
			t.Fatal(err)
		}
		if string(r.Key) != h.CaseKey || h.CaseID != pipeline.CaseID(h.Kind, h.CaseKey) {
			t.Errorf("key %q, case %q %s", r.Key, h.CaseKey, h.CaseID)
		}
		out = append(out, h)
	}
	return out
}

// recordConforms holds a record to the schema that its header names.
func recordConforms(t *testing.T, r pipeline.Record) {
	t.Helper()
	name, ok := strings.CutSuffix(r.Header("schema"), "/v1")
	if !ok {
		t.Fatalf("the record of %s has no schema: %q", r.Topic, r.Headers)
	}
	if name != "deadletter" && r.Header("reference") == "" {
		conforms(t, name, r.Value)
		return
	}
	doc := map[string]any{"headers": map[string]string{}}
	for _, h := range r.Headers {
		doc["headers"].(map[string]string)[h.Key] = string(h.Value)
	}
	if r.Header("reference") != "" {
		doc["reference"] = json.RawMessage(r.Value)
	}
	if name != "deadletter" { // only the reference is held to its schema
		doc["headers"] = map[string]string{"schema": "deadletter/v1", "reason": "x", "topic": "x", "partition": "0", "offset": "0"}
	}
	conforms(t, "deadletter", []byte(encode(t, doc)))
}

func match(attachment, list, entry string) pipeline.Finding {
	return pipeline.Finding{
		Detector: "hashmatch", Category: "ncii", Score: 1, Reason: "list " + list + ", entry " + entry,
		Match: &pipeline.Match{AttachmentID: attachment, Kind: "pdq", List: list, Entry: entry, Distance: 3, Threshold: 31, Quality: 99},
	}
}

func review(fs ...pipeline.Finding) pipeline.Verdict {
	return pipeline.Verdict{Action: pipeline.Review, Severity: pipeline.High, Risk: 0.5, Findings: fs}
}

var growing = pipeline.Finding{
	Detector: "grooming", Category: "grooming", Label: "secrecy", Score: 0.9, Reason: "asks for secrecy", Spans: []pipeline.Span{{Start: 0, End: 4}},
}

// TestWhatIsKnownLaterIsOneMoreHitOnTheSameMessage annotates an outcome that has
// two cases: the conversation's alone gets another hit.
func TestWhatIsKnownLaterIsOneMoreHitOnTheSameMessage(t *testing.T) {
	log := &keptLog{}
	p := newPublisher(log)
	o := outcome(t, 5, loud(), review(growing, match("a-1", "l", "e-1")))
	publish(t, p, o)
	before := hitsOf(t, log)
	log.records = nil

	v := *o.Verdict
	v.Severity, v.Findings = pipeline.Critical, append(slices.Clone(v.Findings), pipeline.Finding{Detector: "second_look", Category: "second_look", Label: "raise", Score: 1, Reason: "so it is"})
	later := *o
	later.Verdict = &v
	if err := p.Annotate(t.Context(), &later); err != nil {
		t.Fatal(err)
	}
	after := hitsOf(t, log)
	if len(log.records) != 1 || len(before) != 2 || len(after) != 1 {
		t.Fatalf("%d records", len(log.records))
	}
	recordConforms(t, log.records[0])
	if bytes.Contains(log.records[0].Value, []byte(canary)) {
		t.Error("the hit shows content")
	}
	if diff := cmp.Diff(unseal(t, &before[0]), unseal(t, &after[0])); diff != "" {
		t.Errorf("other evidence: %s", diff)
	}
	if a, b := before[0], after[0]; a.CaseID != b.CaseID || a.Position != b.Position || b.Verdict.Severity != pipeline.Critical || len(b.Verdict.Findings) != 3 {
		t.Errorf("%+v", b)
	}
}

// loud is a message with content in every field that may hold any.
func loud() string {
	doc := strings.NewReplacer("are you coming to practice?", canary+" text", "not nice", canary+" reason", `"AAECAw=="`, `"`+base64.StdEncoding.EncodeToString([]byte(canary+" data"))+`"`).Replace(full)
	return strings.Replace(doc, `"lang"`, `"unknown":"`+canary+` field","lang"`, 1)
}

func TestEveryRecordConformsToItsSchemaAndShowsNoContent(t *testing.T) {
	log := &keptLog{}
	p := newPublisher(log)
	p.History = func(context.Context, string, int32, []int64) ([]pipeline.Record, []int64, error) {
		return records(message("m-0", "c-1"), loud()), []int64{7}, nil
	}
	clean, partial := outcome(t, 10, loud(), pipeline.Verdict{}), outcome(t, 11, loud(), pipeline.Verdict{Status: pipeline.Partial, FailedDetectors: []string{"x"}, Error: "x: no model"})
	skipped := outcome(t, 12, loud(), pipeline.Verdict{Status: pipeline.Skipped, SkipReason: "scanning is off in region GB"})
	hit := outcome(t, 13, loud(), review(growing, match("a-1", "list \xff", "e-1"), pipeline.Finding{Detector: "grooming", Category: "grooming", Score: 1, Reason: "x", MessageID: "m-0", Context: []int64{5, 7, 9}}))
	dead := outcome(t, 14, loud(), pipeline.Verdict{Status: pipeline.Failed, Error: "invalid message: x"})
	dead.Item, dead.DeadLetter = nil, "invalid message: x"
	dead.Delivery.Headers = []pipeline.Header{{Key: "schema", Value: []byte("message/v1")}, {Key: "traceparent", Value: []byte("00-1")}}
	quality := 50
	for _, o := range []*pipeline.Outcome{clean, partial, skipped, hit} {
		o.Item.Media = []pipeline.Media{
			{AttachmentID: "a-1", Hashes: []pipeline.Hash{{Kind: "pdq", Algorithm: "pdq/1", Value: "00ff", Quality: &quality, Variants: []string{"aa"}}}},
			{AttachmentID: "a-2", Err: "cannot be decoded \xff"},
		}
	}
	publish(t, p, clean, partial, skipped, hit, dead)

	counts := map[string]int{}
	for _, r := range log.records {
		counts[strings.TrimPrefix(r.Topic, "test.")+" "+r.Header("schema")]++
		recordConforms(t, r)
		all := string(r.Key) + fmt.Sprintf("%s", r.Headers)
		if r.Topic != "test.deadletters" { // whose value is the input as it came
			all += string(r.Value)
		}
		for _, form := range []string{canary, hex.EncodeToString([]byte(canary)), base64.RawStdEncoding.EncodeToString([]byte(canary))[:12], secret} {
			if strings.Contains(all, form) {
				t.Errorf("content in a record of %s: %s", r.Topic, all)
			}
		}
	}
	want := map[string]int{"hits hit/v1": 2, "verdicts verdict/v1": 4, "verdicts verdicts/v1": 1, "features features/v1": 6, "deadletters deadletter/v1": 1}
	if diff := cmp.Diff(want, counts); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	for _, r := range log.topic("verdicts") {
		if r.Header("schema") == "verdict/v1" && string(r.Key) != "c-1" {
			t.Errorf("key of a verdict: %q", r.Key)
		}
	}
	for _, r := range log.topic("features") {
		if !strings.Contains(string(r.Value), `"attachment_id":"`+string(r.Key)+`"`) || r.Offset == 12 {
			t.Errorf("features %s of offset %d with key %q", r.Value, r.Offset, r.Key)
		}
	}
	d := log.topic("deadletters")[0]
	if !bytes.Equal(d.Value, dead.Delivery.Value) || !bytes.Equal(d.Key, dead.Delivery.Key) || d.Header("reason") != "invalid message: x" ||
		d.Header("topic") != "in.messages" || d.Header("partition") != "3" || d.Header("offset") != "14" || d.Header("input-schema") != "message/v1" {
		t.Errorf("dead letter with headers %s", d.Headers)
	}

	// The same outcomes once more are the same records.
	again := &keptLog{}
	p.Log = again
	publish(t, p, clean, partial, skipped, hit, dead)
	if diff := cmp.Diff(log.records, again.records); diff != "" {
		t.Errorf("offered twice (-first +second):\n%s", diff)
	}
}

func TestCleanVerdictsSayWhatTheirOwnEncodingSays(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	letters := []rune("ab\"\\/\u0000\u0001\u001f\u007f\u2028\u2029é𐍈<>&\n\t'")
	text := func() string {
		var b strings.Builder
		for range 1 + rng.IntN(12) {
			b.WriteRune(letters[rng.IntN(len(letters))])
		}
		return b.String()
	}
	risks := []float64{0, 1, 0.1, 1e-9, 1e-300, math.SmallestNonzeroFloat64, math.Nextafter(1, 0), 1.0 / 3, 0.9999999}
	for range 300 {
		versions := []map[string]string{{text(): text(), "policy": text()}, {"policy": text()}}
		var batch []*pipeline.Outcome
		for range 1 + rng.IntN(5) {
			o := outcome(t, 1, message("m", "c"), pipeline.Verdict{Risk: risks[rng.IntN(len(risks))]})
			o.Verdict.MessageID, o.Verdict.ConversationID, o.Verdict.Versions = text(), text(), versions[rng.IntN(2)]
			o.Verdict.DecidedAt = time.Unix(rng.Int64N(4e9), rng.Int64N(1e9)).UTC()
			batch = append(batch, o)
		}
		log := &keptLog{}
		publish(t, newPublisher(log), batch...)
		if len(log.records) != 1 {
			t.Fatalf("%d records, want one", len(log.records))
		}
		recordConforms(t, log.records[0])
		var got []any
		if err := json.Unmarshal(log.records[0].Value, &got); err != nil {
			t.Fatal(err)
		}
		var want []any
		for _, o := range batch {
			want = append(want, decodePlain(t, encode(t, o.Verdict)))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("(-json.Marshal +by hand):\n%s", diff)
		}
	}
}

func decodePlain(t *testing.T, s string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestARecordOfCleanVerdictsStaysSmall(t *testing.T) {
	for _, limit := range []int{0, 4096, 1 << 20} {
		log := &keptLog{}
		p := newPublisher(log)
		p.MaxRecord = limit
		var batch []*pipeline.Outcome
		for i := range 2000 {
			batch = append(batch, outcome(t, int64(i), message(fmt.Sprintf("m-%d", i), strings.Repeat("c", 200)), pipeline.Verdict{}))
		}
		publish(t, p, batch...)
		n := 0
		for _, r := range log.records {
			var vs []pipeline.Verdict
			if err := json.Unmarshal(r.Value, &vs); err != nil {
				t.Fatal(err)
			}
			for _, v := range vs {
				if v.MessageID != fmt.Sprintf("m-%d", n) {
					t.Fatalf("verdict %d is on %s", n, v.MessageID)
				}
				n++
			}
			if most := 129 << 10; len(r.Value) > most || limit > 0 && len(r.Value) > limit {
				t.Errorf("a record of %d bytes, limit %d", len(r.Value), limit)
			}
		}
		if n != 2000 {
			t.Errorf("%d verdicts, want 2000", n)
		}
	}
}

func TestAHitForTheConversationAndForTheBestMatchOfEachAttachment(t *testing.T) {
	supports := growing
	supports.Supports = true
	suppressed := func(f pipeline.Finding) pipeline.Finding {
		f.Bound(pipeline.Allow, "suppressed")
		return f
	}
	for name, tt := range map[string]struct {
		findings []pipeline.Finding
		want     []string
	}{
		"a suppressed match and another":         {[]pipeline.Finding{suppressed(match("a-1", "l", "e")), match("a-1", "k", "f")}, []string{"media/k/f"}},
		"a suppressed match and a conversation":  {[]pipeline.Finding{suppressed(match("a-1", "l", "e")), growing}, []string{"conversation/c-1"}},
		"a conversation":                         {[]pipeline.Finding{growing, growing}, []string{"conversation/c-1"}},
		"a match":                                {[]pipeline.Finding{match("a-1", "l", "e")}, []string{"media/l/e"}},
		"two lists know it":                      {[]pipeline.Finding{match("a-1", "l", "e"), match("a-1", "k", "f")}, []string{"media/l/e"}},
		"two attachments":                        {[]pipeline.Finding{match("a-1", "l", "e"), match("a-2", "k", "f")}, []string{"media/l/e", "media/k/f"}},
		"one picture twice":                      {[]pipeline.Finding{match("a-1", "l", "e"), match("a-2", "l", "e")}, []string{"media/l/e"}},
		"both":                                   {[]pipeline.Finding{match("a-1", "l", "e"), growing}, []string{"conversation/c-1", "media/l/e"}},
		"a match and what supports":              {[]pipeline.Finding{match("a-1", "l", "e"), supports}, []string{"media/l/e"}},
		"nothing found, but policy wants a look": {nil, []string{"conversation/c-1"}},
	} {
		log := &keptLog{}
		publish(t, newPublisher(log), outcome(t, 5, full, review(tt.findings...)))
		var got []string
		for _, h := range hitsOf(t, log) {
			got = append(got, h.CaseKey)
			unseal(t, &h)
			if h.Position != (pipeline.Position{Topic: "in.messages", Partition: 3, Offset: 5}) || *h.SenderAge != 31 || !slices.Equal(h.RecipientAges, []int{14}) ||
				h.TextBytes != 27 || len(h.Attachments) != 2 || !slices.Equal(h.UserReports, []string{"r-1"}) {
				t.Errorf("%s: %+v", name, h)
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: cases %q, want %q", name, got, tt.want)
		}
	}
}

func TestEvidenceHoldsTheNamedMessagesWithFiveBeforeEach(t *testing.T) {
	var asked []int64
	log := &keptLog{}
	p := newPublisher(log)
	p.History = func(_ context.Context, topic string, partition int32, offsets []int64) (found []pipeline.Record, missing []int64, err error) {
		if topic != "in.messages" || partition != 3 {
			t.Errorf("read %s/%d", topic, partition)
		}
		asked = offsets
		for _, o := range slices.Backward(offsets) {
			switch {
			case o < 10:
				missing = append(missing, o)
			case o == 13:
				found = append(found, pipeline.Record{Position: pipeline.Position{Offset: o}, Value: []byte("not JSON")})
			case o == 14:
				found = append(found, pipeline.Record{Position: pipeline.Position{Offset: o}, Value: []byte(message("m-14", "another"))})
			default:
				found = append(found, pipeline.Record{Position: pipeline.Position{Offset: o}, Value: []byte(message(fmt.Sprintf("m-%d", o), "c-1"))})
			}
		}
		return found, missing, nil
	}
	named := growing
	named.MessageID, named.Context = "m-15", []int64{2, 3, 8, 11, 12, 13, 14, 15}
	o := outcome(t, 30, full, review(named, growing, named))
	o.Item.Recent = []int64{25, 26, 27, 28, 29, 30}
	publish(t, p, o)
	if want := []int64{8, 11, 12, 13, 14, 15, 25, 26, 27, 28, 29}; !slices.Equal(asked, want) {
		t.Errorf("asked for %v, want %v", asked, want)
	}
	h := hitsOf(t, log)[0]
	e := unseal(t, &h)
	var got []string
	for _, c := range e.Context {
		got = append(got, fmt.Sprintf("%s %v", c.MessageID, c.Named))
		if c.Text != secret || c.SenderID != "u-1" || c.SentAt.IsZero() {
			t.Errorf("context %+v", c)
		}
	}
	if want := []string{"m-11 false", "m-12 false", "m-15 true", "m-25 false", "m-26 false", "m-27 false", "m-28 false", "m-29 false"}; !slices.Equal(got, want) {
		t.Errorf("context %q, want %q", got, want)
	}
	if e.Text != "are you coming to practice?" || e.SenderID != "u-1" || len(e.Attachments) != 2 || len(e.Attachments[0].Data) != 4 || e.Attachments[1].URI != "mem://bucket/a-2" {
		t.Errorf("evidence %+v", e)
	}
	if want := []string{"1 earlier messages: the log no longer keeps them", "2 earlier messages could not be read"}; !slices.Equal(h.Evidence.Missing, want) {
		t.Errorf("missing %q, want %q", h.Evidence.Missing, want)
	}
}

func TestWhatEvidenceLacksIsSaid(t *testing.T) {
	name := func(ids ...string) (fs []pipeline.Finding) {
		for i, id := range ids {
			f := growing
			f.MessageID, f.Context = id, []int64{int64(i)}
			fs = append(fs, f)
		}
		return fs
	}
	unknown := name("m-0")
	unknown[0].Context = nil
	all := func(_ context.Context, _ string, _ int32, offsets []int64) (found []pipeline.Record, _ []int64, _ error) {
		for _, o := range offsets {
			found = append(found, pipeline.Record{Position: pipeline.Position{Offset: o}, Value: []byte(message(fmt.Sprintf("m-%d", o), "c-1"))})
		}
		return found, nil, nil
	}
	none := func(_ context.Context, _ string, _ int32, offsets []int64) ([]pipeline.Record, []int64, error) {
		return nil, offsets, nil
	}
	for what, tt := range map[string]struct {
		history  func(context.Context, string, int32, []int64) ([]pipeline.Record, []int64, error)
		findings []pipeline.Finding
		want     []string
	}{
		"nothing":                 {all, name("m-0", "m-1"), nil},
		"a source of one reading": {nil, name("m-0"), []string{"earlier messages: this source cannot be read again"}},
		"all but eight":           {all, name("m-0", "m-1", "m-2", "m-3", "m-4", "m-5", "m-6", "m-7", "m-8", "m-9", "m-9", "m-0"), []string{"2 more earlier messages that findings name"}},
		"what retention took":     {none, name("m-0"), []string{"1 earlier messages: the log no longer keeps them", "1 earlier messages that findings name"}},
		"one that lies nowhere":   {all, unknown, []string{"1 earlier messages that findings name"}},
	} {
		log := &keptLog{}
		p := newPublisher(log)
		p.History = tt.history
		publish(t, p, outcome(t, 50, full, review(tt.findings...)))
		if h := hitsOf(t, log)[0]; !slices.Equal(h.Evidence.Missing, tt.want) {
			t.Errorf("%s: missing %q, want %q", what, h.Evidence.Missing, tt.want)
		}
	}
}

func TestAnOutageWhileGatheringEvidencePublishesNothing(t *testing.T) {
	outage := errors.New("the broker does not answer")
	named := growing
	named.MessageID, named.Context = "m-0", []int64{1}
	for name, set := range map[string]func(*pipeline.Publisher){
		"history": func(p *pipeline.Publisher) {
			p.History = func(context.Context, string, int32, []int64) ([]pipeline.Record, []int64, error) {
				return nil, nil, outage
			}
		},
		"opening": func(p *pipeline.Publisher) {
			p.Open = func(*pipeline.Record) (*pipeline.Message, error) { return nil, outage }
		},
		"sealing": func(p *pipeline.Publisher) {
			p.Seal = func(*pipeline.Evidence, string, string) (pipeline.SealedEvidence, error) {
				return pipeline.SealedEvidence{}, outage
			}
		},
		"the log": func(p *pipeline.Publisher) {
			p.Log.(*keptLog).refuse = func([]pipeline.Record) error { return outage }
		},
	} {
		log := &keptLog{}
		p := newPublisher(log)
		p.History = func(context.Context, string, int32, []int64) ([]pipeline.Record, []int64, error) {
			return records(message("m-0", "c-1")), nil, nil
		}
		set(p)
		err := p.Accept(t.Context(), []*pipeline.Outcome{outcome(t, 4, full, pipeline.Verdict{}), outcome(t, 5, full, review(named))})
		if !errors.Is(err, outage) || pipeline.IsPermanent(err) || len(log.records) != 0 {
			t.Errorf("%s: %v and %d records; want an outage and none", name, err, len(log.records))
		}
	}
}

func withData(t *testing.T, sizes ...int) string {
	var as []string
	for i, n := range sizes {
		as = append(as, fmt.Sprintf(`{"id":"a-%d","media_type":"image/png","data":%q}`, i, base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{byte(i)}, n))))
	}
	return with(t, "attachments", "["+strings.Join(as, ",")+"]")
}

func TestALargeAttachmentIsLeftOutAndSaidSo(t *testing.T) {
	log := &keptLog{}
	publish(t, newPublisher(log), outcome(t, 1, withData(t, pipeline.MaxInlineEvidence, pipeline.MaxInlineEvidence+1), review(growing)))
	h := hitsOf(t, log)[0]
	e := unseal(t, &h)
	if len(e.Attachments[0].Data) != pipeline.MaxInlineEvidence || e.Attachments[1].Data != nil || e.Attachments[1].ID != "a-1" || h.Attachments[1].Bytes != pipeline.MaxInlineEvidence+1 {
		t.Errorf("attachments of %d and %d bytes", len(e.Attachments[0].Data), len(e.Attachments[1].Data))
	}
	if want := []string{"attachment a-1: 524289 bytes, more than 524288"}; !slices.Equal(h.Evidence.Missing, want) {
		t.Errorf("missing %q", h.Evidence.Missing)
	}
}

func TestAHitThatWouldNotFitDropsAttachmentsAndThenContext(t *testing.T) {
	const attachments, context1 = "the bytes of large attachments, left out so that the record fits", "earlier messages, left out so that the record fits"
	named := growing
	named.MessageID, named.Context = "m-0", []int64{0}
	for _, tt := range []struct {
		limit, data int // bytes of attachments that stay
		context     bool
		missing     []string
	}{
		{1 << 20, 61000, true, nil},
		{60000, 11000, true, []string{attachments}},
		{12000, 1000, true, []string{attachments}},
		{9000, 0, true, []string{attachments}},
		{4000, 0, false, []string{attachments, context1}},
	} {
		log := &keptLog{}
		p := newPublisher(log)
		p.MaxRecord = tt.limit
		p.History = func(context.Context, string, int32, []int64) ([]pipeline.Record, []int64, error) {
			return records(strings.Replace(message("m-0", "c-1"), secret, strings.Repeat("a", 5000), 1)), nil, nil
		}
		// Two cases: what is left out of one must not be missed in silence by the other.
		publish(t, p, outcome(t, 3, withData(t, 10000, 50000, 1000), review(named, match("a-0", "l", "e"))))
		hits := hitsOf(t, log)
		if len(hits) != 2 {
			t.Fatalf("%d hits, want two", len(hits))
		}
		for i, r := range log.topic("hits") {
			e, data := unseal(t, &hits[i]), 0
			for _, a := range e.Attachments {
				data += len(a.Data)
			}
			if len(r.Value) > tt.limit || data != tt.data || (len(e.Context) == 1) != tt.context || !slices.Equal(hits[i].Evidence.Missing, tt.missing) || len(e.Attachments) != 3 {
				t.Errorf("limit %d, case %d: a record of %d bytes with %d of attachments, %d earlier messages, missing %q",
					tt.limit, i, len(r.Value), data, len(e.Context), hits[i].Evidence.Missing)
			}
		}
	}
}

func TestALargeDeadLetterBecomesAReference(t *testing.T) {
	log := &keptLog{}
	p := newPublisher(log)
	p.MaxRecord = 10000
	o := outcome(t, 77, message("m-1", "c-1"), pipeline.Verdict{Status: pipeline.Failed, Error: "x"})
	o.Item, o.DeadLetter = nil, strings.Repeat("é", 3000)
	o.Delivery.Value = bytes.Repeat([]byte(canary), 1000)
	o.Delivery.Key = bytes.Repeat([]byte("k"), 9999)
	o.Delivery.Headers = []pipeline.Header{{Key: "schema", Value: bytes.Repeat([]byte("\xffs"), 5000)}}
	publish(t, p, o)
	r := log.topic("deadletters")[0]
	recordConforms(t, r)
	var ref pipeline.Reference
	if err := json.Unmarshal(r.Value, &ref); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(o.Delivery.Value)
	want := pipeline.Reference{Position: pipeline.Position{Topic: "in.messages", Partition: 3, Offset: 77}, Bytes: 10000, SHA256: hex.EncodeToString(sum[:])}
	if ref != want || r.Header("reference") != "1" {
		t.Errorf("reference %+v, want %+v", ref, want)
	}
	size := len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		size += len(h.Key) + len(h.Value)
	}
	if size > 4000 {
		t.Errorf("the reference has %d bytes with its key and headers", size)
	}
}

func TestWhatTheLogFindsTooLargeIsReferredToOnce(t *testing.T) {
	log := &keptLog{}
	log.refuse = func(records []pipeline.Record) error {
		for i := range records {
			if len(records[i].Value) > 3000 {
				return fmt.Errorf("producing: %w", &pipeline.TooLargeError{Index: i, Bytes: len(records[i].Value)})
			}
		}
		return nil
	}
	long := with(t, "text", `"`+strings.Repeat("a", 5000)+`"`)
	publish(t, newPublisher(log), outcome(t, 1, message("m-0", "c-0"), pipeline.Verdict{}), outcome(t, 2, long, review(growing)), outcome(t, 3, long, review(match("a-1", "l", "e"))))
	if log.offered != 3 || len(log.records) != 5 {
		t.Errorf("offered %d times, %d records", log.offered, len(log.records))
	}
	for _, r := range log.records {
		recordConforms(t, r)
		var ref pipeline.Reference
		if reference := r.Header("reference") != ""; reference != (r.Topic == "test.hits") {
			t.Errorf("reference in %s: %v", r.Topic, reference)
		} else if reference && (json.Unmarshal(r.Value, &ref) != nil || ref.Topic != "in.messages" || ref.Partition != 3 || ref.Offset != r.Offset) {
			t.Errorf("reference %s", r.Value)
		}
	}

	// A log that refuses everything, and one that names no record of ours.
	for name, index := range map[string]int{"the same record for ever": 0, "a record that is not there": 9, "a negative one": -1} {
		never := &keptLog{refuse: func([]pipeline.Record) error { return &pipeline.TooLargeError{Index: index, Bytes: 1} }}
		err := newPublisher(never).Accept(t.Context(), []*pipeline.Outcome{outcome(t, 1, full, pipeline.Verdict{})})
		if _, ok := errors.AsType[*pipeline.TooLargeError](err); !ok || never.offered > 2 {
			t.Errorf("%s: %v after %d attempts", name, err, never.offered)
		}
	}
}

func TestEvidenceIsBoundToOneCaseAndOneMessage(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	part := func() string {
		return strings.Repeat("\x00", rng.IntN(3)) + strings.Repeat("a", rng.IntN(3)) + strings.Repeat("\x01", rng.IntN(2))
	}
	seen := map[string][2]string{}
	for range 20000 {
		pair := [2]string{part() + part(), part() + part()}
		key := string(pipeline.EvidenceContext(pair[0], pair[1]))
		if other, ok := seen[key]; ok && other != pair {
			t.Fatalf("%q and %q have the same context", pair, other)
		}
		seen[key] = pair
	}
	if got, want := hex.EncodeToString(pipeline.EvidenceContext("c-é", "m")), "00000004"+"632dc3a9"+"00000001"+"6d"; got != want {
		t.Errorf("context %s, want %s", got, want)
	}
	if a, b := pipeline.CaseID(pipeline.ConversationCase, "conversation/x"), pipeline.CaseID(pipeline.ConversationCase, "conversation/y"); a == b || len(a) != 28 || a[:2] != "c-" {
		t.Errorf("case ids %s and %s", a, b)
	}
	if id := pipeline.CaseID(pipeline.MediaCase, "media/l/e"); id[:2] != "m-" {
		t.Errorf("case id %s", id)
	}
}
