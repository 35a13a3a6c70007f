package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"gosersync/conf"
	"gosersync/internal/daemon"
)

// detachedEnv marks the process that -d starts; file descriptor 3 leads to the
// one that waits for it.
const detachedEnv = "GOSERSYNC_DETACHED"

const startFD = 3

func detached() bool { return os.Getenv(detachedEnv) != "" }

// detach starts this program again in a session of its own and returns when it
// says that the trees are watched, or why they are not.
func detach(args []string, stdout, stderr io.Writer) int {
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintf(stderr, "gosersync: find own program: %v\n", err)
		return exitRuntime
	}
	r, w, err := os.Pipe()
	if err != nil {
		fmt.Fprintf(stderr, "gosersync: %v\n", err)
		return exitRuntime
	}
	defer r.Close()
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), detachedEnv+"=1")
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		fmt.Fprintf(stderr, "gosersync: start daemon: %v\n", err)
		return exitRuntime
	}
	return relay(r, stdout, stderr)
}

// relay prints what the starting daemon says. Its last line is a code.
func relay(r io.Reader, stdout, stderr io.Writer) int {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		kind, text, _ := strings.Cut(lines.Text(), " ")
		switch kind {
		case "ready":
			fmt.Fprintln(stdout, text)
			return exitOK
		case "exit":
			if code, err := strconv.Atoi(text); err == nil {
				return code
			}
		default:
			fmt.Fprintln(stderr, text)
		}
	}
	fmt.Fprintf(stderr, "gosersync: %v\n", errNotReady)
	return exitRuntime
}

// starter tells the operator how the start goes: on the terminal, or, for a
// detached daemon, through the process that waits for it.
type starter struct {
	out, errors io.Writer
	pipe        *os.File // nil in the foreground
}

func newStarter(stdout, stderr io.Writer) *starter {
	s := &starter{out: stdout, errors: stderr}
	if detached() {
		s.pipe = os.NewFile(startFD, "start")
		syscall.CloseOnExec(startFD)
	}
	return s
}

// say prints text, which may have several lines.
func (s *starter) say(text string) {
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if s.pipe != nil {
			fmt.Fprintf(s.pipe, "say %s\n", line)
		} else {
			fmt.Fprintln(s.errors, line)
		}
	}
}

// ready says that the trees are watched.
func (s *starter) ready(cfg *conf.Config, place daemon.Place) {
	remotes := 0
	for _, t := range cfg.Trees {
		remotes += len(t.Remotes)
	}
	text := fmt.Sprintf("gosersync: watching %d trees for %d remotes, pid %d, log %s", len(cfg.Trees), remotes, os.Getpid(), place.Log)
	if s.pipe == nil {
		fmt.Fprintln(s.out, text)
		return
	}
	fmt.Fprintf(s.pipe, "ready %s\n", text)
	s.pipe.Close()
}

// fail says why there is no start, or why the daemon ended.
func (s *starter) fail(err error) {
	s.say("gosersync: " + err.Error())
	if s.pipe != nil {
		fmt.Fprintf(s.pipe, "exit %d\n", exitCode(err))
		s.pipe.Close()
	}
}
