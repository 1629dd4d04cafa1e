package hashmatch

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/dmguard/dmguard/hashdb"
	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/pipeline/media"
)

// platform is the algorithm of a hash that the platform computed.
const platform = "platform"

// Examiner decodes pictures and videos and computes with the function of [NewLook] what
// there is to know of each frame: [media.InProcess] here, [media.Sandbox] in
// processes that can do no harm.
type Examiner interface {
	Examine(ctx context.Context, data []byte, want uint8, each func(frame int, seen []byte) error) (media.Result, error)
}

// Preparer makes the attachments of a message ready. Any number of goroutines
// may use it.
type Preparer struct {
	fetcher  *media.Fetcher
	examiner Examiner
	slots    *semaphore.Weighted // attachments in memory at one time, of all messages
	want     uint8
}

// NewPreparer returns a preparer that computes digests and PDQ hashes.
func NewPreparer(fetcher *media.Fetcher, examiner Examiner) *Preparer {
	return &Preparer{
		fetcher:  fetcher,
		examiner: examiner,
		slots:    semaphore.NewWeighted(int64(max(4, 2*runtime.GOMAXPROCS(0)))),
		want:     media.MayShrink,
	}
}

// For returns a preparer that also computes what expand names, as
// [Config.Expand] does, and the perception hash if set holds such hashes: it is
// too dear to compute for nothing. It shares the limits of p.
func (p *Preparer) For(set *hashdb.Set, expand []Expansion) *Preparer {
	q := *p
	q.want = 0
	for _, e := range expand {
		q.want |= expansions[e]
	}
	if set.Has(hashdb.PHash) {
		q.want |= wantPHash
	}
	if q.want&(wantPHash|wantNative) == 0 { // nn512 looks at one pixel in many
		q.want |= media.MayShrink
	}
	return &q
}

// Prepare fills item.Media with one entry for each attachment, in order. It
// fails only for what may pass: an outage of a store, or the end of ctx. All
// else that goes wrong with an attachment is in its [pipeline.Media.Err].
func (p *Preparer) Prepare(ctx context.Context, item *pipeline.Item) error {
	attachments := item.Message.Attachments
	if len(attachments) == 0 {
		item.Media = nil
		return nil
	}
	prepared := make([]pipeline.Media, len(attachments))
	group, ctx := errgroup.WithContext(media.ShareVideoTime(ctx))
	group.SetLimit(max(2, runtime.GOMAXPROCS(0)))
	for i := range attachments {
		group.Go(func() error {
			if err := p.slots.Acquire(ctx, 1); err != nil {
				return err
			}
			defer p.slots.Release(1)
			var err error
			prepared[i], err = p.attachment(ctx, &attachments[i])
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("preparing attachments: %w", err)
	}
	item.Media = prepared
	return nil
}

// attachment returns what could be made of one attachment, or what may pass.
func (p *Preparer) attachment(ctx context.Context, a *pipeline.Attachment) (m pipeline.Media, err error) {
	m.AttachmentID = a.ID
	var faults []string
	defer func() { m.Err = strings.Join(faults, "; ") }()

	m.Hashes, faults = platformHashes(a.Hashes)
	data, err := p.content(ctx, a)
	switch {
	case pipeline.IsPermanent(err):
		faults = append(faults, err.Error())
		return m, nil
	case err != nil:
		return m, err
	}
	for _, digest := range hashdb.Digests(data) {
		m.Hashes = append(m.Hashes, pipeline.Hash{
			Kind: digest.Kind().String(), Algorithm: digest.Kind().Algorithm(), Value: digest.String(),
		})
	}
	var film film
	isVideo := media.Sniff(data).Kind == media.Video
	result, err := p.examiner.Examine(ctx, data, p.want, func(frame int, seen []byte) error {
		if isVideo {
			return film.add(frame, seen)
		}
		hashes, err := hashesOf(frame, seen, p.want)
		m.Hashes = append(m.Hashes, hashes...)
		return err
	})
	m.Hashes = append(m.Hashes, film.hashes...)
	switch {
	case pipeline.IsPermanent(err):
		faults = append(faults, err.Error())
	case err != nil:
		return m, err
	case result.Format.Kind == media.Other && media.Declared(a.MediaType) == media.Image:
		faults = append(faults, "it is declared to be a picture and is none that is known")
	case result.Format.Kind == media.Other && media.Declared(a.MediaType) == media.Video:
		faults = append(faults, "it is declared to be a video and is none that is known")
	}
	if result.Skipped != "" {
		faults = append(faults, result.Skipped)
	}
	return m, nil
}

// content returns the bytes of an attachment; a permanent error says why there are none.
func (p *Preparer) content(ctx context.Context, a *pipeline.Attachment) ([]byte, error) {
	data := a.Data.Reveal()
	switch {
	case len(data) > 0:
		return data, p.fetcher.TooLarge(data)
	case a.URI == "":
		return nil, pipeline.Permanent(errors.New("it has no content and no address"))
	}
	data, err := p.fetcher.Fetch(ctx, a.URI)
	if err == nil && len(data) == 0 {
		return nil, pipeline.Permanent(errors.New("it is empty"))
	}
	return data, err
}

// platformHashes takes over the hashes that the platform computed, of the kinds
// that are known here, and says which of them are malformed.
func platformHashes(given map[string]string) (hashes []pipeline.Hash, faults []string) {
	for _, kind := range hashdb.Kinds() { // in an order of ours
		text, ok := given[kind.String()]
		if !ok || kind == hashdb.VPDQ { // of which one says nothing
			continue
		}
		h, err := hashdb.ParseHash(kind, text)
		if err != nil {
			faults = append(faults, fmt.Sprintf("the platform's %s hash is malformed", kind))
			continue
		}
		hashes = append(hashes, pipeline.Hash{Kind: kind.String(), Algorithm: platform, Value: h.String()})
	}
	return hashes, faults
}
