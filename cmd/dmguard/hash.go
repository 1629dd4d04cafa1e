package main

import (
	"bufio"
	"context"
	"crypto"
	"encoding/hex"
	"errors"
	"fmt"
	"image"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/dmguard/dmguard/hashdb"
	"github.com/dmguard/dmguard/hashdb/pdq"
	"github.com/dmguard/dmguard/pipeline/media"
)

func hashCommand() *command {
	return &command{
		name:    "hash",
		args:    "FILE...",
		summary: "print the hash of each file, tab-separated: file, kind, quality, hash; with vpdq a line a frame: file, kind, second, quality, hash",
		example: "dmguard hash --kind pdq --dihedral picture.png",
		run:     runHash,
	}
}

func runHash(ctx context.Context, cl *commandLine) error {
	kindName := cl.String("kind", "", "pdq, vpdq, phash, md5, sha1 or sha256")
	dihedral := cl.Bool("dihedral", false, "with pdq: also the hashes of the picture rotated90 rotated180 rotated270 flipx flipy flip_plus1 flip_minus1")
	modeName := cl.String("mode", pdq.NN512.String(), "with pdq: nn512, as the reference command does it, or native, without scaling first")
	if err := cl.parse(1, -1); err != nil {
		return err
	}
	kind, err := hashdb.ParseKind(*kindName)
	if err != nil {
		return fmt.Errorf("flag -kind: %w", err)
	}
	mode, err := pdq.ParseMode(*modeName)
	if err != nil {
		return fmt.Errorf("flag -mode: %w", err)
	}
	if *dihedral && kind != hashdb.PDQ {
		return errors.New("flag -dihedral: only pdq has hashes of the turned picture")
	}
	decoder, err := media.NewDecoder(media.DefaultConfig())
	if err != nil {
		return err
	}
	h := &fileHasher{kind: kind, mode: mode, dihedral: *dihedral, decoder: decoder}
	w := bufio.NewWriter(cl.out)
	failed := false
	for _, name := range cl.args() {
		var quality string
		var hashes []string
		if kind == hashdb.VPDQ {
			err = h.video(ctx, name, w)
		} else {
			quality, hashes, err = h.file(ctx, name)
		}
		if err != nil {
			failed = true
			// One line a file, whatever the reason says.
			fmt.Fprintf(w, "%s\t%s\terror\t%s\n", name, kind, strings.Join(strings.Fields(err.Error()), " "))
			continue
		}
		if kind != hashdb.VPDQ {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", name, kind, quality, strings.Join(hashes, "\t"))
		}
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("writing hashes: %w", err)
	}
	if failed {
		return exitError(3)
	}
	return nil
}

// fileHasher computes hashes of one kind.
type fileHasher struct {
	kind     hashdb.Kind
	mode     pdq.Mode
	dihedral bool
	decoder  *media.Decoder
	pdq      pdq.Hasher
}

// file returns the hash of a file, and those of the turned picture behind it
// where they are asked for. Of an animation it is that of the first frame.
func (h *fileHasher) file(ctx context.Context, name string) (quality string, hashes []string, err error) {
	f, err := openRegular(name)
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	if digest := map[hashdb.Kind]crypto.Hash{hashdb.MD5: crypto.MD5, hashdb.SHA1: crypto.SHA1, hashdb.SHA256: crypto.SHA256}[h.kind]; digest != 0 {
		sum := digest.New()
		if _, err := io.Copy(sum, f); err != nil {
			return "", nil, err
		}
		return "-", []string{hex.EncodeToString(sum.Sum(nil))}, nil
	}
	data, err := readUpTo(f, media.DefaultConfig().MaxBytes)
	if err != nil {
		return "", nil, err
	}
	if media.Sniff(data).Kind == media.Video {
		return "", nil, fmt.Errorf("a video, which has no %s hash but a %s hash for each frame", h.kind, hashdb.VPDQ)
	}
	result, err := h.decoder.Decode(ctx, data, func(frame media.Frame) error {
		if frame.Index > 0 {
			return nil
		}
		quality, hashes, err = h.picture(frame.Image)
		return err
	})
	switch {
	case err != nil:
		return "", nil, err
	case len(hashes) == 0 && result.Skipped != "":
		return "", nil, errors.New(result.Skipped)
	case len(hashes) == 0:
		return "", nil, errors.New("not a picture that is known")
	}
	return quality, hashes, nil
}

func openRegular(name string) (*os.File, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, errors.Join(err, errors.New("not a regular file"))
	}
	return f, nil
}

func readUpTo(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("larger than %d bytes", limit)
	}
	return data, err
}

// video writes a line for the first frame of each second of a video. An error may
// come after some of them.
func (h *fileHasher) video(ctx context.Context, name string, w io.Writer) error {
	f, err := openRegular(name)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := readUpTo(f, media.DefaultConfig().MaxVideoBytes)
	if err != nil {
		return err
	}
	if media.Sniff(data).Kind != media.Video {
		return errors.New("not a video that is known")
	}
	result, err := h.decoder.Decode(ctx, data, func(frame media.Frame) error {
		hash, quality := h.pdq.Hash(frame.Image, pdq.Native)
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\n", name, h.kind, frame.Index, quality, hash)
		return nil
	})
	switch {
	case err != nil:
		return err
	case result.Skipped != "":
		return errors.New(result.Skipped)
	case result.Frames == 0:
		return errors.New("there is no picture in it")
	}
	return nil
}

func (h *fileHasher) picture(img image.Image) (quality string, hashes []string, err error) {
	if h.kind == hashdb.PHash {
		p, err := hashdb.Perception(img)
		return "-", []string{p.String()}, err
	}
	if !h.dihedral {
		hash, q := h.pdq.Hash(img, h.mode)
		return strconv.Itoa(q), []string{hash.String()}, nil
	}
	all, q := h.pdq.Dihedral(img, h.mode)
	for _, hash := range all {
		hashes = append(hashes, hash.String())
	}
	return strconv.Itoa(q), hashes, nil
}
