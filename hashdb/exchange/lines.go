package exchange

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/go-json-experiment/json/jsontext"
)

// lines calls visit with each line that is not blank, and with nil for one over the limit.
func lines(in *bufio.Reader, visit func(place string, raw jsontext.Value) error) error {
	var line []byte
	long := false
	for n := 1; ; {
		part, err := in.ReadSlice('\n')
		if len(line)+len(part) > maxRecord {
			long, line = true, nil
		}
		if !long {
			line = append(line, part...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		place := fmt.Sprintf("line %d", n)
		switch trimmed := bytes.TrimSpace(line); {
		case long:
			if err := visit(place, nil); err != nil {
				return err
			}
		case len(trimmed) > 0:
			if err := visit(place, jsontext.Value(trimmed)); err != nil {
				return err
			}
		}
		if err != nil {
			return nil //nolint:nilerr // it is io.EOF
		}
		n++
		line, long = line[:0], false
	}
}
