package console

import (
	"net/http"

	"github.com/go-json-experiment/json"
)

// problem is an error as RFC 9457 wants it told. Its type is about:blank: the
// title is the status, and code tells programs apart what shares a status.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	Code   string `json:"code"`
}

func newProblem(status int, code, detail string) *problem {
	return &problem{"about:blank", http.StatusText(status), status, detail, code}
}

func (p *problem) write(w http.ResponseWriter) {
	retryLater(w, p)
	body, err := json.Marshal(p)
	if err != nil {
		panic(err) // strings and a number always encode
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_, _ = w.Write(body) //nolint:gosec // JSON, declared as such, and nosniff
}

func retryLater(w http.ResponseWriter, p *problem) {
	if p.Status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "5")
	}
}
