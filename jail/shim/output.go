package main

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// output is one of Nomad's log FIFOs as two descriptors.
type output struct {
	task int // write end, for the task
	keep int // both ends: while it is open the task can write and what it wrote is kept, with or without a reader. -1 for /dev/null
}

func openOutput(path string) (output, error) {
	if path == "" || path == "/dev/null" {
		fd, err := unix.Open("/dev/null", unix.O_WRONLY|unix.O_CLOEXEC, 0)
		return output{task: fd, keep: -1}, err
	}
	// A task of the same allocation can write where the FIFO is; whatever else it puts there is not opened for it.
	const flags = unix.O_NOFOLLOW | unix.O_CLOEXEC
	keep, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|flags, 0)
	if err != nil {
		return output{}, fmt.Errorf("open log %s: %w", path, err)
	}
	task, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|flags, 0)
	if err != nil {
		return output{}, fmt.Errorf("open log %s: %w", path, err)
	}
	if !isFIFO(keep) || !isFIFO(task) {
		return output{}, fmt.Errorf("log %s is not a FIFO", path)
	}
	return output{task: task, keep: keep}, unix.SetNonblock(task, false)
}

func isFIFO(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFIFO
}

// linger waits until what the task wrote last has been read, for logPatience at the most. When the cell is gone it hurries.
func linger(name string, outputs []int) {
	deadline := time.Now().Add(logPatience)
	for pause := 5 * time.Millisecond; unread(outputs) && time.Now().Before(deadline); pause = min(2*pause, time.Second) {
		if hurry := time.Now().Add(2 * time.Second); deadline.After(hurry) && cellGone(name) {
			deadline = hurry
		}
		time.Sleep(pause)
	}
}

func unread(outputs []int) bool {
	for _, fd := range outputs {
		if n, err := unix.IoctlGetInt(fd, fionread); err == nil && n > 0 {
			return true
		}
	}
	return false
}
