package storage

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

const sysNmount = 378

// attach mounts at the path at; nmount(2) takes no file descriptor.
func attach(m Mount, source, _ *os.File, at string) error {
	switch m.Type {
	case typeBind:
		return attachNullfs(m, source, at)
	case typeTmpfs:
		options := [][2]string{{"fstype", "tmpfs"}, {"fspath", at}, {"mode", m.bits()}}
		if m.Size > 0 {
			options = append(options, [2]string{"size", strconv.FormatUint(m.Size, 10)})
		}
		return nmount(options, flags(m))
	case typeFdescfs, typeProcfs:
		return nmount([][2]string{{"fstype", m.Type}, {"fspath", at}}, unix.MNT_NOSUID|unix.MNT_NOEXEC)
	}
	if err := CheckRuleset(m.Ruleset); err != nil {
		return err
	}
	return nmount([][2]string{{"fstype", "devfs"}, {"fspath", at}, {"ruleset", strconv.Itoa(m.Ruleset)}}, unix.MNT_NOEXEC)
}

func flags(m Mount) int {
	if m.ReadOnly {
		return unix.MNT_NOSUID | unix.MNT_RDONLY
	}
	return unix.MNT_NOSUID
}

// attachNullfs mounts by path, and looks afterwards whether that was still the path of the source that was checked.
func attachNullfs(m Mount, source *os.File, at string) error {
	var want unix.Stat_t
	if err := unix.Fstat(int(source.Fd()), &want); err != nil {
		return fmt.Errorf("stat %s: %w", m.Source, err)
	}
	path, err := filepath.EvalSymlinks(m.Source)
	if err != nil {
		return err
	}
	handle, err := handleOf(path)
	if err != nil {
		return err
	}
	errReplaced := fmt.Errorf("source %s was replaced while it was mounted", m.Source)
	if handle != (fileHandle{}) {
		var have unix.Stat_t
		if err := handle.stat(&have); err != nil || have.Dev != want.Dev || have.Ino != want.Ino {
			return errors.Join(errReplaced, err)
		}
	}
	err = nmount([][2]string{{"fstype", "nullfs"}, {"fspath", at}, {"target", path}}, flags(m))
	if errors.Is(err, unix.ENOTDIR) && want.Mode&unix.S_IFMT != unix.S_IFDIR {
		return fmt.Errorf("source %s is a file; FreeBSD before 14 mounts directories only: copy it, or mount its directory", m.Source)
	}
	if err != nil {
		return err
	}
	if same, err := shows(at, want, handle); err != nil || !same {
		return errors.Join(errReplaced, err, unmount(at, true))
	}
	return nil
}

// shows tells whether nullfs shows what want is of at a path. It has a device number of its own there, and inode numbers are much
// the same on all file systems: the handle's part of the file has the inode's generation too, and tells all but clones of one snapshot
// apart. Where handle is zero, birth has to do.
func shows(at string, want unix.Stat_t, handle fileHandle) (bool, error) {
	var have unix.Stat_t
	if err := unix.Stat(at, &have); err != nil {
		return false, err
	}
	there, err := handleOf(at)
	return have.Ino == want.Ino && have.Btim == want.Btim && there.file == handle.file, err
}

// fileHandle is struct fhandle of sys/mount.h: a file system's number, and which of its files.
type fileHandle struct {
	fileSystem [8]byte
	file       [20]byte
}

// handleOf is zero where the file system has no handles, such as NFS.
func handleOf(path string) (fileHandle, error) {
	var h fileHandle
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return h, err
	}
	_, _, errno := unix.Syscall(unix.SYS_GETFH, uintptr(unsafe.Pointer(p)), uintptr(unsafe.Pointer(&h)), 0)
	switch errno {
	case 0:
		return h, nil
	case unix.EOPNOTSUPP:
		return fileHandle{}, nil
	}
	return fileHandle{}, fmt.Errorf("getfh %s: %w", path, errno)
}

// stat is fhstat(2).
func (h fileHandle) stat(st *unix.Stat_t) error {
	if _, _, errno := unix.Syscall(unix.SYS_FHSTAT, uintptr(unsafe.Pointer(&h)), uintptr(unsafe.Pointer(st)), 0); errno != 0 {
		return fmt.Errorf("fhstat: %w", errno)
	}
	return nil
}

// devfsRule is struct devfs_rule of fs/devfs/devfs.h.
type devfsRule struct {
	magic, id        uint32 // the ID is the ruleset's number and then the rule's, 16 bits each
	conditions, _    int32
	pattern          [200]byte
	actions, hide    int32
	uid, gid         uint32
	mode, includedID uint16
}

const (
	devfsMagic    = 0xdb0a087a
	devfsNextRule = 0xc0000000 | unsafe.Sizeof(devfsRule{})<<16 | 'D'<<8 | 4 // DEVFSIO_RGETNEXT
)

// CheckRuleset refuses a devfs(8) ruleset without rules, which shows all devices. FreeBSD only.
func CheckRuleset(n int) error {
	dev, err := os.Open("/dev")
	if err != nil {
		return err
	}
	defer dev.Close()
	rule := devfsRule{magic: devfsMagic, id: uint32(n) << 16}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, dev.Fd(), devfsNextRule, uintptr(unsafe.Pointer(&rule)))
	switch errno {
	case 0:
		return nil
	case unix.ENOENT:
		return fmt.Errorf("devfs ruleset %d has no rules and would show all the host's devices; service devfs onestart loads those of "+
			"/etc/defaults/devfs.rules, and of /etc/devfs.rules for your own; devfs_load_rulesets=\"YES\" in /etc/rc.conf does so at boot", n)
	}
	return fmt.Errorf("devfs ruleset %d: %w", n, errno)
}

// nmount is nmount(2). Its options are pairs of strings with their terminating zeros; it writes a reason into errmsg.
func nmount(options [][2]string, flags int) error {
	var reason [256]byte
	var iov []unix.Iovec
	var pinner runtime.Pinner
	defer pinner.Unpin()
	add := func(b []byte) {
		pinner.Pin(&b[0])
		v := unix.Iovec{Base: &b[0]}
		v.SetLen(len(b))
		iov = append(iov, v)
	}
	for _, o := range options {
		add(append([]byte(o[0]), 0))
		add(append([]byte(o[1]), 0))
	}
	add([]byte("errmsg\x00"))
	add(reason[:])
	_, _, errno := unix.Syscall(sysNmount, uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov)), uintptr(flags))
	if errno == 0 {
		return nil
	}
	if text, _, _ := bytes.Cut(reason[:], []byte{0}); len(text) > 0 {
		return fmt.Errorf("nmount %s: %w: %s", options[0][1], errno, text)
	}
	return fmt.Errorf("nmount %s: %w", options[0][1], errno)
}

func unmount(point string, force bool) error {
	flags := 0
	if force {
		flags = unix.MNT_FORCE
	}
	err := unix.Unmount(point, flags)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil // not mounted any more
	}
	return err
}

// mountPoints lists them in the order of mounting.
func mountPoints() ([]string, error) {
	n, err := unix.Getfsstat(nil, unix.MNT_NOWAIT)
	if err != nil {
		return nil, err
	}
	// Some more may come while we ask.
	list := make([]unix.Statfs_t, n+64)
	if n, err = unix.Getfsstat(list, unix.MNT_NOWAIT); err != nil {
		return nil, err
	}
	var points []string
	for _, s := range list[:n] {
		points = append(points, unix.ByteSliceToString(s.Mntonname[:]))
	}
	return points, nil
}
