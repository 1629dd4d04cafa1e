package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"go.yaml.in/yaml/v3"

	"github.com/dmguard/dmguard/configs"
	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/reviewqueue/access"
)

// fieldsMissing returns the keys of a struct type that a YAML mapping lacks.
func fieldsMissing(typ reflect.Type, node *yaml.Node, path string) []string {
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	if typ.Kind() != reflect.Struct || node == nil {
		return nil
	}
	values := map[string]*yaml.Node{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		values[node.Content[i].Value] = node.Content[i+1]
	}
	var missing []string
	for field := range typ.Fields() {
		name, options, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		switch {
		case !field.IsExported() || name == "-":
			continue
		case name == "":
			missing = append(missing, path+field.Name+" (has no name in YAML)")
			continue
		}
		value, there := values[name]
		if !there {
			if !strings.Contains(options, "omitempty") {
				missing = append(missing, path+name)
			}
			continue
		}
		missing = append(missing, fieldsMissing(field.Type, value, path+name+".")...)
	}
	return missing
}

func TestTheReferenceNamesEverySettingAtItsDefault(t *testing.T) {
	var doc yaml.Node
	if err := yaml.Unmarshal(configs.Reference, &doc); err != nil {
		t.Fatal(err)
	}
	for _, key := range fieldsMissing(reflect.TypeFor[Config](), doc.Content[0], "") {
		t.Errorf("the reference does not name %s", key)
	}
	// And every key of it is one of ours, also where it is read a second time.
	cfg, err := loadConfig("")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "reference.yaml")
	if err := os.WriteFile(path, configs.Reference, 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := loadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(cfg, again); diff != "" {
		t.Errorf("the reference is not what holds without a file:\n%s", diff)
	}
}

func TestEveryFaultOfAConfigurationIsReportedAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "faulty.yaml")
	const faulty = `
policy: {version: "", skip_regions: [at]}
worker: {lanes: -1, batch: 0, in_flight: 0, detector_timeout: 0s, prepare_timeout: 0s, drain_timeout: 0s, stuck_after: 0s, state_ttl: 0s, rebuild_window: -1s}
topics: {partitions: 0, replication: 0}
queue: {lease: -1s, sla: {critical: 0s}, max_attempts: 0, labels: [], shards: 0}
`
	if err := os.WriteFile(path, []byte(faulty), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := loadConfig(path)
	if err == nil {
		t.Fatal("taken")
	}
	for _, key := range []string{
		"policy.version", "policy.skip_regions[0]", "worker.lanes", "worker.batch", "worker.in_flight", "worker.detector_timeout",
		"worker.prepare_timeout", "worker.drain_timeout", "worker.stuck_after", "worker.state_ttl", "worker.rebuild_window",
		"topics.partitions", "topics.replication", "queue.lease", "queue.sla.critical", "queue.max_attempts", "queue.labels", "queue.shards",
	} {
		if !strings.Contains(err.Error(), key) {
			t.Errorf("nothing is said of %s:\n%v", key, err)
		}
	}
	if !strings.Contains(err.Error(), path) {
		t.Errorf("the file is not named: %v", err)
	}
}

// watched is a running [rules.watch].
type watched struct {
	applied chan *pipeline.Ruleset
	refused chan string
	stop    func()
}

func watchRules(t *testing.T, opt rulesetOptions) (*rules, *watched) {
	t.Helper()
	core, logs := observer.New(zapcore.InfoLevel)
	w := &watched{applied: make(chan *pipeline.Ruleset, 16), refused: make(chan string, 16)}
	log := zap.New(core, zap.Hooks(func(e zapcore.Entry) error {
		if e.Level == zapcore.ErrorLevel {
			w.refused <- fmt.Sprint(e.Message, logs.All()[logs.Len()-1].ContextMap())
		}
		return nil
	}))
	r, err := opt.load(t.Context(), log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.watch(ctx, log, func(rs *pipeline.Ruleset) { w.applied <- rs }) }()
	w.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	return r, w
}

func awaitOne[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(30 * time.Second):
		t.Fatalf("gave up waiting for %s", what)
		panic("unreachable")
	}
}

func TestAReloadTakesTheGoodAndRefusesTheBad(t *testing.T) {
	dir := t.TempDir()
	path, lists := filepath.Join(dir, "dmguard.yaml"), filepath.Join(dir, "lists")
	put := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(name+".new", name); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(lists, 0o700); err != nil {
		t.Fatal(err)
	}
	const list = "kind,hash,entry,category\nmd5,d41d8cd98f00b204e9800998ecf8427e,nothing,known_media\n"
	put(path, `policy: {version: "one"}`)
	put(filepath.Join(lists, "a.csv"), list)
	r, w := watchRules(t, rulesetOptions{config: path, lists: lists})
	defer w.stop()
	first := r.ruleset
	if got := first.Versions["policy"]; !strings.HasPrefix(got, "one-") {
		t.Fatalf("policy %s", got)
	}

	put(path, `policy: {version: "two", on_failed: review}`)
	second := awaitOne(t, "a change of the file", w.applied)
	if !strings.HasPrefix(second.Versions["policy"], "two-") || second.Policy.OnFailed != pipeline.Review {
		t.Errorf("taken over: %v", second.Versions)
	}
	if first.Policy.OnFailed == pipeline.Review {
		t.Error("the ruleset that was in force was changed in place")
	}

	put(path, "policy: {verzion: \"three\"}")
	if fault := awaitOne(t, "a refusal", w.refused); !strings.Contains(fault, "last good one stays") || !strings.Contains(fault, "verzion") {
		t.Errorf("refused with %q", fault)
	}
	put(filepath.Join(lists, "b.csv"), "kind,hash\n")
	put(path, `policy: {version: "four"}`)
	for fault := ""; !strings.Contains(fault, "b.csv:1"); { // the file before it may be looked at once more
		fault = awaitOne(t, "a refusal of the list", w.refused)
	}
	fourth := awaitOne(t, "the rest of the change", w.applied)
	for !strings.HasPrefix(fourth.Versions["policy"], "four-") {
		if !strings.HasPrefix(fourth.Versions["policy"], "two-") {
			t.Fatalf("a bad file was taken over: %v", fourth.Versions)
		}
		fourth = awaitOne(t, "the rest of the change", w.applied)
	}
	if got := fourth.Versions["lists"]; got != second.Versions["lists"] {
		t.Errorf("with a bad list in the folder, lists %s are in force, want those before, %s", got, second.Versions["lists"])
	}
	if err := os.Remove(filepath.Join(lists, "b.csv")); err != nil {
		t.Fatal(err)
	}
	// SIGHUP asks for the same, whether or not anything changed.
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if again := awaitOne(t, "SIGHUP", w.applied); !cmp.Equal(again.Versions, fourth.Versions) {
		t.Errorf("the same files have other versions: %v, %v", fourth.Versions, again.Versions)
	}
}

// TestATokenLineIsReadBack gives what "queue token" prints to the service.
func TestATokenLineIsReadBack(t *testing.T) {
	for _, roles := range []string{"reviewer", "reviewer,le_liaison", "auditor"} {
		var out, errs bytes.Buffer
		if status := run(t.Context(), []string{"queue", "token", "alice", "--roles", roles}, streams{strings.NewReader(""), &out, &errs}); status != 0 {
			t.Fatalf("status %d: %s", status, errs.String())
		}
		path := filepath.Join(t.TempDir(), "tokens.yaml")
		if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := access.OpenTokens(path); err != nil {
			t.Errorf("%s: %v", roles, err)
		}
	}
}
