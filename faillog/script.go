package faillog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"
)

// header is the first line of a script of ours.
const header = "#!/bin/sh\n# gosersync: what the remotes have not taken yet. gosersync repeats it by itself;\n" +
	"# run by hand it does the same: sh THIS_FILE\n" +
	"# gosersync: 远端尚未收到的内容。gosersync 会自动重试; 也可手工执行: sh 本文件\n"

// prepareScript refuses a path that a stranger could have laid in our way, and
// sets aside what sersync left there: it may hold commands that never ran.
func (l *Log) prepareScript() error {
	if l.o.Script == "" {
		return nil
	}
	info, err := os.Lstat(l.o.Script)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("failLog path: %w", err)
	}
	if err := trusted(info); err != nil {
		return fmt.Errorf("failLog path %s %w; remove it, or set another failLog path", l.o.Script, err)
	}
	ours, err := startsWith(l.o.Script, header)
	if err != nil || ours || info.Size() == 0 {
		return err
	}
	aside := fmt.Sprintf("%s.sersync-%d", l.o.Script, time.Now().Unix())
	l.o.Log.Warn("commands that sersync left are kept", "file", aside)
	return errors.Join(os.Rename(l.o.Script, aside), os.Chmod(aside, 0o600))
}

func trusted(info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		return errors.New("is a symlink")
	case !info.Mode().IsRegular():
		return errors.New("is not a regular file")
	case ok && int(st.Uid) != os.Geteuid():
		return fmt.Errorf("belongs to user %d", st.Uid)
	}
	return nil
}

func startsWith(file, text string) (bool, error) {
	f, err := os.Open(file)
	if err != nil {
		return false, fmt.Errorf("read failLog: %w", err)
	}
	defer f.Close()
	head := make([]byte, len(text))
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("read failLog: %w", err)
	}
	return bytes.Equal(head[:n], []byte(text)), nil
}

// writeScript writes the view: mode 0600, whole or not at all.
func (l *Log) writeScript() error {
	if l.o.Script == "" {
		return nil
	}
	if info, err := os.Lstat(l.o.Script); err == nil {
		if err := trusted(info); err != nil {
			return fmt.Errorf("failLog path %s %w", l.o.Script, err)
		}
	}
	return replaceFile(l.o.Script, []byte(l.render()))
}

func (l *Log) render() string {
	l.mu.Lock()
	names := l.names()
	l.mu.Unlock()
	var b strings.Builder
	b.WriteString(header)
	for _, name := range names {
		l.mu.Lock()
		t := l.targets[name]
		if t == nil {
			l.mu.Unlock()
			continue
		}
		set, why, since := t.set.Clone(), t.why, t.since
		l.mu.Unlock()
		fmt.Fprintf(&b, "\n# %s: %d paths since %s: %s\n", comment(name), set.Len(), since.Format(time.DateTime), comment(why))
		if l.o.Render != nil {
			b.WriteString(l.o.Render(name, set))
		}
	}
	return b.String()
}

// comment makes s a part of one line: an error may quote any file name.
func comment(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}
