package watcher

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"gosersync/internal/pathset"
)

// settleTick is how often quiet files are looked for.
const settleTick = 50 * time.Millisecond

// portable is the backend over fsnotify. That has neither recursion nor
// close-write: directories are kept here, and a file counts when it has been
// quiet for Options.Settle.
type portable struct {
	*Watcher
	fs   *fsnotify.Watcher
	dirs map[string]bool // watched, by rel
	soon map[string]*quiet
}

type quiet struct {
	path pathset.Path
	due  time.Time
}

func newFsnotify(w *Watcher) (*portable, error) {
	fs, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", w.root, err)
	}
	return &portable{Watcher: w, fs: fs, dirs: map[string]bool{}, soon: map[string]*quiet{}}, nil
}

func (p *portable) run(ctx context.Context, ready func()) error {
	defer p.fs.Close()
	if err := p.fs.Add(p.root); err != nil {
		return fmt.Errorf("watch %s: %w", p.root, err)
	}
	p.dirs[pathset.Root] = true
	p.scan(pathset.Root)
	ready()
	t := time.NewTicker(settleTick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			p.settle(time.Time{})
			return nil
		case e := <-p.fs.Events:
			if e.Name == p.root && e.Has(fsnotify.Remove|fsnotify.Rename) {
				return fmt.Errorf("%s: %w", p.root, ErrRootGone)
			}
			p.handle(e)
		case err := <-p.fs.Errors:
			p.failed(err)
		case now := <-t.C:
			p.settle(now)
		}
	}
}

func (p *portable) failed(err error) {
	if !errors.Is(err, fsnotify.ErrEventOverflow) {
		p.o.Log.Warn("watching", "source", p.root, "err", err)
		return
	}
	p.overflows.Add(1)
	p.scan(pathset.Root)
	p.lose(pathset.Root)
}

func (p *portable) handle(e fsnotify.Event) {
	rel := strings.TrimPrefix(e.Name, p.root+"/")
	if e.Name == p.root {
		return
	}
	switch {
	case e.Has(fsnotify.Remove), e.Has(fsnotify.Rename):
		p.vanished(rel, e)
	case e.Has(fsnotify.Create):
		p.created(rel)
	case e.Has(fsnotify.Write):
		p.await(pathset.Path{Rel: rel})
	case e.Has(fsnotify.Chmod) && p.o.Events.Attrib:
		p.await(pathset.Path{Rel: rel})
	}
}

func (p *portable) vanished(rel string, e fsnotify.Event) {
	delete(p.soon, rel)
	p.drop(rel)
	on := p.o.Events
	if e.Has(fsnotify.Remove) && on.Delete || e.Has(fsnotify.Rename) && on.MoveFrom {
		p.emit(pathset.Path{Rel: rel, Gone: true})
	}
}

// drop ends the watches at and below rel: fsnotify would go on reporting a
// moved directory under its old name.
func (p *portable) drop(rel string) {
	if !p.dirs[rel] {
		return
	}
	for dir := range p.dirs {
		if dir == rel || strings.HasPrefix(dir, rel+"/") {
			_ = p.fs.Remove(p.full(dir)) // the kernel may have ended it already
			delete(p.dirs, dir)
		}
	}
	p.Watcher.dirs.Store(int64(len(p.dirs)))
}

func (p *portable) created(rel string) {
	info, err := os.Lstat(p.full(rel))
	if err != nil {
		return
	}
	if !info.IsDir() {
		p.await(pathset.Path{Rel: rel})
		return
	}
	if p.o.Prune(rel) {
		return
	}
	another := p.dirs[rel]
	p.drop(rel)
	p.add(rel)
	p.scan(rel)
	if p.o.Events.CreateFolder {
		p.emit(pathset.Path{Rel: rel, Tree: true, Mirror: another && p.o.Events.Delete})
	} else {
		p.emitFiles(rel)
	}
}

func (p *portable) emitFiles(rel string) {
	_ = filepath.WalkDir(p.full(rel), func(name string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			p.await(pathset.Path{Rel: strings.TrimPrefix(name, p.root+"/")})
		}
		return nil
	})
}

func (p *portable) add(rel string) bool {
	if err := p.fs.Add(p.full(rel)); err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			p.o.Log.Warn("directory is not watched", "dir", p.full(rel), "err", err)
		}
		return false
	}
	p.dirs[rel] = true
	p.Watcher.dirs.Store(int64(len(p.dirs)))
	return true
}

// scan watches what is below rel: first the watch, then a look inside.
func (p *portable) scan(rel string) {
	_ = eachEntry(p.full(rel), func(name string, dir bool) {
		below := pathset.Join(rel, name)
		if dir && !p.o.Prune(below) && p.add(below) {
			p.scan(below)
		}
	})
}

// await emits path when nothing has been heard of it for a while.
func (p *portable) await(path pathset.Path) {
	p.soon[path.Rel] = &quiet{path: path, due: time.Now().Add(p.o.Settle)}
}

// settle emits what has been quiet by now, the longest quiet first; the zero
// time means all.
func (p *portable) settle(now time.Time) {
	var ripe []*quiet
	for _, q := range p.soon {
		if now.IsZero() || q.due.Before(now) {
			ripe = append(ripe, q)
		}
	}
	slices.SortFunc(ripe, func(a, b *quiet) int { return a.due.Compare(b.due) })
	for _, q := range ripe {
		delete(p.soon, q.path.Rel)
		p.emit(q.path)
	}
}
