package driver

import (
	"context"
	"crypto/rand"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/rootfs"
	"github.com/nomad-driver-jail/nomad-driver-jail/image"
	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
)

// publish exports an image with noise bytes that do not compress, and a motd, into a folder.
func publish(t *testing.T, dir, name, motd string, noise int) image.Manifest {
	t.Helper()
	backend := storage.NewDirectory(filepath.Join(t.TempDir(), "store"))
	if err := backend.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	if err := rootfs.Make(root, ""); err != nil {
		t.Fatal(err)
	}
	random := make([]byte, noise)
	rand.Read(random)
	for file, data := range map[string][]byte{"noise": random, "etc/motd": []byte(motd)} {
		if err := os.WriteFile(filepath.Join(root, file), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ref, err := image.ParseReference(name)
	if err != nil {
		t.Fatal(err)
	}
	store := image.New(backend, image.Options{LockDir: t.TempDir()})
	img, err := store.Build(t.Context(), ref, root, image.BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := store.Export(t.Context(), img, dir, image.ExportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// registry serves a folder, streams at so many bytes a second.
func registry(t *testing.T, dir string, pace int) string {
	t.Helper()
	good := image.Handler(dir)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".zst") {
			w = &pacedWriter{ResponseWriter: w, pace: pace}
		}
		good.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

type pacedWriter struct {
	http.ResponseWriter
	pace int
}

func (p *pacedWriter) Write(data []byte) (int, error) {
	time.Sleep(time.Duration(len(data)) * time.Second / time.Duration(p.pace))
	return p.ResponseWriter.Write(data)
}

// TestDownloadEvents reads what a person sees in nomad alloc status.
func TestDownloadEvents(t *testing.T) {
	dir := t.TempDir()
	publish(t, dir, "web:1", "hello\n", 3<<20)
	h, _ := harness(t)
	cfg := newTaskConfig(t, h, "true")
	url := registry(t, dir, 4<<20) + "/web:1"
	if err := cfg.EncodeConcreteDriverConfig(&TaskConfig{Image: url, Command: "/bin/true", NetworkMode: modeBridge, Securelevel: -1}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events, err := h.TaskEvents(ctx)
	if err != nil {
		t.Fatal(err)
	}
	startTask(t, h, cfg)
	next := func() *drivers.TaskEvent {
		select {
		case e := <-events:
			return e
		case <-time.After(10 * time.Second):
			t.Fatal("no event")
			return nil
		}
	}
	during, after := next(), next()
	if m := regexp.MustCompile(`^Downloading image: ([0-3]\.\d MiB of \d\.\d MiB), ([0-4]\.\d MiB/s)$`).FindStringSubmatch(during.Message); m == nil ||
		during.Annotations["progress"] != m[1] || during.Annotations["rate"] != m[2] || during.Annotations["image"] != url || m[2] == "0.0 MiB/s" {
		t.Errorf("the event says %s, %v", during.Message, during.Annotations)
	}
	if !regexp.MustCompile(`^Downloaded image ` + regexp.QuoteMeta(url) + `: \d\.\d MiB in [0-9.]+m?s \([1-4]\.\d MiB/s\)$`).MatchString(after.Message) {
		t.Errorf("the event after it says %s", after.Message)
	}
}
