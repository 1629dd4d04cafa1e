package lists

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/dmguard/dmguard/hashdb"
)

// Store is the records of one list, in the file NAME.records of a folder, from which its snapshots are made. A record stays until
// its owner withdraws it. One process has a store open at a time; its methods are not for several goroutines at once.
//
// Each batch of an update is in the file before the next one is asked for, together with its checkpoint, so that an
// import that was killed goes on where it was.
type Store struct {
	dir, name string
	db        *bbolt.DB
	meta      meta
	step      func(string) // for tests: called before each step that a crash may come between
}

// Origin says where an update comes from.
type Origin struct {
	Source string // such as a file's name, up to 256 bytes that print
	Format string
}

// Summary is what an update did.
type Summary struct {
	Added     int       `json:"added"`
	Changed   int       `json:"changed"`
	Withdrawn int       `json:"withdrawn"`
	Unchanged int       `json:"unchanged"`
	Records   int       `json:"records"`  // of the list now
	Refused   int       `json:"refused"`  // records and hashes of this update
	Refusals  []Refusal `json:"refusals"` // the first [MostRefusals] of these
}

// MostRefusals is how many refusals a summary and a store tell of. More are counted.
const MostRefusals = 1000

func (s *Summary) refuse(r Refusal) {
	s.Refused++
	if len(s.Refusals) < MostRefusals {
		s.Refusals = append(s.Refusals, r)
	}
}

// meta is what is known of the records as a whole. It changes in the transactions in which they do.
type meta struct {
	Version    int    `json:"version"`
	Generation int    `json:"generation"` // of the bucket that the records are in
	Checkpoint string `json:"checkpoint,omitzero"`
	// Complete says that an update has come to its end once, since when the list is no part of one.
	Complete bool                `json:"complete,omitzero"`
	Updated  time.Time           `json:"updated,omitzero"` // when an update came to its end last
	Records  int                 `json:"records"`
	Entries  map[hashdb.Kind]int `json:"entries,omitempty"`
	Refused  int                 `json:"refused"` // hashes of records that are here
	// Published is the snapshot that buckets since and touched look back to; Intent one that may have been put in place.
	Published *published `json:"published,omitempty"`
	Intent    *published `json:"intent,omitempty"`
}

type published struct {
	Number int    `json:"number"`
	Digest string `json:"digest"`
	Base   string `json:"base"` // its file
	// Change and Past are those of its manifest, in case that is lost.
	Change Change `json:"change"`
	Past   []Past `json:"past,omitempty"`
	// Complete says that an update of the list had come to its end by then.
	Complete bool `json:"complete,omitzero"`
	// Stale says, of an intent, that records have changed since.
	Stale bool `json:"stale,omitzero"`
}

// outdate is called where records change. A snapshot that waits for signatures was made of other records.
func (m *meta) outdate() {
	if m.Intent != nil {
		stale := *m.Intent
		stale.Stale = true
		m.Intent = &stale
	}
}

func (m *meta) clone() meta {
	out := *m
	out.Entries = maps.Clone(m.Entries)
	if out.Entries == nil {
		out.Entries = make(map[hashdb.Kind]int)
	}
	return out
}

const storeVersion = 1

// Buckets. Those that an update replaces have their generation behind the name.
var (
	metaBucket    = []byte("meta")
	metaKey       = []byte("meta")
	sinceBucket   = []byte("since")   // by ID, the head that a record had in the published snapshot, where it was touched since
	touchedBucket = []byte("touched") // the same of the snapshot's base
)

func recordsBucket(generation int) []byte { return []byte("records " + strconv.Itoa(generation)) }

// refusedBucket has the records that were refused as a whole, by a digest of their ID.
func refusedBucket(generation int) []byte { return []byte("refused " + strconv.Itoa(generation)) }

// ErrInUse says that another process has the store open.
var ErrInUse = errors.New("another process is at work on the list")

// OpenStore opens the records of a list, or begins them.
func OpenStore(dir, name string) (*Store, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	s := &Store{dir: dir, name: name, step: func(string) {}}
	var err error
	s.db, err = bbolt.Open(filepath.Join(dir, name+recordsSuffix), 0o600, &bbolt.Options{
		Timeout: time.Second, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType,
	})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("open list %s: %w", name, ErrInUse)
	case err != nil:
		return nil, fmt.Errorf("open list %s: %w", name, err)
	}
	if err := s.begin(); err != nil {
		return nil, errors.Join(fmt.Errorf("open list %s: %w", name, err), s.db.Close())
	}
	return s, nil
}

// Close closes the file.
func (s *Store) Close() error { return s.db.Close() }

func (s *Store) begin() error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		for _, b := range [][]byte{metaBucket, sinceBucket, touchedBucket} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		value := tx.Bucket(metaBucket).Get(metaKey)
		if value == nil {
			s.meta = meta{Version: storeVersion}
		} else if err := json.Unmarshal(value, &s.meta); err != nil {
			return fmt.Errorf("%w: %w", errStored, err)
		}
		if s.meta.Version != storeVersion {
			return fmt.Errorf("%w: version %d, this program writes %d", errStored, s.meta.Version, storeVersion)
		}
		s.meta = s.meta.clone()
		for _, b := range [][]byte{recordsBucket(s.meta.Generation), refusedBucket(s.meta.Generation)} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		if err := dropStaging(tx, s.meta.Generation); err != nil {
			return err
		}
		if err := s.settle(tx, &s.meta); err != nil {
			return err
		}
		return s.write(tx, &s.meta)
	})
}

// dropStaging removes what an update that was to replace the list has left behind.
func dropStaging(tx *bbolt.Tx, generation int) error { return dropGeneration(tx, generation+1) }

func dropGeneration(tx *bbolt.Tx, generation int) error {
	for _, b := range [][]byte{recordsBucket(generation), refusedBucket(generation)} {
		if err := tx.DeleteBucket(b); err != nil && !errors.Is(err, berrors.ErrBucketNotFound) {
			return err
		}
	}
	return nil
}

func (s *Store) write(tx *bbolt.Tx, m *meta) error {
	value, err := json.Marshal(m, json.Deterministic(true))
	if err != nil {
		return err
	}
	return tx.Bucket(metaBucket).Put(metaKey, value)
}

// settle finds out whether a snapshot that was about to be put in place was, by this process or by whoever signed it last.
func (s *Store) settle(tx *bbolt.Tx, m *meta) error {
	if m.Intent == nil {
		return nil
	}
	current, err := s.current()
	if err != nil || current == nil || current.Digest() != m.Intent.Digest {
		return nil //nolint:nilerr // whatever is in its place, it is not that one
	}
	return s.settled(tx, m)
}

// settled takes a snapshot that is in place for the one that later changes are counted from.
func (s *Store) settled(tx *bbolt.Tx, m *meta) error {
	if m.Intent.Stale {
		// What has changed since then cannot be told from what had changed before.
		m.Published, m.Intent = nil, nil
		return nil
	}
	buckets := [][]byte{sinceBucket}
	if m.Published == nil || m.Published.Base != m.Intent.Base {
		buckets = append(buckets, touchedBucket)
	}
	for _, b := range buckets {
		if err := tx.DeleteBucket(b); err != nil {
			return err
		}
		if _, err := tx.CreateBucket(b); err != nil {
			return err
		}
	}
	m.Published, m.Intent = m.Intent, nil
	return nil
}

// current reads the manifest that is in place, whoever signed it; nil where there is none.
func (s *Store) current() (*Manifest, error) {
	data, err := readManifest(filepath.Join(s.dir, s.name+manifestSuffix))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	text, _, err := split(data)
	if err != nil {
		return nil, err
	}
	return ParseManifest(text)
}

// Checkpoint returns where the next update can go on, or "".
func (s *Store) Checkpoint() string { return s.meta.Checkpoint }

// Records is how many records there are.
func (s *Store) Records() int { return s.meta.Records }

// change is one transaction.
type change struct {
	tx      *bbolt.Tx
	meta    meta
	records *bbolt.Bucket
	origin  Origin
	now     time.Time
	summary *Summary
	// old are the records that those of an update would replace as a whole; nil where it goes on from them.
	old *bbolt.Bucket
}

// Take takes an update. Whether or not it is nil, the error comes with what was taken before it: the batches
// up to there, or nothing where the update was to replace the list. progress, unless it is nil, is told how many records have
// gone by.
func (s *Store) Take(ctx context.Context, origin Origin, update Update, progress func(records int)) (Summary, error) {
	var total Summary
	for _, text := range []string{origin.Source, origin.Format} {
		if err := hashdb.Printable(text); err != nil {
			return total, fmt.Errorf("update list %s: source or format %q: %w", s.name, clip(text), err)
		}
	}
	if progress == nil {
		progress = func(int) {}
	}
	if s.meta.Intent != nil { // before records change
		if err := s.update(s.settle); err != nil {
			return total, fmt.Errorf("update list %s: %w", s.name, err)
		}
	}
	now := time.Now().UTC().Truncate(time.Second)
	total, err := s.take(ctx, origin, update, progress, now)
	total.Records = s.meta.Records
	if err != nil {
		return total, fmt.Errorf("update list %s: %w", s.name, err)
	}
	return total, nil
}

func (s *Store) take(ctx context.Context, origin Origin, update Update, progress func(records int), now time.Time) (Summary, error) {
	var total, staged Summary
	staging := false
	var stage meta
	seen := 0
	for batch, err := range update {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil && seen > 0 && batch.Replace != staging {
			err = errors.New("some batches of the update replace the list and some do not")
		}
		if err != nil {
			return total, errors.Join(err, s.unstage(staging))
		}
		if seen == 0 && batch.Replace {
			staging = true
			stage = meta{Version: storeVersion, Generation: s.meta.Generation + 1, Entries: make(map[hashdb.Kind]int)}
		}
		seen++
		if staging {
			err = s.stage(&batch, &stage, &staged, origin, now)
		} else {
			err = s.batch(&batch, &total, origin, now)
		}
		if err != nil {
			return total, errors.Join(err, s.unstage(staging))
		}
		progress(total.gone() + staged.gone())
	}
	if err := ctx.Err(); err != nil { // then the update may have ended because of that
		return total, errors.Join(err, s.unstage(staging))
	}
	if staging {
		done, err := s.replace(&stage, staged, now)
		if err != nil {
			return total, errors.Join(err, s.unstage(true))
		}
		return done, nil
	}
	return total, s.update(func(tx *bbolt.Tx, m *meta) error {
		m.Complete, m.Updated = true, now
		return nil
	})
}

// gone is how many records have gone by.
func (s *Summary) gone() int { return s.Added + s.Changed + s.Unchanged + s.Withdrawn }

// update changes the file and what is known of it together.
func (s *Store) update(f func(tx *bbolt.Tx, m *meta) error) error {
	next := s.meta.clone()
	err := s.db.Update(func(tx *bbolt.Tx) error {
		if err := f(tx, &next); err != nil {
			return err
		}
		return s.write(tx, &next)
	})
	if err == nil {
		s.meta = next
	}
	return err
}

// batch takes a batch of an update that goes on from what is there.
func (s *Store) batch(b *Batch, total *Summary, origin Origin, now time.Time) error {
	sum := *total
	err := s.update(func(tx *bbolt.Tx, m *meta) error {
		c := change{tx: tx, meta: *m, records: tx.Bucket(recordsBucket(m.Generation)), origin: origin, now: now, summary: &sum}
		for i := range b.Put {
			if err := c.put(&b.Put[i]); err != nil {
				return err
			}
		}
		for _, id := range b.Delete {
			if err := c.delete(id); err != nil {
				return err
			}
		}
		for _, skipped := range b.Skipped {
			if err := c.skip(skipped); err != nil {
				return err
			}
		}
		*m = c.meta
		if b.Checkpoint != "" {
			m.Checkpoint = b.Checkpoint
		}
		if sum.Added+sum.Changed+sum.Withdrawn > total.Added+total.Changed+total.Withdrawn {
			m.outdate()
		}
		return nil
	})
	if err == nil {
		*total = sum
	}
	return err
}

// put puts a record where there may be one.
func (c *change) put(r *Record) error {
	refused := refusals{c.tx.Bucket(refusedBucket(c.meta.Generation))}
	if why := r.check(); why != "" {
		c.summary.refuse(Refusal{ID: clip(r.ID), Reason: why})
		return refused.remember(r.ID, why)
	}
	if err := refused.forget(r.ID); err != nil {
		return err
	}
	key := []byte(r.ID)
	old := c.records.Get(key)
	from := old
	if c.old != nil && old == nil {
		from = c.old.Get(key)
	}
	first := c.now
	if from != nil {
		var err error
		if first, err = firstSeen(from); err != nil {
			return fmt.Errorf("record %q: %w", clip(r.ID), err)
		}
	}
	value, unfit, err := r.store(c.origin, first, c.now)
	if err != nil {
		return err
	}
	for _, u := range unfit {
		c.summary.refuse(u)
	}
	switch {
	case from == nil:
		c.summary.Added++
	case sameRecord(from, value):
		c.summary.Unchanged++
	default:
		c.summary.Changed++
	}
	if err := c.count(old, -1); err != nil {
		return err
	}
	if err := c.count(value, 1); err != nil {
		return err
	}
	if c.old == nil {
		if err := c.touch(key, old, value); err != nil {
			return err
		}
	}
	return c.records.Put(key, value)
}

// skip tells of what a source held that could not be read. Where the list is being replaced, what it held under that
// ID is taken over: not to be readable is not to be withdrawn.
func (c *change) skip(s Skip) error {
	c.summary.refuse(Refusal{ID: clip(s.ID), Reason: clip(s.Reason)})
	if c.old == nil || s.ID == "" || len(s.ID) > mostText {
		return nil
	}
	key := []byte(s.ID)
	value := bytes.Clone(c.old.Get(key))
	if value == nil || c.records.Get(key) != nil {
		return nil
	}
	c.summary.Unchanged++
	if err := c.count(value, 1); err != nil {
		return err
	}
	return c.records.Put(key, value)
}

func (c *change) delete(id string) error {
	key := []byte(id)
	if id == "" || len(id) > mostText {
		return nil // no record has such an ID
	}
	if err := (refusals{c.tx.Bucket(refusedBucket(c.meta.Generation))}).forget(id); err != nil {
		return err
	}
	old := c.records.Get(key)
	if old == nil {
		return nil
	}
	c.summary.Withdrawn++
	if err := c.count(old, -1); err != nil {
		return err
	}
	if c.old == nil {
		if err := c.touch(key, old, nil); err != nil {
			return err
		}
	}
	return c.records.Delete(key)
}

// count adds a record to what is known of all, or takes it away.
func (c *change) count(value []byte, n int) error {
	if value == nil {
		return nil
	}
	top, _, text, err := parts(value)
	if err != nil {
		return err
	}
	c.meta.Records += n
	entries, err := entriesOf("", top)
	if err != nil {
		return err
	}
	for _, e := range entries {
		c.meta.Entries[e.Hash.Kind()] += n
	}
	if bytes.Contains(text, []byte(`"refused":`)) {
		var tail rest
		if err := json.Unmarshal(text, &tail); err != nil {
			return fmt.Errorf("%w: %w", errStored, err)
		}
		c.meta.Refused += n * len(tail.Refused)
	}
	return nil
}

// touch remembers what the entries of a record were in the snapshot and in its base.
func (c *change) touch(key, old, value []byte) error {
	if c.meta.Published == nil {
		return nil // there is nothing to look back to
	}
	before, err := headOf(old)
	if err != nil {
		return err
	}
	after, err := headOf(value)
	if err != nil || bytes.Equal(before, after) {
		return err
	}
	for _, name := range [][]byte{sinceBucket, touchedBucket} {
		b := c.tx.Bucket(name)
		if b.Get(key) != nil {
			continue
		}
		if err := b.Put(key, append([]byte{0}, before...)); err != nil { // a value that is there is not empty
			return err
		}
	}
	return nil
}

// refusals are the records that were refused as a whole.
type refusals struct{ *bbolt.Bucket }

func (r refusals) key(id string) []byte {
	sum := sha256.Sum256([]byte(id))
	return sum[:16]
}

func (r refusals) remember(id, why string) error {
	value, err := json.Marshal(Refusal{ID: clip(id), Reason: why})
	if err != nil {
		return err
	}
	return r.Put(r.key(id), value)
}

func (r refusals) forget(id string) error { return r.Delete(r.key(id)) }

// stage takes a batch of an update that is to replace the list, beside it.
func (s *Store) stage(b *Batch, stage *meta, sum *Summary, origin Origin, now time.Time) error {
	next, told := stage.clone(), *sum
	err := s.db.Update(func(t *bbolt.Tx) error {
		records, err := t.CreateBucketIfNotExists(recordsBucket(stage.Generation))
		if err != nil {
			return err
		}
		if _, err := t.CreateBucketIfNotExists(refusedBucket(stage.Generation)); err != nil {
			return err
		}
		records.FillPercent = 0.9 // mostly in order, and never changed where it is
		c := change{
			tx: t, meta: next, records: records, origin: origin, now: now, summary: &told,
			old: t.Bucket(recordsBucket(s.meta.Generation)),
		}
		for i := range b.Put {
			if err := c.put(&b.Put[i]); err != nil {
				return err
			}
			for _, skipped := range b.Skipped {
				if err := c.skip(skipped); err != nil {
					return err
				}
			}
		}
		for _, id := range b.Delete {
			if err := c.delete(id); err != nil {
				return err
			}
		}
		next = c.meta
		if b.Checkpoint != "" {
			next.Checkpoint = b.Checkpoint
		}
		return nil
	})
	if err == nil {
		*stage, *sum = next, told
	}
	return err
}

// unstage forgets what was staged.
func (s *Store) unstage(staging bool) error {
	if !staging {
		return nil
	}
	return s.db.Update(func(tx *bbolt.Tx) error { return dropStaging(tx, s.meta.Generation) })
}

// replace puts what was staged in the place of the list.
func (s *Store) replace(stage *meta, staged Summary, now time.Time) (Summary, error) {
	done := Summary{Refused: staged.Refused, Refusals: staged.Refusals}
	s.step("replace")
	err := s.update(func(t *bbolt.Tx, m *meta) error {
		before := t.Bucket(recordsBucket(m.Generation))
		after := t.Bucket(recordsBucket(stage.Generation))
		c := change{tx: t, meta: *m, summary: &done}
		for key, pair := range merge(before, after) {
			switch {
			case pair[0] == nil:
				done.Added++
			case pair[1] == nil:
				done.Withdrawn++
			case sameRecord(pair[0], pair[1]):
				done.Unchanged++
			default:
				done.Changed++
			}
			if err := c.touch(key, pair[0], pair[1]); err != nil {
				return err
			}
		}
		if err := dropGeneration(t, m.Generation); err != nil {
			return err
		}
		if done.Added+done.Changed+done.Withdrawn > 0 {
			m.outdate()
		}
		m.Generation, m.Records, m.Entries, m.Refused = stage.Generation, stage.Records, stage.Entries, stage.Refused
		m.Checkpoint = stage.Checkpoint
		m.Complete, m.Updated = true, now
		return nil
	})
	return done, err
}

// merge yields the keys of two buckets in their order, with the values in each; nil where there is none. They must not be changed
// meanwhile.
func merge(a, b *bbolt.Bucket) iter.Seq2[[]byte, [2][]byte] {
	return func(yield func([]byte, [2][]byte) bool) {
		left, right := a.Cursor(), b.Cursor()
		k, v := left.First()
		l, w := right.First()
		for k != nil || l != nil {
			var order int
			switch {
			case k == nil:
				order = 1
			case l == nil:
				order = -1
			default:
				order = bytes.Compare(k, l)
			}
			var ok bool
			switch {
			case order < 0:
				ok = yield(k, [2][]byte{v, nil})
			case order > 0:
				ok = yield(l, [2][]byte{nil, w})
			default:
				ok = yield(k, [2][]byte{v, w})
			}
			if !ok {
				return
			}
			if order <= 0 {
				k, v = left.Next()
			}
			if order >= 0 {
				l, w = right.Next()
			}
		}
	}
}

// Record returns one record, nil where there is none.
func (s *Store) Record(id string) (*Stored, error) {
	var out *Stored
	if id == "" {
		return nil, nil
	}
	err := s.db.View(func(tx *bbolt.Tx) error {
		value := tx.Bucket(recordsBucket(s.meta.Generation)).Get([]byte(id))
		if value == nil {
			return nil
		}
		var err error
		out, err = load(id, value)
		return err
	})
	return out, err
}

// All yields every record by ID. An error is the last thing.
func (s *Store) All() iter.Seq2[*Stored, error] {
	return func(yield func(*Stored, error) bool) {
		stopped := errors.New("stopped")
		err := s.db.View(func(tx *bbolt.Tx) error {
			cursor := tx.Bucket(recordsBucket(s.meta.Generation)).Cursor()
			for key, value := cursor.First(); key != nil; key, value = cursor.Next() {
				r, err := load(string(key), value)
				if err != nil {
					return err
				}
				if !yield(r, nil) {
					return stopped
				}
			}
			return nil
		})
		if err != nil && !errors.Is(err, stopped) {
			yield(nil, err)
		}
	}
}

// Refusals returns what is left out of the list, records and hashes of records, the first [MostRefusals] of them, and how many there are.
func (s *Store) Refusals() (told []Refusal, count int, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(refusedBucket(s.meta.Generation))
		count = s.meta.Refused + b.Stats().KeyN
		cursor := b.Cursor()
		for key, value := cursor.First(); key != nil && len(told) < MostRefusals; key, value = cursor.Next() {
			var r Refusal
			if err := json.Unmarshal(value, &r); err != nil {
				return fmt.Errorf("%w: %w", errStored, err)
			}
			told = append(told, r)
		}
		return nil
	})
	if err != nil || s.meta.Refused == 0 {
		return told, count, err
	}
	for r, err := range s.All() {
		if err != nil {
			return nil, 0, err
		}
		told = append(told, r.Refused...)
		if len(told) >= MostRefusals {
			return told[:MostRefusals], count, nil
		}
	}
	return told, count, nil
}

// readManifest reads the file of a manifest.
func readManifest(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	stat, err := f.Stat()
	if err != nil {
		return nil, err
	}
	const most = 2 * mostManifest // with signatures
	if !stat.Mode().IsRegular() || stat.Size() > most {
		return nil, fmt.Errorf("%s: not a regular file of at most %d bytes", path, most)
	}
	data := make([]byte, stat.Size())
	n, err := f.ReadAt(data, 0)
	if n < len(data) {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return data, nil
}
