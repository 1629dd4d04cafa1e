package lists

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/sys/unix"

	"github.com/dmguard/dmguard/hashdb"
)

// Publication is how a snapshot is made.
type Publication struct {
	Signers []note.Signer
	// Trust are the keys that scanners know. Where the signers are not enough of them, the snapshot waits for [AddSignatures].
	Trust Trust
	// MaxChange bounds what one update may change; Approve says that a person has looked at a larger one.
	MaxChange Bound
	Approve   bool
	Settings  Settings // of the list, of which the manifest names the digest
}

// Published is a snapshot that was made.
type Published struct {
	Manifest *Manifest
	// Waits says that the snapshot needs more signatures before scanners take it.
	Waits bool
	// Same says that nothing had changed, and Manifest is what was there before.
	Same bool
}

// A snapshot of the same entries is made anew after so long, so that scanners see that the list is kept up to date.
const renewEvery = time.Hour

// A delta that is longer than this makes way for a new base: what scanners go through and withdraw one by one, and what
// building again costs, are then about even.
const (
	fewChanges  = 1 << 10
	mostChanges = 1 << 17
)

func tooLong(changes, entries int) bool {
	return changes > max(fewChanges, min(entries/16, mostChanges))
}

// Publish makes a snapshot of the records as they are, and puts it in place whole or not at all: scanners find the one before
// or this one, at whatever step the process dies. With an error that is [ErrTooLarge] the records stay as they are and wait for
// somebody to approve.
func (s *Store) Publish(ctx context.Context, p Publication) (*Published, error) {
	out, err := s.publish(ctx, &p)
	if err != nil {
		return nil, fmt.Errorf("snapshot of list %s: %w", s.name, err)
	}
	return out, nil
}

func (s *Store) publish(ctx context.Context, p *Publication) (*Published, error) {
	if err := p.Trust.Validate(); err != nil {
		return nil, err
	}
	if s.meta.Intent != nil {
		if err := s.update(s.settle); err != nil {
			return nil, err
		}
	}
	current, err := s.current()
	if err != nil {
		// Not a manifest: what the records make is put in its place.
		current = nil
	}
	_, refused, err := s.Refusals()
	if err != nil {
		return nil, err
	}
	m := &Manifest{
		List: s.name, Number: 1, Made: time.Now().UTC().Truncate(time.Second),
		Records: s.meta.Records, Entries: make(map[hashdb.Kind]int), Refused: refused, Settings: p.Settings.Digest(),
	}
	for k, n := range s.meta.Entries {
		if n > 0 {
			m.Entries[k] = n
		}
	}
	known := current != nil && s.meta.Published != nil && s.meta.Published.Digest == current.Digest()
	if m.Change, err = s.changed(ctx, current, known); err != nil {
		return nil, err
	}
	if known && m.Change.Entries == 0 && current.Settings == m.Settings && current.Records == m.Records &&
		current.Refused == m.Refused && m.Made.Sub(current.Made) < renewEvery {
		return &Published{Manifest: current, Same: true}, nil
	}
	if waiting := s.waiting(m); waiting != nil {
		return &Published{Manifest: waiting, Waits: true, Same: true}, nil
	}
	if err := s.permit(m, p, current); err != nil {
		return nil, err
	}
	m.follow(current, s.meta.Published)
	if err := s.files(ctx, m, current, known); err != nil {
		return nil, err
	}
	return s.place(m, p, current)
}

// follow puts the manifest behind the one in place or the one that the store made last, whichever is later: the other was lost,
// or brought back from an older copy.
func (m *Manifest) follow(current *Manifest, last *published) {
	var before Past
	var past []Past
	if current != nil {
		before, past = Past{Number: current.Number, Digest: current.Digest(), Change: current.Change}, current.Past
	}
	if last != nil && last.Number > before.Number {
		before, past = Past{Number: last.Number, Digest: last.Digest, Change: last.Change}, last.Past
	}
	if before.Number == 0 {
		return
	}
	m.Number = before.Number + 1
	m.Past = slices.Concat([]Past{before}, past)
	m.Past = m.Past[:min(len(m.Past), mostPast)]
}

// waiting returns the snapshot that waits for signatures where it is one of these very records: those who have signed
// it need not sign another.
func (s *Store) waiting(m *Manifest) *Manifest {
	if s.meta.Intent == nil || s.meta.Intent.Stale {
		return nil
	}
	w := readable(filepath.Join(s.dir, s.name+proposedSuffix))
	if w == nil || w.Digest() != s.meta.Intent.Digest || w.Settings != m.Settings || w.Refused != m.Refused {
		return nil
	}
	return w
}

// permit looks at the size of the change.
func (s *Store) permit(m *Manifest, p *Publication, current *Manifest) error {
	before := s.meta.Published
	if before == nil && current == nil || before != nil && !before.Complete {
		m.Change.Leave = Filling
		return nil
	}
	err := p.MaxChange.check(m.Change)
	if err != nil && p.Approve {
		m.Change.Leave = Approved
		return nil
	}
	return err
}

// changed measures what has changed since the snapshot that is in place.
func (s *Store) changed(ctx context.Context, current *Manifest, known bool) (Change, error) {
	switch {
	case known:
		return s.changedSince(current)
	case current == nil:
		n := 0
		for _, c := range s.meta.Entries {
			n += c
		}
		return Change{Entries: n}, nil
	default:
		return s.compare(ctx, current)
	}
}

func (s *Store) changedSince(current *Manifest) (Change, error) {
	c := Change{Of: current.Total()}
	return c, s.lookBack(sinceBucket, func(_ string, before, after []hashdb.Entry) {
		c.Entries += differing(before, after)
	})
}

// lookBack calls f for each record that was touched, with its entries then and now.
func (s *Store) lookBack(bucket []byte, f func(id string, before, after []hashdb.Entry)) error {
	return s.db.View(func(tx *bbolt.Tx) error {
		records := tx.Bucket(recordsBucket(s.meta.Generation))
		cursor := tx.Bucket(bucket).Cursor()
		for key, value := cursor.First(); key != nil; key, value = cursor.Next() {
			then := value[1:]
			now, err := headOf(records.Get(key))
			if err != nil {
				return err
			}
			if bytes.Equal(then, now) {
				continue
			}
			before, err := entriesOf(string(key), then)
			if err != nil {
				return err
			}
			after, err := entriesOf(string(key), now)
			if err != nil {
				return err
			}
			f(string(key), before, after)
		}
		return nil
	})
}

// differing counts the entries of a record that are in one of two lists alone.
func differing(a, b []hashdb.Entry) int {
	n := 0
	for _, pair := range [][2][]hashdb.Entry{{a, b}, {b, a}} {
		for _, e := range pair[0] {
			if !slices.Contains(pair[1], e) {
				n++
			}
		}
	}
	return n
}

// compare measures the change against the files of a snapshot that the records were not kept beside.
func (s *Store) compare(ctx context.Context, current *Manifest) (Change, error) {
	total := 0
	for _, n := range s.meta.Entries {
		total += n
	}
	c := Change{Of: current.Total()}
	files, err := current.open(s.dir, nil)
	if err != nil {
		c.Entries = max(c.Of, total) // nobody can tell
		return c, nil                //nolint:nilerr // the most it can be
	}
	same, gone := 0, 0
	err = s.db.View(func(tx *bbolt.Tx) error {
		records := tx.Bucket(recordsBucket(s.meta.Generation))
		for _, e := range files.set.Entries() {
			if err := ctx.Err(); err != nil {
				return err
			}
			now, err := headOf(records.Get([]byte(e.ID)))
			if err != nil {
				return err
			}
			entries, err := entriesOf(e.ID, now)
			if err != nil {
				return err
			}
			if slices.Contains(entries, e) {
				same++
			} else {
				gone++
			}
		}
		return nil
	})
	c.Entries = gone + total - same
	return c, err
}

// files writes what the snapshot is made of, under names that no other snapshot has.
func (s *Store) files(ctx context.Context, m, current *Manifest, known bool) error {
	if known && current.Base.there(s.dir) {
		var d delta
		err := s.lookBack(touchedBucket, func(id string, before, after []hashdb.Entry) {
			if len(before) > 0 {
				d.withdraw = append(d.withdraw, id)
			}
			d.add = append(d.add, after...)
		})
		if err != nil {
			return err
		}
		if !tooLong(len(d.withdraw)+len(d.add), m.Total()) {
			m.Base = current.Base
			if len(d.withdraw)+len(d.add) == 0 {
				return nil
			}
			s.step("delta")
			f, err := s.writeDelta(m.Number, &d)
			m.Delta = f
			return err
		}
	}
	s.step("base")
	return s.writeBase(ctx, m)
}

func (f *File) there(dir string) bool {
	stat, err := os.Stat(filepath.Join(dir, f.Name))
	return err == nil && stat.Mode().IsRegular() && stat.Size() == f.Size
}

func (s *Store) writeDelta(number int, d *delta) (*File, error) {
	data := d.encode()
	f := &File{Size: int64(len(data)), SHA256: sha256.Sum256(data)}
	f.Name = s.fileName(number, f, deltaSuffix)
	return f, writeFile(filepath.Join(s.dir, f.Name), data, 0o644)
}

// fileName has a part of the digest in it: a snapshot that waits for signatures is never overwritten by another.
func (s *Store) fileName(number int, f *File, suffix string) string {
	return s.name + "@" + strconv.Itoa(number) + "-" + hex.EncodeToString(f.SHA256[:4]) + suffix
}

func (s *Store) writeBase(ctx context.Context, m *Manifest) error {
	var b hashdb.Builder
	b.Begin(hashdb.List{Name: s.name, Version: strconv.Itoa(m.Number)})
	err := s.db.View(func(tx *bbolt.Tx) error {
		cursor := tx.Bucket(recordsBucket(s.meta.Generation)).Cursor()
		for key, value := cursor.First(); key != nil; key, value = cursor.Next() {
			if err := ctx.Err(); err != nil {
				return err
			}
			top, err := headOf(value)
			if err != nil {
				return err
			}
			entries, err := entriesOf(string(key), top)
			if err != nil {
				return err
			}
			for _, e := range entries {
				b.Add(e)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	tmp := filepath.Join(s.dir, "."+s.name+"@new"+baseSuffix)
	if err := b.Write(tmp); err != nil {
		return err
	}
	s.step("base written")
	if m.Base, err = measure(tmp); err != nil {
		return err
	}
	m.Base.Name = s.fileName(m.Number, &m.Base, baseSuffix)
	return rename(tmp, filepath.Join(s.dir, m.Base.Name))
}

// measure returns the size and digest of a file.
func measure(path string) (File, error) {
	f, err := os.Open(path)
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	out := File{Name: filepath.Base(path), Size: n}
	sum.Sum(out.SHA256[:0])
	return out, err
}

// place puts the manifest where scanners look, or where it waits for signatures.
func (s *Store) place(m *Manifest, p *Publication, current *Manifest) (*Published, error) {
	data := unsigned(m)
	if len(p.Signers) > 0 {
		var err error
		if data, err = Sign(data, p.Signers...); err != nil {
			return nil, err
		}
	}
	_, _, err := p.Trust.Open(data)
	waits := errors.Is(err, ErrUnsigned)
	if err != nil && !waits {
		return nil, err
	}
	unlock, err := lockDir(s.dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	now, err := s.current()
	if err == nil && !same(now, current) {
		return nil, errors.New("another snapshot was put in place meanwhile; import again")
	}
	s.step("intent")
	err = s.update(func(_ *bbolt.Tx, meta *meta) error {
		meta.Intent = &published{Number: m.Number, Digest: m.Digest(), Base: m.Base.Name, Change: m.Change, Past: m.Past, Complete: meta.Complete}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if waits {
		s.step("proposed")
		if err := writeFile(filepath.Join(s.dir, s.name+proposedSuffix), data, 0o644); err != nil {
			return nil, err
		}
		return &Published{Manifest: m, Waits: true}, tidy(s.dir, s.name)
	}
	s.step("manifest")
	if err := putInPlace(s.dir, m, data); err != nil {
		return nil, err
	}
	s.step("settled")
	err = s.update(s.settled)
	if err != nil {
		return nil, err
	}
	s.step("tidy")
	return &Published{Manifest: m}, tidy(s.dir, s.name)
}

func same(a, b *Manifest) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Digest() == b.Digest()
}

// putInPlace makes a manifest the one that scanners take. The one before keeps a name, for those who verify the chain.
func putInPlace(dir string, m *Manifest, data []byte) error {
	path := filepath.Join(dir, m.List+manifestSuffix)
	if len(m.Past) > 0 {
		err := os.Link(path, filepath.Join(dir, pastName(m.List, m.Past[0].Number)))
		if err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := writeFile(path, data, 0o644); err != nil {
		return err
	}
	err := os.Remove(filepath.Join(dir, m.List+proposedSuffix))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func pastName(list string, number int) string {
	return list + "@" + strconv.Itoa(number) + manifestSuffix
}

// AddSignatures signs the snapshot of a list that waits for signatures, or else the one that is in place, after comparing its files with
// what it says of them. Once there are enough signatures it is put in place.
func AddSignatures(dir, list string, trust Trust, signers ...note.Signer) (*Published, error) {
	out, err := addSignatures(dir, list, trust, signers)
	if err != nil {
		return nil, fmt.Errorf("sign list %s: %w", list, err)
	}
	return out, nil
}

func addSignatures(dir, list string, trust Trust, signers []note.Signer) (*Published, error) {
	if err := CheckName(list); err != nil {
		return nil, err
	}
	unlock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	proposed := filepath.Join(dir, list+proposedSuffix)
	path := proposed
	data, err := readManifest(path)
	if errors.Is(err, fs.ErrNotExist) {
		path = filepath.Join(dir, list+manifestSuffix)
		data, err = readManifest(path)
	}
	if err != nil {
		return nil, err
	}
	if data, err = Sign(data, signers...); err != nil {
		return nil, err
	}
	m, _, err := trust.Open(data)
	waits := errors.Is(err, ErrUnsigned)
	if err != nil && !waits {
		return nil, err
	}
	if m.List != list {
		return nil, fmt.Errorf("the manifest is that of list %s", m.List)
	}
	if _, err := m.open(dir, nil); err != nil {
		return nil, err
	}
	if waits || path != proposed {
		return &Published{Manifest: m, Waits: waits}, writeFile(path, data, 0o644)
	}
	if err := follows(dir, m); err != nil {
		return nil, err
	}
	if err := putInPlace(dir, m, data); err != nil {
		return nil, err
	}
	return &Published{Manifest: m}, tidy(dir, list)
}

// follows makes sure that a snapshot that waited is still the next one.
func follows(dir string, m *Manifest) error {
	data, err := readManifest(filepath.Join(dir, m.List+manifestSuffix))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	text, _, err := split(data)
	if err != nil {
		return err
	}
	current, err := ParseManifest(text)
	if err != nil {
		return err
	}
	return m.after(current.Number, current.Digest())
}

// tidy removes files of a list that neither the snapshot in place, nor the one before, nor one that waits is made of.
func tidy(dir, list string) error {
	found, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	needed := make(map[string]bool)
	oldest := 0
	for _, name := range []string{list + manifestSuffix, list + proposedSuffix} {
		m := readable(filepath.Join(dir, name))
		if m == nil {
			continue
		}
		m.needs(needed)
		if len(m.Past) > 0 {
			if before := readable(filepath.Join(dir, pastName(list, m.Past[0].Number))); before != nil {
				before.needs(needed)
			}
		}
		oldest = m.Number - mostPast
	}
	for _, f := range found {
		if leftBehind(f.Name(), list) {
			if err := os.Remove(filepath.Join(dir, f.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			continue
		}
		rest, ours := strings.CutPrefix(f.Name(), list+"@")
		if !ours || needed[f.Name()] {
			continue
		}
		number, past := strings.CutSuffix(rest, manifestSuffix)
		if past {
			if n, err := strconv.Atoi(number); err != nil || n >= oldest {
				continue
			}
		} else if !strings.HasSuffix(rest, baseSuffix) && !strings.HasSuffix(rest, deltaSuffix) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, f.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// leftBehind says whether a file is what a process that died was about to put in place.
func leftBehind(name, list string) bool {
	for _, prefix := range []string{"." + list + "@", ".." + list + "@"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	for _, prefix := range []string{"." + list + manifestSuffix + "-", "." + list + proposedSuffix + "-"} {
		if digits, ok := strings.CutPrefix(name, prefix); ok && strings.Trim(digits, "0123456789") == "" {
			return true
		}
	}
	return false
}

func readable(path string) *Manifest {
	data, err := readManifest(path)
	if err != nil {
		return nil
	}
	text, _, err := split(data)
	if err != nil {
		return nil
	}
	m, err := ParseManifest(text)
	if err != nil {
		return nil
	}
	return m
}

func (m *Manifest) needs(files map[string]bool) {
	files[m.Base.Name] = true
	if m.Delta != nil {
		files[m.Delta.Name] = true
	}
}

// lockDir keeps others from changing what is in place.
func lockDir(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), d.Close())
	}
	return func() { d.Close() }, nil
}

// writeFile puts a file in place by renaming, whole and on disk or not at all.
func writeFile(path string, data []byte, mode fs.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		f.Close()
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return rename(f.Name(), path)
}

// rename puts a file in place for good.
func rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(to))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
