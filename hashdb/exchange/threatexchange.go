package exchange

import (
	"context"
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
	// threatStale is how long after the last fetch the withdrawals since are still told: they are kept for 90 days.
	threatStale   = 85 * 24 * time.Hour
	threatPerPage = 500
	threatOverlap = 60 // seconds that are read again, for what came late into its second
	threatFields  = "id,indicator,type,last_updated,should_delete,descriptors{id,reactions,owner{id},tags,status,added_on}"
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

// threatUpdates fetches what changed since the checkpoint, or everything where there is none or it is stale.
func (c *client) threatUpdates(ctx context.Context, checkpoint string) lists.Update {
	p, err := c.resume(ThreatExchange, checkpoint)
	if err != nil {
		return failed(err)
	}
	replace := checkpoint == "" || c.older(p, threatStale)
	query := url.Values{"limit": {strconv.Itoa(threatPerPage)}, "fields": {threatFields}}
	if replace {
		p.Until = 0
	} else {
		query.Set("start_time", strconv.FormatInt(max(p.Until-threatOverlap, 0), 10))
	}
	p.Fetched = c.now().Unix()
	return c.pull(ctx, replace, c.at("/threat_updates/", query), func(ctx context.Context, u *url.URL) (fetched, error) {
		var page threatPage
		batches, err := c.page(ctx, u, replace, func(d *document, b *batcher) (err error) {
			page, err = threatUpdates(d, b)
			return err
		})
		out := fetched{batches: batches}
		if err != nil {
			return out, err
		}
		if !page.latest.IsZero() {
			p.Until = max(p.Until, page.latest.Unix())
		}
		if page.paging.Next == "" {
			out.checkpoint = p.String()
			return out, nil
		}
		next, err := c.follow(string(page.paging.Next))
		if err != nil {
			return out, err
		}
		if strings.TrimRight(next.Path, "/") != c.base.Path+"/threat_updates" {
			return out, errors.New("threatexchange: the link to the next page does not lead to threat_updates")
		}
		// The server writes the token into its links; it goes into the header alone.
		q := next.Query()
		q.Del("access_token")
		next.RawQuery = q.Encode()
		out.next, out.cursor = next, next.RawQuery
		return out, nil
	})
}
