package daemon

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"gosersync/conf"
	"gosersync/internal/pathset"
	"gosersync/plugin"
)

// trees are the trees to watch: the config's, or with -m the plugin's own.
func (d *Daemon) trees(cfg *conf.Config) ([]conf.Tree, error) {
	if d.o.Module == "" {
		return cfg.Trees, nil
	}
	var watch string
	switch {
	case d.o.Module == "socket" && cfg.Socket != nil:
		watch = cfg.Socket.Watch
	case d.o.Module == "http" && cfg.HTTP != nil:
		watch = cfg.HTTP.Watch
	case d.o.Module == "refreshCDN" && cfg.CDN != nil:
		watch = cfg.CDN.Watch
	case d.o.Module == "command" && cfg.Command != nil:
		return withoutRemotes(cfg.Trees), nil
	default:
		return nil, fmt.Errorf("-m %s: %s has no <plugin name=%q>", d.o.Module, cfg.File, d.o.Module)
	}
	if watch == "" {
		return withoutRemotes(cfg.Trees), nil
	}
	return []conf.Tree{{Watch: watch}}, nil
}

func withoutRemotes(trees []conf.Tree) []conf.Tree {
	bare := make([]conf.Tree, 0, len(trees))
	for _, t := range trees {
		t.Remotes = nil
		bare = append(bare, t)
	}
	return bare
}

// handler is what a plugin does with one event.
type handler interface {
	Name() string
	Handle(ctx context.Context, e plugin.Event) error
}

// pluginFor makes the plugin that runs by -m or after each sync; nil = none.
func (d *Daemon) pluginFor(cfg *conf.Config) handler {
	name := cfg.Plugin
	if d.o.Module != "" {
		name = d.o.Module
	}
	switch {
	case name == "command" && cfg.Command != nil:
		c := cfg.Command
		return &plugin.Command{Prefix: c.Prefix, Suffix: c.Suffix, IgnoreError: c.IgnoreError, Filter: c.Filter, Include: matchers(c.Include)}
	case name == "socket" && cfg.Socket != nil:
		return &plugin.Socket{IP: cfg.Socket.IP, Port: cfg.Socket.Port}
	case name == "http" && cfg.HTTP != nil:
		return &plugin.HTTP{URL: cfg.HTTP.URL, Port: cfg.HTTP.Port}
	case name == "refreshCDN" && cfg.CDN != nil:
		return d.cdn(cfg.CDN)
	}
	return nil
}

func (d *Daemon) cdn(c *conf.CDNPlugin) handler {
	r := &plugin.RefreshCDN{
		Domain: c.Domain, Port: c.Port, User: c.User, Password: c.Password, Base: c.Base,
		Answer: func(whatsup string) { d.o.Log.Info("refreshCDN", "answer", whatsup) },
	}
	if c.Regex {
		r.Match = c.Match
	}
	return r
}

func matchers(all []conf.Matcher) []func(string) bool {
	match := make([]func(string) bool, 0, len(all))
	for _, m := range all {
		match = append(match, m.Match)
	}
	return match
}

// pluginLane is a plugin in the place of a remote. It hears of a path when
// every remote has answered for it, be it with a refusal: one dead remote must
// not keep a cache from being refreshed for the living.
type pluginLane struct {
	handler handler
	source  *source
	log     *slog.Logger

	mu      sync.Mutex
	owed    map[string]*pathset.Set // by target: what it has not answered for
	waiting *pathset.Set
}

func newPluginLane(s *source, h handler) *pluginLane {
	return &pluginLane{handler: h, source: s, log: s.log, owed: map[string]*pathset.Set{}, waiting: &pathset.Set{}}
}

// Name implements threadpool.Target.
func (l *pluginLane) Name() string { return targetName(l.source.spelled, "plugin "+l.handler.Name()) }

// expect notes that the targets are about to get set.
func (l *pluginLane) expect(targets []string, set *pathset.Set) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting.Merge(set)
	for _, t := range targets {
		if l.owed[t] == nil {
			l.owed[t] = &pathset.Set{}
		}
		l.owed[t].Merge(set)
	}
}

// answered notes that the target's run of set has ended, and returns what every
// target has answered for now.
func (l *pluginLane) answered(target string, set *pathset.Set) *pathset.Set {
	l.mu.Lock()
	defer l.mu.Unlock()
	ripe := &pathset.Set{}
	owed := l.owed[target]
	if owed == nil {
		return ripe
	}
	for p := range set.All() {
		owed.Remove(p.Rel)
	}
	for p := range set.All() {
		if w, ok := l.waiting.Get(p.Rel); ok && !l.isOwed(p.Rel) {
			l.waiting.Remove(p.Rel)
			ripe.Add(w)
		}
	}
	return ripe
}

func (l *pluginLane) isOwed(rel string) bool {
	for _, s := range l.owed {
		if s.Covers(rel) {
			return true
		}
	}
	return false
}

// Sync implements threadpool.Target: it gives the plugin each path of set, and
// for a tree everything in it. A plugin's refusal is logged and not repeated,
// as sersync does.
func (l *pluginLane) Sync(ctx context.Context, set *pathset.Set, alive func()) error {
	alive()
	for p := range set.All() {
		if p.Tree && p.Rel == pathset.Root {
			continue // a whole resync is no event
		}
		for _, e := range l.expand(p) {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := l.handler.Handle(ctx, e); err != nil {
				l.log.Error("plugin", "name", l.handler.Name(), "path", e.Rel, "err", err)
			}
		}
	}
	return nil
}

// inotify's masks, which sersync's http module sends along.
const (
	inCloseWrite = 0x8
	inDelete     = 0x200
	inCreateDir  = 0x40000100
)

func (l *pluginLane) expand(p pathset.Path) []plugin.Event {
	full := filepath.Join(l.source.root, p.Rel)
	info, err := os.Lstat(full)
	if err != nil {
		return []plugin.Event{{Root: l.source.root, Rel: p.Rel, Gone: true, Mask: inDelete}}
	}
	if !p.Tree {
		return []plugin.Event{l.event(p.Rel, info.IsDir())}
	}
	var all []plugin.Event
	_ = filepath.WalkDir(full, func(name string, d fs.DirEntry, err error) error {
		if err == nil {
			all = append(all, l.event(strings.TrimPrefix(name, l.source.root+"/"), d.IsDir()))
		}
		return nil // what vanished meanwhile has an event of its own
	})
	return all
}

func (l *pluginLane) event(rel string, dir bool) plugin.Event {
	mask := uint32(inCloseWrite)
	if dir {
		mask = inCreateDir
	}
	return plugin.Event{Root: l.source.root, Rel: rel, Dir: dir, Mask: mask}
}
