package exchange

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/dmguard/dmguard/hashdb"
	"github.com/dmguard/dmguard/hashdb/lists"
)

// What a record may carry.
const (
	perBatch    = 1000
	maxID       = 256 // bytes
	maxText     = 256 // bytes of a label, an opinion and who gave it
	maxHashes   = 64
	maxLabels   = 32
	maxOpinions = 64
)

// errStopped says that the consumer of an update wants no more of it.
var errStopped = errors.New("the update was stopped")

// batcher makes batches of what a reader finds. All its methods return errStopped once the consumer
// has had enough.
type batcher struct {
	emit    func(lists.Batch) bool
	batch   lists.Batch
	deleted map[string]bool // those of batch.Delete
	puts    int
}

func newBatcher(replace bool, emit func(lists.Batch) bool) *batcher {
	return &batcher{emit: emit, batch: lists.Batch{Replace: replace}, deleted: map[string]bool{}}
}

// put takes a record that came whole. faults are what of it could not be read.
func (b *batcher) put(r lists.Record, faults ...string) error {
	if err := checkID(r.ID); err != nil {
		return b.skip(r.ID, err.Error())
	}
	r, more := tidy(r)
	for _, why := range append(faults, more...) {
		if err := b.skip(r.ID, why); err != nil {
			return err
		}
	}
	if len(r.Hashes) == 0 && len(r.Unmatched) == 0 {
		if len(faults) > 0 {
			return nil // they say why
		}
		return b.skip(r.ID, "no hash")
	}
	// A batch deletes after it puts, so what comes back needs the next one.
	if b.deleted[r.ID] {
		if err := b.flush(); err != nil {
			return err
		}
	}
	b.puts++
	b.batch.Put = append(b.batch.Put, r)
	return b.flushFull()
}

func (b *batcher) delete(id string) error {
	if err := checkID(id); err != nil {
		return b.skip(id, "withdrawn, but "+err.Error())
	}
	if b.deleted[id] {
		return nil
	}
	b.deleted[id] = true
	b.batch.Delete = append(b.batch.Delete, id)
	return b.flushFull()
}

func (b *batcher) skip(id, reason string) error {
	b.batch.Skipped = append(b.batch.Skipped, lists.Skip{ID: clip(id, maxID), Reason: clip(reason, maxText)})
	return b.flushFull()
}

func (b *batcher) flushFull() error {
	if len(b.batch.Put)+len(b.batch.Delete)+len(b.batch.Skipped) < perBatch {
		return nil
	}
	return b.flush()
}

// flush hands the batch over where there is something in it.
func (b *batcher) flush() error {
	if len(b.batch.Put)+len(b.batch.Delete)+len(b.batch.Skipped) == 0 {
		return nil
	}
	full := b.batch
	b.batch = lists.Batch{Replace: full.Replace}
	clear(b.deleted)
	if !b.emit(full) {
		return errStopped
	}
	return nil
}

func checkID(id string) error {
	switch {
	case id == "":
		return errors.New("no ID")
	case len(id) > maxID:
		return fmt.Errorf("an ID of %d bytes, at most %d are taken", len(id), maxID)
	case strings.TrimSpace(id) != id || !printable(id):
		return errors.New("an ID that does not print")
	}
	return nil
}

// tidy makes a record's texts fit to be kept and says what was left out of it.
func tidy(r lists.Record) (_ lists.Record, faults []string) {
	r.Hashes = unique(r.Hashes)
	if n := len(r.Hashes); n > maxHashes {
		faults = append(faults, fmt.Sprintf("%d hashes, the first %d were taken", n, maxHashes))
		r.Hashes = r.Hashes[:maxHashes]
	}
	r.Category = clip(r.Category, maxText)
	for i, l := range r.Labels {
		r.Labels[i] = clip(l, maxText)
	}
	r.Labels = unique(slices.DeleteFunc(r.Labels, func(l string) bool { return l == "" }))
	if n := len(r.Labels); n > maxLabels {
		faults = append(faults, fmt.Sprintf("%d labels, the first %d were taken", n, maxLabels))
		r.Labels = r.Labels[:maxLabels]
	}
	r.Unmatched = unique(r.Unmatched)
	return r, faults
}

// unique keeps the first of equal values.
func unique[T comparable](values []T) []T {
	if len(values) < 2 {
		return values
	}
	if len(values) <= 8 { // most are, and a map costs more
		kept := values[:1]
		for _, v := range values[1:] {
			if !slices.Contains(kept, v) {
				kept = append(kept, v)
			}
		}
		return kept
	}
	seen := make(map[T]bool, len(values))
	return slices.DeleteFunc(values, func(v T) bool {
		was := seen[v]
		seen[v] = true
		return was
	})
}

// opinions gathers what members say, within limits. The first word of each member stands.
type opinions map[string]string

func (o *opinions) add(who, what string) {
	who, what = clip(who, maxText), strings.ToLower(clip(what, maxText))
	if who == "" || what == "" {
		return
	}
	if *o == nil {
		*o = opinions{}
	}
	if _, said := (*o)[who]; !said && len(*o) < maxOpinions {
		(*o)[who] = what
	}
}

// findings gathers the hashes of one record.
type findings struct {
	hashes    []hashdb.Hash
	unmatched []string
	faults    []string
}

// add takes a hash of a kind by this project's name for it: one that it matches, or another.
func (f *findings) add(kind, value string) {
	value = strings.TrimSpace(value)
	if value == "" {
		return
	}
	k, err := hashdb.ParseKind(kind)
	if err != nil {
		f.unmatched = append(f.unmatched, clip(kind, maxText))
		return
	}
	h, err := hashdb.ParseHash(k, value)
	if err != nil {
		f.faults = append(f.faults, err.Error())
		return
	}
	f.hashes = append(f.hashes, h)
}

// update makes an update of what read puts into its batcher. It can be taken once.
func update(r io.Reader, replace bool, read func(io.Reader, *batcher) error) lists.Update {
	return func(yield func(lists.Batch, error) bool) {
		b := newBatcher(replace, func(batch lists.Batch) bool { return yield(batch, nil) })
		err := read(r, b)
		if err == nil {
			err = b.flush()
		}
		switch {
		case errors.Is(err, errStopped):
		case err != nil:
			yield(lists.Batch{Replace: replace}, err)
		case replace && b.puts == 0:
			// A mistaken file must not empty a list.
			yield(lists.Batch{Replace: replace}, errors.New("no record in it, which would empty the list"))
		}
	}
}
