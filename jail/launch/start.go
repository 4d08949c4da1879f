package launch

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
)

// Start runs the first process of the task in its cell, which Create has made, and returns when it has exec'd. dir is the task's
// state folder, made here; a task is started once. An error is one sentence, and then nothing of the start is left, the cell apart.
// The process goes on without the caller; a caller that lives reaps the shim.
func Start(ctx context.Context, shim, dir string, spec jail.Spec) (jail.Status, error) {
	if err := makeState(dir, spec); err != nil {
		return jail.Status{}, err
	}
	if err := startShim(ctx, shim, dir, spec.Name); err != nil {
		return jail.Status{}, errors.Join(err, dropState(dir))
	}
	return jail.ReadStatus(dir)
}

// makeState puts into dir what the shim needs there.
func makeState(dir string, spec jail.Spec) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	alive := filepath.Join(dir, jail.AliveFile)
	if err := unix.Mkfifo(alive, 0o600); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%s: the task was started before", dir)
		}
		return errors.Join(fmt.Errorf("%s: %w", alive, err), dropState(dir))
	}
	if err := jail.WriteSpec(dir, spec); err != nil {
		return errors.Join(err, dropState(dir))
	}
	return nil
}

// dropState takes away what makeState and a shim that failed have made, and the folder if nothing else is in it.
func dropState(dir string) error {
	for _, name := range []string{jail.SpecFile, jail.StatusFile, jail.SpareFile, jail.AliveFile} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	_ = os.Remove(dir)
	return nil
}

func startShim(ctx context.Context, shim, dir, name string) error {
	alive, err := os.OpenFile(filepath.Join(dir, jail.AliveFile), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer alive.Close()
	report, reportEnd, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd := &exec.Cmd{
		Path:        shim,
		Args:        []string{"jail-shim", name}, // seen in the cell, so no path of the host
		Env:         []string{"GOMAXPROCS=1", "PWD=" + dir},
		Dir:         dir,
		Stderr:      reportEnd,
		ExtraFiles:  []*os.File{alive},
		SysProcAttr: shimAttr(),
	}
	err = cmd.Start()
	reportEnd.Close()
	if err != nil {
		report.Close()
		return startError(shim, err)
	}
	if err := awaitReport(ctx, report); err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		report.Close()
		return err
	}
	go reap(cmd, report)
	return nil
}

func startError(shim string, err error) error {
	if errors.Is(err, syscall.EACCES) {
		return fmt.Errorf("start the shim: %w; the file system of %s must not be mounted noexec", err, filepath.Dir(shim))
	}
	return fmt.Errorf("start the shim: %w", err)
}

// awaitReport reads "started", or the sentence that says why not.
func awaitReport(ctx context.Context, report *os.File) error {
	stop := context.AfterFunc(ctx, func() { _ = report.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	line, err := bufio.NewReader(report).ReadString('\n')
	line = strings.TrimSpace(line)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case line == "started":
		return nil
	case line != "":
		return errors.New(line)
	}
	return fmt.Errorf("the shim ended without a word: %w", err)
}

// reap waits for the pipe that the shim holds to the last, which takes no thread, and then for the shim.
func reap(cmd *exec.Cmd, report *os.File) {
	_, _ = io.Copy(io.Discard, report)
	report.Close()
	_ = cmd.Wait()
}
