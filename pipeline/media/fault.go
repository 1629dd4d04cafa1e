package media

import (
	"strconv"
	"strings"
	"time"

	"github.com/dmguard/dmguard/pipeline"
)

// fault says why a picture, or a part of it, is not looked at. It is a number
// with numbers, because it also comes from a decoder process that a picture may
// have taken over: such a process chooses among our sentences, it writes none.
type fault struct {
	kind   faultKind
	format string
	n      [3]int64
}

type faultKind uint8

const (
	noFault faultKind = iota
	faultBytes
	faultVideo
	faultFormat
	faultPixels
	faultMemory
	faultTime
	faultCutShort
	faultEmpty
	faultPanic
	faultSize
	faultUnsupported
	faultDamaged
	faultAnimatedWebP
	faultAnimatedPNG
	faultGIFWork
	faultGIFDamaged
	faultGIFFrames
	faultLook

	// Those below are told of a decoder process, never by it.
	faultProcessMemory
	faultProcessForbidden
	faultProcessSignal
	faultProcessExit
	faultProcessAnswer

	// Those below are of videos, which no decoder process of ours is given.
	faultVideoProgram
	faultVideoSystem
	faultVideoStart
	faultVideoLock
	faultVideoTogether
	faultVideoSide
	faultVideoEmpty
	faultVideoFrames
	faultVideoDamaged
	faultVideoResized
	faultVideoTracks

	faultKinds
)

// firstOfProcess is the first fault that no decoder process may report of itself.
const firstOfProcess = faultProcessMemory

// faultTexts has {format}, the three numbers {0} to {2}, and {time}, the first
// of them as a duration.
var faultTexts = [faultKinds]string{
	faultBytes:            "it is larger than {0} bytes",
	faultVideo:            "videos in the format {format} are not looked at",
	faultFormat:           "pictures in the format {format} are not decoded",
	faultPixels:           "its {0} by {1} pixels are more than {2}",
	faultMemory:           "decoding its {0} by {1} pixels needs more than {2} bytes",
	faultTime:             "decoding it took longer than {time}",
	faultCutShort:         "the {format} picture is cut short",
	faultEmpty:            "the {format} picture is not decodable: it has no pixels",
	faultPanic:            "the {format} picture is not decodable: the decoder panicked",
	faultSize:             "the {format} picture is not decodable: its size is not what its header said",
	faultUnsupported:      "the {format} picture uses a feature that is not supported",
	faultDamaged:          "the {format} picture is damaged",
	faultAnimatedWebP:     "animated webp pictures are not decoded",
	faultAnimatedPNG:      "the later frames of the animated png were not looked at",
	faultGIFWork:          "the frames of the gif picture from number {0} on were not looked at: they are too many or too large",
	faultGIFDamaged:       "the frames of the gif picture from number {0} on were not looked at: they are damaged or cut short",
	faultGIFFrames:        "the frames of the gif picture from number {0} on were not looked at: more than {1} differ",
	faultLook:             "looking at the {format} picture failed",
	faultProcessMemory:    "the process that decoded it ran out of memory",
	faultProcessForbidden: "the process that decoded it tried what it may not do and was killed",
	faultProcessSignal:    "the process that decoded it was ended by signal {0}",
	faultProcessExit:      "the process that decoded it ended with status {0}",
	faultProcessAnswer:    "the process that decoded it gave an answer that makes no sense",
	faultVideoProgram:     "videos are not looked at: there is no ffmpeg",
	faultVideoSystem:      "videos are not looked at on this system",
	faultVideoStart:       "the {format} video was not looked at: ffmpeg could not be started",
	faultVideoLock:        "the {format} video was not looked at: ffmpeg could not be locked in",
	faultVideoTogether:    "the videos of its message took longer than {time} together",
	faultVideoSide:        "a side of its picture is {0} pixels long, more than {1}",
	faultVideoEmpty:       "the {format} video has no frame that can be decoded",
	faultVideoFrames:      "the frames of the {format} video from second {0} on were not looked at: there are more than {1}",
	faultVideoDamaged:     "parts of the {format} video may not have been looked at: they are damaged or cut short",
	faultVideoResized:     "the picture of the {format} video changes its size: later frames were brought to the first one's",
	faultVideoTracks:      "the tracks of the {format} video beyond the first {0} were not looked at",
}

func (f *fault) Error() string { return f.kind.text(f.format, f.n) }

func (k faultKind) text(format string, n [3]int64) string {
	return strings.NewReplacer("{format}", format, "{time}", time.Duration(n[0]).String(),
		"{0}", strconv.FormatInt(n[0], 10), "{1}", strconv.FormatInt(n[1], 10), "{2}", strconv.FormatInt(n[2], 10)).Replace(faultTexts[k])
}

// faulty returns a fault as a permanent error.
func faulty(kind faultKind, format string, n ...int64) error {
	f := &fault{kind: kind, format: format}
	copy(f.n[:], n)
	return pipeline.Permanent(f)
}
