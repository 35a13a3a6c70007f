package watcher

import (
	"encoding/binary"
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gosersync/internal/pathset"
)

// native is the byte order of inotify_event.
var native = binary.NativeEndian

// noParent marks the root, and detached directories whose removal or move was
// heard before their watch ended.
const (
	noParent = -1
	nowhere  = -2
)

// node is a watched directory: a name in a parent, so that a rename higher up
// costs nothing.
type node struct {
	parent int32
	name   string
}

type entry struct {
	parent int32
	name   string
}

// table knows the watched directories by watch descriptor.
type table struct {
	nodes    map[int32]node
	children map[entry]int32
	away     map[int32]time.Time // moved out of their parent, and since when
}

func newTable() *table {
	return &table{nodes: map[int32]node{}, children: map[entry]int32{}, away: map[int32]time.Time{}}
}

func (t *table) root() (int32, bool) {
	for wd, n := range t.nodes {
		if n.parent == noParent {
			return wd, true
		}
	}
	return 0, false
}

// set puts wd at its place; a wd that is known is moved there, with all below
// it, and no longer counts as moved out.
func (t *table) set(wd int32, n node) {
	if old, ok := t.nodes[wd]; ok && t.children[entry(old)] == wd {
		delete(t.children, entry(old))
	}
	delete(t.away, wd)
	t.nodes[wd] = n
	if n.parent >= 0 {
		t.children[entry(n)] = wd
	}
}

func (t *table) child(parent int32, name string) (int32, bool) {
	wd, ok := t.children[entry{parent, name}]
	return wd, ok
}

// detach takes wd from its place; its watch ends by itself.
func (t *table) detach(wd int32) {
	n := t.nodes[wd]
	if t.children[entry(n)] == wd {
		delete(t.children, entry(n))
	}
	t.nodes[wd] = node{parent: nowhere}
}

func (t *table) moveAway(wd int32, now time.Time) {
	t.detach(wd)
	t.away[wd] = now
}

// forget drops wd, whose watch has ended.
func (t *table) forget(wd int32) {
	t.detach(wd)
	delete(t.nodes, wd)
	delete(t.away, wd)
}

// path is the name of wd relative to the source; false below a directory that
// is no longer in it.
func (t *table) path(wd int32) (string, bool) {
	var elems []string
	for {
		n, ok := t.nodes[wd]
		if !ok || n.parent == nowhere {
			return "", false
		}
		if n.parent == noParent {
			break
		}
		elems = append(elems, n.name)
		wd = n.parent
	}
	if len(elems) == 0 {
		return pathset.Root, true
	}
	for i, j := 0, len(elems)-1; i < j; i, j = i+1, j-1 {
		elems[i], elems[j] = elems[j], elems[i]
	}
	return strings.Join(elems, "/"), true
}

// below is wd and every directory below it.
func (t *table) below(wd int32) []int32 {
	kids := map[int32][]int32{}
	for e, child := range t.children {
		kids[e.parent] = append(kids[e.parent], child)
	}
	all := []int32{wd}
	for i := 0; i < len(all); i++ {
		all = append(all, kids[all[i]]...)
	}
	return all
}

// pruneMissing drops directories that are no longer where the table has them.
func (t *table) pruneMissing(full func(string) string, drop func(int32)) {
	for wd := range t.nodes {
		rel, ok := t.path(wd)
		if !ok {
			continue
		}
		if info, err := os.Lstat(full(rel)); err != nil || !info.IsDir() {
			drop(wd)
		}
	}
}

// dropTree ends the watches of a directory that left the tree, and of all below.
func (n *inotify) dropTree(wd int32) {
	for _, w := range n.table.below(wd) {
		// The kernel may have ended the watch already, which is as good.
		_, _ = unix.InotifyRmWatch(n.fd, uint32(w))
		n.table.forget(w)
	}
	n.dirs.Store(int64(len(n.table.nodes)))
}

// find is the watched directory at rel.
func (t *table) find(rel string) (int32, bool) {
	wd, ok := t.root()
	if rel == pathset.Root || !ok {
		return wd, ok
	}
	for elem := range strings.SplitSeq(rel, "/") {
		if wd, ok = t.child(wd, elem); !ok {
			return 0, false
		}
	}
	return wd, true
}

// watch adds a watch for the directory name in parent. False: there is nothing
// to scan.
func (n *inotify) watch(parent int32, name, rel string) (int32, bool) {
	wd, err := unix.InotifyAddWatch(n.fd, n.full(rel), n.mask)
	switch {
	case err == nil:
		n.table.set(int32(wd), node{parent, name})
		n.dirs.Store(int64(len(n.table.nodes)))
		return int32(wd), true
	case errors.Is(err, unix.ENOSPC):
		n.sayNoSpace()
		n.polls.add(rel)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		// Gone or replaced again: an event says so.
	default:
		n.o.Log.Warn("directory is not watched, and polled instead", "dir", n.full(rel), "err", err)
		n.polls.add(rel)
	}
	return 0, false
}

// scan watches the directories below wd: first the watch, then a look inside,
// so that nothing can be made between the two unseen. file hears of every entry
// that is no directory; nil = nobody.
func (n *inotify) scan(ctx interface{ Err() error }, wd int32, file func(rel string)) {
	stack := []int32{wd}
	for len(stack) > 0 && ctx.Err() == nil {
		wd, stack = stack[len(stack)-1], stack[:len(stack)-1]
		rel, ok := n.table.path(wd)
		if !ok {
			continue
		}
		err := eachEntry(n.full(rel), func(name string, dir bool) {
			below := pathset.Join(rel, name)
			switch {
			case !dir && file != nil:
				file(below)
			case dir && !n.o.Prune(below):
				if child, ok := n.watch(wd, name, below); ok {
					stack = append(stack, child)
				}
			}
		})
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			n.o.Log.Warn("directory cannot be read", "dir", n.full(rel), "err", err)
		}
	}
}

// eachEntry lists a directory by its entries' types, without a stat for each.
func eachEntry(dir string, f func(name string, dir bool)) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	for {
		entries, err := d.ReadDir(1024)
		for _, e := range entries {
			f(e.Name(), e.IsDir())
		}
		if err != nil || len(entries) == 0 {
			return nil // a directory removed while it was read ends early
		}
	}
}

func readNumber(file string) int {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return n
}
