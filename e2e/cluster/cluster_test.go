package cluster_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/audit"
	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/cluster"
	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/isolate"
)

func TestMain(m *testing.M) {
	isolate.Enter(isolate.Options{Network: isolate.Apart})
	os.Exit(m.Run())
}

func binary(t *testing.T, name string) string {
	path, err := filepath.Abs(filepath.Join("../../bin", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

const sleeper = `
variable "text" { default = "" }

job "sleeper" {
  group "g" {
    update {
      min_healthy_time = "1s"
    }
    task "t" {
      driver = "raw_exec"
      config {
        command = "/bin/sh"
        args    = ["-c", "echo ${var.text}; echo oops >&2; exec sleep 300"]
      }
      resources { memory = 16 }
    }
  }
}`

// TestKillClient shows with one of Nomad's own drivers what the tests of ours rely on.
func TestKillClient(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	before, err := audit.Take(audit.Scope{Processes: true})
	if err != nil {
		t.Fatal(err)
	}
	c, err := cluster.Start(ctx, cluster.Config{Dir: t.TempDir(), Bind: isolate.Address(), Nomad: binary(t, "nomad"), Consul: binary(t, "consul"), Split: true, Interface: isolate.Interface()})
	if err != nil {
		t.Fatal(err)
	}
	job, err := c.Run(sleeper, map[string]string{"text": "hello"})
	if err != nil {
		t.Fatal(err)
	}
	alloc, err := job.Running(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.WaitLog(ctx, alloc, "t", "stdout", "hello"); err != nil {
		t.Error(err)
	}
	if err := c.KillClient(); err != nil {
		t.Fatal(err)
	}
	if err := c.StartClient(ctx); err != nil {
		t.Fatal(err)
	}
	again, err := job.Running(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if again.ID != alloc.ID {
		t.Errorf("alloc %s took the place of %s", again.ID, alloc.ID)
	}
	stdout, _, code, err := c.Exec(ctx, again, "t", "typed", "/bin/sh", "-c", "cat; exit 3")
	if err != nil || stdout != "typed" || code != 3 {
		t.Errorf("exec gave %q, %d, %v", stdout, code, err)
	}
	if err := job.Stop(ctx); err != nil {
		t.Error(err)
	}
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
	after, err := audit.Take(audit.Scope{Processes: true})
	if err != nil {
		t.Fatal(err)
	}
	// Nomad keeps its own cgroups.
	after["cgroup"] = slices.DeleteFunc(after["cgroup"], func(c string) bool { return strings.Contains(c, "/nomad") })
	if err := before.Left(after); err != nil {
		t.Error(err)
	}
}
