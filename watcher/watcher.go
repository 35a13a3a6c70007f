// Package watcher turns what happens in a source tree into paths. Events only
// mark names: what is to be done for them is decided by lstat when they are
// sent, so a late, merged or doubled event does no harm, and a lost one is
// replaced by a look at the directory.
package watcher

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"gosersync/internal/pathset"
)

// ErrRootGone: the source was removed, renamed or unmounted.
var ErrRootGone = errors.New("the watched directory is gone")

// Events are sersync's switches: which kernel events count.
type Events struct {
	Delete, CreateFolder, CreateFile, CloseWrite, MoveFrom, MoveTo, Attrib, Modify bool
}

// Options are the settings of a Watcher.
type Options struct {
	Backend string // "" = inotify where the kernel has it, else fsnotify
	Events  Events
	// Prune tells which directories are neither watched nor entered; nil = none.
	Prune func(rel string) bool
	// Lost hears that events below rel may have been lost; nil = Run emits
	// Path{rel, Tree}.
	Lost   func(rel string)
	Poll   time.Duration // how often parts without watches are looked at; 0 = 10 s
	Settle time.Duration // fsnotify: quiet time in the place of close-write; 0 = 300 ms
	Log    *slog.Logger  // nil = discard
}

// Stats are a watcher's figures.
type Stats struct {
	Dirs      int64 // directories watched
	Unwatched int64 // directories polled for want of a watch
	Overflows int64 // times the kernel's queue was full
}

// backend is one way to hear of changes.
type backend interface {
	// run sets the watches, calls ready, and reports until ctx ends.
	run(ctx context.Context, ready func()) error
}

// Watcher watches one tree.
type Watcher struct {
	root  string
	o     Options
	emit  func(pathset.Path)
	ready chan struct{}

	dirs, unwatched, overflows atomic.Int64
}

// New makes a watcher for the tree at root, an absolute real path. It starts
// nothing.
func New(root string, o Options) (*Watcher, error) {
	switch o.Backend {
	case "":
		o.Backend = defaultBackend
	case "inotify", "fsnotify":
	default:
		return nil, fmt.Errorf("unknown backend %q; known are inotify and fsnotify", o.Backend)
	}
	if o.Prune == nil {
		o.Prune = func(string) bool { return false }
	}
	if o.Poll == 0 {
		o.Poll = 10 * time.Second
	}
	if o.Settle == 0 {
		o.Settle = 300 * time.Millisecond
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Watcher{root: root, o: o, ready: make(chan struct{})}, nil
}

// Ready is closed when the whole tree is watched.
func (w *Watcher) Ready() <-chan struct{} { return w.ready }

// Stats returns the figures so far.
func (w *Watcher) Stats() Stats {
	return Stats{Dirs: w.dirs.Load(), Unwatched: w.unwatched.Load(), Overflows: w.overflows.Load()}
}

// Run watches until ctx ends, and calls emit for every path that may have
// changed. emit must not block: while it does, the kernel's queue fills.
func (w *Watcher) Run(ctx context.Context, emit func(pathset.Path)) error {
	w.emit = emit
	b, err := w.open()
	if err != nil {
		return err
	}
	return b.run(ctx, sync.OnceFunc(func() { close(w.ready) }))
}

// lose says that events below rel may have been lost.
func (w *Watcher) lose(rel string) {
	if w.o.Lost != nil {
		w.o.Lost(rel)
		return
	}
	w.emit(pathset.Path{Rel: rel, Tree: true})
}

// full is the absolute name of rel.
func (w *Watcher) full(rel string) string {
	if rel == pathset.Root {
		return w.root
	}
	return w.root + "/" + rel
}
