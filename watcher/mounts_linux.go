package watcher

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"gosersync/internal/pathset"
)

// mounts tells when something is mounted or unmounted below the source: the
// kernel marks /proc/self/mountinfo with POLLPRI then (proc_pid_mountinfo(5)).
type mounts struct {
	file *os.File
	root string
	now  map[string]string // mount point, relative to the source: its line
}

func openMounts(root string) (*mounts, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	m := &mounts{file: f, root: root}
	m.now = m.read()
	return m, nil
}

func (m *mounts) close() {
	if m != nil {
		m.file.Close()
	}
}

// changed is the mount points below the source that came, went or are others
// since the last call.
func (m *mounts) changed() []string {
	if m == nil {
		return nil
	}
	fds := []unix.PollFd{{Fd: int32(m.file.Fd()), Events: unix.POLLPRI}}
	if n, err := unix.Poll(fds, 0); err != nil || n == 0 {
		return nil
	}
	old := m.now
	m.now = m.read()
	var diff []string
	for rel, line := range m.now {
		if old[rel] != line {
			diff = append(diff, rel)
		}
	}
	for rel := range old {
		if _, still := m.now[rel]; !still {
			diff = append(diff, rel)
		}
	}
	return diff
}

func (m *mounts) read() map[string]string {
	points := map[string]string{}
	if _, err := m.file.Seek(0, io.SeekStart); err != nil {
		return points
	}
	text, err := io.ReadAll(m.file)
	if err != nil {
		return points
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 {
			continue
		}
		if rel, ok := strings.CutPrefix(unescapeMount(fields[4]), m.root+"/"); ok && rel != pathset.Root {
			points[rel] += lines.Text()
		}
	}
	return points
}

// unescapeMount undoes the kernel's octal for space, tab, newline and backslash.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
