package threadpool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"gosersync/internal/pathset"
)

// fake is a remote whose behaviour a test decides.
type fake struct {
	name string
	sync func(ctx context.Context, set *pathset.Set, alive func()) error
}

func (f *fake) Name() string { return f.name }
func (f *fake) Sync(ctx context.Context, set *pathset.Set, alive func()) error {
	return f.sync(ctx, set, alive)
}

// ledger is an Observer that remembers.
type ledger struct {
	mu     sync.Mutex
	done   map[string][]string
	failed map[string]int
}

func (l *ledger) Done(target string, set *pathset.Set, _ bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done == nil {
		l.done = map[string][]string{}
	}
	l.done[target] = append(l.done[target], rels(set)...)
}

func (l *ledger) Failed(target string, set *pathset.Set, _ error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed == nil {
		l.failed = map[string]int{}
	}
	l.failed[target]++
}

// of is what the target is done with, in order.
func (l *ledger) of(target string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.done[target])
}

// pass lets the bubble's time pass.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func rels(set *pathset.Set) []string {
	var all []string
	for p := range set.All() {
		all = append(all, p.Rel)
	}
	return all
}

// diary notes what runs did, in order.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) add(lines ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, lines...)
}

type partial struct{ left *pathset.Set }

func (p *partial) Error() string           { return "some paths are left" }
func (p *partial) StillLeft() *pathset.Set { return p.left }

func names(rel ...string) *pathset.Set {
	s := &pathset.Set{}
	for _, r := range rel {
		s.Add(pathset.Path{Rel: r})
	}
	return s
}

// drain closes the pool and waits for its end.
func drain(t *testing.T, p *Pool, ended <-chan error) {
	t.Helper()
	p.Close()
	if err := <-ended; err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
}

func start(ctx context.Context, p *Pool) <-chan error {
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	return ended
}

func submit(t *testing.T, p *Pool, target string, set *pathset.Set) {
	t.Helper()
	if err := p.Submit(target, set); err != nil {
		t.Fatal(err)
	}
}

func TestASilentRemoteDoesNotHoldTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &ledger{}
		p := New(Options{Workers: 1, Observer: o})
		ctx, cancel := context.WithCancel(t.Context())
		p.Add(&fake{"silent", func(ctx context.Context, _ *pathset.Set, _ func()) error {
			<-ctx.Done()
			return ctx.Err()
		}})
		p.Add(&fake{"well", func(context.Context, *pathset.Set, func()) error { return nil }})
		ended := start(ctx, p)
		submit(t, p, "silent", names("a"))
		synctest.Wait()
		begin := time.Now()
		submit(t, p, "well", names("a"))
		for pass(0); len(o.of("well")) == 0; pass(time.Millisecond) {
		}
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("the well remote waited %v for the only worker, want about the 1 s of silence", took)
		}
		cancel()
		<-ended
		if o.failed["silent"] == 0 {
			t.Error("what the silent remote did not take was not reported")
		}
	})
}

func TestABusyLaneGathers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs [][]string
		p := New(Options{})
		p.Add(&fake{"r", func(_ context.Context, set *pathset.Set, _ func()) error {
			runs = append(runs, rels(set))
			<-time.After(time.Second)
			return nil
		}})
		ended := start(t.Context(), p)
		submit(t, p, "r", names("a"))
		synctest.Wait()
		for i := range 100 {
			submit(t, p, "r", names(fmt.Sprintf("b%02d", i)))
		}
		drain(t, p, ended)
		if len(runs) != 2 || len(runs[1]) != 100 {
			t.Errorf("runs = %v, want one of a and one of the 100 names that came meanwhile", runs)
		}
	})
}

func TestANameBelowATreeInFlightGoesAtOnceAndOnceMoreAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log diary
		p := New(Options{})
		p.Add(&fake{"r", func(_ context.Context, set *pathset.Set, _ func()) error {
			log.add(rels(set)...)
			if set.Covers("anything") {
				<-time.After(time.Minute)
				log.add("tree landed")
			}
			return nil
		}})
		ended := start(t.Context(), p)
		submit(t, p, "r", pathset.Of(pathset.Path{Rel: ".", Tree: true}))
		synctest.Wait()
		submit(t, p, "r", names("a"))
		synctest.Wait()
		drain(t, p, ended)
		if want := []string{".", "a", "tree landed", "a"}; !slices.Equal(log.lines, want) {
			t.Errorf("runs in order = %v, want %v", log.lines, want)
		}
	})
}

func TestADeadRemoteIsTriedAgainWithGrowingPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries []time.Duration
		var tried atomic.Int32
		begin := time.Now()
		p := New(Options{Ceiling: 10 * time.Second})
		p.Add(&fake{"r", func(context.Context, *pathset.Set, func()) error {
			tries = append(tries, time.Since(begin))
			if tried.Add(1) < 8 {
				return errors.New("connection refused")
			}
			return nil
		}})
		ended := start(t.Context(), p)
		submit(t, p, "r", names("a"))
		for pass(0); tried.Load() < 8; pass(time.Second) {
		}
		drain(t, p, ended)
		for i, want := range []time.Duration{0, 1, 3, 7, 15, 25, 35, 45} {
			low, high := want*time.Second*3/4, want*time.Second*5/4
			if tries[i] < low || tries[i] > high {
				t.Errorf("try %d after %v, want between %v and %v", i+1, tries[i], low, high)
			}
		}
	})
}

func TestWhatIsLeftOnAWellRemoteIsTriedApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &ledger{}
		var runs [][]string
		var tries atomic.Int32
		p := New(Options{Observer: o})
		p.Add(&fake{"r", func(_ context.Context, set *pathset.Set, _ func()) error {
			runs = append(runs, rels(set))
			if set.Covers("bad") {
				if tries.Add(1) < 3 {
					return &partial{names("bad")}
				}
			}
			return nil
		}})
		ended := start(t.Context(), p)
		submit(t, p, "r", names("bad", "good"))
		synctest.Wait()
		submit(t, p, "r", names("other"))
		for pass(0); tries.Load() < 3; pass(time.Second) {
		}
		drain(t, p, ended)
		want := [][]string{{"bad", "good"}, {"other"}, {"bad"}, {"bad"}}
		if !slices.EqualFunc(runs, want, slices.Equal) {
			t.Errorf("runs = %v, want %v", runs, want)
		}
		if done := o.of("r"); !slices.Equal(done, []string{"good", "other", "bad"}) {
			t.Errorf("done = %v, want good, other, bad", done)
		}
	})
}

func TestSmallNamesDoNotWaitBehindBulk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &ledger{}
		p := New(Options{Observer: o, Bulk: func(_ string, p pathset.Path) bool { return p.Rel == "big" }})
		p.Add(&fake{"r", func(_ context.Context, set *pathset.Set, _ func()) error {
			if set.Covers("big") {
				<-time.After(time.Hour)
			}
			return nil
		}})
		ended := start(t.Context(), p)
		submit(t, p, "r", names("big"))
		synctest.Wait()
		submit(t, p, "r", names("big", "small"))
		synctest.Wait()
		if !slices.Equal(o.of("r"), []string{"small"}) {
			t.Errorf("done while big is in flight = %v, want small", o.of("r"))
		}
		drain(t, p, ended)
		if !slices.Equal(o.of("r"), []string{"small", "big", "big"}) {
			t.Errorf("done = %v, want small, and big once for each submission", o.of("r"))
		}
	})
}

func TestRemoveEndsALaneAndItsRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Options{})
		p.Add(&fake{"r", func(ctx context.Context, _ *pathset.Set, _ func()) error {
			<-ctx.Done()
			return ctx.Err()
		}})
		ended := start(t.Context(), p)
		submit(t, p, "r", names("a"))
		synctest.Wait()
		p.Remove("r")
		if err := p.Submit("r", names("a")); err == nil {
			t.Error("Submit to a removed target = nil, want an error")
		}
		drain(t, p, ended)
	})
}

// Whatever is submitted, and however often the remote fails, the last version
// of every name ends on the remote.
func TestNothingSubmittedIsLost(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		outcomes := rapid.SliceOfN(rapid.IntRange(0, 3), 0, 40).Draw(rt, "outcomes")
		ops := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "d", "d/x", "d/y", "e/f/g", "."}), 1, 60).Draw(rt, "ops")
		gaps := rapid.SliceOfN(rapid.IntRange(0, 3000), len(ops), len(ops)).Draw(rt, "gaps")
		synctest.Test(t, func(*testing.T) { replay(rt, outcomes, ops, gaps) })
	})
}

// model is a source where every name has a version, and a remote that copies
// the versions it sees at the start of a run when the run ends.
type model struct {
	mu             sync.Mutex
	source, remote map[string]int
	outcomes       []int
}

func (m *model) sync(_ context.Context, set *pathset.Set, _ func()) error {
	m.mu.Lock()
	seen := map[string]int{}
	for name, v := range m.source {
		if set.Covers(name) {
			seen[name] = v
		}
	}
	outcome := 0
	if len(m.outcomes) > 0 {
		outcome, m.outcomes = m.outcomes[0], m.outcomes[1:]
	}
	m.mu.Unlock()
	<-time.After(700 * time.Millisecond)
	m.mu.Lock()
	defer m.mu.Unlock()
	if outcome == 1 {
		return errors.New("connection refused")
	}
	for name, v := range seen {
		m.remote[name] = v
	}
	if outcome == 2 {
		return &partial{set.Clone()}
	}
	return nil
}

func replay(rt *rapid.T, outcomes []int, ops []string, gaps []int) {
	m := &model{source: map[string]int{}, remote: map[string]int{}, outcomes: outcomes}
	p := New(Options{Limit: 4, Bulk: func(_ string, p pathset.Path) bool { return p.Tree || p.Rel == "b" }})
	p.Add(&fake{"r", m.sync})
	ctx, cancel := context.WithCancel(context.Background())
	ended := start(ctx, p)
	for i, name := range ops {
		m.mu.Lock()
		if name != "." {
			m.source[name] = i + 1
		}
		m.mu.Unlock()
		if err := p.Submit("r", pathset.Of(pathset.Path{Rel: name, Tree: name == "."})); err != nil {
			rt.Fatal(err)
		}
		<-time.After(time.Duration(gaps[i]) * time.Millisecond)
	}
	for range 10_000 {
		if p.States()["r"].Pending == 0 {
			break
		}
		<-time.After(time.Second)
	}
	cancel()
	<-ended
	for name, v := range m.source {
		if m.remote[name] != v {
			rt.Errorf("remote has version %d of %q, want %d", m.remote[name], name, v)
		}
	}
}
