package pipeline

import "errors"

// Permanent marks err as one that the same input will always cause: the record
// goes to the dead letters. Every other error is taken for an outage: work
// stops, is retried with backoff, and nothing is committed meanwhile.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

// IsPermanent reports whether err was marked by [Permanent].
func IsPermanent(err error) bool {
	_, ok := errors.AsType[*permanentError](err)
	return ok
}

type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }
