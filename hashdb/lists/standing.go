package lists

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sys/unix"
)

// StandingFile is the name of the file in the folder of lists that says which entries are not acted upon as policy says.
const StandingFile = "standing.json"

// EntryName names an entry of a list.
type EntryName struct {
	List  string `json:"list"`
	Entry string `json:"entry"`
}

func (n EntryName) compare(o EntryName) int {
	return cmp.Or(cmp.Compare(n.List, o.List), cmp.Compare(n.Entry, o.Entry))
}

// State says how far matches with an entry are acted upon.
type State string

// States of an entry. One that has none is acted upon as policy says.
const (
	// Held entries ask a person and no more.
	Held State = "held"
	// Withdrawn entries are shown where they match, and nothing follows.
	Withdrawn State = "withdrawn"
	// Released entries are acted upon as policy says; what was known up to then holds them no more.
	Released State = "released"
)

// Cause says what a standing rests on.
type Cause string

// Causes of a standing.
const (
	ByHand     Cause = "hand"     // somebody said so
	ByFlood    Cause = "flood"    // it suddenly matched far more messages than before
	ByReview   Cause = "review"   // reviewers dismissed what it matched, or confirmed it
	governedBy       = "governor" // who sets a standing that no person has set
)

// Standing is how an entry stands.
type Standing struct {
	EntryName
	State  State  `json:"state"`
	Cause  Cause  `json:"cause"`
	Reason string `json:"reason"` // one line, up to 500 bytes
	By     string `json:"by"`     // who says so
	// Since is the time up to which it takes account of what happened.
	Since time.Time `json:"since"`
}

// StandingChange is one line of the history of standings.
type StandingChange struct {
	At time.Time `json:"at"`
	// Was is the state before, or "".
	Was State `json:"was,omitempty"`
	Standing
}

// Limits of a file of standings.
const (
	mostStandings   = 100_000
	mostHistory     = 1000
	maxStandingFile = 256 << 20
	maxReason       = 500
	maxName         = 256
)

// Standings are how all entries stand, as one version of the file says it. The zero value has none. A value that
// was read is not changed any more and may be shared; nil has none.
type Standings struct {
	version int
	digest  string
	entries map[EntryName]Standing
	history []StandingChange // oldest first
}

// standingsJSON is the file.
type standingsJSON struct {
	Format    int              `json:"format"`
	Version   int              `json:"version"`
	Standings []Standing       `json:"standings"`
	History   []StandingChange `json:"history"`
}

// ReadStandings reads the file of standings in a folder. Where there is none, no entry has a standing. It is all
// or nothing: what is wrong with the file is an error.
func ReadStandings(dir string) (*Standings, error) {
	path := filepath.Join(dir, StandingFile)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &Standings{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read standings: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxStandingFile+1))
	if err == nil && len(data) > maxStandingFile {
		err = fmt.Errorf("over %d bytes", maxStandingFile)
	}
	if err != nil {
		return nil, fmt.Errorf("read standings: %s: %w", path, err)
	}
	s, err := parseStandings(data)
	if err != nil {
		return nil, fmt.Errorf("read standings: %s: %w", path, err)
	}
	return s, nil
}

func parseStandings(data []byte) (*Standings, error) {
	var file standingsJSON
	if err := json.Unmarshal(data, &file, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("wrong JSON: %w", err)
	}
	switch {
	case file.Format != 1:
		return nil, fmt.Errorf("format %d, this program knows 1", file.Format)
	case file.Version < 0:
		return nil, fmt.Errorf("version %d", file.Version)
	case len(file.Standings) > mostStandings || len(file.History) > mostHistory:
		return nil, fmt.Errorf("%d standings and %d changes, at most %d and %d are read", len(file.Standings), len(file.History), mostStandings, mostHistory)
	}
	s := &Standings{version: file.Version, entries: make(map[EntryName]Standing, len(file.Standings)), history: file.History}
	var errs []error
	for i := range file.Standings {
		st := &file.Standings[i]
		if err := st.check(); err != nil && len(errs) < 100 {
			errs = append(errs, fmt.Errorf("standing %d: %w", i+1, err))
		}
		if _, again := s.entries[st.EntryName]; again && len(errs) < 100 {
			errs = append(errs, fmt.Errorf("standing %d: the entry has one already", i+1))
		}
		s.entries[st.EntryName] = *st
	}
	for i := range file.History {
		if err := file.History[i].check(); err != nil && len(errs) < 100 {
			errs = append(errs, fmt.Errorf("change %d: %w", i+1, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	// The history says nothing about how a match is judged.
	sum, err := json.Marshal(s.All(), json.Deterministic(true))
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(sum)
	s.digest = hex.EncodeToString(digest[:6])
	return s, nil
}

// check reports every fault of a standing.
func (st *Standing) check() error {
	var errs []error
	for _, t := range []struct {
		name, text string
		most       int
	}{{"list", st.List, maxName}, {"entry", st.Entry, maxName}, {"by", st.By, maxName}, {"reason", st.Reason, maxReason}} {
		switch {
		case t.text == "":
			errs = append(errs, fmt.Errorf("%s is missing", t.name))
		case len(t.text) > t.most:
			errs = append(errs, fmt.Errorf("%s has %d bytes, at most %d are taken", t.name, len(t.text), t.most))
		case !utf8.ValidString(t.text) || strings.TrimSpace(t.text) != t.text || strings.ContainsFunc(t.text, func(r rune) bool { return !unicode.IsPrint(r) }):
			errs = append(errs, fmt.Errorf("%s is not one line of text that prints, without spaces around it", t.name))
		}
	}
	switch st.State {
	case Held, Withdrawn, Released:
	default:
		errs = append(errs, errors.New("state is none of held, withdrawn, released"))
	}
	switch st.Cause {
	case ByHand, ByFlood, ByReview:
	default:
		errs = append(errs, errors.New("cause is none of hand, flood, review"))
	}
	if st.Since.IsZero() {
		errs = append(errs, errors.New("since is missing"))
	}
	return errors.Join(errs...)
}

// Of returns how an entry stands, if it has a standing.
func (s *Standings) Of(list, entry string) (Standing, bool) {
	if s == nil {
		return Standing{}, false
	}
	st, ok := s.entries[EntryName{list, entry}]
	return st, ok
}

// All returns the standings in the order of lists and entries.
func (s *Standings) All() []Standing {
	if s == nil {
		return nil
	}
	return slices.SortedFunc(maps.Values(s.entries), func(a, b Standing) int { return a.compare(b.EntryName) })
}

// History returns the last thousand changes, oldest first.
func (s *Standings) History() []StandingChange {
	if s == nil {
		return nil
	}
	return slices.Clone(s.history)
}

// Version names the standings: the number of changes of the file, and a digest of what they say. "" where there
// never were any.
func (s *Standings) Version() string {
	if s == nil || s.version == 0 {
		return ""
	}
	return fmt.Sprintf("%d-%s", s.version, s.digest)
}

// Set notes how an entry stands from now on. It is for use within [ChangeStandings].
func (s *Standings) Set(st Standing, now time.Time) error {
	st.Since = st.Since.UTC()
	if err := st.check(); err != nil {
		return fmt.Errorf("standing of an entry: %w", err)
	}
	was, known := s.entries[st.EntryName]
	if !known && len(s.entries) >= mostStandings {
		return fmt.Errorf("standing of an entry: there are %d already", mostStandings)
	}
	if s.entries == nil {
		s.entries = map[EntryName]Standing{}
	}
	s.entries[st.EntryName] = st
	s.history = append(s.history, StandingChange{At: now.UTC(), Was: was.State, Standing: st})
	s.history = s.history[max(0, len(s.history)-mostHistory):]
	return nil
}

// ChangeStandings reads the file of standings in a folder, has it changed and puts it in place, atomically and
// durably, while nobody else can. Where change fails, or changes nothing, the file stays as it is. It returns what
// is in force then.
func ChangeStandings(dir string, change func(*Standings) error) (*Standings, error) {
	lock, err := os.OpenFile(filepath.Join(dir, ".standing.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("change standings: %w", err)
	}
	defer lock.Close() // and so unlocks
	for {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EINTR) {
			return nil, fmt.Errorf("change standings: locking the folder: %w", err)
		}
	}
	before, err := ReadStandings(dir)
	if err != nil {
		return nil, err
	}
	next := &Standings{version: before.version, entries: maps.Clone(before.entries), history: slices.Clone(before.history)}
	if err := change(next); err != nil {
		return nil, err
	}
	if maps.Equal(next.entries, before.entries) && len(next.history) == len(before.history) {
		return before, nil
	}
	data, err := json.Marshal(standingsJSON{
		Format: 1, Version: before.version + 1, Standings: next.All(), History: next.history,
	}, json.Deterministic(true), jsontext.WithIndent("  "))
	if err != nil {
		return nil, fmt.Errorf("change standings: %w", err)
	}
	data = append(data, '\n')
	next, err = parseStandings(data) // what is written can be read
	if err != nil {
		return nil, fmt.Errorf("change standings: %w", err)
	}
	if err := writeFile(filepath.Join(dir, StandingFile), data, 0o644); err != nil {
		return nil, fmt.Errorf("change standings: %w", err)
	}
	return next, nil
}
