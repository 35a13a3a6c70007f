package plugin

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

var hostile = []string{"a b", "$(touch pwned)", "`touch pwned`", "'", `"`, "new\nline", "x\r\nHost: evil", "&pswd=x", "%2e", "#", "?", "\xff\xfe", "-rf", "文件"}

// listen hands what each connection sends to the test, after answer was sent.
func listen(t *testing.T, until, answer string) (port int, got chan string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	got = make(chan string, 100)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			got <- receive(c, until, answer)
		}
	}()
	return l.Addr().(*net.TCPAddr).Port, got
}

// receive reads up to the line until, or to the end where that is "".
func receive(c net.Conn, until, answer string) string {
	defer c.Close()
	if until == "" {
		text, _ := io.ReadAll(c)
		return string(text)
	}
	var b strings.Builder
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		b.WriteString(line)
		if err != nil || line == until {
			break
		}
	}
	_, _ = io.WriteString(c, answer)
	return b.String()
}

func TestSocketSendsTheAbsolutePath(t *testing.T) {
	port, got := listen(t, "", "")
	s := &Socket{IP: "127.0.0.1", Port: port}
	for _, name := range hostile {
		if err := s.Handle(t.Context(), Event{Root: "/srv", Rel: name}); err != nil {
			t.Fatal(err)
		}
		if text := <-got; text != "/srv/"+name {
			t.Errorf("listener got %q, want %q", text, "/srv/"+name)
		}
	}
}

func TestHTTPPostsAForm(t *testing.T) {
	forms := make(chan url.Values, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		forms <- r.PostForm
	}))
	defer server.Close()
	for _, name := range hostile {
		h := &HTTP{URL: server.URL}
		if err := h.Handle(t.Context(), Event{Root: "/srv", Rel: name, Dir: true, Mask: 8}); err != nil {
			t.Fatal(err)
		}
		f := <-forms
		if f.Get("watchroot") != "/srv" || f.Get("inotifyPath") != "/srv/"+name || f.Get("isdir") != "1" || f.Get("mask") != "8" {
			t.Errorf("form for %q = %v", name, f)
		}
	}
}

func TestRefreshCDNAsksInOneLine(t *testing.T) {
	port, got := listen(t, "\r\n", "HTTP/1.0 200 OK\r\nwhatsup: content=\"succeed\"\r\n\r\n")
	var verdict string
	r := &RefreshCDN{Domain: "127.0.0.1", Port: port, User: "u", Password: "p&q", Base: "http://cdn.example", Answer: func(s string) { verdict = s }}
	for _, name := range hostile {
		if err := r.Handle(t.Context(), Event{Root: "/srv", Rel: "d/" + name}); err != nil {
			t.Fatal(err)
		}
		want := "HEAD /index.jsp?user=u&pswd=p%26q&ok=ok&urls=http://cdn.example/d/" + escape(name) + " HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n"
		if text := <-got; text != want {
			t.Errorf("request for %q =\n%q, want\n%q", name, text, want)
		}
	}
	if !strings.Contains(verdict, "succeed") {
		t.Errorf("verdict = %q, want the whatsup line", verdict)
	}
}

func TestRefreshCDNWithAnExpression(t *testing.T) {
	r := &RefreshCDN{Base: "http://cdn", Match: regexp.MustCompile(`^/srv/(site[0-9])/htdocs`)}
	if got, ok := r.target(Event{Root: "/srv", Rel: "site1/htdocs/a b"}); !ok || got != "http://cdnsite1/a%20b" {
		t.Errorf("target = %q, %v", got, ok)
	}
	if got, ok := r.target(Event{Root: "/srv", Rel: "other"}); ok {
		t.Errorf("target of a path that does not match = %q, want none", got)
	}
}

func TestCommandGivesThePathAsOneArgument(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	script := filepath.Join(dir, "note")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nprintf '%s|' \"$@\" > out\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"", "last", "2>&1"} {
		for _, name := range hostile {
			c := &Command{Prefix: script + " 'first one'", Suffix: suffix}
			if err := c.Handle(t.Context(), Event{Root: "/srv", Rel: name}); err != nil {
				t.Fatal(err)
			}
			want := "first one|/srv/" + name + "|"
			if suffix == "last" {
				want += "last|"
			}
			if got, _ := os.ReadFile("out"); string(got) != want {
				t.Errorf("with suffix %q the command got %q, want %q", suffix, got, want)
			}
		}
	}
	if _, err := os.Stat("pwned"); err == nil {
		t.Error("a name ran as a command")
	}
}

func TestCommandFilterAndErrors(t *testing.T) {
	only := &Command{Prefix: "false", Filter: true, Include: []func(string) bool{func(p string) bool { return strings.HasSuffix(p, ".php") }}}
	if err := only.Handle(t.Context(), Event{Root: "/srv", Rel: "a.txt"}); err != nil {
		t.Errorf("a path that is not included ran: %v", err)
	}
	if err := only.Handle(t.Context(), Event{Root: "/srv", Rel: "a.php"}); err == nil {
		t.Error("a command that fails = nil, want an error")
	}
	ignore := &Command{Prefix: "false", IgnoreError: true}
	if err := ignore.Handle(t.Context(), Event{Root: "/srv", Rel: "a"}); err != nil {
		t.Errorf("with ignoreError = %v, want nil", err)
	}
}

func TestNothingWaitsForEver(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts, never answers
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	const short = 100 * time.Millisecond
	for name, handle := range map[string]func(context.Context, Event) error{
		"http":       (&HTTP{URL: "127.0.0.1", Port: port, Timeout: short}).Handle,
		"refreshCDN": (&RefreshCDN{Domain: "127.0.0.1", Port: port, Timeout: short}).Handle,
		"command":    (&Command{Prefix: "sleep 100 &&", Timeout: short}).Handle,
	} {
		if err := handle(t.Context(), Event{Root: "/srv", Rel: "x"}); err == nil {
			t.Errorf("%s with a silent peer = nil, want an error", name)
		}
	}
}
