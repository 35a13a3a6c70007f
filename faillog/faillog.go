// Package faillog keeps what is still to be repeated: a journal on disk, and
// rsync_fail_log.sh as a view of it that an operator can read and run.
//
// A record is written, not synced, when it is made: it survives the end of the
// process at any byte, and the end of the machine but for the last seconds.
// Compaction and Close sync.
package faillog

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"gosersync/internal/pathset"
)

const (
	journalName = "journal"
	// perTarget is how many paths a target has before directories are widened.
	perTarget = 200_000
	// slack is how many lines the journal may have beyond its entries before it
	// is written anew.
	slack = 10_000
)

// Options are the settings of a Log.
type Options struct {
	Dir    string // the instance's state directory, 0700
	Script string // sersync's failLog path; "" = no view
	// Render gives the shell lines for a target's set; nil = comments only.
	Render      func(target string, set *pathset.Set) string
	ScriptDelay time.Duration // the view is written at most this often; 0 = 1 s
	Log         *slog.Logger  // nil = discard
}

// Log is what every target still has to get.
type Log struct {
	o       Options
	changed chan struct{}

	mu      sync.Mutex
	file    *os.File
	lines   int
	behind  bool // the journal could not be written: it lacks something
	targets map[string]*target
}

type target struct {
	set   *pathset.Set
	why   string
	since time.Time
	tried time.Time // zero = not since Open
}

// record is one line of the journal. Paths are bytes, which JSON keeps as base64.
type record struct {
	Target string    `json:"t"`
	Time   time.Time `json:"at"`
	Why    string    `json:"why,omitempty"`
	Done   bool      `json:"done,omitempty"`
	Forget bool      `json:"forget,omitempty"`
	Paths  []path    `json:"p,omitempty"`
}

type path struct {
	Rel   []byte `json:"n"`
	Flags int    `json:"f,omitempty"`
}

const (
	flagTree = 1 << iota
	flagMirror
	flagGone
)

// Open reads the journal, and refuses a Script path that somebody else could
// have prepared.
func Open(o Options) (*Log, error) {
	if o.ScriptDelay == 0 {
		o.ScriptDelay = time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	l := &Log{o: o, changed: make(chan struct{}, 1), targets: map[string]*target{}}
	if err := l.prepareScript(); err != nil {
		return nil, err
	}
	if err := l.load(); err != nil {
		return nil, err
	}
	if err := l.compact(); err != nil {
		return nil, err
	}
	l.mark()
	return l, nil
}

func (l *Log) load() error {
	data, err := os.ReadFile(l.journal())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read journal: %w", err)
	}
	records, torn := decode(data)
	for _, r := range records {
		l.apply(r)
	}
	for _, t := range l.targets {
		t.tried = time.Time{}
	}
	if torn > 0 {
		l.o.Log.Warn("journal has lines that were not written to the end; they are dropped", "lines", torn)
	}
	return nil
}

func (l *Log) journal() string { return filepath.Join(l.o.Dir, journalName) }

// decode reads every whole line, and counts the others.
func decode(data []byte) (records []record, torn int) {
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, len(data)+1)
	for lines.Scan() {
		sum, body, _ := bytes.Cut(lines.Bytes(), []byte(" "))
		want, err := strconv.ParseUint(string(sum), 16, 32)
		var r record
		if err != nil || uint32(want) != crc32.ChecksumIEEE(body) || json.Unmarshal(body, &r) != nil {
			torn++
			continue
		}
		records = append(records, r)
	}
	return records, torn
}

func encode(r record) ([]byte, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%08x %s\n", crc32.ChecksumIEEE(body), body), nil
}

func pathsOf(set *pathset.Set) []path {
	paths := make([]path, 0, set.Len())
	for p := range set.All() {
		flags := 0
		for flag, on := range map[int]bool{flagTree: p.Tree, flagMirror: p.Mirror, flagGone: p.Gone} {
			if on {
				flags |= flag
			}
		}
		paths = append(paths, path{Rel: []byte(p.Rel), Flags: flags})
	}
	return paths
}

func (p path) path() pathset.Path {
	return pathset.Path{
		Rel:    string(p.Rel),
		Tree:   p.Flags&flagTree != 0,
		Mirror: p.Flags&flagMirror != 0,
		Gone:   p.Flags&flagGone != 0,
	}
}

// apply brings memory to the record.
func (l *Log) apply(r record) {
	t := l.targets[r.Target]
	switch {
	case r.Forget:
		delete(l.targets, r.Target)
		return
	case r.Done && t == nil:
		return
	case t == nil:
		t = &target{set: &pathset.Set{}, since: r.Time}
		l.targets[r.Target] = t
	}
	if r.Done {
		for _, p := range r.Paths {
			acknowledge(t.set, p.path())
		}
		if t.set.Len() == 0 {
			delete(l.targets, r.Target)
		}
		return
	}
	for _, p := range r.Paths {
		t.set.Add(p.path())
	}
	t.set.Collapse(perTarget)
	t.why, t.tried = r.Why, r.Time
}

// acknowledge takes out of set what a run of p has done: p itself, and below a
// tree every name that was only to be sent.
func acknowledge(set *pathset.Set, p pathset.Path) {
	if had, ok := set.Get(p.Rel); ok && (!had.Tree || p.Tree) && (!had.Mirror || p.Mirror) {
		set.Remove(p.Rel)
	}
	if !p.Tree {
		return
	}
	var below []string
	for q := range set.All() {
		inside := p.Rel == pathset.Root || len(q.Rel) > len(p.Rel) && q.Rel[:len(p.Rel)+1] == p.Rel+"/"
		if inside && q.Rel != p.Rel && (p.Mirror || !q.Gone && !q.Mirror) {
			below = append(below, q.Rel)
		}
	}
	for _, rel := range below {
		set.Remove(rel)
	}
}

// Record notes that the paths of set are still to be done at target. When the
// disk takes nothing it is kept in memory, and written as soon as it can be.
func (l *Log) Record(target string, set *pathset.Set, why error) error {
	return l.append(record{Target: target, Time: time.Now(), Why: why.Error(), Paths: pathsOf(set)})
}

// Clear notes that target has taken the paths of set.
func (l *Log) Clear(target string, set *pathset.Set) error {
	l.mu.Lock()
	_, known := l.targets[target]
	l.mu.Unlock()
	if !known {
		return nil
	}
	return l.append(record{Target: target, Time: time.Now(), Done: true, Paths: pathsOf(set)})
}

// Forget drops all that target had to get.
func (l *Log) Forget(target string) error {
	return l.append(record{Target: target, Time: time.Now(), Forget: true})
}

func (l *Log) append(r record) error {
	line, err := encode(r)
	if err != nil {
		return fmt.Errorf("encode journal record: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.apply(r)
	l.mark()
	l.lines++
	if l.behind || l.lines > slack+len(l.targets) {
		return l.compactLocked()
	}
	if _, err := l.file.Write(line); err != nil {
		l.behind = true
		return fmt.Errorf("write journal: %w", err)
	}
	return nil
}

func (l *Log) compact() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.compactLocked()
}

// compactLocked writes the journal anew: to a file beside it, synced, renamed.
func (l *Log) compactLocked() error {
	l.behind = true
	var data []byte
	for name, t := range l.targets {
		line, err := encode(record{Target: name, Time: t.since, Why: t.why, Paths: pathsOf(t.set)})
		if err != nil {
			return fmt.Errorf("encode journal record: %w", err)
		}
		data = append(data, line...)
	}
	if err := replaceFile(l.journal(), data); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	f, err := os.OpenFile(l.journal(), os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open journal: %w", err)
	}
	if l.file != nil {
		l.file.Close()
	}
	l.file, l.lines, l.behind = f, len(l.targets), false
	return nil
}

// replaceFile puts data at name, whole or not at all, with mode 0600.
func replaceFile(name string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	return syncDir(filepath.Dir(name))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Left is what target still has to get.
func (l *Log) Left(target string) *pathset.Set {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t := l.targets[target]; t != nil {
		return t.set.Clone()
	}
	return &pathset.Set{}
}

// Len is the number of paths over all targets.
func (l *Log) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, t := range l.targets {
		n += t.set.Len()
	}
	return n
}

// Due yields what is to be tried again now: targets whose last attempt lies
// every or more back, and right after Open all of them. It counts as an attempt.
func (l *Log) Due(now time.Time, every time.Duration) iter.Seq2[string, *pathset.Set] {
	l.mu.Lock()
	due := map[string]*pathset.Set{}
	for name, t := range l.targets {
		if t.tried.IsZero() || now.Sub(t.tried) >= every {
			t.tried = now
			due[name] = t.set.Clone()
		}
	}
	l.mu.Unlock()
	return func(yield func(string, *pathset.Set) bool) {
		for name, set := range due {
			if !yield(name, set) {
				return
			}
		}
	}
}

func (l *Log) mark() {
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// Run writes the view when something has changed, until ctx ends.
func (l *Log) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.changed:
		}
		if err := l.writeScript(); err != nil {
			l.o.Log.Error("fail log's script not written; the journal has everything", "script", l.o.Script, "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(l.o.ScriptDelay):
		}
	}
}

// Close writes journal and view for the last time.
func (l *Log) Close() error {
	err := errors.Join(l.writeScript(), l.compact())
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return err
	}
	return errors.Join(err, l.file.Close())
}

func (l *Log) names() []string {
	names := make([]string, 0, len(l.targets))
	for name := range l.targets {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
