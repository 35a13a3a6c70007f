// Package filterqueue stands between a tree's events and the lanes: it lets a
// burst settle, merges repeated events, drops what the filter excludes and
// holds names that look temporary until they have shown that they are not.
package filterqueue

import (
	"context"
	"io"
	"strings"
	"sync"
	"time"

	"gosersync/internal/pathset"
)

// Temp says what becomes of names that look temporary.
type Temp string

// The values of <filter temp="...">.
const (
	Hold Temp = "hold" // wait; gone by then, they cost nothing
	Drop Temp = "drop" // never sent in real time: sersync's own rule
	Send Temp = "send" // no filter
)

// Options are the settings of a Queue; the zero value is useful.
type Options struct {
	Settle  time.Duration                   // quiet time before a batch is handed out; 0 = 2 ms
	Hold    time.Duration                   // how long a temporary-looking name is held; 0 = 3 s
	Temp    Temp                            // "" = Hold
	Exclude func(rel string, dir bool) bool // nil = nothing is excluded
	Limit   int                             // paths before directories are widened; 0 = 100,000
}

// patience is how many settle windows a batch waits at most while events go on.
const patience = 10

// Queue gathers paths for one source. Add never blocks.
type Queue struct {
	o    Options
	wake chan struct{}

	mu       sync.Mutex
	ready    *pathset.Set
	first    time.Time // when the oldest path of ready came
	last     time.Time // when the newest came
	held     map[string]*held
	order    []*held // oldest first; may hold some that left
	carriers int
	closed   bool
}

type held struct {
	path pathset.Path
	due  time.Time
	// forgettable: made while we watched, and no run of a whole directory can
	// have carried it, so no remote can have it.
	forgettable bool
}

// New makes an empty queue.
func New(o Options) *Queue {
	if o.Settle == 0 {
		o.Settle = 2 * time.Millisecond
	}
	if o.Hold == 0 {
		o.Hold = 3 * time.Second
	}
	if o.Temp == "" {
		o.Temp = Hold
	}
	if o.Limit == 0 {
		o.Limit = 100_000
	}
	if o.Exclude == nil {
		o.Exclude = func(string, bool) bool { return false }
	}
	return &Queue{o: o, wake: make(chan struct{}, 1), ready: &pathset.Set{}, held: map[string]*held{}}
}

// Add queues p. It never blocks and may be called from any goroutine; after
// Close it still queues, for Take to hand out.
func (q *Queue) Add(p pathset.Path) {
	if q.excluded(p) || q.o.Temp == Drop && !p.Tree && Dropped(p.Rel) {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.o.Temp == Hold && q.hold(p) {
		q.signal()
		return
	}
	q.push(p)
	q.signal()
}

// excluded asks the filter. A removed name may have been a directory, so both
// of its spellings count: what the filter kept off the remote is not removed
// there either.
func (q *Queue) excluded(p pathset.Path) bool {
	if p.Rel == pathset.Root {
		return false
	}
	return q.o.Exclude(p.Rel, p.Tree) || p.Gone && q.o.Exclude(p.Rel, true)
}

// hold takes p in if it looks temporary, and tells whether it did.
func (q *Queue) hold(p pathset.Path) bool {
	if p.Gone || p.Tree {
		return q.release(p)
	}
	if !Temporary(p.Rel) {
		return false
	}
	if q.held[p.Rel] != nil {
		return true
	}
	h := &held{path: p, due: time.Now().Add(q.o.Hold), forgettable: p.New && q.carriers == 0}
	q.held[p.Rel] = h
	q.order = append(q.order, h)
	if len(q.held) > q.o.Limit {
		q.releaseAll()
	}
	return true
}

// release ends the hold of p, which was removed or became a directory, and
// tells whether p can be forgotten.
func (q *Queue) release(p pathset.Path) bool {
	h := q.held[p.Rel]
	if h == nil {
		return false
	}
	delete(q.held, p.Rel)
	return p.Gone && h.forgettable
}

func (q *Queue) push(p pathset.Path) {
	now := time.Now()
	if q.ready.Len() == 0 {
		q.first = now
	}
	q.last = now
	q.ready.Add(p)
	if q.ready.Len() > q.o.Limit {
		q.ready.Collapse(q.o.Limit / 2)
	}
}

func (q *Queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// Carry tells the queue that a run which carries whole directories begins:
// until done is called, and for all that is held now, a held name may reach the
// remote with it, so its removal must be sent as well.
func (q *Queue) Carry() (done func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.carriers++
	for _, h := range q.held {
		h.forgettable = false
	}
	return sync.OnceFunc(func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.carriers--
	})
}

// Close ends the holding and the settling: Take hands out what there is and
// then returns io.EOF.
func (q *Queue) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.signal()
}

// Len is the number of paths queued or held.
func (q *Queue) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.ready.Len() + len(q.held)
}

// Take waits until a batch has settled and hands it out. It returns io.EOF
// once the queue is closed and empty, and the cause of ctx when that ends.
func (q *Queue) Take(ctx context.Context) (*pathset.Set, error) {
	for {
		set, wait, err := q.poll()
		if set != nil || err != nil {
			return set, err
		}
		if err := q.sleep(ctx, wait); err != nil {
			return nil, err
		}
	}
}

// poll returns a batch, or how long to wait for one; 0 is until woken.
func (q *Queue) poll() (set *pathset.Set, wait time.Duration, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	if q.closed {
		q.releaseAll()
	}
	next := q.releaseDue(now)
	if q.ready.Len() == 0 {
		if q.closed {
			return nil, 0, io.EOF
		}
		return nil, next, nil
	}
	settled := min(q.o.Settle-now.Sub(q.last), patience*q.o.Settle-now.Sub(q.first))
	if settled > 0 && !q.closed {
		return nil, settled, nil
	}
	set, q.ready = q.ready, &pathset.Set{}
	return set, 0, nil
}

// releaseDue queues what was held long enough and returns the time until the
// next is.
func (q *Queue) releaseDue(now time.Time) time.Duration {
	for len(q.order) > 0 {
		h := q.order[0]
		stays := q.held[h.path.Rel] == h
		if stays && h.due.After(now) {
			return h.due.Sub(now)
		}
		if stays {
			delete(q.held, h.path.Rel)
			q.push(h.path)
		}
		q.order = q.order[1:]
	}
	return 0
}

func (q *Queue) releaseAll() {
	for _, h := range q.held {
		q.push(h.path)
	}
	clear(q.held)
	q.order = nil
}

func (q *Queue) sleep(ctx context.Context, wait time.Duration) error {
	var alarm <-chan time.Time
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		alarm = t.C
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-q.wake:
	case <-alarm:
	}
	return nil
}

// Excluder builds the filter of sersync's <filter>: a path is excluded when it
// or a directory above it matches one of the expressions in any of the three
// spellings sersync gives them: `dir/sub/` for a directory, `name` for an entry
// of the root, `/dir/name` deeper down.
func Excluder(match []func(string) bool) func(rel string, dir bool) bool {
	if len(match) == 0 {
		return nil
	}
	matches := func(s string) bool {
		for _, m := range match {
			if m(s) {
				return true
			}
		}
		return false
	}
	return func(rel string, dir bool) bool {
		for end := 0; end < len(rel); end++ {
			i := strings.IndexByte(rel[end:], '/')
			if i < 0 {
				break
			}
			end += i
			if spelled(rel[:end], true, matches) {
				return true
			}
		}
		return spelled(rel, dir, matches)
	}
}

func spelled(rel string, dir bool, matches func(string) bool) bool {
	if dir && matches(rel+"/") {
		return true
	}
	if strings.IndexByte(rel, '/') >= 0 {
		rel = "/" + rel
	}
	return matches(rel)
}
