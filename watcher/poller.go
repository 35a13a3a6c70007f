package watcher

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"gosersync/internal/pathset"
)

// poller looks at the parts of the tree that have no watch, from time to time.
type poller struct {
	w *Watcher

	mu    sync.Mutex
	parts map[string]snapshot // by topmost directory
}

// snapshot is every name below a directory, itself included.
type snapshot map[string]stamp

// stamp changes whenever a name's file does.
type stamp struct {
	mode         fs.FileMode
	size         int64
	mtime, ctime int64
	ino          uint64
}

func newPoller(w *Watcher) *poller { return &poller{w: w, parts: map[string]snapshot{}} }

// add takes over the directory rel and everything below.
func (p *poller) add(rel string) {
	s := p.take(rel)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.parts[rel] = s
	p.count()
}

// drop forgets what is at or below rel, which was removed or moved.
func (p *poller) drop(rel string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for part := range p.parts {
		if part == rel || strings.HasPrefix(part, rel+"/") {
			delete(p.parts, part)
		}
	}
	p.count()
}

func (p *poller) count() {
	dirs := 0
	for _, s := range p.parts {
		for _, st := range s {
			if st.mode.IsDir() {
				dirs++
			}
		}
	}
	p.w.unwatched.Store(int64(dirs))
}

func (p *poller) run(ctx context.Context) {
	t := time.NewTicker(p.w.o.Poll)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			p.poll()
		}
	}
}

func (p *poller) poll() {
	p.mu.Lock()
	parts := make([]string, 0, len(p.parts))
	for part := range p.parts {
		parts = append(parts, part)
	}
	p.mu.Unlock()
	for _, part := range parts {
		now := p.take(part)
		p.mu.Lock()
		old, still := p.parts[part]
		if still {
			p.parts[part] = now
			p.count()
		}
		p.mu.Unlock()
		if still {
			p.compare(part, old, now)
		}
	}
}

func (p *poller) compare(part string, old, now snapshot) {
	on := p.w.o.Events
	for rel, is := range now {
		was, known := old[rel]
		switch {
		case known && was == is:
		case is.mode.IsDir() && (!known || was.ino != is.ino):
			p.w.emit(pathset.Path{Rel: rel, Tree: true, Mirror: known && on.Delete})
		default:
			p.w.emit(pathset.Path{Rel: rel})
		}
	}
	for rel := range old {
		// The part's own removal is an event of its parent, or the root's end.
		if _, still := now[rel]; !still && rel != part && len(now) > 0 && on.Delete {
			p.w.emit(pathset.Path{Rel: rel, Gone: true})
		}
	}
}

func (p *poller) take(part string) snapshot {
	s := snapshot{}
	_ = filepath.WalkDir(p.w.full(part), func(name string, d fs.DirEntry, err error) error {
		rel := strings.TrimPrefix(strings.TrimPrefix(name, p.w.root), "/")
		if rel == "" {
			rel = pathset.Root
		}
		if err != nil {
			return nil // vanished, or unreadable: as good as it can be seen
		}
		if d.IsDir() && rel != pathset.Root && p.w.o.Prune(rel) {
			return filepath.SkipDir
		}
		if info, err := d.Info(); err == nil {
			s[rel] = stampOf(info)
		}
		return nil
	})
	return s
}

func stampOf(info os.FileInfo) stamp {
	s := stamp{mode: info.Mode(), size: info.Size(), mtime: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s.ino, s.ctime = st.Ino, st.Ctim.Nano()
	}
	return s
}
