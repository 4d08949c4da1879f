package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

const (
	lockFile = "/run/zfs/dialect.lock"
	limit    = 60 * time.Second      // for one command that changes something
	patience = 3 * time.Second       // with a dataset that is busy
	pause    = 25 * time.Millisecond // between two attempts
)

// failure is a real command that failed.
type failure struct {
	status int
	stderr string
}

func (f *failure) Error() string { return strings.TrimSpace(f.stderr) }

// output runs the real command and returns its lines.
func output(args ...string) ([]string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(real, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := run(cmd, 0); err != nil {
		return nil, failed(cmd, err, stderr.String())
	}
	text := strings.TrimSuffix(stdout.String(), "\n")
	if text == "" {
		return nil, nil
	}
	return strings.Split(text, "\n"), nil
}

// change runs a real command that changes a pool. Many of those at once hang the daemon, so there is one at a time, and none for ever.
func change(args ...string) error {
	unlock, err := lock()
	if err != nil {
		return err
	}
	defer unlock()
	return locked(args...)
}

// locked is change for a caller that has the lock.
func locked(args ...string) error {
	var stderr bytes.Buffer
	cmd := exec.Command(real, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, &stderr
	if err := run(cmd, limit); err != nil {
		return failed(cmd, err, stderr.String())
	}
	return nil
}

// patient is locked for commands that zfs-fuse refuses as long as it has not noticed an unmount.
func patient(args ...string) error {
	for end := time.Now().Add(patience); ; time.Sleep(pause) {
		err := locked(args...)
		if err == nil || time.Now().After(end) {
			return err
		}
		// Of a file system that somebody is in, it is the target that is busy.
		if text := err.Error(); !strings.Contains(text, "dataset is busy") && !strings.Contains(text, "pool is busy") {
			return err
		}
	}
}

// run runs cmd so that it does not outlive this process; a limit of 0 is none.
func run(cmd *exec.Cmd, limit time.Duration) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	if limit > 0 {
		timer := time.AfterFunc(limit, func() { cmd.Process.Kill() })
		defer func() {
			if !timer.Stop() {
				fmt.Fprintf(os.Stderr, "%s: zfs-fuse gave no answer in %s\n", strings.Join(cmd.Args, " "), limit)
			}
		}()
	}
	return cmd.Wait()
}

func failed(cmd *exec.Cmd, err error, stderr string) error {
	if cmd.ProcessState == nil {
		return err
	}
	return &failure{max(cmd.ProcessState.ExitCode(), 1), stderr}
}

func lock() (unlock func(), err error) {
	f, err := os.OpenFile(lockFile, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("zfs-fuse is not running: %w", err)
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if err != syscall.EINTR {
			return func() { f.Close() }, err
		}
	}
}
