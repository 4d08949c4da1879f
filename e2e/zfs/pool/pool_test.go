package pool

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

func TestMain(m *testing.M) { Main(m) }

// again runs one of these tests in another process that starts on the machine, as a test run does.
func again(t *testing.T, test string, env ...string) ([]byte, error) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+test+"$", "-test.v")
	cmd.Env = append(os.Environ(), env...)
	return cmd.CombinedOutput()
}

func TestDataset(t *testing.T) {
	fmt.Println("files in", current.dir)
	dir := t.TempDir()
	name := Dataset(t)
	if err := zfs("create", "-o", "mountpoint="+dir, name+"/a"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/file", nil, 0o644); err != nil {
		t.Error(err)
	}
	switch os.Getenv("POOL_TEST") {
	case "panic":
		panic("on purpose")
	case "kill":
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // it may take a moment to arrive
	}
}

// TestNothingLeft ends test runs in bad ways.
func TestNothingLeft(t *testing.T) {
	for _, how := range []string{"", "panic", "kill"} {
		out, err := again(t, "TestDataset", "POOL=", "POOL_TEST="+how)
		if (err == nil) != (how == "") {
			t.Errorf("%s: %v\n%s", how, err, out)
		}
		_, dir, found := strings.Cut(string(out), "files in ")
		dir, _, _ = strings.Cut(dir, "\n")
		if !found || exists(dir) {
			t.Errorf("%s: %q is left\n%s", how, dir, out)
		}
	}
}

func TestBelow(t *testing.T) {
	if !kernelHasZFS() {
		t.Skip("a zfs-fuse does not serve processes in other mount namespaces than its own; OpenZFS and FreeBSD run this")
	}
	parent := Dataset(t)
	for _, how := range []string{"", "panic", "kill"} {
		out, err := again(t, "TestDataset", "POOL="+parent, "POOL_TEST="+how)
		if (err == nil) != (how == "") {
			t.Errorf("%s: %v\n%s", how, err, out)
		}
		left, err := exec.Command("zfs", "list", "-H", "-r", "-o", "name", parent).Output()
		if err != nil || strings.TrimSpace(string(left)) != parent {
			t.Errorf("%s: left %s, %v\n%s", how, left, err, out)
		}
	}
}
