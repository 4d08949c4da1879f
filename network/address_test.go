package network

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
)

// taskN is a valid task name.
func taskN(i int) string { return fmt.Sprintf("nj%012x", i) }

func newTestNetwork(t testing.TB, change func(*Config)) *Network {
	t.Helper()
	c := Config{
		Bridge:   "njail0",
		Subnet:   netip.MustParsePrefix("10.209.0.0/16"),
		Subnet6:  netip.MustParsePrefix("fd12:3456:789a::/64"),
		StateDir: shortTempDir(t),
		Anchor:   "nomad-driver-jail",
	}
	c.Forwarder = testForwarder()
	if change != nil {
		change(&c)
	}
	n, err := New(c, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// shortTempDir: a socket's path may have 104 bytes.
func shortTempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "nj")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case err == nil:
		t.Errorf("no error, want %q", want)
	case err.Error() != want:
		t.Errorf("error %q\n want %q", err, want)
	}
}

func TestNewRefuses(t *testing.T) {
	good := Config{Bridge: "njail0", Subnet: netip.MustParsePrefix("10.209.0.0/16"), StateDir: "/s", Anchor: "nomad-driver-jail"}
	for _, c := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.Bridge = "a-name-that-is-too-long" }, `bridge "a-name-that-is-too-long" is not an interface name: want at most 15 lower-case letters, digits and _`},
		{func(c *Config) { c.Anchor = "a/b" }, `anchor "a/b": want at most 48 lower-case letters, digits, _ and -`},
		{func(c *Config) { c.StateDir = "" }, `network: no state folder given`},
		{func(c *Config) { c.Subnet = netip.Prefix{} }, `subnet invalid Prefix: want an IPv4 network such as 10.209.0.0/16`},
		{func(c *Config) { c.Subnet = netip.MustParsePrefix("10.0.0.0/30") }, `subnet 10.0.0.0/30: want a prefix length from 8 to 29`},
		{func(c *Config) { c.Subnet6 = netip.MustParsePrefix("10.0.0.0/24") }, `subnet6 10.0.0.0/24: want an IPv6 network such as fd12:3456:789a::/64`},
		{func(c *Config) { c.Subnet6 = netip.MustParsePrefix("fd00::/96") }, `subnet6 fd00::/96: want a prefix length of at most 64`},
	} {
		config := good
		c.change(&config)
		_, err := New(config, hclog.NewNullLogger())
		wantError(t, err, c.want)
	}
}

func TestPlan(t *testing.T) {
	p, err := newPlan(netip.MustParsePrefix("10.209.7.99/24"), netip.MustParsePrefix("fd00:1::5/64"))
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(p.gateway(), " ", p.gateway6(), " ", p.size); got != "10.209.7.1 fd00:1::1 253" {
		t.Error(got)
	}
	seen := map[netip.Addr]bool{}
	for i := range p.size {
		a := p.candidate("nj3f0a1b2c4d5e", i)
		if !p.subnet.Contains(a) || a == p.gateway() || a == netip.MustParseAddr("10.209.7.0") || a == netip.MustParseAddr("10.209.7.255") {
			t.Errorf("candidate %d is %s", i, a)
		}
		seen[a] = true
	}
	if len(seen) != 253 {
		t.Errorf("%d candidates, want 253", len(seen))
	}
	if got := p.ipv6(netip.MustParseAddr("10.209.7.254")).String(); got != "fd00:1::fe" {
		t.Error(got)
	}
}

func TestNames(t *testing.T) {
	if got := hostEnd("nj3f0a1b2c4d5e"); got != "nj3f0a1b2c4d5ea" || len(got) > 15 {
		t.Error(got)
	}
	for iface, want := range map[string]bool{
		"nj3f0a1b2c4d5ea": true, "nj3f0a1b2c4d5eb": true,
		"nj3f0a1b2c4d5e": false, "nj3f0a1b2c4d5ec": false, "njail0": false, "eth0": false, "": false,
	} {
		if _, ok := taskOf(iface); ok != want {
			t.Errorf("taskOf(%q) = %v", iface, ok)
		}
	}
	a := netip.MustParseAddr("10.209.1.2")
	if got := hardwareAddr(a, 'a').String() + " " + hardwareAddr(a, 'b').String(); got != "02:61:0a:d1:01:02 02:62:0a:d1:01:02" {
		t.Error(got)
	}
	n := newTestNetwork(t, nil)
	if got := n.describe("web/server\n\x1b[2J"); got != "nomad-driver-jail web/server??[2J" {
		t.Errorf("%q", got)
	}
	if got := n.describe(strings.Repeat("x", 300)); len(got) != 255 {
		t.Errorf("description of %d bytes", len(got))
	}
}

func TestConflict(t *testing.T) {
	n := newTestNetwork(t, nil)
	for _, c := range []struct {
		use  inUse
		want string
	}{
		{inUse{"eth0", netip.MustParsePrefix("192.0.2.7/24"), false}, ""},
		{inUse{"njail0", netip.MustParsePrefix("10.209.0.1/16"), false}, ""},
		{inUse{"tun0", netip.MustParsePrefix("10.0.0.0/8"), true}, ""},
		{inUse{"tun0", netip.MustParsePrefix("10.209.0.0/16"), true}, "subnet 10.209.0.0/16 is already used by interface tun0 (10.209.0.0/16): give the plugin another one"},
		{inUse{"tun0", netip.MustParsePrefix("10.209.4.0/24"), true}, "subnet 10.209.0.0/16 is already used by interface tun0 (10.209.4.0/24): give the plugin another one"},
		{inUse{"eth0", netip.MustParsePrefix("10.1.2.3/8"), false}, "subnet 10.209.0.0/16 is already used by interface eth0 (10.1.2.3/8): give the plugin another one"},
		{inUse{"eth0", netip.MustParsePrefix("fd12:3456:789a::7/64"), false}, "subnet fd12:3456:789a::/64 is already used by interface eth0 (fd12:3456:789a::7/64): give the plugin another one"},
	} {
		if err := n.conflict([]inUse{c.use}); err != nil || c.want != "" {
			wantError(t, err, c.want)
		}
	}
}

func TestAdoptable(t *testing.T) {
	n := newTestNetwork(t, nil)
	own, other := netip.MustParsePrefix("10.209.0.1/16"), netip.MustParsePrefix("172.17.0.1/16")
	member := []string{taskN(1) + "a"}
	for _, c := range []struct {
		b    bridge
		want string
	}{
		{bridge{}, ""},
		{bridge{Addresses: []netip.Prefix{own, netip.MustParsePrefix("fe80::1/64")}, Members: member}, ""},
		{bridge{Marked: true, Addresses: []netip.Prefix{other}}, ""},
		{bridge{Addresses: []netip.Prefix{other}}, "bridge njail0 is already used by something else (its address 172.17.0.1/16): give the plugin another name"},
		{bridge{Members: []string{"vnet3"}}, "bridge njail0 is already used by something else (its member vnet3): give the plugin another name"},
		{bridge{Marked: true, Addresses: []netip.Prefix{other}, Members: member}, "bridge njail0 has tasks of the subnet of 172.17.0.1/16 on it: stop them before the subnet changes to 10.209.0.0/16"},
	} {
		if err := n.adoptable(c.b); err != nil || c.want != "" {
			wantError(t, err, c.want)
		}
	}
}
