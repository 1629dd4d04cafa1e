package lists

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/dmguard/dmguard/hashdb"
)

// Stored is a record with where it came from.
type Stored struct {
	Record
	// Source and Format are those of the update that the record came with last.
	Source, Format string
	// First is when the record came first, Last when an update had it last, which updates that replace a list say of all records
	// and others only of those that changed.
	First, Last time.Time
	// Refused are hashes of the record that must not stand in a list, with the reasons.
	Refused []Refusal
}

// Refusal is a record, or one hash of it, that was left out.
type Refusal struct {
	ID     string `json:"id"`
	Hash   string `json:"hash,omitzero"` // kind:digits, or "" for the whole record
	Reason string `json:"reason"`
}

// A stored record is two parts, the first behind its length as an unsigned varint: the head is the entries of the
// list that the record makes, which a snapshot is made of without reading the rest, and the rest is JSON.

// rest is what is stored of a record beside its head.
type rest struct {
	Source    string            `json:"source,omitzero"`
	Format    string            `json:"format,omitzero"`
	First     time.Time         `json:"first"`
	Last      time.Time         `json:"last"`
	Changed   time.Time         `json:"changed,omitzero"`
	Labels    []string          `json:"labels,omitempty"`
	Opinions  map[string]string `json:"opinions,omitempty"`
	Unmatched []string          `json:"unmatched,omitempty"`
	Refused   []Refusal         `json:"refused,omitempty"`
	// Category is that of a record that makes no entries, whose head has none.
	Category string `json:"category,omitzero"`
}

// head returns the entries of a record in the one form that they have; nil where it makes none.
func head(hashes []hashdb.Hash, category string) []byte {
	if len(hashes) == 0 {
		return nil
	}
	out := binary.AppendUvarint(nil, uint64(len(hashes)))
	for _, h := range hashes {
		out = append(out, byte(h.Kind()))
		out = append(out, h.Bytes()...)
	}
	return append(out, category...)
}

// entriesOf reads a head.
func entriesOf(id string, head []byte) ([]hashdb.Entry, error) {
	if len(head) == 0 {
		return nil, nil
	}
	n, size := binary.Uvarint(head)
	if size <= 0 || n > mostHashes {
		return nil, fmt.Errorf("record %q: %w", clip(id), errStored)
	}
	head = head[size:]
	out := make([]hashdb.Entry, n)
	for i := range out {
		if len(head) == 0 {
			return nil, fmt.Errorf("record %q: %w", clip(id), errStored)
		}
		kind := hashdb.Kind(head[0])
		end := 1 + kind.Size()
		if end == 1 || end > len(head) {
			return nil, fmt.Errorf("record %q: %w", clip(id), errStored)
		}
		h, err := hashdb.NewHash(kind, head[1:end])
		if err != nil {
			return nil, fmt.Errorf("record %q: %w", clip(id), err)
		}
		out[i] = hashdb.Entry{Hash: h, ID: id}
		head = head[end:]
	}
	for i := range out {
		out[i].Category = string(head)
	}
	return out, nil
}

var errStored = errors.New("the file of records is not as it was written")

// headOf returns the head of a stored record, nil where there is no record.
func headOf(value []byte) ([]byte, error) {
	h, _, err := parts(value)
	return h, err
}

func parts(value []byte) (head, tail []byte, err error) {
	if value == nil {
		return nil, nil, nil
	}
	n, size := binary.Uvarint(value)
	if size <= 0 || n > uint64(len(value)-size) {
		return nil, nil, errStored
	}
	end := size + int(n)
	return value[size:end], value[end:], nil
}

// store returns the value of a record and what is refused of it.
func (r *Record) store(origin Origin, first, now time.Time) (value []byte, refused []Refusal, err error) {
	hashes := make([]hashdb.Hash, 0, len(r.Hashes))
	for _, h := range r.Hashes {
		switch why := unfit(h); {
		case why != "":
			refused = append(refused, Refusal{ID: r.ID, Hash: h.Kind().String() + ":" + h.String(), Reason: why})
		default:
			hashes = append(hashes, h)
		}
	}
	slices.SortFunc(hashes, compareHashes)
	hashes = slices.Compact(hashes)
	top := head(hashes, r.Category)
	tail := rest{
		Source: origin.Source, Format: origin.Format, First: first, Last: now, Changed: r.Changed.UTC(),
		Labels: r.Labels, Opinions: r.Opinions, Unmatched: r.Unmatched, Refused: refused,
	}
	if top == nil {
		tail.Category = r.Category
	}
	text, err := json.Marshal(tail, json.Deterministic(true))
	if err != nil {
		return nil, nil, fmt.Errorf("record %q: %w", clip(r.ID), err)
	}
	value = binary.AppendUvarint(make([]byte, 0, 2+len(top)+len(text)), uint64(len(top)))
	value = append(value, top...)
	return append(value, text...), refused, nil
}

func unfit(h hashdb.Hash) string {
	why, _ := bundled().Refuse(h)
	return why
}

func compareHashes(a, b hashdb.Hash) int {
	if a.Kind() != b.Kind() {
		return int(a.Kind()) - int(b.Kind())
	}
	return bytes.Compare(a.Bytes(), b.Bytes())
}

// load reads a stored record.
func load(id string, value []byte) (*Stored, error) {
	top, text, err := parts(value)
	if err != nil {
		return nil, fmt.Errorf("record %q: %w", clip(id), err)
	}
	entries, err := entriesOf(id, top)
	if err != nil {
		return nil, err
	}
	var tail rest
	if err := json.Unmarshal(text, &tail); err != nil {
		return nil, fmt.Errorf("record %q: %w: %w", clip(id), errStored, err)
	}
	out := &Stored{
		Record: Record{
			ID: id, Category: tail.Category, Labels: tail.Labels, Opinions: tail.Opinions, Unmatched: tail.Unmatched, Changed: tail.Changed,
		},
		Source: tail.Source, Format: tail.Format, First: tail.First, Last: tail.Last, Refused: tail.Refused,
	}
	for _, e := range entries {
		out.Hashes = append(out.Hashes, e.Hash)
		out.Category = e.Category
	}
	return out, nil
}

// sameRecord says whether two values are the same record, whenever it was seen and wherever it came from.
func sameRecord(a, b []byte) bool {
	headA, textA, err := parts(a)
	headB, textB, other := parts(b)
	if err != nil || other != nil || !bytes.Equal(headA, headB) {
		return false
	}
	var x, y rest
	if json.Unmarshal(textA, &x) != nil || json.Unmarshal(textB, &y) != nil {
		return false
	}
	x.First, x.Last, x.Source, x.Format = y.First, y.Last, y.Source, y.Format
	one, err := json.Marshal(x, json.Deterministic(true))
	two, other := json.Marshal(y, json.Deterministic(true))
	return err == nil && other == nil && bytes.Equal(one, two)
}

// firstSeen reads only when a record came first.
func firstSeen(value []byte) (time.Time, error) {
	_, text, err := parts(value)
	if err != nil {
		return time.Time{}, err
	}
	var tail struct {
		First time.Time `json:"first"`
	}
	if err := json.Unmarshal(text, &tail); err != nil {
		return time.Time{}, fmt.Errorf("%w: %w", errStored, err)
	}
	return tail.First, nil
}
