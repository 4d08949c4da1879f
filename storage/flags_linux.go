package storage

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const undeletable = 0x10 | 0x20 // FS_IMMUTABLE_FL and FS_APPEND_FL of linux/fs.h

// clearFlags takes chattr(1)'s flags i and a from a file or a directory; nothing else has any.
func clearFlags(root *os.Root, name string) error {
	info, err := root.Lstat(name)
	if err != nil || !info.IsDir() && !info.Mode().IsRegular() {
		return err
	}
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	fd := int(f.Fd())
	flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EOPNOTSUPP) || err == nil && flags&undeletable == 0 {
		return nil
	}
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(flags&^undeletable))
	}
	if err != nil {
		return fmt.Errorf("flags of %s: %w", name, err)
	}
	return nil
}
