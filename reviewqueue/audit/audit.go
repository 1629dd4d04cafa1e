// Package audit records who was shown what, before it is shown.
//
// A [Log] is a file of JSON lines with one writer. [Log.Append] returns only
// once its entry is on the disk, and returns an error, for this and every later
// entry, once anything about that is in doubt: a caller without a [Receipt]
// must show nothing.
//
// An entry holds no content and no id of a user: who acted, on which case, for
// which purpose and on what basis. The file can be read with any tool, and
// changed by whoever may write to it: the log is durable, not tamper-evident.
// It is never rotated or shortened here.
package audit

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Phase tells the two entries of an access apart.
type Phase string

// Phases.
const (
	Intent  Phase = "intent"  // written before anything is read
	Outcome Phase = "outcome" // written after it, with the result
)

// Entry is one line of the log.
type Entry struct {
	Time      time.Time `json:"time"` // UTC; set by Append
	Phase     Phase     `json:"phase"`
	Actor     string    `json:"actor"`
	Roles     []string  `json:"roles"`
	Action    string    `json:"action"`
	CaseID    string    `json:"case_id"`
	Purpose   string    `json:"purpose"`
	Basis     string    `json:"basis"`
	Fields    []string  `json:"fields"`
	RequestID string    `json:"request_id"`       // the same in both phases
	Result    string    `json:"result,omitempty"` // of an outcome
}

// Receipt proves that an entry is on the disk.
type Receipt struct {
	Index int64 // of the entry in the log, from 0
}

// MaxEntryBytes bounds one entry.
const MaxEntryBytes = 64 << 10

// ErrClosed is returned by [Log.Append] after [Log.Close].
var ErrClosed = errors.New("the audit log is closed")

// file is what the log needs of its file; tests make it fail.
type file interface {
	io.Writer
	Sync() error
	Close() error
}

// Log is an audit log, open for appending. It is safe for concurrent use.
type Log struct {
	appends chan *pending
	closing chan struct{} // closed by Close: no more appends
	stopped chan struct{} // closed when the writer is gone
	once    sync.Once

	// Owned by the writer goroutine, and by Close after stopped.
	file file
	next int64
	err  error // the first failure: nothing is accepted after it
}

type pending struct {
	line  []byte
	done  chan struct{} // closed when index and err are set
	index int64
	err   error
}

// Torn reports what a crash left behind at the end of the log.
type Torn struct {
	Bytes int64 // cut off; 0 where nothing was
}

// Open opens the log at path, making it where there is none, and locks it
// against a second writer. A last line that a crash left unfinished is cut off
// and reported: it was never acknowledged.
func Open(path string) (*Log, Torn, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, Torn{}, fmt.Errorf("opening the audit log: %w", err)
	}
	next, torn, err := prepare(f, path)
	if err != nil {
		return nil, Torn{}, fmt.Errorf("opening the audit log %s: %w", path, errors.Join(err, f.Close()))
	}
	return start(f, next), torn, nil
}

func start(f file, next int64) *Log {
	l := &Log{
		appends: make(chan *pending), closing: make(chan struct{}), stopped: make(chan struct{}),
		file: f, next: next,
	}
	go l.write()
	return l
}

func prepare(f *os.File, path string) (next int64, torn Torn, err error) {
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return 0, Torn{}, errors.New("another process writes it: stop that one, or give this one another file")
	}
	lines, whole, size, err := scan(f)
	if err != nil {
		return 0, Torn{}, err
	}
	if whole < size {
		if err := f.Truncate(whole); err != nil {
			return 0, Torn{}, err
		}
	}
	if err := f.Sync(); err != nil {
		return 0, Torn{}, err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return 0, Torn{}, err
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return 0, Torn{}, err
	}
	return lines, Torn{size - whole}, nil
}

// scan counts the whole lines of r and their bytes.
func scan(r io.Reader) (lines, whole, size int64, err error) {
	in := bufio.NewReaderSize(r, 1<<20)
	for {
		chunk, err := in.ReadSlice('\n')
		size += int64(len(chunk))
		switch {
		case err == nil:
			lines++
			whole = size
		case errors.Is(err, io.EOF):
			return lines, whole, size, nil
		case errors.Is(err, bufio.ErrBufferFull):
			// An over-long line is somebody else's, but it is kept.
		default:
			return 0, 0, 0, err
		}
	}
}

// Append writes one entry and returns once it is on the disk. After an error
// the entry may or may not be there, and nothing may be shown. The context
// bounds the wait to be taken up, not the write.
func (l *Log) Append(ctx context.Context, e Entry) (Receipt, error) {
	e.Time = time.Now().UTC()
	line, err := json.Marshal(e)
	if err != nil {
		return Receipt{}, fmt.Errorf("encoding an audit entry: %w", err)
	}
	if len(line) > MaxEntryBytes {
		return Receipt{}, fmt.Errorf("an audit entry of %d bytes is over the limit of %d", len(line), MaxEntryBytes)
	}
	p := &pending{line: append(line, '\n'), done: make(chan struct{})}
	select { // these first: where several are ready, the next select takes any
	case <-l.closing:
		return Receipt{}, ErrClosed
	case <-ctx.Done():
		return Receipt{}, fmt.Errorf("waiting for the audit log: %w", ctx.Err())
	default:
	}
	select {
	case l.appends <- p:
	case <-l.closing:
		return Receipt{}, ErrClosed
	case <-ctx.Done():
		return Receipt{}, fmt.Errorf("waiting for the audit log: %w", ctx.Err())
	}
	<-p.done
	if p.err != nil {
		return Receipt{}, fmt.Errorf("writing the audit log: %w", p.err)
	}
	return Receipt{p.index}, nil
}

// write is the one writer: it takes up what waits, writes it at once, syncs
// once and answers all.
func (l *Log) write() {
	defer close(l.stopped)
	for {
		var group []*pending
		select {
		case p := <-l.appends:
			group = append(group, p)
		case <-l.closing:
			return
		}
	more:
		for len(group) < 1024 {
			select {
			case p := <-l.appends:
				group = append(group, p)
			default:
				break more
			}
		}
		l.commit(group)
	}
}

func (l *Log) commit(group []*pending) {
	if l.err == nil {
		var lines bytes.Buffer
		for _, p := range group {
			lines.Write(p.line)
		}
		// After a failed write or sync nobody knows what is on the disk: the
		// log stays closed until it is opened, and read, again.
		if _, err := l.file.Write(lines.Bytes()); err != nil {
			l.err = err
		} else if err := l.file.Sync(); err != nil {
			l.err = err
		}
	}
	for _, p := range group {
		p.err = l.err
		if p.err == nil {
			p.index = l.next
			l.next++
		}
		close(p.done)
	}
}

// Close waits for the entries that were taken up and closes the file.
func (l *Log) Close() error {
	err := ErrClosed
	l.once.Do(func() {
		close(l.closing)
		<-l.stopped
		err = l.file.Close()
	})
	return err
}
