package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-jail/nomad-driver-jail/driver"
	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/rootfs"
	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/zfs/pool"
	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
)

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	pool.Main(m)
}

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
	if left := holdings(t, state); left == nil || len(left) != 0 { // nil is null
		t.Errorf("left is %#v", left)
	}
}

// TestBuildIsNoLeftover has ps show a recipe's jail that runs, and gc leave it alone.
func TestBuildIsNoLeftover(t *testing.T) {
	tree, recipe, state := filepath.Join(t.TempDir(), "root"), filepath.Join(t.TempDir(), "recipe"), t.TempDir()
	if err := errors.Join(os.Mkdir(tree, 0o755), rootfs.Make(tree, "")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(recipe, []byte("base "+tree+"\nrun while [ ! -e /tmp/go ]; do sleep 0.1; done\ncmd /bin/true\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	built := make(chan error)
	go func() {
		_, _, err := runCommandLine(t, "image", "build", "--state-dir", state, "--directory", filepath.Join(state, "store"), "--recipe", recipe, "web:1")
		built <- err
	}()
	var found []driver.Holding
	for len(found) == 0 || !found[0].Running {
		select {
		case err := <-built:
			t.Fatalf("built before it was told to: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
		found = holdings(t, state)
	}
	if out, _, err := runCommandLine(t, "gc", "--all", "--grace", "0s", "--state-dir", state); err != nil {
		t.Errorf("gc: %v %s", err, out)
	}
	if now := holdings(t, state); len(now) != 1 || !now[0].Running || now[0].State.Driver != "image build" {
		t.Fatalf("after gc: %+v", now)
	}
	spec, err := jail.ReadSpec(filepath.Join(state, "tasks", found[0].Name))
	if err == nil {
		err = os.WriteFile(filepath.Join(spec.Root, "tmp/go"), nil, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := <-built; err != nil {
		t.Error(err)
	}
}

func holdings(t *testing.T, state string) (list []driver.Holding) {
	t.Helper()
	out, _, err := runCommandLine(t, "ps", "--json", "--state-dir", state)
	if err == nil {
		err = json.Unmarshal([]byte(out), &list)
	}
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestBuildLeavesHost has a run put a symlink to a folder of the host where the build is to remove its own resolv.conf.
func TestBuildLeavesHost(t *testing.T) {
	if _, err := os.Stat("/etc/resolv.conf"); err != nil {
		t.Skip("a build brings no resolv.conf: ", err)
	}
	tree, recipe, state, outside := filepath.Join(t.TempDir(), "root"), filepath.Join(t.TempDir(), "recipe"), t.TempDir(), t.TempDir()
	if err := errors.Join(os.Mkdir(tree, 0o755), rootfs.Make(tree, "")); err != nil {
		t.Fatal(err)
	}
	theirs := filepath.Join(outside, "resolv.conf")
	if err := os.WriteFile(theirs, []byte("nameserver 192.0.2.1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for run, refusal := range map[string]string{
		"rm /etc/resolv.conf":                      "",
		"mv /etc /e && ln -s " + outside + " /etc": "the image's /etc/resolv.conf, which is there for run only, cannot be removed",
	} {
		if err := os.WriteFile(recipe, []byte("base "+tree+"\nrun "+run+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		_, _, err := runCommandLine(t, "image", "build", "--state-dir", state, "--directory", filepath.Join(state, "store"), "--host-network", "--recipe", recipe, "web:1")
		if refusal == "" && err != nil || refusal != "" && (err == nil || !strings.Contains(err.Error(), refusal)) {
			t.Errorf("%s: %v, want %q", run, err, refusal)
		}
		if _, err := os.Stat(theirs); err != nil {
			t.Errorf("%s: the host has lost a file: %v", run, err)
		}
	}
}

// TestImageDefaults has the image commands do as the plugin.
func TestImageDefaults(t *testing.T) {
	config := driver.DefaultConfig()
	config.Dataset = "tank/jails"
	config.Images.Keys, config.Images.CAFile, config.Images.AuthFile, config.Images.Proxy = []string{"/key.pub"}, "/ca.pem", "/auth.json", "http://proxy:3128"
	config.Images.Mirrors, config.Images.Retry = []string{"https://a=https://b"}, "3s"
	config.Images.GCDelay, config.Images.MaxSize = "1h", "20G"
	config.StateDir = t.TempDir()
	data, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(config.StateDir, "config.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := imageDefaults("", config.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	r := got.Images.Registry
	if got.Dataset != "tank/jails" || got.Images.Keys[0] != "/key.pub" || got.Images.Limits.Retry != 3*time.Second || got.Images.LockDir != "" ||
		r.CAFile != "/ca.pem" || r.AuthFile != "/auth.json" || r.Proxy != "http://proxy:3128" || r.Mirrors["https://a"][0] != "https://b" ||
		got.GC.Delay != time.Hour || got.GC.MaxSize != 20e9 {
		t.Errorf("%+v", got)
	}
}
