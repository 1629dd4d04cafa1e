package lists

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dmguard/dmguard/hashdb"
)

// Manifest says what a snapshot of a list is. The text of it is what is signed: one line a fact, in a fixed order, so
// that a person can read what they put their name to, and two manifests with the same facts are the same bytes.
type Manifest struct {
	List   string
	Number int       // 1, 2, 3, …
	Made   time.Time // to the second, in UTC
	// Change is what this snapshot changed of the one before.
	Change Change
	// Past are the snapshots before, the latest first, as far as they are told: the first is the one that this one follows.
	Past []Past
	// Records are what the list's owner has supplied; Entries the hashes of them that can match, by kind; Refused the
	// records and hashes that were left out.
	Records int
	Entries map[hashdb.Kind]int
	Refused int
	// Settings is a digest of the settings of the list where it was made, or "".
	Settings string
	Base     File
	Delta    *File // or nil: changes of the base
}

// Change is how much a snapshot changed.
type Change struct {
	// Entries is how many of them came or went, and Of how many there were before.
	Entries, Of int
	// Leave says why the change may be of any size, or "".
	Leave Leave
}

// Leave is why a change may be of any size.
type Leave string

const (
	// Approved says that a person has approved the change.
	Approved Leave = "approved"
	// Filling says that the list was not complete before: until a first update came to its end.
	Filling Leave = "filling"
)

// Past is a snapshot that another one follows.
type Past struct {
	Number int
	Digest string // of its manifest's text, as [Manifest.Digest] returns it
	Change Change
}

// File is a part of a snapshot, beside its manifest.
type File struct {
	Name   string
	Size   int64
	SHA256 [sha256.Size]byte
}

const (
	manifestHead = "dmguard list snapshot v1"
	// mostPast is how many earlier snapshots a manifest names. A scanner that was away for longer cannot tell how much each
	// of the updates meanwhile has changed.
	mostPast         = 64
	mostManifest     = 64 << 10
	mostName         = 64
	manifestSuffix   = ".manifest"
	proposedSuffix   = ".proposed"
	recordsSuffix    = ".records"
	baseSuffix       = ".base"
	deltaSuffix      = ".delta"
	mostNumber       = 1 << 53
	manifestTime     = time.RFC3339
	versionHexDigits = 12
)

// CheckName refuses names that a list's files cannot have: 1 to 64 letters, digits, dots, hyphens and underscores, the first
// one a letter or digit.
func CheckName(name string) error {
	ok := name != "" && len(name) <= mostName
	for i, c := range []byte(name) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		ok = ok && (letter || i > 0 && (c == '.' || c == '-' || c == '_'))
	}
	if !ok {
		return fmt.Errorf("%q is no name of a list: 1 to %d letters, digits, dots, hyphens and underscores, the first one a letter or digit", clip(name), mostName)
	}
	return nil
}

// clip shortens foreign text for an error message.
func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// Text returns what is signed.
func (m *Manifest) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\nlist %s\nnumber %d\nmade %s\n", manifestHead, m.List, m.Number, m.Made.UTC().Format(manifestTime))
	fmt.Fprintf(&b, "changed %s\n", m.Change)
	for _, p := range m.Past {
		fmt.Fprintf(&b, "past %d %s %s\n", p.Number, p.Digest, p.Change)
	}
	fmt.Fprintf(&b, "records %d\n", m.Records)
	for _, k := range hashdb.Kinds() {
		if n := m.Entries[k]; n > 0 {
			fmt.Fprintf(&b, "entries %s %d\n", k, n)
		}
	}
	fmt.Fprintf(&b, "refused %d\n", m.Refused)
	if m.Settings != "" {
		fmt.Fprintf(&b, "settings %s\n", m.Settings)
	}
	fmt.Fprintf(&b, "base %s\n", m.Base)
	if m.Delta != nil {
		fmt.Fprintf(&b, "delta %s\n", *m.Delta)
	}
	return b.String()
}

// String writes the change as a manifest has it.
func (c Change) String() string {
	return fmt.Sprintf("%d of %d %s", c.Entries, c.Of, cmp.Or(string(c.Leave), "-"))
}

// String writes the file as a manifest has it.
func (f File) String() string { return fmt.Sprintf("%s %d %x", f.Name, f.Size, f.SHA256) }

// Digest is the SHA-256 of the manifest's text in hexadecimal digits. Signatures are not a part of it.
func (m *Manifest) Digest() string { return textDigest(m.Text()) }

func textDigest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// Version names the snapshot within its list: number, hyphen, and the first 12 digits of the digest.
func (m *Manifest) Version() string {
	return strconv.Itoa(m.Number) + "-" + m.Digest()[:versionHexDigits]
}

// String returns the list's name, an at sign and the version.
func (m *Manifest) String() string { return m.List + "@" + m.Version() }

// Total is how many entries can match.
func (m *Manifest) Total() int {
	n := 0
	for _, c := range m.Entries {
		n += c
	}
	return n
}

// ParseManifest reads the text of a manifest, without signatures. It takes exactly what [Manifest.Text] writes.
func ParseManifest(text string) (*Manifest, error) {
	m, err := parseManifest(text)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return m, nil
}

func parseManifest(text string) (*Manifest, error) {
	if len(text) > mostManifest {
		return nil, fmt.Errorf("%d bytes, at most %d are read", len(text), mostManifest)
	}
	lines := &factLines{rest: text}
	m := &Manifest{Entries: make(map[hashdb.Kind]int)}
	if line := lines.next(); line != manifestHead {
		return nil, fmt.Errorf("it begins with %q, want %q", clip(line), manifestHead)
	}
	m.List = lines.fact("list")
	m.Number = lines.number(lines.fact("number"))
	made, err := time.Parse(manifestTime, lines.fact("made"))
	lines.fail(err)
	m.Made = made.UTC()
	m.Change = lines.change(lines.fact("changed"))
	for len(m.Past) < mostPast && lines.has("past") {
		number, rest, _ := strings.Cut(lines.fact("past"), " ")
		digest, change, _ := strings.Cut(rest, " ")
		m.Past = append(m.Past, Past{Number: lines.number(number), Digest: digest, Change: lines.change(change)})
	}
	m.Records = lines.number(lines.fact("records"))
	for lines.has("entries") && lines.err == nil {
		kind, n, _ := strings.Cut(lines.fact("entries"), " ")
		k, err := hashdb.ParseKind(kind)
		lines.fail(err)
		m.Entries[k] = lines.number(n)
	}
	m.Refused = lines.number(lines.fact("refused"))
	if lines.has("settings") {
		m.Settings = lines.fact("settings")
	}
	m.Base = lines.file(lines.fact("base"))
	if lines.has("delta") {
		f := lines.file(lines.fact("delta"))
		m.Delta = &f
	}
	if lines.err != nil {
		return nil, lines.err
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	// Whatever the reading above let pass: no two texts mean the same.
	if m.Text() != text {
		return nil, errors.New("not in the form in which manifests are written")
	}
	return m, nil
}

func (m *Manifest) check() error {
	if err := CheckName(m.List); err != nil {
		return err
	}
	if m.Number < 1 {
		return fmt.Errorf("number %d", m.Number)
	}
	for i, p := range m.Past {
		if p.Number != m.Number-1-i || p.Number < 1 || !isDigest(p.Digest) {
			return fmt.Errorf("snapshot %d is said to be in the past of %d, or its digest is none", p.Number, m.Number)
		}
	}
	for _, l := range slices.Concat([]Change{m.Change}, changes(m.Past)) {
		if l.Leave != "" && l.Leave != Approved && l.Leave != Filling {
			return fmt.Errorf("a change that is %q", clip(string(l.Leave)))
		}
	}
	if m.Settings != "" && !isDigest(m.Settings) {
		return errors.New("settings are a digest")
	}
	if err := m.Base.check(m.List, baseSuffix); err != nil {
		return err
	}
	if m.Delta != nil {
		return m.Delta.check(m.List, deltaSuffix)
	}
	return nil
}

func changes(past []Past) []Change {
	out := make([]Change, len(past))
	for i, p := range past {
		out[i] = p.Change
	}
	return out
}

// check makes sure that the name leads to a file of the list beside the manifest and nowhere else.
func (f *File) check(list, suffix string) error {
	rest, ok := strings.CutPrefix(f.Name, list+"@")
	middle, ends := strings.CutSuffix(rest, suffix)
	if !ok || !ends || middle == "" || strings.Trim(middle, "0123456789abcdef-") != "" {
		return fmt.Errorf("%q is no %s file of list %s", clip(f.Name), suffix, list)
	}
	return nil
}

func isDigest(s string) bool {
	return len(s) == 2*sha256.Size && strings.Trim(s, "0123456789abcdef") == ""
}

// factLines reads lines of a word, a space and the rest, and keeps the first fault.
type factLines struct {
	rest string
	err  error
}

func (l *factLines) fail(err error) {
	if l.err == nil && err != nil {
		l.err = err
	}
}

func (l *factLines) next() string {
	line, rest, ended := strings.Cut(l.rest, "\n")
	if !ended {
		l.fail(errors.New("it ends in the middle"))
	}
	l.rest = rest
	return line
}

func (l *factLines) has(word string) bool { return strings.HasPrefix(l.rest, word+" ") }

func (l *factLines) fact(word string) string {
	line := l.next()
	fact, ok := strings.CutPrefix(line, word+" ")
	if !ok {
		l.fail(fmt.Errorf("line %q, want one of %s", clip(line), word))
	}
	return fact
}

func (l *factLines) number(s string) int {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > mostNumber {
		l.fail(fmt.Errorf("%q is no number", clip(s)))
		return 0
	}
	return int(n)
}

func (l *factLines) change(s string) Change {
	f := strings.Split(s, " ")
	if len(f) != 4 || f[1] != "of" {
		l.fail(fmt.Errorf("%q is no change", clip(s)))
		return Change{}
	}
	c := Change{Entries: l.number(f[0]), Of: l.number(f[2])}
	if f[3] != "-" {
		c.Leave = Leave(f[3])
	}
	return c
}

func (l *factLines) file(s string) File {
	f := strings.Split(s, " ")
	if len(f) != 3 {
		l.fail(fmt.Errorf("%q is no file", clip(s)))
		return File{}
	}
	out := File{Name: f[0], Size: int64(l.number(f[1]))}
	sum, err := hex.DecodeString(f[2])
	if err != nil || len(sum) != len(out.SHA256) {
		l.fail(fmt.Errorf("%q is no digest", clip(f[2])))
		return File{}
	}
	copy(out.SHA256[:], sum)
	return out
}

// split divides a manifest's file into its text and the lines of signatures.
func split(data []byte) (text string, signatures []byte, err error) {
	at := bytes.LastIndex(data, []byte("\n\n"))
	if at < 0 {
		return "", nil, errors.New("not a manifest with its signatures")
	}
	return string(data[:at+1]), data[at+2:], nil
}
