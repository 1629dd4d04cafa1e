package exchange

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/dmguard/dmguard/hashdb/lists"
)

// What a client asks of a server, and bears with.
const (
	maxPage      = 64 << 20 // bytes of an answer, unpacked
	maxRedirects = 3
	attempts     = 6
	perAttempt   = 5 * time.Minute
	firstWait    = time.Second
	longestWait  = time.Minute
	longestAsked = 5 * time.Minute // by Retry-After
	emptyPages   = 10              // in a row
)

// client asks one server, with the credentials of one account, which go nowhere else.
type client struct {
	base      *url.URL
	http      *http.Client
	authorize func(*http.Request)
	secrets   []string // never shown
	now       func() time.Time
	wait      func(context.Context, time.Duration) error
}

func newClient(source string, secrets []string, o Options) (*client, error) {
	base, err := url.Parse(source)
	if err != nil {
		return nil, errors.New("the source is no URL") // the error would quote it
	}
	plain := base.Scheme == "http"
	switch {
	case base.User != nil:
		return nil, errors.New("credentials stand in the source's URL; put them into the environment or a file")
	case base.Fragment != "":
		return nil, errors.New("the source's URL has a fragment")
	case base.Host == "":
		return nil, errors.New("the source's URL names no host")
	case plain && !loopback(base.Hostname()):
		return nil, fmt.Errorf("%s: want https; plain http is for loopback alone", base.Host)
	case !plain && base.Scheme != "https":
		return nil, fmt.Errorf("scheme %q of the source: want https", clip(base.Scheme, 40))
	}
	base.Path = strings.TrimRight(base.Path, "/")
	base.RawPath = ""

	dialer := &net.Dialer{Timeout: 30 * time.Second}
	transport := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            dialer.DialContext,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    2,
		IdleConnTimeout:        time.Minute,
		TLSHandshakeTimeout:    15 * time.Second,
		ResponseHeaderTimeout:  time.Minute,
		MaxResponseHeaderBytes: 64 << 10,
	}
	if plain {
		transport.Proxy = nil
		dialer.Control = onlyLoopback
	}
	c := &client{base: base, authorize: func(*http.Request) {}, now: o.now, wait: o.wait}
	for _, s := range secrets {
		if s != "" {
			c.secrets = append(c.secrets, s, url.QueryEscape(s), url.PathEscape(s), base64.StdEncoding.EncodeToString([]byte(s)))
		}
	}
	c.http = &http.Client{Transport: transport, CheckRedirect: func(to *http.Request, via []*http.Request) error {
		switch {
		case to.URL.Scheme != base.Scheme || to.URL.Host != base.Host:
			return errElsewhere
		case len(via) > maxRedirects:
			return fmt.Errorf("more than %d redirects", maxRedirects)
		}
		return nil
	}}
	if c.now == nil {
		c.now = time.Now
	}
	if c.wait == nil {
		c.wait = wait
	}
	return c, nil
}

var errElsewhere = errors.New("it sends to another host, which gets no credentials")

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

// onlyLoopback refuses what a name such as localhost may have been made to mean.
func onlyLoopback(_, address string, _ syscall.RawConn) error {
	a, err := netip.ParseAddrPort(address)
	if err != nil || !a.Addr().IsLoopback() {
		return errors.New("not a loopback address")
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// at is the URL of a path below the base.
func (c *client) at(path string, query url.Values) *url.URL {
	u := *c.base
	u.Path += path
	u.RawQuery = query.Encode()
	return &u
}

// follow reads a link of the server to its next page. It leads to the server itself, or nowhere.
func (c *client) follow(link string) (*url.URL, error) {
	u, err := url.Parse(link)
	if err != nil {
		return nil, errors.New("the link to the next page is no URL")
	}
	if u.IsAbs() || u.Host != "" {
		if u.Scheme != c.base.Scheme || u.Host != c.base.Host || u.User != nil {
			return nil, fmt.Errorf("the link to the next page: %w", errElsewhere)
		}
	}
	to := *c.base
	to.Path, to.RawPath, to.RawQuery, to.Fragment = u.Path, u.RawPath, u.RawQuery, ""
	return &to, nil
}

// StatusError says that a server refused a request, and with which status.
type StatusError struct{ Code int }

func (e *StatusError) Error() string {
	text := fmt.Sprintf("%d %s", e.Code, http.StatusText(e.Code))
	if e.Code == http.StatusUnauthorized || e.Code == http.StatusForbidden {
		text += ": are the credentials right, and is this account let in here?"
	}
	return text
}

func (e *StatusError) passing() bool {
	switch e.Code {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// permanent wraps what another attempt would not change.
type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

// get fetches a page and has it read. What fails in passing, also a page that read does not understand, since it may
// have been cut, is tried again after a while; what read did by then must not count.
func (c *client) get(ctx context.Context, u *url.URL, read func(io.Reader) error) error {
	return c.do(ctx, http.MethodGet, u, "", func(answer *http.Response, _ *time.Timer) error {
		body, err := io.ReadAll(io.LimitReader(answer.Body, maxPage+1))
		switch {
		case err != nil:
			return err
		case len(body) > maxPage:
			return permanentError{fmt.Errorf("an answer of more than %d MiB", maxPage>>20)}
		}
		return read(strings.NewReader(string(body)))
	})
}

// do sends a request until it is answered well, and take has taken the answer. The timer ends the attempt.
func (c *client) do(ctx context.Context, method string, u *url.URL, form string, take func(*http.Response, *time.Timer) error) error {
	pause := firstWait
	for try := 1; ; try++ {
		asked, err := c.once(ctx, method, u, form, take)
		var status *StatusError
		var final permanentError
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &status) && !status.passing(), errors.As(err, &final), errors.Is(err, errElsewhere), errors.Is(err, errStopped), try == attempts:
			return c.say(method, u, err)
		case asked > longestAsked:
			return c.say(method, u, fmt.Errorf("%w; it wants to be left alone for %s", err, asked.Round(time.Second)))
		}
		// Half of the pause is left to chance, so that clients that failed together do not come back together.
		d := pause/2 + rand.N(pause/2+1) //nolint:gosec // nobody gains by guessing it
		if err := c.wait(ctx, max(d, asked)); err != nil {
			return err
		}
		pause = min(2*pause, longestWait)
	}
}

var errSlow = fmt.Errorf("no answer within %s", perAttempt)

func (c *client) once(ctx context.Context, method string, u *url.URL, form string, take func(*http.Response, *time.Timer) error) (asked time.Duration, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	limit := time.AfterFunc(perAttempt, func() { cancel(errSlow) })
	defer limit.Stop()
	defer func() {
		if err != nil && errors.Is(context.Cause(ctx), errSlow) {
			err = errSlow
		}
	}()
	request, err := http.NewRequestWithContext(ctx, method, u.String(), strings.NewReader(form))
	if err != nil {
		return 0, permanentError{errors.New("no request can be made of it")}
	}
	request.Header.Set("User-Agent", "dmguard")
	if form != "" {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	} else {
		request.Body, request.ContentLength = http.NoBody, 0
		c.authorize(request)
	}
	answer, err := c.http.Do(request)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		_, _ = io.CopyN(io.Discard, answer.Body, 64<<10) // so that the connection can be used again
		return c.retryAfter(answer.Header.Get("Retry-After")), &StatusError{answer.StatusCode}
	}
	return 0, take(answer, limit)
}

// retryAfter reads seconds or a date, RFC 9110 section 10.2.3.
func (c *client) retryAfter(value string) time.Duration {
	if seconds, err := strconv.ParseInt(value, 10, 32); err == nil {
		return time.Duration(max(seconds, 0)) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(at.Sub(c.now()), 0)
	}
	return 0
}

// say makes an error that names the request without its query and holds no secret.
func (c *client) say(method string, u *url.URL, err error) error {
	if outer, ok := errors.AsType[*url.Error](err); ok {
		err = outer.Err // it quotes the URL
	}
	place := u.Scheme + "://" + u.Host + u.Path
	for _, s := range c.secrets {
		if strings.Contains(err.Error(), s) || strings.Contains(place, s) {
			return errors.New(method + " " + u.Host + ": failed, and what it says of it holds a credential")
		}
	}
	return fmt.Errorf("%s %s: %w", method, place, err)
}

// collect reads a page into batches, which are whole once the page was read to its end.
func collect(replace bool, read func(*batcher) error) ([]lists.Batch, error) {
	var batches []lists.Batch
	b := newBatcher(replace, func(batch lists.Batch) bool {
		batches = append(batches, batch)
		return true
	})
	if err := read(b); err != nil {
		return nil, err
	}
	err := b.flush()
	return batches, err
}

// fetched is one page of a list.
type fetched struct {
	batches []lists.Batch
	next    *url.URL // of the page after it, or nil
	cursor  string   // what tells next from others
	// checkpoint is where one can go on after the page, or "". On the last page it is where the next update goes on.
	checkpoint string
}

// pull fetches pages until there are none.
func (c *client) pull(ctx context.Context, replace bool, first *url.URL, fetch func(context.Context, *url.URL) (fetched, error)) lists.Update {
	return func(yield func(lists.Batch, error) bool) {
		defer c.http.CloseIdleConnections()
		var pages trail
		for to := first; ; {
			page, err := fetch(ctx, to)
			if err == nil && page.next != nil {
				err = pages.step(page.cursor, count(page.batches))
			}
			if err != nil {
				yield(lists.Batch{Replace: replace}, err)
				return
			}
			// An update that replaces is taken as a whole or not at all.
			checkpoint := page.checkpoint
			if replace && page.next != nil {
				checkpoint = ""
			}
			if !yieldAll(yield, page.batches, replace, checkpoint) || page.next == nil {
				return
			}
			to = page.next
		}
	}
}

// page fetches one page and reads it with read.
func (c *client) page(ctx context.Context, u *url.URL, replace bool, read func(*document, *batcher) error) (batches []lists.Batch, err error) {
	err = c.get(ctx, u, func(body io.Reader) error {
		d, err := newDocument(body)
		if err != nil {
			return err
		}
		batches, err = collect(replace, func(b *batcher) error {
			if err := read(d, b); err != nil {
				return err
			}
			return d.end()
		})
		return err
	})
	return batches, err
}

func failed(err error) lists.Update {
	return func(yield func(lists.Batch, error) bool) { yield(lists.Batch{}, err) }
}
