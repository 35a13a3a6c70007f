// Package pathset holds names that may differ between a source and a remote.
//
// A Set is the one currency of gosersync: queue, lanes and fail log hold the
// same type. It says where to look, never what to do: the state found by lstat
// when rsync is about to run decides whether a name is sent or removed.
package pathset

import (
	"iter"
	"slices"
	"strings"
)

// Root is the Rel of the source itself.
const Root = "."

// Path is one name below a source.
type Path struct {
	// Rel is slash-separated and relative to the source; Root is the source
	// itself. It is bytes, not text: any byte but NUL may occur.
	Rel string
	// Tree means the name and everything below it.
	Tree bool
	// Mirror, with Tree, means that what is there but not here goes as well.
	Mirror bool
	// Gone is set when the source was seen to remove the name. It is sticky:
	// a name that came back is looked at all the same, and a directory that
	// came back is mirrored, since the remote may still hold its predecessor.
	Gone bool
	// New is a hint of the watcher: the name did not exist a moment ago. A Set
	// does not keep it.
	New bool
}

// Set is a set of paths, kept as a trie of their elements. The zero value is
// empty and ready. A Set is not safe for concurrent use.
type Set struct {
	root node
}

type node struct {
	kids map[string]*node
	n    int // names at or below this node
	in   bool
	path Path // flags only; Rel is derived from the position
}

// Of returns a set of the given paths.
func Of(paths ...Path) *Set {
	s := &Set{}
	for _, p := range paths {
		s.Add(p)
	}
	return s
}

// Len is the number of paths in the set.
func (s *Set) Len() int { return s.root.n }

// Add puts p into the set and merges it with what is there:
// the same name's flags are joined; a Tree swallows names below it, but a plain
// Tree leaves removed names and mirrored directories standing, for it would not
// remove anything; a removed name swallows everything below it; a directory
// that appears where a name was removed is mirrored.
func (s *Set) Add(p Path) {
	elems := split(p.Rel)
	at := &s.root
	trail := make([]*node, 0, len(elems)+1)
	for _, e := range elems {
		if at.in && swallows(at.path, p) {
			return
		}
		trail = append(trail, at)
		at = at.kid(e)
	}
	before := at.n
	at.add(p)
	for _, up := range trail {
		up.n += at.n - before
	}
}

// swallows tells whether above, an ancestor of p that is in the set, says all
// that p would say.
func swallows(above, p Path) bool {
	switch {
	case above.Tree && above.Mirror:
		return true
	case above.Tree:
		return !p.Gone && !p.Mirror
	default:
		return above.Gone && p.Gone && !p.Tree
	}
}

func (n *node) kid(e string) *node {
	k := n.kids[e]
	if k == nil {
		if n.kids == nil {
			n.kids = map[string]*node{}
		}
		k = &node{}
		n.kids[e] = k
	}
	return k
}

func (n *node) add(p Path) {
	if !n.in {
		n.in, n.n = true, n.n+1
	}
	f := &n.path
	f.Tree = f.Tree || p.Tree
	f.Gone = f.Gone || p.Gone
	f.Mirror = f.Tree && (f.Mirror || p.Mirror || f.Gone)
	if f.Tree || f.Gone {
		n.prune(*f)
	}
}

// prune drops below n what the flags above already say.
func (n *node) prune(above Path) {
	for e, k := range n.kids {
		before := k.n
		if k.in && (swallows(above, k.path) || above.Gone && !above.Tree && !k.path.Tree) {
			k.in, k.path, k.n = false, Path{}, k.n-1
		}
		k.prune(above)
		n.n -= before - k.n
		if k.n == 0 {
			delete(n.kids, e)
		}
	}
}

// Merge adds every path of other.
func (s *Set) Merge(other *Set) {
	for p := range other.All() {
		s.Add(p)
	}
}

// Remove takes the entry for exactly rel out of the set, if there is one.
func (s *Set) Remove(rel string) {
	elems := split(rel)
	trail := []*node{&s.root}
	for _, e := range elems {
		k := trail[len(trail)-1].kids[e]
		if k == nil {
			return
		}
		trail = append(trail, k)
	}
	last := trail[len(trail)-1]
	if !last.in {
		return
	}
	last.in, last.path = false, Path{}
	for i := len(trail) - 1; i >= 0; i-- {
		trail[i].n--
		if i > 0 && trail[i].n == 0 {
			delete(trail[i-1].kids, elems[i-1])
		}
	}
}

// Get returns the entry for exactly rel.
func (s *Set) Get(rel string) (Path, bool) {
	at := &s.root
	for _, e := range split(rel) {
		if at = at.kids[e]; at == nil {
			return Path{}, false
		}
	}
	p := at.path
	p.Rel = rel
	return p, at.in
}

// Covers tells whether rel or a Tree above it is in the set.
func (s *Set) Covers(rel string) bool {
	at := &s.root
	for _, e := range split(rel) {
		if at.in && at.path.Tree {
			return true
		}
		if at = at.kids[e]; at == nil {
			return false
		}
	}
	return at.in
}

// Above yields the entries for rel and for the directories above it, topmost
// first.
func (s *Set) Above(rel string) iter.Seq[Path] {
	return func(yield func(Path) bool) {
		elems := split(rel)
		at := &s.root
		for i := 0; at != nil; i++ {
			if at.in {
				p := at.path
				p.Rel = prefix(elems, i)
				if !yield(p) {
					return
				}
			}
			if i == len(elems) {
				return
			}
			at = at.kids[elems[i]]
		}
	}
}

func prefix(elems []string, n int) string {
	if n == 0 {
		return Root
	}
	return strings.Join(elems[:n], "/")
}

// Touches tells whether rel, a Tree above it, or anything below it is in the set.
func (s *Set) Touches(rel string) bool {
	at := &s.root
	for _, e := range split(rel) {
		if at.in && at.path.Tree {
			return true
		}
		if at = at.kids[e]; at == nil {
			return false
		}
	}
	return at.n > 0
}

// All yields the paths in the order of their elements, a directory before what
// is below it.
func (s *Set) All() iter.Seq[Path] {
	return func(yield func(Path) bool) { s.root.walk("", yield) }
}

func (n *node) walk(rel string, yield func(Path) bool) bool {
	if n.in {
		p := n.path
		p.Rel = rel
		if rel == "" {
			p.Rel = Root
		}
		if !yield(p) {
			return false
		}
	}
	names := make([]string, 0, len(n.kids))
	for e := range n.kids {
		names = append(names, e)
	}
	slices.Sort(names)
	for _, e := range names {
		below := e
		if rel != "" {
			below = rel + "/" + e
		}
		if !n.kids[e].walk(below, yield) {
			return false
		}
	}
	return true
}

// Clone returns an independent copy.
func (s *Set) Clone() *Set {
	c := &Set{}
	c.Merge(s)
	return c
}

// Collapse widens directories with many names to Trees until at most limit
// paths are left or nothing more can be widened. Removed names are never
// widened: that would remove what the source never had.
func (s *Set) Collapse(limit int) {
	for depth := s.root.depth(); depth >= 0 && s.Len() > limit; depth-- {
		s.root.widen(depth)
	}
}

// depth is the greatest number of elements of a widenable name's directory, or
// -1 where there is none.
func (n *node) depth() int {
	deepest := -1
	for _, k := range n.kids {
		if k.in && !k.path.Gone && !k.path.Mirror {
			deepest = max(deepest, 0)
		}
		if d := k.depth(); d >= 0 {
			deepest = max(deepest, d+1)
		}
	}
	return deepest
}

// widen turns every directory at the given depth that holds a widenable name
// into a plain Tree.
func (n *node) widen(depth int) {
	if depth > 0 {
		for _, k := range n.kids {
			before := k.n
			k.widen(depth - 1)
			n.n += k.n - before
		}
		return
	}
	for _, k := range n.kids {
		if k.in && !k.path.Gone && !k.path.Mirror {
			n.add(Path{Tree: true})
			return
		}
	}
}

// Parent is the directory that holds rel; the parent of a top-level name, and
// of Root, is Root.
func Parent(rel string) string {
	if i := strings.LastIndexByte(rel, '/'); i >= 0 {
		return rel[:i]
	}
	return Root
}

// Join is the name of elem in the directory dir.
func Join(dir, elem string) string {
	if dir == Root {
		return elem
	}
	return dir + "/" + elem
}

func split(rel string) []string {
	if rel == Root {
		return nil
	}
	return strings.Split(rel, "/")
}
