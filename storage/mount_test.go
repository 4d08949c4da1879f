package storage

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// newRoot is a task's root that is as its image's author wants it.
func newRoot(t *testing.T) string {
	t.Helper()
	b := newZFS(t)
	makeImage(t, b, "i", "", nil, "etc/passwd", "root:x:0:0::/:/bin/sh\n", "usr/share/file", "text", "fifo/not", "")
	root, err := b.Clone(t.Context(), "i", "nja", CloneOptions{TaskID: "a"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeTask(t, b, "nja") })
	for name, to := range map[string]string{
		"absolute": "/etc", "up": "../../../../../../etc", "inside": "usr/share", "loop": "loop", "etc/deep": "../../../..",
	} {
		if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func mountsBelow(t *testing.T, root string) []string {
	t.Helper()
	points, err := mountPoints()
	if err != nil {
		t.Fatal(err)
	}
	var below []string
	for _, p := range points {
		if rest, ok := strings.CutPrefix(p, root+"/"); ok {
			below = append(below, rest)
		}
	}
	slices.Sort(below)
	return below
}

func TestMounts(t *testing.T) {
	root := newRoot(t)
	shared := t.TempDir()
	write(t, shared+"/www/index.html", "page")
	err := MountAll(root, append(DefaultMounts(4),
		Mount{Type: "tmpfs", Target: "/tmp", Size: 1 << 20, Mode: 0o777 | fs.ModeSticky},
		Bind(shared, "/alloc", false),
		Bind(shared+"/www", "/usr/local/www", true),
		Bind(shared+"/www", "/inside/www", false),
		Mount{Type: "bind", Source: shared + "/www", Within: shared, Target: "/again"},
	))
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, root+"/usr/local/www/index.html"); got != "page" {
		t.Errorf("page %q", got)
	}
	if err := os.WriteFile(root+"/usr/local/www/new", nil, 0o644); err == nil {
		t.Error("a read-only mount was written to")
	}
	write(t, root+"/alloc/new", "new")
	if got := read(t, shared+"/new"); got != "new" {
		t.Errorf("new %q", got)
	}
	if got := read(t, root+"/usr/share/www/index.html"); got != "page" {
		t.Errorf("page through a symlink that stays inside: %q", got)
	}
	if err := os.WriteFile(root+"/tmp/big", make([]byte, 2<<20), 0o644); err == nil {
		t.Error("2 MiB fit into a tmpfs of 1 MiB")
	}
	if info, err := os.Stat(root + "/tmp"); err != nil || info.Mode().Perm() != 0o777 || info.Mode()&fs.ModeSticky == 0 {
		t.Errorf("tmp %v, %v", info.Mode(), err)
	}
	if info, err := os.Stat(root + "/dev/null"); err != nil || info.Mode()&fs.ModeCharDevice == 0 || info.Mode().Perm() != 0o666 {
		t.Errorf("/dev/null: %v, %v", info, err)
	}
	if err := os.WriteFile(root+"/dev/null", []byte("nothing"), 0); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := UnmountAll(root); err != nil {
			t.Error(err)
		}
		if left := mountsBelow(t, root); len(left) > 0 {
			t.Errorf("left %v", left)
		}
	}
	if got := read(t, shared+"/www/index.html"); got != "page" {
		t.Errorf("page after unmount %q", got)
	}
}

func TestMountRefusals(t *testing.T) {
	root := newRoot(t)
	shared := t.TempDir()
	write(t, shared+"/dir/file", "text")
	if err := os.Symlink("/etc", shared+"/out"); err != nil {
		t.Fatal(err)
	}
	within := func(source string) Mount {
		return Mount{Type: "bind", Source: source, Within: shared, Target: "/x"}
	}
	for name, test := range map[string]struct {
		mount Mount
		want  string
	}{
		"dots":                    {Bind(shared, "/x/../../y", false), `has a ..`},
		"relative target":         {Bind(shared, "x", false), "not an absolute path in the jail"},
		"the root":                {Bind(shared, "/./", false), "root itself"},
		"absolute symlink":        {Bind(shared, "/absolute/x", false), "leads out of the jail's root"},
		"the symlink itself":      {Bind(shared, "/absolute", false), "leads out of the jail's root"},
		"symlink up":              {Bind(shared, "/up/x", false), "leads out of the jail's root"},
		"symlink in a folder":     {Bind(shared, "/etc/deep/etc", false), "leads out of the jail's root"},
		"loop":                    {Bind(shared, "/loop/x", false), "symbolic links"},
		"relative source":         {Bind("dir", "/x", false), "not an absolute path"},
		"missing source":          {Bind(shared+"/none", "/x", false), "no such file"},
		"directory on a file":     {Bind(shared, "/etc/passwd", false), "not a directory there"},
		"below a file":            {Bind(shared, "/etc/passwd/x", false), "not a directory"},
		"source through .. ":      {within(shared + "/../../etc"), "escapes"},
		"source through symlink":  {within(shared + "/out"), "escapes"},
		"source below symlink":    {within(shared + "/out/ssl"), "escapes"},
		"unknown type":            {Mount{Type: "proc", Target: "/proc"}, `unknown type "proc"`},
		"target with a zero byte": {Bind(shared, "/x\x00y", false), "invalid"},
	} {
		// Whatever came before is undone.
		err := MountAll(root, []Mount{Bind(shared, "/before", false), {Type: "tmpfs", Target: "/besides/dir"}, test.mount})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v; want %s", name, err, test.want)
		}
		if left := mountsBelow(t, root); len(left) > 0 {
			t.Errorf("%s left %v", name, left)
			UnmountAll(root)
		}
	}
	for _, outside := range []string{"/etc/x", "/etc/etc"} {
		if _, err := os.Lstat(outside); err == nil {
			t.Errorf("%s was made on the host", outside)
		}
	}
}

func TestMountPlan(t *testing.T) {
	for _, test := range []struct {
		mount Mount
		goos  string
		ok    bool
	}{
		{DefaultMounts(4)[0], "freebsd", true},
		{DefaultMounts(0)[0], "freebsd", false},
		{DefaultMounts(-1)[0], "freebsd", false},
		{DefaultMounts(1 << 16)[0], "freebsd", false},
		{DefaultMounts(0)[0], "linux", true},
		{Bind("/a", "/b", false), "freebsd", true},
		{Mount{Type: "fdescfs", Target: "/dev/fd"}, "freebsd", true},
		{Mount{Type: "fdescfs", Target: "/dev/fd"}, "linux", false},
		{Mount{Type: "procfs", Target: "/proc"}, "linux", false},
	} {
		if err := CheckMounts(test.goos, []Mount{test.mount}); (err == nil) != test.ok {
			t.Errorf("%+v on %s: %v", test.mount, test.goos, err)
		}
	}
	for _, test := range []struct {
		first, second Mount
		freebsd       string
	}{
		{Bind("/a", "/b", false), Bind("/c", "/bc", false), ""},
		{Bind("/a", "/b", false), Bind("/c", "/b", false), ""},
		{Bind("/a", "/b/c", false), Bind("/c", "/b", false), ""},
		{Mount{Type: "tmpfs", Target: "/b"}, Bind("/c", "/b/c", false), ""},
		{DefaultMounts(4)[0], Mount{Type: "fdescfs", Target: "/dev/fd"}, ""},
		{Bind("/a", "/b", true), Bind("/c", "//b/./c/d", false),
			"mount //b/./c/d: it is inside of /b, which is mounted from the host, and FreeBSD cannot mount there safely; choose a target elsewhere"},
	} {
		list := []Mount{test.first, test.second}
		err := CheckMounts("freebsd", list)
		if got := fmt.Sprint(err); err != nil && got != test.freebsd || err == nil && test.freebsd != "" {
			t.Errorf("%v: %v", list, err)
		}
		if err := CheckMounts("linux", list); err != nil && test.second.Type != "fdescfs" {
			t.Errorf("%v on Linux: %v", list, err)
		}
	}
}

func TestUnmountBusy(t *testing.T) {
	root := newRoot(t)
	if err := MountAll(root, []Mount{{Type: "tmpfs", Target: "/tmp"}}); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(root + "/tmp/open")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := UnmountAll(root); err != nil {
		t.Error(err)
	}
	if left := mountsBelow(t, root); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}
