package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/go-json-experiment/json"
	"go.uber.org/zap"

	"github.com/dmguard/dmguard/pipeline/kafka"
)

func topicsCommand() *command {
	return &command{name: "topics", summary: "make the topics in Kafka, or check them", group: []*command{
		{
			name: "create", summary: "make the topics that are missing; those that are there stay as they are",
			example: "dmguard topics create --brokers kafka:9092", run: runTopicsCreate,
		},
		{
			name: "check", summary: "report what is wrong with the topics, and what to do about it",
			example: "dmguard topics check --brokers kafka:9092", run: runTopicsCheck,
		},
	}}
}

// topicFlags name the topics, over what the configuration says.
type topicFlags struct {
	kafkaFlags
	config      string
	prefix      string
	partitions  int
	replication int
}

func (t *topicFlags) add(cl *commandLine) {
	t.kafkaFlags.add(cl)
	cl.env(&t.config, "config", "DMGUARD_CONFIG", "", "configuration `file`; its section topics counts")
	cl.StringVar(&t.prefix, "prefix", "", "prefix of the topics' names, instead of topics.prefix")
	cl.IntVar(&t.partitions, "partitions", 0, "partitions of a topic that is made, instead of topics.partitions")
	cl.IntVar(&t.replication, "replication", 0, "copies of each record, instead of topics.replication")
}

func (t *topicFlags) open() (*kafka.Topics, error) {
	cfg, err := loadConfig(t.config)
	if err != nil {
		return nil, err
	}
	conn, err := t.connection("dmguard-topics")
	if err != nil {
		return nil, err
	}
	if t.prefix != "" {
		cfg.Topics.Prefix = t.prefix
	}
	if t.partitions != 0 {
		cfg.Topics.Partitions = t.partitions
	}
	if t.replication != 0 {
		cfg.Topics.Replication = t.replication
	}
	return openTopics(conn, cfg.Topics)
}

func openTopics(conn kafka.Connection, cfg TopicConfig) (*kafka.Topics, error) {
	return kafka.NewTopics(conn, kafka.TopicsConfig{Prefix: cfg.Prefix, Partitions: cfg.Partitions, Replication: cfg.Replication})
}

func runTopicsCreate(ctx context.Context, cl *commandLine) error {
	var flags topicFlags
	flags.add(cl)
	if err := cl.parse(0, 0); err != nil {
		return err
	}
	t, err := flags.open()
	if err != nil {
		return err
	}
	defer t.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	created, err := t.Create(ctx)
	for _, name := range created {
		fmt.Fprintln(cl.out, "made", name)
	}
	if err == nil && len(created) == 0 {
		fmt.Fprintln(cl.out, "all topics are there")
	}
	return err
}

func runTopicsCheck(ctx context.Context, cl *commandLine) error {
	var flags topicFlags
	flags.add(cl)
	asJSON := cl.Bool("json", false, "print JSON")
	if err := cl.parse(0, 0); err != nil {
		return err
	}
	t, err := flags.open()
	if err != nil {
		return err
	}
	defer t.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	problems, err := t.Check(ctx)
	if err != nil {
		return err
	}
	if *asJSON {
		if problems == nil {
			problems = []kafka.Problem{}
		}
		if err := json.MarshalWrite(cl.out, problems); err != nil {
			return err
		}
		fmt.Fprintln(cl.out)
	} else {
		tw := tabwriter.NewWriter(cl.out, 0, 0, 2, ' ', 0)
		if len(problems) > 0 {
			fmt.Fprintln(tw, "TOPIC\tPROBLEM\tWHAT TO DO")
		}
		for _, p := range problems {
			fmt.Fprintf(tw, "%s\t%s\t%s\n", p.Topic, p.What, p.Do)
		}
		if err := tw.Flush(); err != nil {
			return err
		}
	}
	if len(problems) > 0 {
		return exitError(3)
	}
	if !*asJSON {
		fmt.Fprintln(cl.out, "ok")
	}
	return nil
}

// checkTopics refuses to start on topics that are missing, and warns of what
// else is wrong with them.
func checkTopics(ctx context.Context, conn kafka.Connection, cfg TopicConfig, log *zap.Logger) error {
	t, err := openTopics(conn, cfg)
	if err != nil {
		return err
	}
	defer t.Close()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	states, err := t.Describe(ctx)
	if err != nil {
		return fmt.Errorf("checking the topics: %w", err)
	}
	var missing []error
	for _, s := range states {
		if !s.Exists {
			missing = append(missing, fmt.Errorf("topic %s does not exist: run \"dmguard topics create\"", s.Name))
		}
	}
	if err := errors.Join(missing...); err != nil {
		return err
	}
	problems, err := t.Check(ctx)
	if err != nil {
		return fmt.Errorf("checking the topics: %w", err)
	}
	for _, p := range problems {
		log.Warn("a topic is not as it should be", zap.String("topic", p.Topic), zap.String("problem", p.What), zap.String("do", p.Do))
	}
	return nil
}
