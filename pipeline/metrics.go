package pipeline

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts what a pipeline does.
type Metrics struct {
	messages *prometheus.CounterVec
	findings *prometheus.CounterVec
	bounded  *prometheus.CounterVec
	stage    [stageCount]prometheus.Counter
	failures *prometheus.CounterVec
	retries  prometheus.Counter
	repeats  prometheus.Counter
	verdicts map[verdictLabel]prometheus.Counter
}

type verdictLabel struct {
	status Status
	action Action
}

type stage int

const (
	stageOpen stage = iota
	stagePrepare
	stageLoad
	stageDetect
	stageSink
	stageSave
	stageCount
)

var stageNames = [stageCount]string{"open", "prepare", "load", "detect", "sink", "save"}

// StageNames are the values of the label "stage" of
// dmguard_stage_seconds_total, in the order in which a batch goes through them.
func StageNames() []string { return stageNames[:] }

// NewMetrics registers the metrics of a pipeline with reg, or with nobody where
// reg is nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		messages: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dmguard_messages_total", Help: "Messages judged, by status and action of their verdict.",
		}, []string{"status", "action"}),
		findings: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dmguard_findings_total", Help: "Findings, by detector and category.",
		}, []string{"detector", "category"}),
		bounded: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dmguard_findings_bounded_total", Help: "Findings from which no more than an action may follow, by that action.",
		}, []string{"at_most"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dmguard_detector_failures_total", Help: "Times a detector could not look, or not at everything.",
		}, []string{"detector"}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "dmguard_retries_total", Help: "Attempts repeated because something outside did not answer.",
		}),
		repeats: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "dmguard_repeats_total", Help: "Messages delivered again that had been judged already.",
		}),
		verdicts: map[verdictLabel]prometheus.Counter{},
	}
	stages := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "dmguard_stage_seconds_total", Help: "Time that lanes spent in each stage, waiting included.",
	}, []string{"stage"})
	for i, name := range stageNames {
		m.stage[i] = stages.WithLabelValues(name)
	}
	for _, s := range []Status{Scanned, Partial, Failed, Skipped} {
		for _, a := range []Action{Allow, Review, Block} {
			m.verdicts[verdictLabel{s, a}] = m.messages.WithLabelValues(s.String(), a.String())
		}
	}
	if reg != nil {
		reg.MustRegister(m.messages, m.findings, m.bounded, stages, m.failures, m.retries, m.repeats)
	}
	return m
}

func (m *Metrics) count(v *Verdict) {
	m.verdicts[verdictLabel{v.Status, v.Action}].Inc()
	for i := range v.Findings {
		f := &v.Findings[i]
		m.findings.WithLabelValues(f.Detector, string(f.Category)).Inc()
		if f.AtMost != nil {
			m.bounded.WithLabelValues(f.AtMost.String()).Inc()
		}
	}
	for _, d := range v.FailedDetectors {
		m.failures.WithLabelValues(d).Inc()
	}
}

func (m *Metrics) stages(start time.Time) stageClock { return stageClock{m, start} }

// stageClock adds up how long a batch spends in each stage.
type stageClock struct {
	m    *Metrics
	last time.Time
}

func (c *stageClock) lap(s stage) {
	now := time.Now()
	c.m.stage[s].Add(now.Sub(c.last).Seconds())
	c.last = now
}
