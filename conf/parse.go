package conf

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/beevik/etree"
	"github.com/mattn/go-shellwords"
	"github.com/robfig/cron/v3"
)

// parser walks a document and gathers what is wrong with it.
type parser struct {
	doc    *document
	cfg    *Config
	errors []Problem
}

// elements are the names known below each element, and their attributes.
var elements = map[string]struct{ attrs, children []string }{
	"head":            {[]string{"version", "reload"}, []string{"host", "debug", "fileSystem", "filter", "inotify", "sersync", "plugin"}},
	"host":            {[]string{"hostip", "port"}, nil},
	"debug":           {[]string{"start"}, nil},
	"fileSystem":      {[]string{"xfs"}, nil},
	"filter":          {[]string{"start", "temp"}, []string{"exclude", "include"}},
	"exclude":         {[]string{"expression"}, nil},
	"include":         {[]string{"expression"}, nil},
	"inotify":         {nil, []string{"delete", "createFolder", "createFile", "closeWrite", "moveFrom", "moveTo", "attrib", "modify"}},
	"delete":          {[]string{"start"}, nil},
	"createFolder":    {[]string{"start"}, nil},
	"createFile":      {[]string{"start"}, nil},
	"closeWrite":      {[]string{"start"}, nil},
	"moveFrom":        {[]string{"start"}, nil},
	"moveTo":          {[]string{"start"}, nil},
	"attrib":          {[]string{"start"}, nil},
	"modify":          {[]string{"start"}, nil},
	"sersync":         {nil, []string{"localpath", "rsync", "failLog", "crontab", "plugin"}},
	"localpath":       {[]string{"watch", "backend"}, []string{"remote", "deshost", "cdninfo", "sendurl", "regexurl"}},
	"remote":          {[]string{"ip", "name", "port", "users", "passwordfile", "ssh", "params", "bwlimit"}, nil},
	"rsync":           {nil, []string{"commonParams", "auth", "userDefinedPort", "timeout", "ssh"}},
	"commonParams":    {[]string{"params"}, nil},
	"auth":            {[]string{"start", "users", "passwordfile"}, nil},
	"userDefinedPort": {[]string{"start", "port"}, nil},
	"timeout":         {[]string{"start", "time"}, nil},
	"ssh":             {[]string{"start"}, nil},
	"failLog":         {[]string{"path", "timeToExecute"}, nil},
	"crontab":         {[]string{"start", "schedule"}, []string{"crontabfilter"}},
	"crontabfilter":   {[]string{"start"}, []string{"exclude"}},
	"plugin":          {[]string{"start", "name"}, []string{"param", "filter", "localpath"}},
	"param":           {[]string{"prefix", "suffix", "ignoreError"}, nil},
	"deshost":         {[]string{"ip", "url", "port"}, nil},
	"cdninfo":         {[]string{"domainname", "port", "username", "passwd"}, nil},
	"sendurl":         {[]string{"base"}, nil},
	"regexurl":        {[]string{"regex", "match"}, nil},
}

func (p *parser) problem(e *etree.Element, attr, format string, args ...any) Problem {
	where := ""
	line := 0
	if e != nil {
		line = p.doc.lines[e]
		for at := e; at != nil && at.Tag != ""; at = at.Parent() {
			where = at.Tag + "/" + where
		}
		where = bytesOf(strings.TrimSuffix(where, "/"))
		if attr != "" {
			where += "@" + attr
		}
	}
	return Problem{File: p.cfg.File, Line: line, Element: where, Text: fmt.Sprintf(format, args...)}
}

func (p *parser) fail(e *etree.Element, attr, format string, args ...any) {
	p.errors = append(p.errors, p.problem(e, attr, format, args...))
}

func (p *parser) warn(e *etree.Element, attr, format string, args ...any) {
	p.cfg.Warnings = append(p.cfg.Warnings, p.problem(e, attr, format, args...))
}

// child is the first element of that name below e, as sersync takes it; nil if
// there is none.
func (p *parser) child(e *etree.Element, name string) *etree.Element {
	if e == nil {
		return nil
	}
	all := e.SelectElements(name)
	if len(all) == 0 {
		return nil
	}
	if len(all) > 1 {
		p.warn(all[1], "", "stands here once more; the one in line %d counts", p.doc.lines[all[0]])
	}
	return all[0]
}

func attr(e *etree.Element, name string) (value string, ok bool) {
	if e == nil {
		return "", false
	}
	a := e.SelectAttr(name)
	if a == nil {
		return "", false
	}
	return bytesOf(a.Value), true
}

// flag is a switch: only "true" is true.
func (p *parser) flag(e *etree.Element, name string, def bool) bool {
	v, ok := attr(e, name)
	if !ok {
		return def
	}
	if v != "true" && v != "false" {
		p.warn(e, name, "%q counts as false, as in sersync; write true or false", v)
	}
	return v == "true"
}

// number is a whole number from low to high; def where the attribute is missing.
func (p *parser) number(e *etree.Element, name string, low, high, def int) int {
	v, ok := attr(e, name)
	if !ok {
		return def
	}
	n, err := strconv.Atoi(strings.TrimSpace(v))
	if err != nil || n < low || n > high {
		p.fail(e, name, "%q is not a whole number from %d to %d", v, low, high)
		return def
	}
	return n
}

func (p *parser) head() {
	h := p.doc.root
	if h.Tag != "head" {
		p.fail(h, "", "the outermost element is <head version=\"2.5\">")
		return
	}
	p.unknown(h)
	switch v, ok := attr(h, "reload"); {
	case !ok:
	case v == "auto":
		p.cfg.ReloadAuto = true
	default:
		p.fail(h, "reload", "%q is unknown; allowed: auto", v)
	}
	host := p.child(h, "host")
	p.cfg.Host.IP, _ = attr(host, "hostip")
	p.cfg.Host.Port = p.number(host, "port", 1, 65535, 8008)
	p.cfg.Debug = p.flag(p.child(h, "debug"), "start", false)
	p.filter(p.child(h, "filter"))
	p.inotify(p.child(h, "inotify"))
	p.sersync(h, p.child(h, "sersync"))
	p.plugins(h)
	p.hints()
}

// unknown warns of what gosersync does not know: a slip of the pen would
// otherwise change nothing, silently.
func (p *parser) unknown(e *etree.Element) {
	known, ok := elements[e.Tag]
	if !ok {
		p.warn(e, "", "unknown element; it has no effect")
		return
	}
	for _, a := range e.Attr {
		if !slices.Contains(known.attrs, a.Key) {
			p.warn(e, bytesOf(a.Key), "unknown attribute; it has no effect; known are: %s", strings.Join(known.attrs, ", "))
		}
	}
	for _, c := range e.ChildElements() {
		if !slices.Contains(known.children, c.Tag) {
			p.warn(c, "", "unknown element here; it has no effect")
			continue
		}
		p.unknown(c)
	}
}

func (p *parser) filter(e *etree.Element) {
	f := &p.cfg.Filter
	f.Enabled = p.flag(e, "start", false)
	f.Temp = "hold"
	if v, ok := attr(e, "temp"); ok {
		if !slices.Contains([]string{"hold", "drop", "send"}, v) {
			p.fail(e, "temp", "%q is unknown; allowed: hold, drop, send", v)
		}
		f.Temp = v
	}
	f.Exclude = p.matchers(e, "exclude")
}

// matchers compiles the expressions of e's children.
func (p *parser) matchers(e *etree.Element, name string) []Matcher {
	var all []Matcher
	if e == nil {
		return nil
	}
	for _, c := range e.SelectElements(name) {
		text, ok := attr(c, "expression")
		if !ok || text == "" {
			p.warn(c, "expression", "is missing or empty, and excludes nothing")
			continue
		}
		m, err := compile(text)
		if err != nil {
			p.fail(c, "expression", "%q is not a regular expression: %v", text, err)
			continue
		}
		all = append(all, m)
	}
	return all
}

func (p *parser) inotify(e *etree.Element) {
	on := func(name string, def bool) bool { return p.flag(p.child(e, name), "start", def) }
	p.cfg.Inotify = Inotify{
		Delete: on("delete", true), CreateFolder: on("createFolder", true), CreateFile: on("createFile", false),
		CloseWrite: on("closeWrite", true), MoveFrom: on("moveFrom", true), MoveTo: on("moveTo", true),
		Attrib: on("attrib", false), Modify: on("modify", false),
	}
}

func (p *parser) sersync(head, e *etree.Element) {
	if e == nil {
		p.fail(head, "", "has no <sersync>, so there is nothing to watch")
		return
	}
	common := p.rsync(p.child(e, "rsync"))
	for _, l := range e.SelectElements("localpath") {
		p.localpath(l, common)
	}
	if len(e.SelectElements("localpath")) == 0 {
		p.fail(e, "", `has no <localpath watch="/dir">, so there is nothing to watch`)
	}
	p.failLog(p.child(e, "failLog"))
	p.crontab(p.child(e, "crontab"))
	after := p.child(e, "plugin")
	if p.flag(after, "start", false) {
		p.cfg.Plugin, _ = attr(after, "name")
	}
}

// rsync is what holds for every remote.
func (p *parser) rsync(e *etree.Element) Remote {
	var r Remote
	params := p.child(e, "commonParams")
	if text, ok := attr(params, "params"); ok {
		r.Params = p.params(params, text)
	} else {
		r.Params = []string{"-artz"}
	}
	if auth := p.child(e, "auth"); p.flag(auth, "start", false) {
		r.User, _ = attr(auth, "users")
		r.PasswordFile, _ = attr(auth, "passwordfile")
		p.password(auth, r.PasswordFile)
	}
	if port := p.child(e, "userDefinedPort"); p.flag(port, "start", false) {
		r.Port = p.number(port, "port", 1, 65535, 0)
	}
	if timeout := p.child(e, "timeout"); p.flag(timeout, "start", false) {
		r.Timeout = time.Duration(p.number(timeout, "time", 1, 1<<20, 0)) * time.Second
	}
	r.SSH = p.flag(p.child(e, "ssh"), "start", false)
	return r
}

func (p *parser) localpath(e *etree.Element, common Remote) {
	t := Tree{Line: p.doc.lines[e], Watch: p.watch(e)}
	if v, ok := attr(e, "backend"); ok {
		if v != "inotify" && v != "fsnotify" {
			p.fail(e, "backend", "%q is unknown; allowed: inotify, fsnotify", v)
		}
		t.Backend = v
	}
	for _, other := range p.cfg.Trees {
		if other.Watch == t.Watch && t.Watch != "" {
			p.fail(e, "watch", "%s is watched by the localpath in line %d already; put the remotes there", t.Watch, other.Line)
		}
	}
	seen := map[string]int{}
	for _, c := range e.SelectElements("remote") {
		r := p.remote(c, common)
		key := r.Target() + " " + strconv.Itoa(r.Port)
		if line, twice := seen[key]; twice {
			p.fail(c, "", "%s stands in line %d already", r.Target(), line)
		}
		seen[key] = r.Line
		t.Remotes = append(t.Remotes, r)
	}
	if len(t.Remotes) == 0 {
		p.warn(e, "", "has no <remote>, so nothing is sent")
	}
	p.cfg.Trees = append(p.cfg.Trees, t)
}

func (p *parser) watch(e *etree.Element) string {
	v, _ := attr(e, "watch")
	switch {
	case v == "":
		p.fail(e, "watch", "is missing or empty; give the directory to watch")
	case !filepath.IsAbs(v):
		p.fail(e, "watch", "%q is not absolute; it begins with /", v)
	case filepath.Clean(v) == "/":
		p.fail(e, "watch", "is the whole machine; name a directory below it")
	default:
		return filepath.Clean(v)
	}
	return ""
}

func (p *parser) remote(e *etree.Element, common Remote) Remote {
	r := common
	r.Line = p.doc.lines[e]
	r.IP, _ = attr(e, "ip")
	r.Name, _ = attr(e, "name")
	for name, v := range map[string]string{"ip": r.IP, "name": r.Name} {
		if strings.TrimSpace(v) == "" {
			p.fail(e, name, `is missing or empty; as in <remote ip="192.168.0.2" name="www"/>`)
		}
		if strings.HasPrefix(v, "-") {
			p.fail(e, name, "%q begins with -, which rsync takes for an option", v)
		}
	}
	r.Port = p.number(e, "port", 1, 65535, r.Port)
	r.SSH = p.flag(e, "ssh", r.SSH)
	if v, ok := attr(e, "users"); ok {
		r.User = v
	}
	if v, ok := attr(e, "passwordfile"); ok {
		r.PasswordFile = v
		p.password(e, v)
	}
	if v, ok := attr(e, "params"); ok {
		r.Params = p.params(e, v)
	}
	if v, ok := attr(e, "bwlimit"); ok {
		if !bwlimit.MatchString(v) {
			p.fail(e, "bwlimit", "%q is not a rate as rsync takes it, such as 1000 (KiB/s) or 1.5m", v)
		}
		r.BWLimit = v
	}
	if r.SSH {
		r.PasswordFile = "" // rsync refuses the option over ssh
		if e.SelectAttr("port") == nil {
			r.Port = 0 // userDefinedPort is the daemon's; sersync never gave it to ssh
		}
	}
	return r
}

func (p *parser) password(e *etree.Element, file string) {
	if file == "" {
		return
	}
	info, err := os.Stat(file)
	switch {
	case err != nil:
		p.warn(e, "passwordfile", "%v", err)
	case info.Mode().Perm()&0o077 != 0:
		p.warn(e, "passwordfile", "%s may be read by others, and rsync will refuse it; run: chmod 600 %s", file, file)
	}
}

// params splits the options as a shell does, and judges them.
func (p *parser) params(e *etree.Element, text string) []string {
	all, err := shellwords.NewParser().Parse(text)
	if err != nil {
		p.fail(e, "params", "%q has a quote that is not closed", text)
		return nil
	}
	var kept []string
	for _, o := range all {
		switch {
		case strings.HasPrefix(o, "--delete") || o == "--del":
			p.warn(e, "params", `%s has no effect: what is removed is decided by <delete start="true"/>`, o)
			continue
		case breaks(o):
			p.fail(e, "params", "%s cannot be used here: gosersync gives rsync the names itself; take it out", o)
		}
		kept = append(kept, o)
	}
	if has(kept, 'u', "--update") {
		p.warn(e, "params", "-u: a file that was replaced by an older one (mv, cp -p, a rollback) is never sent; take -u out, but for two hosts that push to each other, which need it")
	}
	if !has(kept, 't', "--times") && !has(kept, 'a', "--archive") {
		p.warn(e, "params", "without -t or -a every file is sent again at each resync")
	}
	return kept
}

// breaks tells whether an option would defeat how gosersync uses rsync.
func breaks(o string) bool {
	name, _, _ := strings.Cut(o, "=")
	return slices.Contains([]string{"--files-from", "--from0", "--dry-run", "--daemon", "--server", "--sender", "--remove-source-files", "--list-only"}, name) ||
		short(o, 'n') || short(o, '0')
}

// short tells whether o is a cluster of short options with c among them, before
// one that takes the rest as its value.
func short(o string, c byte) bool {
	if len(o) < 2 || o[0] != '-' || o[1] == '-' {
		return false
	}
	for i := 1; i < len(o); i++ {
		if o[i] == c {
			return true
		}
		if strings.IndexByte("eBTfM@", o[i]) >= 0 {
			return false
		}
	}
	return false
}

func has(options []string, c byte, long string) bool {
	return slices.ContainsFunc(options, func(o string) bool { return o == long || short(o, c) })
}

func (p *parser) failLog(e *etree.Element) {
	path, ok := attr(e, "path")
	if !ok {
		path = "/tmp/rsync_fail_log.sh"
	}
	if path != "" && !filepath.IsAbs(path) {
		p.fail(e, "path", "%q is not absolute; it begins with /", path)
	}
	minutes := p.number(e, "timeToExecute", 1, 1<<20, 120)
	p.cfg.FailLog = FailLog{Path: path, Every: time.Duration(minutes) * time.Minute}
}

func (p *parser) crontab(e *etree.Element) {
	c := &p.cfg.Crontab
	c.Enabled = p.flag(e, "start", false)
	c.Text, _ = attr(e, "schedule")
	c.Schedule = p.schedule(e, c.Text)
	f := p.child(e, "crontabfilter")
	if !p.flag(f, "start", false) {
		return
	}
	for _, x := range f.SelectElements("exclude") {
		if v, _ := attr(x, "expression"); v != "" {
			c.Exclude = append(c.Exclude, v)
		}
	}
}

// schedule is minutes, as in sersync, or five fields of cron.
func (p *parser) schedule(e *etree.Element, text string) Schedule {
	const def = 600
	text = strings.TrimSpace(text)
	if strings.ContainsAny(text, " \t@") {
		s, err := cron.ParseStandard(text)
		if err != nil {
			p.fail(e, "schedule", "%q is neither minutes nor a cron line of five fields: %v", text, err)
			return nil
		}
		return s
	}
	minutes, err := strconv.Atoi(text)
	if err != nil || minutes < 1 {
		if text != "" {
			p.warn(e, "schedule", "%q is not a number of minutes; %d is used, as in sersync", text, def)
		}
		minutes = def
	}
	return every(time.Duration(minutes) * time.Minute)
}

// every is a schedule of equal steps.
type every time.Duration

func (d every) Next(now time.Time) time.Time { return now.Add(time.Duration(d)) }
