package index

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"gosersync/internal/pathset"
)

// bed is a tree and its index.
type bed struct {
	t    *testing.T
	root string
	file string
	x    *Index
}

func newBed(t *testing.T) *bed {
	b := &bed{t: t, root: t.TempDir(), file: filepath.Join(t.TempDir(), "index")}
	b.reopen()
	return b
}

func (b *bed) reopen() {
	b.t.Helper()
	if b.x != nil {
		b.must(b.x.Close())
	}
	x, err := Open(b.file, nil)
	b.must(err)
	b.x = x
	b.t.Cleanup(func() { x.Close() })
}

func (b *bed) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bed) write(rels ...string) {
	b.t.Helper()
	for _, rel := range rels {
		b.must(os.MkdirAll(filepath.Dir(filepath.Join(b.root, rel)), 0o755))
		b.must(os.WriteFile(filepath.Join(b.root, rel), nil, 0o644))
	}
}

func (b *bed) remove(rel string) { b.t.Helper(); b.must(os.RemoveAll(filepath.Join(b.root, rel))) }

// compare returns what Compare emits, merged.
func (b *bed) compare() []pathset.Path {
	b.t.Helper()
	s := &pathset.Set{}
	b.must(b.x.Compare(b.t.Context(), b.root, s.Add))
	return slices.Collect(s.All())
}

func (b *bed) refresh() []pathset.Path {
	b.t.Helper()
	s := &pathset.Set{}
	b.must(b.x.Refresh(b.t.Context(), b.root, s.Add))
	return slices.Collect(s.All())
}

func (b *bed) want(got []pathset.Path, want ...pathset.Path) {
	b.t.Helper()
	if !slices.Equal(got, want) {
		b.t.Errorf("emitted %+v, want %+v", got, want)
	}
}

func TestTheFirstWalkEmitsNothingAndAnUnchangedTreeNeither(t *testing.T) {
	b := newBed(t)
	b.write("a", "d/e/f", "new\nline\xff")
	b.want(b.compare())
	b.reopen()
	b.want(b.compare())
}

func TestExactlyTheRemovedAndTheNewNamesAreEmitted(t *testing.T) {
	b := newBed(t)
	b.write("a", "b", "d/e/f", "d/g", "gone/x/y")
	b.compare()
	b.remove("a")
	b.remove("d/e/f")
	b.remove("gone")
	b.write("new", "dir/x")
	b.reopen()
	b.want(b.compare(),
		pathset.Path{Rel: "a", Gone: true}, pathset.Path{Rel: "d/e/f", Gone: true}, pathset.Path{Rel: "dir", Tree: true},
		pathset.Path{Rel: "gone", Gone: true}, pathset.Path{Rel: "new"})
	b.want(b.compare())
}

func TestADirectoryThatTookAnothersNameIsMirrored(t *testing.T) {
	b := newBed(t)
	b.write("a/old", "b/new")
	b.compare()
	b.remove("a")
	b.must(os.Rename(filepath.Join(b.root, "b"), filepath.Join(b.root, "a")))
	got := b.compare()
	if !slices.Contains(got, pathset.Path{Rel: "a", Tree: true, Mirror: true}) {
		t.Errorf("emitted %+v, want a as a mirror", got)
	}
}

func TestANameThatWasSentAndWentUnseenIsEmitted(t *testing.T) {
	for name, look := range map[string]func(*bed) []pathset.Path{"compare": (*bed).compare, "refresh": (*bed).refresh} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			b.write("d/a", "d/seen")
			b.compare()
			b.write("d/sent")
			b.x.Note(pathset.Path{Rel: "d/sent"})
			b.remove("d/sent")
			b.remove("d/a")
			b.remove("d/seen")
			b.x.Note(pathset.Path{Rel: "d/seen", Gone: true})
			b.want(look(b), pathset.Path{Rel: "d/a", Gone: true}, pathset.Path{Rel: "d/sent", Gone: true})
			b.want(look(b))
		})
	}
}

func TestAnotherRootRemovesNothing(t *testing.T) {
	b := newBed(t)
	b.write("a", "d/b")
	b.compare()
	b.root = t.TempDir() // as when the disk is not mounted
	b.write("other")
	b.want(b.compare())
}

func TestABrokenFileIsSetAside(t *testing.T) {
	b := newBed(t)
	b.must(b.x.Close())
	b.x = nil
	b.must(os.WriteFile(b.file, []byte("no index, and longer than a page is not needed"), 0o600))
	b.reopen()
	b.write("a")
	b.want(b.compare())
	if _, err := os.Stat(b.file + ".broken"); err != nil {
		t.Errorf("the broken file is gone: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(7, []string{"a", "b\n"}))
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, data []byte) {
		ino, names := decode(data)
		if again, same := decode(encode(ino, slices.Clone(names))); len(data) >= 8 && (again != ino || len(same) != len(names)) {
			t.Errorf("decode(%q) = %d, %q, and after encode %d, %q", data, ino, names, again, same)
		}
	})
}
