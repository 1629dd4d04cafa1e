package media

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"math/bits"
)

// blockReader reads the frames that ffmpeg writes as Matroska (RFC 9559): raw
// pixels in blocks, each with its track, its time and its length, so that no byte
// of a picture can pass for the beginning of the next. The little that it knows of
// the format it holds the writer to; everything else is passed over.
type blockReader struct {
	r       *bufio.Reader
	tracks  []track
	cluster int64 // time of the blocks to come, in milliseconds
}

// track is one picture that moves.
type track struct {
	number        uint64
	width, height int
}

// block says what comes next in the reader: the pixels of a frame.
type block struct {
	track int   // an index into blockReader.tracks
	time  int64 // milliseconds
	size  int64 // bytes
}

// Elements, by their IDs. The first ones contain others and are simply entered:
// what is inside of them is told apart by its ID.
const (
	idSegment     = 0x18538067
	idTracks      = 0x1654AE6B
	idTrackEntry  = 0xAE
	idVideo       = 0xE0
	idCluster     = 0x1F43B675
	idBlockGroup  = 0xA0
	idTrackNumber = 0xD7
	idPixelWidth  = 0xB0
	idPixelHeight = 0xBA
	idTimestamp   = 0xE7
	idSimpleBlock = 0xA3
	idBlock       = 0xA1
)

const (
	maxTracks  = 8
	maxPassed  = 1 << 20 // bytes of an element that is passed over
	maxSeconds = 1 << 31
)

// next reads up to the pixels of the next frame. [io.EOF] is the end.
func (b *blockReader) next() (block, error) {
	for {
		id, err := b.id()
		if err != nil {
			return block{}, err
		}
		size, err := b.size()
		if err != nil {
			return block{}, cut(err)
		}
		switch id {
		case idSegment, idTracks, idVideo, idCluster, idBlockGroup:
		case idTrackEntry:
			if len(b.tracks) == maxTracks {
				return block{}, errNonsense
			}
			b.tracks = append(b.tracks, track{})
		case idTrackNumber, idPixelWidth, idPixelHeight, idTimestamp:
			if err := b.number(id, size); err != nil {
				return block{}, cut(err)
			}
		case idSimpleBlock, idBlock:
			found, err := b.block(size)
			return found, cut(err)
		default:
			if size < 0 || size > maxPassed {
				return block{}, errNonsense
			}
			if _, err := b.r.Discard(int(size)); err != nil {
				return block{}, cut(err)
			}
		}
	}
}

// cut is err, where the end of the stream is not to be expected.
func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// vint reads a number of up to most bytes: the zeros at its beginning say how
// many. It returns them too, and the number with its leading one.
func (b *blockReader) vint(most int) (v uint64, n int, err error) {
	first, err := b.r.ReadByte()
	if err != nil {
		return 0, 0, err
	}
	n = bits.LeadingZeros8(first) + 1
	if n > most {
		return 0, 0, errNonsense
	}
	v = uint64(first)
	for range n - 1 {
		c, err := b.r.ReadByte()
		if err != nil {
			return 0, 0, cut(err)
		}
		v = v<<8 | uint64(c)
	}
	return v, n, nil
}

func (b *blockReader) id() (uint64, error) {
	v, _, err := b.vint(4)
	return v, err
}

// plain is vint without the leading one; -1 where all other bits are set, which
// means a length that the writer did not know.
func (b *blockReader) plain() (v int64, n int, err error) {
	u, n, err := b.vint(8)
	if err != nil {
		return 0, 0, err
	}
	mask := uint64(1)<<(7*n) - 1
	if u &= mask; u == mask {
		return -1, n, nil
	}
	return int64(u), n, nil
}

func (b *blockReader) size() (int64, error) {
	v, _, err := b.plain()
	return v, err
}

// number takes over the value of an element.
func (b *blockReader) number(id uint64, size int64) error {
	if size < 0 || size > 8 {
		return errNonsense
	}
	var raw [8]byte
	if _, err := io.ReadFull(b.r, raw[8-size:]); err != nil {
		return err
	}
	v := binary.BigEndian.Uint64(raw[:])
	if id == idTimestamp {
		if v > 1000*maxSeconds {
			return errNonsense
		}
		b.cluster = int64(v)
		return nil
	}
	if len(b.tracks) == 0 {
		return errNonsense
	}
	t := &b.tracks[len(b.tracks)-1]
	switch {
	case id == idTrackNumber:
		t.number = v
	case v > maxSide+1:
		return faulty(faultVideoSide, "", int64(min(v, 1<<62)), maxSide)
	case id == idPixelWidth:
		t.width = int(v)
	case id == idPixelHeight:
		t.height = int(v)
	}
	return nil
}

// block reads the head of a block.
func (b *blockReader) block(size int64) (block, error) {
	number, n, err := b.plain()
	if err != nil {
		return block{}, err
	}
	var head [3]byte // the time in its cluster, and flags
	if _, err := io.ReadFull(b.r, head[:]); err != nil {
		return block{}, err
	}
	found := block{track: -1, size: size - int64(n+len(head)), time: b.cluster + int64(int16(binary.BigEndian.Uint16(head[:])))}
	for i := range b.tracks {
		if int64(b.tracks[i].number) == number {
			found.track = i
		}
	}
	if found.track < 0 || found.size < 0 || found.time < 0 {
		return block{}, errNonsense
	}
	return found, nil
}
