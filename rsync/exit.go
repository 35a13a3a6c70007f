package rsync

import (
	"fmt"
	"strings"

	"gosersync/internal/pathset"
)

// Kind is what an exit code means for the remote.
type Kind string

// The kinds of failure, from the exit codes of rsync(1) and what it prints.
const (
	Down     Kind = "down"     // not reachable, silent, or broken off
	Busy     Kind = "busy"     // "max connections" reached
	Config   Kind = "config"   // somebody must change a setting
	Full     Kind = "full"     // the remote's disk, or another I/O error there
	Partial  Kind = "partial"  // the rest was sent
	Vanished Kind = "vanished" // names went while rsync looked
	Other    Kind = "other"
)

// ExitError is a run that did not end with 0.
type ExitError struct {
	Code   int // rsync's exit code; -1 = it did not end by itself
	Target string
	Stderr string // the end of what it printed
	Kind   Kind
	Err    error // of the process; may be nil
}

func (e *ExitError) Error() string {
	text := lastLine(e.Stderr)
	if text == "" && e.Err != nil {
		text = e.Err.Error()
	}
	return fmt.Sprintf("rsync exit %d: %s%s", e.Code, text, e.hint())
}

func (e *ExitError) Unwrap() error { return e.Err }

// Temporary tells whether waiting alone may help.
func (e *ExitError) Temporary() bool { return e.Kind != Config }

func (e *ExitError) hint() string {
	switch {
	case e.Kind == Config && strings.Contains(e.Stderr, "auth failed"):
		return "; mend users and passwordfile in the XML, or auth users and secrets file in the remote's rsyncd.conf"
	case e.Kind == Config && strings.Contains(e.Stderr, "nknown module"):
		return "; mend remote@name in the XML, or add the module to the remote's rsyncd.conf"
	case e.Kind == Config && strings.Contains(e.Stderr, "read only"):
		return "; set read only = no for the module in the remote's rsyncd.conf"
	case e.Kind == Config && strings.Contains(e.Stderr, "password file"):
		return "; chmod 600 the password file"
	case e.Kind == Busy:
		return "; waiting for a free connection (max connections in the remote's rsyncd.conf)"
	}
	return ""
}

// kindOf reads the exit code, and the text where the code alone leaves it open.
func kindOf(code int, stderr string) Kind {
	switch code {
	case 23:
		return Partial
	case 24:
		return Vanished
	case 11:
		return Full
	case 5:
		if strings.Contains(stderr, "max connections") {
			return Busy
		}
		return Config
	case 1, 2, 3, 4, 6:
		return Config
	case 10, 12, 13, 14, 20, 21, 30, 35, 127, 137, 255, -1:
		return Down
	}
	return Other
}

// lastLine is the line that says why: rsync's own summary comes after it.
func lastLine(stderr string) string {
	best := ""
	for line := range strings.Lines(stderr) {
		line = strings.TrimSpace(line)
		if line != "" && (best == "" || !strings.HasPrefix(line, "rsync error:") && !strings.HasPrefix(line, "rsync warning:")) {
			best = line
		}
	}
	return best
}

// LeftError is a remote that is well, and paths that are still to be done.
type LeftError struct {
	Left *pathset.Set
	Held bool // removals that the guard holds
	Err  error
}

func (e *LeftError) Error() string {
	return fmt.Sprintf("%d paths are still to be done: %v", e.Left.Len(), e.Err)
}

func (e *LeftError) Unwrap() error { return e.Err }

// StillLeft is the paths that are still to be done.
func (e *LeftError) StillLeft() *pathset.Set { return e.Left }
