package jail

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Flags of jail_set(2) and jail_get(2).
const (
	flagCreate = 0x01
	flagDying  = 0x08
)

const killLimit = 10 * time.Second

func create(spec Spec) (Cell, error) {
	jid, err := jailCall(unix.SYS_JAIL_SET, encode(parameters(spec)), flagCreate)
	if errors.Is(err, unix.EEXIST) {
		return Cell{}, ErrExists
	}
	if err != nil {
		return Cell{}, err
	}
	return Cell{Name: spec.Name, JID: jid}, nil
}

// find does not see a jail that is dying: its name is free again.
func find(name string) (Cell, bool, error) {
	jid, err := jailCall(unix.SYS_JAIL_GET, encode([]parameter{{"name", name}}), 0)
	if errors.Is(err, unix.ENOENT) {
		return Cell{}, false, nil
	}
	if err != nil {
		return Cell{}, false, err
	}
	return Cell{Name: name, JID: jid}, true, nil
}

func lingers(name string) bool {
	_, alive, err := find(name)
	if err != nil || alive {
		return false
	}
	_, err = jailCall(unix.SYS_JAIL_GET, encode([]parameter{{"name", name}}), flagDying)
	return err == nil
}

func remove(name string) error {
	cell, found, err := find(name)
	if err != nil || !found {
		return err
	}
	if err := killMembers(cell.JID); err != nil { // the shim sees the end before the jail goes
		return err
	}
	_, _, errno := unix.Syscall(unix.SYS_JAIL_REMOVE, uintptr(cell.JID), 0, 0)
	if errno != 0 && errno != unix.EINVAL { // removed meanwhile
		return fmt.Errorf("jail_remove: %w", errno)
	}
	return killMembers(cell.JID)
}

func list() ([]string, error) {
	var names []string
	for last := 0; ; {
		name := make([]byte, 256) // MAXHOSTNAMELEN
		vec := append(encode([]parameter{{"lastjid", last}}), []byte("name\x00"), name)
		jid, err := jailCall(unix.SYS_JAIL_GET, vec, 0)
		if errors.Is(err, unix.ENOENT) {
			slices.Sort(names)
			return names, nil
		}
		if err != nil {
			return nil, err
		}
		if s := unix.ByteSliceToString(name); ValidName(s) {
			names = append(names, s)
		}
		last = jid
	}
}

func kill(name string) error {
	cell, found, err := find(name)
	if err != nil || !found {
		return err
	}
	return killMembers(cell.JID)
}

// killMembers kills until no process of the jail is left: what it kills may be forking.
func killMembers(jid int) error {
	for deadline := time.Now().Add(killLimit); ; time.Sleep(2 * time.Millisecond) {
		pids, err := members(jid)
		if err != nil || len(pids) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d processes do not die", len(pids))
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// encode makes the name and value pairs of jail_set(2) and jail_get(2). A nil value is a name alone.
func encode(list []parameter) [][]byte {
	var vec [][]byte
	for _, p := range list {
		var value []byte
		switch v := p.value.(type) {
		case string:
			value = append([]byte(v), 0)
		case int:
			value = binary.NativeEndian.AppendUint32(nil, uint32(int32(v)))
		}
		vec = append(vec, append([]byte(p.name), 0), value)
	}
	return vec
}

// jailCall returns the jid. An error has the kernel's own words where it gives any.
func jailCall(call uintptr, vec [][]byte, flags uintptr) (int, error) {
	message := make([]byte, 256)
	vec = append(vec, []byte("errmsg\x00"), message)
	iov := make([]unix.Iovec, len(vec))
	for i, b := range vec {
		if len(b) > 0 {
			iov[i].Base = &b[0]
			iov[i].SetLen(len(b))
		}
	}
	jid, _, errno := unix.Syscall(call, uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov)), flags)
	if errno == 0 {
		return int(jid), nil
	}
	if text := strings.TrimSpace(unix.ByteSliceToString(message)); text != "" {
		return 0, fmt.Errorf("%s: %w", text, errno)
	}
	return 0, errno
}

func hostSecurelevel() (int, error) {
	level, err := unix.SysctlUint32("kern.securelevel")
	if err != nil {
		return 0, fmt.Errorf("sysctl kern.securelevel: %w", err)
	}
	return int(int32(level)), nil
}
