package storage

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func openRoot(t *testing.T, dir string) *os.Root {
	t.Helper()
	r, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func TestCopy(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	write(t, from+"/conf/nginx.conf", "server")
	write(t, from+"/conf/sub/setuid", "program")
	write(t, to+"/etc/nginx.conf", "old")
	write(t, to+"/etc/kept", "kept")
	past := time.Unix(1234567890, 0)
	for _, err := range []error{
		os.Chown(from+"/conf/sub/setuid", 1001, 1002),
		os.Chmod(from+"/conf/sub/setuid", 0o751|fs.ModeSetuid),
		os.Chtimes(from+"/conf/nginx.conf", past, past),
		os.Link(from+"/conf/nginx.conf", from+"/conf/sub/linked"),
		os.Symlink("/nowhere/at/all", from+"/conf/symlink"),
		os.Chmod(from+"/conf/sub", 0o710),
		os.Chmod(to+"/etc", 0o711),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	src, dst := openRoot(t, from), openRoot(t, to)
	for _, c := range [][2]string{
		{"conf", "/etc"},
		{"conf/nginx.conf", "/usr/local/etc/nginx/nginx.conf"},
		{"/conf/nginx.conf", "/usr/local"},
		{"conf", "/new/conf"},
	} {
		if err := Copy(src, c[0], dst, c[1]); err != nil {
			t.Errorf("%v: %v", c, err)
		}
	}
	for path, want := range map[string]string{
		"/etc/nginx.conf": "server", "/etc/kept": "kept", "/usr/local/etc/nginx/nginx.conf": "server", "/usr/local/nginx.conf": "server",
		"/new/conf/sub/setuid": "program",
	} {
		if got := read(t, to+path); got != want {
			t.Errorf("%s: %q; want %q", path, got, want)
		}
	}
	setuid, err := os.Stat(to + "/etc/sub/setuid")
	if err != nil {
		t.Fatal(err)
	}
	if owner := setuid.Sys().(*syscall.Stat_t); setuid.Mode() != 0o751|fs.ModeSetuid || owner.Uid != 1001 || owner.Gid != 1002 {
		t.Errorf("setuid %v, %d:%d", setuid.Mode(), owner.Uid, owner.Gid)
	}
	one, err1 := os.Stat(to + "/etc/nginx.conf")
	two, err2 := os.Stat(to + "/etc/sub/linked")
	if err1 != nil || err2 != nil || !os.SameFile(one, two) || !one.ModTime().Equal(past) {
		t.Errorf("hard link: %v %v, %v", err1, err2, one.ModTime())
	}
	if got, err := os.Readlink(to + "/etc/symlink"); got != "/nowhere/at/all" {
		t.Errorf("symlink %q, %v", got, err)
	}
	for dir, want := range map[string]fs.FileMode{"/etc": 0o711, "/etc/sub": 0o710} {
		if info, err := os.Stat(to + dir); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %v", dir, info.Mode(), err, want)
		}
	}
}

// TestCopyAsRoot: what was there stays as it was, also below a symlink.
func TestCopyAsRoot(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	for _, file := range []string{from + "/bin/tool", from + "/home/www/page", to + "/usr/bin/old", to + "/home/www/old"} {
		write(t, file, "text")
	}
	for _, err := range []error{
		os.Symlink("tool", from+"/bin/link"),
		os.Mkdir(from+"/home/new", 0o700),
		os.Symlink("usr/bin", to+"/bin"),
		os.Chown(from+"/bin/tool", 1001, 1002),
		os.Chmod(from+"/bin/tool", 0o751|fs.ModeSetuid),
		os.Lchown(from+"/bin/link", 1001, 1002),
		os.Chown(from+"/home/new", 1001, 1002),
		os.Chown(to+"/home/www", 80, 81),
		os.Chmod(to+"/home/www", 0o711),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := CopyAsRoot(openRoot(t, from), ".", openRoot(t, to), "/"); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/usr/bin": "drwxr-xr-x 0:0", "/usr/bin/tool": "urwxr-x--x 0:0", "/home/www": "drwx--x--x 80:81", "/home/www/page": "-rw-r--r-- 0:0",
		"/home/new": "drwx------ 0:0",
	} {
		info, err := os.Lstat(to + path)
		if err != nil {
			t.Fatal(err)
		}
		owner := info.Sys().(*syscall.Stat_t)
		if got := fmt.Sprintf("%v %d:%d", info.Mode(), owner.Uid, owner.Gid); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	if info, err := os.Lstat(to + "/bin/link"); err != nil || info.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("the symlink: %+v, %v", info, err)
	}
}

func TestCopyRefusals(t *testing.T) {
	top := t.TempDir()
	from, to := top+"/from", top+"/to"
	write(t, top+"/secret", "secret")
	write(t, from+"/file", "text")
	write(t, from+"/dir/file", "text")
	write(t, to+"/file", "text")
	write(t, to+"/dir/file", "text")
	for link, target := range map[string]string{from + "/out": "../secret", from + "/abs": top, to + "/out": "..", to + "/abs": top} {
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(from+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	src, dst := openRoot(t, from), openRoot(t, to)
	for name, test := range map[string]struct{ from, to, want string }{
		"source with ..":          {"../secret", "/x", "leaves its root"},
		"source through ..":       {"dir/../../secret", "/x", "leaves its root"},
		"source symlink":          {"out", "/x", "leads out"},
		"source absolute symlink": {"abs/secret", "/x", "leads out"},
		"missing source":          {"none", "/x", "no such file"},
		"target with ..":          {"file", "/../x", "leaves its root"},
		"target symlink":          {"file", "/out/x", "leads out"},
		"target absolute symlink": {"file", "/abs/x", "leads out"},
		"directory on a file":     {"dir", "/file", "not a directory"},
		"below a file":            {"file", "/file/x", "file exists"},
		"fifo":                    {"fifo", "/x", "neither"},
	} {
		err := Copy(src, test.from, dst, test.to)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v; want %s", name, err, test.want)
		}
	}
	if _, err := os.Lstat(top + "/x"); err == nil {
		t.Error("a file got out of its root")
	}
	// A symlink in the way of a file is replaced, not followed.
	if err := Copy(src, "file", dst, "/abs"); err != nil && !strings.Contains(err.Error(), "leads out") {
		t.Error(err)
	}
	if entries, _ := os.ReadDir(top); len(entries) != 3 {
		t.Errorf("%s has %v", top, entries)
	}
	if got := read(t, filepath.Join(top, "secret")); got != "secret" {
		t.Errorf("secret %q", got)
	}
}
