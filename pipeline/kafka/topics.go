package kafka

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	kgo "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/metadata"

	"github.com/dmguard/dmguard/pipeline"
)

// Topics creates and checks the topics of a deployment.
type Topics struct {
	client *client
	cfg    TopicsConfig
}

// TopicsConfig says what the topics should be. The zero value of a number takes
// the default.
type TopicsConfig struct {
	Prefix      string        // of every name; "dm." by default
	Partitions  int           // of a topic that is created; 8
	Replication int           // copies that are wanted; 3, or 1 where Embedded
	Verdicts    time.Duration // how long verdicts are kept; 7 days

	// Messages is how long a topic of messages that is created here keeps them; 7
	// days. Where the platform created it, its own setting stands.
	Messages time.Duration

	// MaxRecordBytes is the largest record that will be written; 1,000,000. A
	// topic that takes less is a problem.
	MaxRecordBytes int

	// Embedded is for the in-process broker: nothing is ever deleted or
	// compacted, since its compaction is not safe against a crash.
	Embedded bool
}

// Problem is something wrong with a topic, and what to do about it.
type Problem struct {
	Topic string
	What  string
	Do    string
}

func (p Problem) String() string { return p.Topic + ": " + p.What + "; " + p.Do }

// NewTopics returns an administrator of the topics. It does not connect before
// the first call.
func NewTopics(conn Connection, cfg TopicsConfig) (*Topics, error) {
	var errs []error
	if cfg.Prefix == "" {
		cfg.Prefix = "dm."
	}
	for _, n := range []struct {
		name               string
		v                  *int
		fallback, embedded int
	}{
		{"partitions", &cfg.Partitions, 8, 8},
		{"copies", &cfg.Replication, 3, 1},
		{"bytes a record", &cfg.MaxRecordBytes, 1_000_000, 1_000_000},
	} {
		if *n.v == 0 {
			*n.v = n.fallback
			if cfg.Embedded {
				*n.v = n.embedded
			}
		}
		if *n.v < 0 {
			errs = append(errs, fmt.Errorf("kafka: topics: %d %s", *n.v, n.name))
		}
	}
	for _, d := range []*time.Duration{&cfg.Verdicts, &cfg.Messages} {
		if *d == 0 {
			*d = 7 * 24 * time.Hour
		}
		if *d < 0 {
			errs = append(errs, errors.New("kafka: topics: a negative retention"))
		}
	}
	c, err := conn.client()
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	return &Topics{client: c, cfg: cfg}, nil
}

// Close lets go of the connections.
func (t *Topics) Close() {
	t.client.close()
}

// Name returns the full name of a topic, such as [pipeline.TopicHits].
func (t *Topics) Name(topic string) string { return t.cfg.Prefix + topic }

// topicSpec is what a topic should be.
type topicSpec struct {
	name    string
	compact bool
	keep    time.Duration // 0 for ever
	foreign bool          // the platform's: reported, not judged
}

// specs lists the seven topics.
func (t *Topics) specs() []topicSpec {
	out := []topicSpec{
		{name: pipeline.TopicMessages, keep: t.cfg.Messages, foreign: true},
		{name: pipeline.TopicHits},
		{name: pipeline.TopicVerdicts, keep: t.cfg.Verdicts},
		{name: pipeline.TopicDecisions},
		{name: pipeline.TopicFeatures, compact: true},
		{name: pipeline.TopicDeadLetters},
		{name: pipeline.TopicGaps},
	}
	for i := range out {
		out[i].name = t.Name(out[i].name)
		if t.cfg.Embedded {
			out[i].compact, out[i].keep = false, 0
		}
	}
	return out
}

// wantedInSync is how many copies must acknowledge where there are n.
func wantedInSync(n int) int { return max(1, n-1) }

func (s *topicSpec) config(replication int) map[string]string {
	out := map[string]string{
		"cleanup.policy":      "delete",
		"retention.ms":        "-1",
		"retention.bytes":     "-1",
		"min.insync.replicas": strconv.Itoa(wantedInSync(replication)),
	}
	if s.compact {
		out["cleanup.policy"] = "compact"
	}
	if s.keep > 0 {
		out["retention.ms"] = strconv.FormatInt(s.keep.Milliseconds(), 10)
	}
	return out
}

// Create makes the topics that do not exist, and leaves the others as they are.
// It returns the names of those that it made.
func (t *Topics) Create(ctx context.Context) ([]string, error) {
	req := &kgo.CreateTopicsRequest{}
	for _, s := range t.specs() {
		tc := kgo.TopicConfig{Topic: s.name, NumPartitions: t.cfg.Partitions, ReplicationFactor: t.cfg.Replication}
		for name, value := range s.config(t.cfg.Replication) {
			tc.ConfigEntries = append(tc.ConfigEntries, kgo.ConfigEntry{ConfigName: name, ConfigValue: value})
		}
		req.Topics = append(req.Topics, tc)
	}
	res, err := t.client.api.CreateTopics(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("creating topics: %w", err)
	}
	var made []string
	var errs []error
	for name, err := range res.Errors {
		switch {
		case err == nil:
			made = append(made, name)
		case !errors.Is(err, kgo.TopicAlreadyExists):
			errs = append(errs, fmt.Errorf("creating topic %s: %w", name, err))
		}
	}
	slices.Sort(made)
	t.client.close() // what is known of the cluster is out of date
	return made, errors.Join(errs...)
}

// Delete removes the topics with all that is in them.
func (t *Topics) Delete(ctx context.Context) error {
	var names []string
	for _, s := range t.specs() {
		names = append(names, s.name)
	}
	res, err := t.client.api.DeleteTopics(ctx, &kgo.DeleteTopicsRequest{Topics: names})
	if err != nil {
		return fmt.Errorf("deleting topics: %w", err)
	}
	var errs []error
	for name, err := range res.Errors {
		if err != nil && !errors.Is(err, kgo.UnknownTopicOrPartition) {
			errs = append(errs, fmt.Errorf("deleting topic %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// TopicState is what a topic is.
type TopicState struct {
	Name            string
	Exists          bool
	Partitions      int
	Replication     int           // of the partition that has fewest copies
	Retention       time.Duration // 0 where records are kept for ever
	RetentionBytes  int64         // of one partition; -1 without a limit
	Cleanup         string
	MinInSync       int
	MaxMessageBytes int
	UncleanElection bool
}

// Describe returns what the topics are, in the order messages, hits, verdicts,
// decisions, features, deadletters, gaps.
func (t *Topics) Describe(ctx context.Context) ([]TopicState, error) {
	specs := t.specs()
	names := make([]string, len(specs))
	for i := range specs {
		names[i] = specs[i].name
	}
	t.client.close() // ask afresh
	known, err := t.client.topics(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("describing topics: %w", err)
	}
	out := make([]TopicState, len(specs))
	for i, name := range names {
		if out[i], err = t.describe(ctx, name, known[name]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (t *Topics) describe(ctx context.Context, name string, meta *metadata.ResponseTopic) (TopicState, error) {
	out := TopicState{Name: name, RetentionBytes: -1}
	if meta == nil || kgo.Error(meta.ErrorCode) == kgo.UnknownTopicOrPartition {
		return out, nil
	}
	if meta.ErrorCode != 0 {
		return out, fmt.Errorf("describing topic %s: %w", name, kgo.Error(meta.ErrorCode))
	}
	out.Exists, out.Partitions = true, len(meta.Partitions)
	for i, p := range meta.Partitions {
		if i == 0 || len(p.ReplicaNodes) < out.Replication {
			out.Replication = len(p.ReplicaNodes)
		}
	}
	res, err := t.client.api.DescribeConfigs(ctx, &kgo.DescribeConfigsRequest{
		Resources: []kgo.DescribeConfigRequestResource{{ResourceType: kgo.ResourceTypeTopic, ResourceName: name}},
	})
	if err == nil && len(res.Resources) != 1 {
		err = errors.New("the answer holds another number of topics")
	}
	if err == nil {
		err = res.Resources[0].Error
	}
	if err != nil {
		return out, fmt.Errorf("describing topic %s: %w", name, err)
	}
	values := map[string]string{}
	for _, e := range res.Resources[0].ConfigEntries {
		values[e.ConfigName] = e.ConfigValue
	}
	var errs []error
	number := func(key string, fallback int64) int64 {
		v, ok := values[key]
		if !ok {
			return fallback
		}
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			errs = append(errs, fmt.Errorf("describing topic %s: %s: %w", name, key, err))
		}
		return n
	}
	if ms := number("retention.ms", 7*24*time.Hour.Milliseconds()); ms >= 0 {
		out.Retention = max(1, time.Duration(min(ms, math.MaxInt64/int64(time.Millisecond)))*time.Millisecond)
	}
	out.RetentionBytes = number("retention.bytes", -1)
	out.Cleanup = values["cleanup.policy"]
	if out.Cleanup == "" {
		out.Cleanup = "delete"
	}
	out.MinInSync = int(number("min.insync.replicas", 1))
	out.MaxMessageBytes = int(number("max.message.bytes", 1_048_588))
	out.UncleanElection = values["unclean.leader.election.enable"] == "true"
	return out, errors.Join(errs...)
}

// Check compares the topics with what they should be, and returns every
// difference. An error means that it could not look.
func (t *Topics) Check(ctx context.Context) ([]Problem, error) {
	states, err := t.Describe(ctx)
	if err != nil {
		return nil, err
	}
	var out []Problem
	for i, spec := range t.specs() {
		out = append(out, t.judge(&spec, &states[i])...)
	}
	return out, nil
}

func (t *Topics) judge(spec *topicSpec, is *TopicState) []Problem {
	var out []Problem
	add := func(do, format string, args ...any) {
		out = append(out, Problem{Topic: spec.name, What: fmt.Sprintf(format, args...), Do: do})
	}
	alter := func(key, value string) string {
		return fmt.Sprintf("run kafka-configs.sh --alter --entity-type topics --entity-name %s --add-config %s=%s", spec.name, key, value)
	}
	if !is.Exists {
		add("run dmguard topics create", "it does not exist")
		return out
	}
	if is.Replication < t.cfg.Replication {
		add("raise it with kafka-reassign-partitions.sh, or ask for fewer copies in the configuration",
			"%d copies, %d wanted", is.Replication, t.cfg.Replication)
	}
	if is.MinInSync > is.Replication {
		add(alter("min.insync.replicas", strconv.Itoa(wantedInSync(is.Replication))),
			"it wants %d copies in sync and has %d: nothing can be written", is.MinInSync, is.Replication)
	}
	if want := wantedInSync(is.Replication); is.MinInSync < want && want > 1 {
		add(alter("min.insync.replicas", strconv.Itoa(want)),
			"a write is acknowledged by %d of %d copies: it can be lost with one broker", is.MinInSync, is.Replication)
	}
	if is.UncleanElection {
		add(alter("unclean.leader.election.enable", "false"), "a copy that lags may become leader: acknowledged records can be lost")
	}
	if spec.foreign {
		if is.Cleanup != "delete" {
			add(alter("cleanup.policy", "delete"), "compaction (cleanup.policy=%s) deletes earlier messages of a conversation", is.Cleanup)
		}
		return out
	}
	if is.MaxMessageBytes < t.cfg.MaxRecordBytes+batchHeader {
		add(alter("max.message.bytes", strconv.Itoa(t.cfg.MaxRecordBytes+batchHeader)),
			"it takes batches of %d bytes, and records of %d are written", is.MaxMessageBytes, t.cfg.MaxRecordBytes)
	}
	if spec.compact {
		if is.Cleanup != "compact" {
			add(alter("cleanup.policy", "compact"), "cleanup.policy is %s: it grows for ever, or loses the hashes of old attachments", is.Cleanup)
		}
		return out
	}
	if is.Cleanup != "delete" {
		add(alter("cleanup.policy", "delete"), "cleanup.policy is %s: records with the same key would be deleted", is.Cleanup)
	}
	if is.RetentionBytes >= 0 {
		add(alter("retention.bytes", "-1"), "records are deleted above %d bytes a partition", is.RetentionBytes)
	}
	switch {
	case spec.keep == 0 && is.Retention != 0:
		add(alter("retention.ms", "-1"), "records are deleted after %v: it is the only copy", is.Retention)
	case spec.keep > 0 && is.Retention != 0 && is.Retention < spec.keep:
		add(alter("retention.ms", strconv.FormatInt(spec.keep.Milliseconds(), 10)), "records are deleted after %v, %v wanted", is.Retention, spec.keep)
	}
	return out
}
