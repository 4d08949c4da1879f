package main

import (
	"fmt"
	"syscall"

	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
)

// startError says what an error of chdir(2) or execve(2) means for a command and a directory that exist.
func startError(spec jail.Spec, err error) error {
	switch err {
	case syscall.ENOENT:
		return fmt.Errorf("command %s cannot run: its interpreter or dynamic linker is not in the image", spec.Command)
	case syscall.ENOEXEC:
		return fmt.Errorf("command %s is no program for this host: neither a binary for it nor a #! script", spec.Command)
	case syscall.EACCES:
		return fmt.Errorf("command %s or working directory %s is not accessible to user %s", spec.Command, spec.Dir, spec.User)
	case syscall.E2BIG:
		return fmt.Errorf("command %s has more arguments and environment than the host takes", spec.Command)
	}
	return fmt.Errorf("command %s cannot be started: %w", spec.Command, err)
}
