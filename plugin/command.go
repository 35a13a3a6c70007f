package plugin

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/mattn/go-shellwords"
)

// Command runs `prefix PATH suffix` for an event.
type Command struct {
	Prefix, Suffix string
	IgnoreError    bool // what the command exits with does not matter
	Filter         bool // only paths that one of Include matches
	Include        []func(path string) bool
	Timeout        time.Duration // 0 = 1 min
}

// Name implements sersync's -m names.
func (c *Command) Name() string { return "command" }

// Handle runs the command for e.
func (c *Command) Handle(ctx context.Context, e Event) error {
	if c.Filter && !c.included(e.Path()) {
		return nil
	}
	argv, err := c.argv(e.Path())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, limit(c.Timeout))
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err == nil || c.IgnoreError && ctx.Err() == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("not done after %v", limit(c.Timeout))
	}
	return fmt.Errorf("run %s: %w: %s", argv[0], err, tail(out))
}

func (c *Command) included(path string) bool {
	for _, match := range c.Include {
		if match(path) {
			return true
		}
	}
	return false
}

// meta are the characters for which sersync's users need a shell.
const meta = "|&;<>()$`*?[]{}~\n"

// argv is the command with the path as one argument. Where prefix or suffix
// want a shell they get one, and the path is its $1: no shell reads it.
func (c *Command) argv(path string) ([]string, error) {
	if strings.ContainsAny(c.Prefix+c.Suffix, meta) {
		return []string{"/bin/sh", "-c", c.Prefix + ` "$1" ` + c.Suffix, "gosersync", path}, nil
	}
	before, err := shellwords.Parse(c.Prefix)
	if err != nil {
		return nil, fmt.Errorf("read prefix %q: %w", c.Prefix, err)
	}
	after, err := shellwords.Parse(c.Suffix)
	if err != nil {
		return nil, fmt.Errorf("read suffix %q: %w", c.Suffix, err)
	}
	if len(before) == 0 {
		return nil, fmt.Errorf("prefix %q names no command", c.Prefix)
	}
	return append(append(before, path), after...), nil
}

// tail is the end of what a command printed.
func tail(out []byte) string {
	const most = 1024
	return strings.TrimSpace(string(out[max(0, len(out)-most):]))
}
