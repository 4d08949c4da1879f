package driver

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/nomad/helper/pluginutils/hclutils"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"
	"golang.org/x/sys/unix"
)

// decode reads an operator's or a job author's HCL as Nomad does, by the plugin's schema.
func decode(t *testing.T, spec *hclspec.Spec, hcl string, into any) {
	t.Helper()
	hclutils.NewConfigParser(spec).ParseHCL(t, hcl, into)
}

func TestEmptyConfigIsTheDefault(t *testing.T) {
	var c Config
	decode(t, configSpec, `config {}`, &c)
	var want, got []byte
	d := DefaultConfig()
	if err := base.MsgPackEncode(&want, &d); err != nil {
		t.Fatal(err)
	}
	c.Images.Keys, c.Images.Mirrors, c.Images.Auth = nil, nil, nil // empty lists
	if err := base.MsgPackEncode(&got, &c); err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("the schema's defaults are %+v\nDefaultConfig's %+v", c, d)
	}
	if err := c.check(); err != nil {
		t.Error(err)
	}
}

func TestConfig(t *testing.T) {
	var c Config
	decode(t, configSpec, `config {
  dataset        = "tank/jails"
  host_paths     = ["/srv/media:ro"]
  allow          = ["raw_sockets", "host_network"]
  devfs_rulesets = [10]
  images {
    mirrors  = ["https://a.example.org=https://b.example.org", "https://a.example.org/=https://c.example.org//"]
    max_size = "50GiB"
  }
  consul {
    ttl = "10s"
  }
}`, &c)
	if err := c.check(); err != nil {
		t.Fatal(err)
	}
	mirrors, _ := c.Images.mirrors()
	if m := mirrors["https://a.example.org"]; len(m) != 2 || m[1] != "https://c.example.org" {
		t.Errorf("mirrors are %v", mirrors)
	}
	if n, _ := c.Images.maxSize(); n != 50<<30 {
		t.Errorf("max_size is %d", n)
	}
	if !c.Consul.Enabled || c.Consul.TTL != "10s" || c.Images.Retry != "10s" {
		t.Errorf("a block's other values are not the defaults: %+v", c)
	}
	if c.permitRuleset(10, modeBridge) != nil || c.permitRuleset(11, modeBridge) == nil {
		t.Error("devfs_rulesets does not decide")
	}
}

func TestBadConfigGetsOneSentence(t *testing.T) {
	for _, x := range []struct{ hcl, want string }{
		{`dataset = "a" directory = "/b"`, "dataset and directory exclude each other; keep one"},
		{`directory = "b"`, `directory "b" must be an absolute path`},
		{`state_dir = "b"`, `state_dir "b" must be an absolute path`},
		{`host_paths = ["srv"]`, `host_paths: "srv" must be an absolute path, with :ro behind it for reading only`},
		{`allow = ["everything"]`, `allow: unknown permission "everything"; there are `},
		{`subnet = "10.0.0.0"`, `subnet: `},
		{`pull_timeout = "soon"`, `pull_timeout: time: invalid duration "soon"`},
		{`images { mirrors = ["https://a"] }`, `images mirrors: entry 1 must be URL=MIRROR, two base URLs as in https://registry.example.org/images: `},
		{`images { mirrors = ["https://a=https://b", "https://u:p@a=https://b"] }`, `images mirrors: entry 2 must be URL=MIRROR, two base URLs as in https://registry.example.org/images: the registry's URL holds credentials`},
		{`images { mirrors = ["https://a=b"] }`, `images mirrors: entry 1 must be URL=MIRROR, two base URLs as in https://registry.example.org/images: the registry's URL has no scheme`},
		{`images { mirrors = ["https://a=ftp://b"] }`, `images mirrors: entry 1 must be URL=MIRROR, two base URLs as in https://registry.example.org/images: the registry's URL is of scheme "ftp"`},
		{`images { auth { server_address = "r.example.org" } }`, "images auth: r.example.org needs username and password, or token"},
		{`images { auth { server_address = "r.example.org" username = "u" token = "t" } }`, "images auth: r.example.org needs username and password, or token"},
		{`images { auth { server_address = "u:p@r.example.org" token = "t" } }`, "images auth: server_address must be HOST[:PORT][/PATH], without credentials"},
		{`images { max_image_size = "much" }`, `images max_image_size "much" is no size; write it as in 50GiB`},
		{`images { retry = "-1s" }`, `images retry: -1s is negative; write a time such as 10s`},
		{`images { stall_timeout = "long" }`, `images stall_timeout: time: invalid duration "long"`},
		{`images { max_size = "much" }`, `images max_size "much" is no size; write it as in 50GiB`},
	} {
		var c Config
		decode(t, configSpec, "config {\n"+strings.ReplaceAll(x.hcl, " directory", "\ndirectory")+"\n}", &c)
		if err := c.check(); err == nil || !strings.HasPrefix(err.Error(), x.want) {
			t.Errorf("%s: got %v, want %s", x.hcl, err, x.want)
		}
	}
}

func TestPotSpellingOfPorts(t *testing.T) {
	for _, hcl := range []string{`port_map { http = 80 }`, `port_map = { http = "80" }`} {
		var c TaskConfig
		decode(t, taskConfigSpec, "config {\n image = \"http://r.example.org\"\n pot = \"web\"\n tag = \"1\"\n "+hcl+"\n}", &c)
		if c.PortMap["http"] != "80" || c.NetworkMode != modeBridge {
			t.Errorf("%s: got %+v", hcl, c)
		}
	}
}

// TestSavedConfig has no secret in it.
func TestSavedConfig(t *testing.T) {
	c := DefaultConfig()
	c.StateDir = t.TempDir()
	c.Dataset = "zroot/jails"
	c.Consul.Token = "hunter2"
	for proxy, kept := range map[string]string{
		"http://me:hunter2@proxy.example.org:3128": "http://proxy.example.org:3128",
		"http://proxy.example.org:3128":            "http://proxy.example.org:3128",
		"http://me:hunter2/@x@proxy.example.org":   "http://proxy.example.org",
		"me:hunter2@proxy.example.org:3128":        "proxy.example.org:3128",
	} {
		c.Images.Proxy = proxy
		if err := c.save(); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(filepath.Join(c.StateDir, "config.json"))
		if err != nil || strings.Contains(string(data), "hunter2") {
			t.Errorf("saved is %s, %v", data, err)
		}
		last, found, err := lastConfig(c.StateDir)
		if err != nil || !found || last.Dataset != c.Dataset || last.Images.Proxy != kept {
			t.Errorf("%s: the last configuration is %+v, %v", proxy, last, err)
		}
	}
}

// TestSavedConfigSurvivesFullDisk saves one that takes more room than the last, where there is none.
func TestSavedConfigSurvivesFullDisk(t *testing.T) {
	c := DefaultConfig()
	c.StateDir = t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=262144", "tmpfs", c.StateDir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v %s", err, out)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(c.StateDir, 0); err != nil {
			t.Error(err)
		}
	})
	c.Dataset = "zroot/jails"
	if err := c.save(); err != nil {
		t.Fatal(err)
	}
	filler, err := os.Create(filepath.Join(c.StateDir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close()
	for err == nil {
		_, err = filler.Write(make([]byte, 4096))
	}
	if err := c.save(); err != nil {
		t.Errorf("what is there already: %v", err)
	}
	larger := c
	larger.Dataset = "zroot/other"
	larger.HostPaths = []string{strings.Repeat("/a", 8192)}
	if err := larger.save(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("saved on a full disk: %v", err)
	}
	if last, found, err := lastConfig(c.StateDir); err != nil || !found || last.Dataset != c.Dataset {
		t.Errorf("the last configuration is %+v, %v", last, err)
	}
	if entries, err := os.ReadDir(c.StateDir); err != nil || len(entries) != 2 {
		t.Errorf("left %v, %v", entries, err)
	}
}
