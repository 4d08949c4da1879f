package driver

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
)

// RecoverTask implements drivers.DriverPlugin: the task is found by its name, whatever plugin version started it. A task
// that ended meanwhile is recovered too, with its true exit code; one whose host has rebooted is not, and what is left of
// it is removed. A task needs nothing of what Prepare makes but to be started: a host that takes no other keeps those that it has.
func (d *Driver) RecoverTask(handle *drivers.TaskHandle) error {
	if handle == nil || handle.Config == nil {
		return errors.New("task handle is empty")
	}
	cfg := handle.Config
	if t, err := d.task(cfg.ID); err == nil {
		t.claim(time.Now())
		return nil
	}
	if handle.Version > handleVersion {
		return fmt.Errorf("task handle of %s has version %d, newer than this plugin's %d; install the plugin that wrote it",
			cfg.ID, handle.Version, handleVersion)
	}
	name := Name(cfg.ID)
	dir := d.host.taskDir(name)
	state, err := readState(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return drivers.ErrTaskNotFound
	}
	if err != nil {
		return err
	}
	alive := jail.Alive(dir) // asked first: what a shim that is gone wrote is its last word
	status, err := jail.ReadStatus(dir)
	neverRan := errors.Is(err, fs.ErrNotExist)
	if !alive && (neverRan || err == nil && fromEarlierBoot(status)) {
		_ = d.removeOrLater(cfg, name, removeSteps, recoverPatience)
		return fmt.Errorf("task %s never ran, or not since the host's restart: %w", cfg.ID, drivers.ErrTaskNotFound)
	}
	if err != nil { // recovered all the same: Nomad would start another beside it
		d.logger.Warn("how the task runs cannot be read", "task", name, "task_id", cfg.ID, "error", err)
	}
	t := newTask(cfg, name, dir, state, status, time.Now())
	d.adopt(t)
	if status.Ended.IsZero() {
		d.host.Health.Register(instance(name, state, status))
	}
	d.logger.Info("recovered", "task", name, "task_id", cfg.ID, "pid", status.PID)
	return nil
}

// fromEarlierBoot says of a task whose shim is gone that the host has restarted under it. Of one that runs it says nothing: FreeBSD's
// boot ID changes with the clock.
func fromEarlierBoot(s jail.Status) bool {
	boot, err := jail.BootID()
	return err == nil && s.Ended.IsZero() && s.BootID != boot
}
