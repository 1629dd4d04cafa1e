package hashmatch

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gocloud.dev/blob"
	"gocloud.dev/blob/memblob"

	"github.com/dmguard/dmguard/hashdb"
	"github.com/dmguard/dmguard/hashdb/pdq"
	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/pipeline/media"
)

// picture is a generated pattern with enough structure for a hash.
func picture(seed int) *image.NRGBA {
	img := image.NewNRGBA(image.Rect(0, 0, 160, 120))
	for y := range 120 {
		for x := range 160 {
			v := 128 + 60*math.Sin(float64(x*(seed+1))/17) + 60*math.Cos(float64(y*(seed+3)+x*seed)/23)
			img.SetNRGBA(x, y, color.NRGBA{uint8(v), uint8(v / 2), uint8(255 - v), 0xff})
		}
	}
	return img
}

func mirrored(img *image.NRGBA) *image.NRGBA {
	out := image.NewNRGBA(img.Rect)
	for y := range img.Rect.Dy() {
		for x := range img.Rect.Dx() {
			out.SetNRGBA(img.Rect.Dx()-1-x, y, img.NRGBAAt(x, y))
		}
	}
	return out
}

func file(tb testing.TB, img image.Image) []byte {
	tb.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func newTestPreparer(tb testing.TB, change func(*media.Config)) *Preparer {
	tb.Helper()
	cfg := media.DefaultConfig()
	if change != nil {
		change(&cfg)
	}
	fetcher, err := media.Open(context.Background(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { fetcher.Close() })
	decoder, err := media.NewDecoder(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return NewPreparer(fetcher, &media.InProcess{Decoder: decoder, Look: NewLook()})
}

func inline(id, mediaType string, data []byte) pipeline.Attachment {
	return pipeline.Attachment{ID: id, MediaType: mediaType, Data: pipeline.NewBlob(data)}
}

func prepared(tb testing.TB, p *Preparer, attachments ...pipeline.Attachment) *pipeline.Item {
	tb.Helper()
	item := &pipeline.Item{Message: &pipeline.Message{ID: "m", ConversationID: "c", Attachments: attachments}}
	if err := p.Prepare(context.Background(), item); err != nil {
		tb.Fatal(err)
	}
	return item
}

func entry(tb testing.TB, kind hashdb.Kind, hexadecimal, id, category string) hashdb.Entry {
	tb.Helper()
	h, err := hashdb.ParseHash(kind, hexadecimal)
	if err != nil {
		tb.Fatal(err)
	}
	return hashdb.Entry{Hash: h, ID: id, Category: category}
}

func set(tb testing.TB, lists ...hashdb.List) *hashdb.Set {
	tb.Helper()
	s, err := hashdb.NewSet(lists...)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func detect(tb testing.TB, s *hashdb.Set, item *pipeline.Item) ([]pipeline.Finding, error) {
	tb.Helper()
	d, err := New(DefaultConfig(), s, nil)
	if err != nil {
		tb.Fatal(err)
	}
	answer, err := d.Detect(context.Background(), item)
	return answer.Findings, err
}

func TestEveryAttachmentIsHashedInItsOrderWithoutAnyList(t *testing.T) {
	root := t.TempDir()
	stored := file(t, picture(2))
	if err := os.WriteFile(filepath.Join(root, "p"), stored, 0o600); err != nil {
		t.Fatal(err)
	}
	p := newTestPreparer(t, func(c *media.Config) { c.FileRoots = []string{root} })
	attachments := []pipeline.Attachment{inline("a-0", "image/png", file(t, picture(1)))}
	for i := range 20 {
		attachments = append(attachments, inline(fmt.Sprint("t-", i), "text/plain", fmt.Append(nil, "page ", i)))
	}
	attachments = append(attachments, pipeline.Attachment{ID: "a-u", MediaType: "image/png", URI: "file://" + root + "/p"})
	item := prepared(t, p, attachments...)

	for i, m := range item.Media {
		if m.AttachmentID != attachments[i].ID || m.Err != "" {
			t.Errorf("attachment %d: id %s, %s", i, m.AttachmentID, m.Err)
		}
	}
	last := item.Media[len(item.Media)-1].Hashes
	var kinds []string
	for _, h := range last {
		kinds = append(kinds, h.Kind+" "+h.Algorithm)
	}
	if diff := cmp.Diff([]string{"sha256 sha256-fips180-4", "sha1 sha1-fips180-4", "md5 md5-rfc1321", "pdq pdq-nn512-v1"}, kinds); diff != "" {
		t.Error(diff)
	}
	if sum := sha256.Sum256(stored); last[0].Value != hex.EncodeToString(sum[:]) {
		t.Error("another SHA-256 than the file's")
	}
	want, quality := new(pdq.Hasher).Dihedral(picture(2), pdq.NN512)
	if h := last[3]; h.Value != want[0].String() || len(h.Variants) != 7 || h.Variants[6] != want[7].String() || *h.Quality != quality {
		t.Errorf("pdq %+v", h)
	}
	if _, err := detect(t, nil, item); err != nil {
		t.Error(err)
	}
}

func TestThePerceptionHashIsComputedOnlyForListsThatHoldSome(t *testing.T) {
	p := newTestPreparer(t, nil)
	a := inline("a", "image/png", file(t, picture(1)))
	if got := len(prepared(t, p, a).Media[0].Hashes); got != 4 {
		t.Errorf("%d hashes", got)
	}
	want, err := hashdb.Perception(picture(1))
	if err != nil {
		t.Fatal(err)
	}
	lists := set(t, hashdb.List{Name: "ours", Entries: []hashdb.Entry{{Hash: want, ID: "7"}}})
	item := prepared(t, p.For(lists, nil), a)
	if h := item.Media[0].Hashes; len(h) != 5 || h[4].Kind != "phash" || h[4].Algorithm != "goimagehash-v1.1.0" {
		t.Errorf("hashes %+v", h)
	}
	findings, err := detect(t, lists, item)
	if err != nil || len(findings) != 1 || findings[0].Score != 0.5 || findings[0].Category != "known_media" {
		t.Errorf("findings %+v, %v", findings, err)
	}
}

func TestWhatCouldNotBeLookedAtIsAnErrorThatNamesTheAttachment(t *testing.T) {
	p := newTestPreparer(t, nil)
	whole := file(t, picture(1))
	item := prepared(t, p,
		inline("good", "image/jpeg", whole), // lies, and is decoded as what it is
		inline("cut", "image/png", whole[:len(whole)/2]),
		inline("lie", "image/png", []byte("quoteme")),
		inline("film", "application/octet-stream", []byte("\x00\x00\x00\x18ftypisom\x00\x00\x00\x00")),
		inline("fake film", "Video/MP4", []byte("quoteme")),
		inline("tiff", "image/tiff", []byte("II*\x00\x08\x00\x00\x00")),
		pipeline.Attachment{ID: "none", MediaType: "text/plain"},
		pipeline.Attachment{ID: "gone", MediaType: "image/png", URI: "file:///quoteme"},
		pipeline.Attachment{ID: "odd", MediaType: "text/plain", Data: pipeline.NewBlob([]byte("x")), Hashes: map[string]string{"pdq": "quoteme"}},
		inline("pdf", "application/pdf", []byte("%PDF-1.7")),
	)
	want := []bool{false, true, true, true, true, true, true, true, true, false}
	for i, m := range item.Media {
		if got := m.Err != ""; got != want[i] {
			t.Errorf("%s: %q", m.AttachmentID, m.Err)
		}
		if digests := len(m.Hashes) >= 3; !digests && m.AttachmentID != "none" && m.AttachmentID != "gone" {
			t.Errorf("%s: no digests", m.AttachmentID)
		}
	}
	_, err := detect(t, nil, item)
	if err == nil || strings.Contains(err.Error(), "quoteme") || strings.Contains(err.Error(), `"good"`) || strings.Contains(err.Error(), `"pdf"`) {
		t.Fatalf("error %v", err)
	}
	for _, m := range item.Media[1:9] {
		if !strings.Contains(err.Error(), fmt.Sprintf("%q: %s", m.AttachmentID, m.Err)) {
			t.Errorf("%s is not in %v", m.AttachmentID, err)
		}
	}
}

func TestDigestsOfADamagedPictureAreStillMatched(t *testing.T) {
	data := file(t, picture(1))[:100]
	sum := md5.Sum(data)
	lists := set(t, hashdb.List{Name: "ours", Version: "v1", Category: "csam", Entries: []hashdb.Entry{entry(t, hashdb.MD5, hex.EncodeToString(sum[:]), "4711", "")}})
	findings, err := detect(t, lists, prepared(t, newTestPreparer(t, nil), inline("a", "image/png", data)))
	if err == nil {
		t.Error("the picture was not looked at and nothing says so")
	}
	want := []pipeline.Finding{{
		Category: "csam", Label: "md5", Score: 1, Reason: "list ours, entry 4711, the same md5",
		Match: &pipeline.Match{AttachmentID: "a", Kind: "md5", List: "ours", ListVersion: "v1", Entry: "4711"},
	}}
	if diff := cmp.Diff(want, findings); diff != "" {
		t.Error(diff)
	}
}

func TestAMirroredPictureMatchesByItsVariants(t *testing.T) {
	known, _ := new(pdq.Hasher).Hash(picture(1), pdq.NN512)
	known[5] ^= 3 // at most two bits away from the picture, and far from its mirror
	lists := set(t, hashdb.List{Name: "ours", Entries: []hashdb.Entry{entry(t, hashdb.PDQ, known.String(), "9", "ncii")}})
	p := newTestPreparer(t, nil)
	for name, img := range map[string]image.Image{"same": picture(1), "mirrored": mirrored(picture(1))} {
		findings, err := detect(t, lists, prepared(t, p, inline("a", "image/png", file(t, img))))
		if err != nil || len(findings) != 1 {
			t.Errorf("%s: %+v, %v", name, findings, err)
			continue
		}
		f := findings[0]
		if f.Match.Threshold != 31 || f.Match.Quality < pdq.MinQuality || f.Score != 1-float64(f.Match.Distance)/62 ||
			f.Reason != fmt.Sprintf("list ours, entry 9, pdq distance %d of 31", f.Match.Distance) {
			t.Errorf("%s: %+v %+v", name, f, *f.Match)
		}
	}
	findings, err := detect(t, lists, prepared(t, p, inline("a", "image/png", file(t, picture(6)))))
	if err != nil || len(findings) != 0 {
		t.Errorf("another picture: %+v, %v", findings, err)
	}
}

func TestABlankPictureIsNoFault(t *testing.T) {
	hash, quality := new(pdq.Hasher).Hash(picture(1), pdq.NN512)
	if quality < pdq.MinQuality {
		t.Fatalf("the pattern has quality %d", quality)
	}
	lists := set(t, hashdb.List{Name: "ours", Entries: []hashdb.Entry{entry(t, hashdb.PDQ, hash.String(), "9", "ncii")}})
	blank := image.NewNRGBA(image.Rect(0, 0, 90, 90))
	findings, err := detect(t, lists, prepared(t, newTestPreparer(t, nil),
		inline("a", "image/png", file(t, blank)), inline("dot", "image/png", file(t, image.NewGray(image.Rect(0, 0, 1, 1))))))
	if err != nil || len(findings) != 0 {
		t.Errorf("%+v, %v", findings, err)
	}
	// The same hash at a quality under 50 is not matched, at an unknown one it is.
	low := 49
	item := &pipeline.Item{Message: &pipeline.Message{Attachments: []pipeline.Attachment{{ID: "a"}}}, Media: []pipeline.Media{{
		AttachmentID: "a", Hashes: []pipeline.Hash{{Kind: "pdq", Value: hash.String(), Quality: &low}},
	}}}
	if findings, err := detect(t, lists, item); err != nil || len(findings) != 0 {
		t.Errorf("low quality: %+v, %v", findings, err)
	}
	item.Media[0].Hashes[0].Quality = nil
	if findings, err := detect(t, lists, item); err != nil || len(findings) != 1 {
		t.Errorf("unknown quality: %+v, %v", findings, err)
	}
}

func TestHashesOfThePlatformAreLookedUp(t *testing.T) {
	const known = "00112233445566778899aabbccddeeff"
	lists := set(t, hashdb.List{Name: "ours", Entries: []hashdb.Entry{entry(t, hashdb.MD5, known, "1", "csam")}})
	a := inline("a", "text/plain", []byte("x"))
	a.Hashes = map[string]string{"md5": strings.ToUpper(known), "photodna": "AAAA", "quux": "?"}
	item := prepared(t, newTestPreparer(t, nil), a)
	findings, err := detect(t, lists, item)
	if err != nil || len(findings) != 1 || !strings.Contains(findings[0].Reason, "by the platform's own hash") {
		t.Errorf("%+v, %v", findings, err)
	}
	if diff := cmp.Diff(pipeline.Hash{Kind: "md5", Algorithm: "platform", Value: known}, item.Media[0].Hashes[0]); diff != "" {
		t.Error(diff)
	}
}

func TestFindingsAreBoundedOrderedAndTheSameEveryTime(t *testing.T) {
	data := []byte("known file")
	sums := hashdb.Digests(data)
	var lists []hashdb.List
	for i := range 12 {
		lists = append(lists, hashdb.List{Name: fmt.Sprintf("list-%02d", 11-i), Category: "csam", Entries: []hashdb.Entry{
			{Hash: sums[0], ID: "e"}, {Hash: sums[1], ID: "e"}, {Hash: sums[2], ID: "other"},
		}})
	}
	s := set(t, lists...)
	item := prepared(t, newTestPreparer(t, nil), inline("a", "text/plain", data), inline("b", "text/plain", data))
	first, err := detect(t, s, item)
	if err != nil || len(first) != 16 {
		t.Fatalf("%d findings, %v", len(first), err)
	}
	for i := range 8 {
		if f := first[i]; f.Match.List != fmt.Sprintf("list-%02d", i) || f.Label != "sha256" || f.Match.AttachmentID != "a" || first[i+8].Match.AttachmentID != "b" {
			t.Errorf("finding %d: %+v", i, f)
		}
	}
	if !strings.Contains(first[7].Reason, "16 or more entries beside these") {
		t.Errorf("reason %q", first[7].Reason)
	}
	again, _ := detect(t, s, item)
	if diff := cmp.Diff(first, again); diff != "" {
		t.Error(diff)
	}
}

func TestAnItemThatWasNotPreparedIsNotClean(t *testing.T) {
	item := &pipeline.Item{Message: &pipeline.Message{Attachments: []pipeline.Attachment{{ID: "a"}}}}
	if _, err := detect(t, nil, item); err == nil {
		t.Error("no error")
	}
	item.Media = []pipeline.Media{{AttachmentID: "a", Hashes: []pipeline.Hash{{Kind: "md5", Value: "zz"}}}}
	if _, err := detect(t, nil, item); err == nil || strings.Contains(err.Error(), "zz") {
		t.Errorf("a malformed hash: %v", err)
	}
}

func TestAnOutageOfTheStoreFailsThePreparation(t *testing.T) {
	bucket := memblob.OpenBucket(nil)
	p := newTestPreparer(t, func(c *media.Config) { c.Buckets = map[string]*blob.Bucket{"mem://media": bucket} })
	bucket.Close()
	item := &pipeline.Item{Message: &pipeline.Message{Attachments: []pipeline.Attachment{{ID: "a", URI: "mem://media/x"}}}}
	if err := p.Prepare(t.Context(), item); err == nil || pipeline.IsPermanent(err) || item.Media != nil {
		t.Errorf("%+v, %v", item.Media, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	item.Message.Attachments = []pipeline.Attachment{inline("a", "image/png", file(t, picture(1)))}
	if err := p.Prepare(ctx, item); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestAnEmptyObjectIsAFault(t *testing.T) {
	bucket := memblob.OpenBucket(nil)
	defer bucket.Close()
	if err := bucket.WriteAll(t.Context(), "x", nil, nil); err != nil {
		t.Fatal(err)
	}
	p := newTestPreparer(t, func(c *media.Config) { c.Buckets = map[string]*blob.Bucket{"mem://media": bucket} })
	m := prepared(t, p, pipeline.Attachment{ID: "a", MediaType: "text/plain", URI: "mem://media/x"}).Media[0]
	if m.Err != "it is empty" || len(m.Hashes) != 0 {
		t.Errorf("%+v", m)
	}
}

func TestAPanicOfAHasherIsAFaultOfTheAttachment(t *testing.T) {
	p := newTestPreparer(t, nil)
	here, _ := p.examiner.(*media.InProcess)
	here.Look = func(f media.Frame, _ uint8) ([]byte, error) {
		(*pdq.Hasher)(nil).Hash(f.Image, pdq.NN512)
		return nil, nil
	}
	item := prepared(t, p, inline("a", "image/png", file(t, picture(1))), inline("b", "text/plain", []byte("x")))
	if m := item.Media[0]; m.Err != "looking at the png picture failed" || len(m.Hashes) != 3 {
		t.Errorf("%+v", m)
	}
	if item.Media[1].Err != "" {
		t.Error("the other attachment suffers")
	}
}

func TestSettingsAreValidated(t *testing.T) {
	if _, err := New(Config{}, nil, nil); err == nil || !strings.Contains(err.Error(), "category") || !strings.Contains(err.Error(), "max_findings") {
		t.Errorf("error %v", err)
	}
}
