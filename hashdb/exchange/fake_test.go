package exchange

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dmguard/dmguard/hashdb/lists"
)

// world is what a fake clearing house holds. Its clock goes on when the test or a waiting client says so.
type world struct {
	mu     sync.Mutex
	rng    *rand.Rand
	now    time.Time
	rows   map[int]*row
	serial int
	// keeps is how long tombstones are kept, or 0 for ever.
	keeps time.Duration
	// faults is the chance that a request fails in passing; changes that something changes while it is answered.
	faults, changes float64
	down            bool
	asked           int
	page            int
}

// row is an entry, or the tombstone of one. A change can be seen only from visible on; until then the row is as before was.
type row struct {
	number  int
	hash    string
	gone    bool
	at      time.Time
	visible time.Time
	before  *row
}

func newWorld(seed uint64) *world {
	return &world{rng: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(1_767_323_045, 0), rows: map[int]*row{}, page: 4}
}

// mutate adds, changes or withdraws one entry.
func (w *world) mutate() {
	w.now = w.now.Add(time.Duration(w.rng.IntN(3_000_000)+1) * time.Microsecond)
	w.serial++
	r := &row{number: len(w.rows) + 1, hash: fmt.Sprintf("%032x", w.serial), at: w.now}
	if len(w.rows) > 0 && w.rng.IntN(3) > 0 {
		old := w.rows[1+w.rng.IntN(len(w.rows))]
		r.number, r.before = old.number, old
		r.gone = !old.gone && w.rng.IntN(2) == 0
		old.before = nil
	}
	r.visible = r.at.Add(time.Duration(w.rng.IntN(4000)) * time.Millisecond)
	w.rows[r.number] = r
}

// seen are the rows as they can be seen now, by number. late says that changes take a while to be seen.
func (w *world) seen(late bool) []row {
	var out []row
	for _, r := range w.rows {
		if late && r.visible.After(w.now) {
			r = r.before
		}
		if r == nil || r.gone && w.keeps > 0 && w.now.Sub(r.at) > w.keeps {
			continue
		}
		out = append(out, *r)
	}
	slices.SortFunc(out, func(a, b row) int { return cmp.Compare(a.number, b.number) })
	return out
}

// truth is what a follower should hold, by the number of the entry.
func (w *world) truth() map[int]string {
	out := map[int]string{}
	for _, r := range w.rows {
		if !r.gone {
			out[r.number] = r.hash
		}
	}
	return out
}

// serve answers with what page gives, or fails.
func (w *world) serve(page func(*http.Request) (string, int)) http.Handler {
	return http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.asked++
		if w.rng.Float64() < w.changes {
			w.mutate()
		}
		fail := -1
		if w.down {
			fail = 0
		} else if w.rng.Float64() < w.faults {
			fail = w.rng.IntN(8)
		}
		body, status := "", 0
		if fail < 0 || fail > 4 {
			body, status = page(r)
		}
		switch fail {
		case 0:
			http.Error(out, "busy", http.StatusServiceUnavailable)
		case 1:
			out.Header().Set("Retry-After", "7")
			http.Error(out, "slower", http.StatusTooManyRequests)
		case 2:
			out.Header().Set("Retry-After", w.now.Add(20*time.Second).UTC().Format(http.TimeFormat))
			http.Error(out, "slower", http.StatusTooManyRequests)
		case 3:
			http.Error(out, "broken", http.StatusInternalServerError)
		case 4:
			panic(http.ErrAbortHandler) // the connection ends without an answer
		case 5: // ends within the answer
			out.Header().Set("Content-Length", strconv.Itoa(len(body)+100))
			fmt.Fprint(out, body[:len(body)/2])
		case 6: // is cut, and claims to be whole
			fmt.Fprint(out, body[:len(body)*2/3])
		case 7:
			fmt.Fprint(out, "<html><body>Back in a minute</body></html>")
		default:
			out.WriteHeader(status)
			fmt.Fprint(out, body)
		}
	})
}

// cut returns one page of rows, sometimes none, sometimes one twice, and whether there are more.
func (w *world) cut(rows []row) (page []row, more bool) {
	if len(rows) > 0 && w.rng.IntN(20) == 0 {
		return nil, true
	}
	n := min(w.page, len(rows))
	page = slices.Clone(rows[:n])
	if n > 1 && w.rng.IntN(5) == 0 {
		page = append(page[:n:n], page[w.rng.IntN(n)])
		page[len(page)-1], page[len(page)-2] = page[len(page)-2], page[len(page)-1]
	}
	return page, n < len(rows)
}

// fakeNCMEC answers windows of time with entries in no order of time. Cursors are good for 12 hours.
func fakeNCMEC(w *world) http.Handler {
	return w.serve(func(r *http.Request) (string, int) {
		user, password, _ := r.BasicAuth()
		if r.URL.Path != "/env/v2/entries" || user != "user" || password != "secret" {
			return "", http.StatusUnauthorized
		}
		q := r.URL.Query()
		from, err1 := time.Parse(ncmecTime, q.Get("from"))
		to, err2 := time.Parse(ncmecTime, q.Get("to"))
		if err1 != nil || err2 != nil {
			return "", http.StatusBadRequest
		}
		start, _ := strconv.Atoi(q.Get("start"))
		if issued, _ := strconv.ParseInt(q.Get("issued"), 10, 64); issued > 0 && (w.now.Sub(time.Unix(issued, 0)) > 12*time.Hour || w.faults > 0 && w.rng.IntN(40) == 0) {
			return "", http.StatusGone
		}
		var all []row
		for _, row := range w.seen(true) {
			if at := row.at.Truncate(time.Second); !at.Before(from) && !at.After(to) && scatter(row.number) >= start {
				all = append(all, row)
			}
		}
		slices.SortFunc(all, func(a, b row) int { return cmp.Compare(scatter(a.number), scatter(b.number)) })
		page, more := w.cut(all)
		var groups [2]strings.Builder
		for _, row := range page {
			kind := []string{"Image", "Video"}[row.number%2]
			group := &groups[row.number%2]
			if row.gone {
				fmt.Fprintf(group, "<deleted%s><member id=\"%d\">M</member><id>e</id><timestamp>%s</timestamp></deleted%[1]s>", kind, row.number, row.at.UTC().Format(time.RFC3339))
				continue
			}
			fmt.Fprintf(group, "<%s><member id=\"%d\">M</member><timestamp>%s</timestamp><id>e</id><fingerprints><md5>%s</md5></fingerprints></%[1]s>",
				strings.ToLower(kind), row.number, row.at.UTC().Format(time.RFC3339), row.hash)
		}
		next := ""
		if more {
			at := start
			if len(page) > 0 {
				at = scatter(all[min(w.page, len(all))-1].number) + 1
			}
			expected := at + len(all)
			if to.Sub(from) > 3*time.Hour && w.rng.IntN(2) == 0 {
				expected = at + ncmecWindow + 1
			}
			q := url.Values{"from": {q.Get("from")}, "to": {q.Get("to")}, "start": {strconv.Itoa(at)}, "size": {"1000"}, "max": {strconv.Itoa(expected)}, "issued": {strconv.FormatInt(w.now.Unix(), 10)}, "n": {strconv.Itoa(w.asked)}}
			next = "<paging><next>/v2/entries?" + strings.ReplaceAll(q.Encode(), "&", "&amp;") + "</next></paging>"
		}
		return `<?xml version="1.0"?><queryResult xmlns="https://hashsharing.ncmec.org/hashsharing/v2"><images>` + groups[0].String() + `</images><videos>` + groups[1].String() + `</videos>` + next + `</queryResult>`, 200
	})
}

// scatter puts numbers into another order.
func scatter(n int) int { return n * 7919 % 10007 }

func marshal(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// after are the rows that come after the one at the time and with the number, in order of time.
func after(rows []row, at float64, number int) []row {
	rows = slices.DeleteFunc(rows, func(r row) bool {
		return seconds(r.at) < at || seconds(r.at) == at && r.number <= number
	})
	slices.SortFunc(rows, func(a, b row) int {
		return cmp.Or(cmp.Compare(seconds(a.at), seconds(b.at)), cmp.Compare(a.number, b.number))
	})
	return rows
}

func seconds(t time.Time) float64 { return float64(t.UnixMicro()) / 1e6 }

func parseCursor(s string) (float64, int) {
	at, number, _ := strings.Cut(s, ",")
	a, _ := strconv.ParseFloat(at, 64)
	n, _ := strconv.Atoi(number)
	return a, n
}

func cursor(r row) string {
	return strconv.FormatFloat(seconds(r.at), 'f', 6, 64) + "," + strconv.Itoa(r.number)
}

func fakeStopNCII(w *world) http.Handler {
	return w.serve(func(r *http.Request) (string, int) {
		if r.URL.Path != "/v1/FetchHashes" || r.Header.Get("X-Functions-Key") != "function" || r.Header.Get("Ocp-Apim-Subscription-Key") != "secret" {
			return "", http.StatusForbidden
		}
		start, _ := strconv.ParseFloat(r.URL.Query().Get("startTimestamp"), 64)
		if start == 0 {
			return "", http.StatusBadRequest
		}
		at, number, begun := start, 0, w.now.Unix()
		if token := r.URL.Query().Get("nextPageToken"); token != "" {
			parts := strings.Split(token, "/")
			at, number = parseCursor(parts[0])
			begun, _ = strconv.ParseInt(parts[1], 10, 64)
		}
		all := after(w.seen(false), at, number)
		page, more := w.cut(all)
		var records []map[string]any
		for _, row := range page {
			status := "Active"
			if row.gone {
				status = []string{"Withdrawn", "Deleted"}[row.number%2]
			}
			records = append(records, map[string]any{
				"lastModtimestamp": row.at.Unix(), "signalType": "VideoMD5", "hashValue": fmt.Sprintf("%032x", row.number), "hashStatus": status,
				"CSPFeedbacks": []any{map[string]any{"source": "A", "feedbackValue": "Blocked", "tags": []string{row.hash}}},
			})
		}
		token := ""
		if more {
			token = strconv.FormatFloat(at, 'f', 6, 64) + "," + strconv.Itoa(number)
			if len(page) > 0 {
				token = cursor(all[min(w.page, len(all))-1])
			}
			token += fmt.Sprintf("/%d/%d", begun, w.asked)
		}
		return marshal(map[string]any{"count": len(records), "nextPageToken": token, "nextSetTimestamp": begun, "hasMoreRecords": more, "hashRecords": records}), 200
	})
}

func fakeThreatExchange(w *world) http.Handler {
	return w.serve(func(r *http.Request) (string, int) {
		if r.URL.Path != "/v21.0/77/threat_updates/" || r.Header.Get("Authorization") != "Bearer app|secret" || r.URL.Query().Has("access_token") {
			return "", http.StatusForbidden
		}
		start, _ := strconv.ParseFloat(r.URL.Query().Get("start_time"), 64)
		at, number := start, 0
		if c := r.URL.Query().Get("after"); c != "" {
			at, number = parseCursor(c)
		}
		all := after(w.seen(false), at, number)
		page, more := w.cut(all)
		data := []any{}
		for _, row := range page {
			update := map[string]any{"id": strconv.Itoa(row.number), "type": "HASH_MD5", "indicator": row.hash, "last_updated": row.at.Unix(), "should_delete": row.gone && row.number%2 == 0}
			if !row.gone {
				update["descriptors"] = map[string]any{"data": []any{map[string]any{"owner": map[string]any{"id": "5"}, "status": "MALICIOUS"}}}
			}
			data = append(data, update)
		}
		answer := map[string]any{"data": data}
		if more {
			c := strconv.FormatFloat(at, 'f', 6, 64) + "," + strconv.Itoa(number)
			if len(page) > 0 {
				c = cursor(all[min(w.page, len(all))-1])
			}
			q := r.URL.Query()
			q.Set("after", c)
			q.Set("n", strconv.Itoa(w.asked))
			q.Set("access_token", "app|secret")
			answer["paging"] = map[string]any{"next": "http://" + r.Host + r.URL.Path + "?" + q.Encode()}
		}
		return marshal(answer), 200
	})
}

func fakeTAT(w *world) http.Handler {
	token, fresh := "", false
	return w.serve(func(r *http.Request) (string, int) {
		if r.URL.Path == "/token-auth/tcap/" {
			if r.Method != http.MethodPost || r.PostFormValue("username") != "user" || r.PostFormValue("password") != "secret" {
				return "", http.StatusUnauthorized
			}
			token, fresh = fmt.Sprint("token", w.asked), true
			return marshal(map[string]any{"token": token, "user": map[string]any{}}), 200
		}
		if !fresh && w.rng.IntN(20) == 0 {
			token = "expired"
		}
		fresh = false
		if r.URL.Path != "/api/hash-list/v2/all" || r.Header.Get("Authorization") != "Bearer "+token {
			return "", http.StatusUnauthorized
		}
		at, number := parseCursor(r.URL.Query().Get("after"))
		all := after(w.seen(false), at, number)
		n := min(w.page, len(all))
		results := []any{}
		checkpoint := r.URL.Query().Get("after")
		for _, row := range all[:n] {
			results = append(results, map[string]any{"id": row.number, "algorithm": "MD5", "hash_digest": row.hash, "deleted": row.gone, "updated_on": seconds(row.at), "ideology": "all", "file_type": "mp4"})
			checkpoint = cursor(row)
		}
		var next any
		if n < len(all) {
			next = fmt.Sprintf("http://%s%s?limit=%d&offset=%d", r.Host, r.URL.Path, w.page, n)
		}
		return marshal(map[string]any{"count": len(all), "next": next, "previous": nil, "checkpoint": checkpoint, "results": results}), 200
	})
}

// house is a clearing house to follow.
type house struct {
	format      Format
	path        string
	credentials string
	keeps       time.Duration
	serve       func(*world) http.Handler
	// entry tells from a record which entry it is of, and the hash that it had then.
	entry func(lists.Record) (int, string)
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return n
}

var houses = []house{
	{NCMEC, "/env", "user:secret", 0, fakeNCMEC, func(r lists.Record) (int, string) {
		return number(strings.TrimSuffix(r.ID, "/e")), r.Hashes[0].String()
	}},
	{StopNCII, "/v1", "function,secret", 30 * 24 * time.Hour, fakeStopNCII, func(r lists.Record) (int, string) {
		n, err := strconv.ParseInt(r.Hashes[0].String(), 16, 64)
		if err != nil {
			panic(err)
		}
		return int(n), r.Labels[0]
	}},
	{ThreatExchange, "/v21.0/77", "app|secret", 90 * 24 * time.Hour, fakeThreatExchange, func(r lists.Record) (int, string) { return number(r.ID), r.Hashes[0].String() }},
	{TAT, "", "user:secret", 0, fakeTAT, func(r lists.Record) (int, string) { return number(r.ID), r.Hashes[0].String() }},
}

// follower keeps a list as it is told, and forgets everything else between updates.
type follower struct {
	open       func() Source
	source     string
	list       map[string]lists.Record
	checkpoint string
}

// follow returns a follower of a fake of the house.
func (h house) follow(t testing.TB, w *world, server string) *follower {
	t.Setenv(CredentialsVariable(h.format), h.credentials)
	return &follower{source: server + h.path, list: map[string]lists.Record{}, open: func() Source {
		s, err := Open(h.format, server+h.path, nil, Options{
			now: func() time.Time {
				w.mu.Lock()
				defer w.mu.Unlock()
				return w.now
			},
			wait: func(ctx context.Context, d time.Duration) error {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.now = w.now.Add(d)
				return ctx.Err()
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}}
}

// poll takes an update, or the first batches of one, after which the process dies.
func (f *follower) poll(ctx context.Context, batches int) error {
	var staged map[string]lists.Record
	checkpoint := f.checkpoint
	replace := false
	for b, err := range f.open()(ctx, f.checkpoint) {
		if err != nil {
			return err
		}
		if batches--; batches < 0 {
			return nil
		}
		if replace && checkpoint != f.checkpoint {
			return errors.New("a checkpoint inside an update that replaces the list")
		}
		replace = b.Replace
		if staged == nil {
			staged = f.list
			if replace {
				staged = map[string]lists.Record{}
			}
		}
		for _, r := range b.Put {
			staged[r.ID] = r
		}
		for _, id := range b.Delete {
			delete(staged, id)
		}
		if b.Checkpoint != "" {
			checkpoint = b.Checkpoint
			if !replace {
				f.checkpoint = checkpoint
			}
		}
	}
	if replace {
		f.list = staged
	}
	f.checkpoint = checkpoint
	return nil
}

func (f *follower) holds(entry func(lists.Record) (int, string)) map[int]string {
	out := map[int]string{}
	for r := range maps.Values(f.list) {
		n, hash := entry(r)
		out[n] = hash
	}
	return out
}

func serve(t testing.TB, h http.Handler) string {
	server := httptest.NewServer(h)
	server.Config.ErrorLog = nil
	t.Cleanup(server.Close)
	return server.URL
}
