package e2e

import (
	"os/exec"
	"slices"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"
)

// TestBusyRoot has a process of the host sit in a task's root while the task is destroyed: other tasks do not wait for
// that, the task's events tell it, and when the process is gone so is all that the task had.
func TestBusyRoot(t *testing.T) {
	config := map[string]any{"image": "REGISTRY/web:1.0", "command": "/bin/sleep", "args": []string{"3600"}}
	job := oneOff(t, newTask("busy", "jail", config))
	alloc := running(t, job)
	sitting := exec.Command("/bin/sleep", "3600")
	sitting.Dir = held(t, alloc).State.Root
	if err := sitting.Start(); err != nil {
		t.Fatal(err)
	}
	defer sitting.Process.Kill()
	if _, _, err := here.Cluster.Nomad.Jobs().Deregister(job.ID, false, nil); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	running(t, runExample(t, "exec"))
	t.Logf("another task ran after %v", time.Since(began))
	waitEvent(t, alloc, "busy", "Cleaning up is taking longer")
	if err := sitting.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	sitting.Wait()
	waitUntil(t, "the task's root is no longer held", func() (bool, error) { return held(t, alloc).State.Root == "", nil })
}

func waitEvent(t *testing.T, alloc *nomad.Allocation, task, message string) {
	t.Helper()
	ctx := timely(t)
	for {
		info, _, err := here.Cluster.Nomad.Allocations().Info(alloc.ID, nil)
		if err != nil {
			t.Fatal(err)
		}
		events := info.TaskStates[task].Events
		if slices.ContainsFunc(events, func(e *nomad.TaskEvent) bool { return e.DisplayMessage == message }) {
			return
		}
		select {
		case <-ctx.Done():
			for _, e := range events {
				t.Logf("%s: %s", e.Type, e.DisplayMessage)
			}
			t.Fatalf("there is no event %q", message)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
