package exchange

import (
	"bytes"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/dmguard/dmguard/hashdb"
	"github.com/dmguard/dmguard/hashdb/lists"
)

// Columns names the columns of a table, or the members of the objects of a JSON file, that hold something.
// Where a name is "", it is found by what such columns are mostly called (see [ParseColumns]).
type Columns struct {
	// ID is the owner's name of a record. Rows with the same one that follow each other are one record; where
	// there is no such column, each row is a record that is named by its hashes.
	ID string
	// Kind and Hash hold one hash a row: its kind (md5, sha1, sha256, pdq, phash) and its hexadecimal digits.
	Kind, Hash string
	// Hashes are columns that hold hashes of one kind each, by the kind's name. Kinds that nothing here matches
	// may stand here too.
	Hashes map[string]string
	// Category is the kind of harm, Labels are the owner's own, several in a cell between semicolons.
	Category, Labels string
	// Updated is when the record changed, in seconds since 1970 or ISO 8601.
	Updated string
	// Deleted says that a record is withdrawn.
	Deleted string
}

// columnNames are what columns are mostly called, in lower case.
var columnNames = map[string][]string{
	"id":       {"id", "entry", "entry_id", "record", "record_id", "uuid"},
	"kind":     {"kind", "hash_type", "hashtype", "algorithm", "signal_type", "type"},
	"hash":     {"hash", "hash_value", "hashvalue", "hash_digest", "digest", "value"},
	"category": {"category"},
	"labels":   {"labels", "label", "tags", "classification"},
	"updated":  {"updated", "updated_at", "updated_on", "last_updated", "changed", "modified"},
	"deleted":  {"deleted", "withdrawn", "removed"},
	"md5":      {"md5"},
	"sha1":     {"sha1", "sha-1"},
	"sha256":   {"sha256", "sha-256"},
	"pdq":      {"pdq"},
	"phash":    {"phash"},
	"photodna": {"photodna", "pdna"},
}

// ParseColumns reads a mapping such as "id=uuid,hash=digest,kind=algo,pdq=pdq_hex": what a column holds, then its name.
// What can be held is id, kind, hash, category, labels, updated, deleted, md5, sha1, sha256, pdq, phash and photodna.
// Columns that the mapping does not name are found by their names: id, entry, record or uuid; kind, hash_type, algorithm
// or type; hash, digest or value; labels, tags or classification; updated, changed or modified; deleted or withdrawn; and
// those of the kinds. Upper and lower case are the same.
func ParseColumns(mapping string) (Columns, error) {
	var c Columns
	var faults []error
	for part := range strings.SplitSeq(mapping, ",") {
		if strings.TrimSpace(part) == "" {
			continue
		}
		what, name, ok := strings.Cut(part, "=")
		what, name = strings.ToLower(strings.TrimSpace(what)), strings.TrimSpace(name)
		if !ok || name == "" {
			faults = append(faults, fmt.Errorf("%q: want what=column", clip(part, 40)))
			continue
		}
		if _, known := columnNames[what]; !known {
			faults = append(faults, fmt.Errorf("%q is nothing that a column can hold", clip(what, 40)))
			continue
		}
		if field := c.field(what); field != nil {
			*field = name
			continue
		}
		if c.Hashes == nil {
			c.Hashes = map[string]string{}
		}
		c.Hashes[what] = name
	}
	if err := errors.Join(faults...); err != nil {
		return Columns{}, fmt.Errorf("columns: %w", err)
	}
	return c, nil
}

func (c *Columns) field(what string) *string {
	switch what {
	case "id":
		return &c.ID
	case "kind":
		return &c.Kind
	case "hash":
		return &c.Hash
	case "category":
		return &c.Category
	case "labels":
		return &c.Labels
	case "updated":
		return &c.Updated
	case "deleted":
		return &c.Deleted
	}
	return nil
}

// kindColumns are what hashes of one kind stand under, in a fixed order, since they make the ID of a record that has none.
var kindColumns = []string{"sha256", "sha1", "md5", "pdq", "phash", "photodna"}

// names returns by which names, in lower case, the content of a column goes.
func (c *Columns) names(what string) []string {
	given := c.Hashes[what]
	if field := c.field(what); field != nil {
		given = *field
	}
	if given != "" {
		return []string{strings.ToLower(given)}
	}
	return columnNames[what]
}

// table makes records of rows.
type table struct {
	b       *batcher
	replace bool
	pending lists.Record
	faults  []string
	has     bool // a record pending
	seen    *bloom
}

func newTable(b *batcher, replace bool) *table {
	return &table{b: b, replace: replace, seen: newBloom()}
}

// row takes the row that stands at place; cell returns what a column holds, or "".
func (t *table) row(place string, cell func(what string) string) error {
	var f findings
	if hash := cell("hash"); hash != "" {
		kind := kindName(cell("kind"))
		if kind == "" {
			return t.b.skip(place, "a hash without a kind")
		}
		f.add(kind, hash)
	}
	for _, kind := range kindColumns {
		f.add(kind, cell(kind))
	}
	id := strings.TrimSpace(cell("id"))
	if id == "" && len(f.hashes) > 0 {
		id = f.hashes[0].Kind().String() + ":" + f.hashes[0].String()
	}
	if id == "" {
		reason := "no id and no hash that is matched here"
		if len(f.faults) > 0 {
			reason = f.faults[0]
		}
		return t.b.skip(place, reason)
	}
	gone, err := parseFlag(cell("deleted"))
	if err != nil {
		return t.b.skip(place, "deleted: "+err.Error())
	}
	if gone {
		if err := t.flush(); err != nil {
			return err
		}
		return t.b.delete(id)
	}
	r := lists.Record{
		ID: id, Hashes: f.hashes, Unmatched: f.unmatched, Category: strings.TrimSpace(cell("category")), Changed: parseTime(cell("updated")),
	}
	if l := cell("labels"); l != "" {
		r.Labels = strings.Split(l, ";")
	}
	for i, why := range f.faults {
		f.faults[i] = place + ": " + why
	}
	same := t.has && t.pending.ID == id
	if same && t.pending.Category == r.Category && len(t.faults) < maxHashes {
		if all := unique(slices.Concat(t.pending.Hashes, r.Hashes)); len(all) <= maxHashes {
			t.pending.Hashes = all
			t.pending.Unmatched = unique(append(t.pending.Unmatched, r.Unmatched...))
			if len(t.pending.Labels) <= maxLabels {
				t.pending.Labels = unique(append(t.pending.Labels, r.Labels...))
			}
			if r.Changed.After(t.pending.Changed) {
				t.pending.Changed = r.Changed
			}
			t.faults = append(t.faults, f.faults...)
			return nil
		}
	}
	if same && !t.replace {
		return t.b.skip(id, place+": another category than the row before, or too many hashes of one ID")
	}
	if err := t.flush(); err != nil {
		return err
	}
	t.pending, t.faults, t.has = r, f.faults, true
	return nil
}

// flush puts the record whose rows have ended.
func (t *table) flush() error {
	if !t.has {
		return nil
	}
	r := t.pending
	t.pending, t.has = lists.Record{}, false
	// In a whole list nothing takes the place of anything: rows of one ID that stand apart are records of their own,
	// or all but the last would be lost. What was perhaps seen is told from the rest by its hashes, which does no harm
	// where it was not.
	if t.replace && t.seen.add(r.ID) && len(r.Hashes) > 0 {
		all := sha256.New()
		for _, h := range r.Hashes {
			fmt.Fprintf(all, "%s:%s\n", h.Kind(), h)
		}
		r.ID = clip(r.ID, maxID-17) + "#" + hex.EncodeToString(all.Sum(nil)[:8])
	}
	return t.b.put(r, t.faults...)
}

// kindName is this project's name for a kind of hash.
func kindName(s string) string {
	s = strings.ToLower(strings.TrimSpace(s))
	switch s {
	case "sha-1", "sha-256", "sha-512":
		return strings.Replace(s, "-", "", 1)
	case "pdna":
		return "photodna"
	}
	return s
}

// bloom remembers texts in 16 MiB, however many: it knows those that it has seen, and up to ten
// million takes fewer than one in a hundred others for one of them. It is the same for every run.
type bloom struct{ bits []uint64 }

func newBloom() *bloom { return &bloom{make([]uint64, 1<<21)} }

// add reports whether the text was perhaps added before.
func (b *bloom) add(s string) bool {
	h := fnv.New64a()
	io.WriteString(h, s) //nolint:errcheck // a hash takes everything
	sum := h.Sum64()
	step := sum>>33 | 1
	seen := true
	for range 4 {
		i := sum % uint64(len(b.bits)*64)
		seen = seen && b.bits[i/64]>>(i%64)&1 == 1
		b.bits[i/64] |= 1 << (i % 64)
		sum += step
	}
	return seen
}

// readCSV reads a table by RFC 4180 whose first line names the columns; separators are commas, semicolons or tabs.
func readCSV(columns Columns, replace bool) func(io.Reader, *batcher) error {
	return func(r io.Reader, b *batcher) error {
		in, err := withoutMark(r)
		if err != nil {
			return err
		}
		first, err := in.Peek(4096)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		head, _, _ := bytes.Cut(first, []byte("\n"))
		w := newWindow(in, maxRecord)
		rows := csv.NewReader(w)
		rows.Comma = separator(head)
		rows.FieldsPerRecord = -1 // told per row below
		rows.ReuseRecord = true
		names, err := rows.Read()
		if err != nil {
			return fmt.Errorf("the line that names the columns: %w", err)
		}
		width := len(names)
		index, err := columns.find(names)
		if err != nil {
			return err
		}
		t := newTable(b, replace)
		for {
			w.renew()
			row, err := rows.Read()
			var bad *csv.ParseError
			switch {
			case errors.Is(err, io.EOF):
				return t.flush()
			case errors.Is(err, errTooLong):
				line, _ := rows.FieldPos(0)
				return fmt.Errorf("after line %d: a row of %w; is a quote not closed?", line, err)
			case errors.As(err, &bad):
				if err := b.skip(fmt.Sprintf("line %d", bad.StartLine), bad.Err.Error()); err != nil {
					return err
				}
				continue
			case err != nil:
				return err
			}
			line, _ := rows.FieldPos(0)
			place := fmt.Sprintf("line %d", line)
			if len(row) != width {
				if err := b.skip(place, fmt.Sprintf("%d fields, the first line has %d", len(row), width)); err != nil {
					return err
				}
				continue
			}
			if err := t.row(place, func(what string) string {
				if i, ok := index[what]; ok {
					return row[i]
				}
				return ""
			}); err != nil {
				return err
			}
		}
	}
}

// separator is the one of comma, semicolon and tab that the first line has most of.
func separator(line []byte) rune {
	best := ','
	for _, c := range ";\t" {
		if bytes.Count(line, []byte(string(c))) > bytes.Count(line, []byte(string(best))) {
			best = c
		}
	}
	return best
}

// find returns where the columns stand.
func (c *Columns) find(header []string) (map[string]int, error) {
	at := map[string]int{}
	var faults []error
	for i, name := range header {
		name = strings.ToLower(strings.TrimSpace(name))
		if _, twice := at[name]; twice && name != "" {
			faults = append(faults, fmt.Errorf("column %q stands there twice", clip(name, 40)))
		}
		at[name] = i
	}
	index := map[string]int{}
	for what := range columnNames {
		names := c.names(what)
		for _, name := range names {
			if i, ok := at[name]; ok {
				index[what] = i
				break
			}
		}
		if _, ok := index[what]; !ok && len(names) == 1 && c.given(what) {
			faults = append(faults, fmt.Errorf("no column %q for %s", clip(names[0], 40), what))
		}
	}
	_, hash := index["hash"]
	_, kind := index["kind"]
	if hash && !kind {
		faults = append(faults, errors.New("a column of hashes, but none of their kinds"))
	}
	for _, k := range hashdb.Kinds() {
		_, ok := index[k.String()]
		hash = hash || ok
	}
	if !hash {
		faults = append(faults, errors.New("no column of hashes"))
	}
	return index, errors.Join(faults...)
}

// given says that the mapping names the column.
func (c *Columns) given(what string) bool {
	if field := c.field(what); field != nil {
		return *field != ""
	}
	return c.Hashes[what] != ""
}

// readJSON reads an array of objects, or objects a line each (NDJSON).
func readJSON(columns Columns, replace bool) func(io.Reader, *batcher) error {
	names := map[string][]string{}
	for what := range columnNames {
		names[what] = columns.names(what)
	}
	return func(r io.Reader, b *batcher) error {
		in, err := withoutMark(r)
		if err != nil {
			return err
		}
		t := newTable(b, replace)
		object := func(place string, raw jsontext.Value) error {
			row := map[string]jsontext.Value{}
			if raw == nil {
				return b.skip(place, errTooLong.Error())
			}
			if raw.Kind() != '{' {
				return b.skip(place, "not an object")
			}
			if err := decode(raw, &row); err != nil {
				return b.skip(place, err.Error())
			}
			lower := make(map[string]jsontext.Value, len(row))
			for name, v := range row {
				lower[strings.ToLower(name)] = v
			}
			return t.row(place, func(what string) string {
				for _, name := range names[what] {
					if v, ok := lower[name]; ok {
						return strings.Join(texts(v), ";")
					}
				}
				return ""
			})
		}
		array, err := startsArray(in)
		if err != nil {
			return err
		}
		if !array {
			if err := lines(in, object); err != nil {
				return err
			}
			return t.flush()
		}
		d, err := newDocument(in)
		if err != nil {
			return err
		}
		n := 0
		err = d.records(func(raw jsontext.Value) error {
			n++
			return object(fmt.Sprintf("object %d", n), raw)
		})
		switch {
		case errors.Is(err, io.EOF):
			return io.ErrUnexpectedEOF
		case err != nil:
			return err
		}
		if err := d.end(); err != nil {
			return err
		}
		return t.flush()
	}
}

// startsArray looks past white space.
func startsArray(in io.ByteScanner) (bool, error) {
	for {
		c, err := in.ReadByte()
		switch {
		case errors.Is(err, io.EOF):
			return false, errors.New("nothing in it")
		case err != nil:
			return false, err
		case c == ' ' || c == '\t' || c == '\r' || c == '\n':
			continue
		}
		return c == '[', in.UnreadByte()
	}
}
