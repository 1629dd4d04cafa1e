package lists

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
)

// Listing is what the manifest of a list says, and who has signed it.
type Listing struct {
	Name     string
	Manifest *Manifest
	Signers  []string
	Fault    error     // of the manifest or its signatures
	Waits    *Manifest // a snapshot that waits for more signatures, or nil
	Signed   []string  // who has signed that one
}

// Look reads the manifests of a folder, without the files that they tell of.
func Look(dir string, trust Trust) ([]Listing, error) {
	if err := trust.Validate(); err != nil {
		return nil, err
	}
	names, err := namesIn(dir, manifestSuffix, proposedSuffix)
	if err != nil {
		return nil, err
	}
	var all []Listing
	for _, name := range names {
		l := Listing{Name: name}
		l.Manifest, l.Signers, l.Fault = trust.read(dir, name, manifestSuffix)
		if waits, signed, err := trust.read(dir, name, proposedSuffix); err == nil || errors.Is(err, ErrUnsigned) {
			l.Waits, l.Signed = waits, signed
			if errors.Is(l.Fault, fs.ErrNotExist) {
				l.Fault = nil // the first one waits
			}
		}
		all = append(all, l)
	}
	return all, nil
}

// read returns the manifest of a list, also where it has too few signatures.
func (t Trust) read(dir, name, suffix string) (*Manifest, []string, error) {
	data, err := readManifest(filepath.Join(dir, name+suffix))
	if err != nil {
		return nil, nil, err
	}
	m, signers, err := t.Open(data)
	if m != nil && m.List != name {
		return nil, nil, fmt.Errorf("its manifest is that of list %s", m.List)
	}
	return m, signers, err
}

// Verify goes through everything that a list consists of, and returns its first fault: signatures, the digests of files and what they
// hold, and the manifests before as far as they are there, each of which has the digest that the later ones tell. Of those
// it returns how many there are. Signatures on earlier ones have to hold too, but not to be enough: keys change.
func Verify(dir, name string, trust Trust) (listing *Listing, earlier int, err error) {
	if err := errors.Join(CheckName(name), trust.Validate()); err != nil {
		return nil, 0, err
	}
	m, signers, err := trust.read(dir, name, manifestSuffix)
	if err != nil {
		return nil, 0, fmt.Errorf("list %s: %w", name, err)
	}
	if _, err := m.open(dir, nil); err != nil {
		return nil, 0, fmt.Errorf("list %s: %w", name, err)
	}
	for _, p := range m.Past {
		data, err := readManifest(filepath.Join(dir, pastName(name, p.Number)))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, earlier, fmt.Errorf("list %s: number %d: %w", name, p.Number, err)
		}
		before, _, err := trust.Open(data)
		switch {
		case err != nil && !errors.Is(err, ErrUnsigned):
			return nil, earlier, fmt.Errorf("list %s: number %d: %w", name, p.Number, err)
		case before.List != name || before.Digest() != p.Digest:
			return nil, earlier, fmt.Errorf("list %s: %s is not the number %d that later ones follow", name, pastName(name, p.Number), p.Number)
		}
		earlier++
	}
	out := &Listing{Name: name, Manifest: m, Signers: signers}
	waits, signed, err := trust.read(dir, name, proposedSuffix)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return out, earlier, nil
	case err != nil && !errors.Is(err, ErrUnsigned):
		return nil, earlier, fmt.Errorf("list %s: the snapshot that waits: %w", name, err)
	}
	if err := waits.after(m.Number, m.Digest()); err != nil {
		return nil, earlier, fmt.Errorf("list %s: the snapshot that waits: %w", name, err)
	}
	if _, err := waits.open(dir, nil); err != nil {
		return nil, earlier, fmt.Errorf("list %s: the snapshot that waits: %w", name, err)
	}
	out.Waits, out.Signed = waits, signed
	return out, earlier, nil
}
