package daemon

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// AllowEmptyFile is the marker in the state directory with which an operator
// lets removals go on although a source is empty or was replaced.
const AllowEmptyFile = "allow-empty"

// guard decides whether a source may be believed when it says that something
// was removed: an unmounted or emptied source must never wipe a remote.
type guard struct {
	root   string
	marker string
	always bool // --allow-empty

	mu sync.Mutex
	id *identity // of the root when it was first seen; nil = not yet
}

// identity tells one directory from another that took its place.
type identity struct {
	dev, ino uint64
}

func newGuard(root, stateDir string, always bool) *guard {
	return &guard{root: root, marker: filepath.Join(stateDir, AllowEmptyFile), always: always}
}

// adopt takes the root as it is now for the source, if it lies on the device
// of the one seen first: a directory made again is the operator's doing, another
// device is a mount that came or went.
func (g *guard) adopt() error {
	now, err := identify(g.root)
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.id == nil || g.id.dev == now.dev || g.waived() {
		g.id = now
	}
	return nil
}

// check is nil when removals may go on.
func (g *guard) check() error {
	if g.waived() {
		return nil
	}
	now, err := identify(g.root)
	if err != nil {
		return g.held("is gone: " + err.Error())
	}
	g.mu.Lock()
	id := g.id
	g.mu.Unlock()
	if id != nil && *id != *now {
		return g.held("was replaced or unmounted")
	}
	if empty(g.root) {
		return g.held("is empty")
	}
	return nil
}

func (g *guard) held(what string) error {
	return fmt.Errorf("source %s %s: removals are held; if this is meant, run: touch %s", g.root, what, g.marker)
}

func (g *guard) waived() bool {
	if g.always {
		return true
	}
	_, err := os.Lstat(g.marker)
	return err == nil
}

func identify(dir string) (*identity, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() {
		return nil, fmt.Errorf("%s is not a directory", dir)
	}
	return &identity{dev: uint64(st.Dev), ino: st.Ino}, nil
}

func empty(dir string) bool {
	f, err := os.Open(dir)
	if err != nil {
		return true
	}
	defer f.Close()
	_, err = f.Readdirnames(1)
	return err == io.EOF
}
