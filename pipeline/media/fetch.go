package media

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/memblob" // registers mem://, for tests
	"gocloud.dev/gcerrors"

	"github.com/dmguard/dmguard/pipeline"
)

// maxURI is the longest address that is looked at, in bytes.
const maxURI = 4096

// Fetcher reads attachments from where they lie. Any number of goroutines may
// use it until it is closed.
type Fetcher struct {
	anyBytes   int64 // of an attachment that is no video
	videoBytes int64
	timeout    time.Duration
	roots      []root
	buckets    map[string]*blob.Bucket // by address without query
	ours       []*blob.Bucket          // that Close closes
	web        *web
}

type root struct {
	path string
	dir  *os.Root
}

// Open opens the folders and stores of cfg. It reports every fault at once.
func Open(ctx context.Context, cfg Config) (*Fetcher, error) {
	f := &Fetcher{anyBytes: cfg.MaxBytes, videoBytes: cfg.MaxVideoBytes, timeout: cfg.FetchTimeout, buckets: map[string]*blob.Bucket{}}
	errs := []error{cfg.Validate()}
	for _, path := range cfg.FileRoots {
		if err := f.openRoot(path); err != nil {
			errs = append(errs, fmt.Errorf("media: opening file root: %w", err))
		}
	}
	maps.Copy(f.buckets, cfg.Buckets)
	var err error
	f.web, err = newWeb(cfg.Origins)
	errs = append(errs, err)
	for _, store := range cfg.Stores {
		if err := f.openStore(ctx, store); err != nil {
			errs = append(errs, fmt.Errorf("media: opening store: %w", err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		_ = f.Close() // the error that counts is the first
		return nil, err
	}
	return f, nil
}

func (f *Fetcher) openRoot(path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	dir, err := os.OpenRoot(path)
	if err != nil {
		return err
	}
	f.roots = append(f.roots, root{path, dir})
	return nil
}

func (f *Fetcher) openStore(ctx context.Context, store string) error {
	u, err := url.Parse(store)
	if err != nil {
		return errors.New("the address cannot be parsed") // it may hold a secret
	}
	base := baseOf(u)
	switch {
	case u.Scheme == "file":
		return errors.New("folders are named by file_roots")
	case !blob.DefaultURLMux().ValidBucketScheme(u.Scheme) && isCloud(u.Scheme):
		return fmt.Errorf("%s: this program was built without the drivers for cloud stores: build it with -tags cloud", base)
	case u.Host == "" || strings.Trim(u.Path, "/") != "":
		return fmt.Errorf("%s: want SCHEME://BUCKET, with a query at most", base)
	case f.buckets[base] != nil:
		return fmt.Errorf("%s is named twice", base)
	}
	bucket, err := blob.OpenBucket(ctx, store)
	if err != nil {
		return fmt.Errorf("%s: %w", base, err)
	}
	f.buckets[base] = bucket
	f.ours = append(f.ours, bucket)
	return nil
}

func baseOf(u *url.URL) string { return u.Scheme + "://" + u.Host }

func isCloud(scheme string) bool { return scheme == "s3" || scheme == "gs" || scheme == "azblob" }

// Close closes what [Open] opened.
func (f *Fetcher) Close() error {
	f.web.close()
	var errs []error
	for _, r := range f.roots {
		errs = append(errs, r.dir.Close())
	}
	for _, b := range f.ours {
		errs = append(errs, b.Close())
	}
	return errors.Join(errs...)
}

// most is how much is read before it is known what it is.
func (f *Fetcher) most() int64 { return max(f.anyBytes, f.videoBytes) }

// TooLarge says that data is larger than an attachment of its kind may be, by an
// error marked by [pipeline.Permanent], or returns nil.
func (f *Fetcher) TooLarge(data []byte) error {
	limit := f.anyBytes
	if Sniff(data).Kind == Video {
		limit = f.videoBytes
	}
	if int64(len(data)) > limit {
		return refuse("it is larger than %d bytes", limit)
	}
	return nil
}

// Fetch returns the bytes at uri. An error marked by [pipeline.Permanent] says
// why they are not looked at: the address is refused, nothing lies there, it may
// not be read, it is too large. Every other error is an outage, or ctx has
// ended. The size is measured while reading and believed nobody.
func (f *Fetcher) Fetch(ctx context.Context, uri string) ([]byte, error) {
	if len(uri) > maxURI {
		return nil, refuse("its address is longer than %d bytes", maxURI)
	}
	u, err := url.Parse(uri)
	if err != nil || u.Opaque != "" || u.User != nil {
		return nil, refuse("its address is not of the form SCHEME://STORE/KEY")
	}
	onWeb := u.Scheme == "https" || u.Scheme == "http"
	if !onWeb && (u.RawQuery != "" || u.ForceQuery) || u.Fragment != "" {
		return nil, refuse("its address has a query or a fragment")
	}
	timed, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	var data []byte
	switch {
	case u.Scheme == "file":
		data, err = f.fetchFile(timed, u)
	case onWeb:
		data, err = f.fetchWeb(timed, u)
	default:
		data, err = f.fetchObject(timed, u)
	}
	switch {
	case err == nil || pipeline.IsPermanent(err):
		return data, err
	case ctx.Err() != nil:
		return nil, fmt.Errorf("fetching attachment: %w", context.Cause(ctx))
	case timed.Err() != nil:
		return nil, fmt.Errorf("fetching attachment: the store took longer than %v", f.timeout)
	}
	return nil, fmt.Errorf("fetching attachment: %w", err)
}

func refuse(format string, args ...any) error {
	return pipeline.Permanent(fmt.Errorf(format, args...))
}

func (f *Fetcher) fetchFile(ctx context.Context, u *url.URL) ([]byte, error) {
	if u.Host != "" && u.Host != "localhost" {
		return nil, refuse("its address names a file on another machine")
	}
	if !strings.HasPrefix(u.Path, "/") || strings.ContainsRune(u.Path, 0) {
		return nil, refuse("its address is not the absolute path of a file")
	}
	path := filepath.Clean(u.Path)
	best := -1
	var name string
	for i, r := range f.roots {
		rel, err := filepath.Rel(r.path, path)
		if err == nil && filepath.IsLocal(rel) && (best < 0 || len(r.path) > len(f.roots[best].path)) {
			best, name = i, rel
		}
	}
	if best < 0 {
		return nil, refuse("its address is outside the folders that files may be read from")
	}
	// O_NONBLOCK, or opening a pipe would wait for its writer.
	file, err := f.roots[best].dir.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fileError(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fileError(err)
	}
	if !info.Mode().IsRegular() {
		return nil, refuse("its address names no regular file")
	}
	data, err := f.read(ctx, file, info.Size())
	if err != nil && !pipeline.IsPermanent(err) && ctx.Err() == nil {
		return nil, fileError(err)
	}
	return data, err
}

// fileError says what came of a file, without its path.
func fileError(err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return refuse("nothing lies at its address")
	case errors.Is(err, os.ErrPermission):
		return refuse("it may not be read")
	}
	errno, ok := errors.AsType[syscall.Errno](err)
	if !ok { // os.Root's own: a link leads out of the folder
		return refuse("its address leads outside the folders that files may be read from")
	}
	switch errno {
	case syscall.ENAMETOOLONG, syscall.ELOOP, syscall.EINVAL, syscall.EISDIR, syscall.ENXIO, syscall.ENODEV:
		return refuse("its address cannot be opened: %w", errno)
	default:
		return errno
	}
}

func (f *Fetcher) fetchObject(ctx context.Context, u *url.URL) ([]byte, error) {
	bucket, key := f.buckets[baseOf(u)], strings.TrimPrefix(u.Path, "/")
	switch {
	case bucket != nil && key == "":
		return nil, refuse("its address names no object of the store")
	case bucket == nil && (isCloud(u.Scheme) || u.Scheme == "mem"):
		return nil, refuse("its store is not one of those that are configured")
	case bucket == nil:
		return nil, refuse("its address is not one of file, s3, gs, azblob, mem, https")
	}
	r, err := bucket.NewReader(ctx, key, nil)
	if err != nil {
		return nil, objectError(err)
	}
	defer func() { _ = r.Close() }() // nothing was written
	data, err := f.read(ctx, r, r.Size())
	if err != nil && !pipeline.IsPermanent(err) {
		return nil, objectError(err)
	}
	return data, err
}

// objectError says what came of an object, without its key.
func objectError(err error) error {
	code := gcerrors.Code(err)
	switch code {
	case gcerrors.NotFound:
		return refuse("nothing lies at its address")
	case gcerrors.PermissionDenied:
		return refuse("it may not be read")
	case gcerrors.InvalidArgument, gcerrors.Unimplemented:
		return refuse("the store refuses its address")
	default: // trouble of the network or the store
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op
	}
	return fmt.Errorf("the store answers %v", code)
}

// read returns what r holds, and stops one byte over the limit.
func (f *Fetcher) read(ctx context.Context, r io.Reader, size int64) ([]byte, error) {
	if size > f.most() {
		return nil, refuse("it is larger than %d bytes", f.most())
	}
	var buf bytes.Buffer
	buf.Grow(int(max(size, 0)) + bytes.MinRead)
	n, err := buf.ReadFrom(&reader{ctx, io.LimitReader(r, f.most()+1)})
	if err != nil {
		return nil, err
	}
	if n > f.most() {
		return nil, refuse("it is larger than %d bytes", f.most())
	}
	if err := f.TooLarge(buf.Bytes()); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// reader stops reading when ctx ends.
type reader struct {
	ctx context.Context // of the one call that the reader lives for
	r   io.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
