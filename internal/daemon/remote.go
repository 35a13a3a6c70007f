package daemon

import (
	"context"

	"gosersync/conf"
	"gosersync/internal/pathset"
	"gosersync/rsync"
)

// remote is a source's rsync target: one lane of the pool.
type remote struct {
	name   string
	source *source
	client *rsync.Client
}

// targetName is unique over all trees and stays the same from start to start:
// the fail log knows its entries by it.
func targetName(watch, remote string) string { return watch + " -> " + remote }

// ClientOptions are the rsync options of one remote of a tree.
func ClientOptions(cfg *conf.Config, root string, r conf.Remote) rsync.Options {
	return rsync.Options{
		Root:         root,
		Target:       r.Target(),
		SSH:          r.SSH,
		Port:         r.Port,
		PasswordFile: r.PasswordFile,
		BWLimit:      r.BWLimit,
		Timeout:      r.Timeout,
		Params:       r.Params,
		Delete:       cfg.Inotify.Delete,
		Exclude:      excluder(cfg.Filter),
		WholeExclude: cfg.Crontab.Exclude,
	}
}

func (d *Daemon) newRemote(cfg *conf.Config, s *source, r conf.Remote) *remote {
	o := ClientOptions(cfg, s.root, r)
	o.Binary, o.Guard, o.Log = d.o.Rsync, s.guard.check, s.log
	if d.o.Progress != nil {
		o.Progress = func(p rsync.Progress) { d.o.Progress(targetName(s.spelled, r.Target()), p) }
	}
	c := rsync.New(o)
	return &remote{name: targetName(s.spelled, c.Name()), source: s, client: c}
}

// Name implements threadpool.Target.
func (r *remote) Name() string { return r.name }

// Sync implements threadpool.Target.
func (r *remote) Sync(ctx context.Context, set *pathset.Set, alive func()) error {
	for p := range set.All() {
		if p.Tree {
			defer r.source.queue.Carry()()
			break
		}
	}
	return r.client.Sync(ctx, set, alive)
}
