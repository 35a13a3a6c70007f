// Package daemon wires the rooms together: sources, lanes, fail log, plugins,
// resync and reload, and brings them to an orderly end.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"gosersync/conf"
	"gosersync/faillog"
	"gosersync/internal/pathset"
	"gosersync/rsync"
	"gosersync/threadpool"
)

// Options are what the command line decides.
type Options struct {
	Config     *conf.Config
	StateDir   string // 0700, of this instance alone
	Rsync      string // the rsync binary
	FirstPush  bool   // -r
	Workers    int    // -n; 0 = cores*2+2
	Module     string // -m: run only this plugin; "" = replicate
	AllowEmpty bool   // an empty or replaced source may remove at the remotes
	Log        *slog.Logger
	// Ready is called once, when every tree is watched; nil = nobody waits.
	Ready func()
	// Progress hears of whole-tree runs; nil = nobody looks.
	Progress func(target string, p rsync.Progress)
	// Reload gets a value when the config is to be read again.
	Reload <-chan os.Signal
	// Resync gets a value when every remote is to get the whole tree.
	Resync <-chan os.Signal
	// Grace is how long the lanes may drain after the end was asked for;
	// 0 = 30 s.
	Grace time.Duration
}

var errGrace = errors.New("the time for draining is over")

// Daemon is one instance.
type Daemon struct {
	o    Options
	pool *threadpool.Pool
	fail *faillog.Log

	resumed atomic.Bool // the lanes have what the fail log held at the start

	mu      sync.Mutex
	cfg     *conf.Config
	sources map[string]*running // by localpath@watch
	clients map[string]*rsync.Client
	changed chan struct{} // the schedule may be another one
}

// running is a source and how to end it.
type running struct {
	*source
	tree      conf.Tree
	signature string
	targets   map[string]conf.Remote // by target name
	plugin    *pluginLane            // nil = none
	stop      func()                 // ends it and waits; nil before start
}

// New opens everything the daemon needs, so that what is wrong is said before
// anything runs. It starts nothing.
func New(o Options) (*Daemon, error) {
	if o.Grace == 0 {
		o.Grace = 30 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	d := &Daemon{
		o: o, cfg: o.Config,
		sources: map[string]*running{},
		clients: map[string]*rsync.Client{},
		changed: make(chan struct{}, 1),
	}
	d.pool = threadpool.New(threadpool.Options{
		Workers: o.Workers, Observer: d, Bulk: d.bulk, Log: o.Log,
	})
	var err error
	d.fail, err = faillog.Open(faillog.Options{
		Dir: o.StateDir, Script: o.Config.FailLog.Path, Render: d.render, Log: o.Log,
	})
	if err != nil {
		return nil, fmt.Errorf("open fail log: %w", err)
	}
	if err := d.openSources(); err != nil {
		return nil, errors.Join(err, d.fail.Close())
	}
	return d, nil
}

func (d *Daemon) openSources() error {
	trees, err := d.trees(d.cfg)
	if err != nil {
		return err
	}
	var errs []error
	for _, tree := range trees {
		r, err := d.open(d.cfg, tree)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		d.sources[tree.Watch] = r
	}
	return errors.Join(errs...)
}

// open makes a tree's source and its lanes.
func (d *Daemon) open(cfg *conf.Config, tree conf.Tree) (*running, error) {
	s, err := newSource(cfg, tree, d.o.StateDir, d.o.AllowEmpty, d.o.Log)
	if err != nil {
		return nil, err
	}
	r := &running{source: s, tree: tree, signature: signature(cfg, tree), targets: map[string]conf.Remote{}}
	s.deliver = func(set *pathset.Set) { d.deliver(r, set) }
	for _, remote := range tree.Remotes {
		d.addRemote(cfg, r, remote)
	}
	if p := d.pluginFor(cfg); p != nil {
		r.plugin = newPluginLane(s, p)
		d.pool.Add(r.plugin)
	}
	return r, nil
}

// addRemote gives the remote a lane, or its lane new settings, and tells its
// name and whether it is new.
func (d *Daemon) addRemote(cfg *conf.Config, r *running, c conf.Remote) (name string, added bool) {
	t := d.newRemote(cfg, r.source, c)
	added = !d.pool.Has(t.name)
	d.mu.Lock()
	d.clients[t.name] = t.client
	r.targets[t.name] = c
	d.mu.Unlock()
	d.pool.Add(t)
	return t.name, added
}

// deliver hands a batch to every target of a source.
func (d *Daemon) deliver(r *running, set *pathset.Set) {
	targets := d.targetsOf(r)
	if r.plugin != nil {
		r.plugin.expect(targets, set)
	}
	for _, t := range targets {
		d.submit(t, set)
	}
	if r.plugin != nil && len(targets) == 0 {
		d.submit(r.plugin.Name(), set)
	}
}

func (d *Daemon) targetsOf(r *running) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	names := make([]string, 0, len(r.targets))
	for t := range r.targets {
		names = append(names, t)
	}
	return names
}

// submit hands set to a target's lane. A lane that a reload has just taken away
// is no loss: its remote is no longer in the config.
func (d *Daemon) submit(target string, set *pathset.Set) {
	if err := d.pool.Submit(target, set); err != nil {
		d.o.Log.Info("paths not sent", "err", err)
	}
}

// Done implements threadpool.Observer.
func (d *Daemon) Done(target string, set *pathset.Set, drained bool) {
	taken := set
	if drained && d.resumed.Load() {
		// The lane has had all that the fail log holds, perhaps in other shapes.
		taken = everything
	}
	if err := d.fail.Clear(target, taken); err != nil {
		d.o.Log.Error("fail log not written", "err", err)
	}
	d.answered(target, set)
}

// everything covers whatever a fail log can hold.
var everything = pathset.Of(pathset.Path{Rel: pathset.Root, Tree: true, Mirror: true})

// Failed implements threadpool.Observer.
func (d *Daemon) Failed(target string, set *pathset.Set, err error) {
	if err := d.fail.Record(target, set, err); err != nil {
		d.o.Log.Error("fail log not written; it is kept in memory", "err", err)
	}
	d.answered(target, set)
}

func (d *Daemon) answered(target string, set *pathset.Set) {
	for _, r := range d.running() {
		if r.plugin == nil {
			continue
		}
		if ripe := r.plugin.answered(target, set); ripe.Len() > 0 {
			d.submit(r.plugin.Name(), ripe)
		}
	}
}

func (d *Daemon) running() []*running {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make([]*running, 0, len(d.sources))
	for _, r := range d.sources {
		all = append(all, r)
	}
	return all
}

func (d *Daemon) config() *conf.Config {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cfg
}

// bulk implements threadpool's Options.Bulk.
func (d *Daemon) bulk(target string, p pathset.Path) bool {
	for _, r := range d.running() {
		d.mu.Lock()
		_, ours := r.targets[target]
		d.mu.Unlock()
		if ours {
			return bulk(r.root, p)
		}
	}
	return false
}

// render writes a target's part of the fail log's script.
func (d *Daemon) render(target string, set *pathset.Set) string {
	d.mu.Lock()
	c := d.clients[target]
	d.mu.Unlock()
	if c == nil {
		return "# this remote is not in the configuration\n"
	}
	return c.Script(set)
}

// Run replicates until ctx ends, then drains: what no remote has taken by then
// is in the fail log. hard ends the draining at once.
func (d *Daemon) Run(ctx, hard context.Context) error {
	hard, cut := context.WithCancelCause(hard)
	defer cut(nil)
	ctx, stop := context.WithCancelCause(ctx)
	var lanes, writer errgroup.Group
	logCtx, logStop := context.WithCancel(context.WithoutCancel(ctx))
	writer.Go(func() error { return d.fail.Run(logCtx) })
	lanes.Go(func() error { return d.pool.Run(hard) })

	err := d.work(ctx, stop)

	grace := time.AfterFunc(d.o.Grace, func() { cut(errGrace) })
	d.pool.Close()
	err = errors.Join(err, lanes.Wait())
	grace.Stop()
	logStop()
	return errors.Join(err, writer.Wait(), d.fail.Close())
}

// work runs the sources and the loops until ctx ends, or a source does.
func (d *Daemon) work(ctx context.Context, stop context.CancelCauseFunc) error {
	failed := make(chan error, 1)
	for _, r := range d.running() {
		d.start(ctx, r, failed)
	}
	var g errgroup.Group
	g.Go(func() error { return d.begin(ctx) })
	g.Go(func() error { d.retryLoop(ctx); return nil })
	g.Go(func() error { d.resyncLoop(ctx); return nil })
	edits := make(chan struct{})
	g.Go(func() error { d.reloadLoop(ctx, edits, failed); return nil })
	g.Go(func() error { d.followConfig(ctx, edits); return nil })
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		stop(err)
	}
	err = errors.Join(err, g.Wait())
	for _, r := range d.running() {
		r.stop()
	}
	return err
}

// start runs a source until r.stop is called.
func (d *Daemon) start(ctx context.Context, r *running, failed chan<- error) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := r.run(ctx); err != nil {
			select {
			case failed <- err:
			default:
			}
		}
	}()
	r.stop = func() { cancel(); <-ended }
}

// begin waits until every tree is watched, says so, and starts the first push
// and what the fail log still holds.
func (d *Daemon) begin(ctx context.Context) error {
	for _, r := range d.running() {
		select {
		case <-r.ready:
		case <-ctx.Done():
			return nil
		}
		d.o.Log.Info("watching", "source", r.spelled, "dirs", r.stats.Load().Stats().Dirs)
	}
	if d.o.Ready != nil {
		d.o.Ready()
	}
	if d.o.FirstPush && d.o.Module == "" {
		d.pushAll("first push")
	}
	d.retry(time.Now())
	d.resumed.Store(true)
	return nil
}
