package rsync

import (
	"context"
	"errors"
	"slices"
	"strings"

	"gosersync/internal/pathset"
)

// removalWay is how names are removed at a remote. Distributions carry rsyncs
// that cannot do --delete-missing-args under every version number, so the first
// removal is proved by asking for the name.
type removalWay int32

const (
	unproven      removalWay = iota // --delete-missing-args, not yet seen to work
	byMissingArgs                   // --delete-missing-args works
	byChain                         // sersync's includes, with the rest excluded
	refused                         // the remote refuses every removal
)

func (c *Client) way() removalWay { return removalWay(c.removal.Load()) }

// chainLength is how many names one include chain removes: its cost grows with
// the square.
const chainLength = 500

// refusesMissingArgs tells whether a run failed for --delete-missing-args: a
// daemon that refuses the option (4), an rsync that does not know it (1), or
// one that breaks over it (2).
func (c *Client) refusesMissingArgs(exit *ExitError) bool {
	if c.way() >= byChain || !c.o.Delete {
		return false
	}
	return exit.Code == 4 || exit.Code == 2 || exit.Code == 1 && strings.Contains(exit.Stderr, "missing-args")
}

// prove asks for the first removed name. A remote that does not let anybody
// look is taken at its word.
func (e *effort) prove(ctx context.Context, removals []string) error {
	name := removals[0]
	there := false
	err := e.try(ctx, job{kind: look, stdin: list([]string{name}), line: func(l string) {
		there = there || strings.HasSuffix(unescape(l), " "+name)
	}})
	if ctx.Err() != nil {
		return err
	}
	d := &disk{root: e.c.o.Root, known: map[string]bool{pathset.Root: true}}
	if top, missing := d.topmost(name); e.again.Covers(name) || !missing || top != name {
		return nil // it did not go, or came back: no proof either way
	}
	if err == nil && there {
		e.c.o.Log.Warn("remote ignores --delete-missing-args; removing by another way", "remote", e.c.Name())
		e.c.removal.Store(int32(byChain))
		return e.removeByChain(ctx, removals)
	}
	e.c.removal.CompareAndSwap(int32(unproven), int32(byMissingArgs))
	return nil
}

// removeByChain removes names as sersync does: they and the directories above
// them are included, everything else excluded, and nothing is sent.
func (e *effort) removeByChain(ctx context.Context, rels []string) error {
	for part := range slices.Chunk(rels, chainLength) {
		if e.c.way() == refused {
			e.leave(part)
			continue
		}
		err := e.try(ctx, job{kind: chain, stdin: includeChain(part), extra: []string{"--exclude=*"}})
		var exit *ExitError
		switch {
		case err == nil:
		case errors.As(err, &exit) && exit.Code == 4:
			e.c.removal.Store(int32(refused))
			e.why = exit
			e.leave(part)
		case errors.As(err, &exit) && (exit.Kind == Partial || exit.Kind == Vanished):
			e.why = exit
			e.leave(part)
		default:
			return err
		}
	}
	return nil
}

func (e *effort) leave(removals []string) {
	if e.why == nil {
		e.why = errors.New("the remote refuses to remove; take delete out of refuse options in its rsyncd.conf, or set <delete start=\"false\"/>")
	}
	for _, rel := range removals {
		e.left.Add(pathset.Path{Rel: rel, Gone: true})
	}
}

// includeChain is the patterns that let exactly rels, and the directories above
// them, be seen; NUL-separated.
func includeChain(rels []string) []byte {
	var b strings.Builder
	seen := map[string]bool{}
	add := func(pattern string) {
		if !seen[pattern] {
			seen[pattern] = true
			b.WriteString(pattern)
			b.WriteByte(0)
		}
	}
	for _, rel := range rels {
		for i, c := range []byte(rel) {
			if c == '/' {
				add(literal(rel[:i]) + "/")
			}
		}
		add(literal(rel))
		add(below(rel))
	}
	return []byte(b.String())
}

// below is a pattern for everything below rel. It has wildcards, so a backslash
// in the name needs its own.
func below(rel string) string {
	if !strings.ContainsAny(rel, "*?[") {
		rel = strings.ReplaceAll(rel, `\`, `\\`)
		return "/" + rel + "/***"
	}
	return literal(rel) + "/***"
}

// removeExtra removes below rels what the remote has and the source has not,
// but for what the filter excludes: rsync lists, the filter picks, the disk is
// asked once more, and exactly those names are removed.
func (e *effort) removeExtra(ctx context.Context, rels []string) error {
	var extra []string
	collect := func(l string) {
		if rel, dir, ok := deletion(l); ok && !e.c.excluded(rel, dir, false) {
			extra = append(extra, rel)
		}
	}
	args := append(e.c.wholeExcludes(), "--out-format=%i %n")
	err := e.try(ctx, job{kind: audit, stdin: list(rels), extra: args, line: collect})
	if err = e.refusal(e.afterTrees(err, rels, true), rels); err != nil || len(extra) == 0 {
		return err
	}
	d := &disk{root: e.c.o.Root, known: map[string]bool{pathset.Root: true}}
	gone := &pathset.Set{}
	for _, rel := range extra {
		if top, missing := d.topmost(rel); missing {
			gone.Add(pathset.Path{Rel: top, Gone: true})
		}
	}
	p := &plan{}
	for g := range gone.All() {
		p.removals = append(p.removals, g.Rel)
	}
	return e.namesAndRemovals(ctx, p)
}
