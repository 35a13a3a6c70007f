// Package rsynctest gives a test a real rsync daemon and compares trees.
package rsynctest

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Options are what a daemon serves.
type Options struct {
	Modules []string // each gets a directory of its own; nil = "m"
	Lines   []string // more lines for every module, such as "read only = yes"
	Global  []string // more lines for the daemon
}

// Daemon is a rsync daemon on loopback.
type Daemon struct {
	Port int
	Dir  string // holds a directory for each module
	conf string
	cmd  *exec.Cmd
	t    testing.TB
}

// Start starts a daemon that ends with the test.
func Start(t testing.TB, o Options) *Daemon {
	t.Helper()
	d := &Daemon{Dir: t.TempDir(), t: t, Port: FreePort(t)}
	if o.Modules == nil {
		o.Modules = []string{"m"}
	}
	var c strings.Builder
	c.WriteString("use chroot = no\nmunge symlinks = no\nread only = no\n")
	if os.Getuid() == 0 {
		c.WriteString("uid = 0\ngid = 0\n")
	}
	for _, l := range o.Global {
		fmt.Fprintln(&c, l)
	}
	for _, m := range o.Modules {
		if err := os.Mkdir(d.Path(m), 0o755); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&c, "[%s]\npath = %s\n%s\n", m, d.Path(m), strings.Join(o.Lines, "\n"))
	}
	d.conf = filepath.Join(t.TempDir(), "rsyncd.conf")
	if err := os.WriteFile(d.conf, []byte(c.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	d.Restart()
	t.Cleanup(d.Stop)
	return d
}

// Path is the directory of a module.
func (d *Daemon) Path(module string) string { return filepath.Join(d.Dir, module) }

// Target is the module as rsync and gosersync name it, without the port.
func (d *Daemon) Target(module string) string { return "127.0.0.1::" + module }

// Restart starts the daemon, on the same port, and waits for its greeting.
func (d *Daemon) Restart() {
	d.t.Helper()
	d.cmd = exec.Command("rsync", "--daemon", "--no-detach", "--address=127.0.0.1",
		"--port="+strconv.Itoa(d.Port), "--config="+d.conf, "--log-file="+d.conf+".log")
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	Within(d.t, 10*time.Second, func() error { return greet(d.Port) })
}

func greet(port int) error {
	c, err := net.DialTimeout("tcp", "127.0.0.1:"+strconv.Itoa(port), time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	line, err := bufio.NewReader(c).ReadString('\n')
	if err == nil && !strings.HasPrefix(line, "@RSYNCD:") {
		err = fmt.Errorf("greeting %q", line)
	}
	return err
}

// Stop kills the daemon.
func (d *Daemon) Stop() {
	if d.cmd != nil {
		_ = d.cmd.Process.Kill()
		_ = d.cmd.Wait()
		d.cmd = nil
	}
}

// Silent is a port that accepts connections and never answers.
func Silent(t testing.TB) (port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().(*net.TCPAddr).Port
}

// FreePort is a port that nobody listens on now.
func FreePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// Diff is what rsync says differs between two trees: content, time, mode,
// owner, names. "" = they are equal.
func Diff(src, dst string) (string, error) {
	out, err := exec.Command("rsync", "-rlptgoD", "-c", "-n", "-i", "--delete", src+"/", dst+"/").CombinedOutput()
	return string(out), err
}

// Equal fails the test if the trees differ.
func Equal(t testing.TB, src, dst string) {
	t.Helper()
	diff, err := Diff(src, dst)
	if err != nil || diff != "" {
		t.Errorf("%s and %s differ: %v\n%s", src, dst, err, diff)
	}
}

// Within tries until it goes well; after limit it fails the test.
func Within(t testing.TB, limit time.Duration, try func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %v", limit, err)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// EqualWithin waits until the trees are equal.
func EqualWithin(t testing.TB, limit time.Duration, src, dst string) {
	t.Helper()
	Within(t, limit, func() error {
		diff, err := Diff(src, dst)
		if err == nil && diff != "" {
			err = fmt.Errorf("%s and %s differ:\n%.2000s", src, dst, diff)
		}
		return err
	})
}
