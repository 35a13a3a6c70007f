package daemon

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"gosersync/conf"
	"gosersync/filterqueue"
	"gosersync/internal/index"
	"gosersync/internal/pathset"
	"gosersync/watcher"
)

const (
	// indexEvery is how often the index of names is brought up to date.
	indexEvery = time.Minute
	// rootEvery is how often a vanished root is looked for.
	rootEvery = time.Second
)

// source is one watched tree: its watcher, its filter queue, and the names of
// the targets that get it.
type source struct {
	root    string // real path
	spelled string // as the config has it
	events  watcher.Events
	backend string
	exclude func(rel string, dir bool) bool
	queue   *filterqueue.Queue
	guard   *guard
	index   *index.Index
	log     *slog.Logger
	deliver func(*pathset.Set) // to every target
	stats   atomic.Pointer[watcher.Watcher]

	ready   chan struct{} // closed when the tree is watched for the first time
	isReady func()
	lost    chan struct{} // events were lost: the index tells what was removed
}

// newSource opens what the tree needs and starts nothing.
func newSource(cfg *conf.Config, tree conf.Tree, stateDir string, allowEmpty bool, log *slog.Logger) (*source, error) {
	root, err := filepath.EvalSymlinks(tree.Watch)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w; make the directory or mend localpath@watch in line %d", tree.Watch, err, tree.Line)
	}
	s := &source{
		root: root, spelled: tree.Watch, backend: tree.Backend,
		events:  watcher.Events(cfg.Inotify),
		exclude: excluder(cfg.Filter),
		guard:   newGuard(root, stateDir, allowEmpty),
		log:     log.With("source", tree.Watch),
		ready:   make(chan struct{}),
		lost:    make(chan struct{}, 1),
	}
	s.isReady = sync.OnceFunc(func() { close(s.ready) })
	if err := s.guard.adopt(); err != nil {
		return nil, fmt.Errorf("watch %s: %w", tree.Watch, err)
	}
	s.queue = filterqueue.New(filterqueue.Options{Temp: filterqueue.Temp(cfg.Filter.Temp), Exclude: s.exclude})
	s.index, err = index.Open(filepath.Join(stateDir, indexName(root)), s.prune())
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", tree.Watch, err)
	}
	return s, nil
}

// indexName is a file name for the index of root, whose path may be longer
// than a file name can be.
func indexName(root string) string {
	h := fnv.New64a()
	io.WriteString(h, root)
	return fmt.Sprintf("index-%016x.db", h.Sum64())
}

func excluder(f conf.Filter) func(rel string, dir bool) bool {
	if !f.Enabled {
		return nil
	}
	match := make([]func(string) bool, 0, len(f.Exclude))
	for _, m := range f.Exclude {
		match = append(match, m.Match)
	}
	return filterqueue.Excluder(match)
}

func (s *source) prune() func(rel string) bool {
	if s.exclude == nil {
		return nil
	}
	return func(rel string) bool { return s.exclude(rel, true) }
}

// run watches until ctx ends, and returns when what was queued by then has been
// delivered.
func (s *source) run(ctx context.Context) error {
	var g errgroup.Group
	g.Go(func() error {
		defer s.queue.Close()
		return s.watchOn(ctx)
	})
	g.Go(func() error { return s.fanOut() })
	g.Go(func() error { s.keepIndex(ctx); return nil })
	return errors.Join(g.Wait(), s.index.Close())
}

// fanOut hands every settled batch to the targets until the queue is closed
// and empty.
func (s *source) fanOut() error {
	for {
		set, err := s.queue.Take(context.Background())
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for p := range set.All() {
			s.index.Note(p)
		}
		s.deliver(set)
	}
}

// watchOn watches, and watches again when a vanished root is back.
func (s *source) watchOn(ctx context.Context) error {
	for {
		err := s.watch(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if !errors.Is(err, watcher.ErrRootGone) {
			return err
		}
		s.log.Warn("source is gone; removals are held until it is back", "err", err)
		if !s.awaitRoot(ctx) {
			return nil
		}
		s.log.Info("source is back; pushing it again", "held", s.guard.check())
		s.queue.Add(pathset.Path{Rel: pathset.Root, Tree: true})
	}
}

func (s *source) watch(ctx context.Context) error {
	w, err := watcher.New(s.root, watcher.Options{
		Backend: s.backend, Events: s.events, Prune: s.prune(), Lost: s.lose, Log: s.log,
	})
	if err != nil {
		return fmt.Errorf("watch %s: %w", s.spelled, err)
	}
	s.stats.Store(w)
	ctx, cancel := context.WithCancel(ctx)
	var g errgroup.Group
	g.Go(func() error {
		defer cancel()
		return w.Run(ctx, s.queue.Add)
	})
	g.Go(func() error {
		select {
		case <-w.Ready():
			s.isReady()
		case <-ctx.Done():
		}
		return nil
	})
	return g.Wait()
}

// awaitRoot waits until the root is there again. inotify cannot tell: its watch
// went with the old root.
func (s *source) awaitRoot(ctx context.Context) bool {
	t := time.NewTicker(rootEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-t.C:
			if s.guard.adopt() == nil {
				return true
			}
		}
	}
}

// lose marks what may have changed unseen: everything below rel is pushed, and
// the index is asked which names are gone.
func (s *source) lose(rel string) {
	s.queue.Add(pathset.Path{Rel: rel, Tree: true})
	select {
	case s.lost <- struct{}{}:
	default:
	}
}

// keepIndex compares the index with the tree at the start, for what changed
// while nobody watched, and whenever events were lost, and keeps it up to date.
func (s *source) keepIndex(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-s.ready:
	}
	s.consult(ctx, s.index.Compare)
	s.log.Info("names indexed") // from here on a removal that nobody saw is found
	t := time.NewTicker(indexEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			s.consult(context.WithoutCancel(ctx), s.index.Refresh)
			return
		case <-s.lost:
			s.consult(ctx, s.index.Compare)
		case <-t.C:
			s.consult(ctx, s.index.Refresh)
		}
	}
}

func (s *source) consult(ctx context.Context, ask func(context.Context, string, func(pathset.Path)) error) {
	if err := ask(ctx, s.root, s.queue.Add); err != nil && ctx.Err() == nil {
		s.log.Error("index of names not up to date; what is removed unseen stays at the remotes until the next resync", "err", err)
	}
}
