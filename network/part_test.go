package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// faults are what Check finds wrong, a line each.
func faults(n *Network) string {
	var b strings.Builder
	for _, p := range n.Check(context.Background()) {
		if p.Err != nil {
			fmt.Fprintf(&b, "%s: %v\n", p.Name, p.Err)
		}
	}
	return b.String()
}

// TestVNET: a kernel without VNET does not know the sysctl, or says 0.
func TestVNET(t *testing.T) {
	if err := vnetError(1, nil); err != nil {
		t.Error(err)
	}
	const want = "the kernel has no VNET: run a GENERIC kernel, or build one with `options VIMAGE`"
	wantError(t, vnetError(0, nil), want)
	wantError(t, vnetError(0, errors.New("no such file or directory")), want)
}

func TestForwarding(t *testing.T) {
	for _, c := range []struct {
		subnet6  string
		ip4, ip6 uint32
		want     string
	}{
		{"", 1, 0, ""},
		{"fd12::/64", 1, 1, ""},
		{"", 0, 0, "the host does not forward packets for its jails: add gateway_enable=\"YES\" to /etc/rc.conf and run `sysctl net.inet.ip.forwarding=1`"},
		{"fd12::/64", 1, 0, "the host does not forward packets for its jails: add ipv6_gateway_enable=\"YES\" to /etc/rc.conf and run `sysctl net.inet6.ip6.forwarding=1`"},
		{"fd12::/64", 0, 0, "the host does not forward packets for its jails: add gateway_enable=\"YES\" and ipv6_gateway_enable=\"YES\" to /etc/rc.conf and run `sysctl net.inet.ip.forwarding=1 net.inet6.ip6.forwarding=1`"},
	} {
		n := newTestNetwork(t, func(config *Config) {
			config.Subnet6 = netip.Prefix{}
			if c.subnet6 != "" {
				config.Subnet6 = netip.MustParsePrefix(c.subnet6)
			}
		})
		err := n.forwardingError(func(name string) (uint32, error) {
			return map[string]uint32{"net.inet.ip.forwarding": c.ip4, "net.inet6.ip6.forwarding": c.ip6}[name], nil
		})
		if err != nil || c.want != "" {
			wantError(t, err, c.want)
		}
	}
}

func TestPfState(t *testing.T) {
	const off = "add pf_enable=\"YES\" to /etc/rc.conf and run `service pf start`"
	if err := errors.Join(pfLoadedError(true), pfEnabledError("Status: Enabled for 0 days 00:00:04           Debug: Urgent\n")); err != nil {
		t.Error(err)
	}
	wantError(t, pfLoadedError(false), "pf is not loaded: "+off+"; only then it can be seen whether /etc/pf.conf calls this driver's anchors")
	wantError(t, pfEnabledError("Status: Disabled                              Debug: Urgent\n"), "pf is not enabled: "+off)
}

func TestMissingAddresses(t *testing.T) {
	n := newTestNetwork(t, nil)
	own, own6 := n.gatewayPrefix(), n.gatewayPrefix6()
	if got := n.missingAddresses(bridge{}); len(got) != 2 || got[0] != own || got[1] != own6 {
		t.Errorf("a new bridge lacks %v", got)
	}
	if got := n.missingAddresses(bridge{Addresses: []netip.Prefix{own6, own}}); len(got) != 0 {
		t.Errorf("a bridge that has all lacks %v", got)
	}
}

func TestPrivileged(t *testing.T) {
	if err := privileged(0); err != nil {
		t.Error(err)
	}
	wantError(t, privileged(1001), "networking needs root: run the Nomad client as root")
}

// TestCheckOnlyLooks: before Prepare nothing is missing that it would make, and nothing is made.
func TestCheckOnlyLooks(t *testing.T) {
	newHost(t)
	n := newTestNetwork(t, nil)
	before := hostListing(t, n)
	if got := faults(n); got != "" {
		t.Errorf("before Prepare: %s", got)
	}
	wantSame(t, "Check", before, hostListing(t, n))
}
