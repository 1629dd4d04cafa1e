package exchange

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/dmguard/dmguard/hashdb/lists"
)

// vicsCategories are those that are taken where nobody says otherwise: abuse and exploitation of children in
// the scales of the United States and of the United Kingdom, drawn or not.
var vicsCategories = map[string]string{"1": "", "2": "", "3": ""}

// vicsMedia is one entry of the Project VIC data model, 1.x or 2.0, as far as it is kept.
type vicsMedia struct {
	MediaID            text
	Category           text
	MD5, SHA1, SHA256  text
	PhotoDNA           jsontext.Value
	VictimIdentified   text
	OffenderIdentified text
	IsDistributed      text
	IsPrecategorized   text
	Series, Tags       jsontext.Value
	DateUpdated        moment
	Media              jsontext.Value // of a case
}

// vics reads a file of the Video Image Classification Standard (Project VIC, CAID): OData JSON, 1.x or 2.0, of
// Media or of Cases that hold Media. The specification is given out under agreement only; this follows the
// files that open tools read and write.
func vics(categories map[string]string) func(io.Reader, *batcher) error {
	if categories == nil {
		categories = vicsCategories
	}
	return func(r io.Reader, b *batcher) error {
		d, err := newDocument(r)
		if err != nil {
			return err
		}
		v := vicsReader{d, b, categories}
		if err := v.file(); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		return d.end()
	}
}

type vicsReader struct {
	d          *document
	b          *batcher
	categories map[string]string
}

func (v *vicsReader) file() error {
	found, cases := false, false
	err := v.d.members(func(name string) error {
		switch name {
		case "odata.metadata", "@odata.context":
			raw, err := v.d.value()
			if err != nil {
				return err
			}
			var context text
			if err := decode(raw, &context); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			_, holds, _ := strings.Cut(string(context), "#")
			cases = strings.HasPrefix(holds, "Cases")
			return nil
		case "value":
			found = true
			if cases {
				return v.d.elements(v.one)
			}
			return v.d.records(v.media)
		}
		return v.d.skip()
	})
	if err == nil && !found {
		err = errors.New(`a JSON object without "value"`)
	}
	return err
}

// one reads a case, whose media may be more than memory holds.
func (v *vicsReader) one() error {
	return v.d.members(func(name string) error {
		if name == "Media" {
			return v.d.records(v.media)
		}
		return v.d.skip()
	})
}

func (v *vicsReader) media(raw jsontext.Value) error {
	if raw == nil {
		return v.b.skip(v.place(), errTooLong.Error())
	}
	var m vicsMedia
	if err := decode(raw, &m); err != nil {
		return v.b.skip(v.place(), err.Error())
	}
	if len(m.Media) > 0 && m.Media.Kind() == '[' { // a case in a file that did not announce any
		var all []jsontext.Value
		if err := decode(m.Media, &all); err != nil {
			return v.b.skip(v.place(), err.Error())
		}
		for _, raw := range all {
			if err := v.media(raw); err != nil {
				return err
			}
		}
		return nil
	}
	category, taken := v.categories[string(m.Category)]
	if !taken {
		return v.b.skip("media "+string(m.MediaID), fmt.Sprintf("category %s is not taken", clip(string(m.Category), 16)))
	}

	var f findings
	f.add("md5", string(m.MD5))
	f.add("sha1", string(m.SHA1))
	f.add("sha256", string(m.SHA256))
	// MediaID counts the entries of one file, and cases count anew, so that the hashes are the name. All of
	// them: some tools fill one of the fields with zeros.
	var id strings.Builder
	for _, h := range f.hashes {
		if id.Len() > 0 {
			id.WriteByte('.')
		}
		id.WriteString(h.String())
	}
	if id.Len() == 0 {
		id.WriteString("media " + string(m.MediaID))
	}
	if len(m.PhotoDNA) > 0 && m.PhotoDNA.Kind() != 'n' && string(m.PhotoDNA) != `""` {
		f.unmatched = append(f.unmatched, "photodna")
	}
	labels := append([]string{"category " + string(m.Category)}, texts(m.Series)...)
	labels = append(labels, texts(m.Tags)...)
	for _, said := range []struct {
		what  text
		label string
	}{
		{m.VictimIdentified, "victim identified"},
		{m.OffenderIdentified, "offender identified"},
		{m.IsDistributed, "distributed"},
		{m.IsPrecategorized, "precategorized"},
	} {
		if yes, err := parseFlag(string(said.what)); err == nil && bool(yes) {
			labels = append(labels, said.label)
		}
	}
	return v.b.put(lists.Record{
		ID: id.String(), Hashes: f.hashes, Category: category, Labels: labels, Unmatched: f.unmatched, Changed: m.DateUpdated.Time,
	}, f.faults...)
}

func (v *vicsReader) place() string { return fmt.Sprintf("at byte %d", v.d.dec.InputOffset()) }

// texts reads a text, or an array of them; several in one text stand between semicolons.
func texts(v jsontext.Value) []string {
	if len(v) == 0 {
		return nil
	}
	if v.Kind() == '[' {
		var many []jsontext.Value
		if decode(v, &many) != nil {
			return nil
		}
		var out []string
		for _, one := range many[:min(len(many), maxLabels+1)] {
			if one.Kind() != '[' {
				out = append(out, texts(one)...)
			}
		}
		return out
	}
	var one text
	if decode(v, &one) != nil || one == "" {
		return nil
	}
	return strings.Split(string(one), ";")
}
