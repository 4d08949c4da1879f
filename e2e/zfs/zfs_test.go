package main

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	gozfs "github.com/mistifyio/go-zfs/v4"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/zfs/pool"
)

func TestMain(m *testing.M) { pool.Main(m) }

func zfs(t *testing.T, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command("zfs", args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("zfs %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSuffix(string(out), "\n")
}

// must makes a test read like the calls that it makes.
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestGoZFS(t *testing.T) {
	dir := t.TempDir()
	parent := pool.Dataset(t)
	source := must(gozfs.CreateFilesystem(parent+"/source", map[string]string{"mountpoint": dir + "/source", "a:b": "c", "quota": "100M"}))(t)
	if source.Mountpoint != dir+"/source" || source.Quota != 100<<20 || source.Type != gozfs.DatasetFilesystem || source.Avail == 0 {
		t.Errorf("created %+v", source)
	}
	if err := os.WriteFile(dir+"/source/file", bytes.Repeat([]byte("text\n"), 100000), 0o644); err != nil {
		t.Fatal(err)
	}
	snapshot := must(source.Snapshot("one", false))(t)
	clone := must(snapshot.Clone(parent+"/clone", map[string]string{"mountpoint": dir + "/clone", "a:b": "d"}))(t)
	if clone.Origin != snapshot.Name || must(clone.GetProperty("a:b"))(t) != "d" {
		t.Errorf("clone %+v", clone)
	}
	if got := must(snapshot.GetProperty("clones"))(t); got != clone.Name {
		t.Errorf("clones of %s: %q", snapshot.Name, got)
	}
	if err := clone.SetProperty("quota", "1G"); err != nil {
		t.Error(err)
	}
	var stream bytes.Buffer
	if err := snapshot.SendSnapshot(&stream); err != nil {
		t.Fatal(err)
	}
	received := must(gozfs.ReceiveSnapshot(bytes.NewReader(stream.Bytes()), parent+"/received"))(t)
	if len(must(received.Snapshots())(t)) != 1 {
		t.Error("a received dataset has its snapshot")
	}
	renamed := must(received.Rename(parent+"/renamed", false, false))(t)
	if children := must((&gozfs.Dataset{Name: parent}).Children(1))(t); len(children) != 3 {
		t.Errorf("children %v", children)
	}
	must(renamed.Mount(false, nil))
	for _, d := range []*gozfs.Dataset{clone, renamed} {
		if err := d.Destroy(gozfs.DestroyRecursive); err != nil {
			t.Error(err)
		}
	}
	name, _, _ := strings.Cut(parent, "/")
	if zp := must(gozfs.GetZpool(name))(t); zp.Health != gozfs.ZpoolOnline || zp.Free == 0 || zp.Size < zp.Free {
		t.Errorf("pool %+v", zp)
	}
}

func TestDialect(t *testing.T) {
	dir := t.TempDir()
	parent := pool.Dataset(t)
	zfs(t, "create", "-u", "-o", "mountpoint="+dir+"/a", "-o", "compression=lz4", "-o", "sync=disabled", parent+"/a")
	if got := zfs(t, "get", "-Hp", "-o", "value", "mounted", parent+"/a"); got != "no" {
		t.Error("create -u mounted")
	}
	zfs(t, "set", "x:one=1", "x:two=with spaces", "quota=64M", parent+"/a")
	if got := zfs(t, "list", "-Hp", "-o", "name,quota,x:one,x:two,written", "-t", "filesystem", parent+"/a"); !strings.HasPrefix(got, parent+"/a\t67108864\t1\twith spaces\t") {
		t.Errorf("list: %q", got)
	}
	for _, name := range []string{"@1", "@2", "@3"} {
		zfs(t, "snapshot", parent+"/a"+name)
	}
	if got := zfs(t, "get", "-Hp", "-r", "-t", "snapshot", "-o", "name", "used", parent); strings.Count(got, "\n") != 2 {
		t.Errorf("get -t snapshot: %q", got)
	}
	zfs(t, "destroy", parent+"/a@2,3")
	zfs(t, "clone", "-p", parent+"/a@1", parent+"/b/c")

	name, _, _ := strings.Cut(parent, "/")
	if out, err := exec.Command("zpool", "sync", name).CombinedOutput(); err != nil {
		t.Errorf("zpool sync: %v: %s", err, out)
	}
	if out, err := exec.Command("zpool", "sync", "none-such").CombinedOutput(); err == nil {
		t.Errorf("zpool sync of no pool: %s", out)
	}
	if got := zfs(t, "get", "-H", "-s", "local", "-o", "property", "all", name); strings.Contains(got, "sync") {
		t.Errorf("zpool sync left %q", got)
	}
}

// TestReceive receives with properties of the receiver's own.
func TestReceive(t *testing.T) {
	if usage, _ := exec.Command("zfs", "receive").CombinedOutput(); pool.Kernel() && !strings.Contains(string(usage), "-x") {
		t.Skip("the receive of FreeBSD 12 sets no properties; that of later releases and of OpenZFS does")
	}
	dir := t.TempDir()
	parent := pool.Dataset(t)
	zfs(t, "create", "-u", "-o", "mountpoint="+dir+"/a", "-o", "x:two=2", parent+"/a")
	zfs(t, "snapshot", parent+"/a@1")

	stream := exec.Command("zfs", "send", "-c", "-L", parent+"/a@1")
	receive := exec.Command("zfs", "receive", "-u", "-s", "-o", "mountpoint="+dir+"/r", "-o", "x:one=2", "-x", "x:two", parent+"/r")
	receive.Stdin = must(stream.StdoutPipe())(t)
	if err := stream.Start(); err != nil {
		t.Fatal(err)
	}
	if out, err := receive.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := stream.Wait(); err != nil {
		t.Error(err)
	}
	if got := zfs(t, "get", "-Hp", "-o", "value", "mounted,x:one,mountpoint,receive_resume_token", parent+"/r"); got != "no\n2\n"+dir+"/r\n-" {
		t.Errorf("received: %q", got)
	}
	zfs(t, "rename", "-u", parent+"/r", parent+"/s")
	if got := zfs(t, "get", "-Hp", "-o", "value", "mounted", parent+"/s"); got != "no" {
		t.Error("rename mounted")
	}
}

// TestManyAtOnce does what hangs a bare zfs-fuse.
func TestManyAtOnce(t *testing.T) {
	dir := t.TempDir()
	parent := pool.Dataset(t)
	zfs(t, "create", "-o", "mountpoint="+dir, parent+"/a")
	zfs(t, "snapshot", parent+"/a@1")
	for _, command := range []func(string) []string{
		func(name string) []string { return []string{"clone", parent + "/a@1", name} },
		func(name string) []string { return []string{"destroy", name} },
	} {
		var group sync.WaitGroup
		for _, n := range strings.Split("abcdefghijklmnopqrst", "") {
			group.Go(func() {
				if out, err := exec.Command("zfs", command(parent+"/clone-"+n)...).CombinedOutput(); err != nil {
					t.Errorf("%v: %s", err, out)
				}
			})
		}
		group.Wait()
	}
}
