package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/pipeline/envelope"
	"github.com/dmguard/dmguard/pipeline/kafka"
	"github.com/dmguard/dmguard/reviewqueue/evidence"
)

// poisonVariable names the message that kills a worker of this test. The
// command itself knows no such thing.
const poisonVariable = "DMGUARD_TEST_POISON"

// poisonedWorker is a worker whose process is killed, as if by the kernel, when
// it opens a certain message.
func poisonedWorker() {
	if err := runPoisonedWorker(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func runPoisonedWorker(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("poisoned worker", flag.ContinueOnError)
	value := map[string]*string{}
	for _, name := range []string{"config", "brokers", "redis", "group", "keys", "review-key", "journal", "canary", "admin-listen"} {
		value[name] = flags.String(name, "", "")
	}
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	log, err := (&logFlags{level: "info"}).logger(os.Stderr)
	if err != nil {
		return err
	}
	keys, _, err := envelope.NewReloader(envelope.File{Path: *value["keys"]})
	if err != nil {
		return err
	}
	sealer, err := evidence.OpenSealer(*value["review-key"])
	if err != nil {
		return err
	}
	rules, err := (&rulesetOptions{config: *value["config"]}).load(ctx, log)
	if err != nil {
		return err
	}
	rdb := redis.NewClient(&redis.Options{Addr: *value["redis"]})
	defer rdb.Close()
	open := openerWith(keys, false)
	w := &worker{
		conn: kafka.Connection{Brokers: splitList(*value["brokers"])}, redis: rdb, rules: rules, keys: keys, sealer: sealer,
		open: func(r *pipeline.Record) (*pipeline.Message, error) {
			m, err := open(r)
			if err == nil && m.ID == os.Getenv(poisonVariable) {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {} // nothing comes after this
			}
			return m, err
		},
		group:   *value["group"],
		journal: filepath.Join(*value["journal"], *value["group"]), log: log.With(zap.Bool("poisoned", true)), registry: newRegistry(),
	}
	return w.run(ctx)
}

// TestAPoisonMessageIsQuarantinedAlone has one message among many kill the
// process whenever it is opened. After three deaths it is a dead letter, and
// nobody else is.
func TestAPoisonMessageIsQuarantinedAlone(t *testing.T) {
	d := newRealDeployment(t, deploymentOptions{redis: realRedis(t)})
	var talks [][]inputMessage
	for i := range 60 {
		talks = append(talks, d.riskyTalk(fmt.Sprintf("talk-%d", i), 20))
	}
	messages := interleave(talks...)
	const poison = "talk-31-9"
	d.produce(messages...)

	deaths := 0
	for {
		w := d.start("dmguard-poisoned", []string{poisonVariable + "=" + poison}, d.workerArgs("journal")...)
		ends := d.ends(pipeline.TopicMessages)
		d.await("the worker to die or to be done", func() bool { return w.ended() || sumOf(d.committed()) == sumOf(ends) })
		if !w.ended() {
			w.kill()
			break
		}
		if s, ok := w.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGKILL {
			t.Fatalf("the worker ended by itself: %v\n%s", w.cmd.ProcessState, w.logged())
		}
		d.forgetMembers()
		if deaths++; deaths > pipeline.MaxKills {
			break
		}
	}
	if deaths != pipeline.MaxKills {
		t.Errorf("the process died %d times, not %d", deaths, pipeline.MaxKills)
	}

	letters := d.records(pipeline.TopicDeadLetters)
	for _, r := range letters {
		id, _ := pipeline.PeekIDs(r.Value)
		if reason := r.Header("reason"); id != poison || !strings.Contains(reason, "quarantined: the process died 3 times") {
			t.Errorf("dead letter %s: %s", id, reason)
		}
	}
	if len(letters) != 1 {
		t.Errorf("%d dead letters, not 1", len(letters))
	}
	verdicts := d.verdicts()
	for _, m := range messages {
		vs := verdicts[m.id]
		if len(vs) == 0 {
			t.Errorf("%s has no verdict", m.id)
		}
		for _, v := range vs {
			if (v.Status == pipeline.Failed) != (m.id == poison) {
				t.Errorf("verdict on %s: %v, %s", m.id, v.Status, v.Error)
			}
		}
	}
}
