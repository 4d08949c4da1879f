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

// Shim is a task's shim that waits to be told to start the task.
type Shim struct {
	dir    string
	cmd    *exec.Cmd
	report *os.File
	order  *os.File // a byte has the shim start the task; its closing without one, by the death of this process too, has it end
}

// Start prepares a shim and has it start the task.
func Start(ctx context.Context, shim, dir string, spec jail.Spec) (jail.Status, error) {
	s, err := Prepare(shim, dir, spec.Name)
	if err != nil {
		return jail.Status{}, err
	}
	return s.Start(ctx, spec)
}

// Prepare starts the shim of the task with that name, whose cell may yet have to be made; see BeforeMounts. The shim gets ready while the caller does what else there is
// to do for the task. dir is the task's state folder, made here; a task is started once. On error nothing is left.
func Prepare(shim, dir, name string) (*Shim, error) {
	if err := makeState(dir); err != nil {
		return nil, err
	}
	s := &Shim{dir: dir}
	if err := s.run(shim, name); err != nil {
		return nil, errors.Join(err, dropState(dir))
	}
	return s, nil
}

// Start runs the first process of the task in its cell, which Create has made, and returns when it has exec'd. An error is one sentence,
// and then nothing of the start is left, the cell apart. The process goes on without the caller; a caller that lives reaps the shim.
func (s *Shim) Start(ctx context.Context, spec jail.Spec) (jail.Status, error) {
	if err := jail.WriteSpec(s.dir, spec); err != nil {
		return jail.Status{}, errors.Join(err, s.Close())
	}
	_, _ = s.order.Write([]byte{1}) // a shim that is gone has reported why
	if err := awaitReport(ctx, s.report); err != nil {
		return jail.Status{}, errors.Join(err, s.Close())
	}
	s.order.Close()
	go reap(s.cmd, s.report)
	return jail.ReadStatus(s.dir)
}

// Close ends a shim that has not started its task, with what Prepare made.
func (s *Shim) Close() error {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	return errors.Join(s.order.Close(), s.report.Close(), dropState(s.dir))
}

// makeState puts into dir what the shim needs there from its start on.
func makeState(dir string) error {
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

// run starts the shim's process.
func (s *Shim) run(shim, name string) error {
	alive, err := os.OpenFile(filepath.Join(s.dir, jail.AliveFile), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer alive.Close()
	report, reportEnd, err := os.Pipe()
	if err != nil {
		return err
	}
	defer reportEnd.Close()
	orderEnd, order, err := os.Pipe()
	if err != nil {
		return errors.Join(err, report.Close())
	}
	defer orderEnd.Close()
	s.cmd = &exec.Cmd{
		Path:        shim,
		Args:        []string{"jail-shim", name}, // seen in the cell, so no path of the host
		Env:         []string{"GOMAXPROCS=1", "PWD=" + s.dir},
		Dir:         s.dir,
		Stderr:      reportEnd,
		ExtraFiles:  []*os.File{alive, orderEnd},
		SysProcAttr: shimAttr(),
	}
	if err := s.cmd.Start(); err != nil {
		return errors.Join(startError(shim, err), report.Close(), order.Close())
	}
	s.report, s.order = report, order
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
