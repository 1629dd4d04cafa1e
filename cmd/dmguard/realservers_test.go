package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"

	"github.com/dmguard/dmguard/hashdb"
	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/pipeline/envelope"
	"github.com/dmguard/dmguard/pipeline/kafka"
	"github.com/dmguard/dmguard/reviewqueue"
	"github.com/dmguard/dmguard/reviewqueue/access"
)

// realServer returns the address of a real server, or fails: a test that needs
// one and passes without it would prove nothing.
func realServer(t *testing.T, variable string) string {
	t.Helper()
	v := os.Getenv(variable)
	if v == "" {
		t.Fatalf("%s is not set: run `make test`, which starts a real Kafka and real Redis servers for the tests", variable)
	}
	return v
}

func realBrokers(t *testing.T) string { t.Helper(); return realServer(t, "DMGUARD_TEST_BROKERS") }
func realRedis(t *testing.T) string   { t.Helper(); return realServer(t, "DMGUARD_TEST_REDIS") }

// testDeadline bounds each test here: it is for what never comes, on a machine
// that has other things to do as well.
const testDeadline = 5 * time.Minute

// A realDeployment is what an operator sets up: topics of its own in a real
// Kafka, keys, a configuration, lists, reviewers.
type realDeployment struct {
	t       *testing.T
	ctx     context.Context
	dir     string
	brokers string
	redis   string
	prefix  string
	group   string
	keys    *envelope.Keyset
	canary  string
	token   string // of the reviewer alice
	program string // built, or "" for the test binary

	conn     kafka.Connection
	producer *kafka.Producer
	history  *kafka.History
	admin    *kgo.Client
}

type deploymentOptions struct {
	redis      string // addresses
	partitions int    // 4
	shards     int    // of the queue, 1

	// built has the program built as people build it, for tests with too much to
	// do for the race detector. Otherwise the test binary stands in for it.
	built bool
}

func newRealDeployment(t *testing.T, opt deploymentOptions) *realDeployment {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testDeadline)
	t.Cleanup(cancel)
	name := "test-" + strings.ToLower(rand.Text()[:10])
	d := &realDeployment{
		t: t, ctx: ctx, dir: t.TempDir(), brokers: realBrokers(t), redis: opt.redis,
		prefix: name + ".", group: name,
	}
	partitions, shards := max(opt.partitions, 1), max(opt.shards, 1)
	if opt.partitions == 0 {
		partitions = 4
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	if opt.built {
		d.program = d.path("dmguard")
		if out, err := exec.CommandContext(ctx, "go", "build", "-o", d.program, ".").CombinedOutput(); err != nil {
			t.Fatalf("go build: %v\n%s", err, out)
		}
	}
	must(os.Mkdir(d.path("lists"), 0o700))
	must(os.WriteFile(d.path("lists/generated.csv"), generatedList(t), 0o600))
	must(os.WriteFile(d.path("dmguard.yaml"), fmt.Appendf(nil,
		"topics: {prefix: %q, partitions: %d, replication: 1}\nlists: {dir: %q}\nqueue: {shards: %d}\n",
		d.prefix, partitions, d.path("lists"), shards), 0o600))
	d.dmguard("keys", "new", d.path("keys.json"))
	d.dmguard("keys", "review", d.path("review.pub.json"), d.path("review.key.json"))
	d.canary = strings.TrimSpace(d.dmguard("canary", "--file", d.path("canary")).out)
	token := d.dmguard("queue", "token", "alice")
	must(os.WriteFile(d.path("reviewers.yaml"), []byte(token.out), 0o600))
	d.token = regexp.MustCompile(`[\w-]{43}`).FindString(token.err)

	keys, _, err := (envelope.File{Path: d.path("keys.json")}).Load()
	must(err)
	d.keys = keys
	d.conn = kafka.Connection{Brokers: splitList(d.brokers), ClientID: "test"}
	// Sealed messages do not get smaller, and under the race detector it costs
	// seconds to read them again for evidence.
	d.producer, err = kafka.NewProducer(d.conn, kafka.ProducerConfig{}, zap.NewNop())
	must(err)
	t.Cleanup(func() { d.producer.Close() })
	d.history, err = kafka.NewHistory(d.conn, zap.NewNop())
	must(err)
	t.Cleanup(func() { d.history.Close() })
	d.admin, err = kgo.NewClient(kgo.SeedBrokers(splitList(d.brokers)...))
	must(err)
	t.Cleanup(d.admin.Close)

	made := d.dmguard("topics", "create", "--brokers", d.brokers, "--prefix", d.prefix,
		"--partitions", strconv.Itoa(partitions), "--replication", "1")
	if n := strings.Count(made.out, "made "); n != 7 {
		t.Fatalf("%d topics were made, not 7:\n%s", n, made.out)
	}
	t.Cleanup(func() {
		topics, err := openTopics(d.conn, TopicConfig{Prefix: d.prefix, Partitions: 1, Replication: 1})
		if err != nil {
			t.Error(err)
			return
		}
		defer topics.Close()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if err := topics.Delete(ctx); err != nil {
			t.Log(err) // the servers are thrown away as well
		}
	})
	return d
}

func (d *realDeployment) path(name string) string { return filepath.Join(d.dir, name) }

func (d *realDeployment) topic(name string) string { return d.prefix + name }

// Generated pictures that the list of every deployment knows: patterns 101 to
// 106 by digest, and pattern 107 by its perception in another size.
const (
	firstListed   = 101
	listedDigests = 6
	listedSize    = 40
)

func generatedList(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	fmt.Fprintln(&b, "kind,hash,entry,category")
	for i := range listedDigests {
		data := generatedPicture(t, firstListed+i)
		for _, h := range hashdb.Digests(data) {
			if h.Kind().String() == "sha256" {
				fmt.Fprintf(&b, "sha256,%s,pattern-%d,ncii\n", h, i)
			}
		}
	}
	return b.Bytes()
}

func generatedPicture(t *testing.T, seed int) []byte {
	t.Helper()
	data, err := patternPNG(seed, listedSize)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// finished is what a command left.
type finished struct {
	out, err string
	status   int
}

// try runs dmguard to its end.
func (d *realDeployment) try(stdin []byte, args ...string) finished {
	d.t.Helper()
	cmd := d.command(d.ctx, "dmguard", args...)
	var out, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &stderr
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		d.t.Fatalf("dmguard %s: %v", strings.Join(args, " "), err)
	} else if ok && !exit.Exited() {
		d.t.Fatalf("dmguard %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return finished{out.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// dmguard runs dmguard to its end and expects success.
func (d *realDeployment) dmguard(args ...string) finished {
	d.t.Helper()
	f := d.try(nil, args...)
	if f.status != 0 {
		d.t.Fatalf("dmguard %s: exit status %d\n%s", strings.Join(args, " "), f.status, f.err)
	}
	return f
}

// command is dmguardCommand, or the program that was built.
func (d *realDeployment) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	d.t.Helper()
	cmd := dmguardCommand(ctx, d.t, name, args...)
	if d.program != "" {
		cmd.Path = d.program
	}
	return cmd
}

// dmguardCommand is this test binary, which TestMain makes behave like the
// program it is called as.
func dmguardCommand(ctx context.Context, t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Args[0] = name
	return cmd
}

// A realProcess is a running dmguard.
type realProcess struct {
	t    *testing.T
	name string
	cmd  *exec.Cmd
	log  string // file
	done chan struct{}
}

func (d *realDeployment) start(name string, env []string, args ...string) *realProcess {
	d.t.Helper()
	f, err := os.CreateTemp(d.dir, "log-")
	if err != nil {
		d.t.Fatal(err)
	}
	// Not the test's context: processes end by the signals that tests send.
	cmd := d.command(context.WithoutCancel(d.ctx), name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	f.Close()
	p := &realProcess{t: d.t, name: args[0], cmd: cmd, log: f.Name(), done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // the state is looked at
		close(p.done)
	}()
	d.t.Cleanup(func() {
		lines := 25
		if d.t.Failed() && !p.ended() {
			// A process that hangs shows where.
			lines = 400
			_ = cmd.Process.Signal(syscall.SIGCONT)
			_ = cmd.Process.Signal(syscall.SIGQUIT)
			select {
			case <-p.done:
			case <-time.After(5 * time.Second):
			}
		}
		_ = cmd.Process.Kill()
		<-p.done
		if d.t.Failed() {
			d.t.Logf("the end of what %s (process %d) logged:\n%s", p.name, cmd.Process.Pid, lastLines(p.logged(), lines))
		}
		if bytes.Contains(p.logged(), []byte("WARNING: DATA RACE")) {
			d.t.Errorf("%s has a data race:\n%s", p.name, p.logged())
		}
	})
	return p
}

func lastLines(text []byte, n int) []byte {
	lines := bytes.SplitAfter(text, []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-n):], nil)
}

func (p *realProcess) logged() []byte {
	b, err := os.ReadFile(p.log)
	if err != nil {
		p.t.Error(err)
	}
	return b
}

func (p *realProcess) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatalf("%s: %v: %v\n%s", p.name, s, err, lastLines(p.logged(), 25))
	}
}

// kill is SIGKILL.
func (p *realProcess) kill() {
	p.t.Helper()
	p.signal(syscall.SIGKILL)
	<-p.done
}

// drain is SIGTERM: the process must end by itself, with status 0, within 10 s.
func (p *realProcess) drain() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		p.t.Fatalf("%s did not end within 10 s of SIGTERM:\n%s", p.name, lastLines(p.logged(), 25))
	}
	if s := p.cmd.ProcessState; s.ExitCode() != 0 {
		p.t.Fatalf("%s: after SIGTERM %v, not exit status 0:\n%s", p.name, s, lastLines(p.logged(), 25))
	}
}

func (p *realProcess) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// workerArgs are the flags of a worker; each running one needs a folder of its
// own for the journal.
func (d *realDeployment) workerArgs(journal string, more ...string) []string {
	return append([]string{
		"worker", "--config", d.path("dmguard.yaml"), "--brokers", d.brokers, "--redis", d.redis, "--group", d.group,
		"--keys", d.path("keys.json"), "--review-key", d.path("review.pub.json"), "--canary", d.path("canary"),
		"--journal", d.path(journal), "--admin-listen", "",
	}, more...)
}

func (d *realDeployment) worker(journal string, more ...string) *realProcess {
	d.t.Helper()
	return d.start("dmguard", nil, d.workerArgs(journal, more...)...)
}

func (d *realDeployment) queueArgs() []string {
	return []string{
		"queue", "--config", d.path("dmguard.yaml"), "--brokers", d.brokers, "--redis", d.redis,
		"--review-private-key", d.path("review.key.json"), "--review-key", d.path("review.pub.json"),
		"--tokens", d.path("reviewers.yaml"), "--audit", d.path("audit.ndjson"), "--listen", "127.0.0.1:0", "--admin-listen", "",
		"--log-json",
	}
}

// A realQueue is a running review service.
type realQueue struct {
	*realProcess
	d   *realDeployment
	url string
}

func (d *realDeployment) queue() *realQueue {
	d.t.Helper()
	q := &realQueue{d: d, realProcess: d.start("dmguard", nil, d.queueArgs()...)}
	address := regexp.MustCompile(`"address":"(127\.[^"]+)"`)
	d.await("the queue to listen", func() bool {
		if q.ended() {
			d.t.Fatalf("the queue ended:\n%s", q.logged())
		}
		m := address.FindSubmatch(q.logged())
		if m != nil {
			q.url = "http://" + string(m[1])
		}
		return m != nil
	})
	d.await("the queue to be ready", func() bool {
		status, _ := q.call(http.MethodGet, "/readyz", nil)
		return status == http.StatusOK
	})
	return q
}

// call calls the API as alice.
func (q *realQueue) call(method, path string, body any) (int, map[string]any) {
	q.t.Helper()
	var b []byte
	if body != nil {
		var err error
		if b, err = json.Marshal(body); err != nil {
			q.t.Fatal(err)
		}
	}
	req, err := http.NewRequestWithContext(q.d.ctx, method, q.url+path, bytes.NewReader(b))
	if err != nil {
		q.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+q.d.token)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil // it is starting, or being killed
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, nil
	}
	var answer map[string]any
	_ = json.Unmarshal(text, &answer) // some answers have no body
	return res.StatusCode, answer
}

// metrics returns what a worker shows on its --admin-listen.
func (d *realDeployment) metrics(address string) []byte {
	d.t.Helper()
	req, err := http.NewRequestWithContext(d.ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		d.t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		d.t.Fatalf("metrics: %s, %v: %s", res.Status, err, text)
	}
	return text
}

// await polls until done, and fails the test where that takes until its
// deadline.
func (d *realDeployment) await(what string, done func() bool) {
	d.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-d.ctx.Done():
			d.t.Fatalf("waiting for %s: %v", what, d.ctx.Err())
		case <-tick.C:
		}
	}
}

// committed returns the offsets that the group of the workers has committed.
func (d *realDeployment) committed() map[int32]int64 {
	d.t.Helper()
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Group = d.group
	res, err := req.RequestWith(d.ctx, d.admin)
	if err == nil {
		err = kerr.ErrorForCode(res.ErrorCode)
	}
	if err != nil {
		d.t.Fatalf("reading the committed offsets: %v", err)
	}
	out := map[int32]int64{}
	note := func(topic string, partition int32, offset int64) {
		if topic == d.topic(pipeline.TopicMessages) && offset >= 0 {
			out[partition] = offset
		}
	}
	for _, t := range res.Topics {
		for _, p := range t.Partitions {
			note(t.Topic, p.Partition, p.Offset)
		}
	}
	for _, g := range res.Groups {
		for _, t := range g.Topics {
			for _, p := range t.Partitions {
				note(t.Topic, p.Partition, p.Offset)
			}
		}
	}
	return out
}

func (d *realDeployment) ends(topic string) map[int32]int64 {
	d.t.Helper()
	_, ends, err := d.history.Ends(d.ctx, d.topic(topic))
	if err != nil {
		d.t.Fatal(err)
	}
	return ends
}

func sumOf(offsets map[int32]int64) (n int64) {
	for _, o := range offsets {
		n += o
	}
	return n
}

// awaitAllCommitted waits until everything in the input is committed. No worker
// of those given may end meanwhile.
func (d *realDeployment) awaitAllCommitted(workers ...*realProcess) {
	d.t.Helper()
	ends := d.ends(pipeline.TopicMessages)
	maps.DeleteFunc(ends, func(_ int32, end int64) bool { return end == 0 })
	d.await("every offset to be committed", func() bool {
		for _, w := range workers {
			if w.ended() {
				d.t.Fatalf("a worker ended: %v\n%s", w.cmd.ProcessState, lastLines(w.logged(), 25))
			}
		}
		return maps.Equal(d.committed(), ends)
	})
}

// forgetMembers does what the group would do by itself after the session timeout
// (30 s): it gives up the members of killed workers. There must be no others.
func (d *realDeployment) forgetMembers() {
	d.t.Helper()
	describe := kmsg.NewPtrDescribeGroupsRequest()
	describe.Groups = []string{d.group}
	res, err := describe.RequestWith(d.ctx, d.admin)
	if err != nil {
		d.t.Fatal(err)
	}
	leave := kmsg.NewPtrLeaveGroupRequest()
	leave.Group = d.group
	for _, g := range res.Groups {
		for _, m := range g.Members {
			lm := kmsg.NewLeaveGroupRequestMember()
			lm.MemberID = m.MemberID
			leave.Members = append(leave.Members, lm)
		}
	}
	if len(leave.Members) == 0 {
		return
	}
	if _, err := leave.RequestWith(d.ctx, d.admin); err != nil {
		d.t.Fatal(err)
	}
}

// inputMessage is one record for the input topic.
type inputMessage struct {
	id, conversation string
	value            []byte
	bad              bool // goes to the dead letters
}

// message returns a sealed message.
func (d *realDeployment) message(id, conversation string, fields map[string]any) inputMessage {
	d.t.Helper()
	sealed, err := d.keys.Seal(plainMessage(d.t, id, conversation, fields))
	if err != nil {
		d.t.Fatal(err)
	}
	return inputMessage{id: id, conversation: conversation, value: sealed}
}

func plainMessage(t *testing.T, id, conversation string, fields map[string]any) []byte {
	t.Helper()
	m := map[string]any{
		"id": id, "conversation_id": conversation, "sent_at": "2026-03-01T16:00:00Z",
		"sender": map[string]any{"id": "u-1"}, "text": "the weather is grey",
	}
	maps.Copy(m, fields)
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// riskyTalk returns a made-up conversation with mild signs of risk, of as many
// messages as wanted: the one that "up" seeds itself with, over and over, each
// time a minute later.
func (d *realDeployment) riskyTalk(conversation string, n int) []inputMessage {
	d.t.Helper()
	i := slices.IndexFunc(seedConversations, func(c struct {
		id    string
		ages  map[string]int
		lines []line
	},
	) bool {
		return c.id == "game-friend"
	})
	talk := seedConversations[i]
	var out []inputMessage
	for k := range n {
		l := talk.lines[k%len(talk.lines)]
		var recipients []any
		for who, age := range talk.ages {
			if who != l.from {
				recipients = append(recipients, map[string]any{"id": who, "age": age})
			}
		}
		out = append(out, d.message(fmt.Sprintf("%s-%d", conversation, k), conversation, map[string]any{
			"sent_at": time.Date(2026, 3, 1, 16, k, 0, 0, time.UTC),
			"sender":  map[string]any{"id": l.from, "age": talk.ages[l.from]}, "recipients": recipients, "text": l.text,
		}))
	}
	return out
}

// produce writes messages to the input topic.
func (d *realDeployment) produce(messages ...inputMessage) {
	d.t.Helper()
	records := make([]pipeline.Record, len(messages))
	for i, m := range messages {
		schema := pipeline.SchemaEnvelope
		if !envelope.IsEnvelope(m.value) {
			schema = pipeline.SchemaMessage
		}
		records[i] = pipeline.Record{
			Position: pipeline.Position{Topic: d.topic(pipeline.TopicMessages)}, Key: []byte(m.conversation), Value: m.value,
			Headers: []pipeline.Header{{Key: "schema", Value: []byte(schema)}},
		}
	}
	if err := d.producer.Produce(d.ctx, records); err != nil {
		d.t.Errorf("producing: %v", err)
	}
}

// interleave mixes conversations, each in its own order: one message of each in
// turn.
func interleave(talks ...[]inputMessage) []inputMessage {
	var out []inputMessage
	for i := 0; ; i++ {
		more := false
		for _, talk := range talks {
			if i < len(talk) {
				out, more = append(out, talk[i]), true
			}
		}
		if !more {
			return out
		}
	}
}

// records returns a topic.
func (d *realDeployment) records(topic string) []pipeline.Record {
	d.t.Helper()
	var out []pipeline.Record
	err := d.history.Scan(d.ctx, d.topic(topic), kafka.ScanOptions{}, func(r pipeline.Record) error {
		out = append(out, r)
		return nil
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return out
}

func decodeJSON[T any](t *testing.T, data []byte) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatalf("%v in %s", err, data)
	}
	return v
}

// verdicts returns every verdict in the log, by message.
func (d *realDeployment) verdicts() map[string][]pipeline.Verdict {
	d.t.Helper()
	return verdictsIn(d.t, d.records(pipeline.TopicVerdicts))
}

// verdictsIn returns the verdicts of records of dm.verdicts, by message.
func verdictsIn(t *testing.T, records []pipeline.Record) map[string][]pipeline.Verdict {
	t.Helper()
	out := map[string][]pipeline.Verdict{}
	for _, r := range records {
		var vs []pipeline.Verdict
		if r.Header("schema") == pipeline.SchemaVerdicts {
			vs = decodeJSON[[]pipeline.Verdict](t, r.Value)
		} else {
			vs = append(vs, decodeJSON[pipeline.Verdict](t, r.Value))
		}
		for _, v := range vs {
			out[v.MessageID] = append(out[v.MessageID], v)
		}
	}
	return out
}

// scanned returns the verdicts of "dmguard scan" on the same messages, by
// message: what the workers are held to.
func (d *realDeployment) scanned(messages ...inputMessage) map[string]pipeline.Verdict {
	d.t.Helper()
	var in bytes.Buffer
	for _, m := range messages {
		in.Write(append(m.value, '\n'))
	}
	f := d.try(in.Bytes(), "scan", "--config", d.path("dmguard.yaml"), "--keys", d.path("keys.json"), "--canary", d.path("canary"))
	if f.status != 0 {
		d.t.Fatalf("dmguard scan: exit status %d\n%s", f.status, f.err)
	}
	out := map[string]pipeline.Verdict{}
	for l := range strings.Lines(f.out) {
		v := decodeJSON[pipeline.Verdict](d.t, []byte(l))
		out[v.MessageID] = v
	}
	if len(out) != len(messages) {
		d.t.Fatalf("dmguard scan: %d verdicts on %d messages", len(out), len(messages))
	}
	return out
}

// sameVerdicts holds every verdict in the log to the one of scan, apart from
// when it was decided, and returns how many there are more than messages.
func (d *realDeployment) sameVerdicts(want map[string]pipeline.Verdict) (duplicates int) {
	d.t.Helper()
	got := d.verdicts()
	wrong := 0
	for id, w := range want {
		if len(got[id]) == 0 {
			d.t.Errorf("%s has no verdict", id)
			wrong++
		}
		w.DecidedAt = time.Time{}
		for _, g := range got[id] {
			g.DecidedAt = time.Time{}
			if !reflect.DeepEqual(w, g) {
				d.t.Errorf("verdict on %s, scan against worker (-want +got):\n%s", id, cmp.Diff(w, g))
				wrong++
			}
			duplicates++
		}
		duplicates--
		if wrong > 10 {
			d.t.Fatal("and so on")
		}
	}
	return duplicates
}

// casesIn returns the cases that verdicts open, and the messages of each.
func casesIn(verdicts map[string]pipeline.Verdict) map[string][]string {
	out := map[string][]string{}
	for id, v := range verdicts {
		if v.Action == pipeline.Allow {
			continue
		}
		cases := map[string]bool{}
		conversation, attachments := false, map[string]bool{}
		for _, f := range v.Findings {
			switch {
			case f.Match == nil:
				conversation = conversation || f.Label == "" // what has one is a cue, and asks for nothing
			case !attachments[f.Match.AttachmentID]:
				attachments[f.Match.AttachmentID] = true
				cases[pipeline.CaseID(pipeline.MediaCase, "media/"+f.Match.List+"/"+f.Match.Entry)] = true
			}
		}
		if conversation || len(cases) == 0 {
			cases[pipeline.CaseID(pipeline.ConversationCase, "conversation/"+v.ConversationID)] = true
		}
		for c := range cases {
			out[c] = append(out[c], id)
		}
	}
	for _, ids := range out {
		slices.Sort(ids)
	}
	return out
}

// view returns the queue as Redis has it.
func (d *realDeployment) view() (*reviewqueue.Queue, redis.UniversalClient) {
	d.t.Helper()
	cfg, err := loadConfig(d.path("dmguard.yaml"))
	if err != nil {
		d.t.Fatal(err)
	}
	rdb := redis.NewUniversalClient(&redis.UniversalOptions{Addrs: splitList(d.redis), IsClusterMode: strings.Contains(d.redis, ",")})
	d.t.Cleanup(func() { rdb.Close() })
	q, err := reviewqueue.NewView(queueConfig(cfg), rdb, queueLog{d.history}, zap.NewNop())
	if err != nil {
		d.t.Fatal(err)
	}
	return q, rdb
}

// someReviewer may look at cases.
var someReviewer = access.Reviewer{ID: "test", Roles: []access.Role{access.Review}}

// awaitCases waits until the queue holds exactly these cases with exactly these
// messages, each once.
func (d *realDeployment) awaitCases(want map[string][]string) {
	d.t.Helper()
	q, _ := d.view()
	var last error
	defer func() {
		if d.t.Failed() {
			d.t.Log("the queue, last: ", last)
		}
	}()
	d.await("the cases to be in the queue", func() bool {
		last = compareCases(d.ctx, q, want)
		return last == nil
	})
}

func compareCases(ctx context.Context, q *reviewqueue.Queue, want map[string][]string) error {
	stats, err := q.Stats(ctx, counter)
	if err != nil {
		return err
	}
	if n := stats.Pending + stats.Leased + stats.Decided + stats.Dead; int(n) != len(want) {
		return fmt.Errorf("%d cases are there, %d expected", n, len(want))
	}
	for id, messages := range want {
		c, err := q.Case(ctx, someReviewer, id)
		if err != nil {
			return fmt.Errorf("case %s: %w", id, err)
		}
		var got []string
		for _, e := range c.Timeline {
			got = append(got, e.MessageID)
		}
		slices.Sort(got)
		if c.Messages != len(messages) || !slices.Equal(got, messages) {
			return fmt.Errorf("case %s: %d messages, in its timeline %v; expected %v", id, c.Messages, got, messages)
		}
	}
	return nil
}

// recordSchemas are the schemas of everything that the system writes, by the
// value of the header "schema".
var recordSchemas = sync.OnceValues(func() (map[string]*jsonschema.Schema, error) {
	const base = "https://dmguard.test/"
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	add := func(data []byte) (string, error) {
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		if err != nil {
			return "", err
		}
		object, ok := doc.(map[string]any)
		if !ok {
			return "", errors.New("a schema is no object")
		}
		id := strings.TrimPrefix(fmt.Sprint(object["$id"]), "dmguard/")
		object["$id"] = base + "dmguard/" + id
		return id, c.AddResource(base+"dmguard/"+id, doc)
	}
	var ids []string
	files, err := pipeline.Schemas.ReadDir("schemas")
	if err != nil {
		return nil, err
	}
	all := [][]byte{reviewqueue.DecisionSchema}
	for _, f := range files {
		data, err := pipeline.Schemas.ReadFile("schemas/" + f.Name())
		if err != nil {
			return nil, err
		}
		all = append(all, data)
	}
	for _, data := range all {
		id, err := add(data)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	out := map[string]*jsonschema.Schema{}
	for _, id := range ids {
		if out[id], err = c.Compile(base + "dmguard/" + id); err != nil {
			return nil, err
		}
	}
	return out, nil
})

// conform holds every record of the output topics to the schema that its header
// names, and that header to the topic.
func (d *realDeployment) conform() {
	d.t.Helper()
	schemas, err := recordSchemas()
	if err != nil {
		d.t.Fatal(err)
	}
	for topic, names := range map[string][]string{
		pipeline.TopicHits: {pipeline.SchemaHit}, pipeline.TopicVerdicts: {pipeline.SchemaVerdict, pipeline.SchemaVerdicts},
		pipeline.TopicDecisions: {pipeline.SchemaDecision}, pipeline.TopicFeatures: {pipeline.SchemaFeatures},
		pipeline.TopicDeadLetters: {pipeline.SchemaDeadLetter}, pipeline.TopicGaps: {pipeline.SchemaGap},
	} {
		records := d.records(topic)
		d.t.Logf("%s: %d records", topic, len(records))
		wrong := 0
		for _, r := range records {
			name := r.Header("schema")
			if !slices.Contains(names, name) || schemas[name] == nil {
				d.t.Errorf("%s: a record has the schema %q", topic, name)
				continue
			}
			var v any
			var err error
			if name == pipeline.SchemaDeadLetter {
				headers := map[string]any{}
				for _, h := range r.Headers {
					headers[h.Key] = string(h.Value)
				}
				v = map[string]any{"headers": headers}
			} else {
				v, err = jsonschema.UnmarshalJSON(bytes.NewReader(r.Value))
			}
			if err == nil {
				err = schemas[name].Validate(v)
			}
			if err != nil {
				d.t.Errorf("%s/%d offset %d: %v\n%s", topic, r.Partition, r.Offset, err, r.Value)
				if wrong++; wrong > 5 {
					break
				}
			}
		}
	}
}

// freeAddress returns an address on loopback that nothing listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// An ownRedis is a redis-server of one test, which may do to it what it likes.
type ownRedis struct {
	t       *testing.T
	address string
	args    []string
	cmd     *exec.Cmd
}

func startRedis(t *testing.T, args ...string) *ownRedis {
	t.Helper()
	realRedis(t) // where there is one, there is a redis-server too
	r := &ownRedis{t: t, address: freeAddress(t), args: args}
	r.start()
	t.Cleanup(r.kill)
	return r
}

// start starts the server, with nothing in it.
func (r *ownRedis) start() {
	r.t.Helper()
	_, port, err := net.SplitHostPort(r.address)
	if err != nil {
		r.t.Fatal(err)
	}
	r.cmd = exec.CommandContext(context.WithoutCancel(r.t.Context()), "redis-server",
		append([]string{"--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", r.t.TempDir()}, r.args...)...)
	if err := r.cmd.Start(); err != nil {
		r.t.Fatalf("redis-server: %v: run `make test`, which installs it", err)
	}
	c := redis.NewClient(&redis.Options{Addr: r.address})
	defer c.Close()
	ctx, cancel := context.WithTimeout(r.t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for c.Ping(ctx).Err() != nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
			r.t.Fatal("redis-server does not answer")
		}
	}
}

func (r *ownRedis) kill() {
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait() // it was killed
}

// risks returns conversations with mild signs of risk, n messages in each.
func (d *realDeployment) risks(name string, conversations, n int) [][]inputMessage {
	d.t.Helper()
	var out [][]inputMessage
	for i := range conversations {
		out = append(out, d.riskyTalk(fmt.Sprintf("%s-%d", name, i), n))
	}
	return out
}

// part returns messages from to before to of each conversation, interleaved.
func part(talks [][]inputMessage, from, to int) []inputMessage {
	var out [][]inputMessage
	for _, talk := range talks {
		out = append(out, talk[from:to])
	}
	return interleave(out...)
}

// TestARedisOutageStopsProgressAndLosesNothing has Redis hang, die and come back
// empty under running services, and again while no worker runs. Nothing is
// committed whose state was not saved, conversations go on with the risk that
// scan gives them, and the queue fills again by itself.
func TestARedisOutageStopsProgressAndLosesNothing(t *testing.T) {
	server := startRedis(t)
	d := newRealDeployment(t, deploymentOptions{redis: server.address})
	queue := d.queue()
	old, current := d.risks("old", 30, 36), d.risks("current", 30, 36)
	var all []inputMessage
	send := func(messages []inputMessage) {
		all = append(all, messages...)
		d.produce(messages...)
	}
	w := d.worker("journal")
	send(part(old, 0, 12))
	d.awaitAllCommitted(w)
	w.drain()
	// The next worker sees other conversations first: it has nothing of the old
	// ones in its cache.
	admin := freeAddress(t)
	w = d.worker("journal", "--admin-listen", admin)
	send(part(current, 0, 8))
	d.awaitAllCommitted(w)

	before, written := d.committed(), sumOf(d.ends(pipeline.TopicVerdicts))
	if err := server.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	send(part(current, 8, 16))
	d.await("the worker to fail at saving", func() bool {
		if c := d.committed(); !maps.Equal(c, before) {
			t.Fatalf("committed %v without Redis, after %v", c, before)
		}
		return bytes.Contains(w.logged(), []byte("retrying; nothing is committed meanwhile"))
	})
	if sumOf(d.ends(pipeline.TopicVerdicts)) == written {
		t.Error("no verdict was written: this outage came before there was anything to commit")
	}
	server.kill()
	server.start()
	d.awaitAllCommitted(w)
	send(interleave(part(old, 12, 24), part(current, 16, 24)))
	d.awaitAllCommitted(w)
	if n := bytes.Count(w.logged(), []byte("the state of conversations was rebuilt from the log")); n != 4 {
		t.Errorf("the state of %d partitions was rebuilt, not of 4", n)
	}
	if m := d.metrics(admin); !bytes.Contains(m, []byte("\ndmguard_lag_messages 0\n")) {
		t.Errorf("the metrics after a new start show no lag:\n%s", m)
	}

	w.drain()
	server.kill()
	server.start()
	w = d.worker("journal")
	send(interleave(part(current, 24, 36), part(old, 24, 36)))
	d.awaitAllCommitted(w)
	w.drain()

	want := d.scanned(all...)
	t.Logf("judged twice: %d of %d", d.sameVerdicts(want), len(all))
	d.awaitCases(casesIn(want))
	if queue.ended() {
		t.Errorf("the queue ended: %v", queue.cmd.ProcessState)
	}
}

// TestQueueRebuildGivesTheSameCases works a queue in a Redis Cluster over HTTP,
// throws the view away by "queue rebuild" and by FLUSHALL, and finds every case
// as it was: what was decided stays decided.
func TestQueueRebuildGivesTheSameCases(t *testing.T) {
	addresses := realServer(t, "DMGUARD_TEST_REDIS_CLUSTER")
	d := newRealDeployment(t, deploymentOptions{redis: addresses, shards: 4})
	messages := part(d.risks("talk", 24, 20), 0, 20)
	for i := range listedDigests {
		id := fmt.Sprintf("picture-%d", i)
		messages = append(messages, d.message(id, id, map[string]any{"attachments": []any{
			map[string]any{"id": id + "-a", "media_type": "image/png", "data": generatedPicture(t, firstListed+i)},
		}}))
	}
	d.produce(messages...)
	w := d.worker("journal")
	d.awaitAllCommitted(w)
	w.drain()
	want := casesIn(d.scanned(messages...))
	if len(want) < 20 {
		t.Fatalf("%d cases: too few to show anything", len(want))
	}
	queue := d.queue()
	d.awaitCases(want)

	type claimed struct{ path, token string }
	claim := func() claimed {
		t.Helper()
		status, answer := queue.call(http.MethodPost, "/api/v1/claims", map[string]any{})
		c, _ := answer["case"].(map[string]any)
		if status != http.StatusOK || c == nil {
			t.Fatalf("claiming: status %d, %v", status, answer)
		}
		return claimed{"/api/v1/cases/" + fmt.Sprint(c["id"]), fmt.Sprint(answer["lease_token"])}
	}
	expect := func(want int, path string, body map[string]any) {
		t.Helper()
		if status, answer := queue.call(http.MethodPost, path, body); status != want {
			t.Errorf("%s: status %d, not %d: %v", path, status, want, answer)
		}
	}
	const decisions = 9
	var last claimed
	for i := range decisions {
		last = claim()
		choice := []string{"confirm", "dismiss", "escalate"}[i%3]
		expect(http.StatusOK, last.path+"/decision", map[string]any{"lease_token": last.token, "decision": choice, "label": "other_harm", "note": "made up"})
		expect(http.StatusConflict, last.path+"/decision", map[string]any{"lease_token": last.token, "decision": "dismiss"})
	}
	released := claim()
	expect(http.StatusNoContent, released.path+"/release", map[string]any{"lease_token": released.token})

	view, rdb := d.view()
	// The projector folds a decision after it was answered.
	snapshot := func() map[string]*reviewqueue.Case {
		out := map[string]*reviewqueue.Case{}
		for id := range want {
			c, err := view.Case(d.ctx, someReviewer, id)
			if err != nil {
				return nil
			}
			out[id] = c
		}
		return out
	}
	var before map[string]*reviewqueue.Case
	d.await("the decisions to be in force", func() bool {
		before = snapshot()
		n := 0
		for _, c := range before {
			if c.State == reviewqueue.Decided {
				n++
			}
		}
		return n == decisions
	})
	same := func(after string) {
		t.Helper()
		var diff string
		d.await("the cases to be back after "+after, func() bool {
			diff = cmp.Diff(before, snapshot())
			return diff == "" || t.Failed()
		})
	}

	f := d.dmguard("queue", "rebuild", "--config", d.path("dmguard.yaml"), "--brokers", d.brokers, "--redis", addresses)
	if says := fmt.Sprintf("%d pending, 0 leased, %d decided, 0 dead", len(want)-decisions, decisions); !strings.Contains(f.out, says) {
		t.Errorf("queue rebuild: %s, expected %s", f.out, says)
	}
	if diff := cmp.Diff(before, snapshot()); diff != "" {
		t.Errorf("cases before and after a rebuild (-before +after):\n%s", diff)
	}
	expect(http.StatusConflict, last.path+"/decision", map[string]any{"lease_token": last.token, "decision": "dismiss"})

	cluster, ok := rdb.(*redis.ClusterClient)
	if !ok {
		t.Fatalf("%s is no cluster", addresses)
	}
	err := cluster.ForEachMaster(d.ctx, func(ctx context.Context, node *redis.Client) error { return node.FlushAll(ctx).Err() })
	if err != nil {
		t.Fatal(err)
	}
	same("FLUSHALL")
	next := claim()
	expect(http.StatusOK, next.path+"/decision", map[string]any{"lease_token": next.token, "decision": "confirm", "label": "grooming"})
	d.conform()
	queue.drain()
}

func TestWorkerRefusesPlainMessagesByDefault(t *testing.T) {
	d := newRealDeployment(t, deploymentOptions{redis: realRedis(t), partitions: 1})
	plain := inputMessage{id: "plain", conversation: "c-1", value: plainMessage(t, "plain", "c-1", nil), bad: true}
	messages := []inputMessage{plain, d.message("sealed", "c-1", nil)}
	d.produce(messages...)
	w := d.worker("journal")
	d.awaitAllCommitted(w)
	w.drain()
	d.deadLettersAreThoseOf(messages)
	d.sameVerdicts(d.scanned(messages[1]))
	for _, r := range d.records(pipeline.TopicDeadLetters) {
		if reason := r.Header("reason"); !strings.Contains(reason, "--allow-plaintext") {
			t.Errorf("the reason does not say what to do: %s", reason)
		}
	}

	later := inputMessage{id: "allowed", conversation: "c-1", value: plainMessage(t, "allowed", "c-1", nil)}
	d.produce(later)
	w = d.worker("journal", "--allow-plaintext")
	d.awaitAllCommitted(w)
	w.drain()
	if vs := d.verdicts()["allowed"]; len(vs) != 1 || vs[0].Status != pipeline.Scanned {
		t.Errorf("with --allow-plaintext: %v", vs)
	}

	args := slices.DeleteFunc(d.workerArgs("journal"), func(a string) bool { return a == "--keys" || a == d.path("keys.json") })
	if f := d.try(nil, args...); f.status != 1 || !strings.Contains(f.err, "--keys") || !strings.Contains(f.err, "--allow-plaintext") {
		t.Errorf("with neither keys nor leave to take plain messages: exit status %d\n%s", f.status, f.err)
	}
}

func TestTopicsCheckNamesWhatIsWrong(t *testing.T) {
	d := newRealDeployment(t, deploymentOptions{redis: realRedis(t)})
	check := func() finished {
		return d.try(nil, "topics", "check", "--brokers", d.brokers, "--config", d.path("dmguard.yaml"))
	}
	if f := check(); f.status != 0 || f.out != "ok\n" {
		t.Fatalf("topics as they were made: exit status %d\n%s%s", f.status, f.out, f.err)
	}
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	resource := kmsg.NewIncrementalAlterConfigsRequestResource()
	resource.ResourceType = kmsg.ConfigResourceTypeTopic
	resource.ResourceName = d.topic(pipeline.TopicHits)
	retention := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	retention.Name, retention.Value = "retention.ms", new("86400000")
	resource.Configs = append(resource.Configs, retention)
	req.Resources = append(req.Resources, resource)
	if _, err := req.RequestWith(d.ctx, d.admin); err != nil {
		t.Fatal(err)
	}
	var f finished
	d.await("the broker to have taken it over", func() bool { f = check(); return f.status != 0 })
	for _, part := range []string{d.topic(pipeline.TopicHits), "records are deleted after 24h0m0s", "retention.ms=-1"} {
		if f.status != 3 || !strings.Contains(f.out, part) {
			t.Errorf("exit status %d, and %q is not in\n%s%s", f.status, part, f.out, f.err)
		}
	}
	if n := strings.Count(f.out, "\n"); n != 2 {
		t.Errorf("one thing is wrong, and said in %d lines:\n%s", n, f.out)
	}

	missing := d.try(nil, "topics", "check", "--brokers", d.brokers, "--prefix", d.prefix+"other.", "--replication", "1")
	if missing.status != 3 || !strings.Contains(missing.out, "dmguard topics create") {
		t.Errorf("topics that do not exist: exit status %d\n%s", missing.status, missing.out)
	}
	other := strings.ReplaceAll(strings.Join(d.workerArgs("journal"), "\x00"), d.path("dmguard.yaml"), d.path("other.yaml"))
	if err := os.WriteFile(d.path("other.yaml"), fmt.Appendf(nil, "topics: {prefix: %q}\n", d.prefix+"other."), 0o600); err != nil {
		t.Fatal(err)
	}
	if f := d.try(nil, strings.Split(other, "\x00")...); f.status != 1 || !strings.Contains(f.err, "dmguard topics create") {
		t.Errorf("a worker without topics: exit status %d\n%s", f.status, f.err)
	}
}

func TestWorkerRefusesAnEvictingRedis(t *testing.T) {
	server := startRedis(t, "--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru")
	d := newRealDeployment(t, deploymentOptions{redis: server.address})
	for _, args := range [][]string{d.workerArgs("journal"), d.queueArgs()} {
		if f := d.try(nil, args...); f.status != 1 || !strings.Contains(f.err, "allkeys-lru") || !strings.Contains(f.err, "noeviction") {
			t.Errorf("%s: exit status %d\n%s", args[0], f.status, f.err)
		}
	}
}

// TestRetentionThatOvertakesIsAGapRecord deletes messages that nobody has judged,
// as retention would.
func TestRetentionThatOvertakesIsAGapRecord(t *testing.T) {
	d := newRealDeployment(t, deploymentOptions{redis: realRedis(t), partitions: 1})
	talk := d.riskyTalk("talk-0", 90)
	d.produce(talk[:40]...)
	w := d.worker("journal")
	d.awaitAllCommitted(w)
	w.drain()
	d.produce(talk[40:]...)

	req := kmsg.NewPtrDeleteRecordsRequest()
	req.TimeoutMillis = 10_000
	topic := kmsg.NewDeleteRecordsRequestTopic()
	topic.Topic = d.topic(pipeline.TopicMessages)
	partition := kmsg.NewDeleteRecordsRequestTopicPartition()
	partition.Offset = 63
	topic.Partitions = append(topic.Partitions, partition)
	req.Topics = append(req.Topics, topic)
	res, err := req.RequestWith(d.ctx, d.admin)
	if err != nil {
		t.Fatal(err)
	}
	for _, rt := range res.Topics {
		for _, rp := range rt.Partitions {
			if err := kerr.ErrorForCode(rp.ErrorCode); err != nil {
				t.Fatal(err)
			}
		}
	}

	address := freeAddress(t)
	w = d.worker("journal", "--admin-listen", address)
	d.awaitAllCommitted(w)
	gaps := d.records(pipeline.TopicGaps)
	if len(gaps) != 1 {
		t.Fatalf("%d records of gaps, not 1", len(gaps))
	}
	got := decodeJSON[pipeline.Gap](t, gaps[0].Value)
	if got.DetectedAt.IsZero() || got.Reason == "" || string(gaps[0].Key) != "0" {
		t.Errorf("key %s, %+v", gaps[0].Key, got)
	}
	got.DetectedAt, got.Reason = time.Time{}, ""
	want := pipeline.Gap{Topic: d.topic(pipeline.TopicMessages), Partition: 0, From: 40, To: 63, Group: d.group}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the gap (-want +got):\n%s", diff)
	}
	d.conform()

	verdicts := d.verdicts()
	for i, m := range talk {
		if lost := i >= 40 && i < 63; (len(verdicts[m.id]) == 0) != lost {
			t.Errorf("offset %d: %d verdicts", i, len(verdicts[m.id]))
		}
	}
	if m := d.metrics(address); !bytes.Contains(m, []byte("\ndmguard_unjudged_messages_total 23\n")) {
		t.Errorf("the metrics do not count 23 unjudged messages:\n%s", m)
	}
	w.drain()
}
