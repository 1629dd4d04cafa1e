package exchange

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/dmguard/dmguard/hashdb/lists"
)

// Format is what a list comes as.
type Format string

// The formats. See the package comment for what is read of each.
const (
	CSV            Format = "csv"
	JSON           Format = "json"
	NCMEC          Format = "ncmec"
	StopNCII       Format = "stopncii"
	ThreatExchange Format = "threatexchange"
	TAT            Format = "tat"
	VICS           Format = "vics"
)

// Formats returns every format.
func Formats() []Format { return []Format{CSV, JSON, NCMEC, StopNCII, ThreatExchange, TAT, VICS} }

// ParseFormat reads a format's name.
func ParseFormat(name string) (Format, error) {
	for _, f := range Formats() {
		if string(f) == name {
			return f, nil
		}
	}
	return "", fmt.Errorf("unknown format %q: want one of csv, json, ncmec, stopncii, threatexchange, tat, vics", clip(name, 40))
}

// whole says that a file of the format is mostly the whole list, and not what changed in it.
func (f Format) whole() bool { return f == CSV || f == JSON || f == VICS }

// Extent says how much of a list a file holds.
type Extent uint8

const (
	// AsFormat is Whole for csv, json and vics, and Changes for the saved answers of an interface.
	AsFormat Extent = iota
	// Whole says that what the file does not hold is withdrawn.
	Whole
	// Changes says that what the file does not hold stays as it is.
	Changes
)

// Options are what a format needs to be told. The zero value will do for every format.
type Options struct {
	// Columns are those of csv and json.
	Columns Columns
	// Categories are those of vics that are taken, and the kind of harm that each is here, "" being that of the list.
	// What they mean differs between countries. Nil takes 1, 2 and 3, which are abuse in the scales of the
	// United States and the United Kingdom; records of others are skipped and told.
	Categories map[string]string
	// Extent is how much of the list a file holds; answers over the network say it themselves.
	Extent Extent
	// CredentialsFile is a file that only its owner may read, with what the source wants to see (see [Credentials]).
	// The environment is asked where it is "".
	CredentialsFile string
	// Progress is told how many bytes of a file were read, and of how many, or 0 where nobody knows.
	Progress func(done, total int64)

	now  func() time.Time                                 // for tests
	wait func(ctx context.Context, d time.Duration) error // for tests
}

func (o Options) replace(f Format) bool {
	return o.Extent == Whole || o.Extent == AsFormat && f.whole()
}

// reader returns what reads a file of the format.
func (o Options) reader(f Format) (func(io.Reader, *batcher) error, error) {
	switch f {
	case CSV:
		return readCSV(o.Columns, o.replace(f)), nil
	case JSON:
		return readJSON(o.Columns, o.replace(f)), nil
	case NCMEC:
		return readNCMEC, nil
	case StopNCII:
		return readStopNCII, nil
	case ThreatExchange:
		return readThreatUpdates, nil
	case TAT:
		return readTAT, nil
	case VICS:
		return vics(o.Categories), nil
	}
	_, err := ParseFormat(string(f))
	return nil, err
}

// Read returns the update that a file is. It reads r as the update is taken, once, in memory that does not
// depend on the file's size. A record that cannot be read is skipped and told; a file that breaks off, or is not of the format, is
// an error. So is a whole list without any record, which would empty the one that is kept.
func Read(f Format, r io.Reader, o Options) (lists.Update, error) {
	read, err := o.reader(f)
	if err != nil {
		return nil, err
	}
	return update(r, o.replace(f), read), nil
}

// Source is where updates of a list come from. It takes the checkpoint of the batch that was taken last, or "", and may be
// asked again after an update has ended, one at a time.
type Source func(ctx context.Context, checkpoint string) lists.Update

// Open returns the source of a list: a file, "-" for in, or the https URL of an interface, or of a file that is a csv, json or vics.
// Plain http is for loopback alone. The URL of an interface is what its paths are below:
//
//	ncmec           https://report.cybertip.org/hashsharing and its sisters; below it is /v2/entries
//	stopncii        https://api.stopncii.org/v1
//	threatexchange  https://graph.facebook.com/v21.0/PRIVACY_GROUP
//	tat             https://app.terrorismanalytics.org
//
// Nothing is opened or asked before an update is taken, but credentials are looked up at once.
func Open(f Format, source string, in io.Reader, o Options) (Source, error) {
	if _, err := o.reader(f); err != nil {
		return nil, err
	}
	if strings.Contains(source, "://") {
		s, err := o.network(f, source)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		return s, nil
	}
	return o.file(f, source, in), nil
}

func (o Options) file(f Format, path string, in io.Reader) Source {
	return func(ctx context.Context, _ string) lists.Update {
		return func(yield func(lists.Batch, error) bool) {
			read, err := o.reader(f)
			if err != nil {
				yield(lists.Batch{}, err)
				return
			}
			name, r, size := "standard input", in, int64(0)
			if path != "-" {
				file, err := os.Open(path)
				if err != nil {
					yield(lists.Batch{}, err)
					return
				}
				defer file.Close()
				if stat, err := file.Stat(); err == nil && stat.Mode().IsRegular() {
					size = stat.Size()
				}
				name, r = path, file
			}
			counted := &counter{ctx: ctx, r: r, total: size, progress: o.Progress}
			for batch, err := range update(counted, o.replace(f), read) {
				if err != nil {
					err = fmt.Errorf("%s: %w", name, err)
				}
				if !yield(batch, err) {
					return
				}
			}
		}
	}
}

// counter tells how far a reader is, and ends with its context.
type counter struct {
	ctx         context.Context //nolint:containedctx // io.Reader takes none
	r           io.Reader
	done, total int64
	progress    func(done, total int64)
}

func (c *counter) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.r.Read(p)
	c.done += int64(n)
	if c.progress != nil {
		c.progress(c.done, c.total)
	}
	return n, err
}
