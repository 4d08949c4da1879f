package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
)

// Wait returns how the task of the state folder ended, when it has. It serves any number of callers in any process, each for the
// price of an open file. When the shim died without writing the end down, Status.Error says so and Ended is zero.
func Wait(ctx context.Context, dir string) (jail.Status, error) {
	if err := awaitShim(ctx, dir); err != nil {
		return jail.Status{}, err
	}
	status, err := jail.ReadStatus(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return jail.Status{Error: "the task never started"}, nil
	}
	if err != nil {
		return jail.Status{}, err
	}
	if status.Ended.IsZero() {
		status.Error = lost(status)
	}
	return status, nil
}

// awaitShim returns when no process has the write end of the FIFO.
func awaitShim(ctx context.Context, dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, jail.AliveFile), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	_, err = f.Read(make([]byte, 1))
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err == io.EOF:
		return nil
	}
	return fmt.Errorf("%s: %w", f.Name(), err)
}

func lost(status jail.Status) string {
	if boot, err := jail.BootID(); err == nil && boot != status.BootID {
		return "the host was restarted while the task ran"
	}
	return "the task's shim died without writing down how the task ended"
}
