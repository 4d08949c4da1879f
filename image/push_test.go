package image

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/webdav"
)

// davServer is a WebDAV server of a folder, which can misbehave, and notes what it is asked.
type davServer struct {
	dir, url string
	bad      func(w http.ResponseWriter, r *http.Request) bool // true if it has answered

	mu    sync.Mutex
	asked []string
}

func newDav(t *testing.T) *davServer {
	t.Helper()
	d := &davServer{dir: t.TempDir()}
	good := &webdav.Handler{FileSystem: webdav.Dir(d.dir), LockSystem: webdav.NewMemLS()}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		d.asked = append(d.asked, r.Method+" "+r.URL.Path)
		d.mu.Unlock()
		if d.bad == nil || !d.bad(w, r) {
			good.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	d.url = server.URL
	return d
}

func (d *davServer) count(request string) (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range d.asked {
		if a == request {
			n++
		}
	}
	return n
}

var web1 = Reference{Name: "web", Tag: "1"}

// same compares the files of web:1 in two folders.
func same(t *testing.T, want, got string, names ...string) {
	t.Helper()
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(got, name))
		if err != nil || string(data) != string(read(t, filepath.Join(want, name))) {
			t.Errorf("%s has %d bytes, %v", name, len(data), err)
		}
	}
}

func TestPushWebDAV(t *testing.T) {
	dir, m := publish(t, "tar", "web:1", makeTree(t, 3<<20), BuildOptions{})
	d := newDav(t)
	var last Progress
	opt := PushOptions{Retry: 5 * time.Second, Progress: func(p Progress) {
		if p.Total != last.Total && last.Total != 0 {
			t.Errorf("the total changes from %d to %d", last.Total, p.Total)
		}
		last = p
	}}
	// Two collections are missing.
	if got, err := Push(t.Context(), dir, web1, d.url+"/images/a%20b", opt); err != nil || got.Digest != m.Digest {
		t.Fatalf("%v, %v", got, err)
	}
	same(t, dir, d.dir+"/images/a b", "web_1.json", "web_1.tar.zst")
	if last.Bytes != last.Total || last.Total != m.Size+int64(len(read(t, dir+"/web_1.json"))) {
		t.Errorf("the last progress is %+v", last)
	}
	if got := d.asked[len(d.asked)-1]; got != "PUT /images/a b/web_1.json" {
		t.Errorf("last it asks for %s", got)
	}

	t.Run("a connection that drops", func(t *testing.T) {
		drops := 2
		d.bad = func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPut || drops == 0 {
				return false
			}
			drops--
			io.CopyN(io.Discard, r.Body, 100<<10)
			panic(http.ErrAbortHandler)
		}
		if _, err := Push(t.Context(), dir, web1, d.url+"/again", opt); err != nil || drops != 0 {
			t.Errorf("%v, %d drops left", err, drops)
		}
		same(t, dir, d.dir+"/again", "web_1.json", "web_1.tar.zst")
	})
	t.Run("a registry that is down", func(t *testing.T) {
		d.bad = func(w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
		_, err := Push(t.Context(), dir, web1, d.url+"/down", PushOptions{Retry: 100 * time.Millisecond})
		if err == nil || !strings.Contains(err.Error(), "503 Service Unavailable") || d.count("GET /down/web_1.json") < 2 {
			t.Errorf("%v, asked %d times", err, d.count("GET /down/web_1.json"))
		}
	})
	for _, code := range []int{http.StatusTemporaryRedirect, http.StatusPermanentRedirect} {
		t.Run(http.StatusText(code), func(t *testing.T) {
			d.bad = func(w http.ResponseWriter, r *http.Request) bool {
				rest, ok := strings.CutPrefix(r.URL.Path, "/old/")
				if ok && r.Method == http.MethodPut {
					io.Copy(io.Discard, r.Body)
				}
				if ok {
					http.Redirect(w, r, "/moved/"+rest, code)
				}
				return ok
			}
			os.RemoveAll(d.dir + "/moved")
			if _, err := Push(t.Context(), dir, web1, d.url+"/old", opt); err != nil {
				t.Error(err)
			}
			same(t, dir, d.dir+"/moved", "web_1.json", "web_1.tar.zst")
		})
	}
	t.Run("Moved Permanently", func(t *testing.T) {
		d.bad = func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPut {
				return false
			}
			http.Redirect(w, r, "/moved/web_1.json", http.StatusMovedPermanently)
			return true
		}
		_, err := Push(t.Context(), dir, web1, d.url+"/old", opt)
		want := "image web:1: the registry redirects PUT of " + d.url + "/old/web_1.tar.zst to " + d.url + "/moved/web_1.json; give the URL that it ends at"
		if err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	})
	t.Run("somebody else makes the collection", func(t *testing.T) {
		d.bad = func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == "MKCOL" {
				os.MkdirAll(filepath.Join(d.dir, r.URL.Path), 0o755)
			}
			return false
		}
		if _, err := Push(t.Context(), dir, web1, d.url+"/theirs", opt); err != nil || d.count("MKCOL /theirs/") != 1 {
			t.Error(err)
		}
	})
	t.Run("no collections", func(t *testing.T) {
		d.bad = func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == "MKCOL" {
				w.WriteHeader(http.StatusForbidden)
			}
			return r.Method == "MKCOL"
		}
		_, err := Push(t.Context(), dir, web1, d.url+"/not", opt)
		if want := "image web:1: the registry has no folder for " + d.url + "/not/web_1.tar.zst (409 Conflict); make it there, or push elsewhere; it does not make one: "; err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	})
	t.Run("no uploads", func(t *testing.T) {
		_, err := Push(t.Context(), dir, web1, newRegistry(t, t.TempDir()).url, opt)
		if err == nil || !strings.Contains(err.Error(), "the registry takes no uploads (405 Method Not Allowed)") {
			t.Error(err)
		}
	})
}

// TestPushUnsigned pushes an unsigned image over a signed one.
func TestPushUnsigned(t *testing.T) {
	dir, _ := publish(t, "tar", "web:1", makeTree(t, 1000), BuildOptions{})
	key, err := GenerateKey(t.TempDir() + "/key")
	if err != nil {
		t.Fatal(err)
	}
	d, served := newDav(t), t.TempDir()
	server := httptest.NewServer(WritableHandler(served, "token"))
	defer server.Close()
	into := filepath.Join(t.TempDir(), "a folder", "of mine")
	opt := PushOptions{Registry: RegistryOptions{Auth: map[string]Credential{server.URL: {Token: "token"}}}, Retry: time.Second}
	for where, base := range map[string]string{d.dir: d.url, served: server.URL, into: "file://" + strings.ReplaceAll(into, " ", "%20")} {
		if err := Sign(dir, web1, key); err != nil {
			t.Fatal(err)
		}
		if _, err := Push(t.Context(), dir, web1, base, opt); err != nil {
			t.Fatalf("%s: %v", base, err)
		}
		same(t, dir, where, "web_1.json.sig")
		remove(t, dir+"/web_1.json.sig")
		if _, err := Push(t.Context(), dir, web1, base, opt); err != nil {
			t.Errorf("%s: %v", base, err)
		}
		if _, err := os.Stat(where + "/web_1.json.sig"); !os.IsNotExist(err) {
			t.Errorf("%s: the signature is still there: %v", base, err)
		}
	}
	write(t, d.dir+"/web_1.json.sig", nil)
	d.bad = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodDelete {
			w.WriteHeader(http.StatusMethodNotAllowed)
		}
		return r.Method == http.MethodDelete
	}
	before := d.count("PUT /web_1.json")
	_, err = Push(t.Context(), dir, web1, d.url, opt)
	if err == nil || !strings.Contains(err.Error(), "web_1.json.sig there signs what was there before") || d.count("PUT /web_1.json") != before {
		t.Errorf("a registry that removes nothing: %v", err)
	}
	// image serve has no folders.
	_, err = Push(t.Context(), dir, web1, server.URL+"/sub", opt)
	if want := "this registry has no folders; push to its root"; err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "credentials") {
		t.Errorf("push to a folder of image serve: %v, want %s", err, want)
	}
	if _, err := Push(t.Context(), dir, web1, "file://reg", opt); err == nil || !strings.Contains(err.Error(), "a file URL is file:///path/NAME:TAG, without a host") {
		t.Errorf("a relative file URL: %v", err)
	}
}

// TestSameFileNames has two images whose files would have the same names.
func TestSameFileNames(t *testing.T) {
	builder := newHost(t, "tar", Options{})
	dir, other := t.TempDir(), t.TempDir()
	publishFrom(t, builder, "a_b:c", makeTree(t, 1000), BuildOptions{}, dir)
	publishFrom(t, builder, "a:b_c", makeTree(t, 2000), BuildOptions{}, other)
	publishFrom(t, builder, "a_b:c", makeTree(t, 3000), BuildOptions{}, dir)
	img, err := builder.Find(t.Context(), "a:b_c")
	if err != nil {
		t.Fatal(err)
	}
	before := list(t, dir)
	_, err = builder.Export(t.Context(), img, dir, ExportOptions{})
	want := "image a:b_c: a_b_c.json in " + dir + " is of the image a_b:c, whose files would have the same names; give one of them another name or folder"
	if err == nil || err.Error() != want {
		t.Errorf("export: %v, want %s", err, want)
	}
	d := newDav(t)
	if _, err := Push(t.Context(), dir, Reference{Name: "a_b", Tag: "c"}, d.url, PushOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, base := range []string{dir, d.url} {
		_, err = Push(t.Context(), other, Reference{Name: "a", Tag: "b_c"}, base, PushOptions{})
		if want := "image a:b_c: a_b_c.json in " + base + " is of the image a_b:c"; err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("push: %v, want %s", err, want)
		}
	}
	if after := list(t, dir); after != before {
		t.Errorf("the folder has changed from\n%s to\n%s", before, after)
	}
}

// TestKilledExport has an export remove what a killed one was writing, and leave what another is writing now and what is none of its own.
func TestKilledExport(t *testing.T) {
	dir := t.TempDir()
	hour := time.Now().Add(-2 * time.Hour)
	for name, at := range map[string]time.Time{".web_1.tar.zst.123": hour, ".other_2.json.9": hour, ".web_1.json.456": time.Now(), ".htaccess": hour, ".well-known": hour, "web_0.json": hour} {
		write(t, filepath.Join(dir, name), []byte("x"))
		if err := os.Chtimes(filepath.Join(dir, name), at, at); err != nil {
			t.Fatal(err)
		}
	}
	publishFrom(t, newHost(t, "tar", Options{}), "web:1", makeTree(t, 1000), BuildOptions{}, dir)
	var names []string
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if got := strings.Join(names, " "); err != nil || got != ".htaccess .web_1.json.456 .well-known web_0.json web_1.json web_1.tar.zst" {
		t.Errorf("left is %s, %v", got, err)
	}
}

// TestPushDifference wants what an image stands on at the target.
func TestPushDifference(t *testing.T) {
	dir := t.TempDir()
	versions(t, dir)
	d, web2 := newDav(t), Reference{Name: "web", Tag: "2"}
	if _, err := Push(t.Context(), dir, web2, d.url, PushOptions{}); err == nil || !strings.Contains(err.Error(), "its parent web:1 is not at "+d.url+"; push that first") {
		t.Errorf("without the parent: %v", err)
	}
	if _, err := Push(t.Context(), dir, web1, d.url, PushOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := Push(t.Context(), dir, web2, d.url, PushOptions{}); err != nil {
		t.Error(err)
	}
	stranger, _ := publish(t, "zfs", "web:1", makeTree(t, 1000), BuildOptions{})
	if _, err := Push(t.Context(), stranger, web1, d.url, PushOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := Push(t.Context(), dir, web2, d.url, PushOptions{}); err == nil || !strings.Contains(err.Error(), "its parent web:1 is another one at "+d.url) {
		t.Errorf("with another parent: %v", err)
	}
}

// TestPushSlowDisk has a registry take longer to store a file than it may take for any other answer, and then for those.
func TestPushSlowDisk(t *testing.T) {
	dir, _ := publish(t, "tar", "web:1", makeTree(t, 1000), BuildOptions{})
	d := newDav(t)
	slow := http.MethodPut
	d.bad = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == slow {
			time.Sleep(time.Second)
		}
		return false
	}
	opt := PushOptions{Retry: 100 * time.Millisecond, stall: 300 * time.Millisecond}
	if _, err := Push(t.Context(), dir, web1, d.url, opt); err != nil || d.count("PUT /web_1.tar.zst") != 1 {
		t.Errorf("%v, %d uploads", err, d.count("PUT /web_1.tar.zst"))
	}
	slow = http.MethodGet
	if _, err := Push(t.Context(), dir, web1, d.url, opt); err == nil || !strings.Contains(err.Error(), "does not answer: context deadline exceeded") {
		t.Errorf("a manifest that takes long: %v", err)
	}
	slow = http.MethodDelete
	write(t, d.dir+"/web_1.json.sig", nil)
	if _, err := Push(t.Context(), dir, web1, d.url, opt); err == nil || !strings.Contains(err.Error(), "does not answer: context deadline exceeded") {
		t.Errorf("a removal that takes long: %v", err)
	}
}
