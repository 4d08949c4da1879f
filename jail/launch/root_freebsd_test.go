package launch

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// listDescriptors: fstat(1) is not in /rescue, and /dev/fd has no more than three without fdescfs(5).
const listDescriptors = `for f in 0 1 2 3 4 5 6 7 8 9; do if (: <&$f) 2>/dev/null; then echo $f; fi; done`

// testRoot is an image for one test: the statically linked tools of /rescue, a user, and some files that cannot be run.
func testRoot(t testing.TB) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	for _, dir := range []string{"bin", "dev", "etc", "tmp", "home/web", "secret"} {
		must(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
	}
	must(t, os.Chmod(filepath.Join(root, "tmp"), 0o777))
	must(t, os.Chmod(filepath.Join(root, "secret"), 0o700))
	for dir := root; dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o755)) // what t.TempDir makes is closed to the users of the jail
	}
	program, err := os.ReadFile("/rescue/sh")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(root, "bin/rescue"), program, 0o755))
	for _, name := range []string{"sh", "sleep", "cat", "id", "ps", "stty", "hostname", "ls", "head", "mount", "kill"} {
		must(t, os.Link(filepath.Join(root, "bin/rescue"), filepath.Join(root, "bin", name)))
	}
	writeImageFiles(t, root)
	dev := filepath.Join(root, "dev")
	if out, err := exec.Command("mount", "-t", "devfs", "devfs", dev).CombinedOutput(); err != nil {
		t.Fatalf("mount devfs: %v %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-f", dev).CombinedOutput(); err != nil {
			t.Errorf("umount: %v %s", err, out)
		}
	})
	return root
}
