package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gosersync/conf"
	"gosersync/internal/pathset"
	"gosersync/internal/rsynctest"
)

// rig is a daemon under test with one source and its remotes.
type rig struct {
	t       *testing.T
	src     string
	state   string
	script  string
	daemons []*rsynctest.Daemon
	d       *Daemon
	stop    func() error
}

// rigOptions are what a test changes in the config.
type rigOptions struct {
	remotes []string // more <remote/> elements
	servers int      // rsync daemons of its own; 0 = 1
	head    string   // more elements below head
	sersync string   // more elements below sersync
	params  string   // "" = -artz
	tree    string   // more attributes of localpath
	firstPush,
	allowEmpty bool
}

func newRig(t *testing.T, s rigOptions) *rig {
	t.Helper()
	r := &rig{t: t, src: realDir(t), state: realDir(t)}
	r.script = filepath.Join(r.state, "rsync_fail_log.sh")
	for range max(1, s.servers) {
		r.daemons = append(r.daemons, rsynctest.Start(t, rsynctest.Options{}))
	}
	r.start(s)
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

func (r *rig) xml(s rigOptions) string {
	var remotes strings.Builder
	for _, d := range r.daemons {
		fmt.Fprintf(&remotes, "<remote ip=\"127.0.0.1\" name=\"m\" port=\"%d\"/>\n", d.Port)
	}
	if s.params == "" {
		s.params = "-artz"
	}
	return fmt.Sprintf(`<head version="2.5">
<inotify><attrib start="true"/></inotify>%s
<sersync><localpath watch=%q %s>%s%s</localpath>
<rsync><commonParams params=%q/></rsync>
<failLog path=%q timeToExecute="60"/>%s</sersync></head>`,
		s.head, r.src, s.tree, remotes.String(), strings.Join(s.remotes, ""), s.params, r.script, s.sersync)
}

func (r *rig) file() string { return filepath.Join(r.state, "test_confxml.xml") }

// start starts a daemon and waits until it watches.
func (r *rig) start(s rigOptions) {
	r.t.Helper()
	if err := os.WriteFile(r.file(), []byte(r.xml(s)), 0o600); err != nil {
		r.t.Fatal(err)
	}
	cfg, err := conf.Load(r.file())
	if err != nil {
		r.t.Fatal(err)
	}
	ready := make(chan struct{})
	r.d, err = New(Options{
		Config: cfg, StateDir: r.state, FirstPush: s.firstPush, AllowEmpty: s.allowEmpty,
		Log: slog.New(slog.NewTextHandler(&testWriter{r.t}, nil)), Ready: func() { close(ready) },
	})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.d.Run(ctx, context.Background()) }()
	r.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	stop := r.stop
	r.t.Cleanup(func() { _ = stop() })
	<-ready
}

func (r *rig) end() {
	r.t.Helper()
	if err := r.stop(); err != nil {
		r.t.Errorf("Run = %v, want nil", err)
	}
}

// testWriter sends the daemon's log to the test's.
type testWriter struct{ t *testing.T }

func (w *testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func (r *rig) write(rel, text string) {
	r.t.Helper()
	full := filepath.Join(r.src, rel)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) remove(rel string) {
	r.t.Helper()
	if err := os.RemoveAll(filepath.Join(r.src, rel)); err != nil {
		r.t.Fatal(err)
	}
}

// equal waits until remote i has what the source has.
func (r *rig) equal(i int) {
	r.t.Helper()
	rsynctest.EqualWithin(r.t, 60*time.Second, r.src, r.daemons[i].Path("m"))
}

// marker writes a file and waits until remote i has it.
func (r *rig) marker(i int, rel string) {
	r.t.Helper()
	r.write(rel, rel)
	rsynctest.Within(r.t, 30*time.Second, func() error { return r.has(i, rel) })
}

func (r *rig) has(i int, rel string) error {
	_, err := os.Lstat(filepath.Join(r.daemons[i].Path("m"), rel))
	return err
}

// names are drawn for the churn: few, so that they meet, and hostile.
var names = []string{
	"a", "b", "c", "d", "sp ace", "qu'ote", `dou"ble`, "`touch pwned`", "$(touch pwned)", "new\nline",
	"-rf", "#x", ";x", "*", "[b]", `back\slash`, "\xff\xfe", "x.tmp", ".hidden", strings.Repeat("n", 255),
}

// churn does random operations in a tree.
type churn struct {
	rng  *rand.Rand
	root string
}

func (c *churn) path() string {
	parts := []string{c.root}
	for range 1 + c.rng.IntN(3) {
		parts = append(parts, names[c.rng.IntN(len(names))])
	}
	return filepath.Join(parts...)
}

// step does one operation. That it may be impossible is part of it.
func (c *churn) step() {
	p, q := c.path(), c.path()
	switch c.rng.IntN(12) {
	case 0, 1, 2:
		_ = os.MkdirAll(filepath.Dir(p), 0o755)
		_ = os.WriteFile(p, []byte(strings.Repeat("x", c.rng.IntN(2000))+fmt.Sprint(c.rng.Int())), 0o644)
	case 3:
		_ = os.MkdirAll(p, 0o755)
	case 4, 5:
		_ = os.Rename(p, q)
	case 6:
		_ = os.Remove(p)
	case 7:
		if c.rng.IntN(4) == 0 {
			_ = os.RemoveAll(p)
		}
	case 8:
		_ = os.Symlink(names[c.rng.IntN(len(names))], p)
	case 9:
		_ = os.Link(p, q)
	case 10:
		if f, err := os.OpenFile(p, os.O_WRONLY|os.O_TRUNC, 0); err == nil {
			_, _ = f.WriteString(fmt.Sprint(c.rng.IntN(10)))
			f.Close()
		}
	case 11:
		_ = os.Chmod(p, []os.FileMode{0o600, 0o644, 0o755, 0o700}[c.rng.IntN(4)])
	}
}

// churnTime is how long the churn runs; more by GOSERSYNC_CHURN=5m.
func churnTime() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("GOSERSYNC_CHURN")); err == nil {
		return d
	}
	return 8 * time.Second
}

func TestChurnEndsEqualThoughOneRemoteIsStoppedAndStarted(t *testing.T) {
	for _, backend := range []string{"inotify", "fsnotify"} {
		t.Run(backend, func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			r := newRig(t, rigOptions{servers: 2, firstPush: true, tree: fmt.Sprintf("backend=%q", backend)})
			t.Chdir(r.state)
			c := &churn{rng: rand.New(rand.NewPCG(seed, 0)), root: r.src}
			end := time.Now().Add(churnTime())
			for i := 0; time.Now().Before(end); i++ {
				c.step()
				switch i % 6000 {
				case 2000:
					r.daemons[1].Stop()
				case 4000:
					r.daemons[1].Restart()
				}
				if i%20 == 0 {
					<-time.After(time.Millisecond)
				}
			}
			r.daemons[1].Stop()
			r.daemons[1].Restart()
			r.equal(0)
			r.equal(1)
			rsynctest.Within(t, 90*time.Second, func() error {
				if n := r.d.fail.Len(); n > 0 {
					return fmt.Errorf("the fail log holds %d paths", n)
				}
				return nil
			})
			r.end()
			r.equal(0)
			if _, err := os.Lstat("pwned"); err == nil {
				t.Error("a name ran as a command")
			}
		})
	}
}

func TestTheFirstPushMakesAMirrorAndPlainStartRemovesNothing(t *testing.T) {
	r := newRig(t, rigOptions{})
	stranger := filepath.Join(r.daemons[0].Path("m"), "stranger")
	if err := os.WriteFile(stranger, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	r.marker(0, "x")
	r.end()
	if err := r.has(0, "stranger"); err != nil {
		t.Errorf("without -r the stranger's file went: %v", err)
	}
	r.start(rigOptions{firstPush: true})
	r.equal(0)
}

func TestAnEmptySourceRemovesNothing(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.marker(0, "x")
	r.end()
	r.remove("x")
	r.start(rigOptions{firstPush: true})
	rsynctest.Within(t, 10*time.Second, func() error {
		if r.d.fail.Len() == 0 {
			return fmt.Errorf("the held mirror is not in the fail log")
		}
		return r.has(0, "x")
	})
	r.end()
	r.start(rigOptions{firstPush: true, allowEmpty: true})
	rsynctest.Within(t, 10*time.Second, func() error {
		if r.has(0, "x") == nil {
			return fmt.Errorf("with --allow-empty x is still at the remote")
		}
		return nil
	})
}

func TestARootThatVanishesRemovesNothingAndIsWatchedWhenItIsBack(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.marker(0, "d/x")
	if err := os.Rename(r.src, r.src+".away"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(r.src + ".away") })
	rsynctest.Within(t, 10*time.Second, func() error {
		if r.d.running()[0].guard.check() == nil {
			return fmt.Errorf("the guard lets removals go on without a root")
		}
		return r.has(0, "d/x")
	})
	if err := os.Rename(r.src+".away", r.src); err != nil {
		t.Fatal(err)
	}
	r.marker(0, "new")
	r.remove("d")
	r.equal(0)
}

func TestADeadRemotesPathsAreInTheFailLogAndArriveAfterARestart(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.daemons[0].Stop()
	r.write("a", "x")
	r.write("`touch pwned`", "x")
	rsynctest.Within(t, 10*time.Second, func() error {
		text, err := os.ReadFile(r.script)
		if err == nil && !strings.Contains(string(text), "'./`touch pwned`'") {
			err = fmt.Errorf("the script does not name what is left:\n%s", text)
		}
		return err
	})
	r.end()
	r.daemons[0].Restart()
	r.start(rigOptions{})
	r.equal(0)
}

func TestASilentRemoteDoesNotDelayTheOther(t *testing.T) {
	r := newRig(t, rigOptions{remotes: []string{
		fmt.Sprintf(`<remote ip="127.0.0.1" name="m" port="%d"/>`, rsynctest.Silent(t)),
	}})
	for i := range 20 {
		r.marker(0, fmt.Sprint("f", i))
	}
}

func TestReloadAddsAndRemovesRemotesAndABadFileChangesNothing(t *testing.T) {
	r := newRig(t, rigOptions{head: ""})
	r.marker(0, "old")
	failed := make(chan error, 1)
	r.daemons = append(r.daemons, rsynctest.Start(t, rsynctest.Options{}))
	write := func(text string) {
		if err := os.WriteFile(r.file(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r.d.reload(t.Context(), failed)
	}
	write(r.xml(rigOptions{}))
	r.equal(1) // a new remote first gets the whole tree
	write("<head><sersync></head>")
	r.marker(0, "after a bad file")
	r.marker(1, "and here")
	first := r.daemons[0]
	r.daemons = r.daemons[1:]
	write(r.xml(rigOptions{}))
	r.marker(0, "only here")
	if _, err := os.Lstat(filepath.Join(first.Path("m"), "only here")); err == nil {
		t.Error("a removed remote still gets files")
	}
}

func TestTheFilterIsHonouredEverywhere(t *testing.T) {
	filter := `<filter start="true"><exclude expression="(.*)\.log"/><exclude expression="cache/"/></filter>`
	r := newRig(t, rigOptions{head: filter, firstPush: true})
	r.write("cache/x", "x")
	r.write("d/a.log", "x")
	r.marker(0, "d/marker")
	r.d.pushAll("test")
	r.marker(0, "last")
	for _, rel := range []string{"cache", "d/a.log"} {
		if r.has(0, rel) == nil {
			t.Errorf("%s is at the remote, though it is excluded", rel)
		}
	}
}

func TestTwoSourcesOfOneModuleKeepEachOthersFiles(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.marker(0, "d/ours")
	theirs := filepath.Join(r.daemons[0].Path("m"), "d/theirs")
	if err := os.WriteFile(theirs, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	r.remove("d/ours")
	r.write("d/new/x", "x")
	r.marker(0, "end")
	if _, err := os.Lstat(theirs); err != nil {
		t.Errorf("the other source's file is gone: %v", err)
	}
}

func TestAPluginHearsOfAPathWhenEveryRemoteHasAnswered(t *testing.T) {
	log := filepath.Join(realDir(t), "log")
	r := newRig(t, rigOptions{
		servers: 2,
		head:    fmt.Sprintf(`<plugin name="command"><param prefix="/bin/sh -c 'echo &quot;$1&quot; >> %s' sh" suffix=""/></plugin>`, log),
		sersync: `<plugin start="true" name="command"/>`,
	})
	r.daemons[1].Stop()
	r.write("d/x", "x")
	rsynctest.Within(t, 20*time.Second, func() error {
		text, err := os.ReadFile(log)
		if err == nil && !strings.Contains(string(text), filepath.Join(r.src, "d/x")) {
			err = fmt.Errorf("the plugin heard of %q", text)
		}
		return err
	})
	if err := r.has(0, "d/x"); err != nil {
		t.Errorf("the plugin heard before the remote had the path: %v", err)
	}
}

func TestBulk(t *testing.T) {
	root := realDir(t)
	big, err := os.Create(filepath.Join(root, "big"))
	if err != nil {
		t.Fatal(err)
	}
	if err := big.Truncate(bulkBytes); err != nil {
		t.Fatal(err)
	}
	big.Close()
	for _, c := range []struct {
		p    pathset.Path
		want bool
	}{
		{pathset.Path{Rel: ".", Tree: true}, true},
		{pathset.Path{Rel: "big"}, true},
		{pathset.Path{Rel: "missing"}, false},
	} {
		if got := bulk(root, c.p); got != c.want {
			t.Errorf("bulk(%+v) = %v, want %v", c.p, got, c.want)
		}
	}
}
