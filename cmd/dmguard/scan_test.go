package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.uber.org/zap"

	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/pipeline/envelope"
)

// a scanned is what a scan in this process wrote.
type scanned struct {
	verdicts []pipeline.Verdict
	lines    [][]byte
	stderr   string
	status   int
}

// scan runs "dmguard scan" in this process.
func runScanOn(t testing.TB, stdin []byte, args ...string) scanned {
	t.Helper()
	var out, errs bytes.Buffer
	status := run(t.Context(), append([]string{"scan"}, args...), streams{bytes.NewReader(stdin), &out, &errs})
	return answered(t, out.Bytes(), errs.String(), status)
}

func answered(t testing.TB, out []byte, stderr string, status int) scanned {
	t.Helper()
	s := scanned{stderr: stderr, status: status}
	for line := range bytes.Lines(out) {
		var v pipeline.Verdict
		if err := json.Unmarshal(line, &v); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		s.verdicts, s.lines = append(s.verdicts, v), append(s.lines, line)
	}
	return s
}

// simple is a message with the fields added.
func simple(id, conversation, more string) string {
	return fmt.Sprintf(`{"id":%q,"conversation_id":%q,"sent_at":"2026-03-01T16:00:00Z","sender":{"id":"u-1"}%s}`, id, conversation, more)
}

func inline(data []byte) string {
	return fmt.Sprintf(`,"attachments":[{"id":"a-1","media_type":"image/png","data":%q}]`, base64.StdEncoding.EncodeToString(data))
}

// bomb is the header of a PNG that says it is huge, and nothing else.
func bomb() []byte {
	head := append([]byte("IHDR"), binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, 100_000), 100_000)...)
	head = append(head, 8, 6, 0, 0, 0)
	out := append([]byte("\x89PNG\r\n\x1a\n"), 0, 0, 0, 13)
	return binary.BigEndian.AppendUint32(append(out, head...), crc32.ChecksumIEEE(head))
}

// edge is one line of hostile input and what scan must say of it.
type edge struct {
	name     string
	line     string
	id       string
	status   pipeline.Status
	contains string // in the error
}

func edges(t testing.TB) []edge {
	recipients := strings.Repeat(`{"id":"u"},`, 1025)
	missing := "file://" + filepath.Join(t.TempDir(), "nothing.png")
	return []edge{
		{"plain", simple("ok", "c", `,"text":"hello"`), "ok", pipeline.Scanned, ""},
		{"unknown fields", simple("unknown", "c", `,"text":"hello","mood":{"a":[1]}`), "unknown", pipeline.Scanned, ""},
		{"CRLF", simple("crlf", "c", "") + "\r", "crlf", pipeline.Scanned, ""},
		{"year 1", strings.Replace(simple("y1", "c", ""), "2026", "0001", 1), "y1", pipeline.Scanned, ""},
		{"year 9999", strings.Replace(simple("y9999", "c", ""), "2026", "9999", 1), "y9999", pipeline.Scanned, ""},
		{"no JSON", "not json", "", pipeline.Failed, "line"},
		{"truncated", `{"id":"cut","conversation_id":"c","sent_at":"2026-03-`, "cut", pipeline.Failed, "ends too early"},
		{"array", `[1,2]`, "", pipeline.Failed, "line"},
		{"null", `null`, "", pipeline.Failed, "line"},
		{"duplicate keys", simple("dup", "c", `,"text":"a","text":"b"`), "dup", pipeline.Failed, "duplicate"},
		{"not UTF-8", simple("utf", "c", ",\"text\":\"\xff\xfe\""), "utf", pipeline.Failed, "UTF-8"},
		{"deep", simple("deep", "c", `,"x":`+strings.Repeat("[", 20_000)+strings.Repeat("]", 20_000)), "deep", pipeline.Failed, "nested too deeply"},
		{"1,025 recipients", simple("many", "c", `,"recipients":[`+recipients[:len(recipients)-1]+"]"), "many", pipeline.Failed, "1024"},
		{"wrong type", simple("type", "c", `,"text":7`), "type", pipeline.Failed, "/text"},
		{"no sender", `{"id":"who","conversation_id":"c","sent_at":"2026-03-01T16:00:00Z"}`, "who", pipeline.Failed, "sender"},
		{"sealed without a key", `{"v":1,"kid":"1","alg":"A256GCM","id":"sealed","conversation_id":"c","ct":"AAAA"}`, "sealed", pipeline.Failed, "--keys"},
		{"lies about its type", simple("liar", "c", inline([]byte("this is no picture"))), "liar", pipeline.Partial, "a-1"},
		{"bomb", simple("bomb", "c", inline(bomb())), "bomb", pipeline.Partial, "a-1"},
		{"missing", simple("missing", "c", fmt.Sprintf(`,"attachments":[{"id":"a-1","media_type":"image/png","uri":%q}]`, missing)), "missing", pipeline.Partial, "a-1"},
		{"uri and data", simple("both", "c", `,"attachments":[{"id":"a-1","media_type":"image/png","uri":"file:///x","data":"AAAA"}]`), "both", pipeline.Failed, "both"},
		{"text too long", simple("long", "c", `,"text":"`+strings.Repeat("a", 65537)+`"`), "long", pipeline.Failed, "65536"},
	}
}

func TestEveryBadLineIsExplainedAndTheNextOneJudged(t *testing.T) {
	var in bytes.Buffer
	all := edges(t)
	for _, e := range all {
		// A good line of another conversation behind each, and blank ones.
		fmt.Fprintf(&in, "%s\n\n  \t\n%s\n", e.line, simple("after "+e.name, "d", ""))
	}
	got := runScanOn(t, in.Bytes())
	if got.status != 3 {
		t.Errorf("exit status %d, not 3, where lines failed", got.status)
	}
	if len(got.verdicts) != 2*len(all) {
		t.Fatalf("%d verdicts for %d lines\n%s", len(got.verdicts), 2*len(all), got.stderr)
	}
	for i, e := range all {
		v, next := got.verdicts[2*i], got.verdicts[2*i+1]
		if v.MessageID != e.id || v.Status != e.status || !strings.Contains(v.Error, e.contains) {
			t.Errorf("%s: %s\nwant id %q, status %v, an error with %q", e.name, got.lines[2*i], e.id, e.status, e.contains)
		}
		if line := fmt.Sprintf("line %d:", 4*i+1); v.Status == pipeline.Failed && !strings.Contains(v.Error, line) {
			t.Errorf("%s: the error does not name %q: %s", e.name, line, v.Error)
		}
		if v.Status != pipeline.Scanned && v.Error == "" {
			t.Errorf("%s: no error says what was not looked at", e.name)
		}
		if v.Action != pipeline.Allow {
			t.Errorf("%s: action %v, the policy says allow", e.name, v.Action)
		}
		if next.MessageID != "after "+e.name || next.Status != pipeline.Scanned {
			t.Errorf("after %s: %s", e.name, got.lines[2*i+1])
		}
	}
}

func TestEveryVerdictOfAScanConformsToItsSchema(t *testing.T) {
	schemas, err := recordSchemas()
	if err != nil {
		t.Fatal(err)
	}
	var in bytes.Buffer
	for _, e := range edges(t) {
		in.WriteString(e.line + "\n")
	}
	for _, file := range []string{"../../detectors/testdata/grooming.ndjson", "../../detectors/grooming/testdata/conversations.messages.ndjson"} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		in.Write(data)
	}
	got := runScanOn(t, in.Bytes())
	if len(got.lines) < 100 {
		t.Fatalf("only %d verdicts", len(got.lines))
	}
	for _, line := range got.lines {
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(line))
		if err != nil {
			t.Fatal(err)
		}
		if err := schemas["verdict/v1"].Validate(doc); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
}

func TestALineOverTheLimitFailsAloneAndNamesItself(t *testing.T) {
	pad := func(n int) string { // a good message that is n bytes long
		head, tail := simple("exact", "c", `,"x":"`), `"}`
		head = strings.TrimSuffix(head, "}")
		return head + strings.Repeat("x", n-len(head)-len(tail)) + tail
	}
	in := pad(maxLine) + "\n" + pad(maxLine+1) + "\n" + simple("next", "c", "") + "\n" + pad(3*maxLine) // the last without an end
	got := runScanOn(t, []byte(in))
	if got.status != 3 || len(got.verdicts) != 4 {
		t.Fatalf("status %d, %d verdicts", got.status, len(got.verdicts))
	}
	for i, want := range []pipeline.Status{pipeline.Scanned, pipeline.Failed, pipeline.Scanned, pipeline.Failed} {
		v := got.verdicts[i]
		if v.Status != want {
			t.Errorf("verdict %d: %s", i+1, got.lines[i])
		}
		if want == pipeline.Failed && (v.MessageID != "" || !strings.Contains(v.Error, fmt.Sprintf("line %d: longer than %d bytes", i+1, maxLine))) {
			t.Errorf("verdict %d does not say that the line is too long: %s", i+1, got.lines[i])
		}
	}
}

// junk is input that is nearly right, or not at all.
func junk(rng *rand.Rand, lines int) []byte {
	var b bytes.Buffer
	good := simple("id", "c", `,"text":"hello there"`)
	ends := []string{"\n", "\r\n", "\n\n", "\n \t\n", "\r\r\n"}
	for i := range lines {
		switch rng.IntN(7) {
		case 0: // not a line at all
		case 1:
			b.WriteString(strings.Repeat(" ", rng.IntN(5)))
		case 2:
			b.WriteString(good[:rng.IntN(len(good))])
		case 3:
			raw := []byte(good)
			raw[rng.IntN(len(raw))] = byte(rng.IntN(256))
			b.Write(raw)
		case 4:
			for range rng.IntN(40) {
				b.WriteByte(byte(rng.IntN(256)))
			}
		default:
			b.WriteString(simple(fmt.Sprint("m-", i), fmt.Sprint("c-", rng.IntN(5)), ""))
		}
		b.WriteString(ends[rng.IntN(len(ends))])
	}
	return b.Bytes()
}

// answersDue counts the lines that a scan must answer.
func answersDue(in []byte) int {
	n := 0
	for line := range bytes.SplitSeq(bytes.TrimPrefix(in, []byte("\xef\xbb\xbf")), []byte("\n")) {
		if len(bytes.TrimSpace(line)) > 0 {
			n++
		}
	}
	return n
}

func FuzzScanAnswersEveryLine(f *testing.F) {
	for seed := range uint64(100) {
		f.Add(junk(rand.New(rand.NewPCG(seed, 1)), 60))
	}
	f.Add([]byte("\xef\xbb\xbf" + simple("bom", "c", "") + "\n\xef\xbb\xbf\n"))
	f.Add([]byte(simple("no end", "c", "")))
	f.Add([]byte("\n\n"))
	f.Add([]byte("\xef\xbb"))
	// Compiling the phrases would take most of the time; what is tested is that
	// there is an answer.
	config := filepath.Join(f.TempDir(), "dmguard.yaml")
	if err := os.WriteFile(config, []byte("detectors: {grooming: null}\n"), 0o600); err != nil {
		f.Fatal(err)
	}
	loaded, err := (&rulesetOptions{config: config}).load(f.Context(), zap.NewNop())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var out, errs bytes.Buffer
		sc := &scan{rules: loaded, open: openerWith(nil, true), conversations: 100, log: zap.NewNop()}
		lines := &inputs{names: []string{""}, readers: []io.ReadCloser{io.NopCloser(bytes.NewReader(in))}}
		status := 0
		if err := sc.run(t.Context(), lines, &out, &errs); errors.As(err, new(exitError)) {
			status = 3
		} else if err != nil {
			t.Fatal(err)
		}
		got := answered(t, out.Bytes(), errs.String(), status)
		if want := answersDue(in); len(got.verdicts) != want {
			t.Fatalf("%d verdicts for %d lines\n%s", len(got.verdicts), want, got.stderr)
		}
		failed := false
		for _, v := range got.verdicts {
			failed = failed || v.Status == pipeline.Failed
		}
		if (got.status == 3) != failed || (got.status == 0) == failed {
			t.Fatalf("exit status %d, failed lines: %v\n%s", got.status, failed, got.stderr)
		}
	})
}

func TestVerdictsKeepTheOrderOfTheirLinesBesideSlowOnes(t *testing.T) {
	var picture bytes.Buffer
	data, err := patternPNG(3, 256)
	if err != nil {
		t.Fatal(err)
	}
	picture.WriteString(inline(data))
	var in bytes.Buffer
	const n = 5000
	for i := range n {
		more := ""
		if i%500 == 0 {
			more = picture.String()
		}
		in.WriteString(simple(fmt.Sprint("m-", i), fmt.Sprint("c-", i%97), more) + "\n")
	}
	got := runScanOn(t, in.Bytes())
	if len(got.verdicts) != n || got.status != 0 {
		t.Fatalf("%d verdicts, status %d: %s", len(got.verdicts), got.status, got.stderr)
	}
	for i, v := range got.verdicts {
		if v.MessageID != fmt.Sprint("m-", i) {
			t.Fatalf("line %d is answered by the verdict on %s", i+1, v.MessageID)
		}
	}
}

// riskyLines are n conversations that develop in the same way, interleaved.
func riskyLines(n int) []byte {
	said := []string{
		"how old are you?", "13", "really? you are so mature for your age", "ok", "are your parents home?", "no they work late",
		"don't tell your mom we talk, it's our secret ok?", "why", "add me on another app, it's more private", "idk",
		"i can buy you a gift card if you want. send me a pic of you", "maybe later", "we should meet up, just us two",
	}
	var b bytes.Buffer
	at := time.Date(2026, 3, 1, 16, 0, 0, 0, time.UTC)
	for i, text := range said {
		for c := range n {
			from, to := `{"id":"a","age":34}`, `{"id":"b","age":13}`
			if i%2 == 1 {
				from, to = to, from
			}
			fmt.Fprintf(&b, `{"id":"r-%d-%d","conversation_id":"risk-%d","sent_at":%q,"sender":%s,"recipients":[%s],"text":%q}`+"\n",
				c, i, c, at.Add(time.Duration(i)*time.Minute).Format(time.RFC3339), from, to, text)
		}
	}
	return b.Bytes()
}

var ignoreTime = cmpopts.IgnoreFields(pipeline.Verdict{}, "DecidedAt")

func TestALittleMemoryGivesTheSameVerdicts(t *testing.T) {
	in := riskyLines(400)
	much := runScanOn(t, in)
	little := runScanOn(t, in, "--conversations", "20")
	if diff := cmp.Diff(much.verdicts, little.verdicts, ignoreTime, cmpopts.IgnoreUnexported(pipeline.Finding{})); diff != "" {
		t.Errorf("keeping 20 of 400 conversations in memory changes verdicts:\n%.2000s", diff)
	}
	reviews := 0
	for _, v := range much.verdicts {
		if v.Action == pipeline.Review {
			reviews++
		}
	}
	if reviews < 400 || reviews > 1200 {
		t.Errorf("%d messages to review in 400 conversations: one or two each were to be expected", reviews)
	}
}

// brokenPipe takes some bytes and then no more.
type brokenPipe struct{ room int }

var errBroken = errors.New("broken pipe")

func (b *brokenPipe) Write(p []byte) (int, error) {
	if b.room -= len(p); b.room < 0 {
		return 0, errBroken
	}
	return len(p), nil
}

func TestAScanWhoseOutputBreaksEndsWithAnError(t *testing.T) {
	in := strings.Repeat(simple("m", "c", "")+"\n", 5000)
	var errs bytes.Buffer
	status := run(t.Context(), []string{"scan"}, streams{strings.NewReader(in), &brokenPipe{64 << 10}, &errs})
	if status != 1 || !strings.Contains(errs.String(), "broken pipe") {
		t.Errorf("status %d: %s", status, errs.String())
	}
}

func TestAnInterruptedScanSaysSo(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	in, feed := io.Pipe()
	answers, out := io.Pipe()
	defer in.Close()
	var errs bytes.Buffer
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, []string{"scan"}, streams{in, out, &errs})
		out.Close()
	}()
	if _, err := io.WriteString(feed, simple("first", "c", "")+"\n"); err != nil {
		t.Fatal(err)
	}
	// The answer comes before the input ends: scan streams.
	buf := make([]byte, 64<<10)
	n, err := answers.Read(buf)
	if err != nil || !bytes.Contains(buf[:n], []byte(`"first"`)) {
		t.Fatalf("read %q: %v", buf[:n], err)
	}
	cancel()
	if status := <-done; status != 1 || !strings.Contains(errs.String(), "interrupted") {
		t.Errorf("status %d: %s", status, errs.String())
	}
}

func TestAScanOfSealedMessagesTellsTamperedOnes(t *testing.T) {
	dir := t.TempDir()
	keyset := func(name string) (*envelope.Keyset, string) {
		k, err := envelope.New()
		if err != nil {
			t.Fatal(err)
		}
		f := envelope.File{Path: filepath.Join(dir, name)}
		if err := f.Create(k); err != nil {
			t.Fatal(err)
		}
		return k, f.Path
	}
	k, path := keyset("right.json")
	_, wrong := keyset("wrong.json")
	seal := func(id string) string {
		b, err := k.Seal([]byte(simple(id, "c", `,"text":"hi"`)))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	flipped := seal("flipped")
	at := strings.Index(flipped, `"ct":"`) + 40
	other := byte('A')
	if flipped[at] == other {
		other = 'B'
	}
	flipped = flipped[:at] + string(other) + flipped[at+1:]
	swapped := strings.Replace(seal("swapped-a"), "swapped-a", "swapped-b", 1)
	in := []byte(seal("good") + "\n" + flipped + "\n" + swapped + "\n" + simple("plain", "c", "") + "\n" + seal("last") + "\n")

	got := runScanOn(t, in, "--keys", path)
	var statuses []pipeline.Status
	for _, v := range got.verdicts {
		statuses = append(statuses, v.Status)
	}
	want := []pipeline.Status{pipeline.Scanned, pipeline.Failed, pipeline.Failed, pipeline.Scanned, pipeline.Scanned}
	if diff := cmp.Diff(want, statuses); diff != "" || got.status != 3 {
		t.Errorf("status %d, statuses (-want +got):\n%s", got.status, diff)
	}
	if v := got.verdicts[2]; v.MessageID != "swapped-b" || !strings.Contains(v.Error, "line 3") || !strings.Contains(v.Error, "moved to another message") {
		t.Errorf("swapped id: %s", got.lines[2])
	}
	for i, v := range runScanOn(t, in, "--keys", wrong).verdicts {
		if sealed := i != 3; sealed != (v.Status == pipeline.Failed) || sealed && !strings.Contains(v.Error, "unknown key") {
			t.Errorf("with the wrong key, line %d: %+v", i+1, v)
		}
	}
}
