package exchange

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/dmguard/dmguard/hashdb/lists"
)

// stopNCIIPage is what stands around the records of an answer of FetchHashes, StopNCII.org API v1.
type stopNCIIPage struct {
	nextPageToken    text
	nextSetTimestamp text
	hasMoreRecords   boolean
}

// stopNCIIKey is what a withdrawal must not be lost for, whatever else of its record cannot be read.
type stopNCIIKey struct {
	SignalType text `json:"signalType"`
	HashValue  text `json:"hashValue"`
	HashStatus text `json:"hashStatus"`
}

type stopNCIIRecord struct {
	LastModified moment `json:"lastModtimestamp"`
	Feedbacks    []struct {
		Source        text           `json:"source"`
		FeedbackValue text           `json:"feedbackValue"`
		Tags          jsontext.Value `json:"tags"`
	} `json:"CSPFeedbacks"`
}

var stopNCIIKinds = map[string]string{
	"imagepdq": "pdq",
	"videomd5": "md5",
	"videotmk": "tmk_pdqf",
}

// readStopNCII reads saved answers, one or several after another.
func readStopNCII(r io.Reader, b *batcher) error {
	return pages(r, func(d *document) error {
		_, err := stopNCII(d, b)
		return err
	})
}

// pages calls read until nothing is left.
func pages(r io.Reader, read func(*document) error) error {
	d, err := newDocument(r)
	if err != nil {
		return err
	}
	for n := 0; ; n++ {
		switch err := read(d); {
		case errors.Is(err, io.EOF) && n > 0:
			return nil
		case errors.Is(err, io.EOF):
			return errors.New("nothing in it")
		case err != nil:
			return err
		}
	}
}

func stopNCII(d *document, b *batcher) (page stopNCIIPage, err error) {
	err = d.page("hashRecords", func(raw jsontext.Value) error { return stopNCIIOne(raw, b) }, func(name string) any {
		switch name {
		case "nextPageToken":
			return &page.nextPageToken
		case "nextSetTimestamp":
			return &page.nextSetTimestamp
		case "hasMoreRecords":
			return &page.hasMoreRecords
		}
		return nil
	})
	return page, err
}

func stopNCIIOne(raw jsontext.Value, b *batcher) error {
	if raw == nil {
		return b.skip("a record", errTooLong.Error())
	}
	var key stopNCIIKey
	if err := decode(raw, &key); err != nil {
		return b.skip("a record", err.Error())
	}
	if key.SignalType == "" || key.HashValue == "" {
		return b.skip("a record", "no signalType or no hashValue")
	}
	id, kind := key.id()
	status := strings.ToLower(string(key.HashStatus))
	switch status {
	case "withdrawn", "deleted":
		return b.delete(id)
	case "":
		return b.skip(id, "no hashStatus, so that nobody knows whether it was withdrawn")
	}
	var r stopNCIIRecord
	if err := decode(raw, &r); err != nil {
		return b.skip(id, err.Error())
	}
	record := lists.Record{ID: id, Changed: r.LastModified.Time}
	if status != "active" && status != "received" {
		record.Labels = append(record.Labels, status)
	}
	var said opinions
	for _, f := range r.Feedbacks {
		if f.FeedbackValue != "None" {
			said.add(string(f.Source), string(f.FeedbackValue))
		}
		record.Labels = append(record.Labels, texts(f.Tags)...)
	}
	record.Opinions = said
	var f findings
	f.add(kind, string(key.HashValue))
	record.Hashes, record.Unmatched = f.hashes, f.unmatched
	return b.put(record, f.faults...)
}

// id names a record, which has no name of its own, by signal and hash, and returns the kind of the hash. A text or
// an address is not ours to keep, and may be long.
func (k stopNCIIKey) id() (id, kind string) {
	signal := strings.ToLower(string(k.SignalType))
	value := strings.ToLower(strings.TrimSpace(string(k.HashValue)))
	kind, known := stopNCIIKinds[signal]
	if !known || len(value) > maxID/2 {
		sum := sha256.Sum256([]byte(value))
		value = hex.EncodeToString(sum[:16])
	}
	if !known {
		kind = signal
	}
	return signal + ":" + value, kind
}
