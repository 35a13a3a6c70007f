package rsync

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"gosersync/internal/pathset"
)

const (
	// chunk is how many names one run gets at most.
	chunk = 10_000
	// looks is how often a set is looked at within one Sync while names vanish.
	looks = 3
	// splits is how many more runs may be spent on finding names that fail.
	splits = 32
)

// effort is one Sync: what it has found out so far.
type effort struct {
	c      *Client
	alive  func()
	splits int
	again  *pathset.Set // to be looked at once more
	left   *pathset.Set // not to be done by looking once more
	held   bool
	why    error // of the newest in again or left
}

// Sync makes the remote equal to the disk for every path of set. It calls
// alive as soon as the remote has answered. A *LeftError names what is still to
// be done on a remote that is well; an *ExitError means that nothing is sure.
func (c *Client) Sync(ctx context.Context, set *pathset.Set, alive func()) error {
	e := &effort{c: c, alive: sync.OnceFunc(alive), splits: splits, left: &pathset.Set{}}
	pending := set
	for range looks {
		e.again = &pathset.Set{}
		if err := e.execute(ctx, c.look(pending)); err != nil {
			return err
		}
		if e.again.Len() == 0 {
			break
		}
		pending = e.again
	}
	e.left.Merge(e.again)
	if e.left.Len() == 0 {
		return nil
	}
	return &LeftError{Left: e.left, Held: e.held, Err: e.why}
}

// execute does a plan's runs. Small names go first: somebody waits for them.
func (e *effort) execute(ctx context.Context, p *plan) error {
	e.guard(p)
	if err := e.namesAndRemovals(ctx, p); err != nil {
		return err
	}
	tree, mirror := p.whole()
	if tree {
		return e.wholeTree(ctx, mirror)
	}
	if err := e.directories(ctx, trees, p.trees); err != nil {
		return err
	}
	return e.mirrors(ctx, p.mirrors)
}

// guard holds removals back where the source is not to be believed.
func (e *effort) guard(p *plan) {
	if e.c.o.Guard == nil || len(p.removals)+len(p.mirrors) == 0 {
		return
	}
	err := e.c.o.Guard()
	if err == nil {
		return
	}
	e.held, e.why = true, err
	for _, rel := range p.removals {
		e.left.Add(pathset.Path{Rel: rel, Gone: true})
	}
	for _, rel := range p.mirrors {
		e.left.Add(pathset.Path{Rel: rel, Tree: true, Mirror: true})
	}
	p.trees = append(p.trees, p.mirrors...)
	p.removals, p.mirrors = nil, nil
}

func (e *effort) namesAndRemovals(ctx context.Context, p *plan) error {
	all := slices.Concat(p.names, p.removals)
	if len(p.removals) > 0 && e.c.way() >= byChain {
		all = p.names
		if err := e.removeByChain(ctx, p.removals); err != nil {
			return err
		}
	}
	slices.Sort(all)
	if err := e.carryAll(ctx, all, e.c.removalArgs(!e.held)); err != nil {
		return err
	}
	if len(p.removals) > 0 && e.c.way() == unproven {
		return e.prove(ctx, p.removals)
	}
	return nil
}

// carryAll sends any number of names.
func (e *effort) carryAll(ctx context.Context, rels, extra []string) error {
	for part := range slices.Chunk(rels, chunk) {
		if err := e.carry(ctx, part, extra); err != nil {
			return err
		}
	}
	return nil
}

// carry sends a list of names and removals, and finds out which of them fail.
func (e *effort) carry(ctx context.Context, rels, extra []string) error {
	err := e.try(ctx, job{kind: names, stdin: list(rels), extra: extra})
	var exit *ExitError
	if err == nil || !errors.As(err, &exit) {
		return err
	}
	switch {
	case exit.Kind == Vanished:
		e.retry(exit, rels...)
		return nil
	case exit.Kind == Partial:
		return e.divide(ctx, exit, rels, extra)
	case e.c.refusesMissingArgs(exit):
		e.c.removal.Store(int32(byChain))
		e.retry(exit, rels...)
		return nil
	}
	return err
}

// divide sends those names again that rsync did not complain of, to have them
// confirmed. Where it cannot be told which it complained of, it halves the list.
func (e *effort) divide(ctx context.Context, exit *ExitError, rels, extra []string) error {
	bad := complaintsIn(exit.Stderr, e.c.o.Root)
	suspects, rest := split(rels, bad.names)
	switch {
	case len(rest) == 0 || len(rels) == 1 || e.splits == 0:
		e.retry(exit, rels...)
		return nil
	case len(suspects) > 0:
		e.splits--
		e.retry(exit, suspects...)
		return e.carry(ctx, rest, extra)
	}
	e.splits--
	half := len(rels) / 2
	if err := e.carry(ctx, rels[:half], extra); err != nil {
		return err
	}
	return e.carry(ctx, rels[half:], extra)
}

// split parts rels into those that are, or lie below, or lie above a bad name.
func split(rels, bad []string) (suspects, rest []string) {
	set := &pathset.Set{}
	for _, b := range bad {
		set.Add(pathset.Path{Rel: b, Tree: true})
	}
	for _, rel := range rels {
		if set.Touches(rel) {
			suspects = append(suspects, rel)
		} else {
			rest = append(rest, rel)
		}
	}
	return suspects, rest
}

func (e *effort) retry(why error, rels ...string) {
	e.why = why
	for _, rel := range rels {
		e.again.Add(pathset.Path{Rel: rel})
	}
}

// directories sends directories with everything below.
func (e *effort) directories(ctx context.Context, k kind, rels []string) error {
	if len(rels) == 0 {
		return nil
	}
	if e.c.o.Exclude != nil {
		return e.carryAll(ctx, e.c.expand(rels), e.c.removalArgs(!e.held))
	}
	err := e.try(ctx, job{kind: k, stdin: list(rels)})
	return e.afterTrees(err, rels, k == mirrors)
}

// afterTrees files what a run of directories left: single names where rsync
// said which, else the directories.
func (e *effort) afterTrees(err error, rels []string, mirror bool) error {
	var exit *ExitError
	if err == nil || !errors.As(err, &exit) || exit.Kind != Partial && exit.Kind != Vanished {
		return err
	}
	bad := complaintsIn(exit.Stderr, e.c.o.Root)
	if bad.certain && len(bad.names) > 0 {
		e.retry(exit, bad.names...)
		return nil
	}
	e.why = exit
	for _, rel := range rels {
		e.left.Add(pathset.Path{Rel: rel, Tree: true, Mirror: mirror})
	}
	return nil
}

// mirrors sends directories and removes what is there but not here.
func (e *effort) mirrors(ctx context.Context, rels []string) error {
	if len(rels) == 0 {
		return nil
	}
	if e.c.o.Exclude == nil && e.c.way() != refused {
		return e.refusal(e.directories(ctx, mirrors, rels), rels)
	}
	if err := e.directories(ctx, trees, rels); err != nil {
		return err
	}
	return e.removeExtra(ctx, rels)
}

// wholeTree sends the source as a whole.
func (e *effort) wholeTree(ctx context.Context, mirror bool) error {
	rels := []string{pathset.Root}
	extra := e.c.wholeExcludes()
	if e.c.o.Exclude != nil {
		err := e.carryAll(ctx, e.c.expand(rels), append(extra, e.c.removalArgs(!e.held)...))
		if err == nil && mirror {
			err = e.removeExtra(ctx, rels)
		}
		return err
	}
	if e.c.o.Progress != nil {
		extra = append(extra, "--info=progress2")
	}
	if mirror {
		extra = append(extra, "--delete", "--force")
	}
	err := e.try(ctx, job{kind: whole, extra: extra})
	return e.refusal(e.afterTrees(err, rels, mirror), rels)
}

func (c *Client) wholeExcludes() []string {
	var args []string
	for _, p := range c.o.WholeExclude {
		args = append(args, "--exclude="+p)
	}
	return args
}

// refusal makes a mirror that the remote does not allow a matter of settings:
// what is here was to be sent all the same.
func (e *effort) refusal(err error, rels []string) error {
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Code != 4 {
		return err
	}
	e.c.removal.Store(int32(refused))
	e.why = exit
	for _, rel := range rels {
		e.left.Add(pathset.Path{Rel: rel, Tree: true, Mirror: true})
	}
	return nil
}

// try makes a run, once more where the remote turns out to be too old for an
// option that can be done without.
func (e *effort) try(ctx context.Context, j job) error {
	j.alive = e.alive
	err := e.c.run(ctx, j)
	var exit *ExitError
	if errors.As(err, &exit) && !e.c.wholeSec.Load() && refusesModifyWindow(exit.Stderr) {
		e.c.wholeSec.Store(true)
		e.c.o.Log.Warn("remote's rsync is older than 3.1.3: listed files are sent whatever their times", "remote", e.c.Name())
		return e.c.run(ctx, j)
	}
	return err
}

// refusesModifyWindow: a receiver before 3.1.3 does not know -@-1.
func refusesModifyWindow(stderr string) bool {
	return strings.Contains(stderr, "modify-window") || strings.Contains(stderr, "-@")
}
