package lists

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/note"

	"github.com/dmguard/dmguard/hashdb"
)

// hash returns one of the hashes that tests make up.
func hash(t testing.TB, kind hashdb.Kind, n int) hashdb.Hash {
	t.Helper()
	var seed [8]byte
	binary.LittleEndian.PutUint64(seed[:], uint64(n))
	sum := sha256.Sum256(seed[:])
	h, err := hashdb.NewHash(kind, sum[:kind.Size()])
	if err != nil {
		t.Fatal(err)
	}
	if h.Unfit() != "" {
		return hash(t, kind, n+1_000_000_007)
	}
	return h
}

// record returns record n, as its owner has it for the v-th time.
func record(t testing.TB, n, v int) Record {
	t.Helper()
	r := Record{ID: fmt.Sprintf("r-%06d", n), Category: []string{"", "csam", "ncii"}[v%3], Labels: []string{fmt.Sprint("v", v)}}
	for i, k := range hashdb.Kinds() {
		if (n+v)%(i+1) == 0 {
			r.Hashes = append(r.Hashes, hash(t, k, 1000*n+v))
		}
	}
	return r
}

func records(t testing.TB, from, to int) []Record {
	t.Helper()
	var out []Record
	for n := from; n < to; n++ {
		out = append(out, record(t, n, 0))
	}
	return out
}

// updateOf yields batches and then, unless it is nil, an error.
func updateOf(err error, batches ...Batch) Update {
	return func(yield func(Batch, error) bool) {
		for _, b := range batches {
			if !yield(b, nil) {
				return
			}
		}
		if err != nil {
			yield(Batch{}, err)
		}
	}
}

// bench is a folder with one list.
type bench struct {
	t     testing.TB
	dir   string
	store *Store
	pub   Publication
}

var wide = Bound{Share: 1, Floor: 1 << 40}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), pub: Publication{MaxChange: wide}}
	b.open()
	t.Cleanup(func() { b.store.Close() })
	return b
}

func (b *bench) open() {
	b.t.Helper()
	var err error
	if b.store, err = OpenStore(b.dir, "ours"); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) reopen() {
	b.t.Helper()
	if err := b.store.Close(); err != nil {
		b.t.Fatal(err)
	}
	b.open()
}

func (b *bench) take(batches ...Batch) Summary {
	b.t.Helper()
	sum, err := b.store.Take(b.t.Context(), Origin{Source: "test", Format: "test"}, updateOf(nil, batches...), nil)
	if err != nil {
		b.t.Fatal(err)
	}
	return sum
}

func (b *bench) put(records ...Record) { b.t.Helper(); b.take(Batch{Put: records}) }

func (b *bench) publish() *Published {
	b.t.Helper()
	p, err := b.store.Publish(b.t.Context(), b.pub)
	if err != nil {
		b.t.Fatal(err)
	}
	return p
}

func (b *bench) options() Options { return Options{Dir: b.dir, MaxChange: wide} }

// load takes over what is there, which must be without fault.
func (b *bench) load(before *Loaded) *Loaded {
	b.t.Helper()
	l, err := Load(b.options(), before)
	if err == nil {
		err = l.Err()
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return l
}

// entries returns the entries of a set, in order.
func entries(set *hashdb.Set) []string {
	var out []string
	for _, e := range set.Entries() {
		out = append(out, fmt.Sprint(e.Hash.Kind(), e.Hash, e.ID, e.Category))
	}
	slices.Sort(out)
	return out
}

func entriesOfRecords(records iter.Seq[Record]) []string {
	var out []string
	for r := range records {
		for _, h := range r.Hashes {
			out = append(out, fmt.Sprint(h.Kind(), h, r.ID, r.Category))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func TestASnapshotHoldsWhatItsRecordsDoAndNothingThatWasWithdrawn(t *testing.T) {
	b := newBench(t)
	b.put(records(t, 0, 100)...)
	first := b.publish()
	b.take(Batch{Put: []Record{record(t, 3, 1)}, Delete: []string{"r-000005", "not-there"}})
	second := b.publish()
	if first.Manifest.Base != second.Manifest.Base || second.Manifest.Delta == nil {
		t.Errorf("a small change made a new base: %v", second.Manifest)
	}
	l := b.load(nil)
	if got := l.Lists[0].Version; got != second.Manifest.Version() || !strings.HasPrefix(got, "2-") || len(got) != 14 {
		t.Errorf("version %s", got)
	}
	withdrawn := record(t, 5, 0)
	if got := l.Set.Match(hashdb.Query{Hashes: withdrawn.Hashes, Quality: hashdb.UnknownQuality}); len(got.Matches) != 0 {
		t.Errorf("a record that was withdrawn matches: %v", got)
	}
	changed := record(t, 3, 1)
	got := l.Set.Match(hashdb.Query{Hashes: changed.Hashes[:1]})
	if len(got.Matches) != 1 || got.Matches[0].Entry != "r-000003" || got.Matches[0].ListVersion != second.Manifest.Version() || got.Matches[0].Category != "csam" {
		t.Errorf("a record that was changed: %+v", got)
	}
}

func TestProvenanceIsKept(t *testing.T) {
	b := newBench(t)
	changed := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	r := record(t, 1, 1)
	r.Opinions = map[string]string{"member-1": "blocked"}
	r.Unmatched = []string{"photodna"}
	r.Changed = changed
	b.put(r)
	was, err := b.store.Record(r.ID)
	if err != nil {
		t.Fatal(err)
	}
	if was.Source != "test" || was.Format != "test" || was.First.IsZero() || was.Last.Before(was.First) {
		t.Errorf("kept %+v", was)
	}
	want := r
	slices.SortFunc(want.Hashes, compareHashes)
	if diff := cmp.Diff(want, was.Record, cmp.Comparer(func(a, b hashdb.Hash) bool { return a == b })); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
	b.take(Batch{Replace: true, Put: []Record{r}})
	now, err := b.store.Record(r.ID)
	if err != nil || !now.First.Equal(was.First) {
		t.Errorf("an update that replaces the list forgets when a record came first: %v, %v", now, err)
	}
}

func TestWhatIsRefusedIsTold(t *testing.T) {
	for _, replace := range []bool{false, true} {
		b := newBench(t)
		zero, err := hashdb.NewHash(hashdb.PDQ, make([]byte, 32))
		if err != nil {
			t.Fatal(err)
		}
		bad := record(t, 1, 0)
		bad.Hashes = append(bad.Hashes, zero)
		long := record(t, 2, 0)
		long.ID = strings.Repeat("x", 257)
		many := record(t, 3, 0)
		for i := range mostHashes + 1 {
			many.Hashes = append(many.Hashes, hash(t, hashdb.MD5, i))
		}
		label := record(t, 4, 0)
		label.Labels = []string{"two\nlines"}
		sum := b.take(Batch{Replace: replace, Put: []Record{bad, long, many, label, record(t, 5, 0)}})
		if sum.Refused != 4 || len(sum.Refusals) != 4 || sum.Added != 2 || sum.Records != 2 {
			t.Errorf("replace %v: %+v", replace, sum)
		}
		for _, r := range sum.Refusals {
			if r.Reason == "" || r.ID == "" {
				t.Errorf("refused without a word: %+v", r)
			}
		}
		told, n, err := b.store.Refusals()
		if err != nil || n != 4 || len(told) != 4 {
			t.Errorf("the store tells of %d: %v, %v", n, told, err)
		}
		if m := b.publish().Manifest; m.Refused != 4 {
			t.Errorf("the manifest tells of %d refused", m.Refused)
		}
		// What comes again without its fault is refused no more.
		label.Labels = nil
		b.take(Batch{Replace: replace, Put: []Record{record(t, 1, 0), label}})
		if _, n, err := b.store.Refusals(); err != nil || replace && n != 0 || !replace && n != 2 {
			t.Errorf("replace %v: %d refused, %v", replace, n, err)
		}
	}
}

func TestAnUpdateThatReplacesTheListIsAllOrNothing(t *testing.T) {
	b := newBench(t)
	b.take(Batch{Replace: true, Put: records(t, 0, 20), Checkpoint: "one"})
	failed := errors.New("the connection broke")
	_, err := b.store.Take(t.Context(), Origin{}, updateOf(failed, Batch{Replace: true, Put: records(t, 10, 15), Checkpoint: "two"}), nil)
	if !errors.Is(err, failed) {
		t.Fatalf("error %v", err)
	}
	if b.store.Records() != 20 || b.store.Checkpoint() != "one" {
		t.Errorf("half an update was taken: %d records, checkpoint %s", b.store.Records(), b.store.Checkpoint())
	}
	sum := b.take(Batch{Replace: true, Put: records(t, 10, 15)}, Batch{Replace: true, Put: records(t, 15, 30)})
	if want := (Summary{Added: 10, Withdrawn: 10, Unchanged: 10, Records: 20}); !cmp.Equal(want, sum) {
		t.Errorf("replaced: %+v", sum)
	}
	if got, err := b.store.Record("r-000005"); got != nil || err != nil {
		t.Errorf("what the update did not have is still there: %v, %v", got, err)
	}
	// A reader that falls silent when it is stopped has not come to the end.
	ctx, stop := context.WithCancel(t.Context())
	_, err = b.store.Take(ctx, Origin{}, func(yield func(Batch, error) bool) {
		_ = yield(Batch{Replace: true, Put: records(t, 0, 1)}, nil)
		stop()
	}, nil)
	if !errors.Is(err, context.Canceled) || b.store.Records() != 20 {
		t.Errorf("an update that was stopped took the place of the list: %d records, %v", b.store.Records(), err)
	}
	if _, err := b.store.Take(t.Context(), Origin{}, updateOf(nil, Batch{Put: records(t, 0, 1)}, Batch{Replace: true}), nil); err == nil {
		t.Error("an update that is of both kinds was taken")
	}
}

func TestABatchIsTakenWithItsCheckpointBeforeTheNext(t *testing.T) {
	b := newBench(t)
	failed := errors.New("the connection broke")
	sum, err := b.store.Take(t.Context(), Origin{}, func(yield func(Batch, error) bool) {
		_ = yield(Batch{Put: records(t, 0, 5), Checkpoint: "after 5"}, nil)
		if got := b.store.Checkpoint(); got != "after 5" {
			t.Errorf("the next batch was asked for at checkpoint %q", got)
		}
		_ = yield(Batch{Put: records(t, 5, 7)}, nil)
		yield(Batch{}, failed)
	}, nil)
	if !errors.Is(err, failed) || sum.Added != 7 {
		t.Fatalf("%+v, %v", sum, err)
	}
	b.reopen()
	if b.store.Records() != 7 || b.store.Checkpoint() != "after 5" {
		t.Errorf("%d records, checkpoint %q", b.store.Records(), b.store.Checkpoint())
	}
}

// TestBaseAndDeltaAreWhatARebuildWouldBe follows a list through random updates and holds what scanners load to the records.
func TestBaseAndDeltaAreWhatARebuildWouldBe(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 11))
	b := newBench(t)
	model := make(map[string]Record)
	var inForce *Loaded
	deltas, bases := 0, 0
	base := ""
	for turn := range 60 {
		batch := Batch{Replace: r.IntN(8) == 0}
		n := r.IntN(300)
		if turn == 0 {
			n = 2000
		}
		if batch.Replace {
			for id := range model {
				if r.IntN(50) > 0 {
					batch.Put = append(batch.Put, model[id])
				}
			}
			clear(model)
			for _, rec := range batch.Put {
				model[rec.ID] = rec
			}
		}
		for range n {
			rec := record(t, r.IntN(2500), r.IntN(4))
			batch.Put = append(batch.Put, rec)
			model[rec.ID] = rec
		}
		for range n / 3 {
			id := fmt.Sprintf("r-%06d", r.IntN(2500))
			batch.Delete = append(batch.Delete, id)
			delete(model, id)
		}
		b.take(batch)
		if r.IntN(4) == 0 {
			b.reopen()
		}
		if r.IntN(3) == 0 {
			continue // several updates in one snapshot
		}
		m := b.publish().Manifest
		if m.Base.Name == base {
			deltas++
		} else {
			bases++
		}
		base = m.Base.Name
		if r.IntN(3) == 0 {
			inForce = nil // a process that starts
		}
		inForce = b.load(inForce)
		if diff := cmp.Diff(entriesOfRecords(maps.Values(model)), entries(inForce.Set)); diff != "" {
			t.Fatalf("turn %d, %s (-records +in force):\n%s", turn, m, diff)
		}
		if inForce.Lists[0].Manifest.Records != len(model) {
			t.Fatalf("turn %d: %d records, want %d", turn, inForce.Lists[0].Manifest.Records, len(model))
		}
	}
	if deltas < 5 || bases < 3 {
		t.Errorf("%d snapshots with the base before, %d with a new one: too few of a kind to tell", deltas, bases)
	}
}

func TestNothingNewMakesNoSnapshot(t *testing.T) {
	b := newBench(t)
	b.put(records(t, 0, 10)...)
	first := b.publish()
	b.put(records(t, 0, 10)...)
	if again := b.publish(); !again.Same || again.Manifest.Digest() != first.Manifest.Digest() {
		t.Errorf("made %v, %v", again, again.Manifest)
	}
	b.pub.Settings.Category = "csam"
	if again := b.publish(); again.Same || again.Manifest.Settings == "" || again.Manifest.Base != first.Manifest.Base {
		t.Errorf("other settings made %v", again.Manifest)
	}
}

func TestWhatHasNotChangedIsSharedWithWhatIsInForce(t *testing.T) {
	b := newBench(t)
	b.put(records(t, 0, 2000)...)
	b.publish()
	one := b.load(nil)
	two := b.load(one)
	if one.snapshots["ours"] != two.snapshots["ours"] {
		t.Error("an unchanged list was loaded again")
	}
	b.put(record(t, 5000, 0))
	b.publish()
	three := b.load(two)
	if three.snapshots["ours"].files.base != one.snapshots["ours"].files.base {
		t.Error("the base was opened again for a delta")
	}
	opt := b.options()
	opt.Settings = map[string]Settings{"ours": {Category: "ncii", Thresholds: map[hashdb.Kind]int{hashdb.PDQ: 10}}}
	four, err := Load(opt, three)
	if err != nil {
		t.Fatal(err)
	}
	if four.snapshots["ours"].files != three.snapshots["ours"].files {
		t.Error("files were opened again for other settings")
	}
	if got := four.Set.Thresholds("ours")[hashdb.PDQ]; got != 10 {
		t.Errorf("threshold %d", got)
	}
	uncategorized := record(t, 5000, 0)
	if got := four.Set.Match(hashdb.Query{Hashes: uncategorized.Hashes[:1]}).Matches; len(got) != 1 || got[0].Category != "ncii" {
		t.Errorf("category of an entry that names none: %v", got)
	}
}

// refusedLoad makes sure that a load refuses the list for a reason, and that what was in force stays.
func refusedLoad(t *testing.T, opt Options, before *Loaded, want error, text string) {
	t.Helper()
	l, err := Load(opt, before)
	if err != nil {
		t.Fatalf("nothing was loaded: %v", err)
	}
	got := l.Err()
	if got == nil {
		t.Fatal("taken")
	}
	if want != nil && !errors.Is(got, want) || !strings.Contains(got.Error(), text) {
		t.Errorf("refused with %v, want %v, %q", got, want, text)
	}
	if before == nil {
		if l.Set != nil {
			t.Error("a list at fault is in force")
		}
		return
	}
	if diff := cmp.Diff(before.Versions(), l.Versions()); diff != "" {
		t.Errorf("in force (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(entries(before.Set), entries(l.Set)); diff != "" {
		t.Errorf("in force (-before +after):\n%s", diff)
	}
}

func copyDir(t testing.TB, from string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

// restore puts the files of a folder back as they were in a copy.
func restore(t testing.TB, dir, from string) {
	t.Helper()
	for _, d := range []string{dir} {
		found, err := os.ReadDir(d)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			if err := os.RemoveAll(filepath.Join(d, f.Name())); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

func TestAnOlderSnapshotIsRefused(t *testing.T) {
	b := newBench(t)
	b.put(records(t, 0, 10)...)
	b.publish()
	old := copyDir(t, b.dir)
	opt := b.options()
	opt.Seen = filepath.Join(t.TempDir(), "seen")
	before, err := Load(opt, nil)
	if err != nil || before.Err() != nil {
		t.Fatal(err, before.Err())
	}
	b.put(records(t, 10, 12)...)
	b.publish()
	l, err := Load(opt, before)
	if err != nil || l.Err() != nil {
		t.Fatal(err, l.Err())
	}
	now := copyDir(t, b.dir)
	restore(t, b.dir, old)
	refusedLoad(t, opt, l, ErrRollback, "number 1, and 2 was in force")
	// And by a process that starts and has only the file.
	refusedLoad(t, opt, nil, ErrRollback, "number 1, and 2 was in force")

	// One that keeps quiet about what it follows could follow anything.
	m := readable(filepath.Join(b.dir, "ours.manifest"))
	m.Number, m.Past = 3, nil
	if err := os.WriteFile(filepath.Join(b.dir, "ours.manifest"), unsigned(m), 0o600); err != nil {
		t.Fatal(err)
	}
	refusedLoad(t, opt, l, ErrRollback, "does not tell that it follows number 2")
	refusedLoad(t, opt, nil, ErrRollback, "does not tell that it follows number 2")
	restore(t, b.dir, old)

	// Another number 2 is no later one either, nor is a number 3 that follows it.
	b.reopen()
	b.put(records(t, 20, 22)...)
	b.publish()
	refusedLoad(t, opt, l, ErrRollback, "another number 2")
	refusedLoad(t, opt, nil, ErrRollback, "another number 2")
	b.put(records(t, 22, 24)...)
	b.publish()
	refusedLoad(t, opt, l, ErrRollback, "follows another number 2")
	refusedLoad(t, opt, nil, ErrRollback, "follows another number 2")

	restore(t, b.dir, now)
	if again, err := Load(opt, nil); err != nil || again.Err() != nil {
		t.Errorf("the one that was in force: %v, %v", err, again.Err())
	}
}

func TestAListWhoseManifestIsGoneStays(t *testing.T) {
	b := newBench(t)
	b.put(records(t, 0, 10)...)
	b.publish()
	opt := b.options()
	opt.Seen = filepath.Join(t.TempDir(), "seen")
	l, err := Load(opt, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(b.dir, "ours.manifest")); err != nil {
		t.Fatal(err)
	}
	refusedLoad(t, opt, l, nil, "its manifest is gone")
	fresh, err := Load(opt, nil)
	if err != nil || fresh.Err() != nil || fresh.Set != nil {
		t.Fatalf("%v, %v", fresh, err)
	}
	if !slices.ContainsFunc(fresh.Warnings, func(w string) bool { return strings.Contains(w, "ours was in force once") }) {
		t.Errorf("a process that starts says nothing of it: %q", fresh.Warnings)
	}
}

func TestALargeChangeNeedsApproval(t *testing.T) {
	b := newBench(t)
	tight := Bound{Share: 0.1, Floor: 5}
	b.pub.MaxChange = tight
	all := records(t, 0, 100)
	b.take(Batch{Replace: true, Put: all})
	b.publish() // the first is of any size
	opt := b.options()
	opt.MaxChange = tight
	opt.Seen = filepath.Join(t.TempDir(), "seen")
	before, err := Load(opt, nil)
	if err != nil || before.Err() != nil {
		t.Fatal(err, before.Err())
	}

	b.take(Batch{Replace: true, Put: all[:97]})
	b.publish()
	b.take(Batch{Replace: true, Put: all[:40]})
	if _, err := b.store.Publish(t.Context(), b.pub); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("most of the list went: %v", err)
	}
	// Not the next import either, however little that one changes.
	b.reopen()
	b.take(Batch{Replace: true, Put: all[:39]})
	if _, err := b.store.Publish(t.Context(), b.pub); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("most of the list went in two steps: %v", err)
	}
	here := b.load(before)
	if here.Lists[0].Manifest.Number != 2 {
		t.Fatalf("%s is in force", here.Lists[0].Manifest)
	}

	// An importer without bounds does not decide for scanners.
	careless := copyDir(t, b.dir)
	b.pub.MaxChange = wide
	b.publish()
	refusedLoad(t, opt, here, ErrTooLarge, "number 3")
	refusedLoad(t, opt, nil, ErrTooLarge, "number 3")
	b.take(Batch{Put: all[:41]})
	b.publish()
	refusedLoad(t, opt, here, ErrTooLarge, "number 3") // nor with a small change on top

	b.store.Close()
	restore(t, b.dir, careless)
	b.open()
	b.pub.MaxChange, b.pub.Approve = tight, true
	if m := b.publish().Manifest; m.Change.Leave != Approved {
		t.Fatalf("changed %s", m.Change)
	}
	l, err := Load(opt, here)
	if err != nil || l.Err() != nil || l.Lists[0].Manifest.Number != 3 {
		t.Errorf("approved: %v, %v", err, l.Err())
	}
}

func TestAListThatWasNeverCompleteFillsUpWithoutApproval(t *testing.T) {
	b := newBench(t)
	b.pub.MaxChange = Bound{}
	broke := errors.New("broke")
	for i := range 3 {
		_, err := b.store.Take(t.Context(), Origin{}, updateOf(broke, Batch{Put: records(t, 10*i, 10*i+10)}), nil)
		if !errors.Is(err, broke) {
			t.Fatal(err)
		}
		if m := b.publish().Manifest; m.Change.Leave != Filling {
			t.Errorf("changed %s", m.Change)
		}
	}
	b.put(records(t, 30, 40)...)
	if m := b.publish().Manifest; m.Change.Leave != Filling {
		t.Errorf("changed %s", m.Change)
	}
	b.put(records(t, 40, 50)...)
	if _, err := b.store.Publish(t.Context(), b.pub); !errors.Is(err, ErrTooLarge) {
		t.Errorf("after that: %v", err)
	}
}

func TestAManifestThatUnderstatesItsChangeIsRefused(t *testing.T) {
	b := newBench(t)
	b.put(records(t, 0, 100)...)
	b.publish()
	before := b.load(nil)
	var gone []string
	for _, r := range records(t, 0, 50) {
		gone = append(gone, r.ID)
	}
	b.take(Batch{Delete: gone})
	m := b.publish().Manifest
	m.Change.Entries = 1
	if err := os.WriteFile(filepath.Join(b.dir, "ours.manifest"), unsigned(m), 0o600); err != nil {
		t.Fatal(err)
	}
	refusedLoad(t, b.options(), before, ErrTooLarge, "it tells of 1")
}

func TestAManifestThatMiscountsItsFilesIsRefused(t *testing.T) {
	b := newBench(t)
	b.put(records(t, 0, 10)...)
	b.publish()
	before := b.load(nil)
	b.put(record(t, 11, 0))
	m := b.publish().Manifest
	m.Entries[hashdb.SHA256]--
	if err := os.WriteFile(filepath.Join(b.dir, "ours.manifest"), unsigned(m), 0o600); err != nil {
		t.Fatal(err)
	}
	refusedLoad(t, b.options(), nil, nil, "its manifest tells of")
	refusedLoad(t, b.options(), before, nil, "its manifest tells of")
}

func TestRecordsThatWereLostOrRestoredDoNotPassTheBound(t *testing.T) {
	b := newBench(t)
	b.pub.MaxChange = Bound{Share: 0.1}
	b.put(records(t, 0, 100)...)
	b.publish()
	backup := copyDir(t, b.dir)
	b.put(records(t, 100, 105)...)
	number := b.publish().Manifest.Number
	b.store.Close()

	// The records of an older time beside the snapshot of now: the difference is measured against its files.
	old, err := os.ReadFile(filepath.Join(backup, "ours.records"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "ours.records"), old, 0o600); err != nil {
		t.Fatal(err)
	}
	b.open()
	m := b.publish().Manifest
	want := len(entriesOfRecords(slices.Values(records(t, 100, 105))))
	if m.Number != number+1 || m.Change.Entries != want {
		t.Errorf("%s changed %s, want %d entries of number %d", m, m.Change, want, number+1)
	}
	b.store.Close()
	if err := os.Remove(filepath.Join(b.dir, "ours.records")); err != nil {
		t.Fatal(err)
	}
	b.open()
	b.put(records(t, 0, 3)...)
	if _, err := b.store.Publish(t.Context(), b.pub); !errors.Is(err, ErrTooLarge) {
		t.Errorf("records that were lost empty the list: %v", err)
	}
}

func TestAManifestThatWasLostIsFollowedAllTheSame(t *testing.T) {
	for name, lose := range map[string]func(path string, old []byte) error{
		"gone":     func(path string, _ []byte) error { return os.Remove(path) },
		"nonsense": func(path string, _ []byte) error { return os.WriteFile(path, []byte("nonsense"), 0o600) },
		"old":      func(path string, old []byte) error { return os.WriteFile(path, old, 0o600) },
	} {
		b := newBench(t)
		path := filepath.Join(b.dir, "ours.manifest")
		b.put(records(t, 0, 20)...)
		b.publish()
		old, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		first := b.load(nil)
		b.put(records(t, 20, 22)...)
		b.publish()
		second := b.load(first)
		if err := lose(path, old); err != nil {
			t.Fatal(err)
		}
		b.put(records(t, 22, 24)...)
		if m := b.publish().Manifest; m.Number != 3 || len(m.Past) != 2 {
			t.Errorf("%s: %s", name, m.Text())
		}
		for _, before := range []*Loaded{first, second, nil} {
			if diff := cmp.Diff(entriesOfRecords(slices.Values(records(t, 0, 24))), entries(b.load(before).Set)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		}
	}
}

func keyPair(t testing.TB, name string) (note.Signer, string) {
	t.Helper()
	private, public, err := NewKey(name)
	if err != nil {
		t.Fatal(err)
	}
	s, again, err := ParseSigner(private + "\n")
	if err != nil || again != public {
		t.Fatalf("the public half of a key is %q, and %q when it is read: %v", public, again, err)
	}
	return s, public
}

func TestSoManyOfTheKeysMustHaveSigned(t *testing.T) {
	alice, alicePub := keyPair(t, "alice")
	bob, bobPub := keyPair(t, "bob")
	mallory, _ := keyPair(t, "mallory")
	_, otherAlice := keyPair(t, "alice")
	carol, carolPub := keyPair(t, "carol")
	b := newBench(t)
	trust := Trust{Keys: []string{alicePub, bobPub, carolPub}, Signatures: 2}
	opt := b.options()
	opt.Trust = trust

	b.put(records(t, 0, 10)...)
	b.publish()
	refusedLoad(t, opt, nil, ErrUnsigned, "0 of 2")
	sign := func(signers ...note.Signer) *Published {
		t.Helper()
		p, err := AddSignatures(b.dir, "ours", Trust{}, signers...)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	sign(mallory)
	sign(alice)
	sign(alice)
	refusedLoad(t, opt, nil, ErrUnsigned, "1 of 2")
	sign(carol)
	l, err := Load(opt, nil)
	if err != nil || l.Err() != nil {
		t.Fatal(err, l.Err())
	}
	if diff := cmp.Diff([]string{"alice", "carol"}, l.Lists[0].Signers); diff != "" {
		t.Errorf("signed by (-want +got):\n%s", diff)
	}
	if len(l.Warnings) > 0 {
		t.Errorf("warnings %q", l.Warnings)
	}
	if got := b.load(nil).Warnings; len(got) != 1 || !strings.Contains(got[0], "no keys") {
		t.Errorf("without keys: %q", got)
	}

	// An importer that knows the keys keeps the snapshot aside until there are enough.
	b.pub.Trust, b.pub.Signers = trust, []note.Signer{alice}
	b.put(records(t, 10, 12)...)
	if p := b.publish(); !p.Waits {
		t.Fatal("one signature of two is enough")
	}
	same, err := Load(opt, l)
	if err != nil || same.Err() != nil || same.snapshots["ours"] != l.snapshots["ours"] {
		t.Fatalf("what waits disturbs what is in force: %v, %v", err, same.Err())
	}
	signTrusted := func(s note.Signer) *Published {
		t.Helper()
		p, err := AddSignatures(b.dir, "ours", trust, s)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	waits := b.store.meta.Intent.Digest
	b.put(records(t, 10, 12)...)
	if p := b.publish(); !p.Waits || !p.Same || p.Manifest.Digest() != waits {
		t.Errorf("the same records again made another snapshot to sign: %+v", p)
	}
	if p := signTrusted(mallory); !p.Waits {
		t.Fatal("a stranger's signature counts")
	}
	if p := signTrusted(bob); p.Waits {
		t.Fatal("two signatures of two are not enough")
	}
	two, err := Load(opt, l)
	if err != nil || two.Err() != nil || two.Lists[0].Manifest.Number != 2 {
		t.Fatal(err, two.Err())
	}
	// The next import knows that it came to be, be it by the same process or another.
	here := copyDir(t, b.dir)
	b.put(record(t, 50, 0))
	if m := b.publish().Manifest; m.Change.Entries == 0 || m.Change.Of != two.Lists[0].Manifest.Total() || m.Number != 3 || m.Base != two.Lists[0].Manifest.Base {
		t.Errorf("by the same process: %s", m.Text())
	}
	b.store.Close()
	restore(t, b.dir, here)
	b.open()
	b.put(record(t, 50, 0))
	p := b.publish()
	if p.Manifest.Number != 3 || p.Manifest.Past[0].Digest != two.Lists[0].Manifest.Digest() || p.Manifest.Base != two.Lists[0].Manifest.Base {
		t.Errorf("the next snapshot is %s", p.Manifest.Text())
	}
	if m := p.Manifest.Change; m.Entries != len(record(t, 50, 0).Hashes) {
		t.Errorf("changed %s", m)
	}

	for name, keys := range map[string][]string{
		"the same key twice": {alicePub, bobPub, alicePub}, "no key": {alicePub, "x", bobPub}, "one of them": {alicePub}, "a name twice": {alicePub, otherAlice},
	} {
		if err := (Trust{Keys: keys, Signatures: 2}).Validate(); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestASnapshotThatWaitsWhileRecordsChangeIsStillFollowedRightly(t *testing.T) {
	alice, alicePub := keyPair(t, "alice")
	b := newBench(t)
	b.pub.MaxChange = Bound{Floor: 20}
	b.put(records(t, 0, 100)...)
	b.publish()
	b.pub.Trust = Trust{Keys: []string{alicePub}, Signatures: 1}
	b.put(records(t, 100, 102)...)
	b.publish()
	b.put(records(t, 102, 104)...) // and then the importer is killed before it makes a snapshot of these
	b.reopen()
	if _, err := AddSignatures(b.dir, "ours", b.pub.Trust, alice); err != nil {
		t.Fatal(err)
	}
	b.reopen()
	b.pub.Trust = Trust{}
	m := b.publish().Manifest
	want := len(entriesOfRecords(slices.Values(records(t, 102, 104))))
	if m.Number != 3 || m.Change.Entries != want {
		t.Errorf("%s changed %s, want %d entries", m, m.Change, want)
	}
	if diff := cmp.Diff(entriesOfRecords(slices.Values(records(t, 0, 104))), entries(b.load(nil).Set)); diff != "" {
		t.Errorf("in force (-want +got):\n%s", diff)
	}
}

func TestWhateverIsTamperedWithIsRefusedAndTheLastGoodStays(t *testing.T) {
	alice, alicePub := keyPair(t, "alice")
	b := newBench(t)
	b.pub.Signers = []note.Signer{alice}
	b.put(records(t, 0, 50)...)
	b.publish()
	opt := b.options()
	opt.Trust = Trust{Keys: []string{alicePub}, Signatures: 1}
	before, err := Load(opt, nil)
	if err != nil || before.Err() != nil {
		t.Fatal(err, before.Err())
	}
	var gone []string
	for _, r := range records(t, 0, 40) {
		gone = append(gone, r.ID)
	}
	b.take(Batch{Put: records(t, 100, 110), Delete: gone})
	m := b.publish().Manifest
	good := copyDir(t, b.dir)
	files := map[string]string{"manifest": "ours.manifest", "base": m.Base.Name, "delta": m.Delta.Name}
	for what, name := range files {
		data, err := os.ReadFile(filepath.Join(good, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []int{0, len(data) / 3, len(data) / 2, len(data) - 2} {
			restore(t, b.dir, good)
			bad := slices.Clone(data)
			bad[at] ^= 1
			if err := os.WriteFile(filepath.Join(b.dir, name), bad, 0o600); err != nil {
				t.Fatal(err)
			}
			if what == "base" {
				// Of the snapshot in force it is mapped already; who starts has to read it.
				refusedLoad(t, opt, nil, nil, "SHA-256")
				continue
			}
			refusedLoad(t, opt, before, nil, "")
		}
		restore(t, b.dir, good)
		if err := os.WriteFile(filepath.Join(b.dir, name), data[:len(data)/2], 0o600); err != nil {
			t.Fatal(err)
		}
		refusedLoad(t, opt, nil, nil, "")
		if err := os.Remove(filepath.Join(b.dir, name)); err != nil {
			t.Fatal(err)
		}
		if what != "manifest" {
			refusedLoad(t, opt, nil, os.ErrNotExist, "")
		}
	}
	restore(t, b.dir, good)
	if l, err := Load(opt, before); err != nil || l.Err() != nil {
		t.Errorf("as it was written: %v, %v", err, l.Err())
	}
	// The name of one list does not lead to the files of another.
	data, err := os.ReadFile(filepath.Join(b.dir, "ours.manifest"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "theirs.manifest"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := Load(opt, nil)
	if err != nil || len(l.Faults) != 1 || l.Faults[0].List != "theirs" || l.Versions()["ours"] == "" {
		t.Errorf("a copy under another name: %v, %v", l, err)
	}
}

func TestOneBadListDoesNotKeepTheOthersBack(t *testing.T) {
	b := newBench(t)
	b.put(records(t, 0, 10)...)
	b.publish()
	other, err := OpenStore(b.dir, "other")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	grow := func(from, to int) {
		t.Helper()
		if _, err := other.Take(t.Context(), Origin{}, updateOf(nil, Batch{Put: records(t, from, to)}), nil); err != nil {
			t.Fatal(err)
		}
		if _, err := other.Publish(t.Context(), b.pub); err != nil {
			t.Fatal(err)
		}
	}
	grow(100, 110)
	csv := "kind,hash,entry,category\nmd5,0123456789abcdef0123456789abcdef,c-1,\n"
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("plain.csv", csv)
	one := b.load(nil)
	if len(one.Lists) != 3 || one.Lists[2].Name != "plain" {
		t.Fatalf("in force: %v", one.Versions())
	}
	grow(110, 120)
	write("ours.manifest", "nonsense")
	write("second.csv", "kind\n")
	two, err := Load(b.options(), one)
	if err != nil {
		t.Fatal(err)
	}
	if len(two.Faults) != 2 || two.Faults[0].List != "ours" || two.Faults[0].Kept != one.Versions()["ours"] || !strings.Contains(two.Faults[1].Error(), "second.csv:1") {
		t.Errorf("faults: %v", two.Err())
	}
	was, is := one.Versions(), two.Versions()
	if is["ours"] != was["ours"] || is["plain"] != was["plain"] || !strings.HasPrefix(is["other"], "2-") {
		t.Errorf("in force: %v", is)
	}
	h, err := hashdb.ParseHash(hashdb.MD5, "0123456789abcdef0123456789abcdef")
	if err != nil {
		t.Fatal(err)
	}
	if got := two.Set.Match(hashdb.Query{Hashes: []hashdb.Hash{h}}); len(got.Matches) != 1 {
		t.Errorf("the CSV list matches %v", got)
	}
	// A CSV file does not take the place of a snapshot.
	if err := os.Remove(filepath.Join(b.dir, "second.csv")); err != nil {
		t.Fatal(err)
	}
	write("other.csv", csv)
	three, err := Load(b.options(), two)
	if err != nil || !strings.Contains(fmt.Sprint(three.Err()), "other.csv") || three.Versions()["other"] != is["other"] {
		t.Errorf("%v, %v", err, three.Err())
	}
}

func TestOneProcessIsAtWorkOnAList(t *testing.T) {
	b := newBench(t)
	if _, err := OpenStore(b.dir, "ours"); !errors.Is(err, ErrInUse) {
		t.Errorf("opened twice: %v", err)
	}
	for _, name := range []string{"", ".hidden", "a/b", "a@1", "ä", strings.Repeat("x", 65), "a b"} {
		if _, err := OpenStore(b.dir, name); err == nil {
			t.Errorf("%q is a name of a list", name)
		}
	}
}

func TestFilesThatNoSnapshotNeedsGo(t *testing.T) {
	b := newBench(t)
	b.put(records(t, 0, 10)...)
	for i := range 5 {
		b.put(record(t, 100+i, 0))
		b.publish()
	}
	deltas, err := filepath.Glob(filepath.Join(b.dir, "*.delta"))
	if err != nil || len(deltas) != 2 {
		t.Errorf("deltas: %v, %v", deltas, err)
	}
	manifests, err := filepath.Glob(filepath.Join(b.dir, "ours@*.manifest"))
	if err != nil || len(manifests) != 4 {
		t.Errorf("earlier manifests: %v, %v", manifests, err)
	}
}
