// Package plugin tells others of a change: sersync's command, socket, http and
// refreshCDN.
package plugin

import (
	"path/filepath"
	"time"
)

// Event is one path that has changed, and that every remote has answered for.
type Event struct {
	Root string // the watched directory
	Rel  string // below it; bytes, not text
	Dir  bool
	Gone bool   // it was removed
	Mask uint32 // inotify's, for those who want it
}

// Path is the absolute name.
func (e Event) Path() string { return filepath.Join(e.Root, e.Rel) }

// patience is how long a plugin may take where its options do not say.
const patience = time.Minute

func limit(d time.Duration) time.Duration {
	if d == 0 {
		return patience
	}
	return d
}
