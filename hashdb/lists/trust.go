package lists

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// Trust says whose signatures a snapshot needs: of so many of the keys. Without keys, snapshots are taken on their digests
// alone, and anybody who writes in the folder makes the lists.
//
// Signatures are those of signed notes (golang.org/x/mod/sumdb/note) with Ed25519.
type Trust struct {
	Keys       []string // verifier keys, as [NewKey] returns them
	Signatures int      // that a snapshot needs at least, 1 to the number of keys
}

// Validate reports every fault at once.
func (t Trust) Validate() error {
	_, err := t.verifiers()
	return err
}

func (t Trust) verifiers() (note.Verifiers, error) {
	var known []note.Verifier
	var errs []error
	seen := make(map[string]string)
	for i, k := range t.Keys {
		v, err := note.NewVerifier(k)
		if err != nil {
			errs = append(errs, fmt.Errorf("key %d is no verifier key: %w", i+1, err))
			continue
		}
		// The same key under two names would count as two people, two keys under one name as one.
		material := strings.SplitN(k, "+", 3)[2] // name, hash, key; the key may have a plus in it
		for what, by := range map[string]string{"name " + v.Name(): "name", "key " + material: "key"} {
			if other, twice := seen[what]; twice {
				errs = append(errs, fmt.Errorf("keys %s and %s have the same %s", other, v.Name(), by))
			}
			seen[what] = v.Name()
		}
		known = append(known, v)
	}
	if len(t.Keys) > 0 && (t.Signatures < 1 || t.Signatures > len(t.Keys)) {
		errs = append(errs, fmt.Errorf("%d signatures of %d keys are asked for", t.Signatures, len(t.Keys)))
	}
	return note.VerifierList(known...), errors.Join(errs...)
}

// ErrUnsigned says that a manifest has too few good signatures.
var ErrUnsigned = errors.New("too few signatures")

// Open reads a manifest and whose signatures hold, and makes sure that there are enough. Where there are too few, the error is
// [ErrUnsigned] and the manifest is returned all the same. A signature by a known key that does not hold is another error.
func (t Trust) Open(data []byte) (m *Manifest, signers []string, err error) {
	known, err := t.verifiers()
	if err != nil {
		return nil, nil, err
	}
	text, signatures, err := split(data)
	if err != nil {
		return nil, nil, err
	}
	if len(signatures) > 0 {
		n, err := note.Open(data, known)
		if unverified, ok := errors.AsType[*note.UnverifiedNoteError](err); ok {
			n, err = unverified.Note, nil
		}
		if err != nil {
			return nil, nil, fmt.Errorf("signatures: %w", err)
		}
		text = n.Text
		for _, s := range n.Sigs {
			signers = append(signers, s.Name)
		}
	}
	if m, err = ParseManifest(text); err != nil {
		return nil, nil, err
	}
	slices.Sort(signers)
	if len(t.Keys) > 0 && len(signers) < t.Signatures {
		return m, signers, fmt.Errorf("%w: %d of %d", ErrUnsigned, len(signers), t.Signatures)
	}
	return m, signers, nil
}

// Sign adds signatures to a manifest's file. Those that are there stay, except that a signer's own is made anew.
func Sign(data []byte, signers ...note.Signer) ([]byte, error) {
	text, signatures, err := split(data)
	if err != nil {
		return nil, err
	}
	if _, err := ParseManifest(text); err != nil {
		return nil, err
	}
	n := &note.Note{Text: text}
	if len(signatures) > 0 {
		_, err := note.Open(data, note.VerifierList())
		unverified, ok := errors.AsType[*note.UnverifiedNoteError](err)
		if !ok {
			return nil, fmt.Errorf("signatures: %w", err)
		}
		n = unverified.Note
	}
	out, err := note.Sign(n, signers...)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return out, nil
}

// unsigned returns the file of a manifest that nobody has signed yet.
func unsigned(m *Manifest) []byte { return []byte(m.Text() + "\n") }

// NewKey makes a key pair for a signer: the private half is for whoever signs and nobody else, the public one for [Trust].
func NewKey(name string) (private, public string, err error) {
	private, public, err = note.GenerateKey(rand.Reader, name)
	if err != nil {
		return "", "", fmt.Errorf("make a key: %w", err)
	}
	if _, err := note.NewVerifier(public); err != nil {
		return "", "", fmt.Errorf("make a key: %q is no name of a signer: no spaces and no plus signs", clip(name))
	}
	return private, public, nil
}

// ParseSigner reads a private key and returns the signer with the public half.
func ParseSigner(private string) (signer note.Signer, public string, err error) {
	private = strings.TrimSpace(private)
	signer, err = note.NewSigner(private)
	if err != nil {
		return nil, "", errors.New("not a private key of a signer") // the error of package note may quote it
	}
	fields := strings.SplitN(private, "+", 5) // PRIVATE, KEY, name, hash, key
	secret, err := base64.StdEncoding.DecodeString(fields[len(fields)-1])
	if err != nil || len(secret) != 1+ed25519.SeedSize {
		return nil, "", errors.New("not a private key of a signer")
	}
	key := ed25519.NewKeyFromSeed(secret[1:])
	pub, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, "", errors.New("not a private key of a signer")
	}
	public, err = note.NewEd25519VerifierKey(signer.Name(), pub)
	if err != nil {
		return nil, "", fmt.Errorf("public half of a key: %w", err)
	}
	return signer, public, nil
}
