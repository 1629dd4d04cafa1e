package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"

	"github.com/go-json-experiment/json"
	"go.uber.org/zap"

	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/pipeline/envelope"
	"github.com/dmguard/dmguard/reviewqueue/evidence"
)

// keyFlags name the keyset that opens envelopes.
type keyFlags struct {
	file envelope.File
}

func (k *keyFlags) add(cl *commandLine) {
	cl.env(&k.file.Path, "keys", "DMGUARD_KEYS", "", "Tink keyset that opens sealed messages, a JSON `file`")
	cl.env(&k.file.KMSKeyURI, "kms-key", "DMGUARD_KMS_KEY", "", "`URI` of the KMS key that wraps the keyset; none if the file is in the clear")
}

// open loads the keyset, nil where none is named.
func (k *keyFlags) open(log *zap.Logger) (*envelope.Reloader, error) {
	if k.file.Path == "" {
		return nil, nil
	}
	r, warning, err := envelope.NewReloader(k.file)
	if err != nil {
		return nil, err
	}
	if warning != "" {
		log.Warn(warning)
	}
	return r, nil
}

// openerWith returns what opens records: sealed ones with the keyset, plain ones
// only where they are allowed.
func openerWith(keys *envelope.Reloader, allowPlain bool) func(*pipeline.Record) (*pipeline.Message, error) {
	return func(r *pipeline.Record) (*pipeline.Message, error) {
		sealed := false
		switch r.Header("schema") {
		case pipeline.SchemaEnvelope:
			sealed = true
		case pipeline.SchemaMessage:
		default:
			sealed = envelope.IsEnvelope(r.Value)
		}
		switch {
		case sealed && keys == nil:
			return nil, pipeline.Permanent(errors.New("the message is sealed and no keyset was given (--keys)"))
		case sealed:
			plain, head, err := keys.Open(r.Value)
			if err != nil {
				return nil, err
			}
			m, err := pipeline.ParseMessage(plain)
			if err != nil {
				return nil, err
			}
			return m, envelope.CheckIDs(head, m)
		case !allowPlain:
			return nil, pipeline.Permanent(errors.New("the message is not sealed, and plain ones are refused (--allow-plaintext)"))
		default:
			return pipeline.OpenPlain(r)
		}
	}
}

func keysCommand() *command {
	return &command{name: "keys", summary: "make and rotate the keys of envelopes and of evidence", group: []*command{
		{
			name: "new", args: "FILE", summary: "make a keyset for sealing and opening messages",
			example: "dmguard keys new messages.json", run: runKeysNew,
		},
		{
			name: "rotate", args: "FILE", summary: "add a key and seal with it from now on; the old ones still open",
			example: "dmguard keys rotate messages.json", run: runKeysRotate,
		},
		{
			name: "show", args: "FILE", summary: "list the keys of a keyset, without the keys themselves",
			example: "dmguard keys show messages.json", run: runKeysShow,
		},
		{
			name: "disable", args: "FILE KEY-ID", summary: "stop a key from opening anything",
			example: "dmguard keys disable messages.json 1234567890", run: runKeysDisable,
		},
		{
			name: "review", args: "PUBLIC PRIVATE", summary: "make a key pair for evidence: PUBLIC for workers, PRIVATE for the review service",
			example: "dmguard keys review review.pub.json review.key.json", run: runKeysReview,
		},
	}}
}

func keyFile(cl *commandLine) *envelope.File {
	f := &envelope.File{}
	cl.env(&f.KMSKeyURI, "kms-key", "DMGUARD_KMS_KEY", "", "`URI` of the KMS key that wraps the keyset; none if the file is in the clear")
	return f
}

func runKeysNew(_ context.Context, cl *commandLine) error {
	f := keyFile(cl)
	if err := cl.parse(1, 1); err != nil {
		return err
	}
	f.Path = cl.args()[0]
	k, err := envelope.New()
	if err != nil {
		return err
	}
	if err := f.Create(k); err != nil {
		return err
	}
	return printKeys(cl.out, k, false)
}

func runKeysRotate(_ context.Context, cl *commandLine) error {
	return changeKeys(cl, 1, func(k *envelope.Keyset) (*envelope.Keyset, error) {
		k, _, err := k.Rotate()
		return k, err
	})
}

func runKeysDisable(_ context.Context, cl *commandLine) error {
	return changeKeys(cl, 2, func(k *envelope.Keyset) (*envelope.Keyset, error) {
		id, err := strconv.ParseUint(cl.args()[1], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("key id %q is not a decimal number of 32 bits", cl.args()[1])
		}
		return k.Disable(uint32(id))
	})
}

// changeKeys replaces the keyset that the first argument names by what change
// makes of it.
func changeKeys(cl *commandLine, arguments int, change func(*envelope.Keyset) (*envelope.Keyset, error)) error {
	f := keyFile(cl)
	if err := cl.parse(arguments, arguments); err != nil {
		return err
	}
	f.Path = cl.args()[0]
	k, err := loadKeys(cl, f)
	if err != nil {
		return err
	}
	if k, err = change(k); err != nil {
		return err
	}
	if err := f.Replace(k); err != nil {
		return err
	}
	return printKeys(cl.out, k, false)
}

func runKeysShow(_ context.Context, cl *commandLine) error {
	f := keyFile(cl)
	asJSON := cl.Bool("json", false, "print JSON")
	if err := cl.parse(1, 1); err != nil {
		return err
	}
	f.Path = cl.args()[0]
	k, err := loadKeys(cl, f)
	if err != nil {
		return err
	}
	return printKeys(cl.out, k, *asJSON)
}

func runKeysReview(_ context.Context, cl *commandLine) error {
	if err := cl.parse(2, 2); err != nil {
		return err
	}
	id, err := evidence.NewKeyPair(cl.args()[0], cl.args()[1])
	if err != nil {
		return err
	}
	fmt.Fprintf(cl.out, "review key %s: give %s to workers, keep %s in the review service\n", id, cl.args()[0], cl.args()[1])
	return nil
}

func loadKeys(cl *commandLine, f *envelope.File) (*envelope.Keyset, error) {
	k, warning, err := f.Load()
	if warning != "" {
		fmt.Fprintln(cl.err, "dmguard: warning:", warning)
	}
	return k, err
}

func printKeys(w io.Writer, k *envelope.Keyset, asJSON bool) error {
	keys := k.Describe()
	if asJSON {
		return json.MarshalWrite(w, keys)
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "KEY\tSTATUS\tSEALS")
	for _, key := range keys {
		seals := ""
		if key.Primary {
			seals = "yes"
		}
		fmt.Fprintf(tw, "%d\t%s\t%s\n", key.ID, key.Status, seals)
	}
	return tw.Flush()
}

func sealCommand() *command {
	return &command{
		name:    "seal",
		args:    "[FILE...]",
		summary: "turn NDJSON messages into sealed ones, in the contract's envelope",
		example: "dmguard seal --keys messages.json messages.ndjson > sealed.ndjson",
		run:     runSeal,
	}
}

func runSeal(ctx context.Context, cl *commandLine) error {
	var keys keyFlags
	keys.add(cl)
	if err := cl.parse(0, -1); err != nil {
		return err
	}
	if keys.file.Path == "" {
		return errors.New("name the keyset with --keys; \"dmguard keys new FILE\" makes one")
	}
	k, err := loadKeys(cl, &keys.file)
	if err != nil {
		return err
	}
	inputs, err := openInputs(cl.args(), cl.in)
	if err != nil {
		return err
	}
	defer inputs.close()
	w := bufio.NewWriter(cl.out)
	failed := 0
	err = inputs.each(ctx, func(where string, line []byte) error {
		// What would be refused later is refused here.
		_, err := pipeline.ParseMessage(line)
		var sealed []byte
		if err == nil {
			sealed, err = k.Seal(line)
		}
		if err != nil {
			failed++
			fmt.Fprintf(cl.err, "dmguard: %s: %v\n", where, err)
			return nil
		}
		_, err = w.Write(append(sealed, '\n'))
		return err
	})
	if err := errors.Join(err, w.Flush()); err != nil {
		return err
	}
	if failed > 0 {
		fmt.Fprintf(cl.err, "%d messages were not sealed\n", failed)
		return exitError(3)
	}
	return nil
}

// each calls f for every line that is not blank, with where it stands.
func (in *inputs) each(ctx context.Context, f func(where string, line []byte) error) error {
	for i, r := range in.readers {
		br := bufio.NewReaderSize(r, 256<<10)
		for number := 1; ; number++ {
			line, tooLong, err := readLine(br)
			where := fmt.Sprintf("line %d", number)
			if in.names[i] != "" {
				where = fmt.Sprintf("%s, line %d", in.names[i], number)
			}
			if tooLong {
				return fmt.Errorf("%s: longer than %d bytes", where, maxLine)
			}
			if line = bytes.TrimPrefix(line, []byte("\xef\xbb\xbf")); len(bytes.TrimSpace(line)) > 0 {
				if err := f(where, line); err != nil {
					return err
				}
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return fmt.Errorf("reading after %s: %w", where, err)
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
	return nil
}
