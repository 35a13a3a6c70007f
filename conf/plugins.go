package conf

import (
	"regexp"
	"slices"
	"strings"

	"github.com/beevik/etree"
)

var pluginNames = []string{"command", "socket", "http", "refreshCDN"}

// plugins reads the settings of each plugin: <plugin name="..."> below head.
func (p *parser) plugins(head *etree.Element) {
	for _, e := range head.SelectElements("plugin") {
		name, _ := attr(e, "name")
		switch {
		case name == "command" && p.cfg.Command == nil:
			p.command(e)
		case name == "socket" && p.cfg.Socket == nil:
			p.socket(e)
		case name == "http" && p.cfg.HTTP == nil:
			p.http(e)
		case name == "refreshCDN" && p.cfg.CDN == nil:
			p.cdn(e)
		case !slices.Contains(pluginNames, name):
			p.warn(e, "name", "%q is unknown and has no effect; known are: %s", name, strings.Join(pluginNames, ", "))
		}
	}
	p.after(p.child(p.child(head, "sersync"), "plugin"))
}

// after checks the plugin that runs after each sync.
func (p *parser) after(e *etree.Element) {
	name := p.cfg.Plugin
	has := map[string]bool{
		"command": p.cfg.Command != nil, "socket": p.cfg.Socket != nil, "http": p.cfg.HTTP != nil, "refreshCDN": p.cfg.CDN != nil,
	}
	switch {
	case name == "":
	case !slices.Contains(pluginNames, name):
		p.fail(e, "name", "%q is unknown; allowed: %s", name, strings.Join(pluginNames, ", "))
	case !has[name]:
		p.fail(e, "name", "there is no <plugin name=%q> with its settings", name)
	}
}

func (p *parser) command(e *etree.Element) {
	param := p.child(e, "param")
	c := &CommandPlugin{IgnoreError: p.flag(param, "ignoreError", false)}
	c.Prefix, _ = attr(param, "prefix")
	c.Suffix, _ = attr(param, "suffix")
	if strings.TrimSpace(c.Prefix) == "" {
		p.fail(e, "", `has no <param prefix="/bin/sh" .../>, so there is no command`)
	}
	f := p.child(e, "filter")
	c.Filter = p.flag(f, "start", false)
	c.Include = p.matchers(f, "include")
	p.cfg.Command = c
}

// place reads a plugin's localpath and the element in it that says where to
// send; nil if there is none.
func (p *parser) place(e *etree.Element, name string) (watch string, where *etree.Element) {
	l := p.child(e, "localpath")
	if l == nil {
		p.fail(e, "", "has no <localpath watch=\"/dir\">")
		return "", nil
	}
	watch = p.watch(l)
	if where = p.child(l, name); where == nil {
		p.fail(l, "", "has no <%s>", name)
	}
	return watch, where
}

func (p *parser) socket(e *etree.Element) {
	watch, to := p.place(e, "deshost")
	s := &SocketPlugin{Watch: watch, Port: p.number(to, "port", 1, 65535, 0)}
	s.IP, _ = attr(to, "ip")
	p.cfg.Socket = s
}

func (p *parser) http(e *etree.Element) {
	watch, to := p.place(e, "deshost")
	h := &HTTPPlugin{Watch: watch, Port: p.number(to, "port", 1, 65535, 80)}
	h.URL, _ = attr(to, "url")
	p.cfg.HTTP = h
}

func (p *parser) cdn(e *etree.Element) {
	watch, to := p.place(e, "cdninfo")
	c := &CDNPlugin{Watch: watch, Port: p.number(to, "port", 1, 65535, 80)}
	c.Domain, _ = attr(to, "domainname")
	c.User, _ = attr(to, "username")
	c.Password, _ = attr(to, "passwd")
	l := p.child(e, "localpath")
	c.Base, _ = attr(p.child(l, "sendurl"), "base")
	re := p.child(l, "regexurl")
	c.Regex = p.flag(re, "regex", false)
	if text, _ := attr(re, "match"); c.Regex {
		m, err := regexp.Compile(text)
		if err != nil {
			p.fail(re, "match", "%q is not a regular expression: %v", text, err)
		}
		c.Match = m
	}
	p.cfg.CDN = c
}

// hints warns of what is allowed and seldom meant.
func (p *parser) hints() {
	for i, a := range p.cfg.Trees {
		for _, b := range p.cfg.Trees[i+1:] {
			if strings.HasPrefix(b.Watch, a.Watch+"/") || strings.HasPrefix(a.Watch, b.Watch+"/") {
				p.cfg.Warnings = append(p.cfg.Warnings, Problem{File: p.cfg.File, Line: b.Line, Element: "head/sersync/localpath@watch",
					Text: b.Watch + " and " + a.Watch + " lie in one another: files below both are sent twice"})
			}
		}
	}
}
