// Package conf reads sersync's confxml.xml: every file that sersync 2.5.4
// accepts, and the attributes that gosersync adds. All problems of a file are
// found at once, each with its line and element.
package conf

import (
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"time"
)

// Config is what a file means. Every value has been checked.
type Config struct {
	File       string
	Host       Host
	Debug      bool
	ReloadAuto bool // <head reload="auto">: an edit is applied at once
	Filter     Filter
	Inotify    Inotify
	Trees      []Tree
	FailLog    FailLog
	Crontab    Crontab
	Plugin     string // run after each sync: command, socket, http or refreshCDN; "" = none
	Command    *CommandPlugin
	Socket     *SocketPlugin
	HTTP       *HTTPPlugin
	CDN        *CDNPlugin
	Warnings   []Problem
}

// Host is the address of the status page.
type Host struct {
	IP   string
	Port int
}

// Filter is <filter>.
type Filter struct {
	Enabled bool
	Temp    string // hold, drop or send
	Exclude []Matcher
}

// Inotify says which kernel events count.
type Inotify struct {
	Delete, CreateFolder, CreateFile, CloseWrite, MoveFrom, MoveTo, Attrib, Modify bool
}

// Tree is a localpath.
type Tree struct {
	Watch   string // absolute, no trailing slash; bytes as in the file
	Backend string // "", inotify or fsnotify
	Remotes []Remote
	Line    int
}

// Remote is a remote with everything that <rsync> says for all of them.
type Remote struct {
	IP, Name     string
	User         string
	PasswordFile string
	Port         int // 0 = rsync's own
	SSH          bool
	Params       []string
	BWLimit      string
	Timeout      time.Duration // 0 = not given
	Line         int
}

// Target is the remote as rsync names it.
func (r Remote) Target() string {
	host := r.IP
	if ip := net.ParseIP(host); ip != nil && ip.To4() == nil {
		host = "[" + host + "]"
	}
	if r.User != "" {
		host = r.User + "@" + host
	}
	if r.SSH {
		return host + ":" + r.Name
	}
	return host + "::" + r.Name
}

// FailLog is <failLog>.
type FailLog struct {
	Path  string
	Every time.Duration
}

// Crontab is <crontab>.
type Crontab struct {
	Enabled  bool
	Text     string // the schedule as it stands in the file
	Schedule Schedule
	Exclude  []string // rsync patterns
}

// Schedule tells when the next resync is.
type Schedule interface{ Next(time.Time) time.Time }

// CommandPlugin is <plugin name="command">.
type CommandPlugin struct {
	Prefix, Suffix string
	IgnoreError    bool
	Filter         bool
	Include        []Matcher
}

// SocketPlugin is <plugin name="socket">.
type SocketPlugin struct {
	Watch, IP string
	Port      int
}

// HTTPPlugin is <plugin name="http">.
type HTTPPlugin struct {
	Watch, URL string
	Port       int
}

// CDNPlugin is <plugin name="refreshCDN">.
type CDNPlugin struct {
	Watch, Domain  string
	Port           int
	User, Password string
	Base           string
	Regex          bool
	Match          *regexp.Regexp // its first group and what follows make the URL
}

// Problem is something wrong, or doubtful, at a place of the file.
type Problem struct {
	File    string
	Line    int
	Element string // head/sersync/localpath@watch
	Text    string
}

func (p Problem) String() string {
	place := p.File
	if p.Line > 0 {
		place = fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	if p.Element == "" {
		return place + ": " + p.Text
	}
	return place + ": " + p.Element + ": " + p.Text
}

// Error is every problem of a file that keeps it from being used.
type Error struct{ Problems []Problem }

func (e *Error) Error() string {
	lines := make([]string, 0, len(e.Problems))
	for _, p := range e.Problems {
		lines = append(lines, p.String())
	}
	return strings.Join(lines, "\n")
}

// Load reads a file. What is wrong is an *Error.
func Load(file string) (*Config, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, &Error{[]Problem{{File: file, Text: fmt.Sprintf("cannot be read: %v; name the configuration with -o FILE", err)}}}
	}
	return Parse(file, data)
}

// Parse reads a file's bytes. What is wrong is an *Error.
func Parse(file string, data []byte) (*Config, error) {
	doc, line, err := readXML(data)
	if err != nil {
		return nil, &Error{[]Problem{{File: file, Line: line, Text: "is not XML: " + err.Error()}}}
	}
	p := &parser{doc: doc, cfg: &Config{File: file}}
	p.head()
	if len(p.errors) > 0 {
		return nil, &Error{p.errors}
	}
	return p.cfg, nil
}
