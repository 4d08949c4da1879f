package e2e

import (
	"net"
	"strings"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/cluster"
	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/rootfs"
	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/site"
)

// TestOutlive kills the agent and the plugin, as hard as it goes, while tasks run.
func TestOutlive(t *testing.T) {
	for _, kill := range []struct {
		name string
		kill func(*testing.T)
	}{
		{"plugin", func(t *testing.T) { must(t, here.KillPlugin()) }},
		{"client", func(t *testing.T) { must(t, here.KillClient()) }},
		{"client and plugin", func(t *testing.T) { must(t, here.KillClient()); must(t, here.KillPlugin()) }},
	} {
		t.Run(kill.name, func(t *testing.T) {
			web := runExample(t, "web")
			alloc := running(t, web)
			brief := brief(t)
			running(t, brief)
			before := holding(t, alloc)

			kill.kill(t)
			// brief ends with nobody there to see it.
			time.Sleep(2 * time.Second)
			if strings.Contains(kill.name, "client") {
				must(t, here.StartClient(timely(t)))
			}

			again := running(t, web)
			if again.ID != alloc.ID || again.TaskStates["server"].Restarts != 0 {
				t.Errorf("alloc %s, restarts %d: it was not left alone", again.ID, again.TaskStates["server"].Restarts)
			}
			if now := holding(t, alloc); now.Status.PID != before.Status.PID || now.State.Address != before.State.Address {
				t.Errorf("before %+v, now %+v", before, now)
			}
			if page := get(t, net.Dial, "http://"+net.JoinHostPort(here.Address, port(t, alloc, "http"))); page != rootfs.Page {
				t.Errorf("the page is %q", page)
			}
			if event := exitCode(t, ended(t, brief), "brief"); event.ExitCode != 7 {
				t.Errorf("what ended meanwhile has exit code %d, want 7: %s", event.ExitCode, event.DisplayMessage)
			}
			if got := eventually(t, alloc, "server", "hostname"); got != "server-"+alloc.ID[:8] {
				t.Errorf("exec says %q", got)
			}
			waitHealthy(t, "nomad-jail")
		})
	}
}

// eventually is shell for a client that may be coming back.
func eventually(t *testing.T, alloc *nomad.Allocation, task, command string) string {
	t.Helper()
	for range 50 * patience {
		if stdout, _, code, err := here.Exec(timely(t), alloc, task, "", "/bin/sh", "-c", command); err == nil && code == 0 {
			return strings.TrimSpace(stdout)
		}
		time.Sleep(200 * time.Millisecond)
	}
	return shell(t, alloc, task, command)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// brief is a job that ends after a second with exit code 7.
func brief(t *testing.T) *cluster.Job {
	task := newTask("brief", "jail", map[string]any{
		"image": "REGISTRY/web:1.0", "command": "/bin/sh", "args": []string{"-c", "sleep 1; exit 7"}})
	return oneOff(t, task)
}

// holding is what the host holds of an alloc's only task, which it must.
func holding(t *testing.T, alloc *nomad.Allocation) site.Holding {
	t.Helper()
	h := held(t, alloc)
	if h.Name == "" {
		list, err := here.Holdings()
		t.Fatalf("nomad-driver-jail ps does not know alloc %s: %+v, %v", alloc.ID, list, err)
	}
	return h
}

// held is holding, zero where the host holds nothing.
func held(t *testing.T, alloc *nomad.Allocation) site.Holding {
	t.Helper()
	list, err := here.Holdings()
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range list {
		if h.State.AllocID == alloc.ID {
			return h
		}
	}
	return site.Holding{}
}
