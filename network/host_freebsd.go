package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/net/route"
	"golang.org/x/sys/unix"
)

const defaultMTU = 1500

func (n *Network) prepareHost(ctx context.Context) error {
	if err := privileged(os.Geteuid()); err != nil {
		return about(partPf, err)
	}
	if err := vnetError(unix.SysctlUint32("kern.features.vimage")); err != nil {
		return about(partVNET, err)
	}
	for _, m := range []struct{ name, part string }{{"if_bridge", partBridge}, {"if_epair", partVNET}} {
		if err := loadModule(m.name); err != nil {
			return about(m.part, err)
		}
	}
	uses, err := networksInUse()
	if err != nil {
		return err
	}
	if err := n.conflict(uses); err != nil {
		return about(partSubnet, err)
	}
	c, err := openIfconfig()
	if err != nil {
		return err
	}
	defer c.Close()
	if err := removeHalfMade(c); err != nil {
		return err
	}
	if err := n.prepareBridge(c); err != nil {
		return about(partBridge, err)
	}
	return about(partPf, n.prepareRules(ctx, n.uplinks(uses)))
}

func (n *Network) checkHost(ctx context.Context) []Part {
	return append([]Part{
		{partVNET, vnetError(unix.SysctlUint32("kern.features.vimage"))},
		{partForwarding, n.forwardingError(unix.SysctlUint32)},
		{partBridge, n.checkBridge()},
		{partSubnet, n.checkSubnet()},
	}, n.checkPf(ctx)...)
}

func (n *Network) checkBridge() error {
	c, err := openIfconfig()
	if err != nil {
		return err
	}
	defer c.Close()
	b, err := n.existingBridge(c)
	if err != nil || b == nil {
		return err
	}
	return n.adoptable(*b)
}

// loadModule loads what is neither loaded nor compiled in, as ifconfig(8) does.
func loadModule(name string) error {
	if hasModule(name) {
		return nil
	}
	p, err := unix.BytePtrFromString(name)
	if err != nil {
		return err
	}
	_, _, errno := unix.Syscall(unix.SYS_KLDLOAD, uintptr(unsafe.Pointer(p)), 0, 0)
	if errno != 0 && errno != unix.EEXIST {
		return fmt.Errorf("kernel module %s: %w; add %s_load=\"YES\" to /boot/loader.conf", name, errno, name)
	}
	return nil
}

func hasModule(name string) bool {
	p, err := unix.BytePtrFromString(name)
	if err != nil {
		return false
	}
	_, _, errno := unix.Syscall(unix.SYS_MODFIND, uintptr(unsafe.Pointer(p)), 0, 0)
	return errno == 0
}

// networksInUse is every address and every route that is not a default route.
func networksInUse() ([]inUse, error) {
	ifs, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var uses []inUse
	names := map[int]string{}
	for _, i := range ifs {
		names[i.Index] = i.Name
		prefixes, err := addressesOf(i)
		if err != nil {
			return nil, err
		}
		for _, p := range prefixes {
			uses = append(uses, inUse{Interface: i.Name, Prefix: p})
		}
	}
	routes, err := routeTable()
	if err != nil {
		return nil, err
	}
	for _, m := range routes {
		// A route by way of a gateway: those on a link belong to its address.
		if p, ok := destination(m); ok && m.Flags&unix.RTF_GATEWAY != 0 && p.Bits() > 0 {
			uses = append(uses, inUse{Interface: names[m.Index], Prefix: p, Route: true})
		}
	}
	return uses, nil
}

func addressesOf(i net.Interface) ([]netip.Prefix, error) {
	addrs, err := i.Addrs()
	if err != nil {
		return nil, fmt.Errorf("addresses of %s: %w", i.Name, err)
	}
	var prefixes []netip.Prefix
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			prefixes = append(prefixes, p)
		}
	}
	return prefixes, nil
}

func routeTable() ([]*route.RouteMessage, error) {
	rib, err := route.FetchRIB(unix.AF_UNSPEC, route.RIBTypeRoute, 0)
	if err != nil {
		return nil, fmt.Errorf("routing table: %w", err)
	}
	messages, err := route.ParseRIB(route.RIBTypeRoute, rib)
	if err != nil {
		return nil, fmt.Errorf("routing table: %w", err)
	}
	var routes []*route.RouteMessage
	for _, m := range messages {
		if r, ok := m.(*route.RouteMessage); ok {
			routes = append(routes, r)
		}
	}
	return routes, nil
}

// destination of a route; a missing netmask is a host route.
func destination(m *route.RouteMessage) (netip.Prefix, bool) {
	if len(m.Addrs) <= unix.RTAX_NETMASK {
		return netip.Prefix{}, false
	}
	dst, mask := m.Addrs[unix.RTAX_DST], m.Addrs[unix.RTAX_NETMASK]
	switch dst := dst.(type) {
	case *route.Inet4Addr:
		bits := 32
		if mask, ok := mask.(*route.Inet4Addr); ok {
			bits, _ = net.IPMask(mask.IP[:]).Size()
		}
		return netip.PrefixFrom(netip.AddrFrom4(dst.IP), bits), true
	case *route.Inet6Addr:
		bits := 128
		if mask, ok := mask.(*route.Inet6Addr); ok {
			bits, _ = net.IPMask(mask.IP[:]).Size()
		}
		return netip.PrefixFrom(netip.AddrFrom16(dst.IP), bits), true
	}
	return netip.Prefix{}, false
}

func (n *Network) prepareBridge(c *ifconfig) error {
	b, err := n.existingBridge(c)
	if err != nil {
		return err
	}
	if b == nil {
		b = new(bridge)
		if err := n.createBridge(c); err != nil {
			return err
		}
	}
	if err := n.adoptBridge(c, *b); err != nil {
		return err
	}
	if err := c.addGroup(n.Bridge, pfGroup); err != nil {
		return err
	}
	if n.Subnet6.IsValid() {
		if err := c.setIPv6(n.Bridge, ndPerformNUD|ndNoDAD); err != nil {
			return err
		}
	}
	for _, p := range n.missingAddresses(*b) {
		if err := c.addAddress(n.Bridge, p); err != nil {
			return err
		}
	}
	return c.up(n.Bridge)
}

func (n *Network) createBridge(c *ifconfig) error {
	made, err := createBridgeUnit(c)
	if err != nil {
		return err
	}
	for _, step := range []func() error{
		func() error { return c.setMTU(made, outgoingMTU()) },
		func() error { return c.setHardwareAddr(made, hardwareAddr(n.plan.gateway(), 'h')) },
		func() error { return c.describe(made, n.Anchor) },
		func() error { return c.rename(made, n.Bridge) },
	} {
		if err := step(); err != nil {
			return errors.Join(err, c.destroy(made))
		}
	}
	return nil
}

// createBridgeUnit makes a bridge, or finds one that was never renamed.
func createBridgeUnit(c *ifconfig) (string, error) {
	for i := range bridgeUnits {
		name := fmt.Sprintf("bridge%d", firstBridgeUnit+i)
		_, err := c.create(name)
		if !errors.Is(err, unix.EEXIST) {
			return name, err
		}
		half, err := c.exists(name)
		if err != nil || half {
			return name, err
		}
	}
	return "", fmt.Errorf("bridges %d to %d are in use", firstBridgeUnit, firstBridgeUnit+bridgeUnits-1)
}

// existingBridge is nil where nothing has the bridge's name.
func (n *Network) existingBridge(c *ifconfig) (*bridge, error) {
	there, err := c.exists(n.Bridge)
	if err != nil || !there {
		return nil, err
	}
	members, err := c.members(n.Bridge)
	if err != nil {
		return nil, fmt.Errorf("bridge %s is already used by something else, which is no bridge: give the plugin another name", n.Bridge)
	}
	mark, err := c.description(n.Bridge)
	if err != nil {
		return nil, err
	}
	iface, err := net.InterfaceByName(n.Bridge)
	if err != nil {
		return nil, err
	}
	addresses, err := addressesOf(*iface)
	return &bridge{Marked: mark == n.Anchor, Addresses: addresses, Members: members}, err
}

func (n *Network) adoptBridge(c *ifconfig, b bridge) error {
	if err := n.adoptable(b); err != nil {
		return err
	}
	for _, p := range b.Addresses {
		if p == n.gatewayPrefix() || p == n.gatewayPrefix6() || p.Addr().IsLinkLocalUnicast() {
			continue
		}
		if err := c.removeAddress(n.Bridge, p); err != nil {
			return err
		}
	}
	return nil
}

// outgoingMTU is that of the way out, where it is smaller than Ethernet's: in
// a tunnel or a cloud's network larger packets would be lost.
func outgoingMTU() int {
	routes, err := routeTable()
	if err != nil {
		return defaultMTU
	}
	for _, m := range routes {
		if p, ok := destination(m); !ok || p.Bits() > 0 || !p.Addr().Is4() {
			continue
		}
		if i, err := net.InterfaceByIndex(m.Index); err == nil {
			return min(defaultMTU, i.MTU)
		}
	}
	return defaultMTU
}

// udpReuseIsExact: with SO_REUSEADDR, FreeBSD lets sockets of either protocol
// have one port unless their addresses are the same.
const udpReuseIsExact = true

// probes are the addresses to bind to find that a port is in use: all, and
// each by itself.
func probes(p PortMap) []netip.Addr {
	ips := []netip.Addr{netip.IPv6Unspecified(), netip.IPv4Unspecified()}
	if ip := p.hostIP(); ip.IsValid() {
		return append(ips, ip)
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return ips
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLinkLocalUnicast() {
			ips = append(ips, p.Addr())
		}
	}
	return ips
}
