package image

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
)

// versions publishes web:1 whole, web:2 as the difference to it, and web:3 as the difference to that. Each has a little more
// than the last, and lacks a little. The trees are returned by tag.
func versions(t *testing.T, dir string) (trees map[string]string, manifests map[string]Manifest) {
	t.Helper()
	builder := newHost(t, "zfs", Options{})
	trees, manifests = map[string]string{}, map[string]Manifest{}
	var parent *Image
	for _, tag := range []string{"1", "2", "3"} {
		tree := makeTree(t, 4<<20)
		write(t, filepath.Join(tree, "etc/version"), []byte(tag))
		for _, change := range map[string][]func(string) error{
			"1": {},
			"2": {func(d string) error { return os.Remove(d + "/bin/su") }, func(d string) error { return os.Chown(d+"/bin/tool", 5, 5) }},
			"3": {func(d string) error { return os.RemoveAll(d + "/var") }, func(d string) error { return os.WriteFile(d+"/var", nil, 0o600) },
				func(d string) error { return os.Link(d+"/bin/tool", d+"/bin/link") }, func(d string) error { return os.Chmod(d+"/etc", 0o700) }},
		}[tag] {
			if err := change(tree); err != nil {
				t.Fatal(err)
			}
		}
		img, err := builder.Build(t.Context(), Reference{Name: "web", Tag: tag}, tree, BuildOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if manifests[tag], err = builder.Export(t.Context(), img, dir, ExportOptions{Parent: parent}); err != nil {
			t.Fatal(err)
		}
		exported, err := builder.Find(t.Context(), "web:"+tag)
		if err != nil {
			t.Fatal(err)
		}
		trees[tag], parent = tree, &exported
	}
	builder.vanish(t)
	return trees, manifests
}

// vanish makes a host another machine: old ZFS takes as an incremental stream's base whatever in the pool has its snapshot.
func (h *host) vanish(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("zfs", "destroy", "-R", h.dataset).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func TestIncremental(t *testing.T) {
	dir := t.TempDir()
	trees, manifests := versions(t, dir)
	if m := manifests["2"]; m.Size*10 > manifests["1"].Size || m.Parent != "web:1@"+manifests["1"].Digest {
		t.Errorf("the difference: %+v", m)
	}
	r := newRegistry(t, dir)
	h := newHost(t, "zfs", Options{})
	var last Progress
	img, err := h.Ensure(t.Context(), r.ref(t, "web:3"), EnsureOptions{Progress: func(p Progress) { last = p }})
	if err != nil {
		t.Fatal(err)
	}
	total := manifests["1"].Size + manifests["2"].Size + manifests["3"].Size
	if last != (Progress{total, total}) {
		t.Errorf("the last progress is %+v, want %d", last, total)
	}
	root, err := h.backend().Clone(t.Context(), img.ID, "nj0123456789ab", storage.CloneOptions{TaskID: "task"})
	if err != nil {
		t.Fatal(err)
	}
	if a, b := list(t, trees["3"]), list(t, root); a != b {
		t.Errorf("the clone has\n%s, want\n%s", b, a)
	}
	if err := h.backend().RemoveTask(t.Context(), "nj0123456789ab", false); err != nil {
		t.Error(err)
	}
	before := r.total()
	second, err := h.Ensure(t.Context(), r.ref(t, "web:2"), EnsureOptions{})
	if err != nil || r.total() != before {
		t.Errorf("what web:3 stands on: %v, %d more requests", err, r.total()-before)
	}
	if a, b := list(t, trees["2"]), list(t, h.root(t, second)); a != b {
		t.Errorf("web:2 has\n%s, want\n%s", b, a)
	}
	if second.Used > 1<<20 {
		t.Errorf("the difference takes %d bytes on the disk", second.Used)
	}
	if err := h.Remove(t.Context(), second); err == nil || !strings.Contains(err.Error(), "images/"+img.ID+" stands on it") {
		t.Errorf("removal of what another stands on: %v", err)
	}

	// Another host has the first already.
	h.vanish(t)
	h = newHost(t, "zfs", Options{})
	if _, err := h.Ensure(t.Context(), r.ref(t, "web:1"), EnsureOptions{}); err != nil {
		t.Fatal(err)
	}
	if img, err = h.Ensure(t.Context(), r.ref(t, "web:3"), EnsureOptions{}); err != nil {
		t.Fatal(err)
	}
	if a, b := list(t, trees["3"]), list(t, h.root(t, img)); a != b {
		t.Errorf("web:3 has\n%s, want\n%s", b, a)
	}
	if n := r.count("/web_1.zfs.zst"); n != 2 {
		t.Errorf("web:1 was downloaded %d times by two hosts", n)
	}
}

func TestIncrementalRefusals(t *testing.T) {
	dir := t.TempDir()
	_, manifests := versions(t, dir)
	r := newRegistry(t, dir)
	h := newHost(t, "zfs", Options{})
	before := h.state(t)
	first := manifests["1"].Digest
	for _, c := range []struct {
		name     string
		fault    fault
		sentence string
	}{
		{"parent is gone", onlyFiles("/web_1.json", status(404)),
			"image web:2: below it, image web:1: the registry has no " + r.url + "/web_1.json (404 Not Found); check name and tag, or publish the image"},
		{"parent has changed", onlyFiles("/web_1.json", manifestField("digest", someDigest)),
			"image web:2: below it, image web:1: the registry's digest is " + someDigest + " now and not " + first + " as the reference says; pin the new one, or publish the old one again"},
		{"parent is damaged", onlyFiles("/web_1.zfs.zst", streamBytes(func(b []byte) []byte { b[len(b)/2] ^= 1; return b })),
			"image web:2: below it, image web:1: the digest of its stream is "},
		{"parent is itself", onlyFiles("/web_1.json", manifestField("parent", "web:1@"+first)),
			"image web:2: below it, image web:1: " + first + " is the digest of its stream only, "},
		{"parent is not said", onlyFiles("/web_2.json", manifestField("parent", "")),
			"image web:2: its stream cannot be unpacked: the stream is incremental, and its image names no parent"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r.misbehave(c.fault)
			_, err := h.Ensure(t.Context(), r.ref(t, "web:2"), EnsureOptions{})
			h.refused(t, err, c.sentence, before, prefix)
		})
	}

	r.misbehave(nil)
	m := manifests["1"]
	for i := range 40 { // each is on the one before
		m.Parent = m.Name + ":" + m.Tag + "@" + m.ID()
		m.Name, m.Tag = "high", fmt.Sprint(i)
		if err := writeManifest(dir, Reference{Name: m.Name, Tag: m.Tag}, m, nil); err != nil {
			t.Fatal(err)
		}
	}
	_, err := h.Ensure(t.Context(), r.ref(t, "high:39"), EnsureOptions{})
	h.refused(t, err, "image high:39: more than 32 images stand on each other below it; export it whole", before, whole)

	builder := newHost(t, "zfs", Options{})
	img, err := builder.Build(t.Context(), Reference{Name: "web", Tag: "2"}, makeTree(t, 1000), BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	parent := Image{ID: "x", Reference: Reference{Name: "other", Tag: "1"}, Manifest: Manifest{Format: "zfs", Digest: someDigest}}
	if _, err := builder.Export(t.Context(), img, dir, ExportOptions{Parent: &parent}); err == nil || !strings.Contains(err.Error(), "its parent other:1 is not in "+dir) {
		t.Errorf("a parent that is not exported: %v", err)
	}
	other := newHost(t, "zfs", Options{})
	stranger, err := other.Build(t.Context(), Reference{Name: "web", Tag: "1"}, makeTree(t, 1000), BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = other.Export(t.Context(), img, dir, ExportOptions{Parent: &stranger})
	if err == nil || !strings.Contains(err.Error(), "its parent web:1 is another one in "+dir) || !strings.Contains(err.Error(), "of another snapshot") {
		t.Errorf("a parent that is another one: %v", err)
	}
}

// TestParentPulled publishes the difference from an image that this host did not build: whoever pulled that has the same snapshot, though
// its stream has another digest.
func TestParentPulled(t *testing.T) {
	upstream, maker := t.TempDir(), newHost(t, "zfs", Options{})
	m := publishFrom(t, maker, "base:1", makeTree(t, 1<<20), BuildOptions{}, upstream)
	maker.vanish(t)
	builder := newHost(t, "zfs", Options{})
	base, err := builder.Ensure(t.Context(), newRegistry(t, upstream).ref(t, "base:1"), EnsureOptions{})
	if err != nil {
		t.Fatal(err)
	}
	img, _, err := cook(t, builder, "web:1", "base base:1\ncopy a /a", map[string]string{"a": "a"}, BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, compression := range []string{"gzip", "zstd"} {
		exported, err := builder.Export(t.Context(), base, dir, ExportOptions{Compression: compression})
		if err != nil {
			t.Fatal(err)
		}
		if compression == "gzip" && exported.Digest == m.Digest {
			t.Fatal("another compression gave the same digest")
		}
		below, err := builder.Find(t.Context(), "base:1")
		if err != nil {
			t.Fatal(err)
		}
		got, err := builder.Export(t.Context(), img, dir, ExportOptions{Parent: &below})
		if err != nil || got.Parent != "base:1@"+exported.Digest {
			t.Errorf("%s: %q, %v", compression, got.Parent, err)
		}
	}
	want := list(t, builder.root(t, img))
	builder.vanish(t)
	h := newHost(t, "zfs", Options{})
	pulled, err := h.Ensure(t.Context(), newRegistry(t, dir).ref(t, "web:1"), EnsureOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := list(t, h.root(t, pulled)); got != want {
		t.Errorf("pulled is\n%s, want\n%s", got, want)
	}
}

// TestMirrorUnreadable has in a tree what nobody reads: it is the same if it looks so, and is not waited for.
func TestMirrorUnreadable(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	for _, dir := range []string{from, to} {
		if err := errors.Join(unix.Mkfifo(dir+"/fifo", 0o600), bindSocket(dir+"/socket")); err != nil {
			t.Fatal(err)
		}
	}
	write(t, from+"/z", []byte("new"))
	mirrored := make(chan error, 1)
	go func() { mirrored <- mirrorTree(from, to) }()
	select {
	case err := <-mirrored:
		if err != nil || string(read(t, to+"/z")) != "new" {
			t.Errorf("z is %q, %v", read(t, to+"/z"), err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it waits")
	}
	if err := os.Chmod(from+"/fifo", 0o640); err != nil {
		t.Fatal(err)
	}
	if err := mirrorTree(from, to); err == nil || err.Error() != "fifo is neither a file nor a directory nor a symlink" {
		t.Errorf("one that differs: %v", err)
	}
}

// bindSocket leaves a socket in the file system.
func bindSocket(path string) error {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	return l.Close()
}
