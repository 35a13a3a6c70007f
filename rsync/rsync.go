// Package rsync is the only room that knows rsync: its options, its process,
// its exit codes, and what a remote's rsync can do.
package rsync

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"regexp"
	"strconv"
	"sync/atomic"
	"time"
)

// Options are the settings of a Client.
type Options struct {
	Binary       string        // "" = rsync from PATH
	Root         string        // absolute real path of the source; every child runs there
	Target       string        // user@ip::module, or user@ip:path with SSH
	SSH          bool          // the target is reached by ssh, not a rsync daemon
	SSHCommand   string        // "" = ssh, without questions and with a limit on connecting
	Port         int           // 0 = rsync's or ssh's own
	PasswordFile string        // "" = none
	BWLimit      string        // rsync's --bwlimit; "" = none
	Timeout      time.Duration // of a silent peer, for rsync's --timeout; 0 = 60 s for trees, 5 min watched from here for names
	Params       []string      // the operator's options; ours overrule them
	Delete       bool          // false: nothing is ever removed anywhere

	// Exclude is the filter: what it takes is neither sent nor removed. nil =
	// nothing is excluded.
	Exclude func(rel string, dir bool) bool
	// WholeExclude are rsync patterns for runs of the whole tree.
	WholeExclude []string
	// Guard is asked before anything is removed; an error holds removals while
	// the rest goes on. nil = removals always go.
	Guard func() error
	// Progress hears of runs of the whole tree; nil = nobody looks.
	Progress func(Progress)
	Log      *slog.Logger // nil = discard
}

// Progress is how far a run of a whole tree is.
type Progress struct {
	Bytes   int64 // sent so far
	Percent int   // share of the bytes known so far
	ToCheck int   // paths still to be looked at
	Total   int   // paths known so far
}

// Stats are a client's totals.
type Stats struct {
	Runs         int64 // rsync processes
	Sent         int64 // bytes to the remote
	SkippedNewer int64 // files that -u kept from being sent
}

// Client makes one remote equal to one source. Its methods may be called from
// several goroutines.
type Client struct {
	o       Options
	silence time.Duration // after which a run that moves no byte is ended

	removal  atomic.Int32 // a removalWay
	wholeSec atomic.Bool  // the remote refuses --modify-window=-1

	runs, sent, skipped atomic.Int64
}

// New makes a client; it starts nothing.
func New(o Options) *Client {
	if o.Binary == "" {
		o.Binary = "rsync"
	}
	if o.SSHCommand == "" {
		o.SSHCommand = "ssh -o BatchMode=yes -o ConnectTimeout=10"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Client{o: o, silence: silence}
}

// Name is the target, with its port where it has one of its own.
func (c *Client) Name() string {
	if c.o.Port == 0 {
		return c.o.Target
	}
	return c.o.Target + " port " + strconv.Itoa(c.o.Port)
}

// Stats returns the totals so far.
func (c *Client) Stats() Stats {
	return Stats{Runs: c.runs.Load(), Sent: c.sent.Load(), SkippedNewer: c.skipped.Load()}
}

var versionLine = regexp.MustCompile(`^rsync +version v?(\d+)\.(\d+)(\S*)`)

// FindBinary looks for rsync 3.1 or newer in PATH.
func FindBinary() (path, version string, err error) {
	path, err = exec.LookPath("rsync")
	if err != nil {
		return "", "", errors.New("rsync is not installed; install it: apt-get install rsync (Debian, Ubuntu), yum install rsync (RHEL, CentOS)")
	}
	out, err := exec.Command(path, "--version").Output()
	if err != nil {
		return "", "", fmt.Errorf("run %s --version: %w", path, err)
	}
	m := versionLine.FindSubmatch(bytes.TrimSpace(out))
	if m == nil {
		return "", "", fmt.Errorf("%s does not say its version; is it rsync?", path)
	}
	version = string(m[1]) + "." + string(m[2]) + string(m[3])
	major, _ := strconv.Atoi(string(m[1]))
	minor, _ := strconv.Atoi(string(m[2]))
	if major < 3 || major == 3 && minor < 1 {
		return "", "", fmt.Errorf("%s is version %s, and 3.1 is needed; install a newer one: apt-get install rsync, yum install rsync", path, version)
	}
	return path, version, nil
}
