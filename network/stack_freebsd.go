package network

import (
	"fmt"
	"math"
	"net/netip"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/net/route"
	"golang.org/x/sys/unix"
)

// stack is a jail's network stack, seen from the host: which stack a socket
// speaks to was decided when it was made, so three sockets made inside are
// enough, and no program has to run inside. ifconfig -j, which does the same,
// is not in every release that this driver serves.
type stack struct {
	ifconfig
	routes int // routing socket, route(4)
}

// wanted is in the order in which makeSockets returns them.
var wanted = [...]struct{ domain, kind uintptr }{
	{unix.AF_INET, unix.SOCK_DGRAM},
	{unix.AF_INET6, unix.SOCK_DGRAM},
	{unix.AF_ROUTE, unix.SOCK_RAW},
}

// openStack has a short-lived child attach to the jail, make the sockets there
// and send them back. The child executes nothing, and of the jail it uses
// nothing but its network stack. A jail gets its network before its first
// process, so nobody inside can meet the child.
func openStack(jid int) (*stack, error) {
	if jid <= 0 {
		return nil, fmt.Errorf("jail %d: not a jail", jid) // 0 is the host
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(pair[0])
	err = makeSockets(jid, pair[1])
	unix.Close(pair[1])
	if err != nil {
		return nil, fmt.Errorf("jail %d: %w", jid, err)
	}
	fds, err := receiveSockets(pair[0])
	if err != nil {
		return nil, fmt.Errorf("jail %d: receive sockets: %w", jid, err)
	}
	return &stack{ifconfig{fds[0], fds[1]}, fds[2]}, nil
}

func (s *stack) Close() {
	s.ifconfig.Close()
	unix.Close(s.routes)
}

// makeSockets runs the child and waits for it.
func makeSockets(jid, sendTo int) error {
	control := unix.UnixRights(make([]int, len(wanted))...)
	rights := (*[len(wanted)]int32)(unsafe.Pointer(&control[unix.CmsgLen(0)]))
	var data [1]byte
	iov := unix.Iovec{Base: &data[0], Len: 1}
	message := unix.Msghdr{Iov: &iov, Iovlen: 1, Control: &control[0], Controllen: uint32(len(control))}
	pid, errno := forkAttached(uintptr(jid), uintptr(sendTo), &message, rights)
	runtime.KeepAlive(control)
	if errno != 0 {
		return fmt.Errorf("fork: %w", errno)
	}
	var status unix.WaitStatus
	for {
		if _, err := unix.Wait4(pid, &status, 0, nil); err != unix.EINTR {
			break
		}
	}
	switch {
	case !status.Exited():
		return fmt.Errorf("the child that attached was killed (%v)", status.Signal())
	case status.ExitStatus() != 0:
		return fmt.Errorf("attach: %w", syscall.Errno(status.ExitStatus()))
	}
	return nil
}

// The runtime keeps these for others than package syscall; see their comments
// there. Between them runs what may run in a forked child of a Go process:
// system calls, and nothing that allocates, grows the stack or takes a lock.
//
//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

// forkAttached returns the child's process ID. The child exits with an errno.
//
//go:norace
//go:noinline
func forkAttached(jid, sendTo uintptr, message *unix.Msghdr, rights *[len(wanted)]int32) (int, syscall.Errno) {
	beforeFork()
	r, _, errno := syscall.RawSyscall(syscall.SYS_FORK, 0, 0, 0)
	if errno != 0 || r != 0 {
		afterFork()
		return int(r), errno
	}
	// From FreeBSD 13 on jail_attach(2) refuses a process that has a directory
	// open, as some other goroutine may have had when this one forked.
	_, _, errno = syscall.RawSyscall(unix.SYS_CLOSE_RANGE, 0, sendTo-1, 0)
	if errno == 0 {
		_, _, errno = syscall.RawSyscall(unix.SYS_CLOSE_RANGE, sendTo+1, math.MaxUint32, 0)
	}
	if errno == 0 {
		_, _, errno = syscall.RawSyscall(syscall.SYS_JAIL_ATTACH, jid, 0, 0)
	}
	for i := 0; i < len(wanted) && errno == 0; i++ {
		r, _, errno = syscall.RawSyscall(syscall.SYS_SOCKET, wanted[i].domain, wanted[i].kind, 0)
		rights[i] = int32(r)
	}
	if errno == 0 {
		_, _, errno = syscall.RawSyscall(syscall.SYS_SENDMSG, sendTo, uintptr(unsafe.Pointer(message)), 0)
	}
	for {
		syscall.RawSyscall(syscall.SYS_EXIT, uintptr(errno), 0, 0)
	}
}

func receiveSockets(from int) ([]int, error) {
	data, control := make([]byte, 1), make([]byte, unix.CmsgSpace(4*len(wanted)))
	_, n, _, _, err := unix.Recvmsg(from, data, control, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("%d control messages: %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != len(wanted) {
		return nil, fmt.Errorf("%d sockets: %w", len(fds), err)
	}
	return fds, nil
}

// addDefaultRoute of the gateway's family.
func (s *stack) addDefaultRoute(gateway netip.Addr) error {
	m := route.RouteMessage{
		Version: unix.RTM_VERSION,
		Type:    unix.RTM_ADD,
		Flags:   unix.RTF_UP | unix.RTF_GATEWAY | unix.RTF_STATIC,
		ID:      uintptr(unix.Getpid()),
		Seq:     1,
	}
	if gateway.Is4() {
		m.Addrs = []route.Addr{&route.Inet4Addr{}, &route.Inet4Addr{IP: gateway.As4()}, &route.Inet4Addr{}}
	} else {
		m.Addrs = []route.Addr{&route.Inet6Addr{}, &route.Inet6Addr{IP: gateway.As16()}, &route.Inet6Addr{}}
	}
	b, err := m.Marshal()
	if err != nil {
		return fmt.Errorf("default route %s: %w", gateway, err)
	}
	if _, err := unix.Write(s.routes, b); err != nil {
		return fmt.Errorf("default route %s: %w", gateway, err)
	}
	return nil
}
