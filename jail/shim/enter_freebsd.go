package main

import (
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
)

func spawnInside(spec jail.Spec, terminal bool) (int, error) {
	return start(spec, [3]int{0, 1, 2}, terminal)
}

// drainTerminal waits until what was written to the terminal has been read: the end of this process, which leads the terminal's
// session, throws the rest away. It is in the background there, which must not stop it.
func drainTerminal() {
	signal.Ignore(unix.SIGTTOU)
	_ = unix.IoctlSetInt(0, unix.TIOCDRAIN, 0)
}
