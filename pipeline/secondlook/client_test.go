//go:build secondlook

package secondlook

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// server is a model server on loopback that answers as it is told to.
func server(t *testing.T, handle http.HandlerFunc) (*client, *httptest.Server) {
	t.Helper()
	s := httptest.NewServer(handle)
	t.Cleanup(s.Close)
	cfg := settings()
	cfg.URL = s.URL + "/look"
	l, err := Open(cfg, "the-token")
	if err != nil {
		t.Fatal(err)
	}
	c, ok := l.(*client)
	if !ok {
		t.Fatalf("%T", l)
	}
	return c, s
}

func answering(kind, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		_, _ = io.WriteString(w, body)
	}
}

func TestAModelServerIsAskedAndAnswers(t *testing.T) {
	risk := 0.95
	c, _ := server(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || string(body) != `{"case":"c-1","risk":0.95}` || r.Method != http.MethodPost || r.URL.Path != "/look" ||
			r.Header.Get("Authorization") != "Bearer the-token" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s %q %v", r.Method, r.URL, body, r.Header)
		}
		answering("application/json; charset=utf-8", `{"opinion":"lower","confidence":0.75}`)(w, r)
	})
	a, err := c.Look(t.Context(), Question{Case: "c-1", Risk: &risk})
	if err != nil || a != (Answer{Lower, 0.75}) {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestAnAnswerOutsideOfItsSchemaIsAnErrorThatQuotesNothing(t *testing.T) {
	const json = "application/json"
	for name, handle := range map[string]http.HandlerFunc{
		"status": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "zanzibar", http.StatusInternalServerError)
		},
		"no content":     func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
		"text":           answering("text/plain", `{"opinion":"keep","confidence":1}`),
		"no JSON":        answering(json, "zanzibar"),
		"empty":          answering(json, ""),
		"array":          answering(json, "[]"),
		"unknown member": answering(json, `{"opinion":"keep","confidence":1,"zanzibar":"x"}`),
		"repeated":       answering(json, `{"opinion":"keep","opinion":"raise","confidence":1}`),
		"no opinion":     answering(json, `{"confidence":1}`),
		"no confidence":  answering(json, `{"opinion":"keep"}`),
		"null":           answering(json, `{"opinion":null,"confidence":1}`),
		"other opinion":  answering(json, `{"opinion":"zanzibar","confidence":1}`),
		"too sure":       answering(json, `{"opinion":"keep","confidence":2}`),
		"more":           answering(json, `{"opinion":"keep","confidence":1} zanzibar`),
		"large":          answering(json, `{"opinion":"keep","confidence":1}`+strings.Repeat(" ", maxAnswer)),
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := server(t, handle)
			if a, err := c.Look(t.Context(), Question{}); err == nil || strings.Contains(err.Error(), "zanzibar") || strings.Contains(err.Error(), "the-token") {
				t.Errorf("%+v, %v", a, err)
			}
		})
	}
}

func TestNoRedirectIsFollowed(t *testing.T) {
	asked := 0
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ }))
	defer elsewhere.Close()
	c, _ := server(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
	})
	if _, err := c.Look(t.Context(), Question{}); err == nil || asked != 0 {
		t.Errorf("%v, asked %d times elsewhere", err, asked)
	}
}

func TestACertificateThatNobodyTrustsIsRefused(t *testing.T) {
	s := httptest.NewTLSServer(answering("application/json", `{"opinion":"keep","confidence":1}`))
	defer s.Close()
	s.Config.ErrorLog = nil
	cfg := settings()
	cfg.URL = s.URL
	l, err := Open(cfg, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Look(t.Context(), Question{}); err == nil {
		t.Error("taken")
	}
}

func TestAnAnswerThatIsLateIsAnError(t *testing.T) {
	release := make(chan struct{})
	c, s := server(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Look(ctx, Question{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	close(release)
	s.CloseClientConnections()
}

func TestAServerThatKeepsFailingIsLeftAlone(t *testing.T) {
	asked, healthy := 0, false
	c, _ := server(t, func(w http.ResponseWriter, r *http.Request) {
		if asked++; !healthy {
			http.Error(w, "", http.StatusServiceUnavailable)
			return
		}
		answering("application/json", `{"opinion":"keep","confidence":1}`)(w, r)
	})
	now := time.Unix(1770000000, 0)
	c.now = func() time.Time { return now }
	look := func() error {
		_, err := c.Look(t.Context(), Question{})
		return err
	}
	for range brokenAfter {
		if err := look(); err == nil || errors.Is(err, errOpen) {
			t.Fatal(err)
		}
	}
	if err := look(); !errors.Is(err, errOpen) || asked != brokenAfter {
		t.Errorf("%v, asked %d times", err, asked)
	}
	now = now.Add(pause)
	if err := look(); errors.Is(err, errOpen) || asked != brokenAfter+1 {
		t.Errorf("%v, asked %d times", err, asked)
	}
	if err := look(); !errors.Is(err, errOpen) {
		t.Errorf("one more failure did not start the next pause: %v", err)
	}
	now, healthy = now.Add(pause), true
	for range 2 {
		if err := look(); err != nil {
			t.Error(err)
		}
	}
}

func TestBadSettingsAreNotOpened(t *testing.T) {
	cfg := settings()
	cfg.URL = "http://10.0.0.1/"
	if _, err := Open(cfg, ""); err == nil {
		t.Error("taken")
	}
}
