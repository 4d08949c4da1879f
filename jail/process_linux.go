package jail

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// BootID names the host's current boot.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}

// Birth returns when the process started, in clock ticks since boot.
func Birth(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return parseBirth(b)
}

// parseBirth takes field 22 of proc_pid_stat(5). Field 2, a name in parentheses, may hold anything.
func parseBirth(stat []byte) (uint64, error) {
	_, rest, ok := bytes.Cut(stat[max(bytes.LastIndexByte(stat, ')'), 0):], []byte(" "))
	fields := bytes.Fields(rest)
	if !ok || len(fields) < 20 {
		return 0, errors.New("stat of a process is not as expected")
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}

// signalProcess signals the process that pid meant when it was born then; ErrEnded when that is gone.
func signalProcess(pid int, birth uint64, sig syscall.Signal) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH {
		return ErrEnded
	}
	if err != nil {
		return fmt.Errorf("pidfd_open %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if born, err := Birth(pid); err != nil || born != birth {
		return ErrEnded
	}
	err = unix.PidfdSendSignal(fd, sig, nil, 0)
	if err == unix.ESRCH {
		return ErrEnded
	}
	return err
}
