package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
)

// Descriptors of an entering shim; 0 to 2 are those of the process it starts.
const (
	controlFD     = 3 // a jail.Entry, then nothing until its closing asks for the end
	enterReportFD = 4 // as reportFD
)

// enter starts a process in a running cell and passes on how it ended: its exit code, or 128 and the signal. The process ends
// when the plugin does or loses interest in it.
func enter(name string) int {
	report := os.NewFile(enterReportFD, "report")
	control := os.NewFile(controlFD, "control")
	entry, pid, err := enterCell(name, control)
	if err != nil {
		report.WriteString(err.Error() + "\n")
		return 1
	}
	report.WriteString("started\n")
	report.Close()
	go endWith(control, pid)
	code := waitFor(pid)
	if entry.Terminal {
		drainTerminal()
	}
	return code
}

func enterCell(name string, control *os.File) (entry jail.Entry, pid int, err error) {
	if err := json.NewDecoder(control).Decode(&entry); err != nil {
		return entry, 0, fmt.Errorf("read what to start: %w", err)
	}
	if entry.Spec.Name != name {
		return entry, 0, errors.New("asked to start in " + entry.Spec.Name + " and to enter " + name)
	}
	onOwnThread(func() { pid, err = spawnInside(entry.Spec, entry.Terminal) })
	return entry, pid, err
}

// endWith kills the process and its group, which it leads, when the other end of the pipe is closed, and then ends this process,
// which may wait for somebody to read the terminal.
func endWith(control *os.File, pid int) {
	_, _ = io.Copy(io.Discard, control)
	_ = unix.Kill(-pid, unix.SIGKILL)
	time.Sleep(time.Second)
	os.Exit(1)
}

func waitFor(pid int) int {
	for {
		var ws unix.WaitStatus
		switch _, err := unix.Wait4(pid, &ws, 0, nil); {
		case err == unix.EINTR:
		case err != nil:
			return 1
		case ws.Signaled():
			return 128 + int(ws.Signal())
		default:
			return ws.ExitStatus()
		}
	}
}
