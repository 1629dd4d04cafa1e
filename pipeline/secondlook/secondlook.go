// Package secondlook asks a model server of the operator's own for its opinion
// about the few conversations that were alerted anyway, so that a reviewer sees
// it beside the findings.
//
// It stands beside the path of verdicts and never in it: [Desk.Accept] takes
// what was already written and does not wait. A verdict is never changed. The
// opinion becomes a finding "second_look" in a further hit on the same message,
// which replaces the summary that the queue shows and reopens nothing; it moves
// the severity of that message by at most one step, never below low, and the
// action not at all: the case waits for a person whatever the opinion is.
//
// What is sent is what the configuration lists and nothing else, by default no
// content. What comes back is one of three words and a number; a model cannot
// put text before a reviewer.
//
// What it does not do: it is not durable. An opinion that was not there when
// the process ended, or that came while the queue was full, is not there. It
// does not look where a hash list matched, and it promises nothing about what
// the model knows. The client over HTTP is built with the tag secondlook only.
package secondlook

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/dmguard/dmguard/pipeline"
)

// Category is the category of the finding that an opinion becomes; its label is
// the opinion.
const Category pipeline.Category = "second_look"

// MaxShare is the largest share of conversations that may be looked at again.
const MaxShare = 0.005

// Config says who is asked, about what, and what may be sent.
type Config struct {
	// URL is that of the model server: https, or http on loopback. Empty turns
	// second looks off.
	URL string `yaml:"url"`

	// MinRisk is the risk from which a conversation may be looked at.
	MinRisk float64 `yaml:"min_risk"`

	// Share is the most looks for each conversation that is seen, above 0 and
	// at most [MaxShare].
	Share float64 `yaml:"share"`

	// Timeout is for one look.
	Timeout time.Duration `yaml:"timeout"`

	// Send lists what is sent: [SendRisk], [SendLabels], [SendAges],
	// [SendText].
	Send []string `yaml:"send"`
}

// What may be sent.
const (
	SendRisk   = "risk"   // of the conversation
	SendLabels = "labels" // of the findings, with scores
	SendAges   = "ages"   // of sender and recipients, where the platform knows them
	SendText   = "text"   // of the message that raised the alert
)

var sendable = []string{SendRisk, SendLabels, SendAges, SendText}

// Validate reports every fault at once.
func (c *Config) Validate() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf("second_look."+format, args...)) }
	if c.URL != "" {
		if err := checkURL(c.URL); err != nil {
			fail("url: %w", err)
		}
	}
	if !(c.MinRisk > 0 && c.MinRisk <= 1) {
		fail("min_risk is not above 0 and at most 1")
	}
	if !(c.Share > 0 && c.Share <= MaxShare) {
		fail("share is not above 0 and at most %v", MaxShare)
	}
	if c.Timeout <= 0 || c.Timeout > 5*time.Minute {
		fail("timeout is %v: it is more than nothing and at most 5m", c.Timeout)
	}
	for i, s := range c.Send {
		if !slices.Contains(sendable, s) {
			fail("send[%d] is none of %q", i, sendable)
		}
	}
	return errors.Join(errs...)
}

func checkURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return errors.New("not a URL")
	case u.User != nil:
		return errors.New("holds a name or password: the token is an environment variable")
	case u.Scheme == "https" && u.Hostname() != "":
		return nil
	case u.Scheme == "http" && loopback(u.Hostname()):
		return nil
	}
	return errors.New("is neither https nor http on loopback")
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// Question is what a model is asked. What may not be sent is absent.
type Question struct {
	Case       string   `json:"case"` // names the conversation to nobody else
	Risk       *float64 `json:"risk,omitempty"`
	Labels     []Label  `json:"labels,omitempty"`
	SenderAge  *int     `json:"sender_age,omitempty"`
	Recipients []int    `json:"recipient_ages,omitempty"`
	Text       *string  `json:"text,omitempty"`
}

// Label is one finding of a question.
type Label struct {
	Label   string  `json:"label"`
	Score   float64 `json:"score"`
	Earlier bool    `json:"earlier,omitzero"` // in an earlier message
}

// Opinion is what a model thinks of an alert.
type Opinion string

// Opinions.
const (
	Raise Opinion = "raise"
	Keep  Opinion = "keep"
	Lower Opinion = "lower"
)

// Answer is what a model answers.
type Answer struct {
	Opinion    Opinion `json:"opinion"`
	Confidence float64 `json:"confidence"` // 0 to 1
}

func (a Answer) validate() error {
	if a.Opinion != Raise && a.Opinion != Keep && a.Opinion != Lower || !(a.Confidence >= 0 && a.Confidence <= 1) {
		return errors.New("the answer is outside of its schema")
	}
	return nil
}

// minConfidence is what it takes to move a severity.
const minConfidence = 0.7

// Looker answers questions. Its errors quote nothing of a question or answer.
type Looker interface {
	Look(ctx context.Context, q Question) (Answer, error)
}

// maxWaiting is how many looks wait; with them the texts of their messages.
const maxWaiting = 32

// maxTokens is how many looks may be saved up.
const maxTokens = 16

// Desk chooses what is looked at again, and asks. It is a [pipeline.Sink] that
// stands behind the one that writes.
type Desk struct {
	cfg      Config
	looker   Looker
	annotate func(context.Context, *pipeline.Outcome) error
	log      *zap.Logger
	waiting  chan *pipeline.Outcome

	mu     sync.Mutex
	tokens float64 // guarded by mu

	conversations prometheus.Counter
	looks         *prometheus.CounterVec
}

// NewDesk returns a desk whose metrics are registered with reg. annotate writes
// what an opinion adds, such as [pipeline.Publisher.Annotate].
func NewDesk(cfg Config, looker Looker, annotate func(context.Context, *pipeline.Outcome) error, log *zap.Logger, reg prometheus.Registerer) (*Desk, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	d := &Desk{
		cfg: cfg, looker: looker, annotate: annotate, log: log, waiting: make(chan *pipeline.Outcome, maxWaiting),
		conversations: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "dmguard_second_look_conversations_total", Help: "Conversations that began, each of which adds to the budget of second looks.",
		}),
		looks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dmguard_second_looks_total",
			Help: "Alerts that could be looked at again, by what became of it: raise, keep, lower, failed, over_budget, busy.",
		}, []string{"result"}),
	}
	reg.MustRegister(d.conversations, d.looks)
	return d, nil
}

// Accept implements [pipeline.Sink]. It never waits and never fails.
func (d *Desk) Accept(_ context.Context, batch []*pipeline.Outcome) error {
	for _, o := range batch {
		if o.Item == nil {
			continue
		}
		if len(o.Item.Recent) == 0 && !o.Item.Repeat {
			d.conversations.Inc()
			d.earn()
		}
		if !d.eligible(o.Verdict) {
			continue
		}
		if !d.spend() {
			d.looks.WithLabelValues("over_budget").Inc()
			continue
		}
		select {
		case d.waiting <- detached(o):
		default:
			d.looks.WithLabelValues("busy").Inc()
		}
	}
	return nil
}

// detached returns what an opinion needs of o, without the batch around it and
// the record as it came.
func detached(o *pipeline.Outcome) *pipeline.Outcome {
	item := *o.Item
	return &pipeline.Outcome{
		Delivery: &pipeline.Delivery{Record: pipeline.Record{Position: o.Delivery.Position}},
		Item:     &item, Verdict: o.Verdict,
	}
}

// eligible reports whether a person waits for the verdict, because of the
// conversation alone. What a list matched is beyond opinions.
func (d *Desk) eligible(v *pipeline.Verdict) bool {
	asks := false
	for i := range v.Findings {
		if v.Findings[i].Match != nil {
			return false
		}
		asks = asks || !v.Findings[i].Supports
	}
	return asks && v.Action == pipeline.Review && v.Risk >= d.cfg.MinRisk
}

func (d *Desk) earn() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tokens = min(maxTokens, d.tokens+d.cfg.Share)
}

// spend takes a look from the budget, which is never more than the share of the
// conversations that began since the start.
func (d *Desk) spend() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.tokens < 1 {
		return false
	}
	d.tokens--
	return true
}

// Run asks, one question at a time, until ctx ends.
func (d *Desk) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case o := <-d.waiting:
			result, err := d.look(ctx, o)
			d.looks.WithLabelValues(result).Inc()
			if err != nil && ctx.Err() == nil {
				d.log.Warn("a second look failed", zap.String("case", caseOf(o)), zap.Error(err))
			}
		}
	}
}

const failed = "failed"

func (d *Desk) look(ctx context.Context, o *pipeline.Outcome) (result string, err error) {
	limited, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
	defer cancel()
	a, err := d.looker.Look(limited, d.question(o))
	if err == nil {
		err = a.validate()
	}
	if err != nil {
		return failed, err
	}
	if err := d.annotate(ctx, annotated(o, a)); err != nil {
		return failed, fmt.Errorf("writing an opinion: %w", err)
	}
	return string(a.Opinion), nil
}

func caseOf(o *pipeline.Outcome) string {
	return pipeline.CaseID(pipeline.ConversationCase, "conversation/"+o.Verdict.ConversationID)
}

// question holds what the configuration allows.
func (d *Desk) question(o *pipeline.Outcome) Question {
	m, v := o.Item.Message, o.Verdict
	q := Question{Case: caseOf(o)}
	for _, s := range d.cfg.Send {
		switch s {
		case SendRisk:
			q.Risk = &v.Risk
		case SendLabels:
			for i := range v.Findings {
				if f := &v.Findings[i]; f.Label != "" {
					q.Labels = append(q.Labels, Label{f.Label, f.Score, f.MessageID != ""})
				}
			}
		case SendAges:
			q.SenderAge = m.Sender.Age
			for _, r := range m.Recipients {
				if r.Age != nil {
					q.Recipients = append(q.Recipients, *r.Age)
				}
			}
		case SendText:
			text := m.Text.Reveal()
			q.Text = &text
		}
	}
	return q
}

// annotated returns a copy of o whose verdict has the opinion beside its
// findings. o stays as it was.
func annotated(o *pipeline.Outcome, a Answer) *pipeline.Outcome {
	v := *o.Verdict
	effect := "the severity stays"
	if a.Confidence >= minConfidence {
		switch {
		case a.Opinion == Raise && v.Severity < pipeline.Critical:
			v.Severity, effect = v.Severity+1, "the severity is one step higher"
		case a.Opinion == Lower && v.Severity > pipeline.Low:
			v.Severity, effect = v.Severity-1, "the severity is one step lower"
		}
	}
	v.Findings = append(slices.Clone(v.Findings), pipeline.Finding{
		Detector: string(Category), Category: Category, Label: string(a.Opinion), Score: a.Confidence,
		Reason:   fmt.Sprintf("the operator's model would %s it, with confidence %.2f; %s", a.Opinion, a.Confidence, effect),
		Supports: true,
	})
	out := *o
	out.Verdict = &v
	return &out
}
