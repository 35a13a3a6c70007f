package rsync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

const (
	// stderrLimit is how much of what rsync complains of is read for names.
	stderrLimit = 1 << 20
	// tailLimit is how much of it goes into an error.
	tailLimit = 4 << 10
	// stopDelay is how long a child may take to end after TERM.
	stopDelay = 5 * time.Second
	// silence is how long a run without --timeout may move no byte.
	silence = 5 * time.Minute
)

// errSilent ends a run that moves no byte.
var errSilent = errors.New("the remote is silent")

// job is one run of rsync.
type job struct {
	kind  kind
	stdin []byte
	extra []string
	line  func(line string) // hears of each line rsync prints; nil = nobody
	alive func()            // called with the first byte rsync prints
}

// run makes one run of rsync. What does not end with 0 is an *ExitError.
func (c *Client) run(ctx context.Context, j job) error {
	c.runs.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	cmd := exec.CommandContext(ctx, c.o.Binary, c.args(j.kind, j.extra...)...)
	cmd.Dir = c.o.Root
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Stdin = bytes.NewReader(j.stdin)
	cmd.Stdout = &lineWriter{alive: j.alive, line: func(l string) { c.hear(l, j.line) }}
	stderr := &limited{limit: stderrLimit}
	cmd.Stderr = stderr
	group(cmd)
	err := cmd.Start()
	if err == nil {
		stop := c.watchSilence(cmd.Process.Pid, cancel)
		err = cmd.Wait()
		stop()
		sweep(cmd)
	}
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); errors.Is(cause, errSilent) {
		err = cause
	}
	return c.exitError(err, stderr)
}

// watchSilence ends a run by cancel when the child has neither read nor written
// for long: its counters in /proc stand still. stop ends the watching.
func (c *Client) watchSilence(pid int, cancel context.CancelCauseFunc) (stop func()) {
	over, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		t := time.NewTicker(c.silence)
		defer t.Stop()
		for last := ""; ; {
			select {
			case <-over:
				return
			case <-t.C:
			}
			counters, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
			if err == nil && string(counters) == last {
				cancel(errSilent)
				return
			}
			last = string(counters)
		}
	}()
	return func() { close(over); <-done }
}

// group puts the child, and the ssh it starts, into a process group of its own
// that ends with us and with the context.
func group(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = stopDelay
}

// sweep ends what is left of the group: WaitDelay kills only the child itself.
func sweep(cmd *exec.Cmd) {
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
}

func (c *Client) exitError(err error, stderr *limited) error {
	e := &ExitError{Code: -1, Target: c.o.Target, Stderr: stderr.String(), Err: err}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		e.Code = exit.ExitCode()
	}
	e.Kind = kindOf(e.Code, e.Stderr)
	if stderr.cut {
		e.Stderr = e.Stderr[max(0, len(e.Stderr)-tailLimit):]
	}
	return e
}

// limited keeps the first bytes written to it.
type limited struct {
	bytes.Buffer
	limit int
	cut   bool
}

func (l *limited) Write(p []byte) (int, error) {
	if room := l.limit - l.Len(); len(p) > room {
		l.cut = true
		l.Buffer.Write(p[:max(0, room)])
		return len(p), nil
	}
	return l.Buffer.Write(p)
}

// lineWriter cuts what rsync prints into lines; progress ends in \r.
type lineWriter struct {
	alive func()
	line  func(string)
	rest  []byte
}

func (w *lineWriter) Write(p []byte) (int, error) {
	if w.alive != nil {
		w.alive()
	}
	w.rest = append(w.rest, p...)
	for {
		i := bytes.IndexAny(w.rest, "\n\r")
		if i < 0 {
			break
		}
		w.line(string(w.rest[:i]))
		w.rest = w.rest[i+1:]
	}
	if len(w.rest) > stderrLimit {
		w.rest = nil // no line of rsync's is that long
	}
	return len(p), nil
}
