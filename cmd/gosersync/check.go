package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"gosersync/conf"
	"gosersync/internal/daemon"
	"gosersync/rsync"
)

// finding is what `check` prints of a file.
type finding struct {
	File     string        `json:"file"`
	Trees    []treeFinding `json:"trees"`
	Warnings []string      `json:"warnings"`
	Errors   []string      `json:"errors"`
}

type treeFinding struct {
	Watch   string          `json:"watch"`
	Backend string          `json:"backend"`
	Remotes []remoteFinding `json:"remotes"`
}

type remoteFinding struct {
	Target       string   `json:"target"`
	Port         int      `json:"port,omitempty"`
	PasswordFile string   `json:"passwordFile,omitempty"`
	Timeout      string   `json:"timeout,omitempty"`
	SSH          bool     `json:"ssh"`
	Options      []string `json:"options"`
}

// check says what a config means without touching anything.
func check(args []string, stdout, stderr io.Writer) int {
	set := newFlagSet()
	config := set.StringP("config", "o", "confxml.xml", "")
	offline := set.Bool("offline", false, "")
	asJSON := set.Bool("json", false, "")
	err := set.Parse(args)
	if err == nil && !*offline {
		err = errors.New("only the check without the remotes exists: add --offline")
	}
	if err != nil || set.NArg() > 0 {
		fmt.Fprintf(stderr, "gosersync: check: %v\nusage: gosersync check --offline [--json] [-o FILE]\n", err)
		return exitUsage
	}
	f, code := examine(*config)
	if *asJSON {
		out := json.NewEncoder(stdout)
		out.SetIndent("", "  ")
		out.SetEscapeHTML(false)
		if err := out.Encode(f); err != nil {
			return exitRuntime
		}
		return code
	}
	f.print(stdout)
	return code
}

func examine(file string) (finding, int) {
	f := finding{File: file, Trees: []treeFinding{}, Warnings: []string{}, Errors: []string{}}
	cfg, err := conf.Load(file)
	if err != nil {
		for line := range strings.Lines(err.Error()) {
			f.Errors = append(f.Errors, strings.TrimSpace(line))
		}
		return f, exitConfig
	}
	for _, w := range cfg.Warnings {
		f.Warnings = append(f.Warnings, w.String())
	}
	for _, t := range cfg.Trees {
		if info, err := os.Stat(t.Watch); err != nil || !info.IsDir() {
			f.Warnings = append(f.Warnings, fmt.Sprintf("%s:%d: localpath@watch: %s is not a directory here; gosersync will not start until it is", file, t.Line, t.Watch))
		}
		f.Trees = append(f.Trees, examineTree(cfg, t))
	}
	return f, exitOK
}

func examineTree(cfg *conf.Config, t conf.Tree) treeFinding {
	tree := treeFinding{Watch: t.Watch, Backend: t.Backend, Remotes: []remoteFinding{}}
	if tree.Backend == "" {
		tree.Backend = "inotify"
	}
	for _, r := range t.Remotes {
		found := remoteFinding{
			Target: r.Target(), Port: r.Port, PasswordFile: r.PasswordFile, SSH: r.SSH,
			Options: rsync.New(daemon.ClientOptions(cfg, t.Watch, r)).Describe(),
		}
		if r.Timeout > 0 {
			found.Timeout = r.Timeout.String()
		}
		tree.Remotes = append(tree.Remotes, found)
	}
	return tree
}

func (f finding) print(w io.Writer) {
	for _, t := range f.Trees {
		fmt.Fprintf(w, "tree %s (%s)\n", t.Watch, t.Backend)
		for _, r := range t.Remotes {
			fmt.Fprintf(w, "  remote %s\n", r.Target)
			fmt.Fprintf(w, "    rsync %s\n", strings.Join(r.Options, " "))
		}
	}
	for _, s := range f.Warnings {
		fmt.Fprintf(w, "warning: %s\n", s)
	}
	for _, s := range f.Errors {
		fmt.Fprintf(w, "error: %s\n", s)
	}
	fmt.Fprintf(w, "%s: %d trees, %d warnings, %d errors\n", f.File, len(f.Trees), len(f.Warnings), len(f.Errors))
}
