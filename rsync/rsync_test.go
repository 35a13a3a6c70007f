package rsync

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gosersync/internal/pathset"
	"gosersync/internal/rsynctest"
)

// hostile are names that a shell, an option parser or a list reader would
// misread. None contains a NUL or a slash.
var hostile = []string{
	"a b", "  ", "'", `"`, "`touch pwned`", "$(touch pwned)", "a;touch pwned", "&touch pwned&", "|x",
	"new\nline", "-rf", "--delete", "#x", ";x", "*", "?", "[a]", `back\slash`, `*\`, "~", "!x", "\xff\xfe", "\t", "文件", strings.Repeat("n", 255),
}

func put(t *testing.T, root, rel, text string) {
	t.Helper()
	full := filepath.Join(root, rel)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, root string, rels ...string) {
	t.Helper()
	for _, rel := range rels {
		if err := os.RemoveAll(filepath.Join(root, rel)); err != nil {
			t.Fatal(err)
		}
	}
}

// bench is a source, a daemon with the module m, and a client between them.
type bench struct {
	src, dst string
	daemon   *rsynctest.Daemon
	client   *Client
}

func newBench(t *testing.T, o Options, d rsynctest.Options) *bench {
	t.Helper()
	daemon := rsynctest.Start(t, d)
	o.Root = t.TempDir()
	o.Target, o.Port = daemon.Target("m"), daemon.Port
	if o.Params == nil {
		o.Params = []string{"-artz"}
	}
	return &bench{src: o.Root, dst: daemon.Path("m"), daemon: daemon, client: New(o)}
}

func (b *bench) sync(t *testing.T, paths ...pathset.Path) error {
	t.Helper()
	return b.client.Sync(t.Context(), pathset.Of(paths...), func() {})
}

func (b *bench) mustSync(t *testing.T, paths ...pathset.Path) {
	t.Helper()
	if err := b.sync(t, paths...); err != nil {
		t.Fatalf("Sync(%v) = %v", paths, err)
	}
}

var everything = pathset.Path{Rel: ".", Tree: true}

func TestHostileNamesArriveLeaveAndNoneRuns(t *testing.T) {
	b := newBench(t, Options{Delete: true}, rsynctest.Options{})
	set := &pathset.Set{}
	for _, name := range hostile {
		put(t, b.src, name, "x")
		put(t, b.src, "dir/"+name, "x")
		set.Add(pathset.Path{Rel: name})
		set.Add(pathset.Path{Rel: "dir/" + name})
	}
	b.mustSync(t, slices.Collect(set.All())...)
	rsynctest.Equal(t, b.src, b.dst)
	remove(t, b.src, hostile...)
	for _, name := range hostile {
		remove(t, b.src, "dir/"+name)
	}
	b.mustSync(t, slices.Collect(set.All())...)
	rsynctest.Equal(t, b.src, b.dst)
	if b.client.way() != byMissingArgs {
		t.Errorf("way of removal = %v, want --delete-missing-args proved", b.client.way())
	}
	if left, _ := os.ReadDir(filepath.Join(b.dst, "dir")); len(left) != 0 {
		t.Errorf("%d names are left at the remote, want none", len(left))
	}
}

func TestTheSetBecomesEqual(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(t *testing.T, src string)
		paths  []pathset.Path
	}{
		{"a directory that is not empty is removed", func(t *testing.T, src string) { remove(t, src, "d") },
			[]pathset.Path{{Rel: "d", Gone: true}}},
		{"a name below a removed directory", func(t *testing.T, src string) { remove(t, src, "d") },
			[]pathset.Path{{Rel: "d/e/f", Gone: true}}},
		{"a file becomes a directory", func(t *testing.T, src string) { remove(t, src, "f"); put(t, src, "f/x", "x") },
			[]pathset.Path{{Rel: "f", Tree: true}}},
		{"a directory becomes a file", func(t *testing.T, src string) { remove(t, src, "d"); put(t, src, "d", "x") },
			[]pathset.Path{{Rel: "d"}}},
		{"a directory becomes a symlink", func(t *testing.T, src string) {
			remove(t, src, "d")
			if err := os.Symlink("f", filepath.Join(src, "d")); err != nil {
				t.Fatal(err)
			}
		}, []pathset.Path{{Rel: "d/e/f"}}},
		{"a directory takes the name of another", func(t *testing.T, src string) { remove(t, src, "d"); put(t, src, "d/new", "x") },
			[]pathset.Path{{Rel: "d", Tree: true, Gone: true}}},
		{"a new deep directory, a change and a removal at once", func(t *testing.T, src string) {
			put(t, src, "n/e/w", "x")
			put(t, src, "f", "changed")
			remove(t, src, "d/e/f")
		}, []pathset.Path{{Rel: "n", Tree: true}, {Rel: "f"}, {Rel: "d/e/f", Gone: true}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, Options{Delete: true}, rsynctest.Options{})
			put(t, b.src, "d/e/f", "x")
			put(t, b.src, "f", "x")
			b.mustSync(t, everything)
			c.change(t, b.src)
			b.mustSync(t, c.paths...)
			rsynctest.Equal(t, b.src, b.dst)
		})
	}
}

func TestARewriteOfTheSameSizeWithinTheSecondArrives(t *testing.T) {
	b := newBench(t, Options{}, rsynctest.Options{})
	for i := range 10 {
		text := string(rune('a' + i))
		put(t, b.src, "f", text)
		b.mustSync(t, pathset.Path{Rel: "f"})
		if got, _ := os.ReadFile(filepath.Join(b.dst, "f")); string(got) != text {
			t.Fatalf("remote has %q, want %q", got, text)
		}
	}
}

func TestWithoutDeleteNothingIsRemoved(t *testing.T) {
	b := newBench(t, Options{Params: []string{"-artz", "--delete"}}, rsynctest.Options{})
	put(t, b.src, "d/f", "x")
	b.mustSync(t, everything)
	remove(t, b.src, "d")
	b.mustSync(t, pathset.Path{Rel: "d", Gone: true})
	b.mustSync(t, pathset.Path{Rel: ".", Tree: true, Mirror: true})
	if _, err := os.Stat(filepath.Join(b.dst, "d/f")); err != nil {
		t.Errorf("the remote lost d/f: %v", err)
	}
}

func TestTwoSourcesOfOneModuleKeepEachOthersFiles(t *testing.T) {
	b := newBench(t, Options{Delete: true}, rsynctest.Options{})
	put(t, b.dst, "d/theirs", "x")
	put(t, b.src, "d/ours", "x")
	b.mustSync(t, pathset.Path{Rel: "d", Tree: true})
	remove(t, b.src, "d/ours")
	b.mustSync(t, pathset.Path{Rel: "d/ours", Gone: true})
	b.mustSync(t, everything)
	if _, err := os.Stat(filepath.Join(b.dst, "d/theirs")); err != nil {
		t.Errorf("the other source's file is gone: %v", err)
	}
	b.mustSync(t, pathset.Path{Rel: ".", Tree: true, Mirror: true})
	if _, err := os.Stat(filepath.Join(b.dst, "d/theirs")); err == nil {
		t.Error("a mirror of the whole, which was asked for, left a stranger's file")
	}
}

func TestTheFilterHoldsForTreesAndMirrors(t *testing.T) {
	for _, p := range []pathset.Path{{Rel: ".", Tree: true, Mirror: true}, {Rel: "d", Tree: true, Mirror: true}} {
		b := newBench(t, Options{Delete: true, Exclude: func(rel string, _ bool) bool {
			return strings.HasSuffix(rel, ".log") || strings.Contains("/"+rel+"/", "/cache[1]/")
		}}, rsynctest.Options{})
		put(t, b.src, "d/f", "x")
		put(t, b.src, "d/f.log", "x")
		put(t, b.src, "d/cache[1]/x", "x")
		put(t, b.dst, "d/remote.log", "x")
		put(t, b.dst, "d/extra\n1/x", "x")
		b.mustSync(t, p)
		for rel, want := range map[string]bool{
			"d/f": true, "d/f.log": false, "d/cache[1]": false, "d/remote.log": true, "d/extra\n1": false,
		} {
			if _, err := os.Stat(filepath.Join(b.dst, rel)); (err == nil) != want {
				t.Errorf("after %+v %q at the remote = %v, want %v", p, rel, err == nil, want)
			}
		}
	}
}

func TestARemoteThatCannotDeleteMissingArgsGetsTheChain(t *testing.T) {
	b := newBench(t, Options{Delete: true}, rsynctest.Options{Global: []string{"refuse options = delete-missing-args"}})
	set := &pathset.Set{}
	for _, name := range hostile {
		put(t, b.src, "dir/"+name, "x")
		put(t, b.src, "dir/"+name+"x"[:min(1, 255-len(name))], "x")
		set.Add(pathset.Path{Rel: "dir/" + name, Gone: true})
	}
	put(t, b.src, "dir/full/deep/f", "x")
	b.mustSync(t, everything)
	for _, name := range hostile {
		remove(t, b.src, "dir/"+name)
	}
	remove(t, b.src, "dir/full")
	set.Add(pathset.Path{Rel: "dir/full", Gone: true})
	b.mustSync(t, slices.Collect(set.All())...)
	if b.client.way() != byChain {
		t.Errorf("way of removal = %v, want the include chain", b.client.way())
	}
	b.mustSync(t, pathset.Path{Rel: "dir"})
	rsynctest.Equal(t, b.src, b.dst)
}

func TestARemoteThatRefusesEveryRemovalGetsTheRest(t *testing.T) {
	b := newBench(t, Options{Delete: true}, rsynctest.Options{Global: []string{"refuse options = delete*"}})
	put(t, b.src, "f", "x")
	put(t, b.src, "g", "x")
	err := b.sync(t, pathset.Path{Rel: ".", Tree: true, Mirror: true})
	var left *LeftError
	if err != nil && !errors.As(err, &left) {
		t.Fatalf("mirror = %v, want a LeftError", err)
	}
	remove(t, b.src, "f")
	put(t, b.src, "h", "x")
	err = b.sync(t, pathset.Path{Rel: "f", Gone: true}, pathset.Path{Rel: "h"}, pathset.Path{Rel: "g"})
	if !errors.As(err, &left) || !left.Left.Covers("f") || left.Left.Covers("h") {
		t.Fatalf("Sync = %v, want f alone left", err)
	}
	if _, err := os.Stat(filepath.Join(b.dst, "h")); err != nil {
		t.Errorf("h did not arrive: %v", err)
	}
}

func TestTheGuardHoldsRemovalsAndTheRestGoesOn(t *testing.T) {
	b := newBench(t, Options{Delete: true, Guard: func() error { return errors.New("source is empty") }}, rsynctest.Options{})
	put(t, b.dst, "gone", "x")
	put(t, b.src, "new", "x")
	err := b.sync(t, pathset.Path{Rel: "gone", Gone: true}, pathset.Path{Rel: "new"}, pathset.Path{Rel: ".", Tree: true, Mirror: true})
	var left *LeftError
	if !errors.As(err, &left) || !left.Held || !left.Left.Covers("gone") {
		t.Fatalf("Sync = %v, want the removals held", err)
	}
	for _, rel := range []string{"gone", "new"} {
		if _, err := os.Stat(filepath.Join(b.dst, rel)); err != nil {
			t.Errorf("%s is not at the remote: %v", rel, err)
		}
	}
}

func TestWhatFailsIsNamedAndTheRestIsSure(t *testing.T) {
	b := newBench(t, Options{Delete: true}, rsynctest.Options{})
	set := &pathset.Set{}
	for i := range 50 {
		rel := "d/" + strings.Repeat("f", i+1)
		put(t, b.src, rel, "x")
		set.Add(pathset.Path{Rel: rel})
	}
	// A directory that is not empty where a file is to go, and may not be removed.
	b.client.o.Delete = false
	bad := []string{"d/fff", `d/bad "quoted" name`, "d/bad\nline"}
	for _, rel := range bad {
		put(t, b.src, rel, "x")
		put(t, b.dst, rel+"/full", "x")
		set.Add(pathset.Path{Rel: rel})
	}
	err := b.sync(t, slices.Collect(set.All())...)
	var left *LeftError
	if !errors.As(err, &left) {
		t.Fatalf("Sync = %v, want a LeftError", err)
	}
	var got []string
	for p := range left.Left.All() {
		got = append(got, p.Rel)
	}
	slices.Sort(bad)
	if !slices.Equal(got, bad) {
		t.Errorf("left %q, want %q", got, bad)
	}
}

func TestFailuresSayWhatToDo(t *testing.T) {
	silent := rsynctest.Silent(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("user:right\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	wrong := filepath.Join(t.TempDir(), "wrong")
	if err := os.WriteFile(wrong, []byte("wrong\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		daemon rsynctest.Options
		change func(o *Options)
		kind   Kind
		text   string
	}{
		{"nobody listens", rsynctest.Options{}, func(o *Options) { o.Port = rsynctest.FreePort(t) }, Down, "refused"},
		{"silent", rsynctest.Options{}, func(o *Options) { o.Port, o.Timeout = silent, time.Second }, Down, "timeout"},
		{"unknown module", rsynctest.Options{}, func(o *Options) { o.Target = "127.0.0.1::nomod" }, Config, "remote@name"},
		{"read only", rsynctest.Options{Lines: []string{"read only = yes"}}, nil, Config, "read only = no"},
		{"wrong password", rsynctest.Options{Lines: []string{"auth users = user", "secrets file = " + secret}},
			func(o *Options) { o.Target, o.PasswordFile = "user@127.0.0.1::m", wrong }, Config, "passwordfile"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, Options{}, c.daemon)
			o := b.client.o
			if c.change != nil {
				c.change(&o)
			}
			put(t, b.src, "f", "x")
			err := New(o).Sync(t.Context(), pathset.Of(pathset.Path{Rel: "f"}), func() {})
			var exit *ExitError
			if !errors.As(err, &exit) || exit.Kind != c.kind || !strings.Contains(err.Error(), c.text) {
				t.Errorf("Sync = %v (%+v), want kind %s and a text with %q", err, exit, c.kind, c.text)
			}
			if strings.Contains(err.Error(), "wrong\n") {
				t.Error("the error holds the password")
			}
		})
	}
}

func TestTheEndOfTheContextEndsASilentRun(t *testing.T) {
	c := New(Options{Root: t.TempDir(), Target: "127.0.0.1::m", Port: rsynctest.Silent(t), Params: []string{"-a"}})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	begin := time.Now()
	err := c.Sync(ctx, pathset.Of(everything), func() { t.Error("a silent remote was taken for alive") })
	if err == nil || time.Since(begin) > 5*time.Second {
		t.Errorf("Sync = %v after %v, want an error soon", err, time.Since(begin))
	}
}

func TestARunThatMovesNoByteIsEnded(t *testing.T) {
	c := New(Options{Root: t.TempDir(), Target: "127.0.0.1::m", Port: rsynctest.Silent(t), Params: []string{"-a"}})
	c.silence = 100 * time.Millisecond
	err := c.Sync(t.Context(), pathset.Of(pathset.Path{Rel: "x"}, pathset.Path{Rel: "."}), func() {})
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Kind != Down || !errors.Is(err, errSilent) {
		t.Errorf("Sync = %v, want the remote down for its silence", err)
	}
}

func TestARemoteBehindSSH(t *testing.T) {
	o := Options{Root: t.TempDir(), SSH: true, SSHCommand: rsynctest.SSHD(t), Delete: true, Params: []string{"-artz"}}
	dst := t.TempDir()
	o.Target = "127.0.0.1:" + dst
	c := New(o)
	set := pathset.Of(pathset.Path{Rel: "d", Tree: true})
	for _, name := range hostile {
		put(t, o.Root, "d/"+name, "x")
		put(t, o.Root, name, "x")
		set.Add(pathset.Path{Rel: name})
	}
	for range 2 {
		if err := c.Sync(t.Context(), set, func() {}); err != nil {
			t.Fatal(err)
		}
		rsynctest.Equal(t, o.Root, dst)
		remove(t, o.Root, hostile...) // the second round removes
	}
	if c.way() != byMissingArgs {
		t.Errorf("way of removal = %v, want --delete-missing-args proved", c.way())
	}
}

func TestAliveIsCalledOnce(t *testing.T) {
	b := newBench(t, Options{}, rsynctest.Options{})
	put(t, b.src, "f", "x")
	n := 0
	if err := b.client.Sync(t.Context(), pathset.Of(everything), func() { n++ }); err != nil || n != 1 {
		t.Errorf("Sync = %v, alive was called %d times, want once", err, n)
	}
	if s := b.client.Stats(); s.Runs != 1 || s.Sent == 0 {
		t.Errorf("Stats = %+v, want one run and what it sent", s)
	}
}

func TestTheScriptDoesTheJobByHand(t *testing.T) {
	b := newBench(t, Options{Delete: true}, rsynctest.Options{})
	put(t, b.src, "old/f", "x")
	b.mustSync(t, everything)
	remove(t, b.src, "old")
	set := pathset.Of(pathset.Path{Rel: "old", Gone: true}, pathset.Path{Rel: "tree", Tree: true})
	put(t, b.src, "tree/a/b", "x")
	for _, name := range hostile {
		put(t, b.src, name, "x")
		set.Add(pathset.Path{Rel: name})
	}
	script := filepath.Join(t.TempDir(), "rsync_fail_log.sh")
	if err := os.WriteFile(script, []byte(b.client.Script(set)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("sh", script).CombinedOutput(); err != nil {
		t.Fatalf("sh %s: %v\n%s\n%s", script, err, out, b.client.Script(set))
	}
	rsynctest.Equal(t, b.src, b.dst)
}

func TestArgs(t *testing.T) {
	c := New(Options{Root: "/src", Target: "u@10.0.0.1::www", Port: 8730, PasswordFile: "/etc/pass", BWLimit: "1000",
		Timeout: 100 * time.Second, Params: []string{"-artuz", "--delete", "--exclude=x y"}, Delete: true})
	want := `-artuz --exclude=x y --timeout=100 --bwlimit=1000 --password-file=/etc/pass --port=8730 --sockopts=TCP_NODELAY --contimeout=10 --modify-window=-1 --no-recursive --dirs --relative --from0 --files-from=- --outbuf=L --info=skip1,stats1,flist1 . u@10.0.0.1::www/`
	if got := strings.Join(c.args(names), " "); got != want {
		t.Errorf("args(names) =\n%s\nwant\n%s", got, want)
	}
	s := New(Options{Root: "/src", Target: "u@h:/srv/www", SSH: true, Port: 2222, Params: []string{"-a"}})
	if got := strings.Join(New(Options{Target: "h::m"}).args(names), " "); strings.Contains(got, "--timeout") {
		t.Errorf("args(names) without a timeout = %s, want no --timeout, which costs 40 ms", got)
	}
	want = `-a --timeout=60 -e ssh -o BatchMode=yes -o ConnectTimeout=10 -p 2222 --modify-window=-1 --recursive --relative --outbuf=L --info=skip1,stats1,flist1 . u@h:/srv/www/`
	if got := strings.Join(s.args(whole), " "); got != want {
		t.Errorf("args(whole) =\n%s\nwant\n%s", got, want)
	}
}

func TestComplaints(t *testing.T) {
	for line, want := range map[string]string{
		`rsync: [sender] send_files failed to open "/src/d/x": Permission denied (13)`: "d/x",
		`rsync: [sender] link_stat "/src/./x y" failed: No such file or directory (2)`: "x y",
		`file has vanished: "/src/a/b"`: "a/b",
		`rsync: [receiver] mkstemp "/d/.name.aB3xYz" (in m) failed: Permission denied (13)`:   "d/name",
		`rsync: [generator] recv_generator: mkdir "/d" (in m) failed: Permission denied (13)`: "d",
		`rsync: [receiver] rename "/.x.abcdef" (in m) -> "x": Is a directory (21)`:            "",
		`rsync: [generator] delete_file: rmdir("q\#012r") failed: Directory not empty (39)`:   "q\nr",
	} {
		got, _ := complaint(line, "/src")
		if want == "" {
			continue
		}
		if got != want {
			t.Errorf("complaint(%q) = %q, want %q", line, got, want)
		}
	}
}
