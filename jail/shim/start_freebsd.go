package main

import (
	"fmt"
	"syscall"

	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
)

// start starts spec's command in its jail; it is killed when this process is.
func start(spec jail.Spec, files [3]int, terminal bool) (int, error) {
	cell, found, err := jail.Find(spec.Name)
	if err != nil {
		return 0, err
	}
	if !found || cell.JID <= 0 { // with 0 the command would run on the host
		return 0, fmt.Errorf("jail %s is gone", spec.Name)
	}
	pid, err := syscall.ForkExec(spec.Command, append([]string{spec.Command}, spec.Args...), &syscall.ProcAttr{
		Dir:   spec.Dir,
		Env:   spec.Env,
		Files: []uintptr{uintptr(files[0]), uintptr(files[1]), uintptr(files[2])},
		Sys: &syscall.SysProcAttr{
			Jail:       cell.JID,
			Credential: &syscall.Credential{Uid: spec.UID, Gid: spec.GID, Groups: spec.Groups},
			Setsid:     !terminal,
			Foreground: terminal, // in the session of this process, whose terminal is file 0
			Ctty:       files[0],
			Pdeathsig:  syscall.SIGKILL,
		},
	})
	if err != nil {
		return 0, startError(spec, err)
	}
	return pid, nil
}
