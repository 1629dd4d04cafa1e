package hashmatch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/dmguard/dmguard/hashdb"
	"github.com/dmguard/dmguard/hashdb/lists"
	"github.com/dmguard/dmguard/hashdb/pdq"
	"github.com/dmguard/dmguard/pipeline"
)

// Config are the settings of the detector.
type Config struct {
	// Category is that of entries which name none and whose list names none.
	Category pipeline.Category `yaml:"category"`

	// MaxFindings is how many findings there are of one attachment at most.
	MaxFindings int `yaml:"max_findings"`

	// Expand names what pictures are looked up by beside the PDQ hashes of
	// their eight orientations: each finds more, and each costs time for every
	// picture.
	Expand []Expansion `yaml:"expand"`
}

// Expansion names further hashes of a picture.
type Expansion string

// What a picture may also be looked up by.
const (
	// ExpandNative is PDQ at the picture's own size, as Hasher-Matcher-Actioner
	// and pdqhash for Python compute it.
	ExpandNative Expansion = "native"
	// ExpandTrimmed is PDQ without a border of one colour, where there is one.
	ExpandTrimmed Expansion = "trimmed"
)

var expansions = map[Expansion]uint8{ExpandNative: wantNative, ExpandTrimmed: wantTrimmed}

// DefaultConfig returns the settings of the reference configuration.
func DefaultConfig() Config {
	return Config{Category: "known_media", MaxFindings: 8, Expand: []Expansion{ExpandTrimmed}}
}

// Detector looks up what [Preparer] computed.
type Detector struct {
	cfg        Config
	set        *hashdb.Set
	governance *lists.Governance
}

// New returns a detector over set, which may be nil: then it finds nothing and
// still reports what could not be looked at. How far matches are acted upon,
// governance says; nil lets every one stand.
func New(cfg Config, set *hashdb.Set, governance *lists.Governance) (*Detector, error) {
	var errs []error
	if cfg.Category == "" {
		errs = append(errs, errors.New("missing category"))
	}
	if cfg.MaxFindings < 1 || cfg.MaxFindings > hashdb.MostMatches {
		errs = append(errs, fmt.Errorf("max_findings is %d, want 1 to %d", cfg.MaxFindings, hashdb.MostMatches))
	}
	for i, e := range cfg.Expand {
		if expansions[e] == 0 {
			errs = append(errs, fmt.Errorf("expand names %q, want %s or %s", e, ExpandNative, ExpandTrimmed))
		} else if slices.Contains(cfg.Expand[:i], e) {
			errs = append(errs, fmt.Errorf("expand names %q twice", e))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &Detector{cfg, set, governance}, nil
}

// Name implements [pipeline.Detector].
func (*Detector) Name() string { return "hashmatch" }

// Detect implements [pipeline.Detector]. Findings come in the order of the
// attachments, of one attachment the most certain first. Their label is the
// kind of hash, so that a policy may trust digests more than likeness. A digest
// scores 1, a video as much of the known one as it shows, a PDQ hash 1 at distance 0
// down to 0.5 at the list's threshold, a perception hash half of that, since
// strangers are that near to one. Frames of videos are also looked up among
// pictures, and Match.Frame is then their second. A match by a perception hash asks
// a person at most.
//
// Where a list of known false positives knows the attachment too, the match is
// suppressed, which the finding says: it scores 0 and nothing follows from it.
func (d *Detector) Detect(ctx context.Context, item *pipeline.Item) (pipeline.Answer, error) {
	var answer pipeline.Answer
	var faults faultList
	for i := range item.Message.Attachments {
		if err := ctx.Err(); err != nil {
			return answer, err
		}
		id := item.Message.Attachments[i].ID
		if i >= len(item.Media) {
			faults.add(id, "it was not prepared")
			continue
		}
		findings, missed := d.attachment(&item.Media[i])
		answer.Findings = append(answer.Findings, findings...)
		if item.Media[i].Err != "" {
			faults.add(id, item.Media[i].Err)
		}
		for _, what := range missed {
			faults.add(id, what)
		}
	}
	return answer, faults.err()
}

// found is a match with where in the attachment it was found.
type found struct {
	hashdb.Match
	frame, quality int
	ofVideo        bool
	score          float64 // 0 for that of [score]
	note           string
	algorithm      string
	negative       *found // the known false positive that speaks against it
}

// negates reports whether a known false positive speaks against a match. It must
// be as certain: a likeness never speaks against a digest, nor MD5, for which
// collisions are made, against SHA-256. Of likenesses by one kind of hash the
// nearer counts, and only within its own frame, or a harmless frame would
// excuse another. What the platform says of a picture does not speak against what was seen.
func (n *found) negates(m *found) bool {
	switch {
	case n.Kind > m.Kind || n.algorithm == platform && m.algorithm != platform:
		return false
	case n.Kind.Threshold() == 0:
		return true
	case m.Kind == hashdb.VPDQ:
		return n.Kind == hashdb.VPDQ && n.score >= m.score // no single frame speaks against a video
	}
	return n.frame == m.frame && (n.Kind < m.Kind || n.Distance <= m.Distance)
}

// attachment looks up all hashes of one attachment.
func (d *Detector) attachment(m *pipeline.Media) (findings []pipeline.Finding, missed []string) {
	var all, negatives []found
	more, malformed := 0, false
	isVideo := slices.ContainsFunc(m.Hashes, func(h pipeline.Hash) bool { return h.Kind == hashdb.VPDQ.String() })
	var frames []hashdb.Query
	var seconds []int
	for i := range m.Hashes {
		h := &m.Hashes[i]
		query, err := queryOf(h)
		if err != nil {
			malformed = true
			continue
		}
		if h.Kind == hashdb.VPDQ.String() {
			frames, seconds = append(frames, query), append(seconds, h.Frame)
			continue
		}
		result := d.set.Match(query)
		more = max(more, result.More)
		for _, match := range result.Matches {
			f := found{Match: match, frame: h.Frame, algorithm: h.Algorithm, ofVideo: isVideo && match.Kind == hashdb.PDQ}
			if h.Quality != nil {
				f.quality = *h.Quality
			}
			if !d.governance.Negative(f.List) {
				all = append(all, f)
			} else if threshold, ok := d.governance.Negates(&f.Match); ok {
				f.Threshold = threshold
				negatives = append(negatives, f)
			}
		}
	}
	videos := d.set.MatchVideo(frames)
	more = max(more, videos.More)
	for i := range videos.Matches {
		if f := foundVideo(&videos.Matches[i], seconds); d.governance.Negative(f.List) {
			negatives = append(negatives, f)
		} else {
			all = append(all, f)
		}
	}
	order(negatives)
	for i := range all {
		if n := slices.IndexFunc(negatives, func(n found) bool { return n.negates(&all[i]) }); n >= 0 {
			all[i].negative = &negatives[n]
		}
	}
	all = nearest(all)
	if extra := len(all) - d.cfg.MaxFindings; extra > 0 {
		all, more = all[:d.cfg.MaxFindings], more+extra
	}
	for i := range all {
		findings = append(findings, d.finding(m.AttachmentID, &all[i]))
	}
	if more > 0 {
		findings[len(findings)-1].Reason += fmt.Sprintf("; %d or more entries beside these match", more)
	}
	if malformed {
		missed = append(missed, "a hash of it is malformed")
	}
	if videos.Incomplete {
		missed = append(missed, "its frames are like more of those in lists than are compared")
	}
	return findings, missed
}

// foundVideo takes over a video match, of frames at these seconds.
func foundVideo(m *hashdb.VideoMatch, seconds []int) found {
	share := float64(m.Met) / float64(m.Frames)
	return found{
		Match: hashdb.Match{
			List: m.List, ListVersion: m.ListVersion, Entry: m.Entry, Category: m.Category,
			Kind: hashdb.VPDQ, Distance: m.Distance, Threshold: m.Threshold,
		},
		frame: seconds[m.Query], score: share,
		note: fmt.Sprintf("%d of %d known frames, the first at second %d", m.Met, m.Frames, seconds[m.Query]),
	}
}

func queryOf(h *pipeline.Hash) (hashdb.Query, error) {
	q := hashdb.Query{Quality: hashdb.UnknownQuality}
	kind, err := hashdb.ParseKind(h.Kind)
	if err != nil {
		return q, err
	}
	if h.Quality != nil {
		q.Quality = *h.Quality
	}
	for _, text := range append([]string{h.Value}, h.Variants...) {
		parsed, err := hashdb.ParseHash(kind, text)
		if err != nil {
			return q, err
		}
		q.Hashes = append(q.Hashes, parsed)
	}
	return q, nil
}

// order puts the most certain match first, and those that something speaks
// against last.
func order(all []found) {
	suppressed := func(f *found) int {
		if f.negative != nil {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(all, func(a, b found) int {
		return cmp.Or(
			cmp.Compare(suppressed(&a), suppressed(&b)), cmp.Compare(a.Kind, b.Kind), cmp.Compare(b.score, a.score), cmp.Compare(a.Distance, b.Distance),
			cmp.Compare(a.List, b.List), cmp.Compare(a.Entry, b.Entry), cmp.Compare(a.frame, b.frame),
		)
	})
}

// nearest orders matches and keeps the first one for each entry of a list.
func nearest(all []found) []found {
	order(all)
	type key struct{ list, entry string }
	seen := map[key]bool{}
	return slices.DeleteFunc(all, func(f found) bool {
		k := key{f.List, f.Entry}
		again := seen[k]
		seen[k] = true
		return again
	})
}

func (d *Detector) finding(attachment string, f *found) pipeline.Finding {
	kind := f.Kind.String()
	reason := describe(&f.Match)
	switch {
	case f.note != "":
		reason = fmt.Sprintf("list %s, entry %s, %s: %s", f.List, f.Entry, kind, f.note)
	case f.ofVideo:
		reason += fmt.Sprintf(", at second %d of the video", f.frame)
	}
	switch f.algorithm {
	case platform:
		reason += ", by the platform's own hash"
	case trimmedAlgorithm:
		reason += ", without its border"
	case pdq.Native.Algorithm():
		reason += ", at its own size"
	}
	out := pipeline.Finding{
		Category: cmp.Or(pipeline.Category(f.Category), d.cfg.Category),
		Label:    kind,
		Score:    cmp.Or(f.score, score(&f.Match)),
		Reason:   reason,
		Match: &pipeline.Match{
			AttachmentID: attachment,
			Frame:        f.frame,
			Kind:         kind,
			List:         f.List,
			ListVersion:  f.ListVersion,
			Entry:        f.Entry,
			Distance:     f.Distance,
			Threshold:    f.Threshold,
			Quality:      f.quality,
		},
	}
	if f.negative != nil {
		out.Bound(pipeline.Allow, "suppressed, since a known false positive matches: "+describe(&f.negative.Match))
	}
	for _, c := range d.governance.Cautions(&f.Match) {
		if c.Suppress {
			out.Bound(pipeline.Allow, "suppressed, since "+c.Because)
		} else {
			out.Bound(pipeline.Review, "review at most, since "+c.Because)
		}
	}
	if f.Kind == hashdb.PHash {
		out.Bound(pipeline.Review, "review at most, since strangers' pictures may be as near")
	}
	return out
}

func describe(m *hashdb.Match) string {
	if m.Kind.Threshold() > 0 {
		return fmt.Sprintf("list %s, entry %s, %s distance %d of %d", m.List, m.Entry, m.Kind, m.Distance, m.Threshold)
	}
	return fmt.Sprintf("list %s, entry %s, the same %s", m.List, m.Entry, m.Kind)
}

func score(m *hashdb.Match) float64 {
	s := 1.0
	if m.Threshold > 0 {
		s -= float64(m.Distance) / float64(2*m.Threshold)
	}
	if m.Kind == hashdb.PHash {
		s /= 2
	}
	return s
}

// faultList collects what could not be looked at.
type faultList struct {
	texts []string
	more  int
}

func (l *faultList) add(attachment, what string) {
	const most, longest = 8, 64
	if len(l.texts) == most {
		l.more++
		return
	}
	if len(attachment) > longest {
		attachment = attachment[:longest] + "…"
	}
	l.texts = append(l.texts, fmt.Sprintf("attachment %q: %s", attachment, what))
}

func (l *faultList) err() error {
	switch {
	case len(l.texts) == 0:
		return nil
	case l.more > 0:
		return fmt.Errorf("not looked at: %s; and %d more", strings.Join(l.texts, "; "), l.more)
	}
	return fmt.Errorf("not looked at: %s", strings.Join(l.texts, "; "))
}
