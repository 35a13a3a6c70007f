package threadpool

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"gosersync/internal/pathset"
)

// stillLeft is an error of a remote that is well: some paths are not done yet.
type stillLeft interface{ StillLeft() *pathset.Set }

var errDismissed = errors.New("remote was removed from the configuration")

// lane is what one remote still has to get. At most two runs are in flight:
// one of small names, one of bulk (whole trees, big files), so that small
// names never wait behind big ones. A path is in flight at most once, but for
// names below a tree in flight: they go at once and once more after the tree,
// whose run may have read them before they changed.
type lane struct {
	p     *Pool
	wake  chan struct{}
	ended chan struct{} // closed when run returns

	news    sync.Mutex // held while a change is made and the observer told of it
	mu      sync.Mutex
	target  Target
	begun   bool
	cancel  context.CancelCauseFunc // ends the runs in flight; set by run
	gone    bool                    // dismissed
	fresh   *pathset.Set            // not looked at yet
	dirty   *pathset.Set            // waiting for the run of small names
	bulk    *pathset.Set            // waiting for the bulk run
	trouble *pathset.Set            // failed on a remote that is well
	runs    []*flight

	remote, paths pause // of the remote as a whole; of the paths in trouble
}

// flight is one run.
type flight struct {
	set   *pathset.Set
	again *pathset.Set // names that changed below a tree of set meanwhile
	bulk  bool
	retry bool // of paths that were in trouble
}

// pause is a growing time of waiting after failures in a row.
type pause struct {
	failures int
	until    time.Time
	since    time.Time
	err      error
}

func newLane(p *Pool, t Target) *lane {
	return &lane{
		p: p, target: t,
		wake:  make(chan struct{}, 1),
		ended: make(chan struct{}),
		fresh: &pathset.Set{}, dirty: &pathset.Set{}, bulk: &pathset.Set{}, trouble: &pathset.Set{},
	}
}

func (l *lane) replace(t Target) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.target = t
	l.remote.until = time.Time{} // the change may be what it was waiting for
	l.signal()
}

// dismiss ends the lane and waits for its runs.
func (l *lane) dismiss() {
	l.mu.Lock()
	l.gone = true
	begun := l.begun
	if begun {
		l.cancel(errDismissed)
	}
	l.mu.Unlock()
	if begun {
		<-l.ended
	}
}

func (l *lane) submit(set *pathset.Set) {
	l.news.Lock()
	defer l.news.Unlock()
	l.mu.Lock()
	l.fresh.Merge(set)
	if l.fresh.Len() > l.p.o.Limit {
		l.fresh.Collapse(l.p.o.Limit / 2)
	}
	name, down := l.target.Name(), l.remote.err
	l.mu.Unlock()
	l.signal()
	if down != nil {
		l.p.o.Observer.Failed(name, set, down)
	}
}

func (l *lane) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *lane) state() State {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := State{
		Pending: l.waiting() + l.trouble.Len(),
		Running: len(l.runs),
		Down:    l.remote.err,
		Since:   l.remote.since,
	}
	for _, f := range l.runs {
		s.Pending += f.set.Len()
	}
	return s
}

// run works until the pool is closed and the lane drained, or ctx ends.
func (l *lane) run(ctx context.Context) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	l.mu.Lock()
	l.begun, l.cancel = true, cancel
	if l.gone {
		cancel(errDismissed)
	}
	l.mu.Unlock()
	defer close(l.ended)

	var flights sync.WaitGroup
	for !l.over(ctx) {
		l.step(ctx, &flights)
	}
	flights.Wait()
	l.abandon(ctx)
}

// step starts a run if there is work and a worker, else waits for a reason to
// look again.
func (l *lane) step(ctx context.Context, flights *sync.WaitGroup) {
	wait, work := l.next(time.Now())
	var workers chan<- struct{}
	if work {
		workers = l.p.workers
	}
	var alarm <-chan time.Time
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		alarm = t.C
	}
	select {
	case <-ctx.Done():
	case <-l.wake:
	case <-alarm:
	case <-l.closedWhile(work || len(l.flying()) > 0):
	case workers <- struct{}{}:
		f, target := l.take()
		if f == nil {
			<-l.p.workers
			return
		}
		flights.Go(func() { l.fly(ctx, target, f) })
	}
}

// closedWhile is the pool's closing, as long as the lane has nothing to do that
// closing must not disturb.
func (l *lane) closedWhile(busy bool) <-chan struct{} {
	if busy {
		return nil
	}
	return l.p.closed
}

func (l *lane) flying() []*flight {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.runs
}

// over tells whether the lane has come to its end: everything is done, or what
// is left waits for a remote or a path that is in trouble.
func (l *lane) over(ctx context.Context) bool {
	if ctx.Err() != nil {
		return true
	}
	select {
	case <-l.p.closed:
	default:
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.runs) == 0 && (l.waiting() == 0 || l.remote.err != nil)
}

func (l *lane) waiting() int { return l.fresh.Len() + l.dirty.Len() + l.bulk.Len() }

// next tells whether there may be something to start now, and if not, how long
// to wait for it; 0 is until woken.
func (l *lane) next(now time.Time) (wait time.Duration, work bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.remote.until.After(now) {
		return l.remote.until.Sub(now), false
	}
	live, bulk := l.slots()
	if !live && !bulk {
		return 0, false
	}
	l.classify()
	if live && l.free(l.dirty) || bulk && l.free(l.bulk) {
		return 0, true
	}
	if !live || !l.free(l.trouble) {
		return 0, false
	}
	return max(0, l.paths.until.Sub(now)), !l.paths.until.After(now)
}

// free tells whether one of the paths that wait may fly now.
func (l *lane) free(waiting *pathset.Set) bool {
	for p := range waiting.All() {
		if !l.inFlight(p) {
			return true
		}
	}
	return false
}

// slots tells which of the two runs may be started.
func (l *lane) slots() (live, bulk bool) {
	live, bulk = true, true
	for _, f := range l.runs {
		if f.bulk {
			bulk = false
		} else {
			live = false
		}
	}
	if l.remote.err != nil { // one run shows whether it is back
		live, bulk = live && bulk, live && bulk
	}
	return live, bulk
}

// take picks the paths of the next run, or none.
func (l *lane) take() (*flight, Target) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if l.remote.until.After(now) {
		return nil, nil
	}
	live, bulk := l.slots()
	f := &flight{set: &pathset.Set{}, again: &pathset.Set{}}
	if bulk {
		f.bulk = true
		f.set = l.pick(l.bulk, 1<<30)
	}
	if f.set.Len() == 0 && live {
		f.bulk = false
		f.set = l.pick(l.dirty, l.p.o.Batch)
	}
	if f.set.Len() == 0 && live && !l.paths.until.After(now) {
		f.retry = true
		f.set = l.pick(l.trouble, l.p.o.Batch)
	}
	if f.set.Len() == 0 {
		return nil, nil
	}
	l.runs = append(l.runs, f)
	return f, l.target
}

// classify sorts what was submitted into small names and bulk, and widens what
// has become too many.
func (l *lane) classify() {
	name := l.target.Name()
	for p := range l.fresh.All() {
		if l.p.o.Bulk(name, p) {
			l.bulk.Add(p)
		} else {
			l.dirty.Add(p)
		}
	}
	l.fresh = &pathset.Set{}
	for _, s := range []*pathset.Set{l.dirty, l.bulk} {
		if s.Len() > l.p.o.Limit {
			s.Collapse(l.p.o.Limit / 2)
		}
	}
}

// pick takes up to n paths that may fly now out of from. Names below a tree in
// flight are noted there, to be looked at once more when it has landed.
func (l *lane) pick(from *pathset.Set, n int) *pathset.Set {
	set := &pathset.Set{}
	for p := range from.All() {
		if set.Len() >= n {
			break
		}
		if !l.inFlight(p) {
			set.Add(p)
		}
	}
	for p := range set.All() {
		from.Remove(p.Rel)
		for _, f := range l.runs {
			if f.set.Covers(p.Rel) {
				f.again.Add(p)
			}
		}
	}
	return set
}

// inFlight tells whether a run in flight keeps p on the ground.
func (l *lane) inFlight(p pathset.Path) bool {
	for _, f := range l.runs {
		if (p.Tree || p.Gone) && f.set.Touches(p.Rel) && !f.set.Covers(p.Rel) {
			return true
		}
		for above := range f.set.Above(p.Rel) {
			if above.Rel == p.Rel || !above.Tree {
				return true
			}
		}
	}
	return false
}

// fly makes one run and lands it.
func (l *lane) fly(ctx context.Context, target Target, f *flight) {
	alive, done := l.seat()
	err := target.Sync(ctx, f.set, alive)
	done()
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	l.land(ctx, target.Name(), f, err)
}

// seat holds the worker's place that the caller has taken. A remote that is
// silent for too long loses it: waiting needs no processor, and so no number of
// dead remotes can keep the living from theirs.
func (l *lane) seat() (alive, done func()) {
	leave := sync.OnceFunc(func() { <-l.p.workers })
	silence := time.AfterFunc(l.p.o.Silence, leave)
	return func() { silence.Stop() }, func() { silence.Stop(); leave() }
}

// land files the outcome of a run.
func (l *lane) land(ctx context.Context, name string, f *flight, err error) {
	defer l.signal()
	l.news.Lock()
	defer l.news.Unlock()
	done, left := outcome(f, err)
	var partly stillLeft
	well := err == nil || errors.As(err, &partly)
	drained := l.settle(ctx, f, left, well, err)
	if done.Len() > 0 {
		l.p.o.Observer.Done(name, done, drained)
	}
	if left.Len() > 0 {
		l.p.o.Observer.Failed(name, left, err)
	}
}

// outcome splits the run's set into what the remote has and what is left.
func outcome(f *flight, err error) (done, left *pathset.Set) {
	var partly stillLeft
	switch {
	case err == nil:
		return f.set, &pathset.Set{}
	case errors.As(err, &partly):
		left = partly.StillLeft()
		done = &pathset.Set{}
		for p := range f.set.All() {
			if !left.Touches(p.Rel) {
				done.Add(p)
			}
		}
		return done, left
	default:
		return &pathset.Set{}, f.set
	}
}

// settle puts what is left back and sets the pauses. It tells whether the lane
// has nothing more to do.
func (l *lane) settle(ctx context.Context, f *flight, left *pathset.Set, well bool, err error) (drained bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, r := range l.runs {
		if r == f {
			l.runs = append(l.runs[:i:i], l.runs[i+1:]...)
			break
		}
	}
	l.fresh.Merge(f.again)
	if ctx.Err() != nil {
		l.fresh.Merge(left)
		return false
	}
	if !well {
		l.fresh.Merge(left)
		l.fail(&l.remote, "remote is down", err)
		return false
	}
	if l.remote.err != nil {
		l.p.o.Log.Info("remote is back", "remote", l.target.Name(), "after", time.Since(l.remote.since).Round(time.Second))
	}
	l.remote = pause{}
	if left.Len() > 0 {
		l.trouble.Merge(left)
		l.trouble.Collapse(l.p.o.Limit)
		if !f.retry {
			l.paths.failures = 0 // other paths than those that have failed so often
		}
		l.fail(&l.paths, "paths are still to be done", err)
	} else if l.trouble.Len() == 0 {
		l.paths = pause{}
	}
	return len(l.runs) == 0 && l.waiting()+l.trouble.Len() == 0
}

// fail lengthens a pause, and says why when that is news. Jitter keeps many
// sources from coming back to a remote in the same moment.
func (l *lane) fail(p *pause, news string, err error) {
	now := time.Now()
	if p.err == nil {
		p.since = now
	}
	if p.err == nil || p.err.Error() != err.Error() {
		l.p.o.Log.Warn(news, "remote", l.target.Name(), "err", err)
	}
	wait := min(l.p.o.Ceiling, l.p.o.Backoff<<min(p.failures, 16))
	wait = wait*3/4 + rand.N(wait/2+1)
	p.failures++
	p.err, p.until = err, now.Add(wait)
}

// abandon reports what the end of the lane leaves undone.
func (l *lane) abandon(ctx context.Context) {
	l.mu.Lock()
	left := l.fresh.Clone()
	left.Merge(l.dirty)
	left.Merge(l.bulk)
	left.Merge(l.trouble)
	name, err, gone := l.target.Name(), l.remote.err, l.gone
	l.mu.Unlock()
	if gone || left.Len() == 0 {
		return
	}
	if err == nil {
		err = l.paths.err
	}
	if err == nil {
		err = context.Cause(ctx)
	}
	l.p.o.Observer.Failed(name, left, err)
}
