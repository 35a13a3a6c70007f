package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"gosersync/internal/rsynctest"
)

// TestMain lets the test binary be gosersync itself, as -d starts it again.
func TestMain(m *testing.M) {
	if os.Getenv("GOSERSYNC_TEST_MAIN") == "1" {
		main()
	}
	os.Exit(m.Run())
}

// gosersync runs the program and returns what it printed and its exit code.
func gosersync(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "GOSERSYNC_TEST_MAIN=1", "LANG=C", "LC_ALL=C")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run()
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func TestFlagsAreSersyncs(t *testing.T) {
	for _, c := range []struct {
		args string
		want flags
	}{
		{"", flags{config: "confxml.xml"}},
		{"-r -d -o conf/www.xml", flags{firstPush: true, daemon: true, config: "conf/www.xml"}},
		{"-dro conf/www.xml", flags{firstPush: true, daemon: true, config: "conf/www.xml"}},
		{"-n20", flags{config: "confxml.xml", workers: 20}},
		{"-n 20 -m socket", flags{config: "confxml.xml", workers: 20, module: "socket"}},
		{"--first-push --daemon --config=x --workers=3", flags{firstPush: true, daemon: true, config: "x", workers: 3}},
	} {
		got, err := parseFlags(strings.Fields(c.args))
		if err != nil || got != c.want {
			t.Errorf("parseFlags(%q) = %+v, %v, want %+v", c.args, got, err, c.want)
		}
	}
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"-h", 0, "usage: gosersync"},
		{"--help", 0, "usage: gosersync"},
		{"--version", 0, "gosersync"},
		{"-x", 2, "unknown shorthand flag"},
		{"-n 0", 2, "1 or more"},
		{"-m mail", 2, "refreshCDN, socket, http, command"},
		{"start", 2, "unknown argument"},
		{"-o /no/such.xml", 78, "name the configuration with -o FILE"},
		{"-d -o /no/such.xml", 78, "name the configuration with -o FILE"},
		{"check", 2, "--offline"},
		{"resync -o /no/such.xml", 1, "no daemon runs"},
	} {
		out, errs, code := gosersync(t, strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(out+errs, c.want) {
			t.Errorf("gosersync %s = %d with\n%s%swant %d and a text with %q", c.args, code, out, errs, c.code, c.want)
		}
	}
	t.Setenv("LC_ALL", "zh_CN.UTF-8")
	if !strings.Contains(help(), "用法") {
		t.Error("the help is not Chinese in a Chinese locale")
	}
}

// install lays out conf/ and logs/ as sersync's installation does.
func install(t *testing.T, text string) (file, logs string) {
	t.Helper()
	dir := t.TempDir()
	file, logs = filepath.Join(dir, "conf", "www_confxml.xml"), filepath.Join(dir, "logs")
	for _, d := range []string{filepath.Dir(file), logs} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, logs
}

func config(src string, d *rsynctest.Daemon, failLog string) string {
	return fmt.Sprintf(`<head version="2.5"><sersync><localpath watch=%q><remote ip="127.0.0.1" name="m" port="%d"/></localpath>
<rsync><commonParams params="-artz"/></rsync><failLog path=%q timeToExecute="60"/></sersync></head>`, src, d.Port, failLog)
}

func TestTheDaemonFromStartToEnd(t *testing.T) {
	d := rsynctest.Start(t, rsynctest.Options{})
	src := t.TempDir()
	must(t, os.WriteFile(filepath.Join(src, "before"), []byte("x"), 0o644))
	file, logs := install(t, config(src, d, filepath.Join(t.TempDir(), "fail.sh")))
	out, errs, code := gosersync(t, "-r", "-d", "-o", file)
	if code != 0 || !strings.Contains(out, "watching 1 trees for 1 remotes") {
		t.Fatalf("start = %d\n%s%s", code, out, errs)
	}
	text, err := os.ReadFile(filepath.Join(logs, "www_confxml.state", "pid"))
	must(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	must(t, err)
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })

	must(t, os.WriteFile(filepath.Join(src, "after"), []byte("y"), 0o644))
	rsynctest.EqualWithin(t, 20*time.Second, src, d.Path("m"))

	if _, errs, code := gosersync(t, "-d", "-o", file); code != 1 || !strings.Contains(errs, fmt.Sprintf("already running with this config as pid %d", pid)) {
		t.Errorf("a second start = %d\n%s", code, errs)
	}
	if info, err := os.Stat(filepath.Join(logs, "www_confxml.state")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the state directory is %v, %v, want mode 0700", info.Mode(), err)
	}
	must(t, os.WriteFile(filepath.Join(d.Path("m"), "stranger"), nil, 0o644))
	if out, errs, code := gosersync(t, "resync", "-o", file); code != 0 {
		t.Errorf("resync = %d\n%s%s", code, out, errs)
	}
	rsynctest.EqualWithin(t, 20*time.Second, src, d.Path("m"))

	must(t, syscall.Kill(pid, syscall.SIGTERM))
	rsynctest.Within(t, 20*time.Second, func() error {
		log, err := os.ReadFile(filepath.Join(logs, "www_confxml.log"))
		if err == nil && !strings.Contains(string(log), "msg=ended") {
			err = fmt.Errorf("no end in the log:\n%s", log)
		}
		return err
	})
}

// launch starts the daemon and returns its pid.
func launch(t *testing.T, file, logs string, args ...string) (pid int) {
	t.Helper()
	out, errs, code := gosersync(t, append(args, "-d", "-o", file)...)
	if code != 0 {
		t.Fatalf("start = %d\n%s%s", code, out, errs)
	}
	text, err := os.ReadFile(filepath.Join(logs, "www_confxml.state", "pid"))
	must(t, err)
	pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
	must(t, err)
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
	return pid
}

// The daemon is held while more happens than the kernel queues (16384 events),
// so that what comes last, a removal among it, is dropped.
func TestAFullEventQueueLosesNothing(t *testing.T) {
	d := rsynctest.Start(t, rsynctest.Options{})
	src := t.TempDir()
	for _, dir := range []string{"d", "old/sub"} {
		must(t, os.MkdirAll(filepath.Join(src, dir), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(src, "old/sub/f"), nil, 0o644))
	file, logs := install(t, config(src, d, filepath.Join(t.TempDir(), "fail.sh")))
	pid := launch(t, file, logs, "-r")
	must(t, os.WriteFile(filepath.Join(src, "d/sent"), nil, 0o644))
	rsynctest.EqualWithin(t, 20*time.Second, src, d.Path("m"))
	stranger := filepath.Join(d.Path("m"), "stranger")
	must(t, os.WriteFile(stranger, nil, 0o644))
	rsynctest.Within(t, 30*time.Second, func() error {
		log, err := os.ReadFile(filepath.Join(logs, "www_confxml.log"))
		if err == nil && !strings.Contains(string(log), "names indexed") {
			err = fmt.Errorf("the index is not made yet")
		}
		return err
	})

	must(t, syscall.Kill(pid, syscall.SIGSTOP))
	for i := range 9000 {
		must(t, os.WriteFile(filepath.Join(src, "d", strconv.Itoa(i)), nil, 0o644))
	}
	must(t, os.RemoveAll(filepath.Join(src, "old/sub")))
	must(t, os.Remove(filepath.Join(src, "d/sent")))
	must(t, os.MkdirAll(filepath.Join(src, "new/deep"), 0o755))
	must(t, syscall.Kill(pid, syscall.SIGCONT))
	rsynctest.Within(t, 60*time.Second, func() error {
		diff, err := rsynctest.Diff(src, d.Path("m"))
		if diff = strings.ReplaceAll(diff, "*deleting   stranger\n", ""); err == nil && strings.Count(diff, "\n") > 0 && !onlyTimes(diff) {
			err = fmt.Errorf("the trees differ:\n%.1000s", diff)
		}
		return err
	})
	if _, err := os.Stat(stranger); err != nil {
		t.Errorf("another source's file is gone: %v", err)
	}
	if log, _ := os.ReadFile(filepath.Join(logs, "www_confxml.log")); !strings.Contains(string(log), "overflowed") {
		t.Error("the queue did not overflow, so nothing was tested")
	}
	must(t, os.WriteFile(filepath.Join(src, "new/deep/f"), nil, 0o644)) // it is watched
	rsynctest.Within(t, 20*time.Second, func() error {
		_, err := os.Stat(filepath.Join(d.Path("m"), "new/deep/f"))
		return err
	})
}

// onlyTimes tells whether nothing but the root's time differs, which the
// stranger's file has changed at the remote.
func onlyTimes(diff string) bool { return strings.TrimSpace(diff) == ".d..t...... ./" }

func TestWhatIsRemovedWhileTheDaemonIsDownIsRemovedAtTheNextStart(t *testing.T) {
	d := rsynctest.Start(t, rsynctest.Options{})
	src := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(src, "old/sub"), 0o755))
	must(t, os.WriteFile(filepath.Join(src, "f"), nil, 0o644))
	file, logs := install(t, config(src, d, filepath.Join(t.TempDir(), "fail.sh")))
	pid := launch(t, file, logs, "-r")
	must(t, os.WriteFile(filepath.Join(src, "old/late"), nil, 0o644))
	rsynctest.EqualWithin(t, 20*time.Second, src, d.Path("m"))
	must(t, syscall.Kill(pid, syscall.SIGTERM))
	rsynctest.Within(t, 20*time.Second, func() error {
		if _, _, code := gosersync(t, "resync", "-o", file); code == 0 {
			return fmt.Errorf("the daemon still runs")
		}
		return nil
	})
	must(t, os.RemoveAll(filepath.Join(src, "old")))
	must(t, os.WriteFile(filepath.Join(src, "new"), nil, 0o644))
	launch(t, file, logs)
	rsynctest.EqualWithin(t, 20*time.Second, src, d.Path("m"))
}

func TestAStartThatFailsSaysWhy(t *testing.T) {
	d := rsynctest.Start(t, rsynctest.Options{})
	link := filepath.Join(t.TempDir(), "fail.sh")
	must(t, os.Symlink("/etc/passwd", link))
	for _, c := range []struct {
		name, text, want string
		code             int
	}{
		{"a bad file", `<head><sersync><localpath watch="x"/></sersync></head>`, "is not absolute", 78},
		{"no such directory", config("/no/such/dir", d, filepath.Join(t.TempDir(), "f.sh")), "make the directory", 1},
		{"a fail log that is a symlink", config(t.TempDir(), d, link), "is a symlink", 1},
	} {
		file, _ := install(t, c.text)
		for _, args := range [][]string{{"-o", file}, {"-d", "-o", file}} {
			if _, errs, code := gosersync(t, args...); code != c.code || !strings.Contains(errs, c.want) {
				t.Errorf("%s: gosersync %v = %d\n%swant %d and a text with %q", c.name, args, code, errs, c.code, c.want)
			}
		}
	}
	t.Run("without rsync", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		file, _ := install(t, config(t.TempDir(), d, filepath.Join(t.TempDir(), "f.sh")))
		if _, errs, code := gosersync(t, "-o", file); code != 1 || !strings.Contains(errs, "apt-get install rsync") {
			t.Errorf("without rsync = %d\n%s", code, errs)
		}
	})
}

func TestCheckSaysWhatAFileMeans(t *testing.T) {
	d := rsynctest.Start(t, rsynctest.Options{})
	file, _ := install(t, config("/no/such/dir", d, "/tmp/f.sh"))
	out, _, code := gosersync(t, "check", "--offline", "-o", file)
	for _, want := range []string{"tree /no/such/dir (inotify)", "remote 127.0.0.1::m", "--files-from=-", "warning: " + file, "1 trees, 1 warnings, 0 errors"} {
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("check = %d\n%swant 0 and %q", code, out, want)
		}
	}
	out, _, code = gosersync(t, "check", "--offline", "--json", "-o", file)
	var f finding
	if err := json.Unmarshal([]byte(out), &f); err != nil || code != 0 || f.Trees[0].Remotes[0].Target != "127.0.0.1::m" {
		t.Errorf("check --json = %d, %v\n%s", code, err, out)
	}
	must(t, os.WriteFile(file, []byte("<head>"), 0o600))
	if out, _, code := gosersync(t, "check", "--offline", "-o", file); code != 78 || !strings.Contains(out, "error: ") {
		t.Errorf("check of a bad file = %d\n%s", code, out)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
