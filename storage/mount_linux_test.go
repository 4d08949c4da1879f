package storage

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMountFile(t *testing.T) {
	root := newRoot(t)
	source := t.TempDir() + "/resolv.conf"
	write(t, source, "nameserver 192.0.2.1\n")
	if err := MountAll(root, []Mount{Bind(source, "/etc/resolv.conf", true), Bind(source, "/etc/passwd", false)}); err != nil {
		t.Fatal(err)
	}
	if got := read(t, root+"/etc/resolv.conf"); !strings.HasPrefix(got, "nameserver") {
		t.Errorf("resolv.conf %q", got)
	}
	if err := os.WriteFile(root+"/etc/resolv.conf", nil, 0o644); err == nil {
		t.Error("a read-only mount was written to")
	}
	if err := UnmountAll(root); err != nil {
		t.Error(err)
	}
	if got := read(t, root+"/etc/passwd"); !strings.HasPrefix(got, "root") {
		t.Errorf("passwd %q", got)
	}
}

// TestMountsAreHarmless looks at what the kernel knows of the mounts.
func TestMountsAreHarmless(t *testing.T) {
	root := newRoot(t)
	if err := MountAll(root, append(DefaultMounts(0), Bind(t.TempDir(), "/data", false), Mount{Type: "tmpfs", Target: "/tmp"})); err != nil {
		t.Fatal(err)
	}
	for target, want := range map[string]int64{
		"/data": unix.ST_NOSUID | unix.ST_NODEV, "/tmp": unix.ST_NOSUID | unix.ST_NODEV, "/dev": unix.ST_NOSUID | unix.ST_NOEXEC,
		"/dev/shm": unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC, "/dev/pts": unix.ST_NOSUID | unix.ST_NOEXEC,
	} {
		var s unix.Statfs_t
		if err := unix.Statfs(root+target, &s); err != nil {
			t.Fatal(err)
		}
		if s.Flags&want != want {
			t.Errorf("%s has the flags %#x, lacking some of %#x", target, s.Flags, want)
		}
	}
	ptmx, err := os.OpenFile(root+"/dev/pts/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer ptmx.Close()
	if n, err := unix.IoctlGetInt(int(ptmx.Fd()), unix.TIOCGPTN); err != nil || n != 0 {
		t.Errorf("the first terminal is number %d, %v; want 0, of an own devpts", n, err)
	}
}
