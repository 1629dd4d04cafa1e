package evaluation

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dmguard/dmguard/detectors/grooming"
	"github.com/dmguard/dmguard/pipeline"
)

// Limits of what is imported.
const (
	maxImported    = 5_000_000 // conversations
	maxPerTalk     = 100_000   // messages of one
	maxImportDepth = 8         // of XML
	maxOthers      = 16        // recipients
	maxIDs         = 1_000_000 // of a list of ids
)

// Imported counts what an import took in.
type Imported struct {
	Conversations int `json:"conversations"`
	Messages      int `json:"messages"`
	Risk          int `json:"risk"` // conversations
	Cut           int `json:"cut"`  // texts that were too long
}

// Unnamed is the intent of a risk turn that no one has named.
const Unnamed = "unnamed"

// PAN12 says what is known beside the conversations of the data set of the PAN
// 2012 task on sexual predator identification (Inches and Crestani 2012), which
// is given out on request and is not part of this project.
type PAN12 struct {
	// Predators are the ids of authors, as the list of the data set has them.
	Predators map[string]bool

	// Lines are the messages marked as telling, conversation id and line with a
	// tab between, as its second list has them.
	Lines map[string]bool
}

// ReadIDs reads a list of the data set: an id a line, or two fields with a tab
// between.
func ReadIDs(r io.Reader) (map[string]bool, error) {
	data, err := io.ReadAll(io.LimitReader(r, 256<<20))
	if err != nil {
		return nil, fmt.Errorf("reading ids: %w", err)
	}
	out := map[string]bool{}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		if len(out) == maxIDs || len(line) > 2*pipeline.MaxIDLength {
			return nil, errors.New("the list of ids has too many, or one that is too long")
		}
		out[strings.Join(strings.Fields(line), "\t")] = true
	}
	return out, nil
}

// panMessage is one message of the XML.
type panMessage struct {
	Line   string `xml:"line,attr"`
	Author string `xml:"author"`
	Time   string `xml:"time"`
	Text   string `xml:"text"`
}

// ImportPAN12 reads the XML of the data set, one conversation at a time, and
// hands its messages to write. A conversation in which a predator writes is
// labelled risk. The data set has times of day alone: a time before the one
// before it is taken for the next day's. No error quotes the data.
func ImportPAN12(r io.Reader, known PAN12, write func(*pipeline.Message) error) ([]*Labels, Imported, error) {
	limit := &limited{r: r, left: maxRecord}
	dec := xml.NewDecoder(limit)
	im := &importer{write: write, seen: map[string]bool{}}
	fail := func(err error) ([]*Labels, Imported, error) {
		line, _ := dec.InputPos()
		return nil, im.count, fmt.Errorf("line %d: %w", line, redactXML(err))
	}
	var messages []panMessage
	id, depth, started := "", 0, false
	for {
		limit.left = maxRecord
		token, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fail(err)
		}
		switch t := token.(type) {
		case xml.StartElement:
			if depth++; depth > maxImportDepth {
				return fail(errors.New("nested too deeply"))
			}
			switch {
			case depth == 1 && t.Name.Local == "conversations":
				started = true
			case depth == 2 && t.Name.Local == "conversation":
				id, messages = attribute(t, "id"), messages[:0]
				if id == "" || im.seen[id] {
					return fail(errors.New("a conversation without an id, or with one that was there before"))
				}
			case depth == 3 && t.Name.Local == "message":
				m, err := readPANMessage(dec, t, limit)
				if err != nil {
					return fail(err)
				}
				depth--
				if messages = append(messages, m); len(messages) > maxPerTalk {
					return fail(fmt.Errorf("more than %d messages in a conversation", maxPerTalk))
				}
			default:
				return fail(errors.New("an element that has no place there"))
			}
		case xml.EndElement:
			if depth--; depth == 1 {
				if err := im.panConversation(id, messages, known); err != nil {
					return fail(err)
				}
			}
		}
	}
	if !started {
		return fail(errors.New("no element conversations"))
	}
	return im.labels, im.count, nil
}

// readPANMessage reads the rest of a message. Within it limit grows with no
// token: a message is one record.
func readPANMessage(dec *xml.Decoder, start xml.StartElement, limit *limited) (panMessage, error) {
	limit.left = maxRecord
	m := panMessage{Line: attribute(start, "line")}
	field := ""
	for {
		token, err := dec.Token()
		if err != nil {
			return m, err
		}
		switch t := token.(type) {
		case xml.StartElement:
			if field != "" {
				return m, errors.New("an element that has no place there")
			}
			field = t.Name.Local
		case xml.CharData:
			switch field {
			case "author":
				m.Author += string(t)
			case "time":
				m.Time += string(t)
			case "text":
				m.Text += string(t)
			}
		case xml.EndElement:
			if field == "" {
				return m, nil
			}
			field = ""
		}
	}
}

func attribute(t xml.StartElement, name string) string {
	for _, a := range t.Attr {
		if a.Name.Local == name {
			return strings.TrimSpace(a.Value)
		}
	}
	return ""
}

// redactXML drops what errors of XML quote of the data.
func redactXML(err error) error {
	var syntax *xml.SyntaxError
	switch {
	case errors.As(err, &syntax):
		return errors.New("not well-formed XML")
	case errors.Is(err, errTooLarge):
		return errTooLarge
	}
	var tag *xml.TagPathError
	var unmarshal xml.UnmarshalError
	if errors.As(err, &tag) || errors.As(err, &unmarshal) || strings.Contains(err.Error(), "xml:") {
		return errors.New("not XML that is understood")
	}
	return err
}

// importer makes messages and labels of what the formats hold.
type importer struct {
	write  func(*pipeline.Message) error
	seen   map[string]bool
	labels []*Labels
	count  Imported
}

// importDay is when conversations without dates are said to have been.
var importDay = time.Date(2012, 1, 1, 0, 0, 0, 0, time.UTC)

func (im *importer) panConversation(id string, messages []panMessage, known PAN12) error {
	if len(im.labels) >= maxImported {
		return fmt.Errorf("more than %d conversations", maxImported)
	}
	im.seen[id] = true
	l := &Labels{Conversation: id, Kind: Benign}
	var authors []string
	for _, m := range messages {
		a := strings.TrimSpace(m.Author)
		if !slices.Contains(authors, a) && len(authors) <= maxOthers {
			authors = append(authors, a)
		}
		if known.Predators[a] {
			l.Kind = Risk
		}
	}
	day, last := importDay, -1
	for i, m := range messages {
		minutes, ok := timeOfDay(m.Time)
		if !ok {
			return errors.New("a time that is not hours and minutes")
		}
		if minutes < last {
			day = day.Add(24 * time.Hour)
		}
		last = minutes
		lineNumber := strings.TrimSpace(m.Line)
		if lineNumber == "" {
			lineNumber = strconv.Itoa(i + 1)
		}
		messageID := id + "/" + strconv.Itoa(i+1) // lines may be numbered twice
		author := strings.TrimSpace(m.Author)
		if err := im.message(messageID, id, day.Add(time.Duration(minutes)*time.Minute), author, authors, m.Text); err != nil {
			return err
		}
		if known.Lines[id+"\t"+lineNumber] && l.Kind == Risk {
			l.RiskTurns = append(l.RiskTurns, RiskTurn{Messages: []string{messageID}, Intent: Unnamed})
		}
	}
	im.add(l)
	return nil
}

func (im *importer) add(l *Labels) {
	im.labels = append(im.labels, l)
	im.count.Conversations++
	if l.Kind == Risk {
		im.count.Risk++
	}
}

// timeOfDay reads hours and minutes, in minutes.
func timeOfDay(s string) (int, bool) {
	hours, minutes, ok := strings.Cut(strings.TrimSpace(s), ":")
	h, err := strconv.Atoi(hours)
	m, merr := strconv.Atoi(minutes)
	return 60*h + m, ok && err == nil && merr == nil && h >= 0 && h < 24 && m >= 0 && m < 60
}

// message writes one message, held to the limits of the contract.
func (im *importer) message(id, conversation string, at time.Time, author string, authors []string, text string) error {
	for _, v := range []string{id, conversation, author} {
		if v == "" || utf8.RuneCountInString(v) > pipeline.MaxIDLength || !utf8.ValidString(v) {
			return errors.New("an id or author is missing or too long")
		}
	}
	if text = strings.ToValidUTF8(text, "\ufffd"); utf8.RuneCountInString(text) > pipeline.MaxTextLength {
		text = string([]rune(text)[:pipeline.MaxTextLength])
		im.count.Cut++
	}
	m := &pipeline.Message{ID: id, ConversationID: conversation, SentAt: at, Sender: pipeline.Party{ID: author}, Text: pipeline.NewText(text)}
	for _, a := range authors {
		if a != author && a != "" {
			m.Recipients = append(m.Recipients, pipeline.Party{ID: a})
		}
	}
	im.count.Messages++
	return im.write(m)
}

// ImportCSV reads CSV with the columns conversation, sender, time (RFC 3339,
// "2006-01-02 15:04:05" or seconds since 1970), text and label, and hands each
// message to write. A label of "risk", or the name of one of the detector's
// labels, makes the conversation a risk and the message a risk turn; "negative",
// "benign" or nothing does not. Messages of one conversation come in their order.
func ImportCSV(r io.Reader, write func(*pipeline.Message) error) ([]*Labels, Imported, error) {
	in, columns, err := csvColumns(r, "conversation", "sender", "time", "text")
	if err != nil {
		return nil, Imported{}, err
	}
	im := &importer{write: write}
	type talk struct {
		*Labels
		messages int
		authors  []string
	}
	talks := map[string]*talk{}
	var order []*talk
	labelColumn, labelled := columns["label"]
	names := grooming.Labels()
	for {
		record, err := in.read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, im.count, err
		}
		fail := func(err error) ([]*Labels, Imported, error) {
			return nil, im.count, fmt.Errorf("line %d: %w", in.line(), err)
		}
		field := func(name string) string { return strings.Clone(strings.TrimSpace(record[columns[name]])) }
		id, sender := field("conversation"), field("sender")
		at, err := readTime(field("time"))
		if err != nil {
			return fail(err)
		}
		t := talks[id]
		if t == nil {
			if len(order) >= maxImported {
				return fail(fmt.Errorf("more than %d conversations", maxImported))
			}
			t = &talk{Labels: &Labels{Conversation: id, Kind: Benign}}
			talks[id] = t
			order = append(order, t)
		}
		if !slices.Contains(t.authors, sender) && len(t.authors) <= maxOthers {
			t.authors = append(t.authors, sender)
		}
		if t.messages++; t.messages > maxPerTalk {
			return fail(fmt.Errorf("more than %d messages in a conversation", maxPerTalk))
		}
		messageID := id + "/" + strconv.Itoa(t.messages)
		if err := im.message(messageID, id, at, sender, t.authors, record[columns["text"]]); err != nil {
			return fail(err)
		}
		if !labelled {
			continue
		}
		switch label := strings.ToLower(strings.TrimSpace(record[labelColumn])); {
		case label == "" || label == string(Benign):
		case label == string(Negative):
			if t.Kind == Benign {
				t.Kind = Negative
			}
		case label == string(Risk) || slices.Contains(names, label):
			t.Kind = Risk
			if label == string(Risk) {
				label = Unnamed
			}
			t.RiskTurns = append(t.RiskTurns, RiskTurn{Messages: []string{messageID}, Intent: label})
		default:
			return fail(errors.New("the label is none of risk, negative, benign and the detector's labels"))
		}
	}
	for _, t := range order {
		im.add(t.Labels)
	}
	return im.labels, im.count, nil
}

// readTime reads a time in one of the ways that exports have them.
func readTime(s string) (time.Time, error) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n >= 0 && n < 1<<33 {
		return time.Unix(n, 0).UTC(), nil
	}
	for _, layout := range []string{time.RFC3339Nano, time.DateTime, "2006-01-02T15:04:05"} {
		if t, err := time.Parse(layout, s); err == nil && t.Year() >= 1970 && t.Year() < 2200 {
			return t.UTC(), nil
		}
	}
	return time.Time{}, errors.New("the time is none of RFC 3339, 2006-01-02 15:04:05 and seconds since 1970")
}
