package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/mod/sumdb/note"

	"github.com/dmguard/dmguard/hashdb"
	"github.com/dmguard/dmguard/hashdb/exchange"
	"github.com/dmguard/dmguard/hashdb/lists"
)

func listsCommand() *command {
	return &command{name: "lists", summary: "import hash lists, sign and verify them, look into them", group: []*command{
		{
			name: "import", args: "SOURCE", summary: "take a list over from where it is supplied, and make a snapshot of it for scanners",
			example: "dmguard lists import --format csv --list ours known.csv", run: runListsImport,
		},
		{
			name: "lookup", args: "HASH|FILE", summary: "show the entries that are nearest to a hash or a file, also those that do not match: any file by its digests, pictures and frames of videos by what they show",
			example: "dmguard lists lookup --kind pdq 13cb5a3e9f6d2c718ab4d2059fe1637c0b58e7a4d1936fc285ae41d70b7c29f6", run: runListsLookup,
		},
		{
			name: "stats", summary: "describe the lists of a folder: version, age, entries, refused, signatures, settings",
			example: "dmguard lists stats --json", run: runListsStats,
		},
		{
			name: "verify", args: "[LIST...]", summary: "compare lists with their signatures, digests and predecessors; exit status 1 with the first fault",
			example: "dmguard lists verify", run: runListsVerify,
		},
		{
			name: "sign", args: "LIST", summary: "add a signature to the snapshot that waits for some, or else to the one in force",
			example: "dmguard lists sign --key signer.key signed", run: runListsSign,
		},
		listsKeyCommand(),
		{
			name: "govern", summary: "hold entries that reviewers dismiss or that suddenly match far more messages than before, until ended or once",
			example: "dmguard lists govern --once --brokers kafka:9092", run: runListsGovern,
		},
		{
			name: "standing", summary: "show which entries are not acted upon as policy says, since when, why, and who says so",
			example: "dmguard lists standing --json", run: runListsStanding,
		},
		{
			name: "hold", args: "LIST ENTRY", summary: "let matches with an entry ask a person and no more, or with --withdraw let nothing follow from them",
			example: `dmguard lists hold signed e-1 --reason duplicate`, run: runListsHold,
		},
		{
			name: "release", args: "LIST ENTRY", summary: "let matches with an entry be acted upon as policy says again",
			example: `dmguard lists release signed e-1 --reason checked`, run: runListsRelease,
		},
	}}
}

func formatNames() string {
	names := make([]string, 0, len(exchange.Formats()))
	for _, f := range exchange.Formats() {
		names = append(names, string(f))
	}
	return strings.Join(names, ", ")
}

// exchangeOptions are what a format needs to be told.
type exchangeOptions struct{ columns, categories, credentials string }

func (o *exchangeOptions) add(cl *commandLine) {
	cl.StringVar(&o.columns, "columns", "", "columns of csv and json that are not called what such columns mostly are, such as `id=uuid,hash=digest,kind=algo`")
	cl.StringVar(&o.categories, "categories", "", "categories of vics that are taken, and the kind of harm of each, such as `1=csam,2=csam`; without it 1, 2 and 3 as the list's")
	cl.StringVar(&o.credentials, "credentials", "", "`file`, that only its owner may read, with what the source of an https URL wants to see; else from the environment, "+
		"such as "+exchange.CredentialsVariable(exchange.NCMEC))
}

func (o *exchangeOptions) open(cl *commandLine, format, source string, progress func(done, total int64)) (exchange.Source, error) {
	f, err := exchange.ParseFormat(format)
	if err != nil {
		return nil, fmt.Errorf("flag -format: %w", err)
	}
	options := exchange.Options{CredentialsFile: o.credentials, Progress: progress}
	if options.Columns, err = exchange.ParseColumns(o.columns); err != nil {
		return nil, fmt.Errorf("flag -columns: %w", err)
	}
	if o.categories != "" {
		options.Categories = map[string]string{}
		for _, pair := range splitList(o.categories) {
			name, harm, _ := strings.Cut(pair, "=")
			options.Categories[name] = harm
		}
	}
	return exchange.Open(f, source, cl.in, options)
}

// listFlags say which lists a command is about.
type listFlags struct {
	rules rulesetOptions
	data  *string
}

func (f *listFlags) add(cl *commandLine) {
	f.rules.add(cl)
	f.data = dataFlag(cl)
}

// open returns the configuration with the folder of lists in it: that of --lists, else of the configuration, else the one
// of "up".
func (f *listFlags) open() (*Config, error) {
	cfg, err := loadConfig(f.rules.config)
	if err != nil {
		return nil, err
	}
	switch {
	case f.rules.lists != "":
		cfg.Lists.Dir = f.rules.lists
	case cfg.Lists.Dir == "":
		cfg.Lists.Dir = filepath.Join(*f.data, "lists")
	}
	return cfg, nil
}

// signers reads private keys.
func signers(files []string) ([]note.Signer, error) {
	var all []note.Signer
	var errs []error
	for _, name := range files {
		s, _, err := readSigner(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		all = append(all, s)
	}
	return all, errors.Join(errs...)
}

func readSigner(name string) (note.Signer, string, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, "", err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, "", fmt.Errorf("%s: others may read this private key; chmod 600 it", name)
	}
	text, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return nil, "", err
	}
	s, public, err := lists.ParseSigner(string(text))
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", name, err)
	}
	return s, public, nil
}

// importResult is what "lists import --json" prints.
type importResult struct {
	List    string `json:"list"`
	Version string `json:"version,omitzero"` // of the snapshot, name@number-digest
	Waits   bool   `json:"waits_for_signatures"`
	Same    bool   `json:"unchanged_snapshot"`
	Entries int    `json:"entries"`
	lists.Summary
	Error string `json:"error,omitzero"`
}

func runListsImport(ctx context.Context, cl *commandLine) (err error) {
	var f listFlags
	f.add(cl)
	format := cl.String("format", "", "how the list is supplied: "+formatNames())
	name := cl.String("list", "", "`name` of the list here: letters, digits, dots, hyphens, underscores")
	var keys string
	cl.env(&keys, "key", "DMGUARD_LISTS_KEY", "", "private keys to sign with, `files` separated by commas (see \"dmguard lists key\")")
	var how exchangeOptions
	how.add(cl)
	approve := cl.Bool("approve-change", false, "a person has looked at what this update changes: put it in force though it is more than lists.max_change")
	asJSON := cl.Bool("json", false, "print JSON")
	if err := cl.parse(1, 1); err != nil {
		return err
	}
	source := cl.args()[0]
	supply, err := how.open(cl, *format, source, nil)
	if err != nil {
		return err
	}
	if err := lists.CheckName(*name); err != nil {
		return fmt.Errorf("flag -list: %w", err)
	}
	cfg, err := f.open()
	if err != nil {
		return err
	}
	signing, err := signers(splitList(keys))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.Lists.Dir, 0o755); err != nil { //nolint:gosec // other accounts scan with what is in it; records are 0600
		return err
	}
	if _, err := os.Stat(filepath.Join(cfg.Lists.Dir, *name+".csv")); err == nil {
		return fmt.Errorf("%s holds %s.csv, a list of that name: remove it, or choose another name with --list", cfg.Lists.Dir, *name)
	}
	store, err := lists.OpenStore(cfg.Lists.Dir, *name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	bar := newProgress(cl.err, "records")
	sum, taking := store.Take(ctx, lists.Origin{Source: clipSource(source), Format: *format}, supply(ctx, store.Checkpoint()), func(n int) { bar.set(int64(n), 0) })
	bar.end()
	r := importResult{List: *name, Summary: sum}
	var made *lists.Published
	var publishing error
	if taking == nil || sum.Added+sum.Changed+sum.Withdrawn > 0 {
		// What came before an error is taken, and known to be harmful: it does not wait for the rest.
		made, publishing = store.Publish(context.WithoutCancel(ctx), lists.Publication{
			Signers: signing, Trust: cfg.Lists.trust(), MaxChange: cfg.Lists.MaxChange, Approve: *approve, Settings: cfg.Lists.Settings[*name],
		})
	}
	if made != nil {
		r.Version, r.Waits, r.Same, r.Entries = made.Manifest.String(), made.Waits, made.Same, made.Manifest.Total()
	}
	fault := errors.Join(taking, publishing)
	if fault != nil {
		r.Error = fault.Error()
	}
	if *asJSON {
		return errors.Join(json.MarshalWrite(cl.out, r, jsontext.WithIndent("  ")), fault)
	}
	r.print(cl.out)
	if errors.Is(publishing, lists.ErrTooLarge) {
		fault = fmt.Errorf("%w\nthe records are kept; scanners go on with the snapshot before. If the change is right, import again with --approve-change", fault)
	}
	return fault
}

func (r *importResult) print(w io.Writer) {
	fmt.Fprintf(w, "%s: %d added, %d changed, %d withdrawn, %d as before; %d records\n", r.List, r.Added, r.Changed, r.Withdrawn, r.Unchanged, r.Records)
	if r.Refused > 0 {
		fmt.Fprintf(w, "%d refused:\n", r.Refused)
		for _, refused := range r.Refusals {
			fmt.Fprintf(w, "  %s\t%s\t%s\n", refused.ID, refused.Hash, refused.Reason)
		}
		if more := r.Refused - len(r.Refusals); more > 0 {
			fmt.Fprintf(w, "  and %d more\n", more)
		}
	}
	switch {
	case r.Version == "":
	case r.Waits:
		fmt.Fprintf(w, "%s waits for signatures: dmguard lists sign --key FILE %s\n", r.Version, r.List)
	case r.Same:
		fmt.Fprintf(w, "%s stays in force, %d entries\n", r.Version, r.Entries)
	default:
		fmt.Fprintf(w, "%s is in force, %d entries\n", r.Version, r.Entries)
	}
}

// clipSource shortens what is kept of where a list came from, without what a URL may carry beside its path.
func clipSource(source string) string {
	source, _, _ = strings.Cut(source, "?")
	if hashdb.Printable(source) != nil {
		return filepath.Ext(source)
	}
	return source
}
