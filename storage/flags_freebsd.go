package storage

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// clearFlags takes chflags(2)'s flags from all in a tree.
func clearFlags(dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil || info.Sys().(*syscall.Stat_t).Flags == 0 {
			return err
		}
		return lchflags(path, 0)
	})
}

func lchflags(path string, flags int) error {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(unix.SYS_LCHFLAGS, uintptr(unsafe.Pointer(p)), uintptr(flags), 0); errno != 0 {
		return &os.PathError{Op: "lchflags", Path: path, Err: errno}
	}
	return nil
}
