package watcher

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gosersync/internal/pathset"
)

var backends = []string{"inotify", "fsnotify"}

var sample = Events{Delete: true, CreateFolder: true, CloseWrite: true, MoveFrom: true, MoveTo: true, Attrib: true}

// replica is a copy of a tree that is brought to the state found by lstat for
// every path emitted, and to nothing else.
type replica struct {
	t        *testing.T
	src, dst string

	mu      sync.Mutex
	emitted []pathset.Path
	pending *pathset.Set
	seen    chan string // names emitted that begin with "marker"
	marker  int
}

// watch starts a watcher with a replica, and waits until it watches.
func watch(t *testing.T, o Options) *replica {
	t.Helper()
	r := &replica{t: t, src: realDir(t), dst: realDir(t), pending: &pathset.Set{}, seen: make(chan string, 1000)}
	r.follow(o)
	return r
}

func realDir(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func (r *replica) follow(o Options) (w *Watcher, ended chan error) {
	r.t.Helper()
	w, err := New(r.src, o)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended = make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ended <- w.Run(ctx, r.emit)
	}()
	r.t.Cleanup(func() { cancel(); <-done })
	select {
	case <-w.Ready():
	case err := <-ended:
		r.t.Fatal(err)
	}
	return w, ended
}

func (r *replica) emit(p pathset.Path) {
	r.mu.Lock()
	r.emitted = append(r.emitted, p)
	r.pending.Add(p)
	r.mu.Unlock()
	if strings.HasPrefix(p.Rel, "marker") && !p.Gone {
		r.seen <- p.Rel
	}
}

// heard is what was emitted so far.
func (r *replica) heard() []pathset.Path {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.emitted)
}

// sync waits until all that was done so far has been heard of, and applies it.
func (r *replica) sync() {
	r.t.Helper()
	r.marker++
	name := fmt.Sprintf("marker%d", r.marker)
	r.write(name, name)
	timeout := time.After(20 * time.Second)
	for got := ""; got != name; {
		select {
		case got = <-r.seen:
		case <-timeout:
			r.t.Fatalf("the event of %s did not come", name)
		}
	}
	r.mu.Lock()
	set := r.pending
	r.pending = &pathset.Set{}
	r.mu.Unlock()
	for p := range set.All() {
		r.apply(p)
	}
}

// apply asks the disk, as rsync's plan does.
func (r *replica) apply(p pathset.Path) {
	rel := p.Rel
	for dir := pathset.Parent(rel); dir != pathset.Root; dir = pathset.Parent(dir) {
		if info, err := os.Lstat(filepath.Join(r.src, dir)); err != nil || !info.IsDir() {
			rel = dir
		}
	}
	from, to := filepath.Join(r.src, rel), filepath.Join(r.dst, rel)
	info, err := os.Lstat(from)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		_ = os.RemoveAll(to)
	case err != nil:
		r.t.Fatal(err)
	case info.IsDir() && (p.Tree || p.Gone):
		if p.Mirror || p.Gone {
			_ = os.RemoveAll(to)
		}
		r.copy("-a", from+"/", to+"/")
	case info.IsDir():
		r.copy("-lptgoDd", from+"/./", to+"/")
	default:
		if old, err := os.Lstat(to); err == nil && old.IsDir() {
			_ = os.RemoveAll(to)
		}
		r.copy("-a", from, to)
	}
}

func (r *replica) copy(options, from, to string) {
	_ = os.MkdirAll(filepath.Dir(strings.TrimSuffix(to, "/")), 0o755)
	if strings.Contains(options, "d") {
		_ = os.Mkdir(to, 0o755)
		return
	}
	// What vanishes meanwhile has an event of its own. Two files made within one
	// tick of the clock have the same time, so the replica does not trust it.
	_ = exec.Command("rsync", options, "--ignore-times", "--force", "--", from, to).Run()
}

func (r *replica) equal() {
	r.t.Helper()
	r.sync()
	out, err := exec.Command("rsync", "-rlDc", "-n", "-i", "--delete", r.src+"/", r.dst+"/").CombinedOutput()
	var lines []string
	for l := range strings.Lines(string(out)) {
		if !strings.HasPrefix(l, ".") { // times and modes are not what is tested
			lines = append(lines, l)
		}
	}
	if err != nil || len(lines) > 0 {
		r.t.Errorf("replica differs: %v\n%s", err, strings.Join(lines, ""))
	}
}

func (r *replica) path(rel string) string { return filepath.Join(r.src, rel) }

func (r *replica) write(rel, text string) {
	r.t.Helper()
	r.must(os.MkdirAll(filepath.Dir(r.path(rel)), 0o755))
	r.must(os.WriteFile(r.path(rel), []byte(text), 0o644))
}

func (r *replica) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *replica) rename(from, to string) {
	r.t.Helper()
	r.must(os.Rename(r.path(from), r.path(to)))
}

// cases are what inotify is known to trip over.
var cases = []struct {
	name string
	do   func(r *replica)
}{
	{"a file written", func(r *replica) { r.write("f", "x") }},
	{"mkdir -p and a file at once", func(r *replica) { r.write("a/b/c/d/e/f", "x") }},
	{"a file rewritten and removed", func(r *replica) { r.write("f", "x"); r.write("f", "y"); r.must(os.Remove(r.path("f"))) }},
	{"a directory renamed within", func(r *replica) { r.write("d/e/f", "x"); r.sync(); r.rename("d", "n"); r.write("n/e/g", "y") }},
	{"a directory moved out", func(r *replica) {
		r.write("d/f", "x")
		r.sync()
		out := filepath.Join(realDir(r.t), "d")
		r.must(os.Rename(r.path("d"), out))
		r.must(os.WriteFile(filepath.Join(out, "late"), nil, 0o644))
	}},
	{"a directory moved in with content", func(r *replica) {
		in := filepath.Join(realDir(r.t), "d")
		r.must(os.MkdirAll(filepath.Join(in, "e"), 0o755))
		r.must(os.WriteFile(filepath.Join(in, "e/f"), nil, 0o644))
		r.must(os.Rename(in, r.path("d")))
		r.write("d/e/g", "x")
	}},
	{"a directory moved out and back", func(r *replica) {
		r.write("d/f", "x")
		r.sync()
		out := filepath.Join(realDir(r.t), "d")
		r.must(os.Rename(r.path("d"), out))
		r.must(os.Rename(out, r.path("d")))
		r.sync()
		r.write("d/g", "x")
	}},
	{"a directory removed and made again", func(r *replica) {
		r.write("d/f", "x")
		r.sync()
		r.must(os.RemoveAll(r.path("d")))
		r.write("d/g", "x")
	}},
	{"a directory takes another's name", func(r *replica) {
		r.write("a/old", "x")
		r.write("b/new", "x")
		r.sync()
		r.must(os.RemoveAll(r.path("a")))
		r.rename("b", "a")
	}},
	{"a symlink, and one to a directory", func(r *replica) {
		r.write("d/f", "x")
		r.must(os.Symlink("f", r.path("s")))
		r.must(os.Symlink("d", r.path("sd")))
	}},
	{"a hard link", func(r *replica) { r.write("f", "x"); r.sync(); r.must(os.Link(r.path("f"), r.path("g"))) }},
	{"a rename over a file", func(r *replica) { r.write("f", "x"); r.write("t", "y"); r.sync(); r.rename("t", "f") }},
	{"a truncation", func(r *replica) {
		r.write("f", "long text")
		r.sync()
		f, err := os.OpenFile(r.path("f"), os.O_WRONLY|os.O_TRUNC, 0)
		r.must(err)
		r.must(f.Close())
	}},
	{"a fifo", func(r *replica) { r.must(syscall.Mkfifo(r.path("p"), 0o644)) }},
	{"hostile names", func(r *replica) {
		for _, n := range []string{"new\nline", "\xff", "$(x)", strings.Repeat("n", 255), "-rf", "#"} {
			r.write(n, n)
			r.write("d"+n[:1]+"/"+n, n)
		}
	}},
}

func TestConformance(t *testing.T) {
	for _, backend := range backends {
		for _, c := range cases {
			t.Run(backend+"/"+c.name, func(t *testing.T) {
				r := watch(t, Options{Backend: backend, Events: sample})
				c.do(r)
				r.equal()
			})
		}
	}
}

func TestStormsEndEqual(t *testing.T) {
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			rng := rand.New(rand.NewPCG(seed, 0))
			r := watch(t, Options{Backend: backend, Events: sample})
			outside := realDir(t)
			for range 20 {
				for range 200 {
					storm(rng, r.src, outside)
				}
				r.sync()
			}
			r.equal()
		})
	}
}

// storm does one operation; that it may be impossible is part of it.
func storm(rng *rand.Rand, root, outside string) {
	pick := func() string {
		parts := []string{root}
		if rng.IntN(8) == 0 {
			parts[0] = outside
		}
		for range 1 + rng.IntN(3) {
			parts = append(parts, string(rune('a'+rng.IntN(4))))
		}
		return filepath.Join(parts...)
	}
	p, q := pick(), pick()
	switch rng.IntN(8) {
	case 0, 1:
		_ = os.MkdirAll(filepath.Dir(p), 0o755)
		_ = os.WriteFile(p, fmt.Append(nil, rng.Int()), 0o644)
	case 2:
		_ = os.MkdirAll(p, 0o755)
	case 3, 4, 5:
		_ = os.Rename(p, q)
	case 6:
		_ = os.RemoveAll(p)
	case 7:
		_ = os.Symlink("x", p)
	}
}

func TestTheSwitchesAreHonoured(t *testing.T) {
	for _, c := range []struct {
		name   string
		off    func(e *Events)
		do     func(r *replica)
		rel    string
		reason func(p pathset.Path) bool
	}{
		{"delete", func(e *Events) { e.Delete = false }, func(r *replica) { r.must(os.Remove(r.path("old"))) }, "old", func(p pathset.Path) bool { return p.Gone }},
		{"moveFrom", func(e *Events) { e.MoveFrom = false }, func(r *replica) { r.rename("old", "new") }, "old", func(p pathset.Path) bool { return p.Gone }},
		{"moveTo", func(e *Events) { e.MoveTo = false }, func(r *replica) { r.rename("old", "new") }, "new", nil},
		{"closeWrite", func(e *Events) { e.CloseWrite = false }, func(r *replica) { r.must(os.WriteFile(r.path("old"), []byte("y"), 0o644)) }, "old", nil},
		{"attrib", func(e *Events) { e.Attrib = false }, func(r *replica) { r.must(os.Chmod(r.path("old"), 0o600)) }, "old", nil},
		{"createFolder", func(e *Events) { e.CreateFolder = false }, func(r *replica) { r.must(os.Mkdir(r.path("dir"), 0o755)) }, "dir", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, on := range []bool{true, false} {
				r := &replica{t: t, src: realDir(t), dst: realDir(t), pending: &pathset.Set{}, seen: make(chan string, 1000)}
				r.write("old", "x")
				events := sample
				events.CreateFile = true // for the marker
				if !on {
					c.off(&events)
				}
				r.follow(Options{Events: events})
				c.do(r)
				r.sync()
				heard := false
				for _, p := range r.heard() {
					heard = heard || p.Rel == c.rel && (c.reason == nil || c.reason(p))
				}
				if heard != on {
					t.Errorf("with %s=%v %s was emitted = %v, want %v", c.name, on, c.rel, heard, on)
				}
			}
		})
	}
}

func TestAnAttributeChangeIsNoRemoval(t *testing.T) {
	r := watch(t, Options{Events: sample})
	r.write("f", "x")
	r.must(os.Chmod(r.path("f"), 0o600))
	r.sync()
	for _, p := range r.heard() {
		if p.Gone {
			t.Errorf("%+v was emitted, want no removal", p)
		}
	}
}

func TestExcludedDirectoriesAreNotWatched(t *testing.T) {
	r := watch(t, Options{Events: sample, Prune: func(rel string) bool { return rel == "cache" }})
	r.write("cache/a/b", "x")
	r.sync()
	for _, p := range r.heard() {
		if strings.HasPrefix(p.Rel, "cache") {
			t.Errorf("%+v was emitted, though cache is excluded", p)
		}
	}
}

func TestARootThatGoesEndsTheRun(t *testing.T) {
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) {
			r := &replica{t: t, src: filepath.Join(realDir(t), "root"), seen: make(chan string, 1000), pending: &pathset.Set{}}
			r.must(os.Mkdir(r.src, 0o755))
			_, ended := r.follow(Options{Backend: backend, Events: sample})
			r.must(os.Rename(r.src, r.src+".away"))
			if err := <-ended; !errors.Is(err, ErrRootGone) {
				t.Errorf("Run = %v, want ErrRootGone", err)
			}
			for _, p := range r.heard() {
				if p.Gone {
					t.Errorf("%+v was emitted for a root that went", p)
				}
			}
		})
	}
}

// limited runs this test again in a user namespace of its own, where the
// inotify limits are its own too, and says whether this is that run.
func limited(t *testing.T, setting, value string) bool {
	t.Helper()
	if os.Getenv("WATCHER_LIMITED") == "1" {
		if err := os.WriteFile("/proc/sys/"+setting, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "WATCHER_LIMITED=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("in a user namespace: %v\n%s", err, out)
	}
	return false
}

func TestPartsWithoutWatchesArePolled(t *testing.T) {
	if !limited(t, "user/max_inotify_watches", "5") {
		return
	}
	r := &replica{t: t, src: realDir(t), dst: realDir(t), pending: &pathset.Set{}, seen: make(chan string, 1000)}
	for i := range 20 {
		r.write(fmt.Sprintf("d%02d/e/f", i), "x")
	}
	var log bytes.Buffer
	w, _ := r.follow(Options{Events: sample, Poll: 20 * time.Millisecond, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if w.Stats().Unwatched == 0 {
		t.Fatal("every directory has a watch, so nothing is tested")
	}
	if n := strings.Count(log.String(), "sysctl fs.inotify.max_user_watches="); n != 1 {
		t.Errorf("the sysctl line was logged %d times, want once:\n%s", n, log.String())
	}
	for i := range 20 {
		r.write(fmt.Sprintf("d%02d/e/f", i), "changed")
		r.write(fmt.Sprintf("d%02d/new/g", i), "x")
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		r.mu.Lock()
		missing := 0
		for i := range 20 {
			if !r.pending.Covers(fmt.Sprintf("d%02d/e/f", i)) || !r.pending.Covers(fmt.Sprintf("d%02d/new/g", i)) {
				missing++
			}
		}
		r.mu.Unlock()
		if missing == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("changes in %d directories were not found by polling", missing)
		}
		<-time.After(10 * time.Millisecond)
	}
}
