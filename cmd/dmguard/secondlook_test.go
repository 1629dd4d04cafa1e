package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/pipeline/secondlook"
	"github.com/dmguard/dmguard/pipeline/state"
)

// hitLog keeps the hits that are written.
type hitLog struct {
	mu   sync.Mutex
	hits []pipeline.Hit
	new  chan struct{}
}

// Produce implements [pipeline.Log].
func (l *hitLog) Produce(_ context.Context, records []pipeline.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range records {
		if records[i].Header("schema") != pipeline.SchemaHit {
			continue
		}
		var h pipeline.Hit
		if err := json.Unmarshal(records[i].Value, &h); err != nil {
			return pipeline.Permanent(err)
		}
		l.hits = append(l.hits, h)
		l.new <- struct{}{}
	}
	return nil
}

// fixedLooker always has the same opinion.
type fixedLooker struct{ secondlook.Answer }

// Look implements [secondlook.Looker].
func (f fixedLooker) Look(context.Context, secondlook.Question) (secondlook.Answer, error) {
	return f.Answer, nil
}

// TestASecondLookComesBehindTheVerdictAndChangesNone judges the same records
// with and without a desk behind the publisher.
func TestASecondLookComesBehindTheVerdictAndChangesNone(t *testing.T) {
	rules, err := (&rulesetOptions{}).load(t.Context(), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	defer rules.close()
	var records []pipeline.Record
	add := func(conversation, text string) {
		value, err := json.Marshal(map[string]any{
			"id": fmt.Sprint("m-", len(records)), "conversation_id": conversation, "sent_at": time.Unix(1770000000, 0).UTC(),
			"sender": map[string]any{"id": "u-1"}, "text": text,
		}, json.Deterministic(true))
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, pipeline.Record{Position: pipeline.Position{Topic: "input", Offset: int64(len(records))}, Value: value})
	}
	const quiet = 250
	for i := range quiet {
		add(fmt.Sprint("quiet-", i), "hello")
	}
	for _, text := range []string{"how old are you?", "are you home alone right now?", "dont tell your parents", "you are so mature for your age", "send me a selfie"} {
		add("c", text)
	}
	judge := func(cfg *secondlook.Config, hits int) (*verdictsByOffset, *hitLog) {
		verdicts, log := &verdictsByOffset{all: map[int64]string{}}, &hitLog{new: make(chan struct{}, 64)}
		publisher := &pipeline.Publisher{
			Log: log, Open: pipeline.OpenPlain,
			Seal: func(*pipeline.Evidence, string, string) (pipeline.SealedEvidence, error) {
				return pipeline.SealedEvidence{KeyID: "k", Sealed: []byte{1}}, nil
			},
		}
		sinks := []pipeline.Sink{publisher, verdicts}
		if cfg != nil {
			desk, err := secondlook.NewDesk(*cfg, fixedLooker{secondlook.Answer{Opinion: secondlook.Lower, Confidence: 1}}, publisher.Annotate, zap.NewNop(), prometheus.NewRegistry())
			if err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() { defer close(ended); _ = desk.Run(ctx) }()
			defer func() { stop(); <-ended }()
			sinks = append(sinks, desk)
		}
		memory := state.NewLocal(state.LocalOptions{})
		defer memory.Close()
		// The budget comes first.
		for _, part := range [][]pipeline.Record{records[:quiet], records[quiet:]} {
			if err := parityPipeline(t, rules, memory, sinkList(sinks), rand.New(rand.NewPCG(1, 1)), part).Run(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for range hits {
			awaitOne(t, "a hit", log.new)
		}
		return verdicts, log
	}
	plain, before := judge(nil, 1)
	if len(before.hits) == 0 {
		t.Fatal("no alert")
	}
	cfg := rules.config.SecondLook
	cfg.URL, cfg.MinRisk = "https://model.invalid/", 0.7
	looked, after := judge(&cfg, len(before.hits)+1)
	if diff := cmp.Diff(plain.all, looked.all); diff != "" {
		t.Errorf("verdicts differ: %s", diff)
	}
	opinions := 0
	for i := range after.hits {
		h := &after.hits[i]
		f := h.Verdict.Findings[len(h.Verdict.Findings)-1]
		if f.Category != secondlook.Category {
			continue
		}
		opinions++
		if h.CaseID != before.hits[0].CaseID || h.Verdict.Action != pipeline.Review || h.Verdict.Severity >= pipeline.Critical || f.Label != "lower" || f.Detector != "second_look" {
			t.Errorf("%+v", h.Verdict)
		}
	}
	if opinions != 1 || len(after.hits) != len(before.hits)+1 {
		t.Errorf("%d opinions in %d hits", opinions, len(after.hits))
	}
}

// sinkList is several sinks, one behind the other.
type sinkList []pipeline.Sink

// Accept implements [pipeline.Sink].
func (l sinkList) Accept(ctx context.Context, batch []*pipeline.Outcome) error {
	for _, s := range l {
		if err := s.Accept(ctx, batch); err != nil {
			return err
		}
	}
	return nil
}
