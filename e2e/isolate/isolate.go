// Package isolate runs a program on a host of its own, as far as the machine can make one, so that what the program starts, mounts or
// configures neither meets what others do on the machine nor outlives it. On Linux that is a set of namespaces; FreeBSD has none, there it is
// an ordinary child process with a temporary folder of its own.
package isolate

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

// Network is what the host of one's own is connected to. FreeBSD knows only Shared.
type Network int

const (
	Shared Network = iota // it is the machine's
	Apart                 // its own, with one other host, made for it
	Beside                // its own, with the machine as the other host
)

// ownAddress is that of a host with a network of its own. The other host's is 198.51.100.2.
const ownAddress = "198.51.100.1"

// Address is this host's, "" where its network is the machine's.
func Address() string {
	if Interface() == "" {
		return ""
	}
	return ownAddress
}

// Options say what is separate from the machine.
type Options struct {
	Network Network
	Before  func()       // called on the machine, before the program starts
	After   func() error // called on the machine, after all of it has gone
}

// stage tells a program which of its processes it is.
const stage = "NOMAD_DRIVER_JAIL_E2E_STAGE"

// Enter returns in a new process that runs on a host of its own. The calling process waits for it, cleans up and exits as it did, so code
// after Enter runs inside only. Call it first thing in main or TestMain.
func Enter(opt Options) {
	switch os.Getenv(stage) {
	case "":
		os.Exit(outer(opt))
	case "init":
		os.Exit(initialise(opt))
	}
	os.Unsetenv(stage)
}

func outer(opt Options) int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "must run as root: it makes jails, mounts and network interfaces")
		return 1
	}
	if opt.Before != nil {
		opt.Before()
	}
	code, err := run(opt)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return max(code, 1)
	}
	return code
}

func run(opt Options) (code int, err error) {
	tmp, err := os.MkdirTemp("", "njd-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	if opt.After != nil {
		// Before the folder goes: on FreeBSD a killed program leaves mounts in it.
		defer func() { err = errors.Join(err, opt.After()) }()
	}
	// A short name: Nomad has sockets far below it, whose paths have at most 108 bytes.
	// Jails run as users who must reach what lies below.
	if err := os.Chmod(tmp, 0o755); err != nil {
		return 1, err
	}
	undo, cmd, err := command(opt, filepath.Base(tmp))
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, undo()) }()
	cmd.Env = append(cmd.Env, "TMPDIR="+tmp)
	return wait(cmd, func(pid int) error { return connect(opt.Network, pid) })
}

// self is this program again, as the process that the next stage is.
func self(next string) *exec.Cmd {
	cmd := exec.Command(executable(), os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, stage+"=") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, stage+"="+next)
	return cmd
}

// wait starts cmd, calls started with its process ID, and forwards to it the signals that ask to end.
func wait(cmd *exec.Cmd, started func(pid int) error) (int, error) {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	if err := cmd.Start(); err != nil {
		return 1, fmt.Errorf("cannot start %s on a host of its own: %w", cmd.Path, err)
	}
	go func() {
		for s := range signals {
			cmd.Process.Signal(s)
		}
	}()
	if err := started(cmd.Process.Pid); err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return 1, err
	}
	cmd.Wait()
	signal.Stop(signals)
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}
