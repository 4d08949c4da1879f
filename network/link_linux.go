package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const insideName = "eth0"

// connect makes the pair with its far end already in the cell, so that no
// moment leaves that end on the host, and taking away either end takes both.
func (n *Network) connect(_ context.Context, req Request, a Attachment) error {
	cell, err := netns.GetFromPath(req.Cell)
	if err != nil {
		return fmt.Errorf("network namespace %s: %w", req.Cell, err)
	}
	defer cell.Close()
	bridge, err := netlink.LinkByName(n.Bridge)
	if err != nil {
		return fmt.Errorf("bridge %s: %w", n.Bridge, err)
	}
	pair := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{
			Name:         a.Interface,
			MasterIndex:  bridge.Attrs().Index,
			MTU:          bridge.Attrs().MTU,
			TxQLen:       -1,
			Flags:        net.FlagUp,
			HardwareAddr: hardwareAddr(a.IPv4, 'a'),
		},
		PeerName:         insideName,
		PeerHardwareAddr: hardwareAddr(a.IPv4, 'b'),
		PeerNamespace:    netlink.NsFd(cell),
	}
	if err := netlink.LinkAdd(pair); err != nil {
		return err
	}
	if err := netlink.LinkSetAlias(pair, n.describe(req.TaskID)); err != nil {
		return fmt.Errorf("alias: %w", err)
	}
	// With br_netfilter a packet to the task's own port of the host is
	// redirected inside the bridge and must leave where it came from.
	if err := netlink.LinkSetHairpin(pair, true); err != nil {
		return fmt.Errorf("hairpin mode: %w", err)
	}
	return n.configureInside(cell, a)
}

func (n *Network) configureInside(cell netns.NsHandle, a Attachment) error {
	in, err := netlink.NewHandleAt(cell, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer in.Close()
	for _, name := range []string{"lo", insideName} {
		link, err := in.LinkByName(name)
		if err != nil {
			return fmt.Errorf("%s in the jail: %w", name, err)
		}
		if err := in.LinkSetUp(link); err != nil {
			return fmt.Errorf("%s in the jail: %w", name, err)
		}
		if name == insideName {
			err = n.configureAddresses(in, link, a)
		}
		if err != nil {
			return fmt.Errorf("%s in the jail: %w", name, err)
		}
	}
	return nil
}

func (n *Network) configureAddresses(in *netlink.Handle, link netlink.Link, a Attachment) error {
	ways := []struct {
		own     netip.Prefix
		gateway netip.Addr
	}{
		{netip.PrefixFrom(a.IPv4, n.Subnet.Bits()), n.plan.gateway()},
		{netip.PrefixFrom(a.IPv6, n.Subnet6.Bits()), n.plan.gateway6()},
	}
	for _, w := range ways {
		if !w.own.IsValid() {
			continue
		}
		if err := in.AddrAdd(link, linkAddr(w.own)); err != nil {
			return fmt.Errorf("address %s: %w", w.own, err)
		}
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: w.gateway.AsSlice()}
		if err := in.RouteAdd(route); err != nil {
			return fmt.Errorf("default route %s: %w", w.gateway, err)
		}
	}
	return nil
}

func (n *Network) disconnect(name string) error {
	link, err := netlink.LinkByName(hostEnd(name))
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return err
	}
	err = netlink.LinkDel(link)
	if errors.Is(err, unix.ENODEV) {
		return nil // went with the jail
	}
	return err
}

func (n *Network) connected(name string) (bool, error) {
	_, err := netlink.LinkByName(hostEnd(name))
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return false, nil
	}
	return err == nil, err
}

// markedInterfaces names the tasks whose interfaces bear this driver's mark.
func (n *Network) markedInterfaces() ([]string, error) {
	links, err := complete(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var names []string
	for _, l := range links {
		name, ok := taskOf(l.Attrs().Name)
		if ok && strings.HasPrefix(l.Attrs().Alias, n.Anchor+" ") {
			names = append(names, name)
		}
	}
	return names, nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
