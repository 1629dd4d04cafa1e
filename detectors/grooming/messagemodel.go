package grooming

import (
	"bytes"
	"compress/flate"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/go-json-experiment/json"
)

// ModelColumns is how many columns a message model has: the labels of this
// package in their order; behind them how much a text reads like those that use
// the words of the labels to a harmless end; and one that is kept free for what
// a platform's own model of explicit content says. This project trains nothing
// for the last: its weights are zero and nothing is made of it.
const ModelColumns = trained + 1

// trained is how many columns are trained: the labels, and harmless behind them.
const (
	trained  = int(labels) + 1
	harmless = int(labels)
)

// The names of the columns that are no labels. Texts to learn from may have the
// first in the place of a label.
const (
	HarmlessLabel = "harmless"
	reservedLabel = "reserved"
)

// columns returns the names of the columns of a message model.
func columns() []string { return append(Labels(), HarmlessLabel, reservedLabel) }

// ModelHeader is what a file says of a message model beside its table.
type ModelHeader struct {
	Features    int                   `json:"features"` // version of the features
	Labels      []string              `json:"labels"`
	Bits        int                   `json:"bits"` // the table has 1<<bits rows
	Least       int                   `json:"least"`
	Bias        [ModelColumns]float32 `json:"bias"`
	Scale       [ModelColumns]float32 `json:"scale"`
	Calibration Calibration           `json:"calibration"`
	Training    Training              `json:"training"`
	Data        []DataSource          `json:"data"`
	Ideas       []string              `json:"ideas"` // of the rule packs that it was trained with
	Rows        int                   `json:"rows"`  // that are used
}

// Calibration says how rare a score is among benign messages that were not
// trained on.
type Calibration struct {
	// Tails holds for each label the scores that at most one in 10^0.1, 10^0.2, …
	// benign messages reach, of that corpus whose messages reach them most often.
	Tails [][]float32 `json:"tails"`

	// Messages is how many messages that was measured on, by corpus.
	Messages []CorpusSize `json:"messages"`
}

// CorpusSize is how many messages of a corpus were looked at.
type CorpusSize struct {
	Name     string `json:"name"`
	Messages int    `json:"messages"`
}

// Training says how a model was made.
type Training struct {
	Seed         uint64  `json:"seed"`
	Epochs       int     `json:"epochs"`
	LearningRate float64 `json:"learning_rate"`
	Decay        float64 `json:"decay"`
	MinCount     int     `json:"min_count"`
	Mixed        float64 `json:"mixed"`
	Dropped      float64 `json:"dropped"`
	Messages     int     `json:"messages"`
}

// DataSource is something a model was made from.
type DataSource struct {
	Name    string `json:"name"`
	Licence string `json:"licence"`
	SHA256  string `json:"sha256"` // of the file as it was read
	Texts   int    `json:"texts"`
}

// ModelRow is one row of a message model's table.
type ModelRow struct {
	Row     uint32
	Check   uint16
	Weights [ModelColumns]int8
}

// MessageModel says of a single message how much it reads like those that it was
// trained on, label by label. It is a table of small numbers, one row a
// feature: a score is the sum of the rows of the message's features, times a
// scale, over the root of their number, and a bias, so that what each word added
// to it is known exactly. It
// is immutable.
//
// A feature without a row, since training never saw it, counts for nothing. A
// text longer than a window is judged window by window, and the greatest score
// counts: what surrounds a phrase does not hide it.
type MessageModel struct {
	header ModelHeader
	digest [sha256.Size]byte
	rows   [][2]uint64 // 16 bytes: the weights, each plus 128, three of zero
	checks []uint16    // by row; 0 where there is none. Apart, since most features have no row and end here
	shift  int
	tails  [labels][]float32
}

// MaxModelBytes is the size of the largest file of a message model that is read.
const MaxModelBytes = 4 << 20

const (
	modelMagic     = "dmguard message model 3\n"
	maxHeaderBytes = 1 << 20
	minBits        = 8
	maxBits        = 18
	maxLeast       = 1 << 10

	// tailsPerBan is how finely evidence is told apart.
	tailsPerBan = 10
	// maxBans is the most evidence that a model gives for a label.
	maxBans = 4
)

// Encode returns the file that [LoadModel] reads. Rows have to rise.
func (h *ModelHeader) Encode(rows []ModelRow) ([]byte, error) {
	c := *h
	c.Features, c.Labels, c.Rows = featureVersion, columns(), len(rows)
	header, err := json.Marshal(&c, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("writing the header of a message model: %w", err)
	}
	// By column, which packs better.
	n := len(rows)
	body := make([]byte, n*(4+2+ModelColumns))
	last := uint32(0)
	for i, r := range rows {
		binary.LittleEndian.PutUint32(body[4*i:], r.Row-last)
		last = r.Row
		binary.LittleEndian.PutUint16(body[4*n+2*i:], r.Check)
		for l, w := range r.Weights {
			body[(6+l)*n+i] = byte(w)
		}
	}
	var out bytes.Buffer
	out.WriteString(modelMagic)
	digest := modelDigest(header, body)
	out.Write(digest[:])
	_ = binary.Write(&out, binary.LittleEndian, uint32(len(header))) // to memory
	out.Write(header)
	z, err := flate.NewWriter(&out, flate.BestCompression)
	if err != nil {
		return nil, err
	}
	_, err = z.Write(body)
	if err := errors.Join(err, z.Close()); err != nil {
		return nil, fmt.Errorf("packing a message model: %w", err)
	}
	if out.Len() > MaxModelBytes {
		return nil, fmt.Errorf("the message model has %d bytes, more than %d: train it with fewer rows", out.Len(), MaxModelBytes)
	}
	if _, err := LoadModel(out.Bytes()); err != nil {
		return nil, fmt.Errorf("what was written does not read back: %w", err)
	}
	return out.Bytes(), nil
}

// modelDigest covers everything but how the table is packed.
func modelDigest(header, body []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write([]byte(modelMagic))
	_ = binary.Write(h, binary.LittleEndian, uint32(len(header))) // never fails
	h.Write(header)
	h.Write(body)
	return [sha256.Size]byte(h.Sum(nil))
}

// LoadModel reads a message model. It refuses one that is damaged, larger than
// 4 MiB, of another version, or with other labels or another order of them than
// this program has.
func LoadModel(data []byte) (*MessageModel, error) {
	m, err := loadModel(data)
	if err != nil {
		return nil, fmt.Errorf("message model: %w", err)
	}
	return m, nil
}

func loadModel(data []byte) (*MessageModel, error) {
	if len(data) > MaxModelBytes {
		return nil, fmt.Errorf("%d bytes, more than %d", len(data), MaxModelBytes)
	}
	rest, ok := bytes.CutPrefix(data, []byte(modelMagic))
	if !ok {
		if bytes.HasPrefix(data, []byte(modelMagic[:len(modelMagic)-2])) {
			return nil, fmt.Errorf("a version that this program does not read, which is 3")
		}
		return nil, errors.New("not a message model")
	}
	if len(rest) < sha256.Size+4 {
		return nil, errors.New("cut short")
	}
	m := &MessageModel{digest: [sha256.Size]byte(rest)}
	size := binary.LittleEndian.Uint32(rest[sha256.Size:])
	rest = rest[sha256.Size+4:]
	if size > maxHeaderBytes || int(size) > len(rest) {
		return nil, errors.New("cut short, or its header is too large")
	}
	header := rest[:size]
	const perRow = 4 + 2 + ModelColumns
	body, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(rest[size:])), int64(perRow)<<maxBits+1))
	if err != nil {
		return nil, fmt.Errorf("unpacking its table: %w", err)
	}
	if modelDigest(header, body) != m.digest {
		return nil, errors.New("damaged: its digest is not that of its content")
	}
	if err := json.Unmarshal(header, &m.header, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("reading its header: %w", err)
	}
	if err := m.header.validate(); err != nil {
		return nil, err
	}
	if len(body) != m.header.Rows*perRow {
		return nil, fmt.Errorf("its table has %d bytes, not %d rows of %d", len(body), m.header.Rows, perRow)
	}
	return m, m.fill(body)
}

// validate reports every fault.
func (h *ModelHeader) validate() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if h.Features != featureVersion {
		fail("made with features of version %d, this program has %d", h.Features, featureVersion)
	}
	if want := columns(); !slices.Equal(h.Labels, want) {
		fail("its labels are not those of this program in their order, %v", want)
	}
	if h.Bits < minBits || h.Bits > maxBits {
		fail("bits is %d: it is %d to %d", h.Bits, minBits, maxBits)
	} else if h.Rows < 0 || h.Rows > 1<<h.Bits {
		fail("%d rows in a table of %d", h.Rows, 1<<h.Bits)
	}
	if h.Least < 1 || h.Least > maxLeast {
		fail("least is %d: it is 1 to %d", h.Least, maxLeast)
	}
	for l := range ModelColumns {
		if !finite(h.Bias[l]) || !finite(h.Scale[l]) || h.Scale[l] < 0 {
			fail("bias or scale of label %d is not a number, or negative", l)
		}
	}
	if n := len(h.Calibration.Tails); n != int(labels) {
		fail("calibrated for %d labels, not %d", n, labels)
	}
	for l, t := range h.Calibration.Tails {
		if len(t) > maxBans*tailsPerBan || !slices.IsSorted(t) || slices.ContainsFunc(t, func(f float32) bool { return !finite(f) }) {
			fail("the calibration of label %d does not rise, or beyond %d bans", l, maxBans)
		}
	}
	return errors.Join(errs...)
}

// finite also refuses what is so large that arithmetic with it would not be.
func finite(f float32) bool { return math.Abs(float64(f)) <= 1e6 }

// fill makes the table of what the file says.
func (m *MessageModel) fill(body []byte) error {
	n := m.header.Rows
	m.shift = 64 - m.header.Bits
	m.rows = make([][2]uint64, 1<<m.header.Bits)
	m.checks = make([]uint16, len(m.rows))
	row := uint64(0)
	for i := range n {
		row += uint64(binary.LittleEndian.Uint32(body[4*i:]))
		check := binary.LittleEndian.Uint16(body[4*n+2*i:])
		if row >= uint64(len(m.rows)) || check == 0 || m.checks[row] != 0 {
			return errors.New("rows do not rise, lie outside of the table or have no check")
		}
		r := &m.rows[row]
		for l := range ModelColumns {
			r[l/8] |= uint64(body[(6+l)*n+i]^0x80) << (l % 8 * 8)
		}
		m.checks[row] = check
	}
	for l := range labels {
		m.tails[l] = m.header.Calibration.Tails[l]
	}
	return nil
}

// Header returns what the file says of the model. It must not be modified.
func (m *MessageModel) Header() *ModelHeader { return &m.header }

// Digest names the model: equal digests give equal scores.
func (m *MessageModel) Digest() string { return hex.EncodeToString(m.digest[:]) }

// blockSum is what the features of one block add up to.
type blockSum struct {
	sums     [ModelColumns]int32
	known    int32 // features that have a row
	from, to int   // in the folded text
	previous uint64
}

// sum adds up the rows of the features of b.
func (m *MessageModel) sum(b *block, s *blockSum) {
	*s = blockSum{}
	const lanes = 0x00ff00ff00ff00ff
	var rows [256]uint32 // 256 times 255 fits in 16 bits
	for first := 0; first < b.n; first += len(rows) {
		known := 0
		for _, h := range b.hashes[first:min(b.n, first+len(rows))] {
			row := h >> m.shift
			rows[known] = uint32(row)
			known += int(b2u16(m.checks[row] == uint16(h)|b2u16(uint16(h) == 0)))
		}
		var e0, o0, e1, o1 uint64
		for _, row := range rows[:known] {
			lo, hi := m.rows[row][0], m.rows[row][1]
			e0, o0 = e0+lo&lanes, o0+lo>>8&lanes
			e1, o1 = e1+hi&lanes, o1+hi>>8&lanes
		}
		s.known += int32(known)
		for i := range ModelColumns {
			even, odd := e0, o0
			if i >= 8 {
				even, odd = e1, o1
			}
			lane := even
			if i%2 == 1 {
				lane = odd
			}
			s.sums[i] += int32(uint16(lane>>(i%8/2*16))) - 128*int32(known)
		}
	}
}

// window is where a score comes from, in the folded text.
type window struct {
	from, to int
	previous uint64 // hash of the word before it
}

// opinion is what a model says of a message, and its memory, reused.
type opinion struct {
	scores  [trained]float32 // the greatest of any window; of harmless the least
	windows [labels]window   // with the greatest score

	words bool // there was a word to judge

	// beside is how harmless the window of a label reads: what stands elsewhere in
	// a message excuses nothing.
	beside [labels]float32

	x    extractor
	pair [2]blockSum
}

// score judges a folded text. A text without words has the scores of nothing.
func (m *MessageModel) score(text []byte, ideas []idea, r *opinion) {
	r.windows, r.beside = [labels]window{}, [labels]float32{}
	for l := range r.scores {
		r.scores[l] = m.header.Bias[l]
	}
	first := true
	stretches(text, func(text []byte, from int) {
		r.x.reset(text, from, ideas)
		blocks := 0
		for {
			previous := r.x.previous
			if !r.x.next() {
				break
			}
			s := &r.pair[blocks%2]
			m.sum(&r.x.block, s)
			s.previous = previous
			s.from, s.to = from+r.x.block.spans[0].start, from+r.x.block.spans[r.x.block.words-1].end
			if blocks++; blocks > 1 {
				m.judge(r, &r.pair[blocks%2], s, first)
				first = false
			}
		}
		if blocks == 1 {
			m.judge(r, &r.pair[0], &blockSum{to: r.pair[0].to}, first)
			first = false
		}
	})
	r.words = !first
}

// judge keeps what is greater in a window than in those before.
func (m *MessageModel) judge(r *opinion, a, b *blockSum, first bool) {
	n := length(a.known+b.known, m.header.Least)
	h := m.logit(harmless, a.sums[harmless]+b.sums[harmless], n)
	if first || h < r.scores[harmless] {
		r.scores[harmless] = h
	}
	for l := range labels {
		s := m.logit(int(l), a.sums[l]+b.sums[l], n)
		if first || s > r.scores[l] {
			r.scores[l], r.windows[l], r.beside[l] = s, window{a.from, b.to, a.previous}, h
		}
	}
}

// length is what sums are divided by: the length of the vector of features.
func length(known int32, least int) float32 {
	return float32(math.Sqrt(float64(max(known, int32(least)))))
}

// logit rounds after each operation, so that it is the same on every processor.
func (m *MessageModel) logit(l int, sum int32, n float32) float32 {
	return m.header.Bias[l] + float32(float32(float32(sum)*m.header.Scale[l])/n)
}

// Scores returns the score of a text for each label, and behind them how
// harmless it reads, as log-odds in the mixture that the model was trained on,
// which are not those of any traffic. The rule packs of by say which ideas the
// text has; nil for none.
func (m *MessageModel) Scores(text string, by *Detector) [ModelColumns - 1]float32 {
	var s scratch
	var l *lexicon
	if by != nil {
		l = by.lexicon
	}
	l.read(text, &s)
	m.score(s.reading.b, s.ideas, &s.opinion)
	return s.opinion.scores
}

// Evidence returns what a text says for each label, in bans: 3 where at most one
// in 1,000 benign messages reads so much like it. by is as in [MessageModel.Scores].
func (m *MessageModel) Evidence(text string, by *Detector) (e [labels]float64) {
	scores := m.Scores(text, by)
	for l := range e {
		e[l] = m.bans(label(l), scores[l])
	}
	return e
}

// bans returns what a score says for a label: minus the decimal logarithm of
// how many benign messages score as much, at least; in steps of a tenth.
func (m *MessageModel) bans(l label, score float32) float64 {
	n, _ := slices.BinarySearchFunc(m.tails[l], score, func(t, s float32) int {
		if t <= s {
			return -1
		}
		return 1
	})
	return float64(n) / tailsPerBan
}

// share is what one word added to a score, times two so that the part that it
// has in a pair of words is a whole number.
type share struct {
	span  span // in the folded text
	twice int32
}

// shares returns what each word of a window adds to the score of a label, in the
// order of the text. Their sum is exactly twice the sum that the score was made
// of. A pair of words counts half for each of them, and all for the second one
// where the first is not in the window.
func (m *MessageModel) shares(text []byte, ideas []idea, w window, l label, x *extractor) (words []share, known int32) {
	x.reset(text[:w.to], 0, ideas)
	x.at, x.previous = w.from, w.previous
	x.skip(w.from)
	for x.next() {
		base := len(words)
		b := &x.block
		for _, sp := range b.spans[:b.words] {
			words = append(words, share{span: sp})
		}
		for i, h := range b.hashes[:b.n] {
			row, check := slot(h, m.header.Bits)
			if m.checks[row] != check {
				continue
			}
			r := &m.rows[row]
			known++
			weight := int32(uint8(r[l/8]>>(l%8*8))) - 128
			at := base + int(b.word[i])
			if back := int(b.back[i]); back > 0 && at >= back {
				words[at].twice += weight
				words[at-back].twice += weight
			} else {
				words[at].twice += 2 * weight
			}
		}
	}
	return words, known
}

// strongest returns the run of words that adds most to a score.
func strongest(words []share) span {
	best, sum, from := int32(math.MinInt32), int32(0), 0
	var at span
	for i, w := range words {
		if sum <= 0 {
			sum, from = 0, i
		}
		if sum += w.twice; sum > best {
			best, at = sum, span{words[from].span.start, w.span.end}
		}
	}
	return at
}
