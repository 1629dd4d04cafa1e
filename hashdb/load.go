package hashdb

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ErrNoLists says that a folder holds no list at all, which is more often a mistyped path than a wish.
var ErrNoLists = errors.New("no *.csv list in the folder")

// What a folder of CSV lists may hold; more belongs into snapshots.
const (
	maxFiles    = 256
	maxFileSize = 256 << 20
	maxEntries  = 2_000_000 // of a folder
	maxLine     = 4096      // bytes
	maxField    = 256       // bytes of an entry ID or a category
	maxFaults   = 100       // told per file
)

// LoadDir reads every *.csv file of a folder as a list that is named like the file, with a version made of
// the first 12 hexadecimal digits of the file's SHA-256.
//
// The first line names the columns: kind, hash, entry, category in any order; others are reported in
// [Info.Ignored] and not read. Blank lines are skipped. A category may be empty, an entry ID may not. UTF-8, with or without a byte
// order mark; quoted fields do not run over lines.
//
// It is all or nothing: where any line of any file is wrong, the error names every fault as
// file:line and there is no set, so that the one in force stays. Files should be put in place by
// renaming, since one that is half written loads as the half that it is. Sub-folders and other files are left alone.
func LoadDir(dir string) (*Set, error) { return loadDir(dir, maxEntries) }

func loadDir(dir string, room int) (*Set, error) {
	names, err := listFiles(dir)
	if err != nil {
		return nil, fmt.Errorf("load lists: %w", err)
	}
	var lists []List
	var ignored [][]string
	var errs []error
	for _, name := range names {
		list, extra, err := loadFile(filepath.Join(dir, name), room)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		room -= len(list.Entries)
		lists = append(lists, list)
		ignored = append(ignored, extra)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("load lists: %w", err)
	}
	set, err := NewSet(lists...)
	if err != nil {
		return nil, fmt.Errorf("load lists: %w", err)
	}
	for i := range set.infos {
		set.infos[i].Ignored = ignored[i]
	}
	return set, nil
}

func listFiles(dir string) ([]string, error) {
	found, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range found {
		if !f.IsDir() && strings.EqualFold(filepath.Ext(f.Name()), ".csv") && !strings.HasPrefix(f.Name(), ".") {
			names = append(names, f.Name())
		}
	}
	switch {
	case len(names) == 0:
		return nil, fmt.Errorf("%s: %w", dir, ErrNoLists)
	case len(names) > maxFiles:
		return nil, fmt.Errorf("%s: %d lists, at most %d are read", dir, len(names), maxFiles)
	}
	return names, nil
}

// loadFile reads one list of at most room entries and returns the columns that it did not read.
func loadFile(path string, room int) (List, []string, error) {
	stat, err := os.Stat(path) // first, since opening a pipe would wait for its writer
	switch {
	case err != nil:
		return List{}, nil, err
	case !stat.Mode().IsRegular():
		return List{}, nil, fmt.Errorf("%s: not a regular file", path)
	case stat.Size() > maxFileSize:
		return List{}, nil, fmt.Errorf("%s: %d bytes, at most %d are read", path, stat.Size(), maxFileSize)
	}
	f, err := os.Open(path)
	if err != nil {
		return List{}, nil, err
	}
	defer f.Close()
	name := filepath.Base(path)
	name = name[:len(name)-len(filepath.Ext(name))]
	if err := Printable(name); err != nil {
		return List{}, nil, fmt.Errorf("%q: name of the list: %w", path, err)
	}
	digest := sha256.New()
	// One byte over the limit, so that a file that grows meanwhile is refused and not cut.
	content := &io.LimitedReader{R: f, N: maxFileSize + 1}
	entries, ignored, err := ReadCSV(path, io.TeeReader(content, digest), room)
	if err != nil {
		return List{}, nil, err
	}
	if content.N == 0 {
		return List{}, nil, fmt.Errorf("%s: over %d bytes", path, maxFileSize)
	}
	return List{
		Name:    name,
		Version: hex.EncodeToString(digest.Sum(nil)[:6]),
		Entries: entries,
	}, ignored, nil
}

// faults collects what is wrong with one file.
type faults struct {
	file string
	errs []error
}

func (f *faults) add(line int, err error) {
	f.errs = append(f.errs, fmt.Errorf("%s:%d: %w", f.file, line, err))
}

// full says that there are enough, after which nobody reads on.
func (f *faults) full() bool { return len(f.errs) >= maxFaults }

func (f *faults) join() error {
	if f.full() {
		f.errs = append(f.errs, fmt.Errorf("%s: reading stopped after %d faults", f.file, maxFaults))
	}
	return errors.Join(f.errs...)
}

var required = []string{"kind", "hash", "entry", "category"}

// ReadCSV reads at most most entries in the format of [LoadDir] to the end of r, and names the columns that it did not
// read. Where any line is wrong the error names every fault as file:line, and there are no entries.
func ReadCSV(file string, r io.Reader, most int) (entries []Entry, ignored []string, err error) {
	bad := faults{file: file}
	lines := &lineReader{r: skipMark(r), line: 1}
	rows := csv.NewReader(lines)
	rows.FieldsPerRecord = -1
	rows.ReuseRecord = true

	header, err := rows.Read()
	switch {
	case errors.Is(err, io.EOF):
		bad.add(1, fmt.Errorf("the file is empty, want a first line %s", strings.Join(required, ",")))
		return nil, nil, bad.join()
	case err != nil:
		bad.addRead(err, lines)
		return nil, nil, bad.join()
	}
	width := len(header)
	at, ignored, err := columns(header)
	if err != nil {
		bad.add(1, err)
		return nil, nil, bad.join()
	}

	categories := make(map[string]string)
	for !bad.full() {
		row, err := rows.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			if !bad.addRead(err, lines) {
				break
			}
			continue
		}
		line, _ := rows.FieldPos(0)
		if len(row) != width {
			bad.add(line, fmt.Errorf("%d columns, the first line has %d", len(row), width))
			continue
		}
		e, err := parseEntry(row[at[0]], row[at[1]], row[at[2]], row[at[3]])
		if err != nil {
			bad.add(line, err)
			continue
		}
		if len(entries) == most {
			bad.add(line, fmt.Errorf("over %d entries together; the rest of the file was not read", most))
			break
		}
		category, known := categories[e.Category]
		if !known {
			category = strings.Clone(e.Category)
			categories[category] = category
		}
		e.Category = category
		e.ID = strings.Clone(e.ID) // or it would keep the whole line in memory
		entries = append(entries, e)
	}
	if err := bad.join(); err != nil {
		return nil, nil, err
	}
	return entries, ignored, nil
}

// columns finds the required columns, in the order of required, and names the others.
func columns(header []string) (at [4]int, ignored []string, err error) {
	seen := make(map[string]bool)
	for _, name := range header {
		if seen[name] {
			return at, nil, fmt.Errorf("column %q comes twice", clip(name))
		}
		seen[name] = true
		if !slices.Contains(required, name) {
			ignored = append(ignored, clip(strings.ToValidUTF8(name, "�")))
		}
	}
	for i, name := range required {
		if at[i] = slices.Index(header, name); at[i] < 0 {
			return at, nil, fmt.Errorf("no column %q: the first line names the columns %s", name, strings.Join(required, ","))
		}
	}
	return at, ignored, nil
}

func parseEntry(kind, hash, id, category string) (Entry, error) {
	k, err := ParseKind(kind)
	if err != nil {
		return Entry{}, err
	}
	h, err := ParseHash(k, hash)
	if err != nil {
		return Entry{}, err
	}
	if id == "" {
		return Entry{}, errors.New("the entry has no ID")
	}
	for _, f := range []struct{ name, text string }{{"entry", id}, {"category", category}} {
		if err := Printable(f.text); err != nil {
			return Entry{}, fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return Entry{Hash: h, ID: id, Category: category}, nil
}

// Printable refuses text that could forge a line of a log or of a page, and more than 256 bytes of it: IDs, names
// and categories are UTF-8 that prints, without spaces around it.
func Printable(text string) error {
	if len(text) <= maxField && plain(text) {
		return nil
	}
	switch {
	case len(text) > maxField:
		return fmt.Errorf("%d bytes, at most %d are taken", len(text), maxField)
	case !utf8.ValidString(text):
		return errors.New("not UTF-8")
	case strings.TrimSpace(text) != text:
		return errors.New("begins or ends with a space")
	case strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }):
		return errors.New("holds a character that does not print")
	}
	return nil
}

// plain says that a text is ASCII without spaces, which most are and which is quickly seen.
func plain(text string) bool {
	for i := range len(text) {
		if c := text[i]; c < '!' || c > '~' {
			return false
		}
	}
	return true
}

// addRead tells an error of a CSV reader and whether the lines after it can be read.
func (f *faults) addRead(err error, lines *lineReader) bool {
	if syntax, ok := errors.AsType[*csv.ParseError](err); ok {
		f.add(syntax.Line, syntax.Err)
		return true
	}
	f.add(lines.line, err)
	return false
}

// skipMark skips a UTF-8 byte order mark.
func skipMark(r io.Reader) io.Reader {
	b := bufio.NewReaderSize(r, 64<<10)
	if head, err := b.Peek(3); err == nil && string(head) == "\ufeff" {
		_, _ = b.Discard(3) // what was peeked is there
	}
	return b
}

var (
	errLongLine  = fmt.Errorf("the line is over %d bytes; the rest of the file was not read", maxLine)
	errOpenQuote = errors.New("an odd number of quotes: quoted fields do not run over lines; the rest of the file was not read")
)

// lineReader hands on lines and stops with an error at one that is too long or leaves a quote open. Package csv
// alone would gather either in memory to the end of the file.
type lineReader struct {
	r     io.Reader
	line  int // that the next byte is on
	bytes int // of it so far
	odd   bool
	err   error
}

func (l *lineReader) Read(p []byte) (int, error) {
	if l.err != nil {
		return 0, l.err
	}
	n, err := l.r.Read(p)
	for start := 0; start < n; {
		part, _, ended := bytes.Cut(p[start:n], []byte{'\n'})
		l.bytes += len(part)
		if bytes.Count(part, []byte{'"'})%2 == 1 {
			l.odd = !l.odd
		}
		switch {
		case l.bytes > maxLine:
			l.err = errLongLine
		case ended && l.odd:
			l.err = errOpenQuote
		}
		if l.err != nil {
			return start, l.err // what precedes the line is handed on, so that its own faults are told too
		}
		start += len(part)
		if ended {
			start++
			l.line++
			l.bytes = 0
		}
	}
	return n, err
}
