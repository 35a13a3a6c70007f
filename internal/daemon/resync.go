package daemon

import (
	"context"
	"time"

	"gosersync/internal/pathset"
)

// pushAll gives every remote of every source the whole tree, and removes there
// what the source does not have if <delete> is on: the first push, crontab and
// the resync command.
func (d *Daemon) pushAll(why string) {
	for _, r := range d.running() {
		whole := pathset.Of(pathset.Path{Rel: pathset.Root, Tree: true, Mirror: d.config().Inotify.Delete})
		targets := d.targetsOf(r)
		d.o.Log.Info(why, "source", r.spelled, "remotes", len(targets))
		for _, t := range targets {
			d.submit(t, whole)
		}
	}
}

// resyncLoop pushes whole trees when the crontab or the operator says so.
func (d *Daemon) resyncLoop(ctx context.Context) {
	for ctx.Err() == nil {
		due, stop := d.nextResync()
		select {
		case <-ctx.Done():
		case <-d.changed:
		case <-d.o.Resync:
			d.pushAll("resync by command")
		case <-due:
			d.pushAll("resync by crontab")
		}
		stop()
	}
}

// nextResync is a timer for the crontab's next time; it never fires without one.
func (d *Daemon) nextResync() (due <-chan time.Time, stop func()) {
	c := d.config().Crontab
	if !c.Enabled || d.o.Module != "" {
		return nil, func() {}
	}
	now := time.Now()
	t := time.NewTimer(c.Schedule.Next(now).Sub(now))
	return t.C, func() { t.Stop() }
}

// retryLoop repeats what the fail log holds, every timeToExecute.
func (d *Daemon) retryLoop(ctx context.Context) {
	for {
		t := time.NewTimer(d.config().FailLog.Every)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case now := <-t.C:
			d.retry(now)
		}
	}
}

// retry submits the fail log's due entries. Entries of remotes that are no
// longer in the config stay on disk, in case they come back with it.
func (d *Daemon) retry(now time.Time) {
	for target, set := range d.fail.Due(now, d.config().FailLog.Every) {
		if !d.pool.Has(target) {
			d.o.Log.Warn("fail log holds paths for a remote that is not in the configuration", "remote", target, "paths", set.Len())
			continue
		}
		d.submit(target, set)
	}
}
