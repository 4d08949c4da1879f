package network

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// hostIP is the zero Addr when the port is meant for all of the host's.
func (p PortMap) hostIP() netip.Addr {
	if p.HostIP.IsUnspecified() {
		return netip.Addr{}
	}
	return p.HostIP.Unmap()
}

// host is the host's side for a person: 8080/tcp, 192.0.2.1:53/udp.
func (p PortMap) host() string {
	if ip := p.hostIP(); ip.IsValid() {
		return fmt.Sprintf("%s/%s", netip.AddrPortFrom(ip, p.HostPort), p.Proto)
	}
	return fmt.Sprintf("%d/%s", p.HostPort, p.Proto)
}

func (n *Network) valid(req Request) error {
	if !taskName.MatchString(req.Name) {
		return badName(req.Name)
	}
	if req.Within != "" && !taskName.MatchString(req.Within) {
		return badName(req.Within)
	}
	for _, p := range req.Ports {
		switch {
		case p.Proto != "tcp" && p.Proto != "udp":
			return fmt.Errorf("port %q: protocol %q: want tcp or udp", p.Label, p.Proto)
		case p.HostPort == 0:
			return fmt.Errorf("port %q has no port of the host", p.Label)
		case p.TaskPort == 0:
			return fmt.Errorf("port %q has no port of the task", p.Label)
		case p.HostIP.Zone() != "":
			return fmt.Errorf("port %q: %s: a link-local address of the host cannot lead to a jail", p.Label, p.HostIP)
		case p.hostIP().Is6() && !n.Subnet6.IsValid():
			return fmt.Errorf("port %q: host address %s needs jails with IPv6: give the plugin a subnet6", p.Label, p.HostIP)
		}
	}
	return nil
}

// redirect is one port map in one address family.
type redirect struct {
	Proto    string
	Host     netip.Addr // unspecified: all of the host's of this family
	HostPort uint16
	Task     netip.AddrPort
}

// redirects spells the port maps out: one that is meant for all addresses
// serves every family that the task has.
func redirects(a Attachment, ports []PortMap) []redirect {
	var rs []redirect
	for _, p := range ports {
		host := p.hostIP()
		if host.IsValid() {
			task := a.IPv4
			if host.Is6() {
				task = a.IPv6
			}
			rs = append(rs, redirect{p.Proto, host, p.HostPort, netip.AddrPortFrom(task, p.TaskPort)})
			continue
		}
		rs = append(rs, redirect{p.Proto, netip.IPv4Unspecified(), p.HostPort, netip.AddrPortFrom(a.IPv4, p.TaskPort)})
		if a.IPv6.IsValid() {
			rs = append(rs, redirect{p.Proto, netip.IPv6Unspecified(), p.HostPort, netip.AddrPortFrom(a.IPv6, p.TaskPort)})
		}
	}
	return rs
}

// unused refuses a port that a process on the host has open. The redirection
// would win over it, so a job could take the place of the host's own sshd.
func (n *Network) unused(p PortMap) error {
	err := tryBind(p)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("port %q: a process on the host already uses port %s", p.Label, p.host())
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("port %q: the host has no address %s", p.Label, p.HostIP)
	}
	return fmt.Errorf("port %q: host port %s: %w", p.Label, p.host(), err)
}

// tryBind binds without listening, so that nobody connects to it.
func tryBind(p PortMap) error {
	for _, ip := range probes(p) {
		err := bindOnce(p.Proto, netip.AddrPortFrom(ip, p.HostPort))
		if ip.IsUnspecified() && err != nil && !errors.Is(err, unix.EADDRINUSE) {
			continue // the host lacks a family
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func bindOnce(proto string, at netip.AddrPort) error {
	family, kind := unix.AF_INET6, unix.SOCK_STREAM
	var sa unix.Sockaddr = &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
	if at.Addr().Is4() {
		family = unix.AF_INET
		sa = &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	}
	if proto == "udp" {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if kind == unix.SOCK_STREAM || udpReuseIsExact {
		// Connections that linger from an earlier listener are no listener.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
	}
	if family == unix.AF_INET6 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return err
		}
	}
	return unix.Bind(fd, sa)
}
