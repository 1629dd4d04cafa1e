package access

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"go.yaml.in/yaml/v3"
)

// maxTokenFile and maxTokenEntries bound what a token file may cost: the sums
// of all tokens are compared on every request.
const (
	maxTokenFile    = 1 << 20
	maxTokenEntries = 4096
)

// sum is the SHA-256 of a secret. Secrets of 256 random bits need neither salt
// nor a slow hash.
type sum [sha256.Size]byte

func sumOf(secret string) sum { return sha256.Sum256([]byte(secret)) }

// NewSecret returns 32 random bytes in unpadded base64url: 43 characters.
func NewSecret() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails: it crashes the program instead
	return base64.RawURLEncoding.EncodeToString(b)
}

// Tokens recognises bearer tokens. It is safe for concurrent use.
type Tokens struct {
	path string // "" where there is no file
	set  atomic.Pointer[tokenSet]
}

// tokenSet is one immutable reading of the file.
type tokenSet struct {
	entries   []tokenEntry
	reviewers map[string]Reviewer
}

type tokenEntry struct {
	sum      sum
	reviewer Reviewer
}

// OneToken recognises a single token: the development reviewer's.
func OneToken(token string, r Reviewer) (*Tokens, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	if len(token) < 32 {
		return nil, errors.New("a token of fewer than 32 characters can be guessed")
	}
	t := new(Tokens)
	t.set.Store(&tokenSet{[]tokenEntry{{sumOf(token), r}}, map[string]Reviewer{r.ID: r}})
	return t, nil
}

// OpenTokens reads a token file: YAML (or JSON), a list of reviewers, each with
// the SHA-256 sums of the tokens that are theirs in lower-case hex.
//
//   - id: alice
//     roles: [reviewer]
//     token_sha256: [9f86d081…]
//
// Two sums under one reviewer let a token be replaced without a gap. The file
// holds no secret, but who can write it can let anyone in.
func OpenTokens(path string) (*Tokens, error) {
	t := &Tokens{path: path}
	if err := t.Reload(); err != nil {
		return nil, err
	}
	return t, nil
}

// Reload reads the file again. Where it cannot be read, or has any fault, the
// last good reading stays in force and the error names every fault.
func (t *Tokens) Reload() error {
	if t.path == "" {
		return nil
	}
	f, err := os.Open(t.path)
	if err != nil {
		return fmt.Errorf("reading the token file: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxTokenFile+1))
	if err != nil {
		return fmt.Errorf("reading the token file: %w", err)
	}
	set, err := parseTokens(data)
	if err != nil {
		return fmt.Errorf("token file %s: %w", t.path, err)
	}
	t.set.Store(set)
	return nil
}

func parseTokens(data []byte) (*tokenSet, error) {
	if len(data) > maxTokenFile {
		return nil, fmt.Errorf("larger than %d bytes", maxTokenFile)
	}
	var file []struct {
		ID     string   `yaml:"id"`
		Roles  []Role   `yaml:"roles"`
		Tokens []string `yaml:"token_sha256"`
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&file); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("not a list of reviewers: %w", err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one YAML document")
	}
	set := &tokenSet{reviewers: make(map[string]Reviewer, len(file))}
	seen := map[sum]string{}
	var errs []error
	for _, f := range file {
		r := Reviewer{f.ID, f.Roles}
		if err := r.Validate(); err != nil {
			errs = append(errs, err)
		}
		if _, twice := set.reviewers[r.ID]; twice {
			errs = append(errs, fmt.Errorf("reviewer %q is listed twice", r.ID))
		}
		set.reviewers[r.ID] = r
		if len(f.Tokens) == 0 {
			errs = append(errs, fmt.Errorf("reviewer %q has no token_sha256", r.ID))
		}
		for i, h := range f.Tokens {
			b, err := hex.DecodeString(h)
			if err != nil || len(b) != sha256.Size || strings.ToLower(h) != h {
				errs = append(errs, fmt.Errorf("reviewer %q: token_sha256[%d] is not 64 lower-case hex digits", r.ID, i))
				continue
			}
			s := sum(b)
			if other, twice := seen[s]; twice {
				errs = append(errs, fmt.Errorf("reviewer %q: token_sha256[%d] is also a token of %q", r.ID, i, other))
			}
			seen[s] = r.ID
			set.entries = append(set.entries, tokenEntry{s, r})
		}
	}
	if len(set.entries) == 0 && len(errs) == 0 {
		errs = append(errs, errors.New("it lists nobody, so nobody could sign in"))
	}
	if len(set.entries) > maxTokenEntries {
		errs = append(errs, fmt.Errorf("more than %d tokens", maxTokenEntries))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return set, nil
}

// Reviewer returns whose token it is. It takes the same time for every token.
func (t *Tokens) Reviewer(token string) (Reviewer, bool) {
	s, found := sumOf(token), -1
	set := t.set.Load()
	for i := range set.entries {
		found = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(s[:], set.entries[i].sum[:]), i, found)
	}
	if found < 0 {
		return Reviewer{}, false
	}
	return set.entries[found].reviewer, true
}

// ReviewerByID returns the reviewer with this id and today's roles: what a
// session stands for.
func (t *Tokens) ReviewerByID(id string) (Reviewer, bool) {
	r, ok := t.set.Load().reviewers[id]
	return r, ok
}

// OpenSecretFile returns the secret in the file at path, which only its owner
// may read. Where there is no such file it writes a new secret there, whole and
// with mode 0600 or not at all.
func OpenSecretFile(path string) (string, error) {
	secret, err := readSecret(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return secret, err
	}
	secret = NewSecret()
	tmp := path + ".new-" + NewSecret()[:12]
	if err := writeSecret(tmp, secret); err != nil {
		return "", fmt.Errorf("writing a new token: %w", errors.Join(err, os.Remove(tmp)))
	}
	// A link refuses to replace a file that another process has put there
	// meanwhile: then that one's secret is the one in force.
	err = os.Link(tmp, path)
	if rmErr := os.Remove(tmp); rmErr != nil && err == nil {
		err = rmErr
	}
	if errors.Is(err, fs.ErrExist) {
		return readSecret(path)
	}
	if err != nil {
		return "", fmt.Errorf("writing a new token: %w", err)
	}
	return secret, syncDir(filepath.Dir(path))
}

func readSecret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("reading a token: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("reading a token: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("others can read the token in %s: run chmod 600 on it, or delete it for a new one", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, 256))
	if err != nil {
		return "", fmt.Errorf("reading a token: %w", err)
	}
	secret := strings.TrimSuffix(string(data), "\n")
	if b, err := base64.RawURLEncoding.DecodeString(secret); err != nil || len(b) != 32 {
		return "", fmt.Errorf("%s holds no token: delete it for a new one", path)
	}
	return secret, nil
}

func writeSecret(path, secret string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, secret+"\n")
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
