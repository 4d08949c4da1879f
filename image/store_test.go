package image

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
)

// TestRoundTrip takes an image all the way: folder, store, registry, another store, a task's clone.
func TestRoundTrip(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		tree := makeTree(t, 3<<20)
		defaults := Defaults{Command: "/bin/tool", Args: []string{"-x", "two\nlines\t"}, Env: map[string]string{"GREETING": "grüß 🌍"}, Ports: []string{"80"}}
		dir, m := publish(t, kind, "web:1.4", tree, BuildOptions{Defaults: defaults, OSRelease: "12.2-RELEASE"})
		files, _ := filepath.Glob(dir + "/*")
		if want := "web_1.4.json web_1.4." + kind + ".zst"; want != strings.ReplaceAll(strings.Join(files, " "), dir+"/", "") {
			t.Errorf("exported %v, want %s", files, want)
		}

		r := newRegistry(t, dir)
		h := newHost(t, kind, Options{})
		var last Progress
		img, err := h.Ensure(t.Context(), r.ref(t, "web:1.4"), EnsureOptions{Progress: func(p Progress) { last = p }})
		if err != nil {
			t.Fatal(err)
		}
		if last.Bytes != m.Size || last.Total != m.Size {
			t.Errorf("the last progress is %+v, want %d of %d", last, m.Size, m.Size)
		}
		if want := strings.TrimPrefix(m.Digest, "sha256:"); img.ID != want {
			t.Errorf("ID %s, want %s", img.ID, want)
		}
		got, _ := json.Marshal(img.Manifest)
		want, _ := json.Marshal(m)
		if string(got) != string(want) {
			t.Errorf("manifest\n%s, want\n%s", got, want)
		}
		root, err := h.backend().Clone(t.Context(), img.ID, "nj0123456789ab", storage.CloneOptions{TaskID: "task"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { h.backend().RemoveTask(context.Background(), "nj0123456789ab", false) })
		if a, b := list(t, tree), list(t, root); a != b {
			t.Errorf("the clone has\n%s, want\n%s", b, a)
		}

		before := r.total()
		again, err := h.Ensure(t.Context(), r.ref(t, "web:1.4"), EnsureOptions{})
		if err != nil || again.ID != img.ID || r.total() != before {
			t.Errorf("the second time: %v, %v, %d more requests", again.ID, err, r.total()-before)
		}
		err = h.Remove(t.Context(), again)
		if err == nil || !strings.Contains(err.Error(), "tasks/nj0123456789ab stands on it") {
			t.Errorf("removal of an image in use: %v", err)
		}
		if err := h.backend().RemoveTask(t.Context(), "nj0123456789ab", false); err != nil {
			t.Fatal(err)
		}
		if err := h.Remove(t.Context(), again); err != nil {
			t.Error(err)
		}
		if list, err := h.List(t.Context()); err != nil || len(list) != 0 {
			t.Errorf("after removal: %v, %v", list, err)
		}
		if _, err := h.Ensure(t.Context(), r.ref(t, "web:1.4"), EnsureOptions{}); err != nil {
			t.Errorf("after removal: %v", err)
		}
	})
}

func TestBuildFromArchives(t *testing.T) {
	tree := makeTree(t, 100<<10)
	dir := t.TempDir()
	for _, c := range []struct{ file, flag string }{{"a.tar", ""}, {"a.txz", "-J"}, {"a.tgz", "-z"}} {
		args := []string{"-cf", filepath.Join(dir, c.file), "-C", tree, "."}
		if c.flag != "" {
			args = append([]string{c.flag}, args...)
		}
		if out, err := exec.Command("tar", args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	zst := compressed(t, "zstd", read(t, filepath.Join(dir, "a.tar"))) // not every tar has it built in
	if err := os.WriteFile(filepath.Join(dir, "a.tar.zst"), zst, 0o644); err != nil {
		t.Fatal(err)
	}
	eachKind(t, func(t *testing.T, kind string) {
		h := newHost(t, kind, Options{})
		for _, file := range []string{"a.tar", "a.txz", "a.tgz", "a.tar.zst"} {
			ref := Reference{Name: "web", Tag: file}
			img, err := h.Build(t.Context(), ref, filepath.Join(dir, file), BuildOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if a, b := list(t, tree), list(t, h.root(t, img)); a != b {
				t.Errorf("%s: the image has\n%s, want\n%s", file, b, a)
			}
			again, err := h.Build(t.Context(), Reference{Name: "same", Tag: file}, filepath.Join(dir, file), BuildOptions{})
			if err != nil || again.ID != img.ID {
				t.Errorf("%s: built again it is %s and not %s, %v", file, again.ID, img.ID, err)
			}
		}
		before := h.state(t)
		bad := filepath.Join(dir, "bad.tar")
		if err := os.WriteFile(bad, []byte("no archive"), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct{ source, sentence string }{
			{bad, "image bad:1: " + bad + ": "},
			{filepath.Join(dir, "none"), "no such file"},
		} {
			_, err := h.Build(t.Context(), Reference{Name: "bad", Tag: "1"}, c.source, BuildOptions{})
			if err == nil || !strings.Contains(err.Error(), c.sentence) {
				t.Errorf("%s: %v", c.source, err)
			}
		}
		if after := h.state(t); after != before {
			t.Errorf("the store has changed from\n%s to\n%s", before, after)
		}
	})
}

// TestNames follows tags that move, and two names of one stream.
func TestNames(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		builder := newHost(t, kind, Options{})
		dir := t.TempDir()
		tree := makeTree(t, 10<<10)
		first := publishFrom(t, builder, "web:latest", tree, BuildOptions{}, dir)
		r := newRegistry(t, dir)
		h := newHost(t, kind, Options{})
		old, err := h.Ensure(t.Context(), r.ref(t, "web:latest"), EnsureOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(tree, "etc/motd"), []byte("new\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		second := publishFrom(t, builder, "web:latest", tree, BuildOptions{}, dir)
		if first.Digest == second.Digest {
			t.Fatal("the second image is the first")
		}
		kept, err := h.Ensure(t.Context(), r.ref(t, "web:latest"), EnsureOptions{})
		if err != nil || kept.ID != old.ID {
			t.Errorf("without ForcePull: %s, %v", kept.ID, err)
		}
		moved, err := h.Ensure(t.Context(), r.ref(t, "web:latest"), EnsureOptions{ForcePull: true})
		if err != nil || moved.ID == old.ID {
			t.Errorf("with ForcePull: %s, %v", moved.ID, err)
		}
		kept, err = h.Ensure(t.Context(), r.ref(t, "web:latest"), EnsureOptions{})
		if err != nil || kept.ID != moved.ID {
			t.Errorf("after the tag moved: %s, %v", kept.ID, err)
		}
		if root, err := os.ReadFile(filepath.Join(h.root(t, kept), "etc/motd")); string(root) != "new\n" {
			t.Errorf("motd is %q, %v", root, err)
		}
		all, err := h.List(t.Context())
		if err != nil || len(all) != 2 || all[0].Reference.Name != "" || all[0].ID != old.ID {
			t.Errorf("after the tag moved: %+v, %v", all, err)
		}

		// The old one is still had by its digest, and the registry is not asked for it.
		asked := r.total()
		for _, s := range []*Store{h.Store, New(h.backend(), h.options(Options{}))} {
			img, err := s.Ensure(t.Context(), r.ref(t, "web:latest@"+first.Digest), EnsureOptions{ForcePull: true})
			if err != nil || img.ID != old.ID || img.Manifest.Digest != first.Digest {
				t.Errorf("pinned to the old: %+v, %v", img, err)
			}
		}
		if n := r.total() - asked; n > 0 {
			t.Errorf("the registry was asked %d times", n)
		}
		if img, err := h.Find(t.Context(), r.url+"/web:latest@"+first.Digest); err != nil || img.ID != old.ID {
			t.Errorf("found by its digest: %v, %v", img.ID, err)
		}
		downloads := r.count("/web_latest." + kind + ".zst")
		pinned := r.ref(t, "web:latest@"+second.Digest)
		if img, err := h.Ensure(t.Context(), pinned, EnsureOptions{}); err != nil || img.ID != moved.ID {
			t.Errorf("pinned to the new: %s, %v", img.ID, err)
		}
		fresh := newHost(t, kind, Options{})
		before := fresh.state(t)
		_, err = fresh.Ensure(t.Context(), r.ref(t, "web:latest@"+first.Digest), EnsureOptions{})
		fresh.refused(t, err, "image web:latest: the registry's digest is "+second.Digest+" now and not "+first.Digest+
			" as the reference says; pin the new one, or publish the old one again", before, whole)
		publishFrom(t, builder, "other:1", tree, BuildOptions{Defaults: Defaults{Command: "/bin/other"}}, dir)
		other, err := h.Ensure(t.Context(), r.ref(t, "other:1"), EnsureOptions{})
		if err != nil || other.ID != moved.ID || other.Manifest.Defaults.Command != "/bin/other" {
			t.Errorf("another name of the same stream: %+v, %v", other, err)
		}
		if n := r.count("/web_latest."+kind+".zst") + r.count("/other_1."+kind+".zst"); n != downloads {
			t.Errorf("%d more downloads", n-downloads)
		}
		byID, err := h.Find(t.Context(), other.ID[:12])
		if err != nil || byID.ID != other.ID {
			t.Errorf("by its ID: %v, %v", byID.ID, err)
		}
		want := "image " + r.url + "/other:1: it has several names, such as " + r.url + "/other:1 and " + r.url + "/web:latest; name the one to take off"
		if err := h.Remove(t.Context(), byID); err == nil || err.Error() != want {
			t.Errorf("removed by its ID: %v, want %s", err, want)
		}
		if err := h.Remove(t.Context(), other); err != nil {
			t.Error(err)
		}
		// A name that has moved is not the last one.
		if _, err := h.setName(t.Context(), old.ID, record{Reference: "kept:1", Manifest: old.Manifest}); err != nil {
			t.Fatal(err)
		}
		former, err := h.Find(t.Context(), r.url+"/web:latest@"+first.Digest)
		if err == nil {
			err = h.Remove(t.Context(), former)
		}
		if img, err2 := h.Find(t.Context(), "kept:1"); err != nil || err2 != nil || img.ID != old.ID {
			t.Errorf("after a former name was removed: %v, %v, %v", err, err2, img.ID)
		}
		if _, err := h.Find(t.Context(), r.url+"/web:latest@"+first.Digest); err == nil {
			t.Error("a former name that was removed is still there")
		}
		if img, err := h.Find(t.Context(), "web:latest"); err != nil || img.ID != moved.ID {
			t.Errorf("after one of two names was removed: %v, %v", img.ID, err)
		}
	})
}

// TestBuiltHere runs images from the host that built them, without a registry.
func TestBuiltHere(t *testing.T) {
	h := newHost(t, "zfs", Options{})
	built, err := h.Build(t.Context(), Reference{Name: "web", Tag: "1"}, makeTree(t, 1000), BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if img, err := h.Ensure(t.Context(), Reference{Name: "web", Tag: "1"}, EnsureOptions{}); err != nil || img.ID != built.ID {
		t.Errorf("%v, %v", img.ID, err)
	}
	_, err = h.Ensure(t.Context(), Reference{Name: "web", Tag: "2"}, EnsureOptions{})
	for what, found := range map[string]bool{built.ID: true, built.ID[:10]: true, built.ID[:9]: false, "buil": false, "built-": false, built.ID[6:12]: false} {
		if img, err := h.Find(t.Context(), what); (err == nil) != found || found && img.ID != built.ID {
			t.Errorf("%s: %v, %v", what, img.ID, err)
		}
	}
	want := "image web:2: no image of that name was built on this host; build it, or write the registry's URL before the name"
	if err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// waiting is how many goroutines wait for a pull of this process's.
func (h *host) waiting() (n int) {
	h.flights.mu.Lock()
	defer h.flights.mu.Unlock()
	for _, f := range h.flights.current {
		n += f.waiting
	}
	return n
}

// TestOneDownload has many goroutines and processes want one cold image.
func TestOneDownload(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		dir, m := publish(t, kind, "web:1", makeTree(t, 8<<20), BuildOptions{})
		r := newRegistry(t, dir)
		h := newHost(t, kind, Options{})
		r.misbehave(onlyFiles(".zst", func(w http.ResponseWriter, req *http.Request, good http.Handler) {
			for h.waiting() < 20 { // who comes when it is over has nothing to see the progress of
				time.Sleep(time.Millisecond)
			}
			good.ServeHTTP(w, req)
		}))
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				var last Progress
				img, err := h.Ensure(t.Context(), r.ref(t, "web:1"), EnsureOptions{Progress: func(p Progress) { last = p }})
				if err != nil || digestPrefix+img.ID != m.Digest {
					t.Errorf("%s, %v", img.ID, err)
				}
				if last.Bytes != m.Size {
					t.Errorf("the last progress is %+v", last)
				}
			})
		}
		// A process that came first would leave the others here nothing to see the progress of.
		for stream := "/web_1." + kind + ".zst"; r.count(stream) == 0; {
			time.Sleep(time.Millisecond)
		}
		for range 4 {
			wg.Go(func() {
				cmd := exec.Command(os.Args[0])
				cmd.Env = append(os.Environ(), pullerVariable+"="+strings.Join([]string{h.kind, h.dataset, h.dir, r.url + "/web:1"}, " "))
				out, err := cmd.CombinedOutput()
				if err != nil || digestPrefix+string(out) != m.Digest {
					t.Errorf("another process: %s, %v", out, err)
				}
			})
		}
		wg.Wait()
		if n := r.count("/web_1." + kind + ".zst"); n != 1 {
			t.Errorf("%d downloads", n)
		}
	})
}

// TestProgressOfAnother has a process wait for the pull of this one, whose registry stops halfway.
func TestProgressOfAnother(t *testing.T) {
	dir, m := publish(t, "tar", "web:1", makeTree(t, 8<<20), BuildOptions{})
	r := newRegistry(t, dir)
	h := newHost(t, "tar", Options{})
	goOn := make(chan struct{})
	r.misbehave(onlyFiles(".zst", func(w http.ResponseWriter, req *http.Request, good http.Handler) {
		data := fetch(good, req.URL.Path)
		w.Write(data[:len(data)/2])
		http.NewResponseController(w).Flush()
		<-goOn
		w.Write(data[len(data)/2:])
	}))
	pulled := make(chan error, 1)
	go func() {
		_, err := h.Ensure(t.Context(), r.ref(t, "web:1"), EnsureOptions{})
		pulled <- err
	}()
	for r.count("/web_1.tar.zst") == 0 {
		time.Sleep(time.Millisecond)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), pullerVariable+"="+strings.Join([]string{h.kind, h.dataset, h.dir, r.url + "/web:1", "progress"}, " "))
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	told := time.AfterFunc(20*time.Second, func() {
		t.Error("the other process is told nothing")
		close(goOn)
	})
	lines.Scan()
	if told.Stop() {
		close(goOn)
	}
	var p Progress
	if _, err := fmt.Sscan(lines.Text(), &p.Bytes, &p.Total); err != nil || p.Bytes <= 0 || p.Bytes >= m.Size || p.Total != m.Size {
		t.Errorf("halfway through %d bytes the other process is told %q, %v", m.Size, lines.Text(), err)
	}
	var last string
	for lines.Scan() {
		last = lines.Text()
	}
	if digestPrefix+last != m.Digest {
		t.Errorf("its last line is %q", last)
	}
	if err := errors.Join(cmd.Wait(), <-pulled); err != nil {
		t.Error(err)
	}
	if n := r.count("/web_1.tar.zst"); n != 1 {
		t.Errorf("%d downloads", n)
	}
}

// pullerVariable makes this program one more process that pulls: KIND DATASET DIR REFERENCE. It prints the image's ID; with "progress" behind
// these, a line of each progress before; with "measured", by how many bytes its memory grew in place of that.
const pullerVariable = "NOMAD_DRIVER_JAIL_TEST_PULL"

func puller() int {
	words := strings.Split(os.Getenv(pullerVariable), " ")
	h := &host{kind: words[0], dataset: words[1], dir: words[2]}
	h.Store = New(h.backend(), h.options(Options{}))
	ref, err := ParseReference(words[3])
	if err != nil {
		fmt.Println(err)
		return 1
	}
	h.Find(context.Background(), words[3]) // a plugin that runs knows what it has
	before, began := maxMemory(), time.Now()
	var opt EnsureOptions
	if words[len(words)-1] == "progress" {
		opt.Progress = func(p Progress) { fmt.Println(p.Bytes, p.Total) }
	}
	img, err := h.Ensure(context.Background(), ref, opt)
	took := time.Since(began)
	switch {
	case err != nil:
		fmt.Println(err)
		return 1
	case words[len(words)-1] == "measured":
		fmt.Print(maxMemory()-before, int64(took))
	default:
		fmt.Print(img.ID)
	}
	return 0
}

// maxMemory is the most that was resident of this process, in bytes. Linux counts what was before exec into getrusage(2)'s.
func maxMemory() int64 {
	if status, err := os.ReadFile("/proc/self/status"); err == nil {
		_, rest, _ := strings.Cut(string(status), "VmHWM:")
		var kib int64
		fmt.Sscan(rest, &kib)
		return kib << 10
	}
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return int64(usage.Maxrss) << 10
}
