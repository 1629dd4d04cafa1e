package envelope

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
)

// Reloader follows a keyset file. It is safe for concurrent use.
type Reloader struct {
	file    File
	current atomic.Pointer[Keyset]

	mu   sync.Mutex
	info fs.FileInfo // of the file that current was read from
}

// NewReloader loads the file. The warning is that of [File.Load].
func NewReloader(file File) (r *Reloader, warning string, err error) {
	k, warning, info, err := file.load()
	if err != nil {
		return nil, "", err
	}
	r = &Reloader{file: file, info: info}
	r.current.Store(k)
	return r, warning, nil
}

// Keyset returns the keyset in force.
func (r *Reloader) Keyset() *Keyset { return r.current.Load() }

// Reload reads the file again where it has changed and reports whether it had.
// After an error the last good keyset stays in force.
func (r *Reloader) Reload() (changed bool, warning string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, err := os.Stat(r.file.Path)
	if err != nil {
		return false, "", fmt.Errorf("reloading keyset: %w", err)
	}
	if os.SameFile(now, r.info) && now.ModTime().Equal(r.info.ModTime()) && now.Size() == r.info.Size() {
		return false, "", nil
	}
	k, warning, info, err := r.file.load()
	if err != nil {
		return false, "", err
	}
	r.info = info
	r.current.Store(k)
	return true, warning, nil
}

// Open is [Keyset.Open] with the keyset in force. A record under an unknown key
// may come from a rotation that is on its way: the file is read again first, and
// where that fails the error is not permanent, because the record may be good.
func (r *Reloader) Open(record []byte) (plain []byte, env Header, err error) {
	used := r.Keyset()
	plain, env, err = used.Open(record)
	_, unknown := errors.AsType[*unknownKeyError](err)
	_, disabled := errors.AsType[*disabledKeyError](err)
	if !unknown && !disabled {
		return plain, env, err
	}
	_, _, reloadErr := r.Reload()
	if reloadErr != nil {
		return nil, env, fmt.Errorf("opening envelope: key %d is unknown or disabled, and a newer keyset cannot be read: %w", env.KeyID, reloadErr)
	}
	if r.Keyset() == used {
		return nil, env, err
	}
	return r.Keyset().Open(record)
}

// Seal is [Keyset.Seal] with the keyset in force.
func (r *Reloader) Seal(message []byte) ([]byte, error) { return r.Keyset().Seal(message) }
