package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
)

const fionread = unix.TIOCINQ

// hostSignals are those that only this host has and that Go's runtime ends a process for.
var hostSignals = []os.Signal{unix.SIGSTKFLT}

// home is the cell as its init sees it: this process is in its PID, mount, UTS and IPC namespaces since it was cloned.
type home struct {
	pid  int // this process, as the host counts
	boot string
	proc int // the host's /proc, until the first process has started
	host hostCgroups
}

func openFolder() (folder, error) {
	fd, err := unix.Open(".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	return folder{fd: fd}, err
}

func closeFrom(fd int) error { return unix.CloseRange(uint(fd), math.MaxUint32, 0) }

// settleIn makes this process the init of the cell, out of reach of what will run in it.
func settleIn(spec jail.Spec) (home, error) {
	h := home{}
	var err error
	if h.boot, err = jail.BootID(); err != nil {
		return h, err
	}
	if h.proc, err = unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return h, fmt.Errorf("open /proc: %w", err)
	}
	self, err := os.Readlink("/proc/self") // as the host counts: that /proc is the host's
	if err != nil {
		return h, err
	}
	if h.pid, err = strconv.Atoi(self); err != nil {
		return h, err
	}
	if err := shield(); err != nil {
		return h, err
	}
	h.host = openHostCgroups()
	if err := jail.Hold(spec.Name); err != nil {
		return h, err
	}
	return h, nil
}

// nobodysUID is a real user id that no process in a cell has.
const nobodysUID = 1<<31 - 7

// shield keeps root in the cell, who is the same user in the same PID namespace, away from this process's memory, descriptors and
// limits: ptrace(2) and /proc refuse what is not dumpable, and prlimit(2) whose real and effective users differ.
func shield() error {
	if err := unix.Setresuid(nobodysUID, -1, -1); err != nil {
		return fmt.Errorf("setresuid: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl: %w", err)
	}
	unix.Umask(0o022)
	return nil
}

// oomCounter is the file in which the kernel counts out-of-memory kills of the task's cgroup, and its count at the start.
type oomCounter struct {
	file  *os.File
	start int
}

func openOOM(spec jail.Spec) (oomCounter, error) {
	if spec.OOM == "" {
		return oomCounter{}, nil
	}
	f, err := os.Open(spec.OOM)
	c := oomCounter{file: f}
	if err == nil {
		c.start = c.count()
	}
	return c, err
}

func (c oomCounter) count() int {
	b := make([]byte, 1024)
	n, _ := c.file.ReadAt(b, 0)
	return parseOOM(b[:n])
}

// parseOOM reads the line "oom_kill 3", which memory.oom_control (cgroup v1) and memory.events (v2) both have.
func parseOOM(b []byte) int {
	for line := range bytes.Lines(b) {
		if v, ok := bytes.CutPrefix(line, []byte("oom_kill ")); ok {
			n, _ := strconv.Atoi(string(bytes.TrimSpace(v)))
			return n
		}
	}
	return 0
}

// killed tells whether the task met its memory limit and did not end well: the kernel may have picked any of its processes.
func (c oomCounter) killed(_ folder, ws unix.WaitStatus) bool {
	failed := ws.Signaled() || ws.ExitStatus() != 0
	return failed && c.file != nil && c.count() > c.start
}

type child struct {
	pid, hostPID int
	birth        uint64
}

// spawn makes the root file system and starts the first process in it.
func (h home) spawn(spec jail.Spec, files [3]int) (child, error) {
	// Opened by paths that are out of sight once the root is the cell's.
	ns, err := openNetwork(spec)
	if err != nil {
		return child{}, err
	}
	groups, err := openCgroups(spec.Cgroups, h.host)
	if err != nil {
		return child{}, err
	}
	if err := enterRoot(spec); err != nil {
		return child{}, err
	}
	c, pidfd := child{}, -1
	onOwnThread(func() {
		if err = join(ns); err == nil {
			c.pid, pidfd, err = start(spec, groups, files, false)
		}
	})
	ns.close()
	groups.close()
	if err != nil {
		return child{}, err
	}
	defer unix.Close(pidfd)
	defer unix.Close(h.proc)
	h.protect()
	if c.birth, err = jail.Birth(c.pid); err != nil {
		return child{}, err
	}
	c.hostPID, err = h.pidOf(pidfd)
	return c, err
}

// protect has the kernel prefer any other process when the host is out of memory. The task keeps what it was started with.
func (h home) protect() {
	if f, err := h.open("self/oom_score_adj", unix.O_WRONLY); err == nil {
		f.WriteString("-1000")
		f.Close()
	}
}

// pidOf returns the pid that the host has for the process.
func (h home) pidOf(pidfd int) (int, error) {
	f, err := h.open("self/fdinfo/"+strconv.Itoa(pidfd), unix.O_RDONLY)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(b) {
		if v, ok := bytes.CutPrefix(line, []byte("Pid:")); ok {
			return strconv.Atoi(string(bytes.TrimSpace(v)))
		}
	}
	return 0, errors.New("no pid in a pidfd's fdinfo")
}

func (h home) open(name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(h.proc, name, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /proc/%s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// leave leaves Nomad's service, as the task has.
func (h home) leave() { h.host.enter() }

// killCell kills all processes that this one can see but itself, which as init of their namespace is all that are in the cell.
func killCell(string) { _ = unix.Kill(-1, unix.SIGKILL) }

// cellGone is for the host where the shim is not part of the cell.
func cellGone(string) bool { return false }
