package network

//lint:file-ignore U1000 the fields are those of the kernel's structures, used or not

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ifconfig speaks to interfaces of the network stack that its sockets were
// made in, as ifconfig(8) does: netintro(4), if_bridge(4), inet(4), inet6(4).
// The structures are those of 64-bit machines.
type ifconfig struct {
	inet  int // socket
	inet6 int // socket, or -1
}

type ifName [unix.IFNAMSIZ]byte

func toIfName(s string) (n ifName) {
	copy(n[:len(n)-1], s)
	return n
}

func (n ifName) String() string { return unix.ByteSliceToString(n[:]) }

// struct ifreq with each of the members of its union that are used here.
type (
	ifreq struct {
		name ifName
		data [16]byte
	}
	ifreqPointer struct {
		name ifName
		data unsafe.Pointer
		_    [8]byte
	}
	ifreqBuffer struct {
		name   ifName
		length uintptr
		buffer unsafe.Pointer
	}
	ifreqInt struct {
		name  ifName
		value int32
		_     [12]byte
	}
	ifreqFlags struct {
		name ifName
		low  uint16
		_    [14]byte
	}
)

type ifgroupreq struct {
	name  ifName
	_     uint32
	_     uint32
	group ifName
}

type ifdrv struct {
	name   ifName
	cmd    uint64
	length uint64
	data   unsafe.Pointer
}

type ifbreq struct {
	member ifName
	_      [64]byte
}

type ifbifconf struct {
	length uint32
	_      uint32
	buffer unsafe.Pointer
}

type inAliasreq struct {
	name ifName
	addr unix.RawSockaddrInet4
	_    unix.RawSockaddrInet4 // the other end, or for broadcasts
	mask unix.RawSockaddrInet4
	_    int32 // vhid
}

type in6Aliasreq struct {
	name           ifName
	addr           unix.RawSockaddrInet6
	_              unix.RawSockaddrInet6
	mask           unix.RawSockaddrInet6
	_              int32    // flags
	_              [2]int64 // when the lifetimes end
	vltime, pltime uint32
	_              int32 // vhid
}

type in6Ndireq struct {
	name  ifName
	_     [20]byte
	flags uint32
	_     [32]byte
}

// Requests that golang.org/x/sys lacks or has in a former release's form.
const (
	siocAIFADDR     = 0x8044692b // _IOW('i', 43, struct in_aliasreq)
	siocAIFADDR_IN6 = 0x8088691b // _IOW('i', 27, struct in6_aliasreq)
	siocSIFINFO_IN6 = 0xc0486957 // SIOCSIFINFO_FLAGS: _IOWR('i', 87, struct in6_ndireq)

	brdgAdd        = 0
	brdgGetMembers = 6

	ndPerformNUD = 0x001 // neighbor unreachability detection
	ndDisabled   = 0x008 // no IPv6 here
	ndAutoLocal  = 0x020 // a link-local address by itself
	ndNoDAD      = 0x100 // no duplicate address detection: the address works at once

	infiniteLifetime = 0xffffffff
)

func openIfconfig() (*ifconfig, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	fd6, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		fd6 = -1 // a kernel without IPv6
	}
	return &ifconfig{fd, fd6}, nil
}

func (c *ifconfig) Close() {
	unix.Close(c.inet)
	if c.inet6 >= 0 {
		unix.Close(c.inet6)
	}
}

func ioctl[T any](fd int, what string, request uint, arg *T) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(unsafe.Pointer(arg)))
	runtime.KeepAlive(arg)
	if errno != 0 {
		return fmt.Errorf("%s: %w", what, errno)
	}
	return nil
}

// create makes an interface of the cloner's and tells its name.
func (c *ifconfig) create(cloner string) (string, error) {
	r := ifreq{name: toIfName(cloner)}
	err := ioctl(c.inet, "create "+cloner, unix.SIOCIFCREATE2, &r)
	return r.name.String(), err
}

// destroy is fine with an interface that is not there.
func (c *ifconfig) destroy(name string) error {
	err := ioctl(c.inet, "destroy "+name, unix.SIOCIFDESTROY, &ifreq{name: toIfName(name)})
	if errors.Is(err, unix.ENXIO) {
		return nil
	}
	return err
}

func (c *ifconfig) rename(from, to string) error {
	name := toIfName(to)
	return ioctl(c.inet, "rename "+from+" to "+to, unix.SIOCSIFNAME, &ifreqPointer{name: toIfName(from), data: unsafe.Pointer(&name)})
}

func (c *ifconfig) describe(name, text string) error {
	b := append([]byte(text), 0)
	return ioctl(c.inet, "describe "+name, unix.SIOCSIFDESCR, &ifreqBuffer{toIfName(name), uintptr(len(b)), unsafe.Pointer(&b[0])})
}

// description is empty for an interface without one.
func (c *ifconfig) description(name string) (string, error) {
	var b [256]byte
	r := ifreqBuffer{toIfName(name), uintptr(len(b)), unsafe.Pointer(&b[0])}
	if err := ioctl(c.inet, "description of "+name, unix.SIOCGIFDESCR, &r); err != nil {
		if errors.Is(err, unix.ENOMSG) {
			return "", nil
		}
		return "", err
	}
	return unix.ByteSliceToString(b[:]), nil
}

func (c *ifconfig) addGroup(name, group string) error {
	err := ioctl(c.inet, "group "+group+" of "+name, unix.SIOCAIFGROUP, &ifgroupreq{name: toIfName(name), group: toIfName(group)})
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

func (c *ifconfig) setMTU(name string, mtu int) error {
	return ioctl(c.inet, fmt.Sprintf("mtu %d of %s", mtu, name), unix.SIOCSIFMTU, &ifreqInt{name: toIfName(name), value: int32(mtu)})
}

func (c *ifconfig) mtu(name string) (int, error) {
	r := ifreqInt{name: toIfName(name)}
	err := ioctl(c.inet, "mtu of "+name, unix.SIOCGIFMTU, &r)
	return int(r.value), err
}

func (c *ifconfig) setHardwareAddr(name string, mac net.HardwareAddr) error {
	r := ifreq{name: toIfName(name)}
	r.data[0], r.data[1] = byte(len(mac)), unix.AF_LINK // struct sockaddr
	copy(r.data[2:], mac)
	return ioctl(c.inet, "ether of "+name, unix.SIOCSIFLLADDR, &r)
}

func (c *ifconfig) up(name string) error {
	r := ifreqFlags{name: toIfName(name)}
	if err := ioctl(c.inet, "flags of "+name, unix.SIOCGIFFLAGS, &r); err != nil {
		return err
	}
	r.low |= unix.IFF_UP
	return ioctl(c.inet, name+" up", unix.SIOCSIFFLAGS, &r)
}

func (c *ifconfig) exists(name string) (bool, error) {
	err := ioctl(c.inet, name, unix.SIOCGIFFLAGS, &ifreqFlags{name: toIfName(name)})
	if errors.Is(err, unix.ENXIO) {
		return false, nil
	}
	return err == nil, err
}

// giveTo moves an interface into a jail's network stack.
func (c *ifconfig) giveTo(name string, jid int) error {
	return ioctl(c.inet, fmt.Sprintf("give %s to jail %d", name, jid), unix.SIOCSIFVNET, &ifreqInt{name: toIfName(name), value: int32(jid)})
}

// takeFrom moves an interface back to the host from a jail that lives or is
// dying (a connection that lingers keeps it).
func (c *ifconfig) takeFrom(name string, jid int) error {
	return ioctl(c.inet, fmt.Sprintf("take %s from jail %d", name, jid), unix.SIOCSIFRVNET, &ifreqInt{name: toIfName(name), value: int32(jid)})
}

func (c *ifconfig) addMember(bridge, member string) error {
	req := ifbreq{member: toIfName(member)}
	err := ioctl(c.inet, "add "+member+" to "+bridge, unix.SIOCSDRVSPEC,
		&ifdrv{name: toIfName(bridge), cmd: brdgAdd, length: uint64(unsafe.Sizeof(req)), data: unsafe.Pointer(&req)})
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

func (c *ifconfig) members(bridge string) ([]string, error) {
	const most = 4096
	reqs := make([]ifbreq, most)
	size := unsafe.Sizeof(reqs[0])
	conf := ifbifconf{length: uint32(most * size), buffer: unsafe.Pointer(&reqs[0])}
	err := ioctl(c.inet, "members of "+bridge, unix.SIOCGDRVSPEC,
		&ifdrv{name: toIfName(bridge), cmd: brdgGetMembers, length: uint64(unsafe.Sizeof(conf)), data: unsafe.Pointer(&conf)})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, r := range reqs[:uintptr(conf.length)/size] {
		names = append(names, r.member.String())
	}
	return names, nil
}

// addAddress also changes the prefix length of an address that is there.
func (c *ifconfig) addAddress(name string, p netip.Prefix) error {
	if p.Addr().Is4() {
		return ioctl(c.inet, fmt.Sprintf("address %s of %s", p, name), siocAIFADDR, &inAliasreq{
			name: toIfName(name), addr: sockaddr4(p.Addr().As4()), mask: sockaddr4(mask4(p.Bits())),
		})
	}
	if c.inet6 < 0 {
		return fmt.Errorf("address %s of %s: the kernel has no IPv6", p, name)
	}
	return ioctl(c.inet6, fmt.Sprintf("address %s of %s", p, name), siocAIFADDR_IN6, &in6Aliasreq{
		name: toIfName(name), addr: sockaddr6(p.Addr().As16()), mask: sockaddr6(mask6(p.Bits())),
		vltime: infiniteLifetime, pltime: infiniteLifetime,
	})
}

func (c *ifconfig) removeAddress(name string, p netip.Prefix) error {
	if !p.Addr().Is4() {
		return fmt.Errorf("address %s of %s is left from a former configuration: remove it", p, name)
	}
	r := ifreq{name: toIfName(name)}
	sa := sockaddr4(p.Addr().As4())
	copy(r.data[:], unsafe.Slice((*byte)(unsafe.Pointer(&sa)), unsafe.Sizeof(sa)))
	return ioctl(c.inet, fmt.Sprintf("remove address %s of %s", p, name), unix.SIOCDIFADDR, &r)
}

// setIPv6 sets an interface's neighbor discovery flags.
func (c *ifconfig) setIPv6(name string, flags uint32) error {
	if c.inet6 < 0 {
		return nil
	}
	return ioctl(c.inet6, "IPv6 of "+name, siocSIFINFO_IN6, &in6Ndireq{name: toIfName(name), flags: flags})
}

func sockaddr4(a [4]byte) unix.RawSockaddrInet4 {
	return unix.RawSockaddrInet4{Len: unix.SizeofSockaddrInet4, Family: unix.AF_INET, Addr: a}
}

func sockaddr6(a [16]byte) unix.RawSockaddrInet6 {
	return unix.RawSockaddrInet6{Len: unix.SizeofSockaddrInet6, Family: unix.AF_INET6, Addr: a}
}

func mask4(bits int) [4]byte { return [4]byte(net.CIDRMask(bits, 32)) }

func mask6(bits int) [16]byte { return [16]byte(net.CIDRMask(bits, 128)) }

// described names the host's interfaces whose description is the mark, or
// begins with it and a space.
func (c *ifconfig) described(mark string, names []string) ([]string, error) {
	var found []string
	for _, name := range names {
		d, err := c.description(name)
		if errors.Is(err, unix.ENXIO) {
			continue // went away meanwhile
		}
		if err != nil {
			return nil, err
		}
		if d == mark || strings.HasPrefix(d, mark+" ") {
			found = append(found, name)
		}
	}
	return found, nil
}
