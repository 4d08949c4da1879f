package jail

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// kinfo is what is used here of a kinfo_proc (sys/user.h), whose layout amd64 and arm64 share.
type kinfo struct {
	pid, jid int
	zombie   bool
	start    uint64 // microseconds, by the clock
}

const (
	kinfoSize  = 1088
	kinfoPID   = 72
	kinfoStart = 336
	kinfoStat  = 388
	kinfoJID   = 592
	zombie     = 5 // SZOMB
)

func parseKinfo(b []byte) kinfo {
	number := func(at int) int { return int(int32(binary.NativeEndian.Uint32(b[at:]))) }
	return kinfo{
		pid: number(kinfoPID), jid: number(kinfoJID), zombie: b[kinfoStat] == zombie,
		start: binary.NativeEndian.Uint64(b[kinfoStart:])*1e6 + binary.NativeEndian.Uint64(b[kinfoStart+8:]),
	}
}

// processes reads the processes that a kern.proc sysctl(3) lists.
func processes(name string, args ...int) ([]kinfo, error) {
	raw, err := unix.SysctlRaw(name, args...)
	for tries := 0; err == unix.ENOMEM && tries < 10; tries++ { // grew between asking for the size and reading
		raw, err = unix.SysctlRaw(name, args...)
	}
	if err != nil {
		return nil, fmt.Errorf("sysctl %s: %w", name, err)
	}
	var list []kinfo
	for ; len(raw) >= kinfoSize; raw = raw[kinfoSize:] {
		if size := binary.NativeEndian.Uint32(raw); size != kinfoSize {
			return nil, fmt.Errorf("sysctl %s: the host's kinfo_proc has %d bytes, not %d", name, size, kinfoSize)
		}
		list = append(list, parseKinfo(raw))
	}
	return list, nil
}

// members returns the pids of the jail's processes, zombies apart.
func members(jid int) ([]int, error) {
	all, err := processes("kern.proc.proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, p := range all {
		if p.jid == jid && !p.zombie {
			pids = append(pids, p.pid)
		}
	}
	return pids, nil
}

// BootID names the host's current boot by when it was, which moves when the clock is set: good for a message, not for a decision.
func BootID() (string, error) {
	tv, err := unix.SysctlTimeval("kern.boottime")
	if err != nil {
		return "", err
	}
	return strconv.FormatInt(int64(tv.Sec), 10), nil
}

// Birth returns when the process started, in microseconds since boot, which setting the clock does not change.
func Birth(pid int) (uint64, error) {
	list, err := processes("kern.proc.pid", pid)
	if err != nil {
		return 0, err
	}
	boot, err := unix.SysctlTimeval("kern.boottime")
	if err != nil {
		return 0, err
	}
	if len(list) != 1 || list[0].zombie {
		return 0, unix.ESRCH
	}
	return list[0].start - uint64(int64(boot.Sec)*1e6+int64(boot.Usec)), nil
}

// signalProcess signals the process that pid meant when it was born then; ErrEnded when that is gone.
func signalProcess(pid int, birth uint64, sig syscall.Signal) error {
	if born, err := Birth(pid); err != nil || born != birth {
		return ErrEnded
	}
	err := unix.Kill(pid, sig)
	if err == unix.ESRCH {
		return ErrEnded
	}
	return err
}
