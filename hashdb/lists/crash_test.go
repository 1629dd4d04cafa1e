package lists

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// crashAt is the environment variable that makes this test binary an importer that dies at a step, without a word to the disk.
const crashAt = "DMGUARD_LISTS_CRASH"

func TestMain(m *testing.M) {
	if plan := os.Getenv(crashAt); plan != "" {
		crash(plan)
	}
	os.Exit(m.Run())
}

func crash(plan string) {
	step, rest, _ := strings.Cut(plan, "|")
	what, dir, _ := strings.Cut(rest, "|")
	s, err := OpenStore(dir, "ours")
	if err != nil {
		panic(err)
	}
	s.step = func(at string) {
		if at == step {
			os.Exit(77)
		}
	}
	t, ctx := &testing.T{}, context.Background() // the test that it runs for is in another process
	p := Publication{MaxChange: wide}
	if what == "proposed" {
		_, public, err := NewKey("alice")
		if err != nil {
			panic(err)
		}
		p.Trust = Trust{Keys: []string{public}, Signatures: 1}
	}
	if _, err := s.Take(ctx, Origin{}, updateOf(nil, crashUpdate(t, what)), nil); err != nil {
		panic(err)
	}
	if _, err := s.Publish(ctx, p); err != nil {
		panic(err)
	}
	os.Exit(0)
}

// crashUpdate is an update that makes a delta, or a new base.
func crashUpdate(t testing.TB, what string) Batch {
	switch what {
	case "base":
		return Batch{Replace: true, Put: records(t, 50, 3000)}
	default:
		return Batch{Replace: true, Put: records(t, 3, 110)}
	}
}

func TestACrashAtAnyStepLeavesTheOldOrTheNew(t *testing.T) {
	b := newBench(t)
	b.take(Batch{Replace: true, Put: records(t, 0, 100)})
	b.publish()
	b.store.Close()
	old := entries(b.load(nil).Set)
	steps := []struct {
		step, what string
		isNew      bool
	}{
		{"replace", "delta", false},
		{"delta", "delta", false},
		{"intent", "delta", false},
		{"manifest", "delta", false},
		{"settled", "delta", true},
		{"tidy", "delta", true},
		{"base", "base", false},
		{"base written", "base", false},
		{"intent", "base", false},
		{"manifest", "base", false},
		{"settled", "base", true},
		{"tidy", "base", true},
		{"proposed", "proposed", false},
		{"none", "proposed", false},
	}
	for _, c := range steps {
		t.Run(c.step+" of a "+c.what, func(t *testing.T) {
			b := &bench{t: t, dir: copyDir(t, b.dir), pub: b.pub}
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
			cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s|%s|%s", crashAt, c.step, c.what, b.dir))
			out, err := cmd.CombinedOutput()
			if code := cmd.ProcessState.ExitCode(); code != 77 && c.step != "none" {
				t.Fatalf("the importer did not come to the step: %v: %s", err, out)
			}
			fresh := entriesOfRecords(slices.Values(crashUpdate(t, c.what).Put))
			want := old
			if c.isNew {
				want = fresh
			}
			if diff := cmp.Diff(want, entries(b.load(nil).Set)); diff != "" {
				t.Errorf("after the crash (-want +got):\n%s", diff)
			}
			// And the next import goes on from there, whatever was left behind.
			b.open()
			defer b.store.Close()
			b.take(crashUpdate(t, c.what), Batch{Replace: true, Put: records(t, 5000, 5001)})
			m := b.publish().Manifest
			want = entriesOfRecords(slices.Values(append(crashUpdate(t, c.what).Put, record(t, 5000, 0))))
			if diff := cmp.Diff(want, entries(b.load(nil).Set)); diff != "" {
				t.Errorf("after the next import (-want +got):\n%s", diff)
			}
			number := 2
			before, changed := old, 0
			if c.isNew {
				number, before = 3, fresh
			}
			for _, pair := range [][2][]string{{before, want}, {want, before}} {
				for _, e := range pair[0] {
					if _, there := slices.BinarySearch(pair[1], e); !there {
						changed++
					}
				}
			}
			if m.Number != number || m.Change.Entries != changed {
				t.Errorf("the next snapshot is number %d and changed %s, want number %d and %d entries", m.Number, m.Change, number, changed)
			}
			left, err := filepath.Glob(filepath.Join(b.dir, ".*ours*"))
			if err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}
