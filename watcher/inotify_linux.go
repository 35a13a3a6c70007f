package watcher

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"gosersync/internal/pathset"
)

const (
	defaultBackend = "inotify"
	// nap lets events gather between two reads: waking up for each costs eight
	// times what reading it costs, and the kernel's queue holds 60 ms at least.
	nap = time.Millisecond
	// moveOut is how long a directory that was moved away may still turn up
	// elsewhere in the tree before its watches are dropped.
	moveOut = 500 * time.Millisecond
	// tick is how often what waits for time is looked at, while something does;
	// idle is how often mounts are, which no read wakes us for.
	tick = 100 * time.Millisecond
	idle = time.Second
)

func (w *Watcher) open() (backend, error) {
	if w.o.Backend == "fsnotify" {
		return newFsnotify(w)
	}
	return newInotify(w)
}

// inotify is the backend over the kernel's own interface: fsnotify has no
// close-write, which would wake us for every write of a large file.
type inotify struct {
	*Watcher
	fd      int
	file    *os.File
	mask    uint32
	table   *table
	pending *pending
	polls   *poller
	mounts  *mounts // nil where /proc is not mounted
	reads   []byte
	noSpace bool // said once
}

func newInotify(w *Watcher) (*inotify, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if errors.Is(err, unix.EMFILE) {
		return nil, fmt.Errorf("watch %s: inotify instance limit reached; raise it: sysctl fs.inotify.max_user_instances=1024", w.root)
	}
	if err != nil {
		return nil, fmt.Errorf("watch %s: inotify_init: %w", w.root, err)
	}
	n := &inotify{
		Watcher: w, fd: fd, file: os.NewFile(uintptr(fd), "inotify"),
		mask:    maskFor(w.o.Events),
		table:   newTable(),
		pending: newPending(w),
		reads:   make([]byte, 256<<10),
	}
	n.polls = newPoller(w)
	if n.mounts, err = openMounts(w.root); err != nil {
		w.o.Log.Warn("mounts below the source are not followed", "source", w.root, "err", err)
	}
	return n, nil
}

// maskFor: directories must be followed whatever the switches say, so creation,
// removal and moves are always heard.
func maskFor(e Events) uint32 {
	mask := uint32(unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_CLOSE_WRITE |
		unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR | unix.IN_DONT_FOLLOW | unix.IN_EXCL_UNLINK)
	if e.Attrib {
		mask |= unix.IN_ATTRIB
	}
	if e.Modify {
		mask |= unix.IN_MODIFY
	}
	return mask
}

func (n *inotify) run(ctx context.Context, ready func()) error {
	defer n.file.Close()
	defer n.mounts.close()
	if err := n.addRoot(); err != nil {
		return err
	}
	// The reader starts with the watches already set for the root, so what
	// happens while the tree is walked is read, not lost.
	var g errgroup.Group
	ctx, cancel := context.WithCancel(ctx)
	g.Go(func() error {
		defer cancel()
		return n.read(ctx, ready)
	})
	g.Go(func() error {
		<-ctx.Done()
		return n.file.SetReadDeadline(time.Now())
	})
	g.Go(func() error { n.polls.run(ctx); return nil })
	err := g.Wait()
	n.dirs.Store(0)
	return err
}

func (n *inotify) addRoot() error {
	wd, err := unix.InotifyAddWatch(n.fd, n.root, n.mask)
	if errors.Is(err, unix.ENOSPC) {
		n.sayNoSpace()
		n.polls.add(pathset.Root)
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch %s: %w", n.root, err)
	}
	n.table.set(int32(wd), node{parent: noParent})
	n.dirs.Store(1)
	return nil
}

// read walks the tree, then reads events until ctx ends. Both happen in one
// goroutine, so that the table needs no lock; meanwhile the kernel queues.
func (n *inotify) read(ctx context.Context, ready func()) error {
	if root, ok := n.table.root(); ok {
		n.scan(ctx, root, nil)
	}
	ready()
	for ctx.Err() == nil {
		if err := n.drain(n.wait()); err != nil {
			return err
		}
		n.expire(time.Now())
	}
	return nil
}

// wait is how long a read may block.
func (n *inotify) wait() time.Duration {
	if n.pending.len()+len(n.table.away) > 0 {
		return tick
	}
	return idle
}

// expire does what waited for time.
func (n *inotify) expire(now time.Time) {
	n.pending.expire(now)
	for wd, since := range n.table.away {
		if now.Sub(since) >= moveOut {
			n.dropTree(wd)
		}
	}
	for _, rel := range n.mounts.changed() {
		n.remounted(rel)
	}
}

// remounted looks at a directory on which something was mounted, or from which
// it was unmounted. No event tells, and nothing was removed.
func (n *inotify) remounted(rel string) {
	n.o.Log.Warn("mount changed below the source", "dir", n.full(rel))
	parent, ok := n.table.find(pathset.Parent(rel))
	if ok && rel != pathset.Root {
		if wd, ok := n.watch(parent, rel[strings.LastIndexByte(rel, '/')+1:], rel); ok {
			n.scan(context.Background(), wd, nil)
		}
	}
	n.lose(rel)
}

// drain reads once, blocking for at most wait, and handles what came.
func (n *inotify) drain(wait time.Duration) error {
	if err := n.file.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return nil // closed: the end
	}
	size, err := n.file.Read(n.reads)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, os.ErrClosed):
		return nil
	case err != nil:
		return fmt.Errorf("read inotify: %w", err)
	}
	if err := n.handleAll(n.reads[:size]); err != nil {
		return err
	}
	if size < len(n.reads)/2 {
		time.Sleep(nap)
	}
	return nil
}

// event is one inotify_event.
type event struct {
	wd     int32
	mask   uint32
	cookie uint32
	name   string
}

func (n *inotify) handleAll(buf []byte) error {
	for len(buf) >= unix.SizeofInotifyEvent {
		e := event{
			wd:     int32(native.Uint32(buf)),
			mask:   native.Uint32(buf[4:]),
			cookie: native.Uint32(buf[8:]),
		}
		end := unix.SizeofInotifyEvent + int(native.Uint32(buf[12:]))
		e.name = strings.TrimRight(string(buf[unix.SizeofInotifyEvent:end]), "\x00")
		buf = buf[end:]
		if err := n.handle(e); err != nil {
			return err
		}
	}
	return nil
}

func (n *inotify) handle(e event) error {
	if e.mask&unix.IN_Q_OVERFLOW != 0 {
		n.overflow()
		return nil
	}
	node, known := n.table.nodes[e.wd]
	if !known {
		return nil // of a watch that was dropped meanwhile
	}
	if e.name == "" {
		return n.handleSelf(e, node)
	}
	dir, ok := n.table.path(e.wd)
	if !ok {
		return nil // below a directory that was moved out of the tree
	}
	n.handleName(e, dir)
	return nil
}

// handleSelf handles an event of a watched directory itself.
func (n *inotify) handleSelf(e event, node node) error {
	isRoot := node.parent == noParent
	switch {
	case isRoot && e.mask&(unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_UNMOUNT|unix.IN_IGNORED) != 0:
		return fmt.Errorf("%s: %w", n.root, ErrRootGone)
	case e.mask&unix.IN_UNMOUNT != 0:
		// Not a removal: the files are where they were, on the other mount.
		if rel, ok := n.table.path(e.wd); ok {
			n.lose(rel)
		}
	case e.mask&unix.IN_IGNORED != 0:
		n.table.forget(e.wd)
		n.dirs.Store(int64(len(n.table.nodes)))
	case e.mask&unix.IN_ATTRIB != 0 && n.o.Events.Attrib:
		if rel, ok := n.table.path(e.wd); ok && !isRoot {
			n.emit(pathset.Path{Rel: rel})
		}
	}
	return nil
}

// handleName handles an event of an entry of a watched directory.
func (n *inotify) handleName(e event, dir string) {
	rel := pathset.Join(dir, e.name)
	on := n.o.Events
	isDir := e.mask&unix.IN_ISDIR != 0
	switch {
	case e.mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0 && isDir:
		n.appeared(e, rel)
	case e.mask&unix.IN_CREATE != 0:
		n.created(rel)
	case e.mask&unix.IN_MOVED_TO != 0:
		n.pending.forget(rel)
		if on.MoveTo {
			n.emit(pathset.Path{Rel: rel})
		}
	case e.mask&unix.IN_DELETE != 0:
		n.vanished(e.wd, e.name, rel, on.Delete, isDir, false)
	case e.mask&unix.IN_MOVED_FROM != 0:
		n.vanished(e.wd, e.name, rel, on.MoveFrom, isDir, true)
	case e.mask&unix.IN_CLOSE_WRITE != 0:
		n.pending.forget(rel)
		if on.CloseWrite {
			n.emit(pathset.Path{Rel: rel})
		}
	case e.mask&unix.IN_MODIFY != 0 && on.Modify, e.mask&unix.IN_ATTRIB != 0 && on.Attrib:
		n.emit(pathset.Path{Rel: rel})
	}
}

// created handles a new name that is no directory. Of a regular file more will
// be heard when it is closed, unless it is a further name of a file that is
// there already.
func (n *inotify) created(rel string) {
	if n.o.Events.CreateFile {
		n.emit(pathset.Path{Rel: rel, New: true})
		return
	}
	if !n.o.Events.CloseWrite {
		return
	}
	var st unix.Stat_t
	if unix.Lstat(n.full(rel), &st) != nil {
		return // gone again, or an O_TMPFILE's "#inode"
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink > 1 {
		n.emit(pathset.Path{Rel: rel, New: true})
		return
	}
	n.pending.add(rel)
}

// vanished handles a name that was removed or moved away.
func (n *inotify) vanished(wd int32, name, rel string, counts, isDir, moved bool) {
	n.pending.forget(rel)
	if isDir {
		n.polls.drop(rel)
		if child, ok := n.table.child(wd, name); ok {
			if moved {
				n.table.moveAway(child, time.Now())
			} else {
				n.table.detach(child)
			}
		}
	}
	if counts {
		n.emit(pathset.Path{Rel: rel, Gone: true})
	}
}

// appeared handles a directory that was made or moved in.
func (n *inotify) appeared(e event, rel string) {
	if n.o.Prune(rel) {
		return
	}
	on := n.o.Events
	counts := on.CreateFolder
	if e.mask&unix.IN_MOVED_TO != 0 {
		counts = on.MoveTo
	}
	_, another := n.table.child(e.wd, e.name)
	report := n.emitFile
	if counts {
		report = nil // the tree says it all
	}
	if wd, ok := n.watch(e.wd, e.name, rel); ok {
		n.scan(context.Background(), wd, report)
	}
	// Only now: what rsync does not find from here on has an event.
	if counts {
		n.emit(pathset.Path{Rel: rel, Tree: true, Mirror: another && on.Delete, New: e.mask&unix.IN_CREATE != 0})
	}
}

// emitFile reports a file found in a directory whose appearing does not count.
func (n *inotify) emitFile(rel string) { n.emit(pathset.Path{Rel: rel}) }

// overflow brings the table up to the tree: the kernel's queue was full, and
// what it dropped is not known.
func (n *inotify) overflow() {
	n.overflows.Add(1)
	n.o.Log.Warn("kernel event queue overflowed; the tree is looked at again and nothing is lost; a longer queue: sysctl fs.inotify.max_queued_events=1048576", "source", n.root)
	if root, ok := n.table.root(); ok {
		n.table.pruneMissing(n.full, n.dropTree)
		n.scan(context.Background(), root, nil)
	}
	n.lose(pathset.Root)
}

func (n *inotify) sayNoSpace() {
	if n.noSpace {
		return
	}
	n.noSpace = true
	limit := readNumber("/proc/sys/fs/inotify/max_user_watches")
	n.o.Log.Error(fmt.Sprintf("inotify watch limit %d reached; the directories without a watch are polled; raise it: sysctl fs.inotify.max_user_watches=%d", limit, max(524288, 4*limit)), "source", n.root)
}
