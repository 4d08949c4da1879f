package storage

import (
	"os"
	"strings"
	"testing"
)

func TestDevfs(t *testing.T) {
	root := t.TempDir()
	defer UnmountAll(root)
	if err := MountAll(root, DefaultMounts(4)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"null": true, "random": true, "mem": false, "kmem": false, "pf": false, "pci": false} {
		if _, err := os.Stat(root + "/dev/" + name); (err == nil) != want {
			t.Errorf("/dev/%s: %v", name, err)
		}
	}
	if err := UnmountAll(root); err != nil {
		t.Error(err)
	}
	if err := MountAll(root, DefaultMounts(54321)); err == nil || !strings.Contains(err.Error(), "has no rules") {
		t.Errorf("a ruleset without rules: %v", err)
	}
}

func TestNullfs(t *testing.T) {
	root, source := t.TempDir(), t.TempDir()
	defer UnmountAll(root)
	write(t, source+"/file", "text")
	if err := MountAll(root, []Mount{Bind(source+"/file", "/file", false)}); err == nil || !strings.Contains(err.Error(), "directories only") {
		t.Errorf("a file: %v", err)
	}
	if err := os.Symlink(source, root+"/../link"); err == nil {
		defer os.Remove(root + "/../link")
	}
	if err := MountAll(root, []Mount{Bind(root+"/../link", "/data", true)}); err != nil {
		t.Fatal(err)
	}
	if got := read(t, root+"/data/file"); got != "text" {
		t.Errorf("file %q", got)
	}
}
