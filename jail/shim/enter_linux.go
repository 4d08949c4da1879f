package main

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
)

// spawnInside moves the calling thread into the cell and starts the command from there. The command gets no parent-death signal:
// Go's way compares parents' pids, and the one inside the PID namespace has none.
func spawnInside(spec jail.Spec, terminal bool) (int, error) {
	if err := shield(); err != nil {
		return 0, err
	}
	shim, err := jail.OpenShim(spec.Name)
	if err != nil {
		return 0, err
	}
	if shim < 0 {
		return 0, jail.ErrEnded
	}
	ns, err := openNetwork(spec)
	if err != nil {
		return 0, err
	}
	groups, err := openCgroups(spec.Cgroups, hostCgroups{})
	if err != nil {
		return 0, err
	}
	if err := join(ns); err != nil {
		return 0, err
	}
	// A thread has to have a root and working directory of its own to change its mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return 0, fmt.Errorf("unshare: %w", err)
	}
	const all = unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNS
	if err := unix.Setns(shim, all); err != nil {
		return 0, fmt.Errorf("enter jail %s: %w", spec.Name, err)
	}
	pid, pidfd, err := start(spec, groups, [3]int{0, 1, 2}, terminal)
	if err != nil {
		return 0, err
	}
	return pid, unix.Close(pidfd)
}

// drainTerminal: what was written before the terminal's session ended is still read.
func drainTerminal() {}
