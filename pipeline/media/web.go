package media

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"
)

// maxRedirects is how often an address may point to another one.
const maxRedirects = 3

// web fetches from hosts that the configuration names, over connections to
// public addresses alone. What a name stands for is looked at when a connection
// is made, so that neither a redirect nor a name that resolves otherwise the
// next time leads inside.
type web struct {
	origins map[string]bool // scheme://host[:port]
	client  *http.Client

	// may says which addresses are connected to.
	may func(netip.Addr) bool
}

var (
	errNotPublic = errors.New("its host has an address that is not public")
	errElsewhere = errors.New("its address points to a host that is not one of those that are configured")
)

// newWeb reports every origin that is none.
func newWeb(origins []string) (*web, error) {
	w := &web{origins: map[string]bool{}, may: public}
	var errs []error
	for _, o := range origins {
		u, err := url.Parse(o)
		if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Hostname() == "" || o != u.Scheme+"://"+u.Host {
			errs = append(errs, errors.New("media: an entry of origins is not of the form https://HOST or https://HOST:PORT"))
			continue
		}
		w.origins[originOf(u)] = true
	}
	dialer := &net.Dialer{
		Timeout: 10 * time.Second,
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			at, err := netip.ParseAddrPort(address)
			if err != nil || !w.may(at.Addr()) {
				return errNotPublic
			}
			return nil
		},
	}
	w.client = &http.Client{
		Transport: &http.Transport{ // no proxy: it would connect in our place
			DialContext:            dialer.DialContext,
			ForceAttemptHTTP2:      true,
			DisableCompression:     true,
			MaxIdleConnsPerHost:    8,
			IdleConnTimeout:        30 * time.Second,
			TLSHandshakeTimeout:    10 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects || r.URL.User != nil || !w.origins[originOf(r.URL)] {
				return errElsewhere
			}
			r.Header.Del("Referer")
			return nil
		},
	}
	return w, errors.Join(errs...)
}

// originOf writes an origin in one way (RFC 6454, section 6.2).
func originOf(u *url.URL) string {
	host, port := strings.TrimSuffix(strings.ToLower(u.Hostname()), "."), u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return u.Scheme + "://" + net.JoinHostPort(host, port)
}

// notPublic are the prefixes that [public] refuses beside those that net/netip
// has a name for: the special-purpose registries of IANA (RFC 6890), and the
// prefixes of IPv6 that stand for addresses of IPv4.
var notPublic = func() (out []netip.Prefix) {
	for _, p := range []string{
		"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
		"::/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fec0::/10",
	} {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}()

// public reports whether an address is of the Internet at large: not of this
// machine, of a private or local network, of a cloud's metadata service, or of
// many at once.
func public(a netip.Addr) bool {
	a = a.Unmap()
	if a.Zone() != "" || !a.IsGlobalUnicast() || a.IsPrivate() {
		return false
	}
	for _, p := range notPublic {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

func (w *web) close() { w.client.CloseIdleConnections() }

// fetch returns what lies at u.
func (f *Fetcher) fetchWeb(ctx context.Context, u *url.URL) ([]byte, error) {
	if !f.web.origins[originOf(u)] {
		return nil, refuse("addresses with %s are fetched from hosts that are configured, and its host is not one of them", u.Scheme)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, refuse("its address cannot be asked for")
	}
	r.Header.Set("Accept-Encoding", "identity")
	r.Header.Set("User-Agent", "dmguard")
	answer, err := f.web.client.Do(r)
	if err != nil {
		return nil, webError(err)
	}
	defer func() { _ = answer.Body.Close() }() // nothing was written
	switch s := answer.StatusCode; {
	case s == http.StatusOK:
	case s == http.StatusNotFound, s == http.StatusGone:
		return nil, refuse("nothing lies at its address")
	case s == http.StatusUnauthorized, s == http.StatusForbidden, s == http.StatusUnavailableForLegalReasons:
		return nil, refuse("it may not be read")
	case s == http.StatusRequestTimeout, s == http.StatusTooEarly, s == http.StatusTooManyRequests, s >= 500:
		return nil, fmt.Errorf("the host answers %d", s)
	default:
		return nil, refuse("its host answers %d", s)
	}
	if e := answer.Header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return nil, refuse("its host sends it in an encoding that was not asked for")
	}
	data, err := f.read(ctx, answer.Body, answer.ContentLength)
	if err != nil {
		return nil, webError(err)
	}
	return data, nil
}

// webError says what came of a request, without the address.
func webError(err error) error {
	for _, refused := range []error{errNotPublic, errElsewhere} {
		if errors.Is(err, refused) {
			return refuse("%w", refused)
		}
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err // the outer one quotes the address
	}
	return err
}
