package media

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// What goes over the pipes, all of it big-endian. To the process: first its
// limits; then for each picture a request, and a byte once it may take the
// memory that it asked for. From the process: messages of a type, a length and
// so many bytes. Both ends are the same program, so there is no version.
const (
	msgReady   = 'r' // locked in: nothing
	msgRefused = 'x' // not locked in: why, as text
	msgNeed    = 'n' // bytes of memory that decoding needs, 8 bytes
	msgFrame   = 'f' // index, 4 bytes, and what Look saw
	msgEnd     = 'e' // fault, what was skipped, format-independent numbers of the fault: 1 + 1 + 3*8 bytes

	msgHeader = 1 + 4
	endSize   = 1 + 1 + 3*8

	// maxMessage bounds what is read of a message, whatever its header says.
	maxMessage = 4 + MaxSeen

	requestHeader = 1 + 4 // want and the length of the file
	memoryGranted = 'g'
)

// limits are what a process must know of a [Config].
type limits struct {
	MaxBytes, MaxPixels, MaxFrames, MaxMemory, DecodeTime int64
}

func (c *Config) limits() limits {
	return limits{c.MaxBytes, c.MaxPixels, int64(c.MaxFrames), c.MaxMemory, int64(c.DecodeTime)}
}

func (l *limits) config() Config {
	c := DefaultConfig()
	c.MaxBytes, c.MaxPixels, c.MaxFrames, c.MaxMemory = l.MaxBytes, l.MaxPixels, int(l.MaxFrames), l.MaxMemory
	c.DecodeTime = time.Duration(l.DecodeTime)
	return c
}

func writeMessage(w io.Writer, kind byte, payload []byte) error {
	b := make([]byte, msgHeader, msgHeader+len(payload))
	b[0] = kind
	binary.BigEndian.PutUint32(b[1:], uint32(len(payload)))
	_, err := w.Write(append(b, payload...))
	return err
}

// errNonsense is an answer that no process of ours gives unless something took
// it over.
var errNonsense = errors.New("the answer makes no sense")

// readMessage reads a message of a length that its type may have.
func readMessage(r io.Reader) (kind byte, payload []byte, err error) {
	var header [msgHeader]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, nil, err
	}
	least, most := 0, 0
	switch header[0] {
	case msgReady:
	case msgRefused:
		most = 1 << 10
	case msgNeed:
		least, most = 8, 8
	case msgFrame:
		least, most = 4, maxMessage
	case msgEnd:
		least, most = endSize, endSize
	default:
		return 0, nil, errNonsense
	}
	n := binary.BigEndian.Uint32(header[1:])
	if n < uint32(least) || n > uint32(most) {
		return 0, nil, errNonsense
	}
	payload = make([]byte, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		return 0, nil, fmt.Errorf("reading a message: %w", err)
	}
	return header[0], payload, nil
}

// end is the last message about a picture.
type end struct {
	fault, skipped faultKind
	n              [3]int64
}

func (e *end) encode() []byte {
	b := []byte{byte(e.fault), byte(e.skipped)}
	for _, n := range e.n {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	return b
}

// decode refuses what a process cannot know or what has no text.
func (e *end) decode(b []byte) error {
	e.fault, e.skipped = faultKind(b[0]), faultKind(b[1])
	for i := range e.n {
		e.n[i] = int64(binary.BigEndian.Uint64(b[2+8*i:]))
		if e.n[i] < 0 {
			return errNonsense
		}
	}
	if e.fault >= firstOfProcess || e.skipped != noFault && e.skipped != faultAnimatedPNG {
		return errNonsense
	}
	return nil
}
