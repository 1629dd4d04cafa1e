package media

import (
	"bytes"
	"encoding/binary"
	"strings"
)

// Kind says what is to be looked at in a file.
type Kind int

// Kinds of content.
const (
	Other Kind = iota // neither: its digests are all there is
	Image
	Video
)

// Format is what a file is by its content.
type Format struct {
	Name string // "jpeg", "mp4"; "" where unknown
	Kind Kind
}

// Declared returns what a media type such as "image/png" claims a file to be.
func Declared(mediaType string) Kind {
	switch top, _, _ := strings.Cut(strings.ToLower(strings.TrimSpace(mediaType)), "/"); top {
	case "image":
		return Image
	case "video":
		return Video
	}
	return Other
}

// Sniff tells by its first bytes what a file is.
func Sniff(data []byte) Format {
	at := func(i int, s string) bool { return len(data) >= i+len(s) && string(data[i:i+len(s)]) == s }
	for _, m := range magics {
		if at(m.offset, m.magic) {
			return m.Format
		}
	}
	switch {
	case at(4, "ftyp"):
		return isoMedia(data)
	case at(0, "\x1aE\xdf\xa3"):
		if bytes.Contains(data[:min(len(data), 64)], []byte("matroska")) {
			return Format{"matroska", Video}
		}
		return Format{"webm", Video}
	case at(0, "BM") && len(data) >= 18 && isDIB(binary.LittleEndian.Uint32(data[14:])):
		return Format{"bmp", Image}
	case at(0, "\x47") && len(data) > 376 && data[188] == 0x47 && data[376] == 0x47:
		return Format{"mpeg-ts", Video}
	}
	for _, box := range []string{"moov", "mdat", "wide", "pnot", "skip"} { // QuickTime before it named itself
		if at(4, box) {
			return Format{"mov", Video}
		}
	}
	if head := bytes.ToLower(data[:min(len(data), 1024)]); bytes.Contains(head, []byte("<svg")) {
		return Format{"svg", Image}
	}
	return Format{}
}

var magics = []struct {
	offset int
	magic  string
	Format
}{
	{0, "\xff\xd8\xff", Format{"jpeg", Image}},
	{0, "\x89PNG\r\n\x1a\n", Format{"png", Image}},
	{0, "GIF87a", Format{"gif", Image}},
	{0, "GIF89a", Format{"gif", Image}},
	{8, "WEBPVP8", Format{"webp", Image}},
	{0, "II*\x00", Format{"tiff", Image}},
	{0, "MM\x00*", Format{"tiff", Image}},
	{0, "II+\x00", Format{"tiff", Image}},
	{0, "MM\x00+", Format{"tiff", Image}},
	{0, "\xff\x0a", Format{"jpeg-xl", Image}},
	{0, "\x00\x00\x00\x0cJXL ", Format{"jpeg-xl", Image}},
	{0, "\x00\x00\x00\x0cjP  ", Format{"jpeg-2000", Image}},
	{0, "\xff\x4f\xff\x51", Format{"jpeg-2000", Image}},
	{0, "8BPS", Format{"psd", Image}},
	{0, "\x00\x00\x01\x00", Format{"ico", Image}},
	{8, "AVI ", Format{"avi", Video}},
	{0, "FLV\x01", Format{"flv", Video}},
	{0, "\x00\x00\x01\xba", Format{"mpeg", Video}},
	{0, "\x00\x00\x01\xb3", Format{"mpeg", Video}},
	{0, "\x30\x26\xb2\x75\x8e\x66\xcf\x11", Format{"wmv", Video}},
}

// isDIB reports whether a size is that of a header that follows a BMP's first 14 bytes.
func isDIB(size uint32) bool {
	switch size {
	case 12, 16, 40, 52, 56, 64, 108, 124:
		return true
	}
	return false
}

// isoMedia tells the members of the ISO base media family apart by the major brand.
func isoMedia(data []byte) Format {
	if len(data) < 12 {
		return Format{"mp4", Video}
	}
	switch brand := string(data[8:12]); brand {
	case "avif", "avis":
		return Format{"avif", Image}
	case "heic", "heix", "hevc", "hevx", "heim", "heis", "mif1", "msf1":
		return Format{"heif", Image}
	case "M4A ", "M4B ", "M4P ":
		return Format{"m4a", Other}
	case "qt  ":
		return Format{"mov", Video}
	}
	return Format{"mp4", Video}
}
