package exchange

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/dmguard/dmguard/hashdb/lists"
)

const (
	// stopNCIIStale is how long after the last fetch the changes since are still told; later, the whole list is fetched again.
	stopNCIIStale   = 30 * 24 * time.Hour
	stopNCIIStart   = 10 // seconds since 1970: the first moment that the interface takes
	stopNCIIPerPage = 800
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

// stopNCIIUpdates fetches what changed since the checkpoint, or everything where there is none or it is stale.
func (c *client) stopNCIIUpdates(ctx context.Context, checkpoint string) lists.Update {
	p, err := c.resume(StopNCII, checkpoint)
	if err != nil {
		return failed(err)
	}
	replace := checkpoint == "" || c.older(p, stopNCIIStale)
	if replace {
		p.Until = stopNCIIStart
	}
	p.Fetched = c.now().Unix()
	query := func(token string) *url.URL {
		q := url.Values{"startTimestamp": {strconv.FormatInt(p.Until, 10)}, "pageSize": {strconv.Itoa(stopNCIIPerPage)}}
		if token != "" {
			q.Set("nextPageToken", token)
		}
		return c.at("/FetchHashes", q)
	}
	return c.pull(ctx, replace, query(""), func(ctx context.Context, u *url.URL) (fetched, error) {
		var page stopNCIIPage
		batches, err := c.page(ctx, u, replace, func(d *document, b *batcher) (err error) {
			page, err = stopNCII(d, b)
			return err
		})
		out := fetched{batches: batches}
		switch {
		case err != nil:
			return out, err
		case bool(page.hasMoreRecords) && page.nextPageToken == "":
			return out, errors.New("stopncii: more records are promised, but no token for them")
		case bool(page.hasMoreRecords):
			out.cursor = string(page.nextPageToken)
			out.next = query(out.cursor)
			return out, nil
		}
		done := p
		if page.nextSetTimestamp != "" {
			set, err := strconv.ParseFloat(string(page.nextSetTimestamp), 64)
			if err != nil || set < 0 || set > float64(c.now().Add(24*time.Hour).Unix()) {
				return out, errors.New("stopncii: nextSetTimestamp is no time up to now")
			}
			done.Until = max(int64(set), stopNCIIStart)
		} else if count(batches) > 0 {
			return out, errors.New("stopncii: records, but no nextSetTimestamp")
		}
		out.checkpoint = done.String()
		return out, nil
	})
}
