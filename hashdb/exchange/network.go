package exchange

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/dmguard/dmguard/hashdb/lists"
)

// network makes the source that is asked over HTTP.
func (o Options) network(f Format, source string) (Source, error) {
	secret, err := o.credentials(f)
	if err != nil {
		return nil, err
	}
	if strings.ContainsFunc(secret, func(r rune) bool { return r < ' ' || r > '~' }) {
		return nil, errors.New("credentials: a character that is not printable ASCII")
	}
	malformed := fmt.Errorf("%s wants credentials: set %s to %s, or %[2]s_FILE to a file with it", f, CredentialsVariable(f), CredentialsForm(f))
	if !f.whole() && strings.ContainsAny(source, "?#") {
		return nil, errors.New("the URL of an interface has no query")
	}
	divided := func(by string) (string, string, bool) {
		a, b, _ := strings.Cut(secret, by)
		return a, b, a != "" && b != ""
	}
	switch f {
	case NCMEC:
		user, password, ok := divided(":")
		if !ok {
			return nil, malformed
		}
		for _, end := range []string{"/", "/entries", "/v2"} {
			source = strings.TrimSuffix(source, end)
		}
		c, err := newClient(source, []string{secret, password}, o)
		if err != nil {
			return nil, err
		}
		c.authorize = func(r *http.Request) { r.SetBasicAuth(user, password) }
		return c.ncmecUpdates, nil
	case StopNCII:
		function, subscription, ok := divided(",")
		if !ok {
			return nil, malformed
		}
		c, err := newClient(strings.TrimSuffix(source, "/FetchHashes"), []string{function, subscription}, o)
		if err != nil {
			return nil, err
		}
		c.authorize = func(r *http.Request) {
			r.Header.Set("x-functions-key", function)
			r.Header.Set("Ocp-Apim-Subscription-Key", subscription)
		}
		return c.stopNCIIUpdates, nil
	case ThreatExchange:
		if secret == "" {
			return nil, malformed
		}
		// An app token is the app's number, a bar and the secret.
		_, inner, _ := strings.Cut(secret, "|")
		c, err := newClient(strings.TrimSuffix(strings.TrimRight(source, "/"), "/threat_updates"), []string{secret, inner}, o)
		if err != nil {
			return nil, err
		}
		c.authorize = func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+secret) }
		return c.threatUpdates, nil
	case TAT:
		user, password, ok := divided(":")
		if !ok {
			return nil, malformed
		}
		c, err := newClient(source, []string{secret, password}, o)
		if err != nil {
			return nil, err
		}
		login := url.Values{"username": {user}, "password": {password}, "resend": {"false"}}
		return func(ctx context.Context, checkpoint string) lists.Update { return c.tatUpdates(ctx, checkpoint, login) }, nil
	default:
		c, err := newClient(source, []string{secret}, o)
		if err != nil {
			return nil, err
		}
		if secret != "" {
			c.authorize = func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+secret) }
		}
		file, err := url.Parse(source)
		if err != nil {
			return nil, err
		}
		return c.download(f, file, o), nil
	}
}

// download fetches a file whenever an update is taken. It starts again where nothing of it was handed on yet.
func (c *client) download(f Format, u *url.URL, o Options) Source {
	return func(ctx context.Context, _ string) lists.Update {
		return func(yield func(lists.Batch, error) bool) {
			defer c.http.CloseIdleConnections()
			err := c.do(ctx, http.MethodGet, u, "", func(answer *http.Response, limit *time.Timer) error {
				if answer.ContentLength < 0 && answer.ProtoMajor == 1 && len(answer.TransferEncoding) == 0 {
					return permanentError{errors.New("the server does not say where the file ends, so that it could be cut unseen")}
				}
				read, err := o.reader(f)
				if err != nil {
					return permanentError{err}
				}
				body := &counter{ctx: ctx, r: patient{answer.Body, limit}, total: max(answer.ContentLength, 0), progress: o.Progress}
				begun := false
				for batch, err := range update(body, o.replace(f), read) {
					switch {
					case err != nil && begun:
						return permanentError{err}
					case err != nil:
						return err
					}
					begun = true
					if !yield(batch, nil) {
						return errStopped
					}
				}
				return nil
			})
			if err != nil && !errors.Is(err, errStopped) {
				yield(lists.Batch{Replace: o.replace(f)}, err)
			}
		}
	}
}

// patient is a body that may take long, as long as something comes.
type patient struct {
	r     io.Reader
	limit *time.Timer
}

func (p patient) Read(b []byte) (int, error) {
	p.limit.Reset(perAttempt)
	return p.r.Read(b)
}
