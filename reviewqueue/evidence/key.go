package evidence

import (
	"crypto/hpke"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/go-json-experiment/json"
)

// Algorithm names the ciphersuite in key files.
const Algorithm = "HPKE-MLKEM768X25519-HKDFSHA256-AES256GCM"

// maxKeyFile bounds what is read as a key file, in bytes.
const maxKeyFile = 64 << 10

// keyFile is the JSON of both halves: a public file has no private key.
type keyFile struct {
	KeyID     string `json:"kid"`
	Algorithm string `json:"alg"`
	Public    []byte `json:"public"`            // standard base64
	Private   []byte `json:"private,omitempty"` // standard base64
}

// NewKeyPair makes a new key pair and writes its public half to one file, for
// scanners, and the pair to another, for the review service, readable by its
// owner only. It never replaces a file. It returns the id of the new key.
func NewKeyPair(publicPath, privatePath string) (keyID string, err error) {
	key, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		return "", fmt.Errorf("making a review key: %w", err)
	}
	private, err := key.Bytes()
	if err != nil {
		return "", fmt.Errorf("making a review key: %w", err)
	}
	id := make([]byte, 8)
	if _, err := rand.Read(id); err != nil {
		return "", fmt.Errorf("making a review key: %w", err)
	}
	f := keyFile{KeyID: hex.EncodeToString(id), Algorithm: Algorithm, Public: key.PublicKey().Bytes(), Private: private}
	// The private half first: a public key in use without its private half
	// would seal what nobody can read.
	if err := writeKey(privatePath, f, 0o600); err != nil {
		return "", err
	}
	f.Private = nil
	if err := writeKey(publicPath, f, 0o644); err != nil {
		return "", errors.Join(err, os.Remove(privatePath))
	}
	return f.KeyID, nil
}

func writeKey(path string, f keyFile, mode os.FileMode) error {
	data, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("writing review key: %w", err)
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("writing review key: %w", err)
	}
	_, err = file.Write(append(data, '\n'))
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return fmt.Errorf("writing review key: %w", errors.Join(err, os.Remove(path)))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("writing review key: %w", err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fmt.Errorf("writing review key: %w", err)
	}
	return nil
}

// OpenSealer reads the public key at path.
func OpenSealer(path string) (*Sealer, error) {
	f, _, err := readKey(path)
	if err != nil {
		return nil, err
	}
	if f.Private != nil {
		return nil, fmt.Errorf("review key %s: this is the private file; a scanner gets the public one", path)
	}
	key, err := hpke.MLKEM768X25519().NewPublicKey(f.Public)
	if err != nil {
		return nil, fmt.Errorf("review key %s: %w", path, err)
	}
	return &Sealer{f.KeyID, key}, nil
}

// OpenKeys reads the private keys at paths, the newest and those that evidence
// is still sealed to.
func OpenKeys(paths ...string) (*Opener, error) {
	if len(paths) == 0 {
		return nil, errors.New("no private review key given")
	}
	o := &Opener{map[string]hpke.PrivateKey{}}
	var errs []error
	for _, path := range paths {
		if err := o.add(path); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return o, nil
}

func (o *Opener) add(path string) error {
	f, mode, err := readKey(path)
	if err != nil {
		return err
	}
	switch _, twice := o.keys[f.KeyID]; {
	case f.Private == nil:
		return fmt.Errorf("review key %s: this is the public file; opening needs the private one", path)
	case mode.Perm()&0o077 != 0:
		return fmt.Errorf("review key %s: others can read it; run chmod 600 on it", path)
	case twice:
		return fmt.Errorf("review key %s: key %s was given twice", path, f.KeyID)
	}
	key, err := hpke.MLKEM768X25519().NewPrivateKey(f.Private)
	if err != nil {
		return fmt.Errorf("review key %s: it is damaged", path) // the cause might quote the key
	}
	if string(key.PublicKey().Bytes()) != string(f.Public) {
		return fmt.Errorf("review key %s: its halves do not belong together", path)
	}
	o.keys[f.KeyID] = key
	return nil
}

func readKey(path string) (f keyFile, mode os.FileMode, err error) {
	file, err := os.Open(path)
	if err != nil {
		return keyFile{}, 0, fmt.Errorf("reading review key: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return keyFile{}, 0, fmt.Errorf("reading review key: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(file, maxKeyFile))
	if err != nil {
		return keyFile{}, 0, fmt.Errorf("reading review key: %w", err)
	}
	if err := json.Unmarshal(data, &f, json.RejectUnknownMembers(true)); err != nil {
		return keyFile{}, 0, fmt.Errorf("review key %s: it is not a key file", path) // the cause might quote the key
	}
	if f.KeyID == "" || len(f.KeyID) > 64 || f.Algorithm != Algorithm {
		return keyFile{}, 0, fmt.Errorf("review key %s: want a key id and alg %s", path, Algorithm)
	}
	return f, info.Mode(), nil
}
