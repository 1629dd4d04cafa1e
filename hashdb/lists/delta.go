package lists

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/dmguard/dmguard/hashdb"
)

// delta is what a snapshot changes of its base: entries by ID that are no longer what they were, and what is in their place.
//
// The file is a head and, as unsigned varints with what they count behind them, the number of IDs, each with its length; the number
// of entries, each as the number of its kind, the hash, and ID and category with their lengths. Both are in order and
// nothing comes twice.
type delta struct {
	withdraw []string
	add      []hashdb.Entry
}

const (
	deltaHead = "dmguard delta 1\n"
	mostText  = 256       // bytes of an ID or a category
	mostDelta = 256 << 20 // bytes of a file
)

func compareEntries(a, b hashdb.Entry) int {
	return cmp.Or(
		cmp.Compare(a.ID, b.ID), cmp.Compare(a.Hash.Kind(), b.Hash.Kind()),
		bytes.Compare(a.Hash.Bytes(), b.Hash.Bytes()), cmp.Compare(a.Category, b.Category),
	)
}

func (d *delta) encode() []byte {
	slices.Sort(d.withdraw)
	slices.SortFunc(d.add, compareEntries)
	out := []byte(deltaHead)
	text := func(s string) {
		out = binary.AppendUvarint(out, uint64(len(s)))
		out = append(out, s...)
	}
	out = binary.AppendUvarint(out, uint64(len(d.withdraw)))
	for _, id := range d.withdraw {
		text(id)
	}
	out = binary.AppendUvarint(out, uint64(len(d.add)))
	for _, e := range d.add {
		out = append(out, byte(e.Hash.Kind()))
		out = append(out, e.Hash.Bytes()...)
		text(e.ID)
		text(e.Category)
	}
	return out
}

var errDelta = errors.New("not a delta file")

// parseDelta takes exactly what encode writes.
func parseDelta(data []byte) (*delta, error) {
	rest, ok := bytes.CutPrefix(data, []byte(deltaHead))
	if !ok {
		return nil, fmt.Errorf("%w: it does not begin like one", errDelta)
	}
	if len(data) > mostDelta {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are read", errDelta, len(data), mostDelta)
	}
	r := &fields{rest: rest}
	d := new(delta)
	for n := r.count(); n > 0 && r.err == nil; n-- {
		id := r.text()
		if i := len(d.withdraw); id == "" || i > 0 && d.withdraw[i-1] >= id {
			r.fail("IDs are empty or not in order")
		}
		d.withdraw = append(d.withdraw, id)
	}
	for n := r.count(); n > 0 && r.err == nil; n-- {
		e := hashdb.Entry{Hash: r.hash(), ID: r.text(), Category: r.text()}
		if i := len(d.add); e.ID == "" || i > 0 && compareEntries(d.add[i-1], e) >= 0 {
			r.fail("entries have no ID or are not in order")
		}
		d.add = append(d.add, e)
	}
	if r.err == nil && len(r.rest) > 0 {
		r.fail("something follows its end")
	}
	if r.err != nil {
		return nil, r.err
	}
	return d, nil
}

// fields reads parts of a file and keeps the first fault.
type fields struct {
	rest []byte
	err  error
}

func (r *fields) fail(why string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", errDelta, why)
	}
	r.rest = nil
}

func (r *fields) number() uint64 {
	n, size := binary.Uvarint(r.rest)
	if size <= 0 || size > 1 && r.rest[size-1] == 0 { // there is a shorter way to write it
		r.fail("a number is cut or too long")
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

// count reads how many parts follow, each of which has a byte at least.
func (r *fields) count() uint64 {
	n := r.number()
	if n > uint64(len(r.rest)) {
		r.fail("it ends in the middle")
		return 0
	}
	return n
}

func (r *fields) take(n int) []byte {
	if n > len(r.rest) {
		r.fail("it ends in the middle")
		return nil
	}
	out := r.rest[:n]
	r.rest = r.rest[n:]
	return out
}

func (r *fields) text() string {
	n := r.number()
	if n > mostText {
		r.fail("a text is too long")
		return ""
	}
	s := string(r.take(int(n)))
	if err := hashdb.Printable(s); err != nil {
		r.fail("a text is " + err.Error())
	}
	return s
}

func (r *fields) hash() hashdb.Hash {
	kind := r.take(1)
	if len(kind) == 0 {
		return hashdb.Hash{}
	}
	k := hashdb.Kind(kind[0])
	if k.Size() == 0 {
		r.fail("a hash has no kind")
		return hashdb.Hash{}
	}
	b := r.take(k.Size())
	if b == nil {
		return hashdb.Hash{}
	}
	h, err := hashdb.NewHash(k, b)
	if err != nil {
		r.fail(err.Error())
		return hashdb.Hash{}
	}
	if why := h.Unfit(); why != "" {
		r.fail("a hash is " + why)
	}
	return h
}
