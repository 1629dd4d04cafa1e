package pipeline

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// deadline is a context with a deadline that starts its timer only when
// somebody waits for it. Almost no detector does, and a timer for each message
// and detector would cost more than folding a text.
type deadline struct {
	context.Context
	at time.Time

	once     sync.Once
	done     <-chan struct{}
	cancel   context.CancelFunc
	released atomic.Bool
}

// closed is what a deadline that was released before anybody waited hands out
// to a goroutine that its detector left behind.
var closed = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// Deadline implements [context.Context].
func (d *deadline) Deadline() (time.Time, bool) {
	if at, ok := d.Context.Deadline(); ok && at.Before(d.at) {
		return at, true
	}
	return d.at, true
}

// Done implements [context.Context].
func (d *deadline) Done() <-chan struct{} {
	d.once.Do(func() {
		var timer context.Context
		timer, d.cancel = context.WithDeadline(d.Context, d.at)
		d.done = timer.Done()
	})
	return d.done
}

// Err implements [context.Context].
func (d *deadline) Err() error {
	if err := d.Context.Err(); err != nil {
		return err
	}
	if !time.Now().Before(d.at) {
		return context.DeadlineExceeded
	}
	if d.released.Load() {
		return context.Canceled
	}
	return nil
}

// release ends the context and frees the timer, where one was started.
func (d *deadline) release() {
	d.released.Store(true)
	d.once.Do(func() { d.done = closed })
	if d.cancel != nil {
		d.cancel()
	}
}
