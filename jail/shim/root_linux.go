package main

import (
	"cmp"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
)

// enterRoot makes spec.Root the root file system of this mount namespace and forgets the host's.
func enterRoot(spec jail.Spec) error {
	null, err := unix.Open("/dev/null", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(null)
	if err := pivot(spec.Root); err != nil {
		return fmt.Errorf("root %s: %w", spec.Root, err)
	}
	if err := allowDevices("/dev"); err != nil {
		return err
	}
	if err := mountProc(null); err != nil {
		return err
	}
	// The working directory is the new root, with the old one stacked on it.
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach the host's root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(cmp.Or(spec.Hostname, spec.Name))); err != nil {
		return fmt.Errorf("hostname: %w", err)
	}
	return nil
}

func pivot(root string) error {
	// Slaves: what the host unmounts goes away here too, and a dataset is not kept busy by this copy of the host's mounts.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make slave: %w", err)
	}
	if err := unix.Mount(root, root, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	// Device nodes that an image or a mounted directory brings are of no use.
	err := unix.MountSetattr(unix.AT_FDCWD, root, unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NODEV})
	if err != nil {
		return fmt.Errorf("mount_setattr (Linux 5.12 has it): %w", err)
	}
	if err := unix.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	return nil
}

// allowDevices lets the device nodes work that are in what is mounted on dir.
func allowDevices(dir string) error {
	err := unix.MountSetattr(unix.AT_FDCWD, dir, unix.AT_RECURSIVE|unix.AT_SYMLINK_NOFOLLOW,
		&unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_NODEV})
	if err == unix.EINVAL || err == unix.ENOENT { // nothing mounted there, not there
		return nil
	}
	return err
}

const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

func mountProc(null int) error {
	if err := os.Mkdir("/proc", 0o555); err != nil && !os.IsExist(err) {
		return fmt.Errorf("the image has no directory /proc: %w", err)
	}
	if st, err := os.Lstat("/proc"); err != nil || !st.IsDir() {
		return fmt.Errorf("the image's /proc is not a directory")
	}
	if err := unix.Mount("proc", "/proc", "proc", safe, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	for _, path := range jail.HiddenProc {
		if err := hide(path, null); err != nil {
			return fmt.Errorf("hide %s: %w", path, err)
		}
	}
	for _, path := range jail.ReadOnlyProc {
		if err := lock(path); err != nil {
			return fmt.Errorf("%s read-only: %w", path, err)
		}
	}
	return nil
}

func hide(path string, null int) error {
	st, err := os.Lstat(path)
	switch {
	case os.IsNotExist(err):
		return nil
	case err != nil:
		return err
	case st.IsDir():
		return unix.Mount("tmpfs", path, "tmpfs", safe|unix.MS_RDONLY, "size=0,mode=555")
	}
	return unix.Mount(fmt.Sprintf("/proc/self/fd/%d", null), path, "", unix.MS_BIND, "")
}

func lock(path string) error {
	if err := unix.Mount(path, path, "", unix.MS_BIND, ""); err != nil {
		if err == unix.ENOENT {
			return nil
		}
		return err
	}
	return unix.Mount("", path, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|safe, "")
}
