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

// A stored record is three parts, the first two behind their lengths as unsigned varints. The head is the entries of the
// list that the record makes, which a snapshot is made of without reading the others; where it came from is JSON; and so is
// the rest. Two records are the same if their heads and rests are the same bytes.

// origin is where a record came from, and when.
type origin struct {
	Source string    `json:"source,omitzero"`
	Format string    `json:"format,omitzero"`
	First  time.Time `json:"first"`
	Last   time.Time `json:"last"`
}

// rest is what is stored of a record beside.
type rest struct {
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
	if value == nil {
		return nil, nil
	}
	h, _, err := part(value)
	return h, err
}

func parts(value []byte) (head, from, tail []byte, err error) {
	head, tail, err = part(value)
	if err == nil {
		from, tail, err = part(tail)
	}
	return head, from, tail, err
}

// part cuts the first part off.
func part(value []byte) (first, others []byte, err error) {
	n, size := binary.Uvarint(value)
	if size <= 0 || n > uint64(len(value)-size) {
		return nil, nil, errStored
	}
	end := size + int(n)
	return value[size:end], value[end:], nil
}

// store returns the value of a record and what is refused of it.
func (r *Record) store(source Origin, first, now time.Time) (value []byte, refused []Refusal, err error) {
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
	tail := rest{Changed: r.Changed.UTC(), Labels: r.Labels, Opinions: r.Opinions, Unmatched: r.Unmatched, Refused: refused}
	if top == nil {
		tail.Category = r.Category
	}
	from, err := json.Marshal(origin{Source: source.Source, Format: source.Format, First: first, Last: now})
	if err != nil {
		return nil, nil, fmt.Errorf("record %q: %w", clip(r.ID), err)
	}
	text, err := json.Marshal(tail, json.Deterministic(true))
	if err != nil {
		return nil, nil, fmt.Errorf("record %q: %w", clip(r.ID), err)
	}
	value = make([]byte, 0, 4+len(top)+len(from)+len(text))
	for _, p := range [][]byte{top, from} {
		value = binary.AppendUvarint(value, uint64(len(p)))
		value = append(value, p...)
	}
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
	top, seen, text, err := parts(value)
	if err != nil {
		return nil, fmt.Errorf("record %q: %w", clip(id), err)
	}
	entries, err := entriesOf(id, top)
	if err != nil {
		return nil, err
	}
	var from origin
	var tail rest
	if err := errors.Join(json.Unmarshal(seen, &from), json.Unmarshal(text, &tail)); err != nil {
		return nil, fmt.Errorf("record %q: %w: %w", clip(id), errStored, err)
	}
	out := &Stored{
		Record: Record{
			ID: id, Category: tail.Category, Labels: tail.Labels, Opinions: tail.Opinions, Unmatched: tail.Unmatched, Changed: tail.Changed,
		},
		Source: from.Source, Format: from.Format, First: from.First, Last: from.Last, Refused: tail.Refused,
	}
	for _, e := range entries {
		out.Hashes = append(out.Hashes, e.Hash)
		out.Category = e.Category
	}
	return out, nil
}

// sameRecord says whether two values are the same record, whenever it was seen and wherever it came from.
func sameRecord(a, b []byte) bool {
	headA, _, restA, err := parts(a)
	headB, _, restB, other := parts(b)
	return err == nil && other == nil && bytes.Equal(headA, headB) && bytes.Equal(restA, restB)
}

// firstSeen reads only when a record came first.
func firstSeen(value []byte) (time.Time, error) {
	_, seen, _, err := parts(value)
	if err != nil {
		return time.Time{}, err
	}
	var from origin
	if err := json.Unmarshal(seen, &from); err != nil {
		return time.Time{}, fmt.Errorf("%w: %w", errStored, err)
	}
	return from.First, nil
}
