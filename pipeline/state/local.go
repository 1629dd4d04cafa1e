package state

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/dmguard/dmguard/pipeline"
)

// LocalOptions are the options of [NewLocal]. A zero value takes its default.
type LocalOptions struct {
	// So many conversations and bytes are kept in memory; the rest is spilled.
	CacheEntries int   // default 100,000
	CacheBytes   int64 // default 256 MiB

	// Dir is where the spill file goes.
	Dir string // default os.TempDir()
}

// Local keeps conversations in the memory of this process and spills those used
// longest ago to a temporary file, which nobody else can open: memory stays
// bounded and nothing is forgotten before Close. It is safe for concurrent use.
//
// It knows a conversation by its id alone, so that one goes on from file to
// file; epochs mean nothing to it, because nobody else writes.
type Local struct {
	dir string

	mu      sync.Mutex
	cache   *lru
	pending map[digest][]byte // evicted, not in the file yet
	bytes   int               // of pending
	db      *bbolt.DB         // nil until something is spilled
	folder  string            // of the file, "" where it is gone already
	closed  bool
}

// digest names a conversation in the file.
type digest [16]byte

var _ pipeline.Memory = (*Local)(nil)

var spillBucket = []byte("conversations")

// A spill is written once so much waits for it.
const (
	spillEntries = 1024
	spillBytes   = 4 << 20
)

// NewLocal returns an empty memory. Close it to give its file back.
func NewLocal(opts LocalOptions) *Local {
	if opts.CacheEntries <= 0 {
		opts.CacheEntries = 100_000
	}
	if opts.CacheBytes <= 0 {
		opts.CacheBytes = 256 << 20
	}
	return &Local{
		dir:     opts.Dir,
		cache:   newLRU(opts.CacheEntries, opts.CacheBytes),
		pending: map[digest][]byte{},
	}
}

var errClosed = errors.New("the memory of conversations is closed")

// Load implements [pipeline.Memory].
func (l *Local) Load(_ context.Context, keys []pipeline.ConversationKey) ([]pipeline.Conversation, error) {
	states := make([]pipeline.Conversation, len(keys))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errClosed
	}
	for i := range keys {
		e, err := l.find(keys[i].ID)
		if err != nil {
			return nil, err
		}
		if e != nil {
			states[i] = e.state
		}
	}
	return states, l.spill(spillEntries, spillBytes)
}

// Save implements [pipeline.Memory].
func (l *Local) Save(_ context.Context, keys []pipeline.ConversationKey, states []pipeline.Conversation) error {
	if len(keys) != len(states) {
		return fmt.Errorf("saving conversations: %d keys for %d states", len(keys), len(states))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errClosed
	}
	var scratch []byte
	for i := range states {
		if states[i].IsZero() {
			continue
		}
		e, err := l.find(keys[i].ID)
		if err != nil {
			return err
		}
		if e != nil && !later(&states[i], &e.state) {
			continue
		}
		if scratch, err = states[i].AppendBinary(scratch[:0]); err != nil {
			return fmt.Errorf("encoding conversation: %w", err)
		}
		if err := l.insert(keys[i].ID, states[i], len(scratch), true); err != nil {
			return err
		}
	}
	return l.spill(spillEntries, spillBytes)
}

// find returns the entry of id, from the file if need be, or nil.
func (l *Local) find(id string) (*entry, error) {
	if e := l.cache.find(id); e != nil {
		return e, nil
	}
	if l.db == nil && len(l.pending) == 0 {
		return nil, nil
	}
	name := digestOf(id)
	value, waiting := l.pending[name]
	if !waiting && l.db != nil {
		if err := l.db.View(func(tx *bbolt.Tx) error {
			value = slices.Clone(tx.Bucket(spillBucket).Get(name[:]))
			return nil
		}); err != nil {
			return nil, fmt.Errorf("reading a spilled conversation: %w", err)
		}
	}
	if value == nil {
		return nil, nil
	}
	var state pipeline.Conversation
	if err := state.UnmarshalBinary(value); err != nil {
		return nil, fmt.Errorf("reading a spilled conversation: %w", err)
	}
	if waiting {
		delete(l.pending, name)
		l.bytes -= len(value)
	}
	// What came from the file is there still, and need not be written again.
	if err := l.insert(id, state, len(value), waiting); err != nil {
		return nil, err
	}
	// A state larger than the whole cache is evicted again at once.
	return &entry{id: id, state: state}, nil
}

// insert puts a state into the cache and what that pushes out into pending.
func (l *Local) insert(id string, state pipeline.Conversation, size int, dirty bool) error {
	l.cache.put(id, state, size).dirty = dirty
	for {
		e := l.cache.evict()
		if e == nil {
			return nil
		}
		if !e.dirty {
			continue
		}
		value, err := e.state.AppendBinary(nil)
		if err != nil {
			return fmt.Errorf("encoding conversation: %w", err)
		}
		name := digestOf(e.id)
		l.bytes += len(value) - len(l.pending[name])
		l.pending[name] = value
	}
}

// spill writes what is pending once there is enough of it. What could not be
// written stays pending.
func (l *Local) spill(entries, bytes int) error {
	if len(l.pending) < entries && l.bytes < bytes {
		return nil
	}
	if l.db == nil {
		if err := l.open(); err != nil {
			return err
		}
	}
	// In order, neighbours share pages.
	names := slices.SortedFunc(maps.Keys(l.pending), func(a, b digest) int { return slices.Compare(a[:], b[:]) })
	if err := l.db.Update(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket(spillBucket)
		for _, name := range names {
			if err := bucket.Put(name[:], l.pending[name]); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return fmt.Errorf("spilling conversations (is there room in the folder of temporary files?): %w", err)
	}
	clear(l.pending)
	l.bytes = 0
	return nil
}

func (l *Local) open() error {
	// A folder of its own, so that the name is nobody else's.
	dir, err := os.MkdirTemp(l.dir, "dmguard-state-")
	if err != nil {
		return fmt.Errorf("opening a file for conversations: %w", err)
	}
	path := filepath.Join(dir, "spill.db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout:        time.Second,
		NoSync:         true, // nobody reads it after this process
		NoGrowSync:     true,
		NoFreelistSync: true,
		FreelistType:   bbolt.FreelistMapType,
	})
	if err == nil {
		err = db.Update(func(tx *bbolt.Tx) error {
			_, err := tx.CreateBucketIfNotExists(spillBucket)
			return err
		})
		if err != nil {
			_ = db.Close()
		}
	}
	if err != nil {
		_ = os.RemoveAll(dir)
		return fmt.Errorf("opening a file for conversations: %w", err)
	}
	l.db, l.folder = db, dir
	// Where the system allows it the file loses its name now, so that not even a
	// crash leaves it behind.
	if os.RemoveAll(dir) == nil {
		l.folder = ""
	}
	return nil
}

// Close forgets everything and gives the file back.
func (l *Local) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	l.cache, l.pending = nil, nil
	if l.db == nil {
		return nil
	}
	err := l.db.Close()
	if l.folder != "" {
		err = errors.Join(err, os.RemoveAll(l.folder))
	}
	if err != nil {
		return fmt.Errorf("closing the file of conversations: %w", err)
	}
	return nil
}

func digestOf(id string) digest {
	sum := sha256.Sum256([]byte(id))
	return digest(sum[:16])
}
