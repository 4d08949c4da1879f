package launch

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

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

// awaitShim returns when no process has the read end of the FIFO.
func awaitShim(ctx context.Context, dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, jail.AliveFile), os.O_WRONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ENXIO) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { _ = f.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	err = raw.Write(hungUp) // asked again whenever the poller has news of the FIFO
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// hungUp tells whether the last reader of a FIFO has gone, by what Linux and FreeBSD call that.
func hungUp(fd uintptr) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	_, _ = unix.Poll(p, 0)
	return p[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0
}

func lost(status jail.Status) string {
	if boot, err := jail.BootID(); err == nil && boot != status.BootID {
		return "the host was restarted while the task ran"
	}
	return "the task's shim died without writing down how the task ended"
}
