package network

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// plan is who gets which address: network address, gateway, then tasks.
type plan struct {
	subnet, subnet6 netip.Prefix
	size            uint32 // addresses for tasks
}

const (
	gatewayPlace = 1
	firstPlace   = 2
)

func newPlan(subnet, subnet6 netip.Prefix) (plan, error) {
	if !subnet.IsValid() || !subnet.Addr().Is4() {
		return plan{}, fmt.Errorf("subnet %s: want an IPv4 network such as 10.209.0.0/16", subnet)
	}
	if subnet.Bits() < 8 || subnet.Bits() > 29 {
		return plan{}, fmt.Errorf("subnet %s: want a prefix length from 8 to 29", subnet)
	}
	p := plan{subnet: subnet.Masked(), size: 1<<(32-subnet.Bits()) - firstPlace - 1}
	if subnet6.IsValid() {
		if !subnet6.Addr().Is6() || subnet6.Addr().Is4In6() {
			return plan{}, fmt.Errorf("subnet6 %s: want an IPv6 network such as fd12:3456:789a::/64", subnet6)
		}
		if subnet6.Bits() > 64 {
			return plan{}, fmt.Errorf("subnet6 %s: want a prefix length of at most 64", subnet6)
		}
		p.subnet6 = subnet6.Masked()
	}
	return p, nil
}

func (p plan) gateway() netip.Addr  { return place(p.subnet, gatewayPlace) }
func (p plan) gateway6() netip.Addr { return place(p.subnet6, gatewayPlace) }

// candidate is the address that a task tries at the given attempt. The first
// depends on the name alone, so that addresses spread and are rarely used
// again soon.
func (p plan) candidate(name string, attempt uint32) netip.Addr {
	sum := sha256.Sum256([]byte(name))
	start := binary.BigEndian.Uint32(sum[:]) % p.size
	return place(p.subnet, firstPlace+(start+attempt)%p.size)
}

// ipv6 is the task's other address: the same place in the other subnet.
func (p plan) ipv6(v4 netip.Addr) netip.Addr {
	if !p.subnet6.IsValid() {
		return netip.Addr{}
	}
	return place(p.subnet6, toUint32(v4)-toUint32(p.subnet.Addr()))
}

func (p plan) attachment(name string, v4 netip.Addr) Attachment {
	return Attachment{Interface: hostEnd(name), IPv4: v4, IPv6: p.ipv6(v4), Gateway: p.gateway()}
}

// place is the i-th address of the prefix; the zero Addr for the zero Prefix.
func place(p netip.Prefix, i uint32) netip.Addr {
	switch {
	case !p.IsValid():
		return netip.Addr{}
	case p.Addr().Is4():
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], toUint32(p.Addr())+i)
		return netip.AddrFrom4(b)
	default:
		b := p.Addr().As16() // masked to at most 64 bits: the rest is zero
		binary.BigEndian.PutUint32(b[12:], i)
		return netip.AddrFrom16(b)
	}
}

func toUint32(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

// hardwareAddr is made from the IPv4 address rather than from the task, so
// that no neighbour is left with an old one when an address is used again.
func hardwareAddr(v4 netip.Addr, end byte) net.HardwareAddr {
	const local = 0x02 // locally administered, unicast (IEEE 802)
	b := v4.As4()
	return net.HardwareAddr{local, end, b[0], b[1], b[2], b[3]}
}

// inUse is a network that the host knows by an address or a route.
type inUse struct {
	Interface string
	Prefix    netip.Prefix
	Route     bool
}

// conflict tells what else on the host uses the subnets. A route wider than a
// subnet is no conflict: the subnet's own is more specific and wins.
func (n *Network) conflict(uses []inUse) error {
	for _, u := range uses {
		for _, subnet := range []netip.Prefix{n.Subnet, n.Subnet6} {
			if u.Interface == n.Bridge || !subnet.IsValid() || !subnet.Overlaps(u.Prefix) {
				continue
			}
			if u.Route && u.Prefix.Bits() < subnet.Bits() {
				continue
			}
			return fmt.Errorf("subnet %s is already used by interface %s (%s): give the plugin another one", subnet, u.Interface, u.Prefix)
		}
	}
	return nil
}

func (n *Network) checkSubnet() error {
	uses, err := networksInUse()
	if err != nil {
		return err
	}
	return n.conflict(uses)
}

// bridge is what the host has under the bridge's name.
type bridge struct {
	Marked    bool // bears this driver's mark
	Addresses []netip.Prefix
	Members   []string
}

// adoptable tells whether an existing bridge may be used: it has no other
// network's address and nobody else's members.
func (n *Network) adoptable(b bridge) error {
	for _, m := range b.Members {
		if _, ours := taskOf(m); !ours {
			return fmt.Errorf("bridge %s is already used by something else (its member %s): give the plugin another name", n.Bridge, m)
		}
	}
	for _, a := range b.Addresses {
		if a.Addr().IsLinkLocalUnicast() || a == n.gatewayPrefix() || a == n.gatewayPrefix6() {
			continue
		}
		if b.Marked && len(b.Members) == 0 {
			continue // ours from before the subnet was changed
		}
		if b.Marked {
			return fmt.Errorf("bridge %s has tasks of the subnet of %s on it: stop them before the subnet changes to %s", n.Bridge, a, n.Subnet)
		}
		return fmt.Errorf("bridge %s is already used by something else (its address %s): give the plugin another name", n.Bridge, a)
	}
	return nil
}

// missingAddresses are those of the gateway that the bridge has not: FreeBSD
// takes an address away, with its routes, when it is given once more.
func (n *Network) missingAddresses(b bridge) []netip.Prefix {
	return slices.DeleteFunc([]netip.Prefix{n.gatewayPrefix(), n.gatewayPrefix6()}, func(p netip.Prefix) bool {
		return !p.IsValid() || slices.Contains(b.Addresses, p)
	})
}

func (n *Network) gatewayPrefix() netip.Prefix {
	return netip.PrefixFrom(n.plan.gateway(), n.Subnet.Bits())
}

func (n *Network) gatewayPrefix6() netip.Prefix {
	if !n.Subnet6.IsValid() {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(n.plan.gateway6(), n.Subnet6.Bits())
}
