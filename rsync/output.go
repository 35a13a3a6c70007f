package rsync

import (
	"path"
	"regexp"
	"strconv"
	"strings"
)

var (
	sentLine     = regexp.MustCompile(`^sent ([0-9.,']+) bytes`)
	progressLine = regexp.MustCompile(`^\s*([0-9.,']+)\s+([0-9]+)%.*(?:to|ir)-chk=([0-9]+)/([0-9]+)\)`)
	octal        = regexp.MustCompile(`\\#([0-7]{3})`)
	digits       = strings.NewReplacer(",", "", ".", "", "'", "")
)

// hear takes the totals out of a line and passes it on.
func (c *Client) hear(line string, next func(string)) {
	switch {
	case strings.HasSuffix(line, " is newer"):
		c.skipped.Add(1)
	case c.o.Progress != nil && progressLine.MatchString(line):
		c.o.Progress(parseProgress(line))
	default:
		if m := sentLine.FindStringSubmatch(line); m != nil {
			c.sent.Add(number(m[1]))
		}
	}
	if next != nil {
		next(line)
	}
}

func number(s string) int64 {
	n, _ := strconv.ParseInt(digits.Replace(s), 10, 64)
	return n
}

// parseProgress reads a line of --info=progress2.
func parseProgress(line string) Progress {
	m := progressLine.FindStringSubmatch(line)
	return Progress{
		Bytes:   number(m[1]),
		Percent: int(number(m[2])),
		ToCheck: int(number(m[3])),
		Total:   int(number(m[4])),
	}
}

// unescape undoes rsync's \#ooo for bytes that are not printable.
func unescape(s string) string {
	return octal.ReplaceAllStringFunc(s, func(m string) string {
		n, err := strconv.ParseUint(m[2:], 8, 8)
		if err != nil {
			return m
		}
		return string([]byte{byte(n)})
	})
}

// deletion returns the name in a line of --out-format="%i %n" about something
// that is at the remote and not here.
func deletion(line string) (rel string, dir, ok bool) {
	name, ok := strings.CutPrefix(line, "*deleting")
	if !ok {
		return "", false, false
	}
	name = unescape(strings.TrimPrefix(strings.TrimLeft(name, " "), "./"))
	rel, dir = strings.CutSuffix(name, "/")
	return rel, dir, rel != ""
}

// complaints are the names that rsync could not do, from what it printed.
type complaints struct {
	names []string // relative to the source
	// certain: every line was understood, and the remote skipped nothing else.
	certain bool
}

func complaintsIn(stderr, root string) complaints {
	c := complaints{certain: true}
	for line := range strings.Lines(stderr) {
		line = strings.TrimRight(line, "\r\n")
		switch {
		case line == "", strings.HasPrefix(line, "rsync error: "), strings.HasPrefix(line, "rsync warning: "),
			strings.HasPrefix(line, "*** Skipping any contents"):
		case strings.Contains(line, "skipping file deletion"):
			c.certain = false
		default:
			rel, ok := complaint(line, root)
			if !ok {
				c.certain = false
				continue
			}
			c.names = append(c.names, rel)
		}
	}
	return c
}

// complaint returns the name a line of rsync's is about: the text between its
// first quote and the last, which a name may hold too.
func complaint(line, root string) (rel string, ok bool) {
	from, to := strings.IndexByte(line, '"'), strings.LastIndexByte(line, '"')
	if from >= to {
		return "", false
	}
	name := line[from+1 : to]
	if temp, target, renamed := strings.Cut(name, `" -> "`); renamed {
		_, name = temp, target
	}
	name = path.Clean("/" + unescape(name))
	name = strings.TrimPrefix(name, root)
	name = strings.TrimPrefix(name, "/")
	if name == "" {
		return "", false
	}
	return withoutTemp(name), true
}

// withoutTemp turns a receiver's `.name.XXXXXX` into name.
func withoutTemp(rel string) string {
	dir, base := path.Split(rel)
	if len(base) > 8 && base[0] == '.' && base[len(base)-7] == '.' {
		return dir + base[1:len(base)-7]
	}
	return rel
}
