package storage

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/zfs/pool"
)

func TestDevfs(t *testing.T) {
	root := t.TempDir()
	defer UnmountAll(root)
	if err := MountAll(root, DefaultMounts(4)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"null": true, "random": true, "mem": false, "kmem": false, "pf": false, "pci": false} {
		if _, err := os.Stat(root + "/dev/" + name); (err == nil) != want {
			t.Errorf("/dev/%s: %v", name, err)
		}
	}
	if err := UnmountAll(root); err != nil {
		t.Error(err)
	}
	if err := MountAll(root, DefaultMounts(54321)); err == nil || !strings.Contains(err.Error(), "has no rules") {
		t.Errorf("a ruleset without rules: %v", err)
	}
}

func TestNullfs(t *testing.T) {
	root, source := t.TempDir(), t.TempDir()
	defer UnmountAll(root)
	write(t, source+"/file", "text")
	release, err := unix.SysctlUint32("kern.osreldate")
	if err != nil {
		t.Fatal(err)
	}
	err = MountAll(root, []Mount{Bind(source+"/file", "/etc/file", false)})
	switch {
	case release < 1400000:
		if err == nil || !strings.Contains(err.Error(), "FreeBSD before 14 mounts directories only") {
			t.Errorf("a file: %v", err)
		}
	case err != nil || read(t, root+"/etc/file") != "text":
		t.Errorf("a file: %v", err)
	}
	if err := os.Symlink(source, root+"/../link"); err == nil {
		defer os.Remove(root + "/../link")
	}
	if err := MountAll(root, []Mount{Bind(root+"/../link", "/data", true)}); err != nil {
		t.Fatal(err)
	}
	if got := read(t, root+"/data/file"); got != "text" {
		t.Errorf("file %q", got)
	}
	if err := os.Symlink("other", root+"/link"); err != nil {
		t.Fatal(err)
	}
	if err := MountAll(root, []Mount{Bind(source, "/other", false), Bind(source, "/link/dir", false)}); err == nil || !strings.Contains(err.Error(), "it is inside of") {
		t.Errorf("in a mounted folder, by a symlink: %v", err)
	}
	if h, err := handleOf("/dev"); err != nil || h != (fileHandle{}) {
		t.Fatalf("devfs has handles, %v, so this shows nothing: %v", h, err)
	}
	if err := MountAll(root, []Mount{Bind("/dev", "/devices", true)}); err != nil {
		t.Errorf("a file system without handles: %v", err)
	}
}

// TestReplacedSource has a source become another between its opening and its mounting, both roots of file systems, whose inode numbers
// are the same.
func TestReplacedSource(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(t *testing.T) string
	}{
		{"ZFS", mountDataset},
		{"UFS", mountMemory},
		{"tmpfs", func(t *testing.T) string {
			dir := t.TempDir()
			command(t, "mount", "-t", "tmpfs", "tmpfs", dir)
			t.Cleanup(func() { command(t, "umount", dir) })
			return dir
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			link, at := t.TempDir()+"/link", t.TempDir()
			first, second := c.make(t), c.make(t)
			if a, b := stat(t, first).Ino, stat(t, second).Ino; a != b {
				t.Fatalf("inodes %d and %d differ, so this shows nothing", a, b)
			}
			if err := os.Symlink(first, link); err != nil {
				t.Fatal(err)
			}
			source, err := os.Open(link)
			if err != nil {
				t.Fatal(err)
			}
			defer source.Close()
			m := Bind(link, "/data", false)
			if err := attachNullfs(m, source, at); err != nil {
				t.Errorf("the same: %v", err)
			}
			if err := unmount(at, false); err != nil {
				t.Error(err)
			}
			want := stat(t, first)
			handle, err := handleOf(first)
			if err != nil || handle == (fileHandle{}) {
				t.Errorf("handle %v, error %v", handle, err)
			}
			if err := os.Remove(link); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(second, link); err != nil {
				t.Fatal(err)
			}
			if err := attachNullfs(m, source, at); err == nil || !strings.Contains(err.Error(), "was replaced while it was mounted") {
				t.Errorf("replaced before its handle was asked for: %v", err)
			}
			// As if it were replaced after that.
			command(t, "mount", "-t", "nullfs", second, at)
			want.Btim = stat(t, second).Btim // which its owner may set
			if same, err := shows(at, want, handle); same || err != nil {
				t.Errorf("replaced after its handle was asked for: same %v, error %v", same, err)
			}
			command(t, "umount", at)
			if points, err := mountPoints(); err != nil || strings.Contains(strings.Join(points, " "), at) {
				t.Errorf("mounted %v, error %v", points, err)
			}
		})
	}
}

// mountDataset and mountMemory give a file system's root.
func mountDataset(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	dataset := pool.Dataset(t) + "/root"
	command(t, "zfs", "create", "-o", "mountpoint="+dir, dataset)
	return dir
}

func mountMemory(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	disk := strings.TrimSpace(command(t, "mdconfig", "-a", "-t", "swap", "-s", "16m"))
	t.Cleanup(func() { command(t, "mdconfig", "-d", "-u", disk) })
	command(t, "newfs", "/dev/"+disk)
	command(t, "mount", "/dev/"+disk, dir)
	t.Cleanup(func() { command(t, "umount", dir) })
	return dir
}

func command(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func stat(t *testing.T, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st
}
