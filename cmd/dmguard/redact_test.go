package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// spoken is what messages hold that no log line and no verdict may show. Its
// length is a multiple of three, so that its base64 is the same anywhere in
// bytes that are encoded from its start.
const spoken = "zebra-umbrella-kettle-cactus-windmill-quart"

// spellings are the ways in which it might leak.
func spellings() map[string]string {
	return map[string]string{
		"as it is": spoken, "in base64": base64.StdEncoding.EncodeToString([]byte(spoken)), "in hex": hex.EncodeToString([]byte(spoken)),
		"quoted by bytes": strings.Trim(fmt.Sprintf("%d", []byte(spoken)), "[]"), "a part of it": spoken[:20],
	}
}

// telling are messages that say it wherever a message can say something.
func telling() []byte {
	var b bytes.Buffer
	add := func(more string) {
		b.WriteString(simple(fmt.Sprintf("t-%d", bytes.Count(b.Bytes(), []byte("\n"))), "c-1", more) + "\n")
	}
	picture, err := patternPNG(5, 64)
	if err != nil {
		panic(err) // a pattern always encodes
	}
	add(`,"text":"` + spoken + `"`)
	add(`,"text":"how old are you? ` + spoken + ` don't tell your mom"`)
	add(inline([]byte(spoken)))
	add(inline(append(picture, spoken...)))
	add(inline(append([]byte("\x89PNG\r\n\x1a\n"), spoken...)))
	add(`,"user_reports":[{"id":"r","reporter_id":"u","reported_at":"2026-03-01T16:00:00Z","reason":"` + spoken + `"}]`)
	add(`,"` + spoken + `":"` + spoken + `"`)
	add(`,"mood":{"` + spoken + `":["` + spoken + `"]}`)
	// Faulty, so that an error is tempted to quote it.
	add(`,"text":["` + spoken + `"]`)
	add(`,"text":"` + spoken + `","text":"` + spoken + `"`)
	add(`,"text":"` + spoken + "\xff\"")
	add(`,"` + spoken + `":1,"` + spoken + `":2`)
	add(`,"lang":{"` + spoken + `":1}`)
	add(`,"attachments":[{"id":"a","media_type":"image/png","data":"` + spoken + `!"}]`)
	add(`,"attachments":[{"id":"a","media_type":"image/png","data":"AAAA","` + spoken + `":1,"` + spoken + `":1}]`)
	add(`,"user_reports":[{"id":"r","reporter_id":"u","reported_at":"` + spoken + `"}]`)
	b.WriteString(spoken + "\n" + `"` + spoken + `"` + "\n" + `{"` + spoken + "\n")
	return b.Bytes()
}

func TestNoLogLineOfAScanShowsContent(t *testing.T) {
	for _, format := range []string{"--log-json=false", "--log-json"} {
		got := runScanOn(t, telling(), "--log-level", "debug", format)
		all := got.stderr + string(bytes.Join(got.lines, nil))
		if len(got.verdicts) < 19 || !strings.Contains(got.stderr, "t-1") {
			t.Fatalf("%d verdicts, and no line for a message at debug level?\n%s", len(got.verdicts), got.stderr)
		}
		showsNothing(t, format, all)
	}
}

func TestNothingThatUpWritesInTheClearShowsContent(t *testing.T) {
	dir := t.TempDir()
	u := startUp(t, dir, "--log-level", "debug")
	before := len(u.verdicts())
	// What "send" and a retry say goes to people's screens too. The bytes of a
	// message that was sent in the clear lie in the broker's log as they came:
	// here it is sealed, as a platform would.
	var good, bad bytes.Buffer
	for line := range bytes.Lines(telling()) {
		var out, errs bytes.Buffer
		if run(t.Context(), []string{"seal", "--keys", filepath.Join(dir, "keys", "messages.json")}, streams{bytes.NewReader(line), &out, &errs}) == 0 {
			good.Write(out.Bytes())
		} else {
			bad.Write(line)
		}
		showsNothing(t, "seal", errs.String())
	}
	if good.Len() == 0 || bad.Len() == 0 {
		t.Fatal("nothing to send")
	}
	u.send(good.Bytes())
	_, said, _ := u.command(bad.Bytes(), "send", "--data", dir)
	u.awaitVerdicts(before + bytes.Count(good.Bytes(), []byte("\n")))
	// Every line that is wrong is a dead letter; then all of them were judged.
	wrong := bytes.Count(bad.Bytes(), []byte("\n"))
	var list string
	u.await("the dead letters", func() bool {
		list, _, _ = u.command(nil, "deadletters", "list", "--data", dir)
		return strings.Count(list, "\n") == wrong+1
	})
	showsNothing(t, "send", said)
	showsNothing(t, "the list of dead letters", list)
	for topic, records := range map[string]string{"verdicts": "", "hits": "", "features": "", "gaps": "", "decisions": ""} {
		for _, r := range u.records(topic) {
			records += string(r.Key) + string(r.Value) + fmt.Sprint(r.Headers)
		}
		showsNothing(t, topic, records)
	}
	u.stop()
	if !strings.Contains(u.err.String(), "t-1") {
		t.Errorf("no line for a message at debug level:\n%s", lastLines(u.err.Bytes(), 20))
	}
	showsNothing(t, "the log", u.err.String())
	journal, err := filepath.Glob(filepath.Join(dir, "journal", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(journal, filepath.Join(dir, "audit.ndjson")) {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		showsNothing(t, name, string(data))
	}
}

func showsNothing(t *testing.T, where, text string) {
	t.Helper()
	for how, s := range spellings() {
		if i := strings.Index(text, s); i >= 0 {
			t.Errorf("%s shows content %s: %q", where, how, text[max(0, i-200):min(len(text), i+100)])
		}
	}
}
