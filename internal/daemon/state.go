package daemon

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// SystemLogDir is where instances keep their log and state when the config has
// no ../logs beside it.
const SystemLogDir = "/var/log/gosersync"

// Place is where one instance, that is one config file, keeps its things.
type Place struct {
	Log   string // log file, NAME.log
	State string // state directory, NAME.state
}

// PlaceFor finds the place of the instance: ../logs of the config's folder
// where that exists (sersync's layout), else SystemLogDir. A plugin that runs
// alone (-m) is an instance of its own beside the one that replicates.
func PlaceFor(config, module string) (Place, error) {
	abs, err := filepath.Abs(config)
	if err != nil {
		return Place{}, fmt.Errorf("find config: %w", err)
	}
	name := strings.TrimSuffix(filepath.Base(abs), filepath.Ext(abs))
	if module != "" {
		name += "." + module
	}
	dir := filepath.Join(filepath.Dir(filepath.Dir(abs)), "logs")
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		dir = SystemLogDir
	}
	return Place{Log: filepath.Join(dir, name+".log"), State: filepath.Join(dir, name+".state")}, nil
}

func (p Place) pidFile() string { return filepath.Join(p.State, "pid") }

// RunningError says that the instance runs already.
type RunningError struct{ PID int }

func (e *RunningError) Error() string {
	return fmt.Sprintf("already running with this config as pid %d; stop it first: kill %d", e.PID, e.PID)
}

// Claim makes the state directory and takes the instance's lock, which lasts
// until the returned file is closed or the process ends. A second claim is a
// *RunningError.
func (p Place) Claim() (io.Closer, error) {
	if err := p.makeState(); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(p.pidFile(), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open pid file: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		defer f.Close()
		return nil, &RunningError{PID: readPID(f)}
	}
	if err == nil {
		err = writePID(f)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock pid file %s: %w", p.pidFile(), err)
	}
	return f, nil
}

// makeState makes the directories, and refuses a state directory that somebody
// else could have prepared.
func (p Place) makeState() error {
	if err := os.MkdirAll(filepath.Dir(p.State), 0o755); err != nil {
		return fmt.Errorf("make log directory: %w", err)
	}
	if err := os.Mkdir(p.State, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make state directory: %w", err)
	}
	info, err := os.Lstat(p.State)
	if err != nil {
		return fmt.Errorf("look at state directory: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("state directory %s is not a directory of the user who runs gosersync; remove it", p.State)
	}
	return os.Chmod(p.State, 0o700)
}

// PID is the process id of the running instance, or 0.
func (p Place) PID() int {
	f, err := os.Open(p.pidFile())
	if err != nil {
		return 0
	}
	defer f.Close()
	if syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) == nil {
		return 0
	}
	return readPID(f)
}

func readPID(f *os.File) int {
	text := make([]byte, 20)
	n, _ := f.ReadAt(text, 0)
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text[:n])))
	return pid
}

func writePID(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}
