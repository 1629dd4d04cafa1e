package exchange

import (
	"io"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/dmguard/dmguard/hashdb/lists"
)

// tatPage is what stands around the records of an answer of hash-list/v2/all, Tech Against Terrorism's hash list.
type tatPage struct {
	next, checkpoint text
}

// tatKey is what a withdrawal must not be lost for, whatever else of its record cannot be read.
type tatKey struct {
	ID      text    `json:"id"`
	Deleted boolean `json:"deleted"`
}

type tatEntry struct {
	Digest    text   `json:"hash_digest"`
	Algorithm text   `json:"algorithm"`
	Ideology  text   `json:"ideology"`
	FileType  text   `json:"file_type"`
	Updated   moment `json:"updated_on"`
}

// readTAT reads saved answers, one or several after another.
func readTAT(r io.Reader, b *batcher) error {
	return pages(r, func(d *document) error {
		_, err := tat(d, b)
		return err
	})
}

func tat(d *document, b *batcher) (page tatPage, err error) {
	err = d.page("results", func(raw jsontext.Value) error { return tatOne(raw, b) }, func(name string) any {
		switch name {
		case "next":
			return &page.next
		case "checkpoint":
			return &page.checkpoint
		}
		return nil
	})
	return page, err
}

func tatOne(raw jsontext.Value, b *batcher) error {
	if raw == nil {
		return b.skip("an entry", errTooLong.Error())
	}
	var key tatKey
	if err := decode(raw, &key); err != nil {
		return b.skip("an entry", err.Error())
	}
	id := string(key.ID)
	switch {
	case id == "":
		return b.skip("an entry", "no id")
	case bool(key.Deleted):
		return b.delete(id)
	}
	var e tatEntry
	if err := decode(raw, &e); err != nil {
		return b.skip(id, err.Error())
	}
	var f findings
	f.add(strings.ToLower(strings.ReplaceAll(string(e.Algorithm), "-", "")), string(e.Digest))
	return b.put(lists.Record{
		ID: id, Hashes: f.hashes, Unmatched: f.unmatched, Changed: e.Updated.Time,
		Labels: []string{string(e.Ideology), string(e.FileType)},
	}, f.faults...)
}
