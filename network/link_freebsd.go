package network

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	insideName = "vnet0"
	// Pairs and the bridge are made with units from here on and renamed at
	// once. What is found under such a name was left by a process that was
	// killed between the two.
	firstUnit, lastUnit = 16384, 32766
	bridgeUnit          = 32766
)

func (n *Network) connect(_ context.Context, req Request, a Attachment) error {
	jid, err := strconv.Atoi(req.Cell)
	if err != nil {
		return fmt.Errorf("jail %q: want its number", req.Cell)
	}
	host, err := openIfconfig()
	if err != nil {
		return err
	}
	defer host.Close()
	inside, err := openStack(jid)
	if err != nil {
		return err
	}
	defer inside.Close()
	if err := n.createPair(host, req.Name); err != nil {
		return err
	}
	if err := n.configurePair(host, req, a); err != nil {
		return err
	}
	if err := host.giveTo(jailEnd(req.Name), jid); err != nil {
		return err
	}
	return n.configureInside(inside, req.Name, a)
}

// createPair holds the lock, so that whoever holds it knows that an epair in
// our range is nobody's.
func (n *Network) createPair(c *ifconfig, name string) error {
	unlock, err := n.lock()
	if err != nil {
		return err
	}
	defer unlock()
	made, err := createPairUnit(c, name)
	if err != nil {
		return err
	}
	pair, _ := trimEnd(made)
	for _, end := range []string{"a", "b"} {
		if err := c.rename(pair+end, name+end); err != nil {
			return errors.Join(err, c.destroy(made))
		}
	}
	return nil
}

// createPairUnit tries units until one is free.
func createPairUnit(c *ifconfig, name string) (string, error) {
	h := fnv.New32a()
	h.Write([]byte(name))
	const units = bridgeUnit - firstUnit
	for i := range uint32(units) {
		made, err := c.create(fmt.Sprintf("epair%d", firstUnit+(h.Sum32()+i)%units))
		if !errors.Is(err, unix.EEXIST) {
			return made, err
		}
	}
	return "", fmt.Errorf("all %d epairs are in use", units)
}

func jailEnd(name string) string { return name + "b" }

func (n *Network) configurePair(c *ifconfig, req Request, a Attachment) error {
	mtu, err := c.mtu(n.Bridge)
	if err != nil {
		return err
	}
	near, far := a.Interface, jailEnd(req.Name)
	for _, step := range []func() error{
		func() error { return c.describe(near, n.describe(req.TaskID)) },
		func() error { return c.describe(far, n.describe(req.TaskID)) },
		func() error { return c.addGroup(near, pfGroup) },
		func() error { return c.setHardwareAddr(near, hardwareAddr(a.IPv4, 'a')) },
		func() error { return c.setHardwareAddr(far, hardwareAddr(a.IPv4, 'b')) },
		func() error { return c.setMTU(near, mtu) },
		func() error { return c.setMTU(far, mtu) },
		func() error { return c.setIPv6(near, ndDisabled) }, // a bridge's member has no addresses
		func() error { return c.addMember(n.Bridge, near) },
		func() error { return c.up(near) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (n *Network) configureInside(s *stack, name string, a Attachment) error {
	loopback := netip.MustParsePrefix("127.0.0.1/8")
	steps := []func() error{
		func() error { return s.rename(jailEnd(name), insideName) },
		func() error { return s.addAddress("lo0", loopback) },
		func() error { return s.up("lo0") },
		func() error { return s.setIPv6(insideName, ndPerformNUD|ndAutoLocal|ndNoDAD) },
		func() error { return s.addAddress(insideName, netip.PrefixFrom(a.IPv4, n.Subnet.Bits())) },
		func() error { return s.up(insideName) },
		func() error { return s.addDefaultRoute(n.plan.gateway()) },
	}
	if a.IPv6.IsValid() {
		steps = append(steps,
			func() error { return s.addAddress(insideName, netip.PrefixFrom(a.IPv6, n.Subnet6.Bits())) },
			func() error { return s.addDefaultRoute(n.plan.gateway6()) },
		)
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("in the jail: %w", err)
		}
	}
	return nil
}

// disconnect takes both ends, wherever the jail's is.
func (n *Network) disconnect(name string) error {
	c, err := openIfconfig()
	if err != nil {
		return err
	}
	defer c.Close()
	return c.destroy(hostEnd(name))
}

func (n *Network) connected(name string) (bool, error) {
	c, err := openIfconfig()
	if err != nil {
		return false, err
	}
	defer c.Close()
	return c.exists(hostEnd(name))
}

// markedInterfaces names the tasks whose interfaces bear this driver's mark.
func (n *Network) markedInterfaces() ([]string, error) {
	c, err := openIfconfig()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	ends, err := interfacesWhere(func(iface string) bool {
		_, ours := taskOf(iface)
		return ours
	})
	if err != nil {
		return nil, err
	}
	ends, err = c.described(n.Anchor, ends)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, end := range ends {
		name, _ := taskOf(end)
		names = append(names, name)
	}
	return names, nil
}

func interfacesWhere(keep func(name string) bool) ([]string, error) {
	ifs, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, i := range ifs {
		if keep(i.Name) {
			names = append(names, i.Name)
		}
	}
	return names, nil
}

// removeHalfMade destroys pairs that were never renamed. The lock is held.
func removeHalfMade(c *ifconfig) error {
	halves, err := interfacesWhere(halfMadePair)
	if err != nil {
		return err
	}
	for _, name := range halves {
		if err := c.destroy(name); err != nil {
			return err
		}
	}
	return nil
}

func halfMadePair(iface string) bool {
	pair, _ := trimEnd(iface)
	digits, ok := strings.CutPrefix(pair, "epair")
	unit, err := strconv.Atoi(digits)
	return ok && err == nil && unit >= firstUnit && unit <= lastUnit
}
