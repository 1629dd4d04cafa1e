package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/go-json-experiment/json"
	"go.uber.org/zap"

	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/pipeline/envelope"
	"github.com/dmguard/dmguard/pipeline/kafka"
)

func sendCommand() *command {
	return &command{
		name:    "send",
		args:    "[FILE...]",
		summary: "put messages, one JSON object a line, into a running \"dmguard up\" or into Kafka",
		example: "dmguard send messages.ndjson",
		run:     runSend,
	}
}

func runSend(ctx context.Context, cl *commandLine) error {
	var kf kafkaFlags
	kf.add(cl)
	data := dataFlag(cl)
	prefix := cl.String("prefix", "dm.", "prefix of the topics' names, with --brokers")
	if err := cl.parse(0, -1); err != nil {
		return err
	}
	if kf.brokers == "" {
		r, err := findRunning(*data)
		if err != nil {
			return err
		}
		kf.brokers, *prefix = joinList(r.Brokers), r.Prefix
	}
	conn, err := kf.connection("dmguard-send")
	if err != nil {
		return err
	}
	in, err := openInputs(cl.args(), cl.in)
	if err != nil {
		return err
	}
	defer in.close()
	producer, err := kafka.NewProducer(conn, kafka.ProducerConfig{}, zap.NewNop())
	if err != nil {
		return err
	}
	defer producer.Close()
	s := &sender{log: producer, topic: *prefix + pipeline.TopicMessages}
	err = in.each(ctx, func(where string, line []byte) error {
		if len(line) > producer.MaxRecordBytes() {
			fmt.Fprintf(cl.err, "dmguard: %s: %d bytes, more than a record may have (%d): not sent\n", where, len(line), producer.MaxRecordBytes())
			s.refused++
			return nil
		}
		// What is wrong is sent all the same, as a platform would: it goes to
		// the dead letters.
		if !envelope.IsEnvelope(line) {
			if _, err := pipeline.ParseMessage(line); err != nil {
				fmt.Fprintf(cl.err, "dmguard: %s: will be a dead letter: %v\n", where, err)
			}
		}
		return s.add(ctx, line)
	})
	if err := errors.Join(err, s.flush(ctx)); err != nil {
		return err
	}
	fmt.Fprintf(cl.err, "%d messages sent\n", s.sent)
	if s.refused > 0 {
		return exitError(3)
	}
	return nil
}

// sender writes messages to the log in batches.
type sender struct {
	log     pipeline.Log
	topic   string
	batch   []pipeline.Record
	bytes   int
	sent    int
	refused int
}

func (s *sender) add(ctx context.Context, line []byte) error {
	r := pipeline.Record{
		Position: pipeline.Position{Topic: s.topic},
		Key:      []byte(pipeline.PeekConversation(line)),
		Value:    line,
		Headers:  []pipeline.Header{{Key: "schema", Value: []byte(pipeline.SchemaMessage)}},
	}
	if envelope.IsEnvelope(line) {
		r.Headers[0].Value = []byte(pipeline.SchemaEnvelope)
	}
	s.batch = append(s.batch, r)
	if s.bytes += len(line); len(s.batch) == 1000 || s.bytes > 4<<20 {
		return s.flush(ctx)
	}
	return nil
}

func (s *sender) flush(ctx context.Context) error {
	if len(s.batch) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := s.log.Produce(ctx, s.batch); err != nil {
		return fmt.Errorf("sending: %w", err)
	}
	s.sent += len(s.batch)
	s.batch, s.bytes = nil, 0
	return nil
}

// findRunning returns what a running "up" says of itself.
func findRunning(data string) (*running, error) {
	b, err := os.ReadFile(filepath.Join(data, "up.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("no dmguard runs on %s: start \"dmguard up\", or name Kafka with --brokers", data)
	}
	if err != nil {
		return nil, err
	}
	var r running
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("%s/up.json is damaged: %w", data, err)
	}
	return &r, nil
}
