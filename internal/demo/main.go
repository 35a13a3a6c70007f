// Command demo runs gosersync on real trees against real rsync daemons on
// loopback, makes changes, shows them arriving, and ends by comparing the trees.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// trees are the localpaths, each a module of both servers.
var trees = []string{"www", "bbs"}

const servers = 2

// stage is the demo's world: sources, servers and the daemon, below one folder.
type stage struct {
	dir     string
	out     io.Writer
	ports   []int
	daemons []*exec.Cmd
	pid     int
}

func run(args []string, out io.Writer) (err error) {
	if len(args) != 1 {
		return errors.New("usage: demo GOSERSYNC")
	}
	program, err := filepath.Abs(args[0])
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "gosersync-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s := &stage{dir: dir, out: out}
	defer s.strike()
	if err := s.build(); err != nil {
		return err
	}
	if err := s.start(program); err != nil {
		return err
	}
	if err := s.play(); err != nil {
		return fmt.Errorf("%w\n%s", err, s.log())
	}
	return s.compare()
}

// build makes the sources and starts a rsync daemon for each server.
func (s *stage) build() error {
	for _, t := range trees {
		if err := s.write(t, "index.html", "hello from "+t); err != nil {
			return err
		}
		for i := range 200 {
			if err := s.write(t, fmt.Sprintf("avatars/%02d/%03d.png", i%10, i), strings.Repeat("x", 5000)); err != nil {
				return err
			}
		}
	}
	for i := range servers {
		if err := s.serve(i); err != nil {
			return err
		}
	}
	return s.configure()
}

func (s *stage) source(tree string) string { return filepath.Join(s.dir, "source", tree) }

func (s *stage) remote(server int, tree string) string {
	return filepath.Join(s.dir, "server"+strconv.Itoa(server+1), tree)
}

func (s *stage) write(tree, rel, text string) error {
	full := filepath.Join(s.source(tree), rel)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		return err
	}
	return os.WriteFile(full, []byte(text), 0o644)
}

func (s *stage) serve(i int) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	var c strings.Builder
	fmt.Fprintf(&c, "use chroot = no\nmunge symlinks = no\nlog file = %s/server%d.log\n", s.dir, i+1)
	if os.Getuid() == 0 {
		c.WriteString("uid = 0\ngid = 0\n")
	}
	for _, t := range trees {
		if err := os.MkdirAll(s.remote(i, t), 0o755); err != nil {
			return err
		}
		fmt.Fprintf(&c, "[%s]\npath = %s\nread only = no\n", t, s.remote(i, t))
	}
	conf := filepath.Join(s.dir, fmt.Sprintf("server%d.conf", i+1))
	if err := os.WriteFile(conf, []byte(c.String()), 0o644); err != nil {
		return err
	}
	cmd := exec.Command("rsync", "--daemon", "--no-detach", "--address=127.0.0.1", "--port="+strconv.Itoa(port), "--config="+conf)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start rsync daemon: %w", err)
	}
	s.ports, s.daemons = append(s.ports, port), append(s.daemons, cmd)
	return within(5*time.Second, func() error { return dial(port) })
}

func dial(port int) error {
	c, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(port))
	if err == nil {
		c.Close()
	}
	return err
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func (s *stage) config() string { return filepath.Join(s.dir, "conf", "demo_confxml.xml") }

// configure writes a confxml.xml in sersync's layout.
func (s *stage) configure() error {
	var x strings.Builder
	x.WriteString(`<?xml version="1.0" encoding="ISO-8859-1"?>
<head version="2.5">
  <inotify>
    <delete start="true"/> <createFolder start="true"/> <createFile start="false"/>
    <closeWrite start="true"/> <moveFrom start="true"/> <moveTo start="true"/>
    <attrib start="true"/> <modify start="false"/>
  </inotify>
  <sersync>
`)
	for _, t := range trees {
		fmt.Fprintf(&x, "    <localpath watch=%q>\n", s.source(t))
		for _, port := range s.ports {
			fmt.Fprintf(&x, "      <remote ip=\"127.0.0.1\" name=%q port=\"%d\"/>\n", t, port)
		}
		x.WriteString("    </localpath>\n")
	}
	fmt.Fprintf(&x, "    <rsync><commonParams params=\"-artz\"/></rsync>\n    <failLog path=%q timeToExecute=\"60\"/>\n  </sersync>\n</head>\n", filepath.Join(s.dir, "logs", "rsync_fail_log.sh"))
	for _, d := range []string{"conf", "logs"} {
		if err := os.MkdirAll(filepath.Join(s.dir, d), 0o755); err != nil {
			return err
		}
	}
	return os.WriteFile(s.config(), []byte(x.String()), 0o644)
}

// start runs the daemon as an operator does.
func (s *stage) start(program string) error {
	fmt.Fprintf(s.out, "$ gosersync -r -d -o %s\n", s.config())
	cmd := exec.Command(program, "-r", "-d", "-o", s.config())
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	err := cmd.Run()
	fmt.Fprint(s.out, text.String())
	if err != nil {
		return fmt.Errorf("start gosersync: %w", err)
	}
	pid, err := os.ReadFile(filepath.Join(s.dir, "logs", "demo_confxml.state", "pid"))
	if err != nil {
		return err
	}
	s.pid, err = strconv.Atoi(strings.TrimSpace(string(pid)))
	return err
}

// play makes changes and waits for each on every server.
func (s *stage) play() error {
	begin := time.Now()
	if err := s.arrive(func(root string) error { return exists(root, "avatars/09/199.png") }); err != nil {
		return fmt.Errorf("first push: %w", err)
	}
	fmt.Fprintf(s.out, "first push: 2 trees of 201 files on both servers after %v\n\n", time.Since(begin).Round(time.Millisecond))
	hostile := "it's a \"`touch pwned`\" $(touch pwned) #;\n-x"
	for _, act := range []struct {
		what string
		do   func(root string) error
		seen func(root string) error
	}{
		{"a new file", put("news.html", "new"), has("news.html", "new")},
		{"the same file, rewritten with the same size", put("news.html", "NEW"), has("news.html", "NEW")},
		{"a directory of 300 files", putMany("gallery/2026", 300), has("gallery/2026/299", "picture 299")},
		{"a directory renamed", rename("gallery", "pictures"), moved("gallery", "pictures/2026/299")},
		{"a hidden file, .htaccess", put(".htaccess", "deny"), has(".htaccess", "deny")},
		{"a name that sersync would run as a command", put(hostile, "harmless"), has(hostile, "harmless")},
		{"a file removed", remove("news.html"), gone("news.html")},
		{"a directory of 300 files removed", remove("pictures"), gone("pictures")},
	} {
		if err := s.act(act.what, act.do, act.seen); err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) act(what string, do, seen func(root string) error) error {
	for _, t := range trees {
		if err := do(s.source(t)); err != nil {
			return err
		}
	}
	begin := time.Now()
	if err := s.arrive(seen); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	fmt.Fprintf(s.out, "%7.1f ms  %s\n", float64(time.Since(begin).Microseconds())/1000, what)
	return nil
}

// arrive waits until every server's copy of every tree passes seen.
func (s *stage) arrive(seen func(root string) error) error {
	return within(20*time.Second, func() error {
		for i := range servers {
			for _, t := range trees {
				if err := seen(s.remote(i, t)); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func put(rel, text string) func(string) error {
	return func(root string) error { return os.WriteFile(filepath.Join(root, rel), []byte(text), 0o644) }
}

func putMany(dir string, n int) func(string) error {
	return func(root string) error {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
		for i := range n {
			if err := put(fmt.Sprintf("%s/%d", dir, i), fmt.Sprintf("picture %d", i))(root); err != nil {
				return err
			}
		}
		return nil
	}
}

func rename(from, to string) func(string) error {
	return func(root string) error { return os.Rename(filepath.Join(root, from), filepath.Join(root, to)) }
}

func remove(rel string) func(string) error {
	return func(root string) error { return os.RemoveAll(filepath.Join(root, rel)) }
}

func has(rel, text string) func(string) error {
	return func(root string) error {
		got, err := os.ReadFile(filepath.Join(root, rel))
		if err == nil && string(got) != text {
			err = fmt.Errorf("%s has other content", rel)
		}
		return err
	}
}

func gone(rel string) func(string) error {
	return func(root string) error {
		if _, err := os.Lstat(filepath.Join(root, rel)); err == nil {
			return fmt.Errorf("%s is still there", rel)
		}
		return nil
	}
}

func moved(from, to string) func(string) error {
	return func(root string) error { return errors.Join(gone(from)(root), exists(root, to)) }
}

func exists(root, rel string) error {
	_, err := os.Lstat(filepath.Join(root, rel))
	return err
}

// within tries until it goes well or the time is over.
func within(limit time.Duration, try func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := try()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %v: %w", limit, err)
		}
		time.Sleep(time.Millisecond)
	}
}

// compare asks rsync for any difference in content, time, mode or owner.
func (s *stage) compare() error {
	fmt.Fprintln(s.out)
	for _, t := range trees {
		for i := range servers {
			var diff []byte
			err := within(10*time.Second, func() error {
				var err error
				diff, err = exec.Command("rsync", "-rlptgoD", "-c", "-n", "-i", "--delete", s.source(t)+"/", s.remote(i, t)+"/").CombinedOutput()
				if err == nil && len(diff) > 0 {
					err = errors.New("the trees differ")
				}
				return err
			})
			if err != nil {
				return fmt.Errorf("compare %s with server %d: %w\n%s", t, i+1, err, diff)
			}
			fmt.Fprintf(s.out, "equal: %s and server %d (checksums, times, modes, owners)\n", t, i+1)
		}
	}
	return nil
}

func (s *stage) log() string {
	text, _ := os.ReadFile(filepath.Join(s.dir, "logs", "demo_confxml.log"))
	return string(text)
}

// strike ends what the demo started.
func (s *stage) strike() {
	if s.pid > 0 {
		_ = syscall.Kill(s.pid, syscall.SIGTERM)
		_ = within(10*time.Second, func() error {
			if syscall.Kill(s.pid, 0) == nil {
				return errors.New("gosersync still runs")
			}
			return nil
		})
	}
	for _, d := range s.daemons {
		_ = d.Process.Kill()
		_ = d.Wait()
	}
}
