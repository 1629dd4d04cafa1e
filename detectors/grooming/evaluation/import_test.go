package evaluation

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dmguard/dmguard/pipeline"
)

func sample(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// imported is what an importer wrote, as lines.
func imported(t testing.TB, read func(write func(*pipeline.Message) error) ([]*Labels, Imported, error)) (messages, labels string, count Imported) {
	t.Helper()
	var ms, ls bytes.Buffer
	l, count, err := read(func(m *pipeline.Message) error {
		b, err := EncodeMessage(m)
		ms.Write(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := WriteLabels(&ls, l...); err != nil {
		t.Fatal(err)
	}
	return ms.String(), ls.String(), count
}

var known = PAN12{Predators: map[string]bool{"aa11": true}, Lines: map[string]bool{"c0ffee01\t3": true}}

func TestTheXMLOfPAN12IsRead(t *testing.T) {
	messages, labels, count := imported(t, func(write func(*pipeline.Message) error) ([]*Labels, Imported, error) {
		return ImportPAN12(bytes.NewReader(sample(t, "pan12.xml")), known, write)
	})
	const wantMessages = `{"id":"c0ffee01/1","conversation_id":"c0ffee01","sent_at":"2012-01-01T23:58:00Z","sender":{"id":"aa11"},"recipients":[{"id":"bb22"}],"text":"hello & good evening"}
{"id":"c0ffee01/2","conversation_id":"c0ffee01","sent_at":"2012-01-01T23:59:00Z","sender":{"id":"bb22"},"recipients":[{"id":"aa11"}],"text":"hi, 3 < 4"}
{"id":"c0ffee01/3","conversation_id":"c0ffee01","sent_at":"2012-01-02T00:02:00Z","sender":{"id":"aa11"},"recipients":[{"id":"bb22"}],"text":"keep this between us"}
{"id":"c0ffee01/4","conversation_id":"c0ffee01","sent_at":"2012-01-02T00:02:00Z","sender":{"id":"bb22"},"recipients":[{"id":"aa11"}]}
{"id":"c0ffee02/1","conversation_id":"c0ffee02","sent_at":"2012-01-01T12:00:00Z","sender":{"id":"cc33"},"recipients":[{"id":"dd44"}],"text":"did you see the game"}
{"id":"c0ffee02/2","conversation_id":"c0ffee02","sent_at":"2012-01-01T12:01:00Z","sender":{"id":"dd44"},"recipients":[{"id":"cc33"}],"text":"only the second half"}
`
	const wantLabels = `{"conversation":"c0ffee01","kind":"risk","risk_turns":[{"messages":["c0ffee01/3"],"intent":"unnamed","wording":""}]}
{"conversation":"c0ffee02","kind":"benign"}
`
	if diff := cmp.Diff(wantMessages, messages); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(wantLabels, labels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	if want := (Imported{Conversations: 2, Messages: 6, Risk: 1}); count != want {
		t.Errorf("count %+v, want %+v", count, want)
	}
}

func TestCSVIsRead(t *testing.T) {
	messages, labels, count := imported(t, func(write func(*pipeline.Message) error) ([]*Labels, Imported, error) {
		return ImportCSV(bytes.NewReader(sample(t, "conversations.csv")), write)
	})
	const wantMessages = `{"id":"k-1/1","conversation_id":"k-1","sent_at":"2026-03-01T16:00:00Z","sender":{"id":"ann"},"text":"hello, you"}
{"id":"k-2/1","conversation_id":"k-2","sent_at":"2026-03-01T16:01:00Z","sender":{"id":"cai"},"text":"did you see the game"}
{"id":"k-1/2","conversation_id":"k-1","sent_at":"2026-03-01T15:01:00Z","sender":{"id":"bob"},"recipients":[{"id":"ann"}],"text":"hi"}
{"id":"k-1/3","conversation_id":"k-1","sent_at":"2026-03-01T16:02:00Z","sender":{"id":"ann"},"recipients":[{"id":"bob"}],"text":"keep this\nbetween us"}
{"id":"k-3/1","conversation_id":"k-3","sent_at":"2026-03-01T16:02:00Z","sender":{"id":"eve"},"text":"hm"}
`
	const wantLabels = `{"conversation":"k-1","kind":"risk","risk_turns":[{"messages":["k-1/3"],"intent":"secrecy","wording":""}]}
{"conversation":"k-2","kind":"negative"}
{"conversation":"k-3","kind":"risk","risk_turns":[{"messages":["k-3/1"],"intent":"unnamed","wording":""}]}
`
	if diff := cmp.Diff(wantMessages, messages); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(wantLabels, labels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	if want := (Imported{Conversations: 3, Messages: 5, Risk: 2}); count != want {
		t.Errorf("count %+v, want %+v", count, want)
	}
	back, err := ReadLabels(strings.NewReader(labels))
	if err != nil || len(back) != 3 || back["k-1"].Kind != Risk {
		t.Errorf("the labels come back as %v, %v", back, err)
	}
}

func discard(*pipeline.Message) error { return nil }

func TestWhatCannotBeImportedIsSaidWithoutQuotingIt(t *testing.T) {
	const secret = "zanzibar"
	message := func(inner string) string {
		return "<conversations><conversation id=\"c\"><message line=\"1\">" + inner + "</message></conversation></conversations>"
	}
	for _, c := range []struct{ in, want string }{
		{"", "no element conversations"},
		{"<" + secret + "/>", "no place there"},
		{"<conversations><" + secret + "/></conversations>", "no place there"},
		{"<conversations><conversation/></conversations>", "without an id"},
		{"<conversations><conversation id='c'/><conversation id='c'/></conversations>", "there before"},
		{message("<author>a</author><time>" + secret + "</time>"), "not hours and minutes"},
		{message("<author>a</author><time>25:00</time>"), "not hours and minutes"},
		{message("<time>20:00</time><text>" + secret + "</text>"), "missing or too long"},
		{message("<author>" + strings.Repeat(secret, 100) + "</author><time>20:00</time>"), "missing or too long"},
		{message("<author><b>" + secret + "</b></author>"), "no place there"},
		{"<conversations><conversation id='c'></" + secret + "></conversations>", "not well-formed"},
		{"<conversations>&" + secret + ";</conversations>", "not well-formed"},
		{message("<author>a</author><time>20:00</time><text>" + strings.Repeat(secret, 300_000) + "</text>"), "larger than"},
		{"<conversations " + strings.Repeat("a", 3<<20), "larger than"},
		{"<?xml version=\"1.0\" encoding=\"" + secret + "\"?><conversations/>", "not XML that is understood"},
	} {
		_, _, err := ImportPAN12(strings.NewReader(c.in), known, discard)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), secret) {
			t.Errorf("%.60q: %v, want %q", c.in, err, c.want)
		}
	}
	head := "conversation,sender,time,text,label\n"
	for _, c := range []struct{ in, want string }{
		{"", "no line of column names"},
		{"a,a\n", "twice"},
		{"conversation,sender,text\n", "no column time"},
		{head + "c,a," + secret + ",t,\n", "line 2: the time is none of"},
		{head + "c,a,2026-03-01 16:00:00,t," + secret + "\n", "line 2: the label is none of"},
		{head + ",a,2026-03-01 16:00:00,t,\n", "missing or too long"},
		{head + "c,a," + secret + "\n", "line 2: not CSV"},
		{head + "c,a,2026-03-01 16:00:00,\"" + secret, "not CSV"},
		{head + "c,a,1,\"" + strings.Repeat(secret, 300_000) + "\",\n", "larger than"},
	} {
		_, _, err := ImportCSV(strings.NewReader(c.in), discard)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), secret) {
			t.Errorf("%.60q: %v, want %q", c.in, err, c.want)
		}
	}
}

func TestATextThatIsTooLongIsCutAndCounted(t *testing.T) {
	in := "conversation,sender,time,text\nc,a,1,\"" + strings.Repeat("ä", pipeline.MaxTextLength+5) + "\"\n"
	var got int
	_, count, err := ImportCSV(strings.NewReader(in), func(m *pipeline.Message) error {
		got = m.Text.Len()
		return nil
	})
	if err != nil || got != 2*pipeline.MaxTextLength || count.Cut != 1 {
		t.Errorf("%d bytes, %+v, %v", got, count, err)
	}
}

func TestAWriterThatFailsEndsTheImport(t *testing.T) {
	full := errors.New("disk full")
	n := 0
	fail := func(*pipeline.Message) error { n++; return full }
	if _, _, err := ImportPAN12(bytes.NewReader(sample(t, "pan12.xml")), known, fail); !errors.Is(err, full) || n != 1 {
		t.Errorf("%v after %d messages", err, n)
	}
	if _, _, err := ImportCSV(bytes.NewReader(sample(t, "conversations.csv")), fail); !errors.Is(err, full) || n != 2 {
		t.Errorf("%v after %d messages", err, n)
	}
}

func TestIDsAreReadWithOneTabBetween(t *testing.T) {
	got, err := ReadIDs(strings.NewReader("aa11\r\n\nc0ffee01 \t 3\n"))
	if diff := cmp.Diff(map[string]bool{"aa11": true, "c0ffee01\t3": true}, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

// holds checks what every import promises: messages that the contract takes,
// each once, and labels for every conversation.
func holds(t *testing.T, read func(write func(*pipeline.Message) error) ([]*Labels, Imported, error)) {
	t.Helper()
	ids, conversations := map[string]bool{}, map[string]bool{}
	labels, count, err := read(func(m *pipeline.Message) error {
		b, err := EncodeMessage(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pipeline.ParseMessage(b); err != nil {
			t.Fatalf("a message that the contract refuses: %v", err)
		}
		conversations[m.ConversationID] = true
		ids[m.ID] = true
		return nil
	})
	if err != nil {
		return
	}
	if count.Conversations != len(labels) || len(labels) < len(conversations) {
		t.Fatalf("%d conversations, counted %d, with %d labels", len(conversations), count.Conversations, len(labels))
	}
	if err := WriteLabels(&bytes.Buffer{}, labels...); err != nil {
		t.Fatal(err)
	}
}

func FuzzImportPAN12(f *testing.F) {
	f.Add(sample(f, "pan12.xml"))
	f.Add([]byte("<conversations><conversation id='c'><message line='1'><author>a</author><time>1:2</time><text>\xff</text></message></conversation></conversations>"))
	f.Fuzz(func(t *testing.T, data []byte) {
		holds(t, func(write func(*pipeline.Message) error) ([]*Labels, Imported, error) {
			return ImportPAN12(bytes.NewReader(data), known, write)
		})
	})
}

func FuzzImportCSV(f *testing.F) {
	f.Add(sample(f, "conversations.csv"))
	f.Add([]byte("conversation,sender,time,text\nc,a,1,\xff\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		holds(t, func(write func(*pipeline.Message) error) ([]*Labels, Imported, error) {
			return ImportCSV(bytes.NewReader(data), write)
		})
	})
}

func FuzzParseTemplate(f *testing.F) {
	f.Add("(a|b[c]) {x}")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parseTemplate(s)
		if err != nil {
			return
		}
		_ = p.render(rand.New(rand.NewPCG(1, 2)), func(string) string { return "x" })
		if _, err := parseTemplate(p.source); err != nil {
			t.Fatal(err)
		}
	})
}
