package main

import (
	"fmt"
	"math"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
)

const fionread = 0x4004667f // sys/filio.h

// hostSignals are those that only this host has and that Go's runtime ends a process for.
var hostSignals = []os.Signal{unix.SIGEMT}

// home is the host, where this process stays, out of the jail's sight.
type home struct {
	pid  int
	boot string
}

// openFolder uses the path: jail_attach(2) may refuse a process that has a directory open.
func openFolder() (folder, error) {
	dir, err := os.Getwd()
	return folder{fd: unix.AT_FDCWD, prefix: dir + "/"}, err
}

// closeFrom: 12.2 has close_range(2) already, and from 13 on closefrom(2) is there only where a kernel has COMPAT_FREEBSD12.
func closeFrom(fd int) error {
	if _, _, errno := unix.Syscall(unix.SYS_CLOSE_RANGE, uintptr(fd), math.MaxUint32, 0); errno != 0 {
		return errno
	}
	return nil
}

// settleIn makes this process the parent of what is orphaned in the jail.
func settleIn(jail.Spec) (home, error) {
	boot, err := jail.BootID()
	if err != nil {
		return home{}, err
	}
	if err := unix.Chdir("/"); err != nil {
		return home{}, err
	}
	unix.Umask(0o022)
	if err := procctl(procReapAcquire, nil); err != nil {
		return home{}, fmt.Errorf("procctl PROC_REAP_ACQUIRE: %w", err)
	}
	protect := int32(1)                 // PPROT_SET, and for this process alone
	_ = procctl(procSprotect, &protect) // the kernel has any other process go first when it is out of swap
	return home{pid: os.Getpid(), boot: boot}, nil
}

// Commands of procctl(2).
const (
	procSprotect    = 1
	procReapAcquire = 2
)

// procctl is about the calling process.
func procctl(command uintptr, arg *int32) error {
	const pPID = 0 // sys/wait.h
	_, _, errno := unix.Syscall6(unix.SYS_PROCCTL, pPID, uintptr(os.Getpid()), command, uintptr(unsafe.Pointer(arg)), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// oomCounter tells the kills of a memoryuse:sigkill rule in rctl(8), which leaves no trace, by elimination.
type oomCounter struct{ limited bool }

func openOOM(spec jail.Spec) (oomCounter, error) { return oomCounter{spec.MemoryLimit > 0}, nil }

// killed tells whether a SIGKILL that the plugin did not announce ended the first process.
func (c oomCounter) killed(dir folder, ws unix.WaitStatus) bool {
	return c.limited && ws.Signaled() && ws.Signal() == unix.SIGKILL && !jail.WasKilled(dir.prefix)
}

type child struct {
	pid, hostPID int
	birth        uint64
}

func (h home) spawn(spec jail.Spec, files [3]int) (child, error) {
	pid, err := start(spec, files, false)
	if err != nil {
		return child{}, err
	}
	birth, err := jail.Birth(pid)
	if err == unix.ESRCH { // ended already; it is not reaped yet, so nobody can have its number
		err = nil
	}
	return child{pid: pid, hostPID: pid, birth: birth}, err
}

// leave: what stops a service here does so by the pid of its daemon.
func (home) leave() {}

// killCell kills the processes in the jail, by its bare name: this is not the plugin's kill, which is noted in the folder.
func killCell(name string) { _ = jail.Kill(name) }

func cellGone(name string) bool {
	_, found, err := jail.Find(name)
	return err == nil && !found
}
