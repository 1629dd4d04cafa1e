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
		summary: "print the hash of each file, tab-separated: file, kind, quality, hash",
		example: "dmguard hash --kind pdq --dihedral picture.png",
		run:     runHash,
	}
}

func runHash(ctx context.Context, cl *commandLine) error {
	kindName := cl.String("kind", "", "pdq, phash, md5, sha1 or sha256")
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
		quality, hashes, err := h.file(ctx, name)
		if err != nil {
			failed = true
			// One line a file, whatever the reason says.
			fmt.Fprintf(w, "%s\t%s\terror\t%s\n", name, kind, strings.Join(strings.Fields(err.Error()), " "))
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", name, kind, quality, strings.Join(hashes, "\t"))
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
	f, err := os.Open(name)
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return "", nil, errors.Join(err, errors.New("not a regular file"))
	}
	if digest := map[hashdb.Kind]crypto.Hash{hashdb.MD5: crypto.MD5, hashdb.SHA1: crypto.SHA1, hashdb.SHA256: crypto.SHA256}[h.kind]; digest != 0 {
		sum := digest.New()
		if _, err := io.Copy(sum, f); err != nil {
			return "", nil, err
		}
		return "-", []string{hex.EncodeToString(sum.Sum(nil))}, nil
	}
	limit := media.DefaultConfig().MaxBytes
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return "", nil, err
	}
	if int64(len(data)) > limit {
		return "", nil, fmt.Errorf("larger than %d bytes", limit)
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
