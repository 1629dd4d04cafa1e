package pipeline

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Limits of what is published.
const (
	// MaxInlineEvidence is the size up to which the bytes of an attachment are
	// sealed into a hit; larger ones stay in the store.
	MaxInlineEvidence = 512 << 10

	// maxNamed is how many earlier messages that findings name are read again.
	maxNamed = 8

	// maxReferenceKey is the length of the longest key that a reference keeps:
	// that of the longest conversation id, and more.
	maxReferenceKey = 2048

	// verdictsBytes is about how large a record of clean verdicts grows.
	verdictsBytes = 128 << 10
)

// Log writes records durably: it returns once all of them are acknowledged by
// every replica in sync. A record that the log will never take because of its
// size is a [TooLargeError].
type Log interface {
	Produce(ctx context.Context, records []Record) error
}

// TooLargeError names a record that the log will never take for its size.
type TooLargeError struct {
	Index int // of the record in the call
	Topic string
	Bytes int // of the record as it would be written, at most
	Limit int // 0 where the log refused it without saying its limit
}

func (e *TooLargeError) Error() string {
	if e.Limit == 0 {
		return fmt.Sprintf("record %d for %s: its %d bytes are more than the log takes", e.Index, e.Topic, e.Bytes)
	}
	return fmt.Sprintf("record %d for %s: its %d bytes are over the limit of %d", e.Index, e.Topic, e.Bytes, e.Limit)
}

// Publisher is the sink that writes outcomes to the output topics: hits,
// verdicts, features and dead letters. Which records an outcome becomes does
// not depend on how often it is offered, so repeats are found by their ids.
type Publisher struct {
	Log    Log
	Prefix string // of topic names

	// MaxRecord is the largest value in bytes that the log takes.
	MaxRecord int

	// Seal seals evidence to the review key, bound to its case and message.
	Seal func(e *Evidence, caseID, messageID string) (SealedEvidence, error)

	// History reads records of the input again, for evidence in earlier
	// messages, and says which offsets are gone.
	History func(ctx context.Context, topic string, partition int32, offsets []int64) (found []Record, missing []int64, err error)

	// Open reads what History found, as Config.Open does.
	Open func(*Record) (*Message, error)
}

// Accept implements [Sink].
func (p *Publisher) Accept(ctx context.Context, batch []*Outcome) error {
	records, err := p.records(ctx, batch)
	if err != nil {
		return err
	}
	return p.produce(ctx, records, batch[0].Delivery.Topic)
}

// Annotate writes the hit of the conversation of o once more, with the verdict
// that o now has, and nothing else: for what is known later about a verdict that
// was written. The queue shows the latest hit on a message, and takes it for the
// same message.
func (p *Publisher) Annotate(ctx context.Context, o *Outcome) error {
	evidence, missing, err := p.evidence(ctx, o)
	if err != nil {
		return err
	}
	h := newHit(o, ConversationCase, conversationKey(o.Verdict))
	r, err := p.sealHit(h, evidence, missing)
	if err != nil {
		return err
	}
	return p.produce(ctx, []Record{r}, o.Delivery.Topic)
}

func conversationKey(v *Verdict) string { return "conversation/" + v.ConversationID }

// produce writes records, and what is too large as a reference to the input.
func (p *Publisher) produce(ctx context.Context, records []Record, input string) error {
	for {
		err := p.Log.Produce(ctx, records)
		tooLarge, ok := errors.AsType[*TooLargeError](err)
		if !ok || tooLarge.Index < 0 || tooLarge.Index >= len(records) {
			return err
		}
		// One large message never stalls a partition.
		r := &records[tooLarge.Index]
		if r.Header("reference") != "" {
			return fmt.Errorf("a reference of %d bytes is refused by the log: %w", len(r.Value), err)
		}
		*r = reference(*r, input)
	}
}

func (p *Publisher) records(ctx context.Context, batch []*Outcome) ([]Record, error) {
	var out []Record
	clean := cleanVerdicts{size: verdictsBytes}
	if p.MaxRecord > 0 {
		// A record that many verdicts share must not be one that the log refuses.
		clean.size = min(clean.size, p.MaxRecord/2)
	}
	for _, o := range batch {
		v := o.Verdict
		at := o.Delivery.Position
		switch {
		case o.DeadLetter != "":
			out = append(out, p.deadLetter(o))
		case v.Action > Allow:
			hits, err := p.hits(ctx, o)
			if err != nil {
				return nil, err
			}
			out = append(out, hits...)
		}
		if o.Item != nil && v.Status != Skipped {
			for i := range o.Item.Media {
				r, err := p.features(o.Item, &o.Item.Media[i])
				if err != nil {
					return nil, err
				}
				out = append(out, r)
			}
		}
		if v.Clean() {
			clean.add(v)
			if clean.full() {
				out = append(out, p.cleanRecord(&clean, at))
			}
			continue
		}
		value, err := encode(v)
		if err != nil {
			return nil, Permanent(fmt.Errorf("encoding a verdict: %w", err))
		}
		out = append(out, p.record(TopicVerdicts, SchemaVerdict, at, []byte(v.ConversationID), value))
	}
	if clean.n > 0 {
		out = append(out, p.cleanRecord(&clean, batch[len(batch)-1].Delivery.Position))
	}
	return out, nil
}

// encode returns v as JSON, always the same for the same v. What is not UTF-8,
// which can only come from the entry of a list or the error of a detector, is
// replaced: a verdict must not be lost for it.
func encode(v any) ([]byte, error) {
	return json.Marshal(v, json.Deterministic(true), jsontext.AllowInvalidUTF8(true))
}

// record returns a record to be written. Until it is, its partition and offset
// are those of the message that it speaks of.
func (p *Publisher) record(topic, schema string, of Position, key, value []byte) Record {
	return Record{
		Position: Position{Topic: p.Prefix + topic, Partition: of.Partition, Offset: of.Offset},
		Key:      key,
		Value:    value,
		Headers:  []Header{{Key: "schema", Value: []byte(schema)}},
	}
}

// deadLetter carries the input as it came, still sealed if it was, so that it
// can be tried again.
func (p *Publisher) deadLetter(o *Outcome) Record {
	d := o.Delivery
	r := p.record(TopicDeadLetters, SchemaDeadLetter, d.Position, d.Key, d.Value)
	r.Headers = append(r.Headers,
		Header{"reason", []byte(truncate(o.DeadLetter, 2048))},
		Header{"topic", []byte(d.Topic)},
		Header{"partition", strconv.AppendInt(nil, int64(d.Partition), 10)},
		Header{"offset", strconv.AppendInt(nil, d.Offset, 10)},
	)
	if s := d.Header("schema"); s != "" {
		r.Headers = append(r.Headers, Header{"input-schema", []byte(truncate(strings.ToValidUTF8(s, ""), 64))})
	}
	if p.MaxRecord > 0 && len(d.Value)+len(d.Key) > p.MaxRecord {
		return reference(r, d.Topic)
	}
	return r
}

// reference replaces the value of r by where the message lies that it speaks
// of, in the topic that was read. A key that no broker would take is left out.
func reference(r Record, topic string) Record {
	sum := sha256.Sum256(r.Value)
	ref := Reference{Position: r.Position, Bytes: len(r.Value), SHA256: hex.EncodeToString(sum[:])}
	ref.Topic = topic
	r.Value, _ = encode(ref) // of strings and numbers: cannot fail
	if len(r.Key) > maxReferenceKey {
		r.Key = nil
	}
	r.Headers = append(r.Headers, Header{"reference", []byte("1")})
	return r
}

func (p *Publisher) features(it *Item, m *Media) (Record, error) {
	value, err := encode(Features{
		AttachmentID:   m.AttachmentID,
		MessageID:      it.Message.ID,
		ConversationID: it.Message.ConversationID,
		SentAt:         it.Message.SentAt,
		Hashes:         append([]Hash{}, m.Hashes...),
		Error:          m.Err,
	})
	if err != nil {
		return Record{}, Permanent(fmt.Errorf("encoding features: %w", err))
	}
	return p.record(TopicFeatures, SchemaFeatures, it.Position, []byte(m.AttachmentID), value), nil
}

// cleanVerdicts gathers verdicts that share a record, as a JSON array. They are
// most of all there are, so they are encoded by hand.
type cleanVerdicts struct {
	size     int // when full
	buf      []byte
	n        int
	versions map[string]string // of the last one
	encoded  []byte            // versions
}

func (c *cleanVerdicts) full() bool { return len(c.buf) >= c.size }

func (c *cleanVerdicts) add(v *Verdict) {
	if c.n == 0 {
		c.buf = append(c.buf, '[')
	} else {
		c.buf = append(c.buf, ',')
	}
	if c.encoded == nil || !maps.Equal(c.versions, v.Versions) {
		c.versions, c.encoded = v.Versions, appendVersions(nil, v.Versions)
	}
	c.n++
	c.buf = append(c.buf, `{"message_id":`...)
	c.buf = appendString(c.buf, v.MessageID)
	c.buf = append(c.buf, `,"conversation_id":`...)
	c.buf = appendString(c.buf, v.ConversationID)
	c.buf = append(c.buf, `,"status":"scanned","action":"allow","severity":"none","risk":`...)
	c.buf = strconv.AppendFloat(c.buf, v.Risk, 'f', -1, 64)
	c.buf = append(c.buf, `,"findings":[],"versions":`...)
	c.buf = append(c.buf, c.encoded...)
	c.buf = append(c.buf, `,"decided_at":"`...)
	c.buf = v.DecidedAt.AppendFormat(c.buf, "2006-01-02T15:04:05.999999999Z07:00")
	c.buf = append(c.buf, `"}`...)
}

func appendVersions(b []byte, versions map[string]string) []byte {
	b = append(b, '{')
	for i, k := range slices.Sorted(maps.Keys(versions)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, k)
		b = append(b, ':')
		b = appendString(b, versions[k])
	}
	return append(b, '}')
}

func appendString(b []byte, s string) []byte {
	b, _ = jsontext.AppendQuote(b, s) // never fails on what was valid UTF-8 when it was read
	return b
}

// cleanRecord returns the record of what was gathered, and starts anew. Verdicts
// of many conversations have no key.
func (p *Publisher) cleanRecord(c *cleanVerdicts, last Position) Record {
	value := append(c.buf, ']')
	c.buf, c.n = nil, 0
	return p.record(TopicVerdicts, SchemaVerdicts, last, nil, value)
}

// hits returns a hit for each case that the outcome belongs to: its
// conversation, where a finding other than a match asks for a person, and each
// list entry that an attachment matched.
func (p *Publisher) hits(ctx context.Context, o *Outcome) ([]Record, error) {
	evidence, missing, err := p.evidence(ctx, o)
	if err != nil {
		return nil, err
	}
	var out []Record
	for _, c := range casesOf(o) {
		h := newHit(o, c.kind, c.key)
		r, err := p.sealHit(h, evidence, missing)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

type caseRef struct {
	kind CaseKind
	key  string
}

// casesOf names the cases of an outcome. An attachment belongs to the case of
// its best match only: the other lists that know it are in the verdict. What is
// suppressed makes none.
func casesOf(o *Outcome) []caseRef {
	var cases []caseRef
	attachments := map[string]bool{}
	conversation := false
	for i := range o.Verdict.Findings {
		f := &o.Verdict.Findings[i]
		switch m := f.Match; {
		case f.Suppressed():
		case m == nil:
			conversation = conversation || !f.Supports
		case !attachments[m.AttachmentID]:
			attachments[m.AttachmentID] = true
			c := caseRef{MediaCase, "media/" + m.List + "/" + m.Entry}
			if !slices.Contains(cases, c) {
				cases = append(cases, c)
			}
		}
	}
	// Also where nothing was found but policy wants a person to look, such as
	// at a partial verdict.
	if conversation || len(cases) == 0 {
		cases = append([]caseRef{{ConversationCase, conversationKey(o.Verdict)}}, cases...)
	}
	return cases
}

func newHit(o *Outcome, kind CaseKind, key string) *Hit {
	m := o.Item.Message
	h := &Hit{
		CaseID:    CaseID(kind, key),
		CaseKey:   key,
		Kind:      kind,
		Verdict:   *o.Verdict,
		Position:  o.Delivery.Position,
		SentAt:    m.SentAt,
		SenderAge: m.Sender.Age,
		TextBytes: m.Text.Len(),
	}
	for _, r := range m.Recipients {
		if r.Age != nil && len(h.RecipientAges) < 16 {
			h.RecipientAges = append(h.RecipientAges, *r.Age)
		}
	}
	for i := range m.Attachments {
		a := &m.Attachments[i]
		size := int64(a.Data.Len())
		if size == 0 && a.Size != nil {
			size = *a.Size
		}
		h.Attachments = append(h.Attachments, HitAttachment{ID: a.ID, MediaType: a.MediaType, Bytes: size})
	}
	for _, r := range m.UserReports {
		h.UserReports = append(h.UserReports, r.ID)
	}
	return h
}

// sealHit seals the evidence into the hit. Where the record would not fit, it
// leaves out attachments and then context, and says so.
func (p *Publisher) sealHit(h *Hit, evidence Evidence, missing []string) (Record, error) {
	// The other cases of the message share it, and say for themselves what does
	// not fit in them.
	evidence.Attachments = slices.Clone(evidence.Attachments)
	for {
		sealed, err := p.Seal(&evidence, h.CaseID, h.Verdict.MessageID)
		if err != nil {
			return Record{}, fmt.Errorf("sealing evidence: %w", err)
		}
		sealed.Missing = missing
		h.Evidence = sealed
		value, err := encode(h)
		if err != nil {
			return Record{}, Permanent(fmt.Errorf("encoding a hit: %w", err))
		}
		r := p.record(TopicHits, SchemaHit, h.Position, []byte(h.CaseKey), value)
		if p.MaxRecord == 0 || len(value) <= p.MaxRecord {
			return r, nil
		}
		switch {
		case dropLargest(evidence.Attachments):
			missing = appendOnce(missing, "the bytes of large attachments, left out so that the record fits")
		case len(evidence.Context) > 0:
			evidence.Context = nil
			missing = appendOnce(missing, "earlier messages, left out so that the record fits")
		default:
			return r, nil // the log decides
		}
	}
}

// dropLargest removes the bytes of the largest attachment and reports whether
// there was one.
func dropLargest(as []EvidenceAttachment) bool {
	largest := -1
	for i := range as {
		if n := len(as[i].Data); n > 0 && (largest < 0 || n > len(as[largest].Data)) {
			largest = i
		}
	}
	if largest < 0 {
		return false
	}
	as[largest].Data = nil
	return true
}

func appendOnce(list []string, s string) []string {
	if slices.Contains(list, s) {
		return list
	}
	return append(slices.Clip(list), s)
}

// evidence gathers what a reviewer may be shown: this message, the messages
// that its findings name with what came before each, and small attachments.
func (p *Publisher) evidence(ctx context.Context, o *Outcome) (e Evidence, missing []string, err error) {
	m := o.Item.Message
	e = Evidence{Text: m.Text.Reveal(), SenderID: m.Sender.ID}
	for i := range m.Attachments {
		a := &m.Attachments[i]
		ea := EvidenceAttachment{ID: a.ID, MediaType: a.MediaType, URI: a.URI}
		switch {
		case a.Data.Len() > MaxInlineEvidence:
			missing = append(missing, fmt.Sprintf("attachment %s: %d bytes, more than %d", a.ID, a.Data.Len(), MaxInlineEvidence))
		case a.Data.Len() > 0:
			ea.Data = a.Data.Reveal()
		}
		e.Attachments = append(e.Attachments, ea)
	}
	e.Context, missing, err = p.context(ctx, o, missing)
	return e, missing, err
}

func (p *Publisher) context(ctx context.Context, o *Outcome, missing []string) ([]ContextMessage, []string, error) {
	named := map[string]bool{}
	beyond := map[string]bool{}
	var offsets []int64
	for i := range o.Verdict.Findings {
		f := &o.Verdict.Findings[i]
		switch {
		case f.MessageID == "" || named[f.MessageID]:
		case len(named) == maxNamed:
			beyond[f.MessageID] = true
		default:
			named[f.MessageID] = true
			offsets = append(offsets, f.Context[max(0, len(f.Context)-RecentMessages-1):]...)
		}
	}
	if len(beyond) > 0 {
		missing = append(missing, fmt.Sprintf("%d more earlier messages that findings name", len(beyond)))
	}
	offsets = append(offsets, o.Item.Recent...)
	offsets = slices.DeleteFunc(offsets, func(offset int64) bool { return offset < 0 || offset >= o.Delivery.Offset })
	slices.Sort(offsets)
	offsets = slices.Compact(offsets)
	if p.History == nil {
		if len(named) > 0 || len(offsets) > 0 {
			missing = append(missing, "earlier messages: this source cannot be read again")
		}
		return nil, missing, nil
	}
	var records []Record
	if len(offsets) > 0 {
		var gone []int64
		var err error
		records, gone, err = p.History(ctx, o.Delivery.Topic, o.Delivery.Partition, offsets)
		if err != nil {
			return nil, nil, fmt.Errorf("reading earlier messages again: %w", err)
		}
		if len(gone) > 0 {
			missing = append(missing, fmt.Sprintf("%d earlier messages: the log no longer keeps them", len(gone)))
		}
		offsets = offsets[:max(0, len(offsets)-len(gone))]
	}
	slices.SortFunc(records, func(a, b Record) int { return cmp.Compare(a.Offset, b.Offset) })
	var out []ContextMessage
	for i := range records {
		m, err := p.Open(&records[i])
		switch {
		case err != nil && !IsPermanent(err):
			return nil, nil, fmt.Errorf("opening an earlier message again: %w", err)
		case err != nil || m.ConversationID != o.Item.Message.ConversationID:
			continue
		}
		out = append(out, ContextMessage{
			MessageID: m.ID, SentAt: m.SentAt, SenderID: m.Sender.ID, Text: m.Text.Reveal(), Named: named[m.ID],
		})
	}
	if n := len(offsets) - len(out); n > 0 {
		missing = append(missing, fmt.Sprintf("%d earlier messages could not be read", n))
	}
	for _, m := range out {
		delete(named, m.MessageID)
	}
	if len(named) > 0 {
		missing = append(missing, fmt.Sprintf("%d earlier messages that findings name", len(named)))
	}
	return out, missing, nil
}
