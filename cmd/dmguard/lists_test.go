package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dmguard/dmguard/hashdb"
	"github.com/dmguard/dmguard/pipeline"
)

// TestANewEntryIsInForceInARunningUp imports a list while messages go by: those after it match, those before did not, and
// the process is the same all the time.
func TestANewEntryIsInForceInARunningUp(t *testing.T) {
	dir := t.TempDir()
	u := startUp(t, dir, "--no-seed")
	picture, err := patternPNG(4711, 96)
	if err != nil {
		t.Fatal(err)
	}
	sent := 0
	judge := func() pipeline.Verdict {
		t.Helper()
		id := fmt.Sprintf("m-%d", sent)
		sent++
		u.send([]byte(simple(id, "c-1", inline(picture)) + "\n"))
		v := u.awaitVerdicts(sent)[id][0]
		if v.Status != pipeline.Scanned {
			t.Fatalf("verdict %+v", v)
		}
		return v
	}
	if v := judge(); len(v.Findings) != 0 {
		t.Fatalf("a picture that nobody listed: %+v", v.Findings)
	}
	entry := func(version, id string) string {
		t.Helper()
		digest := hashdb.Digests(picture)[2]
		list := filepath.Join(t.TempDir(), version+".csv")
		text := "kind,hash,entry,category\nmd5,0123456789abcdef0123456789abcdef,other,csam\n"
		if id != "" {
			text += fmt.Sprintf("md5,%s,%s,csam\n", digest, id)
		}
		if err := os.WriteFile(list, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return list
	}
	inForce := func(what string, done func(pipeline.Verdict) bool) {
		t.Helper()
		started := time.Now()
		u.await(what, func() bool { return done(judge()) })
		t.Logf("%s after %s", what, time.Since(started).Round(time.Millisecond))
	}
	importing := func(list string) {
		t.Helper()
		if out, errs, status := u.command(nil, "lists", "import", "--data", dir, "--format", "csv", "--list", "late", list); status != 0 {
			t.Fatalf("import: status %d: %s%s", status, out, errs)
		}
	}
	importing(entry("one", ""))
	importing(entry("two", "e-1"))
	inForce("the new entry to match", func(v pipeline.Verdict) bool {
		return len(v.Findings) == 1 && v.Findings[0].Match.Entry == "e-1" && v.Action == pipeline.Block
	})
	importing(entry("three", ""))
	inForce("the entry that was withdrawn to match no more", func(v pipeline.Verdict) bool { return len(v.Findings) == 0 })
	select {
	case <-u.done:
		t.Error("the process has ended")
	default:
	}
}

// publish puts a snapshot of a list with one digest in a folder.
func publish(t *testing.T, dir, list, digest string) {
	t.Helper()
	source := filepath.Join(t.TempDir(), "list.csv")
	if err := os.WriteFile(source, []byte("kind,hash,entry,category\nmd5,"+digest+",e-1,csam\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	mustRun(t, "lists", "import", "--lists", dir, "--format", "csv", "--list", list, source)
}

func TestABadSnapshotIsRefusedWhileTheOthersAreTakenOver(t *testing.T) {
	dir := t.TempDir()
	publish(t, dir, "one", "0123456789abcdef0123456789abcdef")
	publish(t, dir, "two", "0123456789abcdef0123456789abcdef")
	r, w := watchRules(t, rulesetOptions{lists: dir, seen: filepath.Join(t.TempDir(), "seen")})
	defer w.stop()
	first, _, _ := strings.Cut(r.ruleset.Versions["lists"], ",")
	manifest := filepath.Join(dir, "one.manifest")
	good, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(manifest+".new", bytes.Replace(good, []byte("number 1"), []byte("number 7"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(manifest+".new", manifest); err != nil {
		t.Fatal(err)
	}
	publish(t, dir, "two", "fedcba9876543210fedcba9876543210")
	next := awaitOne(t, "the good list", w.applied)
	for !strings.Contains(next.Versions["lists"], "two@2-") {
		next = awaitOne(t, "the good list", w.applied)
	}
	if got, _, _ := strings.Cut(next.Versions["lists"], ","); got != first {
		t.Errorf("%s is in force, want %s", got, first)
	}
	if fault := awaitOne(t, "a refusal", w.refused); !strings.Contains(fault, "last good version stays") || !strings.Contains(fault, "does not tell that it follows number 1") {
		t.Errorf("refused with %q", fault)
	}
	publish(t, dir, "two", "0123456789abcdef0123456789abcdef")
	last := awaitOne(t, "the good list", w.applied)
	if got := strings.Split(last.Versions["lists"], ","); !strings.HasPrefix(got[0], "one@1-") || !strings.HasPrefix(got[1], "two@3-") {
		t.Errorf("in force: %v", got)
	}
}
