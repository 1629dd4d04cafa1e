//go:build secondlook

package secondlook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
)

const (
	// maxAnswer is how many bytes of an answer are read.
	maxAnswer = 4 << 10

	// After brokenAfter failures in a row nothing is asked for pause.
	brokenAfter = 5
	pause       = time.Minute
)

// errOpen is returned while nothing is asked.
var errOpen = errors.New("not asked: the model server failed several times in a row")

// client asks a model server: POST of a [Question] as JSON, answered with 200
// and an [Answer] as JSON. It follows no redirect, uses no proxy and does not
// repeat itself.
type client struct {
	url   string
	token string
	http  *http.Client
	now   func() time.Time

	mu       sync.Mutex
	failures int       // in a row; guarded by mu
	until    time.Time // nothing is asked before; guarded by mu
}

// Open returns the client of the server that cfg names. token, where it is not
// empty, is its bearer token.
func Open(cfg Config, token string) (Looker, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &client{
		url: cfg.URL, token: token, now: time.Now,
		http: &http.Client{
			Transport: &http.Transport{
				DialContext:            (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
				TLSHandshakeTimeout:    5 * time.Second,
				ResponseHeaderTimeout:  cfg.Timeout,
				MaxResponseHeaderBytes: 16 << 10,
				MaxConnsPerHost:        2,
				IdleConnTimeout:        time.Minute,
				ForceAttemptHTTP2:      true,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// Look implements [Looker].
func (c *client) Look(ctx context.Context, q Question) (Answer, error) {
	if !c.closed() {
		return Answer{}, errOpen
	}
	a, err := c.ask(ctx, q)
	c.note(err)
	return a, err
}

// closed reports whether the circuit is: whether anything may be asked.
func (c *client) closed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.now().Before(c.until)
}

func (c *client) note(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.failures = 0
		return
	}
	// Once the pause is over a single failure starts the next.
	if c.failures++; c.failures >= brokenAfter {
		c.until = c.now().Add(pause)
	}
}

func (c *client) ask(ctx context.Context, q Question) (a Answer, err error) {
	body, err := json.Marshal(q, json.Deterministic(true))
	if err != nil {
		return a, errors.New("the question cannot be encoded")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return a, fmt.Errorf("asking the model server: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return a, fmt.Errorf("asking the model server: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return a, fmt.Errorf("the model server answers with status %d", resp.StatusCode)
	}
	if kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return a, errors.New("the model server does not answer with JSON")
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return a, fmt.Errorf("reading the answer of the model server: %w", err)
	case len(data) > maxAnswer:
		return a, fmt.Errorf("the answer has more than %d bytes", maxAnswer)
	}
	var wire struct {
		Opinion    *Opinion `json:"opinion"`
		Confidence *float64 `json:"confidence"`
	}
	// What the JSON package says would quote the answer.
	if json.Unmarshal(data, &wire, json.RejectUnknownMembers(true)) != nil || wire.Opinion == nil || wire.Confidence == nil {
		return a, errors.New("the answer is outside of its schema")
	}
	a = Answer{*wire.Opinion, *wire.Confidence}
	return a, a.validate()
}
