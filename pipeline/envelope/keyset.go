package envelope

import (
	"errors"
	"fmt"
	"strings"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/aead/aesgcm"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// Keyset is a set of keys that open messages, one of which seals them. It is
// never modified and safe for concurrent use. It prints as [Keyset.String].
type Keyset struct {
	handle  *keyset.Handle
	keys    map[uint32]key
	order   []uint32
	primary uint32
}

type key struct {
	aead   tink.AEAD // nil unless enabled
	status keyset.KeyStatus
}

// Key describes one key of a keyset.
type Key struct {
	ID      uint32
	Status  string // enabled, disabled or destroyed
	Primary bool   // the key that seals
	Type    string
}

const keyType = "AES256_GCM, TINK prefix"

// New returns a keyset of one new key.
func New() (*Keyset, error) {
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return nil, fmt.Errorf("making keyset: %w", err)
	}
	return fromHandle(handle)
}

// fromHandle reports every key that messages cannot be sealed with.
func fromHandle(handle *keyset.Handle) (*Keyset, error) {
	primary, err := handle.Primary()
	if err != nil {
		return nil, errors.New("the keyset has no primary key")
	}
	k := &Keyset{handle: handle, keys: make(map[uint32]key, handle.Len()), primary: primary.KeyID()}
	var errs []error
	for i := range handle.Len() {
		entry, err := handle.Entry(i)
		if err != nil {
			return nil, fmt.Errorf("reading key %d of the keyset: %w", i, err)
		}
		id := entry.KeyID()
		gcm, ok := entry.Key().(*aesgcm.Key)
		if ok {
			p, isGCM := gcm.Parameters().(*aesgcm.Parameters)
			ok = isGCM && p.KeySizeInBytes() == 32 && p.IVSizeInBytes() == nonceSize &&
				p.TagSizeInBytes() == tagSize && p.Variant() == aesgcm.VariantTink
		}
		if !ok {
			errs = append(errs, fmt.Errorf("key %d is not %s (make keys with the template AES256_GCM)", id, keyType))
			continue
		}
		if _, twice := k.keys[id]; twice {
			errs = append(errs, fmt.Errorf("key %d is there twice", id))
			continue
		}
		info := key{status: entry.KeyStatus()}
		if info.status == keyset.Enabled {
			// The primitive of one key: the wrapped set would try keys in turn
			// and feed Tink's monitoring at each call.
			if info.aead, err = aesgcm.NewAEAD(gcm); err != nil {
				errs = append(errs, fmt.Errorf("key %d: %w", id, err))
				continue
			}
		}
		k.keys[id] = info
		k.order = append(k.order, id)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if k.keys[k.primary].aead == nil {
		return nil, fmt.Errorf("the primary key %d is not enabled", k.primary)
	}
	return k, nil
}

// unknownKeyError is apart from other faults because a newer keyset may cure it.
type unknownKeyError struct{ id uint32 }

func (e *unknownKeyError) Error() string { return fmt.Sprintf("unknown key %d", e.id) }

type disabledKeyError struct{ id uint32 }

func (e *disabledKeyError) Error() string { return fmt.Sprintf("key %d is disabled", e.id) }

func (k *Keyset) key(id uint32) (tink.AEAD, error) {
	info, ok := k.keys[id]
	switch {
	case !ok:
		return nil, &unknownKeyError{id}
	case info.aead == nil:
		return nil, &disabledKeyError{id}
	}
	return info.aead, nil
}

// Rotate returns the keyset with a new key, which seals from now on, and the
// id of that key. The old keys still open.
func (k *Keyset) Rotate() (*Keyset, uint32, error) {
	m := keyset.NewManagerFromHandle(k.handle)
	id, err := m.Add(aead.AES256GCMKeyTemplate())
	if err != nil {
		return nil, 0, fmt.Errorf("rotating keyset: %w", err)
	}
	if err := m.SetPrimary(id); err != nil {
		return nil, 0, fmt.Errorf("rotating keyset: %w", err)
	}
	next, err := fromManager(m)
	if err != nil {
		return nil, 0, fmt.Errorf("rotating keyset: %w", err)
	}
	return next, id, nil
}

// Disable returns the keyset with key id disabled: what it sealed does not open
// until it is enabled again. The primary key cannot be disabled.
func (k *Keyset) Disable(id uint32) (*Keyset, error) {
	if _, ok := k.keys[id]; !ok {
		return nil, fmt.Errorf("disabling key: %w", &unknownKeyError{id})
	}
	if id == k.primary {
		return nil, fmt.Errorf("disabling key: key %d is the primary key: rotate first", id)
	}
	m := keyset.NewManagerFromHandle(k.handle)
	if err := m.Disable(id); err != nil {
		return nil, fmt.Errorf("disabling key %d: %w", id, err)
	}
	return fromManager(m)
}

// Enable returns the keyset with key id enabled again.
func (k *Keyset) Enable(id uint32) (*Keyset, error) {
	if _, ok := k.keys[id]; !ok {
		return nil, fmt.Errorf("enabling key: %w", &unknownKeyError{id})
	}
	m := keyset.NewManagerFromHandle(k.handle)
	if err := m.Enable(id); err != nil {
		return nil, fmt.Errorf("enabling key %d: %w", id, err)
	}
	return fromManager(m)
}

func fromManager(m *keyset.Manager) (*Keyset, error) {
	handle, err := m.Handle()
	if err != nil {
		return nil, err
	}
	return fromHandle(handle)
}

// Describe lists the keys in the order of the keyset. It shows no key material.
func (k *Keyset) Describe() []Key {
	keys := make([]Key, 0, len(k.order))
	for _, id := range k.order {
		keys = append(keys, Key{
			ID:      id,
			Status:  strings.ToLower(k.keys[id].status.String()),
			Primary: id == k.primary,
			Type:    keyType,
		})
	}
	return keys
}

// String says how many keys there are and which one seals.
func (k *Keyset) String() string {
	return fmt.Sprintf("keyset of %d keys, primary %d", len(k.order), k.primary)
}

// Format implements [fmt.Formatter]: no verb prints a key.
func (k *Keyset) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(k.String())) }
