package image

import (
	"bytes"
	"io"
	"os/exec"
	"testing"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/zfs/pool"
)

// TestHalfReceived meets what a zfs receive -s has kept of a stream that broke off, under the name of one of our pulls. Ours keep nothing: a
// static registry has no answer to the token that such a half asks for the rest with.
func TestHalfReceived(t *testing.T) {
	if !pool.Kernel() {
		t.Skip("zfs-fuse keeps no half of a stream; FreeBSD and OpenZFS run this")
	}
	dir := t.TempDir()
	_, manifests := versions(t, dir)
	whole, difference := plain(t, dir+"/web_1.zfs.zst"), plain(t, dir+"/web_2.zfs.zst")
	r := newRegistry(t, dir)
	for _, half := range []struct {
		name, image string
		keep        func(t *testing.T, dataset, parent string)
	}{
		{"whole", "web:1", func(t *testing.T, dataset, _ string) { keepHalf(t, whole, dataset) }},
		{"difference", "web:2", func(t *testing.T, dataset, parent string) { keepHalf(t, difference, dataset, "-o", "origin="+parent) }},
		{"difference to what is there", "web:2", keepBelow},
	} {
		t.Run(half.name, func(t *testing.T) {
			h := newHost(t, "zfs", Options{})
			empty := h.state(t)
			parent, err := h.Ensure(t.Context(), r.ref(t, "web:1"), EnsureOptions{})
			if err != nil {
				t.Fatal(err)
			}
			remove := func(img Image) {
				t.Helper()
				if err := h.Remove(t.Context(), img); err != nil {
					t.Error(err)
				}
			}
			if half.image == "web:1" {
				remove(parent)
			}
			before := h.state(t)
			tmp := (&link{manifest: manifests[half.image[len("web:"):]]}).tmp()
			keep := func() { half.keep(t, h.dataset+"/incoming/"+tmp, h.dataset+"/images/"+parent.ID+"@image") }

			keep()
			if err := h.Sweep(t.Context()); err != nil {
				t.Error(err)
			}
			if after := h.state(t); after != before {
				t.Errorf("the next start leaves, of\n%s, more:\n%s", before, after)
			}

			keep()
			img, err := h.Ensure(t.Context(), r.ref(t, half.image), EnsureOptions{})
			if err != nil {
				t.Fatalf("the next pull: %v", err)
			}
			remove(img)
			if half.image != "web:1" {
				remove(parent) // that nothing holds on to it, out of sight
			}
			if after := h.state(t); after != empty {
				t.Errorf("the next pull leaves, of\n%s, more:\n%s", empty, after)
			}
		})
	}
}

// keepBelow makes a dataset that has half of its own next snapshot: in a child that no list shows.
func keepBelow(t *testing.T, dataset, _ string) {
	t.Helper()
	dir := t.TempDir()
	other := pool.Dataset(t) + "/other"
	zfs(t, "create", "-o", "mountpoint="+dir+"/other", other)
	zfs(t, "snapshot", other+"@1")
	write(t, dir+"/other/noise", read(t, makeTree(t, 4<<20)+"/var/noise"))
	zfs(t, "snapshot", other+"@2")
	if out, err := zfsReceive(zfs(t, "send", other+"@1"), dataset); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	keepHalf(t, zfs(t, "send", "-i", "@1", other+"@2"), dataset)
}

// keepHalf has a dataset keep the first half of a stream.
func keepHalf(t *testing.T, stream []byte, dataset string, options ...string) {
	t.Helper()
	out, err := zfsReceive(stream[:len(stream)/2], dataset, append(options, "-s")...)
	if err == nil {
		t.Fatal("half a stream was received")
	}
	if token := zfs(t, "get", "-H", "-o", "value", "receive_resume_token", dataset); len(token) < 20 {
		t.Fatalf("the half is not kept: %s; its token is %s", out, token)
	}
}

func zfs(t *testing.T, args ...string) []byte {
	t.Helper()
	out, err := exec.Command("zfs", args...).Output()
	if err != nil {
		t.Fatalf("zfs %v: %v", args, err)
	}
	return out
}

func zfsReceive(stream []byte, dataset string, options ...string) ([]byte, error) {
	cmd := exec.Command("zfs", append(append([]string{"receive", "-u"}, options...), dataset)...)
	cmd.Stdin = bytes.NewReader(stream)
	return cmd.CombinedOutput()
}

// plain is what a published stream decompresses to.
func plain(t *testing.T, file string) []byte {
	t.Helper()
	decoder, err := decodeZstd(t.Context(), bytes.NewReader(read(t, file)))
	if err != nil {
		t.Fatal(err)
	}
	defer decoder.Close()
	data, err := io.ReadAll(decoder)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
