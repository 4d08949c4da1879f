package launch

import "syscall"

// BeforeMounts tells that a shim may not be prepared before its task's root has its mounts. It sees those of when it starts.
const BeforeMounts = false

// shimAttr makes the shim the init of its cell from its first instruction on.
func shimAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
	}
}

// enterAttr: the process in the cell leads the terminal's session itself.
func enterAttr(bool) *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }
