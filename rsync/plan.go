package rsync

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"gosersync/internal/pathset"
)

// plan is a set after a look at the disk.
type plan struct {
	names    []string // exist: sent as they are, directories without their content
	removals []string // the topmost missing names
	trees    []string // directories sent with everything below
	mirrors  []string // the same, with what is there but not here removed
}

// whole tells whether the plan holds the source as a whole.
func (p *plan) whole() (tree, mirror bool) {
	has := func(list []string) bool {
		for _, rel := range list {
			if rel == pathset.Root {
				return true
			}
		}
		return false
	}
	return has(p.trees) || has(p.mirrors), has(p.mirrors)
}

// look decides by lstat what is to be done for each path of set.
func (c *Client) look(set *pathset.Set) *plan {
	seen := &pathset.Set{}
	d := &disk{root: c.o.Root, known: map[string]bool{pathset.Root: true}}
	gone := map[string]bool{}
	for p := range set.All() {
		rel, missing := d.topmost(p.Rel)
		if c.excluded(rel, p.Tree, missing) {
			continue
		}
		if missing {
			gone[rel] = true
			continue
		}
		if rel != p.Rel {
			p = pathset.Path{Rel: rel}
		}
		seen.Add(p)
	}
	return c.sort(seen, gone, d)
}

func (c *Client) sort(seen *pathset.Set, gone map[string]bool, d *disk) *plan {
	plan := &plan{}
	for p := range seen.All() {
		dir := (p.Tree || p.Gone) && d.isDir(p.Rel)
		switch {
		// Where a directory stands whose name was seen to go, the remote may
		// still hold its predecessor.
		case dir && (p.Mirror || p.Gone) && c.o.Delete:
			plan.mirrors = append(plan.mirrors, p.Rel)
		case dir:
			plan.trees = append(plan.trees, p.Rel)
		default:
			plan.names = append(plan.names, p.Rel)
		}
	}
	if c.o.Delete {
		for rel := range gone {
			plan.removals = append(plan.removals, rel)
		}
	}
	return plan
}

func (c *Client) excluded(rel string, dir, missing bool) bool {
	if c.o.Exclude == nil || rel == pathset.Root {
		return false
	}
	return c.o.Exclude(rel, dir) || missing && c.o.Exclude(rel, true)
}

// disk answers questions about the source, and remembers directories for the
// length of one plan.
type disk struct {
	root  string
	known map[string]bool // directories
}

// topmost finds, from the top, the first element of rel that is missing or
// hides the rest by being no directory. rsync cannot remove a name whose parent
// is missing too, and does not go through a directory that is a symlink now.
func (d *disk) topmost(rel string) (found string, missing bool) {
	for i := 0; i < len(rel); i++ {
		if rel[i] != '/' || d.known[rel[:i]] {
			continue
		}
		switch dir, err := d.lstat(rel[:i]); {
		case err != nil:
			return rel[:i], absent(err)
		case !dir:
			return rel[:i], false
		}
		d.known[rel[:i]] = true
	}
	_, err := d.lstat(rel)
	return rel, absent(err)
}

// absent is true only for an answer that the name does not exist: what cannot
// be looked at is not gone.
func absent(err error) bool { return errors.Is(err, fs.ErrNotExist) }

func (d *disk) isDir(rel string) bool {
	dir, err := d.lstat(rel)
	return err == nil && dir
}

func (d *disk) lstat(rel string) (dir bool, err error) {
	info, err := os.Lstat(filepath.Join(d.root, rel))
	if err != nil {
		return false, err
	}
	return info.IsDir(), nil
}

// expand is every name at and below rels that the filter lets through: rsync
// knows no regular expressions, so a directory with a filter is sent name by
// name. What appears later has an event of its own.
func (c *Client) expand(rels []string) []string {
	var all []string
	for _, top := range rels {
		_ = filepath.WalkDir(filepath.Join(c.o.Root, top), func(name string, d fs.DirEntry, err error) error {
			rel := strings.TrimPrefix(strings.TrimPrefix(name, c.o.Root), "/")
			if rel == "" {
				return nil
			}
			if c.o.Exclude(rel, d != nil && d.IsDir()) {
				if d != nil && d.IsDir() {
					return filepath.SkipDir
				}
				return nil
			}
			if err == nil { // of a directory that cannot be read rsync has been told already
				all = append(all, rel)
			}
			return nil
		})
	}
	return all
}

// list is what rsync reads from stdin: NUL-separated, each with a leading "./",
// for rsync takes "#x" and ";x" for comments even with --from0.
func list(rels []string) []byte {
	var b strings.Builder
	for _, rel := range rels {
		b.WriteString("./")
		b.WriteString(rel)
		b.WriteByte(0)
	}
	return []byte(b.String())
}

// literal is a rsync pattern that matches exactly rel. rsync reads a backslash
// as itself unless the pattern has a wildcard.
func literal(rel string) string {
	if !strings.ContainsAny(rel, "*?[") {
		return "/" + rel
	}
	var b strings.Builder
	b.WriteByte('/')
	for _, c := range []byte(rel) {
		if strings.IndexByte(`*?[\`, c) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(c)
	}
	return b.String()
}
