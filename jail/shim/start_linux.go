package main

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
)

// network is the namespace that the cell's processes join; -1 is the host's.
type network int

func openNetwork(spec jail.Spec) (network, error) {
	path := jail.NetNSPath(spec)
	if path == "" {
		return -1, nil
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("network namespace %s: %w", path, err)
	}
	return network(fd), nil
}

func join(n network) error {
	if n < 0 {
		return nil
	}
	if err := unix.Setns(int(n), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("join the network namespace: %w", err)
	}
	return nil
}

func (n network) close() { _ = unix.Close(int(n)) }

// start starts spec's command from the calling thread, which must end afterwards: it is in the task's cgroups and has its limits.
func start(spec jail.Spec, groups cgroups, files [3]int, terminal bool) (pid, pidfd int, err error) {
	// A keyring of its own; a kernel without keyrings has none to share.
	if _, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0); err != nil && err != unix.ENOSYS {
		return 0, -1, fmt.Errorf("keyring: %w", err)
	}
	if err := limitCapabilities(spec.Params.Capabilities()); err != nil {
		return 0, -1, err
	}
	if err := groups.enter(); err != nil {
		return 0, -1, err
	}
	pidfd = -1
	pid, err = syscall.ForkExec(spec.Command, append([]string{spec.Command}, spec.Args...), &syscall.ProcAttr{
		Dir:   spec.Dir,
		Env:   spec.Env,
		Files: []uintptr{uintptr(files[0]), uintptr(files[1]), uintptr(files[2])},
		Sys: &syscall.SysProcAttr{
			Credential:  &syscall.Credential{Uid: spec.UID, Gid: spec.GID, Groups: spec.Groups},
			Setsid:      true,
			Setctty:     terminal,
			UseCgroupFD: groups.v2 >= 0,
			CgroupFD:    groups.v2,
			PidFD:       &pidfd,
		},
	})
	if err != nil {
		return 0, -1, startError(spec, err)
	}
	return pid, pidfd, nil
}

// limitCapabilities cuts what a process of root has to caps once it has exec'd; what this thread may do now stays.
func limitCapabilities(caps []int) error {
	keep := map[int]bool{}
	for _, c := range caps {
		keep[c] = true
	}
	for c := 0; ; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0); err == unix.EINVAL {
			break // beyond the kernel's last
		}
		if keep[c] {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("ambient capabilities: %w", err)
	}
	return clearInheritable()
}

// clearInheritable: the inheritable set is not bound by the bounding set.
func clearInheritable() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("capget: %w", err)
	}
	data[0].Inheritable, data[1].Inheritable = 0, 0
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("capset: %w", err)
	}
	return nil
}
