package exchange

import (
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/dmguard/dmguard/hashdb/lists"
)

// position is a checkpoint: how far a source was read.
type position struct {
	Format Format `json:"format"`
	Source string `json:"source"`
	// Until is the server's time up to which everything was read, in seconds since 1970.
	Until int64 `json:"until,omitempty"`
	// Fetched is when this machine asked last.
	Fetched int64 `json:"fetched,omitempty"`
	// Next is a cursor of NCMEC inside the window that ends at End.
	Next string `json:"next,omitempty"`
	End  int64  `json:"end,omitempty"`
	// After is the checkpoint of Tech Against Terrorism.
	After string `json:"after,omitempty"`
}

func (p position) String() string {
	text, err := json.Marshal(p)
	if err != nil {
		return "" // it has texts and numbers alone
	}
	return string(text)
}

// resume reads a checkpoint; "" is the beginning. One of another source is an error: what it was fetched from
// says nothing of what this one holds.
func (c *client) resume(f Format, checkpoint string) (position, error) {
	here := position{Format: f, Source: c.base.String()}
	if checkpoint == "" {
		return here, nil
	}
	var p position
	if err := json.Unmarshal([]byte(checkpoint), &p); err != nil {
		return position{}, errors.New("the checkpoint cannot be read")
	}
	if p.Format != f || p.Source != here.Source {
		return position{}, fmt.Errorf("the checkpoint is of %s at %s, and this is %s at %s: a list has one source",
			clip(string(p.Format), 40), clip(p.Source, maxText), f, here.Source)
	}
	if ahead := time.Unix(max(p.Until, p.Fetched), 0).Sub(c.now()); ahead > time.Hour {
		return position{}, fmt.Errorf("the checkpoint is %s in the future: is the clock right?", ahead.Round(time.Minute))
	}
	return p, nil
}

// older says that a checkpoint was last used longer ago than its source remembers what was withdrawn.
func (c *client) older(p position, than time.Duration) bool {
	return c.now().Sub(time.Unix(p.Fetched, 0)) > than
}

// trail notices a server that leads in a circle.
type trail struct {
	seen  map[string]bool
	empty int
}

// step takes the cursor of the next page and how many records this one had.
func (t *trail) step(cursor string, records int) error {
	if t.seen == nil {
		t.seen = map[string]bool{}
	}
	if t.seen[cursor] {
		return errors.New("the server sends to the same next page again")
	}
	if len(t.seen) >= 1_000_000 {
		return errors.New("a million pages and no end")
	}
	t.seen[cursor] = true
	t.empty++
	if records > 0 {
		t.empty = 0
	}
	if t.empty >= emptyPages {
		return fmt.Errorf("%d pages without a record, and still more to come", emptyPages)
	}
	return nil
}

// yieldAll hands batches over, the last one with the checkpoint. One is made where there is none to carry it.
func yieldAll(yield func(lists.Batch, error) bool, batches []lists.Batch, replace bool, checkpoint string) bool {
	if len(batches) == 0 {
		if checkpoint == "" && !replace {
			return true
		}
		batches = []lists.Batch{{Replace: replace}}
	}
	batches[len(batches)-1].Checkpoint = checkpoint
	for _, b := range batches {
		if !yield(b, nil) {
			return false
		}
	}
	return true
}

// count is how many records a page had.
func count(batches []lists.Batch) int {
	n := 0
	for _, b := range batches {
		n += len(b.Put) + len(b.Delete) + len(b.Skipped)
	}
	return n
}
