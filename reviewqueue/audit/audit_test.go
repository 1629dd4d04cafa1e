package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

func open(t *testing.T, path string) (*Log, Torn) {
	t.Helper()
	l, torn, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, torn
}

func entry(i int) Entry {
	return Entry{
		Phase: Intent, Actor: "alice", Roles: []string{"reviewer"}, Action: "reveal", CaseID: "c-1",
		Purpose: "safety_review", Basis: "c-1", Fields: []string{"text"}, RequestID: fmt.Sprint("r-", i),
	}
}

func lines(t *testing.T, path string) []Entry {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []Entry
	for line := range bytes.Lines(data) {
		var e Entry
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

func TestEveryReceiptNamesItsLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l, _ := open(t, path)
	const n = 200
	receipts := make([]Receipt, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			var err error
			if receipts[i], err = l.Append(context.Background(), entry(i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	all := lines(t, path)
	if len(all) != n {
		t.Fatalf("%d lines", len(all))
	}
	for i, r := range receipts {
		if e := all[r.Index]; e.RequestID != fmt.Sprint("r-", i) || e.Time.IsZero() {
			t.Errorf("receipt %d names the line of %s", i, e.RequestID)
		}
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	again, torn := open(t, path)
	if r, err := again.Append(t.Context(), entry(n)); err != nil || r.Index != n || torn.Bytes != 0 {
		t.Errorf("opened again: %+v, %v, %+v", r, err, torn)
	}
}

func TestATornLastLineIsCutAndReported(t *testing.T) {
	for name, tail := range map[string]string{"half a line": `{"time":"20`, "a line without its end": `{"phase":"intent"}`, "zeros": string(make([]byte, 4096))} {
		path := filepath.Join(t.TempDir(), "audit.jsonl")
		l, _ := open(t, path)
		if _, err := l.Append(t.Context(), entry(0)); err != nil {
			t.Fatal(err)
		}
		l.Close()
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		f.WriteString(tail)
		f.Close()
		again, torn := open(t, path)
		if torn.Bytes != int64(len(tail)) {
			t.Errorf("%s: %d bytes are reported, %d are torn", name, torn.Bytes, len(tail))
		}
		if r, err := again.Append(t.Context(), entry(1)); err != nil || r.Index != 1 {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
		again.Close()
		if all := lines(t, path); len(all) != 2 {
			t.Errorf("%s: %d lines", name, len(all))
		}
	}
}

func TestASecondWriterIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	open(t, path)
	if _, _, err := Open(path); err == nil {
		t.Error("two writers")
	}
}

func TestAClosedLogTakesNothing(t *testing.T) {
	l, _ := open(t, filepath.Join(t.TempDir(), "audit.jsonl"))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(t.Context(), entry(0)); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if err := l.Close(); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

// faulty fails from some write or sync on.
type faulty struct {
	writes, syncs int // that still succeed
	data          bytes.Buffer
	synced        int
}

var errDisk = errors.New("no space left on device")

func (f *faulty) Write(b []byte) (int, error) {
	if f.writes--; f.writes < 0 {
		n, _ := f.data.Write(b[:len(b)/2])
		return n, errDisk
	}
	return f.data.Write(b)
}

func (f *faulty) Sync() error {
	if f.syncs--; f.syncs < 0 {
		return errDisk
	}
	f.synced = f.data.Len()
	return nil
}

func (f *faulty) Close() error { return nil }

// TestAfterADiskFailureNothingIsAcknowledged is what "fail closed" means.
func TestAfterADiskFailureNothingIsAcknowledged(t *testing.T) {
	for name, f := range map[string]*faulty{"write": {writes: 2, syncs: 9}, "sync": {writes: 9, syncs: 2}} {
		l := start(f, 0)
		acked := 0
		for i := range 5 {
			before := f.synced
			_, err := l.Append(t.Context(), entry(i))
			switch {
			case err == nil:
				acked++
				if f.synced == before || f.synced != f.data.Len() {
					t.Errorf("%s: acknowledged before it was on the disk", name)
				}
			case !errors.Is(err, errDisk):
				t.Error(err)
			}
		}
		if acked != 2 {
			t.Errorf("%s: %d entries were acknowledged, want the 2 before the failure", name, acked)
		}
		// The disk is well again: the log still is not, until it is read again.
		f.writes, f.syncs = 9, 9
		if _, err := l.Append(t.Context(), entry(9)); !errors.Is(err, errDisk) {
			t.Errorf("%s: it went on after a failure: %v", name, err)
		}
		l.Close()
	}
}

func TestAFullDiskIsAnError(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	l := start(full, 0)
	t.Cleanup(func() { l.Close() })
	if _, err := l.Append(t.Context(), entry(0)); err == nil {
		t.Error("acknowledged on a full disk")
	}
}

func TestAnOverlongEntryIsRefusedAndTheLogGoesOn(t *testing.T) {
	l, _ := open(t, filepath.Join(t.TempDir(), "audit.jsonl"))
	long := entry(0)
	long.Basis = string(make([]byte, MaxEntryBytes))
	if _, err := l.Append(t.Context(), long); err == nil {
		t.Error("accepted")
	}
	if r, err := l.Append(t.Context(), entry(1)); err != nil || r.Index != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestAnEndedContextWritesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l, _ := open(t, path)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 50 {
		if _, err := l.Append(ctx, entry(0)); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	l.Close()
	if n := len(lines(t, path)); n != 0 {
		t.Errorf("%d entries", n)
	}
}
