package lists

import (
	"fmt"
	"iter"
	"time"

	"github.com/dmguard/dmguard/hashdb"
)

// Record is what the owner of a list says of one picture, video or file.
type Record struct {
	// ID is the owner's name for it and unique in the list, up to 256 bytes of UTF-8 that print.
	ID string
	// Hashes are those that can be matched; none where the owner has only given others.
	Hashes []hashdb.Hash
	// Category is the kind of harm, or "" for that of the list.
	Category string
	// Labels are the owner's classification and tags as they came.
	Labels []string
	// Opinions are what members of the exchange said of it, by who said it: their own words, in lower case.
	Opinions map[string]string
	// Unmatched names the kinds of hash that came with it and that nothing here matches, such as photodna.
	Unmatched []string
	// Changed is when its owner changed it last, or zero.
	Changed time.Time
}

// Batch is a part of an update of a list.
type Batch struct {
	// Replace says that the update is the whole list: what none of its batches puts is withdrawn once the last one was
	// taken. It is the same in all batches of an update.
	Replace bool
	// Put are records that are new or take the place of those with the same ID.
	Put []Record
	// Delete are IDs of records that are withdrawn, after the records were put. One that is not there is no error.
	Delete []string
	// Checkpoint is where the next update can go on once this batch is taken, or "" where it cannot: then that of
	// an earlier batch stays. What it says is the business of whoever made the batch.
	Checkpoint string
}

// Update is the batches of one update in order. An error ends it; what came before the error stays taken,
// unless the update was to replace the list, which is all or nothing.
type Update = iter.Seq2[Batch, error]

// What is kept of one record.
const (
	mostHashes   = 4096 // a video can have one for each second
	mostLabels   = 64
	mostOpinions = 256
)

// check says why a record is refused as a whole, or "".
func (r *Record) check() string {
	texts := []struct{ name, text string }{{"ID", r.ID}, {"category", r.Category}}
	for _, l := range r.Labels {
		texts = append(texts, struct{ name, text string }{"label", l})
	}
	for _, u := range r.Unmatched {
		texts = append(texts, struct{ name, text string }{"kind of hash", u})
	}
	for who, said := range r.Opinions {
		texts = append(texts, struct{ name, text string }{"opinion", who}, struct{ name, text string }{"opinion", said})
	}
	switch {
	case r.ID == "":
		return "it has no ID"
	case len(r.Hashes) > mostHashes:
		return fmt.Sprintf("%d hashes, at most %d are taken", len(r.Hashes), mostHashes)
	case len(r.Labels) > mostLabels || len(r.Unmatched) > mostLabels:
		return fmt.Sprintf("%d labels and %d kinds that are not matched, at most %d are taken", len(r.Labels), len(r.Unmatched), mostLabels)
	case len(r.Opinions) > mostOpinions:
		return fmt.Sprintf("%d opinions, at most %d are taken", len(r.Opinions), mostOpinions)
	}
	for _, t := range texts {
		if err := hashdb.Printable(t.text); err != nil {
			return t.name + ": " + err.Error()
		}
	}
	return ""
}
