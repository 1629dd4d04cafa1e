package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/dmguard/dmguard/hashdb"
	"github.com/dmguard/dmguard/hashdb/lists"
	"github.com/dmguard/dmguard/hashdb/pdq"
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
	kind := cl.String("kind", "", "kind of the hash, where its length leaves a choice: pdq, phash, md5, sha1 or sha256")
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
	asked, hashes, err := lookupHashes(ctx, cl.args()[0], *kind, loaded.Set)
	if err != nil {
		return err
	}
	r := lookupResult{Hashes: asked, Entries: []nearestEntry{}}
	for _, m := range loaded.Set.Nearest(hashes, *most) {
		r.Entries = append(r.Entries, nearestEntry{
			List: m.List, ListVersion: m.ListVersion, Entry: m.Entry, Category: m.Category, Kind: m.Kind,
			Hash: hashes[m.Query].String(), Distance: m.Distance, Threshold: m.Threshold, Matches: m.Distance <= m.Threshold,
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

// lookupHashes returns the hashes of what a command line names: a file, or a hash itself.
func lookupHashes(ctx context.Context, what, kindName string, set *hashdb.Set) ([]lookedUp, []hashdb.Hash, error) {
	if info, err := os.Stat(what); err == nil && info.Mode().IsRegular() {
		return fileHashes(ctx, what, set)
	}
	kinds := hashdb.Kinds()
	if kindName != "" {
		k, err := hashdb.ParseKind(kindName)
		if err != nil {
			return nil, nil, fmt.Errorf("flag -kind: %w", err)
		}
		kinds = []hashdb.Kind{k}
	}
	var asked []lookedUp
	var hashes []hashdb.Hash
	for _, k := range kinds {
		h, err := hashdb.ParseHash(k, what)
		if err != nil {
			continue
		}
		asked = append(asked, lookedUp{Kind: k, Hash: h.String()})
		hashes = append(hashes, h)
	}
	if len(hashes) == 0 {
		return nil, nil, fmt.Errorf("%q is neither a file nor the hexadecimal digits of a hash: 16 for phash, 32 for md5, 40 for sha1, 64 for sha256 and pdq", what)
	}
	return asked, hashes, nil
}

// fileHashes returns what a scanner would look up of a file.
func fileHashes(ctx context.Context, name string, set *hashdb.Set) ([]lookedUp, []hashdb.Hash, error) {
	decoder, err := media.NewDecoder(media.DefaultConfig())
	if err != nil {
		return nil, nil, err
	}
	var asked []lookedUp
	var hashes []hashdb.Hash
	for _, k := range hashdb.Kinds() {
		if k == hashdb.PHash && !set.Has(k) {
			continue // dear, and there is nothing to compare it with
		}
		h := &fileHasher{kind: k, mode: pdq.NN512, dihedral: k == hashdb.PDQ, decoder: decoder}
		quality, texts, err := h.file(ctx, name)
		if err != nil {
			if k == hashdb.PDQ || k == hashdb.PHash {
				continue // not a picture
			}
			return nil, nil, err
		}
		for _, text := range texts {
			parsed, err := hashdb.ParseHash(k, text)
			if err != nil {
				return nil, nil, err
			}
			l := lookedUp{Kind: k, Hash: text}
			if q, err := strconv.Atoi(quality); err == nil {
				l.Quality = &q
			}
			asked, hashes = append(asked, l), append(hashes, parsed)
		}
	}
	return asked, hashes, nil
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
