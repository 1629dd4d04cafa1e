package console

import (
	"context"
	"embed"
	"errors"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/dmguard/dmguard/reviewqueue"
	"github.com/dmguard/dmguard/reviewqueue/access"
)

//go:embed openapi.yaml
var openAPI []byte

//go:embed static
var static embed.FS

// Config is what the console needs. Ready, Metrics and TLS may be left
// out.
type Config struct {
	Queue    *reviewqueue.Queue
	Tokens   *access.Tokens
	Invites  *access.Invites
	Sessions *access.Sessions
	Logger   *zap.Logger

	// Ready reports what keeps the service from working, nil where nothing does.
	Ready func(context.Context) error

	// Metrics is served at /metrics. Production serves it on a listener of its
	// own and leaves this nil.
	Metrics http.Handler

	// TLS says that browsers reach the console over TLS, here or at a proxy.
	// Cookies are then Secure and bound to the host.
	TLS bool
}

// server answers the routes of [New].
type server struct {
	Config
	queue  queue
	routes []route
	origin *http.CrossOriginProtection
	held   held
}

// queue is [reviewqueue.Queue]; tests implement it a second time, to break it.
type queue interface {
	Claim(ctx context.Context, r access.Reviewer, queue, requestID string) (*reviewqueue.Lease, error)
	Heartbeat(ctx context.Context, r access.Reviewer, caseID, token string) (time.Time, error)
	Release(ctx context.Context, r access.Reviewer, caseID, token string) error
	Decide(ctx context.Context, r access.Reviewer, caseID, token string, d reviewqueue.Decision) error
	Reveal(ctx context.Context, r access.Reviewer, caseID, token string, req reviewqueue.Request) (map[string]any, error)
	Case(ctx context.Context, r access.Reviewer, caseID string) (*reviewqueue.Case, error)
	List(ctx context.Context, r access.Reviewer, f reviewqueue.Filter, limit int) ([]*reviewqueue.Case, error)
	Stats(ctx context.Context, r access.Reviewer) (reviewqueue.Stats, error)
	Labels() []string
}

// admission is who a route is for.
type admission int

const (
	everyone admission = iota // needs nobody to be known
	api                       // needs a bearer token or a session; else 401
	page                      // needs a session; else the sign-in page
)

type route struct {
	method, path string
	admission    admission
	handle       func(http.ResponseWriter, *http.Request, caller)
}

// caller is who sent a request.
type caller struct {
	reviewer access.Reviewer
	session  string // "" for a bearer token
}

// New returns the handler of the API, the console's pages and the probes.
func New(cfg Config) http.Handler { return newServer(cfg, cfg.Queue).mux() }

func newServer(cfg Config, q queue) *server {
	s := &server{Config: cfg, queue: q, origin: http.NewCrossOriginProtection()}
	s.routes = []route{
		{http.MethodGet, "/healthz", everyone, s.healthz},
		{http.MethodGet, "/readyz", everyone, s.readyz},

		{http.MethodPost, "/api/v1/claims", api, s.claim},
		{http.MethodPost, "/api/v1/cases/{id}/heartbeat", api, s.heartbeat},
		{http.MethodPost, "/api/v1/cases/{id}/release", api, s.release},
		{http.MethodPost, "/api/v1/cases/{id}/reveal", api, s.reveal},
		{http.MethodPost, "/api/v1/cases/{id}/decision", api, s.decide},
		{http.MethodGet, "/api/v1/stats", api, s.stats},
		{http.MethodGet, "/api/v1/openapi.yaml", api, s.openAPI},

		{http.MethodGet, "/signin", everyone, s.signInPage},
		{http.MethodPost, "/signin", everyone, s.signIn},
		{http.MethodPost, "/signout", page, s.signOut},
		{http.MethodGet, "/{$}", page, s.casesPage},
		{http.MethodPost, "/claim", page, s.claimForm},
		{http.MethodGet, "/cases/{id}", page, s.casePage},
		{http.MethodPost, "/cases/{id}/reveal", page, s.revealForm},
		{http.MethodPost, "/cases/{id}/decision", page, s.decideForm},
		{http.MethodPost, "/cases/{id}/keep", page, s.keepForm},
		{http.MethodPost, "/cases/{id}/release", page, s.releaseForm},
		{http.MethodGet, "/static/{name}", everyone, s.staticFile},
	}
	if s.Metrics != nil {
		s.routes = append(s.routes, route{http.MethodGet, "/metrics", everyone, func(w http.ResponseWriter, r *http.Request, _ caller) {
			s.Metrics.ServeHTTP(w, r)
		}})
	}
	return s
}

func (s *server) mux() *http.ServeMux {
	mux := http.NewServeMux()
	methods := map[string][]string{}
	for _, rt := range s.routes {
		mux.Handle(rt.method+" "+rt.path, s.wrap(rt))
		methods[rt.path] = append(methods[rt.path], rt.method)
		if rt.method == http.MethodGet {
			methods[rt.path] = append(methods[rt.path], http.MethodHead)
		}
	}
	for path, allowed := range methods {
		slices.Sort(allowed)
		mux.Handle(path, s.wrap(route{path: path, admission: s.admissionOf(path), handle: s.methodNotAllowed(strings.Join(allowed, ", "))}))
	}
	mux.Handle("/api/", s.wrap(route{path: "/api/", admission: api, handle: s.notFound}))
	mux.Handle("/", s.wrap(route{path: "/", admission: everyone, handle: s.notFound}))
	return mux
}

func (s *server) admissionOf(path string) admission {
	if isAPI(path) {
		return api
	}
	return everyone
}

func isAPI(path string) bool { return path == "/api" || strings.HasPrefix(path, "/api/") }

// wrap does for a route what every route needs: headers, the caller, the origin
// of what browsers send, panics and one line in the log.
func (s *server) wrap(rt route) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		start := time.Now()
		w := &recorder{ResponseWriter: rw}
		var who caller
		defer func() {
			if v := recover(); v != nil {
				if v == http.ErrAbortHandler { //nolint:errorlint // net/http compares it so
					panic(v)
				}
				// The value may quote a message; where it happened does not.
				s.Logger.Error("panic while answering a request", zap.String("route", rt.path), zap.ByteString("stack", debug.Stack()))
				if w.status == 0 {
					s.fail(w, r, newProblem(http.StatusInternalServerError, "internal", ""))
				}
			}
			level := zap.InfoLevel
			if rt.admission == everyone && w.status < http.StatusBadRequest {
				level = zap.DebugLevel // probes and style sheets
			}
			s.Logger.Log(level, "request",
				zap.String("method", loggedMethod(r.Method)), zap.String("route", rt.path), zap.Int("status", w.status),
				zap.Int64("ms", time.Since(start).Milliseconds()), zap.String("reviewer", who.reviewer.ID))
		}()
		secure(w.Header(), s.TLS)
		if p := s.checkOrigin(r); p != nil {
			s.fail(w, r, p)
			return
		}
		if rt.admission != everyone {
			var p *problem
			if who, p = s.caller(r, rt.admission); p != nil {
				switch {
				case p.Status != http.StatusUnauthorized:
					s.fail(w, r, p)
				case rt.admission == page:
					http.Redirect(w, r, "/signin", http.StatusSeeOther)
				default:
					w.Header().Set("WWW-Authenticate", `Bearer realm="dmguard"`)
					p.write(w)
				}
				return
			}
		}
		rt.handle(w, r, who)
	})
}

// recorder remembers the status of a response.
type recorder struct {
	http.ResponseWriter
	status int
}

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets [http.ResponseController] reach what the server gave.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// loggedMethod keeps what a client made up out of the log.
func loggedMethod(m string) string {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return m
	}
	return "other"
}

// contentSecurityPolicy lets a page load its own script, style and pictures
// from memory, and nothing else. No code makes HTML from strings.
const contentSecurityPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

func secure(h http.Header, tls bool) {
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", contentSecurityPolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), microphone=(), geolocation=(), clipboard-read=()")
	if tls {
		h.Set("Strict-Transport-Security", "max-age=63072000; includeSubDomains")
	}
}

// checkOrigin refuses what another site made a browser send.
func (s *server) checkOrigin(r *http.Request) *problem {
	if s.origin.Check(r) != nil {
		return newProblem(http.StatusForbidden, "cross_origin", "This request came from another site.")
	}
	return nil
}

// caller finds out who sent a request. A bearer token that is wrong is not made
// good by a session beside it.
func (s *server) caller(r *http.Request, a admission) (caller, *problem) {
	if auth, ok := r.Header["Authorization"]; ok && a == api {
		if len(auth) == 1 {
			scheme, token, _ := strings.Cut(auth[0], " ")
			if strings.EqualFold(scheme, "Bearer") {
				if reviewer, ok := s.Tokens.Reviewer(strings.TrimSpace(token)); ok {
					return caller{reviewer: reviewer}, nil
				}
			}
		}
		return caller{}, newProblem(http.StatusUnauthorized, "unauthenticated", "The bearer token is not known.")
	}
	unknown := newProblem(http.StatusUnauthorized, "unauthenticated", "Send a bearer token, or sign in to the console.")
	cookie, err := r.Cookie(s.cookieName())
	if err != nil {
		return caller{}, unknown
	}
	id, ok := s.Sessions.ReviewerID(cookie.Value)
	if !ok {
		return caller{}, unknown
	}
	// The roles are today's, not those of the time of signing in.
	reviewer, ok := s.Tokens.ReviewerByID(id)
	if !ok {
		s.Sessions.RevokeReviewer(id)
		return caller{}, unknown
	}
	// A browser says where a request comes from. What carries a cookie and does
	// not say is not a browser that protects it.
	if r.Method != http.MethodGet && r.Method != http.MethodHead && r.Header.Get("Sec-Fetch-Site") == "" && r.Header.Get("Origin") == "" {
		return caller{}, newProblem(http.StatusForbidden, "cross_origin", "A request with a session must say its origin.")
	}
	return caller{reviewer, cookie.Value}, nil
}

// fail answers with a problem, to programs as such and to people as a page.
func (s *server) fail(w http.ResponseWriter, r *http.Request, p *problem) {
	if isAPI(r.URL.Path) {
		p.write(w)
		return
	}
	s.errorPage(w, p)
}

func (s *server) notFound(w http.ResponseWriter, r *http.Request, _ caller) {
	s.fail(w, r, newProblem(http.StatusNotFound, "not_found", "There is nothing at this address."))
}

func (s *server) methodNotAllowed(allow string) func(http.ResponseWriter, *http.Request, caller) {
	return func(w http.ResponseWriter, r *http.Request, _ caller) {
		w.Header().Set("Allow", allow)
		s.fail(w, r, newProblem(http.StatusMethodNotAllowed, "method_not_allowed", "This address takes "+allow+"."))
	}
}

func (s *server) healthz(w http.ResponseWriter, _ *http.Request, _ caller) {
	plain(w, http.StatusOK, "ok\n")
}

// readyz says only whether: why not is in the log, for it may name hosts.
func (s *server) readyz(w http.ResponseWriter, r *http.Request, _ caller) {
	if s.Ready != nil {
		if err := s.Ready(r.Context()); err != nil && !errors.Is(err, context.Canceled) {
			s.Logger.Debug("not ready", zap.Error(err))
			plain(w, http.StatusServiceUnavailable, "not ready\n")
			return
		}
	}
	plain(w, http.StatusOK, "ready\n")
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text)) // the client is gone: nobody to tell
}

func (s *server) openAPI(w http.ResponseWriter, _ *http.Request, _ caller) {
	w.Header().Set("Content-Type", "application/yaml")
	_, _ = w.Write(openAPI) // the client is gone: nobody to tell
}

// staticFiles are all that /static/ serves.
var staticFiles = map[string]string{
	"console.css": "text/css; charset=utf-8",
	"console.js":  "text/javascript; charset=utf-8",
	"icon.svg":    "image/svg+xml",
}

func (s *server) staticFile(w http.ResponseWriter, r *http.Request, who caller) {
	name := r.PathValue("name")
	contentType, ok := staticFiles[name]
	if !ok {
		s.notFound(w, r, who)
		return
	}
	data, err := static.ReadFile("static/" + name)
	if err != nil {
		panic(err) // it is compiled in
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-cache")
	_, _ = w.Write(data) //nolint:gosec // one of staticFiles, compiled in
}
