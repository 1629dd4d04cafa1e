package pipeline_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.uber.org/zap"

	"github.com/dmguard/dmguard/pipeline"
)

const secret = "meet me at the old mill"

// detector adapts a function to a Detector.
type detector struct {
	name string
	f    func(context.Context, *pipeline.Item) (pipeline.Answer, error)
}

func (d detector) Name() string { return d.name }

func (d detector) Detect(ctx context.Context, it *pipeline.Item) (pipeline.Answer, error) {
	return d.f(ctx, it)
}

// finds reports one finding of spam in every message.
func finds(name string, score float64) detector {
	return detector{name, func(context.Context, *pipeline.Item) (pipeline.Answer, error) {
		return pipeline.Answer{Findings: []pipeline.Finding{{Category: "spam", Score: score, Reason: "found"}}}, nil
	}}
}

// counts remembers how many messages of a conversation it has seen, and says
// so in the risk.
var counts = detector{"counts", func(_ context.Context, it *pipeline.Item) (pipeline.Answer, error) {
	n := len(it.State("counts"))
	if !it.Repeat {
		n++
	}
	return pipeline.Answer{Risk: float64(n) / 100, State: bytes.Repeat([]byte("x"), n)}, nil
}}

// source delivers records and notes which are done.
type source struct {
	records []pipeline.Record
	epoch   int32

	mu   sync.Mutex
	sent int
	done []int64
}

func (s *source) Receive(context.Context) ([]*pipeline.Delivery, error) {
	if s.sent == len(s.records) {
		return nil, io.EOF
	}
	end := min(s.sent+3, len(s.records))
	var batch []*pipeline.Delivery
	for _, r := range s.records[s.sent:end] {
		batch = append(batch, &pipeline.Delivery{Record: r, Epoch: s.epoch, Done: func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.done = append(s.done, r.Offset)
		}})
	}
	s.sent = end
	return batch, nil
}

// sink keeps outcomes, or fails.
type sink struct {
	fail func(attempt int) error

	mu       sync.Mutex
	attempts int
	outcomes []*pipeline.Outcome
}

func (s *sink) Accept(_ context.Context, batch []*pipeline.Outcome) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attempts++
	if s.fail != nil {
		if err := s.fail(s.attempts); err != nil {
			return err
		}
	}
	s.outcomes = append(s.outcomes, batch...)
	return nil
}

func (s *sink) verdict(t *testing.T, id string) *pipeline.Verdict {
	t.Helper()
	for _, o := range s.outcomes {
		if o.Verdict.MessageID == id {
			return o.Verdict
		}
	}
	t.Fatalf("no verdict on %s", id)
	return nil
}

// memory is a Memory that keeps everything.
type memory struct {
	mu     sync.Mutex
	states map[string]pipeline.Conversation
}

func (m *memory) Load(_ context.Context, keys []pipeline.ConversationKey) ([]pipeline.Conversation, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]pipeline.Conversation, len(keys))
	for i, k := range keys {
		out[i] = m.states[k.ID]
	}
	return out, nil
}

func (m *memory) Save(_ context.Context, keys []pipeline.ConversationKey, states []pipeline.Conversation) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.states == nil {
		m.states = map[string]pipeline.Conversation{}
	}
	for i, k := range keys {
		m.states[k.ID] = states[i]
	}
	return nil
}

func config(src pipeline.Source, out pipeline.Sink, detectors ...pipeline.Detector) pipeline.Config {
	return pipeline.Config{
		Source: src,
		Open:   pipeline.OpenPlain,
		Ruleset: &pipeline.Ruleset{
			Detectors: detectors,
			Policy: pipeline.Policy{
				OnPartial: pipeline.Review, OnFailed: pipeline.Allow, SkipRegions: []string{"ZZ"},
				Thresholds: []pipeline.Threshold{{Category: "spam", Min: 0.5, Action: pipeline.Block, Severity: pipeline.High}},
			},
			Versions: map[string]string{"policy": "test"},
		},
		Memory: &memory{},
		Sinks:  []pipeline.Sink{out},
		Log:    zap.NewNop(),
		Lanes:  3,
	}
}

func run(t *testing.T, cfg pipeline.Config) error {
	t.Helper()
	p, err := pipeline.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p.Run(t.Context())
}

func message(id, conversation string) string {
	return fmt.Sprintf(`{"id":%q,"conversation_id":%q,"sent_at":"2026-03-01T16:00:00Z","sender":{"id":"u-1"},"text":%q}`, id, conversation, secret)
}

func records(values ...string) []pipeline.Record {
	var out []pipeline.Record
	for i, v := range values {
		out = append(out, pipeline.Record{
			Position: pipeline.Position{Topic: "dm.messages", Offset: int64(i)}, Value: []byte(v),
			Time: time.Date(2026, 3, 1, 16, 0, i, 0, time.UTC),
		})
	}
	return out
}

const schemaBase = "https://schemas.invalid/"

// schemas compiles the schemas by name, formats included.
var schemas = sync.OnceValue(func() map[string]*jsonschema.Schema {
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	c.AssertContent()
	files, err := fs.Glob(pipeline.Schemas, "schemas/*.json")
	if err != nil {
		panic(err)
	}
	var names []string
	for _, f := range files {
		data, err := pipeline.Schemas.ReadFile(f)
		if err != nil {
			panic(err)
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		if err != nil {
			panic(err)
		}
		name := strings.TrimSuffix(strings.TrimPrefix(f, "schemas/"), ".schema.json")
		names = append(names, name)
		// Their ids are relative to one another.
		object, _ := doc.(map[string]any)
		object["$id"] = schemaBase + fmt.Sprint(object["$id"])
		if err := c.AddResource(schemaBase+"dmguard/"+name+"/v1", doc); err != nil {
			panic(err)
		}
	}
	out := map[string]*jsonschema.Schema{}
	for _, n := range names {
		out[n] = c.MustCompile(schemaBase + "dmguard/" + n + "/v1")
	}
	return out
})

// conforms fails the test where JSON does not fit the schema.
func conforms(t *testing.T, schema string, data []byte) {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatalf("%s: %v", schema, err)
	}
	if err := schemas()[schema].Validate(v); err != nil {
		t.Errorf("%s: %v", schema, err)
	}
}
