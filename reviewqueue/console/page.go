package console

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/reviewqueue"
	"github.com/dmguard/dmguard/reviewqueue/access"
)

// revealSeconds is how long content stays on a page.
const revealSeconds = 30

// listed is how many cases of each state the first page shows.
const listed = 100

//go:embed templates
var templateFiles embed.FS

var templates = func() map[string]*template.Template {
	layout := template.Must(template.New("layout.html").Funcs(template.FuncMap{
		"stamp":   stamp,
		"age":     age,
		"percent": func(f float64) int { return int(f*100 + 0.5) },
		"plain":   func(s string) string { return strings.ReplaceAll(s, "_", " ") },
	}).ParseFS(templateFiles, "templates/layout.html"))
	all := map[string]*template.Template{}
	for _, name := range []string{"signin", "cases", "case", "error"} {
		all[name] = template.Must(template.Must(layout.Clone()).ParseFS(templateFiles, "templates/"+name+".html"))
	}
	return all
}()

// view is what every page knows.
type view struct {
	Title    string
	Reviewer string // "" where nobody is signed in
	Notice   string
	Body     any
}

func render(w http.ResponseWriter, status int, name string, v view) {
	var page bytes.Buffer
	if err := templates[name].Execute(&page, v); err != nil {
		panic(err) // the templates are compiled in and every page is tested
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(page.Bytes()) // the client is gone: nobody to tell
}

// held remembers which leases a session took, so that a page can be loaded
// again. It is safe for concurrent use.
type held struct {
	mu     sync.Mutex
	leases map[[sha256.Size]byte]heldLease // guarded by mu; by session and case
}

type heldLease struct {
	token string
	since time.Time
}

func heldKey(session, caseID string) [sha256.Size]byte {
	return sha256.Sum256([]byte(session + "\x00" + caseID))
}

func (h *held) put(session, caseID, token string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.leases == nil {
		h.leases = map[[sha256.Size]byte]heldLease{}
	}
	for key, l := range h.leases {
		if time.Since(l.since) > access.SessionAbsolute {
			delete(h.leases, key)
		}
	}
	h.leases[heldKey(session, caseID)] = heldLease{token, time.Now()}
}

func (h *held) token(session, caseID string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.leases[heldKey(session, caseID)].token
}

func (h *held) drop(session, caseID string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.leases, heldKey(session, caseID))
}

// form reads a posted form; what stands in the address does not count.
func form(w http.ResponseWriter, r *http.Request) *problem {
	if mt, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mt != "application/x-www-form-urlencoded" {
		return newProblem(http.StatusUnsupportedMediaType, "form", "This address takes a form.")
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	if err := r.ParseForm(); err != nil {
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			return newProblem(http.StatusRequestEntityTooLarge, "body_too_large", "The form is larger than 64 KiB.")
		}
		return newProblem(http.StatusBadRequest, "form", "The form could not be read.")
	}
	return nil
}

func (s *server) cookieName() string {
	if s.TLS {
		return "__Host-dmguard_session"
	}
	return "dmguard_session"
}

func (s *server) setCookie(w http.ResponseWriter, value string) {
	//nolint:gosec // Secure wherever there is TLS; loopback has none
	c := &http.Cookie{Name: s.cookieName(), Value: value, Path: "/", HttpOnly: true, Secure: s.TLS, SameSite: http.SameSiteStrictMode}
	if value == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

type signInBody struct{ Link string }

// signInPage uses no link up: programs that look at addresses before people do
// would take it from them.
func (s *server) signInPage(w http.ResponseWriter, r *http.Request, _ caller) {
	link := r.URL.Query().Get("t")
	if link != "" && !s.Invites.Open(link) {
		s.errorPage(w, linkGone)
		return
	}
	render(w, http.StatusOK, "signin", view{Title: "Sign in", Body: signInBody{link}})
}

var linkGone = newProblem(http.StatusGone, "link_gone", "This sign-in link was used before, or its time is over.")

func (s *server) signIn(w http.ResponseWriter, r *http.Request, _ caller) {
	if p := form(w, r); p != nil {
		s.errorPage(w, p)
		return
	}
	var id string
	if link := r.PostForm.Get("t"); link != "" {
		var ok bool
		if id, ok = s.Invites.Redeem(link); !ok {
			s.errorPage(w, linkGone)
			return
		}
	} else if reviewer, ok := s.Tokens.Reviewer(strings.TrimSpace(r.PostForm.Get("token"))); ok {
		id = reviewer.ID
	}
	if _, known := s.Tokens.ReviewerByID(id); !known {
		render(w, http.StatusForbidden, "signin", view{Title: "Sign in", Notice: "That token is not known.", Body: signInBody{}})
		return
	}
	if old, err := r.Cookie(s.cookieName()); err == nil {
		s.Sessions.Revoke(old.Value)
	}
	s.setCookie(w, s.Sessions.New(id))
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func (s *server) signOut(w http.ResponseWriter, r *http.Request, who caller) {
	s.Sessions.Revoke(who.session)
	s.setCookie(w, "")
	http.Redirect(w, r, "/signin", http.StatusSeeOther)
}

type casesBody struct {
	Stats    *reviewqueue.Stats // nil where the reviewer may not count
	Oldest   string
	Cases    bool // the reviewer works cases
	Mine     []row
	Waiting  []row
	Others   []row
	Decided  []row
	Dead     []row
	More     bool // not all that wait are listed
	Queues   []string
	ClaimKey string
}

type row struct {
	*reviewqueue.Case
	Age     string
	Due     string
	Overdue bool
}

// notices are what a page can be told to say at its top.
var notices = map[string]string{
	"confirm":  "Decided: confirmed.",
	"dismiss":  "Decided: dismissed.",
	"escalate": "Decided: escalated.",
	"released": "Given back to the queue.",
	"empty":    "Nothing waits. Well done; take a breath.",
	"lost":     "You no longer held that case: its lease ran out or it was decided.",
	"kept":     "The lease was extended.",
}

func (s *server) casesPage(w http.ResponseWriter, r *http.Request, who caller) {
	body := casesBody{Queues: reviewqueue.Queues(), ClaimKey: access.NewSecret()}
	now := time.Now()
	if access.Allow(who.reviewer, access.Count) == nil {
		stats, err := s.queue.Stats(r.Context(), who.reviewer)
		if err != nil {
			s.failed(w, r, err)
			return
		}
		body.Stats, body.Oldest = &stats, age(time.Duration(stats.OldestSeconds)*time.Second)
	}
	if access.Allow(who.reviewer, access.Claim) == nil {
		body.Cases = true
		for _, state := range reviewqueue.States() {
			cases, err := s.queue.List(r.Context(), who.reviewer, reviewqueue.Filter{State: state}, listed)
			if err != nil {
				s.failed(w, r, err)
				return
			}
			for _, c := range cases {
				one := row{Case: c, Age: age(now.Sub(c.OpenedAt)), Due: due(c.Deadline.Sub(now)), Overdue: now.After(c.Deadline)}
				switch {
				case state == reviewqueue.Leased && s.held.token(who.session, c.ID) != "":
					body.Mine = append(body.Mine, one)
				case state == reviewqueue.Leased:
					body.Others = append(body.Others, one)
				case state == reviewqueue.Pending:
					body.Waiting = append(body.Waiting, one)
				case state == reviewqueue.Dead:
					body.Dead = append(body.Dead, one)
				default:
					body.Decided = append(body.Decided, one)
				}
			}
		}
		body.More = len(body.Waiting) == listed
		body.Decided = body.Decided[:min(len(body.Decided), 20)]
	}
	render(w, http.StatusOK, "cases", view{Title: "Cases", Reviewer: who.reviewer.ID, Notice: notices[r.URL.Query().Get("said")], Body: body})
}

func (s *server) claimForm(w http.ResponseWriter, r *http.Request, who caller) {
	if p := form(w, r); p != nil {
		s.errorPage(w, p)
		return
	}
	// The key makes a form that is sent twice take one case.
	key := r.PostForm.Get("key")
	if len(key) > maxKeyLength {
		key = ""
	}
	lease, err := s.queue.Claim(r.Context(), who.reviewer, r.PostForm.Get("queue"), key)
	switch {
	case errors.Is(err, reviewqueue.ErrEmpty):
		http.Redirect(w, r, "/?said=empty", http.StatusSeeOther)
	case err != nil:
		s.failed(w, r, err)
	default:
		s.held.put(who.session, lease.Case.ID, lease.Token)
		http.Redirect(w, r, "/cases/"+lease.Case.ID, http.StatusSeeOther) //nolint:gosec // a path of ours
	}
}

type caseBody struct {
	*reviewqueue.Case
	Age, Due     string
	Overdue      bool
	LeaseToken   string // "" where this session does not hold the case
	LeaseSeconds int
	LeaseLeft    string
	Events       []event
	Purposes     []access.Purpose
	Purpose      access.Purpose // chosen
	Basis        string
	Bases        []string // that the reviewer can pick from
	MayDecide    bool
	LabelChoices []string
	Choices      []reviewqueue.Choice
	Shown        map[string][]shown // what was revealed, by field, without JavaScript
	Problem      string
	HideAfter    int
}

// event is one message of the timeline, ready to be drawn.
type event struct {
	reviewqueue.Event
	Gap      string // since the message before
	Bars     []bar  // masked spans
	Field    string // that reveals its text
	Findings []pipeline.Finding
}

// bar is a masked span, in thousandths of the length of the text.
type bar struct{ X, Width int }

// shown is one piece of revealed text.
type shown struct {
	Head, Text string
}

func (s *server) casePage(w http.ResponseWriter, r *http.Request, who caller) {
	s.showCase(w, r, who, caseBody{}, http.StatusOK)
}

// showCase renders a case, with what body already holds.
func (s *server) showCase(w http.ResponseWriter, r *http.Request, who caller, body caseBody, status int) {
	c, err := s.queue.Case(r.Context(), who.reviewer, r.PathValue("id"))
	if err != nil {
		s.failed(w, r, err)
		return
	}
	now := time.Now()
	body.Case, body.HideAfter = c, revealSeconds
	body.Age, body.Due, body.Overdue = age(now.Sub(c.OpenedAt)), due(c.Deadline.Sub(now)), now.After(c.Deadline)
	if c.State == reviewqueue.Leased && c.LeaseExpiresAt != nil && now.Before(*c.LeaseExpiresAt) {
		body.LeaseToken = s.held.token(who.session, c.ID)
		left := c.LeaseExpiresAt.Sub(now)
		body.LeaseSeconds, body.LeaseLeft = int(left.Seconds()), age(left)
	}
	for _, p := range access.Purposes() {
		if access.Allow(who.reviewer, access.Reveal(p)) == nil {
			body.Purposes = append(body.Purposes, p)
		}
	}
	body.MayDecide = access.Allow(who.reviewer, access.Decide) == nil
	body.LabelChoices, body.Choices = s.queue.Labels(), reviewqueue.Choices()
	body.Bases = []string{c.ID}
	var before time.Time
	for _, e := range c.Timeline {
		one := event{Event: e, Field: "text:" + e.MessageID, Bars: bars(e), Findings: e.Findings}
		if !before.IsZero() {
			one.Gap = age(e.SentAt.Sub(before))
		}
		before = e.SentAt
		body.Events = append(body.Events, one)
		for _, id := range e.UserReports {
			if !slices.Contains(body.Bases, id) {
				body.Bases = append(body.Bases, id)
			}
		}
	}
	render(w, status, "case", view{Title: "Case " + c.ID, Reviewer: who.reviewer.ID, Notice: notices[r.URL.Query().Get("said")], Body: body})
}

// bars are the spans of the findings that lie in the message itself.
func bars(e reviewqueue.Event) []bar {
	if e.TextBytes <= 0 {
		return nil
	}
	var all []bar
	for _, f := range e.Findings {
		if f.MessageID != "" && f.MessageID != e.MessageID {
			continue
		}
		for _, span := range f.Spans {
			from, to := max(0, min(span.Start, e.TextBytes)), max(0, min(span.End, e.TextBytes))
			if from < to {
				x := from * 1000 / e.TextBytes
				all = append(all, bar{x, max(8, to*1000/e.TextBytes-x)})
			}
		}
	}
	return all
}

func (s *server) revealForm(w http.ResponseWriter, r *http.Request, who caller) {
	if p := form(w, r); p != nil {
		s.errorPage(w, p)
		return
	}
	req := revealRequest{
		LeaseToken: r.PostForm.Get("lease_token"), Purpose: r.PostForm.Get("purpose"), Basis: strings.TrimSpace(r.PostForm.Get("basis")),
		Fields: []string{r.PostForm.Get("field")}, // one at a time, whatever was sent
	}
	body := caseBody{Purpose: access.Purpose(req.Purpose), Basis: req.Basis}
	fields, p := s.doReveal(r, who, req)
	if p != nil {
		if p.Status == http.StatusConflict {
			s.lost(w, r, who)
			return
		}
		if p.Status == http.StatusNotFound {
			s.errorPage(w, p)
			return
		}
		body.Problem = p.Detail
		s.showCase(w, r, who, body, p.Status)
		return
	}
	body.Shown = map[string][]shown{}
	for name, value := range fields {
		body.Shown[name] = present(value)
	}
	// Without a script, this is what hides it again.
	w.Header().Set("Refresh", strconv.Itoa(revealSeconds)+";url=/cases/"+r.PathValue("id"))
	s.showCase(w, r, who, body, http.StatusOK)
}

// present makes text of what was revealed.
func present(value any) []shown {
	switch v := value.(type) {
	case nil:
		return []shown{{Text: "There is nothing here: it was not kept."}}
	case string:
		return []shown{{Text: visible(v)}}
	case []reviewqueue.ContextMessage:
		all := make([]shown, 0, len(v))
		for _, m := range v {
			all = append(all, shown{m.Sender + " · " + stamp(m.SentAt), visible(m.Text)})
		}
		return all
	}
	return []shown{{Text: "Pictures are shown by the page's script, which is not running."}}
}

// visible writes characters that hide, or turn the text around them, as their
// number.
func visible(s string) string {
	var b strings.Builder
	for _, c := range s {
		if c == '\n' || c == '\t' || (!unicode.Is(unicode.C, c) && !unicode.Is(unicode.Zl, c) && !unicode.Is(unicode.Zp, c)) {
			b.WriteRune(c)
			continue
		}
		fmt.Fprintf(&b, "⟨U+%04X⟩", c)
	}
	return b.String()
}

func (s *server) decideForm(w http.ResponseWriter, r *http.Request, who caller) {
	if p := form(w, r); p != nil {
		s.errorPage(w, p)
		return
	}
	choice, p := s.doDecide(r, who, decisionRequest{
		LeaseToken: r.PostForm.Get("lease_token"), Decision: r.PostForm.Get("decision"),
		Label: r.PostForm.Get("label"), Note: strings.TrimSpace(r.PostForm.Get("note")),
	})
	switch {
	case p == nil:
		s.held.drop(who.session, r.PathValue("id"))
		http.Redirect(w, r, "/?said="+string(choice), http.StatusSeeOther) //nolint:gosec // a path of ours
	case p.Status == http.StatusConflict:
		s.lost(w, r, who)
	case p.Status == http.StatusUnprocessableEntity:
		s.showCase(w, r, who, caseBody{Problem: p.Detail}, p.Status)
	default:
		s.errorPage(w, p)
	}
}

func (s *server) keepForm(w http.ResponseWriter, r *http.Request, who caller) {
	if p := form(w, r); p != nil {
		s.errorPage(w, p)
		return
	}
	_, err := s.queue.Heartbeat(r.Context(), who.reviewer, r.PathValue("id"), r.PostForm.Get("lease_token"))
	switch {
	case errors.Is(err, reviewqueue.ErrLeaseLost):
		s.lost(w, r, who)
	case err != nil:
		s.failed(w, r, err)
	default:
		http.Redirect(w, r, "/cases/"+r.PathValue("id")+"?said=kept", http.StatusSeeOther) //nolint:gosec // a path of ours
	}
}

func (s *server) releaseForm(w http.ResponseWriter, r *http.Request, who caller) {
	if p := form(w, r); p != nil {
		s.errorPage(w, p)
		return
	}
	err := s.queue.Release(r.Context(), who.reviewer, r.PathValue("id"), r.PostForm.Get("lease_token"))
	switch {
	case errors.Is(err, reviewqueue.ErrLeaseLost):
		s.lost(w, r, who)
	case err != nil:
		s.failed(w, r, err)
	default:
		s.held.drop(who.session, r.PathValue("id"))
		http.Redirect(w, r, "/?said=released", http.StatusSeeOther)
	}
}

// lost tells a reviewer that the case is no longer theirs.
func (s *server) lost(w http.ResponseWriter, r *http.Request, who caller) {
	s.held.drop(who.session, r.PathValue("id"))
	http.Redirect(w, r, "/?said=lost", http.StatusSeeOther)
}

type errorBody struct {
	Status               int
	Heading, Detail, Way string
}

// errorPage is a problem for people.
func (s *server) errorPage(w http.ResponseWriter, p *problem) {
	retryLater(w, p)
	body := errorBody{p.Status, p.Title, p.Detail, "Go back to the cases."}
	switch p.Status {
	case http.StatusNotFound:
		body.Heading = "Nothing here"
	case http.StatusGone:
		body.Heading = "This link is used up"
		body.Way = "Ask whoever runs the service for a new link, or sign in with your token."
	case http.StatusForbidden:
		body.Heading = "Not allowed"
	case http.StatusServiceUnavailable:
		body.Heading = "Out of reach for a moment"
		body.Way = "Nothing is lost. Load the page again in a few seconds."
	case http.StatusInternalServerError:
		body.Heading = "Something broke"
		body.Detail = "The fault was logged, without anything of a message."
	}
	render(w, p.Status, "error", view{Title: body.Heading, Body: body})
}

// stamp is a time as pages show it.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") + " UTC" }

// age is a duration in its two largest units.
func age(d time.Duration) string {
	d = max(0, d)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 24*time.Hour:
		return two(int(d.Hours()), "h", int(d.Minutes())%60, "min")
	case d < 365*24*time.Hour:
		return two(int(d.Hours())/24, "d", int(d.Hours())%24, "h")
	default:
		return fmt.Sprintf("%d years", int(d.Hours())/24/365)
	}
}

func two(n int, unit string, rest int, smaller string) string {
	if rest == 0 {
		return fmt.Sprintf("%d %s", n, unit)
	}
	return fmt.Sprintf("%d %s %d %s", n, unit, rest, smaller)
}

// due says how far off a deadline is.
func due(d time.Duration) string {
	if d < 0 {
		return "overdue by " + age(-d)
	}
	return "in " + age(d)
}
