package rsync

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// kind is what a run of rsync is for.
type kind int

// longTimeout is --timeout for runs of trees where the operator gives none.
const longTimeout = time.Minute

const (
	names   kind = iota // listed names, and removals
	trees               // listed directories with everything below
	mirrors             // the same, and what is there but not here goes
	whole               // the source as a whole
	audit               // lists what a whole or mirrors run would remove
	chain               // removals by sersync's include chain
	look                // asks whether one name is at the remote
)

// args are the options and operands of a run. The operator's options come
// first, so that ours win.
func (c *Client) args(k kind, extra ...string) []string {
	a := userParams(c.o.Params)
	a = append(a, c.connection(k)...)
	a = append(a, c.comparison(k)...)
	a = append(a, selection(k)...)
	a = append(a, "--outbuf=L", "--info=skip1,stats1,flist1") // the first line shows that the remote answers
	a = append(a, extra...)
	if k == look {
		return append(a, c.destination(), ".")
	}
	return append(a, ".", c.destination())
}

// connection is how to reach the remote.
func (c *Client) connection(k kind) []string {
	var a []string
	if d := c.timeout(k); d > 0 {
		a = append(a, "--timeout="+strconv.Itoa(max(1, int(d/time.Second))))
	}
	if c.o.BWLimit != "" {
		a = append(a, "--bwlimit="+c.o.BWLimit)
	}
	if c.o.PasswordFile != "" {
		a = append(a, "--password-file="+c.o.PasswordFile)
	}
	if c.o.SSH {
		return append(a, "-e", c.remoteShell())
	}
	if c.o.Port != 0 {
		a = append(a, "--port="+strconv.Itoa(c.o.Port))
	}
	// Without TCP_NODELAY Nagle's algorithm and delayed acknowledgements cost
	// two to three pauses of 40 ms a run. --timeout does not cover connecting.
	return append(a, "--sockopts=TCP_NODELAY", "--contimeout=10")
}

// timeout is what rsync itself is told of silence: the operator's value, and
// where there is none a default for long runs alone. A daemon that is given
// --timeout answers with a message of its own, which Nagle's algorithm makes
// cost 40 ms; runs of small names are watched from here instead.
func (c *Client) timeout(k kind) time.Duration {
	if c.o.Timeout == 0 && k != names && k != look {
		return longTimeout
	}
	return c.o.Timeout
}

func (c *Client) remoteShell() string {
	if c.o.Port == 0 {
		return c.o.SSHCommand
	}
	return fmt.Sprintf("%s -p %d", c.o.SSHCommand, c.o.Port)
}

// comparison makes rsync look at nanoseconds: by default it takes two versions
// of the same size within one second for the same file. Receivers older than
// 3.1.3 refuse that; there the listed names are sent whatever their times.
func (c *Client) comparison(k kind) []string {
	if !c.wholeSec.Load() {
		return []string{"--modify-window=-1"}
	}
	if k == whole || k == audit {
		return nil
	}
	return []string{"--ignore-times"}
}

func selection(k kind) []string {
	const listed = "--files-from=-"
	switch k {
	case names:
		return []string{"--no-recursive", "--dirs", "--relative", "--from0", listed}
	case trees:
		return []string{"--recursive", "--relative", "--from0", listed}
	case mirrors:
		return []string{"--recursive", "--relative", "--delete", "--force", "--from0", listed}
	case audit:
		return []string{"--recursive", "--relative", "--delete", "--force", "--dry-run", "--from0", listed}
	case chain:
		return []string{"--recursive", "--relative", "--delete", "--force", "--existing", "--ignore-existing", "--from0", "--include-from=-"}
	case look:
		return []string{"--no-recursive", "--dirs", "--relative", "--list-only", "--from0", listed}
	default:
		return []string{"--recursive", "--relative"}
	}
}

// destination is the target as rsync takes it, ending in a slash so that names
// arrive below it.
func (c *Client) destination() string {
	if strings.HasSuffix(c.o.Target, "/") || c.o.SSH && strings.HasSuffix(c.o.Target, ":") {
		return c.o.Target
	}
	return c.o.Target + "/"
}

// userParams is what of the operator's options goes to rsync: deletion is
// decided here, and -r and -R by each run.
func userParams(params []string) []string {
	var a []string
	for _, p := range params {
		if p == "--del" || strings.HasPrefix(p, "--delete") || p == "--force" || p == "--ignore-errors" {
			continue
		}
		a = append(a, p)
	}
	return a
}

// Describe is the options a run of listed names gets, for an operator to read.
func (c *Client) Describe() []string {
	a := append(c.args(names), "", "")
	return append(a[:len(a)-4:len(a)-4], c.removalArgs(true)...)
}

// removalArgs is what a run of names is told of names that are missing.
func (c *Client) removalArgs(allowed bool) []string {
	switch {
	case !c.o.Delete || !allowed:
		return []string{"--ignore-missing-args"}
	case c.way() >= byChain:
		return []string{"--ignore-missing-args", "--force"}
	default:
		return []string{"--delete-missing-args", "--force"}
	}
}
