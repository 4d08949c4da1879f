package driver

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/drivers/testutils"
)

// configure changes the job's own part of a task's configuration.
func configure(t *testing.T, cfg *drivers.TaskConfig, change func(*TaskConfig)) {
	t.Helper()
	var c TaskConfig
	if err := cfg.DecodeDriverConfig(&c); err != nil {
		t.Fatal(err)
	}
	change(&c)
	if err := cfg.EncodeConcreteDriverConfig(&c); err != nil {
		t.Fatal(err)
	}
}

// TestReplacedTaskFolder: who could put a symlink in the place of the task's folder would have the host's mounted.
func TestReplacedTaskFolder(t *testing.T) {
	h, d := harness(t)
	cfg := newTaskConfig(t, h, "sleep 1000")
	local := cfg.TaskDir().LocalDir
	if err := os.Rename(local, local+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", local); err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.StartTask(cfg); err == nil || !strings.Contains(err.Error(), "mount /local: source: ") {
		t.Error(err)
	}
	gone(t, d, Name(cfg.ID))
}

// TestOwnNames: what a job brings for /etc stands over the driver's own, and its files are left alone.
func TestOwnNames(t *testing.T) {
	h, _ := harness(t)
	own := func(name string) *drivers.TaskConfig {
		cfg := newTaskConfig(t, h, "sleep 1000")
		path := filepath.Join(cfg.TaskDir().LocalDir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("nameserver 192.0.2.7\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	says := func(cfg *drivers.TaskConfig) {
		t.Helper()
		startTask(t, h, cfg)
		if _, out, _ := testutils.ExecTask(t, h, cfg.ID, "cat /etc/resolv.conf", false, ""); out != "nameserver 192.0.2.7\n" {
			t.Errorf("/etc/resolv.conf is %q", out)
		}
	}

	copied, mounted := own("resolv.conf"), own("etc/resolv.conf")
	configure(t, copied, func(c *TaskConfig) { c.Copy = []string{"local/resolv.conf:/etc/resolv.conf"} })
	says(copied)

	configure(t, mounted, func(c *TaskConfig) { c.MountReadOnly = []string{"local/etc:/etc"} })
	says(mounted)
	if entries, err := os.ReadDir(filepath.Join(mounted.TaskDir().LocalDir, "etc")); err != nil || len(entries) != 1 {
		t.Errorf("the job's folder has %v, error %v", entries, err)
	}
}
