package image

import (
	"bytes"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

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
