package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/zfs/pool"
)

func TestMain(m *testing.M) { pool.Main(m) }

func newZFS(t testing.TB) *ZFS {
	t.Helper()
	mounts := filepath.Join(t.TempDir(), "mounts")
	z := NewZFS(Dataset(pool.Dataset(t)).Child("jails"), mounts)
	if err := z.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	return z
}

func newDirectory(t testing.TB) *Directory {
	t.Helper()
	d := NewDirectory(filepath.Join(t.TempDir(), "store"), t.TempDir())
	if err := d.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d
}

// both runs a test with each kind of store.
func both(t *testing.T, test func(t *testing.T, b Backend)) {
	t.Run("zfs", func(t *testing.T) { test(t, newZFS(t)) })
	t.Run("directory", func(t *testing.T) { test(t, newDirectory(t)) })
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return string(text)
}

// makeImage makes an image of some files: path and text.
func makeImage(t testing.TB, b Backend, id, base string, props map[string]string, files ...string) {
	t.Helper()
	root, err := b.Create(t.Context(), "make-"+id, base)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(files); i += 2 {
		write(t, filepath.Join(root, files[i]), files[i+1])
	}
	commit(t, b, "make-"+id, id, props)
}

// commit makes an image of what Create began.
func commit(t testing.TB, b Backend, tmp, id string, props map[string]string) {
	t.Helper()
	if err := b.Seal(t.Context(), tmp); err != nil {
		t.Fatal(err)
	}
	if err := b.Commit(t.Context(), tmp, id, props); err != nil {
		t.Fatal(err)
	}
}

func imageRoot(t testing.TB, b Backend, id string) string {
	t.Helper()
	root, err := b.ImageRoot(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// stream is what Send prints of an image.
func stream(t testing.TB, b Backend, from, id string) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := b.Send(t.Context(), from, id, &out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// content is enough of it to not fit into a pipe.
var content = strings.Repeat("0123456789abcdef", 1<<16)

func removeTask(t testing.TB, b Backend, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := b.RemoveTask(ctx, name, false); err != nil {
		t.Errorf("remove %s: %v", name, err)
	}
}

func wantEmpty(t *testing.T, b Backend) {
	t.Helper()
	images, err := b.Images(t.Context())
	if err != nil || len(images) > 0 {
		t.Errorf("images %v, %v; want none", images, err)
	}
	temporary, err := b.Temporary(t.Context())
	if err != nil || len(temporary) > 0 {
		t.Errorf("temporary images %v, %v; want none", temporary, err)
	}
	tasks, err := b.Tasks(t.Context())
	if err != nil || len(tasks) > 0 {
		t.Errorf("tasks %v, %v; want none", tasks, err)
	}
}

func TestLife(t *testing.T) {
	both(t, func(t *testing.T, b Backend) {
		ctx := t.Context()
		wantEmpty(t, b)
		makeImage(t, b, "source", "", nil, "etc/motd", "hello\n", "big", content)
		data := stream(t, b, "", "source")

		if err := b.Receive(ctx, "pull-1", "", bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		if got, err := b.Temporary(ctx); err != nil || !slices.Equal(got, []string{"pull-1"}) {
			t.Errorf("temporary %v, %v", got, err)
		}
		if images, _ := b.Images(ctx); len(images) != 1 {
			t.Errorf("a temporary image is listed as one: %v", images)
		}
		long := strings.Repeat("long ", 500) + "end"
		if err := b.Commit(ctx, "pull-1", "abc123", map[string]string{"reference": "https://h/web:1.4", "manifest": long, "empty": ""}); err != nil {
			t.Fatal(err)
		}
		if got, _ := b.Temporary(ctx); len(got) > 0 {
			t.Errorf("temporary %v", got)
		}
		if got := read(t, imageRoot(t, b, "abc123")+"/etc/motd"); got != "hello\n" {
			t.Errorf("motd %q", got)
		}
		if err := b.SetProp(ctx, "abc123", "used-at", "2026-01-02"); err != nil {
			t.Error(err)
		}

		root, err := b.Clone(ctx, "abc123", "nj3f0a1b2c4d5e", CloneOptions{TaskID: "alloc/web/1234"})
		if err != nil {
			t.Fatal(err)
		}
		if root != b.TaskRoot("nj3f0a1b2c4d5e") || read(t, root+"/etc/motd") != "hello\n" {
			t.Errorf("root %s", root)
		}
		tasks, err := b.Tasks(ctx)
		if want := []Task{{"nj3f0a1b2c4d5e", "alloc/web/1234", root}}; err != nil || !slices.Equal(tasks, want) {
			t.Errorf("tasks %v, %v; want %v", tasks, err, want)
		}
		images, err := b.Images(ctx)
		if err != nil || len(images) != 2 {
			t.Fatalf("images %v, %v", images, err)
		}
		i := images[0]
		if i.ID != "abc123" || !slices.Equal(i.Clones, []string{"tasks/nj3f0a1b2c4d5e"}) || i.Referenced == 0 {
			t.Errorf("image %+v", i)
		}
		if i.Props["reference"] != "https://h/web:1.4" || i.Props["manifest"] != long || i.Props["used-at"] != "2026-01-02" || len(i.Props) > 4 {
			t.Errorf("properties %v", i.Props)
		}
		if err := b.RemoveImage(ctx, "abc123"); !errors.Is(err, ErrInUse) {
			t.Errorf("remove of an image with a clone: %v", err)
		}
		removeTask(t, b, "nj3f0a1b2c4d5e")
		removeTask(t, b, "nj3f0a1b2c4d5e")
		if _, err := os.Lstat(root); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", root, err)
		}
		for _, id := range []string{"abc123", "abc123", "source"} {
			if err := b.RemoveImage(ctx, id); err != nil {
				t.Error(err)
			}
		}
		wantEmpty(t, b)
	})
}

func TestClonesAreApart(t *testing.T) {
	both(t, func(t *testing.T, b Backend) {
		makeImage(t, b, "i", "", nil, "file", "original")
		var roots []string
		for _, name := range []string{"nja", "njb"} {
			root, err := b.Clone(t.Context(), "i", name, CloneOptions{TaskID: name})
			if err != nil {
				t.Fatal(err)
			}
			defer removeTask(t, b, name)
			roots = append(roots, root)
		}
		write(t, roots[0]+"/file", "changed")
		write(t, roots[0]+"/new", "new")
		if got := read(t, roots[1]+"/file"); got != "original" {
			t.Errorf("the other task reads %q", got)
		}
		if got := read(t, imageRoot(t, b, "i")+"/file"); got != "original" {
			t.Errorf("the image reads %q", got)
		}
		if _, err := os.Stat(roots[1] + "/new"); !os.IsNotExist(err) {
			t.Errorf("the other task sees the new file: %v", err)
		}
	})
}

func TestManyClonesAtOnce(t *testing.T) {
	both(t, func(t *testing.T, b Backend) {
		makeImage(t, b, "i", "", nil, "file", "text")
		var group sync.WaitGroup
		for n := range 20 {
			group.Go(func() {
				name := fmt.Sprintf("nj%02d", n)
				root, err := b.Clone(t.Context(), "i", name, CloneOptions{TaskID: name})
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := os.Stat(root + "/file"); err != nil {
					t.Error(err)
				}
				removeTask(t, b, name)
			})
		}
		group.Wait()
	})
}

func TestTaskRootsArePrivate(t *testing.T) {
	both(t, func(t *testing.T, b Backend) {
		makeImage(t, b, "i", "", nil, "file", "text")
		root, err := b.Clone(t.Context(), "i", "nja", CloneOptions{TaskID: "a"})
		if err != nil {
			t.Fatal(err)
		}
		defer removeTask(t, b, "nja")
		private := false
		for dir := filepath.Dir(root); dir != "/"; dir = filepath.Dir(dir) {
			info, err := os.Stat(dir)
			if err != nil {
				t.Fatal(err)
			}
			private = private || info.Mode().Perm() == 0o700 && strings.Contains(dir, "TestTaskRootsArePrivate")
		}
		if !private {
			t.Errorf("a user of the host can reach %s", root)
		}
		cmd := exec.Command("cat", root+"/file")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if out, err := cmd.CombinedOutput(); err == nil {
			t.Errorf("nobody reads %s", out)
		}
	})
}

func TestRefusals(t *testing.T) {
	both(t, func(t *testing.T, b Backend) {
		ctx := t.Context()
		makeImage(t, b, "i", "", nil, "file", "text")
		if _, err := b.Clone(ctx, "i", "nja", CloneOptions{TaskID: "a"}); err != nil {
			t.Fatal(err)
		}
		defer removeTask(t, b, "nja")
		if _, err := b.Create(ctx, "left", ""); err != nil {
			t.Fatal(err)
		}
		clone := func(id, name string) error {
			_, err := b.Clone(ctx, id, name, CloneOptions{TaskID: "t"})
			return err
		}
		for name, test := range map[string]struct {
			err  error
			want error
			text string
		}{
			"clone of no image":       {err: clone("none", "njb"), want: ErrNotFound},
			"clone over a clone":      {err: clone("i", "nja"), want: ErrExists},
			"clone with a bad name":   {err: clone("i", "../x"), text: `task "../x": a name is`},
			"clone of a bad image":    {err: clone("a/b@c", "njb"), text: `image "a/b@c": a name is`},
			"clone with a long name":  {err: clone("i", strings.Repeat("n", 300)), text: "at most 80"},
			"commit over an image":    {err: b.Commit(ctx, "left", "i", nil), want: ErrExists},
			"commit with a bad key":   {err: b.Commit(ctx, "left", "j", map[string]string{"a=b": ""}), text: `property "a=b"`},
			"commit with a bad value": {err: b.Commit(ctx, "left", "j", map[string]string{"a": "x\ny"}), text: "control character"},
			"root of no image":        {err: func() error { _, err := b.ImageRoot(ctx, "none"); return err }(), want: ErrNotFound},
			"create twice":            {err: func() error { _, err := b.Create(ctx, "left", ""); return err }(), want: ErrExists},
			"create from no image":    {err: func() error { _, err := b.Create(ctx, "t", "none"); return err }(), want: ErrNotFound},
			"receive over another":    {err: b.Receive(ctx, "left", "", bytes.NewReader(stream(t, b, "", "i"))), want: ErrExists},
			"receive with no base":    {err: b.Receive(ctx, "t", "none", bytes.NewReader(stream(t, b, "", "i"))), want: ErrNotFound},
			"receive of rubbish":      {err: b.Receive(ctx, "t", "", strings.NewReader(content))},
			"receive of nothing":      {err: b.Receive(ctx, "t", "", strings.NewReader(""))},
			"send of no image":        {err: b.Send(ctx, "", "none", io.Discard), want: ErrNotFound},
			"discard of a bad name":   {err: b.Discard(ctx, "../images/i"), text: "a name is"},
			"remove of a bad name":    {err: b.RemoveTask(ctx, "../images", false), text: "a name is"},
		} {
			switch {
			case test.err == nil:
				t.Errorf("%s: no error", name)
			case test.want != nil && !errors.Is(test.err, test.want):
				t.Errorf("%s: %v; want %v", name, test.err, test.want)
			case !strings.Contains(test.err.Error(), test.text):
				t.Errorf("%s: %v; want %s", name, test.err, test.text)
			}
		}
		if err := b.Discard(ctx, "left"); err != nil {
			t.Error(err)
		}
		if left, _ := b.Temporary(ctx); len(left) > 0 {
			t.Errorf("left %v", left)
		}
		if tasks, _ := b.Tasks(ctx); len(tasks) != 1 {
			t.Errorf("tasks %v", tasks)
		}
	})
}

func TestStreamCutShort(t *testing.T) {
	both(t, func(t *testing.T, b Backend) {
		makeImage(t, b, "i", "", nil, "file", content, "other", content)
		data := stream(t, b, "", "i")
		for tenth := range 10 {
			if err := b.Receive(t.Context(), "t", "", bytes.NewReader(data[:len(data)*tenth/10])); err == nil {
				t.Errorf("%d tenths of a stream were taken for it", tenth)
			}
			if left, err := b.Temporary(t.Context()); err != nil || len(left) > 0 {
				t.Fatalf("left %v, %v", left, err)
			}
		}
	})
}

func TestStreamFails(t *testing.T) {
	both(t, func(t *testing.T, b Backend) {
		makeImage(t, b, "i", "", nil, "file", content)
		data := stream(t, b, "", "i")
		lost := errors.New("connection lost")
		for _, at := range []int{0, len(data) / 2, len(data)} {
			err := b.Receive(t.Context(), "t", "", io.MultiReader(bytes.NewReader(data[:at]), failing{lost}))
			if !errors.Is(err, lost) {
				t.Errorf("failure at %d of %d: %v", at, len(data), err)
			}
			if left, err := b.Temporary(t.Context()); err != nil || len(left) > 0 {
				t.Fatalf("left %v, %v", left, err)
			}
		}
	})
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestReceiveCancelled(t *testing.T) {
	both(t, func(t *testing.T, b Backend) {
		makeImage(t, b, "i", "", nil, "file", content)
		data := stream(t, b, "", "i")
		ctx, cancel := context.WithCancel(t.Context())
		err := b.Receive(ctx, "t", "", io.MultiReader(bytes.NewReader(data[:len(data)/2]), waiting{ctx, cancel}))
		if !errors.Is(err, context.Canceled) {
			t.Errorf("received: %v", err)
		}
		if left, err := b.Temporary(t.Context()); err != nil || len(left) > 0 {
			t.Errorf("left %v, %v", left, err)
		}
	})
}

// waiting is a connection that nothing comes from any more. It closes when it is told to, as an HTTP body does.
type waiting struct {
	ctx    context.Context
	cancel func()
}

func (w waiting) Read([]byte) (int, error) {
	time.AfterFunc(200*time.Millisecond, w.cancel)
	<-w.ctx.Done()
	return 0, w.ctx.Err()
}

func TestRemoveBusyTask(t *testing.T) {
	both(t, func(t *testing.T, b Backend) {
		makeImage(t, b, "i", "", nil, "file", "text")
		root, err := b.Clone(t.Context(), "i", "nja", CloneOptions{TaskID: "a"})
		if err != nil {
			t.Fatal(err)
		}
		if err := MountAll(root, []Mount{{Type: "tmpfs", Target: "/tmp"}, Bind(t.TempDir(), "/data", false)}); err != nil {
			t.Fatal(err)
		}
		// Somebody works in it for a little longer.
		cmd := exec.Command("sleep", "1")
		cmd.Dir = root + "/tmp"
		root2 := exec.Command("sleep", "1")
		root2.Dir = root
		for _, c := range []*exec.Cmd{cmd, root2} {
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			defer c.Wait()
		}
		removeTask(t, b, "nja")
		if tasks, err := b.Tasks(t.Context()); err != nil || len(tasks) > 0 {
			t.Errorf("tasks %v, %v", tasks, err)
		}
	})
}

func TestIncremental(t *testing.T) {
	both(t, func(t *testing.T, b Backend) {
		ctx := t.Context()
		makeImage(t, b, "one", "", nil, "a", content, "b", "b", "dir/gone", "", "dir/kept", "")
		root, err := b.Create(ctx, "two", "one")
		if err != nil {
			t.Fatal(err)
		}
		write(t, root+"/b", "changed")
		write(t, root+"/c", "c")
		for _, err := range []error{os.Remove(root + "/dir/gone"), os.Symlink("c", root+"/symlink"), os.Link(root+"/a", root+"/linked")} {
			if err != nil {
				t.Fatal(err)
			}
		}
		commit(t, b, "two", "two", nil)
		whole, difference := stream(t, b, "", "one"), stream(t, b, "one", "two")
		// The second name makes tar's difference hold its file.
		if b.Format() == "zfs" && len(difference) > len(whole)/2 {
			t.Errorf("the difference has %d bytes, the whole %d", len(difference), len(whole))
		}
		// As at a host that has the parent only.
		if err := b.RemoveImage(ctx, "two"); err != nil {
			t.Fatal(err)
		}
		if err := b.Receive(ctx, "t", "one", bytes.NewReader(difference)); err != nil {
			t.Fatal(err)
		}
		if err := b.Commit(ctx, "t", "two", nil); err != nil {
			t.Fatal(err)
		}
		two := imageRoot(t, b, "two")
		for path, want := range map[string]string{"a": content, "linked": content, "b": "changed", "c": "c", "symlink": "c", "dir/kept": ""} {
			if got := read(t, filepath.Join(two, path)); got != want {
				t.Errorf("%s has %d bytes, want %d", path, len(got), len(want))
			}
		}
		if _, err := os.Lstat(two + "/dir/gone"); !os.IsNotExist(err) {
			t.Errorf("gone: %v", err)
		}
		if got := read(t, imageRoot(t, b, "one")+"/b"); got != "b" {
			t.Errorf("the parent's b: %q", got)
		}
		root, err = b.Clone(ctx, "two", "nja", CloneOptions{TaskID: "a"})
		if err != nil {
			t.Fatal(err)
		}
		defer removeTask(t, b, "nja")
		if got := read(t, root+"/b"); got != "changed" {
			t.Errorf("the clone's b: %q", got)
		}
	})
}

func TestIncrementalShares(t *testing.T) {
	b := newZFS(t)
	ctx := t.Context()
	makeImage(t, b, "one", "", nil, "a", content)
	makeImage(t, b, "two", "one", nil, "c", "c")
	whole, difference := stream(t, b, "", "one"), stream(t, b, "one", "two")
	if err := b.Receive(ctx, "t", "one", bytes.NewReader(whole)); err == nil || !strings.Contains(err.Error(), "whole") {
		t.Errorf("a whole stream for an incremental image: %v", err)
	}
	if err := b.Receive(ctx, "t", "", bytes.NewReader(difference)); err == nil || !strings.Contains(err.Error(), "names no parent") {
		t.Errorf("an incremental stream without a base: %v", err)
	}
	makeImage(t, b, "other", "", nil, "a", "a")
	if err := b.Receive(ctx, "t", "other", bytes.NewReader(difference)); err == nil {
		t.Error("an incremental stream was received onto another parent")
	} else {
		t.Log(err)
	}
	images, err := b.Images(ctx)
	if err != nil || len(images) != 3 || !slices.Equal(images[0].Clones, []string{"images/two"}) || images[2].Used > images[0].Used/2 {
		t.Errorf("images %+v, %v", images, err)
	}
	if err := b.RemoveImage(ctx, "one"); !errors.Is(err, ErrInUse) {
		t.Errorf("remove of a parent: %v", err)
	}
}

func TestQuota(t *testing.T) {
	b := newZFS(t)
	makeImage(t, b, "i", "", nil, "file", content)
	root, err := b.Clone(t.Context(), "i", "nja", CloneOptions{TaskID: "a", Quota: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer removeTask(t, b, "nja")
	noise := make([]byte, 16<<20)
	for i := range noise {
		noise[i] = byte(i * i >> 8)
	}
	err = os.WriteFile(root+"/noise", noise, 0o644)
	if err == nil {
		t.Error("16 MiB fit into a quota of 4 MiB")
	}
	t.Log(err)

	if _, err := newDirectory(t).Clone(t.Context(), "i", "nja", CloneOptions{TaskID: "a", Quota: 1}); err == nil || !strings.Contains(err.Error(), "ZFS") {
		t.Errorf("a directory with a quota: %v", err)
	}
}

// TestRemoveUndeletable removes what a task protected from removal.
func TestRemoveUndeletable(t *testing.T) {
	both(t, func(t *testing.T, b Backend) {
		deep := "dir" + strings.Repeat("/d", 2*openDirs)
		makeImage(t, b, "i", "", nil, deep+"/file", "text")
		root, err := b.Clone(t.Context(), "i", "nja", CloneOptions{TaskID: "a"})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("dir", root+"/link"); err != nil {
			t.Fatal(err)
		}
		protect := []string{"chattr", "-R", "+i", root + "/dir"}
		if runtime.GOOS == "freebsd" {
			protect = []string{"chflags", "-R", "-h", "uchg", root + "/dir", root + "/link"}
		}
		if out, err := exec.Command(protect[0], protect[1:]...).CombinedOutput(); err != nil {
			t.Logf("this file system has no such flags: %s", out)
		}
		removeTask(t, b, "nja")
		if tasks, err := b.Tasks(t.Context()); err != nil || len(tasks) > 0 {
			t.Errorf("tasks %v, %v", tasks, err)
		}
	})
}

func TestSpaceAndCheck(t *testing.T) {
	both(t, func(t *testing.T, b Backend) {
		if err := b.Check(t.Context()); err != nil {
			t.Error(err)
		}
		free, total, err := b.Space(t.Context())
		if err != nil || free == 0 || total < free {
			t.Errorf("%d of %d free, %v", free, total, err)
		}
		if err := b.Prepare(t.Context()); err != nil {
			t.Errorf("a second time: %v", err)
		}
	})
	for _, b := range []Backend{NewZFS("none/jails", "/x"), NewZFS("a b", "/x"), NewZFS("tank@a", "/x"), NewDirectory("relative", "/x"), NewDirectory("/nowhere/at/all", "/x")} {
		err := b.Check(t.Context())
		if err == nil {
			t.Errorf("%v is usable", b)
		}
		t.Log(err)
	}
}

// TestNotMade: a store that Prepare could make has nothing yet, and one that it could not says what is missing.
func TestNotMade(t *testing.T) {
	dataset, dir := Dataset(pool.Dataset(t)), t.TempDir()
	for _, b := range []Backend{NewZFS(dataset.Child("jails"), dir+"/mounts"), NewDirectory(dir+"/store", dir+"/state")} {
		if err := b.Check(t.Context()); err != nil {
			t.Error(err)
		}
		if _, _, err := b.Space(t.Context()); !errors.Is(err, ErrNotMade) {
			t.Errorf("space: %v", err)
		}
		if tasks, err := b.Tasks(t.Context()); err != nil || len(tasks) > 0 {
			t.Errorf("tasks %v, %v", tasks, err)
		}
	}
	above := NewZFS(dataset.Child("a").Child("jails"), dir+"/mounts")
	want := fmt.Sprintf("dataset %[1]s/a/jails: there is no %[1]s/a to make it in; zfs create -p %[1]s/a makes that", dataset)
	_, _, err := above.Space(t.Context())
	_, listed := above.Tasks(t.Context())
	for what, err := range map[string]error{"Space": err, "Tasks": listed, "Prepare": above.Prepare(t.Context())} {
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", what, err, want)
		}
	}
}

// TestMountedElsewhere has a command line come that names another state folder than the plugin.
func TestMountedElsewhere(t *testing.T) {
	z := newZFS(t)
	makeImage(t, z, "a", "", nil, "etc/motd", "hello")
	root, err := z.Clone(t.Context(), "a", "nj0123456789ab", CloneOptions{TaskID: "task"})
	if err != nil {
		t.Fatal(err)
	}
	defer removeTask(t, z, "nj0123456789ab")
	state := t.TempDir()
	other := NewZFS(z.parent, filepath.Join(state, "mounts"))
	want := fmt.Sprintf("dataset %s: its store is mounted in %s and not in %s; give the folder of the driver's state that it belongs to: --state-dir %s, the plugin's state_dir",
		z.parent, z.mountRoot, other.mountRoot, filepath.Dir(z.mountRoot))
	for name, err := range map[string]error{"Prepare": other.Prepare(t.Context()), "Check": other.Check(t.Context())} {
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
	if err := checkMounted(root); err != nil {
		t.Errorf("the task's root: %v", err)
	}
	imageRoot(t, z, "a")
	if root, err := other.ImageRoot(t.Context(), "a"); err == nil {
		t.Errorf("the image's root is said to be %s", root)
	}
	if entries, err := os.ReadDir(state); err != nil || len(entries) > 0 {
		t.Errorf("%v was made, %v", entries, err)
	}
	if err := z.Prepare(t.Context()); err != nil {
		t.Errorf("its own: %v", err)
	}
}

// TestOthersDirectory has another host, or a command line that names another state folder, come to a directory that is in use.
func TestOthersDirectory(t *testing.T) {
	d := newDirectory(t)
	makeImage(t, d, "a", "", nil, "etc/motd", "hello")
	if _, err := d.Clone(t.Context(), "a", "nj0123456789ab", CloneOptions{TaskID: "task"}); err != nil {
		t.Fatal(err)
	}
	other := NewDirectory(d.dir, filepath.Join(t.TempDir(), "state"))
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("directory %s: it belongs to the driver's state in %s:%s and not to %s here; give the folder that it belongs to (--state-dir, the plugin's state_dir), or this host a directory of its own; where that one is gone for good, remove %s/owner",
		d.dir, host, d.stateDir, other.stateDir, d.dir)
	tasks, listed := other.Tasks(t.Context())
	for name, err := range map[string]error{"Check": other.Check(t.Context()), "Prepare": other.Prepare(t.Context()), "Check again": other.Check(t.Context()), "Tasks": listed} {
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
	if len(tasks) > 0 {
		t.Errorf("another's tasks are listed: %v", tasks)
	}
	// A state folder that is moved has its directory still.
	moved := NewDirectory(d.dir, t.TempDir()+"/moved")
	if err := os.Rename(d.stateDir, moved.stateDir); err != nil {
		t.Fatal(err)
	}
	if err := moved.Prepare(t.Context()); err != nil {
		t.Error(err)
	}
	removeTask(t, moved, "nj0123456789ab")
	if err := os.Remove(d.dir + "/owner"); err != nil {
		t.Fatal(err)
	}
	if err := other.Prepare(t.Context()); err != nil {
		t.Errorf("once nobody has it: %v", err)
	}
}

// TestOneOwner has many come to a new directory at the same time, each state folder by two processes.
func TestOneOwner(t *testing.T) {
	dir, states := t.TempDir(), t.TempDir()
	var owners [10]atomic.Int32
	var group sync.WaitGroup
	for i := range 2 * len(owners) {
		group.Go(func() {
			n := i % len(owners)
			if NewDirectory(dir, fmt.Sprintf("%s/%d", states, n)).Prepare(t.Context()) == nil {
				owners[n].Add(1)
			}
		})
	}
	group.Wait()
	var counts []int32
	for i := range owners {
		if n := owners[i].Load(); n > 0 {
			counts = append(counts, n)
		}
	}
	if !slices.Equal(counts, []int32{2}) {
		t.Errorf("%v; want one state folder to have it, for both processes", counts)
	}
}

// TestRemoveBusyImage has somebody on the host read an image, or hold its snapshot, for as long as it takes.
func TestRemoveBusyImage(t *testing.T) {
	z := newZFS(t)
	makeImage(t, z, "open", "", nil, "file", "text")
	makeImage(t, z, "held", "", nil, "file", "text")
	root, err := z.Create(t.Context(), "unfinished", "")
	if err != nil {
		t.Fatal(err)
	}
	write(t, root+"/file", "text")
	for _, path := range []string{imageRoot(t, z, "open") + "/file", root + "/file"} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
	}
	held := z.image("held").Snapshot(imageSnapshot)
	if _, err := zfs("hold", "backup", held); err != nil {
		t.Fatal(err)
	}
	defer zfs("release", "backup", held)
	for name, remove := range map[string]func() error{
		"open":       func() error { return z.RemoveImage(t.Context(), "open") },
		"held":       func() error { return z.RemoveImage(t.Context(), "held") },
		"unfinished": func() error { return z.Discard(context.Background(), "unfinished") },
	} {
		done := make(chan error, 1)
		go func() { done <- remove() }()
		select {
		case err := <-done:
			if !errors.Is(err, ErrBusy) {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(10 * busyTime):
			t.Errorf("%s: it is still waited for", name)
		}
	}
	if images, err := z.Images(t.Context()); err != nil || len(images) != 2 {
		t.Errorf("images %v, %v", images, err)
	}
}

// TestRemoveDeep has folders nested deeper than this process has descriptors and any path has bytes, in a task's root, which the task can
// do to it, and in an image that is being built.
func TestRemoveDeep(t *testing.T) {
	d := newDirectory(t)
	makeImage(t, d, "i", "", nil, "file", "text")
	root, err := d.Clone(t.Context(), "i", "nja", CloneOptions{TaskID: "a"})
	if err != nil {
		t.Fatal(err)
	}
	half, err := d.Create(t.Context(), "half", "i")
	if err != nil {
		t.Fatal(err)
	}
	folder := strings.Repeat("d", 20)
	for _, root := range []string{root, half} {
		nest(t, root, folder, 400)
	}
	if err := d.Commit(t.Context(), "half", "deep", nil); err == nil || !strings.HasPrefix(err.Error(), "/root/"+folder+"/"+folder) || !errors.Is(err, errLongPath) || len(err.Error()) > 400 {
		t.Errorf("an image of it: %v", err)
	}
	if err := Copy(openRoot(t, root), folder, openRoot(t, t.TempDir()), "/d"); !errors.Is(err, errLongPath) {
		t.Errorf("a copy of it: %v", err)
	}
	fewDescriptors(t)
	removeTask(t, d, "nja")
	if err := d.Discard(t.Context(), "half"); err != nil {
		t.Error(err)
	}
	if err := d.RemoveImage(t.Context(), "i"); err != nil {
		t.Error(err)
	}
	wantEmpty(t, d)
}

// nest makes a folder in the one before, again and again, each with a file.
func nest(t *testing.T, dir, name string, depth int) {
	t.Helper()
	at, err := os.OpenRoot(dir)
	for range depth {
		if err == nil {
			err = errors.Join(at.WriteFile("file", nil, 0o644), at.Mkdir(name, 0o755))
		}
		if err != nil {
			t.Fatal(err)
		}
		above := at
		at, err = above.OpenRoot(name)
		above.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	at.Close()
}

// fewDescriptors holds until the end of the test.
func fewDescriptors(t *testing.T) {
	t.Helper()
	var have unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &have); err != nil {
		t.Fatal(err)
	}
	few := have
	few.Cur = 200
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Setrlimit(unix.RLIMIT_NOFILE, &have) })
}

// TestRemoveBesideClone lets a task's start and the removal of its image meet: one of the two is refused.
func TestRemoveBesideClone(t *testing.T) {
	d := newDirectory(t)
	var files []string
	for i := range 200 {
		files = append(files, fmt.Sprintf("file%03d", i), "text")
	}
	for i := range 20 {
		makeImage(t, d, "i", "", nil, files...)
		var removed error
		done := make(chan struct{})
		go func() {
			defer close(done)
			time.Sleep(time.Duration(i%10) * 200 * time.Microsecond)
			removed = d.RemoveImage(t.Context(), "i")
		}()
		copyOf := func() (root string, discard func(), err error) {
			if i%2 == 0 {
				root, err = d.Clone(t.Context(), "i", "nja", CloneOptions{TaskID: "a"})
				return root, func() { removeTask(t, d, "nja") }, err
			}
			root, err = d.Create(t.Context(), "half", "i")
			return root, func() {
				if err := d.Discard(t.Context(), "half"); err != nil {
					t.Error(err)
				}
			}, err
		}
		root, discard, err := copyOf()
		<-done
		switch {
		case err == nil:
			if entries, err := os.ReadDir(root); err != nil || len(entries) != 200 {
				t.Errorf("the copy has %d files, %v", len(entries), err)
			}
			discard()
		case !errors.Is(err, ErrNotFound):
			t.Errorf("copy: %v", err)
		}
		if removed != nil && !errors.Is(removed, ErrInUse) {
			t.Errorf("removal: %v", removed)
		}
		if err := d.RemoveImage(t.Context(), "i"); err != nil {
			t.Error(err)
		}
	}
	wantEmpty(t, d)
}
