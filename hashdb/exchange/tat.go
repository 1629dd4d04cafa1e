package exchange

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
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

// tatUpdates fetches what changed since the checkpoint, or everything where there is none. Pages are asked for by the checkpoint
// of the page before and not by the offsets that the server offers: an entry that changes meanwhile would move
// all after it by one, and one would be jumped over.
func (c *client) tatUpdates(ctx context.Context, checkpoint string, login url.Values) lists.Update {
	p, err := c.resume(TAT, checkpoint)
	if err != nil {
		return failed(err)
	}
	replace := checkpoint == ""
	p.Fetched = c.now().Unix()
	query := func(after string) *url.URL {
		return c.at("/api/hash-list/v2/all", url.Values{"order": {"asc"}, "after": {after}})
	}
	account := *c
	signedIn := false
	return c.pull(ctx, replace, query(p.After), func(ctx context.Context, u *url.URL) (fetched, error) {
		var page tatPage
		var out fetched
		for {
			fresh := !signedIn
			if fresh {
				token, err := c.tatToken(ctx, login)
				if err != nil {
					return out, err
				}
				account.secrets = append(slices.Clip(c.secrets), token)
				account.authorize = func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }
				signedIn = true
			}
			var err error
			out.batches, err = account.page(ctx, u, replace, func(d *document, b *batcher) (err error) {
				page, err = tat(d, b)
				return err
			})
			var status *StatusError
			if errors.As(err, &status) && status.Code == http.StatusUnauthorized && !fresh {
				signedIn = false // tokens do not last
				continue
			}
			if err != nil {
				return out, err
			}
			break
		}
		if page.checkpoint != "" {
			p.After = clip(string(page.checkpoint), maxText)
		}
		out.checkpoint = p.String()
		if page.next == "" {
			return out, nil
		}
		if page.checkpoint == "" {
			return out, errors.New("tat: more entries are promised, but no checkpoint to go on from")
		}
		out.cursor = p.After
		out.next = query(p.After)
		return out, nil
	})
}

// tatToken signs in.
func (c *client) tatToken(ctx context.Context, login url.Values) (string, error) {
	var answer struct {
		Token text `json:"token"`
	}
	err := c.do(ctx, http.MethodPost, c.at("/token-auth/tcap/", nil), login.Encode(), func(r *http.Response, _ *time.Timer) error {
		return json.UnmarshalRead(io.LimitReader(r.Body, 64<<10), &answer)
	})
	switch {
	case err != nil:
		return "", fmt.Errorf("sign in: %w", err)
	case answer.Token == "":
		return "", errors.New("sign in: an answer without a token")
	}
	return string(answer.Token), nil
}
