package exchange

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dmguard/dmguard/hashdb"
	"github.com/dmguard/dmguard/hashdb/lists"
)

var rewrite = flag.Bool("update", false, "write testdata/*.golden anew")

// samples are files of every format, with invented hashes, and how they are read.
var samples = []struct {
	file    string
	format  Format
	options Options
}{
	{"list.csv", CSV, Options{}},
	{"objects.json", JSON, Options{Columns: Columns{ID: "uuid", Kind: "algo"}}},
	{"objects.ndjson", JSON, Options{Columns: Columns{ID: "uuid", Kind: "algo"}, Extent: Changes}},
	{"ncmec.xml", NCMEC, Options{}},
	{"stopncii.json", StopNCII, Options{}},
	{"threatexchange.json", ThreatExchange, Options{}},
	{"tat.json", TAT, Options{}},
	{"vics-1.3.json", VICS, Options{}},
	{"vics-2.0-cases.json", VICS, Options{Categories: map[string]string{"1": "csam", "2": "exploitation"}}},
}

func sample(t testing.TB, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// show writes an update as text, a fact a line.
func show(update lists.Update) string {
	var out strings.Builder
	for b, err := range update {
		if err != nil {
			fmt.Fprintf(&out, "error %v\n", err)
			break
		}
		fmt.Fprintf(&out, "batch replace=%t checkpoint=%q\n", b.Replace, b.Checkpoint)
		for _, r := range b.Put {
			fmt.Fprintf(&out, "put %s\n", r.ID)
			for _, h := range r.Hashes {
				fmt.Fprintf(&out, "  %s %s\n", h.Kind(), h)
			}
			if r.Category != "" {
				fmt.Fprintf(&out, "  category %s\n", r.Category)
			}
			for _, l := range r.Labels {
				fmt.Fprintf(&out, "  label %s\n", l)
			}
			for _, who := range slices.Sorted(maps.Keys(r.Opinions)) {
				fmt.Fprintf(&out, "  opinion of %s: %s\n", who, r.Opinions[who])
			}
			for _, u := range r.Unmatched {
				fmt.Fprintf(&out, "  unmatched %s\n", u)
			}
			if !r.Changed.IsZero() {
				fmt.Fprintf(&out, "  changed %s\n", r.Changed.Format(time.RFC3339Nano))
			}
		}
		for _, id := range b.Delete {
			fmt.Fprintf(&out, "delete %s\n", id)
		}
		for _, s := range b.Skipped {
			fmt.Fprintf(&out, "skip %s: %s\n", s.ID, s.Reason)
		}
	}
	return out.String()
}

func read(t testing.TB, f Format, r io.Reader, o Options) lists.Update {
	t.Helper()
	u, err := Read(f, r, o)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestEveryFormatIsReadAsItsGoldenFileSays(t *testing.T) {
	for _, s := range samples {
		t.Run(s.file, func(t *testing.T) {
			got := show(read(t, s.format, bytes.NewReader(sample(t, s.file)), s.options))
			golden := filepath.Join("testdata", s.file+".golden")
			if *rewrite {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Error(diff)
			}
			// However the bytes arrive.
			if slow := show(read(t, s.format, iotest.OneByteReader(bytes.NewReader(sample(t, s.file))), s.options)); slow != got {
				t.Errorf("byte by byte:\n%s", cmp.Diff(got, slow))
			}
		})
	}
}

// fold applies an update to a list, as whoever keeps lists does, and returns the error that ended it.
func fold(list map[string]lists.Record, u lists.Update) error {
	before := maps.Clone(list)
	put := map[string]bool{}
	replace := false
	for b, err := range u {
		if err != nil {
			if replace {
				clear(list)
				maps.Copy(list, before)
			}
			return err
		}
		replace = b.Replace
		for _, r := range b.Put {
			list[r.ID] = r
			put[r.ID] = true
		}
		for _, id := range b.Delete {
			delete(list, id)
		}
	}
	if replace {
		maps.DeleteFunc(list, func(id string, _ lists.Record) bool { return !put[id] })
	}
	return nil
}

func known(t testing.TB, f Format, content string, o Options, had ...string) []string {
	t.Helper()
	list := map[string]lists.Record{}
	for _, id := range had {
		list[id] = lists.Record{ID: id}
	}
	if err := fold(list, read(t, f, strings.NewReader(content), o)); err != nil {
		t.Fatal(err)
	}
	return slices.Sorted(maps.Keys(list))
}

const (
	someMD5 = "0123456789abcdef0123456789abcdef"
	somePDQ = "f0e1d2c3b4a5968778695a4b3c2d1e0ff0e1d2c3b4a5968778695a4b3c2d1e0f"
)

func TestWhatIsWithdrawnGoesByTheRuleOfItsFormat(t *testing.T) {
	image := func(element, member, id string) string {
		return `<` + element + `><member id="` + member + `">M</member><id>` + id + `</id><fingerprints><md5>` + someMD5 + `</md5></fingerprints></` + element + `>`
	}
	ncmec := func(images, videos string) string {
		return `<queryResult><images>` + images + `</images><videos>` + videos + `</videos></queryResult>`
	}
	stop := func(status string) string {
		return `{"hashRecords":[{"signalType":"ImagePDQ","hashValue":"` + somePDQ + `","hashStatus":"` + status + `"}]}`
	}
	threat := func(rest string) string {
		return `{"data":[{"id":"1","type":"HASH_MD5","indicator":"` + someMD5 + `"` + rest + `}]}`
	}
	described := `,"descriptors":{"data":[{"owner":{"id":"5"},"status":"MALICIOUS"}]}`
	tat := func(deleted string) string {
		return `{"results":[{"id":1,"algorithm":"MD5","hash_digest":"` + someMD5 + `","deleted":` + deleted + `}]}`
	}
	key := "imagepdq:" + somePDQ
	for _, c := range []struct {
		name    string
		format  Format
		content string
		had     []string
		want    []string
	}{
		{"ncmec image", NCMEC, ncmec(image("deletedImage", "1", "a"), ""), []string{"1/a", "2/a"}, []string{"2/a"}},
		{"ncmec video", NCMEC, ncmec("", image("deletedVideo", "1", "a")), []string{"1/a", "1/b"}, []string{"1/b"}},
		{"ncmec uploaded again after it went", NCMEC, ncmec(image("deletedImage", "1", "a")+image("image", "1", "a"), ""), []string{"1/a"}, []string{"1/a"}},
		{"ncmec gone after it came", NCMEC, ncmec(image("image", "1", "a")+image("deletedImage", "1", "a"), ""), nil, nil},
		{"ncmec rest stays", NCMEC, ncmec(image("image", "1", "b"), ""), []string{"1/a"}, []string{"1/a", "1/b"}},
		{"stopncii withdrawn", StopNCII, stop("Withdrawn"), []string{key}, nil},
		{"stopncii deleted", StopNCII, stop("Deleted"), []string{key}, nil},
		{"stopncii in another case", StopNCII, strings.ReplaceAll(stop("Deleted"), somePDQ, strings.ToUpper(somePDQ)), []string{key}, nil},
		{"stopncii active", StopNCII, stop("Active"), nil, []string{key}},
		{"stopncii of a status nobody gave", StopNCII, stop(""), []string{key}, []string{key}},
		{"threatexchange should_delete", ThreatExchange, threat(`,"should_delete":true` + described), []string{"1"}, nil},
		{"threatexchange without descriptors", ThreatExchange, threat(`,"should_delete":false`), []string{"1"}, nil},
		{"threatexchange with null descriptors", ThreatExchange, threat(`,"descriptors":null`), []string{"1"}, nil},
		{"threatexchange with none", ThreatExchange, threat(`,"descriptors":{"data":[]}`), []string{"1"}, nil},
		{"threatexchange described", ThreatExchange, threat(`,"should_delete":false` + described), nil, []string{"1"}},
		{"tat deleted", TAT, tat("true"), []string{"1"}, nil},
		{"tat deleted as a text", TAT, tat(`"True"`), []string{"1"}, nil},
		{"tat kept", TAT, tat("false"), nil, []string{"1"}},
		{"vics replaces", VICS, `{"value":[{"Category":1,"MD5":"` + someMD5 + `"}]}`, []string{"old"}, []string{someMD5}},
		{"csv replaces", CSV, "kind,hash,id\nmd5," + someMD5 + ",a\n", []string{"old"}, []string{"a"}},
		{"csv withdrawn row", CSV, "kind,hash,id,deleted\nmd5," + someMD5 + ",a,\nmd5," + someMD5 + ",b,1\n", []string{"b"}, []string{"a"}},
		{"json replaces", JSON, `[{"md5":"` + someMD5 + `","id":"a"}]`, []string{"old"}, []string{"a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := known(t, c.format, c.content, Options{}, c.had...); !slices.Equal(got, c.want) {
				t.Errorf("the list holds %q, want %q", got, c.want)
			}
		})
	}
}

func TestATombstoneCountsHoweverBrokenTheRestOfItsRecordIs(t *testing.T) {
	for format, content := range map[Format]string{
		StopNCII:       `{"hashRecords":[{"signalType":"VideoMD5","hashValue":"1","hashStatus":"Withdrawn","CSPFeedbacks":7,"lastModtimestamp":[]}]}`,
		ThreatExchange: `{"data":[{"id":"videomd5:1","should_delete":1,"type":{},"descriptors":"x"}]}`,
		TAT:            `{"results":[{"id":"videomd5:1","deleted":true,"algorithm":[],"hash_digest":{}}]}`,
	} {
		if got := known(t, format, content, Options{}, "videomd5:1"); len(got) != 0 {
			t.Errorf("%s: the list still holds %q", format, got)
		}
	}
}

func TestAFileThatBreaksOffIsAnErrorAndReplacesNothing(t *testing.T) {
	for _, s := range samples {
		if s.format == CSV || s.file == "objects.ndjson" {
			continue // a line is a record; nothing says how many there are
		}
		content := bytes.TrimSpace(sample(t, s.file))
		for cut := 0; cut < len(content); cut += 1 + cut%5 {
			list := map[string]lists.Record{"kept": {ID: "kept"}}
			if err := fold(list, read(t, s.format, bytes.NewReader(content[:cut]), s.options)); err == nil {
				t.Fatalf("%s: the first %d of %d bytes are read without an error", s.file, cut, len(content))
			}
			if _, ok := list["kept"]; !ok {
				t.Fatalf("%s: the first %d of %d bytes withdrew a record", s.file, cut, len(content))
			}
		}
	}
}

func TestAWholeListWithoutARecordIsRefused(t *testing.T) {
	for content, format := range map[string]Format{
		"kind,hash,id\n":               CSV,
		"kind,hash,id\nmd5,x,a\n":      CSV,
		"[]":                           JSON,
		`{"value":[]}`:                 VICS,
		`{"value":null}`:               VICS,
		`{"value":[{"Category":"7"}]}`: VICS,
	} {
		list := map[string]lists.Record{"kept": {ID: "kept"}}
		if err := fold(list, read(t, format, strings.NewReader(content), Options{})); err == nil || len(list) != 1 {
			t.Errorf("%s %q: error %v, %d records left", format, content, err, len(list))
		}
	}
}

func TestWhatStandsAfterTheListIsAnError(t *testing.T) {
	for content, format := range map[string]Format{
		`{"value":[{"Category":1,"MD5":"` + someMD5 + `"}]}`: VICS,
		`[{"md5":"` + someMD5 + `"}]`:                        JSON,
	} {
		for _, rest := range []string{"", "\n", "{}", "]", "x", "[]"} {
			err := fold(map[string]lists.Record{}, read(t, format, strings.NewReader(content+rest), Options{}))
			if (err != nil) != (strings.TrimSpace(rest) != "") {
				t.Errorf("%s, then %q: %v", format, rest, err)
			}
		}
	}
}

func TestFilesOfAnotherFormatAreErrors(t *testing.T) {
	contents := map[string]string{
		"nothing": "", "a page": "<html><body>Sign in</body></html>", "an error": `{"error":{"message":"no"}}`, "UTF-16": "\xff\xfe{\x00}\x00", "gzip": "\x1f\x8b\x08\x00", "text": "hello", "deep": strings.Repeat("<queryResult>", 40),
		"a doctype": `<!DOCTYPE a [<!ENTITY b "c">]><queryResult/>`,
	}
	for name, content := range contents {
		for _, f := range Formats() {
			list := map[string]lists.Record{}
			if err := fold(list, read(t, f, strings.NewReader(content), Options{Extent: Whole})); err == nil {
				t.Errorf("%s read as %s gives no error", name, f)
			}
		}
	}
}

func TestARecordOverTheLimitIsSkippedAndTheNextOneRead(t *testing.T) {
	long := strings.Repeat(`"`+strings.Repeat("x", 1<<20)+`",`, 6) + `"x"`
	next := map[Format]string{
		VICS:           `{"value":[{"Category":1,"Exifs":[` + long + `],"MD5":"` + someMD5 + `"},{"Category":1,"MD5":"` + someMD5 + `"}]}`,
		StopNCII:       `{"hashRecords":[{"tags":[` + long + `]},{"signalType":"VideoMD5","hashValue":"` + someMD5 + `","hashStatus":"Active"}]}`,
		ThreatExchange: `{"data":[{"tags":[` + long + `]},{"id":1,"type":"HASH_MD5","indicator":"` + someMD5 + `","descriptors":{"data":[{}]}}]}`,
		TAT:            `{"results":[{"tags":[` + long + `]},{"id":1,"algorithm":"MD5","hash_digest":"` + someMD5 + `"}]}`,
		JSON:           `{"tags":[` + long + `]}` + "\n" + `{"md5":"` + someMD5 + `"}`,
	}
	for f, content := range next {
		puts, skips := 0, 0
		for b, err := range read(t, f, strings.NewReader(content), Options{}) {
			if err != nil {
				t.Errorf("%s: %v", f, err)
			}
			puts += len(b.Put)
			skips += len(b.Skipped)
		}
		if puts != 1 || skips != 1 {
			t.Errorf("%s: %d records and %d skipped, want 1 and 1", f, puts, skips)
		}
	}
}

func TestOneEndlessTokenIsAnError(t *testing.T) {
	endless := func(head string) io.Reader {
		return io.MultiReader(strings.NewReader(head), io.LimitReader(letters{}, 64<<20))
	}
	for f, head := range map[Format]string{
		CSV: "kind,hash\nmd5,\"", JSON: `[{"md5":"`, NCMEC: `<queryResult><images a="`, StopNCII: `{"hashRecords":[{"a":"`, ThreatExchange: `{"`, TAT: `{"next":"`, VICS: `{"value":[{"MD5":"`,
	} {
		list := map[string]lists.Record{}
		if err := fold(list, read(t, f, endless(head), Options{})); err == nil || !strings.Contains(err.Error(), errTooLong.Error()) {
			t.Errorf("%s: %v, want %v", f, err, errTooLong)
		}
	}
}

type letters struct{}

func (letters) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

func TestRowsOfOneIDThatStandApartAreAllKept(t *testing.T) {
	var content strings.Builder
	content.WriteString("kind,hash,id\n")
	want := map[hashdb.Hash]bool{}
	for i := range 5000 {
		h, err := hashdb.ParseHash(hashdb.MD5, fmt.Sprintf("%032x", i+1))
		if err != nil {
			t.Fatal(err)
		}
		want[h] = true
		fmt.Fprintf(&content, "md5,%s,id-%d\n", h, i%700)
	}
	list := map[string]lists.Record{}
	if err := fold(list, read(t, CSV, strings.NewReader(content.String()), Options{})); err != nil {
		t.Fatal(err)
	}
	for _, r := range list {
		for _, h := range r.Hashes {
			delete(want, h)
		}
	}
	if len(want) != 0 {
		t.Errorf("%d of 5000 hashes are in no record", len(want))
	}
	if _, ok := list["id-1"]; !ok {
		t.Error("the first row of an ID does not keep it")
	}
}

func TestAColumnThatTheMappingNamesMustBeThere(t *testing.T) {
	c, err := ParseColumns(" id = Ref , md5=File MD5 ")
	if err != nil {
		t.Fatal(err)
	}
	if got := known(t, CSV, "ref;file md5;x\n7;"+someMD5+";\n", Options{Columns: c}); !slices.Equal(got, []string{"7"}) {
		t.Errorf("%q", got)
	}
	for _, content := range []string{"ref,md5\n7," + someMD5, "ref\n7", "hash,ref,file md5\n1,2,3", "ref,ref,file md5\n1,2,3"} {
		if err := fold(map[string]lists.Record{}, read(t, CSV, strings.NewReader(content), Options{Columns: c})); err == nil {
			t.Errorf("%q is read", content)
		}
	}
	for _, mapping := range []string{"id", "id=", "nothing=x", "=x"} {
		if _, err := ParseColumns(mapping); err == nil {
			t.Errorf("the mapping %q is taken", mapping)
		}
	}
}

func TestAConsumerThatStopsIsNotCalledAgain(t *testing.T) {
	for _, s := range samples {
		for range read(t, s.format, bytes.NewReader(sample(t, s.file)), s.options) {
			break
		}
	}
}

func TestBatchesAreBounded(t *testing.T) {
	var content strings.Builder
	content.WriteString("md5,id\n")
	for i := range 5 * perBatch / 2 {
		fmt.Fprintf(&content, "%032x,%d\n", i+1, i)
		content.WriteString("bad,bad\n")
	}
	n := 0
	for b, err := range read(t, CSV, strings.NewReader(content.String()), Options{}) {
		if err != nil {
			t.Fatal(err)
		}
		if size := len(b.Put) + len(b.Delete) + len(b.Skipped); size > perBatch {
			t.Errorf("a batch of %d", size)
		}
		n += len(b.Put)
	}
	if n != 5*perBatch/2 {
		t.Errorf("%d records", n)
	}
}
