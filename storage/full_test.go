package storage

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestFullPool says so of a pool that is full, and leaves nothing in it.
func TestFullPool(t *testing.T) {
	noise := make([]byte, 24<<20) // it does not compress
	rand.Read(noise)
	source := newZFS(t)
	makeImage(t, source, "large", "", nil, "file", string(noise))
	large := stream(t, source, "", "large")

	dir := t.TempDir()
	name := "njd" + strings.ToLower(rand.Text()[:8])
	z := NewZFS(Dataset(name).Child("jails"), filepath.Join(dir, "mounts"))
	smallPool(t, name, filepath.Join(dir, "disk"))
	if err := z.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	makeImage(t, z, "small", "", nil, "file", content)
	if err := z.Receive(t.Context(), "t", "", bytes.NewReader(large)); err != nil {
		t.Fatalf("before it is full: %v", err)
	}
	if err := z.Discard(t.Context(), "t"); err != nil {
		t.Fatal(err)
	}
	root, err := z.Clone(t.Context(), "small", "fat", CloneOptions{TaskID: "a/b/c"})
	if err != nil {
		t.Fatal(err)
	}
	fill(t, filepath.Join(root, "file"))

	wantFull := func(what string, err error) {
		if err == nil || !strings.Contains(err.Error(), "is full") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", what, err)
		}
	}
	wantFull("receive", z.Receive(t.Context(), "t", "", bytes.NewReader(large)))
	if left, err := z.Temporary(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	if _, err := z.Clone(t.Context(), "small", "thin", CloneOptions{TaskID: "a/b/d"}); err != nil { // there may be room for as little
		wantFull("clone", err)
	}
	if err := z.RemoveTask(context.Background(), "fat", false); err != nil { // what makes room must go on
		t.Error(err)
	}
}

func smallPool(t *testing.T, name, disk string) {
	t.Helper()
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 96<<20); err != nil {
		t.Fatal(err)
	}
	run(t, "zpool", "create", "-f", "-o", "cachefile=none", "-O", "mountpoint=none", name, disk)
	t.Cleanup(func() { run(t, "zpool", "destroy", "-f", name) })
}

// fill writes what does not compress until there is no room for more.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		if _, err = io.CopyN(f, rand.Reader, 1<<20); err == nil {
			err = f.Sync()
		}
	}
	if err := errors.Join(err, f.Close()); !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		t.Fatal(err)
	}
}
