package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const insideName = "eth0"

// layCable has nothing to do: connect makes the pair, which is quick.
func (n *Network) layCable(Request, Attachment) error { return nil }

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
	if err := n.configureInside(cell, a, pair, bridge); err != nil {
		return err
	}
	// With br_netfilter a packet to the task's own port of the host is
	// redirected inside the bridge and must leave where it came from.
	if err := netlink.LinkSetHairpin(pair, true); err != nil {
		return fmt.Errorf("hairpin mode: %w", err)
	}
	return introduce(bridge, a)
}

// introduce tells the host who has the addresses now. It may still be asking
// after a former bearer, and would ask again only in a second.
func introduce(bridge netlink.Link, a Attachment) error {
	for _, ip := range []netip.Addr{a.IPv4, a.IPv6} {
		if !ip.IsValid() {
			continue
		}
		err := netlink.NeighSet(&netlink.Neigh{
			LinkIndex:    bridge.Attrs().Index,
			State:        netlink.NUD_REACHABLE,
			IP:           ip.AsSlice(),
			HardwareAddr: hardwareAddr(a.IPv4, 'b'),
		})
		if err != nil {
			return fmt.Errorf("neighbour %s: %w", ip, err)
		}
	}
	return nil
}

func (n *Network) configureInside(cell netns.NsHandle, a Attachment, outside ...netlink.Link) error {
	in, err := netlink.NewHandleAt(cell, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer in.Close()
	loopback, err := in.LinkByName("lo")
	if err == nil {
		err = in.LinkSetUp(loopback)
	}
	if err != nil {
		return fmt.Errorf("lo in the jail: %w", err)
	}
	inner, err := in.LinkByName(insideName)
	if err == nil {
		err = in.LinkSetUp(inner)
	}
	if err == nil {
		err = n.configureAddresses(in, inner, a)
	}
	if err == nil {
		err = awaitOperational(in, inner, outside)
	}
	if err != nil {
		return fmt.Errorf("%s in the jail: %w", insideName, err)
	}
	return nil
}

// awaitOperational: the kernel notices a carrier in the background, one
// interface after the other, and until then they drop packets. A task's first
// connection would be a second late. The state is seen a little before the
// kernel is done; the next change of a link waits for that.
func awaitOperational(in *netlink.Handle, inner netlink.Link, outside []netlink.Link) error {
	const limit, pause = 2 * time.Second, 200 * time.Microsecond
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(pause) {
		up, err := operational(in.LinkByIndex, inner)
		for _, link := range outside {
			if up && err == nil {
				up, err = operational(netlink.LinkByIndex, link)
			}
		}
		if up || err != nil {
			return err
		}
	}
	return errors.New("the pair does not come up")
}

func operational(byIndex func(int) (netlink.Link, error), link netlink.Link) (bool, error) {
	now, err := byIndex(link.Attrs().Index)
	return err == nil && now.Attrs().OperState == netlink.OperUp, err
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

func (n *Network) disconnect(_ context.Context, name string) error {
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
