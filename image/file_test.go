package image

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestNoRegularFile has something else where a registry of files has an image's.
func TestNoRegularFile(t *testing.T) {
	dir, _ := publish(t, "tar", "web:1", makeTree(t, 1000), BuildOptions{})
	notFound := func(t *testing.T, base, file string) {
		t.Helper()
		h := newHost(t, "tar", Options{Limits: impatient})
		before := h.state(t)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := h.Ensure(ctx, Reference{Base: "file://" + base, Name: "web", Tag: "1"}, EnsureOptions{})
		h.refused(t, err, "image web:1: the registry has no file://"+base+"/"+file+" (404 Not Found)", before, prefix)
	}
	for name, place := range map[string]func(path string) error{
		"FIFO":      func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"device":    func(path string) error { return os.Symlink("/dev/zero", path) },
	} {
		for _, file := range []string{"web_1.json", "web_1.tar.zst"} {
			t.Run(name+" "+file, func(t *testing.T) {
				base := t.TempDir()
				if err := os.CopyFS(base, os.DirFS(dir)); err != nil {
					t.Fatal(err)
				}
				path := filepath.Join(base, file)
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				if err := place(path); err != nil {
					t.Fatal(err)
				}
				notFound(t, base, file)
			})
		}
	}
	t.Run("below a file", func(t *testing.T) { notFound(t, filepath.Join(dir, "web_1.json"), "web_1.json") })
}
