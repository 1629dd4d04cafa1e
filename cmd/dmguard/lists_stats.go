package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"go.yaml.in/yaml/v3"

	"github.com/dmguard/dmguard/hashdb"
	"github.com/dmguard/dmguard/hashdb/lists"
)

// listStats is what "lists stats --json" prints of a list.
type listStats struct {
	Name       string              `json:"name"`
	Version    string              `json:"version,omitzero"`
	Made       time.Time           `json:"made,omitzero"`
	AgeSeconds int64               `json:"age_seconds,omitzero"`
	Records    int                 `json:"records,omitzero"`
	Entries    map[hashdb.Kind]int `json:"entries"`
	Refused    int                 `json:"refused"`
	Changed    string              `json:"changed,omitzero"` // by the snapshot, of the one before
	Signers    []string            `json:"signed_by"`        // whose signatures hold
	Needed     int                 `json:"signatures_needed"`
	Settings   string              `json:"settings,omitzero"` // YAML
	Same       bool                `json:"settings_as_imported"`
	Waits      string              `json:"waits_for_signatures,omitzero"` // the version that does
	Fault      string              `json:"fault,omitzero"`
	Stale      string              `json:"stale,omitzero"` // why matches ask a person at most
	Held       int                 `json:"held,omitzero"`  // entries that do, or from which nothing follows
	Plain      bool                `json:"csv,omitzero"`
}

func runListsStats(_ context.Context, cl *commandLine) error {
	var f listFlags
	f.add(cl)
	asJSON := cl.Bool("json", false, "print JSON")
	if err := cl.parse(0, 0); err != nil {
		return err
	}
	cfg, err := f.open()
	if err != nil {
		return err
	}
	all, err := statsOf(&cfg.Lists, time.Now())
	if err != nil {
		return err
	}
	if *asJSON {
		return json.MarshalWrite(cl.out, all, jsontext.WithIndent("  "))
	}
	return printStats(cl.out, all)
}

// statsOf reads manifests and CSV files. Snapshots are described as their manifests have it; "lists verify" looks further.
func statsOf(cfg *ListsConfig, now time.Time) ([]listStats, error) {
	there, err := lists.Look(cfg.Dir, cfg.trust())
	if err != nil {
		return nil, err
	}
	standings, err := lists.ReadStandings(cfg.Dir)
	if err != nil {
		return nil, err
	}
	held := map[string]int{}
	for _, st := range standings.All() {
		if st.State != lists.Released {
			held[st.List]++
		}
	}
	all := []listStats{}
	needed := 0
	if len(cfg.Keys) > 0 {
		needed = cfg.Signatures
	}
	for i := range there {
		l := &there[i]
		settings := cfg.Settings[l.Name]
		s := listStats{Name: l.Name, Needed: needed, Signers: append([]string{}, l.Signers...), Entries: map[hashdb.Kind]int{}}
		if s.Settings, err = settingsText(&settings); err != nil {
			return nil, err
		}
		if l.Fault != nil {
			s.Fault = l.Fault.Error()
		}
		if m := l.Manifest; m != nil {
			s.Version, s.Made, s.Records, s.Entries, s.Refused = m.Version(), m.Made, m.Records, m.Entries, m.Refused
			s.AgeSeconds = int64(now.Sub(m.Made).Seconds())
			s.Changed = m.Change.String()
			s.Same = m.Settings == settings.Digest()
		}
		if l.Waits != nil {
			s.Waits = l.Waits.Version()
		}
		s.Held, s.Stale = held[s.Name], settings.Stale(lists.Updated(cfg.Dir, s.Name, l.Manifest), now)
		all = append(all, s)
	}
	plain, err := hashdb.LoadDir(cfg.Dir)
	if err != nil && !errors.Is(err, hashdb.ErrNoLists) {
		return nil, err
	}
	for _, info := range plain.Lists() {
		settings := cfg.Settings[info.Name]
		s := listStats{Name: info.Name, Version: info.Version, Entries: info.Entries, Refused: info.Refused, Signers: []string{}, Same: true, Plain: true}
		if s.Settings, err = settingsText(&settings); err != nil {
			return nil, err
		}
		s.Held, s.Stale = held[s.Name], settings.Stale(lists.Updated(cfg.Dir, s.Name, nil), now)
		all = append(all, s)
	}
	return all, nil
}

func settingsText(s *lists.Settings) (string, error) {
	if s.Digest() == "" {
		return "", nil
	}
	text, err := yaml.Marshal(s)
	return strings.TrimSpace(string(text)), err
}

func printStats(w io.Writer, all []listStats) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "LIST\tVERSION\tAGE\tENTRIES\tREFUSED\tSIGNED BY\tNOTES")
	for i := range all {
		s := &all[i]
		age, signed := "-", joinOr(s.Signers, "nobody")
		if !s.Made.IsZero() {
			age = (time.Duration(s.AgeSeconds) * time.Second).String()
		}
		var notes []string
		note := func(when bool, format string, args ...any) {
			if when {
				notes = append(notes, fmt.Sprintf(format, args...))
			}
		}
		note(s.Plain, "CSV")
		note(s.Fault != "", "%s", s.Fault)
		note(s.Stale != "", "asks a person at most, since %s", s.Stale)
		note(s.Held > 0, "%d entries held or withdrawn", s.Held)
		note(s.Waits != "", "%s waits for signatures", s.Waits)
		note(s.Settings != "", "%s", strings.ReplaceAll(s.Settings, "\n", "; "))
		note(!s.Same && s.Fault == "", "imported under other settings")
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n", s.Name, s.Version, age, kindCounts(s.Entries), s.Refused, signed, strings.Join(notes, "; "))
	}
	return tw.Flush()
}

func kindCounts(entries map[hashdb.Kind]int) string {
	var parts []string
	for _, k := range hashdb.Kinds() {
		if n := entries[k]; n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", k, n))
		}
	}
	return joinOr(parts, "none")
}

func runListsVerify(_ context.Context, cl *commandLine) error {
	var f listFlags
	f.add(cl)
	asJSON := cl.Bool("json", false, "print JSON")
	if err := cl.parse(0, -1); err != nil {
		return err
	}
	cfg, err := f.open()
	if err != nil {
		return err
	}
	there, err := lists.Look(cfg.Lists.Dir, cfg.Lists.trust())
	if err != nil {
		return err
	}
	names, err := chosen(cl.args(), there)
	if err != nil {
		return err
	}
	type verified struct {
		List    string   `json:"list"`
		Version string   `json:"version"`
		Signers []string `json:"signed_by"`
		Needed  int      `json:"signatures_needed"`
		Earlier int      `json:"earlier_manifests"`
		Waits   string   `json:"waits_for_signatures,omitzero"`
	}
	all := []verified{}
	for _, name := range names {
		l, earlier, err := lists.Verify(cfg.Lists.Dir, name, cfg.Lists.trust())
		if err != nil {
			return err
		}
		v := verified{List: name, Version: l.Manifest.String(), Signers: append([]string{}, l.Signers...), Earlier: earlier}
		if len(cfg.Lists.Keys) > 0 {
			v.Needed = cfg.Lists.Signatures
		}
		if l.Waits != nil {
			v.Waits = l.Waits.String()
		}
		if all = append(all, v); *asJSON {
			continue
		}
		signed := "no keys are configured, so signatures are not looked at"
		if v.Needed > 0 {
			signed = fmt.Sprintf("signed by %s (%d needed)", joinOr(v.Signers, "nobody"), v.Needed)
		}
		fmt.Fprintf(cl.out, "%s: files as they were written, follows %d earlier manifests, %s\n", v.Version, v.Earlier, signed)
		if v.Waits != "" {
			fmt.Fprintf(cl.out, "%s waits for signatures; it has those of %s\n", v.Waits, joinOr(l.Signed, "nobody known"))
		}
	}
	if *asJSON {
		return json.MarshalWrite(cl.out, all, jsontext.WithIndent("  "))
	}
	return nil
}
