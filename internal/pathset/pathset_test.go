package pathset

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestAddMergesWhatSaysTheSame(t *testing.T) {
	for _, c := range []struct {
		name      string
		add, want []Path
	}{
		{"a tree swallows names below it", []Path{{Rel: "d/a"}, {Rel: "d/e/f"}, {Rel: "d", Tree: true}}, []Path{{Rel: "d", Tree: true}}},
		{"names below a tree add nothing", []Path{{Rel: "d", Tree: true}, {Rel: "d/a"}}, []Path{{Rel: "d", Tree: true}}},
		{"a plain tree leaves removed names standing", []Path{{Rel: "d/a", Gone: true}, {Rel: ".", Tree: true}}, []Path{{Rel: ".", Tree: true}, {Rel: "d/a", Gone: true}}},
		{"a plain tree leaves mirrors standing", []Path{{Rel: "d", Tree: true, Mirror: true}, {Rel: ".", Tree: true}}, []Path{{Rel: ".", Tree: true}, {Rel: "d", Tree: true, Mirror: true}}},
		{"a mirror swallows all", []Path{{Rel: "d/a", Gone: true}, {Rel: "d/b", Tree: true}, {Rel: ".", Tree: true, Mirror: true}}, []Path{{Rel: ".", Tree: true, Mirror: true}}},
		{"a removed directory swallows what is below", []Path{{Rel: "d/a"}, {Rel: "d/b", Gone: true}, {Rel: "d", Gone: true}}, []Path{{Rel: "d", Gone: true}}},
		{"a directory where a name was removed is mirrored", []Path{{Rel: "d", Gone: true}, {Rel: "d", Tree: true}}, []Path{{Rel: "d", Tree: true, Mirror: true, Gone: true}}},
		{"a name that came back was removed all the same", []Path{{Rel: "a", Gone: true}, {Rel: "a"}}, []Path{{Rel: "a", Gone: true}}},
		{"names that only begin alike", []Path{{Rel: "d", Tree: true}, {Rel: "da"}}, []Path{{Rel: "d", Tree: true}, {Rel: "da"}}},
		{"the hint New is not kept", []Path{{Rel: "a", New: true}}, []Path{{Rel: "a"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := slices.Collect(Of(c.add...).All()); !slices.Equal(got, c.want) {
				t.Errorf("set of %+v = %+v, want %+v", c.add, got, c.want)
			}
		})
	}
}

var anyPath = rapid.Custom(func(t *rapid.T) Path {
	elems := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c"}), 0, 4).Draw(t, "elems")
	p := Path{Rel: Root}
	if len(elems) > 0 {
		p.Rel = strings.Join(elems, "/")
	}
	p.Tree = rapid.Bool().Draw(t, "tree")
	p.Mirror = p.Tree && rapid.Bool().Draw(t, "mirror")
	p.Gone = rapid.Bool().Draw(t, "gone")
	return p
})

// says tells whether the set says at least as much as p.
func says(s *Set, p Path) bool {
	if own, ok := s.Get(p.Rel); ok && (own.Tree || !p.Tree) && (own.Mirror || !p.Mirror) && (own.Gone || own.Mirror || !p.Gone) {
		return true
	}
	for above := range s.Above(p.Rel) {
		if above.Rel != p.Rel && swallows(above, p) || above.Rel != p.Rel && above.Gone && !p.Tree {
			return true
		}
	}
	return false
}

func TestNothingAddedIsLost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		paths := rapid.SliceOf(anyPath).Draw(t, "paths")
		s := Of(paths...)
		for _, p := range paths {
			if !says(s, p) {
				t.Fatalf("%+v is lost in %+v", p, slices.Collect(s.All()))
			}
		}
		all := slices.Collect(s.All())
		if len(all) != s.Len() {
			t.Fatalf("Len = %d, All yields %d", s.Len(), len(all))
		}
		if !slices.IsSortedFunc(all, func(a, b Path) int { return slices.Compare(split(a.Rel), split(b.Rel)) }) {
			t.Fatalf("All is not sorted: %+v", all)
		}
		if again := slices.Collect(s.Clone().All()); !slices.Equal(all, again) {
			t.Fatalf("Clone = %+v, want %+v", again, all)
		}
	})
}

func TestCollapseCoversEveryNameAndKeepsRemovals(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := Of(rapid.SliceOf(anyPath).Draw(t, "paths")...)
		before := slices.Collect(s.All())
		limit := rapid.IntRange(0, 5).Draw(t, "limit")
		s.Collapse(limit)
		for _, p := range before {
			if !says(s, p) {
				t.Fatalf("Collapse(%d) lost %+v of %+v: %+v", limit, p, before, slices.Collect(s.All()))
			}
		}
		for p := range s.All() {
			if p.Mirror && !slices.ContainsFunc(before, func(b Path) bool { return b.Rel == p.Rel && (b.Mirror || b.Gone) }) {
				t.Fatalf("Collapse made a mirror of %q", p.Rel)
			}
		}
	})
}

func TestRemoveTakesExactlyOneEntry(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := Of(rapid.SliceOfN(anyPath, 1, 20).Draw(t, "paths")...)
		all := slices.Collect(s.All())
		out := rapid.SampledFrom(all).Draw(t, "out")
		s.Remove(out.Rel)
		want := slices.DeleteFunc(slices.Clone(all), func(p Path) bool { return p == out })
		if got := slices.Collect(s.All()); !slices.Equal(got, want) || s.Len() != len(want) {
			t.Fatalf("after Remove(%q) = %+v, want %+v", out.Rel, got, want)
		}
	})
}

func TestCoversAndTouches(t *testing.T) {
	s := Of(Path{Rel: "d", Tree: true}, Path{Rel: "e/f"})
	for _, c := range []struct {
		rel             string
		covers, touches bool
	}{{"d", true, true}, {"d/x", true, true}, {"e", false, true}, {"e/f", true, true}, {"e/f/g", false, false}, {".", false, true}, {"x", false, false}} {
		if s.Covers(c.rel) != c.covers || s.Touches(c.rel) != c.touches {
			t.Errorf("%q: Covers %v, Touches %v, want %v, %v", c.rel, s.Covers(c.rel), s.Touches(c.rel), c.covers, c.touches)
		}
	}
}
