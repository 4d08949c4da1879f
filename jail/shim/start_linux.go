package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
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

// cgroups are where a process of the task is born. In version 1 a thread goes ahead and its child is born where it is; in version 2
// that would need threaded cgroups, and clone3(2) does it.
type cgroups struct {
	tasks []int // files of version 1 that move the thread which writes to them
	v2    int   // directory, or -1
}

func openCgroups(dirs []string) (cgroups, error) {
	g := cgroups{v2: -1}
	for _, dir := range dirs {
		fd, err := unix.Open(filepath.Join(dir, "tasks"), unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			g.tasks = append(g.tasks, fd)
			continue
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return g, fmt.Errorf("cgroup %s: %w", dir, err)
		}
		if g.v2, err = unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			return g, fmt.Errorf("cgroup %s: %w", dir, err)
		}
	}
	return g, nil
}

func (g cgroups) close() {
	for _, fd := range append(g.tasks, g.v2) {
		_ = unix.Close(fd)
	}
}

// enter puts the calling thread, not the process, where the task's processes belong.
func (g cgroups) enter() error {
	for _, fd := range g.tasks {
		if _, err := unix.Write(fd, []byte("0")); err != nil {
			return fmt.Errorf("enter the task's cgroup: %w", err)
		}
	}
	return nil
}

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
