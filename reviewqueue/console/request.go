package console

import (
	"errors"
	"io"
	"net/http"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// maxBody is how large the body of a request may be, in bytes.
const maxBody = 64 << 10

// Bodies of the API. Fields that these do not know are ignored; duplicate
// names, wrong types and bad UTF-8 are refused. A pointer tells an absent field
// from an empty one.
type (
	claimRequest struct {
		Queue string `json:"queue"`
	}
	leaseRequest struct {
		LeaseToken string `json:"lease_token"`
	}
	revealRequest struct {
		LeaseToken string   `json:"lease_token"`
		Purpose    string   `json:"purpose"`
		Basis      string   `json:"basis"`
		Fields     []string `json:"fields"`
	}
	decisionRequest struct {
		LeaseToken string `json:"lease_token"`
		Decision   string `json:"decision"`
		Label      string `json:"label"`
		Note       string `json:"note"`
	}
)

// decode reads the body of a request into v, which an absent body leaves as it
// is. Its problems quote nothing of the body.
func decode(w http.ResponseWriter, r *http.Request, v any) *problem {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			return newProblem(http.StatusRequestEntityTooLarge, "body_too_large", "The body is larger than 64 KiB.")
		}
		return newProblem(http.StatusBadRequest, "body_unreadable", "The body ended early.")
	}
	return decodeBytes(data, v)
}

func decodeBytes(data []byte, v any) *problem {
	if len(data) == 0 {
		return nil
	}
	// The decoder takes a null for an absent value, also at the top.
	if jsontext.Value(data).Kind() != '{' {
		return newProblem(http.StatusBadRequest, "malformed", "The body is not a JSON object.")
	}
	err := json.Unmarshal(data, v)
	if err == nil {
		return nil
	}
	detail := "The body is not valid JSON: names must be unique and text must be UTF-8."
	if e, ok := errors.AsType[*json.SemanticError](err); ok {
		// It points at a field of ours: what clients made up is skipped.
		detail = "The field " + string(e.JSONPointer) + " of the body has the wrong type."
	}
	return newProblem(http.StatusBadRequest, "malformed", detail)
}
