package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"go.uber.org/zap"

	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/pipeline/kafka"
)

func deadLettersCommand() *command {
	return &command{name: "deadletters", summary: "list what could not be judged, or have it judged again", group: []*command{
		{
			name: "list", summary: "list the dead letters with their reasons, without content",
			example: "dmguard deadletters list --brokers kafka:9092", run: runDeadLettersList,
		},
		{
			name: "retry", args: "[PARTITION:OFFSET...]", summary: "put dead letters back into the input, all of them or those named",
			example: "dmguard deadletters retry --brokers kafka:9092 0:17 0:18", run: runDeadLettersRetry,
		},
	}}
}

// deadLetterFlags say where the dead letters are: in Kafka, or in a running "up".
type deadLetterFlags struct {
	kafkaFlags
	data   *string
	prefix string
}

func (d *deadLetterFlags) add(cl *commandLine) {
	d.kafkaFlags.add(cl)
	d.data = dataFlag(cl)
	cl.StringVar(&d.prefix, "prefix", "dm.", "prefix of the topics' names, with --brokers")
}

func (d *deadLetterFlags) open() (kafka.Connection, *kafka.History, error) {
	if d.brokers == "" {
		r, err := findRunning(*d.data)
		if err != nil {
			return kafka.Connection{}, nil, err
		}
		d.brokers, d.prefix = joinList(r.Brokers), r.Prefix
	}
	conn, err := d.connection("dmguard-deadletters")
	if err != nil {
		return conn, nil, err
	}
	h, err := kafka.NewHistory(conn, zap.NewNop())
	return conn, h, err
}

// deadLetter is one line of the list.
type deadLetter struct {
	At        string            `json:"at"` // PARTITION:OFFSET in the dead letters, for retry
	Time      time.Time         `json:"time"`
	MessageID string            `json:"message_id,omitempty"`
	Reason    string            `json:"reason"`
	Input     pipeline.Position `json:"input"`
	Bytes     int               `json:"bytes"`
	Reference bool              `json:"reference,omitempty"` // too large to be kept here: the input still holds it
}

func describeDeadLetter(r *pipeline.Record) deadLetter {
	id, _ := pipeline.PeekIDs(r.Value)
	return deadLetter{
		At: fmt.Sprintf("%d:%d", r.Partition, r.Offset), Time: r.Time.UTC(), MessageID: id, Reason: r.Header("reason"),
		Input: inputOf(r), Bytes: len(r.Value), Reference: r.Header("reference") != "",
	}
}

func inputOf(r *pipeline.Record) pipeline.Position {
	partition, _ := strconv.ParseInt(r.Header("partition"), 10, 32) // 0 where it is damaged
	offset, _ := strconv.ParseInt(r.Header("offset"), 10, 64)
	return pipeline.Position{Topic: r.Header("topic"), Partition: int32(partition), Offset: offset}
}

func runDeadLettersList(ctx context.Context, cl *commandLine) error {
	var flags deadLetterFlags
	flags.add(cl)
	asJSON := cl.Bool("json", false, "print a JSON object a line")
	if err := cl.parse(0, 0); err != nil {
		return err
	}
	_, h, err := flags.open()
	if err != nil {
		return err
	}
	defer h.Close()
	tw := tabwriter.NewWriter(cl.out, 0, 0, 2, ' ', 0)
	n := 0
	err = h.Scan(ctx, flags.prefix+pipeline.TopicDeadLetters, kafka.ScanOptions{}, func(r pipeline.Record) error {
		d := describeDeadLetter(&r)
		n++
		if *asJSON {
			if err := json.MarshalWrite(cl.out, d); err != nil {
				return err
			}
			_, err := fmt.Fprintln(cl.out)
			return err
		}
		if n == 1 {
			fmt.Fprintln(tw, "AT\tTIME\tINPUT\tMESSAGE\tBYTES\tREASON")
		}
		fmt.Fprintf(tw, "%s\t%s\t%s/%d:%d\t%s\t%d\t%s\n", d.At, d.Time.Format(time.RFC3339), d.Input.Topic, d.Input.Partition, d.Input.Offset, d.MessageID, d.Bytes, d.Reason)
		return nil
	})
	if err := errors.Join(err, tw.Flush()); err != nil {
		return err
	}
	if n == 0 && !*asJSON {
		fmt.Fprintln(cl.out, "no dead letters")
	}
	return nil
}

func runDeadLettersRetry(ctx context.Context, cl *commandLine) error {
	var flags deadLetterFlags
	flags.add(cl)
	all := cl.Bool("all", false, "retry all of them")
	if err := cl.parse(0, -1); err != nil {
		return err
	}
	if len(cl.args()) == 0 && !*all {
		return errors.New("name dead letters as \"dmguard deadletters list\" does under AT, or give --all")
	}
	wanted := map[string]bool{}
	for _, at := range cl.args() {
		wanted[at] = true
	}
	conn, h, err := flags.open()
	if err != nil {
		return err
	}
	defer h.Close()
	producer, err := kafka.NewProducer(conn, kafka.ProducerConfig{}, zap.NewNop())
	if err != nil {
		return err
	}
	defer producer.Close()
	retried, failed := 0, 0
	// After a crash the same input may lie here more than once.
	seen := map[pipeline.Position]bool{}
	err = h.Scan(ctx, flags.prefix+pipeline.TopicDeadLetters, kafka.ScanOptions{}, func(r pipeline.Record) error {
		d := describeDeadLetter(&r)
		if !*all && !wanted[d.At] {
			return nil
		}
		delete(wanted, d.At)
		if seen[d.Input] {
			return nil
		}
		seen[d.Input] = true
		again, err := reviveDeadLetter(ctx, h, &r, flags.prefix)
		if err == nil {
			err = producer.Produce(ctx, []pipeline.Record{again})
		}
		if err != nil {
			failed++
			fmt.Fprintf(cl.err, "dmguard: %s: %v\n", d.At, err)
			return nil
		}
		retried++
		return nil
	})
	if err != nil {
		return err
	}
	for at := range wanted {
		failed++
		fmt.Fprintf(cl.err, "dmguard: %s: there is no such dead letter\n", at)
	}
	fmt.Fprintf(cl.out, "%d put back into the input; what fails again comes here again\n", retried)
	if failed > 0 {
		return exitError(3)
	}
	return nil
}

// reviveDeadLetter returns the record that goes back into the input.
func reviveDeadLetter(ctx context.Context, h *kafka.History, r *pipeline.Record, prefix string) (pipeline.Record, error) {
	again := pipeline.Record{Position: pipeline.Position{Topic: prefix + pipeline.TopicMessages}, Key: r.Key, Value: r.Value}
	if s := r.Header("input-schema"); s != "" {
		again.Headers = append(again.Headers, pipeline.Header{Key: "schema", Value: []byte(s)})
	}
	if r.Header("reference") == "" {
		return again, nil
	}
	var ref pipeline.Reference
	if err := json.Unmarshal(jsontext.Value(r.Value), &ref); err != nil {
		return again, fmt.Errorf("its reference is damaged: %w", err)
	}
	found, _, err := h.Read(ctx, ref.Topic, ref.Partition, []int64{ref.Offset})
	if err != nil {
		return again, err
	}
	if len(found) != 1 {
		return again, errors.New("the input no longer holds it")
	}
	if sum := sha256.Sum256(found[0].Value); hex.EncodeToString(sum[:]) != ref.SHA256 {
		return again, errors.New("the input holds another record in its place")
	}
	again.Value = found[0].Value
	return again, nil
}
