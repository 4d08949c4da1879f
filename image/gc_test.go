package image

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
)

func TestGC(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		builder := newHost(t, kind, Options{})
		dir := t.TempDir()
		for i := range 4 {
			tree := makeTree(t, 2<<20)
			write(t, filepath.Join(tree, "number"), []byte(fmt.Sprint(i)))
			publishFrom(t, builder, fmt.Sprintf("web:%d", i), tree, BuildOptions{}, dir)
		}
		r := newRegistry(t, dir)
		h := newHost(t, kind, Options{})
		var images []Image
		for i := range 4 {
			img, err := h.Ensure(t.Context(), r.ref(t, fmt.Sprintf("web:%d", i)), EnsureOptions{})
			if err != nil {
				t.Fatal(err)
			}
			images = append(images, img)
		}
		if _, err := h.Build(t.Context(), Reference{Name: "mine", Tag: "1"}, makeTree(t, 3000), BuildOptions{}); err != nil {
			t.Fatal(err)
		}
		age := func(id string, d time.Duration) {
			then := time.Now().Add(-d)
			if err := os.Chtimes(h.usedPath(id), then, then); err != nil {
				t.Fatal(err)
			}
		}
		collect := func(opt GCOptions, want ...string) {
			t.Helper()
			removed, err := h.GC(t.Context(), opt)
			if err != nil {
				t.Error(err)
			}
			var got []string
			for _, img := range removed {
				got = append(got, img.Reference.short())
			}
			if !slices.Equal(got, want) {
				t.Errorf("%+v: removed %v, want %v", opt, got, want)
			}
		}

		collect(GCOptions{}) // all have just been used
		age(images[0].ID, 3*time.Hour)
		age(images[1].ID, 2*time.Hour)
		age(images[2].ID, 4*time.Hour)
		if _, err := h.backend().Clone(t.Context(), images[2].ID, "nj0123456789ab", storage.CloneOptions{TaskID: "task"}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { h.backend().RemoveTask(context.Background(), "nj0123456789ab", false) })
		before := h.state(t)
		collect(GCOptions{Delay: time.Hour, DryRun: true}, "web:0", "web:1")
		if after := h.state(t); after != before {
			t.Errorf("a dry run has changed the store from\n%s to\n%s", before, after)
		}
		collect(GCOptions{Delay: 5 * time.Hour})
		collect(GCOptions{Delay: 150 * time.Minute}, "web:0")
		collect(GCOptions{Delay: 5 * time.Hour, MaxSize: 1 << 40})
		collect(GCOptions{Delay: 5 * time.Hour, MaxSize: 1}, "web:1") // of the others one is in use, one was used just now, and one was built here
		if err := h.backend().RemoveTask(t.Context(), "nj0123456789ab", false); err != nil {
			t.Fatal(err)
		}
		collect(GCOptions{Delay: 3 * time.Hour}) // the task may start again
		age(images[2].ID, 4*time.Hour)
		collect(GCOptions{Delay: 3 * time.Hour}, "web:2")
		all, err := h.List(t.Context())
		if err != nil || len(all) != 2 || all[0].Reference.short() != "mine:1" || all[1].Reference.short() != "web:3" {
			t.Errorf("left are %+v, %v", all, err)
		}
		if entries, err := os.ReadDir(filepath.Dir(h.usedPath("any"))); err != nil || len(entries) > 2 {
			t.Errorf("notes of use: %v, %v", entries, err)
		}
		if strings.Contains(h.state(t), images[0].ID) {
			t.Error("a removed image is still there")
		}
	})
}

// TestBusyImage has somebody on the host look into an image that nobody uses, and into what a killed pull left.
func TestBusyImage(t *testing.T) {
	builder := newHost(t, "zfs", Options{})
	dir := t.TempDir()
	r := newRegistry(t, dir)
	h := newHost(t, "zfs", Options{})
	var images []Image
	for i, name := range []string{"busy:1", "free:1"} {
		tree := makeTree(t, 2000)
		write(t, filepath.Join(tree, "number"), []byte(fmt.Sprint(i)))
		publishFrom(t, builder, name, tree, BuildOptions{}, dir)
		img, err := h.Ensure(t.Context(), r.ref(t, name), EnsureOptions{})
		if err != nil {
			t.Fatal(err)
		}
		then := time.Now().Add(time.Duration(i-3) * time.Hour)
		if err := os.Chtimes(h.usedPath(img.ID), then, then); err != nil {
			t.Fatal(err)
		}
		images = append(images, img)
	}
	leftover, err := h.backend().Create(t.Context(), "pull-1", "")
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(leftover, "number"), nil)
	for _, root := range []string{h.root(t, images[0]), leftover} {
		f, err := os.Open(filepath.Join(root, "number"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	removed, err := h.GC(ctx, GCOptions{Delay: time.Hour})
	if err != nil || len(removed) != 1 || removed[0].ID != images[1].ID {
		t.Errorf("removed %+v, %v", removed, err)
	}
	want := fmt.Sprintf("image %s/busy:1: dataset %s/images/%s: busy: something on the host has files of it open", r.url, h.dataset, images[0].ID)
	if err := h.Remove(ctx, images[0]); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
	if img, err := h.Ensure(ctx, r.ref(t, "busy:1"), EnsureOptions{}); err != nil || img.ID != images[0].ID {
		t.Errorf("%v, %v", img.ID, err)
	}
}

// TestGCBesideLeftover has something in the store that no pull left and no sweep removes.
func TestGCBesideLeftover(t *testing.T) {
	dir := t.TempDir()
	tree := makeTree(t, 1000)
	publishFrom(t, newHost(t, "tar", Options{}), "web:1", tree, BuildOptions{}, dir)
	r := newRegistry(t, dir)
	var said bytes.Buffer
	h := newHost(t, "tar", Options{Logger: hclog.New(&hclog.LoggerOptions{Output: &said})})
	img, err := h.Ensure(t.Context(), r.ref(t, "web:1"), EnsureOptions{})
	if err != nil {
		t.Fatal(err)
	}
	long := time.Now().Add(-time.Hour)
	if err := os.Chtimes(h.usedPath(img.ID), long, long); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(h.dir, "store/incoming/.nfs01"), nil)
	removed, err := h.GC(t.Context(), GCOptions{})
	if err != nil || len(removed) != 1 || !strings.Contains(said.String(), `what killed pulls left is not removed: error="image \".nfs01\": a name is`) {
		t.Errorf("removed %v, %v, said %s", removed, err, said.String())
	}
}
