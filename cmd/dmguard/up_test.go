package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/zap"

	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/pipeline/kafka"
)

// An upProcess is a running "dmguard up".
type upProcess struct {
	t        *testing.T
	dir      string
	address  string
	cmd      *exec.Cmd
	out, err bytes.Buffer // to be read once done is closed
	done     chan struct{}
	hello    chan string // what it prints once it is ready
}

// selfCommand is this test binary, which TestMain makes behave like dmguard
// where it is called so.
func selfCommand(ctx context.Context, t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Args[0] = "dmguard"
	return cmd
}

// startUp starts "dmguard up" on a folder and waits until it is ready.
func startUp(t *testing.T, dir string, args ...string) *upProcess {
	t.Helper()
	u := &upProcess{t: t, dir: dir, address: freeAddress(t), done: make(chan struct{}), hello: make(chan string, 1)}
	u.cmd = selfCommand(context.WithoutCancel(t.Context()), t, append([]string{"up", "--data", dir, "--listen", u.address}, args...)...)
	out, err := u.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	u.cmd.Stderr = &u.err
	if err := u.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := out.Read(buf)
			u.out.Write(buf[:n])
			if n > 0 && bytes.Contains(u.out.Bytes(), []byte("Ctrl-C")) {
				select {
				case u.hello <- u.out.String():
				default:
				}
			}
			if err != nil {
				break
			}
		}
		_ = u.cmd.Wait() // the state is looked at
		close(u.done)
	}()
	t.Cleanup(func() {
		_ = u.cmd.Process.Kill()
		<-u.done
		if t.Failed() {
			t.Logf("dmguard up logged:\n%s", lastLines(u.err.Bytes(), 25))
		}
		if bytes.Contains(u.err.Bytes(), []byte("WARNING: DATA RACE")) {
			t.Errorf("dmguard up has a data race:\n%s", u.err.Bytes())
		}
	})
	u.await("readiness", func() bool {
		res, err := http.Get("http://" + u.address + "/readyz")
		if err != nil {
			return false
		}
		res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
	return u
}

// await asks until done says yes.
func (u *upProcess) await(what string, done func() bool) {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(u.t.Context(), testDeadline)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-u.done:
			u.t.Fatalf("dmguard up ended before %s: %v\n%s", what, u.cmd.ProcessState, u.err.Bytes())
		case <-ctx.Done():
			u.t.Fatalf("gave up waiting for %s", what)
		}
	}
}

func (u *upProcess) token() string {
	u.t.Helper()
	b, err := os.ReadFile(filepath.Join(u.dir, "dev-token"))
	if err != nil {
		u.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// call calls the API as the development reviewer.
func (u *upProcess) call(method, path string, body any) (status int, answer map[string]any) {
	u.t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		u.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(u.t.Context(), method, "http://"+u.address+path, bytes.NewReader(b))
	if err != nil {
		u.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+u.token())
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		u.t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		u.t.Fatal(err)
	}
	if len(data) > 0 {
		answer = decodeJSON[map[string]any](u.t, data)
	}
	return res.StatusCode, answer
}

func (u *upProcess) stat(name string) int {
	u.t.Helper()
	status, stats := u.call(http.MethodGet, "/api/v1/stats", nil)
	n, ok := stats[name].(float64)
	if status != http.StatusOK || !ok {
		u.t.Fatalf("stats: %d %v", status, stats)
	}
	return int(n)
}

// command runs another dmguard beside it.
func (u *upProcess) command(stdin []byte, args ...string) (stdout, stderr string, status int) {
	u.t.Helper()
	return runProcess(u.t, stdin, args...)
}

func runProcess(t *testing.T, stdin []byte, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	cmd := selfCommand(t.Context(), t, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func (u *upProcess) send(lines []byte) {
	u.t.Helper()
	if _, errs, status := u.command(lines, "send", "--data", u.dir); status != 0 {
		u.t.Fatalf("send: status %d: %s", status, errs)
	}
}

// stop is SIGTERM: the process must end by itself, with status 0, in time.
func (u *upProcess) stop() {
	u.t.Helper()
	if err := u.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		u.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(u.t.Context(), 10*time.Second)
	defer cancel()
	select {
	case <-u.done:
	case <-ctx.Done():
		u.t.Fatal("dmguard up is still there ten seconds after SIGTERM")
	}
	if code := u.cmd.ProcessState.ExitCode(); code != 0 {
		u.t.Fatalf("exit status %d after SIGTERM: %s", code, u.err.Bytes())
	}
}

func (u *upProcess) kill() {
	u.t.Helper()
	if err := u.cmd.Process.Kill(); err != nil {
		u.t.Fatal(err)
	}
	<-u.done
}

func (u *upProcess) records(topic string) []pipeline.Record {
	u.t.Helper()
	r, err := findRunning(u.dir)
	if err != nil {
		u.t.Fatal(err)
	}
	h, err := kafka.NewHistory(kafka.Connection{Brokers: r.Brokers, ClientID: "test"}, zap.NewNop())
	if err != nil {
		u.t.Fatal(err)
	}
	defer h.Close()
	var out []pipeline.Record
	err = h.Scan(u.t.Context(), r.Prefix+topic, kafka.ScanOptions{}, func(r pipeline.Record) error {
		r.Value = bytes.Clone(r.Value)
		out = append(out, r)
		return nil
	})
	if err != nil {
		u.t.Fatal(err)
	}
	return out
}

// verdicts returns those of dm.verdicts by message, all that there are on each.
func (u *upProcess) verdicts() map[string][]pipeline.Verdict {
	u.t.Helper()
	return verdictsIn(u.t, u.records(pipeline.TopicVerdicts))
}

// input returns what lies in dm.messages, partition by partition, as it lies.
func (u *upProcess) input() []byte {
	u.t.Helper()
	all := u.records(pipeline.TopicMessages)
	slices.SortStableFunc(all, func(a, b pipeline.Record) int { return int(a.Partition - b.Partition) })
	var b bytes.Buffer
	for _, r := range all {
		b.Write(append(r.Value, '\n'))
	}
	return b.Bytes()
}

func (u *upProcess) awaitVerdicts(n int) map[string][]pipeline.Verdict {
	u.t.Helper()
	var got map[string][]pipeline.Verdict
	u.await(fmt.Sprintf("%d verdicts", n), func() bool { got = u.verdicts(); return len(got) >= n })
	return got
}

// sameAsScan holds every verdict of the running system to that of a scan of the
// same input: the same, whatever restarts lie between the messages.
func (u *upProcess) sameAsScan() {
	u.t.Helper()
	want := runScanOn(u.t, u.input(), "--keys", filepath.Join(u.dir, "keys", "messages.json"), "--lists", filepath.Join(u.dir, "lists"),
		"--canary", filepath.Join(u.dir, "canary"), "--files", filepath.Join(u.dir, "attachments"))
	if want.status != 0 && want.status != 3 {
		u.t.Fatalf("scan: status %d: %s", want.status, want.stderr)
	}
	ids := map[string]bool{}
	for _, v := range want.verdicts {
		ids[v.MessageID] = true
	}
	got := u.awaitVerdicts(len(ids))
	for _, w := range want.verdicts {
		if w.Status == pipeline.Failed {
			continue // scan names the line as well
		}
		found := slices.ContainsFunc(got[w.MessageID], func(v pipeline.Verdict) bool {
			return cmp.Equal(w, v, ignoreTime, cmpopts.IgnoreUnexported(pipeline.Finding{}))
		})
		if !found {
			u.t.Errorf("message %s: up does not say what scan says:\n%s", w.MessageID, cmp.Diff([]pipeline.Verdict{w}, got[w.MessageID], ignoreTime, cmpopts.IgnoreUnexported(pipeline.Finding{})))
		}
	}
}

// aLease is what a claim gives.
type aLease struct {
	id, token string
	masked    map[string]any
}

func (u *upProcess) claim(queue string) aLease {
	u.t.Helper()
	status, got := u.call(http.MethodPost, "/api/v1/claims", map[string]any{"queue": queue})
	if status != http.StatusOK {
		u.t.Fatalf("claiming: %d %v", status, got)
	}
	c, _ := got["case"].(map[string]any)
	l := aLease{masked: c}
	l.id, _ = c["id"].(string)
	l.token, _ = got["lease_token"].(string)
	return l
}

func (u *upProcess) on(l aLease, what string, body map[string]any) (int, map[string]any) {
	u.t.Helper()
	body["lease_token"] = l.token
	return u.call(http.MethodPost, "/api/v1/cases/"+l.id+"/"+what, body)
}

// TestANewcomerTakesACaseToItsDecision is the walk that the first minutes with
// dmguard are, and what outlives the process afterwards.
func TestANewcomerTakesACaseToItsDecision(t *testing.T) {
	u := startUp(t, t.TempDir())
	var hello string
	select {
	case hello = <-u.hello:
	case <-u.done:
		t.Fatal("ended")
	}
	for _, want := range []string{"http://" + u.address + "/signin?t=", filepath.Join(u.dir, "dev-token"), "send --data " + u.dir} {
		if !strings.Contains(hello, want) {
			t.Errorf("what it prints lacks %q:\n%s", want, hello)
		}
	}
	if info, err := os.Stat(filepath.Join(u.dir, "dev-token")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("dev-token: %v %v", info, err)
	}
	pending := u.stat("pending")
	if pending < 3 {
		t.Fatalf("%d cases wait, a newcomer should see three or more", pending)
	}
	u.sameAsScan()

	// One case of each kind is masked until it is revealed, and then is not.
	var grooming aLease
	for range pending {
		l := u.claim("")
		if labels := fmt.Sprint(l.masked["labels"]); strings.Contains(labels, "grooming") && !strings.Contains(labels, "canary") {
			grooming = l
		}
	}
	if grooming.id == "" {
		t.Fatal("no case of grooming waits")
	}
	const words = "parents home" // made up, in the seed
	if masked := fmt.Sprint(grooming.masked); strings.Contains(masked, words) || strings.Contains(masked, "our secret ok") {
		t.Errorf("a masked case shows content: %s", masked)
	}
	fields := []string{"text", "context", "attachment:none"}
	if status, got := u.on(grooming, "reveal", map[string]any{"purpose": "safety_review", "basis": "another case", "fields": fields}); status != http.StatusForbidden {
		t.Errorf("a wrong basis: %d %v", status, got)
	}
	if status, got := u.on(grooming, "reveal", map[string]any{"purpose": "law_enforcement_request", "basis": "LE-none", "fields": fields}); status != http.StatusForbidden {
		t.Errorf("a legal request that does not exist: %d %v", status, got)
	}
	status, got := u.on(grooming, "reveal", map[string]any{"purpose": "safety_review", "basis": grooming.id, "fields": fields})
	revealed, _ := got["fields"].(map[string]any)
	if text := fmt.Sprint(revealed["text"], revealed["context"]); status != http.StatusOK || !strings.Contains(text, "our secret ok") {
		t.Errorf("revealed: %d %v", status, got)
	}
	if none, there := revealed["attachment:none"]; !there || none != nil {
		t.Errorf("an absent field is not null: %v", revealed)
	}
	decision := map[string]any{"decision": "confirm", "label": "grooming", "note": "seen"}
	if status, got := u.on(grooming, "decision", decision); status != http.StatusOK {
		t.Fatalf("deciding: %d %v", status, got)
	}
	if status, got := u.on(grooming, "decision", decision); status != http.StatusConflict {
		t.Errorf("a replayed decision: %d %v", status, got)
	}
	if n := u.stat("decided"); n != 1 {
		t.Errorf("%d decided, not 1", n)
	}

	// One's own messages: a canary, one that is wrong, and one behind it.
	canary, _, _ := u.command(nil, "canary", "--data", u.dir)
	before := len(u.verdicts())
	_, errs, status := u.command([]byte(simple("own-1", "dmguard-canary/own", fmt.Sprintf(`,"text":"is this on? %s"`, strings.TrimSpace(canary)))+"\n"+
		`{"id":"own-bad","conversation_id":"own","sent_at":"never"}`+"\n"+simple("own-2", "own", `,"text":"see you at 5"`)+"\n"), "send", "--data", u.dir)
	if status != 0 || !strings.Contains(errs, "line 2: will be a dead letter") || !strings.Contains(errs, "3 messages sent") {
		t.Errorf("send: %d %s", status, errs)
	}
	u.awaitVerdicts(before + 3)
	u.await("the canary's case", func() bool {
		return u.stat("pending")+u.stat("leased")+u.stat("decided") == pending+1
	})
	list, _, status := u.command(nil, "deadletters", "list", "--data", u.dir)
	if status != 0 || !strings.Contains(list, "own-bad") || !strings.Contains(list, "sent_at") {
		t.Errorf("dead letters: %d\n%s", status, list)
	}
	if v := u.verdicts()["own-2"]; len(v) != 1 || v[0].Status != pipeline.Scanned {
		t.Errorf("the message behind a dead letter: %+v", v)
	}
	again, _, status := u.command(nil, "deadletters", "retry", "--data", u.dir, "--all")
	if status != 0 || !strings.Contains(again, "1 put back") {
		t.Errorf("retry: %d %s", status, again)
	}

	// A second one on the folder, or on the port, is refused.
	_, errs, status = runProcess(t, nil, "up", "--data", u.dir, "--listen", freeAddress(t))
	if status == 0 || !strings.Contains(errs, "another dmguard runs on "+u.dir) {
		t.Errorf("a second process on the folder: %d %s", status, errs)
	}
	_, errs, status = runProcess(t, nil, "up", "--data", t.TempDir(), "--listen", u.address)
	if status == 0 || !strings.Contains(errs, "another program listens on "+u.address) {
		t.Errorf("a busy port: %d %s", status, errs)
	}

	u.stop()
	u2 := startUp(t, u.dir)
	if decided, all := u2.stat("decided"), u2.stat("pending")+u2.stat("leased")+u2.stat("decided"); decided != 1 || all != pending+1 {
		t.Errorf("after a restart %d of %d cases are decided, not 1 of %d", decided, all, pending+1)
	}
	u2.stop()
	if _, errs, status = runProcess(t, nil, "send", "--data", u.dir); status == 0 || !strings.Contains(errs, "no dmguard runs") {
		t.Errorf("send after the end: %d %s", status, errs)
	}
}

func TestUpServesThisMachineOnly(t *testing.T) {
	for _, address := range []string{"0.0.0.0:0", "[::]:0", ":0", "192.0.2.1:80", "example.org:80"} {
		_, errs, status := runProcess(t, nil, "up", "--data", t.TempDir(), "--listen", address)
		if status != 1 || !strings.Contains(errs, "this machine only") {
			t.Errorf("--listen %s: status %d: %s", address, status, errs)
		}
	}
}

// TestARestartChangesNoVerdict sends conversations in parts, with the process
// stopped between them: each verdict is what it were without a restart.
func TestARestartChangesNoVerdict(t *testing.T) {
	dir := t.TempDir()
	lines := bytes.SplitAfter(riskyLines(6), []byte("\n"))
	cut := len(lines) / 2
	u := startUp(t, dir, "--no-seed")
	u.send(bytes.Join(lines[:cut], nil))
	u.awaitVerdicts(cut)
	u.stop()
	u = startUp(t, dir, "--no-seed")
	u.send(bytes.Join(lines[cut:], nil))
	u.awaitVerdicts(len(lines) - 1) // the last is empty
	u.sameAsScan()
	if n := len(u.records(pipeline.TopicHits)); n < 6 {
		t.Errorf("%d hits for 6 conversations at risk", n)
	}
	u.await("a case for each conversation", func() bool { return u.stat("pending") == 6 })
	u.stop()
}

// TestAKilledUpLosesNothing kills the process at a random moment while messages
// are sent, more than once.
func TestAKilledUpLosesNothing(t *testing.T) {
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(chaosSeed(t), 3))
	lines := bytes.SplitAfter(bytes.TrimRight(riskyLines(30), "\n"), []byte("\n"))
	next := 0
	for round := range 3 {
		u := startUp(t, dir, "--no-seed")
		batches := 1 + rng.IntN(4)
		for range batches {
			n := min(len(lines)-next, 1+rng.IntN(40))
			u.send(append(bytes.Join(lines[next:next+n], nil), '\n'))
			next += n
		}
		if round == 2 {
			u.send(append(bytes.Join(lines[next:], nil), '\n'))
			u.sameAsScan()
			got := u.verdicts()
			for _, line := range lines {
				if id, _ := pipeline.PeekIDs(line); len(got[id]) == 0 {
					t.Errorf("message %s was sent and never judged", id)
				}
			}
			u.await("a case for each conversation", func() bool { return u.stat("pending") == 30 })
			u.stop()
			return
		}
		judged := rng.IntN(next + 1)
		u.await("some verdicts", func() bool { return len(u.verdicts()) >= judged })
		u.kill()
	}
}
