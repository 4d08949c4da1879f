package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	gozfs "github.com/mistifyio/go-zfs/v4"
)

// This file runs the zfs command itself for what go-zfs has no call for (several properties at once, user properties in lists), for what go-zfs
// lists after changing it: that doubles what a task's start or a pull waits for, and for the wording of errors.

// commandError is a zfs command that failed.
type commandError struct {
	command string
	said    string // on its standard error
	err     error
}

func (e *commandError) Error() string {
	if e.said == "" {
		return e.command + ": " + e.err.Error()
	}
	text := e.command + ": " + e.said
	if isFull(e) {
		text += "; the pool or a quota is full: remove what is not needed (nomad-driver-jail image gc does), or give it more room"
	}
	return text
}

func (e *commandError) Unwrap() error { return e.err }

// newCommandError leaves out the list of all options that follows some errors, and most of a long command.
func newCommandError(command, stderr string, err error) error {
	stderr, _, _ = strings.Cut(stderr, "\nusage:")
	if len(command) > 300 {
		command = command[:200] + " … " + command[len(command)-80:]
	}
	said := strings.Join(strings.Fields(stderr), " ") // it breaks long lines
	return &commandError{command, said, err}
}

// plain words an error of go-zfs as those of this file are.
func plain(err error) error {
	var e *gozfs.Error
	if errors.As(err, &e) {
		return newCommandError(e.Debug, e.Stderr, e.Err)
	}
	return err
}

// zfs runs a command and returns the fields of the lines that it prints.
func zfs(args ...string) ([][]string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.Command("zfs", args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, newCommandError(strings.Join(cmd.Args, " "), stderr.String(), err)
	}
	var lines [][]string
	for line := range strings.Lines(stdout.String()) {
		lines = append(lines, strings.Split(strings.TrimSuffix(line, "\n"), "\t"))
	}
	return lines, nil
}

func set(d Dataset, assignments []string) error {
	if len(assignments) == 0 {
		return nil
	}
	_, err := zfs(append(append([]string{"set"}, assignments...), string(d))...)
	return err
}

func mount(d Dataset) error {
	_, err := zfs("mount", string(d))
	if says(err, "already mounted") {
		return nil
	}
	return err
}

// busyTime is how long the dataset of an image may be busy before it is left for later: who removes one holds a lock that others wait for.
const busyTime = 2 * time.Second

// destroy removes a dataset with its snapshots, if there is one.
func destroy(ctx context.Context, d Dataset) error {
	ctx, cancel := context.WithTimeout(ctx, busyTime)
	defer cancel()
	err := retry(ctx, func() error { return destroyOnce(d, gozfs.DestroyRecursive) })
	if isBusy(err) {
		return fmt.Errorf("dataset %s: %w", d, ErrBusy)
	}
	return err
}

func destroyOnce(d Dataset, how gozfs.DestroyFlag) error {
	err := plain((&gozfs.Dataset{Name: string(d)}).Destroy(how))
	if isMissing(err) {
		return nil
	}
	return err
}

// says tells whether a command failed with these words; zfs has no other way to say why.
func says(err error, words string) bool {
	var e *commandError
	return errors.As(err, &e) && strings.Contains(e.said, words)
}

func isMissing(err error) bool { return says(err, "does not exist") }
func isExists(err error) bool  { return says(err, "already exists") }
func isFull(err error) bool {
	return says(err, "out of space") || says(err, "quota exceeded") || says(err, "No space left on device")
}
func isCloned(err error) bool { return says(err, "dependent clones") }
