package kafka

import (
	"crypto/rand"
	"strings"
	"testing"
	"time"

	kgo "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/dmguard/dmguard/pipeline"
)

func (b *testbed) topics(t *testing.T, cfg TopicsConfig) *Topics {
	t.Helper()
	if cfg.Prefix == "" {
		cfg.Prefix = strings.ToLower(rand.Text()) + "."
	}
	if cfg.Replication == 0 {
		cfg.Replication = 1
	}
	tp, err := NewTopics(b.conn(), cfg)
	must(t, err)
	t.Cleanup(func() { tp.Close() })
	return tp
}

func (b *testbed) alter(t *testing.T, topic, key, value string) {
	t.Helper()
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	r := kmsg.NewIncrementalAlterConfigsRequestResource()
	r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, topic
	c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	c.Name, c.Value = key, new(value)
	r.Configs = append(r.Configs, c)
	req.Resources = append(req.Resources, r)
	res, err := req.RequestWith(t.Context(), b.admin(t))
	must(t, err)
	if code := res.Resources[0].ErrorCode; code != 0 {
		t.Fatalf("altering %s of %s: %v", key, topic, kgo.Error(code))
	}
}

func TestEveryTopicThatIsCreatedPassesItsCheck(t *testing.T) {
	everywhere(t, func(t *testing.T, b *testbed) {
		for _, embedded := range []bool{false, true} {
			tp := b.topics(t, TopicsConfig{Partitions: 2, Embedded: embedded, Verdicts: 48 * time.Hour})
			problems, err := tp.Check(t.Context())
			must(t, err)
			if len(problems) != 7 || !strings.Contains(problems[0].Do, "topics create") {
				t.Errorf("before: %v", problems)
			}
			made, err := tp.Create(t.Context())
			if err != nil || len(made) != 7 {
				t.Fatalf("made %v: %v", made, err)
			}
			eventually(t, "every topic is there", func() bool {
				problems, err := tp.Check(t.Context())
				must(t, err)
				if len(problems) > 0 && problems[0].What != "it does not exist" {
					t.Fatal(problems)
				}
				return len(problems) == 0
			})
			if made, err = tp.Create(t.Context()); err != nil || len(made) != 0 {
				t.Errorf("the second time made %v: %v", made, err)
			}
			states, err := tp.Describe(t.Context())
			must(t, err)
			for _, s := range states {
				keep, cleanup := time.Duration(0), "delete"
				if !embedded {
					switch s.Name {
					case tp.Name(pipeline.TopicMessages):
						keep = 7 * 24 * time.Hour
					case tp.Name(pipeline.TopicVerdicts):
						keep = 48 * time.Hour
					case tp.Name(pipeline.TopicFeatures):
						cleanup = "compact"
					}
				}
				if !s.Exists || s.Partitions != 2 || s.Replication != 1 || s.Retention != keep || s.Cleanup != cleanup || s.RetentionBytes != -1 || s.MaxMessageBytes < 1_000_000 {
					t.Errorf("embedded %v: %+v", embedded, s)
				}
			}
		}
	})
}

func TestAWrongTopicIsNamedWithWhatToDo(t *testing.T) {
	everywhere(t, func(t *testing.T, b *testbed) {
		tp := b.topics(t, TopicsConfig{Partitions: 1})
		_, err := tp.Create(t.Context())
		must(t, err)
		for _, c := range []struct{ topic, key, value, what, do string }{
			{pipeline.TopicHits, "retention.ms", "86400000", "24h0m0s", "retention.ms=-1"},
			{pipeline.TopicDecisions, "retention.bytes", "1000000", "1000000 bytes", "retention.bytes=-1"},
			{pipeline.TopicDeadLetters, "cleanup.policy", "compact", "compact", "cleanup.policy=delete"},
			{pipeline.TopicGaps, "max.message.bytes", "5000", "5000", "max.message.bytes=1000061"},
			{pipeline.TopicFeatures, "cleanup.policy", "delete", "delete", "cleanup.policy=compact"},
			{pipeline.TopicVerdicts, "retention.ms", "3600000", "1h0m0s", "retention.ms=604800000"},
			{pipeline.TopicMessages, "cleanup.policy", "compact", "compact", "cleanup.policy=delete"},
			{pipeline.TopicHits, "min.insync.replicas", "2", "nothing can be written", "min.insync.replicas=1"},
		} {
			tp := b.topics(t, TopicsConfig{Partitions: 1})
			_, err := tp.Create(t.Context())
			must(t, err)
			b.alter(t, tp.Name(c.topic), c.key, c.value)
			var problems []Problem
			eventually(t, "the change is seen", func() bool {
				problems, err = tp.Check(t.Context())
				must(t, err)
				return len(problems) > 0 && !strings.Contains(problems[0].What, "exist")
			})
			if len(problems) != 1 || problems[0].Topic != tp.Name(c.topic) || !strings.Contains(problems[0].What, c.what) || !strings.Contains(problems[0].Do, c.do) {
				t.Errorf("%s with %s=%s: %v", c.topic, c.key, c.value, problems)
			}
		}
	})
}

func TestTooFewCopiesAreAProblem(t *testing.T) {
	tp := &Topics{cfg: TopicsConfig{Replication: 3, MaxRecordBytes: 1000}}
	good := TopicState{Exists: true, Replication: 3, MinInSync: 2, Cleanup: "delete", RetentionBytes: -1, MaxMessageBytes: 1 << 20}
	for _, c := range []struct {
		name string
		f    func(*TopicState)
		want int
	}{
		{"as it should be", func(*TopicState) {}, 0},
		{"two copies", func(s *TopicState) { s.Replication, s.MinInSync = 2, 1 }, 1},
		{"one acknowledges", func(s *TopicState) { s.MinInSync = 1 }, 1},
		{"unclean elections", func(s *TopicState) { s.UncleanElection = true }, 1},
	} {
		s := good
		c.f(&s)
		if got := tp.judge(&topicSpec{name: "t"}, &s); len(got) != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
