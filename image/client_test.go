package image

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

const secret = "hunter2"

// guarded serves a folder over TLS to those who show what is wanted, and returns the file of its authority.
func guarded(t *testing.T, dir, authorization string) (url, caFile string) {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != authorization {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		Handler(dir).ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(caFile, block, 0o644); err != nil {
		t.Fatal(err)
	}
	return server.URL, caFile
}

func authFileWith(t *testing.T, mode os.FileMode, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "auth.json")
	if err := os.WriteFile(file, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestCredentials(t *testing.T) {
	dir, _ := publish(t, "tar", "web:1", makeTree(t, 1000), BuildOptions{})
	pair := base64.StdEncoding.EncodeToString([]byte("u:" + secret))
	basicURL, basicCA := guarded(t, dir, "Basic "+pair)
	bearerURL, bearerCA := guarded(t, dir, "Bearer "+secret)
	host := func(url string) string { return strings.TrimPrefix(url, "https://") }
	plain := newRegistry(t, dir)
	var leaked atomic.Int64
	plain.misbehave(func(w http.ResponseWriter, r *http.Request, good http.Handler) {
		if r.Header.Get("Authorization") != "" {
			leaked.Add(1)
		}
		if strings.HasPrefix(r.URL.Path, "/secure/") {
			http.Redirect(w, r, basicURL+strings.TrimPrefix(r.URL.Path, "/secure"), http.StatusFound)
			return
		}
		good.ServeHTTP(w, r)
	})
	plainHost := strings.TrimPrefix(plain.url, "http://")

	for _, c := range []struct {
		name     string
		url      string
		options  RegistryOptions
		sentence string // "" where the pull succeeds
	}{
		{"basic from the configuration", basicURL, RegistryOptions{CAFile: basicCA, Auth: map[string]Credential{host(basicURL): {Username: "u", Password: secret}}}, ""},
		{"basic from a file", basicURL, RegistryOptions{CAFile: basicCA, AuthFile: authFileWith(t, 0o600, `{"auths":{"https://`+host(basicURL)+`/":{"auth":"`+pair+`"}}}`)}, ""},
		{"bearer from the configuration", bearerURL, RegistryOptions{CAFile: bearerCA, Auth: map[string]Credential{host(bearerURL): {Token: secret}}}, ""},
		{"bearer from a file", bearerURL, RegistryOptions{CAFile: bearerCA, AuthFile: authFileWith(t, 0o600, `{"auths":{"`+host(bearerURL)+`":{"registrytoken":"`+secret+`"}}}`)}, ""},
		{"redirected to the server that wants them", plain.url + "/secure", RegistryOptions{CAFile: basicCA, Auth: map[string]Credential{host(basicURL): {Username: "u", Password: secret}}}, ""},
		{"not sent without TLS", plain.url, RegistryOptions{Auth: map[string]Credential{plainHost: {Token: secret}}}, ""},
		{"none", basicURL, RegistryOptions{CAFile: basicCA}, "the registry refuses " + basicURL + "/web_1.json (401 Unauthorized); put credentials for it into the plugin's configuration"},
		{"wrong", basicURL, RegistryOptions{CAFile: basicCA, Auth: map[string]Credential{host(basicURL): {Username: "u", Password: secret + "x"}}}, "(401 Unauthorized)"},
		{"of another path", basicURL, RegistryOptions{CAFile: basicCA, Auth: map[string]Credential{host(basicURL) + "/private": {Username: "u", Password: secret}}}, "(401 Unauthorized)"},
		{"of the host's other port", basicURL, RegistryOptions{CAFile: basicCA, Auth: map[string]Credential{"127.0.0.1": {Username: "u", Password: secret}}}, "(401 Unauthorized)"},
		{"others can read the file", basicURL, RegistryOptions{CAFile: basicCA, AuthFile: authFileWith(t, 0o644, `{}`)}, "holds credentials and others can read it; chmod 600 it"},
		{"file is no JSON", basicURL, RegistryOptions{CAFile: basicCA, AuthFile: authFileWith(t, 0o600, secret)}, `is not JSON of the form {"auths"`},
		{"file's pair is none", basicURL, RegistryOptions{CAFile: basicCA, AuthFile: authFileWith(t, 0o600, `{"auths":{"h":{"auth":"`+secret+`"}}}`)}, "no base64 of USER:PASSWORD"},
		{"no file", basicURL, RegistryOptions{CAFile: basicCA, AuthFile: "/nowhere"}, "no such file"},
		{"authority is not trusted", basicURL, RegistryOptions{}, "the certificate of the registry " + basicURL + " is not trusted"},
		{"authority's file is none", basicURL, RegistryOptions{CAFile: "/etc/passwd"}, "/etc/passwd has no certificate in PEM"},
		{"proxy's URL is none", basicURL, RegistryOptions{Proxy: "%" + secret}, "the proxy's URL in the plugin's configuration cannot be parsed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var log bytes.Buffer
			h := newHost(t, "tar", Options{Registry: c.options, Logger: hclog.New(&hclog.LoggerOptions{Output: &log, Level: hclog.Trace})})
			ref, err := NewReference(c.url, "web", "1")
			if err != nil {
				t.Fatal(err)
			}
			_, err = h.Ensure(t.Context(), ref, EnsureOptions{})
			if c.sentence == "" && err != nil || c.sentence != "" && (err == nil || !strings.Contains(err.Error(), c.sentence)) {
				t.Errorf("%v, want %q", err, c.sentence)
			}
			if said := fmt.Sprint(err, log.String(), h.options(Options{Registry: c.options})); strings.Contains(said, secret) && !strings.Contains(c.options.Proxy, secret) {
				t.Errorf("a secret is told: %s", said)
			}
		})
	}
	if n := leaked.Load(); n > 0 {
		t.Errorf("credentials were sent without TLS, %d times", n)
	}
}

func TestProxy(t *testing.T) {
	dir, _ := publish(t, "tar", "web:1", makeTree(t, 1000), BuildOptions{})
	r := newRegistry(t, dir)
	var through atomic.Int64
	proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		through.Add(1)
		p.Out.URL.Host = strings.TrimPrefix(r.url, "http://")
	}})
	defer proxy.Close()
	h := newHost(t, "tar", Options{Registry: RegistryOptions{Proxy: proxy.URL}})
	ref, _ := NewReference("http://registry.invalid", "web", "1")
	if _, err := h.Ensure(t.Context(), ref, EnsureOptions{}); err != nil || through.Load() != 2 {
		t.Errorf("%v, %d requests went through the proxy, want 2", err, through.Load())
	}
}

func TestMirrors(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		dir, m := publish(t, kind, "web:1", makeTree(t, 100<<10), BuildOptions{})
		gone, damaged, good := newRegistry(t, t.TempDir()), newRegistry(t, dir), newRegistry(t, dir)
		damaged.misbehave(streamBytes(func(b []byte) []byte { b[len(b)/2] ^= 1; return b }))
		ref, err := NewReference("http://registry.invalid", "web", "1")
		if err != nil {
			t.Fatal(err)
		}
		h := newHost(t, kind, Options{Limits: impatient, Registry: RegistryOptions{Mirrors: map[string][]string{ref.Base: {gone.url, damaged.url, good.url}}}})
		img, err := h.Ensure(t.Context(), ref, EnsureOptions{})
		if err != nil || img.Manifest.Digest != m.Digest || img.Reference.String() != ref.String() {
			t.Errorf("%+v, %v", img, err)
		}
		if gone.total() == 0 || damaged.total() == 0 {
			t.Error("the mirrors were not asked in order")
		}
		h = newHost(t, kind, Options{})
		before := h.state(t)
		ref.Base, ref.Mirrors = gone.url, []string{damaged.url}
		_, err = h.Ensure(t.Context(), ref, EnsureOptions{})
		h.refused(t, err, "image web:1: the registry has no "+gone.url+"/web_1.json (404 Not Found); check name and tag, or publish the image", before, whole)
	})
}

// tunnel is an HTTP proxy to which every host is 127.0.0.1, with CONNECT and without, for those who know its password.
type tunnel struct {
	password string

	mu    sync.Mutex
	asked []string
}

func (p *tunnel) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.asked = append(p.asked, r.Method+" "+r.Host)
	p.mu.Unlock()
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("u:"+p.password))
	if p.password != "" && r.Header.Get("Proxy-Authorization") != want {
		w.WriteHeader(http.StatusProxyAuthRequired)
		return
	}
	_, port, _ := net.SplitHostPort(r.Host)
	if r.Method != http.MethodConnect {
		forward := &httputil.ReverseProxy{Rewrite: func(out *httputil.ProxyRequest) { out.Out.URL.Host = "127.0.0.1:" + port }}
		forward.ServeHTTP(w, r)
		return
	}
	server, err := net.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer server.Close()
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer client.Close()
	io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n")
	go io.Copy(server, buffered)
	io.Copy(client, server)
}

// requests are what the proxy was asked since the last call.
func (p *tunnel) requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	asked := slices.Compact(p.asked)
	p.asked = nil
	return asked
}

// proxiedVariable makes this program one that pulls through a proxy: DIR REFERENCE CA PROXY.
const proxiedVariable = "NOMAD_DRIVER_JAIL_TEST_PROXY"

func proxied() int {
	words := strings.Split(os.Getenv(proxiedVariable), " ")
	h := &host{kind: "tar", dir: words[0]}
	h.Store = New(h.backend(), h.options(Options{Limits: impatient, Registry: RegistryOptions{CAFile: words[2], Proxy: words[3]}}))
	ref, err := ParseReference(words[1])
	if err == nil {
		_, err = h.Ensure(context.Background(), ref, EnsureOptions{})
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// TestProxies pulls through real ones. What the environment says of them is read once by a process, so each case is one.
func TestProxies(t *testing.T) {
	dir, _ := publish(t, "tar", "web:1", makeTree(t, 1000), BuildOptions{})
	plain := newRegistry(t, dir)
	secureURL, ca := guarded(t, dir, "")
	port := func(url string) string { return url[strings.LastIndexByte(url, ':'):] }
	// The test server's certificate is for example.com; the proxy knows where that is.
	http1, https1 := "http://example.com"+port(plain.url), "https://example.com"+port(secureURL)
	open, closed := &tunnel{}, &tunnel{password: secret}
	openServer, closedServer := httptest.NewServer(open), httptest.NewServer(closed)
	defer openServer.Close()
	defer closedServer.Close()
	with := func(userinfo string) string { return strings.Replace(closedServer.URL, "://", "://"+userinfo+"@", 1) }
	for _, c := range []struct {
		name, url   string
		proxy       string // from the configuration
		environment []string
		asked       []string // of either proxy
		sentence    string   // "" where the pull succeeds
	}{
		{"HTTPS", https1, openServer.URL, nil, []string{"CONNECT example.com" + port(secureURL)}, ""},
		{"HTTPS with a password", https1, with("u:" + secret), nil, []string{"CONNECT example.com" + port(secureURL)}, ""},
		{"HTTPS with a wrong password", https1, with("u:x" + secret), nil, []string{"CONNECT example.com" + port(secureURL)}, "the proxy refuses https://example.com" + port(secureURL) + " (407 Proxy Authentication Required); put its user and password into its URL"},
		{"HTTP with a password", http1, with("u:" + secret), nil, []string{"GET example.com" + port(plain.url)}, ""},
		{"HTTP without the password", http1, closedServer.URL, nil, []string{"GET example.com" + port(plain.url)}, "the proxy refuses " + http1 + "/web_1.json (407 Proxy Authentication Required)"},
		{"HTTP_PROXY", http1, "", []string{"HTTP_PROXY=" + openServer.URL, "HTTPS_PROXY=http://127.0.0.1:1"}, []string{"GET example.com" + port(plain.url)}, ""},
		{"HTTPS_PROXY with a password", https1, "", []string{"HTTPS_PROXY=" + with("u:"+secret), "HTTP_PROXY=http://127.0.0.1:1"}, []string{"CONNECT example.com" + port(secureURL)}, ""},
		{"NO_PROXY", "http://localhost.localdomain" + port(plain.url), "", []string{"HTTP_PROXY=" + openServer.URL, "NO_PROXY=.localdomain"}, nil, "the registry http://localhost.localdomain"},
		{"NO_PROXY of another", http1, "", []string{"HTTP_PROXY=" + openServer.URL, "NO_PROXY=example.org,.com.example"}, []string{"GET example.com" + port(plain.url)}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t, "tar", Options{})
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), c.environment...)
			cmd.Env = append(cmd.Env, proxiedVariable+"="+strings.Join([]string{h.dir, c.url + "/web:1", ca, c.proxy}, " "))
			out, err := cmd.CombinedOutput()
			if c.sentence == "" && err != nil || c.sentence != "" && (err == nil || !strings.Contains(string(out), c.sentence)) {
				t.Errorf("%v: %s; want %q", err, out, c.sentence)
			}
			if strings.Contains(string(out), secret) {
				t.Errorf("the proxy's password is told: %s", out)
			}
			if asked := slices.Concat(open.requests(), closed.requests()); !slices.Equal(slices.Compact(asked), c.asked) {
				t.Errorf("the proxy was asked %q, want %q", asked, c.asked)
			}
		})
	}
}

// TestDeadMirrors asks each mirror that does not answer once, and goes on with a stream that has begun at one.
func TestDeadMirrors(t *testing.T) {
	dir, m := publish(t, "tar", "web:1", makeTree(t, 1<<20), BuildOptions{})
	silent, failing, without, good, origin := newRegistry(t, dir), newRegistry(t, dir), newRegistry(t, dir), newRegistry(t, dir), newRegistry(t, dir)
	silent.misbehave(hangUp)
	failing.misbehave(status(http.StatusBadGateway))
	without.misbehave(onlyFiles(".zst", status(http.StatusServiceUnavailable)))
	good.misbehave(cut(".zst", int(m.Size)/2, 1))
	ref := origin.ref(t, "web:1")
	ref.Mirrors = []string{silent.url, failing.url, without.url, good.url}
	h := newHost(t, "tar", Options{Limits: Limits{Retry: time.Minute}})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := h.Ensure(ctx, ref, EnsureOptions{}); err != nil {
		t.Fatal(err)
	}
	if a, b, c, d, e := silent.total(), failing.total(), without.count("/web_1.tar.zst"), good.count("/web_1.tar.zst"), origin.total(); a != 1 || b != 1 || c != 1 || d != 2 || e != 0 {
		t.Errorf("asked the silent one %d times, the failing one %d, the one without the stream %d, the one that broke off %d, the registry %d", a, b, c, d, e)
	}
}
