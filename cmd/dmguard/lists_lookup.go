package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/dmguard/dmguard/hashdb"
	"github.com/dmguard/dmguard/hashdb/lists"
	"github.com/dmguard/dmguard/hashdb/pdq"
	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/pipeline/media"
)

// lookupResult is what "lists lookup --json" prints.
type lookupResult struct {
	Hashes  []lookedUp     `json:"hashes"`
	Entries []nearestEntry `json:"entries"` // the nearest, by kind and distance
}

type lookedUp struct {
	Kind    hashdb.Kind `json:"kind"`
	Hash    string      `json:"hash"`
	Quality *int        `json:"quality,omitempty"` // of a picture whose hash was made here
}

type nearestEntry struct {
	List        string      `json:"list"`
	ListVersion string      `json:"list_version"`
	Entry       string      `json:"entry"`
	Category    string      `json:"category"`
	Kind        hashdb.Kind `json:"kind"`
	Hash        string      `json:"hash"` // that of hashes which it is nearest to
	Distance    int         `json:"distance"`
	Threshold   int         `json:"threshold"`
	Matches     bool        `json:"matches"`
}

func runListsLookup(ctx context.Context, cl *commandLine) error {
	var f listFlags
	f.add(cl)
	most := cl.Int("n", 10, "how many entries to show of each kind")
	kind := cl.String("kind", "", "kind of the hash, where its length leaves a choice: pdq, vpdq, phash, md5, sha1 or sha256")
	asJSON := cl.Bool("json", false, "print JSON")
	if err := cl.parse(1, 1); err != nil {
		return err
	}
	if *most < 1 || *most > 10_000 {
		return errors.New("flag -n: 1 to 10000")
	}
	cfg, err := f.open()
	if err != nil {
		return err
	}
	loaded, err := lists.Load(lists.Options{Dir: cfg.Lists.Dir, Trust: cfg.Lists.trust(), MaxChange: cfg.Lists.MaxChange, Settings: cfg.Lists.Settings}, nil)
	if err != nil {
		return err
	}
	if loaded.Set == nil && len(loaded.Faults) == 0 {
		return fmt.Errorf("%s holds no lists", cfg.Lists.Dir)
	}
	for _, w := range loaded.Warnings {
		fmt.Fprintln(cl.err, "dmguard:", w)
	}
	l := lookup{set: loaded.Set}
	if info, err := os.Stat(cl.args()[0]); err == nil && info.Mode().IsRegular() {
		unseen, err := l.file(ctx, cl.args()[0])
		if err != nil {
			return err
		}
		switch {
		case unseen != "" && len(l.asked) == digests:
			fmt.Fprintf(cl.err, "dmguard: looked up by its digests alone: %s\n", unseen)
		case unseen != "":
			fmt.Fprintf(cl.err, "dmguard: not all of it is looked up: %s\n", unseen)
		}
	} else if err := l.hash(cl.args()[0], *kind); err != nil {
		return err
	}
	r := lookupResult{Hashes: l.asked, Entries: []nearestEntry{}}
	for _, m := range loaded.Set.Nearest(l.hashes, *most) {
		r.Entries = append(r.Entries, nearestEntry{
			List: m.List, ListVersion: m.ListVersion, Entry: m.Entry, Category: m.Category, Kind: m.Kind,
			Hash: l.hashes[m.Query].String(), Distance: m.Distance, Threshold: m.Threshold, Matches: m.Distance <= m.Threshold,
		})
	}
	if *asJSON {
		return errors.Join(json.MarshalWrite(cl.out, r, jsontext.WithIndent("  ")), loaded.Err())
	}
	return errors.Join(r.print(cl.out), loaded.Err()) // what could be looked up was, and the rest is told
}

func (r *lookupResult) print(w io.Writer) error {
	for _, h := range r.Hashes {
		if h.Quality != nil && *h.Quality < pdq.MinQuality {
			fmt.Fprintf(w, "%s %s has quality %d: below %d scanners do not look it up\n", h.Kind, h.Hash, *h.Quality, pdq.MinQuality)
		}
	}
	if len(r.Entries) == 0 {
		fmt.Fprintln(w, "no list has an entry of these kinds")
		return nil
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "KIND\tDISTANCE\tTHRESHOLD\tMATCHES\tLIST\tENTRY\tCATEGORY")
	for _, e := range r.Entries {
		fmt.Fprintf(tw, "%s\t%d\t%d\t%s\t%s@%s\t%s\t%s\n", e.Kind, e.Distance, e.Threshold, yesNo(e.Matches), e.List, e.ListVersion, e.Entry, e.Category)
	}
	return tw.Flush()
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// lookup gathers hashes to look up.
type lookup struct {
	set    *hashdb.Set
	asked  []lookedUp
	hashes []hashdb.Hash
}

func (l *lookup) add(h hashdb.Hash, quality *int) {
	if slices.Contains(l.hashes, h) {
		return // a film stands still
	}
	l.asked, l.hashes = append(l.asked, lookedUp{Kind: h.Kind(), Hash: h.String(), Quality: quality}), append(l.hashes, h)
}

// hash adds what a text may be the hash of.
func (l *lookup) hash(text, kindName string) error {
	kinds := hashdb.Kinds()
	if kindName != "" {
		k, err := hashdb.ParseKind(kindName)
		if err != nil {
			return fmt.Errorf("flag -kind: %w", err)
		}
		kinds = []hashdb.Kind{k}
	}
	for _, k := range kinds {
		if h, err := hashdb.ParseHash(k, text); err == nil {
			l.add(h, nil)
		}
	}
	if len(l.hashes) == 0 {
		return fmt.Errorf("%q is neither a file nor the hexadecimal digits of a hash: 16 for phash, 32 for md5, 40 for sha1, 64 for sha256, pdq and vpdq", text)
	}
	return nil
}

const digests = 3 // of every file

// file adds the digests of a file, and what a scanner would look up of a picture or of the frames of a video; a picture may be such a
// frame too. Of an animation the first frame counts. unseen says why no picture, or not all, was looked at.
func (l *lookup) file(ctx context.Context, name string) (unseen string, err error) {
	for _, k := range []hashdb.Kind{hashdb.SHA256, hashdb.SHA1, hashdb.MD5} {
		_, texts, err := (&fileHasher{kind: k}).file(ctx, name)
		if err != nil {
			return "", err
		}
		h, err := hashdb.ParseHash(k, texts[0])
		if err != nil {
			return "", err
		}
		l.add(h, nil)
	}
	f, err := openRegular(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	decoder, err := media.NewDecoder(media.DefaultConfig())
	if err != nil {
		return "", err
	}
	limit := media.DefaultConfig().MaxVideoBytes
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return "", err
	}
	if int64(len(data)) > limit {
		return fmt.Sprintf("larger than %d bytes", limit), nil
	}
	var hasher pdq.Hasher
	result, err := decoder.Decode(ctx, data, func(frame media.Frame) error { return l.frame(&hasher, frame) })
	switch {
	case pipeline.IsPermanent(err): // the file's fault
		return err.Error(), nil
	case err != nil:
		return "", err
	case result.Skipped != "":
		return result.Skipped, nil
	case result.Frames == 0:
		return "not a picture or video that is known", nil
	}
	return "", nil
}

// frame adds the hashes of a picture or of a frame of a video. What is dear is left out where there is nothing to compare it with.
func (l *lookup) frame(hasher *pdq.Hasher, frame media.Frame) error {
	if frame.Index > 0 && !frame.Video {
		return nil
	}
	pdqHash := func(k hashdb.Kind, h pdq.Hash, quality int) error {
		hash, err := hashdb.NewHash(k, h[:])
		if err == nil {
			l.add(hash, &quality)
		}
		return err
	}
	if l.set.Has(hashdb.VPDQ) {
		h, quality := hasher.Hash(frame.Image, pdq.Native)
		if err := pdqHash(hashdb.VPDQ, h, quality); err != nil {
			return err
		}
	}
	if !frame.Video || l.set.Has(hashdb.PDQ) {
		all, quality := hasher.Dihedral(frame.Image, pdq.NN512)
		for _, h := range all {
			if err := pdqHash(hashdb.PDQ, h, quality); err != nil {
				return err
			}
		}
	}
	if frame.Video || !l.set.Has(hashdb.PHash) {
		return nil
	}
	p, err := hashdb.Perception(frame.Image)
	if err == nil {
		l.add(p, nil)
	}
	return err
}

// chosen returns the lists that a command line names, or else all that are there.
func chosen(names []string, there []lists.Listing) ([]string, error) {
	if len(names) > 0 {
		return names, nil
	}
	for i := range there {
		names = append(names, there[i].Name)
	}
	if len(names) == 0 {
		return nil, errors.New("the folder holds no snapshots of lists")
	}
	return slices.Clip(names), nil
}

func joinOr(parts []string, none string) string {
	if len(parts) == 0 {
		return none
	}
	return strings.Join(parts, ", ")
}
