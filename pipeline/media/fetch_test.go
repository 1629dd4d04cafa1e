package media

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"gocloud.dev/blob"
	"gocloud.dev/blob/memblob"

	"github.com/dmguard/dmguard/pipeline"
)

func open(tb testing.TB, change func(*Config)) *Fetcher {
	tb.Helper()
	cfg := DefaultConfig()
	change(&cfg)
	f, err := Open(context.Background(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { f.Close() })
	return f
}

func write(tb testing.TB, path string, data []byte) {
	tb.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		tb.Fatal(err)
	}
}

func TestFilesAreReadOnlyBelowTheirRoots(t *testing.T) {
	top := t.TempDir()
	root := filepath.Join(top, "root")
	if err := os.MkdirAll(filepath.Join(root, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(top, "outside")
	write(t, outside, []byte("outside"))
	write(t, filepath.Join(root, "sub", "in side"), []byte("inside"))
	write(t, filepath.Join(root, "large"), make([]byte, 101))
	write(t, filepath.Join(root, "full"), make([]byte, 100))
	write(t, filepath.Join(root, "locked"), nil)
	for name, target := range map[string]string{"out": outside, "up": "../outside", "etc": "/etc", "loop": "loop", "fine": "sub/in side"} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(root, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := open(t, func(c *Config) { c.FileRoots = []string{root}; c.MaxBytes = 100 })

	for name, want := range map[string]string{"/sub/in%20side": "inside", "/sub/../sub/in%20side": "inside", "/fine": "inside"} {
		data, err := f.Fetch(t.Context(), "file://"+root+name)
		if err != nil || string(data) != want {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
	if data, err := f.Fetch(t.Context(), "file://localhost"+root+"/full"); err != nil || len(data) != 100 {
		t.Errorf("a file of just the limit: %d bytes, %v", len(data), err)
	}
	for uri, want := range map[string]string{
		"file:///etc/passwd":                    "outside the folders",
		"file://" + root + "/../outside":        "outside the folders",
		"file://" + root + "/%2e%2e/outside":    "outside the folders",
		"file://" + root + "/out":               "outside the folders",
		"file://" + root + "/up":                "outside the folders",
		"file://" + root + "/etc/passwd":        "outside the folders",
		"file://" + root + "x/sub":              "outside the folders",
		"file://" + root + "/loop":              "cannot be opened",
		"file://" + root + "/sub":               "no regular file",
		"file://" + root:                        "no regular file",
		"file://" + root + "/pipe":              "no regular file",
		"file://" + root + "/large":             "larger than 100 bytes",
		"file://" + root + "/none":              "nothing lies",
		"file://" + root + "/full/x":            "nothing lies",
		"file://" + root + "/a%00b":             "absolute path",
		"file://host" + root + "/full":          "another machine",
		"file:full":                             "of the form",
		"file://" + root + "/full?create_dir=1": "query",
	} {
		data, err := f.Fetch(t.Context(), uri)
		if !pipeline.IsPermanent(err) || data != nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %q, %v; want %q", strings.TrimPrefix(uri, "file://"+root), data, err, want)
		}
	}
}

func TestWithoutRootsAndStoresNothingIsFetched(t *testing.T) {
	f := open(t, func(*Config) {})
	for _, uri := range []string{
		"", "file:///etc/hostname", "http://127.0.0.1/x", "https://example.org/x", "ftp://example.org/x", "s3://bucket/x", "gs://bucket/x",
		"azblob://container/x", "mem://bucket/x", "data:text/plain,hello", "quoteme:x", "//host/x", "no address at all \x7f",
		"https://quoteme:quoteme@example.org/", "s3://bucket/x?endpoint=http://127.0.0.1", "file:///" + strings.Repeat("x", 5000),
	} {
		if _, err := f.Fetch(t.Context(), uri); !pipeline.IsPermanent(err) || strings.Contains(err.Error(), "quoteme") {
			t.Errorf("%.40s: %v", uri, err)
		}
	}
}

func TestObjectsAreReadFromConfiguredStoresOnly(t *testing.T) {
	bucket := memblob.OpenBucket(nil)
	defer bucket.Close()
	for key, n := range map[string]int{"a/b": 3, "large": 101} {
		if err := bucket.WriteAll(t.Context(), key, bytes.Repeat([]byte{1}, n), nil); err != nil {
			t.Fatal(err)
		}
	}
	f := open(t, func(c *Config) { c.Buckets = map[string]*blob.Bucket{"mem://media": bucket}; c.MaxBytes = 100 })
	if data, err := f.Fetch(t.Context(), "mem://media/a/b"); err != nil || len(data) != 3 {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	for uri, want := range map[string]string{
		"mem://media/none": "nothing lies", "mem://media/": "no object", "mem://media": "no object",
		"mem://other/a/b": "not one of those", "mem://media/large": "larger than 100",
	} {
		if _, err := f.Fetch(t.Context(), uri); !pipeline.IsPermanent(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", uri, err)
		}
	}
	bucket.Close()
	if _, err := f.Fetch(t.Context(), "mem://media/a/b"); err == nil || pipeline.IsPermanent(err) {
		t.Errorf("trouble of the store: %v", err)
	}
}

// growing yields more than its size says.
type growing struct{}

func (growing) Read(p []byte) (int, error) { return len(p), nil }

func TestReadingStopsOneByteOverTheLimit(t *testing.T) {
	f := &Fetcher{anyBytes: 1000}
	count := &io.LimitedReader{R: growing{}, N: 1 << 20}
	if _, err := f.read(t.Context(), count, 3); !pipeline.IsPermanent(err) {
		t.Errorf("error %v", err)
	}
	if got := 1<<20 - count.N; got != 1001 {
		t.Errorf("read %d bytes", got)
	}
}

func TestOutagesAreNotFaultsOfTheMessage(t *testing.T) {
	for _, err := range []error{syscall.EIO, syscall.ESTALE, syscall.EMFILE, syscall.ETIMEDOUT} {
		if got := fileError(&os.PathError{Op: "open", Path: "/quoteme", Err: err}); pipeline.IsPermanent(got) || strings.Contains(got.Error(), "quoteme") {
			t.Errorf("%v: %v", err, got)
		}
	}
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	if got := objectError(errors.Join(errors.New("quoteme"), refused)); pipeline.IsPermanent(got) || !errors.Is(got, syscall.ECONNREFUSED) || strings.Contains(got.Error(), "quoteme") {
		t.Errorf("%v", got)
	}
}

func TestASlowStoreIsAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &Fetcher{anyBytes: 1000, timeout: DefaultConfig().FetchTimeout}
		ctx, cancel := context.WithTimeout(t.Context(), f.timeout)
		defer cancel()
		<-ctx.Done()
		if _, err := f.read(ctx, growing{}, 3); !errors.Is(err, context.DeadlineExceeded) || pipeline.IsPermanent(err) {
			t.Errorf("error %v", err)
		}
	})
	f := open(t, func(c *Config) { c.FileRoots = []string{t.TempDir()} })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	write(t, filepath.Join(f.roots[0].path, "x"), []byte("x"))
	if _, err := f.Fetch(ctx, "file://"+f.roots[0].path+"/x"); !errors.Is(err, context.Canceled) || pipeline.IsPermanent(err) {
		t.Errorf("error %v", err)
	}
}

func TestFaultsOfTheConfigurationAreReportedTogether(t *testing.T) {
	cfg := DefaultConfig()
	cfg.MaxBytes = 0
	cfg.FileRoots = []string{"/nowhere/at/all"}
	cfg.Origins = []string{"https://cdn.example.org/path"}
	cfg.Stores = []string{"file:///tmp", "quux://bucket", "mem://", "mem://a/b", "mem://twice", "mem://twice"}
	_, err := Open(t.Context(), cfg)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"max_bytes", "origins is not", "/nowhere/at/all", "file_roots", "quux", "mem://: want", "mem://a: want", "twice is named twice"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
}
