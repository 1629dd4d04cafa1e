package exchange

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/dmguard/dmguard/hashdb/lists"
)

// maxXMLText is how many bytes of one element's text are kept; every hash that is matched here fits.
const maxXMLText = 64 << 10

// ncmecPage is what an answer of /v2/entries of the NCMEC Hash Sharing API v2 says of itself.
type ncmecPage struct {
	entries int
	next    string
}

// ncmecKinds are elements of fingerprints by this project's names, where they differ.
var ncmecKinds = map[string]string{
	"pdna": "photodna",
}

// ncmecEntry is an image or a video, or the tombstone of one.
type ncmecEntry struct {
	deleted        bool
	member, id     string
	classification string
	changed        moment
	found          findings
	said           opinions

	vote   string // affirmative or negative, of the feedback that is being read
	kind   string // of the fingerprint that it is about
	reason string
}

// readNCMEC reads saved answers, one or several after another.
func readNCMEC(r io.Reader, b *batcher) error {
	_, err := ncmec(r, b)
	return err
}

func ncmec(r io.Reader, b *batcher) (ncmecPage, error) {
	in, err := withoutMark(r)
	if err != nil {
		return ncmecPage{}, err
	}
	w := newWindow(in, maxRecord)
	n := ncmecReader{in: w, dec: xml.NewDecoder(w), b: b}
	if err := n.read(); err != nil {
		return ncmecPage{}, err
	}
	return n.page, nil
}

type ncmecReader struct {
	in   *window
	dec  *xml.Decoder
	b    *batcher
	path []string // of the element that is being read, in lower case
	text strings.Builder
	page ncmecPage
	e    ncmecEntry
}

// Places in the document: queryResult, then images, videos or paging, then entries.
const (
	atRoot = iota + 1
	atGroup
	atEntry
)

func (n *ncmecReader) read() error {
	roots := 0
	for {
		n.in.renew()
		token, err := n.dec.Token()
		switch {
		case errors.Is(err, io.EOF) && roots == 0:
			return errors.New("nothing in it")
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		switch t := token.(type) {
		case xml.Directive:
			return errors.New("a document type declaration, which the format has not")
		case xml.StartElement:
			if len(n.path) == 0 {
				roots++
			}
			if err := n.start(t); err != nil {
				return err
			}
		case xml.CharData:
			if n.text.Len()+len(t) <= maxXMLText {
				n.text.Write(t)
			}
		case xml.EndElement:
			if err := n.end(); err != nil {
				return err
			}
			n.path = n.path[:len(n.path)-1]
		}
	}
}

func (n *ncmecReader) start(t xml.StartElement) error {
	name := strings.ToLower(t.Name.Local)
	n.path = append(n.path, name)
	n.text.Reset()
	switch depth := len(n.path); {
	case depth > maxDepth:
		return fmt.Errorf("elements nested more than %d deep", maxDepth)
	case depth == atRoot && name != "queryresult":
		return fmt.Errorf("the document is a %q, want a queryResult", clip(name, maxText))
	case depth == atGroup && name != "images" && name != "videos" && name != "paging":
		return n.b.skip(name, "neither images nor videos")
	case depth == atEntry && n.listed():
		n.e = ncmecEntry{deleted: strings.HasPrefix(name, "deleted")}
	case depth > atEntry && n.listed():
		n.attributes(t)
	}
	return nil
}

// listed says that the element stands among images or videos.
func (n *ncmecReader) listed() bool { return n.path[1] == "images" || n.path[1] == "videos" }

// in the entry, the path of an element below it.
func (n *ncmecReader) below() string { return strings.Join(n.path[atEntry:], "/") }

func (n *ncmecReader) attributes(t xml.StartElement) {
	attribute := func(name string) string {
		for _, a := range t.Attr {
			if strings.EqualFold(a.Name.Local, name) {
				return a.Value
			}
		}
		return ""
	}
	e := &n.e
	switch at := n.below(); {
	case at == "member":
		e.member = strings.TrimSpace(attribute("id"))
	case at == "feedback/affirmativefeedback", at == "feedback/negativefeedback":
		e.vote = strings.TrimSuffix(n.path[len(n.path)-1], "feedback")
		e.kind = strings.ToLower(attribute("type"))
		e.reason = ""
	case strings.HasPrefix(at, "feedback/") && n.path[len(n.path)-1] == "reason":
		// A reason stands before the members that gave it, not around them.
		e.reason = attribute("name")
	case strings.HasPrefix(at, "feedback/") && n.path[len(n.path)-1] == "member":
		if id := attribute("id"); id != "" {
			what := e.vote
			if e.reason != "" {
				what += ": " + e.reason
			}
			e.said.add(id+"/"+e.kind, what)
		}
	case strings.HasPrefix(at, "fingerprints/"):
		// Large fingerprints are only referred to.
		if len(n.path) == atEntry+2 && attribute("href") != "" && len(e.found.unmatched) < maxHashes {
			e.found.unmatched = append(e.found.unmatched, ncmecKind(n.path[len(n.path)-1]))
		}
	}
}

func ncmecKind(element string) string {
	element = strings.ReplaceAll(element, "-", "_")
	if name, ok := ncmecKinds[element]; ok {
		return name
	}
	return element
}

func (n *ncmecReader) end() error {
	text := strings.TrimSpace(n.text.String())
	n.text.Reset()
	if len(n.path) == atGroup+1 && n.path[1] == "paging" && n.path[2] == "next" {
		n.page.next = text
	}
	if len(n.path) < atEntry || !n.listed() {
		return nil
	}
	if len(n.path) == atEntry {
		return n.entry()
	}
	e := &n.e
	switch at := n.below(); at {
	case "id":
		e.id = text
	case "classification":
		e.classification = text
	case "timestamp":
		e.changed.Time = parseTime(text)
	default:
		if len(n.path) == atEntry+2 && n.path[atEntry] == "fingerprints" && len(e.found.hashes)+len(e.found.faults)+len(e.found.unmatched) < 2*maxHashes {
			e.found.add(ncmecKind(n.path[atEntry+1]), text)
		}
	}
	return nil
}

func (n *ncmecReader) entry() error {
	n.page.entries++
	e := &n.e
	what := n.path[atEntry-1]
	if e.member == "" || e.id == "" {
		return n.b.skip(what, "no member or no id")
	}
	// Members name their entries themselves, so that only both together are unique.
	id := e.member + "/" + e.id
	switch what {
	case "deletedimage", "deletedvideo":
		return n.b.delete(id)
	case "image", "video":
		return n.b.put(lists.Record{
			ID: id, Hashes: e.found.hashes, Unmatched: e.found.unmatched, Labels: []string{e.classification},
			Opinions: e.said, Changed: e.changed.Time,
		}, e.found.faults...)
	}
	return n.b.skip(id, "neither an image nor a video nor the end of one")
}
