package exchange

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dmguard/dmguard/hashdb/lists"
)

var seeds = flag.Uint64("seeds", 12, "how many histories of each clearing house are followed")

func TestAFollowerHoldsWhatItsClearingHouseHolds(t *testing.T) {
	for _, h := range houses {
		t.Run(string(h.format), func(t *testing.T) {
			polls, failures := 0, 0
			for seed := range *seeds {
				t.Run(fmt.Sprint(seed), func(t *testing.T) {
					p, f := h.history(t, seed)
					polls += p
					failures += f
				})
			}
			if failures < polls/50 || failures > polls/2 {
				t.Errorf("%d of %d polls failed: the faults are not what the test is about", failures, polls)
			}
		})
	}
}

// history follows a clearing house through additions, changes, withdrawals, failures and ends of the process, and
// compares what is held in the end. It returns how often was asked, and how often in vain.
func (h house) history(t *testing.T, seed uint64) (polls, failures int) {
	w := newWorld(seed)
	w.keeps, w.faults, w.changes = h.keeps, 0.15, 0.1
	f := h.follow(t, w, serve(t, h.serve(w)))
	for range 40 {
		w.mu.Lock()
		for range w.rng.IntN(8) {
			w.mutate()
		}
		switch w.rng.IntN(12) {
		case 0:
			w.now = w.now.Add(time.Duration(w.rng.IntN(30)) * time.Hour)
		case 1:
			w.now = w.now.Add(time.Duration(w.rng.IntN(200)) * 24 * time.Hour)
		default:
			w.now = w.now.Add(time.Duration(w.rng.IntN(20)) * time.Second)
		}
		w.down = w.rng.IntN(10) == 0
		batches := math.MaxInt
		if w.rng.IntN(3) == 0 {
			batches = w.rng.IntN(4)
		}
		w.mu.Unlock()
		polls++
		if err := f.poll(t.Context(), batches); err != nil {
			failures++
			if !w.down && strings.Contains(err.Error(), "checkpoint") {
				t.Error(err)
			}
		}
	}
	w.mu.Lock()
	w.down, w.faults, w.changes = false, 0, 0
	w.now = w.now.Add(10 * time.Second) // what happened last is to be seen, too
	w.mu.Unlock()
	if err := f.poll(t.Context(), math.MaxInt); err != nil {
		t.Fatalf("%v", err)
	}
	if diff := cmp.Diff(w.truth(), f.holds(h.entry)); diff != "" {
		t.Fatalf("what is held is not what there is (-there +held):\n%s", diff)
	}
	return polls, failures
}

// taken is the error that ended an update.
func taken(f *follower) error { return f.poll(context.Background(), math.MaxInt) }

// begin returns a follower of a house whose server answers as it is told, on a clock that moves when one waits.
func (h house) begin(t testing.TB, answer http.HandlerFunc) (*follower, *world) {
	w := newWorld(1)
	return h.follow(t, w, serve(t, answer)), w
}

// first answers of each house, of one record and with a link, a token or a promise of more.
func (h house) first(server, more string) string {
	switch h.format {
	case NCMEC:
		return `<queryResult><images><image><member id="1"/><id>e</id><fingerprints><md5>` + someMD5 + `</md5></fingerprints></image></images><paging><next>` + strings.ReplaceAll(more, "&", "&amp;") + `</next></paging></queryResult>`
	case StopNCII:
		return `{"hasMoreRecords":true,"nextPageToken":"` + more + `","nextSetTimestamp":20,"hashRecords":[{"signalType":"VideoMD5","hashValue":"` + someMD5 + `","hashStatus":"Active"}]}`
	case ThreatExchange:
		return `{"data":[{"id":"1","type":"HASH_MD5","indicator":"` + someMD5 + `","last_updated":20,"descriptors":{"data":[{"owner":{"id":"5"}}]}}],"paging":{"next":"` + more + `"}}`
	default:
		return `{"next":"` + server + `/x","checkpoint":"` + more + `","token":"token","results":[{"id":1,"algorithm":"MD5","hash_digest":"` + someMD5 + `"}]}`
	}
}

// again is a link to the page that it stands on.
func (h house) again(server string) string {
	switch h.format {
	case NCMEC:
		return "/v2/entries?start=5"
	case ThreatExchange:
		return server + h.path + "/threat_updates/?after=x"
	default:
		return "1,1"
	}
}

func TestACursorThatComesAgainIsAnError(t *testing.T) {
	for _, h := range houses {
		asked := 0
		f, _ := h.begin(t, func(w http.ResponseWriter, r *http.Request) {
			asked++
			fmt.Fprint(w, h.first("http://"+r.Host, h.again("http://"+r.Host)))
		})
		err := taken(f)
		if err == nil || !strings.Contains(err.Error(), "again") || asked > 5 {
			t.Errorf("%s: %v after %d requests", h.format, err, asked)
		}
	}
}

func TestPagesWithoutARecordEndSomewhere(t *testing.T) {
	for _, h := range houses {
		asked := 0
		f, _ := h.begin(t, func(w http.ResponseWriter, r *http.Request) {
			asked++
			server := "http://" + r.Host
			more := h.again(server) + fmt.Sprint(asked)
			page := h.first(server, more)
			for _, part := range []string{"<image>", "[{"} {
				if i := strings.Index(page, part); i >= 0 {
					end := strings.LastIndex(page, map[string]string{"<image>": "</images>", "[{": "}]"}[part])
					if part == "[{" {
						page = page[:i+1] + page[end+1:]
						if h.format == ThreatExchange {
							page = `{"data":[],"paging":{"next":"` + more + `"}}`
						}
					} else {
						page = page[:i] + page[end:]
					}
				}
			}
			fmt.Fprint(w, page)
		})
		if err := taken(f); err == nil || !strings.Contains(err.Error(), "without a record") || asked > emptyPages+3 {
			t.Errorf("%s: %v after %d requests", h.format, err, asked)
		}
	}
}

func TestCredentialsGoToNoOtherHost(t *testing.T) {
	var elsewhere atomic.Int32
	other := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { elsewhere.Add(1) }))
	for _, h := range houses {
		f, _ := h.begin(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other+r.URL.Path, http.StatusTemporaryRedirect)
		})
		if err := taken(f); !errors.Is(err, errElsewhere) {
			t.Errorf("%s: a redirect to another host: %v", h.format, err)
		}
		if h.format != NCMEC && h.format != ThreatExchange {
			continue // the others follow no links
		}
		for _, link := range []string{other + "/v2/entries?x=1", "//" + strings.TrimPrefix(other, "http://") + "/v2/entries", strings.Replace(other, "http:", "https:", 1) + "/v2/entries"} {
			f, _ := h.begin(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, h.first("", link)) })
			if err := taken(f); !errors.Is(err, errElsewhere) {
				t.Errorf("%s: a link to %s: %v", h.format, link, err)
			}
		}
		f, _ = h.begin(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, h.first("", "/v2/members?x")) })
		if err := taken(f); err == nil || !strings.Contains(err.Error(), "does not lead to") {
			t.Errorf("%s: a link to another path: %v", h.format, err)
		}
	}
	if n := elsewhere.Load(); n != 0 {
		t.Errorf("another host was asked %d times", n)
	}
}

func TestNoErrorHoldsACredential(t *testing.T) {
	answers := map[string]http.HandlerFunc{
		"refused": func(w http.ResponseWriter, r *http.Request) { http.Error(w, "secret", http.StatusForbidden) },
		"busy":    func(w http.ResponseWriter, r *http.Request) { http.Error(w, "secret", http.StatusServiceUnavailable) },
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "http://secret.example/secret?secret")
			w.WriteHeader(http.StatusFound)
		},
		"bad link": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "http://[secret")
			w.WriteHeader(http.StatusFound)
		},
		"json": func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `{"secret":secret}`) },
		"xml":  func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `<secret secret=>`) },
		"root": func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `<secret/>`) },
		"echo": func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header.Get("Authorization")) },
		"link": func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, `{"data":[],"paging":{"next":"http://secret/secret?secret"}}`)
		},
		"no http": func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				io.WriteString(conn, "secret secret\r\n\r\n")
				conn.Close()
			}
		},
	}
	for _, h := range houses {
		for name, answer := range answers {
			f, _ := h.begin(t, answer)
			err := taken(f)
			if err == nil {
				t.Errorf("%s, %s: no error", h.format, name)
			} else if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "dXNlcjpzZWNyZXQ") {
				t.Errorf("%s, %s: %v", h.format, name, err)
			}
		}
	}
}

func TestAServerIsLeftAloneAsLongAsItAsks(t *testing.T) {
	for _, h := range houses {
		asked := 0
		f, w := h.begin(t, func(w http.ResponseWriter, r *http.Request) {
			asked++
			w.Header().Set("Retry-After", "250")
			w.WriteHeader(http.StatusTooManyRequests)
		})
		before := w.now
		err := taken(f)
		var status *StatusError
		if !errors.As(err, &status) || status.Code != http.StatusTooManyRequests {
			t.Errorf("%s: %v", h.format, err)
		}
		if waited := w.now.Sub(before); asked != attempts || waited < (attempts-1)*250*time.Second || waited > (attempts-1)*251*time.Second {
			t.Errorf("%s: asked %d times in %s", h.format, asked, waited)
		}

		asked = 0
		f, w = h.begin(t, func(w http.ResponseWriter, r *http.Request) {
			asked++
			w.Header().Set("Retry-After", "86400")
			w.WriteHeader(http.StatusServiceUnavailable)
		})
		before = w.now
		if err := taken(f); err == nil || !strings.Contains(err.Error(), "24h0m0s") || asked != 1 || w.now != before {
			t.Errorf("%s: asked to stay away for a day: %v, asked %d times, waited %s", h.format, err, asked, w.now.Sub(before))
		}
	}
}

func TestARefusalIsNotRepeated(t *testing.T) {
	for _, h := range houses {
		asked := 0
		f, _ := h.begin(t, func(w http.ResponseWriter, r *http.Request) {
			asked++
			w.WriteHeader(http.StatusForbidden)
		})
		if err := taken(f); err == nil || asked != 1 || !strings.Contains(err.Error(), "credentials") {
			t.Errorf("%s: %v after %d requests", h.format, err, asked)
		}
	}
}

func TestAnAnswerOverTheLimitIsAnError(t *testing.T) {
	for _, h := range houses {
		asked := 0
		f, _ := h.begin(t, func(w http.ResponseWriter, r *http.Request) {
			asked++
			if r.Method == http.MethodPost {
				fmt.Fprint(w, `{"token":"x"}`)
				return
			}
			io.Copy(w, io.LimitReader(letters{}, maxPage+100))
		})
		if err := taken(f); err == nil || !strings.Contains(err.Error(), "MiB") || asked > 2 {
			t.Errorf("%s: %v after %d requests", h.format, err, asked)
		}
	}
}

func TestACheckpointOfAnotherSourceIsRefused(t *testing.T) {
	for _, h := range houses {
		asked := 0
		f, _ := h.begin(t, func(http.ResponseWriter, *http.Request) { asked++ })
		for _, checkpoint := range []string{
			"x", "{}",
			position{Format: h.format, Source: "https://example.org"}.String(),
			position{Format: CSV, Source: "https://example.org"}.String(),
		} {
			f.checkpoint = checkpoint
			if err := taken(f); err == nil || asked != 0 {
				t.Errorf("%s: checkpoint %q: %v, %d requests", h.format, checkpoint, err, asked)
			}
		}
	}
}

func TestOnlySourcesThatKeepSecretsAreOpened(t *testing.T) {
	for _, h := range houses {
		t.Setenv(CredentialsVariable(h.format), h.credentials)
		for _, source := range []string{
			"http://example.org/x", "http://localhost.example.org/", "ftp://example.org/x", "https://user:secret@example.org/x", "https:///x", "https://example.org/x?token=secret", "https://exa mple.org/secret",
		} {
			if _, err := Open(h.format, source, nil, Options{}); err == nil || strings.Contains(err.Error(), "secret") {
				t.Errorf("%s from %s: %v", h.format, source, err)
			}
		}
		for _, source := range []string{"https://example.org/x", "http://127.0.0.1:1/x", "http://[::1]:1/x", "http://localhost:1"} {
			if _, err := Open(h.format, source, nil, Options{}); err != nil {
				t.Errorf("%s from %s: %v", h.format, source, err)
			}
		}
		t.Setenv(CredentialsVariable(h.format), "")
		if _, err := Open(h.format, "https://example.org", nil, Options{}); err == nil || !strings.Contains(err.Error(), CredentialsVariable(h.format)) {
			t.Errorf("%s without credentials: %v", h.format, err)
		}
	}
}

func TestCredentialsComeFromAFileThatOnlyItsOwnerReads(t *testing.T) {
	file := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(file, []byte("user:secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DMGUARD_NCMEC_CREDENTIALS", "")
	t.Setenv("DMGUARD_NCMEC_CREDENTIALS_FILE", file)
	if _, err := Open(NCMEC, "https://example.org", nil, Options{}); err != nil {
		t.Error(err)
	}
	t.Setenv("DMGUARD_NCMEC_CREDENTIALS_FILE", "")
	if got, err := (Options{CredentialsFile: file}).credentials(NCMEC); err != nil || got != "user:secret" {
		t.Errorf("%q, %v", got, err)
	}
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(NCMEC, "https://example.org", nil, Options{CredentialsFile: file}); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("a file that others read: %v", err)
	}
}

func TestAFileIsDownloadedAndOneThatIsCutReplacesNothing(t *testing.T) {
	t.Setenv(CredentialsVariable(CSV), "secret")
	content := "kind,hash,id\n" + strings.Repeat("md5,"+someMD5+",a\n", 3000) + "md5," + someMD5 + ",b\n"
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   []string
	}{
		"whole": {func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer secret" || r.URL.RawQuery != "v=1" {
				w.WriteHeader(http.StatusForbidden)
			}
			fmt.Fprint(w, content)
		}, []string{"a", "b"}},
		"cut": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(content)))
			fmt.Fprint(w, content[:len(content)-40])
		}, []string{"kept"}},
		"without a length": {func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				io.WriteString(conn, "HTTP/1.0 200 OK\r\n\r\n"+content)
				conn.Close()
			}
		}, []string{"kept"}},
		"elsewhere": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://localhost.invalid/", http.StatusFound)
		}, []string{"kept"}},
	} {
		w := newWorld(1)
		server := serve(t, c.answer)
		f := &follower{list: map[string]lists.Record{"kept": {ID: "kept"}}, open: func() Source {
			s, err := Open(CSV, server+"/list.csv?v=1", nil, Options{wait: func(context.Context, time.Duration) error { return nil }, now: func() time.Time { return w.now }})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}}
		err := taken(f)
		var got []string
		for id := range f.list {
			got = append(got, id)
		}
		slices.Sort(got)
		if !slices.Equal(got, c.want) || (err == nil) != (name == "whole") {
			t.Errorf("%s: the list holds %q: %v", name, got, err)
		}
	}
}

func TestAStoppedClientStops(t *testing.T) {
	for _, h := range houses {
		ctx, cancel := context.WithCancel(t.Context())
		f, _ := h.begin(t, func(w http.ResponseWriter, r *http.Request) {
			cancel()
			w.WriteHeader(http.StatusServiceUnavailable)
		})
		if err := f.poll(ctx, math.MaxInt); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", h.format, err)
		}
	}
}

func TestANameThatIsNotLoopbackIsNotDialled(t *testing.T) {
	if err := onlyLoopback("tcp", "192.0.2.1:80", nil); err == nil {
		t.Error("192.0.2.1 was taken for loopback")
	}
	if err := onlyLoopback("tcp", "[::1]:80", nil); err != nil {
		t.Error(err)
	}
}

func TestACursorOfNCMECIsUsedForItsWindowAndTwelveHours(t *testing.T) {
	const link = "/v2/entries?from=1&to=2&start=7"
	for name, c := range map[string]struct {
		age     time.Duration
		refused int
		want    []string // the requests
	}{
		"fresh":         {11 * time.Hour, 0, []string{"7", ""}},
		"old":           {13 * time.Hour, 0, []string{""}},
		"not known":     {time.Hour, http.StatusGone, []string{"7", ""}},
		"not let in":    {time.Hour, http.StatusUnauthorized, []string{"7"}},
		"not available": {time.Hour, http.StatusServiceUnavailable, []string{"7", "7", "7", "7", "7", "7"}},
	} {
		var asked, froms []string
		f, w := houses[0].begin(t, func(out http.ResponseWriter, r *http.Request) {
			asked = append(asked, r.URL.Query().Get("start"))
			froms = append(froms, r.URL.Query().Get("from"))
			if c.refused != 0 && r.URL.Query().Has("start") {
				out.WriteHeader(c.refused)
				return
			}
			fmt.Fprint(out, "<queryResult/>")
		})
		until, end := w.now.Add(-48*time.Hour), w.now.Add(-24*time.Hour)
		f.checkpoint = position{Format: NCMEC, Source: f.source, Until: until.Unix(), End: end.Unix(), Next: link, Fetched: w.now.Add(-c.age).Unix()}.String()
		before := f.checkpoint
		err := taken(f)
		if !slices.Equal(asked, c.want) {
			t.Errorf("%s: asked for %q, want %q", name, asked, c.want)
		}
		failed := c.refused == http.StatusUnauthorized || c.refused == http.StatusServiceUnavailable
		if (err != nil) != failed || (f.checkpoint == before) != failed {
			t.Errorf("%s: %v, checkpoint %s", name, err, f.checkpoint)
		}
		// After the window that the cursor was of comes the rest; without it, the window comes again.
		want := until
		if name == "fresh" {
			want = end
		}
		if last := froms[len(froms)-1]; !failed && last != want.UTC().Format(ncmecTime) {
			t.Errorf("%s: went on from %s, want %s", name, last, want)
		}
	}
}

func TestATokenThatRanOutIsRenewedWithinAnUpdate(t *testing.T) {
	tokens, pages := 0, 0
	f, _ := houses[3].begin(t, func(out http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			tokens++
			fmt.Fprintf(out, `{"token":"t%d"}`, tokens)
			return
		}
		if r.Header.Get("Authorization") != fmt.Sprintf("Bearer t%d", pages+1) {
			out.WriteHeader(http.StatusUnauthorized)
			return
		}
		pages++
		next := `"more"`
		if pages == 3 {
			next = "null"
		}
		fmt.Fprintf(out, `{"next":%s,"checkpoint":"%d","results":[{"id":%[2]d,"algorithm":"MD5","hash_digest":"`+someMD5+`"}]}`, next, pages)
	})
	if err := taken(f); err != nil || tokens != 3 || len(f.list) != 3 {
		t.Errorf("%v, %d tokens, %d entries", err, tokens, len(f.list))
	}
}

func TestAListThatWasNotFollowedForLongIsFetchedAnew(t *testing.T) {
	for _, h := range houses {
		for _, days := range []int{29, 31, 84, 86, 400} {
			var replaced bool
			f, w := h.begin(t, func(out http.ResponseWriter, r *http.Request) {
				fmt.Fprint(out, map[Format]string{NCMEC: "<queryResult/>", StopNCII: `{"hashRecords":[]}`, ThreatExchange: `{"data":[]}`, TAT: `{"token":"x","results":[]}`}[h.format])
			})
			f.checkpoint = position{Format: h.format, Source: f.source, Until: 100, After: "1,1", Fetched: w.now.Add(-time.Duration(days) * 24 * time.Hour).Unix()}.String()
			for b, err := range f.open()(t.Context(), f.checkpoint) {
				if err != nil {
					t.Errorf("%s: %v", h.format, err)
				}
				replaced = b.Replace
			}
			want := h.format == StopNCII && days > 30 || h.format == ThreatExchange && days > 85
			if replaced != want {
				t.Errorf("%s after %d days: the whole list is %t, want %t", h.format, days, replaced, want)
			}
		}
	}
}
