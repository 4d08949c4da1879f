package driver

import (
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
)

// TestBusyRoots has snapshots held, as tools do that replicate datasets, and processes of the host sit in tasks' roots: nobody waits for a
// task's removal longer than a while, and it is done when it can be.
func TestBusyRoots(t *testing.T) {
	config := poolConfig(t)
	config.CleanupDelay = "300ms"
	h, d := harnessWith(t, config)
	restarted, interrupted, failed := newTaskConfig(t, h, "true"), newTaskConfig(t, h, "true"), newTaskConfig(t, h, "true")
	releaseLogs(restarted) // nobody will write

	handle := leave(t, d, restarted, time.Now())
	snapshot := config.Dataset + "/tasks/" + Name(restarted.ID) + "@backup"
	zfs(t, "snapshot", snapshot)
	zfs(t, "hold", "backup", snapshot)

	var sitting []*exec.Cmd
	sit := func(name string) {
		sleep := exec.Command("/bin/sleep", "3600")
		sleep.Dir = d.host.Storage.TaskRoot(name)
		if err := sleep.Start(); err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { sleep.Process.Kill() })
		sitting = append(sitting, sleep)
	}
	leave(t, d, interrupted, time.Now())
	sit(Name(interrupted.ID))

	// Of what nobody owns, the sweep meets first what is busy.
	orphans := []*drivers.TaskConfig{{ID: "orphan/1"}, {ID: "orphan/2"}}
	slices.SortFunc(orphans, func(a, b *drivers.TaskConfig) int { return strings.Compare(Name(a.ID), Name(b.ID)) })
	for _, cfg := range orphans {
		leave(t, d, cfg, d.started.Add(-time.Hour))
	}
	sit(Name(orphans[0].ID))

	steps := startSteps
	t.Cleanup(func() { startSteps = steps })
	startSteps = append(slices.Clone(steps[:3]), startStep{"fail", func(s *start, _ context.Context) error {
		sit(s.name)
		return errors.New("it was to fail")
	}})

	calls := map[string]func() error{
		"never ran, or not since the host's restart": func() error { return h.RecoverTask(handle) },
		"what an interrupted start left":             func() error { _, _, err := h.StartTask(interrupted); return err },
		"it was to fail":                             func() error { _, _, err := h.StartTask(failed); return err },
	}
	type answer struct {
		want string
		err  error
	}
	answers := make(chan answer, len(calls))
	for want, call := range calls {
		go func() { answers <- answer{want, call()} }()
	}
	client, leaveIt := context.WithCancel(t.Context())
	defer leaveIt()
	if _, err := d.Fingerprint(client); err != nil {
		t.Fatal(err)
	}
	late := time.After(4 * removePatience)
	for range len(calls) {
		select {
		case a := <-answers:
			if a.err == nil || !strings.Contains(a.err.Error(), a.want) {
				t.Errorf("got %v, want %s", a.err, a.want)
			}
			delete(calls, a.want)
		case <-late:
			t.Fatalf("no answer yet: %v", slices.Collect(maps.Keys(calls)))
		}
	}
	waitGone(t, d, orphans[1])
	for _, cfg := range []*drivers.TaskConfig{restarted, interrupted, failed, orphans[0]} {
		if _, err := os.Stat(d.host.taskDir(Name(cfg.ID))); err != nil {
			t.Error(err)
		}
	}
	zfs(t, "release", "backup", snapshot)
	for _, sleep := range sitting {
		sleep.Process.Kill()
		sleep.Wait()
	}
	waitGone(t, d, restarted, interrupted, failed, orphans[0])
}

// leave makes what a restart of the host leaves of a task that ran.
func leave(t *testing.T, d *Driver, cfg *drivers.TaskConfig, created time.Time) *drivers.TaskHandle {
	t.Helper()
	name := Name(cfg.ID)
	dir := d.host.taskDir(name)
	images, err := d.host.Storage.Images(t.Context())
	if err != nil || len(images) != 1 {
		t.Fatal(images, err)
	}
	root, err := d.host.Storage.Clone(t.Context(), images[0].ID, name, storage.CloneOptions{TaskID: cfg.ID})
	if err != nil {
		t.Fatal(err)
	}
	state := State{Version: stateVersion, Driver: d.name, TaskID: cfg.ID, AllocID: cfg.AllocID, Task: cfg.Name, Root: root, Created: created}
	status := released.status
	status.Ended, status.ExitCode = time.Time{}, 0
	if err := errors.Join(
		writeState(dir, state),
		os.WriteFile(filepath.Join(dir, jail.StatusFile), encoded(t, status), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	handle, err := newTask(cfg, name, dir, state, status, created).handle()
	if err != nil {
		t.Fatal(err)
	}
	return handle
}

// waitGone waits until nothing on the host bears the tasks' names.
func waitGone(t *testing.T, d *Driver, tasks ...*drivers.TaskConfig) {
	t.Helper()
	for end := time.Now().Add(6 * removePatience); ; time.Sleep(200 * time.Millisecond) {
		holdings, err := d.host.Holdings(t.Context())
		if err != nil {
			t.Error(err)
		}
		holdings = slices.DeleteFunc(holdings, func(x Holding) bool {
			return !slices.ContainsFunc(tasks, func(cfg *drivers.TaskConfig) bool { return Name(cfg.ID) == x.Name })
		})
		if len(holdings) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("left: %+v", holdings)
		}
	}
}

func zfs(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("zfs", args...).CombinedOutput(); err != nil {
		t.Fatalf("zfs %s: %v: %s", strings.Join(args, " "), err, out)
	}
}
