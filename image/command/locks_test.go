package command

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
)

// TestOtherStateDir names another state folder than the pull at work in the same directory has.
func TestOtherStateDir(t *testing.T) {
	dir := t.TempDir()
	backend := storage.NewDirectory(dir)
	if err := backend.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	root, err := backend.Create(t.Context(), "pull-1", "")
	if err != nil {
		t.Fatal(err)
	}
	must(t, "gc", "--directory", dir, "--state-dir", t.TempDir()) // makes the locks' folder
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
	must(t, "gc", "--directory", dir, "--state-dir", t.TempDir())
	if _, err := os.Stat(root); err != nil {
		t.Errorf("a pull at work has lost its files: %v", err)
	}
}
