package launch

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// busybox is what Debian's busybox-static installs.
const busybox = "/bin/busybox"

const listDescriptors = `cd /proc/self/fd; for f in *; do [ "$f" = 255 ] || [ ! -e "$f" ] || echo $f; done`

// testRoot is an image for one test: a shell and its tools, a user, and some files that cannot be run.
func testRoot(t testing.TB) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	for _, dir := range []string{"bin", "dev", "etc", "proc", "tmp", "home/web", "opt", "secret"} {
		must(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
	}
	must(t, os.Chmod(filepath.Join(root, "tmp"), 0o777))
	must(t, os.Chmod(filepath.Join(root, "secret"), 0o700))
	for dir := root; dir != "/tmp"; dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o755)) // what t.TempDir makes is closed to the users of the jail
	}
	program, err := os.ReadFile(busybox)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(root, "bin/busybox"), program, 0o755))
	for _, name := range []string{"sh", "sleep", "cat", "id", "ps", "stty", "hostname", "ls", "head", "mount", "mknod", "ip", "kill", "grep", "cut", "wc", "sed", "readlink"} {
		must(t, os.Symlink("/bin/busybox", filepath.Join(root, "bin", name)))
	}
	writeImageFiles(t, root)
	dev := filepath.Join(root, "dev")
	must(t, unix.Mount("tmpfs", dev, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "size=64k,mode=755"))
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dev).CombinedOutput(); err != nil {
			t.Errorf("umount: %v %s", err, out)
		}
	})
	must(t, unix.Mknod(filepath.Join(dev, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(t, os.Chmod(filepath.Join(dev, "null"), 0o666))
	return root
}
