package exchange

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/dmguard/dmguard/hashdb/lists"
)

// How the entries of NCMEC are fetched.
const (
	ncmecDelay    = 5 * time.Second // what is younger may still change within its second
	ncmecCursor   = 12 * time.Hour  // a cursor is not kept longer
	ncmecWindow   = 200_000         // entries of a window, about, so that little is fetched again
	ncmecShortest = time.Minute     // that a window is made for being too full
	ncmecFew      = 2000            // entries, after which the next window is longer
	ncmecTime     = "2006-01-02T15:04:05Z"
)

// ncmecUpdates fetches what changed since the checkpoint, window of time by window of time.
//
// Entries come in no order of time, so that the time goes on only where a window was drained. In between, the checkpoint
// is a cursor inside the window, which is used for the same window or not at all.
func (c *client) ncmecUpdates(ctx context.Context, checkpoint string) lists.Update {
	return func(yield func(lists.Batch, error) bool) {
		defer c.http.CloseIdleConnections()
		err := c.ncmec(ctx, checkpoint, func(b []lists.Batch, checkpoint string) bool { return yieldAll(yield, b, false, checkpoint) })
		if err != nil && !errors.Is(err, errStopped) {
			yield(lists.Batch{}, err)
		}
	}
}

func (c *client) ncmec(ctx context.Context, checkpoint string, emit func([]lists.Batch, string) bool) error {
	p, err := c.resume(NCMEC, checkpoint)
	if err != nil {
		return err
	}
	end := c.now().Add(-ncmecDelay).Unix()
	length := end - p.Until
	// The window that was begun is ended first.
	if p.Next != "" {
		if c.older(p, ncmecCursor) || p.End <= p.Until {
			p.Next = ""
		} else {
			_, err := c.ncmecDrain(ctx, p, false, emit)
			var status *StatusError
			switch {
			case err == nil:
				p.Until = p.End
			case errors.As(err, &status) && !status.passing() && status.Code != 401 && status.Code != 403:
				// The cursor is not known any more: the window begins anew.
			default:
				return err
			}
			p.Next = ""
		}
	}
	for p.Until < end {
		p.End = min(end, p.Until+max(length, 1))
		window := p.End - p.Until
		n, err := c.ncmecDrain(ctx, p, window > int64(ncmecShortest/time.Second), emit)
		switch {
		case errors.Is(err, errTooFull):
			length = max(window/4, 1)
			continue
		case err != nil:
			return err
		}
		if n < ncmecFew {
			length = 2 * max(length, 1)
		}
		p.Until = p.End
	}
	return nil
}

var errTooFull = errors.New("more entries than are fetched at once")

// ncmecDrain fetches all pages of the window from p.Until to p.End, or those from p.Next on, and returns how
// many entries there were. Where the window may be divided and the first page tells of too many, it emits nothing.
func (c *client) ncmecDrain(ctx context.Context, p position, divisible bool, emit func([]lists.Batch, string) bool) (int, error) {
	at := func(seconds int64) string { return time.Unix(seconds, 0).UTC().Format(ncmecTime) }
	var to *url.URL
	var err error
	if p.Next == "" {
		to = c.at("/v2/entries", url.Values{"from": {at(p.Until)}, "to": {at(p.End)}})
	} else if to, err = c.ncmecNext(p.Next); err != nil {
		return 0, err
	}
	var pages trail
	total := 0
	for first := p.Next == ""; ; first = false {
		var page ncmecPage
		var batches []lists.Batch
		err := c.get(ctx, to, func(body io.Reader) (err error) {
			batches, err = collect(false, func(b *batcher) (err error) {
				page, err = ncmec(body, b)
				return err
			})
			return err
		})
		if err != nil {
			return 0, err
		}
		if first && divisible && ncmecExpected(page.next) > ncmecWindow {
			return 0, errTooFull
		}
		total += page.entries
		p.Next = page.next
		p.Fetched = c.now().Unix()
		if p.Next == "" {
			done := p
			done.Until, done.End = p.End, 0
			if !emit(batches, done.String()) {
				return 0, errStopped
			}
			return total, nil
		}
		if to, err = c.ncmecNext(p.Next); err != nil {
			return 0, err
		}
		if err := pages.step(p.Next, page.entries); err != nil {
			return 0, fmt.Errorf("ncmec: %w", err)
		}
		if !emit(batches, p.String()) {
			return 0, errStopped
		}
	}
}

// ncmecNext resolves a link that is written relative to the environment, such as /v2/entries?from=….
func (c *client) ncmecNext(link string) (*url.URL, error) {
	u, err := c.follow(link)
	if err != nil {
		return nil, err
	}
	const path = "/v2/entries"
	if u.Path != path && u.Path != c.base.Path+path {
		return nil, errors.New("the link to the next page does not lead to entries")
	}
	u.Path, u.RawPath = c.base.Path+path, ""
	return u, nil
}

// ncmecExpected estimates how many entries are left behind a link, or 0 where it does not tell.
func ncmecExpected(link string) int64 {
	_, query, _ := strings.Cut(link, "?")
	values, err := url.ParseQuery(query)
	if err != nil {
		return 0
	}
	start, _ := strconv.ParseInt(values.Get("start"), 10, 64)
	most, _ := strconv.ParseInt(values.Get("max"), 10, 64)
	return max(most-start, 0)
}
