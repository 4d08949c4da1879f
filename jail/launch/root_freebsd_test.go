package launch

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// listDescriptors: /dev/fd has no more than three without fdescfs(5).
const listDescriptors = `for f in 0 1 2 3 4 5 6 7 8 9; do if (: <&$f) 2>/dev/null; then echo $f; fi; done`

// testRoot is an image for one test: the host's programs, a user, and some files that cannot be run.
func testRoot(t testing.TB) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	for _, dir := range []string{"etc", "tmp", "home/web", "opt", "secret"} {
		must(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
	}
	must(t, os.Chmod(filepath.Join(root, "tmp"), 0o777))
	must(t, os.Chmod(filepath.Join(root, "secret"), 0o700))
	for dir := root; dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o755)) // what t.TempDir makes is closed to the users of the jail
	}
	writeImageFiles(t, root)
	for _, dir := range []string{"bin", "lib", "libexec", "usr"} {
		mount(t, "nullfs", "/"+dir, filepath.Join(root, dir))
	}
	mount(t, "devfs", "devfs", filepath.Join(root, "dev"))
	return root
}

func mount(t testing.TB, kind, what, where string) {
	t.Helper()
	must(t, os.MkdirAll(where, 0o755))
	options := "rw"
	if kind == "nullfs" {
		options = "ro"
	}
	if out, err := exec.Command("mount", "-t", kind, "-o", options, what, where).CombinedOutput(); err != nil {
		t.Fatalf("mount %s: %v %s", kind, err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-f", where).CombinedOutput(); err != nil {
			t.Errorf("umount: %v %s", err, out)
		}
	})
}
