package detectors

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/dmguard/dmguard/pipeline"
)

// CanaryConversations begins the ids of the conversations in which the canary
// counts: nobody else's message can set it off.
const CanaryConversations = "dmguard-canary/"

const (
	minCanary      = 16 // bytes: what is shorter could be met or guessed
	maxCanary      = 256
	maxCanarySpans = 16
	canaryCategory = "canary"
)

// CanaryConfig turns the canary on. It has no settings: the string itself is
// drawn at random for each deployment and comes with [Deps].
type CanaryConfig struct{}

// canary finds one agreed string, so that an operator can see a message travel
// all the way to a case without harming anybody.
type canary struct{ secret string }

func newCanary(secret string) (*canary, error) {
	switch {
	case secret == "":
		return nil, errors.New("no canary string is given")
	case len(secret) < minCanary || len(secret) > maxCanary:
		return nil, fmt.Errorf("the canary string has %d bytes, want %d to %d", len(secret), minCanary, maxCanary)
	case !utf8.ValidString(secret) || strings.TrimSpace(secret) != secret:
		return nil, errors.New("the canary string is not UTF-8, or begins or ends with a space")
	}
	return &canary{secret}, nil
}

// Name implements [pipeline.Detector].
func (*canary) Name() string { return "canary" }

// Detect implements [pipeline.Detector].
func (c *canary) Detect(_ context.Context, item *pipeline.Item) (pipeline.Answer, error) {
	if !strings.HasPrefix(item.Message.ConversationID, CanaryConversations) {
		return pipeline.Answer{}, nil
	}
	text := item.Message.Text.Reveal()
	var spans []pipeline.Span
	for start := 0; len(spans) < maxCanarySpans; {
		i := strings.Index(text[start:], c.secret)
		if i < 0 {
			break
		}
		start += i + len(c.secret)
		spans = append(spans, pipeline.Span{Start: start - len(c.secret), End: start})
	}
	if len(spans) == 0 {
		return pipeline.Answer{}, nil
	}
	return pipeline.Answer{Findings: []pipeline.Finding{{
		Category: canaryCategory,
		Score:    1,
		Reason:   fmt.Sprintf("the canary of this deployment, found %d times (%d are counted at most)", len(spans), maxCanarySpans),
		Spans:    spans,
	}}}, nil
}
