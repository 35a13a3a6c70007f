package faillog

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gosersync/internal/pathset"
)

var errDown = errors.New("connection refused\n`touch pwned`")

func open(t *testing.T, o Options) *Log {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func rels(set *pathset.Set) []string {
	var all []string
	for p := range set.All() {
		all = append(all, p.Rel)
	}
	return all
}

func TestWhatIsRecordedIsThereAfterAnyEnd(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Options{Dir: dir})
	hostile := pathset.Path{Rel: "new\nline\xff", Gone: true}
	must(t, l.Record("a", pathset.Of(pathset.Path{Rel: "x"}, hostile, pathset.Path{Rel: "d", Tree: true, Mirror: true}), errDown))
	must(t, l.Record("b", pathset.Of(pathset.Path{Rel: "y"}), errDown))
	must(t, l.Clear("a", pathset.Of(pathset.Path{Rel: "x"})))
	// No Close: the process was killed.
	again := open(t, Options{Dir: dir})
	if got, want := rels(again.Left("a")), []string{"d", hostile.Rel}; !slices.Equal(got, want) {
		t.Errorf("Left(a) = %q, want %q", got, want)
	}
	if p, ok := again.Left("a").Get(hostile.Rel); !ok || !p.Gone {
		t.Errorf("the removed name came back as %+v, %v", p, ok)
	}
	if p, _ := again.Left("a").Get("d"); !p.Tree || !p.Mirror {
		t.Errorf("the mirror came back as %+v", p)
	}
	if got := rels(again.Left("b")); !slices.Equal(got, []string{"y"}) {
		t.Errorf("Left(b) = %q, want y", got)
	}
}

func TestAJournalCutAnywhereKeepsEveryWholeRecord(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Options{Dir: dir})
	names := []string{"a", "b", "c\nd", "e"}
	var ends []int
	for _, n := range names {
		must(t, l.Record("r", pathset.Of(pathset.Path{Rel: n}), errDown))
		data, err := os.ReadFile(filepath.Join(dir, journalName))
		must(t, err)
		ends = append(ends, len(data))
	}
	data, err := os.ReadFile(filepath.Join(dir, journalName))
	must(t, err)
	for cut := range len(data) + 1 {
		whole := 0
		for _, end := range ends {
			if end <= cut+1 { // the newline may be missing
				whole++
			}
		}
		for _, tail := range []string{"", "garbage\x00\xff"} {
			if tail != "" && slices.Contains(ends, cut+1) {
				continue // garbage in the place of the newline spoils the line
			}
			records, _ := decode(append(slices.Clone(data[:cut]), tail...))
			if len(records) < whole {
				t.Fatalf("cut at %d of %d with tail %q: %d records, want %d", cut, len(data), tail, len(records), whole)
			}
		}
	}
}

func TestAnEntryLeavesOnlyWhenItWasTaken(t *testing.T) {
	for _, c := range []struct {
		name        string
		left, taken pathset.Path
		want        bool // still there
	}{
		{"the name itself", pathset.Path{Rel: "a"}, pathset.Path{Rel: "a"}, false},
		{"another name", pathset.Path{Rel: "a"}, pathset.Path{Rel: "b"}, true},
		{"a tree by its name alone", pathset.Path{Rel: "d", Tree: true}, pathset.Path{Rel: "d"}, true},
		{"a mirror by a tree", pathset.Path{Rel: "d", Tree: true, Mirror: true}, pathset.Path{Rel: "d", Tree: true}, true},
		{"a name below a tree", pathset.Path{Rel: "d/a"}, pathset.Path{Rel: "d", Tree: true}, false},
		{"a removal below a tree", pathset.Path{Rel: "d/a", Gone: true}, pathset.Path{Rel: "d", Tree: true}, true},
		{"a removal below a mirror", pathset.Path{Rel: "d/a", Gone: true}, pathset.Path{Rel: ".", Tree: true, Mirror: true}, false},
		{"a name that only begins alike", pathset.Path{Rel: "da"}, pathset.Path{Rel: "d", Tree: true}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := open(t, Options{})
			must(t, l.Record("r", pathset.Of(c.left), errDown))
			must(t, l.Clear("r", pathset.Of(c.taken)))
			if _, got := l.Left("r").Get(c.left.Rel); got != c.want {
				t.Errorf("%+v left after %+v was taken = %v, want %v", c.left, c.taken, got, c.want)
			}
		})
	}
}

func TestDueIsEverythingAfterOpenAndThenByTime(t *testing.T) {
	l := open(t, Options{})
	now := time.Now()
	must(t, l.Record("r", pathset.Of(pathset.Path{Rel: "a"}), errDown))
	count := func(now time.Time) (n int) {
		for range l.Due(now, time.Hour) {
			n++
		}
		return n
	}
	for _, c := range []struct {
		after time.Duration
		want  int
	}{{0, 0}, {2 * time.Hour, 1}, {2*time.Hour + time.Minute, 0}, {4 * time.Hour, 1}} {
		if got := count(now.Add(c.after)); got != c.want {
			t.Errorf("due after %v = %d targets, want %d", c.after, got, c.want)
		}
	}
}

func TestTheScriptIsPrivateAndItsCommentsAreComments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		script := filepath.Join(t.TempDir(), "rsync_fail_log.sh")
		l := open(t, Options{Script: script, Render: func(target string, set *pathset.Set) string {
			return "echo " + target + " " + strings.Join(rels(set), " ") + "\n"
		}})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.Run(ctx) }()
		must(t, l.Record("r", pathset.Of(pathset.Path{Rel: "a"}), errDown))
		synctest.Wait()
		<-time.After(2 * time.Second)
		synctest.Wait()
		text, err := os.ReadFile(script)
		must(t, err)
		for line := range strings.Lines(string(text)) {
			if !strings.HasPrefix(line, "#") && line != "\n" && line != "echo r a\n" {
				t.Errorf("line %q is neither a comment nor a command of Render", line)
			}
		}
		if info, err := os.Stat(script); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode of the script = %v, %v, want 0600", info.Mode(), err)
		}
		must(t, l.Clear("r", pathset.Of(pathset.Path{Rel: "a"})))
		cancel()
		must(t, <-ended)
		must(t, l.Close())
		if text, _ := os.ReadFile(script); string(text) != header {
			t.Errorf("script of an empty log = %q, want the header alone", text)
		}
	})
}

func TestAScriptPathThatSomebodyLaidIsRefused(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link.sh")
	must(t, os.Symlink("/etc/passwd", link))
	foreign := filepath.Join(dir, "foreign.sh")
	must(t, os.WriteFile(foreign, nil, 0o600))
	cases := map[string]string{link: "symlink", dir: "regular"}
	if os.Geteuid() == 0 {
		must(t, os.Chown(foreign, 12345, 12345))
		cases[foreign] = "user 12345"
	}
	for script, want := range cases {
		if _, err := Open(Options{Dir: t.TempDir(), Script: script}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open with script %s = %v, want an error that says %q", script, err, want)
		}
	}
}

func TestCommandsThatSersyncLeftAreKept(t *testing.T) {
	script := filepath.Join(t.TempDir(), "rsync_fail_log.sh")
	must(t, os.WriteFile(script, []byte("#errno 10\ncd /x && rsync\n"), 0o777))
	l := open(t, Options{Script: script})
	must(t, l.Close())
	kept, _ := filepath.Glob(script + ".sersync-*")
	if len(kept) != 1 {
		t.Fatalf("kept files = %v, want one", kept)
	}
	if info, err := os.Stat(kept[0]); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the kept script = %v, %v, want 0600", info.Mode(), err)
	}
}

func TestAJournalThatCannotBeWrittenCatchesUp(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Options{Dir: dir})
	must(t, l.file.Close()) // every write fails from here
	if err := l.Record("r", pathset.Of(pathset.Path{Rel: "a"}), errDown); err == nil {
		t.Error("Record on a broken journal = nil, want the error")
	}
	must(t, l.Record("r", pathset.Of(pathset.Path{Rel: "b"}), errDown))
	if got := rels(open(t, Options{Dir: dir}).Left("r")); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("after healing the journal has %q, want a and b", got)
	}
}

func TestForgetDropsATarget(t *testing.T) {
	l := open(t, Options{})
	must(t, l.Record("r", pathset.Of(pathset.Path{Rel: "a"}), errDown))
	must(t, l.Forget("r"))
	if l.Len() != 0 {
		t.Errorf("Len = %d, want 0", l.Len())
	}
}

func FuzzDecode(f *testing.F) {
	line, err := encode(record{Target: "r", Paths: []path{{Rel: []byte("a"), Flags: flagTree}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(line)
	f.Add([]byte("00000000 {}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		records, _ := decode(data)
		l := &Log{targets: map[string]*target{}}
		for _, r := range records {
			l.apply(r)
		}
	})
}
