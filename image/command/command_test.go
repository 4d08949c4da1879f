package command

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/zfs/pool"
	"github.com/nomad-driver-jail/nomad-driver-jail/image"
)

func TestMain(m *testing.M) { pool.Main(m) }

// run is the program's command line in this process.
func run(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, problems bytes.Buffer
	err = execute(t.Context(), &out, &problems, args...)
	return out.String(), problems.String(), err
}

func execute(ctx context.Context, out, problems io.Writer, args ...string) error {
	return executeWith(ctx, Defaults{}, out, problems, args...)
}

func executeWith(ctx context.Context, defaults Defaults, out, problems io.Writer, args ...string) error {
	root := &cobra.Command{Use: "nomad-driver-jail", SilenceErrors: true, SilenceUsage: true}
	root.AddCommand(New(nil, func(_, stateDir string) (Defaults, error) {
		defaults.StateDir = stateDir
		return defaults, nil
	}))
	root.SetOut(out)
	root.SetErr(problems)
	root.SetArgs(append([]string{"image"}, args...))
	return root.ExecuteContext(ctx)
}

func must(t *testing.T, args ...string) string {
	t.Helper()
	out, problems, err := run(t, args...)
	if err != nil {
		t.Fatalf("image %s: %v\n%s%s", strings.Join(args, " "), err, out, problems)
	}
	return out
}

// serve runs `image serve` for the time of the test and returns its URL.
func serve(t *testing.T, args ...string) string {
	t.Helper()
	fields := strings.Fields(serveLine(t, args...))
	return fields[len(fields)-1]
}

// serveLine is what it says.
func serveLine(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- execute(ctx, w, io.Discard, append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...)
		w.Close()
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return line
}

func someTree(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "root")
	for name, text := range map[string]string{"bin/web": "#!/bin/sh\n", "etc/motd": "hello\n", "var/data": strings.Repeat("data ", 100000)} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestTour does what the operators' page tells.
func TestTour(t *testing.T) {
	for _, kind := range []string{"zfs", "directory"} {
		t.Run(kind, func(t *testing.T) {
			state := t.TempDir()
			published := filepath.Join(t.TempDir(), "published")
			builder, host := []string{"--state-dir", state + "/b"}, []string{"--state-dir", state + "/h"}
			if kind == "zfs" {
				builder = append(builder, "--dataset", pool.Dataset(t)+"/b")
				host = append(host, "--dataset", pool.Dataset(t)+"/h")
			} else {
				builder = append(builder, "--directory", t.TempDir())
				host = append(host, "--directory", t.TempDir())
			}
			with := func(store []string, args ...string) []string { return append(args, store...) }

			tree := someTree(t)
			must(t, with(builder, "build", "web:1.0", tree, "--cmd", "/bin/web -v", "--env", "A=b=c", "--port", "80,53/udp")...)
			out := must(t, with(builder, "export", "web:1.0", published)...)
			if !strings.HasPrefix(out, "Exported web:1.0: sha256:") {
				t.Errorf("export says %q", out)
			}
			url := serve(t, published)
			if _, problems, err := run(t, with(host, "pull", url+"/web:1.0")...); err != nil || !strings.Contains(problems, "Pulling web:1.0: ") {
				t.Errorf("pull: %v, says %q", err, problems)
			}
			var list []imageJSON
			if err := json.Unmarshal([]byte(must(t, with(host, "list", "--json")...)), &list); err != nil || len(list) != 1 {
				t.Fatalf("list: %+v, %v", list, err)
			}
			got := list[0]
			if got.Reference != url+"/web:1.0" || got.Manifest.Defaults.Command != "/bin/web" || got.Manifest.Defaults.Env["A"] != "b=c" || len(got.Manifest.Defaults.Ports) != 2 {
				t.Errorf("list: %+v", got)
			}
			if out := must(t, with(host, "list")...); !strings.Contains(out, got.ID[:12]) || !strings.Contains(out, url) {
				t.Errorf("list says %q", out)
			}
			out = must(t, with(host, "inspect", got.ID[:8])...)
			if err := json.Unmarshal([]byte(out), &got); err != nil || got.Manifest.Digest != "sha256:"+got.ID || got.Pin != got.Manifest.Digest {
				t.Errorf("inspect says %q", out)
			}
			if data, err := os.ReadFile(filepath.Join(got.Root, "etc/motd")); string(data) != "hello\n" {
				t.Errorf("motd: %q, %v", data, err)
			}
			must(t, with(host, "rm", "web:1.0")...)
			if out := must(t, with(host, "list", "--json")...); strings.TrimSpace(out) != "[]" {
				t.Errorf("after rm: %s", out)
			}
			if _, _, err := run(t, with(host, "inspect", "web:1.0")...); err == nil || ExitCode(err) != 1 {
				t.Errorf("inspect after rm: %v", err)
			}
		})
	}
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args     []string
		sentence string
	}{
		{[]string{"list"}, "which store? Give --dataset POOL/NAME or --directory DIR"},
		{[]string{"list", "--dataset", "a/b", "--directory", "/c"}, "--dataset and --directory exclude each other"},
		{[]string{"pull", "web"}, `image "web": it has no tag`},
		{[]string{"pull"}, "accepts 1 arg(s), received 0; usage: nomad-driver-jail image pull URL/NAME:TAG"},
		{[]string{"build", "web:1", "x", "--cmd", "[1]", "--directory", "/tmp"}, `--cmd: [1] is no JSON list of strings`},
		{[]string{"build", "web:1", "x", "--env", "A", "--directory", "/tmp"}, `--env "A" has no =`},
		{[]string{"build", "web:1", "x", "--os", "plan9", "--directory", "/tmp"}, `unknown os "plan9"`},
		{[]string{"build", "web:1", "x", "--port", "x", "--directory", "/tmp"}, `"x" is no port`},
		{[]string{"pull", "http://x/web:1", "--arch", "vax", "--directory", "/tmp"}, `unknown arch "vax"`},
		{[]string{"pull", "http://x/web:1", "--mirror", "http://y", "--directory", "/tmp"}, "--mirror: entry 1 must be URL=MIRROR"},
		{[]string{"pull", "http://x/web:1", "--mirror", "http://x=y", "--directory", "/tmp"}, "--mirror: entry 1 must be URL=MIRROR"},
		{[]string{"gc", "--delay", "-1h", "--directory", "/tmp"}, "--delay -1h0m0s is negative"},
		{[]string{"gc", "--max-size", "much", "--directory", "/tmp"}, `"much" is no size; write it as in 50GiB`},
		{[]string{"list", "--colour"}, "unknown flag: --colour"},
		{[]string{"lst"}, `unknown command "lst"`},
	} {
		_, _, err := run(t, c.args...)
		if err == nil || !strings.Contains(err.Error(), c.sentence) || ExitCode(err) != 2 {
			t.Errorf("%v: %v, want %s and exit code 2", c.args, err, c.sentence)
		}
	}
	if code := ExitCode(errors.New("the disk is full")); code != 1 {
		t.Errorf("exit code %d", code)
	}
}

// certificate makes one for 127.0.0.1 and its key, as files.
func certificate(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for file, block := range map[string]*pem.Block{"cert": {Type: "CERTIFICATE", Bytes: cert}, "key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "cert"), filepath.Join(dir, "key")
}

// TestPublish pushes a signed image to a registry with TLS and a token, from where a careful host verifies and pulls it.
func TestPublish(t *testing.T) {
	dir := t.TempDir()
	registry, published := filepath.Join(dir, "registry"), filepath.Join(dir, "published")
	if err := os.Mkdir(registry, 0o755); err != nil {
		t.Fatal(err)
	}
	certFile, keyFile := certificate(t)
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte("0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	url := serve(t, registry, "--tls-cert", certFile, "--tls-key", keyFile, "--push-token-file", token)
	host := strings.TrimPrefix(url, "https://")
	auth := filepath.Join(dir, "auth.json")
	if err := os.WriteFile(auth, []byte(`{"auths":{"`+host+`":{"registrytoken":"0123456789abcdef"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	store := []string{"--state-dir", dir + "/state", "--directory", t.TempDir()}
	with := func(args ...string) []string { return append(args, store...) }

	if out := must(t, "sign", "--generate", dir+"/key"); !strings.HasPrefix(out, "Made the key ") {
		t.Errorf("sign --generate says %q", out)
	}
	must(t, with("build", "web:1", someTree(t))...)
	must(t, with("export", "web:1", published)...)
	if out := must(t, "sign", "--key", dir+"/key.sec", published, "web:1"); !strings.HasPrefix(out, "Signed: web:1 with the key ") {
		t.Errorf("sign says %q", out)
	}
	_, _, err := run(t, "push", published, "web:1", url, "--ca-file", certFile)
	if want := "image web:1: the registry refuses " + url + "/web_1.tar.zst (401 Unauthorized: "; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("push without a token: %v, want %s", err, want)
	}
	must(t, "push", published, "web:1", url+"/", "--ca-file", certFile, "--auth-file", auth)
	must(t, "push", published, "web:1", dir)
	for _, file := range []string{"web_1.json", "web_1.json.sig", "web_1.tar.zst"} {
		want, _ := os.ReadFile(filepath.Join(published, file))
		for _, to := range []string{registry, dir} {
			if got, err := os.ReadFile(filepath.Join(to, file)); err != nil || string(got) != string(want) {
				t.Errorf("%s in %s: %d bytes, want %d, %v", file, to, len(got), len(want), err)
			}
		}
	}

	careful := []string{"--ca-file", certFile, "--key", dir + "/key.pub"}
	out := must(t, append([]string{"verify", url + "/web:1"}, careful...)...)
	if !strings.HasPrefix(out, "Good: "+url+"/web:1, sha256:") {
		t.Errorf("verify says %q", out)
	}
	must(t, with(append([]string{"pull", url + "/web:1"}, careful...)...)...)
	if out := must(t, with("gc", "--delay", "1h")...); out != "" {
		t.Errorf("gc of images just used: %q", out)
	}
	stream := filepath.Join(registry, "web_1.tar.zst")
	data, err := os.ReadFile(stream)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(stream, data, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := run(t, with(append([]string{"verify", url + "/web:1"}, careful...)...)...); err == nil || !strings.Contains(err.Error(), "the registry's copy is damaged") {
		t.Errorf("verify of a damaged image: %v", err)
	}
}

// TestPushNames has a registry refuse what is no image's file.
func TestPushNames(t *testing.T) {
	dir := t.TempDir()
	server := httptest.NewServer(image.WritableHandler(dir, "token"))
	defer server.Close()
	for path, want := range map[string]int{
		"/web_1.json": 201, "/web_1.zfs.zst": 201, "/web_1.xz.skein.sig": 201,
		"/web.json": 403, "/.web_1.json": 403, "/sub/web_1.json": 409, "/..%2fweb_1.json": 409, "/web_1.html": 403, "/web_1.json/": 409,
	} {
		req, err := http.NewRequest(http.MethodPut, server.URL+path, strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer token")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %s, want %d", path, resp.Status, want)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 3 {
		t.Errorf("stored are %v, %v", entries, err)
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]uint64{"": 0, "12": 12, "1k": 1000, "20G": 20e9, "50GiB": 50 << 30, "1.5 GB": 15e8, "3T": 3e12} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%q is %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"G", "-1", "1GX", "99999999T"} {
		if got, err := parseSize(text); err == nil || ExitCode(err) != 2 {
			t.Errorf("%q is %d, %v", text, got, err)
		}
	}
}
