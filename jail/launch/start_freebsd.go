package launch

import "syscall"

// BeforeMounts tells that a shim may be prepared before its task's root has its mounts.
const BeforeMounts = true

// shimAttr leaves the shim on the host, out of reach of the jail.
func shimAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// enterAttr: the shim leads the terminal's session. When a leader ends, FreeBSD throws away what was written and not yet read, so it
// must be one that waits for that.
func enterAttr(terminal bool) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Setctty: terminal, Ctty: 0}
}
