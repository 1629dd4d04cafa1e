package lists

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dmguard/dmguard/hashdb"
)

// Options say which lists to load and whom to believe.
type Options struct {
	Dir       string
	Trust     Trust
	MaxChange Bound               // of each update since the snapshot that is in force, or was the last time
	Settings  map[string]Settings // by list
	// Seen is a file that tells, from one process to the next, which snapshots were in force; "" for none.
	Seen string
}

// Loaded is the lists of a folder that are in force together. It does not change.
type Loaded struct {
	Set   *hashdb.Set // nil where there are none
	Lists []Taken     // by name
	// Faults are lists, or files, that could not be taken as they are. Of a list that was in force before, that version stays.
	Faults []FaultError
	// Warnings are what somebody should know and nothing follows from.
	Warnings []string

	snapshots map[string]*snapshot
	plain     *plainLists
}

// Taken is a list in force.
type Taken struct {
	Name     string
	Version  string
	Manifest *Manifest // nil for a CSV file
	Signers  []string  // whose signatures hold
	Settings Settings
	Info     hashdb.Info
}

// FaultError says why a list is not in force as its files have it.
type FaultError struct {
	List  string // or "" where it is no one list
	Kept  string // the version that stays in force, or ""
	Cause error
}

// Error implements error.
func (f *FaultError) Error() string {
	what := "lists: "
	if f.List != "" {
		what = "list " + f.List + ": "
	}
	if f.Kept != "" {
		return what + f.Cause.Error() + "; version " + f.Kept + " stays in force"
	}
	return what + f.Cause.Error()
}

// Unwrap returns the cause.
func (f *FaultError) Unwrap() error { return f.Cause }

// Err returns all faults as one error, or nil.
func (l *Loaded) Err() error {
	var errs []error
	for i := range l.Faults {
		errs = append(errs, &l.Faults[i])
	}
	return errors.Join(errs...)
}

// Versions returns the version in force of every list by its name.
func (l *Loaded) Versions() map[string]string {
	out := make(map[string]string)
	if l != nil {
		for _, t := range l.Lists {
			out[t.Name] = t.Version
		}
	}
	return out
}

// snapshot is a list in memory.
type snapshot struct {
	manifest *Manifest
	signers  []string
	files    *files
	settings string      // digest of those that set was made with
	set      *hashdb.Set // as it is searched
}

// files are those of a snapshot, opened.
type files struct {
	base  *hashdb.Set
	from  File // of base
	delta *File
	set   *hashdb.Set
}

// plainLists are the CSV files of a folder, which are taken or refused together.
type plainLists struct {
	stamp string
	set   *hashdb.Set
}

// Load takes over the lists of a folder: snapshots, NAME.manifest with their files, and NAME.csv as [hashdb.LoadDir] reads them.
//
// What is in force already is passed as before, nil at the start: what has not changed is shared with it, and a
// list at fault stays as it is there. The error tells only of what concerns all lists, such as a folder that is not there or keys that are
// none; then nothing is loaded.
//
// A snapshot is taken where enough of the keys have signed it; where its files are what it says; where it is no older than the one in force,
// the one that [Options.Seen] tells of, and follows from it; and where no update since has changed more than the bound, unless approved.
func Load(opt Options, before *Loaded) (*Loaded, error) {
	if err := errors.Join(opt.Trust.Validate(), opt.MaxChange.Validate()); err != nil {
		return nil, fmt.Errorf("load lists: %w", err)
	}
	if before == nil {
		before = &Loaded{}
	}
	manifests, err := namesIn(opt.Dir, manifestSuffix)
	if err != nil {
		return nil, fmt.Errorf("load lists: %w", err)
	}
	known, err := readSeen(opt.Seen)
	if err != nil {
		return nil, fmt.Errorf("load lists: %w", err)
	}
	out := &Loaded{snapshots: make(map[string]*snapshot)}
	for _, name := range manifests {
		last := before.snapshots[name]
		s, err := loadSnapshot(&opt, name, last, known)
		if err != nil {
			out.fault(name, last, err)
			s = last
		}
		if s != nil {
			out.snapshots[name] = s
		}
	}
	out.missing(&opt, manifests, before, known)
	out.loadPlain(&opt, before)
	if err := out.join(&opt); err != nil {
		return nil, fmt.Errorf("load lists: %w", err)
	}
	if err := out.remember(&opt, known); err != nil {
		// Knowing what is harmful goes before knowing that it was known.
		out.warn("what lists are in force is not written down, so a process that starts would take older ones: %v", err)
	}
	return out, nil
}

func (l *Loaded) fault(name string, kept *snapshot, err error) {
	f := FaultError{List: name, Cause: err}
	if kept != nil {
		f.Kept = kept.manifest.Version()
	}
	l.Faults = append(l.Faults, f)
}

// mostLists is how many snapshots a folder may have.
const mostLists = 1024

// Private says whether a file of a folder of lists is no concern of scanners: records, and what waits for signatures.
func Private(name string) bool {
	return strings.HasSuffix(name, recordsSuffix) || strings.HasSuffix(name, proposedSuffix)
}

// namesIn returns the lists of a folder that have a file with one of the suffixes, in order.
func namesIn(dir string, suffixes ...string) ([]string, error) {
	found, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range found {
		for _, suffix := range suffixes {
			name, ok := strings.CutSuffix(f.Name(), suffix)
			if ok && CheckName(name) == nil && !f.IsDir() {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) > mostLists {
		return nil, fmt.Errorf("%s: %d lists, at most %d are read", dir, len(names), mostLists)
	}
	return names, nil
}

// missing reports lists that were in force, or are known to have been, and whose manifest is gone.
func (l *Loaded) missing(opt *Options, there []string, before *Loaded, known seen) {
	for _, name := range slices.Sorted(maps.Keys(before.snapshots)) {
		if !slices.Contains(there, name) {
			l.fault(name, before.snapshots[name], errors.New("its manifest is gone; a list that is no longer wanted goes when the process is started again"))
			l.snapshots[name] = before.snapshots[name]
		}
	}
	for _, name := range slices.Sorted(maps.Keys(known)) {
		if !slices.Contains(there, name) && before.snapshots[name] == nil {
			l.warn("list %s was in force once (number %d) and is gone", name, known[name].Number)
		}
	}
	l.strange(opt.Dir)
	if len(opt.Trust.Keys) == 0 && len(there) > 0 {
		l.warn("no keys are configured for lists: snapshots are taken on their digests alone, whoever wrote them")
	}
}

// strange warns of manifests that are none of a list's, nor an earlier one's.
func (l *Loaded) strange(dir string) {
	found, err := os.ReadDir(dir)
	if err != nil {
		return // it was read a moment ago
	}
	for _, f := range found {
		name, ok := strings.CutSuffix(f.Name(), manifestSuffix)
		list, _, _ := strings.Cut(name, "@")
		if ok && !strings.HasPrefix(name, ".") && CheckName(list) != nil {
			l.warn("%s is not read: %v", clip(f.Name()), CheckName(name))
		}
	}
}

func (l *Loaded) warn(format string, args ...any) {
	l.Warnings = append(l.Warnings, fmt.Sprintf(format, args...))
}

// loadSnapshot returns a list as its files have it. An importer that puts the next one in place
// meanwhile may have removed files of this one, so a fault counts where the manifest is still the same.
func loadSnapshot(opt *Options, name string, last *snapshot, known seen) (*snapshot, error) {
	path := filepath.Join(opt.Dir, name+manifestSuffix)
	data, err := readManifest(path)
	for range 8 {
		if err != nil {
			return nil, err
		}
		s, fault := takeSnapshot(opt, name, data, last, known)
		if fault == nil {
			return s, nil
		}
		again, err := readManifest(path)
		if err != nil {
			return nil, err
		}
		if string(again) == string(data) {
			return nil, fault
		}
		data = again
	}
	return nil, errors.New("its manifest changes all the time")
}

func takeSnapshot(opt *Options, name string, data []byte, last *snapshot, known seen) (*snapshot, error) {
	m, signers, err := opt.Trust.Open(data)
	if err != nil {
		return nil, err
	}
	if m.List != name {
		return nil, fmt.Errorf("its manifest is that of list %s", m.List)
	}
	settings := opt.Settings[name]
	digest := settings.Digest()
	if last != nil && last.manifest.Digest() == m.Digest() {
		if last.settings == digest && slices.Equal(last.signers, signers) {
			return last, nil
		}
		return finish(m, signers, last.files, &settings)
	}
	if err := m.allowed(opt.MaxChange, last, known[name]); err != nil {
		return nil, err
	}
	var open *files
	if last != nil {
		open = last.files
	}
	open, err = m.open(opt.Dir, open)
	if err != nil {
		return nil, err
	}
	if last != nil {
		if err := m.claims(last.manifest); err != nil {
			return nil, err
		}
	}
	return finish(m, signers, open, &settings)
}

// finish makes the set of a snapshot as it is searched.
func finish(m *Manifest, signers []string, open *files, settings *Settings) (*snapshot, error) {
	set, err := open.set.Restate(hashdb.List{
		Name: m.List, Version: m.Version(), Category: settings.Category, Thresholds: settings.Thresholds,
	})
	if err != nil {
		return nil, err
	}
	return &snapshot{manifest: m, signers: signers, files: open, settings: settings.Digest(), set: set}, nil
}

// ErrRollback says that a snapshot is older than one that was in force, or none that follows it.
var ErrRollback = errors.New("not a later version")

// after makes sure that the snapshot is the one with a number and digest, or follows it.
func (m *Manifest) after(number int, digest string) error {
	switch {
	case m.Number < number:
		return fmt.Errorf("%w: number %d, and %d was in force", ErrRollback, m.Number, number)
	case m.Number == number && m.Digest() != digest:
		return fmt.Errorf("%w: another number %d than the one that was in force", ErrRollback, number)
	}
	told := false
	for _, p := range m.Past {
		if p.Number == number && p.Digest != digest {
			return fmt.Errorf("%w: it follows another number %d than the one that was in force", ErrRollback, number)
		}
		told = told || p.Number == number
	}
	if !told && m.Number > number && m.Number-number <= mostPast {
		return fmt.Errorf("%w: it does not tell that it follows number %d, which was in force", ErrRollback, number)
	}
	return nil
}

// allowed compares the snapshot with what was in force before, here or in an earlier process.
func (m *Manifest) allowed(bound Bound, last *snapshot, was sight) error {
	if last != nil {
		here := sight{Number: last.manifest.Number, Digest: last.manifest.Digest()}
		if err := m.after(here.Number, here.Digest); err != nil {
			return err
		}
		if here.Number >= was.Number {
			was = here
		}
	}
	if was.Number == 0 {
		return nil // the first that this process hears of the list
	}
	if err := m.after(was.Number, was.Digest); err != nil {
		return err
	}
	if m.Number == was.Number {
		return nil
	}
	if err := bound.check(m.Change); err != nil {
		return fmt.Errorf("number %d: %w", m.Number, err)
	}
	for _, p := range m.Past {
		if p.Number <= was.Number {
			break
		}
		if err := bound.check(p.Change); err != nil {
			return fmt.Errorf("number %d: %w", p.Number, err)
		}
	}
	return nil
}

// claims makes sure that what the manifests since the last one say they changed accounts for what can be seen.
func (m *Manifest) claims(last *Manifest) error {
	most, told := m.Change.Entries, m.Number-1
	for _, p := range m.Past {
		if p.Number <= last.Number {
			break
		}
		most, told = most+p.Change.Entries, p.Number-1
	}
	if told > last.Number {
		return nil // there were more updates meanwhile than it tells of
	}
	n := 0
	for _, k := range hashdb.Kinds() {
		d := m.Entries[k] - last.Entries[k]
		n += max(d, -d)
	}
	if n > most {
		return fmt.Errorf("%w: at least %d entries come or go since number %d, and it tells of %d", ErrTooLarge, n, last.Number, most)
	}
	return nil
}

// open returns what the files of a snapshot hold, once they are what the manifest says. What has been opened for the snapshot
// before is used where it is the same.
func (m *Manifest) open(dir string, before *files) (*files, error) {
	out := &files{from: m.Base, delta: m.Delta}
	if before != nil && before.from == m.Base {
		if before.delta == m.Delta || before.delta != nil && m.Delta != nil && *before.delta == *m.Delta {
			return before, m.counted(before.set)
		}
		out.base = before.base
	} else {
		base, err := hashdb.OpenVerified(filepath.Join(dir, m.Base.Name), m.Base.SHA256)
		if err != nil {
			return nil, err
		}
		if infos := base.Lists(); len(infos) != 1 || infos[0].Name != m.List {
			return nil, fmt.Errorf("%s is not of list %s alone", m.Base.Name, m.List)
		}
		out.base = base
	}
	out.set = out.base
	if m.Delta != nil {
		d, err := readDelta(dir, m.Delta)
		if err != nil {
			return nil, err
		}
		changed, err := out.base.Apply(hashdb.Change{List: m.List, Version: m.Version(), Withdraw: d.withdraw, Add: d.add})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.Delta.Name, err)
		}
		// Once here, and not each time that another list changes.
		if out.set, err = hashdb.Join(changed); err != nil {
			return nil, err
		}
	}
	return out, m.counted(out.set)
}

func (m *Manifest) counted(set *hashdb.Set) error {
	info := set.Lists()[0]
	for _, k := range hashdb.Kinds() {
		if info.Entries[k] != m.Entries[k] {
			return fmt.Errorf("its files hold %d %s entries, and its manifest tells of %d", info.Entries[k], k, m.Entries[k])
		}
	}
	return nil
}

func readDelta(dir string, f *File) (*delta, error) {
	if f.Size > mostDelta {
		return nil, fmt.Errorf("%s: %d bytes, at most %d are read", f.Name, f.Size, mostDelta)
	}
	file, err := os.Open(filepath.Join(dir, f.Name))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, f.Size+1))
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(data); int64(len(data)) != f.Size || sum != f.SHA256 {
		return nil, fmt.Errorf("%s: %d bytes or more with SHA-256 %x, want %d with %x", f.Name, len(data), sum, f.Size, f.SHA256)
	}
	d, err := parseDelta(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name, err)
	}
	return d, nil
}

// loadPlain takes over the CSV files.
func (l *Loaded) loadPlain(opt *Options, before *Loaded) {
	l.plain = before.plain
	stamp, err := plainStamp(opt.Dir)
	if err != nil {
		l.Faults = append(l.Faults, FaultError{Cause: err})
		return
	}
	if l.plain == nil || l.plain.stamp != stamp {
		set, err := hashdb.LoadDir(opt.Dir)
		if err != nil && !errors.Is(err, hashdb.ErrNoLists) {
			l.Faults = append(l.Faults, FaultError{Cause: err})
			return
		}
		l.plain = &plainLists{stamp: stamp, set: set}
	}
	taken := slices.DeleteFunc(l.plain.set.Lists(), func(i hashdb.Info) bool { return l.snapshots[i.Name] == nil })
	for _, info := range taken {
		l.Faults = append(l.Faults, FaultError{List: info.Name, Cause: fmt.Errorf("there is a snapshot of that name beside %s.csv; no CSV file is taken", info.Name)})
	}
	switch {
	case len(taken) > 0:
		l.plain = nil
	case len(opt.Trust.Keys) > 0 && l.plain.set != nil:
		l.warn("CSV files are lists that nobody has signed: %d of them", len(l.plain.set.Lists()))
	}
}

// plainStamp changes whenever a CSV file does.
func plainStamp(dir string) (string, error) {
	found, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, f := range found {
		if !strings.EqualFold(filepath.Ext(f.Name()), ".csv") {
			continue
		}
		stat, err := os.Stat(filepath.Join(dir, f.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "%s %d %d\n", f.Name(), stat.Size(), stat.ModTime().UnixNano())
	}
	return b.String(), nil
}

// join makes one set of all.
func (l *Loaded) join(opt *Options) error {
	var sets []*hashdb.Set
	if l.plain != nil && l.plain.set != nil {
		set := l.plain.set
		for _, info := range set.Lists() {
			settings := opt.Settings[info.Name]
			var err error
			set, err = set.Restate(hashdb.List{
				Name: info.Name, Version: info.Version, Category: settings.Category, Thresholds: settings.Thresholds,
			})
			if err != nil {
				return err
			}
			l.Lists = append(l.Lists, Taken{Name: info.Name, Version: info.Version, Settings: settings})
		}
		sets = append(sets, set)
	}
	for _, name := range slices.Sorted(maps.Keys(l.snapshots)) {
		s := l.snapshots[name]
		sets = append(sets, s.set)
		l.Lists = append(l.Lists, Taken{
			Name: name, Version: s.manifest.Version(), Manifest: s.manifest, Signers: s.signers, Settings: opt.Settings[name],
		})
	}
	for _, name := range slices.Sorted(maps.Keys(opt.Settings)) {
		if !slices.ContainsFunc(l.Lists, func(t Taken) bool { return t.Name == name }) {
			l.warn("there are settings for list %s, and no such list", name)
		}
	}
	if len(sets) == 0 {
		return nil
	}
	set, err := hashdb.Join(sets...)
	if err != nil {
		return err
	}
	l.Set = set
	for i, info := range set.Lists() {
		l.Lists[i].Info = info
	}
	slices.SortFunc(l.Lists, func(a, b Taken) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

// remember writes down what is in force from now on, before it is.
func (l *Loaded) remember(opt *Options, known seen) error {
	if opt.Seen == "" {
		return nil
	}
	next := maps.Clone(known)
	if next == nil {
		next = make(seen)
	}
	news := false
	for name, s := range l.snapshots {
		news = next.note(name, s.manifest) || news
	}
	if !news {
		return nil
	}
	return next.write(opt.Seen)
}
