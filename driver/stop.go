package driver

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
	"golang.org/x/sys/unix"

	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
)

// WaitTask implements drivers.DriverPlugin. Any number of callers may wait for one task.
func (d *Driver) WaitTask(ctx context.Context, taskID string) (<-chan *drivers.ExitResult, error) {
	t, err := d.task(taskID)
	if err != nil {
		return nil, err
	}
	ch := make(chan *drivers.ExitResult, 1)
	t.wait(1)
	go func() {
		defer close(ch)
		defer t.wait(-1)
		select {
		case <-t.ended:
			ch <- t.exit()
		case <-ctx.Done():
		case <-d.ctx.Done():
		}
	}()
	return ch, nil
}

// StopTask implements drivers.DriverPlugin: the signal goes to the first process, and after timeout SIGKILL to the whole
// jail. No signal means SIGTERM.
func (d *Driver) StopTask(taskID string, timeout time.Duration, signal string) error {
	t, err := d.task(taskID)
	if err != nil {
		return err
	}
	if !t.running() {
		return nil
	}
	sig, err := signalNumber(signal)
	if err != nil {
		return err
	}
	if err := jail.Signal(t.dir, sig); err != nil {
		d.logger.Warn("signal not delivered", "task", t.name, "signal", sig, "error", err)
	}
	select {
	case <-t.ended:
		return nil
	case <-time.After(timeout):
	case <-d.ctx.Done():
		return d.ctx.Err()
	}
	return d.kill(t)
}

// killPatience is how long the kernel may take to end processes that got SIGKILL.
const killPatience = 30 * time.Second

func (d *Driver) kill(t *task) error {
	if err := jail.Kill(t.dir); err != nil {
		return fmt.Errorf("jail %s: %w", t.name, err)
	}
	select {
	case <-t.ended:
		return nil
	case <-time.After(killPatience):
		return fmt.Errorf("jail %s still has processes %s after SIGKILL; the kernel holds them, see ps(1) for what they wait on",
			t.name, killPatience)
	case <-d.ctx.Done():
		return d.ctx.Err()
	}
}

func signalNumber(name string) (syscall.Signal, error) {
	if name == "" {
		return syscall.SIGTERM, nil
	}
	if n := unix.SignalNum(name); n != 0 {
		return n, nil
	}
	return 0, fmt.Errorf("unknown signal %q; kill -l lists them, here with SIG in front", name)
}

// SignalTask implements drivers.DriverPlugin.
func (d *Driver) SignalTask(taskID, signal string) error {
	t, err := d.task(taskID)
	if err != nil {
		return err
	}
	sig, err := signalNumber(signal)
	if err != nil {
		return err
	}
	return jail.Signal(t.dir, sig)
}

// DestroyTask implements drivers.DriverPlugin. Without force a running task is refused.
func (d *Driver) DestroyTask(taskID string, force bool) error {
	t, err := d.task(taskID)
	if err != nil {
		return err
	}
	if t.running() {
		if !force {
			return fmt.Errorf("task %s is running; stop it first", taskID)
		}
		if err := d.kill(t); err != nil {
			return err
		}
	}
	_ = d.removeOrLater(t.cfg, t.name, removeSteps, removePatience)
	d.mu.Lock()
	delete(d.tasks, taskID)
	d.mu.Unlock()
	return nil
}

// removePatience is how long one removal tries. A dataset may be busy for ever: somebody sits in it, or a snapshot of it is held.
// After a reboot Nomad asks for one task after the other, so there it is recoverPatience.
const (
	removePatience  = 10 * time.Second
	recoverPatience = 3 * time.Second
)

// remove ends a removal that it began, also when the plugin is to end.
func (d *Driver) remove(name string, steps []removeStep, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(d.ctx), patience)
	defer cancel()
	return d.host.remove(ctx, name, steps)
}

// removeOrLater is for a call that Nomad waits for: what cannot be removed now holds up nobody, and goes on in the background.
func (d *Driver) removeOrLater(cfg *drivers.TaskConfig, name string, steps []removeStep, patience time.Duration) error {
	err := d.remove(name, steps, patience)
	if err != nil {
		d.logger.Warn("removal not complete; trying again in the background", "task", name, "error", err)
		d.emit(cfg, "Cleaning up is taking longer", map[string]string{"reason": err.Error()})
		go d.removeLater(cfg, name, steps)
	}
	return err
}

// removeLater tries until what bears name is gone, ever more slowly, for as long as the plugin lives; the next plugin
// finds by the name what is then left.
func (d *Driver) removeLater(cfg *drivers.TaskConfig, name string, steps []removeStep) {
	for pause := time.Second; ; pause = min(2*pause, 5*time.Minute) {
		select {
		case <-time.After(pause):
		case <-d.ctx.Done():
			return
		}
		err := d.remove(name, steps, removePatience)
		if err == nil {
			d.emit(cfg, "Cleaned up", nil)
			return
		}
		d.logger.Warn("removal not complete", "task", name, "error", err, "next_try", pause)
	}
}

// InspectTask implements drivers.DriverPlugin.
func (d *Driver) InspectTask(taskID string) (*drivers.TaskStatus, error) {
	t, err := d.task(taskID)
	if err != nil {
		return nil, err
	}
	return t.inspect(), nil
}
