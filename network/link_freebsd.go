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
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// Pairs and bridges are made with units from here on and renamed at once.
	// What is found under such a name was left by a process that was killed
	// between the two.
	firstUnit       = 16384
	units           = 16000
	firstBridgeUnit = firstUnit + units
	bridgeUnits     = 16
)

// layCable makes the pair, both ends on the host, where it needs no jail yet.
func (n *Network) layCable(req Request, a Attachment) error {
	c, err := openIfconfig()
	if err != nil {
		return err
	}
	defer c.Close()
	if err := n.createPair(c, req.Name); err != nil {
		return err
	}
	return n.configurePair(c, req, a)
}

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
	jail, err := openStack(jid)
	if err != nil {
		return err
	}
	defer jail.Close()
	for _, end := range []string{a.Interface, jailEnd(req.Name)} {
		if err := host.describe(end, n.describeJail(req)); err != nil {
			return err
		}
	}
	if err := host.giveTo(jailEnd(req.Name), jid); err != nil {
		return err
	}
	return n.configureInside(jail, req.Name, a)
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
	for i := range uint32(units) {
		made, err := c.create(fmt.Sprintf("epair%d", pairUnit(name, i)))
		if !errors.Is(err, unix.EEXIST) {
			return made, err
		}
	}
	return "", fmt.Errorf("all %d epairs are in use", units)
}

// pairUnit starts at a different one for each task, to find a free one soon.
func pairUnit(name string, attempt uint32) uint32 {
	h := fnv.New32a()
	h.Write([]byte(name))
	return firstUnit + (h.Sum32()%units+attempt)%units
}

// jailEnd keeps its name in the jail: with a common one, the ends of several
// dead jails would be namesakes on the host.
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
	inside := jailEnd(name)
	steps := []func() error{
		func() error { return s.addAddress("lo0", loopback) },
		func() error { return s.up("lo0") },
		func() error { return s.setIPv6(inside, ndPerformNUD|ndAutoLocal|ndNoDAD) },
		func() error { return s.addAddress(inside, netip.PrefixFrom(a.IPv4, n.Subnet.Bits())) },
		func() error { return s.up(inside) },
		func() error { return s.addDefaultRoute(n.plan.gateway()) },
	}
	if a.IPv6.IsValid() {
		steps = append(steps,
			func() error { return s.addAddress(inside, netip.PrefixFrom(a.IPv6, n.Subnet6.Bits())) },
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

// disconnect destroys the pair, after taking the jail's end back: FreeBSD 12.2
// panics when a pair is destroyed while the network stack that has one end is
// taken down, which happens some time after jail_remove(2). With the pair goes
// what else has the far end's name here: see takeEnd.
func (n *Network) disconnect(ctx context.Context, name string) error {
	c, err := openIfconfig()
	if err != nil {
		return err
	}
	defer c.Close()
	near := hostEnd(name)
	there, err := c.exists(near)
	if err != nil {
		return err
	}
	if there {
		if err := n.takeBack(ctx, c, name); err != nil {
			return err
		}
	}
	return errors.Join(c.destroy(near), c.destroy(jailEnd(name)))
}

// takeBack returns when the far end is on the host. It stays in a jail that
// lives and has renamed it, which does no harm.
func (n *Network) takeBack(ctx context.Context, c *ifconfig, name string) error {
	const limit, pause = 10 * time.Second, 2 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	description, err := c.description(hostEnd(name))
	if err != nil {
		return err
	}
	jid := n.describedJail(description)
	for {
		here, err := pairIsHere(hostEnd(name))
		if err != nil || here {
			return err
		}
		err = takeEnd(c, name, jid)
		if err == nil || jailLives(jid) {
			return nil
		}
		// Its network stack is being taken down, and hands the end back.
		select {
		case <-ctx.Done():
			return fmt.Errorf("jail %d was removed but still holds the other end: %w", jid, err)
		case <-time.After(pause):
		}
	}
}

// takeEnd moves the far end to the host. Root in the jail can have given its
// name to an interface of the jail's own, such as lo1. That goes back, to end
// with the jail: not every release lets the host destroy it.
func takeEnd(c *ifconfig, name string, jid int) error {
	far := jailEnd(name)
	if err := c.takeFrom(far, jid); err != nil {
		return err
	}
	here, err := pairIsHere(hostEnd(name))
	if err != nil || here {
		return err
	}
	return errors.Join(fmt.Errorf("what is called %s in jail %d is not the pair's end", far, jid), c.giveTo(far, jid))
}

// describeJail is the description of both ends of a pair that leads into a jail; describedJail reads it.
func (n *Network) describeJail(req Request) string {
	return n.describe("jail " + req.Cell + " " + req.TaskID)
}

func (n *Network) describedJail(description string) int {
	var jid int
	if _, err := fmt.Sscanf(description, n.Anchor+" jail %d ", &jid); err != nil {
		return 0
	}
	return jid
}

// pairIsHere tells whether both ends are in the host's network stack. Whoever
// is root in a jail can change its end's name and addresses, but not which
// driver's interface it is.
func pairIsHere(near string) (bool, error) {
	ifs, err := net.Interfaces()
	if err != nil {
		return false, err
	}
	count := map[string]int{}
	var pair string
	for _, i := range ifs {
		driver := driverName(i.Index)
		count[driver]++
		if i.Name == near {
			pair = driver
		}
	}
	return count[pair] == 2, nil
}

// driverName is such as epair16384, and empty for an interface that has gone.
func driverName(index int) string {
	const ifdataDriverName = 3 // ifmib(4)
	b, err := unix.SysctlRaw("net.link.generic.ifdata", index, ifdataDriverName)
	if err != nil {
		return ""
	}
	return unix.ByteSliceToString(b)
}

// jailLives tells of a jail that is neither gone nor dying.
func jailLives(jid int) bool {
	name, value := []byte("jid\x00"), int32(jid)
	iovs := [2]unix.Iovec{
		{Base: &name[0], Len: uint64(len(name))},
		{Base: (*byte)(unsafe.Pointer(&value)), Len: uint64(unsafe.Sizeof(value))},
	}
	_, _, errno := unix.Syscall(unix.SYS_JAIL_GET, uintptr(unsafe.Pointer(&iovs[0])), uintptr(len(iovs)), 0)
	return errno == 0
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
	return ok && err == nil && unit >= firstUnit && unit < firstUnit+units
}
