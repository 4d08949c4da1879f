package network

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// echo answers each line or datagram, in the namespace, with the server's name
// and the client's address as the server sees it.
func echo(t testing.TB, ns, proto, server string, at uint16) {
	t.Helper()
	in(t, ns, func() {
		addr := ":" + strconv.Itoa(int(at))
		if proto == "udp" {
			pc, err := net.ListenPacket("udp", addr)
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { pc.Close() })
			go echoPackets(pc, server)
			return
		}
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go echoLines(c, server)
			}
		}()
	})
}

func echoPackets(pc net.PacketConn, server string) {
	b := make([]byte, 1500)
	for {
		n, from, err := pc.ReadFrom(b)
		if err != nil {
			return
		}
		fmt.Fprintf(&packetWriter{pc, from}, "%s %s %s", server, host(from), b[:n])
	}
}

type packetWriter struct {
	net.PacketConn
	to net.Addr
}

func (w *packetWriter) Write(b []byte) (int, error) { return w.WriteTo(b, w.to) }

func echoLines(c net.Conn, server string) {
	defer c.Close()
	s := bufio.NewScanner(c)
	for s.Scan() {
		fmt.Fprintf(c, "%s %s %s\n", server, host(c.RemoteAddr()), s.Text())
	}
}

func host(a net.Addr) string {
	ap, _ := netip.ParseAddrPort(a.String())
	return ap.Addr().Unmap().String()
}

// ask sends one line from the namespace and returns the answer.
func ask(t testing.TB, ns, proto, to string) (answer string, err error) {
	t.Helper()
	in(t, ns, func() {
		var c net.Conn
		if c, err = net.DialTimeout(proto, to, 2*time.Second); err != nil {
			return
		}
		defer c.Close()
		answer, err = say(c)
	})
	return answer, err
}

func say(c net.Conn) (string, error) {
	c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		return "", err
	}
	b := make([]byte, 200)
	k, err := c.Read(b)
	return strings.TrimSpace(string(b[:k])), err
}

func wantAnswer(t testing.TB, what, ns, proto, to, want string) {
	t.Helper()
	got, err := ask(t, ns, proto, to)
	if err != nil || got != want {
		t.Errorf("%s: %s %s: %q, %v; want %q", what, proto, to, got, err, want)
	}
}

func wantNoAnswer(t testing.TB, what, ns, proto, to string) {
	t.Helper()
	if got, err := ask(t, ns, proto, to); err == nil {
		t.Errorf("%s: %s %s answers %q", what, proto, to, got)
	}
}

func attach(t testing.TB, n *Network, i int, ports ...PortMap) (ns string, a Attachment) {
	t.Helper()
	req := request(i, ports...)
	req.Cell = newCell(t)
	a, err := n.Attach(context.Background(), req)
	if err != nil {
		t.Fatal(err)
	}
	return req.Cell, a
}

func detach(t testing.TB, n *Network, i int) {
	t.Helper()
	if err := n.Detach(context.Background(), taskN(i)); err != nil {
		t.Error(err)
	}
}

// TestReach: every way to a published port, with and without the bridge's
// packets going through the firewall (docker loads br_netfilter).
func TestReach(t *testing.T) {
	for _, filter := range []string{"0", "1"} {
		t.Run("br_netfilter="+filter, func(t *testing.T) {
			client := newHost(t)
			setBridgeFilter(t, filter)
			n := prepared(t, nil)
			web, a := attach(t, n, 1, port("tcp", "", 8080, 80), port("udp", "", 5300, 53), port("tcp", hostIPb, 8081, 80))
			other, b := attach(t, n, 2)
			echo(t, web, "tcp", "web", 80)
			echo(t, web, "udp", "web", 53)
			gw := a.Gateway.String()
			gw6 := n.plan.gateway6().String()
			for proto, at := range map[string]string{"tcp": "8080", "udp": "5300"} {
				to := func(ip string) string { return net.JoinHostPort(ip, at) }
				wantAnswer(t, "another host", client, proto, to(hostIP), "web "+clientIP+" hello")
				wantAnswer(t, "another host, IPv6", client, proto, to(hostIP6), "web "+clientIP6+" hello")
				wantAnswer(t, "the host, its address", "", proto, to(hostIP), "web "+hostIP+" hello")
				wantAnswer(t, "the host, its IPv6 address", "", proto, to(hostIP6), "web "+hostIP6+" hello")
				wantAnswer(t, "the host, 127.0.0.1", "", proto, to("127.0.0.1"), "web "+gw+" hello")
				if _, err := ask(t, "", proto, to("::1")); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("the host, ::1: %v, want it refused at once", err)
				}
				wantAnswer(t, "a jail", other, proto, to(hostIP), "web "+gw+" hello")
				wantAnswer(t, "a jail, the gateway's address", other, proto, to(gw), "web "+gw+" hello")
				wantAnswer(t, "a jail, IPv6", other, proto, to(hostIP6), "web "+gw6+" hello")
				wantAnswer(t, "the jail itself", web, proto, to(hostIP), "web "+gw+" hello")
				wantAnswer(t, "the jail itself, IPv6", web, proto, to(hostIP6), "web "+gw6+" hello")
			}
			wantAnswer(t, "directly", other, "tcp", net.JoinHostPort(a.IPv4.String(), "80"), "web "+b.IPv4.String()+" hello")
			wantAnswer(t, "directly, IPv6", other, "tcp", net.JoinHostPort(a.IPv6.String(), "80"), "web "+b.IPv6.String()+" hello")
			wantAnswer(t, "directly from the host", "", "tcp", net.JoinHostPort(a.IPv4.String(), "80"), "web "+gw+" hello")
			wantAnswer(t, "one address of the host", client, "tcp", hostIPb+":8081", "web "+clientIP+" hello")
			wantNoAnswer(t, "another address of the host", client, "tcp", hostIP+":8081")
			wantNoAnswer(t, "127.0.0.1, which was not asked for", "", "tcp", "127.0.0.1:8081")

			echo(t, client, "tcp", "client", 7)
			wantAnswer(t, "outgoing", web, "tcp", clientIP+":7", "client "+hostIP+" hello")
			wantAnswer(t, "outgoing, IPv6", web, "tcp", "["+clientIP6+"]:7", "client "+hostIP6+" hello")
		})
	}
}

func setBridgeFilter(t testing.TB, value string) {
	t.Helper()
	for _, f := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables"} {
		if err := os.WriteFile("/proc/sys/net/bridge/"+f, []byte(value), 0); err != nil && value == "1" {
			t.Skip("this kernel has no br_netfilter; a Linux host with docker does")
		}
	}
}

// TestKeptOut: what a jail or a neighbour may not reach.
func TestKeptOut(t *testing.T) {
	client := newHost(t)
	n := prepared(t, nil)
	web, a := attach(t, n, 1, port("tcp", "127.0.0.1", 8080, 80))
	echo(t, web, "tcp", "web", 80)
	echo(t, "", "tcp", "host", 9000)
	wantAnswer(t, "127.0.0.1 only", "", "tcp", "127.0.0.1:8080", "web "+a.Gateway.String()+" hello")
	wantNoAnswer(t, "127.0.0.1 only, from elsewhere", client, "tcp", hostIP+":8080")

	in(t, client, func() {
		ip(t, "route add "+n.Subnet.String()+" via "+hostIP)
		ip(t, "route add "+n.Subnet6.String()+" via "+hostIP6)
		os.WriteFile("/proc/sys/net/ipv4/conf/up0/route_localnet", []byte("1"), 0)
		ip(t, "addr del 127.0.0.1/8 dev lo")
		ip(t, "route add 127.0.0.1/32 via "+hostIP+" src "+clientIP)
	})
	wantNoAnswer(t, "an unpublished port by way of the host", client, "tcp", a.IPv4.String()+":80")
	wantNoAnswer(t, "an unpublished port by way of the host", client, "tcp", "["+a.IPv6.String()+"]:80")
	wantNoAnswer(t, "a neighbour that routes 127.0.0.1 here", client, "tcp", "127.0.0.1:8080")

	in(t, web, func() {
		os.WriteFile("/proc/sys/net/ipv4/conf/eth0/route_localnet", []byte("1"), 0)
		ip(t, "addr del 127.0.0.1/8 dev lo")
		ip(t, "route add 127.0.0.1/32 via "+a.Gateway.String()+" src "+a.IPv4.String())
		ip(t, "addr add 192.0.2.77/32 dev eth0")
	})
	wantNoAnswer(t, "the host's loopback from a jail", web, "tcp", "127.0.0.1:9000")
	wantAnswer(t, "the host from a jail", web, "tcp", a.Gateway.String()+":9000", "host "+a.IPv4.String()+" hello")
	wantHeard(t, web, a.IPv4.String(), a.Gateway.String(), true)
	wantHeard(t, web, "192.0.2.77", a.Gateway.String(), false) // another's address
}

// wantHeard tells whether the host hears what the jail says from an address.
func wantHeard(t testing.TB, jail, from, to string, want bool) {
	t.Helper()
	pc, err := net.ListenPacket("udp4", to+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	in(t, jail, func() {
		c, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.ParseIP(from)}, pc.LocalAddr().(*net.UDPAddr))
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		c.Write([]byte("hello"))
	})
	pc.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	if _, _, err := pc.ReadFrom(make([]byte, 10)); (err == nil) != want {
		t.Errorf("the host hears a jail that speaks as %s: %v, want %v", from, err == nil, want)
	}
}

// TestDetach: connections end, the port is free, nothing is left.
func TestDetach(t *testing.T) {
	client := newHost(t)
	n := prepared(t, nil)
	before := listing(t, n)
	for round := range 2 {
		web, a := attach(t, n, 1, port("tcp", "", 8080, 80), port("udp", "", 5300, 53))
		echo(t, web, "tcp", "web", 80)
		echo(t, web, "udp", "web", 53)
		conns := map[string]net.Conn{}
		dial := func(ns, proto, to string) {
			in(t, ns, func() {
				c, err := net.DialTimeout(proto, to, 2*time.Second)
				if err != nil {
					t.Fatalf("round %d: %v", round, err)
				}
				t.Cleanup(func() { c.Close() })
				conns[proto+to] = c
			})
		}
		dial(client, "tcp", hostIP+":8080")
		dial("", "tcp", "127.0.0.1:8080")
		dial(client, "udp", hostIP+":5300")
		for what, c := range conns {
			if _, err := say(c); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		if found, ok, err := n.Find(taskN(1)); err != nil || !ok || found != a {
			t.Errorf("Find: %+v, %v, %v; want %+v", found, ok, err, a)
		}
		if names, err := n.List(context.Background()); err != nil || len(names) != 1 || names[0] != taskN(1) {
			t.Errorf("List: %v, %v", names, err)
		}
		detach(t, n, 1)
		detach(t, n, 1)
		for what, c := range conns {
			if got, err := say(c); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s after Detach: %q, %v; want it to have ended", what, got, err)
			}
		}
		if after := listing(t, n); after != before {
			t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
		}
		wantNoFlows(t, a)
		if _, ok, err := n.Find(taskN(1)); ok || err != nil {
			t.Errorf("Find after Detach: %v, %v", ok, err)
		}
		if names, err := n.List(context.Background()); err != nil || len(names) != 0 {
			t.Errorf("List after Detach: %v, %v", names, err)
		}
	}
}

func wantNoFlows(t testing.TB, a Attachment) {
	t.Helper()
	flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range flows {
		if touches(a.IPv4.AsSlice())(f) {
			t.Errorf("connection left: %s", f)
		}
	}
}

// TestOthersUntouched: one task's coming and going does not disturb another's
// connection.
func TestOthersUntouched(t *testing.T) {
	client := newHost(t)
	n := prepared(t, nil)
	web, _ := attach(t, n, 1, port("tcp", "", 8080, 80))
	echo(t, web, "tcp", "web", 80)
	var c net.Conn
	in(t, client, func() {
		var err error
		if c, err = net.Dial("tcp", hostIP+":8080"); err != nil {
			t.Fatal(err)
		}
	})
	defer c.Close()
	for range 3 {
		attach(t, n, 2, port("tcp", "", 8081, 80))
		if err := n.Prepare(context.Background()); err != nil {
			t.Error(err)
		}
		detach(t, n, 2)
		if _, err := say(c); err != nil {
			t.Fatal(err)
		}
	}
}

// TestUDPBefore: somebody who sent before the port was published gets through.
func TestUDPBefore(t *testing.T) {
	client := newHost(t)
	n := prepared(t, nil)
	var c net.Conn
	in(t, client, func() {
		var err error
		if c, err = net.Dial("udp", hostIP+":5300"); err != nil {
			t.Fatal(err)
		}
	})
	defer c.Close()
	say(c)
	web, _ := attach(t, n, 1, port("udp", "", 5300, 53))
	echo(t, web, "udp", "web", 53)
	got, err := say(c)
	if err != nil || got != "web "+clientIP+" hello" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestHalf: what an Attach leaves that was killed at any step, and what a jail
// leaves that died, is listed and goes.
func TestHalf(t *testing.T) {
	newHost(t)
	n := prepared(t, nil)
	before := listing(t, n)
	ctx := context.Background()
	for steps := 1; steps <= 3; steps++ {
		req := request(steps, port("tcp", "", 8080, 80))
		req.Cell = newCell(t)
		a, err := n.reserve(req)
		if err != nil {
			t.Fatal(err)
		}
		if steps >= 2 {
			if err := n.connect(ctx, req, a); err != nil {
				t.Fatal(err)
			}
		}
		if steps >= 3 {
			if err := n.publish(ctx, req, a); err != nil {
				t.Fatal(err)
			}
			ip(t, "link del "+a.Interface) // the jail died
		}
		if names, err := n.List(ctx); err != nil || len(names) != 1 {
			t.Errorf("after step %d: List %v, %v", steps, names, err)
		}
		if _, err := n.Attach(ctx, req); err == nil || err.Error() != "task "+req.Name+" is already attached: detach it first" {
			t.Errorf("after step %d: Attach again: %v", steps, err)
		}
		detach(t, n, steps)
		if after := listing(t, n); after != before {
			t.Errorf("after step %d, left behind:\n%s\nbefore:\n%s", steps, after, before)
		}
	}
}

// TestLostState: interface and map elements alone are found and removed.
func TestLostState(t *testing.T) {
	newHost(t)
	n := prepared(t, nil)
	before := listing(t, n)
	attach(t, n, 1, port("tcp", "", 8080, 80))
	for _, d := range []string{addressDir, portDir} {
		if err := os.RemoveAll(filepath.Join(n.StateDir, d)); err != nil {
			t.Fatal(err)
		}
	}
	if names, err := n.List(context.Background()); err != nil || len(names) != 1 {
		t.Errorf("List: %v, %v", names, err)
	}
	detach(t, n, 1)
	os.Mkdir(filepath.Join(n.StateDir, addressDir), 0o700)
	if after := listing(t, n); after != before {
		t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
	}
}

// TestFailedAttach leaves nothing, whatever fails.
func TestFailedAttach(t *testing.T) {
	newHost(t)
	n := prepared(t, nil)
	attach(t, n, 1, port("tcp", "", 8080, 80))
	l, err := net.Listen("tcp", "127.0.0.1:2222")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := newCell(t)
	in(t, taken, func() { ip(t, "link add eth0 type bridge") })
	before := listing(t, n)
	for _, c := range []struct {
		cell string
		port PortMap
		want string
	}{
		{newCell(t), port("tcp", "", 8080, 443), `port "http": task nj000000000002 cannot have host port 8080/tcp for its port 443, because task nj000000000001 has it for its port 80`},
		{newCell(t), port("tcp", "", 2222, 22), `port "http": a process on the host already uses port 2222/tcp`},
		{newCell(t), port("tcp", "198.51.100.9", 80, 80), `port "http": the host has no address 198.51.100.9`},
		{"/nowhere", port("tcp", "", 8082, 80), `interface nj000000000002a: network namespace /nowhere: no such file or directory`},
		{taken, port("tcp", "", 8082, 80), `interface nj000000000002a: file exists`},
	} {
		req := request(2, c.port)
		req.Cell = c.cell
		_, err := n.Attach(context.Background(), req)
		wantError(t, err, c.want)
		if after := listing(t, n); after != before {
			t.Errorf("%s: left behind:\n%s\nbefore:\n%s", c.want, after, before)
		}
	}
	stopped, stop := context.WithCancel(context.Background())
	stop()
	req := request(2)
	req.Cell = newCell(t)
	if _, err := n.Attach(stopped, req); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if after := listing(t, n); after != before {
		t.Errorf("cancelled: left behind:\n%s\nbefore:\n%s", after, before)
	}
}

// TestFlushedRuleset: an operator's `nft flush ruleset` does not cost the
// tasks their ports for longer than until the next Prepare or Attach.
func TestFlushedRuleset(t *testing.T) {
	client := newHost(t)
	n := prepared(t, nil)
	web, _ := attach(t, n, 1, port("tcp", "", 8080, 80), port("tcp", hostIPb, 8081, 80))
	echo(t, web, "tcp", "web", 80)
	rules := nft(t, "list", "ruleset")
	for what, heal := range map[string]func() error{
		"Prepare": func() error { return n.Prepare(context.Background()) },
		"Attach": func() error {
			attach(t, n, 2, port("tcp", "", 9999, 80))
			return n.Detach(context.Background(), taskN(2))
		},
	} {
		nft(t, "flush", "ruleset")
		if err := n.Check(context.Background()); err == nil || !strings.Contains(err.Error(), "somebody flushed the ruleset") {
			t.Errorf("Check: %v", err)
		}
		if err := heal(); err != nil {
			t.Error(err)
		}
		if got := nft(t, "list", "ruleset"); got != rules {
			t.Errorf("%s:\n%s\nwant:\n%s", what, got, rules)
		}
		wantAnswer(t, what, client, "tcp", hostIP+":8080", "web "+clientIP+" hello")
		wantAnswer(t, what, client, "tcp", hostIPb+":8081", "web "+clientIP+" hello")
	}
}

// TestReboot: reservations of before a reboot are listed and go; interfaces
// and rules are gone already.
func TestReboot(t *testing.T) {
	newHost(t)
	n := newTestNetwork(t, nil)
	ctx := context.Background()
	if _, err := n.reserve(request(1, port("tcp", "", 8080, 80))); err != nil {
		t.Fatal(err)
	}
	if names, err := n.List(ctx); err != nil || len(names) != 1 {
		t.Errorf("List before Prepare: %v, %v", names, err)
	}
	detach(t, n, 1)
	if names, err := n.List(ctx); err != nil || len(names) != 0 {
		t.Errorf("List: %v, %v", names, err)
	}
}

// TestPrepareAtOnce: any number of processes may prepare the host.
func TestPrepareAtOnce(t *testing.T) {
	newHost(t)
	var wg sync.WaitGroup
	nets := []*Network{prepared(t, nil)}
	for range 8 {
		nets = append(nets, newTestNetwork(t, nil)) // each with its own state folder, so its own lock
	}
	for _, n := range nets {
		wg.Go(func() {
			if err := n.Prepare(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if rules := nft(t, "list", "table", "inet", nets[0].Anchor); strings.Count(rules, "@any4") != 1 {
		t.Errorf("rules are doubled:\n%s", rules)
	}
	if err := nets[0].Check(context.Background()); err != nil {
		t.Error(err)
	}
}

// TestPrepareRefuses: a bridge or subnet that is somebody else's.
func TestPrepareRefuses(t *testing.T) {
	newHost(t)
	for _, c := range []struct {
		make, undo []string
		want       string
	}{
		{
			[]string{"link add docker0 type bridge", "addr add 10.209.7.1/24 dev docker0"}, []string{"link del docker0"},
			"subnet 10.209.0.0/16 is already used by interface docker0 (10.209.7.1/24): give the plugin another one",
		},
		{
			[]string{"route add 10.209.8.0/24 via " + clientIP}, []string{"route del 10.209.8.0/24"},
			"subnet 10.209.0.0/16 is already used by interface up0 (10.209.8.0/24): give the plugin another one",
		},
		{
			[]string{"link add njail0 type bridge", "addr add 172.17.0.1/16 dev njail0"}, []string{"link del njail0"},
			"bridge njail0 is already used by something else (its address 172.17.0.1/16): give the plugin another name",
		},
		{
			[]string{"link add njail0 type veth peer name njail1"}, []string{"link del njail0"},
			"bridge njail0 is already used by something else (a veth interface): give the plugin another name",
		},
	} {
		n := newTestNetwork(t, nil)
		for _, args := range c.make {
			ip(t, args)
		}
		before := listing(t, n)
		wantError(t, n.Prepare(context.Background()), c.want)
		if after := listing(t, n); strings.Split(after, n.StateDir)[0] != strings.Split(before, n.StateDir)[0] {
			t.Errorf("a refused Prepare changed the host:\n%s\nbefore:\n%s", after, before)
		}
		for _, args := range c.undo {
			ip(t, args)
		}
	}
}

// TestPrepareAdopts: the operator's own bridge, and ours of a former subnet.
func TestPrepareAdopts(t *testing.T) {
	newHost(t)
	ip(t, "link add njail0 type bridge")
	ip(t, "addr add 10.209.0.1/16 dev njail0")
	prepared(t, nil)
	ip(t, "link set njail0 alias nomad-driver-jail")
	n := newTestNetwork(t, func(c *Config) { c.Subnet = netip.MustParsePrefix("10.77.0.0/16") })
	if err := n.Prepare(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := ip(t, "addr show dev njail0"); strings.Contains(got, "10.209.0.1") || !strings.Contains(got, "10.77.0.1/16") {
		t.Error(got)
	}
}

// TestUplinkMTU: jails do not send larger packets than the way out carries.
func TestUplinkMTU(t *testing.T) {
	newHost(t)
	ip(t, "link set up0 mtu 1400")
	ip(t, "route add default via "+clientIP)
	n := prepared(t, nil)
	web, a := attach(t, n, 1)
	in(t, web, func() {
		if got := ip(t, "link show dev eth0"); !strings.Contains(got, "mtu 1400") {
			t.Error(got)
		}
		mac := hardwareAddr(a.IPv4, 'b').String()
		if got := ip(t, "link show dev eth0"); !strings.Contains(got, mac) {
			t.Errorf("%s has not %s", got, mac)
		}
	})
	if got := ip(t, "link show dev "+a.Interface); !strings.Contains(got, "alias nomad-driver-jail alloc/task") {
		t.Error(got)
	}
}

// TestAddressAgain: a new task with a former one's address is reached at once
// by those who knew the former.
func TestAddressAgain(t *testing.T) {
	newHost(t)
	n := prepared(t, func(c *Config) { c.Subnet = netip.MustParsePrefix("10.209.0.0/29") })
	other, _ := attach(t, n, 1)
	var first Attachment
	for i := 2; i < 4; i++ {
		name := taskN(i)
		for n.plan.candidate(name, 0) == n.plan.candidate(taskN(1), 0) {
			t.Skip("the names' addresses collide")
		}
		web, a := attach(t, n, i)
		if i == 2 {
			first = a
		}
		echo(t, web, "tcp", name, 80)
		start := time.Now()
		for _, from := range []string{"", other} {
			if got, err := ask(t, from, "tcp", a.IPv4.String()+":80"); err != nil || !strings.HasPrefix(got, name) {
				t.Errorf("%s: %q, %v", name, got, err)
			}
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("%s (formerly %s) was reached after %v", a.IPv4, first.IPv4, d)
		}
		detach(t, n, i)
	}
}

func TestAttachAtOnce(t *testing.T) {
	client := newHost(t)
	n := prepared(t, nil)
	before := listing(t, n)
	const tasks = 20
	cells := make([]string, tasks)
	for i := range cells {
		cells[i] = newCell(t)
		echo(t, cells[i], "tcp", taskN(i), 80)
	}
	var wg sync.WaitGroup
	start := time.Now()
	for i := range tasks {
		wg.Go(func() {
			req := request(i, port("tcp", "", uint16(8000+i), 80))
			req.Cell = cells[i]
			if _, err := n.Attach(context.Background(), req); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	t.Logf("%d attached at once in %v", tasks, time.Since(start))
	for i := range tasks {
		wantAnswer(t, "at once", client, "tcp", fmt.Sprintf("%s:%d", hostIP, 8000+i), taskN(i)+" "+clientIP+" hello")
	}
	start = time.Now()
	for i := range tasks {
		wg.Go(func() {
			if err := n.Detach(context.Background(), taskN(i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	t.Logf("%d detached at once in %v", tasks, time.Since(start))
	if after := listing(t, n); after != before {
		t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
	}
}

func BenchmarkAttachDetach(b *testing.B) {
	newHost(b)
	n := prepared(b, nil)
	cell := newCell(b)
	ctx := context.Background()
	var attaching, detaching time.Duration
	for b.Loop() {
		req := request(1, port("tcp", "", 8080, 80))
		req.Cell = cell
		start := time.Now()
		if _, err := n.Attach(ctx, req); err != nil {
			b.Fatal(err)
		}
		middle := time.Now()
		if err := n.Detach(ctx, req.Name); err != nil {
			b.Fatal(err)
		}
		attaching += middle.Sub(start)
		detaching += time.Since(middle)
	}
	b.ReportMetric(float64(attaching.Microseconds())/float64(b.N), "µs/attach")
	b.ReportMetric(float64(detaching.Microseconds())/float64(b.N), "µs/detach")
}
