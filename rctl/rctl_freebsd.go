package rctl

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// check: what the kernel was built without has no sysctl.
func check() error {
	enabled, err := unix.SysctlRaw("kern.racct.enable")
	if err != nil && err != unix.ENOENT {
		return fmt.Errorf("sysctl kern.racct.enable: %w", err)
	}
	feature, err := unix.SysctlUint32("kern.features.rctl")
	if err != nil && err != unix.ENOENT {
		return fmt.Errorf("sysctl kern.features.rctl: %w", err)
	}
	return racctError(enabled, feature != 0)
}

func apply(name string, l Limits) (Subject, error) {
	// A leftover of the same name would bring its rules along.
	if err := remove(name); err != nil {
		return Subject{}, err
	}
	if len(l.Cores) > 0 {
		if err := setCores(name, l.Cores); err != nil {
			return Subject{}, err
		}
	}
	for _, rule := range rules(name, l) {
		if err := rctl(unix.SYS_RCTL_ADD_RULE, rule, nil); err != nil {
			return Subject{}, errors.Join(fmt.Errorf("rctl rule %s: %w", rule, reason(err)), remove(name))
		}
	}
	return Subject{}, nil
}

// remove leaves the cpuset: it belongs to the jail and goes with it.
func remove(name string) error {
	err := rctl(unix.SYS_RCTL_REMOVE_RULE, "jail:"+name, nil)
	if err == nil || err == unix.ESRCH || err == unix.ENOSYS {
		return nil
	}
	return fmt.Errorf("rctl rules of jail:%s: %w", name, err)
}

func read(name string) (Usage, error) {
	buf := buffers.Get().(*[4096]byte)
	defer buffers.Put(buf)
	if err := rctl(unix.SYS_RCTL_GET_RACCT, "jail:"+name, buf[:]); err != nil {
		return Usage{}, fmt.Errorf("racct of jail:%s: %w", name, reason(err))
	}
	return parseUsage(unix.ByteSliceToString(buf[:]))
}

// buffers hold what the kernel says of one jail: 25 resources, each below 40 bytes.
var buffers = sync.Pool{New: func() any { return new([4096]byte) }}

func list() ([]string, error) {
	for size := 64 << 10; ; size *= 4 {
		buf := make([]byte, size)
		switch err := rctl(unix.SYS_RCTL_GET_RULES, "jail:", buf); err {
		case nil:
			return ruleNames(unix.ByteSliceToString(buf)), nil
		case unix.ENOSYS:
			// No racct, no rules.
			return nil, nil
		case unix.ERANGE:
		default:
			return nil, fmt.Errorf("rctl rules: %w", err)
		}
	}
}

// reason replaces the kernel's word for racct that is off or missing.
func reason(err error) error {
	if err != unix.ENOSYS {
		return err
	}
	return cmp.Or(check(), err)
}

// rctl is the five system calls of rctl_add_rule(2), which have the same shape: text in, text out.
func rctl(call uintptr, in string, out []byte) error {
	text, err := unix.BytePtrFromString(in)
	if err != nil {
		return err
	}
	_, _, errno := unix.Syscall6(call, uintptr(unsafe.Pointer(text)), uintptr(len(in)+1),
		uintptr(unsafe.Pointer(unsafe.SliceData(out))), uintptr(len(out)), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// From sys/cpuset.h.
const (
	cpuLevelWhich = 3
	cpuWhichJail  = 5
)

// setCores ties the jail to the cores. The kernel wants its own size of mask: 256 CPUs until 13, 1024 since 14.
func setCores(name string, cores []int) error {
	jid, err := jailID(name)
	if err != nil {
		return err
	}
	var tooSmall error
	for _, size := range []int{256 / 8, 1024 / 8} {
		mask, err := maskOf(cores, size)
		if err != nil {
			tooSmall = err
			continue
		}
		_, _, errno := unix.Syscall6(unix.SYS_CPUSET_SETAFFINITY, cpuLevelWhich, cpuWhichJail, uintptr(jid),
			uintptr(size), uintptr(unsafe.Pointer(&mask[0])), 0)
		switch errno {
		case 0:
			return nil
		case unix.EINVAL:
			return fmt.Errorf("cores %v: not all of them are this host's; cpuset -g lists those that are", cores)
		case unix.ERANGE:
		default:
			return fmt.Errorf("cores %v: %w", cores, errno)
		}
	}
	return cmp.Or(tooSmall, fmt.Errorf("cores %v: the kernel takes neither size of cpuset", cores))
}

// jailID asks jail_get(2).
func jailID(name string) (int, error) {
	n, err := unix.BytePtrFromString(name)
	if err != nil {
		return 0, err
	}
	key := append([]byte("name"), 0)
	iov := [2]unix.Iovec{
		{Base: &key[0], Len: uint64(len(key))},
		{Base: n, Len: uint64(len(name) + 1)},
	}
	jid, _, errno := unix.Syscall(unix.SYS_JAIL_GET, uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov)), 0)
	if errno != 0 {
		return 0, fmt.Errorf("jail %s: %w", name, os.NewSyscallError("jail_get", errno))
	}
	return int(jid), nil
}
