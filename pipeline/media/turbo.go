//go:build turbo

package media

// #cgo LDFLAGS: -lturbojpeg
// #include <turbojpeg.h>
import "C"

import (
	"image"
	"unsafe"
)

// Turbo says that this program decodes JPEG by libjpeg-turbo in a [Sandbox]. It
// takes the build tag turbo.
const Turbo = true

// sandboxedJPEG decodes the luma of a JPEG with libjpeg-turbo, scaled by its
// transform where that is allowed, and returns nil for whatever it has any
// doubt about: colours that are not luma and two differences, more than 500
// scans, each fault and each warning. [jpeg.Decode] then has the last word, so that a
// damaged picture is called the same in every build.
//
// It is C code that reads hostile bytes, and is called where that can do no harm only.
func sandboxedJPEG(data []byte, size image.Point, shrink bool) image.Image {
	handle := C.tjInitDecompress()
	if handle == nil {
		return nil
	}
	defer C.tjDestroy(handle)
	file, length := (*C.uchar)(unsafe.SliceData(data)), C.ulong(len(data))
	var width, height, sampling, colours C.int
	if C.tjDecompressHeader3(handle, file, length, &width, &height, &sampling, &colours) != 0 {
		return nil
	}
	if int(width) != size.X || int(height) != size.Y || colours != C.TJCS_YCbCr && colours != C.TJCS_GRAY {
		return nil
	}
	out := shrunk(size, shrink)
	img := image.NewGray(image.Rectangle{Max: out})
	const flags = C.TJFLAG_ACCURATEDCT | C.TJFLAG_STOPONWARNING | C.TJFLAG_LIMITSCANS
	if C.tjDecompress2(handle, file, length, (*C.uchar)(unsafe.SliceData(img.Pix)), C.int(out.X), C.int(img.Stride), C.int(out.Y), C.TJPF_GRAY, flags) != 0 {
		return nil
	}
	return img
}

// shrunk is the size at which a picture is decoded: halved up to three times, as
// long as its smaller side keeps [ShrunkSide] pixels. Other fractions take the
// library longer than they save.
func shrunk(size image.Point, shrink bool) image.Point {
	for range 3 {
		half := image.Pt((size.X+1)/2, (size.Y+1)/2)
		if !shrink || min(half.X, half.Y) < ShrunkSide {
			break
		}
		size = half
	}
	return size
}
