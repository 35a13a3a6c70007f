package filterqueue

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"gosersync/internal/pathset"
)

func rels(set *pathset.Set) []string {
	var all []string
	for p := range set.All() {
		all = append(all, p.Rel)
	}
	return all
}

// take is the next batch and how long it took to come.
func take(t *testing.T, q *Queue) ([]string, time.Duration) {
	t.Helper()
	begin := time.Now()
	set, err := q.Take(t.Context())
	if err != nil {
		t.Fatalf("Take: %v", err)
	}
	return rels(set), time.Since(begin)
}

// rest closes the queue and returns all that was still in it.
func rest(t *testing.T, q *Queue) []string {
	t.Helper()
	q.Close()
	var all []string
	for {
		set, err := q.Take(t.Context())
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, rels(set)...)
	}
}

func TestABurstIsOneBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(Options{})
		for range 10 {
			q.Add(pathset.Path{Rel: "a"})
			q.Add(pathset.Path{Rel: "b"})
		}
		got, took := take(t, q)
		if !slices.Equal(got, []string{"a", "b"}) || took != 2*time.Millisecond {
			t.Errorf("Take = %v after %v, want a, b after the settle window of 2 ms", got, took)
		}
	})
}

func TestABatchDoesNotWaitForEverWhileEventsGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(Options{})
		go func() {
			for i := range 100 {
				q.Add(pathset.Path{Rel: fmt.Sprint(i)})
				<-time.After(time.Millisecond)
			}
		}()
		if _, took := take(t, q); took > 20*time.Millisecond {
			t.Errorf("first batch after %v, want 20 ms at most", took)
		}
		<-time.After(time.Second)
	})
}

func TestATemporaryNameThatIsGoneInTimeCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(Options{})
		q.Add(pathset.Path{Rel: "d/.f.swp", New: true})
		q.Add(pathset.Path{Rel: "d/.f.swp"})
		<-time.After(time.Second)
		q.Add(pathset.Path{Rel: "d/.f.swp", Gone: true})
		if got := rest(t, q); len(got) != 0 {
			t.Errorf("queue holds %v, want nothing", got)
		}
	})
}

func TestATemporaryNameThatStaysGoesAfterTheHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(Options{})
		q.Add(pathset.Path{Rel: "x.tmp", New: true})
		got, took := take(t, q)
		if !slices.Equal(got, []string{"x.tmp"}) || took < 3*time.Second || took > 3100*time.Millisecond {
			t.Errorf("Take = %v after %v, want x.tmp after 3 s", got, took)
		}
	})
}

func TestTheRemovalOfATemporaryNameThatMayBeAtTheRemoteIsSent(t *testing.T) {
	for name, add := range map[string]func(q *Queue){
		"it was there before we watched": func(q *Queue) { q.Add(pathset.Path{Rel: "x.tmp"}) },
		"a whole tree was sent meanwhile": func(q *Queue) {
			q.Add(pathset.Path{Rel: "x.tmp", New: true})
			q.Carry()()
		},
		"a whole tree is being sent": func(q *Queue) {
			q.Carry()
			q.Add(pathset.Path{Rel: "x.tmp", New: true})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := New(Options{})
				add(q)
				q.Add(pathset.Path{Rel: "x.tmp", Gone: true})
				if got := rest(t, q); !slices.Equal(got, []string{"x.tmp"}) {
					t.Errorf("queue holds %v, want x.tmp", got)
				}
			})
		})
	}
}

func TestTempDropIsSersyncsRule(t *testing.T) {
	q := New(Options{Temp: Drop})
	for _, rel := range []string{".htaccess", "a~", "d/4913", "d/.x"} {
		q.Add(pathset.Path{Rel: rel})
	}
	q.Add(pathset.Path{Rel: "a.tmp"})
	q.Add(pathset.Path{Rel: ".d", Tree: true})
	if got, want := rest(t, q), []string{".d", "a.tmp"}; !slices.Equal(got, want) {
		t.Errorf("queue holds %v, want %v", got, want)
	}
}

func TestTempSendHoldsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(Options{Temp: Send})
		q.Add(pathset.Path{Rel: "a.tmp", New: true})
		if got, took := take(t, q); !slices.Equal(got, []string{"a.tmp"}) || took > time.Second {
			t.Errorf("Take = %v after %v, want a.tmp at once", got, took)
		}
	})
}

func TestCloseHandsOutWhatIsHeld(t *testing.T) {
	q := New(Options{})
	q.Add(pathset.Path{Rel: "a.tmp", New: true})
	q.Add(pathset.Path{Rel: "b"})
	if got, want := rest(t, q), []string{"a.tmp", "b"}; !slices.Equal(got, want) {
		t.Errorf("after Close the queue gives %v, want %v", got, want)
	}
}

func TestTooManyNamesAreWidenedAndNoneIsLost(t *testing.T) {
	q := New(Options{Limit: 100})
	for i := range 1000 {
		q.Add(pathset.Path{Rel: fmt.Sprintf("d%d/f%d", i%7, i)})
		q.Add(pathset.Path{Rel: fmt.Sprintf("gone%d", i%50), Gone: true})
	}
	if n := q.Len(); n > 150 {
		t.Errorf("Len = %d, want at most the limit and the removed names", n)
	}
	q.Close()
	set, err := q.Take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		if rel := fmt.Sprintf("d%d/f%d", i%7, i); !set.Covers(rel) {
			t.Fatalf("%s is lost", rel)
		}
		gone := fmt.Sprintf("gone%d", i%50)
		if p, ok := set.Get(gone); !ok || !p.Gone || p.Tree {
			t.Fatalf("Get(%s) = %+v, %v, want the removed name as it was", gone, p, ok)
		}
	}
}

func TestTheRemovalOfADirectorySwallowsWhatIsQueuedBelow(t *testing.T) {
	q := New(Options{})
	q.Add(pathset.Path{Rel: "d/a"})
	q.Add(pathset.Path{Rel: "d/b", Gone: true})
	q.Add(pathset.Path{Rel: "d", Gone: true})
	if got := rest(t, q); !slices.Equal(got, []string{"d"}) {
		t.Errorf("queue holds %v, want d", got)
	}
}

func TestExcluderTriesAllThreeSpellings(t *testing.T) {
	for _, c := range []struct {
		re, rel string
		dir     bool
		want    bool
	}{
		{`(.*)\.svn`, "a/.svn", true, true},
		{`(.*)\.gz`, "x.gz", false, true},
		{`(.*)\.gz`, "d/x.gz", false, true},
		{`^info/*`, "info", true, true},
		{`^info/*`, "info/x", false, true}, // below an excluded directory
		{`^static/*`, "mystatic", true, false},
		{`/a/b`, "a/b", false, true},
		{`a/b`, "a/b", false, false},
		{`a/b/`, "a/b", true, true},
		{`name`, "name", false, true},
		{`name`, "d/name", false, false},
		{`x/`, "x", false, false},
	} {
		re := regexp.MustCompile(`\A(?:` + c.re + `)\z`)
		if got := Excluder([]func(string) bool{re.MatchString})(c.rel, c.dir); got != c.want {
			t.Errorf("%s excludes %q (directory %v) = %v, want %v", c.re, c.rel, c.dir, got, c.want)
		}
	}
}

func TestWhatIsExcludedIsNeitherSentNorRemoved(t *testing.T) {
	re := regexp.MustCompile(`\A(?:cache/)\z`)
	q := New(Options{Exclude: Excluder([]func(string) bool{re.MatchString})})
	q.Add(pathset.Path{Rel: "cache/x"})
	q.Add(pathset.Path{Rel: "cache", Tree: true})
	q.Add(pathset.Path{Rel: "cache", Gone: true})
	if got := rest(t, q); len(got) != 0 {
		t.Errorf("queue holds %v, want nothing", got)
	}
}

func TestTemporary(t *testing.T) {
	for rel, want := range map[string]bool{
		"a~": true, "4913": true, ".f.swp": true, ".f.swo": true, ".f.swx": true, ".#lock": true, "#a#": true,
		".~lock.x.odt#": true, ".goutputstream-ABC123": true, ".name.aB3xYz": true, "a.tmp": true, "d/a.part": true,
		".htaccess": false, ".env": false, ".user.ini": false, "a": false, "#": false, "##": false, "a.swp": false,
		".name.config": false, ".bashrc": false, "4913/x": false, ".a.b": false,
	} {
		if got := Temporary(rel); got != want {
			t.Errorf("Temporary(%q) = %v, want %v", rel, got, want)
		}
	}
}
