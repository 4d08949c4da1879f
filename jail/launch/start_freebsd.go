package launch

import "syscall"

// shimAttr leaves the shim on the host, out of reach of the jail.
func shimAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }
