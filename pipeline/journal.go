package pipeline

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/go-json-experiment/json"
	"golang.org/x/sys/unix"
)

// MaxKills is how often the process may die with a message in its hands before
// the message is quarantined.
const MaxKills = 3

// Journal remembers which messages the process has in its hands, so that the
// next process knows the suspects where this one is killed. It is a small file
// that is mapped into memory: noting a message costs two stores and survives
// SIGKILL, though not a power cut, after which nothing is suspected.
//
// A nil Journal remembers nothing.
type Journal struct {
	dir  string
	mem  []byte
	lock *os.File

	mu    sync.Mutex
	spare []int // free slots
	kills map[Position]suspect
}

type suspect struct {
	Kills int       `json:"kills"`
	Seen  time.Time `json:"seen"`
}

type suspectEntry struct {
	Position
	suspect
}

const (
	journalSlots = 4096 // every lane has one, and every message whose attachments are being prepared
	slotBytes    = 512  // enough for the longest name of a topic
	topicBytes   = slotBytes - 24
	suspectsKept = 30 * 24 * time.Hour
)

// OpenJournal opens the journal in dir, which it creates. It counts a kill for
// every message that an earlier process died with. A second process on the same
// folder is refused.
func OpenJournal(dir string) (*Journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("creating the journal's folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "inflight"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the journal: %w", err)
	}
	j := &Journal{dir: dir, lock: f, kills: map[Position]suspect{}}
	if err := j.open(); err != nil {
		if j.mem != nil {
			_ = unix.Munmap(j.mem)
		}
		f.Close()
		return nil, fmt.Errorf("opening the journal in %s: %w", dir, err)
	}
	return j, nil
}

func (j *Journal) open() error {
	if err := unix.Flock(int(j.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return errors.New("another process uses this folder")
	}
	if err := j.lock.Truncate(journalSlots * slotBytes); err != nil {
		return err
	}
	mem, err := unix.Mmap(int(j.lock.Fd()), 0, journalSlots*slotBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mapping: %w", err)
	}
	j.mem = mem
	if err := j.readSuspects(); err != nil {
		return err
	}
	inHand := map[Position]bool{} // a message may lie in two slots, and died once
	for i := range journalSlots {
		if p, ok := (&journalSlot{j: j, i: i}).get(); ok {
			inHand[p] = true
		}
		j.spare = append(j.spare, journalSlots-1-i)
	}
	for p := range inHand {
		j.kills[p] = suspect{j.kills[p].Kills + 1, time.Now().UTC()}
	}
	if len(inHand) > 0 {
		if err := j.writeSuspects(); err != nil {
			return err
		}
	}
	clear(j.mem)
	return nil
}

// journalled returns p as the journal knows it: no longer than a slot, and such
// that it can be written as JSON.
func journalled(p Position) Position {
	p.Topic = strings.ToValidUTF8(p.Topic, "")
	if len(p.Topic) > topicBytes {
		p.Topic = strings.ToValidUTF8(p.Topic[:topicBytes], "")
	}
	return p
}

// Kills returns how often a process died with the message at p in its hands
// since it was last judged.
func (j *Journal) Kills(p Position) int {
	if j == nil {
		return 0
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.kills[journalled(p)].Kills
}

// Suspects returns how many messages are suspected.
func (j *Journal) Suspects() int {
	if j == nil {
		return 0
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.kills)
}

// Forget clears the message at p of suspicion: it is judged, or quarantined. A
// failure to write this down costs one more careful look at it after a restart.
func (j *Journal) Forget(p Position) {
	if j == nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	p = journalled(p)
	if _, known := j.kills[p]; known {
		delete(j.kills, p)
		_ = j.writeSuspects()
	}
}

// Close ends the journal in good order: nothing is in hand any more.
func (j *Journal) Close() error {
	if j == nil {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.mem == nil {
		return nil
	}
	clear(j.mem)
	err := unix.Munmap(j.mem)
	j.mem = nil
	return errors.Join(err, j.lock.Close())
}

func (j *Journal) readSuspects() error {
	data, err := os.ReadFile(filepath.Join(j.dir, "suspects.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var entries []suspectEntry
	if err := json.Unmarshal(data, &entries); err != nil {
		return fmt.Errorf("suspects.json is damaged; delete it to forget the suspects: %w", err)
	}
	for _, e := range entries {
		if time.Since(e.Seen) < suspectsKept {
			j.kills[e.Position] = e.suspect
		}
	}
	return nil
}

func (j *Journal) writeSuspects() error {
	entries := make([]suspectEntry, 0, len(j.kills))
	for p, s := range j.kills {
		entries = append(entries, suspectEntry{p, s})
	}
	data, err := json.Marshal(entries)
	if err != nil {
		return err
	}
	name := filepath.Join(j.dir, "suspects.json")
	f, err := os.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// slot returns a place to note a message in. Where all are taken it returns one
// that notes nothing.
func (j *Journal) slot() *journalSlot {
	if j == nil {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.spare) == 0 {
		return nil
	}
	i := j.spare[len(j.spare)-1]
	j.spare = j.spare[:len(j.spare)-1]
	return &journalSlot{j: j, i: i}
}

// journalSlot holds one position: a word that says whether it is taken, the
// offset, the partition, the topic's length and the topic.
type journalSlot struct {
	j *Journal
	i int
}

func (s *journalSlot) bytes() []byte { return s.j.mem[s.i*slotBytes : (s.i+1)*slotBytes] }

func (s *journalSlot) taken() *atomic.Uint64 {
	return (*atomic.Uint64)(unsafe.Pointer(&s.bytes()[0])) //nolint:gosec // slots are aligned to 512 bytes of a page
}

func (s *journalSlot) set(p Position) {
	if s == nil {
		return
	}
	p = journalled(p)
	b := s.bytes()
	s.taken().Store(0)
	binary.LittleEndian.PutUint64(b[8:], uint64(p.Offset))
	binary.LittleEndian.PutUint32(b[16:], uint32(p.Partition))
	n := copy(b[24:], p.Topic)
	binary.LittleEndian.PutUint32(b[20:], uint32(n))
	s.taken().Store(1)
}

func (s *journalSlot) get() (Position, bool) {
	b := s.bytes()
	n := binary.LittleEndian.Uint32(b[20:])
	if s.taken().Load() != 1 || n > topicBytes {
		return Position{}, false
	}
	return journalled(Position{
		Topic:     string(b[24 : 24+n]),
		Partition: int32(binary.LittleEndian.Uint32(b[16:])),
		Offset:    int64(binary.LittleEndian.Uint64(b[8:])),
	}), true
}

func (s *journalSlot) clear() {
	if s != nil {
		s.taken().Store(0)
	}
}

func (s *journalSlot) free() {
	if s == nil {
		return
	}
	s.clear()
	s.j.mu.Lock()
	defer s.j.mu.Unlock()
	s.j.spare = append(s.j.spare, s.i)
}
