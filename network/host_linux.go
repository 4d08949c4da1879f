package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const defaultMTU = 1500

func (n *Network) prepareHost(ctx context.Context) error {
	for _, step := range []struct {
		part string
		do   func() error
	}{
		{partNftables, n.checkTools},
		{partSubnet, n.checkSubnet},
		{partBridge, n.prepareBridge},
		{partForwarding, n.enableForwarding},
		{partNftables, func() error { return n.prepareRules(ctx) }},
	} {
		if err := step.do(); err != nil {
			return about(step.part, err)
		}
	}
	return nil
}

func (n *Network) checkHost(context.Context) []Part {
	return []Part{
		{partForwarding, n.checkForwarding()},
		{partBridge, n.checkBridge()},
		{partSubnet, n.checkSubnet()},
		{partNftables, n.checkTools()},
	}
}

// checkForwarding: Prepare switches forwarding on where it may.
func (n *Network) checkForwarding() error {
	names := []string{"net/ipv4/ip_forward"}
	if n.Subnet6.IsValid() {
		names = append(names, "net/ipv6/conf/all/forwarding")
	}
	for _, name := range names {
		path := "/proc/sys/" + name
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(b)) == "1" {
			continue
		}
		if err := unix.Access(path, unix.W_OK); err != nil {
			return fmt.Errorf("the host does not forward packets for its jails, and %s cannot be changed (%w): add %s = 1 to /etc/sysctl.conf and run `sysctl -p`",
				path, err, strings.ReplaceAll(name, "/", "."))
		}
	}
	return nil
}

func (n *Network) checkBridge() error {
	link, err := netlink.LinkByName(n.Bridge)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil // Prepare makes it
	}
	if err != nil {
		return fmt.Errorf("bridge %s: %w", n.Bridge, err)
	}
	b, err := n.existingBridge(link)
	if err != nil {
		return err
	}
	return n.adoptable(b)
}

// networksInUse is every address and every route that is not a default route.
func networksInUse() ([]inUse, error) {
	links, err := complete(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	addrs, err := complete(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var uses []inUse
	for _, a := range addrs {
		uses = append(uses, inUse{Interface: names[a.LinkIndex], Prefix: prefixOf(a)})
	}
	routes, err := complete(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if p, ok := destination(r); ok && p.Bits() > 0 {
			uses = append(uses, inUse{Interface: names[r.LinkIndex], Prefix: p, Route: true})
		}
	}
	return uses, nil
}

func prefixOf(a netlink.Addr) netip.Prefix {
	ip, _ := netip.AddrFromSlice(a.IP)
	bits, _ := a.Mask.Size()
	return netip.PrefixFrom(ip.Unmap(), bits)
}

func destination(r netlink.Route) (netip.Prefix, bool) {
	if r.Dst == nil {
		return netip.Prefix{}, false
	}
	ip, ok := netip.AddrFromSlice(r.Dst.IP)
	bits, _ := r.Dst.Mask.Size()
	return netip.PrefixFrom(ip.Unmap(), bits), ok
}

func (n *Network) prepareBridge() error {
	link, err := netlink.LinkByName(n.Bridge)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		link, err = n.createBridge()
	}
	if err != nil {
		return fmt.Errorf("bridge %s: %w", n.Bridge, err)
	}
	b, err := n.adoptBridge(link)
	if err != nil {
		return err
	}
	for _, p := range n.missingAddresses(b) {
		if err := netlink.AddrReplace(link, linkAddr(p)); err != nil {
			return fmt.Errorf("bridge %s: address %s: %w", n.Bridge, p, err)
		}
	}
	if err := n.skipAddressDetection(); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bridge %s: %w", n.Bridge, err)
	}
	return nil
}

// skipAddressDetection: the bridge has no carrier before its first member, and
// would start only then to look for a second bearer of its link-local address;
// until done, in a second or two, it asks for no jail's hardware address.
func (n *Network) skipAddressDetection() error {
	if !n.Subnet6.IsValid() {
		return nil
	}
	return n.setSysctl("net/ipv6/conf/"+n.Bridge+"/accept_dad", "0")
}

// createBridge gives the bridge an address of its own: left to the kernel it
// changes with the members, and the jails' neighbour tables do not.
func (n *Network) createBridge() (netlink.Link, error) {
	err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{
		Name:         n.Bridge,
		MTU:          outgoingMTU(),
		TxQLen:       -1,
		HardwareAddr: hardwareAddr(n.plan.gateway(), 'h'),
	}})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, err
	}
	link, err := netlink.LinkByName(n.Bridge)
	if err != nil {
		return nil, err
	}
	return link, netlink.LinkSetAlias(link, n.Anchor)
}

// outgoingMTU is that of the way out, where it is smaller than Ethernet's: in
// a tunnel or a cloud's network larger packets would be lost.
func outgoingMTU() int {
	routes, err := complete(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return defaultMTU
	}
	for _, r := range routes {
		if p, ok := destination(r); ok && p.Bits() > 0 {
			continue
		}
		if l, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
			return min(defaultMTU, l.Attrs().MTU)
		}
	}
	return defaultMTU
}

// existingBridge is what has the bridge's name.
func (n *Network) existingBridge(link netlink.Link) (bridge, error) {
	b := bridge{Marked: link.Attrs().Alias == n.Anchor}
	if link.Type() != "bridge" {
		return b, fmt.Errorf("bridge %s is already used by something else (a %s interface): give the plugin another name", n.Bridge, link.Type())
	}
	addrs, err := complete(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return b, err
	}
	links, err := complete(netlink.LinkList)
	if err != nil {
		return b, err
	}
	for _, a := range addrs {
		b.Addresses = append(b.Addresses, prefixOf(a))
	}
	for _, l := range links {
		if l.Attrs().MasterIndex == link.Attrs().Index {
			b.Members = append(b.Members, l.Attrs().Name)
		}
	}
	return b, nil
}

func (n *Network) adoptBridge(link netlink.Link) (bridge, error) {
	b, err := n.existingBridge(link)
	if err != nil {
		return b, err
	}
	if err := n.adoptable(b); err != nil {
		return b, err
	}
	for _, p := range b.Addresses {
		if p != n.gatewayPrefix() && p != n.gatewayPrefix6() && !p.Addr().IsLinkLocalUnicast() {
			if err := netlink.AddrDel(link, &netlink.Addr{IPNet: ipNet(p)}); err != nil {
				return b, fmt.Errorf("bridge %s: former address %s: %w", n.Bridge, p, err)
			}
		}
	}
	return b, nil
}

func linkAddr(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD // ours alone, and at once
	}
	return a
}

// enableForwarding lets the host route between the bridge and its networks,
// and answer its own connections to 127.0.0.1 from a jail.
func (n *Network) enableForwarding() error {
	if err := n.setSysctl("net/ipv4/conf/"+n.Bridge+"/route_localnet", "1"); err != nil {
		return err
	}
	if err := n.setSysctl("net/ipv4/ip_forward", "1"); err != nil {
		return err
	}
	if !n.Subnet6.IsValid() {
		return nil
	}
	if err := n.keepRouterAdvertisements(); err != nil {
		return err
	}
	return n.setSysctl("net/ipv6/conf/all/forwarding", "1")
}

// keepRouterAdvertisements: a host that forwards no longer learns its own
// default route from advertisements, unless told to (accept_ra = 2).
func (n *Network) keepRouterAdvertisements() error {
	paths, err := filepath.Glob("/proc/sys/net/ipv6/conf/*/accept_ra")
	if err != nil {
		return err
	}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the interface went away
		}
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(b)) != "1" {
			continue
		}
		if err := os.WriteFile(p, []byte("2"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (n *Network) setSysctl(name, value string) error {
	path := "/proc/sys/" + name
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(b)) == value {
		return nil
	}
	n.log.Info("setting sysctl", "name", strings.ReplaceAll(name, "/", "."), "value", value)
	return os.WriteFile(path, []byte(value), 0)
}

// udpReuseIsExact: with SO_REUSEADDR, Linux lets two UDP sockets have one
// address and port.
const udpReuseIsExact = false

// probes are the addresses to bind to find that a port is in use. A port that
// is bound for one address cannot be bound for all, nor the other way round.
func probes(p PortMap) []netip.Addr {
	if ip := p.hostIP(); ip.IsValid() {
		return []netip.Addr{ip}
	}
	return []netip.Addr{netip.IPv6Unspecified(), netip.IPv4Unspecified()}
}
