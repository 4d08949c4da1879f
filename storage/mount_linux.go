package storage

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// attach makes a mount and moves it onto target. All goes by file descriptor: no symlink that appears meanwhile leads it elsewhere.
func attach(m Mount, source, target *os.File, at string) error {
	fd, err := makeMount(m, source)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := moveTo(fd, int(target.Fd())); err != nil {
		return err
	}
	if m.Type != typeDev {
		return nil
	}
	if err := attachDevSubdirs(fd); err != nil {
		return errors.Join(err, unmount(at, true))
	}
	return nil
}

func makeMount(m Mount, source *os.File) (fd int, err error) {
	attributes := unix.MOUNT_ATTR_NOSUID
	if m.ReadOnly {
		attributes |= unix.MOUNT_ATTR_RDONLY
	}
	switch m.Type {
	case typeBind:
		return cloneTree(source, attributes|unix.MOUNT_ATTR_NODEV)
	case typeTmpfs:
		options := map[string]string{"mode": m.bits()}
		if m.Size > 0 {
			options["size"] = strconv.FormatUint(m.Size, 10)
		}
		return newMount("tmpfs", options, attributes|unix.MOUNT_ATTR_NODEV)
	}
	fd, err = newMount("tmpfs", map[string]string{"mode": "755", "size": "65536"}, attributes|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return -1, err
	}
	if err := makeDevices(fd); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func cloneTree(source *os.File, attributes int) (fd int, err error) {
	fd, err = unix.OpenTree(int(source.Fd()), "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("open_tree %s: %w", source.Name(), err)
	}
	attr := &unix.MountAttr{Attr_set: uint64(attributes), Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, attr); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("mount_setattr: %w", err)
	}
	return fd, nil
}

func newMount(kind string, options map[string]string, attributes int) (fd int, err error) {
	config, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen %s: %w", kind, err)
	}
	defer unix.Close(config)
	for key, value := range options {
		set := unix.FsconfigSetString
		if value == "" {
			set = func(fd int, key, _ string) error { return unix.FsconfigSetFlag(fd, key) }
		}
		if err := set(config, key, value); err != nil {
			return -1, fmt.Errorf("%s %s=%s: %w", kind, key, value, err)
		}
	}
	if err := unix.FsconfigCreate(config); err != nil {
		return -1, fmt.Errorf("%s: %w", kind, err)
	}
	fd, err = unix.Fsmount(config, unix.FSMOUNT_CLOEXEC, attributes)
	if err != nil {
		return -1, fmt.Errorf("fsmount %s: %w", kind, err)
	}
	return fd, nil
}

func moveTo(fd, target int) error {
	if err := unix.MoveMount(fd, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	return nil
}

// makeDevices fills a new /dev, see devices.txt in the kernel's documentation.
func makeDevices(dev int) error {
	for _, node := range []struct {
		name         string
		major, minor uint32
	}{
		{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0},
	} {
		if err := unix.Mknodat(dev, node.name, unix.S_IFCHR|0o666, int(unix.Mkdev(node.major, node.minor))); err != nil {
			return fmt.Errorf("mknod %s: %w", node.name, err)
		}
		// The umask has taken some of it.
		if err := unix.Fchmodat(dev, node.name, 0o666, 0); err != nil {
			return fmt.Errorf("chmod %s: %w", node.name, err)
		}
	}
	for name, to := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx",
	} {
		if err := unix.Symlinkat(to, dev, name); err != nil {
			return fmt.Errorf("symlink %s: %w", name, err)
		}
	}
	for _, name := range []string{"pts", "shm"} {
		if err := unix.Mkdirat(dev, name, 0o755); err != nil {
			return fmt.Errorf("mkdir %s: %w", name, err)
		}
	}
	return nil
}

// attachDevSubdirs comes after /dev has its place: older kernels move nothing onto a mount that has none.
func attachDevSubdirs(dev int) error {
	const private = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC
	for _, sub := range []struct {
		name, kind string
		options    map[string]string
		attributes int
	}{
		{"pts", "devpts", map[string]string{"newinstance": "", "ptmxmode": "666", "mode": "620", "gid": "5"}, private},
		{"shm", "tmpfs", map[string]string{"mode": "1777"}, private | unix.MOUNT_ATTR_NODEV},
	} {
		fd, err := newMount(sub.kind, sub.options, sub.attributes)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		target, err := unix.Openat(dev, sub.name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(target)
		if err := moveTo(fd, target); err != nil {
			return fmt.Errorf("%s: %w", sub.name, err)
		}
	}
	return nil
}

// unmount by force detaches: what still has files open keeps them, and nobody else sees them.
func unmount(point string, force bool) error {
	flags := unix.UMOUNT_NOFOLLOW
	if force {
		flags |= unix.MNT_DETACH
	}
	err := unix.Unmount(point, flags)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil // not mounted any more
	}
	return err
}

// mountPoints lists them in the order of mounting, see proc_pid_mountinfo(5).
func mountPoints() ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var points []string
	scanner := bufio.NewScanner(f)
	for scanner.Scan() {
		if fields := strings.Fields(scanner.Text()); len(fields) > 4 {
			points = append(points, filepath.Clean(unescape(fields[4])))
		}
	}
	return points, scanner.Err()
}

// unescape reads the kernel's \040 for a space and the like.
func unescape(s string) string {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(s, `\`)
		b.WriteString(before)
		if !found {
			return b.String()
		}
		if n, err := strconv.ParseUint(after[:min(3, len(after))], 8, 8); err == nil && len(after) >= 3 {
			b.WriteByte(byte(n))
			after = after[3:]
		} else {
			b.WriteByte('\\')
		}
		s = after
	}
}
