package training

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/klauspost/compress/zstd"

	"github.com/dmguard/dmguard/detectors/grooming"
	"github.com/dmguard/dmguard/pipeline"
)

// Split says what a text is for.
type Split uint8

// The splits. What is in one is in no other.
const (
	Train       Split = iota // to learn from
	Calibration              // to measure what a score means
	Test                     // to tell how good the result is
)

var splitNames = []string{"train", "calibration", "test"}

func (s Split) String() string { return splitNames[s] }

// Text is one text and what it is an example of.
type Text struct {
	Text   string
	Labels uint16 // one bit for each of [grooming.Labels], and one behind them for harmless; 0 for benign
	Author string // "" where nobody says
	Split  Split
}

// Corpus is what one file holds.
type Corpus struct {
	Name    string
	Licence string
	SHA256  string
	Texts   []Text

	// Repeat is how often each text for training is seen in an epoch; 0 is once.
	// What there is little of, such as a language, is otherwise not learnt.
	Repeat int

	// Everyday says that these are messages as people write them, which
	// calibration measures, and not texts that were made for training.
	Everyday bool
}

// maxLine is the longest line that is read, in bytes.
const maxLine = 8 << 20

// line is one line of training data.
type line struct {
	Text   string   `json:"text"`
	Labels []string `json:"labels"`
	Author string   `json:"author"`
	Split  string   `json:"split"`
}

// ReadLabelled reads training data: NDJSON with text, labels (none for a benign
// text), author and split ("train" where it is absent). Unknown members are
// passed over, unknown labels and splits are errors. Names ending in .zst are
// unpacked.
func ReadLabelled(path, licence string) (*Corpus, error) {
	names := append(grooming.Labels(), grooming.HarmlessLabel)
	return read(path, licence, func(data []byte, c *Corpus) error {
		var l line
		if err := json.Unmarshal(data, &l); err != nil {
			return errors.New("not an object with text, labels, author and split") // the error of the package quotes
		}
		t := Text{Text: l.Text, Author: l.Author}
		if strings.TrimSpace(l.Text) == "" || len(l.Text) > pipeline.MaxTextLength {
			return errors.New("its text is empty or too long")
		}
		for _, name := range l.Labels {
			i := slices.Index(names, name)
			if i < 0 {
				return fmt.Errorf("unknown label %q: it is one of %v", name, names)
			}
			t.Labels |= 1 << i
		}
		if l.Split != "" {
			i := slices.Index(splitNames, l.Split)
			if i < 0 {
				return fmt.Errorf("unknown split %q: it is one of %v", l.Split, splitNames)
			}
			t.Split = Split(i)
		}
		c.Texts = append(c.Texts, t)
		return nil
	})
}

// ReadBenign reads everyday messages in the format that dmguard scan reads. Seven
// of ten conversations are for training, two for calibration, one for the test,
// by a hash of their id: no conversation is in two.
func ReadBenign(path, licence string) (*Corpus, error) {
	c, err := read(path, licence, func(data []byte, c *Corpus) error {
		m, err := pipeline.ParseMessage(data)
		if err != nil {
			return err
		}
		if text := m.Text.Reveal(); strings.TrimSpace(text) != "" {
			c.Texts = append(c.Texts, Text{Text: text, Author: m.Sender.ID, Split: splitOf(m.ConversationID)})
		}
		return nil
	})
	if c != nil {
		c.Everyday = true
	}
	return c, err
}

func splitOf(conversation string) Split {
	h := sha256.Sum256([]byte(conversation))
	switch h[0] % 10 { // 256 is not a multiple of 10: the shares are not quite those, for always
	case 0, 1:
		return Calibration
	case 2:
		return Test
	default:
		return Train
	}
}

func read(path, licence string, take func([]byte, *Corpus) error) (*Corpus, error) {
	if strings.TrimSpace(licence) == "" {
		return nil, fmt.Errorf("%s: under which licence may it be used?", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	sum := sha256.New()
	whole := io.TeeReader(f, sum)
	in := whole
	if strings.HasSuffix(path, ".zst") {
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		defer z.Close()
		in = z
	}
	c := &Corpus{Name: Name(path), Licence: licence}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	for n := 1; lines.Scan(); n++ {
		if len(lines.Bytes()) == 0 {
			continue
		}
		if err := take(lines.Bytes(), c); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if _, err := io.Copy(io.Discard, whole); err != nil { // what lies behind the frames
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	c.SHA256 = hex.EncodeToString(sum.Sum(nil))
	return c, nil
}

// Name is what a file is called in the header of a model: its base name up to
// the first dot.
func Name(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".")
	return name
}
