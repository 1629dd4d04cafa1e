package exchange

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// What is read of a source at most. Everything else is streamed, so that these bound the memory.
const (
	maxRecord = 4 << 20 // bytes of one record, as they stand in the source
	maxDepth  = 32      // elements of XML around another
)

var errTooLong = fmt.Errorf("over %d MiB without an end", maxRecord>>20)

// window is a reader that gives at most limit bytes between two calls of renew. Whoever reads one
// record after the other through it holds no more than that of each, whatever comes.
type window struct {
	r           io.Reader
	left, limit int
}

func newWindow(r io.Reader, limit int) *window { return &window{r: r, left: limit, limit: limit} }

func (w *window) renew() { w.left = w.limit }

func (w *window) Read(p []byte) (int, error) {
	if w.left <= 0 {
		return 0, errTooLong
	}
	n, err := w.r.Read(p[:min(len(p), w.left)])
	w.left -= n
	return n, err
}

// withoutMark removes a UTF-8 byte order mark and refuses those of other encodings.
func withoutMark(r io.Reader) (*bufio.Reader, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	head, err := in.Peek(3)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte("\xef\xbb\xbf")):
		_, err := in.Discard(3)
		return in, err
	case bytes.HasPrefix(head, []byte("\xff\xfe")), bytes.HasPrefix(head, []byte("\xfe\xff")):
		return nil, errors.New("encoded as UTF-16, want UTF-8")
	case bytes.HasPrefix(head, []byte("\x1f\x8b")), bytes.HasPrefix(head, []byte("PK\x03")):
		return nil, errors.New("compressed, want it unpacked")
	}
	return in, nil
}

// document walks a JSON text of any size.
type document struct {
	in  *window
	dec *jsontext.Decoder
}

func newDocument(r io.Reader) (*document, error) {
	in, err := withoutMark(r)
	if err != nil {
		return nil, err
	}
	w := newWindow(in, maxRecord)
	// Names are not remembered, since an object may have any number of them; a record that repeats one is
	// refused by decode. Bytes that are no UTF-8 stand in file names, which nobody reads here.
	return &document{w, jsontext.NewDecoder(w, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))}, nil
}

func (d *document) token() (jsontext.Token, error) {
	d.in.renew()
	return d.dec.ReadToken()
}

// kind tells what comes next.
func (d *document) kind() jsontext.Kind {
	d.in.renew()
	return d.dec.PeekKind()
}

// skip reads over the next value, whatever its size, a token at a time.
func (d *document) skip() error {
	depth := d.dec.StackDepth()
	for {
		if _, err := d.token(); err != nil {
			return err
		}
		if d.dec.StackDepth() <= depth {
			return nil
		}
	}
}

// value returns the next value, which is good until the next call; one over the limit is skipped and nil.
func (d *document) value() (jsontext.Value, error) {
	d.in.renew()
	v, err := d.dec.ReadValue()
	if errors.Is(err, errTooLong) {
		return nil, d.skip()
	}
	return v, err
}

// members calls visit for each member of the object that comes next; visit reads the member's value.
func (d *document) members(visit func(name string) error) error {
	if k := d.kind(); k != '{' && k != 0 {
		return fmt.Errorf("at byte %d: %s, want an object", d.dec.InputOffset(), k)
	}
	if _, err := d.token(); err != nil {
		return err
	}
	for d.kind() != '}' {
		name, err := d.token()
		if err != nil {
			return err
		}
		if err := visit(name.String()); err != nil {
			return err
		}
	}
	_, err := d.token()
	return err
}

// elements calls visit for each element of the array that comes next; visit reads it. null is an empty array.
func (d *document) elements(visit func() error) error {
	switch k := d.kind(); k {
	case 'n':
		return d.skip()
	case '[', 0:
	default:
		return fmt.Errorf("at byte %d: %s, want an array", d.dec.InputOffset(), k)
	}
	if _, err := d.token(); err != nil {
		return err
	}
	for d.kind() != ']' {
		if err := visit(); err != nil {
			return err
		}
	}
	_, err := d.token()
	return err
}

// records calls visit with each element of the array that comes next, and with nil for one over the limit.
func (d *document) records(visit func(jsontext.Value) error) error {
	return d.elements(func() error {
		v, err := d.value()
		if err != nil {
			return err
		}
		return visit(v)
	})
}

// end reports what stands after the value that was read.
func (d *document) end() error {
	switch _, err := d.token(); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("at byte %d: more than one JSON value", d.dec.InputOffset())
}

// page reads a JSON object whose member array holds records; into says where the value of another
// member goes, nil being nowhere. It is io.EOF where nothing is left.
func (d *document) page(array string, record func(jsontext.Value) error, into func(name string) any) error {
	if d.kind() == 0 {
		if _, err := d.token(); err != nil {
			return err
		}
	}
	found := false
	err := d.members(func(name string) error {
		if name == array {
			found = true
			return d.records(record)
		}
		target := into(name)
		if target == nil {
			return d.skip()
		}
		v, err := d.value()
		switch {
		case err != nil:
			return err
		case v == nil:
			return fmt.Errorf("member %q: %w", name, errTooLong)
		}
		if err := decode(v, target); err != nil {
			return fmt.Errorf("member %q: %w", name, err)
		}
		return nil
	})
	switch {
	case errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	case err != nil:
		return err
	case !found:
		return fmt.Errorf("a JSON object without %q", array)
	}
	return nil
}

// decode reads a value that is whole. Repeated names are an error: readers differ in which they take.
func decode(v jsontext.Value, into any) error {
	return json.Unmarshal(v, into, jsontext.AllowInvalidUTF8(true))
}
