package lists

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dmguard/dmguard/hashdb"
)

func manifestOf() *Manifest {
	return &Manifest{
		List: "ours", Number: 3, Made: time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC), Change: Change{Entries: 3, Of: 10, Leave: Approved},
		Past: []Past{
			{Number: 2, Digest: textDigest("two"), Change: Change{Entries: 1, Of: 9}},
			{Number: 1, Digest: textDigest("one"), Change: Change{Entries: 9, Leave: Filling}},
		},
		Records: 12, Entries: map[hashdb.Kind]int{hashdb.MD5: 4, hashdb.PDQ: 9}, Refused: 1, Settings: textDigest("settings"),
		Base:  File{Name: "ours@1-0badcafe.base", Size: 4711, SHA256: [32]byte{1, 2, 3}},
		Delta: &File{Name: "ours@3-0badcafe.delta", Size: 47, SHA256: [32]byte{4, 5, 6}},
	}
}

func TestAManifestIsReadBackAsItWasWritten(t *testing.T) {
	m := manifestOf()
	got, err := ParseManifest(m.Text())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m, got); diff != "" {
		t.Errorf("(-written +read):\n%s", diff)
	}
	for _, change := range []func(*Manifest){
		func(m *Manifest) { m.Base.Name = "../../etc/ours@1-0.base" },
		func(m *Manifest) { m.Base.Name = "ours@../x.base" },
		func(m *Manifest) { m.Base.Name = "theirs@1-0.base" },
		func(m *Manifest) { m.Delta.Name = "ours@1-0.base" },
		func(m *Manifest) { m.List = "a\nb" },
		func(m *Manifest) { m.Number = 0 },
		func(m *Manifest) { m.Number = 4 },
		func(m *Manifest) { m.Past[0].Digest = "-" },
		func(m *Manifest) { m.Past[0], m.Past[1] = m.Past[1], m.Past[0] },
		func(m *Manifest) { m.Change.Leave = "forgiven" },
		func(m *Manifest) { m.Past[1].Change.Leave = "forgiven" },
		func(m *Manifest) { m.Change.Entries = -1 },
		func(m *Manifest) { m.Records = -1 },
		func(m *Manifest) { m.Settings = "x" },
	} {
		bad := manifestOf()
		change(bad)
		if _, err := ParseManifest(bad.Text()); err == nil {
			t.Errorf("taken:\n%s", bad.Text())
		}
	}
}

func TestADeltaIsReadBackAsItWasWrittenAndNothingElse(t *testing.T) {
	made := func() *delta {
		d := &delta{withdraw: []string{"b", "a"}}
		for i, k := range hashdb.Kinds() {
			d.add = append(d.add, hashdb.Entry{Hash: hash(t, k, i), ID: "a", Category: "csam"}, hashdb.Entry{Hash: hash(t, k, i), ID: "c"})
		}
		return d
	}
	d := made()
	data := d.encode()
	got, err := parseDelta(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(d, got, cmp.AllowUnexported(delta{}), cmp.Comparer(func(a, b hashdb.Hash) bool { return a == b })); diff != "" {
		t.Errorf("(-written +read):\n%s", diff)
	}
	for n := range data {
		if _, err := parseDelta(data[:n]); !errors.Is(err, errDelta) {
			t.Errorf("the first %d of %d bytes: %v", n, len(data), err)
		}
	}
	zero, err := hashdb.NewHash(hashdb.MD5, make([]byte, 16))
	if err != nil {
		t.Fatal(err)
	}
	bad := map[string][]byte{"more behind": append(slices.Clone(data), 0), "an order": bytes.Replace(data, []byte("\x01a\x01b"), []byte("\x01b\x01a"), 1)}
	for name, change := range map[string]func(*delta){
		"an ID twice":     func(d *delta) { d.withdraw = append(d.withdraw, "a") },
		"an empty ID":     func(d *delta) { d.withdraw = append(d.withdraw, "") },
		"an entry twice":  func(d *delta) { d.add = append(d.add, d.add[0]) },
		"a nameless one":  func(d *delta) { d.add[0].ID = "" },
		"two lines":       func(d *delta) { d.add[0].ID = "a\nb" },
		"a long category": func(d *delta) { d.add[0].Category = strings.Repeat("x", mostText+1) },
		"an unfit hash":   func(d *delta) { d.add[0].Hash = zero },
		"no hash":         func(d *delta) { d.add[0].Hash = hashdb.Hash{} },
	} {
		d := made()
		change(d)
		bad[name] = d.encode()
	}
	for name, data := range bad {
		if _, err := parseDelta(data); !errors.Is(err, errDelta) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(manifestOf().Text()))
	f.Add(unsigned(manifestOf()))
	f.Add([]byte(manifestHead + "\nlist a\nnumber 1\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := ParseManifest(string(data)); err == nil {
			if m.Text() != string(data) {
				t.Errorf("two texts mean the same:\n%q\n%q", data, m.Text())
			}
			if len(m.Version()) < 14 || m.Number < 1 || m.Total() < 0 || m.Base.Size < 0 {
				t.Errorf("taken: %+v", m)
			}
		}
		if m, signers, err := (Trust{}).Open(data); err == nil && (m == nil || len(signers) > 0) {
			t.Errorf("signed by %v: %+v", signers, m)
		}
	})
}

func FuzzDelta(f *testing.F) {
	d := &delta{withdraw: []string{"a", "b"}}
	for _, k := range hashdb.Kinds() {
		d.add = append(d.add, hashdb.Entry{Hash: hash(f, k, 1), ID: "a", Category: "csam"})
	}
	f.Add(d.encode())
	f.Add((&delta{}).encode())
	f.Add([]byte(deltaHead + "\xff\xff\xff\xff\x0f"))
	empty, err := hashdb.NewSet(hashdb.List{Name: "ours"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := parseDelta(data)
		if err != nil {
			return
		}
		if !bytes.Equal(d.encode(), data) {
			t.Errorf("two files mean the same:\n%q\n%q", data, d.encode())
		}
		set, err := empty.Apply(hashdb.Change{List: "ours", Version: "1", Withdraw: d.withdraw, Add: d.add})
		if err == nil && len(entries(set)) != len(d.add) {
			t.Errorf("%d entries, %d are in force", len(d.add), len(entries(set)))
		}
	})
}

func FuzzStored(f *testing.F) {
	r := Record{ID: "a", Hashes: []hashdb.Hash{hash(f, hashdb.PDQ, 1), hash(f, hashdb.MD5, 1)}, Category: "csam"}
	value, _, err := r.store(Origin{}, time.Unix(0, 0).UTC(), time.Unix(0, 0).UTC())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(value)
	f.Add([]byte{3, 1, 2})
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := load("a", data)
		if err == nil && len(got.Hashes) > mostHashes {
			t.Errorf("%d hashes", len(got.Hashes))
		}
		_ = sameRecord(value, data)
	})
}
