// Package index keeps on disk which names a tree has had, so that names removed
// while nobody watched (a full event queue, a stopped daemon) can be told apart
// from names that were never ours, and exactly those be removed at the remotes.
package index

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"gosersync/internal/pathset"
)

var (
	dirsBucket = []byte("dirs")
	metaBucket = []byte("meta")
	rootKey    = []byte("root") // inode of the root of a complete index
)

const (
	// batch is how many directories go into one transaction.
	batch = 1000
	// noteLimit is how many names are noted before directories are widened.
	noteLimit = 100_000
)

// Index is the names of one tree. Its methods may be called from several
// goroutines; Refresh and Compare run one at a time.
type Index struct {
	db    *bbolt.DB
	prune func(rel string) bool

	work sync.Mutex

	mu    sync.Mutex
	noted *pathset.Set // emitted since the last Refresh
}

// Open opens the index in file, or makes one. A file that is no index is set
// aside. prune tells which directories are not entered; nil = none.
func Open(file string, prune func(rel string) bool) (*Index, error) {
	db, err := open(file)
	if err != nil && !errors.Is(err, bbolterrors.ErrTimeout) {
		if err := os.Rename(file, file+".broken"); err != nil {
			return nil, fmt.Errorf("set broken index aside: %w", err)
		}
		db, err = open(file)
	}
	if err != nil {
		return nil, fmt.Errorf("open index: %w", err)
	}
	if prune == nil {
		prune = func(string) bool { return false }
	}
	return &Index{db: db, prune: prune, noted: &pathset.Set{}}, nil
}

func open(file string) (*bbolt.DB, error) {
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{Timeout: time.Second, NoFreelistSync: true})
	if err != nil {
		return nil, err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, dirs := tx.CreateBucketIfNotExists(dirsBucket)
		_, meta := tx.CreateBucketIfNotExists(metaBucket)
		return errors.Join(dirs, meta)
	})
	if err != nil {
		db.Close()
		return nil, err
	}
	return db, nil
}

// Close closes the file.
func (x *Index) Close() error { return x.db.Close() }

// Note remembers that p was emitted: its name may be at a remote.
func (x *Index) Note(p pathset.Path) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.noted.Add(p)
	if x.noted.Len() > noteLimit {
		x.noted.Collapse(noteLimit / 2)
	}
}

func (x *Index) takeNoted() *pathset.Set {
	x.mu.Lock()
	defer x.mu.Unlock()
	noted := x.noted
	x.noted = &pathset.Set{}
	return noted
}

// Refresh brings the directories of what was noted up to date. A name that is
// gone though nobody noted its removal is emitted.
func (x *Index) Refresh(ctx context.Context, root string, emit func(pathset.Path)) error {
	x.work.Lock()
	defer x.work.Unlock()
	noted := x.takeNoted()
	if noted.Len() == 0 {
		return nil
	}
	v, err := x.visit(root, noted, emit)
	if err != nil {
		return err
	}
	for p := range noted.All() {
		v.queue = append(v.queue, todo{rel: pathset.Parent(p.Rel)})
		if p.Tree {
			v.queue = append(v.queue, todo{rel: p.Rel, deep: true})
		}
		v.missing(p)
	}
	return v.run(ctx)
}

// Compare walks the whole tree. What is gone since the index was made is
// emitted, and what is new; a first walk emits nothing.
func (x *Index) Compare(ctx context.Context, root string, emit func(pathset.Path)) error {
	x.work.Lock()
	defer x.work.Unlock()
	noted := x.takeNoted()
	v, err := x.visit(root, noted, emit)
	if err != nil {
		return err
	}
	for p := range noted.All() {
		v.missing(p)
	}
	v.queue = []todo{{rel: pathset.Root, deep: true}}
	if err := v.run(ctx); err != nil {
		return err
	}
	return x.db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket(metaBucket).Put(rootKey, binary.BigEndian.AppendUint64(nil, v.ino))
	})
}

// visit starts a look at the tree. An index of another root, such as that of a
// disk which is not mounted now, knows nothing of this one's names.
func (x *Index) visit(root string, noted *pathset.Set, emit func(pathset.Path)) (*visit, error) {
	info, err := os.Stat(root)
	if err != nil {
		return nil, fmt.Errorf("look at root: %w", err)
	}
	v := &visit{x: x, root: root, noted: noted, emit: emit, ino: inode(info)}
	err = x.db.Update(func(tx *bbolt.Tx) error {
		known := tx.Bucket(metaBucket).Get(rootKey)
		v.complete = known != nil && binary.BigEndian.Uint64(known) == v.ino
		if known == nil || v.complete {
			return nil
		}
		return errors.Join(tx.Bucket(metaBucket).Delete(rootKey), tx.DeleteBucket(dirsBucket), create(tx, dirsBucket))
	})
	if err != nil {
		return nil, fmt.Errorf("read index: %w", err)
	}
	return v, nil
}

func create(tx *bbolt.Tx, name []byte) error {
	_, err := tx.CreateBucket(name)
	return err
}

// visit is one look at some or all directories.
type visit struct {
	x        *Index
	root     string
	ino      uint64
	complete bool // the index knows every name there was
	noted    *pathset.Set
	emit     func(pathset.Path)
	queue    []todo
}

type todo struct {
	rel  string
	deep bool // and everything below
}

// missing emits a noted name that is gone, unless its going was noted.
func (v *visit) missing(p pathset.Path) {
	if p.Gone || p.Rel == pathset.Root {
		return
	}
	if _, err := os.Lstat(filepath.Join(v.root, p.Rel)); errors.Is(err, fs.ErrNotExist) {
		v.emit(pathset.Path{Rel: p.Rel, Gone: true})
	}
}

func (v *visit) run(ctx context.Context) error {
	for len(v.queue) > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err := v.x.db.Update(func(tx *bbolt.Tx) error {
			dirs := tx.Bucket(dirsBucket)
			for range min(batch, len(v.queue)) {
				next := v.queue[len(v.queue)-1]
				v.queue = v.queue[:len(v.queue)-1]
				if err := v.dir(dirs, next); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("write index: %w", err)
		}
	}
	return nil
}

// dir compares one directory with its record, and writes that anew.
func (v *visit) dir(dirs *bbolt.Bucket, d todo) error {
	full := filepath.Join(v.root, d.rel)
	info, err := os.Lstat(full)
	if err != nil || !info.IsDir() {
		return nil // its parent's record tells
	}
	entries, err := os.ReadDir(full)
	if err != nil {
		return nil // what cannot be read is not gone
	}
	ino, old := decode(dirs.Get([]byte(d.rel)))
	known := old != nil || ino != 0
	if v.complete && known && ino != inode(info) && d.rel != pathset.Root {
		v.emit(pathset.Path{Rel: d.rel, Tree: true, Mirror: true})
	}
	now := make([]string, 0, len(entries))
	for _, e := range entries {
		now = append(now, e.Name())
		below := pathset.Join(d.rel, e.Name())
		if v.complete && known && !has(old, e.Name()) {
			v.emit(pathset.Path{Rel: below, Tree: e.IsDir()})
		}
		if d.deep && e.IsDir() && !v.x.prune(below) {
			v.queue = append(v.queue, todo{rel: below, deep: true})
		}
	}
	if err := v.forget(dirs, d.rel, old, now); err != nil {
		return err
	}
	return dirs.Put([]byte(d.rel), encode(inode(info), now))
}

// forget drops the records of what is gone, and emits it where nobody else has.
func (v *visit) forget(dirs *bbolt.Bucket, rel string, old, now []string) error {
	for _, name := range old {
		if has(now, name) {
			continue
		}
		below := pathset.Join(rel, name)
		if p, _ := v.noted.Get(below); v.complete && !p.Gone {
			v.emit(pathset.Path{Rel: below, Gone: true})
		}
		if err := dropBelow(dirs, below); err != nil {
			return err
		}
	}
	return nil
}

// dropBelow drops the records of a directory and of all below it.
func dropBelow(dirs *bbolt.Bucket, rel string) error {
	if err := dirs.Delete([]byte(rel)); err != nil {
		return err
	}
	prefix := []byte(rel + "/")
	c := dirs.Cursor()
	for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = c.Seek(prefix) {
		if err := c.Delete(); err != nil {
			return err
		}
	}
	return nil
}

// has looks a name up in a directory's sorted names.
func has(names []string, name string) bool {
	_, ok := slices.BinarySearch(names, name)
	return ok
}

// encode is a directory's record: its inode, and its sorted names, each ended
// by the one byte that no name holds.
func encode(ino uint64, names []string) []byte {
	slices.Sort(names)
	b := binary.BigEndian.AppendUint64(nil, ino)
	for _, n := range names {
		b = append(append(b, n...), 0)
	}
	return b
}

func decode(b []byte) (ino uint64, names []string) {
	if len(b) < 8 {
		return 0, nil
	}
	ino = binary.BigEndian.Uint64(b)
	if text := strings.TrimSuffix(string(b[8:]), "\x00"); text != "" {
		names = strings.Split(text, "\x00")
	}
	return ino, names
}

func inode(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Ino
	}
	return 0
}
