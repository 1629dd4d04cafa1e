package hashdb

import (
	"cmp"
	"encoding/binary"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// DefaultVideoShare is the percentage of a known video's distinct frames that must be met by those of another for the two
// to match, as vPDQ has it. How much of the other is met does not matter: it may be longer.
const DefaultVideoShare = 80

// What a look-up of a video costs at most. Beyond, [VideoResult.Incomplete] is set.
const (
	mostFrames    = 1 << 13 // of the video that is asked for
	mostFrameHits = 1 << 18 // of its frames and known ones
)

// VideoMatch says that a video shows so much of a known one.
type VideoMatch struct {
	List        string
	ListVersion string
	Entry       string
	Category    string
	Frames      int // of the known video, that differ from each other
	Met         int // of these
	Share       int // percent that had to be met, the list's at the time
	Distance    int // bits; of the two frames that are nearest to each other
	Threshold   int // bits, the list's at the time
	Query       int // index of the first frame that met one
}

// VideoResult is the answer of [Set.MatchVideo].
type VideoResult struct {
	// Matches are ordered by how much of the known video was met, the most first, then by list and entry.
	Matches []VideoMatch
	// More counts the matches beyond [MostMatches].
	More int
	// Incomplete says that there was more to compare than is compared, and matches may be missing.
	Incomplete bool
}

// MatchVideo returns the known videos that a video shows, by vPDQ: those of whose distinct frames at least the list's
// share is met. A known frame is met by a frame of the query that is within the list's threshold of it in any of its
// orientations. Each query holds the [VPDQ] hashes of one frame; those of a quality under 50 are passed over. The same
// queries on the same set give the same result.
func (s *Set) MatchVideo(frames []Query) VideoResult {
	var result VideoResult
	if s == nil || s.radius[VPDQ] < 0 {
		return result
	}
	if len(frames) > mostFrames {
		frames, result.Incomplete = frames[:mostFrames], true
	}
	work := scratches.Get().(*scratch)
	defer scratches.Put(work)
	tallies := make(map[video]*tally)
	asked := make(map[Hash]bool)
	hits := 0
search:
	for i := range frames {
		if q := &frames[i]; q.Quality == UnknownQuality || q.Quality >= minQuality {
			for j := range q.Hashes {
				h := &q.Hashes[j]
				if h.kind != VPDQ || asked[*h] {
					continue
				}
				asked[*h] = true
				work.hits = work.hits[:0]
				s.near(h, i, work)
				if hits += len(work.hits); hits > mostFrameHits {
					result.Incomplete = true
					break search
				}
				for k := range work.hits {
					s.count(&work.hits[k], tallies)
				}
			}
		}
	}
	s.judge(&result, tallies)
	runtime.KeepAlive(s) // and so the mapped memory that was read
	return result
}

// video is a known one: a list of the set and an ID.
type video struct {
	list int
	id   string
}

// tally is what was met of a known video.
type tally struct {
	met      map[knownFrame]bool
	category string
	distance int
	query    int
}

type knownFrame struct {
	part   int
	record uint32
}

func (s *Set) count(h *hit, tallies map[video]*tally) {
	e := s.entry(h)
	key := video{e.list, string(e.id)}
	t := tallies[key]
	if t == nil {
		t = &tally{met: make(map[knownFrame]bool), category: e.category, distance: h.distance, query: h.query}
		tallies[key] = t
	}
	t.met[knownFrame{h.part, h.record}] = true
	t.distance = min(t.distance, h.distance)
	t.category = min(t.category, e.category) // frames of one video may differ in it
}

// judge fills the result with the videos of which enough was met.
func (s *Set) judge(result *VideoResult, tallies map[video]*tally) {
	fresh := make(map[video]int)
	if len(tallies) > 0 {
		for i := range s.recent.rows {
			if r := &s.recent.rows[i]; r.hash.kind == VPDQ {
				fresh[video{r.list, r.id}]++
			}
		}
	}
	for key, t := range tallies {
		list := &s.lists[key.list]
		all := fresh[key]
		for i := range s.parts {
			all += s.parts[i].framesOf(key)
		}
		if 100*len(t.met) < list.videoShare*all {
			continue
		}
		result.Matches = append(result.Matches, VideoMatch{
			List: list.name, ListVersion: list.version, Entry: key.id, Category: t.category, Frames: all, Met: len(t.met),
			Share: list.videoShare, Distance: t.distance, Threshold: list.thresholds[VPDQ], Query: t.query,
		})
	}
	slices.SortFunc(result.Matches, func(a, b VideoMatch) int {
		return cmp.Or(cmp.Compare(b.Met*a.Frames, a.Met*b.Frames), strings.Compare(a.List, b.List), strings.Compare(a.Entry, b.Entry))
	})
	if more := len(result.Matches) - MostMatches; more > 0 {
		result.Matches, result.More = result.Matches[:MostMatches:MostMatches], more
	}
}

// footage knows how many frames the videos of a segment have. Records are in the order of their hashes, so it
// takes one walk over them, and memory for each video.
type footage struct {
	once   sync.Once
	videos map[string]footageOf // by list, as two bytes, and ID
}

type footageOf struct {
	first  uint32 // record: all of one ID are withdrawn together
	frames uint32
}

func footageKey(list uint16, id []byte) []byte {
	return append(binary.LittleEndian.AppendUint16(make([]byte, 0, 2+len(id)), list), id...)
}

func (s *segment) videos() map[string]footageOf {
	t := &s.tables[VPDQ]
	if t.len() == 0 {
		return nil
	}
	s.known.once.Do(func() {
		s.known.videos = make(map[string]footageOf)
		for r := t.first[0]; r < t.first[t.len()]; r++ {
			id, _ := s.record(r)
			key := footageKey(s.entries[r].list, id)
			f, ok := s.known.videos[string(key)]
			if !ok {
				f.first = r
			}
			f.frames++
			s.known.videos[string(key)] = f
		}
	})
	return s.known.videos
}

// framesOf returns how many frames of a video of the set are in a part.
func (p *part) framesOf(v video) int {
	videos := p.videos()
	if len(videos) == 0 {
		return 0
	}
	for n := range p.lists {
		if p.renumber == nil && n == v.list || p.renumber != nil && p.renumber[n] == v.list {
			if f, ok := videos[string(footageKey(uint16(n), []byte(v.id)))]; ok && p.alive(f.first) {
				return int(f.frames)
			}
		}
	}
	return 0
}
