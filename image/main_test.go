package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/zfs/pool"
	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
)

func TestMain(m *testing.M) {
	if os.Getenv(pullerVariable) != "" {
		os.Exit(puller())
	}
	if os.Getenv(proxiedVariable) != "" {
		os.Exit(proxied())
	}
	pool.Main(m)
}

// host is a store with what is around it.
type host struct {
	*Store
	kind    string
	dataset string
	dir     string
}

var kinds = []string{"zfs", "tar"}

// eachKind runs a test on a ZFS and on a directory store.
func eachKind(t *testing.T, f func(t *testing.T, kind string)) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) { f(t, kind) })
	}
}

func newHost(t testing.TB, kind string, options Options) *host {
	t.Helper()
	h := &host{kind: kind, dir: t.TempDir()}
	if kind == "zfs" {
		h.dataset = pool.Dataset(t) + "/jails"
	}
	backend := h.backend()
	if err := backend.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.Store = New(backend, h.options(options))
	return h
}

func (h *host) backend() storage.Backend {
	if h.kind == "zfs" {
		return storage.NewZFS(storage.Dataset(h.dataset), filepath.Join(h.dir, "mounts"))
	}
	return storage.NewDirectory(filepath.Join(h.dir, "store"), filepath.Join(h.dir, "state"))
}

func (h *host) options(o Options) Options {
	o.LockDir = filepath.Join(h.dir, "locks")
	return o
}

func (h *host) root(t testing.TB, img Image) string {
	t.Helper()
	root, err := h.Root(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// impatient is for registries that do not get better.
var impatient = Limits{Retry: 300 * time.Millisecond}

// state is all that a store holds on its host, to be compared.
func (h *host) state(t testing.TB) string {
	t.Helper()
	if h.kind == "zfs" {
		out, err := exec.Command("zfs", "list", "-H", "-r", "-t", "all", "-o", "name", h.dataset).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out) + list(t, filepath.Join(h.dir, "mounts"))
	}
	return list(t, filepath.Join(h.dir, "store"))
}

func describe(path string, entry fs.DirEntry) (string, error) {
	info, err := entry.Info()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return info.Mode().String(), nil
	}
	data, err := os.ReadFile(path)
	return fmt.Sprintf("%v %x", info.Mode(), sha256.Sum256(data)), err
}

// list names all below dir, and the content's hash of files.
func list(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		var what string
		if err == nil {
			what, err = describe(path, entry)
		}
		if path != dir && errors.Is(err, fs.ErrNotExist) { // somebody removes it just now
			return nil
		}
		fmt.Fprintln(&b, strings.TrimPrefix(path, dir), what)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// makeTree makes a folder with what a root file system has; about half of size bytes is not compressible.
func makeTree(t testing.TB, size int) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "root")
	random := rand.NewChaCha8([32]byte{7})
	noise := make([]byte, size/2)
	random.Read(noise)
	write := func(name string, data []byte, mode os.FileMode) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	write("bin/tool", []byte("#!/bin/sh\necho tool\n"), 0o755)
	write("bin/su", []byte("setuid"), 0o755|os.ModeSetuid)
	write("etc/motd", []byte("hello\n"), 0o644)
	write("var/noise", noise, 0o600)
	write("var/text", bytes.Repeat([]byte("all work and no play "), size/2/21), 0o640)
	if err := os.Chown(filepath.Join(dir, "etc/motd"), 80, 80); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../etc/motd", filepath.Join(dir, "var/motd")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// registry serves a folder, and counts what is asked for.
type registry struct {
	dir    string
	url    string
	change func(w http.ResponseWriter, r *http.Request, good http.Handler) // how it misbehaves

	mu   sync.Mutex
	gets map[string]int
}

func newRegistry(t testing.TB, dir string) *registry {
	r := &registry{dir: dir, gets: map[string]int{}}
	good := Handler(dir)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.gets[req.URL.Path]++
		change := r.change
		r.mu.Unlock()
		if change != nil {
			change(w, req, good)
			return
		}
		good.ServeHTTP(w, req)
	}))
	t.Cleanup(server.Close)
	r.url = server.URL
	return r
}

func (r *registry) misbehave(change func(w http.ResponseWriter, r *http.Request, good http.Handler)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.change = change
}

func (r *registry) count(file string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.gets[file]
}

func (r *registry) total() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, count := range r.gets {
		n += count
	}
	return n
}

func (r *registry) ref(t testing.TB, name string) Reference {
	t.Helper()
	ref, err := ParseReference(r.url + "/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// publish builds an image from a tree and exports it into a new folder.
func publish(t testing.TB, kind, name, tree string, opt BuildOptions) (dir string, m Manifest) {
	t.Helper()
	builder := newHost(t, kind, Options{})
	dir = filepath.Join(t.TempDir(), "published")
	return dir, publishFrom(t, builder, name, tree, opt, dir)
}

func publishFrom(t testing.TB, builder *host, name, tree string, opt BuildOptions, dir string) Manifest {
	t.Helper()
	ref, err := ParseReference(name)
	if err != nil {
		t.Fatal(err)
	}
	img, err := builder.Build(t.Context(), ref, tree, opt)
	if err != nil {
		t.Fatal(err)
	}
	m, err := builder.Export(context.Background(), img, dir, ExportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}
