package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// progress shows how far a long job is, on a terminal and nowhere else.
type progress struct {
	w    io.Writer
	unit string

	mu      sync.Mutex
	started time.Time
	drawn   time.Time
}

func newProgress(w io.Writer, unit string) *progress {
	p := &progress{unit: unit, started: time.Now()}
	if isTerminal(w) {
		p.w = w
	}
	return p
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// set draws the bar, at most ten times a second; only a count where total is 0,
// because nobody knows it.
func (p *progress) set(done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.w == nil || now.Sub(p.drawn) < 100*time.Millisecond {
		return
	}
	p.drawn = now
	const width = 30
	rate := float64(done) / max(now.Sub(p.started).Seconds(), 0.001)
	if total == 0 {
		fmt.Fprintf(p.w, "\r%d %s, %.0f/s \x1b[K", done, p.unit, rate)
		return
	}
	filled := int(min(done, total) * width / total)
	fmt.Fprintf(p.w, "\r[%s%s] %d of %d %s, %.0f/s \x1b[K", strings.Repeat("=", filled), strings.Repeat(" ", width-filled), done, total, p.unit, rate)
}

// end removes the bar.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.w != nil && !p.drawn.IsZero() {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

// partProgress shows the parts of a job, a bar each.
type partProgress struct {
	make func(part string) *progress

	mu   sync.Mutex
	part string
	bar  *progress
	most int
}

// set draws how much of a part is done. Calls may come out of order.
func (p *partProgress) set(part string, done, total int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar == nil || part != p.part {
		if p.bar != nil {
			p.bar.end()
		}
		p.part, p.bar, p.most = part, p.make(part), 0
	}
	p.most = max(p.most, done)
	p.bar.set(int64(p.most), int64(total))
}

func (p *partProgress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		p.bar.end()
	}
}
