package envelope

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/tink-crypto/tink-go/v2/core/registry"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// maxFile bounds what is read as a keyset: a key takes about 250 bytes.
const maxFile = 1 << 20

// File is where a keyset lies: a Tink keyset in JSON.
type File struct {
	Path string

	// KMSKeyURI names the key of a KMS that wraps the keyset, such as
	// "hcvault://vault.example:8200/transit/keys/dm". Where it is empty the keys
	// lie in the clear, which is for development.
	KMSKeyURI string
}

// Load reads the keyset. The warning, if any, says what is wrong with how the
// file is kept. No error quotes the file.
func (f File) Load() (k *Keyset, warning string, err error) {
	k, warning, _, err = f.load()
	return k, warning, err
}

func (f File) load() (*Keyset, string, fs.FileInfo, error) {
	file, err := os.Open(f.Path)
	if err != nil {
		return nil, "", nil, fmt.Errorf("loading keyset: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, "", nil, fmt.Errorf("loading keyset: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, "", nil, fmt.Errorf("loading keyset: %w", err)
	}
	if len(data) > maxFile {
		return nil, "", nil, fmt.Errorf("loading keyset %s: more than %d bytes", f.Path, maxFile)
	}
	k, err := f.parse(data)
	if err != nil {
		return nil, "", nil, fmt.Errorf("loading keyset %s: %w", f.Path, err)
	}
	var warning string
	if perm := info.Mode().Perm(); runtime.GOOS != "windows" && f.KMSKeyURI == "" && perm&0o077 != 0 {
		warning = fmt.Sprintf("keyset %s is readable by others (mode %04o): chmod 600 %s", f.Path, perm, f.Path)
	}
	return k, warning, info, nil
}

func (f File) parse(data []byte) (*Keyset, error) {
	wrapped := bytes.Contains(data, []byte(`"encryptedKeyset"`))
	if f.KMSKeyURI == "" {
		if wrapped {
			return nil, errors.New("it is wrapped by a KMS: name the URI of the KMS key")
		}
		handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(data)))
		if err != nil {
			// The cause may quote the file, and with it a key.
			return nil, errors.New("it is not a Tink keyset in JSON, or a key in it is damaged")
		}
		return fromHandle(handle)
	}
	if !wrapped {
		return nil, errors.New("it is not wrapped, but a KMS key is named: wrap it, or name no KMS key")
	}
	master, err := f.master()
	if err != nil {
		return nil, err
	}
	handle, err := keyset.Read(keyset.NewJSONReader(bytes.NewReader(data)), master)
	if err != nil {
		// The cause is the KMS client's or of the ciphertext: it names no key.
		return nil, fmt.Errorf("unwrapping with %s: %w", f.KMSKeyURI, err)
	}
	return fromHandle(handle)
}

// master returns the wrapping key of a KMS client that the program registered.
func (f File) master() (tink.AEAD, error) {
	client, err := registry.GetKMSClient(f.KMSKeyURI)
	if err != nil {
		return nil, fmt.Errorf("no KMS client for %s is part of this build: register one, as the documentation of package envelope shows", f.KMSKeyURI)
	}
	master, err := client.GetAEAD(f.KMSKeyURI)
	if err != nil {
		return nil, fmt.Errorf("KMS key %s: %w", f.KMSKeyURI, err)
	}
	return master, nil
}

// Create writes the keyset to a file that must not exist yet: a keyset that is
// overwritten takes with it all that it sealed.
func (f File) Create(k *Keyset) error {
	if err := f.write(k, func(temp string) error { return os.Link(temp, f.Path) }); err != nil {
		return fmt.Errorf("creating keyset: %w", err)
	}
	return nil
}

// Replace writes the keyset over the file, whole or not at all.
func (f File) Replace(k *Keyset) error {
	if err := f.write(k, func(temp string) error { return os.Rename(temp, f.Path) }); err != nil {
		return fmt.Errorf("replacing keyset: %w", err)
	}
	return nil
}

// write writes the keyset, mode 0600 and synced, beside the file and has place
// put it there.
func (f File) write(k *Keyset, place func(temp string) error) error {
	var (
		buf bytes.Buffer
		err error
	)
	if f.KMSKeyURI == "" {
		err = insecurecleartextkeyset.Write(k.handle, keyset.NewJSONWriter(&buf))
	} else {
		var master tink.AEAD
		if master, err = f.master(); err == nil {
			err = k.handle.Write(keyset.NewJSONWriter(&buf), master)
		}
	}
	if err != nil {
		return err
	}
	buf.WriteByte('\n')
	dir := filepath.Dir(f.Path)
	temp, err := os.CreateTemp(dir, ".keyset-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(temp.Name()) }() // gone already after a rename
	_, err = temp.Write(buf.Bytes())
	if err == nil {
		err = temp.Sync()
	}
	if closeErr := temp.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	if err := place(temp.Name()); err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir makes the new name last, where directories can be synced.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
