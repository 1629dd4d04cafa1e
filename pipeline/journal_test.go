package pipeline_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/dmguard/dmguard/pipeline"
)

// childDir names the folder that a test's child process works in, and childRole
// what it does there; see TestChildProcess.
const (
	childDir  = "PIPELINE_TEST_CHILD_DIR"
	childRole = "PIPELINE_TEST_CHILD_ROLE"
	poison    = "m-77"
)

// TestChildProcess claims nothing: it is what the processes that tests kill run.
func TestChildProcess(t *testing.T) {
	dir := os.Getenv(childDir)
	switch role := os.Getenv(childRole); role {
	case "":
	case "hold":
		journal, err := pipeline.OpenJournal(dir)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = fmt.Fprintln(os.Stdout, "ready")
		_, _ = io.Copy(io.Discard, os.Stdin)
		if err := journal.Close(); err != nil {
			t.Error(err)
		}
	case "die with eight in hand", "judge":
		child(t, dir, role)
	default:
		t.Fatalf("unknown role %q", role)
	}
}

// child judges the messages that are not done yet, and notes verdicts and what
// is done in files.
func child(t *testing.T, dir, role string) {
	journal, err := pipeline.OpenJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	notes, err := os.OpenFile(filepath.Join(dir, "notes"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	note := func(format string, args ...any) { _, _ = fmt.Fprintf(notes, format+"\n", args...) }
	die := func() {
		if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
			t.Error(err)
		}
		select {}
	}
	var inHand atomic.Int32
	judge := detector{"judge", func(_ context.Context, it *pipeline.Item) (pipeline.Answer, error) {
		switch {
		case role == "die with eight in hand":
			note("hand %d", it.Position.Offset)
			if inHand.Add(1) == 8 {
				die()
			}
			select {}
		case it.Message.ID == poison:
			die()
		}
		return pipeline.Answer{}, nil
	}}
	done := map[string]bool{}
	for _, l := range lines(t, filepath.Join(dir, "notes")) {
		done[l] = true
	}
	var src waitingSource
	for _, r := range poisonedRecords() {
		if offset := fmt.Sprintf("done %d", r.Offset); !done[offset] {
			src.deliveries = append(src.deliveries, &pipeline.Delivery{Record: r, Done: func() { note("%s", offset) }})
		}
	}
	cfg := config(&src, sinkFunc(func(_ context.Context, batch []*pipeline.Outcome) error {
		for _, o := range batch {
			note("verdict %s %v %s", o.Verdict.MessageID, o.Verdict.Status, o.DeadLetter)
		}
		return nil
	}), judge)
	cfg.Journal, cfg.Lanes, cfg.Batch = journal, 8, 10
	if err := run(t, cfg); err != nil {
		t.Error(err)
	}
	if err := journal.Close(); err != nil {
		t.Error(err)
	}
}

func poisonedRecords() []pipeline.Record {
	var values []string
	for i := range 200 {
		values = append(values, message(fmt.Sprintf("m-%d", i), fmt.Sprintf("c-%d", i)))
	}
	return records(values...)
}

// waitingSource delivers everything at once.
type waitingSource struct {
	deliveries []*pipeline.Delivery
}

func (s *waitingSource) Receive(context.Context) ([]*pipeline.Delivery, error) {
	if len(s.deliveries) == 0 {
		return nil, io.EOF
	}
	all := s.deliveries
	s.deliveries = nil
	return all, nil
}

type sinkFunc func(context.Context, []*pipeline.Outcome) error

func (f sinkFunc) Accept(ctx context.Context, batch []*pipeline.Outcome) error { return f(ctx, batch) }

func lines(t *testing.T, name string) []string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

func command(t *testing.T, dir, role string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChildProcess$", "-test.count=1")
	cmd.Env = append(os.Environ(), childDir+"="+dir, childRole+"="+role)
	return cmd
}

// killed runs a child and reports whether it was killed.
func killed(t *testing.T, dir, role string) bool {
	t.Helper()
	out, err := command(t, dir, role).CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() == syscall.SIGKILL {
			return true
		}
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return false
}

func openJournal(t *testing.T, dir string) *pipeline.Journal {
	t.Helper()
	j, err := pipeline.OpenJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	return j
}

func TestAfterAKillExactlyTheMessagesInHandAreSuspects(t *testing.T) {
	dir := t.TempDir()
	if !killed(t, dir, "die with eight in hand") {
		t.Fatal("the child was not killed")
	}
	var inHand []int64
	for _, l := range lines(t, filepath.Join(dir, "notes")) {
		if n, ok := strings.CutPrefix(l, "hand "); ok {
			offset, err := strconv.ParseInt(n, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			inHand = append(inHand, offset)
		}
	}
	if len(inHand) != 8 {
		t.Fatalf("in hand: %v", inHand)
	}
	for again := range 2 {
		j, err := pipeline.OpenJournal(dir)
		if err != nil {
			t.Fatal(err)
		}
		if j.Suspects() != 8 {
			t.Errorf("%d suspects, want 8", j.Suspects())
		}
		for _, r := range poisonedRecords() {
			want := 0
			if slices.Contains(inHand, r.Offset) {
				want = 1
			}
			if got := j.Kills(r.Position); got != want {
				t.Errorf("opened %d times: offset %d has %d kills, want %d", again+1, r.Offset, got, want)
			}
		}
		other := poisonedRecords()[inHand[0]].Position
		for _, p := range []pipeline.Position{{Topic: "x", Offset: other.Offset}, {Topic: other.Topic, Partition: 1, Offset: other.Offset}} {
			if j.Kills(p) != 0 {
				t.Errorf("%+v is suspected", p)
			}
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	j, err := pipeline.OpenJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	gone := poisonedRecords()[inHand[3]].Position
	j.Forget(gone)
	j.Forget(pipeline.Position{Topic: "never seen"})
	if j.Kills(gone) != 0 || j.Suspects() != 7 {
		t.Errorf("%d suspects after one was forgotten", j.Suspects())
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if j := openJournal(t, dir); j.Kills(gone) != 0 || j.Suspects() != 7 {
		t.Error("what was forgotten came back")
	}
}

// The whole of quarantine: a message that kills its process does so MaxKills
// times, and costs no other message its verdict.
func TestAMessageThatKillsTheProcessIsQuarantinedAndNoOtherIs(t *testing.T) {
	dir := t.TempDir()
	deaths := 0
	for killed(t, dir, "judge") {
		if deaths++; deaths > pipeline.MaxKills {
			break
		}
	}
	if deaths != pipeline.MaxKills {
		t.Errorf("the process died %d times, want %d", deaths, pipeline.MaxKills)
	}
	verdicts, done := map[string][]string{}, map[string]bool{}
	for _, l := range lines(t, filepath.Join(dir, "notes")) {
		switch kind, rest, _ := strings.Cut(l, " "); kind {
		case "verdict":
			id, what, _ := strings.Cut(rest, " ")
			verdicts[id] = append(verdicts[id], what)
		case "done":
			done[rest] = true
		}
	}
	for i := range 200 {
		id := fmt.Sprintf("m-%d", i)
		want := "scanned "
		if id == poison {
			want = "failed quarantined: the process died 3 times with this message in its hands"
		}
		if len(verdicts[id]) == 0 || slices.ContainsFunc(verdicts[id], func(v string) bool { return v != want }) {
			t.Errorf("%s: %q, want %q", id, verdicts[id], want)
		}
		if !done[strconv.Itoa(i)] {
			t.Errorf("%s is not done", id)
		}
	}
	if j := openJournal(t, dir); j.Suspects() != 0 {
		t.Errorf("%d suspects are left", j.Suspects())
	}
}

func TestASecondProcessOnAJournalsFolderIsRefused(t *testing.T) {
	dir := t.TempDir()
	cmd := command(t, dir, "hold")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("the child says %q, %v", line, err)
	}
	if _, err := pipeline.OpenJournal(dir); err == nil || !strings.Contains(err.Error(), "another process uses this folder") || !strings.Contains(err.Error(), dir) {
		t.Errorf("OpenJournal() = %v; want it refused, with the folder's name", err)
	}
	in.Close()
	_, _ = io.Copy(io.Discard, out)
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if j := openJournal(t, dir); j.Suspects() != 0 {
		t.Error("suspects after a clean end")
	}
}

func TestANilJournalRemembersNothing(t *testing.T) {
	var j *pipeline.Journal
	j.Forget(pipeline.Position{})
	if j.Kills(pipeline.Position{}) != 0 || j.Suspects() != 0 || j.Close() != nil {
		t.Error("it remembers")
	}
}

func TestDamagedSuspectsAreAClearError(t *testing.T) {
	for _, content := range []string{"", "{", `[{"topic":7}]`, "null\x00"} {
		dir := t.TempDir()
		name := filepath.Join(dir, "suspects.json")
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := pipeline.OpenJournal(dir); err == nil || !strings.Contains(err.Error(), "delete it to forget the suspects") {
			t.Errorf("%q: %v; want an error that says what to do", content, err)
		}
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		openJournal(t, dir) // the failed one holds no lock
	}
}

// suspects writes the suspects of a journal in dir, each with so many kills.
func suspects(t *testing.T, dir string, kills map[int64]int) *pipeline.Journal {
	t.Helper()
	var entries []string
	for offset, n := range kills {
		entries = append(entries, fmt.Sprintf(`{"topic":"dm.messages","partition":0,"offset":%d,"kills":%d,"seen":"9000-01-01T00:00:00Z"}`, offset, n))
	}
	if err := os.WriteFile(filepath.Join(dir, "suspects.json"), []byte("["+strings.Join(entries, ",")+"]"), 0o600); err != nil {
		t.Fatal(err)
	}
	return openJournal(t, dir)
}

func TestSuspectsAreLookedAtWhileNothingElseIsInHand(t *testing.T) {
	kills := map[int64]int{}
	for i := int64(0); i < 200; i += 9 {
		kills[i] = 1 + int(i)%2
	}
	journal := suspects(t, t.TempDir(), kills)
	var inHand, most, looked atomic.Int32
	looks := detector{"looks", func(_ context.Context, it *pipeline.Item) (pipeline.Answer, error) {
		most.Store(max(most.Load(), inHand.Add(1)))
		defer inHand.Add(-1)
		for range 200 {
			if kills[it.Position.Offset] > 0 && inHand.Load() != 1 {
				t.Errorf("%d messages are in hand beside the suspect at offset %d", inHand.Load()-1, it.Position.Offset)
				break
			}
			runtime.Gosched()
		}
		if kills[it.Position.Offset] > 0 {
			looked.Add(1)
		}
		return pipeline.Answer{}, nil
	}}
	var src waitingSource
	var done sync.Map
	for _, r := range poisonedRecords() {
		src.deliveries = append(src.deliveries, &pipeline.Delivery{Record: r, Done: func() { done.Store(r.Offset, true) }})
	}
	out := &sink{}
	cfg := config(&src, out, looks)
	cfg.Journal, cfg.Lanes = journal, 8
	if err := run(t, cfg); err != nil {
		t.Fatal(err)
	}
	if int(looked.Load()) != len(kills) || most.Load() < 2 || len(out.outcomes) != 200 {
		t.Errorf("%d suspects looked at, %d messages side by side, %d verdicts: the test shows nothing", looked.Load(), most.Load(), len(out.outcomes))
	}
	if journal.Suspects() != 0 {
		t.Errorf("%d suspects are left after all were judged", journal.Suspects())
	}
}

func TestAMessageWithThreeKillsIsNotLookedAtAgain(t *testing.T) {
	journal := suspects(t, t.TempDir(), map[int64]int{1: pipeline.MaxKills, 2: pipeline.MaxKills - 1})
	looks := detector{"looks", func(_ context.Context, it *pipeline.Item) (pipeline.Answer, error) {
		if it.Position.Offset == 1 {
			t.Error("it was looked at")
		}
		return pipeline.Answer{}, nil
	}}
	src, out := &source{records: records(message("m-0", "c"), message("m-1", "c"), message("m-2", "c"), message("m-3", "c"))}, &sink{}
	cfg := config(src, out, looks)
	cfg.Journal = journal
	open := cfg.Open
	cfg.Open = func(r *pipeline.Record) (*pipeline.Message, error) {
		if r.Offset == 1 {
			t.Error("it was opened")
		}
		return open(r)
	}
	if err := run(t, cfg); err != nil {
		t.Fatal(err)
	}
	for _, o := range out.outcomes {
		quarantined := strings.HasPrefix(o.DeadLetter, "quarantined")
		if quarantined != (o.Delivery.Offset == 1) || quarantined && o.Verdict.Status != pipeline.Failed {
			t.Errorf("offset %d: %v, %q", o.Delivery.Offset, o.Verdict.Status, o.DeadLetter)
		}
	}
	if len(out.outcomes) != 4 || len(src.done) != 4 || journal.Suspects() != 0 {
		t.Errorf("%d verdicts, done %v, %d suspects", len(out.outcomes), src.done, journal.Suspects())
	}
}
