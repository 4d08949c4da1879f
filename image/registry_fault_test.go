package image

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// cut answers whole files but hangs up after n bytes of the stream, in the first times responses.
func cut(suffix string, n int, times int64) fault {
	var answered atomic.Int64
	return onlyFiles(suffix, func(w http.ResponseWriter, r *http.Request, good http.Handler) {
		if answered.Add(1) > times {
			good.ServeHTTP(w, r)
			return
		}
		good.ServeHTTP(&cutWriter{ResponseWriter: w, left: n}, r)
	})
}

type cutWriter struct {
	http.ResponseWriter
	left int
}

func (c *cutWriter) Write(p []byte) (int, error) {
	if len(p) >= c.left {
		c.ResponseWriter.Write(p[:c.left])
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	c.left -= len(p)
	return c.ResponseWriter.Write(p)
}

// withoutRanges is a server that knows none.
func withoutRanges(f fault) fault {
	return func(w http.ResponseWriter, r *http.Request, good http.Handler) {
		r.Header.Del("Range")
		f(w, r, good)
	}
}

const always = 1 << 40

// TestResume has each pull's connection dropped at another tenth of the stream: it goes on where it was, into the same
// receive.
func TestResume(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		dir, m := publish(t, kind, "web:1", makeTree(t, 3<<20), BuildOptions{})
		r := newRegistry(t, dir)
		h := newHost(t, kind, Options{})
		for tenth := range 10 {
			drop := cut(".zst", int(m.Size)*tenth/10, 1)
			var ranges atomic.Value
			r.misbehave(func(w http.ResponseWriter, req *http.Request, good http.Handler) {
				if asked := req.Header.Get("Range"); asked != "" {
					ranges.Store(asked + " if " + req.Header.Get("If-Range"))
				}
				drop(w, req, good)
			})
			before := r.count("/web_1." + kind + ".zst")
			img, err := h.Ensure(t.Context(), r.ref(t, "web:1"), EnsureOptions{})
			if err != nil {
				t.Fatalf("cut at %d tenths: %v", tenth, err)
			}
			if n := r.count("/web_1."+kind+".zst") - before; n != 2 {
				t.Errorf("cut at %d tenths: %d requests", tenth, n)
			}
			if asked, _ := ranges.Load().(string); tenth > 0 && !strings.HasPrefix(asked, fmt.Sprintf(`bytes=%d- if "`, m.Size*int64(tenth)/10)) {
				t.Errorf("cut at %d tenths: the second request is for %q", tenth, asked)
			}
			if err := h.Remove(t.Context(), img); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestHangUpOnResume drops the connection in the middle, and hangs up without an answer on who asks for the rest, once.
func TestHangUpOnResume(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		dir, m := publish(t, kind, "web:1", makeTree(t, 1<<20), BuildOptions{})
		r := newRegistry(t, dir)
		h := newHost(t, kind, Options{})
		file := "/web_1." + kind + ".zst"
		drop := cut(".zst", int(m.Size)/2, 1)
		r.misbehave(func(w http.ResponseWriter, req *http.Request, good http.Handler) {
			if req.URL.Path == file && r.count(file) == 2 {
				hangUp(w, req, good)
			}
			drop(w, req, good)
		})
		if _, err := h.Ensure(t.Context(), r.ref(t, "web:1"), EnsureOptions{}); err != nil || r.count(file) != 3 {
			t.Errorf("%v, after %d requests", err, r.count(file))
		}
	})
}

// TestCutWithoutRanges pulls from a server that drops each connection at the same place and cannot go on.
func TestCutWithoutRanges(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		dir, m := publish(t, kind, "web:1", makeTree(t, 1<<20), BuildOptions{})
		r := newRegistry(t, dir)
		h := newHost(t, kind, Options{Limits: impatient})
		before := h.state(t)
		for tenth := range 10 {
			at := int(m.Size) * tenth / 10
			r.misbehave(withoutRanges(cut(".zst", at, always)))
			_, err := h.Ensure(t.Context(), r.ref(t, "web:1"), EnsureOptions{})
			h.refused(t, err, fmt.Sprintf("image web:1: its stream broke off after %d of %d bytes", at, m.Size), before, prefix)
		}
		// It goes well the second time.
		r.misbehave(withoutRanges(cut(".zst", int(m.Size)/2, 1)))
		if _, err := New(h.backend(), h.options(Options{})).Ensure(t.Context(), r.ref(t, "web:1"), EnsureOptions{}); err != nil {
			t.Error(err)
		}
	})
}

// TestChangedFile has an image published anew, larger, while it is pulled: the connection drops, and what goes on is another
// file, as an answer of the whole or, from a server that does not know If-Range, of its end.
func TestChangedFile(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		builder := newHost(t, kind, Options{})
		tree := makeTree(t, 1<<20)
		for name, ignorant := range map[string]bool{"whole": false, "its end": true} {
			t.Run(name, func(t *testing.T) {
				dir := t.TempDir()
				old := publishFrom(t, builder, "web:1", tree, BuildOptions{}, dir)
				r := newRegistry(t, dir)
				h := newHost(t, kind, Options{})
				write(t, tree+"/var/more", read(t, tree+"/var/noise"))
				defer os.Remove(tree + "/var/more")
				var now Manifest
				drop := cut(".zst", int(old.Size)/2, 1)
				r.misbehave(func(w http.ResponseWriter, req *http.Request, good http.Handler) {
					if req.Header.Get("If-Range") != "" && now.Digest == "" {
						now = publishFrom(t, builder, "web:1", tree, BuildOptions{}, dir)
					}
					if ignorant {
						req.Header.Del("If-Range")
					}
					drop(w, req, good)
				})
				img, err := h.Ensure(t.Context(), r.ref(t, "web:1"), EnsureOptions{})
				if err != nil || img.Manifest.Digest != now.Digest || now.Digest == old.Digest {
					t.Errorf("%v, %s; want %s and not %s", err, img.Manifest.Digest, now.Digest, old.Digest)
				}
				if n := r.count("/web_1." + kind + ".zst"); n != 3 {
					t.Errorf("%d requests; want the first, the one that shows the change, and the new start", n)
				}
				if tmp, err := h.backend().Temporary(t.Context()); err != nil || len(tmp) > 0 {
					t.Errorf("left is %v, %v", tmp, err)
				}
			})
		}
	})
}

// TestFileThatAlwaysChanges gives up.
func TestFileThatAlwaysChanges(t *testing.T) {
	dir, m := publish(t, "tar", "web:1", makeTree(t, 1<<20), BuildOptions{})
	r := newRegistry(t, dir)
	h := newHost(t, "tar", Options{Limits: impatient})
	before := h.state(t)
	drop := cut(".zst", int(m.Size)/2, always)
	var answers atomic.Int64
	r.misbehave(onlyFiles(".zst", func(w http.ResponseWriter, req *http.Request, _ http.Handler) {
		drop(w, req, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("Etag", fmt.Sprintf(`"%d"`, answers.Add(1)))
			w.Header().Set("Content-Length", fmt.Sprint(m.Size))
			w.Write(read(t, dir+"/web_1.tar.zst"))
		}))
	}))
	_, err := h.Ensure(t.Context(), r.ref(t, "web:1"), EnsureOptions{})
	h.refused(t, err, fmt.Sprintf("image web:1: its stream broke off after %d of %d bytes", m.Size/2, m.Size), before, prefix)
}

func TestBitFlips(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		dir, m := publish(t, kind, "web:1", makeTree(t, 1<<20), BuildOptions{})
		r := newRegistry(t, dir)
		h := newHost(t, kind, Options{})
		before := h.state(t)
		for i := range 20 {
			at := int(m.Size-1) * i / 19
			r.misbehave(streamBytes(func(b []byte) []byte { b[at] ^= 1 << (i % 8); return b }))
			_, err := h.Ensure(t.Context(), r.ref(t, "web:1"), EnsureOptions{})
			h.refused(t, err, "and not the manifest's "+m.Digest+"; the registry's copy is damaged, publish it again", before, infix)
		}
	})
}

// TestSlowAndEndless are servers that never end.
func TestSlowAndEndless(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		dir, m := publish(t, kind, "web:1", makeTree(t, 1<<20), BuildOptions{})
		r := newRegistry(t, dir)
		h := newHost(t, kind, Options{Limits: Limits{Retry: impatient.Retry, Stall: 500 * time.Millisecond}})
		before := h.state(t)
		for _, c := range []struct {
			name     string
			fault    fault
			sentence string
		}{
			{"stream trickles", onlyFiles(".zst", trickle), "bytes: it comes too slowly, less than 64 KiB in 500ms; see the registry's log"},
			{"stream stops", onlyFiles(".zst", stop), "bytes: it comes too slowly, less than 64 KiB in 500ms; see the registry's log"},
			{"manifest trickles", onlyFiles(".json", trickle), "web_1.json ended early: context deadline exceeded; see the registry's log"},
			{"endless stream", onlyFiles(".zst", endless), fmt.Sprintf("image web:1: its stream is too long: the registry's file has more than the %d bytes that the manifest says; publish it again", m.Size)},
			{"endless manifest", onlyFiles(".json", endless), "web_1.json is larger than 65536 bytes; it is none of ours"},
		} {
			t.Run(c.name, func(t *testing.T) {
				r.misbehave(c.fault)
				_, err := h.Ensure(t.Context(), r.ref(t, "web:1"), EnsureOptions{})
				h.refused(t, err, c.sentence, before, infix)
			})
		}
	})
}

func trickle(w http.ResponseWriter, r *http.Request, good http.Handler) {
	for _, b := range fetch(good, r.URL.Path) {
		w.Write([]byte{b})
		if http.NewResponseController(w).Flush() != nil || r.Context().Err() != nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func stop(w http.ResponseWriter, r *http.Request, good http.Handler) {
	data := fetch(good, r.URL.Path)
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.Write(data[:len(data)/2])
	http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

func endless(w http.ResponseWriter, r *http.Request, good http.Handler) {
	data := fetch(good, r.URL.Path)
	for r.Context().Err() == nil {
		if _, err := w.Write(data); err != nil {
			return
		}
	}
}

func TestRedirects(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		dir, _ := publish(t, kind, "web:1", makeTree(t, 1000), BuildOptions{})
		r := newRegistry(t, dir)
		h := newHost(t, kind, Options{})
		before := h.state(t)
		for _, c := range []struct {
			name, to, sentence string
		}{
			{"loop", r.url + "/loop/web_1.json?token=secret", "image web:1: the registry redirects more than 5 times, last to " + r.url + "/loop/web_1.json; give the URL that it ends at"},
			{"to the host's files", "file://" + dir + "/web_1.json", "image web:1: the registry redirects from " + r.url + "/web_1.json to file://" + dir + "/web_1.json, which is less safe; give the URL that it ends at"},
		} {
			t.Run(c.name, func(t *testing.T) {
				r.misbehave(redirectTo(c.to))
				_, err := h.Ensure(t.Context(), r.ref(t, "web:1"), EnsureOptions{})
				h.refused(t, err, c.sentence, before, whole)
			})
		}
		t.Run("loop of the stream", func(t *testing.T) {
			to := r.url + "/loop/web_1." + kind + ".zst"
			r.misbehave(onlyFiles(".zst", redirectTo(to)))
			_, err := h.Ensure(t.Context(), r.ref(t, "web:1"), EnsureOptions{})
			h.refused(t, err, "image web:1: the registry redirects more than 5 times, last to "+to+"; give the URL that it ends at", before, whole)
		})
		other := newRegistry(t, dir)
		r.misbehave(func(w http.ResponseWriter, req *http.Request, _ http.Handler) {
			http.Redirect(w, req, other.url+req.URL.Path, http.StatusTemporaryRedirect)
		})
		if _, err := h.Ensure(t.Context(), r.ref(t, "web:1"), EnsureOptions{}); err != nil {
			t.Errorf("redirected to another server: %v", err)
		}
	})
}

func redirectTo(url string) fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		http.Redirect(w, r, url, http.StatusFound)
	}
}
