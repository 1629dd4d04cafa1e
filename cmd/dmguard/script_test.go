package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", env.WorkDir) // where data lies if nobody says
			data, err := patternPNG(1, 96)
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(env.WorkDir, "pattern.png"), data, 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"mode": checkMode},
	})
}

// checkMode is the script command "mode 0600 FILE...".
func checkMode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: mode 0600 FILE...")
	}
	for _, name := range args[1:] {
		info, err := os.Stat(ts.MkAbs(name))
		ts.Check(err)
		if got := info.Mode().Perm().String(); got != map[string]string{"0600": "-rw-------", "0644": "-rw-r--r--"}[args[0]] {
			ts.Fatalf("%s has mode %s, not %s", name, got, args[0])
		}
	}
}

// walkCommands calls f with every command that can be run, and its full name.
func walkCommands(path string, table []*command, f func(name string, c *command)) {
	for _, c := range table {
		if c.run != nil {
			f(path+" "+c.name, c)
		}
		walkCommands(path+" "+c.name, c.group, f)
	}
}

func TestEveryCommandExplainsItselfWithAnExample(t *testing.T) {
	walkCommands("dmguard", commands(), func(name string, c *command) {
		var out, errs bytes.Buffer
		status := run(t.Context(), append(strings.Fields(name)[1:], "-h"), streams{strings.NewReader(""), &out, &errs})
		help := out.String() + errs.String()
		if status != 0 || c.example == "" || !strings.Contains(help, c.example) || !strings.Contains(help, c.summary) {
			t.Errorf("%s -h: status %d; it wants a summary and an example:\n%s", name, status, help)
		}
		if !strings.Contains(c.example, name) {
			t.Errorf("the example of %s is not about it: %s", name, c.example)
		}
		errs.Reset()
		status = run(t.Context(), append(strings.Fields(name)[1:], "--no-such-flag"), streams{strings.NewReader(""), &out, &errs})
		if status != 2 || !strings.Contains(errs.String(), "no-such-flag") || !strings.Contains(errs.String(), "Usage: "+name) {
			t.Errorf("%s --no-such-flag: status %d, not 2 with its usage:\n%s", name, status, errs.String())
		}
	})
}

// TestEveryExampleIsACommandLineThatWorks runs those that need no server, and
// has the others at least understood.
func TestEveryExampleIsACommandLineThatWorks(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	t.Setenv("HOME", dir)
	write := func(name, text string) {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	prepare := func(name string) {
		for _, old := range []string{"messages.json", "review.pub.json", "review.key.json"} {
			_ = os.Remove(old) // of the example before
		}
		if name != "dmguard keys new" {
			mustRun(t, "keys", "new", "messages.json")
		}
		if name != "dmguard keys review" {
			mustRun(t, "keys", "review", "review.pub.json", "review.key.json")
		}
		write("messages.ndjson", simple("m-1", "c-1", `,"text":"hello"`)+"\n")
		write("conversations.csv", "conversation,sender,time,text,label\nc-1,u-1,2026-03-01 16:00:00,hello,benign\n")
		write("eval.json", `{"scores":[{"kind":"risk","score":0.9},{"kind":"benign","score":0.1}]}`)
		write("dmguard.yaml", "policy: {version: \"2\"}\n")
		picture, err := patternPNG(1, 96)
		if err != nil {
			t.Fatal(err)
		}
		write("picture.png", string(picture))
		_ = os.Remove("signer.key")
		mustRun(t, "lists", "key", "new", "signer", "signer.key")
		write("known.csv", "kind,hash,entry,category\nmd5,0123456789abcdef0123456789abcdef,e-1,\n")
		mustRun(t, "lists", "import", "--format", "csv", "--list", "signed", "known.csv")
		write("texts.ndjson", `{"text":"what a storm","labels":["gift"],"author":"a","split":"train"}`+"\n")
		write("everyday.ndjson", everyday(100))
		if name == "dmguard model show" {
			mustRun(t, "model", "train", "--data", "texts.ndjson", "--benign", "everyday.ndjson", "--licence", "texts=none", "--licence", "everyday=none", "--out", "grooming.model")
		}
	}
	const needsServers, needsAnotherKey = "server", "key"
	special := map[string]string{
		"dmguard up": needsServers, "dmguard send": needsServers, "dmguard worker": needsServers, "dmguard queue": needsServers,
		"dmguard queue rebuild": needsServers, "dmguard topics create": needsServers, "dmguard topics check": needsServers,
		"dmguard deadletters list": needsServers, "dmguard deadletters retry": needsServers, "dmguard bench": needsServers,
		"dmguard lists govern": needsServers,
		"dmguard keys disable": needsAnotherKey,
	}
	walkCommands("dmguard", commands(), func(name string, c *command) {
		prepare(name)
		if special[name] == "" {
			out, err := exec.CommandContext(t.Context(), "sh", "-c", c.example).CombinedOutput()
			if err != nil {
				t.Errorf("%s\n%v: %s", c.example, err, out)
			}
			return
		}
		// Without a server, or with a key id that this keyset does not have, it
		// fails: but not for its command line.
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var out, errs bytes.Buffer
		args := strings.Fields(c.example)[1:]
		if status := run(ctx, args, streams{strings.NewReader(""), &out, &errs}); status == 2 || status == 0 && special[name] == needsAnotherKey {
			t.Errorf("%s: status %d: %s", c.example, status, errs.String())
		}
	})
}

// everyday returns n messages, each of its own conversation.
func everyday(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(simple(fmt.Sprint("m-", i), fmt.Sprint("c-", i), fmt.Sprintf(`,"text":"the bus leaves at %d"`, i)) + "\n")
	}
	return b.String()
}

func mustRun(t *testing.T, args ...string) {
	t.Helper()
	var out, errs bytes.Buffer
	if status := run(t.Context(), args, streams{strings.NewReader(""), &out, &errs}); status != 0 {
		t.Fatalf("dmguard %v: status %d: %s", args, status, errs.String())
	}
}
