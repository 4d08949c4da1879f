package command

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
)

// TestOtherStateDir names another state folder than the directory's, and leaves alone what is at work there in any case.
func TestOtherStateDir(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	backend := storage.NewDirectory(dir, state)
	if err := backend.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	root, err := backend.Create(t.Context(), "pull-1", "")
	if err != nil {
		t.Fatal(err)
	}
	must(t, "gc", "--directory", dir, "--state-dir", state) // makes the locks' folder
	if _, err := os.Stat(root); err == nil {
		t.Error("what nobody holds has stayed")
	}
	root, err = backend.Create(t.Context(), "pull-1", "")
	if err != nil {
		t.Fatal(err)
	}
	lock, err := os.Create(filepath.Join(dir, "locks", "pull-1"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	must(t, "gc", "--directory", dir, "--state-dir", state)
	for _, command := range [][]string{{"gc"}, {"list"}, {"build", "web:1", someTree(t)}} {
		_, _, err := run(t, append(command, "--directory", dir, "--state-dir", t.TempDir())...)
		if want := "directory " + dir + ": it belongs to the driver's state in "; err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v: %v, want %s", command, err, want)
		}
	}
	if _, err := os.Stat(root); err != nil {
		t.Errorf("a pull at work has lost its files: %v", err)
	}
}
