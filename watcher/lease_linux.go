package watcher

import (
	"errors"

	"golang.org/x/sys/unix"
)

// beingWritten tells whether somebody has the file open for writing: only then
// the kernel refuses a read lease with EAGAIN (fcntl(2), F_SETLEASE).
func beingWritten(file string) bool {
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	_, err = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_RDLCK)
	return errors.Is(err, unix.EAGAIN)
}
