package access

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func hexSum(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:])
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestATokenNamesItsReviewer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "reviewers.yaml")
	writeFile(t, path, `
- id: alice
  roles: [reviewer]
  token_sha256: [`+hexSum("old")+`, `+hexSum("new")+`]
- {"id": "bob", "roles": ["auditor"], "token_sha256": ["`+hexSum("bobs")+`"]}
`)
	tokens, err := OpenTokens(path)
	if err != nil {
		t.Fatal(err)
	}
	for token, want := range map[string]string{"old": "alice", "new": "alice", "bobs": "bob", "": "", "olds": "", hexSum("old"): ""} {
		if r, ok := tokens.Reviewer(token); r.ID != want || ok != (want != "") {
			t.Errorf("Reviewer(%q) = %v, %v; want %q", token, r, ok, want)
		}
	}
	alice, ok := tokens.ReviewerByID("alice")
	if diff := cmp.Diff(Reviewer{"alice", []Role{Review}}, alice); diff != "" || !ok {
		t.Error(diff)
	}
	if _, ok := tokens.ReviewerByID("carol"); ok {
		t.Error("carol is known")
	}
}

func TestAFaultyTokenFileLeavesTheLastGoodOneInForce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "reviewers.yaml")
	good := "- id: alice\n  roles: [reviewer]\n  token_sha256: [" + hexSum("a") + "]\n"
	writeFile(t, path, good)
	tokens, err := OpenTokens(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"empty":          "",
		"not a list":     "id: alice",
		"unknown key":    good + "  token: a\n",
		"duplicate key":  good + "  id: bob\n",
		"twice":          good + good,
		"shared token":   good + "- id: bob\n  roles: [reviewer]\n  token_sha256: [" + hexSum("a") + "]\n",
		"upper case":     strings.Replace(good, hexSum("a"), strings.ToUpper(hexSum("a")), 1),
		"clear token":    strings.Replace(good, hexSum("a"), "letmein", 1),
		"no token":       "- id: alice\n  roles: [reviewer]\n",
		"bad roles":      strings.Replace(good, "reviewer", "reviewer, admin", 1),
		"two documents":  good + "---\n" + good,
		"too large":      good + "#" + strings.Repeat("x", maxTokenFile),
		"alias bomb":     "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n",
		"not even YAML":  "\x00\xff",
		"binary garbage": "- {",
	} {
		writeFile(t, path, text)
		if err := tokens.Reload(); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if r, ok := tokens.Reviewer("a"); !ok || r.ID != "alice" {
			t.Errorf("%s: the last good reading is gone", name)
		}
	}
	writeFile(t, path, strings.Replace(good, "alice", "bob", 1))
	if err := tokens.Reload(); err != nil {
		t.Fatal(err)
	}
	if r, _ := tokens.Reviewer("a"); r.ID != "bob" {
		t.Errorf("after a reload the token is %q's", r.ID)
	}
	if _, ok := tokens.ReviewerByID("alice"); ok {
		t.Error("alice is still known")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if tokens.Reload() == nil {
		t.Error("a missing file reloads")
	}
	if _, err := OpenTokens(path); err == nil {
		t.Error("a missing file opens")
	}
}

func TestOneTokenRefusesWhatCanBeGuessed(t *testing.T) {
	dev := Reviewer{"dev", []Role{Review, Liaison}}
	if _, err := OneToken("short", dev); err == nil {
		t.Error("a short token is accepted")
	}
	if _, err := OneToken(NewSecret(), Reviewer{"dev", []Role{Review, Admin}}); err == nil {
		t.Error("conflicting roles are accepted")
	}
	secret := NewSecret()
	tokens, err := OneToken(secret, dev)
	if err != nil {
		t.Fatal(err)
	}
	if r, ok := tokens.Reviewer(secret); !ok || r.ID != "dev" {
		t.Errorf("Reviewer = %v, %v", r, ok)
	}
	if err := tokens.Reload(); err != nil {
		t.Errorf("a reload without a file: %v", err)
	}
}

func TestASecretFileIsWrittenOnceAndOnlyForItsOwner(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "dev-token")
	secrets := make([]string, 8)
	var wg sync.WaitGroup
	for i := range secrets {
		wg.Go(func() {
			var err error
			if secrets[i], err = OpenSecretFile(path); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, s := range secrets {
		if s != secrets[0] || len(s) != 43 {
			t.Errorf("secrets differ: %q", secrets)
			break
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("temporary files are left: %v", left)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSecretFile(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a file that others can read: %v", err)
	}
	writeFile(t, filepath.Join(dir, "other"), "hello\n")
	if _, err := OpenSecretFile(filepath.Join(dir, "other")); err == nil {
		t.Error("a file without a token is accepted")
	}
	if _, err := OpenSecretFile(filepath.Join(dir, "missing", "dev-token")); err == nil {
		t.Error("a missing folder is accepted")
	}
}

// FuzzTokenFile holds that whatever a file says, it is refused or every
// reviewer in it is valid and has a token.
func FuzzTokenFile(f *testing.F) {
	f.Add([]byte("- id: a\n  roles: [reviewer]\n  token_sha256: [" + hexSum("a") + "]\n"))
	f.Add([]byte("- &x {id: a, roles: [admin], token_sha256: []}\n- *x\n"))
	f.Add([]byte("[]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		set, err := parseTokens(data)
		if err != nil {
			return
		}
		if len(set.entries) == 0 {
			t.Error("a set of nobody")
		}
		for _, e := range set.entries {
			if err := e.reviewer.Validate(); err != nil {
				t.Error(err)
			}
		}
	})
}
