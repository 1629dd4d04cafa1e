//go:build linux && (amd64 || arm64)

package main

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/dmguard/dmguard/pipeline"
)

// makeFilm has ffmpeg make a video at path.
func makeFilm(t *testing.T, path string, arguments ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "ffmpeg", append(append([]string{"-nostdin", "-loglevel", "error"}, arguments...), path)...)
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ffmpeg, which the tests need: %v\n%s", err, said)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// generatedVideo is a video of so many seconds, as ffmpeg is asked for it: turning, so that its frames differ.
func generatedVideo(source string, seconds int) []string {
	return []string{"-f", "lavfi", "-i", fmt.Sprintf("%s=s=320x240:r=5:d=%d", source, seconds), "-vf", "rotate=t/3:c=none,hue=h=20*t", "-pix_fmt", "yuv420p"}
}

// vpdqList makes a CSV list of what "dmguard hash" prints of a video.
func vpdqList(t *testing.T, path, entry string) string {
	t.Helper()
	var out, errs bytes.Buffer
	if status := run(t.Context(), []string{"hash", "--kind", "vpdq", path}, streams{nil, &out, &errs}); status != 0 {
		t.Fatalf("status %d: %s%s", status, out.String(), errs.String())
	}
	list := "kind,hash,entry,category\n"
	for line := range strings.Lines(out.String()) {
		f := strings.Split(strings.TrimSpace(line), "\t")
		if len(f) != 5 || f[0] != path || f[1] != "vpdq" {
			t.Fatalf("line %q", line)
		}
		if quality, err := strconv.Atoi(f[3]); err != nil || quality >= 50 {
			list += fmt.Sprintf("vpdq,%s,%s,csam\n", f[4], entry)
		}
	}
	return list
}

func scanFilms(t *testing.T, arguments []string, films ...[]byte) (verdicts []pipeline.Verdict, log string) {
	t.Helper()
	var in, out, errs bytes.Buffer
	for i, data := range films {
		fmt.Fprintf(&in, `{"id":"m-%d","conversation_id":"c","sent_at":"2026-03-01T16:00:00Z","sender":{"id":"u"},"text":"x",`+
			`"attachments":[{"id":"a-1","media_type":"video/mp4","data":"%s"}]}`+"\n", i, base64.StdEncoding.EncodeToString(data))
	}
	if status := run(t.Context(), append([]string{"scan"}, arguments...), streams{&in, &out, &errs}); status != 0 {
		t.Fatalf("status %d: %s", status, errs.String())
	}
	for line := range strings.Lines(out.String()) {
		var v pipeline.Verdict
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatal(err)
		}
		verdicts = append(verdicts, v)
	}
	if len(verdicts) != len(films) {
		t.Fatalf("%d verdicts of %d messages", len(verdicts), len(films))
	}
	return verdicts, errs.String()
}

func TestAKnownVideoIsFoundByScan(t *testing.T) {
	dir, lists := t.TempDir(), t.TempDir()
	known := filepath.Join(dir, "known.mp4")
	makeFilm(t, known, generatedVideo("testsrc2", 12)...)
	copied := makeFilm(t, filepath.Join(dir, "copied.webm"), "-i", known, "-vf", "scale=240:-2", "-c:v", "libvpx", "-b:v", "400k")
	stranger := makeFilm(t, filepath.Join(dir, "stranger.mov"), generatedVideo("smptebars", 4)...)
	if err := os.WriteFile(filepath.Join(lists, "films.csv"), []byte(vpdqList(t, known, "film-7")), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, where := range []string{decodeSandbox, decodeInProcess} {
		verdicts, log := scanFilms(t, []string{"--lists", lists, "--decode", where}, copied, stranger)
		v := verdicts[0]
		if v.Status != pipeline.Scanned || v.Action != pipeline.Block || len(v.Findings) != 1 {
			t.Fatalf("%+v\n%s", v, log)
		}
		f := v.Findings[0]
		if f.Label != "vpdq" || f.Category != "csam" || f.Score < 0.8 || f.Match.Entry != "film-7" || f.Match.Kind != "vpdq" ||
			!strings.HasPrefix(f.Reason, "list films, entry film-7, vpdq: ") || !strings.Contains(f.Reason, " of 12 known frames") {
			t.Errorf("%+v", f)
		}
		if v := verdicts[1]; v.Status != pipeline.Scanned || len(v.Findings) != 0 {
			t.Errorf("another video: %+v\n%s", v, log)
		}
	}
}

func TestAVideoIsLookedUpByItsFrames(t *testing.T) {
	dir, lists := t.TempDir(), t.TempDir()
	known, smaller := filepath.Join(dir, "known.mp4"), filepath.Join(dir, "smaller.webm")
	makeFilm(t, known, generatedVideo("testsrc2", 3)...)
	makeFilm(t, smaller, "-i", known, "-vf", "scale=240:-2", "-c:v", "libvpx", "-b:v", "400k")
	if err := os.WriteFile(filepath.Join(lists, "films.csv"), []byte(vpdqList(t, known, "film-7")), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, most := range map[string]int{known: 0, smaller: 31} {
		r, said := lookedUpIn(t, lists, path)
		if len(r.Entries) != 1 || r.Entries[0].Entry != "film-7" || !r.Entries[0].Matches || r.Entries[0].Distance > most ||
			r.asked() != "map[md5:1 sha1:1 sha256:1 vpdq:3]" || strings.Contains(said, "looked up") {
			t.Errorf("%s: %+v: %s", path, r, said)
		}
	}
}

func TestVpdqPrintsALineForEachSecond(t *testing.T) {
	dir := t.TempDir()
	film, cut, text := filepath.Join(dir, "film.mp4"), filepath.Join(dir, "cut.mp4"), filepath.Join(dir, "text.mp4")
	data := makeFilm(t, film, append(generatedVideo("testsrc2", 3), "-movflags", "+faststart")...)
	for path, content := range map[string][]byte{cut: data[:len(data)*3/4], text: []byte("a shopping list")} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out, errs bytes.Buffer
	if status := run(t.Context(), []string{"hash", "--kind", "vpdq", text, cut, film}, streams{nil, &out, &errs}); status != 3 {
		t.Errorf("status %d: %s", status, errs.String())
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) < 5 || lines[0] != text+"\tvpdq\terror\tnot a video that is known" {
		t.Fatalf("%q", lines)
	}
	for second, line := range lines[len(lines)-3:] {
		hash := strings.TrimPrefix(line, fmt.Sprintf("%s\tvpdq\t%d\t100\t", film, second))
		if len(hash) != 64 {
			t.Errorf("line %q", line)
		}
	}
	if line := lines[len(lines)-4]; !strings.HasPrefix(line, cut+"\tvpdq\terror\t") {
		t.Errorf("of the video that is cut short: %q", line)
	}
	out.Reset()
	if status := run(t.Context(), []string{"hash", "--kind", "pdq", film}, streams{nil, &out, &errs}); status != 3 || !strings.Contains(out.String(), "a vpdq hash for each frame") {
		t.Errorf("status %d: %s", status, out.String())
	}
}

func TestWithoutFFmpegVerdictsOnVideosArePartialAndItIsSaidOnce(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "dmguard.yaml")
	if err := os.WriteFile(config, []byte("media: {ffmpeg: no-such-ffmpeg}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	film := makeFilm(t, filepath.Join(dir, "a.mp4"), generatedVideo("testsrc2", 1)...)
	verdicts, log := scanFilms(t, []string{"--config", config}, film, film)
	for _, v := range verdicts {
		if v.Status != pipeline.Partial || !strings.Contains(v.Error, "videos are not looked at: there is no ffmpeg") {
			t.Errorf("%+v", v)
		}
	}
	if n := strings.Count(log, "videos are not looked at"); n != 1 {
		t.Errorf("said %d times:\n%s", n, log)
	}
	for text, want := range map[string]string{
		"media: {ffmpeg: bin/ffmpeg}":                            "ffmpeg is neither a name nor an absolute path",
		"media: {video_time: 40s}":                               "worker.prepare_timeout must be longer than media.video_time",
		"media: {max_video_frames: 0, max_video_bytes: 1}":       "max_video_frames is 0",
		"media: {ffmpeg: /no/such/ffmpeg, max_video_frames: 12}": "",
	} {
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var out, errs bytes.Buffer
		status := run(t.Context(), []string{"config", "check", config}, streams{nil, &out, &errs})
		if (status == 0) != (want == "") || !strings.Contains(errs.String(), want) {
			t.Errorf("%s: status %d: %s", text, status, errs.String())
		}
	}
}
