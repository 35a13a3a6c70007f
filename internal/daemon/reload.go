package daemon

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gosersync/conf"
	"gosersync/internal/pathset"
	"gosersync/watcher"
)

// editSettle is how long an edit of the config must have rested before it is
// read: editors write a file in several steps.
const editSettle = 300 * time.Millisecond

// reloadLoop reads the config again when the operator says so, or edited it.
func (d *Daemon) reloadLoop(ctx context.Context, edits <-chan struct{}, failed chan<- error) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.o.Reload:
			d.reload(ctx, failed)
		case <-edits:
			d.edited(ctx, failed)
		}
	}
}

// reload applies the config as it is on disk. A bad file leaves everything as
// it was.
func (d *Daemon) reload(ctx context.Context, failed chan<- error) {
	next, err := d.load()
	if err != nil {
		d.refuse(err)
		return
	}
	changes := d.diff(next)
	d.apply(ctx, next, failed)
	d.o.Log.Info("configuration reloaded", "changes", describe(changes))
}

// edited announces what an edit of the config would change, and applies it if
// the config asks for that.
func (d *Daemon) edited(ctx context.Context, failed chan<- error) {
	next, err := d.load()
	if err != nil {
		d.refuse(err)
		return
	}
	changes := d.diff(next)
	if len(changes) == 0 {
		return
	}
	if next.ReloadAuto {
		d.apply(ctx, next, failed)
		d.o.Log.Info("configuration reloaded", "changes", describe(changes))
		return
	}
	d.o.Log.Info("configuration was edited; apply it with: kill -HUP the daemon", "changes", describe(changes))
}

func (d *Daemon) refuse(err error) {
	for line := range strings.Lines(err.Error()) {
		d.o.Log.Error("configuration not reloaded; everything stays as it was", "problem", strings.TrimSpace(line))
	}
}

func (d *Daemon) load() (*conf.Config, error) {
	next, err := conf.Load(d.config().File)
	if err != nil {
		return nil, err
	}
	for _, tree := range next.Trees {
		if _, err := filepath.EvalSymlinks(tree.Watch); err != nil {
			return nil, fmt.Errorf("%s:%d: localpath@watch: %w", next.File, tree.Line, err)
		}
	}
	return next, nil
}

func describe(changes []string) string {
	if len(changes) == 0 {
		return "none"
	}
	return strings.Join(changes, "; ")
}

// diff says in words what next would change.
func (d *Daemon) diff(next *conf.Config) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var changes []string
	for _, tree := range next.Trees {
		old, ok := d.sources[tree.Watch]
		if !ok {
			changes = append(changes, "add tree "+tree.Watch)
			continue
		}
		if old.signature != signature(next, tree) {
			changes = append(changes, "restart tree "+tree.Watch)
		}
		changes = append(changes, diffRemotes(old.tree, tree)...)
	}
	for watch := range d.sources {
		if !slices.ContainsFunc(next.Trees, func(t conf.Tree) bool { return t.Watch == watch }) {
			changes = append(changes, "remove tree "+watch)
		}
	}
	if d.cfg.Crontab.Text != next.Crontab.Text || d.cfg.Crontab.Enabled != next.Crontab.Enabled {
		changes = append(changes, "change crontab")
	}
	slices.Sort(changes)
	return changes
}

func diffRemotes(old, next conf.Tree) []string {
	var changes []string
	for _, r := range next.Remotes {
		i := slices.IndexFunc(old.Remotes, func(o conf.Remote) bool { return o.Target() == r.Target() && o.Port == r.Port })
		switch {
		case i < 0:
			changes = append(changes, "add remote "+targetName(next.Watch, r.Target()))
		case settings(old.Remotes[i]) != settings(r):
			changes = append(changes, "change remote "+targetName(next.Watch, r.Target()))
		}
	}
	for _, o := range old.Remotes {
		if !slices.ContainsFunc(next.Remotes, func(r conf.Remote) bool { return o.Target() == r.Target() && o.Port == r.Port }) {
			changes = append(changes, "remove remote "+targetName(next.Watch, o.Target()))
		}
	}
	return changes
}

// settings is a remote's text without its place in the file.
func settings(r conf.Remote) string {
	r.Line = 0
	return fmt.Sprintf("%+v", r)
}

// signature is what cannot be changed without watching the tree anew.
func signature(cfg *conf.Config, tree conf.Tree) string {
	var regexes []string
	for _, m := range cfg.Filter.Exclude {
		regexes = append(regexes, m.String())
	}
	return fmt.Sprintf("%q %q %v %v %q %q", tree.Watch, tree.Backend, cfg.Inotify, cfg.Filter.Enabled, cfg.Filter.Temp, regexes)
}

// apply brings sources and lanes to next. What did not change is not touched.
func (d *Daemon) apply(ctx context.Context, next *conf.Config, failed chan<- error) {
	d.mu.Lock()
	d.cfg = next
	d.mu.Unlock()
	kept := map[string]bool{}
	for _, tree := range next.Trees {
		kept[tree.Watch] = true
	}
	for _, r := range d.running() {
		if !kept[r.tree.Watch] {
			d.removeTree(r)
		}
	}
	for _, tree := range next.Trees {
		d.applyTree(ctx, next, tree, failed)
	}
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

func (d *Daemon) applyTree(ctx context.Context, next *conf.Config, tree conf.Tree, failed chan<- error) {
	d.mu.Lock()
	r := d.sources[tree.Watch]
	d.mu.Unlock()
	if r != nil && r.signature == signature(next, tree) {
		d.applyRemotes(next, r, tree)
		return
	}
	if r != nil {
		r.stop()
	}
	opened, err := d.open(next, tree)
	if err != nil {
		d.o.Log.Error("tree not started", "source", tree.Watch, "err", err)
		return
	}
	d.mu.Lock()
	d.sources[tree.Watch] = opened
	d.mu.Unlock()
	if r != nil {
		d.dropRemotes(r, opened.targets)
	}
	d.start(ctx, opened, failed)
	d.pushWhenReady(ctx, opened)
}

// pushWhenReady sends a new or restarted tree as a whole once it is watched; it
// removes nothing, for that was not asked for.
func (d *Daemon) pushWhenReady(ctx context.Context, r *running) {
	select {
	case <-ctx.Done():
	case <-r.ready:
		d.deliver(r, pathset.Of(pathset.Path{Rel: pathset.Root, Tree: true}))
	}
}

// applyRemotes adds, replaces and removes the lanes of a tree that goes on. A
// new remote first gets the whole tree.
func (d *Daemon) applyRemotes(next *conf.Config, r *running, tree conf.Tree) {
	wanted := map[string]conf.Remote{}
	for _, c := range tree.Remotes {
		name, added := d.addRemote(next, r, c)
		wanted[name] = c
		if added {
			d.submit(name, pathset.Of(pathset.Path{Rel: pathset.Root, Tree: true}))
		}
	}
	r.tree = tree
	d.dropRemotes(r, wanted)
}

// dropRemotes ends the lanes of r that are not wanted.
func (d *Daemon) dropRemotes(r *running, wanted map[string]conf.Remote) {
	for _, name := range d.targetsOf(r) {
		if _, ok := wanted[name]; ok {
			continue
		}
		d.pool.Remove(name)
		d.mu.Lock()
		delete(r.targets, name)
		delete(d.clients, name)
		d.mu.Unlock()
		if err := d.fail.Forget(name); err != nil {
			d.o.Log.Error("fail log not written", "err", err)
		}
	}
}

func (d *Daemon) removeTree(r *running) {
	r.stop()
	d.mu.Lock()
	delete(d.sources, r.tree.Watch)
	d.mu.Unlock()
	d.dropRemotes(r, nil)
}

// watchConfig watches the folder of the config, without what is below it, and
// signals edits of the file. Editors replace the file, so its own watch would
// end with the first edit.
func (d *Daemon) watchConfig(ctx context.Context, edits chan<- struct{}) error {
	file, err := filepath.Abs(d.config().File)
	if err != nil {
		return fmt.Errorf("watch config: %w", err)
	}
	w, err := watcher.New(filepath.Dir(file), watcher.Options{
		Events: watcher.Events{CloseWrite: true, MoveTo: true, CreateFile: true},
		Prune:  func(string) bool { return true },
	})
	if err != nil {
		return fmt.Errorf("watch config: %w", err)
	}
	name := filepath.Base(file)
	return w.Run(ctx, func(p pathset.Path) {
		if p.Rel == name || p.Rel == pathset.Root {
			select {
			case edits <- struct{}{}:
			default:
			}
		}
	})
}

// settled passes a signal on when none has followed it for editSettle.
func settled(ctx context.Context, in <-chan struct{}, out chan<- struct{}) {
	t := time.NewTimer(0)
	<-t.C
	for {
		select {
		case <-ctx.Done():
			return
		case <-in:
			t.Reset(editSettle)
		case <-t.C:
			select {
			case out <- struct{}{}:
			case <-ctx.Done():
			}
		}
	}
}

// followConfig signals on edits when the config was edited. Losing sight of the
// file costs the announcement only, so it never ends the daemon.
func (d *Daemon) followConfig(ctx context.Context, edits chan<- struct{}) {
	raw := make(chan struct{}, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		settled(ctx, raw, edits)
	}()
	err := d.watchConfig(ctx, raw)
	if err != nil && !errors.Is(err, context.Canceled) && ctx.Err() == nil {
		d.o.Log.Warn("edits of the configuration are not seen; use kill -HUP", "err", err)
	}
	<-done
}
