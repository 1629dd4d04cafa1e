package pipeline_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/dmguard/dmguard/pipeline"
)

// full is a message with every field that the schema knows.
const full = `{"id":"m-1","conversation_id":"c-1","sent_at":"2026-03-01T16:00:00.5+01:00",
"sender":{"id":"u-1","age":31,"account_created_at":"2020-01-01T00:00:00Z","connected":false,
  "behaviour":{"minors_contacted":1,"strangers_contacted":2,"replies_received":0,"blocked_by":3,"reported_by":4}},
"recipients":[{"id":"u-2","age":14,"account_created_at":"2025-01-01T00:00:00Z","connected":true,"behaviour":{"minors_contacted":0}},{"id":"u-3"}],
"text":"are you coming to practice?","lang":"en-GB","region":"GB",
"attachments":[{"id":"a-1","media_type":"image/png","size":4,"data":"AAECAw==","hashes":{"md5":"00"}},{"id":"a-2","media_type":"video/mp4","uri":"mem://bucket/a-2"}],
"user_reports":[{"id":"r-1","reporter_id":"u-2","reported_at":"2026-03-01T17:00:00Z","reason":"not nice"}]}`

func with(t testing.TB, path, raw string) string {
	t.Helper()
	doc := decode(t, full)
	return encode(t, change(doc, strings.Split(path, "/"), func(map[string]any, string) any { return json.RawMessage(raw) }))
}

func decode(t testing.TB, s string) any {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(s))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func encode(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

type removed struct{}

// change replaces what lies at path in doc by what f returns.
func change(doc any, path []string, f func(parent map[string]any, name string) any) any {
	switch v := doc.(type) {
	case map[string]any:
		if len(path) > 1 {
			v[path[0]] = change(v[path[0]], path[1:], f)
			return v
		}
		if n := f(v, path[0]); n == (removed{}) {
			delete(v, path[0])
		} else {
			v[path[0]] = n
		}
		return v
	case []any:
		var i int
		_, _ = fmt.Sscan(path[0], &i)
		if len(path) > 1 {
			v[i] = change(v[i], path[1:], f)
		} else if n := f(nil, path[0]); n != (removed{}) {
			v[i] = n
		}
		return v
	default:
		return doc
	}
}

// paths returns every place in v.
func paths(v any, at []string) [][]string {
	var out [][]string
	if len(at) > 0 {
		out = append(out, slices.Clone(at))
	}
	switch v := v.(type) {
	case map[string]any:
		for _, k := range sortedKeys(v) {
			out = append(out, paths(v[k], append(slices.Clone(at), k))...)
		}
	case []any:
		for i := range v {
			out = append(out, paths(v[i], append(slices.Clone(at), fmt.Sprint(i)))...)
		}
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func schemaAccepts(t testing.TB, name, doc string) error {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(doc))
	if err != nil {
		return err
	}
	return schemas()[name].Validate(v)
}

// literals are what the differential test puts in the place of every value.
func literals() []string {
	out := []string{
		`null`, `true`, `0`, `-0`, `-1`, `14`, `14.0`, `1.4e1`, `140e-1`, `14.5`, `130`, `130.0`, `131`, `1e3`, `1e-3`, `-0.0`, `-1.0`,
		`9223372036854775807`, `9223372036854775808`, `-9223372036854775809`, `1e300`, `-1e300`, `123456789012345678901234567890`, `0.0000000`, `1E+2`,
		`""`, `"x"`, `[]`, `{}`, `[null]`, `[{}]`, `[[]]`, `{"id":null}`, `{"id":"x"}`, `[{"id":"x"}]`, `{"0":null}`, `{"":null}`, `{"a/b":null}`, `"é"`,
		`"2026-03-01T16:00:00Z"`, `"2026-03-01t16:00:00z"`, `"2026-03-01T16:00:00z"`, `"2026-03-01 16:00:00Z"`, `"2026-03-01"`, `"16:00:00Z"`,
		`"2016-12-31T23:59:60Z"`, `"2016-12-31T23:59:60.25Z"`, `"2017-01-01T00:59:60+01:00"`, `"2016-12-31T22:59:60Z"`, `"2016-12-31T23:59:61Z"`,
		`"0000-01-01T00:00:00Z"`, `"0001-01-01T00:00:00Z"`, `"9999-12-31T23:59:59Z"`, `"9999-12-31T23:59:60Z"`, `"10000-01-01T00:00:00Z"`, `"2026-02-29T00:00:00Z"`,
		`"2024-02-29T00:00:00Z"`, `"2026-03-01T24:00:00Z"`, `"2026-03-01T16:60:00Z"`, `"2026-03-01T16:00Z"`, `"2026-03-01T16:00:00"`, `"2026-03-01T16:00:00,5Z"`,
		`"2026-03-01T16:00:00.Z"`, `"2026-03-01T16:00:00.123456789123456Z"`, `"2026-03-01T16:00:00+23:59"`, `"2026-03-01T16:00:00+24:00"`,
		`"2026-03-01T16:00:00+01:60"`, `"2026-03-01T16:00:00-00:00"`, `"2026-03-01T16:00:00+0100"`, `"2026-03-01T6:00:00Z"`,
		`"AAAA"`, `"AA=="`, `"AB=="`, `"AA"`, `"AA="`, `"_-8="`, `"+/8="`, `"AA AA"`, `"AA\nAA"`, `"AA\r\nAA\n"`, `"===="`, `"A"`,
	}
	for _, n := range []int{256, 257, 4096, 4097, 65536, 65537} {
		out = append(out, `"`+strings.Repeat("a", n)+`"`, `"`+strings.Repeat("𐍈", n)+`"`)
	}
	for _, n := range []int{64, 65, 1024, 1025} {
		out = append(out,
			"["+strings.Repeat(`{"id":"x"},`, n-1)+`{"id":"x"}]`,
			"["+strings.Repeat(`{"id":"x","media_type":""},`, n-1)+`{"id":"x","media_type":""}]`,
			"["+strings.Repeat(`{"id":"","reporter_id":"","reported_at":"2026-03-01T16:00:00Z"},`, n-1)+`{"id":"","reporter_id":"","reported_at":"2026-03-01T16:00:00Z"}]`)
	}
	return out
}

// The differences that are meant are those that JSON itself makes: duplicate
// names, invalid UTF-8 and nesting over 10,000 levels, which a schema does not
// see. See TestBadInputIsAPermanentErrorThatSaysWhatIsWrong.
func TestParseMessageAcceptsExactlyWhatTheSchemaAccepts(t *testing.T) {
	agree := func(doc string) bool {
		want := schemaAccepts(t, "message", doc)
		_, got := pipeline.ParseMessage([]byte(doc))
		if (want == nil) != (got == nil) {
			if len(doc) > 2000 {
				doc = doc[:2000] + "…"
			}
			t.Errorf("%s\nschema: %v\nParseMessage: %v", doc, want, got)
		}
		return got == nil
	}
	all := literals()
	places := paths(decode(t, full), nil)
	accepted, refused := 0, 0
	count := func(ok bool) {
		if ok {
			accepted++
		} else {
			refused++
		}
	}
	for _, at := range places {
		count(agree(encode(t, change(decode(t, full), at, func(map[string]any, string) any { return removed{} }))))
		for _, l := range all {
			count(agree(encode(t, change(decode(t, full), at, func(map[string]any, string) any { return json.RawMessage(l) }))))
		}
		if t.Failed() {
			t.FailNow()
		}
	}

	// Several changes at once, unknown fields with awkward names among them.
	rng := rand.New(rand.NewPCG(1, 2))
	short := slices.DeleteFunc(slices.Clone(all), func(s string) bool { return len(s) > 500 })
	names := []string{"0", "", "x", "sender/id", "ID", "Text", "null", "~1", "id ", "uri", "data", "hashes", "behaviour", "age"}
	for range 5000 {
		doc := decode(t, full)
		for range 1 + rng.IntN(3) {
			at := places[rng.IntN(len(places))]
			doc = change(doc, at, func(parent map[string]any, _ string) any {
				if l := short[rng.IntN(len(short))]; rng.IntN(3) > 0 && parent != nil {
					parent[names[rng.IntN(len(names))]] = json.RawMessage(l)
				} else if rng.IntN(2) == 0 {
					return json.RawMessage(l)
				}
				return removed{}
			})
		}
		count(agree(encode(t, doc)))
		if t.Failed() {
			t.FailNow()
		}
	}
	if accepted < 500 || refused < 500 {
		t.Errorf("%d documents accepted and %d refused: the test shows too little", accepted, refused)
	}
}

func TestEveryValueOfAMessageIsRead(t *testing.T) {
	m, err := pipeline.ParseMessage([]byte(full))
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case m.Text.Reveal() != "are you coming to practice?", m.Lang != "en-GB", m.Region != "GB",
		!m.SentAt.Equal(time.Date(2026, 3, 1, 15, 0, 0, 5e8, time.UTC)),
		*m.Sender.Age != 31, *m.Sender.Connected, *m.Sender.Behaviour.ReportedBy != 4, len(m.Recipients) != 2, *m.Recipients[0].Age != 14,
		m.Recipients[1].Age != nil, !bytes.Equal(m.Attachments[0].Data.Reveal(), []byte{0, 1, 2, 3}), *m.Attachments[0].Size != 4,
		m.Attachments[0].Hashes["md5"] != "00", m.Attachments[1].URI != "mem://bucket/a-2", m.UserReports[0].Reason.Reveal() != "not nice":
		t.Errorf("read as %+v", m)
	}
	for path, want := range map[string]struct {
		raw  string
		want int64
	}{
		"a fraction of zero": {"14.0", 14}, "an exponent": {"1.4e1", 14}, "a negative exponent": {"14000e-3", 14}, "negative zero": {"-0.0", 0},
		"too large": {"1e300", math.MaxInt64}, "far too large": {"1e" + strings.Repeat("9", 40), math.MaxInt64}, "zero with a huge exponent": {"0e" + strings.Repeat("9", 40), 0},
		"as large as can be": {"9223372036854775807", math.MaxInt64},
	} {
		m, err := pipeline.ParseMessage([]byte(with(t, "attachments/0/size", want.raw)))
		if err != nil || *m.Attachments[0].Size != want.want {
			t.Errorf("%s: %v, %v; want %d", path, m, err, want.want)
		}
	}
	for raw, want := range map[string]time.Time{
		`"2026-03-01t16:00:00z"`:      time.Date(2026, 3, 1, 16, 0, 0, 0, time.UTC),
		`"2016-12-31T23:59:60.5Z"`:    time.Date(2016, 12, 31, 23, 59, 59, 5e8, time.UTC),
		`"0001-01-01T00:00:00Z"`:      {},
		`"9999-12-31T23:59:60Z"`:      time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		`"2016-12-31\u005423:59:60Z"`: time.Date(2016, 12, 31, 23, 59, 59, 0, time.UTC),
	} {
		m, err := pipeline.ParseMessage([]byte(strings.Replace(full, `"2026-03-01T16:00:00.5+01:00"`, raw, 1)))
		if err != nil || !m.SentAt.Equal(want) {
			t.Errorf("%s: %v; want %v", raw, err, want)
		}
	}
}

func TestBadInputIsAPermanentErrorThatSaysWhatIsWrong(t *testing.T) {
	deep := func(n int) string {
		return strings.Replace(full, `"lang"`, `"x":`+strings.Repeat("[", n)+strings.Repeat("]", n)+`,"lang"`, 1)
	}
	list := func(one string, n int) string { return "[" + strings.Repeat(one+",", n-1) + one + "]" }
	for name, tt := range map[string]struct{ doc, says string }{
		"empty":                       {"", "ends too early"},
		"8 MiB of spaces":             {strings.Repeat(" ", 8<<20), "ends too early"},
		"null":                        {"null", "null at the top"},
		"an array":                    {"[" + full + "]", "at the top"},
		"a string":                    {`"x"`, "at the top"},
		"a byte order mark":           {"\ufeff" + full, "not valid JSON at byte 0"},
		"two messages":                {full + full, "not valid JSON"},
		"10,001 levels":               {deep(10001), "nested too deeply"},
		"not UTF-8":                   {strings.Replace(full, "practice", "pract\xffce", 1), "invalid UTF-8"},
		"half a surrogate pair":       {strings.Replace(full, "practice", `\ud800`, 1), "not valid JSON"},
		"a name twice":                {strings.Replace(full, `"text"`, `"id":"m-2","text"`, 1), "duplicate field name"},
		"a name twice, escaped":       {strings.Replace(full, `"text"`, `"\u0069d":"m-2","text"`, 1), "duplicate field name"},
		"a name twice in the sender":  {strings.Replace(full, `"age":31`, `"age":31,"age":12`, 1), "duplicate field name"},
		"a name twice in a recipient": {strings.Replace(full, `"age":14`, `"age":14,"age":41`, 1), "duplicate field name"},
		"a name twice in behaviour":   {strings.Replace(full, `"blocked_by":3`, `"blocked_by":3,"blocked_by":0`, 1), "duplicate field name"},
		"a name twice, attachment":    {strings.Replace(full, `"size":4`, `"size":4,"size":5`, 1), "duplicate field name"},
		"a name twice, hashes":        {strings.Replace(full, `"md5":"00"`, `"md5":"00","md5":"01"`, 1), "duplicate field name"},
		"a name twice, report":        {strings.Replace(full, `"reason"`, `"id":"r-2","reason"`, 1), "duplicate field name"},
		"a name twice, unknown":       {strings.Replace(full, `"lang"`, `"x":{"y":[{"z":1,"z":2}]},"lang"`, 1), "duplicate field name"},
		"an id of 257 characters":     {with(t, "id", `"`+strings.Repeat("é", 257)+`"`), "id is longer than 256 characters"},
		"a conversation of 257":       {with(t, "conversation_id", `"`+strings.Repeat("c", 257)+`"`), "conversation_id is longer than 256"},
		"a text of 65,537 characters": {with(t, "text", `"`+strings.Repeat("𐍈", 65537)+`"`), "text is longer than 65536 characters"},
		"a reason of 4,097":           {with(t, "user_reports/0/reason", `"`+strings.Repeat("a", 4097)+`"`), "user_reports[0].reason is longer"},
		"1,025 recipients":            {with(t, "recipients", list(`{"id":"u"}`, 1025)), "1025 recipients, more than 1024"},
		"1,025 large recipients":      {with(t, "recipients", list(`{"id":"`+strings.Repeat("u", 99)+`"}`, 1025)), "more than 1024 recipients"},
		"a million recipients":        {with(t, "recipients", list(`{}`, 1_000_000)), "more than 1024 recipients"},
		"65 attachments":              {with(t, "attachments", list(`{"id":"a","media_type":""}`, 65)), "65 attachments, more than 64"},
		"65 reports":                  {with(t, "user_reports", list(`{"id":"","reporter_id":"","reported_at":"2026-03-01T16:00:00Z"}`, 65)), "65 user reports, more than 64"},
		"data and uri":                {with(t, "attachments/0/uri", `""`), "attachments[0] has both uri and data"},
		"URL-safe base64":             {with(t, "attachments/0/data", `"_-8="`), "/attachments/0/data"},
		"unpadded base64":             {with(t, "attachments/0/data", `"AA"`), "/attachments/0/data"},
		"no media type":               {strings.Replace(full, `"media_type":"image/png",`, "", 1), "missing attachments[0].media_type"},
		"no sent_at":                  {strings.Replace(full, `"sent_at"`, `"sent"`, 1), "missing sent_at"},
		"no sender":                   {strings.Replace(full, `"sender"`, `"from"`, 1), "missing sender.id"},
		"a report without all":        {with(t, "user_reports/0", `{}`), "missing user_reports[0].id\nmissing user_reports[0].reporter_id\nmissing user_reports[0].reported_at"},
		"an age of 131":               {with(t, "sender/age", "131"), "sender.age is outside 0 to 130"},
		"a huge age":                  {with(t, "sender/age", "1e400"), "sender.age is outside 0 to 130"},
		"half an age":                 {with(t, "sender/age", "14.5"), "/sender/age"},
		"a negative count":            {with(t, "sender/behaviour/blocked_by", "-1e30"), "negative count"},
		"a negative size":             {with(t, "attachments/0/size", "-1"), "attachments[0].size is negative"},
		"a null age":                  {with(t, "recipients/0/age", "null"), "null at /recipients/0/age"},
		"a null hash":                 {with(t, "attachments/0/hashes/x", "null"), "null at /attachments/0/hashes/?"},
		"every fault at once":         {`{"id":"","sender":{"id":"u","age":-1}}`, "missing id\nmissing conversation_id\nsender.age is outside 0 to 130\nmissing sent_at"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := pipeline.ParseMessage([]byte(tt.doc))
			if err == nil || !pipeline.IsPermanent(err) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("ParseMessage() = %v; want a permanent error that says %q", err, tt.says)
			}
		})
	}
}

func TestWhatIsUnusualButValidIsAccepted(t *testing.T) {
	for name, doc := range map[string]string{
		"unknown fields everywhere": strings.NewReplacer(`{"id"`, `{"new":{"a":[1,null]},"":null,"0":null,"sender/id":null,"id"`).Replace(full),
		"65,536 astral characters":  with(t, "text", `"`+strings.Repeat("𐍈", 65536)+`"`),
		"1,024 recipients":          with(t, "recipients", "["+strings.Repeat(`{"id":"u"},`, 1023)+`{"id":"u"}]`),
		"ids of 256 characters":     with(t, "id", `"`+strings.Repeat("é", 256)+`"`),
		"year 1":                    with(t, "sent_at", `"0001-01-01T00:00:00Z"`),
		"year 9999":                 with(t, "sent_at", `"9999-12-31T23:59:59Z"`),
		"an empty media type":       with(t, "attachments/0/media_type", `""`),
		"empty report ids":          with(t, "user_reports/0/id", `""`),
		"base64 in lines":           with(t, "attachments/0/data", `"AAEC\r\nAw==\n"`),
		"no data":                   with(t, "attachments/0/data", `""`),
		"9,990 levels unknown":      strings.Replace(full, `"lang"`, `"x":`+strings.Repeat("[", 9990)+strings.Repeat("]", 9990)+`,"lang"`, 1),
		"an unknown null":           strings.Replace(full, `"lang"`, `"x":null,"lang"`, 1),
		"names in other case":       strings.Replace(full, `"lang"`, `"TEXT":7,"Id":null,"lang"`, 1),
	} {
		t.Run(name, func(t *testing.T) {
			if err := schemaAccepts(t, "message", doc); err != nil {
				t.Fatalf("the schema refuses it: %v", err)
			}
			if _, err := pipeline.ParseMessage([]byte(doc)); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAMessageCutShortAnywhereIsAnError(t *testing.T) {
	for n := range len(full) {
		if _, err := pipeline.ParseMessage([]byte(full[:n])); !pipeline.IsPermanent(err) {
			t.Fatalf("cut at byte %d: %v", n, err)
		}
	}
}

const (
	canary       = "Zq7kxWords"
	canaryNumber = "5550199123"
)

// errorWords are all words that an error of ParseMessage may be made of.
var errorWords = func() map[string]bool {
	words := map[string]bool{}
	for w := range strings.FieldsSeq(`reading invalid message wrong type or value at byte unexpected duplicate field name UTF the JSON
		ends too early not valid nested deeply null top missing is longer than characters recipients attachments user reports more outside to
		negative has a count both and uri data
		id conversation_id sent_at sender text lang user_reports region age account_created_at connected behaviour minors_contacted
		strangers_contacted replies_received blocked_by reported_by media_type size hashes reporter_id reported_at reason`) {
		words[w] = true
	}
	return words
}()

var word = regexp.MustCompile(`[\pL_]+|[0-9]{8,}`)

// quotesNothing fails the test where an error says a word that is not ours.
func quotesNothing(t *testing.T, err error) {
	t.Helper()
	for _, w := range word.FindAllString(err.Error(), -1) {
		if !errorWords[w] {
			t.Fatalf("%q may be the sender's, in %q", w, err)
		}
	}
}

func TestNoErrorOfAMessageQuotesIt(t *testing.T) {
	places := paths(decode(t, full), nil)
	for _, at := range places {
		for _, put := range []string{
			`"` + canary + `"`, canaryNumber, `-` + canaryNumber + `.5`, `{"` + canary + `":null,"` + canaryNumber + `":null}`, `["` + canary + `",` + canaryNumber + `]`, `null`,
			`{"` + canary + `":1,"` + canary + `":2}`, `"` + canary + "\xff" + `"`, `"` + canary, canary, `{"id":{"` + canary + `":[]}}`, `[{"` + canary + `":null}]`,
			`"` + strings.Repeat(canary, 7000) + `"`,
		} {
			const mark = 424242424242
			doc := encode(t, change(decode(t, full), at, func(map[string]any, string) any { return mark }))
			doc = strings.Replace(doc, fmt.Sprint(mark), put, 1)
			if _, err := pipeline.ParseMessage([]byte(doc)); err != nil {
				quotesNothing(t, err)
			}
			// As a name, and beside a fault.
			named := encode(t, change(decode(t, full), at, func(parent map[string]any, _ string) any {
				if parent != nil {
					parent[canary], parent[canaryNumber] = canaryNumber, nil
				}
				return nil
			}))
			if _, err := pipeline.ParseMessage([]byte(named)); err != nil {
				quotesNothing(t, err)
			}
		}
	}
}

func FuzzParseMessageNeverQuotes(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte(message("m-1", "c-1")))
	f.Add([]byte(`{"id":"` + canary + `","` + canary + `":null,"sender":{"id":"u","` + canaryNumber + `":null}}`))
	f.Add([]byte(`{"recipients":[{"id":"` + canary + `","age":14.0}],"sent_at":"2016-12-31T23:59:60z","hashes":null}`))
	f.Add([]byte(`{"attachments":[{"id":"a","hashes":{"` + canary + `":null}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := pipeline.ParseMessage(data)
		if err != nil {
			if !pipeline.IsPermanent(err) {
				t.Fatalf("%v is not permanent", err)
			}
			quotesNothing(t, err)
			return
		}
		if err := schemaAccepts(t, "message", string(data)); err != nil {
			t.Fatalf("accepted, but not by the schema: %v", err)
		}
		id, conversation := pipeline.PeekIDs(data)
		if id != m.ID || conversation != m.ConversationID || pipeline.PeekConversation(data) != conversation {
			t.Fatalf("peeked %q and %q, parsed %q and %q", id, conversation, m.ID, m.ConversationID)
		}
	})
}

func FuzzPeekIDs(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte(full[:40]))
	f.Add([]byte(`{"conversation_id":7,"x":{"id":"no"},"\u0069d":"m-1","id":"m-2","conversation_id":"c"`))
	f.Fuzz(func(t *testing.T, data []byte) {
		id, conversation := pipeline.PeekIDs(data)
		if len([]rune(id)) > pipeline.MaxIDLength || len([]rune(conversation)) > pipeline.MaxIDLength {
			t.Fatal("an id that is too long")
		}
		if m, err := pipeline.ParseMessage(data); err == nil && (id != m.ID || conversation != m.ConversationID) {
			t.Fatalf("peeked %q and %q, parsed %q and %q", id, conversation, m.ID, m.ConversationID)
		}
		if again := pipeline.PeekConversation(data); again != conversation {
			t.Fatalf("conversation %q, and %q when asked for alone", conversation, again)
		}
	})
}

func TestIDsOfABrokenRecordAreReadAsFarAsItGoes(t *testing.T) {
	for doc, want := range map[string][2]string{
		``: {}, `[]`: {}, `{"id":7,"conversation_id":"c"}`: {"", "c"}, `{"id":"m","conversation_id":"c","text":`: {"m", "c"},
		`{"id":"m","sender":{"conversation_id":"no"}}`: {"m", ""}, `{"id":"m","x":[}`: {"m", ""},
		`{"id":"` + strings.Repeat("x", 257) + `","conversation_id":"c"}`: {"", "c"},
	} {
		if id, conversation := pipeline.PeekIDs([]byte(doc)); id != want[0] || conversation != want[1] {
			t.Errorf("%.60s: %q, %q; want %q", doc, id, conversation, want)
		}
	}
}

func TestTheContractsExampleIsValid(t *testing.T) {
	lines := []string{full, message("m-1", "c-1")}
	if data, err := os.ReadFile(filepath.Join("..", "..", "shared", "contract", "example.messages.ndjson")); err == nil {
		lines = append(lines, strings.Split(strings.TrimSpace(string(data)), "\n")...)
	} else {
		t.Logf("the contract's own example is not here, only ours is read: %v", err)
	}
	for _, l := range lines {
		if _, err := pipeline.ParseMessage([]byte(l)); err != nil {
			t.Errorf("%s: %v", l, err)
		}
		conforms(t, "message", []byte(l))
	}
}

func BenchmarkParseMessage(b *testing.B) {
	data := []byte(`{"id":"m-0194c2d1","conversation_id":"c-77123","sent_at":"2026-03-01T16:00:00Z","sender":{"id":"u-1","age":14},` +
		`"recipients":[{"id":"u-2","age":14}],"text":"are you coming to practice? my dad can drive us both there at four"}`)
	b.ReportAllocs()
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := pipeline.ParseMessage(data); err != nil {
			b.Fatal(err)
		}
	}
}

// properties returns the properties of a schema by path, objects in arrays as
// their parent, references followed.
func properties(t *testing.T, root, at map[string]any, prefix string, out map[string]bool) {
	t.Helper()
	if ref, ok := at["$ref"].(string); ok {
		if name, local := strings.CutPrefix(ref, "#/$defs/"); local {
			defs, _ := root["$defs"].(map[string]any)
			at, _ = defs[name].(map[string]any)
		} else {
			root = schemaDocument(t, strings.TrimSuffix(strings.TrimPrefix(ref, "../"), "/v1"))
			at = root
		}
	}
	if items, ok := at["items"].(map[string]any); ok {
		properties(t, root, items, prefix, out)
	}
	props, _ := at["properties"].(map[string]any)
	for name, p := range props {
		out[prefix+"/"+name] = true
		sub, _ := p.(map[string]any)
		properties(t, root, sub, prefix+"/"+name, out)
	}
}

func schemaDocument(t *testing.T, name string) map[string]any {
	t.Helper()
	data, err := pipeline.Schemas.ReadFile("schemas/" + name + ".schema.json")
	if err != nil {
		t.Fatal(err)
	}
	doc, _ := decode(t, string(data)).(map[string]any)
	return doc
}

// jsonFields returns the JSON names of a type in the same way.
func jsonFields(typ reflect.Type, prefix string, out map[string]bool) {
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
		typ = typ.Elem()
	}
	if typ.Kind() != reflect.Struct || typ == reflect.TypeFor[time.Time]() {
		return
	}
	for f := range typ.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported():
		case f.Anonymous && name == "":
			jsonFields(f.Type, prefix, out)
		default:
			out[prefix+"/"+name] = true
			jsonFields(f.Type, prefix+"/"+name, out)
		}
	}
}

func TestTypesAndSchemasHaveTheSameFields(t *testing.T) {
	reference, _ := schemaDocument(t, "deadletter")["properties"].(map[string]any)["reference"].(map[string]any)
	for name, tt := range map[string]struct {
		schema map[string]any
		typ    reflect.Type
	}{
		"message":   {schemaDocument(t, "message"), reflect.TypeFor[pipeline.Message]()},
		"verdict":   {schemaDocument(t, "verdict"), reflect.TypeFor[pipeline.Verdict]()},
		"hit":       {schemaDocument(t, "hit"), reflect.TypeFor[pipeline.Hit]()},
		"features":  {schemaDocument(t, "features"), reflect.TypeFor[pipeline.Features]()},
		"gap":       {schemaDocument(t, "gap"), reflect.TypeFor[pipeline.Gap]()},
		"reference": {reference, reflect.TypeFor[pipeline.Reference]()},
	} {
		inSchema, inType := map[string]bool{}, map[string]bool{}
		properties(t, tt.schema, tt.schema, "", inSchema)
		jsonFields(tt.typ, "", inType)
		if len(inType) < 5 {
			t.Errorf("%s: only %d fields found", name, len(inType))
		}
		for f := range inSchema {
			if !inType[f] {
				t.Errorf("%s: the schema has %s, the type has not", name, f)
			}
		}
		for f := range inType {
			if !inSchema[f] {
				t.Errorf("%s: the type has %s, the schema has not", name, f)
			}
		}
	}
}

func TestOurCopiesOfTheContractsSchemasAreEqual(t *testing.T) {
	for _, name := range []string{"message.schema.json", "verdict.schema.json"} {
		want, err := os.ReadFile(filepath.Join("..", "..", "shared", "contract", name))
		if err != nil {
			t.Logf("the contract is not here, so that its %s cannot be compared: %v", name, err)
			continue
		}
		got, err := pipeline.Schemas.ReadFile("schemas/" + name)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s differs from the contract's (%v)", name, err)
		}
	}
}

func TestEverySchemaCompilesAndTheEnumerationsAreItsOwn(t *testing.T) {
	for _, name := range []string{"message", "envelope", "verdict", "verdicts", "hit", "features", "deadletter", "gap"} {
		if schemas()[name] == nil {
			t.Errorf("no schema %s", name)
		}
	}
	props, _ := schemaDocument(t, "verdict")["properties"].(map[string]any)
	enum := func(name string) string {
		p, _ := props[name].(map[string]any)
		return fmt.Sprint(p["enum"])
	}
	if got := fmt.Sprint([]pipeline.Status{pipeline.Scanned, pipeline.Partial, pipeline.Failed, pipeline.Skipped}); got != enum("status") {
		t.Errorf("statuses %s, in the schema %s", got, enum("status"))
	}
	if got := fmt.Sprint([]pipeline.Action{pipeline.Allow, pipeline.Review, pipeline.Block}); got != enum("action") {
		t.Errorf("actions %s, in the schema %s", got, enum("action"))
	}
	if got := fmt.Sprint([]pipeline.Severity{pipeline.None, pipeline.Low, pipeline.Medium, pipeline.High, pipeline.Critical}); got != enum("severity") {
		t.Errorf("severities %s, in the schema %s", got, enum("severity"))
	}
	conforms(t, "deadletter", []byte(`{"headers":{"schema":"deadletter/v1","reason":"x","topic":"dm.messages","partition":"0","offset":"7"}}`))
}
