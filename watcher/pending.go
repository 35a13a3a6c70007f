package watcher

import (
	"os"
	"time"

	"gosersync/internal/pathset"
)

// createdWait is how long a new regular file waits for its close-write.
const createdWait = time.Second

// pending are regular files that were made and not closed: being written, or
// linked in from an O_TMPFILE, of whose closing nothing is heard.
type pending struct {
	w     *Watcher
	names map[string]*waiting
}

type waiting struct {
	due  time.Time
	wait time.Duration
}

func newPending(w *Watcher) *pending { return &pending{w: w, names: map[string]*waiting{}} }

func (p *pending) len() int { return len(p.names) }

func (p *pending) add(rel string) {
	p.names[rel] = &waiting{due: time.Now().Add(createdWait), wait: createdWait}
}

func (p *pending) forget(rel string) { delete(p.names, rel) }

// expire emits the names that nobody writes any more, and waits longer for the
// others.
func (p *pending) expire(now time.Time) {
	for rel, w := range p.names {
		if w.due.After(now) {
			continue
		}
		if beingWritten(p.w.full(rel)) {
			w.wait = min(2*w.wait, time.Minute)
			w.due = now.Add(w.wait)
			continue
		}
		delete(p.names, rel)
		if _, err := os.Lstat(p.w.full(rel)); err == nil {
			p.w.emit(pathset.Path{Rel: rel, New: true})
		}
	}
}
