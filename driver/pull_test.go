package driver

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/drivers/testutils"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/rootfs"
	"github.com/nomad-driver-jail/nomad-driver-jail/image"
	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
)

// publish exports an image with noise bytes that do not compress, and a motd, into a folder.
func publish(t *testing.T, dir, name, motd string, noise int) image.Manifest {
	t.Helper()
	backend := storage.NewDirectory(filepath.Join(t.TempDir(), "store"), t.TempDir())
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

const secret = "hunter2"

// TestCredentials starts tasks from registries that want one, by the configuration as an operator writes it, and looks for it in
// all that is told and kept.
func TestCredentials(t *testing.T) {
	dir := t.TempDir()
	publish(t, dir, "web:1", "hello\n", 100)
	for name, c := range map[string]struct{ auth, wants string }{
		"basic":  {`username = "u"` + "\n" + `password = "` + secret + `"`, "Basic " + base64.StdEncoding.EncodeToString([]byte("u:"+secret))},
		"bearer": {`token = "` + secret + `"`, "Bearer " + secret},
		"wrong":  {`token = "` + secret + `"`, "Bearer other"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") != c.wants {
					http.Error(w, "who are you?", http.StatusUnauthorized)
					return
				}
				image.Handler(dir).ServeHTTP(w, r)
			}))
			defer server.Close()
			ca := filepath.Join(t.TempDir(), "ca.pem")
			if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o644); err != nil {
				t.Fatal(err)
			}
			var images struct {
				Images ImagesConfig `codec:"images"`
			}
			decode(t, configSpec, `config {
  images {
    ca_file = "`+ca+`"
    auth {
      server_address = "other.example.org"
      token          = "another"
    }
    auth {
      server_address = "`+strings.TrimPrefix(server.URL, "https://")+`"
      `+c.auth+`
    }
  }
}`, &images)
			config := testConfig(t)
			config.Images = images.Images
			var log bytes.Buffer
			h, d := loggedHarness(t, config, &log)
			cfg := newTaskConfig(t, h, "true")
			if err := cfg.EncodeConcreteDriverConfig(&TaskConfig{Image: server.URL + "/web:1", Command: "/bin/echo", NetworkMode: modeBridge, Securelevel: -1}); err != nil {
				t.Fatal(err)
			}
			var err error
			if name != "wrong" {
				startTask(t, h, cfg)
			} else if _, _, err = h.StartTask(cfg); err == nil || !strings.Contains(err.Error(), "the registry refuses "+server.URL+"/web_1.json (401 Unauthorized)") {
				t.Errorf("with the wrong one: %v", err)
			}
			files := texts(t, config.StateDir)
			for what, text := range map[string]string{"error": fmt.Sprint(err), "log": log.String(), "configuration": fmt.Sprintf("%+v %#v", d.config, d.config), "disk": files} {
				if strings.Contains(text, secret) {
					t.Errorf("the secret is told: %s: %s", what, text)
				}
			}
			if !strings.Contains(files, ca) {
				t.Errorf("the configuration is not remembered: %s", files)
			}
		})
	}
}

func loggedHarness(t *testing.T, config Config, log io.Writer) (*testutils.DriverHarness, *Driver) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	d := New(ctx, DefaultName, hclog.New(&hclog.LoggerOptions{Output: log, Level: hclog.Trace}))
	var data []byte
	if err := base.MsgPackEncode(&data, &config); err != nil {
		t.Fatal(err)
	}
	if err := d.SetConfig(&base.Config{PluginConfig: data, AgentConfig: &base.AgentConfig{}}); err != nil {
		t.Fatal(err)
	}
	h := testutils.NewDriverHarness(t, d)
	t.Cleanup(h.Kill)
	return h, d
}

// texts is what all files below a folder say, but for the program in it.
func texts(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		if info, err := entry.Info(); err != nil || info.Mode().Perm()&0o100 != 0 {
			return err
		}
		data, err := os.ReadFile(path)
		all.Write(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// TestSecretsAreNotKept saves a configuration that has all of them.
func TestSecretsAreNotKept(t *testing.T) {
	c := testConfig(t)
	c.Consul.Token, c.Images.Proxy = secret, "http://u:"+secret+"@proxy.example.org"
	c.Images.Auth = []AuthConfig{{ServerAddress: "r.example.org", Token: secret}}
	if err := errors.Join(os.MkdirAll(c.StateDir, 0o700), c.save()); err != nil {
		t.Fatal(err)
	}
	if text := texts(t, c.StateDir); text == "" || strings.Contains(text, secret) {
		t.Errorf("kept is %s", text)
	}
	if c.Images.Auth == nil || c.Consul.Token == "" {
		t.Error("the plugin has forgotten them")
	}
}

// TestDownloadEvents reads what a person sees in nomad alloc status.
func TestDownloadEvents(t *testing.T) {
	dir := t.TempDir()
	publish(t, dir, "web:1", "hello\n", 3<<20)
	h, _ := harness(t)
	cfg := newTaskConfig(t, h, "true")
	url := registry(t, dir, 4<<20) + "/web:1"
	if err := cfg.EncodeConcreteDriverConfig(&TaskConfig{Image: url, Command: "/bin/echo", NetworkMode: modeBridge, Securelevel: -1}); err != nil {
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

// pullError is what a start says of an image that cannot be had.
func pullError(t *testing.T, config Config, url string) string {
	t.Helper()
	h, d := harnessWith(t, config)
	cfg := newTaskConfig(t, h, "true")
	if err := cfg.EncodeConcreteDriverConfig(&TaskConfig{Image: url, Command: "/bin/echo", NetworkMode: modeBridge, Securelevel: -1}); err != nil {
		t.Fatal(err)
	}
	_, _, err := h.StartTask(cfg)
	if err == nil {
		t.Fatal("it is accepted")
	}
	nothingLeft(t, d, cfg)
	return err.Error()
}

func TestImageLimits(t *testing.T) {
	dir := t.TempDir()
	m := publish(t, dir, "web:1", "hello\n", 3<<20)
	config := testConfig(t)
	config.Images.MaxImageSize = "1MiB"
	want := fmt.Sprintf("its stream has %d bytes; this host accepts at most 1048576", m.UncompressedSize)
	if said := pullError(t, config, registry(t, dir, 1<<30)+"/web:1"); !strings.Contains(said, want) {
		t.Errorf("too large: %s, want %s", said, want)
	}
	config = testConfig(t)
	config.Images.StallTimeout, config.Images.Retry = "300ms", "300ms"
	if said := pullError(t, config, registry(t, dir, 64<<10)+"/web:1"); !strings.Contains(said, "it comes too slowly, less than 64 KiB in 300ms") {
		t.Errorf("too slow: %s", said)
	}
}

func TestPullTimeout(t *testing.T) {
	dir := t.TempDir()
	publish(t, dir, "web:1", "hello\n", 3<<20)
	config := testConfig(t)
	config.PullTimeout = "500ms"
	began := time.Now()
	said := pullError(t, config, registry(t, dir, 256<<10)+"/web:1")
	if want := "image web:1: it is not here after 500ms; see the registry, or raise pull_timeout in the plugin's configuration"; !strings.HasSuffix(said, want) {
		t.Errorf("%s, want %s", said, want)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}

// TestForcePull moves a tag at the registry between two tasks' starts, with and without force_pull.
func TestForcePull(t *testing.T) {
	dir := t.TempDir()
	url := registry(t, dir, 1<<30) + "/web:1"
	h, d := harness(t)
	motd := func(force bool) (text, digest string) {
		t.Helper()
		cfg := newTaskConfig(t, h, "")
		if err := cfg.EncodeConcreteDriverConfig(&TaskConfig{
			Image: url, ForcePull: force, Command: "/bin/sh", Args: []string{"-c", "sleep 1000"}, NetworkMode: modeBridge, Securelevel: -1,
		}); err != nil {
			t.Fatal(err)
		}
		startTask(t, h, cfg)
		result, err := h.ExecTask(cfg.ID, []string{"/bin/cat", "/etc/motd"}, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		state, err := readState(d.host.taskDir(Name(cfg.ID)))
		if err != nil {
			t.Fatal(err)
		}
		if err := h.DestroyTask(cfg.ID, true); err != nil {
			t.Fatal(err)
		}
		return string(result.Stdout), state.Digest
	}
	first := publish(t, dir, "web:1", "old\n", 100)
	second := first
	for _, step := range []struct {
		what  string
		moved bool
		force bool
		motd  string
	}{
		{"the first", false, false, "old\n"},
		{"the tag has not moved", false, true, "old\n"},
		{"the tag has moved", true, false, "old\n"},
		{"asked again", false, true, "new\n"},
		{"after that", false, false, "new\n"},
	} {
		if step.moved {
			second = publish(t, dir, "web:1", "new\n", 100)
		}
		want := first.Digest
		if step.motd == "new\n" {
			want = second.Digest
		}
		text, digest := motd(step.force)
		if text != step.motd || digest != want {
			t.Errorf("%s: the task has %q of %s, want %q of %s", step.what, text, digest, step.motd, want)
		}
	}
}
