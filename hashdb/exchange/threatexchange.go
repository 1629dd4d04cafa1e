package exchange

import (
	"io"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/dmguard/dmguard/hashdb/lists"
)

// threatPage is what stands around the records of an answer of /threat_updates, Graph API v21.0.
type threatPage struct {
	paging struct {
		Next text `json:"next"`
	}
	latest moment // of its records
}

// threatKey is what a withdrawal must not be lost for, whatever else of its record cannot be read.
type threatKey struct {
	ID           text           `json:"id"`
	LastUpdated  moment         `json:"last_updated"`
	ShouldDelete boolean        `json:"should_delete"`
	Descriptors  jsontext.Value `json:"descriptors"`
}

type threatUpdate struct {
	Indicator   text `json:"indicator"`
	Type        text `json:"type"`
	Descriptors struct {
		Data []struct {
			Owner struct {
				ID text `json:"id"`
			} `json:"owner"`
			Status    text           `json:"status"`
			Tags      jsontext.Value `json:"tags"`
			Reactions []struct {
				Key   text `json:"key"`
				Value text `json:"value"`
			} `json:"reactions"`
		} `json:"data"`
	} `json:"descriptors"`
}

var threatKinds = map[string]string{
	"HASH_PDQ":       "pdq",
	"HASH_MD5":       "md5",
	"HASH_VIDEO_MD5": "md5",
	"HASH_SHA1":      "sha1",
	"HASH_SHA256":    "sha256",
	"HASH_TMK":       "tmk_pdqf",
}

// readThreatUpdates reads saved answers, one or several after another.
func readThreatUpdates(r io.Reader, b *batcher) error {
	return pages(r, func(d *document) error {
		_, err := threatUpdates(d, b)
		return err
	})
}

func threatUpdates(d *document, b *batcher) (page threatPage, err error) {
	err = d.page("data", func(raw jsontext.Value) error { return threatOne(raw, b, &page.latest) }, func(name string) any {
		if name == "paging" {
			return &page.paging
		}
		return nil
	})
	return page, err
}

func threatOne(raw jsontext.Value, b *batcher, latest *moment) error {
	if raw == nil {
		return b.skip("an indicator", errTooLong.Error())
	}
	var key threatKey
	if err := decode(raw, &key); err != nil {
		return b.skip("an indicator", err.Error())
	}
	if key.LastUpdated.After(latest.Time) {
		*latest = key.LastUpdated
	}
	if key.ID == "" {
		return b.skip("an indicator", "no id")
	}
	id := string(key.ID)
	// An indicator that nobody describes any more is gone, also where should_delete was left false.
	if key.ShouldDelete || len(key.Descriptors) == 0 || key.Descriptors.Kind() == 'n' {
		return b.delete(id)
	}
	var u threatUpdate
	if err := decode(raw, &u); err != nil {
		return b.skip(id, err.Error())
	}
	if len(u.Descriptors.Data) == 0 {
		return b.delete(id)
	}
	record := lists.Record{ID: id, Changed: key.LastUpdated.Time}
	var said, reacted opinions
	for _, d := range u.Descriptors.Data {
		said.add(string(d.Owner.ID), string(d.Status))
		record.Labels = append(record.Labels, threatTags(d.Tags)...)
		for _, r := range d.Reactions {
			for who := range strings.SplitSeq(string(r.Value), ",") {
				reacted.add(who, string(r.Key))
			}
		}
	}
	for who, what := range reacted {
		said.add(who, what) // unless the member described it itself
	}
	record.Opinions = said
	kind, known := threatKinds[string(u.Type)]
	if !known {
		kind = strings.ToLower(strings.TrimPrefix(string(u.Type), "HASH_"))
	}
	var f findings
	f.add(kind, string(u.Indicator))
	record.Hashes, record.Unmatched = f.hashes, f.unmatched
	return b.put(record, f.faults...)
}

// threatTags reads ["a"], {"data":[{"text":"a"}]} or nothing.
func threatTags(v jsontext.Value) []string {
	if len(v) == 0 || v.Kind() != '{' {
		return texts(v)
	}
	var edge struct {
		Data []struct {
			Text text `json:"text"`
		} `json:"data"`
	}
	if decode(v, &edge) != nil {
		return nil
	}
	var out []string
	for _, t := range edge.Data {
		out = append(out, string(t.Text))
	}
	return out
}
