package network

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Reservations are symbolic links, because one is made whole or not at all,
// and only if its name is free:
//
//	addresses/10.209.0.7   -> NAME
//	ports/tcp-8080-any     -> NAME:80
//	ports/udp-53-192.0.2.1 -> NAME:5353
//	shared/NAME            -> the name whose network it uses
const (
	addressDir = "addresses"
	portDir    = "ports"
	sharedDir  = "shared"
)

// lock keeps other goroutines and processes from changing ports and rules.
func (n *Network) lock() (unlock func(), err error) {
	for _, d := range []string{addressDir, portDir, sharedDir} {
		if err := os.MkdirAll(filepath.Join(n.StateDir, d), 0o700); err != nil {
			return nil, err
		}
	}
	f, err := os.Open(filepath.Join(n.StateDir, portDir))
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return func() { f.Close() }, nil
}

// reserve books the task's ports and an address, or nothing.
func (n *Network) reserve(req Request) (Attachment, error) {
	unlock, err := n.lock()
	if err != nil {
		return Attachment{}, err
	}
	defer unlock()
	if err := n.unattached(req.Name); err != nil {
		return Attachment{}, err
	}
	if err := n.reservePorts(req); err != nil {
		return Attachment{}, errors.Join(err, n.releasePorts(req.Name))
	}
	reserve := n.reserveAddress
	if req.Within != "" {
		reserve = func(name string) (Attachment, error) { return n.share(name, req.Within) }
	}
	a, err := reserve(req.Name)
	if err != nil {
		return Attachment{}, errors.Join(err, n.releasePorts(req.Name))
	}
	return a, nil
}

// share books a place in another's network.
func (n *Network) share(name, within string) (Attachment, error) {
	a, up, err := n.Find(within)
	if err != nil {
		return Attachment{}, err
	}
	if !up || a.shares(within) {
		return Attachment{}, fmt.Errorf("task %s cannot share the network of %s, which has none of its own", name, within)
	}
	return a, os.Symlink(within, filepath.Join(n.StateDir, sharedDir, name))
}

// holder is who has the interface that the task uses, mostly itself.
func (n *Network) holder(name string) string {
	if within, err := os.Readlink(filepath.Join(n.StateDir, sharedDir, name)); err == nil {
		return within
	}
	return name
}

func (n *Network) unattached(name string) error {
	_, held, err := n.reservation(name)
	if err == nil && !held {
		held, err = n.connected(name)
	}
	if err != nil {
		return err
	}
	if held {
		return fmt.Errorf("task %s is already attached: detach it first", name)
	}
	return nil
}

func (n *Network) reserveAddress(name string) (Attachment, error) {
	for i := range n.plan.size {
		addr := n.plan.candidate(name, i)
		err := os.Symlink(name, n.addressPath(addr))
		if err == nil {
			return n.plan.attachment(name, addr), nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return Attachment{}, err
		}
	}
	return Attachment{}, fmt.Errorf("subnet %s is full: tasks have all of its %d addresses; stop some or give the plugin a larger subnet", n.Subnet, n.plan.size)
}

// reservation finds a task's address, and tells whether it has any reservation.
func (n *Network) reservation(name string) (Attachment, bool, error) {
	holder := n.holder(name)
	a, found, err := n.address(holder)
	return a, found || holder != name, err
}

// address finds a task's own. It is nearly always the first candidate.
func (n *Network) address(name string) (Attachment, bool, error) {
	first := n.plan.candidate(name, 0)
	if owner, err := os.Readlink(n.addressPath(first)); err == nil && owner == name {
		return n.plan.attachment(name, first), true, nil
	}
	owners, err := readLinks(filepath.Join(n.StateDir, addressDir))
	if err != nil {
		return Attachment{}, false, err
	}
	for file, owner := range owners {
		addr, err := netip.ParseAddr(file)
		if err == nil && owner == name && n.Subnet.Contains(addr) {
			return n.plan.attachment(name, addr), true, nil
		}
	}
	return Attachment{}, false, nil
}

// releaseAddress also frees one of a subnet that the plugin had before.
func (n *Network) releaseAddress(name string) error {
	if err := remove(filepath.Join(n.StateDir, sharedDir, name)); err != nil {
		return err
	}
	return n.release(addressDir, func(owner string) bool { return owner == name })
}

func (n *Network) addressPath(a netip.Addr) string {
	return filepath.Join(n.StateDir, addressDir, a.String())
}

// booking is a reserved port of the host.
type booking struct {
	proto    string
	hostPort uint16
	hostIP   netip.Addr // zero: all
	name     string
	taskPort uint16
}

func (b booking) file() string {
	return fmt.Sprintf("%s-%d-%s", b.proto, b.hostPort, addrOrAny(b.hostIP))
}

func (b booking) owner() string { return fmt.Sprintf("%s:%d", b.name, b.taskPort) }

func parseBooking(file, owner string) (booking, error) {
	bad := fmt.Errorf("%s/%s -> %s is not a port reservation: remove it", portDir, file, owner)
	f := strings.SplitN(file, "-", 3)
	name, taskPort, ok := strings.Cut(owner, ":")
	if len(f) != 3 || !ok {
		return booking{}, bad
	}
	b := booking{proto: f[0], name: name}
	var errs [3]error
	b.hostPort, errs[0] = parsePort(f[1])
	b.taskPort, errs[1] = parsePort(taskPort)
	if f[2] != "any" {
		b.hostIP, errs[2] = netip.ParseAddr(f[2])
	}
	if errors.Join(errs[:]...) != nil {
		return booking{}, bad
	}
	return b, nil
}

func parsePort(s string) (uint16, error) {
	p, err := strconv.ParseUint(s, 10, 16)
	return uint16(p), err
}

func addrOrAny(a netip.Addr) string {
	if !a.IsValid() {
		return "any"
	}
	return a.String()
}

// collides tells whether a packet could be meant for both.
func (b booking) collides(o booking) bool {
	return b.proto == o.proto && b.hostPort == o.hostPort &&
		(b.hostIP == o.hostIP || !b.hostIP.IsValid() || !o.hostIP.IsValid())
}

func (n *Network) reservePorts(req Request) error {
	if len(req.Ports) == 0 {
		return nil
	}
	booked, err := n.bookings()
	if err != nil {
		return err
	}
	for _, p := range req.Ports {
		b := p.booking(req.Name)
		err := unbooked(p, b, booked)
		if err == nil && p.Optional {
			err = n.unused(p)
		}
		if err != nil && p.Optional {
			n.log.Info("a port of the host is left out", "task", req.Name, "reason", err)
			continue
		}
		if err != nil {
			return err
		}
		if err := os.Symlink(b.owner(), n.bookingPath(b)); err != nil {
			return err
		}
		booked = append(booked, b)
	}
	return nil
}

// unbooked refuses a port that somebody has.
func unbooked(p PortMap, b booking, booked []booking) error {
	for _, o := range booked {
		if b.collides(o) {
			return fmt.Errorf("port %q: task %s cannot have host port %s for its port %d, because task %s has it for its port %d",
				p.Label, b.name, p.host(), b.taskPort, o.name, o.taskPort)
		}
	}
	return nil
}

// has tells whether the task has booked the port.
func (n *Network) has(name string, p PortMap) bool {
	b := p.booking(name)
	owner, err := os.Readlink(n.bookingPath(b))
	return err == nil && owner == b.owner()
}

func (n *Network) bookingPath(b booking) string {
	return filepath.Join(n.StateDir, portDir, b.file())
}

func (n *Network) bookings() ([]booking, error) {
	owners, err := readLinks(filepath.Join(n.StateDir, portDir))
	if err != nil {
		return nil, err
	}
	var bs []booking
	for file, owner := range owners {
		b, err := parseBooking(file, owner)
		if err != nil {
			return nil, err
		}
		bs = append(bs, b)
	}
	return bs, nil
}

// booked are the ports that the task has.
func (n *Network) booked(name string) ([]PortMap, error) {
	all, err := n.bookings()
	var ports []PortMap
	for _, b := range all {
		if b.name == name {
			ports = append(ports, b.portMap())
		}
	}
	return ports, err
}

func (p PortMap) booking(name string) booking {
	return booking{proto: p.Proto, hostPort: p.HostPort, hostIP: p.hostIP(), name: name, taskPort: p.TaskPort}
}

func (b booking) portMap() PortMap {
	return PortMap{HostIP: b.hostIP, HostPort: b.hostPort, TaskPort: b.taskPort, Proto: b.proto}
}

func (n *Network) releasePorts(name string) error {
	return n.release(portDir, func(owner string) bool {
		o, _, _ := strings.Cut(owner, ":")
		return o == name
	})
}

func (n *Network) release(dir string, mine func(owner string) bool) error {
	dir = filepath.Join(n.StateDir, dir)
	owners, err := readLinks(dir)
	if err != nil {
		return err
	}
	for file, owner := range owners {
		if !mine(owner) {
			continue
		}
		if err := remove(filepath.Join(dir, file)); err != nil {
			return err
		}
	}
	return nil
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// reservedNames is every task with a reservation; it may repeat itself.
func (n *Network) reservedNames() ([]string, error) {
	shared, err := readLinks(filepath.Join(n.StateDir, sharedDir))
	if err != nil {
		return nil, err
	}
	names := slices.Collect(maps.Keys(shared))
	for _, d := range []string{addressDir, portDir} {
		owners, err := readLinks(filepath.Join(n.StateDir, d))
		if err != nil {
			return nil, err
		}
		for _, owner := range owners {
			name, _, _ := strings.Cut(owner, ":")
			names = append(names, name)
		}
	}
	return names, nil
}

// readLinks maps a folder's links to where they point. A missing folder has none.
func readLinks(dir string) (map[string]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	links := make(map[string]string, len(entries))
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // released meanwhile
		}
		if err != nil {
			return nil, err
		}
		links[e.Name()] = target
	}
	return links, nil
}
