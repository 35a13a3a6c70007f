package plugin

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Socket sends the absolute path over a TCP connection of its own, without a
// terminator.
type Socket struct {
	IP      string
	Port    int
	Timeout time.Duration // 0 = 1 min
}

// Name implements sersync's -m names.
func (s *Socket) Name() string { return "socket" }

// Handle sends e's path.
func (s *Socket) Handle(ctx context.Context, e Event) error {
	c, err := dial(ctx, s.IP, s.Port, s.Timeout)
	if err != nil {
		return err
	}
	_, err = io.WriteString(c, e.Path())
	if closing := c.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return fmt.Errorf("send path: %w", err)
	}
	return nil
}

// dial connects; the connection ends at the deadline.
func dial(ctx context.Context, host string, port int, timeout time.Duration) (net.Conn, error) {
	deadline := time.Now().Add(limit(timeout))
	d := net.Dialer{Deadline: deadline}
	c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	if err := c.SetDeadline(deadline); err != nil {
		c.Close()
		return nil, fmt.Errorf("connect: %w", err)
	}
	return c, nil
}

// HTTP posts an event as a form.
type HTTP struct {
	URL     string // with or without http://
	Port    int    // 0 = what the URL says
	Timeout time.Duration
}

// Name implements sersync's -m names.
func (h *HTTP) Name() string { return "http" }

// Handle posts e.
func (h *HTTP) Handle(ctx context.Context, e Event) error {
	to, err := h.address()
	if err != nil {
		return err
	}
	isDir := "0"
	if e.Dir {
		isDir = "1"
	}
	body := "watchroot=" + url.QueryEscape(e.Root) + "&isdir=" + isDir +
		"&inotifyPath=" + url.QueryEscape(e.Path()) + "&mask=" + strconv.FormatUint(uint64(e.Mask), 10)
	ctx, cancel := context.WithTimeout(ctx, limit(h.Timeout))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(body))
	if err != nil {
		return fmt.Errorf("post: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("post: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 400 {
		return fmt.Errorf("post: the server answers %s", resp.Status)
	}
	return nil
}

func (h *HTTP) address() (string, error) {
	text := h.URL
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil {
		return "", fmt.Errorf("read url: %w", err)
	}
	if h.Port != 0 && u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), strconv.Itoa(h.Port))
	}
	return u.String(), nil
}

// RefreshCDN asks a content network to fetch a URL anew, in ChinaCache's way.
type RefreshCDN struct {
	Domain         string
	Port           int
	User, Password string
	Base           string         // what stands before the path in the URL
	Match          *regexp.Regexp // nil = the path below the watched directory follows Base
	Timeout        time.Duration
	Answer         func(whatsup string) // hears of the server's verdict; nil = nobody
}

// Name implements sersync's -m names.
func (r *RefreshCDN) Name() string { return "refreshCDN" }

// Handle asks for e's URL.
func (r *RefreshCDN) Handle(ctx context.Context, e Event) error {
	what, ok := r.target(e)
	if !ok {
		return nil
	}
	c, err := dial(ctx, r.Domain, r.Port, r.Timeout)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := io.WriteString(c, r.request(e, what)); err != nil {
		return fmt.Errorf("ask: %w", err)
	}
	lines := bufio.NewScanner(c)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "whatsup") && r.Answer != nil {
			r.Answer(strings.TrimSpace(lines.Text()))
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	return nil
}

// target is the URL of e. With an expression it is Base, its first group and
// what follows the match; a path that does not match has no URL.
func (r *RefreshCDN) target(e Event) (string, bool) {
	if r.Match == nil {
		return r.Base + "/" + escape(e.Rel), true
	}
	at := r.Match.FindStringSubmatchIndex(e.Path())
	if at == nil {
		return "", false
	}
	group := ""
	if len(at) > 3 && at[2] >= 0 {
		group = e.Path()[at[2]:at[3]]
	}
	return r.Base + escape(group) + escape(e.Path()[at[1]:]), true
}

// escape keeps the slashes of a path; nothing in a name can end the request
// line or the query.
func escape(path string) string {
	parts := strings.Split(path, "/")
	for i, p := range parts {
		parts[i] = url.QueryEscape(p)
	}
	return strings.ReplaceAll(strings.Join(parts, "/"), "+", "%20")
}

func (r *RefreshCDN) request(e Event, target string) string {
	query := "urls=" + target
	if e.Dir {
		query = "dirs=" + target + "/"
	}
	return "HEAD /index.jsp?user=" + url.QueryEscape(r.User) + "&pswd=" + url.QueryEscape(r.Password) +
		"&ok=ok&" + query + " HTTP/1.0\r\nHost: " + r.Domain + "\r\n\r\n"
}
