package media

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/dmguard/dmguard/pipeline"
)

// cdn is a web server on loopback, of whose addresses every way to answer is a path.
func cdn(t *testing.T) (origin string, asked *atomic.Int32) {
	t.Helper()
	asked = new(atomic.Int32)
	mux := http.NewServeMux()
	mux.HandleFunc("/{name}", func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		switch name := r.PathValue("name"); name {
		case "picture":
			fmt.Fprint(w, "inside "+r.URL.Query().Get("sig"))
		case "large":
			_, _ = w.Write(make([]byte, 101))
		case "endless":
			for range 1000 {
				if _, err := w.Write(make([]byte, 1000)); err != nil {
					return
				}
			}
		case "gzip":
			w.Header().Set("Content-Encoding", "gzip")
		case "cut":
			w.Header().Set("Content-Length", "90")
			fmt.Fprint(w, "short")
		case "here":
			http.Redirect(w, r, "/picture?sig=moved", http.StatusFound)
		case "loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "away":
			http.Redirect(w, r, "http://quoteme.invalid/picture", http.StatusFound)
		case "file":
			http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
		default:
			var status int
			_, _ = fmt.Sscan(name, &status)
			w.WriteHeader(status)
		}
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL, asked
}

func TestTheWebIsReadFromOriginsThatAreConfiguredOnly(t *testing.T) {
	origin, _ := cdn(t)
	f := open(t, func(c *Config) { c.Origins = []string{origin}; c.MaxBytes, c.MaxVideoBytes = 100, 100 })
	f.web.may = func(netip.Addr) bool { return true } // the server is on loopback
	for path, want := range map[string]string{"/picture?sig=1": "inside 1", "/here": "inside moved"} {
		if data, err := f.Fetch(t.Context(), origin+path); err != nil || string(data) != want {
			t.Errorf("%s: %q, %v", path, data, err)
		}
	}
	for path, want := range map[string]string{
		"/404": "nothing lies", "/410": "nothing lies", "/403": "may not be read", "/204": "answers 204", "/304": "answers 304",
		"/large": "larger than 100", "/endless": "larger than 100", "/gzip": "encoding",
		"/loop": "points to", "/away": "points to", "/file": "points to", "/picture#part": "fragment",
	} {
		data, err := f.Fetch(t.Context(), origin+path)
		if !pipeline.IsPermanent(err) || data != nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "quoteme") {
			t.Errorf("%s: %q, %v; want %q", path, data, err, want)
		}
	}
	for _, path := range []string{"/500", "/503", "/429", "/cut"} {
		if _, err := f.Fetch(t.Context(), origin+path); err == nil || pipeline.IsPermanent(err) || strings.Contains(err.Error(), origin) {
			t.Errorf("%s: %v; want an outage", path, err)
		}
	}
	other := strings.Replace(origin, "127.0.0.1", "127.0.0.2", 1)
	for _, uri := range []string{other + "/picture", strings.Replace(origin, "http:", "https:", 1) + "/picture", "http://user:quoteme@" + strings.TrimPrefix(origin, "http://") + "/picture"} {
		if _, err := f.Fetch(t.Context(), uri); !pipeline.IsPermanent(err) || strings.Contains(err.Error(), "quoteme") {
			t.Errorf("%s: %v", uri, err)
		}
	}
}

func TestNoNameAndNoRedirectLeadsToAnAddressThatIsNotPublic(t *testing.T) {
	origin, asked := cdn(t)
	_, port, err := net.SplitHostPort(strings.TrimPrefix(origin, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	names := []string{origin, "http://localhost:" + port, "http://[::ffff:127.0.0.1]:" + port, "http://[::1]:" + port}
	f := open(t, func(c *Config) {
		c.Origins = append(names, "http://192.168.0.1", "http://169.254.169.254", "http://[fd00:ec2::254]")
	})
	for _, o := range append(names, "http://192.168.0.1", "http://169.254.169.254", "http://[fd00:ec2::254]") {
		if _, err := f.Fetch(t.Context(), o+"/picture"); !pipeline.IsPermanent(err) || !strings.Contains(err.Error(), "not public") {
			t.Errorf("%s: %v", o, err)
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the server was asked %d times", n)
	}

	// A name that is public at first and is not once a connection is made anew.
	dials := 0
	f.web.may = func(netip.Addr) bool { dials++; return dials == 1 }
	if data, err := f.Fetch(t.Context(), origin+"/picture"); err != nil || !bytes.HasPrefix(data, []byte("inside")) {
		t.Fatalf("%q, %v", data, err)
	}
	f.web.close()
	if _, err := f.Fetch(t.Context(), origin+"/picture"); !pipeline.IsPermanent(err) || !strings.Contains(err.Error(), "not public") {
		t.Errorf("after the name has changed: %v", err)
	}
	// A redirect to another origin of the list, which is inside.
	dials = 0
	redirect := httptest.NewServer(http.RedirectHandler(origin+"/picture", http.StatusFound))
	defer redirect.Close()
	f.web.origins["http://"+strings.TrimPrefix(redirect.URL, "http://")] = true
	before := asked.Load()
	if _, err := f.Fetch(t.Context(), redirect.URL+"/x"); !pipeline.IsPermanent(err) || !strings.Contains(err.Error(), "not public") || asked.Load() != before {
		t.Errorf("a redirect: %v", err)
	}
}

func TestPublicAddressesAreThoseOfTheInternetAtLarge(t *testing.T) {
	for _, a := range []string{"1.1.1.1", "93.184.215.14", "100.63.255.255", "100.128.0.0", "172.32.0.1", "2606:4700::1111", "2a00:1450:4001::200e", "::ffff:1.1.1.1"} {
		if !public(netip.MustParseAddr(a)) {
			t.Errorf("%s is public", a)
		}
	}
	for _, a := range []string{
		"0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.255.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1",
		"192.168.1.1", "198.18.0.1", "198.51.100.7", "203.0.113.9", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
		"::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::7f00:1", "64:ff9b::a00:1", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::", "fc00::1", "fd00:ec2::254",
		"fe80::1", "fe80::1%eth0", "2606:4700::1111%eth0", "fec0::1", "ff02::1",
	} {
		if public(netip.MustParseAddr(a)) {
			t.Errorf("%s is not public", a)
		}
	}
}
