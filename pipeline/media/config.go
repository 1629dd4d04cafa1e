package media

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"gocloud.dev/blob"
)

// Config bounds what fetching and decoding may reach and use.
type Config struct {
	// FileRoots are the folders below which file:// addresses are read; none
	// means no files.
	FileRoots []string `yaml:"file_roots"`

	// Stores are the buckets that attachments may lie in, as gocloud.dev/blob
	// opens them: "s3://media?region=eu-central-1", "gs://media",
	// "azblob://media". An attachment names one without its query:
	// "s3://media/key".
	Stores []string `yaml:"stores"`

	// Origins are where https:// addresses may lead, such as
	// "https://cdn.example.org"; http:// is possible. None means no web. Addresses
	// that are not public are never connected to, whatever name leads there.
	Origins []string `yaml:"origins"`

	// Buckets are stores that are open already, by their address without a
	// query, such as "mem://media". The caller closes them.
	Buckets map[string]*blob.Bucket `yaml:"-"`

	MaxBytes     int64         `yaml:"max_bytes"`  // of one attachment
	MaxPixels    int64         `yaml:"max_pixels"` // of one picture
	MaxFrames    int           `yaml:"max_frames"` // distinct ones, of one animation
	MaxMemory    int64         `yaml:"max_memory"` // bytes, of all pictures being decoded at one time
	FetchTimeout time.Duration `yaml:"fetch_timeout"`
	DecodeTime   time.Duration `yaml:"decode_time"`

	// FFmpeg decodes videos: a path, or a name to be found in PATH; "" for none.
	FFmpeg         string        `yaml:"ffmpeg"`
	MaxVideoBytes  int64         `yaml:"max_video_bytes"`  // of one video, in place of MaxBytes
	MaxVideoFrames int           `yaml:"max_video_frames"` // of one video, one for each second
	VideoTime      time.Duration `yaml:"video_time"`       // for one video, and for all of a message together
}

// DefaultConfig returns the limits that the reference configuration states, and
// nothing that could be fetched.
func DefaultConfig() Config {
	return Config{
		MaxBytes:     32 << 20,
		MaxPixels:    50_000_000,
		MaxFrames:    16,
		MaxMemory:    768 << 20,
		FetchTimeout: 30 * time.Second,
		DecodeTime:   10 * time.Second,

		FFmpeg:         "ffmpeg",
		MaxVideoBytes:  64 << 20,
		MaxVideoFrames: 120,
		VideoTime:      20 * time.Second,
	}
}

// Validate reports every limit that makes no sense.
func (c *Config) Validate() error {
	var errs []error
	for _, l := range []struct {
		name      string
		v, lo, hi int64
	}{
		{"max_bytes", c.MaxBytes, 1, 1 << 30},
		{"max_pixels", c.MaxPixels, 1, 1 << 30},
		{"max_frames", int64(c.MaxFrames), 1, 1024},
		{"max_memory", c.MaxMemory, 1 << 20, 1 << 40},
		{"fetch_timeout in nanoseconds", int64(c.FetchTimeout), int64(time.Millisecond), int64(time.Hour)},
		{"decode_time in nanoseconds", int64(c.DecodeTime), int64(time.Millisecond), int64(time.Hour)},
		{"max_video_bytes", c.MaxVideoBytes, 1, 1 << 30},
		{"max_video_frames", int64(c.MaxVideoFrames), 1, 1024},
		{"video_time in nanoseconds", int64(c.VideoTime), int64(time.Millisecond), int64(time.Hour)},
	} {
		if l.v < l.lo || l.v > l.hi {
			errs = append(errs, fmt.Errorf("media: %s is %d, want %d to %d", l.name, l.v, l.lo, l.hi))
		}
	}
	if strings.ContainsRune(c.FFmpeg, '/') && !filepath.IsAbs(c.FFmpeg) {
		errs = append(errs, errors.New("media: ffmpeg is neither a name nor an absolute path"))
	}
	return errors.Join(errs...)
}
