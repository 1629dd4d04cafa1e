// Package evidence seals what a reviewer may be shown, so that the scanner that
// wrote it cannot read it back.
//
// A [Sealer] holds a public key and belongs into the scanner. An [Opener] holds
// private keys, several at a time while they rotate, and belongs into the
// review service alone. Sealing is HPKE (RFC 9180, base mode) with the hybrid
// KEM MLKEM768-X25519, HKDF-SHA256 and AES-256-GCM: evidence is kept for years,
// and what is recorded today must not be readable by the machines of then. What
// is sealed is bound to a context, such as a case and a message
// ([pipeline.EvidenceContext]), and opens under no other.
//
// The package does not hide how long something is, does not say who sealed it
// (everybody with the public key can), keeps no audit log, and knows neither
// retention nor holds. Key files are protected by their mode alone.
package evidence

import (
	"crypto/hpke"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"

	"github.com/dmguard/dmguard/pipeline"
)

// info binds every ciphertext to this use and version.
const info = "dmguard evidence v1"

// Limits on what is sealed and opened, in bytes.
const (
	MaxPlain  = 64 << 20
	overhead  = encapsulated + 16 // GCM tag
	maxSealed = MaxPlain + overhead

	encapsulated = 1088 + 32 // an ML-KEM-768 ciphertext and an X25519 public key
)

func suite() (hpke.KDF, hpke.AEAD) { return hpke.HKDFSHA256(), hpke.AES256GCM() }

// Sealer seals to one public key. It is safe for concurrent use and cannot open
// anything.
type Sealer struct {
	keyID string
	key   hpke.PublicKey
}

// KeyID returns the id of the key that is sealed to.
func (s *Sealer) KeyID() string { return s.keyID }

// Seal seals the evidence of a hit for its case and message.
func (s *Sealer) Seal(e *pipeline.Evidence, caseID, messageID string) (pipeline.SealedEvidence, error) {
	plain, err := json.Marshal(e)
	if err != nil {
		return pipeline.SealedEvidence{}, errors.New("encoding evidence: it holds text that is not UTF-8")
	}
	return s.SealBytes(plain, pipeline.EvidenceContext(caseID, messageID))
}

// SealBytes seals plain for a context of the caller's.
func (s *Sealer) SealBytes(plain, context []byte) (pipeline.SealedEvidence, error) {
	if len(plain) > MaxPlain {
		return pipeline.SealedEvidence{}, fmt.Errorf("sealing evidence: %d bytes are over the limit of %d", len(plain), MaxPlain)
	}
	kdf, aead := suite()
	enc, sender, err := hpke.NewSender(s.key, kdf, aead, []byte(info))
	if err != nil {
		return pipeline.SealedEvidence{}, fmt.Errorf("sealing evidence: %w", err)
	}
	ct, err := sender.Seal(context, plain)
	if err != nil {
		return pipeline.SealedEvidence{}, fmt.Errorf("sealing evidence: %w", err)
	}
	return pipeline.SealedEvidence{KeyID: s.keyID, Sealed: append(enc, ct...)}, nil
}

// Opener opens what was sealed to any of its keys. It is safe for concurrent
// use.
type Opener struct {
	keys map[string]hpke.PrivateKey
}

// KeyIDs returns the ids of the keys held, in no order.
func (o *Opener) KeyIDs() []string {
	ids := make([]string, 0, len(o.keys))
	for id := range o.keys {
		ids = append(ids, id)
	}
	return ids
}

// Errors of [Opener.Open].
var (
	// ErrUnknownKey is for evidence sealed to a key that is not held here.
	ErrUnknownKey = errors.New("no private key with this id")
	// ErrTampered is for evidence that was changed, or sealed for another
	// context.
	ErrTampered = errors.New("the evidence was changed or belongs to another case or message")
)

// Open opens the evidence of a hit on this case and message.
func (o *Opener) Open(sealed pipeline.SealedEvidence, caseID, messageID string) (*pipeline.Evidence, error) {
	plain, err := o.OpenBytes(sealed, pipeline.EvidenceContext(caseID, messageID))
	if err != nil {
		return nil, err
	}
	var e pipeline.Evidence
	if err := json.Unmarshal(plain, &e); err != nil {
		return nil, errors.New("opening evidence: what was sealed is not evidence") // the cause would quote content
	}
	return &e, nil
}

// OpenBytes opens what was sealed by [Sealer.SealBytes] for the same context.
func (o *Opener) OpenBytes(sealed pipeline.SealedEvidence, context []byte) ([]byte, error) {
	key, ok := o.keys[sealed.KeyID]
	if !ok {
		return nil, fmt.Errorf("opening evidence: %w: it was sealed to key %.64q; give the review service that key's private file as well", ErrUnknownKey, sealed.KeyID)
	}
	if n := len(sealed.Sealed); n < overhead || n > maxSealed {
		return nil, fmt.Errorf("opening evidence: %d bytes cannot be sealed evidence: %w", n, ErrTampered)
	}
	kdf, aead := suite()
	r, err := hpke.NewRecipient(sealed.Sealed[:encapsulated], key, kdf, aead, []byte(info))
	if err != nil {
		return nil, fmt.Errorf("opening evidence: %w: %w", ErrTampered, err)
	}
	plain, err := r.Open(context, sealed.Sealed[encapsulated:])
	if err != nil {
		return nil, fmt.Errorf("opening evidence: %w: %w", ErrTampered, err)
	}
	return plain, nil
}
