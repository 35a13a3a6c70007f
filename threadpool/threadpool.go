// Package threadpool pushes sets of paths to remotes: one lane per remote, all
// lanes under one limit of workers. A slow or dead remote fills its own lane
// and delays nobody.
package threadpool

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"gosersync/internal/pathset"
)

// Target is one remote, or a plugin in its place.
type Target interface {
	// Name tells targets apart; it must not change.
	Name() string
	// Sync makes the remote equal to the disk for every path of set. It calls
	// alive, once, as soon as the remote has answered. An error that has
	// StillLeft says which paths are still to be done on a remote that is
	// well; any other error means the remote took nothing.
	Sync(ctx context.Context, set *pathset.Set, alive func()) error
}

// Observer hears what becomes of submitted paths, for each target one thing
// after the other.
type Observer interface {
	// Done: the remote has every path of set. If drained, it also has all that
	// was submitted before.
	Done(target string, set *pathset.Set, drained bool)
	// Failed: the paths of set are still to be done, for the reason err. The
	// lane keeps them and tries again; after Run has returned it does not.
	Failed(target string, set *pathset.Set, err error)
}

// Options are the settings of a Pool.
type Options struct {
	Workers  int           // rsync runs at once over all remotes; 0 = cores*2+2
	Limit    int           // paths a lane keeps before it widens directories; 0 = 100,000
	Batch    int           // paths in one run at most; 0 = 10,000
	Backoff  time.Duration // first pause after a failure, doubled each time; 0 = 1 s
	Ceiling  time.Duration // longest pause; 0 = 60 s
	Silence  time.Duration // a run whose remote is silent for this long gives up its worker's place; 0 = 1 s
	Observer Observer      // nil = nobody hears
	// Bulk tells whether p is so much work that it must not travel with small
	// names; nil = only the whole tree is.
	Bulk func(target string, p pathset.Path) bool
	Log  *slog.Logger // nil = discard
}

// DefaultWorkers is cores*2+2, as sersync's documents promise.
func DefaultWorkers() int { return runtime.NumCPU()*2 + 2 }

func (o Options) withDefaults() Options {
	o.Workers = orInt(o.Workers, DefaultWorkers())
	o.Limit = orInt(o.Limit, 100_000)
	o.Batch = orInt(o.Batch, 10_000)
	o.Backoff = orTime(o.Backoff, time.Second)
	o.Ceiling = orTime(o.Ceiling, time.Minute)
	o.Silence = orTime(o.Silence, time.Second)
	if o.Observer == nil {
		o.Observer = nobody{}
	}
	if o.Bulk == nil {
		o.Bulk = func(_ string, p pathset.Path) bool { return p.Tree && p.Rel == pathset.Root }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

func orInt(v, zero int) int {
	if v == 0 {
		return zero
	}
	return v
}

func orTime(v, zero time.Duration) time.Duration {
	if v == 0 {
		return zero
	}
	return v
}

type nobody struct{}

func (nobody) Done(string, *pathset.Set, bool)    {}
func (nobody) Failed(string, *pathset.Set, error) {}

// Pool is the lanes of all remotes.
type Pool struct {
	o       Options
	workers chan struct{} // one token per run that counts

	mu    sync.Mutex
	lanes map[string]*lane
	start func(*lane) // set while lanes may be started

	closed  chan struct{}
	closing func()
}

// New makes a pool without lanes.
func New(o Options) *Pool {
	o = o.withDefaults()
	closed := make(chan struct{})
	return &Pool{
		o:       o,
		workers: make(chan struct{}, o.Workers),
		lanes:   map[string]*lane{},
		closed:  closed,
		closing: sync.OnceFunc(func() { close(closed) }),
	}
}

// Add gives t a lane. A target of that name that is there already is replaced,
// and its lane keeps what it has to do.
func (p *Pool) Add(t Target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.lanes[t.Name()]; l != nil {
		l.replace(t)
		return
	}
	l := newLane(p, t)
	p.lanes[t.Name()] = l
	if p.start != nil {
		p.start(l)
	}
}

// Has tells whether the named target has a lane.
func (p *Pool) Has(target string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lanes[target] != nil
}

// Remove ends the lane of the named target and forgets what it had to do. It
// returns when its runs have ended.
func (p *Pool) Remove(target string) {
	p.mu.Lock()
	l := p.lanes[target]
	delete(p.lanes, target)
	p.mu.Unlock()
	if l != nil {
		l.dismiss()
	}
}

// Submit hands set to the named target's lane. It never blocks on a remote. A
// target that is not in the pool is an error, and set is not taken.
func (p *Pool) Submit(target string, set *pathset.Set) error {
	p.mu.Lock()
	l := p.lanes[target]
	p.mu.Unlock()
	if l == nil {
		return fmt.Errorf("submit to %s: no such target", target)
	}
	l.submit(set)
	return nil
}

// State is what a lane is at.
type State struct {
	Pending int       // paths waiting or in flight
	Running int       // runs in flight
	Down    error     // why the remote is not answering; nil = it is well
	Since   time.Time // when it went down
}

// States returns the state of every lane by target name.
func (p *Pool) States() map[string]State {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make(map[string]State, len(p.lanes))
	for name, l := range p.lanes {
		all[name] = l.state()
	}
	return all
}

// Close tells the lanes that nothing more will be submitted: Run returns when
// they have done what they can. Lanes whose remote is down do not wait for it.
func (p *Pool) Close() { p.closing() }

// Run works until the pool is closed and drained, or ctx ends. What is left
// then has been reported as Failed.
func (p *Pool) Run(ctx context.Context) error {
	var g errgroup.Group
	p.mu.Lock()
	p.start = func(l *lane) {
		g.Go(func() error { l.run(ctx); return nil })
	}
	for _, l := range p.lanes {
		p.start(l)
	}
	p.mu.Unlock()
	g.Go(func() error { p.acceptLanes(ctx); return nil })
	return g.Wait()
}

// acceptLanes keeps Run open for lanes that Add brings, until the end comes.
func (p *Pool) acceptLanes(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-p.closed:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.start = nil
}
