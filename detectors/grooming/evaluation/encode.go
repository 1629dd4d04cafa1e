package evaluation

import (
	"bufio"
	"fmt"
	"io"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/dmguard/dmguard/pipeline"
)

// encodedMessage is a message as it is written: [pipeline.Text] never prints
// itself, and what is made up here must.
type encodedMessage struct {
	ID             string           `json:"id"`
	ConversationID string           `json:"conversation_id"`
	SentAt         time.Time        `json:"sent_at"`
	Sender         pipeline.Party   `json:"sender"`
	Recipients     []pipeline.Party `json:"recipients,omitempty"`
	Text           string           `json:"text,omitempty"`
	Lang           string           `json:"lang,omitempty"`
}

// EncodeMessage returns the line of a message in the contract's format,
// without attachments and reports.
func EncodeMessage(m *pipeline.Message) ([]byte, error) {
	return line(encodedMessage{m.ID, m.ConversationID, m.SentAt.UTC(), m.Sender, m.Recipients, m.Text.Reveal(), m.Lang})
}

func line(v any) ([]byte, error) {
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("encoding a line: %w", err)
	}
	return append(b, '\n'), nil
}

// TrainingLine is one text for a trainer.
type TrainingLine struct {
	Text   string   `json:"text"`
	Labels []string `json:"labels"`
	Author string   `json:"author"`
	Split  Split    `json:"split"`

	Language string `json:"-"`
}

// Encode returns the line of a text in the format that "model train" reads.
func (l *TrainingLine) Encode() ([]byte, error) { return line(l) }

// WriteLabels writes what is known of conversations, one a line.
func WriteLabels(w io.Writer, labels ...*Labels) error {
	for _, l := range labels {
		b, err := line(l)
		if err != nil {
			return err
		}
		if _, err := w.Write(b); err != nil {
			return fmt.Errorf("writing labels: %w", err)
		}
	}
	return nil
}

// maxLabelLine is the longest line of labels that is read, in bytes.
const maxLabelLine = 1 << 20

// maxLabels is how many conversations labels are kept of.
const maxLabels = 5_000_000

// ReadLabels reads what [WriteLabels] wrote. Conversations are told apart by id.
func ReadLabels(r io.Reader) (map[string]*Labels, error) {
	in := bufio.NewScanner(r)
	in.Buffer(nil, maxLabelLine)
	out := map[string]*Labels{}
	for n := 1; in.Scan(); n++ {
		if len(in.Bytes()) == 0 {
			continue
		}
		var l Labels
		if err := json.Unmarshal(in.Bytes(), &l); err != nil {
			return nil, fmt.Errorf("labels, line %d: not an object of labels", n)
		}
		switch l.Kind {
		case Risk, Negative, Talk, Benign:
		default:
			return nil, fmt.Errorf("labels, line %d: kind is none of risk, negative, talk, benign", n)
		}
		if l.Conversation == "" || out[l.Conversation] != nil || len(out) >= maxLabels {
			return nil, fmt.Errorf("labels, line %d: the conversation is missing, stands there twice, or is one too many", n)
		}
		out[l.Conversation] = &l
	}
	if err := in.Err(); err != nil {
		return nil, fmt.Errorf("reading labels: %w", err)
	}
	return out, nil
}

// maxMessageLine is the longest message that is read, in bytes.
const maxMessageLine = 8 << 20

// ReadMessages yields the messages of r, one a line in the contract's format.
func ReadMessages(r io.Reader) func(yield func(*pipeline.Message, error) bool) {
	return func(yield func(*pipeline.Message, error) bool) {
		in := bufio.NewScanner(r)
		in.Buffer(make([]byte, 0, 256<<10), maxMessageLine)
		for n := 1; in.Scan(); n++ {
			if len(in.Bytes()) == 0 {
				continue
			}
			m, err := pipeline.ParseMessage(in.Bytes())
			if err != nil {
				yield(nil, fmt.Errorf("line %d: %w", n, err))
				return
			}
			if !yield(m, nil) {
				return
			}
		}
		if err := in.Err(); err != nil {
			yield(nil, fmt.Errorf("reading messages: %w", err))
		}
	}
}
