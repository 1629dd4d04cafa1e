package evidence

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dmguard/dmguard/pipeline"
)

// pair makes a key pair and opens both halves.
func pair(t testing.TB) (*Sealer, *Opener, string) {
	t.Helper()
	dir := t.TempDir()
	public, private := filepath.Join(dir, "public.json"), filepath.Join(dir, "private.json")
	if _, err := NewKeyPair(public, private); err != nil {
		t.Fatal(err)
	}
	s, err := OpenSealer(public)
	if err != nil {
		t.Fatal(err)
	}
	o, err := OpenKeys(private)
	if err != nil {
		t.Fatal(err)
	}
	return s, o, private
}

func TestWhatWasSealedOpensForItsCaseAndMessageOnly(t *testing.T) {
	s, o, _ := pair(t)
	want := &pipeline.Evidence{
		Text: "asks about age", SenderID: "u-1",
		Context:     []pipeline.ContextMessage{{MessageID: "m-0", Text: "hello", Named: true}},
		Attachments: []pipeline.EvidenceAttachment{{ID: "a-1", MediaType: "image/png", Data: []byte{1, 2, 3}}},
	}
	sealed, err := s.Seal(want, "c-1", "m-1")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed.Sealed, []byte("asks")) || sealed.KeyID != s.KeyID() {
		t.Fatal("it is not sealed")
	}
	got, err := o.Open(sealed, "c-1", "m-1")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, to := range [][2]string{{"c-2", "m-1"}, {"c-1", "m-2"}, {"c-1m", "-1"}, {"", ""}} {
		if _, err := o.Open(sealed, to[0], to[1]); !errors.Is(err, ErrTampered) {
			t.Errorf("it opens as %v: %v", to, err)
		}
	}
	again, err := s.Seal(want, "c-1", "m-1")
	if err != nil || bytes.Equal(again.Sealed, sealed.Sealed) {
		t.Errorf("sealing is not randomised: %v", err)
	}
}

func TestNoBitCanBeChanged(t *testing.T) {
	s, o, _ := pair(t)
	sealed, err := s.SealBytes([]byte("content"), []byte("context"))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(sealed.Sealed); i += 7 {
		changed := sealed
		changed.Sealed = bytes.Clone(sealed.Sealed)
		changed.Sealed[i] ^= 1
		if _, err := o.OpenBytes(changed, []byte("context")); !errors.Is(err, ErrTampered) {
			t.Fatalf("byte %d: %v", i, err)
		}
	}
	for _, n := range []int{0, 1, encapsulated, overhead - 1, len(sealed.Sealed) - 1} {
		changed := sealed
		changed.Sealed = sealed.Sealed[:n]
		if _, err := o.OpenBytes(changed, []byte("context")); !errors.Is(err, ErrTampered) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
}

func TestKeysRotateWithSeveralLive(t *testing.T) {
	s1, o1, private1 := pair(t)
	s2, _, private2 := pair(t)
	both, err := OpenKeys(private1, private2)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Sealer{s1, s2} {
		sealed, err := s.SealBytes([]byte("content"), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := both.OpenBytes(sealed, nil); err != nil || string(got) != "content" {
			t.Error(err)
		}
	}
	sealed, _ := s2.SealBytes([]byte("content"), nil)
	if _, err := o1.OpenBytes(sealed, nil); !errors.Is(err, ErrUnknownKey) || !strings.Contains(err.Error(), s2.KeyID()) {
		t.Errorf("an unknown key: %v", err)
	}
	sealed.KeyID = s1.KeyID()
	if _, err := both.OpenBytes(sealed, nil); !errors.Is(err, ErrTampered) {
		t.Errorf("another key's id: %v", err)
	}
}

func TestKeyFilesAreGuarded(t *testing.T) {
	dir := t.TempDir()
	public, private := filepath.Join(dir, "public.json"), filepath.Join(dir, "private.json")
	if _, err := NewKeyPair(public, private); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(private); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the private file: %v, %v", info.Mode(), err)
	}
	text, err := os.ReadFile(public)
	if err != nil || bytes.Contains(text, []byte("private")) {
		t.Errorf("the public file holds the private key: %v", err)
	}
	if _, err := NewKeyPair(filepath.Join(dir, "other"), private); err == nil {
		t.Error("a private key was replaced")
	}
	if _, err := NewKeyPair(public, filepath.Join(dir, "other-private")); err == nil {
		t.Error("a public key was replaced")
	}
	if _, err := os.Stat(filepath.Join(dir, "other-private")); !os.IsNotExist(err) {
		t.Error("half a pair is left")
	}
	if _, err := OpenSealer(private); err == nil {
		t.Error("a scanner takes the private file")
	}
	if _, err := OpenKeys(public); err == nil {
		t.Error("the review service takes the public file")
	}
	if _, err := OpenKeys(private, private); err == nil {
		t.Error("one key twice")
	}
	if _, err := OpenKeys(); err == nil {
		t.Error("no key")
	}
	if err := os.Chmod(private, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenKeys(private); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a private key that others can read: %v", err)
	}
	for _, bad := range []string{"", "{", "{}", `{"kid":"a","alg":"rot13","public":""}`, strings.Replace(string(text), `"kid"`, `"x":1,"kid"`, 1), strings.Replace(string(text), `"public":"`, `"public":"AAAA`, 1)} {
		path := filepath.Join(dir, "bad")
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenSealer(path); err == nil {
			t.Errorf("accepted %.40q", bad)
		}
	}
}

func TestTheLimitHolds(t *testing.T) {
	s, o, _ := pair(t)
	if _, err := s.SealBytes(make([]byte, MaxPlain+1), nil); err == nil {
		t.Error("sealed over the limit")
	}
	if _, err := o.OpenBytes(pipeline.SealedEvidence{KeyID: s.KeyID(), Sealed: make([]byte, maxSealed+1)}, nil); err == nil {
		t.Error("opened over the limit")
	}
}

func FuzzOpen(f *testing.F) {
	s, o, _ := pair(f)
	sealed, err := s.Seal(&pipeline.Evidence{Text: "content"}, "c-1", "m-1")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed.KeyID, sealed.Sealed, "c-1", "m-1")
	f.Add(sealed.KeyID, sealed.Sealed[:100], "c-1", "m-1")
	f.Add("", []byte{}, "", "")
	f.Add(sealed.KeyID, make([]byte, overhead), "c-1", "m-1")
	f.Fuzz(func(t *testing.T, keyID string, data []byte, caseID, messageID string) {
		e, err := o.Open(pipeline.SealedEvidence{KeyID: keyID, Sealed: data}, caseID, messageID)
		genuine := keyID == sealed.KeyID && bytes.Equal(data, sealed.Sealed) && caseID == "c-1" && messageID == "m-1"
		if genuine != (err == nil) || genuine != (e != nil) {
			t.Errorf("genuine %v: %v", genuine, err)
		}
	})
}
