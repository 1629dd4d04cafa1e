package lists

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/go-json-experiment/json"
)

// seen is the snapshots that a process has had in force, by list, in a file that outlives it.
type seen map[string]sight

type sight struct {
	Number int    `json:"number"`
	Digest string `json:"digest"`
}

const mostSeen = 4 << 20 // bytes

func readSeen(path string) (seen, error) {
	if path == "" {
		return nil, nil
	}
	stat, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !stat.Mode().IsRegular() || stat.Size() > mostSeen {
		return nil, fmt.Errorf("%s: not a regular file of at most %d bytes", path, mostSeen)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var s seen
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("%s, which tells what lists were in force: %w; remove it only if you know why it is broken", path, err)
	}
	return s, nil
}

// note adds what is in force now and reports whether that was news.
func (s seen) note(list string, m *Manifest) bool {
	old, there := s[list]
	if there && old.Number >= m.Number {
		return false
	}
	s[list] = sight{Number: m.Number, Digest: m.Digest()}
	return true
}

func (s seen) write(path string) error {
	data, err := json.Marshal(s, json.Deterministic(true))
	if err != nil {
		return err
	}
	return writeFile(path, append(data, '\n'), 0o600)
}
