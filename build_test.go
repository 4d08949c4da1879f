package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/rootfs"
	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/zfs/pool"
)

func TestMain(m *testing.M) { pool.Main(m) }

func runCommandLine(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, problems bytes.Buffer
	root := rootCommand()
	root.SetOut(&out)
	root.SetErr(&problems)
	root.SetArgs(args)
	err = root.ExecuteContext(t.Context())
	return out.String(), problems.String(), err
}

// TestBuildInJail has a recipe's run see the image, its user and environment, and nothing of the host.
func TestBuildInJail(t *testing.T) {
	tree := filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := rootfs.Make(tree, "/etc/hosts"); err != nil {
		t.Fatal(err)
	}
	recipe := filepath.Join(t.TempDir(), "recipe")
	write := func(text string) {
		if err := os.WriteFile(recipe, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	state := t.TempDir()
	store := []string{"--state-dir", state, "--dataset", pool.Dataset(t) + "/b"}
	build := func(args ...string) (string, string, error) {
		return runCommandLine(t, append(append([]string{"image", "build"}, store...), args...)...)
	}
	write("base " + tree + `
env GREETING=hello
user www
workdir /usr/local/www
run echo "$GREETING from $(id -un) in $(pwd)"; echo made > /tmp/made
user root
run hostname > /etc/name; ls / > /root/seen; echo >/dev/null
cmd /bin/true
`)
	out, said, err := build("--recipe", recipe, "web:1")
	if err != nil {
		t.Fatalf("%v: %s%s", err, out, said)
	}
	if !strings.Contains(said, "\nhello from www in /usr/local/www\n") {
		t.Errorf("it said %q", said)
	}
	out, _, err = runCommandLine(t, append([]string{"image", "inspect", "web:1"}, store...)...)
	var img struct{ Root string }
	if err != nil || json.Unmarshal([]byte(out), &img) != nil {
		t.Fatal(out, err)
	}
	for file, want := range map[string]string{"tmp/made": "made\n", "etc/name": "build\n"} {
		if got, err := os.ReadFile(filepath.Join(img.Root, file)); string(got) != want {
			t.Errorf("%s is %q, %v", file, got, err)
		}
	}
	if entries, err := os.ReadDir(filepath.Join(img.Root, "dev")); err != nil || len(entries) != 0 {
		t.Errorf("the image's /dev has %v, %v", entries, err)
	}

	write("base web:1\nrun echo to no avail; exit 3\n")
	_, said, err = build("--recipe", recipe, "web:2")
	if err == nil || err.Error() != "image web:2: line 2 of the recipe: run: it exits with 3" || !strings.Contains(said, "to no avail") {
		t.Errorf("a run that fails: %v, said %q", err, said)
	}
	write("base web:1\nuser mallory\nrun true\n")
	if _, _, err = build("--recipe", recipe, "web:2"); err == nil || !strings.Contains(err.Error(), "mallory") {
		t.Errorf("a user that the image lacks: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(os.TempDir(), "nomad-driver-jail-build-*")); err != nil || len(left) != 0 {
		t.Errorf("left is %v, %v", left, err)
	}
}
