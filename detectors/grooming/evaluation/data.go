package evaluation

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/dmguard/dmguard/detectors/grooming"
)

//go:embed data
var embedded embed.FS

// Split is the side of the data that something belongs to. What one side was
// tuned or trained on never appears on the other.
type Split string

// The two sides.
const (
	Train Split = "train"
	Test  Split = "test"
)

func (s Split) valid() bool { return s == Train || s == Test }

// Data is everything that conversations are made of: short phrases, scripts of
// harmless conversations, fillers and small talk. It is read only once loaded.
type Data struct {
	risk      []*riskAuthor
	harmless  []*riskAuthor // lines that use the words of a label to a harmless end
	negatives []*scene
	slots     map[string]map[string]sides // by name, by language
	talk      map[string]*talk            // by language
	everyday  []*talkFile                 // talk that is full of what looks like cues, to train on
	checks    []*functionality

	small []*talkFile // until all files are read
}

// sides are lists for train and for test.
type sides struct {
	Train []string `yaml:"train"`
	Test  []string `yaml:"test"`
}

func (s sides) of(split Split) []string {
	if split == Test {
		return s.Test
	}
	return s.Train
}

// riskAuthor is one author's wordings of the risk side: short phrases by intent.
type riskAuthor struct {
	name, language, register string
	split                    Split
	wordings                 map[string][]*wording // by label
}

// wording is one phrase with its id, author/label/number.
type wording struct {
	id, author, label string
	*template
}

type riskFile struct {
	Author   string              `yaml:"author"`
	Language string              `yaml:"language"`
	Register string              `yaml:"register"`
	Split    Split               `yaml:"split"`
	Labels   map[string][]string `yaml:"labels"`
}

// scene is one script of a harmless conversation, and who talks in it.
type scene struct {
	id, author, scenario, language string
	split                          Split
	ages                           map[string][2]int
	gap                            *int // the most years between them
	connected                      float64
	minors                         float64 // whom one of them writes to, on average
	couple                         bool
	lines                          []sceneLine
}

type sceneLine struct {
	role string
	*template
}

type negativeFile struct {
	Author    string `yaml:"author"`
	Split     Split  `yaml:"split"`
	Scenarios []struct {
		Name     string            `yaml:"name"`
		Language string            `yaml:"language"`
		Ages     map[string][2]int `yaml:"ages"`

		// Gap bounds the years between the two, where they are of an age.
		Gap *int `yaml:"gap"`

		// Connected is how probable it is that they are connected, Minors how
		// many minors "a" writes to in a day, on average.
		Connected float64 `yaml:"connected"`
		Minors    float64 `yaml:"minors"`

		// Couple says that the two may be a couple: what they are called is
		// drawn, and the results are told apart by it.
		Couple  bool     `yaml:"couple"`
		Scripts []string `yaml:"scripts"`
	} `yaml:"scenarios"`
}

// talk is small talk and neutral replies in one language.
type talk struct {
	Openers sides             `yaml:"openers"`
	Small   []exchange        `yaml:"small"`
	Replies map[string]sides  `yaml:"replies"` // by persona
	Short   map[string]string `yaml:"short"`   // spellings of short messages
}

// talkFile is small talk by one author.
type talkFile struct {
	Author   string     `yaml:"author"`
	Language string     `yaml:"language"`
	Split    Split      `yaml:"split"`
	Small    [][]string `yaml:"small"`
}

// exchange is what somebody says and what is answered, one split each.
type exchange struct {
	Split Split    `yaml:"split"`
	Lines []string `yaml:"lines"`
}

// LoadData reads the data that comes with the program.
func LoadData() (*Data, error) {
	sub, err := fs.Sub(embedded, "data")
	if err != nil {
		return nil, err
	}
	return readData(sub)
}

// readData reads data files and reports every fault in them: risk-*.yaml,
// harmless-*.yaml, negative-*.yaml, everyday-*.yaml, slots.yaml, talk.yaml,
// talk-*.yaml and check-*.yaml.
func readData(files fs.FS) (*Data, error) {
	d := &Data{}
	var errs []error
	names, err := fs.Glob(files, "*.yaml")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		data, err := fs.ReadFile(files, name)
		if err == nil {
			err = d.add(name, data)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	for _, f := range d.small {
		if err := d.addTalk(f); err != nil {
			errs = append(errs, fmt.Errorf("small talk of %s: %w", f.Author, err))
		}
	}
	d.small = nil
	if err := errors.Join(append(errs, d.validate())...); err != nil {
		return nil, fmt.Errorf("evaluation data: %w", err)
	}
	return d, nil
}

func (d *Data) add(name string, data []byte) error {
	base := strings.TrimSuffix(path.Base(name), ".yaml")
	switch kind, author, _ := strings.Cut(base, "-"); kind {
	case "risk", "harmless":
		var f riskFile
		if err := decode(data, &f); err != nil {
			return err
		}
		if kind == "risk" {
			return addPhrases(&d.risk, &f)
		}
		return addPhrases(&d.harmless, &f)
	case "negative":
		var f negativeFile
		if err := decode(data, &f); err != nil {
			return err
		}
		return d.addNegatives(&f)
	case "check":
		var f checkFile
		if err := decode(data, &f); err != nil {
			return err
		}
		return d.addChecks(&f)
	case "everyday":
		var f talkFile
		if err := decode(data, &f); err != nil {
			return err
		}
		if f.Author == "" || f.Split != Train || f.Language == "" || len(f.Small) == 0 {
			return errors.New("author, language, split (train) and small are needed")
		}
		d.everyday = append(d.everyday, &f)
		return nil
	case "slots":
		return decode(data, &d.slots)
	case "talk":
		if author == "" {
			return decode(data, &d.talk)
		}
		var f talkFile
		if err := decode(data, &f); err != nil {
			return err
		}
		d.small = append(d.small, &f)
		return nil
	default:
		return errors.New("is neither risk-*, harmless-*, negative-*, everyday-*, check-*, talk-*, slots nor talk")
	}
}

func decode(data []byte, into any) error {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(into); err != nil {
		return err
	}
	if err := dec.Decode(new(any)); !errors.Is(err, io.EOF) {
		return errors.New("more than one document")
	}
	return nil
}

func addPhrases(to *[]*riskAuthor, f *riskFile) error {
	var errs []error
	if f.Author == "" || f.Language == "" || !f.Split.valid() {
		errs = append(errs, errors.New("author, language and split (train or test) are needed"))
	}
	if slices.ContainsFunc(*to, func(a *riskAuthor) bool { return a.name == f.Author }) {
		errs = append(errs, fmt.Errorf("author %q is in another file", f.Author))
	}
	a := &riskAuthor{name: f.Author, language: f.Language, register: f.Register, split: f.Split, wordings: map[string][]*wording{}}
	known := grooming.Labels()
	for _, label := range slices.Sorted(maps.Keys(f.Labels)) {
		if !slices.Contains(known, label) {
			errs = append(errs, fmt.Errorf("unknown label %q: it is one of %v", label, known))
		}
		seen := map[string]bool{}
		for i, phrase := range f.Labels[label] {
			t, err := parseTemplate(phrase)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			if seen[phrase] {
				errs = append(errs, fmt.Errorf("phrase %q stands twice under %s", phrase, label))
			}
			seen[phrase] = true
			a.wordings[label] = append(a.wordings[label], &wording{fmt.Sprintf("%s/%s/%d", f.Author, label, i+1), f.Author, label, t})
		}
	}
	*to = append(*to, a)
	return errors.Join(errs...)
}

// addTalk adds to what talk.yaml holds.
func (d *Data) addTalk(f *talkFile) error {
	t := d.talk[f.Language]
	if f.Author == "" || !f.Split.valid() || t == nil {
		return errors.New("author, split (train or test) and a language of talk.yaml are needed")
	}
	var errs []error
	for i, lines := range f.Small {
		if len(lines) == 0 || slices.ContainsFunc(lines, func(l string) bool { return strings.TrimSpace(l) == "" }) {
			errs = append(errs, fmt.Errorf("exchange %d has no lines, or an empty one", i+1))
		}
		t.Small = append(t.Small, exchange{f.Split, lines})
	}
	return errors.Join(errs...)
}

func (d *Data) addNegatives(f *negativeFile) error {
	var errs []error
	if f.Author == "" || !f.Split.valid() {
		errs = append(errs, errors.New("author and split (train or test) are needed"))
	}
	nth := map[string]int{}
	for i := range f.Scenarios {
		s := &f.Scenarios[i]
		if s.Name == "" || s.Language == "" || len(s.Scripts) == 0 {
			errs = append(errs, fmt.Errorf("scenario %d needs name, language and scripts", i+1))
		}
		for role, ages := range s.Ages {
			if (role != "a" && role != "b") || ages[0] < 6 || ages[1] < ages[0] || ages[1] > 95 {
				errs = append(errs, fmt.Errorf("scenario %s: ages are of a and b, from 6 to 95, rising", s.Name))
			}
		}
		if s.Couple != (s.Name == coupleScenario) {
			errs = append(errs, fmt.Errorf("scenario %s: couple is true for %s and nothing else", s.Name, coupleScenario))
		}
		for _, script := range s.Scripts {
			nth[s.Name+s.Language]++
			sc := &scene{
				id:     fmt.Sprintf("%s/%s/%s/%d", f.Author, s.Name, s.Language, nth[s.Name+s.Language]),
				author: f.Author, scenario: s.Name, language: s.Language, split: f.Split,
				ages: s.Ages, gap: s.Gap, connected: s.Connected, minors: s.Minors, couple: s.Couple,
			}
			for line := range strings.Lines(strings.TrimSpace(script)) {
				role, text, ok := strings.Cut(strings.TrimSpace(line), ":")
				if !ok || (role != "a" && role != "b") {
					errs = append(errs, fmt.Errorf("%s: a line begins with the role a or b and a colon", sc.id))
					continue
				}
				t, err := parseTemplate(strings.TrimSpace(text))
				if err != nil {
					errs = append(errs, fmt.Errorf("%s: %w", sc.id, err))
					continue
				}
				sc.lines = append(sc.lines, sceneLine{role, t})
			}
			d.negatives = append(d.negatives, sc)
		}
	}
	return errors.Join(errs...)
}

// coupleSlots are filled by what a couple is, not from slots.yaml.
var coupleSlots = []string{"partner", "me", "you"}

// validate holds what stands in one file to what stands in others.
func (d *Data) validate() error {
	var errs []error
	check := func(where, language string, split Split, t *template) {
		for _, slot := range t.slots() {
			if slices.Contains(coupleSlots, slot) {
				continue
			}
			if len(d.slots[slot][language].of(split)) == 0 {
				errs = append(errs, fmt.Errorf("%s: slot {%s} has no %s fillers in language %s", where, slot, split, language))
			}
		}
	}
	for _, a := range slices.Concat(d.risk, d.harmless) {
		for _, label := range slices.Sorted(maps.Keys(a.wordings)) {
			for _, w := range a.wordings[label] {
				check(w.id, a.language, a.split, w.template)
			}
		}
		if d.talk[a.language] == nil {
			errs = append(errs, fmt.Errorf("author %s: talk.yaml has nothing in language %q", a.name, a.language))
		}
	}
	for _, s := range d.negatives {
		for _, l := range s.lines {
			check(s.id, s.language, s.split, l.template)
		}
		if d.talk[s.language] == nil {
			errs = append(errs, fmt.Errorf("%s: talk.yaml has nothing in language %q", s.id, s.language))
		}
	}
	for _, slot := range slices.Sorted(maps.Keys(d.slots)) {
		for _, language := range slices.Sorted(maps.Keys(d.slots[slot])) {
			s := d.slots[slot][language]
			for _, filler := range s.Train {
				if slices.Contains(s.Test, filler) {
					errs = append(errs, fmt.Errorf("slots.yaml: filler %q of {%s} in %s is on both sides", filler, slot, language))
				}
			}
		}
	}
	for _, language := range slices.Sorted(maps.Keys(d.talk)) {
		t := d.talk[language]
		for _, split := range []Split{Train, Test} {
			if len(t.small(split)) == 0 || len(t.Openers.of(split)) == 0 {
				errs = append(errs, fmt.Errorf("talk.yaml: %s has no small talk for %s", language, split))
			}
			for _, persona := range personas {
				if len(t.Replies[persona].of(split)) == 0 {
					errs = append(errs, fmt.Errorf("talk.yaml: %s has no %s replies of %s", language, split, persona))
				}
			}
		}
	}
	return errors.Join(errs...)
}

func (t *talk) small(split Split) [][]string {
	var out [][]string
	for _, e := range t.Small {
		if e.Split == split {
			out = append(out, e.Lines)
		}
	}
	return out
}

// personas are how the other one answers. A child never writes anything but
// neutral replies, whichever it is.
var personas = []string{"compliant", "evasive", "refusing", "confused"}

// Authors returns the names of the risk authors of a side, sorted.
func (d *Data) Authors(split Split) []string {
	var names []string
	for _, a := range d.risk {
		if a.split == split {
			names = append(names, a.name)
		}
	}
	slices.Sort(names)
	return names
}

// Languages returns the languages of small talk, sorted.
func (d *Data) Languages() []string { return slices.Sorted(maps.Keys(d.talk)) }

// TestDigest is the SHA-256 of everything on the test side, in a canonical
// form: comments and the order of files do not matter, a changed word does.
// Figures of two evaluations compare only where it is the same.
func (d *Data) TestDigest() string {
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	for _, a := range slices.Concat(d.risk, d.harmless) {
		for _, ws := range a.wordings {
			for _, w := range ws {
				if a.split == Test {
					add("risk %s %s %q", a.language, w.id, w.source)
				}
			}
		}
	}
	for _, s := range d.negatives {
		for i, l := range s.lines {
			if s.split == Test {
				add("negative %s %d %v %v %s %q", s.id, i, s.ages, s.connected, l.role, l.source)
			}
		}
	}
	for slot, languages := range d.slots {
		for language, s := range languages {
			add("slot %s %s %q", slot, language, s.Test)
		}
	}
	for language, t := range d.talk {
		add("openers %s %q", language, t.Openers.Test)
		add("small %s %q", language, t.small(Test))
		for persona, s := range t.Replies {
			add("reply %s %s %q", language, persona, s.Test)
		}
	}
	for _, f := range d.checks {
		for i := range f.pairs {
			if f.split == Test {
				add("check %s %d %q", f.name, i, f.pairs[i])
			}
		}
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(lines, "\n")))
	return hex.EncodeToString(sum[:])
}
