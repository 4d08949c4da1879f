package storage

import (
	"os"
	"path"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// clearFlags takes chflags(2)'s flags from a file, a directory or a symlink.
func clearFlags(root *os.Root, name string) error {
	info, err := root.Lstat(name)
	if err != nil || info.Sys().(*syscall.Stat_t).Flags == 0 {
		return err
	}
	dir, err := root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	p, err := unix.BytePtrFromString(path.Base(name))
	if err != nil {
		return err
	}
	if _, _, errno := unix.Syscall6(unix.SYS_CHFLAGSAT, dir.Fd(), uintptr(unsafe.Pointer(p)), 0, unix.AT_SYMLINK_NOFOLLOW, 0, 0); errno != 0 {
		return &os.PathError{Op: "chflagsat", Path: name, Err: errno}
	}
	return nil
}
