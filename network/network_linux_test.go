package network

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// TestReach also has the bridge's packets go through the firewall, as they do
// where docker has loaded br_netfilter.
func TestReach(t *testing.T) {
	for _, filter := range []string{"0", "1"} {
		t.Run("br_netfilter="+filter, func(t *testing.T) {
			client := newHost(t)
			setBridgeFilter(t, filter)
			reach(t, client)
		})
	}
}

// TestLoopback6: the kernel cannot lead ::1 to a jail.
func TestLoopback6(t *testing.T) {
	newHost(t)
	n := prepared(t, nil)
	attach(t, n, 1, port("tcp", "", 8080, 80))
	if _, err := ask(t, nil, "tcp", "[::1]:8080"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%v, want it refused at once", err)
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
	web.serve(t, "tcp", "web", 80)
	(*cell)(nil).serve(t, "tcp", "host", 9000)
	wantAnswer(t, "127.0.0.1 only", nil, "tcp", "127.0.0.1:8080", "web "+a.Gateway.String()+" hello")
	wantNoAnswer(t, "127.0.0.1 only, from elsewhere", client, "tcp", hostIP+":8080")

	client.in(t, func() {
		ip(t, "route add "+n.Subnet.String()+" via "+hostIP)
		ip(t, "route add "+n.Subnet6.String()+" via "+hostIP6)
		os.WriteFile("/proc/sys/net/ipv4/conf/up0/route_localnet", []byte("1"), 0)
		ip(t, "addr del 127.0.0.1/8 dev lo")
		ip(t, "route add 127.0.0.1/32 via "+hostIP+" src "+clientIP)
	})
	wantNoAnswer(t, "an unpublished port by way of the host", client, "tcp", a.IPv4.String()+":80")
	wantNoAnswer(t, "an unpublished port by way of the host", client, "tcp", "["+a.IPv6.String()+"]:80")
	wantNoAnswer(t, "a neighbour that routes 127.0.0.1 here", client, "tcp", "127.0.0.1:8080")

	web.in(t, func() {
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

// tell has the jail send something by UDP from one of its addresses.
func (c *cell) tell(t testing.TB, from, to string) {
	t.Helper()
	c.in(t, func() {
		d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(from)}}
		conn, err := d.Dial("udp4", to)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		conn.Write([]byte("hello"))
	})
}

// TestFlushedRuleset: an operator's `nft flush ruleset` does not cost the
// tasks their ports for longer than until the next Prepare or Attach.
func TestFlushedRuleset(t *testing.T) {
	client := newHost(t)
	n := prepared(t, nil)
	web, _ := attach(t, n, 1, port("tcp", "", 8080, 80), port("tcp", hostIPb, 8081, 80))
	web.serve(t, "tcp", "web", 80)
	rules := nft(t, "list", "ruleset")
	for what, heal := range map[string]func() error{
		"Prepare": func() error { return n.Prepare(context.Background()) },
		"Attach": func() error {
			attach(t, n, 2, port("tcp", "", 9999, 80))
			return n.Detach(context.Background(), taskN(2))
		},
	} {
		nft(t, "flush", "ruleset")
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
	if got := faults(nets[0]); got != "" {
		t.Error(got)
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
		before := hostListing(t, n)
		err := n.Prepare(context.Background())
		wantError(t, err, c.want)
		var fault *Fault
		if !errors.As(err, &fault) || faults(n) != fault.Part+": "+c.want+"\n" {
			t.Errorf("Check finds %s", faults(n))
		}
		wantSame(t, "a refused Prepare", before, hostListing(t, n))
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
	web.in(t, func() {
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
