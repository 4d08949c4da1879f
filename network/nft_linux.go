package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func (n *Network) checkTools() error {
	if err := privileged(os.Geteuid()); err != nil {
		return err
	}
	if _, err := exec.LookPath("nft"); err != nil {
		return errors.New("nft is missing: install the package nftables")
	}
	_, err := n.hasTable()
	return err
}

// prepareRules loads the shared rules, and the ports of the tasks that are up
// when somebody flushed the ruleset.
func (n *Network) prepareRules(ctx context.Context) error {
	there, err := n.hasTable()
	if err != nil {
		return err
	}
	var stderr bytes.Buffer
	nft := exec.CommandContext(ctx, "nft", "-f", "-")
	nft.Stdin, nft.Stderr = strings.NewReader(n.nftRules()), &stderr
	if err := nft.Run(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	if there {
		return nil
	}
	return n.restorePorts()
}

func (n *Network) restorePorts() error {
	bookings, err := n.bookings()
	if err != nil {
		return err
	}
	conn := new(nftables.Conn)
	for _, b := range bookings {
		a, up, err := n.Find(b.name)
		if err != nil {
			return err
		}
		if !up {
			continue
		}
		if err := n.queue(conn, b.name, redirects(a, []PortMap{b.portMap()})); err != nil {
			return err
		}
	}
	return conn.Flush()
}

func (n *Network) queue(conn *nftables.Conn, name string, rs []redirect) error {
	for _, r := range rs {
		e, err := nftElement(r)
		if err != nil {
			return err
		}
		elements := []nftables.SetElement{{Key: e.Key, Val: e.Val, Comment: name}}
		if err := conn.SetAddElements(n.nftMap(e.Map), elements); err != nil {
			return err
		}
	}
	return nil
}

func (n *Network) nftMap(name string) *nftables.Set {
	table := &nftables.Table{Name: n.Anchor, Family: nftables.TableFamilyINet}
	return &nftables.Set{Table: table, Name: name, IsMap: true, Concatenation: true}
}

func (n *Network) addRules(ctx context.Context, name string, _ Attachment, rs []redirect) error {
	unlock, err := n.lock()
	if err != nil {
		return err
	}
	defer unlock()
	err = n.addElements(name, rs)
	if errors.Is(err, unix.ENOENT) {
		n.log.Warn("nftables table is gone, making it again", "table", n.Anchor)
		if err := n.prepareRules(ctx); err != nil {
			return err
		}
		err = n.addElements(name, rs)
	}
	if err != nil {
		return err
	}
	return forgetUDP(rs)
}

func (n *Network) addElements(name string, rs []redirect) error {
	conn := new(nftables.Conn)
	if err := n.queue(conn, name, rs); err != nil {
		return err
	}
	return conn.Flush()
}

// removeRules also ends the connections that the rules let through.
func (n *Network) removeRules(_ context.Context, name string, a Attachment, ports []PortMap) error {
	if err := n.removeElements(name); err != nil {
		return err
	}
	return endConnections(name, a, ports)
}

// removeElements keeps others from changing a map while it is listed.
func (n *Network) removeElements(name string) error {
	unlock, err := n.lock()
	if err != nil {
		return err
	}
	defer unlock()
	held, err := n.elements()
	if err != nil {
		return err
	}
	conn := new(nftables.Conn)
	for m, elements := range held {
		own := slices.DeleteFunc(elements, func(e nftables.SetElement) bool { return e.Comment != name })
		if len(own) == 0 {
			continue
		}
		if err := conn.SetDeleteElements(n.nftMap(m), own); err != nil {
			return err
		}
	}
	return conn.Flush()
}

// elements of each map; none when the table is not there.
func (n *Network) elements() (map[string][]nftables.SetElement, error) {
	there, err := n.hasTable()
	if err != nil || !there {
		return nil, err
	}
	conn, held := new(nftables.Conn), map[string][]nftables.SetElement{}
	for _, m := range []string{mapAny4, mapOne4, mapAny6, mapOne6} {
		if held[m], err = conn.GetSetElements(n.nftMap(m)); err != nil {
			return nil, fmt.Errorf("nftables map %s: %w", m, err)
		}
	}
	return held, nil
}

func (n *Network) hasTable() (bool, error) {
	tables, err := new(nftables.Conn).ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, fmt.Errorf("nftables is not usable: %w; load the kernel module nf_tables", err)
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == n.Anchor }), nil
}

func (n *Network) hostNames(_ context.Context) ([]string, error) {
	names, err := n.markedInterfaces()
	if err != nil {
		return nil, err
	}
	held, err := n.elements()
	if err != nil {
		return nil, err
	}
	for _, elements := range held {
		for _, e := range elements {
			names = append(names, e.Comment)
		}
	}
	return names, nil
}

// flowFilter decides which tracked connections are forgotten.
type flowFilter func(*netlink.ConntrackFlow) bool

func (f flowFilter) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool { return f(flow) }

// endConnections needs the address; without a reservation there is none. Of a
// task that shares its address it ends those to its ports.
func endConnections(name string, a Attachment, ports []PortMap) error {
	for family, ip := range map[netlink.InetFamily]netip.Addr{netlink.FAMILY_V4: a.IPv4, netlink.FAMILY_V6: a.IPv6} {
		if !ip.IsValid() {
			continue
		}
		ends := touches(ip.AsSlice())
		if a.shares(name) {
			ends = published(ip.AsSlice(), ports)
		}
		if err := forget(family, ends); err != nil {
			return err
		}
	}
	return nil
}

// published are the connections to ip that came by one of the host's ports.
func published(ip net.IP, ports []PortMap) flowFilter {
	return func(f *netlink.ConntrackFlow) bool {
		return f.Reverse.SrcIP.Equal(ip) && slices.ContainsFunc(ports, func(p PortMap) bool {
			return f.Forward.Protocol == protocolNumbers[p.Proto] && f.Forward.DstPort == p.HostPort && f.Reverse.SrcPort == p.TaskPort
		})
	}
}

func touches(ip net.IP) flowFilter {
	return func(f *netlink.ConntrackFlow) bool {
		for _, end := range []net.IP{f.Forward.SrcIP, f.Forward.DstIP, f.Reverse.SrcIP, f.Reverse.DstIP} {
			if end.Equal(ip) {
				return true
			}
		}
		return false
	}
}

// forgetUDP: somebody who sent to the port before it was the task's is
// remembered as talking to the host, for as long as they keep sending.
func forgetUDP(rs []redirect) error {
	ports := map[netlink.InetFamily]map[uint16]bool{netlink.FAMILY_V4: {}, netlink.FAMILY_V6: {}}
	for _, r := range rs {
		if r.Proto != "udp" {
			continue
		}
		family := netlink.InetFamily(netlink.FAMILY_V6)
		if r.Host.Is4() {
			family = netlink.FAMILY_V4
		}
		ports[family][r.HostPort] = true
	}
	for family, ports := range ports {
		if len(ports) == 0 {
			continue
		}
		err := forget(family, func(f *netlink.ConntrackFlow) bool {
			return f.Forward.Protocol == unix.IPPROTO_UDP && ports[f.Forward.DstPort]
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func forget(family netlink.InetFamily, f flowFilter) error {
	_, err := complete(func() (uint, error) {
		return netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, f)
	})
	return err
}

// complete asks again when the kernel says that its answer was not whole,
// because something changed meanwhile.
func complete[T any](ask func() (T, error)) (answer T, err error) {
	const attempts = 10
	for range attempts {
		answer, err = ask()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return answer, err
}
