package driver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/armon/circbuf"
	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-jail/nomad-driver-jail/jail/launch"
)

// ExecTask implements drivers.DriverPlugin; Nomad's script checks and change scripts come this way. Of each output it keeps the end,
// as Nomad's own drivers do: what a job's script prints does not fill the host's memory.
func (d *Driver) ExecTask(taskID string, cmd []string, timeout time.Duration) (*drivers.ExecTaskResult, error) {
	ctx, cancel := context.WithTimeout(d.ctx, timeout)
	defer cancel()
	stdout, _ := circbuf.NewBuffer(drivers.CheckBufSize) // it refuses sizes below 1 only
	stderr, _ := circbuf.NewBuffer(drivers.CheckBufSize)
	code, err := d.exec(ctx, taskID, launch.ExecOptions{Args: cmd, Stdout: stdout, Stderr: stderr})
	if ctx.Err() == context.DeadlineExceeded {
		return nil, fmt.Errorf("%q did not end within %s", cmd, timeout)
	}
	if err != nil {
		return nil, err
	}
	return &drivers.ExecTaskResult{
		Stdout:     stdout.Bytes(),
		Stderr:     stderr.Bytes(),
		ExitResult: &drivers.ExitResult{ExitCode: code},
	}, nil
}

// ExecTaskStreaming implements drivers.ExecTaskStreamingDriver: nomad alloc exec, with a terminal or without.
func (d *Driver) ExecTaskStreaming(ctx context.Context, taskID string, o *drivers.ExecOptions) (*drivers.ExitResult, error) {
	opt := launch.ExecOptions{Args: o.Command, Tty: o.Tty, Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr}
	if o.Tty {
		opt.Resize = sizes(ctx, o.ResizeCh)
	}
	code, err := d.exec(ctx, taskID, opt)
	if err != nil {
		return nil, err
	}
	return &drivers.ExitResult{ExitCode: code}, nil
}

func (d *Driver) exec(ctx context.Context, taskID string, opt launch.ExecOptions) (int, error) {
	if len(opt.Args) == 0 {
		return 0, errors.New("no command to execute")
	}
	t, err := d.task(taskID)
	if err != nil {
		return 0, err
	}
	if !t.running() {
		return 0, fmt.Errorf("task %s is not running", taskID)
	}
	shim, err := d.host.installShim()
	if err != nil {
		return 0, err
	}
	return launch.Exec(ctx, shim, t.dir, opt)
}

// sizes passes terminal sizes on, as rows and columns, until either side ends.
func sizes(ctx context.Context, in <-chan drivers.TerminalSize) <-chan [2]uint16 {
	out := make(chan [2]uint16)
	go func() {
		defer close(out)
		for {
			select {
			case s, ok := <-in:
				if !ok {
					return
				}
				select {
				case out <- [2]uint16{uint16(s.Height), uint16(s.Width)}:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}
