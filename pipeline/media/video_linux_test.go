//go:build linux && (amd64 || arm64)

package media

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// film has ffmpeg make a video; name says by its extension of what kind.
func makeFilm(tb testing.TB, name string, arguments ...string) []byte {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), name)
	cmd := exec.CommandContext(context.Background(), "ffmpeg", append(append([]string{"-nostdin", "-loglevel", "error"}, arguments...), path)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		tb.Fatalf("ffmpeg, which the tests need: %v\n%s", err, said.String())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

func TestQuick(t *testing.T) {
	s := newTestSandbox(t, 2, nil)
	for _, name := range []string{"a.mp4", "a.mov", "a.webm"} {
		data := makeFilm(t, name, "-f", "lavfi", "-i", "testsrc2=s=320x240:r=10:d=4")
		x, err := examineWith(t.Context(), s, data, pixelsOf)
		t.Logf("%s %+v %v", name, x, err)
	}
}
