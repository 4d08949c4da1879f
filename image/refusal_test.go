package image

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

// fault makes a registry misbehave.
type fault func(w http.ResponseWriter, r *http.Request, good http.Handler)

// fetch is what the good registry answers.
func fetch(good http.Handler, path string) []byte {
	rec := httptest.NewRecorder()
	good.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, path, nil))
	return rec.Body.Bytes()
}

func onlyFiles(suffix string, bad fault) fault {
	return func(w http.ResponseWriter, r *http.Request, good http.Handler) {
		if strings.HasSuffix(r.URL.Path, suffix) {
			bad(w, r, good)
			return
		}
		good.ServeHTTP(w, r)
	}
}

func manifestBytes(change func([]byte) []byte) fault {
	return onlyFiles(".json", func(w http.ResponseWriter, r *http.Request, good http.Handler) {
		w.Write(change(fetch(good, r.URL.Path)))
	})
}

func manifestField(name string, value any) fault {
	return manifestBytes(func(data []byte) []byte {
		var m map[string]any
		if err := json.Unmarshal(data, &m); err != nil {
			panic(err)
		}
		m[name] = value
		data, _ = json.Marshal(m)
		return data
	})
}

func streamBytes(change func([]byte) []byte) fault {
	return onlyFiles(".zst", func(w http.ResponseWriter, r *http.Request, good http.Handler) {
		data := change(fetch(good, r.URL.Path))
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		w.Write(data)
	})
}

// chunked is a stream whose length the registry does not say.
func chunked(change func([]byte) []byte) fault {
	return onlyFiles(".zst", func(w http.ResponseWriter, r *http.Request, good http.Handler) {
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		w.Write(change(fetch(good, r.URL.Path)))
	})
}

func status(code int) fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { w.WriteHeader(code) }
}

func hangUp(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) }

// broken are what a registry can do wrong, and the sentence that it gets. REGISTRY stands for the registry's, DIGEST for the
// image's digest, SIZE and PLAIN for its sizes, FORMAT and OTHER for the store's format and the one that it is not.
var broken = []struct {
	name     string
	fault    fault
	image    string // "web:1" unless it says otherwise
	sentence string
}{
	{"unknown name", nil, "nothing:1", `image nothing:1: the registry has no REGISTRY/nothing_1.json (404 Not Found); check name and tag, or publish the image`},
	{"unknown tag", nil, "web:2", `image web:2: the registry has no REGISTRY/web_2.json (404 Not Found); check name and tag, or publish the image`},
	{"internal error", status(500), "", `image web:1: the registry answers 500 Internal Server Error to REGISTRY/web_1.json; see the registry's log`},
	{"no permission", status(401), "", `image web:1: the registry refuses REGISTRY/web_1.json (401 Unauthorized); put credentials for it into the plugin's configuration`},
	{"no answer", hangUp, "", `image web:1: the registry REGISTRY does not answer: unexpected EOF; check the URL, and that it runs`},
	{"no manifest", manifestBytes(func([]byte) []byte { return []byte("<html>Welcome</html>") }), "",
		`image web:1: its manifest is not JSON as it should be (invalid character '<' looking for beginning of value); is a registry at that URL?`},
	{"empty manifest", manifestBytes(func([]byte) []byte { return nil }), "", `image web:1: its manifest is not JSON as it should be (EOF); is a registry at that URL?`},
	{"two manifests", manifestBytes(func(b []byte) []byte { return append(b, b...) }), "", `image web:1: its manifest has something behind its JSON; publish it again`},
	{"wrong type", manifestField("size", "big"), "",
		`image web:1: its manifest is not JSON as it should be (json: cannot unmarshal string into Go struct field Manifest.size of type int64); is a registry at that URL?`},
	{"huge manifest", manifestBytes(func(b []byte) []byte { return append(b, bytes.Repeat([]byte(" "), 1<<20)...) }), "",
		`image web:1: the registry's REGISTRY/web_1.json is larger than 65536 bytes; it is none of ours`},
	{"another name", manifestField("name", "other"), "", `image web:1: its manifest is of another image, "other:1"; publish it under that name`},
	{"hostile name", manifestField("name", "../x"), "", `image web:1: its manifest is of another image, "../x:1"; publish it under that name`},
	{"name with a snapshot", manifestField("name", "a/b@c"), "", `image web:1: its manifest is of another image, "a/b@c:1"; publish it under that name`},
	{"long name", manifestField("name", strings.Repeat("x", 300)), "",
		`image web:1: its manifest is of another image, "` + strings.Repeat("x", 80) + `…"; publish it under that name`},
	{"another tag", manifestField("tag", "2"), "", `image web:1: its manifest is of another image, "web:2"; publish it under that name`},
	{"unknown OS", manifestField("os", "plan9"), "", `image web:1: its manifest is wrong: unknown os "plan9"; known are freebsd, linux`},
	{"unknown architecture", manifestField("arch", "vax"), "",
		`image web:1: its manifest is wrong: unknown arch "vax"; known are 386, amd64, arm, arm64, ppc64, ppc64le, riscv64, s390x`},
	{"another OS", manifestField("os", "freebsd"), "", `image web:1: it is for freebsd/amd64 and this host is linux/amd64; publish one for this host`},
	{"another architecture", manifestField("arch", "arm64"), "", `image web:1: it is for linux/arm64 and this host is linux/amd64; publish one for this host`},
	{"unknown compression", manifestField("compression", "lzma9"), "",
		`image web:1: its manifest is wrong: unknown compression "lzma9"; known are gzip, none, xz, zstd`},
	{"unknown format", manifestField("format", "ufs"), "", `image web:1: its manifest is wrong: unknown format "ufs"; known are zfs, tar`},
	{"another format", manifestField("format", "OTHER"), "", `image web:1: it is published as OTHER and this host's store takes FORMAT; publish it as FORMAT`},
	{"no digest", manifestField("digest", ""), "", `image web:1: its manifest is wrong: digest "" is not sha256: and 64 hexadecimal digits`},
	{"hostile snapshot", manifestField("snapshot", "a/b@c"), "",
		`image web:1: its manifest is wrong: "a/b@c" is no snapshot of an image; use letters, digits, '.', '_' and '-', a letter or digit first`},
	{"hostile parent", manifestField("parent", "http://elsewhere/web:1"), "",
		`image web:1: its manifest is wrong: parent "http://elsewhere/web:1" is not NAME:TAG@sha256:…`},
	{"hostile workdir", manifestField("defaults", map[string]any{"workdir": "x"}), "", `image web:1: its manifest is wrong: workdir "x" is not absolute`},
	{"hostile environment", manifestField("defaults", map[string]any{"env": map[string]string{"A=B": "c"}}), "",
		`image web:1: its manifest is wrong: "A=B" is no name of an environment variable`},
	{"DEL in the command", manifestField("defaults", map[string]any{"command": "/bin/web\x7f"}), "",
		`image web:1: its manifest is wrong: "/bin/web\x7f" has the control character '\x7f'`},
	{"escape in an argument", manifestField("defaults", map[string]any{"command": "/bin/web", "args": []string{"\x1b[2J"}}), "",
		`image web:1: its manifest is wrong: "\x1b[2J" has the control character '\x1b'`},
	{"zero in the environment", manifestField("defaults", map[string]any{"env": map[string]string{"A": "\x00"}}), "",
		`image web:1: its manifest is wrong: "\x00" has the control character '\x00'`},
	{"DEL in an attribute", manifestField("defaults", map[string]any{"attributes": map[string]string{"a": "\x7f"}}), "",
		`image web:1: its manifest is wrong: "\x7f" has the control character '\x7f'`},
	{"DEL in the release", manifestField("os_release", "12.2\x7f"), "", `image web:1: its manifest is wrong: "12.2\x7f" has the control character '\x7f'`},
	{"no size", manifestField("size", 0), "", `image web:1: its manifest is wrong: size 0; a stream has at least a byte`},
	{"too large", manifestField("uncompressed_size", 1<<41), "", `image web:1: its stream has 2199023255552 bytes; this host accepts at most 1099511627776`},

	{"stream not there", onlyFiles(".zst", status(404)), "",
		`image web:1: the registry has no REGISTRY/web_1.FORMAT.zst (404 Not Found); check name and tag, or publish the image`},
	{"stream with 500", onlyFiles(".zst", status(500)), "", `image web:1: the registry answers 500 Internal Server Error to REGISTRY/web_1.FORMAT.zst; see the registry's log`},
	{"another digest", manifestField("digest", "sha256:"+strings.Repeat("ab", 32)), "",
		`image web:1: the digest of its stream is DIGEST and not the manifest's sha256:` + strings.Repeat("ab", 32) + `; the registry's copy is damaged, publish it again`},
	{"cut short", streamBytes(func(b []byte) []byte { return b[:10000] }), "",
		`image web:1: its stream is cut short: the registry's file has 10000 bytes and the manifest says SIZE; publish it again`},
	{"too long", streamBytes(func(b []byte) []byte { return append(b, "more"...) }), "",
		`image web:1: its stream is too long: the registry's file has LONGER bytes and the manifest says SIZE; publish it again`},
	{"cut short, of unknown length", chunked(func(b []byte) []byte { return b[:10000] }), "",
		`image web:1: its stream is cut short: the registry's file has 10000 bytes and the manifest says SIZE; publish it again`},
	{"too long, of unknown length", chunked(func(b []byte) []byte { return append(b, "more"...) }), "",
		`image web:1: its stream is too long: the registry's file has more than the SIZE bytes that the manifest says; publish it again`},
	{"not compressed", streamBytes(func(b []byte) []byte { return bytes.Repeat([]byte("x"), len(b)) }), "",
		`; the registry's copy is damaged, publish it again`},
	{"decompresses to more", manifestField("uncompressed_size", 1000), "",
		`image web:1: its stream decompresses to more bytes than it may; publish it again`},
	{"decompresses to less", manifestField("uncompressed_size", 1<<30), "",
		`image web:1: its stream decompresses to PLAIN bytes and the manifest says 1073741824; publish it again`},
}

func TestRefusals(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		dir, m := publish(t, kind, "web:1", makeTree(t, 200<<10), BuildOptions{OS: "linux", Arch: "amd64"})
		r := newRegistry(t, dir)
		h := newHost(t, kind, Options{OS: "linux", Arch: "amd64", Limits: impatient})
		before := h.state(t)
		words := strings.NewReplacer("REGISTRY", r.url, "DIGEST", m.Digest, "SIZE", fmt.Sprint(m.Size), "LONGER", fmt.Sprint(m.Size+4),
			"PLAIN", fmt.Sprint(m.UncompressedSize), "FORMAT", kind, "OTHER", otherKind(kind))
		for _, c := range broken {
			t.Run(c.name, func(t *testing.T) {
				r.misbehave(filled(c.fault, words))
				if c.image == "" {
					c.image = "web:1"
				}
				_, err := h.Ensure(t.Context(), r.ref(t, c.image), EnsureOptions{})
				matches := infix
				if strings.HasPrefix(c.sentence, "image ") {
					matches = whole
				}
				h.refused(t, err, words.Replace(c.sentence), before, matches)
				_, err = Verify(t.Context(), r.ref(t, c.image), kind, h.Store.options, nil)
				h.refused(t, err, words.Replace(c.sentence), before, matches)
			})
		}
		r.misbehave(nil)
		if _, err := h.Ensure(t.Context(), r.ref(t, "web:1"), EnsureOptions{}); err != nil {
			t.Errorf("after all: %v", err)
		}
	})
}

// filled fills the words into the manifests of a fault.
func filled(f fault, words *strings.Replacer) fault {
	if f == nil {
		return nil
	}
	return func(w http.ResponseWriter, r *http.Request, good http.Handler) {
		if !strings.HasSuffix(r.URL.Path, ".json") {
			f(w, r, good)
			return
		}
		rec := httptest.NewRecorder()
		f(rec, r, good)
		w.WriteHeader(rec.Code)
		w.Write([]byte(words.Replace(rec.Body.String())))
	}
}

func otherKind(kind string) string {
	if kind == "zfs" {
		return "tar"
	}
	return "zfs"
}

// refused checks that an error is the one sentence, and that nothing of the attempt is left.
func (h *host) refused(t *testing.T, err error, sentence, before string, matches func(s, sentence string) bool) {
	t.Helper()
	switch {
	case err == nil:
		t.Error("it is accepted")
	case !matches(err.Error(), sentence):
		t.Errorf("the sentence is\n\t%v\nwant\n\t%s", err, sentence)
	case strings.Contains(err.Error(), "\n"):
		t.Errorf("more than one line: %v", err)
	}
	if after := h.state(t); after != before {
		t.Errorf("the store has changed from\n%s to\n%s", before, after)
	}
}

var (
	whole  = func(s, sentence string) bool { return s == sentence }
	prefix = strings.HasPrefix
	infix  = strings.Contains
)

func TestNoRegistry(t *testing.T) {
	h := newHost(t, "tar", Options{Limits: impatient})
	before := h.state(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := listener.Addr().String()
	listener.Close()
	empty := t.TempDir()
	for _, c := range []struct{ ref, sentence string }{
		{"http://" + closed + "/web:1", "image web:1: the registry http://" + closed + " does not answer: dial tcp " + closed + ": connect: connection refused; check the URL, and that it runs"},
		{"http://registry.invalid/web:1", "image web:1: the registry http://registry.invalid does not answer: dial tcp: lookup registry.invalid"},
		{"file://" + empty + "/web:1", "image web:1: the registry has no file://" + empty + "/web_1.json (404 Not Found); check name and tag, or publish the image"},
	} {
		ref, err := ParseReference(c.ref)
		if err != nil {
			t.Fatal(err)
		}
		_, err = h.Ensure(t.Context(), ref, EnsureOptions{})
		if err == nil || !strings.HasPrefix(err.Error(), c.sentence) {
			t.Errorf("the sentence is\n\t%v\nwant\n\t%s", err, c.sentence)
		}
	}
	if after := h.state(t); after != before {
		t.Errorf("the store has changed from\n%s to\n%s", before, after)
	}
}

// TestFolderRegistry pulls by a file URL.
func TestFolderRegistry(t *testing.T) {
	dir, m := publish(t, "zfs", "web:1", makeTree(t, 1<<20), BuildOptions{})
	h := newHost(t, "zfs", Options{})
	ref, err := NewReference("file://"+dir, "web", "1")
	if err != nil {
		t.Fatal(err)
	}
	img, err := h.Ensure(t.Context(), ref, EnsureOptions{})
	if err != nil || digestPrefix+img.ID != m.Digest {
		t.Errorf("%v, %v", img.ID, err)
	}
}

// TestLeftovers has a store find what a killed pull left.
func TestLeftovers(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		dir, m := publish(t, kind, "web:1", makeTree(t, 10<<10), BuildOptions{})
		h := newHost(t, kind, Options{})
		before := h.state(t)
		left := &link{manifest: m}
		for _, tmp := range []string{left.tmp(), "build-X"} {
			root, err := h.backend().Create(t.Context(), tmp, "")
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(root+"/half", nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		held, err := tryLock(h.options(Options{}).LockDir, "build-X")
		if err != nil || held == nil {
			t.Fatal(held, err)
		}
		// The next pull of the same image meets it.
		if _, err := h.Ensure(t.Context(), newRegistry(t, dir).ref(t, "web:1"), EnsureOptions{}); err != nil {
			t.Error(err)
		}
		img, err := h.Find(t.Context(), "web:1")
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Remove(t.Context(), img); err != nil {
			t.Error(err)
		}
		if err := h.Sweep(t.Context()); err != nil {
			t.Error(err)
		}
		if tmp, err := h.backend().Temporary(t.Context()); err != nil || len(tmp) != 1 || tmp[0] != "build-X" {
			t.Errorf("left is %v, %v; want what somebody works at", tmp, err)
		}
		held.release()
		if err := h.Sweep(t.Context()); err != nil {
			t.Error(err)
		}
		if after := h.state(t); after != before {
			t.Errorf("the store has changed from\n%s to\n%s", before, after)
		}
	})
}

// TestHostileAnswers has a registry answer what is made for who reads an error: long, or to be obeyed by a terminal.
func TestHostileAnswers(t *testing.T) {
	dir, _ := publish(t, "tar", "web:1", makeTree(t, 1000), BuildOptions{})
	r := newRegistry(t, dir)
	h := newHost(t, "tar", Options{Limits: impatient, OSRelease: "12.2-RELEASE"})
	before := h.state(t)
	long := strings.Repeat("x", 10<<10)
	raw := func(answer string) fault {
		return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				panic(err)
			}
			conn.Write([]byte(answer))
			conn.Close()
		}
	}
	for _, c := range []struct {
		name     string
		fault    fault
		sentence string
	}{
		{"reason", raw("HTTP/1.1 500 \x1b]0;" + long + "\r\n\r\n"), "image web:1: the registry answers 500 \ufffd]0;xxx"},
		{"no HTTP", raw("\x1b]0;" + long + "\r\n\r\n"), "image web:1: the registry " + r.url + " does not answer: "},
		{"header", raw("HTTP/1.1 200 OK\r\n\x9b" + long + "\r\n\r\n"), "image web:1: the registry " + r.url + " does not answer: "},
		{"trailer", raw("HTTP/1.1 200 OK\r\nTrailer: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\x9b" + long[:4000] + "\r\n\r\n"), "image web:1: the registry's " + r.url + "/web_1.json ended early: "},
		{"redirects", redirectTo("/" + long), "image web:1: the registry redirects more than 5 times, last to " + r.url + "/xxx"},
		{"redirect to a file", redirectTo("file:///" + long), "image web:1: the registry redirects from " + r.url + "/web_1.json to file:///xxx"},
		{"redirect to nowhere", raw("HTTP/1.1 302 Found\r\nLocation: http://[" + long + "\r\n\r\n"), "image web:1: the registry " + r.url + " does not answer: "},
		{"time", manifestField("created", "\x9b"+long), "image web:1: its manifest is not JSON as it should be ("},
		{"number", manifestField("size", json.Number(strings.Repeat("9", 10<<10))), "image web:1: its manifest is not JSON as it should be ("},
		{"release", manifestField("os_release", "99.0-RELEASE"+long), "image web:1: it is made from 99.0-RELEASExxx"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r.misbehave(c.fault)
			_, err := h.Ensure(t.Context(), r.ref(t, "web:1"), EnsureOptions{})
			h.refused(t, err, c.sentence, before, prefix)
			if err != nil && (len(err.Error()) > 2500 || strings.ContainsFunc(err.Error(), func(r rune) bool { return !unicode.IsPrint(r) })) {
				t.Errorf("%d bytes: %.3000q", len(err.Error()), err)
			}
		})
	}
}
