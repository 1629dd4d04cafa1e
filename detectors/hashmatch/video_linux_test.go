//go:build linux && (amd64 || arm64)

package hashmatch

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"

	"github.com/dmguard/dmguard/hashdb"
	"github.com/dmguard/dmguard/hashdb/pdq"
	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/pipeline/media"
)

// makeFilm has ffmpeg make a file, and returns it with its path.
func makeFilm(tb testing.TB, name string, arguments ...string) (data []byte, path string) {
	tb.Helper()
	path = filepath.Join(tb.TempDir(), name)
	cmd := exec.CommandContext(context.Background(), "ffmpeg", append(append([]string{"-nostdin", "-y", "-loglevel", "error"}, arguments...), path)...)
	if said, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("ffmpeg, which the tests need: %v\n%s", err, said)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return data, path
}

// videoList lists a video by the hashes of its frames.
func videoList(tb testing.TB, m *pipeline.Media, id string) hashdb.List {
	tb.Helper()
	list := hashdb.List{Name: "films", Version: "v1", Category: "csam"}
	for _, h := range m.Hashes {
		if h.Kind == hashdb.VPDQ.String() {
			list.Entries = append(list.Entries, entry(tb, hashdb.VPDQ, h.Value, id, ""))
		}
	}
	return list
}

func TestVariantsOfAKnownVideoAreFound(t *testing.T) {
	p := newTestPreparer(t, nil)
	type variant struct {
		name      string
		arguments []string
		found     string // always, or where the video changes slowly, as one frame a second then is like the next
	}
	variants := []variant{
		{"as it is.mp4", []string{"-c", "copy"}, "always"},
		{"as mov.mov", []string{"-c", "copy"}, "always"},
		{"compressed hard.mp4", []string{"-crf", "38", "-preset", "ultrafast"}, "slow"},
		{"as vp8.webm", []string{"-c:v", "libvpx", "-b:v", "300k"}, "slow"},
		{"half the size.mp4", []string{"-vf", "scale=iw/2:-2"}, "slow"},
		{"a third larger.mp4", []string{"-vf", "scale=iw*4/3:-2"}, "slow"},
		{"brighter.mp4", []string{"-vf", "eq=brightness=0.08:contrast=1.1"}, "slow"},
		{"mirrored.mp4", []string{"-vf", "hflip"}, "slow"},
		{"turned.mp4", []string{"-vf", "transpose=1"}, "slow"},
		{"half the frames.mp4", []string{"-r", "5"}, "slow"},
		{"without its first tenth.mp4", []string{"-ss", "1"}, "slow"},
		{"only its second half.mp4", []string{"-ss", "5"}, ""},
		{"letterboxed.mp4", []string{"-vf", "pad=iw:ih*4/3:0:(oh-ih)/2"}, ""},
		{"cropped by a tenth.mp4", []string{"-vf", "crop=iw*9/10:ih*9/10"}, ""},
	}
	for _, change := range []struct{ name, filter string }{
		{"slow", "rotate=t/60:c=none"}, {"fast", "rotate=t/2:c=none"},
	} {
		_, path := makeFilm(t, "known.mp4", "-f", "lavfi", "-i", "smptehdbars=s=480x270:r=10:d=10", "-vf", change.filter, "-pix_fmt", "yuv420p", "-preset", "ultrafast")
		known, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		list := videoList(t, &prepared(t, p, inline("a", "video/mp4", known)).Media[0], "film-1")
		lists := set(t, list)
		list.VideoShare = 1
		anyShare := set(t, list)
		whole := lists.Lists()[0].Entries[hashdb.VPDQ]
		for _, v := range variants {
			data, _ := makeFilm(t, v.name, append([]string{"-i", path, "-preset", "ultrafast"}, v.arguments...)...)
			item := prepared(t, p, inline("a", "video/mp4", data))
			var frames []hashdb.Query
			for i := range item.Media[0].Hashes {
				if h := &item.Media[0].Hashes[i]; h.Kind == hashdb.VPDQ.String() {
					q, err := queryOf(h)
					if err != nil {
						t.Fatal(err)
					}
					frames = append(frames, q)
				}
			}
			findings, err := detect(t, lists, item)
			if err != nil {
				t.Errorf("%s, %s: %v", change.name, v.name, err)
			}
			met := 0
			for _, m := range anyShare.MatchVideo(frames).Matches {
				met = m.Met
			}
			t.Logf("%-5s %-28s %2d of %2d known frames met, %d findings", change.name, v.name, met, whole, len(findings))
			matched := len(findings) > 0 && findings[0].Label == "vpdq" && findings[0].Match.Entry == "film-1"
			switch {
			case v.found == "always" && (!matched || findings[0].Score != 1),
				v.found == "slow" && change.name == "slow" && !matched:
				t.Errorf("%s, %s: %+v", change.name, v.name, findings)
			}
		}
	}
}

func TestFramesOfAVideoAreLookedUpAmongPictures(t *testing.T) {
	p := newTestPreparer(t, nil)
	data, path := makeFilm(t, "a.mp4", "-f", "lavfi", "-i", "testsrc2=s=640x360:r=10:d=5", "-vf", "rotate=t/2:c=none", "-pix_fmt", "yuv420p")
	still, _ := makeFilm(t, "still.png", "-i", path, "-ss", "3", "-frames:v", "1")
	item := prepared(t, p, inline("still", "image/png", still), inline("film", "video/mp4", data))
	var hash string
	for _, h := range item.Media[0].Hashes {
		if h.Kind == "pdq" {
			hash = h.Value
		}
	}
	lists := set(t, hashdb.List{Name: "pictures", Category: "csam", Entries: []hashdb.Entry{entry(t, hashdb.PDQ, hash, "77", "")}})
	findings, err := detect(t, lists, item)
	if err != nil || len(findings) != 2 {
		t.Fatalf("%+v, %v", findings, err)
	}
	if f := findings[1]; f.Label != "pdq" || f.Match.Frame != 3 || f.Match.AttachmentID != "film" || !strings.HasSuffix(f.Reason, ", at second 3 of the video") {
		t.Errorf("%+v", f)
	}
	if f := findings[0]; strings.Contains(f.Reason, "second") {
		t.Errorf("of the picture: %+v", f)
	}
}

func TestFramesHaveTheHashOfTheirPixels(t *testing.T) {
	_, path := makeFilm(t, "a.mp4", "-f", "lavfi", "-i", "testsrc2=s=640x360:r=10:d=2", "-vf", "rotate=t/2:c=none", "-pix_fmt", "yuv420p")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	item := prepared(t, newTestPreparer(t, nil), inline("film", "video/mp4", data))
	for second := range 2 {
		still, _ := makeFilm(t, "still.png", "-i", path, "-ss", fmt.Sprint(second), "-frames:v", "1", "-pix_fmt", "rgb24")
		img, err := png.Decode(bytes.NewReader(still))
		if err != nil {
			t.Fatal(err)
		}
		for kind, mode := range map[string]pdq.Mode{"pdq": pdq.NN512, "vpdq": pdq.Native} {
			want, _ := new(pdq.Hasher).Hash(img, mode)
			for _, h := range item.Media[0].Hashes {
				if h.Kind != kind || h.Frame != second {
					continue
				}
				got, err := hashdb.ParseHash(hashdb.PDQ, h.Value)
				if err != nil {
					t.Fatal(err)
				}
				d := 0
				for i, b := range got.Bytes() {
					for x := b ^ want[i]; x != 0; x &= x - 1 {
						d++
					}
				}
				if h.Algorithm != mode.Algorithm() || d > 4 { // colours go through luma on the one way and RGB on the other
					t.Errorf("second %d: %s is %d bits from that of the colours", second, h.Algorithm, d)
				}
			}
		}
	}
}

func TestEqualAndBlankFramesOfAVideoAreLeftOut(t *testing.T) {
	look := NewLook()
	blank, err := look(media.Frame{Image: image.NewGray(image.Rect(0, 0, 90, 90)), Video: true}, 0)
	if err != nil {
		t.Fatal(err)
	}
	seen, err := look(media.Frame{Image: picture(1), Video: true}, 0)
	if err != nil {
		t.Fatal(err)
	}
	var f film
	for second, s := range [][]byte{blank, seen, seen, blank} {
		if err := f.add(second, s); err != nil {
			t.Fatal(err)
		}
	}
	if len(f.hashes) != 2 || f.hashes[0].Kind != "vpdq" || f.hashes[1].Kind != "pdq" || f.hashes[0].Frame != 1 || len(f.hashes[0].Variants) != 7 {
		t.Errorf("%+v", f.hashes)
	}
	for name, bad := range map[string][]byte{
		"nothing": nil, "too short": seen[1:], "a picture's": seen[:viewSize], "a quality beyond 100": append([]byte{101}, seen[1:]...),
	} {
		if err := f.add(9, bad); !pipeline.IsPermanent(err) || len(f.hashes) != 2 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestHashesOfAVideoAreTheSameInTheSandbox(t *testing.T) {
	sandbox, err := media.StartSandbox(t.Context(), media.DefaultConfig(), 1, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sandbox.Close)
	here := newTestPreparer(t, nil)
	data, _ := makeFilm(t, "a.webm", "-f", "lavfi", "-i", "testsrc2=s=320x180:r=5:d=3", "-c:v", "libvpx")
	want := prepared(t, here, inline("a", "video/webm", data)).Media
	got := prepared(t, NewPreparer(here.fetcher, sandbox), inline("a", "video/webm", data)).Media
	if diff := cmp.Diff(want, got); diff != "" || len(got[0].Hashes) != 3+6 || got[0].Err != "" {
		t.Errorf("%d hashes, %q (-service +sandbox)\n%s", len(got[0].Hashes), got[0].Err, diff)
	}
}

// BenchmarkVideo gives the processor time of a whole attachment, of ffmpeg and of the service, and for each frame that is
// looked at. Clips have 30 frames a second, of which one is looked at.
func BenchmarkVideo(b *testing.B) {
	sandbox, err := media.StartSandbox(b.Context(), media.DefaultConfig(), 1, zap.NewNop())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(sandbox.Close)
	p := NewPreparer(newTestPreparer(b, nil).fetcher, sandbox)
	for _, c := range []struct {
		name, size string
		seconds    int
	}{{"480p", "854x480", 10}, {"720p", "1280x720", 10}, {"1080p", "1920x1080", 10}, {"720p of 30 s", "1280x720", 30}} {
		data, _ := makeFilm(b, "a.mp4", "-f", "lavfi", "-i", fmt.Sprintf("testsrc2=s=%s:r=30:d=%d", c.size, c.seconds),
			"-pix_fmt", "yuv420p", "-preset", "veryfast", "-b:v", "3M")
		b.Run(c.name, func(b *testing.B) {
			self, children := processorTime(b, syscall.RUSAGE_SELF), processorTime(b, syscall.RUSAGE_CHILDREN)
			for b.Loop() {
				if m := prepared(b, p, inline("a", "video/mp4", data)).Media[0]; m.Err != "" || len(m.Hashes) < c.seconds {
					b.Fatalf("%d hashes, %s", len(m.Hashes), m.Err)
				}
			}
			frames := float64(b.N * c.seconds)
			service, ffmpeg := processorTime(b, syscall.RUSAGE_SELF)-self, processorTime(b, syscall.RUSAGE_CHILDREN)-children
			b.ReportMetric(float64(service.Microseconds())/1e3/frames, "service-ms/frame")
			b.ReportMetric(float64(ffmpeg.Microseconds())/1e3/frames, "ffmpeg-ms/frame")
			b.ReportMetric(float64((service+ffmpeg).Microseconds())/1e3/float64(b.N), "cpu-ms/op")
		})
	}
	var most syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &most); err != nil {
		b.Fatal(err)
	}
	b.Logf("the largest process, also of those that made the clips, had %d MiB", most.Maxrss>>10)
}

func processorTime(b *testing.B, who int) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(who, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
